//! Puts the sources together: flags over environment over file over defaults, all faults named at once.

use super::{
    Config, Mail, Provenance, Tls,
    apply::{self, Draft},
    source::{self, Origin, Setting, Sources, Value},
};
use crate::{
    error::{Error, FieldError, Result},
    provider::BUILT_IN,
    vault::KeySource,
};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

/// The file that is read when none is named.
const FILE_NAME: &str = "nimblesite.toml";

impl Config {
    /// The configuration in force, and where each value came from. Fails with every fault of every source, each with its place and the fix.
    pub fn load(sources: &Sources) -> Result<(Self, Provenance)> {
        let (data, data_origin) = data_dir(sources);
        let named =
            sources.file.clone().or_else(|| sources.env.get("NIMBLESITE_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from));
        let usual = data.join(FILE_NAME);
        let mut settings = match named {
            Some(path) => source::from_file(&path)?,
            None if usual.exists() => source::from_file(&usual)?,
            None => Vec::new(),
        };
        settings.extend(source::from_env(&sources.env));
        settings.extend(source::from_flags(&sources.flags));
        assemble(data, data_origin, settings, &sources.env)
    }

    /// The defaults with this data directory and nothing else: what `demo` and tests start from. Built-in providers are there, without keys.
    pub fn default_for(data: PathBuf) -> Self {
        let draft = Draft::default();
        let none = BTreeMap::new();
        let providers = BUILT_IN.iter().filter_map(|built_in| apply::provider(built_in.name, &apply::ProviderDraft::default(), &none).ok());
        Self {
            data,
            listen: draft.listen,
            public_url: public_url(draft.listen, false),
            signup: draft.signup,
            tls: None,
            mail: Mail { smtp_url: None, from: draft.mail_from },
            operator_token: None,
            secret_key: KeySource::Data,
            encryption: false,
            metrics_public: draft.metrics_public,
            cors_origins: draft.cors_origins,
            otlp_endpoint: None,
            providers: providers.map(|provider| (provider.name.clone(), provider)).collect(),
            sandbox: draft.sandbox,
            limits: draft.limits,
        }
    }
}

fn data_dir(sources: &Sources) -> (PathBuf, Origin) {
    match (&sources.data, sources.env.get("NIMBLESITE_DATA").filter(|path| !path.is_empty())) {
        (Some(path), _) => (path.clone(), Origin::Flag("data".to_owned())),
        (None, Some(path)) => (PathBuf::from(path), Origin::Env("NIMBLESITE_DATA".to_owned())),
        (None, None) => (PathBuf::from("data"), Origin::Default),
    }
}

fn assemble(data: PathBuf, data_origin: Origin, settings: Vec<Setting>, env: &BTreeMap<String, String>) -> Result<(Config, Provenance)> {
    let mut faults = Faults::default();
    let mut draft = Draft::default();
    let mut origins = BTreeMap::from([("data".to_owned(), data_origin)]);
    for built_in in &BUILT_IN {
        draft.providers.entry(built_in.name.to_owned()).or_default();
    }
    for setting in settings {
        let setting = match secret_of_file(setting) {
            Ok(setting) => setting,
            Err((setting, message)) => {
                faults.add(&setting.path.join("."), &setting.origin, message);
                continue;
            }
        };
        let key = setting.path.join(".");
        match draft.apply(&setting.path, &setting.value, &setting.origin) {
            Ok(()) => drop(origins.insert(key, setting.origin)),
            Err(message) => faults.add(&key, &setting.origin, message),
        }
    }
    let mut providers = BTreeMap::new();
    for (name, provider) in &draft.providers {
        match apply::provider(name, provider, env) {
            Ok(provider) => drop(providers.insert(name.clone(), provider)),
            Err((field, message)) => {
                let key = format!("providers.{name}.{field}");
                let first = origins.iter().find(|(set, _)| set.starts_with(&format!("providers.{name}"))).map(|(_, origin)| origin);
                faults.add(&key, origins.get(&key).or(first).unwrap_or(&Origin::Default), message);
            }
        }
    }
    let tls = match (&draft.tls_cert, &draft.tls_key) {
        (Some(cert), Some(key)) => Some(Tls { cert: cert.clone(), key: key.clone() }),
        (None, None) => None,
        (cert, _) => {
            let (given, missing) = if cert.is_some() { ("tls.cert", "tls.key") } else { ("tls.key", "tls.cert") };
            faults.add(given, origins.get(given).unwrap_or(&Origin::Default), format!("needs {missing} beside it"));
            None
        }
    };
    let key_envs = key_envs(&draft, env);
    let secret_key = match (draft.secret_key, draft.secret_key_file) {
        (Some(_), Some(_)) => {
            let origin = origins.get("secret_key_file").unwrap_or(&Origin::Default);
            faults.add("secret_key_file", origin, "stands beside secret_key: give one of them".to_owned());
            KeySource::Data
        }
        (Some(text), None) => KeySource::Text(text),
        (None, Some(path)) => KeySource::File(path),
        (None, None) => KeySource::Data,
    };
    let otlp_endpoint = match draft.otlp_endpoint.clone().map_or_else(|| apply::otlp_endpoint(env), |set| Ok(Some(set))) {
        Ok(endpoint) => endpoint,
        Err(message) => {
            faults.add("otlp.endpoint", &Origin::Env("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned()), message);
            None
        }
    };
    if draft.otlp_endpoint.is_none() && otlp_endpoint.is_some() {
        origins.insert("otlp.endpoint".to_owned(), Origin::Env("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned()));
    }
    faults.into_result()?;
    let provenance = Provenance { origins, key_envs };
    let public_url = draft.public_url.unwrap_or_else(|| public_url(draft.listen, tls.is_some()));
    let config = Config {
        data,
        listen: draft.listen,
        public_url,
        signup: draft.signup,
        tls,
        mail: Mail { smtp_url: draft.smtp_url, from: draft.mail_from },
        operator_token: draft.operator_token,
        secret_key,
        encryption: draft.encryption,
        metrics_public: draft.metrics_public,
        cors_origins: draft.cors_origins,
        otlp_endpoint,
        providers,
        sandbox: draft.sandbox,
        limits: draft.limits,
    };
    Ok((config, provenance))
}

/// The address of a listener as this machine reaches it: where it listens on every interface, loopback stands for them.
pub(crate) fn public_url(listen: SocketAddr, tls: bool) -> String {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::from(std::net::Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    format!("{}://{}", if tls { "https" } else { "http" }, SocketAddr::new(ip, listen.port()))
}

/// `NIMBLESITE_OPERATOR_TOKEN_FILE` and its like name a file that holds the secret, as container platforms hand secrets over.
fn secret_of_file(mut setting: Setting) -> std::result::Result<Setting, (Setting, String)> {
    let last = setting.path.last().cloned().unwrap_or_default();
    let Some(stem) = last.strip_suffix("_file") else { return Ok(setting) };
    let (Origin::Env(_), Value::Text(path)) = (&setting.origin, &setting.value) else { return Ok(setting) };
    let is_secret = matches!((setting.path.len(), stem), (1, "operator_token"))
        || (setting.path.len() == 2 && setting.path[0] == "mail" && stem == "smtp_url");
    if !is_secret {
        return Ok(setting);
    }
    match std::fs::read_to_string(Path::new(path)) {
        Ok(text) => {
            setting.value = Value::Text(text.trim().to_owned());
            let at = setting.path.len() - 1;
            stem.clone_into(&mut setting.path[at]);
            Ok(setting)
        }
        Err(error) => {
            let message = format!("{path} cannot be read: {error}");
            Err((setting, message))
        }
    }
}

/// Per provider the variable that its key was looked for in, and the one it was found in.
fn key_envs(draft: &Draft, env: &BTreeMap<String, String>) -> BTreeMap<String, (String, Option<Origin>)> {
    let one = |(name, provider): (&String, &apply::ProviderDraft)| {
        let built_in = BUILT_IN.iter().find(|built_in| built_in.name == name).and_then(|built_in| built_in.api_key_env).map(str::to_owned);
        let variable = provider.api_key_env.clone().or(built_in)?;
        let set = |variable: &str| env.get(variable).is_some_and(|text| !text.trim().is_empty());
        let file = format!("{variable}_FILE");
        let found = if set(&variable) { Some(variable.clone()) } else { set(&file).then_some(file) };
        Some((name.clone(), (variable, found.map(Origin::Env))))
    };
    draft.providers.iter().filter_map(one).collect()
}

#[derive(Default)]
struct Faults(Vec<FieldError>);

impl Faults {
    fn add(&mut self, key: &str, origin: &Origin, message: String) {
        let pointer = if *origin == Origin::Default { key.to_owned() } else { format!("{origin}: {key}") };
        self.0.push(FieldError { pointer, message });
    }

    fn into_result(self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(Error::ValidationFailed { errors: self.0 }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Signup;
    use std::time::Duration;

    fn load(toml: &str, env: &[(&str, &str)], flags: &[(&'static str, &str)]) -> Result<(Config, Provenance)> {
        let env: BTreeMap<_, _> = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut settings = source::from_toml(toml, Path::new("/etc/n.toml"))?;
        settings.extend(source::from_env(&env));
        settings.extend(source::from_flags(&flags.iter().map(|(key, value)| (*key, (*value).to_owned())).collect::<Vec<_>>()));
        assemble(PathBuf::from("data"), Origin::Default, settings, &env)
    }

    fn fault(toml: &str, env: &[(&str, &str)]) -> String {
        load(toml, env, &[]).unwrap_err().to_string()
    }

    #[test]
    fn flags_win_over_environment_over_file_over_defaults() {
        let toml = "signup = \"closed\"\nlisten = \"127.0.0.1:1\"\n[limits]\ntools_max = 1\nbody_timeout_ms = 1_000\n";
        let env = [("NIMBLESITE_LISTEN", "127.0.0.1:2"), ("NIMBLESITE_LIMITS__TOOLS_MAX", "2")];
        let (config, from) = load(toml, &env, &[("listen", "127.0.0.1:3")]).unwrap();
        assert_eq!((config.signup, config.listen.port(), config.limits.tools_max), (Signup::Closed, 3, 2));
        assert_eq!(config.limits.body_timeout_ms, Duration::from_secs(1));
        assert_eq!(config.public_url, "http://127.0.0.1:3");
        assert_eq!(from.origin("listen").to_string(), "flag --listen");
        assert_eq!(from.origin("signup").to_string(), "/etc/n.toml:1");
        assert_eq!(from.origin("limits.tools_max").to_string(), "environment variable NIMBLESITE_LIMITS__TOOLS_MAX");
        assert_eq!(from.origin("mail.from"), Origin::Default);
    }

    #[test]
    fn unknown_settings_are_refused_with_their_place_and_the_nearest_known() {
        assert_eq!(
            fault("\n[limits]\ntool_max = 3", &[]),
            "/etc/n.toml:3: limits.tool_max: no such setting; the nearest is limits.tools_max"
        );
        assert_eq!(
            fault("", &[("NIMBLESITE_SIGNUPS", "closed")]),
            "environment variable NIMBLESITE_SIGNUPS: signups: no such setting; the nearest is signup"
        );
        assert!(fault("[providers.mine]\nwires = \"openai\"", &[]).contains("the nearest is providers.mine.wire"));
        assert!(fault("[nothing]", &[]).contains("no such setting"));
        assert!(load("", &[("NIMBLESITE_PORT_8080_TCP", "tcp://10.0.0.1:8080"), ("NIMBLESITE_DATA", "x")], &[]).is_ok());
    }

    #[test]
    fn every_fault_is_named_at_once_and_says_what_is_right() {
        let text = fault("listen = 8080\nsignup = \"maybe\"\n[limits]\ntools_max = 0\n[tls]\ncert = \"c.pem\"\n", &[]);
        for part in [
            "/etc/n.toml:1: listen: expected a text in quotes, not a number",
            "/etc/n.toml:2: signup: expected open or closed",
            "/etc/n.toml:4: limits.tools_max: expected a whole number above zero",
            "/etc/n.toml:6: tls.cert: needs tls.key beside it",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(fault("listen = \n", &[]).starts_with("/etc/n.toml:1: "));
    }

    #[test]
    fn every_limit_can_be_set_by_its_name() {
        for limit in crate::config::Limits::TABLE {
            let (config, _) = load(&format!("[limits]\n{} = 77", limit.name), &[], &[]).unwrap();
            assert_eq!(config.limits.get(limit.name), Some(77), "{}", limit.name);
        }
    }

    #[test]
    fn providers_read_the_usual_variables() {
        let env = [
            ("ANTHROPIC_API_KEY", "sk-a"),
            ("ANTHROPIC_BASE_URL", "http://127.0.0.1:1/v1/"),
            ("OLLAMA_HOST", "0.0.0.0"),
            ("OPENAI_API_KEY", ""),
        ];
        let (config, _) = load("", &env, &[]).unwrap();
        let anthropic = &config.providers["anthropic"];
        assert_eq!((anthropic.base_url.as_str(), anthropic.api_key.as_ref().unwrap().expose()), ("http://127.0.0.1:1", "sk-a"));
        assert_eq!(config.providers["ollama"].base_url, "http://127.0.0.1:11434");
        assert_eq!(config.providers["openai"].api_key, None);
        assert!(fault("", &[("OPENAI_BASE_URL", "api.openai.com")]).contains("OPENAI_BASE_URL"));
    }

    #[test]
    fn own_providers_need_a_wire_and_an_address() {
        let toml = "[providers.my-corp]\nwire = \"openai\"\nbase_url = \"http://127.0.0.1:9000/v1\"\napi_key_env = \"MYCORP_KEY\"\nextra_params = [\"top_a\"]\n";
        let env = [("MYCORP_KEY", "k"), ("NIMBLESITE_PROVIDERS__MY_CORP__BASE_URL", "http://127.0.0.1:9001/v1")];
        let (config, from) = load(toml, &env, &[]).unwrap();
        let mine = &config.providers["my-corp"];
        assert_eq!((mine.base_url.as_str(), mine.extra_params.as_slice()), ("http://127.0.0.1:9001/v1", ["top_a".to_owned()].as_slice()));
        assert_eq!(from.key_envs["my-corp"].1, Some(Origin::Env("MYCORP_KEY".to_owned())));
        assert!(mine.configured() && !load(toml, &env[1..], &[]).unwrap().0.providers["my-corp"].configured());
        assert!(fault("[providers.mine]\nwire = \"openai\"", &[]).contains("providers.mine.base_url: is missing"));
        assert!(fault("[providers.mine]\nbase_url = \"http://a\"", &[]).contains("providers.mine.wire: is missing"));
        assert!(fault("[providers.openai]\nwire = \"ollama\"", &[]).contains("built in"));
        assert!(fault("[providers.openai]\napi_key = \"sk\"", &[]).contains("api_key_env"));
    }

    #[test]
    fn secrets_are_shown_by_nothing() {
        let env = [
            ("NIMBLESITE_OPERATOR_TOKEN", "0123456789abcdefghij"),
            ("NIMBLESITE_MAIL__SMTP_URL", "smtp://u:hunter2@h:25"),
            ("OPENAI_API_KEY", "sk-secret"),
            ("NIMBLESITE_SECRET_KEY", "5ec2e7"),
        ];
        let (config, from) = load("", &env, &[]).unwrap();
        let shown = format!(
            "{config:?} {from:?} {}",
            from.shown(&config).iter().map(|line| [line.key.as_str(), &line.value].join(" ")).collect::<Vec<_>>().join("\n")
        );
        for secret in ["0123456789abcdefghij", "hunter2", "sk-secret", "5ec2e7"] {
            assert!(!shown.contains(secret), "{secret}");
        }
        assert!(shown.contains("operator_token [secret]"));
    }

    #[test]
    fn the_operator_s_key_comes_from_one_place_and_from_no_file_of_settings() {
        let (config, _) = load("secret_key_file = \"keys/secret.key\"", &[], &[]).unwrap();
        assert!(matches!(&config.secret_key, KeySource::File(path) if path == Path::new("/etc/keys/secret.key")));
        let (config, _) = load("", &[("NIMBLESITE_SECRET_KEY_FILE", "/run/secrets/key")], &[]).unwrap();
        assert!(
            matches!(&config.secret_key, KeySource::File(path) if path == Path::new("/run/secrets/key")),
            "the path, not what is in it"
        );
        assert!(fault("secret_key = \"abc\"", &[]).contains("NIMBLESITE_SECRET_KEY"));
        assert!(fault("secret_key_file = \"k\"", &[("NIMBLESITE_SECRET_KEY", "abc")]).contains("give one of them"));
    }

    #[test]
    fn the_defaults_are_what_an_empty_configuration_gives() {
        let (loaded, _) = load("", &[], &[]).unwrap();
        assert_eq!(format!("{loaded:?}"), format!("{:?}", Config::default_for(PathBuf::from("data"))));
    }
}
