// Opens Redoc on this server's own document, in the page's colours and with the fonts of the reader's machine; again when the theme changes.
window.addEventListener("load", () => {
  const style = () => getComputedStyle(document.documentElement);
  const colour = (name) => {
    const probe = document.createElement("span");
    probe.style.color = `var(--${name})`;
    document.body.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();
    // Redoc mixes colours itself and reads hex alone.
    return `#${found.match(/\d+/g).slice(0, 3).map((part) => Number(part).toString(16).padStart(2, "0")).join("")}`;
  };
  const open = () => {
    const fonts = style().getPropertyValue("--sans"), mono = style().getPropertyValue("--mono");
    const [ink, ink_2, accent, paper, sunk, line, surface] = ["ink", "ink-2", "accent", "paper", "sunk", "line", "surface"].map(colour);
    Redoc.init(
      "/openapi.json",
      {
        nativeScrollbars: true,
        expandResponses: "200,201",
        scrollYOffset: 0,
        theme: {
          colors: {
            primary: { main: accent },
            success: { main: colour("ok") },
            warning: { main: colour("warn") },
            error: { main: colour("bad") },
            text: { primary: ink, secondary: ink_2 },
            border: { dark: line, light: line },
            responses: { success: { color: colour("ok") }, error: { color: colour("bad") }, redirect: { color: colour("warn") }, info: { color: colour("info") } },
          },
          schema: { nestedBackground: sunk, typeNameColor: ink_2, typeTitleColor: ink_2, linesColor: line },
          sidebar: { backgroundColor: sunk, textColor: ink, activeTextColor: accent },
          rightPanel: { backgroundColor: "#12201f", textColor: "#e8efed" },
          codeBlock: { backgroundColor: "#0b1514" },
          fab: { backgroundColor: surface, color: accent },
          typography: {
            fontSize: "14px",
            lineHeight: "1.55",
            fontFamily: fonts,
            headings: { fontFamily: fonts, fontWeight: "620" },
            code: { fontFamily: mono, color: accent, backgroundColor: sunk },
            links: { color: accent, hover: accent, visited: accent },
          },
        },
      },
      document.getElementById("redoc"),
    );
    document.body.style.backgroundColor = paper;
  };
  open();
  document.addEventListener("themechange", open);
});
