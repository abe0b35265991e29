//! Workspaces that leave with their tenant, where someone asks for it, and come back elsewhere.

use super::shelf::{CANARY, boxed, example, found_in};
use crate::harness::{Process, Server, Tenant};
use serde_json::{Value, json};
use std::{fs, path::Path};

async fn begun() -> (Server, Tenant, String) {
    let server = boxed().process().start().await;
    let tenant = server.rich_tenant("Acme").await;
    let secrets = json!({"workspace_secrets": {"NOTEBOOK_KEY": CANARY}});
    let config = server.boxed_config(&tenant, "echo", "echo", example("sandbox-python"), &secrets).await;
    let noted = say(&server, &tenant.key, &config, "call note_write {\"name\": \"travels\", \"text\": \"words-that-travel\"}").await;
    assert!(noted.contains("Noted"), "{noted}");
    (server, tenant, config)
}

async fn say(server: &Server, key: &str, config: &str, message: &str) -> String {
    server.chat(key, config, &json!({"message": message})).await.expect(200).text("/response")
}

async fn command(data: &Path, args: &[&str]) -> Result<Value, String> {
    let output = Process::command(data).arg("--json").args(args).output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    if output.status.success() {
        Ok(serde_json::from_str(&text).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Brings a file to another server, and asks its tool there.
async fn reads_elsewhere(file: &Path) -> (Server, String, String) {
    let there = boxed().process().start().await;
    let owner = there.user("owner@example.org").await;
    let made = command(&there.data(), &["tenant", "import", file.to_str().unwrap(), "--owner", &owner.email]).await.unwrap();
    let key = made["key"].as_str().unwrap().to_owned();
    let config = there.get("/api/v1/configs", &key).await.expect(200).text("/data/0/id");
    (there, key, config)
}

#[tokio::test]
async fn a_workspace_goes_along_when_it_is_asked_for_and_comes_back_in_an_import() {
    let (server, tenant, config) = begun().await;
    let place = tempfile::tempdir().unwrap();
    for (query, along) in [("", false), ("?workspaces=false", false), ("?workspaces=true", true)] {
        let answer = server.request("GET", &format!("/api/v1/tenant/export{query}"), &tenant.key).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let file = place.path().join(format!("api-{along}.db"));
        fs::write(&file, answer.bytes().await.unwrap()).unwrap();
        let conn = crate::harness::open(&file);
        let parts: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'workspace_parts'", [], |row| row.get(0)).unwrap();
        assert_eq!(parts, i64::from(along), "{query}");
    }
    server.get("/api/v1/tenant/export?workspaces=yes", &tenant.key).await.problem(422, "validation_failed");
    assert_eq!(fs::read_dir(server.data().join("exports")).into_iter().flatten().count(), 0, "nothing is left of the packing");
    assert_eq!(found_in(place.path(), CANARY), Vec::<String>::new(), "secrets stay");

    let (there, key, there_config) = reads_elsewhere(&place.path().join("api-true.db")).await;
    assert_eq!(there_config, config, "its id is the same");
    assert_eq!(say(&there, &key, &config, "call note_read {\"name\": \"travels\"}").await, "note_read said: words-that-travel");
    // Once: what is deleted afterwards does not come back.
    there.delete(&format!("/api/v1/configs/{config}/sandbox"), &key).await.expect(204);
    assert!(!say(&there, &key, &config, "call note_read {\"name\": \"travels\"}").await.contains("words-that-travel"));
    there.done().await;
    server.done().await;
}

#[tokio::test]
async fn the_command_line_packs_beside_a_running_server_and_without_one() {
    let (mut server, tenant, config) = begun().await;
    let place = tempfile::tempdir().unwrap();
    let (beside, alone) = (place.path().join("beside.db"), place.path().join("alone.db"));
    let told = command(&server.data(), &["tenant", "export", &tenant.id, beside.to_str().unwrap(), "--workspaces"]).await.unwrap();
    assert!(told["rows_workspace_parts"].as_str().unwrap().parse::<u64>().unwrap() > 0, "{told}");
    server.stop().await;
    let told = command(&server.data(), &["tenant", "export", &tenant.id, alone.to_str().unwrap(), "--workspaces"]).await;
    assert!(told.is_ok(), "{told:?}");
    for file in [beside, alone] {
        let (there, key, _) = reads_elsewhere(&file).await;
        // An import that nobody has used yet goes along as it came.
        let id = there.get("/api/v1/tenant", &key).await.expect(200).text("/id");
        let again = place.path().join("again.db");
        drop(fs::remove_file(&again));
        command(&there.data(), &["tenant", "export", &id, again.to_str().unwrap(), "--workspaces"]).await.unwrap();
        assert_eq!(
            crate::harness::open(&again)
                .query_row("SELECT count(DISTINCT config_id) FROM workspace_parts", [], |row| row.get::<_, i64>(0))
                .unwrap(),
            1
        );
        assert_eq!(say(&there, &key, &config, "call note_read {\"name\": \"travels\"}").await, "note_read said: words-that-travel");
        there.done().await;
    }
    server.run().await;
    server.done().await;
}

#[tokio::test]
async fn a_start_removes_workspaces_of_configs_that_are_gone() {
    let (mut server, tenant, config) = begun().await;
    let kept = server.boxed_config(&tenant, "echo", "echo", example("sandbox-python"), &json!({})).await;
    say(&server, &tenant.key, &kept, "call note_write {\"name\": \"n\", \"text\": \"kept\"}").await;
    let places = || fs::read_dir(server.data().join("sandboxes")).unwrap().flatten().filter(|entry| entry.path().is_dir()).count();
    assert_eq!(places(), 2);
    server.stop().await;
    // As if the server had ended between the row's mark and the removal.
    let (_, file) = server.tenant_files().into_iter().find(|(id, _)| *id == tenant.id).unwrap();
    let conn = rusqlite::Connection::open(file).unwrap();
    conn.execute("UPDATE sandboxes SET state = 'destroying' WHERE config_id = ?1", [&config]).unwrap();
    drop(conn);
    server.run().await;
    let places = || fs::read_dir(server.data().join("sandboxes")).unwrap().flatten().filter(|entry| entry.path().is_dir()).count();
    server.eventually("one workspace", || (places() == 1).then_some(())).await;
    assert_eq!(server.number(&tenant.id, "SELECT count(*) FROM sandboxes"), 1);
    assert_eq!(say(&server, &tenant.key, &kept, "call note_read {\"name\": \"n\"}").await, "note_read said: kept");
    server.done().await;
}
