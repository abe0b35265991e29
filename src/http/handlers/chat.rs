//! Chat: one request, one turn, answered plainly or as events. The turn is the agent's; this file only reads along and shows what it reads.

use crate::{
    agent::{
        Chat, Reading,
        feed::{Event, Follower, Seen},
    },
    app::App,
    error::{Error, Result},
    http::{
        answer::error_docs,
        call::{Reply, Request, TenantCall},
        endpoint::{Answer, Endpoint, Handler},
        problem::problem_of,
        refused,
        sse::{Events, event_write},
    },
    ids::{ConfigId, RequestId, TurnId},
    model::{ChatAnswer, ChatInput, Role},
    money::Money,
    storage::Principal,
    telemetry::TraceParent,
};
use bytes::Bytes;
use serde::Serialize;
use std::task::{Context, Poll};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use utoipa::ToSchema;

const TAG: &str = "Chat";

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::new("ChatCreate", "POST", "/api/v1/chat/{config_id}", Handler::Tenant(Role::Member, chat_create))
            .waits()
            .about(TAG, "Say something to an agent, or post the results of its tool calls")
            .describe(
                "Without `conversation_id` a conversation begins. When `finish_reason` is `tool_calls`, run the tools and post `tool_results` for \
                 every call. With `\"stream\": true` or `Accept: text/event-stream` the answer comes as server-sent events: `turn.started`, \
                 `message.delta`, `tool_call`, then `turn.completed` (the same object as the plain answer) or `error` (a problem). A client that \
                 goes away does not stop the turn.",
            )
            .header("Idempotency-Key", "the same request sent again with this key, within 24 hours, gets the stored answer and costs nothing")
            .header("Accept", "text/event-stream for a stream of events")
            .body::<ChatInput>()
            .answers::<ChatAnswer>(200)
            .answers_raw(200, "text/event-stream")
            .errors(&[
                "malformed_json",
                "insufficient_credit",
                "key_spend_limit",
                "tenant_suspended",
                "not_found",
                "turn_cancelled",
                "conversation_busy",
                "conversation_config_mismatch",
                "tool_results_required",
                "idempotency_in_progress",
                "validation_failed",
                "tool_results_mismatch",
                "template_variable_missing",
                "idempotency_key_reused",
                "context_too_long",
                "credit_reserved",
                "provider_error",
                "provider_overloaded",
                "pricing_unavailable",
                "provider_not_configured",
                "shutting_down",
                "model_closed",
                "provider_timeout",
                "tenant_full",
                "disk_full",
            ]),
        Endpoint::new("TurnCancel", "POST", "/api/v1/chat/turns/{turn_id}/cancel", Handler::Tenant(Role::Member, turn_cancel))
            .waits()
            .about(TAG, "Stop a running turn")
            .describe("Whoever waits for it gets 409 `turn_cancelled`. The conversation stays valid; what the vendor did is charged.")
            .answers::<TurnCancelled>(200)
            .errors(&["not_found"]),
        Endpoint::new("TurnStream", "GET", "/api/v1/chat/turns/{turn_id}/stream", Handler::Tenant(Role::Member, turn_stream))
            .waits()
            .about(TAG, "Follow or replay a turn's events")
            .describe("Events are kept in memory for 10 minutes after the turn's end, within a bound.")
            .header("Last-Event-ID", "begin behind this event")
            .answers_raw(200, "text/event-stream")
            .errors(&["not_found", "validation_failed"]),
    ]
}

/// What came of stopping a turn.
#[derive(Debug, Serialize, ToSchema)]
struct TurnCancelled {
    /// The turn.
    turn_id: TurnId,
    /// Whether it still ran when it was stopped.
    was_running: bool,
}

fn chat_create(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        match chat(&call).await {
            Ok(reply) => Ok(reply),
            Err(error) => {
                refused::note_chat(&call, &error).await;
                Ok(problem(&call, error).await)
            }
        }
    })
}

async fn chat(call: &TenantCall<'_>) -> Result<Reply> {
    let request = call.request;
    let config: ConfigId = request.id("config_id", "config")?;
    let mut input: ChatInput = request.json()?;
    input.stream |= wants_events(request);
    let stream = input.stream;
    // One that cannot be read is refused: without its key the same request again would be paid again.
    let idempotency_key = request.header_once("Idempotency-Key")?.map(str::to_owned);
    let reading = call
        .app
        .agent
        .chat(Chat {
            who: call.who.clone(),
            store: call.store.clone(),
            config,
            input,
            idempotency_key,
            request: request.id,
            arrived: request.arrived,
            trace: request.header("traceparent").and_then(TraceParent::parse),
        })
        .await?;
    let Reading { follower, turn, replayed, available } = reading;
    let reply = if stream {
        // Before the first event an error is a plain problem with its status.
        match follower.clone().next().await {
            Some((_, Event::Failed(error))) => return Err(error),
            Some(_) => {}
            None => return Err(Error::internal("a turn without an event")),
        }
        let events = Box::new(Watch::new(call, follower));
        with_credit(call, Reply::Events { events, headers: Vec::new() }, available).await
    } else {
        plain(call, &follower).await?
    };
    let reply = reply.with_header("x-turn-id", turn);
    Ok(if replayed { reply.with_header("idempotency-replayed", "true") } else { reply })
}

async fn problem(call: &TenantCall<'_>, error: Error) -> Reply {
    let available = match &error {
        Error::InsufficientCredit { available, .. } | Error::CreditReserved { available, .. } => Some(*available),
        _ => None,
    };
    with_credit(call, Reply::problem(error), available).await
}

/// The answer with what the tenant has left. That this cannot be read does not take back an answer that is there.
async fn with_credit(call: &TenantCall<'_>, reply: Reply, available: Option<Money>) -> Reply {
    let available = match available {
        Some(available) => Some(available),
        None => call.store.wallet_read().await.ok().map(|wallet| wallet.available),
    };
    match available {
        Some(available) => reply.with_header("x-credit-available", available),
        None => reply,
    }
}

fn wants_events(request: &Request) -> bool {
    request.header("accept").is_some_and(|accept| {
        accept.split(',').any(|kind| kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/event-stream")))
    })
}

/// Waits for the turn's end and answers with it.
async fn plain(call: &TenantCall<'_>, follower: &Follower) -> Result<Reply> {
    match follower.last().await {
        Some((_, Event::Completed(answer, available))) => Ok(with_credit(call, Reply::ok(&*answer)?, available).await),
        // What fails with its first event refuses the request.
        Some((1, Event::Failed(error))) => Err(error),
        // What failed after its first event is in the tenant's log already; it is no refusal.
        Some((_, Event::Failed(error))) => Ok(problem(call, error).await),
        _ => Err(Error::internal("a turn ended without its last event")),
    }
}

fn turn_cancel(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let turn_id: TurnId = call.request.id("turn_id", "turn")?;
        let was_running = call.app.agent.turn_cancel(&call.who, turn_id).await?;
        Reply::ok(&TurnCancelled { turn_id, was_running })
    })
}

fn turn_stream(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let turn: TurnId = call.request.id("turn_id", "turn")?;
        let after = match call.request.header("last-event-id") {
            None => 0,
            Some(text) => text.parse().map_err(|_| Error::invalid("Last-Event-ID", "expected the number of an event of this turn"))?,
        };
        let follower = call.app.agent.turn_follow(&call.who, turn, after)?;
        let events = Box::new(Watch::new(&call, follower));
        Ok(Reply::Events { events, headers: Vec::new() }.with_header("x-turn-id", turn))
    })
}

/// A turn's events for a client, as long as its key stands.
struct Watch {
    app: App,
    who: Principal,
    request: RequestId,
    follower: Follower,
    /// When the key is looked at again.
    check: Interval,
    over: bool,
}

impl Watch {
    fn new(call: &TenantCall<'_>, follower: Follower) -> Self {
        let every = call.app.config.limits.stream_check_ms;
        let mut check = interval_at(Instant::now() + every, every);
        // A client that did not read for a while is looked at once, and not for each time that was left out.
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { app: call.app.clone(), who: call.who.clone(), request: call.request.id, follower, check, over: false }
    }
}

impl Events for Watch {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.over {
            return Poll::Ready(None);
        }
        let mut out = Vec::new();
        while self.check.poll_tick(cx).is_ready() {
            if let Err(error) = self.app.storage.principal_again(&self.who) {
                // The turn goes on; only this reader has lost its right to read along.
                event(&self.app, self.request, &mut out, self.follower.seq() + 1, Seen::Other(&Event::Failed(error)));
                self.over = true;
                return Poll::Ready(Some(out.into()));
            }
        }
        let Self { app, request, follower, over, .. } = self;
        let read = follower.poll_each(cx, &mut |seq, seen| *over = *over || !event(app, *request, &mut out, seq, seen));
        read.map(|more| more.then(|| out.into()))
    }
}

/// Writes one event as a client sees it. One that cannot be written is a defect, behind which nothing may follow: false.
fn event(app: &App, request: RequestId, out: &mut Vec<u8>, seq: usize, seen: Seen<'_>) -> bool {
    let seq = seq as u64;
    let written = match seen {
        Seen::Delta(text) => event_write(out, seq, "message.delta", &Delta { text }),
        Seen::Other(Event::Delta(text)) => event_write(out, seq, "message.delta", &Delta { text }),
        Seen::Other(Event::Started { conversation_id, turn_id }) => {
            event_write(out, seq, "turn.started", &serde_json::json!({"conversation_id": conversation_id, "turn_id": turn_id}))
        }
        Seen::Other(Event::ToolCall(call)) => event_write(out, seq, "tool_call", &**call),
        Seen::Other(Event::ToolStarted(run)) => event_write(out, seq, "tool.started", &**run),
        Seen::Other(Event::ToolFinished(run)) => event_write(out, seq, "tool.finished", &**run),
        Seen::Other(Event::Completed(answer, _)) => event_write(out, seq, "turn.completed", &**answer),
        Seen::Other(Event::Failed(error)) => event_write(out, seq, "error", &problem_of(error).json(request, &error_docs(app))),
    };
    written.inspect_err(|error| tracing::error!(%error, "an event could not be written")).is_ok()
}

#[derive(Serialize)]
struct Delta<'a> {
    text: &'a str,
}
