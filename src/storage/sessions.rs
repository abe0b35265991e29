//! Sessions of the dashboard: begun with a password, a key, a link or the operator token, held by a cookie, and looked up at every request.
//!
//! A session's row says who it is and which tenant they chose. What they may do there is the membership's or the key's to say, each time:
//! whoever is taken out of a tenant, weakened, shut off, or whose key is revoked, is so in the dashboard from the next request on.

use super::{
    Operator, Principal, SignedIn, Storage,
    catalog::{self, Account},
    engine::{Param, Row, Tx, TxExt},
    operate, rows,
    users::TENANTS_OF,
};
use crate::{
    clock::Time,
    config::Secret,
    error::{Error, Result},
    ids::*,
    mail,
    secret::{NewToken, Password, TokenHash, form_token, operator_proof},
};
use std::sync::Arc;

/// A session that stands. Only this file makes one, from a cookie.
#[derive(Debug, Clone)]
pub struct Session {
    id: SessionId,
    visitor: Visitor,
    form_token: String,
}

/// Who a session is of.
#[derive(Debug, Clone)]
pub enum Visitor {
    /// Someone who signed in with their password or a link.
    User {
        /// Who.
        who: SignedIn,
        /// Their address.
        email: String,
        /// What they may do in the tenant that they chose, if they still belong to it.
        chosen: Option<Principal>,
    },
    /// Whoever showed this key: no more than it may, and no longer than it lasts.
    Key(Principal),
    /// Whoever showed the operator token.
    Operator(Operator),
}

impl Session {
    /// What its forms carry.
    pub fn form_token(&self) -> &str {
        &self.form_token
    }

    /// Who it is.
    pub fn visitor(&self) -> &Visitor {
        &self.visitor
    }

    /// What they may do in the chosen tenant.
    pub fn principal(&self) -> Option<&Principal> {
        match &self.visitor {
            Visitor::User { chosen, .. } => chosen.as_ref(),
            Visitor::Key(who) => Some(who),
            Visitor::Operator(_) => None,
        }
    }

    /// The user, where it is not a key's.
    pub fn user(&self) -> Option<&SignedIn> {
        match &self.visitor {
            Visitor::User { who, .. } => Some(who),
            Visitor::Key(_) | Visitor::Operator(_) => None,
        }
    }
}

/// A session's renewal is written when this part of its time has passed: an open page asks often, and each write moves the catalog on.
const RENEWED_AFTER: u32 = 24;

/// Everything that decides about a session, in one look.
const SESSION: &str = "SELECT s.id, s.user_id, s.tenant_id, s.expires_at, s.ends_at, s.operator, u.email, u.disabled_at, u.verified_at, \
     m.role, t.name, t.time_zone, t.suspended_at, t.state, k.public_id, s.key_id, t.bytes_max FROM sessions s LEFT JOIN users u ON u.id = s.user_id \
     LEFT JOIN tenants t ON t.id = s.tenant_id LEFT JOIN memberships m ON m.tenant_id = s.tenant_id AND m.user_id = s.user_id \
     LEFT JOIN api_keys k ON k.id = s.key_id";

struct Found {
    id: SessionId,
    expires_at: Time,
    ends_at: Time,
    /// None: the operator's.
    user: Option<(UserId, String)>,
    /// Whether its user's account stands; an operator's has none.
    stands: bool,
    key_id: Option<KeyId>,
    key_public_id: Option<String>,
    operator: Option<String>,
    chosen: Option<Principal>,
}

fn found_take(row: &dyn Row) -> Result<Found> {
    let user: Option<UserId> = rows::parsed_opt(row, 1)?;
    let stands = user.is_none() || (row.int_opt(7)?.is_none() && row.int_opt(8)?.is_some());
    let role = row.text_opt(9)?.is_some().then(|| catalog::role(row, 9)).transpose()?;
    let active = row.text_opt(13)?.is_some_and(|state| state == "active");
    let id: SessionId = rows::parsed(row, 0)?;
    let chosen = match (user, rows::parsed_opt(row, 2)?, role.filter(|_| active)) {
        (Some(user_id), Some(tenant_id), Some(role)) => Some(Principal {
            // Logs, turns and spending want a key's id: the session's stands for it, and no key has the same.
            key_id: rows::parsed(row, 0)?,
            user_id,
            tenant_id,
            role,
            spend_limit: None,
            expires_at: None,
            tenant_name: row.text(10)?.into(),
            time_zone: row.text(11)?.into(),
            suspended: row.int_opt(12)?.is_some(),
            bytes_max: rows::number_opt(row, 16)?,
            public_id: Arc::from(""),
            session: Some(id),
        }),
        _ => None,
    };
    Ok(Found {
        id,
        expires_at: rows::time(row, 3)?,
        ends_at: rows::time(row, 4)?,
        user: user.zip(rows::text_opt(row, 6)?),
        stands,
        key_id: rows::parsed_opt(row, 15)?,
        key_public_id: rows::text_opt(row, 14)?,
        operator: rows::text_opt(row, 5)?,
        chosen,
    })
}

/// A session in the making.
struct NewRow<'a> {
    hash: &'a TokenHash,
    user: Option<UserId>,
    key: Option<KeyId>,
    tenant: Option<TenantId>,
    operator: Option<&'a str>,
}

impl Storage {
    /// A session for an address and its password; answers the cookie's value. Errors as of [`Storage::user_login`].
    pub async fn session_by_login(&self, email: &str, password: &Password) -> Result<Secret> {
        let account = self.account_proved(email, password).await?;
        self.session_of_user(move |tx, _| {
            let still = catalog::account_by_id(tx, account.id)?;
            let same = |still: &Account| !still.disabled && still.password_hash == account.password_hash;
            if still.as_ref().is_some_and(same) { Ok(account.id) } else { Err(Error::InvalidLogin) }
        })
        .await
    }

    /// A session for the link's user; the link is used up.
    pub async fn session_by_link(&self, link: &str) -> Result<Secret> {
        let hash = TokenHash::of_presented(link).ok_or(Error::InvalidToken)?;
        self.session_of_user(move |tx, now| {
            let sql = "SELECT user_id FROM sign_in_links WHERE hash = ?1 AND expires_at > ?2";
            let user = tx.first(sql, &[Param::Text(hash.as_str()), Param::Int(now.ms())], |row| rows::parsed::<UserId>(row, 0))?;
            let user = user.ok_or(Error::InvalidToken)?;
            tx.execute("DELETE FROM sign_in_links WHERE hash = ?1", &[Param::Text(hash.as_str())])?;
            let account = catalog::account_by_id(tx, user)?.filter(|account| account.verified && !account.disabled);
            account.map(|account| account.id).ok_or(Error::InvalidToken)
        })
        .await
    }

    /// A session with what this key may.
    pub async fn session_by_key(&self, presented: &str) -> Result<Secret> {
        let who = self.principal_by_key(presented.trim()).await?;
        let (token, now) = (NewToken::generate()?, self.inner.clock.now());
        let text = token.text().clone();
        let storage = self.clone();
        self.catalog_write(move |tx| {
            let key =
                NewRow { hash: token.hash(), user: Some(who.user_id), key: Some(who.key_id), tenant: Some(who.tenant_id), operator: None };
            storage.session_insert(tx, &key, now)
        })
        .await?;
        Ok(text)
    }

    /// A session of the operator's.
    pub async fn session_by_operator_token(&self, presented: &str, configured: &Secret) -> Result<Secret> {
        self.operator_by_token(presented.trim(), configured)?;
        let (token, now) = (NewToken::generate()?, self.inner.clock.now());
        let text = token.text().clone();
        let proof = operator_proof(text.expose(), configured.expose());
        let storage = self.clone();
        self.catalog_write(move |tx| {
            let row = NewRow { hash: token.hash(), user: None, key: None, tenant: None, operator: Some(&proof) };
            storage.session_insert(tx, &row, now)
        })
        .await?;
        Ok(text)
    }

    /// The session of a cookie: [`Error::InvalidToken`] if it does not stand. Used, it lasts on.
    pub async fn session(&self, presented: &str, operator_token: Option<&Secret>) -> Result<Session> {
        let hash = TokenHash::of_presented(presented).ok_or(Error::InvalidToken)?;
        let sql = format!("{SESSION} WHERE s.hash = ?1");
        let found = self.catalog_read_now(|tx| tx.first(&sql, &[Param::Text(hash.as_str())], found_take))?.ok_or(Error::InvalidToken)?;
        let now = self.inner.clock.now();
        let proof = operator_token.map(|token| operator_proof(presented, token.expose()));
        let visitor = self.visitor(&found, proof.as_deref(), now)?.ok_or(Error::InvalidToken)?;
        self.session_renew(&found, now).await?;
        if let Visitor::Key(who) = &visitor {
            self.key_used(who.key_id);
        }
        Ok(Session { id: found.id, visitor, form_token: form_token(presented) })
    }

    /// What the session of this id may do in its tenant now.
    pub(super) fn session_principal(&self, id: SessionId) -> Result<Option<Principal>> {
        let sql = format!("{SESSION} WHERE s.id = ?1");
        let Some(found) = self.catalog_read_now(|tx| tx.first(&sql, &[Param::Text(&id.to_string())], found_take))? else {
            return Ok(None);
        };
        Ok(match self.visitor(&found, None, self.inner.clock.now())? {
            Some(Visitor::User { chosen, .. }) => chosen,
            Some(Visitor::Key(who)) => Some(who),
            Some(Visitor::Operator(_)) | None => None,
        })
    }

    /// Who this is, if the session stands. `operator` is what a session of the token in force would keep.
    fn visitor(&self, found: &Found, operator: Option<&str>, now: Time) -> Result<Option<Visitor>> {
        if !found.stands || found.expires_at <= now || found.ends_at <= now {
            return Ok(None);
        }
        let Some((user_id, email)) = &found.user else {
            let same = found.operator.is_some() && found.operator.as_deref() == operator;
            return Ok(same.then_some(Visitor::Operator(Operator { _made_here: () })));
        };
        if found.key_id.is_some() {
            let who = found.key_public_id.as_deref().map(|public_id| self.key_allows(public_id)).transpose()?.flatten();
            return Ok(who.map(|who| Visitor::Key(Principal { session: Some(found.id), ..who })));
        }
        let token_id = found.id.to_string().parse().map_err(|_| Error::internal("a session's id is no id"))?;
        let who = SignedIn { user_id: *user_id, token_id };
        Ok(Some(Visitor::User { who, email: email.clone(), chosen: found.chosen.clone() }))
    }

    async fn session_renew(&self, found: &Found, now: Time) -> Result<()> {
        let lasts = self.inner.limits.session_ms;
        let renewed = now.plus(lasts).min(found.ends_at);
        if found.expires_at.plus(lasts / RENEWED_AFTER) > renewed {
            return Ok(());
        }
        let id = found.id.to_string();
        self.catalog_write(move |tx| {
            let sql = "UPDATE sessions SET expires_at = ?2 WHERE id = ?1";
            tx.execute(sql, &[Param::Text(&id), Param::Int(renewed.ms())]).map(drop)
        })
        .await
    }

    /// Goes to another of the user's tenants. One that is not theirs answers like one that never was.
    pub async fn session_choose(&self, session: &Session, tenant: TenantId) -> Result<()> {
        let user = session.user().ok_or_else(|| Error::not_found("tenant", tenant))?.user_id;
        let id = session.id.to_string();
        self.catalog_write(move |tx| {
            catalog::membership(tx, tenant, user)?.ok_or_else(|| Error::not_found("tenant", tenant))?;
            let sql = "UPDATE sessions SET tenant_id = ?2 WHERE id = ?1";
            tx.execute(sql, &[Param::Text(&id), Param::Text(&tenant.to_string())]).map(drop)
        })
        .await
    }

    /// Signs out.
    pub async fn session_end(&self, session: &Session) -> Result<()> {
        let id = session.id.to_string();
        self.catalog_write(move |tx| tx.execute("DELETE FROM sessions WHERE id = ?1", &[Param::Text(&id)]).map(drop)).await
    }

    /// Signs out everywhere: all sessions of the same user, key or operator.
    pub async fn session_end_all(&self, session: &Session) -> Result<()> {
        let (sql, id) = match &session.visitor {
            Visitor::User { who, .. } => ("DELETE FROM sessions WHERE user_id = ?1", who.user_id.to_string()),
            Visitor::Key(who) => ("DELETE FROM sessions WHERE key_id = ?1", who.key_id.to_string()),
            Visitor::Operator(_) => ("DELETE FROM sessions WHERE user_id IS NULL AND ?1 <> ''", session.id.to_string()),
        };
        self.catalog_write(move |tx| tx.execute(sql, &[Param::Text(&id)]).map(drop)).await
    }

    /// A link's token that signs the user of this address in once, soon.
    pub async fn sign_in_link(&self, _: &Operator, email: &str) -> Result<Secret> {
        let email = mail::address(email, "email")?;
        let (token, now, lasts) = (NewToken::generate()?, self.inner.clock.now(), self.inner.limits.sign_in_link_ms);
        let text = token.text().clone();
        self.catalog_write(move |tx| {
            let account = operate::found(tx, &email)?;
            if account.disabled || !account.verified {
                return Err(Error::Conflict { detail: format!("The account of {email} is disabled, or its address is not proved.") });
            }
            let params = [
                Param::Text(token.hash().as_str()),
                Param::Text(&account.id.to_string()),
                Param::Int(now.ms()),
                Param::Int(now.plus(lasts).ms()),
            ];
            tx.execute("INSERT INTO sign_in_links (hash, user_id, created_at, expires_at) VALUES (?1, ?2, ?3, ?4)", &params).map(drop)
        })
        .await?;
        Ok(text)
    }

    async fn session_of_user(&self, mut proved: impl FnMut(&mut dyn Tx, Time) -> Result<UserId> + Send + 'static) -> Result<Secret> {
        let (token, now) = (NewToken::generate()?, self.inner.clock.now());
        let text = token.text().clone();
        let storage = self.clone();
        self.catalog_write(move |tx| {
            let user = proved(tx, now)?;
            // Who belongs to one tenant has chosen already.
            let tenants =
                tx.all(&format!("{TENANTS_OF} ORDER BY t.id LIMIT 2"), &[Param::Text(&user.to_string())], |row| rows::parsed(row, 0))?;
            let tenant = (tenants.len() == 1).then(|| tenants.first().copied()).flatten();
            let row = NewRow { hash: token.hash(), user: Some(user), key: None, tenant, operator: None };
            storage.session_insert(tx, &row, now)
        })
        .await?;
        Ok(text)
    }

    /// Stores a session; of a user's, the oldest above the limit end.
    fn session_insert(&self, tx: &mut dyn Tx, row: &NewRow<'_>, now: Time) -> Result<()> {
        let limits = &self.inner.limits;
        let ends_at = now.plus(limits.session_whole_ms);
        let (user, key, tenant) =
            (row.user.map(|id| id.to_string()), row.key.map(|id| id.to_string()), row.tenant.map(|id| id.to_string()));
        tx.execute(
            "INSERT INTO sessions (id, hash, user_id, key_id, tenant_id, operator, created_at, expires_at, ends_at) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            &[
                Param::Text(&SessionId::new().to_string()),
                Param::Text(row.hash.as_str()),
                Param::text_opt(user.as_deref()),
                Param::text_opt(key.as_deref()),
                Param::text_opt(tenant.as_deref()),
                Param::text_opt(row.operator),
                Param::Int(now.ms()),
                Param::Int(now.plus(limits.session_ms).min(ends_at).ms()),
                Param::Int(ends_at.ms()),
            ],
        )?;
        let newest = "SELECT id FROM sessions WHERE user_id = ?1 ORDER BY id DESC LIMIT ?2";
        let max = i64::try_from(limits.sessions_max.max(1)).map_err(Error::internal)?;
        let trim = format!("DELETE FROM sessions WHERE user_id = ?1 AND id NOT IN ({newest})");
        tx.execute(&trim, &[Param::text_opt(user.as_deref()), Param::Int(max)])?;
        Ok(())
    }
}
