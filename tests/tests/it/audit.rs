//! Audit mode: what policy would refuse passes, in the kernel and in the proxy, and is
//! told as such.

use std::io::{Read as _, Write as _};

use anyhow::{Result, ensure};
use tidegate_tests::harness::{Curl, server};

use crate::{
    dns_names::dig,
    shop::{HTTP, PLAIN, POLICY, Shop},
};

const NAMES: &str = r#"
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: names, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: frontend}}
  egress:
  - toEntities: [all]
  - toCIDR: [192.0.2.100/32]
    toPorts:
    - ports: [{port: "53", protocol: ANY}]
      rules:
        dns: [{matchName: allowed.example}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: asks-for-names, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: backend}}
  ingress:
  - toPorts:
    - ports: [{port: "8025", protocol: TCP}]
      serverNames: [mail.example]
"#;

/// A port whose server speaks first.
const GREETS: u16 = 8025;

#[test]
fn what_would_be_refused_passes_and_is_told() -> Result<()> {
    let mut shop = Shop::open()?;
    let names = [
        ("allowed.example", "198.51.100.10"),
        ("other.example", "198.51.100.20"),
    ];
    let _dns = server::dns(&shop.world.outside, &names)?;
    shop.world
        .node
        .write("policies/backend.yaml", format!("{POLICY}{NAMES}"))?;
    let config = std::fs::read_to_string(shop.world.node.config_dir().join("tidegate.yaml"))?;
    shop.world
        .node
        .write("tidegate.yaml", config + "\npolicy: {mode: audit}\n")?;
    server::tcp(&shop.backend, GREETS, |mut stream| {
        stream.write_all(b"220 hello\r\n")?;
        // Until the client has read it.
        stream.read(&mut [0]).map(drop)
    })?;
    shop.world.node.start()?;
    let node = &shop.world.node;

    // A client that is told to ask for a name, and waits for the server to speak.
    let mut waits = server::connect(&shop.stranger, (shop.backend.v4, GREETS))?;
    let mut greeting = [0; 11];
    waits.read_exact(&mut greeting)?;
    let record = node.record(&["--protocol", "tls", "--verdict", "audit"], |_| true)?;
    let status = record["l7"]["status"].as_str().unwrap_or_default();
    ensure!(status.contains("no ClientHello within 1 s"), "{record}");

    // A packet, a request and a query that policy refuses.
    Curl::get(shop.url(PLAIN, "/")).expect(&shop.stranger, 200)?;
    let forbidden = shop.url(HTTP, "/forbidden");
    Curl::get(&forbidden).expect(&shop.frontend, 200)?;
    let answer = dig(&shop.frontend, "192.0.2.100", &["other.example"])?;
    ensure!(answer.contains("198.51.100.20"), "{answer}");
    for filters in [
        ["--from", "stranger", "--verdict", "audit"],
        ["--protocol", "http", "--verdict", "audit"],
        ["--protocol", "dns", "--verdict", "audit"],
    ] {
        let record = node.record(&filters, |_| true)?;
        ensure!(
            record["rules"].as_array().is_some_and(|r| !r.is_empty()),
            "{record}"
        );
    }
    // What is allowed is not reported as anything else.
    Curl::get(shop.url(HTTP, "/api/")).expect(&shop.frontend, 200)?;

    ensure!(
        node.status()?["policyMode"] == "audit",
        "{}",
        node.status()?
    );
    let status = node.text(&["status"])?;
    ensure!(status.contains("AUDIT MODE"), "{status}");
    let backend = format!("backend-1:{PLAIN}");
    let explained = node.text(&["explain", "stranger", &backend])?;
    ensure!(explained.contains("PASSES in audit mode"), "{explained}");
    Ok(())
}
