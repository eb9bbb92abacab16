//! What people are told about their files.

use tidegate_policy::{Severity, parse_file};

/// The problems of a text, one per line, must be exactly these.
fn check(text: &str, expected: &[&str]) {
    let problems = match parse_file("p.yaml", text) {
        Err(problems) => problems,
        Ok(documents) => documents.into_iter().flat_map(|d| d.warnings).collect(),
    };
    let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(said, expected, "{text}");
}

/// A policy with this spec, from line 5 on.
fn policy(spec: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: p, namespace: a}}\n\
         spec:\n{spec}"
    )
}

fn check_ingress(rule: &str, expected: &[&str]) {
    check(
        &policy(&format!(
            "  endpointSelector: {{}}\n  ingress:\n  - {rule}\n"
        )),
        expected,
    );
}

fn check_egress(rule: &str, expected: &[&str]) {
    check(
        &policy(&format!(
            "  endpointSelector: {{}}\n  egress:\n  - {rule}\n"
        )),
        expected,
    );
}

#[test]
fn documents() {
    check(
        "kind: X\n",
        &[
            "p.yaml:1:1: `apiVersion` and `kind` must say what this document is; \
         e.g. apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy",
        ],
    );
    check(
        "apiVersion: v1\nkind: Pod\n",
        &[
            "p.yaml:2:7: kind: no such kind (Pod); one of: CiliumNetworkPolicy, \
         CiliumClusterwideNetworkPolicy, Endpoint, Service, DenyList, PluginBinding",
        ],
    );
    check(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolcy\n",
        &[
            "p.yaml:2:7: kind: no such kind (CiliumNetworkPolcy); did you mean `CiliumNetworkPolicy`? \
             one of: CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy, Endpoint, Service, DenyList, \
             PluginBinding",
        ],
    );
    check(
        "apiVersion: v1\nkind: Service\n",
        &[
            "p.yaml:1:13: apiVersion: not the version of Service (v1); write apiVersion: tidegate.io/v1alpha1",
        ],
    );
    check("- 1\n", &["p.yaml:1:1: expected a mapping, found a list"]);
    check(
        "a: 1\na: 2\n",
        &["p.yaml:2:1: not readable as YAML: duplicate mapping key: a"],
    );
    check("", &[]);
}

#[test]
fn policies() {
    check(
        &policy("  ingress: [{}]\n"),
        &["p.yaml:5:3: spec: `endpointSelector` is missing"],
    );
    check(
        &policy("  endpointSelector: {}\n"),
        &[
            "p.yaml:5:3: spec: has no rule; one of ingress, ingressDeny, egress, egressDeny needs an item",
        ],
    );
    check(
        &policy("  nodeSelector: {}\n  ingress: [{}]\n"),
        &[
            "p.yaml:5:17: spec.nodeSelector: policies for nodes are not supported yet; use endpointSelector",
        ],
    );
    check(
        &policy("  endpointSelektor: {}\n  ingress: [{}]\n"),
        &[
            "p.yaml:5:21: spec.endpointSelektor: no such field; did you mean `endpointSelector`?",
            "p.yaml:5:3: spec: `endpointSelector` is missing",
        ],
    );
    check(
        &policy(
            "  endpointSelector: {matchLabels: {io.kubernetes.pod.namespace: b}}\n  ingress: [{}]\n",
        ),
        &[
            "p.yaml:5:21: warning: spec.endpointSelector: selects another namespace than the policy's; \
             a is taken; a policy applies to endpoints of its own namespace only",
        ],
    );
}

#[test]
fn peers() {
    check_ingress(
        "fromEntities: [wrld]",
        &[
            "p.yaml:7:20: spec.ingress[0].fromEntities[0]: no such value (wrld); did you mean `world`? one of: host, \
         remote-node, world, world-ipv4, world-ipv6, cluster, init, ingress, health, unmanaged, kube-apiserver",
        ],
    );
    check_ingress(
        "{fromEntities: [world], fromCIDR: [10.0.0.0/8]}",
        &[
            "p.yaml:7:39: spec.ingress[0].fromCIDR: combining fromEntities and fromCIDR is not supported; \
         write two rules",
        ],
    );
    check_ingress(
        "fromCIDR: [10.0.0.0/33]",
        &["p.yaml:7:16: spec.ingress[0].fromCIDR[0]: not a prefix like 10.0.0.0/8 (10.0.0.0/33)"],
    );
    check_ingress(
        "fromCIDRSet: [{cidr: 10.0.0.0/8, except: [11.0.0.0/16]}]",
        &[
            "p.yaml:7:47: spec.ingress[0].fromCIDRSet[0].except[0]: does not lie inside 10.0.0.0/8 (11.0.0.0/16)",
        ],
    );
    check_ingress(
        "toEndpoints: [{}]",
        &["p.yaml:7:18: spec.ingress[0].toEndpoints: no such field; did you mean `fromEndpoints`?"],
    );
    check_ingress(
        "auth: {mode: required}",
        &[
            "p.yaml:7:11: spec.ingress[0].auth: no such field; known here: fromEndpoints, fromEntities, \
         fromCIDR, fromCIDRSet, fromNodes, fromGroups, fromRequires, toPorts, icmps, authentication",
        ],
    );
    check_ingress(
        "authentication: {mode: required}",
        &[
            "p.yaml:7:21: spec.ingress[0].authentication: not supported yet; remove it, or the rule \
         would allow more than it says",
        ],
    );
    check_egress(
        "toFQDNs: [{matchName: '*.a.b'}]",
        &[
            "p.yaml:7:27: spec.egress[0].toFQDNs[0].matchName: the character `*` cannot be part of it; \
         allowed are letters, digits, `-`, `_` and `.` (*.a.b); for `*` use matchPattern",
        ],
    );
    check_egress(
        "toServices: [{k8sService: {serviceName: x}}]",
        &[
            "p.yaml:7:18: spec.egress[0].toServices[0]: not supported yet; name the peers by labels, \
         entities, CIDRs or FQDNs",
        ],
    );
}

#[test]
fn ports() {
    check_ingress(
        "toPorts: [{ports: [{port: 80}]}]",
        &[
            "p.yaml:7:31: spec.ingress[0].toPorts[0].ports[0].port: expected a string, found a number (80); \
         write it in quotes: \"80\"",
        ],
    );
    check_ingress(
        "toPorts: [{ports: [{port: '65536'}]}]",
        &[
            "p.yaml:7:31: spec.ingress[0].toPorts[0].ports[0].port: not a port number, and a port name has \
         at least one letter (65536); a number from 0 to 65535, or the name of a port",
        ],
    );
    check_ingress(
        "toPorts: [{ports: [{port: '80', protocol: TPC}]}]",
        &[
            "p.yaml:7:47: spec.ingress[0].toPorts[0].ports[0].protocol: no such protocol (TPC); \
         one of: TCP, UDP, SCTP, ANY",
        ],
    );
    check_ingress(
        "{toPorts: [{ports: [{port: '80'}]}], icmps: [{fields: [{type: 8}]}]}",
        &[
            "p.yaml:7:49: spec.ingress[0].icmps: cannot stand beside toPorts; make it an item of its own",
        ],
    );
    check_ingress(
        "icmps: [{fields: [{type: Ecko}]}]",
        &[
            "p.yaml:7:30: spec.ingress[0].icmps[0].fields[0].type: no such ICMP type (Ecko); \
         a number from 0 to 255, or a name like EchoRequest",
        ],
    );
}

#[test]
fn l7() {
    let with =
        |ports: &str, rules: &str| format!("toPorts: [{{ports: [{ports}], rules: {{{rules}}}}}]");
    let tcp = "{port: '80', protocol: TCP}";
    check_ingress(
        &with("{port: '80'}", "http: [{}]"),
        &[
            "p.yaml:7:24: spec.ingress[0].toPorts[0].ports[0]: L7 rules other than DNS apply to TCP only; \
         write protocol: TCP",
        ],
    );
    check_ingress(
        &with(tcp, "dns: [{matchName: a}]"),
        &["p.yaml:7:61: spec.ingress[0].toPorts[0].rules: DNS rules apply to egress only"],
    );
    check_ingress(
        &with(
            tcp,
            "kafka: [{topic: 'a*'}, {role: producer}, {apiKey: fetsh}, {apiVersion: '-1'}, {topik: a}]",
        ),
        &[
            "p.yaml:7:78: spec.ingress[0].toPorts[0].rules.kafka[0].topic: no name of a topic: \
         they are compared as they are, without patterns (a*); at most 255 letters, digits and `._-`",
            "p.yaml:7:92: spec.ingress[0].toPorts[0].rules.kafka[1].role: is none that is known \
         (producer); did you mean `produce`? one of: produce, consume",
            "p.yaml:7:112: spec.ingress[0].toPorts[0].rules.kafka[2].apiKey: is none that is known \
         (fetsh); did you mean `fetch`? one of: produce, fetch, offsets, metadata, leaderandisr, \
         stopreplica, updatemetadata, controlledshutdown, offsetcommit, offsetfetch, findcoordinator, \
         joingroup, heartbeat, leavegroup, syncgroup, describegroups, listgroups, saslhandshake, \
         apiversions, createtopics, deletetopics, deleterecords, initproducerid, \
         offsetforleaderepoch, addpartitionstotxn, addoffsetstotxn, endtxn, writetxnmarkers, \
         txnoffsetcommit, describeacls, createacls, deleteacls, describeconfigs, alterconfigs",
            "p.yaml:7:133: spec.ingress[0].toPorts[0].rules.kafka[3].apiVersion: no version of an API \
         (-1); a number from 0 to 32767, in quotes",
            "p.yaml:7:148: spec.ingress[0].toPorts[0].rules.kafka[4].topik: no such field (a); \
         did you mean `topic`?",
        ],
    );
    check_ingress(
        &with(tcp, "kafka: [{role: produce, apiKey: fetch}]"),
        &[
            "p.yaml:7:70: spec.ingress[0].toPorts[0].rules.kafka[0]: `role` and `apiKey` exclude each other; write two rules",
        ],
    );
    check_ingress(
        &with(tcp, "kafka: [{}], http: [{}]"),
        &[
            "p.yaml:7:61: spec.ingress[0].toPorts[0].rules: one kind of L7 rules only; use an item of toPorts for each kind",
        ],
    );
    check_ingress(
        &with(tcp, "l7proto: kafka, l7: [{topic: a}]"),
        &[
            "p.yaml:7:71: spec.ingress[0].toPorts[0].rules.l7proto: is read by rules of its own (kafka); write `kafka: [...]`",
        ],
    );
    check_ingress(
        &with(tcp, "http: [{path: '/a('}]"),
        &[
            "p.yaml:7:76: spec.ingress[0].toPorts[0].rules.http[0].path: not a regular expression: \
         `(` without `)` (at character 3) (/a(); RE2 syntax",
        ],
    );
    check_ingress(
        &with(
            tcp,
            "http: [{method: get, path: '/api/*'}, {method: 'get|POST', path: /a*}]",
        ),
        &[
            "p.yaml:7:78: warning: spec.ingress[0].toPorts[0].rules.http[0].method: no request has this \
             method: they are compared with their case (get); write GET",
            "p.yaml:7:89: warning: spec.ingress[0].toPorts[0].rules.http[0].path: `/*` means any number of \
             slashes, not anything below (/api/*); write `/.*` for whatever follows",
        ],
    );
    check_ingress(
        &with(tcp, "http: [{pth: /a}]"),
        &[
            "p.yaml:7:75: spec.ingress[0].toPorts[0].rules.http[0].pth: no such field (/a); \
         did you mean `path`?",
        ],
    );
    check_ingress(
        &with(tcp, "http: [{headers: ['X:1']}]"),
        &[
            "p.yaml:7:80: warning: spec.ingress[0].toPorts[0].rules.http[0].headers[0]: asks for a header of \
         exactly this name, which no request can have (X:1); put a blank behind the colon to compare the value",
        ],
    );
    check_ingress(
        &with(
            tcp,
            "http: [{headerMatches: [{name: X, value: a, mismatch: SET}]}]",
        ),
        &[
            "p.yaml:7:116: spec.ingress[0].toPorts[0].rules.http[0].headerMatches[0].mismatch: \
         no such value (SET); one of: LOG, ADD, DELETE, REPLACE",
        ],
    );
    check_ingress(
        &with(
            tcp,
            "http: [{headerMatches: [{name: Host, value: a, mismatch: REPLACE}]}]",
        ),
        &[
            "p.yaml:7:86: spec.ingress[0].toPorts[0].rules.http[0].headerMatches[0]: \
         no request can be made so: header \"host\" may not be edited; another header, or `mismatch: LOG`",
        ],
    );
    check_ingress(
        &with(
            tcp,
            "http: [{headerMatches: [{name: X, mismatch: DELETE}]}]",
        ),
        &[
            "p.yaml:7:86: warning: spec.ingress[0].toPorts[0].rules.http[0].headerMatches[0]: without a value, any \
         is right: there is never anything to delete; write the value it should have",
        ],
    );
    check_egress(
        &with("{port: '53', endPort: 54}", "dns: [{matchName: a}]"),
        &[
            "p.yaml:7:24: spec.egress[0].toPorts[0].ports[0]: DNS rules cannot cover a range of ports; \
         list the ports",
        ],
    );
}

#[test]
fn bindings_about_http() {
    let with = |spec: &str| {
        format!(
            "apiVersion: tidegate.io/v1alpha1\nkind: PluginBinding\nmetadata: {{name: x}}\n\
             spec: {{endpointSelector: {{}}, direction: ingress, toPorts: [80], {spec}}}\n"
        )
    };
    check(
        &with("protocol: http"),
        &[
            "p.yaml:4:7: spec: names neither `plugin` nor `http`, and so does nothing; write one of them",
        ],
    );
    check(
        &with("http: {idleSeconds: 0, escapedSlashes: KEEP}"),
        &[
            "p.yaml:4:104: spec.http.escapedSlashes: no such value (KEEP); did you mean `keep`? one of: keep, \
             reject, unescapeAndRedirect, unescapeAndForward",
            "p.yaml:4:85: spec.http.idleSeconds: expected a number from 1 to 604800 (0)",
        ],
    );
    check(
        &with("http: {idleSeconds: 1}, failMode: open"),
        &[
            "p.yaml:4:99: spec.failMode: is for a plugin, and there is none (open); name it: `plugin: NAME`",
        ],
    );
    check(
        &with("http: {idleSeconds: 1}, protocol: dns, plugin: p"),
        &["p.yaml:4:71: spec.http: is for `protocol: http` alone; leave one of the two out"],
    );
}

#[test]
fn own_kinds() {
    let head = |kind: &str| {
        format!("apiVersion: tidegate.io/v1alpha1\nkind: {kind}\nmetadata: {{name: x}}\n")
    };
    check(
        &(head("Endpoint") + "spec: {addresses: [10.0.0.1]}\n"),
        &[
            "p.yaml:4:7: spec: needs exactly one of `interface` and `cgroup`; \
         the host side of the workload's veth, or the path of a cgroup",
        ],
    );
    check(
        &(head("Endpoint") + "spec: {interface: veth0, addresses: [10.0.0]}\n"),
        &["p.yaml:4:38: spec.addresses[0]: not an IP address (10.0.0)"],
    );
    check(
        &(head("Service") + "spec: {addresses: [10.0.0.1], ports: [{port: 0}]}\n"),
        &["p.yaml:4:46: spec.ports[0].port: expected a number from 1 to 65535 (0)"],
    );
    check(
        &(head("DenyList") + "spec: {cidrs: [0.0.0.0/0]}\n"),
        &[
            "p.yaml:4:16: warning: spec.cidrs[0]: refuses everything of its family that arrives on an \
             outside device, answers too (0.0.0.0/0); list the prefixes that shall be refused",
        ],
    );
    check(
        &(head("DenyList") + "spec: {cidr: []}\n"),
        &[
            "p.yaml:4:14: spec.cidr: no such field; did you mean `cidrs`?",
            "p.yaml:4:7: spec: `cidrs` is missing",
        ],
    );
}

#[test]
fn all_problems_of_a_file_are_found_together() {
    let text = format!(
        "{}---\n{}",
        policy("  endpointSelector: {}\n  ingress:\n  - fromEntities: [x]\n  - fromCIDR: [y]\n"),
        policy("  ingress: []\n")
    );
    let problems = parse_file("p.yaml", &text).unwrap_err();
    assert_eq!(
        problems.iter().map(|p| p.line).collect::<Vec<_>>(),
        [7, 8, 14]
    );
    assert!(problems.iter().all(|p| p.severity == Severity::Error));
    assert_eq!(
        problems[0]
            .document
            .as_ref()
            .map(ToString::to_string)
            .as_deref(),
        Some("CiliumNetworkPolicy a/p")
    );
}

/// One look at a document finds everything in it, whatever comes before.
#[test]
fn all_problems_of_a_document_are_found_together() {
    let cases = [
        (
            "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {namespace: 'A b'}\nspec:\n  \
             endpointSelector: {matchLabels: {app: 'w*', tier: 'x y'}, matchExpressions: [{key: '/', operator: Inn}]}\n  \
             enableDefaultDeny: {ingress: 1, egress: 2}\n  egress:\n  - toCIDRSet: [{cidr: x, except: [y]}, {cidr: z}]\n    \
             toPorts: [{ports: [{port: 'a b', protocol: X}, {port: '-'}], rules: {http: [{path: '(', host: '('}, {method: ')'}]}}]\n\
             specs: [{ingress: [{fromEntities: [all, nobody]}]}, {endpointSelector: {}}]\n",
            &[
                "metadata",
                "metadata.namespace",
                "spec.endpointSelector.matchLabels.app",
                "spec.endpointSelector.matchLabels.tier",
                "spec.endpointSelector.matchExpressions[0].key",
                "spec.endpointSelector.matchExpressions[0].operator",
                "spec.egress[0].toCIDRSet[0].cidr",
                "spec.egress[0].toCIDRSet[0].except[0]",
                "spec.egress[0].toCIDRSet[1].cidr",
                "spec.egress[0].toPorts[0].ports[0].protocol",
                "spec.egress[0].toPorts[0].ports[0].port",
                "spec.egress[0].toPorts[0].ports[1].port",
                "spec.egress[0].toPorts[0].rules.http[0].path",
                "spec.egress[0].toPorts[0].rules.http[0].host",
                "spec.egress[0].toPorts[0].rules.http[1].method",
                "spec.enableDefaultDeny.ingress",
                "spec.enableDefaultDeny.egress",
                "specs[0]",
                "specs[0].ingress[0].fromEntities[1]",
                "specs[1]",
            ][..],
        ),
        (
            "apiVersion: tidegate.io/v1alpha1\nkind: Endpoint\nmetadata: {labels: {'a b': c, 'k8s:d': e}}\n\
             spec: {addresses: [x, y], ports: [{name: '-', port: 0, protocol: z}], fastLane: 1, state: on}\n",
            &[
                "metadata",
                "spec",
                "spec.addresses[0]",
                "spec.addresses[1]",
                "spec.ports[0].name",
                "spec.ports[0].port",
                "spec.ports[0].protocol",
                "spec.fastLane",
                "spec.state",
                "metadata.labels.a b",
            ],
        ),
        (
            "apiVersion: tidegate.io/v1alpha1\nkind: Service\nmetadata: {}\n\
             spec: {addresses: [x], ports: [{port: 0, targetPort: '-'}, {name: 1}], algorithm: best, \
             backends: [{port: 0, weight: -1, state: x}, {address: y}], selector: {a: b}}\n",
            &[
                "metadata",
                "spec.addresses[0]",
                "spec.ports[0].port",
                "spec.ports[0].targetPort",
                "spec.ports[1]",
                "spec.ports[1].name",
                "spec.backends[0]",
                "spec.backends[0].port",
                "spec.backends[0].weight",
                "spec.backends[0].state",
                "spec.backends[1].address",
                "spec.algorithm",
                "spec.selector",
            ],
        ),
        (
            "apiVersion: tidegate.io/v1alpha1\nkind: PluginBinding\nmetadata: {}\n\
             spec: {direction: in, toPorts: [0, x], peers: [{a: b}], failMode: x, protocol: y}\n",
            &[
                "metadata",
                "spec",
                "spec.direction",
                "spec.peers[0].a",
                "spec.toPorts[0]",
                "spec.toPorts[1]",
                "spec.failMode",
                "spec.protocol",
                "spec",
            ],
        ),
        (
            "apiVersion: tidegate.io/v1alpha1\nkind: DenyList\nmetadata: {}\nspec: {cidrs: [x, y]}\n",
            &["metadata", "spec.cidrs[0]", "spec.cidrs[1]"],
        ),
    ];
    for (text, expected) in cases {
        let problems = parse_file("p.yaml", text).expect_err(text);
        let fields: Vec<&str> = problems.iter().map(|p| p.field.as_str()).collect();
        assert_eq!(fields, expected, "{text}{problems:#?}");
    }
}

#[test]
fn rules_of_kafka_that_can_never_match_and_lists_of_none() {
    let with = |rules: &str| {
        format!("toPorts: [{{ports: [{{port: '9092', protocol: TCP}}], rules: {{{rules}}}}}]")
    };
    check_ingress(
        &with("kafka: [{apiKey: createTopics, topic: a}, {apiKey: createTopics}, {}]"),
        &[
            "p.yaml:7:72: warning: spec.ingress[0].toPorts[0].rules.kafka[0]: never matches: the topics of \
             createtopics requests are not looked at; leave `topic` out, and all of them are allowed",
        ],
    );
    check_ingress(
        &with("kafka: [{clientID: c, apiVersion: '0'}, {apiKey: produce, topic: a}]"),
        &[
            "p.yaml:7:72: warning: spec.ingress[0].toPorts[0].rules.kafka[0]: never matches: a request of \
             version 0 counts as one that does not say who asks; leave `clientID` or `apiVersion` out",
        ],
    );
    for kind in ["kafka", "http"] {
        let told = format!(
            "p.yaml:7:{}: warning: spec.ingress[0].toPorts[0].rules.{kind}: no {kind} rules are no \
             restriction: whatever is sent is allowed, unread; list what is allowed, or leave `rules` out",
            66 + kind.len(),
        );
        check_ingress(&with(&format!("{kind}: []")), &[&told]);
    }
}

#[test]
fn server_names() {
    let with = |ports: &str, rest: &str| format!("toPorts: [{{ports: [{ports}], {rest}}}]");
    let tcp = "{port: '443', protocol: TCP}";
    check_ingress(
        &with(tcp, "serverNames: [a/b, '', [a], api.example]"),
        &[
            "p.yaml:7:69: spec.ingress[0].toPorts[0].serverNames[0]: the character `/` cannot be part of it; allowed are letters, digits, `-`, `_`, `.` and `*` (a/b); a name like api.example.com, or a pattern like *.example.com",
            "p.yaml:7:74: spec.ingress[0].toPorts[0].serverNames[1]: must not be empty ()",
            "p.yaml:7:78: spec.ingress[0].toPorts[0].serverNames[2]: expected a string, found a list",
        ],
    );
    check_ingress(
        &with("{port: '443'}", "serverNames: [api.example]"),
        &[
            "p.yaml:7:24: spec.ingress[0].toPorts[0].ports[0]: `serverNames` apply to TCP only: over UDP nobody could read them; write protocol: TCP",
        ],
    );
    check_ingress(
        &with(
            tcp,
            "serverNames: [api.example], rules: {http: [{path: /}]}",
        ),
        &[
            "p.yaml:7:15: spec.ingress[0].toPorts[0]: L7 rules beside `serverNames` would have to read what is encrypted; take one of them out, or write `terminatingTLS` beside them",
        ],
    );
    let ends = |rest: &str| {
        with(
            tcp,
            &format!("terminatingTLS: {{secret: {{name: web}}}}, {rest}"),
        )
    };
    check_ingress(
        &ends("serverNames: [api.example], rules: {http: [{path: /}]}"),
        &[],
    );
    check_ingress(
        &ends("originatingTLS: {secret: {namespace: a, name: ca}}"),
        &[],
    );
    check_ingress(
        &with(
            tcp,
            "terminatingTLS: {secret: {name: ../web}, certificate: a/b, key: x}",
        ),
        &[
            "p.yaml:7:119: spec.ingress[0].toPorts[0].terminatingTLS.key: no such field (x); known here: secret, trustedCA, certificate, privateKey",
            "p.yaml:7:87: spec.ingress[0].toPorts[0].terminatingTLS.secret.name: no name of a secret, or of something in one (../web); letters, digits, `-`, `_` and `.`, at most 253",
            "p.yaml:7:109: spec.ingress[0].toPorts[0].terminatingTLS.certificate: no name of a secret, or of something in one (a/b); letters, digits, `-`, `_` and `.`, at most 253",
        ],
    );
    check_ingress(
        &with(
            tcp,
            "originatingTLS: {secret: {name: ca}}, serverNames: [api.example]",
        ),
        &[
            "p.yaml:7:106: spec.ingress[0].toPorts[0].serverNames: clients have to speak TLS to ask for a name, and `originatingTLS` alone begins it for those that do not; write `terminatingTLS` too, or take one of them out",
        ],
    );
    check_ingress(
        &ends("rules: {kafka: [{topic: a}]}"),
        &[
            "p.yaml:7:101: spec.ingress[0].toPorts[0].rules: of what is inside of TLS only HTTP is read; write http rules, or leave `rules` out",
        ],
    );
    check_ingress(
        &with("{port: '443'}", "terminatingTLS: {secret: {name: web}}"),
        &[
            "p.yaml:7:24: spec.ingress[0].toPorts[0].ports[0]: TLS is spoken over TCP only; write protocol: TCP",
        ],
    );
}

/// What a policy asks to be held to names is, or the policy is refused.
#[test]
fn held_names() {
    let held =
        |rest: &str| {
            policy(&format!(
            "  endpointSelector: {{}}\n  egress:\n  - toFQDNs: [{{matchName: api.example}}]\n    \
             toPorts:\n    - ports: [{{port: '443', protocol: TCP}}]\n      {rest}\n"
        ))
        .replace("name: p,", "name: p, annotations: {tidegate.io/hold-names: 'true'},")
        };
    let refused = |protocol: &str| {
        format!(
            "p.yaml:10:14: spec.egress[0].toPorts[0].rules: names cannot be held to in this \
             protocol ({protocol}), as `tidegate.io/hold-names` asks: only in TLS and HTTP; write \
             it into a policy without that annotation, or take `rules` out, or write http rules"
        )
    };
    for (rules, protocol) in [
        ("rules: {kafka: [{topic: a}]}", "kafka"),
        ("rules: {l7proto: lines, l7: [{}]}", "lines"),
        ("rules: {dns: [{matchName: a.example}]}", "dns"),
    ] {
        check(&held(rules), &[&refused(protocol)]);
    }
    for rest in [
        "originatingTLS: {secret: {name: ca}}",
        "terminatingTLS: {secret: {name: web}}",
        "serverNames: [api.example]",
        "rules: {http: [{path: /}]}",
    ] {
        check(&held(rest), &[]);
    }
}
