//! Conversations, messages, chat requests and answers.

use super::{Json, JsonObject, ModelRef, TemplateVars, TurnFailure, Usage};
use crate::{clock::Time, ids::*, money::Money};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

/// A model's wish to have a tool run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ToolCall {
    /// The vendor's id, or one of ours where the vendor gives none; unique in the conversation's open calls.
    pub id: String,
    /// Which tool.
    pub name: String,
    /// With what.
    #[schema(value_type = Object)]
    pub arguments: JsonObject,
}

/// A result that a client posts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ToolResultInput {
    /// The call it answers; may be left out when the name alone is unambiguous.
    #[serde(default)]
    pub tool_call_id: Option<String>,
    /// The tool's name.
    #[serde(default)]
    pub name: Option<String>,
    /// A string or any JSON value.
    #[serde(default, alias = "result")]
    pub content: Json,
    /// Whether the tool worked; true by default.
    #[serde(default = "yes")]
    pub ok: bool,
}

fn yes() -> bool {
    true
}

/// A result matched to its call.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolResult {
    /// The call it answers.
    pub tool_call_id: String,
    /// The tool's name.
    pub name: String,
    /// A string or any JSON value.
    pub content: Json,
    /// Whether the tool worked.
    pub ok: bool,
}

impl ToolResult {
    /// The content as the vendors take it: a string as it is, anything else as JSON.
    pub fn text(&self) -> String {
        match &self.content {
            Json::String(text) => text.clone(),
            other => other.to_string(),
        }
    }
}

/// What a request does when another turn runs on its conversation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnBusy {
    /// Wait, then see what the other stored.
    #[default]
    Queue,
    /// 409 `conversation_busy`.
    Reject,
}

/// The body of a chat request: a message, or the results of the open tool calls.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChatInput {
    /// What the user says.
    #[serde(default)]
    pub message: Option<String>,
    /// The results of every open tool call.
    #[serde(default, deserialize_with = "super::objects::objects_opt")]
    pub tool_results: Option<Vec<ToolResultInput>>,
    /// Which conversation goes on; a new one without.
    #[serde(default)]
    pub conversation_id: Option<ConversationId>,
    /// Values for the prompt's variables; they stay with the conversation until replaced.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub template_vars: Option<TemplateVars>,
    /// The caller's own remarks on the conversation; strings to filter by.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<JsonObject>,
    /// Answer with server-sent events.
    #[serde(default)]
    pub stream: bool,
    /// What to do when another turn runs on the conversation.
    #[serde(default)]
    pub on_busy: OnBusy,
    /// Close open tool calls with an error result instead of refusing the message.
    #[serde(default)]
    pub cancel_open_calls: bool,
    /// The caller's own id of its end user.
    #[serde(default)]
    pub user: Option<String>,
}

/// Why the model stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// It had said all.
    Stop,
    /// The output limit was reached.
    Length,
    /// It wants tools run.
    ToolCalls,
    /// The vendor withheld the answer.
    ContentFilter,
    /// The model declined.
    Refusal,
}

impl FinishReason {
    /// The name as it stands in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
            Self::ContentFilter => "content_filter",
            Self::Refusal => "refusal",
        }
    }
}

/// What was left out of the prompt, or shortened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContextReport {
    /// Whole turns, oldest first.
    pub turns_left_out: u32,
    /// The messages in them.
    pub messages_left_out: u32,
    /// Whole turns that stand in the prompt as a summary.
    #[serde(default)]
    pub turns_summarised: u32,
}

/// The answer to a chat request.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ChatAnswer {
    /// What the model said; null when it only calls tools.
    pub response: Option<String>,
    /// The conversation, to go on with.
    pub conversation_id: ConversationId,
    /// The tools to run; their results come back as `tool_results`.
    pub tool_calls: Vec<ToolCall>,
    /// The stored answer's id.
    pub message_id: MessageId,
    /// The turn's id.
    pub turn_id: TurnId,
    /// Why the model stopped.
    pub finish_reason: FinishReason,
    /// Which model answered.
    pub model: ModelRef,
    /// What all steps of the turn used.
    pub usage: Usage,
    /// What was charged for them.
    pub cost: Money,
    /// The tenant's balance afterwards.
    pub balance: Money,
    /// The output limit that was sent, in tokens.
    pub max_tokens_applied: u32,
    /// What was left out of the prompt.
    pub context: ContextReport,
}

/// Who said a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Speaker {
    /// The caller's user.
    User,
    /// The model.
    Assistant,
    /// A tool's result.
    Tool,
}

impl Speaker {
    /// The name as it stands in JSON and in the database.
    pub const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }

    /// The speaker of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::User, Self::Assistant, Self::Tool].into_iter().find(|speaker| speaker.name() == name)
    }
}

/// One message of a conversation.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Message {
    /// The message's id.
    pub id: MessageId,
    /// 1, 2, 3 … in the conversation.
    pub seq: u64,
    /// Who said it.
    pub role: Speaker,
    /// A string; for tools any JSON value; null for an answer of tool calls alone.
    pub content: Json,
    /// Assistant only: the tools it called.
    pub tool_calls: Vec<ToolCall>,
    /// Tool only: the call it answers.
    pub tool_call_id: Option<String>,
    /// Tool only: the tool's name.
    pub name: Option<String>,
    /// Tool only: whether it worked.
    pub ok: Option<bool>,
    /// Assistant only: which model.
    pub model: Option<ModelRef>,
    /// Assistant only: the config's version that asked.
    pub config_version: Option<u32>,
    /// Assistant only: what was used.
    pub usage: Option<Usage>,
    /// Assistant only: what was charged.
    pub cost: Option<Money>,
    /// When it was stored.
    pub created_at: Time,
}

/// A conversation.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Conversation {
    /// The conversation's id.
    pub id: ConversationId,
    /// The config it belongs to.
    pub config_id: ConfigId,
    /// Whose key began it.
    pub user_id: UserId,
    /// Which key began it.
    pub key_id: KeyId,
    /// The caller's own id of its end user.
    pub user: Option<String>,
    /// The first message's beginning, until changed.
    pub title: String,
    /// The caller's own remarks.
    #[schema(value_type = Object)]
    pub metadata: JsonObject,
    /// Messages so far.
    pub message_count: u64,
    /// The tool calls that wait for results.
    pub open_tool_calls: Vec<ToolCall>,
    /// The turn that runs now, to follow or cancel.
    pub active_turn_id: Option<TurnId>,
    /// When it was begun.
    pub created_at: Time,
    /// When a message was last stored or a property changed.
    pub updated_at: Time,
}

/// A conversation with its newest messages.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ConversationDetail {
    /// The conversation.
    #[serde(flatten)]
    pub conversation: Conversation,
    /// The newest 100 messages, oldest first.
    pub messages: Vec<Message>,
}

/// What to change of a conversation. What is left out, or null, stays.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConversationPatch {
    /// 1–200 characters.
    pub title: Option<String>,
    /// In place of the old metadata.
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<JsonObject>,
}

/// A vendor's answer as it came, so that history replays exactly on the same wire and model.
#[derive(Debug, Clone, PartialEq)]
pub struct RawAnswer {
    /// Which model gave it.
    pub model: ModelRef,
    /// The assistant message in the wire's own form.
    pub json: Json,
    /// The length of `json` as text.
    pub bytes: usize,
}

impl RawAnswer {
    /// Of a vendor's answer that has just come.
    pub fn new(model: ModelRef, json: Json) -> Self {
        let bytes = json.to_string().len();
        Self { model, json, bytes }
    }
}

/// A message as it is kept for replay.
#[derive(Debug, Clone)]
pub struct StoredMessage {
    /// The message.
    pub message: Message,
    /// The turn that stored it.
    pub turn_id: TurnId,
    /// Assistant only: as the vendor gave it.
    pub raw: Option<Arc<RawAnswer>>,
    /// Assistant only: what stood before it when the vendor gave it; see `agent::prompt`.
    pub prefix_hash: Option<String>,
    /// Assistant only: why the model stopped.
    pub finish: Option<FinishReason>,
}

/// How a turn ended, kept for the copies of its request that carry the same idempotency key.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TurnOutcome {
    /// With an answer.
    Answered(Box<ChatAnswer>),
    /// Without one.
    Failed(TurnFailure),
}

/// What an answer says beside its message: kept with the turn, so that the answer can be given again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TurnReport {
    /// The balance afterwards.
    pub balance: Money,
    /// What all its steps used.
    pub usage: Usage,
    /// What all its steps cost.
    pub cost: Money,
    /// The output limit that was sent, in tokens.
    pub max_tokens_applied: u32,
    /// What was left out of the prompt.
    pub context: ContextReport,
}

/// What stands for the oldest turns of a conversation in its prompts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// What was said, in short.
    pub text: String,
    /// The last message that it stands for.
    pub until_seq: u64,
    /// How many turns it stands for.
    pub turns: u32,
}
