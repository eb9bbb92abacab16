//! Rows of the readers' view, from what was compiled.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_policy::{
    compiled::{Compiled, Rehearsed},
    input::{Body, Document},
};

use super::{
    documents::{Choice, Documents},
    view::{EndpointView, PolicyView, PortView},
};

/// Endpoints, with why they are not in force where they are not.
pub(super) fn endpoints(
    compiled: &Compiled,
    documents: &Documents,
    not_ready: &BTreeMap<String, String>,
) -> Vec<EndpointView> {
    let ports: BTreeMap<String, Vec<PortView>> =
        documents.in_use().filter_map(named_ports).collect();
    let row = |(id, endpoint): (&u32, &tidegate_policy::compiled::CompiledEndpoint)| EndpointView {
        id: *id,
        name: endpoint.name.clone(),
        identity: endpoint.identity,
        labels: compiled
            .identities
            .get(&endpoint.identity)
            .cloned()
            .unwrap_or_default(),
        addresses: endpoint.addresses.clone(),
        ports: ports.get(&endpoint.name).cloned().unwrap_or_default(),
        location: endpoint.location.clone(),
        default_deny: endpoint.default_deny,
        state: not_ready
            .get(&endpoint.name)
            .cloned()
            .unwrap_or_else(|| "ready".to_owned()),
        policy_entries: endpoint.table.len(),
    };
    compiled.endpoints.iter().map(row).collect()
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

/// Policies in use, with the endpoints in whose tables one of their rules decides.
pub(super) fn policies(compiled: &Compiled, documents: &Documents) -> Vec<PolicyView> {
    let selected = selected(compiled);
    let last_good: BTreeSet<&str> = documents
        .files()
        .filter(|file| file.choice == Choice::LastGood)
        .map(|file| file.name)
        .collect();
    let policies = documents
        .in_use()
        .filter(|document| matches!(document.body, Body::Policy(_) | Body::PluginBinding(_)));
    let row = |meta: &tidegate_policy::input::Meta| {
        let of_policy = |rule: &tidegate_policy::compiled::RuleInfo| {
            rule.kind == meta.kind && rule.policy == meta.name && rule.namespace == meta.namespace
        };
        let rules: Vec<u32> = compiled
            .rules
            .iter()
            .filter(|(_, rule)| of_policy(rule))
            .map(|(id, _)| *id)
            .collect();
        let selects: BTreeSet<&str> = rules
            .iter()
            .filter_map(|rule| selected.get(rule))
            .flatten()
            .copied()
            .collect();
        PolicyView {
            kind: meta.kind.to_owned(),
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            file: meta.file.clone(),
            selects: selects.into_iter().map(str::to_owned).collect(),
            rules: rules.len(),
            enforcement: meta.enforcement,
            state: if last_good.contains(meta.file.as_str()) {
                "last good"
            } else {
                "active"
            }
            .to_owned(),
        }
    };
    policies.map(|document| row(document.meta())).collect()
}

/// Endpoints by the rules that decide in their tables, those of their plugin chains included.
fn selected(compiled: &Compiled) -> BTreeMap<u32, BTreeSet<&str>> {
    let mut selected: BTreeMap<u32, BTreeSet<&str>> = BTreeMap::new();
    for endpoint in compiled.endpoints.values() {
        let decisions: BTreeSet<_> = endpoint
            .table
            .iter()
            .flat_map(|row| {
                let Rehearsed { rule, l7, .. } = row.decision.rehearsed();
                [(row.decision.rule, row.decision.l7), (rule, l7)]
            })
            .collect();
        for (rule, l7) in decisions {
            let chain = compiled.l7.get(&l7).into_iter().flat_map(|set| &set.chain);
            for rule in chain.flat_map(|used| &used.rules).chain([&rule]) {
                selected.entry(*rule).or_default().insert(&endpoint.name);
            }
        }
    }
    selected
}
