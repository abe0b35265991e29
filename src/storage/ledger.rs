//! Reading the ledger. Writing it is `wallet`'s alone.

use super::{
    engine::{Param, Row},
    rows,
    select::Select,
    tenant::{TenantStore, TenantTx},
};
use crate::{
    error::{Error, Result},
    model::{EntryKind, LedgerEntry, List, Page},
    money::Money,
};

/// The columns that [`entry`] takes, in its order.
pub(super) const COLUMNS: &str =
    "id, seq, kind, amount, balance, reference, note, turn_id, provider, model, usage, rates, created_at, hash";

/// An entry from a row of [`COLUMNS`].
pub(super) fn entry(row: &dyn Row) -> Result<LedgerEntry> {
    let kind = row.text(2)?;
    let model = match (row.text_opt(8)?, row.text_opt(9)?) {
        (Some(provider), Some(model)) => Some(format!("{provider}/{model}")),
        _ => None,
    };
    Ok(LedgerEntry {
        id: rows::parsed(row, 0)?,
        seq: rows::number(row, 1)?,
        kind: EntryKind::from_name(kind).ok_or_else(|| Error::internal(format!("the ledger has an entry of kind {kind}")))?,
        amount: Money::from_nanos(row.int(3)?),
        balance: Money::from_nanos(row.int(4)?),
        reference: rows::text_opt(row, 5)?,
        note: rows::text_opt(row, 6)?,
        turn_id: rows::parsed_opt(row, 7)?,
        model,
        usage: rows::json_opt(row, 10)?,
        rates: rows::json_opt(row, 11)?,
        created_at: rows::time(row, 12)?,
        hash: row.text(13)?.to_owned(),
    })
}

impl TenantStore {
    /// A page of the ledger, by sequence. A cursor is an entry's id.
    pub async fn ledger_list(&self, page: Page) -> Result<List<LedgerEntry>> {
        self.read(move |tx| {
            let select = Select::new(&format!("SELECT {COLUMNS} FROM ledger WHERE tenant_id = ?1"));
            let cursor = |tx: &mut TenantTx<'_>, id: &str| {
                tx.first("SELECT seq FROM ledger WHERE tenant_id = ?1 AND id = ?2", &[Param::Text(id)], |row| Ok(row.int(0)?.into()))
            };
            select.page(tx, &page, "seq", cursor, entry, |entry| entry.id.to_string())
        })
        .await
    }
}
