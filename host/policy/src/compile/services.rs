//! Services with their backends.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::universe::Universe;
use crate::{
    compiled::{CompiledBackend, CompiledService, Frontend},
    follow::Delta,
    ids::{Interner, NoNumber, Number},
    objects::{Endpoint, Service, ServicePort, TargetPort},
    shared::{Map, set},
    terms::{EndpointId, Location, ServiceId},
};

/// Frontends of all services.
#[derive(Debug, Default)]
pub(super) struct Services {
    /// What each service made, by its name.
    made: BTreeMap<String, Made>,
    /// All frontends.
    pub(super) all: Map<Frontend, Arc<CompiledService>>,
    /// Services that select endpoints.
    selecting: BTreeSet<String>,
    /// Services that name an address as a backend.
    naming: HashMap<IpAddr, BTreeSet<String>>,
    /// Workloads of this node by address: those that live behind a device.
    workloads: HashMap<IpAddr, EndpointId>,
}

/// A service and the numbers of its frontends: one per address and port.
#[derive(Debug)]
struct Made {
    service: Arc<Service>,
    frontends: Vec<(Number, Frontend)>,
}

impl Services {
    /// Takes in what came and went. `universe` has the endpoints as they are by now.
    pub(super) fn follow(
        &mut self,
        news: &Delta<Service>,
        endpoints: &Delta<Endpoint>,
        universe: &Universe,
        numbers: &mut Interner,
    ) -> Result<(), NoNumber> {
        let coming: BTreeMap<String, &Arc<Service>> = news
            .come
            .iter()
            .map(|service| (service.meta.full_name(), service))
            .collect();
        for service in &news.gone {
            let name = service.meta.full_name();
            if let Some(made) = self.made.remove(&name) {
                self.forget(&name, &made.service);
                // One that comes again takes their place.
                if !coming.contains_key(&name) {
                    self.replace(&made.frontends, Vec::new());
                } else {
                    self.made.insert(name, made);
                }
            }
        }
        let moved = self.follow_workloads(endpoints, universe);
        for name in self.touched(endpoints, &moved) {
            let made = self.made.get(&name).map(|made| made.service.clone());
            if let Some(service) = made.filter(|_| !coming.contains_key(&name)) {
                self.make(name, &service, universe, numbers)?;
            }
        }
        for (name, service) in coming {
            self.note(&name, service);
            self.make(name, service, universe, numbers)?;
        }
        Ok(())
    }

    /// Services whose backends may be others now.
    fn touched(&self, endpoints: &Delta<Endpoint>, moved: &BTreeSet<IpAddr>) -> BTreeSet<String> {
        let selects = |name: &&String| {
            let selector = self
                .made
                .get(*name)
                .and_then(|m| m.service.selector.as_ref());
            let mut changed = endpoints.all();
            selector.is_some_and(|s| changed.any(|endpoint| s.matches(&endpoint.labels)))
        };
        let selecting = self.selecting.iter().filter(selects);
        let naming = moved.iter().filter_map(|address| self.naming.get(address));
        selecting.chain(naming.flatten()).cloned().collect()
    }

    fn note(&mut self, name: &str, service: &Service) {
        if service.selector.is_some() {
            self.selecting.insert(name.to_owned());
        }
        for backend in &service.backends {
            let naming = self.naming.entry(backend.address).or_default();
            naming.insert(name.to_owned());
        }
    }

    fn forget(&mut self, name: &str, service: &Service) {
        self.selecting.remove(name);
        for backend in &service.backends {
            if let Some(naming) = self.naming.get_mut(&backend.address) {
                naming.remove(name);
                if naming.is_empty() {
                    self.naming.remove(&backend.address);
                }
            }
        }
    }

    fn make(
        &mut self,
        name: String,
        service: &Arc<Service>,
        universe: &Universe,
        numbers: &mut Interner,
    ) -> Result<(), NoNumber> {
        let frontends = frontends(service, universe, &self.workloads, numbers)?;
        let before = self.made.remove(&name).map(|made| made.frontends);
        let frontends = self.replace(&before.unwrap_or_default(), frontends);
        let made = Made {
            service: service.clone(),
            frontends,
        };
        self.made.insert(name, made);
        Ok(())
    }

    /// Puts frontends in the place of others.
    fn replace(
        &mut self,
        before: &[(Number, Frontend)],
        now: Vec<(Number, Frontend, Arc<CompiledService>)>,
    ) -> Vec<(Number, Frontend)> {
        for (_, frontend) in before {
            if !now.iter().any(|(_, stays, _)| stays == frontend) {
                self.all.remove(frontend);
            }
        }
        let now = now.into_iter().map(|(number, frontend, compiled)| {
            set(&mut self.all, frontend.clone(), Some(compiled));
            (number, frontend)
        });
        now.collect()
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
                    self.workloads.insert(*address, EndpointId(placed.id.get()));
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
) -> Result<Vec<(Number, Frontend, Arc<CompiledService>)>, NoNumber> {
    let selected = selected(service, universe);
    let name: Arc<str> = service.meta.full_name().into();
    let mut frontends = Vec::new();
    let mut nth = 0;
    for port in &service.ports {
        for (_, address) in &service.addresses {
            let frontend = SocketAddr::new(*address, port.port);
            let key = format!("{name} {frontend}/{}", port.protocol);
            let number = numbers.get(&key)?;
            let compiled = CompiledService {
                port_name: port.name.clone(),
                name: full_name(service, port),
                id: ServiceId(number.get()),
                addr: *address,
                port: port.port,
                protocol: port.protocol,
                algorithm: service.algorithm,
                backends: backends(&selected, workloads, service, port, *address),
            };
            let frontend = Frontend {
                service: name.clone(),
                nth,
            };
            nth += 1;
            frontends.push((number, frontend, Arc::new(compiled)));
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
