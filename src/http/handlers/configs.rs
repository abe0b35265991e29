//! Agent configs.

use crate::{
    agent::tools::offer,
    config_check::config_check,
    error::{Error, Result},
    http::{
        call::{Reply, Request, TenantCall},
        endpoint::{Answer, Endpoint, Handler},
    },
    ids::ConfigId,
    model::{AgentType, Config, ConfigBody, ConfigPatch, ConfigVersion, List, Order, Role, duplicate_key},
    storage::Kit,
};
use serde::de::DeserializeOwned;

const TAG: &str = "Configs";

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::new("ConfigList", "GET", "/api/v1/configs", Handler::Tenant(Role::Viewer, config_list))
            .about(TAG, "List the tenant's configs")
            .paged()
            .answers::<List<Config>>(200)
            .errors(&["validation_failed"]),
        Endpoint::new("ConfigCreate", "POST", "/api/v1/configs", Handler::Tenant(Role::Admin, config_create))
            .about(TAG, "Make a config")
            .describe(
                "Prompt variables are `{identifier}`; built in are `{tenant_name}`, `{agent_name}` and `{date}`, others come in `template_vars` \
                 of a chat request. `{{identifier}}` gives a literal `{identifier}`; every other brace is literal. Inference parameters of \
                 `model_config` pass through by an allow-list for each provider's wire. A model that has no published rate is accepted here, but \
                 chatting answers 503 `pricing_unavailable` until it has one.",
            )
            .body::<ConfigBody>()
            .answers::<Config>(201)
            .errors(&["malformed_json", "config_name_taken", "validation_failed", "workspace_image_unsupported", "sandbox_unavailable", "tenant_full"]),
        Endpoint::new("ConfigGet", "GET", "/api/v1/configs/{id}", Handler::Tenant(Role::Viewer, config_get))
            .about(TAG, "Read a config in its newest version")
            .answers::<Config>(200)
            .errors(&["not_found"]),
        Endpoint::new("ConfigReplace", "PUT", "/api/v1/configs/{id}", Handler::Tenant(Role::Admin, config_replace))
            .about(TAG, "Write a config anew")
            .describe("Fields that are left out take their defaults. Makes a new version.")
            .body::<ConfigBody>()
            .answers::<Config>(200)
            .errors(&["malformed_json", "not_found", "config_name_taken", "validation_failed", "workspace_image_unsupported", "sandbox_unavailable", "tenant_full"]),
        Endpoint::new("ConfigUpdate", "PATCH", "/api/v1/configs/{id}", Handler::Tenant(Role::Admin, config_update))
            .about(TAG, "Change some fields of a config")
            .describe(
                "A field that is sent replaces the old value as a whole (`model_config`, `tools_config` and `metadata` too); one that is left \
                 out stays. Makes a new version.",
            )
            .body::<ConfigPatch>()
            .answers::<Config>(200)
            .errors(&["malformed_json", "not_found", "config_name_taken", "validation_failed", "workspace_image_unsupported", "sandbox_unavailable", "tenant_full"]),
        Endpoint::new("ConfigDelete", "DELETE", "/api/v1/configs/{id}", Handler::Tenant(Role::Admin, config_delete))
            .about(TAG, "Delete a config")
            .describe("Its conversations stay readable; chatting on them is 404. Its name is free again.")
            .answers_raw(204, "")
            .errors(&["not_found"]),
        Endpoint::new("ConfigVersions", "GET", "/api/v1/configs/{id}/versions", Handler::Tenant(Role::Viewer, config_versions))
            .about(TAG, "List a config's versions")
            .describe("Every write makes a version; a conversation's messages name the version that answered. Cursors are version numbers.")
            .paged()
            .answers::<List<ConfigVersion>>(200)
            .errors(&["not_found", "validation_failed"]),
    ]
}

/// The path's config.
fn id(request: &Request) -> Result<ConfigId> {
    request.id("id", "config")
}

/// A body in which each key stands once: parameters and schemas have free names, where a repeated one would be lost in silence.
fn body<T: DeserializeOwned>(request: &Request) -> Result<T> {
    let body = request.json()?;
    match duplicate_key(&request.body) {
        Some(pointer) => Err(Error::invalid(pointer, "This key stands twice in its object; send it once.")),
        None => Ok(body),
    }
}

/// Tools that the server runs are those of the config's bundle.
fn tools_check(body: &ConfigBody, kit: Option<&Kit>) -> Result<()> {
    if body.agent_type == AgentType::Sandboxed { offer::check(body, kit) } else { Ok(()) }
}

fn config_list(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let page = call.request.page(Order::Desc)?;
        Reply::ok(&call.store.config_list(page).await?)
    })
}

fn config_create(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let body = ConfigBody { workspace_image_digest: None, ..body(call.request)? };
        config_check(&body, &call.app.config.providers, &call.app.config.limits)?;
        tools_check(&body, None)?;
        let body = call.app.yard.image_pinned(body).await?;
        Reply::created(&call.store.config_create(&call.who, body).await?)
    })
}

fn config_get(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move { Reply::ok(&call.store.config_get(id(call.request)?).await?) })
}

fn config_replace(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let id = id(call.request)?;
        let body = ConfigBody { workspace_image_digest: None, ..body(call.request)? };
        // One that is not there is 404 whatever the body says.
        call.store.config_get(id).await?;
        config_check(&body, &call.app.config.providers, &call.app.config.limits)?;
        tools_check(&body, call.store.kit(id).await?.as_ref())?;
        let body = call.app.yard.image_pinned(body).await?;
        Reply::ok(&call.store.config_replace(&call.who, id, body).await?)
    })
}

fn config_update(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let id = id(call.request)?;
        let patch: ConfigPatch = body(call.request)?;
        let seals = matches!(patch.workspace_secrets, Some(Some(_)));
        let patched_image = patch.workspace_image.clone().flatten();
        let (app, kit) = (call.app.clone(), call.store.kit(id).await?);
        let change = move |old: &ConfigBody| -> Result<ConfigBody> {
            let body = patch.applied(old);
            config_check(&body, &app.config.providers, &app.config.limits)?;
            tools_check(&body, kit.as_ref())?;
            Ok(body)
        };
        // What the engine is asked is asked before the transaction, of the config as it would be now.
        let pinned = match &patched_image {
            Some(_) => call.app.yard.image_pinned(change(&call.store.config_get(id).await?.body)?).await?.workspace_image_digest,
            None => None,
        };
        let change = move |old: &ConfigBody| {
            let body = change(old)?;
            let workspace_image_digest = pinned.clone().or(body.workspace_image_digest);
            Ok(ConfigBody { workspace_image_digest, ..body })
        };
        Reply::ok(&call.store.config_change(&call.who, id, seals, change).await?)
    })
}

fn config_delete(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let id = id(call.request)?;
        call.store.config_delete(&call.who, id).await?;
        // The row is marked: should this fail, whoever comes next removes the workspace.
        call.app.yard.config_end(&call.who, &call.store, id).await?;
        Ok(Reply::Nothing)
    })
}

fn config_versions(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let page = call.request.page(Order::Desc)?;
        Reply::ok(&call.store.config_versions(id(call.request)?, page).await?)
    })
}
