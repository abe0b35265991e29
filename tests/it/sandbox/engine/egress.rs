//! The way out of containers: the same door as every sandbox's, and no network beside it.

use super::{
    super::egress::what_is_granted_is_reached_and_nothing_else,
    cage,
    config::settings,
    machine::{Engine, IMAGE},
    stand_in::StandIn,
};
use crate::sandbox::cage::{As, Cage};
use nimblesite::{
    config::SandboxBackend,
    sandbox::{SandboxError, Start},
};
use serde_json::json;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_container_reaches_what_its_bundle_is_granted_and_nothing_beside_it() {
    let Some(engine) = Engine::here("engine::egress::a_container_reaches_what_its_bundle_is_granted_and_nothing_beside_it") else { return };
    what_is_granted_is_reached_and_nothing_else(settings(engine), json!({"workspace_image": IMAGE})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_s_door_is_its_own_and_there_before_its_program_runs() {
    let Some(engine) = Engine::here("engine::egress::a_container_s_door_is_its_own_and_there_before_its_program_runs") else { return };
    let cage = cage(engine);
    let mut with = cage.spec("with-door");
    with.network = true;
    let mut sandbox = cage.boot_as(&with, Vec::new()).await;
    let door = sandbox.running.door().expect("a door");
    assert_eq!(door.local_addr().unwrap().to_string(), "127.0.0.1:3128");
    let said = sandbox
        .run(
            "attempt('proxy', lambda: socket.create_connection(('127.0.0.1', 3128), 2).close())\n\
             attempt('udp', lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('192.0.2.1', 53)))\n\
             attempt('beyond', lambda: socket.create_connection(('192.0.2.1', 443), 2).close())\n\
             print(sorted(line.split(':')[0].strip() for line in open('/proc/net/dev') if ':' in line), os.environ['HTTPS_PROXY'])",
        )
        .await;
    assert_eq!(said, "proxy ok\nudp ENETUNREACH\nbeyond ENETUNREACH\n['lo'] http://127.0.0.1:3128\n");
    door.set_nonblocking(true).unwrap();
    assert!(door.accept().is_ok(), "it arrives at this sandbox's door");
    let facts: serde_json::Value = serde_json::from_str(&engine.says(&["inspect", &engine.containers("with-door")[0]])).unwrap();
    assert_eq!(facts[0]["HostConfig"]["NetworkMode"], "none");

    let mut without = cage.boot("without-door").await;
    assert!(without.running.door().is_none());
    let said = without
        .run("attempt('proxy', lambda: socket.create_connection(('127.0.0.1', 3128), 2).close())\nprint('HTTPS_PROXY' in os.environ)")
        .await;
    assert!(said.starts_with("proxy E") && said.ends_with("\nFalse\n"), "{said}");
    assert!(door.accept().is_err(), "nobody else comes to the first's door");

    // A program that waits for nothing: it dials as soon as it runs.
    let mut spec = cage.spec("at-once");
    let code = "import socket; socket.create_connection(('127.0.0.1', 3128), 2); print('dialled', flush=True); input()";
    spec.start = Start::Command { command: "python3".into(), args: vec!["-c".into(), code.into()], env: Vec::new() };
    spec.network = true;
    let mut at_once = cage.boot_as(&spec, Vec::new()).await;
    let line = tokio::time::timeout(Duration::from_secs(30), at_once.from.next_line()).await.expect("a line in time").unwrap();
    assert_eq!(line.as_deref(), Some("dialled"), "{}", at_once.running.stderr_tail());
}

/// What no door can be opened in is not started: it would be told of a proxy that is not there.
#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_with_a_network_of_its_own_is_given_no_door() {
    for (runtime, doors) in [("runsc", false), ("runc", true)] {
        let engine = StandIn::start();
        let cage = Cage::unproved(As::Root, |config| {
            config.sandbox.backend = SandboxBackend::Engine;
            config.sandbox.engine_socket = Some(engine.socket.clone());
            config.sandbox.engine_runtime = runtime.to_owned();
            config.sandbox.images = vec!["an-image".to_owned()];
        });
        assert_eq!(cage.sandboxes.has_doors(None).await, doors, "{runtime}");
        let mut spec = cage.spec("one");
        spec.network = true;
        // The engine that is not there names no process whose namespace could be entered: nothing runs then either.
        let refused = cage.try_boot(&spec, Vec::new()).await.err();
        assert!(matches!(&refused, Some(SandboxError::Unavailable(why)) if why.contains("way out")), "{runtime}: {refused:?}");
        engine.look(|state| assert_eq!(state.asked.iter().any(|line| line.contains("/start")), doors, "{runtime}: {:?}", state.asked));
    }
}
