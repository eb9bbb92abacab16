//! Finding card numbers in bytes that come in pieces.

/// A run of digits, blanks and hyphens that is longer is no card number.
const LONGEST: usize = 32;
/// Digits of a card number (ISO/IEC 7812-1).
const DIGITS: std::ops::RangeInclusive<usize> = 13..=19;
/// Digits that stay.
const STAY: usize = 4;

/// Where in a body it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mask {
    /// In a run that is too long, until it ends.
    in_long: bool,
    /// Numbers masked so far.
    pub(crate) masked: u64,
}

impl Mask {
    /// Looks at what has not gone on yet; what goes on in place of so many bytes from the
    /// front, if that is something else. The rest may be the beginning of a number.
    pub(crate) fn look(&mut self, bytes: &[u8], end: bool) -> (Option<Vec<u8>>, usize) {
        let mut made: Option<Vec<u8>> = None;
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let length = run(rest);
            if self.in_long {
                self.in_long = length == rest.len();
                at += length;
            } else if length == 0 || !rest[0].is_ascii_digit() {
                at += 1;
            } else if length > LONGEST {
                self.in_long = length == rest.len();
                at += length;
            } else if length == rest.len() && !end {
                break;
            } else {
                if let Some(masked) = masked(&rest[..length]) {
                    self.masked += 1;
                    let made = made.get_or_insert_with(|| bytes.to_vec());
                    made[at..at + length].copy_from_slice(&masked);
                }
                at += length;
            }
        }
        if let Some(made) = &mut made {
            made.truncate(at);
        }
        (made, at)
    }
}

/// Length of the digits, blanks and hyphens at the front.
fn run(bytes: &[u8]) -> usize {
    let of_run = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b' ' | b'-');
    bytes.iter().take_while(|byte| of_run(byte)).count()
}

/// The same with its digits masked, if it is a card number.
fn masked(run: &[u8]) -> Option<Vec<u8>> {
    let digits = run.iter().filter(|byte| byte.is_ascii_digit());
    let count = digits.clone().count();
    if !DIGITS.contains(&count) || !passes_luhn(digits.map(|byte| u32::from(byte - b'0'))) {
        return None;
    }
    let mut left = count;
    let mask = |byte: &u8| {
        if !byte.is_ascii_digit() {
            return *byte;
        }
        left -= 1;
        if left >= STAY { b'*' } else { *byte }
    };
    Some(run.iter().map(mask).collect())
}

/// Luhn's check (ISO/IEC 7812-1, annex B).
fn passes_luhn(digits: impl DoubleEndedIterator<Item = u32>) -> bool {
    let sum: u32 = digits
        .rev()
        .enumerate()
        .map(|(place, digit)| match (place % 2, digit) {
            (0, digit) => digit,
            (_, digit) if digit > 4 => 2 * digit - 9,
            (_, digit) => 2 * digit,
        })
        .sum();
    sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The whole of a body, in pieces of these sizes, as a host shows it.
    fn through(body: &[u8], sizes: &[usize]) -> String {
        let mut mask = Mask::default();
        let (mut out, mut held, mut at) = (Vec::new(), Vec::new(), 0);
        let mut sizes = sizes.iter().cycle();
        while at < body.len() {
            let size = sizes.next().map_or(1, |size| (*size).max(1));
            let next = (at + size).min(body.len());
            held.extend_from_slice(&body[at..next]);
            at = next;
            let (made, done) = mask.look(&held, at == body.len());
            out.extend_from_slice(made.as_deref().unwrap_or(&held[..done]));
            held.drain(..done);
            assert!(held.len() <= LONGEST, "never holds more than a number");
        }
        assert!(held.is_empty());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn card_numbers_are_masked_and_nothing_else() {
        for (body, expected) in [
            ("card 4111111111111111.", "card ************1111."),
            ("4111 1111 1111 1111", "**** **** **** 1111"),
            ("5500-0000-0000-0004\n", "****-****-****-0004\n"),
            ("4111111111111112", "4111111111111112"),
            ("411111111111111", "411111111111111"),
            (
                "id 41111111111111110000000000000000000",
                "id 41111111111111110000000000000000000",
            ),
            ("- 4111111111111111", "- ************1111"),
            ("", ""),
        ] {
            assert_eq!(through(body.as_bytes(), &[body.len()]), expected);
        }
    }

    proptest! {
        #[test]
        fn how_a_body_is_cut_makes_no_difference(
            parts in prop::collection::vec(
                prop_oneof!["[0-9]{1,24}", "[ -]{1,3}", "[a-z]{1,4}", Just("4111111111111111".to_owned())],
                0..12,
            ),
            sizes in prop::collection::vec(1..40_usize, 1..6),
        ) {
            let body = parts.concat();
            let once = through(body.as_bytes(), &[body.len().max(1)]);
            prop_assert_eq!(through(body.as_bytes(), &sizes), once);
        }
    }
}
