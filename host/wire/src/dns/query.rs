//! Queries: strict about what another reader might understand differently.

use std::fmt::Write as _;

use hickory_proto::rr::RecordType;

use super::rcode;

/// Bytes of the fixed header.
pub(super) const HEADER: usize = 12;
/// Longest name on the wire, length bytes included (RFC 1035 §2.3.4).
const MAX_NAME: usize = 255;
/// Longest label (RFC 1035 §2.3.4).
const MAX_LABEL: u8 = 63;

/// QR, opcode, RD and CD bits of the two flag bytes (RFC 1035 §4.1.1, RFC 4035 §3.2.2).
pub(super) const QR: u8 = 0x80;
const OPCODE: u8 = 0x78;
const RD: u8 = 0x01;
const CD: u8 = 0x10;

/// The one question of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Message id.
    pub id: u16,
    /// Name, lower case with a final dot. Bytes other than printable ASCII, and dots and
    /// backslashes inside a label, are written `\DDD` (RFC 1035 §5.1), so that no name
    /// looks like another.
    pub name: String,
    /// QTYPE.
    pub qtype: u16,
    /// QCLASS.
    pub class: u16,
    /// The header's flag bytes, and the question as it came.
    flags: [u8; 2],
    question: Vec<u8>,
}

/// Why a message is no query to be decided about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// Too short to have an id, or itself a response: there is nobody to answer.
    #[error("not a DNS query")]
    NoQuery,
    /// To be answered with this RCODE.
    #[error("a DNS query to be answered with RCODE {0}")]
    Answer(u8),
}

/// Reads a query.
///
/// # Errors
///
/// If it is none, is malformed, is not an ordinary query (opcode 0), or has another
/// number of questions than one (RFC 9619): servers differ in which one they answer.
pub fn read_query(message: &[u8]) -> Result<Query, QueryError> {
    let Some(header) = message.first_chunk::<HEADER>() else {
        return Err(QueryError::NoQuery);
    };
    if header[2] & QR != 0 {
        return Err(QueryError::NoQuery);
    }
    if header[2] & OPCODE != 0 {
        return Err(QueryError::Answer(rcode::NOTIMP));
    }
    let questions = u16::from_be_bytes([header[4], header[5]]);
    let records = header[6..10].iter().any(|byte| *byte != 0);
    if questions != 1 || records {
        return Err(QueryError::Answer(rcode::FORMERR));
    }
    let (name, at) = read_name(&message[HEADER..]).ok_or(QueryError::Answer(rcode::FORMERR))?;
    let at = HEADER + at;
    let rest = message[at..].first_chunk::<4>();
    let [t0, t1, c0, c1] = *rest.ok_or(QueryError::Answer(rcode::FORMERR))?;
    Ok(Query {
        id: u16::from_be_bytes([header[0], header[1]]),
        name,
        qtype: u16::from_be_bytes([t0, t1]),
        class: u16::from_be_bytes([c0, c1]),
        flags: [header[2], header[3]],
        question: message[HEADER..at + 4].to_vec(),
    })
}

/// The name in the first question of any message; `None` if there is none.
pub(super) fn read_question(message: &[u8]) -> Option<String> {
    read_name(message.get(HEADER..)?).map(|(name, _)| name)
}

/// The first question of any message, as it came; `None` if there is none.
pub(super) fn question_bytes(message: &[u8]) -> Option<&[u8]> {
    let (_, length) = read_name(message.get(HEADER..)?)?;
    // QTYPE and QCLASS.
    message.get(HEADER..HEADER + length + 4)
}

/// A name at the start of `bytes`, and its length there. Compression makes no sense in
/// the first name of a message and is not understood.
fn read_name(bytes: &[u8]) -> Option<(String, usize)> {
    let mut name = String::new();
    let mut at = 0;
    loop {
        let length = *bytes.get(at)?;
        at += 1;
        if length == 0 {
            break;
        }
        let label = bytes.get(at..at + usize::from(length))?;
        at += label.len();
        if length > MAX_LABEL || at >= MAX_NAME {
            return None;
        }
        for byte in label {
            push_byte(&mut name, *byte);
        }
        name.push('.');
    }
    if name.is_empty() {
        name.push('.');
    }
    Some((name, at))
}

fn push_byte(name: &mut String, byte: u8) {
    match byte {
        b'.' | b'\\' => push_escaped(name, byte),
        b'!'..=b'~' => name.push(char::from(byte.to_ascii_lowercase())),
        _ => push_escaped(name, byte),
    }
}

fn push_escaped(name: &mut String, byte: u8) {
    // Writing to a string cannot fail.
    let _ = write!(name, "\\{byte:03}");
}

impl Query {
    /// The answer without records: same id, question and flags.
    pub fn answer(&self, rcode: u8) -> Vec<u8> {
        answer(self.id.to_be_bytes(), self.flags, &self.question, rcode)
    }
}

/// The answer to a message that could not be read: same id, no question. `None` if it
/// has not even a header.
pub fn answer_unread(message: &[u8], rcode: u8) -> Option<Vec<u8>> {
    let header = message.first_chunk::<HEADER>()?;
    Some(answer(
        [header[0], header[1]],
        [header[2], header[3]],
        &[],
        rcode,
    ))
}

fn answer(id: [u8; 2], flags: [u8; 2], question: &[u8], rcode: u8) -> Vec<u8> {
    let mut answer = vec![
        id[0],
        id[1],
        QR | flags[0] & (OPCODE | RD),
        flags[1] & CD | rcode & 0x0f,
        0,
        u8::from(!question.is_empty()),
    ];
    answer.resize(HEADER, 0);
    answer.extend_from_slice(question);
    answer
}

/// Name of a QTYPE, e.g. `AAAA`; `TYPE65280` for those without one (RFC 3597 §5).
pub fn type_name(qtype: u16) -> String {
    match RecordType::from(qtype) {
        RecordType::Unknown(number) => format!("TYPE{number}"),
        known => known.to_string(),
    }
}

/// Number of a QTYPE by its name as [`type_name`] has it, in any case.
pub fn type_number(name: &str) -> Option<u16> {
    (0..=u16::MAX).find(|number| type_name(*number).eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A query with the given header bytes from 2, and question.
    fn message(header: [u8; 10], question: &[u8]) -> Vec<u8> {
        [&[0xab, 0xcd][..], &header, question].concat()
    }

    const ONE: [u8; 10] = [RD, 0, 0, 1, 0, 0, 0, 0, 0, 0];

    #[test]
    fn names() {
        let long = [&[63; 64][..], &[63; 64], &[63; 64], &[63; 64], &[0]].concat();
        for (wire, name) in [
            (&b"\0"[..], Some(".")),
            (b"\x03WwW\x07example\0", Some("www.example.")),
            (b"\x04_sip\x02a-\0", Some("_sip.a-.")),
            // A dot inside a label is no separator.
            (b"\x0bexample.com\0", Some("example\\046com.")),
            (b"\x03a\\b\0", Some("a\\092b.")),
            (b"\x03a b\0", Some("a\\032b.")),
            (b"\x02\xc3\xa9\0", Some("\\195\\169.")),
            (b"\xc0\x0c", None),
            (b"\x40aaaaaaaa\0", None),
            (b"\x05abc", None),
            (b"", None),
            (&long, None),
        ] {
            let wire = message(ONE, &[wire, &[0, 1, 0, 1]].concat());
            let read = read_query(&wire).ok().map(|query| query.name);
            assert_eq!(read.as_deref(), name, "{wire:?}");
        }
    }

    #[test]
    fn headers() {
        let question = b"\x01a\0\0\x1c\0\x01";
        let answer = |code| Err(QueryError::Answer(code));
        for (header, expected) in [
            (ONE, Ok("a.".to_owned())),
            // EDNS is an additional record and stays untouched.
            ([0, 0, 0, 1, 0, 0, 0, 0, 0, 1], Ok("a.".to_owned())),
            ([QR, 0, 0, 1, 0, 0, 0, 0, 0, 0], Err(QueryError::NoQuery)),
            ([0x28, 0, 0, 1, 0, 0, 0, 0, 0, 0], answer(rcode::NOTIMP)),
            ([0, 0, 0, 2, 0, 0, 0, 0, 0, 0], answer(rcode::FORMERR)),
            ([0, 0, 0, 0, 0, 0, 0, 0, 0, 0], answer(rcode::FORMERR)),
            ([0, 0, 0, 1, 0, 1, 0, 0, 0, 0], answer(rcode::FORMERR)),
        ] {
            let read = read_query(&message(header, question)).map(|query| query.name);
            assert_eq!(read, expected, "{header:?}");
        }
        assert_eq!(read_query(&[0; 11]), Err(QueryError::NoQuery));
    }

    #[test]
    fn a_refusal_repeats_id_question_and_flags() {
        let header = [RD, CD | 0x20, 0, 1, 0, 0, 0, 0, 0, 1];
        let edns = [0, 0, 41, 4, 0, 0, 0, 0, 0, 0, 0];
        let wire = message(header, &[&b"\x01a\0\0\x01\0\x01"[..], &edns].concat());
        let query = read_query(&wire).unwrap();
        let answer = query.answer(rcode::REFUSED);
        let expected = b"\xab\xcd\x81\x15\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01";
        assert_eq!(answer, expected);
        assert_eq!(answer_unread(&wire, rcode::FORMERR).unwrap().len(), HEADER);
        assert_eq!(answer_unread(&[0; 4], rcode::FORMERR), None);
    }

    #[test]
    fn type_names() {
        assert_eq!(type_name(28), "AAAA");
        assert_eq!(type_name(65_280), "TYPE65280");
    }

    proptest! {
        #[test]
        fn any_bytes_have_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(query) = read_query(&bytes) {
                prop_assert!(query.name.ends_with('.'));
                prop_assert!(query.name.bytes().all(|b| b.is_ascii_graphic()));
                prop_assert!(!query.name.bytes().any(|b| b.is_ascii_uppercase()));
                prop_assert!(read_query(&query.answer(5)).is_err());
            }
        }

        #[test]
        fn any_question_is_read(labels in prop::collection::vec("[a-zA-Z0-9_-]{1,20}", 0..10)) {
            let mut wire = Vec::new();
            for label in &labels {
                wire.push(u8::try_from(label.len()).unwrap());
                wire.extend(label.as_bytes());
            }
            wire.extend([0, 0, 1, 0, 1]);
            let name = read_query(&message(ONE, &wire)).unwrap().name;
            let expected = format!("{}.", labels.join("."));
            prop_assert_eq!(name, expected.to_ascii_lowercase());
        }
    }
}
