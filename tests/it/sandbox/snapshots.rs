//! Snapshots of workspaces over the API: made, put back, counted, removed with what they belong to; whole or not at all, whatever ends the server.

use super::shelf::{CANARY, boxed, found_in, python};
use crate::harness::{Server, Settings, Tenant};
use serde_json::{Value, json};
use std::{fs, path::Path};

const TOOLS: &str = r#"
import os, time

def write(name: str, text: str) -> str:
    os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
    with open(name, "w") as file:
        file.write(text)
    return "written"

def files() -> str:
    found = []
    for top, _, names in os.walk("."):
        found += [os.path.join(top, name)[2:] + "=" + open(os.path.join(top, name)).read() for name in names]
    return " ".join(sorted(found)) or "nothing"

def noise(size: int) -> str:
    with open("noise", "wb") as file:
        file.write(os.urandom(size))
    return "written"

def nap(seconds: float) -> str:
    open("napping", "w").close()
    time.sleep(seconds)
    return "slept"
"#;

async fn begun(settings: Settings) -> (Server, Tenant, String) {
    let server = settings.start().await;
    let tenant = server.rich_tenant("Acme").await;
    let secrets = json!({"workspace_secrets": {"KEY": CANARY}});
    let config = server.boxed_config(&tenant, "echo", "echo", python(TOOLS), &secrets).await;
    (server, tenant, config)
}

async fn says(server: &Server, tenant: &Tenant, config: &str, tool: &str, arguments: Value) -> String {
    let body = json!({"message": format!("call {tool} {arguments}")});
    server.chat(&tenant.key, config, &body).await.expect(200).text("/response").replace(&format!("{tool} said: "), "")
}

async fn writes(server: &Server, tenant: &Tenant, config: &str, name: &str, text: &str) {
    assert_eq!(says(server, tenant, config, "write", json!({"name": name, "text": text})).await, "written");
}

async fn files(server: &Server, tenant: &Tenant, config: &str) -> String {
    says(server, tenant, config, "files", json!({})).await
}

fn all(config: &str) -> String {
    format!("/api/v1/configs/{config}/sandbox/snapshots")
}

async fn make(server: &Server, tenant: &Tenant, config: &str) -> String {
    server.post(&all(config), &tenant.key, &json!({})).await.expect(201).text("/id")
}

async fn restore(server: &Server, tenant: &Tenant, config: &str, id: &str) -> crate::harness::Answer {
    server.post(&format!("{}/{id}/restore", all(config)), &tenant.key, &json!({})).await
}

async fn listed(server: &Server, tenant: &Tenant, config: &str) -> Vec<(String, String)> {
    let list = server.get(&all(config), &tenant.key).await.expect(200).json();
    list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["id"].as_str().unwrap().to_owned(), row["made"].as_str().unwrap().to_owned()))
        .collect()
}

/// Workspaces on the disk, and snapshots with what is half of one.
fn left(data: &Path) -> (usize, usize) {
    let places = fs::read_dir(data.join("sandboxes")).into_iter().flatten().flatten();
    let places = places.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.')).count();
    let mut waiting = vec![data.join("snapshots")];
    let mut snapshots = 0;
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.path().is_dir() { waiting.push(entry.path()) } else { snapshots += 1 }
        }
    }
    (places, snapshots)
}

#[tokio::test]
async fn a_snapshot_is_made_listed_downloaded_put_back_and_removed() {
    let (server, tenant, config) = begun(boxed()).await;
    server.post(&all(&config), &tenant.key, &json!({})).await.problem(409, "conflict");
    writes(&server, &tenant, &config, "notes/a", "one").await;
    let made = server.post(&all(&config), &tenant.key, &json!({})).await.expect(201);
    let (first, size) = (made.text("/id"), made.at("/size_bytes").as_u64().unwrap());
    assert_eq!((made.at("/made"), made.text("/config_id")), (json!("asked"), config.clone()));
    writes(&server, &tenant, &config, "notes/a", "two").await;
    writes(&server, &tenant, &config, "later", "x").await;
    let second = make(&server, &tenant, &config).await;
    let order: Vec<String> = listed(&server, &tenant, &config).await.into_iter().map(|(id, _)| id).collect();
    assert_eq!(order, [second.clone(), first.clone()], "newest first");
    let page = server.get(&format!("{}?limit=1&order=asc", all(&config)), &tenant.key).await.expect(200).json();
    assert!(page["data"][0]["id"] == json!(first) && page["has_more"] == true, "{page}");
    let page = server.get(&format!("{}?after={first}&order=asc", all(&config)), &tenant.key).await.expect(200).json();
    assert!(page["data"][0]["id"] == json!(second) && page["has_more"] == false, "{page}");
    server.get(&format!("{}?after={config}", all(&config)), &tenant.key).await.problem(422, "validation_failed");

    let archive = server.request("GET", &format!("{}/{first}/archive", all(&config)), &tenant.key).send().await.unwrap();
    assert_eq!((archive.status().as_u16(), archive.headers()["content-type"].to_str().unwrap()), (200, "application/gzip"));
    let bytes = archive.bytes().await.unwrap();
    assert_eq!(bytes.len() as u64, size);
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("a.tar.gz"), &bytes).unwrap();
    let unpacked = std::process::Command::new("tar").arg("-xzf").arg(place.path().join("a.tar.gz")).arg("-C").arg(place.path()).status();
    assert!(unpacked.unwrap().success());
    assert_eq!(fs::read_to_string(place.path().join("notes/a")).unwrap(), "one");
    assert_eq!(found_in(place.path(), CANARY), Vec::<String>::new(), "no secret is in it");
    assert_eq!(found_in(&server.data().join("snapshots"), CANARY), Vec::<String>::new());

    assert_eq!(files(&server, &tenant, &config).await, "later=x notes/a=two");
    restore(&server, &tenant, &config, &first).await.expect(204);
    assert_eq!(server.sandbox(&tenant, &config).await["state"], "stopped");
    assert_eq!(files(&server, &tenant, &config).await, "notes/a=one");
    restore(&server, &tenant, &config, &second).await.expect(204);
    assert_eq!(files(&server, &tenant, &config).await, "later=x notes/a=two");
    // What was there before is gone, and a removed workspace comes back.
    server.eventually("one workspace", || (left(&server.data()).0 == 1).then_some(())).await;
    server.delete(&format!("/api/v1/configs/{config}/sandbox"), &tenant.key).await.expect(204);
    assert_eq!(files(&server, &tenant, &config).await, "nothing");
    server.delete(&format!("/api/v1/configs/{config}/sandbox"), &tenant.key).await.expect(204);
    restore(&server, &tenant, &config, &first).await.expect(204);
    assert_eq!(files(&server, &tenant, &config).await, "notes/a=one");

    server.delete(&format!("{}/{first}", all(&config)), &tenant.key).await.expect(204);
    server.delete(&format!("{}/{first}", all(&config)), &tenant.key).await.problem(404, "not_found");
    restore(&server, &tenant, &config, &first).await.problem(404, "not_found");
    let acts: Vec<String> = server.get("/api/v1/audit?limit=100", &tenant.key).await.expect(200).json()["data"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["detail"]["snapshot"] == json!(first))
        .map(|entry| entry["act"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(acts, ["snapshot.delete", "snapshot.restore", "snapshot.restore", "snapshot.create"]);
    server.done().await;
}

#[tokio::test]
async fn another_tenant_finds_no_snapshot_and_a_member_may_not_ask() {
    let (server, tenant, config) = begun(boxed()).await;
    writes(&server, &tenant, &config, "a", CANARY).await;
    let id = make(&server, &tenant, &config).await;
    let other = server.rich_tenant("Other").await;
    let theirs = server.boxed_config(&other, "echo", "echo", python(TOOLS), &json!({})).await;
    writes(&server, &other, &theirs, "a", "theirs").await;
    let sibling = server.boxed_config(&tenant, "echo", "echo", python(TOOLS), &json!({})).await;
    let member = server.key(&tenant, "member").await.0;
    for (method, end) in [("GET", ""), ("GET", "/archive"), ("POST", "/restore"), ("DELETE", "")] {
        let body = (method == "POST").then(|| json!({}));
        for config in [&config, &theirs] {
            let path = format!("{}/{id}{end}", all(config));
            server.call(method, &path, &other.key, body.as_ref()).await.problem(404, "not_found");
        }
        let path = format!("{}/{id}{end}", all(&sibling));
        server.call(method, &path, &tenant.key, body.as_ref()).await.problem(404, "not_found");
        let path = format!("{}/{id}{end}", all(&config));
        server.call(method, &path, &member, body.as_ref()).await.problem(403, "insufficient_role");
    }
    server.get(&all(&config), &other.key).await.problem(404, "not_found");
    server.post(&all(&config), &other.key, &json!({})).await.problem(404, "not_found");
    assert_eq!(files(&server, &other, &theirs).await, "a=theirs");
    server.done().await;
}

#[tokio::test]
async fn a_restore_waits_for_no_tool_and_refuses_while_one_runs() {
    let (server, tenant, config) = begun(boxed()).await;
    writes(&server, &tenant, &config, "a", "one").await;
    let id = make(&server, &tenant, &config).await;
    let nap = json!({"message": "call nap {\"seconds\": 3}"});
    let (napped, ()) = tokio::join!(server.chat(&tenant.key, &config, &nap), async {
        let looks = format!("/api/v1/configs/{config}/sandbox/file?path=napping");
        while server.get(&looks, &tenant.key).await.status != 200 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        restore(&server, &tenant, &config, &id).await.problem(409, "conflict");
        make(&server, &tenant, &config).await;
    });
    assert_eq!(napped.expect(200).text("/response"), "nap said: slept");
    restore(&server, &tenant, &config, &id).await.expect(204);
    assert_eq!(files(&server, &tenant, &config).await, "a=one");
    server.done().await;
}

#[tokio::test]
async fn snapshots_are_bounded_by_number_and_by_bytes() {
    let (server, tenant, config) =
        begun(boxed().limit("sandbox_snapshots_max", 2).limit("sandbox_snapshots_tenant_bytes_max", 100_000)).await;
    assert_eq!(says(&server, &tenant, &config, "noise", json!({"size": 60_000})).await, "written");
    make(&server, &tenant, &config).await;
    server.post(&all(&config), &tenant.key, &json!({})).await.problem(507, "tenant_full");
    assert_eq!(left(&server.data()).1, 1, "nothing is left of the one that did not fit");
    assert_eq!(says(&server, &tenant, &config, "noise", json!({"size": 10_000})).await, "written");
    make(&server, &tenant, &config).await;
    server.post(&all(&config), &tenant.key, &json!({})).await.problem(409, "conflict");
    // Another tenant has its own.
    let other = server.rich_tenant("Other").await;
    let theirs = server.boxed_config(&other, "echo", "echo", python(TOOLS), &json!({})).await;
    assert_eq!(says(&server, &other, &theirs, "noise", json!({"size": 60_000})).await, "written");
    make(&server, &other, &theirs).await;
    server.done().await;
}

#[tokio::test]
async fn idle_workspaces_are_kept_by_themselves_when_their_files_changed() {
    let (server, tenant, config) =
        begun(boxed().limit("sandbox_idle_ms", 200).limit("sandbox_snapshots_idle_max", 2).limit("sandbox_snapshots_max", 3)).await;
    let until = async |wanted: usize, newest: Option<String>| {
        for _ in 0..600 {
            let now = listed(&server, &tenant, &config).await;
            if now.len() == wanted && now.first().map(|row| &row.0) != newest.as_ref() {
                return now;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("in vain: {wanted} snapshots; there are {:?}", listed(&server, &tenant, &config).await);
    };
    writes(&server, &tenant, &config, "a", "one").await;
    let first = until(1, None).await;
    assert_eq!(first[0].1, "idle");
    assert_eq!(server.sandbox(&tenant, &config).await["state"], "stopped");
    // Nothing changed: nothing is made.
    assert_eq!(files(&server, &tenant, &config).await, "a=one");
    tokio::time::sleep(std::time::Duration::from_millis(1_200)).await;
    assert_eq!(listed(&server, &tenant, &config).await, first);
    writes(&server, &tenant, &config, "a", "two").await;
    let second = until(2, Some(first[0].0.clone())).await;
    writes(&server, &tenant, &config, "a", "three").await;
    let third = until(2, Some(second[0].0.clone())).await;
    assert_eq!(third[1], second[0], "the oldest gave way");
    // One that is asked for does not count among them, and stays.
    let asked = make(&server, &tenant, &config).await;
    restore(&server, &tenant, &config, &third[1].0).await.expect(204);
    assert_eq!(files(&server, &tenant, &config).await, "a=two");
    let fourth = until(3, Some(asked.clone())).await;
    assert_eq!(fourth.iter().map(|row| row.1.as_str()).collect::<Vec<_>>(), ["idle", "asked", "idle"]);
    server.done().await;
}

#[tokio::test]
async fn none_is_made_unasked_where_the_operator_wants_none() {
    let (server, tenant, config) = begun(boxed().limit("sandbox_idle_ms", 100).limit("sandbox_snapshots_idle_max", 0)).await;
    writes(&server, &tenant, &config, "a", "one").await;
    tokio::time::sleep(std::time::Duration::from_millis(1_000)).await;
    assert_eq!(server.sandbox(&tenant, &config).await["state"], "stopped");
    assert_eq!(left(&server.data()), (1, 0));
    server.done().await;
}

/// Whatever ends the server in the middle of a restore: all of the old files are there, or all of the new, and nothing else is left.
#[tokio::test]
async fn a_server_that_dies_during_a_restore_has_the_old_files_or_the_new() {
    for (point, expected) in [("snapshot-laid", "a=two b=x"), ("snapshot-restored", "a=one")] {
        let (mut server, tenant, config) = begun(boxed().process()).await;
        writes(&server, &tenant, &config, "a", "one").await;
        let id = make(&server, &tenant, &config).await;
        writes(&server, &tenant, &config, "a", "two").await;
        writes(&server, &tenant, &config, "b", "x").await;
        server.stop().await;
        server.env.insert("NIMBLESITE_FAILPOINTS", format!("{point}=kill"));
        server.run().await;
        let path = format!("{}/{id}/restore", all(&config));
        let request = server.request("POST", &path, &tenant.key).body("{}").send();
        assert!(request.await.is_err(), "{point}");
        server.died().await;
        server.env.remove("NIMBLESITE_FAILPOINTS");
        server.run().await;
        assert_eq!(files(&server, &tenant, &config).await, expected, "{point}");
        server.eventually("one workspace", || (left(&server.data()) == (1, 1)).then_some(())).await;
        restore(&server, &tenant, &config, &id).await.expect(204);
        assert_eq!(files(&server, &tenant, &config).await, "a=one", "{point}");
        server.done().await;
    }
}

#[tokio::test]
async fn a_server_that_dies_while_it_packs_leaves_no_half_of_a_snapshot() {
    let (mut server, tenant, config) = begun(boxed().process()).await;
    writes(&server, &tenant, &config, "a", "one").await;
    server.stop().await;
    server.env.insert("NIMBLESITE_FAILPOINTS", "snapshot-packed=kill".to_owned());
    server.run().await;
    assert!(server.request("POST", &all(&config), &tenant.key).body("{}").send().await.is_err());
    server.died().await;
    assert_eq!(left(&server.data()).1, 1);
    server.env.remove("NIMBLESITE_FAILPOINTS");
    server.run().await;
    assert_eq!((left(&server.data()).1, listed(&server, &tenant, &config).await.len()), (0, 0));
    make(&server, &tenant, &config).await;
    server.done().await;
}

#[tokio::test]
async fn snapshots_go_with_their_config_and_with_their_tenant() {
    let (mut server, tenant, config) = begun(boxed().process()).await;
    let kept = server.boxed_config(&tenant, "echo", "echo", python(TOOLS), &json!({})).await;
    for config in [&config, &kept] {
        writes(&server, &tenant, config, "a", "one").await;
        make(&server, &tenant, config).await;
    }
    assert_eq!(left(&server.data()), (2, 2));
    server.delete(&format!("/api/v1/configs/{config}"), &tenant.key).await.expect(204);
    server.get(&all(&config), &tenant.key).await.problem(404, "not_found");
    server.eventually("one of each", || (left(&server.data()) == (1, 1)).then_some(())).await;
    // As if the server had ended between the config's deletion and the removal.
    let orphan = server.data().join("snapshots").join(&tenant.id).join(&config);
    fs::create_dir(&orphan).unwrap();
    fs::write(orphan.join("0192f0c1-2f6e-7c3a-9d2b-5a1f0e8b7c6d.asked.0.tar.gz"), "x").unwrap();
    server.stop().await;
    server.run().await;
    assert_eq!(left(&server.data()), (1, 1));
    server.call("DELETE", "/api/v1/tenant", &tenant.key, Some(&json!({"confirm": "Acme"}))).await.expect(204);
    server.eventually("nothing", || (left(&server.data()) == (0, 0)).then_some(())).await;
    assert!(!server.data().join("snapshots").join(&tenant.id).exists());
    server.done().await;
}
