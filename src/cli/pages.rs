//! What the binary says about itself: the OpenAPI document, shell completions, manual pages.

use super::{
    Desk,
    failure::{Done, Failure},
    out,
};
use clap::Args;
use clap_complete::Shell;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct Completions {
    /// Which shell
    shell: Shell,
}

#[derive(Debug, Args)]
pub(super) struct Man {
    /// Write one page a command into this directory, instead of the main page to stdout
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Completions {
    pub(super) fn run(self, mut command: clap::Command) {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "nimblesite", &mut script);
        out::raw(&script);
    }
}

impl Man {
    pub(super) fn run(self, desk: &Desk, command: clap::Command) -> Done {
        if let Some(dir) = self.dir {
            std::fs::create_dir_all(&dir)
                .and_then(|()| clap_mangen::generate_to(command, &dir))
                .map_err(|error| Failure::io(format!("{} could not be written", dir.display()), &error))?;
            desk.out.say(format!("Wrote the manual to {}; `man -l {}` shows it.", dir.display(), dir.join("nimblesite.1").display()));
            return Ok(());
        }
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page).map_err(|error| Failure::io("the page could not be made", &error))?;
        out::raw(&page);
        Ok(())
    }
}

/// The contract's machine form, of this very binary.
pub(super) fn openapi() -> Done {
    let mut document = crate::http::document()?;
    document.push('\n');
    out::raw(document.as_bytes());
    Ok(())
}
