//! How fast a workspace's disk may be. Who fills its disk, or flushes it all the time, would otherwise take the host's disk from everybody else,
//! and the processors too: what is written back is written by threads of the kernel that no sandbox's quota counts.
//!
//! Version 2 of cgroups counts those to who wrote; there the bound is the group's. Version 1 counts them to its root; there the bound is the
//! loop device's, whoever writes to it, and is taken off again before the device goes back to the host.

use crate::sandbox::SandboxLimits;
use rustix::fs::{major, minor};
use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Bytes of a loop device that wait in memory to be written: an unmount, which has to write them first, is soon done.
const UNWRITTEN_BYTES_MAX: u64 = 16 << 20;
/// Loop devices' first number (the kernel's `Documentation/admin-guide/devices.txt`).
const LOOP: u32 = 7;

/// Version 1's bounds on loop devices.
pub(super) struct Pace {
    root: Option<PathBuf>,
    bound: BTreeSet<String>,
}

impl Pace {
    /// Looks for the place, and takes off what an earlier life left on devices that nobody uses.
    pub(super) fn find() -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let root = mounts.lines().find_map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
            [_, folder, "cgroup", options, ..] if options.split(',').any(|one| one == "blkio") => Some(PathBuf::from(folder)),
            _ => None,
        });
        let pace = Self { root, bound: BTreeSet::new() };
        for line in pace.root.iter().flat_map(|root| fs::read_to_string(root.join("blkio.throttle.write_bps_device"))) {
            let devices = line.lines().filter_map(|line| line.split(' ').next()).filter(|device| device.starts_with("7:"));
            devices
                .filter(|device| !Path::new("/sys/dev/block").join(device).join("loop/backing_file").exists())
                .for_each(|one| pace.take_off(one));
        }
        pace
    }

    /// Bounds the device of a workspace that is an image of its own. Whether the kernel took it.
    pub(super) fn bound(&mut self, device: &str, limits: &SandboxLimits) -> bool {
        if !device.starts_with("7:") {
            return false;
        }
        let bdi = Path::new("/sys/class/bdi").join(device);
        // Kernels before 6.2 have no such files.
        let _ = fs::write(bdi.join("strict_limit"), "1").and_then(|()| fs::write(bdi.join("max_bytes"), UNWRITTEN_BYTES_MAX.to_string()));
        self.bound.insert(device.to_owned());
        self.write(device, limits.disk_bytes_per_second, limits.disk_operations_per_second).is_ok()
    }

    /// Gives a device back as it was.
    pub(super) fn free(&mut self, device: &str) {
        if self.bound.remove(device) {
            self.take_off(device);
        }
    }

    fn take_off(&self, device: &str) {
        let bdi = Path::new("/sys/class/bdi").join(device);
        let _ = fs::write(bdi.join("max_ratio"), "100").and_then(|()| fs::write(bdi.join("strict_limit"), "0"));
        let _ = self.write(device, 0, 0);
    }

    fn write(&self, device: &str, bytes: u64, operations: u64) -> io::Result<()> {
        let root = self.root.as_ref().ok_or(io::ErrorKind::NotFound)?;
        for way in ["read", "write"] {
            fs::write(root.join(format!("blkio.throttle.{way}_bps_device")), format!("{device} {bytes}"))?;
            fs::write(root.join(format!("blkio.throttle.{way}_iops_device")), format!("{device} {operations}"))?;
        }
        Ok(())
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        for device in std::mem::take(&mut self.bound) {
            self.take_off(&device);
        }
    }
}

/// The disk that a folder lies on, as `major:minor`; the whole one, where it is a part. None for file systems that are no disk's own.
pub(super) fn device(folder: &Path) -> Option<String> {
    let number = fs::symlink_metadata(folder).ok()?.dev();
    if major(number) == LOOP {
        return Some(format!("{LOOP}:{}", minor(number)));
    }
    let place = fs::canonicalize(format!("/sys/dev/block/{}:{}", major(number), minor(number))).ok()?;
    let whole = if place.join("partition").exists() { place.parent()? } else { &place };
    Some(fs::read_to_string(whole.join("dev")).ok()?.trim().to_owned())
}
