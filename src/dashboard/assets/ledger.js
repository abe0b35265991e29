// Checks the ledger's chain here, in the browser, from the entries alone: each entry's hash is SHA-256 over one line of JSON with the hash before it and
// all that the entry says (docs/money.md), its sequence has no gap, and its balance is the one before plus its amount.
(() => {
  const { $, make } = window.nimblesite;
  const root = $("[data-ledger]");
  if (!root) return;
  const button = $("[data-ledger-check]", root), result = $("[data-ledger-result]", root);
  const sha256 = async (text) => {
    const bytes = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text)));
    return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  };
  const nanos = (text) => { const [whole, part = ""] = text.replace("-", "").split("."); const size = BigInt(whole + part.padEnd(9, "0")); return text.startsWith("-") ? -size : size; };
  const line = (before, entry) => JSON.stringify([before, entry.seq, entry.id, entry.kind, entry.amount, entry.balance, entry.reference ?? null, entry.note ?? null,
    entry.turn_id ?? null, entry.model ?? null, entry.usage ?? null, entry.rates ?? null, entry.created_at]);
  const say = (tone, ...words) => result.replaceChildren(make("span", { class: `badge ${tone}` }, tone === "ok" ? "whole" : tone === "bad" ? "broken" : "checking"), " ", ...words);

  const check = async () => {
    if (!window.isSecureContext) return say("bad", "The browser hashes only on pages that came by HTTPS or from this machine. Open the dashboard so, and check again.");
    let before = await sha256(`nimblesite ledger ${root.dataset.tenant}`), seq = 0, balance = 0n, after = "", more = true;
    while (more) {
      const response = await fetch(`${root.dataset.src}?limit=100${after && `&after=${after}`}`);
      if (!response.ok) return say("bad", `The ledger could not be read (status ${response.status}). Try again.`);
      const page = await response.json();
      for (const entry of page.data) {
        seq += 1;
        balance += nanos(entry.amount);
        const hash = await sha256(line(before, entry));
        if (entry.seq !== seq) return say("bad", `Entry ${seq} is missing: ${entry.seq} stands in its place.`);
        if (nanos(entry.balance) !== balance) return say("bad", `The balance of entry ${seq} is not the one before plus its amount.`);
        if (hash !== entry.hash) return say("bad", `Entry ${seq} is not what was written: its hash is ${entry.hash.slice(0, 12)}…, its words give ${hash.slice(0, 12)}….`);
        before = hash;
      }
      after = page.last_id ?? "";
      more = page.has_more;
      say("info", `${seq} entries …`);
    }
    say("ok", seq === 0 ? "No entries yet: the chain is at its beginning." : `${seq} ${seq === 1 ? "entry" : "entries"} checked in this browser. The newest hash is `, ...(seq ? [make("code", {}, `${before.slice(0, 16)}…`)] : []));
  };
  button.addEventListener("click", async () => {
    button.disabled = true;
    await check().catch(() => say("bad", "The ledger could not be read. Try again."));
    button.disabled = false;
  });
})();
