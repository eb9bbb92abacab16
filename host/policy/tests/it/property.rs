//! Random policies: the tables and the plain model agree about every packet that
//! could tell them apart.

use std::net::IpAddr;

use proptest::{
    prelude::*,
    sample::select,
    strategy::{BoxedStrategy, Union},
};
use tidegate_policy::{
    Document, Ids, Input, Mode, compile,
    compiled::{Decision, Direction, L7Protocol, Rehearsed},
    fuzz_parse, parse_file, protocol,
};

use crate::check::{Question, endpoint, in_words, normal, read};

/// Endpoints the policies are about: `b/two` and `b/three` share an identity but not
/// the number of the port `web`.
fn world() -> Input {
    let mut input = Input::default();
    let endpoints = [
        ("a/one", "10.0.0.1", "app: web", 80),
        ("a/four", "10.0.0.4", "app: db", 5432),
        ("b/two", "10.0.0.2", "app: web", 80),
        ("b/three", "fd00::3", "app: web", 8080),
    ];
    for (name, address, labels, web) in endpoints {
        let port = format!("spec: {{ports: [{{name: web, port: {web}}}], ");
        let text = endpoint(name, address, labels).replace("spec: {", &port);
        read(&mut input, "endpoints.yaml", &text);
    }
    input.node_addresses.push(IpAddr::from([10, 0, 0, 254]));
    input
}

/// Peers that lie on both sides of every boundary of the prefixes below.
const PEERS: [(&str, &[&str]); 13] = [
    ("10.0.0.1", &[]),
    ("10.0.0.4", &[]),
    ("10.0.0.2", &[]),
    ("fd00::3", &[]),
    ("10.0.0.254", &[]),
    ("192.0.2.1", &[]),
    ("192.0.2.127", &[]),
    ("192.0.2.128", &[]),
    ("192.0.3.0", &[]),
    ("2001:db8::1", &[]),
    ("2001:db9::1", &[]),
    ("192.0.2.1", &["www.example.com"]),
    ("2001:db9::1", &["example.com", "www.example.com"]),
];

/// Ports on both sides of every boundary of the ranges below.
const PORTS: [u16; 18] = [
    0, 1, 52, 53, 54, 79, 80, 81, 1023, 1024, 5432, 8079, 8080, 8081, 8443, 8444, 32768, 65535,
];

fn words(list: &'static [&'static str]) -> BoxedStrategy<String> {
    select(list).prop_map(str::to_owned).boxed()
}

fn selector() -> BoxedStrategy<String> {
    words(&[
        "{}",
        "{matchLabels: {app: web}}",
        "{matchLabels: {k8s:app: db}}",
        "{matchLabels: {app: web, io.kubernetes.pod.namespace: b}}",
        "{matchLabels: {reserved:host: ''}}",
        "{matchExpressions: [{key: app, operator: NotIn, values: [db]}]}",
        "{matchExpressions: [{key: app, operator: In, values: [db, web]}]}",
        "{matchExpressions: [{key: reserved:host, operator: DoesNotExist}]}",
        "{matchExpressions: [{key: k8s:io.kubernetes.pod.namespace, operator: NotIn, values: [b]}]}",
        "{matchExpressions: [{key: any:io.kubernetes.pod.namespace, operator: DoesNotExist}]}",
        "{matchExpressions: [{key: io.cilium.k8s.namespace.labels.x, operator: DoesNotExist}]}",
        "{matchExpressions: [{key: io.cilium.k8s.policy.cluster, operator: Exists}]}",
        "{matchExpressions: [{key: app, operator: DoesNotExist}, \
         {key: io.kubernetes.pod.namespace, operator: Exists}]}",
    ])
}

fn entity() -> BoxedStrategy<String> {
    words(&[
        "all",
        "none",
        "host",
        "world",
        "cluster",
        "remote-node",
        "world-ipv6",
    ])
}

fn cidr_set() -> BoxedStrategy<String> {
    words(&[
        "{cidr: 192.0.2.0/24}",
        "{cidr: 192.0.2.0/24, except: [192.0.2.128/25]}",
        "{cidr: 192.0.2.0/24, except: [192.0.2.0/25, 192.0.2.128/32]}",
        "{cidr: 0.0.0.0/0, except: [10.0.0.0/8]}",
        "{cidr: ::/0, except: ['2001:db8::/32']}",
    ])
}

fn cidr() -> BoxedStrategy<String> {
    words(&[
        "0.0.0.0/0",
        "'::/0'",
        "192.0.2.1",
        "192.0.0.0/16",
        "10.0.0.0/8",
        "'2001:db8::/32'",
    ])
}

fn list(key: &'static str, item: BoxedStrategy<String>) -> BoxedStrategy<String> {
    prop::collection::vec(item, 0..3)
        .prop_map(move |items| format!("{key}: [{}], ", items.join(", ")))
        .boxed()
}

/// The L3 part of a rule; `way` is `from` or `to`.
fn peers(egress: bool, deny: bool) -> BoxedStrategy<String> {
    let key = |from, to| if egress { to } else { from };
    let mut choices = vec![
        (3, Just(String::new()).boxed()),
        (4, list(key("fromEndpoints", "toEndpoints"), selector())),
        (2, list(key("fromEntities", "toEntities"), entity())),
        (2, list(key("fromCIDR", "toCIDR"), cidr())),
        (2, list(key("fromCIDRSet", "toCIDRSet"), cidr_set())),
    ];
    if egress && !deny {
        let names = words(&[
            "{matchName: example.com}",
            "{matchPattern: '*.example.com'}",
        ]);
        choices.push((2, list("toFQDNs", names)));
    }
    Union::new_weighted(choices).boxed()
}

fn port() -> BoxedStrategy<String> {
    words(&[
        "{port: '80', protocol: TCP}",
        "{port: '80'}",
        "{port: '53', protocol: UDP}",
        "{port: '53'}",
        "{port: '0', protocol: TCP}",
        "{port: '1', endPort: 1023, protocol: TCP}",
        "{port: '80', endPort: 8080}",
        "{port: '8080', endPort: 65535, protocol: UDP}",
        "{port: '0', protocol: ANY}",
        "{port: web, protocol: TCP}",
        "{port: web}",
        "{port: nowhere, protocol: TCP}",
    ])
}

fn http() -> BoxedStrategy<String> {
    words(&[
        "[{method: GET}]",
        "[{path: /a}, {method: GET}]",
        "[{headers: ['X: 1']}]",
        "[{}]",
        "[]",
    ])
}

/// One item of `toPorts`. HTTP and DNS keep to ports of their own, so that nothing
/// is in conflict.
fn to_ports(egress: bool, deny: bool) -> BoxedStrategy<String> {
    let plain = prop::collection::vec(port(), 0..3)
        .prop_map(|ports| format!("{{ports: [{}]}}", ports.join(", ")))
        .boxed();
    if deny {
        return plain;
    }
    let http_port = words(&[
        "{port: '80', protocol: TCP}",
        "{port: '80', endPort: 8080, protocol: TCP}",
        "{port: web, protocol: TCP}",
    ]);
    let http = (http_port, http())
        .prop_map(|(port, rules)| format!("{{ports: [{port}], rules: {{http: {rules}}}}}"))
        .boxed();
    // On a port of their own, which is also said plainly: the same range or another.
    let asking = words(&[
        ", serverNames: [a.example.com]",
        ", serverNames: ['*.example.com', a.example.com]",
        "",
    ]);
    let tls_port = words(&[
        "{port: '8443', protocol: TCP}",
        "{port: '8443', endPort: 8444, protocol: TCP}",
    ]);
    let tls = (tls_port, asking)
        .prop_map(|(port, names)| format!("{{ports: [{port}]{names}}}"))
        .boxed();
    let mut choices = vec![(3, plain), (3, http), (3, tls)];
    if egress {
        let names = words(&[
            "[{matchPattern: '*.example.com'}]",
            "[{matchName: example.com}, {matchPattern: '*'}]",
        ]);
        let dns = (
            words(&["{port: '53'}", "{port: '53', protocol: UDP}"]),
            names,
        )
            .prop_map(|(port, rules)| format!("{{ports: [{port}], rules: {{dns: {rules}}}}}"))
            .boxed();
        choices.push((2, dns));
    }
    Union::new_weighted(choices).boxed()
}

fn traffic(egress: bool, deny: bool) -> BoxedStrategy<String> {
    let icmp = words(&[
        "icmps: [{fields: [{type: 8}]}]",
        "icmps: [{fields: [{type: EchoRequest, family: IPv6}, {type: 0}]}]",
        "icmps: [{fields: [{type: 255, family: IPv6}]}]",
    ]);
    Union::new_weighted(vec![
        (2, Just(String::new()).boxed()),
        (5, list("toPorts", to_ports(egress, deny))),
        (1, icmp),
    ])
    .boxed()
}

fn section(name: &'static str, egress: bool, deny: bool) -> BoxedStrategy<String> {
    let rule = (peers(egress, deny), traffic(egress, deny))
        .prop_map(|(peers, traffic)| format!("{{{peers}{traffic}}}"));
    prop::collection::vec(rule, 1..4)
        .prop_map(move |rules| format!("{name}: [{}], ", rules.join(", ")))
        .boxed()
}

fn spec() -> BoxedStrategy<String> {
    let sections = Union::new_weighted(vec![
        (4, section("ingress", false, false)),
        (2, section("ingressDeny", false, true)),
        (4, section("egress", true, false)),
        (2, section("egressDeny", true, true)),
        (
            2,
            (
                section("ingress", false, false),
                section("egress", true, false),
            )
                .prop_map(|(ingress, egress)| ingress + &egress)
                .boxed(),
        ),
    ]);
    let switch = words(&[
        "",
        "",
        "",
        "enableDefaultDeny: {ingress: false, egress: false}, ",
        "enableDefaultDeny: {ingress: false}, ",
        "enableDefaultDeny: {egress: false}, ",
        "enableDefaultDeny: {egress: true}, ",
    ]);
    (selector(), sections, switch)
        .prop_map(|(subject, sections, switch)| {
            format!("{{endpointSelector: {subject}, {sections}{switch}}}")
        })
        .boxed()
}

pub(crate) fn document() -> BoxedStrategy<(String, String)> {
    let policy = (words(&["a", "b", ""]), prop::collection::vec(spec(), 1..3)).prop_map(
        |(namespace, specs)| {
            let kind = if namespace.is_empty() {
                "CiliumClusterwideNetworkPolicy"
            } else {
                "CiliumNetworkPolicy"
            };
            let head = format!("apiVersion: cilium.io/v2\nkind: {kind}\n");
            (
                format!("{head}metadata: {{NAME, MODE, namespace: '{namespace}'}}\n"),
                format!("specs: [{}]\n", specs.join(", ")),
            )
        },
    );
    let binding = (
        words(&["ingress", "egress"]),
        words(&["", "peers: [{matchLabels: {app: web}}], "]),
        words(&["{}", "{matchLabels: {app: web}}"]),
    )
        .prop_map(|(direction, peers, subject)| {
            let head = "apiVersion: tidegate.io/v1alpha1\nkind: PluginBinding\n";
            (
                format!("{head}metadata: {{NAME, MODE, namespace: a}}\n"),
                format!(
                    "spec: {{endpointSelector: {subject}, direction: {direction}, {peers}\
                     toPorts: [80, 8081], plugin: guard}}\n"
                ),
            )
        });
    Union::new_weighted(vec![(5, policy.boxed()), (1, binding.boxed())]).boxed()
}

fn mixed_documents() -> BoxedStrategy<String> {
    prop::collection::vec(document(), 1..5)
        .prop_map(|documents| {
            let named = documents
                .into_iter()
                .enumerate()
                .map(|(index, (head, body))| {
                    let head = head.replace("NAME", &format!("name: p{index}"));
                    format!("---\n{head}{body}")
                });
            named.collect()
        })
        .boxed()
}

pub(crate) const SHADOW: &str = "annotations: {tidegate.io/enforcement: shadow}";

/// Documents of which some are in shadow.
fn rehearsal() -> impl Strategy<Value = String> {
    let some = prop::collection::vec(any::<bool>(), 5);
    (mixed_documents(), some).prop_map(|(documents, some)| {
        let mut parts = documents.split("MODE");
        let mut text = parts.next().unwrap_or_default().to_owned();
        for (part, shadow) in parts.zip(some) {
            text.push_str(if shadow { SHADOW } else { "labels: {}" });
            text.push_str(part);
        }
        text
    })
}

fn documents() -> impl Strategy<Value = String> {
    mixed_documents().prop_map(|documents| documents.replace("MODE", "labels: {}"))
}

fn questions() -> Vec<Question> {
    let mut packets: Vec<(u8, u16)> = Vec::new();
    for port in PORTS {
        packets.extend(protocol::ANY.map(|protocol| (protocol, port)));
    }
    for ty in [0, 7, 8, 9, 127, 128, 129, 254, 255] {
        packets.extend([(protocol::ICMP, ty << 8), (protocol::ICMPV6, ty << 8)]);
    }
    // A protocol no rule can name.
    packets.push((47, 0));
    let mut all = Vec::new();
    for subject in ["a/one", "a/four", "b/two", "b/three"] {
        for direction in [Direction::Ingress, Direction::Egress] {
            for (peer, names) in PEERS {
                for (protocol, port) in &packets {
                    let peer = peer.parse().unwrap();
                    all.push(Question::new(
                        subject, direction, peer, names, *protocol, *port,
                    ));
                }
            }
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn tables_say_what_the_rules_say(documents in documents(), always in any::<bool>()) {
        let mut input = world();
        input.mode = if always { Mode::Always } else { Mode::Default };
        for document in parse_file("random.yaml", &documents).map_err(|p| {
            TestCaseError::fail(format!("{p:?}"))
        })? {
            input.add(document);
        }
        let compiled = compile(&input, &mut Ids::default())
            .map_err(|p| TestCaseError::fail(format!("{p:?}")))?;
        for question in questions() {
            let by_tables = in_words(&compiled, question.ask_tables(&compiled));
            let by_rules = question.ask_model(&input).unwrap();
            prop_assert_eq!(by_tables.verdict, by_rules.verdict, "{:?}", question);
            // An address with names has several rows, whose L7 rules the proxy unites.
            let l7 = normal(&by_rules).l7;
            if !question.has_names() {
                prop_assert_eq!(normal(&by_tables), normal(&by_rules), "{:?}", question);
            } else if let Some(l7) = l7.filter(|l7| l7.protocol == L7Protocol::Http)
                && question.has_several_rows(&compiled)
            {
                prop_assert_eq!(question.ask_proxy(&compiled), l7.rules, "{:?}", question);
            }
        }
    }

    /// What is enforced stays what it would be if the documents in shadow were not there,
    /// and what is told beside it is what would be enforced if none of them were.
    #[test]
    fn shadow_changes_nothing_and_tells_everything(text in rehearsal(), always in any::<bool>()) {
        let world = |documents: Vec<Document>| {
            let mut input = world();
            input.mode = if always { Mode::Always } else { Mode::Default };
            documents.into_iter().for_each(|document| input.add(document));
            compile(&input, &mut Ids::default())
                .map(|compiled| (input, compiled))
                .map_err(|p| TestCaseError::fail(format!("{p:?}")))
        };
        let documents = |text: &str| parse_file("random.yaml", text).map_err(|p| {
            TestCaseError::fail(format!("{p:?}"))
        });
        let enforced = documents(&text)?.into_iter().filter(|d| !d.meta().is_shadow()).collect();
        let (input, mixed) = world(documents(&text)?)?;
        let (_, without) = world(enforced)?;
        let (all, whole) = world(documents(&text.replace(SHADOW, "labels: {}"))?)?;
        for question in questions() {
            let enforced = question.ask_everybody(&mixed, false);
            prop_assert_eq!(enforced, question.ask_everybody(&without, false), "{:?}", question);
            let rehearsed = question.ask_everybody(&mixed, true);
            prop_assert_eq!(rehearsed, question.ask_everybody(&whole, false), "{:?}", question);
            if !question.has_names() {
                let decision = question.ask_tables(&mixed);
                let by_rules = question.ask_model(&input).unwrap();
                prop_assert_eq!(
                    normal(&in_words(&mixed, decision)), normal(&by_rules), "{:?}", question
                );
                let Some(shadow) = decision.shadow else { continue };
                let Rehearsed { verdict, rule, l7 } = shadow;
                let told = in_words(&mixed, Decision { verdict, rule, l7, shadow: None });
                let by_rules = question.ask_model(&all).unwrap();
                prop_assert_eq!(normal(&told), normal(&by_rules), "{:?}", question);
            }
        }
    }

    #[test]
    fn the_order_of_files_never_matters(documents in documents()) {
        let parsed = parse_file("random.yaml", &documents).unwrap();
        let (mut forwards, mut backwards) = (world(), world());
        parsed.iter().cloned().for_each(|document| forwards.add(document));
        parsed.into_iter().rev().for_each(|document| backwards.add(document));
        let mut ids = Ids::default();
        prop_assert_eq!(compile(&forwards, &mut ids), compile(&backwards, &mut ids));
        // And the same input gives the same numbers, also after a restart.
        let state = serde_json::to_string(&ids).unwrap();
        let mut restored: Ids = serde_json::from_str(&state).unwrap();
        prop_assert_eq!(compile(&forwards, &mut restored), compile(&forwards, &mut ids));
    }

    #[test]
    fn damaged_files_are_refused_not_fatal(
        documents in documents(),
        position in any::<prop::sample::Index>(),
        junk in "[ -~\n]{0,6}",
        cut in 0usize..12,
    ) {
        let mut bytes = documents.into_bytes();
        let at = position.index(bytes.len());
        let end = (at + cut).min(bytes.len());
        bytes.splice(at..end, junk.into_bytes());
        fuzz_parse(&bytes);
    }
}
