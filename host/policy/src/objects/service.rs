//! Addresses and ports that stand for backends.

use std::net::IpAddr;

use super::meta::Meta;
use crate::{
    labels::Selector,
    origin::At,
    terms::{Algorithm, BackendState},
};

/// A service.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Name and origin.
    pub meta: Meta,
    /// Frontend addresses, each with its place.
    pub addresses: Vec<(At, IpAddr)>,
    /// Frontend ports.
    pub ports: Vec<ServicePort>,
    /// How a backend is chosen.
    pub algorithm: Algorithm,
    /// Backends given by address.
    pub backends: Vec<Backend>,
    /// Endpoints that are backends; their namespace is the service's.
    pub selector: Option<Selector>,
    /// Where `selector` or `backends` was written; the document if neither was.
    pub backends_at: At,
}

/// A frontend port.
#[derive(Clone, Debug, PartialEq)]
pub struct ServicePort {
    /// Name, if there is one.
    pub name: Option<String>,
    /// Frontend port.
    pub port: u16,
    /// Where that was written.
    pub port_at: At,
    /// Backend port.
    pub target: TargetPort,
    /// Where that was written; the frontend port's place if it was not.
    pub target_at: At,
    /// IANA protocol.
    pub protocol: u8,
}

/// Backend port of a frontend port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// This one.
    Number(u16),
    /// The one with this name at the endpoint.
    Name(String),
}

/// A backend given by address.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// Where it was written.
    pub at: At,
    /// Address.
    pub address: IpAddr,
    /// Port, if it is not the target port.
    pub port: Option<u16>,
    /// Relative share of new connections; 0 means none.
    pub weight: u32,
    /// State.
    pub state: BackendState,
}

/// Most a backend may weigh; Maglev tables would not tell more apart.
pub(crate) const MAX_WEIGHT: u32 = 1_000;
