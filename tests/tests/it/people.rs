//! What people see: status, observe, explain, lists, metrics.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tidegate_tests::harness::{Curl, Place, eventually, within, world::NODE_V4};

use crate::shop::{HTTP, PLAIN, POLICY, Shop, together};

#[test]
fn on_a_running_node() -> Result<()> {
    let shop = Shop::running()?;
    together!(&shop;
        status_tells_how_the_node_is,
        lists_have_what_is_there,
        explain_names_the_rule_and_agrees_with_what_happens,
        observe_follows_and_filters,
        every_filter_of_observe_selects_what_it_says,
        metrics_read_as_openmetrics_and_count_what_happened,
    )
}

fn status_tells_how_the_node_is(shop: &Shop) -> Result<()> {
    let text = shop.world.node.text(&["status"])?;
    for part in ["lab", "in kernel and proxy", "serving"] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
    Ok(())
}

fn lists_have_what_is_there(shop: &Shop) -> Result<()> {
    for (noun, parts) in [
        (
            "endpoint",
            vec!["shop/frontend", "shop/backend-1", "10.10.0.10", "ready"],
        ),
        ("identity", vec!["k8s:app=frontend", "reserved:host"]),
        (
            "policy",
            vec!["CiliumNetworkPolicy", "policies/backend.yaml", "active"],
        ),
        ("plugin", vec!["http", "dns", "built-in"]),
    ] {
        let text = shop.world.node.text(&[noun, "list"])?;
        for part in parts {
            assert!(text.contains(part), "no `{part}` in `{noun} list`:\n{text}");
        }
    }
    Ok(())
}

fn explain_names_the_rule_and_agrees_with_what_happens(shop: &Shop) -> Result<()> {
    for (from, port, verdict) in [
        ("frontend", PLAIN, "FORWARDED"),
        ("frontend", HTTP, "REDIRECTED"),
        ("stranger", PLAIN, "DROPPED"),
    ] {
        let answer = shop
            .world
            .node
            .json(&["explain", from, &format!("backend-1:{port}")])?;
        assert_eq!(answer["verdict"], verdict, "{from} to {port}: {answer:#}");
    }
    let text = shop
        .world
        .node
        .text(&["explain", "frontend", &format!("backend-1:{HTTP}")])?;
    for part in ["policies/backend.yaml", "/api/.*"] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
    Ok(())
}

/// What the frontend may look up, and where it may go then.
const LOOKUPS: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: frontend-lookups, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: frontend}}
  egress:
  - toEndpoints: [{matchLabels: {app: backend}}]
  - toEntities: [host]
    toPorts:
    - ports: [{port: "53", protocol: ANY}]
      rules: {dns: [{matchPattern: "*.shop.example"}]}
  - toFQDNs: [{matchName: db.shop.example}]
"#;

const NAMED: &str = "\
apiVersion: tidegate.io/v1alpha1
kind: Service
metadata: {name: store, namespace: shop}
spec:
  addresses: [10.96.0.20]
  ports:
  - {name: web, port: 80, targetPort: 8080, protocol: TCP}
  - {name: plain, port: 81, targetPort: 9000, protocol: TCP}
  backends: [{address: 10.10.0.11}]
";

#[test]
fn explain_takes_the_names_people_have_and_judges_requests_as_the_proxy_does() -> Result<()> {
    let mut shop = Shop::open()?;
    let node = &shop.world.node;
    node.write("policies/backend.yaml", POLICY)?;
    node.write("policies/lookups.yaml", LOOKUPS)?;
    node.write(
        "services/store.yaml",
        NAMED.replace("10.10.0.11", &shop.backend.v4.to_string()),
    )?;
    // A service that has an endpoint's name.
    node.write(
        "services/backend-1.yaml",
        NAMED
            .replace("store", "backend-1")
            .replace("10.96.0.20", "10.96.0.21")
            .replace("10.10.0.11", &shop.other.v4.to_string()),
    )?;
    shop.world.node.start()?;
    let node = &shop.world.node;

    // Every request as it is judged and as it goes.
    let http = format!("backend-1:{HTTP}");
    for (method, path, status) in [
        ("GET", "/api/x", 200),
        ("GET", "/admin", 403),
        ("GET", "/api/../admin", 403),
        ("GET", "/a%2fpi", 307),
    ] {
        let answer = node.json(&["explain", "frontend", &http, "http", method, path])?;
        let l7 = &answer["l7"];
        let tried = Curl::get(shop.url(HTTP, path)).expect(&shop.frontend, status)?;
        let expected = match tried.status {
            200 => ("FORWARDED", Value::Null),
            403 => ("DROPPED", 403.into()),
            status => ("ERROR", status.into()),
        };
        assert_eq!(l7["verdict"], expected.0, "{path}: {answer:#}");
        assert_eq!(l7["code"], expected.1, "{path}: {answer:#}");
        if status != 307 {
            let place = l7["rules"][0]["place"].as_str().unwrap_or_default();
            ensure!(place.starts_with("policies/backend.yaml:"), "{answer:#}");
        }
    }
    let text = node.text(&["explain", "frontend", &http, "http", "GET", "/admin"])?;
    for part in [
        "GET /admin: REFUSED, 403 by http@",
        "policies/backend.yaml:",
    ] {
        ensure!(text.contains(part), "no `{part}` in\n{text}");
    }

    // What was asked above is over.
    within(Duration::from_secs(2), "no flow lives any more", || {
        let answer = node.json(&["explain", "frontend", &http])?;
        ensure!(answer["live"].is_null(), "{:#}", answer["live"]);
        Ok(())
    })?;
    // Two things of one name: the endpoint, and it is said; the service, if it is asked for.
    let answer = node.json(&["explain", "frontend", &http])?;
    let notes = answer["notes"].to_string();
    ensure!(notes.contains("is an endpoint and a service"), "{answer:#}");
    for service in [
        "service:backend-1:web",
        "svc/backend-1:80",
        "service:shop/backend-1:80",
    ] {
        let answer = node.json(&["explain", "frontend", service])?;
        ensure!(
            answer["service"].to_string().contains("10.96.0.21"),
            "{service}: {answer:#}"
        );
        let address = shop.other.v4.to_string();
        assert_eq!(answer["destination"]["address"], address, "{service}");
    }

    let verdict = |arguments: &[&str]| -> Result<(String, String)> {
        let answer = node.json(&[&["explain"], arguments].concat())?;
        let part = |pointer: &str| {
            let found = answer.pointer(pointer).and_then(Value::as_str);
            found.unwrap_or_default().to_owned()
        };
        Ok((part("/verdict"), part("/l7/verdict")))
    };
    for (arguments, kernel, l7) in [
        (
            &["frontend", "store:web", "http", "GET", "/api/x"][..],
            "REDIRECTED",
            "FORWARDED",
        ),
        (
            &["frontend", "store:plain", "http", "GET", "/any"],
            "FORWARDED",
            "FORWARDED",
        ),
        (
            &["frontend", "host", "dns", "a.shop.example"],
            "REDIRECTED",
            "FORWARDED",
        ),
        (
            &["frontend", "host", "dns", "A.shop.example", "-t", "AAAA"],
            "REDIRECTED",
            "FORWARDED",
        ),
        (
            &["frontend", "host", "dns", "other.example"],
            "REDIRECTED",
            "DROPPED",
        ),
        (
            &["frontend", "host:53", "http", "GET", "/"],
            "REDIRECTED",
            "ERROR",
        ),
        (&["frontend", "world:443"], "DROPPED", ""),
        (&["host", &format!("backend-1:{PLAIN}")], "DROPPED", ""),
    ] {
        let expected = (kernel.to_owned(), l7.to_owned());
        assert_eq!(verdict(arguments)?, expected, "{arguments:?}");
    }

    // What names nobody is an error that says who there is.
    for (arguments, said) in [
        (
            &["explain", "frontned", "backend-1:80"][..],
            "did you mean \"shop/frontend\"?",
        ),
        (
            &["explain", "frontend", "store:wep"],
            "\"wep\" is no port of \"store\"; use a number or one of: plain, web",
        ),
        (
            &["explain", "frontend", "backend-1:99999"],
            "port: 99999 is no port; use a number from 1 to 65535",
        ),
        (
            &["explain", "frontend", "service:stor:80"],
            "no service is called \"stor\"; did you mean \"shop/store\"?",
        ),
        (
            &["explain", "service:store", "backend-1:80"],
            "is a service, which opens no connections",
        ),
        (
            &["explain", "frontend", "wrold:80"],
            "did you mean \"world\"?",
        ),
        (
            &["explain", "frontend", "db.shop.example:80"],
            "stands in a toFQDNs rule",
        ),
        (
            &["explain", "frontend", "init:80"],
            "is nobody on a node that runs alone",
        ),
        (
            &["observe", "--from", "frontned"],
            "did you mean \"shop/frontend\"?",
        ),
        (
            &["observe", "--label", "app=frontned"],
            "did you mean \"k8s:app=frontend\"?",
        ),
        (&["observe", "--rule", "no such rule"], "is not known"),
        (&["observe", "--since", "yesterday"], "how long ago"),
    ] {
        let output = node.tidegate(arguments)?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        ensure!(stderr.contains(said), "{arguments:?}: {stderr}");
    }

    // Time bounds: everything is younger than an hour, nothing older.
    node.record(&["--since", "1h", "--protocol", "http"], |_| true)?;
    ensure!(
        node.records(&["--until", "1h"])?.is_empty(),
        "records from the past"
    );

    outputs_are_described(&shop)?;

    // A failure is found where people look for what did not get through.
    shop.world
        .node
        .record(&["--verdict", "dropped"], |r| r["l7"]["status"] == 307)?;
    Ok(())
}

/// Denials of every kind, on top of [`POLICY`].
const DENIALS: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: frontend-egress, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: frontend}}
  egress: [{toEntities: [all]}]
  egressDeny:
  - toEndpoints: [{matchLabels: {app: backend}}]
    toPorts: [{ports: [{port: "9001", protocol: TCP}]}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: from-host, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: backend}}
  ingress:
  - fromEntities: [host]
    toPorts:
    - ports: [{port: "8080", protocol: TCP}]
      rules: {http: [{path: "/api/.*"}]}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: reporter, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: reporter}}
  egress:
  - toPorts: [{ports: [{port: "8080", protocol: TCP}]}]
"#;

const NOBODY: &str = "\
apiVersion: tidegate.io/v1alpha1
kind: Service
metadata: {name: nobody, namespace: shop}
spec:
  addresses: [10.96.0.99]
  ports: [{port: 80, protocol: TCP}]
  backends: []
";

#[test]
fn explain_and_observe_give_the_same_reason_for_every_kind_of_denial() -> Result<()> {
    let mut shop = Shop::open()?;
    let node = &shop.world.node;
    let reporter = node.place().group("reporter")?;
    node.host_service("reporter", &reporter, &[("app", "reporter")])?;
    node.write("policies/backend.yaml", POLICY)?;
    node.write("policies/denials.yaml", DENIALS)?;
    node.write("services/nobody.yaml", NOBODY)?;
    shop.world.node.start()?;
    let node = &shop.world.node;
    let backend = shop.backend.v4.to_string();
    let host = NODE_V4.to_string();
    /// Who, as `explain` is asked and as it is tried; the target likewise.
    type Row<'a> = (&'a str, &'a Place, &'a str, &'a str, u16, &'a str, &'a str);
    let rows: [Row; 5] = [
        (
            "stranger",
            &shop.stranger,
            "backend-1",
            &backend,
            PLAIN,
            "Policy denied",
            "shop/backend",
        ),
        (
            "shop/frontend",
            &shop.frontend,
            "backend-1",
            &backend,
            9001,
            "Policy denied by denylist",
            "shop/frontend-egress",
        ),
        (
            "frontend",
            &shop.frontend,
            "nobody",
            "10.96.0.99",
            80,
            "Service backend not found",
            "",
        ),
        (
            &host,
            node.place(),
            "backend-1",
            &backend,
            HTTP,
            "L7 rule cannot be applied to host stack traffic",
            "shop/from-host",
        ),
        (
            "reporter",
            &reporter,
            "backend-1",
            &backend,
            PLAIN,
            "Policy denied",
            "default/reporter",
        ),
    ];
    for (who, place, whom, address, port, reason, rule) in rows {
        let answer = node.json(&["explain", who, &format!("{whom}:{port}")])?;
        assert_eq!(answer["verdict"], "DROPPED", "{who}: {answer:#}");
        assert_eq!(answer["reason"], reason, "{who}: {answer:#}");
        let steps = answer["steps"].as_array().context("no steps")?;
        let explained = |step: &Value| {
            let named =
                |key: &str, part: &str| step[key].as_str().is_some_and(|text| text.contains(part));
            named("rule", rule) && named("place", "policies/")
        };
        ensure!(rule.is_empty() || steps.iter().any(explained), "{answer:#}");

        let tried = Curl::get(format!("http://{address}:{port}/api/x"))
            .give_up_after(1)
            .from(place)?;
        assert_eq!(tried.status, 0, "{who}: {tried:?}");
        let port = port.to_string();
        let filters = ["--verdict", "dropped", "--port", &port];
        let record = node.record(&filters, |record| record["dropReasonText"] == reason)?;
        let observed = |r: &Value| r.as_str().is_some_and(|text| text.contains(rule));
        let rules = record["rules"].as_array().cloned().unwrap_or_default();
        ensure!(rule.is_empty() || rules.iter().any(observed), "{record:#}");
    }

    // Of the node's packets that were dropped, those of a service's sockets are its own, and
    // no others are shown for it.
    Curl::get(shop.url(HTTP, "/api/x"))
        .give_up_after(1)
        .from(&reporter)?;
    for filter in ["--workload", "--from"] {
        let own = [filter, "reporter", "--verdict", "dropped"];
        node.record(&own, |r| {
            r["event"] == "drop" && r["destination"]["port"] == HTTP
        })?;
        let shown = node.records(&[filter, "reporter"])?;
        let others = shown
            .iter()
            .filter(|r| r["source"]["endpoint"] != "default/reporter");
        assert_eq!(others.count(), 0, "{shown:#?}");
    }
    let of_node = node.records(&["--from", "host", "--verdict", "dropped"])?;
    ensure!(
        of_node.iter().any(|r| r["source"]["endpoint"].is_null()),
        "what the node lost otherwise is the host's: {of_node:#?}"
    );

    let misspelt = node.tidegate(&["explain", "frontned", "backend-1:80"])?;
    let said = String::from_utf8_lossy(&misspelt.stderr);
    assert!(said.contains("did you mean \"shop/frontend\"?"), "{said}");
    Ok(())
}

/// Holds what commands printed against the schemas they are documented by.
const JUDGE: &str = r#"
import json, pathlib, sys
from jsonschema import Draft202012Validator
wrong = 0
for name, printed in json.load(open(sys.argv[2])):
    schema = json.loads((pathlib.Path(sys.argv[1]) / f'{name}.json').read_text())
    Draft202012Validator.check_schema(schema)
    for error in Draft202012Validator(schema).iter_errors(printed):
        wrong += 1
        print(name, list(error.absolute_path), error.message[:600], file=sys.stderr)
sys.exit(1 if wrong else 0)
"#;

fn described(place: &Place, printed: &[(&str, Value)]) -> Result<()> {
    let file = place.dir().join("printed.json");
    std::fs::write(&file, serde_json::to_string(printed)?)?;
    let schemas = format!("{}/../docs/schemas/output", env!("CARGO_MANIFEST_DIR"));
    let file = file.display().to_string();
    let judged = place.run("/usr/bin/python3", &["-c", JUDGE, &schemas, &file])?;
    let errors = String::from_utf8_lossy(&judged.stderr);
    ensure!(judged.status.success(), "{errors}");
    Ok(())
}

/// Every command's output, on a node that has something of everything.
fn outputs_are_described(shop: &Shop) -> Result<()> {
    let node = &shop.world.node;
    node.write("policies/broken.yaml", "kind: Nothing\n")?;
    node.problem("must say what this document is")?;
    Curl::get(shop.url(HTTP, "/api/x")).expect(&shop.frontend, 200)?;
    Curl::get(shop.url(HTTP, "/admin")).expect(&shop.frontend, 403)?;
    Curl::get(shop.url(PLAIN, "/")).expect_dropped(&shop.stranger)?;
    Curl::get("http://10.96.0.20:80/api/x").expect(&shop.frontend, 200)?;
    // By socket translation, a request and a drop: every kind of record there is here.
    for (filter, value) in [
        ("--protocol", "http"),
        ("--verdict", "dropped"),
        ("--verdict", "translated"),
    ] {
        node.record(&[filter, value], |_| true)?;
    }
    eventually("the view has what happened", || {
        let status = node.status()?;
        ensure!(
            status["proxy"]["stats"]["denied"].as_u64() > Some(0),
            "{status:#}"
        );
        ensure!(
            status["datapath"]["drops"]
                .as_object()
                .is_some_and(|d| !d.is_empty()),
            "{status:#}"
        );
        Ok(())
    })?;
    let mut printed = Vec::new();
    for (name, arguments) in [
        ("status", &["status"][..]),
        ("endpoint-list", &["endpoint", "list"]),
        ("identity-list", &["identity", "list"]),
        ("service-list", &["service", "list"]),
        ("policy-list", &["policy", "list"]),
        ("plugin-list", &["plugin", "list"]),
        ("plugin-list-bindings", &["plugin", "list", "--bindings"]),
        ("fqdn-list", &["fqdn", "list"]),
        ("version", &["version"]),
        (
            "explain",
            &["explain", "frontend", "store:web", "http", "GET", "/admin"],
        ),
        ("explain", &["explain", "stranger", "backend-1:9000"]),
    ] {
        printed.push((name, node.json(arguments)?));
    }
    for record in node.records(&[])? {
        let time = record["time"].as_str().unwrap_or_default();
        ensure!(time.starts_with("20") && time.ends_with('Z'), "{record}");
        printed.push(("observe", record));
    }
    let checked = node.tidegate(&["config", "check", "-o", "json", "-c", "tidegate.yaml"])?;
    let checked: Value = serde_json::from_slice(&checked.stdout)?;
    ensure!(checked["ok"] == false, "{checked:#}");
    printed.push(("config-check", checked));
    described(node.place(), &printed)?;
    // The judge would say so.
    printed[0].1["undescribed"] = true.into();
    ensure!(described(node.place(), &printed[..1]).is_err());
    Ok(())
}

fn observe_follows_and_filters(shop: &Shop) -> Result<()> {
    let mut command = shop.world.node.place().command(shop.world.node.binary())?;
    command
        .args([
            "observe",
            "--follow",
            "--last",
            "0",
            "--from",
            "frontend",
            "--verdict",
            "dropped",
        ])
        .env("TIDEGATE_SOCKET", shop.world.node.socket());
    let observer = shop.world.node.place().spawn_command("observe", command)?;
    // Follow has no history to prove that it is connected; traffic repeats instead.
    let shown = |what: &str| -> Result<String> {
        let text = observer.output();
        ensure!(text.contains(what), "no {what} in\n{text}");
        Ok(text)
    };
    eventually("the refused request is shown", || {
        Curl::get(shop.url(HTTP, "/admin")).expect(&shop.frontend, 403)?;
        shown("/admin")
    })?;
    // What does not match, from proxy and kernel, is told before what does.
    Curl::get(shop.url(HTTP, "/api/x")).expect(&shop.frontend, 200)?;
    shop.world.node.record(&["--from", "frontend"], |record| {
        record["l7"]["status"] == 200
    })?;
    Curl::get(shop.url(PLAIN, "/")).expect_dropped(&shop.stranger)?;
    shop.world
        .node
        .record(&["--from", "stranger", "--verdict", "dropped"], |_| true)?;
    Curl::get(shop.url(HTTP, "/last")).expect(&shop.frontend, 403)?;
    let text = eventually("the last request is shown", || shown("/last"))?;
    assert!(
        !text.contains("stranger") && !text.contains("/api/x"),
        "{text}"
    );
    Ok(())
}

fn every_filter_of_observe_selects_what_it_says(shop: &Shop) -> Result<()> {
    Curl::get(shop.url(HTTP, "/api/x")).expect(&shop.frontend, 200)?;
    Curl::get(shop.url(HTTP, "/admin")).expect(&shop.frontend, 403)?;
    Curl::get(shop.url(PLAIN, "/")).expect(&shop.frontend, 200)?;
    Curl::get(shop.url6(PLAIN, "/")).expect_dropped(&shop.stranger)?;
    let stranger = shop.stranger.v6.to_string();
    /// A filter, and where in a record which value must stand for it.
    type Row<'a> = (&'a [&'a str], &'a str, &'a str);
    let rows: [Row; 11] = [
        (
            &["--from", "shop/stranger"],
            "/source/endpoint",
            "shop/stranger",
        ),
        (&["--from", &stranger], "/source/address", &stranger),
        (
            &["--to", "backend-1"],
            "/destination/endpoint",
            "shop/backend-1",
        ),
        (&["--verdict", "DROPPED"], "/verdict", "DROPPED"),
        (&["--verdict", "redirected"], "/verdict", "REDIRECTED"),
        (&["--protocol", "http"], "/l7/protocol", "http"),
        (&["--protocol", "tcp"], "/protocol", "tcp"),
        (&["--port", "9000"], "/destination/port", "9000"),
        (
            &["--label", "app=stranger"],
            "/source/labels",
            "k8s:app=stranger",
        ),
        (&["--rule", "rules.http"], "/rules", "rules.http"),
        (
            &[
                "--workload",
                "frontend",
                "--protocol",
                "http",
                "--verdict",
                "dropped",
            ],
            "/l7/status",
            "403",
        ),
    ];
    for (filters, pointer, value) in rows {
        shop.world.node.record(filters, |_| true)?;
        for record in shop.world.node.records(filters)? {
            let found = record.pointer(pointer).map(Value::to_string);
            ensure!(
                found.is_some_and(|found| found.contains(value)),
                "{filters:?}: no {value} at {pointer} in {record:#}"
            );
        }
    }
    let unknown = shop
        .world
        .node
        .tidegate(&["observe", "--verdict", "droped"])?;
    let said = String::from_utf8_lossy(&unknown.stderr);
    assert!(said.contains("use one of: forwarded, dropped"), "{said}");
    Ok(())
}

fn metrics_read_as_openmetrics_and_count_what_happened(shop: &Shop) -> Result<()> {
    Curl::get(shop.url(HTTP, "/api/x")).expect(&shop.frontend, 200)?;
    Curl::get(shop.url(HTTP, "/admin")).expect(&shop.frontend, 403)?;
    Curl::get(shop.url(PLAIN, "/")).expect_dropped(&shop.stranger)?;
    eventually("everything is counted", || {
        let answer =
            Curl::get("http://127.0.0.1:9965/metrics").expect(shop.world.node.place(), 200)?;
        let kind = answer.header("content-type").unwrap_or_default();
        ensure!(kind.starts_with("application/openmetrics-text"), "{kind}");
        let samples = openmetrics(&answer.body)?;
        for (name, labels, least) in [
            ("tidegate_generation", "", 1.0),
            ("tidegate_table_entries", "POLICY", 1.0),
            ("tidegate_table_limit", "POLICY", 1.0),
            ("hubble_drop_total", "Policy denied", 1.0),
            ("hubble_flows_processed_total", "FORWARDED", 1.0),
            ("hubble_http_requests_total", "403", 1.0),
            ("hubble_http_requests_total", "200", 1.0),
        ] {
            let sum: f64 = samples
                .iter()
                .filter(|(sample, with, _)| sample == name && with.contains(labels))
                .map(|(_, _, value)| value)
                .sum();
            ensure!(
                sum >= least,
                "{name} with {labels:?} is {sum} in\n{}",
                answer.body
            );
        }
        Ok(())
    })?;
    for (path, text) in [("healthz", "ok"), ("readyz", "ready")] {
        let url = format!("http://127.0.0.1:9965/{path}");
        let answer = Curl::get(url).expect(shop.world.node.place(), 200)?;
        assert_eq!(answer.body.trim(), text);
    }
    Ok(())
}

/// Name, labels and value of each sample, if the text keeps the format's rules: every
/// sample belongs to a declared family, and the text has its end mark.
fn openmetrics(text: &str) -> Result<Vec<(String, String, f64)>> {
    let body = text.strip_suffix("# EOF\n").context("no end mark")?;
    let mut families = BTreeMap::new();
    let mut samples = Vec::new();
    for line in body.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (kind, name) = (words.next().context(line.to_owned())?, words.next());
            let name = name.context(line.to_owned())?;
            match kind {
                "TYPE" => {
                    let declared = words.next().context(line.to_owned())?;
                    let before = families.insert(name, declared);
                    ensure!(before.is_none(), "{name} is declared twice");
                }
                "HELP" | "UNIT" => {}
                _ => bail!("not a comment of the format: {line}"),
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').context(line.to_owned())?;
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}').context(line.to_owned())?),
            None => (series, ""),
        };
        let declared = families.iter().any(|(family, kind)| {
            let suffixes: &[&str] = match *kind {
                "counter" => &["_total"],
                "histogram" => &["_bucket", "_sum", "_count"],
                "info" => &["_info"],
                _ => &[""],
            };
            suffixes
                .iter()
                .any(|suffix| *name == format!("{family}{suffix}"))
        });
        ensure!(declared, "{name} belongs to no declared family");
        samples.push((name.to_owned(), labels.to_owned(), value.parse()?));
    }
    Ok(samples)
}
