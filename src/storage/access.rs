//! Who is asking: witnesses that only this folder can make, each from a credential that was proved.

use super::{Storage, TenantStore};
use crate::{
    clock::Time,
    config::Secret,
    error::{Error, Result},
    ids::*,
    model::Role,
    money::Money,
};
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

impl Storage {
    /// Proves an API key as it was presented. One and the same [`Error::InvalidApiKey`] for what is unknown, wrong, revoked, expired, or
    /// whose member, user or tenant is gone; [`Error::TooManyChecks`] when too many proofs wait for a core.
    pub async fn principal_by_key(&self, _presented: &str) -> Result<Principal> {
        todo!()
    }

    /// Looks again whether the key still stands, and what it may do now. Cheap: before each hold, and twice a second in open streams.
    pub fn principal_again(&self, _who: &Principal) -> Result<Principal> {
        todo!()
    }

    /// The way to the tenant's data, its file kept open as long as the store lives.
    pub async fn tenant_store(&self, _who: &Principal) -> Result<TenantStore> {
        todo!()
    }

    /// Proves a user token as it was presented: [`Error::InvalidToken`] if it does not stand, [`Error::EmailNotVerified`] if only the
    /// address is not proved yet. Cheap enough for an async thread.
    pub fn signed_in(&self, _presented: &str) -> Result<SignedIn> {
        todo!()
    }

    /// The operator, for whoever could open the data directory: the command line. No request handler may call this.
    pub fn operator_here(&self) -> Operator {
        Operator { _made_here: () }
    }

    /// The operator, by the token that the configuration holds. [`Error::InvalidToken`] otherwise; the time it takes tells nothing.
    pub fn operator_by_token(&self, presented: &str, configured: &Secret) -> Result<Operator> {
        // Hashes compare in constant time, and hide the lengths.
        if blake3::hash(presented.as_bytes()) == blake3::hash(configured.expose().as_bytes()) {
            return Ok(Operator { _made_here: () });
        }
        Err(Error::InvalidToken)
    }

    /// The way to one tenant's data for the operator's own methods of this folder: the wallet, never content.
    pub(super) async fn operator_store(&self, _operator: &Operator, _tenant: TenantId) -> Result<TenantStore> {
        todo!()
    }
}
