//! Credit: what the operator adds to a tenant's wallet, or takes back. A payment's reference counts once.

use super::{
    Operator, Storage, TenantStore,
    engine::Param,
    ledger,
    tenant::TenantTx,
    trail::{Actor, Deed, content_record},
    wallet::{NewEntry, ledger_append, purse},
};
use crate::{
    error::{Error, Result},
    ids::TenantId,
    model::{Act, EntryKind, LedgerEntry, List, Page, Wallet},
    money::Money,
    wallet::{Purse, Refused},
};

/// What an operator adds to a wallet, or with a negative amount takes back.
#[derive(Debug, Clone, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreditInput {
    /// Dollars; negative is an adjustment, never below what is spent or held.
    pub amount: Money,
    /// The payment's reference; one counts once a tenant.
    #[serde(default)]
    pub reference: Option<String>,
    /// A remark.
    #[serde(default)]
    pub note: Option<String>,
}

impl TenantStore {
    /// Adds credit, or takes some back. A reference that was counted before changes nothing and answers its entry.
    async fn wallet_credit(&self, input: CreditInput) -> Result<LedgerEntry> {
        let clock = self.clock;
        let (entry, head) = self
            .write(move |tx| {
                if let Some(entry) = entry_by_reference(tx, input.reference.as_deref())? {
                    let same = entry.amount == input.amount;
                    let conflict = || Error::invalid("/reference", format!("was used for ${} before; use another", entry.amount));
                    return if same { Ok((entry, None)) } else { Err(conflict()) };
                }
                let (before, ..) = purse(tx)?;
                let after = before.deposit(input.amount).map_err(|refused| refusal(refused, before))?;
                tx.execute("UPDATE wallet SET deposited = ?2 WHERE tenant_id = ?1", &[Param::Int(after.deposited.nanos())])?;
                let kind = if input.amount.is_negative() { EntryKind::Adjustment } else { EntryKind::Topup };
                let entry = ledger_append(
                    tx,
                    NewEntry {
                        kind,
                        amount: input.amount,
                        reference: input.reference.clone(),
                        note: input.note.clone(),
                        turn: None,
                        key: None,
                        model: None,
                        usage: None,
                        rates: None,
                        at: clock.now(),
                    },
                )?;
                let deed = Deed::new(Actor::OPERATOR, Act::CreditAdd, entry.created_at).to(entry.id).with("amount", entry.amount);
                content_record(tx, deed)?;
                let head = (entry.seq, entry.hash.clone(), entry.balance);
                Ok((entry, Some(head)))
            })
            .await?;
        if let Some((seq, hash, balance)) = head {
            self.head_note(i64::try_from(seq).unwrap_or(i64::MAX), hash, balance);
        }
        Ok(entry)
    }
}

fn refusal(refused: Refused, before: Purse) -> Error {
    match refused {
        Refused::Short => {
            Error::invalid("/amount", format!("would take what is spent or held; at most ${} can be taken back", before.available()))
        }
        Refused::Absurd => Error::invalid("/amount", "is more than a wallet can hold"),
    }
}

fn entry_by_reference(tx: &mut TenantTx<'_>, reference: Option<&str>) -> Result<Option<LedgerEntry>> {
    let Some(reference) = reference else { return Ok(None) };
    tx.first(
        &format!("SELECT {} FROM ledger WHERE tenant_id = ?1 AND reference = ?2", ledger::COLUMNS),
        &[Param::Text(reference)],
        ledger::entry,
    )
}

impl Storage {
    /// Adds credit to a tenant's wallet. A reference counts once a tenant.
    pub async fn credit_add(&self, operator: &Operator, tenant: TenantId, input: CreditInput) -> Result<LedgerEntry> {
        if input.amount.is_zero() {
            return Err(Error::invalid("/amount", "expected dollars other than zero, such as \"10.00\""));
        }
        for (pointer, text) in [("/reference", &input.reference), ("/note", &input.note)] {
            if text.as_ref().is_some_and(|text| text.is_empty() || text.chars().count() > 200) {
                return Err(Error::invalid(pointer, "expected 1–200 characters"));
            }
        }
        self.operator_store(operator, tenant).await?.wallet_credit(input).await
    }

    /// A tenant's wallet.
    pub async fn credit_show(&self, operator: &Operator, tenant: TenantId) -> Result<Wallet> {
        self.operator_store(operator, tenant).await?.wallet_read().await
    }

    /// A tenant's ledger.
    pub async fn credit_ledger(&self, operator: &Operator, tenant: TenantId, page: Page) -> Result<List<LedgerEntry>> {
        self.operator_store(operator, tenant).await?.ledger_list(page).await
    }
}
