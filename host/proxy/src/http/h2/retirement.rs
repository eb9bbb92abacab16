//! How a connection ends that is old, so that no request is lost (RFC 9113 §6.8): the client
//! is told to open no more streams, answers a PING to show that it knows, and keeps those it has
//! until they are done.

use tidegate_wire::http2::frame::{self, Frame, code, kind};

use super::OLD;

/// The highest id there is: no stream is too young yet.
const ANY_STREAM: u32 = (1 << 31) - 1;
/// What our PING carries.
const PING: [u8; 8] = *b"farewell";

/// How far it has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Retirement {
    /// It is not old.
    #[default]
    No,
    /// The client is told.
    Told,
    /// And knows: what it asks for from now on, it asks for in vain.
    Known,
}

impl Retirement {
    /// Begins; what the client is to be sent.
    pub(super) fn begin(&mut self) -> Option<Vec<u8>> {
        if *self != Self::No {
            return None;
        }
        *self = Self::Told;
        let mut out = Vec::new();
        frame::write_goaway(ANY_STREAM, code::NO_ERROR, OLD, &mut out);
        let ping = Frame {
            length: PING.len() as u32,
            kind: kind::PING,
            flags: 0,
            stream: 0,
        };
        ping.write(&mut out);
        out.extend_from_slice(&PING);
        Some(out)
    }

    /// The client has acknowledged a PING; tells if it was ours.
    pub(super) fn acknowledged(&mut self, payload: &[u8]) -> bool {
        let ours = *self == Self::Told && *payload == PING;
        if ours {
            *self = Self::Known;
        }
        ours
    }
}
