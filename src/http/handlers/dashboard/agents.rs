//! Agents: list, form, versions. The form is checked as the API checks a config; while it is being filled in, by a request of its own.

use super::{frame, once::once, pages_of, told};
use crate::{
    config_check::config_check,
    dashboard::{
        Frame, Place,
        agent_form::{self, AgentForm, Fields, ToolFields},
        agents,
    },
    error::{Error, FieldError, Result},
    http::{
        call::{Form, PageCall, Reply, Request, parse_json},
        endpoint::{Answer, Endpoint, Handler},
    },
    ids::ConfigId,
    model::{Config, ConfigBody, ConfigVersion, Order, Page, Role, duplicate_key},
    template::BuiltIns,
};
use std::sync::Arc;

pub(super) fn endpoints() -> Vec<Endpoint> {
    let page = |name, path, role, run| Endpoint::new(name, "GET", path, Handler::Page(role, run));
    let form = |name, path, run| Endpoint::new(name, "POST", path, Handler::Page(Role::Admin, run));
    vec![
        page("AgentsPage", "/dashboard/agents", Role::Viewer, list),
        page("AgentNewPage", "/dashboard/agents/new", Role::Admin, new),
        form("AgentMake", "/dashboard/agents", make),
        form("AgentCheck", "/dashboard/agents/check", check),
        form("AgentFromJson", "/dashboard/agents/from-json", from_json),
        page("AgentToolRow", "/dashboard/agents/tool-row", Role::Admin, tool_row),
        page("AgentPage", "/dashboard/agents/{id}", Role::Viewer, edit),
        form("AgentSave", "/dashboard/agents/{id}", save),
        form("AgentDelete", "/dashboard/agents/{id}/delete", delete),
        page("AgentVersionsPage", "/dashboard/agents/{id}/versions", Role::Viewer, versions),
        page("AgentVersionPage", "/dashboard/agents/{id}/versions/{version}", Role::Viewer, version),
        form("AgentRestore", "/dashboard/agents/{id}/versions/{version}/restore", restore),
    ]
}

fn id(request: &Request) -> Result<ConfigId> {
    request.id("id", "config")
}

fn list(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let agents = call.store.config_list(call.request.page(Order::Desc)?).await?;
        let pages = pages_of(call.request, &agents, "/dashboard/agents");
        Ok(Reply::html(200, agents::list(&frame(&call, Place::Agents).await?, &agents, &pages)))
    })
}

fn new(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move { shown(&call, 200, None, Fields::fresh(), Vec::new()).await })
}

fn edit(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let config = call.store.config_get(id(call.request)?).await?;
        let fields = Fields::of(&config.body);
        shown(&call, 200, Some(config), fields, Vec::new()).await
    })
}

/// The form's page.
async fn shown(call: &PageCall<'_>, status: u16, known: Option<Config>, fields: Fields, errors: Vec<FieldError>) -> Result<Reply> {
    let frame = Frame { scripts: &["editor.js"], ..frame(call, Place::Agents).await? };
    Ok(Reply::html(status, agent_form::page(&frame, &form_of(call, known, fields, errors))))
}

fn form_of(call: &PageCall<'_>, known: Option<Config>, fields: Fields, errors: Vec<FieldError>) -> AgentForm {
    let config = &call.app.config;
    let rates = call.app.rates.load();
    let date = call.app.clock.now().date_in(call.who.time_zone());
    let built_ins = BuiltIns { tenant_name: call.who.tenant_name(), agent_name: &fields.name, date: &date };
    AgentForm {
        known,
        rendered: agent_form::rendered(&fields.system_prompt, &built_ins, config.limits.rendered_prompt_bytes_max),
        providers: config.providers.iter().map(|(name, provider)| (name.clone(), provider.configured())).collect(),
        models: rates.rows().iter().filter(|row| row.name != "*").map(|row| (row.provider.clone(), row.name.clone())).collect(),
        fields,
        errors,
    }
}

fn fields_of(form: &Form) -> Fields {
    let text = |name| form.text(name).to_owned();
    let (names, descriptions, parameters) = (form.all("tool_name"), form.all("tool_description"), form.all("tool_parameters"));
    let at = |list: &[&str], n: usize| list.get(n).copied().unwrap_or_default().to_owned();
    let tool = |n| ToolFields { name: at(&names, n), description: at(&descriptions, n), parameters: at(&parameters, n) };
    Fields {
        name: text("name"),
        system_prompt: text("system_prompt").replace("\r\n", "\n"),
        provider: text("provider"),
        model: text("model"),
        temperature: text("temperature"),
        top_p: text("top_p"),
        max_tokens: text("max_tokens"),
        params: text("params"),
        fallbacks: text("fallbacks"),
        agent_type: text("agent_type"),
        context_policy: text("context_policy"),
        metadata: text("metadata"),
        tools: (0..names.len()).map(tool).collect(),
        rest: text("rest"),
    }
}

/// The config that fields make, if nothing is wrong with it: what the API would say of the same JSON.
fn config_of(call: &PageCall<'_>, fields: &Fields) -> Result<ConfigBody> {
    let (json, mut errors) = fields.json();
    let text = json.to_string();
    let body = match parse_json::<ConfigBody>(text.as_bytes()) {
        Ok(body) => config_check(&body, &call.app.config.providers, &call.app.config.limits)
            .map(|()| ConfigBody { workspace_image_digest: None, ..body }),
        Err(error) => Err(error),
    };
    match body {
        Ok(body) if errors.is_empty() => Ok(body),
        Ok(_) => Err(Error::ValidationFailed { errors }),
        Err(Error::ValidationFailed { errors: more }) => {
            errors.extend(more);
            Err(Error::ValidationFailed { errors })
        }
        Err(error) => Err(error),
    }
}

fn check(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let fields = fields_of(&call.request.form()?);
        let errors = match config_of(&call, &fields) {
            Ok(_) => Vec::new(),
            Err(error) => told(error)?.0,
        };
        Ok(Reply::html(200, agent_form::checked(&form_of(&call, None, fields, errors))))
    })
}

fn from_json(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let form = call.request.form()?;
        let text = form.text("json");
        let object = match serde_json::from_str(text) {
            Ok(serde_json::Value::Object(object)) => object,
            // What is not whole yet changes nothing but what is said of it.
            Ok(_) => return Ok(half(&"Expected a JSON object.")),
            Err(error) => return Ok(half(&format!("This is no JSON yet: {error}."))),
        };
        if let Some(pointer) = duplicate_key(text.as_bytes()) {
            return Ok(half(&format!("{pointer} stands twice in its object.")));
        }
        let fields = Fields::of_json(object);
        let errors = match config_of(&call, &fields) {
            Ok(_) => Vec::new(),
            Err(error) => told(error)?.0,
        };
        Ok(Reply::html(200, agent_form::from_json(&form_of(&call, None, fields, errors))))
    })
}

/// Says what is wrong where that belongs, and leaves the fields alone.
fn half(text: &impl ToString) -> Reply {
    Reply::html(200, agent_form::no_json(&text.to_string()))
        .with_header("hx-retarget", "#agent-check")
        .with_header("hx-reswap", "innerHTML")
}

fn tool_row(_: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move { Ok(Reply::html(200, agent_form::tool_row(&ToolFields::default()))) })
}

fn make(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let fields = fields_of(&call.request.form()?);
        let path = |config: &Config| format!("/dashboard/agents/{}?said=agent-made", config.id);
        let made = match config_of(&call, &fields) {
            Ok(body) => {
                let (yard, store, who) = (Arc::clone(&call.app.yard), call.store.clone(), call.who.clone());
                let making = async move { store.config_create(&who, yard.image_pinned(body).await?).await };
                once(call.app, &call.session, call.request, path, making).await
            }
            Err(error) => Err(error),
        };
        match made {
            Ok(made) => Ok(made.led(path)),
            Err(error) => {
                let (errors, status) = told(error)?;
                shown(&call, status, None, fields, errors).await
            }
        }
    })
}

fn save(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let id = id(call.request)?;
        // One that is not there is 404 whatever the form says.
        let known = call.store.config_get(id).await?;
        let fields = fields_of(&call.request.form()?);
        let saved = match config_of(&call, &fields) {
            Ok(body) => match call.app.yard.image_pinned(body).await {
                Ok(body) => call.store.config_replace(&call.who, id, body).await,
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        match saved {
            Ok(_) => Ok(Reply::see_other(format!("/dashboard/agents/{id}?said=agent-saved"))),
            Err(error) => {
                let (errors, status) = told(error)?;
                shown(&call, status, Some(known), fields, errors).await
            }
        }
    })
}

fn delete(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let id = id(call.request)?;
        call.store.config_delete(&call.who, id).await?;
        // The row is marked: should this fail, the server's next start removes the workspace.
        call.app.yard.config_end(&call.who, &call.store, id).await?;
        Ok(Reply::see_other("/dashboard/agents?said=agent-deleted"))
    })
}

fn versions(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let id = id(call.request)?;
        let agent = call.store.config_get(id).await?;
        let versions = call.store.config_versions(id, call.request.page(Order::Desc)?).await?;
        let pages = pages_of(call.request, &versions, &format!("/dashboard/agents/{id}/versions"));
        let frame = frame(&call, Place::Agents).await?;
        Ok(Reply::html(200, agents::versions(&frame, &agent, &versions, &pages)))
    })
}

/// The path's version, and the one before it.
async fn version_of(call: &PageCall<'_>, id: ConfigId) -> Result<(ConfigVersion, Option<ConfigVersion>)> {
    let text = call.request.path("version");
    let number: u32 = text.parse().ok().filter(|number| *number > 0).ok_or_else(|| Error::not_found("version", text))?;
    let after = number.checked_sub(2).filter(|before| *before > 0).map(|before| before.to_string());
    let page = Page { limit: 2, after, before: None, order: Order::Asc };
    let found = match call.store.config_versions(id, page).await {
        // A cursor that is not there: nor is what would follow it.
        Err(Error::ValidationFailed { .. }) => return Err(Error::not_found("version", text)),
        found => found?.data,
    };
    let at = |wanted: u32| found.iter().find(|version| version.version == wanted).cloned();
    Ok((at(number).ok_or_else(|| Error::not_found("version", text))?, at(number - 1)))
}

fn version(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let id = id(call.request)?;
        let agent = call.store.config_get(id).await?;
        let (version, before) = version_of(&call, id).await?;
        Ok(Reply::html(200, agents::version(&frame(&call, Place::Agents).await?, &agent, &version, before.as_ref())))
    })
}

fn restore(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let id = id(call.request)?;
        call.store.config_get(id).await?;
        let (version, _) = version_of(&call, id).await?;
        config_check(&version.body, &call.app.config.providers, &call.app.config.limits)?;
        let body = call.app.yard.image_pinned(version.body).await?;
        call.store.config_replace(&call.who, id, body).await?;
        Ok(Reply::see_other(format!("/dashboard/agents/{id}?said=agent-restored")))
    })
}
