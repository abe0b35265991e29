// Opens Swagger UI on this server's own document, in the page's theme. Nothing is loaded from anywhere else, and no validator is asked.
window.addEventListener("load", () => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const follow_theme = () => {
    const root = document.documentElement;
    root.classList.toggle("dark-mode", (root.dataset.theme || (dark.matches ? "dark" : "light")) === "dark");
  };
  follow_theme();
  document.addEventListener("themechange", follow_theme);
  SwaggerUIBundle({
    url: "/openapi.json",
    dom_id: "#swagger-ui",
    deepLinking: true,
    displayOperationId: true,
    displayRequestDuration: true,
    docExpansion: "none",
    filter: true,
    persistAuthorization: false,
    tryItOutEnabled: true,
    validatorUrl: null,
    syntaxHighlight: { activated: true },
  });
});
