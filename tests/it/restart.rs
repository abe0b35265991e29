//! A new server takes the old one's place: no client is refused, and none is told that something failed.

use crate::harness::Settings;
use serde_json::json;
use std::{
    os::unix::fs::PermissionsExt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// What one client saw.
#[derive(Default)]
struct Seen {
    answered: usize,
    wrong: Vec<String>,
}

/// Asks again and again until told to stop; `fresh` opens a connection for each request, otherwise connections are kept.
async fn client(url: String, key: String, body: Option<String>, fresh: bool, stop: Arc<AtomicBool>) -> Seen {
    let idle = usize::from(!fresh);
    let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(idle).timeout(Duration::from_secs(30)).build().unwrap();
    let mut seen = Seen::default();
    while !stop.load(Ordering::Relaxed) {
        let request = match &body {
            Some(body) => client.post(&url).body(body.clone()),
            None => client.get(&url),
        };
        let wrong = match request.header("X-API-Key", &key).send().await {
            Err(error) => Some(format!("{error:?}")),
            Ok(answer) => {
                let status = answer.status();
                let text = answer.text().await;
                (status != 200 || text.is_err()).then(|| format!("{status} {text:?}"))
            }
        };
        match wrong {
            Some(wrong) => seen.wrong.push(wrong),
            None => seen.answered += 1,
        }
    }
    seen
}

#[tokio::test]
async fn no_request_is_refused_across_restarts_on_a_socket_that_stays() {
    let settings = Settings::default().socket().limit("shutdown_linger_ms", 300).limit("lock_wait_ms", 20_000);
    let mut server = settings.start().await;
    let tenant = server.tenant("Acme").await;
    let config = server.config(&tenant, "echo", "echo", &json!({})).await;
    let stop = Arc::new(AtomicBool::new(false));
    let (chat, list) = (format!("{}/api/v1/chat/{config}", server.base), format!("{}/api/v1/configs", server.base));
    let say = || Some(json!({"message": "hello"}).to_string());
    let clients: Vec<_> = [(chat.clone(), say(), true), (chat, say(), false), (list.clone(), None, true), (list, None, false)]
        .into_iter()
        .map(|(url, body, fresh)| tokio::spawn(client(url, tenant.key.clone(), body, fresh, Arc::clone(&stop))))
        .collect();
    let pause = || tokio::time::sleep(Duration::from_millis(150));
    pause().await;
    // As a supervisor restarts: the old one ends, then the new one begins.
    server.stop().await;
    server.run().await;
    pause().await;
    // The new one is there already, and waits for the data directory.
    server.hand_over().await;
    pause().await;
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        let seen = client.await.unwrap();
        assert_eq!(seen.wrong, Vec::<String>::new(), "after {} answers", seen.answered);
        assert!(seen.answered > 3, "{}", seen.answered);
    }
    server.done().await;
}

#[tokio::test]
async fn a_second_server_says_who_holds_the_directory_once_it_has_waited() {
    let server = Settings::default().limit("lock_wait_ms", 200).start().await;
    let began = std::time::Instant::now();
    let second = crate::harness::Process::command(&server.data()).args(["serve"]).output().await.unwrap();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success() && said.contains("a server already runs on"), "{said}");
    assert!(began.elapsed() >= Duration::from_millis(200));
    server.done().await;
}

#[tokio::test]
async fn files_are_closed_to_others_whatever_the_umask_was() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let script = "umask 000; exec \"$0\" --data \"$1\" user create --email a@example.com --password-stdin";
    let mut child = tokio::process::Command::new("/bin/sh");
    child.args(["-c", script, env!("CARGO_BIN_EXE_nimblesite")]).arg(&data).env_clear().stdin(std::process::Stdio::piped());
    let mut child = child.stdout(std::process::Stdio::null()).spawn().unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut child.stdin.take().unwrap(), b"correct horse battery staple\n").await.unwrap();
    assert!(child.wait().await.unwrap().success());
    let mut seen = 0;
    for entry in std::fs::read_dir(&data).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", entry.path());
        seen += 1;
    }
    assert!(seen >= 2, "{seen}");
}
