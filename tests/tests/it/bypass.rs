//! Routing that no longer leads to the proxy: what needs L7 stays inside.

use anyhow::{Context as _, Result, ensure};
use tidegate_tests::harness::{Curl, Place, eventually, server, world::OUTSIDE_V4};

use crate::shop::{HTTP, Shop};

/// Everything the frontend may send: some of HTTP and DNS, both judged by the proxy.
const EGRESS: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: frontend, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: frontend}}
  egress:
  - toCIDR: [192.0.2.100/32]
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

#[test]
fn without_rule_and_agent_nothing_that_needs_l7_leaves_the_node() -> Result<()> {
    let mut shop = Shop::open()?;
    let outside = &shop.world.outside;
    server::http_echo(outside, HTTP)?;
    shop.world.node.write("policies/frontend.yaml", EGRESS)?;
    shop.world.node.start()?;
    let url = |path: &str| format!("http://{OUTSIDE_V4}:{HTTP}{path}");
    // Refused by the proxy, which has not asked outside for anything.
    Curl::get(url("/admin")).expect(&shop.frontend, 403)?;
    let mut open = server::connect(&shop.frontend, (OUTSIDE_V4, HTTP))?;
    let before = received(&shop.world.outside)?;

    shop.world.node.kill_agent()?;
    shop.world.node.place().configure(&["rule delete pref 9"])?;
    Curl::get(url("/api/new")).expect_dropped(&shop.frontend)?;
    ensure!(server::ask_udp(&shop.frontend, (OUTSIDE_V4, 53), "anything").is_err());
    std::io::Write::write_all(&mut open, b"GET /api/old HTTP/1.1\r\nHost: a\r\n\r\n")?;
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(received(&shop.world.outside)?, before, "something got out");

    shop.world.node.start()?;
    for protocol in ["tcp", "udp"] {
        let drop = shop
            .world
            .node
            .record(&["--verdict", "dropped"], |record| {
                record["protocol"] == protocol
                    && record["dropReasonText"] == "Needs L7 and was routed past the proxy"
            })?;
        // Written while no agent was there to name it.
        assert_eq!(drop["source"]["address"], shop.frontend.v4.to_string());
        assert_eq!(drop["direction"], "EGRESS");
    }
    eventually("requests are filtered again", || {
        for (path, status) in [("/api/x", 200), ("/admin", 403)] {
            Curl::get(url(path))
                .give_up_after(1)
                .expect(&shop.frontend, status)?;
        }
        Ok(())
    })
}
