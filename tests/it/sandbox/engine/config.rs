//! Configs that name an image, over the API: pinned when they are written, run as they were pinned, refused where that cannot be.

use super::{
    super::shelf::{boxed, python},
    machine::{Engine, IMAGE},
};
use crate::harness::{Server, Settings};
use serde_json::{Value, json};

const TOOLS: &str = r#"
import os

def note(text: str) -> str:
    with open("note", "a") as file:
        file.write(text)
    return open("note").read()

def where() -> str:
    return os.environ.get("FROM_IMAGE", "no image") + " " + str(os.getuid() != 0)

def secret() -> str:
    return str(len(os.environ["KEY"]))
"#;

pub fn settings(engine: &Engine) -> Settings {
    boxed()
        .toml(&format!("sandbox.images = [{IMAGE:?}]"))
        .toml(&format!("sandbox.engine_socket = {:?}", engine.socket().to_str().unwrap()))
        .limit("sandbox_boot_ms", 60_000)
        .limit("sandbox_handshake_ms", 60_000)
}

fn body(name: &str, extra: &Value) -> Value {
    let mut body = json!({"name": name, "model_config": {"provider": "echo", "model": "echo"}, "agent_type": "sandboxed"});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

async fn say(server: &Server, key: &str, config: &str, message: &str) -> String {
    server.chat(key, config, &json!({"message": message})).await.expect(200).text("/response")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_s_image_is_pinned_when_it_is_written_and_its_tools_run_in_it() {
    let Some(engine) = Engine::here("engine::config::a_config_s_image_is_pinned_when_it_is_written_and_its_tools_run_in_it") else {
        return;
    };
    let server = settings(engine).start().await;
    let tenant = server.rich_tenant("Acme").await;
    let id = engine.digest(IMAGE);
    // What is said of the digest is not read: the engine says it.
    let image = json!({"workspace_image": IMAGE, "workspace_image_digest": "sha256:forged", "workspace_secrets": {"KEY": "12345678"}});
    let made = server.post("/api/v1/configs", &tenant.key, &body("Boxed", &image)).await.expect(201);
    assert_eq!((made.at("/workspace_image"), made.text("/workspace_image_digest")), (json!(IMAGE), id.clone()));
    let config = made.text("/config_id");
    server.bundle(&tenant.key, &config, python(TOOLS)).await.expect(200);
    assert_eq!(say(&server, &tenant.key, &config, "call where").await, "where said: 1 True");
    assert_eq!(say(&server, &tenant.key, &config, "call secret").await, "secret said: 8");
    assert_eq!(say(&server, &tenant.key, &config, "call note {\"text\": \"a\"}").await, "note said: a");
    assert_eq!(server.sandbox(&tenant, &config).await["isolation"], "engine");
    let path = format!("/api/v1/configs/{config}");
    // A change of something else keeps the pin; naming no image any more goes back to the kernel's fence, with the same files.
    let renamed = server.patch(&path, &tenant.key, &json!({"name": "Renamed"})).await.expect(200);
    assert_eq!(renamed.text("/workspace_image_digest"), id);
    let plain = server.patch(&path, &tenant.key, &json!({"workspace_image": null})).await.expect(200);
    assert_eq!((plain.at("/workspace_image"), plain.json().get("workspace_image_digest").cloned()), (Value::Null, None));
    assert_eq!(say(&server, &tenant.key, &config, "call where").await, "where said: no image True");
    assert_eq!(say(&server, &tenant.key, &config, "call note {\"text\": \"b\"}").await, "note said: ab");
    assert_eq!(server.sandbox(&tenant, &config).await["isolation"], "kernel");
    for (image, word) in [("docker.io/library/other:1", "it runs localhost/nimblesite-test:hostile"), ("../evil", "it runs")] {
        let refused = server.patch(&path, &tenant.key, &json!({"workspace_image": image})).await.problem(422, "validation_failed");
        assert_eq!(refused.text("/errors/0/pointer"), "/workspace_image");
        assert!(refused.text("/errors/0/message").contains(word), "{}", refused.body);
    }
    server.done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_go_along_when_a_config_is_given_an_image() {
    let Some(engine) = Engine::here("engine::config::files_go_along_when_a_config_is_given_an_image") else { return };
    let server = settings(engine).start().await;
    let tenant = server.rich_tenant("Acme").await;
    let config = server.boxed_config(&tenant, "echo", "echo", python(TOOLS), &json!({})).await;
    assert_eq!(say(&server, &tenant.key, &config, "call note {\"text\": \"old\"}").await, "note said: old");
    server.patch(&format!("/api/v1/configs/{config}"), &tenant.key, &json!({"workspace_image": IMAGE})).await.expect(200);
    assert_eq!(say(&server, &tenant.key, &config, "call note {\"text\": \" new\"}").await, "note said: old new");
    assert_eq!(say(&server, &tenant.key, &config, "call where").await, "where said: 1 True");
    let places = || {
        let entries = std::fs::read_dir(server.data().join("sandboxes")).unwrap().flatten();
        entries.filter(|entry| entry.path().is_dir()).count()
    };
    server.eventually("one workspace", || (places() == 1).then_some(())).await;
    server.done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_the_operator_took_back_runs_no_more() {
    let Some(engine) = Engine::here("engine::config::an_image_that_the_operator_took_back_runs_no_more") else { return };
    let mut server = settings(engine).process().start().await;
    let tenant = server.rich_tenant("Acme").await;
    let config = server.boxed_config(&tenant, "echo", "echo", python(TOOLS), &json!({"workspace_image": IMAGE})).await;
    assert_eq!(say(&server, &tenant.key, &config, "call where").await, "where said: 1 True");
    server.stop().await;
    let file = server.data().join("nimblesite.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace(IMAGE, "localhost/another:1")).unwrap();
    server.run().await;
    let told = say(&server, &tenant.key, &config, "call where").await;
    assert!(told.contains("does not allow the image"), "{told}");
    server.done().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_starts_a_container_where_images_are_listed_and_says_what_is_wrong_with_them() {
    const TEST: &str = "engine::config::doctor_starts_a_container_where_images_are_listed_and_says_what_is_wrong_with_them";
    let Some(engine) = Engine::here(TEST) else { return };
    let data = tempfile::tempdir().unwrap();
    std::fs::set_permissions(data.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let started = format!("a container of the first was started by {}", engine.name());
    for (image, word) in [(IMAGE, started.as_str()), ("localhost/absent:1", "is not on this machine")] {
        let output = tokio::process::Command::new(super::super::cage::program())
            .args(["doctor", "--data"])
            .arg(data.path())
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| !name.to_string_lossy().starts_with("NIMBLESITE_")))
            .env("NIMBLESITE_SANDBOX__STRICT", "false")
            .env("NIMBLESITE_SANDBOX__IMAGES", image)
            .env("NIMBLESITE_SANDBOX__ENGINE_SOCKET", engine.socket())
            .env("NIMBLESITE_LIMITS__SANDBOX_BOOT_MS", "60000")
            .output()
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains(word), "{said}{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_s_workspace_is_kept_and_put_back_like_any() {
    let Some(engine) = Engine::here("engine::config::a_container_s_workspace_is_kept_and_put_back_like_any") else { return };
    let server = settings(engine).start().await;
    let tenant = server.rich_tenant("Acme").await;
    let made = server.post("/api/v1/configs", &tenant.key, &body("Boxed", &json!({"workspace_image": IMAGE}))).await.expect(201);
    let config = made.text("/config_id");
    server.bundle(&tenant.key, &config, python(TOOLS)).await.expect(200);
    assert_eq!(say(&server, &tenant.key, &config, "call note {\"text\": \"a\"}").await, "note said: a");
    let all = format!("/api/v1/configs/{config}/sandbox/snapshots");
    let id = server.post(&all, &tenant.key, &json!({})).await.expect(201).text("/id");
    assert_eq!(say(&server, &tenant.key, &config, "call note {\"text\": \"b\"}").await, "note said: ab");
    server.post(&format!("{all}/{id}/restore"), &tenant.key, &json!({})).await.expect(204);
    assert_eq!(say(&server, &tenant.key, &config, "call note {\"text\": \"c\"}").await, "note said: ac");
    server.done().await;
}
