//! What documents say, once read: what is on this node, who may speak to whom, and where
//! each of it was written.

mod binding;
mod deny_list;
mod endpoint;
mod listed;
mod meta;
mod service;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize};

pub(crate) use self::service::MAX_WEIGHT;
pub use self::{
    binding::PluginBinding,
    deny_list::DenyList,
    endpoint::{Endpoint, NamedPort},
    listed::{Listed, Objects, Place},
    meta::{Enforcement, Meta},
    service::{Backend, Service, ServicePort, TargetPort},
};
use crate::{
    l7::L7Protocol,
    problem::Problem,
    rule::{L7Rules, Spec, Traffic},
};

/// Everything that is compiled into one generation. Documents are shared: the same one, not
/// an equal one, is what tells a compiler that nothing of it has changed. A copy costs nothing.
#[derive(Clone, Debug, Default)]
pub struct Input {
    /// Workloads and host services on this node.
    pub endpoints: Objects<Endpoint>,
    /// Network policies.
    pub policies: Objects<Policy>,
    /// Service frontends.
    pub services: Objects<Service>,
    /// Prefixes refused on outside devices.
    pub deny_lists: Objects<DenyList>,
    /// Plugins bound to ports.
    pub bindings: Objects<PluginBinding>,
    /// Addresses of the node itself.
    pub node_addresses: Vec<IpAddr>,
    /// Installed plugins by name, and what they read; what `l7proto` may name.
    pub plugins: BTreeMap<String, L7Protocol>,
    /// When a direction without rules is unrestricted.
    pub mode: Mode,
}

impl Input {
    /// Adds a document to its kind, behind those that were added before.
    pub fn add(&mut self, document: Document) {
        let kinds = [
            self.endpoints.len(),
            self.policies.len(),
            self.services.len(),
            self.deny_lists.len(),
            self.bindings.len(),
        ];
        let nth = kinds.iter().sum::<usize>() as u32;
        let place = Place {
            nth,
            ..Place::default()
        };
        self.put(place, &document);
    }

    /// The same with the objects of another one.
    #[must_use]
    pub fn of(self, objects: &Input) -> Self {
        Self {
            node_addresses: self.node_addresses,
            plugins: self.plugins,
            mode: self.mode,
            ..objects.clone()
        }
    }

    /// Puts a document into a place.
    pub fn put(&mut self, place: Place, document: &Document) {
        match &document.body {
            Body::Endpoint(endpoint) => _ = self.endpoints.insert(place, endpoint.into()),
            Body::Policy(policy) => _ = self.policies.insert(place, policy.into()),
            Body::Service(service) => _ = self.services.insert(place, service.into()),
            Body::DenyList(list) => _ = self.deny_lists.insert(place, list.into()),
            Body::PluginBinding(binding) => _ = self.bindings.insert(place, binding.into()),
        }
    }

    /// Takes a document out of the place where it was put.
    pub fn take(&mut self, place: &Place, document: &Document) {
        match &document.body {
            Body::Endpoint(_) => _ = self.endpoints.remove(place),
            Body::Policy(_) => _ = self.policies.remove(place),
            Body::Service(_) => _ = self.services.remove(place),
            Body::DenyList(_) => _ = self.deny_lists.remove(place),
            Body::PluginBinding(_) => _ = self.bindings.remove(place),
        }
    }
}

/// When a direction is in default deny.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// As soon as a rule selects the endpoint in that direction.
    #[default]
    Default,
    /// Always.
    Always,
    /// Never, and rules are not applied at all.
    Never,
}

/// A document that was read without errors.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// What it says.
    pub body: Body,
    /// What its author may not have meant.
    pub warnings: Vec<Problem>,
}

/// What a document says.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// `tidegate.io/v1alpha1 Endpoint`.
    Endpoint(Arc<Endpoint>),
    /// `cilium.io/v2 CiliumNetworkPolicy` or `CiliumClusterwideNetworkPolicy`.
    Policy(Arc<Policy>),
    /// `tidegate.io/v1alpha1 Service`.
    Service(Arc<Service>),
    /// `tidegate.io/v1alpha1 DenyList`.
    DenyList(Arc<DenyList>),
    /// `tidegate.io/v1alpha1 PluginBinding`.
    PluginBinding(Arc<PluginBinding>),
}

impl Document {
    /// Has it rules that the built-in Kafka matcher applies?
    pub fn reads_kafka(&self) -> bool {
        let Body::Policy(policy) = &self.body else {
            return false;
        };
        policy.specs.iter().any(|spec| {
            spec.rules.iter().any(|rule| match &rule.traffic {
                Traffic::All => false,
                Traffic::Of(items) => items
                    .iter()
                    .any(|item| matches!(item.l7, Some(L7Rules::Kafka(_)))),
            })
        })
    }

    /// Does it do nothing but let in what would be refused without it, once every endpoint is
    /// in default deny?
    pub fn only_lets_in(&self) -> bool {
        let Body::Policy(policy) = &self.body else {
            return false;
        };
        let mut rules = policy.specs.iter().flat_map(|spec| &spec.rules);
        rules.all(|rule| !rule.deny)
    }

    /// Name and origin.
    pub fn meta(&self) -> &Meta {
        match &self.body {
            Body::Endpoint(endpoint) => &endpoint.meta,
            Body::Policy(policy) => &policy.meta,
            Body::Service(service) => &service.meta,
            Body::DenyList(list) => &list.meta,
            Body::PluginBinding(binding) => &binding.meta,
        }
    }
}

/// A network policy document.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Name and origin.
    pub meta: Meta,
    /// `spec` and `specs`.
    pub specs: Vec<Spec>,
}
