//! What sandboxed configs run: their bundles, their secrets (sealed, and opened for a start alone), and which workspaces there are.
//!
//! A bundle's archive is kept here, in the tenant's own file, so that exports, backups and deletion take it along; what is unpacked of it is a
//! cache. Whether an archive is acceptable is decided before it comes here (`bundle`).

use super::{
    Operator, Storage,
    engine::{Param, Row, TxExt},
    rows,
    tenant::{TenantStore, TenantTx},
    trail::{Author, Deed, content_record},
};
use crate::{
    bundle::manifest::Manifest,
    clock::Time,
    config::Secret,
    error::{Error, Result},
    ids::{ConfigId, TenantId},
    model::{Act, Bundle, PinnedTool, WorkspaceSecrets},
    vault::Vault,
};
use std::{path::PathBuf, sync::Arc};

/// An archive is kept in parts of so many bytes: no row is longer than the engine takes.
const PART_BYTES: usize = 4 * 1024 * 1024;

/// A bundle on its way in.
#[derive(Debug, Clone)]
pub struct NewBundle {
    /// SHA-256 of the archive, in hexadecimal.
    pub digest: String,
    /// What it says of itself.
    pub manifest: Manifest,
    /// What it said of its tools when it was tried out.
    pub tools: Vec<PinnedTool>,
    /// The archive.
    pub archive: Arc<[u8]>,
}

/// The bundle of a config, as its turns need it.
#[derive(Debug, Clone, PartialEq)]
pub struct Kit {
    /// The archive's SHA-256.
    pub digest: String,
    /// What it says of itself.
    pub manifest: Manifest,
    /// Its tools, pinned.
    pub tools: Vec<PinnedTool>,
}

/// What is known of a config's workspace on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxRow {
    /// What names it outside.
    pub sandbox_id: String,
    /// Whether it is to be removed, by whoever comes next.
    pub destroying: bool,
    /// When a tool was last called.
    pub used_at: Time,
}

impl TenantStore {
    /// Gives a config another bundle. The archive that none of the tenant's configs runs any more goes.
    pub async fn bundle_put(&self, by: impl Into<Author>, id: ConfigId, bundle: NewBundle) -> Result<Bundle> {
        let (now, by) = (self.clock.now(), by.into());
        self.write(move |tx| {
            let (config, digest) = (id.to_string(), &bundle.digest);
            let (manifest, tools) = (rows::json_text(&bundle.manifest)?, rows::json_text(&bundle.tools)?);
            let size = i64::try_from(bundle.archive.len()).map_err(Error::internal)?;
            let added = tx.execute(
                "INSERT INTO bundles (tenant_id, digest, manifest, tools, size_bytes, created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT (tenant_id, digest) DO NOTHING",
                &[Param::Text(digest), Param::Text(&manifest), Param::Text(&tools), Param::Int(size), Param::Int(now.ms())],
            )?;
            if added == 1 {
                for (part, bytes) in (0_i64..).zip(bundle.archive.chunks(PART_BYTES)) {
                    let sql = "INSERT INTO bundle_parts (tenant_id, digest, part, bytes) VALUES (?1, ?2, ?3, ?4)";
                    tx.execute(sql, &[Param::Text(digest), Param::Int(part), Param::Bytes(bytes)])?;
                }
            }
            tx.execute(
                "INSERT INTO config_bundles (tenant_id, config_id, digest, created_at) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (tenant_id, config_id) DO UPDATE SET digest = excluded.digest, created_at = excluded.created_at",
                &[Param::Text(&config), Param::Text(digest), Param::Int(now.ms())],
            )?;
            bundles_tidy(tx)?;
            content_record(tx, Deed::new(by.into(), Act::BundlePut, now).to(id).with("digest", digest))?;
            bundle_find(tx, &config)?.ok_or_else(|| Error::internal("a bundle that was just stored is not there"))
        })
        .await
    }

    /// The bundle that a config runs.
    pub async fn bundle_get(&self, config: ConfigId) -> Result<Bundle> {
        self.read(move |tx| bundle_find(tx, &config.to_string())?.ok_or_else(|| Error::not_found("bundle of config", config))).await
    }

    /// Takes a config's bundle away.
    pub async fn bundle_delete(&self, by: impl Into<Author>, config: ConfigId) -> Result<()> {
        let (now, by) = (self.clock.now(), by.into());
        self.write(move |tx| {
            let sql = "DELETE FROM config_bundles WHERE tenant_id = ?1 AND config_id = ?2";
            if tx.execute(sql, &[Param::Text(&config.to_string())])? == 0 {
                return Err(Error::not_found("bundle of config", config));
            }
            content_record(tx, Deed::new(by.into(), Act::BundleDelete, now).to(config))?;
            bundles_tidy(tx)
        })
        .await
    }

    /// The bytes of an archive.
    pub async fn bundle_archive(&self, digest: String) -> Result<Vec<u8>> {
        self.read(move |tx| {
            let mut archive = Vec::new();
            let sql = "SELECT bytes FROM bundle_parts WHERE tenant_id = ?1 AND digest = ?2 ORDER BY part";
            tx.query(sql, &[Param::Text(&digest)], |row| {
                archive.extend_from_slice(row.bytes(0)?);
                Ok(())
            })?;
            Ok(archive)
        })
        .await
    }

    /// A config's bundle as its turns need it.
    pub async fn kit(&self, config: ConfigId) -> Result<Option<Kit>> {
        self.read(move |tx| kit_find(tx, config)).await
    }

    /// A config's secrets, for a start of its sandbox and for taking them out of what it says.
    pub async fn secrets_open(&self, config: ConfigId) -> Result<Vec<(String, Secret)>> {
        let sealed: Vec<(String, String)> = self
            .read(move |tx| {
                let sql = "SELECT name, sealed FROM config_secrets WHERE tenant_id = ?1 AND config_id = ?2 ORDER BY name";
                tx.all(sql, &[Param::Text(&config.to_string())], |row| Ok((row.text(0)?.to_owned(), row.text(1)?.to_owned())))
            })
            .await?;
        let id = config.to_string();
        sealed.into_iter().map(|(name, sealed)| Ok((name.clone(), self.secret_open(&context(&id, &name), &sealed)?))).collect()
    }

    /// The workspace of a config.
    pub async fn sandbox_get(&self, config: ConfigId) -> Result<Option<SandboxRow>> {
        self.read(move |tx| sandbox_find(tx, config)).await
    }

    /// Notes that a config's sandbox is being used; the first time, that it is there, under this name. Answers its row.
    pub async fn sandbox_used(&self, config: ConfigId, name: String) -> Result<SandboxRow> {
        let now = self.clock.now();
        self.write(move |tx| {
            tx.execute(
                "INSERT INTO sandboxes (tenant_id, config_id, sandbox_id, state, created_at, used_at) VALUES (?1, ?2, ?3, 'kept', ?4, ?4)
                 ON CONFLICT (tenant_id, config_id) DO UPDATE SET used_at = excluded.used_at",
                &[Param::Text(&config.to_string()), Param::Text(&name), Param::Int(now.ms())],
            )?;
            sandbox_find(tx, config)?.ok_or_else(|| Error::internal("a sandbox's row that was just written is not there"))
        })
        .await
    }

    /// Notes that a config's files lie under another name now.
    pub async fn sandbox_renamed(&self, config: ConfigId, name: String) -> Result<()> {
        self.write(move |tx| {
            let sql = "UPDATE sandboxes SET sandbox_id = ?3 WHERE tenant_id = ?1 AND config_id = ?2";
            tx.execute(sql, &[Param::Text(&config.to_string()), Param::Text(&name)]).map(drop)
        })
        .await
    }

    /// An archive of files that an import brought for a config's workspace, and that nobody has laid out yet. It is the finder's to remove.
    pub fn workspace_waiting(&self, config: ConfigId) -> Option<PathBuf> {
        let archive = self.engine.workspaces_waiting(self.tenant).join(format!("{config}.tar"));
        archive.exists().then_some(archive)
    }

    /// The configs that have such an archive.
    pub fn workspaces_waiting(&self) -> Vec<ConfigId> {
        let entries = std::fs::read_dir(self.engine.workspaces_waiting(self.tenant)).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".tar")?.parse().ok()).collect()
    }

    /// Marks a workspace for removal, whatever becomes of whoever removes it; answers its name if there is one.
    pub async fn sandbox_doom(&self, by: impl Into<Author>, config: ConfigId) -> Result<Option<String>> {
        let (now, by) = (self.clock.now(), by.into());
        self.write(move |tx| {
            let doomed = sandbox_doomed(tx, &config.to_string())?;
            if doomed.is_some() {
                content_record(tx, Deed::new(by.into(), Act::SandboxReset, now).to(config))?;
            }
            Ok(doomed)
        })
        .await
    }

    /// Forgets a workspace that is removed.
    pub async fn sandbox_gone(&self, config: ConfigId) -> Result<()> {
        self.write(move |tx| {
            let sql = "DELETE FROM sandboxes WHERE tenant_id = ?1 AND config_id = ?2";
            tx.execute(sql, &[Param::Text(&config.to_string())]).map(drop)
        })
        .await
    }

    /// Every workspace of the tenant, with its config, and whether it is to be removed.
    pub async fn sandbox_list(&self) -> Result<Vec<(ConfigId, SandboxRow)>> {
        self.read(|tx| {
            let sql = "SELECT sandbox_id, state, used_at, config_id FROM sandboxes WHERE tenant_id = ?1";
            tx.all(sql, &[], |row| Ok((rows::parsed(row, 3)?, sandbox_take(row)?)))
        })
        .await
    }
}

impl Storage {
    /// The names of a tenant's workspaces on this machine, for who removes the tenant.
    pub async fn tenant_workspaces(&self, operator: &Operator, tenant: TenantId) -> Result<Vec<String>> {
        let rows = self.operator_store(operator, tenant).await?.sandbox_list().await?;
        Ok(rows.into_iter().map(|(_, row)| row.sandbox_id).collect())
    }

    /// The names of a tenant's workspaces that are to stay, for who removes what an earlier life left.
    pub async fn workspaces_kept(&self, tenant: TenantId) -> Result<Vec<String>> {
        let rows = self.active_store(tenant).await?.sandbox_list().await?;
        Ok(rows.into_iter().filter(|(_, row)| !row.destroying).map(|(_, row)| row.sandbox_id).collect())
    }

    /// Forgets the workspaces that were marked for removal, once they are removed.
    pub async fn workspaces_forget_doomed(&self, tenant: TenantId) -> Result<()> {
        let store = self.active_store(tenant).await?;
        if store.sandbox_list().await?.iter().all(|(_, row)| !row.destroying) {
            return Ok(());
        }
        let sql = "DELETE FROM sandboxes WHERE tenant_id = ?1 AND state = 'destroying'";
        store.write(move |tx| tx.execute(sql, &[]).map(drop)).await
    }

    /// Every tenant that there is, for who looks for what has none.
    pub async fn tenants_known(&self) -> Result<Vec<TenantId>> {
        self.catalog_read(|tx| tx.all("SELECT id FROM tenants", &[], |row| rows::parsed(row, 0))).await
    }
}

/// Writes the secrets that a config says: sets those with a value, keeps those that are only named, removes the rest.
pub(super) fn secrets_write(
    tx: &mut TenantTx<'_>,
    vault: &Vault,
    tenant: &str,
    config: ConfigId,
    secrets: Option<&WorkspaceSecrets>,
    now: Time,
) -> Result<()> {
    let id = config.to_string();
    let stored: Vec<String> =
        tx.all("SELECT name FROM config_secrets WHERE tenant_id = ?1 AND config_id = ?2", &[Param::Text(&id)], |row| {
            Ok(row.text(0)?.to_owned())
        })?;
    let none = WorkspaceSecrets::default();
    let secrets = secrets.unwrap_or(&none);
    for name in stored.iter().filter(|name| !secrets.0.contains_key(*name)) {
        let sql = "DELETE FROM config_secrets WHERE tenant_id = ?1 AND config_id = ?2 AND name = ?3";
        tx.execute(sql, &[Param::Text(&id), Param::Text(name)])?;
    }
    for (name, value) in &secrets.0 {
        let Some(value) = value else {
            if stored.contains(name) {
                continue;
            }
            return Err(Error::invalid(
                format!("/workspace_secrets/{name}"),
                "is only named, and no value is stored under this name: send one",
            ));
        };
        let parts: Vec<&str> = ["tenant", tenant].into_iter().chain(context(&id, name)).collect();
        let sealed = vault.seal(&parts, &Secret::new(value.expose().to_owned()))?;
        tx.execute(
            "INSERT INTO config_secrets (tenant_id, config_id, name, sealed, updated_at) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (tenant_id, config_id, name) DO UPDATE SET sealed = excluded.sealed, updated_at = excluded.updated_at",
            &[Param::Text(&id), Param::Text(name), Param::Text(&sealed), Param::Int(now.ms())],
        )?;
    }
    Ok(())
}

/// Takes away what a deleted config leaves: secrets, bundle and what its tools reached at once, the workspace by whoever sees the mark.
pub(super) fn config_left(tx: &mut TenantTx<'_>, config: &str) -> Result<()> {
    for table in ["config_secrets", "config_bundles", "egress"] {
        tx.execute(&format!("DELETE FROM {table} WHERE tenant_id = ?1 AND config_id = ?2"), &[Param::Text(config)])?;
    }
    sandbox_doomed(tx, config)?;
    bundles_tidy(tx)
}

fn sandbox_doomed(tx: &mut TenantTx<'_>, config: &str) -> Result<Option<String>> {
    tx.execute("UPDATE sandboxes SET state = 'destroying' WHERE tenant_id = ?1 AND config_id = ?2", &[Param::Text(config)])?;
    let sql = "SELECT sandbox_id FROM sandboxes WHERE tenant_id = ?1 AND config_id = ?2";
    tx.first(sql, &[Param::Text(config)], |row| Ok(row.text(0)?.to_owned()))
}

/// Removes archives that no config runs.
fn bundles_tidy(tx: &mut TenantTx<'_>) -> Result<()> {
    let unused = "digest NOT IN (SELECT c.digest FROM config_bundles c WHERE c.tenant_id = ?1)";
    for table in ["bundle_parts", "bundles"] {
        tx.execute(&format!("DELETE FROM {table} WHERE tenant_id = ?1 AND {unused}"), &[])?;
    }
    Ok(())
}

/// What secrets are sealed for.
fn context<'a>(config: &'a str, name: &'a str) -> [&'a str; 4] {
    ["config", config, "secret", name]
}

/// The bundle of a config, for a turn's own transaction.
pub(super) fn kit_find(tx: &mut TenantTx<'_>, config: ConfigId) -> Result<Option<Kit>> {
    let sql = "SELECT b.digest, b.manifest, b.tools FROM config_bundles c
               JOIN bundles b ON b.tenant_id = c.tenant_id AND b.digest = c.digest WHERE c.tenant_id = ?1 AND c.config_id = ?2";
    tx.first(sql, &[Param::Text(&config.to_string())], |row| {
        Ok(Kit { digest: row.text(0)?.to_owned(), manifest: rows::json(row, 1)?, tools: rows::json(row, 2)? })
    })
}

fn bundle_find(tx: &mut TenantTx<'_>, config: &str) -> Result<Option<Bundle>> {
    let sql = "SELECT b.digest, b.manifest, b.tools, b.size_bytes, c.created_at FROM config_bundles c
               JOIN bundles b ON b.tenant_id = c.tenant_id AND b.digest = c.digest WHERE c.tenant_id = ?1 AND c.config_id = ?2";
    tx.first(sql, &[Param::Text(config)], |row| {
        let manifest: Manifest = rows::json(row, 1)?;
        Ok(Bundle {
            digest: row.text(0)?.to_owned(),
            kind: manifest.runtime.kind().to_owned(),
            name: manifest.name,
            version: manifest.version,
            size_bytes: rows::number(row, 3)?,
            tools: rows::json(row, 2)?,
            secrets: manifest.secrets,
            network_asked: manifest.network.allow,
            network_granted: Vec::new(),
            created_at: rows::time(row, 4)?,
        })
    })
}

pub(super) fn sandbox_find(tx: &mut TenantTx<'_>, config: ConfigId) -> Result<Option<SandboxRow>> {
    let sql = "SELECT sandbox_id, state, used_at FROM sandboxes WHERE tenant_id = ?1 AND config_id = ?2";
    tx.first(sql, &[Param::Text(&config.to_string())], sandbox_take)
}

fn sandbox_take(row: &dyn Row) -> Result<SandboxRow> {
    Ok(SandboxRow { sandbox_id: row.text(0)?.to_owned(), destroying: row.text(1)? == "destroying", used_at: rows::time(row, 2)? })
}
