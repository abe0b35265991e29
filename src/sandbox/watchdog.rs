//! What looks after memory and disk where the kernel does not: for servers that may make no cgroups and mount nothing. It looks now and then, so
//! what it bounds is bounded softly.

use super::{SandboxLimits, StopReason, Usage, running::Life};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

const MEMORY_EVERY: Duration = Duration::from_millis(250);
const DISK_EVERY: Duration = Duration::from_secs(1);
/// Looking at a large workspace takes its time: no more than a twentieth of all.
const DISK_SHARE: u32 = 20;

/// Looks until the sandbox uses too much, which ends it, or until it is aborted.
pub(super) async fn watch(life: Arc<Life>, limits: SandboxLimits, workspace: PathBuf) {
    let (booted, mut disk_next) = (life.booted, Instant::now() + DISK_EVERY);
    loop {
        tokio::time::sleep(MEMORY_EVERY).await;
        if !booted.hard_memory && usage(booted.pid).memory_bytes > limits.memory_bytes {
            return life.kill(StopReason::Oom);
        }
        if !booted.hard_disk && Instant::now() >= disk_next {
            let (path, begun) = (workspace.clone(), Instant::now());
            let size = tokio::task::spawn_blocking(move || size(&path)).await.unwrap_or_default();
            if size > limits.workspace_bytes {
                return life.kill(StopReason::DiskFull);
            }
            disk_next = Instant::now() + DISK_EVERY.max(begun.elapsed() * DISK_SHARE);
        }
    }
}

/// What init and everything below it uses, from `/proc`.
pub(super) fn usage(init: i32) -> Usage {
    let mut usage = Usage::default();
    let mut waiting = vec![init.to_string()];
    while let Some(pid) = waiting.pop() {
        let of = Path::new("/proc").join(&pid);
        let status = fs::read_to_string(of.join("status")).unwrap_or_default();
        let number = |name: &str| -> u64 {
            let value = status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
            value.and_then(|value| value.parse().ok()).unwrap_or_default()
        };
        // What is mapped from files is shared with the host and other sandboxes.
        usage.memory_bytes += (number("RssAnon:") + number("RssShmem:")) * 1024;
        usage.pids += number("Threads:");
        // Each thread has children of its own.
        for thread in fs::read_dir(of.join("task")).into_iter().flatten().flatten() {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            waiting.extend(children.split_whitespace().map(str::to_owned));
        }
    }
    usage
}

/// Folders in folders; what lies deeper is there to hide.
const DEPTH_MAX: usize = 64;

/// Bytes of a workspace as its disk counts them. Folders are opened without following links, and nothing else is opened.
fn size(workspace: &Path) -> u64 {
    use rustix::fs::{CWD, Mode, openat};
    openat(CWD, workspace, FOLDER, Mode::empty()).map_or(0, |folder| size_of(&folder, DEPTH_MAX))
}

const FOLDER: rustix::fs::OFlags = rustix::fs::OFlags::DIRECTORY.union(rustix::fs::OFlags::NOFOLLOW).union(rustix::fs::OFlags::CLOEXEC);

fn size_of(folder: &std::os::fd::OwnedFd, depth: usize) -> u64 {
    use rustix::fs::{AtFlags, Dir, FileType, Mode, openat, statat};
    if depth == 0 {
        return u64::MAX;
    }
    let Ok(entries) = Dir::read_from(folder) else { return 0 };
    let mut bytes = 0_u64;
    for entry in entries.flatten() {
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        let Ok(facts) = statat(folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) else { continue };
        bytes = bytes.saturating_add(u64::try_from(facts.st_blocks).unwrap_or_default() * 512);
        if FileType::from_raw_mode(facts.st_mode) == FileType::Directory
            && let Ok(below) = openat(folder, entry.file_name(), FOLDER, Mode::empty())
        {
            bytes = bytes.saturating_add(size_of(&below, depth - 1));
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workspace_is_measured_without_following_what_lies_in_it() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("a/b")).unwrap();
        fs::write(folder.path().join("a/b/file"), vec![1; 100_000]).unwrap();
        let real = size(folder.path());
        assert!((100_000..200_000).contains(&real), "{real}");
        std::os::unix::fs::symlink("/usr", folder.path().join("a/link")).unwrap();
        assert!(size(folder.path()) < real + 10_000);
        let deep = folder.path().join("d/".repeat(DEPTH_MAX + 1));
        fs::create_dir_all(deep).unwrap();
        assert_eq!(size(folder.path()), u64::MAX, "depth hides nothing");
    }

    #[test]
    fn usage_counts_this_process_and_its_children() {
        let mut child = std::process::Command::new("sleep").arg("30").spawn().unwrap();
        let usage = usage(i32::try_from(std::process::id()).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(usage.memory_bytes > 100_000 && usage.pids > 1, "{usage:?}");
    }
}
