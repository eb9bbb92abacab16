//! `kill -9`, and what goes on; and what neither lives nor dies.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tidegate_tests::harness::{
    Capture, Curl, eventually,
    load::{Outcome, Requests, Steady, Visits},
    server,
    world::UPLINK,
};

use crate::shop::{ECHO, HTTP, PEER, PLAIN, POLICY, Shop, read_head};

/// The outside world, which no policy lets in either.
const DENY_LIST: &str = "\
apiVersion: tidegate.io/v1alpha1
kind: DenyList
metadata: {name: outside}
spec:
  cidrs: [192.0.2.96/27]
";

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

/// A request whose answer is under way: the first piece of its body has come back.
fn stream_in_flight(shop: &Shop) -> Result<TcpStream> {
    let mut stream = server::connect(&shop.frontend, (shop.backend.v4, PEER))?;
    stream.write_all(b"POST /api/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    read_head(&mut stream)?;
    let piece = b"5\r\nhello\r\n";
    stream.write_all(piece)?;
    let mut back = [0; 10];
    stream.read_exact(&mut back)?;
    ensure!(back == *piece, "the piece came back changed");
    Ok(stream)
}

/// Waits until the other side has ended a stream; an error if anything else comes.
fn expect_lost(stream: &mut TcpStream) -> Result<()> {
    match stream.read(&mut [0; 64]) {
        Ok(0) => Ok(()),
        Ok(n) => bail!("{n} more bytes came"),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        Err(error) => bail!("the client is left waiting: {error}"),
    }
}

#[test]
fn killing_the_proxy_loses_only_what_is_in_flight_and_lets_nothing_pass() -> Result<()> {
    const KILLS: usize = 3;
    const STREAMS: usize = 4;
    let shop = Shop::with_peer()?;
    let node = &shop.world.node;
    node.change(|node| node.write("policies/deny.yaml", DENY_LIST))?;
    let steady = Steady::start(&shop.frontend, (shop.backend.v4, ECHO))?;
    let capture = Capture::start(&shop.backend, &["GET /admin", "GET /api/"])?;
    let http = (shop.backend.v4, HTTP);
    let allowed = Visits::start(&shop.frontend, http, "/api/x");
    let refused = Visits::start(&shop.frontend, http, "/admin");
    for _ in 0..KILLS {
        let mut streams = (0..STREAMS)
            .map(|_| stream_in_flight(&shop))
            .collect::<Result<Vec<_>>>()?;
        let old = node.kill_proxy()?;
        // Who comes now waits in the backlog; nobody is turned away.
        Curl::get(shop.url(HTTP, "/api/x"))
            .give_up_after(20)
            .expect(&shop.frontend, 200)?;
        streams.iter_mut().try_for_each(expect_lost)?;
        Curl::get(shop.url(PLAIN, "/")).expect_dropped(&shop.stranger)?;
        Curl::get(shop.url(PLAIN, "/")).expect_dropped(&shop.world.outside)?;
        eventually("another proxy runs", || {
            ensure!(node.proxy_pid()? != old);
            Ok(())
        })?;
        allowed.wait_for_more(5, 200)?;
        refused.wait_for_more(5, 403)?;
    }
    for (visits, status) in [(allowed, 200), (refused, 403)] {
        let statuses = visits.finish()?;
        let others: Vec<u16> = statuses.iter().copied().filter(|s| *s != status).collect();
        // One visit at a time: a kill costs the one in flight, if there was one.
        ensure!(
            others.len() <= KILLS && others.iter().all(|status| *status == 0),
            "of {} visits, besides {status}: {others:?}",
            statuses.len()
        );
    }
    ensure!(capture.count("GET /api/")? > 0, "the capture sees nothing");
    assert_eq!(
        capture.count("GET /admin")?,
        0,
        "uninspected at the backend"
    );
    let hits = &node.status()?["datapath"]["denyList"]["192.0.2.96/27"]["packets"];
    ensure!(hits.as_u64() >= Some(KILLS as u64), "{hits}");
    steady.finish()?;
    Ok(())
}

#[test]
fn without_agent_and_proxy_nothing_passes_uninspected() -> Result<()> {
    let mut shop = Shop::running()?;
    let proxy = shop.world.node.proxy_pid()?;
    let steady = Steady::start(&shop.frontend, (shop.backend.v4, ECHO))?;
    let capture = Capture::start(&shop.backend, &["GET /admin", "GET /api/"])?;
    let http = (shop.backend.v4, HTTP);
    let refused = Visits::start(&shop.frontend, http, "/admin");
    refused.wait_for_more(5, 403)?;
    shop.world.node.kill_agent()?;
    kill(Pid::from_raw(proxy.cast_signed()), Signal::SIGKILL)?;
    refused.wait_for_more(1, 0)?;
    for path in ["/api/x", "/admin"] {
        let answer = Curl::get(shop.url(HTTP, path))
            .give_up_after(2)
            .from(&shop.frontend)?;
        ensure!(answer.status == 0, "answered without a proxy: {answer:?}");
    }
    assert_eq!(capture.count("GET /api/")?, 0);
    Curl::get(shop.url(PLAIN, "/")).expect(&shop.frontend, 200)?;
    Curl::get(shop.url(PLAIN, "/")).expect_dropped(&shop.stranger)?;
    steady.finish()?;

    shop.world.node.start()?;
    Curl::get(shop.url(HTTP, "/api/x")).expect(&shop.frontend, 200)?;
    Curl::get(shop.url(HTTP, "/admin")).expect(&shop.frontend, 403)?;
    refused.wait_for_more(5, 403)?;
    let statuses = refused.finish()?;
    ensure!(
        statuses.iter().all(|s| matches!(s, 0 | 403)),
        "{statuses:?}"
    );
    ensure!(capture.count("GET /api/")? > 0, "the capture sees nothing");
    assert_eq!(
        capture.count("GET /admin")?,
        0,
        "uninspected at the backend"
    );
    Ok(())
}

/// Sends a signal to a process.
fn signal(pid: u32, signal: Signal) -> Result<()> {
    Ok(kill(Pid::from_raw(pid.cast_signed()), signal)?)
}

/// Stops one thread of a process as a debugger does, and leaves the others alone.
fn freeze(pid: u32, thread_name: &str) -> Result<()> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"))?;
    let named = tasks.flatten().find(|task| {
        let name = std::fs::read_to_string(task.path().join("comm"));
        name.is_ok_and(|name| name.trim() == thread_name)
    });
    let task = named.with_context(|| format!("no thread {thread_name} in {pid}"))?;
    let thread: libc::pid_t = task.file_name().to_string_lossy().parse()?;
    for request in [libc::PTRACE_SEIZE, libc::PTRACE_INTERRUPT] {
        let nothing = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: neither request reads or writes memory of this process.
        let result = unsafe { libc::ptrace(request, thread, nothing, nothing) };
        nix::errno::Errno::result(result)?;
    }
    Ok(())
}

/// Told, and replaced: a proxy that is stopped, one of whose threads stands still, or that
/// a new agent finds so. One that stood still with everything else is left alone.
#[test]
fn a_proxy_that_hangs_is_told_and_replaced() -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(3);
    let mut shop = Shop::open()?;
    shop.world.node.configure(&format!(
        "node:\n  name: lab\n  outsideDevices: [{UPLINK}]\nproxy:\n  hungAfterSeconds: {}\n",
        LIMIT.as_secs()
    ))?;
    shop.world.node.write("policies/backend.yaml", POLICY)?;
    shop.world.node.start()?;
    let served = |shop: &Shop| {
        Curl::get(shop.url(HTTP, "/api/x"))
            .give_up_after(20)
            .expect(&shop.frontend, 200)
    };
    let replaced = |shop: &Shop, old: u32, said: &str| -> Result<u32> {
        eventually("another proxy serves", || {
            ensure!(shop.world.node.proxy_pid()? != old, "still {old}");
            ensure!(shop.world.node.status()?["proxy"]["state"] == "serving");
            Ok(())
        })?;
        served(shop)?;
        let log = shop.world.node.agent_log();
        ensure!(log.contains(said), "no {said:?} in\n{log}");
        shop.world.node.proxy_pid()
    };

    let first = shop.world.node.proxy_pid()?;
    signal(first, Signal::SIGSTOP)?;
    eventually("it is told", || {
        let ready = Curl::get("http://127.0.0.1:9965/readyz").from(shop.world.node.place())?;
        ensure!(
            ready.status == 503 && ready.body.contains("hanging: it has said nothing"),
            "{ready:?}"
        );
        Ok(())
    })?;
    let second = replaced(
        &shop,
        first,
        "the proxy hangs and is replaced: it has said nothing",
    )?;

    // As when the machine was suspended.
    let agent = shop.world.node.agent()?;
    agent.signal(Signal::SIGSTOP)?;
    signal(second, Signal::SIGSTOP)?;
    // Longer than the limit, which this is about.
    std::thread::sleep(LIMIT + Duration::from_secs(1));
    agent.signal(Signal::SIGCONT)?;
    signal(second, Signal::SIGCONT)?;
    served(&shop)?;
    assert_eq!(shop.world.node.proxy_pid()?, second, "it was well");

    freeze(second, "worker-0")?;
    let third = replaced(&shop, second, "its worker on CPU 0 has done nothing")?;
    let hung = &shop.world.node.status()?["proxy"]["hung"];
    assert_eq!(hung.as_u64(), Some(2), "told in numbers");

    shop.world.node.kill_agent()?;
    signal(third, Signal::SIGSTOP)?;
    shop.world.node.start()?;
    replaced(&shop, third, "the proxy did not answer within 3 s")?;

    // Who asks about a request meanwhile has the kernel's answer, and is told.
    signal(shop.world.node.proxy_pid()?, Signal::SIGSTOP)?;
    let server = format!("backend-1:{HTTP}");
    let question = ["explain", "frontend", &server, "http", "GET", "/api/x"];
    let answer = shop.world.node.json(&question)?;
    assert_eq!(answer["verdict"], "REDIRECTED", "{answer:#}");
    assert_eq!(answer["l7"]["verdict"], "ERROR", "{answer:#}");
    let why = answer["l7"]["reason"].as_str().unwrap_or_default();
    ensure!(why.starts_with("the proxy "), "{answer:#}");
    Ok(())
}
