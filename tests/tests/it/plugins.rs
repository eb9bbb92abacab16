//! Plugins: dropped in, replaced, broken, removed, and misbehaving.

use anyhow::{Context, Result, ensure};
use tidegate_tests::harness::{Curl, eventually, load::Requests, tag::repository};

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
