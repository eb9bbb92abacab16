//! Services, their backend slots and Maglev tables: what the next generation takes,
//! with the numbers the kernel already knows kept. Pure.

mod choice;
mod ids;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use tidegate_ebpf_shared::service::{Backend, ServiceEntry, ServiceKey, SlotKey, algorithm};
use tidegate_policy::{
    compiled::{Algorithm, CompiledBackend, CompiledService, EndpointId, Frontend},
    shared::{self, Map},
};

use self::{
    choice::{candidates, members, usable, weighted},
    ids::{BackendIds, MaglevNumbers},
};
use crate::{DatapathError, diff::Change, encode, maglev};

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
    /// What the tables say when all of it is done.
    pub(super) state: State,
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

/// What the tables say, in terms of what was compiled. A copy costs nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    made: Map<Frontend, Arc<Made>>,
    backends: BackendIds,
    /// Frontends that use each Maglev table.
    maglev: Map<u32, usize>,
    /// Workloads that services lead to, and whether they were there.
    presence: Map<EndpointId, bool>,
    /// Frontends that lead to a workload.
    leads_to: Map<(EndpointId, Frontend), ()>,
}

/// What a frontend takes of the tables.
#[derive(Debug, PartialEq)]
struct Made {
    key: ServiceKey,
    entry: ServiceEntry,
    slots: HashMap<SlotKey, u32>,
    backends: BTreeSet<u32>,
    workloads: BTreeSet<EndpointId>,
}

/// Plans the step to these services, whatever the kernel has. `is_there` says whether a
/// workload has its device.
pub(super) fn plan(
    desired: &Map<Frontend, Arc<CompiledService>>,
    is_there: &dyn Fn(EndpointId) -> bool,
    current: &Current<'_>,
) -> Result<Plan, DatapathError> {
    let mut state = State {
        backends: BackendIds::seeded(current.backends),
        ..State::default()
    };
    let in_use = current.maglev.keys();
    let in_use = in_use.map(|number| (*number, 1_usize)).collect();
    let mut tables = MaglevNumbers::new(current, in_use);
    let (mut services, mut slots) = (HashMap::new(), HashMap::new());
    for (frontend, service) in desired {
        let made = state.make(service, is_there, current, &mut tables)?;
        services.insert(made.key, made.entry);
        slots.extend(&made.slots);
        state.put(frontend, made);
    }
    let used = state.backends.used();
    state.backends.forget_unused();
    Ok(Plan {
        services: Change::between(current.services, &services),
        slots: Change::between(current.slots, &slots),
        backends: Change::between(current.backends, &used),
        maglev: tables.write,
        state,
    })
}

/// Plans the same step where the kernel is known to have what `state` says, at the price of
/// what is different between `before` and `now`, and of the services that lead to a workload
/// that `may_have_moved`.
pub(super) fn step(
    state: &State,
    (before, now): (
        &Map<Frontend, Arc<CompiledService>>,
        &Map<Frontend, Arc<CompiledService>>,
    ),
    may_have_moved: &mut dyn Iterator<Item = EndpointId>,
    is_there: &dyn Fn(EndpointId) -> bool,
    current: &Current<'_>,
) -> Result<Plan, DatapathError> {
    let mut touched: BTreeSet<Frontend> = shared::changes(before, now)
        .map(|change| change.key.clone())
        .collect();
    for workload in may_have_moved {
        let was_there = state.presence.get(&workload);
        if was_there.is_some_and(|was_there| *was_there != is_there(workload)) {
            touched.extend(state.led_to(workload).cloned());
        }
    }
    let mut state = state.clone();
    let mut tables = MaglevNumbers::new(current, state.maglev.clone());
    let mut had = Tables::default();
    let mut wanted = Tables::default();
    let mut left = Vec::new();
    for frontend in touched {
        let made = now
            .get(&frontend)
            .map(|service| state.make(service, is_there, current, &mut tables))
            .transpose()?;
        if let Some(before) = state.take(&frontend) {
            had.add(&before);
            left.push(before);
        }
        if let Some(made) = made {
            wanted.add(&made);
            state.put(&frontend, made);
        }
    }
    // Only now: what one service leaves another one may have taken.
    let mut gone = HashMap::new();
    for made in left {
        gone.extend(state.leave(&made));
    }
    let fresh: HashMap<u32, Backend> = state.backends.take_fresh();
    Ok(Plan {
        services: Change::within(current.services.len(), &had.services, &wanted.services),
        slots: Change::within(current.slots.len(), &had.slots, &wanted.slots),
        backends: Change::within(current.backends.len(), &gone, &fresh),
        maglev: tables.write,
        state,
    })
}

/// A part of two of the tables.
#[derive(Default)]
struct Tables {
    services: HashMap<ServiceKey, ServiceEntry>,
    slots: HashMap<SlotKey, u32>,
}

impl Tables {
    fn add(&mut self, made: &Made) {
        self.services.insert(made.key, made.entry);
        self.slots.extend(&made.slots);
    }
}

impl State {
    /// Workloads that services lead to.
    pub(super) fn workloads(&self) -> impl Iterator<Item = EndpointId> {
        self.presence.keys().copied()
    }

    fn led_to(&self, workload: EndpointId) -> impl Iterator<Item = &Frontend> {
        let first = Frontend {
            service: "".into(),
            nth: 0,
        };
        let range = self.leads_to.range((workload, first)..);
        range
            .take_while(move |((of, _), ())| *of == workload)
            .map(|((_, frontend), ())| frontend)
    }

    /// What a frontend takes. Its backends get their ids.
    fn make(
        &mut self,
        service: &CompiledService,
        is_there: &dyn Fn(EndpointId) -> bool,
        current: &Current<'_>,
        tables: &mut MaglevNumbers<'_>,
    ) -> Result<Made, DatapathError> {
        let key = ServiceKey {
            addr: encode::addr(service.addr),
            port: service.port.to_be_bytes(),
            protocol: service.protocol,
            pad: 0,
        };
        let backends = service.backends.iter();
        let backends: BTreeSet<u32> = backends
            .map(|backend| self.backends.id(service.protocol, backend))
            .collect();
        let usable: Vec<(&CompiledBackend, u32)> = usable(&service.backends, is_there)
            .into_iter()
            .map(|backend| (backend, self.backends.id(service.protocol, backend)))
            .collect();
        let ids = weighted(&usable);
        let mut slots: HashMap<SlotKey, u32> = ids
            .iter()
            .zip(0..)
            .map(|(id, slot)| {
                let key = SlotKey {
                    service: service.id.get(),
                    slot,
                };
                (key, *id)
            })
            .collect();
        slots.extend(members(service, &mut self.backends, is_there));
        let mut entry = ServiceEntry {
            id: service.id.get(),
            backends: ids.len() as u32,
            algorithm: algorithm::RANDOM,
            maglev: 0,
        };
        if service.algorithm == Algorithm::Maglev && !usable.is_empty() {
            let content = maglev::table(&candidates(service.protocol, &usable));
            entry.algorithm = algorithm::MAGLEV;
            entry.maglev = tables.number(current.services.get(&key), content)?;
        }
        let workloads: BTreeSet<EndpointId> =
            service.backends.iter().filter_map(|b| b.workload).collect();
        for workload in &workloads {
            self.presence.insert(*workload, is_there(*workload));
        }
        Ok(Made {
            key,
            entry,
            slots,
            backends,
            workloads,
        })
    }

    fn put(&mut self, frontend: &Frontend, made: Made) {
        for backend in &made.backends {
            self.backends.hold(*backend);
        }
        for workload in &made.workloads {
            self.leads_to.insert((*workload, frontend.clone()), ());
        }
        if made.entry.algorithm == algorithm::MAGLEV {
            *self.maglev.entry(made.entry.maglev).or_default() += 1;
        }
        self.made.insert(frontend.clone(), Arc::new(made));
    }

    fn take(&mut self, frontend: &Frontend) -> Option<Arc<Made>> {
        let made = self.made.remove(frontend)?;
        for workload in &made.workloads {
            self.leads_to.remove(&(*workload, frontend.clone()));
        }
        Some(made)
    }

    /// What was made is used no more. Backends of which it was the last user.
    fn leave(&mut self, made: &Made) -> Vec<(u32, Backend)> {
        for workload in &made.workloads {
            if self.led_to(*workload).next().is_none() {
                self.presence.remove(workload);
            }
        }
        let number = made.entry.maglev;
        if made.entry.algorithm == algorithm::MAGLEV
            && let Some(users) = self.maglev.get_mut(&number)
        {
            *users -= 1;
            if *users == 0 {
                self.maglev.remove(&number);
            }
        }
        let backends = made.backends.iter();
        backends
            .filter_map(|backend| self.backends.release(*backend))
            .collect()
    }
}
