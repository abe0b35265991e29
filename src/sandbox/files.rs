//! A workspace's files as the server is asked for them: read, written, listed, taken away and brought back. Each is done by a short-lived sandbox
//! on the same workspace, with no secrets and no bundle: what lies there may be a trap, and no path of it is opened outside.

use super::{ExitCause, Result, Running, SandboxError, SandboxSpec, Sandboxes};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Exit codes of the runner that mean something.
const REFUSED: i32 = 2;
const FULL: i32 = 28;
/// Bytes of one listing.
const LISTING_BYTES_MAX: u64 = 16 << 20;
/// Nobody reads or writes a path that is longer.
const PATH_BYTES_MAX: usize = 4096;

/// One entry of a workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// From the workspace's top.
    pub path: String,
    /// `file`, `folder`, `link` or `other`.
    pub kind: String,
    /// Its size.
    pub bytes: u64,
    /// When it was last changed, in milliseconds since 1970.
    pub changed: i64,
}

impl Sandboxes {
    /// The whole workspace as a tar stream, and how long that was.
    pub async fn snapshot(&self, spec: &SandboxSpec, out: &mut (impl AsyncWrite + Unpin)) -> Result<u64> {
        self.take(spec, &["snapshot"], out, u64::MAX).await
    }

    /// The same compressed (RFC 1952); more than `most` bytes are refused.
    pub async fn snapshot_packed(&self, spec: &SandboxSpec, out: &mut (impl AsyncWrite + Unpin), most: u64) -> Result<u64> {
        self.take(spec, &["packed"], out, most).await
    }

    /// What stands for the workspace as it is: another text whenever something in it was changed. 32 hexadecimal digits.
    pub async fn mark(&self, spec: &SandboxSpec) -> Result<String> {
        let mut mark = Vec::new();
        self.take(spec, &["mark"], &mut mark, 64).await?;
        let fine = mark.len() == 32 && mark.iter().all(u8::is_ascii_hexdigit);
        String::from_utf8(mark).ok().filter(|_| fine).ok_or_else(|| SandboxError::Protocol("that is no mark of a workspace".to_owned()))
    }

    /// A tar stream, compressed or not, into the workspace, over what is there.
    pub async fn restore(&self, spec: &SandboxSpec, from: &mut (impl AsyncRead + Unpin)) -> Result<()> {
        self.give(spec, &["restore"], from).await
    }

    /// A file's content; more than `most` bytes are refused.
    pub async fn file_read(&self, spec: &SandboxSpec, path: &str, most: u64) -> Result<Vec<u8>> {
        let mut content = Vec::new();
        self.take(spec, &["read", plain(path)?], &mut content, most).await?;
        Ok(content)
    }

    /// Writes a file, with the folders on its way.
    pub async fn file_write(&self, spec: &SandboxSpec, path: &str, from: &mut (impl AsyncRead + Unpin)) -> Result<()> {
        self.give(spec, &["write", plain(path)?], from).await
    }

    /// What lies below a folder; an empty path is the workspace.
    pub async fn file_list(&self, spec: &SandboxSpec, path: &str, most: usize) -> Result<Vec<Entry>> {
        let mut lines = Vec::new();
        let most = most.to_string();
        self.take(spec, &["list", plain(path)?, &most], &mut lines, LISTING_BYTES_MAX).await?;
        let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).map_err(|error| SandboxError::Protocol(error.to_string()))).collect()
    }

    async fn take(&self, spec: &SandboxSpec, work: &[&str], out: &mut (impl AsyncWrite + Unpin), most: u64) -> Result<u64> {
        let mut running = self.boot_for_files(spec, work).await?;
        let Some((reader, writer)) = running.tool_channel() else { return Err(SandboxError::Crashed(String::new())) };
        drop(writer);
        let sent = tokio::io::copy(&mut reader.take(most.saturating_add(1)), out).await;
        let sent = sent.map_err(|error| SandboxError::Internal(format!("a workspace's files could not be passed on: {error}")))?;
        if sent > most {
            return Err(SandboxError::TooLong(most));
        }
        done(&running).await.map(|()| sent)
    }

    async fn give(&self, spec: &SandboxSpec, work: &[&str], from: &mut (impl AsyncRead + Unpin)) -> Result<()> {
        let mut running = self.boot_for_files(spec, work).await?;
        let Some((_reader, mut writer)) = running.tool_channel() else { return Err(SandboxError::Crashed(String::new())) };
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = from.read(&mut buffer).await.map_err(|error| SandboxError::Denied(format!("what was sent broke off: {error}")))?;
            // The reason why nobody reads any more is in how it ended.
            if read == 0 || writer.write_all(&buffer[..read]).await.is_err() {
                break;
            }
        }
        drop(writer);
        done(&running).await
    }
}

fn plain(path: &str) -> Result<&str> {
    let fine = path.len() <= PATH_BYTES_MAX && !path.contains('\0');
    fine.then_some(path).ok_or_else(|| SandboxError::Denied("that is no path".to_owned()))
}

async fn done(running: &Running) -> Result<()> {
    let cause = running.exited().await;
    let said = || running.stderr_tail().trim().to_owned();
    match cause {
        ExitCause::Exit(0) => Ok(()),
        ExitCause::Exit(REFUSED) => Err(SandboxError::Denied(said())),
        ExitCause::Exit(FULL) => Err(SandboxError::DiskFull),
        ExitCause::Oom => Err(SandboxError::OomKilled),
        _ => Err(SandboxError::Crashed(said())),
    }
}
