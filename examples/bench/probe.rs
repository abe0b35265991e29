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

/// Counts the calls of fsync and fdatasync of a process and its threads, until it is told to stop.
pub struct Fsyncs {
    program: Program,
    child: tokio::process::Child,
    out: tempfile::NamedTempFile,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Program {
    /// Counts in the kernel: whom it counts does not notice.
    Perf,
    /// Stops the process at each system call, so that what it counts has a share of its own in what it finds.
    Strace,
}

impl Fsyncs {
    /// Begins to count with perf, or with strace where there is no perf. None where neither may look into the process.
    pub async fn begin(pid: u32) -> Option<Self> {
        for program in [Program::Perf, Program::Strace] {
            let out = tempfile::NamedTempFile::new().ok()?;
            let mut command = match program {
                Program::Perf => {
                    let mut command = tokio::process::Command::new("perf");
                    command.args(["stat", "-x,", "-e", "syscalls:sys_enter_fsync,syscalls:sys_enter_fdatasync", "-o"]);
                    command
                }
                Program::Strace => {
                    let mut command = tokio::process::Command::new("strace");
                    command.args(["-f", "-qq", "-e", "trace=fsync,fdatasync", "-o"]);
                    command
                }
            };
            command.arg(out.path()).args(["-p", &pid.to_string()]).stderr(std::process::Stdio::null()).kill_on_drop(true);
            let Ok(mut child) = command.spawn() else { continue };
            tokio::time::sleep(Duration::from_millis(if program == Program::Perf { 50 } else { 300 })).await;
            if child.try_wait().is_ok_and(|ended| ended.is_none()) {
                return Some(Self { program, child, out });
            }
        }
        None
    }

    /// How many there were.
    pub async fn end(mut self) -> Option<u64> {
        if let Some(id) = self.child.id() {
            drop(tokio::process::Command::new("kill").args(["-INT", &id.to_string()]).status().await);
        }
        drop(self.child.wait().await);
        let text = fs::read_to_string(self.out.path()).ok()?;
        Some(match self.program {
            Program::Perf => {
                let counts: Vec<u64> = text.lines().filter_map(|line| line.split(',').next()?.parse().ok()).collect();
                (counts.len() == 2).then(|| counts.iter().sum())?
            }
            // A call that was interrupted in the listing is named again when it resumes.
            Program::Strace => text.lines().filter(|line| line.contains("sync(") && !line.contains("resumed")).count() as u64,
        })
    }
}
