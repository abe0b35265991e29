//! Many clients in several tenants, plain and streaming, while the server is killed again and again, by fail points and from outside.

use super::{arm, ask, full, kept, message, sound};
use crate::{
    fake_provider::{Reply, Wire},
    harness::{Server, Settings, Tenant},
};
use futures_util::future::join_all;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::time::Duration;

/// Turns that a client takes in one round at most: far more than it lives for.
const TURNS_MAX: usize = 60;

struct Client {
    number: usize,
    tenant: usize,
    config: String,
    streams: bool,
    conversation: Option<String>,
    /// What it was told, in order.
    told: Vec<Value>,
    /// What it asked and got no answer to: its key and its body.
    open: Option<(String, Value)>,
}

impl Client {
    /// Takes turns until the server is gone.
    async fn talk(&mut self, server: &Server, key: &str, turns: usize) {
        for _ in 0..turns {
            let next = self.told.len();
            let (claim, body) = self.open.take().unwrap_or_else(|| {
                let text = format!("client {} message {next}", self.number);
                (text.clone(), message(&text, self.conversation.as_deref()))
            });
            self.open = Some((claim.clone(), body.clone()));
            let told =
                if self.streams { self.stream(server, key, &claim, &body).await } else { self.plain(server, key, &claim, &body).await };
            let Some(told) = told else { return };
            self.conversation = told["conversation_id"].as_str().map(str::to_owned);
            self.told.push(told);
            self.open = None;
        }
    }

    async fn plain(&self, server: &Server, key: &str, claim: &str, body: &Value) -> Option<Value> {
        let answer = ask(server, key, &self.config, claim, body).await?;
        assert_eq!(answer.status, 200, "{}", answer.body);
        Some(answer.json())
    }

    /// What `turn.completed` says, if it came whole.
    async fn stream(&self, server: &Server, key: &str, claim: &str, body: &Value) -> Option<Value> {
        let request = server.request("POST", &format!("/api/v1/chat/{}", self.config), key);
        let request = request.header("Idempotency-Key", claim).header("Accept", "text/event-stream").body(body.to_string());
        let mut response = request.send().await.ok()?;
        assert_eq!(response.status().as_u16(), 200);
        let mut bytes = Vec::new();
        while let Ok(Some(chunk)) = response.chunk().await {
            bytes.extend_from_slice(&chunk);
        }
        let text = String::from_utf8(bytes).expect("UTF-8");
        let whole = text.rfind("\n\n").map_or("", |end| &text[..end]);
        let frame = whole.split("\n\n").find(|frame| frame.contains("event: turn.completed"))?;
        let data = frame.lines().find_map(|line| line.strip_prefix("data: ")).expect("data");
        Some(serde_json::from_str(data).expect("JSON"))
    }
}

struct Crowd {
    server: Server,
    tenants: Vec<Tenant>,
    clients: Vec<Client>,
}

impl Crowd {
    async fn gather(tenants_count: usize, clients_count: usize) -> Self {
        let server = Settings::default().process().start().await;
        server.vendor.otherwise(Reply::text("One answer among many, in a few words.").drip(Duration::from_millis(2)));
        let (mut tenants, mut clients) = (Vec::new(), Vec::new());
        for number in 0..tenants_count {
            tenants.push(server.rich_tenant(&format!("Crowd {number}")).await);
        }
        for number in 0..clients_count {
            let tenant = number % tenants_count;
            let config = server.config(&tenants[tenant], Wire::ALL[number % 3].provider(), "smart", &json!({})).await;
            let streams = number / tenants_count % 2 == 1;
            clients.push(Client { number, tenant, config, streams, conversation: None, told: Vec::new(), open: None });
        }
        Self { server, tenants, clients }
    }

    /// All talk until the server dies, by itself or by our hand after a while.
    async fn killed(&mut self, point: &str, after: Option<Duration>) {
        self.server.kill().await;
        self.server.env.clear();
        if !point.is_empty() {
            arm(&mut self.server, point);
        }
        self.server.run().await;
        let (server, tenants) = (&self.server, &self.tenants);
        let talking = join_all(self.clients.iter_mut().map(|client| {
            let key = tenants[client.tenant].key.as_str();
            client.talk(server, key, TURNS_MAX)
        }));
        let killing = async {
            let Some(wait) = after else { return };
            tokio::time::sleep(wait).await;
            let pid = server.pid().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).expect("a process");
            kill_process(pid, Signal::KILL).expect("kill -9");
        };
        tokio::join!(talking, killing);
        self.server.died().await;
        self.server.env.clear();
        self.server.run().await;
        let all: Vec<&Tenant> = self.tenants.iter().collect();
        sound(&self.server, &all).await;
        self.all_kept();
    }

    fn all_kept(&self) {
        for client in &self.clients {
            for told in &client.told {
                kept(&self.server, &self.tenants[client.tenant], told);
            }
        }
    }

    /// Everyone gets the answer to what is open and one more; each conversation then holds every message once, in order.
    async fn done(mut self) {
        let (server, tenants) = (&self.server, &self.tenants);
        join_all(self.clients.iter_mut().map(|client| client.talk(server, &tenants[client.tenant].key, 2))).await;
        self.all_kept();
        let mut turns = 0;
        for client in &self.clients {
            assert!(client.open.is_none(), "client {} got no answer", client.number);
            let asked = (0..client.told.len()).map(|number| format!("user: client {} message {number}", client.number));
            let expected: Vec<String> = asked.collect();
            let conversation = client.conversation.as_ref().expect("a conversation");
            let sql = "SELECT content FROM messages WHERE conversation_id = ?1 AND role = 'user' ORDER BY seq";
            let db = self.server.tenant_db(&self.tenants[client.tenant].id);
            let mut rows = db.prepare(sql).expect("messages");
            let said: Vec<String> = rows
                .query_map([conversation], |row| row.get::<_, String>(0))
                .expect("rows")
                .map(|text| format!("user: {}", text.expect("text")))
                .collect();
            assert_eq!(said, expected, "each message once and in order");
            turns += client.told.len();
        }
        println!("{turns} turns of {} clients, each stored and charged once", self.clients.len());
        self.server.done().await;
    }
}

#[tokio::test]
async fn what_was_told_under_load_is_stored_and_charged_once_wherever_the_kill_comes() {
    let mut crowd = Crowd::gather(3, 12).await;
    let points: &[&str] = if full() {
        &[
            "turn-opened=kill@20",
            "before-hold=kill@15",
            "after-hold=kill@20",
            "before-send=kill@7",
            "after-piece=kill@25",
            "after-answer=kill@18",
            "in-settle=kill@20",
            "after-settle=kill@21",
            "before-told=kill@13",
            "tenant.before-commit=kill@40",
            "tenant.before-commit=kill@41",
            "tenant.before-commit=kill@42",
            "tenant.after-commit=kill@40",
            "tenant.after-commit=kill@41",
            "tenant.after-commit=kill@42",
            "after-hold=sleep:20,in-settle=kill@20",
        ]
    } else {
        &["after-hold=kill@14", "in-settle=kill@20", "before-told=kill@13", "tenant.before-commit=kill@30", "tenant.after-commit=kill@31"]
    };
    for point in points {
        crowd.killed(point, None).await;
    }
    let kills = if full() { 40 } else { 3 };
    for kill in 0..kills {
        crowd.killed("", Some(Duration::from_millis(90 + 37 * (kill % 11)))).await;
    }
    crowd.done().await;
}
