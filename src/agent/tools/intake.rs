//! Bundles on their way into a sandbox: taken in over the API, kept by storage, unpacked once in a life of the server, and what each of them starts.

use super::{offer, workspaces::tag, yard::Yard};
use crate::{
    bundle::{
        self, Bounds,
        manifest::{Manifest, Runtime, ToolEntry},
    },
    egress::{self, Target},
    error::{Error, FieldError, Result},
    ids::{ConfigId, RequestId, TenantId},
    model::{Bundle, ConfigBody, PinnedTool},
    sandbox::{PythonTool, SandboxLimits, Start},
    storage::{Kit, NewBundle, Principal, TenantStore},
};
use sha2::{Digest, Sha256};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

impl Yard {
    /// Where a bundle lies unpacked, which it is once in a life of the server.
    pub(super) async fn unpacked(&self, store: &TenantStore, tenant: TenantId, digest: &str) -> Result<PathBuf> {
        let place = self.bundles.join(format!("{}-{digest}", tag(tenant)));
        let mut unpacked = self.unpacked.lock().await;
        if unpacked.contains(&place) {
            return Ok(place);
        }
        let archive = store.bundle_archive(digest.to_owned()).await?;
        if archive.is_empty() {
            return Err(Error::Conflict {
                detail: "The tools were replaced while this turn ran; send another message to use the new ones.".to_owned(),
            });
        }
        self.unpack(archive.into(), place.clone()).await?;
        unpacked.insert(place.clone());
        Ok(place)
    }

    async fn unpack(&self, archive: Arc<[u8]>, place: PathBuf) -> Result<()> {
        let bounds = Bounds::of(&self.limits);
        tokio::task::spawn_blocking(move || bundle::unpack(&archive, &place, bounds)).await.map_err(Error::internal)?
    }

    /// Takes a bundle in for a config: unpacked, tried out, stored, pinned.
    pub async fn bundle_put(&self, who: &Principal, store: &TenantStore, config: ConfigId, archive: Arc<[u8]>) -> Result<Bundle> {
        let tenant = who.tenant_id();
        let body = store.config_get(config).await?.body;
        let image = self.image_of(&body)?;
        let digest: String = Sha256::digest(&archive).iter().map(|byte| format!("{byte:02x}")).collect();
        let place = self.bundles.join(format!("{}-try-{}", tag(tenant), RequestId::new()));
        self.unpack(Arc::clone(&archive), place.clone()).await?;
        let described = self.manifest_and_tools(&place, image).await;
        let trash = place.clone();
        let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(trash)).await;
        if !matches!(removed, Ok(Ok(()))) {
            tracing::warn!(place = %place.display(), "a bundle that was tried out could not be removed");
        }
        let (manifest, tools) = described?;
        let kit = Kit { digest: digest.clone(), manifest: manifest.clone(), tools: tools.clone() };
        offer::check(&body, Some(&kit))?;
        let stored = store.bundle_put(who, config, NewBundle { digest, manifest, tools, archive }).await?;
        self.stop(tenant, config).await;
        Ok(self.with_network(stored, &body).await)
    }

    /// What a config's bundle is.
    pub async fn bundle_get(&self, store: &TenantStore, config: ConfigId) -> Result<Bundle> {
        let body = store.config_get(config).await?.body;
        Ok(self.with_network(store.bundle_get(config).await?, &body).await)
    }

    async fn with_network(&self, bundle: Bundle, body: &ConfigBody) -> Bundle {
        let granted = self.granted_of(&bundle.network_asked, body.workspace_image.as_deref()).await;
        Bundle { network_granted: granted.iter().map(ToString::to_string).collect(), ..bundle }
    }

    /// What a manifest wishes to reach and may, by the operator's list.
    pub(super) async fn granted(&self, manifest: Option<&Manifest>, image: Option<&str>) -> Vec<Target> {
        match manifest {
            Some(manifest) => self.granted_of(&manifest.network.allow, image).await,
            None => Vec::new(),
        }
    }

    async fn granted_of(&self, wishes: &[String], image: Option<&str>) -> Vec<Target> {
        let granted = egress::allow::granted(wishes, &self.settings.network);
        if granted.is_empty() || self.sandboxes.has_doors(image).await { granted } else { Vec::new() }
    }

    async fn manifest_and_tools(&self, place: &Path, image: Option<String>) -> Result<(Manifest, Vec<PinnedTool>)> {
        let file = place.join(bundle::manifest::FILE);
        let read = tokio::task::spawn_blocking(move || match std::fs::metadata(&file) {
            Ok(facts) if facts.len() <= bundle::manifest::BYTES_MAX => std::fs::read(&file).ok(),
            _ => None,
        });
        let bytes = read.await.map_err(Error::internal)?;
        let missing = || {
            let message = format!("The archive has no such file at its root, or it is longer than {} bytes.", bundle::manifest::BYTES_MAX);
            Error::BundleRefused { errors: vec![FieldError { pointer: bundle::manifest::FILE.to_owned(), message }] }
        };
        let manifest = Manifest::read(&bytes.ok_or_else(missing)?)?;
        let tools = self.describe(&manifest, place, image).await?;
        Ok((manifest, tools))
    }

    /// What a manifest wishes to use, cut to the operator's caps.
    pub(super) fn limits_of(&self, manifest: Option<&Manifest>) -> SandboxLimits {
        const MB: u64 = 1024 * 1024;
        let mut limits = SandboxLimits::usual(&self.limits);
        if let Some(wish) = manifest.map(|manifest| manifest.limits) {
            limits.memory_bytes = wish.memory_mb.map_or(limits.memory_bytes, |mb| mb.saturating_mul(MB));
            limits.pids = wish.pids.unwrap_or(limits.pids);
            limits.workspace_bytes = wish.workspace_mb.map_or(limits.workspace_bytes, |mb| mb.saturating_mul(MB));
        }
        limits.within(&self.limits)
    }
}

/// What a manifest starts.
pub(super) fn start_of(manifest: Option<&Manifest>) -> Start {
    match manifest.map(|manifest| (&manifest.runtime, &manifest.tools)) {
        None => Start::Python { module: String::new(), path: Vec::new(), tools: Vec::new() },
        Some((Runtime::Python { module, path, .. }, tools)) => {
            let entry = |tool: &ToolEntry| PythonTool {
                name: tool.name.clone(),
                entry: tool.entry.clone().unwrap_or_else(|| format!("{module}:{}", tool.name)),
            };
            Start::Python { module: module.clone(), path: path.clone(), tools: tools.iter().flatten().map(entry).collect() }
        }
        Some((Runtime::Mcp { command, args, env }, _)) => Start::Command {
            command: command.strip_prefix("/bundle/").unwrap_or(command).to_owned(),
            args: args.clone(),
            env: env.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        },
    }
}
