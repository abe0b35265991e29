//! API keys: issued, changed, revoked, rotated. Their proof is `access`'s.

use super::{Operator, Principal, SignedIn, Storage};
use crate::{
    error::Result,
    ids::{KeyId, TenantId},
    model::{Key, KeyCreated, KeyInput, KeyPatch, List, Page},
};

impl Storage {
    /// Keys of the tenant: one's own, or all for admins.
    pub async fn key_list(&self, _who: &Principal, _page: Page) -> Result<List<Key>> {
        todo!()
    }

    /// A new key, shown this once.
    pub async fn key_create(&self, _who: &Principal, _input: KeyInput) -> Result<KeyCreated> {
        todo!()
    }

    /// A new key by a user token, for the tenant that `input` names.
    pub async fn key_create_for(&self, _who: &SignedIn, _input: KeyInput) -> Result<KeyCreated> {
        todo!()
    }

    /// Changes name, expiry or spend limit.
    pub async fn key_update(&self, _who: &Principal, _id: KeyId, _patch: KeyPatch) -> Result<Key> {
        todo!()
    }

    /// Refuses the key from the next request on.
    pub async fn key_revoke(&self, _who: &Principal, _id: KeyId) -> Result<()> {
        todo!()
    }

    /// A successor with the same properties; the old key ends after an overlap.
    pub async fn key_rotate(&self, _who: &Principal, _id: KeyId) -> Result<KeyCreated> {
        todo!()
    }

    /// A new key for the member of this address.
    pub async fn key_issue(&self, _: &Operator, _tenant: TenantId, _email: &str, _input: KeyInput) -> Result<KeyCreated> {
        todo!()
    }

    /// All keys of a tenant.
    pub async fn key_list_of(&self, _: &Operator, _tenant: TenantId, _page: Page) -> Result<List<Key>> {
        todo!()
    }

    /// Refuses a key from the next request on, in the server too.
    pub async fn key_revoke_by(&self, _: &Operator, _id: KeyId) -> Result<Key> {
        todo!()
    }
}
