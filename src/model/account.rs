//! People, tenants, keys and roles.

use crate::{clock::Time, ids::*, money::Money};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use utoipa::ToSchema;

/// What a member of a tenant may do; each role may all that the ones before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads configs, conversations, logs, wallet, usage, models.
    Viewer,
    /// Chats, deletes own conversations, makes and revokes own keys.
    Member,
    /// Writes configs, deletes conversations, all keys, members up to admin.
    Admin,
    /// Owners, rename, export and delete the tenant.
    Owner,
}

impl Role {
    /// The name as it stands in JSON and in the database.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Member => "member",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }

    /// The role of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Viewer, Self::Member, Self::Admin, Self::Owner].into_iter().find(|role| role.name() == name)
    }
}

/// An account.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct User {
    /// The user's id.
    pub id: UserId,
    /// The address, lower case.
    pub email: String,
    /// Whether the address was proved.
    pub verified: bool,
    /// Whether the operator shut the account off.
    pub disabled: bool,
    /// When the account was made.
    pub created_at: Time,
}

/// A user and where they belong.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Me {
    /// The user's id.
    pub id: UserId,
    /// The address, lower case.
    pub email: String,
    /// Whether the address was proved.
    pub verified: bool,
    /// The tenants the user belongs to.
    pub tenants: Vec<MeTenant>,
}

/// A tenant from a user's side.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct MeTenant {
    /// The tenant's id.
    pub id: TenantId,
    /// The tenant's name; not unique.
    pub name: String,
    /// The user's role there.
    pub role: Role,
    /// When the tenant was made.
    pub created_at: Time,
}

/// A user token, without its secret.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct UserToken {
    /// The token's id.
    pub id: TokenId,
    /// When it was made.
    pub created_at: Time,
    /// When it ends by itself.
    pub expires_at: Time,
    /// Whether it is the one this request came with.
    pub current: bool,
}

/// A tenant.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Tenant {
    /// The tenant's id.
    pub id: TenantId,
    /// The tenant's name, 1–200 characters; not unique.
    pub name: String,
    /// The IANA time zone of `{date}`.
    pub time_zone: String,
    /// When the tenant was made.
    pub created_at: Time,
    /// When the name, zone or state was last changed.
    pub updated_at: Time,
    /// Whether the operator stopped its chat.
    pub suspended: bool,
    /// The size of the tenant's database file.
    pub size_bytes: u64,
    /// The size at which it is full, if there is one.
    pub size_limit_bytes: Option<u64>,
    /// How long its conversations and logs are kept.
    pub retention: Retention,
}

/// How long a tenant's content is kept. The ledger and the audit log stay, whatever is said here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct Retention {
    /// Days that a conversation is kept after its last change; none for ever.
    pub conversations_days: Option<u32>,
    /// Days that a row of the log is kept, from which usage is summed; none for ever.
    pub logs_days: Option<u32>,
}

/// The answer to making a tenant: the only time the first key is shown.
#[derive(Clone, Serialize, ToSchema)]
pub struct TenantCreated {
    /// The tenant's id.
    pub id: TenantId,
    /// The tenant's name.
    pub name: String,
    /// The maker's role: owner.
    pub role: Role,
    /// When it was made.
    pub created_at: Time,
    /// The first key, shown once.
    pub api_key: String,
    /// The first key's id.
    pub api_key_id: KeyId,
}

/// An API key, without its secret.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Key {
    /// The key's id.
    pub id: KeyId,
    /// What people call it.
    pub name: String,
    /// Whose it is.
    pub user_id: UserId,
    /// The key's own role; the member's role bounds it at each request.
    pub role: Role,
    /// The first characters of its text, to recognise it by.
    pub prefix: String,
    /// When it was made.
    pub created_at: Time,
    /// When it ends by itself.
    pub expires_at: Option<Time>,
    /// Since when it is refused.
    pub revoked_at: Option<Time>,
    /// About when it was last used (written in batches).
    pub last_used_at: Option<Time>,
    /// The most that this key may ever spend.
    pub spend_limit: Option<Money>,
    /// What it has spent.
    pub spent: Money,
}

/// A key just made: the only time its text is shown.
#[derive(Clone, Serialize, ToSchema)]
pub struct KeyCreated {
    /// The key's properties.
    #[serde(flatten)]
    pub properties: Key,
    /// The key's text, shown once.
    pub key: String,
}

// Never the key's text.
impl fmt::Debug for TenantCreated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TenantCreated").field("id", &self.id).field("api_key_id", &self.api_key_id).finish_non_exhaustive()
    }
}

// Never the key's text.
impl fmt::Debug for KeyCreated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyCreated").field("properties", &self.properties).finish_non_exhaustive()
    }
}

/// A user token just made: the only time its text is shown.
#[derive(Clone, Serialize, ToSchema)]
pub struct AccessToken {
    /// The token, for `Authorization: Bearer`.
    pub access_token: String,
    /// Always `Bearer`.
    pub token_type: &'static str,
    /// Seconds until it ends by itself.
    pub expires_in: u64,
}

// Never the token.
impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessToken").field("expires_in", &self.expires_in).finish_non_exhaustive()
    }
}

/// What to change in a tenant; what is left out stays.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantPatch {
    /// The new name, 1–200 characters.
    pub name: Option<String>,
    /// The new IANA time zone, such as `Europe/Vienna`.
    pub time_zone: Option<String>,
    /// How long conversations and logs are to be kept.
    pub retention: Option<RetentionPatch>,
}

/// What to change in a tenant's retention; what is left out stays, `null` keeps for ever.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RetentionPatch {
    /// Days to keep a conversation after its last change, 1–36500.
    #[serde(default, deserialize_with = "null_or")]
    #[schema(value_type = Option<u32>)]
    pub conversations_days: Option<Option<u32>>,
    /// Days to keep a row of the log, 1–36500.
    #[serde(default, deserialize_with = "null_or")]
    #[schema(value_type = Option<u32>)]
    pub logs_days: Option<Option<u32>>,
}

/// What to change in a key; what is left out stays, `null` takes a limit away.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyPatch {
    /// The new name, 1–200 characters.
    pub name: Option<String>,
    /// When it should end by itself; `null` for never.
    #[serde(default, deserialize_with = "null_or")]
    #[schema(value_type = Option<Time>)]
    pub expires_at: Option<Option<Time>>,
    /// The most it may ever spend; `null` for no limit of its own.
    #[serde(default, deserialize_with = "null_or")]
    #[schema(value_type = Option<Money>)]
    pub spend_limit: Option<Option<Money>>,
}

/// Tells `null` from a field that was left out.
#[allow(clippy::option_option, reason = "left out, null and a value are three things")]
fn null_or<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// Who should be a member.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MemberInput {
    /// Their address. Someone without an account gets an invitation by mail.
    pub email: String,
    /// What they may do; at most the asker's own role, `member` by default.
    pub role: Option<Role>,
}

/// What to change in a member.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MemberPatch {
    /// What they may do from now on.
    pub role: Role,
}

/// What a new key should be.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyInput {
    /// What people call it, 1–200 characters.
    pub name: String,
    /// At most the maker's own role; `member` by default.
    pub role: Option<Role>,
    /// When it should end by itself.
    pub expires_at: Option<Time>,
    /// The most it may ever spend.
    pub spend_limit: Option<Money>,
    /// With a user token only: the tenant the key is for.
    pub tenant_id: Option<TenantId>,
    /// Admins only: the member whose key it will be; oneself by default.
    pub user_id: Option<UserId>,
}

/// Someone in a tenant.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Member {
    /// The user's id.
    pub user_id: UserId,
    /// The user's address.
    pub email: String,
    /// What they may do.
    pub role: Role,
    /// Since when they are in.
    pub created_at: Time,
}
