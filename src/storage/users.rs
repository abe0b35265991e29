//! Accounts: registration, sign-in, passwords, tokens. It says what mail to send ([`Letter`]), and sends none.
//!
//! Who is not signed in must not learn from us whether an address has an account: answers, and the work behind them, are the same.
//! The password of a registration becomes the account's only when the token mailed for this very registration comes back, so that nobody
//! can lay a password of their own under an address that is not theirs.

use super::{
    SignedIn, Storage, catalog,
    catalog::Account,
    engine::{Param, Row, Tx, TxExt},
    rows,
    select::Select,
    tenant::TenantTx,
    trail::{Author, Deed, access_record},
};
use crate::{
    clock::Time,
    config::Signup,
    error::{Error, Result},
    ids::{TenantId, TokenId, UserId},
    mail::{self, Letter},
    model::{AccessToken, Act, List, Me, MeTenant, Page, User, UserToken},
    secret::{NewToken, Password, PasswordHash, TokenHash},
};
use std::{sync::atomic::Ordering, time::Duration};

/// Accounts that nobody proves are cleared away at every start, and again after so many registrations.
const TIDY_EVERY: usize = 1_000;
/// Registrations of one address that wait to be proved at once; a new one ends the oldest.
const VERIFY_TOKENS_MAX: usize = 3;

impl Storage {
    /// Hashes a password on its own permits.
    pub(super) async fn password_hash(&self, password: &Password) -> Result<PasswordHash> {
        let password = password.clone();
        self.inner.access.passwords.run(move || PasswordHash::of(&password)).await?
    }

    async fn password_proves(&self, hash: Option<PasswordHash>, password: &Password) -> Result<bool> {
        let password = password.clone();
        self.inner.access.passwords.run(move || hash.unwrap_or_else(PasswordHash::nobody).proves(&password)).await
    }

    /// Makes an account whose address is still to be proved. The answer and the work are the same whether or not the address is known; the
    /// letter is what differs. With sign-up closed only those who were invited may register.
    pub async fn user_register(&self, email: &str, password: &Password, signup: Signup) -> Result<Option<Letter>> {
        let email = mail::address(email, "/email")?;
        password.check(&email, "/password")?;
        let (hash, token) = (self.password_hash(password).await?, NewToken::generate()?);
        if self.inner.access.registered.fetch_add(1, Ordering::Relaxed) % TIDY_EVERY == TIDY_EVERY - 1 {
            self.accounts_tidy().await?;
        }
        let (now, mail_ms, invitation_ms) = (self.inner.clock.now(), self.inner.limits.mail_token_ms, self.inner.limits.invitation_ms);
        self.catalog_write(move |tx| {
            let account = catalog::account_by_email(tx, &email)?;
            let allowed = signup == Signup::Open || invited(tx, &email, now.minus(invitation_ms))?;
            if !allowed {
                return Err(Error::SignupClosed);
            }
            let id = match account {
                Some(account) if account.verified || account.disabled => {
                    touch(tx)?;
                    return Ok((!account.disabled).then(|| Letter::Known { to: email.clone() }));
                }
                Some(account) => account.id,
                None => user_insert(tx, &email, None, now)?,
            };
            token_insert(tx, id, "verify", token.hash(), Some(&hash), now, mail_ms)?;
            tokens_trim(tx, id, "verify", VERIFY_TOKENS_MAX, now)?;
            Ok(Some(Letter::Verify { to: email.clone(), token: token.text().clone() }))
        })
        .await
    }

    /// Proves an address by the token from the mail, sets that registration's password, and lets the user into the tenants that invited
    /// the address.
    pub async fn user_verify(&self, token: &str) -> Result<User> {
        let hash = TokenHash::of_presented(token).ok_or(Error::InvalidToken)?;
        let (now, invitation_ms) = (self.inner.clock.now(), self.inner.limits.invitation_ms);
        self.catalog_write(move |tx| {
            let (account, password) = token_find(tx, &hash, "verify", now)?;
            verified(tx, &account, password.as_deref(), now, now.minus(invitation_ms))
        })
        .await
    }

    /// Signs in. [`Error::InvalidLogin`] for a wrong password as for an unknown address; [`Error::EmailNotVerified`] only to who knows the
    /// password.
    pub async fn user_login(&self, email: &str, password: &Password) -> Result<AccessToken> {
        let account = self.account_proved(email, password).await?;
        self.token_issue(account, self.inner.limits.user_token_ms).await
    }

    /// The account of an address and its password.
    pub(super) async fn account_proved(&self, email: &str, password: &Password) -> Result<Account> {
        let email = mail::address(email, "/email")?;
        let now = self.inner.clock.now();
        let found = self
            .catalog_read(move |tx| match catalog::account_by_email(tx, &email)? {
                None => Ok(None),
                Some(account) => {
                    let hash = if account.verified { account.password_hash.clone() } else { password_pending(tx, &account, now)? };
                    Ok(Some((account, hash)))
                }
            })
            .await?;
        let (account, hash) = found.map_or((None, None), |(account, hash)| (Some(account), hash));
        let right = self.password_proves(hash.map(PasswordHash::from_stored), password).await?;
        match account {
            Some(account) if right && !account.disabled => {
                if account.verified {
                    Ok(account)
                } else {
                    Err(Error::EmailNotVerified)
                }
            }
            _ => Err(Error::InvalidLogin),
        }
    }

    /// A new access token for an account as it was read before; nothing when its password was changed or it was shut off meanwhile.
    pub(super) async fn token_issue(&self, account: Account, ttl: Duration) -> Result<AccessToken> {
        let (token, now, max) = (NewToken::generate()?, self.inner.clock.now(), self.inner.limits.user_tokens_max.max(1));
        let text = token.text().clone();
        self.catalog_write(move |tx| {
            let still = catalog::account_by_id(tx, account.id)?;
            if !still.is_some_and(|still| !still.disabled && still.password_hash == account.password_hash) {
                return Err(Error::InvalidLogin);
            }
            token_insert(tx, account.id, "access", token.hash(), None, now, ttl)?;
            tokens_trim(tx, account.id, "access", max, now)
        })
        .await?;
        Ok(AccessToken { access_token: text.expose().to_owned(), token_type: "Bearer", expires_in: ttl.as_secs() })
    }

    /// Ends the token that the user came with.
    pub async fn user_logout(&self, who: &SignedIn) -> Result<()> {
        self.user_token_revoke(who, who.token_id).await
    }

    /// Asks for a reset mail. The answer and the work are the same whether or not the address is known.
    pub async fn password_forgot(&self, email: &str) -> Result<Option<Letter>> {
        let email = mail::address(email, "/email")?;
        let (token, now, mail_ms) = (NewToken::generate()?, self.inner.clock.now(), self.inner.limits.mail_token_ms);
        self.catalog_write(move |tx| match catalog::account_by_email(tx, &email)? {
            Some(account) if !account.disabled => {
                token_insert(tx, account.id, "reset", token.hash(), None, now, mail_ms)?;
                tokens_trim(tx, account.id, "reset", VERIFY_TOKENS_MAX, now)?;
                Ok(Some(Letter::Reset { to: email.clone(), token: token.text().clone() }))
            }
            _ => touch(tx).map(|()| None),
        })
        .await
    }

    /// Sets a new password by the token from the mail, which also proves the address; ends every token of the user.
    pub async fn password_reset(&self, token: &str, password: &Password) -> Result<()> {
        let hash = TokenHash::of_presented(token).ok_or(Error::InvalidToken)?;
        let (now, invitation_ms) = (self.inner.clock.now(), self.inner.limits.invitation_ms);
        let asked = hash.clone();
        // Looked up first, so that only who has a token makes us hash.
        let (account, _) = self.catalog_read(move |tx| token_find(tx, &asked, "reset", now)).await?;
        password.check(&account.email, "/password")?;
        let new = self.password_hash(password).await?;
        self.catalog_write(move |tx| {
            let (account, _) = token_find(tx, &hash, "reset", now)?;
            verified(tx, &account, Some(new.as_str()), now, now.minus(invitation_ms))?;
            tokens_end(tx, account.id)
        })
        .await
    }

    /// Sets a new password; ends every token of the user, this one too.
    pub async fn password_change(&self, who: &SignedIn, current: &Password, new: &Password) -> Result<()> {
        let id = who.user_id;
        let account = self.catalog_read(move |tx| catalog::account_by_id(tx, id)).await?.ok_or(Error::InvalidToken)?;
        new.check(&account.email, "/new_password")?;
        let old = account.password_hash;
        if !self.password_proves(old.clone().map(PasswordHash::from_stored), current).await? {
            return Err(Error::invalid("/current_password", "this is not the account's password"));
        }
        let hash = self.password_hash(new).await?;
        self.catalog_write(move |tx| {
            let set = "UPDATE users SET password_hash = ?2 WHERE id = ?1 AND password_hash = ?3 AND disabled_at IS NULL";
            let id_text = id.to_string();
            let params = [Param::Text(&id_text), Param::Text(hash.as_str()), Param::text_opt(old.as_deref())];
            match tx.execute(set, &params)? {
                0 => Err(Error::InvalidToken),
                _ => tokens_end(tx, id),
            }
        })
        .await
    }

    /// The user and where they belong.
    pub async fn user_me(&self, who: &SignedIn) -> Result<Me> {
        let id = who.user_id;
        self.catalog_read(move |tx| {
            let account = catalog::account_by_id(tx, id)?.ok_or(Error::InvalidToken)?;
            let sql = format!("{TENANTS_OF} ORDER BY t.id");
            let tenants = tx.all(&sql, &[Param::Text(&id.to_string())], me_tenant_take)?;
            Ok(Me { id, email: account.email, verified: account.verified, tenants })
        })
        .await
    }

    /// The user's access tokens that have not ended.
    pub async fn user_token_list(&self, who: &SignedIn, page: Page) -> Result<List<UserToken>> {
        let (id, current, now) = (who.user_id.to_string(), who.token_id, self.inner.clock.now());
        self.catalog_read(move |tx| {
            let mut select = Select::new("SELECT id, created_at, expires_at FROM user_tokens WHERE user_id = ?1 AND kind = 'access'");
            select.and("expires_at > ?", now);
            let cursor = |tx: &mut TenantTx<'_>, token: &str| {
                let sql = "SELECT id FROM user_tokens WHERE user_id = ?1 AND kind = 'access' AND id = ?2";
                tx.first(sql, &[Param::Text(token)], |row| Ok(row.text(0)?.into()))
            };
            let take = |row: &dyn Row| {
                let id = rows::parsed(row, 0)?;
                Ok(UserToken { id, created_at: rows::time(row, 1)?, expires_at: rows::time(row, 2)?, current: id == current })
            };
            select.page(&mut TenantTx::new(tx, &id), &page, "id", cursor, take, |token| token.id.to_string())
        })
        .await
    }

    /// Ends one of the user's access tokens.
    pub async fn user_token_revoke(&self, who: &SignedIn, id: TokenId) -> Result<()> {
        let user = who.user_id.to_string();
        self.catalog_write(move |tx| {
            let sql = "DELETE FROM user_tokens WHERE user_id = ?1 AND kind = 'access' AND id = ?2";
            match tx.execute(sql, &[Param::Text(&user), Param::Text(&id.to_string())])? {
                0 => Err(Error::not_found("token", id)),
                _ => Ok(()),
            }
        })
        .await
    }
}

/// The tenants of the user `?1`, as [`me_tenant_take`] reads them.
pub(super) const TENANTS_OF: &str = "SELECT t.id, t.name, m.role, t.created_at FROM memberships m \
     JOIN tenants t ON t.id = m.tenant_id WHERE m.user_id = ?1 AND t.state = 'active'";

pub(super) fn me_tenant_take(row: &dyn Row) -> Result<MeTenant> {
    Ok(MeTenant { id: rows::parsed(row, 0)?, name: row.text(1)?.to_owned(), role: catalog::role(row, 2)?, created_at: rows::time(row, 3)? })
}

/// Stores a new account and answers its id.
pub(super) fn user_insert(tx: &mut dyn Tx, email: &str, password: Option<&PasswordHash>, now: Time) -> Result<UserId> {
    let id = UserId::new();
    tx.execute(
        "INSERT INTO users (id, email, password_hash, verified_at, disabled_at, created_at) VALUES (?1, ?2, ?3, NULL, NULL, ?4)",
        &[Param::Text(&id.to_string()), Param::Text(email), Param::text_opt(password.map(PasswordHash::as_str)), Param::Int(now.ms())],
    )?;
    Ok(id)
}

/// Stores a token of a kind that ends after `ttl`.
pub(super) fn token_insert(
    tx: &mut dyn Tx,
    user: UserId,
    kind: &str,
    hash: &TokenHash,
    password: Option<&PasswordHash>,
    now: Time,
    ttl: Duration,
) -> Result<()> {
    tx.execute(
        "INSERT INTO user_tokens (id, user_id, kind, hash, password_hash, created_at, expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        &[
            Param::Text(&TokenId::new().to_string()),
            Param::Text(&user.to_string()),
            Param::Text(kind),
            Param::Text(hash.as_str()),
            Param::text_opt(password.map(PasswordHash::as_str)),
            Param::Int(now.ms()),
            Param::Int(now.plus(ttl).ms()),
        ],
    )?;
    Ok(())
}

/// Takes away a user's tokens of a kind that have ended, and the oldest above `max`.
fn tokens_trim(tx: &mut dyn Tx, user: UserId, kind: &str, max: usize, now: Time) -> Result<()> {
    let newest = "SELECT id FROM user_tokens WHERE user_id = ?1 AND kind = ?2 ORDER BY id DESC LIMIT ?4";
    let sql = format!("DELETE FROM user_tokens WHERE user_id = ?1 AND kind = ?2 AND (expires_at <= ?3 OR id NOT IN ({newest}))");
    let max = i64::try_from(max).map_err(Error::internal)?;
    tx.execute(&sql, &[Param::Text(&user.to_string()), Param::Text(kind), Param::Int(now.ms()), Param::Int(max)])?;
    Ok(())
}

/// Ends every token of a user, of every kind, and every session.
pub(super) fn tokens_end(tx: &mut dyn Tx, user: UserId) -> Result<()> {
    for table in ["user_tokens", "sessions", "sign_in_links"] {
        tx.execute(&format!("DELETE FROM {table} WHERE user_id = ?1"), &[Param::Text(&user.to_string())])?;
    }
    Ok(())
}

/// Whose token this is, and the password that waits with it.
fn token_find(tx: &mut dyn Tx, hash: &TokenHash, kind: &str, now: Time) -> Result<(Account, Option<String>)> {
    let sql = "SELECT user_id, password_hash FROM user_tokens WHERE hash = ?1 AND kind = ?2 AND expires_at > ?3";
    let found = tx.first(sql, &[Param::Text(hash.as_str()), Param::Text(kind), Param::Int(now.ms())], |row| {
        Ok((rows::parsed::<UserId>(row, 0)?, rows::text_opt(row, 1)?))
    })?;
    let (user, password) = found.ok_or(Error::InvalidToken)?;
    let account = catalog::account_by_id(tx, user)?.filter(|account| !account.disabled).ok_or(Error::InvalidToken)?;
    Ok((account, password))
}

/// The password of an account whose address is not proved: the newest registration's that waits, else the operator's.
pub(super) fn password_pending(tx: &mut dyn Tx, account: &Account, now: Time) -> Result<Option<String>> {
    let sql = "SELECT password_hash FROM user_tokens WHERE user_id = ?1 AND kind = 'verify' AND expires_at > ?2 \
               AND password_hash IS NOT NULL ORDER BY id DESC LIMIT 1";
    let pending = tx.first(sql, &[Param::Text(&account.id.to_string()), Param::Int(now.ms())], |row| Ok(row.text(0)?.to_owned()))?;
    Ok(pending.or_else(|| account.password_hash.clone()))
}

/// Takes an address as proved: sets the password if there is one, ends what waited for the proof, honours invitations.
pub(super) fn verified(tx: &mut dyn Tx, account: &Account, password: Option<&str>, now: Time, invited_since: Time) -> Result<User> {
    let id = account.id.to_string();
    tx.execute(
        "UPDATE users SET verified_at = COALESCE(verified_at, ?2), password_hash = COALESCE(?3, password_hash) WHERE id = ?1",
        &[Param::Text(&id), Param::Int(now.ms()), Param::text_opt(password)],
    )?;
    tx.execute("DELETE FROM user_tokens WHERE user_id = ?1 AND kind = 'verify'", &[Param::Text(&id)])?;
    invitations_honour(tx, account, now, invited_since)?;
    tx.execute("DELETE FROM invitations WHERE email = ?1", &[Param::Text(&account.email)])?;
    Ok(User { id: account.id, email: account.email.clone(), verified: true, disabled: account.disabled, created_at: account.created_at })
}

/// Lets a user into the tenants that invited their address.
fn invitations_honour(tx: &mut dyn Tx, account: &Account, now: Time, since: Time) -> Result<()> {
    let sql = "SELECT i.tenant_id, i.role FROM invitations i JOIN tenants t ON t.id = i.tenant_id \
               WHERE i.email = ?1 AND i.created_at > ?2 AND t.state = 'active'";
    let invitations = tx.all(sql, &[Param::Text(&account.email), Param::Int(since.ms())], |row| {
        Ok((rows::parsed::<TenantId>(row, 0)?, catalog::role(row, 1)?))
    })?;
    for (tenant, role) in invitations {
        let added = tx.execute(
            "INSERT INTO memberships (tenant_id, user_id, role, created_at) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (tenant_id, user_id) DO NOTHING",
            &[Param::Text(&tenant.to_string()), Param::Text(&account.id.to_string()), Param::Text(role.name()), Param::Int(now.ms())],
        )?;
        if added > 0 {
            let deed = Deed::new(Author::from(account.id).into(), Act::MemberJoin, now).to(account.id).with("role", role);
            access_record(tx, tenant, deed)?;
        }
    }
    Ok(())
}

fn invited(tx: &mut dyn Tx, email: &str, since: Time) -> Result<bool> {
    let sql = "SELECT 1 FROM invitations WHERE email = ?1 AND created_at > ?2 LIMIT 1";
    Ok(tx.first(sql, &[Param::Text(email), Param::Int(since.ms())], |_| Ok(()))?.is_some())
}

/// Writes and takes away again, so that a commit which stores nothing takes as long as one that does.
fn touch(tx: &mut dyn Tx) -> Result<()> {
    let id = UserId::new().to_string();
    tx.execute("INSERT INTO users (id, email, created_at) VALUES (?1, ?1, 0)", &[Param::Text(&id)])?;
    tx.execute("DELETE FROM users WHERE id = ?1", &[Param::Text(&id)])?;
    Ok(())
}
