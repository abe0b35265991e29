//! The auditor: recomputes a tenant's money from the ledger, entry by entry, and holds it against the wallet, the holds, the keys and the
//! messages. It shares the entry's hash with the wallet's own code and nothing else, so that a defect there shows here.

use super::{
    Operator, Storage, TenantStore,
    engine::Param,
    ledger, rows,
    tenant::TenantTx,
    wallet::{money, purse},
};
use crate::{
    error::Result,
    ids::{TenantId, TurnId},
    model::{EntryKind, LedgerEntry},
    money::Money,
    rates,
    wallet::{chain_next, chain_start},
};
use serde::Serialize;

/// What an audit found.
#[derive(Debug, Clone, Serialize)]
pub struct Audit {
    /// The tenant.
    pub tenant_id: TenantId,
    /// Entries of the ledger.
    pub entries: u64,
    /// Top-ups, refunds and adjustments together, from the ledger.
    pub deposited: Money,
    /// What was spent, from the ledger.
    pub settled: Money,
    /// What is held, from the holds.
    pub held: Money,
    /// What does not fit; empty when all does.
    pub faults: Vec<String>,
}

/// The sums that run along the ledger, in 128 bits, where no tampered entry can wrap them.
struct Walk {
    seq: u64,
    hash: String,
    balance: i128,
    deposited: i128,
    settled: i128,
    /// Turns with a charge below what its usage cost that no estimate explains, and the entry.
    cut: Vec<(TurnId, u64)>,
    faults: Vec<String>,
}

impl Walk {
    fn step(&mut self, entry: &LedgerEntry) {
        let amount = i128::from(entry.amount.nanos());
        self.seq += 1;
        self.balance += amount;
        match entry.kind {
            EntryKind::Spend => self.settled -= amount,
            EntryKind::Topup | EntryKind::Refund | EntryKind::Adjustment => self.deposited += amount,
        }
        let (seq, balance) = (self.seq, self.balance);
        self.expect(entry.seq == seq, || format!("entry {} stands where {seq} should", entry.seq));
        self.expect(i128::from(entry.balance.nanos()) == balance, || {
            format!("entry {} shows a balance of ${}, the entries make {balance} nano-dollars", entry.seq, entry.balance)
        });
        let hash = chain_next(&self.hash, entry);
        self.expect(entry.hash == hash, || format!("entry {} does not match its hash: it was changed, or one before it was", entry.seq));
        // The chain goes on from what stands there, so that one changed entry is one fault.
        self.hash.clone_from(&entry.hash);
        self.charge(entry);
    }

    /// An entry that says nothing of itself still stands in the chain.
    fn unreadable(&mut self, amount: i64, hash: &str) {
        self.seq += 1;
        self.balance += i128::from(amount);
        hash.clone_into(&mut self.hash);
        self.faults.push(format!("entry {} cannot be read: it was changed", self.seq));
    }

    /// A spend is what its usage costs at its rates, or less where the hold cut it.
    fn charge(&mut self, entry: &LedgerEntry) {
        let (EntryKind::Spend, Some(usage), Some(rates)) = (entry.kind, entry.usage, entry.rates) else { return };
        let charged = -i128::from(entry.amount.nanos());
        let cost = rates::cost(&rates, usage).map_or(i128::MAX, |cost| i128::from(cost.nanos()));
        self.expect((0..=cost).contains(&charged), || format!("entry {} charges more than its usage costs at its rates", entry.seq));
        // An estimate is cut to its hold without a word; what a vendor reported is not.
        if let (true, None, Some(turn)) = (charged < cost, &entry.note, entry.turn_id) {
            self.cut.push((turn, entry.seq));
        }
    }

    fn expect(&mut self, holds: bool, fault: impl FnOnce() -> String) {
        if !holds {
            let fault = fault();
            self.faults.push(fault);
        }
    }
}

fn audit(tx: &mut TenantTx<'_>, tenant: TenantId) -> Result<Audit> {
    let mut walk = Walk { seq: 0, hash: chain_start(tenant), balance: 0, deposited: 0, settled: 0, cut: Vec::new(), faults: Vec::new() };
    tx.query(&format!("SELECT {} FROM ledger WHERE tenant_id = ?1 ORDER BY seq", ledger::COLUMNS), &[], |row| {
        match ledger::entry(row) {
            Ok(entry) => walk.step(&entry),
            // No entry of ours reads like this, so someone wrote it; the walk goes on behind it.
            Err(_) => walk.unreadable(row.int(3)?, row.text(13)?),
        }
        Ok(())
    })?;
    let sum = |tx: &mut TenantTx<'_>, sql: &str| -> Result<Money> { Ok(tx.first(sql, &[], |row| money(row, 0))?.unwrap_or_default()) };
    let held = sum(tx, "SELECT COALESCE(SUM(amount), 0) FROM holds WHERE tenant_id = ?1")?;
    let (purse, seq, head) = purse(tx)?;
    let amount = |sum: i128| Money::from_nanos(i64::try_from(sum).unwrap_or(i64::MAX));
    let (deposited, settled) = (amount(walk.deposited), amount(walk.settled));
    walk.expect(purse.deposited == deposited, || format!("the wallet says ${} were deposited, the ledger ${deposited}", purse.deposited));
    walk.expect(purse.settled == settled, || format!("the wallet says ${} were settled, the ledger ${settled}", purse.settled));
    walk.expect(purse.held == held, || format!("the wallet holds ${}, its holds are ${held}", purse.held));
    walk.expect(walk.settled + i128::from(held.nanos()) <= walk.deposited, || "more is settled and held than was deposited".to_owned());
    let (walked, last) = (walk.seq, walk.hash.clone());
    walk.expect(seq == walked && head == last, || format!("the wallet's newest entry is {seq}, the ledger's is {walked}"));
    keys(tx, &mut walk)?;
    turns(tx, &mut walk)?;
    breaches(tx, &mut walk)?;
    Ok(Audit { tenant_id: tenant, entries: walk.seq, deposited, settled, held, faults: walk.faults })
}

/// What each key has spent is what the ledger says of it.
fn keys(tx: &mut TenantTx<'_>, walk: &mut Walk) -> Result<()> {
    let wrong = tx.all(
        "SELECT k.key_id, k.spent,
                (SELECT COALESCE(-SUM(l.amount), 0) FROM ledger l WHERE l.tenant_id = ?1 AND l.kind = 'spend' AND l.key_id = k.key_id)
         FROM key_spend k WHERE k.tenant_id = ?1",
        &[],
        |row| {
            let (spent, ledger) = (money(row, 1)?, money(row, 2)?);
            let told = || format!("key {} shows ${spent} spent; the ledger says ${ledger}", row.text(0).unwrap_or("?"));
            Ok((spent != ledger).then(told))
        },
    )?;
    walk.faults.extend(wrong.into_iter().flatten());
    let unknown = tx.all(
        "SELECT DISTINCT l.key_id FROM ledger l WHERE l.tenant_id = ?1 AND l.kind = 'spend'
             AND NOT EXISTS (SELECT 1 FROM key_spend k WHERE k.tenant_id = ?1 AND k.key_id = l.key_id)",
        &[],
        |row| Ok(format!("key {} stands in the ledger and is not known to have spent", row.text_opt(0)?.unwrap_or("of nobody"))),
    )?;
    walk.faults.extend(unknown);
    Ok(())
}

/// What the ledger charged for each turn is what its steps in the log cost, and at least what its answers cost (a summary costs too, and
/// is no message). Turns whose log rows are gone are not looked at.
fn turns(tx: &mut TenantTx<'_>, walk: &mut Walk) -> Result<()> {
    let wrong = tx.all(
        "SELECT l.turn_id, l.charged, g.logged, m.answers
         FROM (SELECT turn_id, -SUM(amount) AS charged FROM ledger WHERE tenant_id = ?1 AND kind = ?2 AND turn_id IS NOT NULL GROUP BY turn_id) AS l
         LEFT JOIN (SELECT turn_id, SUM(cost) AS logged FROM logs WHERE tenant_id = ?1 AND event = 'step' GROUP BY turn_id) AS g
             ON g.turn_id = l.turn_id
         LEFT JOIN (SELECT turn_id, SUM(cost) AS answers FROM messages WHERE tenant_id = ?1 GROUP BY turn_id) AS m ON m.turn_id = l.turn_id
         WHERE l.charged <> g.logged OR l.charged < m.answers",
        &[Param::Text(EntryKind::Spend.name())],
        |row| {
            let (turn, charged) = (rows::parsed::<TurnId>(row, 0)?, money(row, 1)?);
            let (logged, answers) = (rows::money_opt(row, 2)?.unwrap_or_default(), rows::money_opt(row, 3)?.unwrap_or_default());
            Ok(format!("the ledger charged ${charged} for turn {turn}, its log says ${logged}, its answers cost ${answers}"))
        },
    )?;
    walk.faults.extend(wrong);
    // An answer and its entry tell the same usage, in the same words, and the same price of it.
    let unpaid = tx.all(
        "SELECT m.turn_id, m.cost, l.amount FROM messages m
         LEFT JOIN (SELECT turn_id, usage, amount FROM ledger WHERE tenant_id = ?1 AND kind = ?2) AS l
             ON l.turn_id = m.turn_id AND l.usage = '{\"input_tokens\":' || m.input_tokens || ',\"output_tokens\":' || m.output_tokens
                 || ',\"cache_read_tokens\":' || m.cache_read_tokens || ',\"cache_write_tokens\":' || m.cache_write_tokens || '}'
         WHERE m.tenant_id = ?1 AND m.role = 'assistant' AND m.cost <> COALESCE(-l.amount, 0)",
        &[Param::Text(EntryKind::Spend.name())],
        |row| {
            let (turn, cost) = (rows::parsed::<TurnId>(row, 0)?, money(row, 1)?);
            let entry = rows::money_opt(row, 2)?.map_or("no entry tells of it".to_owned(), |amount| format!("its entry is of ${amount}"));
            Ok(format!("an answer of turn {turn} cost ${cost} for what it used, and {entry}"))
        },
    )?;
    walk.faults.extend(unpaid);
    Ok(())
}

/// Less is charged than the reported usage costs only where the vendor broke its bound, and then the log says so.
fn breaches(tx: &mut TenantTx<'_>, walk: &mut Walk) -> Result<()> {
    let logged = "SELECT 1 FROM logs WHERE tenant_id = ?1 AND turn_id = ?2 AND event = 'hold_breach'";
    for (turn, seq) in std::mem::take(&mut walk.cut) {
        let told = tx.first(logged, &[Param::Text(&turn.to_string())], |_| Ok(()))?.is_some();
        walk.expect(told, || format!("entry {seq} charges less than its usage costs, and no breach of its bound was logged"));
    }
    Ok(())
}

impl TenantStore {
    /// Audits this tenant's money.
    pub async fn audit(&self) -> Result<Audit> {
        let tenant = self.tenant;
        self.read(move |tx| audit(tx, tenant)).await
    }
}

impl Storage {
    /// Audits a tenant's money: for `doctor`, and for whoever wants to know.
    pub async fn audit(&self, operator: &Operator, tenant: TenantId) -> Result<Audit> {
        self.operator_store(operator, tenant).await?.audit().await
    }
}
