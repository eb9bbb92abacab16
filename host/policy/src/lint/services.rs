//! Services, or addresses of them, that lead nowhere.

use super::{SELECTOR_HINT, known::Known, warn};
use crate::{
    compile::target_port,
    objects::{Endpoint, Service, TargetPort},
    problem::Problem,
    protocol,
    terms::BackendState,
};

/// Looks at where a service leads.
pub(super) fn lint(service: &Service, known: &Known, warnings: &mut Vec<Problem>) {
    let meta = &service.meta;
    let selected: Option<Vec<&Endpoint>> = service.selector.as_ref().map(|selector| {
        let all = known.selected_by(selector);
        all.map(|endpoint| &**endpoint).collect()
    });
    let nothing = match &selected {
        Some(selected) if selected.is_empty() => {
            Some(("selects no endpoint of this node", SELECTOR_HINT))
        }
        None if service.backends.is_empty() => Some((
            "has no backend, so connections to it are refused",
            "write `selector` or `backends`",
        )),
        _ => None,
    };
    if let Some((message, hint)) = nothing {
        warnings.push(warn(meta, &service.backends_at, message.to_owned(), hint));
        return;
    }
    let selected = selected.unwrap_or_default();
    target_ports(service, &selected, warnings);
    let takes_new = |state, weight| state == BackendState::Active && weight > 0;
    let open = selected.iter().any(|endpoint| takes_new(endpoint.state, 1))
        || service
            .backends
            .iter()
            .any(|backend| takes_new(backend.state, backend.weight));
    if !open {
        let message = "no backend takes new connections".to_owned();
        let hint = "one with `state: active` and a weight above 0 does";
        warnings.push(warn(meta, &service.backends_at, message, hint));
    }
    let addresses = || {
        let of_endpoints = selected.iter().flat_map(|endpoint| &endpoint.addresses);
        of_endpoints.chain(service.backends.iter().map(|backend| &backend.address))
    };
    for (at, frontend) in &service.addresses {
        if !addresses().any(|address| address.is_ipv4() == frontend.is_ipv4()) {
            let family = if frontend.is_ipv4() { "IPv4" } else { "IPv6" };
            let message = format!("has no backend: none has an {family} address");
            let hint = "a backend is reached by an address of the frontend's family";
            warnings.push(Problem {
                value: Some(frontend.to_string()),
                ..warn(meta, at, message, hint)
            });
        }
    }
}

/// Names of target ports that backends do not have.
fn target_ports(service: &Service, selected: &[&Endpoint], warnings: &mut Vec<Problem>) {
    for port in &service.ports {
        let TargetPort::Name(name) = &port.target else {
            continue;
        };
        let without: Vec<String> = selected
            .iter()
            .filter(|endpoint| target_port(endpoint, port).is_none())
            .map(|endpoint| endpoint.meta.full_name())
            .collect();
        let by_address = service.backends.iter().filter(|b| b.port.is_none());
        let by_address = by_address.map(|backend| {
            let message = format!("has no port, and the service's is a name: {name}");
            let hint = "write `port` here: a name is looked up at endpoints only";
            warn(&service.meta, &backend.at, message, hint)
        });
        warnings.extend(by_address);
        if !without.is_empty() {
            let protocol = protocol::name(port.protocol);
            let message = match without.len() == selected.len() {
                true => format!("no endpoint it selects has a {protocol} port of this name"),
                false => format!(
                    "{} without a {protocol} port of this name",
                    without.join(", ")
                ),
            };
            let hint = "name the port in `spec.ports` of the Endpoint; without, it gets nothing";
            warnings.push(Problem {
                value: Some(name.clone()),
                ..warn(&service.meta, &port.target_at, message, hint)
            });
        }
    }
}
