//! What rules and the tables made of them speak of alike: numbers, directions, places.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A numeric security identity (Cilium's numbering).
pub type IdentityId = u32;
/// An endpoint on this node; never 0.
pub type EndpointId = u32;
/// A rule in the rule index; 0 means "no rule".
pub type RuleId = u32;
/// An L7 rule set; 0 means "none". Content-addressed: the same id always means the same content.
pub type L7Id = u32;

/// Direction seen from the endpoint the policy belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Towards the endpoint.
    Ingress,
    /// From the endpoint.
    Egress,
}

/// Where an endpoint lives.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Location {
    /// Behind the veth whose host side has this name.
    Interface(String),
    /// In the cgroup with this path below the cgroup v2 mount (or absolute).
    Cgroup(String),
}

/// How a backend is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// Uniformly at random per connection.
    #[default]
    Random,
    /// By Maglev table.
    Maglev,
}

/// State of a backend.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum BackendState {
    /// Takes new connections.
    #[default]
    Active,
    /// Keeps its connections, takes new ones only if nothing is active.
    Terminating,
    /// Failed its health check.
    Quarantined,
    /// Taken out by the operator.
    Maintenance,
}
