//! `nimblesite credit`: a tenant's prepaid wallet, from the operator's side.

use super::{Room, every, failure::Done, moment, parse};
use crate::{ids::TenantId, money::Money, storage::CreditInput};
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(super) enum Credit {
    /// Add credit, or take some back with a negative amount
    Add {
        /// The tenant
        #[arg(long, value_name = "ID", value_parser = parse::id::<TenantId>)]
        tenant: TenantId,
        /// Dollars such as 10.00; negative is an adjustment, never below what is spent or held
        #[arg(long, value_name = "DOLLARS", value_parser = parse::money, allow_hyphen_values = true)]
        amount: Money,
        /// The payment's reference; the same one counts once a tenant
        #[arg(long)]
        reference: Option<String>,
        /// A remark
        #[arg(long)]
        note: Option<String>,
    },
    /// Show what is left
    Show {
        /// The tenant
        #[arg(long, value_name = "ID", value_parser = parse::id::<TenantId>)]
        tenant: TenantId,
    },
    /// List every change of the balance, oldest first
    Ledger {
        /// The tenant
        #[arg(long, value_name = "ID", value_parser = parse::id::<TenantId>)]
        tenant: TenantId,
    },
}

impl Credit {
    pub(super) async fn run(self, room: &Room) -> Done {
        let Room { out, storage, operator, .. } = room;
        match self {
            Self::Add { tenant, amount, reference, note } => {
                let entry = storage.credit_add(operator, tenant, CreditInput { amount, reference, note }).await?;
                out.value(&entry);
                out.say(format!("Entry {} ({}): {}; the balance is {}.", entry.seq, entry.kind.name(), entry.amount, entry.balance));
                Ok(())
            }
            Self::Show { tenant } => {
                let wallet = storage.credit_show(operator, tenant).await?;
                let lines = [
                    ("balance", format!("{} {}", wallet.balance, wallet.currency)),
                    ("held", wallet.held.to_string()),
                    ("available", wallet.available.to_string()),
                ];
                out.thing(&wallet, &lines);
                Ok(())
            }
            Self::Ledger { tenant } => {
                let entries = every(|page| storage.credit_ledger(operator, tenant, page)).await?;
                let headings = ["SEQ", "KIND", "AMOUNT", "BALANCE", "MODEL OR REFERENCE", "NOTE", "TIME"];
                out.things(&entries, &headings, "Nothing yet; `nimblesite credit add` adds credit.", |entry| {
                    let what = entry.model.clone().or_else(|| entry.reference.clone()).unwrap_or_default();
                    let (amount, balance) = (entry.amount.to_string(), entry.balance.to_string());
                    let note = entry.note.clone().unwrap_or_default();
                    vec![entry.seq.to_string(), entry.kind.name().to_owned(), amount, balance, what, note, moment(entry.created_at)]
                });
                Ok(())
            }
        }
    }
}
