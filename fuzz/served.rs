//! Entries that ask a whole server, in this process and over a socket: what hyper lets through, the endpoints' table, queries, headers, cursors and
//! searches down to the statements.

use nimblesite::{
    cli::server::{PortTaken, Running},
    config::Config,
    secret::Password,
};
use std::{
    error::Error,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    sync::LazyLock,
    time::Duration,
};

/// How long the next piece of an answer that has to come is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same where none may come: what was sent may be the half of a request, and some streams have no end.
const GLANCE: Duration = Duration::from_millis(50);
/// Sent behind whatever is sent, so that the server is the one who ends the connection, where it still listens.
const LAST: &[u8] = b"\r\n\r\nGET /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";

/// What lists are asked of a tenant.
const LISTS: [&str; 9] = [
    "/api/v1/conversations",
    "/api/v1/conversations/{conversation}/messages",
    "/api/v1/logs",
    "/api/v1/audit",
    "/api/v1/keys",
    "/api/v1/members",
    "/api/v1/configs",
    "/api/v1/usage",
    "/api/v1/wallet/ledger",
];

/// A server with one tenant that has said something.
struct Ground {
    at: SocketAddr,
    /// An owner's, and an admin's: with that, whatever is asked leaves the tenant alive.
    owner: String,
    admin: String,
    config: String,
    conversation: String,
    /// The server lives as long as this.
    _runtime: tokio::runtime::Runtime,
}

/// Where the server's data lies; what earlier processes left goes.
fn folder() -> Result<PathBuf, Box<dyn Error>> {
    let (place, prefix) = (std::env::temp_dir(), "nimblesite-fuzz-");
    for entry in std::fs::read_dir(&place)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(prefix).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|owner| !PathBuf::from(format!("/proc/{owner}")).exists()) {
            // Another process may be clearing it away, too.
            drop(std::fs::remove_dir_all(entry.path()));
        }
    }
    Ok(place.join(format!("{prefix}{}-data", std::process::id())))
}

fn ground() -> &'static Ground {
    static GROUND: LazyLock<Ground> = LazyLock::new(|| make().expect("a server to ask"));
    &GROUND
}

fn make() -> Result<Ground, Box<dyn Error>> {
    let mut config = Config::default_for(folder()?);
    config.listen = "127.0.0.1:0".parse()?;
    let limits = &mut config.limits;
    limits.refusal_pause_ms = Duration::ZERO;
    for rate in [&mut limits.auth_requests_per_minute, &mut limits.key_requests_per_minute, &mut limits.tenant_requests_per_minute] {
        *rate = 100_000_000;
    }
    limits.key_requests_burst = 10_000_000;
    limits.tenant_requests_burst = 10_000_000;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let started = runtime.block_on(Running::start(config, false, PortTaken::Fail));
    let running = started.map_err(|failure| format!("{failure:?}"))?;
    let (at, storage) = (running.at, running.app.storage.clone());
    let made = runtime.block_on(async {
        let operator = storage.operator_here();
        storage.user_create(&operator, "fuzz@example.com", &Password::new("correct horse battery".to_owned()), true).await?;
        storage.tenant_create_for(&operator, "Fuzz", "fuzz@example.com").await
    })?;
    // It runs until the process ends.
    std::mem::forget(running);
    let owner = serde_json::to_value(&made)?["api_key"].as_str().ok_or("no key")?.to_owned();
    let post = |path: &str, body: &str| -> Result<serde_json::Value, Box<dyn Error>> {
        let length = body.len();
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: h\r\nx-api-key: {owner}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
        let answer = ask(at, &[head.as_bytes(), body.as_bytes()].concat(), PATIENCE)?;
        let text = String::from_utf8(answer)?;
        let json = text.split_once("\r\n\r\n").ok_or("no body")?.1;
        serde_json::from_str(json).map_err(|error| format!("{path}: {error}: {text}").into())
    };
    let text = |value: &serde_json::Value, name: &str| value[name].as_str().map(str::to_owned).ok_or_else(|| format!("no {name}: {value}"));
    let admin = text(&post("/api/v1/keys", r#"{"name":"fuzz","role":"admin"}"#)?, "key")?;
    let config = r#"{"name":"f","system_prompt":"s","model_config":{"provider":"echo","model":"echo"}}"#;
    let config = text(&post("/api/v1/configs", config)?, "id")?;
    let said = post(&format!("/api/v1/chat/{config}"), r#"{"message":"hello words","metadata":{"plan":"pro"}}"#)?;
    let conversation = text(&said, "conversation_id")?;
    Ok(Ground { at, owner, admin, config, conversation, _runtime: runtime })
}

/// Sends bytes on a connection of their own and reads what comes.
fn ask(at: SocketAddr, bytes: &[u8], patience: Duration) -> std::io::Result<Vec<u8>> {
    let mut socket = TcpStream::connect(at)?;
    socket.set_read_timeout(Some(patience))?;
    let mut answer = Vec::new();
    // A server that has refused them need not read on, and may close before all was sent.
    drop(socket.write_all(bytes));
    drop(socket.read_to_end(&mut answer));
    Ok(answer)
}

/// The status of each answer: only whole heads count.
fn statuses(answer: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(answer);
    text.split("HTTP/1.1 ").skip(1).filter_map(|rest| rest.get(..3)?.parse().ok()).collect()
}

/// Whatever is sent, in whatever pieces of a request: no answer is a defect of ours. `{key}`, `{config}` and `{conversation}` stand for what there is.
pub fn requests(bytes: &[u8]) {
    let ground = ground();
    let mut sent = bytes.to_vec();
    for (name, value) in [("{key}", &ground.admin), ("{config}", &ground.config), ("{conversation}", &ground.conversation)] {
        while let Some(at) = sent.windows(name.len()).position(|window| window == name.as_bytes()) {
            sent.splice(at..at + name.len(), value.bytes());
        }
    }
    sent.extend_from_slice(LAST);
    let Ok(answer) = ask(ground.at, &sent, GLANCE) else { return };
    assert!(!statuses(&answer).contains(&500), "{}", String::from_utf8_lossy(&answer));
}

/// Lists with any words, cursors and filters: a page, or a refusal that names what is wrong. The first byte chooses the list, each line behind it is a
/// parameter.
pub fn lists(bytes: &[u8]) {
    let ground = ground();
    let Some((list, rest)) = bytes.split_first() else { return };
    let path = LISTS[usize::from(*list) % LISTS.len()].replace("{conversation}", &ground.conversation);
    let encoded = |part: &[u8]| part.iter().map(|byte| format!("%{byte:02x}")).collect::<String>();
    let parameters = rest.split(|byte| *byte == b'\n').take(12).map(|line| {
        let at = line.iter().position(|byte| *byte == b'=').unwrap_or(line.len());
        let (name, value) = line.split_at(at);
        format!("{}={}", encoded(name), encoded(value.get(1..).unwrap_or_default()))
    });
    let query = parameters.collect::<Vec<_>>().join("&");
    let head = format!("GET {path}?{query} HTTP/1.1\r\nhost: h\r\nx-api-key: {}\r\nconnection: close\r\n\r\n", ground.owner);
    let Ok(answer) = ask(ground.at, head.as_bytes(), PATIENCE) else { return };
    let told = String::from_utf8_lossy(&answer);
    let (head, body) = told.split_once("\r\n\r\n").unwrap_or_default();
    let status = statuses(head.as_bytes()).first().copied();
    let json = serde_json::from_str::<serde_json::Value>(body);
    match status {
        Some(200) => assert_eq!(json.ok().map(|json| json["object"].clone()), Some("list".into()), "{told}"),
        Some(400 | 414 | 422 | 431) => assert!(json.is_ok_and(|json| json["code"].is_string()), "{told}"),
        _ => panic!("{path}?{query}: {told}"),
    }
}
