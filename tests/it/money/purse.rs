//! The pure wallet against a second arithmetic, in 128 bits and with every hold written down: a million operations, most of them on edges.

use super::{dice::Dice, full, seed};
use nimblesite::{
    model::Usage,
    money::Money,
    rates::{CardRow, RateCard},
    wallet::{self, Denied, Purse, Refused, Wish},
};

/// What a wallet is, told in the longest way.
#[derive(Default)]
struct Model {
    deposits: i128,
    charges: i128,
    holds: Vec<i128>,
}

impl Model {
    fn held(&self) -> i128 {
        self.holds.iter().sum()
    }

    fn free(&self) -> i128 {
        self.deposits - self.charges - self.held()
    }
}

fn money(nanos: i128) -> Money {
    Money::from_nanos(i64::try_from(nanos).expect("an amount of the model"))
}

fn nanos(money: Money) -> i128 {
    i128::from(money.nanos())
}

/// Cards whose prices make edges: free, a nano-dollar a token, what vendors ask, the dearest there can be, and one with a dearer long prompt.
fn cards() -> Vec<CardRow> {
    let rows = [
        ("free", "0", "0", "", 200_000, 64_000, 16),
        ("nano", "0.001", "0.001", "", 4_000_000_000_000_000_000_u64, 4_000_000_000_u64, 1),
        ("usual", "3", "15", "cache_read='0.30'\ncache_write='3.75'", 200_000, 64_000, 256),
        ("odd", "0.000000001", "0.000000007", "", 1_000_000, 64_000, 1),
        ("dear", "18000", "18000", "", 1_000_000_000_000, 4_000_000_000, 1),
        ("long", "1.25", "10", "long_context_above=1000\ninput_long='2.50'\noutput_long='15'", 1_000_000, 64_000, 16),
    ];
    let text: String = rows
        .iter()
        .map(|(name, input, output, more, window, limit, min)| {
            format!(
                "[[model]]\nprovider='p'\nname='{name}'\ninput='{input}'\noutput='{output}'\n{more}\ncontext_window={window}\noutput_limit={limit}\noutput_min={min}\n"
            )
        })
        .collect();
    RateCard::parse(&text).expect("a card").rows().iter().map(|row| row.as_ref().clone()).collect()
}

struct Run {
    dice: Dice,
    purse: Purse,
    model: Model,
    cards: Vec<CardRow>,
    /// How often each thing happened, so that a generator that has become blind fails the test.
    seen: std::collections::BTreeMap<&'static str, u64>,
}

impl Run {
    fn note(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    fn edges(&self) -> [i64; 5] {
        let purse = self.purse;
        [
            purse.available().nanos(),
            purse.balance().nanos(),
            purse.deposited.nanos(),
            purse.held.nanos(),
            i64::MAX - purse.deposited.nanos(),
        ]
    }

    fn step(&mut self) {
        let edges = self.edges();
        match self.dice.below(16) {
            0..=2 => {
                let amount = self.dice.amount(&edges);
                self.deposit(amount);
            }
            3..=5 => {
                let amount = self.dice.amount(&edges);
                self.hold(amount);
            }
            6..=8 => self.settle(),
            9 => self.settle_what_is_not_held(&edges),
            // Start over now and then: a purse that is full to the brim or empty for good shows little.
            10 if self.dice.chance(2) => {
                (self.purse, self.model) = (Purse::default(), Model::default());
                self.note("began again");
            }
            _ => self.call(),
        }
        self.check();
    }

    fn deposit(&mut self, amount: i64) {
        let after = self.model.deposits + i128::from(amount);
        let fits = i64::try_from(after).is_ok();
        let covered = after >= self.model.charges + self.model.held();
        match self.purse.deposit(Money::from_nanos(amount)) {
            Ok(purse) => {
                assert!(fits && covered, "{amount} into {:?} was taken", self.purse);
                (self.purse, self.model.deposits) = (purse, after);
                self.note(if amount < 0 { "taken back" } else { "deposited" });
            }
            Err(Refused::Short) => {
                assert!(!covered, "{amount} into {:?} is not short", self.purse);
                self.note("taking back refused");
            }
            Err(Refused::Absurd) => {
                assert!(!fits, "{amount} into {:?} is not absurd", self.purse);
                self.note("depositing refused");
            }
        }
    }

    fn hold(&mut self, amount: i64) {
        let fits = amount >= 0 && i128::from(amount) <= self.model.free();
        let held = self.purse.hold(Money::from_nanos(amount));
        assert_eq!(held.is_ok(), fits, "a hold of {amount} on {:?}", self.purse);
        if let Ok(purse) = held {
            self.purse = purse;
            self.model.holds.push(i128::from(amount));
            self.note("held");
        } else {
            self.note("holding refused");
        }
    }

    fn any_hold(&mut self) -> Option<(usize, i128)> {
        let count = self.model.holds.len() as u64;
        let at = usize::try_from(self.dice.below(count)).expect("an index");
        Some((at, *self.model.holds.get(at)?))
    }

    fn settle(&mut self) {
        let Some((at, held)) = self.any_hold() else { return };
        let charge = self.dice.amount(&[0, money(held).nanos(), money(held).nanos() / 2]);
        let fits = charge >= 0 && i128::from(charge) <= held;
        let settled = self.purse.settle(money(held), Money::from_nanos(charge));
        assert_eq!(settled.is_ok(), fits, "a charge of {charge} on a hold of {held}");
        if let Ok(purse) = settled {
            self.end(at, i128::from(charge), purse);
            self.note(if charge == 0 { "released" } else { "settled" });
        } else {
            self.note("settling refused");
        }
    }

    fn settle_what_is_not_held(&mut self, edges: &[i64]) {
        let amount = self.dice.amount(edges);
        if i128::from(amount) > self.model.held() || amount < 0 {
            assert!(self.purse.settle(Money::from_nanos(amount), Money::ZERO).is_err(), "{amount} was never held");
            self.note("settling without a hold refused");
        }
    }

    fn end(&mut self, at: usize, charge: i128, purse: Purse) {
        self.purse = purse;
        self.model.holds.swap_remove(at);
        self.model.charges += charge;
    }

    /// A whole call: bound, hold, the vendor's report, charge, settle.
    fn call(&mut self) {
        let row = self.dice.pick(&self.cards).clone();
        let edges = self.edges();
        let number = |dice: &mut Dice, edges: &[i64]| dice.amount(edges).unsigned_abs();
        let wish = Wish {
            input_tokens_max: number(&mut self.dice, &edges),
            cache_writes: true,
            output_tokens: u32::try_from(number(&mut self.dice, &[1, 4_096, i64::from(row.output_limit)])).unwrap_or(u32::MAX),
            output_above: if self.dice.chance(80) { 0 } else { u32::try_from(number(&mut self.dice, &[1_024])).unwrap_or(u32::MAX) },
        };
        let grant = match wallet::grant(&row, wish, self.purse.available(), self.purse.balance()) {
            Ok(grant) => grant,
            Err(Denied::Insufficient { required }) => {
                assert!(required > self.purse.balance() || required == Money::MAX, "{required} is there");
                return self.note("a call the balance cannot pay");
            }
            Err(Denied::Reserved { required }) => {
                assert!(required > self.purse.available() && required <= self.purse.balance(), "{required} is not reserved");
                return self.note("a call that must wait");
            }
        };
        assert!(grant.output_tokens >= 1 && grant.output_tokens <= wish.output_tokens.min(row.output_limit).max(1));
        self.purse = self.purse.hold(grant.amount).expect("what was granted can be held");
        self.model.holds.push(nanos(grant.amount));
        let at = self.model.holds.len() - 1;
        if self.dice.chance(30) {
            return self.note("a call under way");
        }
        let input = wish.input_tokens_max.min(row.context_window);
        let usage = if self.dice.chance(80) { self.honest(input, grant.output_tokens) } else { self.lie(input, grant.output_tokens) };
        let cost = row.cost(usage);
        let honest =
            usage.input_total_checked().is_some_and(|total| total <= input) && usage.output_tokens <= u64::from(grant.output_tokens);
        let (charge, breach) = wallet::charge(cost, grant.amount);
        assert!(!charge.is_negative() && charge <= grant.amount);
        assert!(!honest || breach.is_none(), "an honest call cost more than its bound: {usage:?} of {grant:?} at {row:?}");
        assert_eq!(breach.is_some(), cost.is_none_or(|cost| cost > grant.amount), "a breach is what passes the hold");
        if let (Some(cost), Some(breach)) = (cost, breach) {
            assert_eq!(nanos(charge) + nanos(breach), nanos(cost), "the operator pays what the tenant does not");
        }
        let purse = self.purse.settle(grant.amount, charge).expect("a charge within its hold");
        self.end(at, nanos(charge), purse);
        self.note(if breach.is_some() { "a lie cut to its bound" } else { "a call paid" });
    }

    /// Any split of at most so much input over its three classes, and at most so much output.
    fn honest(&mut self, input: u64, output: u32) -> Usage {
        let mut left = if self.dice.chance(50) { input } else { self.dice.below(input.saturating_add(1)) };
        let mut take = |dice: &mut Dice| {
            let part = if dice.chance(50) { left } else { dice.below(left.saturating_add(1)) };
            left -= part;
            part
        };
        let (cache_write_tokens, cache_read_tokens, input_tokens) = (take(&mut self.dice), take(&mut self.dice), take(&mut self.dice));
        let output = u64::from(output);
        let output_tokens = if self.dice.chance(50) { output } else { self.dice.below(output + 1) };
        Usage { input_tokens, output_tokens, cache_read_tokens, cache_write_tokens }
    }

    fn lie(&mut self, input: u64, output: u32) -> Usage {
        let mut number = |edge: u64| {
            let edge = i64::try_from(edge).unwrap_or(i64::MAX);
            if self.dice.chance(10) { u64::MAX } else { self.dice.amount(&[edge]).unsigned_abs() }
        };
        Usage {
            input_tokens: number(input),
            output_tokens: number(u64::from(output)),
            cache_read_tokens: number(0),
            cache_write_tokens: number(input),
        }
    }

    fn check(&self) {
        let (purse, model) = (self.purse, &self.model);
        assert_eq!((nanos(purse.deposited), nanos(purse.settled), nanos(purse.held)), (model.deposits, model.charges, model.held()));
        assert!(model.charges + model.held() <= model.deposits, "overspent: {purse:?}");
        assert_eq!(nanos(purse.available()), model.free());
        assert_eq!(nanos(purse.balance()), model.deposits - model.charges);
    }
}

trait Total {
    fn input_total_checked(&self) -> Option<u64>;
}

impl Total for Usage {
    fn input_total_checked(&self) -> Option<u64> {
        self.input_tokens.checked_add(self.cache_read_tokens)?.checked_add(self.cache_write_tokens)
    }
}

#[test]
fn a_million_operations_never_overspend() {
    let (steps, seed) = (if full() { 1_000_000 } else { 100_000 }, seed("wallet operations"));
    let begun = std::time::Instant::now();
    let mut run = Run {
        dice: Dice::new(seed),
        purse: Purse::default(),
        model: Model::default(),
        cards: cards(),
        seen: std::collections::BTreeMap::new(),
    };
    for _ in 0..steps {
        run.step();
    }
    println!("{steps} operations in {:.1} s, overspend 0 nano-dollars: {:?}", begun.elapsed().as_secs_f64(), run.seen);
    // A generator that no longer reaches an edge proves nothing about it.
    for what in [
        "deposited",
        "taken back",
        "taking back refused",
        "depositing refused",
        "held",
        "holding refused",
        "settled",
        "released",
        "settling refused",
        "settling without a hold refused",
        "a call paid",
        "a call under way",
        "a call that must wait",
        "a call the balance cannot pay",
        "a lie cut to its bound",
    ] {
        assert!(run.seen.get(what).is_some_and(|count| *count >= 20), "{what} hardly happened: {:?}", run.seen);
    }
}
