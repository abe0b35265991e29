//! Conversations: the list with its search, and one as a transcript.

use super::{
    Frame, Heading, Html,
    parts::{badge, count, empty, icon, money, pager, time},
};
use crate::model::{Config, Conversation, ConversationDetail, Json, List, Message, Role, Speaker, ToolCall};
use maud::{Markup, html};

/// What the list was asked for.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// Words that a message has.
    pub q: String,
    /// Of this agent.
    pub config_id: String,
    /// Whether anything was asked for.
    pub filtered: bool,
}

/// The list.
pub fn list(frame: &Frame, asked: &Asked, agents: &[Config], found: &List<Conversation>, newer: Option<&str>, older: Option<&str>) -> Html {
    let content = html! {
        form.filters role="search" method="get" action="/dashboard/conversations" {
            div.field {
                label for="q" { "Words" }
                input #q name="q" type="search" value=(asked.q) maxlength="200" placeholder="All of these words";
            }
            div.field {
                label for="config_id" { "Agent" }
                select #config_id name="config_id" {
                    option value="" { "Any agent" }
                    @for agent in agents {
                        @let id = agent.id.to_string();
                        option value=(id) selected[id == asked.config_id] { (agent.body.name) }
                    }
                }
            }
            button.button { (icon("search")) "Search" }
        }
        @if found.data.is_empty() {
            @if asked.filtered {
                (empty("search", "Nothing found", "No conversation has all of these words, of this agent.", html! { a.button href="/dashboard/conversations" { "Show all" } }))
            } @else {
                (empty("conversations", "No conversations yet", "They begin when your app, or you in the playground, says something to an agent.", html! { a.button.primary href="/dashboard/playground" { (icon("play")) "Open the playground" } }))
            }
        } @else {
            section.card {
                div.table-wrap tabindex="0" role="region" aria-label="Conversations" {
                    table.table.stacked {
                        thead { tr { th { "Conversation" } th { "Agent" } th { "Messages" } th { "State" } th { "Changed" } } }
                        tbody { @for it in &found.data { (row(it, agents)) } }
                    }
                }
            }
            (pager(newer, older))
        }
    };
    frame.page(&Heading::new("Conversations", "What was said, with which tools, and what it cost."), content)
}

fn state(it: &Conversation) -> Markup {
    match (it.active_turn_id, it.open_tool_calls.len()) {
        (Some(_), _) => badge("info", "running"),
        (None, 0) => badge("quiet", "idle"),
        (None, _) => badge("warn", "waits for tools"),
    }
}

fn agent_name(it: &Conversation, agents: &[Config]) -> Markup {
    let known = agents.iter().find(|agent| agent.id == it.config_id);
    html! {
        @match known {
            Some(agent) => { a href={ "/dashboard/agents/" (agent.id) } { (agent.body.name) } }
            None => { "a deleted agent" }
        }
    }
}

fn row(it: &Conversation, agents: &[Config]) -> Markup {
    html! {
        tr {
            td data-label="Conversation" { a.row-link href={ "/dashboard/conversations/" (it.id) } { (it.title) } }
            td data-label="Agent" { (agent_name(it, agents)) }
            td.num data-label="Messages" { (count(it.message_count)) }
            td data-label="State" { (state(it)) }
            td data-label="Changed" { (time(it.updated_at, "ago")) }
        }
    }
}

/// One conversation. `older` is the path of the messages before those that are shown.
pub fn detail(frame: &Frame, it: &ConversationDetail, agents: &[Config], older: Option<&str>) -> Html {
    let conversation = &it.conversation;
    let actions = html! {
        a.button href={ "/dashboard/conversations/" (conversation.id) "/export" } download { (icon("download")) "JSON" }
        @if frame.may(Role::Member) {
            form method="post" action={ "/dashboard/conversations/" (conversation.id) "/delete" } data-confirm="Delete this conversation? Logs and ledger keep their rows, without what was said." data-confirm-label="Delete" {
                (frame.token())
                button.button.danger { (icon("trash")) "Delete" }
            }
        }
    };
    let heading = Heading {
        crumb: Some(("/dashboard/conversations".to_owned(), "Conversations".to_owned())),
        lede: html! { (agent_name(conversation, agents)) " · begun " (time(conversation.created_at, "full")) " · " (state(conversation)) },
        actions,
        ..Heading::new(conversation.title.clone(), "")
    };
    let content = html! {
        div.split {
            section {
                (pager(older, None))
                ol.transcript { @for message in &it.messages { (turn(message)) } }
            }
            aside.stack {
                section.card {
                    header.card-head { h2 { "Facts" } }
                    div.card-body {
                        dl.facts {
                            div { dt { "Id" } dd { code { (conversation.id) } } }
                            div { dt { "Messages" } dd { (count(conversation.message_count)) } }
                            div { dt { "Logs" } dd { a href={ "/dashboard/logs?conversation_id=" (conversation.id) } { "of this conversation" } } }
                            @if let Some(user) = &conversation.user { div { dt { "End user" } dd { (user) } } }
                        }
                    }
                }
                @if !conversation.metadata.is_empty() {
                    section.card {
                        header.card-head { h2 { "Metadata" } }
                        div.card-body { pre.code tabindex="0" { code { (pretty(&Json::Object(conversation.metadata.clone()))) } } }
                    }
                }
            }
        }
    };
    frame.page(&heading, content)
}

fn turn(message: &Message) -> Markup {
    let who = match message.role {
        Speaker::User => "User",
        Speaker::Assistant => "Assistant",
        Speaker::Tool => "Tool",
    };
    html! {
        li.turn.(message.role.name()) {
            div.turn-head { span.turn-who { (who) } (time(message.created_at, "short")) }
            @if message.role == Speaker::Tool {
                (result(message))
            } @else if !message.content.is_null() {
                div.turn-body { (words(&message.content)) }
            }
            @for call in &message.tool_calls { (tool_call(call)) }
            @if let Some(usage) = &message.usage {
                div.turn-foot {
                    (count(usage.input_total())) " in · " (count(usage.output_tokens)) " out"
                    @if let Some(cost) = message.cost { " · " (money(cost)) }
                    @if let Some(version) = message.config_version { " · v" (version) }
                    @if let Some(model) = &message.model { " · " (model.provider) "/" (model.model) }
                }
            }
        }
    }
}

fn words(content: &Json) -> String {
    match content {
        Json::String(text) => text.clone(),
        other => pretty(other),
    }
}

fn tool_call(call: &ToolCall) -> Markup {
    html! {
        details.tool {
            summary { (icon("tool")) code { (call.name) } span.tool-state { (badge("quiet", "called")) } }
            div.tool-part { h4 { "Arguments" } pre.code tabindex="0" { code { (pretty(&Json::Object(call.arguments.clone()))) } } }
        }
    }
}

fn result(message: &Message) -> Markup {
    let ok = message.ok != Some(false);
    html! {
        details.tool {
            summary {
                (icon("tool"))
                code { (message.name.as_deref().unwrap_or("tool")) }
                span.tool-state { (badge(if ok { "ok" } else { "bad" }, if ok { "answered" } else { "failed" })) }
            }
            div.tool-part { h4 { "Result" } pre.code tabindex="0" { code { (words(&message.content)) } } }
        }
    }
}

fn pretty(value: &Json) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}
