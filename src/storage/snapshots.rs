//! Snapshots of workspaces, as far as a tenant's file has to do with them: which workspace a config has after one took its place, and who did
//! that. The bytes lie elsewhere (`agent::tools::shelf`).

use super::{
    Storage,
    configs::{config_is_alive, configs_alive},
    engine::Param,
    sandboxes::sandbox_find,
    tenant::TenantStore,
    trail::{Author, Deed, content_record},
};
use crate::{
    error::{Error, Result},
    ids::{ConfigId, SnapshotId, TenantId},
    model::Act,
};

impl TenantStore {
    /// Writes down that someone made or removed a snapshot.
    pub async fn snapshot_note(&self, by: impl Into<Author>, act: Act, config: ConfigId, snapshot: SnapshotId) -> Result<()> {
        let (now, by) = (self.clock.now(), by.into());
        self.write(move |tx| content_record(tx, Deed::new(by.into(), act, now).to(config).with("snapshot", snapshot.to_string()))).await
    }

    /// Gives a config another workspace, which a snapshot was laid into, in the place of `before`, its name, if it had one.
    /// [`Error::Conflict`] when it has another by now, [`Error::NotFound`] when the config is gone: the new workspace is nobody's then.
    pub async fn sandbox_restored(
        &self,
        by: impl Into<Author>,
        config: ConfigId,
        snapshot: SnapshotId,
        before: Option<String>,
        name: String,
    ) -> Result<()> {
        let (now, by) = (self.clock.now(), by.into());
        self.write(move |tx| {
            if !config_is_alive(tx, config)? {
                return Err(Error::not_found("config", config));
            }
            let row = sandbox_find(tx, config)?;
            if row.as_ref().is_some_and(|row| row.destroying) || row.map(|row| row.sandbox_id) != before {
                let detail = "The workspace was removed or moved meanwhile; nothing was restored.".to_owned();
                return Err(Error::Conflict { detail });
            }
            tx.execute(
                "INSERT INTO sandboxes (tenant_id, config_id, sandbox_id, state, created_at, used_at) VALUES (?1, ?2, ?3, 'kept', ?4, ?4)
                 ON CONFLICT (tenant_id, config_id) DO UPDATE SET sandbox_id = excluded.sandbox_id",
                &[Param::Text(&config.to_string()), Param::Text(&name), Param::Int(now.ms())],
            )?;
            let deed = Deed::new(by.into(), Act::SnapshotRestore, now).to(config).with("snapshot", snapshot.to_string());
            content_record(tx, deed)
        })
        .await
    }
}

impl Storage {
    /// The configs that a tenant has, for who removes what belongs to none. None where the tenant's file cannot be looked into.
    pub async fn configs_alive(&self, tenant: TenantId) -> Option<Vec<ConfigId>> {
        self.active_store(tenant).await.ok()?.read(configs_alive).await.ok()
    }
}
