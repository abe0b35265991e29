//! `nimblesite models`: the rate card.

use super::{
    Desk, card,
    failure::{Done, Failure},
    out::Tone,
};
use crate::{
    config::{Config, ProviderConfig},
    rates::RateCard,
};
use clap::Subcommand;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(super) enum Models {
    /// List the models that can be called, in dollars per million tokens
    List,
    /// Check a rate card before it is put into the data directory
    Check {
        /// A file in the form of data/models.toml
        file: PathBuf,
    },
}

impl Models {
    pub(super) fn run(self, desk: &Desk) -> Done {
        let (config, _) = desk.config(Vec::new())?;
        match self {
            Self::List => {
                let (card, file) = card::load(&config.data).map_err(Failure::Failed)?;
                list(desk, &card, &config);
                let from = file.map_or_else(|| "the card in the binary".to_owned(), |file| file.display().to_string());
                desk.out.toned(Tone::Faint, format!("From {from}. Prices change: compare with the vendors' pages (`--json` names them)."));
                Ok(())
            }
            Self::Check { file } => {
                let text = std::fs::read_to_string(&file).map_err(|error| Failure::io(file.display(), &error))?;
                let card = RateCard::parse(&text).map_err(|error| Failure::Failed(format!("{}: {error}", file.display())))?;
                list(desk, &card, &config);
                desk.out.toned(Tone::Good, format!("{} is a whole rate card of {} models.", file.display(), card.rows().len()));
                Ok(())
            }
        }
    }
}

fn list(desk: &Desk, card: &RateCard, config: &Config) {
    let configured = |provider: &str| config.providers.get(provider).is_some_and(ProviderConfig::configured);
    let cards: Vec<_> = card.rows().iter().map(|row| row.card(configured(&row.provider))).collect();
    let headings = ["MODEL", "INPUT", "OUTPUT", "CACHE READ", "CACHE WRITE", "WINDOW", "AS OF", "SET UP"];
    desk.out.things(&cards, &headings, "The card is empty: no model can be called.", |row| {
        vec![
            format!("{}/{}", row.provider, row.name),
            row.rates.input.to_string(),
            row.rates.output.to_string(),
            row.rates.cache_read.to_string(),
            row.rates.cache_write.to_string(),
            row.context_window.to_string(),
            row.as_of.clone(),
            if row.configured { "yes" } else { "no" }.to_owned(),
        ]
    });
}
