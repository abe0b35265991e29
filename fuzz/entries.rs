//! Where bytes from outside come in, each as a function of bytes that must not panic and must keep what it promises. `cargo fuzz` calls them, and
//! so does tests/it/fuzzing.rs, on the committed corpora and on what chance makes of them.

mod served;

use flate2::{Compression, write::GzEncoder};
use nimblesite::{
    agent, bundle,
    config::{Config, Limits},
    config_check::config_check,
    ids::TenantId,
    model::{ChatInput, ConfigBody, TemplateVars},
    money::Money,
    provider::{
        AnswerLimits, Decoder, Wire,
        frame::{Lines, Sse},
    },
    rates::RateCard,
    secret::{KeyText, TokenHash},
    template::{self, BuiltIns},
    vault::{KeySource, Vault},
};
pub use served::{lists, requests};
use std::{fs, io::Write, path::Path};

/// What takes bytes.
pub type Entry = fn(&[u8]);

/// Every entry by the name of its target and of its corpus.
pub const ALL: &[(&str, Entry)] = &[
    ("frames", frames),
    ("decoders", decoders),
    ("texts", texts),
    ("template", template),
    ("config", config),
    ("chat", chat),
    ("archive", archive),
    ("requests", requests),
    ("lists", lists),
];

/// The first byte says where the rest is cut in two.
fn cut(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (at, rest) = bytes.split_first()?;
    Some(rest.split_at(rest.len() * usize::from(*at) / 255))
}

/// A stream's events are the same wherever it was cut.
pub fn frames(bytes: &[u8]) {
    let Some((head, tail)) = cut(bytes) else { return };
    let whole = [head, tail].concat();
    let sse = |parts: &[&[u8]]| {
        let (mut frames, mut events) = (Sse::new(4_096), Vec::new());
        let fits = parts.iter().all(|part| frames.push(part, &mut events).is_ok());
        fits.then_some(events)
    };
    assert_eq!(sse(&[&whole]), sse(&[head, tail]));
    let lines = |parts: &[&[u8]]| {
        let (mut frames, mut lines) = (Lines::new(4_096), Vec::new());
        let fits = parts.iter().all(|part| frames.push(part, &mut lines).is_ok());
        fits.then(|| (lines, frames.finish()))
    };
    assert_eq!(lines(&[&whole]), lines(&[head, tail]));
}

/// A vendor's answer keeps to its limits, and is the same wherever it was cut.
pub fn decoders(bytes: &[u8]) {
    let Some((head, tail)) = cut(bytes) else { return };
    for wire in [Wire::Anthropic, Wire::OpenAi, Wire::Ollama] {
        let limits = AnswerLimits { answer_bytes_max: 16_384, tool_calls_max: 8 };
        let answer = |parts: &[&[u8]]| {
            let mut decoder = Decoder::new(wire, limits, "call_x".to_owned());
            parts.iter().for_each(|part| drop(decoder.push(part)));
            format!("{:?}", decoder.finish())
        };
        assert_eq!(answer(&[&[head, tail].concat()]), answer(&[head, tail]), "{wire:?}");
    }
}

/// What is pasted, typed or stored as a text: keys, tokens, ids, money, sealed texts, a rate card.
pub fn texts(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(key) = KeyText::parse(text) {
        assert!(text.contains(key.public_id()));
    }
    drop(TokenHash::of_presented(text));
    if let Ok(id) = text.parse::<TenantId>() {
        assert_eq!(id.to_string().parse::<TenantId>().ok(), Some(id));
    }
    if let Ok(money) = text.parse::<Money>() {
        assert_eq!(money.to_string().parse::<Money>().ok(), Some(money));
    }
    let key = nimblesite::config::Secret::new("0".repeat(64));
    if let Ok(vault) = Vault::load(std::path::Path::new("."), &KeySource::Text(key), false) {
        assert!(vault.open(&["fuzz"], text).is_err(), "nobody has the key");
    }
    drop(RateCard::parse(text));
}

/// A prompt: rendering keeps to its limit, names what is missing, and reads nothing twice.
pub fn template(bytes: &[u8]) {
    let Some((head, tail)) = cut(bytes) else { return };
    let (Ok(text), Ok(value)) = (std::str::from_utf8(head), std::str::from_utf8(tail)) else { return };
    let built_ins = BuiltIns { tenant_name: "{agent_name}", agent_name: "{date}", date: "2026-11-24" };
    let mut vars = TemplateVars::new();
    for name in template::variables(text) {
        vars.insert(name, value.into());
    }
    match template::render(text, &built_ins, &vars, 4_096) {
        Ok(rendered) => assert!(rendered.len() <= 4_096),
        Err(error) => assert!(!format!("{error:?}").contains("TemplateVariableMissing"), "each has a value: {error:?}"),
    }
    drop(template::check_vars(&vars, &Limits::default()));
}

/// A config's body: what is taken is stored as it was read.
pub fn config(bytes: &[u8]) {
    let Ok(body) = serde_json::from_slice::<ConfigBody>(bytes) else { return };
    let config = Config::default_for("data".into());
    if config_check(&body, &config.providers, &config.limits).is_ok() {
        let stored = serde_json::to_vec(&body).unwrap_or_default();
        assert_eq!(serde_json::from_slice::<ConfigBody>(&stored).ok(), Some(body));
    }
}

/// A chat request's body.
pub fn chat(bytes: &[u8]) {
    let Ok(input) = serde_json::from_slice::<ChatInput>(bytes) else { return };
    if agent::input::check(&input, &Limits::default()).is_ok() {
        assert!(agent::input::title(&input).chars().count() <= 200);
    }
}

/// An archive of tools: it is unpacked within its bounds into plain files and folders beneath its own place, or nothing of it is left. What begins
/// neither as a zip nor as a gzip is packed first, so that chance reaches the tar within.
pub fn archive(bytes: &[u8]) {
    let Ok(place) = tempfile::tempdir() else { return };
    let packed = match bytes {
        [b'P', b'K', ..] | [0x1f, 0x8b, ..] => bytes.to_vec(),
        _ => {
            let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
            drop(packer.write_all(bytes));
            packer.finish().unwrap_or_default()
        }
    };
    let bounds = bundle::Bounds { archive_bytes: 1 << 20, unpacked_bytes: 1 << 18, file_bytes: 1 << 17, entries: 40 };
    let target = place.path().join("bundle");
    match bundle::unpack(&packed, &target, bounds) {
        Ok(()) => {
            let (mut bytes, mut entries) = (0, 0);
            measure(&target, &mut bytes, &mut entries);
            assert!(bytes <= bounds.unpacked_bytes && entries <= bounds.entries, "{bytes} bytes in {entries} entries");
        }
        Err(error) => assert!(!format!("{error:?}").starts_with("Internal"), "{error:?}"),
    }
    drop(fs::remove_dir_all(&target));
    let left: Vec<_> = fs::read_dir(place.path()).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "{left:?}");
    drop(bundle::manifest::Manifest::read(bytes));
}

/// Bytes and entries below a folder, which has nothing but files and folders.
fn measure(folder: &Path, bytes: &mut u64, entries: &mut usize) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let kind = entry.metadata().expect("what was unpacked");
        assert!(kind.is_dir() || kind.is_file(), "{}: {kind:?}", entry.path().display());
        *entries += 1;
        if kind.is_dir() {
            measure(&entry.path(), bytes, entries);
        } else {
            *bytes += kind.len();
        }
    }
}
