//! How the logs of databases are written: what a commit adds goes to the file in one piece.
//!
//! SQLite writes each page of its log on its own, and a header of 24 bytes before each: some seventy writes a turn, which cost more than
//! the statements that led to them. This file system gathers what is written one behind the other and hands it on with the commit's last
//! page, before whatever else is done to the file. Nothing is told to be durable or shown to other connections earlier than it was: SQLite
//! syncs the log, and then publishes the commit in shared memory, after its last page was written. All other files, and all other calls,
//! are the platform's own.
#![allow(unsafe_code, reason = "SQLite takes a file system as a table of C functions, and calls them with pointers")]

use rusqlite::ffi;
use std::{
    cell::Cell,
    ffi::{c_char, c_int, c_void},
    ptr, slice,
    sync::{
        Once,
        atomic::{AtomicPtr, Ordering},
    },
};

/// What is gathered at most. A turn's commits are smaller.
const GATHERED_BYTES_MAX: usize = 64 * 1024;

/// The header that stands before each page in a log; its second number says how many pages the file has after a commit, and is 0 elsewhere
/// (<https://www.sqlite.org/fileformat2.html#walformat>).
const HEADER_BYTES: usize = 24;

thread_local! {
    /// Room for what the next commit on this thread gathers: one commit after the other, whatever its database, needs as much.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The file system underneath; set once, before ours is known to SQLite.
static BELOW: AtomicPtr<ffi::sqlite3_vfs> = AtomicPtr::new(ptr::null_mut());

/// An open log. It lies in memory of SQLite's, which begins with what SQLite knows of a file; the file underneath lies behind it.
#[repr(C)]
struct Log {
    file: ffi::sqlite3_file,
    /// What was not written yet, and where it belongs.
    gathered: Vec<u8>,
    at: i64,
    /// The last of it is the header of a commit's last page.
    commits: bool,
}

/// Where the file underneath begins. SQLite aligns files to eight bytes.
const BELOW_AT: usize = size_of::<Log>().next_multiple_of(8);

/// Has all connections that are opened from now on write their logs this way.
pub(super) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the default file system lives as long as the process. Ours is a copy of it that is never freed; the copied functions do
        // not care which of the two they are called for.
        unsafe {
            let below = ffi::sqlite3_vfs_find(ptr::null());
            if below.is_null() {
                return;
            }
            BELOW.store(below, Ordering::Release);
            let own = c_int::try_from(BELOW_AT).unwrap_or_default();
            let ours = ffi::sqlite3_vfs {
                szOsFile: (*below).szOsFile + own,
                pNext: ptr::null_mut(),
                zName: c"nimblesite".as_ptr(),
                xOpen: Some(open),
                ..*below
            };
            // Where SQLite refuses it, everything works as it did, a little slower.
            ffi::sqlite3_vfs_register(Box::leak(Box::new(ours)), 1);
        }
    });
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 1,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    // Of later versions, and for databases alone.
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};

/// Opens a log as a [`Log`], and any other file as the platform does.
unsafe extern "C" fn open(
    _ours: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    let system = BELOW.load(Ordering::Acquire);
    // SAFETY: SQLite gives `szOsFile` bytes for the file, which are enough for ours and the one behind it. It calls no method of a file whose
    // table of methods is null.
    unsafe {
        let Some(open) = (*system).xOpen else { return ffi::SQLITE_CANTOPEN };
        if flags & ffi::SQLITE_OPEN_WAL == 0 {
            return open(system, name, file, flags, out_flags);
        }
        let inner = below(file);
        (*inner).pMethods = ptr::null();
        (*file).pMethods = ptr::null();
        let code = open(system, name, inner, flags, out_flags);
        if code != ffi::SQLITE_OK {
            if let Some(close) = (*inner).pMethods.as_ref().and_then(|methods| methods.xClose) {
                close(inner);
            }
            return code;
        }
        ptr::write(
            file.cast::<Log>(),
            Log { file: ffi::sqlite3_file { pMethods: &raw const METHODS }, gathered: Vec::new(), at: 0, commits: false },
        );
        ffi::SQLITE_OK
    }
}

/// The file underneath.
unsafe fn below(file: *mut ffi::sqlite3_file) -> *mut ffi::sqlite3_file {
    // SAFETY: the caller's file is one of ours, or memory for one.
    unsafe { file.byte_add(BELOW_AT) }
}

/// Calls a method of the file underneath.
macro_rules! pass_on {
    ($file:expr, $method:ident $(, $argument:expr)*) => {{
        let inner = below($file);
        match (*(*inner).pMethods).$method {
            Some(method) => method(inner $(, $argument)*),
            None => ffi::SQLITE_IOERR,
        }
    }};
}

/// Writes what was gathered. Should that fail, it is forgotten: SQLite takes the commit for failed, and writes at the same place again.
unsafe fn write_out(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: as in `write`.
    unsafe {
        let log = file.cast::<Log>();
        (*log).commits = false;
        let (mut gathered, at) = (std::mem::take(&mut (*log).gathered), (*log).at);
        if gathered.is_empty() {
            return ffi::SQLITE_OK;
        }
        let Ok(length) = c_int::try_from(gathered.len()) else { return ffi::SQLITE_IOERR_WRITE };
        let code = pass_on!(file, xWrite, gathered.as_ptr().cast(), length, at);
        if gathered.capacity() <= GATHERED_BYTES_MAX {
            gathered.clear();
            // A thread that ends has no use for it.
            SPARE.try_with(|spare| spare.set(gathered)).ok();
        }
        code
    }
}

unsafe extern "C" fn write(file: *mut ffi::sqlite3_file, from: *const c_void, length: c_int, at: i64) -> c_int {
    let (Ok(length), Ok(here)) = (usize::try_from(length), usize::try_from(at)) else { return ffi::SQLITE_IOERR_WRITE };
    // SAFETY: SQLite calls methods with a file that `open` made, from one thread at a time, and with as many bytes as it says.
    unsafe {
        let log = file.cast::<Log>();
        let bytes = slice::from_raw_parts(from.cast::<u8>(), length);
        let (gathered, is_last) = ((*log).gathered.len(), (*log).commits);
        let follows = usize::try_from((*log).at).is_ok_and(|begin| begin + gathered == here);
        if gathered > 0 && (!follows || gathered + length > GATHERED_BYTES_MAX) {
            let code = write_out(file);
            if code != ffi::SQLITE_OK {
                return code;
            }
        }
        if (*log).gathered.is_empty() {
            (*log).at = at;
            (*log).gathered = SPARE.try_with(Cell::take).unwrap_or_default();
            (*log).gathered.reserve_exact(GATHERED_BYTES_MAX.max(length));
        }
        (*log).gathered.extend_from_slice(bytes);
        (*log).commits = length == HEADER_BYTES && bytes[4..8] != [0; 4];
        if is_last { write_out(file) } else { ffi::SQLITE_OK }
    }
}

unsafe extern "C" fn read(file: *mut ffi::sqlite3_file, to: *mut c_void, length: c_int, at: i64) -> c_int {
    // SAFETY: as in `write`, here and below.
    unsafe {
        match write_out(file) {
            ffi::SQLITE_OK => pass_on!(file, xRead, to, length, at),
            code => code,
        }
    }
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: i64) -> c_int {
    unsafe {
        match write_out(file) {
            ffi::SQLITE_OK => pass_on!(file, xTruncate, size),
            code => code,
        }
    }
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    unsafe {
        match write_out(file) {
            ffi::SQLITE_OK => pass_on!(file, xSync, flags),
            code => code,
        }
    }
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, size: *mut i64) -> c_int {
    unsafe {
        match write_out(file) {
            ffi::SQLITE_OK => pass_on!(file, xFileSize, size),
            code => code,
        }
    }
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    unsafe {
        // What was not committed is nobody's; a commit was written out when it was.
        let written = write_out(file);
        let closed = pass_on!(file, xClose);
        ptr::drop_in_place(file.cast::<Log>());
        (*file).pMethods = ptr::null();
        if written == ffi::SQLITE_OK { closed } else { written }
    }
}

unsafe extern "C" fn lock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    unsafe { pass_on!(file, xLock, level) }
}

unsafe extern "C" fn unlock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    unsafe { pass_on!(file, xUnlock, level) }
}

unsafe extern "C" fn check_reserved_lock(file: *mut ffi::sqlite3_file, held: *mut c_int) -> c_int {
    unsafe { pass_on!(file, xCheckReservedLock, held) }
}

unsafe extern "C" fn file_control(file: *mut ffi::sqlite3_file, operation: c_int, argument: *mut c_void) -> c_int {
    unsafe {
        match write_out(file) {
            ffi::SQLITE_OK => pass_on!(file, xFileControl, operation, argument),
            code => code,
        }
    }
}

unsafe extern "C" fn sector_size(file: *mut ffi::sqlite3_file) -> c_int {
    unsafe { pass_on!(file, xSectorSize) }
}

unsafe extern "C" fn device_characteristics(file: *mut ffi::sqlite3_file) -> c_int {
    unsafe { pass_on!(file, xDeviceCharacteristics) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::{Connection, OpenFlags};
    use std::path::Path;

    fn open(path: &Path, system: &str) -> Connection {
        install();
        Connection::open_with_flags_and_vfs(path, OpenFlags::default(), system).unwrap()
    }

    fn sum(conn: &Connection) -> (i64, i64) {
        conn.query_row("SELECT count(*), coalesce(sum(n), 0) FROM t", [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
    }

    #[test]
    fn a_commit_is_seen_by_others_at_once_whatever_is_synced() {
        for synchronous in ["FULL", "NORMAL", "OFF"] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.db");
            let writer = open(&path, "nimblesite");
            writer
                .execute_batch(&format!("PRAGMA journal_mode = WAL; PRAGMA synchronous = {synchronous}; CREATE TABLE t (n INTEGER)"))
                .unwrap();
            let (same, other) = (open(&path, "nimblesite"), open(&path, "unix"));
            for n in 1..=40 {
                // A commit of one page, of some, and of more than is gathered.
                writer.execute("INSERT INTO t SELECT value FROM json_each(?1)", [format!("[{}1]", "0,".repeat(n * n * 8))]).unwrap();
                assert_eq!(sum(&writer).1, i64::try_from(n).unwrap(), "{synchronous}");
                assert_eq!((sum(&same), sum(&other)), (sum(&writer), sum(&writer)), "{synchronous}");
                if n % 10 == 0 {
                    writer.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
                }
            }
        }
    }

    #[test]
    fn what_spills_and_is_undone_leaves_the_file_as_the_platform_s_own_calls_do() {
        let dumps = ["nimblesite", "unix"].map(|system| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.db");
            let conn = open(&path, system);
            // So small a cache that pages go to the log, and come back from it, in mid-transaction.
            conn.execute_batch(
                "PRAGMA page_size = 1024; PRAGMA journal_mode = WAL; PRAGMA cache_size = 10;
                 CREATE TABLE t (n INTEGER, text TEXT); CREATE INDEX t_by_text ON t (text);",
            )
            .unwrap();
            for round in 0..40 {
                conn.execute_batch(&format!(
                    "BEGIN;
                     WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 400)
                         INSERT INTO t SELECT n + {round}, hex (n * 7919 % 1009) FROM c;
                     SAVEPOINT s;
                     UPDATE t SET text = text || 'x' WHERE n % 3 = {round} % 3;
                     {};
                     DELETE FROM t WHERE n % 7 = {round} % 7;
                     {}",
                    if round % 2 == 0 { "ROLLBACK TO s" } else { "RELEASE s" },
                    if round % 5 == 4 { "ROLLBACK" } else { "COMMIT" },
                ))
                .unwrap();
            }
            drop(conn);
            let conn = open(&path, "unix");
            let sound: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
            assert_eq!(sound, "ok");
            let sql = "SELECT count(*) || ' ' || group_concat(n || text) FROM (SELECT * FROM t ORDER BY rowid)";
            conn.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap()
        });
        assert_eq!(dumps[0], dumps[1]);
    }
}
