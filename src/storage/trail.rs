//! The audit log: each act is written into the database that it changes, in the same transaction, as the next link of a chain. There is one
//! chain a tenant in the catalog (keys, members, the tenant itself), one in the tenant's file (configs, conversations, credit), and the
//! server's own, in which a deleted tenant leaves a stub.
//!
//! What is written here is read by owners: ids, roles, numbers and names of fields, never a secret and never content.

use super::{
    Operator, Principal, Storage, TenantStore,
    engine::{Link, Param, Row, Tx},
    rows,
    select::Select,
    tenant::TenantTx,
};
use crate::{
    chain,
    clock::Time,
    error::{Error, Result},
    ids::{AuditId, KeyId, TenantId, UserId},
    model::{Act, ActorKind, AuditChain, AuditEntry, JsonObject, List, Order, Page},
};
use serde_json::json;

/// Who acts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Actor {
    kind: ActorKind,
    user: Option<UserId>,
    key: Option<KeyId>,
}

impl Actor {
    /// The operator, who has no account.
    pub(super) const OPERATOR: Self = Self { kind: ActorKind::Operator, user: None, key: None };

    /// The same without its ids, for what outlives the tenant.
    pub(super) fn nameless(self) -> Self {
        Self { user: None, key: None, ..self }
    }
}

impl From<&Principal> for Actor {
    fn from(who: &Principal) -> Self {
        Author::from(who).into()
    }
}

/// A user who writes content, by a key or by a session of their own.
#[derive(Debug, Clone, Copy)]
pub struct Author {
    pub(super) user: UserId,
    key: Option<KeyId>,
}

impl From<&Principal> for Author {
    fn from(who: &Principal) -> Self {
        // A session of the user's own shows no key.
        Self { user: who.user_id, key: (!who.public_id.is_empty()).then_some(who.key_id) }
    }
}

impl From<UserId> for Author {
    fn from(user: UserId) -> Self {
        Self { user, key: None }
    }
}

impl From<Author> for Actor {
    fn from(Author { user, key }: Author) -> Self {
        Self { kind: if key.is_some() { ActorKind::Key } else { ActorKind::User }, user: Some(user), key }
    }
}

/// What was done, to what.
pub(super) struct Deed {
    pub(super) by: Actor,
    pub(super) act: Act,
    pub(super) target: Option<String>,
    pub(super) detail: JsonObject,
    pub(super) at: Time,
}

impl Deed {
    pub(super) fn new(by: Actor, act: Act, at: Time) -> Self {
        Self { by, act, target: None, detail: JsonObject::new(), at }
    }

    /// To what it was done.
    pub(super) fn to(self, target: impl ToString) -> Self {
        Self { target: Some(target.to_string()), ..self }
    }

    /// One more thing to say of it.
    pub(super) fn with(mut self, name: &str, value: impl serde::Serialize) -> Self {
        self.detail.insert(name.to_owned(), json!(value));
        self
    }
}

/// Writes the next link of a chain.
fn record(tx: &mut TenantTx<'_>, chain: AuditChain, deed: Deed) -> Result<()> {
    let (seq, before) = link(tx, chain)?;
    let mut entry = AuditEntry {
        id: AuditId::new(),
        chain,
        seq: seq + 1,
        act: deed.act,
        actor: deed.by.kind,
        user_id: deed.by.user,
        key_id: deed.by.key,
        target: deed.target,
        detail: deed.detail,
        created_at: deed.at,
        hash: String::new(),
    };
    entry.hash = next(&before, &entry);
    let (user, key) = (entry.user_id.map(|id| id.to_string()), entry.key_id.map(|id| id.to_string()));
    tx.execute(
        "INSERT INTO audit (tenant_id, seq, id, act, actor, user_id, key_id, target, detail, created_at, hash)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        &[
            Param::Int(i64::try_from(entry.seq).map_err(Error::internal)?),
            Param::Text(&entry.id.to_string()),
            Param::Text(entry.act.name()),
            Param::Text(entry.actor.name()),
            Param::text_opt(user.as_deref()),
            Param::text_opt(key.as_deref()),
            Param::text_opt(entry.target.as_deref()),
            Param::Text(&rows::json_text(&entry.detail)?),
            Param::Int(entry.created_at.ms()),
            Param::Text(&entry.hash),
        ],
    )?;
    let chain = name(chain, tx.id());
    tx.link_keep(Link { chain, seq: entry.seq, hash: entry.hash });
    Ok(())
}

/// Writes what was done to a tenant, its members or keys, in a transaction on the catalog.
pub(super) fn access_record(tx: &mut dyn Tx, tenant: TenantId, deed: Deed) -> Result<()> {
    record(&mut TenantTx::new(tx, &tenant.to_string()), AuditChain::Access, deed)
}

/// Writes what was done in a tenant's own file.
pub(super) fn content_record(tx: &mut TenantTx<'_>, deed: Deed) -> Result<()> {
    record(tx, AuditChain::Content, deed)
}

/// Writes what concerns no living tenant, in a transaction on the catalog.
pub(super) fn server_record(tx: &mut dyn Tx, deed: Deed) -> Result<()> {
    record(&mut TenantTx::new(tx, ""), AuditChain::Server, deed)
}

/// The newest link: how many there are, and the last one's hash.
pub(super) fn link(tx: &mut TenantTx<'_>, chain: AuditChain) -> Result<(u64, String)> {
    let newest = "SELECT seq, hash FROM audit WHERE tenant_id = ?1 ORDER BY seq DESC LIMIT 1";
    let found = tx.first(newest, &[], |row| Ok((rows::number(row, 0)?, row.text(1)?.to_owned())))?;
    Ok(found.unwrap_or_else(|| (0, start(chain, tx.id()))))
}

/// What a chain is called.
fn name(chain: AuditChain, tenant: &str) -> String {
    format!("audit {} {tenant}", chain.name()).trim_end().to_owned()
}

/// The hash before a chain's first entry.
fn start(chain: AuditChain, tenant: &str) -> String {
    chain::start(&name(chain, tenant))
}

/// The hash of an entry behind this one.
fn next(before: &str, entry: &AuditEntry) -> String {
    chain::next(&json!([
        before,
        entry.chain,
        entry.seq,
        entry.id,
        entry.act,
        entry.actor,
        entry.user_id,
        entry.key_id,
        entry.target,
        entry.detail,
        entry.created_at
    ]))
}

const ENTRY: &str = "SELECT id, seq, act, actor, user_id, key_id, target, detail, created_at, hash FROM audit WHERE tenant_id = ?1";

fn take(row: &dyn Row, chain: AuditChain) -> Result<AuditEntry> {
    let (act, actor) = (row.text(2)?, row.text(3)?);
    Ok(AuditEntry {
        id: rows::parsed(row, 0)?,
        chain,
        seq: rows::number(row, 1)?,
        act: Act::from_name(act).ok_or_else(|| Error::internal(format!("the audit log has an act {act}")))?,
        actor: ActorKind::from_name(actor).ok_or_else(|| Error::internal(format!("the audit log has an actor {actor}")))?,
        user_id: rows::parsed_opt(row, 4)?,
        key_id: rows::parsed_opt(row, 5)?,
        target: rows::text_opt(row, 6)?,
        detail: rows::json(row, 7)?,
        created_at: rows::time(row, 8)?,
        hash: row.text(9)?.to_owned(),
    })
}

/// What to look for.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Only this act.
    pub act: Option<Act>,
    /// Only what this user did.
    pub user_id: Option<UserId>,
    /// Only what was done with this key.
    pub key_id: Option<KeyId>,
    /// Only what was done to this.
    pub target: Option<String>,
    /// From this time on.
    pub since: Option<Time>,
    /// Before this time.
    pub until: Option<Time>,
}

/// One chain's part of a page, and whether the page's cursors are entries of it.
struct Part {
    list: List<AuditEntry>,
    knows: [bool; 2],
}

/// Whether a cursor, if there is one, is an entry of this chain.
fn knows(tx: &mut TenantTx<'_>, cursor: Option<&str>) -> Result<bool> {
    let Some(id) = cursor else { return Ok(true) };
    let sql = "SELECT 1 FROM audit WHERE tenant_id = ?1 AND id = ?2";
    Ok(tx.first(sql, &[Param::Text(id)], |_| Ok(()))?.is_some())
}

fn part(tx: &mut TenantTx<'_>, chain: AuditChain, filter: &AuditFilter, page: &Page) -> Result<Part> {
    let knows = [knows(tx, page.after.as_deref())?, knows(tx, page.before.as_deref())?];
    let mut select = Select::new(ENTRY);
    select.and_some("act = ?", filter.act.map(Act::name));
    select.and_some("user_id = ?", filter.user_id.map(|id| id.to_string()));
    select.and_some("key_id = ?", filter.key_id.map(|id| id.to_string()));
    select.and_some("target = ?", filter.target.clone());
    select.and_some("created_at >= ?", filter.since);
    select.and_some("created_at < ?", filter.until);
    // A cursor may be an entry of the other chain: ids of both are in one order.
    let cursor = |_: &mut TenantTx<'_>, id: &str| Ok(Some(id.into()));
    let list = select.page(tx, page, "id", cursor, |row| take(row, chain), |entry| entry.id.to_string())?;
    Ok(Part { list, knows })
}

/// Two chains' parts as one page, in the order of their ids.
fn merged(one: Part, other: Part, page: &Page) -> Result<List<AuditEntry>> {
    for (n, name) in ["after", "before"].into_iter().enumerate() {
        if !one.knows[n] && !other.knows[n] {
            return Err(Error::invalid(name, "no entry of this log has this id; take it from first_id or last_id of an earlier answer"));
        }
    }
    let has_more = one.list.has_more || other.list.has_more;
    let mut rows = one.list.data;
    rows.extend(other.list.data);
    rows.sort_by_key(|entry| entry.id.to_string());
    if page.order == Order::Desc {
        rows.reverse();
    }
    // A page before a cursor is the last of what lies before it; any other the first of what lies behind.
    let spare = rows.len().saturating_sub(page.limit as usize);
    if page.after.is_none() && page.before.is_some() {
        rows.drain(..spare);
    } else {
        rows.truncate(page.limit as usize);
    }
    let mut list = List::from_rows(rows, page.limit, |entry| entry.id.to_string());
    list.has_more = has_more || spare > 0;
    Ok(list)
}

/// What does not fit in a chain, nor with its newest link that is known from elsewhere; empty when all does.
fn faults(tx: &mut TenantTx<'_>, chain: AuditChain, known: Option<&Link>) -> Result<Vec<String>> {
    let (mut hash, mut seq, mut faults) = (start(chain, tx.id()), 0, Vec::new());
    let name = chain.name();
    let known = known.and_then(|link| Some((i64::try_from(link.seq).ok()?, &link.hash)));
    tx.query(&format!("{ENTRY} ORDER BY seq"), &[], |row| {
        seq += 1;
        let found = row.int(1)?;
        if found != seq {
            faults.push(format!("{name}: entry {found} stands where {seq} should: one was taken out or put in"));
            seq = found;
        }
        // No entry of ours reads badly, so someone wrote it; the walk goes on behind it, from what stands there.
        match take(row, chain) {
            Ok(entry) if entry.hash == next(&hash, &entry) => {}
            Ok(_) => faults.push(format!("{name}: entry {seq} does not match its hash: it was changed, or one before it was")),
            Err(_) => faults.push(format!("{name}: entry {seq} cannot be read: it was changed")),
        }
        row.text(9)?.clone_into(&mut hash);
        if known.is_some_and(|(number, told)| number == seq && *told != hash) {
            faults.push(format!("{name}: entry {seq} is not the one that was written here: the log was made anew or rolled back"));
        }
        Ok(())
    })?;
    if let Some((number, _)) = known.filter(|(number, _)| *number > seq) {
        faults.push(format!("{name}: it ends with entry {seq}, entry {number} was written before: it was cut off or rolled back"));
    }
    Ok(faults)
}

impl Storage {
    /// The audit log of the key's own tenant. The door has seen to it that an owner asks.
    pub async fn audit_list(&self, store: &TenantStore, filter: AuditFilter, page: Page) -> Result<List<AuditEntry>> {
        let (id, asked, wanted) = (store.tenant.to_string(), filter.clone(), page.clone());
        let access = self.catalog_read(move |tx| part(&mut TenantTx::new(tx, &id), AuditChain::Access, &asked, &wanted)).await?;
        let wanted = page.clone();
        let content = store.read(move |tx| part(tx, AuditChain::Content, &filter, &wanted)).await?;
        merged(access, content, &page)
    }

    /// A tenant's audit log.
    pub async fn audit_list_of(&self, operator: &Operator, tenant: TenantId, page: Page) -> Result<List<AuditEntry>> {
        let store = self.operator_store(operator, tenant).await?;
        self.audit_list(&store, AuditFilter::default(), page).await
    }

    /// The server's own audit log.
    pub async fn audit_list_server(&self, _: &Operator, page: Page) -> Result<List<AuditEntry>> {
        self.catalog_read(move |tx| {
            let part = part(&mut TenantTx::new(tx, ""), AuditChain::Server, &AuditFilter::default(), &page)?;
            let none = Part { list: List::from_rows(Vec::new(), page.limit, |entry: &AuditEntry| entry.id.to_string()), knows: [false; 2] };
            merged(part, none, &page)
        })
        .await
    }

    /// What does not fit in a tenant's audit log, or in the server's own; empty when every link holds.
    pub async fn audit_faults(&self, operator: &Operator, tenant: Option<TenantId>) -> Result<Vec<String>> {
        // Asked before the log is read, which is then at least as new.
        let known = |chain, tenant: &str| self.inner.engine.link_known(&name(chain, tenant));
        let Some(tenant) = tenant else {
            let known = known(AuditChain::Server, "")?;
            return self.catalog_read(move |tx| faults(&mut TenantTx::new(tx, ""), AuditChain::Server, known.as_ref())).await;
        };
        let store = self.operator_store(operator, tenant).await?;
        let id = tenant.to_string();
        let (access, content) = (known(AuditChain::Access, &id)?, known(AuditChain::Content, &id)?);
        let mut all = self.catalog_read(move |tx| faults(&mut TenantTx::new(tx, &id), AuditChain::Access, access.as_ref())).await?;
        all.extend(store.read(move |tx| faults(tx, AuditChain::Content, content.as_ref())).await?);
        Ok(all)
    }
}
