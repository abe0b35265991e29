//! Hostile archives, made byte by byte: no library would write them. Each must be refused with its rule named, leave nothing behind, and touch
//! nothing beside its own directory.

use super::*;
use flate2::{Compression, write::DeflateEncoder, write::GzEncoder};
use std::{fs, io::Write, os::unix::fs::PermissionsExt};

const BOUNDS: Bounds = Bounds { archive_bytes: 1 << 20, unpacked_bytes: 8 << 20, file_bytes: 4 << 20, entries: 50 };

/// One entry of a zip, as its two headers say it.
#[derive(Clone)]
struct Entry {
    name: Vec<u8>,
    local_name: Vec<u8>,
    data: Vec<u8>,
    deflated: bool,
    size: u32,
    crc: u32,
    mode: u32,
    flags: u16,
    /// The entry whose local header this one points to, instead of its own.
    at: Option<usize>,
}

fn entry(name: &str, content: &[u8]) -> Entry {
    Entry {
        name: name.into(),
        local_name: name.into(),
        data: content.to_vec(),
        deflated: false,
        size: u32::try_from(content.len()).unwrap(),
        crc: crc(content),
        mode: if name.ends_with('/') { 0o040_755 } else { 0o100_644 },
        flags: 0x800,
        at: None,
    }
}

fn deflated(name: &str, content: &[u8]) -> Entry {
    let mut deflate = DeflateEncoder::new(Vec::new(), Compression::best());
    deflate.write_all(content).unwrap();
    Entry { data: deflate.finish().unwrap(), deflated: true, ..entry(name, content) }
}

/// CRC-32 as zip has it.
fn crc(content: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(content);
    crc.sum()
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap()
}

fn zip(entries: &[Entry]) -> Vec<u8> {
    let (mut out, mut starts, mut directory) = (Vec::new(), Vec::new(), Vec::new());
    for entry in entries {
        starts.push(u32::try_from(out.len()).unwrap());
        if entry.at.is_none() {
            out.extend(b"PK\x03\x04\x14\0");
            out.extend(header(entry));
            out.extend(u16::try_from(entry.local_name.len()).unwrap().to_le_bytes());
            out.extend([0, 0]);
            out.extend(&entry.local_name);
            out.extend(&entry.data);
        }
    }
    for (n, entry) in entries.iter().enumerate() {
        directory.extend(b"PK\x01\x02\x14\x03\x14\0");
        directory.extend(header(entry));
        directory.extend(u16::try_from(entry.name.len()).unwrap().to_le_bytes());
        directory.extend([0; 8]);
        directory.extend((entry.mode << 16).to_le_bytes());
        directory.extend(starts[entry.at.unwrap_or(n)].to_le_bytes());
        directory.extend(&entry.name);
    }
    let (count, directory_length, at) = (u16::try_from(entries.len()).unwrap(), length(&directory), length(&out));
    out.extend(directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend(count.to_le_bytes());
    out.extend(count.to_le_bytes());
    out.extend(directory_length.to_le_bytes());
    out.extend(at.to_le_bytes());
    out.extend([0, 0]);
    out
}

/// What both headers say: flags, method, time, checksum, sizes.
fn header(entry: &Entry) -> Vec<u8> {
    let mut out = entry.flags.to_le_bytes().to_vec();
    out.extend(if entry.deflated { 8_u16 } else { 0 }.to_le_bytes());
    out.extend([0, 0, 0x21, 0x5a]);
    out.extend(entry.crc.to_le_bytes());
    out.extend(length(&entry.data).to_le_bytes());
    out.extend(entry.size.to_le_bytes());
    out
}

/// One entry of a tar: its header, changed by hand, and its content.
fn tar_entry(name: &[u8], kind: u8, mode: u32, content: &[u8], change: impl Fn(&mut [u8; 512])) -> Vec<u8> {
    let mut header = [0_u8; 512];
    header[..name.len()].copy_from_slice(name);
    header[100..107].copy_from_slice(format!("{mode:07o}").as_bytes());
    header[108..115].copy_from_slice(b"0000000");
    header[116..123].copy_from_slice(b"0000000");
    header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    header[136..147].copy_from_slice(b"00000000000");
    header[156] = kind;
    header[257..265].copy_from_slice(b"ustar\x0000");
    change(&mut header);
    header[148..156].copy_from_slice(b"        ");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let mut out = header.to_vec();
    out.extend(content);
    out.resize(out.len().div_ceil(512) * 512, 0);
    out
}

fn plain(name: &str, kind: u8, mode: u32, content: &[u8]) -> Vec<u8> {
    tar_entry(name.as_bytes(), kind, mode, content, |_| {})
}

fn targz(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut gz = GzEncoder::new(Vec::new(), Compression::best());
    entries.iter().for_each(|entry| gz.write_all(entry).unwrap());
    gz.write_all(&[0; 1024]).unwrap();
    gz.finish().unwrap()
}

/// The rule that an archive breaks, and the entry it is said of. Nothing may be left of it.
fn refused(archive: &[u8]) -> (String, String) {
    let place = tempfile::tempdir().unwrap();
    let inside = place.path().join("bundles");
    let told = match unpack(archive, &inside.join("target"), BOUNDS) {
        Err(Error::BundleRefused { errors }) => (errors[0].pointer.clone(), errors[0].message.clone()),
        other => panic!("not refused: {other:?}"),
    };
    assert_eq!(fs::read_dir(&inside).unwrap().count(), 0, "something was left of it: {told:?}");
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1, "something lies beside it: {told:?}");
    told
}

fn refused_for(archive: &[u8], rule: &str) {
    let (entry, message) = refused(archive);
    assert!(message.contains(rule), "{entry}: {message:?} does not say {rule:?}");
}

#[test]
fn a_plain_archive_of_each_kind_becomes_plain_files() {
    let script = b"#!/bin/sh\n";
    let zipped = zip(&[
        entry("pkg/", b""),
        deflated("pkg/tools.py", &b"x = 1\n".repeat(200)),
        Entry { mode: 0o100_755, ..entry("bin/run", script) },
        entry("leer.txt", b""),
    ]);
    let tarred = targz(&[
        plain("./", b'5', 0o755, b""),
        plain("./pkg/tools.py", b'0', 0o644, &b"x = 1\n".repeat(200)),
        plain("x", b'x', 0o644, b"27 mtime=1700000000.123456\n"),
        plain("bin/run", b'0', 0o700, script),
        plain("leer.txt", b'0', 0o600, b""),
    ]);
    for archive in [zipped, tarred] {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("bundle");
        unpack(&archive, &target, BOUNDS).unwrap();
        assert_eq!(fs::read(target.join("pkg/tools.py")).unwrap().len(), 1_200);
        assert_eq!(fs::read(target.join("bin/run")).unwrap(), script);
        for (name, mode) in [("pkg", 0o755), ("pkg/tools.py", 0o644), ("bin/run", 0o755), ("leer.txt", 0o644)] {
            assert_eq!(fs::metadata(target.join(name)).unwrap().permissions().mode() & 0o7777, mode, "{name}");
        }
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    }
}

#[test]
fn names_that_lead_elsewhere_are_refused_in_both_containers() {
    for name in ["../x", "a/../../x", "/etc/passwd", "a\\..\\x", "C:/x", "a//b", "./../x"] {
        let (entry_named, _) = refused(&zip(&[entry("ok.txt", b"1"), entry(name, b"evil")]));
        assert_eq!(entry_named, name);
        refused(&targz(&[plain("ok.txt", b'0', 0o644, b"1"), plain(name, b'0', 0o644, b"evil")]));
    }
    refused_for(&zip(&[Entry { name: vec![b'a', 0xff], local_name: vec![b'a', 0xff], flags: 0, ..entry("x", b"1") }]), "UTF-8");
    refused_for(&zip(&[entry("e\u{301}.txt", b"1")]), "NFC");
    refused_for(&zip(&[entry(&"d/".repeat(17), b"")]), "deeper");
}

#[test]
fn two_entries_for_one_name_are_refused() {
    refused(&zip(&[entry("a.txt", b"1"), entry("a.txt", b"2")]));
    refused_for(&zip(&[entry("a.txt", b"1"), entry("A.TXT", b"2")]), "taken by \"a.txt\"");
    refused_for(&zip(&[entry("a", b"1"), entry("a/b", b"2")]), "taken by \"a\"");
    refused_for(&zip(&[entry("Lib/a", b"1"), entry("lib/b", b"2")]), "taken by \"Lib\"");
    refused_for(&targz(&[plain("a", b'0', 0o644, b"1"), plain("a", b'0', 0o644, b"2")]), "taken by");
    refused_for(&targz(&[plain("d/", b'5', 0o755, b""), plain("d/", b'5', 0o755, b"")]), "taken by");
}

#[test]
fn a_link_is_refused_and_so_never_written_through() {
    let link = Entry { mode: 0o120_777, ..entry("link", b"/etc") };
    refused_for(&zip(&[link, entry("link/passwd", b"evil")]), "no links");
    let symlink = tar_entry(b"link", b'2', 0o777, b"", |header| header[157..161].copy_from_slice(b"/etc"));
    // CVE-2026-33056: a link, then a folder of its name whose mode would be set through it.
    refused_for(&targz(&[symlink, plain("link/", b'5', 0o777, b"")]), "no links");
    let hardlink = tar_entry(b"passwd", b'1', 0o644, b"", |header| header[157..168].copy_from_slice(b"/etc/passwd"));
    refused_for(&targz(&[hardlink]), "no links");
}

#[test]
fn devices_pipes_and_sparse_files_are_refused() {
    for kind in [b'3', b'4', b'6', b'7', b'S', b'V', b'M', b'D'] {
        refused_for(&targz(&[plain("special", kind, 0o644, b"")]), "Only files and folders");
    }
    for kind in [0o020_000, 0o060_000, 0o010_000, 0o140_000] {
        refused_for(&zip(&[Entry { mode: kind | 0o644, ..entry("special", b"") }]), "Only files and folders");
    }
}

#[test]
fn a_mode_with_setuid_is_refused() {
    for bit in [0o4_755, 0o2_755, 0o1_755] {
        refused_for(&zip(&[Entry { mode: 0o100_000 | bit, ..entry("su", b"x") }]), "setuid");
        refused_for(&targz(&[plain("su", b'0', bit, b"x")]), "setuid");
    }
}

#[test]
fn a_bomb_is_stopped_at_its_bound_whatever_its_headers_say() {
    let zeros = vec![0; 5 << 20];
    refused_for(&zip(&[deflated("bomb", &zeros)]), "longer than");
    // A header that makes it small does not make it small.
    refused(&zip(&[Entry { size: 10, ..deflated("bomb", &zeros) }]));
    let third = vec![0; 3 << 20];
    refused_for(&zip(&[deflated("a", &third), deflated("b", &third), deflated("c", &third)]), "bomb");
    refused_for(&targz(&[plain("bomb", b'0', 0o644, &zeros)]), "longer than");
    // Padding behind the last entry counts too.
    let mut gz = GzEncoder::new(Vec::new(), Compression::best());
    gz.write_all(&vec![0; 64 << 20]).unwrap();
    refused_for(&gz.finish().unwrap(), "more than a bundle may be");
    // A small archive may not grow a hundredfold.
    let small = zip(&[deflated("a", &third[..2 << 20])]);
    assert!(small.len() * 100 < (1 << 20));
    refused_for(&small, "bomb");
}

#[test]
fn too_many_entries_are_refused_before_room_is_made_for_them() {
    let many: Vec<Entry> = (0..60).map(|n| entry(&format!("{n}"), b"")).collect();
    refused_for(&zip(&many), "more than 50 entries");
    let many: Vec<_> = (0..60).map(|n| plain(&format!("{n}"), b'0', 0o644, b"")).collect();
    refused_for(&targz(&many), "more than 50 entries");
    // Folders that stand in names alone count as well.
    let deep: Vec<Entry> = (0..10).map(|n| entry(&format!("{n}/a/b/c/d/e/f"), b"")).collect();
    refused_for(&zip(&deep), "more than 50 files and folders");
}

#[test]
fn a_directory_that_does_not_say_what_the_entries_say_is_refused() {
    // Another name before the data than in the directory.
    refused(&zip(&[Entry { local_name: b"b.txt".into(), ..entry("a.txt", b"1") }]));
    // Two entries over the same data.
    refused(&zip(&[entry("a", b"12345"), Entry { at: Some(0), ..entry("a", b"12345") }]));
    refused(&zip(&[entry("a", b"12345"), Entry { at: Some(0), name: b"b".into(), ..entry("a", b"12345") }]));
    // A wrong length, a wrong checksum.
    refused(&zip(&[Entry { size: 3, ..entry("a", b"12345") }]));
    refused(&zip(&[Entry { crc: 7, ..entry("a", b"12345") }]));
    // Fewer or more entries than there are.
    let mut archive = zip(&[entry("a", b"1"), entry("b", b"2")]);
    let end = archive.len() - 22;
    archive[end + 8] = 1;
    archive[end + 10] = 1;
    refused(&archive);
    archive[end + 8] = 3;
    archive[end + 10] = 3;
    refused(&archive);
    // An entry in no directory.
    let (mut first, second) = (zip(&[entry("hidden", b"1")]), zip(&[entry("a", b"1")]));
    first.truncate(first.len() - 22);
    first.extend(second);
    refused(&first);
    // Other data in front or behind.
    let mut archive = zip(&[entry("a", b"1")]);
    archive.extend(b"tail");
    refused(&archive);
    // The size of a zip64 in a 32-bit field.
    let mut archive = zip(&[entry("a", b"1")]);
    let end = archive.len() - 22;
    archive[end + 8..end + 12].fill(0xff);
    refused(&archive);
}

#[test]
fn an_encrypted_entry_is_refused() {
    refused(&zip(&[Entry { flags: 0x801, ..entry("a", b"0123456789abcdef") }]));
}

#[test]
fn extensions_of_a_tar_that_could_rename_or_resize_are_refused() {
    for record in ["path=../../evil", "size=999999", "linkpath=/etc", "GNU.sparse.size=1", "SUN.devmajor=1", "SCHILY.realsize=9"] {
        let text = |length: usize| format!("{length} {record}\n");
        let length = (1..100).find(|length| text(*length).len() == *length).unwrap();
        for kind in [b'x', b'g'] {
            let pax = plain("pax", kind, 0o644, text(length).as_bytes());
            refused_for(&targz(&[pax, plain("a", b'0', 0o644, b"1")]), "extended header");
        }
    }
    refused_for(&targz(&[plain("././@LongLink", b'L', 0o644, b"../../evil\0"), plain("a", b'0', 0o644, b"1")]), "too long for a plain tar");
    refused_for(&targz(&[plain("pax", b'x', 0o644, b"not a record"), plain("a", b'0', 0o644, b"1")]), "extended header");
}

#[test]
fn a_tar_that_is_cut_off_or_goes_on_behind_its_end_is_refused() {
    let mut gz = GzEncoder::new(Vec::new(), Compression::best());
    gz.write_all(&plain("a", b'0', 0o644, &[7; 2_000])[..1_500]).unwrap();
    refused(&gz.finish().unwrap());
    let mut cut = targz(&[plain("a", b'0', 0o644, &[7; 2_000])]);
    cut.truncate(cut.len() - 12);
    refused(&cut);
    let mut more = targz(&[plain("a", b'0', 0o644, b"1")]);
    more.extend(targz(&[plain("b", b'0', 0o644, b"2")]));
    refused_for(&more, "behind the compressed archive");
    let mut gz = GzEncoder::new(Vec::new(), Compression::best());
    for part in [plain("a", b'0', 0o644, b"1"), vec![0; 1024], plain("hidden", b'0', 0o644, b"2"), vec![0; 1024]] {
        gz.write_all(&part).unwrap();
    }
    refused_for(&gz.finish().unwrap(), "behind the archive's last entry");
    let wrong_sum = {
        let mut entry = plain("a", b'0', 0o644, b"1");
        entry[0] = b'b';
        entry
    };
    refused(&targz(&[wrong_sum]));
}

#[test]
fn what_is_no_archive_is_refused_and_a_large_one_before_it_is_read() {
    refused_for(b"", "neither a zip nor");
    refused_for(b"GIF89a", "neither a zip nor");
    refused(b"PK\x03\x04");
    refused(b"\x1f\x8b");
    let place = tempfile::tempdir().unwrap();
    let large = vec![0; BOUNDS.archive_bytes + 1];
    assert_eq!(unpack(&large, &place.path().join("x"), BOUNDS), Err(Error::BodyTooLarge { limit_bytes: BOUNDS.archive_bytes }));
}

#[test]
fn no_prefix_and_no_flipped_byte_of_an_archive_panics_or_leaves_anything() {
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("bundle");
    let whole = [
        zip(&[entry("a/", b""), deflated("a/b.py", &b"text ".repeat(40)), entry("c", b"1")]),
        targz(&[plain("a/", b'5', 0o755, b""), plain("a/b.py", b'0', 0o644, &b"text ".repeat(40))]),
    ];
    for archive in whole {
        for at in 0..archive.len() {
            for changed in [archive[..at].to_vec(), [&archive[..at], &[archive[at] ^ 0x55], &archive[at + 1..]].concat()] {
                if unpack(&changed, &target, BOUNDS).is_ok() {
                    fs::remove_dir_all(&target).unwrap();
                }
                assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
            }
        }
    }
}
