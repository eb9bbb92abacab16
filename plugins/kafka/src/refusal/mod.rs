//! What each request says about topics, how it is refused in the words of its own API,
//! and where its response says that something went wrong. One entry for every API the
//! `kafka-protocol` crate knows; codes as Apache Kafka's authorizer gives them.

mod cluster;
mod groups;
mod topics;

use kafka_protocol::protocol::Request;

/// A request as rules and refusals see it.
pub(crate) trait Api: Request {
    /// What it says about topics.
    fn topics(&self) -> Topics;

    /// The response that refuses all of it.
    fn refused(&self, version: i16) -> Self::Response;

    /// The first error a response tells of; 0 if all went well.
    fn error(response: &Self::Response) -> i16;
}

/// What a request says about topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Topics {
    /// Nothing: a rule's topic does not matter.
    Without,
    /// These names.
    Named(Vec<String>),
    /// Something no rule with a topic covers: names of another kind of request, or ids.
    Unread,
}

impl Topics {
    /// Names, as far as there are; ids instead of names are unread.
    fn named<'a, N>(names: impl IntoIterator<Item = Option<&'a N>>) -> Self
    where
        N: std::ops::Deref<Target = kafka_protocol::protocol::StrBytes> + 'a,
    {
        let names = names.into_iter().map(|name| {
            let name = name.map(|name| name.as_str()).unwrap_or_default();
            (!name.is_empty()).then(|| name.to_owned())
        });
        match names.collect() {
            Some(names) => Self::Named(names),
            None => Self::Unread,
        }
    }
}

/// Error codes of the protocol.
mod code {
    pub(super) const TOPIC: i16 = 29;
    pub(super) const GROUP: i16 = 30;
    pub(super) const CLUSTER: i16 = 31;
    pub(super) const MECHANISM: i16 = 33;
    pub(super) const TRANSACTION: i16 = 53;
    pub(super) const LOGIN: i16 = 58;
    pub(super) const TOKEN: i16 = 65;
    pub(super) const SESSION: i16 = 70;
}

/// The first of them that is an error.
fn first(codes: impl IntoIterator<Item = i16>) -> i16 {
    codes.into_iter().find(|code| *code != 0).unwrap_or(0)
}

fn each<A, B>(items: &[A], make: impl FnMut(&A) -> B) -> Vec<B> {
    items.iter().map(make).collect()
}

/// Requests whose response has one code for all of them.
macro_rules! by_one_code {
    ($($request:ident: $topics:ident, $code:ident;)*) => {$(
        impl super::Api for kafka_protocol::messages::$request {
            fn topics(&self) -> super::Topics {
                super::Topics::$topics
            }

            fn refused(&self, _: i16) -> Self::Response {
                Self::Response::default().with_error_code(super::code::$code)
            }

            fn error(response: &Self::Response) -> i16 {
                response.error_code
            }
        }
    )*};
}
use by_one_code;

/// A request whose response has a code for each item: the topics it names, the response
/// that refuses it, and the codes of a response.
macro_rules! by_item {
    (
        $request:ident,
        |$of:ident| $topics:expr,
        |$asked:ident, $version:ident| $refused:expr,
        |$said:ident| $codes:expr $(,)?
    ) => {
        impl super::Api for kafka_protocol::messages::$request {
            fn topics(&self) -> super::Topics {
                let $of = self;
                $topics
            }

            fn refused(&self, $version: i16) -> Self::Response {
                let $asked = self;
                $refused
            }

            fn error($said: &Self::Response) -> i16 {
                super::first($codes)
            }
        }
    };
}
use by_item;

pub(crate) use topics::refused_topic;
