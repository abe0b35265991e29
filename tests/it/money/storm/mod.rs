//! The storm: clients in several tenants, plain and streaming, that cut, cancel, repeat and revoke, against a vendor that refuses, breaks off,
//! stalls and lies, while wallets run dry and the server is killed in the middle; and an observer who reads the wallets all along.

mod client;
mod vendor;

use super::{full, seed, watch};
use crate::{
    fake_provider::Wire,
    faults::{doctor, nanos},
    harness::{Server, Settings, Tenant},
};
use client::Client;
use futures_util::future::join_all;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use vendor::Tally;

/// How large a storm is.
struct Size {
    tenants: usize,
    clients: usize,
    turns: i64,
    /// Milliseconds until the kill, a round; none for a round that ends well.
    rounds: &'static [Option<u64>],
}

const SHORT: Size = Size { tenants: 3, clients: 12, turns: 600, rounds: &[Some(900), Some(1_300), None] };
const FULL: Size = Size { tenants: 8, clients: 48, turns: 20_000, rounds: &[Some(2_000), Some(3_100), Some(4_700), None] };

/// Rows of models that a vendor lies about, so that only they are closed for it.
const LIARS: &str = "[[model]]\nprovider = \"fake-anthropic\"\nname = \"liar\"\nsource = \"the tests\"\nas_of = \"2026-11-24\"\ninput = \"3\"\n\
     output = \"15\"\ncache_read = \"0.30\"\ncache_write = \"3.75\"\ncontext_window = 200000\noutput_limit = 64000\noutput_min = 4\n";

struct Weather {
    server: Server,
    tenants: Vec<Tenant>,
    clients: Vec<Client>,
    tally: Arc<Tally>,
}

impl Weather {
    async fn gather(size: &Size, seed: u64) -> Self {
        let settings = Settings::default()
            .process()
            .rates(LIARS)
            .limit("key_requests_burst", 100_000)
            .limit("tenant_requests_burst", 100_000)
            .limit("provider_idle_timeout_ms", 3_000);
        let server = settings.limit("provider_backoff_max_ms", 10).start().await;
        server.vendor.price("fake-anthropic", "liar", [3_000_000, 15_000_000, 300_000, 3_750_000]);
        let tally = Arc::new(Tally::default());
        server.vendor.script(vendor::script(seed, Arc::clone(&tally)));
        let (mut tenants, mut clients) = (Vec::new(), Vec::new());
        for number in 0..size.tenants {
            tenants.push(server.tenant(&format!("Storm {number}")).await);
        }
        for number in 0..size.clients {
            let tenant = &tenants[number % size.tenants];
            let mut configs = Vec::new();
            for wire in Wire::ALL {
                let fallback = json!([{"provider": Wire::ALL[number % 3].provider(), "model": "other"}]);
                let mut extra = json!({"tools_config": ["read"], "model_config": {"max_tokens": 64}});
                if (number / 3) % 2 == 1 {
                    extra["model_config"]["fallbacks"] = fallback;
                }
                configs.push(server.config(tenant, wire.provider(), "smart", &extra).await);
            }
            let liar = server.config(tenant, "fake-anthropic", "liar", &json!({"model_config": {"max_tokens": 64}})).await;
            configs.rotate_left(number % 3);
            clients.push(Client::new(seed, number as u64, number % size.tenants, configs, liar));
        }
        Self { server, tenants, clients, tally }
    }

    /// All talk, for so many turns or until the server is killed; meanwhile the wallets are watched.
    async fn round(&mut self, turns: usize, kill_after: Option<u64>) {
        let (server, tenants) = (&self.server, &self.tenants);
        let talking = join_all(self.clients.iter_mut().map(|client| {
            let tenant = &tenants[client.tenant];
            client.talk(server, tenant, turns)
        }));
        let killing = async {
            let Some(wait) = kill_after else { return };
            tokio::time::sleep(Duration::from_millis(wait)).await;
            let pid = server.pid().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).expect("a process");
            kill_process(pid, Signal::KILL).expect("kill -9");
        };
        tokio::select! {
            ((), _) = async { tokio::join!(killing, talking) } => {}
            never = watch(server, tenants) => match never {},
        }
        if kill_after.is_some() {
            self.server.died().await;
            self.server.run().await;
        }
    }

    fn sum(&self, sql: &str) -> i64 {
        self.tenants.iter().map(|tenant| self.server.number(&tenant.id, sql)).sum()
    }

    fn turns(&self) -> i64 {
        self.sum("SELECT count(*) FROM turns")
    }

    /// Nothing is held, no turn runs, the books agree, and the vendor's bill is covered.
    async fn at_rest(&self) {
        for tenant in &self.tenants {
            // Opens the file, which closes what an earlier life left open.
            self.server.get("/api/v1/wallet", &tenant.key).await.expect(200);
        }
        let running = "SELECT count(*) FROM turns WHERE state = 'running'";
        self.server.eventually("rest", || (self.sum(running) == 0).then_some(())).await;
        assert_eq!(self.sum("SELECT count(*) FROM holds"), 0, "holds at rest");
        assert_eq!(self.sum("SELECT held FROM wallet"), 0, "held at rest");
        self.server.audit();
        doctor(&self.server).await;
        let (deposited, settled) = (self.sum("SELECT deposited FROM wallet"), self.sum("SELECT settled FROM wallet"));
        assert!(settled <= deposited, "{settled} is charged, {deposited} was deposited");
        // A vendor that does not say what it used is paid by an estimate, and a call that a kill cut off is the operator's: what it did say is
        // charged to the last nano-dollar, or told to the operator.
        let estimated = self.sum("SELECT coalesce(sum(cost), 0) FROM logs WHERE estimated = 1");
        let operator = self.sum("SELECT coalesce(sum(operator_cost), 0) FROM logs");
        let said = self.server.vendor.billed_nanos() - self.tally.unsaid_nanos();
        assert!(said <= settled - estimated + operator, "the vendor said {said}; {settled} - {estimated} is charged, {operator} told");
        assert!(said - operator <= deposited, "the vendor said {said}, {operator} is the operator's; {deposited} was deposited");
    }

    /// What was told is stored and charged exactly once.
    fn all_kept(&self) {
        let mut answers: BTreeMap<&str, usize> = BTreeMap::new();
        for client in &self.clients {
            let db = self.server.tenant_db(&self.tenants[client.tenant].id);
            for told in &client.told {
                let text = |name: &str| told[name].as_str().unwrap_or_else(|| panic!("no {name}: {told}"));
                let (content, cost): (Option<String>, i64) = db
                    .query_row("SELECT content, cost FROM messages WHERE id = ?1", [text("message_id")], |row| {
                        Ok((row.get(0)?, row.get(1)?))
                    })
                    .unwrap_or_else(|error| panic!("an answer was told and is not there ({error}): {told}"));
                assert_eq!((content.as_deref(), cost <= nanos(&told["cost"])), (told["response"].as_str(), true), "{told}");
                let charged = "SELECT coalesce(-sum(amount), 0) FROM ledger WHERE turn_id = ?1 AND kind = 'spend'";
                let charged: i64 = db.query_row(charged, [text("turn_id")], |row| row.get(0)).expect("a ledger");
                assert_eq!(charged, nanos(&told["cost"]), "charged once: {told}");
                *answers.entry(text("turn_id")).or_default() += 1;
            }
        }
        assert!(answers.values().all(|count| *count == 1), "a turn was told to two clients: {answers:?}");
    }

    fn seen(&self) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        for (what, count) in self.clients.iter().flat_map(|client| &client.seen) {
            *all.entry(what.clone()).or_default() += count;
        }
        all
    }
}

#[tokio::test]
async fn a_storm_of_turns_overspends_nothing_and_loses_nothing() {
    let (size, seed) = (if full() { FULL } else { SHORT }, seed("storm"));
    let begun = std::time::Instant::now();
    let mut weather = Weather::gather(&size, seed).await;
    let per_round = usize::try_from(size.turns).expect("a few") / size.clients / 2 + 1;
    while weather.turns() < size.turns {
        for kill_after in size.rounds {
            weather.round(per_round, *kill_after).await;
            weather.at_rest().await;
        }
    }
    weather.all_kept();
    let seen = weather.seen();
    println!(
        "{} turns, {} vendor calls, {} answers told, {} s, overspend 0 nano-dollars: {seen:?}",
        weather.turns(),
        weather.server.vendor.call_count(),
        weather.clients.iter().map(|client| client.told.len()).sum::<usize>(),
        begun.elapsed().as_secs(),
    );
    // A storm that no longer blows proves nothing.
    for what in [
        "answered",
        "server gone",
        "insufficient_credit",
        "streamed",
        "plain",
        "hung up",
        "cancelled",
        "revoked",
        "asked three times at once",
    ] {
        assert!(seen.get(what).is_some_and(|count| *count >= 3), "{what} hardly happened: {seen:?}");
    }
    // Only the model that is lied about is closed.
    let closed = weather.sum("SELECT count(*) FROM logs WHERE event = 'hold_breach' AND model <> 'liar'");
    assert_eq!(closed, 0, "models whose vendor did not lie");
    for what in ["provider_error", "provider_overloaded", "provider_timeout", "provider_not_configured", "model_closed"] {
        assert!(seen.contains_key(what), "{what} did not happen: {seen:?}");
    }
    weather.server.done().await;
}
