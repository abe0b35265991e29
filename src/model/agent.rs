//! Agent configs: prompt, model, tools.

use super::{Json, JsonObject, WorkspaceSecrets};
use crate::{clock::Time, ids::*};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, MapAccess, Visitor, value::MapAccessDeserializer},
};
use std::{collections::BTreeMap, fmt};
use utoipa::ToSchema;

/// Where an agent's tools run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AgentType {
    /// The client runs the tools and posts their results.
    #[default]
    #[serde(alias = "disembodied")]
    ClientSide,
    /// The server runs the tools in a sandbox.
    #[serde(alias = "sandbox-embodied")]
    Sandboxed,
}

/// What happens when a conversation outgrows the model's context window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ContextPolicy {
    /// The oldest whole turns are left out of the prompt.
    #[default]
    Truncate,
    /// The oldest turns are summarised by the same model, in a priced and logged call of its own; the full history stays readable.
    Compact,
    /// The turn is refused with 422 `context_too_long`.
    Error,
}

/// A model of a provider.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelRef {
    /// The provider's name in the server's configuration, such as `anthropic`.
    pub provider: String,
    /// The model's name as the provider spells it.
    pub model: String,
}

/// How a model wants to be asked, where that differs between models of one wire. From the rate card; all false or absent is the plain case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ModelFacts {
    /// OpenAI: takes `max_completion_tokens`, and sampling parameters only with reasoning effort `none`, if at all.
    pub reasoning: bool,
    /// OpenAI: function tools need `reasoning_effort` sent as `none`.
    pub tools_effort_none: bool,
    /// OpenAI: Chat Completions takes no function tools at all.
    pub tools_refused: bool,
    /// Refuses any `temperature`, `top_p`, `top_k`.
    pub sampling_refused: bool,
    /// Refuses a `tool_choice` that forces a tool.
    pub forced_tools_refused: bool,
    /// Thinking blocks are valid only behind the very same system prompt, tools and earlier messages.
    pub thinking_bound: bool,
    /// Thinks unless told otherwise.
    pub thinking_default: bool,
    /// How the vendor cuts text into tokens, where that is public.
    pub tokenizer: Option<Tokenizer>,
}

/// A public way to cut text into tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Tokenizer {
    /// OpenAI's, from GPT-4o up to the GPT-5 family.
    #[serde(rename = "o200k_base")]
    O200kBase,
}

/// Which model answers, and how it is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ModelConfig {
    /// The provider's name in the server's configuration, such as `anthropic`.
    pub provider: String,
    /// The model's name as the provider spells it.
    pub model: String,
    /// Tried in order when the one before certainly did not accept the call.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "super::objects::objects")]
    pub fallbacks: Vec<ModelRef>,
    /// Inference parameters, passed through by an allow-list for each wire (`temperature`, `max_tokens`, …).
    #[serde(flatten)]
    #[schema(value_type = Object)]
    pub params: JsonObject,
}

impl ModelConfig {
    /// The model asked first.
    pub fn primary(&self) -> ModelRef {
        ModelRef { provider: self.provider.clone(), model: self.model.clone() }
    }
}

/// A tool that the model may call.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ToolSpec {
    /// 1–64 characters of `a-z A-Z 0-9 _ -`, the set that every vendor takes.
    pub name: String,
    /// What the tool does, for the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// A JSON Schema of the arguments, whose `type` is `object`; none accepts any object.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub parameters: Option<JsonObject>,
}

/// A tool as a config writes it: a bare name, or an object.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum ToolEntry {
    /// A tool with an open object schema.
    Name(String),
    /// A described tool.
    Described(ToolDescribed),
}

/// A tool with a description and a schema.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ToolDescribed {
    /// See [`ToolSpec::name`].
    pub name: String,
    /// See [`ToolSpec::description`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// See [`ToolSpec::parameters`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub parameters: Option<JsonObject>,
}

impl<'de> Deserialize<'de> for ToolEntry {
    /// Written out, because serde's own reading of untagged enums can only say that nothing matched, not which field is wrong.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entry;

        impl<'de> Visitor<'de> for Entry {
            type Value = ToolEntry;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a tool's name, or an object with name, description and parameters")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<ToolEntry, E> {
                Ok(ToolEntry::Name(name.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ToolEntry, A::Error> {
                ToolDescribed::deserialize(MapAccessDeserializer::new(map)).map(ToolEntry::Described)
            }
        }

        deserializer.deserialize_any(Entry)
    }
}

impl ToolEntry {
    /// The tool that this entry means.
    pub fn spec(&self) -> ToolSpec {
        match self {
            Self::Name(name) => ToolSpec { name: name.clone(), description: None, parameters: None },
            Self::Described(tool) => {
                ToolSpec { name: tool.name.clone(), description: tool.description.clone(), parameters: tool.parameters.clone() }
            }
        }
    }
}

/// What a config says, of one version. Stored as one JSON text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigBody {
    /// 1–200 characters, unique in the tenant.
    pub name: String,
    /// Where the tools run.
    #[serde(default)]
    pub agent_type: AgentType,
    /// The system prompt, with `{variables}`.
    #[serde(default)]
    pub system_prompt: String,
    /// Which model answers.
    pub model_config: ModelConfig,
    /// The tools, 128 at most.
    #[serde(default)]
    pub tools_config: Vec<ToolEntry>,
    /// What to do with a conversation that outgrows the window.
    #[serde(default)]
    pub context_policy: ContextPolicy,
    /// Sandboxed only: the container image to run in, one of the operator's list.
    #[serde(default)]
    pub workspace_image: Option<String>,
    /// What that name meant to the container engine when the config was written: this is what runs. Said by the server; what is sent is not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(read_only)]
    pub workspace_image_digest: Option<String>,
    /// Sandboxed only: secrets for the tools, by the names of their environment variables. Written as an object with values, read as a list of
    /// names; a list of names that is written back keeps what is stored under them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace_secrets: Option<WorkspaceSecrets>,
    /// The caller's own remarks.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub metadata: JsonObject,
}

/// What to change of a config. A field that is there replaces the old value as a whole; one that is left out stays.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConfigPatch {
    /// See [`ConfigBody::name`].
    #[serde(deserialize_with = "given")]
    pub name: Option<String>,
    /// See [`ConfigBody::agent_type`].
    #[serde(deserialize_with = "given")]
    pub agent_type: Option<AgentType>,
    /// See [`ConfigBody::system_prompt`].
    #[serde(deserialize_with = "given")]
    pub system_prompt: Option<String>,
    /// See [`ConfigBody::model_config`].
    #[serde(deserialize_with = "given")]
    pub model_config: Option<ModelConfig>,
    /// See [`ConfigBody::tools_config`].
    #[serde(deserialize_with = "given")]
    pub tools_config: Option<Vec<ToolEntry>>,
    /// See [`ConfigBody::context_policy`].
    #[serde(deserialize_with = "given")]
    pub context_policy: Option<ContextPolicy>,
    /// See [`ConfigBody::workspace_image`]; null takes it away.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    pub workspace_image: Option<Option<String>>,
    /// See [`ConfigBody::workspace_secrets`]; null takes them away.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<WorkspaceSecrets>)]
    pub workspace_secrets: Option<Option<WorkspaceSecrets>>,
    /// See [`ConfigBody::metadata`].
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<JsonObject>,
}

/// Tells a field that is null, which is refused where null means nothing, from one that is left out.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl ConfigPatch {
    /// The config with the changes made.
    #[must_use]
    pub fn applied(&self, body: &ConfigBody) -> ConfigBody {
        let Self {
            name,
            agent_type,
            system_prompt,
            model_config,
            tools_config,
            context_policy,
            workspace_image,
            workspace_secrets,
            metadata,
        } = self.clone();
        let old = body.clone();
        // Whoever names an image anew pins it anew.
        let workspace_image_digest = if workspace_image.is_some() { None } else { old.workspace_image_digest };
        ConfigBody {
            name: name.unwrap_or(old.name),
            agent_type: agent_type.unwrap_or(old.agent_type),
            system_prompt: system_prompt.unwrap_or(old.system_prompt),
            model_config: model_config.unwrap_or(old.model_config),
            tools_config: tools_config.unwrap_or(old.tools_config),
            context_policy: context_policy.unwrap_or(old.context_policy),
            workspace_image: workspace_image.unwrap_or(old.workspace_image),
            workspace_image_digest,
            workspace_secrets: workspace_secrets.unwrap_or(old.workspace_secrets),
            metadata: metadata.unwrap_or(old.metadata),
        }
    }
}

/// A config as the API shows it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Config {
    /// The config's id.
    pub id: ConfigId,
    /// The same value, under the name that chat's path uses.
    pub config_id: ConfigId,
    /// Counts the writes, from 1.
    pub version: u32,
    /// What it says.
    #[serde(flatten)]
    pub body: ConfigBody,
    /// The variables that the prompt uses.
    pub template_variables: Vec<String>,
    /// When it was made.
    pub created_at: Time,
    /// When it was last written.
    pub updated_at: Time,
}

/// One version of a config.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ConfigVersion {
    /// Counts the writes, from 1.
    pub version: u32,
    /// What it said.
    #[serde(flatten)]
    pub body: ConfigBody,
    /// Who wrote it.
    pub created_by: UserId,
    /// When.
    pub created_at: Time,
}

/// A value of a template variable.
pub type TemplateVars = BTreeMap<String, Json>;
