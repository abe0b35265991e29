//! The end of a step: messages, charge, log row and, with a turn's last step, the idempotency answer commit together or not at all.

use super::{
    TenantStore, conversations,
    engine::Param,
    logs, rows,
    tenant::TenantTx,
    wallet::{self, Hold, HoldSlip},
};
use crate::{
    clock::Time,
    error::{Error, Result},
    ids::*,
    model::{
        ChatAnswer, FinishReason, Json, JsonObject, LogRow, ModelRef, Speaker, Summary, TemplateVars, ToolCall, TurnFailure, TurnOutcome,
        TurnReport, Usage,
    },
    money::Money,
};
use std::{
    borrow::Cow,
    sync::{Arc, LazyLock},
};

/// What a step leaves behind.
#[derive(Debug, Clone)]
pub struct Step {
    /// The turn.
    pub turn: TurnId,
    /// The conversation.
    pub conversation: ConversationId,
    /// Whether an idempotency key waits for what the turn comes to.
    pub claimed: bool,
    /// What the tenant pays: at most the hold.
    pub charge: Money,
    /// What was used, as reported or estimated.
    pub usage: Option<Usage>,
    /// Whether usage is our estimate.
    pub estimated: bool,
    /// The vendor reported more than the bound: its model is closed for this tenant.
    pub breached: bool,
    /// What the step made stand for the oldest turns.
    pub summary: Option<Summary>,
    /// What a step adds to the conversation that is not the turn's answer: tool calls that the server runs, or what they said.
    pub kept: Option<Box<Kept>>,
    /// A remark for the ledger's entry.
    pub note: Option<String>,
    /// How the turn ends, if this is its last step.
    pub end: Option<StepEnd>,
    /// The rows of the log.
    pub logs: Vec<LogRow>,
}

/// The end of a turn.
#[derive(Debug, Clone)]
pub enum StepEnd {
    /// With an answer and what it adds to the conversation.
    Answered {
        /// The answer; its balance is filled in inside the transaction.
        answer: Box<ChatAnswer>,
        /// What is added to the conversation.
        kept: Box<Kept>,
    },
    /// Without one; the conversation stays as the steps before left it.
    Failed(TurnFailure),
}

/// What an answered turn adds to its conversation.
#[derive(Debug, Clone)]
pub struct Kept {
    /// The messages, in order.
    pub messages: Vec<NewMessage>,
    /// The calls that wait for results now.
    pub open_calls: Vec<ToolCall>,
    /// All variables of the conversation from now on.
    pub template_vars: TemplateVars,
    /// The caller's remarks, where they are replaced.
    pub metadata: Option<JsonObject>,
}

/// A message to be stored.
#[derive(Debug, Clone)]
pub struct NewMessage {
    /// Its id.
    pub id: MessageId,
    /// Who said it.
    pub role: Speaker,
    /// What; null for an answer of tool calls alone.
    pub content: Json,
    /// Tool only: the call's id, the tool's name, whether it worked.
    pub result_of: Option<(String, String, bool)>,
    /// Assistant only.
    pub answer: Option<Box<NewAnswer>>,
}

/// What an assistant's message has beyond its text.
#[derive(Debug, Clone)]
pub struct NewAnswer {
    /// The tools it called.
    pub calls: Vec<ToolCall>,
    /// Which model.
    pub model: ModelRef,
    /// The config's version that asked.
    pub config_version: u32,
    /// As the vendor gave it.
    pub raw: Json,
    /// What stood before it.
    pub prefix_hash: String,
    /// Why the model stopped.
    pub finish: FinishReason,
    /// What was used.
    pub usage: Usage,
    /// What was charged.
    pub cost: Money,
}

/// What a settled step answers.
#[derive(Debug, Clone)]
pub struct Settled {
    /// The turn's outcome, if this was its last step.
    pub outcome: Option<TurnOutcome>,
    /// What the tenant has left for new calls.
    pub available: Money,
}

impl TenantStore {
    /// Ends a step. On an error nothing was stored, and the hold comes back to be settled again.
    pub async fn step_settle(&self, hold: Hold, step: Arc<Step>) -> std::result::Result<Settled, (Error, Hold)> {
        let (slip, clock) = (hold.slip.clone(), self.clock);
        let written = self.write(move |tx| step_write(tx, Some(&slip), &step, clock.now())).await;
        match written {
            Ok((settled, head)) => {
                hold.settled();
                if let Some((seq, hash, balance)) = head {
                    self.head_note(i64::try_from(seq).unwrap_or(i64::MAX), hash, balance);
                }
                Ok(settled)
            }
            Err(error) => Err((error, hold)),
        }
    }
}

impl Step {
    /// What the ledger says of its charge beside the sum.
    fn remark(&self) -> Option<String> {
        self.note.clone().or_else(|| self.estimated.then(|| "estimated: the vendor's report is missing".to_owned()))
    }
}

impl TenantStore {
    /// Stores a step for which nothing is held: its vendors all refused, it was cancelled while it waited, or its tools ran free of charge.
    pub async fn step_store(&self, step: Arc<Step>) -> Result<Settled> {
        let clock = self.clock;
        self.write(move |tx| Ok(step_write(tx, None, &step, clock.now())?.0)).await
    }
}

type Head = (u64, String, Money);

fn step_write(tx: &mut TenantTx<'_>, slip: Option<&HoldSlip>, step: &Step, now: Time) -> Result<(Settled, Option<Head>)> {
    let (purse, link) = match slip {
        Some(slip) => wallet::hold_settle(tx, slip, step.charge, step.usage, step.remark(), now)?,
        None => (wallet::purse(tx)?.0, None),
    };
    if let Some(slip) = slip.filter(|_| step.breached) {
        model_close(tx, slip, now)?;
    }
    for row in &step.logs {
        logs::log_append(tx, row)?;
    }
    if let Some(summary) = &step.summary {
        summary_write(tx, step.conversation, summary)?;
    }
    if let Some(kept) = &step.kept {
        conversation_extend(tx, step, kept, now)?;
    }
    let balance = purse.balance();
    let outcome = match &step.end {
        None => None,
        Some(end) => Some(turn_end(tx, step, end, balance, now)?),
    };
    let head = link.map(|(seq, hash)| (seq, hash, balance));
    crate::failpoint::hit("in-settle");
    Ok((Settled { outcome, available: purse.available() }, head))
}

fn summary_write(tx: &mut TenantTx<'_>, conversation: ConversationId, summary: &Summary) -> Result<()> {
    tx.execute(
        "UPDATE conversations SET summary = ?3, summary_seq = ?4, summary_turns = ?5 WHERE tenant_id = ?1 AND id = ?2",
        &[
            Param::Text(&conversation.to_string()),
            Param::Text(&summary.text),
            Param::Int(i64::try_from(summary.until_seq).unwrap_or(i64::MAX)),
            Param::Int(i64::from(summary.turns)),
        ],
    )?;
    Ok(())
}

/// A vendor that reports more than the bound gets no further call of this tenant until the operator changed the model's row.
fn model_close(tx: &mut TenantTx<'_>, slip: &HoldSlip, now: Time) -> Result<()> {
    tx.execute(
        "INSERT INTO closed_models (tenant_id, provider, model, rate_hash, created_at) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (tenant_id, provider, model) DO UPDATE SET rate_hash = excluded.rate_hash, created_at = excluded.created_at",
        &[Param::Text(&slip.model.provider), Param::Text(&slip.model.model), Param::Text(&slip.row.fingerprint()), Param::Int(now.ms())],
    )?;
    Ok(())
}

fn turn_end(tx: &mut TenantTx<'_>, step: &Step, end: &StepEnd, balance: Money, now: Time) -> Result<TurnOutcome> {
    let (state, status, report, outcome) = match end {
        StepEnd::Answered { answer, kept } => {
            conversation_extend(tx, step, kept, now)?;
            let report = TurnReport {
                balance,
                usage: answer.usage,
                cost: answer.cost,
                max_tokens_applied: answer.max_tokens_applied,
                context: answer.context,
            };
            let mut answer = answer.clone();
            answer.balance = balance;
            ("done", 200, Some(rows::json_text(&report)?), TurnOutcome::Answered(answer))
        }
        StepEnd::Failed(failure) => {
            let state = if *failure == TurnFailure::Cancelled { "cancelled" } else { "failed" };
            (state, i64::from(failure.log_code().0), None, TurnOutcome::Failed(failure.clone()))
        }
    };
    let turn = step.turn.to_string();
    let ended = tx.execute(
        "UPDATE turns SET state = ?3, ended_at = ?4, report = ?5 WHERE tenant_id = ?1 AND id = ?2 AND state = 'running'",
        &[Param::Text(&turn), Param::Text(state), Param::Int(now.ms()), Param::text_opt(report.as_deref())],
    )?;
    if ended != 1 {
        return Err(Error::Conflict { detail: format!("turn {turn} was ended before") });
    }
    if step.claimed {
        tx.execute(
            "UPDATE idempotency SET status = ?3, answer = ?4 WHERE tenant_id = ?1 AND turn_id = ?2",
            &[Param::Text(&turn), Param::Int(status), Param::Text(&rows::json_text(&outcome)?)],
        )?;
    }
    Ok(outcome)
}

fn conversation_extend(tx: &mut TenantTx<'_>, step: &Step, kept: &Kept, now: Time) -> Result<()> {
    let conversation = step.conversation.to_string();
    let count = i64::try_from(kept.messages.len()).map_err(Error::internal)?;
    let open_calls = if kept.open_calls.is_empty() { None } else { Some(rows::json_text(&kept.open_calls)?) };
    let sql = "SELECT message_count FROM conversations WHERE tenant_id = ?1 AND id = ?2";
    let before = tx
        .first(sql, &[Param::Text(&conversation)], |row| row.int(0))?
        .ok_or_else(|| Error::not_found("conversation", step.conversation))?;
    tx.execute(
        "UPDATE conversations SET message_count = ?3, open_calls = ?4, template_vars = ?5, updated_at = ?6 WHERE tenant_id = ?1 AND id = ?2",
        &[
            Param::Text(&conversation),
            Param::Int(before.saturating_add(count)),
            Param::text_opt(open_calls.as_deref()),
            Param::Text(&rows::json_text(&kept.template_vars)?),
            Param::Int(now.ms()),
        ],
    )?;
    messages_write(tx, &conversation, step.turn, before, &kept.messages, now)?;
    if let Some(metadata) = &kept.metadata {
        tx.execute(
            "UPDATE conversations SET metadata = ?3 WHERE tenant_id = ?1 AND id = ?2",
            &[Param::Text(&conversation), Param::Text(&rows::json_text(metadata)?)],
        )?;
        conversations::metadata_write(tx, step.conversation, metadata)?;
    }
    Ok(())
}

/// Answers the calls of a turn that broke off, so that its conversation can go on: those that the turn left open itself, never a client's.
/// Whether there were any messages of the turn at all is answered.
pub(super) fn calls_close(tx: &mut TenantTx<'_>, turn: TurnId, conversation: ConversationId, why: &str, now: Time) -> Result<bool> {
    let id = conversation.to_string();
    let sql = "SELECT c.message_count, c.open_calls FROM conversations c
               JOIN messages m ON m.tenant_id = c.tenant_id AND m.conversation_id = c.id AND m.seq = c.message_count
               WHERE c.tenant_id = ?1 AND c.id = ?2 AND m.turn_id = ?3";
    let found = tx.first(sql, &[Param::Text(&id), Param::Text(&turn.to_string())], |row| Ok((row.int(0)?, rows::json_opt(row, 1)?)))?;
    let Some((before, calls)) = found else { return Ok(false) };
    let calls: Vec<ToolCall> = calls.unwrap_or_default();
    if calls.is_empty() {
        return Ok(true);
    }
    let messages: Vec<_> = calls.iter().map(|call| NewMessage::result(call, Json::String(why.to_owned()), false)).collect();
    messages_write(tx, &id, turn, before, &messages, now)?;
    let count = before.saturating_add(i64::try_from(messages.len()).map_err(Error::internal)?);
    tx.execute(
        "UPDATE conversations SET message_count = ?3, open_calls = NULL, updated_at = ?4 WHERE tenant_id = ?1 AND id = ?2",
        &[Param::Text(&id), Param::Int(count), Param::Int(now.ms())],
    )?;
    Ok(true)
}

impl NewMessage {
    /// What a tool said, or what stands for it.
    pub fn result(call: &ToolCall, content: Json, ok: bool) -> Self {
        Self { id: MessageId::new(), role: Speaker::Tool, content, result_of: Some((call.id.clone(), call.name.clone(), ok)), answer: None }
    }
}

/// Messages that one statement stores. Those of most turns are two, and many statements cost more than one: FTS5 writes what it indexed at the
/// end of each.
const MESSAGES_AT_ONCE: usize = 8;

/// A message's columns behind its conversation and turn, as [`messages_write`] lists them.
const MESSAGE_COLUMNS: usize = 20;

/// What of a message has to be written out before it can be bound.
struct Written<'a> {
    message: &'a NewMessage,
    id: String,
    content: Option<Cow<'a, str>>,
    is_json: bool,
    calls: Option<String>,
    raw: Option<String>,
    finish: Option<String>,
}

impl<'a> Written<'a> {
    fn of(message: &'a NewMessage) -> Result<Self> {
        let (content, is_json) = match &message.content {
            Json::Null if message.role == Speaker::Assistant => (None, false),
            Json::String(text) => (Some(Cow::Borrowed(text.as_str())), false),
            other => (Some(Cow::Owned(other.to_string())), true),
        };
        let answer = message.answer.as_deref();
        Ok(Self {
            message,
            id: message.id.to_string(),
            content,
            is_json,
            calls: answer.filter(|answer| !answer.calls.is_empty()).map(|answer| rows::json_text(&answer.calls)).transpose()?,
            raw: answer.map(|answer| rows::json_text(&answer.raw)).transpose()?,
            finish: answer.map(|answer| finish_name(answer.finish)).transpose()?,
        })
    }

    fn params(&self, seq: i64) -> [Param<'_>; MESSAGE_COLUMNS] {
        let (answer, result_of) = (self.message.answer.as_deref(), self.message.result_of.as_ref());
        let tokens =
            |count: fn(&Usage) -> u64| Param::int_opt(answer.map(|answer| i64::try_from(count(&answer.usage)).unwrap_or(i64::MAX)));
        [
            Param::Int(seq),
            Param::Text(&self.id),
            Param::Text(self.message.role.name()),
            Param::text_opt(self.content.as_deref()),
            Param::Int(i64::from(self.is_json)),
            Param::text_opt(self.calls.as_deref()),
            Param::text_opt(result_of.map(|(id, ..)| id.as_str())),
            Param::text_opt(result_of.map(|(_, name, _)| name.as_str())),
            Param::int_opt(result_of.map(|(.., ok)| i64::from(*ok))),
            Param::text_opt(answer.map(|answer| answer.model.provider.as_str())),
            Param::text_opt(answer.map(|answer| answer.model.model.as_str())),
            Param::int_opt(answer.map(|answer| i64::from(answer.config_version))),
            Param::text_opt(self.raw.as_deref()),
            Param::text_opt(answer.map(|answer| answer.prefix_hash.as_str())),
            Param::text_opt(self.finish.as_deref()),
            tokens(|usage| usage.input_tokens),
            tokens(|usage| usage.output_tokens),
            tokens(|usage| usage.cache_read_tokens),
            tokens(|usage| usage.cache_write_tokens),
            Param::int_opt(answer.map(|answer| answer.cost.nanos())),
        ]
    }
}

/// The statements that store one message, two, and so on.
static INSERTS: LazyLock<[String; MESSAGES_AT_ONCE]> = LazyLock::new(|| std::array::from_fn(|more| insert_sql(more + 1)));

fn insert_sql(messages: usize) -> String {
    let row = |at: usize| {
        let own = (0..MESSAGE_COLUMNS).map(|column| format!("?{}", 5 + at * MESSAGE_COLUMNS + column));
        format!("(?1, ?2, ?3, ?4, {})", own.collect::<Vec<_>>().join(", "))
    };
    let rows: Vec<_> = (0..messages).map(row).collect();
    format!(
        "INSERT INTO messages (tenant_id, conversation_id, turn_id, created_at, seq, id, role, content, content_json, tool_calls, tool_call_id,
                               name, ok, provider, model, config_version, raw, prefix_hash, finish_reason,
                               input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, cost) VALUES {}",
        rows.join(", ")
    )
}

/// Stores messages behind the one with the number `before`.
fn messages_write(tx: &mut TenantTx<'_>, conversation: &str, turn: TurnId, before: i64, messages: &[NewMessage], now: Time) -> Result<()> {
    let turn = turn.to_string();
    let mut seq = before;
    for part in messages.chunks(MESSAGES_AT_ONCE) {
        let part: Vec<Written<'_>> = part.iter().map(Written::of).collect::<Result<_>>()?;
        let mut params = Vec::with_capacity(3 + part.len() * MESSAGE_COLUMNS);
        params.extend([Param::Text(conversation), Param::Text(&turn), Param::Int(now.ms())]);
        for written in &part {
            seq += 1;
            params.extend(written.params(seq));
        }
        tx.execute(&INSERTS[part.len() - 1], &params)?;
    }
    Ok(())
}

/// The name of a finish reason as it stands in JSON.
fn finish_name(finish: FinishReason) -> Result<String> {
    match serde_json::to_value(finish).map_err(Error::internal)? {
        Json::String(name) => Ok(name),
        _ => Err(Error::internal("a finish reason without a name")),
    }
}
