//! Something policy applies to, and where it lives.

use std::net::IpAddr;

use super::meta::Meta;
use crate::{
    labels::Label,
    origin::At,
    rule::PortNames,
    terms::{BackendState, Location},
};

/// A workload or a host service.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Name and origin.
    pub meta: Meta,
    /// All labels, with those every endpoint has; sorted.
    pub labels: Vec<Label>,
    /// Where it lives.
    pub location: Location,
    /// Where that was written.
    pub location_at: At,
    /// Its addresses; a host service uses the node's.
    pub addresses: Vec<IpAddr>,
    /// Where each of them was written.
    pub addresses_at: Vec<At>,
    /// Ports that rules may name.
    pub ports: Vec<NamedPort>,
    /// First-byte hints and fast lane.
    pub fast_lane: bool,
    /// What services that select it may do with it.
    pub state: BackendState,
}

/// A port with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPort {
    /// Lower case.
    pub name: String,
    /// Number.
    pub port: u16,
    /// IANA protocol.
    pub protocol: u8,
}

impl Endpoint {
    /// Its addresses, each with the place it was written at.
    pub fn addresses(&self) -> impl Iterator<Item = (IpAddr, &At)> {
        self.addresses.iter().copied().zip(&self.addresses_at)
    }

    /// Its ports by name.
    pub fn port_names(&self) -> PortNames {
        let mut names = PortNames::new();
        for port in &self.ports {
            let numbers = names.entry(port.name.clone()).or_default();
            numbers.push((port.protocol, port.port));
        }
        names
    }
}
