//! One tenant asks politely while another floods and two hundred connections do their worst. What is measured is the polite one's waiting,
//! against its own quiet waiting of the same run.
//!
//! The hostile side has threads of its own, each on a lower footing with the scheduler of the machine than the server: attackers bring their
//! own machines, and what they do to ours by computing on it is not what is asked here. `NIMBLESITE_TEST_FULL=1` measures for longer and
//! asserts the ratio (the median of five); the short form asserts that nobody polite is refused, and prints the figures.

use crate::harness::{Server, Settings, full};
use nimblesite::secret::KeyText;
use serde_json::json;
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Hostile connections, a fifth of each kind.
const HOSTILE: usize = 200;
/// Connections of the flooding tenant, each with a request always under way.
const FLOOD: usize = 32;
/// How much longer the slowest hundredth may wait.
const RATIO_MAX: f64 = 3.0;

/// What the other side did, for the figures.
#[derive(Default)]
struct Done {
    stop: AtomicBool,
    attacks: AtomicUsize,
    answered: AtomicUsize,
    limited: AtomicUsize,
}

impl Done {
    fn over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// What a hostile connection knows.
#[derive(Clone)]
struct Target {
    at: SocketAddr,
    /// The flooding tenant's, for what has to get past the door: several, so that its own bucket is what bounds it.
    keys: Arc<Vec<String>>,
    config: String,
    /// Keys with a public id that exists and a secret that is wrong: each costs a proof.
    wrong: Arc<Vec<String>>,
    done: Arc<Done>,
}

impl Target {
    /// Sends these bytes on a connection of their own, then reads until the server ends it or falls silent.
    async fn tell(&self, bytes: &[u8]) {
        let Ok(mut peer) = TcpStream::connect(self.at).await else { return };
        drop(peer.write_all(bytes).await);
        let mut answer = [0; 1024];
        let reading = async { while matches!(peer.read(&mut answer).await, Ok(1..)) {} };
        drop(tokio::time::timeout(Duration::from_millis(300), reading).await);
    }

    /// Sends the head, then a byte now and then.
    async fn drip(&self, head: &str) {
        let Ok(mut peer) = TcpStream::connect(self.at).await else { return };
        if peer.write_all(head.as_bytes()).await.is_err() {
            return;
        }
        while !self.done.over() && peer.write_all(b"a").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// One hostile connection after another.
    async fn attack(self, n: usize) {
        let bomb = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", format!("x-bomb: {}\r\n", "y".repeat(500)).repeat(190));
        let garbage: Vec<u8> = (0..4096_u32).map(|k| k.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect();
        let body = format!(
            "POST /api/v1/chat/{} HTTP/1.1\r\nHost: x\r\nX-API-Key: {}\r\nContent-Length: 900000\r\n\r\n",
            self.config,
            self.keys[n % self.keys.len()]
        );
        for round in n.. {
            if self.done.over() {
                return;
            }
            match n % 5 {
                0 => self.drip("GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ").await,
                1 => self.tell(bomb.as_bytes()).await,
                2 => self.drip(&body).await,
                3 => self.tell(&garbage).await,
                _ => {
                    let key = &self.wrong[round % self.wrong.len()];
                    let head = format!("GET /api/v1/configs HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\nConnection: close\r\n\r\n");
                    self.tell(head.as_bytes()).await;
                }
            }
            self.done.attacks.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// One connection of the flooding tenant: chats, lists and new keys, as fast as they are answered.
    async fn flood(self, n: usize) {
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build().unwrap();
        for round in n.. {
            if self.done.over() {
                return;
            }
            let url = |path: &str| format!("http://{}{path}", self.at);
            let request = match round % 4 {
                0 => client.post(url("/api/v1/keys")).body(json!({"name": "more", "role": "viewer"}).to_string()),
                1 => client.get(url("/api/v1/keys?limit=100")),
                2 => client.get(url("/api/v1/logs?limit=100")),
                _ => client.post(url(&format!("/api/v1/chat/{}", self.config))).body(json!({"message": "flood"}).to_string()),
            };
            match request.header("X-API-Key", &self.keys[round % self.keys.len()]).send().await.map(|answer| answer.status().as_u16()) {
                Ok(429) => self.done.limited.fetch_add(1, Ordering::Relaxed),
                _ => self.done.answered.fetch_add(1, Ordering::Relaxed),
            };
        }
    }
}

/// Wrong secrets behind the public id of a real key, with a right checksum.
fn wrong_keys(key: &str) -> Vec<String> {
    let public_id = KeyText::parse(key).unwrap().public_id().to_owned();
    (0..4_000_u64).map(|n| crate::isolation::sealed(&format!("ns_live_{public_id}_{n:0>43}"))).collect()
}

/// A thread that the scheduler serves last, with a runtime of its own.
fn aside(work: impl Future<Output = ()> + Send + 'static) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let _ = rustix::process::nice(15);
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
    })
}

/// The polite tenant's rounds; milliseconds of each request, sorted, by kind: a list, a turn, a transcript.
async fn rounds(server: &Server, keys: &[String], config: &str, rounds: usize) -> [Vec<f64>; 3] {
    let mut waits = [Vec::new(), Vec::new(), Vec::new()];
    let mut took = |kind: usize, began: Instant| waits[kind].push(began.elapsed().as_secs_f64() * 1000.0);
    for round in 0..rounds {
        let key = &keys[round % keys.len()];
        let began = Instant::now();
        server.get("/api/v1/configs", key).await.expect(200);
        took(0, began);
        let began = Instant::now();
        let said = server.chat(key, config, &json!({"message": "hello"})).await.expect(200);
        took(1, began);
        let path = format!("/api/v1/conversations/{}/messages", said.text("/conversation_id"));
        let began = Instant::now();
        server.get(&path, key).await.expect(200);
        took(2, began);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for kind in &mut waits {
        kind.sort_by(f64::total_cmp);
    }
    waits
}

fn at(sorted: &[f64], share: f64) -> f64 {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a place in a short list")]
    sorted[((sorted.len() as f64 * share) as usize).min(sorted.len() - 1)]
}

#[tokio::test]
async fn one_tenant_s_flood_and_two_hundred_attackers_do_not_slow_another() {
    // The limits are the product's own; only the harness's habit of switching the buckets off is taken back.
    let settings = Settings::default()
        .process()
        .limit("key_requests_per_minute", 6_000)
        .limit("tenant_requests_per_minute", 30_000)
        .limit("refusal_pause_ms", 250);
    let server = settings.start().await;
    let polite = server.tenant("Polite").await;
    let count = if full() { 600 } else { 100 };
    let config = server.config(&polite, "echo", "echo", &json!({})).await;
    // Several keys, or in the long form the polite one's own bucket is what is measured.
    let mut keys = Vec::new();
    for _ in 0..8 {
        keys.push(server.key(&polite, "member").await.0);
    }
    rounds(&server, &keys, &config, 20).await;
    let mut ratios = Vec::new();
    for pair in 0..if full() { 5 } else { 1 } {
        let quiet = rounds(&server, &keys, &config, count).await;
        let target = flooder(&server, pair).await;
        let done = Arc::clone(&target.done);
        let hostile = target.clone();
        let threads = [
            aside(async move { drop(futures_util::future::join_all((0..HOSTILE).map(|n| hostile.clone().attack(n))).await) }),
            aside(async move { drop(futures_util::future::join_all((0..FLOOD).map(|n| target.clone().flood(n))).await) }),
        ];
        tokio::time::sleep(Duration::from_millis(if full() { 3_000 } else { 700 })).await;
        let stormy = rounds(&server, &keys, &config, count).await;
        done.stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().unwrap();
        }
        ratios.push(print(&quiet, &stormy, &done));
        assert!(done.attacks.load(Ordering::Relaxed) > HOSTILE / 5 && done.answered.load(Ordering::Relaxed) > 0, "nobody attacked");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    ratios.sort_by(f64::total_cmp);
    if full() {
        assert!(ratios[ratios.len() / 2] <= RATIO_MAX, "the p99 grew by {ratios:.2?}");
    }
    server.done().await;
}

/// Another tenant that floods, in each pair of phases: one that was flooded before is slow by itself.
async fn flooder(server: &Server, pair: usize) -> Target {
    let tenant = server.tenant(&format!("Flood {pair}")).await;
    let mut keys = vec![tenant.key.clone()];
    for _ in 0..8 {
        keys.push(server.key(&tenant, "admin").await.0);
    }
    Target {
        at: server.base.trim_start_matches("http://").parse().unwrap(),
        config: server.config(&tenant, "echo", "echo", &json!({})).await,
        wrong: Arc::new(wrong_keys(&tenant.key)),
        keys: Arc::new(keys),
        done: Arc::default(),
    }
}

/// Shows both phases side by side; answers how much the p99 of all requests grew.
fn print(quiet: &[Vec<f64>; 3], stormy: &[Vec<f64>; 3], done: &Done) -> f64 {
    println!("waiting of the polite tenant, ms        quiet p50    p99   under attack p50    p99   ratio of p99");
    let line = |name: &str, quiet: &[f64], stormy: &[f64]| {
        let figures = [at(quiet, 0.5), at(quiet, 0.99), at(stormy, 0.5), at(stormy, 0.99)];
        let ratio = figures[3] / figures[1];
        println!("{name:<36} {:>12.1} {:>6.1} {:>18.1} {:>6.1} {ratio:>14.2}", figures[0], figures[1], figures[2], figures[3]);
        ratio
    };
    for (kind, name) in ["list of configs", "turn, stored and settled", "transcript"].into_iter().enumerate() {
        line(name, &quiet[kind], &stormy[kind]);
    }
    let ratio = line("all", &merged(quiet), &merged(stormy));
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    println!(
        "meanwhile {} attacks; the flood got {} answers, {} times 429",
        count(&done.attacks),
        count(&done.answered),
        count(&done.limited)
    );
    ratio
}

fn merged(kinds: &[Vec<f64>; 3]) -> Vec<f64> {
    let mut all = kinds.concat();
    all.sort_by(f64::total_cmp);
    all
}
