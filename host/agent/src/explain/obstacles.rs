//! What on the node stands in the way of a flow, whatever policy says.

use tidegate_contract::{Concern, Family};
use tidegate_control::{
    standing::{EndpointState, ProxyState},
    view::{EndpointView, View},
};
use tidegate_ebpf_shared::{identity::reserved, policy::verdict};
use tidegate_observe::record::FlowVerdict;
use tidegate_policy::compiled::{IdentityId, Location};

use super::on_deny_list;

/// What may stand in the way of a flow that policy allows, or make the answer stale.
pub(super) fn obstacles(
    view: &View,
    answer: &tidegate_datapath::Explanation,
    verdict: FlowVerdict,
    host_service: bool,
) -> Vec<String> {
    let mut found = Vec::new();
    let endpoint = |id| view.endpoints.iter().find(|e| e.id == id);
    let ends = [&answer.source, &answer.destination].map(|end| endpoint(end.endpoint));
    for endpoint in ends
        .iter()
        .flatten()
        .filter(|e| e.state != EndpointState::Ready)
    {
        found.push(format!("endpoint {}: {}", endpoint.name, endpoint.state));
    }
    if verdict == FlowVerdict::Redirected && view.proxy.state != ProxyState::Serving {
        found.push(format!(
            "the proxy is not serving ({}): new connections wait for it",
            view.proxy.state
        ));
    }
    if view.generation != view.proxy_generation && verdict == FlowVerdict::Redirected {
        found.push(format!(
            "the kernel decides with generation {}, the proxy with {}",
            view.generation, view.proxy_generation
        ));
    }
    if answer.denied_answers {
        let rules = on_deny_list(&view.compiled, answer.destination.address);
        found.extend(rules.map(|rule| format!("answers are dropped: {rule}")));
    }
    // Nobody's rule denies it: what nobody can read any more may have.
    let by_no_rule = |step: &tidegate_datapath::Step| {
        step.entry.verdict == verdict::DEFAULT_DENY && step.entry.rule == 0
    };
    if answer.steps.iter().any(by_no_rule) {
        let unknown = view.problems.iter();
        let unknown = unknown.filter(|problem| problem.unready && problem.file.is_empty());
        found.extend(unknown.map(|problem| problem.message.clone()));
    }
    let asked = AskedFlow {
        steered: verdict == FlowVerdict::Redirected,
        family: Family::from(answer.source.address),
        names: ends.iter().flatten().map(|e| e.name.as_str()).collect(),
        devices: ends.iter().flatten().filter_map(|e| device(e)).collect(),
        others_devices: view.endpoints.iter().filter_map(device).collect(),
        outside: answer.source.outside || answer.destination.outside,
        node: [&answer.source, &answer.destination]
            .iter()
            .any(|end| end.identity == IdentityId(reserved::HOST)),
        sockets: host_service || answer.service.is_some(),
    };
    let notes = view.datapath.notes.iter();
    found.extend(
        notes
            .filter(|note| asked.is_concerned(&note.concerns))
            .map(ToString::to_string),
    );
    found
}

fn device(endpoint: &EndpointView) -> Option<&str> {
    match &endpoint.location {
        Location::Interface(device) => Some(device),
        Location::Cgroup(_) => None,
    }
}

/// What of a flow decides whether a note about the node concerns it.
#[derive(Debug)]
struct AskedFlow<'a> {
    steered: bool,
    family: Family,
    /// Endpoints at its ends.
    names: Vec<&'a str>,
    /// Their devices.
    devices: Vec<&'a str>,
    /// Devices of all endpoints.
    others_devices: Vec<&'a str>,
    /// An end is outside.
    outside: bool,
    /// An end is the node itself.
    node: bool,
    /// Decided or translated at a socket of the node.
    sockets: bool,
}

impl AskedFlow<'_> {
    fn is_concerned(&self, concern: &Concern) -> bool {
        match concern {
            Concern::NoFlow => false,
            Concern::Node => true,
            Concern::Steered { family, endpoint } => {
                let at_an_end = |endpoint: &String| self.names.contains(&endpoint.as_str());
                self.steered
                    && family.is_none_or(|family| family == self.family)
                    && endpoint.as_ref().is_none_or(at_an_end)
            }
            Concern::Outside => self.outside,
            Concern::Routed { family } => *family == self.family && !self.node,
            // An endpoint's device, or one by which packets come in from outside.
            Concern::Device { device } => {
                let device = device.as_str();
                let leads_outside = !self.others_devices.contains(&device);
                self.family == Family::Ipv4
                    && (self.devices.contains(&device) || self.outside && leads_outside)
            }
            Concern::Sockets => self.sockets,
        }
    }
}
