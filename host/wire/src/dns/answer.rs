//! Responses: which addresses the name that was asked for has.

use std::net::IpAddr;

use super::query::read_question;
use hickory_proto::{
    op::{Message, MessageType},
    rr::{DNSClass, Name, RData},
};

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
    fn a_query_teaches_nothing() {
        let mut wire = response("a.example.", &[("a.example.", 30, a(1))]);
        wire[2] &= 0x7f;
        assert_eq!(read_answer(&wire), None);
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            let _ = read_answer(&bytes);
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
