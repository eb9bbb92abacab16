//! What one plugin call costs: the built-in HTTP matcher as a component against the
//! same matcher as native code, interleaved in one run. Times are processor time of the
//! thread, so that what else the machine does counts as little as possible.
//!
//! `cargo xtask bench plugin` runs it.

use std::{collections::BTreeMap, env, fs, hint::black_box, sync::Arc, time::Duration};

use anyhow::Context;
use nix::time::{ClockId, clock_gettime};
use tidegate_contract::Snapshot;
use tidegate_plugin_host::{Catalog, Facts, PluginStore, Runtime, StoreOptions, Worker};
use tidegate_policy::compiled::{FailMode, L7Id, L7Protocol, L7RuleSet, PluginUse, RuleId};
use tidegate_sdk::{HttpFilter as _, Request};
use tidegate_wire::http::{Header, HttpHead, Version};

/// Rounds; each measures every case both ways, one after the other.
const ROUNDS: usize = 31;
/// Calls per measurement.
const CALLS: u32 = 20_000;

const HEADERS: [(&str, &str); 6] = [
    ("host", "shop.example"),
    ("user-agent", "curl/7.88.1"),
    ("accept", "*/*"),
    ("accept-encoding", "gzip"),
    ("x-request-id", "6f2c1f7e"),
    ("x-role", "admin"),
];

/// Name and rules; the request is always `GET /items/42?full=1` with [`HEADERS`].
const CASES: [(&str, &str); 3] = [
    (
        "words and prefix",
        r#"{"rules":[{"method":"GET|HEAD","path":"/items/.*"}]}"#,
    ),
    (
        "one regex",
        r#"{"rules":[{"method":"GET","path":"/items/[0-9]+(\\?full=1)?"}]}"#,
    ),
    (
        "two headers",
        r#"{"rules":[{"method":"GET","path":"/items/.*","headers":[["x-role","admin"],["x-request-id",null]]}]}"#,
    ),
];

fn main() -> anyhow::Result<()> {
    let program = env::args().nth(1).context("name the tidegate binary")?;
    let catalog = load(&program)?;
    println!("| rules | plugin | native | ratio (median) | 10th–90th percentile |");
    println!("| --- | ---: | ---: | ---: | --- |");
    for (index, (name, config)) in CASES.iter().enumerate() {
        let id = u32::try_from(index)? + 1;
        let set = catalog.rule_set(L7Id(id)).context("a rule set")?;
        let binding = set.chain[0].clone();
        let mut native = Native::new(config)?;
        let (mut worker, facts) = (Worker::new(), Arc::new(Facts::default()));
        let headers = HEADERS.map(|(name, value)| Header {
            name,
            value: value.as_bytes(),
        });
        let head = HttpHead {
            version: Version::Http11,
            method: "GET",
            path: "/items/42?full=1",
            authority: "shop.example",
            headers: &headers,
        };
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let native_ns = time(|| assert!(native.allows(black_box(&head))));
            let plugin_ns = time(|| {
                black_box(worker.http_request(&binding, black_box(&head), &facts))
                    .expect("the matcher answers");
            });
            rounds.push((plugin_ns / native_ns, native_ns, plugin_ns));
        }
        rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (ratio, native_ns, plugin_ns) = rounds[ROUNDS / 2];
        let (low, high) = (rounds[ROUNDS / 10].0, rounds[ROUNDS * 9 / 10].0);
        println!(
            "| {name} | {plugin_ns:.0} ns | {native_ns:.0} ns | {ratio:.1} | {low:.1}–{high:.1} |"
        );
    }
    Ok(())
}

/// The matcher in native code, fed as the host feeds a plugin: strings of its own.
struct Native(tidegate_plugin_http::HttpMatcher);

impl Native {
    fn new(config: &str) -> anyhow::Result<Self> {
        let matcher = tidegate_plugin_http::HttpMatcher::configure(config);
        Ok(Self(matcher.map_err(anyhow::Error::msg)?.0))
    }

    fn allows(&mut self, head: &HttpHead<'_>) -> bool {
        let wanted = head
            .headers
            .iter()
            .filter(|header| header.name.starts_with("x-r"));
        let request = Request {
            method: head.method.to_owned().into(),
            path: head.path.to_owned(),
            authority: head.authority.to_owned(),
            headers: wanted.map(|header| (header.name, header.value)).collect(),
        };
        self.0.on_request(&request).is_allowed()
    }
}

/// Nanoseconds of processor time per call.
fn time(mut call: impl FnMut()) -> f64 {
    let now = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from);
    let began = now().expect("the kernel has this clock");
    for _ in 0..CALLS {
        call();
    }
    let took = now().expect("the kernel has this clock") - began;
    // Duration divides to whole nanoseconds, which is fine enough for a call.
    (took / CALLS).as_nanos() as f64
}

fn load(program: &str) -> anyhow::Result<Catalog> {
    let cache = env::temp_dir().join(format!("tidegate-bench-{}", std::process::id()));
    let mut options = StoreOptions::new(&cache);
    options.program = program.into();
    let store = PluginStore::new(options)?;
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let builtin = tokio.block_on(store.builtin())?;
    let rule_set = |config: &str| L7RuleSet {
        tls: None,
        contexts: Default::default(),
        shadow: None,
        http: Default::default(),
        protocol: L7Protocol::Http,
        chain: vec![PluginUse {
            plugin: "http".to_owned(),
            config: config.to_owned(),
            fail_mode: FailMode::Closed,
            rules: vec![RuleId(1)],
            bound: false,
            in_shadow: false,
        }],
    };
    let mut snapshot = Snapshot {
        l7: (1..)
            .map(L7Id)
            .zip(CASES.map(|(_, config)| Arc::new(rule_set(config))))
            .collect(),
        ..Snapshot::default()
    };
    let mut artifacts = BTreeMap::new();
    for plugin in builtin {
        artifacts.insert(plugin.info.artifact.clone(), fs::read(&plugin.artifact)?);
        snapshot.plugins.insert(plugin.name, plugin.info);
    }
    fs::remove_dir_all(cache)?;
    let catalog = Catalog::empty(Runtime::start()?).next(&snapshot, &artifacts);
    let patience = std::time::Duration::from_secs(10);
    catalog.wait(patience, patience);
    let catalog = catalog.refreshed();
    let refused = catalog.refused();
    anyhow::ensure!(refused.is_empty(), "refused: {refused:?}");
    Ok(catalog)
}
