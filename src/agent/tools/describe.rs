//! A bundle tried out before it is kept: unpacked, started in a sandbox that is thrown away, with no secret and no network, and asked for its
//! tools. What it says then is pinned.

use super::{
    intake::start_of,
    offer::BUILT_IN,
    session::{Begin, Session},
    yard::Yard,
};
use crate::{
    bundle::manifest::{Manifest, ToolEntry, is_tool},
    config_check::{Arguments, tool_schema_check},
    egress::{Egress, resolve_here},
    error::{Error, FieldError, Result},
    model::{Json, PinnedTool},
    sandbox::{SandboxError, SandboxId, SandboxSpec, StopReason},
};
use std::path::Path;

impl Yard {
    /// What a bundle, unpacked at `place`, says of its tools.
    ///
    /// Fails with [`Error::BundleRefused`] where the bundle is at fault, with [`Error::SandboxUnavailable`] where nothing can be tried out here.
    pub(super) async fn describe(&self, manifest: &Manifest, place: &Path, image: Option<String>) -> Result<Vec<PinnedTool>> {
        let name = format!("try-{}", crate::ids::RequestId::new());
        let id = SandboxId::new(&name).ok_or_else(|| Error::internal("a sandbox's name is none"))?;
        let spec = SandboxSpec {
            id: id.clone(),
            bundle: Some(place.to_owned()),
            start: start_of(Some(manifest)),
            limits: self.limits_of(Some(manifest)),
            network: false,
            built_ins: crate::sandbox::BuiltIns::default(),
            secrets_in_shell: false,
            result_bytes_max: self.limits.sandbox_result_bytes_max,
            image,
        };
        let told = self.tried_out(&spec, manifest).await;
        if let Err(error) = self.sandboxes.destroy(&id).await {
            tracing::warn!(%error, "a sandbox that tried a bundle out could not be removed");
        }
        self.pinned(manifest, told.map_err(|error| blamed(&error))?)
    }

    async fn tried_out(&self, spec: &SandboxSpec, manifest: &Manifest) -> std::result::Result<Vec<PinnedTool>, SandboxError> {
        let running = self.sandboxes.boot(spec, Vec::new()).await?;
        let memory_mb = spec.limits.memory_bytes / 1024 / 1024;
        let egress = Egress::new(Vec::new(), Vec::new(), &self.limits, resolve_here(), std::sync::Arc::default());
        let (redactor, label) = (super::redact::Redactor::default(), tracing::Span::none());
        let begin = Begin { running, redactor, version: 0, digest: None, memory_mb, egress, label };
        let session = Session::begin(begin, Some(&manifest.runtime), &self.limits).await?;
        let tools = session.tools(&self.limits).await;
        session.kill(StopReason::Idle).await;
        tools
    }

    /// With the manifest's own words over the bundle's, checked: names, schemas, how many.
    fn pinned(&self, manifest: &Manifest, described: Vec<PinnedTool>) -> Result<Vec<PinnedTool>> {
        let entry = |name: &str| -> Option<&ToolEntry> { manifest.tools.iter().flatten().find(|entry| entry.name == name) };
        let mut errors = Vec::new();
        let mut pinned: Vec<PinnedTool> = Vec::new();
        for mut tool in described {
            let pointer = format!("tool {}", tool.name);
            let mut wrong = |message: &str| errors.push(FieldError { pointer: pointer.clone(), message: message.to_owned() });
            if !is_tool(&tool.name) {
                wrong("Expected a name of 1–64 characters of a-z, A-Z, 0-9, _ and -.");
            }
            if BUILT_IN.contains(&tool.name.as_str()) {
                wrong("This name is a built-in tool's; choose another.");
            }
            if pinned.iter().any(|other| other.name == tool.name) {
                wrong("The name is taken by another tool.");
            }
            if let Some(entry) = entry(&tool.name) {
                tool.description = entry.description.clone().or(tool.description);
                tool.timeout_s = entry.timeout_s;
                match &entry.input_schema {
                    Some(Json::Object(schema)) => tool.parameters.clone_from(schema),
                    Some(Json::Null) | None => {}
                    Some(_) => wrong("Its input_schema is no object."),
                }
            }
            errors.extend(tool_schema_check(&format!("tool {}: ", tool.name), tool.parameters.clone(), &self.limits));
            if let Some(why) = Arguments::of(&tool.parameters).unusable() {
                errors.push(FieldError { pointer: pointer.clone(), message: format!("Its schema cannot be used: {why}.") });
            }
            pinned.push(tool);
        }
        let missing = manifest.tools.iter().flatten().filter(|entry| pinned.iter().all(|tool| tool.name != entry.name));
        errors.extend(
            missing.map(|entry| FieldError { pointer: format!("tool {}", entry.name), message: "The bundle has no such tool.".to_owned() }),
        );
        let bytes = serde_json::to_vec(&pinned).map_or(usize::MAX, |json| json.len());
        if pinned.is_empty() || pinned.len() > self.limits.tools_max || bytes > self.limits.tools_bytes_max {
            let message = format!(
                "Expected 1–{} tools whose schemas are at most {} bytes together.",
                self.limits.tools_max, self.limits.tools_bytes_max
            );
            errors.push(FieldError { pointer: "tools".to_owned(), message });
        }
        if errors.is_empty() { Ok(pinned) } else { Err(Error::BundleRefused { errors }) }
    }
}

/// A bundle that could not be tried out: its fault, or ours.
fn blamed(error: &SandboxError) -> Error {
    let refused = |message: String| Error::BundleRefused { errors: vec![FieldError { pointer: "bundle".to_owned(), message }] };
    match error {
        SandboxError::Unavailable(_) => {
            tracing::error!(%error, "a bundle could not be tried out");
            Error::SandboxUnavailable { detail: "No sandbox can be started on this server.".to_owned() }
        }
        SandboxError::Capacity(_) => Error::Overloaded { retry_after: std::time::Duration::from_secs(10) },
        SandboxError::Deadline => {
            refused("It did not describe its tools in time: does it work, wait or loop when it is imported?".to_owned())
        }
        SandboxError::OomKilled => refused("It ran out of memory before it had described its tools.".to_owned()),
        SandboxError::Crashed(stderr) => {
            refused(format!("Its process ended before it had described its tools. It said: {}", last_lines(stderr)))
        }
        SandboxError::DiskFull => refused("It filled its workspace before it had described its tools.".to_owned()),
        SandboxError::Protocol(what) => refused(what.clone()),
        SandboxError::Denied(_) | SandboxError::TooLong(_) | SandboxError::Internal(_) => {
            Error::internal(format_args!("a bundle could not be tried out: {error}"))
        }
    }
}

/// The end of a long complaint, where Python says what is wrong.
fn last_lines(text: &str) -> String {
    const LINES: usize = 5;
    let lines: Vec<&str> = text.trim().lines().collect();
    let told = lines[lines.len().saturating_sub(LINES)..].join(" | ");
    if told.is_empty() { "nothing.".to_owned() } else { told.chars().take(1_000).collect() }
}
