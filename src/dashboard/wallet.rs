//! The wallet: balance, ledger, the check of its chain, and the ledger as a table for other programs.

use super::{
    Frame, Heading, Html,
    list::{Head, Pages, table},
    parts::{badge, count, empty, icon, money, time},
};
use crate::model::{EntryKind, LedgerEntry, List, Wallet};
use maud::{Markup, html};
use std::fmt::Write;

const HEADS: [Head; 6] = [
    Head::Figures("No."),
    Head::Words("When"),
    Head::Words("Kind"),
    Head::Words("What"),
    Head::Figures("Amount"),
    Head::Figures("Balance"),
];

/// The page.
pub fn page(frame: &Frame, wallet: &Wallet, ledger: &List<LedgerEntry>, pages: &Pages) -> Html {
    let actions = html! { a.button href="/dashboard/wallet/ledger.csv" download { (icon("download")) "CSV" } };
    let heading = Heading {
        actions,
        ..Heading::new("Wallet", "Prepaid credit. What a call can cost is held before it is made; what it cost is charged after.")
    };
    let tenant = frame.tenant.as_ref().map(|(id, ..)| id.to_string()).unwrap_or_default();
    let content = html! {
        dl.stats {
            div.stat { dt { "Balance" } dd { (money(wallet.balance)) } dd.stat-note { "deposited and not spent" } }
            div.stat { dt { "Held" } dd { (money(wallet.held)) } dd.stat-note { "set aside for running calls" } }
            div.stat { dt { "Available" } dd { (money(wallet.available)) } dd.stat-note { "for new calls" } }
        }
        section.card data-ledger data-src="/api/v1/wallet/ledger" data-tenant=(tenant) {
            header.card-head {
                h2 { "Ledger" }
                p { "Entries are never changed or removed: each holds the hash of the one before. Your browser can check that." }
                div.actions { button.button type="button" data-ledger-check { (icon("shield")) "Verify the chain" } }
            }
            p.hint role="status" data-ledger-result {}
            @if ledger.data.is_empty() {
                (empty("wallet", "No entries yet", "The operator adds credit; then every charge stands here. The model echo costs nothing.", html! {}))
            } @else {
                (table("Ledger", &HEADS, ledger.data.iter().map(row)))
            }
        }
        (pages.draw())
    };
    frame.page(&heading, content)
}

fn kind(kind: EntryKind) -> Markup {
    let colour = match kind {
        EntryKind::Topup => "ok",
        EntryKind::Refund => "info",
        EntryKind::Adjustment => "warn",
        EntryKind::Spend => "quiet",
    };
    badge(colour, kind.name())
}

fn row(entry: &LedgerEntry) -> Markup {
    html! {
        tr {
            td.num data-label="No." title={ "hash " (entry.hash) } { (entry.seq) }
            td data-label="When" { (time(entry.created_at, "short")) }
            td data-label="Kind" { (kind(entry.kind)) }
            td data-label="What" {
                @if let Some(model) = &entry.model { code { (model) } }
                @if let Some(usage) = entry.usage { " " (count(usage.input_total())) " in · " (count(usage.output_tokens)) " out" }
                @if let Some(reference) = &entry.reference { " " (reference) }
                @if let Some(note) = &entry.note { " " (note) }
            }
            td.num data-label="Amount" { (money(entry.amount)) }
            td.num data-label="Balance" { (money(entry.balance)) }
        }
    }
}

/// The first line of the CSV.
pub const CSV_HEAD: &str = "seq,created_at,kind,amount,balance,model,input_tokens,output_tokens,cache_read_tokens,cache_write_tokens,turn_id,reference,note,hash\r\n";

/// An entry as a line of CSV (RFC 4180).
pub fn csv_line(text: &mut String, entry: &LedgerEntry) {
    let usage = entry.usage.unwrap_or_default();
    let _ = write!(
        text,
        "{},{},{},{},{},{},{},{},{},{},{},{},{},{}\r\n",
        entry.seq,
        entry.created_at,
        entry.kind.name(),
        entry.amount,
        entry.balance,
        cell(entry.model.as_deref().unwrap_or_default()),
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_read_tokens,
        usage.cache_write_tokens,
        entry.turn_id.map(|turn| turn.to_string()).unwrap_or_default(),
        cell(entry.reference.as_deref().unwrap_or_default()),
        cell(entry.note.as_deref().unwrap_or_default()),
        entry.hash,
    );
}

/// A text as a cell. Spreadsheets take one that begins like a formula for one: an apostrophe before it makes it a text.
fn cell(text: &str) -> String {
    let formula = text.trim_start().starts_with(['=', '+', '-', '@', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}'])
        || text.starts_with(['\t', '\r', '\n']);
    let apostrophe = if formula { "'" } else { "" };
    if formula || text.contains([',', '"', '\r', '\n', ';', '\t']) {
        format!("\"{apostrophe}{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cell_is_a_formula_and_none_breaks_its_line() {
        assert_eq!(cell("plain words"), "plain words");
        assert_eq!(cell("a, \"b\"\nc"), "\"a, \"\"b\"\"\nc\"");
        for text in ["=1+1", "+1", "-1", "@SUM(A1)", " =1", "\t=1", "\r=1", "\u{ff1d}1", "=cmd|' /C calc'!A0"] {
            assert!(cell(text).starts_with("\"'"), "{text}: {}", cell(text));
        }
    }
}
