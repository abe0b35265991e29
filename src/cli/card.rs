//! The rate card in force: `models.toml` in the data directory, else the one in the binary; a change is taken up without a restart, a broken
//! one is refused and the old one stays.

use super::failure::Failure;
use crate::{app::App, rates::RateCard};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

/// How often the file is looked at. A change counts once it was seen twice the same, so that a half-written file is let be.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Where the data directory's own card is, if it has one.
pub(super) fn path(data: &Path) -> PathBuf {
    data.join("models.toml")
}

/// The card in force, and the file it is from; none for the one in the binary.
pub(super) fn load(data: &Path) -> Result<(RateCard, Option<PathBuf>), String> {
    let path = path(data);
    match std::fs::read_to_string(&path) {
        Ok(text) => RateCard::parse(&text).map(|card| (card, Some(path.clone()))).map_err(|error| format!("{}: {error}", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok((RateCard::embedded().clone(), None)),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// A card that must be whole for the server to start.
pub(super) fn load_or_fail(data: &Path) -> Result<RateCard, Failure> {
    load(data).map(|(card, _)| card).map_err(|text| Failure::Failed(format!("the rate card is broken: {text}")))
}

/// What tells one state of the file from another.
type Stamp = Option<(SystemTime, u64)>;

fn stamp(path: &Path) -> Stamp {
    let facts = std::fs::metadata(path).ok()?;
    Some((facts.modified().ok()?, facts.len()))
}

/// Takes up changes of the file for as long as it is polled.
pub(super) async fn watch(app: App) {
    let data = app.config.data.clone();
    let path = path(&data);
    let mut in_force = stamp(&path);
    let mut seen = in_force;
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    loop {
        ticks.tick().await;
        let now = stamp(&path);
        let settled = now == seen;
        seen = now;
        if !settled || now == in_force {
            continue;
        }
        in_force = now;
        match load(&data) {
            Ok((card, file)) => {
                let from = file.map_or_else(|| "the binary".to_owned(), |file| file.display().to_string());
                tracing::info!(models = card.rows().len(), from, "the rate card changed");
                app.rates.store(Arc::new(card));
            }
            Err(error) => tracing::error!(error, "the changed rate card is broken; the old one stays in force"),
        }
    }
}
