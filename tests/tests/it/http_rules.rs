//! Decided in the proxy, request by request.

use std::{
    io::{Read as _, Write as _},
    time::Duration,
};

use anyhow::{Result, ensure};
use tidegate_tests::harness::{Curl, Place, server};

use crate::shop::{H2, HTTP, PEER, Shop, policy, read_head, together};

#[test]
fn rules_of_the_proxy() -> Result<()> {
    let shop = Shop::running()?;
    together!(&shop;
        what_no_rule_allows_is_answered_403_and_attributed,
        a_path_is_judged_as_the_server_will_read_it,
        keep_alive_carries_allowed_and_refused_requests_on_one_connection,
        http2_without_tls_is_filtered_stream_by_stream,
        requests_that_could_be_read_in_two_ways_are_refused,
    )
}

fn what_no_rule_allows_is_answered_403_and_attributed(shop: &Shop) -> Result<()> {
    for url in [shop.url(HTTP, "/api/users"), shop.url6(HTTP, "/api/users")] {
        Curl::get(url).expect(&shop.frontend, 200)?;
    }
    for url in [shop.url(HTTP, "/admin"), shop.url6(HTTP, "/admin")] {
        let answer = Curl::get(url).expect(&shop.frontend, 403)?;
        assert_eq!(answer.body, "Access denied\r\n");
    }
    let drop = shop
        .world
        .node
        .record(&["--protocol", "http", "--verdict", "dropped"], |_| true)?;
    assert_eq!(drop["l7"]["method"], "GET");
    assert_eq!(drop["l7"]["status"], 403);
    assert!(
        drop["l7"]["url"]
            .as_str()
            .is_some_and(|url| url.ends_with("/admin")),
        "{drop}"
    );
    assert!(
        drop["rules"][0]
            .as_str()
            .is_some_and(|rule| rule.contains("shop/backend")),
        "{drop}"
    );
    // Who may not connect at all does not get as far as a 403.
    Curl::get(shop.url(HTTP, "/api/users")).expect_dropped(&shop.stranger)
}

fn a_path_is_judged_as_the_server_will_read_it(shop: &Shop) -> Result<()> {
    for path in [
        "/api/../admin",
        "/api/%2e%2e/admin",
        "/admin/%2e/",
        "//admin",
    ] {
        Curl::get(shop.url(HTTP, path))
            .with(&["--path-as-is"])
            .expect(&shop.frontend, 403)?;
    }
    // What some server reads as `/admin` and no rule does.
    for path in [
        "/api/..;/admin",
        "/api/..;a=b/admin",
        "/api/%2e%2e;/admin",
        "/api/..%3b/admin",
        "/api/%252e%252e/admin",
        "/api/%252e%252e%252fadmin",
        "/api/%c0%ae%c0%ae/admin",
        "/;x/admin",
    ] {
        for port in [HTTP, H2] {
            let version = match port {
                H2 => "--http2-prior-knowledge",
                _ => "--http1.1",
            };
            Curl::get(shop.url(port, path))
                .with(&["--path-as-is", version])
                .expect(&shop.frontend, 400)?;
        }
    }
    let record = shop
        .world
        .node
        .record(&["--error", "clientProtocol"], |record| {
            record.to_string().contains("ambiguous path")
        })?;
    assert_eq!(record["l7"]["status"], 400);
    for path in ["/x/../api/y", "/api/a;b=c/d", "/api/100%25"] {
        Curl::get(shop.url(HTTP, path))
            .with(&["--path-as-is"])
            .expect(&shop.frontend, 200)?;
    }
    Ok(())
}

fn keep_alive_carries_allowed_and_refused_requests_on_one_connection(shop: &Shop) -> Result<()> {
    let urls = ["/api/1", "/admin", "/api/2"].map(|path| shop.url(HTTP, path));
    let out = shop.frontend.run(
        "curl",
        &[
            "-s",
            "-o",
            "/dev/null",
            "-o",
            "/dev/null",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code} %{num_connects}\\n",
        ]
        .map(str::to_owned)
        .into_iter()
        .chain(urls)
        .collect::<Vec<_>>(),
    )?;
    assert_eq!(
        String::from_utf8_lossy(&out.stdout),
        "200 1\n403 0\n200 0\n"
    );
    Ok(())
}

fn http2_without_tls_is_filtered_stream_by_stream(shop: &Shop) -> Result<()> {
    let h2 = |path: &str| Curl::get(shop.url(H2, path)).with(&["--http2-prior-knowledge"]);
    let answer = h2("/api/users").expect(&shop.frontend, 200)?;
    assert!(
        answer.headers.starts_with("HTTP/2 200"),
        "{}",
        answer.headers
    );
    h2("/admin").expect(&shop.frontend, 403)?;

    // Three streams at once on one connection, the middle one refused.
    let urls = ["/api/1", "/admin", "/api/2"].map(|path| shop.url(H2, path));
    let out = shop.frontend.run(
        "nghttp",
        &[vec!["-n".into(), "-s".into()], urls.to_vec()].concat(),
    )?;
    let text = String::from_utf8_lossy(&out.stdout);
    assert_eq!(text.matches(" 200 ").count(), 2, "{text}");
    assert_eq!(text.matches(" 403 ").count(), 1, "{text}");
    Ok(())
}

fn requests_that_could_be_read_in_two_ways_are_refused(shop: &Shop) -> Result<()> {
    for head in [
        "GET /api/x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET /api/x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n",
        "GET /api/x HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET /api/x HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
    ] {
        let mut stream =
            tidegate_tests::harness::server::connect(&shop.frontend, (shop.backend.v4, HTTP))?;
        stream.write_all(head.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{head:?}: {answer:?}");
    }
    Ok(())
}

/// Two ways to make the proxy stop reading, against a server that goes along: a change to
/// HTTP/2 in the middle of HTTP/1, under every spelling it understands, and CONNECT.
#[test]
fn nobody_talks_the_proxy_into_looking_away() -> Result<()> {
    let mut shop = Shop::open()?;
    let (_server, files) = server::lighttpd(&shop.backend, PEER, &shop.world.dir())?;
    std::fs::create_dir_all(files.join("api"))?;
    std::fs::write(files.join("api/x"), "public")?;
    std::fs::write(files.join("admin"), "secret")?;
    server::http_echo(&shop.backend, TUNNEL)?;
    shop.world.node.write(
        "policies/backend.yaml",
        policy("backend", "backend", LOOKING),
    )?;
    shop.world.node.start()?;

    // The request that is judged, and behind it HTTP/2 with one for `/admin`.
    let talk = |place: &Place, address: std::net::Ipv4Addr, offer: &str| -> Result<String> {
        let mut stream = server::connect(place, (address, PEER))?;
        let head = format!("GET /api/x HTTP/1.1\r\nHost: a\r\n{offer}\r\n");
        stream.write_all(head.as_bytes())?;
        stream.write_all(PREFACE_AND_ADMIN)?;
        let mut answer = Vec::new();
        stream.set_read_timeout(Some(Duration::from_millis(300)))?;
        // Silence is an end too: both versions keep their connections.
        let _ = stream.read_to_end(&mut answer);
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let spelled = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c;q=1\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n";
    let direct = talk(&shop.backend, std::net::Ipv4Addr::LOCALHOST, spelled)?;
    ensure!(
        direct.starts_with("HTTP/1.1 101") && direct.contains("secret"),
        "the server does not do what this test is about: {direct:?}"
    );
    for name in ["h2c;q=1", "h2c", "h2c foo", "websocket, h2c", "H2C/1"] {
        let answer = talk(
            &shop.frontend,
            shop.backend.v4,
            &spelled.replace("h2c;q=1", name),
        )?;
        ensure!(
            answer.starts_with("HTTP/1.1 200") && answer.contains("public"),
            "{name}: {answer:?}"
        );
        ensure!(
            !answer.contains("101 ") && !answer.contains("secret"),
            "{name}: {answer:?}"
        );
    }

    let connect = |target: &str| -> Result<(String, std::net::TcpStream)> {
        let mut stream = server::connect(&shop.frontend, (shop.backend.v4, TUNNEL))?;
        let head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        Ok((read_head(&mut stream)?, stream))
    };
    let (head, _) = connect("web:80")?;
    ensure!(
        head.starts_with("HTTP/1.1 403"),
        "by a rule about hosts: {head}"
    );
    let record = shop
        .world
        .node
        .record(&["--verdict", "dropped"], |record| {
            record["l7"]["method"] == "CONNECT"
        })?;
    assert_eq!(record["l7"]["status"], 403);
    let (head, mut tunnel) = connect("tunnel:80")?;
    ensure!(
        head.starts_with("HTTP/1.1 200"),
        "by a rule about it: {head}"
    );
    tunnel.write_all(b"any bytes")?;
    let mut back = [0; 9];
    tunnel.read_exact(&mut back)?;
    assert_eq!(&back, b"any bytes");
    Ok(())
}

/// Port of a server that answers CONNECT.
const TUNNEL: u16 = 8084;

/// What the frontend may ask the servers of the test above.
const LOOKING: &str = r#"
  ingress:
  - fromEndpoints: [{matchLabels: {app: frontend}}]
    toPorts:
    - ports: [{port: "8082", protocol: TCP}]
      rules:
        http: [{path: "/api/.*"}]
    - ports: [{port: "8084", protocol: TCP}]
      rules:
        http: [{host: "web:80"}, {method: CONNECT, host: "tunnel:80"}]
"#;

/// HTTP/2's preface, empty SETTINGS, and on stream 3 a GET of `/admin` from host `a` in
/// HPACK: indexed `:method: GET` and `:scheme: http`, literal `:path` and `:authority`.
const PREFACE_AND_ADMIN: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\
    \x00\x00\x00\x04\x00\x00\x00\x00\x00\
    \x00\x00\x0d\x01\x05\x00\x00\x00\x03\x82\x86\x04\x06/admin\x01\x01a";
