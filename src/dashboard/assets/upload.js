// Sends a chosen file as it is to the address in [data-upload], shows what was wrong with it, or comes back to the page with what came of it.
(() => {
  const { $, make, icon } = window.nimblesite;
  const form = $("form[data-upload]");
  if (!form) return;
  const field = $('input[type="file"]', form), button = $("button", form), said = $("[data-upload-said]", form);
  const complain = (problem) => {
    const lines = (problem.errors || []).map((error) => make("p", {}, error.pointer && make("code", {}, error.pointer), " ", error.message));
    said.replaceChildren(make("div", { class: "notice bad", role: "alert" }, icon("alert"),
      make("div", {}, make("p", {}, problem.title || "That did not work", ". ", lines.length ? "" : problem.detail || ""), ...lines)));
  };
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const file = field.files[0];
    if (!file || button.disabled) return;
    button.disabled = true;
    said.replaceChildren(make("p", { class: "hint" }, "Unpacking it and trying its tools out …"));
    try {
      const headers = { "Content-Type": "application/octet-stream", "X-CSRF-Token": $('meta[name="csrf-token"]').content };
      const answer = await fetch(form.dataset.upload, { method: "PUT", body: file, headers });
      if (answer.ok) return location.assign(form.dataset.then);
      complain(await answer.json());
    } catch {
      complain({ title: "The connection was lost", detail: "Nothing was changed unless the page shows it; load it again." });
    }
    button.disabled = false;
  });
})();
