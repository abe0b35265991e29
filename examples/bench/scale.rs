//! `nimblesite-bench scale`: data directories of so many tenants. Of each: how long a start takes and what it leaves resident, what the first
//! turn of a tenant that was not open costs beside its second, what 500 active tenants take, and how long `migrate` and `backup` run.
//!
//! With `--data` the directories are kept there, one a size, and used again by the next run: to make 100,000 tenants takes much longer than to
//! measure them. `--commands-max` leaves the commands out for larger ones.
//!
//! There is no yardstick: the figures of one run are compared with those of its smallest size.

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
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Tenants that are made ready to chat, where there are so many: all of them are active, where nothing else is asked for.
pub const ACTIVE: usize = 500;
/// Turns behind the first ones of all active tenants, at least.
const WARM_TURNS: usize = 1_500;
/// Starts of the server at each size; their median is shown.
const STARTS: usize = 5;

/// What was asked for.
pub struct Ask {
    pub sizes: Vec<usize>,
    pub data: Option<PathBuf>,
    /// How many are asked.
    pub active: usize,
    /// The largest directory that `migrate` and `backup` are run on.
    pub commands_max: usize,
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
    pub backup_s: f64,
}

pub async fn run(binary: &Path, ask: &Ask) -> Result<(), Box<dyn Error>> {
    let (vendor, manner) = vendor::start().await?;
    manner.set(0, 4, 0);
    let own = tempfile::tempdir()?;
    let folder = ask.data.clone().unwrap_or_else(|| own.path().to_owned());
    let mut points: Vec<Point> = Vec::new();
    println!("{}", Point::head());
    for size in &ask.sizes {
        let data = folder.join(size.to_string());
        world::configure(&data, vendor, "", "")?;
        let doors = filled(binary, &data, *size).await?;
        let active = &doors[..doors.len().min(ask.active)];
        let mut point = measure(binary, &data, *size, active).await?;
        if *size <= ask.commands_max {
            point.migrate_s = command(binary, &data, &["migrate"]).await?;
            let sets = folder.join(format!("{size}-backup"));
            point.backup_s = command(binary, &data, &["backup", &sets.to_string_lossy()]).await?;
            std::fs::remove_dir_all(&sets)?;
        }
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

/// Makes so many tenants, of which the first [`ACTIVE`] can chat, unless they are there. What they are asked with is kept beside them.
async fn filled(binary: &Path, data: &Path, size: usize) -> Result<Vec<Door>, Box<dyn Error>> {
    let kept = data.join("bench-doors.json");
    if let Ok(text) = std::fs::read_to_string(&kept) {
        return Ok(serde_json::from_str(&text)?);
    }
    let began = Instant::now();
    let (side, _) = world::ours_start(binary, data).await?;
    let doors = world::ours_fill(binary, data, side.at, size.min(ACTIVE)).await?;
    world::ours_stop(side).await?;
    quiet_make(binary, data, size.saturating_sub(ACTIVE)).await?;
    std::fs::write(kept, serde_json::to_string(&doors)?)?;
    eprintln!("{size} tenants were made in {:.0} s", began.elapsed().as_secs_f64());
    Ok(doors)
}

/// Tenants that nobody asks anything: they are there to be many. One is made by the server, the others are copies of it, under their own names
/// and with no regard for the disk: to make them all as the server does takes hours where a disk is slow to sync.
async fn quiet_make(binary: &Path, data: &Path, count: usize) -> Result<(), Box<dyn Error>> {
    if count == 0 {
        return Ok(());
    }
    let (side, _) = world::ours_start(binary, data).await?;
    let body = r#"{"name":"Quiet","owner":"bench@example.com"}"#;
    let reply = Client::new(side.at).ask("POST", "/api/v1/operator/tenants", world::OPERATOR, "*/*", body).await?;
    let first = reply.json()["id"].as_str().ok_or("no tenant was made")?.to_owned();
    world::ours_stop(side).await?;
    let catalog = rusqlite::Connection::open(data.join("catalog.db"))?;
    catalog.execute_batch("PRAGMA synchronous = OFF; BEGIN")?;
    for _ in 1..count {
        let id = uuid::Uuid::now_v7().to_string();
        for (table, others) in
            [("tenants", "name, time_zone, state, suspended_at, created_at, updated_at"), ("memberships", "user_id, role, created_at")]
        {
            let own = if table == "tenants" { "id" } else { "tenant_id" };
            catalog
                .prepare_cached(&format!("INSERT INTO {table} ({own}, {others}) SELECT ?1, {others} FROM {table} WHERE {own} = ?2"))?
                .execute([&id, &first])?;
        }
        copy(&folder(data, &first), &folder(data, &id), &id)?;
    }
    catalog.execute_batch("COMMIT")?;
    Ok(())
}

fn folder(data: &Path, id: &str) -> PathBuf {
    data.join("tenants").join(&id[34..]).join(id)
}

/// A quiet tenant's file once more, as that of another.
fn copy(from: &Path, to: &Path, id: &str) -> Result<(), Box<dyn Error>> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(to)?;
    let file = to.join("tenant.db");
    std::fs::copy(from.join("tenant.db"), &file)?;
    let conn = rusqlite::Connection::open(&file)?;
    conn.execute_batch("PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF; PRAGMA foreign_keys = OFF; BEGIN")?;
    conn.execute("UPDATE tenant SET id = ?1", [id])?;
    // The ledger's chain begins with the tenant's name, so that nobody passes one tenant's ledger off as another's.
    let start = nimblesite::wallet::chain_start(id.parse().map_err(|_| "no id")?);
    conn.execute("UPDATE wallet SET tenant_id = ?1, head = ?2", [id, start.as_str()])?;
    conn.execute_batch("COMMIT; PRAGMA journal_mode = WAL")?;
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
    while warm.len() < WARM_TURNS {
        warm.extend(turns(&mut client, doors).await?);
    }
    (point.cold_turn_p50_ms, point.cold_turn_p99_ms) = (ms(quantile(&cold, 0.5)), ms(quantile(&cold, 0.99)));
    (point.warm_turn_p50_ms, point.warm_turn_p99_ms) = (ms(quantile(&warm, 0.5)), ms(quantile(&warm, 0.99)));
    (point.active, point.active_mib) = (doors.len(), probe::read(side.pid()).rss_kib as f64 / 1024.0);
    point.active_descriptors = std::fs::read_dir(format!("/proc/{}/fd", side.pid())).map_or(0, Iterator::count);
    world::ours_stop(side).await?;
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
        "| tenants | start ms | idle MiB | cold turn p50 / p99 ms | warm turn p50 / p99 ms | active | MiB | descriptors | disk MiB | migrate s | backup s |\n\
         |---|---|---|---|---|---|---|---|---|---|---|"
            .to_owned()
    }

    fn row(&self) -> String {
        format!(
            "| {} | {:.0} | {:.1} | {:.2} / {:.2} | {:.2} / {:.2} | {} | {:.1} | {} | {:.0} | {:.1} | {:.1} |",
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
            self.backup_s,
        )
    }
}
