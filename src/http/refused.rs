//! Requests of a known tenant that were turned away: a row in the tenant's own log, at most so many a minute, so that its people can see what
//! their apps run into.

use super::{call::TenantCall, door::Seen, problem};
use crate::{
    app::App,
    error::{Error, Result},
    ids::{ConfigId, LogId, RequestId},
    model::{LogEvent, LogRow},
    storage::{Principal, TenantStore},
};
use std::time::Instant;

/// Notes what the door refused.
pub(super) async fn note(app: &App, seen: &Seen, who: &Principal, error: &Error) {
    let endpoint = seen.endpoint.map_or("none", |endpoint| endpoint.name);
    let row = row(app, who, error, seen.id, seen.arrived, None, Some(endpoint));
    let noted: Result<()> = async { app.storage.log_refused(&app.storage.tenant_store(who).await?, row).await }.await;
    told(noted);
}

/// Notes a chat request that was refused before any vendor call.
pub(super) async fn note_chat(call: &TenantCall<'_>, error: &Error) {
    let config = call.request.path("config_id").parse().ok();
    let row = row(call.app, &call.who, error, call.request.id, call.request.arrived, config, None);
    let store: &TenantStore = &call.store;
    told(call.app.storage.log_refused(store, row).await);
}

/// The refusal stands whether or not it could be written down.
fn told(noted: Result<()>) {
    if let Err(error) = noted {
        tracing::warn!(%error, "a refusal could not be logged");
    }
}

fn row(
    app: &App,
    who: &Principal,
    error: &Error,
    request: RequestId,
    arrived: Instant,
    config_id: Option<ConfigId>,
    endpoint: Option<&str>,
) -> LogRow {
    let parts = problem::problem_of(error);
    LogRow {
        id: LogId::new(),
        turn_id: None,
        step: None,
        created_at: app.clock.now(),
        key_id: Some(who.key_id()),
        user_id: Some(who.user_id()),
        config_id,
        conversation_id: None,
        event: LogEvent::Refused,
        status: parts.status(),
        code: Some(parts.code.code.to_owned()),
        provider: None,
        model: None,
        usage: None,
        cost: None,
        estimated: false,
        latency_ms: u64::try_from(arrived.elapsed().as_millis()).ok(),
        provider_ms: None,
        time_to_first_token_ms: None,
        request_id: Some(request),
        operator_cost: None,
        // As the caller was told it; what went wrong inside is for the server's log alone.
        detail: Some(endpoint.map_or_else(|| parts.detail.clone(), |name| format!("{name}: {}", parts.detail))),
    }
}
