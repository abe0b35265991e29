//! The load: so many clients, each asking its next question when the last was answered, on tenants and conversations as the scenario says.

use super::{client::Client, world::Door};
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

/// Which tenants are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    Uniform,
    /// The n-th is asked 1/n as often as the first.
    Zipf,
}

/// What is asked, and how.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub clients: usize,
    /// The first so many tenants.
    pub tenants: usize,
    pub spread: Spread,
    pub streaming: bool,
    /// Messages of a conversation when the measured turns begin on it; a new one is begun at three times as many.
    pub history: usize,
    /// Clients besides that list and search.
    pub readers: usize,
    /// The time over which the clients begin: at once, those of a vendor that takes its time would come in waves for ever.
    pub ramp: Duration,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    pub took: Duration,
    /// Of each answered turn, in microseconds.
    pub turns_us: Vec<u64>,
    /// From the vendor's first piece to ours, in microseconds.
    pub behind_vendor_us: Vec<u64>,
    /// Of each list and search.
    pub reads_us: Vec<u64>,
    pub failed: u64,
    pub last_failure: String,
}

/// A small random number generator (xorshift): the same tenants for both sides, round by round.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn unit(&mut self) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "53 bits are kept")]
        let unit = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        unit
    }

    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "indices of a list")]
    fn pick(&mut self, spread: Spread, count: usize) -> usize {
        let at = match spread {
            Spread::Uniform => self.unit() * count as f64,
            // The inverse of the distribution's integral, close enough to Zipf's sum.
            Spread::Zipf => (count as f64 + 1.0).powf(self.unit()) - 1.0,
        };
        (at as usize).min(count.saturating_sub(1))
    }
}

/// The clients of one side, with their connections and conversations; kept from round to round.
pub struct Crowd {
    load: Load,
    askers: Vec<Asker>,
    readers: Vec<Asker>,
}

struct Asker {
    client: Client,
    doors: Arc<Vec<Door>>,
    dice: Dice,
    load: Load,
    /// Conversation and its messages, by tenant.
    talks: HashMap<usize, (String, usize)>,
}

impl Crowd {
    pub fn new(load: Load, at: SocketAddr, doors: &Arc<Vec<Door>>) -> Self {
        let asker = |seed: usize| Asker {
            client: Client::new(at),
            doors: Arc::clone(doors),
            dice: Dice(0x9E37_79B9_7F4A_7C15 ^ ((seed as u64 + 1) << 20)),
            load,
            talks: HashMap::new(),
        };
        Self { load, askers: (0..load.clients).map(asker).collect(), readers: (0..load.readers).map(asker).collect() }
    }

    /// Fills conversations to their length, unmeasured; with one tenant or few only, where they are met again.
    pub async fn warm(&mut self) -> Result<(), String> {
        let turns = if self.load.tenants > 64 { 1 } else { (self.load.history / 2).max(1) };
        let works: Vec<_> = self
            .askers
            .drain(..)
            .enumerate()
            .map(|(at, mut asker)| {
                tokio::spawn(async move {
                    let home = at % asker.load.tenants;
                    for _ in 0..turns {
                        asker.turn(home).await?;
                    }
                    Ok::<_, String>(asker)
                })
            })
            .collect();
        for work in works {
            self.askers.push(work.await.map_err(|error| error.to_string())??);
        }
        Ok(())
    }

    pub async fn run(&mut self, time: Duration) -> Tally {
        let began = Instant::now();
        let until = began + time;
        let askers = self.askers.drain(..).map(|asker| (asker, false));
        let works: Vec<_> = askers
            .chain(self.readers.drain(..).map(|asker| (asker, true)))
            .enumerate()
            .map(|(at, (asker, reads))| {
                let pause = self.load.ramp.mul_f64(at as f64 / self.load.clients.max(1) as f64);
                tokio::spawn(async move {
                    tokio::time::sleep(pause).await;
                    asker.work(until, reads).await
                })
            })
            .collect();
        let mut tally = Tally::default();
        for work in works {
            let Ok((asker, part, reads)) = work.await else { continue };
            tally.turns_us.extend(part.turns_us);
            tally.behind_vendor_us.extend(part.behind_vendor_us);
            tally.reads_us.extend(part.reads_us);
            tally.failed += part.failed;
            if !part.last_failure.is_empty() {
                tally.last_failure = part.last_failure;
            }
            if reads { &mut self.readers } else { &mut self.askers }.push(asker);
        }
        tally.took = began.elapsed();
        tally
    }
}

impl Asker {
    async fn work(mut self, until: Instant, reads: bool) -> (Self, Tally, bool) {
        let mut tally = Tally::default();
        while Instant::now() < until {
            let began = Instant::now();
            let done = if reads { self.read().await.map(|()| None) } else { self.any_turn().await };
            let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
            match done {
                Ok(behind) => {
                    if reads { &mut tally.reads_us } else { &mut tally.turns_us }.push(took);
                    tally.behind_vendor_us.extend(behind);
                }
                Err(failure) => {
                    tally.failed += 1;
                    tally.last_failure = failure;
                    // A refused client comes again, but not at once.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
        (self, tally, reads)
    }

    async fn any_turn(&mut self) -> Result<Option<u64>, String> {
        let home = match self.load.tenants {
            // Clients of few tenants stay with one, so that conversations go on.
            0..=64 if self.load.spread == Spread::Uniform => return self.turn_home().await,
            count => self.dice.pick(self.load.spread, count),
        };
        self.turn(home).await
    }

    async fn turn_home(&mut self) -> Result<Option<u64>, String> {
        let home = self.talks.keys().next().copied().unwrap_or_else(|| self.dice.pick(Spread::Uniform, self.load.tenants));
        self.turn(home).await
    }

    async fn turn(&mut self, tenant: usize) -> Result<Option<u64>, String> {
        let door = self.doors[tenant].clone();
        let talk = self.talks.get(&tenant).filter(|(_, messages)| *messages < self.load.history * 3);
        let body = match talk {
            Some((id, _)) => serde_json::json!({"message": "What is the next of the many words?", "conversation_id": id}),
            None => serde_json::json!({"message": "What is the first of the many words?"}),
        };
        let before = talk.map_or(0, |(_, messages)| *messages);
        let accept = if self.load.streaming { "text/event-stream" } else { "application/json" };
        let reply = self
            .client
            .ask("POST", &door.path, &door.key, accept, &body.to_string())
            .await
            .map_err(|error| format!("connection: {error}"))?;
        let text = String::from_utf8_lossy(&reply.body);
        if reply.status != 200 || !text.contains("\"conversation_id\"") {
            return Err(format!("{} {}", reply.status, text.chars().take(300).collect::<String>()));
        }
        let id = text.split("\"conversation_id\":\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
        self.talks.insert(tenant, (id.to_owned(), before + 2));
        Ok(reply.behind_vendor_us)
    }

    async fn read(&mut self) -> Result<(), String> {
        let tenant = self.dice.pick(Spread::Uniform, self.load.tenants);
        let key = self.doors[tenant].key.clone();
        let path =
            if self.dice.next().is_multiple_of(2) { "/api/v1/conversations?limit=20" } else { "/api/v1/conversations?limit=20&q=words" };
        let reply = self.client.ask("GET", path, &key, "application/json", "").await.map_err(|error| format!("connection: {error}"))?;
        if reply.status == 200 { Ok(()) } else { Err(format!("{path}: {} {}", reply.status, reply.json())) }
    }
}
