//! The playground: chat with an agent by the very requests that an app sends. `assets/playground.js` sends them and shows what comes.

use super::{
    Frame, Heading, Html,
    parts::{code_box, empty, icon},
};
use crate::{
    model::{Config, Role},
    template::BUILT_IN,
};
use maud::{Markup, html};
use std::fmt::Write;

/// The page: an agent, all agents to choose from, and the server's address as apps reach it.
pub fn page(frame: &Frame, agent: Option<&Config>, agents: &[Config], url: &str) -> Html {
    let Some(agent) = agent else { return nothing(frame) };
    let actions = html! { a.button href={ "/dashboard/agents/" (agent.id) } { (icon("pencil")) "Edit the agent" } };
    let heading = Heading {
        actions,
        ..Heading::new("Playground", "The requests are those of your app: what they cost is charged, and stands in logs and ledger.")
    };
    let content = html! {
        nav.segments aria-label="Agent" {
            @for other in agents {
                a href={ "/dashboard/playground/" (other.id) } aria-current=[(other.id == agent.id).then_some("true")] { (other.body.name) }
            }
        }
        div.split {
            div.stack {
                @if frame.may(Role::Member) { (chat(agent)) } @else {
                    section.card { div.card-body { p { "Chatting needs the role member." } } }
                }
                section.card {
                    header.card-head { h2 { "The same from your app" } p { "With a key of yours in the variable KEY." } }
                    div.card-body.stack { (snippets(agent, url)) }
                }
            }
            aside.stack {
                section.card {
                    header.card-head { h2 { "This conversation" } }
                    div.card-body { dl.facts data-turn-facts {} }
                }
            }
        }
    };
    frame.page(&heading, content)
}

fn nothing(frame: &Frame) -> Html {
    let actions = html! { @if frame.may(Role::Admin) { a.button.primary href="/dashboard/agents/new" { (icon("plus")) "Make an agent" } } };
    let content = empty(
        "playground",
        "There is no agent to talk to yet",
        "Make one first: the model echo costs nothing and needs no vendor.",
        actions,
    );
    frame.page(&Heading::new("Playground", "Chat with an agent by the requests that your app sends."), content)
}

/// The variables that a chat has to bring.
fn variables(agent: &Config) -> Vec<&str> {
    agent.template_variables.iter().map(String::as_str).filter(|name| !BUILT_IN.contains(name)).collect()
}

fn chat(agent: &Config) -> Markup {
    let names = variables(agent);
    let vars = serde_json::to_string(&names).unwrap_or_default();
    html! {
        section.card data-playground data-chat={ "/api/v1/chat/" (agent.id) } data-config=(agent.id) data-name=(agent.body.name) data-vars=(vars) {
            header.card-head { h2 { (agent.body.name) } p { code { (agent.body.model_config.provider) "/" (agent.body.model_config.model) } } }
            div.card-body {
                @if !names.is_empty() {
                    fieldset {
                        legend { "Variables of the prompt" }
                        div.fields {
                            @for name in names {
                                div.field {
                                    label for={ "var-" (name) } { (name) }
                                    input id={ "var-" (name) } data-var=(name) autocomplete="off";
                                }
                            }
                        }
                    }
                }
                ol.transcript data-transcript aria-live="polite" aria-label="The conversation" {}
                form data-composer {
                    div.field {
                        label.sr-only for="message" { "Message" }
                        textarea #message name="message" rows="3" placeholder="Say something" required {}
                        @if agent.body.model_config.provider == "echo" {
                            p.hint { "This is echo, which follows fixed rules: say call TOOL {\"key\": \"value\"} to have it call a tool." }
                        }
                    }
                    div.form-foot {
                        button.button.ghost type="button" data-restart { "New conversation" }
                        button.button type="button" data-stop hidden { "Stop" }
                        button.button.primary data-send { (icon("send")) "Send" }
                    }
                }
                noscript { p.hint { "The playground needs JavaScript. The snippets beside it do not." } }
            }
        }
    }
}

fn snippets(agent: &Config, url: &str) -> Markup {
    let at = format!("{url}/api/v1/chat/{}", agent.id);
    let names = variables(agent);
    let json_vars = |open: &str, close: &str| {
        if names.is_empty() {
            return String::new();
        }
        let pairs: Vec<String> = names.iter().map(|name| format!("\"{name}\": \"…\"")).collect();
        format!(", {open}{{{}}}{close}", pairs.join(", "))
    };
    let vars = json_vars("\"template_vars\": ", "");
    let script_vars = json_vars("template_vars: ", "");
    let curl = format!("curl {at} \\\n  -H \"X-API-Key: $KEY\" \\\n  -d '{{\"message\": \"Hello\"{vars}}}'");
    let mut python = String::from("import json, os, urllib.request\n\n");
    let _ = writeln!(python, "request = urllib.request.Request(\n    \"{at}\",");
    let _ = writeln!(python, "    data=json.dumps({{\"message\": \"Hello\"{vars}}}).encode(),");
    let _ = writeln!(python, "    headers={{\"X-API-Key\": os.environ[\"KEY\"]}},\n)");
    python.push_str("answer = json.load(urllib.request.urlopen(request))\nprint(answer[\"response\"], answer[\"tool_calls\"])");
    let script = format!(
        "const answer = await fetch(\"{at}\", {{\n  method: \"POST\",\n  headers: {{ \"X-API-Key\": process.env.KEY! }},\n  \
         body: JSON.stringify({{ message: \"Hello\"{script_vars} }}),\n}}).then((it) => it.json());\nconsole.log(answer.response, answer.tool_calls);"
    );
    html! {
        (code_box("snippet-curl", "curl", &curl))
        (code_box("snippet-python", "Python", &python))
        (code_box("snippet-ts", "TypeScript", &script))
    }
}
