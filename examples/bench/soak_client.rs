//! The clients of the soak: each does one thing after the other at a set pace (chats plainly and as a stream, hangs up, lists, searches, exports,
//! deletes), holds every answer against the contract, and remembers what it was told, to ask for it again in the end.

use super::{client::Client, client::Reply, world::Door};
use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// The server's life as the clients know it. Connections may fail when it ended, and only then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    pub number: u64,
    pub at: SocketAddr,
    /// False from before the server is told to end until it serves again.
    pub serves: bool,
}

/// What the vendor's faults may become. All of them are in the contract.
const VENDOR_S: [&str; 3] = ["provider_error", "provider_overloaded", "provider_timeout"];
/// What the contract lets the server say by itself under this load: a conversation whose turn goes on though its client hung up, a server that
/// stops, one that is full for a moment.
const EXPLAINED: [&str; 4] = ["conversation_busy", "shutting_down", "overloaded", "turn_cancelled"];
/// Messages after which a conversation is left.
const MESSAGES_MAX: u64 = 40;

/// Turns and rounds of reads that bring a tenant to its height.
const WARM_TURNS: usize = 16;
const WARM_READS: usize = 6;

/// Brings every tenant to the height of what it may take, so that what grows from then on is what leaks: a writer whose cache is full, all its
/// readers, the descriptors of an export. By themselves the chances of this load would take hours to get there: two reads of one tenant meet once
/// in many minutes. Nobody looks at the answers.
pub async fn warm(doors: &Arc<Vec<Door>>, at: SocketAddr) {
    let next = Arc::new(AtomicUsize::new(0));
    let workers = (0..24).map(|_| {
        let (doors, next) = (Arc::clone(doors), Arc::clone(&next));
        async move {
            let mut clients = [Client::new(at), Client::new(at), Client::new(at)];
            while let Some(door) = doors.get(next.fetch_add(1, Ordering::Relaxed)) {
                let [first, second, third] = &mut clients;
                let body = serde_json::json!({"message": "Some of the many words. ".repeat(80)}).to_string();
                for _ in 0..WARM_TURNS {
                    drop(first.ask("POST", &door.path, &door.key, "application/json", &body).await);
                }
                for _ in 0..WARM_READS {
                    drop(tokio::join!(
                        first.ask("GET", "/api/v1/conversations?limit=100", &door.key, "*/*", ""),
                        second.ask("GET", "/api/v1/conversations?limit=100&q=words", &door.key, "*/*", ""),
                        third.ask("GET", "/api/v1/logs?limit=100", &door.key, "*/*", ""),
                    ));
                }
                drop(first.ask("GET", "/api/v1/tenant/export", &door.key, "*/*", "").await);
            }
        }
    });
    futures_util::future::join_all(workers).await;
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Tally {
    /// By what was done and what came of it.
    pub seen: BTreeMap<String, u64>,
    pub turns_us: Vec<u64>,
    /// Errors that the vendor's faults explain.
    pub vendor_s: u64,
    /// What nothing explains: the first few, and how many there were.
    pub unexplained: Vec<String>,
    pub unexplained_count: u64,
}

impl Tally {
    pub fn add(&mut self, other: Self) {
        for (what, count) in other.seen {
            *self.seen.entry(what).or_default() += count;
        }
        self.turns_us.extend(other.turns_us);
        self.vendor_s += other.vendor_s;
        self.unexplained_count += other.unexplained_count;
        self.unexplained.extend(other.unexplained);
        self.unexplained.truncate(20);
    }

    fn see(&mut self, what: String) {
        *self.seen.entry(what).or_default() += 1;
    }

    fn wonder(&mut self, what: String) {
        self.unexplained_count += 1;
        if self.unexplained.len() < 20 {
            self.unexplained.push(what);
        }
    }
}

/// A conversation, and the answers that this client was told in it.
#[derive(Debug, Clone)]
pub struct Talk {
    pub id: String,
    pub told: u64,
}

pub struct Actor {
    doors: Arc<Vec<Door>>,
    life: watch::Receiver<Life>,
    known: Life,
    client: Client,
    dice: u64,
    /// By tenant.
    pub talks: HashMap<usize, Talk>,
    pub tally: Tally,
}

impl Actor {
    pub fn new(number: usize, doors: &Arc<Vec<Door>>, life: watch::Receiver<Life>) -> Self {
        let known = *life.borrow();
        let dice = 0x9E37_79B9_7F4A_7C15 ^ ((number as u64 + 1) << 24);
        Self { doors: Arc::clone(doors), life, known, client: Client::new(known.at), dice, talks: HashMap::new(), tally: Tally::default() }
    }

    /// Goes on until then, one thing a `pace` on average.
    pub async fn work(mut self, until: Instant, pace: Duration) -> Self {
        loop {
            let wait = pace.mul_f64(2.0 * self.share());
            if Instant::now() + wait >= until {
                return self;
            }
            tokio::time::sleep(wait).await;
            let tenant = self.below(self.doors.len() as u64) as usize;
            match self.below(100) {
                0..=44 => self.turn(tenant, false).await,
                45..=69 => self.turn(tenant, true).await,
                70..=77 => self.hang_up(tenant).await,
                78..=82 => self.get(tenant, "list", "/api/v1/conversations?limit=20").await,
                83..=85 => self.get(tenant, "search", "/api/v1/conversations?limit=20&q=words").await,
                86..=88 => self.get(tenant, "usage", "/api/v1/usage?group_by=model").await,
                89..=91 => self.get(tenant, "logs", "/api/v1/logs?limit=20").await,
                92..=94 => self.get(tenant, "wallet", "/api/v1/wallet").await,
                95 => self.get(tenant, "export", "/api/v1/tenant/export").await,
                _ => self.delete(tenant).await,
            }
        }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        (self.dice >> 11) % bound.max(1)
    }

    fn share(&mut self) -> f64 {
        self.below(1_000) as f64 / 1_000.0
    }

    /// Waits until the server serves, on a connection of its present life.
    async fn present(&mut self) {
        let life = self.life.wait_for(|life| life.serves).await.map_or(self.known, |life| *life);
        if life != self.known {
            (self.known, self.client) = (life, Client::new(life.at));
        }
    }

    /// One request; none when the server ended meanwhile, or the answer is one that nothing explains.
    async fn ask(&mut self, what: &str, method: &str, path: &str, key: &str, accept: &str, body: &str) -> Option<Reply> {
        self.present().await;
        match self.client.ask(method, path, key, accept, body).await {
            Ok(reply) => Some(reply),
            Err(_) if *self.life.borrow() != self.known => {
                self.tally.see(format!("{what}: the server ended"));
                None
            }
            Err(error) => {
                self.tally.wonder(format!("{what}: the connection broke though the server serves: {error}"));
                None
            }
        }
    }

    /// Whether an answer is a good one; what it is else is held against the contract.
    fn judge(&mut self, what: &str, reply: &Reply) -> bool {
        let text = String::from_utf8_lossy(&reply.body);
        // A stream says in an event what a plain answer says by its status.
        let failed = reply.status >= 300 || text.contains("event: error\n");
        if !failed {
            self.tally.see(format!("{what}: {}", reply.status));
            return true;
        }
        let code = text.split("\"code\":\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
        if VENDOR_S.contains(&code) {
            self.tally.vendor_s += 1;
        } else if !EXPLAINED.contains(&code) {
            let told: String = text.chars().take(300).collect();
            self.tally.wonder(format!("{what}: {} {told}", reply.status));
        }
        self.tally.see(format!("{what}: {code}"));
        false
    }

    async fn turn(&mut self, tenant: usize, streams: bool) {
        let (what, accept) = if streams { ("stream", "text/event-stream") } else { ("turn", "application/json") };
        let door = self.doors[tenant].clone();
        let began = Instant::now();
        let body = self.message(tenant);
        let Some(reply) = self.ask(what, "POST", &door.path, &door.key, accept, &body).await else { return };
        if !self.judge(what, &reply) {
            return;
        }
        let text = String::from_utf8_lossy(&reply.body);
        // A stream ends with its answer, or the server ended before.
        if streams && !text.contains("event: turn.completed") {
            if *self.life.borrow() == self.known {
                self.tally.wonder(format!("{what}: no end: {text}"));
            } else {
                self.tally.see(format!("{what}: the server ended"));
            }
            return;
        }
        self.tally.turns_us.push(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
        let id = text.split("\"conversation_id\":\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
        let talk = self.talks.entry(tenant).or_insert_with(|| Talk { id: id.to_owned(), told: 0 });
        if talk.id != id {
            *talk = Talk { id: id.to_owned(), told: 0 };
        }
        talk.told += 1;
    }

    fn message(&mut self, tenant: usize) -> String {
        match self.talks.get(&tenant).filter(|talk| talk.told * 2 < MESSAGES_MAX) {
            Some(talk) => serde_json::json!({"message": "What is the next of the many words?", "conversation_id": talk.id}),
            None => serde_json::json!({"message": "What is the first of the many words?"}),
        }
        .to_string()
    }

    /// Asks and does not wait for the end. The turn goes on without anyone.
    async fn hang_up(&mut self, tenant: usize) {
        self.present().await;
        let door = self.doors[tenant].clone();
        let body = self.message(tenant);
        let patience = Duration::from_millis(1 + self.below(40));
        let asked = self.client.ask("POST", &door.path, &door.key, "text/event-stream", &body);
        drop(tokio::time::timeout(patience, asked).await);
        self.client = Client::new(self.known.at);
        self.tally.see("stream: hung up".to_owned());
    }

    async fn get(&mut self, tenant: usize, what: &str, path: &str) {
        let key = self.doors[tenant].key.clone();
        if let Some(reply) = self.ask(what, "GET", path, &key, "application/json", "").await {
            self.judge(what, &reply);
        }
    }

    async fn delete(&mut self, tenant: usize) {
        let Some(talk) = self.talks.get(&tenant).cloned() else { return };
        let key = self.doors[tenant].key.clone();
        let path = format!("/api/v1/conversations/{}", talk.id);
        // From here on nobody can say whether it is there: a server that ends in between may have deleted it.
        self.talks.remove(&tenant);
        if let Some(reply) = self.ask("delete", "DELETE", &path, &key, "application/json", "").await {
            self.judge("delete", &reply);
        }
    }
}
