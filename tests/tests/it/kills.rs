//! `kill -9`, and what goes on.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tidegate_tests::harness::{
    Curl, eventually,
    load::{Outcome, Requests, Steady},
};

use crate::shop::{ECHO, HTTP, PLAIN, Shop};

fn failed(outcomes: &[Outcome]) -> usize {
    outcomes
        .iter()
        .filter(|outcome| outcome.status != 200)
        .count()
}

#[test]
fn killing_the_agent_under_load_loses_nothing() -> Result<()> {
    let mut shop = Shop::running()?;
    let steady = Steady::start(&shop.frontend, (shop.backend.v4, ECHO))?;
    let mut load = Requests::start(&shop.frontend, &shop.url(HTTP, "/api/"), 6_000, "x-none")?;
    load.wait_for(300)?;

    shop.world.node.kill_agent()?;
    let at_kill = load.outcomes().len();
    // New connections, too, of both kinds, and denials.
    for _ in 0..5 {
        Curl::get(shop.url(PLAIN, "/")).expect(&shop.frontend, 200)?;
        Curl::get(shop.url(HTTP, "/api/x")).expect(&shop.frontend, 200)?;
        Curl::get(shop.url(HTTP, "/admin")).expect(&shop.frontend, 403)?;
    }
    Curl::get(shop.url(PLAIN, "/")).expect_dropped(&shop.stranger)?;
    ensure!(
        load.outcomes().len() > at_kill,
        "no request was answered without an agent"
    );

    shop.world.node.start()?;
    let outcomes = load.finish()?;
    assert_eq!((outcomes.len(), failed(&outcomes)), (6_000, 0));
    let account = steady.finish()?;
    ensure!(account.slowest < Duration::from_secs(1), "{account:?}");
    Ok(())
}

#[test]
fn a_new_agent_adopts_the_running_proxy() -> Result<()> {
    let mut shop = Shop::running()?;
    let proxy = shop.world.node.proxy_pid()?;
    shop.world.node.kill_agent()?;
    shop.world.node.start()?;
    assert_eq!(shop.world.node.proxy_pid()?, proxy);
    Curl::get(shop.url(HTTP, "/api/x")).expect(&shop.frontend, 200)?;
    Ok(())
}

#[test]
fn killing_the_proxy_leaves_l4_alone_and_a_new_one_serves_soon() -> Result<()> {
    let shop = Shop::running()?;
    let steady = Steady::start(&shop.frontend, (shop.backend.v4, ECHO))?;
    Curl::get(shop.url(HTTP, "/api/x")).expect(&shop.frontend, 200)?;
    let old = shop.world.node.kill_proxy()?;
    let killed = Instant::now();
    // The connection waits in the backlog; nobody is refused.
    Curl::get(shop.url(HTTP, "/api/x")).expect(&shop.frontend, 200)?;
    let served = killed.elapsed();
    Curl::get(shop.url(HTTP, "/admin")).expect(&shop.frontend, 403)?;
    eventually("another proxy runs", || {
        ensure!(shop.world.node.proxy_pid()? != old);
        Ok(())
    })?;
    steady.finish()?;
    // The goal is 200 ms; a busy test machine gets more.
    ensure!(
        served < Duration::from_secs(3),
        "served again after {served:?}"
    );
    Ok(())
}

#[test]
fn without_agent_and_proxy_nothing_passes_uninspected() -> Result<()> {
    let mut shop = Shop::running()?;
    let proxy = shop.world.node.proxy_pid()?;
    let steady = Steady::start(&shop.frontend, (shop.backend.v4, ECHO))?;
    shop.world.node.kill_agent()?;
    shop.frontend.run("kill", &["-9", &proxy.to_string()])?;
    for path in ["/api/x", "/admin"] {
        let answer = Curl::get(shop.url(HTTP, path))
            .give_up_after(2)
            .from(&shop.frontend)?;
        ensure!(answer.status == 0, "answered without a proxy: {answer:?}");
    }
    Curl::get(shop.url(PLAIN, "/")).expect(&shop.frontend, 200)?;
    Curl::get(shop.url(PLAIN, "/")).expect_dropped(&shop.stranger)?;
    steady.finish()?;

    shop.world.node.start()?;
    Curl::get(shop.url(HTTP, "/api/x")).expect(&shop.frontend, 200)?;
    Curl::get(shop.url(HTTP, "/admin")).expect(&shop.frontend, 403)?;
    Ok(())
}
