//! Files are the API: watched, applied as generations, never half.

use std::{fs::File, io::Write as _, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tidegate_tests::harness::{Curl, Node, World, eventually};

use crate::shop::{PLAIN, POLICY, Shop, together};

#[test]
fn on_a_running_node() -> Result<()> {
    let shop = Shop::running()?;
    together!(&shop;
        what_somebody_detaches_is_attached_again,
        changes_that_come_together_are_one_generation,
        half_of_a_file_says_nothing,
        config_check_knows_what_is_in_force,
        each_mistake_is_named_with_its_place_and_what_would_be_right,
    )
}

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

/// Which of two plugins has the name, and how large the tables are: `config check` says what
/// the agent beside it would.
fn config_check_knows_what_is_in_force(shop: &Shop) -> Result<()> {
    let node = &shop.world.node;
    let check = |file: &str| -> Result<String> {
        let checked = node.tidegate(&["config", "check", "-c", file])?;
        Ok(String::from_utf8_lossy(&checked.stdout).into_owned())
    };
    let repository = tidegate_tests::harness::tag::repository();
    let plugin = repository.join("target/artifacts/examples/bot-filter.wasm");
    node.change(|node| node.copy(&plugin, "plugins/second.wasm"))?;
    node.copy(&plugin, "plugins/first.wasm")?;
    let taken = "is taken by";
    let by_agent = eventually("the newcomer waits for its name", || {
        let status = node.text(&["status"])?;
        let line = status.lines().find(|line| line.contains(taken));
        line.map(str::to_owned).context("nothing of it in status")
    })?;
    ensure!(by_agent.contains("second.wasm"), "{by_agent}");
    let checked = check("tidegate.yaml")?;
    let by_check = checked.lines().find(|line| line.contains(taken));
    ensure!(by_check == Some(&by_agent), "{by_agent}\n{checked}");
    node.remove("plugins/first.wasm")?;
    node.remove("plugins/second.wasm")?;

    let text = std::fs::read_to_string(node.config_dir().join("tidegate.yaml"))?;
    ensure!(!text.contains("limits:"), "another way is needed: {text}");
    node.write(
        "smaller.yaml",
        format!("{text}\nlimits: {{flows: 1000, endpoints: 7}}\n"),
    )?;
    let checked = check("smaller.yaml")?;
    for key in ["limits.flows", "limits.endpoints"] {
        let said = format!("{key}: table ");
        let lines = checked.lines().filter(|line| line.contains(&said));
        let lines: Vec<&str> = lines.collect();
        let line = 2 + text.lines().count();
        let place = format!("error: smaller.yaml:{line}:");
        ensure!(
            lines.len() == 1 && lines[0].starts_with(&place),
            "no {said:?} at line {line} in\n{checked}"
        );
    }
    node.remove("smaller.yaml")
}

/// A file with one mistake, and what `status` must say about it: after the file's name
/// the line, the field, the value found, and what would be right.
const MISTAKES: [(&str, &str, &str); 6] = [
    (
        "policies/port.yaml",
        r#"apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: port, namespace: shop}
spec:
  endpointSelector: {}
  ingress:
  - toPorts:
    - ports:
      - {port: "80000", protocol: TCP}
"#,
        ":9: spec.ingress[0].toPorts[0].ports[0].port: not a port number, and a port name has at least one letter (80000); a number from 0 to 65535, or the name of a port",
    ),
    (
        "policies/expression.yaml",
        r#"apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: expression, namespace: shop}
spec:
  endpointSelector: {}
  ingress:
  - toPorts:
    - ports: [{port: "80", protocol: TCP}]
      rules:
        http: [{path: "/api/("}]
"#,
        ":10: spec.ingress[0].toPorts[0].rules.http[0].path: not a regular expression: `(` without `)` (at character 6) (/api/(); RE2 syntax",
    ),
    (
        "policies/binding.yaml",
        r#"apiVersion: tidegate.io/v1alpha1
kind: PluginBinding
metadata: {name: bots, namespace: shop}
spec:
  endpointSelector: {}
  direction: ingress
  toPorts: [8080]
  plugin: bot-filter
  failMode: close
"#,
        ":9: spec.failMode: no such value (close); did you mean `closed`? one of: open, closed",
    ),
    (
        "services/algorithm.yaml",
        r#"apiVersion: tidegate.io/v1alpha1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  addresses: [10.96.0.11]
  algorithm: maglef
  ports: [{port: 80, protocol: TCP}]
  backends: []
"#,
        ":6: spec.algorithm: no such value (maglef); did you mean `maglev`? one of: random, maglev",
    ),
    (
        "endpoints/address.yaml",
        r#"apiVersion: tidegate.io/v1alpha1
kind: Endpoint
metadata: {name: web, namespace: shop}
spec:
  interface: veth-web
  addresses: [10.10.0.300]
"#,
        ":6: spec.addresses[0]: not an IP address (10.10.0.300)",
    ),
    (
        "policies/syntax.yaml",
        "apiVersion: [cilium.io/v2\nkind: x\n",
        ":2: not readable as YAML: illegal placement of ':' indicator",
    ),
];

fn each_mistake_is_named_with_its_place_and_what_would_be_right(shop: &Shop) -> Result<()> {
    for (file, text, _) in MISTAKES {
        shop.world.node.write(file, text)?;
    }
    eventually("all of them are reported", || {
        let status = shop.world.node.text(&["status"])?;
        for (file, _, message) in MISTAKES {
            let reported = named(&status, file, message)?;
            ensure!(reported, "no {file}{message} in\n{status}");
        }
        Ok(())
    })?;
    // The files that are right go on, and the others can still be put right.
    let request = Curl::get(shop.url(PLAIN, "/"));
    request.expect(&shop.frontend, 200)?;
    request.expect_dropped(&shop.stranger)?;
    Ok(())
}

#[test]
fn config_check_finds_the_same_without_an_agent() -> Result<()> {
    let shop = Shop::open()?;
    let node = &shop.world.node;
    let check = || node.tidegate(&["config", "check", "-c", "tidegate.yaml"]);
    for (file, text, _) in MISTAKES {
        node.write(file, text)?;
    }
    node.write("plugins/broken.wasm", "nothing of the kind")?;
    let wrong = check()?;
    let said = String::from_utf8_lossy(&wrong.stdout);
    assert!(!wrong.status.success(), "{said}");
    for (file, _, message) in MISTAKES {
        assert!(
            named(&said, file, message)?,
            "no {file}{message} in\n{said}"
        );
    }
    assert!(said.contains("it is not a WebAssembly file"), "{said}");

    for (file, _, _) in MISTAKES {
        node.remove(file)?;
    }
    node.remove("plugins/broken.wasm")?;

    // What a running agent would find out when it binds plugins.
    let repository = tidegate_tests::harness::tag::repository();
    node.copy(
        &repository.join("target/artifacts/examples/bot-filter.wasm"),
        "plugins/bot-filter.wasm",
    )?;
    node.write("policies/refused.yaml", BINDING)?;
    node.write(
        "policies/missing.yaml",
        BINDING
            .replace("name: bots", "name: none")
            .replace("bot-filter", "no-filter"),
    )?;
    let away = "apiVersion: tidegate.io/v1alpha1\nkind: Endpoint\nmetadata: {name: away, \
                namespace: shop}\nspec: {interface: tg-away, addresses: [10.10.0.99]}\n";
    node.write("endpoints/away.yaml", away)?;
    let wrong = check()?;
    let said = String::from_utf8_lossy(&wrong.stdout);
    assert!(!wrong.status.success(), "{said}");
    for part in [
        "error: policies/missing.yaml:8:11: spec.plugin: no plugin of this name is installed",
        "(no-filter); put it into the plugins folder; installed: bot-filter, dns, http",
        "error: policies/refused.yaml:9:11: spec.config: the plugin bot-filter does not take this",
        "deni",
        "note: endpoint shop/away: no device tg-away",
    ] {
        assert!(said.contains(part), "no {part:?} in\n{said}");
    }
    node.remove("policies/missing.yaml")?;
    node.remove("policies/refused.yaml")?;
    node.remove("endpoints/away.yaml")?;

    node.write("policies/backend.yaml", POLICY)?;
    one_mistake_hides_nothing_else(node)?;
    let right = check()?;
    let said = String::from_utf8_lossy(&right.stdout);
    assert!(right.status.success(), "{said}");
    assert!(said.contains("policies 1"), "{said}");
    Ok(())
}

/// Everything that is wrong with any file is told at once, the configuration's own included, and
/// what is wrong with a folder or a limit where the configuration says so.
fn one_mistake_hides_nothing_else(node: &Node) -> Result<()> {
    let idle = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: idle, \
                namespace: shop}\nspec: {endpointSelector: {matchLabels: {app: nobody}}, ingress: \
                [{}]}\n";
    node.write("policies/idle.yaml", format!("{idle}---\nkind: Nothing\n"))?;
    let text = std::fs::read_to_string(node.config_dir().join("tidegate.yaml"))?;
    ensure!(
        !["limits:", "proxy:", "folders:"]
            .iter()
            .any(|key| text.contains(key)),
        "another way is needed: {text}"
    );
    let first = 1 + text.lines().count();
    let wrong = "limits: {flows: 0}\nproxy: {hungAfterSeconds: 1}\nfolders: {services: gone}\n";
    node.write("wrong.yaml", format!("{text}{wrong}"))?;
    let said = node.tidegate(&["config", "check", "-c", "wrong.yaml"])?;
    assert!(!said.status.success());
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    for part in [
        format!("error: wrong.yaml:{first}:17: limits.flows: out of range: `0`; expected 1 to"),
        format!(
            "error: wrong.yaml:{}:27: proxy.hungAfterSeconds: out of range: `1`",
            first + 1
        ),
        format!(
            "error: wrong.yaml:{}:21: folders.services: there is no folder",
            first + 2
        ),
        "error: policies/idle.yaml:6:1: `apiVersion` and `kind` must say".to_owned(),
        "warning: policies/idle.yaml:4:".to_owned(),
        "selects no endpoint of this node, and so does nothing here".to_owned(),
    ] {
        assert!(said.contains(&part), "no {part:?} in\n{said}");
    }
    let same = format!("{text}folders:\n  services: policies\n");
    node.write("wrong.yaml", same)?;
    let said = node.tidegate(&["config", "check", "-c", "wrong.yaml", "-o", "json"])?;
    let said: Value = serde_json::from_slice(&said.stdout)?;
    let problem = &said["problems"][0];
    ensure!(
        problem["file"] == "wrong.yaml" && problem["line"] == first + 1 && problem["column"] == 13,
        "{said:#}"
    );
    node.remove("policies/idle.yaml")?;
    node.remove("wrong.yaml")
}

/// A binding whose configuration has a mistake that only the plugin knows.
const BINDING: &str = "\
apiVersion: tidegate.io/v1alpha1
kind: PluginBinding
metadata: {name: bots, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: backend}}
  direction: ingress
  toPorts: [9000]
  plugin: bot-filter
  config: {deni: [badbot]}
";

/// Does a line say what is wrong with the file, and where?
fn named(lines: &str, file: &str, message: &str) -> Result<bool> {
    let (line, what) = message[1..].split_once(':').context("no line")?;
    let start = format!("error: {file}:{line}:");
    Ok(lines
        .lines()
        .any(|text| text.starts_with(&start) && text.ends_with(what)))
}

fn changes_that_come_together_are_one_generation(shop: &Shop) -> Result<()> {
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

/// A policy cut off in front of its ports is one that allows all ports.
fn half_of_a_file_says_nothing(shop: &Shop) -> Result<()> {
    let node = &shop.world.node;
    let generation = || Ok::<_, anyhow::Error>(node.status()?["generation"].clone());
    let text = POLICY.replace("name: backend,", "name: half,");
    let (half, rest) = text.split_at(text.find("toPorts").context("a policy has ports")?);
    let half = half.trim_end_matches([' ', '-']);
    let rest = text.strip_prefix(half).unwrap_or(rest);
    let before = generation()?;
    let mut file = File::create(node.config_dir().join("policies/half.yaml"))?;
    file.write_all(half.as_bytes())?;
    file.sync_all()?;
    // Longer than a file has to be quiet that nobody has open.
    thread::sleep(Duration::from_millis(400));
    ensure!(generation()? == before, "half of a policy is in force");
    file.write_all(rest.as_bytes())?;
    drop(file);
    eventually("the whole policy in force", || {
        ensure!(generation()? != before, "the whole of it is not");
        Ok(())
    })?;
    node.change(|node| node.remove("policies/half.yaml"))
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
    let log = eventually("the agent refuses to start", || {
        let log = world.node.agent_log();
        ensure!(log.contains("did you mean"), "{log}");
        Ok(log)
    })?;
    assert!(log.contains("tidegate.yaml:"), "{log}");
    assert!(log.contains("`outsideDevices`"), "{log}");

    let check = world
        .node
        .tidegate(&["config", "check", "-c", "tidegate.yaml"])?;
    assert!(!check.status.success());
    let said = String::from_utf8_lossy(&check.stderr);
    assert!(said.contains("`outsideDevices`"), "{said}");
    let arguments = ["config", "check", "-c", "tidegate.yaml", "-o", "json"];
    let check = world.node.tidegate(&arguments)?;
    assert!(!check.status.success());
    let said: serde_json::Value =
        serde_json::from_slice(&check.stdout).context("not JSON on standard output")?;
    let problem = &said["problems"][0];
    ensure!(
        said["ok"] == false && problem["file"] == "tidegate.yaml",
        "{said:#}"
    );
    let message = problem["message"].as_str().unwrap_or_default();
    ensure!(
        message.contains("`outsideDevices`") && problem["line"].as_u64() > Some(1),
        "{said:#}"
    );
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

/// A URL's status code and text in the node's own namespace.
fn readiness(shop: &Shop) -> Result<(u64, String)> {
    let answer = Curl::get("http://127.0.0.1:9965/readyz").from(shop.world.node.place())?;
    Ok((answer.status, answer.body))
}

#[test]
fn what_vanishes_stays_in_force_and_is_told() -> Result<()> {
    let mut shop = Shop::running()?;
    let request = Curl::get(shop.url(PLAIN, "/"));
    let folder = shop.world.node.config_dir().join("policies");
    let (away, file) = (folder.with_extension("x"), folder.join("backend.yaml"));
    let still_closed = |shop: &Shop, reason: &str| -> Result<()> {
        eventually(&format!("not ready: {reason}"), || {
            let (status, text) = readiness(shop)?;
            ensure!(status == 503 && text.contains(reason), "{status}: {text}");
            Ok(())
        })?;
        let status = shop.world.node.text(&["status"])?;
        ensure!(status.contains(reason) && status.contains("NO"), "{status}");
        request.expect(&shop.frontend, 200)?;
        request.expect_dropped(&shop.stranger)
    };
    std::fs::rename(&folder, &away)?;
    still_closed(&shop, "there is no folder")?;
    // A restart meets the same folders, and knows no more about them.
    shop.world.node.stop_agent()?;
    shop.world.node.start()?;
    still_closed(&shop, "there is no folder")?;
    std::fs::create_dir(&folder)?;
    still_closed(&shop, "the folder is another one")?;
    std::os::unix::fs::symlink("nowhere", &file)?;
    still_closed(&shop, "the link leads to nowhere")?;
    std::fs::remove_file(&file)?;
    std::fs::remove_dir(&folder)?;
    std::fs::rename(&away, &folder)?;
    for text in ["", "# todo\n"] {
        shop.world.node.write("policies/backend.yaml", text)?;
        still_closed(&shop, "delete it to remove")?;
    }
    let check =
        shop.world
            .node
            .tidegate(&["config", "check", "-c", "tidegate.yaml", "-o", "json"])?;
    let said: serde_json::Value = serde_json::from_slice(&check.stdout)?;
    ensure!(!check.status.success() && said["ok"] == false, "{said:#}");
    ensure!(said.to_string().contains("delete it to remove"), "{said:#}");

    // Renamed is not removed.
    shop.world.node.write("policies/backend.yaml", POLICY)?;
    let renamed = folder.join("backend.ymal");
    std::fs::rename(&file, &renamed)?;
    still_closed(&shop, "policies/backend.ymal is, which is not read")?;
    std::fs::rename(&renamed, &file)?;

    // Another folder, which is there and has other files.
    let node = &mut shop.world.node;
    node.write("policies/backend.yaml", POLICY)?;
    node.stop_agent()?;
    let text = std::fs::read_to_string(node.config_dir().join("tidegate.yaml"))?;
    node.write(
        "tidegate.yaml",
        format!("{text}folders: {{policies: other}}\n"),
    )?;
    std::fs::create_dir(node.config_dir().join("other"))?;
    node.write("other/none.yaml", "# nothing yet\n")?;
    node.start()?;
    still_closed(&shop, "policies/backend.yaml: it came from")?;

    shop.world
        .node
        .change(|node| node.remove("policies/backend.yaml"))?;
    request.expect(&shop.stranger, 200)?;
    let (status, text) = readiness(&shop)?;
    ensure!(status == 200, "{text}");
    Ok(())
}

#[test]
fn a_newcomer_that_conflicts_steps_back() -> Result<()> {
    let mut shop = Shop::running()?;
    let request = Curl::get(shop.url(PLAIN, "/"));
    let copy = POLICY.replace("{app: frontend}", "{app: stranger}");
    shop.world.node.write("policies/a-copy.yaml", &copy)?;
    for restart in [false, true] {
        if restart {
            shop.world.node.stop_agent()?;
            shop.world.node.start()?;
        }
        let problem = shop
            .world
            .node
            .problem("exists already in policies/backend.yaml")?;
        assert_eq!(problem["file"], "policies/a-copy.yaml", "{problem}");
        request.expect(&shop.frontend, 200)?;
        request.expect_dropped(&shop.stranger)?;
    }
    // Others go on, and the newcomer has its turn when nothing stands in its way.
    let more = copy.replace("name: backend,", "name: more,");
    shop.world
        .node
        .change(|node| node.write("policies/more.yaml", more))?;
    request.expect(&shop.stranger, 200)?;
    shop.world.node.change(|node| {
        node.remove("policies/more.yaml")?;
        node.remove("policies/backend.yaml")
    })?;
    request.expect(&shop.stranger, 200)?;
    request.expect_dropped(&shop.frontend)?;

    // What is the node's own is nobody's workload.
    let outside = "apiVersion: tidegate.io/v1alpha1\nkind: Endpoint\nmetadata: {name: up}\n\
                   spec: {interface: uplink, addresses: [10.10.0.99]}\n";
    shop.world.node.write("endpoints/up.yaml", outside)?;
    let problem = shop.world.node.problem("node.outsideDevices")?;
    assert_eq!(problem["file"], "endpoints/up.yaml", "{problem}");
    Ok(())
}

fn what_somebody_detaches_is_attached_again(shop: &Shop) -> Result<()> {
    let node = &shop.world.node;
    let request = Curl::get(shop.url(PLAIN, "/"));
    request.expect_dropped(&shop.stranger)?;
    let reattached = || -> Result<u64> {
        let count = &node.status()?["datapath"]["reattached"];
        count.as_u64().context("no count")
    };
    assert_eq!(reattached()?, 0);
    let links = std::fs::read_dir(node.bpffs())?
        .next()
        .context("no pins")??
        .path()
        .join("links");
    // Pins alone: the programs run on, and so must the pins.
    let before = std::fs::read_dir(&links)?.count();
    for pin in std::fs::read_dir(&links)? {
        std::fs::remove_file(pin?.path())?;
    }
    eventually("every pin is there again", || {
        ensure!(std::fs::read_dir(&links)?.count() == before);
        ensure!(reattached()? >= before as u64);
        Ok(())
    })?;
    request.expect(&shop.frontend, 200)?;
    request.expect_dropped(&shop.stranger)?;
    Ok(())
}

#[test]
fn what_a_vendor_brought_along_counts_until_it_is_plainly_removed() -> Result<()> {
    let mut shop = Shop::running()?;
    let request = Curl::get(shop.url(PLAIN, "/"));
    request.expect_dropped(&shop.stranger)?;
    // Of the same name as the operator's: both apply.
    let base = POLICY.replace("{app: frontend}", "{app: stranger}");
    let node = &mut shop.world.node;
    let folder = node.config_dir().join("vendor/policies");
    std::fs::create_dir_all(&folder)?;
    node.write("vendor/policies/base.yaml", base)?;
    let text = std::fs::read_to_string(node.config_dir().join("tidegate.yaml"))?;
    let with = |shop: &mut Shop, vendor: &str| -> Result<()> {
        let node = &mut shop.world.node;
        node.stop_agent()?;
        node.write("tidegate.yaml", format!("{text}{vendor}"))?;
        node.start()
    };
    with(&mut shop, "folders: {vendor: vendor}\n")?;
    request.expect(&shop.stranger, 200)?;
    request.expect(&shop.frontend, 200)?;
    let policies = shop.world.node.text(&["policy", "list"])?;
    assert!(policies.contains("vendor:policies/base.yaml"), "{policies}");

    with(&mut shop, "")?;
    let problem = shop.world.node.problem("folders.vendor: none")?;
    let config = shop.world.node.config_dir().join("tidegate.yaml");
    assert_eq!(problem["file"], config.display().to_string());
    request.expect(&shop.stranger, 200)?;

    with(&mut shop, "folders: {vendor: none}\n")?;
    request.expect_dropped(&shop.stranger)?;
    request.expect(&shop.frontend, 200)?;
    Ok(())
}
