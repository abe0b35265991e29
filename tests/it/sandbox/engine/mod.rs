//! Sandboxes that are containers: in a real Podman or Docker where there is one, and against an engine that checks every word where there is none or where
//! one of this machine cannot be made to misbehave.

mod config; // what the API makes of them
mod egress; // the way out that is granted
mod machine;
mod stand_in;

use super::cage::{As, Cage, MIB, Sandbox, eventually, secret};
use machine::{Engine, IMAGE};
use nimblesite::{
    config::SandboxBackend,
    sandbox::{ExitCause, ImageRefused, Rung, SandboxError, Start, StopReason},
};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::json;
use stand_in::{DIGEST, StandIn};
use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

const CANARY: &str = "canary-7b1f93";

/// A cage whose sandboxes are containers of that engine.
fn cage(engine: &Engine) -> Cage {
    Cage::unproved(As::Root, |config| {
        config.sandbox.backend = SandboxBackend::Engine;
        config.sandbox.engine_socket = Some(engine.socket());
        config.sandbox.images = vec![IMAGE.to_owned()];
        // A machine that runs all tests at once.
        config.limits.sandbox_boot_ms = Duration::from_secs(60);
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_wants_everything_gets_what_a_sandbox_gets() {
    let Some(engine) = Engine::here("engine::an_image_that_wants_everything_gets_what_a_sandbox_gets") else { return };
    let cage = cage(engine);
    let mut sandbox = cage.boot("image").await;
    let seen = sandbox
        .run(
            r#"
print("user", os.getuid() >= 2_000_000, os.getuid() == os.getgid(), os.getgroups() in ([], [os.getgid()]))
for line in open("/proc/self/status"):
    if line.startswith(("Cap", "NoNewPrivs", "Seccomp:")):
        print(*line.split())
print("pid 1", open("/proc/1/cmdline").read().split("\0")[0].endswith("python3"))
print("net", sorted(line.split(":")[0].strip() for line in open("/proc/net/dev") if ":" in line))
for path in ("/etc/x", "/usr/x", "/bundle/x", "/x"):
    attempt("write " + path, lambda: open(path, "w").close())
for path in ("/tmp/x", "/data/x", "/workspace/x"):
    attempt("write " + path, lambda: open(path, "w").close())
print("env", os.environ["HOME"], os.environ["FROM_IMAGE"])
"#,
        )
        .await;
    let capabilities = ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"].map(|set| format!("{set} 0000000000000000\n")).concat();
    let expected = format!(
        "user True True True\n{capabilities}NoNewPrivs: 1\nSeccomp: 2\npid 1 True\nnet ['lo']\n\
         write /etc/x EROFS\nwrite /usr/x EROFS\nwrite /bundle/x EROFS\nwrite /x EROFS\n\
         write /tmp/x ok\nwrite /data/x ok\nwrite /workspace/x ok\nenv /workspace 1\n"
    );
    assert_eq!(seen, expected);
    let [container] = engine.containers("image").try_into().expect("one container");
    let facts: serde_json::Value = serde_json::from_str(&engine.says(&["inspect", &container])).unwrap();
    let host = &facts[0]["HostConfig"];
    assert_eq!((&host["Memory"], &host["MemorySwap"]), (&json!(512 * MIB), &json!(512 * MIB)));
    assert_eq!((&host["PidsLimit"], &host["NanoCpus"], &host["NetworkMode"]), (&json!(128), &json!(1_000_000_000), &json!("none")));
    assert_eq!((&host["Privileged"], &host["ReadonlyRootfs"], &host["LogConfig"]["Type"]), (&json!(false), &json!(true), &json!("none")));
    // Its health check would have written by now, or will never: the entry point and the check are not the image's.
    assert!(!sandbox.running.stderr_tail().contains("entered"));
    assert!(!sandbox.run("print(os.listdir('/workspace'))").await.contains("health"));
    let usage = sandbox.running.usage().await.unwrap();
    assert!(usage.memory_bytes > MIB && usage.memory_bytes < 512 * MIB && usage.pids >= 1 && usage.cpu_ms > 0, "{usage:?}");
    let volumes = engine.says(&["volume", "ls", "--quiet"]);
    assert_eq!(volumes, "", "no place on the host's disk that nobody bounds");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kernel_is_behind_the_same_list_of_calls() {
    let Some(engine) = Engine::here("engine::the_kernel_is_behind_the_same_list_of_calls") else { return };
    let cage = cage(engine);
    let mut sandbox = cage.boot("calls").await;
    let seen = sandbox
        .run(
            r#"
X86 = os.uname().machine == "x86_64"
N = dict(unshare=272, mount=165, bpf=321, perf=298, io_uring=425, keyctl=250, ptrace=101, setns=308, clone3=435, userfaultfd=323) if X86 else \
    dict(unshare=97, mount=40, bpf=280, perf=241, io_uring=425, keyctl=219, ptrace=117, setns=268, clone3=435, userfaultfd=282)
for name, number in N.items():
    print(name, call(number, 0x10000000, 0, 0, 0, 0))
for name, family, kind in (("vsock", 40, 1), ("netlink", 16, 3), ("packet", 17, 3), ("alg", 38, 5), ("raw", 2, 3)):
    attempt(name, lambda: socket.socket(family, kind).close())
attempt("tcp", lambda: socket.create_connection(("127.0.0.1", 9), 1))
r, w = os.pipe()
import fcntl
for name, code in (("sti", 0x5412), ("sti with an upper half", 0x1_0000_5412)):
    print(name, call(16 if X86 else 29, r, code, b"x"))
print("fionread", call(16 if X86 else 29, r, 0x541b, ctypes.create_string_buffer(8)))
import threading
thread = threading.Thread(target=print, args=("threads work",)); thread.start(); thread.join()
"#,
        )
        .await;
    let denied =
        ["unshare", "mount", "bpf", "perf", "io_uring", "keyctl", "ptrace", "setns"].map(|name| format!("{name} EPERM\n")).concat();
    let sockets = ["vsock", "netlink", "packet", "alg", "raw"].map(|name| format!("{name} EPERM\n")).concat();
    let expected = format!(
        "{denied}clone3 ENOSYS\nuserfaultfd EPERM\n{sockets}tcp ECONNREFUSED\nsti EPERM\nsti with an upper half EPERM\nfionread ok\nthreads work\n"
    );
    assert_eq!(seen, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_outlives_its_containers_and_its_files_go_in_and_out() {
    let Some(engine) = Engine::here("engine::a_workspace_outlives_its_containers_and_its_files_go_in_and_out") else { return };
    let cage = cage(engine);
    let mut first = cage.boot("stays").await;
    assert_eq!(first.run("open('/workspace/note', 'w').write('kept'); print('written')").await, "written\n");
    first.to = None;
    assert_eq!(first.running.exited().await, ExitCause::Exit(0), "the end of its stdin asks it to end");
    eventually("its container's removal", || engine.containers("stays").is_empty()).await;
    let mut second = cage.boot("stays").await;
    assert_eq!(second.run("print(open('/workspace/note').read())").await, "kept\n");

    let spec = cage.spec("stays");
    assert_eq!(cage.sandboxes.file_read(&spec, "note", 100).await.unwrap(), b"kept");
    cage.sandboxes.file_write(&spec, "in/new", &mut &b"from outside"[..]).await.unwrap();
    assert_eq!(second.run("print(open('/workspace/in/new').read())").await, "from outside\n");
    assert!(matches!(cage.sandboxes.file_read(&spec, "../../etc/passwd", 100).await, Err(SandboxError::Denied(_))));
    let mut archive = Vec::new();
    cage.sandboxes.snapshot(&spec, &mut archive).await.unwrap();
    let other = cage.spec("copy");
    cage.sandboxes.restore(&other, &mut archive.as_slice()).await.unwrap();
    assert_eq!(cage.sandboxes.file_read(&other, "in/new", 100).await.unwrap(), b"from outside");

    cage.sandboxes.destroy(&spec.id).await.unwrap();
    assert!(matches!(second.running.exited().await, ExitCause::Signal(9) | ExitCause::Stopped(_)));
    assert_eq!(engine.containers("stays"), Vec::<String>::new());
    assert!(!cage.config.data.join("sandboxes/stays").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_reaches_the_program_and_nothing_that_an_engine_keeps() {
    let Some(engine) = Engine::here("engine::a_secret_reaches_the_program_and_nothing_that_an_engine_keeps") else { return };
    let cage = cage(engine);
    let mut python = cage.boot_as(&cage.spec("python"), vec![secret("API_KEY", CANARY)]).await;
    assert_eq!(python.run("print(os.environ['API_KEY'])").await, format!("{CANARY}\n"));
    assert_eq!(
        python.run("print('API_KEY' in open('/proc/self/environ').read())").await,
        "PermissionError: [Errno 13] Permission denied: '/proc/self/environ'\n"
    );
    // A program of the bundle's own takes its secrets from its environment, and the protocol's bytes come after them.
    let program = "#!/bin/sh\nread line\nprintf '%s\\n' \"$line $API_KEY $OTHER\"\n";
    fs::write(cage.bundle.join("serve"), program).unwrap();
    fs::set_permissions(cage.bundle.join("serve"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut spec = cage.spec("command");
    spec.start = Start::Command { command: "./serve".into(), args: vec!["an argument".into()], env: Vec::new() };
    let mut command = cage.boot_as(&spec, vec![secret("API_KEY", CANARY), secret("OTHER", "a 'b' \\n c")]).await;
    let inspected: Vec<String> = ["python", "command"].iter().map(|name| engine.says(&["inspect", &engine.containers(name)[0]])).collect();
    tokio::io::AsyncWriteExt::write_all(command.to.as_mut().unwrap(), b"hello\n").await.unwrap();
    assert_eq!(command.from.next_line().await.unwrap().unwrap(), format!("hello {CANARY} a 'b' \\n c"));
    assert_eq!(command.running.exited().await, ExitCause::Exit(0));
    for text in inspected {
        assert!(text.contains("nimblesite.sandbox") && !text.contains(CANARY), "{text}");
    }
    // Nor is it in a file of the engine, or in one of ours.
    let found =
        std::process::Command::new("grep").args(["-rlsF", CANARY]).arg(engine.socket().parent().unwrap()).arg(cage.dir()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_forks_and_ends_are_bounded_and_told_apart() {
    let Some(engine) = Engine::here("engine::memory_forks_and_ends_are_bounded_and_told_apart") else { return };
    let cage = cage(engine);
    let mut spec = cage.spec("ends");
    spec.limits.memory_bytes = 100 * MIB;
    spec.limits.pids = 32;
    let mut sandbox = cage.boot_as(&spec, Vec::new()).await;
    let forks = "children = []\ntry:\n    for _ in range(100):\n        pid = os.fork()\n        if pid == 0:\n            import time; time.sleep(60); os._exit(0)\n        children.append(pid)\nexcept BlockingIOError: print('EAGAIN')\nprint(len(children) < 32)\nfor pid in children: os.kill(pid, 9); os.waitpid(pid, 0)";
    assert_eq!(sandbox.run(forks).await, "EAGAIN\nTrue\n");
    sandbox
        .send(
            "tools/call",
            json!({ "name": "run", "arguments": { "code": "x = bytearray(1 << 30)\nfor i in range(0, len(x), 4096): x[i] = 1" } }),
        )
        .await;
    // Not every engine says why the kernel ended it: this one may know the signal alone.
    assert!(matches!(sandbox.running.exited().await, ExitCause::Oom | ExitCause::Signal(9)));
    let ends = async |sandbox: &mut Sandbox, code: &str| {
        sandbox.send("tools/call", json!({ "name": "run", "arguments": { "code": code } })).await;
        sandbox.running.exited().await
    };
    let mut sandbox = cage.boot_as(&spec, Vec::new()).await;
    assert_eq!(ends(&mut sandbox, "import os; os.write(2, b'last words'); os._exit(3)").await, ExitCause::Exit(3));
    assert!(sandbox.running.stderr_tail().ends_with("last words"), "{}", sandbox.running.stderr_tail());
    let sandbox = cage.boot_as(&spec, Vec::new()).await;
    assert_eq!(sandbox.running.kill(StopReason::Deadline).await, ExitCause::Stopped(StopReason::Deadline));
    eventually("the containers' removal", || engine.containers("ends").is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_container_outlives_its_server_or_its_keeper() {
    let Some(engine) = Engine::here("engine::no_container_outlives_its_server_or_its_keeper") else { return };
    let cage = cage(engine);
    let data = cage.config.data.clone();
    let orphan = cage.boot("orphan").await;
    assert_eq!(engine.containers("orphan").len(), 1);
    // A killed keeper removes nothing. Its successor finds what it left by the label.
    kill_process(keeper_of(&data), Signal::KILL).unwrap();
    assert!(matches!(orphan.running.exited().await, ExitCause::Signal(9) | ExitCause::Stopped(_)));
    let spec = cage.spec("next");
    cage.sandboxes.file_list(&spec, "", 10).await.unwrap();
    assert_eq!(engine.containers("orphan"), Vec::<String>::new());

    // When the server is gone, its keeper sees that and cleans up; nobody has to tell it.
    let left = cage.boot("left").await;
    assert_eq!(engine.containers("left").len(), 1);
    let keeper = keeper_of(&data);
    // As a server's sudden end does it: every descriptor is closed, and nothing is said.
    drop((left, orphan));
    drop(cage);
    eventually("the keeper's end", || test_kill_process(keeper).is_err()).await;
    assert_eq!(engine.containers("left"), Vec::<String>::new());
}

/// The keeper that works for a data directory.
fn keeper_of(data: &Path) -> Pid {
    let found = fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw)?;
        let line = fs::read_to_string(entry.path().join("cmdline")).ok()?;
        (line.contains("keeper") && line.contains(data.to_str()?)).then_some(pid)
    });
    found.expect("a keeper")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pinned_by_digest_or_refused_with_the_reason() {
    let Some(engine) = Engine::here("engine::an_image_is_pinned_by_digest_or_refused_with_the_reason") else { return };
    let cage = cage(engine);
    let digest = cage.sandboxes.image_pin(IMAGE).await.unwrap();
    assert_eq!(digest, engine.digest(IMAGE));
    let refused = ImageRefused::NotListed { images: vec![IMAGE.to_owned()] };
    assert_eq!(cage.sandboxes.image_pin("docker.io/library/other:1").await, Err(refused));

    let absent = Cage::unproved(As::Root, |config| {
        config.sandbox.engine_socket = Some(engine.socket());
        config.sandbox.images = vec!["localhost/absent:1".to_owned()];
    });
    match absent.sandboxes.image_pin("localhost/absent:1").await {
        Err(ImageRefused::NotHere(why)) => assert!(why.contains("not on this machine"), "{why}"),
        other => panic!("{other:?}"),
    }
    // A native server beside the same engine: what names an image is a container, the rest is not.
    let probe = cage.sandboxes.probe().await;
    assert_eq!((probe.rung, &probe.trouble), (Rung::Engine, &None));
    assert!(probe.engine.as_deref().is_some_and(|says| says.starts_with(engine.name())), "{probe:?}");
    assert_eq!(serde_json::to_value(Rung::EngineRuntime).unwrap(), json!("engine+runtime"));
}

#[tokio::test]
async fn without_an_engine_an_image_is_refused_when_it_is_named() {
    let none = Cage::unproved(As::Root, |_| {});
    assert_eq!(none.sandboxes.image_pin("python:3").await, Err(ImageRefused::NoEngine));
    assert_eq!(none.sandboxes.engine_probe().await, None);
    let gone = Cage::unproved(As::Root, |config| {
        config.sandbox.engine_socket = Some("/nowhere/engine.sock".into());
        config.sandbox.images = vec!["python:3".to_owned()];
    });
    assert_eq!(gone.sandboxes.image_pin("python:3").await, Err(ImageRefused::NoEngine));
    let mut spec = gone.spec("a");
    spec.image = Some("sha256:abc".to_owned());
    match gone.try_boot(&spec, Vec::new()).await.map(|_| ()) {
        Err(SandboxError::Unavailable(why)) => assert!(why.contains("/nowhere/engine.sock"), "{why}"),
        other => panic!("{other:?}"),
    }
}

/// A cage whose engine is the stand-in, and a specification that runs in its image.
fn beside(engine: &StandIn, change: impl FnOnce(&mut nimblesite::config::Config)) -> (Cage, nimblesite::sandbox::SandboxSpec) {
    let cage = Cage::unproved(As::Root, |config| {
        config.sandbox.engine_socket = Some(engine.socket.clone());
        config.sandbox.images = vec!["registry.example/tools:1".to_owned()];
        change(config);
    });
    let mut spec = cage.spec("echo");
    spec.start = Start::Command { command: "cat".into(), args: vec!["-u".into()], env: Vec::new() };
    spec.image = Some(DIGEST.to_owned());
    (cage, spec)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_is_asked_for_one_container_and_nothing_else() {
    let engine = StandIn::start();
    engine.look(|state| state.left = vec!["old1".into(), "old2".into()]);
    let (cage, spec) = beside(&engine, |config| config.sandbox.engine_runtime = "runsc".into());
    let mut sandbox = cage.boot_as(&spec, Vec::new()).await;
    tokio::io::AsyncWriteExt::write_all(sandbox.to.as_mut().unwrap(), b"through the engine\n").await.unwrap();
    assert_eq!(sandbox.from.next_line().await.unwrap().unwrap(), "through the engine");
    sandbox.to = None;
    assert_eq!(sandbox.running.exited().await, ExitCause::Exit(0));
    let (asked, made) = engine.look(|state| (state.asked.clone(), state.made.clone()));
    let name = asked.iter().find_map(|line| line.strip_suffix("/start")?.strip_prefix("POST ")).unwrap().to_owned();
    assert!(name.starts_with("/containers/nimblesite-") && name.ends_with("-echo-0"), "{name}");
    let expected = [
        "GET /version",
        "GET /version",
        "GET /info",
        "GET /containers/json",
        "DELETE /containers/old1",
        "DELETE /containers/old2",
        &format!("GET /images/{DIGEST}/json"),
        "POST /containers/create",
        &format!("POST {name}/attach"),
        &format!("POST {name}/start"),
        &format!("POST {name}/wait"),
        &format!("GET {name}/json"),
        &format!("DELETE {name}"),
    ];
    assert_eq!(asked, expected);
    // The whole body is held to the letter beside the code; here is what depends on where it came from.
    let [body] = made.try_into().unwrap();
    let host = &body["HostConfig"];
    assert_eq!((&body["Image"], &host["Runtime"]), (&json!(DIGEST), &json!("runsc")));
    assert_eq!((&body["Entrypoint"], &body["Cmd"]), (&json!(["cat"]), &json!(["-u"])));
    assert!(host["Tmpfs"]["/var/lib/db"].is_string(), "the image's volume");
    assert_eq!(host["Mounts"][0]["Source"], json!(cage.config.data.join("sandboxes/echo/workspace")));
    assert_eq!(host["Mounts"][2]["Source"], json!(cage.bundle));
    let seccomp = host["SecurityOpt"][1].as_str().unwrap().strip_prefix("seccomp=").unwrap();
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(seccomp).unwrap()["defaultAction"],
        json!("SCMP_ACT_ERRNO"),
        "Docker takes it whole"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_is_killed_or_ran_out_of_memory_is_removed_and_told_apart() {
    for oom in [false, true] {
        let engine = StandIn::start();
        engine.look(|state| state.oom = oom);
        let (cage, spec) = beside(&engine, |_| {});
        let sandbox = cage.boot_as(&spec, Vec::new()).await;
        if oom {
            engine.end(137);
            assert_eq!(sandbox.running.exited().await, ExitCause::Oom);
            continue;
        }
        assert_eq!(sandbox.running.kill(StopReason::Revoked).await, ExitCause::Stopped(StopReason::Revoked));
        let asked = engine.look(|state| state.asked.clone());
        assert!(asked.iter().any(|line| line.ends_with("/kill")) && asked.last().unwrap().starts_with("DELETE"), "{asked:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_cannot_bound_is_not_used() {
    let without = [
        (json!({ "MemoryLimit": false, "PidsLimit": true }), "cannot bound memory"),
        (json!({ "MemoryLimit": true, "PidsLimit": false }), "cannot bound memory"),
        (json!({ "MemoryLimit": true, "PidsLimit": true, "SecurityOptions": ["name=rootless"] }), "use Docker as root, or Podman"),
        (json!({ "MemoryLimit": true, "PidsLimit": true, "SecurityOptions": ["name=userns"] }), "use Docker as root, or Podman"),
        (json!({ "MemoryLimit": true, "PidsLimit": true, "Runtimes": { "runc": {} } }), "has no runtime runsc; it has runc"),
    ];
    for (info, why) in without {
        let engine = StandIn::start();
        engine.look(|state| state.info = info);
        let (cage, spec) = beside(&engine, |config| config.sandbox.engine_runtime = "runsc".into());
        match cage.try_boot(&spec, Vec::new()).await.map(|_| ()) {
            Err(SandboxError::Unavailable(told)) => assert!(told.contains(why), "{told}"),
            other => panic!("{why}: {other:?}"),
        }
        assert_eq!(engine.look(|state| state.made.len()), 0, "nothing was made");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_only_where_the_operator_said_so() {
    let name = "registry.example/tools:1";
    for pull in [false, true] {
        let engine = StandIn::start();
        engine.look(|state| state.image = false);
        let (cage, _) = beside(&engine, |config| config.sandbox.engine_pull = pull);
        let pinned = cage.sandboxes.image_pin(name).await;
        let pulls = engine.look(|state| state.asked.iter().filter(|line| *line == "POST /images/create").count());
        if pull {
            assert_eq!((pinned, pulls), (Ok(DIGEST.to_owned()), 1));
        } else {
            assert!(matches!(pinned, Err(ImageRefused::NotHere(_))), "{pinned:?}");
            assert_eq!(pulls, 0);
        }
    }
}
