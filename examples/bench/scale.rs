//! `nimblesite-bench scale`: one data directory that grows. At each size: how long a start takes and what it leaves resident, what the first
//! turn of a tenant that was not open costs beside its second, what 500 active tenants take, and how long `migrate` runs.
//!
//! There is no yardstick: the figures of one run are compared with those at its smallest size.

use super::{
    client::Client,
    probe,
    report::quantile,
    vendor,
    world::{self, Door},
};
use serde::Serialize;
use std::{
    error::Error,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// Tenants that are made ready to chat at the smallest sizes, and are the active ones at all.
const ACTIVE: usize = 500;
/// Turns of each active tenant behind its first.
const WARM_TURNS: usize = 3;
/// Starts of the server at each size; their median is shown.
const STARTS: usize = 5;

/// What was asked for.
pub struct Ask {
    pub sizes: Vec<usize>,
    pub data: Option<PathBuf>,
    pub json: Option<PathBuf>,
    pub svg: Option<PathBuf>,
}

/// What was found at one size.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Point {
    pub tenants: usize,
    pub start_ms: f64,
    pub idle_mib: f64,
    pub cold_turn_p50_ms: f64,
    pub cold_turn_p99_ms: f64,
    pub warm_turn_p50_ms: f64,
    pub warm_turn_p99_ms: f64,
    pub active: usize,
    pub active_mib: f64,
    pub active_descriptors: usize,
    pub disk_mib: f64,
    pub migrate_s: f64,
}

pub async fn run(binary: &Path, ask: &Ask) -> Result<(), Box<dyn Error>> {
    let (vendor, manner) = vendor::start().await?;
    manner.set(0, 4, 0);
    let own = tempfile::tempdir()?;
    let data = ask.data.clone().unwrap_or_else(|| own.path().join("data"));
    world::configure(&data, vendor, "")?;
    let (mut points, mut doors): (Vec<Point>, Vec<Door>) = (Vec::new(), Vec::new());
    println!("{}", Point::head());
    for size in &ask.sizes {
        grow(binary, &data, *size, &mut doors).await?;
        let point = measure(binary, &data, *size, &doors).await?;
        println!("{}", point.row());
        points.push(point);
    }
    if let Some(path) = &ask.json {
        std::fs::write(path, serde_json::to_string_pretty(&points)? + "\n")?;
    }
    if let Some(path) = &ask.svg {
        super::plot::draw(path, &points)?;
    }
    Ok(())
}

/// Makes tenants until there are so many; the first [`ACTIVE`] can chat.
async fn grow(binary: &Path, data: &Path, size: usize, doors: &mut Vec<Door>) -> Result<(), Box<dyn Error>> {
    let (side, _) = world::ours_start(binary, data).await?;
    let there = tenants_there(side.at).await?;
    let chatting = size.min(ACTIVE).saturating_sub(doors.len());
    if chatting > 0 {
        let first = doors.is_empty();
        doors.extend(if first {
            world::ours_fill(binary, data, side.at, chatting).await?
        } else {
            world::ours_more(side.at, chatting).await?
        });
    }
    bare_make(side.at, size.saturating_sub(there + chatting)).await?;
    world::ours_stop(side).await
}

async fn tenants_there(at: SocketAddr) -> Result<usize, Box<dyn Error>> {
    let reply = Client::new(at).ask("GET", "/api/v1/operator/status", world::OPERATOR, "*/*", "").await?;
    Ok(usize::try_from(reply.json()["tenants"].as_u64().ok_or("the server's status names no tenants")?)?)
}

/// Tenants without a config, which nobody asks anything: they are there to be many.
async fn bare_make(at: SocketAddr, count: usize) -> Result<(), Box<dyn Error>> {
    let next = Arc::new(AtomicUsize::new(0));
    let makers: Vec<_> = (0..16)
        .map(|_| {
            let next = Arc::clone(&next);
            tokio::spawn(async move {
                let mut client = Client::new(at);
                while next.fetch_add(1, Ordering::Relaxed) < count {
                    let body = r#"{"name":"Quiet","owner":"bench@example.com"}"#;
                    let asked = client.ask("POST", "/api/v1/operator/tenants", world::OPERATOR, "*/*", body).await;
                    let reply = asked.map_err(|error| error.to_string())?;
                    if reply.status != 201 {
                        return Err(format!("a tenant could not be made: {} {}", reply.status, reply.json()));
                    }
                }
                Ok(())
            })
        })
        .collect();
    for maker in makers {
        maker.await??;
    }
    Ok(())
}

async fn measure(binary: &Path, data: &Path, size: usize, doors: &[Door]) -> Result<Point, Box<dyn Error>> {
    let (mut starts, mut idle) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let (side, took) = world::ours_start(binary, data).await?;
        starts.push(u64::try_from(took.as_micros())?);
        tokio::time::sleep(Duration::from_millis(500)).await;
        idle.push(probe::read(side.pid()).rss_kib);
        world::ours_stop(side).await?;
    }
    let ms = |us: u64| us as f64 / 1000.0;
    let mut point =
        Point { tenants: size, start_ms: ms(quantile(&starts, 0.5)), idle_mib: quantile(&idle, 0.5) as f64 / 1024.0, ..Point::default() };

    let (side, _) = world::ours_start(binary, data).await?;
    let mut client = Client::new(side.at);
    let cold = turns(&mut client, doors).await?;
    let mut warm = Vec::new();
    for _ in 0..WARM_TURNS {
        warm.extend(turns(&mut client, doors).await?);
    }
    (point.cold_turn_p50_ms, point.cold_turn_p99_ms) = (ms(quantile(&cold, 0.5)), ms(quantile(&cold, 0.99)));
    (point.warm_turn_p50_ms, point.warm_turn_p99_ms) = (ms(quantile(&warm, 0.5)), ms(quantile(&warm, 0.99)));
    (point.active, point.active_mib) = (doors.len(), probe::read(side.pid()).rss_kib as f64 / 1024.0);
    point.active_descriptors = std::fs::read_dir(format!("/proc/{}/fd", side.pid())).map_or(0, Iterator::count);
    world::ours_stop(side).await?;

    point.migrate_s = command(binary, data, &["migrate"]).await?;
    point.disk_mib = disk_mib(data)?;
    Ok(point)
}

/// One turn of each tenant, one after the other, in microseconds.
async fn turns(client: &mut Client, doors: &[Door]) -> Result<Vec<u64>, Box<dyn Error>> {
    let mut took = Vec::with_capacity(doors.len());
    for door in doors {
        let began = Instant::now();
        let reply = client.ask("POST", &door.path, &door.key, "application/json", r#"{"message":"What is new?"}"#).await?;
        if reply.status != 200 {
            return Err(format!("a turn failed: {} {}", reply.status, reply.json()).into());
        }
        took.push(u64::try_from(began.elapsed().as_micros())?);
    }
    Ok(took)
}

/// Runs a command of ours to its end, and says how many seconds it took.
async fn command(binary: &Path, data: &Path, args: &[&str]) -> Result<f64, Box<dyn Error>> {
    let began = Instant::now();
    let output = tokio::process::Command::new(binary).env_clear().env("NIMBLESITE_DATA", data).args(args).output().await?;
    if output.status.success() {
        return Ok(began.elapsed().as_secs_f64());
    }
    Err(format!("{args:?} failed: {}", String::from_utf8_lossy(&output.stderr)).into())
}

/// What the directory's files take on the disk.
fn disk_mib(dir: &Path) -> std::io::Result<f64> {
    let (mut bytes, mut folders) = (0, vec![dir.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                bytes += entry.metadata()?.len();
            }
        }
    }
    Ok(bytes as f64 / 1024.0 / 1024.0)
}

impl Point {
    fn head() -> String {
        "| tenants | start ms | idle MiB | cold turn p50 / p99 ms | warm turn p50 / p99 ms | active | MiB | descriptors | disk MiB | migrate s |\n\
         |---|---|---|---|---|---|---|---|---|---|"
            .to_owned()
    }

    fn row(&self) -> String {
        format!(
            "| {} | {:.0} | {:.1} | {:.2} / {:.2} | {:.2} / {:.2} | {} | {:.1} | {} | {:.0} | {:.1} |",
            self.tenants,
            self.start_ms,
            self.idle_mib,
            self.cold_turn_p50_ms,
            self.cold_turn_p99_ms,
            self.warm_turn_p50_ms,
            self.warm_turn_p99_ms,
            self.active,
            self.active_mib,
            self.active_descriptors,
            self.disk_mib,
            self.migrate_s,
        )
    }
}
