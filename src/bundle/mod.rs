//! Bundles: what a tenant uploads to have run for it. An archive is untrusted from its first byte to its last; what comes out of here is a
//! directory of plain files below one place, and a manifest whose every field is known.
//!
//! - [`name`]: what an entry may be called, pure;
//! - `staging`: the directory that entries are written into, one file at a time, never through a link;
//! - `zip`, `tar`: the two containers, read entry by entry. Neither library's own unpacking is used: it would follow rules of its own;
//! - [`manifest`]: what `manifest.json` may say, ours or one of an `.mcpb`.
//!
//! It knows no tenant, no storage and no sandbox. A refusal names the entry and the rule that it broke.

pub mod manifest;
mod name;
mod staging;
mod tar;
mod zip;

use crate::{
    config::Limits,
    error::{Error, FieldError, Result},
};
use std::path::Path;

/// The most levels of folders of an entry.
const DEPTH_MAX: usize = 16;
/// The most bytes of one part of an entry's name.
const NAME_BYTES_MAX: usize = 255;
/// An archive may grow by this factor when it is unpacked, and by [`GROWTH_FREE_BYTES`] in any case: a few kilobytes of zeros are no bomb.
const GROWTH_MAX: u64 = 100;
/// See [`GROWTH_MAX`].
const GROWTH_FREE_BYTES: u64 = 1024 * 1024;

/// Bounds of what one archive may become.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Bytes of the archive.
    pub archive_bytes: usize,
    /// Bytes of all files together.
    pub unpacked_bytes: u64,
    /// Bytes of one file.
    pub file_bytes: u64,
    /// Files and folders.
    pub entries: usize,
}

impl Bounds {
    /// As the limits say.
    pub fn of(limits: &Limits) -> Self {
        Self {
            archive_bytes: limits.bundle_bytes_max,
            unpacked_bytes: limits.bundle_unpacked_bytes_max as u64,
            file_bytes: limits.bundle_file_bytes_max as u64,
            entries: limits.bundle_entries_max,
        }
    }

    /// The most bytes that an archive of this size may unpack to.
    fn unpacked_of(self, archive: &[u8]) -> u64 {
        let grown = (archive.len() as u64).saturating_mul(GROWTH_MAX).saturating_add(GROWTH_FREE_BYTES);
        self.unpacked_bytes.min(grown)
    }
}

/// An entry that was refused, and the rule that it broke.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Refused {
    entry: String,
    rule: String,
}

/// What reading an archive ends with.
enum Trouble {
    /// The archive is not acceptable.
    Refused(Refused),
    /// The machine failed.
    Failed(std::io::Error),
}

type Unpacked<T> = std::result::Result<T, Trouble>;

/// Refuses an entry; an empty name stands for the archive itself.
fn refuse<T>(entry: impl Into<String>, rule: impl Into<String>) -> Unpacked<T> {
    Err(Trouble::Refused(Refused { entry: entry.into(), rule: rule.into() }))
}

impl From<Trouble> for Error {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Refused(Refused { entry, rule }) => Self::BundleRefused { errors: vec![FieldError { pointer: entry, message: rule }] },
            Trouble::Failed(error) if error.kind() == std::io::ErrorKind::StorageFull => Self::DiskFull,
            Trouble::Failed(error) => Self::internal(format_args!("a bundle could not be unpacked: {error}")),
        }
    }
}

/// Unpacks an archive into a directory that is not there yet; all of it or nothing. Blocks.
///
/// Fails with [`Error::BundleRefused`] naming the entry and the rule; then nothing is left behind.
pub fn unpack(archive: &[u8], target: &Path, bounds: Bounds) -> Result<()> {
    if archive.len() > bounds.archive_bytes {
        return Err(Error::BodyTooLarge { limit_bytes: bounds.archive_bytes });
    }
    let mut staging = staging::Staging::begin(target, bounds, bounds.unpacked_of(archive)).map_err(Trouble::Failed)?;
    match archive {
        [b'P', b'K', 3, 4, ..] => zip::unpack(archive, &mut staging)?,
        [0x1f, 0x8b, ..] => tar::unpack(archive, &mut staging)?,
        _ => refuse("", "The body is neither a zip nor a gzipped tar archive.")?,
    }
    staging.finish(target).map_err(Trouble::Failed)?;
    Ok(())
}

#[cfg(test)]
mod tests;
