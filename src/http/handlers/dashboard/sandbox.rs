//! An agent's sandbox. What the page uploads and downloads goes by the API's own routes.

use super::frame;
use crate::{
    dashboard::{
        Frame, Place,
        sandbox::{self, Files, View},
    },
    error::{Error, Result},
    http::{
        call::{PageCall, Reply, Request},
        endpoint::{Answer, Endpoint, Handler},
        handlers::snapshots,
        problem::problem_of,
    },
    ids::{ConfigId, SnapshotId},
    model::{AgentType, Order, Page, Role},
};

pub(super) fn endpoints() -> Vec<Endpoint> {
    let form = |name, path, run| Endpoint::new(name, "POST", path, Handler::Page(Role::Admin, run));
    vec![
        Endpoint::new("SandboxPage", "GET", "/dashboard/agents/{id}/sandbox", Handler::Page(Role::Admin, page)).waits(),
        form("SandboxStopPage", "/dashboard/agents/{id}/sandbox/stop", stop).waits(),
        form("SandboxResetPage", "/dashboard/agents/{id}/sandbox/reset", reset).waits(),
        form("SnapshotCreatePage", "/dashboard/agents/{id}/sandbox/snapshots", snapshot_make).waits(),
        form("SnapshotRestorePage", "/dashboard/agents/{id}/sandbox/snapshots/{snapshot_id}/restore", snapshot_restore).waits(),
        form("SnapshotDeletePage", "/dashboard/agents/{id}/sandbox/snapshots/{snapshot_id}/delete", snapshot_delete),
        form("BundleDeletePage", "/dashboard/agents/{id}/sandbox/bundle/delete", bundle_delete),
    ]
}

fn id(request: &Request) -> Result<ConfigId> {
    request.id("id", "config")
}

/// What can be shown in place of the files is.
async fn files(call: &PageCall<'_>, id: ConfigId) -> Result<Files> {
    match call.app.yard.file_list(call.who.tenant_id(), &call.store, id, "").await {
        Ok(files) => Ok(Files::Listed(files)),
        Err(error @ (Error::SandboxUnavailable { .. } | Error::Conflict { .. } | Error::Overloaded { .. } | Error::NotFound { .. })) => {
            Ok(Files::Refused(problem_of(&error).detail))
        }
        Err(error) => Err(error),
    }
}

fn page(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let (app, id) = (call.app, id(call.request)?);
        let agent = call.store.config_get(id).await?;
        let bundle = match app.yard.bundle_get(&call.store, id).await {
            Ok(bundle) => Some(bundle),
            Err(Error::NotFound { .. }) => None,
            Err(error) => return Err(error),
        };
        let machine_second = app.rates.load().machine_second().to_string();
        let status = app.yard.status(call.who.tenant_id(), &call.store, id, machine_second).await?;
        let wanted = call.request.query("files").is_some() && agent.body.agent_type == AgentType::Sandboxed;
        let files = if wanted { Some(files(&call, id).await?) } else { None };
        let newest = Page::first(Page::LIMIT_MAX, Order::Desc);
        let reached = call.store.egress_list(id, newest.clone()).await?.data;
        let snapshots = app.yard.snapshot_list(call.who.tenant_id(), &call.store, id, &newest).await?.data;
        let frame = Frame { scripts: &["upload.js"], ..frame(&call, Place::Agents).await? };
        let view = View {
            agent: &agent,
            bundle: bundle.as_ref(),
            status: &status,
            files: files.as_ref(),
            snapshots: &snapshots,
            reached: &reached,
            url: &app.config.public_url,
            bundle_bytes_max: app.config.limits.bundle_bytes_max as u64,
        };
        Ok(Reply::html(200, sandbox::page(&frame, &view)))
    })
}

fn back(id: ConfigId, said: &str) -> Reply {
    Reply::see_other(format!("/dashboard/agents/{id}/sandbox?said={said}"))
}

fn stop(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let id = id(call.request)?;
        call.store.config_get(id).await?;
        call.app.yard.stop(call.who.tenant_id(), id).await;
        Ok(back(id, "sandbox-stopped"))
    })
}

fn reset(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let id = id(call.request)?;
        call.store.config_get(id).await?;
        call.app.yard.reset(&call.who, &call.store, id).await?;
        Ok(back(id, "sandbox-reset"))
    })
}

fn snapshot(request: &Request) -> Result<SnapshotId> {
    request.id("snapshot_id", "snapshot")
}

fn snapshot_make(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let id = id(call.request)?;
        call.app.yard.snapshot_make(&call.who, &call.store, &call.app.storage, id).await?;
        Ok(back(id, "snapshot-made"))
    })
}

fn snapshot_restore(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let (id, snapshot) = (id(call.request)?, snapshot(call.request)?);
        snapshots::put_back(call.app, call.who, call.store, id, snapshot).await?;
        Ok(back(id, "snapshot-restored"))
    })
}

fn snapshot_delete(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let (id, snapshot) = (id(call.request)?, snapshot(call.request)?);
        call.app.yard.snapshot_remove(&call.who, &call.store, id, snapshot).await?;
        Ok(back(id, "snapshot-deleted"))
    })
}

fn bundle_delete(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let id = id(call.request)?;
        call.store.config_get(id).await?;
        call.store.bundle_delete(&call.who, id).await?;
        call.app.yard.stop(call.who.tenant_id(), id).await;
        Ok(back(id, "bundle-removed"))
    })
}
