//! The way out that is granted: what a bundle asks for and the operator lists is reached, through the proxy alone, and nothing beside it.

use super::{
    as_both,
    cage::skipped,
    shelf::{boxed, zipped},
};
use crate::harness::{Server, Settings, Tenant};
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// A web server on loopback that says what it was asked, and counts.
fn web() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (port, count) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
    let counter = Arc::clone(&count);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            counter.fetch_add(1, Ordering::SeqCst);
            let mut head = [0; 4096];
            let read = stream.read(&mut head).unwrap_or_default();
            let first = String::from_utf8_lossy(&head[..read]).lines().next().unwrap_or_default().to_owned();
            drop(
                stream.write_all(
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{first}", first.len()).as_bytes(),
                ),
            );
        }
    });
    (port, count)
}

const TOOLS: &str = r#"
import os, socket, urllib.error, urllib.request

def fetch(url: str) -> str:
    """Fetches a page."""
    try:
        with urllib.request.urlopen(url, timeout=10) as page:
            return page.read().decode()
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.read().decode()}"
    except OSError as error:
        return f"no way: {error}"

def dial(host: str, port: int) -> str:
    """Dials without the proxy."""
    try:
        with socket.create_connection((host, port), 5):
            return "reached"
    except OSError as error:
        return f"no way: {error}"

def tunnel(what: str, then: str) -> str:
    """Says a line to the proxy, and then another."""
    with socket.create_connection(("127.0.0.1", 3128), 5) as proxy:
        proxy.sendall(f"CONNECT {what} HTTP/1.1\r\n\r\n".encode())
        answer = proxy.recv(4096).split(b"\r\n")[0].decode()
        if " 200 " in answer:
            proxy.sendall(then.encode() + b"\r\n\r\n")
            answer += " " + proxy.recv(4096).decode().rsplit("\r\n", 1)[-1]
        return answer
"#;

fn bundle(wishes: &[String]) -> Vec<u8> {
    let manifest = json!({"manifest_version": 1, "name": "test", "version": "1", "runtime": {"kind": "python", "module": "tools"},
        "network": {"allow": wishes}});
    zipped(&[("manifest.json", &manifest.to_string()), ("tools.py", TOOLS)])
}

async fn say(server: &Server, tenant: &Tenant, config: &str, tool: &str, arguments: serde_json::Value) -> String {
    let message = format!("call {tool} {arguments}");
    let said = server.chat(&tenant.key, config, &json!({ "message": message })).await.expect(200).text("/response");
    said.trim_start_matches(&format!("{tool} said: ")).to_owned()
}

#[tokio::test]
async fn a_bundle_reaches_what_it_asked_for_and_the_operator_lists_and_nothing_beside_it() {
    what_is_granted_is_reached_and_nothing_else(boxed(), json!({})).await;
}

/// With this server, by a config that says this.
pub async fn what_is_granted_is_reached_and_nothing_else(settings: Settings, says: Value) {
    let ((listed, reached), (other, others)) = (web(), web());
    let server = settings
        .toml(&format!("sandbox.network = [\"localhost:{listed}\", \"*.allowed.test:443\"]"))
        .toml("sandbox.network_private = [\"127.0.0.0/8\"]")
        .start()
        .await;
    let tenant = server.rich_tenant("Acme").await;
    let wishes = [format!("localhost:{listed}"), format!("localhost:{other}"), "api.elsewhere.test:443".to_owned()];
    let mut body = json!({"agent_type": "sandboxed"});
    body.as_object_mut().unwrap().extend(says.as_object().unwrap().clone());
    let config = server.config(&tenant, "echo", "echo", &body).await;
    let shown = server.bundle(&tenant.key, &config, bundle(&wishes)).await.expect(200);
    assert_eq!((shown.at("/network_asked"), shown.at("/network_granted")), (json!(wishes), json!([wishes[0]])));
    assert_eq!(
        server.get(&format!("/api/v1/configs/{config}/bundle"), &tenant.key).await.expect(200).at("/network_granted"),
        json!([wishes[0]])
    );

    let say = async |tool: &str, arguments| say(&server, &tenant, &config, tool, arguments).await;
    assert_eq!(say("fetch", json!({"url": format!("http://localhost:{listed}/page")})).await, "GET /page HTTP/1.1");
    assert!(say("fetch", json!({"url": format!("http://localhost:{other}/")})).await.starts_with("403 "), "asked for, not listed");
    assert!(say("fetch", json!({"url": "http://api.allowed.test:443/"})).await.starts_with("403 "), "listed, not asked for");
    assert!(say("fetch", json!({"url": format!("http://127.0.0.1:{listed}/")})).await.starts_with("400 "), "an address is no name");
    assert_eq!(
        say("tunnel", json!({"what": format!("localhost:{listed}"), "then": "GET /through HTTP/1.1"})).await,
        "HTTP/1.1 200 Connection established GET /through HTTP/1.1"
    );
    assert!(say("tunnel", json!({"what": format!("localhost:{other}"), "then": "x"})).await.starts_with("HTTP/1.1 403 "));
    let smuggled =
        say("tunnel", json!({"what": format!("localhost:{listed}"), "then": format!("CONNECT localhost:{other} HTTP/1.1")})).await;
    assert!(smuggled.ends_with(&format!("CONNECT localhost:{other} HTTP/1.1")), "it went to the host that was asked for: {smuggled}");
    let own: u16 = server.base.rsplit(':').next().unwrap().parse().unwrap();
    // Around the proxy there is nothing: no name is answered, no other port is there.
    for (host, port) in [("127.0.0.1", listed), ("127.0.0.1", own), ("localhost", other)] {
        let told = say("dial", json!({"host": host, "port": port})).await;
        assert!(told.starts_with("no way: "), "{host}:{port}: {told}");
    }
    assert_eq!((reached.load(Ordering::SeqCst), others.load(Ordering::SeqCst)), (3, 0));
    let status = server.sandbox(&tenant, &config).await;
    let told: Vec<&str> = status["reached"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    assert!(told[0].starts_with(&format!("localhost:{listed} reached at 127.0.0.1: ")), "{told:?}");
    assert!(told.iter().any(|line| line.starts_with(&format!("localhost:{other} refused: "))), "{told:?}");
    server.done().await;
}

#[tokio::test]
async fn a_listed_name_that_leads_to_this_machine_is_refused_unless_the_operator_names_the_range() {
    let (port, reached) = web();
    let server = boxed().toml(&format!("sandbox.network = [\"localhost:{port}\"]")).start().await;
    let tenant = server.rich_tenant("Acme").await;
    let config = server.boxed_config(&tenant, "echo", "echo", bundle(&[format!("localhost:{port}")]), &json!({})).await;
    let told = say(&server, &tenant, &config, "fetch", json!({"url": format!("http://localhost:{port}/")})).await;
    assert!(told.starts_with("403 localhost leads to no address that may be reached"), "{told}");
    assert_eq!(reached.load(Ordering::SeqCst), 0);
    server.done().await;
}

async fn reached(server: &Server, key: &str, config: &str) -> Vec<(String, bool, u64)> {
    let list = server.get(&format!("/api/v1/configs/{config}/sandbox/egress?order=asc"), key).await.expect(200).json();
    let row =
        |row: &Value| (row["target"].as_str().unwrap().to_owned(), row["allowed"].as_bool().unwrap(), row["attempts"].as_u64().unwrap());
    list["data"].as_array().unwrap().iter().map(row).collect()
}

#[tokio::test]
async fn its_owner_can_read_what_was_reached_and_refused_however_much_is_asked_for() {
    let (port, _) = web();
    let mut server = boxed()
        .process()
        .toml(&format!("sandbox.network = [\"localhost:{port}\"]"))
        .toml("sandbox.network_private = [\"127.0.0.0/8\"]")
        .limit("sandbox_idle_ms", 4_000)
        .limit("sandbox_egress_refusals_max", 3)
        .start()
        .await;
    let (tenant, other) = (server.rich_tenant("Acme").await, server.rich_tenant("Other").await);
    let (member, admin) = (server.key(&tenant, "member").await.0, server.key(&tenant, "admin").await.0);
    let config = server.boxed_config(&tenant, "echo", "echo", bundle(&[format!("localhost:{port}")]), &json!({})).await;
    let url = format!("http://localhost:{port}/");
    assert_eq!(say(&server, &tenant, &config, "fetch", json!({"url": url})).await, "GET / HTTP/1.1");
    for n in 0..6 {
        let told = say(&server, &tenant, &config, "fetch", json!({"url": format!("http://h{n}.test/")})).await;
        assert!(told.starts_with("403 "), "{told}");
    }
    assert_eq!(say(&server, &tenant, &config, "fetch", json!({"url": url})).await, "GET / HTTP/1.1");
    // The last are written down when the server stops, if not before.
    server.stop().await;
    server.run().await;
    let rows = reached(&server, &admin, &config).await;
    let mut refused: Vec<&str> = rows.iter().filter(|row| !row.1).map(|row| row.0.as_str()).collect();
    refused.sort_unstable();
    assert_eq!((refused.len(), refused.contains(&"h5.test:80")), (3, true), "the newest: {rows:?}");
    let allowed: Vec<_> = rows.iter().filter(|row| row.1).collect();
    assert_eq!(allowed, [&(format!("localhost:{port}"), true, 2)], "never displaced by refusals");
    let row = server.get(&format!("/api/v1/configs/{config}/sandbox/egress?limit=100"), &admin).await.expect(200).json();
    let row = row["data"].as_array().unwrap().iter().find(|row| row["allowed"] == true).unwrap().clone();
    assert!(row["bytes_in"].as_u64().unwrap() > 0 && row["bytes_out"].as_u64().unwrap() > 0 && row["detail"] == "127.0.0.1", "{row}");

    // While it runs, too, within seconds; and one that goes on is told of before it ends.
    say(&server, &tenant, &config, "fetch", json!({"url": "http://late.test/"})).await;
    for _ in 0..200 {
        if reached(&server, &admin, &config).await.iter().any(|row| row.0 == "late.test:80") {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(reached(&server, &admin, &config).await.iter().any(|row| row.0 == "late.test:80"));
    let path = format!("/api/v1/configs/{config}/sandbox/egress");
    server.get(&path, &member).await.problem(403, "insufficient_role");
    server.get(&path, &other.key).await.problem(404, "not_found");
    assert_eq!(server.number(&other.id, "SELECT count(*) FROM egress"), 0);
    server.delete(&format!("/api/v1/configs/{config}"), &tenant.key).await.expect(204);
    assert_eq!(server.number(&tenant.id, "SELECT count(*) FROM egress"), 0);
    server.done().await;
}

/// 52: each has a door of its own, and none has another's; without one there is not even loopback.
#[tokio::test]
async fn a_door_is_its_sandbox_s_alone() {
    as_both("egress::a_door_is_its_sandbox_s_alone", async |cage| {
        let mut with = cage.spec("with");
        with.network = true;
        let mut sandbox = cage.boot_as(&with, Vec::new()).await;
        let door = sandbox.running.door().expect("a door");
        assert_eq!(door.local_addr().unwrap().port(), 3128);
        let dial = "attempt('proxy', lambda: socket.create_connection(('127.0.0.1', 3128), 2).close())\n\
                    attempt('udp', lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('192.0.2.1', 53)))\n\
                    attempt('beyond', lambda: socket.create_connection(('192.0.2.1', 443), 2).close())\n\
                    attempt('listen', lambda: socket.create_server(('127.0.0.1', 8000)).close())\n\
                    print(os.path.exists('/run/egress.sock'), os.environ['HTTPS_PROXY'])";
        let said = sandbox.run(dial).await;
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines[0], "proxy ok", "{said}");
        door.set_nonblocking(true).unwrap();
        assert!(door.accept().is_ok(), "it arrives at this sandbox's door");
        // Nothing leaves: the namespace has no route.
        assert!(lines[1..3].iter().all(|line| ["ENETUNREACH", "EACCES"].iter().any(|code| line.ends_with(code))), "{said}");
        let landlock = cage.sandboxes.probe().await.landlock;
        if landlock {
            assert!(lines[3].ends_with("EACCES"), "{said}");
        } else {
            skipped("egress::a_door_is_its_sandbox_s_alone", "listening inside is refused by Landlock, which this kernel has not");
        }
        assert_eq!(lines[4], "False http://127.0.0.1:3128");
        let mut without = cage.boot("without").await;
        assert!(without.running.door().is_none());
        let said = without
            .run("attempt('proxy', lambda: socket.create_connection(('127.0.0.1', 3128), 2).close())\nprint('HTTPS_PROXY' in os.environ)")
            .await;
        assert!(said.starts_with("proxy E") && said.ends_with("\nFalse\n"), "{said}");
        assert!(door.accept().is_err(), "nobody else comes to the first's door");
    })
    .await;
}
