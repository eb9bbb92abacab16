//! What goes through the proxy goes through unchanged: addresses, ports and bytes.

use std::io::{ErrorKind, Read as _, Write as _};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tidegate_tests::harness::{Curl, Node, Peer, eventually, server};

use crate::shop::{HTTP, PEER, POLICY, Shop, read_head, together};

#[test]
fn through_the_proxy() -> Result<()> {
    let shop = Shop::with_peer()?;
    together!(&shop;
        the_server_sees_the_clients_own_address_and_port,
        bodies_stream_and_trailers_arrive,
        an_upgraded_connection_carries_any_bytes,
        large_bodies_arrive_whole,
        real_websockets_talk_through_the_proxy,
        a_steering_rule_that_somebody_removed_comes_back_and_nothing_slips_by,
    )
}

fn the_server_sees_the_clients_own_address_and_port(shop: &Shop) -> Result<()> {
    for (url, address) in [
        (shop.url(HTTP, "/api/x"), shop.frontend.v4.to_string()),
        (shop.url6(HTTP, "/api/x"), shop.frontend.v6.to_string()),
    ] {
        let answer = Curl::get(url).expect(&shop.frontend, 200)?;
        let seen = format!("backend-1 {address} {} GET", answer.local_port);
        assert!(
            answer.body.starts_with(&seen),
            "{} does not start with {seen}",
            answer.body
        );
    }
    let record = shop
        .world
        .node
        .record(&["--verdict", "redirected"], |_| true)?;
    assert_eq!(record["source"]["endpoint"], "shop/frontend");
    Ok(())
}

fn bodies_stream_and_trailers_arrive(shop: &Shop) -> Result<()> {
    let mut stream = server::connect(&shop.frontend, (shop.backend.v4, PEER))?;
    stream.write_all(
        b"POST /api/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n",
    )?;
    let head = read_head(&mut stream)?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
    // Each piece comes back before the next one is sent.
    for piece in [
        "5\r\nhello\r\n",
        "6\r\n world\r\n",
        "0\r\nx-sum: 11\r\n\r\n",
    ] {
        stream.write_all(piece.as_bytes())?;
        let mut back = vec![0; piece.len()];
        stream.read_exact(&mut back)?;
        assert_eq!(String::from_utf8_lossy(&back), piece);
    }
    Ok(())
}

fn an_upgraded_connection_carries_any_bytes(shop: &Shop) -> Result<()> {
    let mut stream = server::connect(&shop.frontend, (shop.backend.v4, PEER))?;
    stream.write_all(b"GET /api/ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")?;
    let head = read_head(&mut stream)?;
    ensure!(head.starts_with("HTTP/1.1 101"), "{head}");
    let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(100_000).collect();
    let mut back = vec![0; bytes.len()];
    let mut writer = stream.try_clone()?;
    let sent = bytes.clone();
    let sending = std::thread::spawn(move || writer.write_all(&sent));
    stream.read_exact(&mut back)?;
    sending.join().expect("the sending thread")?;
    assert!(back == bytes);
    // Somebody who vanishes would be noticed, at either end, though nobody says anything.
    eventually("both legs are asked whether somebody is there", || {
        let legs = ["-tnoH", "state", "established"];
        let legs = shop.world.node.place().run("ss", &legs)?;
        let legs = String::from_utf8_lossy(&legs.stdout).into_owned();
        let (client, server) = (stream.local_addr()?, stream.peer_addr()?);
        for (from, to) in [(server, client), (client, server)] {
            let of = |line: &&str| {
                let ends: Vec<_> = line.split_whitespace().skip(2).take(2).collect();
                ends == [from.to_string(), to.to_string()]
            };
            let leg = legs.lines().find(of);
            let leg = leg.with_context(|| format!("no leg from {from} to {to}: {legs}"))?;
            ensure!(leg.contains("timer:(keepalive,"), "{leg}");
        }
        Ok(())
    })?;
    // Nobody looks into it, so it is held to the request that opened it, by the rules of now.
    let others = |node: &Node, path: &str| {
        let policy = POLICY.replace("8081", &PEER.to_string());
        node.write("policies/backend.yaml", policy.replace("/api/.*", path))
    };
    shop.world
        .node
        .change(|node| others(node, "/(api|else)/.*"))?;
    stream.write_all(&bytes[..10])?;
    stream.read_exact(&mut back[..10])?;
    shop.world.node.change(|node| others(node, "/else/.*"))?;
    stream.write_all(&bytes[..10])?;
    let heard = stream.read(&mut back);
    ensure!(
        heard
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::ConnectionReset),
        "an open WebSocket outlives the rules that let it: {heard:?}"
    );
    shop.world.node.record(&["--verdict", "error"], |record| {
        record["error"] == "the rules of its tunnel have changed"
    })?;
    shop.world.node.change(|node| others(node, "/api/.*"))
}

/// Port of a real WebSocket server.
const WEB_SOCKET: u16 = PEER + 1;

fn real_websockets_talk_through_the_proxy(shop: &Shop) -> Result<()> {
    let _server = Peer::WebSocket.serve(&shop.backend, WEB_SOCKET)?;
    shop.world.node.change(|node| {
        let policy = POLICY.replace("8081", &WEB_SOCKET.to_string());
        node.write("policies/backend.yaml", policy)
    })?;
    for host in [
        shop.backend.v4.to_string(),
        format!("[{}]", shop.backend.v6),
    ] {
        let talk = |path: &str| {
            let url = format!("ws://{host}:{WEB_SOCKET}{path}");
            Peer::WebSocket.client(&shop.frontend, "talk", &url)
        };
        assert_eq!(
            talk("/api/ws")?,
            json!({"text": "hello", "large": true, "closed": 4001})
        );
        assert_eq!(talk("/admin/ws")?, json!({"refused": 403}));
    }
    Ok(())
}

fn large_bodies_arrive_whole(shop: &Shop) -> Result<()> {
    const SIZE: usize = 20 << 20;
    let dir = shop.world.dir().join(format!("nginx-backend-1-{HTTP}"));
    // Allowed by the policy's `/api/.*`.
    std::fs::create_dir_all(dir.join("static/api"))?;
    let file: Vec<u8> = (0..SIZE).map(|i| (i * 31 % 251) as u8).collect();
    std::fs::write(dir.join("static/api/big"), &file)?;
    shop.world.node.change(|node| {
        node.write(
            "policies/backend.yaml",
            POLICY.replace("/api/.*", "/(static/)?api/.*"),
        )
    })?;
    let copy = shop.world.dir().join("copy");
    let out = shop.frontend.run(
        "curl",
        &[
            "-s",
            "-o",
            &copy.display().to_string(),
            &shop.url(HTTP, "/static/api/big"),
        ],
    )?;
    assert!(out.status.success());
    assert!(std::fs::read(copy)? == file, "the file came back changed");
    Ok(())
}

fn a_steering_rule_that_somebody_removed_comes_back_and_nothing_slips_by(
    shop: &Shop,
) -> Result<()> {
    /// curl's code for silence.
    const TIMED_OUT: i64 = 28;
    let place = shop.world.node.place();
    place.configure(&["rule delete pref 9"])?;
    let refused = Curl::get(shop.url(HTTP, "/admin"))
        .give_up_after(1)
        .from(&shop.frontend)?;
    // Refused in words if the rule was back in time, else lost on its way.
    ensure!(
        matches!((refused.status, refused.exit), (403, 0) | (0, TIMED_OUT)),
        "passed uninspected: {refused:?}"
    );
    eventually("requests are filtered again", || {
        for (path, status) in [("/api/x", 200), ("/admin", 403)] {
            Curl::get(shop.url(HTTP, path))
                .give_up_after(1)
                .expect(&shop.frontend, status)?;
        }
        Ok(())
    })?;
    let rules = place.run("ip", &["rule", "list", "pref", "9"])?;
    ensure!(!rules.stdout.is_empty(), "the rule is not back");
    Ok(())
}
