//! A turn as a pure state machine: which model is asked next, when to try again, when to give up. No clock, no I/O, no money: the driver does
//! what [`Turn::next`] asks for and tells what happened. With an answer in words the turn is over; with one that calls tools it goes on where
//! the server runs the tools, until it took as many steps as it may.
//!
//! The rule behind it: a call is made again only if the vendor certainly did not accept the one before, and never after output began.

use crate::{
    config::Limits,
    error::Error,
    model::{ContextPolicy, ModelRef, ToolCall, TurnFailure},
    provider::{Broken, Refusal, RefusalKind},
};
use std::time::Duration;

/// What the driver is to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    /// Bound, hold and call this model. The prompt leaves out as much history as `shrink` says; see [`super::prompt::fit`].
    Call {
        /// Which model.
        model: ModelRef,
        /// 0 at first; one more each time the vendor found the prompt too long.
        shrink: u32,
    },
    /// Have this model summarise the oldest turns, then tell [`Happened::Compacted`].
    Compact {
        /// Which model.
        model: ModelRef,
        /// As for a call.
        shrink: u32,
    },
    /// Store this step, run these tools, store what they say, then tell [`Happened::ToolsRan`].
    Tools(Vec<ToolCall>),
    /// Wait, then tell [`Happened::Waited`].
    Wait(Duration),
    /// The turn is over without an answer, after a vendor was asked.
    Fail(TurnFailure),
    /// The turn is over before any vendor was asked: it leaves no trace but a log row.
    Refuse(Error),
}

/// What happened since.
#[derive(Debug, Clone, PartialEq)]
pub enum Happened {
    /// Nothing yet.
    Begun,
    /// The wait is over.
    Waited,
    /// No money, no price, no credentials for this model: it was not asked.
    NotAsked(Error),
    /// The prompt does not fit the window, and the policy is to summarise.
    TooLong,
    /// The oldest turns are summarised.
    Compacted,
    /// The model wants tools run, and they are the server's to run.
    Called(Vec<ToolCall>),
    /// The tools ran, well or not.
    ToolsRan,
    /// The vendor certainly did not accept the call.
    Refused(Refusal),
    /// The vendor may have accepted the call, and no answer came of it.
    Broken(Broken),
    /// Someone cancelled the turn.
    Cancelled,
}

/// The state of a turn.
#[derive(Debug, Clone)]
pub struct Turn {
    /// The models to try, in order; never empty.
    models: Vec<ModelRef>,
    /// Which one is being tried.
    at: usize,
    /// Calls of this model so far.
    attempts: u32,
    shrink: u32,
    compactions: u32,
    /// Answers so far that called tools.
    steps: u32,
    steps_max: u32,
    policy: ContextPolicy,
    retry: Retry,
    /// What the vendors said before; the last of it is the turn's failure when nothing is left to try.
    failure: Option<TurnFailure>,
}

/// How often and how soon a refused call is made again.
#[derive(Debug, Clone, Copy)]
pub struct Retry {
    /// Calls of one model altogether.
    pub attempts_max: u32,
    /// The wait before the second.
    pub backoff: Duration,
    /// The longest wait.
    pub backoff_max: Duration,
}

impl Retry {
    /// As the limits say.
    pub fn of(limits: &Limits) -> Self {
        Self {
            attempts_max: u32::try_from(limits.provider_attempts_max).unwrap_or(u32::MAX).max(1),
            backoff: limits.provider_backoff_ms,
            backoff_max: limits.provider_backoff_max_ms,
        }
    }

    /// The wait after so many calls: doubling, with up to half of it taken off by the dice (0–255), so that a crowd spreads.
    fn wait(self, attempts: u32, dice: u8) -> Duration {
        let doubled = self.backoff.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(self.backoff_max);
        doubled.saturating_sub(doubled.mul_f64(f64::from(dice) / 512.0))
    }
}

/// A prompt is shortened this often before its vendor's word counts.
const SHRINK_MAX: u32 = 6;
/// Summaries are made this often in one turn: enough for the longest history that is read, chunk by chunk.
const COMPACTIONS_MAX: u32 = 16;

impl Turn {
    /// A turn on these models, in order.
    pub fn new(primary: ModelRef, fallbacks: Vec<ModelRef>, policy: ContextPolicy, retry: Retry) -> Self {
        let models = std::iter::once(primary).chain(fallbacks).collect();
        Self { models, at: 0, attempts: 0, shrink: 0, compactions: 0, steps: 0, steps_max: 1, policy, retry, failure: None }
    }

    /// The same, with so many steps: for agents whose tools the server runs.
    #[must_use]
    pub fn steps_max(self, steps_max: u32) -> Self {
        Self { steps_max: steps_max.max(1), ..self }
    }

    /// What to do after this happened. `dice` is any random byte.
    pub fn next(&mut self, happened: Happened, dice: u8) -> Ask {
        match happened {
            Happened::Begun | Happened::Waited => self.call(),
            Happened::Compacted => Ask::Call { model: self.models[self.at].clone(), shrink: self.shrink },
            Happened::Called(calls) => self.called(calls),
            Happened::ToolsRan => {
                self.attempts = 0;
                self.failure = None;
                self.call()
            }
            Happened::TooLong => self.compact(),
            Happened::Cancelled => Ask::Fail(TurnFailure::Cancelled),
            Happened::NotAsked(error) => self.not_asked(error),
            Happened::Broken(broken) => Ask::Fail(failure_of_broken(&broken)),
            Happened::Refused(refusal) => self.refused(&refusal, dice),
        }
    }

    fn call(&mut self) -> Ask {
        self.attempts += 1;
        Ask::Call { model: self.models[self.at].clone(), shrink: self.shrink }
    }

    fn compact(&mut self) -> Ask {
        self.compactions += 1;
        if self.compactions > COMPACTIONS_MAX {
            let detail = "The conversation is too long for the model even after summarising it.".to_owned();
            return Ask::Fail(TurnFailure::ContextTooLong { detail });
        }
        Ask::Compact { model: self.models[self.at].clone(), shrink: self.shrink }
    }

    /// The last step that a turn may take is one that needs no other behind it.
    fn called(&mut self, calls: Vec<ToolCall>) -> Ask {
        self.steps += 1;
        if self.steps >= self.steps_max { Ask::Fail(TurnFailure::StepsExhausted { limit: self.steps_max }) } else { Ask::Tools(calls) }
    }

    /// A model that could not even be asked: the first one's reason counts; a fallback without money or price is passed over. What was stored
    /// of earlier steps stays, so that behind them a turn fails and is never taken back.
    fn not_asked(&mut self, error: Error) -> Ask {
        match (self.failure.clone(), self.at) {
            (None, 0) if self.steps == 0 => Ask::Refuse(error),
            (None, _) if self.steps > 0 => Ask::Fail(TurnFailure::between_steps(&error)),
            (failure, _) => match self.fall_back() {
                Some(ask) => ask,
                None => Ask::Fail(failure.unwrap_or(TurnFailure::Internal)),
            },
        }
    }

    fn refused(&mut self, refusal: &Refusal, dice: u8) -> Ask {
        let model = &self.models[self.at];
        let failure = failure_of_refusal(model, refusal);
        match refusal.kind {
            RefusalKind::ContextTooLong if self.policy == ContextPolicy::Truncate && self.shrink < SHRINK_MAX => {
                self.shrink += 1;
                self.failure = Some(failure);
                Ask::Call { model: model.clone(), shrink: self.shrink }
            }
            RefusalKind::ContextTooLong if self.policy == ContextPolicy::Compact && self.shrink < SHRINK_MAX => {
                self.shrink += 1;
                self.failure = Some(failure);
                self.compact()
            }
            RefusalKind::ContextTooLong | RefusalKind::NotConfigured | RefusalKind::Invalid => Ask::Fail(failure),
            RefusalKind::Overloaded | RefusalKind::Unreachable => {
                self.failure = Some(failure.clone());
                let asked = refusal.retry_after.unwrap_or_default();
                if self.attempts < self.retry.attempts_max && asked <= self.retry.backoff_max {
                    return Ask::Wait(self.retry.wait(self.attempts, dice).max(asked));
                }
                self.fall_back().unwrap_or(Ask::Fail(failure))
            }
        }
    }

    fn fall_back(&mut self) -> Option<Ask> {
        if self.at + 1 == self.models.len() {
            return None;
        }
        self.at += 1;
        self.attempts = 0;
        Some(self.call())
    }
}

fn failure_of_refusal(model: &ModelRef, refusal: &Refusal) -> TurnFailure {
    let provider = model.provider.clone();
    match refusal.kind {
        RefusalKind::Overloaded => TurnFailure::ProviderOverloaded {
            retry_after_ms: refusal.retry_after.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
        },
        RefusalKind::ContextTooLong => TurnFailure::ContextTooLong { detail: refusal.message.clone() },
        RefusalKind::NotConfigured => TurnFailure::ProviderNotConfigured { provider, detail: refusal.message.clone() },
        RefusalKind::Unreachable => TurnFailure::ProviderError { detail: format!("{provider} could not be reached.") },
        RefusalKind::Invalid => TurnFailure::ProviderError { detail: format!("{provider} refused the request: {}", refusal.message) },
    }
}

fn failure_of_broken(broken: &Broken) -> TurnFailure {
    match broken {
        Broken::TimedOut(limit) => TurnFailure::ProviderTimeout { detail: format!("The provider was too slow ({limit}).") },
        Broken::Truncated => TurnFailure::ProviderError { detail: "The provider's answer broke off before its end.".to_owned() },
        Broken::Malformed(_) => TurnFailure::ProviderError { detail: "The provider's answer could not be read.".to_owned() },
        Broken::TooLarge(limit) => TurnFailure::ProviderError { detail: format!("The provider's answer is larger than {limit} allows.") },
        Broken::Reported(message) => TurnFailure::ProviderError { detail: format!("The provider failed in mid-answer: {message}") },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str) -> ModelRef {
        ModelRef { provider: "p".to_owned(), model: name.to_owned() }
    }

    fn turn(fallbacks: &[&str], policy: ContextPolicy) -> Turn {
        let retry = Retry { attempts_max: 3, backoff: Duration::from_millis(500), backoff_max: Duration::from_secs(20) };
        Turn::new(model("first"), fallbacks.iter().map(|name| model(name)).collect(), policy, retry)
    }

    fn refused(kind: RefusalKind, retry_after: Option<u64>) -> Happened {
        Happened::Refused(Refusal { kind, status: Some(500), message: "no".to_owned(), retry_after: retry_after.map(Duration::from_secs) })
    }

    fn called(name: &str, shrink: u32) -> Ask {
        Ask::Call { model: model(name), shrink }
    }

    #[test]
    fn an_overloaded_model_is_asked_again_with_growing_waits_then_the_fallback() {
        let mut turn = turn(&["second"], ContextPolicy::Truncate);
        assert_eq!(turn.next(Happened::Begun, 0), called("first", 0));
        assert_eq!(turn.next(refused(RefusalKind::Overloaded, None), 0), Ask::Wait(Duration::from_millis(500)));
        assert_eq!(turn.next(Happened::Waited, 0), called("first", 0));
        assert_eq!(turn.next(refused(RefusalKind::Overloaded, Some(3)), 0), Ask::Wait(Duration::from_secs(3)));
        assert_eq!(turn.next(Happened::Waited, 0), called("first", 0));
        assert_eq!(turn.next(refused(RefusalKind::Overloaded, None), 0), called("second", 0));
    }

    #[test]
    fn a_vendor_that_asks_for_a_long_wait_is_left_for_the_fallback() {
        let mut turn = turn(&["second"], ContextPolicy::Truncate);
        turn.next(Happened::Begun, 0);
        assert_eq!(turn.next(refused(RefusalKind::Overloaded, Some(21)), 0), called("second", 0));
        let failed = Ask::Fail(TurnFailure::ProviderOverloaded { retry_after_ms: Some(60_000) });
        assert_eq!(turn.next(refused(RefusalKind::Overloaded, Some(60)), 0), failed);
    }

    #[test]
    fn what_may_have_been_accepted_is_never_asked_again() {
        for broken in [Broken::Truncated, Broken::TimedOut("provider_idle_timeout_ms"), Broken::Malformed("x".to_owned())] {
            let mut turn = turn(&["second"], ContextPolicy::Truncate);
            turn.next(Happened::Begun, 0);
            assert!(matches!(turn.next(Happened::Broken(broken), 0), Ask::Fail(_)));
        }
    }

    #[test]
    fn a_long_prompt_is_shortened_where_the_policy_says_so() {
        let mut truncating = turn(&[], ContextPolicy::Truncate);
        truncating.next(Happened::Begun, 0);
        for shrink in 1..=SHRINK_MAX {
            assert_eq!(truncating.next(refused(RefusalKind::ContextTooLong, None), 0), called("first", shrink));
        }
        assert!(matches!(truncating.next(refused(RefusalKind::ContextTooLong, None), 0), Ask::Fail(TurnFailure::ContextTooLong { .. })));
        let mut strict = turn(&[], ContextPolicy::Error);
        strict.next(Happened::Begun, 0);
        assert!(matches!(strict.next(refused(RefusalKind::ContextTooLong, None), 0), Ask::Fail(TurnFailure::ContextTooLong { .. })));
    }

    #[test]
    fn a_history_that_outgrows_the_window_is_summarised_a_bounded_number_of_times() {
        let compact = |shrink| Ask::Compact { model: model("first"), shrink };
        let mut turn = turn(&[], ContextPolicy::Compact);
        turn.next(Happened::Begun, 0);
        assert_eq!(turn.next(Happened::TooLong, 0), compact(0));
        assert_eq!(turn.next(Happened::Compacted, 0), called("first", 0));
        assert_eq!(turn.next(refused(RefusalKind::ContextTooLong, None), 0), compact(1));
        assert_eq!(turn.next(Happened::Compacted, 0), called("first", 1));
        for _ in 3..=COMPACTIONS_MAX {
            assert_eq!(turn.next(Happened::TooLong, 0), compact(1));
        }
        assert!(matches!(turn.next(Happened::TooLong, 0), Ask::Fail(TurnFailure::ContextTooLong { .. })));
    }

    #[test]
    fn a_first_model_that_cannot_be_asked_refuses_the_turn_but_a_fallback_is_passed_over() {
        let mut turn = turn(&["second", "third"], ContextPolicy::Truncate);
        assert_eq!(turn.clone().next(Happened::NotAsked(Error::DiskFull), 0), Ask::Refuse(Error::DiskFull));
        turn.next(Happened::Begun, 0);
        turn.next(refused(RefusalKind::Unreachable, Some(60)), 0);
        assert_eq!(turn.next(Happened::NotAsked(Error::DiskFull), 0), called("third", 0));
        let failed = Ask::Fail(TurnFailure::ProviderError { detail: "p could not be reached.".to_owned() });
        assert_eq!(turn.next(Happened::NotAsked(Error::DiskFull), 0), failed);
    }

    #[test]
    fn a_refused_credential_is_the_operators_to_mend_and_no_fallback_hides_it() {
        let mut turn = turn(&["second"], ContextPolicy::Truncate);
        turn.next(Happened::Begun, 0);
        assert!(matches!(turn.next(refused(RefusalKind::NotConfigured, None), 0), Ask::Fail(TurnFailure::ProviderNotConfigured { .. })));
    }

    fn calls() -> Vec<ToolCall> {
        vec![ToolCall { id: "call_1".to_owned(), name: "look".to_owned(), arguments: crate::model::JsonObject::new() }]
    }

    #[test]
    fn tools_run_and_the_model_is_asked_again_as_often_as_a_turn_may() {
        let mut turn = turn(&[], ContextPolicy::Truncate).steps_max(3);
        assert_eq!(turn.next(Happened::Begun, 0), called("first", 0));
        for _ in 1..3 {
            assert_eq!(turn.next(Happened::Called(calls()), 0), Ask::Tools(calls()));
            assert_eq!(turn.next(Happened::ToolsRan, 0), called("first", 0));
        }
        assert_eq!(turn.next(Happened::Called(calls()), 0), Ask::Fail(TurnFailure::StepsExhausted { limit: 3 }));
    }

    #[test]
    fn behind_a_stored_step_a_turn_fails_and_is_never_taken_back() {
        let mut turn = turn(&[], ContextPolicy::Truncate).steps_max(3);
        turn.next(Happened::Begun, 0);
        turn.next(Happened::Called(calls()), 0);
        turn.next(Happened::ToolsRan, 0);
        let stopped = TurnFailure::Stopped(crate::model::TurnStop::DiskFull);
        assert_eq!(turn.clone().next(Happened::NotAsked(Error::DiskFull), 0), Ask::Fail(stopped));
        assert_eq!(turn.next(Happened::Cancelled, 0), Ask::Fail(TurnFailure::Cancelled));
    }

    #[test]
    fn each_step_has_its_own_tries() {
        let mut turn = turn(&[], ContextPolicy::Truncate).steps_max(9);
        turn.next(Happened::Begun, 0);
        for _ in 0..2 {
            assert!(matches!(turn.next(refused(RefusalKind::Overloaded, None), 0), Ask::Wait(_)));
            turn.next(Happened::Waited, 0);
        }
        turn.next(Happened::Called(calls()), 0);
        turn.next(Happened::ToolsRan, 0);
        assert!(matches!(turn.next(refused(RefusalKind::Overloaded, None), 0), Ask::Wait(_)), "the second step begins to count anew");
    }

    #[test]
    fn the_dice_take_off_at_most_half_of_a_wait() {
        let retry = Retry { attempts_max: 9, backoff: Duration::from_millis(500), backoff_max: Duration::from_secs(20) };
        assert_eq!(retry.wait(1, 0), Duration::from_millis(500));
        assert!(retry.wait(1, 255) > Duration::from_millis(250));
        assert_eq!(retry.wait(12, 0), Duration::from_secs(20));
    }
}
