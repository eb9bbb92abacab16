//! HTTP/2 (RFC 9113) as a relay needs it: frame heads, header blocks decoded and
//! written again without a dynamic table. Streams and windows are the caller's.

mod block;
mod encode;
pub mod frame;
mod request;
#[cfg(test)]
mod tests;

pub use block::{BlockDecoder, BlockError, Fields, MAX_TABLE};
pub use encode::BlockEncoder;
pub use frame::{Frame, FrameError};
pub use request::{Malformed, Request};

/// Longest header block accepted, bytes as received.
pub const MAX_BLOCK: usize = 64 * 1024;

/// Longest decoded header list accepted: names, values and 32 bytes each, as
/// RFC 9113 §6.5.2 counts.
pub const MAX_LIST: usize = 64 * 1024;

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
        let mut encoder = BlockEncoder::default();
        encoder.request(&request, request.path, None);
    }
}
