//! What the files on users, tenants, keys and members share: look-ups inside a transaction on the catalog.
//!
//! Statements on rows of one tenant run through a [`TenantTx`], as they do on a tenant's own file: `?1` is the tenant. Lists of one user's
//! rows run through one too, and `?1` is the user.

use super::{
    Principal,
    engine::{Param, Row, Tx, TxExt},
    rows,
    tenant::TenantTx,
};
use crate::{
    clock::Time,
    error::{Error, Result},
    ids::{TenantId, UserId},
    model::Role,
};

/// A number that a statement counts.
pub(super) fn count(tx: &mut dyn Tx, sql: &str, params: &[Param<'_>]) -> Result<usize> {
    Ok(tx.first(sql, params, |row| rows::number(row, 0))?.unwrap_or_default())
}

/// A role column.
pub(super) fn role(row: &dyn Row, column: usize) -> Result<Role> {
    let name = row.text(column)?;
    Role::from_name(name).ok_or_else(|| Error::internal(format!("no role is called {name}")))
}

/// A text of 1–200 characters on one line, such as a name; `pointer` names the field in the error.
pub(super) fn name_checked(text: &str, pointer: &'static str) -> Result<String> {
    let text = text.trim();
    if text.is_empty() || text.chars().count() > 200 || text.chars().any(char::is_control) {
        return Err(Error::invalid(pointer, "expected 1 to 200 characters on one line"));
    }
    Ok(text.to_owned())
}

/// What is known of a user before anything is proved.
pub(super) struct Account {
    pub(super) id: UserId,
    pub(super) email: String,
    pub(super) password_hash: Option<String>,
    pub(super) verified: bool,
    pub(super) disabled: bool,
    pub(super) created_at: Time,
}

const ACCOUNT: &str = "SELECT id, email, password_hash, verified_at, disabled_at, created_at FROM users";

fn account_take(row: &dyn Row) -> Result<Account> {
    Ok(Account {
        id: rows::parsed(row, 0)?,
        email: row.text(1)?.to_owned(),
        password_hash: rows::text_opt(row, 2)?,
        verified: row.int_opt(3)?.is_some(),
        disabled: row.int_opt(4)?.is_some(),
        created_at: rows::time(row, 5)?,
    })
}

/// The user of an address in its normal form.
pub(super) fn account_by_email(tx: &mut dyn Tx, email: &str) -> Result<Option<Account>> {
    tx.first(&format!("{ACCOUNT} WHERE email = ?1"), &[Param::Text(email)], account_take)
}

/// The user of an id.
pub(super) fn account_by_id(tx: &mut dyn Tx, id: UserId) -> Result<Option<Account>> {
    tx.first(&format!("{ACCOUNT} WHERE id = ?1"), &[Param::Text(&id.to_string())], account_take)
}

/// The role of a user in an active tenant; nothing for who does not belong to it, and for tenants that are not there.
pub(super) fn membership(tx: &mut dyn Tx, tenant: TenantId, user: UserId) -> Result<Option<Role>> {
    let sql = "SELECT m.role FROM memberships m JOIN tenants t ON t.id = m.tenant_id JOIN users u ON u.id = m.user_id \
               WHERE m.tenant_id = ?1 AND m.user_id = ?2 AND t.state = 'active' AND u.disabled_at IS NULL";
    tx.first(sql, &[Param::Text(&tenant.to_string()), Param::Text(&user.to_string())], |row| role(row, 0))
}

/// What a key may do at this very moment of the transaction, for writes that hand on authority: between the door and here it may have been
/// revoked or its member demoted.
pub(super) fn standing(tx: &mut dyn Tx, who: &Principal, now: Time) -> Result<Role> {
    let member = membership(tx, who.tenant_id, who.user_id)?.ok_or(Error::InvalidApiKey)?;
    if let Some(session) = who.session {
        let sql = "SELECT 1 FROM sessions WHERE id = ?1 AND tenant_id = ?2 AND expires_at > ?3";
        let params = [Param::Text(&session.to_string()), Param::Text(&who.tenant_id.to_string()), Param::Int(now.ms())];
        tx.first(sql, &params, |_| Ok(()))?.ok_or(Error::InvalidToken)?;
        if who.public_id.is_empty() {
            return Ok(member);
        }
    }
    let tenant = who.tenant_id.to_string();
    let sql =
        "SELECT role FROM api_keys WHERE tenant_id = ?1 AND id = ?2 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > ?3)";
    let key = TenantTx::new(tx, &tenant).first(sql, &[Param::Text(&who.key_id.to_string()), Param::Int(now.ms())], |row| role(row, 0))?;
    key.map(|key| key.min(member)).ok_or(Error::InvalidApiKey)
}

/// The same, refusing whoever may less than `needed`.
pub(super) fn standing_at_least(tx: &mut dyn Tx, who: &Principal, now: Time, needed: Role) -> Result<Role> {
    match standing(tx, who, now)? {
        role if role >= needed => Ok(role),
        _ => Err(Error::InsufficientRole { needed: needed.name() }),
    }
}
