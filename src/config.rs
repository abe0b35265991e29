//! The server's configuration: every setting and every limit, with its default. Flags win over environment over file over defaults.

mod address;
mod apply;
mod limits;
mod load;
mod print;
mod source;

pub use apply::SETTINGS;
pub use limits::{LimitInfo, Limits};
pub(crate) use load::public_url;
pub use print::{Provenance, Shown};
pub use source::{Origin, Sources};

use crate::{
    egress::{Pattern, Range},
    provider::Wire,
    vault::KeySource,
};
use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};
use zeroize::Zeroizing;

/// A secret text: wiped when dropped, shown by no formatter.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the text.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text. Whoever calls this must neither log nor store it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[secret]")
    }
}

/// Who may make an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signup {
    /// Anyone with an e-mail address.
    Open,
    /// The operator alone, and people who were invited to a tenant.
    Closed,
}

/// Certificate and key for TLS, PEM files, read again when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The certificate chain.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// How mails leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// `smtp://user:password@host:port` or `smtps://…`; without it mails are written to `outbox/` in the data directory.
    pub smtp_url: Option<Secret>,
    /// The sender.
    pub from: String,
}

/// One vendor, or one server that speaks a vendor's wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderConfig {
    /// The name that configs use.
    pub name: String,
    /// What it speaks.
    pub wire: Wire,
    /// Where it is, without a trailing slash; empty for `echo`.
    pub base_url: String,
    /// The credential, read from the variable that `api_key_env` names. A local server may need none.
    pub api_key: Option<Secret>,
    /// Without the credential nothing is sent.
    pub api_key_required: bool,
    /// Inference parameters that the operator allows beyond the wire's own list.
    pub extra_params: Vec<String>,
}

impl ProviderConfig {
    /// Whether calls can be sent.
    pub fn configured(&self) -> bool {
        self.api_key.is_some() || !self.api_key_required
    }
}

/// Who fences sandboxes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SandboxBackend {
    /// This binary, with what the kernel offers.
    Native,
    /// A container engine.
    Engine,
}

/// What sandboxes are made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxSettings {
    /// Who fences in what names no image.
    pub backend: SandboxBackend,
    /// The container engine's socket; none for where it usually is.
    pub engine_socket: Option<PathBuf>,
    /// What the engine is to run containers with; empty for its own choice.
    pub engine_runtime: String,
    /// Whether the engine may pull an image of the list that is not there.
    pub engine_pull: bool,
    /// Images that configs may name; without any, containers are not used.
    pub images: Vec<String>,
    /// What bundles that ask for it may reach.
    pub network: Vec<Pattern>,
    /// Ranges beside the Internet's that they may be led to.
    pub network_private: Vec<Range>,
    /// The Python that bundles run in, as a sandbox sees it.
    pub python: PathBuf,
    /// The folder whose `usr` is the sandboxes' `/usr`.
    pub rootfs: PathBuf,
    /// No sandbox without Landlock and the kernel's own limits for memory and processes.
    pub strict: bool,
    /// The first user id of sandboxes, for a server that root started.
    pub uid_base: u32,
    /// This binary, which plays every part of the backend. No setting.
    pub program: PathBuf,
}

impl Default for SandboxSettings {
    fn default() -> Self {
        Self {
            backend: SandboxBackend::Native,
            engine_socket: None,
            engine_runtime: String::new(),
            engine_pull: false,
            images: Vec::new(),
            network: Vec::new(),
            network_private: Vec::new(),
            python: "/usr/bin/python3".into(),
            rootfs: "/".into(),
            strict: true,
            uid_base: 2_000_000,
            program: "/proc/self/exe".into(),
        }
    }
}

/// The whole configuration in force.
#[derive(Debug, Clone)]
pub struct Config {
    /// The data directory.
    pub data: PathBuf,
    /// Where the server listens.
    pub listen: SocketAddr,
    /// The address that people use, for links in mails and documents; no trailing slash.
    pub public_url: String,
    /// Who may make an account.
    pub signup: Signup,
    /// TLS, if the server itself speaks it.
    pub tls: Option<Tls>,
    /// How mails leave.
    pub mail: Mail,
    /// Turns `/api/v1/operator/*` on.
    pub operator_token: Option<Secret>,
    /// Where the operator's key is, under which recoverable secrets are sealed.
    pub secret_key: KeySource,
    /// Whether new tenants' files are encrypted. Only a binary with the feature `encryption` takes `true`.
    pub encryption: bool,
    /// Who may read `/metrics` besides loopback: bearer of the operator token, or anyone when true.
    pub metrics_public: bool,
    /// Pages of which other origins may call the API from a browser; none by default.
    pub cors_origins: Vec<String>,
    /// Providers by name.
    pub providers: BTreeMap<String, ProviderConfig>,
    /// What sandboxes are made with.
    pub sandbox: SandboxSettings,
    /// The OpenTelemetry collector to tell of turns and vendor calls; none by default.
    pub otlp_endpoint: Option<String>,
    /// Every limit.
    pub limits: Limits,
}
