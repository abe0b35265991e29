//! Who wastes what all share: processes, disks, the server's memory.

use super::{
    as_both,
    cage::{As, Cage, MIB, eventually, skipped},
};
use nimblesite::sandbox::{ExitCause, SandboxLimits, Start, StopReason};
use std::{fs, time::Duration};

/// 30.
#[tokio::test]
async fn a_fork_bomb_stops_at_its_own_limit() {
    as_both("waste::a_fork_bomb_stops_at_its_own_limit", async |cage| {
        let mut spec = cage.spec("bomb");
        spec.limits.pids = 32;
        let mut neighbour = cage.boot("neighbour").await;
        let mut sandbox = cage.boot_as(&spec, Vec::new()).await;
        let said = sandbox
            .run(
                r"
children = []
try:
    while len(children) < 500:
        child = os.fork()
        if child == 0:
            import time; time.sleep(30); os._exit(0)
        children.append(child)
except OSError as error:
    print(errno.errorcode[error.errno], len(children) < 32)
for child in children: os.kill(child, 9)
",
            )
            .await;
        assert_eq!(said, "EAGAIN True\n");
        assert_eq!(neighbour.run("pid = os.fork()\nif pid == 0: os._exit(0)\nprint(os.waitpid(pid, 0)[1])").await, "0\n");
    })
    .await;
}

/// 29.
#[tokio::test]
async fn a_full_disk_is_the_fillers_alone() {
    as_both("waste::a_full_disk_is_the_fillers_alone", async |cage| {
        let mut spec = cage.spec("filler");
        spec.limits = SandboxLimits { workspace_bytes: 32 * MIB, ..spec.limits };
        let mut sandbox = cage.boot_as(&spec, Vec::new()).await;
        let said = sandbox
            .run(
                r"
import signal; signal.signal
def fill(path, mib):
    with open(path, 'wb') as file:
        for _ in range(mib): file.write(b'x' * (1 << 20))
attempt('tmp', lambda: fill('/tmp/full', 100))
attempt('shm', lambda: fill('/dev/shm/full', 100))
os.unlink('/tmp/full'); os.unlink('/dev/shm/full')
attempt('root', lambda: fill('/full', 1))
try: os.truncate('/workspace/sparse', 0)
except OSError: open('/workspace/sparse', 'w')
attempt('one file', lambda: os.truncate('/workspace/sparse', 400 << 20))
",
            )
            .await;
        assert!(said.contains("tmp ENOSPC") && said.contains("shm ENOSPC") && said.contains("one file EFBIG"), "{said}");
        assert!(said.contains("root EROFS") || said.contains("root EACCES"), "{said}");
        let hard = cage.sandboxes.probe().await.hard_disk;
        assert!(!hard || cage.by == As::Root, "who is not root mounts nothing");
        if cage.by == As::Root && !hard {
            skipped("waste::a_full_disk_is_the_fillers_alone", "the bounded workspace needs mkfs.ext4 and loop devices");
        }
        if hard {
            assert_eq!(sandbox.run("def fill():\n    with open('/workspace/full', 'wb') as f:\n        for _ in range(100): f.write(b'x' * (1 << 20)); f.flush()\nattempt('full', fill)").await, "full ENOSPC\n");
            let many = "def many():\n    for n in range(200000): open(f'/workspace/{n}', 'w').close()\nos.unlink('/workspace/full')\nattempt('inodes', many)";
            assert_eq!(sandbox.run(many).await, "inodes ENOSPC\n");
        } else {
            let code = "import time\nopen('/workspace/full', 'wb').write(b'x' * (60 << 20))\ntime.sleep(20)";
            sandbox.send("tools/call", serde_json::json!({"name": "run", "arguments": {"code": code}})).await;
            assert_eq!(sandbox.receive().await, None);
            assert_eq!(sandbox.running.exited().await, ExitCause::Stopped(StopReason::DiskFull));
        }
        assert_eq!(cage.boot("neighbour").await.run("print(open('/workspace/x', 'w').write('room'))").await, "4\n");
    })
    .await;
}

/// 34: nobody reads what a program floods its stdout with; stderr is read, and its end kept.
#[tokio::test]
async fn floods_of_output_take_no_memory_of_the_server() {
    as_both("waste::floods_of_output_take_no_memory_of_the_server", async |cage| {
        let mut spec = cage.spec("flood");
        spec.start = Start::Command {
            command: "/bin/sh".into(),
            args: vec!["-c".into(), "head -c 50000000 /dev/zero | tr '\\0' x >&2; echo last words >&2; exec cat /dev/zero".into()],
            env: Vec::new(),
        };
        let sandbox = cage.boot_as(&spec, Vec::new()).await;
        eventually("its last words", || sandbox.running.stderr_tail().ends_with("last words\n")).await;
        assert!(sandbox.running.stderr_tail().len() <= 64 * 1024);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(sandbox.running.kill(StopReason::Deadline).await, ExitCause::Stopped(StopReason::Deadline));
    })
    .await;
}

/// 58.
#[tokio::test]
async fn descriptors_watches_and_locks_are_bounded() {
    as_both("waste::descriptors_watches_and_locks_are_bounded", async |cage| {
        let said = cage
            .attempt(
                r"
def many(make):
    kept = []
    try:
        while len(kept) < 5000: kept.append(make())
    except OSError as error:
        return errno.errorcode[error.errno], len(kept) <= 512
    finally:
        for fd in kept: os.close(fd)
print(many(lambda: os.memfd_create('x')), many(lambda: os.open('/dev/null', 0)), many(lambda: os.eventfd(0)))
import mmap
buffer = mmap.mmap(-1, 1 << 20)
print(call(149, ctypes.addressof(ctypes.c_char.from_buffer(buffer)), 1 << 20))
import resource
print(resource.getrlimit(resource.RLIMIT_CORE), resource.getrlimit(resource.RLIMIT_NOFILE))
attempt('raise', lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (100000, 100000)))
",
            )
            .await;
        let lines: Vec<_> = said.lines().collect();
        assert_eq!(lines[0], "('EMFILE', True) ('EMFILE', True) ('EMFILE', True)", "{said}");
        assert!(lines[1] == "ENOMEM" || lines[1] == "EAGAIN" || lines[1] == "EPERM", "{said}");
        assert_eq!(lines[2], "(1, 1) (512, 512)");
        assert!(lines[3].contains("EPERM") || lines[3].contains("not allowed"), "{said}");
    })
    .await;
}

/// 57: threads that spin get no more than the quota, whatever they call themselves.
#[tokio::test]
async fn a_processor_s_quota_holds_however_many_spin() {
    const TEST: &str = "waste::a_processor_s_quota_holds_however_many_spin";
    as_both(TEST, async |cage| {
        let mut spec = cage.spec("spin");
        spec.limits.cpu_millis = 200;
        let mut sandbox = cage.boot_as(&spec, Vec::new()).await;
        let said = sandbox
            .run(
                r"
attempt('nice', lambda: os.setpriority(os.PRIO_PROCESS, 0, -20))
attempt('realtime', lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))
attempt('affinity', lambda: os.sched_setaffinity(0, {0}))
print(os.getpriority(os.PRIO_PROCESS, 0))
",
            )
            .await;
        let lines: Vec<_> = said.lines().collect();
        assert!(lines[..3].iter().all(|line| ["EPERM", "EACCES"].iter().any(|code| line.ends_with(code))), "{said}");
        if !cage.sandboxes.probe().await.hard_memory {
            assert_eq!(lines[3], "10", "without a group to count, it stands behind everyone else");
            return skipped(TEST, "the half of a plain user has no processor quota: it may make no cgroups here");
        }
        let (before, begun) = (sandbox.running.usage().await.unwrap().cpu_ms, std::time::Instant::now());
        sandbox
            .run("import time\nfor _ in range(4):\n    if os.fork() == 0:\n        end = time.monotonic() + 2\n        while time.monotonic() < end: pass\n        os._exit(0)\nfor _ in range(4): os.wait()")
            .await;
        let (used, took) = (sandbox.running.usage().await.unwrap().cpu_ms - before, begun.elapsed().as_millis());
        // A fifth of a processor. Who never rests gets it once a second: as much may have been taken in advance, and two of the usual periods.
        assert!(u128::from(used) <= took / 5 + 260 && used > 50, "{used} ms of processor in {took} ms");
    })
    .await;
}

/// What a control group's file says of a sandbox, whichever version it is of.
fn of_group(id: &str, file: &str) -> Option<String> {
    let listed = |folder: &str| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut groups = ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup"].into_iter().flat_map(listed);
    // nimblesite-spawner-sandbox-run
    let is_ours = |name: &str| name.starts_with("nimblesite-") && name.contains(&format!("-{id}-"));
    let ours = groups.find(|group| is_ours(&group.file_name().unwrap().to_string_lossy()))?;
    fs::read_to_string(ours.join(file)).ok().map(|text| text.trim().to_owned())
}

/// Who spins without end stands behind the others, and returns when it rests.
#[tokio::test]
async fn who_never_rests_stands_behind_the_others_until_it_rests() {
    const TEST: &str = "waste::who_never_rests_stands_behind_the_others_until_it_rests";
    let Some(cage) = Cage::new(TEST, As::Root).await else { return };
    let id = format!("spin-{}", std::process::id());
    let mut sandbox = cage.boot(&id).await;
    let Some(idle) = of_group(&id, "cpu.idle") else {
        return skipped(TEST, "no group of this root's has cpu.idle: Linux 5.15 and its cpu controller have it");
    };
    assert_eq!(idle, "0");
    let weight = |id: &str| of_group(id, "cpu.shares").or_else(|| of_group(id, "cpu.weight"));
    let before = weight(&id);
    let spin = "import time\nend = time.monotonic() + 5\nwhile time.monotonic() < end: pass";
    sandbox.send("tools/call", serde_json::json!({"name": "run", "arguments": {"code": spin}})).await;
    eventually("its standing back", || of_group(&id, "cpu.idle").as_deref() == Some("1")).await;
    sandbox.receive().await.unwrap();
    eventually("its return", || of_group(&id, "cpu.idle").as_deref() == Some("0")).await;
    assert_eq!(weight(&id), before);
}

/// What a disk filler writes is written as slowly as the operator says, also by the kernel's own threads.
#[tokio::test]
async fn a_disk_is_as_fast_as_the_operator_says() {
    const TEST: &str = "waste::a_disk_is_as_fast_as_the_operator_says";
    let change = |config: &mut nimblesite::config::Config| config.limits.sandbox_disk_bytes_per_second_max = 8 << 20;
    let Some(cage) = Cage::with(TEST, As::Root, change).await else { return };
    if !cage.sandboxes.probe().await.paced_disk {
        return skipped(TEST, "bounding it needs blkio of cgroups version 1 and loop devices, or io of version 2");
    }
    let mut sandbox = cage.boot("filler").await;
    let told = sandbox
        .run(
            r"
import time
begun = time.monotonic()
with open('/workspace/file', 'wb') as file:
    file.write(b'x' * (24 << 20)); os.fsync(file.fileno())
print(time.monotonic() - begun)
",
        )
        .await;
    let took: f64 = told.trim().parse().unwrap();
    assert!((2.0..20.0).contains(&took), "24 MiB at 8 MiB a second: {took} s");
    // Nothing of it stays on the device when the workspace is gone.
    drop(sandbox);
    cage.sandboxes.destroy(&cage.spec("filler").id).await.unwrap();
    let left = fs::read_to_string("/sys/fs/cgroup/blkio/blkio.throttle.write_bps_device").unwrap_or_default();
    assert!(!left.lines().any(|line| line.ends_with(&format!(" {}", 8 * MIB))), "{left}");
}

/// 58: objects of the kernel that are nobody's memory.
#[tokio::test]
async fn watchers_and_pollers_run_out_for_the_waster_alone() {
    as_both("waste::watchers_and_pollers_run_out_for_the_waster_alone", async |cage| {
        let mut neighbour = cage.boot("neighbour").await;
        let mut sandbox = cage.boot("waster").await;
        let said = sandbox
            .run(
                r"
import select
kept = []
def until_no_more(make):
    made = 0
    try:
        while made < 100000:
            kept.append(make()); made += 1
    except OSError as error:
        return errno.errorcode[error.errno], made <= 512
def inotify():
    fd = libc.inotify_init1(0)
    if fd < 0: raise OSError(ctypes.get_errno(), 'inotify')
    return fd
print('inotify', until_no_more(inotify))
for fd in kept[8:]: os.close(fd)
del kept[8:]
print('epoll', until_no_more(lambda: select.epoll()))
",
            )
            .await;
        let lines: Vec<_> = said.lines().collect();
        assert!(lines[0] == "inotify ('EMFILE', True)" && lines[1] == "epoll ('EMFILE', True)", "{said}");
        // Who has a user of its own leaves the host and the neighbour theirs.
        assert!(rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::CLOEXEC).is_ok(), "the host's user has its own");
        if cage.by == As::Root {
            let told = neighbour.run("fd = libc.inotify_init1(0); print(fd >= 0)").await;
            assert_eq!(told, "True\n");
        }
        assert_eq!(neighbour.run("import select; print(select.epoll().fileno() > 2)").await, "True\n");
    })
    .await;
}
