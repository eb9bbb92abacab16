use tidegate_policy::compiled::{
    Decision, DefaultDeny, Direction, Generation, IdentityId, L7Id, PolicyRow, PortMatch, RuleId,
    Verdict,
};

use super::*;

/// An endpoint with one egress row per verdict given.
fn endpoint(verdicts: &[Verdict]) -> Arc<CompiledEndpoint> {
    let row = |(identity, verdict): (u32, &Verdict)| PolicyRow {
        identity: IdentityId(identity),
        direction: Direction::Egress,
        ports: PortMatch::Any,
        decision: Decision {
            verdict: *verdict,
            rule: RuleId(1),
            l7: L7Id(0),
            shadow: None,
        },
    };
    Arc::new(CompiledEndpoint {
        name: "default/web".into(),
        identity: IdentityId(256),
        location: Location::Interface("veth0".into()),
        addresses: Vec::new(),
        fast_lane: false,
        default_deny: DefaultDeny::default(),
        table: (0..).zip(verdicts).map(row).collect(),
    })
}

/// What the kernel has.
#[derive(Default)]
struct Kernel {
    endpoints: HashMap<u32, EndpointInfo>,
    rows: HashMap<PolicyKey, PolicyEntry>,
    generation: Generation,
    last_policy_id: u32,
}

/// Takes the step as `publish` does.
fn apply(
    current: &mut Kernel,
    generation: Generation,
    desired: &Map<EndpointId, Arc<CompiledEndpoint>>,
) {
    let plan = plan(desired, &|_| 0, generation, &current.seen());
    current.take(plan, generation);
}

impl Kernel {
    fn seen(&self) -> Current<'_> {
        Current {
            endpoints: &self.endpoints,
            rows: &self.rows,
            generation: self.generation,
            last_policy_id: self.last_policy_id,
        }
    }

    /// Takes a step as `publish` does, and says what is known then.
    fn take(&mut self, plan: Plan, generation: Generation) -> Option<State> {
        let current = self;
        current.endpoints.extend(plan.endpoints.put);
        current.rows.extend(plan.rows.put);
        current.generation = generation;
        current.last_policy_id = plan.last_policy_id;
        for id in plan.endpoints.delete {
            current.endpoints.remove(&id);
        }
        for key in plan.rows.delete {
            current.rows.remove(&key);
        }
        plan.state
    }

    /// What the programs read: by endpoint what its policy id says, and everything else
    /// of its entry.
    fn says(&self) -> BTreeMap<EndpointId, (Vec<(PolicyKey, PolicyEntry)>, EndpointInfo)> {
        let endpoints = self.endpoints.iter().map(|(id, info)| {
            let policy_id = info.policy_id[slot(self.generation)].to_be_bytes();
            let own = self.rows.iter();
            let own = own.filter(|(key, _)| key.policy_id == policy_id);
            let mut rows: Vec<_> = own
                .map(|(key, entry)| {
                    let key = PolicyKey {
                        policy_id: [0; 4],
                        ..*key
                    };
                    (key, *entry)
                })
                .collect();
            rows.sort_by_key(|(key, _)| *key);
            let info = EndpointInfo {
                policy_id: [0; 2],
                ..*info
            };
            (EndpointId(*id), (rows, info))
        });
        endpoints.collect()
    }

    fn ids_in_use(&self) -> BTreeSet<u32> {
        let used = slot(self.generation);
        let infos = self.endpoints.values();
        infos.map(|info| info.policy_id[used]).collect()
    }
}

/// By endpoint: what it may be, and one of few tables.
type Desired = BTreeMap<u32, (u32, usize)>;

fn desired(of: &Desired) -> Map<EndpointId, Arc<CompiledEndpoint>> {
    let tables: [&[Verdict]; 4] = [
        &[],
        &[Verdict::Allow],
        &[Verdict::Allow, Verdict::Deny],
        &[Verdict::Deny],
    ];
    let endpoints = of.iter().map(|(id, (identity, table))| {
        let mut endpoint = endpoint(tables[*table]);
        Arc::make_mut(&mut endpoint).identity = IdentityId(*identity);
        (EndpointId(*id), endpoint)
    });
    endpoints.collect()
}

proptest::proptest! {
    /// Whatever the generations were, and wherever nothing is known of what was written,
    /// the kernel ends with what the last one says, and rows that stayed kept their id.
    #[test]
    fn steps_lead_where_planning_from_scratch_leads(
        generations in proptest::collection::vec(
            (
                proptest::collection::btree_map(0..6_u32, (256..258_u32, 0..4_usize), 0..6),
                proptest::bool::weighted(0.1),
            ),
            1..12,
        ),
    ) {
        let mut kernel = Kernel::default();
        let (mut state, mut before) = (None, Map::new());
        for (generation, (of, forgets)) in (1..).map(Generation).zip(generations) {
            // What is the same is shared, as the compiler does it.
            let mut now = before.clone();
            let wanted = desired(&of);
            for id in (0..6).map(EndpointId) {
                shared::set(&mut now, id, wanted.get(&id).cloned());
            }
            let known: Option<State> = state.take().filter(|_| !forgets);
            let is_known = known.is_some();
            let ifindex = |endpoint: &CompiledEndpoint| endpoint.identity.get();
            let stepped = known.and_then(|known| {
                step(&known, (&before, &now), &ifindex, generation, &kernel.seen())
            });
            let plan = stepped
                .unwrap_or_else(|| plan(&now, &ifindex, generation, &kernel.seen()));
            let had = kernel.rows.clone();
            state = kernel.take(plan, generation);

            let mut scratch = Kernel::default();
            let fresh = super::plan(&now, &ifindex, Generation(1), &scratch.seen());
            scratch.take(fresh, Generation(1));
            proptest::prop_assert_eq!(kernel.says(), scratch.says());
            // Nothing is left over, and the same rows are there once.
            proptest::prop_assert_eq!(kernel.rows.len(), scratch.rows.len());
            proptest::prop_assert_eq!(kernel.ids_in_use().len(), scratch.ids_in_use().len());
            let rows = had.iter().filter(|(key, _)| kernel.rows.contains_key(*key));
            for (key, entry) in rows {
                proptest::prop_assert_eq!(&kernel.rows[key], entry, "an id says what it said");
            }
            for table in now.values().map(|endpoint| &endpoint.table) {
                let stayed = before.values().any(|before| before.table == *table);
                let id_in = |rows: &HashMap<PolicyKey, PolicyEntry>| {
                    let ids = rows.keys().map(|key| u32::from_be_bytes(key.policy_id));
                    let ids: BTreeSet<u32> = ids.collect();
                    ids.into_iter().find(|id| {
                        let wanted = encoded(*id, table);
                        is_in_place(*id, &wanted, rows, &count_by_policy(rows))
                    })
                };
                // From scratch an id is looked for where an endpoint had it.
                if stayed && is_known {
                    proptest::prop_assert_eq!(id_in(&had), id_in(&kernel.rows));
                }
            }
            before = now;
        }
    }
}

fn policy_id(current: &Kernel, endpoint: u32) -> u32 {
    current.endpoints[&endpoint].policy_id[slot(current.generation)]
}

#[test]
fn only_changed_endpoints_get_new_policy_ids() {
    let mut current = Kernel::default();
    let allow = endpoint(&[Verdict::Allow]);
    let mut desired = Map::from_iter([1, 2].map(|id| (EndpointId(id), allow.clone())));
    apply(&mut current, Generation(1), &desired);
    let shared = policy_id(&current, 1);
    assert!(shared != 0 && policy_id(&current, 2) == shared);
    assert_eq!(current.rows.len(), 1, "replicas share their rows");

    desired.insert(EndpointId(2), endpoint(&[Verdict::Allow, Verdict::Deny]));
    apply(&mut current, Generation(2), &desired);
    assert_eq!(policy_id(&current, 1), shared);
    assert!(policy_id(&current, 2) > shared);
    assert_eq!(current.rows.len(), 3);

    // The one that leaves does not take the rows of the others with it.
    desired.insert(EndpointId(2), allow);
    apply(&mut current, Generation(3), &desired);
    desired.remove(&EndpointId(1));
    apply(&mut current, Generation(4), &desired);
    assert_eq!(policy_id(&current, 2), shared);
    assert_eq!(current.rows.len(), 1);
}

#[test]
fn a_policy_id_is_not_used_again_when_its_endpoint_is_gone() {
    let mut current = Kernel::default();
    let desired = Map::unit(EndpointId(1), endpoint(&[Verdict::Allow]));
    apply(&mut current, Generation(1), &desired);
    let first = policy_id(&current, 1);
    apply(&mut current, Generation(2), &Map::new());
    assert!(current.rows.is_empty() && current.endpoints.is_empty());
    apply(&mut current, Generation(3), &desired);
    assert!(policy_id(&current, 1) > first);
}
