//! The tenant's log: one row a step or refused request, and the usage that is summed up from it.

use super::{
    Storage,
    engine::{Param, Row},
    rows,
    select::{Select, Value, id_cursor},
    tenant::{TenantStore, TenantTx},
};
use crate::{
    clock::Time,
    error::{Error, Result},
    ids::*,
    model::{List, LogEvent, LogRow, Order, Page, UsageRow},
    money::Money,
};
use std::{
    collections::HashMap,
    sync::{LazyLock, Mutex, PoisonError},
};

pub(super) const COLUMNS: &str = "id, turn_id, step, created_at, key_id, user_id, config_id, conversation_id, event, status, code, provider, model, \
     input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, cost, estimated, latency_ms, provider_ms, time_to_first_token_ms, \
     request_id, operator_cost, detail";

/// Which rows of the log. What is not set filters nothing.
#[derive(Debug, Clone, Default)]
pub struct LogFilter {
    /// The HTTP status.
    pub status: Option<u16>,
    /// What failed or was refused alone.
    pub failed: bool,
    /// The error's code.
    pub code: Option<String>,
    /// What happened.
    pub event: Option<LogEvent>,
    /// With which key.
    pub key_id: Option<KeyId>,
    /// By whom.
    pub user_id: Option<UserId>,
    /// On which config.
    pub config_id: Option<ConfigId>,
    /// In which conversation.
    pub conversation_id: Option<ConversationId>,
    /// Of which turn.
    pub turn_id: Option<TurnId>,
    /// Of which HTTP request.
    pub request_id: Option<RequestId>,
    /// The model called.
    pub model: Option<String>,
    /// The provider called.
    pub provider: Option<String>,
    /// From this instant on.
    pub since: Option<Time>,
    /// Before this instant.
    pub until: Option<Time>,
}

/// How answers went over a time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pace {
    /// Rows of the log.
    pub rows: u64,
    /// The newest answered steps, at most as many as were asked for: those that the percentiles are of.
    pub answers: u64,
    /// Of those steps: half, and all but one in twenty and in a hundred, took at most so many milliseconds.
    pub latency_ms: Option<[u64; 3]>,
    /// The same until the vendor's first output.
    pub first_token_ms: Option<[u64; 3]>,
}

/// The parts of a hundred that [`Pace`] tells of.
const PERCENTILES: [usize; 3] = [50, 95, 99];

/// What usage is summed up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum UsageGroup {
    /// The model called.
    Model,
    /// Its provider.
    Provider,
    /// The config.
    Config,
    /// The key.
    Key,
    /// The user.
    User,
}

impl UsageGroup {
    /// The name in `group_by`, which is also the column's.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Provider => "provider",
            Self::Config => "config_id",
            Self::Key => "key_id",
            Self::User => "user_id",
        }
    }

    /// The group of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Model, Self::Provider, Self::Config, Self::Key, Self::User].into_iter().find(|group| group.name() == name)
    }
}

/// Which usage.
#[derive(Debug, Clone)]
pub struct UsageAsk {
    /// The length of a period in milliseconds; periods begin at its multiples since 1970, in UTC.
    pub period_ms: i64,
    /// From this instant on.
    pub since: Time,
    /// Before this instant.
    pub until: Time,
    /// A row for each of these that differ; an empty list gives a row a period.
    pub groups: Vec<UsageGroup>,
    /// Which periods come first.
    pub order: Order,
    /// The most rows.
    pub limit: u32,
}

impl TenantStore {
    /// A page of the log, by id.
    pub async fn log_list(&self, filter: LogFilter, page: Page) -> Result<List<LogRow>> {
        self.read(move |tx| {
            let mut select = Select::new(&format!("SELECT {COLUMNS} FROM logs WHERE tenant_id = ?1"));
            select.and_some("status = ?", filter.status.map(i64::from));
            select.and_some("status >= ?", filter.failed.then_some(400_i64));
            select.and_some("code = ?", filter.code.as_deref());
            select.and_some("event = ?", filter.event.map(LogEvent::name));
            select.and_some("key_id = ?", filter.key_id.map(|id| id.to_string()));
            select.and_some("user_id = ?", filter.user_id.map(|id| id.to_string()));
            select.and_some("config_id = ?", filter.config_id.map(|id| id.to_string()));
            select.and_some("conversation_id = ?", filter.conversation_id.map(|id| id.to_string()));
            select.and_some("turn_id = ?", filter.turn_id.map(|id| id.to_string()));
            select.and_some("request_id = ?", filter.request_id.map(|id| id.to_string()));
            select.and_some("model = ?", filter.model.as_deref());
            select.and_some("provider = ?", filter.provider.as_deref());
            select.and_some("created_at >= ?", filter.since);
            select.and_some("created_at < ?", filter.until);
            select.page(tx, &page, "id", id_cursor("logs"), log_take, |log| log.id.to_string())
        })
        .await
    }

    /// One row of the log.
    pub async fn log_get(&self, id: LogId) -> Result<LogRow> {
        let sql = format!("SELECT {COLUMNS} FROM logs WHERE tenant_id = ?1 AND id = ?2");
        self.read(move |tx| tx.first(&sql, &[Param::Text(&id.to_string())], log_take)?.ok_or_else(|| Error::not_found("log row", id))).await
    }

    /// How answers went from one instant on until before another. The percentiles are those of the newest answers, at most so many, so that a
    /// large log costs no more than a small one.
    pub async fn pace(&self, since: Time, until: Time, answers_max: u32) -> Result<Pace> {
        self.read(move |tx| {
            let (since, until) = (Param::Int(since.ms()), Param::Int(until.ms()));
            let rows = "SELECT COUNT(*) FROM logs WHERE tenant_id = ?1 AND created_at >= ?2 AND created_at < ?3";
            let rows = tx.first(rows, &[since, until], |row| rows::number(row, 0))?.unwrap_or_default();
            let newest = "SELECT latency_ms, time_to_first_token_ms FROM logs WHERE tenant_id = ?1 AND created_at >= ?2 AND created_at < ?3 \
                          AND event = 'step' AND status < 400 ORDER BY created_at DESC LIMIT ?4";
            let take = |row: &dyn Row| Ok((rows::number_opt::<u64>(row, 0)?, rows::number_opt::<u64>(row, 1)?));
            let answers = tx.all(newest, &[since, until, Param::Int(answers_max.into())], take)?;
            Ok(Pace {
                rows,
                answers: answers.len() as u64,
                latency_ms: percentiles(answers.iter().filter_map(|(latency, _)| *latency)),
                first_token_ms: percentiles(answers.iter().filter_map(|(_, first)| *first)),
            })
        })
        .await
    }

    /// Turns, tokens and cost, summed up. Refused requests count as errors only. When there are more rows than asked for, `has_more` says so.
    pub async fn usage(&self, ask: UsageAsk) -> Result<List<UsageRow>> {
        self.read(move |tx| {
            let rows = usage_select(&ask).all(tx, |row| usage_take(row, &ask.groups))?;
            let mut list = List::from_rows(rows, ask.limit, |_| String::new());
            // Sums have no ids.
            (list.first_id, list.last_id) = (None, None);
            Ok(list)
        })
        .await
    }
}

/// Writes one row of the log into an open transaction.
/// Behind the tenant: what `log_append` binds, in the order of [`COLUMNS`].
static INSERT: LazyLock<String> = LazyLock::new(|| {
    let places: Vec<String> = (0..COLUMNS.split(',').count()).map(|at| format!("?{}", at + 2)).collect();
    format!("INSERT INTO logs (tenant_id, {COLUMNS}) VALUES (?1, {})", places.join(", "))
});

pub(super) fn log_append(tx: &mut TenantTx<'_>, log: &LogRow) -> Result<()> {
    let id = |id: Option<String>| id.map_or(Value::Null, Value::Text);
    let count = |count: Option<u64>| count.map_or(Value::Null, |count| Value::Int(i64::try_from(count).unwrap_or(i64::MAX)));
    let money = |money: Option<Money>| money.map_or(Value::Null, |money| Value::Int(money.nanos()));
    let values = [
        Value::Text(log.id.to_string()),
        id(log.turn_id.map(|id| id.to_string())),
        count(log.step.map(u64::from)),
        log.created_at.into(),
        id(log.key_id.map(|id| id.to_string())),
        id(log.user_id.map(|id| id.to_string())),
        id(log.config_id.map(|id| id.to_string())),
        id(log.conversation_id.map(|id| id.to_string())),
        log.event.name().into(),
        Value::Int(log.status.into()),
        id(log.code.clone()),
        id(log.provider.clone()),
        id(log.model.clone()),
        count(log.usage.map(|usage| usage.input_tokens)),
        count(log.usage.map(|usage| usage.output_tokens)),
        count(log.usage.map(|usage| usage.cache_read_tokens)),
        count(log.usage.map(|usage| usage.cache_write_tokens)),
        money(log.cost),
        Value::Int(log.estimated.into()),
        count(log.latency_ms),
        count(log.provider_ms),
        count(log.time_to_first_token_ms),
        id(log.request_id.map(|id| id.to_string())),
        money(log.operator_cost),
        id(log.detail.clone()),
    ];
    let params = values.each_ref().map(Value::param);
    tx.execute(&INSERT, &params)?;
    Ok(())
}

/// The values at [`PERCENTILES`] (nearest rank); none without a value.
fn percentiles(values: impl Iterator<Item = u64>) -> Option<[u64; 3]> {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    let at = |percent: usize| values.get((values.len() * percent).div_ceil(100).saturating_sub(1)).copied();
    let [half, most, nearly_all] = PERCENTILES.map(at);
    Some([half?, most?, nearly_all?])
}

pub(super) fn log_take(row: &dyn Row) -> Result<LogRow> {
    let event = row.text(8)?;
    Ok(LogRow {
        id: rows::parsed(row, 0)?,
        turn_id: rows::parsed_opt(row, 1)?,
        step: rows::number_opt(row, 2)?,
        created_at: rows::time(row, 3)?,
        key_id: rows::parsed_opt(row, 4)?,
        user_id: rows::parsed_opt(row, 5)?,
        config_id: rows::parsed_opt(row, 6)?,
        conversation_id: rows::parsed_opt(row, 7)?,
        event: LogEvent::from_name(event).ok_or_else(|| Error::internal(format!("the log has an event {event}")))?,
        status: rows::number(row, 9)?,
        code: rows::text_opt(row, 10)?,
        provider: rows::text_opt(row, 11)?,
        model: rows::text_opt(row, 12)?,
        usage: rows::usage_opt(row, 13)?,
        cost: rows::money_opt(row, 17)?,
        estimated: row.int(18)? != 0,
        latency_ms: rows::number_opt(row, 19)?,
        provider_ms: rows::number_opt(row, 20)?,
        time_to_first_token_ms: rows::number_opt(row, 21)?,
        request_id: rows::parsed_opt(row, 22)?,
        operator_cost: rows::money_opt(row, 23)?,
        detail: rows::text_opt(row, 24)?,
    })
}

fn usage_select(ask: &UsageAsk) -> Select {
    let period = format!("(created_at / {0}) * {0}", ask.period_ms);
    let mut groups = ask.groups.clone();
    groups.sort_unstable();
    groups.dedup();
    let by: String = groups.iter().flat_map(|group| [", ", group.name()]).collect();
    let sum = |column: &str| format!("CAST(COALESCE(SUM({column}), 0) AS BIGINT)");
    let mut select = Select::new(&format!(
        "SELECT {period} AS period, COUNT(DISTINCT CASE WHEN event <> 'refused' THEN turn_id END), {}, {}, {}, {}, {}, {}{by} \
         FROM logs WHERE tenant_id = ?1",
        sum("CASE WHEN status >= 400 THEN 1 ELSE 0 END"),
        sum("input_tokens"),
        sum("output_tokens"),
        sum("cache_read_tokens"),
        sum("cache_write_tokens"),
        sum("cost"),
    ));
    select.and("created_at >= ?", ask.since);
    select.and("created_at < ?", ask.until);
    let order = if ask.order == Order::Asc { "ASC" } else { "DESC" };
    select.push(&format!(" GROUP BY {period}{by} ORDER BY 1 {order}{by} LIMIT {}", ask.limit + 1));
    select
}

fn usage_take(row: &dyn Row, groups: &[UsageGroup]) -> Result<UsageRow> {
    let mut usage = UsageRow {
        period: rows::time(row, 0)?,
        model: None,
        provider: None,
        config_id: None,
        key_id: None,
        user_id: None,
        turns: rows::number(row, 1)?,
        errors: rows::number(row, 2)?,
        input_tokens: rows::number(row, 3)?,
        output_tokens: rows::number(row, 4)?,
        cache_read_tokens: rows::number(row, 5)?,
        cache_write_tokens: rows::number(row, 6)?,
        cost: Money::from_nanos(row.int(7)?),
    };
    let mut groups = groups.to_vec();
    groups.sort_unstable();
    groups.dedup();
    for (n, group) in groups.into_iter().enumerate() {
        let column = 8 + n;
        match group {
            UsageGroup::Model => usage.model = rows::text_opt(row, column)?,
            UsageGroup::Provider => usage.provider = rows::text_opt(row, column)?,
            UsageGroup::Config => usage.config_id = rows::parsed_opt(row, column)?,
            UsageGroup::Key => usage.key_id = rows::parsed_opt(row, column)?,
            UsageGroup::User => usage.user_id = rows::parsed_opt(row, column)?,
        }
    }
    Ok(usage)
}

impl Storage {
    /// Writes a refused request into its tenant's log, up to `limits.refusal_logs_per_minute`; the rest are only counted in the metrics.
    pub async fn log_refused(&self, store: &TenantStore, row: LogRow) -> Result<()> {
        if !self.inner.refusals.allows(store.tenant, row.created_at, self.inner.limits.refusal_logs_per_minute) {
            return Ok(());
        }
        store.write(move |tx| log_append(tx, &row)).await
    }
}

/// How many refusals each tenant logged in the running minute, so that a flood of refused requests does not fill the log.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<(i64, HashMap<TenantId, usize>)>);

impl Refusals {
    fn allows(&self, tenant: TenantId, now: Time, per_minute: usize) -> bool {
        let minute = now.ms().div_euclid(60_000);
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.0 != minute {
            *counted = (minute, HashMap::new());
        }
        let count = counted.1.entry(tenant).or_insert(0);
        *count += 1;
        *count <= per_minute
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_logged_up_to_a_number_a_minute_and_tenant() {
        let (refusals, one, other) = (Refusals::default(), TenantId::new(), TenantId::new());
        let at = |ms| Time::from_ms(ms);
        let logged = (0..5).filter(|_| refusals.allows(one, at(59_999), 3)).count();
        assert_eq!(logged, 3);
        assert!(refusals.allows(other, at(59_999), 3));
        assert!(refusals.allows(one, at(60_000), 3));
    }
}
