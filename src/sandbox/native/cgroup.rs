//! Control groups, of either version, where this process may make them: the kernel's own bounds for memory, processes and processor time.

use crate::sandbox::{SandboxLimits, Usage};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How often its share of processor time is given out anew: usually, and to who stands behind the others. Each time that it is used up and given
/// again, the kernel forgets what others were owed before, and lets one of them wait a tick; the whole second is as long as it allows.
const PERIOD_US: u64 = 100_000;
const PERIOD_BACK_US: u64 = 1_000_000;
/// What the host's own work weighs: in version 2, and in version 1. All sandboxes together weigh as much.
const WEIGHT: (&str, u32) = ("cpu.weight", 100);
const SHARES: (&str, u32) = ("cpu.shares", 1024);

/// Where groups can be made: beside each other and beside the server's own, so that the kernel compares each sandbox with the server, and not
/// with what all sandboxes together are.
pub(super) enum Cgroups {
    /// This process may make none.
    Absent,
    /// One folder a controller.
    First { memory: PathBuf, pids: PathBuf, cpu: Option<PathBuf>, cpuacct: Option<PathBuf> },
    /// One folder for all.
    Second(PathBuf),
}

/// The group of one run.
pub(super) struct Group {
    memory: PathBuf,
    folders: Vec<PathBuf>,
    second: bool,
    cpu_millis: u64,
}

/// Every group of ours carries the spawner's process in its name, so that a later one knows what is left of whom.
const PREFIX: &str = "nimblesite-";

/// One sandbox weighs half of what the host's own work does, at most.
pub(super) const PARTS_MIN: u32 = 2;

impl Cgroups {
    /// Looks for a place by making one.
    pub(super) fn find() -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self::find_first(&mounts, &own).or_else(|| Self::find_second(&mounts, &own)).unwrap_or(Self::Absent)
    }

    fn find_first(mounts: &str, own: &str) -> Option<Self> {
        let mut at = BTreeMap::new();
        for line in mounts.lines() {
            let [_, folder, "cgroup", options, ..] = line.split(' ').collect::<Vec<_>>()[..] else { continue };
            for controller in ["memory", "pids", "cpu", "cpuacct"].into_iter().filter(|name| options.split(',').any(|one| one == *name)) {
                let path = own.lines().find_map(|line| {
                    let mut parts = line.splitn(3, ':').skip(1);
                    let (controllers, path) = (parts.next()?, parts.next()?);
                    controllers.split(',').any(|one| one == controller).then(|| path.trim_start_matches('/').to_owned())
                });
                let ours = Path::new(folder).join(path.unwrap_or_default());
                let ours = if ours.is_dir() { ours } else { PathBuf::from(folder) };
                at.insert(controller, ours);
            }
        }
        let mut ready = |name: &str| at.remove(name).filter(|parent| is_ready(parent));
        let (memory, pids) = (ready("memory")?, ready("pids")?);
        Some(Self::First { memory, pids, cpu: ready("cpu"), cpuacct: ready("cpuacct") })
    }

    fn find_second(mounts: &str, own: &str) -> Option<Self> {
        let folder = mounts.lines().find_map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
            [_, folder, "cgroup2", ..] => Some(PathBuf::from(folder)),
            _ => None,
        })?;
        let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
        // A place that a supervisor delegated to us (systemd's Delegate=yes); else, for root, the top.
        [folder.join(path), folder].into_iter().filter(|parent| parent.is_dir()).find_map(|parent| {
            hand_down(&parent)?;
            is_ready(&parent).then_some(Self::Second(parent))
        })
    }

    /// A group with these limits. `Ok(None)` where no groups can be made at all.
    pub(super) fn make(&self, run: &str, limits: &SandboxLimits) -> io::Result<Option<Group>> {
        let (name, cpu_millis) = (format!("{}-{run}", own_prefix()), limits.cpu_millis);
        let group = match self {
            Self::Absent => return Ok(None),
            Self::Second(parent) => Group { memory: parent.join(&name), folders: vec![parent.join(&name)], second: true, cpu_millis },
            Self::First { memory, pids, cpu, cpuacct } => {
                let parents = [Some(memory), Some(pids), cpu.as_ref(), cpuacct.as_ref()].into_iter().flatten();
                let mut folders: Vec<_> = parents.map(|parent| parent.join(&name)).collect();
                // Two controllers may share a hierarchy.
                folders.dedup();
                Group { memory: memory.join(&name), folders, second: false, cpu_millis }
            }
        };
        let made = group.folders.iter().try_for_each(fs::create_dir).and_then(|()| group.limit(limits));
        if made.is_err() {
            group.remove();
        }
        made.map(|()| Some(group))
    }
}

impl Group {
    fn limit(&self, limits: &SandboxLimits) -> io::Result<()> {
        for folder in &self.folders {
            if self.second {
                write(folder, "memory.max", &limits.memory_bytes.to_string())?;
                optional(write(folder, "memory.swap.max", "0"))?;
                optional(write(folder, "memory.oom.group", "1"))?;
                write(folder, "pids.max", &limits.pids.to_string())?;
            } else if folder.join("memory.limit_in_bytes").exists() {
                write(folder, "memory.limit_in_bytes", &limits.memory_bytes.to_string())?;
                optional(write(folder, "memory.memsw.limit_in_bytes", &limits.memory_bytes.to_string()))?;
            } else if folder.join("pids.max").exists() {
                write(folder, "pids.max", &limits.pids.to_string())?;
            }
        }
        optional(self.bound_cpu(PERIOD_US))?;
        optional(self.weigh(PARTS_MIN))
    }

    /// Gives it its share of processor time once in each period.
    fn bound_cpu(&self, period_us: u64) -> io::Result<()> {
        let quota_us = self.cpu_millis * period_us / 1000;
        if self.second {
            return write(&self.memory, "cpu.max", &format!("{quota_us} {period_us}"));
        }
        let Some(cpu) = self.folders.iter().find(|folder| folder.join("cpu.cfs_quota_us").exists()) else { return Ok(()) };
        write(cpu, "cpu.cfs_period_us", &period_us.to_string())?;
        write(cpu, "cpu.cfs_quota_us", &quota_us.to_string())
    }

    /// Takes a process in.
    pub(super) fn add(&self, pid: u32) -> io::Result<()> {
        self.folders.iter().try_for_each(|folder| write(folder, "cgroup.procs", &pid.to_string()))
    }

    /// Whether the kernel killed something in it for want of memory.
    pub(super) fn oom(&self) -> bool {
        let file = if self.second { "memory.events" } else { "memory.oom_control" };
        field(&self.memory, file, "oom_kill") > 0
    }

    pub(super) fn usage(&self) -> Usage {
        let sum = |file: &str| self.folders.iter().map(|folder| number(folder, file)).sum();
        if self.second {
            return Usage {
                memory_bytes: sum("memory.current"),
                memory_peak_bytes: sum("memory.peak"),
                cpu_ms: field(&self.memory, "cpu.stat", "usage_usec") / 1000,
                pids: sum("pids.current"),
            };
        }
        Usage {
            memory_bytes: sum("memory.usage_in_bytes"),
            memory_peak_bytes: sum("memory.max_usage_in_bytes"),
            cpu_ms: sum("cpuacct.usage") / 1_000_000,
            pids: sum("pids.current"),
        }
    }

    /// Bounds how fast it reads and writes a disk, also through the kernel's own threads. Whether the kernel took it, as version 2 alone can.
    pub(super) fn pace(&self, disk: &str, limits: &SandboxLimits) -> bool {
        let (bytes, operations) = (limits.disk_bytes_per_second, limits.disk_operations_per_second);
        self.second
            && write(&self.memory, "io.max", &format!("{disk} rbps={bytes} wbps={bytes} riops={operations} wiops={operations}")).is_ok()
    }

    /// Processor time that it ever took, in what the kernel counts it in.
    pub(super) fn cpu_time(&self) -> u64 {
        if self.second {
            return field(&self.memory, "cpu.stat", "usage_usec");
        }
        self.folders.iter().map(|folder| number(folder, "cpuacct.usage")).sum()
    }

    /// Whether one of its threads runs, or waits for a processor.
    pub(super) fn at_work(&self) -> bool {
        let file = if self.second { "cgroup.threads" } else { "tasks" };
        let threads = fs::read_to_string(self.memory.join(file)).unwrap_or_default();
        threads.lines().any(|thread| {
            let stat = fs::read_to_string(Path::new("/proc").join(thread).join("stat")).unwrap_or_default();
            // Behind the name, which may have anything in it but is in brackets.
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('R'))
        })
    }

    /// Puts it behind all that is not, or back: Linux 5.15 and newer (`cpu.idle`). The kernel forgets what it weighed.
    pub(super) fn stand_back(&self, back: bool) {
        for folder in self.folders.iter().filter(|folder| folder.join("cpu.idle").exists()) {
            drop(write(folder, "cpu.idle", if back { "1" } else { "0" }));
            drop(self.bound_cpu(if back { PERIOD_BACK_US } else { PERIOD_US }));
        }
    }

    /// Has it weigh one of so many parts of what the host's own work does.
    pub(super) fn weigh(&self, parts: u32) -> io::Result<()> {
        let (file, whole) = if self.second { WEIGHT } else { SHARES };
        let cpu = self.folders.iter().find(|folder| folder.join(file).exists());
        cpu.map_or(Ok(()), |folder| write(folder, file, &(whole / parts).max(2).to_string()))
    }

    /// Takes the group away; what is left in it is killed.
    pub(super) fn remove(&self) {
        let until = Instant::now() + Duration::from_secs(2);
        for folder in &self.folders {
            while fs::remove_dir(folder).is_err() && folder.exists() && Instant::now() < until {
                kill_all(folder);
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

fn kill_all(folder: &Path) {
    for pid in fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default().lines() {
        if let Some(pid) = pid.parse().ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// What begins the names of this process's groups.
fn own_prefix() -> String {
    format!("{PREFIX}{}", std::process::id())
}

/// Whether groups can be made in this one, which none of a spawner that is gone are left in then.
fn is_ready(parent: &Path) -> bool {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
        let pid = rest.split('-').next().unwrap_or_default();
        if pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists() {
            kill_all(&entry.path());
            drop(fs::remove_dir(entry.path()));
        }
    }
    let probe = parent.join(own_prefix());
    fs::create_dir(&probe).and_then(|()| fs::remove_dir(&probe)).is_ok()
}

/// Lets children of a group of version 2 have the controllers. A group with processes of its own cannot do that, but for the top: where all of
/// them are the server and this process, they go into a child of their own; others are nobody's to move.
fn hand_down(parent: &Path) -> Option<()> {
    let controllers = fs::read_to_string(parent.join("cgroup.controllers")).ok()?;
    if !["memory", "pids", "cpu"].iter().all(|wanted| controllers.split_whitespace().any(|one| one == *wanted)) {
        return None;
    }
    let all = "+memory +pids +cpu";
    if write(parent, "cgroup.subtree_control", all).is_ok() {
        drop(write(parent, "cgroup.subtree_control", "+io"));
        return Some(());
    }
    let ours = [Some(rustix::process::getpid()), rustix::process::getppid()];
    let inside = fs::read_to_string(parent.join("cgroup.procs")).ok()?;
    let known = |line: &str| ours.iter().flatten().any(|pid| line == pid.as_raw_nonzero().to_string());
    if !inside.lines().all(known) {
        return None;
    }
    let server = parent.join("server");
    optional(fs::create_dir(&server)).ok()?;
    for pid in inside.lines() {
        write(&server, "cgroup.procs", pid).ok()?;
    }
    write(parent, "cgroup.subtree_control", all).ok()?;
    drop(write(parent, "cgroup.subtree_control", "+io"));
    Some(())
}

fn write(folder: &Path, file: &str, value: &str) -> io::Result<()> {
    fs::write(folder.join(file), value)
}

/// What older or smaller kernels do not have.
fn optional(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
        // A file that is not there cannot be made in a cgroup: its folder is written by the kernel alone.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        done => done,
    }
}

fn number(folder: &Path, file: &str) -> u64 {
    fs::read_to_string(folder.join(file)).ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default()
}

/// A line `name number`.
fn field(folder: &Path, file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(folder.join(file)).unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or_default()
}
