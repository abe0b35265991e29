//! What a sandbox is made from: plain data, checked where it is made.

use crate::config::Secret;
use serde::{Deserialize, Serialize};
use std::{fmt, path::PathBuf};

/// A sandbox's name: opaque, and part of paths.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SandboxId(String);

impl SandboxId {
    /// 1 to 64 letters a-z, digits and hyphens, a letter or digit first; nothing else is a sandbox's name.
    pub fn new(name: &str) -> Option<Self> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let fine = (1..=64).contains(&name.len()) && name.bytes().all(|byte| plain(byte) || byte == b'-') && !name.starts_with('-');
        fine.then(|| Self(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SandboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for SandboxId {
    type Error = String;
    fn try_from(name: String) -> Result<Self, String> {
        Self::new(&name).ok_or_else(|| format!("{name:?} is no sandbox's name"))
    }
}

impl From<SandboxId> for String {
    fn from(id: SandboxId) -> Self {
        id.0
    }
}

/// Secrets by name. They are in no file and on no command line.
pub type Secrets = Vec<(String, Secret)>;

/// A function of a Python bundle that is offered as a tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PythonTool {
    /// What the model calls it.
    pub name: String,
    /// `module:function`.
    pub entry: String,
}

/// What runs in the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Start {
    /// Plain Python functions, served by our runner.
    Python {
        /// The module whose public functions are the tools, unless `tools` names some.
        module: String,
        /// Folders of the bundle that modules are also looked for in.
        path: Vec<String>,
        /// The tools; empty for every public function of the module.
        tools: Vec<PythonTool>,
    },
    /// Any program that speaks MCP on its stdin and stdout.
    Command {
        /// A program: a path with a slash is one below the bundle, one that begins with a slash is the sandbox's own, a name is one of `/usr/bin`.
        command: String,
        /// Its arguments.
        args: Vec<String>,
        /// Settings that are no secrets; the caller has looked at the names.
        env: Vec<(String, String)>,
    },
}

/// Tools that our runner has itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuiltIns {
    /// `shell`: a command line.
    pub shell: bool,
    /// `read_file`: a file of the workspace.
    pub read_file: bool,
    /// `write_file`: a file of the workspace.
    pub write_file: bool,
    /// `list_files`: what is in the workspace.
    pub list_files: bool,
}

/// What a sandbox may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxLimits {
    /// Bytes of memory, of all its processes and of its `/tmp`.
    pub memory_bytes: u64,
    /// Processes and threads at once.
    pub pids: u64,
    /// Bytes of its workspace.
    pub workspace_bytes: u64,
    /// Thousandths of a processor.
    pub cpu_millis: u64,
    /// Bytes that its workspace's disk reads, and bytes that it writes, in a second.
    pub disk_bytes_per_second: u64,
    /// Reads, and writes, of that disk in a second.
    pub disk_operations_per_second: u64,
}

/// Everything that makes a sandbox what it is, but its secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxSpec {
    /// Its name.
    pub id: SandboxId,
    /// The unpacked bundle: an absolute path, seen at `/bundle`, read-only.
    pub bundle: Option<PathBuf>,
    /// What runs.
    pub start: Start,
    /// What it may use.
    pub limits: SandboxLimits,
    /// Whether it has a door, [`super::Running::door`], that its programs know as their proxy. Without one it reaches nothing;
    /// [`super::Sandboxes::has_doors`] says whether it can have one.
    pub network: bool,
    /// Tools of our runner; for `Start::Python` alone.
    pub built_ins: BuiltIns,
    /// Whether the `shell` tool's commands see the secrets.
    pub secrets_in_shell: bool,
    /// Bytes of one tool's result; more is cut out of its middle.
    pub result_bytes_max: usize,
    /// The container image, by the digest that [`super::Sandboxes::image_pin`] gave; none for the server's usual backend.
    pub image: Option<String>,
}

/// What a sandbox uses now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// The most it ever was, where the kernel counts it.
    pub memory_peak_bytes: u64,
    /// Milliseconds of processor time.
    pub cpu_ms: u64,
    /// Processes and threads.
    pub pids: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_s_name_cannot_be_a_path() {
        for good in ["a", "0192-ab", &"a".repeat(64)] {
            assert_eq!(SandboxId::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "-a", "A", "a/b", "..", "a.b", "a b", "ä", &"a".repeat(65)] {
            assert_eq!(SandboxId::new(bad), None, "{bad}");
        }
    }
}
