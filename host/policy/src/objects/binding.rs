//! A plugin that looks at traffic which policy allows.

use super::meta::Meta;
use crate::{
    http_options::HttpOptions,
    l7::{FailMode, L7Protocol},
    labels::Selector,
    origin::At,
    protocol,
    terms::Direction,
};

/// A binding. It allows nothing by itself.
#[derive(Clone, Debug, PartialEq)]
pub struct PluginBinding {
    /// Name and origin.
    pub meta: Meta,
    /// Endpoints it applies to.
    pub subject: Selector,
    /// Where that was written.
    pub subject_at: At,
    /// Direction, seen from the subject.
    pub direction: Direction,
    /// Peers it applies to, each selector with its place; `None` means all.
    pub peers: Option<Vec<(At, Selector)>>,
    /// Destination ports it applies to.
    pub ports: Vec<u16>,
    /// Name of the plugin; a binding may be about how HTTP is carried alone.
    pub plugin: Option<String>,
    /// Where that was written; if it was not, where the binding begins.
    pub plugin_at: At,
    /// Configuration, JSON text.
    pub config: String,
    /// Where that was written; the plugin's place if it was not.
    pub config_at: At,
    /// What happens when the plugin cannot decide.
    pub fail_mode: FailMode,
    /// How HTTP is carried.
    pub http: HttpOptions,
    /// How the stream is read.
    pub protocol: L7Protocol,
    /// Where that was written; if it was not, where it would have to be.
    pub protocol_at: At,
}

impl PluginBinding {
    /// IANA protocols its ports belong to.
    pub fn transports(&self) -> &'static [u8] {
        match self.protocol {
            L7Protocol::Http | L7Protocol::Stream => &[protocol::TCP],
            L7Protocol::Dns => &[protocol::TCP, protocol::UDP],
        }
    }

    /// Does it apply to this port?
    pub fn covers(&self, transport: u8, port: u16) -> bool {
        self.transports().contains(&transport) && self.ports.contains(&port)
    }
}
