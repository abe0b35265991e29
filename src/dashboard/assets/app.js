// What every page of the dashboard does in the browser: theme, menu, times in the reader's zone, copying, dialogs, forms that are sent once, and live
// events. Text from the server is only ever set as text; nothing here makes HTML of it.
(() => {
  const $ = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  /** An element with attributes and children; strings become text. */
  const make = (name, attributes = {}, ...children) => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) if (value !== null && value !== false) element.setAttribute(key, value === true ? "" : value);
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  };
  const icon = (name) => {
    const space = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(space, "svg");
    svg.setAttribute("class", "icon");
    svg.setAttribute("aria-hidden", "true");
    const use = document.createElementNS(space, "use");
    use.setAttribute("href", `/dashboard/assets/icons.svg#${name}`);
    svg.append(use);
    return svg;
  };
  /** Dollars as the pages show them (`money_text` in parts.rs): cents from a dollar on, up to four places below. The exact amount goes to a title. */
  const money = (exact) => {
    const value = Number(exact), size = Math.abs(value), sign = value < 0 ? "−" : "";
    if (value === 0) return "$0.00";
    if (size >= 0.99995) return `${sign}$${size.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 })}`;
    if (size < 0.00005) return `${sign}<$0.0001`;
    return `${sign}$${size.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: 4 })}`;
  };
  window.nimblesite = { $, all, make, icon, money };

  // ---- theme ----
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const toggle_theme = () => {
    const root = document.documentElement;
    const now = root.dataset.theme || (dark.matches ? "dark" : "light");
    const next = now === "dark" ? "light" : "dark";
    root.dataset.theme = next;
    try { localStorage.setItem("theme", next); } catch { /* a browser that keeps nothing: this page alone changes */ }
    document.dispatchEvent(new Event("themechange"));
  };
  dark.addEventListener("change", () => document.dispatchEvent(new Event("themechange")));

  // ---- times ----
  const FORMS = {
    short: { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" },
    full: { dateStyle: "medium", timeStyle: "medium", hourCycle: "h23" },
    date: { dateStyle: "medium" },
    clock: { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" },
  };
  const UNITS = [["year", 31536000], ["month", 2592000], ["week", 604800], ["day", 86400], ["hour", 3600], ["minute", 60]];
  const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto", style: "short" });
  const ago = (date) => {
    const seconds = (date - Date.now()) / 1000;
    const unit = UNITS.find(([, size]) => Math.abs(seconds) >= size);
    return unit ? relative.format(Math.round(seconds / unit[1]), unit[0]) : seconds > 0 ? "in a moment" : "just now";
  };
  const tell_times = (within) => {
    for (const element of all("time[data-time]", within)) {
      const date = new Date(element.dateTime);
      if (Number.isNaN(date.valueOf())) continue;
      const form = element.dataset.time;
      const format = new Intl.DateTimeFormat("en", { ...(FORMS[form] || FORMS.full) });
      element.textContent = form === "ago" ? ago(date) : format.format(date);
      element.title = new Intl.DateTimeFormat("en", { dateStyle: "full", timeStyle: "long", hourCycle: "h23" }).format(date);
    }
  };
  setInterval(() => all('time[data-time="ago"]').length && tell_times(document), 30000);

  // ---- sparklines ----
  const draw_sparks = (within) => {
    for (const element of all("[data-spark]:empty", within)) {
      const values = element.dataset.spark.split(",").map(Number);
      const top = Math.max(...values, 1e-12);
      const points = values.map((value, n) => `${((n * 100) / Math.max(values.length - 1, 1)).toFixed(1)},${(23 - (value / top) * 21).toFixed(1)}`);
      const space = "http://www.w3.org/2000/svg";
      const svg = document.createElementNS(space, "svg");
      svg.setAttribute("viewBox", "0 0 100 24");
      svg.setAttribute("preserveAspectRatio", "none");
      const line = document.createElementNS(space, "polyline");
      const looks = { points: points.join(" "), fill: "none", stroke: "currentColor", "stroke-width": "1.5", "vector-effect": "non-scaling-stroke" };
      for (const [key, value] of Object.entries(looks)) line.setAttribute(key, value);
      svg.append(line);
      element.append(svg);
    }
  };

  // ---- copying ----
  const copy = async (button) => {
    const source = document.getElementById(button.dataset.copy);
    await navigator.clipboard.writeText(button.dataset.copyText ?? source?.textContent ?? "");
    const use = $("use", button), label = $("span", button);
    const before = [use?.getAttribute("href"), label?.textContent];
    button.classList.add("copied");
    use?.setAttribute("href", "/dashboard/assets/icons.svg#check");
    if (label) label.textContent = "Copied";
    setTimeout(() => {
      button.classList.remove("copied");
      use?.setAttribute("href", before[0]);
      if (label) label.textContent = before[1];
    }, 1600);
  };

  // ---- dialogs ----
  const ask = (form, submitter) => {
    const { confirm, confirmTitle, confirmLabel, confirmWord } = form.dataset;
    const go = make("button", { class: "button danger", value: "yes" }, confirmLabel || submitter?.textContent.trim() || "Go on");
    const word = confirmWord ? make("input", { id: "confirm-word", autocomplete: "off", spellcheck: "false" }) : null;
    const field = word && make("div", { class: "field" }, make("label", { for: "confirm-word" }, "Type ", make("strong", {}, confirmWord), " to go on"), word);
    const dialog = make("dialog", { class: "dialog", "aria-labelledby": "confirm-title" },
      make("form", { method: "dialog", class: "form" },
        make("h2", { id: "confirm-title" }, confirmTitle || "Are you sure?"), make("p", {}, confirm), field,
        make("div", { class: "form-foot" }, make("button", { class: "button", value: "no", formnovalidate: true }, "Cancel"), go)));
    if (word) {
      go.disabled = true;
      word.addEventListener("input", () => { go.disabled = word.value !== confirmWord; });
    }
    dialog.addEventListener("close", () => {
      dialog.remove();
      if (dialog.returnValue !== "yes") return submitter?.focus();
      const typed = confirmWord && form.elements.namedItem("confirm");
      if (typed) typed.value = confirmWord;
      form.dataset.confirmed = "yes";
      form.requestSubmit(submitter);
    });
    document.body.append(dialog);
    dialog.showModal();
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button, a");
    if (event.target instanceof HTMLDialogElement && event.target.classList.contains("dialog")) return event.target.close();
    for (const open of all("details.chooser[open]")) if (!open.contains(event.target)) open.open = false;
    if (!button) return;
    if ("themeToggle" in button.dataset) toggle_theme();
    else if ("copy" in button.dataset || "copyText" in button.dataset) copy(button);
    else if ("open" in button.dataset) document.getElementById(button.dataset.open)?.showModal();
    else if ("close" in button.dataset) button.closest("dialog")?.close();
    else if ("remove" in button.dataset) {
      const form = button.form || button.closest("form");
      button.closest(button.dataset.remove)?.remove();
      form?.dispatchEvent(new Event("change", { bubbles: true }));
    } else if ("menu" in button.dataset) button.setAttribute("aria-expanded", String(button.getAttribute("aria-expanded") !== "true"));
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    for (const open of all("details.chooser[open]")) { open.open = false; $("summary", open).focus(); }
    $('.menu-button[aria-expanded="true"]')?.setAttribute("aria-expanded", "false");
  });

  // ---- forms: asked first where that matters, and sent once ----
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.method !== "post" && !form.hasAttribute("hx-post") && !form.hasAttribute("hx-delete")) return;
    const stop = () => { event.preventDefault(); event.stopImmediatePropagation(); };
    if (form.dataset.confirm && form.dataset.confirmed !== "yes") { stop(); return ask(form, event.submitter); }
    if (form.dataset.sent) return stop();
    form.dataset.sent = "yes";
    form.setAttribute("aria-busy", "true");
  }, true);
  const may_be_sent_again = (form) => { delete form.dataset.sent; delete form.dataset.confirmed; form.removeAttribute("aria-busy"); };
  document.addEventListener("htmx:afterRequest", (event) => event.target instanceof HTMLFormElement && may_be_sent_again(event.target));
  window.addEventListener("pageshow", (event) => event.persisted && all("form[data-sent]").forEach(may_be_sent_again));

  // ---- errors of htmx requests are fragments that say what to do: they are shown where the answer would have been ----
  document.addEventListener("htmx:beforeSwap", (event) => {
    if (event.detail.xhr.status < 400) return;
    event.detail.shouldSwap = true;
    event.detail.isError = false;
  });

  // ---- live events: each wakes its element at most once a second; htmx fetches what changed ----
  const followed = new Map();
  const follow = (element) => {
    const source = new EventSource(element.dataset.live);
    followed.set(element, source);
    const state = (name) => {
      const shown = $("[data-live-state]");
      if (shown) { shown.dataset.liveState = name; shown.textContent = name === "open" ? "Live" : "Reconnecting"; }
    };
    let waiting = null;
    source.addEventListener("open", () => state("open"));
    source.addEventListener("error", () => state("lost"));
    source.addEventListener(element.dataset.liveEvent || "message", () => {
      waiting ??= setTimeout(() => { waiting = null; window.htmx?.trigger(element, "live"); }, 1000);
    });
  };
  const leave = () => { for (const source of followed.values()) source.close(); followed.clear(); };
  window.addEventListener("pagehide", leave);
  window.addEventListener("pageshow", (event) => event.persisted && all("[data-live]").forEach(follow));

  const look_at = (element) => {
    tell_times(element);
    draw_sparks(element);
    // What was swapped out is not followed any more; what came in its place is.
    for (const [gone, source] of followed) if (!gone.isConnected) { source.close(); followed.delete(gone); }
    for (const live of all("[data-live]")) if (!followed.has(live)) follow(live);
    document.dispatchEvent(new CustomEvent("arrived", { detail: element }));
  };
  const start = () => { look_at(document.body); document.addEventListener("htmx:load", (event) => event.target !== document.body && look_at(event.target)); };
  document.addEventListener("DOMContentLoaded", start); // after the other deferred scripts of the page
})();
