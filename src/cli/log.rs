//! What the process tells about itself while it runs, on stderr: for people on a terminal, as JSON lines elsewhere.

use super::failure::Failure;
use clap::ValueEnum;
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

/// Sets logging up. `NIMBLESITE_LOG` filters in the form of `RUST_LOG` (`info`, `nimblesite=debug,warn`); `usual` stands when it is not set.
pub(super) fn start(format: Option<LogFormat>, usual: &str) -> Result<(), Failure> {
    let from_env = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    let wanted = from_env("NIMBLESITE_LOG").unwrap_or_else(|| usual.to_owned());
    let filter = EnvFilter::try_new(&wanted).map_err(|error| {
        Failure::Usage(format!("NIMBLESITE_LOG={wanted}: {error}; expected a filter such as info or nimblesite=debug,warn"))
    })?;
    // It would cite what comes out of sandboxes, secrets included.
    let quiet = "rmcp=off".parse().map_err(|error| Failure::Failed(format!("logging could not be set up: {error}")))?;
    let filter = filter.add_directive(quiet);
    let terminal = std::io::stderr().is_terminal();
    let format = match (format, from_env("NIMBLESITE_LOG_FORMAT").as_deref()) {
        (Some(format), _) => format,
        (None, Some("json")) => LogFormat::Json,
        (None, Some("pretty")) => LogFormat::Pretty,
        (None, Some(other)) => return Err(Failure::Usage(format!("NIMBLESITE_LOG_FORMAT={other}: expected pretty or json"))),
        (None, None) if terminal => LogFormat::Pretty,
        (None, None) => LogFormat::Json,
    };
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let set = match format {
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).try_init(),
        LogFormat::Pretty => lines.with_ansi(terminal && std::env::var_os("NO_COLOR").is_none()).with_target(false).try_init(),
    };
    set.map_err(|error| Failure::Failed(format!("logging could not be set up: {error}")))
}
