//! Files are the API: watched, applied as generations, never half.

use anyhow::{Result, ensure};
use tidegate_tests::harness::{Curl, World};

use crate::shop::{PLAIN, POLICY, Shop};

#[test]
fn a_broken_policy_is_reported_and_its_last_good_version_stays() -> Result<()> {
    let mut shop = Shop::running()?;
    let request = Curl::get(shop.url(PLAIN, "/"));
    shop.world.node.write(
        "policies/backend.yaml",
        POLICY.replace("fromEndpoints", "fromEndpoint"),
    )?;
    let problem = shop.world.node.problem("fromEndpoint")?;
    assert_eq!(problem["file"], "policies/backend.yaml");
    assert!(problem["line"].as_u64() > Some(1), "{problem}");
    assert_eq!(problem["lastGood"], true);
    request.expect(&shop.frontend, 200)?;
    request.expect_dropped(&shop.stranger)?;

    // Others are not held up by it.
    shop.world.node.change(|node| {
        node.write(
            "policies/more.yaml",
            POLICY
                .replace("name: backend,", "name: more,")
                .replace("{app: frontend}", "{app: stranger}"),
        )
    })?;
    request.expect(&shop.stranger, 200)?;

    // Nor does a restart forget the last good version.
    shop.world.node.stop_agent()?;
    shop.world.node.start()?;
    request.expect(&shop.frontend, 200)?;
    ensure!(shop.world.node.problem("fromEndpoint")?["lastGood"] == true);

    shop.world
        .node
        .change(|node| node.write("policies/backend.yaml", POLICY.replace("9000", "9001")))?;
    Curl::get(shop.url(PLAIN + 1, "/"))
        .with(&["--http2-prior-knowledge"])
        .expect(&shop.frontend, 200)?;
    Ok(())
}

#[test]
fn changes_that_come_together_are_one_generation() -> Result<()> {
    let shop = Shop::running()?;
    let generation = || -> Result<u64> {
        Ok(shop.world.node.status()?["generation"]
            .as_u64()
            .unwrap_or(0))
    };
    let before = generation()?;
    shop.world.node.change(|node| {
        for name in ["a", "b", "c", "d"] {
            node.write(
                &format!("policies/{name}.yaml"),
                POLICY.replace("name: backend,", &format!("name: {name},")),
            )?;
        }
        Ok(())
    })?;
    assert_eq!(generation()?, before + 1);
    Ok(())
}

#[test]
fn an_unknown_key_is_an_error_with_its_place_and_a_suggestion() -> Result<()> {
    let mut world = World::new()?;
    let text = std::fs::read_to_string(world.node.config_dir().join("tidegate.yaml"))?;
    world.node.write(
        "tidegate.yaml",
        text.replace("outsideDevices", "outsideDevice"),
    )?;
    world.node.start_agent()?;
    let log = tidegate_tests::harness::eventually("the agent refuses to start", || {
        let log = world.node.agent_log();
        ensure!(log.contains("did you mean"), "{log}");
        Ok(log)
    })?;
    assert!(log.contains("tidegate.yaml:"), "{log}");
    assert!(log.contains("`outsideDevices`"), "{log}");

    let check = world.node.tidegate(&["config", "check", "tidegate.yaml"])?;
    assert!(!check.status.success());
    Ok(())
}

#[test]
fn the_quickstart_loads_without_a_remark() -> Result<()> {
    let mut world = World::new()?;
    for name in ["frontend", "backend-1", "backend-2", "stranger"] {
        world.workload(name)?;
    }
    let repository = tidegate_tests::harness::tag::repository();
    world
        .node
        .use_folder(&repository.join("examples/quickstart"))?;
    world.node.copy(
        &repository.join("target/artifacts/examples/bot-filter.wasm"),
        "plugins/bot-filter.wasm",
    )?;
    world.node.start()?;
    let problems = &world.node.status()?["problems"];
    assert_eq!(problems.as_array().map(Vec::len), Some(0), "{problems:#}");
    Ok(())
}
