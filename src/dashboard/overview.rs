//! The overview: what is left, what happened lately, and what went wrong.

use super::{
    Frame, Heading, Html,
    list::{Head, table},
    parts::{badge, count, empty, icon, money, status_badge, time},
};
use crate::{
    model::{LogRow, Wallet},
    money::Money,
    storage::Pace,
};
use maud::{Markup, html};
use serde_json::json;

/// The spans that can be chosen: name in the address, words, and how many periods of how many milliseconds it has.
pub const RANGES: &[(&str, &str, i64, i64)] =
    &[("24h", "24 hours", 24, 3_600_000), ("7d", "7 days", 28, 6 * 3_600_000), ("30d", "30 days", 30, 24 * 3_600_000)];

/// One period of the charts.
#[derive(Debug, Clone, Copy, Default)]
pub struct Point {
    /// Its beginning, in seconds since 1970.
    pub at_s: i64,
    /// Turns in it.
    pub turns: u64,
    /// Failures in it.
    pub errors: u64,
    /// What was charged in it.
    pub cost: Money,
}

/// A name and how much of the whole it has.
pub struct Share {
    /// The name.
    pub name: String,
    /// Where it leads, if anywhere.
    pub path: Option<String>,
    /// Tokens, in and out.
    pub tokens: u64,
    /// What was charged.
    pub cost: Money,
    /// Turns.
    pub turns: u64,
}

/// What the page shows.
pub struct Overview {
    /// One of [`RANGES`].
    pub range: &'static str,
    /// The wallet.
    pub wallet: Wallet,
    /// The charts' points, oldest first.
    pub points: Vec<Point>,
    /// How answers went.
    pub pace: Pace,
    /// Rows of the log that failed or were refused.
    pub failed: u64,
    /// The most answers that percentiles are taken from.
    pub answers_max: u64,
    /// By model, most tokens first.
    pub models: Vec<Share>,
    /// By agent, dearest first.
    pub agents: Vec<Share>,
    /// By key, dearest first.
    pub keys: Vec<Share>,
    /// What failed last.
    pub failures: Vec<LogRow>,
    /// Whether there is an agent at all.
    pub has_agents: bool,
}

impl Overview {
    fn turns(&self) -> u64 {
        self.points.iter().map(|point| point.turns).sum()
    }

    fn spend(&self) -> Money {
        self.points.iter().fold(Money::ZERO, |sum, point| sum.checked_add(point.cost).unwrap_or(Money::MAX))
    }
}

/// The page.
pub fn page(frame: &Frame, view: &Overview) -> Html {
    let heading = Heading { actions: ranges(view.range), ..Heading::new("Overview", "What your agents did, and what it cost.") };
    frame.page(&heading, live(view))
}

/// The part that keeps itself up to date.
pub fn live(view: &Overview) -> Html {
    html! {
        div.stack #overview data-live="/dashboard/events" data-live-event="overview" hx-get={ "/dashboard?range=" (view.range) } hx-trigger="live"
            hx-select="#overview" hx-target="this" hx-swap="outerHTML" {
            (stats(view))
            @if view.pace.rows == 0 {
                (nothing(view))
            } @else {
                div.grid.even {
                    (spend_chart(view))
                    (turns_chart(view))
                }
                div.grid.even {
                    (shares("Tokens by model", &view.models, true))
                    (shares("Top agents", &view.agents, false))
                    (shares("Top keys", &view.keys, false))
                }
                (failures(view))
            }
        }
    }
}

fn ranges(here: &str) -> Markup {
    html! {
        span.live data-live-state { "Live" }
        nav.segments aria-label="Range" {
            @for (name, words, ..) in RANGES {
                a href={ "/dashboard?range=" (name) } aria-current=[(*name == here).then_some("true")] { (words) }
            }
        }
    }
}

fn stats(view: &Overview) -> Markup {
    let rate = |failed: u64, rows: u64| match (failed * 1_000).checked_div(rows) {
        Some(rate) => format!("{}.{} %", rate / 10, rate % 10),
        None => "–".to_owned(),
    };
    html! {
        dl.stats {
            div.stat {
                dt { a href="/dashboard/wallet" { "Balance" } }
                dd { (money(view.wallet.balance)) }
                dd.stat-note {
                    @if view.wallet.held.is_zero() { "nothing held" } @else { (money(view.wallet.held)) " held by running turns" }
                }
            }
            div.stat { dt { "Spend" } dd { (money(view.spend())) } dd.stat-note { "in this range" } }
            div.stat { dt { "Turns" } dd { (count(view.turns())) } dd.stat-note { "answered or failed" } }
            div.stat {
                dt { a href="/dashboard/logs?failed=1" { "Error rate" } }
                dd { (rate(view.failed, view.pace.rows)) }
                dd.stat-note { (count(view.failed)) " of " (count(view.pace.rows)) " log rows" }
            }
            (pace("Latency, median", view.pace.latency_ms))
            (pace("First token, median", view.pace.first_token_ms))
        }
        @if view.pace.answers >= view.answers_max { p.hint { "Latencies are those of the newest " (count(view.pace.answers)) " answers." } }
    }
}

fn pace(name: &str, percentiles: Option<[u64; 3]>) -> Markup {
    html! {
        div.stat {
            dt { (name) }
            @match percentiles {
                Some([half, most, nearly_all]) => {
                    dd { (duration(half)) }
                    dd.stat-note { span.nowrap { "p95 " (duration(most)) "," } " " span.nowrap { "p99 " (duration(nearly_all)) } }
                }
                None => { dd { "–" } dd.stat-note { "no answer yet" } }
            }
        }
    }
}

/// Milliseconds as people read them.
pub(super) fn duration(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        _ => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1_000),
    }
}

fn nothing(view: &Overview) -> Markup {
    if view.has_agents {
        let actions = html! { a.button.primary href="/dashboard/playground" { (icon("play")) "Open the playground" } };
        empty(
            "overview",
            "Nothing happened in this range",
            "Say something to an agent, here or over the API, and this page fills by itself.",
            actions,
        )
    } else {
        let actions = html! { a.button.primary href="/dashboard/agents/new" { (icon("plus")) "Make an agent" } };
        empty(
            "agents",
            "Begin with an agent",
            "An agent is a prompt, a model and tools. The model echo costs nothing and needs no vendor.",
            actions,
        )
    }
}

fn spend_chart(view: &Overview) -> Markup {
    let times: Vec<_> = view.points.iter().map(|point| point.at_s).collect();
    // A drawing wants numbers; what is exact stands beside it.
    let values: Vec<f64> = view.points.iter().map(|point| point.cost.to_string().parse().unwrap_or_default()).collect();
    let series = json!({ "t": times, "series": [{ "label": "Spend", "values": values }] });
    html! {
        section.card {
            header.card-head { h2 { "Spend" } p { (money(view.spend())) " in this range" } }
            div.card-body {
                figure.chart data-chart="bars" data-unit="money" data-series=(series) { figcaption.sr-only { "Spend over time" } }
            }
        }
    }
}

fn turns_chart(view: &Overview) -> Markup {
    let times: Vec<_> = view.points.iter().map(|point| point.at_s).collect();
    let turns: Vec<_> = view.points.iter().map(|point| point.turns).collect();
    let errors: Vec<_> = view.points.iter().map(|point| point.errors).collect();
    let series = json!({ "t": times, "series": [{ "label": "Turns", "values": turns }, { "label": "Failures", "values": errors }] });
    html! {
        section.card {
            header.card-head { h2 { "Turns" } p { (count(view.turns())) " turns" } }
            div.card-body {
                figure.chart data-chart="lines" data-unit="count" data-series=(series) { figcaption.sr-only { "Turns and failures over time" } }
            }
        }
    }
}

fn shares(title: &str, shares: &[Share], tokens: bool) -> Markup {
    let weight = |share: &Share| if tokens { share.tokens } else { share.cost.nanos().unsigned_abs().max(share.turns) };
    let most = shares.iter().map(weight).max().unwrap_or_default().max(1);
    html! {
        section.card {
            header.card-head { h2 { (title) } }
            div.card-body {
                @if shares.is_empty() { p.hint { "Nothing in this range." } }
                ol.bars {
                    @for share in shares {
                        li {
                            span.bars-name { @match &share.path { Some(path) => { a href=(path) { (share.name) } } None => { (share.name) } } }
                            span.bars-value {
                                @if tokens { (count(share.tokens)) } @else { (money(share.cost)) " · " (count(share.turns)) " turns" }
                            }
                            meter.bars-meter min="0" max=(most) value=(weight(share)) aria-label=(share.name) {}
                        }
                    }
                }
            }
        }
    }
}

const FAILURE_HEADS: [Head; 4] = [Head::Words("When"), Head::Words("Status"), Head::Words("What"), Head::Words("Detail")];

fn failure(row: &LogRow) -> Markup {
    html! {
        tr {
            td data-label="When" { a.row-link href={ "/dashboard/logs/" (row.id) } { (time(row.created_at, "ago")) } }
            td data-label="Status" { (status_badge(row.status)) }
            td data-label="What" { code { (row.code.as_deref().unwrap_or(row.event.name())) } }
            td data-label="Detail" { (row.detail.as_deref().unwrap_or("")) }
        }
    }
}

fn failures(view: &Overview) -> Markup {
    html! {
        section.card {
            header.card-head {
                h2 { "Recent failures" }
                div.actions { a.button.small href="/dashboard/logs?failed=1" { "All failures" } }
            }
            @if view.failures.is_empty() {
                div.card-body { p { (badge("ok", "quiet")) " Nothing failed in this range." } }
            } @else {
                (table("Recent failures", &FAILURE_HEADS, view.failures.iter().map(failure)))
            }
        }
    }
}
