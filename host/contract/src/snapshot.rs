//! What the proxy decides with.

use std::{collections::BTreeSet, sync::Arc};

use serde::{Deserialize, Serialize};
use tidegate_policy::{
    compiled::{
        EndpointId, FqdnSelector, Generation, IdentityId, L7Id, L7RuleSet, PolicyRow, RuleId,
    },
    shared::Map,
};
use tidegate_wire::dns::rcode;

use crate::{Context, PluginInfo};

/// Everything the proxy decides with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Generation.
    pub generation: Generation,
    /// L7 rule sets.
    pub l7: Map<L7Id, Arc<L7RuleSet>>,
    /// Labels by identity.
    pub identities: Map<IdentityId, Arc<[String]>>,
    /// FQDN selectors to match answers against, and the identity each one grants.
    pub fqdn: Map<IdentityId, FqdnSelector>,
    /// Those of them that only documents in shadow ask for: what they would take of the
    /// table, the enforced ones take first.
    #[serde(default)]
    pub fqdn_in_shadow: BTreeSet<IdentityId>,
    /// Plugins by name.
    pub plugins: Map<String, PluginInfo>,
    /// Lower bound of a learned address's life, seconds.
    pub fqdn_min_ttl: u32,
    /// How a query for a name that no rule allows is answered.
    #[serde(default)]
    pub reject: Reject,
    /// Denials are only reported.
    #[serde(default)]
    pub audit: bool,
    /// What bindings accepted last, where that is not what `l7` and `plugins` say: a
    /// proxy that has not seen it at work serves them with it until it knows better.
    #[serde(default)]
    pub remembered: Vec<Remembered>,
    /// Egress rows about the world outside, see [`Compiled::outward`].
    ///
    /// [`Compiled::outward`]: tidegate_policy::compiled::Compiled::outward
    #[serde(default)]
    pub outward: Map<EndpointId, Arc<[PolicyRow]>>,
    /// What TLS is spoken with where it ends or begins here, by [`context_key`].
    ///
    /// [`context_key`]: crate::context_key
    #[serde(default)]
    pub contexts: Map<String, Context>,
}

impl Snapshot {
    /// Digests of the compiled plugins it names. Whoever has this snapshot holds the code
    /// of all of them, in use or not, and of no other.
    pub fn artifacts(&self) -> impl Iterator<Item = &String> {
        let remembered = self.remembered.iter().map(|kept| &kept.info);
        let all = self.plugins.values().chain(remembered);
        all.map(|info| &info.artifact)
    }
}

/// How a query for a name that no rule allows is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reject {
    /// REFUSED.
    #[default]
    Refused,
    /// NXDOMAIN.
    NameError,
}

impl Reject {
    /// Its RCODE.
    pub fn rcode(self) -> u8 {
        match self {
            Self::Refused => rcode::REFUSED,
            Self::NameError => rcode::NXDOMAIN,
        }
    }
}

/// A binding's last good version and configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// Plugin.
    pub plugin: String,
    /// The binding's rules, as in `PluginUse::rules`; with the plugin they name it.
    pub rules: Vec<RuleId>,
    /// Version.
    pub info: PluginInfo,
    /// Configuration.
    pub config: String,
}
