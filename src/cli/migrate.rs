//! `nimblesite migrate`: every tenant's file to this version, one after the other, with a progress bar.

use super::{
    Room,
    failure::{Done, Failure},
    out::Tone,
};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// A tenant whose file could not be brought to this version.
#[derive(Debug, Serialize)]
struct Trouble {
    tenant_id: String,
    error: String,
}

pub(super) async fn run(room: &Room) -> Done {
    let Room { out, storage, .. } = room;
    // Hidden where stderr is no terminal.
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} tenants, {eta} left") {
        bar.set_style(style);
    }
    let (storage, shown) = (storage.clone(), bar.clone());
    let work = move || {
        let (mut total, mut troubles) = (0, Vec::new());
        let outcome = storage.migrate_all(|done, all, trouble| {
            total = all;
            shown.set_length(all as u64);
            shown.set_position(done as u64);
            if let Some((tenant, error)) = trouble {
                troubles.push(Trouble { tenant_id: tenant.to_string(), error: error.to_string() });
            }
        });
        outcome.map(|()| (total, troubles))
    };
    let outcome = tokio::task::spawn_blocking(work).await.map_err(|error| Failure::Failed(format!("the work broke off: {error}")))?;
    bar.finish_and_clear();
    let (total, troubles) = outcome?;
    out.value(&serde_json::json!({ "tenants": total, "migrated": total - troubles.len(), "failed": troubles }));
    out.say(format!("{} of {total} tenants are at this version.", total - troubles.len()));
    for trouble in &troubles {
        out.toned(Tone::Bad, format!("{}: {}", trouble.tenant_id, trouble.error));
    }
    if troubles.is_empty() {
        return Ok(());
    }
    out.say("The others are not held up by these. `nimblesite doctor` looks closer.");
    Err(Failure::Told)
}
