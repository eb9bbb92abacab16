//! `serverNames`: what a client asks for before it encrypts decides, whatever it looks like
//! on the wire; what passes is the server's own TLS, untouched.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tidegate_tests::harness::{Curl, Place, server, tls};

use crate::shop::{Shop, policy, together};

const PORT: u16 = 8443;
/// A port that is named likewise, and speaks first.
const GREETS: u16 = 8025;

/// The backend may be asked by frontends for these.
const INGRESS: &str = r#"
  ingress:
  - fromEndpoints: [{matchLabels: {app: frontend}}]
    toPorts:
    - ports: [{port: "8443", protocol: TCP}, {port: "8025", protocol: TCP}]
      serverNames: [API.example., "*.shop.example"]
  - fromEndpoints: [{matchLabels: {app: stranger}}]
"#;

/// Strangers may ask anybody for this.
const EGRESS: &str = r#"
  egress:
  - toPorts:
    - ports: [{port: "8443", protocol: TCP}]
      serverNames: ["**.example.org"]
"#;

/// Alerts (RFC 8446 §6).
const ACCESS_DENIED: u8 = 49;
const DECODE_ERROR: u8 = 50;
const UNRECOGNIZED_NAME: u8 = 112;

#[test]
fn a_connection_passes_by_the_name_it_asks_for() -> Result<()> {
    let mut shop = Shop::open()?;
    let _server = tls::nginx(&shop.backend, PORT, &shop.world.dir())?;
    server::tcp(&shop.backend, GREETS, |mut stream| {
        stream.write_all(b"220 hello\r\n")
    })?;
    let node = &shop.world.node;
    node.write("policies/in.yaml", policy("tls", "backend", INGRESS))?;
    node.write("policies/out.yaml", policy("names", "stranger", EGRESS))?;
    shop.world.node.start()?;
    together!(&shop;
        real_clients_reach_the_names_that_are_listed,
        what_is_not_listed_is_refused_with_an_alert_and_told,
        however_a_hello_is_cut_it_is_read,
        a_second_hello_asks_for_the_same,
        what_is_no_hello_is_refused,
        explain_and_metrics_tell_of_names,
        half_hellos_have_no_more_than_their_clients_memory,
        who_lost_the_name_loses_the_connection,
    )
}

/// A request for `name` to the backend.
fn ask(shop: &Shop, name: &str, arguments: &[&str]) -> Curl {
    let resolve = format!("{name}:{PORT}:{},[{}]", shop.backend.v4, shop.backend.v6);
    Curl::get(format!("https://{name}:{PORT}/"))
        .with(&["--insecure", "--resolve", &resolve])
        .with(arguments)
}

fn real_clients_reach_the_names_that_are_listed(shop: &Shop) -> Result<()> {
    let old = ["--tls-max", "1.0", "--ciphers", "ALL:@SECLEVEL=0"];
    for (name, arguments, seen) in [
        ("api.example", &["-4"][..], "api.example TLSv1.3 HTTP/2.0"),
        (
            "a.shop.example",
            &["-6", "--http1.1"],
            "a.shop.example TLSv1.3 HTTP/1.1",
        ),
        (
            "api.example",
            &["--tls-max", "1.2"],
            "api.example TLSv1.2 HTTP/2.0",
        ),
        ("api.example", &old, "api.example TLSv1 HTTP/2.0"),
    ] {
        let answer = ask(shop, name, arguments).expect(&shop.frontend, 200)?;
        ensure!(
            answer.body.trim() == seen,
            "{name} {arguments:?}: {answer:?}"
        );
    }
    let record = shop
        .world
        .node
        .record(&["--protocol", "tls", "--verdict", "forwarded"], |record| {
            record["l7"]["serverName"] == "a.shop.example"
        })?;
    let rule = "shop/tls ingress[0].toPorts[0].serverNames[1]";
    ensure!(record["rules"] == json!([rule]), "{record}");
    ensure!(record["l7"]["version"] == "TLS 1.3", "{record}");
    ensure!(record["l7"]["alpn"] == json!(["http/1.1"]), "{record}");
    // The source's policy asks, too.
    ask(shop, "www.example.org", &["-6"]).expect(&shop.stranger, 200)?;
    Ok(())
}

fn what_is_not_listed_is_refused_with_an_alert_and_told(shop: &Shop) -> Result<()> {
    /// curl's "problem with the handshake".
    const HANDSHAKE: i64 = 35;
    for (place, name) in [
        (&shop.frontend, "other.example"),
        (&shop.frontend, "shop.example"),
        (&shop.frontend, "a.b.shop.example"),
        (&shop.stranger, "api.example"),
        (&shop.stranger, "example.org"),
    ] {
        let answer = ask(shop, name, &[]).from(place)?;
        ensure!(
            answer.exit == HANDSHAKE && answer.error.contains("unrecognized name"),
            "{name}: {answer:?}"
        );
        let told = dropped(shop, |l7| l7["serverName"] == name)?;
        ensure!(told["l7"]["alert"] == UNRECOGNIZED_NAME, "{told}");
        ensure!(told["noneMatched"] == true, "{told}");
        let rule = match place.name() == shop.frontend.name() {
            true => "shop/tls ingress[0].toPorts[0].serverNames[0]",
            false => "shop/names egress[0].toPorts[0].serverNames[0]",
        };
        ensure!(told["rules"] == json!([rule]), "{told}");
    }
    let bare = format!("https://{}:{PORT}/", shop.backend.v4);
    let answer = Curl::get(bare).with(&["--insecure"]).from(&shop.frontend)?;
    ensure!(
        answer.exit == HANDSHAKE && answer.error.contains("access denied"),
        "{answer:?}"
    );
    dropped(shop, |l7| l7["status"] == "it asks for no server name")?;
    Ok(())
}

/// The record of a refusal.
fn dropped(shop: &Shop, of: impl Fn(&Value) -> bool) -> Result<Value> {
    let filters = ["--protocol", "tls", "--verdict", "dropped"];
    shop.world.node.record(&filters, |record| of(&record["l7"]))
}

fn however_a_hello_is_cut_it_is_read(shop: &Shop) -> Result<()> {
    let mut connection = connect(&shop.frontend, shop, PORT)?;
    for byte in records(&hello(&["api.example"]), 1) {
        connection.write_all(&[byte])?;
    }
    ensure!(
        answered(&mut connection)?[..2] == [22, 3],
        "no answer of the server"
    );
    let mut connection = connect(&shop.frontend, shop, PORT)?;
    for byte in records(&hello(&["other.example"]), 1) {
        // It may be refused before the last.
        let _ = connection.write_all(&[byte]);
    }
    let answer = answered(&mut connection)?;
    ensure!(
        answer == [21, 3, 3, 0, 2, 2, UNRECOGNIZED_NAME],
        "{answer:?}"
    );
    Ok(())
}

fn a_second_hello_asks_for_the_same(shop: &Shop) -> Result<()> {
    let first = records(&hello(&["api.example"]), 1 << 14);
    // After the server has asked for it, and before.
    for waits in [true, false] {
        let mut connection = connect(&shop.frontend, shop, PORT)?;
        connection.write_all(&first)?;
        if waits {
            let retry = answered(&mut connection)?;
            ensure!(
                retry[..2] == [22, 3] && retry[5] == 2,
                "no server's hello: {retry:?}"
            );
        }
        connection.write_all(&records(&hello(&["other.example"]), 1 << 14))?;
        let mut all = Vec::new();
        // It ends with a reset.
        let _ = connection.read_to_end(&mut all);
        ensure!(
            all.ends_with(&[21, 3, 3, 0, 2, 2, ACCESS_DENIED]),
            "waits: {waits}, {all:?}"
        );
    }
    let told = dropped(shop, |l7| {
        l7["status"] == "a second ClientHello asks for another name"
    })?;
    ensure!(told["l7"]["serverName"] == "api.example", "{told}");
    Ok(())
}

fn what_is_no_hello_is_refused(shop: &Shop) -> Result<()> {
    let twice = records(&hello(&["api.example", "other.example"]), 1 << 14);
    let mut empty = records(&hello(&["api.example"]), 20);
    empty.splice(25..25, [22, 3, 1, 0, 0]);
    let ssl2 = [&[0x80, 46, 1, 0, 2][..], &[0; 43]].concat();
    for (said, answer, status) in [
        (
            &b"GET / HTTP/1.1\r\nHost: api.example\r\n\r\n"[..],
            None,
            "not TLS",
        ),
        (&ssl2, None, "an SSL 2 hello"),
        (&twice, Some(ACCESS_DENIED), "it asks for several names"),
        (
            &empty,
            Some(DECODE_ERROR),
            "malformed ClientHello: a record of an impossible length",
        ),
    ] {
        let mut connection = connect(&shop.frontend, shop, GREETS)?;
        connection.write_all(said)?;
        let got = answered(&mut connection).unwrap_or_default();
        ensure!(got.last().copied() == answer, "{status}: {got:?}");
        dropped(shop, |l7| l7["status"] == status)?;
    }
    let half = records(&hello(&["api.example"]), 1 << 14);
    let mut connection = connect(&shop.frontend, shop, GREETS)?;
    connection.write_all(&half[..20])?;
    connection.shutdown(std::net::Shutdown::Write)?;
    dropped(shop, |l7| l7["status"] == "it ended within its ClientHello")?;
    Ok(())
}

/// More hellos under way than there is memory for: the client loses some of them, and others
/// lose nothing.
fn half_hellos_have_no_more_than_their_clients_memory(shop: &Shop) -> Result<()> {
    let mut message = vec![1, 0, 0xfd, 0xe8];
    message.resize(60_000, 0);
    let half = records(&message, 1 << 14);
    let mut open = Vec::new();
    for _ in 0..900 {
        let mut connection = connect(&shop.frontend, shop, PORT)?;
        // One that was cut off already is what this is about.
        let _ = connection.write_all(&half);
        open.push(connection);
    }
    let no_memory = |record: &Value| record["error"] == "no memory is left for this client";
    shop.world
        .node
        .record(&["--error", "overload"], no_memory)?;
    ask(shop, "www.example.org", &["-6"]).expect(&shop.stranger, 200)?;
    Ok(())
}

fn explain_and_metrics_tell_of_names(shop: &Shop) -> Result<()> {
    let node = &shop.world.node;
    let to = format!("{}:{PORT}", shop.backend.v4);
    let text = node.text(&["explain", "frontend", &to])?;
    for line in ["tls: asks for api.example", "tls: asks for *.shop.example"] {
        ensure!(text.contains(line), "{text}");
    }
    let metrics = Curl::get("http://127.0.0.1:9965/metrics").expect(node.place(), 200)?;
    let counted = r#"tidegate_tls_hellos_total{version="TLS 1.3",verdict="DROPPED"}"#;
    ensure!(metrics.body.contains(counted), "{}", metrics.body);
    Ok(())
}

/// Bytes of a connection that encrypts are not looked at; its name is, as long as it lives.
fn who_lost_the_name_loses_the_connection(shop: &Shop) -> Result<()> {
    let node = &shop.world.node;
    let target = format!("{}:{PORT}", shop.backend.v4);
    // Each says something now and then: a flow is decided anew with its next packet.
    let client = |name: &str| {
        let client = format!("openssl s_client -quiet -connect {target} -servername {name}");
        let script = format!("while sleep 0.1; do echo; done | {client}");
        let label = format!("s_client-{name}");
        shop.frontend.spawn(&label, "sh", &["-c", &script])
    };
    let (mut loses, mut keeps) = (client("b.shop.example")?, client("api.example")?);
    for name in ["b.shop.example", "api.example"] {
        node.record(&["--protocol", "tls", "--verdict", "forwarded"], |record| {
            record["l7"]["serverName"] == name
        })?;
    }
    let fewer = INGRESS.replace(", \"*.shop.example\"", "");
    node.change(|node| node.write("policies/in.yaml", policy("tls", "backend", &fewer)))?;
    loses.wait(Duration::from_secs(3))?;
    let told = dropped(shop, |l7| l7["status"] == "its rules have changed")?;
    ensure!(told["l7"]["serverName"] == "b.shop.example", "{told}");
    keeps.check_alive()
}

fn connect(place: &Place, shop: &Shop, port: u16) -> Result<TcpStream> {
    server::connect(place, (shop.backend.v4, port))
}

/// What is answered first; nothing if the connection ends.
fn answered(connection: &mut TcpStream) -> Result<Vec<u8>> {
    let mut bytes = vec![0; 4_096];
    let count = connection.read(&mut bytes).context("no answer")?;
    bytes.truncate(count);
    Ok(bytes)
}

/// A hello of TLS 1.3 for these names that offers no key, so that the server has to ask for
/// another one.
fn hello(names: &[&str]) -> Vec<u8> {
    let prefixed = |bytes: &[u8]| {
        let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        [&length.to_be_bytes(), bytes].concat()
    };
    let entries = names
        .iter()
        .map(|name| [&[0][..], &prefixed(name.as_bytes())].concat());
    let list: Vec<u8> = entries.flatten().collect();
    let extensions: Vec<u8> = [
        (0, prefixed(&list)),
        // Versions, curves, signatures, keys.
        (43, vec![2, 3, 4]),
        (10, vec![0, 2, 0, 25]),
        (13, vec![0, 4, 4, 3, 8, 4]),
        (51, vec![0, 0]),
    ]
    .iter()
    .flat_map(|(kind, content): &(u16, Vec<u8>)| {
        [&kind.to_be_bytes()[..], &prefixed(content)].concat()
    })
    .collect();
    let mut body = vec![3, 3];
    body.extend([9; 32]);
    // No session, one suite, no compression.
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    body.extend(prefixed(&extensions));
    let [_, high, middle, low] = u32::try_from(body.len()).unwrap_or(0).to_be_bytes();
    [&[1, high, middle, low][..], &body].concat()
}

/// A message in records of `size` bytes.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    let record = |part: &[u8]| {
        let length = u16::try_from(part.len()).unwrap_or(u16::MAX);
        [&[22, 3, 1][..], &length.to_be_bytes(), part].concat()
    };
    message.chunks(size).flat_map(record).collect()
}
