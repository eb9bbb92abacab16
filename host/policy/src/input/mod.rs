//! Files as people write them: documents, and everything they mean together.

mod binding;
pub(crate) mod cilium;
mod deny_list;
mod endpoint;
mod http_options;
mod meta;
mod reader;
mod service;
mod values;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize};

pub use self::{
    binding::PluginBinding,
    deny_list::DenyList,
    endpoint::{Endpoint, NamedPort},
    meta::{Enforcement, Meta},
    service::{Backend, Service, ServicePort, TargetPort},
};
pub(crate) use self::{
    meta::{ENFORCEMENT, ENFORCEMENTS, FOREIGN_METADATA},
    service::MAX_WEIGHT,
    values::parse_net,
};
use self::{
    meta::{Heading, Scope, read_meta},
    reader::{Cursor, Findings, or_one_of},
    values::{
        KEY_HINT, read_addr, read_label_map, read_label_value, read_net, read_protocol,
        read_string_map,
    },
};
use crate::{
    compiled::L7Protocol,
    origin::Origin,
    problem::Problem,
    rule::{L7Rules, Policy, Traffic},
    yaml,
};

/// Everything that is compiled into one generation. Documents are shared: the same one, not
/// an equal one, is what tells a compiler that nothing of it has changed.
#[derive(Clone, Debug, Default)]
pub struct Input {
    /// Workloads and host services on this node.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// Network policies.
    pub policies: Vec<Arc<Policy>>,
    /// Service frontends.
    pub services: Vec<Arc<Service>>,
    /// Prefixes refused on outside devices.
    pub deny_lists: Vec<Arc<DenyList>>,
    /// Plugins bound to ports.
    pub bindings: Vec<Arc<PluginBinding>>,
    /// Addresses of the node itself.
    pub node_addresses: Vec<IpAddr>,
    /// Installed plugins by name, and what they read; what `l7proto` may name.
    pub plugins: BTreeMap<String, L7Protocol>,
    /// When a direction without rules is unrestricted.
    pub mode: Mode,
}

impl Input {
    /// Adds a document to its kind.
    pub fn add(&mut self, document: Document) {
        match document.body {
            Body::Endpoint(endpoint) => self.endpoints.push(endpoint),
            Body::Policy(policy) => self.policies.push(policy),
            Body::Service(service) => self.services.push(service),
            Body::DenyList(list) => self.deny_lists.push(list),
            Body::PluginBinding(binding) => self.bindings.push(binding),
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

/// Reads all documents of one origin. Any error refuses it as a whole; all
/// errors that can be found are reported together.
pub fn parse_file(origin: impl Into<Origin>, text: &str) -> Result<Vec<Document>, Vec<Problem>> {
    let origin = &origin.into();
    let nodes = yaml::parse(origin, text).map_err(|problem| vec![*problem])?;
    let mut documents = Vec::new();
    let mut errors = Vec::new();
    for node in &nodes {
        let findings = Findings::new(origin);
        let body = read_document(origin, &Cursor::root(node, &findings));
        let (found, warnings) = findings.take();
        errors.extend(found);
        documents.extend(body.map(|body| Document { body, warnings }));
    }
    if errors.is_empty() {
        Ok(documents)
    } else {
        Err(errors)
    }
}

/// Entry for fuzzing: any bytes give documents or problems, never a panic.
pub fn fuzz_parse(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let mut input = Input::default();
        if let Ok(documents) = parse_file("fuzz.yaml", text) {
            documents
                .into_iter()
                .for_each(|document| input.add(document));
        }
        // Refusals are an answer too; only a panic would be a finding.
        let _ = crate::compile(&input, &mut crate::Ids::default());
        crate::lint(&input);
    }
}

pub(crate) const CILIUM: &str = "cilium.io/v2";
pub(crate) const TIDEGATE: &str = "tidegate.io/v1alpha1";

fn read_document(origin: &Origin, root: &Cursor<'_>) -> Option<Body> {
    let entries = root.entries()?;
    let field = |name: &str| entries.iter().find(|(key, _)| key == name).map(|(_, c)| c);
    let (Some(version), Some(kind)) = (field("apiVersion"), field("kind")) else {
        root.error(
            "`apiVersion` and `kind` must say what this document is",
            &format!("e.g. apiVersion: {CILIUM}, kind: CiliumNetworkPolicy"),
        );
        return None;
    };
    let heading = |kind_name, scope| Heading {
        origin,
        kind: kind_name,
        kind_at: kind.at(),
        scope,
    };
    let (version_name, kind_name) = (version.text(), kind.text());
    match (version_name?, kind_name?) {
        (CILIUM, "CiliumNetworkPolicy") => {
            let heading = heading("CiliumNetworkPolicy", Scope::OptionalNamespace);
            cilium::read(root, &heading).map(|read| Body::Policy(Arc::new(read)))
        }
        (CILIUM, "CiliumClusterwideNetworkPolicy") => {
            let heading = heading("CiliumClusterwideNetworkPolicy", Scope::Cluster);
            cilium::read(root, &heading).map(|read| Body::Policy(Arc::new(read)))
        }
        (TIDEGATE, "Endpoint") => {
            endpoint::read(root, &heading("Endpoint", Scope::DefaultNamespace))
                .map(|read| Body::Endpoint(Arc::new(read)))
        }
        (TIDEGATE, "Service") => service::read(root, &heading("Service", Scope::DefaultNamespace))
            .map(|read| Body::Service(Arc::new(read))),
        (TIDEGATE, "DenyList") => deny_list::read(root, &heading("DenyList", Scope::Cluster))
            .map(|read| Body::DenyList(Arc::new(read))),
        (TIDEGATE, "PluginBinding") => {
            binding::read(root, &heading("PluginBinding", Scope::DefaultNamespace))
                .map(|read| Body::PluginBinding(Arc::new(read)))
        }
        (_, name) => {
            match KINDS.iter().find(|(_, known)| *known == name) {
                Some((right, _)) => version.error(
                    format!("not the version of {name}"),
                    &format!("write apiVersion: {right}"),
                ),
                None => {
                    let known: Vec<&str> = KINDS.iter().map(|(_, known)| *known).collect();
                    kind.error("no such kind", &or_one_of(name, &known));
                }
            }
            None
        }
    }
}

/// Every kind, with its version.
const KINDS: [(&str, &str); 6] = [
    (CILIUM, "CiliumNetworkPolicy"),
    (CILIUM, "CiliumClusterwideNetworkPolicy"),
    (TIDEGATE, "Endpoint"),
    (TIDEGATE, "Service"),
    (TIDEGATE, "DenyList"),
    (TIDEGATE, "PluginBinding"),
];
