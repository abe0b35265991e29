//! What a tenant's owner does not want kept: conversations and log rows beyond their days are removed in the background, a few a commit, so
//! that turns go on between. The ledger and the audit log are never touched, nor is a conversation with a running turn.

use super::{
    Storage, TenantStore,
    conversations::conversation_erase,
    engine::{Param, Tx, TxExt},
    rows,
    tenant::TenantTx,
};
use crate::{
    clock::Time,
    error::{Error, Result},
    ids::{ConversationId, TenantId, TurnId},
    model::RetentionPatch,
};
use std::{sync::Arc, time::Duration};

/// A hundred years.
const DAYS_MAX: u32 = 36_500;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// What a sweep removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Conversations.
    pub conversations: u64,
    /// Rows of logs.
    pub logs: u64,
}

/// One tenant's days.
#[derive(Debug, Clone, Copy)]
struct Kept {
    tenant: TenantId,
    conversations_days: Option<u32>,
    logs_days: Option<u32>,
}

/// Refuses days that are no number of days.
pub(super) fn check(patch: &RetentionPatch) -> Result<()> {
    let fields = [("/retention/conversations_days", patch.conversations_days), ("/retention/logs_days", patch.logs_days)];
    for (pointer, days) in fields {
        if days.flatten().is_some_and(|days| !(1..=DAYS_MAX).contains(&days)) {
            return Err(Error::invalid(pointer, format!("expected 1 to {DAYS_MAX} days, or null to keep for ever")));
        }
    }
    Ok(())
}

/// Writes a tenant's days; what is left out stays.
pub(super) fn set(tx: &mut dyn Tx, tenant: TenantId, patch: &RetentionPatch) -> Result<()> {
    for (column, days) in [("conversations_days", patch.conversations_days), ("logs_days", patch.logs_days)] {
        if let Some(days) = days {
            let sql = format!("UPDATE tenants SET {column} = ?2 WHERE id = ?1");
            tx.execute(&sql, &[Param::Text(&tenant.to_string()), Param::int_opt(days.map(i64::from))])?;
        }
    }
    Ok(())
}

impl Storage {
    /// Removes what is beyond its days, in all tenants. One that cannot be swept is noted and keeps no other from it. A sweep ends early once
    /// the server stops.
    pub async fn retention_sweep(&self) -> Result<Swept> {
        let sql = "SELECT id, conversations_days, logs_days FROM tenants \
                   WHERE state = 'active' AND (conversations_days IS NOT NULL OR logs_days IS NOT NULL) ORDER BY id";
        let tenants = self
            .catalog_read(move |tx| {
                tx.all(sql, &[], |row| {
                    let (conversations_days, logs_days) = (rows::number_opt(row, 1)?, rows::number_opt(row, 2)?);
                    Ok(Kept { tenant: rows::parsed(row, 0)?, conversations_days, logs_days })
                })
            })
            .await?;
        let mut all = Swept::default();
        for kept in tenants {
            match self.tenant_sweep(kept).await {
                Ok(swept) => {
                    all.conversations += swept.conversations;
                    all.logs += swept.logs;
                }
                Err(Error::ShuttingDown) => return Ok(all),
                // It may have been deleted meanwhile, or its file may be damaged: that is told elsewhere.
                Err(error) => tracing::warn!(tenant = %kept.tenant, %error, "a tenant could not be swept; it is tried again"),
            }
        }
        Ok(all)
    }

    async fn tenant_sweep(&self, kept: Kept) -> Result<Swept> {
        let (store, now) = (self.active_store(kept.tenant).await?, self.inner.clock.now());
        let mut swept = Swept::default();
        if let Some(days) = kept.conversations_days {
            swept.conversations = store.conversations_sweep(now.minus(DAY * days)).await?;
        }
        if let Some(days) = kept.logs_days {
            swept.logs = store.logs_sweep(now.minus(DAY * days)).await?;
        }
        if swept != Swept::default() {
            // What was deleted is overwritten in the file; the log beside it still has it.
            let (engine, tenant) = (Arc::clone(&self.inner.engine), kept.tenant);
            tokio::task::spawn_blocking(move || engine.log_empty(tenant)).await.map_err(Error::internal)??;
            tracing::info!(tenant = %kept.tenant, swept.conversations, swept.logs, "removed what is beyond its days");
        }
        Ok(swept)
    }
}

impl TenantStore {
    /// Removes conversations whose last change was before `end`, a batch a commit.
    async fn conversations_sweep(&self, end: Time) -> Result<u64> {
        let (batch, mut removed) = (self.limits.retention_batch_max, 0);
        for _ in 0..self.limits.retention_batches_max {
            // Looked for in a read, which keeps no turn waiting.
            let found = self.read(move |tx| conversations_beyond(tx, end, batch)).await?;
            if found.is_empty() {
                break;
            }
            let gone = found.clone();
            removed += self
                .write(move |tx| {
                    let mut erased = 0;
                    for id in &found {
                        // Someone may have spoken in it meanwhile.
                        if tx
                            .first(&format!("{BEYOND} AND id = ?3"), &[Param::Int(end.ms()), Param::Text(&id.to_string())], |_| Ok(()))?
                            .is_some()
                        {
                            conversation_erase(tx, *id)?;
                            erased += 1;
                        }
                    }
                    Ok(erased)
                })
                .await?;
            gone.into_iter().for_each(|id| self.histories.forget((self.tenant, id)));
        }
        Ok(removed)
    }

    /// Removes log rows from before `end`, those of a turn together or not yet: what a turn was charged is the sum of its rows. What tells of
    /// a vendor that broke its bound stays without what was said, as it explains the ledger.
    async fn logs_sweep(&self, end: Time) -> Result<u64> {
        let (batch, mut removed) = (self.limits.retention_batch_max, 0);
        for _ in 0..self.limits.retention_batches_max {
            let found = self.read(move |tx| logs_beyond(tx, end, batch)).await?;
            if found.is_empty() {
                break;
            }
            removed += self
                .write(move |tx| {
                    let mut rows = 0;
                    for id in &found {
                        rows += tx.execute("DELETE FROM logs WHERE tenant_id = ?1 AND id = ?2", &[Param::Text(id)])?;
                    }
                    Ok(rows)
                })
                .await?;
        }
        let bare =
            "UPDATE logs SET detail = NULL WHERE tenant_id = ?1 AND created_at < ?2 AND detail IS NOT NULL AND event = 'hold_breach'";
        self.write(move |tx| tx.execute(bare, &[Param::Int(end.ms())])).await?;
        let reached = "DELETE FROM egress WHERE tenant_id = ?1 AND last_at < ?2";
        removed += self.write(move |tx| tx.execute(reached, &[Param::Int(end.ms())])).await?;
        Ok(removed)
    }
}

const BEYOND: &str = "SELECT id FROM conversations WHERE tenant_id = ?1 AND updated_at < ?2 AND NOT EXISTS \
     (SELECT 1 FROM turns t WHERE t.tenant_id = ?1 AND t.conversation_id = conversations.id AND t.state = 'running')";

fn conversations_beyond(tx: &mut TenantTx<'_>, end: Time, batch: usize) -> Result<Vec<ConversationId>> {
    tx.all(&format!("{BEYOND} LIMIT {batch}"), &[Param::Int(end.ms())], |row| rows::parsed(row, 0))
}

/// Rows of turns that ended before `end`, a batch of turns whole, and rows without a turn.
fn logs_beyond(tx: &mut TenantTx<'_>, end: Time, batch: usize) -> Result<Vec<String>> {
    let oldest = format!(
        "SELECT id, turn_id, conversation_id FROM logs WHERE tenant_id = ?1 AND created_at < ?2 AND event <> 'hold_breach' \
         ORDER BY created_at LIMIT {batch}"
    );
    let rows = tx.all(&oldest, &[Param::Int(end.ms())], |row| {
        Ok((row.text(0)?.to_owned(), rows::parsed_opt::<TurnId>(row, 1)?, rows::parsed_opt::<ConversationId>(row, 2)?))
    })?;
    let (mut ids, mut turns) = (Vec::new(), std::collections::BTreeSet::new());
    for (id, turn, conversation) in rows {
        match (turn, conversation) {
            (Some(turn), Some(conversation)) => drop(turns.insert((turn, conversation))),
            _ => ids.push(id),
        }
    }
    for (turn, conversation) in turns {
        let of_turn = "SELECT id, created_at, event FROM logs WHERE tenant_id = ?1 AND conversation_id = ?2 AND turn_id = ?3";
        let params = [conversation.to_string(), turn.to_string()];
        let rows = tx.all(of_turn, &[Param::Text(&params[0]), Param::Text(&params[1])], |row| {
            Ok((row.text(0)?.to_owned(), row.int(1)?, row.text(2)? == "hold_breach"))
        })?;
        if rows.iter().all(|(_, at, _)| *at < end.ms()) {
            ids.extend(rows.into_iter().filter(|(_, _, breach)| !breach).map(|(id, ..)| id));
        }
    }
    Ok(ids)
}
