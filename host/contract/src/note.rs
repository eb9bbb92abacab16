//! What the operator should know, and which flows it concerns.

use std::{fmt, net::IpAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Something about this node that may stand in the way of flows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Note {
    /// What it is, and what to do about it.
    pub message: String,
    /// Whom it concerns.
    pub concerns: Concern,
}

/// Which flows a note is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Concern {
    /// No flow: it is as it should be, and good to know.
    NoFlow,
    /// Whatever the node does.
    Node,
    /// Flows that need the proxy: all, or those of a family or of an endpoint.
    #[serde(rename_all = "camelCase")]
    Steered {
        /// Only of this family.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        family: Option<Family>,
        /// Only of this endpoint, `namespace/name`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        endpoint: Option<String>,
    },
    /// Flows from or to an end outside the node.
    Outside,
    /// What the node routes between its devices, of this family.
    Routed {
        /// The family.
        family: Family,
    },
    /// IPv4 packets that this device takes in.
    Device {
        /// Its name.
        device: String,
    },
    /// Sockets of the node's own: host services, and service addresses.
    Sockets,
}

/// A family of addresses.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl From<IpAddr> for Family {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }
}

impl Concern {
    /// Every flow that needs the proxy.
    pub const STEERED: Self = Self::Steered {
        family: None,
        endpoint: None,
    };

    /// Flows of a family that need the proxy.
    pub fn steered(family: Family) -> Self {
        Self::Steered {
            family: Some(family),
            endpoint: None,
        }
    }
}

impl Note {
    /// A note.
    pub fn new(concerns: Concern, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            concerns,
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
