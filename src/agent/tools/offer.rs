//! Which tools a sandboxed config offers its model, and whether a call may reach one: by what was pinned when the bundle was uploaded, never by what
//! its process says now. Pure.

use crate::{
    config_check::Arguments,
    error::{Error, FieldError, Result},
    model::{ConfigBody, Json, JsonObject, PinnedTool, ToolCall, ToolEntry},
    sandbox::BuiltIns,
    storage::Kit,
};
use serde_json::json;

/// The most bytes of a call's arguments.
const ARGUMENTS_BYTES_MAX: usize = 256 * 1024;
/// The most levels of a call's arguments.
const ARGUMENTS_DEPTH_MAX: usize = 64;

/// The tools that every Python sandbox can have, where a config names them.
pub const BUILT_IN: [&str; 4] = ["shell", "read_file", "write_file", "list_files"];

/// A built-in tool, as the runner describes it.
pub fn built_in(name: &str) -> Option<PinnedTool> {
    let path = json!({"type": "string", "description": "From the workspace's top."});
    let (description, properties, required) = match name {
        "shell" => (
            "Runs a command line in the workspace with bash or sh, and returns what it prints. Files in the workspace stay from call to \
             call.",
            json!({"command": {"type": "string", "description": "The command line."},
                   "timeout_s": {"type": "integer", "minimum": 1, "maximum": 600, "default": 60, "description": "Seconds after which it is ended."}}),
            json!(["command"]),
        ),
        "read_file" => (
            "Reads a file of the workspace as text.",
            json!({"path": path, "offset": {"type": "integer", "minimum": 0, "default": 0, "description": "The first byte to read."}}),
            json!(["path"]),
        ),
        "write_file" => (
            "Writes a text file in the workspace, with the folders on its way.",
            json!({"path": path, "content": {"type": "string"},
                   "append": {"type": "boolean", "default": false, "description": "Adds to the file's end."}}),
            json!(["path", "content"]),
        ),
        "list_files" => (
            "Lists a folder of the workspace with everything below it: bytes and path.",
            json!({"path": {"type": "string", "default": ".", "description": "From the workspace's top."}}),
            json!([]),
        ),
        _ => return None,
    };
    let Json::Object(parameters) = json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
    else {
        return None;
    };
    Some(PinnedTool { name: name.to_owned(), description: Some(description.to_owned()), parameters, timeout_s: None })
}

/// The tools that a config offers: those that it names, with its own words for them; all of the bundle's where it names none.
pub fn offered(config: &ConfigBody, kit: Option<&Kit>) -> Vec<PinnedTool> {
    let pinned = kit.map(|kit| kit.tools.as_slice()).unwrap_or_default();
    if config.tools_config.is_empty() {
        return pinned.to_vec();
    }
    config.tools_config.iter().filter_map(|entry| named(entry, pinned)).collect()
}

fn named(entry: &ToolEntry, pinned: &[PinnedTool]) -> Option<PinnedTool> {
    let spec = entry.spec();
    let tool = pinned.iter().find(|tool| tool.name == spec.name).cloned().or_else(|| built_in(&spec.name))?;
    Some(PinnedTool { description: spec.description.or(tool.description), ..tool })
}

/// Whether a tool is the runner's, and none of the bundle's that has its name.
pub fn is_built_in(name: &str, kit: Option<&Kit>) -> bool {
    BUILT_IN.contains(&name) && !kit.is_some_and(|kit| kit.tools.iter().any(|tool| tool.name == name))
}

/// Which built-in tools have to be switched on.
pub fn built_ins(offered: &[PinnedTool], kit: Option<&Kit>) -> BuiltIns {
    let on = |name: &str| is_built_in(name, kit) && offered.iter().any(|tool| tool.name == name);
    BuiltIns { shell: on("shell"), read_file: on("read_file"), write_file: on("write_file"), list_files: on("list_files") }
}

/// Whether a config's `tools_config` can be had from this bundle. Without a bundle yet, names of it may come before it does.
pub fn check(config: &ConfigBody, kit: Option<&Kit>) -> Result<()> {
    let mut errors = Vec::new();
    for (n, entry) in config.tools_config.iter().enumerate() {
        let spec = entry.spec();
        let mut wrong = |field: &str, message: String| errors.push(FieldError { pointer: format!("/tools_config/{n}{field}"), message });
        if spec.parameters.is_some() {
            wrong("/parameters", "Tools that run in a sandbox have the parameters that their bundle describes; leave this out.".to_owned());
        }
        let Some(kit) = kit else { continue };
        let bundled = kit.tools.iter().any(|tool| tool.name == spec.name);
        if !bundled && BUILT_IN.contains(&spec.name.as_str()) && kit.manifest.runtime.kind() == "mcp" {
            wrong("", format!("{} is built into the Python runner; this bundle's MCP server has none of it.", spec.name));
        } else if !bundled && !BUILT_IN.contains(&spec.name.as_str()) {
            let known: Vec<&str> = kit.tools.iter().map(|tool| tool.name.as_str()).chain(BUILT_IN).collect();
            wrong("", format!("The bundle has no tool {}; there are {}.", spec.name, known.join(", ")));
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(Error::ValidationFailed { errors }) }
}

/// Finds the tool that a call means and checks its arguments; else what the model is told.
pub fn admit<'a>(call: &ToolCall, offered: &'a [PinnedTool]) -> std::result::Result<&'a PinnedTool, String> {
    let Some(tool) = offered.iter().find(|tool| tool.name == call.name) else {
        let known: Vec<&str> = offered.iter().map(|tool| tool.name.as_str()).collect();
        return Err(format!("There is no tool {}. There are: {}.", call.name, known.join(", ")));
    };
    let bytes = serde_json::to_vec(&call.arguments).map_or(usize::MAX, |json| json.len());
    if bytes > ARGUMENTS_BYTES_MAX || deeper_than(&call.arguments, ARGUMENTS_DEPTH_MAX) {
        return Err(format!("The arguments are longer than {ARGUMENTS_BYTES_MAX} bytes or deeper than {ARGUMENTS_DEPTH_MAX} levels."));
    }
    match Arguments::of(&tool.parameters).faults(&call.arguments) {
        faults if faults.is_empty() => Ok(tool),
        faults => Err(format!("The arguments do not fit the tool's parameters: {}", faults.join("; "))),
    }
}

fn deeper_than(object: &JsonObject, levels: usize) -> bool {
    fn deep(value: &Json, levels: usize) -> bool {
        match value {
            _ if levels == 0 => true,
            Json::Object(fields) => fields.values().any(|value| deep(value, levels - 1)),
            Json::Array(items) => items.iter().any(|value| deep(value, levels - 1)),
            _ => false,
        }
    }
    object.values().any(|value| deep(value, levels))
}

/// A text cut to so many bytes, out of its middle, saying how much is missing.
pub fn cut(text: String, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text;
    }
    let half = bytes_max / 2;
    let (head, tail) = (text.floor_char_boundary(half), text.ceil_char_boundary(text.len() - half));
    format!("{}\n[truncated {} bytes]\n{}", &text[..head], tail - head, &text[tail..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::manifest::Manifest;

    fn kit(kind: &str) -> Kit {
        let runtime = if kind == "mcp" { json!({"kind": "mcp", "command": "x"}) } else { json!({"kind": "python", "module": "tools"}) };
        let manifest = json!({"manifest_version": 1, "name": "n", "version": "1", "runtime": runtime});
        let Json::Object(parameters) =
            json!({"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"], "additionalProperties": false})
        else {
            panic!()
        };
        let tool = PinnedTool { name: "note".to_owned(), description: Some("Notes".to_owned()), parameters, timeout_s: None };
        Kit { digest: "d".to_owned(), manifest: Manifest::read(manifest.to_string().as_bytes()).unwrap(), tools: vec![tool] }
    }

    fn config(tools: Json) -> ConfigBody {
        serde_json::from_value(json!({"name": "n", "model_config": {"provider": "echo", "model": "echo"}, "tools_config": tools})).unwrap()
    }

    fn names(tools: &[PinnedTool]) -> Vec<&str> {
        tools.iter().map(|tool| tool.name.as_str()).collect()
    }

    #[test]
    fn without_a_list_all_of_the_bundle_is_offered_and_nothing_built_in() {
        let (config, kit) = (config(json!([])), kit("python"));
        let offered = offered(&config, Some(&kit));
        assert_eq!(names(&offered), ["note"]);
        assert_eq!(built_ins(&offered, Some(&kit)), BuiltIns::default());
    }

    #[test]
    fn a_list_picks_and_a_description_of_the_config_s_own_replaces_the_bundle_s() {
        let kit = kit("python");
        let config = config(json!([{"name": "note", "description": "Mine"}, "shell", "unknown"]));
        let offered = offered(&config, Some(&kit));
        assert_eq!(names(&offered), ["note", "shell"]);
        assert_eq!(offered[0].description.as_deref(), Some("Mine"));
        assert_eq!(built_ins(&offered, Some(&kit)), BuiltIns { shell: true, ..BuiltIns::default() });
    }

    #[test]
    fn names_are_checked_against_the_bundle_once_there_is_one() {
        assert_eq!(check(&config(json!(["later"])), None), Ok(()));
        assert_eq!(check(&config(json!(["note", "shell"])), Some(&kit("python"))), Ok(()));
        let Err(Error::ValidationFailed { errors }) = check(&config(json!(["note", "shell", "x"])), Some(&kit("mcp"))) else { panic!() };
        assert_eq!(errors.iter().map(|error| error.pointer.as_str()).collect::<Vec<_>>(), ["/tools_config/1", "/tools_config/2"]);
        let own = config(json!([{"name": "note", "parameters": {"type": "object"}}]));
        let Err(Error::ValidationFailed { errors }) = check(&own, Some(&kit("python"))) else { panic!() };
        assert_eq!(errors[0].pointer, "/tools_config/0/parameters");
    }

    #[test]
    fn a_call_is_admitted_by_the_pinned_schema_alone() {
        let kit = kit("python");
        let call = |name: &str, arguments: Json| {
            let Json::Object(arguments) = arguments else { panic!() };
            admit(&ToolCall { id: "1".to_owned(), name: name.to_owned(), arguments }, &kit.tools).map(|tool| tool.name.clone())
        };
        assert_eq!(call("note", json!({"text": "hi"})), Ok("note".to_owned()));
        for (name, arguments, word) in [
            ("shell", json!({}), "There is no tool shell"),
            ("note", json!({}), "text"),
            ("note", json!({"text": 7}), "string"),
            ("note", json!({"text": "a", "more": 1}), "more"),
            ("note", json!({"text": "x".repeat(ARGUMENTS_BYTES_MAX)}), "longer than"),
        ] {
            let told = call(name, arguments).unwrap_err();
            assert!(told.contains(word), "{told}");
        }
        let mut deep = json!("end");
        for _ in 0..=ARGUMENTS_DEPTH_MAX {
            deep = json!([deep]);
        }
        assert!(call("note", json!({"text": deep})).unwrap_err().contains("deeper than"));
    }

    #[test]
    fn a_long_text_loses_its_middle_and_says_how_much() {
        assert_eq!(cut("short".to_owned(), 10), "short");
        let text = cut(format!("{}{}", "a".repeat(50), "ü".repeat(50)), 40);
        assert!(text.starts_with(&"a".repeat(20)) && text.ends_with('ü') && text.contains("[truncated 110 bytes]"), "{text}");
    }
}
