use std::collections::BTreeMap;

use proptest::prelude::*;
use tidegate_ebpf_shared::addr::proto;
use tidegate_policy::compiled::{BackendState, ServiceId};

use super::*;

/// What the kernel has.
#[derive(Clone, Default)]
struct Kernel {
    services: HashMap<ServiceKey, ServiceEntry>,
    slots: HashMap<SlotKey, u32>,
    backends: HashMap<u32, Backend>,
    maglev: HashMap<u32, Vec<u32>>,
}

impl Kernel {
    fn seen(&self) -> Current<'_> {
        Current {
            services: &self.services,
            slots: &self.slots,
            backends: &self.backends,
            maglev: &self.maglev,
            maglev_limit: 8,
        }
    }

    /// Takes a step as `publish` does, and says what is known then.
    fn take(&mut self, plan: Plan) -> State {
        for (number, content) in plan.maglev {
            let in_use = self.services.values();
            let mut in_use = in_use.filter(|entry| entry.algorithm == algorithm::MAGLEV);
            assert!(
                in_use.all(|entry| entry.maglev != number),
                "{number} is read"
            );
            self.maglev.insert(number, content);
        }
        for (id, backend) in plan.backends.put {
            let before = self.backends.insert(id, backend);
            assert_eq!(before, None, "an id says what it said");
        }
        self.slots.extend(plan.slots.put);
        self.services.extend(plan.services.put);
        for key in plan.services.delete {
            assert!(self.services.remove(&key).is_some());
        }
        for key in plan.slots.delete {
            assert!(self.slots.remove(&key).is_some());
        }
        for id in plan.backends.delete {
            assert!(self.backends.remove(&id).is_some());
        }
        let in_use = self.services.values();
        let in_use = in_use.filter(|entry| entry.algorithm == algorithm::MAGLEV);
        let in_use: BTreeSet<u32> = in_use.map(|entry| entry.maglev).collect();
        self.maglev.retain(|number, _| in_use.contains(number));
        plan.state
    }

    /// What the programs read: by frontend its backends, whatever their ids are.
    fn says(&self) -> BTreeMap<ServiceKey, (u32, String, Vec<String>)> {
        let backend = |id: &u32| format!("{:?}", self.backends[id]);
        let services = self.services.iter().map(|(key, entry)| {
            let slots = self
                .slots
                .iter()
                .filter(|(slot, _)| slot.service == entry.id);
            let slots: BTreeMap<u32, String> =
                slots.map(|(slot, id)| (slot.slot, backend(id))).collect();
            // Places of a Maglev table hash backends by name: only their ids differ.
            let places = match entry.algorithm {
                algorithm::MAGLEV => self.maglev[&entry.maglev].iter().map(backend).collect(),
                _ => Vec::new(),
            };
            let said = format!("{} {} {slots:?}", entry.backends, entry.algorithm);
            (*key, (entry.id, said, places))
        });
        services.collect()
    }
}

type Said = (usize, bool, Vec<(u8, u32, bool, Option<EndpointId>)>);

fn service(n: u8, (address, is_maglev, backends): &Said) -> (Frontend, Arc<CompiledService>) {
    let backends = backends
        .iter()
        .map(|(addr, weight, is_active, workload)| CompiledBackend {
            addr: [10, 0, 0, *addr].into(),
            port: 80,
            weight: *weight,
            state: match is_active {
                true => BackendState::Active,
                false => BackendState::Terminating,
            },
            workload: *workload,
        });
    let mut backends: Vec<CompiledBackend> = backends.collect();
    backends.sort();
    backends.dedup_by_key(|backend| backend.addr);
    let service = CompiledService {
        port_name: None,
        name: format!("a/{n}"),
        id: ServiceId(u32::from(n) + 1),
        // Frontends may change places.
        addr: [10, 9, 0, *address as u8].into(),
        port: 80,
        protocol: if n.is_multiple_of(2) {
            proto::TCP
        } else {
            proto::UDP
        },
        algorithm: match is_maglev {
            true => Algorithm::Maglev,
            false => Algorithm::Random,
        },
        backends,
    };
    let frontend = Frontend {
        service: format!("a/{n}").into(),
        nth: 0,
    };
    (frontend, Arc::new(service))
}

/// By service what it says; each has an address of its own.
fn services() -> impl Strategy<Value = Map<Frontend, Arc<CompiledService>>> {
    let backend = (
        1..5_u8,
        0..3_u32,
        any::<bool>(),
        prop::option::of((1..4_u32).prop_map(EndpointId)),
    );
    let said = (any::<bool>(), prop::collection::vec(backend, 0..4));
    let some = prop::collection::btree_map(0..4_u8, said, 0..4);
    (some, Just([0_usize, 1, 2, 3]).prop_shuffle()).prop_map(|(some, places)| {
        let some = some.into_iter();
        some.map(|(n, (is_maglev, backends))| {
            service(n, &(places[usize::from(n)], is_maglev, backends))
        })
        .collect()
    })
}

proptest! {
    /// Whatever the generations were, whichever workloads came and went meanwhile, and
    /// wherever nothing is known of what was written, the kernel ends with what the last one
    /// says, and backends that stayed kept their ids.
    #[test]
    fn steps_lead_where_planning_from_scratch_leads(
        generations in prop::collection::vec(
            (
                prop::option::of(services()),
                prop::collection::btree_set(1..4_u32, 0..4),
                prop::bool::weighted(0.1),
            ),
            1..12,
        ),
    ) {
        let mut kernel = Kernel::default();
        let (mut known, mut before) = (None, Map::new());
        for (next, present, forgets) in generations {
            let is_there = |workload: EndpointId| present.contains(&workload.get());
            // Without a new generation it is workloads alone that came and went.
            let mut now = before.clone();
            if let Some(next) = next {
                let all: BTreeSet<Frontend> = before.keys().chain(next.keys()).cloned().collect();
                for frontend in all {
                    let service = next.get(&frontend).cloned();
                    shared::set(&mut now, frontend, service);
                }
            }
            let state: Option<State> = known.take().filter(|_| !forgets);
            let had = kernel.backends.clone();
            let plan = match state {
                Some(state) => step(
                    &state, (&before, &now), &mut (1..4).map(EndpointId), &is_there, &kernel.seen(),
                ),
                None => plan(&now, &is_there, &kernel.seen()),
            };
            known = Some(kernel.take(plan.expect("it fits")));

            let mut scratch = Kernel::default();
            let fresh = super::plan(&now, &is_there, &scratch.seen()).expect("it fits");
            let fresh = scratch.take(fresh);
            prop_assert_eq!(kernel.says(), scratch.says());
            // Nothing is left over.
            prop_assert_eq!(kernel.slots.len(), scratch.slots.len());
            prop_assert_eq!(kernel.backends.len(), scratch.backends.len());
            prop_assert_eq!(kernel.maglev.len(), scratch.maglev.len());
            let led = |state: &State| (state.presence.clone(), state.leads_to.clone());
            prop_assert_eq!(known.as_ref().map(led), Some(led(&fresh)), "nor of workloads");
            for (id, backend) in &had {
                let stays = kernel.backends.values().any(|stays| stays == backend);
                prop_assert!(!stays || kernel.backends.get(id) == Some(backend));
            }
            before = now;
        }
    }
}
