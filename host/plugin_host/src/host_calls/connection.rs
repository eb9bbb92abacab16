//! Facts about the connection the current message came on.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use crate::{instance::State, worlds::imports::connection::Host};

/// What a plugin may know about a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Client.
    pub source: SocketAddr,
    /// Original destination.
    pub destination: SocketAddr,
    /// Security identity of the source.
    pub source_identity: u32,
    /// Labels of the source, as `source:key=value`, sorted.
    pub source_labels: Arc<[String]>,
    /// Nobody connects: somebody asks what would become of it. What a plugin has to tell of
    /// it, in log lines and counters, did not happen.
    pub imagined: bool,
}

impl Default for Facts {
    /// No connection: what `configure` sees.
    fn default() -> Self {
        let nowhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        Self {
            source: nowhere,
            destination: nowhere,
            source_identity: 0,
            source_labels: Arc::default(),
            imagined: false,
        }
    }
}

impl Host for State {
    fn source_address(&mut self) -> String {
        self.facts.source.ip().to_canonical().to_string()
    }

    fn source_port(&mut self) -> u16 {
        self.facts.source.port()
    }

    fn destination_address(&mut self) -> String {
        self.facts.destination.ip().to_canonical().to_string()
    }

    fn destination_port(&mut self) -> u16 {
        self.facts.destination.port()
    }

    fn source_identity(&mut self) -> u32 {
        self.facts.source_identity
    }

    fn source_labels(&mut self) -> Vec<String> {
        self.facts.source_labels.to_vec()
    }
}
