//! The wallet in SQL: the rules of `crate::wallet` by conditional update, under the file's `CHECK`s, with the ledger's chain.
//!
//! No vendor call without a [`Hold`], no [`Hold`] but from [`TenantStore::wallet_hold`] and [`TenantStore::turn_open`].

use super::{
    TenantStore,
    engine::{Param, Row},
    tenant::TenantTx,
};
use crate::{
    clock::Time,
    error::{Error, Result},
    ids::*,
    model::{EntryKind, LedgerEntry, ModelRef, Rates, Usage, Wallet},
    money::Money,
    rates::CardRow,
    wallet::{self, Denied, Grant, Held, Purse, Wish},
};
use std::{sync::Arc, time::Duration};

/// Money set aside, durably, for one vendor call. Only a committed transaction makes one; it is consumed by the call and ended by a settle.
///
/// One that is dropped unsettled (a panic in between) gives its money back and leaves an `interrupted` row in the log: the tenant pays for
/// answers, not for our crash.
#[must_use = "a hold keeps the tenant's money until it is settled"]
pub struct Hold {
    pub(super) slip: HoldSlip,
    /// Taken when the hold is settled.
    store: Option<TenantStore>,
}

/// What a hold says.
#[derive(Debug, Clone)]
pub(super) struct HoldSlip {
    pub(super) id: HoldId,
    pub(super) turn: TurnId,
    pub(super) key: KeyId,
    pub(super) model: ModelRef,
    pub(super) row: Arc<CardRow>,
    pub(super) amount: Money,
    pub(super) output_tokens: u32,
    pub(super) available: Money,
}

impl crate::wallet::Sealed for Hold {}
impl Held for Hold {}

impl Hold {
    /// The most that the call can cost the tenant.
    pub fn amount(&self) -> Money {
        self.slip.amount
    }

    /// The output limit to send, in tokens.
    pub fn output_tokens(&self) -> u32 {
        self.slip.output_tokens
    }

    /// What the tenant had left for other calls when this one's money was set aside.
    pub fn available(&self) -> Money {
        self.slip.available
    }

    /// The rates the call is charged at.
    pub fn row(&self) -> &CardRow {
        &self.slip.row
    }

    /// The model it was made for.
    pub fn model(&self) -> &ModelRef {
        &self.slip.model
    }

    /// The settled hold needs no janitor.
    pub(super) fn settled(mut self) {
        self.store = None;
    }

    /// Gives up a hold that was found to be ended already: there is no money to give back.
    pub fn abandon(self) {
        self.settled();
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let Some(store) = self.store.take() else { return };
        tracing::error!(hold = %self.slip.id, turn = %self.slip.turn, "a hold was dropped unsettled; its money goes back");
        let slip = self.slip.clone();
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            // What is not given back before the server ends is found at its next start.
            while let Err(error) = store.turn_interrupted(slip.clone()).await {
                tracing::error!(%error, hold = %slip.id, "the janitor could not give a hold back");
                if matches!(error, Error::Conflict { .. }) {
                    return;
                }
                tokio::time::sleep(JANITOR_WAIT).await;
            }
        });
    }
}

/// The wait before a hold that could not be given back is tried again.
const JANITOR_WAIT: Duration = Duration::from_secs(1);

/// What is asked of the wallet before a vendor call.
#[derive(Debug, Clone)]
pub struct HoldAsk {
    /// The turn that calls.
    pub turn: TurnId,
    /// Which step of it, from 1.
    pub step: u32,
    /// The key that pays.
    pub key: KeyId,
    /// The most that this key may ever spend.
    pub spend_limit: Option<Money>,
    /// The model to be called.
    pub model: ModelRef,
    /// Its row on the rate card.
    pub row: Arc<CardRow>,
    /// What is to be bounded.
    pub wish: Wish,
}

/// An entry on its way into the ledger.
pub(super) struct NewEntry {
    pub(super) kind: EntryKind,
    pub(super) amount: Money,
    pub(super) reference: Option<String>,
    pub(super) note: Option<String>,
    pub(super) turn: Option<TurnId>,
    pub(super) key: Option<KeyId>,
    pub(super) model: Option<ModelRef>,
    pub(super) usage: Option<Usage>,
    pub(super) rates: Option<Rates>,
    pub(super) at: Time,
}

/// A money column.
pub(super) fn money(row: &dyn Row, column: usize) -> Result<Money> {
    Ok(Money::from_nanos(row.int(column)?))
}

/// The wallet and the newest link of its chain.
pub(super) fn purse(tx: &mut TenantTx<'_>) -> Result<(Purse, u64, String)> {
    tx.first("SELECT deposited, settled, held, seq, head FROM wallet WHERE tenant_id = ?1", &[], |row| {
        let purse = Purse { deposited: money(row, 0)?, settled: money(row, 1)?, held: money(row, 2)? };
        Ok((purse, row.int(3)?.unsigned_abs(), row.text(4)?.to_owned()))
    })?
    .ok_or_else(|| Error::internal("the wallet's row is missing"))
}

/// The ledger's newest link: how many there are, and the last one's hash.
pub(super) fn link(tx: &mut TenantTx<'_>) -> Result<(u64, String)> {
    let (_, seq, head) = purse(tx)?;
    Ok((seq, head))
}

/// The wallet as the API shows it.
pub(super) fn shown(purse: Purse) -> Wallet {
    Wallet { balance: purse.balance(), held: purse.held, available: purse.available(), currency: "USD" }
}

/// What a key has spent and what is held for its calls.
fn key_purse(tx: &mut TenantTx<'_>, key: KeyId) -> Result<(Money, Money)> {
    let key = key.to_string();
    let sql = "SELECT COALESCE((SELECT spent FROM key_spend WHERE tenant_id = ?1 AND key_id = ?2), 0),
                      COALESCE((SELECT SUM(amount) FROM holds WHERE tenant_id = ?1 AND key_id = ?2), 0)";
    let found = tx.first(sql, &[Param::Text(&key)], |row| Ok((money(row, 0)?, money(row, 1)?)))?;
    Ok(found.unwrap_or_default())
}

/// Adds a charge to what a key has spent.
fn key_charge(tx: &mut TenantTx<'_>, key: KeyId, charge: Money) -> Result<()> {
    tx.execute(
        "INSERT INTO key_spend (tenant_id, key_id, spent) VALUES (?1, ?2, ?3)
         ON CONFLICT (tenant_id, key_id) DO UPDATE SET spent = key_spend.spent + excluded.spent",
        &[Param::Text(&key.to_string()), Param::Int(charge.nanos())],
    )?;
    Ok(())
}

/// Bounds the call, sets the money aside and writes the hold's row.
pub(super) fn hold_make(tx: &mut TenantTx<'_>, ask: &HoldAsk, boot: BootId, now: Time) -> Result<HoldSlip> {
    crate::failpoint::hit("before-hold");
    let purse = purse_for(tx, ask)?;
    let grant = grant(tx, ask, purse)?;
    let purse = purse.hold(grant.amount).map_err(|_| Error::internal("a granted hold does not fit the wallet"))?;
    let changed = tx.execute(
        "UPDATE wallet SET held = held + ?2 WHERE tenant_id = ?1 AND settled + held + ?2 <= deposited",
        &[Param::Int(grant.amount.nanos())],
    )?;
    if changed != 1 {
        return Err(Error::internal("a granted hold does not fit the wallet"));
    }
    let id = HoldId::new();
    tx.execute(
        "INSERT INTO holds (tenant_id, id, turn_id, step, key_id, provider, model, amount, boot_id, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        &[
            Param::Text(&id.to_string()),
            Param::Text(&ask.turn.to_string()),
            Param::Int(i64::from(ask.step)),
            Param::Text(&ask.key.to_string()),
            Param::Text(&ask.model.provider),
            Param::Text(&ask.model.model),
            Param::Int(grant.amount.nanos()),
            Param::Text(&boot.to_string()),
            Param::Int(now.ms()),
        ],
    )?;
    Ok(HoldSlip {
        id,
        turn: ask.turn,
        key: ask.key,
        model: ask.model.clone(),
        row: Arc::clone(&ask.row),
        amount: grant.amount,
        output_tokens: grant.output_tokens,
        available: purse.available(),
    })
}

/// The call's full bound where nothing speaks against it, else what the money at hand allows for; or why it allows for nothing.
fn grant(tx: &mut TenantTx<'_>, ask: &HoldAsk, purse: Purse) -> Result<Grant> {
    let (mut free, mut whole) = (purse.available(), purse.balance());
    let mut key_is_the_bound = false;
    if let Some(limit) = ask.spend_limit {
        let (spent, held) = key_purse(tx, ask.key)?;
        let left = limit.checked_sub(spent).unwrap_or_default().max(Money::ZERO);
        let left_free = left.checked_sub(held).unwrap_or_default().max(Money::ZERO);
        key_is_the_bound = left < whole;
        (free, whole) = (free.min(left_free), whole.min(left));
    }
    wallet::grant(&ask.row, ask.wish, free, whole).map_err(|denied| match denied {
        Denied::Insufficient { .. } if key_is_the_bound => {
            let limit = ask.spend_limit.unwrap_or_default();
            Error::KeySpendLimit { limit, spent: limit.checked_sub(whole).unwrap_or_default() }
        }
        Denied::Insufficient { required } => Error::InsufficientCredit { required, available: purse.available() },
        Denied::Reserved { required } => Error::CreditReserved { required, available: free, retry_after: Duration::from_secs(1) },
    })
}

/// The wallet, for a call of this model. A model whose vendor broke the bound is closed until its row on the rate card changes.
fn purse_for(tx: &mut TenantTx<'_>, ask: &HoldAsk) -> Result<Purse> {
    let found = tx.first(
        "SELECT deposited, settled, held,
                (SELECT rate_hash FROM closed_models WHERE tenant_id = ?1 AND provider = ?2 AND model = ?3)
         FROM wallet WHERE tenant_id = ?1",
        &[Param::Text(&ask.model.provider), Param::Text(&ask.model.model)],
        |row| {
            let purse = Purse { deposited: money(row, 0)?, settled: money(row, 1)?, held: money(row, 2)? };
            Ok((purse, row.text_opt(3)?.is_some_and(|closed| closed == ask.row.fingerprint())))
        },
    )?;
    match found {
        Some((purse, false)) => Ok(purse),
        Some((_, true)) => Err(Error::ModelClosed { provider: ask.model.provider.clone(), model: ask.model.model.clone() }),
        None => Err(Error::internal("the wallet's row is missing")),
    }
}

/// A wallet after a settle, and the ledger's newest link where one was added.
pub(super) type After = (Purse, Option<(u64, String)>);

/// Ends a hold: what was charged moves to settled, with an entry in the ledger; the rest is free again.
///
/// A hold that is not there was ended before; nothing is charged twice.
pub(super) fn hold_settle(
    tx: &mut TenantTx<'_>,
    slip: &HoldSlip,
    charge: Money,
    usage: Option<Usage>,
    note: Option<String>,
    now: Time,
) -> Result<After> {
    let entry = || NewEntry {
        kind: EntryKind::Spend,
        amount: Money::from_nanos(-charge.nanos()),
        reference: None,
        note: note.clone(),
        turn: Some(slip.turn),
        key: Some(slip.key),
        model: Some(slip.model.clone()),
        usage,
        rates: Some(usage.map_or(slip.row.rates, |usage| slip.row.rates_for(usage))),
        at: now,
    };
    let entry = (!charge.is_zero()).then(entry);
    let after = hold_close(tx, slip.id, slip.amount, charge, entry)?;
    if !charge.is_zero() {
        key_charge(tx, slip.key, charge)?;
    }
    Ok(after)
}

/// Removes a hold's row and takes its amount out of what is held, free of charge.
pub(super) fn hold_end(tx: &mut TenantTx<'_>, id: HoldId, amount: Money) -> Result<()> {
    hold_close(tx, id, amount, Money::ZERO, None).map(drop)
}

fn hold_close(tx: &mut TenantTx<'_>, id: HoldId, amount: Money, charge: Money, entry: Option<NewEntry>) -> Result<After> {
    let ended = tx.execute("DELETE FROM holds WHERE tenant_id = ?1 AND id = ?2", &[Param::Text(&id.to_string())])?;
    if ended != 1 {
        return Err(Error::Conflict { detail: format!("hold {id} was ended before") });
    }
    let (before, seq, head) = purse(tx)?;
    let after = before.settle(amount, charge).map_err(|refused| Error::internal(format!("hold {id}: {refused:?}")))?;
    let added = entry.map(|entry| entry_insert(tx, entry, after.balance(), seq, &head)).transpose()?;
    let (seq, head) = added.as_ref().map_or((seq, head.as_str()), |entry| (entry.seq, entry.hash.as_str()));
    let changed = tx.execute(
        "UPDATE wallet SET held = ?2, settled = ?3, seq = ?4, head = ?5 WHERE tenant_id = ?1 AND held = ?6 AND settled = ?7",
        &[
            Param::Int(after.held.nanos()),
            Param::Int(after.settled.nanos()),
            Param::Int(i64::try_from(seq).map_err(Error::internal)?),
            Param::Text(head),
            Param::Int(before.held.nanos()),
            Param::Int(before.settled.nanos()),
        ],
    )?;
    if changed != 1 {
        return Err(Error::internal("the wallet moved under a transaction"));
    }
    Ok((after, added.map(|entry| (entry.seq, entry.hash))))
}

/// Writes the next entry of the ledger. The wallet's sums must have been moved already.
pub(super) fn ledger_append(tx: &mut TenantTx<'_>, new: NewEntry) -> Result<LedgerEntry> {
    let (purse, seq, head) = purse(tx)?;
    let entry = entry_insert(tx, new, purse.balance(), seq, &head)?;
    let seq = i64::try_from(entry.seq).map_err(Error::internal)?;
    tx.execute("UPDATE wallet SET seq = ?2, head = ?3 WHERE tenant_id = ?1", &[Param::Int(seq), Param::Text(&entry.hash)])?;
    Ok(entry)
}

/// Writes the entry that follows this `head`, its number `seq`, and links it to it. The wallet has yet to be told.
fn entry_insert(tx: &mut TenantTx<'_>, new: NewEntry, balance: Money, seq: u64, head: &str) -> Result<LedgerEntry> {
    let mut entry = LedgerEntry {
        id: EntryId::new(),
        seq: seq + 1,
        kind: new.kind,
        amount: new.amount,
        balance,
        reference: new.reference,
        note: new.note,
        turn_id: new.turn,
        model: new.model.as_ref().map(|model| format!("{}/{}", model.provider, model.model)),
        usage: new.usage,
        rates: new.rates,
        created_at: new.at,
        hash: String::new(),
    };
    entry.hash = wallet::chain_next(head, &entry);
    let seq = i64::try_from(entry.seq).map_err(Error::internal)?;
    let usage = entry.usage.as_ref().map(serde_json::to_string).transpose().map_err(Error::internal)?;
    let rates = entry.rates.as_ref().map(serde_json::to_string).transpose().map_err(Error::internal)?;
    let turn = entry.turn_id.map(|turn| turn.to_string());
    let key = new.key.map(|key| key.to_string());
    tx.execute(
        "INSERT INTO ledger (tenant_id, seq, id, kind, amount, balance, reference, note, turn_id, key_id, provider, model, usage, rates, created_at, hash)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
        &[
            Param::Int(seq),
            Param::Text(&entry.id.to_string()),
            Param::Text(entry.kind.name()),
            Param::Int(entry.amount.nanos()),
            Param::Int(entry.balance.nanos()),
            Param::text_opt(entry.reference.as_deref()),
            Param::text_opt(entry.note.as_deref()),
            Param::text_opt(turn.as_deref()),
            Param::text_opt(key.as_deref()),
            Param::text_opt(new.model.as_ref().map(|model| model.provider.as_str())),
            Param::text_opt(new.model.as_ref().map(|model| model.model.as_str())),
            Param::text_opt(usage.as_deref()),
            Param::text_opt(rates.as_deref()),
            Param::Int(entry.created_at.ms()),
            Param::Text(&entry.hash),
        ],
    )?;
    Ok(entry)
}

impl TenantStore {
    /// Bounds a vendor call and sets the most it can cost aside, durably. No hold, no call.
    ///
    /// Fails with `InsufficientCredit`, `KeySpendLimit`, `CreditReserved`, `ModelClosed`, and with what storage fails with.
    pub async fn wallet_hold(&self, ask: HoldAsk) -> Result<Hold> {
        let (boot, clock) = (self.boot, self.clock);
        let slip = self.write(move |tx| hold_make(tx, &ask, boot, clock.now())).await?;
        Ok(self.held(slip))
    }

    /// The hold of a slip that is committed.
    pub(super) fn held(&self, slip: HoldSlip) -> Hold {
        let hold = Hold { slip, store: Some(self.clone()) };
        crate::failpoint::hit("after-hold");
        hold
    }

    /// The wallet now.
    pub async fn wallet_read(&self) -> Result<Wallet> {
        self.read(|tx| Ok(shown(purse(tx)?.0))).await
    }
}
