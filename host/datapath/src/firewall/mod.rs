//! Firewalls of this node that drop what is steered to the proxy. It is for the node, until the
//! proxy has it, so this is known before a flow is lost.
//!
//! Read only: `nftables` (what `iptables-nft` makes too) over netlink, and the tables of
//! `iptables-legacy` by its socket options; both become a `ruleset`, which says what becomes of
//! packets with our mark.

mod attributes;
mod expressions;
mod legacy;
mod nftables;
mod ruleset;
#[cfg(test)]
mod tests;

use tidegate_contract::{Concern, Family, Note};

pub(super) use self::nftables::Ruleset;

/// How a firewall lets in what is steered to the proxy.
pub(super) const LET_THEM_IN: &str = "let them in: `iptables -I INPUT -m mark --mark 0x200/0xf00 \
     -j ACCEPT` (and ip6tables), or `meta mark & 0xf00 == 0x200 accept` in every nftables chain \
     of hook input";

/// A chain that drops what is steered, of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Closed {
    /// `chain INPUT of table ip filter`.
    what: String,
    family: Family,
}

/// A chain that drops what is steered, unless a rule that has nothing to do with its mark
/// accepts it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ClosedInput {
    what: String,
    /// What it drops: IPv4, IPv6, or both.
    families: Vec<Family>,
}

impl ClosedInput {
    /// What to know and to do about it.
    pub(super) fn note(&self) -> Note {
        let message = format!(
            "{} drops what no rule of it accepts, and none accepts what has the mark of flows \
             steered to the proxy: if none accepts them by other signs, they are lost; \
             {LET_THEM_IN}",
            self.what
        );
        let concerns = match self.families[..] {
            [family] => Concern::steered(family),
            _ => Concern::STEERED,
        };
        Note::new(concerns, message)
    }
}

/// What may keep flows from reaching the proxy on this node, for those who have not tried.
pub fn firewall_notes() -> Vec<Note> {
    let closed = closed_inputs(&mut Ruleset::default());
    closed.iter().map(ClosedInput::note).collect()
}

/// Finds them; what was read of nftables before is not read again. What cannot be read, for want
/// of rights or of the kernel's support, is not claimed.
pub(super) fn closed_inputs(nftables: &mut Ruleset) -> Vec<ClosedInput> {
    let mut found: Vec<ClosedInput> = Vec::new();
    let closed = nftables.closed().unwrap_or_default().to_vec();
    for Closed { what, family } in closed.into_iter().chain(legacy::closed()) {
        match found.iter_mut().find(|found| found.what == what) {
            Some(found) => found.families.push(family),
            None => found.push(ClosedInput {
                what,
                families: vec![family],
            }),
        }
    }
    found.sort();
    found
}

#[cfg(test)]
impl ClosedInput {
    pub(super) fn made_up(what: &str) -> Self {
        Self {
            what: what.to_owned(),
            families: vec![Family::Ipv4],
        }
    }
}
