//! API keys: made, shown once, rotated, revoked.

use super::{
    Frame, Heading, Html,
    parts::{Line, badge, empty, faults, field, icon, money, notice, pager, secret, time},
};
use crate::{
    clock::Time,
    error::FieldError,
    model::{Key, KeyCreated, List, Role},
};
use maud::{Markup, html};

/// What the form for a new key says, and what is wrong with it.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs, reason = "they are the key's own fields")]
pub struct Sent {
    pub name: String,
    pub role: String,
    pub days: String,
    pub spend_limit: String,
    pub errors: Vec<FieldError>,
}

/// The page. `made` is a key just made or rotated, to be shown this once.
pub fn page(
    frame: &Frame,
    keys: &List<Key>,
    now: Time,
    made: Option<&KeyCreated>,
    sent: &Sent,
    newer: Option<&str>,
    older: Option<&str>,
) -> Html {
    let content = html! {
        @if let Some(made) = made {
            section.card {
                header.card-head { h2 { "The key " (made.properties.name) } p { "Copy it now: it is shown this once, and stored as a hash." } }
                div.card-body { (secret("new-key", &made.key)) }
            }
        }
        div.split {
            section.card {
                @if keys.data.is_empty() {
                    (empty("keys", "No keys yet", "Your app shows a key with each request. Make one for each place it runs in, so that each can be revoked alone.", html! {}))
                } @else {
                    div.table-wrap tabindex="0" role="region" aria-label="API keys" {
                        table.table.stacked {
                            thead { tr { th { "Name" } th { "State" } th { "Role" } th.num { "Spent" } th { "Last used" } th { span.sr-only { "Actions" } } } }
                            tbody { @for key in &keys.data { (row(frame, key, now)) } }
                        }
                    }
                }
            }
            aside {
                section.card {
                    header.card-head { h2 { "New key" } }
                    div.card-body { (form(frame, sent)) }
                }
            }
        }
        (pager(newer, older))
    };
    frame.page(&Heading::new("API keys", "A key is one user's, and at most as strong as they are."), content)
}

fn state(key: &Key, now: Time) -> (&'static str, &'static str) {
    match (key.revoked_at, key.expires_at) {
        (Some(_), _) => ("bad", "revoked"),
        (None, Some(end)) if end <= now => ("quiet", "expired"),
        (None, Some(_)) => ("ok", "ends by itself"),
        (None, None) => ("ok", "active"),
    }
}

fn row(frame: &Frame, key: &Key, now: Time) -> Markup {
    let (kind, word) = state(key, now);
    let lives = kind == "ok";
    html! {
        tr {
            td data-label="Name" { (key.name) " " code { (key.prefix) "…" } }
            td data-label="State" {
                (badge(kind, word))
                @if let (true, Some(end)) = (lives, key.expires_at) { " " (time(end, "short")) }
            }
            td data-label="Role" { (badge("quiet", key.role.name())) }
            td.num data-label="Spent" { (money(key.spent)) @if let Some(limit) = key.spend_limit { " of " (money(limit)) } }
            td data-label="Last used" { @match key.last_used_at { Some(at) => { (time(at, "ago")) } None => { "never" } } }
            td.row-actions {
                @if lives {
                    form method="post" action={ "/dashboard/keys/" (key.id) "/rotate" } data-confirm={ "Make a successor of “" (key.name) "”? The old key works for another day." } data-confirm-label="Rotate" {
                        (frame.token())
                        button.button.small { (icon("refresh")) "Rotate" }
                    }
                    form method="post" action={ "/dashboard/keys/" (key.id) "/revoke" } data-confirm={ "Revoke “" (key.name) "”? Requests with it are refused from now on." } data-confirm-label="Revoke" {
                        (frame.token())
                        button.button.small.danger { "Revoke" }
                    }
                }
            }
        }
    }
}

fn form(frame: &Frame, sent: &Sent) -> Markup {
    let error = |pointer: &str| sent.errors.iter().find(|error| error.pointer == pointer).map(|error| error.message.as_str());
    let shown = ["/name", "/role", "/expires_at", "/spend_limit"];
    let others: Vec<FieldError> = sent.errors.iter().filter(|error| !shown.contains(&error.pointer.as_str())).cloned().collect();
    let roles = [Role::Viewer, Role::Member, Role::Admin, Role::Owner];
    let role = html! {
        select #role name="role" aria-describedby="error-role" {
            @for role in roles.into_iter().filter(|role| frame.may(*role)) {
                option value=(role.name()) selected[role.name() == sent.role || (sent.role.is_empty() && role == Role::Member)] { (role.name()) }
            }
        }
    };
    let days = html! {
        select #days name="days" aria-describedby="error-days" {
            @for (value, words) in [("", "Never"), ("7", "After 7 days"), ("30", "After 30 days"), ("90", "After 90 days"), ("365", "After a year")] {
                option value=(value) selected[value == sent.days] { (words) }
            }
        }
    };
    html! {
        form.form method="post" action="/dashboard/keys" {
            (frame.token())
            (faults(&others))
            (Line { name: "name", label: "Name", hint: "Where it is used, such as CI or the shop's backend.", value: &sent.name, error: error("/name"), ..Line::PLAIN }.draw())
            (field("role", "Role", "", error("/role"), role))
            (field("days", "Ends", "", error("/expires_at"), days))
            (Line { name: "spend_limit", label: "Spend limit in dollars", hint: "Empty for none of its own.", value: &sent.spend_limit, required: false, error: error("/spend_limit"), ..Line::PLAIN }.draw())
            (notice("info", "The key's text is shown once, right after."))
            div.form-foot { button.button.primary { (icon("plus")) "Make the key" } }
        }
    }
}
