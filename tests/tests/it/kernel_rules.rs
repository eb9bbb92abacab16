//! Decided in the kernel: who may reach whom, on which port, in both families.

use std::io::{Read as _, Write as _};

use anyhow::{Result, ensure};
use tidegate_tests::harness::{Curl, server};

use crate::shop::{ECHO, PLAIN, POLICY, Shop, policy, together};

#[test]
fn rules_of_the_kernel() -> Result<()> {
    let shop = Shop::running()?;
    together!(&shop;
        only_the_allowed_peer_gets_through_and_the_drop_names_the_rule,
        a_port_nobody_opened_is_closed_for_the_allowed_peer_too,
        udp_follows_the_same_rules,
        icmp_follows_its_own_rules,
        egress_rules_bind_the_sender,
        a_workload_cannot_use_an_address_that_is_not_its_own,
        a_policy_change_reaches_established_flows,
    )
}

fn only_the_allowed_peer_gets_through_and_the_drop_names_the_rule(shop: &Shop) -> Result<()> {
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

fn a_port_nobody_opened_is_closed_for_the_allowed_peer_too(shop: &Shop) -> Result<()> {
    Curl::get(shop.url(PLAIN + 1, "/")).expect_dropped(&shop.frontend)
}

fn udp_follows_the_same_rules(shop: &Shop) -> Result<()> {
    for to in shop.backend.addresses() {
        let answer = server::ask_udp(&shop.frontend, (to, ECHO), "hi")?;
        assert_eq!(answer, "backend-1 hi");
        server::expect_udp_dropped(&shop.stranger, (to, ECHO), "hi")?;
        shop.world
            .node
            .record(&["--from", "stranger", "--protocol", "udp"], |record| {
                record["destination"]["address"] == to.to_string()
                    && record["destination"]["port"] == ECHO
                    && record["dropReasonText"] == "Policy denied"
            })?;
    }
    Ok(())
}

fn icmp_follows_its_own_rules(shop: &Shop) -> Result<()> {
    let ping = |count: &str| -> Result<String> {
        let address = shop.backend.v4.to_string();
        let output = shop
            .frontend
            .run("ping", &["-c", count, "-W", "1", &address])?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let refused = ping("1")?;
    ensure!(
        refused.contains(" 0 received"),
        "no rule allows it: {refused}"
    );
    let node = &shop.world.node;
    node.change(|node| {
        node.write(
            "policies/ping.yaml",
            policy(
                "ping",
                "backend",
                r#"
  ingress:
  - fromEndpoints: [{matchLabels: {app: frontend}}]
    icmps: [{fields: [{family: IPv4, type: EchoRequest}]}]
"#,
            ),
        )
    })?;
    let allowed = ping("1")?;
    ensure!(
        allowed.contains(" 1 received"),
        "the rule allows it: {allowed}"
    );
    Ok(())
}

fn egress_rules_bind_the_sender(shop: &Shop) -> Result<()> {
    let node = &shop.world.node;
    Curl::get(shop.url(PLAIN, "/")).expect(&shop.frontend, 200)?;
    node.change(|node| {
        node.write(
            "policies/egress.yaml",
            policy(
                "frontend-egress",
                "frontend",
                r#"
  egressDeny:
  - toEndpoints: [{matchLabels: {app: backend}}]
    toPorts: [{ports: [{port: "9000", protocol: TCP}]}]
  egress:
  - toEntities: [all]
"#,
            ),
        )
    })?;
    Curl::get(shop.url(PLAIN, "/")).expect_dropped(&shop.frontend)?;
    Curl::get(shop.url(8080, "/api/x")).expect(&shop.frontend, 200)?;
    let drop = node.record(&["--from", "frontend", "--verdict", "dropped"], |record| {
        record["destination"]["port"] == PLAIN
    })?;
    assert_eq!(drop["direction"], "EGRESS");
    node.change(|node| node.remove("policies/egress.yaml"))?;
    Curl::get(shop.url(PLAIN, "/")).expect(&shop.frontend, 200)?;
    Ok(())
}

fn a_workload_cannot_use_an_address_that_is_not_its_own(shop: &Shop) -> Result<()> {
    // The frontend may; the stranger pretends to be it.
    for (forged, options, url) in [
        (shop.frontend.v4.to_string(), "", shop.url(PLAIN, "/")),
        (shop.frontend.v6.to_string(), "nodad", shop.url6(PLAIN, "/")),
    ] {
        let address = |verb: &str, options: &str| {
            let line = format!("address {verb} {forged} dev eth0 {options}");
            shop.stranger.configure(&[line])
        };
        address("add", options)?;
        Curl::get(url)
            .with(&["--interface", &forged])
            .expect_dropped(&shop.stranger)?;
        // The stack of a workload says things of its own from addresses of its own making,
        // so the record that matters is the one of the forged address.
        shop.world
            .node
            .record(&["--verdict", "dropped"], |record| {
                record["dropReasonText"] == "Invalid source ip"
                    && record["source"]["address"] == forged
            })?;
        address("delete", "")?;
    }
    Ok(())
}

fn a_policy_change_reaches_established_flows(shop: &Shop) -> Result<()> {
    let node = &shop.world.node;
    let mut stream = server::connect(&shop.frontend, (shop.backend.v4, ECHO))?;
    let port = stream.local_addr()?.port();
    let mut byte = [0];
    stream.write_all(b"a")?;
    stream.read_exact(&mut byte)?;
    node.change(|node| node.write("policies/backend.yaml", POLICY.replace("7000", "7001")))?;
    stream.write_all(b"b")?;
    let drop = node.record(&["--from", "frontend", "--verdict", "dropped"], |record| {
        record["source"]["port"] == port && record["destination"]["port"] == ECHO
    })?;
    assert_eq!(drop["dropReasonText"], "Policy denied");
    stream.set_nonblocking(true)?;
    match stream.read(&mut byte) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(()),
        other => anyhow::bail!("the flow is no longer allowed: {other:?}"),
    }
}
