//! The lab itself: its world routes traffic, and leaves nothing behind.

use std::process::Command;

use anyhow::{Result, ensure};
use tidegate_tests::harness::{Curl, World, server, world::OUTSIDE_V4};

#[test]
fn without_tidegate_everybody_reaches_everybody() -> Result<()> {
    let mut world = World::new()?;
    let frontend = world.workload("frontend")?;
    let backend = world.workload("backend")?;
    let _nginx = server::nginx(&backend, 80, &world.dir())?;
    let _outside = server::nginx(&world.outside, 80, &world.dir())?;

    let answer = Curl::get(format!("http://{}/x", backend.v4)).expect(&frontend, 200)?;
    assert_eq!(
        answer.body,
        format!("backend {} {} GET /x \n", frontend.v4, answer.local_port)
    );
    Curl::get(format!("http://[{}]/", backend.v6)).expect(&frontend, 200)?;
    Curl::get(format!("http://{OUTSIDE_V4}/")).expect(&frontend, 200)?;
    Curl::get(format!("http://{}/", backend.v4)).expect(&world.outside, 200)?;
    Curl::get(format!("http://{}:81/", backend.v4))
        .with(&["--http2-prior-knowledge"])
        .expect(&frontend, 200)?;
    server::udp_echo(&backend, 7)?;
    assert_eq!(
        server::ask_udp(&frontend, (backend.v6, 7), "hello")?,
        "backend hello"
    );
    // Neither an answer nor a refusal is taken for a loss.
    for address in backend.addresses() {
        for (port, said) in [(7, "answered"), (9, "not silent")] {
            let dropped = server::expect_udp_dropped(&frontend, (address, port), "hello");
            let error = dropped.expect_err("not dropped").to_string();
            ensure!(error.contains(said), "{address} port {port}: {error}");
        }
    }
    for (port, what) in [(80, "answered"), (82, "refused")] {
        let dropped = Curl::get(format!("http://{}:{port}/", backend.v4)).expect_dropped(&frontend);
        ensure!(dropped.is_err(), "port {port} {what}");
    }
    Ok(())
}

#[test]
fn a_world_leaves_nothing_behind() -> Result<()> {
    let traces = |tag: &str| -> Result<String> {
        let mounts = std::fs::read_to_string("/proc/mounts")?;
        let namespaces = Command::new("ip").args(["netns", "list"]).output()?;
        let all = mounts + &String::from_utf8_lossy(&namespaces.stdout);
        Ok(all.lines().filter(|line| line.contains(tag)).collect())
    };
    let mut world = World::new()?;
    let workload = world.workload("one")?;
    let dir = world.dir();
    let tag = dir
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let group = workload.cgroup().to_owned();
    let server = server::nginx(&workload, 80, &dir)?;
    // A process nobody holds a handle of, as the proxy is.
    server.detach();
    assert_ne!(traces(&tag)?, "");

    drop(world);

    assert_eq!(traces(&tag)?, "");
    assert!(!dir.exists() && !group.exists());
    Ok(())
}
