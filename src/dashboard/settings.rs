//! A tenant's settings: name and time zone, how long its content is kept, its data as a file, and its end.

use super::{
    Frame, Heading, Html,
    parts::{Line, bytes, faults, icon, notice},
};
use crate::{
    error::FieldError,
    model::{Role, Tenant},
};
use maud::{Markup, html};

/// What stands in the fields.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs, reason = "they are the tenant's own fields")]
pub struct Fields {
    pub name: String,
    pub time_zone: String,
    pub conversations_days: String,
    pub logs_days: String,
}

impl Fields {
    /// As the tenant is.
    pub fn of(tenant: &Tenant) -> Self {
        let days = |days: Option<u32>| days.map(|days| days.to_string()).unwrap_or_default();
        Self {
            name: tenant.name.clone(),
            time_zone: tenant.time_zone.clone(),
            conversations_days: days(tenant.retention.conversations_days),
            logs_days: days(tenant.retention.logs_days),
        }
    }
}

/// The page. `errors` are those of a form that was sent: its pointers say which.
pub fn page(frame: &Frame, tenant: &Tenant, fields: &Fields, errors: &[FieldError]) -> Html {
    let owner = frame.may(Role::Owner);
    let content = html! {
        @if !owner { (notice("info", "Only owners change these.")) }
        div.split {
            div.stack {
                @if owner {
                    section.card {
                        header.card-head { h2 { "Name, zone and retention" } }
                        div.card-body { (form(frame, fields, errors)) }
                    }
                    (end(frame, tenant, errors))
                }
            }
            aside.stack { (facts(frame, tenant)) }
        }
    };
    frame.page(&Heading::new("Settings", "What the tenant is called, how long its content stays, and its end."), content)
}

fn facts(frame: &Frame, tenant: &Tenant) -> Markup {
    let owner = frame.may(Role::Owner);
    html! {
        section.card {
            header.card-head { h2 { "Tenant" } }
            div.card-body {
                dl.facts {
                    @if !owner {
                        div { dt { "Name" } dd { (tenant.name) } }
                        div { dt { "Time zone" } dd { (tenant.time_zone) } }
                        div { dt { "Conversations are kept" } dd { (kept(tenant.retention.conversations_days)) } }
                        div { dt { "Logs are kept" } dd { (kept(tenant.retention.logs_days)) } }
                    }
                    div { dt { "Id" } dd { code { (tenant.id) } } }
                    div { dt { "Size" } dd { (bytes(tenant.size_bytes)) @if let Some(limit) = tenant.size_limit_bytes { " of " (bytes(limit)) } } }
                    div { dt { "Chat" } dd { @if tenant.suspended { "stopped by the operator" } @else { "open" } } }
                }
            }
        }
        @if owner {
            section.card {
                header.card-head { h2 { "Export" } p { "All of the tenant's data as one SQLite file of one moment, checked, with a manifest inside. Work goes on meanwhile." } }
                div.card-body { a.button href="/api/v1/tenant/export" download { (icon("download")) "Export the tenant" } }
            }
        }
    }
}

fn kept(days: Option<u32>) -> String {
    days.map_or_else(|| "for ever".to_owned(), |days| format!("{days} days"))
}

/// Fields that say what is wrong with them.
const SHOWN: [&str; 5] = ["/name", "/time_zone", "/confirm", "/retention/conversations_days", "/retention/logs_days"];

fn form(frame: &Frame, it: &Fields, errors: &[FieldError]) -> Markup {
    let error = |pointer: &str| errors.iter().find(|error| error.pointer == pointer).map(|error| error.message.as_str());
    let others: Vec<FieldError> = errors.iter().filter(|error| !SHOWN.contains(&error.pointer.as_str())).cloned().collect();
    let days = |name: &str, label: &str, hint: &str, value: &str| {
        let error = error(&format!("/retention/{name}"));
        Line { name, label, hint, value, kind: "number", required: false, error, ..Line::PLAIN }.draw()
    };
    html! {
        form.form method="post" action="/dashboard/settings" {
            (frame.token())
            (faults(&others))
            div.fields {
            (Line { name: "name", label: "Name", hint: "Prompts have it as {tenant_name}.", value: &it.name, error: error("/name"), ..Line::PLAIN }.draw())
            (Line { name: "time_zone", label: "Time zone", hint: "Of {date} in prompts: a name such as Europe/Vienna.", value: &it.time_zone, error: error("/time_zone"), ..Line::PLAIN }.draw())
            }
            div.fields {
                (days("conversations_days", "Keep conversations, in days", "After their last change. Empty keeps them for ever.", &it.conversations_days))
                (days("logs_days", "Keep logs, in days", "Usage is summed from them. Empty keeps them for ever.", &it.logs_days))
            }
            p.hint { "Ledger and audit trail stay, whatever stands here. What is older goes within the hour." }
            div.form-foot { button.button.primary { "Save" } }
        }
    }
}

fn end(frame: &Frame, tenant: &Tenant, errors: &[FieldError]) -> Markup {
    let error = errors.iter().find(|error| error.pointer == "/confirm").map(|error| error.message.as_str());
    html! {
        section.card.danger-zone {
            header.card-head { h2 { "Delete" } p { "Every byte of it, at once: agents, conversations, logs, ledger and keys. Nothing can bring them back; export first." } }
            div.card-body {
                form.form method="post" action="/dashboard/settings/delete" {
                    (frame.token())
                    (Line { name: "confirm", label: "Type the tenant's name", hint: &tenant.name, error, ..Line::PLAIN }.draw())
                    div.form-foot { button.button.danger { (icon("trash")) "Delete the tenant" } }
                }
            }
        }
    }
}
