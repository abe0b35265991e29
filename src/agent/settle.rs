//! The end of a step: what it costs, what it stores, and the storing itself, tried from memory until it is done.

use super::{
    Agent,
    drive::{Drive, Memory},
    lock,
    prompt::BYTES_PER_TOKEN,
};
use crate::{
    error::{Error, Result},
    ids::*,
    model::{
        ChatAnswer, ContextReport, FinishReason, Json, LogEvent, LogRow, Message, RawAnswer, Speaker, StoredMessage, Summary, ToolCall,
        TurnFailure, Usage,
    },
    money::Money,
    provider::{
        Answer,
        client::{Ended, Outcome},
    },
    rates::MACHINE,
    storage::{Hold, Kept, NewAnswer, NewMessage, Settled, Step, StepEnd},
    wallet,
};
use std::{sync::Arc, time::Duration};

/// The wait before a settle is tried again; it doubles up to [`WAIT_MAX`].
const WAIT: Duration = Duration::from_millis(50);
/// The longest wait between two tries.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// A call that is over: what was held for it, how it ended, what it costs.
#[derive(Clone, Copy)]
pub(super) struct Called<'a> {
    pub(super) hold: &'a Hold,
    pub(super) ended: &'a Ended,
    pub(super) bill: &'a Bill,
}

/// What a call costs.
#[derive(Debug, Clone)]
pub(super) struct Bill {
    /// What was used, as reported or estimated; nothing for a call that was not accepted.
    pub(super) usage: Option<Usage>,
    estimated: bool,
    /// What the tenant pays.
    pub(super) charge: Money,
    /// What falls to the operator because the vendor reported more than the bound.
    breach: Option<Money>,
}

impl Bill {
    /// Charges what the vendor reported; where its report is missing and the call may have been accepted, an estimate of what was sent and
    /// received. Never more than the hold.
    pub(super) fn of(ended: &Ended, hold: &Hold, sent_bytes: u64) -> Self {
        let estimate = || {
            let reported = ended.progress.usage.unwrap_or_default();
            let output_tokens = reported.output_tokens.max(ended.progress.output_bytes.div_ceil(BYTES_PER_TOKEN));
            let input = if reported.input_total() == 0 { sent_bytes.div_ceil(BYTES_PER_TOKEN) } else { reported.input_tokens };
            Usage { input_tokens: input, output_tokens, ..reported }
        };
        let (usage, estimated) = match &ended.outcome {
            Outcome::Answered(Answer { usage: Some(usage), .. }) => (*usage, false),
            Outcome::Answered(_) => (estimate(), true),
            Outcome::Broken(_) | Outcome::Cancelled if ended.sent => (estimate(), true),
            _ => return Self { usage: None, estimated: false, charge: Money::ZERO, breach: None },
        };
        let (charge, breach) = wallet::charge(hold.row().cost(usage), hold.amount());
        // An estimate is ours, not the vendor's word: cut to the hold, it accuses nobody.
        Self { usage: Some(usage), estimated, charge, breach: breach.filter(|_| !estimated) }
    }

    /// The step of a call that was not accepted and is followed by another.
    pub(super) fn released(&self, drive: &Drive) -> Step {
        Step {
            summary: None,
            turn: drive.open.turn,
            conversation: drive.open.conversation,
            claimed: drive.open.claim.is_some(),
            charge: self.charge,
            usage: self.usage,
            estimated: self.estimated,
            breached: self.breach.is_some(),
            kept: None,
            note: None,
            end: None,
            logs: Vec::new(),
        }
    }
}

/// The time that tools ran: what was held for it, what it costs, and what the log says of it.
pub(super) struct Machine<'a> {
    pub(super) hold: Option<&'a Hold>,
    pub(super) charge: Money,
    pub(super) took: Duration,
    pub(super) told: String,
}

/// The step of a call that was answered.
pub(super) fn answered(
    drive: &Drive,
    memory: &Memory,
    called: Called<'_>,
    answer: Answer,
    prefix_hash: String,
    context: ContextReport,
) -> Step {
    let Called { hold, bill, .. } = called;
    let usage = bill.usage.unwrap_or_default();
    let message_id = MessageId::new();
    let finish = match answer.finish {
        // Calls that a length cut away are not handed over.
        FinishReason::ToolCalls if answer.calls.is_empty() => FinishReason::Stop,
        _ if !answer.calls.is_empty() => FinishReason::ToolCalls,
        other => other,
    };
    let chat = ChatAnswer {
        response: answer.text.clone().or_else(|| answer.calls.is_empty().then(String::new)),
        conversation_id: drive.open.conversation,
        tool_calls: answer.calls.clone(),
        message_id,
        turn_id: drive.open.turn,
        finish_reason: finish,
        model: hold.model().clone(),
        usage: memory.usage.plus(usage),
        cost: memory.cost.checked_add(bill.charge).unwrap_or(bill.charge),
        balance: Money::ZERO,
        max_tokens_applied: hold.output_tokens(),
        context,
    };
    let open_calls = answer.calls.clone();
    let mut messages = asked(drive, memory);
    messages.push(message(drive, called, message_id, chat.response.clone(), answer, finish, prefix_hash));
    let kept = kept(drive, messages, open_calls);
    let row = log_row(drive, memory.step, Some(called), 200, None, None);
    step(drive, Some(called), Some(StepEnd::Answered { answer: Box::new(chat), kept: Box::new(kept) }), row)
}

/// The step of an answer that calls tools which the server runs. A turn that fails with it runs none of them.
pub(super) fn called_tools(
    drive: &Drive,
    memory: &Memory,
    called: Called<'_>,
    answer: Answer,
    prefix_hash: String,
    failure: Option<TurnFailure>,
) -> Step {
    let (calls, text) = (answer.calls.clone(), answer.text.clone());
    let mut messages = asked(drive, memory);
    messages.push(message(drive, called, MessageId::new(), text, answer, FinishReason::ToolCalls, prefix_hash));
    let (status, code) = failure.as_ref().map_or((200, None), |failure| (failure.log_code().0, Some(failure.log_code().1)));
    if failure.is_some() {
        messages.extend(calls.iter().map(|call| NewMessage::result(call, Json::String(TURN_OVER.to_owned()), false)));
    }
    let open_calls = if failure.is_some() { Vec::new() } else { calls };
    let row = log_row(drive, memory.step, Some(called), status, code, None);
    Step { kept: Some(Box::new(kept(drive, messages, open_calls))), ..step(drive, Some(called), failure.map(StepEnd::Failed), row) }
}

/// The result of a call that came with the last step that a turn may take.
const TURN_OVER: &str = "The turn ended before this tool could run.";

/// The step of tools that the server ran, well or not.
pub(super) fn ran(drive: &Drive, memory: &Memory, machine: Machine<'_>, results: Vec<NewMessage>, failure: Option<TurnFailure>) -> Step {
    let (status, code) = failure.as_ref().map_or((200, None), |failure| (failure.log_code().0, Some(failure.log_code().1)));
    let ms = u64::try_from(machine.took.as_millis()).unwrap_or(u64::MAX);
    let row = LogRow {
        provider: Some(MACHINE.0.to_owned()),
        model: Some(MACHINE.1.to_owned()),
        cost: machine.hold.map(|_| machine.charge),
        provider_ms: Some(ms),
        ..log_row(drive, memory.step, None, status, code, Some(format!("Tools: {}.", machine.told)))
    };
    Step {
        charge: machine.charge,
        note: Some(format!("tools ran for {ms} ms")),
        kept: Some(Box::new(kept(drive, results, Vec::new()))),
        ..step(drive, None, failure.map(StepEnd::Failed), row)
    }
}

/// What the turn's first step stores of what was asked.
fn asked(drive: &Drive, memory: &Memory) -> Vec<NewMessage> {
    if memory.said.is_empty() { drive.admitted.messages() } else { Vec::new() }
}

fn kept(drive: &Drive, messages: Vec<NewMessage>, open_calls: Vec<ToolCall>) -> Kept {
    Kept { messages, open_calls, template_vars: drive.open.template_vars.clone(), metadata: drive.metadata.clone() }
}

/// An answer as a message.
fn message(
    drive: &Drive,
    called: Called<'_>,
    id: MessageId,
    text: Option<String>,
    answer: Answer,
    finish: FinishReason,
    prefix_hash: String,
) -> NewMessage {
    NewMessage {
        id,
        role: Speaker::Assistant,
        content: text.map_or(Json::Null, Json::String),
        result_of: None,
        answer: Some(Box::new(NewAnswer {
            calls: answer.calls,
            model: called.hold.model().clone(),
            config_version: drive.open.config_version,
            raw: answer.raw,
            prefix_hash,
            finish,
            usage: called.bill.usage.unwrap_or_default(),
            cost: called.bill.charge,
        })),
    }
}

/// A message that this turn stored, as the next step's prompt reads it.
pub(super) fn stored_of(drive: &Drive, new: &NewMessage, seq: u64) -> StoredMessage {
    let answer = new.answer.as_deref();
    let result_of = new.result_of.as_ref();
    StoredMessage {
        message: Message {
            id: new.id,
            seq,
            role: new.role,
            content: new.content.clone(),
            tool_calls: answer.map(|answer| answer.calls.clone()).unwrap_or_default(),
            tool_call_id: result_of.map(|(id, ..)| id.clone()),
            name: result_of.map(|(_, name, _)| name.clone()),
            ok: result_of.map(|(.., ok)| *ok),
            model: answer.map(|answer| answer.model.clone()),
            config_version: answer.map(|answer| answer.config_version),
            usage: answer.map(|answer| answer.usage),
            cost: answer.map(|answer| answer.cost),
            created_at: drive.store.now(),
        },
        turn_id: drive.open.turn,
        raw: answer.map(|answer| Arc::new(RawAnswer::new(answer.model.clone(), answer.raw.clone()))),
        prefix_hash: answer.map(|answer| answer.prefix_hash.clone()),
        finish: answer.map(|answer| answer.finish),
    }
}

/// The step of a call that summarised the oldest turns.
pub(super) fn summarised(drive: &Drive, memory: &Memory, called: Called<'_>, summary: Summary) -> Step {
    let detail = format!("Summarised {} turns to fit the model's window.", summary.turns);
    let row = log_row(drive, memory.step, Some(called), 200, None, Some(detail));
    Step { summary: Some(summary), logs: with_breach(vec![row], Some(called)), ..called.bill.released(drive) }
}

/// The last step of a turn without an answer.
pub(super) fn failed(drive: &Drive, memory: &Memory, called: Option<Called<'_>>, failure: TurnFailure) -> Step {
    let (status, code) = failure.log_code();
    // The message is not kept in the conversation, so the log keeps it.
    let text = drive.admitted.text.as_ref().filter(|_| memory.said.is_empty());
    let detail = text.map(|text| format!("Not kept: {text}"));
    let row = log_row(drive, memory.step, called, status, Some(code), detail);
    step(drive, called, Some(StepEnd::Failed(failure)), row)
}

fn step(drive: &Drive, called: Option<Called<'_>>, end: Option<StepEnd>, row: LogRow) -> Step {
    let bill = called.map(|called| called.bill);
    Step {
        turn: drive.open.turn,
        conversation: drive.open.conversation,
        claimed: drive.open.claim.is_some(),
        charge: bill.map_or(Money::ZERO, |bill| bill.charge),
        usage: bill.and_then(|bill| bill.usage),
        estimated: bill.is_some_and(|bill| bill.estimated),
        breached: bill.is_some_and(|bill| bill.breach.is_some()),
        summary: None,
        kept: None,
        note: None,
        end,
        logs: with_breach(vec![row], called),
    }
}

/// A vendor that reported more than the bound gets a row of its own.
fn with_breach(mut logs: Vec<LogRow>, called: Option<Called<'_>>) -> Vec<LogRow> {
    let breach = called.and_then(|called| Some((called.hold, called.bill.breach?)));
    if let (Some((hold, breach)), Some(row)) = (breach, logs.first().cloned()) {
        let bound = hold.amount();
        let detail = format!(
            "The vendor reported more than the bound of ${bound}. You paid the bound; the model is closed until its price is checked."
        );
        let breach = LogRow {
            id: LogId::new(),
            event: LogEvent::HoldBreach,
            operator_cost: Some(breach),
            detail: Some(detail),
            cost: None,
            usage: None,
            ..row
        };
        logs.push(breach);
    }
    logs
}

fn log_row(drive: &Drive, step: u32, called: Option<Called<'_>>, status: u16, code: Option<&str>, detail: Option<String>) -> LogRow {
    let ms = |while_: Duration| u64::try_from(while_.as_millis()).unwrap_or(u64::MAX);
    let model = called.map_or_else(|| drive.open.config.model_config.primary(), |called| called.hold.model().clone());
    LogRow {
        id: LogId::new(),
        turn_id: Some(drive.open.turn),
        step: Some(step),
        created_at: drive.store.now(),
        key_id: Some(drive.who.key_id()),
        user_id: Some(drive.who.user_id()),
        config_id: Some(drive.open.config_id),
        conversation_id: Some(drive.open.conversation),
        event: LogEvent::Step,
        status,
        code: code.map(str::to_owned),
        provider: Some(model.provider),
        model: Some(model.model),
        usage: called.and_then(|called| called.bill.usage),
        cost: called.map(|called| called.bill.charge),
        estimated: called.is_some_and(|called| called.bill.estimated),
        latency_ms: Some(ms(drive.arrived.elapsed())),
        provider_ms: called.map(|called| ms(called.ended.total)),
        time_to_first_token_ms: called.and_then(|called| called.ended.first_byte).map(ms),
        request_id: Some(drive.open.request),
        operator_cost: None,
        detail,
    }
}

impl Agent {
    /// Stores a step, trying again from memory while the machine fails; meanwhile the tenant gets no new hold. Content that cannot be stored
    /// does not keep charge and log from being stored.
    pub(super) async fn settle(&self, drive: &Drive, mut hold: Hold, step: Step) -> Result<Settled> {
        let mut step = Arc::new(step);
        let mut waiting = None;
        let mut wait = WAIT;
        loop {
            let error = match drive.store.step_settle(hold, Arc::clone(&step)).await {
                Ok(settled) => {
                    crate::failpoint::hit("after-settle");
                    self.parts().metrics.step(if step.charge.is_zero() {
                        "free"
                    } else if step.estimated {
                        "estimated"
                    } else {
                        "settled"
                    });
                    return Ok(settled);
                }
                Err((error, back)) => {
                    hold = back;
                    error
                }
            };
            tracing::error!(%error, turn = %drive.open.turn, "a step could not be settled; it is tried again");
            match (&error, &step.end) {
                (Error::Conflict { .. }, _) => {
                    // Ended by someone else, so there is nothing to settle and nothing to give back.
                    hold.abandon();
                    return Err(error);
                }
                (Error::Internal { .. } | Error::NotFound { .. } | Error::TenantFull, _) if has_content(&step) => {
                    step = Arc::new(stripped(&step));
                }
                _ => {
                    if waiting.is_none() {
                        waiting = Some(Unsettled::new(self, drive.who.tenant_id()));
                    }
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(WAIT_MAX);
                }
            }
        }
    }

    /// A vendor that reported more than the bound: told in the log and counted; after three tenants the model is closed for all.
    pub(super) async fn breach_check(&self, drive: &Drive, hold: &Hold, bill: &Bill) {
        let Some(breach) = bill.breach else { return };
        let (model, tenant) = (hold.model(), drive.who.tenant_id());
        tracing::error!(provider = model.provider, model = model.model, %breach, "a vendor reported more than the bound of its call");
        self.parts().metrics.hold_breached();
        match self.parts().storage.breach_note(tenant, model, hold.row()).await {
            Ok(true) => {
                let closed = (model.provider.clone(), model.model.clone(), hold.row().fingerprint());
                lock(&self.inner.closed).insert(closed);
            }
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "a breach could not be noted in the catalog"),
        }
    }
}

/// The step without its content: charge and log alone, which says so.
fn stripped(step: &Step) -> Step {
    let (status, code) = TurnFailure::Internal.log_code();
    let told = |row: &LogRow| LogRow { status, code: Some(code.to_owned()), ..row.clone() };
    Step { kept: None, end: Some(StepEnd::Failed(TurnFailure::Internal)), logs: step.logs.iter().map(told).collect(), ..step.clone() }
}

/// Whether a step has anything that could keep its charge from being stored.
fn has_content(step: &Step) -> bool {
    step.kept.is_some() || matches!(step.end, Some(StepEnd::Answered { .. }))
}

/// Stores a step for which nothing is held, as [`Agent::settle`] does one with a hold.
pub(super) async fn settle_free(drive: &Drive, step: Step) -> Result<Settled> {
    let mut step = Arc::new(step);
    let mut wait = WAIT;
    loop {
        let error = match drive.store.step_store(Arc::clone(&step)).await {
            Ok(settled) => return Ok(settled),
            Err(error) => error,
        };
        tracing::error!(%error, turn = %drive.open.turn, "a step could not be stored; it is tried again");
        match &error {
            Error::Internal { .. } | Error::NotFound { .. } | Error::TenantFull if has_content(&step) => step = Arc::new(stripped(&step)),
            Error::Conflict { .. } | Error::NotFound { .. } => return Err(error),
            _ => {
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(WAIT_MAX);
            }
        }
    }
}

/// Tries a write again as long as the machine fails. What another write made impossible is not tried again.
pub(super) async fn until_stored<T, F: Future<Output = Result<T>>>(mut write: impl FnMut() -> F) -> Result<T> {
    let mut wait = WAIT;
    loop {
        match write().await {
            Err(error @ (Error::Conflict { .. } | Error::NotFound { .. })) => return Err(error),
            Err(error) => tracing::error!(%error, "a turn's end could not be stored; it is tried again"),
            stored => return stored,
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(WAIT_MAX);
    }
}

/// Says that a tenant has a step to settle, as long as it lives.
struct Unsettled<'a> {
    agent: &'a Agent,
    tenant: TenantId,
}

impl<'a> Unsettled<'a> {
    fn new(agent: &'a Agent, tenant: TenantId) -> Self {
        *lock(&agent.inner.unsettled).entry(tenant).or_default() += 1;
        Self { agent, tenant }
    }
}

impl Drop for Unsettled<'_> {
    fn drop(&mut self) {
        let mut unsettled = lock(&self.agent.inner.unsettled);
        if let Some(count) = unsettled.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                unsettled.remove(&self.tenant);
            }
        }
    }
}
