//! The runner: Python in this binary, which serves a bundle's functions as MCP tools. Init lays it into each sandbox; the server tells it on its
//! stdin's first line what to serve, and the secrets. Its parts are files of their own, so that none is read before it is needed.

use super::{SandboxSpec, Secrets, Start};
use serde_json::json;
use zeroize::Zeroizing;

/// Where its files lie in a sandbox.
pub(super) const HOME: &str = "/run/nimblesite";
/// The one that is started.
pub(super) const MAIN: &str = "/run/nimblesite/runner.py";
/// All of them.
pub(super) const FILES: [(&str, &str); 4] = [
    ("runner.py", include_str!("runner/runner.py")),
    ("built_in.py", include_str!("runner/built_in.py")),
    ("files.py", include_str!("runner/files.py")),
    ("hints.py", include_str!("runner/hints.py")),
];

/// The first line: what to serve. None where something else than the runner is started.
pub(super) fn task(spec: &SandboxSpec, secrets: &Secrets) -> Option<Zeroizing<Vec<u8>>> {
    let Start::Python { module, path, tools } = &spec.start else { return None };
    let own = spec.built_ins;
    let built_ins: Vec<&str> =
        [(own.shell, "shell"), (own.read_file, "read_file"), (own.write_file, "write_file"), (own.list_files, "list_files")]
            .into_iter()
            .filter_map(|(on, name)| on.then_some(name))
            .collect();
    let secrets: serde_json::Map<_, _> = secrets.iter().map(|(name, secret)| (name.clone(), secret.expose().into())).collect();
    let task = json!({
        "module": (!module.is_empty()).then_some(module),
        "path": path,
        "tools": tools,
        "built_ins": built_ins,
        "secrets": secrets,
        "secrets_in_shell": spec.secrets_in_shell,
        "result_bytes_max": spec.result_bytes_max,
    });
    let mut line = Zeroizing::new(task.to_string().into_bytes());
    line.push(b'\n');
    Some(line)
}
