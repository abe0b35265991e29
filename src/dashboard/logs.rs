//! The log: rows that can be filtered and followed, and one row with all that is known of it.

use super::{
    Frame, Heading, Html,
    list::{Head, Listing, Pages, choice, filters},
    overview::duration,
    parts::{badge, count, empty, icon, money, status_badge, time},
};
use crate::model::{Config, Key, LogRow};
use maud::{Markup, html};

/// What the list was asked for, as it was typed.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs, reason = "they are the log's own fields")]
pub struct Asked {
    pub failed: bool,
    pub status: String,
    pub event: String,
    pub config_id: String,
    pub key_id: String,
    pub conversation_id: String,
    pub since: String,
    pub until: String,
    /// The address of this very list.
    pub path: String,
    /// Whether it is the newest page, which can be followed.
    pub newest: bool,
    /// Whether anything was asked for.
    pub filtered: bool,
}

const EVENTS: [(&str, &str); 5] =
    [("", "Any event"), ("step", "Step of a turn"), ("refused", "Refused"), ("interrupted", "Interrupted"), ("hold_breach", "Hold breach")];

const HEADS: [Head; 7] = [
    Head::Words("When"),
    Head::Words("Status"),
    Head::Words("What"),
    Head::Words("Model"),
    Head::Figures("Tokens"),
    Head::Figures("Cost"),
    Head::Figures("Took"),
];

/// The list.
pub fn list(frame: &Frame, asked: &Asked, agents: &[Config], keys: &[Key], rows: &[LogRow], pages: &Pages) -> Html {
    let heading = Heading {
        actions: html! { @if asked.newest { span.live data-live-state { "Live" } } },
        ..Heading::new("Logs", "One row a vendor call, and one a request that was refused.")
    };
    let begin = html! { a.button.primary href="/dashboard/playground" { (icon("play")) "Open the playground" } };
    let listing = Listing {
        label: "Log",
        heads: &HEADS,
        rows: rows.iter().map(line).collect(),
        nothing: empty(
            "logs",
            "Nothing was logged yet",
            "Say something to an agent, and its vendor call stands here with its timings.",
            begin,
        ),
        all: asked.filtered.then_some("/dashboard/logs"),
        pages,
    };
    let live = asked.newest;
    let content = html! {
        (filters("/dashboard/logs", ("filter", "Filter"), fields(asked, agents, keys)))
        // The newest page follows what happens; older ones stand still.
        div.stack #log-rows data-live=[live.then_some("/dashboard/events")] data-live-event=[live.then_some("log")]
            hx-get=[live.then_some(&asked.path)] hx-trigger=[live.then_some("live")] hx-select="#log-rows" hx-target="this" hx-swap="outerHTML" {
            (listing.draw())
        }
    };
    frame.page(&heading, content)
}

fn fields(asked: &Asked, agents: &[Config], keys: &[Key]) -> Markup {
    let agents: Vec<_> = agents.iter().map(|agent| (agent.id.to_string(), agent.body.name.clone())).collect();
    let keys: Vec<_> = keys.iter().map(|key| (key.id.to_string(), key.name.clone())).collect();
    html! {
        div.field {
            label for="status" { "Status" }
            input.short #status name="status" inputmode="numeric" size="6" value=(asked.status) placeholder="200";
        }
        div.field {
            label for="event" { "Event" }
            select #event name="event" { @for (value, words) in EVENTS { option value=(value) selected[value == asked.event] { (words) } } }
        }
        (choice("config_id", "Agent", "Any agent", &asked.config_id, &agents))
        (choice("key_id", "Key", "Any key", &asked.key_id, &keys))
        label.check { input type="checkbox" name="failed" value="1" checked[asked.failed]; " Failures only" }
        span.break {}
        div.field.wide {
            label for="since" { "From (UTC)" }
            input #since name="since" type="datetime-local" value=(asked.since);
        }
        div.field.wide {
            label for="until" { "Before (UTC)" }
            input #until name="until" type="datetime-local" value=(asked.until);
        }
        @if !asked.conversation_id.is_empty() { input type="hidden" name="conversation_id" value=(asked.conversation_id); }
    }
}

fn what(row: &LogRow) -> &str {
    row.code.as_deref().unwrap_or(row.event.name())
}

fn line(row: &LogRow) -> Markup {
    html! {
        tr {
            td data-label="When" { a.row-link href={ "/dashboard/logs/" (row.id) } { (time(row.created_at, "short")) } }
            td data-label="Status" { (status_badge(row.status)) }
            td data-label="What" { code { (what(row)) } }
            td data-label="Model" { @if let (Some(provider), Some(model)) = (&row.provider, &row.model) { code { (provider) "/" (model) } } }
            td.num data-label="Tokens" { @if let Some(usage) = row.usage { (count(usage.input_total())) " / " (count(usage.output_tokens)) } }
            td.num data-label="Cost" { @if let Some(cost) = row.cost { (money(cost)) } }
            td.num data-label="Took" { @if let Some(ms) = row.latency_ms { (duration(ms)) } }
        }
    }
}

/// One row.
pub fn detail(frame: &Frame, row: &LogRow, agent: Option<&str>, key: Option<&str>) -> Html {
    let heading = Heading {
        crumb: Some(("/dashboard/logs".to_owned(), "Logs".to_owned())),
        lede: html! { (time(row.created_at, "full")) " · " (status_badge(row.status)) @if row.estimated { " " (badge("warn", "usage estimated")) } },
        ..Heading::new(what(row).to_owned(), "")
    };
    let fact = |name: &str, value: Markup| html! { div { dt { (name) } dd { (value) } } };
    let code = |text: &str| html! { code { (text) } };
    let content = html! {
        @if let Some(detail) = &row.detail {
            section.card { header.card-head { h2 { "What happened" } } div.card-body { pre.code tabindex="0" { code { (detail) } } } }
        }
        div.grid.even {
            section.card {
                header.card-head { h2 { "Timings" } }
                div.card-body {
                    dl.facts {
                        @if let Some(ms) = row.latency_ms { (fact("From arrival to this row", html! { (duration(ms)) })) }
                        @if let Some(ms) = row.provider_ms { (fact("The vendor's part", html! { (duration(ms)) })) }
                        @if let Some(ms) = row.time_to_first_token_ms { (fact("Until the first output", html! { (duration(ms)) })) }
                    }
                }
            }
            section.card {
                header.card-head { h2 { "Usage" } }
                div.card-body {
                    dl.facts {
                        @if let (Some(provider), Some(model)) = (&row.provider, &row.model) { (fact("Model", html! { code { (provider) "/" (model) } })) }
                        @if let Some(usage) = row.usage {
                            (fact("Input tokens", html! { (count(usage.input_tokens)) }))
                            (fact("Read from the cache", html! { (count(usage.cache_read_tokens)) }))
                            (fact("Written to the cache", html! { (count(usage.cache_write_tokens)) }))
                            (fact("Output tokens", html! { (count(usage.output_tokens)) }))
                        }
                        @if let Some(cost) = row.cost { (fact("Cost", money(cost))) (fact("Exactly", html! { "$" (cost) })) }
                    }
                }
            }
            section.card {
                header.card-head { h2 { "Who and where" } }
                div.card-body {
                    dl.facts {
                        @if let Some(id) = row.request_id { (fact("Request", code(&id.to_string()))) }
                        @if let Some(id) = row.turn_id { (fact("Turn", code(&id.to_string()))) }
                        @if let Some(step) = row.step { (fact("Step", html! { (step) })) }
                        @if let Some(id) = row.conversation_id { (fact("Conversation", html! { a href={ "/dashboard/conversations/" (id) } { code { (id) } } })) }
                        @if let Some(id) = row.config_id { (fact("Agent", html! { a href={ "/dashboard/agents/" (id) } { (agent.unwrap_or("a deleted agent")) } })) }
                        @if let Some(id) = row.key_id { (fact("Key", html! { a href={ "/dashboard/logs?key_id=" (id) } { (key.unwrap_or("a session, or another's key")) } })) }
                        @if let Some(id) = row.user_id { (fact("User", code(&id.to_string()))) }
                    }
                }
            }
        }
    };
    frame.page(&heading, content)
}
