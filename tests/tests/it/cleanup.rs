//! `tidegate cleanup` removes everything that was ever attached, pinned or routed.

use std::process::Command;

use anyhow::{Result, ensure};
use tidegate_tests::harness::{Curl, Place, eventually};

use crate::shop::{PLAIN, Shop};

/// What a node carries of Tidegate, as other tools see it.
fn traces(node: &Place) -> Result<String> {
    let mut text = String::new();
    for arguments in [
        &["rule", "show"][..],
        &["-6", "rule", "show"],
        &["route", "show", "table", "2005"],
    ] {
        let out = Command::new("ip")
            .arg("-n")
            .arg(node.netns())
            .args(arguments)
            .output()?;
        text += &String::from_utf8_lossy(&out.stdout);
    }
    let ours = text
        .lines()
        .filter(|line| line.contains("2005") || line.contains("local default"));
    Ok(ours.collect())
}

/// Does a process run? One that has ended and waits for its parent does not.
fn runs(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/status"))
        .is_ok_and(|status| !status.contains("State:\tZ"))
}

#[test]
fn stopping_leaves_the_datapath_and_cleaning_up_leaves_nothing() -> Result<()> {
    let mut shop = Shop::running()?;
    let proxy = shop.world.node.proxy_pid()?;
    let request = Curl::get(shop.url(PLAIN, "/"));
    shop.world.node.stop_agent()?;
    request.expect_dropped(&shop.stranger)?;
    assert_ne!(traces(shop.world.node.place())?, "");

    let config = shop.world.node.config_dir().join("tidegate.yaml");
    shop.world
        .node
        .text(&["cleanup", "-c", &config.display().to_string()])?;
    request.expect(&shop.stranger, 200)?;
    assert_eq!(traces(shop.world.node.place())?, "");
    eventually("the proxy has ended", || {
        ensure!(!runs(proxy), "it still runs");
        Ok(())
    })?;
    let pins = std::fs::read_dir(shop.world.node.bpffs())?.count();
    assert_eq!(pins, 0);
    Ok(())
}
