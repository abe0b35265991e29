//! Identifiers: UUIDv7 newtypes, one a kind, so that a conversation's id can never be passed where a tenant's is meant.
//!
//! An id says nothing about who may see the thing: authority comes from a witness (`storage::access`), never from an id.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, str::FromStr};
use uuid::Uuid;

/// The text was not a UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAnId;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Uuid);

        impl $name {
            /// A new id: UUIDv7 (RFC 9562 §5.7), increasing within this process.
            #[allow(clippy::new_without_default)]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            /// The 16 bytes of the UUID.
            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0.as_hyphenated())
            }
        }

        impl FromStr for $name {
            type Err = NotAnId;
            fn from_str(text: &str) -> Result<Self, NotAnId> {
                // Only the canonical form of RFC 9562: one thing has one name.
                if text.len() != 36 || text.bytes().any(|byte| byte.is_ascii_uppercase()) {
                    return Err(NotAnId);
                }
                Uuid::try_parse(text).map(Self).map_err(|_| NotAnId)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(|NotAnId| serde::de::Error::custom("expected a UUID such as 0192f0c1-2f6e-7c3a-9d2b-5a1f0e8b7c6d"))
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, SchemaFormat, Type};
                ObjectBuilder::new().schema_type(Type::String).format(Some(SchemaFormat::KnownFormat(KnownFormat::Uuid))).into()
            }
        }

        impl utoipa::ToSchema for $name {}
    )*};
}

ids! {
    /// A sign-in to the dashboard.
    SessionId;
    /// One customer: the unit of isolation, one database file.
    TenantId;
    /// A person with an e-mail address.
    UserId;
    /// An API key, bound to one user and one tenant. Not the key's public id, which is part of its text.
    KeyId;
    /// A user token (access, verification or reset).
    TokenId;
    /// An agent config.
    ConfigId;
    /// A conversation.
    ConversationId;
    /// A message of a conversation.
    MessageId;
    /// One request's work on a conversation: one or more steps.
    TurnId;
    /// Money set aside for one vendor call.
    HoldId;
    /// A row of the tenant's log.
    LogId;
    /// A row of the tenant's ledger.
    EntryId;
    /// An entry of an audit log.
    AuditId;
    /// A copy of a workspace.
    SnapshotId;
    /// What is known of a host that tools asked for.
    ReachId;
    /// One life of the server process.
    BootId;
    /// One HTTP request.
    RequestId;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_increase_and_parse_in_their_canonical_form_only() {
        let (first, second) = (TenantId::new(), TenantId::new());
        assert!(first < second);
        assert_eq!(first.to_string().parse(), Ok(first));
        assert_eq!(first.to_string().replace('-', "").parse::<TenantId>(), Err(NotAnId));
        assert_eq!("0192F0C1-2F6E-7C3A-9D2B-5A1F0E8B7C6D".parse::<TenantId>(), Err(NotAnId));
        assert_eq!("".parse::<TenantId>(), Err(NotAnId));
    }
}
