//! A way outside whose packets have no Ethernet header, as a VPN's: policed like any other.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use tidegate_tests::harness::{Curl, Tunnel, eventually, server};

use crate::shop::{ECHO, HTTP, PLAIN, Shop, policy};

/// The device at both ends.
const DEVICE: &str = "tg-tunnel";
/// Who is beyond it.
const BEYOND: [&str; 2] = ["198.51.100.50", "2001:db8:50::50"];

/// Some of HTTP, out by the tunnel; nothing else.
const EGRESS: &str = r#"
  egress:
  - toCIDR: [198.51.100.50/32, "2001:db8:50::50/128"]
    toPorts:
    - ports: [{port: "8080", protocol: TCP}]
      rules:
        http: [{path: "/api/.*"}]
"#;

/// And in.
const INGRESS: &str = r#"
  ingress:
  - fromCIDR: [198.51.100.50/32, "2001:db8:50::50/128"]
    toPorts:
    - ports: [{port: "8080", protocol: TCP}]
      rules:
        http: [{path: "/api/.*"}]
"#;

const DENY: &str = "\
apiVersion: tidegate.io/v1alpha1
kind: DenyList
metadata: {name: bad}
spec:
  cidrs: [198.51.100.50/32, \"2001:db8:50::50/128\"]
";

fn url(address: IpAddr, port: u16, path: &str) -> String {
    format!("http://{}{path}", std::net::SocketAddr::new(address, port))
}

#[test]
fn a_tunnel_is_a_way_outside_like_any_other() -> Result<()> {
    let mut shop = Shop::open()?;
    let (node, outside) = (shop.world.node.place().clone(), shop.world.outside.clone());
    let _tunnel = Tunnel::between(&node, &outside, DEVICE)?;
    let beyond: [IpAddr; 2] = [BEYOND[0].parse()?, BEYOND[1].parse()?];
    let [v4, v6] = BEYOND;
    node.configure(&[
        format!("route add {v4}/32 dev {DEVICE}"),
        format!("route add {v6}/128 dev {DEVICE}"),
    ])?;
    outside.configure(&[
        format!("address add {v4}/32 dev lo"),
        format!("address add {v6}/128 dev lo nodad"),
        format!("route replace 10.10.0.0/24 dev {DEVICE} src {v4}"),
        "route del fd10::/64 via 2001:db8:2::1".to_owned(),
        format!("route add fd10::/64 dev {DEVICE} src {v6}"),
    ])?;
    let _web = server::nginx(&outside, HTTP, &shop.world.dir())?;
    server::udp_echo(&outside, ECHO)?;
    for (name, app, sections) in [("out", "frontend", EGRESS), ("in", "backend", INGRESS)] {
        let text = policy(name, app, sections);
        shop.world
            .node
            .write(&format!("policies/{name}.yaml"), text)?;
    }
    shop.world.node.configure(&format!(
        "node:\n  name: lab\n  outsideDevices: [uplink, {DEVICE}]\n"
    ))?;
    shop.world.node.start()?;

    for (address, backend) in beyond.into_iter().zip(shop.backend.addresses()) {
        for (path, status) in [("/api/x", 200), ("/admin", 403)] {
            Curl::get(url(address, HTTP, path)).expect(&shop.frontend, status)?;
            Curl::get(url(backend, HTTP, path)).expect(&outside, status)?;
        }
        Curl::get(url(backend, PLAIN, "/")).expect_dropped(&outside)?;
        server::ask_udp(&shop.stranger, (address, ECHO), "x")?;
    }

    // What a workload sends past the program of its device.
    shop.world.node.kill_agent()?;
    shop.world.plug_again(&shop.stranger)?;
    for address in beyond {
        server::expect_udp_dropped(&shop.stranger, (address, ECHO), "x")?;
        // Not of policy, but by the proxy, which is alive.
        Curl::get(url(address, HTTP, "/admin")).expect(&shop.frontend, 403)?;
    }
    shop.world.node.start()?;
    for address in beyond {
        shop.world
            .node
            .record(&["--verdict", "dropped"], |record| {
                record["destination"]["address"] == address.to_string()
                    && record["dropReasonText"] == "Endpoint not ready"
            })?;
        server::ask_udp(&shop.stranger, (address, ECHO), "x")?;
    }

    // The deny list holds there.
    shop.world
        .node
        .change(|node| node.write("policies/deny.yaml", DENY))?;
    for backend in shop.stranger.addresses() {
        server::expect_udp_dropped(&outside, (backend, ECHO), "x")?;
    }
    eventually("the hits are counted", || {
        let status = shop.world.node.status()?;
        for prefix in ["198.51.100.50/32", "2001:db8:50::50/128"] {
            let hits = status["datapath"]["denyList"][prefix]["packets"].as_u64();
            ensure!(hits > Some(0), "{prefix}: {:#}", status["datapath"]);
        }
        Ok(())
    })
}
