//! The two system calls here that no safe function offers, with the reasons why they are sound where they stand.

use rustix::thread::UnshareFlags;
use std::{io, os::fd::RawFd};

/// New namespaces for this process.
pub(super) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    debug_assert!(!flags.intersects(UnshareFlags::FILES | UnshareFlags::FS));
    // SAFETY: what makes this function unsafe is CLONE_FILES, after which a descriptor's number means something else in each thread. None of
    // our callers passes it, and they have one thread.
    #[allow(unsafe_code, reason = "see above")]
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(io::Error::from)
}

/// Closes every descriptor from the third on: whatever the server was started with (a supervisor's sockets have no close-on-exec flag) ends
/// here. To be called first of all in `main`, by stages that own no descriptor yet but 0, 1 and 2.
pub(super) fn close_inherited() -> io::Result<()> {
    const FIRST: RawFd = 3;
    let numbers: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|number| *number >= FIRST)
        .collect();
    // The directory's own descriptor was among them, and is closed by now.
    for number in numbers.into_iter().filter(|number| std::fs::read_link(format!("/proc/self/fd/{number}")).is_ok()) {
        // SAFETY: nothing in this process has opened a descriptor yet that is still open, so no owner of one is left with a number that
        // means nothing; and each number is open, as was just seen, in a process with one thread.
        #[allow(unsafe_code, reason = "see above")]
        unsafe {
            rustix::io::close(number);
        }
    }
    Ok(())
}
