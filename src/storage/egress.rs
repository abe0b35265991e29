//! What a config's tools asked for over the network: one row a host and outcome, added to. Bounded: what was let through by the hosts that an
//! operator and a bundle name, what was refused by a limit.

use super::{
    Storage,
    configs::config_is_alive,
    engine::Param,
    rows,
    select::{Select, id_cursor},
    tenant::TenantStore,
};
use crate::{
    egress::news::Sum,
    error::{Error, Result},
    ids::{ConfigId, ReachId, TenantId},
    model::{List, Page, Reach},
};

/// Nobody's name is longer (RFC 1035 §2.3.4), with its port.
const TARGET_CHARS_MAX: usize = 260;
/// Of a reason, so much is kept.
const DETAIL_CHARS_MAX: usize = 400;

impl Storage {
    /// Adds to what is known of what a config's tools asked for. A config that is gone is told nothing of.
    pub async fn egress_note(&self, tenant: TenantId, config: ConfigId, news: Vec<(String, bool, Sum)>) -> Result<()> {
        let store = self.active_store(tenant).await?;
        let (now, most) = (store.clock.now(), store.limits.sandbox_egress_refusals_max);
        store
            .write(move |tx| {
                if !config_is_alive(tx, config)? {
                    return Ok(());
                }
                let config = config.to_string();
                for (target, allowed, sum) in &news {
                    let (id, target, detail) = (ReachId::new().to_string(), short(target, TARGET_CHARS_MAX), short(&sum.detail, DETAIL_CHARS_MAX));
                    let number = |value: u64| Param::Int(i64::try_from(value).unwrap_or(i64::MAX));
                    tx.execute(
                        "INSERT INTO egress (tenant_id, config_id, target, allowed, id, detail, attempts, bytes_out, bytes_in, first_at, last_at)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?10)
                         ON CONFLICT (tenant_id, config_id, target, allowed) DO UPDATE SET detail = excluded.detail,
                         attempts = egress.attempts + excluded.attempts, bytes_out = egress.bytes_out + excluded.bytes_out,
                         bytes_in = egress.bytes_in + excluded.bytes_in, last_at = excluded.last_at",
                        &[
                            Param::Text(&config),
                            Param::Text(&target),
                            Param::Int(i64::from(*allowed)),
                            Param::Text(&id),
                            Param::Text(&detail),
                            number(sum.attempts),
                            number(sum.bytes_out),
                            number(sum.bytes_in),
                            Param::Int(now.ms()),
                        ],
                    )?;
                }
                tx.execute(
                    "DELETE FROM egress WHERE tenant_id = ?1 AND config_id = ?2 AND allowed = 0 AND id NOT IN
                     (SELECT e.id FROM egress e WHERE e.tenant_id = ?1 AND e.config_id = ?2 AND e.allowed = 0
                      ORDER BY e.last_at DESC, e.id DESC LIMIT ?3)",
                    &[Param::Text(&config), Param::Int(i64::try_from(most).map_err(Error::internal)?)],
                )?;
                Ok(())
            })
            .await
    }
}

impl TenantStore {
    /// A page of what a config's tools asked for.
    pub async fn egress_list(&self, config: ConfigId, page: Page) -> Result<List<Reach>> {
        self.config_get(config).await?;
        self.read(move |tx| {
            let mut select = Select::new(
                "SELECT id, config_id, target, allowed, detail, attempts, bytes_out, bytes_in, first_at, last_at FROM egress WHERE tenant_id = ?1",
            );
            select.and("config_id = ?", config.to_string());
            let take = |row: &dyn super::engine::Row| {
                Ok(Reach {
                    id: rows::parsed(row, 0)?,
                    config_id: rows::parsed(row, 1)?,
                    target: row.text(2)?.to_owned(),
                    allowed: row.int(3)? != 0,
                    detail: row.text(4)?.to_owned(),
                    attempts: rows::number(row, 5)?,
                    bytes_out: rows::number(row, 6)?,
                    bytes_in: rows::number(row, 7)?,
                    first_at: rows::time(row, 8)?,
                    last_at: rows::time(row, 9)?,
                })
            };
            select.page(tx, &page, "id", id_cursor("egress"), take, |reach| reach.id.to_string())
        })
        .await
    }
}

fn short(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}
