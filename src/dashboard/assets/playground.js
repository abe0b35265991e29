// The playground: one conversation with one agent, by the same calls that an app makes. Answers arrive as events; a tool call becomes a card in which a
// person types what the tool would have said. Each send has an idempotency key of its own, kept for the next try if the network fails, so that no answer
// is paid for twice.
(() => {
  const { $, all, make, icon, money } = window.nimblesite;
  const root = $("[data-playground]");
  if (!root) return;
  const csrf = $('meta[name="csrf-token"]')?.content || "";
  const log = $("[data-transcript]", root), composer = $("[data-composer]", root), facts = $("[data-turn-facts]");
  const box = $("textarea", composer), send_button = $("[data-send]", composer), stop_button = $("[data-stop]", composer);
  const count = new Intl.NumberFormat("en");
  const fresh = () => ({ conversation: null, calls: new Map(), turn: null, busy: false, turns: 0, input: 0, output: 0, cost: 0n });
  let state = fresh();

  const api = (path, options = {}) => fetch(path, { ...options, headers: { "X-CSRF-Token": csrf, ...options.headers } });
  const nanos = (text) => { const [whole, part = ""] = text.split("."); return BigInt(whole + part.padEnd(9, "0")); };
  const dollars = (amount) => `${amount / 1000000000n}.${String(amount % 1000000000n).padStart(9, "0")}`;
  const shown = (value) => (typeof value === "string" ? value : JSON.stringify(value, null, 2));
  const price = (exact) => make("span", { class: "money", title: `$${exact}` }, money(exact));

  // ---- what is said ----
  let resuming = false; // what was said earlier does not move the page
  const show = (item) => { if (!resuming) item.scrollIntoView({ block: "nearest" }); };
  const entry = (kind, who, text, at = new Date()) => {
    const clock = new Intl.DateTimeFormat("en", { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
    const body = make("div", { class: "turn-body" }, text ?? "");
    const item = make("li", { class: `turn ${kind}` },
      make("div", { class: "turn-head" }, make("span", { class: "turn-who" }, who), make("time", { datetime: at.toISOString() }, clock.format(at))), body);
    log.append(item);
    show(item);
    return { item, body };
  };
  const foot = (item, usage, cost, version) => {
    if (!usage) return;
    const parts = [`${count.format(usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens)} in`, `${count.format(usage.output_tokens)} out`];
    item.append(make("div", { class: "turn-foot" }, ...parts.map((part) => make("span", {}, part)), cost && price(cost), version && make("span", {}, `version ${version}`)));
  };
  const part = (title, value) => make("div", { class: "tool-part" }, make("h4", {}, title), make("pre", { class: "code", tabindex: "0" }, shown(value)));

  const card = (call, item) => {
    const state_badge = make("span", { class: "badge warn" }, "waits for you");
    const result = make("textarea", { id: `result-${call.id}`, class: "mono", rows: "3", spellcheck: "false", "data-result": call.id, placeholder: "What the tool answered: text or JSON" });
    const failed = make("input", { type: "checkbox" });
    const form = make("div", { class: "tool-part" }, make("label", { for: result.id }, "Result"), result,
      make("div", { class: "row tool-send" }, make("label", { class: "check" }, failed, "The tool failed")));
    const details = make("details", { class: "tool", open: true },
      make("summary", {}, icon("tool"), make("code", {}, call.name), state_badge), part("Arguments", call.arguments), form);
    item.append(details);
    state.calls.set(call.id, { call, details, form, result, failed, badge: state_badge });
  };
  const answered = (open, content, ok) => {
    open.form.replaceWith(part("Result", content));
    open.badge.className = `badge ${ok ? "ok" : "bad"}`;
    open.badge.textContent = ok ? "answered" : "failed";
    open.details.open = false;
  };
  /** One button for all open calls, in the last card: they are answered together or not at all. */
  const offer_results = () => {
    const last = [...state.calls.values()].pop();
    if (!last) return;
    const button = make("button", { type: "button", class: "button small primary", "data-send-results": true }, state.calls.size > 1 ? "Send all results" : "Send result");
    button.addEventListener("click", send_results);
    $(".tool-send", last.form).prepend(button);
    box.placeholder = "Answer the tool call above, or write a message to cancel it";
    state.calls.values().next().value.result.focus({ preventScroll: resuming });
  };

  const show_facts = (last) => {
    if (!facts) return;
    const row = (name, ...value) => make("div", {}, make("dt", {}, name), make("dd", {}, ...value));
    const rows = [
      row("Turns", count.format(state.turns)), row("Tokens", `${count.format(state.input)} in · ${count.format(state.output)} out`), row("Cost", price(dollars(state.cost))),
      last?.model && row("Model", `${last.model.provider}/${last.model.model}`), last?.balance && row("Balance", price(last.balance)),
      state.conversation && row("Conversation", make("a", { href: `/dashboard/conversations/${state.conversation}` }, "Open")),
    ];
    facts.replaceChildren(...rows.filter(Boolean));
  };
  const add_up = (usage, cost) => {
    state.turns += 1;
    if (usage) { state.input += usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens; state.output += usage.output_tokens; }
    if (cost) state.cost += nanos(cost);
  };

  const complain = (problem, again) => {
    const notice = make("div", { class: "notice bad", role: "alert" }, icon("alert"), make("div", {},
      make("p", {}, make("strong", {}, problem.title || "That did not work"), ". ", problem.detail || ""), problem.request_id && make("p", { class: "muted" }, "Request ", make("code", {}, problem.request_id))));
    if (again) {
      const button = make("button", { type: "button", class: "button small" }, "Try again");
      button.addEventListener("click", () => { item.remove(); again(); });
      notice.append(button);
    }
    const item = make("li", { class: "turn" }, notice);
    log.append(item);
    item.scrollIntoView({ block: "nearest" });
  };

  // ---- one send ----
  const busy = (is) => {
    state.busy = is;
    send_button.disabled = is;
    if (stop_button) stop_button.hidden = !is;
    all("[data-send-results]", log).forEach((button) => { button.disabled = is; });
  };

  /** The events of a stream (the HTML standard's rules, as far as this server writes them). */
  async function* events(response) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      text += value;
      for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
        const lines = text.slice(0, end).split("\n").filter((line) => !line.startsWith(":"));
        const field = (name) => lines.filter((line) => line.startsWith(`${name}:`)).map((line) => line.slice(name.length + 1).replace(/^ /, "")).join("\n");
        if (field("data")) yield { name: field("event") || "message", data: JSON.parse(field("data")) };
      }
    }
  }

  const turn = async (body, key) => {
    if (state.busy) return;
    busy(true);
    const mine = state;
    const answer = entry("assistant busy", root.dataset.name || "Agent");
    try {
      const response = await api(root.dataset.chat, { method: "POST", body: JSON.stringify(body), headers: { Accept: "text/event-stream", "Content-Type": "application/json", "Idempotency-Key": key } });
      if (!response.ok) throw await response.json();
      for await (const { name, data } of events(response)) {
        if (mine !== state) return;
        if (name === "turn.started") {
          state.turn = data.turn_id;
          state.conversation = data.conversation_id;
          history.replaceState(null, "", `?conversation=${data.conversation_id}`);
        } else if (name === "message.delta") {
          answer.body.append(data.text);
          answer.item.scrollIntoView({ block: "nearest" });
        } else if (name === "error") throw data;
        else if (name === "turn.completed") {
          answer.body.textContent = data.response ?? "";
          for (const call of data.tool_calls) card(call, answer.item);
          foot(answer.item, data.usage, data.cost, data.config_version);
          add_up(data.usage, data.cost);
          show_facts(data);
        }
      }
    } catch (problem) {
      if (mine !== state) return;
      const lost = problem instanceof Error;
      complain(lost ? { title: "The connection was lost", detail: "The server finishes what it began. Trying again shows that answer; it is not charged twice." } : problem, lost && (() => turn(body, key)));
      if (!answer.body.textContent) answer.item.remove();
    }
    answer.item.classList.remove("busy");
    if (!answer.body.textContent) answer.body.remove();
    busy(false);
    offer_results();
    if (!state.calls.size) { box.placeholder = "Write a message"; box.focus(); }
  };

  const variables = () => {
    const given = all("[data-var]", root).filter((input) => input.value !== "").map((input) => [input.dataset.var, input.value]);
    return given.length ? { template_vars: Object.fromEntries(given) } : {};
  };
  const opening = () => ({ ...(state.conversation && { conversation_id: state.conversation }), ...variables() });
  const unique = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

  const send_message = () => {
    const message = box.value;
    if (state.busy || !message.trim()) return;
    const open = state.calls.size ? { cancel_open_calls: true } : {};
    for (const call of state.calls.values()) answered(call, "cancelled", false);
    state.calls.clear();
    box.value = "";
    entry("user", "You", message);
    turn({ message, ...opening(), ...open }, unique());
  };
  const send_results = () => {
    if (state.busy) return;
    const tool_results = [...state.calls.values()].map((open) => {
      let content = open.result.value;
      try { content = JSON.parse(content); } catch { /* plain text, as it stands */ }
      const ok = !open.failed.checked;
      answered(open, content, ok);
      return { tool_call_id: open.call.id, name: open.call.name, content, ok };
    });
    state.calls.clear();
    turn({ tool_results, ...opening() }, unique());
  };

  composer.addEventListener("submit", (event) => { event.preventDefault(); send_message(); });
  box.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send_message(); }
  });
  stop_button?.addEventListener("click", () => state.turn && api(`/api/v1/chat/turns/${state.turn}/cancel`, { method: "POST" }));
  const restart = () => {
    state = fresh();
    log.replaceChildren();
    facts?.replaceChildren();
    history.replaceState(null, "", location.pathname);
    busy(false);
    box.placeholder = "Write a message";
    box.focus();
  };
  all("[data-restart]").forEach((button) => button.addEventListener("click", restart));

  /** After a reload or the back button: the conversation as it is stored, open calls and all. */
  const resume = async (id) => {
    const response = await api(`/api/v1/conversations/${id}`);
    if (!response.ok) return restart();
    const stored = await response.json();
    state.conversation = stored.id;
    resuming = true;
    for (const message of stored.messages) {
      const at = new Date(message.created_at);
      if (message.role === "user") entry("user", "You", shown(message.content), at);
      else if (message.role === "tool") {
        const open = state.calls.get(message.tool_call_id);
        if (open) { answered(open, message.content, message.ok !== false); state.calls.delete(message.tool_call_id); }
      } else {
        const { item, body } = entry("assistant", root.dataset.name || "Agent", message.content === null ? "" : shown(message.content), at);
        if (!body.textContent) body.remove();
        for (const call of message.tool_calls) card(call, item);
        foot(item, message.usage, message.cost, message.config_version);
        add_up(message.usage, message.cost);
      }
    }
    offer_results();
    show_facts();
    resuming = false;
  };
  const known = new URLSearchParams(location.search).get("conversation");
  if (known) resume(known); else box.focus();
})();
