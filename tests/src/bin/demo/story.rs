//! The chapters. Each sends real traffic, checks what came of it, and says so.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, ensure};
use tidegate_tests::harness::{Curl, Workload, load::Requests, within};

use crate::scene::{Scene, plugin};

/// The backends' service address.
const SERVICE: &str = "10.96.0.10";

/// Tells all of it; the first promise that is not kept ends the story.
pub(crate) fn tell(scene: &mut Scene) -> anyhow::Result<()> {
    allowed(scene)?;
    denied_in_the_kernel(scene)?;
    denied_by_an_l7_rule(scene)?;
    balanced(scene)?;
    by_name(scene)?;
    plugin_replaced(scene)
}

fn chapter(title: &str) {
    println!("\n== {title}");
}

/// One request, as it would be typed, and its outcome.
fn request(from: &Workload, curl: &str, outcome: &str) {
    println!("   {:<9} $ curl {curl}", from.name());
    println!("             {outcome}");
}

fn allowed(scene: &Scene) -> anyhow::Result<()> {
    chapter("Allowed: the frontend asks a backend");
    let plain = format!("{}:9000/", scene.backend.v4);
    let answer = Curl::get(&plain).expect(&scene.frontend, 200)?;
    request(
        &scene.frontend,
        &plain,
        &format!("200 {} (never left the kernel)", answer.body.trim()),
    );

    let filtered = format!("{}:8080/api/users", scene.backend.v4);
    let answer = Curl::get(&filtered).expect(&scene.frontend, 200)?;
    request(
        &scene.frontend,
        &filtered,
        &format!("200 {} (through the proxy)", answer.body.trim()),
    );
    ensure!(
        answer
            .body
            .contains(&format!("{} {}", scene.frontend.v4, answer.local_port)),
        "the backend did not see the client's own address and port"
    );
    println!(
        "             The backend saw the client's own address and port, {}:{}.",
        scene.frontend.v4, answer.local_port
    );
    Ok(())
}

fn denied_in_the_kernel(scene: &Scene) -> anyhow::Result<()> {
    chapter("Denied in the kernel: a stranger tries the same");
    let url = format!("{}:9000/", scene.backend.v4);
    Curl::get(&url).expect_dropped(&scene.stranger)?;
    request(&scene.stranger, &url, "no answer: its packets are dropped");
    denial(scene, &scene.stranger, &[])
}

fn denied_by_an_l7_rule(scene: &Scene) -> anyhow::Result<()> {
    chapter("Denied by an L7 rule: the frontend asks for too much");
    let url = format!("{}:8080/admin", scene.backend.v4);
    let answer = Curl::get(&url).expect(&scene.frontend, 403)?;
    request(
        &scene.frontend,
        &url,
        &format!("403 {}", answer.body.trim()),
    );
    denial(scene, &scene.frontend, &["--protocol", "http"])
}

fn balanced(scene: &Scene) -> anyhow::Result<()> {
    const CONNECTIONS: u32 = 30;
    chapter("Balanced: one service address, two backends");
    let url = format!("{SERVICE}/api/users");
    let mut counts = BTreeMap::<String, u32>::new();
    for _ in 0..CONNECTIONS {
        let answer = Curl::get(&url).expect(&scene.frontend, 200)?;
        let backend = answer.body.split(' ').next().unwrap_or_default().to_owned();
        *counts.entry(backend).or_default() += 1;
    }
    ensure!(counts.len() == 2, "not both backends answered: {counts:?}");
    let shares: Vec<String> = counts
        .iter()
        .map(|(who, n)| format!("{who}: {n}"))
        .collect();
    request(
        &scene.frontend,
        &format!("{url}   (x {CONNECTIONS})"),
        &format!(
            "{} (translated at connect(), no NAT on the way)",
            shares.join(", ")
        ),
    );
    Ok(())
}

fn by_name(scene: &Scene) -> anyhow::Result<()> {
    chapter("By name: outside, the frontend may reach one API");
    let url = "api.partner.example/";
    let answer = Curl::get(url).expect(&scene.frontend, 200)?;
    request(&scene.frontend, url, &format!("200 {}", answer.body.trim()));
    let other = "evil.example/";
    let answer = Curl::get(other).from(&scene.frontend)?;
    ensure!(
        answer.status == 0,
        "a name that is not allowed was answered: {answer:?}"
    );
    request(&scene.frontend, other, &answer.error);
    denial(scene, &scene.frontend, &["--protocol", "dns"])
}

fn plugin_replaced(scene: &mut Scene) -> anyhow::Result<()> {
    /// More than are made until the new version answers, on however busy a machine.
    const ENDLESS: u32 = 1_000_000;
    const BEFORE_AND_AFTER: usize = 1_000;
    chapter("A plugin is replaced while traffic runs");
    let bot =
        Curl::get(format!("{}:8080/api/users", scene.backend.v4)).with(&["--user-agent", "badbot"]);
    bot.expect(&scene.frontend, 403)?;
    request(
        &scene.frontend,
        &format!("--user-agent badbot {}:8080/api/users", scene.backend.v4),
        "403 from the plugin bot-filter",
    );
    denial(scene, &scene.frontend, &["--rule", "no-bots"])?;

    let url = format!("http://{}:8080/api/", scene.backend.v4);
    let mut traffic = Requests::start(&scene.frontend, &url, ENDLESS, "x-bot-filter")?;
    traffic.wait_for(BEFORE_AND_AFTER)?;
    scene
        .world
        .node
        .copy(&plugin("bot-filter-v2"), "plugins/bot-filter.wasm")?;
    println!("   operator  $ cp bot-filter-v2.wasm plugins/bot-filter.wasm");
    traffic.wait_for_mark("v2")?;
    traffic.wait_for_more(BEFORE_AND_AFTER)?;
    let outcomes = traffic.end()?;
    let answered = |mark| {
        outcomes
            .iter()
            .filter(|o| o.status == 200 && o.mark == mark)
            .count()
    };
    let (v1, v2) = (answered(""), answered("v2"));
    let failed = outcomes.len() - v1 - v2;
    println!(
        "             {} requests meanwhile: {v1} answered under v1, {v2} under v2, {failed} failed",
        outcomes.len()
    );
    ensure!(failed == 0, "{failed} requests failed during the swap");
    ensure!(
        v1 > 0 && v2 > 0,
        "the swap did not fall into the traffic: {v1} before, {v2} after"
    );
    Ok(())
}

/// Shows the newest denial that fits, as `tidegate observe` prints it, and makes sure
/// that it names the rule.
fn denial(scene: &Scene, from: &Workload, more: &[&str]) -> anyhow::Result<()> {
    let node = &scene.world.node;
    let filters = &[&["--from", from.name(), "--verdict", "dropped"], more].concat();
    let record = node.record(filters, |record| record["rules"][0].is_string())?;
    let rule = record["rules"][0]
        .as_str()
        .context("a record without a rule")?;
    let line = within(Duration::from_secs(5), "the record as text", || {
        let text = node.text(&[&["observe", "--last", "1"], filters.as_slice()].concat())?;
        text.lines().last().map(str::to_owned).context("no line")
    })?;
    println!("   operator  $ tidegate observe {}", filters.join(" "));
    println!("             {line}");
    println!("             The rule: {rule}");
    Ok(())
}
