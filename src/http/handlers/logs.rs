//! The tenant's log.

use crate::{
    error::{Error, Result},
    http::{
        call::{Reply, Request, TenantCall},
        endpoint::{Answer, Endpoint, Handler},
    },
    ids::LogId,
    model::{List, LogEvent, LogRow, Order, Role},
    storage::LogFilter,
};

const TAG: &str = "Logs";

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::new("LogList", "GET", "/api/v1/logs", Handler::Tenant(Role::Viewer, log_list))
            .about(TAG, "List the log: one row a step of a turn, or a refused request")
            .describe("Refusals are sampled when they come in floods.")
            .paged()
            .query("status", "only this HTTP status")
            .query("code", "only this error code")
            .query("event", "step, refused, interrupted or hold_breach")
            .query("key_id", "only of this key")
            .query("user_id", "only of this user")
            .query("config_id", "only on this config")
            .query("conversation_id", "only in this conversation")
            .query("turn_id", "only of this turn")
            .query("request_id", "only of this request")
            .query("model", "only calls of this model")
            .query("provider", "only calls of this provider")
            .query("since", "from this time on")
            .query("until", "before this time")
            .answers::<List<LogRow>>(200)
            .errors(&["validation_failed"]),
        Endpoint::new("LogGet", "GET", "/api/v1/logs/{id}", Handler::Tenant(Role::Viewer, log_get))
            .about(TAG, "Read a row of the log")
            .answers::<LogRow>(200)
            .errors(&["not_found"]),
    ]
}

fn filter(request: &Request) -> Result<LogFilter> {
    let text = |name| request.query(name).map(str::to_owned);
    let event = match request.query("event") {
        None => None,
        Some(name) => {
            Some(LogEvent::from_name(name).ok_or_else(|| Error::invalid("event", "expected step, refused, interrupted or hold_breach"))?)
        }
    };
    Ok(LogFilter {
        status: request.query_as("status", "an HTTP status such as 200")?,
        failed: false,
        code: text("code"),
        event,
        key_id: request.query_as("key_id", "a key's id")?,
        user_id: request.query_as("user_id", "a user's id")?,
        config_id: request.query_as("config_id", "a config's id")?,
        conversation_id: request.query_as("conversation_id", "a conversation's id")?,
        turn_id: request.query_as("turn_id", "a turn's id")?,
        request_id: request.query_as("request_id", "a request's id")?,
        model: text("model"),
        provider: text("provider"),
        since: request.query_as("since", "an RFC 3339 time such as 2026-11-24T08:30:00Z")?,
        until: request.query_as("until", "an RFC 3339 time such as 2026-11-24T08:30:00Z")?,
    })
}

fn log_list(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let (filter, page) = (filter(call.request)?, call.request.page(Order::Desc)?);
        Reply::ok(&call.store.log_list(filter, page).await?)
    })
}

fn log_get(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let id: LogId = call.request.id("id", "log row")?;
        Reply::ok(&call.store.log_get(id).await?)
    })
}
