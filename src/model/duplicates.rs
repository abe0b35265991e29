//! JSON objects with one key twice: which of the two counts differs from reader to reader (RFC 8259 §4), so where it could matter such a text
//! is refused.

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use std::{collections::HashSet, fmt};

/// The JSON pointer of the first key that stands twice in its object, if there is one. Text that is no JSON has none.
pub fn duplicate_key(json: &[u8]) -> Option<String> {
    let mut found = None;
    let mut reader = serde_json::Deserializer::from_slice(json);
    // A found duplicate ends the reading with an error, as broken JSON does; only `found` tells.
    let _ended = Walk { path: String::new(), found: &mut found }.deserialize(&mut reader);
    found
}

/// Reads one value at a path.
struct Walk<'a> {
    path: String,
    found: &'a mut Option<String>,
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Self { path, found } = self;
        let mut n = 0;
        while items.next_element_seed(Walk { path: format!("{path}/{n}"), found: &mut *found })?.is_some() {
            n += 1;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let Self { path, found } = self;
        let mut keys = HashSet::new();
        while let Some(key) = fields.next_key::<String>()? {
            let path = format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"));
            if !keys.insert(key) {
                *found = Some(path);
                return Err(A::Error::custom("a key stands twice"));
            }
            fields.next_value_seed(Walk { path, found: &mut *found })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_repeated_key_is_named() {
        for (json, pointer) in [
            (r#"{"a":1,"b":{"a":[{"a":null}]},"c":true,"d":-1,"e":1.5,"f":"x"}"#, None),
            (r#"{"a":1,"a":1}"#, Some("/a")),
            (r#"{"a":[{},{"x/y":1,"x\/y":2}]}"#, Some("/a/1/x~1y")),
            (r#"{"a":1,"a""#, Some("/a")),
            (r#"{"a":1,"#, None),
            ("", None),
        ] {
            assert_eq!(duplicate_key(json.as_bytes()).as_deref(), pointer, "{json}");
        }
    }
}
