//! What neighbours on one bridge tell each other before any policy is asked: whose an address
//! is, who routes, which groups somebody listens to, and who has an address for whom. It works
//! whatever policies say, and carries nothing else.

use std::{
    net::{Ipv4Addr, Ipv6Addr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tidegate_tests::harness::{
    Capture, Node, Running, Workload, World, eventually,
    link::{self, Arp, EVERYBODY, Hardware, arp, discovery, icmp6, solicited_node},
    world::{BRIDGE, BRIDGE_V4, BRIDGE_V6},
};

/// Nobody may be spoken to, and nobody may speak.
const POLICY: &str = r"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: quiet, namespace: shop}
spec:
  endpointSelector: {}
  ingress:
  - fromEndpoints: [{matchLabels: {app: nobody}}]
  egress:
  - toEndpoints: [{matchLabels: {app: nobody}}]
";

/// A workload may ask for an address.
const MAY_ASK: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: dhcp, namespace: shop}
spec:
  endpointSelector: {}
  egress:
  - toCIDR: [255.255.255.255/32]
    toPorts: [{ports: [{port: "67", protocol: UDP}]}]
  - toCIDR: ["ff02::1:2/128"]
    toPorts: [{ports: [{port: "547", protocol: UDP}]}]
"#;

/// Asks for an address over DHCPv6 (RFC 8415 §18.2.1), and waits for the offer.
const SOLICIT: &str = r"
import socket, sys
device = socket.if_nametoindex('eth0')
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind((sys.argv[1], 546, 0, device))
s.settimeout(0.3)
client = bytes.fromhex('0001000a00030001020000000001')
address = bytes.fromhex('0003000c000000010000000000000000')
for _ in range(int(sys.argv[2])):
    s.sendto(b'\x01abc' + client + address + bytes.fromhex('000800020000'), ('ff02::1:2', 547, 0, device))
    try:
        sys.exit(0 if s.recv(2000)[0] == 2 else 3)
    except TimeoutError:
        pass
sys.exit(4)
";

const TRAILER: &str = "text-trailer";

fn dropped(node: &Node, reason: &str, end: (&str, &str)) -> Result<()> {
    node.record(&["--verdict", "dropped"], |record| {
        record[end.0]["address"] == end.1 && record["dropReasonText"] == reason
    })
    .with_context(|| format!("{reason} of {end:?}"))?;
    Ok(())
}

fn link_local(who: &Workload) -> Result<Ipv6Addr> {
    eventually("a link-local address", || {
        let output = who.run(
            "ip",
            &["-json", "-6", "address", "show", "eth0", "scope", "link"],
        )?;
        let json: Value = serde_json::from_slice(&output.stdout)?;
        // What the scope leaves out is an empty object.
        let addresses = json[0]["addr_info"].as_array().into_iter().flatten();
        let mut texts = addresses.filter_map(|address| address["local"].as_str());
        let text = texts.next().context("none")?;
        Ok(text.parse()?)
    })
}

#[test]
fn neighbours_say_what_is_true_of_themselves_and_nothing_else() -> Result<()> {
    let mut world = World::new()?;
    let mut add = |name: &str| -> Result<Workload> {
        let workload = world.bridged(name)?;
        world.node.endpoint(&workload, "shop", &[("app", name)])?;
        Ok(workload)
    };
    let (quiet, backend, other) = (add("quiet")?, add("backend")?, add("other")?);
    world.node.write("policies/all.yaml", POLICY)?;
    world.node.configure("node:\n  name: lab\n")?;
    world.node.start()?;

    said(&world.node, &quiet, &backend, &other)?;
    groups(&world.node, &quiet, &other)?;
    let mut server = dnsmasq(&world.node, &quiet)?;
    routers(&mut server, &quiet, &other)?;
    leases(&world.node, &mut server, &quiet, &other)
}

/// What `quiet` says to `backend`: each message with whether it is heard.
fn said(node: &Node, quiet: &Workload, backend: &Workload, other: &Workload) -> Result<()> {
    let own = link::hardware(quiet, "eth0")?;
    let to = link::hardware(backend, "eth0")?;
    let local = link_local(quiet)?;
    let nobody = Ipv4Addr::UNSPECIFIED;
    let ask = |target| Arp::ask(own, quiet.v4, target);
    // An address that nobody has tells messages apart.
    let ask_for = |last| ask(Ipv4Addr::new(10, 20, 0, last));
    let tell = |whose| Arp {
        operation: 2,
        target: (EVERYBODY, whose),
        ..Arp::ask(own, whose, whose)
    };
    let mut messages: Vec<(&str, Vec<u8>, Vec<u8>, bool)> = Vec::new();
    let mut of_arp = |what, said: Arp, to: Hardware, behind: &[u8], heard| {
        let frame = arp(own, to, &said.bytes(), behind);
        messages.push((what, frame, said.bytes(), heard));
    };
    let (trailer, padding) = (TRAILER.as_bytes(), [TRAILER.as_bytes(), &[0; 6]].concat());
    let long = [trailer, &[0; 40]].concat();
    let foreign = Arp {
        space: 6,
        ..ask_for(201)
    };
    let inverse = Arp {
        operation: 8,
        ..ask_for(202)
    };
    let of_another = Arp {
        sender: (to, quiet.v4),
        ..ask_for(203)
    };
    let odd = Arp {
        target: ([7; 6], Ipv4Addr::new(10, 20, 0, 204)),
        ..ask_for(204)
    };
    of_arp("another's address", tell(other.v4), EVERYBODY, &[], false);
    of_arp(
        "a probe of another's",
        Arp::ask(own, nobody, other.v4),
        EVERYBODY,
        &[],
        false,
    );
    of_arp("as IEEE 802 writes it", foreign, EVERYBODY, &[], false);
    of_arp("inverse ARP", inverse, EVERYBODY, &[], false);
    of_arp("another's hardware", of_another, EVERYBODY, &[], false);
    of_arp("a target nobody can know", odd, EVERYBODY, &[], false);
    of_arp("more than padding", ask_for(205), EVERYBODY, &long, false);
    of_arp("a question for another", ask(other.v4), to, &[], false);
    of_arp("its own address", tell(quiet.v4), EVERYBODY, &[], true);
    of_arp(
        "a probe of its own",
        Arp::ask(own, nobody, quiet.v4),
        EVERYBODY,
        &[],
        true,
    );
    of_arp("padding", ask_for(206), EVERYBODY, &padding, true);
    of_arp("a question for it", ask(backend.v4), to, &[], true);

    let mut of_icmp =
        |what, src, group: (Hardware, Ipv6Addr), said: Vec<u8>, behind: &[u8], heard| {
            messages.push((what, icmp6((own, src), group, &said, behind), said, heard));
        };
    let all = (
        [0x33, 0x33, 0, 0, 0, 1],
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
    );
    let none = Ipv6Addr::UNSPECIFIED;
    let source = [&[1, 1][..], &own].concat();
    let its = [&[2, 1][..], &own].concat();
    let (mine, his) = (quiet.v6, other.v6);
    let free = |last| Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, last);
    let unknown = [&[200, 3], trailer, &[0; 10]].concat();
    let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
    let wrong = [&[1, 1][..], &to].concat();
    let ask = |target, options: &[u8]| discovery(135, 0, target, options);
    let tell = |target, options: &[u8]| discovery(136, 0x20, target, options);
    let group = solicited_node;
    let more = [&source[..], &unknown].concat();
    of_icmp(
        "another's address, v6",
        mine,
        all,
        tell(his, &its),
        &[],
        false,
    );
    of_icmp(
        "a probe of another's, v6",
        none,
        group(his),
        ask(his, &nonce),
        &[],
        false,
    );
    of_icmp(
        "unknown options",
        mine,
        group(free(0x201)),
        ask(free(0x201), &unknown),
        &[],
        false,
    );
    of_icmp(
        "more options",
        mine,
        group(free(0x202)),
        ask(free(0x202), &more),
        &[],
        false,
    );
    of_icmp(
        "another's hardware, v6",
        mine,
        group(free(0x203)),
        ask(free(0x203), &wrong),
        &[],
        false,
    );
    of_icmp(
        "a trailer",
        mine,
        group(free(0x204)),
        ask(free(0x204), &source),
        trailer,
        false,
    );
    of_icmp(
        "to another group",
        mine,
        all,
        ask(free(0x205), &source),
        &[],
        false,
    );
    of_icmp(
        "a question for another, v6",
        mine,
        (to, his),
        ask(his, &source),
        &[],
        false,
    );
    of_icmp(
        "to be a router",
        local,
        all,
        vec![134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0],
        &[],
        false,
    );
    of_icmp(
        "its own address, v6",
        mine,
        all,
        tell(mine, &its),
        &[],
        true,
    );
    of_icmp(
        "a probe of its own, v6",
        none,
        group(mine),
        ask(mine, &nonce),
        &[],
        true,
    );
    of_icmp(
        "a question for it, v6",
        mine,
        (to, backend.v6),
        ask(backend.v6, &source),
        &[],
        true,
    );
    of_icmp(
        "a probe of a link-local one",
        none,
        group(local),
        ask(local, &[]),
        &[],
        true,
    );

    let mut texts: Vec<&[u8]> = vec![trailer];
    texts.extend(messages.iter().map(|(_, _, said, _)| &said[..]));
    // A frame counts for the first text it has in it.
    let trailers = Capture::start(backend, &[TRAILER])?;
    let heard = Capture::start(backend, &texts[1..])?;
    let frames: Vec<_> = messages
        .iter()
        .map(|(_, frame, _, _)| frame.clone())
        .collect();
    link::send(quiet, &frames)?;
    for (what, _, said, _) in messages.iter().filter(|(_, _, _, heard)| *heard) {
        eventually(what, || {
            let count = heard.count(said)?;
            ensure!(count == 1, "heard {count} times");
            Ok(())
        })?;
    }
    for (what, _, said, _) in messages.iter().filter(|(_, _, _, heard)| !*heard) {
        let count = heard.count(said)?;
        ensure!(count == 0, "{what}: heard {count} times");
    }
    let count = trailers.count(TRAILER)?;
    ensure!(count == 0, "{count} frames carried something else");

    let (his, his6) = (other.v4.to_string(), other.v6.to_string());
    dropped(node, "Invalid source ip", ("source", &his))?;
    dropped(node, "Invalid source ip", ("destination", &his))?;
    dropped(node, "Invalid source mac", ("destination", "10.20.0.203"))?;
    dropped(node, "Invalid packet", ("destination", "10.20.0.205"))?;
    dropped(node, "Invalid destination mac", ("destination", &his))?;
    dropped(node, "Invalid destination mac", ("destination", &his6))?;
    dropped(
        node,
        "Forbidden ICMPv6 message",
        ("source", &local.to_string()),
    )
}

/// A bridge that snoops learns who listens to what, by every version of the protocols.
fn groups(node: &Node, newest: &Workload, older: &Workload) -> Result<()> {
    let bridge = "type bridge mcast_snooping 1 mcast_querier 1 mcast_query_interval 100 \
                  mcast_query_response_interval 10 mcast_startup_query_interval 50";
    older.sysctl(&[
        "net/ipv4/conf/eth0/force_igmp_version=2",
        "net/ipv6/conf/eth0/force_mld_version=1",
    ])?;
    let asked = Capture::start(
        newest,
        &[
            &b"\x94\x04\x00\x00\x11"[..],
            b"\x05\x02\x00\x00\x00\x00\x82",
        ],
    )?;
    node.place()
        .configure(&[format!("link set {BRIDGE} {bridge}")])?;
    let groups = [
        (Ipv4Addr::new(239, 1, 2, 3), "ff05::1:3"),
        (Ipv4Addr::new(239, 1, 2, 4), "ff0e::1:4"),
    ];
    let mut sockets = Vec::new();
    for (workload, (v4, v6)) in [newest, older].into_iter().zip(groups) {
        let device = workload.within(|| nix::net::if_::if_nametoindex("eth0"))??;
        sockets.push(workload.within(|| -> Result<_> {
            let (four, six) = (UdpSocket::bind("0.0.0.0:0")?, UdpSocket::bind("[::]:0")?);
            four.join_multicast_v4(&v4, &workload.v4)?;
            six.join_multicast_v6(&v6.parse()?, device)?;
            Ok((four, six))
        })??);
        for group in [v4.to_string(), v6.to_owned()] {
            eventually(&format!("the bridge knows of {group}"), || {
                let output = node
                    .place()
                    .run("bridge", &["mdb", "show", "dev", BRIDGE])?;
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                let port = format!("port {} grp {group} ", workload.interface);
                ensure!(text.contains(&port), "{text}");
                Ok(())
            })?;
        }
    }
    // The router's questions reach whom nobody may speak to.
    for question in [
        &b"\x94\x04\x00\x00\x11"[..],
        b"\x05\x02\x00\x00\x00\x00\x82",
    ] {
        eventually(&format!("a query {}", question.escape_ascii()), || {
            ensure!(asked.count(question)? > 0, "none");
            Ok(())
        })?;
    }
    Ok(())
}

fn dnsmasq(node: &Node, known: &Workload) -> Result<Running> {
    let hardware = link::hardware(known, "eth0")?.map(|byte| format!("{byte:02x}"));
    let known = format!("--dhcp-host={},{}", hardware.join(":"), known.v4);
    let folder = node.run_dir();
    let leases = format!("--dhcp-leasefile={}", folder.join("leases").display());
    let interface = format!("--interface={BRIDGE}");
    let arguments = [
        "--keep-in-foreground",
        "--no-daemon",
        "--port=0",
        "--user=root",
        "--pid-file=",
        "--conf-file=/dev/null",
        "--bind-dynamic",
        "--log-dhcp",
        &interface,
        "--dhcp-range=10.20.0.0,static",
        "--dhcp-range=fd20::1000,fd20::2000,64",
        "--enable-ra",
        &known,
        &leases,
    ];
    node.place().spawn("dhcp", "dnsmasq", &arguments)
}

/// A router's advertisements reach whom nobody may speak to.
fn routers(server: &mut Running, quiet: &Workload, other: &Workload) -> Result<()> {
    for workload in [quiet, other] {
        workload.configure(&[format!("route del default via {BRIDGE_V6}")])?;
    }
    for workload in [quiet, other] {
        eventually("a route from an advertisement", || {
            server.check_alive()?;
            let output = workload.run("ip", &["-6", "route", "show", "default"])?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            ensure!(text.contains("proto ra"), "{text:?}");
            Ok(())
        })?;
    }
    Ok(())
}

/// A workload gets its address by DHCP if its egress policy lets it ask, before it has one.
fn leases(node: &Node, server: &mut Running, quiet: &Workload, other: &Workload) -> Result<()> {
    let local = link_local(quiet)?.to_string();
    quiet.configure(&[format!("address del {}/24 dev eth0", quiet.v4)])?;
    let ask = |tries: &str| {
        // Probes the address, too, before it takes it.
        let client = [
            "udhcpc",
            "-i",
            "eth0",
            "-f",
            "-n",
            "-q",
            "-s",
            "/bin/true",
            "-a100",
        ];
        let output = quiet.run(
            "busybox",
            &[&client[..], &["-t", tries, "-T", "1"]].concat(),
        )?;
        anyhow::Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let solicit = |tries: &str| -> Result<Option<i32>> {
        let output = quiet.run("/usr/bin/python3", &["-c", SOLICIT, &local, tries])?;
        Ok(output.status.code())
    };
    let text = ask("1")?;
    ensure!(!text.contains("obtained"), "{text}");
    dropped(node, "Policy denied", ("destination", "255.255.255.255"))?;
    ensure!(solicit("1")? != Some(0), "answered");
    dropped(node, "Policy denied", ("destination", "ff02::1:2"))?;

    node.change(|node| node.write("policies/dhcp.yaml", MAY_ASK))?;
    server.check_alive()?;
    let text = ask("5")?;
    let obtained = format!("lease of {} obtained from {BRIDGE_V4}", quiet.v4);
    ensure!(text.contains(&obtained), "{text}\n{}", server.output());
    ensure!(solicit("10")? == Some(0), "no offer: {}", server.output());
    // No workload is a server to its neighbours without a rule.
    let heard = Capture::start(quiet, &["text-lease"])?;
    other.within(|| -> Result<()> {
        let socket = UdpSocket::bind((other.v4, 67))?;
        socket.set_broadcast(true)?;
        let _ = socket.send_to(b"text-lease", ("255.255.255.255", 68));
        let _ = socket.send_to(b"text-lease", ("10.20.0.255", 68));
        Ok(())
    })??;
    dropped(node, "Policy denied", ("destination", "10.20.0.255"))?;
    // It was dropped before that was told; what came would be in the file by now, but for the
    // moment in which the capture writes, of which nobody tells.
    std::thread::sleep(Duration::from_millis(50));
    ensure!(heard.count("text-lease")? == 0, "a workload gives leases");
    Ok(())
}
