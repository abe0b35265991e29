//! Tools that run on the server: a config's bundle and its sandbox.

use crate::{
    error::Result,
    http::{
        call::{Reply, Request, TenantCall},
        endpoint::{Answer, Endpoint, Handler},
    },
    ids::ConfigId,
    model::{AgentType, Bundle, List, Order, Reach, Role, SandboxStatus, WorkspaceFiles},
};
use std::sync::Arc;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        KnownFormat, RefOr, SchemaFormat,
        schema::{ObjectBuilder, Schema, Type},
    },
};

const TAG: &str = "Sandboxed tools";

/// The bytes of a zip (or `.mcpb`) or of a gzipped tar archive.
struct Archive;

impl PartialSchema for Archive {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new().schema_type(Type::String).format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary))).into()
    }
}

impl ToSchema for Archive {}

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::new("BundlePut", "PUT", "/api/v1/configs/{id}/bundle", Handler::Tenant(Role::Admin, bundle_put))
            .about(TAG, "Upload the tools of a sandboxed config")
            .describe(
                "A zip, a gzipped tar or an `.mcpb` with a `manifest.json` at its root. It is unpacked by strict rules, tried out in a sandbox without \
                 secrets and network that is thrown away, and stored with what it then said of its tools: that is what models are told and what \
                 arguments are checked against, whatever its process says later. Replaces the bundle before; running tools are stopped.",
            )
            .body_bytes::<Archive>("application/octet-stream", |limits| limits.bundle_bytes_max)
            .waits()
            .answers::<Bundle>(200)
            .errors(&["not_found", "validation_failed", "bundle_refused", "sandbox_unavailable", "overloaded", "tenant_full", "disk_full"]),
        Endpoint::new("BundleGet", "GET", "/api/v1/configs/{id}/bundle", Handler::Tenant(Role::Admin, bundle_get))
            .about(TAG, "What a config's bundle is, and its tools")
            .answers::<Bundle>(200)
            .errors(&["not_found"]),
        Endpoint::new("BundleDelete", "DELETE", "/api/v1/configs/{id}/bundle", Handler::Tenant(Role::Admin, bundle_delete))
            .about(TAG, "Take a config's bundle away")
            .describe("Running tools are stopped. The workspace stays; reset the sandbox to remove it.")
            .answers_raw(204, "")
            .errors(&["not_found"]),
        Endpoint::new("SandboxGet", "GET", "/api/v1/configs/{id}/sandbox", Handler::Tenant(Role::Admin, sandbox_get))
            .about(TAG, "What a config's sandbox is doing")
            .describe("Its state, what keeps it apart from the machine, and the end of its stderr. Asking keeps no sandbox awake.")
            .answers::<SandboxStatus>(200)
            .errors(&["not_found"]),
        Endpoint::new("SandboxStop", "POST", "/api/v1/configs/{id}/sandbox/stop", Handler::Tenant(Role::Admin, sandbox_stop))
            .about(TAG, "Stop a config's sandbox")
            .describe("Its process ends, and a call that runs in it fails. The next call of a tool starts it anew; the workspace stays.")
            .waits()
            .answers_raw(204, "")
            .errors(&["not_found"]),
        Endpoint::new("SandboxFileList", "GET", "/api/v1/configs/{id}/sandbox/files", Handler::Tenant(Role::Admin, file_list))
            .about(TAG, "List the files of a config's workspace")
            .describe("With all that lies in folders, up to `limits.sandbox_files_listed_max`. A sandbox of its own looks; what runs is not disturbed.")
            .query("path", "only what lies below this folder")
            .waits()
            .answers::<WorkspaceFiles>(200)
            .errors(&["conflict", "not_found", "overloaded", "sandbox_unavailable"]),
        Endpoint::new("SandboxFileGet", "GET", "/api/v1/configs/{id}/sandbox/file", Handler::Tenant(Role::Admin, file_get))
            .about(TAG, "Download a file of a config's workspace")
            .describe("Up to `limits.sandbox_file_bytes_max`. Links and pipes are not followed.")
            .query("path", "the file, from the workspace's top")
            .waits()
            .answers_raw(200, "application/octet-stream")
            .errors(&["conflict", "not_found", "overloaded", "sandbox_unavailable", "validation_failed"]),
        Endpoint::new("SandboxEgressList", "GET", "/api/v1/configs/{id}/sandbox/egress", Handler::Tenant(Role::Admin, egress_list))
            .about(TAG, "List what a config's tools asked for over the network")
            .describe(
                "One row a host and outcome, let through or refused, with how often and how many bytes; by when it was first asked for, newest \
                 first. Written down within seconds, and kept when the sandbox ends: what was let through until the config goes or the \
                 tenant's days for logs are over, of what was refused the newest `limits.sandbox_egress_refusals_max`.",
            )
            .paged()
            .answers::<List<Reach>>(200)
            .errors(&["not_found"]),
        Endpoint::new("SandboxReset", "DELETE", "/api/v1/configs/{id}/sandbox", Handler::Tenant(Role::Admin, sandbox_reset))
            .about(TAG, "Remove a config's workspace and all that runs in it")
            .describe("A call that runs in it fails. The next call of a tool begins with an empty workspace.")
            .waits()
            .answers_raw(204, "")
            .errors(&["not_found"]),
    ]
}

fn id(request: &Request) -> Result<ConfigId> {
    request.id("id", "config")
}

fn bundle_put(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let id = id(call.request)?;
        if call.store.config_get(id).await?.body.agent_type != AgentType::Sandboxed {
            return Err(crate::error::Error::invalid("/agent_type", "Only a sandboxed config has a bundle; change its agent_type first."));
        }
        let archive: Arc<[u8]> = Arc::from(&call.request.body[..]);
        Reply::ok(&call.app.yard.bundle_put(&call.who, &call.store, id, archive).await?)
    })
}

fn bundle_get(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move { Reply::ok(&call.app.yard.bundle_get(&call.store, id(call.request)?).await?) })
}

fn bundle_delete(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let id = id(call.request)?;
        call.store.config_get(id).await?;
        call.store.bundle_delete(&call.who, id).await?;
        call.app.yard.stop(call.who.tenant_id(), id).await;
        Ok(Reply::Nothing)
    })
}

fn sandbox_get(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let machine_second = call.app.rates.load().machine_second().to_string();
        Reply::ok(&call.app.yard.status(call.who.tenant_id(), &call.store, id(call.request)?, machine_second).await?)
    })
}

fn sandbox_stop(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let id = id(call.request)?;
        call.store.config_get(id).await?;
        call.app.yard.stop(call.who.tenant_id(), id).await;
        Ok(Reply::Nothing)
    })
}

fn file_list(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let path = call.request.query("path").unwrap_or_default();
        Reply::ok(&call.app.yard.file_list(call.who.tenant_id(), &call.store, id(call.request)?, path).await?)
    })
}

fn file_get(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let id = id(call.request)?;
        call.store.config_get(id).await?;
        let path = call.request.query("path").filter(|path| !path.is_empty());
        let path = path.ok_or_else(|| crate::error::Error::invalid("path", "expected the path of a file"))?;
        let content = call.app.yard.file_read(call.who.tenant_id(), &call.store, id, path).await?;
        let reply = Reply::Page { content_type: "application/octet-stream", body: content.into(), headers: Vec::new() };
        Ok(reply.with_header("content-disposition", attachment(path)))
    })
}

/// Has a browser keep the answer under the path's last name (RFC 6266), whatever stands in it.
fn attachment(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    let plain: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect();
    let kept = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let whole: String = name.bytes().map(|byte| if kept(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect();
    format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{whole}")
}

fn egress_list(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let page = call.request.page(Order::Desc)?;
        Reply::ok(&call.store.egress_list(id(call.request)?, page).await?)
    })
}

fn sandbox_reset(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let id = id(call.request)?;
        call.store.config_get(id).await?;
        call.app.yard.reset(&call.who, &call.store, id).await?;
        Ok(Reply::Nothing)
    })
}
