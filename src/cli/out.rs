//! The one file that prints: people's text, tables, one JSON value for programs, secrets alone on their line. Nothing here knows a command.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "printing is this file's work, and no other's")]

use comfy_table::{Attribute, Cell, ColumnConstraint, ContentArrangement, Table, presets};
use serde::Serialize;
use std::io::{self, IsTerminal, Write};

/// How a command talks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Out {
    json: bool,
    quiet: bool,
    terminal: bool,
    colours: bool,
}

/// What a line says, for its colour on a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Good,
    Bad,
    Doubtful,
    Heading,
    Faint,
}

impl Out {
    /// `--json` and `--quiet`, and whether stdout is a terminal. `NO_COLOR` (no-color.org) is heeded.
    pub(super) fn new(json: bool, quiet: bool) -> Self {
        let terminal = io::stdout().is_terminal();
        let colours = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { json, quiet, terminal, colours }
    }

    /// A line for people.
    pub(super) fn say(self, text: impl AsRef<str>) {
        self.toned(Tone::Plain, text);
    }

    /// A line for people, coloured on a terminal.
    pub(super) fn toned(self, tone: Tone, text: impl AsRef<str>) {
        if !self.json && !self.quiet {
            write(&self.paint(tone, text.as_ref()));
        }
    }

    /// A text with its colour, where there are colours.
    pub(super) fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Plain => return text.to_owned(),
            Tone::Good => "32",
            Tone::Bad => "31",
            Tone::Doubtful => "33",
            Tone::Heading => "1",
            Tone::Faint => "2",
        };
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A secret or an id that scripts take: alone on its line, and all that `--quiet` leaves.
    pub(super) fn secret(self, text: &str) {
        if !self.json {
            write(text);
        }
    }

    /// The value for programs; nothing unless they asked.
    pub(super) fn value(self, value: &impl Serialize) {
        if self.json {
            match serde_json::to_string_pretty(value) {
                Ok(text) => write(&text),
                Err(error) => eprintln!("error: the result could not be written as JSON: {error}"),
            }
        }
    }

    /// One thing, as JSON or as a list of labels and values.
    pub(super) fn thing(self, value: &impl Serialize, lines: &[(&str, String)]) {
        self.value(value);
        let width = lines.iter().map(|(label, _)| label.chars().count()).max().unwrap_or_default();
        for (label, text) in lines {
            let label = format!("{label:<width$}");
            self.say(format!("{}  {}", self.paint(Tone::Faint, &label), plain(text)));
        }
    }

    /// Many things, as a JSON array or as a table. `none` is said when there are none.
    pub(super) fn things<T: Serialize>(self, values: &[T], headings: &[&str], none: &str, row: impl Fn(&T) -> Vec<String>) {
        self.value(&values);
        if self.json {
            return;
        }
        if self.quiet {
            // The first column is what names a row, for scripts to loop over.
            values.iter().filter_map(|value| row(value).into_iter().next()).for_each(|name| write(&plain(&name)));
            return;
        }
        if values.is_empty() {
            self.toned(Tone::Faint, none);
            return;
        }
        let mut table = Table::new();
        if !self.colours {
            table.force_no_tty();
        }
        table.load_style(presets::NOTHING);
        table.set_header(headings.iter().map(|heading| Cell::new(heading).add_attribute(Attribute::Bold)));
        for value in values {
            table.add_row(row(value).iter().map(|cell| plain(cell)));
        }
        if self.terminal {
            table.set_content_arrangement(ContentArrangement::Dynamic);
        } else {
            // Programs that cut columns want one line a row, however long.
            table.set_content_arrangement(ContentArrangement::Disabled);
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        // Ids are for copying: they never break.
        if let Some(column) = table.column_mut(0) {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
        for line in table.to_string().lines() {
            write(line.trim_end());
        }
    }
}

/// Text as it is, such as a document or a script.
pub(super) fn raw(bytes: &[u8]) {
    let mut stdout = io::stdout().lock();
    finish(stdout.write_all(bytes).and_then(|()| stdout.flush()));
}

fn write(line: &str) {
    raw(format!("{line}\n").as_bytes());
}

/// An error, on stderr.
pub(super) fn complain(text: &str) {
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let label = if colours { "\x1b[31merror\x1b[0m" } else { "error" };
    drop(writeln!(io::stderr().lock(), "{label}: {text}"));
}

/// A reader that went away (`nimblesite user list | head -1`) is no failure of ours; anything else is told once.
fn finish(written: io::Result<()>) {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => eprintln!("error: stdout: {error}"),
        Ok(()) => {}
    }
}

/// Names come from users: what would move the cursor or change colours is shown as a question mark.
fn plain(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_of_names_never_reach_the_terminal() {
        assert_eq!(plain("Acme\x1b[2J\nCorp"), "Acme?[2J?Corp");
    }

    #[test]
    fn colours_are_left_out_without_a_terminal() {
        let out = Out { json: false, quiet: false, terminal: false, colours: false };
        assert_eq!(out.paint(Tone::Bad, "no"), "no");
        assert_eq!(Out { colours: true, ..out }.paint(Tone::Bad, "no"), "\x1b[31mno\x1b[0m");
    }
}
