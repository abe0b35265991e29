//! The driver: does what a turn's state machine asks for and tells it what happened. It runs in a task of its own and owns the vendor call, so
//! that nothing a client does or leaves undone can lose an answer or its charge.

use super::{
    Agent,
    feed::Event,
    input::Admitted,
    prepare::Prepared,
    running::{ClaimGuard, ConversationGuard, Slot, TurnGuard},
    settle::{Bill, answered, failed, settle_failed},
    turn::{Ask, Happened, Retry, Turn},
};
use crate::{
    error::Error,
    model::{JsonObject, ModelRef, TurnFailure},
    provider::{
        Piece, RefusalKind,
        client::{Ended, Outcome},
    },
    storage::{Hold, OpenTurn, Principal, Step, TenantStore},
};
use std::{sync::Arc, time::Instant};

/// All that a turn works with.
pub(super) struct Drive {
    pub(super) who: Principal,
    pub(super) store: TenantStore,
    pub(super) open: Box<OpenTurn>,
    pub(super) admitted: Admitted,
    /// Remarks that replace those of the conversation.
    pub(super) metadata: Option<JsonObject>,
    pub(super) arrived: Instant,
    pub(super) guard: TurnGuard,
    pub(super) _held: (Slot, Option<ClaimGuard>, ConversationGuard),
}

impl Agent {
    /// Runs a turn to its end.
    pub(super) async fn drive(self, drive: Drive) {
        let config = &drive.open.config;
        let retry = Retry::of(self.limits());
        let mut turn = Turn::new(config.model_config.primary(), config.model_config.fallbacks.clone(), config.context_policy, retry);
        let mut ask = turn.next(Happened::Begun, 0);
        loop {
            ask = match ask {
                Ask::Call { model, shrink } => match self.call(&drive, &mut turn, &model, shrink).await {
                    Some(ask) => ask,
                    None => return,
                },
                Ask::Wait(wait) => {
                    let waited = tokio::select! {
                        () = drive.guard.entry.cancel.cancelled() => Happened::Cancelled,
                        () = tokio::time::sleep(wait) => Happened::Waited,
                    };
                    turn.next(waited, dice())
                }
                Ask::Refuse(error) => return self.refuse(&drive, error).await,
                Ask::Fail(failure) => return self.fail(&drive, failure).await,
                // The machine asks for this only in answer to an answered call, which `call` has settled.
                Ask::Answer => return self.fail(&drive, TurnFailure::Internal).await,
            };
        }
    }

    /// Prepares, makes and settles one call. Nothing is left to do when the turn ended with it.
    async fn call(&self, drive: &Drive, turn: &mut Turn, model: &ModelRef, shrink: u32) -> Option<Ask> {
        let cancel = &drive.guard.entry.cancel;
        if cancel.is_cancelled() {
            return Some(turn.next(Happened::Cancelled, 0));
        }
        let prepared = match self.prepare(drive, model, shrink).await {
            Ok(prepared) => prepared,
            Err(error) => {
                self.parts().metrics.hold("refused");
                return Some(turn.next(Happened::NotAsked(error), 0));
            }
        };
        self.parts().metrics.hold("taken");
        drive.started();
        let Prepared { hold, provider, encoded, prefix_hash, report } = prepared;
        let sent_bytes = encoded.body.len() as u64;
        let wire = provider.wire.name();
        let mut call = self.parts().client.send(hold, provider, encoded);
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                piece = call.next() => match piece {
                    None => break,
                    Some(Piece::Text(text)) => drive.guard.entry.feed.push(Event::Delta(text.into())),
                    Some(Piece::ToolCall(call)) => drive.guard.entry.feed.push(Event::ToolCall(Arc::new(call))),
                },
            }
        }
        let (ended, hold) = call.end();
        let happened = happened(&ended);
        self.parts().metrics.vendor_call(wire, self.known_model(model).as_deref(), outcome_name(&ended.outcome), ended.total);
        let bill = Bill::of(&ended, &hold, sent_bytes);
        self.breach_check(drive, &hold, &bill).await;
        match (turn.next(happened, dice()), ended.outcome.clone()) {
            (Ask::Answer, Outcome::Answered(answer)) => {
                let step = answered(drive, &hold, &bill, &ended, answer, prefix_hash, report);
                self.finish(drive, hold, step).await;
                None
            }
            (Ask::Fail(failure), _) => {
                let step = failed(drive, Some((&hold, &bill, &ended)), failure);
                self.finish(drive, hold, step).await;
                None
            }
            (next, _) => {
                // Another call follows: this one was not accepted, its hold ends free of charge.
                let released = self.settle(drive, hold, Arc::new(bill.released(drive))).await;
                if released.is_err() {
                    return Some(Ask::Fail(TurnFailure::Internal));
                }
                Some(next)
            }
        }
    }

    /// Settles a turn's last step and tells its followers.
    async fn finish(&self, drive: &Drive, hold: Hold, step: Step) {
        let settled = self.settle(drive, hold, Arc::new(step)).await;
        self.tell(drive, settled.map(|settled| settled.outcome));
    }

    /// Ends a turn for which no money is held.
    async fn fail(&self, drive: &Drive, failure: TurnFailure) {
        let step = Arc::new(failed(drive, None, failure));
        let settled = settle_failed(drive, step).await;
        self.tell(drive, settled.map(|settled| settled.outcome));
    }

    /// Takes a turn back that no vendor was asked for.
    async fn refuse(&self, drive: &Drive, error: Error) {
        if let Err(failed) = drive.store.turn_refuse(&drive.open).await {
            tracing::error!(error = %failed, turn = %drive.open.turn, "a refused turn could not be taken back; the next start does it");
        }
        self.parts().metrics.turn("refused");
        drive.guard.entry.feed.push(Event::Failed(error));
    }

    fn tell(&self, drive: &Drive, outcome: crate::error::Result<Option<crate::model::TurnOutcome>>) {
        use crate::model::TurnOutcome;
        let (name, event) = match outcome {
            Ok(Some(TurnOutcome::Answered(answer))) => ("answered", Event::Completed(Arc::from(answer))),
            Ok(Some(TurnOutcome::Failed(TurnFailure::Cancelled))) => ("cancelled", Event::Failed(Error::TurnCancelled)),
            Ok(Some(TurnOutcome::Failed(failure))) => ("failed", Event::Failed(failure.into())),
            Ok(None) => ("failed", Event::Failed(Error::internal("a turn's last step did not end it"))),
            Err(error) => ("failed", Event::Failed(error)),
        };
        self.parts().metrics.turn(name);
        drive.guard.entry.feed.push(event);
    }

    /// Models on the rate card may be named in metrics; anything else would be a label that callers choose.
    fn known_model(&self, model: &ModelRef) -> Option<String> {
        let rates = self.parts().rates.load();
        let row = rates.find(&model.provider, &model.model)?;
        Some(row.name.clone())
    }
}

impl Drive {
    /// Tells followers once that the turn has begun.
    fn started(&self) {
        let feed = &self.guard.entry.feed;
        if feed.is_empty() {
            feed.push(Event::Started { conversation_id: self.open.conversation, turn_id: self.open.turn });
        }
    }
}

fn happened(ended: &Ended) -> Happened {
    match &ended.outcome {
        Outcome::Answered(_) => Happened::Answered,
        Outcome::Refused(refusal) => Happened::Refused(refusal.clone()),
        Outcome::Broken(broken) => Happened::Broken(broken.clone()),
        Outcome::Cancelled => Happened::Cancelled,
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
