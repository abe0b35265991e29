//! Rules about this repository, as tests: who may name which crate, who may import whom, how statements filter, how long files may grow. A rule
//! that nobody checks is a wish.

use nimblesite::{config::Limits, http::codes};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below a folder of the repository with one of these endings: its path below the root, and its text.
fn files(folder: &str, endings: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().and_then(|end| end.to_str()).is_some_and(|end| endings.contains(&end)) {
                let name = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

fn sources() -> Vec<(String, String)> {
    let sources = files("src", &["rs"]);
    assert!(sources.len() > 50);
    sources
}

/// What stands in a Rust file: its code without comments and strings, and its strings.
struct Lexed {
    code: String,
    strings: Vec<String>,
}

fn lexed(text: &str) -> Lexed {
    let (mut code, mut strings) = (String::new(), Vec::new());
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        if rest.starts_with("//") {
            at += rest.find('\n').unwrap_or(rest.len());
        } else if rest.starts_with("/*") {
            at += rest.find("*/").map_or(rest.len(), |end| end + 2);
        } else if let Some(hashes) = raw_string(rest) {
            let begin = at + hashes + 2;
            let end = format!("\"{}", "#".repeat(hashes));
            let length = text[begin..].find(&end).unwrap_or(text.len() - begin);
            strings.push(text[begin..begin + length].to_owned());
            at = begin + length + end.len();
        } else if rest.starts_with('"') {
            let (string, length) = string(rest);
            strings.push(string);
            at += length;
        } else if let Some(length) = character(rest) {
            at += length;
        } else {
            let next = rest.chars().next().unwrap();
            code.push(next);
            at += next.len_utf8();
        }
    }
    Lexed { code, strings }
}

/// The number of hashes when a raw string begins here.
fn raw_string(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix('r')?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    after[hashes..].starts_with('"').then_some(hashes)
}

/// A string that begins here, line continuations joined, and its length in the file.
fn string(rest: &str) -> (String, usize) {
    let mut string = String::new();
    let mut chars = rest.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (string, at + 1),
            '\\' => match chars.next() {
                Some((_, '\n')) => while chars.next_if(|(_, c)| c.is_whitespace()).is_some() {},
                Some((_, 'n')) => string.push('\n'),
                Some((_, c)) => string.push(c),
                None => break,
            },
            c => string.push(c),
        }
    }
    (string, rest.len())
}

/// The length of a character literal that begins here. A lifetime is none.
fn character(rest: &str) -> Option<usize> {
    let inner = rest.strip_prefix('\'')?;
    if let Some(escaped) = inner.strip_prefix('\\') {
        return escaped.find('\'').map(|end| if escaped.starts_with('\'') { 4 } else { end + 3 });
    }
    let first = inner.chars().next()?;
    inner[first.len_utf8()..].starts_with('\'').then(|| first.len_utf8() + 2)
}

#[test]
fn the_lexer_of_these_tests_tells_code_from_text() {
    let lexed = lexed("let a = 'x'; // no::code\nfoo(\"a \\\"b\\\" \\\n    c\", r#\"raw \"quoted\"\"#, '\\'', &'a str); /* more */ end");
    assert_eq!(lexed.strings, ["a \"b\" c", "raw \"quoted\""]);
    assert!(!lexed.code.contains("no::code") && !lexed.code.contains("more") && lexed.code.contains("&'a str); "), "{}", lexed.code);
}

/// Where a name stands as a word of its own before `::`, not behind another path.
fn names(code: &str, krate: &str) -> bool {
    let found = |pattern: &str| {
        code.match_indices(pattern).any(|(at, _)| {
            let before = code[..at].chars().next_back();
            !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
        })
    };
    found(&format!("{krate}::")) || found(&format!("use {krate};")) || found(&format!("use {krate} as "))
}

/// Which files may name a crate: paths below `src/`, a folder with its slash. `*` is for the few that are part of the language here.
const ROOMS: &[(&str, &[&str])] = &[
    ("argon2", &["secret.rs"]),
    ("base64ct", &["agent/tools/redact.rs", "vault.rs"]),
    ("arc-swap", &["agent/", "app.rs", "cli/", "http/"]),
    (
        "blake3",
        &[
            "agent/",
            "cli/demo.rs",
            "http/assets.rs",
            "rates.rs",
            "secret.rs",
            "storage/access.rs",
            "storage/backups.rs",
            "storage/proof.rs",
            "storage/sqlite/export.rs",
            "vault.rs",
        ],
    ),
    ("bollard", &["sandbox/engine/"]),
    ("bytes", &["http/", "provider/"]),
    ("chacha20poly1305", &["vault.rs"]),
    ("clap", &["cli/"]),
    ("clap_complete", &["cli/"]),
    ("clap_mangen", &["cli/"]),
    ("comfy-table", &["cli/"]),
    ("crc32fast", &["secret.rs"]),
    ("flate2", &["bundle/", "http/assets.rs"]),
    ("futures-util", &["agent/drive.rs", "agent/tools/", "fair.rs", "http/", "sandbox/engine/"]),
    ("getrandom", &["agent/drive.rs", "cli/demo.rs", "sandbox/engine/ground.rs", "secret.rs", "storage/proof.rs", "vault.rs"]),
    ("governor", &["http/limit.rs"]),
    ("http-body-util", &["http/", "provider/client.rs"]),
    ("hyper", &["http/"]),
    ("hyper-util", &["http/"]),
    ("indicatif", &["cli/"]),
    ("jiff", &["clock.rs", "provider/refusal.rs"]),
    ("jsonschema", &["config_check/tool_schema.rs"]),
    ("landlock", &["sandbox/native/fence.rs"]),
    ("lettre", &["mail.rs"]),
    ("libc", &["sandbox/native/"]),
    ("listenfd", &["cli/server.rs"]),
    ("matchit", &["http/route.rs"]),
    ("maud", &["dashboard/"]),
    ("mimalloc", &["main.rs"]),
    ("opentelemetry", &["telemetry/"]),
    ("opentelemetry-http", &["telemetry/"]),
    ("opentelemetry-otlp", &["telemetry/"]),
    ("opentelemetry_sdk", &["telemetry/"]),
    ("parking_lot", &["storage/exports.rs", "storage/sqlite/", "storage/writers.rs"]),
    ("prometheus-client", &["metrics.rs"]),
    ("quick_cache", &["storage/access.rs", "storage/backups.rs", "storage/bodies.rs", "storage/history.rs", "storage/proof.rs"]),
    ("r2d2", &["storage/sqlite/"]),
    ("r2d2_sqlite", &["storage/sqlite/"]),
    ("reqwest", &["provider/client.rs", "telemetry/export.rs"]),
    ("rpassword", &["cli/user.rs"]),
    ("rusqlite", &["storage/sqlite/"]),
    ("rmcp", &["agent/tools/session.rs"]),
    ("rustix", &["bundle/staging.rs", "cli/mod.rs", "failpoint.rs", "sandbox/", "storage/sqlite/"]),
    ("rustls", &["http/tls.rs", "provider/client.rs"]),
    ("rustls-pki-types", &["http/tls.rs"]),
    ("scheduled-thread-pool", &["storage/sqlite/"]),
    ("seccompiler", &["sandbox/native/seccomp.rs"]),
    ("serde", &["*"]),
    ("serde_json", &["*"]),
    ("serde_path_to_error", &["http/call.rs"]),
    ("sha2", &["agent/tools/intake.rs", "chain.rs"]),
    ("similar", &["dashboard/"]),
    ("tar", &["bundle/"]),
    ("tiktoken-rs", &["provider/bound.rs"]),
    (
        "tokio",
        &[
            "agent/",
            "cli/",
            "control.rs",
            "egress/",
            "fair.rs",
            "http/",
            "mail.rs",
            "once.rs",
            "provider/client.rs",
            "provider/tests/",
            "sandbox/",
            "storage/",
            "telemetry/export.rs",
        ],
    ),
    ("tokio-rustls", &["http/tls.rs"]),
    ("tokio-util", &["agent/", "app.rs", "cli/server.rs", "control.rs", "http/"]),
    ("toml", &["config/source.rs", "rates.rs"]),
    ("tracing", &["*"]),
    ("tracing-subscriber", &["cli/log.rs"]),
    ("utoipa", &["bundle/manifest.rs", "cli/mod.rs", "clock.rs", "http/", "ids.rs", "model/", "money.rs", "secret.rs", "storage/"]),
    ("unicode-normalization", &["bundle/name.rs"]),
    ("uuid", &["ids.rs", "mail.rs", "provider/"]),
    (
        "zeroize",
        &[
            "cli/tenant.rs",
            "config.rs",
            "provider/client.rs",
            "sandbox/engine/",
            "sandbox/runner.rs",
            "secret.rs",
            "storage/sqlite/cipher.rs",
            "vault.rs",
        ],
    ),
    ("zip", &["bundle/"]),
];

fn dependencies() -> Vec<String> {
    let manifest: toml::Table = fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    manifest["dependencies"].as_table().unwrap().keys().cloned().collect()
}

#[test]
fn third_party_crates_stay_in_their_rooms() {
    let rooms: BTreeMap<_, _> = ROOMS.iter().copied().collect();
    let known: BTreeSet<_> = rooms.keys().map(|name| (*name).to_owned()).collect();
    let dependencies: BTreeSet<_> = dependencies().into_iter().collect();
    assert_eq!(known, dependencies, "every dependency has its room here, and every room its dependency");
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let path = path.trim_start_matches("src/");
        let code = lexed(&text).code;
        for (krate, places) in &rooms {
            let allowed = places.iter().any(|place| *place == "*" || path == *place || (place.ends_with('/') && path.starts_with(place)));
            if !allowed && names(&code, &krate.replace('-', "_")) {
                wrong.push(format!("{path} names {krate}, whose room is {places:?}"));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

/// The floors of the house. A file imports from lower ones and from its own module; those of floors 0 and 1 know each other.
const LEVELS: &[(&str, u8)] = &[
    ("error", 0),
    ("ids", 0),
    ("money", 0),
    ("clock", 0),
    ("failpoint", 0),
    ("model", 0),
    ("bundle", 1),
    ("chain", 1),
    ("config", 1),
    ("config_check", 1),
    ("egress", 1),
    ("fair", 1),
    ("mail", 1),
    ("metrics", 1),
    ("once", 1),
    ("provider", 1),
    ("pulse", 1),
    ("rates", 1),
    ("secret", 1),
    ("telemetry", 1),
    ("template", 1),
    ("vault", 1),
    ("wallet", 1),
    ("sandbox", 2),
    ("storage", 2),
    ("agent", 3),
    ("app", 4),
    ("dashboard", 4),
    ("control", 5),
    ("http", 5),
    ("cli", 6),
];

/// The modules of this crate that code names after `crate::`, groups of `use` included.
fn imports(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let (mut depth, mut name) = (0, String::new());
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => drop(found.insert(std::mem::take(&mut name))),
                    c if depth == 0 => name.push(c),
                    _ => {}
                }
            }
            found.insert(name);
        } else {
            found.insert(rest.to_owned());
        }
    }
    let word = |text: String| text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    found.into_iter().map(word).filter(|name| !name.is_empty()).collect()
}

#[test]
fn a_file_imports_from_lower_floors_and_its_own_room() {
    let levels: BTreeMap<_, _> = LEVELS.iter().copied().collect();
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let below = path.trim_start_matches("src/");
        let own = below.split('/').next().unwrap().trim_end_matches(".rs");
        if matches!(own, "lib" | "main") {
            continue;
        }
        let level = levels.get(own).unwrap_or_else(|| panic!("{own} has no floor: add it to LEVELS and to the code map"));
        for import in imports(&lexed(&text).code) {
            let Some(other) = levels.get(import.as_str()) else { continue };
            let fine = import == own || other < level || (other == level && *level <= 1);
            if !fine || (own == "storage" && import == "provider") {
                wrong.push(format!("{path} (floor {level}) imports {import} (floor {other})"));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

/// No clock, no I/O, no runtime.
const PURE: &[&str] = &[
    "src/chain.rs",
    "src/wallet.rs",
    "src/rates.rs",
    "src/template.rs",
    "src/money.rs",
    "src/agent/turn.rs",
    "src/agent/prompt.rs",
    "src/agent/input.rs",
    "src/http/route.rs",
    "src/http/problem.rs",
    "src/http/codes.rs",
    "src/provider/anthropic.rs",
    "src/provider/openai/mod.rs",
    "src/provider/openai/stream.rs",
    "src/provider/ollama.rs",
    "src/provider/echo.rs",
    "src/provider/frame.rs",
    "src/provider/decode.rs",
    "src/provider/encode.rs",
    "src/provider/params.rs",
    "src/provider/refusal.rs",
];

#[test]
fn what_should_be_pure_is() {
    let all: BTreeMap<_, _> = sources().into_iter().collect();
    let impure =
        ["tokio::", "std::fs", "std::net", "std::env", "Instant::now", "SystemTime", "Clock", "async ", ".await", "reqwest", "getrandom"];
    for path in PURE {
        let text = all.get(*path).unwrap_or_else(|| panic!("{path} is not there any more"));
        let code = lexed(text).code;
        let code = code.split("#[cfg(test)]").next().unwrap();
        for word in impure {
            assert!(!code.contains(word), "{path} is pure and names {word}");
        }
    }
}

#[test]
fn a_request_makes_no_witness_and_reaches_one_store() {
    let mut seen = 0;
    for (path, text) in sources().into_iter().filter(|(path, _)| path.starts_with("src/http/") || path.starts_with("src/agent/")) {
        let code = lexed(&text).code;
        let code = code.split("#[cfg(test)]").next().unwrap();
        // The operator of the data directory stands beside the server, never behind a request.
        for word in ["operator_here", "Operator {", "Principal {", "SignedIn {", "TenantStore {", "rusqlite"] {
            assert!(!code.contains(word) || DECLARED.contains(&(path.as_str(), word)), "{path} names {word}");
        }
        // One place opens a store for a request, and hands the handler that one beside the witness it came from.
        let opened = code.matches(".tenant_store(").count();
        let expected = OPENERS.iter().find(|(place, _)| *place == path).map_or(0, |(_, count)| *count);
        assert_eq!(opened, expected, "{path} opens {opened} stores");
        seen += opened;
        if path.starts_with("src/http/handlers/") {
            for word in ["principal_by_key", "signed_in(", "operator_by_token"] {
                assert!(!code.contains(word), "{path} proves a credential with {word}; that is the door's");
            }
        }
    }
    assert!(seen > 0, "the rule looked at nothing");
}

/// Patterns that only look like a witness being made.
const DECLARED: &[(&str, &str)] = &[];

/// Where a store is opened, and how often.
/// A refusal is noted in the log of the tenant that was refused.
const OPENERS: &[(&str, usize)] = &[("src/http/door.rs", 1), ("src/http/refused.rs", 1)];

/// The tables of a tenant's file, from the data model itself.
fn tenant_tables() -> Vec<String> {
    let schema = fs::read_to_string(root().join("schema.sql")).unwrap();
    let (_, tenant) = schema.split_once("===== tenant").expect("the schema's second part");
    let tables: Vec<_> = tenant
        .split("CREATE TABLE ")
        .skip(1)
        .filter(|table| table.split(';').next().unwrap().contains("tenant_id"))
        .map(|table| table.split_whitespace().next().unwrap().to_owned())
        .collect();
    assert!(tables.len() >= 10, "{tables:?}");
    tables
}

#[test]
fn every_statement_on_a_tenant_s_tables_names_the_tenant() {
    let tables = tenant_tables();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (path, text) in sources().into_iter().filter(|(path, _)| path.starts_with("src/storage/")) {
        // The engine's own tests write what the engine must refuse.
        if path.ends_with("tests.rs") || path.ends_with("conformance.rs") {
            continue;
        }
        let text = text.split("#[cfg(test)]").next().unwrap().to_owned();
        for sql in lexed(&text).strings {
            let words: Vec<_> = sql.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty()).collect();
            let touches = words
                .windows(2)
                .any(|pair| ["FROM", "JOIN", "INTO", "UPDATE"].contains(&pair[0]) && tables.iter().any(|table| table == pair[1]));
            if !touches {
                continue;
            }
            seen += 1;
            let filtered = sql.contains("tenant_id = ?1") || (sql.contains("INSERT INTO") && sql.contains("(tenant_id"));
            if !filtered && !UNFILTERED.contains(&(path.as_str(), sql.as_str())) {
                wrong.push(format!("{path}: {sql}"));
            }
        }
    }
    assert!(seen > 40, "the rule looked at {seen} statements only");
    assert_eq!(wrong, Vec::<String>::new());
}

/// Statements that are right without it, with where they stand. The list only shrinks.
const UNFILTERED: &[(&str, &str)] = &[];

#[test]
fn files_stay_short_and_open_with_what_they_are_for() {
    for (path, text) in sources() {
        let lines = text.lines().count();
        let tests = path.ends_with("tests.rs") || path.contains("/tests/") || path.ends_with("conformance.rs");
        assert!(lines <= if tests { 700 } else { 500 }, "{path} has {lines} lines: split it along what it does");
        assert!(text.starts_with("//! "), "{path} does not say what it is for");
    }
}

#[test]
fn nothing_is_left_to_do_and_nothing_is_called_a_manager() {
    for (path, text) in sources() {
        let code = lexed(&text).code;
        for word in ["todo!", "unimplemented!", "dbg!"] {
            assert!(!code.contains(word), "{path} has {word}");
        }
        for word in ["Manager", "Service", "Helper", "Utils", "Common"] {
            for kind in ["struct", "enum", "trait", "type", "mod"] {
                let declared = code
                    .split(&format!("{kind} "))
                    .skip(1)
                    .any(|rest| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>().ends_with(word));
                assert!(!declared, "{path} declares a {word}");
            }
        }
    }
    let places =
        [("src", &["rs"][..]), ("tests", &["rs", "sh", "snap"]), ("docs", &["md"]), ("benches", &["rs", "sh"]), ("data", &["toml"])];
    for (path, text) in places.iter().flat_map(|(folder, endings)| files(folder, endings)) {
        if path.ends_with("tidy.rs") {
            continue;
        }
        for word in ["FIXME", "XXX:", "HACK", "/home/", "/root/", "/work/"] {
            assert!(!text.contains(word), "{path} has {word}");
        }
    }
}

#[test]
fn every_limit_is_said_and_used() {
    let all: Vec<_> = sources().into_iter().filter(|(path, _)| path != "src/config.rs" && !path.starts_with("src/config/")).collect();
    for limit in Limits::TABLE {
        assert!(limit.doc.trim().ends_with('.'), "{}: {:?} is no sentence", limit.name, limit.doc);
        let used = all.iter().any(|(_, text)| lexed(text).code.contains(&format!(".{}", limit.name)));
        assert!(used, "{} limits nothing", limit.name);
        assert!(
            limit.name.ends_with("_ms")
                || limit.name.contains("_max")
                || limit.name.contains("_min")
                || limit.name.contains("_per_")
                || PLAIN.contains(&limit.name),
            "{} does not end in its unit",
            limit.name
        );
    }
}

/// Limits whose name needs no unit, or has it without being the most: counts and defaults.
const PLAIN: &[&str] = &[
    "key_requests_burst",
    "tenant_requests_burst",
    "output_tokens_default",
    "sandbox_memory_bytes",
    "sandbox_processes",
    "sandbox_workspace_bytes",
];

/// The contract's table "Errors".
const CONTRACT: &[(u16, &[&str])] = &[
    (400, &["malformed_json", "malformed_request"]),
    (401, &["missing_credentials", "invalid_api_key", "invalid_token"]),
    (402, &["insufficient_credit", "key_spend_limit"]),
    (403, &["insufficient_role", "email_not_verified", "tenant_suspended"]),
    (404, &["not_found"]),
    (405, &["method_not_allowed"]),
    (408, &["request_timeout"]),
    (
        409,
        &[
            "config_name_taken",
            "last_owner",
            "turn_cancelled",
            "conversation_busy",
            "conversation_config_mismatch",
            "tool_results_required",
            "idempotency_in_progress",
        ],
    ),
    (411, &["length_required"]),
    (413, &["body_too_large"]),
    (414, &["uri_too_long"]),
    (415, &["unsupported_media_type"]),
    (422, &["validation_failed", "tool_results_mismatch", "template_variable_missing", "idempotency_key_reused", "context_too_long"]),
    (429, &["rate_limited", "credit_reserved"]),
    (431, &["headers_too_large"]),
    (500, &["internal"]),
    (502, &["provider_error"]),
    (
        503,
        &[
            "provider_overloaded",
            "pricing_unavailable",
            "provider_not_configured",
            "tenant_unavailable",
            "shutting_down",
            "too_many_checks",
            "model_closed",
        ],
    ),
    (504, &["provider_timeout"]),
    (507, &["tenant_full", "disk_full"]),
];

#[test]
fn the_contract_s_codes_are_there_with_their_statuses() {
    for (status, names) in CONTRACT {
        for name in *names {
            assert!(codes::ALL.iter().any(|code| code.code == *name && code.status == *status), "{status} {name}");
        }
    }
}

#[test]
fn every_test_that_the_security_page_names_is_there() {
    let tests: String = files("tests", &["rs"]).into_iter().chain(sources()).map(|(_, text)| text).collect();
    let page = fs::read_to_string(root().join("docs/security.md")).unwrap();
    let mut seen = 0;
    let attacks = page.split_once("## Attacks").unwrap().1;
    for line in attacks.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| attack |")) {
        assert!(line.ends_with("` |"), "this attack has no test: {line}");
    }
    for line in page.lines().filter(|line| line.ends_with("` |")) {
        let name = line.trim_end_matches("` |").rsplit('`').next().unwrap();
        assert!(tests.contains(&format!("fn {name}() {{")), "docs/security.md names {name}, which is no test");
        seen += 1;
    }
    assert!(seen > 30, "{seen}");
}

/// What hadolint would look at, and what this product promises beyond: nothing here runs a container engine.
#[test]
fn the_unit_leaves_the_server_its_directory_and_the_network_and_nothing_else() {
    let text = fs::read_to_string(root().join("packaging/nimblesite.service")).unwrap();
    let lines: BTreeSet<&str> = text.lines().collect();
    for line in [
        "User=nimblesite",
        "UMask=0077",
        "StateDirectory=nimblesite",
        "StateDirectoryMode=0700",
        "CapabilityBoundingSet=",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "ProtectHome=yes",
        "PrivateTmp=yes",
        "PrivateDevices=yes",
        "RestrictSUIDSGID=yes",
        "MemoryDenyWriteExecute=yes",
        "SystemCallArchitectures=native",
        "SystemCallFilter=@system-service",
        "SystemCallFilter=~@privileged",
    ] {
        assert!(lines.contains(line), "{line}");
    }
    let secrets = lines.iter().filter(|line| line.starts_with("Environment=")).count();
    assert_eq!(secrets, 0, "what the unit says, every user of the machine can read");
}

#[test]
fn the_container_file_is_small_pinned_and_without_privileges() {
    let text = fs::read_to_string(root().join("packaging/Containerfile")).unwrap();
    let joined = text.replace("\\\n", " ");
    let lines: Vec<(&str, &str)> =
        joined.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()).map(|line| line.split_once(' ').unwrap()).collect();
    let known = ["FROM", "WORKDIR", "COPY", "RUN", "USER", "ENV", "VOLUME", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT", "CMD"];
    let all = |name: &str| lines.iter().filter(|(word, _)| *word == name).map(|(_, rest)| *rest).collect::<Vec<_>>();
    for (word, rest) in &lines {
        assert!(known.contains(word), "{word}: ADD fetches and unpacks, ONBUILD, SHELL and MAINTAINER are not needed");
        for secret in ["KEY=", "TOKEN", "PASSWORD", "SECRET", "sudo", "curl", "wget", "apt-get upgrade"] {
            assert!(!rest.contains(secret), "{word} {rest}: {secret}");
        }
    }
    let bases = all("FROM");
    assert_eq!(bases.len(), 2, "one stage builds, one serves");
    for base in &bases {
        let image = base.split(' ').next().unwrap();
        let tag = image.rsplit_once(':').map_or("", |(_, tag)| tag);
        assert!(image.starts_with("docker.io/") && !tag.is_empty() && tag != "latest", "{base}: a registry and a tag, and not latest");
    }
    let rust = env!("CARGO_PKG_RUST_VERSION");
    assert!(bases[0].contains(&format!("rust:{rust}-")), "{}: the toolchain of Cargo.toml, {rust}", bases[0]);
    let second = lines.iter().rposition(|(word, _)| *word == "FROM").unwrap();
    let served = &lines[second..];
    assert!(!served.iter().any(|(word, _)| *word == "RUN"), "nothing is installed where it is served");
    let users = all("USER");
    assert!(users.len() == 1 && users[0].split(':').all(|id| id.parse::<u32>().is_ok_and(|id| id > 0)), "{users:?}: numbers, and not root");
    let place = |name: &str| served.iter().position(|(word, _)| *word == name);
    assert!(place("USER") < place("ENTRYPOINT") && place("VOLUME").is_some());
    for name in ["ENTRYPOINT", "CMD", "VOLUME"] {
        assert!(all(name).iter().all(|rest| serde_json::from_str::<Vec<String>>(rest).is_ok()), "{name} in the form without a shell");
    }
    let ignored = fs::read_to_string(root().join(".dockerignore")).unwrap();
    for pattern in [".git", "target", "data/*", "**/*.db"] {
        assert!(ignored.lines().any(|line| line == pattern), "{pattern} must not get into the build");
    }
}

#[test]
fn databases_stay_out_of_the_repository() {
    let ignored = fs::read_to_string(root().join(".gitignore")).unwrap();
    for pattern in ["*.db", "/target"] {
        assert!(ignored.lines().any(|line| line == pattern), "{pattern}");
    }
    assert!(Path::new(&root().join("data/models.toml")).exists());
}
