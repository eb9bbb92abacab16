//! Services, their backend slots and Maglev tables: what the next generation takes,
//! with the numbers the kernel already knows kept. Pure.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use tidegate_decide::service::member_slot;
use tidegate_ebpf_shared::{
    addr::{Addr, proto},
    limits::MAGLEV_TABLE,
    maps::map,
    service::{Backend, ServiceEntry, ServiceKey, SlotKey, algorithm, state},
};
use tidegate_policy::compiled::{
    Algorithm, BackendState, CompiledBackend, CompiledService, EndpointId,
};

use super::{
    DatapathError,
    diff::Change,
    encode,
    maglev::{self, Candidate},
};

/// Most slots one service takes to express its backends' weights.
const MAX_WEIGHT_SLOTS: u64 = 1_024;

/// What the kernel has.
pub(super) struct Current<'k> {
    /// The `SERVICES` table.
    pub(super) services: &'k HashMap<ServiceKey, ServiceEntry>,
    /// The `SLOTS` table.
    pub(super) slots: &'k HashMap<SlotKey, u32>,
    /// The `BACKENDS` table.
    pub(super) backends: &'k HashMap<u32, Backend>,
    /// Maglev tables in use, by number.
    pub(super) maglev: &'k HashMap<u32, Vec<u32>>,
    /// Maglev tables there is room for.
    pub(super) maglev_limit: u32,
}

/// What the next generation takes.
#[derive(Debug)]
pub(super) struct Plan {
    /// Changes of `SERVICES`.
    pub(super) services: Change<ServiceKey, ServiceEntry>,
    /// Changes of `SLOTS`.
    pub(super) slots: Change<SlotKey, u32>,
    /// Changes of `BACKENDS`.
    pub(super) backends: Change<u32, Backend>,
    /// Maglev tables to write, by number. None of them is in use yet.
    pub(super) maglev: Vec<(u32, Vec<u32>)>,
}

impl Plan {
    /// Does it change nothing?
    pub(super) fn is_empty(&self) -> bool {
        let nothing = |put: usize, delete: usize| put + delete == 0;
        nothing(self.services.put.len(), self.services.delete.len())
            && nothing(self.slots.put.len(), self.slots.delete.len())
            && nothing(self.backends.put.len(), self.backends.delete.len())
    }
}

/// Plans the step to these services. `is_there` says whether a workload has its device.
pub(super) fn plan(
    desired: &[Arc<CompiledService>],
    is_there: &dyn Fn(EndpointId) -> bool,
    current: &Current<'_>,
) -> Result<Plan, DatapathError> {
    let mut backends = BackendIds::seeded(current.backends);
    let mut tables = MaglevNumbers::seeded(current);
    let mut services = HashMap::new();
    let mut slots = HashMap::new();
    for service in desired {
        let key = ServiceKey {
            addr: encode::addr(service.addr),
            port: service.port.to_be_bytes(),
            protocol: service.protocol,
            pad: 0,
        };
        for backend in &service.backends {
            backends.id(service.protocol, backend);
        }
        let usable: Vec<(&CompiledBackend, u32)> = usable(&service.backends, is_there)
            .into_iter()
            .map(|backend| (backend, backends.id(service.protocol, backend)))
            .collect();
        let ids = weighted(&usable);
        for (slot, id) in ids.iter().enumerate() {
            let key = SlotKey {
                service: service.id,
                slot: slot as u32,
            };
            slots.insert(key, *id);
        }
        slots.extend(members(service, &mut backends, is_there));
        let mut entry = ServiceEntry {
            id: service.id,
            backends: ids.len() as u32,
            algorithm: algorithm::RANDOM,
            maglev: 0,
        };
        if service.algorithm == Algorithm::Maglev && !usable.is_empty() {
            let content = maglev::table(&candidates(service.protocol, &usable));
            entry.algorithm = algorithm::MAGLEV;
            entry.maglev = tables.number(current.services.get(&key), content)?;
        }
        services.insert(key, entry);
    }
    Ok(Plan {
        services: Change::between(current.services, &services),
        slots: Change::between(current.slots, &slots),
        backends: Change::between(current.backends, &backends.used),
        maglev: tables.write,
    })
}

/// Where a datagram socket finds that the backend it used before is still there: while
/// it is active, or terminating, which is to keep whom it serves.
fn members(
    service: &CompiledService,
    ids: &mut BackendIds,
    is_there: &dyn Fn(EndpointId) -> bool,
) -> Vec<(SlotKey, u32)> {
    let keeps = |backend: &&CompiledBackend| {
        service.protocol == proto::UDP
            && backend.workload.is_none_or(is_there)
            && matches!(
                backend.state,
                BackendState::Active | BackendState::Terminating
            )
    };
    let backends = service.backends.iter().filter(keeps);
    backends
        .map(|backend| {
            let addr = encode::addr(backend.addr);
            let slot = SlotKey {
                service: service.id,
                slot: member_slot(&addr, backend.port.to_be_bytes()),
            };
            (slot, ids.id(service.protocol, backend))
        })
        .collect()
}

/// Active backends; if there is none, those that terminate but still answer. One that
/// weighs nothing, or whose workload is not there, gets no connection in either case.
fn usable<'b>(
    backends: &'b [CompiledBackend],
    is_there: &dyn Fn(EndpointId) -> bool,
) -> Vec<&'b CompiledBackend> {
    let answers: Vec<&CompiledBackend> = backends
        .iter()
        .filter(|b| b.weight > 0 && b.workload.is_none_or(is_there))
        .collect();
    let of = |state| {
        let all = answers.iter().copied();
        all.filter(|b| b.state == state).collect::<Vec<_>>()
    };
    let active = of(BackendState::Active);
    if active.is_empty() {
        of(BackendState::Terminating)
    } else {
        active
    }
}

/// Backend ids with each repeated by its weight, in lowest terms. Weights that would
/// take more than [`MAX_WEIGHT_SLOTS`] are rounded, each to at least one slot.
fn weighted(backends: &[(&CompiledBackend, u32)]) -> Vec<u32> {
    let weights: Vec<u64> = backends
        .iter()
        .map(|(b, _)| b.weight.max(1).into())
        .collect();
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let sum: u64 = weights.iter().map(|weight| weight / divisor).sum();
    backends
        .iter()
        .zip(&weights)
        .flat_map(|((_, id), weight)| {
            let share = weight / divisor;
            let slots = if sum > MAX_WEIGHT_SLOTS {
                (share * MAX_WEIGHT_SLOTS / sum).max(1)
            } else {
                share
            };
            std::iter::repeat_n(*id, slots as usize)
        })
        .collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Backends with the names Cilium hashes.
fn candidates(protocol: u8, backends: &[(&CompiledBackend, u32)]) -> Vec<Candidate> {
    let protocol = match protocol {
        proto::TCP => "TCP",
        proto::UDP => "UDP",
        proto::SCTP => "SCTP",
        _ => "NONE",
    };
    backends
        .iter()
        .map(|(backend, id)| {
            let address = std::net::SocketAddr::new(backend.addr, backend.port);
            Candidate {
                name: format!("[{address}/{protocol},State:active]"),
                id: *id,
                weight: backend.weight,
            }
        })
        .collect()
}

fn encoded(protocol: u8, backend: &CompiledBackend) -> Backend {
    Backend {
        addr: encode::addr(backend.addr),
        port: backend.port.to_be_bytes(),
        protocol,
        state: match backend.state {
            BackendState::Active => state::ACTIVE,
            BackendState::Terminating => state::TERMINATING,
            BackendState::Quarantined => state::QUARANTINED,
            BackendState::Maintenance => state::MAINTENANCE,
        },
    }
}

/// What makes two backends one: everything the kernel knows of them.
type BackendKey = (Addr, [u8; 2], u8, u8);

fn backend_key(backend: &Backend) -> BackendKey {
    (backend.addr, backend.port, backend.protocol, backend.state)
}

/// Backend ids: equal backends share one, and what the kernel knows keeps its own.
struct BackendIds {
    ids: HashMap<BackendKey, u32>,
    taken: HashSet<u32>,
    used: HashMap<u32, Backend>,
    last: u32,
}

impl BackendIds {
    fn seeded(current: &HashMap<u32, Backend>) -> Self {
        Self {
            ids: current
                .iter()
                .map(|(id, backend)| (backend_key(backend), *id))
                .collect(),
            taken: current.keys().copied().collect(),
            used: HashMap::new(),
            last: current.keys().copied().max().unwrap_or(0),
        }
    }

    fn id(&mut self, protocol: u8, backend: &CompiledBackend) -> u32 {
        let backend = encoded(protocol, backend);
        let id = match self.ids.get(&backend_key(&backend)) {
            Some(id) => *id,
            None => {
                let id = self.fresh();
                self.ids.insert(backend_key(&backend), id);
                id
            }
        };
        self.used.insert(id, backend);
        id
    }

    fn fresh(&mut self) -> u32 {
        loop {
            self.last = self.last.checked_add(1).unwrap_or(1);
            if self.taken.insert(self.last) {
                return self.last;
            }
        }
    }
}

/// Numbers of Maglev tables. A changed table gets a number nobody reads yet, so a
/// hash never meets a half-written one.
struct MaglevNumbers<'a> {
    current: &'a HashMap<u32, Vec<u32>>,
    free: BTreeSet<u32>,
    limit: u32,
    write: Vec<(u32, Vec<u32>)>,
}

impl<'a> MaglevNumbers<'a> {
    fn seeded(current: &Current<'a>) -> Self {
        Self {
            current: current.maglev,
            free: (0..current.maglev_limit)
                .filter(|number| !current.maglev.contains_key(number))
                .collect(),
            limit: current.maglev_limit,
            write: Vec::new(),
        }
    }

    fn number(
        &mut self,
        before: Option<&ServiceEntry>,
        content: Vec<u32>,
    ) -> Result<u32, DatapathError> {
        if let Some(before) = before.filter(|entry| entry.algorithm == algorithm::MAGLEV)
            && self.current.get(&before.maglev) == Some(&content)
        {
            return Ok(before.maglev);
        }
        let number = self.free.pop_first().ok_or(DatapathError::Full {
            table: map::MAGLEV,
            needed: (self.limit as usize + 1) * MAGLEV_TABLE as usize,
            limit: self.limit * MAGLEV_TABLE,
        })?;
        self.write.push((number, content));
        Ok(number)
    }
}
