//! Lists of objects, read as nothing else: serde's derived types would also take a list of their fields in the order they are declared, which
//! nobody was promised and which would change its meaning with that order.

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};
use std::{fmt, marker::PhantomData};

/// A value that is written as an object.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(Fields(PhantomData))
    }
}

/// For `deserialize_with`: a list of objects.
pub(super) fn objects<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(Vec::<Object<T>>::deserialize(deserializer)?.into_iter().map(|object| object.0).collect())
}

/// For `deserialize_with`: a list of objects, or null for none.
pub(super) fn objects_opt<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<T>>, D::Error> {
    let list = Option::<Vec<Object<T>>>::deserialize(deserializer)?;
    Ok(list.map(|list| list.into_iter().map(|object| object.0).collect()))
}

#[cfg(test)]
mod tests {
    use crate::model::{ChatInput, ModelConfig};

    #[test]
    fn a_list_of_fields_is_no_object() {
        let results = |item: &str| serde_json::from_str::<ChatInput>(&format!(r#"{{"tool_results": [{item}]}}"#));
        assert!(results(r#"{"tool_call_id": "c1", "content": "x"}"#).is_ok());
        assert!(results(r#"["c1", "look", "x", true]"#).unwrap_err().to_string().contains("expected an object"));
        assert!(serde_json::from_str::<ChatInput>(r#"{"message": "hi", "tool_results": null}"#).unwrap().tool_results.is_none());
        let fallbacks =
            |item: &str| serde_json::from_str::<ModelConfig>(&format!(r#"{{"provider": "echo", "model": "echo", "fallbacks": [{item}]}}"#));
        assert_eq!(fallbacks(r#"{"provider": "a", "model": "b"}"#).unwrap().fallbacks.len(), 1);
        assert!(fallbacks(r#"["a", "b"]"#).is_err());
    }
}
