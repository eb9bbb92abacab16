//! Nodes as people have them: with NAT, firewalls and settings that nobody made for us.
//! What workloads may do through the proxy works there as without it.

use anyhow::{Result, ensure};
use tidegate_tests::harness::{Curl, Place, Running, Workload, World, eventually};

use crate::dns_names::{dig, serve_names};

/// DNS and HTTP egress through the proxy, to servers outside.
const POLICY: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: outside, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: frontend}}
  egress:
  - toEntities: [world]
    toPorts:
    - ports: [{port: "53", protocol: ANY}]
      rules:
        dns: [{matchPattern: "*.partner.example"}]
    - ports: [{port: "80", protocol: TCP}]
      rules:
        http: [{path: "/api/.*"}]
"#;

/// Servers outside, by both families: the uplink's neighbour, and one behind it.
const NEAR: [&str; 2] = ["192.0.2.100", "2001:db8:2::100"];
const FAR: [&str; 2] = ["198.51.100.10", "2001:db8:3::10"];

/// A node that names no outside device, and a workload that asks DNS and web servers.
fn node() -> Result<(World, Workload, [Running; 2])> {
    let mut world = World::new()?;
    let frontend = world.workload("frontend")?;
    let servers = serve_names(&world)?;
    world
        .outside
        .configure(&["address add 2001:db8:3::10/128 dev lo nodad"])?;
    world
        .node
        .endpoint(&frontend, "shop", &[("app", "frontend")])?;
    world.node.configure("node:\n  name: lab\n")?;
    world.node.write("policies/outside.yaml", POLICY)?;
    Ok((world, frontend, servers))
}

/// Everything the policy speaks of, in one family: DNS by UDP and TCP, HTTP. What nginx
/// saw as the client's address.
fn works(frontend: &Workload, server: &str) -> Result<String> {
    for transport in ["+notcp", "+tcp"] {
        let answer = dig(frontend, server, &[transport, "api.partner.example"])?;
        ensure!(
            answer.contains("198.51.100.10"),
            "DNS {transport} at {server}: {answer}"
        );
    }
    let host = if server.contains(':') {
        format!("[{server}]")
    } else {
        server.to_owned()
    };
    Curl::get(format!("http://{host}/admin")).expect(frontend, 403)?;
    let answer = Curl::get(format!("http://{host}/api/x")).expect(frontend, 200)?;
    let seen = answer.body.split(' ').nth(1).unwrap_or_default();
    Ok(seen.to_owned())
}

/// Runs a program in a place; it must succeed.
fn run(place: &Place, program: &str, arguments: &[&str]) -> Result<()> {
    let output = place.run(program, arguments)?;
    ensure!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

#[test]
fn uplinks_are_found_by_the_default_routes_and_masquerading_is_found_out() -> Result<()> {
    let (mut world, frontend, _servers) = node()?;
    world.node.start()?;
    let notes = world.node.status()?["datapath"]["notes"].to_string();
    ensure!(
        notes.contains("by the default routes it is [uplink]"),
        "{notes}"
    );
    for (server, own) in NEAR.into_iter().zip(frontend.addresses()) {
        let seen = works(&frontend, server)?;
        assert_eq!(
            seen,
            own.to_string(),
            "without NAT the client's own address"
        );
    }

    // As container engines do it, in the two languages they speak.
    let host = world.node.place();
    let rule = "-t nat -A POSTROUTING -s 10.10.0.0/24 ! -d 10.10.0.0/24 -j MASQUERADE";
    run(host, "iptables-nft", &rule.split(' ').collect::<Vec<_>>())?;
    for line in [
        "add table ip6 masq",
        "add chain ip6 masq post { type nat hook postrouting priority srcnat; }",
        "add rule ip6 masq post ip6 saddr fd10::/64 oifname uplink masquerade",
    ] {
        run(host, "nft", &[line])?;
    }
    world.outside.configure(&[
        "route del 10.10.0.0/24 via 192.0.2.1",
        "route del fd10::/64 via 2001:db8:2::1 dev node",
    ])?;
    for (server, own) in FAR.into_iter().zip(["192.0.2.1", "2001:db8:2::1"]) {
        let seen = works(&frontend, server)?;
        assert_eq!(seen, own, "the node's address, as for what is not proxied");
    }
    // A change of the node's rules is noticed.
    run(host, "iptables-nft", &["-t", "nat", "-F", "POSTROUTING"])?;
    world
        .outside
        .configure(&["route add 10.10.0.0/24 via 192.0.2.1"])?;
    eventually("the client's own address again", || {
        let answer = Curl::get("http://198.51.100.10/api/x").expect(&frontend, 200)?;
        ensure!(answer.body.contains(" 10.10.0.10 "), "{}", answer.body);
        Ok(())
    })
}

#[test]
fn settings_of_other_peoples_nodes_do_not_hinder_steering() -> Result<()> {
    let (mut world, frontend, _servers) = node()?;
    world.node.start()?;
    for (settings, families) in [
        (&["net/ipv4/conf/all/src_valid_mark=1"][..], &NEAR[..]),
        (&["net/ipv4/conf/all/rp_filter=1"], &NEAR),
        (&["net/ipv4/conf/all/rp_filter=2"], &NEAR),
        (&["net/ipv4/ip_early_demux=0"], &NEAR),
        (
            &["net/ipv4/tcp_early_demux=0", "net/ipv4/udp_early_demux=0"],
            &NEAR,
        ),
        (&["net/ipv6/conf/all/disable_ipv6=1"], &NEAR[..1]),
    ] {
        world.node.place().sysctl(settings)?;
        for server in families {
            works(&frontend, server).map_err(|error| error.context(format!("{settings:?}")))?;
        }
    }
    // And a node that starts without IPv6.
    world.node.stop_agent()?;
    world.node.start()?;
    works(&frontend, NEAR[0])?;
    let notes = world.node.status()?["datapath"]["notes"].to_string();
    ensure!(notes.contains("IPv6 is off"), "{notes}");
    Ok(())
}

/// Holds UDP ports of every address of both families until it is killed.
const HOLD: &str = r#"
import socket, sys, time
held = []
for port in map(int, sys.argv[1:]):
    for family in (socket.AF_INET, socket.AF_INET6):
        s = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6: s.setsockopt(41, 26, 1)
        s.bind(('', port))
        held.append(s)
print('held', flush=True)
time.sleep(600)
"#;

#[test]
fn sockets_of_the_node_on_the_same_ports_silence_nobody() -> Result<()> {
    const CLIENT: u16 = 40_053;
    let (mut world, frontend, _servers) = node()?;
    world.node.start()?;
    let client = CLIENT.to_string();
    let holding = ["-c", HOLD, "53", &client];
    let holder = world
        .node
        .place()
        .spawn("holder", "/usr/bin/python3", &holding)?;
    eventually("the ports are held", || {
        ensure!(holder.output().contains("held"), "{}", holder.output());
        Ok(())
    })?;
    for (server, own) in NEAR.into_iter().zip(frontend.addresses()) {
        // A resolver of the node's own on every address: answers go out all the same.
        works(&frontend, server)?;
        let from = format!("-b{own}#{CLIENT}");
        let answer = dig(&frontend, server, &[&from, "+notcp", "api.partner.example"])?;
        ensure!(answer.contains("SERVFAIL"), "{server}: {answer}");
        let record = world.node.record(&["--from", "frontend"], |record| {
            record["dropReasonText"]
                .as_str()
                .is_some_and(|error| error.contains(&client))
        })?;
        let error = record["dropReasonText"].as_str().unwrap_or_default();
        ensure!(
            error.contains("a process of the node holds UDP port"),
            "{record}"
        );
    }
    Ok(())
}
