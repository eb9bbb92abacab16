//! Kafka as its client libraries speak it: produce, consume in a group, admin; what no rule
//! allows is answered in Kafka's words, and everything else goes on.

use std::io::{Read as _, Write as _};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tidegate_tests::harness::{Peer, eventually, server};

use crate::{
    dns_names::dig,
    shop::{Shop, policy},
};

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

/// What frontends may do at brokers outside, by name; and at the backend whatever its own
/// policy says.
const NAMES: &str = r#"
  egress:
  - toCIDR: [192.0.2.100/32]
    toPorts:
    - ports: [{port: "53", protocol: ANY}]
      rules: {dns: [{matchPattern: "*"}]}
  - toEndpoints: [{matchLabels: {app: backend}}]
    toPorts: [{ports: [{port: "9092", protocol: TCP}]}]
  - toFQDNs: [{matchName: one.partner.example}]
    toPorts:
    - ports: [{port: "9092", protocol: TCP}]
      rules: {kafka: [{topic: orders}]}
  - toFQDNs: [{matchName: two.partner.example}]
    toPorts:
    - ports: [{port: "9092", protocol: TCP}]
      rules: {kafka: [{topic: secret}]}
"#;

/// What would become of it if producing `secret` were allowed, too.
const SECRET: &str = r#"
  ingress:
  - fromEndpoints: [{matchLabels: {app: frontend}}]
    toPorts:
    - ports: [{port: "9092", protocol: TCP}]
      rules: {kafka: [{role: produce, topic: secret}]}
"#;

/// And if nothing were.
const NOTHING: &str = r#"
  ingressDeny:
  - fromEndpoints: [{matchLabels: {app: frontend}}]
    toPorts: [{ports: [{port: "9092", protocol: TCP}]}]
"#;

fn in_shadow(sections: &str) -> String {
    let annotation = "name: shadow, annotations: {tidegate.io/enforcement: shadow}";
    policy("shadow", "backend", sections).replace("name: shadow", annotation)
}

#[test]
fn requests_are_judged_by_topic_and_refused_in_kafkas_words() -> Result<()> {
    let mut shop = Shop::open()?;
    let _broker = Peer::Kafka.serve(&shop.backend, PORT)?;
    let rules = policy("kafka", "backend", RULES);
    shop.world.node.write("policies/kafka.yaml", rules)?;
    shop.world
        .node
        .write("policies/shadow.yaml", in_shadow(SECRET))?;
    shop.world.node.start()?;
    // Nothing waits for the plugin, which is compiled when first needed, but who needs it.
    eventually("the plugin is there", || {
        let status = shop.world.node.status()?;
        ensure!(status["notReady"] == json!([]), "{:#}", status["notReady"]);
        Ok(())
    })?;
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

    let found = Peer::Kafka.client(&shop.frontend, "others", &target)?;
    ensure!(found["kcat"] == json!([0, true, true]), "{found}");
    let transaction = "TRANSACTIONAL_ID_AUTHORIZATION_FAILED";
    ensure!(found["transaction"] == transaction, "{found}");

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
        let command = record["l7"]["command"].as_str().unwrap_or_default();
        record["l7"]["targets"] == json!(["secret"]) && command.starts_with("Metadata")
    })?;
    assert!(
        dropped["plugin"]
            .as_str()
            .is_some_and(|by| by.starts_with("kafka@")),
        "{dropped}"
    );
    ensure!(dropped["shadow"]["verdict"] == "FORWARDED", "{dropped}");
    let rules = json!(["shop/shadow ingress[0].toPorts[0].rules.kafka[0]"]);
    ensure!(dropped["shadow"]["rules"] == rules, "{dropped}");
    let consumed = node.record(
        &["--protocol", "kafka", "--verdict", "forwarded"],
        |record| {
            let command = record["l7"]["command"].as_str().unwrap_or_default();
            command.starts_with("Fetch")
        },
    )?;
    ensure!(consumed["shadow"].is_null(), "{consumed}");
    what_would_be_refused_is_told(&shop).context("shadow")?;
    transactions_pass_where_they_may(&shop).context("transactions")?;
    no_connection_outlives_the_rule_that_opened_it(&shop)?;
    the_rules_of_all_names_of_a_broker_unite(&mut shop).context("names")
}

/// In shadow nothing is refused, and told.
fn what_would_be_refused_is_told(shop: &Shop) -> Result<()> {
    let node = &shop.world.node;
    node.change(|node| node.write("policies/shadow.yaml", in_shadow(NOTHING)))?;
    let target = format!("{}:{PORT}", shop.backend.v4);
    let found = Peer::Kafka.client(&shop.frontend, "hand", &target)?;
    ensure!(found["by hand"] == json!([0, 29, 0, 29, 29]), "{found}");
    // More at once than a call can say, or read in time.
    ensure!(found["many"] == json!([[0], [29]]), "{found}");
    let told = node.record(
        &["--protocol", "kafka", "--shadow-verdict", "dropped"],
        |record| record["verdict"] == "FORWARDED",
    )?;
    let rules = json!(["shop/shadow ingressDeny[0].toPorts[0]"]);
    ensure!(told["shadow"]["rules"] == rules, "{told}");
    Ok(())
}

/// By a rule without conditions, which has everything read.
fn transactions_pass_where_they_may(shop: &Shop) -> Result<()> {
    let node = &shop.world.node;
    let (rules, _) = RULES.split_once("        - {role").context("no rules")?;
    let any = format!("{rules}        - {{}}\n");
    node.change(|node| node.write("policies/kafka.yaml", policy("kafka", "backend", &any)))?;
    let target = format!("{}:{PORT}", shop.backend.v4);
    let done = Peer::Kafka.client(&shop.frontend, "transaction", &target)?;
    ensure!(done.is_null(), "{done}");
    let told = node.record(&["--protocol", "kafka"], |record| {
        let command = record["l7"]["command"].as_str().unwrap_or_default();
        command.starts_with("EndTxn") && record["l7"]["code"] == 0
    })?;
    ensure!(told["verdict"] == "FORWARDED", "{told}");
    let rules = policy("kafka", "backend", RULES);
    node.change(|node| node.write("policies/kafka.yaml", rules))
}

/// A broker outside that has two names may be asked what either may.
fn the_rules_of_all_names_of_a_broker_unite(shop: &mut Shop) -> Result<()> {
    const ADDRESS: &str = "198.51.100.10";
    let names = ["one.partner.example", "two.partner.example"];
    shop.world.outside_address(ADDRESS.parse()?)?;
    let _dns = server::dns(&shop.world.outside, &names.map(|name| (name, ADDRESS)))?;
    let _broker = Peer::Kafka.serve(&shop.world.outside, PORT)?;
    shop.frontend.set_resolver("192.0.2.100")?;
    let node = &shop.world.node;
    node.change(|node| node.write("policies/names.yaml", policy("names", "frontend", NAMES)))?;
    let target = format!("{ADDRESS}:{PORT}");
    for (name, expected) in [(names[0], [0, 29, 0, 29, 29]), (names[1], [0, 0, 0, 0, 29])] {
        dig(&shop.frontend, "192.0.2.100", &[name])?;
        let found = Peer::Kafka.client(&shop.frontend, "hand", &target)?;
        ensure!(found["by hand"] == json!(expected), "{name}: {found}");
    }
    Ok(())
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
