//! Time: milliseconds since 1970 in UTC, and the one place that asks the machine for it.
//!
//! Pure code takes a [`Time`]; only what is wired in `app` holds a [`Clock`].

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, str::FromStr, time::Duration};

/// An instant, in milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(i64);

/// The text was not an RFC 3339 instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotATime;

impl Time {
    /// From milliseconds since 1970.
    pub const fn from_ms(ms: i64) -> Self {
        Self(ms)
    }

    /// Milliseconds since 1970.
    pub const fn ms(self) -> i64 {
        self.0
    }

    /// This instant and a while later.
    #[must_use]
    pub fn plus(self, while_: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(while_.as_millis()).unwrap_or(i64::MAX)))
    }

    /// This instant and a while earlier.
    #[must_use]
    pub fn minus(self, while_: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(while_.as_millis()).unwrap_or(i64::MAX)))
    }

    /// The calendar day in a time zone of the IANA database, as `2026-11-24`. An unknown zone counts as UTC.
    pub fn date_in(self, zone: &str) -> String {
        let zone = jiff::tz::TimeZone::get(zone).unwrap_or(jiff::tz::TimeZone::UTC);
        self.timestamp().to_zoned_datetime(zone).date().to_string()
    }

    fn timestamp(self) -> jiff::Timestamp {
        let end = if self.0 < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX };
        jiff::Timestamp::from_millisecond(self.0).unwrap_or(end)
    }
}

/// 1970 on a calendar that has no offset. It reaches to the last moment of 9999, which jiff's timestamps, made to be shown anywhere, do not.
const EPOCH: jiff::civil::DateTime = jiff::civil::date(1970, 1, 1).at(0, 0, 0, 0);

/// RFC 3339 §5.6: the hour of an offset ends at 23.
const OFFSET_SECONDS_END: i32 = 24 * 60 * 60;

/// Whether a name is a time zone of the IANA database that this machine knows.
pub fn is_time_zone(name: &str) -> bool {
    name.len() <= 64 && jiff::tz::TimeZone::get(name).is_ok()
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = if self.0 < 0 { jiff::civil::DateTime::MIN } else { jiff::civil::DateTime::MAX };
        let moment = EPOCH.checked_add(jiff::SignedDuration::from_millis(self.0)).unwrap_or(end);
        write!(f, "{moment:.3}Z")
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Time {
    type Err = NotATime;
    fn from_str(text: &str) -> Result<Self, NotATime> {
        let pieces = jiff::fmt::temporal::Pieces::parse(text).map_err(|_| NotATime)?;
        let offset = pieces.to_numeric_offset().map(jiff::tz::Offset::seconds).ok_or(NotATime)?;
        let time = pieces.time().ok_or(NotATime)?;
        if offset.abs() >= OFFSET_SECONDS_END {
            return Err(NotATime);
        }
        let local = pieces.date().to_datetime(time).duration_since(EPOCH);
        let since = local.checked_sub(jiff::SignedDuration::from_secs(offset.into())).ok_or(NotATime)?;
        // The calendar ends with 9999, wherever it is shown.
        EPOCH.checked_add(since).map_err(|_| NotATime)?;
        i64::try_from(since.as_millis()).map(Self).map_err(|_| NotATime)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(|NotATime| serde::de::Error::custom("expected an RFC 3339 time such as 2026-11-24T08:30:00Z"))
    }
}

impl utoipa::PartialSchema for Time {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, SchemaFormat, Type};
        ObjectBuilder::new().schema_type(Type::String).format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime))).into()
    }
}

impl utoipa::ToSchema for Time {}

/// Where the time comes from.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock;

impl Clock {
    /// The machine's time now. It may step back; nothing here orders rows by it.
    #[allow(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn now(self) -> Time {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Time(i64::try_from(since.as_millis()).unwrap_or(i64::MAX).saturating_add(crate::failpoint::clock_offset_ms()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_in_utc_with_milliseconds() {
        let time = Time::from_ms(1_795_000_000_007);
        assert_eq!(time.to_string(), "2026-11-18T11:06:40.007Z");
        assert_eq!("2026-11-18T12:06:40.007+01:00".parse(), Ok(time));
        assert_eq!(time.date_in("Pacific/Kiritimati"), "2026-11-19");
        assert_eq!(time.date_in("No/Where"), "2026-11-18");
    }

    #[test]
    fn the_last_second_of_9999_is_a_time_and_an_offset_of_a_day_is_not() {
        for text in ["9999-12-31T23:59:59.000Z", "1969-12-31T23:59:59.500Z", "0001-01-01T00:00:00.000Z"] {
            assert_eq!(text.parse::<Time>().unwrap().to_string(), text);
        }
        assert_eq!("9999-12-31T23:59:59Z".parse::<Time>().unwrap().date_in("UTC"), "9999-12-30", "as far as zones reach");
        assert_eq!("2026-11-18T12:06:40+23:59".parse::<Time>().unwrap().to_string(), "2026-11-17T12:07:40.000Z");
        for text in
            ["2026-11-18T12:06:40+24:00", "2026-11-18T12:06:40+25:00", "9999-12-31T23:59:59-01:00", "2026-11-18T12:06:40", "2026-11-18"]
        {
            assert_eq!(text.parse::<Time>(), Err(NotATime), "{text}");
        }
    }
}
