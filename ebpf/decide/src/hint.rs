//! What the first bytes of a stream look like: a hint, never a policy decision.

use tidegate_ebpf_shared::flow::hint;

/// Bytes looked at.
pub const WINDOW: usize = 16;

/// Highest Kafka request api key and version taken for real (4.1 defines 92 keys, no
/// version above 18; some room).
const KAFKA_KEYS: u16 = 128;
const KAFKA_VERSIONS: u16 = 32;

/// Classifies the first message of a stream, `size` bytes long, by its first bytes.
#[inline(always)]
pub fn classify(bytes: &[u8; WINDOW], size: u32) -> u8 {
    match bytes {
        // RFC 9113 §3.4, the start of the connection preface.
        [
            b'P',
            b'R',
            b'I',
            b' ',
            b'*',
            b' ',
            b'H',
            b'T',
            b'T',
            b'P',
            b'/',
            b'2',
            ..,
        ] => hint::HTTP2,
        [b'G', b'E', b'T', b' ', ..]
        | [b'P', b'U', b'T', b' ', ..]
        | [b'P', b'O', b'S', b'T', b' ', ..]
        | [b'H', b'E', b'A', b'D', b' ', ..]
        | [b'T', b'R', b'A', b'C', b'E', b' ', ..]
        | [b'P', b'A', b'T', b'C', b'H', b' ', ..]
        | [b'D', b'E', b'L', b'E', b'T', b'E', b' ', ..]
        | [b'O', b'P', b'T', b'I', b'O', b'N', b'S', b' ', ..]
        | [b'C', b'O', b'N', b'N', b'E', b'C', b'T', b' ', ..] => hint::HTTP1,
        // RFC 8446 §5.1: a handshake record of version 3.x that starts a ClientHello.
        [0x16, 0x03, _, _, _, 0x01, ..] => hint::TLS,
        // Kafka request header: length, api key, api version.
        [a, b, c, d, k0, k1, v0, v1, ..]
            if u32::from_be_bytes([*a, *b, *c, *d]).wrapping_add(4) == size
                && u16::from_be_bytes([*k0, *k1]) < KAFKA_KEYS
                && u16::from_be_bytes([*v0, *v1]) < KAFKA_VERSIONS =>
        {
            hint::KAFKA
        }
        _ => hint::OTHER,
    }
}
