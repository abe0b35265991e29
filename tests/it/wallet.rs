//! Money: held before, settled after, never more than was deposited, and no vendor called that cannot be paid.

use crate::{
    check,
    fake_provider::{At, Gate, Reply, Wire},
    harness::{OPERATOR, Server, Tenant},
};
use serde_json::{Value, json};

fn nanos(money: &str) -> i64 {
    let money: nimblesite::money::Money = money.parse().expect("money");
    money.nanos()
}

async fn balance(server: &Server, tenant: &Tenant) -> i64 {
    nanos(&server.wallet(&tenant.key).await.0)
}

#[tokio::test]
async fn an_empty_wallet_stops_before_the_vendor() {
    let server = Server::start().await;
    let tenant = server.tenant("Acme").await;
    for wire in Wire::ALL {
        let config = server.config(&tenant, wire.provider(), "smart", &json!({})).await;
        let rows = server.rows();
        let answer = server.chat(&tenant.key, &config, &json!({"message": "go"})).await.problem(402, "insufficient_credit");
        assert_eq!((answer.text("/available"), nanos(&answer.text("/required")) > 0), ("0.000000000".to_owned(), true));
        assert_eq!(server.rows(), rows, "a refusal leaves nothing behind");
    }
    // So little that not even the shortest useful answer can be paid.
    server.credit(&tenant, "0.000100000").await;
    let config = server.config(&tenant, "fake-anthropic", "smart", &json!({})).await;
    let answer = server.chat(&tenant.key, &config, &json!({"message": "go"})).await.problem(402, "insufficient_credit");
    assert_eq!(answer.text("/available"), "0.000100000");
    assert_eq!(server.vendor.call_count(), 0);
    let log = server.logs(&tenant.key).await.remove(0);
    assert_eq!((&log["event"], &log["status"], &log["code"]), (&json!("refused"), &json!(402), &json!("insufficient_credit")));
    server.done().await;
}

#[tokio::test]
async fn the_limit_is_lowered_to_what_the_balance_buys_and_the_answer_says_so() {
    let server = Server::start().await;
    for wire in Wire::ALL {
        let tenant = server.tenant(&format!("Acme {wire:?}")).await;
        server.credit(&tenant, "0.010000000").await;
        let config = server.config(&tenant, wire.provider(), "smart", &json!({"model_config": {"max_tokens": 4000}})).await;
        server.vendor.then(Reply::text("Short."));
        let answer = server.chat(&tenant.key, &config, &json!({"message": "go"})).await.expect(200);
        let applied = answer.at("/max_tokens_applied").as_u64().unwrap();
        let call = server.vendor.last();
        assert_eq!(call.output_limit, Some(applied), "{wire:?}: what is told is what was sent");
        assert!((16..4000).contains(&applied), "{applied}");
        // Whatever the vendor does within what it was sent, the balance pays: every byte a token, of the dearest class, and the whole limit.
        let worst = call.body_bytes as u64 * 3_750 + applied * 15_000;
        assert!(worst <= 10_000_000, "{wire:?}: {worst}");
        let left = balance(&server, &tenant).await;
        let (bytes, limit) = (call.body_bytes as u64, applied.min(600));
        server.vendor.then(Reply::text("Everything.").tokens(bytes / 2, limit));
        let answer = server.chat(&tenant.key, &config, &json!({"message": "go"})).await.expect(200);
        let cost = nanos(&answer.text("/cost"));
        assert!(cost > 0 && balance(&server, &tenant).await == left - cost && left >= cost);
    }
    server.done().await;
}

#[tokio::test]
async fn what_is_held_by_a_running_turn_is_reserved_not_missing() {
    let server = Server::start().await;
    let tenant = server.tenant("Acme").await;
    server.credit(&tenant, "0.010000000").await;
    let config = server.config(&tenant, "fake-anthropic", "smart", &json!({})).await;
    let gate = Gate::new();
    server.vendor.then(Reply::text("First.").stall(At::BeforeHead, &gate));
    let (body, again) = (json!({"message": "go"}), json!({"message": "me too"}));
    let (first, ()) = tokio::join!(server.chat(&tenant.key, &config, &body), async {
        server.vendor.called(1).await;
        let wallet = server.get("/api/v1/wallet", &tenant.key).await.expect(200);
        let (held, available) = (nanos(&wallet.text("/held")), nanos(&wallet.text("/available")));
        assert_eq!((wallet.text("/balance"), held + available), ("0.010000000".to_owned(), 10_000_000), "nothing is spent yet");
        let rows = server.rows();
        let second = server.chat(&tenant.key, &config, &again).await.problem(429, "credit_reserved");
        assert!(second.header("retry-after").is_some());
        assert_eq!(server.rows(), rows);
        gate.open();
    });
    first.expect(200);
    server.vendor.then(Reply::text("Second."));
    server.chat(&tenant.key, &config, &again).await.expect(200);
    assert_eq!(server.vendor.call_count(), 2);
    server.done().await;
}

#[tokio::test]
async fn a_key_s_own_limit_holds_below_the_balance() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    let config = server.config(&tenant, "fake-anthropic", "smart", &json!({"model_config": {"max_tokens": 100}})).await;
    let (key, id) = server.key_with(&tenant, &json!({"name": "ci", "role": "member", "spend_limit": "0.010"})).await;
    server.vendor.otherwise(Reply::text("Yes."));
    let mut answered = 0;
    let refused = loop {
        let answer = server.chat(&key, &config, &json!({"message": "go"})).await;
        if answer.status != 200 {
            break answer;
        }
        answered += 1;
        assert!(answered < 20, "0.0006 a turn of 0.01 in all");
    };
    let refused = refused.problem(402, "key_spend_limit");
    assert!((1..=16).contains(&answered), "{answered}");
    assert_eq!(nanos(&refused.text("/spent")), i64::from(answered) * 600_000);
    let row = server.get("/api/v1/keys?limit=100", &tenant.key).await.at("/data");
    let row = row.as_array().unwrap().iter().find(|row| row["id"] == json!(id)).cloned().unwrap();
    assert_eq!((&row["spend_limit"], nanos(row["spent"].as_str().unwrap())), (&json!("0.010000000"), i64::from(answered) * 600_000));
    server.chat(&tenant.key, &config, &json!({"message": "go"})).await.expect(200);
    assert_eq!(i32::try_from(server.vendor.call_count()), Ok(answered + 1), "no vendor was called in vain");
    // Raised, it goes on.
    server.patch(&format!("/api/v1/keys/{id}"), &tenant.key, &json!({"spend_limit": "1.00"})).await.expect(200);
    server.chat(&key, &config, &json!({"message": "go"})).await.expect(200);
    server.done().await;
}

#[tokio::test]
async fn a_model_without_a_price_is_never_called() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    let made =
        server.post("/api/v1/configs", &tenant.key, &crate::harness::config_body("Odd", "fake-anthropic", "unpriced", &json!({}))).await;
    let config = made.expect(201).text("/id");
    let rows = server.rows();
    server.chat(&tenant.key, &config, &json!({"message": "go"})).await.problem(503, "pricing_unavailable");
    assert_eq!((server.rows(), server.vendor.call_count()), (rows, 0));
    server.done().await;
}

#[tokio::test]
async fn what_costs_nothing_needs_no_balance() {
    let server = Server::start().await;
    let tenant = server.tenant("Acme").await;
    let config = server.config(&tenant, "echo", "echo", &json!({})).await;
    let answer = server.chat(&tenant.key, &config, &json!({"message": "hello echo"})).await.expect(200);
    assert_eq!((answer.text("/cost"), answer.text("/balance")), ("0.000000000".to_owned(), "0.000000000".to_owned()));
    assert!(answer.text("/response").contains("hello echo"));
    for wire in Wire::ALL {
        let config = server.config(&tenant, wire.provider(), "free", &json!({})).await;
        server.vendor.then(Reply::text("Gratis."));
        server.chat(&tenant.key, &config, &json!({"message": "go"})).await.expect(200);
    }
    server.done().await;
}

#[tokio::test]
async fn a_vendor_that_reports_more_than_the_bound_is_paid_the_hold_and_closed() {
    let server = Server::start().await;
    let absurd = || Reply::text("Much.").tokens(50_000_000, 10);
    let mut tenants = Vec::new();
    for n in 0..4 {
        let tenant = server.rich_tenant(&format!("Tenant {n}")).await;
        let config = server.config(&tenant, "fake-openai", "smart", &json!({"model_config": {"max_tokens": 100}})).await;
        tenants.push((tenant, config));
    }
    for (tenant, config) in &tenants[..3] {
        server.vendor.then(absurd());
        let answer = server.chat(&tenant.key, config, &json!({"message": "go"})).await.expect(200);
        let cost = nanos(&answer.text("/cost"));
        let bytes = i64::try_from(server.vendor.last().body_bytes).unwrap();
        assert!(cost > 0 && cost <= (bytes + 4_000) * 3_750 + 100 * 15_000, "at most the hold: {cost}");
        assert_eq!(answer.text("/response"), "Much.", "the answer is the tenant's all the same");
        let logs = server.logs(&tenant.key).await;
        let breach = logs.iter().find(|row| row["event"] == "hold_breach").expect("a row of the breach");
        assert_eq!(breach["model"], "fake-openai/smart".replace("fake-openai/", "").as_str());
        server.chat(&tenant.key, config, &json!({"message": "go"})).await.problem(503, "model_closed");
        let other = server.config(tenant, "fake-openai", "other", &json!({})).await;
        server.vendor.then(Reply::text("Fine."));
        server.chat(&tenant.key, &other, &json!({"message": "go"})).await.expect(200);
    }
    // Three tenants, and it is closed for all; no vendor is called to find out.
    let calls = server.vendor.call_count();
    let (tenant, config) = &tenants[3];
    server.chat(&tenant.key, config, &json!({"message": "go"})).await.problem(503, "model_closed");
    assert_eq!(server.vendor.call_count(), calls);
    // The operator puts the rate right, and the model is open again, without a restart.
    let path = server.data().join("models.toml");
    let card = std::fs::read_to_string(&path).unwrap();
    std::fs::write(
        &path,
        card.replace(
            "provider = \"fake-openai\"\nname = \"smart\"",
            "provider = \"fake-openai\"\nname = \"smart\"\nlong_context_above = 100000\ninput_long = \"6\"\noutput_long = \"30\"",
        ),
    )
    .unwrap();
    server.vendor.otherwise(Reply::text("Open."));
    for _ in 0..1_000 {
        let answer = server.chat(&tenant.key, config, &json!({"message": "go"})).await;
        if answer.status == 200 {
            server.done().await;
            return;
        }
        answer.problem(503, "model_closed");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the new rate card was not taken");
}

#[tokio::test]
async fn usage_lies_within_the_bound_are_paid_as_told() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    for wire in Wire::ALL {
        let config = server.config(&tenant, wire.provider(), "smart", &json!({})).await;
        server.vendor.then(Reply::text("Zero?").tokens(0, 0));
        let answer = server.chat(&tenant.key, &config, &json!({"message": "go"})).await.expect(200);
        assert!(nanos(&answer.text("/cost")) >= 0, "{wire:?}");
        server.vendor.then(Reply::text("One.").tokens(1, 1));
        let answer = server.chat(&tenant.key, &config, &json!({"message": "go"})).await.expect(200);
        assert_eq!(answer.text("/cost"), "0.000018000", "{wire:?}");
    }
    server.done().await;
}

#[tokio::test]
async fn many_at_once_never_spend_more_than_there_is() {
    let server = Server::start().await;
    let tenant = server.tenant("Acme").await;
    server.credit(&tenant, "0.050000000").await;
    let config = server.config(&tenant, "fake-anthropic", "smart", &json!({"model_config": {"max_tokens": 300}})).await;
    // Each uses all that its limit allows.
    server.vendor.otherwise(Reply::text("All of it.").tokens(100, 300).within_limit());
    let body = json!({"message": "go"});
    let answers = futures_util::future::join_all((0..60).map(|_| server.chat(&tenant.key, &config, &body))).await;
    let mut paid = 0;
    for answer in answers {
        match answer.status {
            200 => paid += nanos(&answer.text("/cost")),
            402 => drop(answer.problem(402, "insufficient_credit")),
            _ => drop(answer.problem(429, "credit_reserved")),
        }
    }
    assert!(paid > 0);
    assert_eq!(server.vendor.billed_nanos(), paid, "the tenant pays what the vendor bills");
    assert_eq!(balance(&server, &tenant).await, 50_000_000 - paid);
    server.done().await;
}

#[tokio::test]
async fn the_ledger_is_a_chain_in_sequence() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    let config = server.config(&tenant, "fake-anthropic", "smart", &json!({})).await;
    server.vendor.otherwise(Reply::text("Yes.").cached(7, 11));
    for _ in 0..3 {
        server.say(&tenant.key, &config, "go").await;
    }
    let credit = format!("/api/v1/operator/tenants/{}/credit", tenant.id);
    let adjust = server.post(&credit, OPERATOR, &json!({"amount": "-1.50", "note": "a mistake"})).await;
    check!(adjust, @r#"
        201
        {
          "id": "<id 1>",
          "seq": 5,
          "kind": "adjustment",
          "amount": "-1.500000000",
          "balance": "8.498069950",
          "reference": null,
          "note": "a mistake",
          "turn_id": null,
          "model": null,
          "usage": null,
          "rates": null,
          "created_at": "<time>",
          "hash": "<hash>"
        }
    "#);
    let ledger = server.get("/api/v1/wallet/ledger", &tenant.key).await.expect(200);
    let entries: Vec<Value> = ledger.at("/data").as_array().cloned().unwrap();
    let kinds: Vec<_> = entries.iter().map(|entry| entry["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["topup", "spend", "spend", "spend", "adjustment"]);
    let mut running = 0;
    for (n, entry) in entries.iter().enumerate() {
        running += nanos(entry["amount"].as_str().unwrap());
        assert_eq!((entry["seq"].as_u64(), nanos(entry["balance"].as_str().unwrap())), (Some(n as u64 + 1), running));
    }
    check!(crate::harness::Answer { body: entries[1].to_string(), ..ledger.clone() }, @r#"
        200
        {
          "id": "<id 1>",
          "seq": 2,
          "kind": "spend",
          "amount": "-0.000643350",
          "balance": "9.999356650",
          "reference": null,
          "note": null,
          "turn_id": "<id 2>",
          "model": "fake-anthropic/smart",
          "usage": {
            "input_tokens": 100,
            "output_tokens": 20,
            "cache_read_tokens": 7,
            "cache_write_tokens": 11
          },
          "rates": {
            "input": "3",
            "output": "15",
            "cache_read": "0.3",
            "cache_write": "3.75"
          },
          "created_at": "<time>",
          "hash": "<hash>"
        }
    "#);
    // Recomputed from what is shown, the chain is the chain.
    let mut hash = nimblesite::wallet::chain_start(tenant.id.parse().unwrap());
    for entry in &entries {
        let entry = shown_entry(entry);
        hash = nimblesite::wallet::chain_next(&hash, &entry);
        assert_eq!(hash, entry.hash);
    }
    assert_eq!(server.get("/api/v1/wallet/ledger?order=desc&limit=1", &tenant.key).await.at("/data/0/seq"), json!(5));
    server.done().await;
}

/// A ledger entry as the API shows it, read back.
fn shown_entry(entry: &Value) -> nimblesite::model::LedgerEntry {
    let text = |name: &str| entry[name].as_str().map(str::to_owned);
    nimblesite::model::LedgerEntry {
        id: text("id").unwrap().parse().unwrap(),
        seq: entry["seq"].as_u64().unwrap(),
        kind: nimblesite::model::EntryKind::from_name(&text("kind").unwrap()).unwrap(),
        amount: text("amount").unwrap().parse().unwrap(),
        balance: text("balance").unwrap().parse().unwrap(),
        reference: text("reference"),
        note: text("note"),
        turn_id: text("turn_id").map(|id| id.parse().unwrap()),
        model: text("model"),
        usage: serde_json::from_value(entry["usage"].clone()).unwrap(),
        rates: serde_json::from_value(entry["rates"].clone()).unwrap(),
        created_at: text("created_at").unwrap().parse().unwrap(),
        hash: text("hash").unwrap(),
    }
}

#[tokio::test]
async fn a_reference_counts_once_and_credit_is_never_taken_below_zero() {
    let server = Server::start().await;
    let tenant = server.tenant("Acme").await;
    let credit = format!("/api/v1/operator/tenants/{}/credit", tenant.id);
    let first = server.post(&credit, OPERATOR, &json!({"amount": "5.00", "reference": "invoice 1"})).await.expect(201);
    let again = server.post(&credit, OPERATOR, &json!({"amount": "5.00", "reference": "invoice 1"})).await;
    assert!(again.status < 300, "{}", again.body);
    assert_eq!(again.text("/id"), first.text("/id"));
    let other = server.post(&credit, OPERATOR, &json!({"amount": "7.00", "reference": "invoice 1"})).await;
    assert!((400..500).contains(&other.status), "another amount under the same reference is a mistake: {}", other.body);
    assert_eq!(balance(&server, &tenant).await, 5_000_000_000);
    for amount in ["-5.01", "0", "1e3", "0.0000000001", "99999999999"] {
        let answer = server.post(&credit, OPERATOR, &json!({"amount": amount})).await;
        assert!([409, 422].contains(&answer.status), "{amount}: {} {}", answer.status, answer.body);
    }
    server.post(&credit, OPERATOR, &json!({"amount": 5})).await.problem(422, "validation_failed");
    assert_eq!(balance(&server, &tenant).await, 5_000_000_000);
    // Nor below what is held.
    let config = server.config(&tenant, "fake-anthropic", "smart", &json!({})).await;
    let gate = Gate::new();
    server.vendor.then(Reply::text("Held.").stall(At::BeforeHead, &gate));
    let body = json!({"message": "go"});
    let (answer, ()) = tokio::join!(server.chat(&tenant.key, &config, &body), async {
        server.vendor.called(1).await;
        let all = server.post(&credit, OPERATOR, &json!({"amount": "-5.00"})).await;
        assert!([409, 422].contains(&all.status), "{}", all.body);
        gate.open();
    });
    answer.expect(200);
    server.done().await;
}

#[tokio::test]
async fn a_suspended_tenant_reads_and_does_not_chat() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    let config = server.config(&tenant, "fake-anthropic", "smart", &json!({})).await;
    let operator = |verb: &str| format!("/api/v1/operator/tenants/{}/{verb}", tenant.id);
    server.post(&operator("suspend"), OPERATOR, &json!({})).await.expect(200);
    server.chat(&tenant.key, &config, &json!({"message": "go"})).await.problem(403, "tenant_suspended");
    server.get("/api/v1/configs", &tenant.key).await.expect(200);
    assert_eq!(server.get("/api/v1/tenant", &tenant.key).await.at("/suspended"), json!(true));
    server.post(&operator("resume"), OPERATOR, &json!({})).await.expect(200);
    server.vendor.then(Reply::text("Back."));
    server.chat(&tenant.key, &config, &json!({"message": "go"})).await.expect(200);
    assert_eq!(server.vendor.call_count(), 1);
    server.done().await;
}

#[tokio::test]
async fn usage_adds_up_to_the_ledger() {
    let server = Server::start().await;
    let tenant = server.rich_tenant("Acme").await;
    let mut configs = Vec::new();
    server.vendor.otherwise(Reply::text("Yes."));
    for wire in Wire::ALL {
        let config = server.config(&tenant, wire.provider(), "smart", &json!({})).await;
        server.say(&tenant.key, &config, "go").await;
        server.say(&tenant.key, &config, "go").await;
        configs.push(config);
    }
    server.vendor.then(Reply::refuse(400));
    server.chat(&tenant.key, &configs[0], &json!({"message": "go"})).await.problem(502, "provider_error");
    let usage = async |query: &str| server.get(&format!("/api/v1/usage{query}"), &tenant.key).await.expect(200).at("/data");
    let by_model = usage("?group_by=model").await;
    let total: i64 = by_model.as_array().unwrap().iter().map(|row| nanos(row["cost"].as_str().unwrap())).sum();
    assert_eq!(total, 6 * 600_000);
    let by_config = usage("?group_by=config_id").await;
    assert_eq!(by_config.as_array().unwrap().len(), 3);
    let first = by_config.as_array().unwrap().iter().find(|row| row["config_id"] == json!(configs[0])).unwrap();
    assert_eq!(
        (&first["turns"], &first["errors"], &first["input_tokens"], &first["output_tokens"]),
        (&json!(3), &json!(1), &json!(200), &json!(40))
    );
    for query in ["?group_by=day", "?group_by=hour", "?group_by=key_id", "?group_by=user_id", "?group_by=day,model,config_id"] {
        let rows = server.get(&format!("/api/v1/usage{query}"), &tenant.key).await;
        if rows.status == 200 {
            let total: i64 = rows.at("/data").as_array().unwrap().iter().map(|row| nanos(row["cost"].as_str().unwrap())).sum();
            assert_eq!(total, 6 * 600_000, "{query}");
        } else {
            rows.problem(422, "validation_failed");
        }
    }
    server.get("/api/v1/usage?group_by=tenant_id", &tenant.key).await.problem(422, "validation_failed");
    server.done().await;
}
