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
    for page in [
        "README.md",
        "CHANGELOG.md",
        "docs/ARCHITECTURE.md",
        "docs/bundles.md",
        "docs/configuration.md",
        "docs/dashboard.md",
        "docs/errors.md",
        "docs/money.md",
        "docs/operations.md",
        "docs/sandbox.md",
        "docs/security.md",
    ] {
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

/// What docs/money.md says is held up by code and tests: each `path` in backticks is there, and so is each `path::name`; a name in tests/ is
/// a test that runs.
#[test]
fn the_money_page_names_code_and_tests_that_are_there() {
    let page = read("docs/money.md");
    let mut tests = 0;
    for named in page.split('`').skip(1).step_by(2).filter(|named| named.starts_with("src/") || named.starts_with("tests/")) {
        let (path, name) = named.split_once("::").map_or((named, None), |(path, name)| (path, Some(name)));
        assert!(root().join(path).exists(), "docs/money.md names {path}, which is not there");
        let Some(name) = name else { continue };
        let text = read(path);
        let at = ["fn", "struct", "trait"].iter().find_map(|kind| declared(&text, kind, name));
        let at = at.unwrap_or_else(|| panic!("docs/money.md names {name}, which is not in {path}"));
        let line = text[..at].rfind('\n').map_or(0, |end| end + 1);
        let attributes: Vec<&str> = text[..line].lines().rev().take_while(|line| line.trim_start().starts_with("#[")).collect();
        let runs = attributes.iter().any(|line| line.contains("test")) && !attributes.iter().any(|line| line.contains("ignore"));
        assert!(runs || !path.starts_with("tests/it/") || path.starts_with("tests/it/harness/"), "{path}: {name} is no test");
        tests += usize::from(runs);
    }
    assert!(tests >= 30, "the page names {tests} tests: is it still read right?");
}

/// Where a name is declared.
fn declared(text: &str, kind: &str, name: &str) -> Option<usize> {
    let head = format!("{kind} {name}");
    text.match_indices(&head).map(|(at, _)| at).find(|at| text[at + head.len()..].starts_with(['(', '<', ' ', ':', ';']))
}

/// Each attempt that docs/sandbox.md tells of is a test.
#[test]
fn the_sandbox_page_names_tests_that_are_there() {
    let page = read("docs/sandbox.md");
    let rooms = [
        "alone",
        "bundles",
        "egress",
        "engine/config",
        "engine/egress",
        "engine/mod",
        "host",
        "kernel",
        "life",
        "load",
        "money",
        "runner",
        "snapshots",
        "turns",
        "waste",
        "work",
    ];
    let mut tests: String = rooms.map(|name| read(&format!("tests/it/sandbox/{name}.rs"))).concat();
    tests.push_str(&read("src/egress/tests.rs"));
    tests.push_str(&read("src/bundle/tests.rs"));
    let (_, attempts) = page.split_once("## Attempts").expect("the table of attempts");
    let mut seen = 0;
    for line in attempts.lines().filter(|line| line.ends_with("` |")) {
        let cell = line.trim_end_matches(" |").rsplit("| ").next().unwrap_or_default();
        for name in cell.split('`').skip(1).step_by(2) {
            assert!(tests.contains(&format!("fn {name}() {{")), "docs/sandbox.md names {name}, which is no test");
            seen += 1;
        }
    }
    assert!(seen > 60, "{seen}");
    let numbers: Vec<u32> = attempts.lines().filter_map(|line| line.strip_prefix("| ")?.split(' ').next()?.parse().ok()).collect();
    assert_eq!(numbers, (1..=60).collect::<Vec<u32>>(), "every attempt has its line");
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
