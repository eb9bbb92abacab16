//! Filters that see bodies, between real clients and servers: uploads and downloads, whole and
//! as they come, one filter behind the other, and filters that misbehave.

use std::fs;

use anyhow::{Result, ensure};
use tidegate_tests::harness::{Curl, tag::repository};

use crate::shop::{H2, HTTP, Shop};

fn policy() -> String {
    let bound = |plugin: &str, config: &str| {
        format!(
            "---
apiVersion: tidegate.io/v1alpha1
kind: PluginBinding
metadata: {{name: {plugin}, namespace: shop}}
spec:
  endpointSelector: {{matchLabels: {{app: backend}}}}
  direction: ingress
  toPorts: [{HTTP}, {H2}]
  plugin: {plugin}
  config: {config}
  failMode: closed
"
        )
    };
    let open = crate::shop::policy(
        "open",
        "backend",
        &format!(
            "
  ingress:
  - fromEndpoints: [{{}}]
    toPorts: [{{ports: [{{port: \"{HTTP}\", protocol: TCP}}, {{port: \"{H2}\", protocol: TCP}}]}}]
"
        ),
    );
    open + &bound("meddle", "{}") + &bound("card-filter", "{types: [text/]}")
}

#[test]
fn bodies_are_seen_changed_and_refused_both_ways() -> Result<()> {
    let mut shop = Shop::open()?;
    let artifacts = repository().join("target/artifacts");
    for (from, name) in [("guests", "meddle"), ("examples", "card-filter")] {
        let file = artifacts.join(from).join(format!("{name}.wasm"));
        shop.world
            .node
            .copy(&file, &format!("plugins/{name}.wasm"))?;
    }
    shop.world.node.write("policies/bodies.yaml", policy())?;
    shop.world.node.start()?;
    let home = shop.world.dir().join(format!("nginx-backend-1-{HTTP}"));
    let words = "a card 4111 1111 1111 1111, none 4111111111111112\n";
    fs::write(home.join("static/words"), words.repeat(3_000))?;
    let own = shop.world.dir().join("upload");
    let sent: Vec<u8> = (0..32 << 20).map(|at| b'a' + (at / 7 % 23) as u8).collect();
    fs::write(&own, &sent)?;
    let upload = own.display().to_string();
    {
        let (port, version) = (HTTP, "--http1.1");
        let ask = |path: &str| {
            Curl::get(shop.url(port, path))
                .with(&[version])
                .give_up_after(60)
        };
        let put = |path: &str, see: &str, how: &str| {
            ask(path)
                .method("PUT")
                .header(&format!("x-see: {see}"))
                .header(&format!("x-how: {how}"))
        };
        let stored = |name: &str| fs::read(home.join("files").join(name)).unwrap_or_default();
        let name = |what: &str| format!("{what}{port}");
        let path = |what: &str| format!("/files/{}", name(what));

        // What a client uploads, as a whole.
        put(&path("upper"), "whole", "upper")
            .with(&["--data-binary", "hello"])
            .expect(&shop.frontend, 201)?;
        ensure!(
            stored(&name("upper")) == b"HELLO",
            "{version}: it was changed"
        );
        let refused = put(&path("bad"), "whole", "refuse")
            .with(&["--data-binary", "hello"])
            .expect(&shop.frontend, 422)?;
        ensure!(
            refused.body == "unwanted\n",
            "{version}: in the filter's words: {refused:?}"
        );
        ensure!(
            refused.headers.contains("x-why: body"),
            "{version}: {}",
            refused.headers
        );
        ensure!(
            stored(&name("bad")).is_empty(),
            "{version}: nothing reached the server"
        );
        // An offer to upgrade is shown as a message without a body.
        ask("/static/words")
            .header("x-see: whole=100")
            .header("x-how: refuse")
            .header("upgrade: websocket")
            .header("connection: upgrade")
            .expect(&shop.frontend, 422)?;
        put(&path("long"), "whole=4", "")
            .with(&["--data-binary", "hello"])
            .expect(&shop.frontend, 413)?;
        // One that waits to be told (100-continue), and one without a length.
        put(&path("told"), "whole", "upper")
            .header("expect: 100-continue")
            .with(&["--data-binary", "told"])
            .expect(&shop.frontend, 201)?;
        ensure!(
            stored(&name("told")) == b"TOLD",
            "{version}: who waited was told to go on"
        );

        // As it comes, far more than is ever held.
        put(&path("large"), "window=16000", "upper")
            .with(&["--upload-file", &upload])
            .expect(&shop.frontend, 201)?;
        ensure!(
            stored(&name("large")) == sent.to_ascii_uppercase(),
            "{version}: all of it"
        );
        let late = put(&path("late"), "window", "refuse")
            .with(&["--upload-file", &upload])
            .from(&shop.frontend)?;
        ensure!(
            late.status != 201,
            "{version}: refused in the middle: {late:?}"
        );
        ensure!(
            stored(&name("late")).is_empty(),
            "{version}: half of it is not stored as if whole"
        );

        // What the server sends: two filters, one behind the other.
        let seen = ask("/static/words?see=window&how=upper").expect(&shop.frontend, 200)?;
        let expected = "A CARD **** **** **** 1111, NONE 4111111111111112\n".repeat(3_000);
        ensure!(seen.body == expected, "{version}: masked in upper case");
        let whole =
            ask("/static/words?see=whole=1000000&how=length").expect(&shop.frontend, 200)?;
        let length = format!("x-length: {}", words.len() * 3_000);
        ensure!(
            whole.headers.contains(&length),
            "{version}: a head that waited: {}",
            whole.headers
        );
        ask("/static/words?see=whole=10").expect(&shop.frontend, 502)?;
        let made = ask("/static/words?see=reply").expect(&shop.frontend, 201)?;
        ensure!(
            made.body == "made here\n" && made.headers.contains("x-made: here"),
            "{made:?}"
        );
        let cut = ask("/static/words?see=window=100&how=refuse").from(&shop.frontend)?;
        ensure!(
            cut.exit != 0 || cut.status == 422,
            "{version}: cut off, not ended: {cut:?}"
        );
    }
    // Who misbehaves costs its own message.
    let no = |port, version: &str, how: &str| {
        Curl::get(shop.url(port, "/files/no"))
            .with(&[version, "--data-binary", "hello"])
            .method("PUT")
            .header("x-see: whole")
            .header(&format!("x-how: {how}"))
            .from(&shop.frontend)
    };
    for how in ["trap", "spin", "hold", "greed", "flood"] {
        let answer = no(HTTP, "--http1.1", how)?;
        ensure!(answer.status == 503, "{how}: {answer:?}");
    }
    // Bodies are not shown over HTTP/2. (A curl that has not sent all of its body when it is
    // answered and reset may say that it was reset.)
    let answer = no(H2, "--http2-prior-knowledge", "upper")?;
    ensure!(
        answer.status == 503 || answer.exit == 92,
        "over HTTP/2: {answer:?}"
    );
    shop.world.node.record(&["--verdict", "error"], |record| {
        record["l7"]["version"] == "HTTP/2" && record["l7"]["status"] == 503
    })?;
    ensure!(!home.join("files/no").exists(), "fail mode closed");
    Ok(())
}
