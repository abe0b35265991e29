//! Tenants: a user makes and lists them; a key reads, changes and deletes its own.

use crate::{
    error::Error,
    http::{
        call::{Reply, TenantCall, UserCall},
        endpoint::{Answer, Endpoint, Handler},
    },
    model::{List, MeTenant, Order, Role, Tenant, TenantCreated, TenantPatch},
    storage::Export,
    vault::DataKey,
};
use serde::Deserialize;
use utoipa::ToSchema;

/// What a new tenant should be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TenantCreateInput {
    /// 1–200 characters; need not be unique.
    name: String,
}

/// That the tenant should really go.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TenantDeleteInput {
    /// The tenant's name, exactly as it is.
    confirm: String,
}

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::new("TenantCreate", "POST", "/api/v1/tenants", Handler::User(create))
            .about("Tenants", "Make a tenant and its first key")
            .describe("The maker becomes its owner. The key is shown this once. The balance starts at zero.")
            .body::<TenantCreateInput>()
            .answers::<TenantCreated>(201)
            .errors(&["conflict", "too_many_checks", "disk_full"]),
        Endpoint::new("TenantList", "GET", "/api/v1/tenants", Handler::User(list))
            .about("Tenants", "The tenants that the user belongs to")
            .paged()
            .answers::<List<MeTenant>>(200),
        Endpoint::new("TenantGet", "GET", "/api/v1/tenant", Handler::Tenant(Role::Viewer, get))
            .about("Tenants", "The key's own tenant")
            .answers::<Tenant>(200),
        Endpoint::new("TenantUpdate", "PATCH", "/api/v1/tenant", Handler::Tenant(Role::Owner, update))
            .about("Tenants", "Change the tenant's name, time zone or retention")
            .describe(
                "`retention` says how many days conversations are kept after their last change, and rows of the log, from which usage is summed; \
                 `null` is for ever. What is beyond is removed in the background, to the last byte, never the ledger or the audit log.",
            )
            .body::<TenantPatch>()
            .answers::<Tenant>(200),
        Endpoint::new("TenantExport", "GET", "/api/v1/tenant/export", Handler::Tenant(Role::Owner, export))
            .about("Tenants", "All of the tenant's data as one SQLite file")
            .describe(
                "One moment's state, taken while work goes on, checked, with a table `export_manifest` inside: version, time, row counts, the \
                 ledger's head and a hash of the content. With `Export-Key`, where the server was built with encryption, the file is encrypted \
                 (SQLCipher) with that key, which is kept nowhere: whoever has it opens the file, and nobody else.",
            )
            .query("workspaces", "`true` takes the files of sandboxed configs' workspaces along; `nimblesite tenant import` brings them back")
            .header("Export-Key", "64 hexadecimal digits of your own to encrypt the file with")
            .answers_raw(200, "application/vnd.sqlite3")
            .errors(&["overloaded", "disk_full", "sandbox_unavailable", "validation_failed", "conflict"]),
        Endpoint::new("TenantDelete", "DELETE", "/api/v1/tenant", Handler::Tenant(Role::Owner, delete))
            .about("Tenants", "Delete the tenant: every byte of it, at once")
            .describe("Its keys stop working, its configs, conversations, logs and ledger are gone. Nothing can bring them back.")
            .body::<TenantDeleteInput>()
            .answers_raw(204, "")
            .errors(&["conflict"]),
    ]
}

fn create(call: UserCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let input: TenantCreateInput = call.request.json()?;
        let made = call.app.storage.tenant_create(&call.who, &input.name).await?;
        Ok(Reply::created(&made)?.with_header("cache-control", "no-store"))
    })
}

fn list(call: UserCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let page = call.request.page(Order::Desc)?;
        Reply::ok(&call.app.storage.tenant_list(&call.who, page).await?)
    })
}

fn get(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move { Reply::ok(&call.app.storage.tenant_read(&call.who).await?) })
}

fn update(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let patch: TenantPatch = call.request.json()?;
        Reply::ok(&call.app.storage.tenant_update(&call.who, patch).await?)
    })
}

fn export(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let TenantCall { app, who, store, request } = call;
        let workspaces = match request.query("workspaces") {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => return Err(Error::invalid("/workspaces", "Expected true or false.")),
        };
        let expected = "expected 64 hexadecimal digits, such as `openssl rand -hex 32` makes";
        let parse = |text| DataKey::parse(text).ok_or_else(|| Error::invalid("Export-Key", expected));
        let key = request.header_once("export-key")?.map(parse).transpose()?;
        let held = app.storage.tenant_export_begin(&who, workspaces, key).await?;
        if workspaces {
            app.yard.pack(&store, &app.storage, held.packing()?).await?;
        }
        // The file is opened anew for copying; a slow reader of the copy must not keep the tenant's own open.
        drop(store);
        let Export { file, size_bytes, held } = app.storage.tenant_export(held).await?;
        let name = format!("attachment; filename=\"{}.db\"", who.tenant_id());
        let reply = Reply::File { file, size_bytes, content_type: "application/vnd.sqlite3", held: Box::new(held), headers: Vec::new() };
        Ok(reply.with_header("content-disposition", name))
    })
}

fn delete(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let TenantCall { app, who, store, request } = call;
        let input: TenantDeleteInput = request.json()?;
        if input.confirm != who.tenant_name() {
            return Err(Error::invalid("/confirm", "expected the tenant's name, exactly as it is"));
        }
        let workspaces = store.sandbox_list().await?.into_iter().map(|(_, row)| row.sandbox_id).collect::<Vec<_>>();
        // A store keeps the file open, and it is the file that goes.
        drop(store);
        app.agent.without_turns(who.tenant_id(), app.storage.tenant_delete(&who, &input.confirm)).await?;
        app.yard.tenant_end(who.tenant_id(), &workspaces).await;
        Ok(Reply::Nothing)
    })
}
