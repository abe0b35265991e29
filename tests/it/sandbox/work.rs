//! Files in and out of a workspace, whatever lies there.

use super::as_both;
use nimblesite::sandbox::SandboxError;
use std::{
    process::{Command, Stdio},
    time::Duration,
};

#[tokio::test]
async fn files_go_in_and_come_out_while_nothing_runs_and_while_it_does() {
    as_both("work::files_go_in_and_come_out_while_nothing_runs_and_while_it_does", async |cage| {
        let (spec, all) = (cage.spec("one"), &cage.sandboxes);
        all.file_write(&spec, "folder/in.bin", &mut &b"\0\xff from outside"[..]).await.unwrap();
        let mut sandbox = cage.boot("one").await;
        assert_eq!(sandbox.run("print(open('/workspace/folder/in.bin', 'rb').read())").await, "b'\\x00\\xff from outside'\n");
        sandbox.run("open('/workspace/out.txt', 'w').write('from inside')").await;
        assert_eq!(all.file_read(&spec, "out.txt", 100).await.unwrap(), b"from inside");
        assert!(matches!(all.file_read(&spec, "out.txt", 5).await, Err(SandboxError::TooLong(5))));
        let listed: Vec<_> =
            all.file_list(&spec, "", 10).await.unwrap().into_iter().map(|entry| (entry.path, entry.kind, entry.bytes)).collect();
        let files: Vec<_> = listed.iter().filter(|(_, kind, _)| kind == "file").map(|(path, _, bytes)| (path.as_str(), *bytes)).collect();
        assert_eq!(files, [("folder/in.bin", 15), ("out.txt", 11)]);
        assert_eq!(all.file_list(&spec, "", 1).await.unwrap().len(), 1);
    })
    .await;
}

/// 45.
#[tokio::test]
async fn traps_in_a_workspace_are_neither_waited_for_nor_followed() {
    as_both("work::traps_in_a_workspace_are_neither_waited_for_nor_followed", async |cage| {
        let (spec, all) = (cage.spec("one"), &cage.sandboxes);
        let mut sandbox = cage.boot("one").await;
        let made = "mkfifo pipe; ln -s /etc/passwd passwd; ln -s / up; ln -s loop loop; ln -s out-of/../../etc rel; echo fine > fine; mkdir shut; chmod 0 shut";
        sandbox.shell(made).await;
        sandbox.run("s = socket.socket(socket.AF_UNIX); s.bind('/workspace/socket'); open(b'/workspace/\\xff', 'w').close()").await;
        let within = async |work: &str, doing: std::pin::Pin<Box<dyn Future<Output = Result<(), SandboxError>> + '_>>| {
            let done = tokio::time::timeout(Duration::from_secs(10), doing).await.unwrap_or_else(|_| panic!("{work} hangs"));
            assert!(matches!(done, Err(SandboxError::Denied(_))), "{work}: {done:?}");
        };
        for path in ["pipe", "passwd", "up/etc/passwd", "loop", "socket", "../etc/passwd", "/etc/passwd", "/proc/1/environ", "shut/x", "nothing", "a\0b", ""] {
            within(&format!("read {path}"), Box::pin(async { all.file_read(&spec, path, 1000).await.map(drop) })).await;
        }
        for path in ["pipe", "passwd", "up/x", "socket", "../x", "/x", "shut/x", ""] {
            within(&format!("write {path}"), Box::pin(async { all.file_write(&spec, path, &mut &b"x"[..]).await })).await;
        }
        let kinds: Vec<_> = all.file_list(&spec, "", 100).await.unwrap().into_iter().map(|entry| (entry.path, entry.kind)).collect();
        let kind = |name: &str| kinds.iter().find(|(path, _)| path == name).map(|(_, kind)| kind.as_str());
        assert_eq!((kind("pipe"), kind("passwd"), kind("up"), kind("socket")), (Some("other"), Some("link"), Some("link"), Some("other")));
        assert!(!kinds.iter().any(|(path, _)| path.starts_with("up/")), "{kinds:?}");
        let mut tar = Vec::new();
        all.snapshot(&spec, &mut tar).await.unwrap();
        let text = String::from_utf8_lossy(&tar);
        assert!(text.contains("fine") && !text.contains("root:x:0"), "a link is a link in the archive");
    })
    .await;
}

/// 47.
#[tokio::test]
async fn a_snapshot_comes_back_as_it_was_though_the_workspace_moves_under_it() {
    as_both("work::a_snapshot_comes_back_as_it_was_though_the_workspace_moves_under_it", async |cage| {
        let (spec, all) = (cage.spec("one"), &cage.sandboxes);
        let mut sandbox = cage.boot("one").await;
        sandbox.shell("mkdir -p a/b; printf kept > a/b/file; printf '#!/bin/sh\\necho runs' > a/run; chmod 755 a/run; ln -s b/file a/link; head -c 3000000 /dev/urandom > big").await;
        sandbox.send("tools/call", serde_json::json!({"name": "shell", "arguments": {"timeout_s": 20, "command":
            "mkdir race; while :; do mv race race2; ln -sfn /etc race; mv -T race gone; rm -f gone; mv race2 race; head -c $RANDOM /dev/zero > grows; done"}})).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        for _ in 0..5 {
            let mut tar = Vec::new();
            let size = all.snapshot(&spec, &mut tar).await.unwrap();
            assert_eq!(size, tar.len() as u64);
            assert!(!String::from_utf8_lossy(&tar).contains("root:x:0"));
            all.restore(&cage.spec("two"), &mut tar.as_slice()).await.unwrap();
        }
        let mut copy = cage.boot("two").await;
        assert_eq!(copy.shell("cat a/b/file a/link; a/run; stat -c %s big").await, "keptkeptruns\n3000000\n");
    })
    .await;
}

#[tokio::test]
async fn an_archive_from_elsewhere_writes_within_the_workspace_alone() {
    as_both("work::an_archive_from_elsewhere_writes_within_the_workspace_alone", async |cage| {
        let (spec, all) = (cage.spec("one"), &cage.sandboxes);
        let mut maker = cage.boot("maker").await;
        let made = maker
            .run(
                r"
import tarfile, io, base64
def tar(*members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode='w') as archive:
        for name, kind, link in members:
            member = tarfile.TarInfo(name); member.type = kind; member.linkname = link; member.mode = 0o6777
            member.size = 1 if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(b'x'))
    print(base64.b64encode(out.getvalue()).decode())
tar(('../../tmp/out', tarfile.REGTYPE, ''))
tar(('/tmp/out', tarfile.REGTYPE, ''))
tar(('way', tarfile.SYMTYPE, '/tmp'), ('way/out', tarfile.REGTYPE, ''))
tar(('node', tarfile.CHRTYPE, ''), ('pipe', tarfile.FIFOTYPE, ''), ('hard', tarfile.LNKTYPE, '/etc/passwd'), ('fine', tarfile.REGTYPE, ''))
print(base64.b64encode(b'no archive at all' * 100).decode())
",
            )
            .await;
        let decoded = |line: &str| {
            let mut child = Command::new("base64").arg("-d").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            std::io::Write::write_all(child.stdin.as_mut().unwrap(), line.as_bytes()).unwrap();
            child.wait_with_output().unwrap().stdout
        };
        let archives: Vec<_> = made.lines().map(decoded).collect();
        assert_eq!(archives.len(), 5, "{made}");
        for archive in [&archives[0], &archives[1], &archives[2], &archives[4]] {
            let done = all.restore(&spec, &mut archive.as_slice()).await;
            assert!(matches!(done, Err(SandboxError::Denied(_))), "{done:?}");
        }
        all.restore(&spec, &mut archives[3].as_slice()).await.unwrap();
        assert_eq!(cage.boot("one").await.shell("rm -f way; stat -c '%n %a' *").await, "fine 777\n");
    })
    .await;
}
