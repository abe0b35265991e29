//! What a sandbox sees of the world: a root of its own in memory, the system's programs, its bundle and its workspace, and a `/proc` of its own
//! processes and nothing else. Built by init from inside the new namespaces.

use super::runner;
use rustix::{
    fs::{Mode, OFlags, StatVfsMountFlags, open, statvfs},
    mount::{
        MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, mount_change, mount_remount, unmount,
    },
    process::{chdir, pivot_root},
};
use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::symlink,
    },
    path::{Path, PathBuf},
};

/// Device nodes that every program may expect, and that give nothing away.
const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];
/// Of `/etc`, what programs need to find their libraries and to check certificates. The rest is written anew.
const ETC: [&str; 5] = ["alternatives", "ld.so.cache", "ssl/certs", "ca-certificates", "pki"];
const PASSWD: &str = "root:x:0:0:root:/:/bin/sh\nsandbox:x:1000:1000:sandbox:/workspace:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n";
const GROUP: &str = "root:x:0:\nsandbox:x:1000:\nnogroup:x:65534:\n";
const TMP_BYTES: u64 = 64 << 20;
const SHM_BYTES: u64 = 16 << 20;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
    /// A device node: `nodev` would take its use away.
    Device,
}

/// Something of the host that will be seen inside, held open since before init changed its user.
struct Source {
    at: String,
    fd: OwnedFd,
    folder: bool,
    access: Access,
}

/// All of it, and the links of a root whose `/bin` is `/usr/bin`.
pub(super) struct Sources {
    list: Vec<Source>,
    links: Vec<(String, PathBuf)>,
}

impl Sources {
    /// Opens everything. None of it is followed further than the path that the server chose.
    pub(super) fn open(rootfs: &Path, bundle: Option<&Path>, workspace: &Path) -> Result<Self, String> {
        let mut sources = Self { list: Vec::new(), links: Vec::new() };
        sources.add("usr", &rootfs.join("usr"), Access::Read)?;
        for name in ["bin", "sbin", "lib", "lib32", "lib64", "libx32"] {
            let path = rootfs.join(name);
            match fs::read_link(&path) {
                Ok(target) => sources.links.push((name.to_owned(), target)),
                Err(_) if path.is_dir() => sources.add(name, &path, Access::Read)?,
                Err(_) => {}
            }
        }
        for name in ETC.map(|name| format!("etc/{name}")) {
            let path = rootfs.join(&name);
            if path.exists() {
                sources.add(&name, &path, Access::Read)?;
            }
        }
        for name in DEVICES {
            sources.add(&format!("dev/{name}"), &Path::new("/dev").join(name), Access::Device)?;
        }
        if let Some(bundle) = bundle {
            sources.add("bundle", bundle, Access::Read)?;
        }
        sources.add("workspace", workspace, Access::Write)?;
        Ok(sources)
    }

    fn add(&mut self, at: &str, path: &Path, access: Access) -> Result<(), String> {
        let say = |error: io::Error| format!("{} cannot be shown in a sandbox: {error}", path.display());
        let fd = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(|error| say(error.into()))?;
        let folder = fs::metadata(path).map_err(say)?.is_dir();
        self.list.push(Source { at: at.to_owned(), fd, folder, access });
        Ok(())
    }

    /// Builds the root, moves into it, and leaves the host's behind.
    pub(super) fn become_root(self) -> Result<(), String> {
        let said = |what: &str, error: io::Error| format!("the sandbox's files could not be laid out ({what}: {error})");
        let base = ["/tmp", "/run", "/mnt", "/var"].into_iter().find(|path| Path::new(path).is_dir()).unwrap_or("/tmp");
        tmpfs(base, 4 << 20, 0o755).map_err(|error| said("a root in memory", error))?;
        chdir(base).map_err(|error| said("chdir", error.into()))?;
        for name in ["proc", "dev/shm", "tmp", "workspace", "bundle", "etc", &runner::HOME[1..], "usr"] {
            fs::create_dir_all(name).map_err(|error| said(name, error))?;
        }
        let texts = [
            ("etc/passwd", PASSWD),
            ("etc/group", GROUP),
            ("etc/hosts", "127.0.0.1 localhost\n"),
            ("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
            ("etc/resolv.conf", ""),
        ];
        for (name, text) in texts {
            fs::write(name, text).map_err(|error| said(name, error))?;
        }
        for (name, text) in runner::FILES {
            fs::write(Path::new(&runner::HOME[1..]).join(name), text).map_err(|error| said(name, error))?;
        }
        for (name, target) in &self.links {
            symlink(target, name).map_err(|error| said(name, error))?;
        }
        for (name, target) in
            [("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"), ("stderr", "/proc/self/fd/2")]
        {
            symlink(target, format!("dev/{name}")).map_err(|error| said(name, error))?;
        }
        for source in &self.list {
            bind(source).map_err(|error| said(&source.at, error))?;
        }
        // `subset=pid`: this namespace's processes, and none of the files that tell of the machine or change it.
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("proc", "proc", "proc", flags, Some(c"subset=pid"))
            .map_err(|error| said("/proc; a container that hides parts of its own forbids this", error.into()))?;
        tmpfs("tmp", TMP_BYTES, 0o1777).map_err(|error| said("tmp", error))?;
        tmpfs("dev/shm", SHM_BYTES, 0o1777).map_err(|error| said("dev/shm", error))?;
        pivot_root(".", ".").map_err(|error| said("pivot_root", error.into()))?;
        unmount(".", UnmountFlags::DETACH).map_err(|error| said("leaving the old root", error.into()))?;
        let closed = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
        mount_remount("/", closed, "").map_err(|error| said("closing the root", error.into()))?;
        chdir("/workspace").map_err(|error| said("workspace", error.into()))
    }
}

/// From now on what is mounted here is mounted nowhere else, and the other way round.
pub(super) fn part_from_host() -> Result<(), String> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|error| format!("the mounts could not be parted from the host's: {error}"))
}

/// Of the host, beside what is named: where programs, devices and groups are.
const NEEDED: [&str; 10] = ["/bin", "/dev", "/etc", "/lib", "/lib64", "/proc", "/sbin", "/sys", "/usr", "/"];

/// Unmounts, in this process's own namespace, what no sandbox will need. A copy of a mount keeps its disk busy for whoever unmounts it later, and
/// lives as long as the namespace does.
pub(super) fn let_go(kept: &[&Path]) {
    let program = std::env::current_exe().unwrap_or_default();
    let kept: Vec<&Path> = kept.iter().copied().chain(NEEDED.map(Path::new)).chain([program.as_path()]).collect();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for at in mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(unescaped) {
        // On the way to what is kept, or below it; everything is below the root, which keeps nothing.
        let needed = kept.iter().any(|kept| kept.starts_with(&at) || (*kept != Path::new("/") && at.starts_with(kept)));
        if !needed {
            // One that is gone with the one above it, or cannot go, is as it was.
            let _ = unmount(&at, UnmountFlags::DETACH);
        }
    }
}

/// The kernel writes blanks, tabs, line ends and backslashes of a path as three octal digits.
fn unescaped(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((byte, behind)) = rest.split_first() {
        let code = behind.get(..3).filter(|_| *byte == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(code) => {
                bytes.push(code);
                rest = &behind[3..];
            }
            None => {
                bytes.push(*byte);
                rest = behind;
            }
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}

fn tmpfs(at: &str, bytes: u64, mode: u32) -> io::Result<()> {
    let options = CString::new(format!("size={bytes},mode={mode:o}")).map_err(io::Error::other)?;
    Ok(mount("tmpfs", at, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(options.as_c_str()))?)
}

fn bind(source: &Source) -> io::Result<()> {
    let at = Path::new(&source.at);
    if let Some(folder) = at.parent() {
        fs::create_dir_all(folder)?;
    }
    if source.folder {
        fs::create_dir_all(at)?;
    } else {
        fs::write(at, "")?;
    }
    let from = format!("/proc/self/fd/{}", source.fd.as_raw_fd());
    if source.access == Access::Read {
        // What is mounted below may not be parted from it, says the kernel to a namespace with less rights than the host's.
        mount_bind_recursive(&from, at)?;
    } else {
        mount_bind(&from, at)?;
    }
    if source.access == Access::Device {
        return Ok(());
    }
    let mut flags = MountFlags::BIND | MountFlags::NOSUID | MountFlags::NODEV | kept(at)?;
    if source.access == Access::Read {
        flags |= MountFlags::RDONLY;
    }
    Ok(mount_remount(at, flags, "")?)
}

/// Flags that the host set and a namespace may not take away.
fn kept(at: &Path) -> io::Result<MountFlags> {
    let set = statvfs(at)?.f_flag;
    let mut flags = MountFlags::empty();
    for (is, flag) in [
        (StatVfsMountFlags::RDONLY, MountFlags::RDONLY),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ] {
        if set.contains(is) {
            flags |= flag;
        }
    }
    if !set.intersects(StatVfsMountFlags::NOATIME | StatVfsMountFlags::RELATIME) {
        flags |= MountFlags::STRICTATIME;
    }
    Ok(flags)
}
