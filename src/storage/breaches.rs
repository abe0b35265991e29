//! Vendors that reported more than a call's bound. After breaches by three tenants a model is closed for all, until its row on the rate card
//! changes.

use super::{Storage, engine::Param};
use crate::{error::Result, ids::TenantId, model::ModelRef, rates::CardRow};

/// Breaches by this many tenants close a model for all.
const TENANTS_TO_CLOSE: usize = 3;

impl Storage {
    /// Notes a breach; answers whether the model is now closed for all.
    pub async fn breach_note(&self, tenant: TenantId, model: &ModelRef, row: &CardRow) -> Result<bool> {
        let (model, rate_hash, now) = (model.clone(), row.fingerprint(), self.inner.clock.now());
        self.catalog_write(move |tx| {
            tx.execute(
                "INSERT INTO model_breaches (provider, model, tenant_id, rate_hash, created_at) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (provider, model, rate_hash, tenant_id) DO UPDATE SET created_at = excluded.created_at",
                &[
                    Param::Text(&model.provider),
                    Param::Text(&model.model),
                    Param::Text(&tenant.to_string()),
                    Param::Text(&rate_hash),
                    Param::Int(now.ms()),
                ],
            )?;
            let mut tenants = 0;
            tx.query(
                "SELECT tenant_id FROM model_breaches WHERE provider = ?1 AND model = ?2 AND rate_hash = ?3",
                &[Param::Text(&model.provider), Param::Text(&model.model), Param::Text(&rate_hash)],
                &mut |_| {
                    tenants += 1;
                    Ok(())
                },
            )?;
            Ok(tenants >= TENANTS_TO_CLOSE)
        })
        .await
    }

    /// The models that are closed for all: provider, model and the fingerprint of the row under which they were.
    pub async fn breaches_closed(&self) -> Result<Vec<(String, String, String)>> {
        self.catalog_read(|tx| {
            let mut closed = Vec::new();
            tx.query(
                "SELECT provider, model, rate_hash, COUNT(*) FROM model_breaches GROUP BY provider, model, rate_hash",
                &[],
                &mut |row| {
                    if usize::try_from(row.int(3)?).is_ok_and(|tenants| tenants >= TENANTS_TO_CLOSE) {
                        closed.push((row.text(0)?.to_owned(), row.text(1)?.to_owned(), row.text(2)?.to_owned()));
                    }
                    Ok(())
                },
            )?;
            Ok(closed)
        })
        .await
    }
}
