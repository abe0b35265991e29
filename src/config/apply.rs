//! What each setting means: one place that turns a path and a value into a field of the configuration, or says what would be right.

use super::{
    Limits, ProviderConfig, SandboxBackend, SandboxSettings, Secret, Signup, address,
    source::{Origin, Value},
};
use crate::{
    egress::{Pattern, Range},
    provider::{BUILT_IN, Wire},
};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// A provider as far as it was set.
#[derive(Debug, Clone, Default)]
pub(super) struct ProviderDraft {
    pub(super) wire: Option<Wire>,
    pub(super) base_url: Option<String>,
    pub(super) api_key_env: Option<String>,
    pub(super) extra_params: Vec<String>,
}

/// A configuration as far as it was set.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub(super) listen: SocketAddr,
    pub(super) public_url: Option<String>,
    pub(super) signup: Signup,
    pub(super) metrics_public: bool,
    pub(super) cors_origins: Vec<String>,
    pub(super) operator_token: Option<Secret>,
    pub(super) secret_key: Option<Secret>,
    pub(super) encryption: bool,
    pub(super) secret_key_file: Option<PathBuf>,
    pub(super) tls_cert: Option<PathBuf>,
    pub(super) tls_key: Option<PathBuf>,
    pub(super) smtp_url: Option<Secret>,
    pub(super) mail_from: String,
    pub(super) otlp_endpoint: Option<String>,
    pub(super) providers: BTreeMap<String, ProviderDraft>,
    pub(super) sandbox: SandboxSettings,
    pub(super) limits: Limits,
}

impl Default for Draft {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            public_url: None,
            signup: Signup::Open,
            metrics_public: false,
            cors_origins: Vec::new(),
            operator_token: None,
            secret_key: None,
            encryption: false,
            secret_key_file: None,
            tls_cert: None,
            tls_key: None,
            smtp_url: None,
            mail_from: "Nimblesite <nimblesite@localhost>".to_owned(),
            otlp_endpoint: None,
            providers: BTreeMap::new(),
            sandbox: SandboxSettings::default(),
            limits: Limits::default(),
        }
    }
}

/// What a setting is called, and what it is for: the table that error messages, `--print-config` and docs/configuration.md share.
/// Limits stand in [`Limits::TABLE`].
pub const SETTINGS: &[(&str, &str)] = &[
    ("listen", "Address and port that the server listens on."),
    ("public_url", "The address that people use, for links in mails and documents; `http(s)://` and `listen` by default."),
    ("signup", "Who may make an account: `open` for anyone, `closed` for the operator and invited people alone."),
    ("metrics_public", "Whether anyone may read `/metrics`; otherwise loopback and the operator token."),
    (
        "cors_origins",
        "Origins such as `https://app.example.com` whose pages may call the API from a browser; none by default, and `*` is none.",
    ),
    ("operator_token", "Turns `/api/v1/operator/*` on; at least 20 characters. Better from the environment than from a file."),
    (
        "secret_key_file",
        "Where the operator's key is, which recoverable secrets are sealed under: 64 hexadecimal digits; `secret.key` in the data directory by \
         default, made at the first start.",
    ),
    (
        "encryption",
        "Whether the files of new tenants are encrypted: `off`, or `on` in a binary that was built with the feature `encryption`.",
    ),
    ("secret_key", "That key itself; from the environment alone."),
    ("tls.cert", "Certificate chain, a PEM file; read again when it changes."),
    ("tls.key", "Private key, a PEM file; read again when it changes."),
    (
        "mail.smtp_url",
        "`smtps://user:password@host:465` or `smtp://host:25`; without it mails are written to `outbox/` in the data directory.",
    ),
    ("mail.from", "The sender of mails."),
    (
        "sandbox.backend",
        "Who fences sandboxes in: `native` for this binary, `engine` for Docker or Podman; configs with a `workspace_image` always take the engine.",
    ),
    ("sandbox.engine_socket", "The container engine's socket; by default Podman's or Docker's usual one, whichever is there."),
    ("sandbox.engine_runtime", "What the engine runs containers with, such as `runsc` or `kata`; its own choice by default."),
    ("sandbox.engine_pull", "Whether the engine pulls an image of the list that is not there: `never` or `missing`."),
    (
        "sandbox.images",
        "Container images that configs may name as `workspace_image`, as the engine knows them; none by default. With `engine`, the first is what \
         others run in.",
    ),
    (
        "sandbox.network",
        "What bundles may reach if their manifest asks for it: `host:port` each, a host also as `*.example.com` or `*`, a port also as `*`; nothing by \
         default.",
    ),
    (
        "sandbox.network_private",
        "Ranges such as `10.20.0.0/16` that the names in `sandbox.network` may lead to, beside the Internet's addresses; none by default.",
    ),
    ("sandbox.python", "The Python that bundles run in, as a path inside the sandbox."),
    ("sandbox.rootfs", "The folder whose `usr` sandboxes see as `/usr`, read-only: the host's own by default."),
    (
        "sandbox.strict",
        "Whether sandboxes need the kernel's own limits for memory and processes (cgroups) and Landlock; where they cannot be had, `false` accepts softer limits.",
    ),
    ("sandbox.uid_base", "The first user id for sandboxes, each of which gets its own, if root starts the server."),
    (
        "otlp.endpoint",
        "An OpenTelemetry collector that takes OTLP over HTTP, such as `http://127.0.0.1:4318`; else what `OTEL_EXPORTER_OTLP_ENDPOINT` names; none by default.",
    ),
    ("providers.NAME.wire", "What a provider of your own speaks: `openai`, `anthropic` or `ollama`."),
    ("providers.NAME.base_url", "Where the provider is."),
    ("providers.NAME.api_key_env", "The environment variable that holds the key; a local server may need none."),
    ("providers.NAME.extra_params", "Inference parameters allowed beyond the wire's own list."),
];

/// Limits for which 0 has a meaning of its own; everywhere else it would stop the server from working at all.
const ZERO_IS_FINE: &[&str] = &[
    "tenants_open_max",
    "lock_wait_ms",
    "refusal_pause_ms",
    "tenant_bytes_max",
    "fallbacks_max",
    "disk_free_bytes_min",
    "sandbox_snapshots_idle_max",
    "refusal_logs_per_minute",
    "conversation_wait_ms",
    "rotate_overlap_ms",
    "shutdown_ms",
    "turn_replay_ms",
    "config_cache_bytes_max",
    "history_cache_bytes_max",
    "turn_replay_bytes_max",
    "turn_replay_total_bytes_max",
    "provider_backoff_ms",
    "provider_backoff_max_ms",
    "key_proof_ms",
];

/// No limit is larger: durations would overflow clocks, sizes would overflow SQLite's integers.
const LIMIT_MAX: u64 = 1 << 50;

impl Draft {
    /// Takes one setting. The message says what would be right.
    pub(super) fn apply(&mut self, path: &[String], value: &Value, origin: &Origin) -> Result<(), String> {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        match path.as_slice() {
            ["listen"] => {
                self.listen = text(value)?.parse().map_err(|_| "expected an address and a port such as 127.0.0.1:8080".to_owned())?;
            }
            ["public_url"] => self.public_url = Some(address::base_url(text(value)?)?),
            ["signup"] => {
                self.signup = match text(value)? {
                    "open" => Signup::Open,
                    "closed" => Signup::Closed,
                    other => return Err(format!("expected open or closed, not {other:?}")),
                }
            }
            ["metrics_public"] => self.metrics_public = flag(value)?,
            ["cors_origins"] => self.cors_origins = list(value)?.iter().map(|text| address::origin(text)).collect::<Result<_, _>>()?,
            ["operator_token"] => {
                let token = text(value)?.trim();
                if token.len() < 20 || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                    return Err("expected at least 20 visible ASCII characters, such as `openssl rand -hex 32` makes".to_owned());
                }
                self.operator_token = Some(Secret::new(token.to_owned()));
            }
            ["encryption"] => {
                self.encryption = match text(value)? {
                    "off" => false,
                    "on" if cfg!(feature = "encryption") => true,
                    "on" => return Err("this nimblesite was built without encryption: build it with `--features encryption`".to_owned()),
                    other => return Err(format!("expected off or on, not {other:?}")),
                }
            }
            ["secret_key_file"] => self.secret_key_file = Some(file(value, origin)?),
            ["secret_key"] => {
                if !matches!(origin, Origin::Env(_)) {
                    return Err(
                        "this key does not belong into a file of settings: put it into NIMBLESITE_SECRET_KEY, or name its own file in \
                                secret_key_file"
                            .to_owned(),
                    );
                }
                self.secret_key = Some(Secret::new(text(value)?.trim().to_owned()));
            }
            ["tls", "cert"] => self.tls_cert = Some(file(value, origin)?),
            ["tls", "key"] => self.tls_key = Some(file(value, origin)?),
            ["mail", "smtp_url"] => {
                let url = text(value)?.trim();
                if !url.starts_with("smtp://") && !url.starts_with("smtps://") {
                    return Err("expected smtps://user:password@host:465 or smtp://host:25".to_owned());
                }
                self.smtp_url = Some(Secret::new(url.to_owned()));
            }
            ["mail", "from"] => {
                let from = text(value)?;
                if !from.contains('@') || from.chars().any(char::is_control) {
                    return Err("expected a sender such as Nimblesite <agents@example.com>".to_owned());
                }
                from.clone_into(&mut self.mail_from);
            }
            ["sandbox", "backend"] => {
                self.sandbox.backend = match text(value)? {
                    "native" => SandboxBackend::Native,
                    "engine" => SandboxBackend::Engine,
                    other => return Err(format!("expected native or engine, not {other:?}")),
                }
            }
            ["sandbox", "engine_socket"] => {
                let path = text(value)?;
                self.sandbox.engine_socket = Some(absolute(&Value::Text(path.strip_prefix("unix://").unwrap_or(path).to_owned()))?);
            }
            ["sandbox", "engine_runtime"] => self.sandbox.engine_runtime = word(value)?,
            ["sandbox", "engine_pull"] => {
                self.sandbox.engine_pull = match text(value)? {
                    "never" => false,
                    "missing" => true,
                    other => return Err(format!("expected never or missing, not {other:?}")),
                }
            }
            ["sandbox", "images"] => self.sandbox.images = list(value)?.iter().map(|name| image(name)).collect::<Result<_, _>>()?,
            ["sandbox", "network"] => {
                self.sandbox.network = list(value)?.iter().map(|text| Pattern::read(text)).collect::<Result<_, _>>()?;
            }
            ["sandbox", "network_private"] => {
                self.sandbox.network_private = list(value)?.iter().map(|text| Range::read(text)).collect::<Result<_, _>>()?;
            }
            ["sandbox", "python"] => self.sandbox.python = absolute(value)?,
            ["sandbox", "rootfs"] => self.sandbox.rootfs = absolute(value)?,
            ["sandbox", "strict"] => self.sandbox.strict = flag(value)?,
            ["sandbox", "uid_base"] => self.sandbox.uid_base = user_id(value)?,
            ["otlp", "endpoint"] => self.otlp_endpoint = Some(address::base_url(text(value)?)?),
            ["tls" | "mail" | "otlp" | "limits" | "providers" | "sandbox"] if *value == Value::Other("a section") => {}
            ["limits", name] => self.limit(name, value)?,
            ["providers", name] if *value == Value::Other("a section") => {
                self.provider(name, origin)?;
            }
            ["providers", name, field] => {
                let field = (*field).to_owned();
                let provider = self.provider(name, origin)?;
                match field.as_str() {
                    "wire" => provider.wire = Some(wire(text(value)?)?),
                    "base_url" => provider.base_url = Some(address::base_url(text(value)?)?),
                    "api_key_env" => provider.api_key_env = Some(variable(text(value)?)?),
                    "extra_params" => provider.extra_params = list(value)?,
                    "api_key" => {
                        return Err("a key does not belong into a file: put it into an environment variable and name that in api_key_env"
                            .to_owned());
                    }
                    _ => return Err(unknown(&path)),
                }
            }
            _ => return Err(unknown(&path)),
        }
        Ok(())
    }

    fn limit(&mut self, name: &str, value: &Value) -> Result<(), String> {
        let known = self.limits.get(name).is_some();
        let number = match value {
            _ if !known => return Err(unknown(&["limits", name])),
            Value::Number(number) => *number,
            Value::Text(digits) => digits.replace('_', "").parse().map_err(|_| "expected a whole number".to_owned())?,
            _ => return Err("expected a whole number".to_owned()),
        };
        if number == 0 && !ZERO_IS_FINE.contains(&name) {
            return Err("expected a whole number above zero".to_owned());
        }
        if number > LIMIT_MAX {
            return Err(format!("expected a whole number of at most {LIMIT_MAX}"));
        }
        self.limits.set(name, number);
        Ok(())
    }

    /// The provider of this name, made if it is new. A variable cannot hold a hyphen, so `MY_CORP` also finds `my-corp`.
    fn provider(&mut self, name: &str, origin: &Origin) -> Result<&mut ProviderDraft, String> {
        let plain = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-' || letter == '_';
        if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
            return Err("expected a provider's name of 1 to 64 letters a-z, digits, - and _".to_owned());
        }
        let hyphened =
            matches!(origin, Origin::Env(_)).then(|| self.providers.keys().find(|known| known.replace('-', "_") == name)).flatten();
        let name = hyphened.cloned().unwrap_or_else(|| name.to_owned());
        Ok(self.providers.entry(name).or_default())
    }
}

/// The finished provider: what was set, over what is built in.
pub(super) fn provider(
    name: &str,
    draft: &ProviderDraft,
    env: &BTreeMap<String, String>,
) -> Result<ProviderConfig, (&'static str, String)> {
    let known = BUILT_IN.iter().find(|built_in| built_in.name == name);
    let wire = match (known, draft.wire) {
        (Some(known), Some(wire)) if known.wire != wire => {
            return Err(("wire", format!("{name} is built in and speaks {}; give the other provider another name", known.wire.name())));
        }
        (Some(known), _) => known.wire,
        (None, Some(wire)) => wire,
        (None, None) => return Err(("wire", "is missing; expected openai, anthropic or ollama".to_owned())),
    };
    let base_url = match (&draft.base_url, known) {
        (Some(url), _) => url.clone(),
        (None, Some(known)) => from_variable(base_url_env(name), wire, env)
            .map_err(|message| ("base_url", message))?
            .unwrap_or_else(|| known.base_url.to_owned()),
        (None, None) => return Err(("base_url", "is missing; expected an address such as http://127.0.0.1:9000/v1".to_owned())),
    };
    // The codec's path begins with /v1; people write the base both ways.
    let base_url = if wire == Wire::Anthropic { base_url.strip_suffix("/v1").unwrap_or(&base_url).to_owned() } else { base_url };
    let key_env = draft.api_key_env.as_deref().or(known.and_then(|known| known.api_key_env));
    let api_key = key_env.map(|name| secret(name, env)).transpose().map_err(|message| ("api_key_env", message))?.flatten();
    // A vendor that answers nobody without a credential needs one, a server put in its place may not; a variable that is named is meant.
    let api_key_required = draft.api_key_env.is_some() || known.is_some_and(|known| known.api_key_required && known.base_url == base_url);
    Ok(ProviderConfig { name: name.to_owned(), wire, base_url, api_key, api_key_required, extra_params: draft.extra_params.clone() })
}

/// The collector that the usual variable names.
pub(super) fn otlp_endpoint(env: &BTreeMap<String, String>) -> Result<Option<String>, String> {
    from_variable(Some("OTEL_EXPORTER_OTLP_ENDPOINT"), Wire::OpenAi, env)
}

/// The variable that vendors' own libraries read a built-in provider's address from.
fn base_url_env(provider: &str) -> Option<&'static str> {
    match provider {
        "anthropic" => Some("ANTHROPIC_BASE_URL"),
        "openai" => Some("OPENAI_BASE_URL"),
        "moonshotai" => Some("MOONSHOT_BASE_URL"),
        "ollama" => Some("OLLAMA_HOST"),
        _ => None,
    }
}

fn from_variable(name: Option<&str>, wire: Wire, env: &BTreeMap<String, String>) -> Result<Option<String>, String> {
    let Some(name) = name else { return Ok(None) };
    let Some(text) = env.get(name).filter(|text| !text.trim().is_empty()) else { return Ok(None) };
    let url = if wire == Wire::Ollama { address::ollama_host(text) } else { address::base_url(text.trim()) };
    url.map(Some).map_err(|message| format!("{message} (environment variable {name})"))
}

/// A secret from a variable, or from the file that the variable with `_FILE` behind its name names. Empty is none.
pub(super) fn secret(name: &str, env: &BTreeMap<String, String>) -> Result<Option<Secret>, String> {
    let text = match (env.get(name), env.get(&format!("{name}_FILE"))) {
        (Some(text), _) if !text.trim().is_empty() => text.trim().to_owned(),
        (_, Some(path)) => {
            std::fs::read_to_string(path).map_err(|error| format!("{path} ({name}_FILE) cannot be read: {error}"))?.trim().to_owned()
        }
        _ => String::new(),
    };
    if text.chars().any(|letter| !letter.is_ascii_graphic()) {
        return Err(format!("the key in {name} must be visible ASCII characters alone"));
    }
    Ok((!text.is_empty()).then(|| Secret::new(text)))
}

fn text(value: &Value) -> Result<&str, String> {
    match value {
        Value::Text(text) => Ok(text),
        Value::Number(_) => Err("expected a text in quotes, not a number".to_owned()),
        Value::Flag(_) => Err("expected a text in quotes, not true or false".to_owned()),
        Value::List(_) => Err("expected one text, not a list".to_owned()),
        Value::Other(kind) => Err(format!("expected a text in quotes, not {kind}")),
    }
}

fn flag(value: &Value) -> Result<bool, String> {
    match value {
        Value::Flag(flag) => Ok(*flag),
        Value::Text(text) if text == "true" || text == "1" => Ok(true),
        Value::Text(text) if text == "false" || text == "0" => Ok(false),
        _ => Err("expected true or false".to_owned()),
    }
}

fn list(value: &Value) -> Result<Vec<String>, String> {
    match value {
        Value::List(items) => Ok(items.clone()),
        Value::Text(text) => Ok(text.split(',').map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()),
        _ => Err("expected a list of texts such as [\"top_a\"]".to_owned()),
    }
}

/// A path; one in a file is meant from that file's directory.
fn file(value: &Value, origin: &Origin) -> Result<PathBuf, String> {
    let path = Path::new(text(value)?);
    Ok(match origin {
        Origin::File { path: file, .. } => file.parent().unwrap_or(Path::new("")).join(path),
        _ => path.to_owned(),
    })
}

/// A path that means the same wherever it is read.
fn absolute(value: &Value) -> Result<PathBuf, String> {
    let path = Path::new(text(value)?);
    if path.is_absolute() { Ok(path.to_owned()) } else { Err("expected a path that begins with /".to_owned()) }
}

/// A name of letters, digits and what joins them.
fn word(value: &Value) -> Result<String, String> {
    let word = text(value)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if word.len() <= 64 && word.bytes().all(plain) { Ok(word.to_owned()) } else { Err("expected a name such as runsc".to_owned()) }
}

/// A container image as engines write it: registry, path, tag or digest. It becomes part of an address.
fn image(name: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/' | b':' | b'@');
    let fine = (1..=255).contains(&name.len())
        && name.bytes().all(plain)
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && !name.split('/').any(|part| part.is_empty() || part.starts_with('.'));
    if fine { Ok(name.to_owned()) } else { Err(format!("expected an image such as docker.io/library/python:3.13-slim, not {name:?}")) }
}

/// A user id that is no person's and no service's.
fn user_id(value: &Value) -> Result<u32, String> {
    let number = match value {
        Value::Number(number) => Some(*number),
        Value::Text(digits) => digits.replace('_', "").parse().ok(),
        _ => None,
    };
    let usual = 100_000..=3_000_000_000;
    let number = number.filter(|number| usual.contains(number)).and_then(|number| u32::try_from(number).ok());
    number.ok_or_else(|| format!("expected a user id from {} to {}", usual.start(), usual.end()))
}

fn variable(name: &str) -> Result<String, String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if name.is_empty() || !name.bytes().all(good) {
        return Err("expected the name of an environment variable such as MYCORP_KEY, not the key itself".to_owned());
    }
    Ok(name.to_owned())
}

fn wire(name: &str) -> Result<Wire, String> {
    // A second echo would be nothing but a name; the one in the binary needs no section.
    Wire::from_name(name).filter(|wire| *wire != Wire::Echo).ok_or_else(|| format!("expected openai, anthropic or ollama, not {name:?}"))
}

fn unknown(path: &[&str]) -> String {
    let asked = path.join(".");
    let shaped = |name: &str| match path {
        ["providers", provider, ..] => name.replace("NAME", provider),
        _ => name.to_owned(),
    };
    let names = SETTINGS.iter().map(|(name, _)| shaped(name)).chain(Limits::TABLE.iter().map(|limit| format!("limits.{}", limit.name)));
    let nearest = names.min_by_key(|name| distance(name, &asked)).unwrap_or_default();
    format!("no such setting; the nearest is {nearest}")
}

/// Insertions, deletions and replacements that make one text of the other (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (n, a) in left.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], n + 1);
        for (m, b) in right.iter().enumerate() {
            let best = (diagonal + usize::from(a != *b)).min(row[m] + 1).min(row[m + 1] + 1);
            diagonal = std::mem::replace(&mut row[m + 1], best);
        }
    }
    row.last().copied().unwrap_or_default()
}
