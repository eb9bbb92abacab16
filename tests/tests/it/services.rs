//! Service addresses: translated once, at the socket.

use std::{collections::BTreeMap, net::IpAddr, process::Output};

use anyhow::{Context as _, Result, ensure};
use tidegate_tests::harness::{Curl, Workload, eventually};

use crate::shop::{ECHO, PLAIN, Shop, together};

/// The service's addresses, as they stand in URLs.
const ADDRESSES: [&str; 2] = ["10.96.0.10", "[fd96::10]"];

/// A service over these backends and their weights, with their plain HTTP port and the
/// UDP echo port.
fn service(algorithm: &str, backends: &[(&Workload, u32)]) -> String {
    let backends: String = backends
        .iter()
        .flat_map(|(backend, weight)| backend.addresses().map(|address| (address, weight)))
        .map(|(address, weight)| format!("\n  - {{address: \"{address}\", weight: {weight}}}"))
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

#[test]
fn at_the_addresses_of_a_service() -> Result<()> {
    let shop = Shop::running()?;
    together!(&shop;
        connections_spread_over_all_backends_and_policy_still_holds,
        the_application_sees_the_address_it_connected_to,
        datagrams_are_translated_both_ways,
        the_command_line_lists_it,
        a_removed_backend_gets_no_new_connections,
        without_a_backend_the_connection_is_refused_at_once,
    )
}

impl Shop {
    fn change_service(&self, algorithm: &str, backends: &[(&Workload, u32)]) -> Result<()> {
        let text = service(algorithm, backends);
        self.world
            .node
            .change(|node| node.write("services/backend.yaml", text))
    }
}

/// How often each backend answers.
type Answers = BTreeMap<String, usize>;

/// Who answers so many connections to an address of the service.
fn answering(shop: &Shop, address: &str, count: usize) -> Result<Answers> {
    let url = format!("http://{address}/[1-{count}]");
    let arguments = ["-sS", "--fail", "--header", "Connection: close", &url];
    count_names(count, &shop.frontend.run("curl", &arguments)?)
}

/// Sends a datagram to port 7 of an address from a new socket, connected or not, so many
/// times; prints the answers, and whether they come from where it asked.
const ASK: &str = "
import socket, sys
address, kind, count = sys.argv[1:]
family = socket.AF_INET6 if ':' in address else socket.AF_INET
for _ in range(int(count)):
    asking = socket.socket(family, socket.SOCK_DGRAM)
    asking.settimeout(5)
    if kind == 'connected':
        asking.connect((address, 7))
        asking.send(b'hi')
    else:
        asking.sendto(b'hi', (address, 7))
    answer, source = asking.recvfrom(64)
    print(answer.decode(), source[:2] == (address, 7))
";

/// Who answers so many sockets that send a datagram each.
fn echoing(shop: &Shop, address: &str, kind: &str, count: usize) -> Result<Answers> {
    let address = address.trim_matches(['[', ']']);
    let arguments = ["-c", ASK, address, kind, &count.to_string()];
    let output = shop.frontend.run("/usr/bin/python3", &arguments)?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        text.lines().all(|line| line.ends_with(" hi True")),
        "{address}, {kind}: {text}"
    );
    count_names(count, &output)
}

/// The first words of the lines a command printed.
fn count_names(count: usize, output: &Output) -> Result<Answers> {
    ensure!(output.status.success(), "{output:?}");
    let mut answers = Answers::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let name = line.split(' ').next().unwrap_or_default();
        *answers.entry(name.to_owned()).or_default() += 1;
    }
    ensure!(answers.values().sum::<usize>() == count, "{answers:?}");
    Ok(answers)
}

/// A share of `weight / of` within five standard deviations: less than one run in ten
/// thousand is beyond that by chance.
fn ensure_share(answers: &Answers, name: &str, weight: u32, of: u32) -> Result<()> {
    let count = answers.values().sum::<usize>() as f64;
    let share = f64::from(weight) / f64::from(of);
    let (expected, deviation) = (count * share, (count * share * (1.0 - share)).sqrt());
    let found = answers.get(name).copied().unwrap_or(0) as f64;
    ensure!(
        (found - expected).abs() <= 5.0 * deviation,
        "{name} should have {expected:.0} ± {:.0}: {answers:?}",
        5.0 * deviation
    );
    Ok(())
}

fn connections_spread_over_all_backends_and_policy_still_holds(shop: &Shop) -> Result<()> {
    const COUNT: usize = 200;
    for (algorithm, weights) in [("random", [1, 1]), ("random", [1, 4]), ("maglev", [1, 4])] {
        shop.change_service(
            algorithm,
            &[(&shop.backend, weights[0]), (&shop.other, weights[1])],
        )?;
        for address in ADDRESSES {
            for answers in [
                answering(shop, address, COUNT)?,
                echoing(shop, address, "connected", COUNT)?,
            ] {
                let of = weights[0] + weights[1];
                for (name, weight) in ["backend-1", "backend-2"].into_iter().zip(weights) {
                    ensure_share(&answers, name, weight, of)
                        .with_context(|| format!("{algorithm} {weights:?} at {address}"))?;
                }
            }
        }
    }
    for address in ADDRESSES {
        Curl::get(format!("http://{address}/")).expect_dropped(&shop.stranger)?;
    }
    Ok(())
}

fn the_application_sees_the_address_it_connected_to(shop: &Shop) -> Result<()> {
    for address in ADDRESSES {
        let answer = Curl::get(format!("http://{address}/")).expect(&shop.frontend, 200)?;
        let plain: IpAddr = address.trim_matches(['[', ']']).parse()?;
        assert_eq!((answer.remote, answer.remote_port), (Some(plain), 80));
    }
    Ok(())
}

fn datagrams_are_translated_both_ways(shop: &Shop) -> Result<()> {
    for address in ADDRESSES {
        for kind in ["connected", "unconnected"] {
            let answers = echoing(shop, address, kind, 40)?;
            ensure!(answers.len() == 2, "{address}, {kind}: {answers:?}");
        }
    }
    Ok(())
}

fn a_removed_backend_gets_no_new_connections(shop: &Shop) -> Result<()> {
    shop.change_service("random", &[(&shop.other, 1)])?;
    for address in ADDRESSES {
        let only = Answers::from([("backend-2".to_owned(), 12)]);
        assert_eq!(answering(shop, address, 12)?, only);
        for kind in ["connected", "unconnected"] {
            assert_eq!(echoing(shop, address, kind, 12)?, only);
        }
    }
    Ok(())
}

fn without_a_backend_the_connection_is_refused_at_once(shop: &Shop) -> Result<()> {
    shop.change_service("random", &[])?;
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

fn the_command_line_lists_it(shop: &Shop) -> Result<()> {
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
