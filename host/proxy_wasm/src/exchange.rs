//! One request and its response, as a filter's context knows them.

use std::collections::BTreeMap;

use crate::{Attributes, Fields};

/// Properties a filter may set of one exchange, and their bytes together.
const PROPERTIES: usize = 64;
const PROPERTY_BYTES: usize = 8 << 10;
/// Longest body of a reply, bytes.
const REPLY: usize = 1 << 20;

/// One direction.
#[derive(Clone, Debug, Default)]
pub struct Side {
    /// Header fields, those that begin with a colon first.
    pub fields: Fields,
    /// Trailers.
    pub trailers: Fields,
    /// What of the body is there now.
    pub body: Vec<u8>,
    /// What has come of the body so far, bytes.
    pub size: u64,
    /// Its header fields as they came.
    pub original: Fields,
    /// What of the bytes that wait is in `body` already.
    pub shown: usize,
    /// It has no body, and the guest was told so with its head.
    pub ended: bool,
    /// Its head waits for the body.
    pub held: bool,
    /// What may be changed now.
    pub(crate) open: Open,
    /// The filter wants it to go on, whatever it said before.
    pub continued: bool,
}

/// What of a message may be changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Open {
    /// Its header fields.
    pub fields: bool,
    /// Its body, as far as it is there.
    pub body: bool,
    /// Its trailers.
    pub trailers: bool,
}

/// An answer of the filter's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalReply {
    /// Status.
    pub status: u32,
    /// Header fields.
    pub fields: Fields,
    /// Body.
    pub body: Vec<u8>,
    /// Status of gRPC, if one was given.
    pub grpc_status: Option<u32>,
}

/// One request and its response.
#[derive(Clone, Debug)]
pub struct Exchange {
    pub(crate) attributes: Attributes,
    /// The request.
    pub request: Side,
    /// The response.
    pub response: Side,
    pub(crate) properties: BTreeMap<Vec<u8>, Vec<u8>>,
    /// What the filter answered in upstream's place.
    pub reply: Option<LocalReply>,
    /// It wants the exchange to end without an answer.
    pub closed: bool,
    /// It said that it is not done yet.
    pub(crate) lingers: bool,
    /// What was last counted of it, bytes.
    pub(crate) weighed: usize,
}

impl Exchange {
    pub(crate) fn new(attributes: Attributes) -> Self {
        Self {
            attributes,
            request: Side::default(),
            response: Side::default(),
            properties: BTreeMap::new(),
            reply: None,
            closed: false,
            lingers: false,
            weighed: 0,
        }
    }

    /// Keeps a property; false if there are too many.
    pub(crate) fn set_property(&mut self, name: &[u8], value: &[u8]) -> bool {
        let known = self.properties.contains_key(name);
        let others = self.properties.iter().filter(|(own, _)| *own != name);
        let held: usize = others.map(|(name, value)| name.len() + value.len()).sum();
        let fits = held + name.len() + value.len() <= PROPERTY_BYTES;
        if !fits || (!known && self.properties.len() >= PROPERTIES) {
            return false;
        }
        self.properties.insert(name.to_vec(), value.to_vec());
        true
    }

    /// What is kept of it, bytes.
    pub(crate) fn weight(&self) -> usize {
        let bodies = self.request.body.len() + self.response.body.len();
        let properties = self.properties.iter();
        let properties: usize = properties
            .map(|(name, value)| name.len() + value.len())
            .sum();
        bodies + properties + self.reply.as_ref().map_or(0, |reply| reply.body.len())
    }

    /// Lets go of everything but properties: it is over.
    pub(crate) fn let_go(&mut self) {
        self.request = Side::default();
        self.response = Side::default();
        self.reply = None;
    }

    /// Keeps an answer; the first one counts. False if it is none, or nobody waits for one.
    pub(crate) fn answer(&mut self, reply: LocalReply) -> bool {
        let shut = Open::default();
        let asked = self.request.open != shut || self.response.open != shut;
        let fits = (200..=999).contains(&reply.status) && reply.body.len() <= REPLY;
        let fits = fits && asked;
        if fits {
            self.reply.get_or_insert(reply);
        }
        fits
    }

    /// This may be changed from now on, and nothing else.
    pub fn open(&mut self, request: Open, response: Open) {
        self.request.open = request;
        self.response.open = response;
    }

    /// As `HTTP/1.1` and the like.
    pub fn spoken(&mut self, protocol: &'static str) {
        self.attributes.protocol = protocol;
    }
}
