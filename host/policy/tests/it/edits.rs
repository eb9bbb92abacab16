//! Random sequences of edits: a compiler that has seen all states before makes of each what
//! one makes of it that has seen none, numbers, problems and warnings included.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use proptest::{prelude::*, sample::select};
use tidegate_policy::{
    Compiler, Document, Ids, Input, Linter, Mode, compile,
    compiled::{Compiled, L7Protocol},
    lint, parse_file,
};

use crate::{
    check,
    property::{SHADOW, document},
};

/// Endpoints in two or three versions each. Some contradict each other: an address, a place
/// or a name is claimed twice.
const ENDPOINTS: [&[(&str, &str)]; 6] = [
    &[
        (
            "a/one",
            "app: web}}|interface: e1, addresses: [10.0.0.1], ports: [{name: web, port: 80}]",
        ),
        (
            "a/one",
            "app: web}}|interface: e1, addresses: [10.0.0.1], ports: [{name: web, port: 8080}]",
        ),
        (
            "a/one",
            "app: db}}|interface: e1, addresses: [10.0.0.11, 'fd00::1'], state: maintenance",
        ),
    ],
    &[
        ("b/two", "app: web}}|interface: e2, addresses: [10.0.0.2]"),
        ("b/two", "app: web}}|cgroup: /two, addresses: [10.0.0.2]"),
    ],
    &[
        (
            "b/three",
            "app: web}}|interface: e3, addresses: ['fd00::3'], ports: [{name: web, port: 8080}]",
        ),
        (
            "b/three",
            "app: db}}|interface: e3, addresses: ['fd00::3'], fastLane: true",
        ),
    ],
    &[
        (
            "a/four",
            "app: db}}|interface: e4, addresses: [10.0.0.4], ports: [{name: web, port: 5432}]",
        ),
        (
            "a/four",
            "app: db, tier: x}}|interface: e5, addresses: [10.0.0.4]",
        ),
    ],
    &[("a/five", "app: web}}|interface: e1, addresses: [10.0.0.5]")],
    &[
        ("a/one", "app: twin}}|interface: e6, addresses: [10.0.0.6]"),
        (
            "a/six",
            "app: cache}}|interface: e6, addresses: [192.0.2.1]",
        ),
        ("a/six", "app: cache}}|interface: e6, addresses: [10.0.0.4]"),
    ],
];

/// Services, deny lists, and a policy that only an installed plugin can read.
const OTHERS: [&[&str]; 6] = [
    &[
        "kind: Service, metadata: {name: x, namespace: a}, spec: {addresses: [10.9.0.1], ports: \
         [{port: 80, targetPort: web, protocol: TCP}], selector: {app: web}}",
        "kind: Service, metadata: {name: x, namespace: a}, spec: {addresses: [10.9.0.1], ports: \
         [{port: 80, targetPort: web, protocol: TCP}], selector: {app: db}}",
        "kind: Service, metadata: {name: x, namespace: a}, spec: {addresses: [10.9.0.1, \
         'fd99::1'], ports: [{port: 80, protocol: TCP}], backends: [{address: 10.0.0.4}, \
         {address: 10.0.0.1, port: 81}]}",
    ],
    &[
        "kind: Service, metadata: {name: y, namespace: b}, spec: {addresses: [10.0.0.4, \
         10.9.0.2], algorithm: maglev, ports: [{port: 443, protocol: TCP}], selector: {app: web}}",
        "kind: Service, metadata: {name: y, namespace: b}, spec: {addresses: [10.9.0.1], ports: \
         [{port: 80, protocol: TCP}]}",
    ],
    &[
        "kind: Service, metadata: {name: z, namespace: a}, spec: {addresses: [10.9.0.3], ports: \
       [{port: 53, protocol: UDP}], backends: [{address: 10.0.0.5}, {address: 192.0.2.1}]}",
    ],
    &[
        "kind: DenyList, metadata: {name: bad}, spec: {cidrs: [203.0.113.0/24, 192.0.2.0/25]}",
        "kind: DenyList, metadata: {name: bad}, spec: {cidrs: [203.0.113.0/24]}",
    ],
    &["kind: DenyList, metadata: {name: worse}, spec: {cidrs: [192.0.2.0/25]}"],
    &[
        "kind: CiliumNetworkPolicy, metadata: {name: read, namespace: a}, spec: \
       {endpointSelector: {}, ingress: [{toPorts: [{ports: [{port: '90', protocol: TCP}], rules: \
       {l7proto: reader, l7: [{a: b}]}}]}]}",
    ],
];

fn one(file: &str, text: &str) -> Document {
    let mut read = parse_file(file, text).unwrap_or_else(|problems| panic!("{problems:?}\n{text}"));
    assert_eq!(read.len(), 1, "{text}");
    read.remove(0)
}

fn endpoint(version: usize, (name, rest): &(&str, &str)) -> Document {
    let (namespace, name) = name.split_once('/').expect("a namespace");
    let (labels, spec) = rest.split_once('|').expect("labels and spec");
    let head = "apiVersion: tidegate.io/v1alpha1\nkind: Endpoint\n";
    one(
        &format!("endpoints/{name}-{version}.yaml"),
        &format!(
            "{head}metadata: {{name: {name}, namespace: {namespace}, labels: {{{labels}\n\
             spec: {{{spec}}}\n"
        ),
    )
}

fn other(text: &&str) -> Document {
    let version = match text.contains("CiliumNetworkPolicy") {
        true => "cilium.io/v2",
        false => "tidegate.io/v1alpha1",
    };
    one(
        "others.yaml",
        &format!("{{apiVersion: {version}, {text}}}\n"),
    )
}

/// What may be in each place: nothing, or one of several versions of a document.
type Places = Vec<Vec<Document>>;

fn places() -> impl Strategy<Value = Places> {
    prop::collection::vec(document(), 6).prop_map(|random| {
        let mut places: Places = Vec::new();
        for versions in ENDPOINTS {
            places.push(
                versions
                    .iter()
                    .enumerate()
                    .map(|(n, v)| endpoint(n, v))
                    .collect(),
            );
        }
        for versions in OTHERS {
            places.push(versions.iter().map(other).collect());
        }
        for (place, pair) in random.chunks(2).enumerate() {
            let version = |(head, body): &(String, String), mode: &str| {
                let head = head.replace("NAME", &format!("name: p{place}"));
                one(
                    "random.yaml",
                    &format!("{}{body}", head.replace("MODE", mode)),
                )
            };
            places.push(vec![
                version(&pair[0], "labels: {}"),
                version(&pair[1], "labels: {}"),
                version(&pair[0], SHADOW),
            ]);
        }
        places
    })
}

#[derive(Clone, Copy, Debug)]
enum Edit {
    /// Another version of what is in a place, or none.
    Put(prop::sample::Index, Option<prop::sample::Index>),
    /// The same documents in another order.
    Reverse,
    Mode(Mode),
    /// Whether the plugin is installed.
    Plugin(bool),
    /// Whether the node has an address that a workload has, too.
    Address(bool),
}

fn edit() -> impl Strategy<Value = Edit> {
    let version = prop::option::weighted(0.8, any::<prop::sample::Index>());
    prop_oneof![
        20 => (any::<prop::sample::Index>(), version).prop_map(|(place, v)| Edit::Put(place, v)),
        2 => Just(Edit::Reverse),
        1 => select(&[Mode::Default, Mode::Always, Mode::Never][..]).prop_map(Edit::Mode),
        1 => any::<bool>().prop_map(Edit::Plugin),
        1 => any::<bool>().prop_map(Edit::Address),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 384, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn edits_give_what_compiling_from_scratch_gives(
        places in places(),
        edits in prop::collection::vec(edit(), 1..24),
    ) {
        let mut chosen: Vec<Option<usize>> = places.iter().map(|_| Some(0)).collect();
        // Of the endpoints, those that go together.
        (chosen[4], chosen[5]) = (None, None);
        let (mut compiler, mut linter) = (Compiler::default(), Linter::default());
        let mut ids = Ids::default();
        let mut reversed = false;
        let mut base = Input {
            plugins: BTreeMap::from([("reader".to_owned(), L7Protocol::Http)]),
            ..Input::default()
        };
        for edit in edits {
            match edit {
                Edit::Put(place, version) => {
                    let place = place.index(places.len());
                    chosen[place] = version.map(|version| version.index(places[place].len()));
                }
                Edit::Reverse => reversed = !reversed,
                Edit::Mode(mode) => base.mode = mode,
                Edit::Plugin(true) => _ = base.plugins.insert("reader".to_owned(), L7Protocol::Http),
                Edit::Plugin(false) => base.plugins.clear(),
                Edit::Address(true) => base.node_addresses = vec![IpAddr::from([10, 0, 0, 4])],
                Edit::Address(false) => base.node_addresses.clear(),
            }
            let chosen = chosen.iter().zip(&places);
            let mut documents: Vec<&Document> = chosen
                .filter_map(|(version, versions)| Some(&versions[(*version)?]))
                .collect();
            if reversed {
                documents.reverse();
            }
            let mut input = base.clone();
            documents.into_iter().cloned().for_each(|document| input.add(document));
            let from_scratch = compile(&input, &mut ids.clone());
            let sets = compiler.unnumbered(&input, &ids);
            ids.number(&sets).expect("numbers");
            let after_edits = compiler.compile(&input, &mut ids);
            prop_assert_eq!(after_edits, from_scratch, "{:?}", edit);
            prop_assert_eq!(linter.lint(&input), lint(&input), "{:?}", edit);
        }
    }
}

/// What a change has no influence on is not compiled again: it is the very thing it was.
#[test]
fn what_a_change_has_no_influence_on_is_the_same() {
    let group = |n: usize| {
        let endpoints: String = (0..3)
            .map(|e| {
                check::endpoint(
                    &format!("a/e{n}{e}"),
                    &format!("10.0.{n}.{e}"),
                    &format!("app: g{n}"),
                )
            })
            .collect();
        endpoints + &policy(n, 80) + &service(n, 80)
    };
    fn policy(n: usize, port: u16) -> String {
        format!(
            "---\n{{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {{name: g{n}, \
             namespace: a}}, spec: {{endpointSelector: {{matchLabels: {{app: g{n}}}}}, ingress: \
             [{{fromEndpoints: [{{matchLabels: {{app: g{n}}}}}], toPorts: [{{ports: [{{port: \
             '{port}', protocol: TCP}}]}}]}}]}}}}\n"
        )
    }
    fn service(n: usize, port: u16) -> String {
        format!(
            "---\n{{apiVersion: tidegate.io/v1alpha1, kind: Service, metadata: {{name: s{n}, \
             namespace: a}}, spec: {{addresses: [10.9.0.{n}], ports: [{{port: 80, targetPort: \
             {port}}}], selector: {{app: g{n}}}}}}}\n"
        )
    }
    let documents: Vec<Document> = (0..4)
        .flat_map(|n| parse_file(&*format!("g{n}.yaml"), &group(n)).expect("read"))
        .collect();
    let mut ids = Ids::default();
    let mut compiler = Compiler::default();
    let mut compile = |documents: &[Document]| {
        let mut input = Input::default();
        documents
            .iter()
            .cloned()
            .for_each(|document| input.add(document));
        let sets = compiler.unnumbered(&input, &ids);
        ids.number(&sets).expect("numbers");
        compiler.compile(&input, &mut ids).expect("compiles")
    };
    let put = |documents: &[Document], text: &str| -> Vec<Document> {
        let new = parse_file("changed.yaml", text).expect("read");
        let is_new = |document: &&Document| {
            let mut new = new.iter();
            new.any(|new| new.meta().key() == document.meta().key())
        };
        let stay = documents
            .iter()
            .filter(|document| !is_new(document))
            .cloned();
        stay.chain(new.clone()).collect()
    };
    let (mut documents, mut before) = (documents.clone(), compile(&documents));
    for (text, expected) in [
        // A service is nobody else's matter.
        (service(1, 81), "services a/s1"),
        // A policy, that of those it selects.
        (policy(1, 81), "endpoints a/e10 a/e11 a/e12, rules of g1"),
        // One more replica: its group's tables stay, its services have one backend more.
        (
            check::endpoint("a/e13", "10.0.1.3", "app: g1"),
            "endpoints a/e13, services a/s1",
        ),
        // An identity nobody asks for.
        (
            check::endpoint("a/e14", "10.0.1.4", "app: g1, tier: x"),
            "endpoints a/e10 a/e11 a/e12 a/e13 a/e14, services a/s1",
        ),
        (
            check::endpoint("a/stranger", "10.0.9.9", "app: stranger"),
            "endpoints a/stranger",
        ),
    ] {
        documents = put(&documents, &text);
        let now = compile(&documents);
        assert_eq!(others(&before, &now), expected, "{text}");
        before = now;
    }
}

/// What of a generation is not the very thing it was.
fn others(before: &Compiled, now: &Compiled) -> String {
    let endpoints = now.endpoints.iter().filter(|(id, endpoint)| {
        let before = before.endpoints.get(*id);
        before.is_none_or(|before| !Arc::ptr_eq(before, endpoint))
    });
    let services = now.services.values().filter(|service| {
        let mut before = before.services.values();
        !before.any(|before| Arc::ptr_eq(before, service))
    });
    let rules = now.rules.iter().filter(|(id, rule)| {
        let before = before.rules.get(*id);
        before.is_none_or(|before| !Arc::ptr_eq(before, rule))
    });
    let lists: [(&str, BTreeSet<&str>); 3] = [
        (
            "endpoints",
            endpoints.map(|(_, endpoint)| &*endpoint.name).collect(),
        ),
        ("services", services.map(|service| &*service.name).collect()),
        ("rules of", rules.map(|(_, rule)| &*rule.policy).collect()),
    ];
    let lists = lists.iter().filter(|(_, names)| !names.is_empty());
    let lists = lists.map(|(what, names)| {
        let names: Vec<&str> = names.iter().copied().collect();
        format!("{what} {}", names.join(" "))
    });
    lists.collect::<Vec<_>>().join(", ")
}
