//! Workspaces on disk: `sandboxes/ID/` in the data directory with the sandbox's user id, and its files, either in an ext4 image of the size that
//! they may have or, where we may not mount one, in a plain folder whose size a watchdog looks at.
//!
//! No path below a workspace is opened here: what lies there is the tenant's, and may be a trap.

use crate::sandbox::{Result, SandboxError, SandboxId};
use rustix::{
    fs::{Gid, Mode, Uid},
    mount::{UnmountFlags, unmount},
    process::getuid,
};
use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::{self, File},
    io,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// ext4 is not worth its own bookkeeping below this.
const IMAGE_BYTES_MIN: u64 = 8 << 20;
/// Files and folders of a workspace.
const INODES_MAX: u64 = 100_000;
/// The beginning of the name of what is being deleted.
const GONE: &str = ".gone-";

pub(super) struct Disk {
    home: PathBuf,
    /// The first of the user ids that sandboxes get; none where this process may not give any.
    uids: Option<u32>,
    /// Images can be made and mounted here, as far as is known.
    images: bool,
    serial: u64,
}

/// Who is to see a workspace.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// The spawner and its sandboxes.
    Here,
    /// Every process of the host that may: a container engine mounts it.
    ByTheHost,
}

/// A sandbox's place.
pub(super) struct Room {
    pub(super) workspace: PathBuf,
    /// On the host.
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) own_uid: bool,
    /// The kernel bounds it.
    pub(super) hard: bool,
}

impl Disk {
    pub(super) fn new(data: &Path, uid_base: u32) -> Self {
        let root = getuid().is_root();
        Self { home: data.join("sandboxes"), uids: root.then_some(uid_base), images: root, serial: 0 }
    }

    /// Makes the place, or finds it.
    pub(super) fn provision(&mut self, id: &SandboxId, bytes: u64, seen: Seen) -> Result<Room> {
        let folder = self.home.join(id.as_str());
        self.make(&folder, bytes, seen).map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => SandboxError::DiskFull,
            _ => SandboxError::Internal(format!("{}: {error}", folder.display())),
        })
    }

    fn make(&mut self, folder: &Path, bytes: u64, seen: Seen) -> io::Result<Room> {
        fs::create_dir_all(folder)?;
        let (uid, gid) = match self.uids {
            None => (getuid().as_raw(), rustix::process::getgid().as_raw()),
            Some(first) => {
                let uid = self.uid_of(folder, first)?;
                (uid, uid)
            }
        };
        let (workspace, image) = (folder.join("workspace"), folder.join("image"));
        let fresh = !workspace.exists();
        if fresh {
            fs::create_dir(&workspace)?;
        }
        let mut hard = false;
        if image.exists() && seen == Seen::ByTheHost {
            return Err(io::Error::other(
                "this workspace lies in an image that no container engine sees: a snapshot takes it into another sandbox",
            ));
        } else if image.exists() {
            mount_image(&image, &workspace)?;
            hard = true;
        } else if fresh && self.images && seen == Seen::Here && bytes >= IMAGE_BYTES_MIN {
            match make_image(&image, &workspace, bytes, uid) {
                Ok(()) => hard = true,
                Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull) => return Err(error),
                // This machine cannot: mkfs.ext4 or loop devices are missing. It is not asked again.
                Err(_) => self.images = false,
            }
        }
        if !hard {
            fs::set_permissions(&workspace, fs::Permissions::from_mode(0o700))?;
            if self.uids.is_some() {
                chown(&workspace, Some(uid), Some(gid))?;
            }
        }
        Ok(Room { workspace, uid, gid, own_uid: self.uids.is_some(), hard })
    }

    /// The user id of a sandbox, which no other has while anything of it is on this disk.
    fn uid_of(&self, folder: &Path, first: u32) -> io::Result<u32> {
        if let Some(uid) = written_uid(folder) {
            return Ok(uid);
        }
        let taken: BTreeSet<u32> = fs::read_dir(&self.home)?.flatten().filter_map(|entry| written_uid(&entry.path())).collect();
        let uid = (first..u32::MAX - 1).find(|uid| !taken.contains(uid)).ok_or_else(|| io::Error::other("no user id is free"))?;
        fs::write(folder.join("uid.new"), uid.to_string())?;
        fs::rename(folder.join("uid.new"), folder.join("uid"))?;
        Ok(uid)
    }

    /// Where a sandbox's files are, if it has any.
    pub(super) fn workspace(&self, id: &SandboxId) -> PathBuf {
        self.home.join(id.as_str()).join("workspace")
    }

    /// Takes a place out of sight at once, and away in a process of its own. Nothing of the sandbox may run any more.
    pub(super) fn destroy(&mut self, id: &SandboxId) -> Result<Option<Child>> {
        let folder = self.home.join(id.as_str());
        if !folder.exists() {
            return Ok(None);
        }
        let _ = unmount(self.workspace(id), UnmountFlags::DETACH);
        self.serial += 1;
        let gone = self.home.join(format!("{GONE}{}-{}-{id}", std::process::id(), self.serial));
        let trouble = |error: io::Error| SandboxError::Internal(format!("{} could not be removed: {error}", folder.display()));
        fs::rename(&folder, &gone).map_err(trouble)?;
        sweeper(&gone).map(Some).map_err(trouble)
    }

    /// Who has a place, and the rest of what was being deleted when an earlier life ended.
    pub(super) fn all(&self) -> (Vec<SandboxId>, Vec<PathBuf>) {
        let (mut ids, mut gone) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(&self.home).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if name.starts_with(GONE) {
                gone.push(entry.path());
            } else if let Some(id) = SandboxId::new(name) {
                ids.push(id);
            }
        }
        (ids, gone)
    }
}

fn written_uid(folder: &Path) -> Option<u32> {
    fs::read_to_string(folder.join("uid")).ok()?.trim().parse().ok()
}

fn make_image(image: &Path, workspace: &Path, bytes: u64, uid: u32) -> io::Result<()> {
    let new = image.with_extension("new");
    File::create(&new)?.set_len(bytes)?;
    let owner = format!("root_owner={uid}:{uid},lazy_itable_init=1,nodiscard");
    let inodes = INODES_MAX.min(bytes / 4096).to_string();
    let made = run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0", "-I", "256", "-N", &inodes, "-E", &owner]).arg(&new));
    let mounted = made.and_then(|()| fs::rename(&new, image)).and_then(|()| mount_image(image, workspace));
    if mounted.is_err() {
        drop(fs::remove_file(&new));
        drop(fs::remove_file(image));
    } else {
        // It belongs to root, and would be the first thing that a tool finds.
        drop(fs::remove_dir(workspace.join("lost+found")));
    }
    mounted
}

/// Mounts it where only this process and its sandboxes see it.
fn mount_image(image: &Path, workspace: &Path) -> io::Result<()> {
    let mounted = |path: &Path| fs::symlink_metadata(path).map(|facts| facts.dev());
    if mounted(workspace)? != mounted(image)? {
        return Ok(());
    }
    run(Command::new("mount").args(["-t", "ext4", "-o", "loop,nosuid,nodev,noatime"]).arg(image).arg(workspace))
}

/// Runs one of the system's programs, which see nothing of ours in their environment.
fn run(command: &mut Command) -> io::Result<()> {
    let output = command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// Deletes in a process of its own: a workspace may have a hundred thousand files.
pub(super) fn sweeper(folder: &Path) -> io::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command.args([super::COMMAND, "sweeper"]).arg(folder).env_clear();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
}

/// The part of the sweeper. What it leaves, the next start finds.
pub(super) fn sweep_away(args: Vec<OsString>) {
    for folder in args.iter().map(Path::new) {
        if fs::remove_dir_all(folder).is_err() {
            // Folders that their owner closed to himself.
            open_folders(folder);
            drop(fs::remove_dir_all(folder));
        }
    }
}

fn open_folders(folder: &Path) {
    let mut waiting = vec![folder.to_owned()];
    while let Some(folder) = waiting.pop() {
        drop(fs::set_permissions(&folder, fs::Permissions::from_mode(Mode::RWXU.as_raw_mode())));
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        waiting.extend(entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()));
    }
}

impl Room {
    /// The lines for `uid_map` and `gid_map`: one user, who is 1000 inside.
    pub(super) fn maps(&self) -> (String, String) {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        (format!("1000 {} 1", uid.as_raw()), format!("1000 {} 1", gid.as_raw()))
    }
}
