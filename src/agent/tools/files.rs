//! A workspace's files, as people look at them: listed and read by a short-lived sandbox of their own, since what lies there may be a trap.

use super::yard::Yard;
use crate::{
    error::{Error, Result},
    ids::{ConfigId, TenantId},
    model::{WorkspaceFile, WorkspaceFiles},
    sandbox::{Entry, SandboxError, SandboxId, SandboxSpec},
    storage::TenantStore,
};

impl Yard {
    /// What lies below a folder of a config's workspace, an empty path being all of it. Without a workspace nothing does.
    pub async fn file_list(&self, tenant: TenantId, store: &TenantStore, config: ConfigId, path: &str) -> Result<WorkspaceFiles> {
        let Some(spec) = self.files_of(store, config).await? else { return Ok(WorkspaceFiles::default()) };
        let most = self.limits.sandbox_files_listed_max;
        let listed = self.at_files(tenant, self.sandboxes.file_list(&spec, path, most.saturating_add(1))).await;
        let mut entries = listed.map_err(|error| told(error, path))?;
        let more = entries.len() > most;
        entries.truncate(most);
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(WorkspaceFiles { data: entries.into_iter().map(shown).collect(), more })
    }

    /// A file's content, up to `limits.sandbox_file_bytes_max`.
    pub async fn file_read(&self, tenant: TenantId, store: &TenantStore, config: ConfigId, path: &str) -> Result<Vec<u8>> {
        let spec = self.files_of(store, config).await?.ok_or_else(|| Error::not_found("file", path))?;
        let most = self.limits.sandbox_file_bytes_max as u64;
        self.at_files(tenant, self.sandboxes.file_read(&spec, path, most)).await.map_err(|error| told(error, path))
    }

    /// A sandbox for the workspace's files alone; none where there is no workspace.
    pub(super) async fn files_of(&self, store: &TenantStore, config: ConfigId) -> Result<Option<SandboxSpec>> {
        let body = store.config_get(config).await?.body;
        let row = store.sandbox_get(config).await?.filter(|row| !row.destroying);
        let Some(id) = row.and_then(|row| SandboxId::new(&row.sandbox_id)) else { return Ok(None) };
        let (image, kit) = (self.image_of(&body)?, store.kit(config).await?);
        let limits = self.limits_of(kit.as_ref().map(|kit| &kit.manifest));
        self.filled(store, config, &id, image.as_deref(), limits).await?;
        Ok(Some(self.plain_spec(id, image.as_deref(), limits)))
    }

    /// One look at files of a tenant at a time: each starts a process.
    async fn at_files<T>(
        &self,
        tenant: TenantId,
        work: impl Future<Output = std::result::Result<T, SandboxError>>,
    ) -> std::result::Result<T, SandboxError> {
        let _turn = self.file_turns.enter(tenant).await.map_err(|_| SandboxError::Capacity("others look at files already".to_owned()))?;
        match tokio::time::timeout(self.limits.sandbox_call_ms, work).await {
            Ok(done) => done,
            Err(_) => Err(SandboxError::Deadline),
        }
    }
}

fn shown(entry: Entry) -> WorkspaceFile {
    WorkspaceFile { path: entry.path, kind: entry.kind, size_bytes: entry.bytes, changed_at: crate::clock::Time::from_ms(entry.changed) }
}

/// What went wrong, for whoever asked. What the sandbox says of a path is about that path.
fn told(error: SandboxError, path: &str) -> Error {
    match error {
        SandboxError::TooLong(_) => Error::invalid("path", format!("{error}; take it out through a tool")),
        SandboxError::Denied(_) => Error::not_found("file", path),
        other => trouble(other, "looked at"),
    }
}

/// What went wrong where it was not about one file: the workspace's files could not be `done`.
pub(super) fn trouble(error: SandboxError, done: &str) -> Error {
    match error {
        SandboxError::Unavailable(_) => Error::SandboxUnavailable { detail: "No sandbox can be started on this server.".to_owned() },
        SandboxError::Capacity(_) => Error::Overloaded { retry_after: std::time::Duration::from_secs(2) },
        SandboxError::Internal(why) => Error::internal(why),
        other => Error::Conflict { detail: format!("The workspace's files could not be {done}: {other}.") },
    }
}
