//! How sandboxes end, what that is called, and what outlives them.

use super::{
    as_both,
    cage::{As, Cage, MIB, eventually, program, skipped},
};
use nimblesite::sandbox::{ExitCause, SandboxError, SandboxId, Sandboxes, Start, StopReason};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::{
    collections::HashSet,
    fs,
    path::Path,
    time::{Duration, Instant},
};

/// Processes of this machine whose command line has these words.
fn alive(words: &str) -> Vec<i32> {
    let number = |name: std::ffi::OsString| name.to_str().and_then(|name| name.parse().ok());
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| number(entry.file_name()));
    pids.filter(|pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).replace('\0', " ").contains(words)
    })
    .collect()
}

/// A sleeper that nobody else starts, left behind by a double fork in a session of its own.
fn daemon(seconds: u32) -> String {
    format!(
        "import subprocess\nsubprocess.Popen(['sh', '-c', 'setsid sleep {seconds} & setsid sleep {seconds} &'], stdin=subprocess.DEVNULL)\nprint('left')"
    )
}

/// A number of seconds that no other test's sleeper has.
fn seconds() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    100_000 + std::process::id() % 100_000 * 100 + NEXT.fetch_add(1, Ordering::Relaxed)
}

/// 32.
#[tokio::test]
async fn what_a_sandbox_started_ends_with_it() {
    as_both("life::what_a_sandbox_started_ends_with_it", async |cage| {
        let seconds = seconds();
        let sleeper = format!("sleep {seconds}");
        let mut sandbox = cage.boot("one").await;
        assert_eq!(sandbox.run(&daemon(seconds)).await, "left\n");
        eventually("two sleepers", || alive(&sleeper).len() >= 2).await;
        assert_eq!(sandbox.running.kill(StopReason::Idle).await, ExitCause::Stopped(StopReason::Idle));
        assert_eq!(alive(&sleeper), Vec::<i32>::new());
        let mut sandbox = cage.boot("one").await;
        sandbox.run(&daemon(seconds)).await;
        drop(sandbox);
        eventually("the end of what a dropped sandbox started", || alive(&sleeper).is_empty()).await;
    })
    .await;
}

/// 32: the server's death closes the spawner's socket; here its own death, by the harshest signal.
#[tokio::test]
async fn the_spawner_s_death_is_the_death_of_all_and_not_of_the_backend() {
    as_both("life::the_spawner_s_death_is_the_death_of_all_and_not_of_the_backend", async |cage| {
        let seconds = seconds();
        let sleeper = format!("sleep {seconds}");
        let mut sandbox = cage.boot("one").await;
        sandbox.run(&daemon(seconds)).await;
        eventually("two sleepers", || alive(&sleeper).len() >= 2).await;
        let spawners = alive(&format!("__sandbox spawner {}", cage.config.data.display()));
        assert_eq!(spawners.len(), 1);
        kill_process(Pid::from_raw(spawners[0]).unwrap(), Signal::KILL).unwrap();
        eventually("the end of all", || alive(&sleeper).is_empty()).await;
        assert_eq!(sandbox.running.exited().await, ExitCause::Signal(9));
        // The first question finds the spawner gone; the next starts another.
        drop(cage.sandboxes.boot(&cage.spec("one"), Vec::new()).await);
        let mut again = cage.boot("one").await;
        assert_eq!(again.run("print('back')").await, "back\n");
    })
    .await;
}

/// 37.
#[tokio::test]
async fn a_program_that_ends_fails_all_open_calls_at_once() {
    as_both("life::a_program_that_ends_fails_all_open_calls_at_once", async |cage| {
        let mut sandbox = cage.boot("one").await;
        sandbox.run("print('warm')").await;
        for _ in 0..3 {
            sandbox.send("tools/call", json!({"name": "run", "arguments": {"code": "import time; time.sleep(60)"}})).await;
        }
        let begun = Instant::now();
        sandbox.send("tools/call", json!({"name": "run", "arguments": {"code": "import os; os._exit(3)"}})).await;
        assert_eq!(sandbox.receive().await, None);
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        assert_eq!(sandbox.running.exited().await, ExitCause::Exit(3));
        let mut sandbox = cage.boot("one").await;
        sandbox.send("tools/call", json!({"name": "run", "arguments": {"code": "import os; os.abort()"}})).await;
        assert_eq!(sandbox.receive().await, None);
        assert_eq!(sandbox.running.exited().await, ExitCause::Signal(6));
    })
    .await;
}

/// 36.
#[tokio::test]
async fn a_call_that_ignores_every_signal_is_ended_by_its_deadline() {
    as_both("life::a_call_that_ignores_every_signal_is_ended_by_its_deadline", async |cage| {
        let mut sandbox = cage.boot("one").await;
        let code = "import signal, time\nos.fork()\nwhile True: time.sleep(1)";
        sandbox.run("import signal; print('warm')").await;
        sandbox.send("tools/call", json!({"name": "run", "arguments": {"code": format!("import os\n{code}")}})).await;
        assert!(tokio::time::timeout(Duration::from_millis(300), sandbox.from.next_line()).await.is_err());
        let begun = Instant::now();
        assert_eq!(sandbox.running.kill(StopReason::Deadline).await, ExitCause::Stopped(StopReason::Deadline));
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        let (text, wrong) =
            cage.boot("one").await.tool("shell", json!({"command": "echo begun; trap '' TERM; sleep 60", "timeout_s": 1})).await;
        assert_eq!((text.as_str(), wrong), ("begun\n\n[ended after 1 s]", true), "the shell's own deadline ends the command alone");
    })
    .await;
}

/// 31.
#[tokio::test]
async fn who_takes_too_much_memory_is_ended_alone_and_it_is_said_why() {
    as_both("life::who_takes_too_much_memory_is_ended_alone_and_it_is_said_why", async |cage| {
        let mut spec = cage.spec("hungry");
        spec.limits.memory_bytes = 64 * MIB;
        let mut neighbour = cage.boot("neighbour").await;
        let mut sandbox = cage.boot_as(&spec, Vec::new()).await;
        let code =
            "import time\nkept = []\nfor _ in range(220): kept.append(bytearray(os.urandom(1 << 20)))\ntime.sleep(20)\nprint('too much')";
        sandbox.send("tools/call", json!({"name": "run", "arguments": {"code": format!("import os\n{code}")}})).await;
        let answer = sandbox.receive().await;
        if let Some(answer) = &answer {
            // Where the address space is bounded, Python may be told so first.
            assert!(answer.to_string().contains("MemoryError"), "{answer}");
        } else {
            assert_eq!(sandbox.running.exited().await, ExitCause::Oom);
        }
        assert_eq!(neighbour.run("print('here')").await, "here\n");
    })
    .await;
}

/// 50.
#[tokio::test]
async fn what_is_destroyed_is_gone_and_its_user_is_not_given_away_before() {
    as_both("life::what_is_destroyed_is_gone_and_its_user_is_not_given_away_before", async |cage| {
        let place = cage.config.data.join("sandboxes/one");
        let mut sandbox = cage.boot("one").await;
        sandbox.shell("echo secret > file; mkdir -p a/b && chmod 000 a/b && chmod 000 a").await;
        let uid = |name: &str| fs::read_to_string(cage.config.data.join("sandboxes").join(name).join("uid")).ok();
        let (first, second) = (uid("one"), {
            drop(cage.boot("two").await);
            uid("two")
        });
        assert_eq!(first.is_some(), cage.by == As::Root);
        assert!(first != second || first.is_none(), "each has its own");
        cage.sandboxes.destroy(&SandboxId::new("one").unwrap()).await.unwrap();
        assert!(!place.exists());
        assert_eq!(sandbox.receive().await, None, "whatever ran on it has ended");
        cage.sandboxes.destroy(&SandboxId::new("one").unwrap()).await.unwrap();
        let left = || {
            fs::read_dir(cage.config.data.join("sandboxes"))
                .unwrap()
                .flatten()
                .any(|entry| entry.file_name().to_string_lossy().starts_with(".gone"))
        };
        eventually("the deletion of all files", || !left()).await;
        assert_eq!(cage.boot("one").await.shell("ls -A").await, "", "a new one begins empty");
    })
    .await;
}

#[tokio::test]
async fn a_start_sweeps_away_whose_owner_is_gone_and_keeps_the_rest() {
    as_both("life::a_start_sweeps_away_whose_owner_is_gone_and_keeps_the_rest", async |cage| {
        for name in ["kept", "orphan"] {
            cage.boot(name).await.shell("echo here > file").await;
        }
        // As a new server has it: another backend on the same directory.
        let next = Sandboxes::new(&cage.config);
        let kept = HashSet::from([SandboxId::new("kept").unwrap()]);
        assert_eq!(next.sweep(&kept).await.unwrap(), [SandboxId::new("orphan").unwrap()]);
        assert!(!cage.config.data.join("sandboxes/orphan").exists());
        assert_eq!(next.file_read(&cage.spec("kept"), "file", 100).await.unwrap(), b"here\n");
    })
    .await;
}

/// 55: what is not there is not replaced by anything.
#[tokio::test]
async fn where_the_fence_cannot_be_put_up_nothing_runs() {
    const TEST: &str = "life::where_the_fence_cannot_be_put_up_nothing_runs";
    as_both(TEST, async |cage| {
        // A program that is no spawner, a root without programs, a Python that is not there.
        for change in [
            |config: &mut nimblesite::config::Config| config.sandbox.program = "/bin/false".into(),
            |config: &mut nimblesite::config::Config| config.sandbox.rootfs = "/nowhere".into(),
            |config: &mut nimblesite::config::Config| config.sandbox.python = "/usr/bin/no-python".into(),
        ] {
            let mut config = cage.config.clone();
            change(&mut config);
            let broken = Sandboxes::new(&config);
            assert!(matches!(
                broken.boot(&cage.spec("one"), Vec::new()).await,
                Err(SandboxError::Unavailable(_) | SandboxError::Internal(_))
            ));
            let probe = broken.probe().await;
            assert!(!probe.available() && probe.trouble.is_some(), "{probe:?}");
        }
        let mut spec = cage.spec("contained");
        (spec.network, spec.image) = (true, Some("sha256:abc".to_owned()));
        let refused = cage.sandboxes.boot(&spec, Vec::new()).await.err();
        assert!(matches!(refused, Some(SandboxError::Unavailable(_))), "no engine, or no such image: {refused:?}");
    })
    .await;
    // A user who may have no namespaces at all, made so by a limit that the test sets for a namespace of its own.
    let Some(cage) = Cage::new(TEST, As::PlainUser).await else { return };
    let script = cage.dir().join("without-namespaces");
    let as_user = if rustix::process::getuid().is_root() { "setpriv --reuid=5001 --regid=5001 --clear-groups --inh-caps=-all" } else { "" };
    // Where that user can reach it: a checkout may lie in a folder of root's alone.
    let reachable = cage.dir().join("nimblesite");
    fs::hard_link(program(), &reachable).or_else(|_| fs::copy(program(), &reachable).map(drop)).unwrap();
    let none = format!("echo 0 > /proc/sys/user/max_user_namespaces && exec {} \"$@\"", reachable.display());
    let text = format!("#!/bin/sh\nexec {as_user} unshare --user --map-current-user --keep-caps sh -c '{none}' sh \"$@\"\n");
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut config = cage.config.clone();
    config.sandbox.program = script;
    if !Path::new("/usr/bin/unshare").exists() {
        return skipped(TEST, "the half without namespaces needs the program unshare");
    }
    let without = Sandboxes::new(&config);
    let trouble = without.probe().await.trouble.clone().unwrap_or_default();
    assert!(trouble.contains("no namespaces"), "{trouble}");
    let mut spec = cage.spec("one");
    spec.start = Start::Command { command: "/usr/bin/touch".into(), args: vec!["/workspace/ran".into()], env: Vec::new() };
    assert!(matches!(without.boot(&spec, Vec::new()).await, Err(SandboxError::Unavailable(_))));
    assert!(!config.data.join("sandboxes/one/workspace/ran").exists());
}

#[tokio::test]
async fn strict_means_the_kernels_own_limits_or_nothing() {
    const TEST: &str = "life::strict_means_the_kernels_own_limits_or_nothing";
    let Some(cage) = Cage::new(TEST, As::PlainUser).await else { return };
    if cage.sandboxes.probe().await.hard_memory {
        return skipped(TEST, "a plain user may make cgroups here");
    }
    let mut config = cage.config.clone();
    config.sandbox.strict = true;
    let strict = Sandboxes::new(&config);
    let Err(SandboxError::Unavailable(why)) = strict.boot(&cage.spec("one"), Vec::new()).await else { panic!("it ran") };
    assert!(why.contains("cgroups"), "{why}");
}

/// What a spawner of this data directory holds: descriptors, mounts, children, groups, loop devices, folders.
fn held(spawner: i32, data: &Path) -> Vec<(&'static str, usize)> {
    let of = format!("/proc/{spawner}");
    let count = |path: String| fs::read_dir(path).into_iter().flatten().count();
    let mounts = fs::read_to_string(format!("{of}/mountinfo")).unwrap_or_default();
    let children = fs::read_to_string(format!("{of}/task/{spawner}/children")).unwrap_or_default();
    let groups = ["memory", "pids", "cpu", "cpuacct", "."].map(|controller| {
        let all = fs::read_dir(format!("/sys/fs/cgroup/{controller}")).into_iter().flatten().flatten();
        all.filter(|entry| entry.file_name().to_string_lossy().starts_with(&format!("nimblesite-{spawner}-"))).count()
    });
    let loops = fs::read_dir("/sys/block").into_iter().flatten().flatten().filter(|device| {
        let backing = fs::read_to_string(device.path().join("loop/backing_file")).unwrap_or_default();
        backing.starts_with(data.to_str().unwrap())
    });
    vec![
        ("descriptors", count(format!("{of}/fd"))),
        ("mounts", mounts.lines().filter(|line| line.contains(data.to_str().unwrap())).count()),
        ("children", children.split_whitespace().count()),
        ("groups", groups.iter().sum()),
        ("loop devices", loops.count()),
        ("folders", count(data.join("sandboxes").display().to_string())),
    ]
}

/// 54: many boots, stops and removals, several at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_boots_leave_no_mount_no_group_no_process_no_descriptor_and_no_file() {
    let boots = if crate::harness::full() { 200 } else { 24 };
    as_both("life::hundreds_of_boots_leave_no_mount_no_group_no_process_no_descriptor_and_no_file", async |cage| {
        let one = async |name: String| {
            let mut spec = cage.spec(&name);
            spec.limits.workspace_bytes = 8 * MIB;
            spec.network = name.ends_with('3');
            let mut sandbox = cage.boot_as(&spec, Vec::new()).await;
            assert_eq!(sandbox.run("open('/workspace/x', 'w').write('x'); print('up')").await, "up\n");
            if name.ends_with('5') {
                sandbox.running.kill(StopReason::Deadline).await;
            } else {
                sandbox.to = None;
                sandbox.running.exited().await;
            }
            drop(sandbox);
            cage.sandboxes.destroy(&spec.id).await.unwrap();
        };
        one("first".to_owned()).await;
        let spawners = alive(&format!("__sandbox spawner {}", cage.config.data.display()));
        assert_eq!(spawners.len(), 1);
        // Deleting goes on behind the answer, and whoever does it is waited for at the next question.
        let settled = async || {
            for _ in 0..500 {
                drop(cage.sandboxes.destroy(&SandboxId::new("nobody").unwrap()).await);
                let now = held(spawners[0], &cage.config.data);
                if now.iter().all(|(what, count)| *what == "descriptors" || *count == 0) {
                    return now;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            held(spawners[0], &cage.config.data)
        };
        let before = settled().await;
        assert!(before.iter().all(|(what, count)| *what == "descriptors" || *count == 0), "{before:?}");
        for round in 0..boots / 4 {
            futures_util::future::join_all((0..4).map(|n| one(format!("boot-{}", round * 4 + n)))).await;
        }
        let mut after = settled().await;
        for _ in 0..200 {
            if after == before {
                break;
            }
            // A run's end is told behind its caller's back.
            tokio::time::sleep(Duration::from_millis(20)).await;
            after = settled().await;
        }
        let open = || {
            fs::read_dir(format!("/proc/{}/fd", spawners[0]))
                .unwrap()
                .flatten()
                .filter_map(|fd| fs::read_link(fd.path()).ok())
                .collect::<Vec<_>>()
        };
        assert_eq!(after, before, "after {boots} boots: {:?}", open());
        assert_eq!(alive(&format!("__sandbox spawner {}", cage.config.data.display())), spawners, "and it is the same spawner");
    })
    .await;
}

/// 54, as the server has it: its own descriptors and threads, over boots and resets through the API.
#[tokio::test]
async fn a_server_keeps_nothing_of_the_sandboxes_that_it_had() {
    use super::shelf::{boxed, python};
    let rounds = if crate::harness::full() { 60 } else { 8 };
    let server = boxed().process().start().await;
    let tenant = server.rich_tenant("Acme").await;
    let config = server.boxed_config(&tenant, "echo", "echo", python("def one() -> int:\n    return 1\n"), &json!({})).await;
    let round = async || {
        let answer = server.chat(&tenant.key, &config, &json!({"message": "call one"})).await.expect(200);
        assert_eq!(answer.text("/response"), "one said: 1");
        server.delete(&format!("/api/v1/configs/{config}/sandbox"), &tenant.key).await.expect(204);
    };
    let pid = server.pid().unwrap();
    // Pipes and pidfds are what a sandbox gives its server; connections and databases come and go with the clients.
    let ours = || {
        let links =
            fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
        links.filter(|link| ["pipe:", "anon_inode:[pidfd]"].iter().any(|kind| link.to_string_lossy().starts_with(kind))).count()
    };
    round().await;
    let before = ours();
    for _ in 0..rounds {
        round().await;
    }
    server.eventually("as many pipes as before", || (ours() <= before).then_some(())).await;
    server.done().await;
}

/// What is mounted on the host when a spawner starts is the host's to unmount: no copy keeps its disk busy.
#[tokio::test]
async fn a_spawner_keeps_no_disk_of_the_host_s_busy() {
    const TEST: &str = "life::a_spawner_keeps_no_disk_of_the_host_s_busy";
    let place = tempfile::tempdir().unwrap();
    let disk = place.path().join("a disk");
    fs::create_dir(&disk).unwrap();
    let run =
        |program: &str, args: &[&str]| std::process::Command::new(program).args(args).output().is_ok_and(|output| output.status.success());
    let at = disk.to_str().unwrap();
    if !rustix::process::getuid().is_root() || !run("mount", &["-t", "tmpfs", "tmpfs", at]) {
        return skipped(TEST, "mounting a disk needs root");
    }
    let Some(cage) = Cage::new(TEST, As::Root).await else {
        run("umount", &[at]);
        return;
    };
    assert_eq!(cage.boot("one").await.run("print('up')").await, "up\n");
    let spawners = alive(&format!("__sandbox spawner {}", cage.config.data.display()));
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", spawners[0])).unwrap();
    let unmounted = run("umount", &[at]);
    assert!(unmounted && !mounts.contains("a\\040disk"), "{mounts}");
}
