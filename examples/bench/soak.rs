//! `nimblesite-bench soak`: a server that is left running, for half an hour unless told otherwise. Hundreds of tenants, clients of all manners, a
//! vendor that fails now and then, backups all along. In the first part of the time the server is ended again and again, by SIGKILL and
//! SIGTERM in turn; then it has to live: every tenant is brought to the height of what it may take, and from there memory and descriptors have to
//! stay where they are. In the end every file is audited, what clients were told is asked for again, and the newest backup is restored elsewhere and audited, too.
//!
//! Everything stays on loopback and in a temporary directory. Any promise that is not kept makes the program fail.

use super::{
    client::Client,
    probe,
    soak_client::{Actor, Life, Talk, Tally, warm},
    soak_report::Report,
    vendor::{self, Manner},
    world::{self, Door, Side},
};
use std::{
    error::Error,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{process::Command, sync::watch, task::JoinSet};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// What was asked for.
pub struct Ask {
    pub minutes: f64,
    pub tenants: usize,
    /// Requests a second of all clients together.
    pub rate: f64,
}

const ACTORS: usize = 24;
/// The share of the time in which the server is ended again and again.
const UNREST: f64 = 0.4;
/// The vendor's calls of a thousand that go wrong.
const FAULTS_PER_MILLE: u64 = 40;
/// Beside the defaults: a turn's events are kept for seconds, so that their memory is at its height early, and a vendor that stands still is
/// given up soon.
const LIMITS: &str = "turn_replay_ms = 10000\nprovider_idle_timeout_ms = 2000\nprovider_backoff_ms = 20\n";

/// What is measured while the last life lasts.
struct Sample {
    rss_kib: u64,
    descriptors: usize,
}

/// Everything that goes on.
struct Stage {
    binary: PathBuf,
    home: tempfile::TempDir,
    life: watch::Sender<Life>,
    manner: Arc<Manner>,
    doors: Arc<Vec<Door>>,
    /// How long each start took.
    starts: Vec<Duration>,
    killed: usize,
    stopped: usize,
    /// Lines of the server's logs that no log should have.
    alarms: Vec<String>,
}

pub async fn run(binary: &Path, ask: &Ask) -> Outcome<Report> {
    let time = Duration::from_secs_f64(ask.minutes * 60.0);
    let (mut stage, mut side) = prepare(binary, ask.tenants).await?;
    let began = Instant::now();
    let until = began + time;
    let pace = Duration::from_secs_f64(ACTORS as f64 / ask.rate);
    let mut actors = JoinSet::new();
    for number in 0..ACTORS {
        actors.spawn(Actor::new(number, &stage.doors, stage.life.subscribe()).work(until, pace));
    }
    let backups = tokio::spawn(backups(stage.binary.clone(), stage.data(), stage.backups(), until, time / 20));
    let restarts = ((time.as_secs_f64() * UNREST / 75.0) as usize).clamp(3, 12);
    for number in 0..restarts {
        tokio::time::sleep(time.mul_f64(UNREST) / (restarts as u32 + 1)).await;
        side = stage.renew(side, number % 2 == 0).await?;
    }
    let warmed = Instant::now();
    warm(&stage.doors, side.at).await;
    let warmed = warmed.elapsed();
    let began = Instant::now();
    let samples = watched(&side, until, time / 180).await;
    let watched = began.elapsed();
    let (mut tally, mut talks) = (Tally::default(), Vec::new());
    while let Some(actor) = actors.join_next().await {
        let actor = actor?;
        tally.add(actor.tally);
        talks.extend(actor.talks);
    }
    let made = backups.await?;
    let mut report = Report::default();
    stage.tell(&mut report, ask, &mut tally);
    report.figure("the last life", format!("every tenant at its height after {} s, watched for {} s", warmed.as_secs(), watched.as_secs()));
    steady(&mut report, &samples);
    let failed: Vec<_> = made.iter().filter_map(|done| done.as_ref().err()).collect();
    report.verdict(
        "every backup is made",
        failed.is_empty() && made.len() >= 3,
        format!("{} made{}", made.len() - failed.len(), first(&failed)),
    );
    stage.end(side, &mut report, &talks).await?;
    Ok(report)
}

async fn prepare(binary: &Path, tenants: usize) -> Outcome<(Stage, Side)> {
    let (vendor, manner) = vendor::start().await?;
    manner.set(20, 4, 5);
    let home = tempfile::tempdir()?;
    let data = home.path().join("data");
    world::configure(&data, vendor, "", LIMITS)?;
    let (side, took) = world::ours_start(binary, &data).await?;
    let doors = Arc::new(world::ours_fill(binary, &data, side.at, tenants).await?);
    manner.faults_per_mille.store(FAULTS_PER_MILLE, std::sync::atomic::Ordering::Relaxed);
    let (life, _) = watch::channel(Life { number: 0, at: side.at, serves: true });
    let (binary, starts) = (binary.to_owned(), vec![took]);
    Ok((Stage { binary, home, life, manner, doors, starts, killed: 0, stopped: 0, alarms: Vec::new() }, side))
}

impl Stage {
    fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    fn backups(&self) -> PathBuf {
        self.home.path().join("backups")
    }

    /// Ends the server, as a power cut does or as SIGTERM does, and starts the next one.
    async fn renew(&mut self, mut side: Side, kill: bool) -> Outcome<Side> {
        self.life.send_modify(|life| life.serves = false);
        if kill {
            self.killed += 1;
            side.child.kill().await?;
        } else {
            self.stopped += 1;
            world::ours_stop(side).await?;
        }
        self.log_read()?;
        let (side, took) = world::ours_start(&self.binary, &self.data()).await?;
        self.starts.push(took);
        self.life.send_modify(|life| *life = Life { number: life.number + 1, at: side.at, serves: true });
        Ok(side)
    }

    /// Looks through the log of the life that ended.
    fn log_read(&mut self) -> Outcome<()> {
        let log = std::fs::read_to_string(self.data().join("bench.log"))?;
        let alarming =
            |line: &&str| ["panicked", "failed inside", "quarantined", "damaged", "rolled back"].iter().any(|word| line.contains(word));
        self.alarms.extend(log.lines().filter(alarming).map(str::to_owned));
        Ok(())
    }

    fn tell(&self, report: &mut Report, ask: &Ask, tally: &mut Tally) {
        let turns = tally.turns_us.len();
        tally.turns_us.sort_unstable();
        let at = |share: f64| tally.turns_us.get((turns as f64 * share) as usize).copied().unwrap_or(0) as f64 / 1_000.0;
        let (calls, faults) = self.manner.counts();
        report.figure("time, tenants, clients", format!("{} min, {}, {ACTORS} at {} requests/s", ask.minutes, ask.tenants, ask.rate));
        report.figure("turns answered; p50, p99, p99.9", format!("{turns}; {:.1}, {:.1}, {:.1} ms", at(0.5), at(0.99), at(0.999)));
        report.figure("vendor calls, faults among them", format!("{calls}, {faults}"));
        let slowest = self.starts.iter().max().copied().unwrap_or_default();
        report.figure("ends: SIGKILL, SIGTERM; slowest start", format!("{}, {}; {} ms", self.killed, self.stopped, slowest.as_millis()));
        let seen: Vec<String> = tally.seen.iter().map(|(what, count)| format!("{what} {count}")).collect();
        report.figure("what was done, and its answers", seen.join(", "));
        report.verdict(
            "no answer that nothing explains",
            tally.unexplained_count == 0,
            format!("{}{}", tally.unexplained_count, first(&tally.unexplained.iter().collect::<Vec<_>>())),
        );
        report.verdict("no more vendor errors than faults", tally.vendor_s <= faults, format!("{} told, {faults} made", tally.vendor_s));
        let full = tally
            .seen
            .iter()
            .filter(|(what, _)| what.ends_with("overloaded") && !what.contains("provider"))
            .map(|(_, count)| count)
            .sum::<u64>();
        let all = tally.seen.values().sum::<u64>();
        report.verdict("the server is hardly ever full", full * 1_000 <= all, format!("{full} of {all} requests"));
        report.verdict(
            "each start is a matter of seconds",
            slowest < Duration::from_secs(10),
            format!("{} ms at most", slowest.as_millis()),
        );
    }

    /// What has to hold once nobody asks any more.
    async fn end(&mut self, side: Side, report: &mut Report, talks: &[(usize, Talk)]) -> Outcome<()> {
        // Turns whose clients hung up come to their end; then the last power cut.
        tokio::time::sleep(Duration::from_secs(5)).await;
        let side = self.renew(side, true).await?;
        let held = self.held(side.at).await?;
        report.verdict(
            "nothing is held at rest",
            held.is_empty(),
            format!("{} wallets{}", self.doors.len(), first(&held.iter().collect::<Vec<_>>())),
        );
        let lost = self.lost(side.at, talks).await?;
        let told: u64 = talks.iter().map(|(_, talk)| talk.told).sum();
        report.verdict(
            "what was told is there",
            lost.is_empty(),
            format!("{told} answers in {} conversations{}", talks.len(), first(&lost.iter().collect::<Vec<_>>())),
        );
        let doctor = self.command(&self.data(), &["doctor"]).await;
        report.verdict("the doctor finds nothing, beside the server", doctor.is_ok(), doctor.err().unwrap_or_default());
        let last = self.command(&self.data(), &["backup", &self.backups().to_string_lossy()]).await;
        world::ours_stop(side).await?;
        self.log_read()?;
        report.verdict("no panic, no defect in the logs", self.alarms.is_empty(), first(&self.alarms.iter().collect::<Vec<_>>()));
        let doctor = self.command(&self.data(), &["doctor"]).await;
        report.verdict("the doctor finds nothing, at rest", doctor.is_ok(), doctor.err().unwrap_or_default());
        let new = self.home.path().join("restored");
        let restored = match last {
            Ok(()) => self.command(&new, &["restore", &self.backups().to_string_lossy()]).await,
            failed => failed,
        };
        let restored = match restored {
            Ok(()) => self.command(&new, &["doctor"]).await,
            failed => failed,
        };
        report.verdict("the newest backup restores, audits clean", restored.is_ok(), restored.err().unwrap_or_default());
        Ok(())
    }

    /// Tenants with money held.
    async fn held(&self, at: SocketAddr) -> Outcome<Vec<String>> {
        let (mut client, mut held) = (Client::new(at), Vec::new());
        for door in self.doors.iter() {
            let wallet = client.ask("GET", "/api/v1/wallet", &door.key, "*/*", "").await?;
            if wallet.status != 200
                || wallet.json()["held"].as_str().is_none_or(|held| held.chars().any(|digit| !matches!(digit, '0' | '.')))
            {
                held.push(format!("{} {}", wallet.status, wallet.json()));
            }
        }
        Ok(held)
    }

    /// Conversations that have not all answers that were told.
    async fn lost(&self, at: SocketAddr, talks: &[(usize, Talk)]) -> Outcome<Vec<String>> {
        let (mut client, mut lost) = (Client::new(at), Vec::new());
        for (tenant, talk) in talks {
            let path = format!("/api/v1/conversations/{}", talk.id);
            let found = client.ask("GET", &path, &self.doors[*tenant].key, "*/*", "").await?;
            let messages = found.json()["message_count"].as_u64().unwrap_or(0);
            if found.status != 200 || messages < 2 * talk.told {
                lost.push(format!("{} {path}: {messages} messages, {} answers told", found.status, talk.told));
            }
        }
        Ok(lost)
    }

    async fn command(&self, data: &Path, args: &[&str]) -> Result<(), String> {
        command(&self.binary, data, args).await
    }
}

/// Backs up every so often until the end.
async fn backups(binary: PathBuf, data: PathBuf, folder: PathBuf, until: Instant, every: Duration) -> Vec<Result<(), String>> {
    let mut made = Vec::new();
    let folder = folder.to_string_lossy().into_owned();
    while Instant::now() + every < until {
        tokio::time::sleep(every).await;
        made.push(command(&binary, &data, &["backup", &folder, "--keep", "2"]).await);
    }
    made
}

/// Runs a command of the binary to its end; what it says is the error when it fails.
async fn command(binary: &Path, data: &Path, args: &[&str]) -> Result<(), String> {
    let ran = Command::new(binary).env_clear().env("NIMBLESITE_DATA", data).args(args).stdin(Stdio::null()).output().await;
    let output = ran.map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = format!("{}{}", said(&output.stdout), said(&output.stderr));
    let bad: Vec<&str> = said.lines().filter(|line| line.starts_with("BAD")).collect();
    Err(format!("{}: {}", args[0], if bad.is_empty() { said.trim().replace('\n', " ") } else { bad.join("; ") }))
}

/// Reads memory and descriptors every so often until the end.
async fn watched(side: &Side, until: Instant, every: Duration) -> Vec<Sample> {
    let mut samples = Vec::new();
    while Instant::now() < until {
        tokio::time::sleep(every.max(Duration::from_millis(200))).await;
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", side.pid())).map_or(0, Iterator::count);
        samples.push(Sample { rss_kib: probe::read(side.pid()).rss_kib, descriptors });
    }
    samples
}

/// Memory and descriptors of the last life: its last sixth beside the one at its middle.
fn steady(report: &mut Report, samples: &[Sample]) {
    let sixth = (samples.len() / 6).max(1);
    let median = |part: &[Sample], of: fn(&Sample) -> u64| {
        let mut values: Vec<u64> = part.iter().map(of).collect();
        values.sort_unstable();
        values.get(values.len() / 2).copied().unwrap_or(0)
    };
    let middle = samples.get(samples.len() / 2..samples.len() / 2 + sixth).unwrap_or_default();
    let end = samples.get(samples.len() - sixth.min(samples.len())..).unwrap_or_default();
    let rss = |part| median(part, |sample| sample.rss_kib);
    let files = |part| median(part, |sample| sample.descriptors as u64);
    let (rss_then, rss_now, files_then, files_now) = (rss(middle), rss(end), files(middle), files(end));
    let found = format!("{:.1} MiB, then {:.1} MiB", rss_then as f64 / 1024.0, rss_now as f64 / 1024.0);
    // What the allocator keeps moves by a few megabytes either way.
    report.verdict("memory is flat", rss_now > 0 && rss_now <= rss_then + rss_then / 20 + 8 * 1024, found);
    report.verdict(
        "descriptors are flat",
        files_now > 0 && files_now <= files_then + files_then / 50 + 16,
        format!("{files_then}, then {files_now}"),
    );
}

/// The first of some findings, for the report.
fn first(all: &[&String]) -> String {
    all.first().map_or_else(String::new, |first| format!(" ({} in all, such as: {first})", all.len()))
}
