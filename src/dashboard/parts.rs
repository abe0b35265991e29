//! What pages are put together from: icons, money, times, notices, empty states, pagers, fields.

use crate::{clock::Time, error::FieldError, money::Money};
use maud::{Markup, html};

/// What a page says after a form was sent, by the name in its address: words of ours, never the address's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Said {
    good: bool,
    text: &'static str,
}

/// Names and words.
const SAID: &[(&str, bool, &str)] = &[
    ("verified", true, "Your address is proved. Sign in now."),
    ("reset", true, "The new password is set, and every session has ended. Sign in with it."),
    ("signed-out", true, "You are signed out."),
    ("agent-saved", true, "Saved. Chats use this version from now on."),
    ("agent-made", true, "The agent is made. Try it in the playground."),
    ("bundle-put", true, "The bundle is in. Its tools are pinned as they described themselves."),
    ("agent-deleted", true, "The agent is deleted. Its conversations can still be read."),
    ("agent-restored", true, "The older version is in force again, as a new one."),
    ("conversation-deleted", true, "The conversation is deleted."),
    ("key-revoked", true, "The key is revoked: requests with it are refused from now on."),
    ("key-made-before", true, "This form made a key already. Its text was shown in the answer to the first; rotate it if that was lost."),
    ("key-changed", true, "The key is changed."),
    (
        "tenant-made-before",
        true,
        "This form made the tenant already. Its first key was shown in the answer to the first; make another under API keys.",
    ),
    ("tenant-made", true, "The tenant is made. Its owner finds it after signing in, and makes keys there."),
    ("conversation-renamed", true, "The title is changed."),
    ("bundle-removed", true, "The bundle is taken away. The workspace stays."),
    ("sandbox-stopped", true, "The sandbox is stopped. The next call of a tool starts it anew; its files stay."),
    ("snapshot-made", true, "The snapshot is made."),
    ("snapshot-restored", true, "The snapshot is in the place of the workspace. The next call of a tool begins with its files."),
    ("snapshot-deleted", true, "The snapshot is removed."),
    ("sandbox-reset", true, "The workspace is removed. The next call of a tool begins with an empty one."),
    ("member-added", true, "They are a member now, or become one when they register this address. A mail tells them."),
    ("member-changed", true, "The role is changed, and bounds their keys and sessions from now on."),
    ("member-removed", true, "The member is taken out. Their keys and sessions are refused here from now on."),
    ("settings-saved", true, "Saved."),
    ("credit-added", true, "The ledger has the entry."),
    ("suspended", true, "The tenant's chat is stopped."),
    ("resumed", true, "The tenant's chat goes on."),
];

impl Said {
    /// What stands under a name, if anything does.
    pub fn named(name: &str) -> Option<Self> {
        SAID.iter().find(|(known, ..)| *known == name).map(|(_, good, text)| Self { good: *good, text })
    }

    pub(super) fn notice(self) -> Markup {
        notice(if self.good { "ok" } else { "bad" }, self.text)
    }
}

pub(super) fn icon(name: &str) -> Markup {
    html! { svg.icon aria-hidden="true" { use href={ "/dashboard/assets/icons.svg#" (name) } {} } }
}

/// A box with a sentence. `kind` is ok, warn, bad or info.
pub(super) fn notice(kind: &str, text: &str) -> Markup {
    let (symbol, role) = match kind {
        "ok" => ("check", "status"),
        "info" => ("info", "status"),
        _ => ("alert", "alert"),
    };
    html! { div.notice.(kind) role=(role) { (icon(symbol)) div { p { (text) } } } }
}

/// What is wrong, where it belongs to no field that is shown.
pub(super) fn faults(errors: &[FieldError]) -> Markup {
    html! {
        @if !errors.is_empty() {
            div.notice.bad role="alert" {
                (icon("alert"))
                div {
                    @for error in errors {
                        p { @if !error.pointer.is_empty() { code { (error.pointer) } " " } (error.message) }
                    }
                }
            }
        }
    }
}

/// A page that has nothing yet, and what to do about it.
pub(super) fn empty(symbol: &str, title: &str, text: &str, actions: Markup) -> Markup {
    html! { div.empty { (icon(symbol)) h2 { (title) } p { (text) } div.actions { (actions) } } }
}

/// Dollars as people read them: cents from a dollar on, up to four places below, and never a row of zeros for something.
pub fn money_text(amount: Money) -> String {
    let nanos = i128::from(amount.nanos());
    let (sign, nanos) = if nanos < 0 { ("\u{2212}", -nanos) } else { ("", nanos) };
    if nanos == 0 {
        return "$0.00".to_owned();
    }
    // Ten-thousandths of a dollar, rounded half up.
    let fine = (nanos + 50_000) / 100_000;
    if fine == 0 {
        return format!("{sign}<$0.0001");
    }
    if fine < 10_000 {
        let text = format!("{fine:04}");
        let text = text.trim_end_matches('0');
        return format!("{sign}$0.{text:0<2}");
    }
    let cents = (nanos + 5_000_000) / 10_000_000;
    format!("{sign}${}.{:02}", thousands((cents / 100).unsigned_abs()), cents % 100)
}

/// The same with the exact amount to see on hover.
pub(super) fn money(amount: Money) -> Markup {
    html! { span.money title={ "$" (amount) } { (money_text(amount)) } }
}

/// A number with its thousands set apart.
pub(super) fn thousands(number: u128) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count.
pub(super) fn count(number: u64) -> String {
    thousands(number.into())
}

/// A moment; a script of the page shows it in the viewer's zone. `form` is ago, short or full.
pub(super) fn time(at: Time, form: &str) -> Markup {
    let text = at.to_string();
    let day = text.get(..10).unwrap_or(&text);
    let clock = text.get(11..16).unwrap_or_default();
    html! { time datetime=(text) data-time=(form) { (day) " " (clock) " UTC" } }
}

/// A word with a colour that says the same.
pub(super) fn badge(kind: &str, word: &str) -> Markup {
    html! { span.badge.(kind) { (word) } }
}

/// A log row's or request's status.
pub(super) fn status_badge(status: u16) -> Markup {
    let kind = match status {
        0..=399 => "ok",
        400..=499 => "warn",
        _ => "bad",
    };
    badge(kind, &status.to_string())
}

/// A field with its label, hint and what is wrong with it. `name` is also the id.
pub(super) fn field(name: &str, label: &str, hint: &str, error: Option<&str>, input: Markup) -> Markup {
    html! {
        div.field {
            label for=(name) { (label) }
            (input)
            @if !hint.is_empty() { p.hint id={ (name) "-hint" } { (hint) } }
            p.field-error id={ "error-" (name) } { @if let Some(error) = error { (error) } }
        }
    }
}

/// What describes a field's input, for `aria-describedby`.
pub(super) fn described(name: &str, hint: &str) -> String {
    if hint.is_empty() { format!("error-{name}") } else { format!("{name}-hint error-{name}") }
}

/// A line of text to fill in.
pub(super) struct Line<'a> {
    pub(super) name: &'a str,
    pub(super) label: &'a str,
    pub(super) hint: &'a str,
    pub(super) kind: &'a str,
    pub(super) value: &'a str,
    pub(super) autocomplete: &'a str,
    pub(super) required: bool,
    pub(super) error: Option<&'a str>,
}

impl Line<'_> {
    pub(super) const PLAIN: Self =
        Line { name: "", label: "", hint: "", kind: "text", value: "", autocomplete: "off", required: true, error: None };

    pub(super) fn draw(&self) -> Markup {
        let invalid = self.error.is_some().then_some("true");
        let input = html! {
            input id=(self.name) name=(self.name) type=(self.kind) value=(self.value) autocomplete=(self.autocomplete) required[self.required]
                aria-describedby=(described(self.name, self.hint)) aria-invalid=[invalid];
        };
        field(self.name, self.label, self.hint, self.error, input)
    }
}

/// A text to copy, with its button.
pub(super) fn secret(id: &str, text: &str) -> Markup {
    html! {
        div.secret {
            code id=(id) { (text) }
            button.button type="button" data-copy=(id) { (icon("copy")) span { "Copy" } }
        }
    }
}

/// Bytes as people read them.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut tenths = u128::from(bytes) * 10;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1_024;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} bytes"),
        _ => format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit]),
    }
}

/// The buttons between the pages of a list: paths of the newer and the older one.
pub(super) fn pager(newer: Option<&str>, older: Option<&str>) -> Markup {
    html! {
        @if newer.is_some() || older.is_some() {
            nav.pager aria-label="Pages" {
                @if let Some(path) = newer { a.button.small rel="prev" href=(path) { (icon("arrow-left")) "Newer" } }
                @if let Some(path) = older { a.button.small rel="next" href=(path) { "Older" (icon("arrow-right")) } }
            }
        }
    }
}

/// Code with a button that copies it.
pub(super) fn code_box(id: &str, title: &str, text: &str) -> Markup {
    html! {
        div.code-box {
            div.code-head {
                span { (title) }
                button.icon-button type="button" data-copy=(id) aria-label={ "Copy " (title) } { (icon("copy")) }
            }
            pre.code id=(id) tabindex="0" { code { (text) } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_shown_to_the_digits_that_say_something() {
        let shown = |nanos| money_text(Money::from_nanos(nanos));
        assert_eq!(shown(0), "$0.00");
        assert_eq!(shown(10_000_000_000), "$10.00");
        assert_eq!(shown(2_751_000), "$0.0028");
        assert_eq!(shown(250_000_000), "$0.25");
        assert_eq!(shown(-2_751_000), "\u{2212}$0.0028");
        assert_eq!(shown(1), "<$0.0001");
        assert_eq!(shown(999_999_999), "$1.00");
        assert_eq!(shown(1_234_567_891_000_000), "$1,234,567.89");
        assert_eq!(shown(i64::MIN), "\u{2212}$9,223,372,036.85");
    }

    #[test]
    fn counts_and_sizes_are_readable() {
        assert_eq!((count(0), count(999), count(1_000), count(1_234_567)), ("0".into(), "999".into(), "1,000".into(), "1,234,567".into()));
        assert_eq!((bytes(12), bytes(2_048), bytes(u64::MAX)), ("12 bytes".into(), "2.0 KiB".into(), "16777215.9 TiB".into()));
    }

    #[test]
    fn whatever_is_shown_is_text() {
        let shown = notice("bad", "<script>alert(1)</script> \" onload=x").into_string();
        assert!(shown.contains("&lt;script&gt;") && !shown.contains("<script"), "{shown}");
        let line = Line { name: "x", value: "\"><img src=x onerror=y>", ..Line::PLAIN }.draw().into_string();
        assert!(!line.contains("\"><img"), "{line}");
    }
}
