//! How a command ends when it does not end well, and what the person reads.

use super::out;
use crate::error::Error;
use std::process::ExitCode;

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub enum Failure {
    /// The command line itself is wrong: exit 2.
    Usage(String),
    /// It could not be done: exit 1.
    Failed(String),
    /// It was done and told, and the answer is no: exit 1, nothing more to say.
    Told,
}

/// What a command gives back.
pub(super) type Done = Result<(), Failure>;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Failed(say(&error))
    }
}

impl Failure {
    /// An error of the machine, with what was being done.
    pub(super) fn io(doing: impl std::fmt::Display, error: &std::io::Error) -> Self {
        Self::Failed(format!("{doing}: {error}"))
    }

    /// Tells it, and gives the exit code.
    pub(super) fn end(self) -> ExitCode {
        match self {
            Self::Usage(text) => {
                out::complain(&text);
                ExitCode::from(2)
            }
            Self::Failed(text) => {
                out::complain(&text);
                ExitCode::FAILURE
            }
            Self::Told => ExitCode::FAILURE,
        }
    }
}

/// An error in the command line's words: what is wrong, and what to do next.
pub(super) fn say(error: &Error) -> String {
    match error {
        Error::ValidationFailed { errors } => {
            // JSON pointers mean nothing to someone who typed flags.
            let line = |error: &crate::error::FieldError| match error.pointer.trim_start_matches('/') {
                "" => error.message.clone(),
                pointer => format!("{pointer}: {}", error.message),
            };
            errors.iter().map(line).collect::<Vec<_>>().join("\n       ")
        }
        // No command adds members: who belongs is the tenant's own affair.
        Error::NotFound { what: "member", .. } => {
            "the user is no member of this tenant; an admin adds members with POST /api/v1/members".to_owned()
        }
        Error::NotFound { what: "key", id } => format!("there is no key {id}; `nimblesite key list --tenant ID` shows a tenant's"),
        Error::NotFound { what, id } => format!("there is no {what} {id}; `nimblesite {what} list` shows what there is"),
        Error::EmailNotVerified => "the address is not verified; `nimblesite user verify EMAIL` marks it so".to_owned(),
        Error::TenantUnavailable => "the tenant's file cannot be opened; `nimblesite doctor` says why".to_owned(),
        Error::TenantFull => "the tenant's file has reached its size limit; `nimblesite tenant limit` raises it".to_owned(),
        Error::DiskFull => "the disk is full; free some space and try again".to_owned(),
        Error::LastOwner => "a tenant keeps at least one owner".to_owned(),
        Error::TenantSuspended => "the tenant is suspended; `nimblesite tenant resume ID` lets it chat again".to_owned(),
        Error::Overloaded { .. } | Error::TooManyChecks { .. } => "too much is waiting right now; try again in a moment".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_become_the_names_of_flags() {
        assert_eq!(say(&Error::invalid("/amount", "expected dollars")), "amount: expected dollars");
        assert_eq!(say(&Error::not_found("tenant", "x")), "there is no tenant x; `nimblesite tenant list` shows what there is");
    }
}
