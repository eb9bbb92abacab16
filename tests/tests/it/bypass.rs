//! Routing that no longer leads to the proxy: what needs L7 stays inside.

use std::{io::Write as _, net::Ipv4Addr};

use anyhow::{Context as _, Result};
use tidegate_tests::harness::{Curl, Place, eventually, server, world::OUTSIDE_V4};

use crate::shop::{ECHO, HTTP, Shop, policy};

/// Everything the frontend may send: some of HTTP and DNS, both judged by the proxy.
const EGRESS: &str = r#"
  egress:
  - toCIDR: [192.0.2.100/32, 198.51.100.100/32]
    toPorts:
    - ports: [{port: "8080", protocol: TCP}]
      rules:
        http: [{path: "/api/.*"}]
    - ports: [{port: "53", protocol: UDP}]
      rules:
        dns: [{matchPattern: "*"}]
"#;

/// TCP segments and UDP datagrams a place has received so far.
fn received(place: &Place) -> Result<u64> {
    let text = place.within(|| std::fs::read_to_string("/proc/thread-self/net/snmp"))??;
    let counter = |protocol: &str, name: &str| {
        let mut lines = text.lines().filter(|line| line.starts_with(protocol));
        let (names, values) = (lines.next()?, lines.next()?);
        let column = names.split(' ').position(|column| column == name)?;
        values.split(' ').nth(column)?.parse::<u64>().ok()
    };
    [
        ("Tcp:", "InSegs"),
        ("Udp:", "InDatagrams"),
        ("Udp:", "NoPorts"),
    ]
    .iter()
    .map(|(protocol, name)| counter(protocol, name).context("no such counter"))
    .sum()
}

/// Outside, behind a device of the node that no configuration names.
const BEYOND: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 100);

/// A second way out of the node.
fn undeclared_uplink(shop: &Shop) -> Result<()> {
    let outside = &shop.world.outside;
    shop.world.node.place().configure(&[
        format!(
            "link add spare type veth peer name spare netns {}",
            outside.netns()
        ),
        "link set spare up".to_owned(),
        "address add 198.51.100.1/24 dev spare".to_owned(),
    ])?;
    outside.configure(&[
        "link set spare up".to_owned(),
        format!("address add {BEYOND}/24 dev spare"),
    ])
}

#[test]
fn without_rule_and_agent_nothing_that_needs_l7_leaves_the_node() -> Result<()> {
    let mut shop = Shop::open()?;
    undeclared_uplink(&shop)?;
    server::http_echo(&shop.world.outside, HTTP)?;
    server::udp_echo(&shop.world.outside, ECHO)?;
    shop.world.node.write(
        "policies/frontend.yaml",
        policy("frontend", "frontend", EGRESS),
    )?;
    shop.world.node.start()?;
    let url = |address: Ipv4Addr, path: &str| format!("http://{address}:{HTTP}{path}");
    let mut open = Vec::new();
    for address in [OUTSIDE_V4, BEYOND] {
        // Refused by the proxy, which has not asked outside for anything.
        Curl::get(url(address, "/admin")).expect(&shop.frontend, 403)?;
        open.push(server::connect(&shop.frontend, (address, HTTP))?);
    }
    let before = received(&shop.world.outside)?;

    shop.world.node.kill_agent()?;
    shop.world.node.place().configure(&["rule delete pref 9"])?;
    for (address, open) in [OUTSIDE_V4, BEYOND].into_iter().zip(&mut open) {
        Curl::get(url(address, "/api/new")).expect_dropped(&shop.frontend)?;
        server::expect_udp_dropped(&shop.frontend, (address, 53), "anything")?;
        open.write_all(b"GET /api/old HTTP/1.1\r\nHost: a\r\n\r\n")?;
    }
    // What may go out does, after what was written last, and is all that arrives.
    server::ask_udp(&shop.stranger, (OUTSIDE_V4, ECHO), "anything")?;
    assert_eq!(
        received(&shop.world.outside)? - before,
        1,
        "something got out"
    );

    shop.world.node.start()?;
    for (address, protocol) in [
        (OUTSIDE_V4, "tcp"),
        (OUTSIDE_V4, "udp"),
        (BEYOND, "tcp"),
        (BEYOND, "udp"),
    ] {
        let drop = shop
            .world
            .node
            .record(&["--verdict", "dropped"], |record| {
                record["protocol"] == protocol
                    && record["destination"]["address"] == address.to_string()
                    && record["dropReasonText"] == "Needs L7 and was routed past the proxy"
            })?;
        // Written while no agent was there to name it.
        assert_eq!(drop["source"]["address"], shop.frontend.v4.to_string());
        assert_eq!(drop["direction"], "EGRESS");
    }
    eventually("requests are filtered again", || {
        for (path, status) in [("/api/x", 200), ("/admin", 403)] {
            Curl::get(url(BEYOND, path))
                .give_up_after(1)
                .expect(&shop.frontend, status)?;
        }
        Ok(())
    })
}
