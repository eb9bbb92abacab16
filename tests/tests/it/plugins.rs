//! Plugins: dropped in, replaced, broken, removed, and misbehaving.

use anyhow::{Context, Result, ensure};
use tidegate_tests::harness::{Curl, Node, eventually, load::Requests, tag::repository};

use crate::shop::{HTTP, Shop};

/// Opens the backend's HTTP port and binds one plugin to it.
fn binding(plugin: &str, fail_mode: &str) -> String {
    format!(
        r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: open, namespace: shop}}
spec:
  endpointSelector: {{matchLabels: {{app: backend}}}}
  ingress:
  - fromEndpoints: [{{}}]
    toPorts: [{{ports: [{{port: "{HTTP}", protocol: TCP}}]}}]
---
apiVersion: tidegate.io/v1alpha1
kind: PluginBinding
metadata: {{name: bound, namespace: shop}}
spec:
  endpointSelector: {{matchLabels: {{app: backend}}}}
  direction: ingress
  toPorts: [{HTTP}]
  plugin: {plugin}
  config: {{deny: [badbot]}}
  failMode: {fail_mode}
"#
    )
}

fn artifact(name: &str) -> std::path::PathBuf {
    repository().join("target/artifacts").join(name)
}

/// The shop with a plugin dropped in and bound.
fn shop_with(plugin: &str, file: &str, fail_mode: &str) -> Result<Shop> {
    let mut shop = Shop::open()?;
    let node = &shop.world.node;
    node.copy(&artifact(file), &format!("plugins/{plugin}.wasm"))?;
    node.write("policies/bound.yaml", binding(plugin, fail_mode))?;
    shop.world.node.start()?;
    Ok(shop)
}

fn bot(shop: &Shop) -> Curl {
    Curl::get(shop.url(HTTP, "/x")).with(&["--user-agent", "badbot"])
}

/// The plugin's row in `tidegate plugin list`.
fn listed(shop: &Shop, name: &str) -> Result<serde_json::Value> {
    let list = shop.world.node.json(&["plugin", "list"])?;
    let rows = list.as_array().context("not a list")?;
    let row = rows.iter().find(|row| row["name"] == name);
    row.cloned()
        .with_context(|| format!("no {name} in {list:#}"))
}

#[test]
fn a_plugin_dropped_in_later_takes_effect() -> Result<()> {
    let mut shop = Shop::open()?;
    let bound = binding("bot-filter", "closed");
    let (policy, _) = bound.split_once("---").context("two documents")?;
    shop.world.node.write("policies/bound.yaml", policy)?;
    shop.world.node.start()?;
    bot(&shop).expect(&shop.frontend, 200)?;
    shop.world.node.change(|node| {
        node.copy(
            &artifact("examples/bot-filter.wasm"),
            "plugins/bot-filter.wasm",
        )?;
        node.write("policies/bound.yaml", &bound)
    })?;
    eventually("the plugin is active", || {
        bot(&shop).expect(&shop.frontend, 403)
    })?;
    Curl::get(shop.url(HTTP, "/x")).expect(&shop.frontend, 200)?;
    // The proxy uses it before the agent has heard of that.
    eventually("the plugin is listed", || {
        let listed = listed(&shop, "bot-filter")?;
        ensure!(listed["version"] == "1.0.0", "{listed}");
        Ok(())
    })
}

#[test]
fn a_plugin_is_replaced_under_traffic_without_a_failed_request() -> Result<()> {
    let shop = shop_with("bot-filter", "examples/bot-filter.wasm", "closed")?;
    let url = shop.url(HTTP, "/api/");
    let mut load = Requests::start(&shop.frontend, &url, 1_000_000, "x-bot-filter")?;
    load.wait_for(300)?;
    shop.world.node.copy(
        &artifact("examples/bot-filter-v2.wasm"),
        "plugins/bot-filter.wasm",
    )?;
    load.wait_for_mark("v2")?;
    load.wait_for_more(300)?;
    let outcomes = load.end()?;
    let failed: Vec<_> = outcomes
        .iter()
        .filter(|outcome| outcome.status != 200)
        .collect();
    ensure!(
        failed.is_empty(),
        "{} failed: {:?}",
        failed.len(),
        failed[0]
    );
    let first_v2 = outcomes
        .iter()
        .position(|outcome| outcome.mark == "v2")
        .context("no v2")?;
    ensure!(
        outcomes[first_v2..].iter().all(|o| o.mark == "v2"),
        "the old version came back"
    );
    assert_eq!(listed(&shop, "bot-filter")?["version"], "2.0.0");
    Ok(())
}

#[test]
fn a_broken_module_is_refused_with_a_reason_and_the_old_one_stays() -> Result<()> {
    let shop = shop_with("bot-filter", "examples/bot-filter.wasm", "closed")?;
    bot(&shop).expect(&shop.frontend, 403)?;
    let good = std::fs::read(artifact("examples/bot-filter.wasm"))?;
    for (what, bytes) in [
        ("text", &b"not wasm at all"[..]),
        ("half", &good[..good.len() / 2]),
    ] {
        shop.world.node.write("plugins/bot-filter.wasm", bytes)?;
        eventually(&format!("{what} is refused"), || {
            let row = listed(&shop, "bot-filter")?;
            ensure!(
                row["reason"]
                    .as_str()
                    .is_some_and(|reason| !reason.is_empty()),
                "{row}"
            );
            Ok(())
        })?;
        bot(&shop).expect(&shop.frontend, 403)?;
        Curl::get(shop.url(HTTP, "/x")).expect(&shop.frontend, 200)?;
        shop.world.node.write("plugins/bot-filter.wasm", &good)?;
        eventually("the good one is back", || {
            let row = listed(&shop, "bot-filter")?;
            ensure!(row["reason"].is_null(), "{row}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_plugin_that_asks_for_more_than_granted_is_refused() -> Result<()> {
    let shop = Shop::running()?;
    shop.world
        .node
        .copy(&artifact("guests/smuggle.wasm"), "plugins/smuggle.wasm")?;
    eventually("it is refused", || {
        let row = listed(&shop, "smuggle")?;
        ensure!(row["state"] == "refused", "{row}");
        ensure!(
            row["reason"]
                .as_str()
                .is_some_and(|reason| reason.contains("clock")),
            "{row}"
        );
        Ok(())
    })
}

#[test]
fn a_removed_plugin_leaves_its_fail_mode() -> Result<()> {
    let shop = shop_with("bot-filter", "examples/bot-filter.wasm", "closed")?;
    let node = &shop.world.node;
    for (fail_mode, anybody, bots) in [("closed", 503, 503), ("open", 200, 200)] {
        node.copy(
            &artifact("examples/bot-filter.wasm"),
            "plugins/bot-filter.wasm",
        )?;
        node.write("policies/bound.yaml", binding("bot-filter", fail_mode))?;
        eventually("it judges", || {
            bot(&shop).expect(&shop.frontend, 403)?;
            Curl::get(shop.url(HTTP, "/x")).expect(&shop.frontend, 200)
        })?;
        node.remove("plugins/bot-filter.wasm")?;
        eventually(&format!("fail {fail_mode}"), || {
            Curl::get(shop.url(HTTP, "/x")).expect(&shop.frontend, anybody)?;
            bot(&shop).expect(&shop.frontend, bots)
        })?;
    }
    Ok(())
}

#[test]
fn misbehaving_costs_only_its_own_request() -> Result<()> {
    let shop = shop_with("trap", "guests/trap.wasm", "closed")?;
    let node = &shop.world.node;
    for plugin in ["spin", "hoard"] {
        node.copy(
            &artifact(&format!("guests/{plugin}.wasm")),
            &format!("plugins/{plugin}.wasm"),
        )?;
    }
    for (plugin, path, reason) in [
        ("trap", "/trap", "trapped"),
        ("trap", "/deep", "trapped"),
        ("spin", "/spin", "deadline"),
        ("hoard", "/hoard", "memory"),
    ] {
        node.write("policies/bound.yaml", binding(plugin, "closed"))?;
        eventually(&format!("{plugin} judges"), || {
            let status = node.status()?;
            let bound = status["bindings"].to_string();
            ensure!(bound.contains(plugin), "{bound}");
            Curl::get(shop.url(HTTP, "/fine")).expect(&shop.frontend, 200)
        })?;
        let neighbour = Requests::start(&shop.stranger, &shop.url(HTTP, "/fine/"), 300, "x-none")?;
        Curl::get(shop.url(HTTP, path)).expect(&shop.frontend, 503)?;
        Curl::get(shop.url(HTTP, "/fine")).expect(&shop.frontend, 200)?;
        let outcomes = neighbour.finish()?;
        let fine = outcomes
            .iter()
            .filter(|outcome| outcome.status == 200)
            .count();
        ensure!(
            fine == 300,
            "{path}: only {fine} of 300 of a neighbour's requests were answered"
        );
        let record = node.record(
            &["--error", "pluginFailed", "--error", "pluginHeldBack"],
            |r| {
                r["l7"]["url"]
                    .as_str()
                    .is_some_and(|url| url.ends_with(path))
            },
        )?;
        assert_eq!(record["l7"]["status"], 503, "{record}");
        let told = record.to_string();
        ensure!(told.contains(plugin) && told.contains(reason), "{record}");
    }
    Ok(())
}

/// A node that believes one author takes nothing of others, nor what that one did not sign.
#[test]
fn only_who_is_believed_signs_what_runs() -> Result<()> {
    let mut shop = Shop::open()?;
    let keys = shop.world.dir().join("keys");
    std::fs::create_dir(&keys)?;
    let tidegate = |node: &Node, arguments: &[&str]| {
        let output = node.tidegate(arguments)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{arguments:?}: {said}");
        Ok(())
    };
    let node = &shop.world.node;
    let path = |name: &str| keys.join(name).display().to_string();
    for author in ["acme", "stranger"] {
        tidegate(node, &["plugin", "keygen", "--no-password", &path(author)])?;
    }
    node.configure(&format!(
        "node:\n\nplugins: {{trustedKeys: [{}], requireSignature: true}}\n",
        path("acme.pub")
    ))?;
    node.copy(
        &artifact("examples/bot-filter.wasm"),
        "plugins/bot-filter.wasm",
    )?;
    node.write("policies/bound.yaml", binding("bot-filter", "closed"))?;
    shop.world.node.start()?;
    let node = &shop.world.node;
    let file = node.config_dir().join("plugins/bot-filter.wasm");
    let file = file.display().to_string();
    let row = |state: &str, reason: &str| {
        eventually("the plugin's row", || {
            let row = listed(&shop, "bot-filter")?;
            let why = row["reason"].as_str().unwrap_or_default();
            ensure!(row["state"] == state && why.contains(reason), "{row}");
            Ok(row)
        })
    };
    let answers = |status: u64| {
        eventually("a request is answered so", || {
            Curl::get(shop.url(HTTP, "/x")).expect(&shop.frontend, status)
        })
    };
    row("refused", "it is not signed")?;
    answers(503)?;
    tidegate(
        node,
        &["plugin", "sign", &file, "--key", &path("stranger.key")],
    )?;
    row(
        "refused",
        "by a key that is not among `plugins.trustedKeys`",
    )?;
    tidegate(node, &["plugin", "sign", &file, "--key", &path("acme.key")])?;
    ensure!(row("active", "")?["signedBy"] == "acme");
    answers(200)?;

    // Another file beside the same signature: what was signed goes on.
    node.copy(
        &artifact("examples/bot-filter-v2.wasm"),
        "plugins/bot-filter.wasm",
    )?;
    let row = row("active", "it is not what acme signed")?;
    ensure!(
        row["version"] == "1.0.0" && row["signedBy"] == "acme",
        "{row}"
    );
    answers(200)?;

    // Nobody believes acme any more.
    shop.world.node.kill_agent()?;
    let other = format!(
        "node:\n\nplugins: {{trustedKeys: [{}], requireSignature: true}}\n",
        path("stranger.pub")
    );
    shop.world.node.configure(&other)?;
    shop.world.node.start_agent()?;
    eventually("what it runs is refused", || {
        Curl::get(shop.url(HTTP, "/x")).expect(&shop.frontend, 503)
    })?;
    let row = listed(&shop, "bot-filter")?;
    ensure!(row["version"] == "" && row["state"] == "refused", "{row}");
    Ok(())
}
