//! Numbers of backends and of Maglev tables: what the kernel knows keeps its own. Pure.

use std::collections::{BTreeSet, HashMap};

use tidegate_ebpf_shared::{
    addr::Addr,
    limits::MAGLEV_TABLE,
    maps::map,
    service::{Backend, ServiceEntry, algorithm, state},
};
use tidegate_policy::{
    compiled::{BackendState, CompiledBackend},
    shared::Map,
};

use super::Current;
use crate::{DatapathError, encode};

/// Backend ids: equal backends share one, and what the kernel knows keeps its own.
#[derive(Clone, Debug, Default)]
pub(super) struct BackendIds {
    ids: Map<BackendKey, u32>,
    known: Map<u32, Known>,
    last: u32,
    /// Given out since [`BackendIds::take_fresh`].
    fresh: BTreeSet<u32>,
}

/// A backend with an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    backend: Backend,
    /// Frontends that use it.
    users: usize,
}

impl BackendIds {
    pub(super) fn seeded(current: &HashMap<u32, Backend>) -> Self {
        let known = |(id, backend): (&u32, &Backend)| {
            let known = Known {
                backend: *backend,
                users: 0,
            };
            (*id, known)
        };
        Self {
            ids: current
                .iter()
                .map(|(id, backend)| (backend_key(backend), *id))
                .collect(),
            known: current.iter().map(known).collect(),
            last: current.keys().copied().max().unwrap_or(0),
            fresh: BTreeSet::new(),
        }
    }

    pub(super) fn id(&mut self, protocol: u8, backend: &CompiledBackend) -> u32 {
        let backend = encoded(protocol, backend);
        if let Some(id) = self.ids.get(&backend_key(&backend)) {
            return *id;
        }
        let id = self.unknown();
        self.ids.insert(backend_key(&backend), id);
        self.known.insert(id, Known { backend, users: 0 });
        self.fresh.insert(id);
        id
    }

    fn unknown(&mut self) -> u32 {
        loop {
            self.last = self.last.checked_add(1).unwrap_or(1);
            if !self.known.contains_key(&self.last) {
                return self.last;
            }
        }
    }

    pub(super) fn hold(&mut self, id: u32) {
        if let Some(known) = self.known.get_mut(&id) {
            known.users += 1;
        }
    }

    /// The backend, if that was its last user.
    pub(super) fn release(&mut self, id: u32) -> Option<(u32, Backend)> {
        let known = self.known.get_mut(&id)?;
        known.users -= 1;
        if known.users > 0 {
            return None;
        }
        let backend = known.backend;
        self.known.remove(&id);
        self.ids.remove(&backend_key(&backend));
        Some((id, backend))
    }

    /// Those that somebody uses.
    pub(super) fn used(&self) -> HashMap<u32, Backend> {
        let used = self.known.iter().filter(|(_, known)| known.users > 0);
        used.map(|(id, known)| (*id, known.backend)).collect()
    }

    /// Leaves to the kernel's table what nobody uses: it is deleted there.
    pub(super) fn forget_unused(&mut self) {
        self.fresh.clear();
        let known = self.known.iter();
        let unused: Vec<(u32, Backend)> = known
            .filter(|(_, known)| known.users == 0)
            .map(|(id, known)| (*id, known.backend))
            .collect();
        for (id, backend) in unused {
            self.known.remove(&id);
            // Two ids of one backend: the other one is in use.
            if self.ids.get(&backend_key(&backend)) == Some(&id) {
                self.ids.remove(&backend_key(&backend));
            }
        }
    }

    /// Those given out since the last time that somebody uses.
    pub(super) fn take_fresh(&mut self) -> HashMap<u32, Backend> {
        let fresh = std::mem::take(&mut self.fresh).into_iter();
        fresh
            .filter_map(|id| Some((id, self.known.get(&id)?.backend)))
            .collect()
    }
}

/// Numbers of Maglev tables. A changed table gets a number nobody reads yet, so a
/// hash never meets a half-written one.
pub(super) struct MaglevNumbers<'a> {
    current: &'a HashMap<u32, Vec<u32>>,
    in_use: Map<u32, usize>,
    given: BTreeSet<u32>,
    limit: u32,
    /// Tables to write, by number.
    pub(super) write: Vec<(u32, Vec<u32>)>,
}

impl<'a> MaglevNumbers<'a> {
    pub(super) fn new(current: &Current<'a>, in_use: Map<u32, usize>) -> Self {
        Self {
            current: current.maglev,
            in_use,
            given: BTreeSet::new(),
            limit: current.maglev_limit,
            write: Vec::new(),
        }
    }

    pub(super) fn number(
        &mut self,
        before: Option<&ServiceEntry>,
        content: Vec<u32>,
    ) -> Result<u32, DatapathError> {
        if let Some(before) = before.filter(|entry| entry.algorithm == algorithm::MAGLEV)
            && self.current.get(&before.maglev) == Some(&content)
        {
            return Ok(before.maglev);
        }
        let mut all = 0..self.limit;
        let free =
            all.find(|number| !self.in_use.contains_key(number) && !self.given.contains(number));
        let number = free.ok_or(DatapathError::Full {
            table: map::MAGLEV,
            needed: (self.limit as usize + 1) * MAGLEV_TABLE as usize,
            limit: self.limit * MAGLEV_TABLE,
        })?;
        self.given.insert(number);
        self.write.push((number, content));
        Ok(number)
    }
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
