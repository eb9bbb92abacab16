//! gRPC as its own library speaks it: many streams on one connection, trailers, messages
//! larger than a flow-control window, and answers of ours that its clients understand.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tidegate_tests::harness::{Curl, Peer};

use crate::shop::{POLICY, Shop, together};

const PORT: u16 = 50051;
/// The server there ends its connections when they are old.
const AGED: u16 = PORT + 1;

#[test]
fn calls_of_one_connection_are_judged_one_by_one() -> Result<()> {
    let mut shop = Shop::open()?;
    let _server = Peer::Grpc.serve(&shop.backend, PORT)?;
    let calls = "/shop.Orders/(Get|Chat|Count|Total|Wait|GaveUp|Recovering)\
                 |/grpc.health.v1.Health/Check|/grpc.reflection.v1alpha.ServerReflection/.*";
    let policy = POLICY
        .replace("8080", &PORT.to_string())
        .replace("8081", &AGED.to_string())
        .replace(
            "{path: \"/api/.*\"}",
            &format!("{{method: POST, path: \"{calls}\"}}"),
        );
    shop.world.node.write("policies/backend.yaml", policy)?;
    shop.world.node.start()?;
    together!(&shop;
        what_is_refused_costs_its_stream_alone_and_trailers_arrive,
        every_kind_of_call_passes_and_can_be_refused,
        calls_are_told_by_service_method_and_status,
        a_server_that_says_goodbye_costs_no_call,
        a_connection_that_grows_old_costs_no_call,
    )
}

fn what_is_refused_costs_its_stream_alone_and_trailers_arrive(shop: &Shop) -> Result<()> {
    for (target, address) in [
        (shop.backend.v4.to_string(), shop.frontend.v4.to_string()),
        (
            format!("[{}]", shop.backend.v6),
            shop.frontend.v6.to_string(),
        ),
    ] {
        let result = Peer::Grpc.client(&shop.frontend, "call", &format!("{target}:{PORT}"))?;
        assert_eq!(result["chat"], json!(["eno", "owt", "eerht"]), "{result}");
        assert_eq!(result["left"], json!([]), "{result}");
        assert_eq!(result["code"], "OK", "{result}");
        // In gRPC's own words: of an HTTP status the library would have made others.
        let refused = json!(vec!["PERMISSION_DENIED: Access denied"; 3]);
        assert_eq!(result["refused"], refused, "{result}");
        // One connection carried it all, from the client's own address.
        let peer = result["peer"].as_str().context("no trailer")?;
        assert!(peer.contains(&address), "{peer} is not at {address}");
        let large = json!({"same": true, "sum": "262144", "peer": peer});
        assert_eq!(result["large"], json!([large, large, large]), "{result}");
    }
    Ok(())
}

fn every_kind_of_call_passes_and_can_be_refused(shop: &Shop) -> Result<()> {
    let target = format!("{}:{PORT}", shop.backend.v4);
    let result = Peer::Grpc.client(&shop.frontend, "kinds", &target)?;
    let expected = json!({
        "get": "x",
        "count": 100,
        "total": "4950",
        "refused": vec!["PERMISSION_DENIED: Access denied"; 4],
        "deadline": "DEADLINE_EXCEEDED",
        "deadline heard": "yes",
        "cancel heard": "yes",
        "attempts": "2",
        "health": "SERVING",
        "services": ["grpc.reflection.v1alpha.ServerReflection", "shop.Orders"],
    });
    assert_eq!(result, expected);
    Ok(())
}

fn a_server_that_says_goodbye_costs_no_call(shop: &Shop) -> Result<()> {
    let target = format!("{}:{AGED}", shop.backend.v4);
    let result = Peer::Grpc.client(&shop.frontend, "steady", &target)?;
    assert_steady(&result)
}

fn a_connection_that_grows_old_costs_no_call(shop: &Shop) -> Result<()> {
    let binding = format!(
        "apiVersion: tidegate.io/v1alpha1
kind: PluginBinding
metadata: {{name: short, namespace: shop}}
spec:
  endpointSelector: {{matchLabels: {{app: backend}}}}
  direction: ingress
  toPorts: [{PORT}]
  http: {{maxConnectionAgeSeconds: 1}}
"
    );
    let node = &shop.world.node;
    node.change(|node| node.write("policies/short.yaml", binding))?;
    let target = format!("{}:{PORT}", shop.backend.v4);
    let result = Peer::Grpc.client(&shop.frontend, "steady", &target)?;
    assert_steady(&result)
}

/// Calls went on over several connections, and none failed.
fn assert_steady(result: &serde_json::Value) -> Result<()> {
    assert_eq!(result["failed"], json!([]), "{result}");
    let peers = result["peers"].as_array().map_or(0, Vec::len);
    ensure!(peers >= 3, "connections: {result}");
    assert_eq!(
        result["code"], "OK",
        "a stream longer than its connection's age: {result}"
    );
    Ok(())
}

fn calls_are_told_by_service_method_and_status(shop: &Shop) -> Result<()> {
    let node = &shop.world.node;
    let of = |method: &'static str, status: Option<u32>| {
        move |record: &serde_json::Value| {
            let call = &record["l7"]["grpc"];
            call["service"] == "shop.Orders"
                && call["method"] == method
                && call["status"].as_u64() == status.map(u64::from)
        }
    };
    let grpc = ["--protocol", "grpc"];
    let refused = node.record(&grpc, of("Delete", Some(7)))?;
    assert_eq!(refused["verdict"], "DROPPED", "{refused}");
    assert_eq!(refused["l7"]["status"], 200, "{refused}");
    let passed = node.record(&grpc, of("Get", Some(0)))?;
    assert_eq!(passed["verdict"], "FORWARDED", "{passed}");
    // What the server said, of its own accord and in a head without a body.
    node.record(&grpc, of("Recovering", Some(14)))?;
    // Nothing was said to who did not wait for it.
    let cancelled = node.record(&grpc, of("Wait", None))?;
    assert_eq!(cancelled["error"], "cancelled by the client", "{cancelled}");
    assert_eq!(cancelled["errorKind"], "clientClosed", "{cancelled}");
    let text = node.text(&["observe", "--protocol", "grpc", "--verdict", "dropped"])?;
    let line = format!(
        "gRPC http://{}:{PORT}/shop.Orders/Delete PERMISSION_DENIED",
        shop.backend.v4
    );
    ensure!(text.contains(&line), "{text}");

    let to = format!("backend-1:{PORT}");
    let explain = |call: &str| node.text(&["explain", "frontend", &to, "grpc", call]);
    let text = explain("shop.Orders/Delete")?;
    ensure!(
        text.contains("gRPC /shop.Orders/Delete: REFUSED, PERMISSION_DENIED"),
        "{text}"
    );
    let text = explain("shop.Orders/Get")?;
    ensure!(text.contains("gRPC /shop.Orders/Get: ALLOWED"), "{text}");

    let metrics = Curl::get("http://127.0.0.1:9965/metrics")
        .expect(node.place(), 200)?
        .body;
    for series in [
        r#"tidegate_grpc_calls_total{service="shop.Orders",method="Get",status="OK",verdict="FORWARDED"}"#,
        // Nobody has answered it, so a client may have invented it.
        r#"tidegate_grpc_calls_total{service="other",method="other",status="PERMISSION_DENIED",verdict="DROPPED"}"#,
    ] {
        ensure!(metrics.contains(series), "no {series}: {metrics}");
    }
    Ok(())
}
