//! Who is asking: witnesses that only this folder can make, each from a credential that was proved.
//!
//! The proof of a key is remembered (`proof`), its permission never: status, role, expiry and suspension come from the catalog's row at
//! every request, which is read again whenever anyone wrote to the catalog.

use super::{
    Storage, TenantStore, catalog,
    engine::{Param, Row, TxExt},
    proof::{Checks, Proofs, cores, version_of},
    rows,
};
use crate::{
    clock::Time,
    config::{Limits, Secret},
    error::{Error, Result},
    ids::*,
    model::Role,
    money::Money,
    secret::{KeyHash, KeyText, TokenHash},
};
use quick_cache::sync::Cache;
use std::sync::{Arc, atomic::AtomicUsize};

/// A proved API key, or a session in the dashboard: one user, one tenant, one role, and so one file. Valid for this request; [`super::Storage::principal_again`] looks again.
#[derive(Debug, Clone)]
pub struct Principal {
    pub(super) key_id: KeyId,
    pub(super) user_id: UserId,
    pub(super) tenant_id: TenantId,
    /// The weaker of the key's role and the member's.
    pub(super) role: Role,
    pub(super) spend_limit: Option<Money>,
    pub(super) expires_at: Option<Time>,
    pub(super) tenant_name: Arc<str>,
    pub(super) time_zone: Arc<str>,
    pub(super) suspended: bool,
    /// The tenant's own limit on the size of its file; 0 is no limit.
    pub(super) bytes_max: Option<u64>,
    /// The key's public id, by which the catalog row is found again; empty where a user's session acts.
    pub(super) public_id: Arc<str>,
    /// The dashboard's session through which they act, if there is one.
    pub(super) session: Option<SessionId>,
}

impl Principal {
    /// The key; where a user's session acts, its id stands for one.
    pub fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// The user whose key it is.
    pub fn user_id(&self) -> UserId {
        self.user_id
    }

    /// The tenant; for keys of in-memory maps and for logs. It opens nothing.
    pub fn tenant_id(&self) -> TenantId {
        self.tenant_id
    }

    /// What the key may do now.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The key's own limit on what it may ever spend.
    pub fn spend_limit(&self) -> Option<Money> {
        self.spend_limit
    }

    /// The tenant's name, for `{tenant_name}`.
    pub fn tenant_name(&self) -> &str {
        &self.tenant_name
    }

    /// The tenant's IANA time zone, for `{date}`.
    pub fn time_zone(&self) -> &str {
        &self.time_zone
    }

    /// Whether the operator stopped the tenant's chat.
    pub fn suspended(&self) -> bool {
        self.suspended
    }
}

/// A signed-in user with a verified e-mail address.
#[derive(Debug, Clone)]
pub struct SignedIn {
    pub(super) user_id: UserId,
    pub(super) token_id: TokenId,
}

impl SignedIn {
    /// The user.
    pub fn user_id(&self) -> UserId {
        self.user_id
    }
}

/// The operator: whoever may read the data directory, or holds the operator token.
#[derive(Debug, Clone)]
pub struct Operator {
    pub(super) _made_here: (),
}

/// What access remembers between requests: rows of keys, proofs, and who hashes when.
pub(super) struct Access {
    rows: Cache<[u8; 16], Arc<KeyRow>>,
    proofs: Proofs,
    /// Apart from the keys' permits: nobody who signs in makes a key wait, or the other way round.
    pub(super) passwords: Checks,
    /// The hashing of new keys.
    pub(super) key_hashes: Checks,
    /// Registrations since the start; see [`Storage::user_register`].
    pub(super) registered: AtomicUsize,
}

impl Access {
    /// Proofs of keys that run or wait.
    pub(super) fn key_checks(&self) -> usize {
        self.proofs.waiting()
    }

    /// Proofs of keys that were made since the start.
    pub(super) fn key_checks_made(&self) -> u64 {
        self.proofs.tried()
    }
}

/// What the catalog said of a key, when its version was `version`.
struct KeyRow {
    version: u64,
    hash: KeyHash,
    /// [`version_of`] the hash: worked out once, asked at every request.
    hash_version: blake3::Hash,
    /// Whether key, member, user and tenant are all as they must be, but for the key's expiry, which needs the time.
    stands: bool,
    principal: Principal,
}

impl Access {
    pub(super) fn new(limits: &Limits) -> Result<Self> {
        Ok(Self {
            rows: Cache::new(limits.key_proofs_max.max(1)),
            proofs: Proofs::new(limits)?,
            passwords: Checks::new(cores().div_ceil(2), limits.password_checks_queue_max),
            key_hashes: Checks::new(1, limits.key_checks_queue_max),
            registered: AtomicUsize::new(0),
        })
    }
}

/// Everything that decides about a key, in one look. No row at all for a key that never was.
const KEY_ROW: &str = "SELECT k.id, k.user_id, k.tenant_id, k.role, m.role, k.spend_limit, k.expires_at, t.name, t.time_zone, \
     t.suspended_at, k.hash, k.revoked_at, u.disabled_at, t.state, t.bytes_max FROM api_keys k JOIN tenants t ON t.id = k.tenant_id \
     JOIN users u ON u.id = k.user_id LEFT JOIN memberships m ON m.tenant_id = k.tenant_id AND m.user_id = k.user_id \
     WHERE k.public_id = ?1";

fn key_row_take(row: &dyn Row, version: u64, public_id: &str) -> Result<KeyRow> {
    let own = catalog::role(row, 3)?;
    let member = row.text_opt(4)?.is_some().then(|| catalog::role(row, 4)).transpose()?;
    let stands = member.is_some() && row.int_opt(11)?.is_none() && row.int_opt(12)?.is_none() && row.text(13)? == "active";
    let principal = Principal {
        key_id: rows::parsed(row, 0)?,
        user_id: rows::parsed(row, 1)?,
        tenant_id: rows::parsed(row, 2)?,
        role: member.map_or(own, |member| own.min(member)),
        spend_limit: rows::money_opt(row, 5)?,
        expires_at: row.int_opt(6)?.map(Time::from_ms),
        tenant_name: row.text(7)?.into(),
        time_zone: row.text(8)?.into(),
        suspended: row.int_opt(9)?.is_some(),
        bytes_max: rows::number_opt(row, 14)?,
        public_id: public_id.into(),
        session: None,
    };
    let hash = KeyHash::from_stored(row.text(10)?.to_owned());
    Ok(KeyRow { version, hash_version: version_of(&hash), hash, stands, principal })
}

impl Storage {
    /// Proves an API key as it was presented. One and the same [`Error::InvalidApiKey`] for what is unknown, wrong, revoked, expired, or
    /// whose member, user or tenant is gone; [`Error::TooManyChecks`] when too many proofs wait for a core.
    pub async fn principal_by_key(&self, presented: &str) -> Result<Principal> {
        let parsed = KeyText::parse(presented).ok_or(Error::InvalidApiKey)?;
        let row = self.key_row(parsed.public_id())?.ok_or(Error::InvalidApiKey)?;
        let before = self.allowed(&row)?;
        let proofs = &self.inner.access.proofs;
        let who = match proofs.remembered(presented, before.key_id, row.hash_version) {
            Some(true) => before,
            None if proofs.prove(presented, parsed, (before.tenant_id, before.key_id), &row.hash).await? => {
                // The proof has waited; what counts is what holds now.
                self.principal_again(&before)?
            }
            Some(false) | None => return Err(Error::InvalidApiKey),
        };
        self.key_used(who.key_id);
        Ok(who)
    }

    /// Looks again whether the key still stands, and what it may do now. Cheap: before each hold, and twice a second in open streams.
    pub fn principal_again(&self, who: &Principal) -> Result<Principal> {
        if let Some(session) = who.session {
            return self.session_principal(session)?.filter(|now| now.tenant_id == who.tenant_id).ok_or(Error::InvalidToken);
        }
        let row = self.key_row(&who.public_id)?.ok_or(Error::InvalidApiKey)?;
        let now = self.allowed(&row)?;
        if now.key_id == who.key_id { Ok(now) } else { Err(Error::InvalidApiKey) }
    }

    /// What a key allows at this moment, for the session that was begun with it.
    pub(super) fn key_allows(&self, public_id: &str) -> Result<Option<Principal>> {
        let Some(row) = self.key_row(public_id)? else { return Ok(None) };
        match self.allowed(&row) {
            Ok(who) => Ok(Some(who)),
            Err(Error::InvalidApiKey) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What a key's row allows at this moment.
    fn allowed(&self, row: &KeyRow) -> Result<Principal> {
        let expired = row.principal.expires_at.is_some_and(|end| end <= self.inner.clock.now());
        if row.stands && !expired { Ok(row.principal.clone()) } else { Err(Error::InvalidApiKey) }
    }

    /// A key's row as the catalog has it now: from memory as long as nobody wrote to the catalog.
    fn key_row(&self, public_id: &str) -> Result<Option<Arc<KeyRow>>> {
        let Ok(cached_as) = <[u8; 16]>::try_from(public_id.as_bytes()) else { return Ok(None) };
        let rows = &self.inner.access.rows;
        // Asked before the row is read: a write in between is then seen at the next request, never missed.
        let version = self.catalog_version()?;
        if let Some(row) = rows.get(&cached_as).filter(|row| row.version == version) {
            return Ok(Some(row));
        }
        let found =
            self.catalog_read_now(|tx| tx.first(KEY_ROW, &[Param::Text(public_id)], |row| key_row_take(row, version, public_id)))?;
        let found = found.map(Arc::new);
        match &found {
            Some(row) => rows.insert(cached_as, Arc::clone(row)),
            None => drop(rows.remove(&cached_as)),
        }
        Ok(found)
    }

    /// The way to the tenant's data, its file kept open as long as the store lives.
    pub async fn tenant_store(&self, who: &Principal) -> Result<TenantStore> {
        self.tenant_open(who.tenant_id, who.bytes_max).await
    }

    /// Proves a user token as it was presented: [`Error::InvalidToken`] if it does not stand, [`Error::EmailNotVerified`] if only the
    /// address is not proved yet. Cheap enough for an async thread.
    pub fn signed_in(&self, presented: &str) -> Result<SignedIn> {
        let hash = TokenHash::of_presented(presented).ok_or(Error::InvalidToken)?;
        let sql = "SELECT t.id, t.user_id, u.verified_at FROM user_tokens t JOIN users u ON u.id = t.user_id \
                   WHERE t.hash = ?1 AND t.kind = 'access' AND t.expires_at > ?2 AND u.disabled_at IS NULL";
        let now = self.inner.clock.now();
        let found = self.catalog_read_now(|tx| {
            tx.first(sql, &[Param::Text(hash.as_str()), Param::Int(now.ms())], |row| {
                let who = SignedIn { token_id: rows::parsed(row, 0)?, user_id: rows::parsed(row, 1)? };
                Ok((who, row.int_opt(2)?.is_some()))
            })
        })?;
        match found {
            Some((who, true)) => Ok(who),
            Some((_, false)) => Err(Error::EmailNotVerified),
            None => Err(Error::InvalidToken),
        }
    }

    /// The operator, for whoever could open the data directory: the command line. No request handler may call this.
    pub fn operator_here(&self) -> Operator {
        Operator { _made_here: () }
    }

    /// The operator, by the token that the configuration holds. [`Error::InvalidToken`] otherwise; the time it takes tells nothing.
    pub fn operator_by_token(&self, presented: &str, configured: &Secret) -> Result<Operator> {
        // Hashes compare in constant time, and hide the lengths. An empty token is a mistake in the configuration, not a credential.
        let same = blake3::hash(presented.as_bytes()) == blake3::hash(configured.expose().as_bytes());
        if same && !presented.is_empty() { Ok(Operator { _made_here: () }) } else { Err(Error::InvalidToken) }
    }

    /// The way to one tenant's data for the operator's own methods of this folder: the wallet, never content.
    pub(super) async fn operator_store(&self, _operator: &Operator, tenant: TenantId) -> Result<TenantStore> {
        self.active_store(tenant).await
    }

    /// The way to an active tenant's data, for what this folder does by itself or for the operator.
    pub(super) async fn active_store(&self, tenant: TenantId) -> Result<TenantStore> {
        let sql = "SELECT bytes_max FROM tenants WHERE id = ?1 AND state = 'active'";
        let id = tenant.to_string();
        let found = self.catalog_read(move |tx| tx.first(sql, &[Param::Text(&id)], |row| rows::number_opt(row, 0))).await?;
        self.tenant_open(tenant, found.ok_or_else(|| Error::not_found("tenant", tenant))?).await
    }
}
