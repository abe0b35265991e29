//! The command line, as the real binary: exit codes, what is printed where, and what it does beside a running server.

use crate::{
    fake_provider::{At, Gate, Reply},
    harness::{Process, Server, Settings},
};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::Path,
    process::Stdio,
};
use tokio::io::AsyncWriteExt;

const PASSWORD: &str = "correct horse battery staple";

/// How a command ended, and what it printed.
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Ran {
    /// It ended so; what it printed on stdout.
    fn expect(self, code: i32) -> String {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self.stdout
    }

    fn json(self) -> Value {
        let text = self.expect(0);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// It ended so, printed nothing, and said this on stderr.
    fn complains(self, code: i32, text: &str) {
        assert_eq!((self.code, self.stdout.as_str()), (code, ""), "{}", self.stderr);
        assert!(self.stderr.contains(text), "{text:?} is not in {}", self.stderr);
    }
}

async fn run(data: &Path, args: &[&str]) -> Ran {
    run_with(data, args, "", &[]).await
}

async fn run_with(data: &Path, args: &[&str], stdin: &str, env: &[(&str, &str)]) -> Ran {
    let mut command = Process::command(data);
    command.args(args).envs(env.iter().copied()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A command that reads nothing may be gone before we write.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes()).await;
    let output = child.wait_with_output().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// A verified user, made by the command line.
async fn user(data: &Path, email: &str) {
    run_with(data, &["user", "create", "--email", email, "--password-stdin", "--verified"], &format!("{PASSWORD}\n"), &[]).await.expect(0);
}

#[tokio::test]
async fn wrong_usage_ends_with_2_and_failure_with_1() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("none");
    run(&data, &["serve", "--nonsense"]).await.complains(2, "--nonsense");
    run(&data, &["key", "list", "--tenant", "7"]).await.complains(2, "expected an id such as");
    run(&data, &["user", "token", "a@example.com", "--ttl", "1y"]).await.complains(2, "expected a duration such as 90d");
    run(&data, &["user", "create", "--email", "a@example.com"]).await.complains(2, "--password-stdin");
    run(&data, &["user", "list", "--json", "--quiet"]).await.complains(2, "cannot be used with");
    let id = "0192f0c1-2f6e-7c3a-9d2b-5a1f0e8b7c6d";
    run(&data, &["tenant", "delete", id]).await.complains(2, "--yes");
    run(&data, &["user", "list"]).await.complains(1, "there is no data directory");
    assert!(run(&data, &["--help"]).await.expect(0).contains("nimblesite demo"));
    assert!(run(&data, &["--version"]).await.expect(0).starts_with("nimblesite "));
    run(&data, &["tenant", "delete", id, "--yes"]).await.complains(1, "there is no data directory");
    assert!(!data.exists(), "none of these makes a data directory");
}

#[tokio::test]
async fn a_tenant_is_made_paid_for_and_watched_from_scripts() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    user(&data, "ada@example.com").await;
    run_with(&data, &["user", "create", "--email", "b@example.com", "--password-stdin"], "short", &[])
        .await
        .complains(1, "password: expected 8");
    let users = run(&data, &["--json", "user", "list"]).await.json();
    assert_eq!((users.as_array().unwrap().len(), &users[0]["email"], &users[0]["verified"]), (1, &json!("ada@example.com"), &json!(true)));

    let made = run(&data, &["--quiet", "tenant", "create", "--name", "Acme", "--owner", "ada@example.com"]).await.expect(0);
    let [id, key] = made.lines().collect::<Vec<_>>().try_into().unwrap();
    assert!(key.starts_with("ns_live_") && made.ends_with('\n'));
    run(&data, &["tenant", "create", "--name", "Acme", "--owner", "nobody@example.com"]).await.complains(1, "nobody@example.com");
    let issue = ["key", "issue", "--tenant", id, "--user", "ada@example.com", "--role", "viewer", "--expires", "90d", "--name", "ci"];
    let issued = run(&data, &[&["--quiet"], issue.as_slice()].concat()).await.expect(0);
    assert_eq!((issued.lines().count(), issued.starts_with("ns_live_")), (1, true));
    let issued = run(&data, &[&["--json"], issue.as_slice()].concat()).await.json();
    assert!(issued["key"].as_str().unwrap().starts_with("ns_live_"));
    assert_eq!((&issued["role"], &issued["name"]), (&json!("viewer"), &json!("ci")));
    // Among words a secret stands alone on its line.
    let spoken = run(&data, &issue).await.expect(0);
    assert_eq!(spoken.lines().filter(|line| line.starts_with("ns_live_")).count(), 1);

    let keys = run(&data, &["key", "list", "--tenant", id, "--json"]).await.json();
    assert_eq!(keys.as_array().unwrap().len(), 4);
    assert!(keys.as_array().unwrap().iter().all(|key| key.get("key").is_none()));
    let quiet = run(&data, &["key", "list", "--tenant", id, "--quiet"]).await.expect(0);
    let ids: Vec<&str> = keys.as_array().unwrap().iter().map(|key| key["id"].as_str().unwrap()).collect();
    assert_eq!(quiet.lines().collect::<Vec<_>>(), ids);

    let add = ["credit", "add", "--tenant", id, "--amount", "10.00", "--reference", "invoice-1"];
    for _ in 0..2 {
        assert_eq!(run(&data, &[&["--json"], add.as_slice()].concat()).await.json()["balance"], "10.000000000");
    }
    run(&data, &["credit", "add", "--tenant", id, "--amount", "-2.5", "--note", "goodwill"]).await.expect(0);
    run(&data, &["credit", "add", "--tenant", id, "--amount", "-7.500000001"]).await.complains(1, "");
    run(&data, &["credit", "add", "--tenant", id, "--amount", "1e3"]).await.complains(2, "expected dollars");
    let wallet = run(&data, &["--json", "credit", "show", "--tenant", id]).await.json();
    assert_eq!(wallet, json!({"balance": "7.500000000", "held": "0.000000000", "available": "7.500000000", "currency": "USD"}));
    let ledger = run(&data, &["--json", "credit", "ledger", "--tenant", id]).await.json();
    let kinds: Vec<_> = ledger.as_array().unwrap().iter().map(|entry| entry["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["topup", "adjustment"]);
    let table = run(&data, &["credit", "ledger", "--tenant", id]).await.expect(0);
    assert!(!table.contains('\x1b'), "no colours where there is no terminal");
    assert!(run(&data, &["migrate"]).await.expect(0).contains("1 of 1 tenants"));
}

#[tokio::test]
async fn commands_beside_the_server_hold_at_its_next_request() {
    let mut server = Settings::default().process().start().await;
    let data = server.data();
    let tenant = server.tenant("Acme").await;
    let config = server.config(&tenant, "echo", "echo", &json!({})).await;
    run(&data, &["serve"]).await.complains(1, "already runs");
    run(&data, &["demo", "--once"]).await.complains(1, "already runs");

    let issue = ["--json", "key", "issue", "--tenant", &tenant.id, "--user", &tenant.owner.email, "--role", "admin"];
    let issued = run(&data, &issue).await.json();
    let (key, key_id) = (issued["key"].as_str().unwrap(), issued["id"].as_str().unwrap());
    server.get("/api/v1/configs", key).await.expect(200);
    run(&data, &["key", "revoke", key_id]).await.expect(0);
    server.get("/api/v1/configs", key).await.problem(401, "invalid_api_key");
    server.get("/api/v1/configs", &tenant.key).await.expect(200);

    run(&data, &["tenant", "suspend", &tenant.id]).await.expect(0);
    server.chat(&tenant.key, &config, &json!({"message": "Hello"})).await.problem(403, "tenant_suspended");
    run(&data, &["tenant", "resume", &tenant.id]).await.expect(0);
    server.chat(&tenant.key, &config, &json!({"message": "Hello"})).await.expect(200);
    run(&data, &["credit", "add", "--tenant", &tenant.id, "--amount", "1"]).await.expect(0);
    assert_eq!(server.get("/api/v1/wallet", &tenant.key).await.expect(200).text("/balance"), "1.000000000");

    let token = run(&data, &["--quiet", "user", "token", &tenant.owner.email, "--ttl", "10m"]).await.expect(0);
    server.get("/api/v1/auth/me", token.trim()).await.expect(200);
    run(&data, &["user", "disable", &tenant.owner.email]).await.expect(0);
    server.get("/api/v1/auth/me", token.trim()).await.problem(401, "invalid_token");
    server.get("/api/v1/configs", &tenant.key).await.problem(401, "invalid_api_key");
    server.stop().await;
}

#[tokio::test]
async fn a_tenant_with_a_running_turn_is_deleted_by_the_server_with_every_byte() {
    let mut server = Settings::default().process().start().await;
    let data = server.data();
    let tenant = server.rich_tenant("Acme").await;
    let other = server.tenant("Other").await;
    let config = server.config(&tenant, "fake-anthropic", "smart", &json!({})).await;
    let gate = Gate::new();
    server.vendor.then(Reply::text("Never read.").stall(At::AfterHead, &gate));
    let chat = async { server.chat(&tenant.key, &config, &json!({"message": "Hello"})).await };
    let delete = async {
        server.vendor.called(1).await;
        run(&data, &["--json", "tenant", "delete", &tenant.id, "--yes"]).await.json()
    };
    let (chat, deleted) = tokio::join!(chat, delete);
    assert_eq!(deleted, json!({"id": tenant.id, "deleted": true, "unreached": []}));
    assert!(chat.status >= 400, "{} {}", chat.status, chat.body);
    gate.open();
    server.get("/api/v1/configs", &tenant.key).await.problem(401, "invalid_api_key");
    run(&data, &["tenant", "show", &tenant.id]).await.complains(1, "there is no tenant");
    run(&data, &["tenant", "delete", &tenant.id, "--yes"]).await.complains(1, "no tenant");
    server.get("/api/v1/configs", &other.key).await.expect(200);
    server.stop().await;
    let left: Vec<_> = walk(&data).into_iter().filter(|path| path.to_string_lossy().contains(&tenant.id)).collect();
    assert_eq!(left, Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn without_a_server_a_tenant_is_deleted_under_its_lock_past_a_dead_socket() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    user(&data, "ada@example.com").await;
    let made = run(&data, &["--quiet", "tenant", "create", "--name", "Acme", "--owner", "ada@example.com"]).await.expect(0);
    let id = made.lines().next().unwrap();
    // What a killed server leaves behind.
    drop(UnixListener::bind(data.join("control.sock")).unwrap());
    run(&data, &["tenant", "delete", id, "--yes"]).await.expect(0);
    assert_eq!(run(&data, &["--json", "tenant", "list"]).await.json(), json!([]));
    assert!(walk(&data).iter().all(|path| !path.to_string_lossy().contains(id)));
}

#[tokio::test]
async fn the_demo_can_be_run_again_and_takes_another_port() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let first = run(&data, &["demo", "--once", "--listen", "127.0.0.1:0"]).await.expect(0);
    for text in ["tool read_file", "Phone: 555-0100", "You edit websites for Acme Corp. Today is "] {
        assert!(first.contains(text), "{text} is not in {first}");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap();
    let again = run(&data, &["demo", "--once", "--listen", &at.to_string()]).await.expect(0);
    assert!(again.contains(&format!("Port {} is taken", at.port())), "{again}");
    let tenants = run(&data, &["--json", "tenant", "list"]).await.json();
    assert_eq!(tenants.as_array().unwrap().len(), 1, "the second demo uses the first one's tenant");
    let id = tenants[0]["id"].as_str().unwrap();
    assert_eq!(run(&data, &["--json", "credit", "show", "--tenant", id]).await.json()["balance"], "10.000000000");
    let shown = run(&data, &["--json", "demo", "--once", "--listen", "127.0.0.1:0"]).await.json();
    assert_eq!(shown["tenant_id"], id);
}

#[tokio::test]
async fn settings_are_shown_with_their_origin_and_without_secrets() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("nimblesite.toml"), "signup = \"closed\"\n[limits]\ntools_max = 7\n").unwrap();
    let env =
        [("NIMBLESITE_OPERATOR_TOKEN", "0123456789abcdefghij"), ("OPENAI_API_KEY", "sk-hidden"), ("NIMBLESITE_LIMITS__TOOLS_MAX", "9")];
    let args = ["serve", "--listen", "127.0.0.1:7", "--print-config", "--json"];
    let shown = run_with(dir.path(), &args, "", &env).await;
    assert!(!shown.stdout.contains("0123456789abcdefghij") && !shown.stdout.contains("sk-hidden"));
    let shown = shown.json();
    let line = |key: &str| shown.as_array().unwrap().iter().find(|line| line["key"] == key).unwrap().clone();
    assert_eq!((&line("listen")["value"], &line("listen")["from"]), (&json!("127.0.0.1:7"), &json!("flag --listen")));
    assert_eq!(line("limits.tools_max")["from"], "environment variable NIMBLESITE_LIMITS__TOOLS_MAX");
    assert_eq!((&line("operator_token")["value"], &line("providers.openai.api_key")["value"]), (&json!("[secret]"), &json!("[secret]")));
    assert!(line("signup")["from"].as_str().unwrap().ends_with("nimblesite.toml:1"));
    fs::write(dir.path().join("nimblesite.toml"), "\nsingup = \"closed\"\n").unwrap();
    run(dir.path(), &["serve"]).await.complains(2, "nimblesite.toml:2: singup: no such setting; the nearest is signup");
}

#[tokio::test]
async fn a_changed_rate_card_counts_without_a_restart_and_a_broken_one_does_not() {
    let server = Server::start().await;
    let tenant = server.tenant("Acme").await;
    let card = server.data().join("models.toml");
    let one = "[[model]]\nprovider = \"echo\"\nname = \"*\"\ninput = \"0\"\noutput = \"0\"\n";
    fs::write(&card, one).unwrap();
    until_models(&server, &tenant.key, 1).await;
    fs::write(&card, "[[model]]\nprovider = 7\n").unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(1_600)).await;
    until_models(&server, &tenant.key, 1).await;
    fs::write(&card, format!("{one}[[model]]\nprovider = \"ollama\"\nname = \"*\"\ninput = \"0\"\noutput = \"0\"\n")).unwrap();
    until_models(&server, &tenant.key, 2).await;
    let data = server.data();
    assert_eq!(run(&data, &["--json", "models", "list"]).await.json().as_array().unwrap().len(), 2);
    assert!(run(&data, &["models", "check", card.to_str().unwrap()]).await.expect(0).contains("whole rate card of 2"));
    let broken = data.join("broken.toml");
    fs::write(&broken, "[[model]]\nprovider = \"echo\"\n").unwrap();
    run(&data, &["models", "check", broken.to_str().unwrap()]).await.complains(1, "broken.toml");
    server.done().await;
}

async fn until_models(server: &Server, key: &str, count: usize) {
    for _ in 0..100 {
        let found = server.get("/api/v1/models", key).await.expect(200);
        if found.json()["data"].as_array().unwrap().len() == count {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("the rate card did not come to {count} models");
}

#[tokio::test]
async fn the_doctor_finds_what_is_wrong_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    run(&data, &["doctor"]).await.expect(1);
    user(&data, "ada@example.com").await;
    run(&data, &["tenant", "create", "--name", "Acme", "--owner", "ada@example.com"]).await.expect(0);
    assert!(run(&data, &["doctor"]).await.expect(0).contains("Nothing is wrong."));

    let orphan = data.join("tenants/6d/0192f0c1-2f6e-7c3a-9d2b-5a1f0e8b7c6d");
    fs::create_dir_all(&orphan).unwrap();
    for folder in [orphan.as_path(), orphan.parent().unwrap()] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
    }
    fs::write(orphan.join("tenant.db"), "someone's data").unwrap();
    fs::set_permissions(orphan.join("tenant.db"), fs::Permissions::from_mode(0o644)).unwrap();
    let before = walk(&data);
    let found = run(&data, &["--json", "doctor"]).await;
    assert_eq!(found.code, 1);
    let found: Value = serde_json::from_str(&found.stdout).unwrap();
    // How well sandboxes can be fenced in is the machine's to say, not the directory's.
    let ours = |finding: &&Value| finding["state"] != "good" && finding["area"] != "sandboxes";
    let states: Vec<_> = found.as_array().unwrap().iter().filter(ours).collect();
    assert_eq!(states.len(), 2, "{states:#?}");
    assert!(states.iter().any(|finding| finding["area"] == "permissions" && finding["do"].as_str().unwrap().contains("chmod")));
    assert!(states.iter().any(|finding| finding["area"] == "files" && finding["what"].as_str().unwrap().contains("0192f0c1")));
    assert_eq!(walk(&data), before);
    assert_eq!(fs::read_to_string(orphan.join("tenant.db")).unwrap(), "someone's data");
}

#[tokio::test]
async fn the_binary_documents_itself() {
    let server = Server::start().await;
    let data = server.data();
    let printed: Value = serde_json::from_str(&run(&data, &["openapi"]).await.expect(0)).unwrap();
    let served = server.get("/openapi.json", "").await.expect(200).json();
    assert_eq!(printed["paths"], served["paths"]);
    for shell in ["bash", "zsh", "fish"] {
        assert!(run(&data, &["completions", shell]).await.expect(0).contains("print-config"), "{shell}");
    }
    assert!(run(&data, &["man"]).await.expect(0).contains(".TH nimblesite 1"));
    let pages = data.join("man");
    run(&data, &["man", "--dir", pages.to_str().unwrap()]).await.expect(0);
    assert!(pages.join("nimblesite-key-issue.1").exists());
    fs::remove_dir_all(pages).unwrap();
    server.done().await;
}

/// Every file and folder below, in order, without what SQLite keeps while a database is open.
fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(walk(&path));
        }
        if !path.to_string_lossy().ends_with("-wal") && !path.to_string_lossy().ends_with("-shm") {
            found.push(path);
        }
    }
    found.sort();
    found
}
