//! What was used, summed up.

use crate::{
    clock::Time,
    config::Limits,
    error::{Error, Result},
    http::{
        call::{Reply, Request, TenantCall},
        endpoint::{Answer, Endpoint, Handler},
    },
    model::{List, Order, Role, UsageRow},
    storage::{UsageAsk, UsageGroup},
};

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// The periods of an answer when the caller names no beginning.
const PERIODS_DEFAULT: i64 = 30;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::new("UsageList", "GET", "/api/v1/usage", Handler::Tenant(Role::Viewer, usage_list))
            .about("Usage", "Sum up turns, errors, tokens and cost")
            .describe(
                "Periods are whole hours or days in UTC, newest first; those without a row in the log are left out. Fields that were not grouped \
                 by are null. `has_more` says that there are more rows than one answer holds: ask for a shorter time.",
            )
            .query("period", "day (default) or hour")
            .query("since", "from this time on; by default the newest 30 periods")
            .query("until", "before this time; now by default")
            .query("group_by", "any of model, provider, config_id, key_id and user_id, joined by commas")
            .query("order", "desc (default) or asc, by period")
            .answers::<List<UsageRow>>(200)
            .errors(&["validation_failed"]),
    ]
}

fn ask(request: &Request, now: Time, limits: &Limits) -> Result<UsageAsk> {
    let (period_ms, name) = match request.query("period") {
        None | Some("day") => (DAY_MS, "days"),
        Some("hour") => (HOUR_MS, "hours"),
        Some(_) => return Err(Error::invalid("period", "expected day or hour")),
    };
    let order = match request.query("order") {
        None | Some("desc") => Order::Desc,
        Some("asc") => Order::Asc,
        Some(_) => return Err(Error::invalid("order", "expected asc or desc")),
    };
    let expected = "an RFC 3339 time such as 2026-11-24T08:30:00Z";
    // The end is not included, and what happens this millisecond is.
    let until = request.query_as("until", expected)?.unwrap_or(Time::from_ms(now.ms().saturating_add(1)));
    let start = until.ms().div_euclid(period_ms).saturating_sub(PERIODS_DEFAULT - 1).saturating_mul(period_ms);
    let since = request.query_as("since", expected)?.unwrap_or(Time::from_ms(start));
    if since >= until {
        return Err(Error::invalid("since", "expected a time before until"));
    }
    let periods_max = limits.usage_periods_max;
    if (until.ms() - since.ms()) / period_ms > i64::try_from(periods_max).unwrap_or(i64::MAX) {
        return Err(Error::invalid("since", format!("at most {periods_max} {name} before until")));
    }
    Ok(UsageAsk {
        period_ms,
        since,
        until,
        groups: groups(request)?,
        order,
        limit: u32::try_from(limits.usage_rows_max).unwrap_or(u32::MAX - 1),
    })
}

fn groups(request: &Request) -> Result<Vec<UsageGroup>> {
    let expected = || Error::invalid("group_by", "expected any of model, provider, config_id, key_id and user_id, joined by commas");
    let names = request.query("group_by").unwrap_or_default();
    names.split(',').filter(|name| !name.is_empty()).map(|name| UsageGroup::from_name(name).ok_or_else(expected)).collect()
}

fn usage_list(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let ask = ask(call.request, call.app.clock.now(), &call.app.config.limits)?;
        Reply::ok(&call.store.usage(ask).await?)
    })
}
