//! The schemas under `docs/schemas`: those the code makes, true to the readers, and
//! enough for every example there is.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use tidegate_policy::{KINDS, parse_file, schema};

/// Keys that readers know only to refuse; a schema does not offer them.
const REFUSED: [&str; 20] = [
    "authentication",
    "cidrGroupRef",
    "cidrGroupSelector",
    "dns",
    "fromGroups",
    "fromNodes",
    "fromRequires",
    "listener",
    "namespace",
    "nodeSelector",
    "originatingTLS",
    "rules",
    "secret",
    "serverNames",
    "terminatingTLS",
    "toFQDNs",
    "toGroups",
    "toNodes",
    "toRequires",
    "toServices",
];

/// Documents that have every mapping there can be.
const COMPLETE: &str = r#"
apiVersion: tidegate.io/v1alpha1
kind: Endpoint
metadata: {name: web, namespace: shop, labels: {app: web, plain: null}}
spec:
  interface: veth-web
  addresses: [10.0.0.1]
  ports: [{name: http, port: 80, protocol: TCP}]
  fastLane: true
  state: active
---
apiVersion: tidegate.io/v1alpha1
kind: Service
metadata: {name: web}
spec:
  addresses: [10.96.0.1]
  algorithm: maglev
  ports: [{name: http, port: 80, targetPort: http, protocol: tcp}]
  backends: [{address: 10.0.0.1, port: 80, weight: 2, state: active}]
---
apiVersion: tidegate.io/v1alpha1
kind: DenyList
metadata: {name: bad}
spec: {cidrs: [192.0.2.0/24]}
---
apiVersion: tidegate.io/v1alpha1
kind: PluginBinding
metadata: {name: bots}
spec:
  endpointSelector: {matchLabels: {app: web}, matchExpressions: [{key: a, operator: Exists}]}
  direction: ingress
  peers: [{matchLabels: {app: web}, matchExpressions: [{key: a, operator: In, values: [b]}]}]
  toPorts: [80, "81"]
  plugin: bots
  config: {deny: [a]}
  failMode: closed
  protocol: http
  http: {responseTimeoutSeconds: 1, streamIdleSeconds: 2, idleSeconds: 3, maxConnectionAgeSeconds: 604800,
    normalizePath: true, mergeSlashes: false, escapedSlashes: keep}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: p, namespace: shop, annotations: {a: b}}
specs: [SPEC]
---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: p}
spec: SPEC
status: {}
"#;

/// As JSON, which is YAML on one line.
fn spec() -> Value {
    let selector = || json!({"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "a", "operator": "Exists"}]});
    let ports = json!([{"port": "80", "endPort": 81, "protocol": "TCP"}]);
    let icmps = json!([{"fields": [{"family": "IPv6", "type": "EchoRequest"}]}]);
    let http = json!([{
        "method": "GET", "path": "/", "host": "a", "headers": ["X-A: b"],
        "headerMatches": [{"name": "x-b", "value": "c", "mismatch": "ADD"}],
    }]);
    let rules = |peer: &str, deny: bool| {
        let with_l7 = |rules: Value| json!({"toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}], "rules": rules}]});
        let mut all = vec![
            json!({format!("{peer}Endpoints"): [selector()], "toPorts": [{"ports": ports}]}),
            json!({format!("{peer}CIDRSet"): [{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}]}),
            json!({format!("{peer}CIDR"): ["10.0.0.0/8"]}),
            json!({format!("{peer}Entities"): ["world"]}),
            json!({"icmps": icmps}),
        ];
        if !deny {
            all.push(with_l7(json!({"http": http})));
            all.push(with_l7(json!({"l7proto": "bots", "l7": [{"a": "b"}]})));
            let produce = json!({"role": "produce", "topic": "a", "clientID": "c"});
            let fetch = json!({"apiKey": "fetch", "apiVersion": "12"});
            all.push(with_l7(json!({"kafka": [produce, fetch]})));
            let tls = json!([{"port": "443", "protocol": "TCP"}]);
            let names = json!(["api.example.com", "**.example.org"]);
            all.push(json!({"toPorts": [{"ports": tls, "serverNames": names}]}));
            let context = json!({"secret": {"namespace": "shop", "name": "web"},
                "trustedCA": "ca.crt", "certificate": "tls.crt", "privateKey": "tls.key"});
            all.push(json!({"toPorts": [{"ports": tls, "terminatingTLS": context,
                "originatingTLS": context, "rules": {"http": http}}]}));
        }
        if peer == "to" && !deny {
            all.push(json!({"toFQDNs": [{"matchPattern": "*.example.com"}]}));
            let dns = json!({"dns": [{"matchName": "example.com"}]});
            all.push(
                json!({"toPorts": [{"ports": [{"port": "53", "protocol": "UDP"}], "rules": dns}]}),
            );
        }
        all
    };
    json!({
        "endpointSelector": selector(),
        "description": "everything", "labels": [], "log": {},
        "enableDefaultDeny": {"ingress": true, "egress": true},
        "ingress": rules("from", false), "ingressDeny": rules("from", true),
        "egress": rules("to", false), "egressDeny": rules("to", true),
    })
}

fn complete() -> Vec<Value> {
    documents(&COMPLETE.replace("SPEC", &spec().to_string()))
}

fn documents(yaml: &str) -> Vec<Value> {
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_multiple_with_options(yaml, options)
        .unwrap_or_else(|e| panic!("{e}\n{yaml}"))
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn all() -> Vec<(String, Value)> {
    let kinds = KINDS.iter().map(|kind| {
        let schema = schema(kind).unwrap_or_else(|| panic!("no schema of {kind}"));
        ((*kind).to_owned(), schema)
    });
    kinds
        .chain([("tidegate".to_owned(), tidegate_config::schema())])
        .collect()
}

#[test]
fn the_files_are_those_the_code_makes() {
    let folder = repository().join("docs/schemas");
    let bless = std::env::var_os("TIDEGATE_BLESS").is_some();
    let mut expected = BTreeSet::new();
    for (name, schema) in all() {
        let path = folder.join(format!("{name}.json"));
        let text = format!("{schema:#}\n");
        if bless {
            fs::create_dir_all(&folder).expect("the folder");
            fs::write(&path, &text).expect("the file");
        }
        let found = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == text,
            "{} is not what the code makes; run this test with TIDEGATE_BLESS=1",
            path.display()
        );
        expected.insert(format!("{name}.json"));
    }
    let is_kind = |name: &String| {
        let stem = name.trim_end_matches(".json");
        stem.starts_with(char::is_uppercase)
    };
    let there: BTreeSet<String> = fs::read_dir(&folder)
        .expect("the folder")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .filter(is_kind)
        .collect();
    expected.remove("tidegate.json");
    assert_eq!(there, expected, "files of kinds that are no more");
}

#[test]
fn a_schema_has_the_keys_its_reader_has() {
    let mut refused = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for document in complete() {
        let kind = document["kind"].as_str().expect("a kind").to_owned();
        let schema = schema(&kind).expect("a schema");
        assert_eq!(check(&schema, &schema, &document), Ok(()), "{kind}");
        parse_file("t.yaml", &document.to_string()).unwrap_or_else(|p| panic!("{kind}: {p:?}"));

        let mut places = Vec::new();
        mappings(&schema, &document, "", "", &mut places);
        seen.insert(kind.clone());
        let visited: BTreeSet<&String> = places.iter().map(|(_, at, _)| at).collect();
        assert_eq!(
            visited.len(),
            count(&schema) - unvisited(&kind),
            "{kind}: mappings without an example"
        );
        for (place, _, offered) in &places {
            let mut strange = document.clone();
            let mapping = strange.pointer_mut(place).and_then(Value::as_object_mut);
            mapping.expect("a mapping").insert("q".repeat(40), json!(1));
            assert!(
                check(&schema, &schema, &strange).is_err(),
                "{kind}{place}: takes any key"
            );
            let problems = parse_file("t.yaml", &strange.to_string()).expect_err("a strange key");
            let hint = problems
                .iter()
                .find_map(|p| p.hint.as_deref()?.strip_prefix("known here: "));
            let known: BTreeSet<&str> = hint
                .unwrap_or_else(|| panic!("{kind}{place}: {problems:?}"))
                .split(", ")
                .collect();
            let offered: BTreeSet<&str> = offered.iter().map(String::as_str).collect();
            let more: Vec<_> = offered.difference(&known).collect();
            assert!(
                more.is_empty(),
                "{kind}{place}: the reader does not know {more:?}"
            );
            for key in known.difference(&offered) {
                assert!(
                    REFUSED.contains(key),
                    "{kind}{place}: the schema lacks `{key}`"
                );
                refused.insert((*key).to_owned());
            }
        }
    }
    assert_eq!(seen.len(), KINDS.len(), "{seen:?}");
    assert_eq!(
        refused,
        REFUSED.map(str::to_owned).into(),
        "keys that are refused"
    );
}

/// Mappings the example of a kind has in its other variant: `spec` beside `specs`.
fn unvisited(kind: &str) -> usize {
    let spec = || count(&schema("CiliumNetworkPolicy").expect("a schema")["properties"]["spec"]);
    match kind {
        "CiliumNetworkPolicy" | "CiliumClusterwideNetworkPolicy" => spec(),
        _ => 0,
    }
}

/// Closed mappings of a document: where, where in the schema, and the keys it may have.
fn mappings(
    schema: &Value,
    value: &Value,
    place: &str,
    at: &str,
    found: &mut Vec<(String, String, Vec<String>)>,
) {
    if let (Some(properties), Some(entries)) = (closed(schema), value.as_object()) {
        found.push((
            place.to_owned(),
            at.to_owned(),
            properties.keys().cloned().collect(),
        ));
        for (key, value) in entries {
            let (place, at) = (format!("{place}/{key}"), format!("{at}/{key}"));
            mappings(&properties[key], value, &place, &at, found);
        }
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        mappings(
            &schema["items"],
            item,
            &format!("{place}/{index}"),
            &format!("{at}/[]"),
            found,
        );
    }
}

/// The keys of a mapping that takes no others.
fn closed(schema: &Value) -> Option<&serde_json::Map<String, Value>> {
    let properties = schema["properties"].as_object();
    properties.filter(|_| schema["additionalProperties"] == json!(false))
}

/// How many closed mappings a schema has.
fn count(schema: &Value) -> usize {
    let properties = closed(schema);
    let inside: usize = properties
        .into_iter()
        .flatten()
        .map(|(_, inner)| count(inner))
        .sum();
    let items = schema.get("items").map_or(0, count);
    usize::from(properties.is_some()) + inside + items
}

#[test]
fn every_example_fits_its_schema() {
    let root = repository();
    let mut files = Vec::new();
    for folder in [
        "examples",
        "docs",
        "host/policy/testdata",
        "tests/fuzz/seeds/policy",
    ] {
        collect(&root.join(folder), &mut files);
    }
    files.push(root.join("README.md"));
    let (all, mut checked) = (all(), BTreeSet::new());
    for file in files {
        let text = fs::read_to_string(&file).expect("readable");
        let blocks: Vec<&str> = match file.extension().and_then(|e| e.to_str()) {
            Some("md") => text
                .split("```yaml\n")
                .skip(1)
                .filter_map(|b| b.split("```").next())
                .collect(),
            _ => vec![&text],
        };
        for document in blocks.into_iter().flat_map(documents) {
            let name = match document["kind"].as_str() {
                Some(kind) => kind,
                None if document.get("node").is_some() || document.get("folders").is_some() => {
                    "tidegate"
                }
                // A part of a document, shown to make a point.
                None => continue,
            };
            let Some((_, schema)) = all.iter().find(|(known, _)| known == name) else {
                panic!("{}: no schema of {name}", file.display());
            };
            assert_eq!(
                check(schema, schema, &document),
                Ok(()),
                "{}: {document:#}",
                file.display()
            );
            checked.insert(name.to_owned());
        }
    }
    assert_eq!(
        checked.len(),
        all.len(),
        "kinds without an example: only {checked:?}"
    );
}

#[test]
fn what_does_not_look_right_does_not_fit() {
    for (kind, pointer, wrong) in [
        ("Endpoint", "/spec/addresses", json!(null)),
        ("Endpoint", "/spec/ports/0/port", json!(0)),
        ("Endpoint", "/spec/state", json!("gone")),
        ("Endpoint", "/spec/cgroup", json!("a.slice")),
        ("Service", "/spec/backends/0/weight", json!(1001)),
        ("Service", "/spec/selector", json!({"app": "web"})),
        ("Service", "/spec/algorithm", json!("maglef")),
        ("DenyList", "/spec/cidrs", json!("192.0.2.0/24")),
        ("DenyList", "/metadata/namespace", json!("shop")),
        ("PluginBinding", "/spec/failMode", json!("close")),
        ("PluginBinding", "/spec/toPorts", json!([])),
        ("CiliumNetworkPolicy", "/apiVersion", json!("cilium.io/v1")),
        (
            "CiliumNetworkPolicy",
            "/specs/0/ingress/0/toPorts/0/ports/0/port",
            json!(80),
        ),
        (
            "CiliumNetworkPolicy",
            "/specs/0/egressDeny/0/toFQDNs",
            json!([{"matchName": "a.b"}]),
        ),
        ("CiliumNetworkPolicy", "/specs/0/nodeSelector", json!({})),
        (
            "CiliumClusterwideNetworkPolicy",
            "/spec/endpointSelector/matchLabels/app",
            json!(1),
        ),
    ] {
        let mut document = complete()
            .into_iter()
            .find(|d| d["kind"] == kind)
            .expect(kind);
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
        document.pointer_mut(parent).expect(pointer)[key] = wrong;
        let schema = schema(kind).expect("a schema");
        assert!(
            check(&schema, &schema, &document).is_err(),
            "{kind} {pointer}"
        );
        assert!(
            parse_file("t.yaml", &document.to_string()).is_err(),
            "{kind} {pointer}: the reader takes it"
        );
    }
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
        let path = entry.expect("an entry").path();
        match path.extension().and_then(|e| e.to_str()) {
            _ if path.is_dir() => collect(&path, files),
            Some("md" | "yaml") => files.push(path),
            _ => {}
        }
    }
}

/// The part of JSON Schema that ours use; a word it does not know is an error.
fn check(root: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let Some(words) = schema.as_object() else {
        return match schema {
            Value::Bool(true) => Ok(()),
            _ => Err(format!("nothing fits here: {value}")),
        };
    };
    let all = |schemas: &Value| schemas.as_array().cloned().unwrap_or_default();
    for (word, wanted) in words {
        let fits = |schema: &Value| check(root, schema, value).is_ok();
        let fit = |schemas: &Value| all(schemas).iter().filter(|schema| fits(schema)).count();
        let length = value.as_str().map(|text| text.chars().count() as u64);
        let items = value.as_array().map(|items| items.len() as u64);
        let ok = match word.as_str() {
            "$schema" | "$defs" | "title" | "description" | "default" | "format" => true,
            "$ref" => {
                let pointer = wanted.as_str().and_then(|at| at.strip_prefix('#'));
                let target = pointer
                    .and_then(|at| root.pointer(at))
                    .expect("a definition");
                check(root, target, value)?;
                true
            }
            "type" => match wanted {
                Value::String(name) => is(name, value),
                names => all(names)
                    .iter()
                    .any(|name| is(name.as_str().unwrap_or_default(), value)),
            },
            "const" => value == wanted,
            "enum" => all(wanted).contains(value),
            "anyOf" => fit(wanted) > 0,
            "oneOf" => fit(wanted) == 1,
            "not" => !fits(wanted),
            "minLength" => length.is_none_or(|n| Some(n) >= wanted.as_u64()),
            "maxLength" => length.is_none_or(|n| Some(n) <= wanted.as_u64()),
            "minItems" => items.is_none_or(|n| Some(n) >= wanted.as_u64()),
            "minimum" => value.as_f64().is_none_or(|n| Some(n) >= wanted.as_f64()),
            "maximum" => value.as_f64().is_none_or(|n| Some(n) <= wanted.as_f64()),
            "required" => value.as_object().is_none_or(|entries| {
                all(wanted)
                    .iter()
                    .all(|key| entries.contains_key(key.as_str().unwrap_or_default()))
            }),
            "items" => {
                value
                    .as_array()
                    .into_iter()
                    .flatten()
                    .try_for_each(|item| check(root, wanted, item))?;
                true
            }
            "properties" => {
                for (key, inner) in value.as_object().into_iter().flatten() {
                    if let Some(schema) = wanted.get(key) {
                        check(root, schema, inner).map_err(|why| format!("{key}: {why}"))?;
                    }
                }
                true
            }
            "additionalProperties" => {
                for (key, inner) in value.as_object().into_iter().flatten() {
                    if words
                        .get("properties")
                        .is_none_or(|known| known.get(key).is_none())
                    {
                        check(root, wanted, inner).map_err(|why| format!("{key}: {why}"))?;
                    }
                }
                true
            }
            other => panic!("the check does not know `{other}`"),
        };
        if !ok {
            return Err(format!("{value} is not {word} {wanted}"));
        }
    }
    Ok(())
}

fn is(name: &str, value: &Value) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "null" => value.is_null(),
        other => panic!("the check does not know the type `{other}`"),
    }
}
