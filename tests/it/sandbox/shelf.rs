//! What the tests of sandboxed agents stand on: bundles made on the spot or of the examples, and a config that runs one.

use crate::harness::{Answer, Server, Settings, Tenant};
use serde_json::{Value, json};
use std::{
    io::{Cursor, Write},
    path::Path,
};
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

/// A secret that nobody but a tool may ever see.
pub const CANARY: &str = "canary-secret-9b1d77f0c2";

/// A zip of these files.
pub fn zipped(files: &[(&str, &str)]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
    for (name, text) in files {
        zip.start_file(*name, options).unwrap();
        zip.write_all(text.as_bytes()).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// A Python bundle of one module.
pub fn python(code: &str) -> Vec<u8> {
    let manifest = json!({"manifest_version": 1, "name": "test", "version": "1", "runtime": {"kind": "python", "module": "tools"}});
    zipped(&[("manifest.json", &manifest.to_string()), ("tools.py", code)])
}

/// An MCP server in one Python file.
pub fn mcp(code: &str) -> Vec<u8> {
    let runtime = json!({"kind": "mcp", "command": "python3", "args": ["/bundle/server.py"]});
    let manifest = json!({"manifest_version": 1, "name": "test", "version": "1", "runtime": runtime});
    zipped(&[("manifest.json", &manifest.to_string()), ("server.py", code)])
}

/// One of the repository's examples, packed as the README packs it.
pub fn example(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let files: Vec<(String, String)> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read_to_string(&path).unwrap()))
        .collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    zipped(&files)
}

/// A server whose sandboxes run on this machine, however strict its kernel lets them be.
pub fn boxed() -> Settings {
    Settings::default().toml("sandbox.strict = false")
}

impl Server {
    /// Uploads a bundle.
    pub async fn bundle(&self, key: &str, config: &str, archive: Vec<u8>) -> Answer {
        let request = self.request("PUT", &format!("/api/v1/configs/{config}/bundle"), key);
        Answer::read(request.header("content-type", "application/zip").body(archive).send().await.expect("an answer")).await
    }

    /// A sandboxed config with a bundle.
    pub async fn boxed_config(&self, tenant: &Tenant, provider: &str, model: &str, archive: Vec<u8>, extra: &Value) -> String {
        let mut body = json!({"agent_type": "sandboxed"});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let config = self.config(tenant, provider, model, &body).await;
        self.bundle(&tenant.key, &config, archive).await.expect(200);
        config
    }

    /// A config's sandbox as the API shows it.
    pub async fn sandbox(&self, tenant: &Tenant, config: &str) -> Value {
        self.get(&format!("/api/v1/configs/{config}/sandbox"), &tenant.key).await.expect(200).json()
    }
}

/// Every file below a folder in which this text stands, as it is or in base64. By grep, which skips the holes of disk images.
pub fn found_in(folder: &Path, text: &str) -> Vec<String> {
    use base64ct::{Base64, Encoding};
    let coded = Base64::encode_string(text.as_bytes());
    let patterns = [text, coded.trim_end_matches('=')].map(|pattern| format!("--regexp={pattern}"));
    let found = std::process::Command::new("grep").args(["-rlaF"]).args(patterns).arg(folder).output().expect("grep");
    assert!(found.status.code() != Some(2) || found.stderr.is_empty(), "{}", String::from_utf8_lossy(&found.stderr));
    String::from_utf8_lossy(&found.stdout).lines().map(str::to_owned).collect()
}
