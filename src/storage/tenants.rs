//! Tenants: made, changed, stopped, deleted. The catalog's row comes first and goes last, so that no file is ever without one: a tenant is
//! `creating` until its file is there, and `deleting` until its file is gone. Neither is seen by anyone.

use super::{
    Operator, Principal, SignedIn, Storage, catalog,
    engine::{Param, Row, Tx, TxExt},
    keys, operate, retention, rows,
    select::Select,
    tenant::TenantTx,
    trail::{self, Actor, Author, Deed, access_record},
    users, wallet,
};
use crate::{
    clock::{self, Time},
    error::{Error, Result},
    ids::{KeyId, TenantId, UserId},
    mail,
    model::{Act, AuditChain, List, MeTenant, Page, Retention, Role, Tenant, TenantCreated, TenantPatch},
    secret::{KeyHash, NewKey},
    vault::DataKey,
};
use std::{path::PathBuf, sync::Arc, time::Duration};

/// A tenant that has been `creating` for so long was left by a crash; a younger one may be in the making by a command beside the server.
const CREATING_MAX: Duration = Duration::from_secs(60);

impl Storage {
    /// Makes a tenant with the user as its owner, and its first key, shown this once.
    pub async fn tenant_create(&self, who: &SignedIn, name: &str) -> Result<TenantCreated> {
        let name = catalog::name_checked(name, "/name")?;
        self.tenant_make(name, (who.user_id, Author::from(who.user_id).into()), Some(self.inner.limits.tenants_per_user_max), None).await
    }

    /// Makes a tenant for the user of this address.
    pub async fn tenant_create_for(&self, _: &Operator, name: &str, owner_email: &str) -> Result<TenantCreated> {
        let (name, email) = (catalog::name_checked(name, "/name")?, mail::address(owner_email, "/owner")?);
        let owner = self.catalog_read(move |tx| operate::found(tx, &email)).await?;
        self.tenant_make(name, (owner.id, Actor::OPERATOR), None, None).await
    }

    /// Makes a tenant of an exported file, for the user of this address: the file's configs and conversations under a new id, and no money.
    /// [`Error::Conflict`] when the file is not one of ours, damaged or changed. `key` is for one that is encrypted.
    pub async fn tenant_import(
        &self,
        _: &Operator,
        (file, key): (PathBuf, Option<DataKey>),
        name: Option<String>,
        owner_email: &str,
    ) -> Result<TenantCreated> {
        let email = mail::address(owner_email, "/owner")?;
        let owner = self.catalog_read(move |tx| operate::found(tx, &email)).await?;
        let file = file.canonicalize().map_err(|error| Error::Conflict { detail: format!("{}: {error}", file.display()) })?;
        let key = key.map(Arc::new);
        let (engine, path, opens) = (Arc::clone(&self.inner.engine), file.clone(), key.clone());
        let manifest = tokio::task::spawn_blocking(move || engine.export_read(&path, &opens)).await.map_err(Error::internal)??;
        let name = name.or_else(|| manifest.get("tenant_name").cloned()).unwrap_or_default();
        self.tenant_make(catalog::name_checked(&name, "/name")?, (owner.id, Actor::OPERATOR), None, Some((file, key))).await
    }

    async fn tenant_make(
        &self,
        name: String,
        owner: (UserId, Actor),
        tenants_max: Option<usize>,
        content: Option<(PathBuf, Option<Arc<DataKey>>)>,
    ) -> Result<TenantCreated> {
        let (key, hash) = self.key_generate().await?;
        let storage = self.clone();
        // A task of its own: who goes away in the middle must not leave half a tenant.
        let making = async move { storage.tenant_make_all((name, owner), tenants_max, (key, hash), content).await };
        tokio::spawn(making).await.map_err(Error::internal)?
    }

    async fn tenant_make_all(
        &self,
        (name, (owner, by)): (String, (UserId, Actor)),
        tenants_max: Option<usize>,
        (key, hash): (NewKey, KeyHash),
        content: Option<(PathBuf, Option<Arc<DataKey>>)>,
    ) -> Result<TenantCreated> {
        let (id, key_id, now) = (TenantId::new(), KeyId::new(), self.inner.clock.now());
        let key = Arc::new(key);
        let data_key = if self.inner.encrypts { Some(self.inner.sealing.data_key_make(id).await?) } else { None };
        let (row_name, row_key, imported) = (name.clone(), Arc::clone(&key), content.is_some());
        self.catalog_write(move |tx| {
            if let Some(max) = tenants_max {
                tenants_counted(tx, owner, max)?;
            }
            tenant_insert(tx, id, &row_name, owner, now)?;
            let encrypted = "UPDATE tenants SET data_key = ?2 WHERE id = ?1";
            tx.execute(encrypted, &[Param::Text(&id.to_string()), Param::text_opt(data_key.as_deref())])?;
            let first = keys::NewRow {
                id: key_id,
                tenant: id,
                user: owner,
                name: "first key",
                role: Role::Owner,
                expires_at: None,
                spend_limit: None,
            };
            keys::key_insert(tx, &first, &row_key, &hash, now)?;
            access_record(tx, id, Deed::new(by, Act::TenantCreate, now).to(id).with("owner", owner).with("imported", imported))?;
            access_record(tx, id, first.deed(by, Act::KeyCreate, now))
        })
        .await?;
        crate::failpoint::hit("tenant-row");
        let made = match content {
            Some(file) => self.tenant_file_import(id, &name, file).await,
            None => self.tenant_file_create(id, &name).await,
        };
        if let Err(error) = made {
            // Best effort: what stays is `creating`, which nobody sees and the next start removes.
            if let Err(error) = self.tenant_erase(id).await {
                tracing::warn!(tenant = %id, %error, "a tenant that could not be made was not cleaned up yet");
            }
            return Err(error);
        }
        crate::failpoint::hit("tenant-file");
        self.catalog_write(move |tx| state_set(tx, id, "creating", "active", now)).await?;
        crate::failpoint::hit("tenant-active");
        let api_key = key.text().expose().to_owned();
        Ok(TenantCreated { id, name, role: Role::Owner, created_at: now, api_key, api_key_id: key_id })
    }

    /// The tenants that the user belongs to.
    pub async fn tenant_list(&self, who: &SignedIn, page: Page) -> Result<List<MeTenant>> {
        let user = who.user_id.to_string();
        self.catalog_read(move |tx| {
            let cursor = |tx: &mut TenantTx<'_>, id: &str| {
                tx.first(&format!("{} AND t.id = ?2", users::TENANTS_OF), &[Param::Text(id)], |row| Ok(row.text(0)?.into()))
            };
            let mut tx = TenantTx::new(tx, &user);
            Select::new(users::TENANTS_OF).page(&mut tx, &page, "t.id", cursor, users::me_tenant_take, |tenant| tenant.id.to_string())
        })
        .await
    }

    /// The key's own tenant.
    pub async fn tenant_read(&self, who: &Principal) -> Result<Tenant> {
        self.tenant_shown(who.tenant_id).await
    }

    /// One tenant.
    pub async fn tenant_show(&self, _: &Operator, id: TenantId) -> Result<Tenant> {
        self.tenant_shown(id).await
    }

    async fn tenant_shown(&self, id: TenantId) -> Result<Tenant> {
        let tenant = self.catalog_read(move |tx| tenant_find(tx, id)).await?;
        self.tenant_sized(tenant).await
    }

    /// With the size of its file and the limit of it. A file that cannot be looked at counts as empty: one broken tenant must not keep the
    /// operator from seeing the others.
    async fn tenant_sized(&self, tenant: Tenant) -> Result<Tenant> {
        let (engine, id) = (Arc::clone(&self.inner.engine), tenant.id);
        let size = tokio::task::spawn_blocking(move || engine.size_bytes(id)).await.map_err(Error::internal)?;
        let size_bytes = size.unwrap_or_else(|error| {
            tracing::warn!(tenant = %id, %error, "the size of a tenant's file is not known");
            0
        });
        let size_limit_bytes = self.bytes_max(tenant.size_limit_bytes);
        Ok(Tenant { size_bytes, size_limit_bytes, ..tenant })
    }

    /// Changes name, time zone or retention. Needs an owner's key.
    pub async fn tenant_update(&self, who: &Principal, patch: TenantPatch) -> Result<Tenant> {
        let name = patch.name.map(|name| catalog::name_checked(&name, "/name")).transpose()?;
        if patch.time_zone.as_ref().is_some_and(|zone| !clock::is_time_zone(zone)) {
            return Err(Error::invalid("/time_zone", "expected a time zone of the IANA database, such as Europe/Vienna or UTC"));
        }
        let (who, now, zone, new_name) = (who.clone(), self.inner.clock.now(), patch.time_zone, name.clone());
        let (witness, kept) = (who.clone(), patch.retention);
        if let Some(kept) = &kept {
            retention::check(kept)?;
        }
        let tenant = self
            .catalog_write(move |tx| {
                catalog::standing_at_least(tx, &who, now, Role::Owner)?;
                let id = who.tenant_id.to_string();
                let sql =
                    "UPDATE tenants SET name = COALESCE(?2, name), time_zone = COALESCE(?3, time_zone), updated_at = ?4 WHERE id = ?1";
                let params =
                    [Param::Text(&id), Param::text_opt(new_name.as_deref()), Param::text_opt(zone.as_deref()), Param::Int(now.ms())];
                tx.execute(sql, &params)?;
                if let Some(kept) = &kept {
                    retention::set(tx, who.tenant_id, kept)?;
                }
                let changed = [new_name.as_ref().map(|_| "name"), zone.as_ref().map(|_| "time_zone"), kept.as_ref().map(|_| "retention")];
                let changed: Vec<&str> = changed.into_iter().flatten().collect();
                let tenant = tenant_find(tx, who.tenant_id)?;
                let mut deed = Deed::new(Actor::from(&who), Act::TenantUpdate, now).to(&id).with("changed", changed);
                if kept.is_some() {
                    deed = deed.with("retention", tenant.retention);
                }
                access_record(tx, who.tenant_id, deed)?;
                Ok(tenant)
            })
            .await?;
        if let Some(name) = name {
            self.tenant_file_name(&witness, name).await;
        }
        self.tenant_sized(tenant).await
    }

    /// Brings the copy of the name in the tenant's own file up to date. It is for people who open the file; the catalog's counts, so a
    /// failure is only noted.
    async fn tenant_file_name(&self, who: &Principal, name: String) {
        let written = async {
            let store = self.tenant_store(who).await?;
            store.write(move |tx| tx.execute("UPDATE tenant SET name = ?2 WHERE id = ?1", &[Param::Text(&name)])).await
        };
        if let Err(error) = written.await {
            tracing::warn!(tenant = %who.tenant_id, %error, "a tenant's file keeps an older copy of its name");
        }
    }

    /// Removes every byte of the key's own tenant; `confirm` must be its name. Needs an owner's key. The caller lets go of its
    /// [`super::TenantStore`] first, and has the tenant's turns cancelled.
    pub async fn tenant_delete(&self, who: &Principal, confirm: &str) -> Result<()> {
        let (who, confirm, now, id) = (who.clone(), confirm.to_owned(), self.inner.clock.now(), who.tenant_id);
        let ends = self.tenant_ends(id).await;
        self.catalog_write(move |tx| {
            catalog::standing_at_least(tx, &who, now, Role::Owner)?;
            if tenant_find(tx, id)?.name != confirm {
                return Err(Error::invalid("/confirm", "expected the tenant's name, exactly as it is"));
            }
            tenant_end(tx, id, Actor::from(&who), ends.clone(), now)
        })
        .await?;
        self.tenant_erase_detached(id).await.map(drop)
    }

    /// Removes every byte of a tenant. In the server's own process, or under its lock. Answers which backups could not be reached.
    pub async fn tenant_remove(&self, _: &Operator, id: TenantId) -> Result<Vec<String>> {
        let now = self.inner.clock.now();
        let ends = self.tenant_ends(id).await;
        self.catalog_write(move |tx| tenant_end(tx, id, Actor::OPERATOR, ends.clone(), now)).await?;
        self.tenant_erase_detached(id).await
    }

    /// The last links of the chains in a tenant's file, for the stub that it leaves. A file that cannot be read leaves none: it must be
    /// possible to delete it.
    async fn tenant_ends(&self, id: TenantId) -> Option<Ends> {
        let read = async {
            let store = self.active_store(id).await?;
            store.read(|tx| Ok(Ends { content: trail::link(tx, AuditChain::Content)?, ledger: wallet::link(tx)? })).await
        };
        read.await.inspect_err(|error| tracing::warn!(tenant = %id, %error, "a tenant's file that is to be deleted cannot be read")).ok()
    }

    /// In a task of its own: who goes away in the middle must not leave half a tenant.
    async fn tenant_erase_detached(&self, id: TenantId) -> Result<Vec<String>> {
        let storage = self.clone();
        tokio::spawn(async move { storage.tenant_erase(id).await }).await.map_err(Error::internal)?
    }

    /// The file first, then its copies in backups, then every row about the tenant. Gone already is fine. Answers which backups could not be
    /// reached; they keep nothing else from being removed.
    async fn tenant_erase(&self, id: TenantId) -> Result<Vec<String>> {
        self.tenant_file_destroy(id).await?;
        let unreached = self.backups_erase(id).await?;
        for place in &unreached {
            tracing::warn!(tenant = %id, place, "a backup of a deleted tenant could not be reached; remove the tenant there by hand");
        }
        let nobody = TenantId::new().to_string();
        self.catalog_write(move |tx| {
            for table in ["api_keys", "invitations", "memberships"] {
                tx.execute(&format!("DELETE FROM {table} WHERE tenant_id = ?1"), &[Param::Text(&id.to_string())])?;
            }
            // That a vendor broke its bound counts for all tenants; whom it struck is nobody's to know any more.
            let sql = "UPDATE model_breaches SET tenant_id = ?2 WHERE tenant_id = ?1";
            tx.execute(sql, &[Param::Text(&id.to_string()), Param::Text(&nobody)])?;
            tx.execute("DELETE FROM audit WHERE tenant_id = ?1", &[Param::Text(&id.to_string())])?;
            tx.execute("DELETE FROM tenants WHERE id = ?1 AND state <> 'active'", &[Param::Text(&id.to_string())])?;
            Ok(())
        })
        .await?;
        Ok(unreached)
    }

    /// Stops a tenant's chat, or lets it go on.
    pub async fn tenant_suspend(&self, _: &Operator, id: TenantId, suspended: bool) -> Result<Tenant> {
        let now = self.inner.clock.now();
        let tenant = self
            .catalog_write(move |tx| {
                let before = tenant_find(tx, id)?;
                let since = if suspended { Param::Int(now.ms()) } else { Param::Null };
                let sql = "UPDATE tenants SET suspended_at = ?2, updated_at = ?3 WHERE id = ?1 AND state = 'active'";
                tx.execute(sql, &[Param::Text(&id.to_string()), since, Param::Int(now.ms())])?;
                if before.suspended != suspended {
                    let act = if suspended { Act::TenantSuspend } else { Act::TenantResume };
                    access_record(tx, id, Deed::new(Actor::OPERATOR, act, now).to(id))?;
                }
                tenant_find(tx, id)
            })
            .await?;
        self.tenant_sized(tenant).await
    }

    /// Sets how large a tenant's file may grow, in bytes, from its next request on: 0 for without a limit, nothing for the server's own.
    pub async fn tenant_limit(&self, _: &Operator, id: TenantId, bytes_max: Option<u64>) -> Result<Tenant> {
        let expected = "expected bytes, 0 for no limit, or null for the server's own limit";
        let stored = bytes_max.map(i64::try_from).transpose().map_err(|_| Error::invalid("/size_bytes", expected))?;
        let now = self.inner.clock.now();
        let tenant = self
            .catalog_write(move |tx| {
                tenant_find(tx, id)?;
                let sql = "UPDATE tenants SET bytes_max = ?2, updated_at = ?3 WHERE id = ?1 AND state = 'active'";
                tx.execute(sql, &[Param::Text(&id.to_string()), Param::int_opt(stored), Param::Int(now.ms())])?;
                access_record(tx, id, Deed::new(Actor::OPERATOR, Act::TenantLimit, now).to(id).with("size_bytes", bytes_max))?;
                tenant_find(tx, id)
            })
            .await?;
        self.tenant_sized(tenant).await
    }

    /// All tenants, by id.
    pub async fn tenant_list_all(&self, _: &Operator, page: Page) -> Result<List<Tenant>> {
        let mut list = self
            .catalog_read(move |tx| {
                // The operator's lists are nobody's own: `?1`, which scopes all others, is empty.
                let select = Select::new(&format!("{TENANT} AND ?1 = ''"));
                let cursor = |tx: &mut TenantTx<'_>, id: &str| {
                    tx.first(&format!("{TENANT} AND ?1 = '' AND id = ?2"), &[Param::Text(id)], |row| Ok(row.text(0)?.into()))
                };
                select.page(&mut TenantTx::new(tx, ""), &page, "id", cursor, tenant_take, |tenant| tenant.id.to_string())
            })
            .await?;
        for tenant in &mut list.data {
            *tenant = self.tenant_sized(tenant.clone()).await?;
        }
        Ok(list)
    }

    /// Finishes what a crash left half made or half deleted, and removes what has ended. For the server, at start.
    pub async fn tenants_finish(&self) -> Result<()> {
        let abandoned = self.inner.clock.now().minus(CREATING_MAX);
        let sql = "SELECT id FROM tenants WHERE state = 'deleting' OR (state = 'creating' AND created_at <= ?1)";
        let left: Vec<TenantId> =
            self.catalog_read(move |tx| tx.all(sql, &[Param::Int(abandoned.ms())], |row| rows::parsed(row, 0))).await?;
        for id in left {
            // Marked first, so that a command which still makes it cannot call it active behind our back.
            self.catalog_write(move |tx| {
                let sql = "UPDATE tenants SET state = 'deleting' WHERE id = ?1 AND state = 'creating'";
                tx.execute(sql, &[Param::Text(&id.to_string())])
            })
            .await?;
            match self.tenant_erase(id).await {
                Ok(_) => tracing::info!(tenant = %id, "removed a tenant that an earlier server left half made or half deleted"),
                Err(error) => {
                    tracing::error!(tenant = %id, %error, "a half deleted tenant could not be removed; trying again at the next start");
                }
            }
        }
        self.accounts_tidy().await
    }
}

const TENANT: &str = "SELECT id, name, time_zone, created_at, updated_at, suspended_at, bytes_max, conversations_days, logs_days \
     FROM tenants WHERE state = 'active'";

/// Without the size, which only its file knows, and with the tenant's own limit of it, which may be none.
fn tenant_take(row: &dyn Row) -> Result<Tenant> {
    Ok(Tenant {
        id: rows::parsed(row, 0)?,
        name: row.text(1)?.to_owned(),
        time_zone: row.text(2)?.to_owned(),
        created_at: rows::time(row, 3)?,
        updated_at: rows::time(row, 4)?,
        suspended: row.int_opt(5)?.is_some(),
        size_bytes: 0,
        size_limit_bytes: rows::number_opt(row, 6)?,
        retention: Retention { conversations_days: rows::number_opt(row, 7)?, logs_days: rows::number_opt(row, 8)? },
    })
}

/// An active tenant.
pub(super) fn tenant_find(tx: &mut dyn Tx, id: TenantId) -> Result<Tenant> {
    tx.first(&format!("{TENANT} AND id = ?1"), &[Param::Text(&id.to_string())], tenant_take)?.ok_or_else(|| Error::not_found("tenant", id))
}

fn tenant_insert(tx: &mut dyn Tx, id: TenantId, name: &str, owner: UserId, now: Time) -> Result<()> {
    let (id, owner, now) = (id.to_string(), owner.to_string(), Param::Int(now.ms()));
    tx.execute(
        "INSERT INTO tenants (id, name, time_zone, state, suspended_at, created_at, updated_at) VALUES (?1, ?2, 'UTC', 'creating', NULL, ?3, ?3)",
        &[Param::Text(&id), Param::Text(name), now],
    )?;
    tx.execute(
        "INSERT INTO memberships (tenant_id, user_id, role, created_at) VALUES (?1, ?2, 'owner', ?3)",
        &[Param::Text(&id), Param::Text(&owner), now],
    )?;
    Ok(())
}

/// Moves a tenant from one state to the next; [`Error::Conflict`] when someone else did meanwhile.
fn state_set(tx: &mut dyn Tx, id: TenantId, from: &str, to: &str, now: Time) -> Result<()> {
    let sql = "UPDATE tenants SET state = ?3, updated_at = ?4 WHERE id = ?1 AND state = ?2";
    match tx.execute(sql, &[Param::Text(&id.to_string()), Param::Text(from), Param::Text(to), Param::Int(now.ms())])? {
        0 => Err(Error::Conflict { detail: "The tenant is being deleted.".to_owned() }),
        _ => Ok(()),
    }
}

/// Where the chains in a tenant's file end: how many entries, and the last one's hash.
#[derive(Debug, Clone)]
struct Ends {
    content: (u64, String),
    ledger: (u64, String),
}

/// Marks a tenant as one that is being deleted, and leaves its stub in the server's own audit log: ids, times and hashes, nobody's data.
fn tenant_end(tx: &mut dyn Tx, id: TenantId, by: Actor, ends: Option<Ends>, now: Time) -> Result<()> {
    let made = tenant_find(tx, id)?.created_at;
    let access = trail::link(&mut TenantTx::new(tx, &id.to_string()), AuditChain::Access)?;
    state_set(tx, id, "active", "deleting", now)?;
    let end = |(entries, hash): (u64, String)| serde_json::json!({ "entries": entries, "hash": hash });
    let deed = Deed::new(by.nameless(), Act::TenantDelete, now).to(id).with("created_at", made).with("access", end(access));
    let deed = match ends {
        Some(ends) => deed.with("content", end(ends.content)).with("ledger", end(ends.ledger)),
        None => deed,
    };
    trail::server_record(tx, deed)
}

fn tenants_counted(tx: &mut dyn Tx, user: UserId, max: usize) -> Result<()> {
    let sql = "SELECT COUNT(*) FROM memberships WHERE user_id = ?1";
    if catalog::count(tx, sql, &[Param::Text(&user.to_string())])? < max {
        return Ok(());
    }
    Err(Error::Conflict {
        detail: format!("You belong to {max} tenants, the most that a user may who makes another. Delete or leave one."),
    })
}
