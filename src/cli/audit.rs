//! `nimblesite audit`: who made, changed or ended what, and whether nobody touched the log of it.

use super::{
    Room, every,
    failure::{Done, Failure},
    moment,
    out::Tone,
    parse,
};
use crate::{ids::TenantId, model::AuditEntry};
use clap::Args;

#[derive(Debug, Args)]
pub(super) struct Audit {
    /// A tenant's log: its keys, members, configs, credit [default: the server's own: accounts, backups, deleted tenants]
    #[arg(long, value_name = "ID", value_parser = parse::id::<TenantId>)]
    tenant: Option<TenantId>,
    /// Check every link of its chains instead of listing them
    #[arg(long)]
    verify: bool,
}

impl Audit {
    pub(super) async fn run(self, room: &Room) -> Done {
        let Room { out, storage, operator, .. } = room;
        if self.verify {
            let faults = storage.audit_faults(operator, self.tenant).await?;
            out.value(&serde_json::json!({ "tenant_id": self.tenant, "faults": faults }));
            if faults.is_empty() {
                out.toned(Tone::Good, "Every link holds.");
                return Ok(());
            }
            faults.iter().for_each(|fault| out.toned(Tone::Bad, fault));
            return Err(Failure::Told);
        }
        let entries = match self.tenant {
            Some(tenant) => every(|page| storage.audit_list_of(operator, tenant, page)).await?,
            None => every(|page| storage.audit_list_server(operator, page)).await?,
        };
        let headings = ["TIME", "ACT", "WHO", "TO", "DETAIL", "LINK"];
        out.things(&entries, &headings, "Nothing was done yet.", |entry| {
            let detail: Vec<_> = entry.detail.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let link = format!("{} {}", entry.chain.name(), entry.seq);
            let target = entry.target.clone().unwrap_or_default();
            vec![moment(entry.created_at), entry.act.name().to_owned(), who(entry), target, detail.join(" "), link]
        });
        Ok(())
    }
}

/// The key or user, or the operator.
fn who(entry: &AuditEntry) -> String {
    let user = entry.user_id.map(|user| format!("user {user}"));
    let key = entry.key_id.map(|key| format!("key {key}"));
    match (user, key) {
        (Some(user), Some(key)) => format!("{user}, {key}"),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => entry.actor.name().to_owned(),
    }
}
