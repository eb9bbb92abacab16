//! A protocol that a plugin brings: Redis by commands and keys, as `l7proto: redis`, before a
//! real server and its own clients.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tidegate_tests::harness::{eventually, server, tag::repository};

use crate::shop::{Shop, policy, together};

const PORT: u16 = 6379;

const RULES: &str = r#"
  ingress:
  - fromEndpoints: [{matchLabels: {app: frontend}}]
    toPorts:
    - ports: [{port: "6379", protocol: TCP}]
      rules:
        l7proto: redis
        l7:
        - {command: GET, key: "orders:*"}
        - {command: INCR, key: "orders:*"}
        - {command: SUBSCRIBE, key: news}
        - {command: UNSUBSCRIBE}
"#;

const NO: &str = "NOPERM this command or key is not allowed by policy";

#[test]
fn redis_is_judged_by_command_and_key_with_a_plugin_dropped_in() -> Result<()> {
    let mut shop = Shop::open()?;
    let world = &shop.world;
    world.node.copy(
        &repository().join("target/artifacts/examples/redis-filter.wasm"),
        "plugins/redis.wasm",
    )?;
    let rules = policy("redis", "backend", RULES);
    world.node.write("policies/redis.yaml", rules)?;
    let port = PORT.to_string();
    let alone = ["--port", &port, "--save", "", "--protected-mode", "no"];
    let mut redis = shop.backend.spawn("redis", "redis-server", &alone)?;
    server::wait_for_tcp(&shop.backend, PORT, &mut redis)?;
    shop.world.node.start()?;
    // The plugin may be compiled a moment after the first generation.
    eventually("the plugin answers", || {
        let said = cli(&shop, &["GET", "orders:1"])?;
        ensure!(said.is_empty() || said == "1", "{said}");
        Ok(())
    })?;
    together!(&shop;
        commands,
        one_connection,
        transactions,
        channels,
        many_at_once,
        a_connection_ends_with_the_rules_it_began_with,
        a_proxy_that_dies_takes_its_connections_along,
    )
}

/// What `redis-cli` prints.
fn cli(shop: &Shop, words: &[&str]) -> Result<String> {
    let host = shop.backend.v4.to_string();
    let arguments = [&["-h", &host, "-p", "6379"], words].concat();
    let output = shop.frontend.run("redis-cli", &arguments)?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn commands(shop: &Shop) -> Result<()> {
    for (words, expected) in [
        (&["INCR", "orders:1"][..], "1"),
        (&["GET", "orders:1"], "1"),
        (&["-3", "GET", "orders:1"], "1"),
        (&["SET", "orders:1", "2"], NO),
        (&["GET", "secret"], NO),
        (&["FLUSHALL"], NO),
        (&["EVAL", "return redis.call('get','secret')", "0"], NO),
        (&["PING"], "PONG"),
    ] {
        let said = cli(shop, words)?;
        ensure!(said == expected, "{words:?}: {said:?}");
    }
    let node = &shop.world.node;
    let of = ["--protocol", "stream", "--verdict", "dropped"];
    let refused = node.record(&of, |record| record["l7"]["command"] == "SET")?;
    ensure!(refused["l7"]["targets"] == json!(["orders:1"]), "{refused}");
    let of = ["--protocol", "redis", "--verdict", "forwarded"];
    let passed = node.record(&of, |record| record["l7"]["command"] == "INCR")?;
    let rules = json!(["shop/redis ingress[0].toPorts[0].rules.l7[1]"]);
    ensure!(passed["rules"] == rules, "{passed}");
    Ok(())
}

/// Says something on one connection, and reads exactly this.
fn check(shop: &Shop, said: &str, expected: &str) -> Result<()> {
    let mut connection = server::connect(&shop.frontend, (shop.backend.v4, PORT))?;
    connection.write_all(said.as_bytes())?;
    let mut heard = vec![0; expected.len()];
    let read = connection.read_exact(&mut heard);
    read.with_context(|| format!("{said:?}: {:?}", String::from_utf8_lossy(&heard)))?;
    let heard = String::from_utf8_lossy(&heard);
    ensure!(heard == expected, "{said:?}: {heard:?}");
    Ok(())
}

/// Pipelined and inline, each answer in its place; malformed, nothing arrives.
fn one_connection(shop: &Shop) -> Result<()> {
    check(
        shop,
        "GET orders:1\r\nSET a b\r\n*2\r\n$3\r\nGET\r\n$8\r\norders:1\r\nGET a\r\nPING\r\n",
        &format!("$1\r\n1\r\n-{NO}\r\n$1\r\n1\r\n-{NO}\r\n+PONG\r\n"),
    )?;
    let mut connection = server::connect(&shop.frontend, (shop.backend.v4, PORT))?;
    connection.write_all(b"*02\r\n$3\r\nGET\r\n$6\r\nsecret\r\n")?;
    let mut heard = Vec::new();
    // Reset or closed: in any case without a word.
    let _ = connection.read_to_end(&mut heard);
    ensure!(heard.is_empty(), "{:?}", String::from_utf8_lossy(&heard));
    Ok(())
}

fn transactions(shop: &Shop) -> Result<()> {
    let aborted = "-EXECABORT Transaction discarded because of previous errors.\r\n";
    check(
        shop,
        "MULTI\r\nINCR orders:1\r\nSET a b\r\nEXEC\r\nGET orders:1\r\nMULTI\r\nGET orders:1\r\nEXEC\r\n",
        &format!(
            "+OK\r\n+QUEUED\r\n-{NO}\r\n{aborted}$1\r\n1\r\n+OK\r\n+QUEUED\r\n*1\r\n$1\r\n1\r\n"
        ),
    )
}

fn channels(shop: &Shop) -> Result<()> {
    let (here, gone) = (
        "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n",
        "*3\r\n$11\r\nunsubscribe\r\n$4\r\nnews\r\n:0\r\n",
    );
    check(
        shop,
        "SUBSCRIBE secret\r\nSUBSCRIBE news\r\nUNSUBSCRIBE\r\nGET secret\r\n",
        &format!("-{NO}\r\n{here}{gone}-{NO}\r\n"),
    )
}

/// The server's own benchmark, pipelined: everything that is asked is answered.
fn many_at_once(shop: &Shop) -> Result<()> {
    let host = shop.backend.v4.to_string();
    let load = "-h HOST -p 6379 -n 20000 -c 20 -P 100 -q GET orders:1".replace("HOST", &host);
    let words: Vec<&str> = load.split(' ').collect();
    let output = shop.frontend.run("redis-benchmark", &words)?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success() && said.contains("requests per second"),
        "{said} {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// A connection that is read, after its first answer.
fn open(shop: &Shop) -> Result<TcpStream> {
    let mut connection = server::connect(&shop.frontend, (shop.backend.v4, PORT))?;
    ask(&mut connection)?;
    Ok(connection)
}

fn ask(connection: &mut TcpStream) -> Result<()> {
    let answer = b"$1\r\n1\r\n";
    connection.write_all(b"GET orders:1\r\n")?;
    let mut heard = [0; 7];
    connection.read_exact(&mut heard)?;
    ensure!(heard == *answer, "{:?}", String::from_utf8_lossy(&heard));
    Ok(())
}

/// What others' rules say is nothing to it; of its own it is told by its end, with the next
/// request, which is not passed.
fn a_connection_ends_with_the_rules_it_began_with(shop: &Shop) -> Result<()> {
    let node = &shop.world.node;
    let mut connection = open(shop)?;
    let other = policy("other", "frontend", "  ingress: [{fromEntities: [host]}]\n");
    node.change(|node| node.write("policies/other.yaml", other))?;
    ask(&mut connection).context("after a change of other rules")?;
    let rules = policy("redis", "backend", &RULES.replace("GET, key", "SET, key"));
    node.change(|node| node.write("policies/redis.yaml", rules))?;
    connection.write_all(b"GET orders:1\r\n")?;
    let mut heard = Vec::new();
    // Reset or closed: in any case without a word.
    let ended = connection.read_to_end(&mut heard);
    let in_time = !ended.is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
    ensure!(in_time, "it stays open");
    ensure!(heard.is_empty(), "{:?}", String::from_utf8_lossy(&heard));
    let said = cli(shop, &["GET", "orders:1"])?;
    ensure!(said == NO, "{said:?}");
    let rules = policy("redis", "backend", RULES);
    node.change(|node| node.write("policies/redis.yaml", rules))
}

/// As those of HTTP: both ends see at once that it is over.
fn a_proxy_that_dies_takes_its_connections_along(shop: &Shop) -> Result<()> {
    let mut connection = open(shop)?;
    shop.world.node.kill_proxy()?;
    let ended = connection.read(&mut [0]);
    let reset = ended.as_ref().map_err(|error| error.kind());
    ensure!(reset == Err(ErrorKind::ConnectionReset), "{ended:?}");
    eventually("the server has no connection of a client", || {
        let list = shop.backend.run("redis-cli", &["CLIENT", "LIST"])?;
        let list = String::from_utf8_lossy(&list.stdout).into_owned();
        let client = format!(" addr={}:", shop.frontend.v4);
        ensure!(!list.contains(&client), "{list}");
        Ok(())
    })?;
    eventually("the next proxy serves", || {
        let said = cli(shop, &["GET", "orders:1"])?;
        ensure!(said == "1", "{said:?}");
        Ok(())
    })
}
