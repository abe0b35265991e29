//! A call that takes too long, or that nobody waits for any more, is ended alone: what other conversations call on the same config goes on.

use super::shelf::{boxed, mcp, zipped};
use crate::harness::{Answer, Server, Settings, Tenant};
use serde_json::{Value, json};
use std::{fs, time::Duration};

/// A process of each life of the module, known by how long it sleeps; and how often the module was called in this life.
const TOOLS: &str = r#"
import asyncio, subprocess, time
subprocess.Popen(["sleep", "SECONDS"])
count = 0

def tick() -> int:
    global count
    count += 1
    return count

def spin() -> str:
    while True:
        pass

def stubborn() -> str:
    begun = time.monotonic()
    while time.monotonic() - begun < 600:
        try:
            while True:
                time.sleep(0.01)
        except BaseException:
            pass

def sleep() -> str:
    time.sleep(600)

async def wait() -> str:
    await asyncio.sleep(600)

def leave() -> str:
    raise SystemExit(3)

def work(seconds: float) -> str:
    open("working", "w").close()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.01)
    return "done"
"#;

/// A number of seconds that no other sleeper has.
fn seconds() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    700_000_000 + std::process::id() % 100_000 * 100 + NEXT.fetch_add(1, Ordering::Relaxed)
}

fn sleepers(seconds: u32) -> usize {
    let wanted = format!("sleep\0{seconds}\0");
    let lines = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| *line == wanted.as_bytes()).count()
}

async fn begun(settings: Settings, seconds: u32) -> (Server, Tenant, String) {
    let server = settings.start().await;
    let tenant = server.rich_tenant("Acme").await;
    let short = |name: &str| json!({"name": name, "entry": format!("tools:{name}"), "timeout_s": 1});
    let long = |name: &str| json!({"name": name, "entry": format!("tools:{name}"), "timeout_s": 20});
    let tools = [short("spin"), short("stubborn"), short("sleep"), short("wait"), long("leave"), long("work"), long("tick")];
    let manifest = json!({"manifest_version": 1, "name": "test", "version": "1", "tools": tools,
                          "runtime": {"kind": "python", "module": "tools"}});
    let code = TOOLS.replace("SECONDS", &seconds.to_string());
    let archive = zipped(&[("manifest.json", &manifest.to_string()), ("tools.py", &code)]);
    let config = server.boxed_config(&tenant, "echo", "echo", archive, &json!({})).await;
    (server, tenant, config)
}

async fn call(server: &Server, tenant: &Tenant, config: &str, tool: &str, arguments: Value) -> String {
    let body = json!({"message": format!("call {tool} {arguments}")});
    let said = server.chat(&tenant.key, config, &body).await.expect(200).text("/response");
    said.trim_start_matches(&format!("{tool} said: ")).to_owned()
}

/// Another conversation's call that goes on for so long, once it has begun.
async fn working<T>(server: &Server, tenant: &Tenant, config: &str, seconds: f64, then: impl Future<Output = T>) -> (String, T) {
    tokio::join!(call(server, tenant, config, "work", json!({"seconds": seconds})), async {
        let looks = format!("/api/v1/configs/{config}/sandbox/file?path=working");
        while server.get(&looks, &tenant.key).await.status != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        then.await
    })
}

#[tokio::test]
async fn python_that_loops_or_awaits_is_ended_alone_and_its_process_goes_on() {
    let seconds = seconds();
    let (server, tenant, config) = begun(boxed(), seconds).await;
    assert_eq!(call(&server, &tenant, &config, "tick", json!({})).await, "1");
    let ask = |tool| call(&server, &tenant, &config, tool, json!({}));
    let (worked, told) = working(&server, &tenant, &config, 4.0, async {
        let told = tokio::join!(ask("spin"), ask("wait"));
        (told.0, told.1, ask("tick").await)
    })
    .await;
    assert_eq!((worked.as_str(), told.2.as_str()), ("done", "2"), "the other call, and what the module knew");
    assert!(told.0.contains("timed out after 1 s") && told.1.contains("timed out after 1 s"), "{told:?}");
    assert_eq!(sleepers(seconds), 1, "one process has done it all");
    // Nothing of the given up is left that takes a place: four calls at once work.
    let four = futures_util::future::join_all((0..4).map(|_| ask("tick"))).await;
    assert_eq!(four.iter().map(|text| text.parse::<u32>().unwrap()).sum::<u32>(), 3 + 4 + 5 + 6);
    // A tool that leaves by itself says so, and ends nothing.
    assert!(ask("leave").await.contains("SystemExit"));
    assert_eq!(ask("tick").await, "7");
    server.done().await;
}

#[tokio::test]
async fn what_waits_in_c_or_will_not_end_leaves_its_process_to_the_others_until_they_are_done() {
    for tool in ["sleep", "stubborn"] {
        let seconds = seconds();
        let (server, tenant, config) = begun(boxed(), seconds).await;
        assert_eq!(call(&server, &tenant, &config, "tick", json!({})).await, "1");
        let (worked, (told, tick)) = working(&server, &tenant, &config, 5.0, async {
            let told = call(&server, &tenant, &config, tool, json!({})).await;
            // A new call meanwhile finds a new process, and both stand.
            let tick = call(&server, &tenant, &config, "tick", json!({})).await;
            assert_eq!(sleepers(seconds), 2, "{tool}");
            (told, tick)
        })
        .await;
        assert!(told.contains("timed out after 1 s"), "{tool}: {told}");
        assert_eq!((worked.as_str(), tick.as_str()), ("done", "1"), "{tool}");
        server.eventually("the end of the old process", || (sleepers(seconds) == 1).then_some(())).await;
        assert_eq!(call(&server, &tenant, &config, "tick", json!({})).await, "2", "{tool}: the new one is the config's");
        // Alone, it takes its process along at once.
        assert!(call(&server, &tenant, &config, tool, json!({})).await.contains("timed out"));
        assert_eq!(sleepers(seconds), 0, "{tool}");
        assert_eq!(call(&server, &tenant, &config, "tick", json!({})).await, "1");
        server.done().await;
    }
}

#[tokio::test]
async fn a_stop_ends_the_new_process_and_the_old() {
    let seconds = seconds();
    let (server, tenant, config) = begun(boxed(), seconds).await;
    let (worked, ()) = working(&server, &tenant, &config, 20.0, async {
        call(&server, &tenant, &config, "sleep", json!({})).await;
        call(&server, &tenant, &config, "tick", json!({})).await;
        server.post(&format!("/api/v1/configs/{config}/sandbox/stop"), &tenant.key, &json!({})).await.expect(204);
    })
    .await;
    assert!(worked.contains("was stopped"), "{worked}");
    assert_eq!(sleepers(seconds), 0);
    server.done().await;
}

/// A turn that is cancelled, beside another that is not.
#[tokio::test]
async fn a_cancelled_turn_ends_its_own_call() {
    let seconds = seconds();
    let (server, tenant, config) = begun(boxed(), seconds).await;
    let (worked, cancelled): (String, Answer) = working(&server, &tenant, &config, 5.0, async {
        let body = json!({"message": "call work {\"seconds\": 15}"});
        let chat = server.chat(&tenant.key, &config, &body);
        let (answer, ()) = tokio::join!(chat, async {
            // The newest of the two that run.
            let turn = loop {
                let list = server.get("/api/v1/conversations", &tenant.key).await.expect(200).json();
                let running: Vec<&str> = list["data"].as_array().unwrap().iter().filter_map(|row| row["active_turn_id"].as_str()).collect();
                if running.len() == 2 {
                    break running[0].to_owned();
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            };
            tokio::time::sleep(Duration::from_millis(500)).await;
            server.post(&format!("/api/v1/chat/turns/{turn}/cancel"), &tenant.key, &json!({})).await.expect(200);
        });
        answer
    })
    .await;
    cancelled.problem(409, "turn_cancelled");
    assert_eq!(worked, "done");
    assert_eq!(sleepers(seconds), 1, "the same process");
    server.done().await;
}

#[tokio::test]
async fn a_call_of_a_server_of_its_own_that_hangs_does_not_end_the_others() {
    let code = r#"
import json, sys, threading, time
lock = threading.Lock()

def send(message):
    with lock:
        print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)

def run(asked, name):
    time.sleep({"hang": 600, "work": 4, "quick": 0}[name])
    send({"id": asked, "result": {"content": [{"type": "text", "text": name}]}})

for line in sys.stdin:
    message = json.loads(line)
    method, asked = message.get("method"), message.get("id")
    if method == "initialize":
        send({"id": asked, "result": {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}},
                                      "serverInfo": {"name": "t", "version": "1"}}})
    elif method == "tools/list":
        send({"id": asked, "result": {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in ("hang", "work", "quick")]}})
    elif method == "tools/call":
        threading.Thread(target=run, args=(asked, message["params"]["name"]), daemon=True).start()
    elif asked is not None:
        send({"id": asked, "error": {"code": -32601, "message": "no"}})
"#;
    let server = boxed().limit("sandbox_call_ms", 5_000).start().await;
    let tenant = server.rich_tenant("Acme").await;
    let config = server.boxed_config(&tenant, "echo", "echo", mcp(code), &json!({})).await;
    assert_eq!(call(&server, &tenant, &config, "quick", json!({})).await, "quick");
    let later = async |ms: u64, tool: &'static str| {
        tokio::time::sleep(Duration::from_millis(ms)).await;
        call(&server, &tenant, &config, tool, json!({})).await
    };
    let (hung, worked, quick) = tokio::join!(later(0, "hang"), later(2_500, "work"), later(5_500, "quick"));
    assert!(hung.contains("timed out after 5 s"), "{hung}");
    assert_eq!((worked.as_str(), quick.as_str()), ("work", "quick"));
    server.done().await;
}
