//! What an entry of an archive may be called: a name that means the same file to every program, on every file system, and lies below the
//! directory that it is unpacked into. Pure.

use super::{DEPTH_MAX, NAME_BYTES_MAX};
use unicode_normalization::is_nfc;

/// The parts of an entry's name, or the rule that it breaks.
pub(super) fn parts(name: &[u8]) -> Result<Vec<&str>, String> {
    let Ok(name) = std::str::from_utf8(name) else { return Err("The name is not UTF-8.".to_owned()) };
    if !is_nfc(name) {
        return Err("The name is not in Unicode's form NFC: another spelling would mean the same file.".to_owned());
    }
    if name.chars().any(|c| c.is_control() || c == '\u{fffd}') {
        return Err("The name has a control character.".to_owned());
    }
    if name.contains('\\') {
        return Err("The name has a backslash.".to_owned());
    }
    if name.starts_with('/') {
        return Err("The name is absolute.".to_owned());
    }
    let name = name.strip_suffix('/').unwrap_or(name);
    let parts: Vec<&str> = name.split('/').collect();
    if parts.len() > DEPTH_MAX {
        return Err(format!("The name is deeper than {DEPTH_MAX} levels."));
    }
    for part in &parts {
        match *part {
            "" => return Err("The name has an empty part.".to_owned()),
            "." | ".." => return Err(format!("The name has the part {part:?}.")),
            _ if part.len() > NAME_BYTES_MAX => return Err(format!("A part of the name is longer than {NAME_BYTES_MAX} bytes.")),
            _ if is_drive(part) => return Err("The name has a drive letter or a stream: no colon may stand in it.".to_owned()),
            _ => {}
        }
    }
    Ok(parts)
}

/// `C:`, and `file:stream`.
fn is_drive(part: &str) -> bool {
    part.contains(':')
}

/// The name as a file system that does not tell cases apart sees it.
pub(super) fn folded(path: &str) -> String {
    path.chars().flat_map(char::to_lowercase).flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names_pass() {
        for name in ["tools.py", "a/b/c", "folder/", "ünï/çödé.txt", ".hidden", "a b", "...", "a..b/c"] {
            assert!(parts(name.as_bytes()).is_ok(), "{name}");
        }
        assert_eq!(parts(b"a/b/").unwrap(), ["a", "b"]);
    }

    #[test]
    fn names_that_lead_elsewhere_or_mean_two_things_do_not() {
        let deep = vec!["d"; DEPTH_MAX + 1].join("/");
        let long = "l".repeat(NAME_BYTES_MAX + 1);
        for name in [
            "",
            "/",
            "/etc/passwd",
            "../x",
            "a/../b",
            "a/./b",
            "./a",
            "a//b",
            "a\\b",
            "..\\x",
            "C:/x",
            "C:x",
            "a/b:c",
            "nul\0",
            "line\nbreak",
            "de\u{301}compose\u{301}",
            "\u{fffd}",
            &deep,
            &long,
        ] {
            assert!(parts(name.as_bytes()).is_err(), "{name:?}");
        }
        assert!(parts(&[b'a', 0xff]).is_err());
    }

    #[test]
    fn what_differs_by_case_alone_folds_to_one() {
        assert_eq!(folded("Tools/A.py"), folded("tools/a.PY"));
        assert_eq!(folded("straße"), folded("STRASSE"));
        assert_ne!(folded("a"), folded("b"));
    }
}
