//! A policy in shadow: nothing is decided by it, and what it would decide is told.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tidegate_tests::harness::{Curl, Place, Workload};

use crate::shop::{ECHO, PLAIN, POLICY, Shop, policy};

/// Refuses some of what is allowed, allows some of what is refused, and has traffic read
/// that nobody reads. With `MODE` for the annotation's value.
const STRICT: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: strict
  namespace: shop
  annotations: {tidegate.io/enforcement: MODE}
spec:
  endpointSelector: {matchLabels: {app: backend}}
  ingressDeny:
  - fromEndpoints: [{matchLabels: {app: frontend}}]
    toPorts: [{ports: [{port: "9000", protocol: TCP}, {port: "7000", protocol: UDP}]}]
  ingress:
  - fromEndpoints: [{matchLabels: {app: stranger}}]
    toPorts: [{ports: [{port: "9000", protocol: TCP}]}]
"#;

/// Of the same, what concerns connections to the echo server.
const ECHO_TCP: &str = r#"
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: echo
  namespace: shop
  annotations: {tidegate.io/enforcement: shadow}
spec:
  endpointSelector: {matchLabels: {app: frontend}}
  enableDefaultDeny: {egress: false}
  egressDeny:
  - toEndpoints: [{matchLabels: {app: backend}}]
    toPorts: [{ports: [{port: "7000", protocol: TCP}]}]
"#;

/// For a service of the node, which has no policy that is enforced.
const REPORTER: &str = r#"
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: reporter, annotations: {tidegate.io/enforcement: shadow}}
spec:
  endpointSelector: {matchLabels: {app: reporter}}
  egress: [{}]
"#;

#[test]
fn nothing_is_decided_in_shadow_and_everything_is_told() -> Result<()> {
    let mut shop = Shop::open()?;
    let reporter = shop.world.node.place().group("reporter")?;
    let node = &shop.world.node;
    node.host_service("reporter", &reporter, &[("app", "reporter")])?;
    node.write("policies/backend.yaml", POLICY)?;
    shop.world.node.start()?;
    let mut before = connect(&shop.frontend, (shop.backend.v4, ECHO).into())?;
    echo(&mut before).context("before")?;
    let strict = STRICT.replace("MODE", "shadow");
    let node = &shop.world.node;
    node.change(|node| node.write("policies/strict.yaml", strict + ECHO_TCP + REPORTER))?;

    flows(&shop).context("flows")?;
    echo(&mut before).context("a flow of before goes on")?;
    let denies = "shop/echo egressDeny[0].toPorts[0]";
    let goes_on = told(
        &shop,
        &["--from", "frontend", "--port", "7000"],
        "rehearsed",
    )?;
    ensure!(is(&goes_on, "FORWARDED", "DROPPED", denies), "{goes_on}");
    drop(before);
    let ended = told(
        &shop,
        &["--from", "frontend", "--port", "7000"],
        "flow-closed",
    )?;
    ensure!(is(&ended, "FORWARDED", "DROPPED", denies), "{ended}");
    sockets(&shop, &reporter).context("sockets of the node")?;
    lists(&shop).context("lists and metrics")?;

    // The file without the annotation's word is all it takes.
    let node = &shop.world.node;
    let enforced = STRICT.replace("MODE", "enforce");
    node.change(|node| node.write("policies/strict.yaml", enforced))?;
    for (url, to) in backend(&shop) {
        refused(&shop.frontend, to).context("enforced")?;
        Curl::get(&url).expect(&shop.stranger, 200)?;
    }
    requests(&shop).context("requests")
}

/// Reads what the frontend sends, and refuses none of it for want of a default deny.
const READ: &str = r#"
  enableDefaultDeny: {egress: false}
  egress:
  - toPorts:
    - ports: [{port: "9000", protocol: TCP}]
      rules: {http: [{path: "/nobody-asks-for-this"}]}
"#;

/// Lets it ask for something.
const ASK: &str = r#"
  egress:
  - toPorts:
    - ports: [{port: "9000", protocol: TCP}]
      rules: {http: [{path: "/api/"}]}
"#;

/// Requests on a connection that is read anyway are judged by what is in shadow, too.
fn requests(shop: &Shop) -> Result<()> {
    let node = &shop.world.node;
    let documents = |mode: &str| {
        let annotation = format!("name: ask, annotations: {{tidegate.io/enforcement: {mode}}}");
        let ask = policy("ask", "frontend", ASK).replace("name: ask", &annotation);
        format!("{}\n---\n{ask}", policy("read", "frontend", READ))
    };
    node.change(|node| node.write("policies/strict.yaml", documents("shadow")))?;
    for path in ["/", "/api/"] {
        Curl::get(shop.url(PLAIN, path)).expect(&shop.frontend, 200)?;
    }
    let of = ["--protocol", "http", "--from", "frontend"];
    let refused = told(shop, &of, "l7")?;
    let rule = "shop/ask egress[0].toPorts[0].rules.http[0]";
    ensure!(is(&refused, "FORWARDED", "DROPPED", rule), "{refused}");
    let url = |record: &Value| record["l7"]["url"].as_str().unwrap_or_default().to_owned();
    ensure!(url(&refused).ends_with(":9000/"), "{refused}");
    let allowed = node.record(&of, |record| url(record).ends_with("/api/"))?;
    ensure!(allowed["shadow"].is_null(), "{allowed}");
    let to = format!("backend-1:{PLAIN}");
    let answer = node.text(&["explain", "frontend", &to, "http", "GET", "/"])?;
    for said in [
        "GET /: ALLOWED",
        "shadow would be DROPPED by shop/ask egress[0]",
    ] {
        ensure!(answer.contains(said), "{said:?} is not in\n{answer}");
    }

    node.change(|node| node.write("policies/strict.yaml", documents("enforce")))?;
    for (path, status) in [("/", 403), ("/api/", 200)] {
        Curl::get(shop.url(PLAIN, path)).expect(&shop.frontend, status)?;
    }
    Ok(())
}

/// What passes, passes; what is refused, is; beside it stands what would be.
fn flows(shop: &Shop) -> Result<()> {
    let deny = "shop/strict ingressDeny[0].toPorts[0]";
    let allow = "shop/strict ingress[0].toPorts[0]";
    for (url, to) in backend(shop) {
        let address = to.ip().to_string();
        Curl::get(&url).expect(&shop.frontend, 200)?;
        let passed = told(shop, &["--from", "frontend", "--to", &address], "flow-new")?;
        ensure!(is(&passed, "FORWARDED", "DROPPED", deny), "{passed}");
        refused(&shop.stranger, to)?;
        let refused = told(shop, &["--from", "stranger", "--to", &address], "drop")?;
        ensure!(is(&refused, "DROPPED", "FORWARDED", allow), "{refused}");
    }
    // Both answers, with the rule of each and where it is written.
    let to = format!("backend-1:{PLAIN}");
    let answer = shop.world.node.text(&["explain", "frontend", &to])?;
    for said in [
        "ALLOWED in the kernel",
        "rule   shop/backend ingress[0].toPorts[1]  (policies/backend.yaml:",
        "in shadow: would be DROPPED by shop/strict ingressDeny[0].toPorts[0]  \
         (policies/strict.yaml:",
    ] {
        ensure!(answer.contains(said), "{said:?} is not in\n{answer}");
    }
    let answer = shop.world.node.json(&["explain", "stranger", &to])?;
    ensure!(answer["verdict"] == "DROPPED", "{answer}");
    let shadow = &answer["shadow"];
    ensure!(
        shadow["verdict"] == "FORWARDED" && shadow["rule"]["rule"] == allow,
        "{answer}"
    );
    Ok(())
}

/// Sockets of the node: a connection and a datagram that is sent without one.
fn sockets(shop: &Shop, reporter: &Place) -> Result<()> {
    let send = format!(
        "import socket; a, b = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in 'ab']; \
         to = ('{}', {ECHO}); a.connect(to); b.sendto(b'x', to)",
        shop.backend.v4
    );
    let sent = reporter.run("python3", &["-c", &send])?;
    ensure!(sent.status.success(), "{sent:?}");
    for event in ["socket-opened", "rehearsed"] {
        let record = told(shop, &["--from", "reporter"], event)?;
        ensure!(is(&record, "FORWARDED", "DROPPED", "reporter"), "{record}");
    }
    Ok(())
}

fn lists(shop: &Shop) -> Result<()> {
    let node = &shop.world.node;
    let policies = node.json(&["policy", "list"])?;
    let mode = |name: &str| {
        let all = policies.as_array().into_iter().flatten();
        let mut named = all.filter(|policy| policy["name"] == name);
        named.next().map(|policy| policy["enforcement"].clone())
    };
    ensure!(mode("strict") == Some("shadow".into()), "{policies}");
    ensure!(mode("backend") == Some("enforce".into()), "{policies}");
    let metrics = Curl::get("http://127.0.0.1:9965/metrics").expect(node.place(), 200)?;
    let refused = r#"tidegate_shadow_verdicts_total{policy="shop/strict",type="flow-new",verdict="DROPPED"} "#;
    ensure!(metrics.body.contains(refused), "{}", metrics.body);
    Ok(())
}

/// Where the backend's server is, in both families.
fn backend(shop: &Shop) -> [(String, SocketAddr); 2] {
    [
        (shop.url(PLAIN, "/"), (shop.backend.v4, PLAIN).into()),
        (shop.url6(PLAIN, "/"), (shop.backend.v6, PLAIN).into()),
    ]
}

/// Nobody answers, for longer than anybody on this machine would take.
fn refused(from: &Workload, to: SocketAddr) -> Result<()> {
    let answered = from.within(|| TcpStream::connect_timeout(&to, Duration::from_millis(300)))?;
    ensure!(answered.is_err(), "{to} answers");
    Ok(())
}

fn connect(from: &Workload, to: SocketAddr) -> Result<TcpStream> {
    Ok(from.within(|| TcpStream::connect(to))??)
}

fn echo(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"x")?;
    let mut back = [0];
    stream.read_exact(&mut back)?;
    ensure!(&back == b"x", "{back:?}");
    Ok(())
}

/// The record of an event of which something else is told in shadow.
fn told(shop: &Shop, filters: &[&str], event: &str) -> Result<Value> {
    let in_shadow = [
        "--shadow-verdict",
        "dropped",
        "--shadow-verdict",
        "forwarded",
    ];
    let filters = [filters, &in_shadow].concat();
    shop.world
        .node
        .record(&filters, |record| record["event"] == event)
}

/// Does the record have this verdict, and that one in shadow by this rule?
fn is(record: &Value, verdict: &str, in_shadow: &str, rule: &str) -> bool {
    let shadow = &record["shadow"];
    record["verdict"] == verdict
        && shadow["verdict"] == in_shadow
        && shadow["rules"] == serde_json::json!([rule])
}
