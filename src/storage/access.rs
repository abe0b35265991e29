//! Who is asking: witnesses that only this folder can make, each from a credential that was proved.

use crate::{clock::Time, ids::*, model::Role, money::Money};
use std::sync::Arc;

/// A proved API key: one user, one tenant, one role, and so one file. Valid for this request; [`super::Storage::principal_again`] looks again.
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
    /// The key's public id, by which the catalog row is found again.
    pub(super) public_id: Arc<str>,
}

impl Principal {
    /// The key.
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
