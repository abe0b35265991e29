//! Many sandboxes at once, and what one costs. In full, the costs are asserted; always, they are printed.

use super::{
    as_both,
    cage::{As, Cage, MIB, Sandbox},
};
use crate::harness::full;
use nimblesite::sandbox::StopReason;
use serde_json::json;
use std::{
    fs,
    time::{Duration, Instant},
};

/// The median, and what 99 of 100 stay below.
fn middle_and_end(mut times: Vec<Duration>) -> (Duration, Duration) {
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

/// What fork bombs, memory hogs, floods and disk fillers of one do to another: each alone, and all at once. The quiet one is called without a
/// pause, as the aim is measured, and now and then, as agents call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_noisy_sandbox_does_not_slow_a_quiet_one_much() {
    let Some(cage) = Cage::new("load::a_noisy_sandbox_does_not_slow_a_quiet_one_much", As::Root).await else { return };
    let mut quiet = cage.boot("quiet").await;
    p99s(&mut quiet).await;
    let alone = p99s(&mut quiet).await;
    println!("p99 of a call alone: {:?} without a pause, {:?} now and then", alone[0], alone[1]);
    let noise = [
        ("spinning threads", "import os\nfor _ in range(8): os.fork() or exec('while True: pass')\nwhile True: pass"),
        ("fork bomb", "import os\nwhile True:\n    try:\n        if os.fork() == 0: os._exit(0)\n    except OSError: pass"),
        ("memory hog", "while True:\n    x = bytearray(400 << 20)\n    del x"),
        ("flood of output", "import os\nwhile True: os.write(2, b'x' * 100000)"),
        (
            "disk filler",
            "import os\nwhile True:\n    try: open('/workspace/full', 'wb').write(b'x' * (60 << 20))\n    except OSError: pass",
        ),
        (
            "disk flusher",
            "import os\nfd = os.open('/workspace/one', os.O_CREAT | os.O_WRONLY)\nwhile True:\n    os.pwrite(fd, b'x', 0)\n    os.fsync(fd)",
        ),
    ];
    // Who never rests is put behind the others after 1.6 s.
    let settled = Duration::from_millis(if full() { 2_500 } else { 500 });
    let mut all = Vec::new();
    for together in [false, true] {
        for (number, (name, code)) in noise.iter().enumerate() {
            let mut sandbox = cage.boot(&format!("noisy-{number}-{together}")).await;
            sandbox.send("tools/call", json!({"name": "run", "arguments": {"code": code}})).await;
            if together {
                all.push(sandbox);
                continue;
            }
            tokio::time::sleep(settled).await;
            tell(name, alone, p99s(&mut quiet).await);
            assert!(sandbox.running.usage().await.unwrap().pids > 1, "{name} is still at it");
            sandbox.running.kill(StopReason::Deadline).await;
        }
    }
    tokio::time::sleep(settled).await;
    tell("all of them", alone, p99s(&mut quiet).await);
}

/// A kernel that hands a processor on at its ticks alone has 250 of them in a second.
const TICK: Duration = Duration::from_millis(4);

fn tell(noise: &str, alone: [Duration; 2], beside: [Duration; 2]) {
    let times = |n: usize| beside[n].as_secs_f64() / alone[n].as_secs_f64();
    println!("p99 of a call beside {noise}: {:?}, {:.1} times; now and then {:?}, {:.1} times", beside[0], times(0), beside[1], times(1));
    if full() {
        assert!(beside[0] < (alone[0] * 3).max(TICK + TICK / 4), "{noise}: {alone:?} {beside:?}");
    }
}

/// Of calls without a pause, and of some 200 in a second.
async fn p99s(sandbox: &mut Sandbox) -> [Duration; 2] {
    let calls = if full() { 2_000 } else { 60 };
    let mut p99s = [Duration::ZERO; 2];
    for (p99, calls, pause) in [(0, calls, 0), (1, calls / 4, 5)] {
        let mut times = Vec::new();
        for _ in 0..calls {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            let begun = Instant::now();
            sandbox.tool("run", json!({"code": ""})).await;
            times.push(begun.elapsed());
        }
        p99s[p99] = middle_and_end(times).1;
    }
    p99s
}
