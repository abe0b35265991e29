//! The pages in docs/ say what the code does: their tables are made from the code's own. `UPDATE_DOCS=1 cargo test docs::` writes them anew.

use nimblesite::{
    config::{Config, Limits, Provenance, SETTINGS},
    http::codes,
};
use std::{fmt::Write, fs, path::Path};

#[test]
fn the_configuration_page_has_every_setting_and_limit() {
    let defaults = Provenance::default().shown(&Config::default_for("data".into()));
    let default = |key: &str| defaults.iter().find(|line| line.key == key).map(|line| line.value.clone()).unwrap_or_default();
    let mut settings = "| setting | default | |\n|---|---|---|\n".to_owned();
    for (key, meaning) in SETTINGS {
        writeln!(settings, "| `{key}` | {} | {meaning} |", code(&default(key))).unwrap();
    }
    let mut limits = "| limit | default | |\n|---|---|---|\n".to_owned();
    for limit in Limits::TABLE {
        let value = default(&format!("limits.{}", limit.name));
        writeln!(limits, "| `{}` | {} | {} |", limit.name, code(&value), limit.doc.trim()).unwrap();
    }
    check("docs/configuration.md", "settings", &settings);
    check("docs/configuration.md", "limits", &limits);
}

#[test]
fn the_errors_page_has_every_code() {
    let mut table = "| status | code | what happened | what it means, and what to do |\n|---|---|---|---|\n".to_owned();
    for code in codes::ALL {
        writeln!(table, "| {} | `{}` | {} | {} |", code.status, code.code, code.title, code.meaning).unwrap();
    }
    check("docs/errors.md", "codes", &table);
}

#[test]
fn every_link_of_the_pages_leads_to_a_file() {
    for page in ["README.md", "CHANGELOG.md", "docs/ARCHITECTURE.md", "docs/configuration.md", "docs/errors.md", "docs/operations.md"] {
        let text = read(page);
        let folder = root().join(page).parent().unwrap().to_owned();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap();
            assert!(
                link.starts_with("http") || file.is_empty() || folder.join(file).exists(),
                "{page} links to {link}, which is not there"
            );
        }
    }
}

fn code(value: &str) -> String {
    if value.is_empty() { String::new() } else { format!("`{value}`") }
}

/// The part of a page between its two marks is exactly this.
fn check(page: &str, part: &str, expected: &str) {
    let (begin, end) = (format!("<!-- {part}: made by tests/it/docs.rs -->\n"), format!("<!-- end of {part} -->"));
    let text = read(page);
    let (before, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("{page} has no mark {begin:?}"));
    let (found, after) = rest.split_once(&end).unwrap_or_else(|| panic!("{page} has no mark {end:?}"));
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(root().join(page), format!("{before}{begin}{expected}{end}{after}")).unwrap();
        return;
    }
    assert!(found == expected, "{page} is not what the code says: run UPDATE_DOCS=1 cargo test --test it docs::");
}

fn read(page: &str) -> String {
    fs::read_to_string(root().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
