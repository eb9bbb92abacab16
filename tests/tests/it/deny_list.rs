//! Refused before anything else, on the device that leads outside.

use anyhow::{Result, ensure};
use tidegate_tests::harness::{Curl, eventually, server, world::OUTSIDE_V4};

use crate::shop::Shop;

#[test]
fn listed_prefixes_get_no_packet_in_and_are_counted() -> Result<()> {
    let mut shop = Shop::open()?;
    let web = shop.world.workload("web")?;
    shop.world.node.endpoint(&web, "shop", &[("app", "web")])?;
    let _nginx = server::nginx(&web, 80, &shop.world.dir())?;
    shop.world.node.start()?;
    let request = Curl::get(format!("http://{}/", web.v4));
    request.expect(&shop.world.outside, 200)?;
    shop.world.node.change(|node| {
        node.write(
            "policies/deny.yaml",
            "apiVersion: tidegate.io/v1alpha1\nkind: DenyList\nmetadata: {name: bad}\nspec:\n  cidrs: [192.0.2.96/27]\n",
        )
    })?;
    request.expect_dropped(&shop.world.outside)?;
    eventually("the hits are counted", || {
        let hits = &shop.world.node.status()?["datapath"]["denyList"];
        ensure!(
            hits["192.0.2.96/27"]["packets"].as_u64() > Some(0),
            "{hits}"
        );
        Ok(())
    })?;
    let record = shop
        .world
        .node
        .record(&["--verdict", "dropped"], |r| r["event"] == "deny-list")?;
    assert_eq!(record["source"]["address"], OUTSIDE_V4.to_string());
    assert_eq!(record["destination"]["address"], web.v4.to_string());
    assert_eq!(record["destination"]["port"], 80, "{record:#}");
    assert_eq!(record["protocol"], "tcp", "{record:#}");
    let generation = &shop.world.node.status()?["generation"];
    assert_eq!(&record["generation"], generation, "{record:#}");
    // By its rule it is found.
    let by_rule = &["--rule", "bad cidrs[0]", "--protocol", "tcp"];
    shop.world
        .node
        .record(by_rule, |r| r["event"] == "deny-list")?;
    let listed = shop.world.node.text(&["policy", "list"])?;
    ensure!(
        listed
            .lines()
            .any(|line| line.contains("DenyList") && line.contains("bad")),
        "{listed}"
    );
    let outside = OUTSIDE_V4.to_string();
    let node = &shop.world.node;
    let answer = node.json(&["explain", &outside, "web:80"])?;
    assert_eq!(answer["verdict"], "DROPPED", "{answer:#}");
    assert_eq!(answer["reason"], "Source on deny list", "{answer:#}");
    let note = answer["notes"].to_string();
    ensure!(
        note.contains("192.0.2.96/27 is on the deny list (policies/deny.yaml:"),
        "{note}"
    );
    // What the workload sends passes; the answers do not.
    let answer = node.json(&["explain", "web", &format!("{outside}:80")])?;
    assert_eq!(answer["verdict"], "FORWARDED", "{answer:#}");
    let obstacles = answer["obstacles"].to_string();
    ensure!(obstacles.contains("answers are dropped"), "{obstacles}");

    // It needs nobody alive.
    shop.world.node.kill_agent()?;
    request.expect_dropped(&shop.world.outside)?;
    shop.world.node.start()?;
    request.expect_dropped(&shop.world.outside)?;
    shop.world
        .node
        .change(|node| node.remove("policies/deny.yaml"))?;
    request.expect(&shop.world.outside, 200)?;
    Ok(())
}
