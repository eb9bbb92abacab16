//! What is valid, but probably not what its author means.

mod names;
mod peers;
mod ports;
mod services;

use crate::{
    compiled::{Direction, Location},
    input::{Endpoint, Input, Meta},
    labels::Selector,
    problem::{Problem, Severity},
    rule::{At, Policy},
};

/// Looks at everything together; what one document shows alone is in
/// [`crate::Document::warnings`]. A finding that is an error leaves the document in force.
pub fn lint(input: &Input) -> Vec<Problem> {
    let mut warnings = Vec::new();
    let mut known = peers::Known::of(input);
    for policy in &input.policies {
        lint_subjects(input, policy, &mut warnings);
        lint_host_services(input, policy, &mut warnings);
        for spec in &policy.specs {
            // Of one that selects nobody that is all there is to say.
            if selects_nobody(input, &spec.subject) {
                continue;
            }
            peers::lint(&policy.meta, spec, &mut known, &mut warnings);
            ports::lint(&policy.meta, spec, &known, &mut warnings);
            names::lint(input, &policy.meta, spec, &mut warnings);
        }
    }
    lint_bindings(input, &mut known, &mut warnings);
    for service in &input.services {
        services::lint(input, service, &mut warnings);
    }
    lint_addresses(input, &mut warnings);
    lint_plugins(input, &mut warnings);
    warnings
}

/// Bindings of plugins that are not there, or read something else: they are in force and
/// their fail mode decides, which is nobody's wish.
fn lint_plugins(input: &Input, found: &mut Vec<Problem>) {
    for binding in &input.bindings {
        let reads = input.plugins.get(&binding.plugin);
        let problem = match reads {
            Some(reads) if *reads == binding.protocol => continue,
            Some(reads) => {
                let reads = reads.name();
                let hint = format!("set `protocol: {reads}`, or bind another plugin");
                let message = format!(
                    "the plugin reads {reads}, and the binding hands it {}",
                    binding.protocol.name()
                );
                binding.meta.problem(&binding.plugin_at, message, &hint)
            }
            None => {
                let installed: Vec<&str> = input.plugins.keys().map(String::as_str).collect();
                let hint = format!(
                    "put it into the plugins folder; installed: {}",
                    installed.join(", ")
                );
                let message =
                    "no plugin of this name is installed, so the fail mode decides".to_owned();
                binding.meta.problem(&binding.plugin_at, message, &hint)
            }
        };
        found.push(Problem {
            value: Some(binding.plugin.clone()),
            ..problem
        });
    }
}

/// Specs that apply to nobody, which is what a mistyped label looks like.
fn lint_subjects(input: &Input, policy: &Policy, warnings: &mut Vec<Problem>) {
    for spec in &policy.specs {
        if selects_nobody(input, &spec.subject) {
            warnings.push(warn(
                &policy.meta,
                &spec.subject_at,
                "selects no endpoint of this node, and so does nothing here".to_owned(),
                SELECTOR_HINT,
            ));
        }
    }
}

const SELECTOR_HINT: &str = "`tidegate endpoint list` shows namespaces and labels";

fn selects_nobody(input: &Input, selector: &Selector) -> bool {
    !input.endpoints.iter().any(|e| selector.matches(&e.labels))
}

/// The same for plugin bindings, and peers of theirs that nobody is.
fn lint_bindings(input: &Input, known: &mut peers::Known, warnings: &mut Vec<Problem>) {
    for binding in &input.bindings {
        if selects_nobody(input, &binding.subject) {
            let message = "selects no endpoint of this node, and so does nothing here".to_owned();
            let at = &binding.subject_at;
            warnings.push(warn(&binding.meta, at, message, SELECTOR_HINT));
        } else {
            for (at, selector) in binding.peers.iter().flatten() {
                warnings.extend(peers::nobody(&binding.meta, at, selector, known));
            }
        }
    }
}

/// Addresses that mean two things at once.
fn lint_addresses(input: &Input, warnings: &mut Vec<Problem>) {
    for endpoint in &input.endpoints {
        let is_workload = matches!(endpoint.location, Location::Interface(_));
        for (address, at) in endpoint.addresses() {
            if is_workload && (input.node_addresses.contains(&address) || address.is_loopback()) {
                let message = format!("{address} is the node's own address");
                let hint =
                    "a workload has addresses of its own; for a process of the node use `cgroup`";
                warnings.push(warn(&endpoint.meta, at, message, hint));
            }
        }
    }
    for service in &input.services {
        for (at, address) in &service.addresses {
            let of = |endpoint: &&Endpoint| endpoint.addresses.contains(address);
            if let Some(owner) = input.endpoints.iter().find(of) {
                let message = format!(
                    "{address} is the address of {}, which cannot be reached on these ports any more",
                    owner.meta.full_name()
                );
                let hint = "a service has an address that nobody else has";
                warnings.push(warn(&service.meta, at, message, hint));
            }
        }
    }
}

fn warn(meta: &Meta, at: &At, message: String, hint: &str) -> Problem {
    Problem {
        severity: Severity::Warning,
        ..meta.problem(at, message, hint)
    }
}

/// Ingress rules that select a host service: nothing enforces them.
fn lint_host_services(input: &Input, policy: &Policy, warnings: &mut Vec<Problem>) {
    for spec in &policy.specs {
        let Some(rule) = spec
            .rules
            .iter()
            .find(|r| r.direction == Direction::Ingress)
        else {
            continue;
        };
        let host_services = input
            .endpoints
            .iter()
            .filter(|e| matches!(e.location, Location::Cgroup(_)));
        for endpoint in host_services.filter(|e| spec.subject.matches(&e.labels)) {
            warnings.push(warn(
                &policy.meta,
                &rule.at,
                format!(
                    "ingress to the host service {} is not enforced",
                    endpoint.meta.full_name()
                ),
                "only egress is, for endpoints that are a cgroup",
            ));
        }
    }
}
