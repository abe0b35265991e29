//! Starts the two servers and fills them: ours through its API alone, as a client would.

use super::client::{Client, wait_for};
use serde_json::json;
use std::{
    error::Error,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

/// What a tenant is asked with.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Door {
    pub key: String,
    pub path: String,
}

/// A server that runs; killed when dropped.
pub struct Side {
    pub name: &'static str,
    pub at: SocketAddr,
    pub child: Child,
    pub doors: Arc<Vec<Door>>,
}

impl Side {
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }
}

/// The operator's token of the server under load.
pub const OPERATOR: &str = "bench-operator-token-0123456789";

/// Writes what our server is configured with: no limit is in the way that a load of this kind is not about. `top` are lines of the file's top,
/// `more` of its limits.
pub fn configure(data: &Path, vendor: SocketAddr, top: &str, more: &str) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(data)?;
    let limits = "auth_requests_per_minute = 1000000\nkey_requests_per_minute = 100000000\nkey_requests_burst = 10000000\n\
                  tenant_requests_per_minute = 100000000\ntenant_requests_burst = 10000000\ntenants_per_user_max = 1000000\nturns_max = 100000\n\
                  turns_per_tenant_max = 100000\n";
    let settings = data.join("nimblesite.toml");
    // It has the operator's token.
    drop(created(&settings)?);
    std::fs::write(
        settings,
        format!(
            "listen = \"127.0.0.1:0\"\noperator_token = \"{OPERATOR}\"\n{top}[limits]\n{limits}{more}\n\
             [providers.bench]\nwire = \"openai\"\nbase_url = \"http://{vendor}/v1\"\n"
        ),
    )?;
    std::fs::write(
        data.join("models.toml"),
        "markup = \"1\"\n[[model]]\nprovider = \"bench\"\nname = \"fast\"\nsource = \"the bench\"\nas_of = \"2026-11-24\"\ninput = \"3\"\noutput = \"15\"\n\
         context_window = 1000000\noutput_limit = 64000\n",
    )
}

/// An empty file that nobody else may look into: `doctor` has nothing to say about it.
fn created(path: &Path) -> std::io::Result<std::fs::File> {
    std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// Starts our server on its data directory and says how long that took.
pub async fn ours_start(binary: &Path, data: &Path) -> Result<(Side, Duration), Box<dyn Error>> {
    let began = Instant::now();
    let mut child = Command::new(binary)
        .env_clear()
        .env("NIMBLESITE_DATA", data)
        .args(["serve", "--json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::from(created(&data.join("bench.log"))?))
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines();
    let mut text = String::new();
    let at: SocketAddr = loop {
        let Some(line) = lines.next_line().await? else {
            return Err(format!("{text}{}", std::fs::read_to_string(data.join("bench.log"))?).into());
        };
        text.push_str(&line);
        if let Ok(json) = serde_json::from_str::<serde_json::Value>(&text) {
            break json["listen"].as_str().unwrap_or_default().parse()?;
        }
    };
    wait_for(at, Instant::now() + Duration::from_secs(10)).await?;
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok((Side { name: "nimblesite", at, child, doors: Arc::default() }, began.elapsed()))
}

/// Stops our server the way SIGTERM does.
pub async fn ours_stop(mut side: Side) -> Result<(), Box<dyn Error>> {
    Command::new("kill").args(["-TERM", &side.pid().to_string()]).status().await?;
    side.child.wait().await?;
    Ok(())
}

/// Makes a user, and with it so many tenants, each with credit and one config.
pub async fn ours_fill(binary: &Path, data: &Path, at: SocketAddr, tenants: usize) -> Result<Vec<Door>, Box<dyn Error>> {
    let mut made = Command::new(binary)
        .env_clear()
        .env("NIMBLESITE_DATA", data)
        .args(["user", "create", "--email", "bench@example.com", "--verified", "--password-stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    if let Some(mut stdin) = made.stdin.take() {
        tokio::io::AsyncWriteExt::write_all(&mut stdin, b"correct horse battery staple\n").await?;
    }
    if !made.wait().await?.success() {
        return Err("the user could not be made".into());
    }
    let login = json!({"email": "bench@example.com", "password": "correct horse battery staple"}).to_string();
    let signed_in = Client::new(at).ask("POST", "/api/v1/auth/login", "", "*/*", &login).await?;
    let token = signed_in.json()["access_token"].as_str().ok_or("no token")?.to_owned();
    let next = Arc::new(AtomicUsize::new(0));
    let workers: Vec<_> = (0..8)
        .map(|_| {
            let (next, token) = (Arc::clone(&next), token.clone());
            tokio::spawn(async move {
                let (mut client, mut doors) = (Client::new(at), Vec::new());
                while next.fetch_add(1, Ordering::Relaxed) < tenants {
                    doors.push(tenant_make(&mut client, &token).await?);
                }
                Ok::<_, String>(doors)
            })
        })
        .collect();
    let mut doors = Vec::new();
    for worker in workers {
        doors.extend(worker.await??);
    }
    Ok(doors)
}

async fn tenant_make(client: &mut Client, token: &str) -> Result<Door, String> {
    let mut post = async |path: &str, key: &str, body: serde_json::Value| {
        let reply = client.ask("POST", path, key, "*/*", &body.to_string()).await.map_err(|error| error.to_string())?;
        if reply.status >= 300 { Err(format!("{path}: {} {}", reply.status, reply.json())) } else { Ok(reply.json()) }
    };
    let tenant = post("/api/v1/tenants", token, json!({"name": "Bench"})).await?;
    let (id, key) = (tenant["id"].as_str().unwrap_or_default(), tenant["api_key"].as_str().unwrap_or_default());
    post(&format!("/api/v1/operator/tenants/{id}/credit"), OPERATOR, json!({"amount": "100000"})).await?;
    let model = json!({"provider": "bench", "model": "fast", "max_tokens": 256});
    let prompt = "You are a test for {tenant_name}. Today is {date}.";
    let config = post("/api/v1/configs", key, json!({"name": "Bench", "system_prompt": prompt, "model_config": model})).await?;
    Ok(Door { key: key.to_owned(), path: format!("/api/v1/chat/{}", config["id"].as_str().unwrap_or_default()) })
}

/// Starts the yardstick, which is this program once more, on a directory of its own.
pub async fn yardstick_start(data: PathBuf, vendor: SocketAddr, tenants: usize, keep: usize) -> Result<Side, Box<dyn Error>> {
    std::fs::create_dir_all(&data)?;
    let mut child = Command::new(std::env::current_exe()?)
        .arg("yardstick")
        .arg(&data)
        .args([format!("http://{vendor}/v1/chat/completions"), tenants.to_string(), keep.to_string()])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines();
    let at = lines.next_line().await?.ok_or("the yardstick did not start")?.parse()?;
    let doors = (0..tenants).map(|tenant| Door { key: format!("ns_{tenant}"), path: "/turn".to_owned() }).collect();
    Ok(Side { name: "yardstick", at, child, doors: Arc::new(doors) })
}
