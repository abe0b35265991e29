//! Configs: every write makes a version, a deleted one stays as a tombstone so that its conversations remain readable. What a config may
//! say is checked before it comes here (`config_check`).

use super::{
    bodies::Bodies,
    engine::{Param, Row},
    rows,
    sandboxes::{config_left, secrets_write},
    select::{Select, id_cursor},
    tenant::{TenantStore, TenantTx},
    trail::{Author, Deed, content_record},
};
use crate::{
    clock::Time,
    error::{Error, Result},
    ids::{ConfigId, TenantId, UserId},
    model::{Act, Config, ConfigBody, ConfigVersion, List, Page, WorkspaceSecrets},
    template,
};
use std::sync::{Arc, LazyLock};

/// What the columns of a config are read from, in the order that [`config_take`] expects.
const CONFIG: &str = "SELECT c.id, c.version, v.body, c.created_at, c.updated_at FROM configs c \
     JOIN config_versions v ON v.tenant_id = c.tenant_id AND v.config_id = c.id AND v.version = c.version \
     WHERE c.tenant_id = ?1 AND c.deleted_at IS NULL";

/// One of them.
static CONFIG_FIND: LazyLock<String> = LazyLock::new(|| format!("{CONFIG} AND c.id = ?2"));

impl TenantStore {
    /// Stores a new config as its version 1. A name that another config has is [`Error::ConfigNameTaken`].
    pub async fn config_create(&self, by: impl Into<Author>, body: ConfigBody) -> Result<Config> {
        let (id, now, by) = (ConfigId::new(), self.clock.now(), by.into());
        self.sealing_ready(body.workspace_secrets.is_some()).await?;
        let (sealing, tenant) = (Arc::clone(&self.sealing), self.tenant.to_string());
        self.write(move |tx| {
            name_free(tx, &body.name, id)?;
            let (id_text, ms) = (id.to_string(), Param::Int(now.ms()));
            tx.execute(
                "INSERT INTO configs (tenant_id, id, name, version, created_at, updated_at) VALUES (?1, ?2, ?3, 1, ?4, ?4)",
                &[Param::Text(&id_text), Param::Text(&body.name), ms],
            )?;
            secrets_write(tx, sealing.vault(), &tenant, id, body.workspace_secrets.as_ref(), now)?;
            let body = without_values(&body);
            version_write(tx, &id_text, 1, &body, by.user, now)?;
            content_record(tx, Deed::new(by.into(), Act::ConfigCreate, now).to(id).with("version", 1))?;
            Ok(shown(id, 1, body, now, now))
        })
        .await
    }

    /// A page of configs, by id.
    pub async fn config_list(&self, page: Page) -> Result<List<Config>> {
        self.read(move |tx| Select::new(CONFIG).page(tx, &page, "c.id", id_cursor("configs"), config_take, |config| config.id.to_string()))
            .await
    }

    /// One config, in its newest version.
    pub async fn config_get(&self, id: ConfigId) -> Result<Config> {
        self.read(move |tx| config_find(tx, id)).await
    }

    /// Stores a new version in place of the newest.
    pub async fn config_replace(&self, by: impl Into<Author>, id: ConfigId, body: ConfigBody) -> Result<Config> {
        let seals = body.workspace_secrets.is_some();
        self.config_change(by, id, seals, move |_| Ok(body.clone())).await
    }

    /// Stores what `change` makes of the newest version, as a new one. `change` runs inside the transaction, so no write between reading
    /// and storing is lost, and perhaps more than once; an error of it is passed on and nothing is stored. `seals` says that it may give
    /// secrets another value.
    pub async fn config_change(
        &self,
        by: impl Into<Author>,
        id: ConfigId,
        seals: bool,
        mut change: impl FnMut(&ConfigBody) -> Result<ConfigBody> + Send + 'static,
    ) -> Result<Config> {
        let (now, by) = (self.clock.now(), by.into());
        self.sealing_ready(seals).await?;
        let (sealing, tenant) = (Arc::clone(&self.sealing), self.tenant.to_string());
        self.write(move |tx| {
            let old = config_find(tx, id)?;
            let body = change(&old.body)?;
            secrets_write(tx, sealing.vault(), &tenant, id, body.workspace_secrets.as_ref(), now)?;
            let body = without_values(&body);
            name_free(tx, &body.name, id)?;
            let (id_text, version) = (id.to_string(), old.version + 1);
            tx.execute(
                "UPDATE configs SET name = ?3, version = ?4, updated_at = ?5 WHERE tenant_id = ?1 AND id = ?2",
                &[Param::Text(&id_text), Param::Text(&body.name), Param::Int(version.into()), Param::Int(now.ms())],
            )?;
            version_write(tx, &id_text, version, &body, by.user, now)?;
            content_record(tx, Deed::new(by.into(), Act::ConfigUpdate, now).to(id).with("version", version))?;
            Ok(shown(id, version, body, old.created_at, now))
        })
        .await
    }

    /// Before secrets are sealed, the catalog has to know that the key is needed.
    async fn sealing_ready(&self, seals: bool) -> Result<()> {
        if seals { self.sealing.vault_to_seal().await.map(drop) } else { Ok(()) }
    }

    /// Takes a config away. Its versions and conversations stay; its name is free again; its secrets and its bundle go, and its workspace is
    /// marked to be removed.
    pub async fn config_delete(&self, by: impl Into<Author>, id: ConfigId) -> Result<()> {
        let (now, by) = (self.clock.now(), by.into());
        self.write(move |tx| {
            let sql = "UPDATE configs SET deleted_at = ?3, updated_at = ?3 WHERE tenant_id = ?1 AND id = ?2 AND deleted_at IS NULL";
            match tx.execute(sql, &[Param::Text(&id.to_string()), Param::Int(now.ms())])? {
                0 => Err(Error::not_found("config", id)),
                _ => {
                    config_left(tx, &id.to_string())?;
                    content_record(tx, Deed::new(by.into(), Act::ConfigDelete, now).to(id))
                }
            }
        })
        .await
    }

    /// A page of a config's versions. Their ids in lists are their numbers.
    pub async fn config_versions(&self, id: ConfigId, page: Page) -> Result<List<ConfigVersion>> {
        self.read(move |tx| {
            config_find(tx, id)?;
            let mut select = Select::new("SELECT version, body, created_by, created_at FROM config_versions WHERE tenant_id = ?1");
            select.and("config_id = ?", id.to_string());
            let cursor = |tx: &mut TenantTx<'_>, text: &str| {
                let Ok(number) = text.parse::<u32>() else { return Ok(None) };
                let sql = "SELECT version FROM config_versions WHERE tenant_id = ?1 AND config_id = ?2 AND version = ?3";
                tx.first(sql, &[Param::Text(&id.to_string()), Param::Int(number.into())], |row| Ok(row.int(0)?.into()))
            };
            let take = |row: &dyn Row| {
                Ok(ConfigVersion {
                    version: rows::number(row, 0)?,
                    body: rows::json(row, 1)?,
                    created_by: rows::parsed(row, 2)?,
                    created_at: rows::time(row, 3)?,
                })
            };
            select.page(tx, &page, "version", cursor, take, |version| version.version.to_string())
        })
        .await
    }
}

/// The newest version of a config and its number, for a chat turn's own transaction; nothing when it was deleted or never was.
pub(super) fn config_for_chat(tx: &mut TenantTx<'_>, bodies: &Bodies, key: (TenantId, ConfigId)) -> Result<Option<(Arc<ConfigBody>, u32)>> {
    tx.first(&CONFIG_FIND, &[Param::Text(&key.1.to_string())], |row| Ok((bodies.read(key, row.text(2)?)?, rows::number(row, 1)?)))
}

fn config_find(tx: &mut TenantTx<'_>, id: ConfigId) -> Result<Config> {
    tx.first(&CONFIG_FIND, &[Param::Text(&id.to_string())], config_take)?.ok_or_else(|| Error::not_found("config", id))
}

fn config_take(row: &dyn Row) -> Result<Config> {
    Ok(shown(rows::parsed(row, 0)?, rows::number(row, 1)?, rows::json(row, 2)?, rows::time(row, 3)?, rows::time(row, 4)?))
}

/// A config as the API shows it.
fn shown(id: ConfigId, version: u32, body: ConfigBody, created_at: Time, updated_at: Time) -> Config {
    let template_variables = template::variables(&body.system_prompt);
    Config { id, config_id: id, version, body, template_variables, created_at, updated_at }
}

/// What is kept of a config, for ever: the names of its secrets alone.
fn without_values(body: &ConfigBody) -> ConfigBody {
    ConfigBody { workspace_secrets: body.workspace_secrets.as_ref().map(WorkspaceSecrets::without_values), ..body.clone() }
}

/// Whether a config is there and not deleted.
pub(super) fn config_is_alive(tx: &mut TenantTx<'_>, id: ConfigId) -> Result<bool> {
    let sql = "SELECT 1 FROM configs WHERE tenant_id = ?1 AND id = ?2 AND deleted_at IS NULL";
    Ok(tx.first(sql, &[Param::Text(&id.to_string())], |_| Ok(()))?.is_some())
}

/// All configs that are not deleted.
pub(super) fn configs_alive(tx: &mut TenantTx<'_>) -> Result<Vec<ConfigId>> {
    tx.all("SELECT id FROM configs WHERE tenant_id = ?1 AND deleted_at IS NULL", &[], |row| rows::parsed(row, 0))
}

fn name_free(tx: &mut TenantTx<'_>, name: &str, id: ConfigId) -> Result<()> {
    let sql = "SELECT 1 FROM configs WHERE tenant_id = ?1 AND name = ?2 AND deleted_at IS NULL AND id <> ?3";
    match tx.first(sql, &[Param::Text(name), Param::Text(&id.to_string())], |_| Ok(()))? {
        Some(()) => Err(Error::ConfigNameTaken { name: name.to_owned() }),
        None => Ok(()),
    }
}

fn version_write(tx: &mut TenantTx<'_>, id: &str, version: u32, body: &ConfigBody, by: UserId, now: Time) -> Result<()> {
    tx.execute(
        "INSERT INTO config_versions (tenant_id, config_id, version, body, created_by, created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        &[
            Param::Text(id),
            Param::Int(version.into()),
            Param::Text(&rows::json_text(body)?),
            Param::Text(&by.to_string()),
            Param::Int(now.ms()),
        ],
    )?;
    Ok(())
}
