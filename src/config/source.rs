//! Where settings come from: flags, environment and file, each turned into the same list of path, value and origin. It knows no setting's
//! meaning; see `apply`.

use crate::error::{Error, FieldError, Result};
use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};
use toml::de::{DeTable, DeValue};

/// What a configuration is read from, strongest first: flags, environment, file, defaults.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// `--data`.
    pub data: Option<PathBuf>,
    /// `--config`; else `NIMBLESITE_CONFIG`, else `nimblesite.toml` in the data directory where there is one.
    pub file: Option<PathBuf>,
    /// Other flags, as dotted key and text.
    pub flags: Vec<(&'static str, String)>,
    /// The environment.
    pub env: BTreeMap<String, String>,
}

impl Sources {
    /// This process's environment, and no flags. Variables that are not UTF-8 are passed over: none of ours can be.
    pub fn from_process() -> Self {
        let env = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self { env: env.collect(), ..Self::default() }
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A line of a file.
    File {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
    },
    /// An environment variable.
    Env(String),
    /// A flag of the command line.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::Flag(name) => write!(f, "flag --{}", name.replace('_', "-")),
        }
    }
}

/// A value as it stands in its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// From a file: a string. From flags and environment: anything.
    Text(String),
    Number(u64),
    Flag(bool),
    List(Vec<String>),
    /// A kind that no setting has.
    Other(&'static str),
}

/// One value that someone set.
#[derive(Debug, Clone)]
pub(super) struct Setting {
    pub(super) path: Vec<String>,
    pub(super) value: Value,
    pub(super) origin: Origin,
}

const PREFIX: &str = "NIMBLESITE_";

/// Variables of ours that are not settings: the loader itself, logging, and what clients commonly export.
const NOT_SETTINGS: &[&str] = &["CONFIG", "DATA", "LOG", "LOG_FORMAT", "API_KEY", "KEY", "TOKEN", "USER_TOKEN", "URL"];

/// Kubernetes puts these into every container when a service is called `nimblesite`.
fn is_service_link(key: &str) -> bool {
    key == "PORT" || key.starts_with("PORT_") || key.starts_with("SERVICE_")
}

/// Settings of the environment. `NIMBLESITE_A__B` is `a.b`.
pub(super) fn from_env(env: &BTreeMap<String, String>) -> Vec<Setting> {
    let setting = |(name, value): (&String, &String)| {
        let key = name.strip_prefix(PREFIX)?;
        if NOT_SETTINGS.contains(&key) || is_service_link(key) || crate::failpoint::is_variable(key) {
            return None;
        }
        let path = key.split("__").map(str::to_lowercase).collect();
        Some(Setting { path, value: Value::Text(value.clone()), origin: Origin::Env(name.clone()) })
    };
    env.iter().filter_map(setting).collect()
}

/// Settings of the command line.
pub(super) fn from_flags(flags: &[(&'static str, String)]) -> Vec<Setting> {
    let setting = |(key, value): &(&'static str, String)| Setting {
        path: key.split('.').map(str::to_owned).collect(),
        value: Value::Text(value.clone()),
        origin: Origin::Flag((*key).to_owned()),
    };
    flags.iter().map(setting).collect()
}

/// Settings of a file.
pub(super) fn from_file(path: &Path) -> Result<Vec<Setting>> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Error::invalid(path.display().to_string(), format!("cannot be read: {error}; check the path and its permissions"))
    })?;
    from_toml(&text, path)
}

/// Settings of a file's text.
pub(super) fn from_toml(text: &str, path: &Path) -> Result<Vec<Setting>> {
    let lines = Lines::of(text);
    let table = DeTable::parse(text).map_err(|error| Error::ValidationFailed {
        errors: vec![FieldError {
            pointer: format!("{}:{}", path.display(), error.span().map_or(1, |span| lines.line(span.start))),
            message: error.message().to_owned(),
        }],
    })?;
    let mut settings = Vec::new();
    flatten(table.get_ref(), &mut Vec::new(), &mut |keys, value, at| {
        settings.push(Setting { path: keys.to_vec(), value, origin: Origin::File { path: path.to_owned(), line: lines.line(at) } });
    });
    Ok(settings)
}

/// Calls `each` with the path, value and position of every leaf. An empty table is a leaf too, so that an unknown one is noticed.
fn flatten(table: &DeTable<'_>, path: &mut Vec<String>, each: &mut dyn FnMut(&[String], Value, usize)) {
    for (key, value) in table {
        path.push(key.get_ref().to_string());
        match value.get_ref() {
            DeValue::Table(inner) if !inner.is_empty() => flatten(inner, path, each),
            leaf => each(path, value_of(leaf), key.span().start),
        }
        path.pop();
    }
}

fn value_of(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => u64::from_str_radix(&number.as_str().replace('_', ""), number.radix())
            .map_or(Value::Other("a negative or too large number"), Value::Number),
        DeValue::Boolean(flag) => Value::Flag(*flag),
        DeValue::Array(items) => {
            let text = |item: &toml::Spanned<DeValue<'_>>| match item.get_ref() {
                DeValue::String(text) => Some(text.to_string()),
                _ => None,
            };
            items.iter().map(text).collect::<Option<Vec<_>>>().map_or(Value::Other("an array of something other than strings"), Value::List)
        }
        DeValue::Float(_) => Value::Other("a fraction"),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Table(_) => Value::Other("a section"),
    }
}

/// Line numbers of byte positions.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at).collect())
    }

    fn line(&self, at: usize) -> usize {
        self.0.partition_point(|newline| *newline < at) + 1
    }
}
