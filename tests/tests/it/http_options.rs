//! What rules do to headers, and what bindings say of how HTTP is carried.

use anyhow::{Context as _, Result, ensure};
use tidegate_tests::harness::{Curl, eventually};

use crate::shop::{H2, HTTP, POLICY, Shop, together};

/// A header that the server repeats.
const HEADER: &str = "X-Bot-Filter";

#[test]
fn requests_are_changed_and_carried_as_documents_say() -> Result<()> {
    let mut shop = Shop::open()?;
    let rule = |path: &str, mismatch: &str| {
        format!(
            "        - path: /api/{path}\n          headerMatches: \
             [{{name: {HEADER}, value: right{mismatch}}}]\n"
        )
    };
    let rules = [
        rule("must", ""),
        rule("log", ", mismatch: LOG"),
        rule("add", ", mismatch: ADD"),
        rule("delete", ", mismatch: DELETE"),
        rule("replace", ", mismatch: REPLACE"),
        "        - {path: \"/api/paths/.*\"}\n".to_owned(),
    ];
    let policy = POLICY.replace("        - {path: \"/api/.*\"}\n", &rules.concat());
    shop.world.node.write("policies/backend.yaml", policy)?;
    shop.world.node.start()?;
    together!(&shop;
        a_header_that_is_not_as_it_should_be_is_made_so,
        a_binding_says_how_paths_are_read,
    )
}

fn a_header_that_is_not_as_it_should_be_is_made_so(shop: &Shop) -> Result<()> {
    for (port, version) in [(HTTP, "--http1.1"), (H2, "--http2-prior-knowledge")] {
        for (path, sent, expected) in [
            ("must", Some("right"), Some("right")),
            ("must", Some("wrong"), None),
            ("must", None, None),
            ("log", Some("wrong"), Some("wrong")),
            ("log", None, Some("")),
            ("add", Some("wrong"), Some("wrong, right")),
            ("add", None, Some("right")),
            ("delete", Some("wrong"), Some("")),
            ("delete", Some("right"), Some("right")),
            ("replace", Some("wrong"), Some("right")),
            ("replace", None, Some("right")),
        ] {
            let mut curl = Curl::get(shop.url(port, &format!("/api/{path}"))).with(&[version]);
            if let Some(value) = sent {
                curl = curl.header(&format!("{HEADER}: {value}"));
            }
            let what = format!("{path} with {sent:?} by {version}");
            let status = if expected.is_some() { 200 } else { 403 };
            let answer = curl.expect(&shop.frontend, status).context(what.clone())?;
            if let Some(expected) = expected {
                let seen = answer.body.split_once(&format!("/api/{path} "));
                let (_, seen) = seen.with_context(|| answer.body.clone())?;
                assert_eq!(seen.trim_end_matches('\n'), expected, "{what}");
            }
        }
    }
    // Asking what would become of one tells of none.
    let to = format!("backend-1:{HTTP}");
    let asked = ["explain", "frontend", &to, "http", "GET", "/api/log"];
    shop.world.node.text(&asked)?;
    // What passes and is not as it should be is told, without its value.
    eventually(
        "the counter of headers that are not as they should be",
        || {
            let metrics = Curl::get("http://127.0.0.1:9965/metrics");
            let metrics = metrics.expect(shop.world.node.place(), 200)?.body;
            let mut counters = metrics.lines().filter(|line| {
                line.starts_with("tidegate_plugin_counter_total{") && line.contains("mismatch")
            });
            let counter = counters.next().context("no counter")?;
            ensure!(counter.ends_with(" 4"), "{counter}");
            Ok(())
        },
    )
}

fn a_binding_says_how_paths_are_read(shop: &Shop) -> Result<()> {
    let escaped = || Curl::get(shop.url(HTTP, "/api/paths/a%2fb")).with(&["--path-as-is"]);
    escaped().expect(&shop.frontend, 307)?;
    let node = &shop.world.node;
    let binding = |http: &str| {
        format!(
            "apiVersion: tidegate.io/v1alpha1
kind: PluginBinding
metadata: {{name: carried, namespace: shop}}
spec:
  endpointSelector: {{matchLabels: {{app: backend}}}}
  direction: ingress
  toPorts: [{HTTP}]
  http: {http}
"
        )
    };
    let file = "policies/carried.yaml";
    node.change(|node| node.write(file, binding("{escapedSlashes: keep}")))?;
    let answer = escaped().expect(&shop.frontend, 200)?;
    ensure!(answer.body.contains("/api/paths/a%2fb "), "{}", answer.body);
    let text = node.text(&[
        "explain",
        "frontend",
        &format!("backend-1:{HTTP}"),
        "http",
        "GET",
        "/api/paths/a%2fb",
    ])?;
    ensure!(text.contains("GET /api/paths/a%2fb: ALLOWED"), "{text}");
    ensure!(
        text.contains("http: carried with escapedSlashes=keep"),
        "{text}"
    );
    // Who says more than that is careful.
    node.change(|node| {
        node.write(
            "policies/carried2.yaml",
            binding("{escapedSlashes: reject}").replace("name: carried", "name: careful"),
        )
    })?;
    escaped().expect(&shop.frontend, 400)?;
    Ok(())
}
