//! Filters made for Envoy and Istio: dropped in like any other plugin, they do on real traffic
//! what they do in the real Envoy.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tidegate_tests::harness::{
    Answer, Curl, Place,
    envoy::{self, Judged},
    eventually,
    tag::repository,
};

use crate::shop::Shop;

/// Bindings, in the order of their ports: a module and its configuration.
const BOUND: [(&str, &str); 8] = [
    ("sample", "headers"),
    ("sample", "reply"),
    ("sample", "properties"),
    ("sample", "metrics"),
    ("sample", "body"),
    ("sample", "shared"),
    ("token", "a shared key"),
    (
        "firewall",
        "path (?i)/etc/passwd\nheader \\$\\{jndi:\nbody (?i)union\\s+select",
    ),
];

/// First ports: of HTTP/1.1, of HTTP/2, and of Envoy.
const H1: u16 = 8100;
const H2: u16 = 8200;
const ENVOY: u16 = 8300;

const TOKEN: &str = include_str!("../../../host/tests/data/token.txt");

/// Everything is open, and a filter stands before each port.
fn documents() -> String {
    let ports: Vec<_> = (0..)
        .zip(BOUND)
        .flat_map(|(n, _)| [H1 + n, H2 + n])
        .map(|port| json!({"port": port.to_string(), "protocol": "TCP"}))
        .collect();
    let open = json!({
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": "open", "namespace": "shop"},
        "spec": {
            "endpointSelector": {"matchLabels": {"app": "backend"}},
            "ingress": [{"fromEndpoints": [{}], "toPorts": [{"ports": ports}]}],
        },
    });
    // Over HTTP/2 no body is shown.
    let of_h2 = |config: &str| json!({"pluginConfig": config, "bodies": false});
    let heads = (0_u16..).zip(BOUND);
    let heads = heads.map(|(n, (plugin, config))| (H2 + n, plugin, of_h2(config)));
    let all = (0_u16..).zip(BOUND);
    let all = all.map(|(n, (plugin, config))| (H1 + n, plugin, json!(config)));
    let bindings = all.chain(heads).map(|(port, plugin, config)| {
        json!({
            "apiVersion": "tidegate.io/v1alpha1",
            "kind": "PluginBinding",
            "metadata": {"name": format!("bound-{port}"), "namespace": "shop"},
            "spec": {
                "endpointSelector": {"matchLabels": {"app": "backend"}},
                "direction": "ingress",
                "toPorts": [port],
                "plugin": plugin,
                "config": config,
            },
        })
    });
    let all: Vec<String> = [open]
        .into_iter()
        .chain(bindings)
        .map(|one| one.to_string())
        .collect();
    all.join("\n---\n")
}

/// What a client sees of an answer, as far as hosts may not differ.
#[derive(Debug, PartialEq)]
struct Seen {
    status: u64,
    fields: BTreeMap<String, Vec<String>>,
    body: String,
}

fn seen(answer: &Answer) -> Seen {
    let mut fields: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in answer.headers.lines() {
        let Some((name, value)) = line.split_once(": ") else {
            continue;
        };
        let name = name.to_ascii_lowercase();
        // What is not there has no type.
        if name == "content-type" && answer.body.is_empty() {
            continue;
        }
        let own = name.starts_with("x-") && !name.starts_with("x-envoy") && name != "x-host";
        if own || ["content-type", "www-authenticate", "server"].contains(&&*name) {
            fields
                .entry(name)
                .or_default()
                .push(value.trim().to_owned());
        }
    }
    Seen {
        status: answer.status,
        fields,
        body: answer.body.clone(),
    }
}

/// Requests, by the binding they go to: a path and what else curl is told.
fn requests() -> Vec<(usize, &'static str, Vec<String>)> {
    let own = |arguments: &[&str]| arguments.iter().map(ToString::to_string).collect();
    let bearer = format!("authorization: Bearer {}", TOKEN.trim());
    let fields = [
        "-H",
        "X-Two: 1",
        "-H",
        "x-two: 2",
        "-H",
        "x-empty;",
        "-H",
        "x-removed: r",
        "-H",
        "x-replaced: r",
    ];
    vec![
        (0, "/a?b", own(&fields)),
        (1, "/reply/418", own(&[])),
        (1, "/reply/302", own(&[])),
        (1, "/bare", own(&[])),
        (1, "/continues", own(&[])),
        (1, "/late", own(&[])),
        (1, "/fine", own(&[])),
        (2, "/a/b?c=d", own(&["-H", "x-probe: p"])),
        (3, "/", own(&[])),
        (3, "/", own(&[])),
        (4, "/", own(&[])),
        (4, "/", own(&["-d", "hello you"])),
        (4, "/", own(&["-d", "a secret"])),
        (
            4,
            "/",
            own(&["-H", "transfer-encoding: chunked", "-d", "in chunks"]),
        ),
        (6, "/", own(&[])),
        (6, "/", own(&["-H", "authorization: Bearer x.y.z"])),
        (6, "/", own(&["-H", &bearer, "-H", "x-subject: root"])),
        (7, "/?f=/etc/PASSWD", own(&[])),
        (7, "/", own(&["-H", "x-field: ${jndi:ldap"])),
        (7, "/", own(&["-d", "id=1 UNION  select 2"])),
        (7, "/", own(&["-d", "id=1"])),
        (7, "/", own(&[])),
    ]
}

#[test]
fn filters_made_for_envoy_do_here_what_they_do_there() -> Result<()> {
    let mut shop = Shop::open()?;
    let count = u16::try_from(BOUND.len())?;
    let (h1, h2): (Vec<u16>, Vec<u16>) = (0..count).map(|n| (H1 + n, H2 + n)).unzip();
    let dir = shop.world.dir();
    let _mirror = envoy::mirror(&shop.backend, &dir, &h1, &h2)?;
    let modules: Vec<_> = BOUND
        .iter()
        .map(|(name, _)| repository().join(format!("target/artifacts/filters/{name}.wasm")))
        .collect();
    for ((name, _), module) in BOUND.iter().zip(&modules) {
        shop.world
            .node
            .copy(module, &format!("plugins/{name}.wasm"))?;
    }
    shop.world.node.write("policies/bound.yaml", documents())?;
    shop.world.node.start()?;
    let judged: Vec<_> = (0..)
        .zip(BOUND.iter().zip(&modules))
        .map(|(n, ((name, config), module))| Judged {
            module,
            name,
            config,
            port: ENVOY + n,
            upstream: H1 + n,
        })
        .collect();
    let _envoy = envoy::start(&shop.backend, &dir, &judged)?;
    eventually("every filter is in force", || {
        let status = shop.world.node.status()?;
        let bindings = status["bindings"].as_array().context("no bindings")?;
        let active = bindings
            .iter()
            .filter(|binding| binding["state"] == "active");
        ensure!(active.count() >= 2 * BOUND.len(), "{bindings:#?}");
        Ok(())
    })?;
    let ask = |from: &Place, url: String, version: &str, more: &[String]| {
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        Curl::get(url).with(&[version]).with(&more).from(from)
    };
    let mut different = Vec::new();
    for (n, path, more) in requests() {
        let at = u16::try_from(n)?;
        let there = format!("http://127.0.0.1:{}{path}", ENVOY + at);
        let expected = seen(&ask(&shop.backend, there, "--http1.1", &more)?);
        ensure!(
            expected.status != 0,
            "Envoy gives no answer to {path} {more:?}"
        );
        for (port, version, spoken) in [
            (H1 + at, "--http1.1", "HTTP/1.1"),
            (H2 + at, "--http2-prior-knowledge", "HTTP/2"),
        ] {
            // One counts, and two look at bodies.
            if [3, 4, 7].contains(&n) && version != "--http1.1" {
                continue;
            }
            let mut expected = Seen {
                fields: expected.fields.clone(),
                body: expected.body.clone(),
                ..expected
            };
            if spoken == "HTTP/2" {
                // No field says so there.
                if let Some(end) = expected.fields.get_mut("x-end") {
                    *end = vec!["false".to_owned()];
                }
            }
            if let Some(protocol) = expected.fields.get_mut("x-protocol") {
                *protocol = vec![spoken.to_owned()];
            }
            let here = seen(&ask(&shop.frontend, shop.url(port, path), version, &more)?);
            if here != expected {
                different.push(format!(
                    "{:?} {path} {more:?} over {spoken}:\nEnvoy {expected:?}\nhere  {here:?}",
                    BOUND[n]
                ));
            }
        }
    }
    ensure!(different.is_empty(), "{}", different.join("\n\n"));
    // Time passes for them here, too, and what is in a queue is worked off.
    let shared = shop.url(H1 + 5, "/work");
    let first = Curl::get(shared.as_str()).expect(&shop.frontend, 200)?;
    ensure!(first.header("x-others-queue") == Some("None"), "{first:?}");
    eventually("ticks and queues", || {
        let answer = Curl::get(shop.url(H1 + 5, "/")).expect(&shop.frontend, 200)?;
        let number = |name| {
            answer
                .header(name)
                .and_then(|text| text.parse::<u64>().ok())
        };
        ensure!(
            number("x-ticks") > Some(0) && number("x-worked") == Some(1),
            "{answer:?}"
        );
        Ok(())
    })?;
    let listed = shop.world.node.json(&["plugin", "list"])?;
    let listed = listed.as_array().context("not a list")?.iter();
    let sample = listed.clone().find(|row| row["name"] == "sample");
    let sample = sample.context("`sample` is not listed")?;
    ensure!(sample["world"] == "proxy-wasm", "{sample}");
    Ok(())
}
