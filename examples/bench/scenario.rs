//! The named scenarios, and how one is run: both sides in turn, round by round, and a vendor that takes its time by itself.

use super::{
    Ask, client,
    load::{Crowd, Load, Spread},
    probe,
    report::{self, Round, quantile},
    vendor::{self, Manner},
    world::{self, Side},
};
use serde_json::Value;
use std::{
    error::Error,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

/// A scenario. `tenants: 0` stands for what `--tenants` says.
pub struct Scenario {
    pub name: &'static str,
    load: Load,
    /// The vendor: milliseconds to its first byte, pieces, milliseconds between them.
    vendor: (u64, u64, u64),
    /// Tenants whose files may be open at once; 0 for the usual.
    open_max: usize,
}

const USUAL: Load =
    Load { clients: 32, tenants: 40, spread: Spread::Uniform, streaming: false, history: 2, readers: 0, ramp: Duration::ZERO };
const PLAIN: Scenario = Scenario { name: "forty", load: USUAL, vendor: (0, 4, 0), open_max: 0 };

/// All scenarios but `keys-cold`, which has no yardstick.
pub const ALL: &[Scenario] = &[
    PLAIN,
    Scenario { name: "one", load: Load { tenants: 1, ..USUAL }, ..PLAIN },
    Scenario { name: "one-64", load: Load { tenants: 1, clients: 64, ..USUAL }, ..PLAIN },
    Scenario { name: "alone", load: Load { tenants: 1, clients: 1, ..USUAL }, ..PLAIN },
    Scenario { name: "many", load: Load { tenants: 0, ..USUAL }, ..PLAIN },
    Scenario { name: "many-zipf", load: Load { tenants: 0, spread: Spread::Zipf, ..USUAL }, ..PLAIN },
    Scenario { name: "stream", load: Load { streaming: true, ..USUAL }, ..PLAIN },
    Scenario { name: "history-20", load: Load { history: 20, ..USUAL }, ..PLAIN },
    Scenario { name: "history-200", load: Load { history: 200, ..USUAL }, ..PLAIN },
    Scenario { name: "slow-vendor", load: Load { clients: 256, ..USUAL }, vendor: (300, 4, 0), ..PLAIN },
    Scenario { name: "slow-stream", load: Load { clients: 64, streaming: true, ..USUAL }, vendor: (300, 4, 0), ..PLAIN },
    Scenario { name: "streams-1000", load: Load { clients: 1_000, streaming: true, ..USUAL }, vendor: (0, 50, 20), ..PLAIN },
    Scenario { name: "cold", load: Load { tenants: 0, clients: 8, ..USUAL }, open_max: 16, ..PLAIN },
    Scenario { name: "reads", load: Load { readers: 4, ..USUAL }, ..PLAIN },
];

/// Where everything is.
struct Stage {
    binary: PathBuf,
    dir: tempfile::TempDir,
    vendor: SocketAddr,
    manner: Arc<Manner>,
    tenants: usize,
    limits: String,
    settings: String,
}

/// Runs what was asked for and prints it.
pub async fn run(ask: &Ask) -> Result<(), Box<dyn Error>> {
    let binary = binary()?;
    let (vendor, manner) = vendor::start().await?;
    let stage = Stage {
        binary,
        dir: tempfile::tempdir()?,
        vendor,
        manner,
        tenants: ask.tenants,
        limits: ask.limits.clone(),
        settings: ask.settings.clone(),
    };
    eprintln!("filling {} tenants …", stage.tenants);
    world::configure(&stage.data(), vendor, &ask.settings, "")?;
    let (side, _) = world::ours_start(&stage.binary, &stage.data()).await?;
    let doors = Arc::new(world::ours_fill(&stage.binary, &stage.data(), side.at, stage.tenants).await?);
    world::ours_stop(side).await?;
    let mut lines = Vec::new();
    println!("{}", report::head());
    for scenario in ALL.iter().filter(|scenario| ask.names.is_empty() || ask.names.iter().any(|name| name == scenario.name)) {
        let mut ours = ours(&stage, scenario.open_max).await?;
        ours.doors = Arc::clone(&doors);
        let keep = if scenario.open_max == 0 { usize::MAX } else { scenario.open_max };
        let yard = world::yardstick_start(stage.dir.path().join("yardstick"), vendor, stage.tenants, keep).await?;
        for line in measure(&stage, scenario, ask, [&ours, &yard]).await? {
            println!("{}", report::row(&line));
            lines.push(line);
        }
        world::ours_stop(ours).await?;
    }
    if ask.names.is_empty() || ask.names.iter().any(|name| name == "keys-cold") {
        lines.extend(keys_cold(&stage, &doors).await?);
    }
    if let Some(path) = &ask.json {
        std::fs::write(path, serde_json::to_string_pretty(&lines)? + "\n")?;
    }
    if let Some(path) = &ask.markdown {
        std::fs::write(path, report::markdown(ask, &lines))?;
    }
    Ok(())
}

impl Stage {
    fn data(&self) -> PathBuf {
        self.dir.path().join("nimblesite")
    }
}

/// The release binary, which is built next to this example.
pub fn binary() -> Result<PathBuf, Box<dyn Error>> {
    let own = std::env::current_exe()?;
    let path = own.parent().and_then(Path::parent).ok_or("no folder")?.join("nimblesite");
    if path.exists() { Ok(path) } else { Err(format!("{} is missing: run `cargo build --release` first", path.display()).into()) }
}

async fn ours(stage: &Stage, open_max: usize) -> Result<Side, Box<dyn Error>> {
    let open_max = if open_max == 0 { String::new() } else { format!("tenants_open_max = {open_max}\n") };
    world::configure(&stage.data(), stage.vendor, &stage.settings, &(open_max + &stage.limits))?;
    Ok(world::ours_start(&stage.binary, &stage.data()).await?.0)
}

async fn measure(stage: &Stage, scenario: &Scenario, ask: &Ask, sides: [&Side; 2]) -> Result<Vec<Value>, Box<dyn Error>> {
    let load = Load {
        tenants: if scenario.load.tenants == 0 { stage.tenants } else { scenario.load.tenants.min(stage.tenants) },
        ramp: Duration::from_millis(scenario.vendor.0),
        ..scenario.load
    };
    let mut crowds: Vec<Crowd> = sides.iter().map(|side| Crowd::new(load, side.at, &side.doors)).collect();
    // Conversations are filled by a quick vendor.
    stage.manner.set(0, 4, 0);
    for crowd in &mut crowds {
        crowd.warm().await?;
        crowd.run(Duration::from_millis(300)).await;
    }
    let (wait, pieces, pace) = scenario.vendor;
    stage.manner.set(wait, pieces, pace);
    // A vendor that takes its time is asked by itself as well: what is over that is the servers' own.
    let vendor_doors = vec![world::Door { key: "ns_vendor".to_owned(), path: "/v1/chat/completions".to_owned() }; load.tenants];
    let mut vendor = (wait + pace > 0).then(|| Crowd::new(load, stage.vendor, &Arc::new(vendor_doors)));
    let mut vendor_rounds = Vec::new();
    let time = Duration::from_secs_f64(ask.seconds).max(Duration::from_millis((wait + pieces * pace) * 3));
    let mut rounds: [Vec<Round>; 2] = [Vec::new(), Vec::new()];
    for _ in 0..ask.rounds {
        for (at, side) in sides.iter().enumerate() {
            let fsyncs = probe::Fsyncs::begin(side.pid()).await;
            let before = probe::read(side.pid());
            let tally = crowds[at].run(time).await;
            let after = probe::read(side.pid());
            let fsyncs = match fsyncs {
                Some(counting) => counting.end().await,
                None => None,
            };
            if tally.failed > 0 {
                eprintln!("{} {}: {} failed, the last with: {}", scenario.name, side.name, tally.failed, tally.last_failure);
            }
            rounds[at].push(Round {
                tally,
                cpu_us: after.cpu_us - before.cpu_us,
                written_bytes: after.written_bytes - before.written_bytes,
                rss_kib: after.rss_kib,
                fsyncs,
            });
        }
        if let Some(crowd) = &mut vendor {
            vendor_rounds.push(Round { tally: crowd.run(time).await, cpu_us: 0, written_bytes: 0, rss_kib: 0, fsyncs: None });
        }
    }
    let mut lines = Vec::new();
    for (at, side) in sides.iter().enumerate() {
        lines.push(report::line(scenario.name, side.name, &rounds[at]));
    }
    if vendor.is_some() {
        lines.push(report::line(scenario.name, "vendor alone", &vendor_rounds));
    }
    lines[0]["ratio"] = report::ratio(&rounds[0], &rounds[1]).into();
    Ok(lines)
}

/// What the first request of each key costs after a restart, against the second. It has no yardstick.
async fn keys_cold(stage: &Stage, doors: &[world::Door]) -> Result<Vec<Value>, Box<dyn Error>> {
    let side = ours(stage, 0).await?;
    let doors = &doors[..doors.len().min(1_000)];
    let mut client = client::Client::new(side.at);
    let mut lines = Vec::new();
    for pass in ["first", "second"] {
        let (mut took, mut failed) = (Vec::new(), 0_u64);
        for door in doors {
            let began = Instant::now();
            let reply = client.ask("GET", "/api/v1/models", &door.key, "application/json", "").await?;
            took.push(u64::try_from(began.elapsed().as_micros())?);
            failed += u64::from(reply.status != 200);
        }
        let ms = |share: f64| quantile(&took, share) as f64 / 1000.0;
        let line = serde_json::json!({
            "scenario": "keys-cold", "side": format!("{pass} of {}", doors.len()), "failed": failed,
            "p50_ms": ms(0.5), "p99_ms": ms(0.99), "p999_ms": ms(0.999), "rss_mib": probe::read(side.pid()).rss_kib as f64 / 1024.0,
        });
        println!("{}", report::row(&line));
        lines.push(line);
    }
    world::ours_stop(side).await?;
    Ok(lines)
}
