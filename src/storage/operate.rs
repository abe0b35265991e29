//! What the operator does to accounts. No credential of the user's is asked for; an [`Operator`] is the authority.

use super::{
    Operator, Storage, catalog,
    catalog::Account,
    engine::{Param, Row, Tx},
    rows,
    select::Select,
    tenant::TenantTx,
    trail::{Actor, Deed, server_record},
    users,
};
use crate::{
    error::{Error, Result},
    mail::{self, Letter},
    model::{AccessToken, Act, List, Page, User},
    secret::{NewToken, Password},
};
use std::time::Duration;

/// How long an account that was never proved is kept after its last mail can no longer be used.
const UNPROVED_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

impl Storage {
    /// Makes an account for someone. Unless `verified`, there is a mail to send. [`Error::Conflict`] when the address has one.
    pub async fn user_create(&self, _: &Operator, email: &str, password: &Password, verified: bool) -> Result<(User, Option<Letter>)> {
        let email = mail::address(email, "/email")?;
        password.check(&email, "/password")?;
        let (hash, token) = (self.password_hash(password).await?, NewToken::generate()?);
        let (now, limits) = (self.inner.clock.now(), self.inner.limits.clone());
        self.catalog_write(move |tx| {
            if catalog::account_by_email(tx, &email)?.is_some() {
                return Err(Error::Conflict { detail: format!("{email} has an account already.") });
            }
            users::user_insert(tx, &email, Some(&hash), now)?;
            let account = found(tx, &email)?;
            server_record(tx, Deed::new(Actor::OPERATOR, Act::UserCreate, now).to(account.id).with("verified", verified))?;
            if verified {
                return Ok((users::verified(tx, &account, None, now, now.minus(limits.invitation_ms))?, None));
            }
            users::token_insert(tx, account.id, "verify", token.hash(), None, now, limits.mail_token_ms)?;
            Ok((shown(&account), Some(Letter::Verify { to: email.clone(), token: token.text().clone() })))
        })
        .await
    }

    /// All accounts, by id.
    pub async fn user_list(&self, _: &Operator, page: Page) -> Result<List<User>> {
        self.catalog_read(move |tx| {
            // The operator's lists are nobody's own: `?1`, which scopes all others, is empty.
            let select = Select::new("SELECT id, email, verified_at, disabled_at, created_at FROM users WHERE ?1 = ''");
            let cursor = |tx: &mut TenantTx<'_>, id: &str| {
                tx.first("SELECT id FROM users WHERE ?1 = '' AND id = ?2", &[Param::Text(id)], |row| Ok(row.text(0)?.into()))
            };
            let take = |row: &dyn Row| {
                Ok(User {
                    id: rows::parsed(row, 0)?,
                    email: row.text(1)?.to_owned(),
                    verified: row.int_opt(2)?.is_some(),
                    disabled: row.int_opt(3)?.is_some(),
                    created_at: rows::time(row, 4)?,
                })
            };
            select.page(&mut TenantTx::new(tx, ""), &page, "id", cursor, take, |user| user.id.to_string())
        })
        .await
    }

    /// Takes an address as proved; the password of a registration that waits becomes the account's.
    pub async fn user_verify_by(&self, _: &Operator, email: &str) -> Result<User> {
        let email = mail::address(email, "email")?;
        let (now, invitation_ms) = (self.inner.clock.now(), self.inner.limits.invitation_ms);
        self.catalog_write(move |tx| {
            let account = found(tx, &email)?;
            if !account.verified {
                server_record(tx, Deed::new(Actor::OPERATOR, Act::UserVerify, now).to(account.id))?;
            }
            let password = if account.verified { None } else { users::password_pending(tx, &account, now)? };
            users::verified(tx, &account, password.as_deref(), now, now.minus(invitation_ms))
        })
        .await
    }

    /// Shuts an account off: its tokens and keys are refused from the next request on, its invitations are withdrawn. Doing it again changes
    /// nothing.
    pub async fn user_disable(&self, _: &Operator, email: &str) -> Result<User> {
        let (email, now) = (mail::address(email, "email")?, self.inner.clock.now());
        self.catalog_write(move |tx| {
            let account = found(tx, &email)?;
            let sql = "UPDATE users SET disabled_at = COALESCE(disabled_at, ?2) WHERE id = ?1";
            tx.execute(sql, &[Param::Text(&account.id.to_string()), Param::Int(now.ms())])?;
            users::tokens_end(tx, account.id)?;
            if !account.disabled {
                server_record(tx, Deed::new(Actor::OPERATOR, Act::UserDisable, now).to(account.id))?;
            }
            // No invitation outlives the authority that it was made with.
            tx.execute("DELETE FROM invitations WHERE invited_by = ?1", &[Param::Text(&account.id.to_string())])?;
            Ok(User { disabled: true, ..shown(&account) })
        })
        .await
    }

    /// An access token for a user, for scripts. It works only once the address is proved.
    pub async fn user_token_issue(&self, _: &Operator, email: &str, ttl: Duration) -> Result<AccessToken> {
        let email = mail::address(email, "email")?;
        let account = self.catalog_read(move |tx| found(tx, &email)).await?;
        if account.disabled {
            return Err(Error::Conflict { detail: format!("The account of {} is disabled.", account.email) });
        }
        let (now, user) = (self.inner.clock.now(), account.id);
        let deed = move || Deed::new(Actor::OPERATOR, Act::UserToken, now).to(user).with("expires_at", now.plus(ttl));
        self.catalog_write(move |tx| server_record(tx, deed())).await?;
        self.token_issue(account, ttl).await
    }

    /// Removes what has ended and nobody can use again: tokens, invitations, accounts that were never proved.
    pub(super) async fn accounts_tidy(&self) -> Result<()> {
        let (now, limits) = (self.inner.clock.now(), self.inner.limits.clone());
        self.catalog_write(move |tx| {
            for table in ["user_tokens", "sessions", "sign_in_links"] {
                tx.execute(&format!("DELETE FROM {table} WHERE expires_at <= ?1"), &[Param::Int(now.ms())])?;
            }
            tx.execute("DELETE FROM invitations WHERE created_at <= ?1", &[Param::Int(now.minus(limits.invitation_ms).ms())])?;
            let unproved = "DELETE FROM users WHERE verified_at IS NULL AND password_hash IS NULL AND disabled_at IS NULL AND created_at <= ?1 \
                            AND NOT EXISTS (SELECT 1 FROM user_tokens t WHERE t.user_id = users.id) \
                            AND NOT EXISTS (SELECT 1 FROM memberships m WHERE m.user_id = users.id) \
                            AND NOT EXISTS (SELECT 1 FROM api_keys k WHERE k.user_id = users.id) \
                            AND NOT EXISTS (SELECT 1 FROM invitations i WHERE i.invited_by = users.id)";
            tx.execute(unproved, &[Param::Int(now.minus(UNPROVED_KEPT).ms())])?;
            Ok(())
        })
        .await
    }
}

/// The account of an address, for whoever may know that there is none.
pub(super) fn found(tx: &mut dyn Tx, email: &str) -> Result<Account> {
    catalog::account_by_email(tx, email)?.ok_or_else(|| Error::not_found("user", email))
}

fn shown(account: &Account) -> User {
    User {
        id: account.id,
        email: account.email.clone(),
        verified: account.verified,
        disabled: account.disabled,
        created_at: account.created_at,
    }
}
