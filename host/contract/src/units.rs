//! Times and amounts as they are shown: RFC 3339, seconds, packets and bytes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const NANOS: u64 = 1_000_000_000;

/// Packets and bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    /// Packets.
    pub packets: u64,
    /// Bytes, from the IP header on.
    pub bytes: u64,
}

/// `2026-01-31T16:00:00Z` of seconds since 1970.
pub fn date(seconds: u64) -> String {
    // Days from 1970-01-01, in years that begin with March, so that the leap day is last.
    let days = seconds / 86_400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month, turn) = match month {
        0..10 => (day - (153 * month + 2) / 5 + 1, month + 3, 0),
        _ => (day - (153 * month + 2) / 5 + 1, month - 9, 1),
    };
    let year = era * 400 + year + turn;
    let clock = seconds % 86_400;
    let (h, m, s) = (clock / 3_600, clock / 60 % 60, clock % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}Z")
}

/// Nanoseconds since 1970 of a date as [`date`] and [`rfc3339::nanoseconds`] write it.
fn read(text: &str) -> Option<u64> {
    let (whole, fraction) = match text.strip_suffix('Z')?.split_once('.') {
        Some((whole, fraction)) => (whole, fraction),
        None => (text.strip_suffix('Z')?, ""),
    };
    let numbers: Vec<u64> = whole
        .split(['-', 'T', ':'])
        .map(|part| part.parse().ok())
        .collect::<Option<_>>()?;
    let [
        year @ 1970..=9999,
        month @ 1..=12,
        day @ 1..=31,
        h @ 0..24,
        m @ 0..60,
        s @ 0..=60,
    ] = numbers[..]
    else {
        return None;
    };
    let (y, month) = match month {
        3.. => (year, month - 3),
        _ => (year - 1, month + 9),
    };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    let seconds = days * 86_400 + h * 3_600 + m * 60 + s;
    let nanos: u64 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    seconds.checked_mul(NANOS)?.checked_add(nanos)
}

/// Points in time as RFC 3339 has them, in UTC.
pub mod rfc3339 {
    /// Of nanoseconds since 1970.
    pub mod nanoseconds {
        use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

        use super::super::{NANOS, date, read};

        /// Writes it.
        pub fn serialize<S: Serializer>(time: &u64, to: S) -> Result<S::Ok, S::Error> {
            let whole = date(time / NANOS);
            let whole = whole.trim_end_matches('Z');
            to.serialize_str(&format!("{whole}.{:09}Z", time % NANOS))
        }

        /// Reads it.
        pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
            let text = String::deserialize(from)?;
            read(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is no time of RFC 3339")))
        }
    }

    /// Of seconds since 1970.
    pub mod seconds {
        use serde::{Deserializer, Serializer};

        use super::super::{NANOS, date};

        /// Writes it.
        pub fn serialize<S: Serializer>(time: &u64, to: S) -> Result<S::Ok, S::Error> {
            to.serialize_str(&date(*time))
        }

        /// Reads it.
        pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
            super::nanoseconds::deserialize(from).map(|time| time / NANOS)
        }
    }
}

/// Lengths of time in seconds, with a fraction.
macro_rules! seconds_of {
    ($name:ident, $per_second:literal, $doc:literal) => {
        #[doc = $doc]
        pub mod $name {
            use serde::{Deserialize as _, Deserializer, Serializer};

            /// Writes it.
            pub fn serialize<S: Serializer>(time: &u64, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_f64(*time as f64 / $per_second)
            }

            /// Reads it.
            pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
                f64::deserialize(from).map(|seconds| (seconds * $per_second).round() as u64)
            }
        }
    };
}
seconds_of!(of_nanoseconds, 1e9, "Nanoseconds, shown in seconds.");
seconds_of!(of_microseconds, 1e6, "Microseconds, shown in seconds.");
seconds_of!(of_milliseconds, 1e3, "Milliseconds, shown in seconds.");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar_and_read_back() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_825_600, "2000-02-29T12:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_795_620_979, "2026-11-25T15:36:19Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(date(seconds), expected);
            assert_eq!(read(expected), Some(seconds * NANOS), "{expected}");
        }
        assert_eq!(read("1970-01-01T00:00:01.5Z"), Some(1_500_000_000));
        for wrong in [
            "",
            "1970-01-01",
            "1970-13-01T00:00:00Z",
            "1970-01-01T00:00:00",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_shown_is_what_was_meant() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Shown {
            #[serde(with = "rfc3339::nanoseconds")]
            at: u64,
            #[serde(with = "of_microseconds")]
            took: u64,
        }
        let shown = Shown {
            at: 1_795_620_979_000_000_042,
            took: 1_250,
        };
        let text = serde_json::to_string(&shown).expect("json");
        assert_eq!(
            text,
            r#"{"at":"2026-11-25T15:36:19.000000042Z","took":0.00125}"#
        );
        assert_eq!(serde_json::from_str::<Shown>(&text).expect("read"), shown);
    }
}
