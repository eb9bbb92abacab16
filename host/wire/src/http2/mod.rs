//! HTTP/2 (RFC 9113) as a relay needs it: frame heads, header blocks decoded and
//! written again. Streams and windows are the caller's.

mod block;
mod encode;
pub mod frame;
mod huffman;
mod message;
mod request;
mod table;
#[cfg(test)]
mod tests;

pub use block::{BlockDecoder, BlockError, Fields, Indexing};
pub use encode::{BlockEncoder, TableEncoder};
pub use frame::{Frame, FrameError};
pub use message::{Length, Malformed, Response, check_trailers};
pub use request::Request;

/// Longest header block that is read, bytes as received: what is longer cannot be
/// decoded, and then the tables of both ends are out of step.
pub const MAX_BLOCK: usize = 4 * USUAL_LIST;

/// Longest decoded header list accepted where nobody says otherwise: names, values and 32
/// bytes each, as RFC 9113 §6.5.2 counts. Announced as `SETTINGS_MAX_HEADER_LIST_SIZE`.
pub const USUAL_LIST: usize = 64 * 1024;

/// The dynamic table of either direction on either side, bytes: RFC 9113's default,
/// which is never changed, so that an entry cannot be worth much more than its index.
pub const MAX_TABLE: usize = 4096;

/// Entry for fuzzing: any bytes as a frame and as a header block.
pub fn fuzz_http2(data: &[u8]) {
    if let Some(frame) = Frame::parse(data) {
        let payload = &data[frame::HEAD..];
        let _ = frame.fragment(payload);
        let _ = frame::settings(payload).map(|pairs| pairs.count());
    }
    let mut decoder = BlockDecoder::default();
    if let Ok(fields) = decoder.decode(data)
        && let Ok(request) = Request::read(&fields)
    {
        let mut encoder = TableEncoder::default();
        encoder.allow(None);
        // What is written again means the same, also from the table.
        for _ in 0..2 {
            let again = encoder.encode(&fields, Some(request.path), None);
            assert!(again.len() <= data.len().saturating_mul(32).max(USUAL_LIST));
        }
    }
}
