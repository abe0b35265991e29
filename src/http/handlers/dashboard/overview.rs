//! The overview, and the stream that tells open pages when something happened.

use super::{agents_of, frame, keys_of};
use crate::{
    app::App,
    clock::Time,
    dashboard::{
        Frame, Place,
        overview::{self, Overview, Point, RANGES, Share},
    },
    error::Result,
    http::{
        call::{PageCall, Reply},
        endpoint::{Answer, Endpoint, Handler},
        sse::{EVENTS_QUEUED_MAX, event_bytes},
    },
    model::{List, Order, Page, Role, UsageRow},
    storage::{LogFilter, Principal, Span, TenantStore},
};
use bytes::Bytes;
use std::{collections::HashMap, time::Duration};
use tokio::sync::mpsc;

/// The rows of the shares' lists.
const SHARES_MAX: usize = 6;
/// How often an open page's stream looks whether something happened.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::new("OverviewPage", "GET", "/dashboard", Handler::Page(Role::Viewer, page)),
        Endpoint::new("DashboardEvents", "GET", "/dashboard/events", Handler::Page(Role::Viewer, events))
            .waits()
            .answers_raw(200, "text/event-stream"),
    ]
}

fn page(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let asked = call.request.query("range");
        let range = RANGES.iter().find(|(name, ..)| Some(*name) == asked).or(RANGES.get(1));
        let view = view(&call, *range.unwrap_or(&("7d", "", 28, 21_600_000))).await?;
        let frame = Frame { scripts: &["uPlot.iife.min.js", "chart.js"], ..frame(&call, Place::Overview).await? };
        Ok(Reply::html(200, overview::page(&frame, &view)))
    })
}

async fn view(call: &PageCall<'_>, (range, _, periods, period_ms): (&'static str, &str, i64, i64)) -> Result<Overview> {
    let store = &call.store;
    let now = call.app.clock.now();
    let newest = now.ms().div_euclid(period_ms);
    let since = Time::from_ms((newest - periods + 1).saturating_mul(period_ms));
    let until = now.plus(Duration::from_millis(1));
    let figures = call.app.storage.figures(store, Span { since, until, period_ms }).await?;
    let agents = agents_of(call).await?;
    let names: HashMap<_, _> = agents.iter().map(|agent| (agent.id, agent.body.name.clone())).collect();
    let keys: HashMap<_, _> = keys_of(call).await?.into_iter().map(|key| (key.id, key.name)).collect();
    let mut models = shares(&figures.by_model, |row| {
        let name = format!("{}/{}", row.provider.as_deref()?, row.model.as_deref()?);
        Some((name, None))
    });
    // What is paid by the second has no tokens.
    models.retain(|share| share.tokens > 0);
    models.sort_by_key(|share| std::cmp::Reverse(share.tokens));
    models.truncate(SHARES_MAX);
    Ok(Overview {
        range,
        wallet: store.wallet_read().await?,
        points: points(&figures.over_time, newest - periods + 1, periods, period_ms),
        pace: figures.pace,
        failed: figures.failed,
        answers_max: call.app.config.limits.overview_answers_max as u64,
        models,
        agents: dearest(shares(&figures.by_config, |row| {
            let id = row.config_id?;
            let name = names.get(&id);
            Some((name.cloned().unwrap_or_else(|| "a deleted agent".to_owned()), name.map(|_| format!("/dashboard/agents/{id}"))))
        })),
        keys: dearest(shares(&figures.by_key, |row| {
            let id = row.key_id?;
            Some((
                keys.get(&id).cloned().unwrap_or_else(|| "the dashboard, or a key of others".to_owned()),
                Some(format!("/dashboard/logs?key_id={id}")),
            ))
        })),
        failures: figures.failures.clone(),
        has_agents: !agents.is_empty(),
    })
}

/// Every period of the range, those too in which nothing happened.
fn points(usage: &List<UsageRow>, first: i64, periods: i64, period_ms: i64) -> Vec<Point> {
    let known: HashMap<i64, &UsageRow> = usage.data.iter().map(|row| (row.period.ms().div_euclid(period_ms), row)).collect();
    (first..first.saturating_add(periods))
        .map(|period| {
            let at_s = period.saturating_mul(period_ms) / 1_000;
            known.get(&period).map_or(Point { at_s, ..Point::default() }, |row| Point {
                at_s,
                turns: row.turns,
                errors: row.errors,
                cost: row.cost,
            })
        })
        .collect()
}

/// Rows with what they are called and where they lead; those of no such thing are left out.
fn shares(usage: &List<UsageRow>, named: impl Fn(&UsageRow) -> Option<(String, Option<String>)>) -> Vec<Share> {
    let share = |row: &UsageRow| {
        let (name, path) = named(row)?;
        let tokens = row.input_tokens + row.output_tokens + row.cache_read_tokens + row.cache_write_tokens;
        Some(Share { name, path, tokens, cost: row.cost, turns: row.turns })
    };
    usage.data.iter().filter_map(share).collect()
}

fn dearest(mut shares: Vec<Share>) -> Vec<Share> {
    shares.sort_by_key(|share| std::cmp::Reverse((share.cost, share.turns)));
    shares.truncate(SHARES_MAX);
    shares
}

fn events(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let (sender, events) = mpsc::channel(EVENTS_QUEUED_MAX);
        let watch = Watch { app: call.app.clone(), who: call.who.clone(), store: call.store.clone(), sender };
        tokio::spawn(watch.run());
        Ok(Reply::Events { events: Box::new(events), headers: Vec::new() })
    })
}

/// Looks at the newest row of a tenant's log for an open page, as long as the session stands.
struct Watch {
    app: App,
    who: Principal,
    store: TenantStore,
    sender: mpsc::Sender<Bytes>,
}

impl Watch {
    async fn run(self) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        let (mut known, mut seen) = (None, 0_u64);
        loop {
            tokio::select! {
                _ = look.tick() => {}
                () = self.sender.closed() => return,
                () = self.app.stopping.cancelled() => return,
            }
            if self.app.storage.principal_again(&self.who).is_err() {
                return;
            }
            let Ok(newest) = self.store.log_list(LogFilter::default(), Page::first(1, Order::Desc)).await else { return };
            let newest = newest.first_id.unwrap_or_default();
            let happened = known.as_ref().is_some_and(|known| *known != newest);
            known = Some(newest);
            if happened {
                for name in ["overview", "log"] {
                    seen += 1;
                    let Ok(event) = event_bytes(seen, name, &seen) else { return };
                    if self.sender.send(event).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}
