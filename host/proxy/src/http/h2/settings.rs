//! What of a peer's SETTINGS concerns us, and what the other peer is told of them.
//! Header tables and frame sizes are each leg's own; windows are end to end.

use tidegate_wire::http2::{
    MAX_TABLE,
    frame::{self, SAFE_PAYLOAD, code, setting},
};

use super::Fault;

/// Most streams open at once, whatever upstream would allow.
pub(super) const MAX_STREAMS: u32 = 2048;
/// Streams a client may open before upstream has said how many it takes.
const FIRST_STREAMS: u32 = 100;
/// The largest `SETTINGS_MAX_FRAME_SIZE` (RFC 9113 §6.5.2).
const MAX_FRAME: u32 = (1 << 24) - 1;
const MAX_WINDOW: u32 = (1 << 31) - 1;

/// Whose settings they are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    Client,
    Upstream,
}

/// Settings of one frame, or several that came after each other.
#[derive(Clone, Copy, Default)]
pub(super) struct Settings {
    pub(super) table: Option<u32>,
    pub(super) window: Option<u32>,
    streams: Option<u32>,
    list: Option<u32>,
    connect_protocol: Option<u32>,
    no_priorities: Option<u32>,
}

impl Settings {
    /// Reads a payload; of a repeated setting the last value counts. Unknown ones are
    /// left out (RFC 9113 §6.5.2).
    pub(super) fn read(&mut self, payload: &[u8], from: Peer) -> Result<(), Fault> {
        let malformed = |_| Fault::new(code::FRAME_SIZE_ERROR, "malformed SETTINGS");
        for (id, value) in frame::settings(payload).map_err(malformed)? {
            match id {
                setting::HEADER_TABLE_SIZE => self.table = Some(value),
                // A server must not offer to be pushed to.
                setting::ENABLE_PUSH if value > u32::from(from == Peer::Client) => {
                    return Err(Fault::protocol("invalid SETTINGS_ENABLE_PUSH"));
                }
                setting::MAX_CONCURRENT_STREAMS => self.streams = Some(value),
                setting::INITIAL_WINDOW_SIZE if value > MAX_WINDOW => {
                    return Err(Fault::new(
                        code::FLOW_CONTROL_ERROR,
                        "invalid SETTINGS_INITIAL_WINDOW_SIZE",
                    ));
                }
                setting::INITIAL_WINDOW_SIZE => self.window = Some(value),
                setting::MAX_FRAME_SIZE if !(SAFE_PAYLOAD as u32..=MAX_FRAME).contains(&value) => {
                    return Err(Fault::protocol("invalid SETTINGS_MAX_FRAME_SIZE"));
                }
                setting::MAX_HEADER_LIST_SIZE => self.list = Some(value),
                setting::ENABLE_CONNECT_PROTOCOL if value > 1 => {
                    return Err(Fault::protocol("invalid SETTINGS_ENABLE_CONNECT_PROTOCOL"));
                }
                setting::ENABLE_CONNECT_PROTOCOL => self.connect_protocol = Some(value),
                setting::NO_RFC7540_PRIORITIES if value > 1 => {
                    return Err(Fault::protocol("invalid SETTINGS_NO_RFC7540_PRIORITIES"));
                }
                setting::NO_RFC7540_PRIORITIES => self.no_priorities = Some(value),
                _ => {}
            }
        }
        Ok(())
    }

    /// What a client is told before upstream is known.
    pub(super) fn greeting(list: u32) -> [(u16, u32); 2] {
        [
            (setting::MAX_CONCURRENT_STREAMS, FIRST_STREAMS),
            (setting::MAX_HEADER_LIST_SIZE, list),
        ]
    }

    /// What the client is told of upstream's, the `first` time or later. `most` is what we
    /// take of a header list.
    pub(super) fn for_client(&self, first: bool, most: u32) -> Vec<(u16, u32)> {
        let otherwise = |most| first.then_some(most);
        let streams = self.streams.map(|value| value.min(MAX_STREAMS));
        let list = self.list.map(|value| value.min(most));
        // Where upstream has a smaller table than ours, the client does best with one
        // as small: what it indexes we could not.
        let table = self.table.filter(|size| *size < MAX_TABLE as u32);
        present([
            (setting::HEADER_TABLE_SIZE, table),
            (
                setting::MAX_CONCURRENT_STREAMS,
                streams.or(otherwise(MAX_STREAMS)),
            ),
            (setting::INITIAL_WINDOW_SIZE, self.window),
            (setting::MAX_HEADER_LIST_SIZE, list.or(otherwise(most))),
            (setting::ENABLE_CONNECT_PROTOCOL, self.connect_protocol),
            (setting::NO_RFC7540_PRIORITIES, self.no_priorities),
        ])
    }

    /// What upstream is told of the client's, likewise.
    pub(super) fn for_upstream(&self, first: bool, most: u32) -> Vec<(u16, u32)> {
        let list = self.list.map(|value| value.min(most));
        present([
            // A pushed response would answer a request that no rule saw.
            (setting::ENABLE_PUSH, first.then_some(0)),
            (setting::INITIAL_WINDOW_SIZE, self.window),
            (
                setting::MAX_HEADER_LIST_SIZE,
                list.or(first.then_some(most)),
            ),
        ])
    }
}

fn present<const N: usize>(pairs: [(u16, Option<u32>); N]) -> Vec<(u16, u32)> {
    let pairs = pairs.into_iter();
    pairs.filter_map(|(id, value)| Some((id, value?))).collect()
}
