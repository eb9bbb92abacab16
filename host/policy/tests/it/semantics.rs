//! The semantics, situation by situation.

use tidegate_policy::{
    Ids, Input, Mode, compile,
    compiled::L7Protocol,
    http_options::{EscapedSlashes, HttpOptions},
    lint,
};

use crate::check::{self, ask, compiled, endpoint, read};

/// `a/web` is the subject, the others are peers.
fn endpoints() -> String {
    [
        ("a/web", "10.0.1.1", "app: web"),
        ("a/client", "10.0.1.2", "app: client"),
        ("a/dns", "10.0.1.3", "app: dns"),
        ("b/client", "10.0.1.4", "app: client"),
    ]
    .map(|(name, address, labels)| endpoint(name, address, labels))
    .concat()
}

/// A policy for `a/web` from the lines of its spec.
fn policy(name: &str, spec: &str) -> String {
    let spec: String = spec.lines().map(|line| format!("  {}\n", line)).collect();
    format!(
        "---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\n\
         metadata: {{name: {name}, namespace: a}}\nspec:\n  \
         endpointSelector: {{matchLabels: {{app: web}}}}\n{spec}"
    )
}

fn check(specs: &[&str], questions: &[(&str, &str)]) {
    let mut documents = endpoints();
    for (index, spec) in specs.iter().enumerate() {
        documents += &policy(&format!("p{index}"), spec);
    }
    check::check(&documents, questions);
}

#[test]
fn absent_empty_and_everything() {
    check(
        &["ingress: [{}]"],
        &[
            ("a/web < a/client tcp/80", "default-deny by a/p0"),
            ("a/web > a/client tcp/80", "allow"),
        ],
    );
    check(
        &["ingress: [{fromEndpoints: []}]"],
        &[("a/web < a/client tcp/80", "default-deny")],
    );
    check(
        &["ingress: [{fromEndpoints: [{}]}]"],
        &[
            ("a/web < a/client tcp/80", "allow"),
            ("a/web < a/client icmp/8", "allow"),
            ("a/web < b/client tcp/80", "default-deny"),
            ("a/web < 192.0.2.1 tcp/80", "default-deny"),
        ],
    );
    check(
        &["ingress: [{toPorts: [{ports: [{port: '80'}]}]}]"],
        &[
            ("a/web < 192.0.2.1 tcp/80", "allow"),
            ("a/web < 192.0.2.1 sctp/80", "allow"),
            ("a/web < 192.0.2.1 tcp/81", "default-deny"),
            ("a/web < 192.0.2.1 icmp/8", "default-deny"),
        ],
    );
    check(
        &["ingress: [{toPorts: []}]", "ingressDeny: [{}]"],
        &[("a/web < 192.0.2.1 icmp/8", "default-deny by a/p0")],
    );
    check(
        &["ingress: [{toPorts: [{}]}]"],
        &[("a/web < a/client tcp/80", "default-deny")],
    );
    // Empty lists of names, services or groups are forgotten beside ports, and only there.
    for peers in ["toFQDNs", "toServices", "toGroups"] {
        let with_ports =
            format!("egress: [{{{peers}: [], toPorts: [{{ports: [{{port: '80'}}]}}]}}]");
        check(
            &[&with_ports],
            &[
                ("a/web > 192.0.2.1 tcp/80", "allow"),
                ("a/web > a/client tcp/80", "allow"),
                ("a/web > 192.0.2.1 tcp/81", "default-deny"),
            ],
        );
        check(
            &[&format!("egress: [{{{peers}: []}}]")],
            &[("a/web > 192.0.2.1 tcp/80", "default-deny")],
        );
    }
    check(
        &["egress: [{toFQDNs: [], toCIDR: [], toPorts: [{ports: [{port: '80'}]}]}]"],
        &[("a/web > 192.0.2.1 tcp/80", "default-deny")],
    );
    check(
        &["ingress: []\negress: [{}]"],
        &[
            ("a/web < a/client tcp/80", "allow"),
            ("a/web > a/client tcp/80", "default-deny"),
        ],
    );
    check(
        &["ingress: [{toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {}}]}]"],
        &[("a/web < a/client tcp/80", "allow")],
    );
    check(
        &["ingress: [{toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{}]}}]}]"],
        &[("a/web < a/client tcp/80", "redirect all")],
    );
}

#[test]
fn clusterwide_policies() {
    let head = "---\napiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\n\
                metadata: {name: all}\n";
    let spec = "spec: {endpointSelector: {}, ingress: [{fromEndpoints: [{}]}]}\n";
    check::check(
        &(endpoints() + head + spec),
        &[
            ("a/web < b/client tcp/80", "allow by all ingress[0]"),
            ("b/client < a/web tcp/80", "allow"),
            ("b/client < 192.0.2.1 tcp/80", "default-deny by all"),
            ("b/client < 10.0.0.1 tcp/80", "default-deny"),
        ],
    );
}

#[test]
fn entities() {
    check(
        &["ingress: [{fromEntities: [world]}]"],
        &[
            ("a/web < 192.0.2.1 tcp/80", "allow"),
            ("a/web < 2001:db8::1 tcp/80", "allow"),
            ("a/web < a/client tcp/80", "default-deny"),
            ("a/web < 10.0.0.1 tcp/80", "default-deny"),
        ],
    );
    check(
        &["ingress: [{fromEntities: [cluster]}]"],
        &[
            ("a/web < b/client tcp/80", "allow"),
            ("a/web < 10.0.0.1 tcp/80", "allow"),
            ("a/web < 192.0.2.1 tcp/80", "default-deny"),
        ],
    );
    check(
        &["ingress: [{fromEntities: [host, none]}]"],
        &[
            ("a/web < 127.0.0.1 tcp/80", "allow"),
            ("a/web < 10.0.0.1 tcp/80", "allow"),
            ("a/web < a/client tcp/80", "default-deny"),
        ],
    );
    check(
        &["ingress: [{fromEntities: [all]}]"],
        &[("a/web < 192.0.2.1 47/0", "allow")],
    );
}

#[test]
fn prefixes() {
    check(
        &["egress: [{toCIDRSet: [{cidr: 192.0.2.0/24, except: [192.0.2.128/25]}]}]"],
        &[
            ("a/web > 192.0.2.1 tcp/80", "allow"),
            ("a/web > 192.0.2.127 tcp/80", "allow"),
            ("a/web > 192.0.2.128 tcp/80", "default-deny"),
            ("a/web > 192.0.3.1 tcp/80", "default-deny"),
        ],
    );
    // An exception takes out of its own item only.
    check(
        &[
            "egress: [{toCIDRSet: [{cidr: 192.0.2.0/24, except: [192.0.2.128/25]}, {cidr: 192.0.2.200/32}]}]",
        ],
        &[
            ("a/web > 192.0.2.200 tcp/80", "allow"),
            ("a/web > 192.0.2.201 tcp/80", "default-deny"),
        ],
    );
    // Prefixes are about outside: neither endpoints nor the node.
    check(
        &["egress: [{toCIDR: [0.0.0.0/0]}]"],
        &[
            ("a/web > 192.0.2.1 tcp/80", "allow"),
            ("a/web > a/client tcp/80", "default-deny"),
            ("a/web > 10.0.0.1 tcp/80", "default-deny"),
            ("a/web > 2001:db8::1 tcp/80", "default-deny"),
        ],
    );
    check(
        &["egress: [{toCIDR: [192.0.2.7]}]"],
        &[
            ("a/web > 192.0.2.7 tcp/80", "allow"),
            ("a/web > 192.0.2.8 tcp/80", "default-deny"),
        ],
    );
}

#[test]
fn ports() {
    check(
        &["ingress: [{toPorts: [{ports: [{port: '1000', endPort: 2000, protocol: udp}]}]}]"],
        &[
            ("a/web < a/client udp/999", "default-deny"),
            ("a/web < a/client udp/1000", "allow"),
            ("a/web < a/client udp/2000", "allow"),
            ("a/web < a/client udp/2001", "default-deny"),
            ("a/web < a/client tcp/1500", "default-deny"),
        ],
    );
    check(
        &["ingress: [{toPorts: [{ports: [{port: '80', endPort: 10}]}]}]"],
        &[
            ("a/web < a/client tcp/80", "allow"),
            ("a/web < a/client tcp/10", "default-deny"),
        ],
    );
    check(
        &["ingress: [{toPorts: [{ports: [{port: '0', protocol: TCP}]}]}]"],
        &[
            ("a/web < a/client tcp/1", "allow"),
            ("a/web < a/client udp/1", "default-deny"),
        ],
    );
    check(
        &["ingress: [{toPorts: [{ports: [{port: web}]}]}]"],
        &[("a/web < a/client tcp/80", "default-deny")],
    );
}

#[test]
fn icmp_by_type() {
    check(
        &["ingress: [{icmps: [{fields: [{type: EchoRequest}, {type: 128, family: IPv6}]}]}]"],
        &[
            (
                "a/web < a/client icmp/8",
                "allow by a/p0 ingress[0].icmps[0]",
            ),
            ("a/web < a/client icmp/0", "default-deny"),
            ("a/web < a/client icmpv6/128", "allow"),
            ("a/web < a/client icmpv6/8", "default-deny"),
            ("a/web < a/client tcp/8", "default-deny"),
        ],
    );
}

/// The truth table of the documentation: allow on two ports with L7, and denies.
#[test]
fn deny_wins() {
    let allow = "ingress:\n- fromEndpoints: [{}]\n  toPorts:\n  - ports: [{port: '80', protocol: TCP}, \
                 {port: '81', protocol: TCP}]\n    rules: {http: [{method: GET}]}\n- icmps: [{fields: [{type: 8}]}]";
    check(
        &[
            allow,
            "ingressDeny: [{toPorts: [{ports: [{port: '80', protocol: TCP}]}]}]",
        ],
        &[
            ("a/web < a/client tcp/81", "redirect 1 by a/p0"),
            (
                "a/web < a/client tcp/80",
                "deny by a/p1 ingressDeny[0].toPorts[0]",
            ),
            ("a/web < a/client icmp/8", "allow"),
        ],
    );
    check(
        &[allow, "ingressDeny: [{fromEndpoints: [{}]}]"],
        &[
            ("a/web < a/client tcp/81", "deny by a/p1 ingressDeny[0]"),
            ("a/web < a/client icmp/8", "deny"),
            ("a/web < b/client icmp/8", "allow"),
        ],
    );
}

#[test]
fn default_deny_can_be_switched_off() {
    let off = "enableDefaultDeny: {ingress: false}\ningressDeny: [{fromEndpoints: [{}]}]";
    check(
        &[off],
        &[
            ("a/web < a/client tcp/80", "deny"),
            ("a/web < 192.0.2.1 tcp/80", "allow"),
        ],
    );
    let l7 = "enableDefaultDeny: {ingress: false}\ningress: [{toPorts: [{ports: [{port: '80', \
              protocol: TCP}], rules: {http: [{method: GET}]}}]}]";
    check(
        &[l7],
        &[
            ("a/web < a/client tcp/80", "redirect all"),
            ("a/web < a/client tcp/81", "allow"),
        ],
    );
    // Of a direction without rules nothing is switched on.
    check(
        &["enableDefaultDeny: {egress: true}\ningress: [{}]"],
        &[
            ("a/web > a/client tcp/80", "allow"),
            ("a/web < a/client tcp/80", "default-deny by a/p0"),
        ],
    );
}

/// Rules that do not deny by default are as strict as any other once something else
/// denies by default: another policy, or the mode.
#[test]
fn l7_rules_refuse_where_the_endpoint_denies_by_default() {
    let http = "enableDefaultDeny: {ingress: false}\ningress: [{fromEndpoints: [{}], toPorts: [{ports: \
                [{port: '80', protocol: TCP}], rules: {http: [{method: GET}]}}]}]";
    let other = "ingress: [{fromEndpoints: [{}], toPorts: [{ports: [{port: '81'}]}]}]";
    let other_direction = "egress: [{}]";
    check(
        &[http, other_direction],
        &[("a/web < a/client tcp/80", "redirect all")],
    );
    check(
        &[http, other],
        &[
            ("a/web < a/client tcp/80", "redirect 1 by a/p0"),
            ("a/web < a/client tcp/81", "allow by a/p1"),
            ("a/web < a/client tcp/82", "default-deny by a/p1"),
        ],
    );
    let dns = "enableDefaultDeny: {egress: false}\negress: [{toPorts: [{ports: [{port: '53'}], \
               rules: {dns: [{matchName: a.example}]}}]}]";
    check(&[dns], &[("a/web > a/dns udp/53", "redirect all")]);
    check(
        &[dns, "egress: [{toEndpoints: []}]"],
        &[("a/web > a/dns udp/53", "redirect 1")],
    );
    let custom = http.replace(
        "http: [{method: GET}]",
        "l7proto: robots, l7: [{agent: curl}]",
    );
    for (spec, question) in [
        (http, "a/web < a/client tcp/80"),
        (dns, "a/web > a/dns udp/53"),
        (&custom, "a/web < a/client tcp/80"),
    ] {
        let mut input = Input::default();
        input.plugins.insert("robots".to_owned(), L7Protocol::Http);
        read(&mut input, "t.yaml", &(endpoints() + &policy("p0", spec)));
        ask(&input, &[(question, "redirect all")]);
        input.mode = Mode::Always;
        ask(&input, &[(question, "redirect 1")]);
    }
}

/// Peer selectors speak of endpoints, whatever they say of labels that are absent.
#[test]
fn peer_selectors_never_reach_outside() {
    let namespace = "io.kubernetes.pod.namespace";
    let metadata = "io.cilium.k8s.namespace.labels.env";
    let cluster = "k8s:io.cilium.k8s.policy.cluster";
    let nobody_else = [
        ("a/web < 192.0.2.1 tcp/80", "default-deny"),
        ("a/web < 2001:db8::1 tcp/80", "default-deny"),
        ("a/web < 10.0.0.1 tcp/80", "default-deny"),
        ("a/web < 127.0.0.1 tcp/80", "default-deny"),
    ];
    let own = ("a/web < a/client tcp/80", "allow");
    let other = ("a/web < b/client tcp/80", "allow");
    let not = |key: &str| format!("{{key: {key}, operator: NotIn, values: [dev]}}");
    let absent = |key: &str| format!("{{key: {key}, operator: DoesNotExist}}");
    for (expressions, allowed) in [
        (not(&format!("k8s:{namespace}")), vec![own, other]),
        (not(namespace), vec![own, other]),
        (not(&format!("any:{namespace}")), vec![own, other]),
        (absent(namespace), vec![]),
        (not(metadata), vec![own, other]),
        (absent(&format!("k8s:{metadata}")), vec![own, other]),
        (absent("app"), vec![]),
        // Naming the cluster leaves the namespace to be added.
        (absent(cluster), vec![]),
        (not(cluster), vec![own]),
    ] {
        let peers = format!("[{{matchExpressions: [{expressions}]}}]");
        for kind in ["CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy"] {
            let clusterwide = kind != "CiliumNetworkPolicy";
            let place = if clusterwide { "" } else { ", namespace: a" };
            let document = |section: &str, peers_key: &str| {
                format!(
                    "---\napiVersion: cilium.io/v2\nkind: {kind}\nmetadata: {{name: p{place}}}\n\
                     spec: {{endpointSelector: {{matchLabels: {{app: web}}}}, {section}: [{{{peers_key}: {peers}}}]}}\n"
                )
            };
            let mut questions = nobody_else.to_vec();
            questions.extend(&allowed);
            if clusterwide && expressions.contains(cluster) {
                // Everybody with a namespace.
                questions.retain(|question| *question != own);
            }
            check::check(
                &(endpoints() + &document("ingress", "fromEndpoints")),
                &questions,
            );
            let outwards: Vec<(String, &str)> = questions
                .iter()
                .map(|(question, answer)| (question.replace('<', ">"), *answer))
                .collect();
            let outwards: Vec<(&str, &str)> =
                outwards.iter().map(|(q, a)| (q.as_str(), *a)).collect();
            check::check(
                &(endpoints() + &document("egress", "toEndpoints")),
                &outwards,
            );
        }
    }
    // A selector that names a reserved label is taken as it stands.
    check(
        &["ingress: [{fromEndpoints: [{matchLabels: {'reserved:host': ''}}]}]"],
        &[
            ("a/web < 10.0.0.1 tcp/80", "allow"),
            ("a/web < a/client tcp/80", "default-deny"),
            ("a/web < 192.0.2.1 tcp/80", "default-deny"),
        ],
    );
}

const GET: &str = "ingress: [{fromEndpoints: [{}], toPorts: [{ports: [{port: '80', \
                   protocol: TCP}], rules: {http: [{method: GET}]}}]}]";

#[test]
fn http_rules_are_united_and_opened_by_a_plain_allow() {
    let post = GET.replace("GET", "POST");
    check(
        &[GET, &post, GET],
        &[("a/web < a/client tcp/80", "redirect 2")],
    );
    for open in [
        "ingress: [{toPorts: [{ports: [{port: '80', protocol: TCP}]}]}]",
        "ingress: [{fromEndpoints: [{matchLabels: {app: client}}]}]",
        "ingress: [{fromEndpoints: [{}], toPorts: [{ports: [{port: '1', endPort: 99}]}]}]",
    ] {
        check(&[GET, open], &[("a/web < a/client tcp/80", "redirect all")]);
    }
    // Kept apart per peer.
    check(
        &[
            GET,
            "ingress: [{fromEndpoints: [{matchLabels: {app: client}}]}]",
        ],
        &[
            ("a/web < a/client tcp/80", "redirect all"),
            ("a/web < a/dns tcp/80", "redirect 1"),
        ],
    );
    // A wildcard peer with L7 rules, a specific one without.
    let anybody = GET.replace("fromEndpoints: [{}], ", "");
    check(
        &[&anybody, "ingress: [{fromEndpoints: [{}]}]"],
        &[
            ("a/web < a/client tcp/80", "redirect all"),
            ("a/web < b/client tcp/80", "redirect 1"),
            ("a/web < 192.0.2.1 tcp/80", "redirect 1"),
        ],
    );
}

#[test]
fn dns_rules_are_opened_by_the_same_port_only() {
    let dns = "egress: [{toEndpoints: [{matchLabels: {app: dns}}], toPorts: [{ports: [{port: '53'}], \
               rules: {dns: [{matchPattern: '*.example.com'}]}}]}]";
    check(
        &[dns],
        &[
            ("a/web > a/dns udp/53", "redirect 1"),
            ("a/web > a/dns tcp/53", "redirect 1"),
            ("a/web > a/dns sctp/53", "default-deny"),
        ],
    );
    check(
        &[dns, "egress: [{toEndpoints: [{}]}]"],
        &[("a/web > a/dns udp/53", "redirect 1")],
    );
    check(
        &[
            dns,
            "egress: [{toPorts: [{ports: [{port: '1', endPort: 99}]}]}]",
        ],
        &[("a/web > a/dns udp/53", "redirect 1")],
    );
    check(
        &[
            dns,
            "egress: [{toPorts: [{ports: [{port: '53', protocol: UDP}]}]}]",
        ],
        &[
            ("a/web > a/dns udp/53", "redirect all"),
            ("a/web > a/dns tcp/53", "redirect 1"),
        ],
    );
}

#[test]
fn names_open_what_they_resolve_to() {
    let names = "egress: [{toFQDNs: [{matchPattern: '*.example.com'}], toPorts: [{ports: [{port: '443'}]}]}]";
    check(
        &[names],
        &[
            ("a/web > 192.0.2.1 tcp/443", "default-deny"),
            ("a/web > 192.0.2.1=www.example.com tcp/443", "allow"),
            ("a/web > 192.0.2.1=example.com tcp/443", "default-deny"),
            // An address of the cluster is never covered.
            ("a/web > a/dns=www.example.com tcp/443", "default-deny"),
        ],
    );
    check(
        &[names, "egressDeny: [{toCIDR: [192.0.2.1/32]}]"],
        &[
            ("a/web > 192.0.2.1=www.example.com tcp/443", "deny"),
            ("a/web > 192.0.2.2=www.example.com tcp/443", "allow"),
        ],
    );
}

/// An address has the rules of all its names, and of the prefixes it lies in, together.
#[test]
fn names_and_prefixes_unite() {
    use crate::check::Question;
    let to = |peers: &str, path: &str| {
        let rules = if path.is_empty() {
            String::new()
        } else {
            format!(", rules: {{http: [{{path: {path}}}]}}")
        };
        format!("{{{peers}, toPorts: [{{ports: [{{port: '80', protocol: TCP}}]{rules}}}]}}")
    };
    let name = |number: u32| format!("toFQDNs: [{{matchName: n{number}.example}}]");
    let prefix = "toCIDR: [192.0.2.0/24]";
    let check = |rules: &[String], names: &str, expected: Option<usize>| {
        let mut input = Input::default();
        let spec = format!("egress: [{}]", rules.join(", "));
        read(&mut input, "t.yaml", &(endpoints() + &policy("p0", &spec)));
        let compiled = compiled(&input);
        let text = format!("a/web > 192.0.2.1={names} tcp/80");
        let question = Question::parse(&input, &text);
        let united = question.ask_proxy(&compiled);
        assert_eq!(united.as_ref().map(Vec::len), expected, "{rules:?} {names}");
        let by_model = crate::check::normal(&question.ask_model(&input).unwrap());
        assert_eq!(by_model.l7.unwrap().rules, united, "{rules:?} {names}");
    };
    // A plain allow beside rules opens, whichever of the two has the rules.
    check(&[to(&name(1), ""), to(prefix, "/p")], "n1.example", None);
    check(&[to(&name(1), "/n"), to(prefix, "")], "n1.example", None);
    check(
        &[to(&name(1), "/n"), to(prefix, "/p")],
        "n1.example",
        Some(2),
    );
    check(
        &[to(&name(1), "/n"), to("toEntities: [world]", "/w")],
        "n1.example",
        Some(2),
    );
    // Any number of names.
    let many: Vec<String> = (1..=9).map(|n| to(&name(n), &format!("/n{n}"))).collect();
    let names: Vec<String> = (1..=9).map(|n| format!("n{n}.example")).collect();
    check(&many, &names.join(","), Some(9));
    check(&many, "n3.example", Some(1));
}

fn binding(spec: &str) -> String {
    format!(
        "---\napiVersion: tidegate.io/v1alpha1\nkind: PluginBinding\n\
         metadata: {{name: guard, namespace: a}}\nspec: {{endpointSelector: {{}}, plugin: guard, {spec}}}\n"
    )
}

#[test]
fn bindings_look_at_what_is_allowed() {
    let bound = binding("direction: ingress, toPorts: [80]");
    check::check(
        &(endpoints() + &bound),
        &[
            ("a/web < a/client tcp/80", "redirect all +guard by a/guard"),
            ("a/web < a/client udp/80", "allow"),
            ("a/web > a/client tcp/80", "allow"),
            ("b/client < a/web tcp/80", "allow"),
        ],
    );
    check::check(
        &(endpoints() + &bound + &policy("p0", GET)),
        &[
            ("a/web < a/client tcp/80", "redirect 1 +guard by a/p0"),
            ("a/web < b/client tcp/80", "default-deny"),
        ],
    );
    let some =
        binding("direction: ingress, toPorts: ['80'], peers: [{matchLabels: {app: client}}]");
    check::check(
        &(endpoints() + &some),
        &[
            ("a/web < a/client tcp/80", "redirect all +guard"),
            ("a/web < a/dns tcp/80", "allow"),
            ("a/web < 192.0.2.1 tcp/80", "allow"),
        ],
    );
}

#[test]
fn bindings_say_how_http_is_carried() {
    let carried = |name: &str, http: &str| {
        binding(&format!("direction: ingress, toPorts: [80], http: {http}"))
            .replace("name: guard", &format!("name: {name}"))
            .replace("plugin: guard, ", "")
    };
    let text = endpoints()
        + &carried("one", "{idleSeconds: 5, escapedSlashes: keep}")
        + &carried("other", "{idleSeconds: 9, escapedSlashes: reject}")
        + &binding("direction: ingress, toPorts: [80], http: {mergeSlashes: false}");
    check::check(&text, &[("a/web < a/client tcp/80", "redirect all +guard")]);
    let mut input = Input::default();
    read(&mut input, "t.yaml", &text);
    let compiled = compiled(&input);
    let set = compiled.l7.values().next().unwrap();
    assert_eq!(set.chain.len(), 1, "one of them names a plugin");
    let http = HttpOptions {
        idle_seconds: Some(5),
        merge_slashes: Some(false),
        escaped_slashes: Some(EscapedSlashes::Reject),
        ..HttpOptions::default()
    };
    assert_eq!(set.http, http);
}

/// In Cilium every rule of the port acts, also where another allows without asking.
#[test]
fn headers_are_changed_of_whatever_passes() {
    let acts = "toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{path: /a, \
                headerMatches: [{name: X, value: v, mismatch: ADD}]}]}}]";
    let plain = "{toPorts: [{ports: [{port: '80', protocol: TCP}]}]}";
    for (spec, rules) in [
        (format!("ingress: [{{{acts}}}]"), 1),
        (format!("ingress: [{{{acts}}}, {plain}]"), 2),
        (
            format!("enableDefaultDeny: {{ingress: false}}\ningress: [{{{acts}}}]"),
            2,
        ),
    ] {
        let mut input = Input::default();
        read(&mut input, "t.yaml", &(endpoints() + &policy("p0", &spec)));
        let compiled = compiled(&input);
        let set = compiled.l7.values().next().expect("it is read");
        assert_eq!(set.chain.len(), 1, "{spec}");
        let config: serde_json::Value = serde_json::from_str(&set.chain[0].config).unwrap();
        let all = config["rules"].as_array().unwrap();
        assert_eq!(all.len(), rules, "{spec}: {config}");
        let acted = serde_json::json!([{"name": "x", "value": "v", "mismatch": "ADD"}]);
        assert_eq!(all[0]["actions"], acted);
        // And whatever is allowed without asking still is.
        if rules == 2 {
            assert_eq!(all[1], serde_json::json!({}));
        }
    }
}

#[test]
fn a_binding_carries_its_configuration() {
    let mut input = Input::default();
    let text = binding(
        "direction: ingress, toPorts: [80], failMode: open, config: {deny: [a, 1], on: true}",
    );
    read(&mut input, "t.yaml", &(endpoints() + &text));
    let compiled = compiled(&input);
    let set = compiled.l7.values().next().unwrap();
    let plugin = &set.chain[0];
    assert_eq!(plugin.config, r#"{"deny":["a",1],"on":true}"#);
    assert_eq!(plugin.fail_mode, tidegate_policy::compiled::FailMode::Open);
    assert_eq!(compiled.rules[&plugin.rules[0]].short(), "a/guard");
}

#[test]
fn rules_for_plugins_need_the_plugin() {
    let spec = "ingress: [{toPorts: [{ports: [{port: '80', protocol: TCP}], \
                rules: {l7proto: robots, l7: [{agent: curl}, {agent: wget}]}}]}]";
    let mut input = Input::default();
    read(&mut input, "t.yaml", &(endpoints() + &policy("p0", spec)));
    let problems = compile(&input, &mut Ids::default()).unwrap_err();
    let said = problems[0].to_string();
    assert!(
        said.ends_with(
            ": spec.ingress[0].toPorts[0].rules.l7proto: no plugin of this name is installed \
             (robots); put it into the plugins folder first"
        ),
        "{said}"
    );
    assert_eq!(
        problems[0]
            .document
            .as_ref()
            .map(ToString::to_string)
            .as_deref(),
        Some("CiliumNetworkPolicy a/p0")
    );
    input.plugins.insert("robots".to_owned(), L7Protocol::Http);
    ask(&input, &[("a/web < a/client tcp/80", "redirect 2")]);
}

#[test]
fn a_binding_of_a_plugin_that_is_not_there_is_an_error() {
    let mut input = Input::default();
    let binding = "apiVersion: tidegate.io/v1alpha1\nkind: PluginBinding\n\
                   metadata: {name: b, namespace: a}\nspec:\n  endpointSelector: {}\n  \
                   direction: ingress\n  toPorts: [80]\n  config: {deny: []}\n  plugin: robots\n";
    read(&mut input, "e.yaml", &endpoints());
    read(&mut input, "b.yaml", binding);
    let found = |input: &Input| -> Vec<String> {
        let errors = tidegate_policy::lint(input).into_iter();
        let errors = errors.filter(|p| p.severity == tidegate_policy::Severity::Error);
        errors.map(|p| p.to_string()).collect()
    };
    input.plugins.insert("robot".to_owned(), L7Protocol::Http);
    assert_eq!(
        found(&input),
        [
            "b.yaml:9:11: spec.plugin: no plugin of this name is installed, so the fail mode decides \
          (robots); put it into the plugins folder; installed: robot"
        ]
    );
    input.plugins.insert("robots".to_owned(), L7Protocol::Dns);
    assert_eq!(
        found(&input),
        [
            "b.yaml:9:11: spec.plugin: the plugin reads dns, and the binding hands it http (robots); \
          set `protocol: dns`, or bind another plugin"
        ]
    );
    input.plugins.insert("robots".to_owned(), L7Protocol::Http);
    assert_eq!(found(&input), [""; 0]);
}

#[test]
fn modes() {
    let mut input = Input::default();
    read(&mut input, "t.yaml", &(endpoints() + &policy("p0", GET)));
    input.mode = Mode::Always;
    ask(
        &input,
        &[
            ("a/web > a/client tcp/80", "default-deny"),
            ("a/web < a/client tcp/80", "redirect 1"),
        ],
    );
    input.mode = Mode::Never;
    ask(&input, &[("a/web < b/client tcp/80", "allow")]);
}

#[test]
fn different_protocols_on_a_port_do_not_compile() {
    let mut input = Input::default();
    let guard = binding("direction: ingress, toPorts: [80], protocol: dns");
    read(
        &mut input,
        "t.yaml",
        &(endpoints() + &policy("p0", GET) + &guard),
    );
    let problems = compile(&input, &mut Ids::default()).unwrap_err();
    assert_eq!(
        problems[0]
            .document
            .as_ref()
            .map(ToString::to_string)
            .as_deref(),
        Some("PluginBinding a/guard")
    );
    assert_eq!(problems[0].message, "the port carries http by another rule");
    // Without the document that is named, the rest compiles.
    input.bindings.clear();
    assert!(compile(&input, &mut Ids::default()).is_ok());
}

#[test]
fn rows_are_only_there_where_they_differ() {
    let mut input = Input::default();
    read(
        &mut input,
        "t.yaml",
        &(endpoints() + &policy("p0", "ingress: [{}]")),
    );
    let compiled = compiled(&input);
    for endpoint in compiled.endpoints.values() {
        assert_eq!(
            endpoint.table.len(),
            2,
            "one wildcard row per direction: {endpoint:?}"
        );
    }
}

#[test]
fn suspicious_documents() {
    let mut input = Input::default();
    let names = policy(
        "p0",
        "egress: [{toFQDNs: [{matchName: a.b}]}, {toPorts: [{ports: [{port: '53'}]}]}]",
    );
    let daemon = "---\n{apiVersion: tidegate.io/v1alpha1, kind: Endpoint, metadata: {name: d, \
                  namespace: a, labels: {app: web}}, spec: {cgroup: system.slice/d.service}}\n";
    read(
        &mut input,
        "t.yaml",
        &(endpoints() + daemon + &names + &policy("p1", GET)),
    );
    let said: Vec<String> = lint(&input).iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 3, "{said:#?}");
    assert!(
        said[1].contains("toFQDNs of a/web stays without addresses"),
        "{said:#?}"
    );
    assert!(
        said[0].ends_with(
            "port 53 is allowed, but no answer passes the proxy; add rules.dns to the rule that allows port 53"
        ),
        "{said:#?}"
    );
    assert!(
        said[2].contains("ingress to the host service a/d is not enforced"),
        "{said:#?}"
    );
}

/// What does nothing, or something else than it seems to, is told.
#[test]
fn documents_that_do_nothing_are_warned_about() {
    let mut input = Input::default();
    input.node_addresses.push([10, 0, 0, 1].into());
    let own = "---\napiVersion: tidegate.io/v1alpha1\n";
    let text = endpoints()
        + &endpoint("a/node", "10.0.0.1", "app: node")
        + &policy("typo", "ingress: [{}]").replace("app: web", "app: wbe")
        + &binding("direction: ingress, toPorts: [80]").replace(
            "endpointSelector: {}",
            "endpointSelector: {matchLabels: {app: wbe}}",
        )
        + own
        + "kind: Service\nmetadata: {name: s, namespace: c}\nspec: {addresses: [10.0.1.1], \
           ports: [{port: 80}], selector: {app: web}}\n";
    read(&mut input, "t.yaml", &text);
    let said: Vec<String> = lint(&input).iter().map(ToString::to_string).collect();
    let expected = [
        "warning: spec.endpointSelector: selects no endpoint of this node, and so does nothing here; ",
        "spec.endpointSelector: selects no endpoint of this node, and so does nothing here; ",
        "spec.plugin: no plugin of this name is installed, so the fail mode decides",
        "spec.selector: selects no endpoint of this node; ",
        "spec.addresses[0]: 10.0.1.1 is the address of a/web, which cannot be reached on these ports any more; ",
        "spec.addresses[0]: 10.0.0.1 is the node's own address; ",
    ];
    assert_eq!(said.len(), expected.len(), "{said:#?}");
    for (said, expected) in said.iter().zip(expected) {
        assert!(said.contains(expected), "{said}");
    }
}

/// A size people have: 1,000 rules, 200 identities.
#[test]
fn many_rules_and_identities() {
    let mut input = Input::default();
    let mut text = String::new();
    for index in 0..200u32 {
        let address = format!("10.9.{}.{}", index / 250, index % 250 + 1);
        text += &endpoint(
            &format!("a/e{index}"),
            &address,
            &format!("app: e{index}, tier: t{}", index % 7),
        );
    }
    for document in 0..10 {
        let rules: Vec<String> = (0..100)
            .map(|rule| {
                let port = 1000 + 7 * (document * 100 + rule);
                format!(
                    "{{fromEndpoints: [{{matchLabels: {{tier: t{}}}}}], toPorts: [{{ports: \
                     [{{port: '{port}', endPort: {}, protocol: TCP}}]}}]}}",
                    rule % 7,
                    port + 9
                )
            })
            .collect();
        text += &format!(
            "---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: p{document}, \
             namespace: a}}\nspec:\n  endpointSelector: {{}}\n  ingress: [{}]\n",
            rules.join(", ")
        );
    }
    read(&mut input, "t.yaml", &text);
    ask(
        &input,
        &[
            (
                "a/e0 < a/e7 tcp/1000",
                "allow by a/p0 ingress[0].toPorts[0]",
            ),
            ("a/e0 < a/e1 tcp/1000", "default-deny"),
            ("a/e199 < a/e6 tcp/7993", "default-deny"),
        ],
    );
}

#[test]
fn kafka_rules_are_read_by_their_plugin() {
    let kafka = |rules: &str| {
        format!(
            "ingress: [{{toPorts: [{{ports: [{{port: '9092', protocol: TCP}}], rules: {{kafka: [{rules}]}}}}]}}]"
        )
    };
    let question = "a/web < a/client tcp/9092";
    check(
        &[&kafka("{topic: a}, {topic: b}")],
        &[(question, "redirect 2 by a/p0")],
    );
    // A rule that allows any request leaves them to be read.
    check(
        &[&kafka("{}"), &kafka("{topic: a}")],
        &[(question, "redirect 2")],
    );
    check(
        &[
            &kafka("{topic: a}"),
            "ingress: [{toPorts: [{ports: [{port: '9092'}]}]}]",
        ],
        &[(question, "redirect all")],
    );
    // Names and roles are the plugin's in the end, by number where Kafka has them.
    let mut input = Input::default();
    let rules = "{role: Produce, topic: a}, {apiKey: AlterConfigs, apiVersion: '2', clientID: c}";
    read(
        &mut input,
        "t.yaml",
        &(endpoints() + &policy("p0", &kafka(rules))),
    );
    let compiled = compiled(&input);
    let set = compiled.l7.values().next().expect("a rule set");
    assert_eq!(set.protocol, L7Protocol::Stream);
    assert_eq!(
        set.chain[0].config,
        r#"{"rules":[{"role":"produce","topic":"a"},{"apiKey":33,"apiVersion":2,"clientID":"c"}]}"#
    );
    assert_eq!(set.chain[0].plugin, "kafka");
    // Two kinds of rules on one port contradict each other.
    let mut input = Input::default();
    let http = kafka("").replace("kafka: []", "http: [{path: /}]");
    let both = policy("p0", &kafka("{topic: a}")) + &policy("p1", &http);
    read(&mut input, "t.yaml", &(endpoints() + &both));
    let problems = compile(&input, &mut Ids::default()).expect_err("a conflict");
    assert!(
        problems
            .iter()
            .any(|problem| problem.message.contains("http rules meet kafka rules")),
        "{problems:?}"
    );
}

/// `serverNames` of several rules are one list. A plain rule opens the port beside them,
/// unless it is for the very same peers and port: Cilium takes those two for one.
#[test]
fn server_names_unite_as_in_cilium() {
    let names = |peers: &str, names: &str| {
        format!(
            "ingress: [{{{peers}toPorts: [{{ports: [{{port: '443', protocol: TCP}}], serverNames: [{names}]}}]}}]"
        )
    };
    let plain =
        |peers: &str, ports: &str| format!("ingress: [{{{peers}toPorts: [{{ports: [{ports}]}}]}}]");
    let client = "fromEndpoints: [{matchLabels: {app: client}}], ";
    let other = "fromEndpoints: [{matchLabels: {app: other}}], ";
    let (tcp, any) = ("{port: '443', protocol: TCP}", "{port: '443'}");
    let question = "a/web < a/client tcp/443";
    let (api, www) = (
        names(client, "api.example"),
        names(client, "'*.example', api.example"),
    );
    check(
        &[&api],
        &[(question, "redirect 1 by a/p0 ingress[0].toPorts[0]")],
    );
    check(&[&api], &[("a/web < a/dns tcp/443", "default-deny")]);
    check(&[&api, &www], &[(question, "redirect 2 by a/p0")]);
    check(&[&names(client, "")], &[(question, "allow")]);
    for same in [plain(client, tcp), plain(client, any)] {
        check(&[&api, &same], &[(question, "redirect 1 by a/p0")]);
        check(&[&same, &api], &[(question, "redirect 1 by a/p1")]);
    }
    for opens in [
        plain("", tcp),
        plain(client, "{port: '0', protocol: TCP}"),
        plain(client, "{port: '443', endPort: 444, protocol: TCP}"),
        format!("ingress: [{{{}}}]", client.trim_end_matches(", ")),
        // Of its peers one is not asked for names.
        plain(&client.replace("}}]", "}}, {}]"), tcp),
    ] {
        check(&[&api, &opens], &[(question, "redirect all")]);
    }
    let nobody_else = [names("", "api.example"), plain("", tcp), plain(other, tcp)];
    let nobody_else: Vec<&str> = nobody_else.iter().map(String::as_str).collect();
    check(&nobody_else, &[(question, "redirect 1")]);
    // Where no default deny is on, they refuse nothing.
    let open = format!("enableDefaultDeny: {{ingress: false}}\n{api}");
    check(&[&open], &[(question, "redirect all")]);
    // A denial wins, and what cannot be read cannot be judged by request.
    let denied = plain(client, tcp).replace("ingress", "ingressDeny");
    check(&[&api, &denied], &[(question, "deny")]);
    let mut input = Input::default();
    let http = api.replace("serverNames: [api.example]", "rules: {http: [{path: /}]}");
    let both = policy("p0", &api) + &policy("p1", &http);
    read(&mut input, "t.yaml", &(endpoints() + &both));
    let problems = compile(&input, &mut Ids::default()).expect_err("a conflict");
    assert!(
        problems
            .iter()
            .any(|problem| problem.message.contains("http rules meet tls rules")),
        "{problems:?}"
    );
}

/// TLS that ends at the proxy does so for all that is allowed to the same peer; rules of
/// requests are inside of it, and what contradicts itself is refused.
#[test]
fn ended_tls_unites_as_in_cilium() {
    let rule = |peers: &str, rest: &str| {
        format!(
            "ingress: [{{{peers}toPorts: [{{ports: [{{port: '443', protocol: TCP}}]{rest}}}]}}]"
        )
    };
    let client = "fromEndpoints: [{matchLabels: {app: client}}], ";
    let web = ", terminatingTLS: {secret: {name: web}}";
    let http = ", rules: {http: [{path: /}]}";
    let names = ", serverNames: [api.example]";
    let compiled = |rules: &[String]| {
        let mut input = Input::default();
        let policies = rules.iter().enumerate();
        let policies = policies.map(|(n, rule)| policy(&format!("p{n}"), rule));
        read(
            &mut input,
            "t.yaml",
            &(endpoints() + &policies.collect::<String>()),
        );
        compile(&input, &mut Ids::default())
    };
    // Names, requests and secrets of the rule set for the client.
    let said = |rules: &[String]| {
        let compiled = compiled(rules).expect("compiled");
        let sets: Vec<_> = compiled.l7.values().collect();
        assert_eq!(sets.len(), 1, "{sets:?}");
        let set = sets[0];
        let names = set.tls.as_ref().map_or(0, |tls| tls.names.len());
        let secrets = [&set.contexts.terminating, &set.contexts.originating];
        let secrets = secrets.map(|context| context.as_ref().map(|context| context.secret()));
        (set.protocol.name(), names, set.chain.len(), secrets)
    };
    let ended = [Some("a/web".to_owned()), None];
    let one = |rest: &str| rule(client, rest);
    for (rules, expected) in [
        // Without rules it is read, and anything may be asked for.
        (vec![one(web)], ("http", 0, 0, ended.clone())),
        (
            vec![one(", originatingTLS: {secret: {name: ca}}")],
            ("http", 0, 0, [None, Some("a/ca".to_owned())]),
        ),
        (
            vec![one(&[web, http].concat())],
            ("http", 0, 1, ended.clone()),
        ),
        (
            vec![one(&[web, names, http].concat())],
            ("http", 1, 1, ended.clone()),
        ),
        (
            vec![one(&[web, names].concat())],
            ("http", 1, 0, ended.clone()),
        ),
        // Several rules about the same peer.
        (vec![one(web), one(http)], ("http", 0, 0, ended.clone())),
        (
            vec![one(&[web, http].concat()), one(names)],
            ("http", 1, 1, ended.clone()),
        ),
        (
            vec![one(names), one(&[web, http].concat())],
            ("http", 1, 1, ended.clone()),
        ),
        (
            vec![one(&[web, http].concat()), one("")],
            ("http", 0, 0, ended.clone()),
        ),
        (
            vec![
                one(&[web, http].concat()),
                one(", originatingTLS: {secret: {name: ca}}"),
            ],
            (
                "http",
                0,
                0,
                [Some("a/web".to_owned()), Some("a/ca".to_owned())],
            ),
        ),
    ] {
        assert_eq!(said(&rules), expected, "{rules:?}");
    }
    let other = ", terminatingTLS: {secret: {namespace: b, name: web}}";
    let begun = ", originatingTLS: {secret: {name: ca}}";
    for (rules, message) in [
        (
            vec![one(web), one(other)],
            "`terminatingTLS` with b/web (ca.crt, tls.crt, tls.key) meets one with a/web",
        ),
        (
            vec![one(begun), one(names)],
            "originatingTLS rules meet tls rules",
        ),
        (
            vec![one(web), one(", rules: {kafka: [{topic: a}]}")],
            "TLS rules meet kafka rules",
        ),
        (
            vec![one(begun), one(names), one(http)],
            "http rules meet tls rules",
        ),
    ] {
        let problems = compiled(&rules).expect_err("a conflict");
        let found = problems
            .iter()
            .any(|problem| problem.message.contains(message));
        assert!(found, "{rules:?}: {problems:?}");
    }
}

/// `tidegate.io/hold-names`: what is allowed of a name is allowed to who asks for it.
#[test]
fn rules_by_name_are_held_to_it() {
    let to = |ports: &str, rest: &str| {
        format!(
            "egress: [{{toFQDNs: [{{matchName: api.example}}], toPorts: [{{ports: [{ports}]{rest}}}]}}]"
        )
    };
    let read_both = |spec: &str| {
        let text = policy("p", spec).replace(
            "name: p",
            "name: p, annotations: {tidegate.io/hold-names: 'true'}",
        );
        let mut input = Input::default();
        read(&mut input, "t.yaml", &(endpoints() + &text));
        compile(&input, &mut Ids::default()).expect("compiled")
    };
    let sets = |spec: &str| {
        let compiled = read_both(spec);
        let words = compiled.l7.values().map(|set| {
            let names = set.tls.as_ref().map(|tls| (tls.names.len(), tls.in_clear));
            let config = set.chain.first().map(|used| used.config.clone());
            (set.protocol.name(), names, config.unwrap_or_default())
        });
        words.collect::<Vec<_>>()
    };
    let tcp = "{port: '443', protocol: TCP}";
    assert_eq!(
        sets(&to(tcp, "")),
        [("stream", Some((1, true)), String::new())]
    );
    // Where it may be asked for over UDP, that stays open, and is told.
    assert_eq!(
        sets(&to("{port: '443'}", "")),
        [("stream", Some((1, true)), String::new())]
    );
    let written = sets(&to(tcp, ", serverNames: [www.example]"));
    assert_eq!(written, [("stream", Some((1, false)), String::new())]);
    let http = sets(&to(
        tcp,
        ", rules: {http: [{path: /a}, {path: /b, host: own}]}",
    ));
    assert_eq!(http[0].0, "http");
    assert!(
        http[0].2.contains("api[.]example") && http[0].2.contains("own"),
        "{http:?}"
    );
    let ended = sets(&to(tcp, ", terminatingTLS: {secret: {name: web}}"));
    assert_eq!(ended, [("http", Some((1, false)), String::new())]);
    // Who speaks in the clear asks with each request.
    let begun = sets(&to(tcp, ", originatingTLS: {secret: {name: ca}}"));
    assert_eq!((begun[0].0, begun[0].1), ("http", None), "{begun:?}");
    assert!(begun[0].2.contains("api[.]example"), "{begun:?}");
    // Nobody else is meant.
    let others =
        "egress: [{toCIDR: [192.0.2.0/24], toPorts: [{ports: [{port: '443', protocol: TCP}]}]}]";
    assert!(sets(others).is_empty());
}
