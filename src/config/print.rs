//! The configuration in force as text, secrets hidden, with the origin of each value: what `serve --print-config` shows.

use super::{Config, Limits, SandboxBackend, Signup, source::Origin};
use crate::vault::KeySource;
use serde::Serialize;
use std::collections::BTreeMap;

/// Where each value of a configuration came from.
#[derive(Debug, Clone, Default)]
pub struct Provenance {
    pub(super) origins: BTreeMap<String, Origin>,
    /// Per provider: the variable that its key is looked for in, and where it was found.
    pub(super) key_envs: BTreeMap<String, (String, Option<Origin>)>,
}

/// One line of the configuration.
#[derive(Debug, Clone, Serialize)]
pub struct Shown {
    /// The dotted key.
    pub key: String,
    /// The value, or `[secret]`.
    pub value: String,
    /// Where it came from.
    pub from: String,
}

impl Provenance {
    /// Where the value of a dotted key came from.
    pub fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or(Origin::Default)
    }

    /// Every value in force, in the order of the documentation.
    pub fn shown(&self, config: &Config) -> Vec<Shown> {
        let mut lines = Vec::new();
        let mut line = |key: String, value: String| {
            let from = self.origin(&key).to_string();
            lines.push(Shown { key, value, from });
        };
        let path = |path: Option<&std::path::PathBuf>| path.map_or_else(String::new, |path| path.display().to_string());
        line("data".into(), config.data.display().to_string());
        line("listen".into(), config.listen.to_string());
        line("public_url".into(), config.public_url.clone());
        line("signup".into(), if config.signup == Signup::Open { "open" } else { "closed" }.into());
        line("metrics_public".into(), config.metrics_public.to_string());
        line("cors_origins".into(), config.cors_origins.join(","));
        line("operator_token".into(), hidden(config.operator_token.is_some()));
        line(
            "secret_key_file".into(),
            match &config.secret_key {
                KeySource::File(path) => path.display().to_string(),
                KeySource::Data | KeySource::Text(_) => String::new(),
            },
        );
        line("secret_key".into(), hidden(matches!(config.secret_key, KeySource::Text(_))));
        line("encryption".into(), if config.encryption { "on" } else { "off" }.into());
        line("tls.cert".into(), path(config.tls.as_ref().map(|tls| &tls.cert)));
        line("tls.key".into(), path(config.tls.as_ref().map(|tls| &tls.key)));
        line("mail.smtp_url".into(), hidden(config.mail.smtp_url.is_some()));
        line("mail.from".into(), config.mail.from.clone());
        line("sandbox.backend".into(), if config.sandbox.backend == SandboxBackend::Native { "native" } else { "engine" }.into());
        line("sandbox.engine_socket".into(), path(config.sandbox.engine_socket.as_ref()));
        line("sandbox.engine_runtime".into(), config.sandbox.engine_runtime.clone());
        line("sandbox.engine_pull".into(), if config.sandbox.engine_pull { "missing" } else { "never" }.into());
        line("sandbox.images".into(), config.sandbox.images.join(","));
        let list = |items: Vec<String>| items.join(",");
        line("sandbox.network".into(), list(config.sandbox.network.iter().map(ToString::to_string).collect()));
        line("sandbox.network_private".into(), list(config.sandbox.network_private.iter().map(ToString::to_string).collect()));
        line("sandbox.python".into(), config.sandbox.python.display().to_string());
        line("sandbox.rootfs".into(), config.sandbox.rootfs.display().to_string());
        line("sandbox.strict".into(), config.sandbox.strict.to_string());
        line("sandbox.uid_base".into(), config.sandbox.uid_base.to_string());
        line("otlp.endpoint".into(), config.otlp_endpoint.clone().unwrap_or_default());
        for (name, provider) in &config.providers {
            line(format!("providers.{name}.wire"), provider.wire.name().into());
            line(format!("providers.{name}.base_url"), provider.base_url.clone());
            line(format!("providers.{name}.extra_params"), provider.extra_params.join(","));
        }
        for limit in Limits::TABLE {
            line(format!("limits.{}", limit.name), config.limits.get(limit.name).unwrap_or_default().to_string());
        }
        for (name, (variable, found)) in &self.key_envs {
            lines.push(Shown {
                key: format!("providers.{name}.api_key"),
                value: hidden(found.is_some()),
                from: found.as_ref().map_or_else(|| format!("not set; looked for in {variable}"), ToString::to_string),
            });
        }
        lines
    }
}

fn hidden(set: bool) -> String {
    if set { "[secret]" } else { "" }.to_owned()
}
