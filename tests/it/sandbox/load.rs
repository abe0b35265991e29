//! Many sandboxes at once, and what one costs. In full, the costs are asserted; always, they are printed.

use super::{
    as_both,
    cage::{Cage, MIB},
};
use crate::harness::full;
use serde_json::json;
use std::{
    fs,
    time::{Duration, Instant},
};

/// The median, and what 99 of 100 stay below.
pub fn middle_and_end(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

/// Bytes that a process and all below it wrote: what it costs the machine. Pages of files that are only read are everybody's.
fn private_bytes(pid: u32) -> u64 {
    let of = format!("/proc/{pid}");
    let rollup = fs::read_to_string(format!("{of}/smaps_rollup")).unwrap_or_default();
    let number = |line: &str| line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() * 1024;
    let own: u64 = rollup.lines().filter(|line| line.starts_with("Private_Dirty:")).map(number).sum();
    let children = fs::read_to_string(format!("{of}/task/{pid}/children")).unwrap_or_default();
    own + children.split_whitespace().filter_map(|child| child.parse().ok()).map(private_bytes).sum::<u64>()
}

/// The processes of init below a spawner of this data directory.
fn inits(cage: &Cage) -> Vec<u32> {
    let words = format!("spawner\0{}", cage.config.data.display());
    let spawner = fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        String::from_utf8_lossy(&fs::read(entry.path().join("cmdline")).ok()?).contains(&words).then_some(pid)
    });
    let spawner = spawner.expect("a spawner");
    let children = fs::read_to_string(format!("/proc/{spawner}/task/{spawner}/children")).unwrap();
    children.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

/// Warm call, cold boot, idle memory: `docs/benchmarks.md` has the command and the results.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_a_boot_and_an_idle_sandbox_cost_little() {
    as_both("load::a_call_a_boot_and_an_idle_sandbox_cost_little", async |cage| {
        let mut sandbox = cage.boot("warm").await;
        sandbox.run("pass").await;
        let mut calls = Vec::new();
        for _ in 0..500 {
            let begun = Instant::now();
            sandbox.tool("run", json!({"code": ""})).await;
            calls.push(begun.elapsed());
        }
        let idle = inits(&cage).into_iter().map(private_bytes).sum::<u64>();
        let mut boots = Vec::new();
        // The first of each boot makes its workspace; the boots after it are what an agent waits for.
        cage.boot("cold").await.run("pass").await;
        for _ in 0..if full() { 100 } else { 20 } {
            let begun = Instant::now();
            let mut sandbox = cage.boot("cold").await;
            sandbox.tool("run", json!({"code": ""})).await;
            boots.push(begun.elapsed());
        }
        let ((call, call_end), (boot, boot_end)) = (middle_and_end(calls), middle_and_end(boots));
        println!(
            "{:?}: warm call p50 {call:?} p99 {call_end:?}; boot to first result p50 {boot:?} p99 {boot_end:?}; idle {} KiB private",
            cage.by,
            idle / 1024
        );
        assert!(idle > MIB, "an idle sandbox that weighs nothing was not weighed");
        if full() {
            assert!(call < Duration::from_millis(2) && boot < Duration::from_millis(100) && idle < 12 * MIB);
        }
    })
    .await;
}

/// 54, and fifty that live at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_all_stand_and_none_is_in_another_s_way() {
    let number = if full() { 50 } else { 12 };
    as_both("load::many_at_once_all_stand_and_none_is_in_another_s_way", async |cage| {
        let begun = Instant::now();
        let boots = (0..number).map(|one| {
            let cage = &cage;
            async move {
                let mut spec = cage.spec(&format!("many-{one}"));
                spec.limits.workspace_bytes = 8 * MIB;
                let mut sandbox = cage.boot_as(&spec, Vec::new()).await;
                let seen = sandbox.run(&format!("open('/workspace/{one}', 'w'); print(os.listdir('/workspace'))")).await;
                assert_eq!(seen, format!("['{one}']\n"), "each sees its own workspace alone");
                sandbox
            }
        });
        let mut standing = futures_util::future::join_all(boots).await;
        let weight: u64 = inits(&cage).into_iter().map(private_bytes).sum();
        println!("{:?}: {number} stand after {:?}, {} MiB private together", cage.by, begun.elapsed(), weight / MIB);
        if full() {
            assert!(weight < 1024 * MIB);
        }
        for sandbox in &mut standing {
            assert_eq!(sandbox.run("print('here')").await, "here\n");
        }
    })
    .await;
}
