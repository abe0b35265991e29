//! The driver: does what a turn's state machine asks for and tells it what happened. It runs in a task of its own and owns the vendor call, so
//! that nothing a client does or leaves undone can lose an answer or its charge.

use super::{
    Agent,
    feed::{Event, Feed},
    input::Admitted,
    prepare::{Aim, Matter, Prepared, Purpose},
    running::{ClaimGuard, ConversationGuard, Slot, TurnGuard},
    settle::{Bill, Called, answered, called_tools, failed, settle_free, stored_of, summarised, until_stored},
    turn::{Ask, Happened, Retry, Turn},
};
use crate::{
    error::{Error, Result},
    model::{AgentType, FinishReason, JsonObject, ModelRef, StoredMessage, Summary, TurnOutcome, Usage},
    money::Money,
    provider::{
        Answer, Broken, Piece, RefusalKind,
        client::{Call, Ended, Outcome},
    },
    pulse,
    storage::{Hold, NewMessage, OpenTurn, Principal, Settled, TenantStore},
    telemetry::{ChatFacts, TurnSpan},
};
use futures_util::FutureExt;
use std::{panic::AssertUnwindSafe, sync::Arc, time::Instant};
use tokio_util::sync::CancellationToken;

/// All that a turn works with.
pub(super) struct Drive {
    pub(super) who: Principal,
    pub(super) store: TenantStore,
    pub(super) open: Box<OpenTurn>,
    pub(super) admitted: Admitted,
    /// Remarks that replace those of the conversation.
    pub(super) metadata: Option<JsonObject>,
    pub(super) arrived: Instant,
    pub(super) feed: Arc<Feed>,
    pub(super) cancel: CancellationToken,
    /// Where a collector is told of it.
    pub(super) span: Option<TurnSpan>,
}

/// What a turn has made of its conversation so far.
#[derive(Debug, Clone)]
pub(super) struct Memory {
    /// What stands for the oldest turns.
    pub(super) summary: Option<Summary>,
    /// The first message of the history that it does not stand for.
    pub(super) from: usize,
    /// What earlier steps of this turn added to the conversation.
    pub(super) said: Vec<Arc<StoredMessage>>,
    /// The number of the next step, whose outcome is logged.
    pub(super) step: u32,
    /// What the steps before it used.
    pub(super) usage: Usage,
    /// What they cost.
    pub(super) cost: Money,
}

impl Memory {
    /// Of a turn that has just begun.
    pub(super) fn begun(open: &OpenTurn) -> Self {
        Self { summary: open.summary.clone(), from: 0, said: Vec::new(), step: 1, usage: Usage::default(), cost: Money::ZERO }
    }

    /// Takes a summary in that was stored.
    fn summarised(&mut self, open: &OpenTurn, summary: Summary, bill: &Bill) {
        self.from = open.history.partition_point(|stored| stored.message.seq <= summary.until_seq);
        self.summary = Some(summary);
        self.paid(bill.usage.unwrap_or_default(), bill.charge);
    }

    /// Takes in what a step stored that was not the turn's last.
    pub(super) fn went_on(&mut self, drive: &Drive, messages: &[NewMessage], usage: Usage, charge: Money) {
        let newest = self.said.last().or(drive.open.history.last()).map(|stored| stored.message.seq);
        let before = newest.or(self.summary.as_ref().map(|summary| summary.until_seq)).unwrap_or(0);
        let stored = (before + 1..).zip(messages).map(|(seq, message)| Arc::new(stored_of(drive, message, seq)));
        self.said.extend(stored);
        self.paid(usage, charge);
    }

    fn paid(&mut self, usage: Usage, charge: Money) {
        self.step += 1;
        self.usage = self.usage.plus(usage);
        self.cost = self.cost.checked_add(charge).unwrap_or(self.cost);
    }
}

/// What others wait for as long as a turn runs.
pub(super) struct Guards {
    pub(super) turn: TurnGuard,
    pub(super) slot: Slot,
    pub(super) claim: Option<ClaimGuard>,
    pub(super) conversation: ConversationGuard,
}

/// What follows a call.
pub(super) enum Next {
    Ask(Ask),
    /// The turn is over, with this as its last event.
    Over(Event),
}

impl Agent {
    /// Runs a turn to its end. Its `first` call may have been prepared when it was opened.
    pub(super) async fn drive(&self, mut drive: Drive, first: Option<Prepared>, guards: Guards) {
        let last = match AssertUnwindSafe(Box::pin(self.run(&drive, first))).catch_unwind().await {
            Ok(last) => last,
            Err(_) => broken_off(&drive).await,
        };
        let outcome = outcome_of(&last);
        self.parts().metrics.turn(outcome);
        if let Some(span) = drive.span.take() {
            span.end(self.parts().clock.now(), Some(outcome).filter(|outcome| matches!(*outcome, "failed" | "cancelled")));
        }
        // Whoever reads the last event may go on at once: nothing may be in the way any more.
        let Guards { turn, slot, claim, conversation } = guards;
        drop((slot, claim, conversation));
        crate::failpoint::hit("before-told");
        drive.feed.push(last);
        drop(turn);
    }

    async fn run(&self, drive: &Drive, mut first: Option<Prepared>) -> Event {
        let config = &drive.open.config;
        let retry = Retry::of(self.limits());
        let mut turn = Turn::new(config.model_config.primary(), config.model_config.fallbacks.clone(), config.context_policy, retry);
        if drive.runs_tools() {
            turn = turn.steps_max(u32::try_from(self.limits().sandbox_steps_max).unwrap_or(u32::MAX));
        }
        let mut memory = Memory::begun(&drive.open);
        let mut ask = turn.next(Happened::Begun, 0);
        loop {
            let next = match ask {
                Ask::Call { model, shrink } => {
                    let aim = Aim::Answer { shrink };
                    Box::pin(self.call(drive, &mut memory, &mut turn, &model, aim, first.take())).await
                }
                Ask::Compact { model, shrink } => {
                    let aim = Aim::Summary { shrink };
                    Box::pin(self.call(drive, &mut memory, &mut turn, &model, aim, None)).await
                }
                Ask::Tools(calls) => Box::pin(self.tools(drive, &mut memory, &mut turn, calls)).await,
                Ask::Wait(wait) => {
                    let waited = tokio::select! {
                        () = drive.cancel.cancelled() => Happened::Cancelled,
                        () = tokio::time::sleep(wait) => Happened::Waited,
                    };
                    Next::Ask(turn.next(waited, dice()))
                }
                Ask::Refuse(error) => Next::Over(refuse(drive, error).await),
                Ask::Fail(failure) => Next::Over(last_event(settle_free(drive, failed(drive, &memory, None, failure)).await)),
            };
            match next {
                Next::Ask(next) => ask = next,
                Next::Over(event) => return event,
            }
        }
    }

    /// Counts a call that ended.
    fn called(&self, provider: &str, wire: &'static str, ended: &Ended) {
        let parts = self.parts();
        parts.metrics.vendor_call(wire, outcome_name(&ended.outcome), ended.total);
        if let Some((ok, outcome)) = health(&ended.outcome) {
            parts.pulse.beat(provider, pulse::Call { at: parts.clock.now(), outcome, ok, took: ended.total });
        }
    }

    /// Prepares a call, unless it is `ready`, makes it and settles it.
    async fn call(&self, drive: &Drive, memory: &mut Memory, turn: &mut Turn, model: &ModelRef, aim: Aim, ready: Option<Prepared>) -> Next {
        let prepared = match ready {
            // What is held for must be settled: a turn that was cancelled meanwhile is cut off where the call begins.
            Some(ready) => Ok(Some(ready)),
            None if drive.cancel.is_cancelled() => return Next::Ask(turn.next(Happened::Cancelled, 0)),
            // Seldom needed, and large: the first call was prepared when the turn was opened.
            None => Box::pin(self.prepare(drive, memory, model, aim)).await,
        };
        let held = prepared.and_then(|prepared| Ok((prepared, self.provider(&model.provider)?)));
        let (Prepared { hold, encoded, purpose }, provider) = match held {
            Ok((Some(prepared), provider)) => (prepared, provider),
            Ok((None, _)) => return Next::Ask(turn.next(Happened::TooLong, 0)),
            Err(error) => {
                self.parts().metrics.hold("refused");
                return Next::Ask(turn.next(Happened::NotAsked(error), 0));
            }
        };
        self.parts().metrics.hold("taken");
        drive.started();
        let sent_bytes = encoded.body.len() as u64;
        let told = matches!(purpose, Purpose::Answer { .. });
        crate::failpoint::hit("before-send");
        let (ended, hold) = follow(drive, self.parts().client.send(hold, provider, encoded), told).await;
        crate::failpoint::hit("after-answer");
        self.called(&model.provider, provider.wire.name(), &ended);
        let bill = Bill::of(&ended, &hold, sent_bytes);
        if let Some(span) = &drive.span {
            span.chat(self.parts().clock.now(), &chat_facts(&ended, &hold, &bill));
        }
        self.breach_check(drive, &hold, &bill).await;
        let called = Called { hold: &hold, ended: &ended, bill: &bill };
        match (&ended.outcome, purpose) {
            (Outcome::Answered(answer), Purpose::Answer { prefix_hash, .. }) if drive.runs_tools() && !answer.calls.is_empty() => {
                let next = turn.next(Happened::Called(answer.calls.clone()), 0);
                let failure = if let Ask::Fail(failure) = &next { Some(failure.clone()) } else { None };
                let step = called_tools(drive, memory, called, answer.clone(), prefix_hash, failure);
                let messages = step.kept.as_ref().map(|kept| kept.messages.clone()).unwrap_or_default();
                match self.settle(drive, hold, step).await {
                    Ok(settled) if settled.outcome.is_none() => {
                        memory.went_on(drive, &messages, bill.usage.unwrap_or_default(), bill.charge);
                        Next::Ask(next)
                    }
                    over => Next::Over(last_event(over)),
                }
            }
            (Outcome::Answered(answer), Purpose::Answer { prefix_hash, report }) => {
                let step = answered(drive, memory, called, answer.clone(), prefix_hash, report);
                Next::Over(last_event(self.settle(drive, hold, step).await))
            }
            (Outcome::Answered(Answer { text: Some(text), .. }), Purpose::Summary { until_seq, turns }) if !text.trim().is_empty() => {
                let summary = Summary { text: text.trim().to_owned(), until_seq, turns };
                let step = summarised(drive, memory, called, summary.clone());
                match self.settle(drive, hold, step).await {
                    Ok(_) => memory.summarised(&drive.open, summary, &bill),
                    Err(error) => return Next::Over(Event::Failed(error)),
                }
                Next::Ask(turn.next(Happened::Compacted, 0))
            }
            (outcome, _) => {
                let next = turn.next(happened(outcome), dice());
                if let Ask::Fail(failure) = next {
                    let step = failed(drive, memory, Some(called), failure);
                    return Next::Over(last_event(self.settle(drive, hold, step).await));
                }
                // Another call follows: this one was not accepted, its hold ends free of charge.
                match self.settle(drive, hold, bill.released(drive)).await {
                    Ok(_) => Next::Ask(next),
                    Err(error) => Next::Over(Event::Failed(error)),
                }
            }
        }
    }
}

/// Passes on what comes in until the call is over or cancelled.
async fn follow(drive: &Drive, mut call: Call<Hold>, told: bool) -> (Ended, Hold) {
    loop {
        tokio::select! {
            biased;
            () = drive.cancel.cancelled() => break,
            piece = call.next() => match piece {
                None => break,
                // A summary is for the model, not for whoever follows the turn.
                Some(_) if !told => {}
                Some(Piece::Text(text)) => {
                    drive.feed.push(Event::Delta(text));
                    crate::failpoint::hit("after-piece");
                }
                // Where the server runs the tools, a client is told when they run.
                Some(Piece::ToolCall(_)) if drive.runs_tools() => {}
                Some(Piece::ToolCall(call)) => drive.feed.push(Event::ToolCall(Arc::new(call))),
            },
        }
    }
    call.end()
}

/// Takes a turn back that no vendor was asked for.
async fn refuse(drive: &Drive, error: Error) -> Event {
    if let Err(failed) = drive.store.turn_refuse(&drive.open).await {
        tracing::error!(error = %failed, turn = %drive.open.turn, "a refused turn could not be taken back; it is tried again");
        let (store, open) = (drive.store.clone(), drive.open.clone());
        tokio::spawn(async move { until_stored(|| store.turn_refuse(&open)).await });
    }
    Event::Failed(error)
}

/// Closes a turn whose driver panicked, so that its conversation and its idempotency key are free again.
async fn broken_off(drive: &Drive) -> Event {
    // A vendor call that was under way is the janitor's of its hold.
    let closed = until_stored(|| drive.store.turn_broken_off(drive.open.turn)).await;
    Event::Failed(closed.err().unwrap_or_else(|| Error::internal("a turn's driver panicked")))
}

pub(super) fn last_event(settled: Result<Settled>) -> Event {
    match settled {
        Ok(Settled { outcome: Some(TurnOutcome::Answered(answer)), available, .. }) => Event::Completed(Arc::from(answer), Some(available)),
        Ok(Settled { outcome: Some(TurnOutcome::Failed(failure)), .. }) => Event::Failed(failure.into()),
        Ok(Settled { outcome: None, .. }) => Event::Failed(Error::internal("a turn's last step did not end it")),
        Err(error) => Event::Failed(error),
    }
}

impl Drive {
    /// Whether the server runs the tools.
    fn runs_tools(&self) -> bool {
        self.open.config.agent_type == AgentType::Sandboxed
    }

    /// What its prompts are made of.
    pub(super) fn matter(&self) -> Matter<'_> {
        Matter { who: &self.who, open: &self.open, admitted: &self.admitted }
    }

    /// Tells followers once that the turn has begun.
    fn started(&self) {
        if self.feed.is_empty() {
            self.feed.push(Event::Started { conversation_id: self.open.conversation, turn_id: self.open.turn });
        }
    }
}

/// What a call that led to no step of its own means for the turn.
fn happened(outcome: &Outcome) -> Happened {
    match outcome {
        Outcome::Answered(_) => Happened::Broken(Broken::Malformed("a summary without text".to_owned())),
        Outcome::Refused(refusal) => Happened::Refused(refusal.clone()),
        Outcome::Broken(broken) => Happened::Broken(broken.clone()),
        Outcome::Cancelled => Happened::Cancelled,
    }
}

/// How a turn ended, for the metrics.
fn outcome_of(last: &Event) -> &'static str {
    match last {
        Event::Completed(answer, _) if answer.finish_reason == FinishReason::ToolCalls => "tool_calls",
        Event::Completed(..) => "completed",
        Event::Failed(Error::TurnCancelled) => "cancelled",
        _ => "failed",
    }
}

/// What a collector is told of a call.
fn chat_facts<'a>(ended: &Ended, hold: &'a Hold, bill: &Bill) -> ChatFacts<'a> {
    let (finish, failed) = match &ended.outcome {
        Outcome::Answered(answer) => (Some(answer.finish.name()), None),
        other => (None, Some(outcome_name(other))),
    };
    ChatFacts {
        provider: &hold.model().provider,
        model: &hold.model().model,
        row: &hold.row().name,
        output_tokens_max: hold.output_tokens(),
        usage: bill.usage,
        finish,
        failed,
        took: ended.total,
    }
}

/// What a call tells of its provider's health: nothing where the caller let go or asked for what cannot be.
fn health(outcome: &Outcome) -> Option<(bool, &'static str)> {
    match outcome {
        Outcome::Answered(_) => Some((true, "answered")),
        Outcome::Refused(refusal) => match refusal.kind {
            RefusalKind::Overloaded => Some((false, "overloaded")),
            RefusalKind::Unreachable => Some((false, "unreachable")),
            RefusalKind::NotConfigured => Some((false, "credentials refused")),
            RefusalKind::ContextTooLong | RefusalKind::Invalid => None,
        },
        Outcome::Broken(_) => Some((false, "broken off")),
        Outcome::Cancelled => None,
    }
}

fn outcome_name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Answered(_) => "answered",
        Outcome::Refused(refusal) if refusal.kind == RefusalKind::Unreachable => "unreachable",
        Outcome::Refused(_) => "refused",
        Outcome::Broken(_) => "broken",
        Outcome::Cancelled => "cancelled",
    }
}

/// A random byte, to spread the waits of a crowd. Without the machine's randomness they simply do not spread.
fn dice() -> u8 {
    let mut byte = [0];
    match getrandom::fill(&mut byte) {
        Ok(()) => byte[0],
        Err(_) => 0,
    }
}
