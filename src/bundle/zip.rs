//! Zip archives. The central directory has to say what stands before each entry's data, all of it and nothing else: what two programs could read
//! two ways is refused. The only file that names the zip crate.

use super::{Unpacked, refuse, staging::Staging};
use std::io::{Cursor, Read};
use zip::{CompressionMethod, ZipArchive, read::ZipFile, result::ZipError};

/// The record that ends an archive, without a comment: its length, and where it says how many entries there are.
const END_BYTES: usize = 22;
const END_MARK: [u8; 4] = *b"PK\x05\x06";

pub(super) fn unpack(archive: &[u8], staging: &mut Staging) -> Unpacked<()> {
    let entries = match archive.len().checked_sub(END_BYTES).map(|at| &archive[at..]) {
        Some(end) if end.starts_with(&END_MARK) => u16::from_le_bytes([end[10], end[11]]),
        _ => return refuse("", "The archive does not end with its directory: it is cut off, or has a comment or other data behind it."),
    };
    // Before the library makes room for so many as it says.
    if usize::from(entries) > staging.entries_max() || entries == u16::MAX {
        return refuse("", format!("There are more than {} entries, or the archive is a zip64.", staging.entries_max()));
    }
    let mut zip = match ZipArchive::new(Cursor::new(archive)) {
        Ok(zip) => zip,
        Err(error) => return refuse("", format!("The archive cannot be read: {}.", told(&error))),
    };
    if zip.offset() != 0 || zip.len() != usize::from(entries) || zip.raw_zip64_extensible_data_sector().is_some() {
        return refuse("", "The directory does not list each entry once, or the archive begins with other data.");
    }
    if let Err(error) = zip.validate_header_consistency() {
        return refuse("", format!("Directory and entries differ: {}.", told(&error)));
    }
    for at in 0..zip.len() {
        let name = zip.name_for_index(at).and_then(Result::ok).unwrap_or_default().into_owned();
        match zip.by_index(at) {
            Ok(mut entry) => unpack_one(&mut entry, staging)?,
            Err(error) => return refuse(name, format!("The entry cannot be read: {}.", told(&error))),
        }
    }
    Ok(())
}

fn unpack_one<R: Read>(entry: &mut ZipFile<'_, R>, staging: &mut Staging) -> Unpacked<()> {
    let raw = entry.name_raw().to_vec();
    let shown = || String::from_utf8_lossy(&raw).into_owned();
    if entry.encrypted() {
        return refuse(shown(), "The entry is encrypted.");
    }
    if !matches!(entry.compression(), CompressionMethod::Stored | CompressionMethod::Deflated) {
        return refuse(shown(), "The entry is compressed by another method than deflate.");
    }
    // As it stands there: the library's own reading leaves setuid out. Archives that know no Unix have nothing here.
    let mode = entry.external_attributes() >> 16;
    let kind = mode & 0o170_000;
    if kind != 0 && kind != 0o100_000 && kind != 0o040_000 {
        return refuse(shown(), "Only files and folders are taken: no links, devices, pipes or sockets.");
    }
    if mode & 0o7_000 != 0 {
        return refuse(shown(), "The mode has a setuid, setgid or sticky bit.");
    }
    let (is_dir, size) = (raw.ends_with(b"/"), entry.size());
    if is_dir != (kind == 0o040_000) && kind != 0 {
        return refuse(shown(), "The name and the mode do not agree on whether this is a folder.");
    }
    if is_dir {
        if size != 0 {
            return refuse(shown(), "A folder has content.");
        }
        return staging.folder(&raw);
    }
    let written = staging.file(&raw, mode & 0o100 != 0, entry)?;
    if written != size {
        return refuse(shown(), format!("The entry says that it has {size} bytes and has {written}."));
    }
    Ok(())
}

/// The library's words without its prefix and full stop.
fn told(error: &ZipError) -> String {
    error.to_string().trim_end_matches('.').to_owned()
}
