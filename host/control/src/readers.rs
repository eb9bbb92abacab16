//! Rows of the readers' view, from what was compiled.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use tidegate_policy::{
    Origin, Source,
    compiled::{
        BackendState, Compiled, CompiledBackend, CompiledEndpoint, CompiledService, EndpointId,
        IdentityId, PolicyRow, Rehearsed, RuleId,
    },
    http_options::HttpOptions,
    labels::Selector,
    objects::{Body, Document, Endpoint},
    shared::Map,
};

use super::{
    documents::{Choice, Documents},
    standing::{EndpointState, PolicyState},
    view::{BackendView, EndpointView, PolicyView, PortView, ServiceView},
};

/// The rows that follow from the documents and what they were compiled to. Thousands of
/// them, so they are made again only when something of that has changed, and a service's
/// only when it has changed itself.
#[derive(Default)]
pub(super) struct Rows {
    pub(super) endpoints: Arc<Vec<EndpointView>>,
    pub(super) identities: Map<IdentityId, Arc<[String]>>,
    pub(super) services: Arc<Vec<Arc<ServiceView>>>,
    pub(super) policies: Arc<Vec<PolicyView>>,
    /// What the rows are about.
    compiled: Arc<Compiled>,
    /// Endpoints that were not in force.
    not_ready: BTreeMap<String, String>,
    /// Documents or the generation have changed since.
    pub(super) stale: bool,
}

impl Rows {
    /// Brings them up to date.
    pub(super) fn refresh(
        &mut self,
        compiled: &Arc<Compiled>,
        documents: &Documents,
        not_ready: &BTreeMap<String, String>,
    ) {
        if self.stale || self.not_ready != *not_ready {
            *self = Self {
                endpoints: Arc::new(endpoints(compiled, documents, not_ready)),
                identities: compiled.identities.clone(),
                services: Arc::new(self.services(compiled, not_ready)),
                policies: Arc::new(policies(compiled, documents)),
                compiled: compiled.clone(),
                not_ready: not_ready.clone(),
                stale: false,
            };
        }
    }

    /// Services, with why a backend gets no new connection where it does not.
    fn services(
        &self,
        compiled: &Compiled,
        not_ready: &BTreeMap<String, String>,
    ) -> Vec<Arc<ServiceView>> {
        let same_place = self.not_ready == *not_ready;
        let before = self.compiled.services.values().zip(&*self.services);
        let before: HashMap<*const CompiledService, &Arc<ServiceView>> = before
            .map(|(service, row)| (Arc::as_ptr(service), row))
            .collect();
        let services = compiled.services.values().map(|service| {
            // Whether a workload is there is not the service's to say.
            let of_workloads = || service.backends.iter().any(|b| b.workload.is_some());
            match before.get(&Arc::as_ptr(service)) {
                Some(row) if same_place || !of_workloads() => Arc::clone(row),
                _ => Arc::new(service_row(service, compiled, not_ready)),
            }
        });
        services.collect()
    }
}

/// Endpoints, with why they are not in force where they are not.
fn endpoints(
    compiled: &Compiled,
    documents: &Documents,
    not_ready: &BTreeMap<String, String>,
) -> Vec<EndpointView> {
    let ports: BTreeMap<String, Vec<PortView>> =
        documents.in_use().filter_map(named_ports).collect();
    let row = |(id, endpoint): (&EndpointId, &Arc<CompiledEndpoint>)| EndpointView {
        id: *id,
        name: endpoint.name.clone(),
        identity: endpoint.identity,
        labels: compiled
            .identities
            .get(&endpoint.identity)
            .map(|labels| labels.to_vec())
            .unwrap_or_default(),
        addresses: endpoint.addresses.clone(),
        ports: ports.get(&endpoint.name).cloned().unwrap_or_default(),
        location: endpoint.location.clone(),
        default_deny: endpoint.default_deny,
        state: match not_ready.get(&endpoint.name) {
            Some(why) => EndpointState::NotReady(why.clone()),
            None => EndpointState::Ready,
        },
        policy_entries: endpoint.table.len(),
    };
    compiled.endpoints.iter().map(row).collect()
}

fn service_row(
    service: &CompiledService,
    compiled: &Compiled,
    not_ready: &BTreeMap<String, String>,
) -> ServiceView {
    ServiceView {
        name: service.name.clone(),
        port_name: service.port_name.clone(),
        id: service.id,
        addr: service.addr,
        port: service.port,
        protocol: service.protocol,
        algorithm: service.algorithm,
        backends: service
            .backends
            .iter()
            .map(|backend| BackendView {
                addr: backend.addr,
                port: backend.port,
                weight: backend.weight,
                state: backend.state,
                workload: backend.workload,
                unusable: unusable(backend, compiled, not_ready),
            })
            .collect(),
    }
}

fn unusable(
    backend: &CompiledBackend,
    compiled: &Compiled,
    not_ready: &BTreeMap<String, String>,
) -> Option<String> {
    let workload = backend.workload.and_then(|id| compiled.endpoints.get(&id));
    let missing = workload.and_then(|workload| {
        let why = not_ready.get(&workload.name)?;
        Some(format!("endpoint {}: {why}", workload.name))
    });
    missing.or_else(|| match (backend.state, backend.weight) {
        (BackendState::Active, 0) => Some("weight 0".to_owned()),
        (BackendState::Active, _) => None,
        (BackendState::Terminating, _) => Some("terminating".to_owned()),
        (BackendState::Quarantined, _) => Some("quarantined".to_owned()),
        (BackendState::Maintenance, _) => Some("maintenance".to_owned()),
    })
}

/// An endpoint document's name, and its ports by name.
fn named_ports(document: &Document) -> Option<(String, Vec<PortView>)> {
    let Body::Endpoint(endpoint) = &document.body else {
        return None;
    };
    let ports = endpoint.ports.iter().map(|port| PortView {
        name: port.name.clone(),
        port: port.port,
        protocol: port.protocol,
    });
    Some((endpoint.meta.full_name(), ports.collect()))
}

/// Policies in use, with the endpoints in whose tables one of their rules decides, or, if
/// there is none, those they select.
fn policies(compiled: &Compiled, documents: &Documents) -> Vec<PolicyView> {
    let selected = selected(compiled);
    let last_good: BTreeSet<&Origin> = documents
        .files()
        .filter(|file| file.choice == Choice::LastGood)
        .map(|file| file.origin)
        .collect();
    let policies = documents.in_use().filter(|document| {
        matches!(
            document.body,
            Body::Policy(_) | Body::PluginBinding(_) | Body::DenyList(_)
        )
    });
    type Key<'k> = (&'k Source, &'k str, Option<&'k str>, &'k str);
    let mut rules_of: HashMap<Key<'_>, Vec<RuleId>> = HashMap::new();
    for (id, rule) in &compiled.rules {
        let source = rule.origin.source();
        let document = (
            source,
            &*rule.kind,
            rule.namespace.as_deref(),
            &*rule.policy,
        );
        rules_of.entry(document).or_default().push(*id);
    }
    let endpoints = documents
        .in_use()
        .filter_map(|document| match &document.body {
            Body::Endpoint(endpoint) => Some(&**endpoint),
            _ => None,
        });
    let endpoints: Vec<&Endpoint> = endpoints.collect();
    let row = |document: &Document| {
        let meta = document.meta();
        let source = meta.origin.source();
        let name = (source, meta.kind, meta.namespace.as_deref(), &*meta.name);
        let rules = rules_of.get(&name).map_or(&[][..], Vec::as_slice);
        let mut selects: BTreeSet<String> = rules
            .iter()
            .filter_map(|rule| selected.get(rule))
            .flatten()
            .map(|name| (*name).to_owned())
            .collect();
        // Where others say the same, their rules stand in the tables; how HTTP is carried
        // stands there under the rules it is carried for.
        let subjects: Vec<&Selector> = match &document.body {
            Body::Policy(policy) => policy.specs.iter().map(|spec| &spec.subject).collect(),
            Body::PluginBinding(binding) if binding.http != HttpOptions::default() => {
                vec![&binding.subject]
            }
            _ => Vec::new(),
        };
        if selects.is_empty() && !subjects.is_empty() {
            let is_selected =
                |endpoint: &&Endpoint| subjects.iter().any(|it| it.matches(&endpoint.labels));
            let names = endpoints.iter().copied().filter(is_selected);
            selects.extend(names.map(|endpoint| endpoint.meta.full_name()));
        }
        PolicyView {
            kind: meta.kind.to_owned(),
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            file: meta.origin.to_string(),
            selects: selects.into_iter().collect(),
            rules: rules.len(),
            enforcement: meta.enforcement,
            state: match last_good.contains(&meta.origin) {
                true => PolicyState::LastGood,
                false => PolicyState::Active,
            },
        }
    };
    policies.map(row).collect()
}

/// Endpoints by the rules that decide in their tables, those of their plugin chains included.
fn selected(compiled: &Compiled) -> BTreeMap<RuleId, BTreeSet<&str>> {
    // Replicas share a table.
    let mut rules_in: HashMap<*const PolicyRow, BTreeSet<RuleId>> = HashMap::new();
    let mut selected: BTreeMap<RuleId, BTreeSet<&str>> = BTreeMap::new();
    for endpoint in compiled.endpoints.values() {
        let rules = rules_in
            .entry(endpoint.table.as_ptr())
            .or_insert_with(|| deciding(&endpoint.table, compiled));
        for rule in &*rules {
            selected.entry(*rule).or_default().insert(&endpoint.name);
        }
    }
    selected
}

/// Rules that decide in a table.
fn deciding(table: &[PolicyRow], compiled: &Compiled) -> BTreeSet<RuleId> {
    let decisions: BTreeSet<_> = table
        .iter()
        .flat_map(|row| {
            let Rehearsed { rule, l7, .. } = row.decision.rehearsed();
            [(row.decision.rule, row.decision.l7), (rule, l7)]
        })
        .collect();
    let rules = decisions.into_iter().flat_map(|(rule, l7)| {
        let chain = compiled.l7.get(&l7).into_iter().flat_map(|set| &set.chain);
        chain.flat_map(|used| &used.rules).copied().chain([rule])
    });
    rules.collect()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use tidegate_policy::compiled::{DefaultDeny, Location};

    use super::*;

    #[test]
    fn why_a_backend_is_not_chosen_is_told() {
        let endpoint = CompiledEndpoint {
            name: "shop/web".into(),
            identity: IdentityId(256),
            location: Location::Interface("tg-web".into()),
            addresses: Vec::new(),
            fast_lane: false,
            default_deny: DefaultDeny::default(),
            table: Arc::default(),
        };
        let compiled = Compiled {
            endpoints: Map::unit(EndpointId(7), Arc::new(endpoint)),
            ..Compiled::default()
        };
        let missing = BTreeMap::from([("shop/web".to_owned(), "no device tg-web".to_owned())]);
        let there = BTreeMap::new();
        for (state, weight, not_ready, expected) in [
            (BackendState::Active, 1, &there, None),
            (BackendState::Active, 0, &there, Some("weight 0")),
            (BackendState::Terminating, 1, &there, Some("terminating")),
            (
                BackendState::Active,
                1,
                &missing,
                Some("endpoint shop/web: no device tg-web"),
            ),
        ] {
            let backend = CompiledBackend {
                addr: IpAddr::from([10, 0, 0, 1]),
                port: 80,
                weight,
                state,
                workload: Some(EndpointId(7)),
            };
            let told = unusable(&backend, &compiled, not_ready);
            assert_eq!(told.as_deref(), expected, "{state:?} {weight}");
        }
    }
}
