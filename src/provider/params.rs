//! Inference parameters: which ones a tenant may set on each wire, and of what type and range. Everything else is refused, since a field that
//! redirects the call, leaks the operator's key or changes the price would break the promise on money. Pure.

use super::{
    Wire,
    rule::{Field, Rule},
};
use crate::{
    error::FieldError,
    model::{Json, JsonObject},
};
use Rule::{Bool, Free, Int, Map, Num, Object, OneOf, Text, TextOrList, Word};
use serde_json::json;

/// The fields that limit the output, in tokens, whatever the wire calls them; each wire's codec sends its own.
const OUTPUT_LIMITS: [&str; 3] = ["max_tokens", "max_completion_tokens", "num_predict"];
/// 2³¹ − 1: some vendors read limits and seeds as 32-bit numbers.
const INT_MAX: i64 = i32::MAX as i64;

/// A field that may be left out.
const fn may(name: &'static str, rule: Rule) -> Field {
    Field { name, rule, required: false }
}

/// A field that must be there.
const fn must(name: &'static str, rule: Rule) -> Field {
    Field { name, rule, required: true }
}

const EFFORTS: Rule = Word(&["none", "minimal", "low", "medium", "high", "xhigh", "max"]);
/// Four sequences at most is OpenAI's rule; the longest useful one is far below this many bytes.
const STOP: Rule = TextOrList { items_max: 16, bytes_max: 256 };

/// <https://platform.claude.com/docs/en/api/messages>. Not here, since they change the price, the place or the parties of a call: `service_tier`,
/// `speed`, `inference_geo`, `container`, `context_management`, `mcp_servers`, `betas`, a cache lifetime.
const ANTHROPIC: &[Field] = &[
    may("temperature", Num(0.0, 1.0)),
    may("top_p", Num(0.0, 1.0)),
    may("top_k", Int(0, INT_MAX)),
    may("stop", STOP),
    may("stop_sequences", Rule::TextList { items_max: 16, bytes_max: 256 }),
    may("parallel_tool_calls", Bool),
    may(
        "tool_choice",
        Object(&[must("type", Word(&["auto", "any", "tool", "none"])), may("name", Text(128)), may("disable_parallel_tool_use", Bool)]),
    ),
    may(
        "thinking",
        Object(&[
            must("type", Word(&["enabled", "adaptive", "disabled", "between_tools"])),
            may("budget_tokens", Int(1_024, INT_MAX)),
            may("display", Word(&["summarized", "omitted"])),
        ]),
    ),
    may(
        "output_config",
        Object(&[
            may("effort", Word(&["low", "medium", "high", "xhigh", "max"])),
            may("format", Object(&[must("type", Word(&["json_schema"])), must("schema", Free)])),
        ]),
    ),
    may("metadata", Object(&[may("user_id", Text(256))])),
    // Only the default lifetime: the rate card prices that one.
    may("cache_control", Object(&[must("type", Word(&["ephemeral"]))])),
];

/// <https://platform.openai.com/docs/api-reference/chat/create>, and the few fields of DeepSeek and Moonshot. Not here, since they change the price or
/// the parties of a call, or bring what we do not hand on: `n`, `service_tier`, `store`, `prediction`, `web_search_options`, `modalities`, `audio`,
/// `prompt_cache_retention`, `logprobs`, `functions`.
const OPENAI: &[Field] = &[
    may("temperature", Num(0.0, 2.0)),
    may("top_p", Num(0.0, 1.0)),
    may("stop", STOP),
    may("seed", Int(-INT_MAX, INT_MAX)),
    may("presence_penalty", Num(-2.0, 2.0)),
    may("frequency_penalty", Num(-2.0, 2.0)),
    may("logit_bias", Map(-100.0, 100.0)),
    may("parallel_tool_calls", Bool),
    may(
        "tool_choice",
        OneOf(&[
            Word(&["auto", "none", "required"]),
            Object(&[must("type", Word(&["function"])), must("function", Object(&[must("name", Text(64))]))]),
        ]),
    ),
    may(
        "response_format",
        Object(&[
            must("type", Word(&["text", "json_object", "json_schema"])),
            may(
                "json_schema",
                Object(&[must("name", Text(64)), may("description", Text(1_024)), must("schema", Free), may("strict", Bool)]),
            ),
        ]),
    ),
    may("reasoning_effort", EFFORTS),
    may("verbosity", Word(&["low", "medium", "high"])),
    may("thinking", Object(&[must("type", Word(&["enabled", "disabled"]))])),
    // Open models' servers (vLLM, llama.cpp) take these; they are not sent to OpenAI, which refuses them.
    may("top_k", Int(-1, INT_MAX)),
    may("min_p", Num(0.0, 1.0)),
    may("repetition_penalty", Num(0.0, 10.0)),
    may("user", Text(256)),
    may("safety_identifier", Text(256)),
    may("prompt_cache_key", Text(256)),
];

/// <https://docs.ollama.com/modelfile#valid-parameters-and-values>; all but `format` and `think` go into the request's `options`. Not here, since they
/// load or change the operator's machine: `num_gpu`, `num_thread`, `num_batch`, `keep_alive`.
const OLLAMA: &[Field] = &[
    may("temperature", Num(0.0, 2.0)),
    may("top_p", Num(0.0, 1.0)),
    may("top_k", Int(0, INT_MAX)),
    may("min_p", Num(0.0, 1.0)),
    may("typical_p", Num(0.0, 1.0)),
    may("seed", Int(-INT_MAX, INT_MAX)),
    may("stop", STOP),
    may("repeat_penalty", Num(0.0, 10.0)),
    may("repeat_last_n", Int(-1, INT_MAX)),
    may("presence_penalty", Num(-2.0, 2.0)),
    may("frequency_penalty", Num(-2.0, 2.0)),
    // The codec never asks for more than the rate card's window.
    may("num_ctx", Int(1, INT_MAX)),
    may("think", OneOf(&[Bool, Word(&["low", "medium", "high", "max"])])),
    may("format", OneOf(&[Word(&["json"]), Free])),
];

/// Fields that the request itself owns, or that no operator can allow: they would undo the streaming, the bound of the cost, or the choice of vendor.
const RESERVED: &[(&str, &str)] = &[
    ("messages", "the conversation is sent instead"),
    ("system", "use `system_prompt`"),
    ("tools", "use `tools_config`"),
    ("functions", "use `tools_config`"),
    ("function_call", "use `tool_choice`"),
    ("options", "write its fields directly into `model_config`"),
    ("stream", "set it on the chat request; vendors are always asked for a stream"),
    ("stream_options", "usage is always asked for"),
    ("n", "one answer is asked for"),
    ("best_of", "one answer is asked for"),
    ("store", "nothing is stored at the vendor"),
    ("api_key", "the operator configures credentials"),
    ("base_url", "the operator configures where providers are"),
    ("api_base", "the operator configures where providers are"),
    ("headers", "the operator configures how providers are reached"),
    ("extra_headers", "the operator configures how providers are reached"),
    ("extra_body", "write its fields directly into `model_config`"),
];

impl Wire {
    /// The parameters that tenants may set, each with its rule.
    fn fields(self) -> &'static [&'static [Field]] {
        match self {
            Self::Anthropic => &[ANTHROPIC],
            Self::OpenAi => &[OPENAI],
            Self::Ollama => &[OLLAMA],
            // Echo heeds the output limit alone. It takes every wire's parameters, so that a config can be tried on it first.
            Self::Echo => &[ANTHROPIC, OPENAI, OLLAMA],
        }
    }

    /// What is wrong with a config's inference parameters on this wire; empty when nothing is. `extra` names the parameters that the operator
    /// allows beyond the wire's own list; their values are not looked at. Pointers begin with `/model_config/`.
    pub fn check_params(self, params: &JsonObject, extra: &[String]) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for (name, value) in params {
            self.check_param(name, value, extra, &mut errors);
        }
        let limit = split_output_limit(params).0;
        if errors.is_empty() && limit.is_some_and(|limit| limit <= thinking_budget(params)) {
            errors.push(FieldError {
                pointer: "/model_config/thinking/budget_tokens".into(),
                message: "must be below `max_tokens`, which limits thinking and answer together".into(),
            });
        }
        errors
    }

    fn check_param(self, name: &str, value: &Json, extra: &[String], errors: &mut Vec<FieldError>) {
        let pointer = format!("/model_config/{}", super::rule::escape(name));
        if OUTPUT_LIMITS.contains(&name) {
            return Int(1, INT_MAX).check(value, &pointer, errors);
        }
        if let Some((_, instead)) = RESERVED.iter().find(|(reserved, _)| *reserved == name) {
            return errors.push(FieldError { pointer, message: format!("cannot be set here: {instead}") });
        }
        let rules: Vec<Rule> =
            self.fields().iter().filter_map(|fields| fields.iter().find(|field| field.name == name)).map(|field| field.rule).collect();
        if rules.iter().any(|rule| rule.accepts(value)) || (rules.is_empty() && extra.iter().any(|extra| extra == name)) {
            return;
        }
        match rules.first() {
            Some(rule) => rule.check(value, &pointer, errors),
            None => errors.push(FieldError { pointer, message: self.unknown(extra) }),
        }
    }

    fn unknown(self, extra: &[String]) -> String {
        let mut known: Vec<&str> = self.fields().iter().flat_map(|fields| fields.iter().map(|field| field.name)).collect();
        known.push("max_tokens");
        known.extend(extra.iter().map(String::as_str));
        known.sort_unstable();
        known.dedup();
        format!("is not a parameter that can be set for this provider; it takes: {}", known.join(", "))
    }
}

/// Takes the output limit, in tokens, out of the parameters: `max_tokens`, `max_completion_tokens` or `num_predict`; the smallest if several.
pub fn split_output_limit(params: &JsonObject) -> (Option<u32>, JsonObject) {
    let mut rest = params.clone();
    let limits: Vec<u64> = OUTPUT_LIMITS.iter().filter_map(|name| rest.shift_remove(*name)).filter_map(|value| value.as_u64()).collect();
    (limits.into_iter().min().map(|limit| u32::try_from(limit).unwrap_or(u32::MAX)), rest)
}

/// Tokens of the output limit that may all go into thinking; a limit is useful only above this. 0 where thinking has no budget of its own.
pub fn thinking_budget(params: &JsonObject) -> u32 {
    let thinking = params.get("thinking").filter(|thinking| thinking.get("type").and_then(Json::as_str) == Some("enabled"));
    let budget = thinking.and_then(|thinking| thinking.get("budget_tokens")).and_then(Json::as_u64).unwrap_or(0);
    u32::try_from(budget).unwrap_or(u32::MAX)
}

/// The primary model's parameters as a fallback on wire `to` takes them: translated where both wires know the same thing under two names, and
/// left out where the fallback's wire does not know them. `extra` are the parameters that the operator allows for the fallback's provider.
pub fn params_for_fallback(params: &JsonObject, from: Wire, to: Wire, extra: &[String]) -> JsonObject {
    let mut carried = JsonObject::new();
    for (name, value) in params {
        let (name, value) = match (name.as_str(), to) {
            (name, to) if to == from => (name, value.clone()),
            ("stop_sequences", Wire::OpenAi | Wire::Ollama) => ("stop", value.clone()),
            ("tool_choice", Wire::Anthropic) => ("tool_choice", choice_for_anthropic(value)),
            ("tool_choice", Wire::OpenAi) => ("tool_choice", choice_for_openai(value)),
            (name, _) => (name, value.clone()),
        };
        let mut errors = Vec::new();
        to.check_param(name, &value, extra, &mut errors);
        if errors.is_empty() {
            carried.insert(name.to_owned(), value);
        }
    }
    carried
}

fn choice_for_anthropic(choice: &Json) -> Json {
    match (choice.as_str(), choice["function"]["name"].as_str()) {
        (Some("required"), _) => json!({"type": "any"}),
        (Some(kind), _) => json!({"type": kind}),
        (None, Some(name)) => json!({"type": "tool", "name": name}),
        (None, None) => choice.clone(),
    }
}

fn choice_for_openai(choice: &Json) -> Json {
    match (choice["type"].as_str(), choice["name"].as_str()) {
        (Some("any"), _) => "required".into(),
        (Some(kind @ ("auto" | "none")), _) => kind.into(),
        (Some("tool"), Some(name)) => json!({"type": "function", "function": {"name": name}}),
        _ => choice.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(json: Json) -> JsonObject {
        json.as_object().unwrap().clone()
    }

    /// Pointers of what is wrong.
    fn wrong(wire: Wire, params: Json) -> Vec<String> {
        wire.check_params(&object(params), &["top_a".to_owned(), "stream".to_owned()]).into_iter().map(|error| error.pointer).collect()
    }

    #[test]
    fn what_each_wire_takes_is_taken() {
        let common = json!({"temperature": 0.7, "top_p": 1, "stop": "END", "max_tokens": 4096, "top_a": {"any": "thing"}});
        for wire in Wire::ALL {
            assert_eq!(wrong(wire, common.clone()), [""; 0], "{wire:?}");
        }
        let anthropic = json!({"thinking": {"type": "enabled", "budget_tokens": 2048}, "max_tokens": 4096, "output_config": {"effort": "high",
            "format": {"type": "json_schema", "schema": {"whatever": ["is", {"n": 5, "base_url": "here"}]}}}, "tool_choice": {"type": "tool", "name": "t"},
            "stop_sequences": ["a", "b"], "metadata": {"user_id": "u"}, "cache_control": {"type": "ephemeral"}});
        let openai = json!({"tool_choice": {"type": "function", "function": {"name": "t"}}, "reasoning_effort": "low", "logit_bias": {"50256": -100},
            "response_format": {"type": "json_schema", "json_schema": {"name": "s", "strict": true, "schema": {"n": 2, "api_key": "free"}}}, "seed": -1});
        let ollama = json!({"num_ctx": 8192, "think": "high", "format": {"type": "object"}, "min_p": 0.05, "num_predict": 10, "repeat_penalty": 1.1});
        for (wire, params) in [(Wire::Anthropic, anthropic), (Wire::OpenAi, openai), (Wire::Ollama, ollama)] {
            assert_eq!(wrong(wire, params.clone()), [""; 0], "{wire:?}");
            assert_eq!(wrong(Wire::Echo, params), [""; 0], "echo takes what {wire:?} takes");
        }
    }

    #[test]
    fn what_redirects_leaks_or_costs_is_refused_on_every_wire() {
        for wire in Wire::ALL {
            for name in [
                "n",
                "service_tier",
                "speed",
                "inference_geo",
                "store",
                "base_url",
                "api_key",
                "stream",
                "messages",
                "tools",
                "system",
                "mcp_servers",
                "container",
                "betas",
                "web_search_options",
                "modalities",
                "audio",
                "prediction",
                "prompt_cache_retention",
                "options",
                "keep_alive",
                "num_gpu",
                "extra_body",
                "headers",
                "logprobs",
                "functions",
                "",
                "Temperature",
            ] {
                assert_eq!(wrong(wire, json!({name: 1})), [format!("/model_config/{name}")], "{wire:?}");
            }
        }
        let ttl = json!({"cache_control": {"type": "ephemeral", "ttl": "1h"}});
        assert_eq!(wrong(Wire::Anthropic, ttl), ["/model_config/cache_control/ttl"], "an hour costs twice");
    }

    #[test]
    fn types_and_ranges_are_checked_deep_inside() {
        for (wire, params, pointer) in [
            (Wire::Anthropic, json!({"temperature": 1.5}), "/model_config/temperature"),
            (Wire::Anthropic, json!({"thinking": {"type": "enabled", "budget_tokens": 10}}), "/model_config/thinking/budget_tokens"),
            (Wire::Anthropic, json!({"thinking": {"budget_tokens": 2048}}), "/model_config/thinking/type"),
            (
                Wire::Anthropic,
                json!({"thinking": {"type": "enabled", "budget_tokens": 4096}, "max_tokens": 4096}),
                "/model_config/thinking/budget_tokens",
            ),
            (Wire::Anthropic, json!({"tool_choice": {"type": "auto", "x/y~": 1}}), "/model_config/tool_choice/x~1y~0"),
            (Wire::OpenAi, json!({"temperature": "hot"}), "/model_config/temperature"),
            (Wire::OpenAi, json!({"tool_choice": "sometimes"}), "/model_config/tool_choice"),
            (Wire::OpenAi, json!({"stop": ["a", 1]}), "/model_config/stop"),
            (
                Wire::OpenAi,
                json!({"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {}, "url": 1}}}),
                "/model_config/response_format/json_schema/url",
            ),
            (Wire::OpenAi, json!({"logit_bias": {"5": 101}}), "/model_config/logit_bias/5"),
            (Wire::OpenAi, json!({"max_completion_tokens": 0}), "/model_config/max_completion_tokens"),
            (Wire::OpenAi, json!({"max_tokens": 1.5}), "/model_config/max_tokens"),
            (Wire::Ollama, json!({"num_predict": -1}), "/model_config/num_predict"),
            (Wire::Ollama, json!({"top_k": 1.5}), "/model_config/top_k"),
            (Wire::Ollama, json!({"think": "hard"}), "/model_config/think"),
        ] {
            assert_eq!(wrong(wire, params.clone()), [pointer], "{wire:?} {params}");
        }
        let told = Wire::OpenAi.check_params(&object(json!({"temperature": 3})), &[]);
        assert_eq!(told[0].message, "must be a number from 0 to 2");
        let told = Wire::Ollama.check_params(&object(json!({"foo": 3})), &[]);
        assert!(told[0].message.contains("it takes: format, frequency_penalty, max_tokens,"), "{}", told[0].message);
    }

    #[test]
    fn the_output_limit_is_taken_out() {
        let (limit, rest) = split_output_limit(&object(json!({"max_tokens": 9, "num_predict": 7, "top_p": 1, "seed": 2})));
        assert_eq!((limit, Json::Object(rest).to_string()), (Some(7), r#"{"top_p":1,"seed":2}"#.to_owned()));
        assert_eq!(split_output_limit(&JsonObject::new()).0, None);
        assert_eq!(thinking_budget(&object(json!({"thinking": {"type": "enabled", "budget_tokens": 2048}}))), 2_048);
        assert_eq!(thinking_budget(&object(json!({"thinking": {"type": "adaptive"}}))), 0);
    }

    #[test]
    fn a_fallback_gets_what_its_wire_knows() {
        let anthropic = object(json!({"temperature": 0.5, "top_k": 5, "stop_sequences": ["x"], "tool_choice": {"type": "any"},
            "thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}, "max_tokens": 5}));
        assert_eq!(
            Json::Object(params_for_fallback(&anthropic, Wire::Anthropic, Wire::OpenAi, &[])),
            json!({"temperature": 0.5, "top_k": 5, "stop": ["x"], "tool_choice": "required", "max_tokens": 5})
        );
        assert_eq!(params_for_fallback(&anthropic, Wire::Anthropic, Wire::Anthropic, &[]), anthropic);
        let openai = object(
            json!({"temperature": 1.5, "stop": "x", "tool_choice": {"type": "function", "function": {"name": "t"}}, "seed": 1, "odd": 1}),
        );
        assert_eq!(
            Json::Object(params_for_fallback(&openai, Wire::OpenAi, Wire::Anthropic, &[])),
            json!({"stop": "x", "tool_choice": {"type": "tool", "name": "t"}})
        );
        assert_eq!(
            Json::Object(params_for_fallback(&openai, Wire::OpenAi, Wire::Ollama, &["odd".into()])),
            json!({"temperature": 1.5, "stop": "x", "seed": 1, "odd": 1})
        );
    }
}
