//! Decided in the kernel: who may reach whom, on which port, in both families.

use anyhow::Result;
use tidegate_tests::harness::{Curl, server};

use crate::shop::{ECHO, PLAIN, Shop};

#[test]
fn only_the_allowed_peer_gets_through_and_the_drop_names_the_rule() -> Result<()> {
    let shop = Shop::running()?;
    for url in [shop.url(PLAIN, "/"), shop.url6(PLAIN, "/")] {
        Curl::get(&url).expect(&shop.frontend, 200)?;
        Curl::get(&url).expect_dropped(&shop.stranger)?;
    }
    let drop = shop
        .world
        .node
        .record(&["--from", "stranger", "--verdict", "dropped"], |_| true)?;
    assert_eq!(drop["dropReasonText"], "Policy denied");
    assert_eq!(drop["source"]["endpoint"], "shop/stranger");
    assert_eq!(drop["destination"]["port"], PLAIN);
    assert!(
        drop["rules"][0]
            .as_str()
            .is_some_and(|rule| rule.contains("shop/backend")),
        "{drop}"
    );
    Ok(())
}

#[test]
fn a_port_nobody_opened_is_closed_for_the_allowed_peer_too() -> Result<()> {
    let shop = Shop::running()?;
    Curl::get(shop.url(PLAIN + 1, "/")).expect_dropped(&shop.frontend)
}

#[test]
fn udp_follows_the_same_rules() -> Result<()> {
    let shop = Shop::running()?;
    for to in shop.backend.addresses() {
        assert_eq!(
            server::ask_udp(&shop.frontend, (to, ECHO), "hi")?,
            "backend-1 hi"
        );
        assert!(server::ask_udp(&shop.stranger, (to, ECHO), "hi").is_err());
    }
    Ok(())
}

#[test]
fn icmp_follows_its_own_rules() -> Result<()> {
    let shop = Shop::running()?;
    let ping = |count: &str| {
        let address = shop.backend.v4.to_string();
        shop.frontend
            .run("ping", &["-c", count, "-W", "1", &address])
    };
    assert!(!ping("1")?.status.success(), "no rule allows it");
    shop.world.node.change(|node| {
        node.write(
            "policies/ping.yaml",
            r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: ping, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: backend}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: frontend}}]
    icmps: [{fields: [{family: IPv4, type: EchoRequest}]}]
"#,
        )
    })?;
    assert!(ping("2")?.status.success(), "the rule allows it");
    Ok(())
}

#[test]
fn egress_rules_bind_the_sender() -> Result<()> {
    let shop = Shop::running()?;
    Curl::get(shop.url(PLAIN, "/")).expect(&shop.frontend, 200)?;
    shop.world.node.change(|node| {
        node.write(
            "policies/egress.yaml",
            r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: frontend-egress, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: frontend}}
  egressDeny:
  - toEndpoints: [{matchLabels: {app: backend}}]
    toPorts: [{ports: [{port: "9000", protocol: TCP}]}]
  egress:
  - toEntities: [all]
"#,
        )
    })?;
    Curl::get(shop.url(PLAIN, "/")).expect_dropped(&shop.frontend)?;
    Curl::get(shop.url(8080, "/api/x")).expect(&shop.frontend, 200)?;
    let drop = shop
        .world
        .node
        .record(&["--from", "frontend", "--verdict", "dropped"], |_| true)?;
    assert_eq!(drop["direction"], "EGRESS");
    Ok(())
}

#[test]
fn a_policy_change_reaches_established_flows() -> Result<()> {
    use std::io::{Read as _, Write as _};
    let shop = Shop::running()?;
    let mut stream = server::connect(&shop.frontend, (shop.backend.v4, ECHO))?;
    let mut byte = [0];
    stream.write_all(b"a")?;
    stream.read_exact(&mut byte)?;
    shop.world.node.change(|node| {
        node.write(
            "policies/backend.yaml",
            crate::shop::POLICY.replace("7000", "7001"),
        )
    })?;
    stream.write_all(b"b")?;
    stream.set_read_timeout(Some(std::time::Duration::from_secs(1)))?;
    assert!(
        stream.read_exact(&mut byte).is_err(),
        "the flow is no longer allowed"
    );
    Ok(())
}

#[test]
fn a_workload_cannot_use_an_address_that_is_not_its_own() -> Result<()> {
    let shop = Shop::running()?;
    // The frontend may; the stranger pretends to be it.
    shop.stranger
        .configure(&[format!("address add {}/32 dev eth0", shop.frontend.v4)])?;
    let forged = shop.frontend.v4.to_string();
    Curl::get(shop.url(PLAIN, "/"))
        .with(&["--interface", &forged])
        .expect_dropped(&shop.stranger)?;
    // The stack of a workload says things of its own from addresses of its own making,
    // so the record that matters is the one of the forged address.
    shop.world
        .node
        .record(&["--verdict", "dropped"], |record| {
            record["dropReasonText"] == "Invalid source ip" && record["source"]["address"] == forged
        })?;
    Ok(())
}
