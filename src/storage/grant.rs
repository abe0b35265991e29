//! What whoever makes or changes a key may hand on: not a stronger role, not a later end; and a key with a spend limit of its own manages no
//! keys at all, since each new key would begin to count at zero.

use super::{
    Principal, catalog,
    engine::Tx,
    tenants,
    trail::{Actor, Author},
};
use crate::{
    clock::Time,
    error::{Error, Result},
    ids::{TenantId, UserId},
    model::Role,
};

/// On whose authority a key is made or changed.
#[derive(Clone)]
pub(super) enum Maker {
    /// A key's.
    Key(Principal),
    /// A user's, in one of their tenants.
    User(UserId),
    /// The operator's, for this member.
    Operator(UserId),
}

/// What a maker may, inside the transaction that uses it.
pub(super) struct Grant {
    pub(super) user: UserId,
    pub(super) role: Role,
    /// When the maker's own authority ends.
    pub(super) ends_at: Option<Time>,
}

impl Maker {
    /// The same for the audit log.
    pub(super) fn actor(&self) -> Actor {
        match self {
            Self::Key(who) => who.into(),
            Self::User(user) => Author::from(*user).into(),
            Self::Operator(_) => Actor::OPERATOR,
        }
    }

    /// What the maker may in this tenant now.
    pub(super) fn grant(&self, tx: &mut dyn Tx, tenant: TenantId, now: Time) -> Result<Grant> {
        match self {
            Self::Key(who) => {
                let role = catalog::standing_at_least(tx, who, now, Role::Member)?;
                if who.spend_limit.is_some() {
                    return Err(Error::KeyIsCapped);
                }
                Ok(Grant { user: who.user_id, role, ends_at: who.expires_at })
            }
            Self::User(user) => {
                let role = catalog::membership(tx, tenant, *user)?.ok_or_else(|| Error::not_found("tenant", tenant))?;
                match role {
                    Role::Viewer => Err(Error::InsufficientRole { needed: Role::Member.name() }),
                    role => Ok(Grant { user: *user, role, ends_at: None }),
                }
            }
            Self::Operator(user) => {
                tenants::tenant_find(tx, tenant)?;
                let role = catalog::membership(tx, tenant, *user)?.ok_or_else(|| Error::not_found("member", user))?;
                Ok(Grant { user: *user, role, ends_at: None })
            }
        }
    }
}

/// Whose the new key will be, and their role. Nobody makes keys in the name of someone stronger.
pub(super) fn owner_of_new(tx: &mut dyn Tx, grant: &Grant, tenant: TenantId, asked: Option<UserId>) -> Result<(UserId, Role)> {
    let Some(user) = asked.filter(|user| *user != grant.user) else {
        return Ok((grant.user, grant.role));
    };
    if grant.role < Role::Admin {
        return Err(Error::InsufficientRole { needed: Role::Admin.name() });
    }
    let role =
        catalog::membership(tx, tenant, user)?.ok_or_else(|| Error::invalid("/user_id", "expected the id of a member of this tenant"))?;
    if role > grant.role {
        return Err(Error::InsufficientRole { needed: role.name() });
    }
    Ok((user, role))
}

/// The role of a new key: at most its maker's and its member's.
pub(super) fn role_of_new(grant: &Grant, member: Role, asked: Option<Role>) -> Result<Role> {
    let role = asked.unwrap_or(Role::Member.min(member));
    if role > grant.role {
        return Err(Error::InsufficientRole { needed: role.name() });
    }
    if role > member {
        return Err(Error::invalid("/role", format!("expected {} or weaker, the role of the member whose key it is", member.name())));
    }
    Ok(role)
}

/// A key that ends by itself makes none that outlives it.
pub(super) fn ends_within(grant: &Grant, expires_at: Option<Time>) -> Result<()> {
    match grant.ends_at {
        Some(end) if expires_at.is_none_or(|asked| asked > end) => {
            Err(Error::invalid("/expires_at", format!("expected a time not after {end}, when the key that you use ends")))
        }
        _ => Ok(()),
    }
}
