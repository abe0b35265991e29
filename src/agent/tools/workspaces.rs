//! Workspaces: one a config, named so that its name says nothing of whose it is, kept until its config or tenant goes.

use super::{
    intake::start_of,
    yard::{ToolAsk, Yard},
};
use crate::{
    error::{Error, Result},
    ids::{ConfigId, RequestId, TenantId},
    sandbox::{BuiltIns, SandboxError, SandboxId, SandboxLimits, SandboxSpec},
    storage::{Storage, TenantStore},
};
use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

/// Bytes on the way from one workspace into another.
const MOVE_BYTES: usize = 256 * 1024;

impl Yard {
    /// The name of the config's workspace. One that was doomed is removed first, whatever kept that from being done before.
    pub(super) async fn workspace(&self, ask: &ToolAsk<'_>, image: Option<&str>) -> Result<SandboxId> {
        let name = self.standing(ask.store, ask.config).await?.unwrap_or_else(|| sandbox_name(ask.tenant));
        let row = ask.store.sandbox_used(ask.config, name).await?;
        let id = named(&row.sandbox_id)?;
        if !self.sandboxes.contained(image) || !self.sandboxes.seen_here_alone(&id) {
            return Ok(id);
        }
        // A config that was given an image: its files go along into a workspace that the engine sees.
        let new = named(&sandbox_name(ask.tenant))?;
        let limits = self.limits_of(ask.kit.map(|kit| &kit.manifest));
        let moved = self.moved(&self.plain_spec(id.clone(), None, limits), &self.plain_spec(new.clone(), image, limits)).await;
        if let Err(error) = moved {
            self.destroy(new.as_str()).await?;
            return Err(Error::internal(format_args!("workspace {id} could not be moved into a container's: {error}")));
        }
        ask.store.sandbox_renamed(ask.config, new.as_str().to_owned()).await?;
        self.destroy(id.as_str()).await?;
        Ok(new)
    }

    /// The name of the config's workspace, if it has one. One that was doomed is removed first; where there is none, there is room for one.
    pub(super) async fn standing(&self, store: &TenantStore, config: ConfigId) -> Result<Option<String>> {
        match store.sandbox_get(config).await? {
            Some(row) if row.destroying => {
                self.destroy(&row.sandbox_id).await?;
                store.sandbox_gone(config).await?;
                Ok(None)
            }
            Some(row) => Ok(Some(row.sandbox_id)),
            None if store.sandbox_list().await?.len() >= self.limits.sandboxes_per_tenant_max => {
                let detail = format!(
                    "The tenant has {} workspaces, as many as it may; reset one that is not needed.",
                    self.limits.sandboxes_per_tenant_max
                );
                Err(Error::Conflict { detail })
            }
            None => Ok(None),
        }
    }

    async fn moved(&self, from: &SandboxSpec, to: &SandboxSpec) -> std::result::Result<(), SandboxError> {
        let (mut writer, mut reader) = tokio::io::duplex(MOVE_BYTES);
        // Each end goes with its side, so that neither waits for the other in vain.
        let packing = async move { self.sandboxes.snapshot(from, &mut writer).await };
        let laying = async move { self.sandboxes.restore(to, &mut reader).await };
        let (packed, laid) = tokio::join!(packing, laying);
        laid.and(packed.map(drop))
    }

    /// Lays an archive that an import brought into a config's workspace, over what is there, once.
    pub(super) async fn filled(
        &self,
        store: &TenantStore,
        config: ConfigId,
        id: &SandboxId,
        image: Option<&str>,
        limits: SandboxLimits,
    ) -> Result<()> {
        let Some(archive) = store.workspace_waiting(config) else { return Ok(()) };
        let mut from = tokio::fs::File::open(&archive).await.map_err(Error::internal)?;
        match self.sandboxes.restore(&self.plain_spec(id.clone(), image, limits), &mut from).await {
            Ok(()) => tokio::fs::remove_file(&archive).await.map_err(Error::internal),
            Err(error @ (SandboxError::Denied(_) | SandboxError::DiskFull | SandboxError::Crashed(_))) => {
                tracing::warn!(%config, %error, "imported files of a workspace could not be laid out");
                let detail = "The imported files could not be laid into the workspace; resetting the sandbox gives them up.".to_owned();
                Err(Error::Conflict { detail })
            }
            Err(error) => Err(Error::internal(error)),
        }
    }

    /// Packs a tenant's workspaces into a folder: one tar a config, under its id. What is being written meanwhile is in it as it is read.
    pub async fn pack(&self, store: &TenantStore, storage: &Storage, folder: &Path) -> Result<()> {
        let rows: Vec<_> = store.sandbox_list().await?.into_iter().filter(|(_, row)| !row.destroying).collect();
        for config in store.workspaces_waiting().into_iter().filter(|config| rows.iter().all(|(known, _)| known != config)) {
            if let Some(archive) = store.workspace_waiting(config) {
                tokio::fs::copy(archive, folder.join(format!("{config}.tar"))).await.map_err(Error::internal)?;
            }
        }
        for (config, row) in rows {
            let id = named(&row.sandbox_id)?;
            if !self.sandboxes.has_place(&id) {
                continue;
            }
            let limits = self.limits_of(store.kit(config).await?.as_ref().map(|kit| &kit.manifest));
            let room = limits.workspace_bytes.saturating_add(self.limits.disk_free_bytes_min as u64);
            if storage.disk_free_bytes()? < room {
                return Err(Error::DiskFull);
            }
            self.filled(store, config, &id, None, limits).await?;
            let mut archive = tokio::fs::File::create(folder.join(format!("{config}.tar"))).await.map_err(Error::internal)?;
            let packed = self.sandboxes.snapshot(&self.plain_spec(id, None, limits), &mut archive).await;
            packed.map_err(|error| match error {
                SandboxError::Unavailable(_) => {
                    Error::SandboxUnavailable { detail: "No sandbox can be started on this server.".to_owned() }
                }
                error => Error::internal(format_args!("the workspace of config {config} could not be packed: {error}")),
            })?;
            tokio::io::AsyncWriteExt::shutdown(&mut archive).await.map_err(Error::internal)?;
        }
        Ok(())
    }

    /// For work on a workspace's files: no bundle, no secret, no tool.
    pub(super) fn plain_spec(&self, id: SandboxId, image: Option<&str>, limits: SandboxLimits) -> SandboxSpec {
        SandboxSpec {
            id,
            bundle: None,
            start: start_of(None),
            limits,
            network: false,
            built_ins: BuiltIns::default(),
            secrets_in_shell: false,
            result_bytes_max: self.limits.sandbox_result_bytes_max,
            image: image.map(str::to_owned),
        }
    }

    pub(super) async fn destroy(&self, name: &str) -> Result<()> {
        let Some(id) = SandboxId::new(name) else { return Ok(()) };
        self.sandboxes.destroy(&id).await.map_err(|error| Error::internal(format_args!("workspace {name}: {error}")))
    }

    /// Removes the workspaces that an earlier life left: of tenants that are gone, of configs that are gone, of bundles that were tried out. What
    /// belongs to a tenant whose file does not open stays.
    pub async fn sweep(&self, data: &Path, storage: &Storage) -> Result<()> {
        let folder = data.join("sandboxes");
        let listing = tokio::task::spawn_blocking(move || {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect::<Vec<_>>()
        });
        let names = listing.await.map_err(Error::internal)?;
        if names.is_empty() {
            return Ok(());
        }
        let tenants: HashMap<String, TenantId> = storage.tenants_known().await?.into_iter().map(|tenant| (tag(tenant), tenant)).collect();
        let owners: HashSet<TenantId> = names.iter().filter_map(|name| tenants.get(name.split('-').next()?).copied()).collect();
        let mut live = HashSet::new();
        let mut looked_at = Vec::new();
        for tenant in owners {
            match storage.workspaces_kept(tenant).await {
                Ok(kept) => {
                    live.extend(kept.iter().filter_map(|name| SandboxId::new(name)));
                    looked_at.push(tenant);
                }
                Err(error) => {
                    tracing::warn!(%tenant, %error, "a tenant's workspaces are left alone: its file does not open");
                    let own = names.iter().filter(|name| name.starts_with(&tag(tenant)));
                    live.extend(own.filter_map(|name| SandboxId::new(name)));
                }
            }
        }
        match self.sandboxes.sweep(&live).await {
            Ok(removed) if removed.is_empty() => {}
            Ok(removed) => tracing::info!(removed = removed.len(), "removed workspaces that nobody has any more"),
            Err(error) => {
                tracing::warn!(%error, "workspaces of an earlier run could not be looked through");
                return Ok(());
            }
        }
        for tenant in looked_at {
            storage.workspaces_forget_doomed(tenant).await?;
        }
        Ok(())
    }
}

/// What stands for a tenant in names that its own processes may see: the same in every life, and no help in guessing its id.
pub(super) fn tag(tenant: TenantId) -> String {
    format!("t{}", &blake3::hash(tenant.to_string().as_bytes()).to_hex()[..16])
}

/// A name for a workspace.
pub(super) fn sandbox_name(tenant: TenantId) -> String {
    format!("{}-{}", tag(tenant), RequestId::new())
}

fn named(name: &str) -> Result<SandboxId> {
    SandboxId::new(name).ok_or_else(|| Error::internal("a sandbox's row names none"))
}
