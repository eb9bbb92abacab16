//! Attributes of netlink messages: `struct nlattr` and its content, aligned to four bytes.

/// All of them.
pub(super) fn all(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    const NESTED_OR_ORDER: u16 = 0xc000;
    std::iter::from_fn(move || {
        let header = bytes.get(..4)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & !NESTED_OR_ORDER;
        let content = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, content))
    })
}

/// The first of a kind.
pub(super) fn find(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    all(bytes).find_map(|(kind, content)| (kind == wanted).then_some(content))
}

/// A number in network byte order.
pub(super) fn number(bytes: &[u8], wanted: u16) -> Option<u32> {
    let content = find(bytes, wanted)?;
    Some(u32::from_be_bytes(content.try_into().ok()?))
}

/// A text, up to its zero.
pub(super) fn text(bytes: &[u8], wanted: u16) -> Option<String> {
    let content = find(bytes, wanted)?;
    let end = content.iter().position(|byte| *byte == 0);
    Some(String::from_utf8_lossy(&content[..end.unwrap_or(content.len())]).into_owned())
}
