//! `manifest.json` at a bundle's root: which program answers calls, what it needs, what it wishes for. Ours, or that of an `.mcpb`, which becomes
//! one of ours. Unknown fields are refused: what nobody reads must not look as if it did something. Pure.

use crate::error::{Error, FieldError, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// The manifest's name in the archive.
pub const FILE: &str = "manifest.json";
/// The most bytes of a manifest.
pub const BYTES_MAX: u64 = 256 * 1024;
/// The manifest's version that this server reads.
const VERSION: u32 = 1;
/// The most characters of names, versions and the like.
const LABEL_CHARS_MAX: usize = 200;
/// The most arguments, paths, hosts and secrets.
const LIST_MAX: usize = 64;
/// The most bytes of one of them.
const ITEM_BYTES_MAX: usize = 4 * 1024;
/// What an `.mcpb` calls the place that it is unpacked to, and what a sandbox calls it.
const MCPB_ROOT: (&str, &str) = ("${__dirname}", "/bundle");

/// What a bundle says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// 1.
    pub manifest_version: u32,
    /// What the bundle is called.
    pub name: String,
    /// Its own version.
    pub version: String,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What is started in the sandbox.
    pub runtime: Runtime,
    /// Python only: which functions are tools. Without it, every public function of the module is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<ToolEntry>>,
    /// The secrets that it needs, by the names of its environment variables.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// What it wishes to reach.
    #[serde(default, skip_serializing_if = "NetworkWish::is_empty")]
    pub network: NetworkWish,
    /// How much it wishes to use.
    #[serde(default)]
    pub limits: LimitsWish,
}

/// What is started in the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Runtime {
    /// Plain Python functions, called by the runner in this server.
    Python {
        /// The versions that it runs with, such as `>=3.9`; for people.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        python: Option<String>,
        /// The module whose functions are tools.
        module: String,
        /// Folders of the bundle to import from, besides its root.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        path: Vec<String>,
    },
    /// A program that speaks MCP on its standard input and output.
    Mcp {
        /// The program: a path in the bundle, or a name of the sandbox's `PATH`.
        command: String,
        /// Its arguments.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        args: Vec<String>,
        /// Settings that are no secrets.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        env: BTreeMap<String, String>,
    },
}

/// A tool of a Python bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ToolEntry {
    /// What the model calls it.
    pub name: String,
    /// `module:function`; by default the function of this name in the runtime's module.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
    /// How long one call may take, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<u32>,
    /// For the model; by default the function's docstring.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// A JSON Schema of the arguments; by default made of the function's type hints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub input_schema: Option<serde_json::Value>,
}

/// What a bundle wishes to reach.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkWish {
    /// `host:port` each; the operator's list decides which of them are granted.
    #[serde(default)]
    pub allow: Vec<String>,
}

impl NetworkWish {
    fn is_empty(&self) -> bool {
        self.allow.is_empty()
    }
}

/// How much a bundle wishes to use; cut down to the operator's caps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitsWish {
    /// Memory, in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u64>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
    /// The workspace, in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace_mb: Option<u64>,
}

impl Runtime {
    /// `python` or `mcp`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Python { .. } => "python",
            Self::Mcp { .. } => "mcp",
        }
    }
}

impl Manifest {
    /// Reads and checks a manifest: ours has a number as `manifest_version`, an `.mcpb`'s has a text.
    ///
    /// Fails with [`Error::BundleRefused`] naming `manifest.json`, the field, and what would be right.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|error| fault("", format!("It is not JSON: {error}.")))?;
        let manifest = match value.get("manifest_version").or_else(|| value.get("dxt_version")) {
            Some(serde_json::Value::String(_)) => Mcpb::read(bytes)?.manifest()?,
            _ => serde_json::from_slice(bytes).map_err(|error| fault("", format!("{error}.")))?,
        };
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<()> {
        let mut faults = Vec::new();
        let mut wrong = |field: String, message: &str| faults.push(at(&field, message.to_owned()));
        if self.manifest_version != VERSION {
            wrong("manifest_version".to_owned(), "This server reads version 1.");
        }
        for (field, text) in [("name", &self.name), ("version", &self.version)] {
            if text.trim().is_empty() || text.chars().count() > LABEL_CHARS_MAX || text.chars().any(char::is_control) {
                wrong(field.to_owned(), "Expected 1–200 characters.");
            }
        }
        match &self.runtime {
            Runtime::Python { module, path, .. } => {
                if !is_module(module) {
                    wrong("runtime.module".to_owned(), "Expected a module's name, such as tools or tools.billing.");
                }
                for (n, folder) in path.iter().enumerate() {
                    if super::name::parts(folder.as_bytes()).is_err() {
                        wrong(format!("runtime.path[{n}]"), "Expected a folder of the bundle, such as vendor.");
                    }
                }
                if path.len() > LIST_MAX {
                    wrong("runtime.path".to_owned(), "There are more than 64 folders.");
                }
            }
            Runtime::Mcp { command, args, env } => {
                let items = args.iter().chain(env.values()).chain([command]);
                if items.clone().any(|item| item.len() > ITEM_BYTES_MAX || item.contains('\0'))
                    || args.len() > LIST_MAX
                    || env.len() > LIST_MAX
                {
                    wrong("runtime".to_owned(), "Expected at most 64 arguments and variables of at most 4,096 bytes, without NUL.");
                }
                if command.is_empty() {
                    wrong("runtime.command".to_owned(), "Expected a program, such as python3 or bin/server.");
                }
                for name in env.keys().filter(|name| !is_variable(name)) {
                    wrong(format!("runtime.env.{name}"), "Expected a variable's name: A-Z, 0-9 and _, not beginning with a digit.");
                }
                if self.tools.is_some() {
                    wrong("tools".to_owned(), "An MCP server lists its tools itself; leave this out.");
                }
            }
        }
        for (n, tool) in self.tools.iter().flatten().enumerate() {
            if !is_tool(&tool.name) {
                wrong(format!("tools[{n}].name"), "Expected 1–64 characters of a-z, A-Z, 0-9, _ and -.");
            }
            if tool.entry.as_ref().is_some_and(|entry| !is_entry(entry)) {
                wrong(format!("tools[{n}].entry"), "Expected module:function, such as tools.billing:refund.");
            }
            if tool.timeout_s == Some(0) {
                wrong(format!("tools[{n}].timeout_s"), "Expected a second or more.");
            }
        }
        for (n, name) in self.secrets.iter().enumerate() {
            if !is_variable(name) || self.secrets[..n].contains(name) {
                wrong(format!("secrets[{n}]"), "Expected a variable's name, once: A-Z, 0-9 and _, not beginning with a digit.");
            }
        }
        for (n, host) in self.network.allow.iter().enumerate() {
            if !is_host(host) {
                wrong(format!("network.allow[{n}]"), "Expected host:port, such as api.example.com:443.");
            }
        }
        if self.secrets.len() > LIST_MAX || self.network.allow.len() > LIST_MAX {
            wrong("secrets".to_owned(), "There are more than 64 secrets or hosts.");
        }
        if faults.is_empty() { Ok(()) } else { Err(Error::BundleRefused { errors: faults }) }
    }
}

fn at(field: &str, message: String) -> FieldError {
    let pointer = if field.is_empty() { FILE.to_owned() } else { format!("{FILE}: {field}") };
    FieldError { pointer, message }
}

fn fault(field: &str, message: String) -> Error {
    Error::BundleRefused { errors: vec![at(field, message)] }
}

fn is_identifier(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|c| c.is_alphabetic() || c == '_') && chars.all(|c| c.is_alphanumeric() || c == '_')
}

fn is_module(text: &str) -> bool {
    text.len() <= LABEL_CHARS_MAX && text.split('.').all(is_identifier)
}

fn is_entry(text: &str) -> bool {
    text.split_once(':').is_some_and(|(module, function)| is_module(module) && is_identifier(function))
}

/// Whether a tool may be called so; the set that every vendor takes.
pub fn is_tool(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// Whether an environment variable may be called so, and is none that decides how programs are started.
pub fn is_variable(name: &str) -> bool {
    let plain = name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_');
    let reserved = ["PATH", "HOME", "USER", "PWD", "IFS", "ENV", "TMPDIR", "LANG"].contains(&name)
        || ["LD_", "PYTHON", "GLIBC_", "MALLOC_", "BASH_", "NODE_OPTIONS", "HTTP_PROXY", "HTTPS_PROXY"]
            .iter()
            .any(|prefix| name.starts_with(prefix));
    (1..=128).contains(&name.len()) && plain && !name.as_bytes()[0].is_ascii_digit() && !reserved
}

fn is_host(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let plain = host.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.');
    let named = host.bytes().any(|byte| byte.is_ascii_lowercase()) && !host.starts_with('.') && !host.ends_with('.') && host.len() <= 253;
    plain && named && port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// What an `.mcpb` says of itself, as far as it is run here. What is for a shop window is passed over, by name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "fields that are known, checked and not needed here")]
struct Mcpb {
    #[serde(alias = "dxt_version")]
    manifest_version: String,
    name: String,
    version: String,
    #[serde(default)]
    description: Option<String>,
    server: McpbServer,
    #[serde(default)]
    user_config: BTreeMap<String, serde_json::Value>,
    #[serde(default, rename = "$schema")]
    schema: serde::de::IgnoredAny,
    #[serde(default)]
    display_name: serde::de::IgnoredAny,
    #[serde(default)]
    long_description: serde::de::IgnoredAny,
    #[serde(default)]
    author: serde::de::IgnoredAny,
    #[serde(default)]
    repository: serde::de::IgnoredAny,
    #[serde(default)]
    homepage: serde::de::IgnoredAny,
    #[serde(default)]
    documentation: serde::de::IgnoredAny,
    #[serde(default)]
    support: serde::de::IgnoredAny,
    #[serde(default)]
    icon: serde::de::IgnoredAny,
    #[serde(default)]
    icons: serde::de::IgnoredAny,
    #[serde(default)]
    screenshots: serde::de::IgnoredAny,
    #[serde(default)]
    tools: serde::de::IgnoredAny,
    #[serde(default)]
    tools_generated: serde::de::IgnoredAny,
    #[serde(default)]
    prompts: serde::de::IgnoredAny,
    #[serde(default)]
    prompts_generated: serde::de::IgnoredAny,
    #[serde(default)]
    keywords: serde::de::IgnoredAny,
    #[serde(default)]
    license: serde::de::IgnoredAny,
    #[serde(default)]
    privacy_policies: serde::de::IgnoredAny,
    #[serde(default)]
    compatibility: serde::de::IgnoredAny,
    #[serde(default)]
    localization: serde::de::IgnoredAny,
    #[serde(default)]
    _meta: serde::de::IgnoredAny,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "fields that are known, checked and not needed here")]
struct McpbServer {
    #[serde(rename = "type")]
    kind: serde::de::IgnoredAny,
    #[serde(default)]
    entry_point: serde::de::IgnoredAny,
    mcp_config: McpbStart,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "fields that are known, checked and not needed here")]
struct McpbStart {
    command: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    platform_overrides: serde::de::IgnoredAny,
}

impl Mcpb {
    fn read(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(|error| fault("", format!("{error}.")))
    }

    /// A variable whose value is one setting of the user becomes a secret of that name; every other value has to be known by now.
    fn manifest(self) -> Result<Manifest> {
        let rooted = |text: &str| text.replace(MCPB_ROOT.0, MCPB_ROOT.1);
        let (mut env, mut secrets) = (BTreeMap::new(), Vec::new());
        for (name, value) in self.server.mcp_config.env {
            let setting = value.strip_prefix("${user_config.").and_then(|rest| rest.strip_suffix('}'));
            match setting {
                Some(setting) if self.user_config.contains_key(setting) => secrets.push(name),
                _ => drop(env.insert(name, rooted(&value))),
            }
        }
        let (command, args) =
            (rooted(&self.server.mcp_config.command), self.server.mcp_config.args.iter().map(|arg| rooted(arg)).collect::<Vec<_>>());
        if let Some(unknown) = args.iter().chain(env.values()).chain([&command]).find(|text| text.contains("${")) {
            let message =
                format!("{unknown:?} uses a variable that has no value here; settings of the user come in environment variables alone.");
            return Err(fault("server.mcp_config", message));
        }
        Ok(Manifest {
            manifest_version: VERSION,
            name: self.name,
            version: self.version,
            description: self.description,
            runtime: Runtime::Mcp { command, args, env },
            tools: None,
            secrets,
            network: NetworkWish::default(),
            limits: LimitsWish::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn faults(change: Value) -> Vec<String> {
        let mut manifest =
            json!({"manifest_version": 1, "name": "notes", "version": "1.0", "runtime": {"kind": "python", "module": "tools"}});
        for (key, value) in change.as_object().unwrap() {
            manifest[key] = value.clone();
        }
        match Manifest::read(manifest.to_string().as_bytes()) {
            Ok(_) => Vec::new(),
            Err(Error::BundleRefused { errors }) => errors.into_iter().map(|error| error.pointer).collect(),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn the_design_s_own_example_is_read() {
        let manifest = Manifest::read(
            br#"{"manifest_version": 1, "name": "billing-tools", "version": "1.2.0",
                "runtime": {"kind": "python", "python": ">=3.9", "module": "tools", "path": ["vendor"]},
                "tools": [{"name": "refund", "entry": "tools.billing:refund", "timeout_s": 30, "description": "Pays back", "input_schema": null}],
                "secrets": ["STRIPE_KEY"], "network": {"allow": ["api.stripe.com:443"]},
                "limits": {"memory_mb": 512, "pids": 128, "workspace_mb": 1024}}"#,
        )
        .unwrap();
        assert_eq!(manifest.limits.memory_mb, Some(512));
        assert_eq!(manifest.tools.unwrap()[0].entry.as_deref(), Some("tools.billing:refund"));
    }

    #[test]
    fn a_wrong_field_is_named() {
        assert_eq!(faults(json!({})), Vec::<String>::new());
        for (change, pointer) in [
            (json!({"manifest_version": 2}), "manifest.json: manifest_version"),
            (json!({"name": " "}), "manifest.json: name"),
            (json!({"runtime": {"kind": "python", "module": "tools; import os"}}), "manifest.json: runtime.module"),
            (json!({"runtime": {"kind": "python", "module": "tools", "path": ["../etc"]}}), "manifest.json: runtime.path[0]"),
            (json!({"runtime": {"kind": "mcp", "command": ""}}), "manifest.json: runtime.command"),
            (
                json!({"runtime": {"kind": "mcp", "command": "x", "env": {"LD_PRELOAD": "/bundle/x.so"}}}),
                "manifest.json: runtime.env.LD_PRELOAD",
            ),
            (json!({"tools": [{"name": "a b"}]}), "manifest.json: tools[0].name"),
            (json!({"tools": [{"name": "a", "entry": "tools"}]}), "manifest.json: tools[0].entry"),
            (json!({"secrets": ["lower"]}), "manifest.json: secrets[0]"),
            (json!({"secrets": ["A", "A"]}), "manifest.json: secrets[1]"),
            (json!({"network": {"allow": ["127.0.0.1:80"]}}), "manifest.json: network.allow[0]"),
            (json!({"network": {"allow": ["a.example"]}}), "manifest.json: network.allow[0]"),
            (json!({"surprise": 1}), "manifest.json"),
            (json!({"runtime": {"kind": "python", "module": "tools", "shell": true}}), "manifest.json"),
            (json!({"runtime": {"kind": "wasm"}}), "manifest.json"),
        ] {
            assert_eq!(faults(change.clone()), [pointer], "{change}");
        }
    }

    #[test]
    fn an_mcpb_becomes_a_program_whose_user_settings_are_secrets() {
        let mcpb = json!({
            "manifest_version": "0.3", "name": "notes", "version": "1.0", "description": "d", "author": {"name": "a"},
            "server": {"type": "python", "entry_point": "server.py", "mcp_config": {
                "command": "python3", "args": ["${__dirname}/server.py"], "env": {"NOTES_KEY": "${user_config.key}", "MODE": "plain"}}},
            "user_config": {"key": {"type": "string", "sensitive": true, "title": "Key"}}
        });
        let manifest = Manifest::read(mcpb.to_string().as_bytes()).unwrap();
        let Runtime::Mcp { command, args, env } = manifest.runtime else { panic!("no program") };
        assert_eq!(
            (command.as_str(), args, env),
            ("python3", vec!["/bundle/server.py".to_owned()], [("MODE".to_owned(), "plain".to_owned())].into())
        );
        assert_eq!(manifest.secrets, ["NOTES_KEY"]);
    }

    #[test]
    fn an_mcpb_that_puts_a_setting_into_an_argument_is_refused() {
        let mcpb = json!({"manifest_version": "0.3", "name": "n", "version": "1",
            "server": {"type": "node", "mcp_config": {"command": "node", "args": ["--key=${user_config.key}"]}}});
        assert!(Manifest::read(mcpb.to_string().as_bytes()).is_err());
    }
}
