//! JSON Schemas of the documents, for editors.
//!
//! The readers in [`crate::input`] decide; they walk a tree and derive nothing, so the
//! schemas are written here and a test holds them against the readers, key by key. A
//! schema says what a document looks like: what its values mean together (an expression
//! that cannot be read, two rules that contradict each other) is `config check`'s to say.
//! Keys that the readers know only to refuse are not in it.

use serde_json::{Map, Value, json};

use crate::input::cilium::{APIS, ROLES};
use crate::terms::Direction;
use crate::{
    input::{CILIUM, ENFORCEMENT, ENFORCEMENTS, FOREIGN_METADATA, HOLD_NAMES, HOLDS, TIDEGATE},
    objects::MAX_WEIGHT,
};

/// Kinds of documents, as `kind:` has them.
pub const KINDS: [&str; 6] = [
    "CiliumNetworkPolicy",
    "CiliumClusterwideNetworkPolicy",
    "Endpoint",
    "Service",
    "DenyList",
    "PluginBinding",
];

/// The schema (draft 2020-12) of a kind of [`KINDS`]; `None` for other kinds.
pub fn schema(kind: &str) -> Option<Value> {
    let (version, namespaced, spec) = match kind {
        "CiliumNetworkPolicy" => (CILIUM, true, policy()),
        "CiliumClusterwideNetworkPolicy" => (CILIUM, false, policy()),
        "Endpoint" => (TIDEGATE, true, endpoint()),
        "Service" => (TIDEGATE, true, service()),
        "DenyList" => (TIDEGATE, false, deny_list()),
        "PluginBinding" => (TIDEGATE, true, binding()),
        _ => return None,
    };
    let mut properties = json!({
        "apiVersion": {"const": version},
        "kind": {"const": kind},
        "metadata": metadata(namespaced, (version == CILIUM, kind == "PluginBinding")),
        "spec": spec,
    });
    let mut required = vec!["apiVersion", "kind", "metadata"];
    let mut either = None;
    if version == CILIUM {
        properties["specs"] = list(properties["spec"].clone());
        properties["status"] = about("Written by API servers; of no meaning here.", json!({}));
        either = Some(json!([{"required": ["spec"]}, {"required": ["specs"]}]));
    } else {
        required.push("spec");
    }
    let mut schema = object(properties, &required);
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!(format!("{version} {kind}"));
    if let Some(either) = either {
        schema["anyOf"] = either;
    }
    Some(schema)
}

/// A mapping with these keys and no others.
fn object(properties: Value, required: &[&str]) -> Value {
    let mut schema = json!({
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

fn list(items: Value) -> Value {
    json!({"type": "array", "items": items})
}

fn about(description: &str, mut schema: Value) -> Value {
    schema["description"] = json!(description);
    schema
}

fn text() -> Value {
    json!({"type": "string"})
}

fn word() -> Value {
    json!({"type": "string", "minLength": 1})
}

fn switch() -> Value {
    json!({"type": "boolean"})
}

fn number(first: u32, last: u32) -> Value {
    json!({"type": "integer", "minimum": first, "maximum": last})
}

fn port() -> Value {
    number(1, u16::MAX.into())
}

/// Labels, or what else maps words to words; a key without a value has an empty one.
fn words() -> Value {
    json!({"type": "object", "additionalProperties": {"type": ["string", "null"]}})
}

/// Words that are read in any case; editors offer both.
fn any_case(words: &[&str]) -> Value {
    let lower = words.iter().map(|word| word.to_ascii_lowercase());
    let all: Vec<String> = words.iter().map(|w| (*w).to_owned()).chain(lower).collect();
    json!({"enum": all})
}

fn transport() -> Value {
    about("Default: TCP.", any_case(&["TCP", "UDP", "SCTP"]))
}

fn addresses() -> Value {
    list(about("An IP address.", text()))
}

fn prefix() -> Value {
    about("A prefix like 10.0.0.0/8, or an address.", text())
}

fn state() -> Value {
    about(
        "Default: active. `terminating` gets new connections only where nobody is active.",
        json!({"enum": ["active", "terminating", "quarantined", "maintenance"]}),
    )
}

fn metadata(namespaced: bool, (is_policy, is_binding): (bool, bool)) -> Value {
    let mut properties: Map<String, Value> = FOREIGN_METADATA
        .iter()
        .map(|key| ((*key).to_owned(), json!({})))
        .collect();
    properties.insert("name".into(), word());
    properties.insert("labels".into(), words());
    properties.insert("annotations".into(), annotations(is_policy, is_binding));
    if namespaced {
        properties.insert("namespace".into(), text());
    }
    object(properties.into(), &["name"])
}

/// Anything, but ours have a meaning.
fn annotations(is_policy: bool, is_binding: bool) -> Value {
    let mut annotations = json!({"type": ["object", "null"]});
    if is_policy || is_binding {
        let words = ENFORCEMENTS.map(|(word, _)| word);
        annotations["properties"] = json!({ENFORCEMENT: about(
            "`shadow`: not enforced; what would come of it is told. Default: enforce.",
            json!({"enum": words}),
        )});
    }
    if is_policy {
        let words = HOLDS.map(|(word, _)| word);
        annotations["properties"][HOLD_NAMES] = about(
            "`true`: egress rules by name are for who asks for that name, in TLS or HTTP. Default: false.",
            json!({"enum": words}),
        );
    }
    annotations
}

fn selector() -> Value {
    let expression = object(
        json!({
            "key": word(),
            "operator": {"enum": ["In", "NotIn", "Exists", "DoesNotExist"]},
            "values": list(text()),
        }),
        &["key", "operator"],
    );
    let selector = json!({"matchLabels": words(), "matchExpressions": list(expression)});
    object(selector, &[])
}

fn endpoint() -> Value {
    let port = object(
        json!({"name": word(), "port": port(), "protocol": transport()}),
        &["name", "port"],
    );
    let mut schema = object(
        json!({
            "interface": about("Host side of the workload's veth.",
                json!({"type": "string", "minLength": 1, "maxLength": 15})),
            "cgroup": about("Path of a host service's cgroup.", word()),
            "addresses": about("What the workload sends from.", addresses()),
            "ports": about("Names that policies may use.", list(port)),
            "fastLane": about("First-byte hints for local connections. Default: false.", switch()),
            "state": state(),
        }),
        &[],
    );
    schema["oneOf"] = json!([{"required": ["interface", "addresses"]}, {"required": ["cgroup"]}]);
    schema
}

fn service() -> Value {
    let frontend = object(
        json!({
            "name": word(),
            "port": port(),
            "targetPort": about("A number, or the name of an endpoint's port. Default: `port`.",
                json!({"anyOf": [port(), word()]})),
            "protocol": transport(),
        }),
        &["port"],
    );
    let backend = object(
        json!({
            "address": text(),
            "port": about("Default: the frontend port's `targetPort`.", port()),
            "weight": about("Share of new connections; 0: none. Default: 1.", number(0, MAX_WEIGHT)),
            "state": state(),
        }),
        &["address"],
    );
    let (mut addresses, mut frontends) = (addresses(), list(frontend));
    addresses["minItems"] = json!(1);
    frontends["minItems"] = json!(1);
    let mut schema = object(
        json!({
            "addresses": addresses,
            "ports": frontends,
            "algorithm": about("Default: random.", json!({"enum": ["random", "maglev"]})),
            "backends": list(backend),
            "selector": about("Labels of the endpoints that are backends.", words()),
        }),
        &["addresses", "ports"],
    );
    schema["not"] = json!({"required": ["backends", "selector"]});
    schema
}

fn deny_list() -> Value {
    object(json!({"cidrs": list(prefix())}), &["cidrs"])
}

fn binding() -> Value {
    let mut ports = list(json!({"anyOf": [port(), word()]}));
    ports["minItems"] = json!(1);
    object(
        json!({
            "endpointSelector": selector(),
            "direction": about("Seen from the selected endpoints.",
                json!({"enum": ["ingress", "egress"]})),
            "peers": about("Default: all.", list(selector())),
            "toPorts": ports,
            "plugin": about("Name of the plugin; left out where the binding is about `http` alone.", word()),
            "http": http_options(),
            "config": about("What the plugin's `configure` gets, as JSON.", json!({})),
            "failMode": about("What happens to traffic without an answer. Default: closed.",
                json!({"enum": ["open", "closed"]})),
            "protocol": about("How the stream is read. Default: http.",
                json!({"enum": ["http", "dns", "stream"]})),
        }),
        &["endpointSelector", "direction", "toPorts"],
    )
}

fn http_options() -> Value {
    let seconds = |what: &str| about(what, number(1, 604_800));
    let options = object(
        json!({
            "responseTimeoutSeconds": seconds("Longest time from a request's head to its response's, then 504. Default: none."),
            "streamIdleSeconds": seconds("Longest silence inside a message. Default: 300."),
            "idleSeconds": seconds("Longest wait for the next request of a connection. Default: 3600."),
            "maxConnectionAgeSeconds": seconds("Age at which a connection takes no further request, and ends when those it has are done. Default: none."),
            "normalizePath": about("Dot segments, and characters that need no escape, are resolved before rules see them. Default: true.", switch()),
            "mergeSlashes": about("Slashes that follow each other are one. Default: true.", switch()),
            "escapedSlashes": about("What is done with a slash or backslash that is escaped. Default: unescapeAndRedirect.",
                json!({"enum": ["keep", "reject", "unescapeAndRedirect", "unescapeAndForward"]})),
        }),
        &[],
    );
    about("How HTTP is carried.", options)
}

fn policy() -> Value {
    let rules = |direction, deny| list(rule(direction, deny));
    object(
        json!({
            "endpointSelector": selector(),
            "ingress": rules(Direction::Ingress, false),
            "ingressDeny": rules(Direction::Ingress, true),
            "egress": rules(Direction::Egress, false),
            "egressDeny": rules(Direction::Egress, true),
            "enableDefaultDeny": about("Directions the policy does not restrict.",
                object(json!({"ingress": switch(), "egress": switch()}), &[])),
            "description": {},
            "labels": {},
            "log": {},
        }),
        &["endpointSelector"],
    )
}

fn rule(direction: Direction, deny: bool) -> Value {
    let peer = match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    let set = object(
        json!({"cidr": prefix(), "except": list(prefix())}),
        &["cidr"],
    );
    let entities = json!({"enum": [
        "all", "none", "host", "remote-node", "world", "world-ipv4", "world-ipv6", "cluster",
        "init", "ingress", "health", "unmanaged", "kube-apiserver",
    ]});
    let mut properties = Map::new();
    for (key, items) in [
        ("Endpoints", selector()),
        ("Entities", entities),
        ("CIDR", prefix()),
        ("CIDRSet", set),
    ] {
        properties.insert(format!("{peer}{key}"), list(items));
    }
    if direction == Direction::Egress && !deny {
        properties.insert("toFQDNs".into(), list(name()));
    }
    properties.insert("toPorts".into(), list(to_ports(direction, deny)));
    properties.insert("icmps".into(), list(icmp()));
    object(properties.into(), &[])
}

/// A DNS name or a pattern of names.
fn name() -> Value {
    let mut schema = object(json!({"matchName": word(), "matchPattern": word()}), &[]);
    schema["oneOf"] = json!([{"required": ["matchName"]}, {"required": ["matchPattern"]}]);
    schema
}

fn to_ports(direction: Direction, deny: bool) -> Value {
    let port = object(
        json!({
            "port": about("A number or a name, in quotes; \"0\" is all of them.", word()),
            "endPort": number(0, u16::MAX.into()),
            "protocol": about("Default: ANY.", any_case(&["TCP", "UDP", "SCTP", "ANY"])),
        }),
        &["port"],
    );
    let mut properties = json!({"ports": list(port)});
    if !deny {
        properties["rules"] = l7(direction);
        properties["serverNames"] = about(
            "Names of servers that clients may ask for in TLS: a name, or a pattern like `*.example.com`.",
            list(word()),
        );
        properties["terminatingTLS"] = tls(
            "TLS of clients ends at the proxy, with the certificate and key of a secret; with authorities in it, clients have to show a certificate of theirs.",
        );
        properties["originatingTLS"] = tls(
            "The proxy begins TLS towards the server, which has to show a certificate of the secret's authorities; with a certificate and key in it, the server is shown them.",
        );
    }
    object(properties, &[])
}

/// A secret and its items.
fn tls(meaning: &str) -> Value {
    let secret = object(
        json!({
            "namespace": about("Default: the policy's.", word()),
            "name": word(),
        }),
        &["name"],
    );
    let context = object(
        json!({
            "secret": about("A folder `NAMESPACE/NAME` below `folders.secrets`.", secret),
            "trustedCA": about("Its item with authorities. Default: ca.crt, if it is there.", word()),
            "certificate": about("Its item with the chain of certificates. Default: tls.crt, if it is there.", word()),
            "privateKey": about("Its item with the key. Default: tls.key, if it is there.", word()),
        }),
        &["secret"],
    );
    about(meaning, context)
}

fn l7(direction: Direction) -> Value {
    let pattern = || about("An RE2 expression that the whole must match.", text());
    let header = object(
        json!({
            "name": word(),
            "value": text(),
            "mismatch": about("What is done where the value is another; if absent, the rule does not match.",
                json!({"enum": ["LOG", "ADD", "DELETE", "REPLACE"]})),
        }),
        &["name"],
    );
    let request = object(
        json!({
            "method": pattern(),
            "path": pattern(),
            "host": pattern(),
            "headers": about("`Name: value`, or a name alone.", list(word())),
            "headerMatches": list(header),
        }),
        &[],
    );
    let mut properties = json!({
        "http": list(request),
        "l7proto": about("Name of the plugin that reads `l7`.", word()),
        "l7": list(words()),
    });
    properties["kafka"] = list(kafka());
    if direction == Direction::Egress {
        properties["dns"] = list(name());
    }
    object(properties, &[])
}

/// A rule about requests to Kafka.
fn kafka() -> Value {
    let optional = |words: &[&str]| json!({"anyOf": [any_case(words), {"const": ""}]});
    let mut schema = object(
        json!({
            "role": about("What the client is for.", optional(&ROLES.map(|(word, _)| word))),
            "apiKey": about("One kind of request.", optional(&APIS)),
            "apiVersion": about("Exactly this version, in quotes.", text()),
            "clientID": about("Exactly this client id.", text()),
            "topic": about("Exactly this topic.", text()),
        }),
        &[],
    );
    schema["not"] = json!({"required": ["role", "apiKey"]});
    schema
}

fn icmp() -> Value {
    let field = object(
        json!({
            "family": about("Default: IPv4.", json!({"enum": ["IPv4", "IPv6"]})),
            "type": about("A number, or a name like EchoRequest.",
                json!({"anyOf": [number(0, u8::MAX.into()), word()]})),
        }),
        &["type"],
    );
    object(json!({"fields": list(field)}), &[])
}
