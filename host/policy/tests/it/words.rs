//! Labels and ports: what Kubernetes and Cilium take as one, written a second time from
//! their documentation, as regular expressions.

use proptest::prelude::*;
use regex::Regex;
use tidegate_policy::parse_file;

/// `IsQualifiedName`.
fn is_key(key: &str) -> bool {
    let (prefix, name) = match key.rsplit_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let name_ok = Regex::new("^([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]$").unwrap();
    let prefix_ok =
        Regex::new(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$").unwrap();
    name.len() <= 63
        && name_ok.is_match(name)
        && prefix.is_none_or(|prefix| prefix.len() <= 253 && prefix_ok.is_match(prefix))
}

/// `IsValidLabelValue`.
fn is_value(value: &str) -> bool {
    let value_ok = Regex::new("^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$").unwrap();
    value.len() <= 63 && value_ok.is_match(value)
}

/// A key in a selector: a source may stand in front.
fn is_selector_key(key: &str) -> bool {
    let source = Regex::new("^(?:[a-z0-9]+:|[$])").unwrap();
    is_key(&source.replace(key, ""))
}

/// `IsValidPortName`, in any case, or a number from 0 to 65535 in Go's decimal or octal.
fn is_port(port: &str) -> bool {
    let words = Regex::new("^[A-Za-z0-9]+(-[A-Za-z0-9]+)*$").unwrap();
    let name =
        port.len() <= 15 && words.is_match(port) && port.contains(|c: char| c.is_alphabetic());
    let decimal = Regex::new("^(0|[1-9](_?[0-9])*)$").unwrap();
    let octal = Regex::new("^0(_?[0-7])+$").unwrap();
    let digits = port.replace('_', "");
    let radix = if octal.is_match(port) { 8 } else { 10 };
    let number = (decimal.is_match(port) || octal.is_match(port))
        && u32::from_str_radix(&digits, radix).is_ok_and(|number| number < 65_536);
    name || number
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

/// Is the document readable? If not, something must have been said about a place.
fn accepted(text: &str) -> bool {
    match parse_file("w.yaml", text) {
        Ok(documents) => {
            assert_eq!(documents.len(), 1);
            true
        }
        Err(problems) => {
            assert!(
                problems.iter().all(|p| p.line > 0 && !p.field.is_empty()),
                "{problems:?}"
            );
            false
        }
    }
}

fn policy(selector: &str, rule: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: p, namespace: a}}\n\
         spec:\n  endpointSelector: {selector}\n  ingress: [{rule}]\n"
    )
}

fn documents_with(key: &str, value: &str) -> Vec<String> {
    let (key, value) = (quoted(key), quoted(value));
    let map = format!("{{matchLabels: {{{key}: {value}}}}}");
    let expression =
        format!("{{matchExpressions: [{{key: {key}, operator: NotIn, values: [x, {value}]}}]}}");
    let own = "apiVersion: tidegate.io/v1alpha1";
    vec![
        policy(&map, "{}"),
        policy(&expression, "{}"),
        policy("{}", &format!("{{fromEndpoints: [{map}]}}")),
        policy("{}", &format!("{{fromEndpoints: [{expression}]}}")),
        format!(
            "{own}\nkind: Service\nmetadata: {{name: s}}\nspec: {{addresses: [10.9.9.9], \
             ports: [{{port: 80}}], selector: {{{key}: {value}}}}}\n"
        ),
        format!(
            "{own}\nkind: PluginBinding\nmetadata: {{name: b}}\nspec: {{endpointSelector: {map}, \
             direction: ingress, toPorts: [80], plugin: x, peers: [{map}]}}\n"
        ),
    ]
}

fn check_labels(key: &str, value: &str) {
    let valid = is_selector_key(key) && is_value(value);
    for document in documents_with(key, value) {
        assert_eq!(accepted(&document), valid, "{key:?}: {value:?}\n{document}");
    }
}

#[test]
fn labels_that_no_object_can_have_are_refused() {
    let long = |length: usize| "a".repeat(length);
    for (key, value, valid) in [
        ("app", "web", true),
        ("app", "", true),
        ("k8s:app", "Web_1.0", true),
        ("any:app", "web", true),
        ("$host", "", true),
        ("reserved:kube-apiserver", "", true),
        ("example.com/app", "web", true),
        (
            "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name",
            "x",
            true,
        ),
        (&long(63), &long(63), true),
        ("k8s:k8s:app", "web", false),
        (":app", "web", false),
        ("app:", "web", false),
        ("app", "we b", false),
        ("app", "web*", false),
        ("app*", "web", false),
        ("app", "-web", false),
        ("app", "web.", false),
        ("app", "wéb", false),
        ("app", &long(64), false),
        (&long(64), "web", false),
        ("Example.com/app", "web", false),
        ("example.com/", "web", false),
        ("/app", "web", false),
        ("a/b/c", "web", false),
        ("app=web", "", false),
    ] {
        assert_eq!(
            is_selector_key(key) && is_value(value),
            valid,
            "{key}: {value}"
        );
        check_labels(key, value);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn labels_are_what_kubernetes_takes(
        key in "(k8s:|any:|reserved:|[$])?([aZ0.-]{0,3}/)?[aZ0_./:* é-]{1,4}|a{62,65}",
        value in "[aZ0_./:* é-]{0,4}|b{62,65}",
    ) {
        check_labels(&key, &value);
        let endpoint = format!(
            "apiVersion: tidegate.io/v1alpha1\nkind: Endpoint\nmetadata: {{name: e, labels: {{{}: {}}}}}\n\
             spec: {{interface: v, addresses: [10.0.0.1]}}\n",
            quoted(&key),
            quoted(&value)
        );
        let plain = key.strip_prefix("any:").unwrap_or(&key);
        prop_assert_eq!(accepted(&endpoint), is_key(plain) && is_value(&value), "{}", endpoint);
    }

    #[test]
    fn ports_are_what_cilium_takes(port in "[0-9]{1,6}|[0-9_]{1,5}|[aZ0x+-]{1,4}|[a-c-]{14,17}") {
        let rule = format!("{{toPorts: [{{ports: [{{port: {}}}]}}]}}", quoted(&port));
        prop_assert_eq!(accepted(&policy("{}", &rule)), is_port(&port), "{}", port);
    }
}
