//! How many instructions our own functions on a turn's way take, counted by callgrind: a count does not depend on how busy the machine is.
//!
//! Callgrind runs this very program once more, with one test alone, and says what each call took, all that it called included. The counts are
//! those of a build for tests: they tell whether a function does more than before, not how fast it is. Who makes one dearer on purpose accepts the
//! new numbers with `UPDATE_COUNTS=1` (docs/testing.md), and says why in the commit.

#[path = "../../benches/hot/mod.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the benches")]
mod hot;

use std::{collections::BTreeMap, fs, path::PathBuf, process::Command};

/// The variable that says how often each function is called.
const CALLS: &str = "NIMBLESITE_HOT_CALLS";
/// Calls under callgrind: what only the first does is spread over so many.
const COUNTED: u64 = 10;
/// How far a count may be off with the compiler that the accepted ones were made with: hash tables are seeded at random.
const TOLERANCE: f64 = 0.05;
/// The same with another compiler, which optimises the dependencies in another way.
const TOLERANCE_OF_OTHERS: f64 = 0.30;

/// The accepted counts, and the compiler that they were made with.
#[derive(serde::Serialize, serde::Deserialize)]
struct Accepted {
    compiler: String,
    instructions: BTreeMap<String, u64>,
}

fn accepted_file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/hot/instructions.toml")
}

fn compiler() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let said = Command::new(rustc).arg("--version").output().expect("rustc");
    String::from_utf8_lossy(&said.stdout).trim().to_owned()
}

/// Called alone it is a test like any other; under callgrind it is what is counted.
#[test]
fn the_hot_functions_do_their_work() {
    let calls = std::env::var(CALLS).ok().and_then(|calls| calls.parse().ok()).unwrap_or(1);
    let input = hot::Input::new();
    for (_, function) in hot::ALL {
        for _ in 0..calls {
            function(&input);
        }
    }
}

/// From callgrind's listing: the instructions of a call of each function, all that it called included.
///
/// A line `cfn=(12) name` names whom the next `calls=` line is about (the name stands there the first time only), and the line behind that has the
/// cost of those calls as its last number.
fn costs(listing: &str) -> BTreeMap<&'static str, u64> {
    let mut names: BTreeMap<&str, &str> = BTreeMap::new();
    let mut sums: BTreeMap<&'static str, (u64, u64)> = BTreeMap::new();
    let (mut callee, mut calls) = ("", None);
    for line in listing.lines() {
        if let Some(count) = calls.take() {
            let cost = line.rsplit(' ').next().and_then(|cost| cost.parse::<u64>().ok()).expect("the cost of a call");
            if let Some((name, _)) = hot::ALL.iter().find(|(name, _)| callee.contains(&format!("hot::{name}"))) {
                let sum = sums.entry(name).or_default();
                *sum = (sum.0 + cost, sum.1 + count);
            }
        } else if let Some(count) = line.strip_prefix("calls=") {
            calls = count.split(' ').next().and_then(|count| count.parse::<u64>().ok());
        } else if let Some((id, name)) =
            line.strip_prefix("cfn=").or_else(|| line.strip_prefix("fn=")).map(|rest| rest.split_once(' ').unwrap_or((rest, "")))
        {
            if !name.is_empty() {
                names.insert(id, name);
            }
            if line.starts_with('c') {
                callee = names.get(id).copied().unwrap_or_default();
            }
        }
    }
    sums.into_iter().map(|(name, (cost, count))| (name, cost / count.max(1))).collect()
}

#[test]
fn hot_functions_take_no_more_instructions_than_accepted() {
    let out = tempfile::NamedTempFile::new().expect("a file");
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", &format!("--callgrind-out-file={}", out.path().display())])
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", "instructions::the_hot_functions_do_their_work", "--test-threads=1"])
        .env(CALLS, COUNTED.to_string())
        .output();
    let Ok(run) = run else {
        println!("!!! SKIPPED TEST: hot_functions_take_no_more_instructions_than_accepted (valgrind is missing)");
        return;
    };
    assert!(run.status.success(), "{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    let found = costs(&fs::read_to_string(out.path()).expect("callgrind's listing"));
    assert_eq!(found.len(), hot::ALL.len(), "callgrind saw {:?}", found.keys());

    let (file, compiler) = (accepted_file(), compiler());
    if std::env::var_os("UPDATE_COUNTS").is_some() {
        let instructions = found.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        fs::write(&file, toml::to_string(&Accepted { compiler, instructions }).expect("TOML")).expect("the file");
        return;
    }
    let accepted: Accepted = toml::from_str(&fs::read_to_string(&file).expect("the accepted counts")).expect("TOML");
    assert_eq!(accepted.instructions.len(), found.len(), "a function came or went: accept the counts anew");
    let tolerance = if accepted.compiler == compiler { TOLERANCE } else { TOLERANCE_OF_OTHERS };
    let mut off = Vec::new();
    for (name, count) in &found {
        let before = accepted.instructions.get(*name).copied().expect("an accepted count");
        #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
        let change = *count as f64 / before as f64 - 1.0;
        if change.abs() > tolerance {
            off.push(format!("{name}: {count} instructions, {:+.1} % of the accepted {before}", change * 100.0));
        }
    }
    // Also where one became cheaper: else the next one to make it dearer again would not be noticed.
    assert!(off.is_empty(), "{}\nIf this is meant, run once more with UPDATE_COUNTS=1 and say why in the commit.", off.join("\n"));
}
