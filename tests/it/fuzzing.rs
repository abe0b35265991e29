//! The entries that `cargo fuzz` knows (fuzz/entries.rs), on the stable toolchain: the committed corpora as they are, and what chance makes of them.

#[path = "../../fuzz/entries.rs"]
mod entries;

use proptest::test_runner::{Config, TestRunner};
use std::{fs, path::Path};

/// The corpus of a target, in the order of its files' names.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

#[test]
fn the_committed_corpora_are_taken_without_a_panic() {
    for (target, entry) in entries::ALL {
        let seeds = corpus(target);
        assert!(!seeds.is_empty(), "{target} has no corpus");
        seeds.iter().for_each(|seed| entry(seed));
        let known = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets").join(format!("{target}.rs"));
        assert!(known.is_file(), "{target} is no target of cargo fuzz");
    }
}

/// Bytes put in, taken out, changed and repeated, anywhere.
#[test]
fn what_chance_makes_of_the_corpora_is_taken_without_a_panic() {
    let cases = if crate::harness::full() { 200_000 } else { 2_000 };
    for (target, entry) in entries::ALL {
        // A whole server takes its time.
        let cases = if matches!(*target, "requests" | "lists") { cases / 5 } else { cases };
        let seeds = corpus(target);
        let change = (proptest::num::u32::ANY, 0..4_u8, proptest::collection::vec(proptest::num::u8::ANY, 0..6));
        let input = (0..seeds.len(), proptest::collection::vec(change, 0..8));
        let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
        let ran = runner.run(&input, |(seed, changes)| {
            let mut bytes = seeds[seed].clone();
            for (at, kind, new) in changes {
                let at = at as usize % (bytes.len() + 1);
                match kind {
                    0 => drop(bytes.splice(at..at, new)),
                    1 => drop(bytes.drain(at..(at + new.len()).min(bytes.len()))),
                    2 => bytes.iter_mut().skip(at).zip(new).for_each(|(old, new)| *old ^= new),
                    _ => bytes.extend_from_within(at..),
                }
                bytes.truncate(16_384);
            }
            entry(&bytes);
            Ok(())
        });
        ran.unwrap_or_else(|error| panic!("{target}: {error}"));
    }
}
