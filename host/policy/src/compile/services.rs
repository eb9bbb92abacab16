//! Services with their backends.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::universe::Universe;
use crate::{
    compiled::{CompiledBackend, CompiledService},
    follow::Delta,
    ids::{Exhausted, Interner, Number},
    objects::{Endpoint, Service, ServicePort, TargetPort},
    terms::{EndpointId, Location},
};

/// Frontends of all services, by the services' names.
#[derive(Debug, Default)]
pub(super) struct Services {
    made: BTreeMap<String, Made>,
    /// Workloads of this node by address: those that live behind a device.
    workloads: HashMap<IpAddr, EndpointId>,
}

/// A service and its frontends: one per address and port.
#[derive(Debug)]
struct Made {
    service: Arc<Service>,
    frontends: Vec<(Number, Arc<CompiledService>)>,
}

impl Services {
    /// All frontends.
    pub(super) fn all(&self) -> Vec<Arc<CompiledService>> {
        let frontends = self.made.values().flat_map(|made| &made.frontends);
        frontends.map(|(_, frontend)| frontend.clone()).collect()
    }

    /// Takes in what came and went. `universe` has the endpoints as they are by now.
    pub(super) fn follow(
        &mut self,
        news: &Delta<Service>,
        endpoints: &Delta<Endpoint>,
        universe: &Universe,
        numbers: &mut Interner,
    ) -> Result<(), Exhausted> {
        for service in &news.gone {
            self.made.remove(&service.meta.full_name());
        }
        let moved = self.follow_workloads(endpoints, universe);
        let touched = |service: &Service| {
            let by_selector = service.selector.as_ref().is_some_and(|selector| {
                let mut changed = endpoints.all();
                changed.any(|endpoint| selector.matches(&endpoint.labels))
            });
            let mut backends = service.backends.iter();
            by_selector
                || (!moved.is_empty() && backends.any(|backend| moved.contains(&backend.address)))
        };
        for made in self.made.values_mut() {
            if !endpoints.is_empty() && touched(&made.service) {
                made.frontends = frontends(&made.service, universe, &self.workloads, numbers)?;
            }
        }
        let mut come: Vec<&Arc<Service>> = news.come.iter().collect();
        come.sort_by_cached_key(|service| service.meta.full_name());
        for service in come {
            let made = Made {
                service: service.clone(),
                frontends: frontends(service, universe, &self.workloads, numbers)?,
            };
            self.made.insert(service.meta.full_name(), made);
        }
        Ok(())
    }

    /// Addresses that are another workload's than before.
    fn follow_workloads(
        &mut self,
        endpoints: &Delta<Endpoint>,
        universe: &Universe,
    ) -> BTreeSet<IpAddr> {
        let is_workload =
            |endpoint: &&Arc<Endpoint>| matches!(endpoint.location, Location::Interface(_));
        let mut moved = BTreeSet::new();
        for endpoint in endpoints.gone.iter().filter(is_workload) {
            for address in &endpoint.addresses {
                self.workloads.remove(address);
                moved.insert(*address);
            }
        }
        for endpoint in endpoints.come.iter().filter(is_workload) {
            let placed = universe.endpoints.get(&endpoint.meta.full_name());
            for (address, placed) in endpoint.addresses.iter().zip(std::iter::repeat(placed)) {
                if let Some(placed) = placed {
                    self.workloads.insert(*address, placed.id.get());
                    moved.insert(*address);
                }
            }
        }
        moved
    }
}

/// The frontends of a service.
fn frontends(
    service: &Service,
    universe: &Universe,
    workloads: &HashMap<IpAddr, EndpointId>,
    numbers: &mut Interner,
) -> Result<Vec<(Number, Arc<CompiledService>)>, Exhausted> {
    let selected = selected(service, universe);
    let mut frontends = Vec::new();
    for port in &service.ports {
        for (_, address) in &service.addresses {
            let frontend = SocketAddr::new(*address, port.port);
            let key = format!("{} {frontend}/{}", service.meta.full_name(), port.protocol);
            let number = numbers.get(&key)?;
            let compiled = CompiledService {
                port_name: port.name.clone(),
                name: full_name(service, port),
                id: number.get(),
                addr: *address,
                port: port.port,
                protocol: port.protocol,
                algorithm: service.algorithm,
                backends: backends(&selected, workloads, service, port, *address),
            };
            frontends.push((number, Arc::new(compiled)));
        }
    }
    Ok(frontends)
}

/// Endpoints that a service selects.
fn selected<'u>(service: &Service, universe: &'u Universe) -> Vec<&'u Arc<Endpoint>> {
    let Some(selector) = &service.selector else {
        return Vec::new();
    };
    let sets = universe.sets.iter().filter(|(identity, _)| {
        let peer = universe.peers.get(identity);
        peer.is_some_and(|peer| selector.matches(&peer.labels))
    });
    sets.flat_map(|(_, set)| set.members.values()).collect()
}

pub(super) fn full_name(service: &Service, port: &ServicePort) -> String {
    match &port.name {
        Some(port) if service.ports.len() > 1 => format!("{}:{port}", service.meta.full_name()),
        _ => service.meta.full_name(),
    }
}

/// Backends of the frontend's address family, sorted.
fn backends(
    selected: &[&Arc<Endpoint>],
    workloads: &HashMap<IpAddr, EndpointId>,
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
    let selected = selected.iter();
    backends.extend(selected.flat_map(|endpoint| of_endpoint(endpoint, workloads, port)));
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
    workloads: &HashMap<IpAddr, EndpointId>,
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
