//! Policy for services of the node itself: a control group instead of a veth.

use std::{
    io::{Read as _, Write as _},
    net::IpAddr,
    os::unix::net::UnixStream,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tidegate_tests::harness::{Curl, Place, eventually, server};

use crate::{
    dns_names::{dig, serve_names},
    shop::{ECHO, HTTP, PLAIN, Shop, read_head},
};

const POLICY: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: reporter, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: reporter}}
  egress:
  - toEndpoints: [{matchLabels: {app: backend, "k8s:io.kubernetes.pod.namespace": shop}}]
    toPorts:
    - ports: [{port: "8080", protocol: TCP}, {port: "8081", protocol: TCP}]
      rules:
        http: [{path: "/api/.*"}]
  - toEndpoints: [{matchLabels: {app: backend, "k8s:io.kubernetes.pod.namespace": shop}}]
    toPorts:
    - ports: [{port: "7000", protocol: UDP}]
  - toCIDR: [192.0.2.100/32, "2001:db8:2::100/128"]
    toPorts:
    - ports: [{port: "53", protocol: ANY}]
      rules:
        dns: [{matchPattern: "*.partner.example"}]
  - toFQDNs: [{matchName: api.partner.example}]
    toPorts: [{ports: [{port: "80", protocol: TCP}]}]
"#;

/// The shop, with a service of the node that this policy selects.
pub(crate) fn shop_with_reporter() -> Result<(Shop, Place)> {
    let shop = Shop::open()?;
    let node = &shop.world.node;
    let reporter = node.place().group("reporter")?;
    node.host_service("reporter", &reporter, &[("app", "reporter")])?;
    node.write("policies/reporter.yaml", POLICY)?;
    Ok((shop, reporter))
}

#[test]
fn a_host_service_is_held_to_its_egress_policy() -> Result<()> {
    let (mut shop, reporter) = shop_with_reporter()?;
    shop.world.node.start()?;
    for (url, address) in [
        (
            Shop::url as fn(&Shop, u16, &str) -> String,
            IpAddr::from(shop.backend.v4),
        ),
        (Shop::url6, shop.backend.v6.into()),
    ] {
        let answer = Curl::get(url(&shop, HTTP, "/api/x")).expect(&reporter, 200)?;
        assert_eq!(answer.remote, Some(address), "getpeername stays honest");
        Curl::get(url(&shop, HTTP, "/admin")).expect(&reporter, 403)?;

        let refused = Curl::get(url(&shop, PLAIN, "/")).from(&reporter)?;
        assert_eq!(refused.status, 0);
        const COULD_NOT_CONNECT: i64 = 7;
        assert_eq!(
            refused.exit, COULD_NOT_CONNECT,
            "refused at connect, not left waiting: {refused:?}"
        );
    }
    for (verdict, event) in [
        ("dropped", "socket-denied"),
        ("redirected", "socket-opened"),
    ] {
        let record = shop
            .world
            .node
            .record(&["--verdict", verdict], |r| r["event"] == event)?;
        assert_eq!(record["source"]["endpoint"], "default/reporter");
        let rule = record["rules"][0].as_str().unwrap_or_default();
        ensure!(rule.starts_with("default/reporter"), "{record}");
    }

    // A connection that is open, and a name server's socket, are held to the rules of now.
    let node = &shop.world.node;
    let socket = shop.world.dir().join("open").display().to_string();
    let goes = format!("TCP4:{}:{HTTP}", shop.backend.v4);
    let _relay = reporter.spawn("open", "socat", &[&format!("UNIX-LISTEN:{socket}"), &goes])?;
    let mut open = eventually("a process of the service listens", || {
        Ok(UnixStream::connect(&socket)?)
    })?;
    open.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut ask = |path: &str| -> Result<String> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        open.write_all(request.as_bytes())?;
        let head = read_head(&mut open)?;
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.trim())
        });
        let length = length.context("no length")?.parse()?;
        open.read_exact(&mut vec![0; length])?;
        Ok(head.split(' ').nth(1).unwrap_or_default().to_owned())
    };
    let says = |rules: String| node.change(|node| node.write("policies/reporter.yaml", rules));
    assert_eq!(
        (ask("/api/x")?, ask("/admin")?),
        ("200".into(), "403".into())
    );
    says(POLICY.replace("/api/.*", "/admin.*"))?;
    assert_eq!(ask("/api/x")?, "403", "by the rules of now");
    says(POLICY.replace("\"8080\"", "\"9999\""))?;
    assert_eq!(ask("/api/x")?, "503", "it may not go there any more");
    let ended = open.read(&mut [0]);
    ensure!(matches!(ended, Ok(0) | Err(_)), "it goes on: {ended:?}");
    says(POLICY.to_owned())?;

    // Processes of the node that are no such service are not restricted.
    Curl::get(shop.url(PLAIN, "/")).expect(shop.world.node.place(), 200)?;
    Ok(())
}

/// `node.cgroup` need not contain the agent: no hook sees the sockets that the proxy accepts
/// then, and the service's own socket has told where it wants to go.
#[test]
fn its_requests_are_judged_by_a_proxy_of_another_cgroup_too() -> Result<()> {
    let mut shop = Shop::open()?;
    let node = &shop.world.node;
    let services = node.place().group("services")?;
    let reporter = node.place().group("services/reporter")?;
    node.host_service("reporter", &reporter, &[("app", "reporter")])?;
    node.write("policies/reporter.yaml", POLICY)?;
    let text = std::fs::read_to_string(node.config_dir().join("tidegate.yaml"))?;
    let is_cgroup = |line: &&str| line.trim_start().starts_with("cgroup:");
    let line = text.lines().find(is_cgroup).context("no node.cgroup")?;
    let narrower = format!("  cgroup: {}", services.cgroup().display());
    node.write("tidegate.yaml", text.replace(line, &narrower))?;
    shop.world.node.start()?;
    for url in [Shop::url as fn(&Shop, u16, &str) -> String, Shop::url6] {
        Curl::get(url(&shop, HTTP, "/api/x")).expect(&reporter, 200)?;
        Curl::get(url(&shop, HTTP, "/admin")).expect(&reporter, 403)?;
    }
    Ok(())
}

#[test]
fn its_datagrams_are_judged_at_the_socket() -> Result<()> {
    let (mut shop, reporter) = shop_with_reporter()?;
    server::udp_echo(&shop.backend, ECHO + 1)?;
    shop.world.node.start()?;
    let ask = |socket: &str, port: u16| -> Result<String> {
        let command = format!("echo hi | socat -t 1 - '{socket}:{port}'");
        let out = reporter.run("sh", &["-c", &command])?;
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    };
    for socket in [
        format!("UDP4:{}", shop.backend.v4),
        format!("UDP4-SENDTO:{}", shop.backend.v4),
        format!("UDP6:[{}]", shop.backend.v6),
        format!("UDP6-SENDTO:[{}]", shop.backend.v6),
    ] {
        assert_eq!(ask(&socket, ECHO)?, "backend-1 hi\n", "{socket}");
        assert_eq!(ask(&socket, ECHO + 1)?, "", "{socket}");
    }
    Ok(())
}

#[test]
fn its_names_are_judged_and_learned_too() -> Result<()> {
    let (mut shop, mut reporter) = shop_with_reporter()?;
    let _servers = serve_names(&shop.world)?;
    reporter.set_resolver("192.0.2.100")?;
    shop.world.node.start()?;
    for server in ["192.0.2.100", "2001:db8:2::100"] {
        for transport in ["+notcp", "+tcp"] {
            let allowed = dig(&reporter, server, &[transport, "api.partner.example"])?;
            ensure!(allowed.contains("198.51.100.10"), "{server}: {allowed}");
            let refused = dig(&reporter, server, &[transport, "evil.example"])?;
            ensure!(refused.contains("status: REFUSED"), "{server}: {refused}");
        }
    }
    // Through the system's own resolver, and with what was learned.
    Curl::get("http://api.partner.example/").expect(&reporter, 200)?;
    let other = Curl::get("http://www.partner.example/").from(&reporter)?;
    assert_eq!(other.status, 0, "{other:?}");
    Ok(())
}

/// Sends by the kinds of socket that no `connect` hook sees, in both families; prints the
/// number of packets each could send.
const ODD_SOCKETS: &str = r#"
import socket, struct, sys
V4, V6 = sys.argv[1:3]
UDPLITE, MPTCP, ICMP, ICMP6, RAW = 136, 262, 1, 58, 255
echo4 = struct.pack('!BBHHH', 8, 0, ~0x0801 & 0xffff, 0, 1)[:2] + struct.pack('!HHH', 0xf7fe, 0, 1)
echo6 = struct.pack('!BBHHH', 128, 0, 0, 0, 1)
# A UDP datagram to a port that is not allowed, with a header of its own.
udp = struct.pack('!HHHH', 4000, 7001, 8, 0)
ip = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 28, 0, 0, 64, 17, 0,
                 bytes(4), socket.inet_aton(V4)) + udp
def attempt(name, family, kind, protocol, port, data, connected=False):
    try:
        with socket.socket(family, kind, protocol) as s:
            to = (V4 if family == socket.AF_INET else V6, port)
            s.settimeout(1)
            if connected:
                s.connect(to)
                if data: s.send(data)
            else:
                s.sendto(data, to)
                # The kernel does not tell an IPv6 ping socket that its packet was dropped.
                if name.startswith('ping'): s.recv(100)
        print(name, 'sent')
    except OSError as error:
        print(name, error.errno)
for family, n in (socket.AF_INET, 4), (socket.AF_INET6, 6):
    icmp, echo = (ICMP, echo4) if n == 4 else (ICMP6, echo6)
    for port in (7000, 7001):
        attempt(f'udplite{n}-{port}', family, socket.SOCK_DGRAM, UDPLITE, port, b'hi')
        attempt(f'udplite-connected{n}-{port}', family, socket.SOCK_DGRAM, UDPLITE, port, b'hi', True)
        attempt(f'raw-udp{n}-{port}', family, socket.SOCK_RAW, 17, 0,
                struct.pack('!HHHH', 4000, port, 8, 0))
    attempt(f'ping{n}', family, socket.SOCK_DGRAM, icmp, 0, echo)
    attempt(f'raw-ping{n}', family, socket.SOCK_RAW, icmp, 0, echo)
    attempt(f'mptcp{n}', family, socket.SOCK_STREAM, MPTCP, 9000, None, True)
attempt('own-header', socket.AF_INET, socket.SOCK_RAW, RAW, 0, ip)
# The first fragment of a datagram to a port that is allowed: what it is of is not known.
udp = struct.pack('!HHHH', 4000, 7000, 24, 0) + bytes(16)
ip = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 44, 7, 0x2000, 64, 17, 0,
                 bytes(4), socket.inet_aton(V4)) + udp
attempt('own-fragment', socket.AF_INET, socket.SOCK_RAW, RAW, 0, ip)
"#;

#[test]
fn sockets_of_every_kind_are_held_to_its_policy() -> Result<()> {
    let (mut shop, reporter) = shop_with_reporter()?;
    shop.world.node.start()?;
    // Everybody may open ping sockets: that alone must not let a service ping.
    let place = shop.world.node.place();
    place.sysctl(&["net/ipv4/ping_group_range=0 2147483647"])?;
    let (v4, v6) = (shop.backend.v4.to_string(), shop.backend.v6.to_string());
    let arguments = ["-c", ODD_SOCKETS, &v4, &v6];
    let sent = |place: &Place| -> Result<Vec<String>> {
        let output = place.run("/usr/bin/python3", &arguments)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let sent = text.lines().filter_map(|line| line.strip_suffix(" sent"));
        Ok(sent.map(str::to_owned).collect())
    };
    let others = sent(place)?;
    assert_eq!(others.len(), 20, "the node's other processes: {others:?}");
    // Its policy opens UDP port 7000, and says nothing of other protocols.
    assert_eq!(sent(&reporter)?, ["raw-udp4-7000", "raw-udp6-7000"]);
    let policy = POLICY.replace(
        "egress:",
        "egress:\n  - icmps: [{fields: [{type: 8, family: IPv4}, {type: 128, family: IPv6}]}]",
    );
    shop.world
        .node
        .change(|node| node.write("policies/reporter.yaml", policy))?;
    assert_eq!(
        sent(&reporter)?,
        [
            "raw-udp4-7000",
            "ping4",
            "raw-ping4",
            "raw-udp6-7000",
            "ping6",
            "raw-ping6"
        ]
    );
    // Of a fragment it is not known what it is of, also where everything is allowed; MPTCP's
    // sockets are none of a service.
    let policy = POLICY.replace("egress:", "egress:\n  - toEntities: [all]");
    shop.world
        .node
        .change(|node| node.write("policies/reporter.yaml", policy))?;
    let all = sent(&reporter)?;
    let refused = ["own-fragment", "mptcp4", "mptcp6"];
    let expected = others
        .iter()
        .filter(|sent| !refused.contains(&sent.as_str()));
    assert!(all.iter().eq(expected), "{all:?}");
    let of_reporter = ["--from", "reporter"];
    shop.world.node.record(&of_reporter, |r| {
        r["dropReasonText"] == "IP fragmentation not supported"
    })?;
    Ok(())
}
