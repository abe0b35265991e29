//! The proof of docs/money.md: the pure wallet against a second arithmetic, the ledger in SQL against the pure wallet and the auditor, the
//! auditor against tampering, a rule for each way a turn can go, and a storm of turns against a hostile vendor.
//!
//! Continuous integration runs a shortened form; `NIMBLESITE_TEST_FULL=1` runs all of it. A run can be had again with the seed it prints,
//! as `NIMBLESITE_TEST_SEED`.

pub mod dice;
mod ledger;
mod purse;
mod rules;
mod spendable;
#[cfg(feature = "failpoints")]
mod storm;
mod tamper;

use crate::harness::{Server, Tenant, full};
use std::{env, time::Duration};

/// The seed of this run: given, or of the day's own choice, and always printed.
pub fn seed(what: &str) -> u64 {
    let given = env::var("NIMBLESITE_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock past 1970");
        u64::from(now.subsec_nanos()) ^ now.as_secs()
    });
    println!("{what}: NIMBLESITE_TEST_SEED={seed}");
    seed
}

/// Reads the wallets all along: settled and held never pass what was deposited.
pub async fn watch(server: &Server, tenants: &[Tenant]) -> std::convert::Infallible {
    loop {
        for tenant in tenants {
            let overspent = "SELECT settled + held - deposited FROM wallet";
            let overspent = server.tenant_db(&tenant.id).query_row(overspent, [], |row| row.get::<_, i64>(0));
            assert!(overspent.as_ref().map_or(true, |nanos| *nanos <= 0), "{}: overspent by {overspent:?}", tenant.name);
        }
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
}
