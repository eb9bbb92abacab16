//! Places in the proxy: one client cannot take those of the others, and one that has
//! vanished does not keep its own.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use anyhow::{Context as _, Result, ensure};
use tidegate_tests::harness::{
    Curl, Peer, Place, eventually, server,
    world::{UPLINK, Workload},
};

use crate::{
    host_services::shop_with_reporter,
    shop::{H2, HTTP, PLAIN, POLICY, Shop},
};

/// Connections each CPU serves in these tests.
const EACH: usize = 40;
/// More than all CPUs of a test machine serve together.
const FLOOD: usize = 600;

#[test]
fn a_client_with_many_connections_leaves_places_for_the_others() -> Result<()> {
    let mut shop = Shop::open()?;
    shop.world.node.configure(&format!(
        "node:\n  name: lab\n  outsideDevices: [{UPLINK}]\nproxy:\n  connectionsPerCpu: {EACH}\n"
    ))?;
    let all = POLICY.replace("{matchLabels: {app: frontend}}", "{}");
    shop.world.node.write("policies/backend.yaml", all)?;
    shop.world.node.start()?;
    let others_are_served = |during: &str| -> Result<()> {
        for url in [shop.url(HTTP, "/api/x"), shop.url6(HTTP, "/api/x")] {
            for _ in 0..3 {
                Curl::get(&url)
                    .expect(&shop.frontend, 200)
                    .with_context(|| format!("during {during}"))?;
            }
        }
        Ok(())
    };

    let silent = flood(&shop, &shop.stranger, b"")?;
    others_are_served("silence")?;
    drop(silent);
    let head = b"POST /api/x HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nslow";
    let slow = flood(&shop, &shop.stranger, head)?;
    others_are_served("slow uploads")?;

    // It is told, and it is true.
    let limit = EACH * std::thread::available_parallelism()?.get();
    eventually("the numbers are told", || {
        let text = Curl::get("http://127.0.0.1:9965/metrics")
            .expect(shop.world.node.place(), 200)?
            .body;
        let sample = |name: &str| -> Result<usize> {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            Ok(line.context("no such sample")?.trim().parse()?)
        };
        ensure!(
            sample("tidegate_proxy_connection_limit ")? == limit,
            "{text}"
        );
        ensure!(
            sample("tidegate_proxy_connections ")? <= limit + limit / 8,
            "{text}"
        );
        // Whoever found no place took another's or went away; which of the two depends on
        // whether the others were busy just then.
        let accepted = sample("tidegate_proxy_accepted_total ")?;
        let without_place =
            sample("tidegate_proxy_evicted_total ")? + sample("tidegate_proxy_turned_away_total ")?;
        ensure!(
            accepted > FLOOD && without_place >= FLOOD - (limit + limit / 8),
            "{text}"
        );
        Ok(())
    })?;
    drop(slow);

    // Both legs are asked from time to time whether somebody is there.
    let mut stream = server::connect(&shop.frontend, (shop.backend.v4, HTTP))?;
    stream.write_all(b"GET /api/x HTTP/1.1\r\nHost: a\r\n\r\n")?;
    ensure!(stream.read(&mut [0; 512])? > 0, "no answer");
    let port = stream.local_addr()?.port();
    let sockets = shop
        .world
        .node
        .place()
        .run("ss", &["-tnoH", "state", "established"])?;
    let sockets = String::from_utf8_lossy(&sockets.stdout).into_owned();
    let legs = sockets
        .lines()
        .filter(|line| line.contains(&format!(":{port} ")));
    let probed = legs.filter(|line| line.contains("timer:(keepalive,"));
    ensure!(
        probed.count() == 2,
        "not two legs with keepalive on {port}:\n{sockets}"
    );
    Ok(())
}

/// Opens more connections than there are places, and sends the same on each. Some of
/// them are turned away at once; that alone is no reason to fail.
fn flood(shop: &Shop, from: &Workload, bytes: &[u8]) -> Result<Vec<TcpStream>> {
    let mut open = Vec::new();
    for _ in 0..FLOOD {
        let Ok(mut stream) = server::connect(from, (shop.backend.v4, HTTP)) else {
            continue;
        };
        let _ = stream.write_all(bytes);
        open.push(stream);
    }
    ensure!(open.len() > EACH, "only {} were accepted", open.len());
    Ok(open)
}

/// Memory of each CPU for bytes on their way in this test, MiB.
const MEMORY: u64 = 8;

/// One client's heads that never end cost no more than its part of the memory; others have
/// room for long ones meanwhile, and afterwards the memory is the machine's again.
#[test]
fn long_heads_cost_bounded_memory_that_is_given_back() -> Result<()> {
    let mut shop = Shop::open()?;
    shop.world.node.configure(&format!(
        "node:\n  name: lab\n  outsideDevices: [{UPLINK}]\nproxy:\n  memoryPerCpuMiB: {MEMORY}\n  \
         http2HeaderListBytes: 8192\n"
    ))?;
    let all = POLICY.replace("{matchLabels: {app: frontend}}", "{}");
    shop.world.node.write("policies/backend.yaml", all)?;
    shop.world.node.start()?;
    // Longer than what everybody gets.
    let long = ["a", "b", "c"].map(|name| format!("{name}: {}", "x".repeat(7_000)));
    let served = || {
        let request = Curl::get(shop.url(HTTP, "/api/x"));
        let headers = long.iter().flat_map(|line| ["-H", line.as_str()]);
        request
            .with(&headers.collect::<Vec<_>>())
            .expect(&shop.frontend, 200)
    };
    served()?;
    // What the file says of HTTP/2 is announced in SETTINGS (RFC 9113 §6.5.2).
    let mut stream = server::connect(&shop.frontend, (shop.backend.v4, HTTP))?;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")?;
    let mut greeting = [0; 9 + 12];
    stream.read_exact(&mut greeting)?;
    let list = [0, 6, 0, 0, 0x20, 0];
    ensure!(
        greeting.windows(list.len()).any(|setting| setting == list),
        "{greeting:?}"
    );
    let proxy = shop.world.node.proxy_pid()?;
    let before = resident(proxy)?;

    let head = format!("GET /{}", "x".repeat(60_000));
    let heads = flood(&shop, &shop.stranger, head.as_bytes())?;
    shop.world.node.record(&["--error", "overload"], |record| {
        record["l7"]["status"] == 503
            && record
                .to_string()
                .contains("no memory is left for this client")
    })?;
    served().context("beside many long heads")?;
    let during = resident(proxy)?;
    let cpus = std::thread::available_parallelism()?.get() as u64;
    ensure!(
        during < before + cpus * MEMORY + 8,
        "{before} MiB before, {during} MiB beside {} heads",
        heads.len()
    );
    drop(heads);
    eventually("the memory is given back", || {
        let after = resident(proxy)?;
        ensure!(after < before + 8, "{before} MiB before, {after} MiB after");
        Ok(())
    })
}

/// Resident memory of a process, MiB.
fn resident(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let size = line.context("no VmRSS")?.trim().trim_end_matches(" kB");
    Ok(size.parse::<u64>()? / 1_024)
}

/// Visits from one port in each manner of leaving.
const VISITS: u32 = 25;
/// The longest that one of them may take, on a busy machine: much less than TIME_WAIT.
const PROMPT_MS: f64 = 2_500.0;

/// Host services are judged where they connect.
const FROM_NODE: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: node, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: backend}}
  ingress:
  - fromEntities: [host]
";

/// A port may be used again as soon as a direct connection would let it be: the leg that
/// has the same ends upstream is no hindrance.
#[test]
fn who_comes_back_from_the_same_port_is_served() -> Result<()> {
    let (mut shop, reporter) = shop_with_reporter()?;
    shop.world.node.write("policies/backend.yaml", POLICY)?;
    shop.world.node.write("policies/node.yaml", FROM_NODE)?;
    shop.world.node.start()?;
    // Ports that nobody is given by chance.
    let mut source = 20_000;
    let mut visits = |client: &Place, leaving: &str, port: u16| -> Result<()> {
        for address in [shop.backend.v4.to_string(), shop.backend.v6.to_string()] {
            source += 1;
            let target = format!("{address},{port},{source},{VISITS}");
            let seen = Peer::Returning.client(client, leaving, &target)?;
            let prompt = seen["slowestMs"].as_f64() < Some(PROMPT_MS);
            ensure!(
                seen["failures"] == serde_json::json!([]) && prompt,
                "{} leaves {address}:{port} by `{leaving}` and returns: {seen:#}",
                client.name()
            );
        }
        Ok(())
    };
    for leaving in ["reset", "unanswered", "server", "first"] {
        // What is promised is what is so without a proxy.
        visits(&shop.frontend, leaving, PLAIN)?;
        visits(&shop.frontend, leaving, HTTP)?;
        visits(&reporter, leaving, HTTP)?;
    }
    visits(&shop.frontend, "http2", H2)?;
    visits(&reporter, "http2", H2)?;
    // Without timestamps TIME_WAIT is waited out, so there must be none.
    shop.backend.sysctl(&["net/ipv4/tcp_timestamps=0"])?;
    for (leaving, port) in [("reset", PLAIN), ("reset", HTTP), ("http2", H2)] {
        visits(&shop.frontend, leaving, port)?;
    }
    Ok(())
}
