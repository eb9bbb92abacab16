//! Neighbours on one bridge, where a frame goes by its hardware address, and says whatever
//! IP address its sender likes: what reaches a workload, its ingress policy has let in.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tidegate_tests::harness::{Capture, Node, Workload, World, eventually, server};

/// The backend takes datagrams of the frontend, the others nothing.
const POLICY: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: backend, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: backend}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: frontend}}]
    toPorts: [{ports: [{port: "7000", protocol: UDP}]}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: quiet, namespace: shop}
spec:
  endpointSelector: {matchExpressions: [{key: app, operator: In, values: [quiet, routed]}]}
  ingress:
  - fromEndpoints: [{matchLabels: {app: nobody}}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: routed, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: routed}}
  egress:
  - toEndpoints: [{matchLabels: {app: backend}}]
    toPorts: [{ports: [{port: "9", protocol: UDP}]}]
"#;

const PORT: u16 = 7000;

/// Sends a datagram to a group.
const SEND: &str = r"
import socket, sys
address, text = sys.argv[1:]
device = socket.if_nametoindex('eth0')
s = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
s.sendto(text.encode(), (address, 7000, 0, device) if ':' in address else (address, 7000))
";

fn send(who: &Workload, group: &str, text: &str) -> Result<()> {
    let output = who.run("/usr/bin/python3", &["-c", SEND, group, text])?;
    ensure!(output.status.success(), "{group}: {output:?}");
    Ok(())
}

/// Makes a neighbour believe that an address is behind another's hardware address.
fn mislead(who: &Workload, address: IpAddr, to: &Workload) -> Result<()> {
    let link = to.run("ip", &["-json", "link", "show", "eth0"])?;
    let link: Value = serde_json::from_slice(&link.stdout)?;
    let hardware = link[0]["address"].as_str().context("no address")?;
    who.configure(&[format!(
        "neighbour replace {address} lladdr {hardware} dev eth0 nud permanent"
    )])
}

fn say(who: &Workload, to: IpAddr, text: &str) -> Result<()> {
    let any: IpAddr = match to {
        IpAddr::V4(_) => [0; 4].into(),
        IpAddr::V6(_) => [0; 16].into(),
    };
    who.within(|| {
        let socket = std::net::UdpSocket::bind((any, 0))?;
        socket.send_to(text.as_bytes(), (to, PORT))
    })??;
    Ok(())
}

fn dropped(node: &Node, destination: &str, reason: &str) -> Result<()> {
    node.record(&["--verdict", "dropped"], |record| {
        record["destination"]["address"] == destination && record["dropReasonText"] == reason
    })
    .with_context(|| format!("to {destination}: {reason}"))?;
    Ok(())
}

#[test]
fn what_reaches_a_workload_its_own_policy_has_let_in() -> Result<()> {
    let mut world = World::new()?;
    let mut add = |name: &str, bridged: bool| -> Result<Workload> {
        let workload = if bridged {
            world.bridged(name)?
        } else {
            world.workload(name)?
        };
        world.node.endpoint(&workload, "shop", &[("app", name)])?;
        Ok(workload)
    };
    let (frontend, backend) = (add("frontend", true)?, add("backend", true)?);
    let (quiet, routed) = (add("quiet", true)?, add("routed", false)?);
    // An address that nobody has declared, behind a device of each kind.
    let undeclared: [IpAddr; 2] = [[10, 20, 0, 77].into(), [10, 99, 0, 1].into()];
    world.node.place().configure(&[format!(
        "route add {}/32 via {} dev {}",
        undeclared[1], routed.v4, routed.interface
    )])?;
    world.node.write("policies/all.yaml", POLICY)?;
    world.node.configure("node:\n  name: lab\n")?;
    world.node.start()?;
    let texts = ["text-group", "text-astray", "text-undeclared"];
    let at_backend = Capture::start(&backend, &texts)?;
    let at_quiet = Capture::start(&quiet, &texts)?;
    let at_routed = Capture::start(&routed, &texts)?;
    let got_nothing = |when: &str| -> Result<()> {
        for (who, seen) in [("quiet", &at_quiet), ("routed", &at_routed)] {
            for text in texts {
                let count = seen.count(text)?;
                ensure!(count == 0, "{when}: {who} got {count} of {text}");
            }
        }
        Ok(())
    };

    // To all neighbours at once, from a neighbour and from the node. The same flow passes
    // where it may, however often it is sent.
    let groups = ["10.20.0.255", "239.1.2.3", "ff05::2"];
    for (already, group) in (0..).zip(groups) {
        for _ in 0..2 {
            send(&frontend, group, "text-group")?;
        }
        eventually("who may gets them", || {
            let count = at_backend.count("text-group")?;
            ensure!(count == 2 * (already + 1), "{group}: {count}");
            Ok(())
        })?;
        dropped(&world.node, group, "Policy denied")?;
        got_nothing(group)?;
    }

    // By a hardware address that is another's: of a neighbour, and of nobody's address.
    for address in [backend.v4.into(), backend.v6.into(), undeclared[0]] {
        mislead(&frontend, address, &quiet)?;
        say(&frontend, address, "text-astray")?;
        let address = address.to_string();
        dropped(&world.node, &address, "Invalid destination mac")?;
        got_nothing(&address)?;
    }
    // Led there by the node's own routes.
    say(&frontend, undeclared[1], "text-undeclared")?;
    dropped(&world.node, &undeclared[1].to_string(), "Policy denied")?;
    got_nothing("a route")?;

    // A neighbour that the node answers for is still there when it is asked after, although
    // the workload's policy allows no ICMPv6.
    let address = backend.v6;
    world
        .node
        .place()
        .sysctl(&["net/ipv6/conf/all/proxy_ndp=1"])?;
    let proxy = format!("neighbour add proxy {address} dev {}", routed.interface);
    world.node.place().configure(&[proxy])?;
    routed.configure(&[format!("route add {address}/128 dev eth0")])?;
    let state = |wanted: &str| {
        let output = routed.run("ip", &["neighbour", "show", &address.to_string()])?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(text.contains(wanted), "{text}");
        Ok(())
    };
    say(&routed, address.into(), "text-asks")?;
    eventually("it is found", || state("REACHABLE"))?;
    routed.configure(&[format!("neighbour change {address} dev eth0 nud probe")])?;
    eventually("it is found again", || state("REACHABLE"))?;

    // Neighbours still find each other, and are still answered.
    frontend.configure(&["neighbour flush all".to_owned()])?;
    for address in backend.addresses() {
        frontend.configure(&[format!("neighbour del {address} dev eth0")])?;
    }
    server::udp_echo(&backend, PORT)?;
    for address in backend.addresses() {
        server::ask_udp(&frontend, (address, PORT), "x")?;
    }
    Ok(())
}
