//! What is valid and does nothing: told with the place of the value that is at fault.

use tidegate_policy::{Input, lint};

use crate::check::{endpoint, read};

/// Three workloads, one of them of another namespace, and the node's address.
fn input(documents: &str) -> Input {
    let mut input = Input::default();
    input.node_addresses.push([10, 0, 9, 1].into());
    let web = endpoint("a/web", "10.0.1.1", "app: web").replace(
        "addresses:",
        "ports: [{name: http, port: 8080}, {name: dns, port: 53, protocol: UDP}], addresses:",
    );
    let endpoints = web
        + &endpoint("a/client", "10.0.1.2", "app: client")
        + &endpoint("b/db", "10.0.2.1", "app: db");
    read(&mut input, "e.yaml", &endpoints);
    read(&mut input, "p.yaml", documents);
    input
}

/// What is warned of these documents, one line each, must be exactly this.
fn check(documents: &str, expected: &[&str]) {
    let said: Vec<String> = lint(&input(documents))
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(said, expected, "{documents}");
}

/// A policy of namespace `a` for its web, the rule from line 7 on.
fn policy(direction: &str, rule: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: p, namespace: a}}\n\
         spec:\n  endpointSelector: {{matchLabels: {{app: web}}}}\n  {direction}:\n  - {rule}\n"
    )
}

fn ingress(rule: &str, expected: &[&str]) {
    check(&policy("ingress", rule), expected);
}

fn egress(rule: &str, expected: &[&str]) {
    check(&policy("egress", rule), expected);
}

#[test]
fn peers_that_nobody_is() {
    ingress("fromEndpoints: [{matchLabels: {app: client}}]", &[]);
    ingress("fromEndpoints: [{}]", &[]);
    ingress("fromEndpoints: [{matchLabels: {'reserved:host': ''}}]", &[]);
    ingress("fromEntities: [remote-node]", &[]);
    ingress(
        "fromEndpoints: [{matchLabels: {app: clinet}}]",
        &[
            "p.yaml:7:21: warning: spec.ingress[0].fromEndpoints[0]: selects no endpoint of this node in \
             namespace a; `tidegate endpoint list` shows namespaces and labels",
        ],
    );
    ingress(
        "fromEndpoints: [{matchLabels: {app: client}}, {matchLabels: {app: db}}]",
        &[
            "p.yaml:7:51: warning: spec.ingress[0].fromEndpoints[1]: selects no endpoint of this node in \
             namespace a; it would select b/db: a peer of another namespace is named with the label \
             k8s:io.kubernetes.pod.namespace",
        ],
    );
    egress(
        "toEndpoints: [{matchLabels: {'k8s:io.kubernetes.pod.namespace': b, app: db}}]",
        &[],
    );
    // A deny that denies nobody is as void as an allow.
    check(
        &policy("egressDeny", "toEndpoints: [{matchLabels: {app: bd}}]"),
        &[
            "p.yaml:7:19: warning: spec.egressDeny[0].toEndpoints[0]: selects no endpoint of this node in \
             namespace a; `tidegate endpoint list` shows namespaces and labels",
        ],
    );
    // Of a policy that does nothing here that is all there is to say.
    check(
        &policy("ingress", "fromEndpoints: [{matchLabels: {app: x}}]")
            .replace("app: web", "app: wbe"),
        &[
            "p.yaml:5:21: warning: spec.endpointSelector: selects no endpoint of this node, and so does \
             nothing here; `tidegate endpoint list` shows namespaces and labels",
        ],
    );
    let binding = "apiVersion: tidegate.io/v1alpha1\nkind: PluginBinding\nmetadata: {name: b, namespace: a}\n\
                   spec: {endpointSelector: {}, direction: ingress, toPorts: [80], plugin: p, \
                   peers: [{matchLabels: {app: nobody}}]}\n";
    let said = lint(&input(binding));
    assert_eq!(
        said[0].to_string(),
        "p.yaml:4:84: warning: spec.peers[0]: selects no endpoint of this node in namespace a; \
         `tidegate endpoint list` shows namespaces and labels"
    );
}

#[test]
fn prefixes_in_which_nobody_is_outside() {
    ingress("fromCIDR: [10.0.1.0/24, 192.0.2.1/32]", &[]);
    ingress(
        "fromCIDR: [10.0.1.2/32]",
        &[
            "p.yaml:7:16: warning: spec.ingress[0].fromCIDR[0]: selects nobody: the address is that of \
             a/client (10.0.1.2/32); CIDRs select what is outside only; write fromEndpoints",
        ],
    );
    egress(
        "toCIDRSet: [{cidr: 10.0.1.0/30}, {cidr: 10.0.9.1}]",
        &[
            "p.yaml:7:17: warning: spec.egress[0].toCIDRSet[0]: selects nobody: the first address in it is \
             that of a/web, and none is outside (10.0.1.0/30); CIDRs select what is outside only; write \
             toEndpoints",
            "p.yaml:7:38: warning: spec.egress[0].toCIDRSet[1]: selects nobody: the address is the node's own \
             (10.0.9.1/32); CIDRs select what is outside only; write toEntities: [host]",
        ],
    );
}

#[test]
fn ports_that_nobody_has() {
    let port = |name: &str| format!("toPorts: [{{ports: [{{port: {name}, protocol: TCP}}]}}]");
    ingress(&port("http"), &[]);
    ingress(
        &port("htpp"),
        &[
            "p.yaml:7:31: warning: spec.ingress[0].toPorts[0].ports[0].port: no endpoint that it is about has \
             a port of this name (htpp); they have: dns, http",
        ],
    );
    ingress(
        &port("dns"),
        &[
            "p.yaml:7:31: warning: spec.ingress[0].toPorts[0].ports[0].port: no endpoint that it is about has \
             a port of this name (dns); a/web has it for UDP, not TCP",
        ],
    );
    // For egress the peer's names count.
    let of = |peers: &str| format!("{{{peers}, {}}}", port("http"));
    egress(&port("http"), &[]);
    egress(&of("toEndpoints: [{matchLabels: {app: web}}]"), &[]);
    egress(
        &of("toEndpoints: [{matchLabels: {app: client}}]"),
        &[
            "p.yaml:7:77: warning: spec.egress[0].toPorts[0].ports[0].port: no endpoint that it is about has \
             a port of this name (http); give it one in `spec.ports` of the Endpoint, or write the number",
        ],
    );
    egress(
        &of("toCIDR: [192.0.2.0/24]"),
        &[
            "p.yaml:7:56: warning: spec.egress[0].toPorts[0].ports[0].port: no peer of this rule has named \
             ports: only endpoints have (http); write the number",
        ],
    );
}

#[test]
fn services_that_lead_nowhere() {
    let check = |spec: &str, expected: &[&str]| {
        let head =
            "apiVersion: tidegate.io/v1alpha1\nkind: Service\nmetadata: {name: s, namespace: a}\n";
        check(&format!("{head}spec: {{{spec}}}\n"), expected);
    };
    let named = "addresses: [10.5.0.1], ports: [{port: 80, targetPort: http}]";
    check(&format!("{named}, selector: {{app: web}}"), &[]);
    check(
        &format!("{named}, selector: {{app: client}}"),
        &[
            "p.yaml:4:62: warning: spec.ports[0].targetPort: no endpoint it selects has a TCP port of this \
             name (http); name the port in `spec.ports` of the Endpoint; without, it gets nothing",
        ],
    );
    check(
        &format!("{named}, selector: {{}}"),
        &[
            "p.yaml:4:62: warning: spec.ports[0].targetPort: a/client without a TCP port of this name (http); \
             name the port in `spec.ports` of the Endpoint; without, it gets nothing",
        ],
    );
    check(
        &format!("{named}, backends: [{{address: 192.0.2.1, port: 80}}, {{address: 192.0.2.2}}]"),
        &[
            "p.yaml:4:113: warning: spec.backends[1]: has no port, and the service's is a name: http; write \
             `port` here: a name is looked up at endpoints only",
        ],
    );
    check(
        named,
        &[
            "p.yaml:1:1: warning: has no backend, so connections to it are refused; write `selector` or \
             `backends`",
        ],
    );
    check(
        "addresses: [10.5.0.1, '2001:db8::1'], ports: [{port: 80}], \
         backends: [{address: 192.0.2.1, weight: 0}, {address: 192.0.2.2, state: maintenance}]",
        &[
            "p.yaml:4:77: warning: spec.backends: no backend takes new connections; one with `state: active` \
             and a weight above 0 does",
            "p.yaml:4:30: warning: spec.addresses[1]: has no backend: none has an IPv6 address (2001:db8::1); \
             a backend is reached by an address of the frontend's family",
        ],
    );
}

#[test]
fn names_that_cannot_be_learned() {
    let dns = |name: &str| {
        format!(
            "{{toEndpoints: [{{}}], toPorts: [{{ports: [{{port: '53'}}], rules: {{dns: [{{matchPattern: '{name}'}}]}}}}]}}"
        )
    };
    let names = "toFQDNs: [{matchName: a.example}]";
    egress(&format!("{names}\n  - {}", dns("*.example")), &[]);
    egress(
        &format!("{names}\n  - {}", dns("*.test")),
        &[
            "p.yaml:7:15: warning: spec.egress[0].toFQDNs[0]: stays without addresses: no DNS rule lets a/web \
             ask for the name; allow the name in rules.dns of the rule to the DNS server",
        ],
    );
    egress(
        names,
        &[
            "p.yaml:7:15: warning: spec.egress[0].toFQDNs[0]: toFQDNs of a/web stays without addresses: port 53 \
             is not allowed, and no answer passes the proxy; add an egress rule to the DNS server, port 53, \
             with rules.dns",
        ],
    );
    // Nothing restricts the workload: it may ask, and nobody reads the answer.
    check(
        &(policy("egress", names) + "  enableDefaultDeny: {egress: false}\n"),
        &[
            "p.yaml:7:15: warning: spec.egress[0].toFQDNs[0]: toFQDNs of a/web stays without addresses: port 53 \
             is allowed, but no answer passes the proxy; add rules.dns to the rule that allows port 53",
        ],
    );
}
