//! How people write durations and amounts on the command line. Pure.

use crate::{ids, model::Role, money::Money};
use std::{str::FromStr, time::Duration};

/// `90d`, `12h`, `30m`, `45s`, `2w`, or several: `1d12h`. Above zero, at most ten years.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    const EXPECTED: &str = "expected a duration such as 90d, 12h, 30m or 45s";
    let mut seconds = 0_u64;
    let mut digits = String::new();
    for letter in text.trim().chars() {
        let unit = match letter {
            '0'..='9' => {
                digits.push(letter);
                continue;
            }
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            'w' => 604_800,
            _ => return Err(EXPECTED.to_owned()),
        };
        let count: u64 = digits.parse().map_err(|_| EXPECTED.to_owned())?;
        seconds = count.checked_mul(unit).and_then(|part| part.checked_add(seconds)).ok_or(EXPECTED)?;
        digits.clear();
    }
    if !digits.is_empty() || seconds == 0 {
        return Err(EXPECTED.to_owned());
    }
    if seconds > 3_653 * 86_400 {
        return Err("expected at most ten years".to_owned());
    }
    Ok(Duration::from_secs(seconds))
}

/// Dollars such as `10.00`, also negative.
pub(super) fn money(text: &str) -> Result<Money, String> {
    text.parse().map_err(|_| "expected dollars with at most nine places, such as 10.00".to_owned())
}

/// Bytes such as `2GiB`, `500MB` or `1000000`.
pub(super) fn size(text: &str) -> Result<u64, String> {
    const EXPECTED: &str = "expected bytes such as 2GiB, 500MiB or 1000000";
    let text = text.trim();
    let (digits, unit) = text.split_at(text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len()));
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "kib" | "k" => 1 << 10,
        "mib" | "m" => 1 << 20,
        "gib" | "g" => 1 << 30,
        "tib" | "t" => 1 << 40,
        _ => return Err(EXPECTED.to_owned()),
    };
    let count: u64 = digits.parse().map_err(|_| EXPECTED)?;
    count.checked_mul(factor).filter(|bytes| i64::try_from(*bytes).is_ok()).ok_or_else(|| EXPECTED.to_owned())
}

/// One of the four roles.
pub(super) fn role(text: &str) -> Result<Role, String> {
    Role::from_name(text).ok_or_else(|| "expected viewer, member, admin or owner".to_owned())
}

/// An id of the contract's form.
pub(super) fn id<T: FromStr<Err = ids::NotAnId>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "expected an id such as 0192f0c1-2f6e-7c3a-9d2b-5a1f0e8b7c6d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bytes_with_units() {
        for (text, bytes) in [("0", 0), ("1000", 1_000), ("2GiB", 2 << 30), ("500 MB", 500_000_000), ("3k", 3_072)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "GiB", "-1", "1.5GiB", "2 parsecs", "9999999999GiB", "18446744073709551615"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_are_counts_with_units() {
        for (text, seconds) in [("90d", 7_776_000), ("1h", 3_600), ("1d12h", 129_600), ("45s", 45), ("2w", 1_209_600), ("30m", 1_800)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "0d", "90", "d", "1y", "-1d", "1.5h", "11000d", "99999999999999999999d", "18446744073709551615w"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
