//! Names: queries are judged, answers are learned before they are delivered.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tidegate_tests::harness::{
    Capture, Curl, Place, Running, World, eventually, server, tls, world::NODE_V4,
};

use crate::shop::Shop;

/// The DNS server, [`tidegate_tests::harness::world::OUTSIDE_V4`] and `OUTSIDE_V6`.
const V4: &str = "192.0.2.100";
const V6: &str = "2001:db8:2::100";

const POLICY: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: names, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: frontend}}
  egress:
  - toCIDR: [192.0.2.100/32, "2001:db8:2::100/128"]
    toPorts:
    - ports: [{port: "53", protocol: ANY}, {port: "5300", protocol: UDP}]
      rules:
        dns: [{matchPattern: "*.partner.example"}]
  - toFQDNs: [{matchName: api.partner.example}]
    toPorts: [{ports: [{port: "80", protocol: TCP}]}]
"#;

/// A DNS server and a web server outside, and two names.
pub(crate) fn serve_names(world: &World) -> Result<[Running; 2]> {
    let names = [
        ("api.partner.example", "198.51.100.10"),
        ("www.partner.example", "198.51.100.20"),
    ];
    for (_, address) in names {
        world.outside_address(address.parse()?)?;
    }
    Ok([
        server::dns(&world.outside, &names)?,
        server::nginx(&world.outside, 80, &world.dir())?,
    ])
}

/// The shop with a DNS server and a web server outside.
fn shop_with_names() -> Result<(Shop, [Running; 2])> {
    let mut shop = Shop::open()?;
    let servers = serve_names(&shop.world)?;
    shop.frontend.set_resolver(V4)?;
    shop.world.node.write("policies/names.yaml", POLICY)?;
    shop.world.node.start()?;
    Ok((shop, servers))
}

/// What a server says to one query; nothing if it does not answer.
pub(crate) fn dig(from: &Place, server: &str, arguments: &[&str]) -> Result<String> {
    let server = format!("@{server}");
    let out = from.run(
        "dig",
        &[&["+tries=1", "+time=2", &server], arguments].concat(),
    )?;
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

#[test]
fn the_first_connection_after_the_lookup_succeeds_every_time() -> Result<()> {
    let (shop, _servers) = shop_with_names()?;
    Curl::get("http://198.51.100.10/").expect_dropped(&shop.frontend)?;
    for _ in 0..10 {
        Curl::get("http://api.partner.example/").expect(&shop.frontend, 200)?;
    }
    Curl::get("http://www.partner.example/").expect_dropped(&shop.frontend)?;
    let record = shop
        .world
        .node
        .record(&["--from", "frontend", "--port", "80"], |r| {
            r["event"] == "flow-new"
        })?;
    ensure!(
        record["destination"]["names"][0]
            .as_str()
            .is_some_and(|name| name.starts_with("api.partner")),
        "{record}"
    );
    Ok(())
}

/// Whoever answers for a name the policy allows must not open the node or a workload.
#[test]
fn a_name_opens_neither_the_node_nor_an_endpoint() -> Result<()> {
    let mut shop = Shop::open()?;
    let [backend, _] = shop.backend.addresses();
    let (backend, node) = (backend.to_string(), NODE_V4.to_string());
    let names = [
        ("backend.partner.example", backend.as_str()),
        ("node.partner.example", node.as_str()),
    ];
    let _dns = server::dns(&shop.world.outside, &names)?;
    shop.frontend.set_resolver(V4)?;
    let policy = POLICY.replace(
        "matchName: api.partner.example",
        "matchPattern: \"*.partner.example\"",
    );
    shop.world.node.write("policies/names.yaml", &policy)?;
    shop.world.node.start()?;
    for (name, address) in names {
        let answer = dig(&shop.frontend, V4, &[name])?;
        ensure!(answer.contains(address), "the answer passes: {answer}");
        Curl::get(format!("http://{name}/")).expect_dropped(&shop.frontend)?;
    }
    Ok(())
}

/// Many names on one address of a delivery network, each with rules of its own, and a
/// prefix that covers it: their rules unite. Nobody is forgotten because others are there.
#[test]
fn the_rules_of_all_names_of_an_address_unite() -> Result<()> {
    const ADDRESS: &str = "198.51.100.10";
    const NAMES: u16 = 9;
    let mut shop = Shop::open()?;
    shop.world.outside_address(ADDRESS.parse()?)?;
    let names: Vec<String> = (1..=NAMES)
        .map(|n| format!("n{n}.partner.example"))
        .collect();
    let answers: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), ADDRESS)).collect();
    let _dns = server::dns(&shop.world.outside, &answers)?;
    let _web = [80, 90].map(|port| server::nginx(&shop.world.outside, port, &shop.world.dir()));
    shop.frontend.set_resolver(V4)?;
    let (dns_rule, _) = POLICY.split_once("  - toFQDNs").expect("the names' rule");
    let mut policy = dns_rule.to_owned();
    let mut rule = |peers: &str, port: u16, path: &str| {
        policy += &format!(
            "  - {peers}\n    toPorts:\n    - ports: [{{port: \"{port}\", protocol: TCP}}]\n      \
             rules: {{http: [{{path: {path}}}]}}\n"
        );
    };
    for (n, name) in names.iter().enumerate() {
        rule(
            &format!("toFQDNs: [{{matchName: {name}}}]"),
            80,
            &format!("/n{n}"),
        );
    }
    rule(&format!("toCIDR: [{ADDRESS}/32]"), 80, "/prefix");
    // A plain allow by name beside rules by prefix opens the port.
    rule(&format!("toCIDR: [{ADDRESS}/32]"), 90, "/prefix");
    policy += &format!(
        "  - toFQDNs: [{{matchName: {}}}]\n    toPorts: [{{ports: [{{port: \"90\", protocol: TCP}}]}}]\n",
        names[0]
    );
    shop.world.node.write("policies/names.yaml", &policy)?;
    shop.world.node.start()?;

    let ask = |port: u16, path: &str| Curl::get(format!("http://{ADDRESS}:{port}{path}"));
    ask(80, "/prefix").expect(&shop.frontend, 200)?;
    ask(80, "/n8").expect(&shop.frontend, 403)?;
    ask(90, "/other").expect(&shop.frontend, 403)?;
    for name in &names {
        dig(&shop.frontend, V4, &[name])?;
    }
    for n in 0..NAMES {
        ask(80, &format!("/n{n}")).expect(&shop.frontend, 200)?;
    }
    ask(80, "/prefix").expect(&shop.frontend, 200)?;
    ask(80, "/other").expect(&shop.frontend, 403)?;
    ask(90, "/other").expect(&shop.frontend, 200)?;
    for (path, passes) in [("/n8", true), ("/other", false)] {
        let to = format!("{ADDRESS}:80");
        let answer = shop
            .world
            .node
            .text(&["explain", "frontend", &to, "http", "GET", path])?;
        ensure!(answer.contains("REFUSED") != passes, "{path}: {answer}");
        for name in &names {
            ensure!(
                answer.contains(&format!("name     {name} ({name}): ")),
                "{answer}"
            );
        }
    }
    Ok(())
}

#[test]
fn names_are_still_shown_after_a_restart() -> Result<()> {
    let (mut shop, _servers) = shop_with_names()?;
    Curl::get("http://api.partner.example/").expect(&shop.frontend, 200)?;
    let shown = |shop: &Shop| -> Result<bool> {
        let names = shop.world.node.text(&["fqdn", "list"])?;
        Ok(names.contains("api.partner.example"))
    };
    eventually("the name is shown", || {
        ensure!(shown(&shop)?);
        Ok(())
    })?;
    shop.world.node.stop_agent()?;
    shop.world.node.start()?;
    ensure!(shown(&shop)?, "the name is forgotten");
    // Nor has the kernel forgotten the address.
    Curl::get("http://198.51.100.10/").expect(&shop.frontend, 200)?;
    let names = &shop
        .world
        .node
        .json(&["explain", "frontend", "198.51.100.10:80"])?["destination"]["names"];
    assert_eq!(names[0], "api.partner.example");
    Ok(())
}

#[test]
fn other_names_are_refused_over_udp_and_tcp() -> Result<()> {
    let (shop, _servers) = shop_with_names()?;
    for server in [V4, V6] {
        for transport in ["+notcp", "+tcp"] {
            let allowed = dig(&shop.frontend, server, &[transport, "api.partner.example"])?;
            ensure!(allowed.contains("198.51.100.10"), "{allowed}");
            let refused = dig(&shop.frontend, server, &[transport, "evil.example"])?;
            ensure!(refused.contains("status: REFUSED"), "{refused}");
        }
    }
    Ok(())
}

/// A refusal that reads "no such name" lets resolvers go on to the next domain of their
/// search list.
#[test]
fn refused_names_may_be_answered_as_if_they_did_not_exist() -> Result<()> {
    let mut shop = Shop::open()?;
    let _servers = serve_names(&shop.world)?;
    shop.frontend
        .set_resolver(format!("{V4}\nsearch corp.example partner.example"))?;
    shop.world.node.configure(
        "node:\n  name: lab\n  outsideDevices: [uplink]\nfqdn: {rejectResponseCode: nameError}\n",
    )?;
    shop.world.node.write("policies/names.yaml", POLICY)?;
    shop.world.node.start()?;
    for transport in ["+notcp", "+tcp"] {
        let refused = dig(&shop.frontend, V4, &[transport, "evil.example"])?;
        ensure!(refused.contains("status: NXDOMAIN"), "{refused}");
    }
    let found = shop.frontend.run("getent", &["ahostsv4", "api"])?;
    let found = String::from_utf8_lossy(&found.stdout).into_owned();
    ensure!(
        found.contains("198.51.100.10"),
        "the search list ended: {found}"
    );
    let told =
        shop.world
            .node
            .text(&["explain", "frontend", "192.0.2.100", "dns", "evil.example"])?;
    ensure!(told.contains("NXDOMAIN"), "{told}");
    ensure!(
        told.contains("no toFQDNs rule selects evil.example"),
        "{told}"
    );
    let name = "api.partner.example";
    let told = shop
        .world
        .node
        .text(&["explain", "frontend", "192.0.2.100", "dns", name])?;
    ensure!(
        told.contains(&format!("learned for {name}: 198.51.100.10 (")),
        "{told}"
    );
    Ok(())
}

/// Port of a server that answers queries in pairs, each with no records.
const PAIRS: u16 = 5300;

/// Answers two queries once it has both.
fn serve_pairs(world: &World, server: IpAddr) -> Result<()> {
    let socket = world
        .outside
        .within(|| UdpSocket::bind((server, PAIRS)))??;
    std::thread::spawn(move || -> std::io::Result<()> {
        let mut waiting = None;
        loop {
            let mut query = vec![0; 512];
            let (length, from) = socket.recv_from(&mut query)?;
            query.truncate(length);
            // "This is a response" (RFC 1035 §4.1.1).
            query[2] |= 0x80;
            match waiting.take() {
                None => waiting = Some((query, from)),
                Some((first, client)) => {
                    socket.send_to(&first, client)?;
                    socket.send_to(&query, from)?;
                }
            }
        }
    });
    Ok(())
}

/// Sends from a CPU of the machine: a veth hands packets over on the sender's.
fn send_on(cpu: usize, socket: &UdpSocket, message: &[u8]) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set)?;
    socket.send(message)?;
    Ok(())
}

#[test]
fn queries_of_one_socket_are_all_answered_whatever_cpus_they_come_in_on() -> Result<()> {
    const ROUNDS: u8 = 10;
    let (shop, _servers) = shop_with_names()?;
    let question = b"\x03api\x07partner\x07example\x00\x00\x01\x00\x01";
    let query = |id: u8| [&[0, id, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], question].concat();
    let cpus = std::thread::available_parallelism()?.get();
    ensure!(cpus > 1, "one CPU cannot show it");
    for server in [V4, V6] {
        let server: IpAddr = server.parse()?;
        serve_pairs(&shop.world, server)?;
        let any: IpAddr = if server.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        for round in 0..ROUNDS {
            let client = shop.frontend.within(|| UdpSocket::bind((any, 0)))??;
            client.connect((server, PAIRS))?;
            client.set_read_timeout(Some(Duration::from_secs(2)))?;
            // On a thread of its own: this one keeps its CPUs.
            std::thread::scope(|scope| {
                let asking = || {
                    send_on(usize::from(round) % 2, &client, &query(1))?;
                    send_on(usize::from(round + 1) % 2, &client, &query(2))
                };
                let asked = scope.spawn(asking).join();
                asked.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })?;
            let mut answered = Vec::new();
            for _ in 0..2 {
                let mut answer = [0; 512];
                client
                    .recv(&mut answer)
                    .with_context(|| format!("{server}, round {round}: only {answered:?}"))?;
                answered.push(answer[1]);
            }
            answered.sort_unstable();
            assert_eq!(answered, [1, 2], "{server}, round {round}");
        }
    }
    Ok(())
}

#[test]
fn lookups_and_learning_go_on_while_the_agent_is_dead() -> Result<()> {
    const LOOKUPS: usize = 4_000;
    let (mut shop, _servers) = shop_with_names()?;
    // One dig asks all of it, one query after the other.
    let list = shop.world.dir().join("lookups");
    std::fs::write(&list, "api.partner.example\n".repeat(LOOKUPS))?;
    let list = list.display().to_string();
    let arguments = ["+tries=1", "+time=5", "+short", "@192.0.2.100", "-f", &list];
    let mut load = shop.frontend.spawn("lookups", "dig", &arguments)?;
    let answered = |load: &Running| load.output().matches("198.51.100.10\n").count();
    eventually("lookups are under way", || {
        load.check_alive()?;
        ensure!(answered(&load) > 100);
        Ok(())
    })?;

    shop.world.node.kill_agent()?;
    let at_kill = answered(&load);
    Curl::get("http://api.partner.example/").expect(&shop.frontend, 200)?;
    let refused = dig(&shop.frontend, V4, &["evil.example"])?;
    ensure!(refused.contains("status: REFUSED"), "{refused}");
    eventually("lookups go on without an agent", || {
        ensure!(answered(&load) > at_kill + 100);
        Ok(())
    })?;
    shop.world.node.start()?;
    load.wait(Duration::from_secs(60))?;
    let output = load.output();
    let lost: Vec<(usize, &str)> = output
        .lines()
        .enumerate()
        .filter(|(_, line)| *line != "198.51.100.10")
        .collect();
    ensure!(
        answered(&load) == LOOKUPS,
        "killed after {at_kill} lookups; lost: {lost:?}"
    );
    Ok(())
}

#[test]
fn without_agent_and_proxy_no_query_passes_uninspected() -> Result<()> {
    let (mut shop, _servers) = shop_with_names()?;
    // Names as they are on the wire: each label after its length.
    let (allowed, refused) = ("\x03api\x07partner", "\x04evil\x07example");
    let capture = Capture::start(&shop.world.outside, &[allowed, refused])?;
    dig(&shop.frontend, V4, &["api.partner.example"])?;
    ensure!(capture.count(allowed)? > 0, "the capture sees nothing");
    let proxy = shop.world.node.proxy_pid()?;
    shop.world.node.kill_agent()?;
    kill(Pid::from_raw(proxy.cast_signed()), Signal::SIGKILL)?;
    let before = capture.count(allowed)?;
    for transport in ["+notcp", "+tcp"] {
        for name in ["api.partner.example", "evil.example"] {
            let answer = dig(&shop.frontend, V4, &[transport, name])?;
            ensure!(!answer.contains("status: "), "answered: {answer}");
        }
    }
    assert_eq!(
        (capture.count(allowed)?, capture.count(refused)?),
        (before, 0)
    );

    shop.world.node.start()?;
    Curl::get("http://api.partner.example/").expect(&shop.frontend, 200)?;
    let answer = dig(&shop.frontend, V4, &["evil.example"])?;
    ensure!(answer.contains("status: REFUSED"), "{answer}");
    assert_eq!(capture.count(refused)?, 0);
    Ok(())
}

/// What the frontend may ask of a name, and of nobody else at its address.
const HELD: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: held, namespace: shop, annotations: {tidegate.io/hold-names: "true"}}
spec:
  endpointSelector: {matchLabels: {app: frontend}}
  egress:
  - toCIDR: [192.0.2.100/32]
    toPorts:
    - ports: [{port: "53", protocol: ANY}]
      rules:
        dns: [{matchPattern: "*.partner.example"}]
  - toFQDNs: [{matchName: api.partner.example}]
    toPorts:
    - ports: [{port: "80", protocol: TCP}, {port: "443", protocol: TCP}]
    - ports: [{port: "8080", protocol: TCP}]
      rules: {http: [{path: "/api/.*"}]}
"#;

/// Names share addresses: a rule by name opens its address to who asks for that name.
#[test]
fn a_shared_address_opens_no_neighbour() -> Result<()> {
    const ADDRESS: &str = "198.51.100.10";
    let (own, neighbour) = ("api.partner.example", "www.partner.example");
    let mut shop = Shop::open()?;
    let (outside, dir) = (&shop.world.outside, shop.world.dir());
    shop.world.outside_address(ADDRESS.parse()?)?;
    let _dns = server::dns(outside, &[(own, ADDRESS), (neighbour, ADDRESS)])?;
    let _web = [80, 8080].map(|port| server::nginx(outside, port, &dir));
    let _tls = tls::nginx(outside, 443, &dir)?;
    shop.frontend.set_resolver(V4)?;
    shop.world.node.write("policies/held.yaml", HELD)?;
    shop.world.node.start()?;
    let (node, frontend) = (&shop.world.node, &shop.frontend);
    // Both names were asked for; the address is the same.
    for name in [own, neighbour] {
        let answer = dig(frontend, V4, &[name])?;
        ensure!(answer.contains(ADDRESS), "{answer}");
    }
    let ask = |scheme: &str, name: &str, rest: &str| {
        Curl::get(format!("{scheme}://{name}{rest}")).with(&["--insecure"])
    };
    ask("http", own, "/").expect(frontend, 200)?;
    ask("http", own, ":8080/api/").expect(frontend, 200)?;
    ask("https", own, "/").expect(frontend, 200)?;
    ask("http", neighbour, "/").expect(frontend, 403)?;
    ask("http", neighbour, ":8080/api/").expect(frontend, 403)?;
    ask("http", own, ":8080/").expect(frontend, 403)?;
    ask("http", ADDRESS, "/").expect(frontend, 403)?;
    let refused = ask("https", neighbour, "/").from(frontend)?;
    ensure!(refused.error.contains("unrecognized name"), "{refused:?}");
    // One connection, asked for both in turn.
    let url = format!("http://{own}/");
    let turn = ask("http", own, "/").with(&["--next", "--silent", "--header"]);
    let host = format!("Host: {neighbour}");
    turn.with(&[&host, &url]).from(frontend)?;
    let told = node.record(&["--verdict", "dropped", "--protocol", "http"], |record| {
        record["l7"]["url"] == format!("http://{neighbour}/")
    })?;
    let rule = "shop/held egress[1].toFQDNs[0]";
    ensure!(told["rules"] == serde_json::json!([rule]), "{told}");
    let named = ["--server-name", "*.partner.example", "--verdict", "dropped"];
    let told = node.record(&named, |_| true)?;
    ensure!(told["l7"]["serverName"] == neighbour, "{told}");
    // Neither TLS nor HTTP says whom it is for.
    let mut raw = server::connect(frontend, (ADDRESS.parse::<Ipv4Addr>()?, 80))?;
    std::io::Write::write_all(&mut raw, &[0, 1, 2, 3])?;
    let ended = std::io::Read::read(&mut raw, &mut [0; 64]);
    ensure!(matches!(ended, Err(_) | Ok(0)), "{ended:?}");

    let explain = |port: u16, message: &[&str]| {
        let to = format!("{ADDRESS}:{port}");
        node.text(&[&["explain", "frontend", &to], message].concat())
    };
    for (port, message, said) in [
        (
            443,
            &["sni", own][..],
            "TLS for api.partner.example: ALLOWED",
        ),
        (
            443,
            &["sni", neighbour],
            "TLS for www.partner.example: REFUSED, alert 112",
        ),
        (443, &["sni"], "TLS for no name: REFUSED, alert 49"),
        (80, &["http", "GET", "/", "--host", own], "GET /: ALLOWED"),
        (
            80,
            &["http", "GET", "/", "--host", neighbour],
            "GET /: REFUSED, 403",
        ),
    ] {
        let text = explain(port, message)?;
        ensure!(text.contains(said) && text.contains(rule), "{said}: {text}");
    }
    Ok(())
}
