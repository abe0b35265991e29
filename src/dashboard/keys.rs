//! API keys: made, shown once, changed, rotated, revoked.

use super::{
    Frame, Heading, Html,
    list::{Head, Pages, table},
    parts::{Line, badge, described, empty, faults, field, icon, money, secret, time},
};
use crate::{
    clock::Time,
    error::FieldError,
    model::{Key, KeyCreated, List, Role},
};
use maud::{Markup, html};

/// What the form for a key says, and what is wrong with it.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs, reason = "they are the key's own fields")]
pub struct Sent {
    /// The id of the key that is changed; none for a new one.
    pub edited: Option<String>,
    pub name: String,
    pub role: String,
    pub days: String,
    pub spend_limit: String,
    pub errors: Vec<FieldError>,
}

const HEADS: [Head; 6] =
    [Head::Words("Name"), Head::Words("State"), Head::Words("Role"), Head::Figures("Spent"), Head::Words("Last used"), Head::Actions];

/// The page. `made` is a key just made or rotated, to be shown this once.
pub fn page(frame: &Frame, keys: &List<Key>, now: Time, made: Option<&KeyCreated>, sent: &Sent, pages: &Pages) -> Html {
    let content = html! {
        @if let Some(made) = made {
            section.card {
                header.card-head { h2 { "The key " (made.properties.name) } p { "Copy it now: it is shown this once, and stored as a hash." } }
                div.card-body { (secret("new-key", &made.key)) }
            }
        }
        section.card {
            @match &sent.edited {
                Some(id) => {
                    header.card-head { h2 { "Change the key" } p { "Its text and role stay." } }
                    div.card-body { (edit_form(frame, id, sent)) }
                }
                None => {
                    header.card-head { h2 { "New key" } p { "Its text is shown once, right after." } }
                    div.card-body { (form(frame, sent)) }
                }
            }
        }
        section.card {
            @if keys.data.is_empty() {
                (empty("keys", "No keys yet", "Your app shows a key with each request. Make one for each place it runs in, so that each can be revoked alone.", html! {}))
            } @else {
                (table("API keys", &HEADS, keys.data.iter().map(|key| row(frame, key, now))))
            }
        }
        (pages.draw())
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
            td data-label="Name" { strong { (key.name) } code.cell-note { (key.prefix) "…" } }
            td data-label="State" {
                span {
                    (badge(kind, word))
                    @if let (true, Some(end)) = (lives, key.expires_at) { " " (time(end, "short")) }
                }
            }
            td data-label="Role" { (badge("quiet", key.role.name())) }
            td.num data-label="Spent" { span { (money(key.spent)) @if let Some(limit) = key.spend_limit { " of " (money(limit)) } } }
            td data-label="Last used" { @match key.last_used_at { Some(at) => { (time(at, "ago")) } None => { "never" } } }
            td.row-actions {
                @if lives {
                    a.button.small href={ "/dashboard/keys?edit=" (key.id) } aria-label={ "Change " (key.name) } { "Change" }
                    form method="post" action={ "/dashboard/keys/" (key.id) "/rotate" } data-confirm={ "Make a successor of “" (key.name) "”? The old key works for another day." } data-confirm-label="Rotate" {
                        (frame.token_once())
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

impl Sent {
    fn error(&self, pointer: &str) -> Option<&str> {
        self.errors.iter().find(|error| error.pointer == pointer).map(|error| error.message.as_str())
    }

    /// What is wrong and belongs to no field.
    fn others(&self) -> Vec<FieldError> {
        let shown = ["/name", "/role", "/expires_at", "/spend_limit"];
        self.errors.iter().filter(|error| !shown.contains(&error.pointer.as_str())).cloned().collect()
    }

    fn name_line(&self) -> Markup {
        let hint = "Where it is used, such as CI or the shop's backend.";
        Line { name: "name", label: "Name", hint, value: &self.name, error: self.error("/name"), ..Line::PLAIN }.draw()
    }

    fn limit_line(&self) -> Markup {
        let line = Line { name: "spend_limit", label: "Spend limit in dollars", hint: "Empty for none of its own.", ..Line::PLAIN };
        Line { value: &self.spend_limit, required: false, error: self.error("/spend_limit"), ..line }.draw()
    }

    fn days_choice(&self, first: &[(&str, &str)]) -> Markup {
        const SPANS: [(&str, &str); 4] = [("7", "In 7 days"), ("30", "In 30 days"), ("90", "In 90 days"), ("365", "In a year")];
        let input = html! {
            select #days name="days" aria-describedby=(described("days", "")) {
                @for (value, words) in first.iter().chain(&SPANS) {
                    option value=(value) selected[*value == self.days] { (words) }
                }
            }
        };
        field("days", "Ends", "", self.error("/expires_at"), input)
    }
}

fn form(frame: &Frame, sent: &Sent) -> Markup {
    let roles = [Role::Viewer, Role::Member, Role::Admin, Role::Owner];
    let role = html! {
        select #role name="role" aria-describedby=(described("role", "")) {
            @for role in roles.into_iter().filter(|role| frame.may(*role)) {
                option value=(role.name()) selected[role.name() == sent.role || (sent.role.is_empty() && role == Role::Member)] { (role.name()) }
            }
        }
    };
    html! {
        form.form method="post" action="/dashboard/keys" {
            (frame.token_once())
            (faults(&sent.others()))
            div.fields {
                (sent.name_line())
                (field("role", "Role", "", sent.error("/role"), role))
                (sent.days_choice(&[("", "Never")]))
                (sent.limit_line())
            }
            div.form-foot { button.button.primary { (icon("plus")) "Make the key" } }
        }
    }
}

fn edit_form(frame: &Frame, id: &str, sent: &Sent) -> Markup {
    html! {
        form.form method="post" action={ "/dashboard/keys/" (id) } {
            (frame.token())
            (faults(&sent.others()))
            div.fields {
                (sent.name_line())
                (sent.days_choice(&[("", "As it is now"), ("never", "Never")]))
                (sent.limit_line())
            }
            div.form-foot {
                button.button.primary { "Save" }
                a.button.ghost href="/dashboard/keys" { "Cancel" }
            }
        }
    }
}
