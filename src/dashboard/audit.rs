//! The audit trail: who made, changed or ended what.

use super::{
    Frame, Heading, Html,
    list::{Head, Listing, Pages, filters},
    parts::{badge, empty, time},
};
use crate::model::{Act, ActorKind, AuditEntry, Json, List, Member};
use maud::{Markup, html};

/// The page. `act` is the one that was asked for.
pub fn page(frame: &Frame, act: Option<Act>, members: &[Member], entries: &List<AuditEntry>, pages: &Pages) -> Html {
    let fields = html! {
        div.field {
            label for="act" { "Act" }
            select #act name="act" {
                option value="" { "Any act" }
                @for known in Act::ALL { option value=(known.name()) selected[act == Some(*known)] { (known.name()) } }
            }
        }
    };
    let content = html! {
        (filters("/dashboard/audit", ("filter", "Filter"), fields))
        (trail(entries, members, act.map(|_| "/dashboard/audit"), pages))
    };
    frame.page(&Heading::new("Audit trail", "Entries are never changed or removed; each holds the hash of the one before."), content)
}

const HEADS: [Head; 5] = [Head::Words("When"), Head::Words("Act"), Head::Words("Who"), Head::Words("What"), Head::Words("Detail")];

/// Entries of a trail. `all` is where all of them are, if these are a part.
pub(super) fn trail(entries: &List<AuditEntry>, members: &[Member], all: Option<&str>, pages: &Pages) -> Markup {
    Listing {
        label: "Audit trail",
        heads: &HEADS,
        rows: entries.data.iter().map(|entry| row(entry, members)).collect(),
        nothing: empty("audit", "Nothing here", "Whatever is made, changed or ended stands here, and stays.", html! {}),
        all,
        pages,
    }
    .draw()
}

/// A text as it is said, anything else as JSON.
fn said(value: &Json) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The characters that are shown of an id or a digest; the whole of it is there on hover.
const SHOWN: usize = 12;

/// A word. Of what is long and says nothing to people, the end: ids begin with their time.
fn word(text: &str) -> Markup {
    let id = (text.len() == 36 || text.len() == 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    let end = text.get(text.len().saturating_sub(SHOWN)..).filter(|_| id);
    html! {
        @match end {
            Some(end) => { code.nowrap title=(text) { "…" (end) } }
            None => { code { (text) } }
        }
    }
}

fn row(entry: &AuditEntry, members: &[Member]) -> Markup {
    let address = entry.user_id.and_then(|user| members.iter().find(|member| member.user_id == user)).map(|member| member.email.as_str());
    html! {
        tr {
            td data-label="When" title={ "hash " (entry.hash) } { (time(entry.created_at, "short")) }
            td data-label="Act" { code.nowrap { (entry.act.name()) } }
            td data-label="Who" {
                @match (entry.actor, address, entry.user_id) {
                    (ActorKind::Operator, ..) => { (badge("info", "operator")) }
                    (_, Some(address), _) => { (address) }
                    (_, None, Some(user)) => { code { (user) } }
                    (_, None, None) => {}
                }
                @if entry.key_id.is_some() { " " (badge("quiet", "by key")) }
            }
            td data-label="What" { @if let Some(target) = &entry.target { (word(target)) } }
            td data-label="Detail" {
                div.pairs {
                    @for (name, value) in entry.detail.iter().filter(|(_, value)| !value.is_null()) {
                        span { (name) " " (word(&said(value))) }
                    }
                }
            }
        }
    }
}
