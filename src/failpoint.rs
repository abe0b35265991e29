//! Places where a test ends or slows the server, compiled into test builds only (`--features failpoints`); in every other build a hit is
//! nothing at all, and the variables below are settings that nobody knows.
//!
//! `NIMBLESITE_FAILPOINTS="after-hold=kill@3,before-send=sleep:200"`: the third hit of the first ends the process the way a power cut does,
//! and every hit of the second waits 200 ms. `NIMBLESITE_CLOCK_OFFSET_FILE` names a file with the milliseconds by which the clock is wrong,
//! read again whenever the time is asked. This file knows nothing of what the places mean.

pub(crate) use points::{clock_offset_ms, hit, hit_in, is_variable};

#[cfg(not(feature = "failpoints"))]
mod points {
    pub(crate) const fn hit(_name: &str) {}
    pub(crate) const fn hit_in(_place: &str, _name: &str) {}
    pub(crate) const fn is_variable(_key: &str) -> bool {
        false
    }
    pub(crate) const fn clock_offset_ms() -> i64 {
        0
    }
}

#[cfg(feature = "failpoints")]
mod points {
    use std::{
        sync::{
            LazyLock,
            atomic::{AtomicU64, Ordering},
        },
        time::Duration,
    };

    struct Point {
        name: String,
        act: Act,
        hits: AtomicU64,
    }

    enum Act {
        /// At this hit, from 1.
        Kill(u64),
        /// At this hit, from 1.
        Panic(u64),
        Sleep(Duration),
    }

    static POINTS: LazyLock<Vec<Point>> = LazyLock::new(|| {
        let text = std::env::var("NIMBLESITE_FAILPOINTS").unwrap_or_default();
        text.split(',').filter(|part| !part.is_empty()).map(|part| point(part).unwrap_or_else(|| wrong(part))).collect()
    });

    /// `name=kill`, `name=kill@N`, `name=panic@N` or `name=sleep:MS`.
    fn point(part: &str) -> Option<Point> {
        let (name, act) = part.split_once('=')?;
        let act = match act.split_once([':', '@']) {
            None if act == "kill" => Act::Kill(1),
            Some(("kill", hit)) => Act::Kill(hit.parse().ok()?),
            Some(("panic", hit)) => Act::Panic(hit.parse().ok()?),
            Some(("sleep", ms)) => Act::Sleep(Duration::from_millis(ms.parse().ok()?)),
            _ => return None,
        };
        Some(Point { name: name.to_owned(), act, hits: AtomicU64::new(0) })
    }

    /// A test that armed nothing would pass for the wrong reason.
    fn wrong(part: &str) -> ! {
        tracing::error!("NIMBLESITE_FAILPOINTS: {part:?} is no fail point");
        std::process::abort()
    }

    /// Passes a place.
    pub(crate) fn hit(name: &str) {
        for point in POINTS.iter().filter(|point| point.name == name) {
            let hit = point.hits.fetch_add(1, Ordering::Relaxed) + 1;
            match point.act {
                Act::Kill(at) if hit == at => die(),
                #[allow(clippy::panic, reason = "a test asked for it")]
                Act::Panic(at) if hit == at => panic!("fail point {name}"),
                Act::Kill(_) | Act::Panic(_) => {}
                Act::Sleep(time) => std::thread::sleep(time),
            }
        }
    }

    /// Passes a place that several things have: `tenant 0192…` and `before-commit` make `tenant.before-commit`.
    pub(crate) fn hit_in(place: &str, name: &str) {
        if !POINTS.is_empty() {
            hit(&format!("{}.{name}", place.split(' ').next().unwrap_or_default()));
        }
    }

    fn die() -> ! {
        let sent = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        // Whoever may not send itself a signal ends here.
        tracing::error!(?sent, "a fail point could not kill the server");
        std::process::abort()
    }

    /// Whether a variable `NIMBLESITE_<key>` is one of this file's.
    pub(crate) fn is_variable(key: &str) -> bool {
        matches!(key, "FAILPOINTS" | "CLOCK_OFFSET_FILE")
    }

    /// How far the clock is to be wrong.
    pub(crate) fn clock_offset_ms() -> i64 {
        static FILE: LazyLock<Option<std::ffi::OsString>> = LazyLock::new(|| std::env::var_os("NIMBLESITE_CLOCK_OFFSET_FILE"));
        let text = FILE.as_ref().and_then(|path| std::fs::read_to_string(path).ok());
        text.and_then(|text| text.trim().parse().ok()).unwrap_or_default()
    }
}
