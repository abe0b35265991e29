//! Conversations: the list with its search, and one as a transcript.

use super::{
    Frame, Heading, Html,
    list::{Head, Listing, Pages, choice, filters},
    parts::{Line, badge, count, empty, faults, icon, money, time},
};
use crate::{
    error::FieldError,
    model::{Config, Conversation, ConversationDetail, Json, Member, Message, Role, Speaker, ToolCall},
};
use maud::{Markup, html};

/// What the list was asked for, as it was typed.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// Words that a message has.
    pub q: String,
    /// Of this agent.
    pub config_id: String,
    /// Begun by this user.
    pub user_id: String,
    /// With this in the metadata, as `key=value`.
    pub metadata: String,
    /// Whether anything was asked for.
    pub filtered: bool,
}

/// Who and what conversations belong to, to call them by their names.
pub struct Known {
    /// The tenant's agents.
    pub agents: Vec<Config>,
    /// Its members.
    pub members: Vec<Member>,
}

impl Known {
    fn agent(&self, it: &Conversation) -> Markup {
        let known = self.agents.iter().find(|agent| agent.id == it.config_id);
        html! {
            @match known {
                Some(agent) => { a href={ "/dashboard/agents/" (agent.id) } { (agent.body.name) } }
                None => { "a deleted agent" }
            }
        }
    }

    fn user(&self, it: &Conversation) -> Option<&str> {
        self.members.iter().find(|member| member.user_id == it.user_id).map(|member| member.email.as_str())
    }
}

const HEADS: [Head; 5] =
    [Head::Words("Conversation"), Head::Words("Agent"), Head::Figures("Messages"), Head::Words("State"), Head::Words("Changed")];

/// The list.
pub fn list(frame: &Frame, asked: &Asked, known: &Known, found: &[Conversation], pages: &Pages) -> Html {
    let agents: Vec<_> = known.agents.iter().map(|agent| (agent.id.to_string(), agent.body.name.clone())).collect();
    let users: Vec<_> = known.members.iter().map(|member| (member.user_id.to_string(), member.email.clone())).collect();
    let begin = html! { a.button.primary href="/dashboard/playground" { (icon("play")) "Open the playground" } };
    let fields = html! {
        div.field.grow {
            label for="q" { "Words" }
            input #q name="q" type="search" value=(asked.q) maxlength="200" placeholder="All of these words";
        }
        (choice("config_id", "Agent", "Any agent", &asked.config_id, &agents))
        (choice("user_id", "Begun by", "Anyone", &asked.user_id, &users))
        div.field {
            label for="metadata" { "Metadata" }
            input #metadata name="metadata" value=(asked.metadata) maxlength="400" placeholder="plan=pro" autocomplete="off" spellcheck="false";
        }
    };
    let content = html! {
        (filters("/dashboard/conversations", ("search", "Search"), fields))
        (Listing {
            label: "Conversations",
            heads: &HEADS,
            rows: found.iter().map(|it| row(it, known)).collect(),
            nothing: empty("conversations", "No conversations yet", "They begin when your app, or you in the playground, says something to an agent.", begin),
            all: asked.filtered.then_some("/dashboard/conversations"),
            pages,
        }.draw())
    };
    frame.page(&Heading::new("Conversations", "What was said, with which tools, and what it cost."), content)
}

fn state(it: &Conversation) -> Markup {
    match (it.active_turn_id, it.open_tool_calls.len()) {
        (Some(_), _) => badge("info", "running"),
        (None, 0) => html! { span.muted { "idle" } },
        (None, _) => badge("warn", "waits for tools"),
    }
}

fn row(it: &Conversation, known: &Known) -> Markup {
    html! {
        tr {
            td data-label="Conversation" { a.row-link href={ "/dashboard/conversations/" (it.id) } { (it.title) } }
            td data-label="Agent" { (known.agent(it)) }
            td.num data-label="Messages" { (count(it.message_count)) }
            td data-label="State" { (state(it)) }
            td data-label="Changed" { (time(it.updated_at, "ago")) }
        }
    }
}

/// The paths of the messages around those that are shown.
#[derive(Debug, Clone, Default)]
pub struct Around {
    /// Where the messages before are.
    pub earlier: Option<String>,
    /// Where the messages behind are.
    pub later: Option<String>,
}

impl Around {
    fn span(&self, shown: &[Message], all: u64) -> Markup {
        html! {
            @if let (Some(first), Some(last), true) = (shown.first(), shown.last(), self.earlier.is_some() || self.later.is_some()) {
                p.hint { "Messages " (count(first.seq)) "–" (count(last.seq)) " of " (count(all)) }
            }
        }
    }

    fn step(path: Option<&str>, rel: &str, words: &str) -> Markup {
        html! {
            @if let Some(path) = path {
                nav.pager.middle aria-label=(words) { a.button.small rel=(rel) href=(path) { (icon("history")) (words) } }
            }
        }
    }
}

/// What the title's form was sent with, if it could not be kept.
#[derive(Debug, Clone, Default)]
pub struct Renaming {
    /// What was typed.
    pub title: String,
    /// What is wrong with it.
    pub errors: Vec<FieldError>,
}

/// One conversation.
pub fn detail(frame: &Frame, it: &ConversationDetail, known: &Known, around: &Around, renaming: Option<&Renaming>) -> Html {
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
        lede: html! { (known.agent(conversation)) " · begun " (time(conversation.created_at, "full")) " · " (state(conversation)) },
        actions,
        ..Heading::new(conversation.title.clone(), "")
    };
    let content = html! {
        div.split {
            section {
                (around.span(&it.messages, conversation.message_count))
                (Around::step(around.earlier.as_deref(), "prev", "Earlier messages"))
                ol.transcript { @for message in &it.messages { (turn(message)) } }
                (Around::step(around.later.as_deref(), "next", "Later messages"))
            }
            aside.stack { (facts(frame, conversation, known, renaming)) }
        }
    };
    frame.page(&heading, content)
}

fn facts(frame: &Frame, conversation: &Conversation, known: &Known, renaming: Option<&Renaming>) -> Markup {
    html! {
        section.card {
            header.card-head { h2 { "Facts" } }
            div.card-body {
                dl.facts {
                    div { dt { "Id" } dd { code { (conversation.id) } } }
                    div { dt { "Messages" } dd { (count(conversation.message_count)) } }
                    div { dt { "Logs" } dd { a href={ "/dashboard/logs?conversation_id=" (conversation.id) } { "of this conversation" } } }
                    @if let Some(user) = known.user(conversation) { div { dt { "Begun by" } dd { (user) } } }
                    @if let Some(user) = &conversation.user { div { dt { "End user" } dd { (user) } } }
                }
                @if frame.may(Role::Member) { (rename(frame, conversation, renaming)) }
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

fn rename(frame: &Frame, conversation: &Conversation, renaming: Option<&Renaming>) -> Markup {
    let title = renaming.map_or(conversation.title.as_str(), |it| it.title.as_str());
    let errors = renaming.map_or(&[][..], |it| &it.errors);
    let (own, others): (Vec<_>, Vec<_>) = errors.iter().cloned().partition(|error| error.pointer == "/title");
    html! {
        details.more open[renaming.is_some()] {
            summary { "Rename" }
            form.form method="post" action={ "/dashboard/conversations/" (conversation.id) "/rename" } {
                (frame.token())
                (faults(&others))
                (Line { name: "title", label: "Title", value: title, error: own.first().map(|error| error.message.as_str()), ..Line::PLAIN }.draw())
                div.form-foot { button.button.small { "Save the title" } }
            }
        }
    }
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
                    span { (count(usage.input_total())) " in" }
                    span { (count(usage.output_tokens)) " out" }
                    @if let Some(cost) = message.cost { (money(cost)) }
                    @if let Some(version) = message.config_version { span { "version " (version) } }
                    @if let Some(model) = &message.model { code { (model.provider) "/" (model.model) } }
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
