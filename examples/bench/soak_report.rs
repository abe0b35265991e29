//! What the soak found: figures, and a verdict for each thing that is promised.

use std::fmt;

/// One promise, and whether it was kept.
#[derive(Debug)]
pub struct Verdict {
    pub what: &'static str,
    pub kept: bool,
    /// What was found.
    pub found: String,
}

#[derive(Debug, Default)]
pub struct Report {
    pub figures: Vec<(&'static str, String)>,
    pub verdicts: Vec<Verdict>,
}

impl Report {
    pub fn figure(&mut self, what: &'static str, found: impl Into<String>) {
        self.figures.push((what, found.into()));
    }

    pub fn verdict(&mut self, what: &'static str, kept: bool, found: impl Into<String>) {
        self.verdicts.push(Verdict { what, kept, found: found.into() });
    }

    /// Promises that were not kept.
    pub fn breaches(&self) -> Vec<&Verdict> {
        self.verdicts.iter().filter(|verdict| !verdict.kept).collect()
    }

    /// For docs/benchmarks.md.
    pub fn markdown(&self) -> String {
        let mut text = String::from("| | |\n|---|---|\n");
        for (what, found) in &self.figures {
            text.push_str(&format!("| {what} | {found} |\n"));
        }
        text.push_str("\n| promise | | found |\n|---|---|---|\n");
        for verdict in &self.verdicts {
            text.push_str(&format!("| {} | {} | {} |\n", verdict.what, if verdict.kept { "kept" } else { "BROKEN" }, verdict.found));
        }
        text
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, found) in &self.figures {
            writeln!(f, "       {what:<34} {found}")?;
        }
        for verdict in &self.verdicts {
            writeln!(f, "{:<6} {:<34} {}", if verdict.kept { "kept" } else { "BROKEN" }, verdict.what, verdict.found)?;
        }
        Ok(())
    }
}
