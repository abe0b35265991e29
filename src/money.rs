//! Money: signed nano-dollars in 64 bits. No float ever touches it.
//!
//! The largest amount is about 9.2 billion dollars; sums that would pass it are refused, never wrapped.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, str::FromStr};

/// An amount of US dollars, counted in nano-dollars (10⁻⁹ USD).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Money(i64);

const NANOS_PER_DOLLAR: i64 = 1_000_000_000;

/// The text was not a decimal amount of dollars with at most nine places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotMoney;

impl Money {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// The largest amount.
    pub const MAX: Self = Self(i64::MAX);

    /// From a count of nano-dollars.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// The count of nano-dollars.
    pub const fn nanos(self) -> i64 {
        self.0
    }

    /// The sum, or nothing when it does not fit.
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// The difference, or nothing when it does not fit.
    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        match self.0.checked_sub(other.0) {
            Some(rest) => Some(Self(rest)),
            None => None,
        }
    }

    /// Whether the amount is below zero.
    pub const fn is_negative(self) -> bool {
        self.0 < 0
    }

    /// Whether the amount is zero.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let nanos = self.0.unsigned_abs();
        let per = NANOS_PER_DOLLAR.unsigned_abs();
        write!(f, "{sign}{}.{:09}", nanos / per, nanos % per)
    }
}

impl fmt::Debug for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "${self}")
    }
}

impl FromStr for Money {
    type Err = NotMoney;

    /// Reads `12`, `-0.5`, `10.000000001`: digits, at most one point, at most nine places; no exponent, no separators.
    fn from_str(text: &str) -> Result<Self, NotMoney> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, part) = digits.split_once('.').unwrap_or((digits, "0"));
        let plain = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !plain(whole) || !plain(part) || part.len() > 9 {
            return Err(NotMoney);
        }
        let whole: i64 = whole.parse().map_err(|_| NotMoney)?;
        let part: i64 = format!("{part:0<9}").parse().map_err(|_| NotMoney)?;
        let nanos = whole.checked_mul(NANOS_PER_DOLLAR).and_then(|nanos| nanos.checked_add(part)).ok_or(NotMoney)?;
        Ok(Self(if negative { -nanos } else { nanos }))
    }
}

impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(|NotMoney| {
            serde::de::Error::custom("expected dollars as a decimal string with at most nine places, such as \"10.00\"")
        })
    }
}

impl utoipa::PartialSchema for Money {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        use utoipa::openapi::schema::{ObjectBuilder, Type};
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("US dollars, a decimal string with nine places"))
            .examples(["0.004512000"])
            .into()
    }
}

impl utoipa::ToSchema for Money {}

/// A price: dollars per million tokens, counted in units of 10⁻¹⁵ dollars, so that a published price times a markup of six places is exact.
/// The largest is about 18,446 dollars per million tokens.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(u64);

/// [`Rate`] units in a dollar.
const RATE_UNITS_PER_DOLLAR: u64 = 1_000_000_000_000_000;

/// [`Rate`] units times tokens that make one nano-dollar: 10⁻¹⁵ dollars per 10⁶ tokens, against 10⁻⁹ dollars.
pub const RATE_TOKENS_PER_NANO: u128 = 1_000_000_000_000;

impl Rate {
    /// From units of 10⁻¹⁵ dollars per million tokens.
    pub const fn from_units(units: u64) -> Self {
        Self(units)
    }

    /// Units of 10⁻¹⁵ dollars per million tokens.
    pub const fn units(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Rate {
    /// Decimal dollars per million tokens, without needless zeros: `3`, `0.075`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / RATE_UNITS_PER_DOLLAR, self.0 % RATE_UNITS_PER_DOLLAR);
        if part == 0 {
            return write!(f, "{whole}");
        }
        write!(f, "{whole}.{}", format!("{part:015}").trim_end_matches('0'))
    }
}

impl fmt::Debug for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "${self}/Mtok")
    }
}

impl FromStr for Rate {
    type Err = NotMoney;

    /// Reads decimal dollars per million tokens with at most fifteen places.
    fn from_str(text: &str) -> Result<Self, NotMoney> {
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        let plain = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !plain(whole) || !plain(part) || part.len() > 15 {
            return Err(NotMoney);
        }
        let whole: u64 = whole.parse().map_err(|_| NotMoney)?;
        let part: u64 = format!("{part:0<15}").parse().map_err(|_| NotMoney)?;
        whole.checked_mul(RATE_UNITS_PER_DOLLAR).and_then(|units| units.checked_add(part)).map(Self).ok_or(NotMoney)
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse()
            .map_err(|NotMoney| serde::de::Error::custom("expected dollars per million tokens as a decimal string, such as \"3.00\""))
    }
}

impl utoipa::PartialSchema for Rate {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        use utoipa::openapi::schema::{ObjectBuilder, Type};
        ObjectBuilder::new().schema_type(Type::String).description(Some("US dollars per million tokens")).examples(["3"]).into()
    }
}

impl utoipa::ToSchema for Rate {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_exactly() {
        for (text, nanos, shown) in [
            ("0", 0, "0.000000000"),
            ("10.00", 10_000_000_000, "10.000000000"),
            ("-0.5", -500_000_000, "-0.500000000"),
            ("0.004512", 4_512_000, "0.004512000"),
            ("9223372036.854775807", i64::MAX, "9223372036.854775807"),
        ] {
            let money: Money = text.parse().unwrap();
            assert_eq!((money.nanos(), money.to_string().as_str()), (nanos, shown));
        }
    }

    #[test]
    fn what_is_not_plain_decimal_is_refused() {
        for text in ["", "-", ".5", "1.", "1e3", "+1", "1,000", "0.0000000001", "NaN", "9223372036.854775808", " 1"] {
            assert_eq!(text.parse::<Money>(), Err(NotMoney), "{text:?}");
        }
    }
}
