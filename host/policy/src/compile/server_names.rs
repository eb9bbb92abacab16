//! What `serverNames` mean for rules beside them.
//!
//! Cilium keeps the rules of one port apart by the peers they select, as written, and takes
//! those with the same peers for one: names that any of them lists are asked of all its
//! traffic (`mergePortProto`). So a plain rule for the very same peers and port opens nothing
//! beside them. One for other peers, or for more ports, opens what it says.

use super::clause::Clause;
use crate::{
    protocol,
    rule::{PeerSelector, Peers},
};

/// Is the clause without a say, because others ask names of the same peers on the same port?
pub(super) fn silence(spoken: &[(&Clause, bool)], clause: &Clause) -> bool {
    if clause.l7.is_some() || clause.tls.is_some() {
        return false;
    }
    let names: Vec<&Clause> = spoken
        .iter()
        .map(|(other, _)| *other)
        .filter(|other| other.server_names().is_some())
        .filter(|other| have_a_port_in_common(clause, other))
        .collect();
    match clause.peers() {
        Peers::Any => names.iter().any(|other| *other.peers() == Peers::Any),
        Peers::Of(own) => own
            .iter()
            .all(|(_, selector)| names.iter().any(|other| selects(other.peers(), selector))),
    }
}

fn selects(peers: &Peers, selector: &PeerSelector) -> bool {
    match peers {
        Peers::Any => false,
        Peers::Of(all) => all.iter().any(|(_, other)| other == selector),
    }
}

fn have_a_port_in_common(one: &Clause, other: &Clause) -> bool {
    let mut ports = one.ports.iter().flatten();
    ports.any(|port| {
        let mut others = other.ports.iter().flatten();
        port.protocols.contains(&protocol::TCP) && others.any(|other| other.range == port.range)
    })
}
