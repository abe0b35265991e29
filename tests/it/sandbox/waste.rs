//! Who wastes what all share: processes, disks, the server's memory.

use super::{
    as_both,
    cage::{As, MIB, eventually, skipped},
};
use nimblesite::sandbox::{ExitCause, SandboxLimits, Start, StopReason};
use std::time::Duration;

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
