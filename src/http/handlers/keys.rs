//! API keys: a member's own, for admins all of the tenant.

use crate::{
    http::{
        call::{Reply, TenantCall, UserCall},
        endpoint::{Answer, Endpoint, Handler},
    },
    ids::KeyId,
    model::{Key, KeyCreated, KeyInput, KeyPatch, List, Order, Role},
};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::new("KeyList", "GET", "/api/v1/keys", Handler::Tenant(Role::Member, list))
            .about("Keys", "The keys of the tenant: one's own, all for admins")
            .paged()
            .answers::<List<Key>>(200),
        Endpoint::new("KeyCreate", "POST", "/api/v1/keys", Handler::TenantOrUser(Role::Member, create, create_by_user))
            .about("Keys", "Make a key")
            .describe(
                "The key's text is shown this once. A key is at most as strong as its maker, ends no later, and one with a `spend_limit` of its \
                 own makes none. With a user token, `tenant_id` says for which of the user's tenants.",
            )
            .body::<KeyInput>()
            .answers::<KeyCreated>(201)
            .errors(&["insufficient_role", "not_found", "conflict"]),
        Endpoint::new("KeyUpdate", "PATCH", "/api/v1/keys/{id}", Handler::Tenant(Role::Member, update))
            .about("Keys", "Change a key's name, expiry or spend limit")
            .body::<KeyPatch>()
            .answers::<Key>(200)
            .errors(&["conflict"]),
        Endpoint::new("KeyRevoke", "DELETE", "/api/v1/keys/{id}", Handler::Tenant(Role::Member, revoke))
            .about("Keys", "Refuse a key from the next request on")
            .describe("Its open streams end within a second. The row stays, so that logs can still be read. Doing it again changes nothing.")
            .answers_raw(204, ""),
        Endpoint::new("KeyRotate", "POST", "/api/v1/keys/{id}/rotate", Handler::Tenant(Role::Member, rotate))
            .about("Keys", "Make a key's successor")
            .describe("With the same properties; its spending begins at zero. The old key works for another day, unless it ends sooner.")
            .answers::<KeyCreated>(201)
            .errors(&["conflict"]),
    ]
}

fn list(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let page = call.request.page(Order::Desc)?;
        Reply::ok(&call.app.storage.key_list(&call.who, page).await?)
    })
}

fn create(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let input: KeyInput = call.request.json()?;
        shown_once(&call.app.storage.key_create(&call.who, input).await?)
    })
}

fn create_by_user(call: UserCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let input: KeyInput = call.request.json()?;
        shown_once(&call.app.storage.key_create_for(&call.who, input).await?)
    })
}

fn update(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let id: KeyId = call.request.id("id", "key")?;
        let patch: KeyPatch = call.request.json()?;
        Reply::ok(&call.app.storage.key_update(&call.who, id, patch).await?)
    })
}

fn revoke(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let id: KeyId = call.request.id("id", "key")?;
        call.app.storage.key_revoke(&call.who, id).await?;
        Ok(Reply::Nothing)
    })
}

fn rotate(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let id: KeyId = call.request.id("id", "key")?;
        shown_once(&call.app.storage.key_rotate(&call.who, id).await?)
    })
}

/// 201 with a key's text, which nobody on the way keeps.
fn shown_once(made: &KeyCreated) -> crate::error::Result<Reply> {
    Ok(Reply::created(made)?.with_header("cache-control", "no-store"))
}
