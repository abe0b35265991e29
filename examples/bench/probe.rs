//! What a process costs, as the kernel counts it.

use std::{fs, time::Duration};

/// Readings of one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reading {
    pub cpu_us: u64,
    pub written_bytes: u64,
    pub rss_kib: u64,
}

/// Reads `/proc`; zeros where there is none.
pub fn read(pid: u32) -> Reading {
    let file = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let stat = file("stat");
    // Behind the name, which may have spaces: the fields from the third on. The 14th and 15th are user and system time in ticks of 10 ms.
    let fields: Vec<u64> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
    let ticks = fields.get(11).copied().unwrap_or(0) + fields.get(12).copied().unwrap_or(0);
    let number = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|value| value.parse().ok()).unwrap_or(0)
    };
    Reading { cpu_us: ticks * 10_000, written_bytes: number(&file("io"), "write_bytes:"), rss_kib: number(&file("status"), "VmRSS:") }
}

/// Counts a process's calls of fsync and fdatasync with strace, for as long as `load` runs. None where strace is missing or may not attach.
pub async fn fsyncs<T>(pid: u32, load: impl Future<Output = T>) -> (Option<u64>, T) {
    let out = std::env::temp_dir().join(format!("nimblesite-bench-{pid}.strace"));
    let strace = tokio::process::Command::new("strace")
        .args(["-f", "-qq", "-e", "trace=fsync,fdatasync", "-o"])
        .arg(&out)
        .args(["-p", &pid.to_string()])
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let Ok(mut strace) = strace else { return (None, load.await) };
    tokio::time::sleep(Duration::from_millis(300)).await;
    let done = load.await;
    if strace.try_wait().is_ok_and(|ended| ended.is_some()) {
        return (None, done);
    }
    if let Some(id) = strace.id() {
        drop(tokio::process::Command::new("kill").args(["-INT", &id.to_string()]).status().await);
    }
    drop(strace.wait().await);
    let text = fs::read_to_string(&out).unwrap_or_default();
    drop(fs::remove_file(&out));
    // A call that was interrupted in the listing is named again when it resumes.
    let count = text.lines().filter(|line| line.contains("sync(") && !line.contains("resumed")).count();
    (Some(count as u64), done)
}
