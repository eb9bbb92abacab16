//! Kafka as its client libraries speak it: produce, consume in a group, admin; what no rule
//! allows is answered in Kafka's words, and everything else goes on.

use std::io::{Read as _, Write as _};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tidegate_tests::harness::{Peer, server};

use crate::shop::{Shop, policy};

const PORT: u16 = 9092;

/// Clients may send to and read from `orders`.
const RULES: &str = r#"
  ingress:
  - fromEndpoints: [{matchLabels: {app: frontend}}]
    toPorts:
    - ports: [{port: "9092", protocol: TCP}]
      rules:
        kafka:
        - {role: produce, topic: orders}
        - {role: consume, topic: orders}
"#;

#[test]
fn requests_are_judged_by_topic_and_refused_in_kafkas_words() -> Result<()> {
    let mut shop = Shop::open()?;
    let _broker = Peer::Kafka.serve(&shop.backend, PORT)?;
    let rules = policy("kafka", "backend", RULES);
    shop.world.node.write("policies/kafka.yaml", rules)?;
    shop.world.node.start()?;
    let refused = "TOPIC_AUTHORIZATION_FAILED";
    let target = format!("{}:{PORT}", shop.backend.v4);
    let found = Peer::Kafka.client(&shop.frontend, "run", &target)?;
    // Pipelined on one connection: each in its place, and the connection lives on.
    assert_eq!(found["by hand"], json!([0, 29, 0, 29, 29]), "{found}");
    let native = &found["librdkafka"];
    assert_eq!(native["produced"], json!([null, refused, null]), "{found}");
    assert_eq!(native["consumed"], json!(["one", "three"]), "{found}");
    assert_eq!(native["not consumed"], json!([refused]), "{found}");
    let pure = &found["kafka-python"];
    let failed = json!([null, "TopicAuthorizationFailedError", null]);
    assert_eq!(pure["produced"], failed, "{found}");
    let all = json!(["four", "four", "one", "three"]);
    assert_eq!(pure["consumed"], all, "{found}");

    // Requests are told as requests, with what was answered.
    let node = &shop.world.node;
    let passed = node.record(
        &["--protocol", "kafka", "--verdict", "forwarded"],
        |record| {
            record["l7"]["command"]
                .as_str()
                .is_some_and(|command| command.starts_with("Produce"))
        },
    )?;
    assert_eq!(passed["l7"]["targets"], json!(["orders"]), "{passed}");
    assert_eq!(passed["l7"]["code"], 0, "{passed}");
    let rule = passed["rules"][0].as_str().context("no rule")?;
    assert!(
        rule.contains("shop/kafka ingress[0].toPorts[0].rules.kafka[0]"),
        "{rule}"
    );
    let source = passed["source"]["address"].as_str().context("no source")?;
    assert_eq!(source, shop.frontend.v4.to_string(), "{passed}");
    let dropped = node.record(&["--protocol", "kafka", "--verdict", "dropped"], |record| {
        record["l7"]["targets"] == json!(["secret"])
    })?;
    assert!(
        dropped["plugin"]
            .as_str()
            .is_some_and(|by| by.starts_with("kafka@")),
        "{dropped}"
    );
    no_connection_outlives_the_rule_that_opened_it(&shop)
}

/// A plain rule beside them makes the rules for Kafka ask nobody. Without it they ask again,
/// on connections that are open, too.
fn no_connection_outlives_the_rule_that_opened_it(shop: &Shop) -> Result<()> {
    let node = &shop.world.node;
    let plain = RULES.split("      rules:").next().context("no rules")?;
    node.change(|node| node.write("policies/plain.yaml", policy("plain", "backend", plain)))?;
    let mut connection = server::connect(&shop.frontend, (shop.backend.v4, PORT))?;
    // Metadata v1 of `secret`, without a client's name.
    let asked = b"\0\0\0\x16\0\x03\0\x01\0\0\0\x07\xff\xff\0\0\0\x01\0\x06secret";
    connection.write_all(asked)?;
    let mut answer = [0; 4_096];
    ensure!(connection.read(&mut answer)? > 0, "no answer before");
    node.change(|node| node.remove("policies/plain.yaml"))?;
    let _ = connection.write_all(asked);
    let count = connection.read(&mut answer).unwrap_or(0);
    ensure!(count == 0, "answered: {:?}", &answer[..count]);
    Ok(())
}
