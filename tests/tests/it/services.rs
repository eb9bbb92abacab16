//! Service addresses: translated once, at the socket.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use tidegate_tests::harness::{Curl, eventually};

use crate::shop::{ECHO, PLAIN, Shop};

/// A service over both backends, with their plain HTTP port and the UDP echo port.
fn service(algorithm: &str, backends: &[String]) -> String {
    let backends: String = backends
        .iter()
        .map(|b| format!("  - {{address: \"{b}\"}}\n"))
        .collect();
    format!(
        r#"
apiVersion: tidegate.io/v1alpha1
kind: Service
metadata: {{name: backend, namespace: shop}}
spec:
  addresses: [10.96.0.10]
  algorithm: {algorithm}
  ports:
  - {{name: http, port: 80, targetPort: {PLAIN}, protocol: TCP}}
  - {{name: echo, port: 7, targetPort: {ECHO}, protocol: UDP}}
  backends:
{backends}"#
    )
}

fn both(shop: &Shop) -> Vec<String> {
    vec![shop.backend.v4.to_string(), shop.other.v4.to_string()]
}

/// Who answers `count` requests to the service.
fn answering(shop: &Shop, count: usize) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for _ in 0..count {
        let answer = Curl::get("http://10.96.0.10/").expect(&shop.frontend, 200)?;
        names.insert(answer.body.split(' ').next().unwrap_or_default().to_owned());
    }
    Ok(names)
}

#[test]
fn connections_spread_over_all_backends_and_policy_still_holds() -> Result<()> {
    for algorithm in ["random", "maglev"] {
        let mut shop = Shop::open()?;
        shop.world
            .node
            .write("policies/backend.yaml", crate::shop::POLICY)?;
        shop.world
            .node
            .write("services/backend.yaml", service(algorithm, &both(&shop)))?;
        shop.world.node.start()?;
        let names = answering(&shop, 24)?;
        ensure!(
            names.len() == 2,
            "{algorithm}: only {names:?} of two backends answered"
        );
        Curl::get("http://10.96.0.10/").expect_dropped(&shop.stranger)?;
    }
    Ok(())
}

#[test]
fn the_application_sees_the_address_it_connected_to() -> Result<()> {
    let shop = Shop::running()?;
    shop.world
        .node
        .change(|node| node.write("services/backend.yaml", service("random", &both(&shop))))?;
    let answer = Curl::get("http://10.96.0.10/").expect(&shop.frontend, 200)?;
    assert_eq!(answer.remote, Some([10, 96, 0, 10].into()));
    assert_eq!(answer.remote_port, 80);
    Ok(())
}

#[test]
fn datagrams_are_translated_both_ways() -> Result<()> {
    let shop = Shop::running()?;
    shop.world
        .node
        .change(|node| node.write("services/backend.yaml", service("random", &both(&shop))))?;
    // Unconnected: socat checks that the answer comes from where it asked.
    for _ in 0..4 {
        let out = shop.frontend.run(
            "sh",
            &[
                "-c",
                "echo hi | socat -t 1 - UDP4-DATAGRAM:10.96.0.10:7,range=10.96.0.10/32",
            ],
        )?;
        let text = String::from_utf8_lossy(&out.stdout);
        ensure!(
            text.starts_with("backend-") && text.ends_with(" hi\n"),
            "{text:?}"
        );
        // Connected.
        let out = shop
            .frontend
            .run("sh", &["-c", "echo hi | socat -t 1 - UDP4:10.96.0.10:7"])?;
        let text = String::from_utf8_lossy(&out.stdout);
        ensure!(
            text.starts_with("backend-") && text.ends_with(" hi\n"),
            "{text:?}"
        );
    }
    Ok(())
}

#[test]
fn a_removed_backend_gets_no_new_connections() -> Result<()> {
    let shop = Shop::running()?;
    let node = &shop.world.node;
    node.change(|node| node.write("services/backend.yaml", service("random", &both(&shop))))?;
    node.change(|node| {
        node.write(
            "services/backend.yaml",
            service("random", &both(&shop)[1..]),
        )
    })?;
    assert_eq!(
        answering(&shop, 12)?,
        BTreeSet::from(["backend-2".to_owned()])
    );
    Ok(())
}

#[test]
fn without_a_backend_the_connection_is_refused_at_once() -> Result<()> {
    let shop = Shop::running()?;
    shop.world
        .node
        .change(|node| node.write("services/backend.yaml", service("random", &both(&shop))))?;
    shop.world.node.change(|node| {
        node.write(
            "services/backend.yaml",
            service("random", &[]).replace("  backends:\n", "  backends: []\n"),
        )
    })?;
    let answer = Curl::get("http://10.96.0.10/").from(&shop.frontend)?;
    const COULD_NOT_CONNECT: i64 = 7;
    assert_eq!(answer.exit, COULD_NOT_CONNECT, "{answer:?}");
    Ok(())
}

#[test]
fn the_command_line_lists_it() -> Result<()> {
    let shop = Shop::running()?;
    shop.world
        .node
        .change(|node| node.write("services/backend.yaml", service("random", &both(&shop))))?;
    eventually("the service is listed", || {
        let text = shop.world.node.text(&["service", "list"])?;
        ensure!(
            text.contains("10.96.0.10") && text.contains(&shop.backend.v4.to_string()),
            "{text}"
        );
        Ok(())
    })
}
