//! Agents: the list, the versions and what differs between them. Their form is `agent_form`'s.

use super::{
    Frame, Heading, Html,
    list::{Head, Listing, Pages, table},
    parts::{badge, empty, icon, time},
};
use crate::model::{AgentType, Config, ConfigBody, ConfigVersion, List, Role};
use maud::{Markup, html};
use similar::{ChangeTag, TextDiff};
use std::{fmt::Write, time::Duration};

const HEADS: [Head; 6] =
    [Head::Words("Name"), Head::Words("Model"), Head::Figures("Tools"), Head::Figures("Version"), Head::Words("Changed"), Head::Actions];

const VERSION_HEADS: [Head; 5] = [Head::Words("Version"), Head::Words("Model"), Head::Words("Written"), Head::Words("By"), Head::Actions];

/// The list.
pub fn list(frame: &Frame, agents: &List<Config>, pages: &Pages) -> Html {
    let may = frame.may(Role::Admin);
    let new = html! { @if may { a.button.primary href="/dashboard/agents/new" { (icon("plus")) "New agent" } } };
    let heading = Heading { actions: new.clone(), ..Heading::new("Agents", "A prompt, a model and tools, each write kept as a version.") };
    let listing = Listing {
        label: "Agents",
        heads: &HEADS,
        rows: agents.data.iter().map(row).collect(),
        nothing: empty(
            "agents",
            "No agents yet",
            "An agent is what your app chats with: its prompt, its model and the tools that it may call.",
            new,
        ),
        all: None,
        pages,
    };
    frame.page(&heading, listing.draw())
}

fn row(agent: &Config) -> Markup {
    let body = &agent.body;
    html! {
        tr {
            td data-label="Name" { a.row-link href={ "/dashboard/agents/" (agent.id) } { (body.name) } }
            td data-label="Model" { code { (body.model_config.provider) "/" (body.model_config.model) } }
            td.num data-label="Tools" { (body.tools_config.len()) }
            td.num data-label="Version" { a href={ "/dashboard/agents/" (agent.id) "/versions" } { "v" (agent.version) } }
            td data-label="Changed" { (time(agent.updated_at, "ago")) }
            td.row-actions { a.button.small href={ "/dashboard/playground/" (agent.id) } { (icon("play")) "Try" } }
        }
    }
}

/// What an agent's pages have in common: the tabs.
pub(super) fn tabs(agent: &Config, here: &str) -> Markup {
    let (id, sandboxed) = (agent.id, agent.body.agent_type == AgentType::Sandboxed);
    let tab = |name: &str, path: String, words: &str| html! { a href=(path) aria-current=[(name == here).then_some("page")] { (words) } };
    html! {
        nav.tabs aria-label="Agent" {
            (tab("edit", format!("/dashboard/agents/{id}"), "Edit"))
            (tab("versions", format!("/dashboard/agents/{id}/versions"), "Versions"))
            @if sandboxed || here == "sandbox" { (tab("sandbox", format!("/dashboard/agents/{id}/sandbox"), "Sandbox")) }
            (tab("try", format!("/dashboard/playground/{id}"), "Playground"))
            (tab("conversations", format!("/dashboard/conversations?config_id={id}"), "Conversations"))
        }
    }
}

/// The versions.
pub fn versions(frame: &Frame, agent: &Config, versions: &List<ConfigVersion>, pages: &Pages) -> Html {
    let heading = Heading {
        crumb: Some(("/dashboard/agents".to_owned(), "Agents".to_owned())),
        ..Heading::new(agent.body.name.clone(), "Every write made a version. Chats use the newest; messages name the one that answered.")
    };
    let content = html! {
        (tabs(agent, "versions"))
        section.card { (table("Versions", &VERSION_HEADS, versions.data.iter().map(|version| version_row(frame, agent, version)))) }
        (pages.draw())
    };
    frame.page(&heading, content)
}

fn version_row(frame: &Frame, agent: &Config, version: &ConfigVersion) -> Markup {
    let id = agent.id.to_string();
    html! {
        tr {
            td data-label="Version" {
                a.row-link href={ "/dashboard/agents/" (id) "/versions/" (version.version) } { "v" (version.version) }
                @if version.version == agent.version { " " (badge("ok", "in force")) }
            }
            td data-label="Model" { code { (version.body.model_config.provider) "/" (version.body.model_config.model) } }
            td data-label="Written" { (time(version.created_at, "short")) }
            td data-label="By" { code { (version.created_by) } }
            td.row-actions { @if version.version != agent.version { (restore(frame, &id, version.version)) } }
        }
    }
}

fn restore(frame: &Frame, id: &str, version: u32) -> Markup {
    html! {
        @if frame.may(Role::Admin) {
            form method="post" action={ "/dashboard/agents/" (id) "/versions/" (version) "/restore" }
                data-confirm={ "Put version " (version) " in force again? It becomes a new version; nothing is lost." } data-confirm-label="Roll back" {
                (frame.token())
                button.button.small { (icon("undo")) "Roll back" }
            }
        }
    }
}

/// One version, and what it changed.
pub fn version(frame: &Frame, agent: &Config, version: &ConfigVersion, before: Option<&ConfigVersion>) -> Html {
    let id = agent.id.to_string();
    let actions = html! { @if version.version != agent.version { (restore(frame, &id, version.version)) } };
    let heading = Heading {
        crumb: Some((format!("/dashboard/agents/{id}/versions"), agent.body.name.clone())),
        actions,
        ..Heading::new(format!("Version {}", version.version), "")
    };
    let old = before.map(|before| plain(&before.body)).unwrap_or_default();
    let new = plain(&version.body);
    let content = html! {
        (tabs(agent, "versions"))
        section.card {
            header.card-head {
                h2 { @match before { Some(before) => { "Since version " (before.version) } None => { "The first version" } } }
                p { (time(version.created_at, "full")) }
            }
            (diff(&old, &new))
        }
    };
    frame.page(&heading, content)
}

/// What a config holds can be written as JSON: it came so.
fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

/// A config as lines that people compare: the prompt as it is written, the rest as JSON.
fn plain(body: &ConfigBody) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "name: {}", body.name);
    let _ = writeln!(text, "model: {}", json(&body.model_config));
    let _ = writeln!(text, "context_policy: {}", json(&body.context_policy));
    let _ = writeln!(text, "agent_type: {}", json(&body.agent_type));
    let _ = writeln!(text, "tools: {}", json(&body.tools_config));
    let _ = writeln!(text, "metadata: {}", json(&body.metadata));
    let _ = writeln!(text, "\n{}", body.system_prompt);
    text
}

/// A comparison that takes longer shows coarser steps.
const DIFF_TIME: Duration = Duration::from_millis(300);

fn diff(old: &str, new: &str) -> Markup {
    let diff = TextDiff::configure().timeout(DIFF_TIME).diff_lines(old, new);
    html! {
        div.diff {
            @for change in diff.iter_all_changes() {
                @let (kind, sign) = match change.tag() {
                    ChangeTag::Equal => ("same", " "),
                    ChangeTag::Delete => ("del", "\u{2212}"),
                    ChangeTag::Insert => ("add", "+"),
                };
                div.diff-line.(kind) { span.diff-sign { (sign) } code { (change.value().trim_end_matches('\n')) } }
            }
        }
    }
}
