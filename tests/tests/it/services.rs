//! Service addresses: translated once, at the socket.

use std::{collections::BTreeSet, net::IpAddr};

use anyhow::{Result, ensure};
use tidegate_tests::harness::{Curl, Workload, eventually};

use crate::shop::{ECHO, PLAIN, POLICY, Shop};

/// The service's addresses, as they stand in URLs.
const ADDRESSES: [&str; 2] = ["10.96.0.10", "[fd96::10]"];

/// A service over these backends, with their plain HTTP port and the UDP echo port.
fn service(algorithm: &str, backends: &[&Workload]) -> String {
    let backends: String = backends
        .iter()
        .flat_map(|backend| backend.addresses())
        .map(|address| format!("\n  - {{address: \"{address}\"}}"))
        .collect();
    let backends = if backends.is_empty() {
        " []"
    } else {
        &backends
    };
    format!(
        r#"
apiVersion: tidegate.io/v1alpha1
kind: Service
metadata: {{name: backend, namespace: shop}}
spec:
  addresses: [10.96.0.10, "fd96::10"]
  algorithm: {algorithm}
  ports:
  - {{name: http, port: 80, targetPort: {PLAIN}, protocol: TCP}}
  - {{name: echo, port: 7, targetPort: {ECHO}, protocol: UDP}}
  backends:{backends}
"#
    )
}

/// The shop with the service over both backends in force.
fn shop_with_service() -> Result<Shop> {
    let shop = Shop::running()?;
    shop.change_service(&[&shop.backend, &shop.other])?;
    Ok(shop)
}

impl Shop {
    fn change_service(&self, backends: &[&Workload]) -> Result<()> {
        let text = service("random", backends);
        self.world
            .node
            .change(|node| node.write("services/backend.yaml", text))
    }
}

/// Who answers `count` requests to an address of the service.
fn answering(shop: &Shop, address: &str, count: usize) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for _ in 0..count {
        let answer = Curl::get(format!("http://{address}/")).expect(&shop.frontend, 200)?;
        names.insert(answer.body.split(' ').next().unwrap_or_default().to_owned());
    }
    Ok(names)
}

#[test]
fn connections_spread_over_all_backends_and_policy_still_holds() -> Result<()> {
    for algorithm in ["random", "maglev"] {
        let mut shop = Shop::open()?;
        let text = service(algorithm, &[&shop.backend, &shop.other]);
        shop.world.node.write("policies/backend.yaml", POLICY)?;
        shop.world.node.write("services/backend.yaml", text)?;
        shop.world.node.start()?;
        for address in ADDRESSES {
            let names = answering(&shop, address, 24)?;
            ensure!(
                names.len() == 2,
                "{algorithm}, {address}: only {names:?} of two backends answered"
            );
            Curl::get(format!("http://{address}/")).expect_dropped(&shop.stranger)?;
        }
    }
    Ok(())
}

#[test]
fn the_application_sees_the_address_it_connected_to() -> Result<()> {
    let shop = shop_with_service()?;
    for address in ADDRESSES {
        let answer = Curl::get(format!("http://{address}/")).expect(&shop.frontend, 200)?;
        let plain: IpAddr = address.trim_matches(['[', ']']).parse()?;
        assert_eq!((answer.remote, answer.remote_port), (Some(plain), 80));
    }
    Ok(())
}

#[test]
fn datagrams_are_translated_both_ways() -> Result<()> {
    let shop = shop_with_service()?;
    for (address, family, range) in [
        (ADDRESSES[0], "UDP4", "10.96.0.10/32"),
        (ADDRESSES[1], "UDP6", "[fd96::10]/128"),
    ] {
        for socket in [
            // Unconnected: socat checks that the answer comes from where it asked.
            format!("{family}-DATAGRAM:{address}:7,range={range}"),
            format!("{family}:{address}:7"),
        ] {
            for _ in 0..4 {
                let command = format!("echo hi | socat -t 1 - '{socket}'");
                let out = shop.frontend.run("sh", &["-c", &command])?;
                let text = String::from_utf8_lossy(&out.stdout);
                ensure!(
                    text.starts_with("backend-") && text.ends_with(" hi\n"),
                    "{socket}: {text:?}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn a_removed_backend_gets_no_new_connections() -> Result<()> {
    let shop = shop_with_service()?;
    shop.change_service(&[&shop.other])?;
    for address in ADDRESSES {
        let only = BTreeSet::from(["backend-2".to_owned()]);
        assert_eq!(answering(&shop, address, 12)?, only);
    }
    Ok(())
}

#[test]
fn without_a_backend_the_connection_is_refused_at_once() -> Result<()> {
    let shop = shop_with_service()?;
    shop.change_service(&[])?;
    const COULD_NOT_CONNECT: i64 = 7;
    for address in ADDRESSES {
        let answer = Curl::get(format!("http://{address}/")).from(&shop.frontend)?;
        assert_eq!(answer.exit, COULD_NOT_CONNECT, "{answer:?}");
    }
    let record = shop
        .world
        .node
        .record(&["--verdict", "dropped"], |r| r["event"] == "socket-denied")?;
    assert_eq!(record["dropReasonText"], "Service backend not found");
    Ok(())
}

#[test]
fn the_command_line_lists_it() -> Result<()> {
    let shop = shop_with_service()?;
    eventually("the service is listed", || {
        let text = shop.world.node.text(&["service", "list"])?;
        for address in ["10.96.0.10", "fd96::10"]
            .into_iter()
            .map(str::to_owned)
            .chain(shop.backend.addresses().map(|address| address.to_string()))
        {
            ensure!(text.contains(&address), "no {address} in\n{text}");
        }
        Ok(())
    })
}
