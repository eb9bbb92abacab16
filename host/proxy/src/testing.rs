//! A proxy's surroundings for tests: real kernel tables, and plugins that answer by
//! their names.

use std::{collections::BTreeMap, net::SocketAddr, rc::Rc, sync::Arc};

use tidegate_contract::{BindingStats, PluginStats, Snapshot};
use tidegate_ebpf_shared::{
    flow::{FlowEntry, flags},
    policy::verdict,
    steer::SteerOrigin,
};
use tidegate_policy::{
    compiled::{FailMode, FqdnSelector, Generation, IdentityId, L7Id, L7Protocol},
    shared::Map,
};

use super::{
    control::{Artifacts, Loader},
    decide::{Chain, tests::chain},
    state::{Plugins, Shared, State, View},
    tables::{Tables, kernel_addr, testing::descriptors},
};

/// Rule sets of one plugin each: id, protocol, name as in `decide::tests::ByName`.
pub(super) struct Sets(pub(super) Vec<(L7Id, L7Protocol, &'static str)>);

impl Plugins for Sets {
    fn chains(&self) -> BTreeMap<L7Id, Chain> {
        let sets = self.0.iter();
        sets.map(|(id, protocol, name)| {
            let chain = Chain {
                id: *id,
                protocol: *protocol,
                ..chain(id.get(), &[(name, FailMode::Closed)])
            };
            (*id, chain)
        })
        .collect()
    }

    fn stats(&self) -> BTreeMap<String, PluginStats> {
        BTreeMap::new()
    }

    fn bindings(&self) -> Vec<BindingStats> {
        Vec::new()
    }
}

/// Loads the same rule sets whatever the snapshot says, and refuses plugin `bad`.
pub(super) struct Fixed(pub(super) Vec<(L7Id, L7Protocol, &'static str)>);

impl Loader for Fixed {
    fn prepare(
        &mut self,
        snapshot: &Snapshot,
        _: &Artifacts,
    ) -> (Arc<dyn Plugins>, Vec<(String, String)>) {
        let refused = snapshot.plugins.keys().filter(|name| *name == "bad");
        let refused = refused.map(|name| (name.clone(), "it is bad".to_owned()));
        (Arc::new(Sets(self.0.clone())), refused.collect())
    }

    async fn news(&self) {
        std::future::pending().await
    }

    fn refresh(&mut self) -> Arc<dyn Plugins> {
        Arc::new(Sets(self.0.clone()))
    }

    fn held(&self) -> Vec<String> {
        Vec::new()
    }
}

/// A generation that learns names of `*.example` as identity 77.
pub(super) fn snapshot(generation: Generation) -> Snapshot {
    let selector = FqdnSelector::MatchPattern("*.example.".to_owned());
    Snapshot {
        generation,
        fqdn: Map::unit(IdentityId(77), selector),
        ..Snapshot::default()
    }
}

/// A worker's view of a generation with these rule sets, over tables of its own.
pub(super) fn view(
    generation: Generation,
    sets: Vec<(L7Id, L7Protocol, &'static str)>,
) -> Rc<View> {
    view_of(snapshot(generation), sets)
}

/// The same of any snapshot.
pub(super) fn view_of(snapshot: Snapshot, sets: Vec<(L7Id, L7Protocol, &'static str)>) -> Rc<View> {
    view_with(snapshot, sets, 2)
}

/// The same with room for this many addresses of names.
pub(super) fn view_with(
    snapshot: Snapshot,
    sets: Vec<(L7Id, L7Protocol, &'static str)>,
    addresses: u32,
) -> Rc<View> {
    let shared = Arc::new(Shared::default());
    let tables = Arc::new(Tables::open(descriptors(addresses)).unwrap());
    shared.publish(State::new(&snapshot, Arc::new(Sets(sets)), tables, None));
    Rc::new(View::new(shared).unwrap())
}

impl View {
    /// The next generation, as control would publish it.
    pub(super) fn advance(&self, sets: Vec<(L7Id, L7Protocol, &'static str)>) {
        let before = self.shared.latest().unwrap();
        self.shared.publish(State::new(
            &snapshot(before.generation.next()),
            Arc::new(Sets(sets)),
            before.tables.clone(),
            Some(&before),
        ));
    }

    /// Plays the kernel's part: admits a flow by these egress and ingress rule sets,
    /// asked for by rules 1 and 2.
    pub(super) fn admit(
        &self,
        (protocol, generation): (u8, u32),
        (source, destination): (SocketAddr, SocketAddr),
        sets: (u32, u32),
    ) {
        let shadow = (verdict::REDIRECT, 0);
        self.admit_with((protocol, generation), (source, destination), sets, shadow);
    }

    /// The same with a verdict and a rule if what is in shadow were enforced.
    pub(super) fn admit_with(
        &self,
        (protocol, generation): (u8, u32),
        (source, destination): (SocketAddr, SocketAddr),
        (egress_l7, ingress_l7): (u32, u32),
        (shadow_verdict, shadow_rule): (u8, u32),
    ) {
        let entry = FlowEntry {
            shadow_verdict,
            shadow_rule,
            generation,
            src_identity: 300,
            dst_identity: 301,
            src_endpoint: 3,
            dst_endpoint: 4,
            egress_rule: 1,
            ingress_rule: 2,
            egress_l7,
            ingress_l7,
            flags: flags::REDIRECT,
            ..FlowEntry::default()
        };
        let state = self.shared.latest().unwrap();
        state.tables.admit(protocol, source, destination, entry);
    }

    /// Plays the socket hook's part: a host service's datagrams from `peer` wanted to
    /// go to `destination`, and rule set `l7` decides about them.
    pub(super) fn steer(&self, protocol: u8, peer: SocketAddr, destination: SocketAddr, l7: u32) {
        let origin = SteerOrigin {
            dst: kernel_addr(destination.ip()),
            dst_port: destination.port().to_be_bytes(),
            protocol,
            endpoint: 3,
            src_identity: 300,
            dst_identity: 301,
            rule: 1,
            l7,
            generation: 1,
            ..SteerOrigin::default()
        };
        self.shared
            .latest()
            .unwrap()
            .tables
            .steer(protocol, peer, origin);
    }
}
