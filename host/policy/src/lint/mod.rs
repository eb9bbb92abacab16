//! What is valid, but probably not what its author means.

mod known;
mod names;
mod peers;
mod ports;
mod services;
mod touches;

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use self::known::Known;
use crate::{
    follow::{Delta, Followed, address},
    l7::L7Protocol,
    objects::{Endpoint, Input, Meta, Mode, PluginBinding, Policy, Service},
    origin::At,
    problem::{Problem, Severity},
    terms::{Direction, Location},
};

/// Looks at everything together, from scratch: see [`Linter::lint`].
pub fn lint(input: &Input) -> Vec<Problem> {
    Linter::default().lint(input)
}

/// Looks at one state of the documents after the other. A document is looked at again when
/// it, or something that its findings depend on, has changed; what is found is what
/// [`lint()`] finds in the last state alone.
#[derive(Debug, Default)]
pub struct Linter {
    /// If it is another one, nothing of what was found counts.
    footing: Footing,
    endpoints: Followed<Endpoint>,
    policies: Followed<Policy>,
    services: Followed<Service>,
    bindings: Followed<PluginBinding>,
    known: Option<Known>,
    /// What was found, by document.
    found: HashMap<usize, Vec<Problem>>,
}

/// What every finding rests on.
#[derive(Debug, Default, PartialEq)]
struct Footing {
    mode: Mode,
    plugins: BTreeMap<String, L7Protocol>,
    node_addresses: Vec<IpAddr>,
}

impl Linter {
    /// Looks at everything together; what one document shows alone is in
    /// [`crate::Document::warnings`]. A finding that is an error leaves the document in force.
    pub fn lint(&mut self, input: &Input) -> Vec<Problem> {
        let footing = Footing {
            mode: input.mode,
            plugins: input.plugins.clone(),
            node_addresses: input.node_addresses.clone(),
        };
        if self.footing != footing {
            *self = Self {
                footing,
                ..Self::default()
            };
        }
        self.follow(input);
        let known = self.known.get_or_insert_with(|| Known::of(input));
        let mut warnings = Vec::new();
        let found = &mut self.found;
        let mut tell = |address, look: &mut dyn FnMut(&mut Vec<Problem>)| {
            let found = found.entry(address).or_insert_with(|| {
                let mut found = Vec::new();
                look(&mut found);
                found
            });
            warnings.extend_from_slice(found);
        };
        for policy in input.policies.values() {
            tell(address(policy), &mut |found| {
                of_policy(input, policy, known, found)
            });
        }
        for binding in input.bindings.values() {
            tell(address(binding), &mut |found| {
                of_binding(input, binding, known, found)
            });
        }
        for service in input.services.values() {
            tell(address(service), &mut |found| {
                of_service(service, known, found)
            });
        }
        for endpoint in input.endpoints.values() {
            tell(address(endpoint), &mut |found| {
                of_endpoint(input, endpoint, found)
            });
        }
        warnings
    }

    /// Forgets what was found in documents that are gone, and in those that what has changed
    /// may be about.
    fn follow(&mut self, input: &Input) {
        let endpoints = self.endpoints.look(input.endpoints.values());
        self.endpoints.accept(&endpoints);
        let policies = self.policies.look(input.policies.values());
        self.policies.accept(&policies);
        let services = self.services.look(input.services.values());
        self.services.accept(&services);
        let bindings = self.bindings.look(input.bindings.values());
        self.bindings.accept(&bindings);

        forget(&mut self.found, &endpoints);
        forget(&mut self.found, &policies);
        forget(&mut self.found, &services);
        forget(&mut self.found, &bindings);
        let changed: Vec<&Endpoint> = endpoints.all().map(|endpoint| &**endpoint).collect();
        if !changed.is_empty() {
            self.known = None;
        }
        let about = |is: &dyn Fn(&Endpoint) -> bool| changed.iter().any(|endpoint| is(endpoint));
        if !changed.is_empty() {
            for policy in input.policies.values() {
                if about(&|endpoint| touches::policy(policy, endpoint)) {
                    self.found.remove(&address(policy));
                }
            }
            for binding in input.bindings.values() {
                if about(&|endpoint| touches::binding(binding, endpoint)) {
                    self.found.remove(&address(binding));
                }
            }
            for service in input.services.values() {
                if about(&|endpoint| touches::service(service, endpoint)) {
                    self.found.remove(&address(service));
                }
            }
        }
        let changed: Vec<&Policy> = policies.all().map(|policy| &**policy).collect();
        if !changed.is_empty() {
            let known = self.known.get_or_insert_with(|| Known::of(input));
            let shared = known.subjects_of(&changed);
            for policy in input.policies.values() {
                if names::depend_on_others(policy) && known.applies_to(policy, &shared) {
                    self.found.remove(&address(policy));
                }
            }
        }
    }
}

fn forget<T>(found: &mut HashMap<usize, Vec<Problem>>, delta: &Delta<T>) {
    for object in &delta.gone {
        found.remove(&address(object));
    }
}

fn of_policy(input: &Input, policy: &Policy, known: &mut Known, warnings: &mut Vec<Problem>) {
    for spec in &policy.specs {
        if !known.selects_somebody(&spec.subject) {
            warnings.push(warn(
                &policy.meta,
                &spec.subject_at,
                NO_SUBJECT.to_owned(),
                SELECTOR_HINT,
            ));
        }
    }
    host_services(policy, known, warnings);
    for spec in &policy.specs {
        // Of one that selects nobody that is all there is to say.
        if known.selects_somebody(&spec.subject) {
            peers::lint(&policy.meta, spec, known, warnings);
            ports::lint(&policy.meta, spec, known, warnings);
            names::lint(input, &policy.meta, spec, known, warnings);
        }
    }
}

/// What mistyped labels look like.
const NO_SUBJECT: &str = "selects no endpoint of this node, and so does nothing here";
const SELECTOR_HINT: &str = "`tidegate endpoint list` shows namespaces and labels";

/// A binding of a plugin that is not there, or reads something else: it is in force and
/// its fail mode decides, which is nobody's wish.
fn plugin(input: &Input, binding: &PluginBinding) -> Option<Problem> {
    let plugin = binding.plugin.as_ref()?;
    let problem = match input.plugins.get(plugin) {
        Some(reads) if *reads == binding.protocol => return None,
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
            let message = "no plugin of this name is installed, so the fail mode decides";
            let at = &binding.plugin_at;
            binding.meta.problem(at, message.to_owned(), &hint)
        }
    };
    Some(Problem {
        value: Some(plugin.clone()),
        ..problem
    })
}

/// A binding that applies to nobody, and peers of it that nobody is.
fn of_binding(
    input: &Input,
    binding: &PluginBinding,
    known: &mut Known,
    warnings: &mut Vec<Problem>,
) {
    if known.selects_somebody(&binding.subject) {
        for (at, selector) in binding.peers.iter().flatten() {
            warnings.extend(peers::nobody(&binding.meta, at, selector, known));
        }
    } else {
        let at = &binding.subject_at;
        warnings.push(warn(
            &binding.meta,
            at,
            NO_SUBJECT.to_owned(),
            SELECTOR_HINT,
        ));
    }
    warnings.extend(plugin(input, binding));
}

/// A workload with an address that means two things at once.
fn of_endpoint(input: &Input, endpoint: &Endpoint, warnings: &mut Vec<Problem>) {
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

/// Where a service leads, and addresses of it that mean two things at once.
fn of_service(service: &Service, known: &Known, warnings: &mut Vec<Problem>) {
    services::lint(service, known, warnings);
    for (at, address) in &service.addresses {
        if let Some(owner) = known.endpoint_at(address) {
            let message = format!(
                "{address} is the address of {}, which cannot be reached on these ports any more",
                owner.meta.full_name()
            );
            let hint = "a service has an address that nobody else has";
            warnings.push(warn(&service.meta, at, message, hint));
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
fn host_services(policy: &Policy, known: &Known, warnings: &mut Vec<Problem>) {
    for spec in &policy.specs {
        let Some(rule) = spec
            .rules
            .iter()
            .find(|r| r.direction == Direction::Ingress)
        else {
            continue;
        };
        let subjects = known.selected_by(&spec.subject);
        for endpoint in subjects.filter(|e| matches!(e.location, Location::Cgroup(_))) {
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
