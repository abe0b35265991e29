//! `nimblesite key`: API keys, of which only the hash is kept.

use super::{Room, every, failure::Done, from_now, moment, moment_or, parse};
use crate::{
    ids::{KeyId, TenantId},
    model::{self, KeyInput, Role},
    money::Money,
};
use clap::Subcommand;
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub(super) enum Key {
    /// Make a key and print it, this once
    Issue {
        /// The tenant
        #[arg(long, value_name = "ID", value_parser = parse::id::<TenantId>)]
        tenant: TenantId,
        /// Whose key it is: a member's address
        #[arg(long, short, value_name = "EMAIL")]
        user: String,
        /// viewer, member, admin or owner; never more than the member's own
        #[arg(long, value_parser = parse::role, default_value = "member")]
        role: Role,
        /// What people call it
        #[arg(long, default_value = "command line")]
        name: String,
        /// When it ends by itself, such as 90d
        #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
        expires: Option<Duration>,
        /// The most it may ever spend, in dollars
        #[arg(long, value_name = "DOLLARS", value_parser = parse::money)]
        spend_limit: Option<Money>,
    },
    /// List a tenant's keys
    List {
        /// The tenant
        #[arg(long, value_name = "ID", value_parser = parse::id::<TenantId>)]
        tenant: TenantId,
    },
    /// Revoke a key from the next request on
    Revoke {
        /// The key's id, as `key list` shows it
        #[arg(value_name = "KEY_ID", value_parser = parse::id::<KeyId>)]
        key: KeyId,
    },
}

impl Key {
    pub(super) async fn run(self, room: &Room) -> Done {
        let Room { out, storage, operator, .. } = room;
        match self {
            Self::Issue { tenant, user, role, name, expires, spend_limit } => {
                let expires_at = expires.map(from_now);
                let input = KeyInput { name, role: Some(role), expires_at, spend_limit, tenant_id: None, user_id: None };
                let made = storage.key_issue(operator, tenant, &user, input).await?;
                out.value(&made);
                out.say(format!("Key {} ({}) for {user}. It is shown this once:", made.properties.id, made.properties.role.name()));
                out.secret(&made.key);
                Ok(())
            }
            Self::List { tenant } => {
                let keys = every(|page| storage.key_list_of(operator, tenant, page)).await?;
                let headings = ["ID", "NAME", "ROLE", "KEY", "STATE", "SPENT", "LIMIT", "LAST USED"];
                out.things(&keys, &headings, "No keys yet; `nimblesite key issue` makes one.", |key| {
                    let limit = key.spend_limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string());
                    let used = moment_or(key.last_used_at, "never");
                    let (role, prefix) = (key.role.name().to_owned(), format!("{}…", key.prefix));
                    vec![key.id.to_string(), key.name.clone(), role, prefix, state(key), key.spent.to_string(), limit, used]
                });
                Ok(())
            }
            Self::Revoke { key } => {
                let key = storage.key_revoke_by(operator, key).await?;
                out.value(&key);
                out.say(format!("Key {} ({}) is refused from the next request on.", key.id, key.name));
                Ok(())
            }
        }
    }
}

fn state(key: &model::Key) -> String {
    match (key.revoked_at, key.expires_at) {
        (Some(at), _) => format!("revoked {}", moment(at)),
        (None, Some(at)) if at <= from_now(Duration::ZERO) => format!("expired {}", moment(at)),
        (None, Some(at)) => format!("until {}", moment(at)),
        (None, None) => "active".to_owned(),
    }
}
