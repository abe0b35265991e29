//! A turn's step of tools: held for, run side by side, stored and charged together. Whatever stops it (a cancel, a revoked key, the machine), each
//! call gets a result, so that the conversation can go on.

use super::{offer, yard::ToolAsk};
use crate::{
    agent::{
        Agent,
        drive::{Drive, Memory, Next, last_event},
        feed::{Event, ToolRun},
        settle::{self, Machine},
        turn::{Happened, Turn},
    },
    error::{Error, Result},
    model::{Json, ModelRef, PinnedTool, ToolCall, TurnFailure, Usage},
    rates::MACHINE,
    storage::{Hold, HoldAsk, NewMessage},
    telemetry::ToolFacts,
    wallet::{self, Wish},
};
use futures_util::future::join_all;
use std::{sync::Arc, time::Duration};

/// What came of a step's calls.
struct Ran {
    results: Vec<NewMessage>,
    /// In the order of the calls: name, whether it worked, how long it took.
    told: Vec<(String, bool, Duration)>,
    failure: Option<TurnFailure>,
}

impl Agent {
    /// Runs the calls of an answer and stores what they say.
    pub(in crate::agent) async fn tools(&self, drive: &Drive, memory: &mut Memory, turn: &mut Turn, calls: Vec<ToolCall>) -> Next {
        let offered = offer::offered(&drive.open.config, drive.open.kit.as_ref());
        let (hold, ran) = match self.machine_hold(drive, memory, &offered, &calls).await {
            Ok(hold) => {
                let granted = hold.as_ref().map_or(Duration::MAX, |hold| Duration::from_millis(hold.output_tokens().into()));
                let each = granted / u32::try_from(calls.len().max(1)).unwrap_or(u32::MAX);
                (hold, self.side_by_side(drive, &offered, &calls, each).await)
            }
            Err(error) => {
                let not_run = |call: &ToolCall| NewMessage::result(call, Json::String(NOT_RUN.to_owned()), false);
                let failure = if drive.cancel.is_cancelled() { TurnFailure::Cancelled } else { TurnFailure::between_steps(&error) };
                (None, Ran { results: calls.iter().map(not_run).collect(), told: Vec::new(), failure: Some(failure) })
            }
        };
        let took: Duration = ran.told.iter().map(|(.., took)| *took).sum();
        let machine = Machine { hold: hold.as_ref(), charge: charge_of(hold.as_ref(), took), took, told: told_of(&ran.told) };
        let step = settle::ran(drive, memory, machine, ran.results.clone(), ran.failure);
        let charge = step.charge;
        let stored = match hold {
            Some(hold) => self.settle(drive, hold, step).await,
            None => settle::settle_free(drive, step).await,
        };
        match stored {
            Ok(settled) if settled.outcome.is_none() => {
                memory.went_on(drive, &ran.results, Usage::default(), charge);
                Next::Ask(turn.next(Happened::ToolsRan, 0))
            }
            over => Next::Over(last_event(over)),
        }
    }

    /// The key once more, and the money for the longest that these calls may run; nothing to hold where a tool's time is free.
    async fn machine_hold(&self, drive: &Drive, memory: &Memory, offered: &[PinnedTool], calls: &[ToolCall]) -> Result<Option<Hold>> {
        if drive.cancel.is_cancelled() {
            return Err(Error::TurnCancelled);
        }
        let who = self.standing(&drive.who)?;
        let Some(row) = self.parts().rates.load().machine().cloned() else { return Ok(None) };
        let limits = self.limits();
        let start = limits.sandbox_boot_ms + limits.sandbox_handshake_ms + limits.sandbox_wait_ms;
        let longest = |call: &ToolCall| {
            let own = offered.iter().find(|tool| tool.name == call.name).and_then(|tool| tool.timeout_s);
            let limit = own.map_or(limits.sandbox_call_ms, |seconds| Duration::from_secs(seconds.into()));
            start + limit.min(limits.sandbox_call_ms_max)
        };
        let ms = calls.iter().map(longest).sum::<Duration>().as_millis();
        let ask = HoldAsk {
            turn: drive.open.turn,
            step: memory.step,
            key: who.key_id(),
            spend_limit: who.spend_limit(),
            model: ModelRef { provider: MACHINE.0.to_owned(), model: MACHINE.1.to_owned() },
            row,
            wish: Wish {
                input_tokens_max: 0,
                cache_writes: false,
                output_tokens: u32::try_from(ms).unwrap_or(u32::MAX),
                // Less than a second for each is no use to anyone.
                output_above: u32::try_from(calls.len()).unwrap_or(u32::MAX).saturating_mul(1_000),
            },
        };
        drive.store.wallet_hold(ask).await.map(Some)
    }

    /// Runs the calls side by side; each may take so long. Told of as they begin and end.
    async fn side_by_side(&self, drive: &Drive, offered: &[PinnedTool], calls: &[ToolCall], each: Duration) -> Ran {
        let stop = drive.cancel.child_token();
        let one = async |call: &ToolCall| {
            let run = |ok, took: Option<Duration>| {
                let duration_ms = took.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
                Arc::new(ToolRun { id: call.id.clone(), name: call.name.clone(), ok, duration_ms })
            };
            drive.feed.push(Event::ToolStarted(run(None, None)));
            let ask = ToolAsk {
                tenant: drive.who.tenant_id(),
                store: &drive.store,
                config: drive.open.config_id,
                version: drive.open.config_version,
                body: &drive.open.config,
                kit: drive.open.kit.as_ref(),
                offered,
                call,
                time_max: each,
                stop: &stop,
            };
            let done = self.parts().yard.call(ask).await;
            self.parts().metrics.tool_call(if done.ok { "ok" } else { "failed" });
            if let Some(span) = &drive.span {
                let name = offered.iter().map(|tool| tool.name.as_str()).find(|name| *name == call.name);
                let failed = if done.failure.is_some() { Some("failed") } else { (!done.ok).then_some("tool_error") };
                span.tool(self.parts().clock.now(), &ToolFacts { name, call: &call.id, failed, took: done.took });
            }
            drive.feed.push(Event::ToolFinished(run(Some(done.ok), Some(done.took))));
            done
        };
        let running = join_all(calls.iter().map(one));
        let fallen = self.fallen(drive);
        tokio::pin!(running, fallen);
        let mut failure = None;
        let done = loop {
            tokio::select! {
                biased;
                done = &mut running => break done,
                // What runs is stopped, and waited for: its results are stored like any.
                error = &mut fallen, if failure.is_none() => {
                    failure = Some(TurnFailure::between_steps(&error));
                    stop.cancel();
                }
            }
        };
        let mut ran = Ran { results: Vec::new(), told: Vec::new(), failure };
        for (call, done) in calls.iter().zip(done) {
            if ran.failure.is_none() {
                ran.failure = done.failure.as_ref().map(TurnFailure::between_steps);
            }
            ran.told.push((call.name.clone(), done.ok, done.took));
            ran.results.push(NewMessage::result(call, Json::String(done.text), done.ok));
        }
        if drive.cancel.is_cancelled() {
            ran.failure = Some(TurnFailure::Cancelled);
        }
        ran
    }

    /// Waits until the turn's key stands no more.
    async fn fallen(&self, drive: &Drive) -> Error {
        loop {
            tokio::time::sleep(self.limits().stream_check_ms).await;
            if let Err(error) = self.standing(&drive.who) {
                return error;
            }
        }
    }
}

/// The result of a call that was not made.
const NOT_RUN: &str = "The tool did not run.";

/// What the calls' time costs: at most what was held.
fn charge_of(hold: Option<&Hold>, took: Duration) -> crate::money::Money {
    let Some(hold) = hold else { return crate::money::Money::ZERO };
    let output_tokens = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    wallet::charge(hold.row().cost(Usage { output_tokens, ..Usage::default() }), hold.amount()).0
}

/// For the log: which tools ran, and how.
fn told_of(told: &[(String, bool, Duration)]) -> String {
    let one = |(name, ok, took): &(String, bool, Duration)| {
        format!("{name} {} in {} ms", if *ok { "worked" } else { "failed" }, took.as_millis())
    };
    if told.is_empty() { "no tool ran".to_owned() } else { told.iter().map(one).collect::<Vec<_>>().join(", ") }
}
