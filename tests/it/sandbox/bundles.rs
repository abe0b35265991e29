//! Bundles over the API: what is refused and leaves nothing, what is pinned, who may see it.

use super::shelf::{boxed, mcp, python, zipped};
use crate::harness::{Answer, Server, Settings, Tenant};
use serde_json::{Value, json};

async fn begun() -> (Server, Tenant, String) {
    let server = boxed().start().await;
    let tenant = server.rich_tenant("Acme").await;
    let config = server.config(&tenant, "echo", "echo", &json!({"agent_type": "sandboxed"})).await;
    (server, tenant, config)
}

/// What the unpacked bundles' folder holds.
fn left(server: &Server) -> usize {
    std::fs::read_dir(server.data().join("bundles")).into_iter().flatten().count()
}

fn fault(answer: &Answer) -> (String, String) {
    (answer.text("/errors/0/pointer"), answer.text("/errors/0/message"))
}

/// As its tools see them, and as the model is told.
#[tokio::test]
async fn what_a_bundle_wishes_for_itself_is_cut_to_what_the_operator_allows() {
    const TOOLS: &str = "import os, resource\n\ndef seen() -> str:\n    disk = os.statvfs('/workspace')\n    most = resource.getrlimit(resource.RLIMIT_NPROC)[1]\n    return f'{most} processes, {disk.f_blocks * disk.f_frsize >> 20} MiB'\n\ndef eat() -> int:\n    return len(bytearray(b'x') * (300 << 20))\n";
    const MIB: u64 = 1 << 20;
    let caps = [("memory_bytes", 128 * MIB), ("processes", 40), ("workspace_bytes", 16 * MIB)];
    let name = |cap: &str, most: &str| -> &'static str { Box::leak(format!("sandbox_{cap}{most}").into_boxed_str()) };
    let settings =
        caps.iter().fold(boxed(), |settings, (cap, value)| settings.limit(name(cap, ""), *value).limit(name(cap, "_max"), *value));
    let server = settings.start().await;
    let tenant = server.rich_tenant("Acme").await;
    for (wish, processes, memory_mb) in [
        (json!({"memory_mb": 4_096, "pids": 1_000, "workspace_mb": 2_048}), 40, 128),
        (json!({"memory_mb": u64::MAX, "pids": u64::MAX, "workspace_mb": u64::MAX}), 40, 128),
        (json!({"memory_mb": 100, "pids": 20}), 20, 100),
    ] {
        let manifest =
            json!({"manifest_version": 1, "name": "n", "version": "1", "runtime": {"kind": "python", "module": "tools"}, "limits": wish});
        let archive = zipped(&[("manifest.json", &manifest.to_string()), ("tools.py", TOOLS)]);
        let config = server.boxed_config(&tenant, "echo", "echo", archive, &json!({})).await;
        let ask = async |tool: &str| {
            let message = json!({"message": format!("call {tool}")});
            server.chat(&tenant.key, &config, &message).await.expect(200).text("/response")
        };
        let seen = ask("seen").await;
        assert!(seen.contains(&format!("{processes} processes")), "{wish}: {seen}");
        if rustix::process::getuid().is_root() {
            // What ext4 keeps for itself is missing.
            let mib: u64 = seen.trim_end_matches(" MiB").rsplit(' ').next().unwrap().parse().unwrap();
            assert!((8..=16).contains(&mib) || !server.data().join("sandboxes").exists(), "{wish}: {seen}");
        }
        let eaten = ask("eat").await;
        assert!(eaten.contains(&format!("ran out of memory ({memory_mb} MiB)")), "{wish}: {eaten}");
    }
    server.done().await;
}

#[tokio::test]
async fn a_bad_archive_is_refused_by_name_and_leaves_nothing() {
    let (server, tenant, config) = begun().await;
    let rows = server.rows();
    let manifest =
        json!({"manifest_version": 1, "name": "n", "version": "1", "runtime": {"kind": "python", "module": "tools"}}).to_string();
    for (archive, pointer, word) in [
        (b"no archive".to_vec(), "", "neither a zip nor"),
        (zipped(&[("../evil", "x")]), "../evil", ".."),
        (zipped(&[("/etc/passwd", "x")]), "/etc/passwd", "absolute"),
        (zipped(&[("a", "x"), ("A", "y")]), "A", "taken by"),
        (zipped(&[("tools.py", "x = 1")]), "manifest.json", "no such file"),
        (zipped(&[("manifest.json", "{}")]), "manifest.json", "missing field"),
        (zipped(&[("manifest.json", &manifest.replace("\"1\"", "\"1\", \"surprise\": 1"))]), "manifest.json", "surprise"),
        (zipped(&[("manifest.json", &manifest), ("zeros", &"\0".repeat(30 << 20))]), "zeros", "bomb"),
    ] {
        let answer = server.bundle(&tenant.key, &config, archive).await.problem(422, "bundle_refused");
        let (named, message) = fault(&answer);
        assert!(named == pointer && message.contains(word), "{named}: {message}");
    }
    assert_eq!((left(&server), server.rows()), (0, rows));
    server.bundle(&tenant.key, &config, vec![0; (20 << 20) + 1]).await.problem(413, "body_too_large");
    server.get(&format!("/api/v1/configs/{config}/bundle"), &tenant.key).await.problem(404, "not_found");
    server.done().await;
}

#[tokio::test]
async fn a_server_without_sandboxes_takes_no_bundle_and_says_so() {
    let server = Settings::default().toml("sandbox.strict = false\nsandbox.rootfs = \"/nowhere\"").start().await;
    let tenant = server.rich_tenant("Acme").await;
    let config = server.config(&tenant, "echo", "echo", &json!({"agent_type": "sandboxed"})).await;
    let answer = server.bundle(&tenant.key, &config, python("def ok() -> int:\n    return 1\n")).await;
    answer.problem(503, "sandbox_unavailable");
    assert_eq!(left(&server), 0);
    server.done().await;
}

#[tokio::test]
async fn code_that_cannot_be_imported_is_refused_with_its_file_and_line() {
    let (server, tenant, config) = begun().await;
    for (code, word) in [
        ("def ok() -> int:\n    return 1\n\ndef broken(:\n", "tools.py:4"),
        ("import nothing_of_this_name\n", "tools.py:1"),
        ("def f(*args):\n    pass\n", "f"),
        ("x = 1\n", "1–128 tools"),
        ("def shell(command: str) -> str:\n    return command\n", "built-in"),
    ] {
        let answer = server.bundle(&tenant.key, &config, python(code)).await.problem(422, "bundle_refused");
        let (pointer, message) = fault(&answer);
        assert!(message.contains(word), "{code}: {pointer}: {message}");
    }
    let silent = server.bundle(&tenant.key, &config, mcp("import sys; print('dead', file=sys.stderr); sys.exit(3)")).await;
    assert!(fault(&silent.problem(422, "bundle_refused")).1.contains("dead"));
    assert_eq!(left(&server), 0);
    server.done().await;
}

#[tokio::test]
async fn a_module_that_loops_when_it_is_imported_is_refused_in_time() {
    let server = boxed().limit("sandbox_handshake_ms", 1_500).start().await;
    let tenant = server.rich_tenant("Acme").await;
    let config = server.config(&tenant, "echo", "echo", &json!({"agent_type": "sandboxed"})).await;
    let answer = server.bundle(&tenant.key, &config, python("while True:\n    pass\n")).await.problem(422, "bundle_refused");
    assert!(fault(&answer).1.contains("in time"));
    let mute = server.bundle(&tenant.key, &config, mcp("import time\ntime.sleep(60)")).await.problem(422, "bundle_refused");
    assert!(fault(&mute).1.contains("in time"));
    server.done().await;
}

#[tokio::test]
async fn type_hints_become_schemas_and_tools_config_is_checked_against_them() {
    let (server, tenant, config) = begun().await;
    let code = "def add(a: int, b: int = 2) -> int:\n    \"\"\"Adds.\n\n    Args:\n        a: The first.\n    \"\"\"\n    return a + b\n";
    let bundle = server.bundle(&tenant.key, &config, python(code)).await.expect(200).json();
    let tool = &bundle["tools"][0];
    assert_eq!((&tool["name"], &tool["parameters"]["properties"]["a"]["type"]), (&json!("add"), &json!("integer")), "{bundle}");
    assert_eq!(tool["parameters"]["required"], json!(["a"]));
    assert_eq!(bundle["digest"].as_str().unwrap().len(), 64);
    let path = format!("/api/v1/configs/{config}");
    server.patch(&path, &tenant.key, &json!({"tools_config": ["add", "shell"]})).await.expect(200);
    let unknown = server.patch(&path, &tenant.key, &json!({"tools_config": ["add", "subtract"]})).await.problem(422, "validation_failed");
    assert_eq!(fault(&unknown).0, "/tools_config/1");
    // A bundle that lacks what the config names does not take its place.
    let other = server.bundle(&tenant.key, &config, python("def subtract(a: int) -> int:\n    return -a\n")).await;
    assert_eq!(fault(&other.problem(422, "validation_failed")).0, "/tools_config/0");
    assert_eq!(server.get(&format!("{path}/bundle"), &tenant.key).await.expect(200).at("/digest"), bundle["digest"]);
    server.done().await;
}

#[tokio::test]
async fn a_client_side_config_has_no_bundle_and_an_image_needs_an_engine() {
    let server = boxed().start().await;
    let tenant = server.rich_tenant("Acme").await;
    let plain = server.config(&tenant, "echo", "echo", &json!({})).await;
    server.bundle(&tenant.key, &plain, python("def f() -> int:\n    return 1\n")).await.problem(422, "validation_failed");
    let image = json!({"name": "i", "model_config": {"provider": "echo", "model": "echo"}, "agent_type": "sandboxed", "workspace_image": "alpine:3"});
    server.post("/api/v1/configs", &tenant.key, &image).await.problem(422, "workspace_image_unsupported");
    server.done().await;
}

#[tokio::test]
async fn another_tenant_finds_neither_bundle_nor_sandbox_and_the_same_archive_is_not_shared() {
    let (server, tenant, config) = begun().await;
    let code = "import os\n\ndef write(text: str) -> str:\n    with open('own.txt', 'a') as file:\n        file.write(text)\n    return open('own.txt').read()\n\n\
                def spoil() -> str:\n    open('/bundle/tools.py', 'a').write('x')\n    return 'spoilt'\n";
    server.bundle(&tenant.key, &config, python(code)).await.expect(200);
    let other = server.rich_tenant("Other").await;
    let theirs = server.boxed_config(&other, "echo", "echo", python(code), &json!({})).await;
    for (method, path) in [("GET", "bundle"), ("DELETE", "bundle"), ("GET", "sandbox"), ("DELETE", "sandbox")] {
        let path = format!("/api/v1/configs/{config}/{path}");
        server.call(method, &path, &other.key, None).await.problem(404, "not_found");
    }
    server.bundle(&other.key, &config, python(code)).await.problem(404, "not_found");
    let call = json!({"message": "call write {\"text\": \"intruder\"}"});
    server.chat(&other.key, &config, &call).await.problem(404, "not_found");
    let say = async |key: &str, config: &str, message: &str| {
        server.chat(key, config, &json!({"message": message})).await.expect(200).text("/response")
    };
    assert_eq!(say(&tenant.key, &config, "call write {\"text\": \"a\"}").await, "write said: a");
    assert_eq!(say(&other.key, &theirs, "call write {\"text\": \"b\"}").await, "write said: b");
    // A turn on the other's conversation reaches neither the conversation nor its sandbox.
    let conversation = server.get("/api/v1/conversations", &tenant.key).await.expect(200).text("/data/0/id");
    let intruding = json!({"message": "call write {\"text\": \"intruder\"}", "conversation_id": conversation});
    server.chat(&other.key, &theirs, &intruding).await.problem(404, "not_found");
    let spoilt = say(&tenant.key, &config, "call spoil").await;
    assert!(!spoilt.contains("spoilt"), "{spoilt}");
    assert_eq!(say(&other.key, &theirs, "call write {\"text\": \"c\"}").await, "write said: bc");
    server.done().await;
}

#[tokio::test]
async fn secrets_are_written_once_kept_by_name_and_left_out_of_exports() {
    let (server, tenant, config) = begun().await;
    let path = format!("/api/v1/configs/{config}");
    let canary = super::shelf::CANARY;
    server.patch(&path, &tenant.key, &json!({"workspace_secrets": {"A": canary, "B": "another value"}})).await.expect(200);
    assert_eq!(server.get(&path, &tenant.key).await.expect(200).at("/workspace_secrets"), json!(["A", "B"]));
    // A list of names keeps what is there, and takes the rest away.
    server.patch(&path, &tenant.key, &json!({"workspace_secrets": ["A"]})).await.expect(200);
    let sealed = "SELECT count(*) FROM config_secrets";
    assert_eq!(server.number(&tenant.id, sealed), 1);
    let unknown = server.patch(&path, &tenant.key, &json!({"workspace_secrets": ["A", "C"]})).await.problem(422, "validation_failed");
    assert_eq!(fault(&unknown).0, "/workspace_secrets/C");
    for (secrets, pointer) in [
        (json!({"PATH": "x"}), "/workspace_secrets/PATH"),
        (json!({"a": "x"}), "/workspace_secrets/a"),
        (json!({"A": ""}), "/workspace_secrets/A"),
    ] {
        let refused = server.patch(&path, &tenant.key, &json!({ "workspace_secrets": secrets })).await.problem(422, "validation_failed");
        assert_eq!(fault(&refused).0, pointer);
    }
    let wrong: Value = json!({"workspace_secrets": {"A": {"deep": canary}}});
    let refused = server.patch(&path, &tenant.key, &wrong).await.problem(422, "validation_failed");
    assert!(!refused.body.contains(canary));
    let export = server.request("GET", "/api/v1/tenant/export", &tenant.key).send().await.unwrap().bytes().await.unwrap();
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("export.db");
    std::fs::write(&file, &export).unwrap();
    let rows: i64 = crate::harness::open(&file).query_row(sealed, [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 0);
    assert_eq!(super::shelf::found_in(&server.data(), canary), Vec::<String>::new());
    server.delete(&path, &tenant.key).await.expect(204);
    assert_eq!(server.number(&tenant.id, sealed), 0);
    server.done().await;
}

#[tokio::test]
async fn built_in_tools_are_what_the_runner_says_they_are() {
    let server = boxed().start().await;
    let tenant = server.rich_tenant("Acme").await;
    let tools = json!({"agent_type": "sandboxed", "tools_config": ["shell", "read_file", "write_file", "list_files"]});
    let config = server.config(&tenant, "echo", "echo", &tools).await;
    let say = async |message: &str| server.chat(&tenant.key, &config, &json!({"message": message})).await.expect(200).text("/response");
    assert_eq!(say("call write_file {\"path\": \"a/b.txt\", \"content\": \"hello\"}").await, "write_file said: 5 bytes written to a/b.txt");
    assert_eq!(say("call read_file {\"path\": \"a/b.txt\"}").await, "read_file said: hello");
    assert!(say("call list_files").await.contains("a/b.txt"));
    assert_eq!(say("call shell {\"command\": \"cat a/b.txt | tr h H\"}").await, "shell said: Hello");
    assert!(!say("call read_file {\"path\": \"../../etc/passwd\"}").await.contains("root:x:0:0"));
    let source = include_str!("../../../src/sandbox/runner/built_in.py");
    for name in nimblesite::agent::tools::offer::BUILT_IN {
        let pinned = nimblesite::agent::tools::offer::built_in(name).unwrap();
        for (argument, _) in pinned.parameters["properties"].as_object().unwrap() {
            assert!(source.contains(&format!("\"{argument}\"")), "{name}: the runner knows no {argument}");
        }
    }
    server.done().await;
}
