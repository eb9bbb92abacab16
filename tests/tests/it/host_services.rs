//! Policy for services of the node itself: a control group instead of a veth.

use anyhow::Result;
use tidegate_tests::harness::Curl;

use crate::shop::{HTTP, PLAIN, Shop};

const POLICY: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: reporter, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: reporter}}
  egress:
  - toEndpoints: [{matchLabels: {app: backend, "k8s:io.kubernetes.pod.namespace": shop}}]
    toPorts:
    - ports: [{port: "8080", protocol: TCP}]
      rules:
        http: [{path: "/api/.*"}]
"#;

#[test]
fn a_host_service_is_held_to_its_egress_policy() -> Result<()> {
    let mut shop = Shop::open()?;
    let reporter = shop.world.node.place().group("reporter")?;
    shop.world
        .node
        .host_service("reporter", &reporter, &[("app", "reporter")])?;
    shop.world.node.write("policies/reporter.yaml", POLICY)?;
    shop.world.node.start()?;

    let answer = Curl::get(shop.url(HTTP, "/api/x")).expect(&reporter, 200)?;
    assert_eq!(
        answer.remote,
        Some(shop.backend.v4.into()),
        "getpeername stays honest"
    );
    Curl::get(shop.url(HTTP, "/admin")).expect(&reporter, 403)?;

    let refused = Curl::get(shop.url(PLAIN, "/")).from(&reporter)?;
    assert_eq!(refused.status, 0);
    const COULD_NOT_CONNECT: i64 = 7;
    assert_eq!(
        refused.exit, COULD_NOT_CONNECT,
        "refused at connect, not left waiting: {refused:?}"
    );
    let record = shop
        .world
        .node
        .record(&["--verdict", "dropped"], |r| r["event"] == "socket-denied")?;
    assert_eq!(record["source"]["endpoint"], "default/reporter");

    // Processes of the node that are no such service are not restricted.
    Curl::get(shop.url(PLAIN, "/")).expect(shop.world.node.place(), 200)?;
    Ok(())
}
