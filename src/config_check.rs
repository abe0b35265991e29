//! Whether a config may be stored: every field, every fault at once, each with its JSON pointer. Pure: it knows the server's providers and
//! limits, not what is stored. That a name is free is for storage to say.

mod tool_schema;

pub use tool_schema::{Arguments, check as tool_schema_check};

use crate::{
    bundle::manifest::is_variable,
    config::{Limits, ProviderConfig},
    error::{Error, FieldError, Result},
    model::{AgentType, ConfigBody, Hidden, JsonObject, ModelConfig, ModelRef, ToolEntry, ToolSpec, WorkspaceSecrets},
    provider::params_for_fallback,
};
use std::collections::{BTreeMap, HashSet};

/// The characters of a config's name.
const NAME_CHARS_MAX: usize = 200;
/// The characters of a model's name.
const MODEL_CHARS_MAX: usize = 128;
/// The characters of a tool's name; the limit of every vendor.
const TOOL_NAME_CHARS_MAX: usize = 64;

/// Checks a config against the server's providers and limits.
///
/// [`Error::ValidationFailed`] with all that is wrong. A model without a published rate is accepted: the rate may come before the first call
/// does. Whether an image can be had is for the container engine to say.
pub fn config_check(body: &ConfigBody, providers: &BTreeMap<String, ProviderConfig>, limits: &Limits) -> Result<()> {
    let sandboxed = body.agent_type == AgentType::Sandboxed;
    let mut errors = Faults::default();
    errors.label("/name", &body.name, NAME_CHARS_MAX);
    if body.system_prompt.len() > limits.system_prompt_bytes_max {
        errors.add("/system_prompt", format!("The prompt is longer than {} bytes.", limits.system_prompt_bytes_max));
    }
    if body.workspace_image.is_some() && !sandboxed {
        errors.add("/workspace_image", "Only sandboxed agents have a workspace; leave it out or send null.");
    }
    match &body.workspace_secrets {
        Some(_) if !sandboxed => errors.add("/workspace_secrets", "Only sandboxed agents have a workspace; leave it out or send null."),
        Some(secrets) => secrets_check(&mut errors, secrets, limits),
        None => {}
    }
    models(&mut errors, &body.model_config, providers, limits);
    tools(&mut errors, &body.tools_config, limits);
    errors.0.extend(metadata_check(&body.metadata, limits));
    errors.result()
}

/// What is wrong with a `metadata` object, a config's or a conversation's.
pub fn metadata_check(metadata: &JsonObject, limits: &Limits) -> Vec<FieldError> {
    let mut errors = Faults::default();
    if metadata.len() > limits.metadata_keys_max {
        errors.add("/metadata", format!("There are {} keys; send at most {}.", metadata.len(), limits.metadata_keys_max));
    }
    if json_bytes(metadata) > limits.metadata_bytes_max {
        errors.add("/metadata", format!("The object is longer than {} bytes.", limits.metadata_bytes_max));
    }
    errors.0
}

/// What is wrong with a name or title: 1 to `chars_max` characters, none of them a control character, not all of them blank.
pub fn label_check(pointer: &str, text: &str, chars_max: usize) -> Vec<FieldError> {
    let mut errors = Faults::default();
    errors.label(pointer, text, chars_max);
    errors.0
}

#[derive(Default)]
struct Faults(Vec<FieldError>);

impl Faults {
    fn add(&mut self, pointer: impl Into<String>, message: impl Into<String>) {
        self.0.push(FieldError { pointer: pointer.into(), message: message.into() });
    }

    fn label(&mut self, pointer: &str, text: &str, chars_max: usize) {
        let chars = text.chars().count();
        if chars > chars_max || text.trim().is_empty() {
            self.add(pointer, format!("Expected 1–{chars_max} characters, not all of them blank."));
        } else if text.chars().any(char::is_control) {
            self.add(pointer, "Control characters, line breaks among them, are not allowed here.");
        }
    }

    fn result(self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(Error::ValidationFailed { errors: self.0 }) }
    }
}

fn models(errors: &mut Faults, config: &ModelConfig, providers: &BTreeMap<String, ProviderConfig>, limits: &Limits) {
    let primary = model(errors, "/model_config", &config.provider, &config.model, providers);
    if let Some(primary) = primary {
        errors.0.extend(primary.wire.check_params(&config.params, &primary.extra_params));
    }
    if config.fallbacks.len() > limits.fallbacks_max {
        let message = format!("There are {} fallbacks; send at most {}.", config.fallbacks.len(), limits.fallbacks_max);
        errors.add("/model_config/fallbacks", message);
        return;
    }
    let mut seen = HashSet::from([config.primary()]);
    for (n, fallback) in config.fallbacks.iter().enumerate() {
        let pointer = format!("/model_config/fallbacks/{n}");
        let ModelRef { provider, model: name } = fallback;
        let known = model(errors, &pointer, provider, name, providers);
        if !seen.insert(fallback.clone()) {
            errors.add(&pointer, "This model was named before; a second try of it would not differ from the first.");
        }
        let (Some(primary), Some(known)) = (primary, known) else { continue };
        // What the fallback's wire would be sent is the primary's parameters as far as it knows them; their values must suit it too.
        if primary.wire != known.wire {
            let params = params_for_fallback(&config.params, primary.wire, known.wire, &known.extra_params);
            for error in known.wire.check_params(&params, &known.extra_params) {
                let field = error.pointer.trim_start_matches("/model_config/").to_owned();
                errors.add(&pointer, format!("Does not take {field} as it is set: {}", error.message));
            }
        }
    }
}

/// Checks provider and model names; the provider, if the server has it.
fn model<'a>(
    errors: &mut Faults,
    pointer: &str,
    provider: &str,
    model: &str,
    providers: &'a BTreeMap<String, ProviderConfig>,
) -> Option<&'a ProviderConfig> {
    if model.is_empty() || model.chars().count() > MODEL_CHARS_MAX || model.chars().any(|c| c.is_whitespace() || c.is_control()) {
        let message = format!("Expected the model's name as the provider spells it: 1–{MODEL_CHARS_MAX} characters without spaces.");
        errors.add(format!("{pointer}/model"), message);
    }
    let found = providers.get(provider);
    if found.is_none() {
        let known: Vec<&str> = providers.keys().map(String::as_str).collect();
        errors.add(format!("{pointer}/provider"), format!("This server has no such provider; it has {}.", known.join(", ")));
    }
    found
}

/// Names are environment variables, since that is what they become.
fn secrets_check(errors: &mut Faults, secrets: &WorkspaceSecrets, limits: &Limits) {
    if secrets.0.len() > limits.sandbox_secrets_max {
        errors.add("/workspace_secrets", format!("There are {} secrets; send at most {}.", secrets.0.len(), limits.sandbox_secrets_max));
        return;
    }
    for (name, value) in &secrets.0 {
        let pointer = format!("/workspace_secrets/{name}");
        if !is_variable(name) {
            errors.add(
                &pointer,
                "Expected a name of A-Z, 0-9 and _ that is free for your own use: not PATH, HOME, LD_…, PYTHON… and the like.",
            );
        }
        let Some(value) = value.as_ref().map(Hidden::expose) else { continue };
        if value.is_empty() || value.len() > limits.sandbox_secret_bytes_max || value.contains('\0') {
            errors.add(pointer, format!("Expected 1–{} bytes without NUL.", limits.sandbox_secret_bytes_max));
        }
    }
}

fn tools(errors: &mut Faults, entries: &[ToolEntry], limits: &Limits) {
    if entries.len() > limits.tools_max {
        errors.add("/tools_config", format!("There are {} tools; send at most {}.", entries.len(), limits.tools_max));
        return;
    }
    if json_bytes(&entries) > limits.tools_bytes_max {
        errors.add("/tools_config", format!("All tools together are longer than {} bytes.", limits.tools_bytes_max));
        return;
    }
    let mut names = HashSet::new();
    for (n, entry) in entries.iter().enumerate() {
        let pointer = format!("/tools_config/{n}");
        let ToolSpec { name, parameters, .. } = entry.spec();
        let name_pointer = if matches!(entry, ToolEntry::Name(_)) { pointer.clone() } else { format!("{pointer}/name") };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if name.is_empty() || name.len() > TOOL_NAME_CHARS_MAX || !name.bytes().all(plain) {
            errors.add(&name_pointer, format!("Expected 1–{TOOL_NAME_CHARS_MAX} characters of a-z, A-Z, 0-9, _ and -."));
        }
        if let Some(schema) = parameters {
            errors.0.extend(tool_schema::check(&format!("{pointer}/parameters"), schema, limits));
        }
        if !names.insert(name) {
            errors.add(name_pointer, "Another tool has this name; the model could not tell them apart.");
        }
    }
}

fn json_bytes(value: &impl serde::Serialize) -> usize {
    serde_json::to_vec(value).map_or(usize::MAX, |json| json.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::Wire;
    use serde_json::{Value, json};

    fn providers() -> BTreeMap<String, ProviderConfig> {
        let provider = |name: &str, wire| ProviderConfig {
            name: name.to_owned(),
            wire,
            base_url: String::new(),
            api_key: None,
            api_key_required: false,
            extra_params: Vec::new(),
        };
        [provider("echo", Wire::Echo), provider("anthropic", Wire::Anthropic)].into_iter().map(|p| (p.name.clone(), p)).collect()
    }

    fn body(change: Value) -> ConfigBody {
        let mut body = json!({"name": "Site Editor", "model_config": {"provider": "echo", "model": "echo-1"}});
        for (key, value) in change.as_object().unwrap() {
            body[key] = value.clone();
        }
        serde_json::from_value(body).unwrap()
    }

    /// The pointers of all that is wrong with a config that is fine but for this.
    fn faults(change: Value) -> Vec<String> {
        match config_check(&body(change), &providers(), &Limits::default()) {
            Ok(()) => Vec::new(),
            Err(Error::ValidationFailed { errors }) => errors.into_iter().map(|error| error.pointer).collect(),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn what_the_contract_shows_is_accepted() {
        assert_eq!(
            faults(json!({
                "agent_type": "disembodied",
                "system_prompt": "You edit websites for {tenant_name}. Today is {date}.",
                "model_config": {"provider": "anthropic", "model": "claude-sonnet-4-6", "fallbacks": [{"provider": "echo", "model": "echo-1"}]},
                "tools_config": ["read_file", {"name": "write_file", "description": "Writes.", "parameters":
                    {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}}],
                "workspace_image": null,
                "metadata": {"team": "web"},
            })),
            [""; 0]
        );
    }

    #[test]
    fn every_fault_is_told_at_once() {
        assert_eq!(
            faults(json!({
                "name": " ",
                "system_prompt": "x".repeat(256 * 1024 + 1),
                "workspace_image": "debian",
                "workspace_secrets": {"TOKEN": "x"},
                "model_config": {"provider": "nowhere", "model": "a b", "fallbacks": [{"provider": "gone", "model": ""}]},
                "tools_config": ["read file", "a", {"name": "a"}, {"name": "b", "parameters": {"type": "string"}}],
                "metadata": (0..33).map(|n| (n.to_string(), json!(n))).collect::<JsonObject>(),
            })),
            [
                "/name",
                "/system_prompt",
                "/workspace_image",
                "/workspace_secrets",
                "/model_config/model",
                "/model_config/provider",
                "/model_config/fallbacks/0/model",
                "/model_config/fallbacks/0/provider",
                "/tools_config/0",
                "/tools_config/2/name",
                "/tools_config/3/parameters/type",
                "/metadata",
            ]
        );
    }

    #[test]
    fn an_unknown_provider_is_answered_with_the_known_ones() {
        let error =
            config_check(&body(json!({"model_config": {"provider": "x", "model": "y"}})), &providers(), &Limits::default()).unwrap_err();
        assert!(error.to_string().contains("it has anthropic, echo"), "{error}");
    }

    #[test]
    fn counts_are_bounded() {
        let model = json!({"provider": "echo", "model": "m"});
        let many: Vec<_> = (0..9).map(|n| json!({"provider": "echo", "model": format!("m{n}")})).collect();
        assert_eq!(faults(json!({"model_config": {"provider": "echo", "model": "m", "fallbacks": many}})), ["/model_config/fallbacks"]);
        assert_eq!(
            faults(json!({"model_config": {"provider": "echo", "model": "m", "fallbacks": [model]}})),
            ["/model_config/fallbacks/0"]
        );
        let tools: Vec<_> = (0..129).map(|n| json!(format!("t{n}"))).collect();
        assert_eq!(faults(json!({"tools_config": tools})), ["/tools_config"]);
        assert_eq!(faults(json!({"tools_config": [{"name": "t", "description": "x".repeat(256 * 1024)}]})), ["/tools_config"]);
        assert_eq!(faults(json!({"name": "n".repeat(201)})), ["/name"]);
        assert_eq!(faults(json!({"name": "two\nlines"})), ["/name"]);
    }

    #[test]
    fn an_image_is_for_sandboxed_configs_and_a_secret_has_a_name_of_its_own() {
        assert_eq!(faults(json!({"agent_type": "sandbox-embodied", "workspace_image": "alpine"})), Vec::<String>::new());
        assert_eq!(faults(json!({"agent_type": "sandboxed", "workspace_secrets": {"TOKEN": "x"}})), Vec::<String>::new());
        assert_eq!(faults(json!({"agent_type": "sandboxed", "workspace_secrets": {"LD_PRELOAD": "x"}})), ["/workspace_secrets/LD_PRELOAD"]);
    }
}
