//! API keys: issued, changed, revoked, rotated. Their proof is `access`'s; what a maker may hand on is `grant`'s.

use super::{
    Operator, Principal, SignedIn, Storage, TenantStore, catalog,
    engine::{Param, Row, Tx, TxExt},
    grant::{Grant, Maker, ends_within, owner_of_new, role_of_new},
    operate, rows,
    select::{Select, Value, id_cursor},
    tenant::TenantTx,
    trail::{Actor, Deed, access_record},
};
use crate::{
    clock::Time,
    error::{Error, Result},
    ids::{KeyId, TenantId, UserId},
    mail,
    model::{Act, Key, KeyCreated, KeyInput, KeyPatch, List, Page, Role},
    money::Money,
    secret::{KeyHash, KeyText, NewKey},
};
use std::{collections::HashMap, sync::Arc};

/// A key's row in the making.
pub(super) struct NewRow<'a> {
    pub(super) id: KeyId,
    pub(super) tenant: TenantId,
    pub(super) user: UserId,
    pub(super) name: &'a str,
    pub(super) role: Role,
    pub(super) expires_at: Option<Time>,
    pub(super) spend_limit: Option<Money>,
}

impl NewRow<'_> {
    /// What the audit log says of it.
    pub(super) fn deed(&self, by: Actor, act: Act, now: Time) -> Deed {
        let deed = Deed::new(by, act, now).to(self.id).with("user_id", self.user).with("role", self.role);
        deed.with("expires_at", self.expires_at).with("spend_limit", self.spend_limit)
    }
}

/// Stores a new key.
pub(super) fn key_insert(tx: &mut dyn Tx, row: &NewRow<'_>, key: &NewKey, hash: &KeyHash, now: Time) -> Result<()> {
    tx.execute(
        "INSERT INTO api_keys (id, public_id, hash, tenant_id, user_id, name, role, prefix, spend_limit, created_at, expires_at, revoked_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, NULL)",
        &[
            Param::Text(&row.id.to_string()),
            Param::Text(key.public_id()),
            Param::Text(hash.as_str()),
            Param::Text(&row.tenant.to_string()),
            Param::Text(&row.user.to_string()),
            Param::Text(row.name),
            Param::Text(row.role.name()),
            Param::Text(key.prefix()),
            int_opt(row.spend_limit.map(Money::nanos)),
            Param::Int(now.ms()),
            int_opt(row.expires_at.map(Time::ms)),
        ],
    )?;
    Ok(())
}

impl Storage {
    /// A new key's text and hash.
    pub(super) async fn key_generate(&self) -> Result<(NewKey, KeyHash)> {
        let generate = || {
            let key = NewKey::generate()?;
            let parsed = KeyText::parse(key.text().expose()).ok_or_else(|| Error::internal("a new key does not parse"))?;
            let hash = KeyHash::of(&parsed)?;
            Ok((key, hash))
        };
        self.inner.access.key_hashes.run(generate).await?
    }

    /// Keys of the tenant: one's own, or all for admins.
    pub async fn key_list(&self, who: &Principal, page: Page) -> Result<List<Key>> {
        let only = (who.role < Role::Admin).then_some(who.user_id);
        let list = self.key_page(who.tenant_id, only, page).await?;
        self.key_facts(&self.tenant_store(who).await?, list).await
    }

    /// All keys of a tenant.
    pub async fn key_list_of(&self, operator: &Operator, tenant: TenantId, page: Page) -> Result<List<Key>> {
        let store = self.operator_store(operator, tenant).await?;
        let list = self.key_page(tenant, None, page).await?;
        self.key_facts(&store, list).await
    }

    async fn key_page(&self, tenant: TenantId, only: Option<UserId>, page: Page) -> Result<List<Key>> {
        let (tenant, only) = (tenant.to_string(), only.map(|user| Value::from(user.to_string())));
        self.catalog_read(move |tx| {
            let mut select = Select::new(KEY);
            select.and_some("user_id = ?", only.clone());
            select.page(&mut TenantTx::new(tx, &tenant), &page, "id", id_cursor("api_keys"), key_take, |key| key.id.to_string())
        })
        .await
    }

    /// Adds what only the tenant's file and the background know: what was spent, and when the keys were used last.
    async fn key_facts(&self, store: &TenantStore, mut list: List<Key>) -> Result<List<Key>> {
        let ids: Vec<KeyId> = list.data.iter().map(|key| key.id).collect();
        let spent = keys_spent(store, ids.clone()).await?;
        let uses = self.key_uses(ids).await?;
        for (key, used) in list.data.iter_mut().zip(uses) {
            key.last_used_at = used;
            key.spent = spent.get(&key.id).copied().unwrap_or_default();
        }
        Ok(list)
    }

    /// A new key, shown this once.
    pub async fn key_create(&self, who: &Principal, input: KeyInput) -> Result<KeyCreated> {
        // The key says which tenant; a body that says another is told what it would be told of one that is not there.
        if let Some(other) = input.tenant_id.filter(|id| *id != who.tenant_id) {
            return Err(Error::not_found("tenant", other));
        }
        self.key_make(Maker::Key(who.clone()), who.tenant_id, input).await
    }

    /// A new key by a user token, for the tenant that `input` names.
    pub async fn key_create_for(&self, who: &SignedIn, input: KeyInput) -> Result<KeyCreated> {
        let expected = "expected the id of one of your tenants; GET /api/v1/tenants lists them";
        let tenant = input.tenant_id.ok_or_else(|| Error::invalid("/tenant_id", expected))?;
        self.key_make(Maker::User(who.user_id), tenant, input).await
    }

    /// A new key for the member of this address.
    pub async fn key_issue(&self, _: &Operator, tenant: TenantId, email: &str, input: KeyInput) -> Result<KeyCreated> {
        let email = mail::address(email, "/user")?;
        let user = self.catalog_read(move |tx| operate::found(tx, &email)).await?;
        self.key_make(Maker::Operator(user.id), tenant, KeyInput { user_id: None, ..input }).await
    }

    async fn key_make(&self, maker: Maker, tenant: TenantId, input: KeyInput) -> Result<KeyCreated> {
        let now = self.inner.clock.now();
        let name = catalog::name_checked(&input.name, "/name")?;
        ends_checked(input.expires_at, now)?;
        limit_checked(input.spend_limit)?;
        let (key, hash) = self.key_generate().await?;
        let (key, id, max) = (Arc::new(key), KeyId::new(), self.inner.limits.keys_per_tenant_max);
        let text = Arc::clone(&key);
        let properties = self
            .catalog_write(move |tx| {
                let grant = maker.grant(tx, tenant, now)?;
                let user = owner_of_new(tx, &grant, tenant, input.user_id)?;
                let role = role_of_new(&grant, user.1, input.role)?;
                ends_within(&grant, input.expires_at)?;
                keys_counted(tx, tenant, max, now)?;
                let (expires_at, spend_limit) = (input.expires_at, input.spend_limit);
                let row = NewRow { id, tenant, user: user.0, name: &name, role, expires_at, spend_limit };
                key_insert(tx, &row, &key, &hash, now)?;
                access_record(tx, tenant, row.deed(maker.actor(), Act::KeyCreate, now))?;
                key_find(tx, tenant, id)
            })
            .await?;
        Ok(KeyCreated { properties, key: text.text().expose().to_owned() })
    }

    /// Changes name, expiry or spend limit.
    pub async fn key_update(&self, who: &Principal, id: KeyId, patch: KeyPatch) -> Result<Key> {
        let (tenant, now, maker) = (who.tenant_id, self.inner.clock.now(), Maker::Key(who.clone()));
        let name = patch.name.map(|name| catalog::name_checked(&name, "/name")).transpose()?;
        ends_checked(patch.expires_at.flatten(), now)?;
        limit_checked(patch.spend_limit.flatten())?;
        let key = self
            .catalog_write(move |tx| {
                let grant = maker.grant(tx, tenant, now)?;
                let old = key_reach(tx, &grant, tenant, id, true)?;
                usable(&old, now)?;
                let expires_at = patch.expires_at.unwrap_or(old.expires_at);
                if patch.expires_at.is_some() {
                    ends_within(&grant, expires_at)?;
                }
                let spend_limit = patch.spend_limit.unwrap_or(old.spend_limit);
                let (tenant_text, name) = (tenant.to_string(), name.as_deref().unwrap_or(&old.name));
                TenantTx::new(tx, &tenant_text).execute(
                    "UPDATE api_keys SET name = ?3, expires_at = ?4, spend_limit = ?5 WHERE tenant_id = ?1 AND id = ?2",
                    &[
                        Param::Text(&id.to_string()),
                        Param::Text(name),
                        int_opt(expires_at.map(Time::ms)),
                        int_opt(spend_limit.map(Money::nanos)),
                    ],
                )?;
                let mut deed = Deed::new(maker.actor(), Act::KeyUpdate, now).to(id);
                if name != old.name {
                    deed = deed.with("changed", ["name"]);
                }
                if expires_at != old.expires_at {
                    deed = deed.with("expires_at", expires_at);
                }
                if spend_limit != old.spend_limit {
                    deed = deed.with("spend_limit", spend_limit);
                }
                access_record(tx, tenant, deed)?;
                key_find(tx, tenant, id)
            })
            .await?;
        let list = List::from_rows(vec![key], 1, |key| key.id.to_string());
        let shown = self.key_facts(&self.tenant_store(who).await?, list).await?;
        shown.data.into_iter().next().ok_or_else(|| Error::not_found("key", id))
    }

    /// Refuses the key from the next request on. Doing it again changes nothing.
    pub async fn key_revoke(&self, who: &Principal, id: KeyId) -> Result<()> {
        let (who, now) = (who.clone(), self.inner.clock.now());
        self.catalog_write(move |tx| {
            // Ending a key hands nothing on: any key of one's own may end any other, whatever its limits.
            let role = catalog::standing_at_least(tx, &who, now, Role::Member)?;
            let grant = Grant { user: who.user_id, role, ends_at: None };
            let key = key_reach(tx, &grant, who.tenant_id, id, false)?;
            key_end(tx, who.tenant_id, &key, Actor::from(&who), now)
        })
        .await
    }

    /// Refuses a key from the next request on, in the server too.
    pub async fn key_revoke_by(&self, _: &Operator, id: KeyId) -> Result<Key> {
        let now = self.inner.clock.now();
        self.catalog_write(move |tx| {
            let sql = "SELECT k.tenant_id FROM api_keys k JOIN tenants t ON t.id = k.tenant_id WHERE k.id = ?1 AND t.state = 'active'";
            let tenant = tx.first(sql, &[Param::Text(&id.to_string())], |row| rows::parsed(row, 0))?;
            let tenant = tenant.ok_or_else(|| Error::not_found("key", id))?;
            let key = key_find(tx, tenant, id)?;
            key_end(tx, tenant, &key, Actor::OPERATOR, now)?;
            key_find(tx, tenant, id)
        })
        .await
    }

    /// A successor with the same properties, whose spending begins at zero; the old key ends after an overlap, unless it does sooner.
    pub async fn key_rotate(&self, who: &Principal, id: KeyId) -> Result<KeyCreated> {
        let (tenant, now, maker) = (who.tenant_id, self.inner.clock.now(), Maker::Key(who.clone()));
        let (overlap_ends, max) = (now.plus(self.inner.limits.rotate_overlap_ms), self.inner.limits.keys_per_tenant_max);
        let (key, hash) = self.key_generate().await?;
        let (key, successor) = (Arc::new(key), KeyId::new());
        let text = Arc::clone(&key);
        let properties = self
            .catalog_write(move |tx| {
                let grant = maker.grant(tx, tenant, now)?;
                let old = key_reach(tx, &grant, tenant, id, true)?;
                usable(&old, now)?;
                ends_within(&grant, old.expires_at)?;
                keys_counted(tx, tenant, max, now)?;
                let Key { user_id: user, name, role, expires_at, spend_limit, .. } = old;
                let new = NewRow { id: successor, tenant, user, name: &name, role, expires_at, spend_limit };
                key_insert(tx, &new, &key, &hash, now)?;
                let ends = expires_at.map_or(overlap_ends, |end| end.min(overlap_ends));
                let tenant_text = tenant.to_string();
                TenantTx::new(tx, &tenant_text).execute(
                    "UPDATE api_keys SET expires_at = ?3 WHERE tenant_id = ?1 AND id = ?2",
                    &[Param::Text(&id.to_string()), Param::Int(ends.ms())],
                )?;
                let deed = Deed::new(maker.actor(), Act::KeyRotate, now).to(id).with("successor", successor).with("ends_at", ends);
                access_record(tx, tenant, deed)?;
                key_find(tx, tenant, successor)
            })
            .await?;
        Ok(KeyCreated { properties, key: text.text().expose().to_owned() })
    }
}

const KEY: &str =
    "SELECT id, name, user_id, role, prefix, created_at, expires_at, revoked_at, spend_limit FROM api_keys WHERE tenant_id = ?1";

/// Without what only the tenant's file and the background know.
fn key_take(row: &dyn Row) -> Result<Key> {
    Ok(Key {
        id: rows::parsed(row, 0)?,
        name: row.text(1)?.to_owned(),
        user_id: rows::parsed(row, 2)?,
        role: catalog::role(row, 3)?,
        prefix: row.text(4)?.to_owned(),
        created_at: rows::time(row, 5)?,
        expires_at: row.int_opt(6)?.map(Time::from_ms),
        revoked_at: row.int_opt(7)?.map(Time::from_ms),
        last_used_at: None,
        spend_limit: rows::money_opt(row, 8)?,
        spent: Money::ZERO,
    })
}

fn key_find(tx: &mut dyn Tx, tenant: TenantId, id: KeyId) -> Result<Key> {
    let tenant = tenant.to_string();
    let found = TenantTx::new(tx, &tenant).first(&format!("{KEY} AND id = ?2"), &[Param::Text(&id.to_string())], key_take)?;
    found.ok_or_else(|| Error::not_found("key", id))
}

/// A key that the maker may see: one's own, or any for admins; what is not theirs to see is not there. To change one or to be shown its
/// successor (`hands_on`) takes a role no weaker than the key's.
fn key_reach(tx: &mut dyn Tx, grant: &Grant, tenant: TenantId, id: KeyId, hands_on: bool) -> Result<Key> {
    let key = key_find(tx, tenant, id)?;
    if key.user_id != grant.user && grant.role < Role::Admin {
        return Err(Error::not_found("key", id));
    }
    if hands_on && key.role > grant.role {
        return Err(Error::InsufficientRole { needed: key.role.name() });
    }
    Ok(key)
}

fn key_end(tx: &mut dyn Tx, tenant: TenantId, key: &Key, by: Actor, now: Time) -> Result<()> {
    if key.revoked_at.is_some() {
        return Ok(());
    }
    let sql = "UPDATE api_keys SET revoked_at = ?2 WHERE id = ?1";
    tx.execute(sql, &[Param::Text(&key.id.to_string()), Param::Int(now.ms())])?;
    access_record(tx, tenant, Deed::new(by, Act::KeyRevoke, now).to(key.id))
}

fn ends_checked(expires_at: Option<Time>, now: Time) -> Result<()> {
    match expires_at {
        Some(end) if end <= now => Err(Error::invalid("/expires_at", "expected a time in the future")),
        _ => Ok(()),
    }
}

fn limit_checked(spend_limit: Option<Money>) -> Result<()> {
    match spend_limit {
        Some(limit) if limit.is_negative() => Err(Error::invalid("/spend_limit", "expected zero or more")),
        _ => Ok(()),
    }
}

fn usable(key: &Key, now: Time) -> Result<()> {
    if key.revoked_at.is_some() || key.expires_at.is_some_and(|end| end <= now) {
        return Err(Error::Conflict { detail: "The key is revoked or expired; make a new one.".to_owned() });
    }
    Ok(())
}

fn keys_counted(tx: &mut dyn Tx, tenant: TenantId, max: usize, now: Time) -> Result<()> {
    let sql = "SELECT COUNT(*) FROM api_keys WHERE tenant_id = ?1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > ?2)";
    if catalog::count(tx, sql, &[Param::Text(&tenant.to_string()), Param::Int(now.ms())])? < max {
        return Ok(());
    }
    Err(Error::Conflict { detail: format!("The tenant has {max} keys, the most there may be. Revoke one first.") })
}

/// What keys have spent, from the tenant's own file. A key that never spent has no row.
async fn keys_spent(store: &TenantStore, ids: Vec<KeyId>) -> Result<HashMap<KeyId, Money>> {
    store
        .read(move |tx| {
            let mut spent = HashMap::new();
            for id in &ids {
                let sql = "SELECT spent FROM key_spend WHERE tenant_id = ?1 AND key_id = ?2";
                if let Some(nanos) = tx.first(sql, &[Param::Text(&id.to_string())], |row| row.int(0))? {
                    spent.insert(*id, Money::from_nanos(nanos));
                }
            }
            Ok(spent)
        })
        .await
}

fn int_opt(number: Option<i64>) -> Param<'static> {
    number.map_or(Param::Null, Param::Int)
}
