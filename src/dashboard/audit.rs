//! The audit trail: who made, changed or ended what.

use super::{
    Frame, Heading, Html,
    parts::{badge, empty, icon, pager, time},
};
use crate::model::{Act, ActorKind, AuditEntry, Json, List, Member};
use maud::{Markup, html};

/// The page. `act` is the one that was asked for.
pub fn page(
    frame: &Frame,
    act: Option<Act>,
    members: &[Member],
    entries: &List<AuditEntry>,
    newer: Option<&str>,
    older: Option<&str>,
) -> Html {
    let content = html! {
        form.filters role="search" method="get" action="/dashboard/audit" {
            div.field {
                label for="act" { "Act" }
                select #act name="act" {
                    option value="" { "Any act" }
                    @for known in Act::ALL { option value=(known.name()) selected[act == Some(*known)] { (known.name()) } }
                }
            }
            button.button { (icon("filter")) "Filter" }
        }
        @if entries.data.is_empty() {
            (empty("audit", "Nothing here", "Whatever is made, changed or ended in this tenant stands here, and stays.", html! {}))
        } @else {
            section.card {
                div.table-wrap tabindex="0" role="region" aria-label="Audit trail" {
                    table.table.stacked {
                        thead { tr { th { "When" } th { "Act" } th { "Who" } th { "What" } th { "Detail" } } }
                        tbody { @for entry in &entries.data { (row(entry, members)) } }
                    }
                }
            }
        }
        (pager(newer, older))
    };
    frame.page(&Heading::new("Audit trail", "Entries are never changed or removed; each holds the hash of the one before."), content)
}

fn row(entry: &AuditEntry, members: &[Member]) -> Markup {
    let address = entry.user_id.and_then(|user| members.iter().find(|member| member.user_id == user)).map(|member| member.email.as_str());
    html! {
        tr {
            td data-label="When" title={ "hash " (entry.hash) } { (time(entry.created_at, "short")) }
            td data-label="Act" { code { (entry.act.name()) } }
            td data-label="Who" {
                @match (entry.actor, address, entry.user_id) {
                    (ActorKind::Operator, ..) => { (badge("info", "operator")) }
                    (_, Some(address), _) => { (address) }
                    (_, None, Some(user)) => { code { (user) } }
                    (_, None, None) => {}
                }
                @if entry.key_id.is_some() { " " (badge("quiet", "by key")) }
            }
            td data-label="What" { @if let Some(target) = &entry.target { code { (target) } } }
            td data-label="Detail" { @if !entry.detail.is_empty() { code { (Json::Object(entry.detail.clone())) } } }
        }
    }
}
