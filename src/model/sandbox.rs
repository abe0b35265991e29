//! What runs for a tenant: secrets on their way in, the tools of a bundle, and a sandbox as the API shows it.

use super::{Json, JsonObject, ToolSpec};
use crate::{
    clock::Time,
    ids::{ConfigId, ReachId, SnapshotId},
};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use std::{collections::BTreeMap, fmt};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, schema::Schema},
};

/// A secret's value on its way to where it is sealed. Shown by no formatter, written by no serializer.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(String);

impl Hidden {
    /// The value. Whoever calls this must neither log nor store it in the clear.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// The secrets of a config: written with their values, kept and read as names. A name without a value stands for the one that is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkspaceSecrets(pub BTreeMap<String, Option<Hidden>>);

impl WorkspaceSecrets {
    /// The names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The names alone, as they are kept and read.
    #[must_use]
    pub fn without_values(&self) -> Self {
        Self(self.0.keys().map(|name| (name.clone(), None)).collect())
    }
}

impl Serialize for WorkspaceSecrets {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.names())
    }
}

impl<'de> Deserialize<'de> for WorkspaceSecrets {
    /// Written out, so that no message about a wrong value can cite it.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Secrets;

        impl<'de> Visitor<'de> for Secrets {
            type Value = WorkspaceSecrets;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of secrets by name, or a list of the names to keep")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WorkspaceSecrets, A::Error> {
                let mut secrets = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    let Json::String(value) = map.next_value::<Json>()? else {
                        return Err(de::Error::custom(format_args!("the secret {name:?} is no string")));
                    };
                    secrets.insert(name, Some(Hidden(value)));
                }
                Ok(WorkspaceSecrets(secrets))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<WorkspaceSecrets, A::Error> {
                let mut secrets = BTreeMap::new();
                while let Some(name) = seq.next_element::<String>()? {
                    secrets.insert(name, None);
                }
                Ok(WorkspaceSecrets(secrets))
            }
        }

        deserializer.deserialize_any(Secrets)
    }
}

impl PartialSchema for WorkspaceSecrets {
    fn schema() -> RefOr<Schema> {
        BTreeMap::<String, String>::schema()
    }
}

impl ToSchema for WorkspaceSecrets {}

/// A tool as the bundle described it when it was uploaded. What its process says later changes nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PinnedTool {
    /// What the model calls it.
    pub name: String,
    /// What it does, for the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The JSON Schema that arguments are checked against before the tool sees them.
    #[schema(value_type = Object)]
    pub parameters: JsonObject,
    /// How long one call may take, in seconds; none is the server's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<u32>,
}

impl PinnedTool {
    /// As a model is told of it.
    pub fn spec(&self) -> ToolSpec {
        ToolSpec { name: self.name.clone(), description: self.description.clone(), parameters: Some(self.parameters.clone()) }
    }
}

/// The bundle that a config runs.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Bundle {
    /// SHA-256 of the archive, in hexadecimal: the same archive is the same bundle.
    pub digest: String,
    /// What it is called.
    pub name: String,
    /// Its own version.
    pub version: String,
    /// `python` or `mcp`.
    pub kind: String,
    /// Bytes of the archive.
    pub size_bytes: u64,
    /// Its tools, as they were described when it was uploaded.
    pub tools: Vec<PinnedTool>,
    /// The secrets that it asks for, by name.
    pub secrets: Vec<String>,
    /// What it asks to reach, as `host:port`.
    pub network_asked: Vec<String>,
    /// What of that it may reach, by the operator's list as it is now. Containers reach nothing where their engine has no root, or a runtime
    /// with a kernel of its own.
    pub network_granted: Vec<String>,
    /// When it was uploaded.
    pub created_at: Time,
}

/// One entry of a workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct WorkspaceFile {
    /// From the workspace's top.
    pub path: String,
    /// `file`, `folder`, `link` or `other`.
    pub kind: String,
    /// Its size.
    pub size_bytes: u64,
    /// When it was last changed.
    pub changed_at: Time,
}

/// What lies in a workspace, by path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct WorkspaceFiles {
    /// Files, folders and what else there is.
    pub data: Vec<WorkspaceFile>,
    /// Whether there are more than a listing shows.
    pub more: bool,
}

/// Why a snapshot was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotMade {
    /// Someone asked for it. It stays until someone removes it.
    Asked,
    /// Its sandbox was stopped for being idle. It gives way to newer ones.
    Idle,
}

impl SnapshotMade {
    /// The word for it, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Idle => "idle",
        }
    }

    /// What a word stands for.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Asked, Self::Idle].into_iter().find(|made| made.name() == name)
    }
}

/// A copy of a config's workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Snapshot {
    /// The snapshot's id.
    pub id: SnapshotId,
    /// Whose workspace it is.
    pub config_id: ConfigId,
    /// Why it was made.
    pub made: SnapshotMade,
    /// Bytes of the archive, which is compressed.
    pub size_bytes: u64,
    /// When it was begun.
    pub created_at: Time,
}

/// What a config's tools asked for over the network: one host, let through or refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Reach {
    /// The row's id.
    pub id: ReachId,
    /// Whose tools.
    pub config_id: ConfigId,
    /// `host:port` as it was asked for; `?` where that could not be read, `*` for hosts beyond those that are told apart.
    pub target: String,
    /// Whether it was let through.
    pub allowed: bool,
    /// Of the last time: the address that was dialled, or why it was refused.
    pub detail: String,
    /// How often it was asked for.
    pub attempts: u64,
    /// Bytes that went out, of connections that ended before their sandbox did.
    pub bytes_out: u64,
    /// Bytes that came in, of the same.
    pub bytes_in: u64,
    /// When it was first written down.
    pub first_at: Time,
    /// When it was last.
    pub last_at: Time,
}

/// What a sandbox is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SandboxState {
    /// No tool was called yet: there is no workspace.
    Absent,
    /// It is being started.
    Booting,
    /// Its process runs.
    Running,
    /// Its process does not run; the next call starts it. The workspace is kept.
    Stopped,
    /// It crashed too often and is left alone for a while.
    BackingOff,
}

/// A config's sandbox.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct SandboxStatus {
    /// What it is doing.
    pub state: SandboxState,
    /// What keeps its processes apart from the machine: `kernel` for namespaces and filters of a shared kernel, `engine` for a container,
    /// `engine+runtime` for one with a runtime of the operator's choice, `none` where none can be had and so nothing is run.
    #[schema(value_type = String)]
    pub isolation: Json,
    /// The digest of the bundle that it runs.
    pub bundle: Option<String>,
    /// When a tool was last called.
    pub last_used_at: Option<Time>,
    /// How its process ended the last time, in words.
    pub last_exit: Option<String>,
    /// The end of what its process wrote to stderr, secrets taken out.
    pub stderr: String,
    /// Bytes of memory that it uses now.
    pub memory_bytes: u64,
    /// What its process reached over the network of late, or was refused, in words; newest last.
    pub reached: Vec<String>,
    /// What a second of a running tool costs, in dollars.
    pub machine_second: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_read_with_values_and_written_as_names() {
        let secrets: WorkspaceSecrets = serde_json::from_str(r#"{"B":"two","A":"one"}"#).unwrap();
        assert_eq!(serde_json::to_string(&secrets).unwrap(), r#"["A","B"]"#);
        assert!(!format!("{secrets:?}").contains("one"));
        let names: WorkspaceSecrets = serde_json::from_str(r#"["A"]"#).unwrap();
        assert_eq!(names, WorkspaceSecrets([("A".to_owned(), None)].into()));
    }

    #[test]
    fn a_wrong_secret_is_not_cited() {
        for body in [r#"{"A": ["c4nary"]}"#, r#"{"A": {"x": "c4nary"}}"#] {
            let error = serde_json::from_str::<WorkspaceSecrets>(body).unwrap_err().to_string();
            assert!(error.contains("\"A\"") && !error.contains("c4nary"), "{error}");
        }
    }
}
