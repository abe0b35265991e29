//! The fields of an agent's form, as texts, and the config as JSON that they stand for: each made of the other.

use crate::{
    error::FieldError,
    model::{ConfigBody, Json, JsonObject},
};
use serde_json::{Value, json};

/// A tool's fields.
#[derive(Debug, Clone, Default)]
pub struct ToolFields {
    /// Its name.
    pub name: String,
    /// What it does.
    pub description: String,
    /// Its schema, as JSON; empty for any object.
    pub parameters: String,
}

/// All fields.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs, reason = "they are the config's own")]
pub struct Fields {
    pub name: String,
    pub system_prompt: String,
    pub provider: String,
    pub model: String,
    pub temperature: String,
    pub top_p: String,
    pub max_tokens: String,
    /// The other parameters, a JSON object.
    pub params: String,
    /// A JSON list of models.
    pub fallbacks: String,
    /// Where tools run.
    pub agent_type: String,
    pub context_policy: String,
    pub metadata: String,
    pub tools: Vec<ToolFields>,
    /// What of the config has no field here, a JSON object: it goes along untouched.
    pub rest: String,
}

pub(super) const CLIENT_SIDE: &str = "client-side";
pub(super) const SANDBOXED: &str = "sandboxed";

/// Parameters with a field of their own.
const PARAMS: [&str; 3] = ["temperature", "top_p", "max_tokens"];

impl Fields {
    /// Those of a new agent: the model that needs nothing.
    pub fn fresh() -> Self {
        Self {
            provider: "echo".to_owned(),
            model: "echo".to_owned(),
            system_prompt: "You help the customers of {tenant_name}. Today is {date}.".to_owned(),
            agent_type: CLIENT_SIDE.to_owned(),
            context_policy: "truncate".to_owned(),
            ..Self::default()
        }
    }

    /// Those of a config.
    pub fn of(body: &ConfigBody) -> Self {
        match serde_json::to_value(body) {
            Ok(Value::Object(object)) => Self::of_json(object),
            _ => Self::default(),
        }
    }

    /// Those of a config as JSON, whatever is wrong with it.
    pub fn of_json(mut object: JsonObject) -> Self {
        let mut model = match object.shift_remove("model_config") {
            Some(Value::Object(model)) => model,
            _ => JsonObject::new(),
        };
        let fallbacks = model.shift_remove("fallbacks");
        let metadata = object.shift_remove("metadata");
        let tools = match object.shift_remove("tools_config") {
            Some(Value::Array(tools)) => tools.iter().map(tool_fields).collect(),
            _ => Vec::new(),
        };
        Self {
            name: text(object.shift_remove("name")),
            system_prompt: text(object.shift_remove("system_prompt")),
            agent_type: text(object.shift_remove("agent_type")),
            context_policy: text(object.shift_remove("context_policy")),
            provider: text(model.shift_remove("provider")),
            model: text(model.shift_remove("model")),
            temperature: text(model.shift_remove("temperature")),
            top_p: text(model.shift_remove("top_p")),
            max_tokens: text(model.shift_remove("max_tokens")),
            params: object_text(model),
            fallbacks: fallbacks.map(|list| pretty(&list)).unwrap_or_default(),
            metadata: match metadata {
                Some(Value::Object(object)) => object_text(object),
                _ => String::new(),
            },
            tools,
            rest: object_text(object),
        }
    }

    /// The config as the API takes it, and what is no JSON where JSON belongs.
    pub fn json(&self) -> (Json, Vec<FieldError>) {
        let mut errors = Vec::new();
        let mut part = |pointer: String, text: &str, expected: &str| -> Option<Json> {
            if text.trim().is_empty() {
                return None;
            }
            match serde_json::from_str::<Json>(text) {
                Ok(value) => Some(value),
                Err(error) => {
                    errors.push(FieldError { pointer, message: format!("Expected {expected}; as it stands it is no JSON: {error}.") });
                    None
                }
            }
        };
        let mut model = JsonObject::new();
        model.insert("provider".into(), json!(self.provider.trim()));
        model.insert("model".into(), json!(self.model.trim()));
        for (name, text) in PARAMS.iter().zip([&self.temperature, &self.top_p, &self.max_tokens]) {
            if let Some(value) = part(format!("/model_config/{name}"), text, "a number") {
                model.insert((*name).to_owned(), value);
            }
        }
        if let Some(Value::Object(params)) = part("/model_config/params".to_owned(), &self.params, "a JSON object") {
            model.extend(params);
        }
        if let Some(list) = part("/model_config/fallbacks".to_owned(), &self.fallbacks, "a JSON list") {
            model.insert("fallbacks".into(), list);
        }
        let tool = |(n, tool): (usize, &ToolFields)| {
            let mut object = JsonObject::new();
            object.insert("name".into(), json!(tool.name.trim()));
            if !tool.description.trim().is_empty() {
                object.insert("description".into(), json!(tool.description));
            }
            if let Some(parameters) = part(format!("/tools_config/{n}/parameters"), &tool.parameters, "a JSON Schema") {
                object.insert("parameters".into(), parameters);
            }
            Value::Object(object)
        };
        let tools: Vec<Json> = self.tools.iter().filter(|tool| !tool.is_blank()).enumerate().map(tool).collect();
        let metadata = part("/metadata".to_owned(), &self.metadata, "a JSON object").unwrap_or_else(|| json!({}));
        let mut object = JsonObject::new();
        object.insert("name".into(), json!(self.name));
        object.insert("system_prompt".into(), json!(self.system_prompt.replace("\r\n", "\n")));
        object.insert("model_config".into(), Value::Object(model));
        object.insert("tools_config".into(), Value::Array(tools));
        if !self.agent_type.is_empty() {
            object.insert("agent_type".into(), json!(self.agent_type));
        }
        if !self.context_policy.is_empty() {
            object.insert("context_policy".into(), json!(self.context_policy));
        }
        object.insert("metadata".into(), metadata);
        if let Ok(Value::Object(rest)) = serde_json::from_str::<Json>(&self.rest) {
            object.extend(rest);
        }
        (Value::Object(object), errors)
    }
}

impl ToolFields {
    fn is_blank(&self) -> bool {
        [&self.name, &self.description, &self.parameters].iter().all(|text| text.trim().is_empty())
    }
}

fn tool_fields(tool: &Json) -> ToolFields {
    match tool {
        Value::String(name) => ToolFields { name: name.clone(), ..ToolFields::default() },
        tool => ToolFields {
            name: text(tool.get("name").cloned()),
            description: text(tool.get("description").cloned()),
            parameters: tool.get("parameters").map(pretty).unwrap_or_default(),
        },
    }
}

fn text(value: Option<Json>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text,
        Some(other) => other.to_string(),
    }
}

fn object_text(object: JsonObject) -> String {
    if object.is_empty() { String::new() } else { pretty(&Value::Object(object)) }
}

pub(super) fn pretty(value: &Json) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_comes_back_from_its_fields_as_it_was() {
        let config = json!({
            "name": "Site Editor", "agent_type": "client-side", "system_prompt": "You edit\n{tenant_name}'s <b>site</b>.",
            "model_config": {"provider": "anthropic", "model": "claude-sonnet-4-6", "fallbacks": [{"provider": "echo", "model": "echo"}], "temperature": 0.2, "max_tokens": 800, "stop_sequences": ["x"]},
            "tools_config": [{"name": "read_file", "description": "Reads.", "parameters": {"type": "object"}}, {"name": "ls"}],
            "context_policy": "compact", "workspace_image": null, "metadata": {"team": "web"},
        });
        let body: ConfigBody = serde_json::from_value(config).unwrap();
        let (json, errors) = Fields::of(&body).json();
        assert_eq!(errors, []);
        assert_eq!(serde_json::from_value::<ConfigBody>(json).unwrap(), body);
    }
}
