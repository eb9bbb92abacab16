//! Every API and version: what is refused gets an answer its client can read.

use bytes::Bytes;
use kafka_protocol::{
    messages::{ApiKey, ResponseHeader},
    protocol::{Decodable, HeaderVersion},
};
use proptest::prelude::*;

use super::{dream, given};
use crate::{kinds, refusal::Api};

/// A kind's dreamed request; and reads its response, to the end: the number it answers.
pub(super) type Kind = (
    fn(i16, &[u8]) -> Option<Vec<u8>>,
    fn(i16, Bytes) -> Result<(i32, i16), String>,
);

fn kind<A: Api>() -> Kind {
    (dream::bytes::<A>, read::<A>)
}

fn read<A: Api>(version: i16, mut bytes: Bytes) -> Result<(i32, i16), String> {
    let readable = |error: anyhow::Error| format!("{error:#}");
    let head = ResponseHeader::decode(&mut bytes, A::Response::header_version(version));
    let head = head.map_err(readable)?;
    let response = A::Response::decode(&mut bytes, version).map_err(readable)?;
    match bytes.len() {
        0 => Ok((head.correlation_id, A::error(&response))),
        rest => Err(format!("{rest} bytes follow")),
    }
}

/// Refuses a request of this kind; `None` if there is none of these numbers.
fn check(key: ApiKey, version: i16, numbers: &[u8]) -> Option<()> {
    let (make, read) = kinds::of(key, Chosen);
    let body = make(version, numbers)?;
    let asked = dream::frame((key, version, 77), "me", |bytes| bytes.extend(body));
    let what = format!("{key:?} v{version} {numbers:?}");
    let mut connection = super::connection(r#"{"rules":[]}"#);
    assert!(connection.client(&asked).is_empty(), "{what} passed");
    assert_eq!(connection.closed, None, "{what}");
    assert!(!connection.last().allowed, "{what}");
    let said = connection.server(&[]);
    let Some(told) = given(connection.last()) else {
        // Not even success would be answered.
        assert_eq!(key, ApiKey::Produce, "{what} has no answer");
        assert!(said.is_empty(), "{what}");
        return Some(());
    };
    let (length, response) = said.split_first_chunk().expect(&what);
    assert_eq!(
        i32::from_be_bytes(*length) as usize,
        response.len(),
        "{what}"
    );
    match read(version, Bytes::copy_from_slice(response)) {
        Ok((correlation, code)) => {
            assert_eq!(correlation, 77, "{what}");
            assert_eq!(told.code, i32::from(code), "{what}");
            let topicless = numbers.contains(&0);
            assert!(code != 0 || topicless, "{what} is told that all is well");
        }
        Err(error) => panic!("{what}: {error}"),
    }
    // The connection lives on.
    let again = dream::frame((key, version, 78), "me", |bytes| {
        bytes.extend(make(version, &[1]).expect("the usual"));
    });
    connection.client(&again);
    assert_eq!(connection.closed, None, "{what}");
    assert!(!connection.server(&[]).is_empty(), "{what}");
    Some(())
}

/// Picks what a test needs of a kind.
pub(super) struct Chosen;

impl kinds::Choice for Chosen {
    type Of = Kind;

    fn choose<A: Api>(self) -> Kind {
        kind::<A>()
    }
}

fn all() -> impl Iterator<Item = (ApiKey, i16)> {
    ApiKey::iter().flat_map(|key| {
        let range = kinds::versions(key);
        (range.min..=range.max).map(move |version| (key, version))
    })
}

#[test]
fn every_api_and_version_is_refused_in_its_own_words() {
    let mut checked = 0;
    for (key, version) in all() {
        let made = check(key, version, &[1]);
        assert_eq!(
            made,
            Some(()),
            "no request {key:?} v{version} could be made"
        );
        checked += 1;
    }
    assert!(checked > 250, "{checked}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn whatever_it_asks_for(numbers in prop::collection::vec(0_u8..4, 1..9)) {
        for (key, version) in all() {
            check(key, version, &numbers);
        }
    }
}
