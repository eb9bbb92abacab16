//! Points in time as people write them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970 of `5m` (that long ago), `2026-11-25T16:00:00Z` or the same with
/// an offset (RFC 3339), or `@SECONDS` since 1970.
pub(super) fn parse(text: &str) -> Result<u64, String> {
    let now = SystemTime::now();
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    at(text, now).ok_or_else(|| {
        "use how long ago (30s, 5m, 2h, 1d), a time like 2026-01-31T16:00:00Z, or @SECONDS since 1970"
            .to_owned()
    })
}

fn at(text: &str, now: Duration) -> Option<u64> {
    if let Some(seconds) = text.strip_prefix('@') {
        return seconds.parse::<u64>().ok()?.checked_mul(1_000_000_000);
    }
    if let Some(ago) = ago(text) {
        return u64::try_from(now.saturating_sub(ago).as_nanos()).ok();
    }
    let seconds = rfc3339(text)?;
    u64::try_from(seconds).ok()?.checked_mul(1_000_000_000)
}

fn ago(text: &str) -> Option<Duration> {
    let unit = text.chars().last()?;
    let length = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return None,
    };
    let number: u64 = text[..text.len() - 1].parse().ok()?;
    Some(Duration::from_secs(number.checked_mul(length)?))
}

/// Seconds since 1970 of `YYYY-MM-DDTHH:MM:SS` with `Z` or `+HH:MM`; a fraction is ignored.
fn rfc3339(text: &str) -> Option<i64> {
    let (date, rest) = text.split_once(['T', 't', ' '])?;
    let date: Vec<i64> = numbers(date, '-')?;
    let end = rest.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = rest.split_at(end);
    let clock: Vec<i64> = numbers(clock.split('.').next()?, ':')?;
    let offset = match zone {
        "Z" | "z" => 0,
        zone => {
            let sign = if zone.starts_with('-') { -1 } else { 1 };
            let parts = numbers(&zone[1..], ':')?;
            let [hours @ 0..=23, minutes @ 0..=59] = parts[..] else {
                return None;
            };
            sign * (hours * 3_600 + minutes * 60)
        }
    };
    let ([year @ 1970..=9999, month @ 1..=12, day @ 1..=31], [h @ 0..=23, m @ 0..=59, s @ 0..=60]) =
        (&date[..], &clock[..])
    else {
        return None;
    };
    Some(days(*year, *month, *day) * 86_400 + h * 3_600 + m * 60 + s - offset)
}

fn numbers(text: &str, separator: char) -> Option<Vec<i64>> {
    let part = |part: &str| match part.bytes().all(|b| b.is_ascii_digit()) {
        true => part.parse().ok(),
        false => None,
    };
    text.split(separator).map(part).collect()
}

/// Days from 1970-01-01 in the Gregorian calendar; years begin with March here, so that
/// the leap day is the last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leap_days = year / 4 - year / 100 + year / 400;
    year * 365 + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        let now = Duration::from_secs(1_000_000);
        for (text, seconds) in [
            ("30s", Some(999_970)),
            ("5m", Some(999_700)),
            ("1d", Some(913_600)),
            ("9999d", Some(0)),
            ("@12", Some(12)),
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T12:00:00Z", Some(951_825_600)),
            ("2026-11-25T16:36:19.5+01:00", Some(1_795_620_979)),
            ("2026-11-25 15:36:19z", Some(1_795_620_979)),
            ("2026-13-25T15:36:19Z", None),
            ("2026-11-25", None),
            ("16:00", None),
            ("5", None),
            ("-5m", None),
            ("", None),
            ("é", None),
        ] {
            let expected = seconds.map(|seconds: u64| seconds * 1_000_000_000);
            assert_eq!(at(text, now), expected, "{text:?}");
        }
    }
}
