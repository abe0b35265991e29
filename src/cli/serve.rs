//! `nimblesite serve`.

use super::{
    Desk,
    failure::Done,
    out::Tone,
    runtime,
    server::{PortTaken, Running, Signals},
};
use crate::config::{Config, Origin, Provenance};
use clap::Args;

#[derive(Debug, Args)]
pub(super) struct Serve {
    /// Address and port; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Show the settings in force, secrets hidden, and where each came from; then end
    #[arg(long)]
    print_config: bool,
}

impl Serve {
    pub(super) fn run(self, desk: &Desk) -> Done {
        let flags = self.listen.map(|listen| ("listen", listen)).into_iter().collect();
        let (config, from) = desk.config(flags)?;
        if self.print_config {
            print(desk, &config, &from);
            return Ok(());
        }
        runtime(&config)?.block_on(async {
            let public_url_set = from.origin("public_url") != Origin::Default;
            let running = Running::start(config, public_url_set, PortTaken::Fail).await?;
            let signals = Signals::watch()?;
            announce(desk, &running);
            running.until_signal(signals).await
        })
    }
}

fn print(desk: &Desk, config: &Config, from: &Provenance) {
    desk.out
        .things(&from.shown(config), &["KEY", "VALUE", "FROM"], "", |line| vec![line.key.clone(), line.value.clone(), line.from.clone()]);
}

fn announce(desk: &Desk, running: &Running) {
    let (out, config) = (desk.out, &running.app.config);
    out.value(&serde_json::json!({
        "version": env!("CARGO_PKG_VERSION"),
        "listen": running.at.to_string(),
        "url": running.url,
        "data": config.data,
    }));
    out.say(format!(
        "Nimblesite {} listens on {} (data in {})",
        env!("CARGO_PKG_VERSION"),
        out.paint(Tone::Heading, &running.url),
        config.data.display()
    ));
    if config.public_url != super::super::config::public_url(running.at, config.tls.is_some()) {
        out.say(format!("The listener itself is {}", running.at));
    }
    let ready: Vec<&str> =
        config.providers.values().filter(|provider| provider.configured()).map(|provider| provider.name.as_str()).collect();
    out.say(format!("Docs {}/docs   providers set up: {}", running.url, ready.join(", ")));
    if let Some(warning) = exposed(config) {
        // Also where nobody looks at stdout.
        tracing::warn!("{warning}");
    }
}

/// What to say when keys would cross a network in the clear.
pub(super) fn exposed(config: &Config) -> Option<String> {
    (!config.listen.ip().is_loopback() && config.tls.is_none()).then(|| {
        let at = config.listen;
        format!("{at} can be reached from the network and speaks no TLS: keys and conversations cross it in the clear. Set [tls] cert and key, or put a TLS proxy in front and listen on loopback")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_listener_beyond_loopback_without_tls_is_warned_of() {
        let mut config = Config::default_for("data".into());
        assert_eq!(exposed(&config), None);
        config.listen = "[::1]:1".parse().unwrap();
        assert_eq!(exposed(&config), None);
        config.listen = "0.0.0.0:8080".parse().unwrap();
        assert!(exposed(&config).unwrap().contains("TLS"));
        config.tls = Some(crate::config::Tls { cert: "c".into(), key: "k".into() });
        assert_eq!(exposed(&config), None);
    }
}
