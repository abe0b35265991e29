//! An agent's form: fields for what most configs say, JSON for the rest, and a view of the whole as JSON that stays in step. The fields are
//! texts as they were typed, so that a mistake comes back as it was made; what they stand for is `agent_fields`'.

pub use super::agent_fields::{Fields, ToolFields};
use super::{
    Frame, Heading, Html,
    agent_fields::{CLIENT_SIDE, SANDBOXED, pretty},
    agents,
    parts::{Line, described, faults, field, icon},
};
use crate::{
    error::FieldError,
    model::{Config, Role},
    template::{self, BuiltIns, Piece},
};
use maud::{Markup, html};
use serde_json::json;

/// The form, and what stands around it.
pub struct AgentForm {
    /// The agent as it is; none for a new one.
    pub known: Option<Config>,
    /// What stands in the fields.
    pub fields: Fields,
    /// What is wrong with them.
    pub errors: Vec<FieldError>,
    /// Providers of this server, and whether they are set up.
    pub providers: Vec<(String, bool)>,
    /// Models of the rate card, as `provider/model`.
    pub models: Vec<(String, String)>,
    /// The prompt as it goes to the model, with stand-ins for what chats bring.
    pub rendered: String,
}

/// Which field an error belongs to.
fn field_of(pointer: &str) -> Option<&'static str> {
    let model = pointer.strip_prefix("/model_config");
    match pointer {
        "/name" => Some("name"),
        "/system_prompt" => Some("system_prompt"),
        "/agent_type" => Some("agent_type"),
        "/context_policy" => Some("context_policy"),
        _ if pointer.starts_with("/metadata") => Some("metadata"),
        _ => match model? {
            "/provider" => Some("provider"),
            "/model" => Some("model"),
            "/temperature" => Some("temperature"),
            "/top_p" => Some("top_p"),
            "/max_tokens" => Some("max_tokens"),
            rest if rest.starts_with("/fallbacks") => Some("fallbacks"),
            _ => Some("params"),
        },
    }
}

const FIELDS: [&str; 12] = [
    "name",
    "system_prompt",
    "provider",
    "model",
    "temperature",
    "top_p",
    "max_tokens",
    "params",
    "fallbacks",
    "agent_type",
    "context_policy",
    "metadata",
];

impl AgentForm {
    fn error(&self, field: &str) -> Option<&str> {
        self.errors.iter().find(|error| field_of(&error.pointer) == Some(field)).map(|error| error.message.as_str())
    }

    fn others(&self) -> Vec<FieldError> {
        self.errors.iter().filter(|error| field_of(&error.pointer).is_none()).cloned().collect()
    }
}

/// The page.
pub fn page(frame: &Frame, form: &AgentForm) -> Html {
    let (title, action) = match &form.known {
        Some(agent) => (form.fields.name.clone(), format!("/dashboard/agents/{}", agent.id)),
        None => ("New agent".to_owned(), "/dashboard/agents".to_owned()),
    };
    let may = frame.may(Role::Admin);
    let lede = match &form.known {
        Some(agent) => format!("Version {}. Saving makes the next one.", agent.version),
        None => "What your app will chat with.".to_owned(),
    };
    let actions = html! {
        @if let Some(Config { id, .. }) = &form.known {
            a.button href={ "/dashboard/playground/" (id) } { (icon("play")) "Try" }
            @if may {
                form method="post" action={ "/dashboard/agents/" (id) "/delete" } data-confirm="Delete this agent? Chats with it answer 404 from now on; its conversations can still be read." data-confirm-label="Delete" {
                    (frame.token())
                    button.button.danger { (icon("trash")) "Delete" }
                }
            }
        }
    };
    let heading = Heading { crumb: Some(("/dashboard/agents".to_owned(), "Agents".to_owned())), actions, ..Heading::new(title, lede) };
    let content = html! {
        @if let Some(agent) = &form.known { (agents::tabs(agent, "edit")) }
        div.split {
            form.form #agent data-editor method="post" action=(action) hx-post="/dashboard/agents/check" hx-trigger="input changed delay:400ms, change"
                hx-target="#agent-check" hx-swap="outerHTML" hx-include="#agent" {
                (frame.token_once())
                (check(form))
                div #agent-fields { (fields(form)) }
                @if may {
                    div.form-foot { button.button.primary { @if form.known.is_some() { "Save as a new version" } @else { "Make the agent" } } }
                } @else {
                    p.hint { "Changing agents needs the role admin." }
                }
            }
            aside.stack {
                section.card {
                    header.card-head { h2 { "Preview" } p { "The prompt with its variables marked, and as the model gets it." } }
                    div.card-body { (preview(form, false)) }
                }
                section.card {
                    header.card-head { h2 { "As JSON" } p { "The same, as the API takes it. What you change here changes the form." } }
                    div.card-body { (json_view(form, false)) }
                }
            }
        }
    };
    frame.page(&heading, content)
}

/// The answer to a form in the making: what is wrong, field by field, the preview and the JSON, each put in its place.
pub fn checked(form: &AgentForm) -> Html {
    html! {
        (check(form))
        @for name in FIELDS {
            p.field-error id={ "error-" (name) } hx-swap-oob="true" { @if let Some(error) = form.error(name) { (error) } }
        }
        (preview(form, true))
        (json_view(form, true))
    }
}

/// The answer to JSON in the making: the form's fields anew, and what is wrong.
pub fn from_json(form: &AgentForm) -> Html {
    html! {
        (fields(form))
        div #agent-check hx-swap-oob="true" { (faults(&form.others())) }
        (preview(form, true))
    }
}

/// The answer to JSON that is none.
pub fn no_json(error: &str) -> Html {
    html! { (faults(&[FieldError { pointer: String::new(), message: error.to_owned() }])) }
}

fn check(form: &AgentForm) -> Markup {
    html! { div #agent-check { (faults(&form.others())) } }
}

fn fields(form: &AgentForm) -> Markup {
    let it = &form.fields;
    let line = |name: &'static str, label: &'static str, hint: &'static str, value: &str| {
        Line { name, label, hint, value, error: form.error(name), required: false, ..Line::PLAIN }.draw()
    };
    let area = |name: &'static str, label: &str, hint: &str, value: &str, rows: u8| {
        let input = html! {
            textarea.code id=(name) name=(name) rows=(rows) spellcheck="false" data-prompt[name == "system_prompt"] aria-describedby=(described(name, hint)) aria-invalid=[form.error(name).map(|_| "true")] { (value) }
        };
        field(name, label, hint, form.error(name), input)
    };
    html! {
        input type="hidden" name="rest" value=(it.rest);
        (Line { name: "name", label: "Name", hint: "Unique in this tenant.", value: &it.name, error: form.error("name"), ..Line::PLAIN }.draw())
        (area("system_prompt", "System prompt", "Variables stand in braces: {tenant_name}, {agent_name} and {date} are there; others come with each chat.", &it.system_prompt, 10))
        div.fields {
            (providers(form))
            (models(form))
        }
        div.fields {
            (line("temperature", "Temperature", "Empty for the model's own.", &it.temperature))
            (line("top_p", "Top p", "Empty for the model's own.", &it.top_p))
            (line("max_tokens", "Output tokens at most", "Empty for the server's default.", &it.max_tokens))
        }
        fieldset {
            legend { "Tools" }
            (where_tools_run(form))
            div #tools { @for tool in &it.tools { (tool_row(tool)) } }
            button.button.small type="button" hx-get="/dashboard/agents/tool-row" hx-trigger="click" hx-target="#tools" hx-swap="beforeend" { (icon("plus")) "Add a tool" }
        }
        details {
            summary { "More" }
            (policies(form))
            (area("params", "Other parameters", "A JSON object of what else the provider's wire takes.", &it.params, 3))
            (area("fallbacks", "Fallbacks", "A JSON list such as [{\"provider\": \"openai\", \"model\": \"gpt-5-mini\"}], tried in order when the model before certainly did not take the call.", &it.fallbacks, 3))
            (area("metadata", "Metadata", "A JSON object of your own remarks.", &it.metadata, 3))
        }
    }
}

fn where_tools_run(form: &AgentForm) -> Markup {
    let choice = |value: &str, words: &str| html! { option value=(value) selected[form.fields.agent_type == value] { (words) } };
    let input = html! {
        select id="agent_type" name="agent_type" aria-describedby=(described("agent_type", "hint")) {
            (choice(CLIENT_SIDE, "In your app"))
            (choice(SANDBOXED, "On this server, in a sandbox"))
        }
    };
    let hint = "The model asks for tools. Your app runs them and posts what they gave; or this server does, from a bundle that you upload once the agent is made.";
    field("agent_type", "Tools run", hint, form.error("agent_type"), input)
}

fn providers(form: &AgentForm) -> Markup {
    let known = form.providers.iter().any(|(name, _)| *name == form.fields.provider);
    let input = html! {
        select id="provider" name="provider" aria-describedby="error-provider" {
            @if !known { option value=(form.fields.provider) selected { (form.fields.provider) } }
            @for (name, configured) in &form.providers {
                option value=(name) selected[*name == form.fields.provider] { (name) @if !configured { " (not set up)" } }
            }
        }
    };
    field("provider", "Provider", "", form.error("provider"), input)
}

fn models(form: &AgentForm) -> Markup {
    let input = html! {
        input id="model" name="model" value=(form.fields.model) list="models" autocomplete="off" aria-describedby="error-model";
        datalist #models { @for (provider, model) in &form.models { option value=(model) { (provider) } } }
    };
    field("model", "Model", "", form.error("model"), input)
}

fn policies(form: &AgentForm) -> Markup {
    let choice = |value: &str, words: &str| html! { option value=(value) selected[form.fields.context_policy == value] { (words) } };
    let input = html! {
        select id="context_policy" name="context_policy" aria-describedby="error-context_policy" {
            (choice("truncate", "Leave the oldest turns out"))
            (choice("compact", "Summarise the oldest turns (a call of its own)"))
            (choice("error", "Refuse the turn"))
        }
    };
    field("context_policy", "When a conversation outgrows the model's window", "", form.error("context_policy"), input)
}

/// A tool's fields.
pub fn tool_row(tool: &ToolFields) -> Html {
    html! {
        fieldset.tool-row {
            div.fields {
                label { "Name " input name="tool_name" value=(tool.name) autocomplete="off" spellcheck="false"; }
                label { "What it does " input name="tool_description" value=(tool.description) autocomplete="off"; }
            }
            label { "Arguments, a JSON Schema " textarea.code name="tool_parameters" rows="3" spellcheck="false" { (tool.parameters) } }
            button.icon-button type="button" data-remove=".tool-row" aria-label="Remove tool" { (icon("trash")) }
        }
    }
}

fn preview(form: &AgentForm, swapped: bool) -> Markup {
    html! {
        div #agent-preview hx-swap-oob=[swapped.then_some("true")] {
            pre.code tabindex="0" aria-label="Prompt with variables marked" {
                code {
                    @for piece in template::pieces(&form.fields.system_prompt) {
                        @match piece {
                            Piece::Text(text) => { (text) }
                            Piece::Variable(name) => { mark.var { "{" (name) "}" } }
                        }
                    }
                }
            }
            h3 { "As the model gets it" }
            pre.code tabindex="0" { code { (form.rendered) } }
        }
    }
}

fn json_view(form: &AgentForm, swapped: bool) -> Markup {
    let text = pretty(&form.fields.json().0);
    html! {
        textarea.code #agent-json name="json" rows="16" spellcheck="false" aria-label="The config as JSON" hx-swap-oob=[swapped.then_some("true")]
            hx-post="/dashboard/agents/from-json" hx-trigger="input changed delay:600ms" hx-target="#agent-fields" { (text) }
    }
}

/// The prompt as the model gets it: values that are known, and stand-ins for those that come with a chat.
pub fn rendered(prompt: &str, built_ins: &BuiltIns<'_>, bytes_max: usize) -> String {
    let stand_ins = template::variables(prompt)
        .into_iter()
        .filter(|name| !template::BUILT_IN.contains(&name.as_str()))
        .map(|name| {
            let value = json!(format!("\u{27e8}{name}\u{27e9}"));
            (name, value)
        })
        .collect();
    template::render(prompt, built_ins, &stand_ins, bytes_max).unwrap_or_else(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_json_is_told_at_its_field_and_kept_as_it_was_typed() {
        let fields =
            Fields { temperature: "warm".into(), metadata: "{".into(), params: "[".into(), fallbacks: "x".into(), ..Fields::fresh() };
        let (_, errors) = fields.json();
        let at: Vec<_> = errors.iter().map(|error| field_of(&error.pointer)).collect();
        assert_eq!(at, [Some("temperature"), Some("params"), Some("fallbacks"), Some("metadata")]);
        assert_eq!(field_of("/tools_config/0/name"), None, "tools' faults stand above the form");
    }
}
