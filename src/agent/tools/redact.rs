//! Takes secrets out of what a tool says. It is a net under mistakes (a tool that prints its settings), not a wall: a tool may always say its own
//! secret in words of its own. Pure.

use crate::config::Secret;
use std::collections::BTreeSet;

/// A shorter value would be found in innocent text.
const VALUE_BYTES_MIN: usize = 8;

/// Every form of a config's secrets that is looked for, and what stands for it.
#[derive(Clone, Default)]
pub struct Redactor {
    /// Longest first: a secret that is part of another must not break the longer one up.
    forms: Vec<(String, String)>,
}

impl Redactor {
    /// Looks for these secrets.
    pub fn new(secrets: &[(String, Secret)]) -> Self {
        let mut forms: Vec<(String, String)> = secrets
            .iter()
            .filter(|(_, value)| value.expose().len() >= VALUE_BYTES_MIN)
            .flat_map(|(name, value)| forms_of(value.expose()).into_iter().map(move |form| (form, format!("[secret {name}]"))))
            .collect();
        forms.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then_with(|| a.0.cmp(&b.0)));
        Self { forms }
    }

    /// The text without them.
    pub fn clean(&self, text: &str) -> String {
        let mut clean = text.to_owned();
        for (form, mark) in &self.forms {
            if clean.contains(form.as_str()) {
                clean = clean.replace(form.as_str(), mark);
            }
        }
        clean
    }
}

/// A value as it may be met: plain, as JSON writes it, in base64 of either alphabet wherever it begins, in URLs, in hexadecimal.
fn forms_of(value: &str) -> BTreeSet<String> {
    let bytes = value.as_bytes();
    let mut forms = BTreeSet::from([value.to_owned(), hex(bytes, false), hex(bytes, true), percent(bytes, false), percent(bytes, true)]);
    let json = serde_json::Value::from(value).to_string();
    forms.insert(json.trim_matches('"').to_owned());
    // Python's json writes no character beyond ASCII as itself.
    forms.insert(json.trim_matches('"').chars().map(|c| if c.is_ascii() { c.to_string() } else { escaped(c) }).collect());
    for alphabet in [STANDARD, URL] {
        for shift in 0..3 {
            forms.extend(base64(bytes, shift, alphabet));
        }
    }
    forms.retain(|form| form.len() >= VALUE_BYTES_MIN);
    forms
}

fn escaped(c: char) -> String {
    let mut units = [0; 2];
    c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")).collect()
}

fn hex(bytes: &[u8], upper: bool) -> String {
    bytes.iter().map(|byte| if upper { format!("{byte:02X}") } else { format!("{byte:02x}") }).collect()
}

fn percent(bytes: &[u8], plus: bool) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let one = |byte: &u8| match *byte {
        b' ' if plus => "+".to_owned(),
        byte if plain(byte) => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    bytes.iter().map(one).collect()
}

const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The characters of base64 that these bytes alone decide when they begin `shift` bytes behind a group's beginning.
fn base64(bytes: &[u8], shift: usize, alphabet: &[u8; 64]) -> Option<String> {
    let bits: Vec<u8> =
        std::iter::repeat_n(0, shift).chain(bytes.iter().copied()).flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    let first = (shift * 8).div_ceil(6);
    let groups = bits.chunks_exact(6).map(|bits| bits.iter().fold(0, |sum, bit| sum << 1 | usize::from(*bit)));
    let text: String = groups.skip(first).map(|group| char::from(alphabet[group])).collect();
    (text.len() >= VALUE_BYTES_MIN).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUE: &str = "s3cr3t/+ \"käse\" value";

    fn redactor(secrets: &[(&str, &str)]) -> Redactor {
        let secrets: Vec<_> = secrets.iter().map(|(name, value)| ((*name).to_owned(), Secret::new((*value).to_owned()))).collect();
        Redactor::new(&secrets)
    }

    #[test]
    fn a_secret_is_found_in_every_common_form() {
        let redactor = redactor(&[("TOKEN", VALUE)]);
        for said in [
            format!("the token is {VALUE}."),
            serde_json::json!({"token": VALUE}).to_string(),
            r#"{"token": "s3cr3t/+ \"k\u00e4se\" value"}"#.to_owned(),
            "https://x/?k=s3cr3t%2F%2B%20%22k%C3%A4se%22%20value&b".to_owned(),
            "k=s3cr3t%2F%2B+%22k%C3%A4se%22+value".to_owned(),
            VALUE.bytes().map(|byte| format!("{byte:02x}")).collect(),
        ] {
            let clean = redactor.clean(&said);
            assert!(clean.contains("[secret TOKEN]"), "{said}: {clean}");
        }
    }

    #[test]
    fn base64_is_found_wherever_the_secret_begins_in_it() {
        use base64ct::{Base64, Base64UrlUnpadded, Encoding};
        let redactor = redactor(&[("TOKEN", VALUE)]);
        for before in ["", "a", "ab", "abc", "user:"] {
            for after in ["", "x", "yz"] {
                let whole = format!("{before}{VALUE}{after}");
                for text in [Base64::encode_string(whole.as_bytes()), Base64UrlUnpadded::encode_string(whole.as_bytes())] {
                    assert!(redactor.clean(&text).contains("[secret TOKEN]"), "{before}…{after}: {text}");
                }
            }
        }
    }

    #[test]
    fn short_values_and_innocent_text_stay() {
        let redactor = redactor(&[("SHORT", "abc"), ("TOKEN", VALUE)]);
        assert_eq!(redactor.clean("abc s3cr3t value"), "abc s3cr3t value");
    }

    #[test]
    fn a_secret_inside_another_does_not_break_it_up() {
        let redactor = redactor(&[("A", "password"), ("B", "my-password-2")]);
        assert_eq!(redactor.clean("my-password-2 password"), "[secret B] [secret A]");
    }
}
