//! Real components through the real path: admitted and compiled by the `tidegate`
//! binary in a process of its own, loaded from the artifact, called. The guests under
//! `tests/guests` misbehave on purpose.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{PermissionsExt as _, symlink},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{sys::stat::Mode, unistd::mkfifo};
use proptest::prelude::*;
use tempfile::TempDir;
use tidegate::{
    plugin_host::{
        Admitted, Binding, Catalog, DnsDecision, Facts, Failure, HttpDecision, PluginStore,
        Runtime, StoreOptions, Worker,
    },
    proxy::contract::Snapshot,
};
use tidegate_policy::compiled::{FailMode, L7Protocol, L7RuleSet, PluginUse};
use tidegate_sdk::{HttpFilter as _, Request};
use tidegate_wire::http::{Header, HttpHead, ResponseHead, Version};

/// A component that `cargo xtask build` made.
fn artifact(name: &str) -> PathBuf {
    let artifacts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/artifacts");
    let path = artifacts.join(name);
    assert!(path.is_file(), "{name} is missing: run `cargo xtask build`");
    path
}

/// A store and a plugins folder of its own.
struct Bench {
    dir: TempDir,
    store: PluginStore,
    tokio: tokio::runtime::Runtime,
}

impl Bench {
    fn new() -> Self {
        Self::with_compiler(env!("CARGO_BIN_EXE_tidegate").into())
    }

    fn with_compiler(program: PathBuf) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut options = StoreOptions::new(dir.path().join("cache"));
        options.program = program;
        Self {
            store: PluginStore::new(options).expect("a store"),
            dir,
            tokio: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime"),
        }
    }

    /// Puts a file into the plugins folder and admits it.
    fn admit(&self, name: &str, bytes: &[u8]) -> Result<Admitted, String> {
        let path = self.dir.path().join(name);
        fs::write(&path, bytes).expect("a plugin file");
        let admitted = self.tokio.block_on(self.store.admit(&path));
        admitted.map_err(|refusal| refusal.to_string())
    }

    fn admit_artifact(&self, artifact_name: &str) -> Admitted {
        let bytes = fs::read(artifact(artifact_name)).expect("an artifact");
        self.admit("plugin.wasm", &bytes).expect(artifact_name)
    }

    fn builtin(&self) -> Vec<Admitted> {
        let builtin = self.tokio.block_on(self.store.builtin());
        builtin.expect("the built-in plugins")
    }
}

/// A snapshot with one rule set per use, numbered from 1.
fn snapshot(plugins: &[&Admitted], uses: &[(&str, &str)]) -> (Snapshot, BTreeMap<String, Vec<u8>>) {
    let rule_set = |(plugin, config): &(&str, &str)| L7RuleSet {
        protocol: L7Protocol::Http,
        chain: vec![PluginUse {
            plugin: (*plugin).to_owned(),
            config: (*config).to_owned(),
            fail_mode: FailMode::Closed,
            rules: vec![71, 72],
        }],
    };
    let snapshot = Snapshot {
        generation: 1,
        l7: (1..).zip(uses.iter().map(rule_set)).collect(),
        plugins: plugins
            .iter()
            .map(|plugin| (plugin.name.clone(), plugin.info.clone()))
            .collect(),
        ..Snapshot::default()
    };
    let artifacts = plugins.iter().map(|plugin| {
        let code = fs::read(&plugin.artifact).expect("compiled code");
        (plugin.info.artifact.clone(), code)
    });
    (snapshot, artifacts.collect())
}

/// The bindings of a first catalog; every plugin must be accepted.
fn bindings(plugins: &[&Admitted], uses: &[(&str, &str)]) -> (Catalog, Vec<Arc<Binding>>) {
    let empty = Catalog::empty(Runtime::start().expect("an engine"));
    let (snapshot, artifacts) = snapshot(plugins, uses);
    let (catalog, refused) = empty.next(&snapshot, &artifacts);
    assert_eq!(refused, []);
    let bindings = bindings_of(&catalog, uses.len());
    (catalog, bindings)
}

fn bindings_of(catalog: &Catalog, count: usize) -> Vec<Arc<Binding>> {
    (1..)
        .take(count)
        .map(|id| catalog.rule_set(id).expect("a rule set").chain[0].clone())
        .collect()
}

fn get<'a>(path: &'a str, headers: &'a [Header<'a>]) -> HttpHead<'a> {
    HttpHead {
        version: Version::Http11,
        method: "GET",
        path,
        authority: "shop.example",
        headers,
    }
}

fn ask(worker: &mut Worker, binding: &Binding, path: &str) -> Result<HttpDecision, Failure> {
    worker.http_request(binding, &get(path, &[]), &Arc::new(Facts::default()))
}

const ALLOW: Result<HttpDecision, Failure> = Ok(HttpDecision::Allow { rule: None });

#[test]
fn the_built_in_matchers_are_plugins() {
    let bench = Bench::new();
    let builtin = bench.builtin();
    let builtin: Vec<_> = builtin.iter().collect();
    let uses = [
        (
            "http",
            r#"{"rules":[{"method":"POST"},{"path":"/a/.*","headers":[["x-k",null]]}]}"#,
        ),
        ("dns", r#"{"patterns":[{"matchPattern":"*.example.com."}]}"#),
    ];
    let (catalog, bound) = bindings(&builtin, &uses);
    let (mut worker, facts) = (Worker::new(), Arc::new(Facts::default()));
    let headers = [Header {
        name: "X-K",
        value: b"",
    }];
    let mut decide = |headers| worker.http_request(&bound[0], &get("/a/b", headers), &facts);
    assert_eq!(decide(&headers), Ok(HttpDecision::Allow { rule: Some(1) }));
    match decide(&[]) {
        Ok(HttpDecision::Deny(denial)) => assert_eq!(denial.status, 403),
        other => panic!("{other:?}"),
    }
    let mut query = |name| worker.dns_query(&bound[1], name, 1, &facts);
    assert_eq!(
        query("www.example.com."),
        Ok(DnsDecision::Allow { rule: Some(0) })
    );
    assert_eq!(query("example.com."), Ok(DnsDecision::Refuse { rcode: 5 }));
    // Asked for the wrong kind of message.
    assert_eq!(
        worker.dns_query(&bound[0], "a.", 1, &facts),
        Err(Failure::WrongWorld)
    );
    assert_eq!(bound[0].label, "http@0.1.0");
    assert_eq!(bound[0].rule(Some(1)), Some(72));
    assert_eq!(bound[0].rule(None), Some(71));
    assert_eq!(catalog.stats()["http"].calls, 3);
}

#[test]
fn an_endless_loop_costs_its_own_request() {
    let bench = Bench::new();
    let spin = bench.admit_artifact("guests/spin.wasm");
    let (catalog, bound) = bindings(&[&spin], &[("spin", "")]);
    let mut worker = Worker::new();
    assert_eq!(ask(&mut worker, &bound[0], "/"), ALLOW);
    let began = Instant::now();
    assert_eq!(ask(&mut worker, &bound[0], "/spin"), Err(Failure::Deadline));
    let took = began.elapsed();
    assert!(
        took >= Duration::from_millis(spin.info.limits.call_ms),
        "{took:?}"
    );
    // Generous: the machine may be busy.
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(ask(&mut worker, &bound[0], "/"), ALLOW);
    let stats = &catalog.stats()["spin"];
    assert_eq!((stats.calls, stats.deadlines, stats.instances), (3, 1, 1));
}

#[test]
fn a_trap_costs_its_own_request_until_the_budget_is_used_up() {
    let bench = Bench::new();
    let trap = bench.admit_artifact("guests/trap.wasm");
    let (catalog, bound) = bindings(&[&trap], &[("trap", "")]);
    let mut worker = Worker::new();
    for path in ["/trap", "/deep"] {
        match ask(&mut worker, &bound[0], path) {
            Err(Failure::Trapped(_)) => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(ask(&mut worker, &bound[0], "/"), ALLOW);
    }
    for _ in 0..8 {
        assert!(ask(&mut worker, &bound[0], "/trap").is_err());
    }
    assert_eq!(ask(&mut worker, &bound[0], "/"), Err(Failure::Suspended));
    let stats = &catalog.stats()["trap"];
    assert_eq!(stats.traps, 10);
    assert!((1..=1_000).contains(&stats.suspended_ms), "{stats:?}");
    thread::sleep(Duration::from_millis(stats.suspended_ms + 1));
    assert_eq!(ask(&mut worker, &bound[0], "/"), ALLOW);
}

#[test]
fn memory_is_bounded() {
    let bench = Bench::new();
    let mut hoard = bench.admit_artifact("guests/hoard.wasm");
    // Time enough to fill 16 MiB on a slow machine: memory is what must end it.
    hoard.info.limits.call_ms = 1_000;
    let (catalog, bound) = bindings(&[&hoard], &[("hoard", "")]);
    let mut worker = Worker::new();
    assert_eq!(
        ask(&mut worker, &bound[0], "/hoard"),
        Err(Failure::OutOfMemory)
    );
    assert_eq!(ask(&mut worker, &bound[0], "/"), ALLOW);
    // A slow leak ends the same way, and the next instance starts afresh.
    let leaks = (0..400).map(|_| ask(&mut worker, &bound[0], "/keep"));
    let failed = leaks.filter(Result::is_err).count();
    assert_eq!(failed, 1);
    assert_eq!(catalog.stats()["hoard"].out_of_memory, 2);
}

#[test]
fn lies_are_corrected_or_refused() {
    let bench = Bench::new();
    let lie = bench.admit_artifact("guests/lie.wasm");
    let (_, bound) = bindings(&[&lie], &[("lie", "")]);
    let mut worker = Worker::new();
    let mut denial = |path| match ask(&mut worker, &bound[0], path) {
        Ok(HttpDecision::Deny(denial)) => denial,
        other => panic!("{path}: {other:?}"),
    };
    assert_eq!(denial("/status").status, 403);
    assert_eq!(denial("/body").body.len(), 64 << 10);
    for path in ["/flood", "/split", "/name", "/frame", "/route", "/many"] {
        match ask(&mut worker, &bound[0], path) {
            Err(Failure::Invalid(_) | Failure::Trapped(_)) => {}
            other => panic!("{path}: {other:?}"),
        }
    }
    match ask(&mut worker, &bound[0], "/rule") {
        Ok(HttpDecision::Allow { rule }) => assert_eq!(bound[0].rule(rule), Some(71)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_guest_cannot_lie_to_the_runtime() {
    let bench = Bench::new();
    let wild = bench.admit_artifact("guests/wild.wasm");
    let lies = ["r", "p", "d", "l", "u", "t"];
    let uses: Vec<_> = ["", "s"].into_iter().chain(lies).collect();
    let uses: Vec<_> = uses.into_iter().map(|how| ("plugin", how)).collect();
    let (_, bound) = bindings(&[&wild], &uses);
    let mut worker = Worker::new();
    assert_eq!(ask(&mut worker, &bound[0], "/"), ALLOW);
    // Does not return from what the host calls to hand the message over.
    assert_eq!(ask(&mut worker, &bound[1], "/"), Err(Failure::Deadline));
    for (binding, (_, how)) in bound.iter().zip(&uses).skip(2) {
        match ask(&mut worker, binding, "/") {
            Err(Failure::Trapped(_)) => {}
            other => panic!("{how}: {other:?}"),
        }
        assert_eq!(ask(&mut worker, &bound[0], "/"), ALLOW, "after {how}");
    }
}

#[test]
fn what_is_too_large_or_spins_from_the_start_never_goes_live() {
    let bench = Bench::new();
    let check = |name: &str, reason: &str| {
        let mut guest = bench.admit_artifact(&format!("guests/{name}.wasm"));
        guest.info.limits.configure_ms = 100;
        let (snapshot, artifacts) = snapshot(&[&guest], &[("plugin", "")]);
        let empty = Catalog::empty(Runtime::start().expect("an engine"));
        let (_, refused) = empty.next(&snapshot, &artifacts);
        assert_eq!(refused.len(), 1, "{name}");
        assert!(refused[0].1.contains(reason), "{name}: {refused:?}");
    };
    check("spin-at-start", "deadline");
    check("large-memory", "out of memory");
    check("large-table", "table limits");
}

#[test]
fn a_file_that_is_no_plugin_is_refused_with_the_reason() {
    let bench = Bench::new();
    let good = fs::read(artifact("guests/trap.wasm")).expect("an artifact");
    let check = |name: &str, bytes: &[u8], reason: &str| {
        let refusal = bench.admit(name, bytes).expect_err(reason);
        assert!(refusal.contains(reason), "{refusal}");
    };
    check("p.wasm", b"", "incomplete");
    check("p.wasm", b"#!/bin/sh\n", "not a WebAssembly file");
    check("p.wasm", b"\0asm\x01\0\0\0", "core module");
    check("p.wasm", &good[..good.len() / 2], "damaged");
    check("p.wasm", b"\0asm\x0d\0\x01\0", "exports neither");
    let mut broken = good.clone();
    let middle = broken.len() / 3;
    broken[middle..middle + 64].fill(0xff);
    assert!(bench.admit("p.wasm", &broken).is_err());
    check("a b.wasm", &good, "file name");
    let smuggle = fs::read(artifact("guests/smuggle.wasm")).expect("an artifact");
    check(
        "p.wasm",
        &smuggle,
        "it uses `clock`, which its manifest does not ask for",
    );
    let http = fs::read(artifact("http.wasm")).expect("an artifact");
    check("p.wasm", &http, "name of a built-in plugin");
    let large = vec![0; (32 << 20) + 1];
    check("p.wasm", &large, "larger than 32 MiB");
}

#[test]
fn odd_entries_of_the_folder_are_refused_and_hold_nothing_up() {
    let bench = Bench::new();
    let path = |name: &[u8]| bench.dir.path().join(OsStr::from_bytes(name));
    let check = |name: &[u8], reason: &str| {
        let admitted = bench.tokio.block_on(bench.store.admit(&path(name)));
        let refusal = admitted.expect_err(reason).to_string();
        assert!(refusal.contains(reason), "{refusal}");
    };
    // Nobody ever writes into it.
    mkfifo(&path(b"pipe.wasm"), Mode::S_IRWXU).expect("a pipe");
    check(b"pipe.wasm", "not a regular file");
    symlink("/dev/zero", path(b"endless.wasm")).expect("a link");
    check(b"endless.wasm", "not a regular file");
    symlink("round.wasm", path(b"round.wasm")).expect("a link");
    check(b"round.wasm", "symbolic links");
    fs::create_dir(path(b"folder.wasm")).expect("a folder");
    check(b"folder.wasm", "not a regular file");
    let good = artifact("guests/trap.wasm");
    fs::copy(&good, path(b"n\xffme.wasm")).expect("a file");
    check(b"n\xffme.wasm", "file name");
    // The file beside a plugin is no different.
    fs::copy(&good, path(b"p.wasm")).expect("a file");
    mkfifo(&path(b"p.yaml"), Mode::S_IRWXU).expect("a pipe");
    check(b"p.wasm", "not a regular file");
}

#[test]
fn a_compiler_that_breaks_down_is_a_refusal() {
    let check = |script: &str, reason: &str| {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let program = dir.path().join("compiler");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("a program");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).expect("a mode");
        let bench = Bench::with_compiler(program);
        let refusal = bench.admit("p.wasm", b"any").expect_err(script);
        assert!(refusal.contains(reason), "{script}: {refusal}");
    };
    check("exit 3", "exit status: 3");
    check("kill -SEGV $$", "signal: 11");
    // Ends well, says nothing; then something that is no report.
    check("cat > /dev/null", "without an answer");
    check("cat > /dev/null; echo nonsense", "without an answer");
}

#[test]
fn the_file_beside_a_plugin_grants_and_limits() {
    let bench = Bench::new();
    let smuggle = fs::read(artifact("guests/smuggle.wasm")).expect("an artifact");
    let with = |sidecar: &str| {
        fs::write(bench.dir.path().join("p.yaml"), sidecar).expect("a file");
        bench.admit("p.wasm", &smuggle)
    };
    let admitted = with("capabilities: [log, clock]\nlimits: {callMs: 3}\n").expect("granted");
    assert_eq!(admitted.info.limits.call_ms, 3);
    assert_eq!(admitted.info.capabilities, ["log", "clock"]);
    let (_, bound) = bindings(&[&admitted], &[("smuggle", "")]);
    assert_eq!(ask(&mut Worker::new(), &bound[0], "/"), ALLOW);
    let refused = |sidecar: &str, reason: &str| {
        let refusal = with(sidecar).expect_err(sidecar);
        assert!(refusal.contains(reason), "{refusal}");
    };
    refused(
        "capabilities: [clock]\n",
        "`log`, which the file beside it does not grant",
    );
    refused(
        "capabilities: [log, clock]\nlimits: {callMs: 0}\n",
        "limits.callMs is 0",
    );
    refused("limit: {}\n", "limit");
    refused("capabilities: [files]\n", "no capability \"files\"");
}

#[test]
fn a_version_that_fails_its_trial_leaves_the_one_before() {
    let bench = Bench::new();
    let trap = bench.admit_artifact("guests/trap.wasm");
    let empty = Catalog::empty(Runtime::start().expect("an engine"));
    let (first, artifacts) = snapshot(&[&trap], &[("trap", "")]);
    let (catalog, refused) = empty.next(&first, &artifacts);
    assert_eq!(refused, []);
    let spin = bench.admit_artifact("guests/spin.wasm");
    let replace = |with: &Admitted, config| {
        let mut with = with.clone();
        with.name = "trap".to_owned();
        let (next, artifacts) = snapshot(&[&with], &[("trap", ""), ("trap", config)]);
        catalog.next(&next, &artifacts)
    };
    // The new version loops in `configure`; the old one accepts both configurations.
    let (stays, refused) = replace(&spin, "spin");
    assert_eq!(
        refused,
        [("trap".to_owned(), Failure::Deadline.to_string())]
    );
    let mut worker = Worker::new();
    for binding in bindings_of(&stays, 2) {
        assert_eq!(ask(&mut worker, &binding, "/"), ALLOW);
        assert_eq!(binding.label, "trap@0.1.0");
    }
    // Same version, a configuration it refuses: that use alone has no answer.
    let (same, refused) = replace(&trap, "refuse");
    assert_eq!(refused.len(), 1);
    assert!(
        refused[0].1.contains("this configuration is refused"),
        "{refused:?}"
    );
    let bound = bindings_of(&same, 2);
    assert_eq!(ask(&mut worker, &bound[0], "/"), ALLOW);
    assert!(matches!(
        ask(&mut worker, &bound[1], "/"),
        Err(Failure::NotConfigured(_))
    ));
    // Code that was not sent, and code that is none.
    let mut other = trap.clone();
    other.info.artifact = "sha256:00".to_owned();
    let (next, _) = snapshot(&[&other], &[("trap", "")]);
    let (_, refused) = empty.next(&next, &BTreeMap::new());
    assert!(refused[0].1.contains("was not sent"), "{refused:?}");
    let junk = BTreeMap::from([("sha256:00".to_owned(), vec![1, 2, 3])]);
    let (catalog, refused) = empty.next(&next, &junk);
    assert!(refused[0].1.contains("cannot load"), "{refused:?}");
    let missing = &bindings_of(&catalog, 1)[0];
    assert_eq!(ask(&mut worker, missing, "/"), Err(Failure::Missing));
}

#[test]
fn a_replacement_under_calls_loses_none() {
    let bench = Bench::new();
    let config = r#"{"deny":["badbot"]}"#;
    let v1 = bench.admit_artifact("examples/bot-filter.wasm");
    let v2 = bench.admit_artifact("examples/bot-filter-v2.wasm");
    assert_eq!((&*v1.info.version, &*v2.info.version), ("1.0.0", "2.0.0"));
    let empty = Catalog::empty(Runtime::start().expect("an engine"));
    let (first, artifacts) = snapshot(&[&v1], &[("bot-filter", config)]);
    let mut catalog = empty.next(&first, &artifacts).0;
    let current = std::sync::RwLock::new(bindings_of(&catalog, 1)[0].clone());
    let stop = AtomicBool::new(false);
    let traffic = || {
        let (mut worker, facts) = (Worker::new(), Arc::new(Facts::default()));
        let headers = [Header {
            name: "User-Agent",
            value: b"BadBot/1",
        }];
        let response = ResponseHead {
            status: 200,
            headers: &[],
        };
        let (mut calls, mut edits) = (0_u32, 0_u32);
        while !stop.load(Ordering::Relaxed) {
            let binding = current.read().expect("a lock").clone();
            assert_eq!(worker.http_request(&binding, &get("/", &[]), &facts), ALLOW);
            let bot = worker.http_request(&binding, &get("/", &headers), &facts);
            assert!(matches!(bot, Ok(HttpDecision::Deny(_))), "{bot:?}");
            if binding.sees_responses() {
                match worker.http_response(&binding, &response, &facts) {
                    Ok(HttpDecision::Edit { edit, .. }) => {
                        assert_eq!(edit.set, [("x-bot-filter".to_owned(), "v2".to_owned())]);
                        edits += 1;
                    }
                    other => panic!("{other:?}"),
                }
            }
            calls += 1;
        }
        (calls, edits)
    };
    thread::scope(|scope| {
        let threads = [scope.spawn(traffic), scope.spawn(traffic)];
        for version in [&v2, &v1].into_iter().cycle().take(20) {
            let (next, artifacts) = snapshot(&[version], &[("bot-filter", config)]);
            let (swapped, refused) = catalog.next(&next, &artifacts);
            assert_eq!(refused, []);
            catalog = swapped;
            *current.write().expect("a lock") = bindings_of(&catalog, 1)[0].clone();
            thread::sleep(Duration::from_millis(10));
        }
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            let (calls, edits) = thread.join().expect("no call failed");
            assert!(calls > edits && edits > 0, "{calls} {edits}");
        }
    });
}

#[test]
fn compiled_code_is_cached_and_checked() {
    let bench = Bench::new();
    let first = bench.admit_artifact("guests/trap.wasm");
    let written = || fs::metadata(&first.artifact).expect("compiled code").len();
    let size = written();
    fs::write(&first.artifact, b"damaged").expect("a file");
    let again = bench.admit_artifact("guests/trap.wasm");
    assert_eq!(first, again);
    assert_eq!(written(), size);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    /// The same matcher, natively and as a component, on the same requests.
    #[test]
    fn the_component_agrees_with_native_code(
        rules in prop::collection::vec((
            prop::option::of("GET|HEAD|GET\\|HEAD|\\[A-H\\]\\+"),
            prop::option::of("/a|/a/\\.\\*|/a/\\[0-9]\\+|/\\(a\\|b\\)/\\.\\*"),
            prop::collection::vec(("x-[xy]", prop::option::of("[ab]{0,2}")), 0..2),
        ), 0..4),
        requests in prop::collection::vec((
            "GET|HEAD|PURGE",
            "/[ab]?(/[0-9a.é]{0,2})?",
            prop::collection::vec(("[xX]-[xyzX]", "[ab]{0,2}"), 0..4),
        ), 50),
    ) {
        thread_local! {
            static BUILTIN: (Bench, Vec<Admitted>) = {
                let bench = Bench::new();
                let builtin = bench.builtin();
                (bench, builtin)
            };
        }
        let config = serde_json::json!({
            "rules": rules.iter().map(|(method, path, headers)| serde_json::json!({
                "method": method, "path": path, "headers": headers,
            })).collect::<Vec<_>>(),
        }).to_string();
        let (_catalog, bound) = BUILTIN.with(|(_, builtin)| {
            bindings(&builtin.iter().collect::<Vec<_>>(), &[("http", &config)])
        });
        let (mut native, _) = tidegate_plugin_http::HttpMatcher::configure(&config).unwrap();
        let (mut worker, facts) = (Worker::new(), Arc::new(Facts::default()));
        for (method, path, headers) in &requests {
            let native = native.on_request(&Request {
                method: method.clone().into(),
                path: path.clone(),
                authority: String::new(),
                headers: headers.iter().map(|(name, value)| (name, value)).collect(),
            });
            let fields: Vec<_> = headers
                .iter()
                .map(|(name, value)| Header { name, value: value.as_bytes() })
                .collect();
            let head = HttpHead { method, authority: "", ..get(path, &fields) };
            let wasm = worker.http_request(&bound[0], &head, &facts).unwrap();
            match wasm {
                HttpDecision::Allow { rule } => {
                    prop_assert!(native.is_allowed());
                    prop_assert_eq!(rule, native.rule());
                }
                HttpDecision::Deny(_) => prop_assert!(!native.is_allowed()),
                HttpDecision::Edit { .. } => prop_assert!(false, "the matcher never edits"),
            }
        }
    }
}
