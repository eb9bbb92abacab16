//! What is valid, but probably not what its author means.

use crate::{
    compiled::{Direction, Location},
    input::{Endpoint, Input, Meta},
    labels::Selector,
    problem::{Problem, Severity},
    protocol,
    rule::{At, L7Rules, PeerSelector, Peers, Policy, PortRange, Rule, Traffic},
};

/// The port DNS servers listen on.
const DNS_PORT: u16 = 53;

/// Looks at everything together; what one document shows alone is in
/// [`crate::Document::warnings`]. A finding that is an error leaves the document in force.
pub fn lint(input: &Input) -> Vec<Problem> {
    let mut warnings = Vec::new();
    for policy in &input.policies {
        lint_subjects(input, policy, &mut warnings);
        lint_host_services(input, policy, &mut warnings);
        lint_names(input, policy, &mut warnings);
    }
    lint_selectors(input, &mut warnings);
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
                binding.meta.problem(
                    binding.plugin_at.line,
                    &binding.plugin_at.field(),
                    message,
                    &hint,
                )
            }
            None => {
                let installed: Vec<&str> = input.plugins.keys().map(String::as_str).collect();
                let hint = format!(
                    "put it into the plugins folder; installed: {}",
                    installed.join(", ")
                );
                let message =
                    "no plugin of this name is installed, so the fail mode decides".to_owned();
                binding.meta.problem(
                    binding.plugin_at.line,
                    &binding.plugin_at.field(),
                    message,
                    &hint,
                )
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
    for (index, spec) in policy.specs.iter().enumerate() {
        if selects_nobody(input, &spec.subject) {
            let path = match policy.specs.len() {
                1 => "spec.endpointSelector".to_owned(),
                _ => format!("specs[{index}].endpointSelector"),
            };
            let at = At {
                path,
                line: spec.line,
            };
            warnings.push(warn(
                &policy.meta,
                &at,
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

/// The same for plugin bindings and services.
fn lint_selectors(input: &Input, warnings: &mut Vec<Problem>) {
    let bindings = input.bindings.iter();
    let bindings = bindings.map(|b| (&b.meta, "spec.endpointSelector", Some(&b.subject)));
    let services = input.services.iter();
    let services = services.map(|s| (&s.meta, "spec.selector", s.selector.as_ref()));
    for (meta, path, selector) in bindings.chain(services) {
        if selector.is_some_and(|selector| selects_nobody(input, selector)) {
            let at = At {
                path: path.to_owned(),
                line: meta.line,
            };
            let message = "selects no endpoint of this node".to_owned();
            warnings.push(warn(meta, &at, message, SELECTOR_HINT));
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
        for address in &service.addresses {
            let of = |endpoint: &&Endpoint| endpoint.addresses.contains(address);
            if let Some(owner) = input.endpoints.iter().find(of) {
                let message = format!(
                    "{address} is the address of {}, which cannot be reached on these ports any more",
                    owner.meta.full_name()
                );
                let hint = "a service has an address that nobody else has";
                warnings.push(warn(
                    &service.meta,
                    &addresses_of(&service.meta),
                    message,
                    hint,
                ));
            }
        }
    }
}

fn addresses_of(meta: &Meta) -> At {
    At {
        path: "spec.addresses".to_owned(),
        line: meta.line,
    }
}

fn warn(meta: &Meta, at: &At, message: String, hint: &str) -> Problem {
    Problem {
        severity: Severity::Warning,
        ..meta.problem(at.line, &at.field(), message, hint)
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

/// Names that nobody will ever learn the addresses of, for want of a DNS rule.
fn lint_names(input: &Input, policy: &Policy, warnings: &mut Vec<Problem>) {
    for spec in &policy.specs {
        let Some(rule) = spec.rules.iter().find(|rule| names_peers(rule)) else {
            continue;
        };
        let subjects = input
            .endpoints
            .iter()
            .filter(|e| spec.subject.matches(&e.labels));
        for endpoint in subjects {
            if !rules_of(input, endpoint).any(has_dns_rule) {
                let by_plain_allow = rules_of(input, endpoint).any(allows_dns_unseen);
                let hint = if by_plain_allow {
                    "port 53 is allowed, but unseen: add rules.dns to it"
                } else {
                    "add an egress rule to the DNS server with rules.dns"
                };
                warnings.push(warn(
                    &policy.meta,
                    &rule.at,
                    format!(
                        "toFQDNs of {} stays without addresses: no DNS answer passes the proxy",
                        endpoint.meta.full_name()
                    ),
                    hint,
                ));
            }
        }
    }
}

fn names_peers(rule: &Rule) -> bool {
    match &rule.peers {
        Peers::Any => false,
        Peers::Of(list) => list.iter().any(|s| matches!(s, PeerSelector::Fqdn(_))),
    }
}

/// Egress rules that allow, of the documents that are enforced.
fn rules_of<'a>(input: &'a Input, endpoint: &'a Endpoint) -> impl Iterator<Item = &'a Rule> {
    // What is in shadow steers nothing, so nothing is learned by it.
    let enforced = input.policies.iter().filter(|p| !p.meta.is_shadow());
    let specs = enforced.flat_map(|p| &p.specs);
    specs
        .filter(|spec| spec.subject.matches(&endpoint.labels))
        .flat_map(|spec| &spec.rules)
        .filter(|rule| rule.direction == Direction::Egress && !rule.deny)
}

fn has_dns_rule(rule: &Rule) -> bool {
    match &rule.traffic {
        Traffic::All => false,
        Traffic::Of(items) => items.iter().any(|i| matches!(i.l7, Some(L7Rules::Dns(_)))),
    }
}

fn allows_dns_unseen(rule: &Rule) -> bool {
    match &rule.traffic {
        Traffic::All => true,
        Traffic::Of(items) => items.iter().filter(|i| i.l7.is_none()).any(|item| {
            item.ports.iter().any(|ports| {
                ports.protocols.contains(&protocol::UDP)
                    && match ports.range {
                        PortRange::All => true,
                        PortRange::Numbers(first, last) => (first..=last).contains(&DNS_PORT),
                        PortRange::Named(_) => false,
                    }
            })
        }),
    }
}
