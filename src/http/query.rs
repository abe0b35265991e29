//! Query strings: percent-decoded, each parameter once, only those that the endpoint has.

use super::endpoint::Endpoint;
use crate::error::{Error, FieldError, Result};

/// The parameters of a query string, decoded (`+` is a space, as in forms), in order.
pub(super) fn parse(text: &str) -> Result<Vec<(String, String)>> {
    text.split('&')
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            Ok((decode(name)?, decode(value)?))
        })
        .collect()
}

/// Refuses parameters that the endpoint does not have, and those that come twice.
pub(super) fn check(endpoint: &Endpoint, query: &[(String, String)]) -> Result<()> {
    let mut errors = Vec::new();
    for (n, (name, _)) in query.iter().enumerate() {
        if query.iter().take(n).any(|(earlier, _)| earlier == name) {
            errors.push(FieldError { pointer: name.clone(), message: "given more than once".to_owned() });
        } else if !endpoint.query.iter().any(|(known, _)| covers(known, name)) {
            errors.push(FieldError { pointer: name.clone(), message: unknown(endpoint) });
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(Error::ValidationFailed { errors }) }
}

/// Whether a parameter of the table, such as `limit` or `metadata.*`, is this one.
fn covers(known: &str, name: &str) -> bool {
    match known.strip_suffix('*') {
        Some(prefix) => name.len() > prefix.len() && name.starts_with(prefix),
        None => known == name,
    }
}

fn unknown(endpoint: &Endpoint) -> String {
    let names: Vec<_> = endpoint.query.iter().map(|(name, _)| *name).collect();
    if names.is_empty() {
        "unknown query parameter; this endpoint takes none".to_owned()
    } else {
        format!("unknown query parameter; this endpoint takes {}", names.join(", "))
    }
}

fn decode(text: &str) -> Result<String> {
    let malformed = || Error::MalformedRequest { detail: format!("The query string has a broken percent-encoding in {text:?}.") };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16)).ok_or_else(malformed);
                let value = digit()? * 16 + digit()?;
                u8::try_from(value).map_err(|_| malformed())?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).map_err(|_| malformed())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Result<Vec<(String, String)>> {
        parse(text)
    }

    #[test]
    fn parameters_are_decoded_once() {
        let expected = [("q", "50% off & more"), ("metadata.é", "a+b"), ("empty", ""), ("bare", "")];
        let expected: Vec<_> = expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        assert_eq!(pairs("q=50%25+off+%26+more&metadata.%C3%A9=a%2Bb&empty=&&bare"), Ok(expected));
    }

    #[test]
    fn what_is_not_percent_encoded_utf_8_is_malformed() {
        for text in ["a=%", "a=%4", "a=%zz", "a=%ff", "%c3=1"] {
            assert!(matches!(pairs(text), Err(Error::MalformedRequest { .. })), "{text}");
        }
    }

    #[test]
    fn a_star_covers_a_prefix_and_something_behind_it() {
        assert!(covers("limit", "limit") && !covers("limit", "limits"));
        assert!(covers("metadata.*", "metadata.k") && !covers("metadata.*", "metadata.") && !covers("metadata.*", "metadatak"));
    }
}
