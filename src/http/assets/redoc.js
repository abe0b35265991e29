// Opens Redoc on this server's own document, with the fonts of the reader's machine.
window.addEventListener("load", () => {
  const fonts = "system-ui, sans-serif";
  Redoc.init(
    "/openapi.json",
    {
      hideDownloadButton: false,
      nativeScrollbars: true,
      expandResponses: "200,201",
      theme: { typography: { fontFamily: fonts, headings: { fontFamily: fonts }, code: { fontFamily: "ui-monospace, monospace" } } },
    },
    document.getElementById("redoc"),
  );
});
