//! The command line: arguments, the data directory, exit codes (0 done, 1 failed, 2 wrong usage). One file a command group; `out` prints,
//! `failure` words what went wrong. Commands talk to `storage` directly and take effect at a running server's next request.

mod audit;
mod backup;
mod card;
mod credit;
mod demo;
mod demo_client;
mod doctor;
mod failure;
mod key;
mod log;
mod migrate;
mod models;
mod out;
mod pages;
mod parse;
mod serve;
pub mod server;
mod tenant;
mod user;

use crate::{
    clock::{Clock, Time},
    config::{Config, Provenance, Sources},
    model::{List, Order, Page},
    storage::{Mode, Operator, Storage},
};
use clap::{Args, CommandFactory, Parser, Subcommand};
use failure::Done;
pub use failure::Failure;
use out::Out;
use std::{future::Future, path::PathBuf, process::ExitCode};

/// Agents as a service in one binary: one SQLite file per tenant, a prepaid wallet that cannot be overspent.
#[derive(Debug, Parser)]
#[command(name = "nimblesite", version, max_term_width = 110, arg_required_else_help = true, after_help = AFTER_HELP)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
First run:  nimblesite demo
To serve:   nimblesite serve
Settings:   flags, then NIMBLESITE_* variables, then nimblesite.toml in the data directory; `nimblesite serve --print-config` shows them
Exit codes: 0 done, 1 failed, 2 wrong usage";

/// What every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "For every command")]
struct Global {
    /// The data directory [env: NIMBLESITE_DATA] [default: ./data]
    #[arg(long, global = true, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The configuration file [env: NIMBLESITE_CONFIG] [default: nimblesite.toml in the data directory]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print one JSON value
    #[arg(long, global = true)]
    json: bool,
    /// Print nothing but what was asked for: a secret, or the ids of a list
    #[arg(long, short, global = true, conflicts_with = "json")]
    quiet: bool,
    /// Form of the log lines on stderr [env: NIMBLESITE_LOG_FORMAT] [default: pretty on a terminal, else json]
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<log::LogFormat>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server
    Serve(serve::Serve),
    /// Run the server with a demo: a user, a tenant, a key, a config and a conversation with a tool call
    Demo(demo::Demo),
    /// Accounts
    #[command(subcommand)]
    User(user::User),
    /// Customers: each has its own database file
    #[command(subcommand)]
    Tenant(tenant::Tenant),
    /// API keys
    #[command(subcommand)]
    Key(key::Key),
    /// A tenant's prepaid wallet
    #[command(subcommand)]
    Credit(credit::Credit),
    /// The rate card: which models can be called, and what they cost
    #[command(subcommand)]
    Models(models::Models),
    /// Who made, changed or ended what: a tenant's audit log, or the server's own
    Audit(audit::Audit),
    /// Copy everything into a dated set, checked, while the server runs or not
    Backup(backup::Backup),
    /// Bring back one tenant's content, or everything into an empty data directory
    Restore(backup::Restore),
    /// Check files, schema versions, ledgers, permissions, disk and providers, and say what to do
    Doctor,
    /// Bring every tenant's file to this version
    Migrate,
    /// Print the OpenAPI document
    Openapi,
    /// Print a completion script for a shell
    Completions(pages::Completions),
    /// Print the manual page, or write one a command
    Man(pages::Man),
}

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    if let Some(ended) = crate::sandbox::stage() {
        return ended;
    }
    // Whatever the shell or the supervisor left us: no file or socket that we make is for other users of the machine.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version end well, on stdout; wrong usage ends with 2, on stderr. A closed pipe is nobody's fault.
            drop(error.print());
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.end(),
    }
}

fn dispatch(cli: Cli) -> Done {
    let desk = Desk { out: Out::new(cli.global.json, cli.global.quiet), global: cli.global };
    let usual_log = if matches!(cli.command, Command::Serve(_)) { "info" } else { "warn" };
    log::start(desk.global.log_format, usual_log)?;
    match cli.command {
        Command::Serve(serve) => serve.run(&desk),
        Command::Demo(demo) => demo.run(&desk),
        Command::User(user) => user.run(&desk),
        Command::Tenant(tenant) => tenant.run(&desk),
        Command::Key(key) => desk.with_storage(async |room| key.run(&room).await),
        Command::Credit(credit) => desk.with_storage(async |room| credit.run(&room).await),
        Command::Models(models) => models.run(&desk),
        Command::Audit(audit) => desk.with_storage(async |room| audit.run(&room).await),
        Command::Backup(backup) => desk.with_storage(async |room| backup.run(room).await),
        Command::Restore(restore) => restore.run(&desk),
        Command::Doctor => doctor::run(&desk),
        Command::Migrate => desk.with_storage(async |room| migrate::run(&room).await),
        Command::Openapi => pages::openapi(),
        Command::Completions(completions) => {
            completions.run(Cli::command());
            Ok(())
        }
        Command::Man(man) => man.run(&desk, Cli::command()),
    }
}

/// What a command stands at: how to talk, and where the settings come from.
struct Desk {
    out: Out,
    global: Global,
}

/// A command's view of the data directory, beside a running server or without one.
struct Room {
    out: Out,
    config: Config,
    storage: Storage,
    operator: Operator,
}

impl Desk {
    /// The settings in force. `flags` are those of the command itself.
    fn config(&self, flags: Vec<(&'static str, String)>) -> Result<(Config, Provenance), Failure> {
        let sources = Sources { data: self.global.data.clone(), file: self.global.config.clone(), flags, ..Sources::from_process() };
        // A setting that is not acceptable is wrong usage, wherever it was written.
        Config::load(&sources).map_err(|error| Failure::Usage(failure::say(&error)))
    }

    /// Makes the data directory and its catalog unless they are there.
    fn make_data_dir(&self) -> Done {
        let (config, _) = self.config(Vec::new())?;
        if !config.data.is_dir() {
            Storage::of(&config, Mode::Server)?.close();
        }
        Ok(())
    }

    /// The settings in force, for what needs a data directory that is there.
    fn config_of_data(&self) -> Result<Config, Failure> {
        let (config, _) = self.config(Vec::new())?;
        if config.data.is_dir() {
            return Ok(config);
        }
        let data = config.data.display();
        Err(Failure::Failed(format!(
            "there is no data directory {data}; `nimblesite serve` and `nimblesite user create` make one, --data names another"
        )))
    }

    /// Runs work on the data directory's rows.
    fn with_storage(&self, work: impl AsyncFnOnce(Room) -> Done) -> Done {
        let config = self.config_of_data()?;
        runtime(&config)?.block_on(async {
            let storage = Storage::of(&config, Mode::Beside)?;
            let room = Room { out: self.out, operator: storage.operator_here(), storage: storage.clone(), config };
            let done = work(room).await;
            storage.close();
            done
        })
    }
}

/// The runtime of commands and of the server: blocking threads carry storage and hashing.
fn runtime(config: &Config) -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(config.limits.blocking_threads_max)
        .enable_all()
        .build()
        .map_err(|error| Failure::io("the runtime could not be started", &error))
}

/// All rows of a list, page by page.
async fn every<T: utoipa::ToSchema, F: Future<Output = crate::error::Result<List<T>>>>(
    mut page: impl FnMut(Page) -> F,
) -> crate::error::Result<Vec<T>> {
    let mut rows = Vec::new();
    let mut next = Page::first(Page::LIMIT_MAX, Order::Asc);
    loop {
        let found = page(next.clone()).await?;
        rows.extend(found.data);
        match found.last_id {
            Some(id) if found.has_more => next.after = Some(id),
            _ => return Ok(rows),
        }
    }
}

/// A time as tables show it: to the second, in UTC.
fn moment(time: Time) -> String {
    let text = time.to_string();
    text.get(..19).map_or_else(|| text.clone(), |second| format!("{}Z", second.replace('T', " ")))
}

/// A time that may be missing.
fn moment_or(time: Option<Time>, none: &str) -> String {
    time.map_or_else(|| none.to_owned(), moment)
}

/// An instant so much later than now.
fn from_now(while_: std::time::Duration) -> Time {
    Clock.now().plus(while_)
}

/// A count of bytes as people read it.
fn bytes(count: u64) -> String {
    indicatif::HumanBytes(count).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_stand_before_or_behind_the_command() {
        for line in [["nimblesite", "--quiet", "key", "list", "--tenant"], ["nimblesite", "key", "list", "--quiet", "--tenant"]] {
            let id = crate::ids::TenantId::new().to_string();
            let cli = Cli::try_parse_from(line.into_iter().chain([id.as_str()])).unwrap();
            assert!(cli.global.quiet);
        }
        assert_eq!(Cli::try_parse_from(["nimblesite", "key", "list"]).unwrap_err().exit_code(), 2);
    }
}
