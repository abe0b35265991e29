//! Copies of sandboxed configs' workspaces: made, listed, downloaded, put back, removed.

use crate::{
    app::App,
    error::{Error, Result},
    http::{
        call::{Reply, Request, TenantCall},
        endpoint::{Answer, Endpoint, Handler},
    },
    ids::{ConfigId, SnapshotId},
    model::{List, Order, Role, Snapshot},
    storage::{Principal, TenantStore},
};
use std::sync::Arc;

const TAG: &str = "Sandboxed tools";
const ALL: &str = "/api/v1/configs/{id}/sandbox/snapshots";
const ONE: &str = "/api/v1/configs/{id}/sandbox/snapshots/{snapshot_id}";

pub(super) fn endpoints() -> Vec<Endpoint> {
    let make_errors = &["conflict", "not_found", "overloaded", "sandbox_unavailable", "tenant_full", "disk_full"];
    vec![
        Endpoint::new("SnapshotList", "GET", ALL, Handler::Tenant(Role::Admin, list))
            .about(TAG, "List the snapshots of a config's workspace")
            .describe("Those that someone asked for, and those that the server made by itself when a sandbox was idle and had changed files.")
            .paged()
            .answers::<List<Snapshot>>(200)
            .errors(&["not_found"]),
        Endpoint::new("SnapshotCreate", "POST", ALL, Handler::Tenant(Role::Admin, create))
            .about(TAG, "Make a snapshot of a config's workspace")
            .describe(
                "All files, folders and links, compressed. Tools may run meanwhile: what they write then is in it as it is read. No secret of the \
                 config is in it, unless a tool wrote one into a file. At most `limits.sandbox_snapshots_max` a workspace, and \
                 `limits.sandbox_snapshots_tenant_bytes_max` a tenant.",
            )
            .waits()
            .answers::<Snapshot>(201)
            .errors(make_errors),
        Endpoint::new("SnapshotGet", "GET", ONE, Handler::Tenant(Role::Admin, get))
            .about(TAG, "What a snapshot is")
            .answers::<Snapshot>(200)
            .errors(&["not_found"]),
        Endpoint::new("SnapshotDownload", "GET", "/api/v1/configs/{id}/sandbox/snapshots/{snapshot_id}/archive", Handler::Tenant(Role::Admin, download))
            .about(TAG, "Download a snapshot")
            .describe("A gzipped tar. What tools wrote is in it as they wrote it: unpack it with care.")
            .answers_raw(200, "application/gzip")
            .errors(&["not_found"]),
        Endpoint::new("SnapshotRestore", "POST", "/api/v1/configs/{id}/sandbox/snapshots/{snapshot_id}/restore", Handler::Tenant(Role::Admin, restore))
            .about(TAG, "Put a snapshot in the place of a config's workspace")
            .describe(
                "The sandbox's process is stopped, and what lies in the workspace now is gone: all of the new workspace is there or all of the old, \
                 whatever happens meanwhile. 409 while a tool runs; calls that come meanwhile wait. A turn that is between two calls goes on with \
                 the restored files.",
            )
            .waits()
            .answers_raw(204, "")
            .errors(&["conflict", "not_found", "overloaded", "sandbox_unavailable", "disk_full"]),
        Endpoint::new("SnapshotDelete", "DELETE", ONE, Handler::Tenant(Role::Admin, delete))
            .about(TAG, "Remove a snapshot")
            .answers_raw(204, "")
            .errors(&["not_found"]),
    ]
}

fn ids(request: &Request) -> Result<(ConfigId, SnapshotId)> {
    Ok((request.id("id", "config")?, request.id("snapshot_id", "snapshot")?))
}

fn list(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let (id, page) = (call.request.id("id", "config")?, call.request.page(Order::Desc)?);
        Reply::ok(&call.app.yard.snapshot_list(call.who.tenant_id(), &call.store, id, &page).await?)
    })
}

fn create(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let id = call.request.id("id", "config")?;
        Reply::created(&call.app.yard.snapshot_make(&call.who, &call.store, &call.app.storage, id).await?)
    })
}

fn get(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let (config, id) = ids(call.request)?;
        Reply::ok(&call.app.yard.snapshot_get(call.who.tenant_id(), &call.store, config, id).await?)
    })
}

fn download(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let (config, id) = ids(call.request)?;
        let (file, size_bytes) = call.app.yard.snapshot_open(call.who.tenant_id(), &call.store, config, id).await?;
        let reply = Reply::File { file, size_bytes, content_type: "application/gzip", held: Box::new(()), headers: Vec::new() };
        Ok(reply.with_header("content-disposition", format!("attachment; filename=\"{id}.tar.gz\"")))
    })
}

fn restore(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let (config, id) = ids(call.request)?;
        put_back(call.app, call.who, call.store, config, id).await?;
        Ok(Reply::Nothing)
    })
}

/// In a task of its own: it goes on when its client goes away.
pub(super) async fn put_back(app: &App, who: Principal, store: TenantStore, config: ConfigId, id: SnapshotId) -> Result<()> {
    let (yard, storage) = (Arc::clone(&app.yard), app.storage.clone());
    let restoring = tokio::spawn(async move { yard.snapshot_restore(&who, &store, &storage, config, id).await });
    restoring.await.map_err(Error::internal)?
}

fn delete(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let (config, id) = ids(call.request)?;
        call.app.yard.snapshot_remove(&call.who, &call.store, config, id).await?;
        Ok(Reply::Nothing)
    })
}
