//! How commands reach the running server: a socket in the data directory, one JSON line asked, one answered.
//!
//! It is for what only the process that has the files open may do. Rows are read and written beside the server, through SQLite. The
//! directory (0700) and the socket (0600) are the credential: whoever can connect may read the files anyway.

use crate::{
    agent::tools::Yard,
    app::App,
    error::{Error, Result},
    ids::TenantId,
    storage::Storage,
};
use serde::{Deserialize, Serialize};
use std::{
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
};

const SOCKET: &str = "control.sock";
/// Nothing that is asked is longer.
const LINE_BYTES_MAX: u64 = 64 * 1024;
/// A tenant may have a turn that is at its vendor; deleting waits for it to be cancelled and settled.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// What a command asks.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub enum Ask {
    /// Who are you?
    Server,
    /// Remove a tenant and every byte of its data.
    TenantDelete {
        /// Which.
        tenant_id: TenantId,
    },
    /// Pack a tenant's workspaces into a folder, which is the asker's to remove.
    WorkspacesPack {
        /// Whose.
        tenant_id: TenantId,
    },
    /// Bring a tenant's content back from an exported file.
    TenantRestore {
        /// Which.
        tenant_id: TenantId,
        /// The file, by its whole path.
        file: PathBuf,
    },
}

/// What the server answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "told", rename_all = "snake_case", deny_unknown_fields)]
pub enum Told {
    /// It runs.
    Server {
        /// The program's version.
        version: String,
        /// Its process.
        pid: u32,
        /// Where it listens.
        listen: String,
    },
    /// Done.
    Done,
    /// The workspaces are in this folder.
    Packed {
        /// Its whole path.
        folder: PathBuf,
    },
    /// The tenant is gone.
    Deleted {
        /// Backups of it that could not be reached.
        unreached: Vec<String>,
    },
    /// Not done, and why.
    Refused {
        /// For the person at the command line.
        message: String,
    },
}

/// What the server does when it is asked.
#[derive(Clone)]
pub struct Desk {
    /// What the server is made of.
    pub app: App,
    /// Where the server listens.
    pub listen: String,
}

/// The server's end of the socket. Dropping it takes the socket away.
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Control {
    /// Listens in the data directory. Only the holder of the directory's lock may call this: what stands there is from a dead server.
    pub fn listen(data: &Path) -> io::Result<Self> {
        let path = data.join(SOCKET);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path })
    }

    /// Answers until it is dropped. One question at a time: each is rare, and none may overlap another.
    pub async fn serve(&self, desk: Desk) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    if let Err(error) = answer(stream, &desk).await {
                        tracing::warn!(%error, "a command's question was lost");
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "control.sock");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.path));
    }
}

async fn answer(stream: UnixStream, desk: &Desk) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let line = tokio::time::timeout(ASK_TIMEOUT, read_line(&mut stream)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    let told = match serde_json::from_str(&line) {
        Ok(ask) => act(ask, desk).await,
        Err(error) => Told::Refused { message: format!("the server does not know this question ({error}); is it of another version?") },
    };
    write_line(stream.get_mut(), &told).await
}

async fn act(ask: Ask, desk: &Desk) -> Told {
    match ask {
        Ask::Server => {
            let version = env!("CARGO_PKG_VERSION").to_owned();
            Told::Server { version, pid: std::process::id(), listen: desk.listen.clone() }
        }
        Ask::TenantDelete { tenant_id } => {
            tracing::info!(%tenant_id, "a tenant is deleted by the operator");
            let storage = &desk.app.storage;
            let operator = storage.operator_here();
            // Of a file that cannot be opened nothing is known; the next start removes what has no tenant.
            let workspaces = storage.tenant_workspaces(&operator, tenant_id).await.unwrap_or_default();
            match desk.app.agent.without_turns(tenant_id, storage.tenant_remove(&operator, tenant_id)).await {
                Ok(unreached) => {
                    desk.app.yard.tenant_end(tenant_id, &workspaces).await;
                    Told::Deleted { unreached }
                }
                Err(error) => Told::Refused { message: error.to_string() },
            }
        }
        Ask::WorkspacesPack { tenant_id } => match workspaces_pack(&desk.app.storage, &desk.app.yard, tenant_id).await {
            Ok(folder) => Told::Packed { folder },
            Err(error) => Told::Refused { message: error.to_string() },
        },
        Ask::TenantRestore { tenant_id, file } => {
            tracing::info!(%tenant_id, "a tenant's content is restored by the operator");
            let storage = &desk.app.storage;
            let operator = storage.operator_here();
            let restoring = storage.tenant_restore(&operator, tenant_id, file);
            match desk.app.agent.without_turns(tenant_id, restoring).await {
                Ok(()) => Told::Done,
                Err(error) => Told::Refused { message: error.to_string() },
            }
        }
    }
}

/// Packs a tenant's workspaces for the operator, in the process that has the data directory's lock; answers the folder.
pub async fn workspaces_pack(storage: &Storage, yard: &Yard, tenant: TenantId) -> Result<PathBuf> {
    let (store, held) = storage.workspaces_pack_begin(&storage.operator_here(), tenant).await?;
    yard.pack(&store, storage, held.packing()?).await?;
    Ok(held.keep())
}

/// Asks the running server. `None` when none runs: no socket, or one that a dead server left.
pub async fn ask(data: &Path, ask: &Ask) -> Result<Option<Told>> {
    let failed = |error: io::Error| {
        Error::internal(format!("the running server could not be asked through {}: {error}", data.join(SOCKET).display()))
    };
    let mut stream = match UnixStream::connect(data.join(SOCKET)).await {
        Ok(stream) => BufReader::new(stream),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    write_line(stream.get_mut(), ask).await.map_err(failed)?;
    let answered = tokio::time::timeout(ANSWER_TIMEOUT, read_line(&mut stream)).await;
    let line = answered.map_err(|_| failed(io::ErrorKind::TimedOut.into()))?.map_err(failed)?;
    serde_json::from_str(&line).map(Some).map_err(|error| failed(error.into()))
}

async fn read_line(stream: &mut BufReader<UnixStream>) -> io::Result<String> {
    let mut line = String::new();
    stream.take(LINE_BYTES_MAX).read_line(&mut line).await?;
    if line.ends_with('\n') { Ok(line) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

async fn write_line(stream: &mut UnixStream, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    stream.write_all(&line).await
}
