//! The audit log: who made, changed or ended what. It tells of acts, never of secrets or content: ids, roles, numbers and names of fields.

use super::JsonObject;
use crate::{clock::Time, ids::*};
use serde::Serialize;
use utoipa::ToSchema;

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub enum Act {
    /// A tenant was made.
    #[serde(rename = "tenant.create")]
    TenantCreate,
    /// A tenant was changed; `detail` says in what.
    #[serde(rename = "tenant.update")]
    TenantUpdate,
    /// The operator set how large a tenant may grow.
    #[serde(rename = "tenant.limit")]
    TenantLimit,
    /// A tenant's chat was stopped.
    #[serde(rename = "tenant.suspend")]
    TenantSuspend,
    /// It may go on.
    #[serde(rename = "tenant.resume")]
    TenantResume,
    /// A copy of all of the tenant's data was asked for.
    #[serde(rename = "tenant.export")]
    TenantExport,
    /// The tenant's content was put back to an older day.
    #[serde(rename = "tenant.restore")]
    TenantRestore,
    /// A tenant was deleted: what is left of it stands in the server's own log.
    #[serde(rename = "tenant.delete")]
    TenantDelete,
    /// Someone with an account became a member.
    #[serde(rename = "member.add")]
    MemberAdd,
    /// An address was invited.
    #[serde(rename = "member.invite")]
    MemberInvite,
    /// Someone who had been invited became a member.
    #[serde(rename = "member.join")]
    MemberJoin,
    /// A member's role was changed.
    #[serde(rename = "member.update")]
    MemberUpdate,
    /// A member was taken out, and their keys revoked.
    #[serde(rename = "member.remove")]
    MemberRemove,
    /// A key was made.
    #[serde(rename = "key.create")]
    KeyCreate,
    /// A key was changed; `detail` says in what.
    #[serde(rename = "key.update")]
    KeyUpdate,
    /// A key got a successor.
    #[serde(rename = "key.rotate")]
    KeyRotate,
    /// A key was revoked.
    #[serde(rename = "key.revoke")]
    KeyRevoke,
    /// A config was made.
    #[serde(rename = "config.create")]
    ConfigCreate,
    /// A config got a new version.
    #[serde(rename = "config.update")]
    ConfigUpdate,
    /// A config was deleted.
    #[serde(rename = "config.delete")]
    ConfigDelete,
    /// A config got a bundle of tools; `detail` has its digest.
    #[serde(rename = "bundle.put")]
    BundlePut,
    /// A config's bundle was taken away.
    #[serde(rename = "bundle.delete")]
    BundleDelete,
    /// A config's workspace was removed.
    #[serde(rename = "sandbox.reset")]
    SandboxReset,
    /// A snapshot of a config's workspace was asked for; those that the server makes by itself are nobody's act.
    #[serde(rename = "snapshot.create")]
    SnapshotCreate,
    /// A snapshot took the place of a config's workspace.
    #[serde(rename = "snapshot.restore")]
    SnapshotRestore,
    /// A snapshot was removed.
    #[serde(rename = "snapshot.delete")]
    SnapshotDelete,
    /// A conversation was deleted.
    #[serde(rename = "conversation.delete")]
    ConversationDelete,
    /// The operator added credit, or took some back.
    #[serde(rename = "credit.add")]
    CreditAdd,
    /// The operator made an account.
    #[serde(rename = "user.create")]
    UserCreate,
    /// The operator took an address as proved.
    #[serde(rename = "user.verify")]
    UserVerify,
    /// The operator shut an account off.
    #[serde(rename = "user.disable")]
    UserDisable,
    /// The operator made a token for a user.
    #[serde(rename = "user.token")]
    UserToken,
    /// The operator made a set of backups.
    #[serde(rename = "backup.create")]
    BackupCreate,
}

impl Act {
    /// Every act.
    pub const ALL: &'static [Self] = &[
        Self::TenantCreate,
        Self::TenantUpdate,
        Self::TenantLimit,
        Self::TenantSuspend,
        Self::TenantResume,
        Self::TenantExport,
        Self::TenantRestore,
        Self::TenantDelete,
        Self::MemberAdd,
        Self::MemberInvite,
        Self::MemberJoin,
        Self::MemberUpdate,
        Self::MemberRemove,
        Self::KeyCreate,
        Self::KeyUpdate,
        Self::KeyRotate,
        Self::KeyRevoke,
        Self::ConfigCreate,
        Self::ConfigUpdate,
        Self::ConfigDelete,
        Self::BundlePut,
        Self::BundleDelete,
        Self::SandboxReset,
        Self::SnapshotCreate,
        Self::SnapshotRestore,
        Self::SnapshotDelete,
        Self::ConversationDelete,
        Self::CreditAdd,
        Self::UserCreate,
        Self::UserVerify,
        Self::UserDisable,
        Self::UserToken,
        Self::BackupCreate,
    ];

    /// The name as it stands in JSON and in the database.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TenantCreate => "tenant.create",
            Self::TenantUpdate => "tenant.update",
            Self::TenantLimit => "tenant.limit",
            Self::TenantSuspend => "tenant.suspend",
            Self::TenantResume => "tenant.resume",
            Self::TenantExport => "tenant.export",
            Self::TenantRestore => "tenant.restore",
            Self::TenantDelete => "tenant.delete",
            Self::MemberAdd => "member.add",
            Self::MemberInvite => "member.invite",
            Self::MemberJoin => "member.join",
            Self::MemberUpdate => "member.update",
            Self::MemberRemove => "member.remove",
            Self::KeyCreate => "key.create",
            Self::KeyUpdate => "key.update",
            Self::KeyRotate => "key.rotate",
            Self::KeyRevoke => "key.revoke",
            Self::ConfigCreate => "config.create",
            Self::ConfigUpdate => "config.update",
            Self::ConfigDelete => "config.delete",
            Self::BundlePut => "bundle.put",
            Self::BundleDelete => "bundle.delete",
            Self::SandboxReset => "sandbox.reset",
            Self::SnapshotCreate => "snapshot.create",
            Self::SnapshotRestore => "snapshot.restore",
            Self::SnapshotDelete => "snapshot.delete",
            Self::ConversationDelete => "conversation.delete",
            Self::CreditAdd => "credit.add",
            Self::UserCreate => "user.create",
            Self::UserVerify => "user.verify",
            Self::UserDisable => "user.disable",
            Self::UserToken => "user.token",
            Self::BackupCreate => "backup.create",
        }
    }

    /// The act of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|act| act.name() == name)
    }
}

/// Who did it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ActorKind {
    /// A user, by one of the tenant's keys.
    Key,
    /// A user, by a token of their own.
    User,
    /// The operator, on the command line or by the operator token.
    Operator,
}

impl ActorKind {
    /// The name as it stands in JSON and in the database.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::User => "user",
            Self::Operator => "operator",
        }
    }

    /// The kind of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Key, Self::User, Self::Operator].into_iter().find(|kind| kind.name() == name)
    }
}

/// Which chain an entry is a link of: each is kept in the database that its acts change, and written in the same transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AuditChain {
    /// The tenant itself, its members and keys.
    Access,
    /// Configs, conversations and credit; it goes along with an export.
    Content,
    /// The server's own, for the operator alone: accounts, backups, deleted tenants.
    Server,
}

impl AuditChain {
    /// The name as it stands in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::Content => "content",
            Self::Server => "server",
        }
    }
}

/// One act. Entries are never changed or removed as long as their tenant lives; each carries the hash of the one before in its own.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct AuditEntry {
    /// The entry's id.
    pub id: AuditId,
    /// The chain it is a link of.
    pub chain: AuditChain,
    /// 1, 2, 3 … in its chain, without a gap.
    pub seq: u64,
    /// What was done.
    pub act: Act,
    /// Who did it.
    pub actor: ActorKind,
    /// The user who did it; none for the operator.
    pub user_id: Option<UserId>,
    /// The key they did it with.
    pub key_id: Option<KeyId>,
    /// The id of what it was done to; for an invitation the address.
    pub target: Option<String>,
    /// What else there is to say: roles, limits, versions, names of changed fields. Never a secret, never content.
    #[schema(value_type = Object)]
    pub detail: JsonObject,
    /// When.
    pub created_at: Time,
    /// The chain: SHA-256, in hex, of the line of JSON
    /// `[hash before, chain, seq, id, act, actor, user_id, key_id, target, detail, created_at]`.
    pub hash: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_act_has_one_name_in_json_and_in_the_database() {
        for act in Act::ALL {
            assert_eq!(serde_json::json!(act), act.name());
            assert_eq!(Act::from_name(act.name()), Some(*act));
        }
    }
}
