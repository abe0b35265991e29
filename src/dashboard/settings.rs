//! A tenant's settings: name and time zone, its data as a file, and its end.

use super::{
    Frame, Heading, Html,
    parts::{Line, bytes, faults, icon, notice},
};
use crate::{
    error::FieldError,
    model::{Role, Tenant},
};
use maud::{Markup, html};

/// The page. `errors` are those of a form that was sent: its pointers say which.
pub fn page(frame: &Frame, tenant: &Tenant, errors: &[FieldError]) -> Html {
    let owner = frame.may(Role::Owner);
    let content = html! {
        @if !owner { (notice("info", "Only owners change these.")) }
        section.card {
            header.card-head { h2 { "Tenant" } }
            div.card-body {
                @if owner { (form(frame, tenant, errors)) }
                dl.facts {
                    @if !owner {
                        div { dt { "Name" } dd { (tenant.name) } }
                        div { dt { "Time zone" } dd { (tenant.time_zone) } }
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
            (end(frame, tenant, errors))
        }
    };
    frame.page(&Heading::new("Settings", "What the tenant is called, and what becomes of its data."), content)
}

fn form(frame: &Frame, tenant: &Tenant, errors: &[FieldError]) -> Markup {
    let error = |pointer: &str| errors.iter().find(|error| error.pointer == pointer).map(|error| error.message.as_str());
    let others: Vec<FieldError> =
        errors.iter().filter(|error| !["/name", "/time_zone", "/confirm"].contains(&error.pointer.as_str())).cloned().collect();
    html! {
        form.form method="post" action="/dashboard/settings" {
            (frame.token())
            (faults(&others))
            (Line { name: "name", label: "Name", hint: "Prompts have it as {tenant_name}.", value: &tenant.name, error: error("/name"), ..Line::PLAIN }.draw())
            (Line { name: "time_zone", label: "Time zone", hint: "Of {date} in prompts: a name such as Europe/Vienna.", value: &tenant.time_zone, error: error("/time_zone"), ..Line::PLAIN }.draw())
            div.form-foot { button.button.primary { "Save" } }
        }
    }
}

fn end(frame: &Frame, tenant: &Tenant, errors: &[FieldError]) -> Markup {
    let error = errors.iter().find(|error| error.pointer == "/confirm").map(|error| error.message.as_str());
    html! {
        section.card {
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
