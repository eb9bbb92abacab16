//! `serverNames`: what a client may ask for before it encrypts.

use super::super::reader::{Cursor, all};
use crate::{fqdn, l7::FqdnSelector, rule::L7Rules};

/// Reads `serverNames`. An empty list asks for nothing, as in Cilium.
#[expect(clippy::option_option, reason = "absent and unreadable are different")]
pub(super) fn read_server_names(cursor: &Cursor<'_>, deny: bool) -> Option<Option<L7Rules>> {
    let items = cursor.items()?;
    if items.is_empty() {
        cursor.warn(
            "no server names are no restriction: whatever is asked for is allowed, unread",
            "list what is allowed, or leave `serverNames` out",
        );
        return Some(None);
    }
    if deny {
        cursor.error(
            "deny rules cannot have server names",
            "deny the port as a whole",
        );
        return None;
    }
    let names = all(items.iter().map(|item| Some((item.at(), read_name(item)?))));
    Some(Some(L7Rules::ServerNames(names?)))
}

/// A name, or a pattern in the grammar of `matchPattern`.
fn read_name(item: &Cursor<'_>) -> Option<FqdnSelector> {
    let text = item.word()?;
    if let Err(reason) = fqdn::check_pattern(text) {
        item.error(
            reason,
            "a name like api.example.com, or a pattern like *.example.com",
        );
        return None;
    }
    if text.parse::<std::net::Ipv4Addr>().is_ok() {
        item.warn(
            "is an address, which is no server name (RFC 6066 §3): few clients send one",
            "write the name that clients ask for, or select the address with toCIDR",
        );
    }
    let name = fqdn::normalise(text);
    Some(match name.contains('*') {
        true => FqdnSelector::MatchPattern(name),
        false => FqdnSelector::MatchName(name),
    })
}
