//! Services with their backends.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use crate::{
    compiled::{CompiledBackend, CompiledService, EndpointId, IdentityId, Location},
    ids::{Exhausted, Interner},
    input::{Endpoint, Input, Service, ServicePort, TargetPort},
    problem::Problem,
    protocol,
};

/// All frontends, one per service address and port. `endpoints` has the id of each
/// endpoint of the input.
pub(super) fn compile(
    input: &Input,
    endpoints: &[(EndpointId, IdentityId)],
    numbers: &mut Interner,
    problems: &mut Vec<Problem>,
) -> Result<Vec<CompiledService>, Exhausted> {
    check_frontends(input, problems);
    let workloads = workloads(input, endpoints);
    let mut compiled = Vec::new();
    for service in super::by_name(&input.services, |s: &Service| s.meta.key()) {
        for port in &service.ports {
            for (_, address) in &service.addresses {
                let name = full_name(service, port);
                let frontend = (SocketAddr::new(*address, port.port), port.protocol);
                let key = format!(
                    "{} {}/{}",
                    service.meta.full_name(),
                    frontend.0,
                    port.protocol
                );
                compiled.push(CompiledService {
                    port_name: port.name.clone(),
                    name,
                    id: numbers.get(&key)?,
                    addr: *address,
                    port: port.port,
                    protocol: port.protocol,
                    algorithm: service.algorithm,
                    backends: backends(input, &workloads, service, port, *address),
                });
            }
        }
    }
    Ok(compiled)
}

/// Finds frontends that exist twice; the service that comes later in the input is at fault.
fn check_frontends(input: &Input, problems: &mut Vec<Problem>) {
    let mut frontends: BTreeMap<(SocketAddr, u8), String> = BTreeMap::new();
    for service in &input.services {
        for port in &service.ports {
            for (_, address) in &service.addresses {
                let frontend = (SocketAddr::new(*address, port.port), port.protocol);
                if let Some(owner) = frontends.get(&frontend) {
                    problems.push(service.meta.problem(
                        &port.port_at,
                        format!(
                            "{}/{} already belongs to {owner}",
                            frontend.0,
                            protocol::name(port.protocol)
                        ),
                        "a frontend belongs to one service",
                    ));
                } else {
                    frontends.insert(frontend, full_name(service, port));
                }
            }
        }
    }
}

fn full_name(service: &Service, port: &ServicePort) -> String {
    match &port.name {
        Some(port) if service.ports.len() > 1 => format!("{}:{port}", service.meta.full_name()),
        _ => service.meta.full_name(),
    }
}

/// Workloads of this node by address: those that live behind a device.
fn workloads(
    input: &Input,
    endpoints: &[(EndpointId, IdentityId)],
) -> BTreeMap<IpAddr, EndpointId> {
    let numbered = input.endpoints.iter().zip(endpoints);
    numbered
        .filter(|(endpoint, _)| matches!(endpoint.location, Location::Interface(_)))
        .flat_map(|(endpoint, (id, _))| endpoint.addresses.iter().map(|addr| (*addr, *id)))
        .collect()
}

/// Backends of the frontend's address family, sorted.
fn backends(
    input: &Input,
    workloads: &BTreeMap<IpAddr, EndpointId>,
    service: &Service,
    port: &ServicePort,
    frontend: IpAddr,
) -> Vec<CompiledBackend> {
    let mut backends: Vec<CompiledBackend> = service
        .backends
        .iter()
        .filter_map(|backend| {
            Some(CompiledBackend {
                addr: backend.address,
                port: match (backend.port, &port.target) {
                    (Some(port), _) => port,
                    (None, TargetPort::Number(port)) => *port,
                    // A name needs an endpoint to be looked up at.
                    (None, TargetPort::Name(_)) => return None,
                },
                weight: backend.weight,
                state: backend.state,
                workload: workloads.get(&backend.address).copied(),
            })
        })
        .collect();
    if let Some(selector) = &service.selector {
        let selected = input
            .endpoints
            .iter()
            .filter(|e| selector.matches(&e.labels));
        backends.extend(selected.flat_map(|endpoint| of_endpoint(endpoint, workloads, port)));
    }
    backends.retain(|backend| backend.addr.is_ipv4() == frontend.is_ipv4());
    backends.sort();
    backends.dedup_by_key(|backend| (backend.addr, backend.port));
    backends
}

/// The port of an endpoint that a service port leads to; `None` if it has none of the name.
pub(crate) fn target_port(endpoint: &Endpoint, port: &ServicePort) -> Option<u16> {
    match &port.target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => {
            let names = endpoint.port_names();
            let of_name = names.get(name).into_iter().flatten();
            let mut same = of_name.filter(|(protocol, _)| *protocol == port.protocol);
            same.next().map(|(_, number)| *number)
        }
    }
}

fn of_endpoint(
    endpoint: &Endpoint,
    workloads: &BTreeMap<IpAddr, EndpointId>,
    port: &ServicePort,
) -> Vec<CompiledBackend> {
    let Some(number) = target_port(endpoint, port) else {
        return Vec::new();
    };
    let of_address = |addr: &IpAddr| CompiledBackend {
        addr: *addr,
        port: number,
        weight: 1,
        state: endpoint.state,
        workload: workloads.get(addr).copied(),
    };
    endpoint.addresses.iter().map(of_address).collect()
}
