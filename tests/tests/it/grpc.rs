//! gRPC as its own library speaks it: many streams on one connection, trailers, and
//! messages larger than a flow-control window.

use anyhow::{Context, Result};
use serde_json::json;
use tidegate_tests::harness::Peer;

use crate::shop::{POLICY, Shop};

const PORT: u16 = 50051;

#[test]
fn streams_of_one_connection_are_judged_one_by_one_and_trailers_arrive() -> Result<()> {
    let mut shop = Shop::open()?;
    let _server = Peer::Grpc.serve(&shop.backend, PORT)?;
    let policy = POLICY
        .replace("8080", &PORT.to_string())
        .replace("/api/.*", "/shop.Orders/(Get|Chat)");
    shop.world.node.write("policies/backend.yaml", policy)?;
    shop.world.node.start()?;
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
        // The library reads our 403 as this.
        let refused = json!([
            "PERMISSION_DENIED",
            "PERMISSION_DENIED",
            "PERMISSION_DENIED"
        ]);
        assert_eq!(result["refused"], refused, "{result}");
        // One connection carried it all, from the client's own address.
        let peer = result["peer"].as_str().context("no trailer")?;
        assert!(peer.contains(&address), "{peer} is not at {address}");
        let large = json!({"same": true, "sum": "262144", "peer": peer});
        assert_eq!(result["large"], json!([large, large, large]), "{result}");
    }
    Ok(())
}
