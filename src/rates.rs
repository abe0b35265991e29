//! The rate card: which models can be called, what a call costs, and the facts about a model that its wire needs. Pure.
//!
//! Money rule: every class of tokens has its own rate, a cost is rounded up once, to the nano-dollar.

use crate::{
    model::{ModelCard, ModelFacts, Rates, Tokenizer, Usage},
    money::{Money, RATE_TOKENS_PER_NANO, Rate},
};
use serde::Deserialize;
use std::sync::{Arc, LazyLock};

/// The card in the binary, for a data directory without a `models.toml` of its own.
pub const EMBEDDED: &str = include_str!("../data/models.toml");

/// One priced model. The rates of a [`RateCard`]'s rows include its markup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CardRow {
    /// The provider's name.
    pub provider: String,
    /// The model's name, or `*` for any model of the provider.
    pub name: String,
    /// The rates.
    pub rates: Rates,
    /// A prompt longer than this many tokens, cached ones included, is charged as a whole at these rates.
    pub long: Option<(u64, Rates)>,
    /// Tokens of prompt and answer together.
    pub context_window: u64,
    /// The window, where the row states it: no vendor reads more than fits, so no input is bounded above it. A window that was only assumed
    /// bounds nothing.
    pub input_cap: Option<u64>,
    /// The most tokens of one answer.
    pub output_limit: u32,
    /// An output limit lowered below this gives no useful answer.
    pub output_min: u32,
    /// What the wire must know.
    pub facts: ModelFacts,
    /// Where the figures come from.
    pub source: String,
    /// The day they were true.
    pub as_of: String,
}

impl CardRow {
    /// The rates of a call that used this.
    pub fn rates_for(&self, usage: Usage) -> Rates {
        match self.long {
            Some((above, long)) if usage.input_total() > above => long,
            _ => self.rates,
        }
    }

    /// The row as the contract shows it. `configured`: whether the operator has set its provider up.
    pub fn card(&self, configured: bool) -> ModelCard {
        ModelCard {
            provider: self.provider.clone(),
            name: self.name.clone(),
            rates: self.rates,
            context_window: self.context_window,
            output_limit: u64::from(self.output_limit),
            source: self.source.clone(),
            as_of: self.as_of.clone(),
            configured,
        }
    }

    /// What a call that used this costs. Nothing when the sum does not fit, which no honest vendor can report.
    pub fn cost(&self, usage: Usage) -> Option<Money> {
        cost(&self.rates_for(usage), usage)
    }

    /// The most that a call can cost whose input is at most so many tokens (of whatever class is dearest, that of cache writes only where it can
    /// write) and whose output at most so many.
    pub fn cost_max(&self, input_tokens: u64, cache_writes: bool, output_tokens: u64) -> Option<Money> {
        let worst = self.worst_rates(input_tokens, cache_writes);
        cost(&worst, Usage { input_tokens, output_tokens, ..Usage::default() })
    }

    /// How many output tokens this much money buys besides such an input; nothing when it does not even pay the input.
    pub fn output_affordable(&self, money: Money, input_tokens: u64, cache_writes: bool) -> Option<u64> {
        let worst = self.worst_rates(input_tokens, cache_writes);
        let purse = u128::try_from(money.nanos()).ok()? * RATE_TOKENS_PER_NANO;
        let rest = purse.checked_sub(u128::from(input_tokens) * u128::from(worst.input.units()))?;
        match u128::from(worst.output.units()) {
            0 => Some(u64::MAX),
            rate => Some(u64::try_from(rest / rate).unwrap_or(u64::MAX)),
        }
    }

    /// Whether no call of this model can ever cost anything.
    pub fn is_free(&self) -> bool {
        let zero = Rate::default();
        let free = |rates: &Rates| [rates.input, rates.output, rates.cache_read, rates.cache_write].iter().all(|rate| *rate == zero);
        free(&self.rates) && self.long.is_none_or(|(_, long)| free(&long))
    }

    /// The rates in this row, and what its calls are bounded by, as one text, so that a changed row can be told from the one under which a model was closed.
    pub fn fingerprint(&self) -> String {
        let (bound, limit) = ((self.input_cap, self.facts.tokenizer), self.output_limit);
        let text = format!("{:?} {:?} {} {limit} {bound:?}", self.rates, self.long, self.context_window);
        blake3::hash(text.as_bytes()).to_hex()[..16].to_owned()
    }

    /// The dearest rate that can apply, class by class; `input` is the dearest of the classes of input.
    fn worst_rates(&self, input_tokens: u64, cache_writes: bool) -> Rates {
        let dearest = |rates: &Rates| {
            let input = rates.input.max(rates.cache_read).max(if cache_writes { rates.cache_write } else { rates.input });
            Rates { input, cache_read: input, cache_write: input, output: rates.output }
        };
        let base = dearest(&self.rates);
        match self.long.as_ref() {
            Some((above, long)) if input_tokens > *above => {
                let long = dearest(long);
                let input = base.input.max(long.input);
                Rates { input, cache_read: input, cache_write: input, output: base.output.max(long.output) }
            }
            _ => base,
        }
    }
}

/// Tokens times rates, rounded up once to the nano-dollar. Nothing when it does not fit.
pub fn cost(rates: &Rates, usage: Usage) -> Option<Money> {
    let part = |tokens: u64, rate: Rate| u128::from(tokens).checked_mul(u128::from(rate.units()));
    let sum = part(usage.input_tokens, rates.input)?
        .checked_add(part(usage.output_tokens, rates.output)?)?
        .checked_add(part(usage.cache_read_tokens, rates.cache_read)?)?
        .checked_add(part(usage.cache_write_tokens, rates.cache_write)?)?;
    i64::try_from(sum.div_ceil(RATE_TOKENS_PER_NANO)).ok().map(Money::from_nanos)
}

/// All priced models.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RateCard {
    rows: Vec<Arc<CardRow>>,
    machine: Option<Arc<CardRow>>,
    machine_second: Rate,
}

/// How the time of running tools stands in holds, ledger and logs: provider and model.
pub const MACHINE: (&str, &str) = ("sandbox", "machine_seconds");

impl RateCard {
    /// Reads a card in the form of `data/models.toml`. The error says which row and field, and what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
        let markup = markup_millionths(&file.markup)?;
        let mut rows: Vec<Arc<CardRow>> = Vec::with_capacity(file.model.len());
        for entry in file.model {
            let who = format!("{}/{}", entry.provider, entry.name);
            let row = entry.priced(markup).map_err(|why| format!("{who}: {why}"))?;
            if rows.iter().any(|other| other.provider == row.provider && other.name == row.name) {
                return Err(format!("{who} stands twice; keep one row a model"));
            }
            rows.push(Arc::new(row));
        }
        let named = |why: String| format!("machine_second: {why}");
        let machine = machine_row(file.machine_second, markup).map_err(named)?;
        let machine_second = marked_up(file.machine_second, markup).map_err(named)?;
        Ok(Self { rows, machine, machine_second })
    }

    /// The row that prices a running tool's time, whose output token is a millisecond; nothing where that is free.
    pub fn machine(&self) -> Option<&Arc<CardRow>> {
        self.machine.as_ref()
    }

    /// The dollars that a second of a running tool costs.
    pub fn machine_second(&self) -> Rate {
        self.machine_second
    }

    /// The card in the binary.
    pub fn embedded() -> &'static Self {
        static CARD: LazyLock<RateCard> = LazyLock::new(|| RateCard::parse(EMBEDDED).unwrap_or_default());
        &CARD
    }

    /// The row that prices a model: its own, else the provider's `*`.
    pub fn find(&self, provider: &str, model: &str) -> Option<&Arc<CardRow>> {
        let named = |name: &str| self.rows.iter().find(|row| row.provider == provider && row.name == name);
        named(model).or_else(|| named("*"))
    }

    /// All rows, in the file's order.
    pub fn rows(&self) -> &[Arc<CardRow>] {
        &self.rows
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default = "one")]
    markup: String,
    #[serde(default)]
    machine_second: Rate,
    #[serde(default)]
    model: Vec<Entry>,
}

fn one() -> String {
    "1".to_owned()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    provider: String,
    name: String,
    input: Rate,
    output: Rate,
    #[serde(default)]
    cache_read: Option<Rate>,
    #[serde(default)]
    cache_write: Option<Rate>,
    #[serde(default)]
    long_context_above: Option<u64>,
    #[serde(default)]
    input_long: Option<Rate>,
    #[serde(default)]
    output_long: Option<Rate>,
    #[serde(default)]
    cache_read_long: Option<Rate>,
    #[serde(default)]
    cache_write_long: Option<Rate>,
    #[serde(default)]
    context_window: Option<u64>,
    #[serde(default = "output_limit_default")]
    output_limit: u32,
    #[serde(default = "output_min_default")]
    output_min: u32,
    #[serde(default)]
    source: String,
    #[serde(default)]
    as_of: String,
    #[serde(default)]
    reasoning: bool,
    #[serde(default)]
    tools_effort_none: bool,
    #[serde(default)]
    tools_refused: bool,
    #[serde(default)]
    sampling_refused: bool,
    #[serde(default)]
    forced_tools_refused: bool,
    #[serde(default)]
    thinking_bound: bool,
    #[serde(default)]
    thinking_default: bool,
    #[serde(default)]
    tokenizer: Option<Tokenizer>,
}

/// What is assumed of a model whose row does not say.
const CONTEXT_WINDOW_DEFAULT: u64 = 128_000;

const fn output_limit_default() -> u32 {
    8_192
}

const fn output_min_default() -> u32 {
    256
}

impl Entry {
    fn priced(self, markup: u64) -> Result<CardRow, String> {
        if self.provider.is_empty() || self.name.is_empty() {
            return Err("`provider` and `name` must not be empty".to_owned());
        }
        let context_window = self.context_window.unwrap_or(CONTEXT_WINDOW_DEFAULT);
        if self.output_limit == 0 || context_window == 0 {
            return Err("`context_window` and `output_limit` must be above 0".to_owned());
        }
        if u64::from(self.output_limit) > context_window {
            return Err("`output_limit` must not be above `context_window`".to_owned());
        }
        let rates = |input: Rate, output: Rate, read: Option<Rate>, write: Option<Rate>| -> Result<Rates, String> {
            // A vendor that does not bill a class of its own bills it as plain input.
            Ok(Rates {
                input: marked_up(input, markup)?,
                output: marked_up(output, markup)?,
                cache_read: marked_up(read.unwrap_or(input), markup)?,
                cache_write: marked_up(write.unwrap_or(input), markup)?,
            })
        };
        let long = match (self.long_context_above, self.input_long, self.output_long) {
            (None, None, None) => None,
            (Some(above), Some(input), Some(output)) => Some((above, rates(input, output, self.cache_read_long, self.cache_write_long)?)),
            _ => return Err("`long_context_above`, `input_long` and `output_long` go together".to_owned()),
        };
        let facts = ModelFacts {
            reasoning: self.reasoning,
            tools_effort_none: self.tools_effort_none,
            tools_refused: self.tools_refused,
            sampling_refused: self.sampling_refused,
            forced_tools_refused: self.forced_tools_refused,
            thinking_bound: self.thinking_bound,
            thinking_default: self.thinking_default,
            tokenizer: self.tokenizer,
        };
        Ok(CardRow {
            rates: rates(self.input, self.output, self.cache_read, self.cache_write)?,
            long,
            context_window,
            input_cap: self.context_window,
            output_limit: self.output_limit,
            output_min: self.output_min.min(self.output_limit),
            facts,
            provider: self.provider,
            name: self.name,
            source: self.source,
            as_of: self.as_of,
        })
    }
}

/// A second of a running tool as a row like any other, so that its time is held, charged and audited like tokens: dollars a second are
/// thousandths of dollars a millisecond, and a row's rate is that of a million.
fn machine_row(second: Rate, markup: u64) -> Result<Option<Arc<CardRow>>, String> {
    if second == Rate::default() {
        return Ok(None);
    }
    let million = second.units().checked_mul(1_000).map(Rate::from_units).ok_or("a second costs more than any wallet holds")?;
    let rates =
        Rates { input: Rate::default(), output: marked_up(million, markup)?, cache_read: Rate::default(), cache_write: Rate::default() };
    let row = CardRow {
        provider: MACHINE.0.to_owned(),
        name: MACHINE.1.to_owned(),
        rates,
        long: None,
        context_window: u64::MAX,
        input_cap: None,
        output_limit: u32::MAX,
        output_min: 1_000,
        facts: ModelFacts::default(),
        source: String::new(),
        as_of: String::new(),
    };
    Ok(Some(Arc::new(row)))
}

/// The markup in millionths: `1.25` is 1,250,000.
fn markup_millionths(text: &str) -> Result<u64, String> {
    let refused = || format!("`markup` is {text:?}; expected a decimal such as \"1.25\" from 0 to 1000 with at most six places");
    let money: Money = text.parse().map_err(|_| refused())?;
    let nanos = u64::try_from(money.nanos()).map_err(|_| refused())?;
    if nanos % 1_000 != 0 || nanos > 1_000 * 1_000_000_000 {
        return Err(refused());
    }
    Ok(nanos / 1_000)
}

/// A published rate times the markup: exact for rates of at most nine places, else rounded up in the fifteenth.
fn marked_up(rate: Rate, markup: u64) -> Result<Rate, String> {
    let units = (u128::from(rate.units()) * u128::from(markup)).div_ceil(1_000_000);
    u64::try_from(units).map(Rate::from_units).map_err(|_| "a rate times the markup is above 18446 dollars per million tokens".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(text: &str) -> CardRow {
        RateCard::parse(&format!("[[model]]\nprovider='p'\nname='m'\n{text}")).unwrap().rows()[0].as_ref().clone()
    }

    #[test]
    fn the_embedded_card_is_whole_and_every_row_is_sourced() {
        let card = RateCard::parse(EMBEDDED).unwrap();
        assert!(card.rows().len() > 20);
        for row in card.rows() {
            let free_of_vendor = row.provider == "echo" || row.provider == "ollama";
            assert!(free_of_vendor || row.source.contains("https://"), "{}/{} names no source", row.provider, row.name);
            assert_eq!(row.as_of.len(), 10, "{}/{} has no day", row.provider, row.name);
            assert_eq!(row.is_free(), free_of_vendor, "{}/{}", row.provider, row.name);
        }
        assert!(card.find("ollama", "whatever:7b").is_some());
        assert!(card.find("anthropic", "no-such-model").is_none());
        assert!(card.find("anthropic", "claude-sonnet-4-6").is_some());
    }

    #[test]
    fn a_cost_is_rounded_up_once() {
        let row = row("input='0.0001'\noutput='3.00'\ncache_read='0.30'\ncache_write='3.75'");
        let usage = |input_tokens, output_tokens| Usage { input_tokens, output_tokens, ..Usage::default() };
        // 1 token at 0.0001 dollars per million is a tenth of a nano-dollar.
        assert_eq!(row.cost(usage(1, 0)).unwrap().nanos(), 1);
        assert_eq!(row.cost(usage(10, 0)).unwrap().nanos(), 1);
        assert_eq!(row.cost(usage(11, 1)).unwrap().nanos(), 3_000 + 2);
        assert_eq!(row.cost(usage(u64::MAX, u64::MAX)), None);
    }

    #[test]
    fn the_bound_takes_the_dearest_class_and_tier() {
        let row = row(
            "input='1'\noutput='5'\ncache_read='0.1'\ncache_write='1.25'\nlong_context_above=1000\ninput_long='2'\noutput_long='10'\ncache_write_long='2.5'",
        );
        assert_eq!(row.cost_max(1000, true, 100).unwrap().nanos(), 1000 * 1250 + 100 * 5000);
        assert_eq!(row.cost_max(1001, true, 100).unwrap().nanos(), 1001 * 2500 + 100 * 10_000);
        for usage in [
            Usage { input_tokens: 600, cache_write_tokens: 400, output_tokens: 100, cache_read_tokens: 0 },
            Usage { input_tokens: 1, cache_write_tokens: 0, output_tokens: 100, cache_read_tokens: 1000 },
        ] {
            assert!(row.cost(usage) <= row.cost_max(usage.input_total(), true, usage.output_tokens));
        }
    }

    #[test]
    fn a_call_that_writes_no_cache_is_not_bounded_by_the_price_of_writing() {
        let row = row("input='1'\noutput='5'\ncache_read='0.1'\ncache_write='1.25'");
        assert_eq!(row.cost_max(1000, false, 0).unwrap().nanos(), 1000 * 1000);
        assert!(row.output_affordable(Money::from_nanos(1_100_000), 1000, true).is_none());
        assert_eq!(row.output_affordable(Money::from_nanos(1_100_000), 1000, false), Some(20));
    }

    #[test]
    fn only_a_stated_window_bounds_an_input_and_what_bounds_is_in_the_fingerprint() {
        let (silent, stated) = (row("input='1'\noutput='5'"), row("input='1'\noutput='5'\ncontext_window=128000"));
        assert_eq!((silent.input_cap, silent.context_window, stated.input_cap), (None, 128_000, Some(128_000)));
        let counted = row("input='1'\noutput='5'\ntokenizer='o200k_base'");
        assert_ne!(silent.fingerprint(), stated.fingerprint());
        assert_ne!(silent.fingerprint(), counted.fingerprint());
    }

    #[test]
    fn what_money_buys_never_costs_more_than_the_money() {
        let row = row("input='0.15'\noutput='0.6'");
        for nanos in [0, 1, 149, 150, 151, 15_000, 15_599, 15_600, 1_000_000] {
            let money = Money::from_nanos(nanos);
            match row.output_affordable(money, 100, true) {
                None => assert!(row.cost_max(100, true, 0).unwrap() > money),
                Some(tokens) => {
                    assert!(row.cost_max(100, true, tokens).unwrap() <= money);
                    assert!(row.cost_max(100, true, tokens + 1).unwrap() > money);
                }
            }
        }
    }

    #[test]
    fn markup_multiplies_every_rate_exactly() {
        let card = RateCard::parse("markup='1.2'\n[[model]]\nprovider='p'\nname='m'\ninput='0.075'\noutput='3.00'").unwrap();
        let rates = card.rows()[0].rates;
        assert_eq!((rates.input.to_string(), rates.output.to_string()), ("0.09".to_owned(), "3.6".to_owned()));
    }

    #[test]
    fn a_running_tool_s_second_is_priced_by_the_millisecond_and_free_by_default() {
        assert!(RateCard::embedded().machine().is_none());
        let card = RateCard::parse("markup='2'\nmachine_second='0.0001'").unwrap();
        let machine = card.machine().unwrap();
        let ms = |output_tokens| machine.cost(Usage { output_tokens, ..Usage::default() }).unwrap().nanos();
        assert_eq!((ms(1_000), ms(1), ms(0)), (200_000, 200, 0));
        assert_eq!(machine.cost_max(0, false, 60_000).unwrap().nanos(), 12_000_000);
    }

    #[test]
    fn a_broken_card_says_where() {
        for (text, part) in [
            ("markup='-1'", "`markup`"),
            ("[[model]]\nprovider='p'\nname='m'\ninput='x'\noutput='1'", "decimal string"),
            ("[[model]]\nprovider='p'\nname='m'\ninput=3.0\noutput='1'", "string"),
            ("[[model]]\nprovider='p'\nname='m'\ninput='1'\noutput='1'\nlong_context_above=3", "go together"),
            ("[[model]]\nprovider='p'\nname='m'\ninput='1'\noutput='1'\nspeed=3", "speed"),
            ("[[model]]\nprovider='p'\nname='m'\ninput='1'\noutput='1'\ntokenizer='cl1'", "o200k_base"),
            ("[[model]]\nprovider='p'\nname='m'\ninput='1'\noutput='1'\n[[model]]\nprovider='p'\nname='m'\ninput='1'\noutput='1'", "twice"),
        ] {
            let error = RateCard::parse(text).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
