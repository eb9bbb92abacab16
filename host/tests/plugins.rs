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
use tidegate_contract::{BindingState, Remembered, Snapshot};
use tidegate_plugin_host::{
    Admitted, Binding, Catalog, DnsDecision, Facts, Failure, HttpDecision, PluginStore, Runtime,
    StoreOptions, Worker,
};
use tidegate_policy::compiled::{
    FailMode, Generation, L7Id, L7Protocol, L7RuleSet, PluginUse, RuleId,
};
use tidegate_sdk::{HttpFilter as _, Request};
use tidegate_signatures::{Trust, TrustedKey};
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

/// Nothing of a file is looked at before it is known whose it is.
#[test]
fn unsigned_and_changed_files_are_refused_where_signatures_are_required() {
    let mut bench = Bench::new();
    let keys = minisign::KeyPair::generate_unencrypted_keypair().expect("keys");
    let public = keys.pk.to_box().expect("a box").into_string();
    let trusted = TrustedKey::read("acme", &public).expect("a key");
    let cache = bench.dir.path().join("cache");
    let open = |required| {
        let mut options = StoreOptions::new(&cache);
        options.program = env!("CARGO_BIN_EXE_tidegate").into();
        options.trust = Trust {
            keys: vec![trusted.clone()],
            required,
        };
        PluginStore::new(options).expect("a store")
    };
    let sign = |bytes: &[u8]| {
        let signed = minisign::sign(None, &keys.sk, std::io::Cursor::new(bytes), None, None);
        let beside = bench.dir.path().join("bot.wasm.minisig");
        fs::write(beside, signed.expect("signed").into_string()).expect("a signature");
    };
    let bytes = fs::read(artifact("examples/bot-filter.wasm")).expect("an artifact");
    let other = fs::read(artifact("examples/bot-filter-v2.wasm")).expect("an artifact");

    bench.store = open(true);
    let refused = bench.admit("bot.wasm", &bytes).unwrap_err();
    assert!(refused.contains("it is not signed"), "{refused}");
    sign(&bytes);
    let admitted = bench.admit("bot.wasm", &bytes).expect("signed");
    assert_eq!(admitted.signer.expect("a signer").name, "acme");
    let refused = bench.admit("bot.wasm", &other).unwrap_err();
    assert!(refused.contains("it is not what acme signed"), "{refused}");
    assert_eq!(bench.builtin().len(), 2, "what is inside needs none");

    bench.store = open(false);
    let refused = bench.admit("bot.wasm", &other).unwrap_err();
    assert!(refused.contains("it is not what acme signed"), "{refused}");
    let plain = bench
        .admit("plain.wasm", &other)
        .expect("need not be signed");
    assert_eq!(plain.signer, None);
    fs::create_dir(bench.dir.path().join("odd.wasm.minisig")).expect("a folder");
    let refused = bench.admit("odd.wasm", &bytes).unwrap_err();
    assert!(refused.contains("not a regular file"), "{refused}");
}

/// Puts bindings of these rule sets in shadow, or takes them out of it.
fn rehearse(wanted: &mut Snapshot, sets: &[u32], in_shadow: bool) {
    for id in sets {
        let set = wanted.l7.get_mut(&L7Id(*id)).expect("a rule set");
        Arc::make_mut(set).chain[0].in_shadow = in_shadow;
    }
}

/// A snapshot with one rule set, and one binding, per use, numbered from 1.
fn snapshot(plugins: &[&Admitted], uses: &[(&str, &str)]) -> (Snapshot, BTreeMap<String, Vec<u8>>) {
    let rule_set = |(n, (plugin, config)): (u32, &(&str, &str))| {
        let set = L7RuleSet {
            tls: None,
            contexts: Default::default(),
            shadow: None,
            http: Default::default(),
            protocol: L7Protocol::Http,
            chain: vec![PluginUse {
                plugin: (*plugin).to_owned(),
                config: (*config).to_owned(),
                fail_mode: FailMode::Closed,
                rules: vec![RuleId(71 + 2 * n), RuleId(72 + 2 * n)],
                bound: false,
                in_shadow: false,
            }],
        };
        (L7Id(n + 1), Arc::new(set))
    };
    let snapshot = Snapshot {
        generation: Generation(1),
        l7: (0..).zip(uses).map(rule_set).collect(),
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
    let (catalog, refused) = next(&empty, &snapshot, &artifacts);
    assert_eq!(refused, []);
    let bindings = bindings_of(&catalog, uses.len());
    (catalog, bindings)
}

/// The catalog that follows, when everything in it was tried.
fn next(
    catalog: &Catalog,
    snapshot: &Snapshot,
    artifacts: &BTreeMap<String, Vec<u8>>,
) -> (Catalog, Vec<(String, String)>) {
    let next = catalog.next(snapshot, artifacts);
    next.wait(PATIENCE, PATIENCE);
    let next = next.refreshed();
    let refused = next.refused();
    (next, refused)
}

/// More than anything here takes on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn bindings_of(catalog: &Catalog, count: usize) -> Vec<Arc<Binding>> {
    (1..)
        .take(count)
        .map(|id| catalog.rule_set(L7Id(id)).expect("a rule set").chain[0].clone())
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
    ask_as(0, worker, binding, path)
}

/// Processor time that this thread has used.
fn thread_time() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)
        .expect("the thread's clock")
        .into()
}

/// Asks for a peer of its own; while an instance is being made, again.
fn ask_as(
    peer: u16,
    worker: &mut Worker,
    binding: &Binding,
    path: &str,
) -> Result<HttpDecision, Failure> {
    let begun = Instant::now();
    loop {
        match ask_once(peer, worker, binding, path) {
            // The machine may be too busy to make one in the time a message has.
            Err(Failure::Restarting) if begun.elapsed() < PATIENCE => {}
            outcome => return outcome,
        }
    }
}

fn ask_once(
    peer: u16,
    worker: &mut Worker,
    binding: &Binding,
    path: &str,
) -> Result<HttpDecision, Failure> {
    let [high, low] = peer.to_be_bytes();
    let facts = Facts {
        source: ([192, 0, high, low], 1).into(),
        ..Facts::default()
    };
    worker.http_request(binding, &get(path, &[]), &Arc::new(facts))
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
    assert_eq!(bound[0].rule(Some(1)), Some(RuleId(72)));
    assert_eq!(bound[0].rule(None), Some(RuleId(71)));
    assert_eq!(catalog.stats()["http"].calls, 3);
}

#[test]
fn an_endless_loop_costs_its_own_request() {
    let bench = Bench::new();
    let spin = bench.admit_artifact("guests/spin.wasm");
    let (catalog, bound) = bindings(&[&spin], &[("spin", "")]);
    let mut worker = Worker::new();
    assert_eq!(ask(&mut worker, &bound[0], "/"), ALLOW);
    let (began, busy) = (Instant::now(), thread_time());
    assert_eq!(ask(&mut worker, &bound[0], "/spin"), Err(Failure::Deadline));
    let (took, busy) = (began.elapsed(), thread_time() - busy);
    let limit = Duration::from_millis(spin.info.limits.call_ms);
    assert!(took >= limit, "{took:?}");
    // What others take from this thread is not the plugin's.
    assert!(busy < 20 * limit, "{busy:?} of {took:?}");
    assert_eq!(ask(&mut worker, &bound[0], "/"), ALLOW);
    let stats = &catalog.stats()["spin"];
    assert_eq!((stats.calls, stats.deadlines), (3, 1));
    // This thread's, and perhaps a spare one.
    assert!((1..=2).contains(&stats.instances), "{stats:?}");
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
    hoard.info.limits.share_percent = 100;
    let (catalog, bound) = bindings(&[&hoard], &[("hoard", "")]);
    let mut worker = Worker::new();
    assert_eq!(
        ask_as(1, &mut worker, &bound[0], "/hoard"),
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
        Ok(HttpDecision::Allow { rule }) => assert_eq!(bound[0].rule(rule), Some(RuleId(71))),
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
        let (_, refused) = next(&empty, &snapshot, &artifacts);
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
    check("p.wasm", b"", "it is empty");
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
    let (catalog, refused) = next(&empty, &first, &artifacts);
    assert_eq!(refused, []);
    let spin = bench.admit_artifact("guests/spin.wasm");
    let replace = |with: &Admitted, config| {
        let mut with = with.clone();
        with.name = "trap".to_owned();
        let (wanted, artifacts) = snapshot(&[&with], &[("trap", ""), ("trap", config)]);
        next(&catalog, &wanted, &artifacts)
    };
    // The new version loops in `configure` of the second binding, which had none before;
    // the first one accepts it.
    let (new, refused) = replace(&spin, "spin");
    assert_eq!(
        refused,
        [("trap".to_owned(), Failure::Deadline.to_string())]
    );
    let mut worker = Worker::new();
    let bound = bindings_of(&new, 2);
    assert_eq!(ask(&mut worker, &bound[0], "/spin"), Err(Failure::Deadline));
    assert_eq!(ask(&mut worker, &bound[1], "/"), Err(Failure::Deadline));
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
    let (wanted, _) = snapshot(&[&other], &[("trap", "")]);
    let (_, refused) = next(&empty, &wanted, &BTreeMap::new());
    assert!(refused[0].1.contains("was not sent"), "{refused:?}");
    let junk = BTreeMap::from([("sha256:00".to_owned(), vec![1, 2, 3])]);
    let (catalog, refused) = next(&empty, &wanted, &junk);
    assert!(refused[0].1.contains("cannot load"), "{refused:?}");
    let missing = &bindings_of(&catalog, 1)[0];
    assert_eq!(ask(&mut worker, missing, "/"), Err(Failure::Missing));
}

/// What is refused for one binding is out for that binding alone, which goes on with what
/// it accepted last; and a corrected file needs no new plugin.
#[test]
fn a_refused_configuration_is_its_bindings_own_affair() {
    use BindingState::{Active, LastGood, Refused};
    let bench = Bench::new();
    let mut trap = bench.admit_artifact("guests/trap.wasm");
    let empty = Catalog::empty(Runtime::start().expect("an engine"));
    let mut worker = Worker::new();
    let step = |before: &Catalog, plugin: &Admitted, configs: [&str; 2]| {
        let uses = configs.map(|config| ("trap", config));
        let (wanted, artifacts) = snapshot(&[plugin], &uses);
        let (catalog, refused) = next(before, &wanted, &artifacts);
        let states: Vec<_> = catalog
            .bindings()
            .into_iter()
            .map(|row| row.state)
            .collect();
        (bindings_of(&catalog, 2), states, refused.len(), catalog)
    };
    // The second team's first configuration is wrong.
    let (bound, states, refused, catalog) = step(&empty, &trap, ["", "refuse"]);
    assert_eq!((states, refused), (vec![Active, Refused], 1));
    assert_eq!(ask(&mut worker, &bound[0], "/"), ALLOW);
    assert!(matches!(
        ask(&mut worker, &bound[1], "/"),
        Err(Failure::NotConfigured(_))
    ));
    // It corrects the file.
    let (bound, states, refused, catalog) = step(&catalog, &trap, ["", "right"]);
    assert_eq!((states, refused), (vec![Active, Active], 0));
    assert_eq!(ask(&mut worker, &bound[1], "/"), ALLOW);
    // It makes another mistake: what was accepted stays, here also if the plugin traps.
    for wrong in ["refuse", "trap"] {
        let (bound, states, refused, _) = step(&catalog, &trap, ["", wrong]);
        assert_eq!((states, refused), (vec![Active, LastGood], 1), "{wrong}");
        for binding in bound {
            assert_eq!(ask(&mut worker, &binding, "/"), ALLOW, "{wrong}");
        }
    }
    // A new version is the first binding's at once, and the old one the second's.
    "0.2.0".clone_into(&mut trap.info.version);
    let (bound, states, _, _) = step(&catalog, &trap, ["", "refuse"]);
    assert_eq!(states, [Active, LastGood]);
    assert_eq!(
        (&*bound[0].label, &*bound[1].label),
        ("trap@0.2.0", "trap@0.1.0")
    );
    // A proxy that starts again is told what was accepted last.
    let (mut wanted, artifacts) = snapshot(&[&trap], &[("trap", ""), ("trap", "refuse")]);
    wanted.remembered = vec![Remembered {
        plugin: "trap".to_owned(),
        rules: bound[1].rules.clone(),
        info: trap.info.clone(),
        config: "right".to_owned(),
    }];
    let (catalog, _) = next(&empty, &wanted, &artifacts);
    assert_eq!(ask(&mut worker, &bindings_of(&catalog, 2)[1], "/"), ALLOW);
    assert_eq!(catalog.bindings()[1].state, LastGood);
}

/// A failure costs its own message, and too many of them cost their sender.
#[test]
fn failures_are_paid_by_the_binding_and_peer_that_cause_them() {
    let bench = Bench::new();
    let trap = bench.admit_artifact("guests/trap.wasm");
    let (catalog, bound) = bindings(&[&trap], &[("trap", ""), ("trap", "")]);
    let mut worker = Worker::new();
    for _ in 0..10 {
        assert!(matches!(
            ask_as(1, &mut worker, &bound[0], "/trap"),
            Err(Failure::Trapped(_))
        ));
    }
    let mut again = |peer, binding: &Binding| ask_as(peer, &mut worker, binding, "/");
    assert_eq!(again(1, &bound[0]), Err(Failure::Suspended));
    assert_eq!(again(2, &bound[0]), ALLOW, "another peer");
    assert_eq!(again(1, &bound[1]), ALLOW, "another binding");
    let rows = catalog.bindings();
    assert_eq!((rows[0].peers_held_back, rows[0].held_back), (1, 1));
    assert_eq!((rows[1].peers_held_back, rows[1].failures), (0, 0));
    // Fail mode open: every message is tried, or a peer could switch the plugin off.
    let (mut wanted, artifacts) = snapshot(&[&trap], &[("trap", "")]);
    if let Some(set) = wanted.l7.get_mut(&L7Id(1)) {
        Arc::make_mut(set).chain[0].fail_mode = FailMode::Open;
    }
    let open = bindings_of(&next(&catalog, &wanted, &artifacts).0, 1);
    for _ in 0..20 {
        assert!(matches!(
            ask_as(3, &mut worker, &open[0], "/trap"),
            Err(Failure::Trapped(_))
        ));
    }
    assert_eq!(ask_as(3, &mut worker, &open[0], "/"), ALLOW);
}

#[test]
fn nothing_of_one_bindings_messages_is_seen_by_another() {
    let bench = Bench::new();
    let gossip = bench.admit_artifact("guests/gossip.wasm");
    let (_, bound) = bindings(&[&gossip], &[("gossip", ""), ("gossip", "")]);
    let mut worker = Worker::new();
    let mut before = |binding: &Binding, path| match ask(&mut worker, binding, path) {
        Ok(HttpDecision::Deny(denial)) => denial.body,
        other => panic!("{other:?}"),
    };
    assert_eq!(before(&bound[0], "/secret"), "before: ");
    assert_eq!(before(&bound[1], "/"), "before: ");
    // It does remember, within its own binding.
    assert_eq!(before(&bound[0], "/"), "before: /secret");

    // Nor by the same binding's other workloads, if the operator says so.
    let word = bench.dir.path().join("plugin.yaml");
    fs::write(word, "limits: {callsPerInstance: 1}\n").expect("the operator's word");
    let gossip = bench.admit_artifact("guests/gossip.wasm");
    let (_, bound) = bindings(&[&gossip], &[("gossip", "")]);
    for path in ["/secret", "/other", "/"] {
        assert_eq!(before(&bound[0], path), "before: ");
    }
}

/// A peer's endless loops are asked about twice, not eighty times a second; the same
/// binding's other peers are served meanwhile, as far as the thread has time for it.
#[test]
fn who_holds_a_thread_for_long_is_not_served_by_the_plugin() {
    let bench = Bench::new();
    let mut spin = bench.admit_artifact("guests/spin.wasm");
    spin.info.limits.share_percent = 1;
    let (catalog, bound) = bindings(&[&spin], &[("spin", ""), ("spin", "")]);
    let mut worker = Worker::new();
    let loops = (0..80).map(|_| ask_as(1, &mut worker, &bound[0], "/spin"));
    let outcomes: Vec<_> = loops.collect();
    let ran = outcomes.iter().filter(|o| **o == Err(Failure::Deadline));
    let ran = ran.count();
    assert!((2..=4).contains(&ran), "{ran} of 80 ran");
    assert_eq!(outcomes[79], Err(Failure::OverShare));
    assert_eq!(ask_as(2, &mut worker, &bound[0], "/"), ALLOW);
    // Many peers together use up the binding's share, and nobody else's.
    let mut over = 0;
    for peer in 10..100 {
        let outcome = ask_as(peer, &mut worker, &bound[0], "/spin");
        over += u32::from(outcome == Err(Failure::OverShare));
    }
    assert!(over > 20, "{over} of 90 were held back");
    assert_eq!(ask_as(2, &mut worker, &bound[1], "/"), ALLOW);
    assert!(catalog.bindings()[0].held_back > 90);
}

/// Neither a configuration that never ends nor a slow start after each failure is
/// anybody else's time.
#[test]
fn configuring_happens_beside_publishing_and_beside_traffic() {
    let bench = Bench::new();
    let spin = bench.admit_artifact("guests/spin.wasm");
    let mut trap = bench.admit_artifact("guests/trap.wasm");
    trap.info.limits.configure_ms = 30_000;
    let empty = Catalog::empty(Runtime::start().expect("an engine"));
    let (first, artifacts) = snapshot(&[&spin, &trap], &[("trap", "slow"), ("trap", "")]);
    let (before, refused) = next(&empty, &first, &artifacts);
    assert_eq!(refused, []);
    let mut worker = Worker::new();
    let bound = bindings_of(&before, 2);
    // The instances it was tried with are used up by failures. None is made here.
    let outcomes: Vec<_> = (0..8)
        .map(|peer| ask_once(peer, &mut worker, &bound[0], "/trap"))
        .collect();
    assert!(matches!(outcomes[0], Err(Failure::Trapped(_))));
    assert_eq!(outcomes[7], Err(Failure::Restarting), "{outcomes:?}");
    assert_eq!(ask(&mut worker, &bound[1], "/"), ALLOW);
    // Seventeen that run to their limit: the next generation is there at once, with what
    // was in use before, and a good newcomer does not wait for their end.
    let mut uses = vec![("trap", "slow"), ("trap", "")];
    uses.extend([("spin", "spin"); 17]);
    uses.push(("trap", "new"));
    let (wanted, artifacts) = snapshot(&[&spin, &trap], &uses);
    let at_once = before.next(&wanted, &artifacts);
    let bound = bindings_of(&at_once, 20);
    assert_eq!(ask(&mut worker, &bound[1], "/"), ALLOW);
    assert_eq!(ask(&mut worker, &bound[2], "/"), Err(Failure::Preparing));
    let states = |catalog: &Catalog| -> Vec<_> {
        catalog
            .bindings()
            .into_iter()
            .map(|row| row.state)
            .collect()
    };
    let ready = |catalog: &Catalog| {
        let bound = bindings_of(catalog, 20);
        ask(&mut Worker::new(), &bound[19], "/") == ALLOW
    };
    let begun = Instant::now();
    let mut catalog = at_once.refreshed();
    while !ready(&catalog) {
        assert!(begun.elapsed() < PATIENCE);
        catalog.wait(Duration::ZERO, Duration::from_millis(20));
        catalog = catalog.refreshed();
    }
    let pending = states(&catalog)
        .into_iter()
        .filter(|state| *state == BindingState::Preparing)
        .count();
    assert!(pending > 0, "the newcomer waited for all of them");
}

/// A total for each plugin, and what is not used any more is given back.
#[test]
fn memory_of_all_instances_together_is_bounded_and_given_back() {
    let bench = Bench::new();
    let mut trap = bench.admit_artifact("guests/trap.wasm");
    // Room for about three instances of a little more than a MiB.
    trap.info.limits.total_memory_bytes = 4 << 20;
    let (wanted, artifacts) = snapshot(&[&trap], &[("trap", ""); 10]);
    // Or for all plugins of the proxy.
    let little = Catalog::empty(Runtime::with_memory(1 << 20).expect("an engine"));
    let (_, refused) = next(&little, &wanted, &artifacts);
    assert_eq!(refused, [("trap".to_owned(), Failure::NoRoom.to_string())]);
    let empty = Catalog::empty(Runtime::start().expect("an engine"));
    let (catalog, refused) = next(&empty, &wanted, &artifacts);
    assert_eq!(refused, [("trap".to_owned(), Failure::NoRoom.to_string())]);
    let stats = &catalog.stats()["trap"];
    assert!(stats.memory_bytes <= 4 << 20, "{stats:?}");
    assert!(stats.memory_refused > 0, "{stats:?}");
    let mut worker = Worker::new();
    let bound = bindings_of(&catalog, 10);
    let served = bound.iter().map(|binding| ask(&mut worker, binding, "/"));
    let served = served.filter(|outcome| *outcome == ALLOW).count();
    assert!((2..10).contains(&served), "{served}");
    // All but one binding go; the rest get what they held.
    let (fewer, _) = snapshot(&[&trap], &[("trap", "")]);
    let (catalog, _) = next(&catalog, &fewer, &artifacts);
    let begun = Instant::now();
    while catalog.stats()["trap"].memory_bytes > 3 << 20 {
        assert!(begun.elapsed() < PATIENCE, "not given back");
        thread::sleep(Duration::from_millis(50));
        worker.sweep();
    }
    // One that had no room before finds some now.
    let (catalog, refused) = next(&catalog, &fewer, &artifacts);
    assert_eq!(refused, []);
    let bound = bindings_of(&catalog, 1);
    assert_eq!(ask(&mut worker, &bound[0], "/"), ALLOW);
}

/// What is only rehearsed has memory of its own, however much it wants; what was in shadow
/// and is enforced now is served out of the other.
#[test]
fn what_is_in_shadow_takes_no_memory_from_what_is_enforced() {
    let bench = Bench::new();
    let mut trap = bench.admit_artifact("guests/trap.wasm");
    trap.info.limits.total_memory_bytes = 8 << 20;
    let (mut wanted, artifacts) = snapshot(&[&trap], &[("trap", ""); 10]);
    let (enforced, in_shadow): (Vec<u32>, Vec<u32>) =
        (1..=10).partition(|id| wanted.l7[&L7Id(*id)].chain[0].rules[0] > RuleId(85));
    rehearse(&mut wanted, &in_shadow, true);
    assert_eq!(enforced.len(), 2);
    let empty = Catalog::empty(Runtime::start().expect("an engine"));
    let (catalog, refused) = next(&empty, &wanted, &artifacts);
    assert_eq!(refused, [("trap".to_owned(), Failure::NoRoom.to_string())]);
    let mut worker = Worker::new();
    let mut served = |catalog: &Catalog| -> Vec<bool> {
        let bound = bindings_of(catalog, 10);
        let mut ask = |binding| ask(&mut worker, binding, "/") == ALLOW;
        bound.iter().map(|binding| ask(binding)).collect()
    };
    let first = served(&catalog);
    assert_eq!(first[8..], [true; 2], "{first:?}");
    assert!(first[..8].contains(&false), "{first:?}");
    rehearse(&mut wanted, &in_shadow, false);
    let (catalog, _) = next(&catalog, &wanted, &artifacts);
    let now = served(&catalog);
    let count = |served: &[bool]| served.iter().filter(|served| **served).count();
    assert!(count(&now) > count(&first), "{first:?}, {now:?}");
}

/// A thread keeps so many instances of what is in shadow, and none the less of what is
/// enforced: an instance remembers what it was asked as long as it is there.
#[test]
fn what_is_in_shadow_takes_no_instance_from_what_is_enforced() {
    const IN_SHADOW: usize = 260;
    let bench = Bench::new();
    let mut gossip = bench.admit_artifact("guests/gossip.wasm");
    gossip.info.limits.total_memory_bytes = 4 << 30;
    let (mut wanted, artifacts) = snapshot(&[&gossip], &[("gossip", ""); 1 + IN_SHADOW]);
    let in_shadow: Vec<u32> = (2..=1 + IN_SHADOW as u32).collect();
    rehearse(&mut wanted, &in_shadow, true);
    let empty = Catalog::empty(Runtime::with_memory(4 << 30).expect("an engine"));
    let (catalog, refused) = next(&empty, &wanted, &artifacts);
    assert_eq!(refused, []);
    let bound = bindings_of(&catalog, 1 + IN_SHADOW);
    let mut worker = Worker::new();
    let mut before = |binding: &Arc<Binding>, path: &str| match ask(&mut worker, binding, path) {
        Ok(HttpDecision::Deny(denial)) => denial.body,
        other => panic!("{other:?}"),
    };
    assert_eq!(before(&bound[0], "/enforced"), "before: ");
    for binding in &bound[1..] {
        assert_eq!(before(binding, "/rehearsed"), "before: ");
    }
    assert_eq!(before(&bound[0], "/"), "before: /enforced");
    // Of those in shadow, the latest are kept.
    assert_eq!(before(&bound[IN_SHADOW], "/"), "before: /rehearsed");
    assert_eq!(before(&bound[1], "/"), "before: ");
}

/// The agent sends code that the snapshot before named no second time, whatever became
/// of that plugin's bindings.
#[test]
fn code_that_a_snapshot_names_is_held_in_use_or_not() {
    let bench = Bench::new();
    let config = r#"{"deny":["badbot"]}"#;
    let v1 = bench.admit_artifact("examples/bot-filter.wasm");
    let v2 = bench.admit_artifact("examples/bot-filter-v2.wasm");
    let empty = Catalog::empty(Runtime::start().expect("an engine"));
    let (first, artifacts) = snapshot(&[&v1], &[("bot-filter", config)]);
    let before = next(&empty, &first, &artifacts).0;
    let remembered = Remembered {
        plugin: "bot-filter".to_owned(),
        rules: vec![RuleId(71), RuleId(72)],
        info: v1.info.clone(),
        config: config.to_owned(),
    };
    let nothing = BTreeMap::new();
    let answers = |catalog: &Catalog| {
        let binding = bindings_of(catalog, 1).remove(0);
        (
            binding.label.clone(),
            ask(&mut Worker::new(), &binding, "/"),
        )
    };

    // Removed and put back.
    let (mut without, _) = snapshot(&[], &[("bot-filter", config)]);
    without.remembered = vec![remembered.clone()];
    let gone = next(&before, &without, &nothing).0;
    assert_eq!(
        answers(&gone),
        ("bot-filter".to_owned(), Err(Failure::Missing))
    );
    assert_eq!(gone.artifacts(), [&*v1.info.artifact]);
    let (back, refused) = next(&gone, &first, &nothing);
    assert_eq!(refused, []);
    assert_eq!(answers(&back), ("bot-filter@1.0.0".to_owned(), ALLOW));

    // Replaced and rolled back, after every binding has accepted the replacement.
    let (mut second, artifacts) = snapshot(&[&v2], &[("bot-filter", config)]);
    second.remembered = vec![remembered];
    let replaced = next(&back, &second, &artifacts).0;
    assert_eq!(answers(&replaced), ("bot-filter@2.0.0".to_owned(), ALLOW));
    let (rolled_back, refused) = next(&replaced, &first, &nothing);
    assert_eq!(refused, []);
    assert_eq!(
        answers(&rolled_back),
        ("bot-filter@1.0.0".to_owned(), ALLOW)
    );
    assert_eq!(rolled_back.artifacts(), [&*v1.info.artifact]);
}

#[test]
fn a_replacement_under_calls_loses_none() {
    let bench = Bench::new();
    let config = r#"{"deny":["badbot"]}"#;
    let admit = |file| {
        let mut version = bench.admit_artifact(file);
        // The threads below do nothing but ask.
        version.info.limits.share_percent = 100;
        version
    };
    let v1 = admit("examples/bot-filter.wasm");
    let v2 = admit("examples/bot-filter-v2.wasm");
    assert_eq!((&*v1.info.version, &*v2.info.version), ("1.0.0", "2.0.0"));
    let empty = Catalog::empty(Runtime::start().expect("an engine"));
    let (first, artifacts) = snapshot(&[&v1], &[("bot-filter", config)]);
    let mut catalog = next(&empty, &first, &artifacts).0;
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
            let (wanted, artifacts) = snapshot(&[version], &[("bot-filter", config)]);
            let (swapped, refused) = next(&catalog, &wanted, &artifacts);
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

/// A refusal is kept like compiled code: the next start does not find out again.
#[test]
fn refusals_are_kept_by_digest_and_interruptions_are_not() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let runs = dir.path().join("runs");
    let program = dir.path().join("compiler");
    let compiler = |last: &str| {
        let real = env!("CARGO_BIN_EXE_tidegate");
        let script = format!("#!/bin/sh\necho >> {}\n{last}\n", runs.display());
        fs::write(&program, script.replace("REAL", real)).expect("a program");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).expect("a mode");
    };
    let ran = || fs::read(&runs).map_or(0, |bytes| bytes.len());
    compiler("exec REAL compile-plugin");
    let bench = Bench::with_compiler(program.clone());
    let nothing = b"\0asm\x0d\0\x01\0";
    let first = bench.admit("p.wasm", nothing).expect_err("nothing in it");
    assert_eq!(bench.admit("q.wasm", nothing).expect_err("again"), first);
    assert_eq!(ran(), 1);
    // Killed from outside: the file is as good as before.
    let good = fs::read(artifact("guests/trap.wasm")).expect("an artifact");
    fs::write(bench.dir.path().join("p.wasm"), &good).expect("a file");
    let admit = || {
        let path = bench.dir.path().join("p.wasm");
        bench.tokio.block_on(bench.store.admit(&path))
    };
    compiler("kill -KILL $$");
    for _ in 0..2 {
        let refusal = admit().expect_err("killed");
        assert!(!refusal.is_final(), "{refusal}");
    }
    assert_eq!(ran(), 3);
    compiler("exec REAL compile-plugin");
    admit().expect("compiled");
    admit().expect("from the cache");
    assert_eq!(ran(), 4);
    // What does not come to an end soon can wait in another line.
    compiler("exec sleep 60");
    let other = fs::read(artifact("guests/spin.wasm")).expect("an artifact");
    let path = bench.dir.path().join("slow.wasm");
    fs::write(&path, other).expect("a file");
    let soon = bench.store.admit_within(&path, Duration::from_millis(50));
    let refusal = bench.tokio.block_on(soon).expect_err("too slow");
    assert!(!refusal.is_final(), "{refusal}");
}

/// However many plugins come and go, the code of those in force stays.
#[test]
fn compiled_code_in_force_is_never_pruned() {
    let bench = Bench::new();
    let kept = bench.admit_artifact("guests/trap.wasm");
    let cache = kept.artifact.parent().expect("a folder").to_owned();
    let old = std::time::SystemTime::now() - Duration::from_secs(86_400);
    let age = |path: &Path| {
        let file = fs::File::options().append(true).open(path);
        file.and_then(|file| file.set_modified(old))
            .expect("a time");
    };
    let others: Vec<_> = (0..100)
        .map(|n| cache.join(format!("{n}-x.cwasm")))
        .collect();
    for path in &others {
        fs::write(path, b"code").expect("a file");
        age(path);
    }
    age(&kept.artifact);
    bench.store.keep([kept.artifact.clone()].into());
    bench.admit_artifact("guests/spin.wasm");
    let left = others.iter().filter(|path| path.exists()).count();
    assert_eq!(left, 64, "what nothing uses is pruned");
    assert!(kept.artifact.exists());
    // One that was only just compiled may be part of a generation on its way.
    let young = bench.admit_artifact("guests/hoard.wasm");
    bench.store.keep([].into());
    bench.admit_artifact("guests/lie.wasm");
    assert!(young.artifact.exists());
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
