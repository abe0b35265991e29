//! The log's pages. Filters that are left empty filter nothing.

use super::{agents_of, chosen, frame, keys_of, pages_of};
use crate::{
    clock::Time,
    dashboard::{Place, logs},
    error::{Error, Result},
    http::{
        call::{PageCall, Reply, Request},
        endpoint::{Answer, Endpoint, Handler},
    },
    ids::LogId,
    model::{LogEvent, Order, Role},
    storage::LogFilter,
};
use std::str::FromStr;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::new("LogsPage", "GET", "/dashboard/logs", Handler::Page(Role::Viewer, list)),
        Endpoint::new("LogPage", "GET", "/dashboard/logs/{id}", Handler::Page(Role::Viewer, detail)),
    ]
}

fn parsed<T: FromStr>(request: &Request, name: &'static str, expected: &str) -> Result<Option<T>> {
    chosen(request, name).map(|text| text.parse().map_err(|_| Error::invalid(name, format!("expected {expected}")))).transpose()
}

/// A time as a browser's field gives it, which knows no zone: UTC, as the field says.
fn time(request: &Request, name: &'static str) -> Result<Option<Time>> {
    let wrong = || Error::invalid(name, "expected a time such as 2026-11-24T08:30");
    let whole = |text: &str| match text.len() {
        16 => format!("{text}:00Z"),
        19 => format!("{text}Z"),
        _ => text.to_owned(),
    };
    chosen(request, name).map(|text| whole(text).parse().map_err(|_| wrong())).transpose()
}

fn filter(request: &Request) -> Result<LogFilter> {
    let event =
        chosen(request, "event").map(|name| LogEvent::from_name(name).ok_or_else(|| Error::invalid("event", "no event is called so")));
    Ok(LogFilter {
        failed: request.query("failed") == Some("1"),
        status: parsed(request, "status", "an HTTP status such as 200")?,
        event: event.transpose()?,
        config_id: parsed(request, "config_id", "an agent's id")?,
        key_id: parsed(request, "key_id", "a key's id")?,
        conversation_id: parsed(request, "conversation_id", "a conversation's id")?,
        since: time(request, "since")?,
        until: time(request, "until")?,
        ..LogFilter::default()
    })
}

fn asked(request: &Request) -> logs::Asked {
    let text = |name| chosen(request, name).unwrap_or_default().to_owned();
    let paged = ["after", "before"].iter().any(|name| request.query(name).is_some());
    let kept: Vec<_> = request.query_all().iter().filter(|(name, value)| name != "said" && !value.is_empty()).collect();
    logs::Asked {
        failed: request.query("failed") == Some("1"),
        status: text("status"),
        event: text("event"),
        config_id: text("config_id"),
        key_id: text("key_id"),
        conversation_id: text("conversation_id"),
        since: text("since"),
        until: text("until"),
        path: super::path_with("/dashboard/logs", kept.iter().map(|(name, value)| (name.as_str(), value.as_str()))),
        newest: !paged,
        filtered: !kept.is_empty(),
    }
}

fn list(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let request = call.request;
        let rows = call.store.log_list(filter(request)?, request.page(Order::Desc)?).await?;
        let pages = pages_of(request, &rows, "/dashboard/logs");
        let (agents, keys, frame) = (agents_of(&call).await?, keys_of(&call).await?, frame(&call, Place::Logs).await?);
        let page = logs::list(&frame, &asked(request), &agents, &keys, &rows.data, &pages);
        Ok(Reply::html(200, page))
    })
}

fn detail(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let id: LogId = call.request.id("id", "log row")?;
        let row = call.store.log_get(id).await?;
        let (agents, keys) = (agents_of(&call).await?, keys_of(&call).await?);
        let agent = agents.iter().find(|agent| Some(agent.id) == row.config_id).map(|agent| agent.body.name.as_str());
        let key = keys.iter().find(|key| Some(key.id) == row.key_id).map(|key| key.name.as_str());
        Ok(Reply::html(200, logs::detail(&frame(&call, Place::Logs).await?, &row, agent, key)))
    })
}
