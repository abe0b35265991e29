//! Tenants: made, changed, stopped, deleted. The catalog's row comes first and goes last, so that no file is ever without one.

use super::{Operator, Principal, SignedIn, Storage};
use crate::{
    error::Result,
    ids::TenantId,
    model::{List, MeTenant, Page, Tenant, TenantCreated, TenantPatch},
};

impl Storage {
    /// Makes a tenant with the user as its owner, and its first key, shown this once.
    pub async fn tenant_create(&self, _who: &SignedIn, _name: &str) -> Result<TenantCreated> {
        todo!()
    }

    /// The tenants that the user belongs to.
    pub async fn tenant_list(&self, _who: &SignedIn, _page: Page) -> Result<List<MeTenant>> {
        todo!()
    }

    /// The key's own tenant.
    pub async fn tenant_read(&self, _who: &Principal) -> Result<Tenant> {
        todo!()
    }

    /// Changes name or time zone.
    pub async fn tenant_update(&self, _who: &Principal, _patch: TenantPatch) -> Result<Tenant> {
        todo!()
    }

    /// Removes every byte of the key's own tenant; `confirm` must be its name. The caller lets go of its `TenantStore` first.
    pub async fn tenant_delete(&self, _who: &Principal, _confirm: &str) -> Result<()> {
        todo!()
    }

    /// Makes a tenant for the user of this address.
    pub async fn tenant_create_for(&self, _: &Operator, _name: &str, _owner_email: &str) -> Result<TenantCreated> {
        todo!()
    }

    /// All tenants, by id.
    pub async fn tenant_list_all(&self, _: &Operator, _page: Page) -> Result<List<Tenant>> {
        todo!()
    }

    /// One tenant.
    pub async fn tenant_show(&self, _: &Operator, _id: TenantId) -> Result<Tenant> {
        todo!()
    }

    /// Stops a tenant's chat, or lets it go on.
    pub async fn tenant_suspend(&self, _: &Operator, _id: TenantId, _suspended: bool) -> Result<Tenant> {
        todo!()
    }

    /// Removes every byte of a tenant. In the server's own process, or under its lock.
    pub async fn tenant_remove(&self, _: &Operator, _id: TenantId) -> Result<()> {
        todo!()
    }

    /// Finishes what a crash left half made or half deleted. For the server, at start.
    pub async fn tenants_finish(&self) -> Result<()> {
        todo!()
    }
}
