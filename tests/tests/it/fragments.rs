//! Datagrams longer than a packet: their fragments pass, are inspected or are dropped as
//! one packet would be, and none goes where its first one may not.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tidegate_tests::harness::{
    Capture, Place, eventually,
    raw::{Packet, tcp},
    server,
    world::{NODE_V4, NODE_V6, OUTSIDE_V4, OUTSIDE_V6},
};

use crate::{
    dns_names::{dig, serve_names},
    shop::{ECHO, PLAIN, POLICY, Shop},
};

/// Beside [`POLICY`]: pings of the frontend, questions of the node, and what the stranger may
/// ask outside.
const MORE: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: pings, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: backend}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: frontend}}]
    icmps: [{fields: [{family: IPv4, type: 8}, {family: IPv6, type: 128}]}]
  - fromEntities: [host]
    toPorts: [{ports: [{port: "7000", protocol: UDP}]}]
  - fromEntities: [host]
    icmps: [{fields: [{family: IPv4, type: 8}, {family: IPv6, type: 128}]}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: names, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: stranger}}
  egress:
  - toEntities: [host, world]
    icmps: [{fields: [{family: IPv4, type: 8}, {family: IPv6, type: 128}]}]
  - toEndpoints: [{}]
  - toEntities: [world]
    toPorts:
    - ports: [{port: "53", protocol: ANY}, {port: "5300", protocol: UDP}]
      rules:
        dns: [{matchPattern: "*.partner.example"}]
"#;

const SERVICE: &str = r#"
apiVersion: tidegate.io/v1alpha1
kind: Service
metadata: {name: backend, namespace: shop}
spec:
  addresses: [10.96.0.10, "fd96::10"]
  ports: [{name: echo, port: 7, targetPort: 7000, protocol: UDP}]
  backends: [{address: "10.10.0.11"}, {address: "fd10::b"}]
"#;

/// A service of the node that may ask the backend's echo port.
const REPORTER: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: reporter, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: reporter}}
  egress:
  - toEndpoints: [{matchLabels: {app: backend, "k8s:io.kubernetes.pod.namespace": shop}}]
    toPorts: [{ports: [{port: "7000", protocol: UDP}]}]
  - toEndpoints: [{matchLabels: {app: backend, "k8s:io.kubernetes.pod.namespace": shop}}]
    icmps: [{fields: [{family: IPv4, type: 8}, {family: IPv6, type: 128}]}]
"#;

/// Longer than two packets of the lab's devices.
fn long() -> String {
    "long ".repeat(800)
}

/// A datagram may get lost where a neighbour is still to be found; one that is held back for
/// its length is held back each time.
fn echoes(from: &Place, to: IpAddr) -> Result<()> {
    eventually(&format!("{} asks {to}", from.name()), || {
        let answer = server::ask_udp(from, (to, ECHO), &long())?;
        ensure!(answer.ends_with(&long()), "{} bytes", answer.len());
        Ok(())
    })
}

fn pings(from: &Place, to: IpAddr) -> Result<()> {
    eventually("an answer", || ping(from, to, &[]))
}

fn ping(from: &Place, to: IpAddr, more: &[&str]) -> Result<()> {
    let to = to.to_string();
    let arguments = ["-c", "1", "-W", "1", "-s", "4000", &to];
    let output = from.run("ping", &[&arguments, more].concat())?;
    ensure!(
        output.status.success(),
        "{} pings {to}: {output:?}",
        from.name()
    );
    Ok(())
}

#[test]
fn long_datagrams_pass_where_short_ones_do() -> Result<()> {
    let mut shop = Shop::open()?;
    let node = shop.world.node.place().clone();
    let outside = shop.world.outside.clone();
    let reporter = node.group("reporter")?;
    shop.world
        .node
        .host_service("reporter", &reporter, &[("app", "reporter")])?;
    server::udp_echo(&outside, ECHO)?;
    server::udp_echo(&node, ECHO)?;
    shop.world.node.start()?;
    let pairs = [
        (IpAddr::from(NODE_V4), IpAddr::from(OUTSIDE_V4)),
        (NODE_V6.into(), OUTSIDE_V6.into()),
    ];
    let backends = shop.backend.addresses();
    for ((node_address, outside_address), backend) in pairs.into_iter().zip(backends) {
        for (from, to) in [
            (&*shop.stranger, backend),
            (&shop.stranger, outside_address),
            (&shop.stranger, node_address),
            (&node, backend),
            (&outside, backend),
        ] {
            echoes(from, to).context("without policy")?;
            pings(from, to).context("without policy")?;
        }
    }
    shop.world.node.change(|node| {
        node.write("policies/backend.yaml", POLICY)?;
        node.write("policies/more.yaml", MORE)?;
        node.write("policies/reporter.yaml", REPORTER)?;
        node.write("services/backend.yaml", SERVICE)
    })?;
    for ((node_address, outside_address), backend) in pairs.into_iter().zip(backends) {
        for (from, to) in [
            (&*shop.frontend, backend),
            (&shop.frontend, outside_address),
            (&shop.frontend, node_address),
            (&node, backend),
        ] {
            echoes(from, to).context("with policy")?;
        }
        for (from, to) in [
            (&*shop.frontend, backend),
            (&shop.stranger, outside_address),
            (&shop.stranger, node_address),
        ] {
            pings(from, to).context("with policy")?;
        }
        // Without an address of its own it would first ask for one with a UDP socket, which
        // its policy does not allow.
        let own = node_address.to_string();
        ping(&reporter, backend, &["-I", &own]).context("a host service")?;
        for from in [&*shop.stranger, &outside] {
            server::expect_udp_dropped(from, (backend, ECHO), &long())?;
        }
    }
    // Services are translated at the socket: every fragment is the backend's from the start.
    for (who, to) in [
        (&*shop.frontend, "UDP4-SENDTO:10.96.0.10:7"),
        (&shop.frontend, "UDP6-SENDTO:[fd96::10]:7"),
        (&reporter, "UDP4:10.96.0.10:7"),
        (&reporter, "UDP6:[fd96::10]:7"),
    ] {
        let command = format!("printf %04000d 7 | socat -b 8192 -t 1 - '{to}'");
        let output = who.run("sh", &["-c", &command])?;
        let answer = String::from_utf8_lossy(&output.stdout);
        ensure!(answer.ends_with("0007"), "{to}: {output:?}");
    }
    let drops = shop
        .world
        .node
        .records(&["--verdict", "dropped"])?
        .into_iter()
        .filter(|record| record["dropReasonText"] != "Policy denied");
    assert_eq!(drops.collect::<Vec<_>>(), Vec::<serde_json::Value>::new());
    Ok(())
}

/// A query of type A for a name of three labels.
fn query(name: &str) -> Vec<u8> {
    let mut bytes = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0".to_vec();
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.bytes());
    }
    bytes.extend(b"\0\0\x01\0\x01");
    bytes
}

/// Asks in fragments of eight bytes after the first: no single one has the name.
fn ask_in_pieces(from: &Place, own: IpAddr, server: IpAddr, name: &str) -> Result<Vec<u8>> {
    let socket = from.within(|| UdpSocket::bind((own, 0)))??;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let bytes = query(name);
    let packet = Packet::udp(socket.local_addr()?, (server, 53).into(), &bytes);
    let end = 8 + bytes.len();
    let id = socket.local_addr()?.port();
    packet.send(from, &packet.fragment(id, 0, 24))?;
    for at in (24..end).step_by(8) {
        packet.send(from, &packet.fragment(id, at, end.min(at + 8)))?;
    }
    let mut answer = vec![0; 512];
    let (n, _) = socket.recv_from(&mut answer)?;
    answer.truncate(n);
    Ok(answer)
}

/// Addresses in each answer of [`long_answers`].
const ANSWERS: usize = 200;

/// A DNS server whose answers are longer than two packets.
fn long_answers(place: &Place, port: u16) -> Result<()> {
    let socket = place.within(|| UdpSocket::bind(("::", port)))??;
    std::thread::spawn(move || -> std::io::Result<()> {
        let mut bytes = [0; 512];
        loop {
            let (n, client) = socket.recv_from(&mut bytes)?;
            let name = bytes[12..n].iter().position(|&byte| byte == 0);
            let mut answer = bytes[..12 + name.unwrap_or(0) + 5].to_vec();
            // A response, one question, so many answers.
            let counts = [0x8180, 1, ANSWERS as u16, 0, 0].map(u16::to_be_bytes);
            answer[2..12].copy_from_slice(counts.as_flattened());
            for i in 0..ANSWERS {
                answer.extend(b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc6\x33\x64");
                answer.push(i as u8);
            }
            socket.send_to(&answer, client)?;
        }
    });
    Ok(())
}

#[test]
fn fragments_are_inspected_together_or_go_nowhere() -> Result<()> {
    let mut shop = Shop::open()?;
    let _servers = serve_names(&shop.world)?;
    long_answers(&shop.world.outside, 5300)?;
    shop.world.node.write("policies/backend.yaml", POLICY)?;
    shop.world.node.write("policies/more.yaml", MORE)?;
    shop.world.node.start()?;
    let outside: [IpAddr; 2] = [OUTSIDE_V4.into(), OUTSIDE_V6.into()];

    // What needs L7 is put together before it is read.
    let seen = Capture::start(&shop.world.outside, &["forbidden"])?;
    for (server, own) in outside.into_iter().zip(shop.stranger.addresses()) {
        let ask = |name: &str| {
            ask_in_pieces(&shop.stranger, own, server, name)
                .with_context(|| format!("{name} at {server}"))
        };
        let answer = ask("api.partner.example")?;
        ensure!(answer.ends_with(&[198, 51, 100, 10]), "{answer:?}");
        const REFUSED: u8 = 5;
        let answer = ask("the.forbidden.example")?;
        ensure!(answer[3] & 15 == REFUSED, "{answer:?}");
        // And an answer in fragments, on its way in.
        let asked = ["+bufsize=4096", "+ignore", "+notcp", "-p5300", "+short"];
        let asked = [&asked[..], &["api.partner.example"]].concat();
        let text = dig(&shop.stranger, &server.to_string(), &asked)?;
        ensure!(text.lines().count() == ANSWERS, "{server}: {text}");
    }
    ensure!(seen.count("forbidden")? == 0, "a query got out");

    // From the frontend, who may ask the backend's echo port.
    let to = Capture::start(&shop.backend, &["unknown", "overwri", "tiny"])?;
    for (own, backend) in shop
        .frontend
        .addresses()
        .into_iter()
        .zip(shop.backend.addresses())
    {
        let end = |address, port| SocketAddr::new(address, port);
        let (from, echo) = (end(own, 40_000), end(backend, ECHO));
        // No first one; one that begins inside the first; a TCP header in two.
        let packet = Packet::udp(from, echo, b"01234567unknown.unknown.");
        packet.send(&shop.frontend, &packet.fragment(1, 16, 32))?;
        let packet = Packet::udp(from, echo, b"overwriteoverwrite012345");
        packet.send(&shop.frontend, &packet.fragment(2, 0, 16))?;
        packet.send(&shop.frontend, &packet.fragment(2, 8, 32))?;
        let packet = Packet::tcp(from, end(backend, PLAIN), (1, 1), tcp::DATA, b"....tiny");
        packet.send(&shop.frontend, &packet.fragment(3, 0, 16))?;
        packet.send(&shop.frontend, &packet.fragment(3, 16, 28))?;
        let dropped = |protocol: &str, port: u16, reason: &str| {
            shop.world
                .node
                .record(&["--verdict", "dropped"], |record| {
                    record["protocol"] == protocol
                        && record["source"]["address"] == own.to_string()
                        && record["destination"]["address"] == backend.to_string()
                        && record["destination"]["port"].as_u64().unwrap_or(0) == u64::from(port)
                        && record["dropReasonText"] == reason
                })
                .map(drop)
        };
        let unknown = "First logical datagram fragment not found";
        dropped("udp", 0, unknown)?;
        dropped("udp", 0, "Invalid packet")?;
        dropped("tcp", 0, "Invalid packet")?;
        dropped("tcp", 0, unknown)?;
    }
    ensure!(to.count("unknown")? == 0, "a fragment without its first");
    ensure!(
        to.count("tiny")? == 0,
        "the rest of a header that was split"
    );
    // The first one itself is allowed.
    ensure!(to.count("overwri")? == 2, "a fragment over its first");
    Ok(())
}
