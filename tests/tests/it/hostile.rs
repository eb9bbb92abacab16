//! The node as others leave it: firewall rules that change marks, NAT that changes
//! addresses, a flow table that forgets. What needs L7 is inspected or goes nowhere, and
//! ingress policy is that of the address a packet is delivered to.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tidegate_tests::harness::{
    Capture, Curl, Flows, Place, Running, World, eventually,
    raw::{self, Packet},
    server,
    world::{BRIDGE, NODE_V4, NODE_V6, OUTSIDE_V4, OUTSIDE_V6},
};

use crate::shop::{ECHO, HTTP, PEER, PLAIN, Shop, policy, read_head};

/// What the frontend asks of outside is judged by the proxy: HTTP, and any UDP port that
/// has a DNS rule.
const EGRESS: &str = r#"
  egress:
  - toCIDR: [192.0.2.100/32, "2001:db8:2::100/128"]
    toPorts:
    - ports: [{port: "8080", protocol: TCP}]
      rules:
        http: [{path: "/api/.*"}]
    - ports: [{port: "53", protocol: UDP}]
      rules:
        dns: [{matchName: "allowed.example"}]
  - toEndpoints: [{}]
"#;

/// Commands of both families' `iptables`, in the node.
fn rules(node: &Place, lines: &[&str]) -> Result<()> {
    for line in lines {
        for program in ["iptables", "ip6tables"] {
            rule(node, program, line)?;
        }
    }
    Ok(())
}

fn rule(node: &Place, program: &str, line: &str) -> Result<()> {
    let arguments: Vec<&str> = line.split(' ').collect();
    let output = node.run(program, &arguments)?;
    ensure!(output.status.success(), "{program} {line}: {output:?}");
    Ok(())
}

/// Puts a classic `tc` filter on what a device takes in, which lets everything pass as of
/// a class.
fn filter_everything(node: &Place, device: &str) -> Result<()> {
    classify(node, device, "ingress", 5)
}

/// Gives what passes a device a class, and so a tag.
fn classify(place: &Place, device: &str, hook: &str, class: u16) -> Result<()> {
    for line in [
        format!("qdisc add dev {device} clsact"),
        format!("filter add dev {device} {hook} protocol all u32 match u32 0 0 flowid 1:{class:x}"),
    ] {
        rule(place, "tc", &line)?;
    }
    Ok(())
}

fn url(address: IpAddr, port: u16, path: &str) -> String {
    format!("http://{}{path}", SocketAddr::new(address, port))
}

/// A DNS query for `denied.example`, type A.
const QUERY: &str = "\x01\x02\x01\0\0\x01\0\0\0\0\0\0\x06denied\x07example\0\0\x01\0\x01";

/// Counts what arrives at ports of a place.
fn listen(place: &Place) -> Result<Arc<AtomicU64>> {
    let count = Arc::new(AtomicU64::new(0));
    let seen = count.clone();
    server::tcp(place, HTTP, move |mut stream| {
        let head = read_head(&mut stream);
        if head.is_ok_and(|head| !head.contains("/api/")) {
            seen.fetch_add(1, Relaxed);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    })?;
    let seen = count.clone();
    let socket = place.within(|| std::net::UdpSocket::bind(("::", 53)))??;
    std::thread::spawn(move || {
        let mut bytes = [0; 512];
        while socket.recv_from(&mut bytes).is_ok() {
            seen.fetch_add(1, Relaxed);
        }
    });
    Ok(count)
}

/// A port of the node, where `TAKER` listens.
const TAKEN: u16 = 8081;

/// Says "got" of everything that reaches its ports, of both families.
const TAKER: &str = r#"
import socket, select, sys
take = []
for family in (socket.AF_INET, socket.AF_INET6):
    for kind, port in ((socket.SOCK_STREAM, 8080), (socket.SOCK_STREAM, 8081), (socket.SOCK_DGRAM, 53)):
        s = socket.socket(family, kind)
        if family == socket.AF_INET6: s.setsockopt(41, 26, 1)
        s.bind(('', port))
        if kind == socket.SOCK_STREAM: s.listen()
        take.append(s)
print('ready', flush=True)
while True:
    for s in select.select(take, [], [])[0]:
        if s.type == socket.SOCK_STREAM: print('got a connection', s.accept()[1], flush=True)
        else: print('got', s.recvfrom(2000), flush=True)
"#;

/// A process of the node that would like to have what is not for it.
fn take_everything(node: &Place) -> Result<Running> {
    let taker = node.spawn("taker", "/usr/bin/python3", &["-c", TAKER])?;
    eventually("the ports are open", || {
        ensure!(taker.output().contains("ready"), "{}", taker.output());
        Ok(())
    })?;
    Ok(taker)
}

/// Sends what nobody may get; nobody waits for an answer.
fn attempt(place: &Place, address: IpAddr) -> Result<()> {
    let any: IpAddr = if address.is_ipv4() {
        [0; 4].into()
    } else {
        [0; 16].into()
    };
    let limit = Duration::from_millis(300);
    place.within(|| {
        let socket = std::net::UdpSocket::bind((any, 0))?;
        socket.send_to(QUERY.as_bytes(), (address, 53))?;
        if let Ok(mut stream) = TcpStream::connect_timeout(&(address, HTTP).into(), limit) {
            stream.write_all(b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n")?;
            // Whatever comes, or silence: who gets this counts it before it answers.
            stream.set_read_timeout(Some(limit))?;
            let _ = stream.read(&mut [0]);
        }
        Ok(())
    })?
}

#[test]
fn whatever_becomes_of_marks_and_addresses_what_needs_l7_is_inspected_or_stays() -> Result<()> {
    let mut shop = Shop::open()?;
    let node = shop.world.node.place().clone();
    let arrived = listen(&shop.world.outside)?;
    shop.world.node.write(
        "policies/frontend.yaml",
        policy("frontend", "frontend", EGRESS),
    )?;
    let here = take_everything(&node)?;
    shop.world.node.start()?;
    let outside: [IpAddr; 2] = [OUTSIDE_V4.into(), OUTSIDE_V6.into()];
    for address in outside {
        Curl::get(url(address, HTTP, "/api/x")).expect(&shop.frontend, 200)?;
    }
    for (what, lines) in [
        // wg-quick and others do this: every mark becomes its connection's, that is none.
        (
            "restored",
            &["-t mangle -A PREROUTING -j CONNMARK --restore-mark"][..],
        ),
        (
            "cleared",
            &[
                "-t mangle -A FORWARD -j MARK --set-mark 0",
                "-t mangle -A PREROUTING -j MARK --set-mark 0",
            ],
        ),
        (
            "forged as the proxy's",
            &["-t mangle -A PREROUTING -j MARK --set-mark 0xa00"],
        ),
        (
            "forged as checked",
            &["-t mangle -A PREROUTING -j MARK --set-mark 0xe00"],
        ),
        (
            "cleared before masquerading",
            &[
                "-t mangle -A PREROUTING -j MARK --set-mark 0",
                "-t nat -A POSTROUTING -o uplink -j MASQUERADE",
            ],
        ),
    ] {
        rules(&node, lines)?;
        for address in outside {
            attempt(&shop.frontend, address)?;
        }
        let arrived = arrived.load(Relaxed);
        ensure!(arrived == 0, "{what}: {arrived} got out");
        ensure!(!here.output().contains("got"), "{what}: {}", here.output());
        rules(&node, &["-t mangle -F", "-t nat -F"])?;
    }
    // A filter behind our program writes its class where our tag is.
    filter_everything(&node, &shop.frontend.interface)?;
    let cleared = [
        "-t mangle -A PREROUTING -j MARK --set-mark 0",
        "-t nat -A POSTROUTING -o uplink -j MASQUERADE",
    ];
    rules(&node, &cleared)?;
    for address in outside {
        attempt(&shop.frontend, address)?;
    }
    rules(&node, &["-t mangle -F", "-t nat -F"])?;
    for address in outside {
        Curl::get(url(address, HTTP, "/api/x")).expect(&shop.frontend, 200)?;
    }
    let leaked = arrived.load(Relaxed);
    ensure!(leaked == 0, "beside a filter: {leaked} got out");
    // The same beside rules of the older language.
    for (program, address) in [
        ("iptables-legacy", outside[0]),
        ("ip6tables-legacy", outside[1]),
    ] {
        rules(&node, &["-t nat -A POSTROUTING -o uplink -j MASQUERADE"])?;
        let line = "-t mangle -A PREROUTING -j CONNMARK --restore-mark";
        rule(&node, program, line)?;
        attempt(&shop.frontend, address)?;
        rule(&node, program, "-t mangle -F")?;
        rules(&node, &["-t nat -F"])?;
    }
    // NAT that leads it to a workload's address while a process of the node listens there; or
    // to the node itself, as a transparent proxy and a resolver for everybody do it.
    for (program, workload, own, address) in [
        (
            "iptables",
            shop.backend.v4.to_string(),
            NODE_V4.to_string(),
            outside[0],
        ),
        (
            "ip6tables",
            format!("[{}]", shop.backend.v6),
            format!("[{NODE_V6}]"),
            outside[1],
        ),
    ] {
        for (to, cleared) in [(&workload, false), (&own, false), (&own, true)] {
            for (protocol, port, other) in [("tcp", HTTP, TAKEN), ("udp", 53, 53)] {
                let line = format!(
                    "-t nat -A PREROUTING -p {protocol} --dport {port} -j DNAT --to-destination {to}:{other}"
                );
                rule(&node, program, &line)?;
            }
            if cleared {
                let line = "-t mangle -A PREROUTING -j MARK --set-mark 0";
                rule(&node, program, line)?;
            }
            attempt(&shop.frontend, address)?;
            rule(&node, program, "-t nat -F")?;
            rule(&node, program, "-t mangle -F")?;
        }
    }
    let arrived = arrived.load(Relaxed);
    ensure!(arrived == 0, "{arrived} got out");
    ensure!(!here.output().contains("got"), "{}", here.output());
    for (protocol, port) in [("tcp", TAKEN), ("udp", 53)] {
        for address in [IpAddr::from(NODE_V4), NODE_V6.into()] {
            shop.world
                .node
                .record(&["--verdict", "dropped"], |record| {
                    record["protocol"] == protocol
                        && record["destination"]["address"] == address.to_string()
                        && record["destination"]["port"] == port
                        && record["dropReasonText"] == "Needs L7 and was routed past the proxy"
                })
                .context("what the node's NAT led to the node itself")?;
        }
    }
    for (protocol, address) in [("tcp", outside[0]), ("udp", outside[1])] {
        shop.world
            .node
            .record(&["--verdict", "dropped"], |record| {
                record["protocol"] == protocol
                    && record["destination"]["address"] == address.to_string()
                    && record["dropReasonText"] == "Needs L7 and was routed past the proxy"
            })?;
    }
    eventually("requests are filtered again", || {
        for address in outside {
            for (path, status) in [("/api/x", 200), ("/admin", 403)] {
                Curl::get(url(address, HTTP, path)).expect(&shop.frontend, status)?;
            }
        }
        Ok(())
    })
}

#[test]
fn what_a_workload_sends_past_the_program_of_its_device_does_not_leave() -> Result<()> {
    let mut shop = Shop::open()?;
    server::udp_echo(&shop.world.outside, ECHO)?;
    shop.world.node.write(
        "policies/frontend.yaml",
        policy("frontend", "frontend", EGRESS),
    )?;
    shop.world.node.start()?;
    filter_everything(shop.world.node.place(), &shop.other.interface)?;
    shop.world.node.kill_agent()?;
    for workload in [&shop.frontend, &shop.stranger] {
        shop.world.plug_again(workload)?;
    }
    // As one that a program of ours had seen.
    classify(&shop.stranger, "eth0", "egress", SEEN)?;
    let outside = [IpAddr::from(OUTSIDE_V4), OUTSIDE_V6.into()];
    for who in [&shop.frontend, &shop.stranger, &shop.other] {
        for address in outside {
            // The last one's device is as it was, but for somebody's filter.
            if who.name() == shop.other.name() {
                server::ask_udp(who, (address, ECHO), "hello")?;
            } else {
                server::expect_udp_dropped(who, (address, ECHO), "hello")?;
            }
        }
    }
    shop.world.node.start()?;
    for (own, address) in shop.frontend.addresses().into_iter().zip(outside) {
        shop.world
            .node
            .record(&["--verdict", "dropped"], |record| {
                record["source"]["address"] == own.to_string()
                    && record["destination"]["address"] == address.to_string()
                    && record["dropReasonText"] == "Endpoint not ready"
            })?;
        server::ask_udp(&shop.stranger, (address, ECHO), "hello")?;
    }
    // A workload that is declared no more is nobody's business.
    shop.world
        .node
        .change(|node| node.remove("endpoints/stranger.yaml"))?;
    eventually("its packets leave as any other's", || {
        for address in outside {
            server::ask_udp(&shop.stranger, (address, ECHO), "hello")?;
        }
        Ok(())
    })
}

/// What the frontend asks of outside, on a bridge, with somebody's filter or tcx program where the
/// bridge hands it up to the node, marks cleared, and masquerading: nothing is left that says
/// what was decided, but what our program there keeps.
#[test]
fn what_a_bridge_hands_up_is_inspected_or_stays() -> Result<()> {
    let mut world = World::new()?;
    let frontend = world.bridged("frontend")?;
    world
        .node
        .endpoint(&frontend, "shop", &[("app", "frontend")])?;
    let node = world.node.place().clone();
    let arrived = listen(&world.outside)?;
    let policy = policy("frontend", "frontend", EGRESS);
    world.node.write("policies/frontend.yaml", policy)?;
    world.node.start()?;
    let outside: [IpAddr; 2] = [OUTSIDE_V4.into(), OUTSIDE_V6.into()];
    // What the bridge's own filters see, too: netfilter's of packets that are only bridged.
    rules(
        &node,
        &[
            "-t mangle -A PREROUTING -j MARK --set-mark 0",
            "-t nat -A POSTROUTING -o uplink -j MASQUERADE",
        ],
    )?;
    for (what, is_filtered) in [("marks cleared", false), ("beside a filter", true)] {
        if is_filtered {
            filter_everything(&node, BRIDGE)?;
        }
        for address in outside {
            attempt(&frontend, address)?;
        }
        let arrived = arrived.load(Relaxed);
        ensure!(arrived == 0, "{what}: {arrived} got out");
    }
    rules(&node, &["-t mangle -F"])?;
    for address in outside {
        for (path, status) in [("/api/x", 200), ("/admin", 403)] {
            Curl::get(url(address, HTTP, path)).expect(&frontend, status)?;
        }
    }
    // Marks that only the bridge's firewall clears come back where the node takes over.
    rule(&node, "nft", "add table bridge b")?;
    let chain = "add chain bridge b f { type filter hook prerouting priority 0 ; }";
    rule(&node, "nft", chain)?;
    rule(&node, "nft", "add rule bridge b f meta mark set 0")?;
    for address in outside {
        Curl::get(url(address, HTTP, "/api/x")).expect(&frontend, 200)?;
    }
    rule(&node, "nft", "delete table bridge b")?;
    let obstacles = |wanted: &str| {
        eventually("it is told", || {
            let answer = world
                .node
                .json(&["explain", "frontend", "192.0.2.100:8080"])?;
            let told = answer["obstacles"].to_string();
            ensure!(told.contains(wanted), "{told}");
            Ok(())
        })
    };
    obstacles("ingress of br0 (u32)")?;
    rule(&node, "tc", &format!("qdisc del dev {BRIDGE} clsact"))?;
    // A look at the way back by the mark, as some firewalls have it, finds the one it came by.
    rule(&node, "nft", "add table inet w")?;
    let chain = "add chain inet w pre { type filter hook prerouting priority -300 ; }";
    rule(&node, "nft", chain)?;
    let way_back = "add rule inet w pre fib saddr . mark . iif oif missing drop";
    rule(&node, "nft", way_back)?;
    for address in outside {
        Curl::get(url(address, HTTP, "/api/x")).expect(&frontend, 200)?;
    }
    Ok(())
}

/// The tag of what a program of ours has let in.
const SEEN: u16 = 0xc000;

/// Ports of the node that its NAT leads to the backend.
const TO_PLAIN: u16 = 18_000;
const TO_HTTP: u16 = 18_080;

#[test]
fn ingress_policy_is_that_of_the_address_a_packet_is_delivered_to() -> Result<()> {
    let shop = Shop::running()?;
    let node = shop.world.node.place().clone();
    for (program, backend) in [
        ("iptables", format!("{}", shop.backend.v4)),
        ("ip6tables", format!("[{}]", shop.backend.v6)),
    ] {
        for (protocol, from, to) in [
            ("tcp", TO_PLAIN, PLAIN),
            ("tcp", TO_HTTP, HTTP),
            ("udp", TO_PLAIN, ECHO),
        ] {
            rule(
                &node,
                program,
                &format!(
                    "-t nat -A PREROUTING -p {protocol} --dport {from} -j DNAT --to-destination {backend}:{to}"
                ),
            )?;
        }
    }
    // The node's own address, and one that is nobody's.
    for address in [
        IpAddr::from(NODE_V4),
        NODE_V6.into(),
        [198, 51, 100, 7].into(),
    ] {
        for _ in 0..2 {
            Curl::get(url(address, TO_PLAIN, "/")).expect(&shop.frontend, 200)?;
            let answer = server::ask_udp(&shop.frontend, (address, TO_PLAIN), "hello")?;
            ensure!(answer == "backend-1 hello", "{answer}");
        }
        // All at once: each is waited for.
        std::thread::scope(|scope| {
            let plain = scope
                .spawn(|| Curl::get(url(address, TO_PLAIN, "/")).expect_dropped(&shop.stranger));
            let datagram = scope
                .spawn(|| server::expect_udp_dropped(&shop.stranger, (address, TO_PLAIN), "hello"));
            // Only the server's own address would bring it to the proxy.
            let http = [&shop.frontend, &shop.stranger].map(|who| {
                scope.spawn(move || Curl::get(url(address, TO_HTTP, "/api/x")).expect_dropped(who))
            });
            let panicked = |_| anyhow::anyhow!("a thread panicked");
            plain.join().map_err(panicked)??;
            for thread in http {
                thread.join().map_err(panicked)??;
            }
            datagram.join().map_err(panicked)?
        })?;
    }
    for (who, reason) in [
        (&shop.stranger, "Policy denied"),
        (
            &shop.frontend,
            "L7 rule cannot be applied to host stack traffic",
        ),
    ] {
        for backend in shop.backend.addresses() {
            shop.world
                .node
                .record(&["--verdict", "dropped"], |record| {
                    let source = &record["source"]["address"];
                    record["destination"]["address"] == backend.to_string()
                        && (*source == who.v4.to_string() || *source == who.v6.to_string())
                        && record["dropReasonText"] == reason
                })
                .with_context(|| format!("{} to {backend}", who.name()))?;
        }
    }
    // A new generation: flows that NAT led here are judged anew, by ingress policy alone.
    shop.world
        .node
        .change(|node| node.remove("policies/backend.yaml"))?;
    Curl::get(url(NODE_V4.into(), TO_PLAIN, "/")).expect(&shop.stranger, 200)?;
    Ok(())
}

#[test]
fn a_flow_the_table_has_forgotten_is_inspected_as_before() -> Result<()> {
    let mut shop = Shop::open()?;
    let (sender, go) = mpsc::channel::<()>();
    let (at_server, arrived) = mpsc::channel::<()>();
    let go = Arc::new(Mutex::new(go));
    server::tcp(&shop.backend, PEER, move |mut stream| {
        loop {
            let head = read_head(&mut stream).map_err(std::io::Error::other)?;
            if head.contains("slow") {
                at_server.send(()).map_err(std::io::Error::other)?;
                let go = go.lock().map_err(|_| std::io::ErrorKind::Other)?;
                let _ = go.recv_timeout(Duration::from_secs(5));
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
        }
    })?;
    let policy = crate::shop::POLICY.replace("8081", &PEER.to_string());
    shop.world.node.write("policies/backend.yaml", policy)?;
    shop.world.node.start()?;
    let node = shop.world.node.place().clone();
    let reached = Capture::start(&shop.backend, &["/forged"])?;
    let mut flows = Flows::of(&shop.world.node)?;
    for (early_demux, address) in [
        (1, shop.backend.addresses()[0]),
        (0, shop.backend.addresses()[0]),
        (0, shop.backend.addresses()[1]),
    ] {
        node.sysctl(&[&format!("net/ipv4/ip_early_demux={early_demux}")])?;
        let mut client = server::connect(&shop.frontend, (address, PEER))?;
        let ask = |client: &mut TcpStream, path: &str| -> Result<()> {
            Ok(client.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes())?)
        };
        // Forgotten before the client speaks.
        ask(&mut client, "/api/x")?;
        ensure!(read_head(&mut client)?.contains("200"));
        ensure!(flows.forget()? > 0, "no steered flow");
        ask(&mut client, "/api/y")?;
        ensure!(read_head(&mut client)?.contains("200"), "after the client");
        // Forgotten before the server speaks.
        ask(&mut client, "/api/slow")?;
        let upstream = arrived.recv_timeout(Duration::from_secs(15));
        upstream.context("the request is not upstream")?;
        flows.forget()?;
        sender.send(())?;
        ensure!(read_head(&mut client)?.contains("200"), "after the server");
        ask(&mut client, "/forbidden")?;
        ensure!(
            read_head(&mut client)?.contains("403"),
            "no longer inspected"
        );
    }
    eventually("refused and finished connections are over", || {
        let open = flows.open();
        ensure!(open == 0, "{open} flows");
        Ok(())
    })?;
    for _ in 0..5 {
        Curl::get(shop.url(PEER, "/forbidden")).expect(&shop.frontend, 403)?;
    }
    eventually("refused connections are over", || {
        let open = flows.open();
        ensure!(open == 0, "{open} flows");
        Ok(())
    })?;
    // Early demultiplexing is off still, so that segments of no socket are routed anew.
    for address in shop.backend.addresses() {
        let mut client = server::connect(&shop.frontend, (address, PEER))?;
        let ask = |client: &mut TcpStream, path: &str| -> Result<()> {
            Ok(client.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes())?)
        };
        let forge = |client: &TcpStream, seq: u32, ack: u32, flags, text: &str| {
            let (from, to) = (client.local_addr()?, client.peer_addr()?);
            let packet = Packet::tcp(from, to, (seq, ack), flags, text.as_bytes());
            packet.send(&shop.frontend, &packet.whole())
        };
        ask(&mut client, "/api/x")?;
        ensure!(read_head(&mut client)?.contains("200"));
        let port = client.local_addr()?.port();
        // Far from what is acknowledged: nobody believes it. The answer comes after it.
        let (seq, ack) = raw::tcp::numbers(&client)?;
        forge(&client, seq.wrapping_add(1 << 30), 0, raw::tcp::RST, "")?;
        ask(&mut client, "/api/y")?;
        ensure!(
            read_head(&mut client)?.contains("200"),
            "after a wild reset"
        );
        ensure!(flows.is_open(port), "a wild reset was believed");
        // Near it: the table believes what the stack answers with a challenge.
        let (seq, _) = raw::tcp::numbers(&client)?;
        forge(&client, seq.wrapping_add(1), ack, raw::tcp::RST, "")?;
        eventually("a reset near it is believed", || {
            ensure!(!flows.is_open(port), "still open");
            Ok(())
        })?;
        // What would follow once the entry is gone: the upstream leg's answer, and segments
        // with numbers that fit and that do not.
        ask(&mut client, "/api/slow")?;
        let upstream = arrived.recv_timeout(Duration::from_secs(15));
        upstream.context("the last request is not upstream")?;
        flows.forget()?;
        sender.send(())?;
        ensure!(read_head(&mut client)?.contains("200"), "the answer");
        flows.forget()?;
        let (seq, ack) = raw::tcp::numbers(&client)?;
        let request = "GET /forged HTTP/1.1\r\nHost: a\r\n\r\n";
        forge(
            &client,
            seq.wrapping_add(1 << 30),
            7,
            raw::tcp::DATA,
            request,
        )?;
        forge(&client, seq, ack, raw::tcp::DATA, request)?;
        // Its answer is to the forger; the client's stack knows nothing of it.
        shop.world
            .node
            .record(&["--from", "frontend"], |record| {
                record.to_string().contains("/forged") && record.to_string().contains("403")
            })
            .context("a forged request with the right numbers is judged")?;
        flows.forget()?;
        forge(&client, 7, 7, raw::tcp::DATA, request)?;
        Curl::get(url(address, PEER, "/api/last")).expect(&shop.frontend, 200)?;
        ensure!(reached.count("/forged")? == 0, "{address}: past the proxy");
    }
    Ok(())
}
