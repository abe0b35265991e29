//! `nimblesite-bench`: the release server under load, beside a yardstick in the same run.
//!
//! ```console
//! $ cargo build --release && cargo run --release --example nimblesite-bench -- [--quick] [--rounds 5] [--seconds 1.5] [--tenants 2000] [--limit 'NAME = VALUE'] [--setting 'NAME = VALUE'] [--json FILE] [--markdown FILE] [SCENARIO …]
//! $ cargo build --release && cargo run --release --example nimblesite-bench -- soak [--minutes 30] [--tenants 500] [--rate 60] [--markdown FILE]
//! $ cargo build --release && cargo run --release --example nimblesite-bench -- scale [--sizes 2,1000,10000,100000] [--active 500] [--data DIR] [--commands-max N] [--json FILE] [--svg FILE]
//! ```
//!
//! The yardstick (`yardstick.rs`) is a bare server that does the same reads and commits with none of our layers. Both sides, the vendor and the
//! clients share the machine's cores, so figures of one run compare with each other and with nothing else: each scenario runs round by round,
//! ours and the yardstick's in turn, and medians are shown. Everything stays on loopback and in a temporary directory, and ends by itself.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    unreachable_pub,
    missing_docs,
    reason = "a program to measure with: it talks to people and stands outside of the product's rooms"
)]

mod client;
mod load;
mod plot;
mod probe;
mod report;
mod scale;
mod scenario;
mod soak;
mod soak_client;
mod soak_report;
mod vendor;
mod world;
mod yardstick;
mod yardstick_files;

use std::{error::Error, path::PathBuf};

/// What was asked for on the command line.
pub struct Ask {
    rounds: usize,
    seconds: f64,
    tenants: usize,
    /// Lines for our server's `[limits]`, and for the top of its settings, to try one.
    limits: String,
    settings: String,
    json: Option<PathBuf>,
    markdown: Option<PathBuf>,
    names: Vec<String>,
}

fn ask() -> Result<Ask, Box<dyn Error>> {
    let mut ask = Ask {
        rounds: 5,
        seconds: 1.5,
        tenants: 2_000,
        limits: String::new(),
        settings: String::new(),
        json: None,
        markdown: None,
        names: Vec::new(),
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} wants a value"));
        match arg.as_str() {
            "--quick" => (ask.rounds, ask.seconds, ask.tenants) = (3, 0.5, 200),
            "--rounds" => ask.rounds = value()?.parse()?,
            "--seconds" => ask.seconds = value()?.parse()?,
            "--tenants" => ask.tenants = value()?.parse()?,
            "--limit" => ask.limits += &(value()? + "\n"),
            "--setting" => ask.settings += &(value()? + "\n"),
            "--json" => ask.json = Some(value()?.into()),
            "--markdown" => ask.markdown = Some(value()?.into()),
            name if scenario::ALL.iter().any(|scenario| scenario.name == name) || name == "keys-cold" => ask.names.push(name.to_owned()),
            other => {
                let names: Vec<_> = scenario::ALL.iter().map(|scenario| scenario.name).collect();
                return Err(format!("{other} is no scenario; there are {} keys-cold", names.join(" ")).into());
            }
        }
    }
    Ok(ask)
}

fn scale_ask(args: &[String]) -> Result<scale::Ask, Box<dyn Error>> {
    let mut ask = scale::Ask {
        sizes: vec![2, 1_000, 10_000, 100_000],
        data: None,
        active: scale::ACTIVE,
        commands_max: usize::MAX,
        json: None,
        svg: None,
    };
    let mut args = args.iter();
    while let Some(name) = args.next() {
        let mut value = || args.next().ok_or(format!("{name} wants a value"));
        match name.as_str() {
            "--sizes" => ask.sizes = value()?.split(',').map(str::parse).collect::<Result<_, _>>()?,
            "--data" => ask.data = Some(value()?.into()),
            "--active" => ask.active = value()?.parse()?,
            "--commands-max" => ask.commands_max = value()?.parse()?,
            "--json" => ask.json = Some(value()?.into()),
            "--svg" => ask.svg = Some(value()?.into()),
            other => {
                return Err(format!("{other} is no option of scale; there are --sizes --active --data --commands-max --json --svg").into());
            }
        }
    }
    ask.sizes.sort_unstable();
    Ok(ask)
}

fn soak_ask(args: &[String]) -> Result<(soak::Ask, Option<PathBuf>), Box<dyn Error>> {
    let mut ask = soak::Ask { minutes: 30.0, tenants: 500, rate: 60.0 };
    let mut markdown = None;
    for pair in args.chunks(2) {
        let [name, value] = pair else { return Err(format!("{} wants a value", pair[0]).into()) };
        match name.as_str() {
            "--minutes" => ask.minutes = value.parse()?,
            "--tenants" => ask.tenants = value.parse()?,
            "--rate" => ask.rate = value.parse()?,
            "--markdown" => markdown = Some(value.into()),
            other => return Err(format!("{other} is no option of soak; there are --minutes --tenants --rate --markdown").into()),
        }
    }
    Ok((ask, markdown))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().collect();
    if let [_, word, data, vendor, tenants, keep] = args.as_slice()
        && word == "yardstick"
    {
        let served = yardstick::serve(data.into(), vendor.clone(), tenants.parse()?, keep.parse()?).await;
        return served.map_err(|error| error.to_string().into());
    }
    if args.get(1).is_some_and(|word| word == "scale") {
        return scale::run(&scenario::binary()?, &scale_ask(&args[2..])?).await;
    }
    if args.get(1).is_some_and(|word| word == "soak") {
        let (ask, markdown) = soak_ask(&args[2..])?;
        let report = soak::run(&scenario::binary()?, &ask).await?;
        println!("{report}");
        if let Some(path) = markdown {
            std::fs::write(path, report.markdown())?;
        }
        return if report.breaches().is_empty() { Ok(()) } else { Err(format!("{} verdicts are bad", report.breaches().len()).into()) };
    }
    scenario::run(&ask()?).await
}
