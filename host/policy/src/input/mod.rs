//! Files as people write them: documents, and everything they mean together.

mod binding;
mod cilium;
mod deny_list;
mod endpoint;
mod reader;
mod service;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::reader::{Cursor, Fields, Findings, all, optional, or_one_of};
pub(crate) use self::service::MAX_WEIGHT;
pub use self::{
    binding::PluginBinding,
    deny_list::DenyList,
    endpoint::{Endpoint, NamedPort},
    service::{Backend, Service, ServicePort, TargetPort},
};
use crate::{
    compiled::L7Protocol,
    label_syntax,
    labels::Key,
    problem::Problem,
    rule::{At, Policy},
    yaml,
};

/// Everything that is compiled into one generation.
#[derive(Clone, Debug, Default)]
pub struct Input {
    /// Workloads and host services on this node.
    pub endpoints: Vec<Endpoint>,
    /// Network policies.
    pub policies: Vec<Policy>,
    /// Service frontends.
    pub services: Vec<Service>,
    /// Prefixes refused on outside devices.
    pub deny_lists: Vec<DenyList>,
    /// Plugins bound to ports.
    pub bindings: Vec<PluginBinding>,
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
#[derive(Clone, Debug)]
pub struct Document {
    /// What it says.
    pub body: Body,
    /// What its author may not have meant.
    pub warnings: Vec<Problem>,
}

/// What a document says.
#[derive(Clone, Debug)]
pub enum Body {
    /// `tidegate.io/v1alpha1 Endpoint`.
    Endpoint(Endpoint),
    /// `cilium.io/v2 CiliumNetworkPolicy` or `CiliumClusterwideNetworkPolicy`.
    Policy(Policy),
    /// `tidegate.io/v1alpha1 Service`.
    Service(Service),
    /// `tidegate.io/v1alpha1 DenyList`.
    DenyList(DenyList),
    /// `tidegate.io/v1alpha1 PluginBinding`.
    PluginBinding(PluginBinding),
}

impl Document {
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

/// Name and origin of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// File, as the caller named it.
    pub file: String,
    /// Where the document begins.
    pub at: At,
    /// `kind:`.
    pub kind: &'static str,
    /// Where that was written.
    pub kind_at: At,
    /// Namespace; `None` for cluster-wide kinds.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// Where that was written.
    pub name_at: At,
    /// Is it in force, or only rehearsed?
    pub enforcement: Enforcement,
}

/// What becomes of what a document says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Enforcement {
    /// It is in force.
    #[default]
    Enforce,
    /// Everything is decided as if it were not there, and beside every decision stands
    /// what it would be if it were in force.
    Shadow,
}

impl Meta {
    /// Is it only rehearsed?
    pub fn is_shadow(&self) -> bool {
        self.enforcement == Enforcement::Shadow
    }

    /// Name of the document among all documents: `Kind namespace/name`.
    pub fn key(&self) -> String {
        format!("{} {}", self.kind, self.full_name())
    }

    /// `namespace/name`, or the name alone if it has no namespace.
    pub fn full_name(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{namespace}/{}", self.name),
            None => self.name.clone(),
        }
    }

    /// A problem of this document, at one place of it; an error unless it is made a warning.
    pub fn problem(&self, at: &At, message: String, hint: &str) -> Problem {
        Problem {
            file: self.file.clone(),
            document: Some(self.key()),
            line: at.line,
            column: at.column,
            field: at.path.clone(),
            value: None,
            message,
            hint: (!hint.is_empty()).then(|| hint.to_owned()),
            severity: crate::problem::Severity::Error,
        }
    }
}

/// Namespace of our own kinds when none is written.
const DEFAULT_NAMESPACE: &str = "default";

/// Reads all documents of one file. Any error refuses the file as a whole; all
/// errors that can be found are reported together.
pub fn parse_file(file: &str, text: &str) -> Result<Vec<Document>, Vec<Problem>> {
    let nodes = yaml::parse(file, text).map_err(|problem| vec![*problem])?;
    let mut documents = Vec::new();
    let mut errors = Vec::new();
    for node in &nodes {
        let findings = Findings::new(file);
        let body = read_document(file, &Cursor::root(node, &findings));
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

fn read_document(file: &str, root: &Cursor<'_>) -> Option<Body> {
    let entries = root.entries()?;
    let field = |name: &str| entries.iter().find(|(key, _)| key == name).map(|(_, c)| c);
    let (Some(version), Some(kind)) = (field("apiVersion"), field("kind")) else {
        root.error(
            "`apiVersion` and `kind` must say what this document is",
            &format!("e.g. apiVersion: {CILIUM}, kind: CiliumNetworkPolicy"),
        );
        return None;
    };
    let origin = |kind_name, scope| Origin {
        file,
        kind: kind_name,
        kind_at: kind.at(),
        scope,
    };
    let (version_name, kind_name) = (version.text(), kind.text());
    match (version_name?, kind_name?) {
        (CILIUM, "CiliumNetworkPolicy") => {
            let origin = origin("CiliumNetworkPolicy", Scope::OptionalNamespace);
            cilium::read(root, &origin).map(Body::Policy)
        }
        (CILIUM, "CiliumClusterwideNetworkPolicy") => {
            let origin = origin("CiliumClusterwideNetworkPolicy", Scope::Cluster);
            cilium::read(root, &origin).map(Body::Policy)
        }
        (TIDEGATE, "Endpoint") => {
            endpoint::read(root, &origin("Endpoint", Scope::DefaultNamespace)).map(Body::Endpoint)
        }
        (TIDEGATE, "Service") => {
            service::read(root, &origin("Service", Scope::DefaultNamespace)).map(Body::Service)
        }
        (TIDEGATE, "DenyList") => {
            deny_list::read(root, &origin("DenyList", Scope::Cluster)).map(Body::DenyList)
        }
        (TIDEGATE, "PluginBinding") => {
            binding::read(root, &origin("PluginBinding", Scope::DefaultNamespace))
                .map(Body::PluginBinding)
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

/// Where a document comes from and what its kind does with namespaces.
struct Origin<'a> {
    file: &'a str,
    kind: &'static str,
    kind_at: At,
    scope: Scope,
}

impl Origin<'_> {
    /// Can the kind be rehearsed? What there is (endpoints, services) is there or not, and
    /// the deny list is asked before anything that could tell of a second verdict.
    fn has_shadow(&self) -> bool {
        matches!(
            self.kind,
            "CiliumNetworkPolicy" | "CiliumClusterwideNetworkPolicy" | "PluginBinding"
        )
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// A missing namespace means "all of them".
    OptionalNamespace,
    /// A missing namespace means [`DEFAULT_NAMESPACE`].
    DefaultNamespace,
    /// The kind has no namespace.
    Cluster,
}

/// The annotation that says [`Enforcement`]; on kinds of others too, where no field could.
pub(crate) const ENFORCEMENT: &str = "tidegate.io/enforcement";
/// How [`ENFORCEMENT`] is written.
pub(crate) const ENFORCEMENTS: [(&str, Enforcement); 2] = [
    ("enforce", Enforcement::Enforce),
    ("shadow", Enforcement::Shadow),
];
/// Prefix of annotations that are meant for us.
const OWN_ANNOTATIONS: &str = "tidegate.io/";

/// Metadata that API servers add, or people; of no meaning here.
pub(crate) const FOREIGN_METADATA: [&str; 8] = [
    "creationTimestamp",
    "finalizers",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// Reads `metadata` and names the document in everything that is reported from now on.
fn read_meta<'a>(root: &Cursor<'a>, top: &Fields<'a>, origin: &Origin<'_>) -> Option<Meta> {
    let known: Vec<&str> = ["name", "namespace", "labels", "annotations"]
        .into_iter()
        .chain(FOREIGN_METADATA)
        .collect();
    let fields = top.required("metadata")?.fields(&known)?;
    let name_at = fields.required("name");
    let name = name_at.and_then(Cursor::word);
    let written = optional(fields.get("namespace"), None, |namespace| {
        read_namespace(namespace, origin)
    })?;
    let namespace = match origin.scope {
        Scope::DefaultNamespace => Some(written.unwrap_or(DEFAULT_NAMESPACE)),
        Scope::OptionalNamespace | Scope::Cluster => written,
    };
    let meta = Meta {
        file: origin.file.to_owned(),
        at: root.at(),
        kind: origin.kind,
        kind_at: origin.kind_at.clone(),
        namespace: namespace.map(str::to_owned),
        name: name?.to_owned(),
        name_at: name_at?.at(),
        enforcement: Enforcement::default(),
    };
    root.name_document(meta.key());
    let enforcement = match fields.get("annotations") {
        Some(annotations) => read_enforcement(annotations, origin)?,
        None => Enforcement::default(),
    };
    Some(Meta {
        enforcement,
        ..meta
    })
}

/// What our own annotations say. One that is mistyped is refused: it was to keep a
/// document from being enforced. Those of others are of no meaning here.
fn read_enforcement(annotations: &Cursor<'_>, origin: &Origin<'_>) -> Option<Enforcement> {
    let mut enforcement = Some(Enforcement::default());
    let own = annotations.entries()?.into_iter();
    for (key, value) in own.filter(|(key, _)| key.starts_with(OWN_ANNOTATIONS)) {
        if key != ENFORCEMENT {
            value.error("no such annotation", &format!("known here: {ENFORCEMENT}"));
        } else if origin.has_shadow() {
            enforcement = value.one_of(&ENFORCEMENTS);
        } else {
            value.error(
                format!("{} cannot be rehearsed", origin.kind),
                "on CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy and PluginBinding only",
            );
        }
    }
    enforcement
}

/// A namespace as written; the inner `None` if that is nothing.
#[expect(clippy::option_option, reason = "absent and unreadable are different")]
fn read_namespace<'a>(cursor: &Cursor<'a>, origin: &Origin<'_>) -> Option<Option<&'a str>> {
    let text = cursor.text()?;
    if text.is_empty() {
        return Some(None);
    }
    if let Err(reason) = label_syntax::check_namespace(text) {
        cursor.error(format!("not the name of a namespace: {reason}"), "");
        return None;
    }
    if origin.scope == Scope::Cluster {
        cursor.error(format!("{} has no namespace", origin.kind), "remove it");
        return None;
    }
    Some(Some(text))
}

/// A prefix, or a bare address as a full-length one; host bits are cleared, and
/// v4-mapped IPv6 is IPv4.
pub(crate) fn parse_net(text: &str) -> Option<IpNet> {
    let net = match text.parse::<IpNet>() {
        Ok(net) => net.trunc(),
        Err(_) => IpNet::from(parse_addr(text)?),
    };
    Some(match net {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => match v6.network().to_ipv4_mapped() {
            Some(v4) => IpNet::V4(Ipv4Net::new(v4, v6.prefix_len() - 96).ok()?),
            None => net,
        },
        _ => net,
    })
}

/// An address; v4-mapped IPv6 is IPv4.
pub(crate) fn parse_addr(text: &str) -> Option<IpAddr> {
    Some(match text.parse::<IpAddr>().ok()? {
        IpAddr::V6(v6) => unmap(v6),
        v4 => v4,
    })
}

fn unmap(address: Ipv6Addr) -> IpAddr {
    address
        .to_ipv4_mapped()
        .map_or(IpAddr::V6(address), IpAddr::V4)
}

fn read_addr(cursor: &Cursor<'_>) -> Option<IpAddr> {
    cursor.parsed("an IP address", parse_addr)
}

fn read_net(cursor: &Cursor<'_>) -> Option<IpNet> {
    cursor.parsed("a prefix like 10.0.0.0/8", parse_net)
}

/// What a label key looks like, for people.
const KEY_HINT: &str = "like `app`, `example.com/app` or `k8s:app`";

/// A selector's plain map of labels: keys, with or without a source, to values.
/// Everything that cannot be a label is reported.
fn read_label_map(cursor: &Cursor<'_>) -> Option<Vec<(Key, String)>> {
    let entries = cursor.entries()?;
    all(entries.iter().map(|(key, at)| {
        let parsed = Key::parse(key).map_err(|reason| {
            at.error(
                format!("`{key}` is not the key of a label: {reason}"),
                KEY_HINT,
            );
        });
        let value = match at.node().value {
            yaml::Value::Null => Some(String::new()),
            _ => read_label_value(at),
        };
        Some((parsed.ok()?, value?))
    }))
}

/// The value of a label.
fn read_label_value(cursor: &Cursor<'_>) -> Option<String> {
    let text = cursor.text()?;
    if let Err(reason) = label_syntax::check_value(text) {
        cursor.error(
            format!("not the value of a label: {reason}"),
            "values are compared whole; there are no wildcards",
        );
        return None;
    }
    Some(text.to_owned())
}

/// A plain map of words to words.
fn read_string_map(cursor: &Cursor<'_>) -> Option<BTreeMap<String, String>> {
    let entries = cursor.entries()?;
    let read = entries.iter().map(|(key, value)| {
        let value = match value.node().value {
            yaml::Value::Null => "",
            _ => value.text()?,
        };
        Some((key.clone(), value.to_owned()))
    });
    Some(all(read)?.into_iter().collect())
}

/// `TCP`, `UDP` or `SCTP`, in any case.
fn read_protocol(cursor: &Cursor<'_>) -> Option<u8> {
    let text = cursor.text()?.to_ascii_uppercase();
    match text.as_str() {
        "TCP" => Some(crate::protocol::TCP),
        "UDP" => Some(crate::protocol::UDP),
        "SCTP" => Some(crate::protocol::SCTP),
        _ => {
            cursor.error("no such protocol", "one of: TCP, UDP, SCTP");
            None
        }
    }
}
