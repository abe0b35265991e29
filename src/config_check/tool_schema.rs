//! A tool's `parameters`: a valid JSON Schema of an object that refers to nothing outside itself. The only file that names jsonschema.
//!
//! A client's tools are the client's to check arguments for; what is refused here of their schemas is what a vendor would refuse at every call.
//! Arguments of tools that the server runs are checked here, too, before the tool sees them.

use crate::{
    config::Limits,
    error::FieldError,
    model::{Json, JsonObject},
};
use jsonschema::{PatternOptions, Validator, meta::MetaValidator};

/// The faults told of one schema; more help nobody.
const FAULTS_MAX: usize = 5;
/// The characters of a fault's message: it may cite the whole schema.
const MESSAGE_CHARS_MAX: usize = 300;

/// What the arguments of a tool that the server runs have to be.
pub struct Arguments(Result<Validator, String>);

impl Arguments {
    /// By this schema. Its patterns are matched in linear time, whoever wrote them, and nothing outside it is looked up.
    pub fn of(parameters: &JsonObject) -> Self {
        let schema = Json::Object(parameters.clone());
        let options = jsonschema::options().with_pattern_options(PatternOptions::regex()).offline();
        Self(options.build(&schema).map_err(|error| shortened(&error.to_string())))
    }

    /// Why nothing can be checked by this schema, if so.
    pub fn unusable(&self) -> Option<&str> {
        self.0.as_ref().err().map(String::as_str)
    }

    /// What is wrong with arguments, in a few sentences for the model that sent them.
    pub fn faults(&self, arguments: &JsonObject) -> Vec<String> {
        match &self.0 {
            Err(why) => vec![format!("the tool's schema cannot be used ({why})")],
            Ok(validator) => {
                let arguments = Json::Object(arguments.clone());
                let told = |error: jsonschema::ValidationError<'_>| {
                    format!("{} {}", error.instance_path().as_str(), shortened(&error.masked().to_string()))
                };
                validator.iter_errors(&arguments).take(FAULTS_MAX).map(|error| told(error).trim().to_owned()).collect()
            }
        }
    }
}

/// What is wrong with a tool's schema, which stands at `pointer`.
pub fn check(pointer: &str, schema: JsonObject, limits: &Limits) -> Vec<FieldError> {
    let schema = Json::Object(schema);
    let one = |at: &str, message: String| vec![FieldError { pointer: format!("{pointer}{at}"), message }];
    // First the depth, since what comes after it recurses.
    if depth(&schema) > limits.tool_schema_depth_max {
        return one("", format!("The schema is nested deeper than {} levels.", limits.tool_schema_depth_max));
    }
    let Some(meta) = meta(&schema) else {
        return one("/$schema", "Expected draft-07, 2019-09 or 2020-12 of JSON Schema; without $schema it is 2020-12.".to_owned());
    };
    let mut faults: Vec<FieldError> = meta
        .iter_errors(&schema)
        .take(FAULTS_MAX)
        .map(|error| FieldError {
            pointer: format!("{pointer}{}", error.instance_path().as_str()),
            message: format!("Not a valid JSON Schema: {}", shortened(&error.masked().to_string())),
        })
        .collect();
    if faults.is_empty() && schema.get("type") != Some(&Json::String("object".to_owned())) {
        faults = one("/type", "Arguments are always an object: expected \"type\": \"object\".".to_owned());
    }
    if faults.is_empty() {
        references(pointer, &schema, &schema, &mut faults);
    }
    faults
}

/// The rules of the draft that a schema says it follows; nothing for one that we do not have. Chosen here, by name, so that no schema can
/// make the library look for another one elsewhere.
fn meta(schema: &Json) -> Option<MetaValidator<'static>> {
    let draft = match schema.get("$schema") {
        None => return Some(jsonschema::draft202012::meta::validator()),
        Some(draft) => draft.as_str()?,
    };
    match draft.trim_end_matches('#').rsplit_once("://").map(|(_, rest)| rest)? {
        "json-schema.org/draft-07/schema" => Some(jsonschema::draft7::meta::validator()),
        "json-schema.org/draft/2019-09/schema" => Some(jsonschema::draft201909::meta::validator()),
        "json-schema.org/draft/2020-12/schema" => Some(jsonschema::draft202012::meta::validator()),
        _ => None,
    }
}

fn depth(value: &Json) -> usize {
    match value {
        Json::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        Json::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Finds references that lead out of the schema, or nowhere in it. `at` is a schema, or a list of them.
fn references(pointer: &str, root: &Json, at: &Json, faults: &mut Vec<FieldError>) {
    match at {
        Json::Array(schemas) => {
            for (n, schema) in schemas.iter().enumerate() {
                references(&format!("{pointer}/{n}"), root, schema, faults);
            }
        }
        Json::Object(keywords) => {
            for (keyword, value) in keywords {
                let pointer = format!("{pointer}/{}", escaped(keyword));
                match keyword.as_str() {
                    "$ref" | "$dynamicRef" | "$recursiveRef" => faults.extend(reference(&pointer, root, value)),
                    // Values, not schemas: a `$ref` in them is a word like any other.
                    "enum" | "const" | "default" | "examples" => {}
                    // The keys are the caller's own names, each with a schema.
                    "properties" | "patternProperties" | "$defs" | "definitions" | "dependentSchemas" | "dependencies" => {
                        for (name, schema) in value.as_object().into_iter().flatten() {
                            references(&format!("{pointer}/{}", escaped(name)), root, schema, faults);
                        }
                    }
                    _ => references(&pointer, root, value, faults),
                }
            }
        }
        _ => {}
    }
}

fn reference(pointer: &str, root: &Json, value: &Json) -> Option<FieldError> {
    let fault = |message: &str| Some(FieldError { pointer: pointer.to_owned(), message: message.to_owned() });
    match value.as_str().and_then(|target| target.strip_prefix('#')) {
        None => fault("A reference may only lead to this schema itself, such as \"#/$defs/name\"."),
        Some(path) if path.is_empty() || (path.starts_with('/') && root.pointer(path).is_some()) => None,
        Some(path) if path.starts_with('/') => fault("The reference leads to nothing in this schema."),
        Some(_) => fault("References by anchor are not taken by every vendor; write the path, such as \"#/$defs/name\"."),
    }
}

fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn shortened(message: &str) -> String {
    match message.char_indices().nth(MESSAGE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn faults(schema: Json) -> Vec<String> {
        let Json::Object(schema) = schema else { panic!("no object") };
        check("", schema, &Limits::default()).into_iter().map(|fault| fault.pointer).collect()
    }

    #[test]
    fn valid_schemas_of_the_usual_drafts_pass() {
        for schema in [
            json!({"type": "object"}),
            json!({"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "properties": {"$ref": {"type": "string"}}}),
            json!({"type": "object", "properties": {"node": {"$ref": "#/$defs/node"}}, "$defs": {"node":
                {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/node"}}}}}}),
            json!({"type": "object", "properties": {"a": {"enum": [{"$ref": "http://example.com"}]}}}),
        ] {
            assert_eq!(faults(schema.clone()), [""; 0], "{schema}");
        }
    }

    #[test]
    fn what_a_vendor_would_refuse_is_refused_here() {
        for (schema, pointer) in [
            (json!({}), "/type"),
            (json!({"type": "array"}), "/type"),
            (json!({"type": "objekt"}), "/type"),
            (json!({"type": "object", "properties": []}), "/properties"),
            (json!({"type": "object", "required": "a"}), "/required"),
            (json!({"type": "object", "properties": {"a/b": {"type": 7}}}), "/properties/a~1b/type"),
            (json!({"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1/x"}}}), "/properties/a/$ref"),
            (
                json!({"type": "object", "items": [{"$ref": "file:///etc/passwd"}], "$schema": "http://json-schema.org/draft-07/schema#"}),
                "/items/0/$ref",
            ),
            (json!({"type": "object", "allOf": [{"$ref": "#/$defs/none"}]}), "/allOf/0/$ref"),
            (json!({"type": "object", "$schema": "http://127.0.0.1/meta"}), "/$schema"),
            (json!({"type": "object", "$schema": 7}), "/$schema"),
        ] {
            assert_eq!(faults(schema.clone()), [pointer], "{schema}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        let mut schema = json!({"type": "object"});
        for _ in 0..20 {
            schema = json!({"type": "object", "properties": {"deeper": schema}});
        }
        assert_eq!(faults(schema), [""]);
    }
}
