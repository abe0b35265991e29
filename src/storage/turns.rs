//! A turn's beginning and its end without an answer. A turn is opened in one transaction: idempotency claim, conversation, history and the
//! caller's own check of what was asked; whatever refuses it leaves no row behind.

use super::{
    TenantStore,
    access::Principal,
    configs, conversations,
    engine::{Param, Row},
    logs, rows,
    sandboxes::{self, Kit},
    steps,
    tenant::TenantTx,
    wallet::{self, Hold, HoldAsk, HoldSlip},
};
use crate::{
    clock::Time,
    error::{Error, Result},
    ids::*,
    model::{
        AgentType, ConfigBody, JsonObject, LogEvent, LogRow, ModelRef, StoredMessage, Summary, TemplateVars, ToolCall, TurnOutcome,
        TurnReport,
    },
    money::Money,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// What opens a turn.
#[derive(Debug, Clone)]
pub struct TurnAsk {
    /// The turn's id.
    pub turn: TurnId,
    /// The HTTP request it comes from.
    pub request: RequestId,
    /// Who asks.
    pub who: Principal,
    /// On which config.
    pub config: ConfigId,
    /// In which conversation.
    pub conversation: ConversationId,
    /// Whether this turn makes it.
    pub conversation_is_new: bool,
    /// The new conversation's title, remarks and end user.
    pub title: String,
    /// See [`TurnAsk::title`].
    pub metadata: JsonObject,
    /// See [`TurnAsk::title`].
    pub end_user: Option<String>,
    /// Values that replace those of the conversation, name by name.
    pub template_vars: TemplateVars,
    /// The caller's idempotency key.
    pub claim: Option<Claim>,
    /// Whether the input may be one that was answered already: results of tools, posted once more.
    pub may_be_again: bool,
}

/// An idempotency key and what it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The key.
    pub key: String,
    /// A hash of the request's body and mode.
    pub fingerprint: String,
}

/// An open turn: what it works on.
#[derive(Debug, Clone)]
pub struct OpenTurn {
    /// The turn's id.
    pub turn: TurnId,
    /// The HTTP request it comes from.
    pub request: RequestId,
    /// The config, as it was when the turn was opened.
    pub config_id: ConfigId,
    /// The config's newest version.
    pub config: Arc<ConfigBody>,
    /// Its number.
    pub config_version: u32,
    /// The conversation.
    pub conversation: ConversationId,
    /// Whether this turn made it.
    pub conversation_is_new: bool,
    /// The conversation's values with the new ones over them.
    pub template_vars: TemplateVars,
    /// What stands for the turns before [`OpenTurn::history`].
    pub summary: Option<Summary>,
    /// What was said before, oldest first, the newest `limits.history_messages_max`.
    pub history: Vec<Arc<StoredMessage>>,
    /// What the newest answer said beside its message, where [`TurnAsk::may_be_again`].
    pub last_report: Option<TurnReport>,
    /// The calls that wait for results.
    pub open_calls: Vec<ToolCall>,
    /// What a sandboxed config runs.
    pub kit: Option<Kit>,
    /// The claim to be answered.
    pub claim: Option<Claim>,
}

/// What the caller's check says of an open turn.
pub enum Admission<T> {
    /// Go on, with what the check made of the input, and hold for the first call where it is known already.
    Go(T, Option<Box<HoldAsk>>),
    /// The answer is there already; open nothing.
    Replay(Stored),
}

/// What came of opening a turn.
pub enum Opened<T> {
    /// It runs; it must be ended by a settle, a refusal or a failure. With the hold that the check asked for.
    Running(Box<OpenTurn>, T, Option<Hold>),
    /// The same request was answered before.
    Replay(Stored),
}

/// An [`Opened`] turn whose commit is still to come: only after it is a slip a [`Hold`].
enum Written<T> {
    Running(Box<OpenTurn>, T, Option<HoldSlip>),
    Replay(Stored),
}

/// What a turn came to that ended before.
#[derive(Debug, Clone)]
pub struct Stored {
    /// What it came to.
    pub outcome: TurnOutcome,
    /// The turn.
    pub turn: TurnId,
    /// Its conversation.
    pub conversation: ConversationId,
}

impl TenantStore {
    /// Opens a turn, and sets the money for its first call aside where `admit` says how much: one commit for both. `admit` sees what the turn
    /// would work on and may refuse it; it runs inside the transaction, perhaps more than once.
    ///
    /// Fails with `NotFound`, `ConversationConfigMismatch`, `ConversationBusy`, `IdempotencyInProgress`, `IdempotencyKeyReused`, with what
    /// `admit` and [`TenantStore::wallet_hold`] fail with, and with what storage fails with; then nothing was written.
    pub async fn turn_open<T: Send + 'static>(
        &self,
        ask: TurnAsk,
        admit: impl Fn(&OpenTurn) -> Result<Admission<T>> + Send + 'static,
    ) -> Result<Opened<T>> {
        let (boot, clock, limits) = (self.boot, self.clock, self.limits.clone());
        let store = self.clone();
        let opening = move |tx: &mut TenantTx<'_>| {
            let now = clock.now();
            if let Some(claim) = &ask.claim {
                let oldest = now.minus(limits.idempotency_ms);
                tx.execute(
                    "DELETE FROM idempotency WHERE tenant_id = ?1 AND created_at < ?2 AND status IS NOT NULL",
                    &[Param::Int(oldest.ms())],
                )?;
                if let Some(stored) = claim_check(tx, ask.config, claim, boot, oldest)? {
                    return Ok(Written::Replay(stored));
                }
            }
            let open = turn_load(tx, &ask, &store)?;
            let (admitted, hold) = match admit(&open)? {
                Admission::Replay(stored) => return Ok(Written::Replay(stored)),
                Admission::Go(admitted, hold) => (admitted, hold),
            };
            turn_write(tx, &ask, &open, boot, now)?;
            let slip = hold.map(|hold| wallet::hold_make(tx, &hold, boot, now)).transpose()?;
            Ok(Written::Running(Box::new(open), admitted, slip))
        };
        Ok(match self.write(opening).await? {
            Written::Replay(stored) => Opened::Replay(stored),
            Written::Running(open, admitted, slip) => Opened::Running(open, admitted, slip.map(|slip| self.held(slip))),
        })
    }

    /// What the same request was answered before, if it was: to be asked before anything that refuses or delays a new turn.
    ///
    /// Fails with `IdempotencyInProgress`, `IdempotencyKeyReused`, and with what storage fails with.
    pub async fn turn_stored(&self, config: ConfigId, claim: Claim) -> Result<Option<Stored>> {
        let (boot, oldest) = (self.boot, self.clock.now().minus(self.limits.idempotency_ms));
        self.read(move |tx| claim_check(tx, config, &claim, boot, oldest)).await
    }

    /// Takes back a turn that was refused before any vendor call: no row of it stays, its idempotency key is free again.
    pub async fn turn_refuse(&self, open: &OpenTurn) -> Result<()> {
        let (turn, conversation, is_new) = (open.turn.to_string(), open.conversation.to_string(), open.conversation_is_new);
        self.write(move |tx| {
            tx.execute("DELETE FROM turns WHERE tenant_id = ?1 AND id = ?2", &[Param::Text(&turn)])?;
            tx.execute("DELETE FROM idempotency WHERE tenant_id = ?1 AND turn_id = ?2 AND status IS NULL", &[Param::Text(&turn)])?;
            if is_new {
                tx.execute(
                    "DELETE FROM conversation_metadata WHERE tenant_id = ?1 AND conversation_id = ?2",
                    &[Param::Text(&conversation)],
                )?;
                tx.execute(
                    "DELETE FROM conversations WHERE tenant_id = ?1 AND id = ?2 AND message_count = 0",
                    &[Param::Text(&conversation)],
                )?;
            }
            Ok(())
        })
        .await
    }

    /// Closes a turn that broke off inside this process while nothing was held for it; a held one is closed with its hold.
    pub async fn turn_broken_off(&self, turn: TurnId) -> Result<()> {
        let clock = self.clock;
        self.write(move |tx| {
            let held = "SELECT 1 FROM holds WHERE tenant_id = ?1 AND turn_id = ?2";
            match tx.first(held, &[Param::Text(&turn.to_string())], |_| Ok(()))? {
                Some(()) => Ok(()),
                None => interrupted(tx, turn, None, clock.now()),
            }
        })
        .await
    }

    /// Gives back the money of a hold whose turn broke off inside this process, and closes the turn.
    pub(super) async fn turn_interrupted(&self, slip: HoldSlip) -> Result<()> {
        let clock = self.clock;
        self.write(move |tx| {
            let now = clock.now();
            wallet::hold_end(tx, slip.id, slip.amount)?;
            interrupted(tx, slip.turn, Some((&slip.model, slip.amount)), now)
        })
        .await
    }
}

/// The stored answer of this idempotency key, if there is one; an error if its turn still runs or it stands for another request.
fn claim_check(tx: &mut TenantTx<'_>, config: ConfigId, claim: &Claim, boot: BootId, oldest: Time) -> Result<Option<Stored>> {
    let found = tx.first(
        "SELECT i.fingerprint, i.answer, i.turn_id, i.boot_id, t.conversation_id
         FROM idempotency i LEFT JOIN turns t ON t.tenant_id = i.tenant_id AND t.id = i.turn_id
         WHERE i.tenant_id = ?1 AND i.route = ?2 AND i.key = ?3 AND (i.status IS NULL OR i.created_at >= ?4)",
        &[Param::Text(&route(config)), Param::Text(&claim.key), Param::Int(oldest.ms())],
        |row| {
            let answer: Option<TurnOutcome> = rows::json_opt(row, 1)?;
            let (turn, at, conversation) = (rows::parsed(row, 2)?, rows::parsed::<BootId>(row, 3)?, rows::parsed_opt(row, 4)?);
            Ok((row.text(0)? == claim.fingerprint, answer, turn, at, conversation))
        },
    )?;
    match found {
        Some((false, ..)) => Err(Error::IdempotencyKeyReused),
        Some((true, Some(outcome), turn, _, Some(conversation))) => Ok(Some(Stored { outcome, turn, conversation })),
        Some((true, Some(_), turn, _, None)) => Err(Error::internal(format!("turn {turn} has an answer and no row"))),
        Some((true, None, _, at, _)) if at == boot => Err(Error::IdempotencyInProgress { retry_after: Duration::from_secs(1) }),
        // None, or a claim of an earlier life without an answer: recovery frees these, and here the row is simply taken over.
        None | Some((true, None, ..)) => Ok(None),
    }
}

/// The scope of an idempotency key below the tenant.
pub(super) fn route(config: ConfigId) -> String {
    format!("chat/{config}")
}

fn turn_load(tx: &mut TenantTx<'_>, ask: &TurnAsk, store: &TenantStore) -> Result<OpenTurn> {
    let found = configs::config_for_chat(tx, &store.bodies, (store.tenant, ask.config))?;
    let (config, config_version) = found.ok_or_else(|| Error::not_found("config", ask.config))?;
    let mut open = OpenTurn {
        turn: ask.turn,
        request: ask.request,
        config_id: ask.config,
        config,
        config_version,
        conversation: ask.conversation,
        conversation_is_new: ask.conversation_is_new,
        template_vars: BTreeMap::new(),
        summary: None,
        history: Vec::new(),
        last_report: None,
        open_calls: Vec::new(),
        kit: None,
        claim: ask.claim.clone(),
    };
    if open.config.agent_type == AgentType::Sandboxed {
        open.kit = sandboxes::kit_find(tx, ask.config)?;
    }
    if !ask.conversation_is_new {
        let (id, text) = (ask.conversation, ask.conversation.to_string());
        let (config, vars, calls, busy, summary): (ConfigId, TemplateVars, Option<Vec<ToolCall>>, bool, Option<Summary>) = tx
            .first(
                "SELECT config_id, template_vars, open_calls,
                        EXISTS (SELECT 1 FROM turns WHERE tenant_id = ?1 AND conversation_id = ?2 AND state = 'running'),
                        summary, summary_seq, summary_turns
                 FROM conversations WHERE tenant_id = ?1 AND id = ?2",
                &[Param::Text(&text)],
                |row| Ok((rows::parsed(row, 0)?, rows::json(row, 1)?, rows::json_opt(row, 2)?, row.int(3)? != 0, summary(row, 4)?)),
            )?
            .ok_or_else(|| Error::not_found("conversation", id))?;
        if config != ask.config {
            return Err(Error::ConversationConfigMismatch);
        }
        if busy {
            return Err(Error::ConversationBusy { retry_after: Duration::from_secs(1) });
        }
        open.template_vars = vars;
        open.open_calls = calls.unwrap_or_default();
        let after = summary.as_ref().map_or(0, |summary| summary.until_seq);
        open.history = store.histories.read(tx, (store.tenant, ask.conversation), after, store.limits.history_messages_max)?;
        open.summary = summary;
        if ask.may_be_again {
            open.last_report = last_report(tx, open.history.last().map(Arc::as_ref))?;
        }
    }
    open.template_vars.extend(ask.template_vars.clone());
    Ok(open)
}

fn turn_write(tx: &mut TenantTx<'_>, ask: &TurnAsk, open: &OpenTurn, boot: BootId, now: Time) -> Result<()> {
    let (turn, config, boot) = (open.turn.to_string(), open.config_id.to_string(), boot.to_string());
    let (conversation, user, key) = (open.conversation.to_string(), ask.who.user_id().to_string(), ask.who.key_id().to_string());
    if open.conversation_is_new {
        tx.execute(
            "INSERT INTO conversations (tenant_id, id, config_id, user_id, key_id, end_user, title, metadata, template_vars, message_count,
                                        created_at, updated_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, '{}', 0, ?9, ?9)",
            &[
                Param::Text(&conversation),
                Param::Text(&config),
                Param::Text(&user),
                Param::Text(&key),
                Param::text_opt(ask.end_user.as_deref()),
                Param::Text(&ask.title),
                Param::Text(&rows::json_text(&ask.metadata)?),
                Param::Int(now.ms()),
            ],
        )?;
        if !ask.metadata.is_empty() {
            conversations::metadata_write(tx, open.conversation, &ask.metadata)?;
        }
    }
    tx.execute(
        "INSERT INTO turns (tenant_id, id, conversation_id, config_id, user_id, key_id, request_id, boot_id, state, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 'running', ?9)",
        &[
            Param::Text(&turn),
            Param::Text(&conversation),
            Param::Text(&config),
            Param::Text(&user),
            Param::Text(&key),
            Param::Text(&ask.request.to_string()),
            Param::Text(&boot),
            Param::Int(now.ms()),
        ],
    )?;
    if let Some(claim) = &ask.claim {
        tx.execute(
            "INSERT INTO idempotency (tenant_id, route, key, fingerprint, turn_id, boot_id, created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (tenant_id, route, key) DO UPDATE SET turn_id = excluded.turn_id, boot_id = excluded.boot_id",
            &[
                Param::Text(&route(ask.config)),
                Param::Text(&claim.key),
                Param::Text(&claim.fingerprint),
                Param::Text(&turn),
                Param::Text(&boot),
                Param::Int(now.ms()),
            ],
        )?;
    }
    Ok(())
}

fn summary(row: &dyn Row, column: usize) -> Result<Option<Summary>> {
    let Some(text) = rows::text_opt(row, column)? else { return Ok(None) };
    Ok(Some(Summary { text, until_seq: rows::number(row, column + 1)?, turns: rows::number(row, column + 2)? }))
}

/// The newest messages of a conversation behind a sequence number, oldest first.
/// What the turn of the newest message said beside it.
fn last_report(tx: &mut TenantTx<'_>, last: Option<&StoredMessage>) -> Result<Option<TurnReport>> {
    let Some(last) = last else { return Ok(None) };
    let turn = last.turn_id.to_string();
    let report =
        tx.first("SELECT report FROM turns WHERE tenant_id = ?1 AND id = ?2", &[Param::Text(&turn)], |row| rows::json_opt(row, 0))?;
    Ok(report.flatten())
}

/// Closes what an earlier life of the server left: its turns end, their holds go back to the tenant, unanswered idempotency keys are free.
/// Never by the clock, only by whose life a row is of.
pub(super) fn recover(tx: &mut TenantTx<'_>, boot: BootId, now: Time) -> Result<u64> {
    let boot = boot.to_string();
    let turns: Vec<TurnId> =
        tx.all("SELECT id FROM turns WHERE tenant_id = ?1 AND state = 'running' AND boot_id <> ?2", &[Param::Text(&boot)], |row| {
            rows::parsed(row, 0)
        })?;
    let holds = tx.all(
        "SELECT id, turn_id, amount, provider, model FROM holds WHERE tenant_id = ?1 AND boot_id <> ?2",
        &[Param::Text(&boot)],
        |row| {
            let model = ModelRef { provider: row.text(3)?.to_owned(), model: row.text(4)?.to_owned() };
            Ok((rows::parsed::<HoldId>(row, 0)?, rows::parsed::<TurnId>(row, 1)?, wallet::money(row, 2)?, model))
        },
    )?;
    for (hold, _, amount, _) in &holds {
        wallet::hold_end(tx, *hold, *amount)?;
    }
    for turn in &turns {
        let held = holds.iter().find(|(_, of, ..)| of == turn);
        interrupted(tx, *turn, held.map(|(.., amount, model)| (model, *amount)), now)?;
    }
    if !turns.is_empty() || !holds.is_empty() {
        tracing::warn!(turns = turns.len(), holds = holds.len(), "closed what an earlier run of the server left open in a tenant");
    }
    tx.execute("DELETE FROM idempotency WHERE tenant_id = ?1 AND status IS NULL AND boot_id <> ?2", &[Param::Text(&boot)])?;
    crate::failpoint::hit("in-recovery");
    Ok(turns.len() as u64)
}

/// The result of a call during which the server ended.
const CALL_LOST: &str = "The server stopped while the tool ran; whether it did its work is not known.";

/// Ends a turn that broke off, answers the calls that it left open, and logs the most that its vendor may have billed the operator.
fn interrupted(tx: &mut TenantTx<'_>, turn: TurnId, held: Option<(&ModelRef, Money)>, now: Time) -> Result<()> {
    let id = turn.to_string();
    let found = tx.first(
        "SELECT key_id, user_id, config_id, conversation_id, request_id FROM turns WHERE tenant_id = ?1 AND id = ?2",
        &[Param::Text(&id)],
        |row| Ok((rows::parsed(row, 0)?, rows::parsed(row, 1)?, rows::parsed(row, 2)?, rows::parsed(row, 3)?, rows::parsed(row, 4)?)),
    )?;
    let Some((key_id, user_id, config_id, conversation_id, request_id)) = found else { return Ok(()) };
    let ended = tx.execute(
        "UPDATE turns SET state = 'interrupted', ended_at = ?3 WHERE tenant_id = ?1 AND id = ?2 AND state = 'running'",
        &[Param::Text(&id), Param::Int(now.ms())],
    )?;
    if ended == 0 {
        return Ok(());
    }
    tx.execute("DELETE FROM idempotency WHERE tenant_id = ?1 AND turn_id = ?2 AND status IS NULL", &[Param::Text(&id)])?;
    let kept = steps::calls_close(tx, turn, conversation_id, CALL_LOST, now)?;
    let detail = if kept {
        "The server stopped while this turn ran. The steps before are kept and charged; this one was not charged. Send a message to go on."
    } else {
        "The server stopped while this turn ran. Nothing was charged; the message was not kept, so send it again."
    };
    let row = LogRow {
        id: LogId::new(),
        turn_id: Some(turn),
        step: Some(1),
        created_at: now,
        key_id: Some(key_id),
        user_id: Some(user_id),
        config_id: Some(config_id),
        conversation_id: Some(conversation_id),
        event: LogEvent::Interrupted,
        status: 500,
        code: Some("interrupted".to_owned()),
        provider: held.map(|(model, _)| model.provider.clone()),
        model: held.map(|(model, _)| model.model.clone()),
        usage: None,
        cost: None,
        estimated: false,
        latency_ms: None,
        provider_ms: None,
        time_to_first_token_ms: None,
        request_id: Some(request_id),
        operator_cost: held.map(|(_, amount)| amount),
        detail: Some(detail.to_owned()),
    };
    logs::log_append(tx, &row)
}
