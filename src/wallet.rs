//! The wallet as a pure machine: what may be held, what a settle charges, and the chain of the ledger. It knows no storage; `storage::wallet`
//! runs the same rules in SQL, under `CHECK`s, and takes its numbers from here.
//!
//! The one rule: settled + held ≤ deposited, always. A call is bounded before it is made and charged at most its bound afterwards.

use crate::{chain, ids::TenantId, model::LedgerEntry, money::Money, rates::CardRow};

mod sealed {
    /// Only what storage made inside a committed transaction may open the way to a vendor.
    pub trait Sealed {}
}
pub(crate) use sealed::Sealed;

/// A proof that money is durably set aside for one vendor call. `provider::client::Client::send` consumes one.
/// Only `storage::Hold` implements it.
pub trait Held: Sealed + Send + 'static {}

/// The state of a wallet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Purse {
    /// Top-ups, refunds and adjustments together.
    pub deposited: Money,
    /// What was charged.
    pub settled: Money,
    /// What is set aside for running calls.
    pub held: Money,
}

/// A change that the wallet refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The amount is not there.
    Short,
    /// The amount is negative where it must not be, or the sums do not fit.
    Absurd,
}

impl Purse {
    /// Deposited and not spent.
    pub fn balance(self) -> Money {
        self.deposited.checked_sub(self.settled).unwrap_or_default()
    }

    /// What a new call may use.
    pub fn available(self) -> Money {
        self.balance().checked_sub(self.held).unwrap_or_default()
    }

    /// Sets an amount aside.
    pub fn hold(self, amount: Money) -> Result<Self, Refused> {
        if amount.is_negative() {
            return Err(Refused::Absurd);
        }
        if amount > self.available() {
            return Err(Refused::Short);
        }
        Ok(Self { held: self.held.checked_add(amount).ok_or(Refused::Absurd)?, ..self })
    }

    /// Ends a hold and charges at most its amount.
    pub fn settle(self, held: Money, charge: Money) -> Result<Self, Refused> {
        if charge.is_negative() || charge > held || held > self.held {
            return Err(Refused::Absurd);
        }
        Ok(Self {
            settled: self.settled.checked_add(charge).ok_or(Refused::Absurd)?,
            held: self.held.checked_sub(held).ok_or(Refused::Absurd)?,
            ..self
        })
    }

    /// Adds credit, or with a negative amount takes some back, but never what is spent or held.
    pub fn deposit(self, amount: Money) -> Result<Self, Refused> {
        let deposited = self.deposited.checked_add(amount).ok_or(Refused::Absurd)?;
        let bound = self.settled.checked_add(self.held).ok_or(Refused::Absurd)?;
        if deposited < bound {
            return Err(Refused::Short);
        }
        Ok(Self { deposited, ..self })
    }
}

/// What is to be bounded before a vendor call.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// No tokenizer of the vendor can make more of the encoded request; see `provider::input_tokens_counted`.
    pub input_tokens_max: u64,
    /// Whether the vendor may write to a prompt cache, whose price is the dearest of input.
    pub cache_writes: bool,
    /// The output limit that the config asks for, in tokens.
    pub output_tokens: u32,
    /// An output limit at or below this is useless: the thinking budget.
    pub output_above: u32,
}

/// What may be sent, and what it can cost at the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// To be held.
    pub amount: Money,
    /// To be sent as the output limit, in tokens.
    pub output_tokens: u32,
}

/// Why nothing may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// Even with nothing held the balance would not pay: more credit is needed.
    Insufficient {
        /// The least that a useful call needs.
        required: Money,
    },
    /// Running calls hold what this one needs: try again.
    Reserved {
        /// The least that a useful call needs.
        required: Money,
    },
}

/// The bound of a call with its full output limit, whoever can pay for it; none where it does not fit into an amount, and so into no purse.
fn grant_full(row: &CardRow, wish: Wish) -> Option<Grant> {
    let wanted = wanted_of(row, wish);
    let amount = row.cost_max(input_of(row, wish), wish.cache_writes, u64::from(wanted))?;
    Some(Grant { amount, output_tokens: wanted })
}

fn input_of(row: &CardRow, wish: Wish) -> u64 {
    row.input_cap.map_or(wish.input_tokens_max, |cap| wish.input_tokens_max.min(cap))
}

fn wanted_of(row: &CardRow, wish: Wish) -> u32 {
    wish.output_tokens.min(row.output_limit).max(1)
}

/// Bounds a call: the full output limit if the money pays for it, else the largest useful one, else nothing.
///
/// `free` is what may be held now, `whole` what could be if nothing were held.
pub fn grant(row: &CardRow, wish: Wish, free: Money, whole: Money) -> Result<Grant, Denied> {
    if let Some(full) = grant_full(row, wish).filter(|full| full.amount <= free) {
        return Ok(full);
    }
    let (input, wanted) = (input_of(row, wish), wanted_of(row, wish));
    // Useful is what the card says, above any thinking budget, but never more than was asked for.
    let useful = row.output_min.max(wish.output_above.saturating_add(1)).min(wanted);
    let bound = |output: u32| row.cost_max(input, wish.cache_writes, u64::from(output));
    let affordable =
        row.output_affordable(free, input, wish.cache_writes).map_or(0, |tokens| u32::try_from(tokens).unwrap_or(u32::MAX)).min(wanted);
    if let Some(amount) = bound(affordable).filter(|amount| affordable >= useful && *amount <= free) {
        return Ok(Grant { amount, output_tokens: affordable });
    }
    Err(match bound(useful) {
        Some(required) if required <= whole => Denied::Reserved { required },
        required => Denied::Insufficient { required: required.unwrap_or(Money::MAX) },
    })
}

/// What a call is charged that cost this much and was held at that much, and what falls to the operator: the breach.
pub fn charge(cost: Option<Money>, held: Money) -> (Money, Option<Money>) {
    match cost {
        Some(cost) if cost <= held => (cost, None),
        // A sum that does not fit is above any hold too.
        over => (held, Some(over.unwrap_or(Money::MAX).checked_sub(held).unwrap_or(Money::MAX))),
    }
}

/// The chain's beginning: the hash before the first entry of a tenant's ledger.
pub fn chain_start(tenant: TenantId) -> String {
    chain::start(&format!("ledger {tenant}"))
}

/// The hash of an entry, over the hash before it and all that the entry says: SHA-256, in hex, of one line of JSON,
/// `[before, seq, id, kind, amount, balance, reference, note, turn_id, model, usage, rates, created_at]`, so that anyone can check the chain
/// with common tools. The entry's own `hash` is not looked at.
pub fn chain_next(before: &str, entry: &LedgerEntry) -> String {
    chain::next(&serde_json::json!([
        before,
        entry.seq,
        entry.id,
        entry.kind,
        entry.amount,
        entry.balance,
        entry.reference,
        entry.note,
        entry.turn_id,
        entry.model,
        entry.usage,
        entry.rates,
        entry.created_at
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rates::RateCard;
    use proptest::prelude::*;

    fn row() -> CardRow {
        let text = "[[model]]\nprovider='p'\nname='m'\ninput='3.00'\noutput='15.00'\ncache_write='3.75'\ncontext_window=200000\noutput_limit=64000\noutput_min=256";
        RateCard::parse(text).unwrap().rows()[0].as_ref().clone()
    }

    fn dollars(text: &str) -> Money {
        text.parse().unwrap()
    }

    const WISH: Wish = Wish { input_tokens_max: 1_000, cache_writes: true, output_tokens: 4_096, output_above: 0 };

    #[test]
    fn a_full_purse_grants_the_full_limit() {
        // 1,000 tokens at the cache-write rate and 4,096 at the output rate.
        let grant = grant(&row(), WISH, dollars("10"), dollars("10")).unwrap();
        assert_eq!(grant, Grant { amount: dollars("0.065190000"), output_tokens: 4_096 });
    }

    #[test]
    fn a_thin_purse_lowers_the_limit_to_what_it_buys() {
        let grant = grant(&row(), WISH, dollars("0.0100"), dollars("0.0100")).unwrap();
        assert_eq!(grant.output_tokens, 416);
        assert!(grant.amount <= dollars("0.0100"));
    }

    #[test]
    fn a_useless_limit_is_refused_and_the_reason_told() {
        let required = dollars("0.007590000");
        assert_eq!(grant(&row(), WISH, dollars("0.0075"), dollars("0.0075")), Err(Denied::Insufficient { required }));
        assert_eq!(grant(&row(), WISH, dollars("0.0075"), dollars("1")), Err(Denied::Reserved { required }));
        let thinking = Wish { output_above: 2_048, ..WISH };
        assert!(matches!(grant(&row(), thinking, dollars("0.0300"), dollars("0.0300")), Err(Denied::Insufficient { .. })));
    }

    #[test]
    fn a_bound_that_does_not_fit_is_above_the_fullest_purse() {
        let row = CardRow { input_cap: None, output_limit: u32::MAX, ..row() };
        let wish = Wish { input_tokens_max: u64::MAX, ..WISH };
        assert_eq!(grant(&row, wish, Money::MAX, Money::MAX), Err(Denied::Insufficient { required: Money::MAX }));
    }

    #[test]
    fn a_prompt_is_never_bounded_above_the_window() {
        let wish = Wish { input_tokens_max: u64::MAX, ..WISH };
        assert_eq!(grant(&row(), wish, dollars("10"), dollars("10")).unwrap().amount, dollars("0.811440000"));
    }

    #[test]
    fn a_window_that_was_only_assumed_bounds_nothing() {
        let assumed = CardRow { input_cap: None, ..row() };
        let wish = Wish { input_tokens_max: 1_000_000, ..WISH };
        assert!(grant(&row(), wish, dollars("1"), dollars("1")).is_ok());
        assert!(grant(&assumed, wish, dollars("1"), dollars("1")).is_err());
    }

    #[test]
    fn a_charge_never_passes_its_hold() {
        assert_eq!(charge(Some(dollars("1")), dollars("2")), (dollars("1"), None));
        assert_eq!(charge(Some(dollars("3")), dollars("2")), (dollars("2"), Some(dollars("1"))));
        assert_eq!(charge(None, dollars("2")).0, dollars("2"));
    }

    proptest! {
        #[test]
        fn settled_and_held_never_pass_what_was_deposited(steps in proptest::collection::vec((0u8..4, edge(), edge()), 1..200)) {
            let (mut purse, mut holds) = (Purse::default(), Vec::new());
            for (kind, first, second) in steps {
                let next = match kind {
                    0 => purse.deposit(first),
                    1 => purse.hold(first),
                    2 => holds.last().map_or(Err(Refused::Short), |held| purse.settle(*held, second)),
                    _ => holds.last().map_or(Err(Refused::Short), |held| purse.settle(*held, Money::ZERO)),
                };
                if let Ok(next) = next {
                    match kind {
                        1 => holds.push(first),
                        2 | 3 => { holds.pop(); }
                        _ => {}
                    }
                    purse = next;
                }
                let sum = purse.settled.checked_add(purse.held).unwrap();
                prop_assert!(sum <= purse.deposited);
                prop_assert_eq!(holds.iter().map(|held| held.nanos()).sum::<i64>(), purse.held.nanos());
                prop_assert!(!purse.available().is_negative());
            }
        }

        #[test]
        fn a_grant_never_passes_the_free_money(input in 0u64..300_000, output in 1u32..100_000, free in 0i64..2_000_000_000) {
            let wish = Wish { input_tokens_max: input, cache_writes: true, output_tokens: output, output_above: 0 };
            if let Ok(grant) = grant(&row(), wish, Money::from_nanos(free), Money::from_nanos(free)) {
                prop_assert!(grant.amount.nanos() <= free);
                prop_assert!(grant.output_tokens <= output);
            }
        }
    }

    fn edge() -> impl Strategy<Value = Money> {
        prop_oneof![Just(0), Just(1), Just(-1), Just(i64::MAX), Just(i64::MIN + 1), 0i64..1_000, -1_000_000i64..1_000_000_000_000]
            .prop_map(Money::from_nanos)
    }
}
