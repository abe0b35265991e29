//! The directory that an archive is unpacked into. Entries come one by one; each is made anew (`O_EXCL`), beneath the directory
//! (`RESOLVE_BENEATH`) and through no link, and is counted while it is written, whatever its header says. Only what is whole gets the name under
//! which others look for it.

use super::{Bounds, Trouble, Unpacked, name, refuse};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fchmod, mkdirat, openat, openat2};
use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, ErrorKind, Read, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

/// How every entry is reached: never above the directory, over a link, or into another file system.
const RESOLVE: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_XDEV).union(ResolveFlags::NO_MAGICLINKS);

/// Bytes read at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// What stands under a folded name.
struct Made {
    /// As it was spelled when it was made.
    path: String,
    is_dir: bool,
    /// Whether the archive named it, and not only something below it.
    named: bool,
}

/// A directory on its way. Removed when dropped unfinished.
pub(super) struct Staging {
    path: PathBuf,
    root: OwnedFd,
    made: HashMap<String, Made>,
    bounds: Bounds,
    /// Bytes that may still be written.
    left_bytes: u64,
    entries: usize,
    done: bool,
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.done
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "what was unpacked of a refused bundle could not be removed");
        }
    }
}

impl Staging {
    /// Begins beside `target`.
    pub(super) fn begin(target: &Path, bounds: Bounds, unpacked_bytes: u64) -> io::Result<Self> {
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(".staging");
        let path = target.with_file_name(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        mkdirat(CWD, &path, Mode::from_raw_mode(0o755))?;
        let root = openat(CWD, &path, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        fchmod(&root, Mode::from_raw_mode(0o755))?;
        Ok(Self { path, root, made: HashMap::new(), bounds, left_bytes: unpacked_bytes, entries: 0, done: false })
    }

    /// The most entries.
    pub(super) fn entries_max(&self) -> usize {
        self.bounds.entries
    }

    /// How many bytes of files may still come.
    pub(super) fn left_bytes(&self) -> u64 {
        self.left_bytes
    }

    /// Makes a folder that the archive names.
    pub(super) fn folder(&mut self, name: &[u8]) -> Unpacked<()> {
        let (shown, parts) = self.enter(name)?;
        let path = parts.join("/");
        self.parents(&shown, &parts)?;
        match self.made.get_mut(&name::folded(&path)) {
            None => self.folder_make(&shown, &path, true),
            Some(made) if made.is_dir && !made.named && made.path == path => {
                made.named = true;
                Ok(())
            }
            Some(made) => refuse(shown, format!("The name is taken by {:?} before it.", made.path)),
        }
    }

    /// Writes a file, executable or not; answers how long it was.
    pub(super) fn file(&mut self, name: &[u8], executable: bool, content: &mut dyn Read) -> Unpacked<u64> {
        let (shown, parts) = self.enter(name)?;
        if name.ends_with(b"/") {
            return refuse(shown, "A file's name ends in a slash.");
        }
        let path = parts.join("/");
        self.parents(&shown, &parts)?;
        if let Some(made) = self.made.get(&name::folded(&path)) {
            return refuse(shown, format!("The name is taken by {:?} before it.", made.path));
        }
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat2(&self.root, path.as_str(), flags, Mode::from_raw_mode(0o600), RESOLVE).map_err(failed)?;
        self.made.insert(name::folded(&path), Made { path, is_dir: false, named: true });
        let mut file = File::from(file);
        let written = self.copy(&shown, content, &mut file)?;
        fchmod(&file, Mode::from_raw_mode(if executable { 0o755 } else { 0o644 })).map_err(failed)?;
        Ok(written)
    }

    fn copy(&mut self, shown: &str, content: &mut dyn Read, file: &mut File) -> Unpacked<u64> {
        let (mut chunk, mut written) = (vec![0; CHUNK_BYTES], 0_u64);
        loop {
            let read = match content.read(&mut chunk) {
                Ok(0) => return Ok(written),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                // The archive lies in memory, so that only its content can be at fault.
                Err(error) => return refuse(shown, format!("The entry cannot be read: {error}.")),
            };
            written += read as u64;
            if written > self.bounds.file_bytes {
                return refuse(shown, format!("The file is longer than {} bytes.", self.bounds.file_bytes));
            }
            self.left_bytes = match self.left_bytes.checked_sub(read as u64) {
                Some(left) => left,
                None => {
                    return refuse(
                        shown,
                        "All files together are longer than a bundle may be, or than a hundred times the archive: it looks like a bomb.",
                    );
                }
            };
            file.write_all(&chunk[..read])?;
        }
    }

    /// Counts an entry and checks its name.
    fn enter<'a>(&mut self, name: &'a [u8]) -> Unpacked<(String, Vec<&'a str>)> {
        let shown: String = String::from_utf8_lossy(name).chars().take(256).collect();
        self.entries += 1;
        if self.entries > self.bounds.entries {
            return refuse(shown, format!("There are more than {} entries.", self.bounds.entries));
        }
        match name::parts(name) {
            Ok(parts) => Ok((shown, parts)),
            Err(rule) => refuse(shown, rule),
        }
    }

    /// Makes the folders above an entry where they are not there yet.
    fn parents(&mut self, shown: &str, parts: &[&str]) -> Unpacked<()> {
        for depth in 1..parts.len() {
            let path = parts[..depth].join("/");
            match self.made.get(&name::folded(&path)) {
                None => self.folder_make(shown, &path, false)?,
                Some(made) if made.is_dir && made.path == path => {}
                Some(made) => return refuse(shown, format!("Its folder {path:?} is taken by {:?} before it.", made.path)),
            }
        }
        Ok(())
    }

    fn folder_make(&mut self, shown: &str, path: &str, named: bool) -> Unpacked<()> {
        if self.made.len() >= self.bounds.entries {
            return refuse(shown, format!("There are more than {} files and folders.", self.bounds.entries));
        }
        let (above, own) = path.rsplit_once('/').unwrap_or((".", path));
        let open = |path: &str, at: &OwnedFd| openat2(at, path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), RESOLVE);
        let above = open(above, &self.root).map_err(failed)?;
        mkdirat(&above, own, Mode::from_raw_mode(0o755)).map_err(failed)?;
        let folder = open(own, &above).map_err(failed)?;
        fchmod(&folder, Mode::from_raw_mode(0o755)).map_err(failed)?;
        self.made.insert(name::folded(path), Made { path: path.to_owned(), is_dir: true, named });
        Ok(())
    }

    /// Gives the whole its name.
    pub(super) fn finish(mut self, target: &Path) -> io::Result<()> {
        fs::rename(&self.path, target)?;
        self.done = true;
        Ok(())
    }
}

fn failed(error: rustix::io::Errno) -> Trouble {
    Trouble::Failed(error.into())
}
