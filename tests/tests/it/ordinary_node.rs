//! Nodes as people have them: with NAT, firewalls and settings that nobody made for us.
//! What workloads may do through the proxy works there as without it.

use std::io::{Read as _, Write as _};

use anyhow::{Result, ensure};
use tidegate_tests::harness::{
    Capture, Curl, Node, Place, Running, Workload, World, eventually, server,
    world::{BRIDGE, BRIDGE_V4, UPLINK},
};

use crate::{
    dns_names::{dig, serve_names},
    shop::{ECHO, Shop},
};

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

/// As whom the proxy would speak to a web server, asked before anything is sent.
fn upstream_source(world: &World, server: &str) -> Result<String> {
    let to = if server.contains(':') {
        format!("[{server}]:80")
    } else {
        format!("{server}:80")
    };
    let answer = world.node.json(&["explain", "frontend", &to])?;
    let source = answer["upstreamSource"].as_str();
    Ok(source.unwrap_or_default().to_owned())
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
    ensure!(notes.contains("by the default routes: uplink"), "{notes}");
    for (server, own) in NEAR.into_iter().zip(frontend.addresses()) {
        let seen = works(&frontend, server)?;
        assert_eq!(
            seen,
            own.to_string(),
            "without NAT the client's own address"
        );
        let told = upstream_source(&world, server)?;
        assert_eq!(told, own.to_string(), "what explain says of it");
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
        assert_eq!(upstream_source(&world, server)?, own, "what explain says");
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
    })?;
    // An address that is routed to the node and is not its own, in the older language: as
    // nobody can speak as it, that is said.
    const ROUTED: &str = "203.0.113.7";
    let rule = format!("-t nat -A POSTROUTING -o uplink -j SNAT --to-source {ROUTED}");
    run(
        host,
        "iptables-legacy",
        &rule.split(' ').collect::<Vec<_>>(),
    )?;
    eventually("what cannot be sent is refused", || {
        Curl::get("http://198.51.100.10/api/x").expect(&frontend, 502)?;
        let answer = dig(&frontend, NEAR[0], &["+notcp", "api.partner.example"])?;
        ensure!(answer.contains("SERVFAIL"), "{answer}");
        Ok(())
    })?;
    for protocol in ["tcp", "udp"] {
        world.node.record(&["--from", "frontend"], |record| {
            record["protocol"] == protocol
                && record["dropReasonText"]
                    .as_str()
                    .is_some_and(|error| error.contains(ROUTED))
        })?;
    }
    Ok(())
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

/// Sets how long the packets of devices may be before segmentation, IPv4's too, which the
/// lab's `ip` has no word for (`IFLA_GSO_MAX_SIZE` and its three siblings, linux/if_link.h).
const BIG: &str = r#"
import socket, struct, sys
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
for device in sys.argv[2:]:
    body = struct.pack('=BBHiII', 0, 0, 0, socket.if_nametoindex(device), 0, 0)
    for attribute in (41, 58, 63, 64):
        body += struct.pack('=HHI', 8, attribute, int(sys.argv[1]))
    s.send(struct.pack('=IHHII', 16 + len(body), 16, 5, 1, 0) + body)
    error, = struct.unpack_from('=i', s.recv(4096), 16)
    assert error == 0, (device, error)
"#;

#[test]
fn packets_longer_than_any_header_says_are_as_others() -> Result<()> {
    const BYTES: usize = 32 << 20;
    let shop = Shop::running()?;
    let node = shop.world.node.place().clone();
    let size = "180000";
    for workload in [&shop.frontend, &shop.backend] {
        run(workload, "/usr/bin/python3", &["-c", BIG, size, "eth0"])?;
        // Room for the option that says how long a packet of IPv6 is: Linux counts it when a
        // router asks whether the segments will fit.
        workload.configure(&["link set eth0 mtu 1400"])?;
        let device = workload.interface.as_str();
        run(&node, "/usr/bin/python3", &["-c", BIG, size, device])?;
    }
    for policy in [true, false] {
        if !policy {
            let remove = |node: &Node| node.remove("policies/backend.yaml");
            shop.world.node.change(remove)?;
        }
        for address in shop.backend.addresses() {
            let seen = Capture::start(&shop.backend, &[""; 0])?;
            let mut stream = server::connect(&shop.frontend, (address, ECHO))?;
            let mut writer = stream.try_clone()?;
            let writing = std::thread::spawn(move || writer.write_all(&vec![7; BYTES]));
            let mut back = vec![0; BYTES];
            stream.read_exact(&mut back)?;
            let written = writing.join();
            ensure!(matches!(written, Ok(Ok(()))), "{written:?}");
            let longest = seen.longest();
            ensure!(
                longest > 70_000,
                "{address}: no packet was longer than {longest}"
            );
        }
    }
    let mut drops = shop.world.node.records(&["--verdict", "dropped"])?;
    // What a device tells its link of the groups it listens to (MLDv2) is nobody's data.
    drops.retain(|drop| drop["destination"]["address"] != "ff02::16");
    ensure!(drops.is_empty(), "{} drops: {:?}", drops.len(), drops[0]);
    let counted = shop.world.node.status()?["datapath"]["drops"].to_string();
    ensure!(!counted.contains("Invalid packet"), "{counted}");
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

/// Workloads that are neighbours on one bridge: some of what they say to each other is
/// read, some is not.
const NEIGHBOURS: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: neighbours, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: backend}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: frontend}}]
    toPorts:
    - ports: [{port: "8080", protocol: TCP}]
      rules: {http: [{path: "/api/.*"}]}
    - ports:
      - {port: "9000", protocol: TCP}
      - {port: "7000", protocol: UDP}
"#;

#[test]
fn workloads_on_one_bridge_are_policed_as_others_are() -> Result<()> {
    const HTTP: u16 = 8080;
    const PLAIN: u16 = 9000;
    const ECHO: u16 = 7000;
    let mut world = World::new()?;
    let [frontend, backend, stranger] = ["frontend", "backend", "stranger"].map(|name| {
        let workload = world.bridged(name)?;
        world.node.endpoint(&workload, "shop", &[("app", name)])?;
        anyhow::Ok(workload)
    });
    let (frontend, backend, stranger) = (frontend?, backend?, stranger?);
    let _web = server::nginx(&backend, HTTP, &world.dir())?;
    let _plain = server::nginx(&backend, PLAIN, &world.dir())?;
    server::udp_echo(&backend, ECHO)?;
    let _outside = serve_names(&world)?;
    world.node.configure("node:\n  name: lab\n")?;
    world.node.write(
        "policies/outside.yaml",
        POLICY.replace("egress:", "egress:\n  - toEndpoints: [{}]"),
    )?;
    world.node.write("policies/neighbours.yaml", NEIGHBOURS)?;
    world.node.start()?;

    let check = |when: &str| -> Result<()> {
        for host in [backend.v4.to_string(), format!("[{}]", backend.v6)] {
            let url = |port: u16, path: &str| format!("http://{host}:{port}{path}");
            let told = |error: anyhow::Error| error.context(format!("{when}, {host}"));
            // L7, read by the proxy, which speaks as the client.
            let answer = Curl::get(url(HTTP, "/api/x"))
                .expect(&frontend, 200)
                .map_err(told)?;
            let own = if host.starts_with('[') {
                frontend.v6.to_string()
            } else {
                frontend.v4.to_string()
            };
            ensure!(answer.body.contains(&own), "{when}: {}", answer.body);
            Curl::get(url(HTTP, "/admin"))
                .expect(&frontend, 403)
                .map_err(told)?;
            // L4, and nobody else.
            Curl::get(url(PLAIN, "/"))
                .expect(&frontend, 200)
                .map_err(told)?;
            Curl::get(url(PLAIN, "/"))
                .expect_dropped(&stranger)
                .map_err(told)?;
        }
        for address in backend.addresses() {
            server::ask_udp(&frontend, (address, ECHO), "x")
                .map_err(|error| error.context(format!("{when}, UDP to {address}")))?;
        }
        for server in NEAR {
            works(&frontend, server)
                .map_err(|error| error.context(format!("{when}, to {server}")))?;
        }
        Ok(())
    };
    check("a bridge with addresses")?;
    // With the node's netfilter also for what is only bridged, as container engines have it.
    world.node.place().sysctl(&[
        "net/bridge/bridge-nf-call-iptables=1",
        "net/bridge/bridge-nf-call-ip6tables=1",
    ])?;
    check("bridge-nf-call-iptables")?;
    world.node.place().configure(&[format!(
        "link set {} type bridge_slave hairpin on",
        frontend.interface
    )])?;
    check("hairpin")?;

    // The way outside is a port of the same bridge, as on hosts of virtual machines: what
    // comes in there is from outside, what workloads send by the bridge is not.
    world.node.place().configure(&[
        format!("link set {UPLINK} master {BRIDGE}"),
        format!("address del 192.0.2.1/24 dev {UPLINK}"),
        format!("address del 2001:db8:2::1/64 dev {UPLINK}"),
        format!("address add 192.0.2.1/24 dev {BRIDGE}"),
        format!("address add 2001:db8:2::1/64 dev {BRIDGE} nodad"),
        format!("route replace default via 192.0.2.100 dev {BRIDGE}"),
        format!("route replace default via 2001:db8:2::100 dev {BRIDGE}"),
    ])?;
    eventually("the bridge's port leads outside", || {
        let notes = world.node.status()?["datapath"]["notes"].to_string();
        ensure!(notes.contains("by the default routes: uplink"), "{notes}");
        Ok(())
    })?;
    check("the uplink on the bridge")?;

    // A classic filter that writes where our programs do.
    let filter = format!(
        "dev {} ingress protocol ip u32 match u32 0 0 flowid 1:5",
        frontend.interface
    );
    let clsact = format!("qdisc add dev {} clsact", frontend.interface);
    let filter = format!("filter add {filter}");
    for line in [&clsact, &filter] {
        run(
            world.node.place(),
            "tc",
            &line.split(' ').collect::<Vec<_>>(),
        )?;
    }
    eventually("the filter is told where it matters", || {
        let told = |to: &str| -> Result<bool> {
            let answer = world.node.json(&["explain", "frontend", to])?;
            let told = answer["obstacles"].to_string();
            Ok(told.contains("ingress of tg-frontend, which shop/frontend is behind (u32)"))
        };
        ensure!(told("192.0.2.100:53")?, "not of what leaves");
        ensure!(!told(&format!("{}:{PLAIN}", backend.v4))?, "of a neighbour");
        Ok(())
    })?;
    let remove = format!("qdisc del dev {} clsact", frontend.interface);
    run(
        world.node.place(),
        "tc",
        &remove.split(' ').collect::<Vec<_>>(),
    )?;

    // A bridge on which the node has no address: what needs no proxy goes on, what needs
    // it cannot be answered, and that is told where it is asked about.
    world
        .node
        .place()
        .configure(&[format!("address del {BRIDGE_V4}/24 dev {BRIDGE}")])?;
    let explain = |port: u16| {
        world
            .node
            .json(&["explain", "frontend", &format!("{}:{port}", backend.v4)])
    };
    eventually("the obstacle is told", || {
        let answer = explain(HTTP)?;
        let told = answer["obstacles"].to_string();
        ensure!(
            told.contains("tg-frontend of shop/frontend is a port of br0"),
            "{answer:#}"
        );
        ensure!(
            told.contains("ip route add 10.20.0.10/32 dev br0"),
            "{answer:#}"
        );
        Ok(())
    })?;
    let plain = explain(PLAIN)?;
    ensure!(!plain["obstacles"].to_string().contains("br0"), "{plain:#}");
    let url = format!("http://{}:{PLAIN}/", backend.v4);
    Curl::get(url).expect(&frontend, 200)?;
    // The remedy, as it is told.
    world.node.place().configure(&[
        format!("route add {}/32 dev {BRIDGE}", frontend.v4),
        format!("route add {}/32 dev {BRIDGE}", backend.v4),
    ])?;
    eventually("nothing is in the way", || {
        let answer = explain(HTTP)?;
        ensure!(
            !answer["obstacles"].to_string().contains("is a port of"),
            "{answer:#}"
        );
        Ok(())
    })?;
    Curl::get(format!("http://{}:{HTTP}/api/x", backend.v4)).expect(&frontend, 200)?;
    Ok(())
}
