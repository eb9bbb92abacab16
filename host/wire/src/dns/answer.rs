//! Responses: which addresses the name that was asked for has.

use std::net::IpAddr;

use super::query::{HEADER, QR as RESPONSE, question_bytes, read_question};
use hickory_proto::{
    op::{Message, MessageType},
    rr::{DNSClass, Name, RData},
};

/// TC bit of the first flag byte (RFC 1035 §4.1.1).
const TRUNCATED: u8 = 0x02;
/// Longest chain of CNAMEs followed.
const MAX_CHAIN: usize = 16;
/// Most addresses taken from one response (Cilium's limit per name).
const MAX_ADDRESSES: usize = 1_000;

/// What a response says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Message id.
    pub id: u16,
    /// Name asked for, as [`Query::name`](super::Query::name); `None` if the response
    /// leaves the question out.
    pub question: Option<String>,
    /// RCODE, the upper bits of EDNS included only as far as they fit.
    pub rcode: u8,
    /// Addresses of the name asked for, found through its CNAMEs.
    pub addresses: Vec<IpAddr>,
    /// Smallest TTL among them and the CNAMEs that led to them, seconds.
    pub ttl: u32,
}

/// Reads a response; `None` if it is none, or malformed.
pub fn read_answer(bytes: &[u8]) -> Option<Answer> {
    let message = Message::from_vec(bytes).ok()?;
    if message.metadata.message_type != MessageType::Response {
        return None;
    }
    let code = u16::from(message.metadata.response_code);
    let mut answer = Answer {
        id: message.metadata.id,
        rcode: u8::try_from(code).unwrap_or(u8::MAX),
        ..Answer::default()
    };
    let Some(question) = message.queries.first() else {
        return Some(answer);
    };
    answer.question = read_question(bytes);
    let mut ttl = u32::MAX;
    let mut names: Vec<&Name> = vec![question.name()];
    while let Some(name) = names.last().copied() {
        // Owners are compared without regard to case.
        let owned = message.answers.iter();
        let owned = owned.filter(|r| r.dns_class == DNSClass::IN && r.name == *name);
        let mut next = None;
        for record in owned {
            match &record.data {
                RData::A(a) => answer.addresses.push(IpAddr::V4(a.0)),
                RData::AAAA(aaaa) => answer.addresses.push(IpAddr::V6(aaaa.0)),
                RData::CNAME(target) => next = Some(&target.0),
                _ => continue,
            }
            ttl = ttl.min(record.ttl);
        }
        match next {
            Some(next) if names.len() < MAX_CHAIN && !names.contains(&next) => names.push(next),
            _ => break,
        }
    }
    answer.addresses.truncate(MAX_ADDRESSES);
    if !answer.addresses.is_empty() {
        answer.ttl = ttl;
    }
    Some(answer)
}

/// What can be said of a response whose records cannot be read: what it answers, and
/// with which RCODE. `None` if it is no response, or its question cannot be read either.
pub fn read_outline(bytes: &[u8]) -> Option<Answer> {
    let header = bytes.first_chunk::<HEADER>()?;
    if header[2] & RESPONSE == 0 {
        return None;
    }
    let questions = u16::from_be_bytes([header[4], header[5]]);
    Some(Answer {
        id: u16::from_be_bytes([header[0], header[1]]),
        question: match questions {
            0 => None,
            _ => Some(read_question(bytes)?),
        },
        rcode: header[3] & 0x0f,
        ..Answer::default()
    })
}

/// Is this the last message of a zone transfer (RFC 5936 §2.2)? It ends with the SOA
/// record that the `first` message begins with. What cannot be read is no end.
pub fn ends_transfer(bytes: &[u8], first: bool) -> bool {
    let Ok(message) = Message::from_vec(bytes) else {
        return false;
    };
    let records = &message.answers;
    let ends = matches!(
        records.last().map(|record| &record.data),
        Some(RData::SOA(_))
    );
    // A server that refuses says so in one message.
    ends && !(first && records.len() == 1) || (first && records.is_empty())
}

/// The same response without its records, marked as too long for a datagram, so that the
/// client asks again by TCP (RFC 2181 §9). `None` if it has no question.
pub fn truncated(bytes: &[u8]) -> Option<Vec<u8>> {
    let header = bytes.first_chunk::<HEADER>()?;
    let question = question_bytes(bytes)?;
    let mut short = header.to_vec();
    short[2] |= TRUNCATED;
    short[4..HEADER].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
    short.extend_from_slice(question);
    Some(short)
}

#[cfg(test)]
mod tests {
    use hickory_proto::{
        op::{OpCode, Query},
        rr::{
            Record, RecordType,
            rdata::{A, AAAA, CNAME},
        },
    };
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn response(question: &str, records: &[(&str, u32, RData)]) -> Vec<u8> {
        let mut message = Message::response(7, OpCode::Query);
        message.add_query(Query::query(name(question), RecordType::A));
        for (owner, ttl, data) in records {
            message.add_answer(Record::from_rdata(name(owner), *ttl, data.clone()));
        }
        message.to_vec().unwrap()
    }

    fn a(last: u8) -> RData {
        RData::A(A::new(192, 0, 2, last))
    }

    fn cname(target: &str) -> RData {
        RData::CNAME(CNAME(name(target)))
    }

    #[test]
    fn addresses_of_the_name_asked_for() {
        let v6 = RData::AAAA(AAAA::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
        let rows: &[(&[(&str, u32, RData)], &[&str], u32)] = &[
            (&[], &[], 0),
            (&[("a.example.", 30, a(1))], &["192.0.2.1"], 30),
            (
                &[("A.Example.", 30, a(1)), ("a.example.", 20, v6)],
                &["192.0.2.1", "2001:db8::1"],
                20,
            ),
            (
                &[
                    ("a.example.", 5, cname("b.example.")),
                    ("b.example.", 60, a(2)),
                ],
                &["192.0.2.2"],
                5,
            ),
            // The order of records does not matter.
            (
                &[
                    ("b.example.", 60, a(2)),
                    ("a.example.", 5, cname("b.example.")),
                ],
                &["192.0.2.2"],
                5,
            ),
            // Somebody else's address is not an answer.
            (&[("evil.example.", 30, a(3))], &[], 0),
            (&[("a.example.", 5, cname("a.example."))], &[], 0),
        ];
        for (records, addresses, ttl) in rows {
            let answer = read_answer(&response("a.example.", records)).unwrap();
            let read: Vec<_> = answer.addresses.iter().map(ToString::to_string).collect();
            assert_eq!(
                (&read[..], answer.ttl, answer.id),
                (
                    &addresses
                        .iter()
                        .map(|a| (*a).to_owned())
                        .collect::<Vec<_>>()[..],
                    *ttl,
                    7
                )
            );
        }
    }

    #[test]
    fn what_cannot_be_read_still_answers_a_question() {
        let mut wire = response("a.example.", &[("a.example.", 30, a(1))]);
        let whole = read_outline(&wire).unwrap();
        assert_eq!(whole.question.as_deref(), Some("a.example."));
        // An address of three bytes.
        let length = wire.len();
        wire.truncate(length - 1);
        wire[length - 5] = 3;
        assert_eq!(read_answer(&wire), None);
        assert_eq!(read_outline(&wire), Some(whole));
        wire[2] &= 0x7f;
        assert_eq!(read_outline(&wire), None);
        assert_eq!(read_outline(&wire[..11]), None);

        let full = response("a.example.", &[("a.example.", 30, a(1))]);
        let short = truncated(&full).unwrap();
        let read = Message::from_vec(&short).unwrap();
        assert!(read.metadata.truncation && read.answers.is_empty());
        assert_eq!(read.queries[0].name().to_string(), "a.example.");
        assert_eq!(truncated(&full[..13]), None);
    }

    #[test]
    fn a_transfer_ends_with_the_record_it_began_with() {
        use hickory_proto::rr::rdata::SOA;
        let soa = || RData::SOA(SOA::new(name("ns."), name("root."), 1, 2, 3, 4, 5));
        let message = |records: &[(&str, u32, RData)]| response("z.", records);
        for (records, first, ends) in [
            (&[("z.", 1, soa()), ("z.", 1, a(1))][..], true, false),
            (&[("z.", 1, soa())], true, false),
            (&[("z.", 1, soa()), ("z.", 1, soa())], true, true),
            (&[("z.", 1, a(2))], false, false),
            (&[("z.", 1, a(2)), ("z.", 1, soa())], false, true),
            (&[("z.", 1, soa())], false, true),
            // Refused.
            (&[], true, true),
        ] {
            assert_eq!(ends_transfer(&message(records), first), ends, "{records:?}");
        }
        assert!(!ends_transfer(b"nonsense", true));
    }

    #[test]
    fn a_query_teaches_nothing() {
        let mut wire = response("a.example.", &[("a.example.", 30, a(1))]);
        wire[2] &= 0x7f;
        assert_eq!(read_answer(&wire), None);
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            let _ = (read_answer(&bytes), read_outline(&bytes), truncated(&bytes));
            let _ = ends_transfer(&bytes, true);
        }

        #[test]
        fn never_panics_near_the_truth(at in 0usize..80, byte: u8) {
            let mut wire = response(
                "a.example.",
                &[("a.example.", 5, cname("b.example.")), ("b.example.", 60, a(2))],
            );
            let at = at % wire.len();
            wire[at] = byte;
            let _ = read_answer(&wire);
        }
    }
}
