//! The log, what is summed up from it, and the ledger.

use super::*;
use crate::{
    model::EntryKind,
    storage::{
        engine::Param,
        logs::log_append,
        wallet::{NewEntry, ledger_append},
    },
};

async fn log_all(store: &TenantStore, rows: &[LogRow]) {
    let rows = rows.to_vec();
    store.write(move |tx| rows.iter().try_for_each(|row| log_append(tx, row))).await.unwrap();
}

#[tokio::test]
async fn logs_are_kept_whole_and_found_by_every_filter() {
    let bench = Bench::new().await;
    let store = &bench.tenant;
    let good = log(|_| {});
    let bad = log(|row| {
        row.created_at = Time::from_ms(1_000);
        (row.event, row.status, row.code) = (LogEvent::Refused, 402, Some("insufficient_credit".into()));
        (row.turn_id, row.step, row.usage, row.cost) = (None, None, None, None);
        (row.provider, row.model) = (Some("openai".into()), Some("gpt".into()));
        row.conversation_id = Some(ConversationId::new());
        (row.operator_cost, row.detail, row.estimated) = (Some(Money::from_nanos(9)), Some("x".into()), true);
    });
    log_all(store, &[good.clone(), bad.clone()]).await;
    for row in [&good, &bad] {
        let kept = store.log_get(row.id).await.unwrap();
        assert_eq!(serde_json::to_value(kept).unwrap(), serde_json::to_value(row).unwrap());
    }

    let of = LogFilter::default;
    for (filter, expected) in [
        (of(), vec![good.id, bad.id]),
        (LogFilter { status: Some(402), ..of() }, vec![bad.id]),
        (LogFilter { code: bad.code.clone(), ..of() }, vec![bad.id]),
        (LogFilter { event: Some(LogEvent::Step), ..of() }, vec![good.id]),
        (LogFilter { key_id: good.key_id, ..of() }, vec![good.id]),
        (LogFilter { user_id: good.user_id, ..of() }, vec![good.id]),
        (LogFilter { config_id: bad.config_id, ..of() }, vec![bad.id]),
        (LogFilter { conversation_id: bad.conversation_id, ..of() }, vec![bad.id]),
        (LogFilter { turn_id: good.turn_id, ..of() }, vec![good.id]),
        (LogFilter { request_id: bad.request_id, ..of() }, vec![bad.id]),
        (LogFilter { model: Some("gpt".into()), provider: Some("openai".into()), ..of() }, vec![bad.id]),
        (LogFilter { model: Some("gpt".into()), provider: Some("echo".into()), ..of() }, vec![]),
        (LogFilter { since: Some(Time::from_ms(1_000)), ..of() }, vec![bad.id]),
        (LogFilter { until: Some(Time::from_ms(1_000)), ..of() }, vec![good.id]),
    ] {
        let list = store.log_list(filter.clone(), Page::first(10, Order::Asc)).await.unwrap();
        assert_eq!(list.data.iter().map(|row| row.id).collect::<Vec<_>>(), expected, "{filter:?}");
    }
}

#[tokio::test]
async fn usage_sums_what_the_log_says() {
    let bench = Bench::new().await;
    let store = &bench.tenant;
    let (turn, hour) = (TurnId::new(), 3_600_000);
    let at = |ms, model: &str, turn| {
        log(|row| (row.created_at, row.model, row.turn_id) = (Time::from_ms(ms), Some(model.to_owned()), Some(turn)))
    };
    let failed = log(|row| {
        (row.created_at, row.status, row.code) = (Time::from_ms(2 * hour), 502, Some("provider_error".into()));
        (row.usage, row.cost, row.model) = (None, None, Some("b".into()));
    });
    let refused = log(|row| {
        (row.created_at, row.event, row.status, row.turn_id) = (Time::from_ms(2 * hour), LogEvent::Refused, 402, None);
        (row.usage, row.cost, row.model, row.provider) = (None, None, None, None);
    });
    log_all(store, &[at(1, "a", turn), at(hour - 1, "a", turn), at(hour, "b", TurnId::new()), failed, refused]).await;

    let ask = |period_ms, groups: &[UsageGroup], limit| UsageAsk {
        period_ms,
        since: Time::from_ms(0),
        until: Time::from_ms(24 * hour),
        groups: groups.to_vec(),
        order: Order::Asc,
        limit,
    };
    let day = store.usage(ask(24 * hour, &[], 10)).await.unwrap();
    assert_eq!(day.data.len(), 1);
    let all = &day.data[0];
    assert_eq!((all.turns, all.errors, all.input_tokens, all.output_tokens, all.cache_read_tokens), (3, 2, 30, 6, 3));
    assert_eq!((all.cost, all.model.as_deref(), all.period), (Money::from_nanos(15), None, Time::from_ms(0)));

    let hours = store.usage(ask(hour, &[UsageGroup::Model, UsageGroup::Provider, UsageGroup::Model], 10)).await.unwrap();
    let rows: Vec<_> = hours.data.iter().map(|row| (row.period.ms() / hour, row.model.as_deref(), row.turns, row.errors)).collect();
    assert_eq!(rows, [(0, Some("a"), 1, 0), (1, Some("b"), 1, 0), (2, None, 0, 1), (2, Some("b"), 1, 1)]);
    assert_eq!(hours.data[0].provider.as_deref(), Some("echo"));

    let cut = store.usage(UsageAsk { order: Order::Desc, ..ask(hour, &[], 2) }).await.unwrap();
    assert_eq!((cut.data.iter().map(|row| row.period.ms() / hour).collect::<Vec<_>>(), cut.has_more), (vec![2, 1], true));
    let late = store.usage(UsageAsk { since: Time::from_ms(hour), until: Time::from_ms(2 * hour), ..ask(hour, &[], 9) }).await.unwrap();
    assert_eq!(late.data.len(), 1);
}

#[tokio::test]
async fn the_ledger_is_read_in_sequence() {
    let bench = Bench::new().await;
    let store = &bench.tenant;
    for nanos in [5, 7, 9] {
        let entry = move |tx: &mut TenantTx<'_>| {
            tx.execute("UPDATE wallet SET deposited = deposited + ?2 WHERE tenant_id = ?1", &[Param::Int(nanos)])?;
            ledger_append(
                tx,
                NewEntry {
                    kind: EntryKind::Topup,
                    amount: Money::from_nanos(nanos),
                    reference: Some(format!("R{nanos}")),
                    note: None,
                    turn: None,
                    key: None,
                    model: None,
                    usage: None,
                    rates: None,
                    at: Time::from_ms(1),
                },
            )
        };
        store.write(entry).await.unwrap();
    }
    let first = store.ledger_list(Page::first(2, Order::Asc)).await.unwrap();
    let shown: Vec<_> = first.data.iter().map(|entry| (entry.seq, entry.amount.nanos(), entry.reference.as_deref())).collect();
    assert_eq!((shown, first.has_more), (vec![(1, 5, Some("R5")), (2, 7, Some("R7"))], true));
    let rest = store.ledger_list(page(2, first.last_id.as_deref(), None, Order::Asc)).await.unwrap();
    assert_eq!((rest.data[0].seq, rest.data[0].balance.nanos(), rest.has_more), (3, 21, false));
    assert!(store.ledger_list(page(2, Some("3"), None, Order::Asc)).await.is_err());
}
