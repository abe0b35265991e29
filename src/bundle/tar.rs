//! Gzipped tar archives, header by header: what a header says in its first 512 bytes is all that counts. Extensions that could change a name or a
//! length behind it are refused, and with them every quarrel about which of two readings is right. The only file that names the tar crate.

use super::{Trouble, Unpacked, refuse, staging::Staging};
use flate2::bufread::GzDecoder;
use std::io::{self, Read};
use tar::{Archive, EntryType, PaxExtensions};

/// What stands between files: headers and padding, for each entry at most this much.
const BETWEEN_BYTES: u64 = 4 * 512;
/// The zeros behind the last entry: `tar` fills up its last record.
const TAIL_BYTES_MAX: u64 = 1024 * 1024;
/// The longest extended header that is looked at.
const PAX_BYTES_MAX: u64 = 64 * 1024;
/// What an extended header may say: remarks on a file that leave its name, length and kind alone.
const PAX_REMARKS: [&str; 9] = ["mtime", "atime", "ctime", "uid", "gid", "uname", "gname", "comment", "charset"];

pub(super) fn unpack(archive: &[u8], staging: &mut Staging) -> Unpacked<()> {
    let bytes_max = staging.left_bytes() + staging.entries_max() as u64 * BETWEEN_BYTES + TAIL_BYTES_MAX;
    let mut tar = Archive::new(Bounded { inner: GzDecoder::new(archive), left: bytes_max });
    let entries = match tar.entries() {
        Ok(entries) => entries.raw(true),
        Err(error) => return refuse("", cannot(&error)),
    };
    for entry in entries {
        let mut entry = match entry {
            Ok(entry) => entry,
            Err(error) => return refuse("", cannot(&error)),
        };
        let mut name = entry.path_bytes().into_owned();
        // What `tar -C folder .` writes before each name.
        if name.starts_with(b"./") {
            name.drain(..2);
        }
        let shown = || String::from_utf8_lossy(&name).into_owned();
        let kind = entry.header().entry_type();
        let Ok(mode) = entry.header().mode() else { return refuse(shown(), "The mode cannot be read.") };
        if mode & 0o7_000 != 0 && matches!(kind, EntryType::Regular | EntryType::Directory) {
            return refuse(shown(), "The mode has a setuid, setgid or sticky bit.");
        }
        match kind {
            EntryType::Regular if name.ends_with(b"/") => return refuse(shown(), "A file's name ends in a slash."),
            EntryType::Regular => {
                let size = entry.size();
                let written = staging.file(&name, mode & 0o100 != 0, &mut entry)?;
                if written != size {
                    return refuse(shown(), format!("The entry says that it has {size} bytes and has {written}."));
                }
            }
            EntryType::Directory if entry.size() != 0 => return refuse(shown(), "A folder has content."),
            // The place itself.
            EntryType::Directory if name.is_empty() || name == b"." => {}
            EntryType::Directory => staging.folder(&name)?,
            EntryType::XHeader | EntryType::XGlobalHeader => remarks(&shown(), entry.size(), &mut entry)?,
            EntryType::GNULongName | EntryType::GNULongLink => {
                return refuse(shown(), "The name is too long for a plain tar header: pack with zip, or with `tar --format=ustar`.");
            }
            _ => return refuse(shown(), "Only files and folders are taken: no links, devices, pipes or sparse files."),
        }
    }
    tail(tar.into_inner())
}

/// Lets an extended header pass that only remarks on times and owners.
fn remarks(shown: &str, size: u64, entry: &mut dyn Read) -> Unpacked<()> {
    if size > PAX_BYTES_MAX {
        return refuse(shown, "An extended header is too long.");
    }
    let mut bytes = Vec::new();
    if let Err(error) = entry.read_to_end(&mut bytes) {
        return refuse(shown, cannot(&error));
    }
    for extension in PaxExtensions::new(&bytes) {
        let key = match &extension {
            Ok(extension) => extension.key().unwrap_or("an unreadable key"),
            Err(_) => return refuse(shown, "An extended header cannot be read."),
        };
        let vendor = ["LIBARCHIVE.", "SCHILY.xattr.", "SCHILY.fflags"].iter().any(|prefix| key.starts_with(prefix));
        if !vendor && !PAX_REMARKS.contains(&key) {
            return refuse(
                shown,
                format!(
                    "An extended header sets {key:?}, which could change what the entry is: pack with zip, or with `tar --format=ustar`."
                ),
            );
        }
    }
    Ok(())
}

/// Behind the last entry there are zeros, and behind the compressed part nothing.
fn tail(mut rest: Bounded<GzDecoder<&[u8]>>) -> Unpacked<()> {
    let mut chunk = [0; 8 * 1024];
    loop {
        match rest.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) if chunk[..read].iter().all(|byte| *byte == 0) => {}
            Ok(_) => return refuse("", "Something stands behind the archive's last entry."),
            Err(error) => return refuse("", cannot(&error)),
        }
    }
    if !rest.inner.into_inner().is_empty() {
        return refuse("", "Something stands behind the compressed archive.");
    }
    Ok(())
}

fn cannot(error: &io::Error) -> String {
    format!("The archive cannot be read: {}.", error.to_string().trim_end_matches('.'))
}

/// Reads at most so many bytes: what a bomb blows up between files counts as well.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(into)?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| io::Error::other("it unpacks to more than a bundle may be"))?;
        Ok(read)
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}
