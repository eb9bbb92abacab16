//! What rules and the tables made of them speak of alike: numbers, directions, places.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

/// A number of one kind. In documents, messages and output it is the bare number; which kind it
/// is of is said at the edges alone: where one is given out, and in the kernel's records.
macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize,
            Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u32);

        impl $name {
            /// The bare number.
            pub const fn get(self) -> u32 {
                self.0
            }

            /// Does it stand for something? 0 does not.
            pub const fn is_some(self) -> bool {
                self.0 != 0
            }

            /// Does it stand for nothing?
            pub const fn is_none(self) -> bool {
                self.0 == 0
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                u32::schema_name()
            }

            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                u32::json_schema(generator)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// A numeric security identity (Cilium's numbering); 0 is nobody in particular.
    IdentityId
}
number! {
    /// An endpoint on this node; 0 means "none of this node's".
    EndpointId
}
number! {
    /// A rule in the rule index; 0 means "no rule".
    RuleId
}
number! {
    /// An L7 rule set; 0 means "none". Content-addressed: the same id always means the same content.
    L7Id
}
number! {
    /// A frontend of a service; never 0.
    ServiceId
}
number! {
    /// One compiled state, the same in kernel, proxy and view; 0 is before the first.
    Generation
}

impl Generation {
    /// The one after it. Numbers that a node can use up in its life do not reach the end.
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_number_is_written_and_read_as_a_bare_number() {
        let numbers = BTreeMap::from([(RuleId(7), IdentityId(256))]);
        let text = serde_json::to_string(&numbers).expect("written");
        assert_eq!(text, r#"{"7":256}"#);
        assert_eq!(serde_json::from_str(&text).ok(), Some(numbers));
        let (ours, bare) = (schemars::schema_for!(RuleId), schemars::schema_for!(u32));
        assert_eq!(ours, bare, "in schemas, too");
        assert_eq!(format!("{:>3}", Generation(7).next()), "  8");
    }
}
