// Before the first paint: the theme that was chosen here, if one was; else the system's stands.
(() => {
  const read = () => { try { return localStorage.getItem("theme"); } catch { return null; } };
  const kept = read();
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
})();
