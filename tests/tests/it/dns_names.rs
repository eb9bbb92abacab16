//! Names: queries are judged, answers are learned before they are delivered.

use anyhow::{Result, ensure};
use tidegate_tests::harness::{Curl, Workload, server};

use crate::shop::Shop;

const POLICY: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: names, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: frontend}}
  egress:
  - toCIDR: [192.0.2.100/32]
    toPorts:
    - ports: [{port: "53", protocol: ANY}]
      rules:
        dns: [{matchPattern: "*.partner.example"}]
  - toFQDNs: [{matchName: api.partner.example}]
    toPorts: [{ports: [{port: "80", protocol: TCP}]}]
"#;

/// The shop with a DNS server and a web server outside.
pub(crate) fn shop_with_names() -> Result<(Shop, [tidegate_tests::harness::Running; 2])> {
    let mut shop = Shop::open()?;
    for address in ["198.51.100.10", "198.51.100.20"] {
        shop.world.outside_address(address.parse()?)?;
    }
    let outside = &shop.world.outside;
    let servers = [
        server::dns(
            outside,
            &[
                ("api.partner.example", "198.51.100.10"),
                ("www.partner.example", "198.51.100.20"),
            ],
        )?,
        server::nginx(outside, 80, &shop.world.dir())?,
    ];
    shop.frontend.set_resolver("192.0.2.100")?;
    shop.world.node.write("policies/names.yaml", POLICY)?;
    shop.world.node.start()?;
    Ok((shop, servers))
}

fn dig(from: &Workload, arguments: &[&str]) -> Result<String> {
    let out = from.run(
        "dig",
        &[&["+tries=1", "+time=2", "@192.0.2.100"], arguments].concat(),
    )?;
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

#[test]
fn the_first_connection_after_the_lookup_succeeds_every_time() -> Result<()> {
    let (shop, _servers) = shop_with_names()?;
    Curl::get("http://198.51.100.10/").expect_dropped(&shop.frontend)?;
    for _ in 0..10 {
        Curl::get("http://api.partner.example/").expect(&shop.frontend, 200)?;
    }
    Curl::get("http://www.partner.example/").expect_dropped(&shop.frontend)?;
    let record = shop
        .world
        .node
        .record(&["--from", "frontend", "--port", "80"], |r| {
            r["event"] == "flow-new"
        })?;
    ensure!(
        record["destination"]["names"][0]
            .as_str()
            .is_some_and(|name| name.starts_with("api.partner")),
        "{record}"
    );
    Ok(())
}

#[test]
fn other_names_are_refused_over_udp_and_tcp() -> Result<()> {
    let (shop, _servers) = shop_with_names()?;
    for transport in ["+notcp", "+tcp"] {
        let allowed = dig(&shop.frontend, &[transport, "api.partner.example"])?;
        ensure!(allowed.contains("198.51.100.10"), "{allowed}");
        let refused = dig(&shop.frontend, &[transport, "evil.example"])?;
        ensure!(refused.contains("status: REFUSED"), "{refused}");
    }
    Ok(())
}

#[test]
fn lookups_and_learning_go_on_while_the_agent_is_dead() -> Result<()> {
    let (mut shop, _servers) = shop_with_names()?;
    shop.world.node.kill_agent()?;
    Curl::get("http://api.partner.example/").expect(&shop.frontend, 200)?;
    let refused = dig(&shop.frontend, &["evil.example"])?;
    ensure!(refused.contains("status: REFUSED"), "{refused}");
    Ok(())
}
