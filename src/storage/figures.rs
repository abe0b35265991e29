//! What an overview shows of a span of a tenant's log: sums, paces, failures. Where summing up took long, what came of it is kept for a while, so
//! that an open page costs no more than a part of a core, however long the log is.

use super::{
    Storage,
    engine::Param,
    logs::{COLUMNS, Pace, UsageAsk, UsageGroup, log_take},
    tenant::TenantStore,
};
use crate::{
    clock::Time,
    error::Result,
    ids::TenantId,
    model::{List, LogRow, Order, UsageRow},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// A span of the log, and the periods in it.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// From this instant on.
    pub since: Time,
    /// Before this instant.
    pub until: Time,
    /// The length of a period in milliseconds.
    pub period_ms: i64,
}

/// What happened in a span.
#[derive(Debug)]
pub struct Figures {
    /// A row a period in which something did.
    pub over_time: List<UsageRow>,
    /// A row a model.
    pub by_model: List<UsageRow>,
    /// A row a config.
    pub by_config: List<UsageRow>,
    /// A row a key.
    pub by_key: List<UsageRow>,
    /// How answers went.
    pub pace: Pace,
    /// Rows that failed or were refused.
    pub failed: u64,
    /// The newest of them.
    pub failures: Vec<LogRow>,
}

/// What is shown of failures.
const FAILURES_MAX: u64 = 8;
/// Figures are kept for so many times the time that they took: an open page costs a tenth of a core at most.
const KEPT_TIMES: u32 = 10;
/// Figures that are remembered at once.
const KEPT_MAX: usize = 256;
/// What took less is summed up anew each time.
const KEPT_FROM: Duration = Duration::from_millis(100);

type Slot = tokio::sync::Mutex<Option<(Instant, Arc<Figures>)>>;

/// Figures that took long, by tenant and period. Whoever asks for the same while they are made waits for them.
#[derive(Default)]
pub(super) struct Kept(Mutex<HashMap<(TenantId, i64), Arc<Slot>>>);

impl Kept {
    fn slot(&self, tenant: TenantId, period_ms: i64) -> Arc<Slot> {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= KEPT_MAX && !slots.contains_key(&(tenant, period_ms)) {
            // They are there to save work, and can be made again.
            slots.clear();
        }
        Arc::clone(slots.entry((tenant, period_ms)).or_default())
    }
}

impl Storage {
    /// What happened in a span, as of now or, where that takes long, of a while ago.
    pub async fn figures(&self, store: &TenantStore, span: Span) -> Result<Arc<Figures>> {
        let limits = &self.inner.limits;
        let slot = self.inner.figures.slot(store.tenant, span.period_ms);
        let mut kept = slot.lock().await;
        if let Some((until, figures)) = kept.as_ref()
            && Instant::now() < *until
        {
            return Ok(Arc::clone(figures));
        }
        let begun = Instant::now();
        let figures = Arc::new(self.figures_now(store, span).await?);
        let took = begun.elapsed();
        let keep = (took * KEPT_TIMES).min(limits.overview_kept_ms_max);
        *kept = (took >= KEPT_FROM).then(|| (Instant::now() + keep, Arc::clone(&figures)));
        Ok(figures)
    }

    async fn figures_now(&self, store: &TenantStore, Span { since, until, period_ms }: Span) -> Result<Figures> {
        let limits = &self.inner.limits;
        let bounded = |count: usize| u32::try_from(count).unwrap_or(u32::MAX - 1);
        let ask = |period_ms, groups: &[UsageGroup]| UsageAsk {
            period_ms,
            since,
            until,
            groups: groups.to_vec(),
            order: Order::Asc,
            limit: bounded(limits.usage_rows_max),
        };
        // One period that holds all of time gives one row a group.
        let whole = |groups: &[UsageGroup]| ask(i64::MAX, groups);
        let over_time = store.usage(ask(period_ms, &[])).await?;
        let failed = over_time.data.iter().map(|row| row.errors).sum();
        Ok(Figures {
            by_model: store.usage(whole(&[UsageGroup::Model, UsageGroup::Provider])).await?,
            by_config: store.usage(whole(&[UsageGroup::Config])).await?,
            by_key: store.usage(whole(&[UsageGroup::Key])).await?,
            pace: store.pace(since, until, bounded(limits.overview_answers_max)).await?,
            failures: store.failures(since, until, failed).await?,
            failed,
            over_time,
        })
    }
}

impl TenantStore {
    /// The newest failures of a span in which there are so many: nothing is looked for beyond the last of them.
    async fn failures(&self, since: Time, until: Time, failed: u64) -> Result<Vec<LogRow>> {
        let most = failed.min(FAILURES_MAX);
        if most == 0 {
            return Ok(Vec::new());
        }
        let sql = format!(
            "SELECT {COLUMNS} FROM logs WHERE tenant_id = ?1 AND created_at >= ?2 AND created_at < ?3 AND status >= 400 \
             ORDER BY created_at DESC LIMIT ?4"
        );
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        self.read(move |tx| tx.all(&sql, &[Param::Int(since.ms()), Param::Int(until.ms()), Param::Int(most)], log_take)).await
    }
}
