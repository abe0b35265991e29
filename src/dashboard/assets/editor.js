// The prompt's field shows its variables in colour as they are typed: the same text lies behind the field, with marks where {names} stand.
(() => {
  const { all, make } = window.nimblesite;
  const BUILT_IN = ["tenant_name", "agent_name", "date"];
  const paint = (field) => {
    const view = field.previousElementSibling;
    const parts = [];
    let from = 0;
    // `{{name}}` stands for the text `{name}` and is none; a brace before or after makes it so.
    for (const found of field.value.matchAll(/\{\{[A-Za-z_][A-Za-z0-9_]*\}\}|\{([A-Za-z_][A-Za-z0-9_]*)\}/g)) {
      if (!found[1]) continue;
      parts.push(field.value.slice(from, found.index), make("mark", { class: BUILT_IN.includes(found[1]) ? "" : "custom" }, found[0]));
      from = found.index + found[0].length;
    }
    view.replaceChildren(...parts, field.value.slice(from), "\n");
    view.scrollTop = field.scrollTop;
  };
  const take = (within) => {
    for (const field of all("textarea[data-prompt]", within)) {
      if (field.parentElement.classList.contains("prompt-view")) continue;
      const view = make("div", { class: "prompt-view" });
      field.replaceWith(view);
      view.append(make("div", { class: "prompt-paint", "aria-hidden": "true" }), field);
      field.addEventListener("input", () => paint(field));
      field.addEventListener("scroll", () => { field.previousElementSibling.scrollTop = field.scrollTop; });
      paint(field);
    }
  };
  document.addEventListener("arrived", (event) => take(event.detail));
})();
