//! The log: rows that can be filtered and followed, and one row with all that is known of it.

use super::{
    Frame, Heading, Html,
    overview::duration,
    parts::{badge, count, empty, icon, money, pager, status_badge, time},
};
use crate::model::{Config, Key, List, LogRow};
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

/// The list.
pub fn list(
    frame: &Frame,
    asked: &Asked,
    agents: &[Config],
    keys: &[Key],
    rows: &List<LogRow>,
    newer: Option<&str>,
    older: Option<&str>,
) -> Html {
    let heading = Heading {
        actions: html! { @if asked.newest { span.live data-live-state { "Live" } } },
        ..Heading::new("Logs", "One row a vendor call, and one a request that was refused.")
    };
    let content = html! {
        (filters(asked, agents, keys))
        // The newest page follows what happens; older ones stand still.
        div.stack #log-rows data-live=[asked.newest.then_some("/dashboard/events")] data-live-event=[asked.newest.then_some("log")]
            hx-get=[asked.newest.then_some(&asked.path)] hx-trigger=[asked.newest.then_some("live")] hx-select="#log-rows" hx-target="this" hx-swap="outerHTML" {
            @if rows.data.is_empty() {
                @if asked.filtered {
                    (empty("filter", "No row fits", "Take a filter away, or widen the time.", html! { a.button href="/dashboard/logs" { "Show all" } }))
                } @else {
                    (empty("logs", "Nothing was logged yet", "Say something to an agent, and its vendor call stands here with its timings.", html! { a.button.primary href="/dashboard/playground" { (icon("play")) "Open the playground" } }))
                }
            } @else {
                section.card {
                    div.table-wrap tabindex="0" role="region" aria-label="Log" {
                        table.table.stacked {
                            thead { tr { th { "When" } th { "Status" } th { "What" } th { "Model" } th.num { "Tokens" } th.num { "Cost" } th.num { "Took" } } }
                            tbody { @for row in &rows.data { (line(row)) } }
                        }
                    }
                }
                (pager(newer, older))
            }
        }
    };
    frame.page(&heading, content)
}

fn filters(asked: &Asked, agents: &[Config], keys: &[Key]) -> Markup {
    html! {
        form.filters role="search" method="get" action="/dashboard/logs" {
            div.field {
                label for="status" { "Status" }
                input #status name="status" inputmode="numeric" size="6" value=(asked.status) placeholder="200";
            }
            div.field {
                label for="event" { "Event" }
                select #event name="event" { @for (value, words) in EVENTS { option value=(value) selected[value == asked.event] { (words) } } }
            }
            div.field {
                label for="config_id" { "Agent" }
                select #config_id name="config_id" {
                    option value="" { "Any agent" }
                    @for agent in agents {
                        @let id = agent.id.to_string();
                        option value=(id) selected[id == asked.config_id] { (agent.body.name) }
                    }
                }
            }
            div.field {
                label for="key_id" { "Key" }
                select #key_id name="key_id" {
                    option value="" { "Any key" }
                    @let known = keys.iter().any(|key| key.id.to_string() == asked.key_id);
                    @if !asked.key_id.is_empty() && !known { option value=(asked.key_id) selected { "a session, or another's key" } }
                    @for key in keys {
                        @let id = key.id.to_string();
                        option value=(id) selected[id == asked.key_id] { (key.name) }
                    }
                }
            }
            div.field {
                label for="since" { "From (UTC)" }
                input #since name="since" type="datetime-local" value=(asked.since);
            }
            div.field {
                label for="until" { "Before (UTC)" }
                input #until name="until" type="datetime-local" value=(asked.until);
            }
            @if !asked.conversation_id.is_empty() { input type="hidden" name="conversation_id" value=(asked.conversation_id); }
            label.check { input type="checkbox" name="failed" value="1" checked[asked.failed]; " Failures only" }
            button.button { (icon("filter")) "Filter" }
        }
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
        div.grid {
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
                        @if let Some(cost) = row.cost { (fact("Cost", html! { (money(cost)) " (exactly $" (cost) ")" })) }
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
