//! Secrets: key texts, passwords, tokens. Pure but for the machine's randomness. The only file that names argon2.

use crate::config::Secret;
use serde::{Deserialize, Deserializer};

/// A password as someone typed it. Nothing shows it.
#[derive(Clone)]
pub struct Password(Secret);

impl Password {
    /// Takes what was typed, whatever it is: whether it may become a password is [`Password::check`]'s to say.
    pub fn new(text: String) -> Self {
        Self(Secret::new(text))
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[password]")
    }
}

impl<'de> Deserialize<'de> for Password {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

impl utoipa::PartialSchema for Password {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, SchemaFormat, Type};
        ObjectBuilder::new().schema_type(Type::String).format(Some(SchemaFormat::KnownFormat(KnownFormat::Password))).into()
    }
}

impl utoipa::ToSchema for Password {}
