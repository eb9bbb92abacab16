//! Filters made for Envoy and Istio through the real path: admitted and compiled by the
//! `tidegate` binary, loaded from the artifact, called. Those under `tests/filters` are made with
//! the public SDK; those written here misbehave in ways no SDK has.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tidegate_contract::{Generation, Snapshot, World};
use tidegate_plugin_host::{
    Admitted, Binding, BodyVerdict, BodyWish, Catalog, Facts, Failure, HeadVerdict, HttpExchange,
    LocalReply, PluginStore, Runtime, StoreOptions, Way, Worker,
};
use tidegate_policy::compiled::{FailMode, L7Id, L7Protocol, L7RuleSet, PluginUse, RuleId};
use tidegate_wire::http::{Header, HeaderEdit, HttpHead, ResponseHead, Version};

/// More than anything here takes on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn artifact(name: &str) -> Vec<u8> {
    let artifacts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/artifacts/filters");
    let path = artifacts.join(name);
    fs::read(&path).unwrap_or_else(|_| panic!("{name} is missing: run `cargo xtask build`"))
}

/// A store with a plugins folder of its own.
struct Bench {
    dir: TempDir,
    store: PluginStore,
    tokio: tokio::runtime::Runtime,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut options = StoreOptions::new(dir.path().join("cache"));
        options.program = PathBuf::from(env!("CARGO_BIN_EXE_tidegate"));
        Self {
            store: PluginStore::new(options).expect("a store"),
            dir,
            tokio: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime"),
        }
    }

    fn admit(&self, name: &str, bytes: &[u8]) -> Result<Admitted, String> {
        let path = self.dir.path().join(name).with_extension("wasm");
        fs::write(&path, bytes).expect("a plugin file");
        let admitted = self.tokio.block_on(self.store.admit(&path));
        admitted.map_err(|refusal| refusal.to_string())
    }

    fn text(&self, name: &str, text: &str) -> Result<Admitted, String> {
        let module = wat::parse_str(text).unwrap_or_else(|error| panic!("{name}: {error}"));
        self.admit(name, &module)
    }
}

/// The bindings of one plugin with these configurations, those that were accepted.
fn bind(plugin: &Admitted, configs: &[&str]) -> (Catalog, Vec<Arc<Binding>>, Vec<String>) {
    let rule_set = |(n, config): (u32, &&str)| {
        let set = L7RuleSet {
            tls: None,
            contexts: Default::default(),
            shadow: None,
            http: Default::default(),
            protocol: L7Protocol::Http,
            chain: vec![PluginUse {
                plugin: plugin.name.clone(),
                config: (*config).to_owned(),
                fail_mode: FailMode::Closed,
                rules: vec![RuleId(n + 70)],
                bound: true,
                in_shadow: false,
            }],
        };
        (L7Id(n), Arc::new(set))
    };
    let snapshot = Snapshot {
        generation: Generation(1),
        l7: (1..).zip(configs).map(rule_set).collect(),
        plugins: [(plugin.name.clone(), plugin.info.clone())]
            .into_iter()
            .collect(),
        ..Snapshot::default()
    };
    let code = fs::read(&plugin.artifact).expect("compiled code");
    let artifacts = BTreeMap::from([(plugin.info.artifact.clone(), code)]);
    let empty = Catalog::empty(Runtime::start().expect("an engine"));
    let next = empty.next(&snapshot, &artifacts);
    next.wait(PATIENCE, PATIENCE);
    let next = next.refreshed();
    let bindings = (1..).take(configs.len()).map(|id| {
        let set = next.rule_set(L7Id(id)).expect("a rule set");
        set.chain[0].clone()
    });
    let refused = next.refused().into_iter().map(|(_, why)| why).collect();
    let bindings = bindings.collect();
    (next, bindings, refused)
}

/// One proxy thread.
#[derive(Default)]
struct Thread(Worker);

impl Thread {
    fn open(&mut self, binding: &Arc<Binding>) -> Result<HttpExchange, Failure> {
        let facts = Arc::new(Facts {
            source: ([192, 0, 2, 1], 4_000).into(),
            destination: ([192, 0, 2, 2], 80).into(),
            ..Facts::default()
        });
        let begun = Instant::now();
        loop {
            match self.0.exchange_open(binding, &facts) {
                Err(Failure::Restarting) if begun.elapsed() < PATIENCE => {}
                opened => return opened,
            }
        }
    }

    fn ask(
        &mut self,
        binding: &Arc<Binding>,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<(HttpExchange, HeadVerdict), Failure> {
        let exchange = self.open(binding)?;
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| Header {
                name,
                value: value.as_bytes(),
            })
            .collect();
        let head = HttpHead {
            version: Version::Http11,
            method: "GET",
            path,
            authority: "shop.example",
            headers: &headers,
        };
        let verdict = self.0.exchange_request(&exchange, &head)?;
        Ok((exchange, verdict))
    }

    /// The fields a response gets.
    fn answer(&mut self, exchange: &HttpExchange) -> BTreeMap<String, String> {
        let headers = [("server", "nginx"), ("content-type", "text/plain")];
        let headers = headers.map(|(name, value)| Header {
            name,
            value: value.as_bytes(),
        });
        let head = ResponseHead {
            status: 200,
            headers: &headers,
        };
        match self.0.exchange_response(exchange, &head) {
            Ok(HeadVerdict::Pass { edit, .. }) => edit.set.into_iter().collect(),
            other => panic!("{other:?}"),
        }
    }

    fn failure(&mut self, binding: &Arc<Binding>, path: &str) -> Failure {
        match self.ask(binding, path, &[]) {
            Err(failure) => failure,
            Ok((_, verdict)) => panic!("{path}: {verdict:?}"),
        }
    }
}

fn edit(verdict: HeadVerdict) -> HeaderEdit {
    match verdict {
        HeadVerdict::Pass { edit, .. } => edit,
        HeadVerdict::Reply(reply) => panic!("{reply:?}"),
    }
}

fn reply(verdict: HeadVerdict) -> LocalReply {
    match verdict {
        HeadVerdict::Reply(reply) => reply,
        pass => panic!("{pass:?}"),
    }
}

#[test]
fn a_filter_of_the_public_sdk_does_here_what_it_says() {
    let bench = Bench::new();
    let sample = bench
        .admit("sample", &artifact("sample.wasm"))
        .expect("admitted");
    assert_eq!(sample.info.world, World::ProxyWasm);
    assert_eq!(
        sample.info.capabilities,
        ["clock", "connection", "log", "metrics"]
    );
    let names = [
        "headers",
        "reply",
        "properties",
        "metrics",
        "shared",
        "shared",
        "callout",
        "body",
        "pause",
        "reserved",
        "ends",
    ];
    let configs = names.map(|name| format!("\"{name}\""));
    let mut uses: Vec<&str> = configs.iter().map(String::as_str).collect();
    uses.push("\"refused\"");
    uses.push(r#"{"vmConfig": "refused", "pluginConfig": "headers"}"#);
    uses.push("\"trapped\"");
    let (catalog, bound, refused) = bind(&sample, &uses);
    assert_eq!(refused.len(), 3, "{refused:?}");
    for why in ["refused its configuration", "(`vmConfig`)", "trapped"] {
        let said = refused.iter().any(|reason| reason.contains(why));
        assert!(said, "{why}: {refused:?}");
    }
    let binding = |name: &str| &bound[names.iter().position(|own| *own == name).expect(name)];
    let thread = &mut Thread::default();

    let sent = [
        ("X-Two", "1"),
        ("x-two", "2"),
        ("x-empty", ""),
        ("x-removed", "r"),
    ];
    let (exchange, verdict) = thread
        .ask(binding("headers"), "/a?b", &sent)
        .expect("headers");
    let changed = edit(verdict);
    let own = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(changed.remove, ["x-removed"]);
    assert_eq!(
        changed.set,
        [
            own("x-replaced", "by the filter"),
            own("x-added", "one"),
            own("x-added", "two")
        ]
    );
    let answer = thread.answer(&exchange);
    for (name, value) in [
        ("x-first-of-two", "1"),
        ("x-none", "None"),
        ("x-was-empty", "Some(\"\")"),
        ("x-count", "true"),
        ("x-filter", "/a?b"),
        ("x-status", "200"),
    ] {
        assert_eq!(
            answer.get(name).map(String::as_str),
            Some(value),
            "{name}: {answer:?}"
        );
    }
    drop(exchange);

    let (_, verdict) = thread
        .ask(binding("reply"), "/reply/503", &[])
        .expect("a reply");
    let said = reply(verdict);
    assert_eq!(
        (said.status, &said.body[..]),
        (503, &b"{\"said\": \"by the filter\"}"[..])
    );
    assert_eq!(
        said.headers[..2],
        [own("x-why", "so"), own("x-why", "and so")]
    );
    let (_, verdict) = thread
        .ask(binding("reply"), "/continues", &[])
        .expect("a reply");
    assert_eq!(
        reply(verdict).status,
        429,
        "a reply counts more than `Continue`"
    );

    let (exchange, _) = thread
        .ask(binding("properties"), "/a?b=c", &[("x-probe", "p")])
        .expect("properties");
    let answer = thread.answer(&exchange);
    for (name, value) in [
        ("x-url-path", "/a"),
        ("x-query", "b=c"),
        ("x-host", "shop.example"),
        ("x-protocol", "HTTP/1.1"),
        ("x-one", "p"),
        ("x-plugin", "sample"),
        ("x-unknown", "absent"),
        ("x-state", "kept"),
        ("x-source", "true"),
    ] {
        assert_eq!(
            answer.get(name).map(String::as_str),
            Some(value),
            "{name}: {answer:?}"
        );
    }

    for count in 1..=2 {
        let (exchange, _) = thread.ask(binding("metrics"), "/", &[]).expect("metrics");
        let answer = thread.answer(&exchange);
        assert_eq!(answer["x-requests"], format!("Ok({count})"));
        assert_eq!(answer["x-level"], "Ok(5)");
    }
    let stats = &catalog.stats()["sample"];
    let counters: Vec<_> = [
        "sample_requests",
        "sample_level",
        "sample_sizes_sum",
        "sample_sizes_count",
    ]
    .into_iter()
    .map(|name| stats.counters.get(name).copied())
    .collect();
    assert_eq!(counters, [Some(2), Some(5), Some(200), Some(2)]);

    let (exchange, _) = thread.ask(binding("callout"), "/", &[]).expect("a callout");
    assert_eq!(thread.answer(&exchange)["x-callout"], "Err(BadArgument)");
    assert!(matches!(
        thread.failure(binding("reserved"), "/length"),
        Failure::Invalid(_)
    ));
    assert!(matches!(
        thread.failure(binding("reserved"), "/host"),
        Failure::Invalid(_)
    ));
    let (_, verdict) = thread
        .ask(
            binding("reserved"),
            "/no-length",
            &[("content-length", "3")],
        )
        .expect("framing");
    assert_eq!(edit(verdict), HeaderEdit::default(), "the host frames");

    for expected in ["0", "1"] {
        let (exchange, _) = thread.ask(binding("ends"), "/", &[]).expect("an end");
        assert_eq!(thread.answer(&exchange)["x-done"], expected);
    }
}

#[test]
fn bodies_wait_and_change() {
    let bench = Bench::new();
    let sample = bench
        .admit("sample", &artifact("sample.wasm"))
        .expect("admitted");
    let (_catalog, bound, _) = bind(&sample, &["\"body\"", "\"pause\""]);
    let thread = &mut Thread::default();
    let (exchange, verdict) = thread
        .ask(&bound[0], "/", &[("content-length", "9")])
        .expect("a head");
    let HeadVerdict::Pass {
        body: BodyWish::Window {
            holds_head: true, ..
        },
        ..
    } = verdict
    else {
        panic!("{verdict:?}");
    };
    let mut show = |data: &[u8], end| thread.0.exchange_body(&exchange, Way::Request, data, end);
    let waits = BodyVerdict::Take {
        count: 0,
        instead: None,
        edit: HeaderEdit::default(),
    };
    assert_eq!(show(b"a", false), Ok(waits.clone()));
    assert_eq!(show(b"a b", false), Ok(waits));
    let BodyVerdict::Take {
        count,
        instead,
        edit,
    } = show(b"a b c", true).expect("an end")
    else {
        panic!("a reply");
    };
    assert_eq!((count, instead.as_deref()), (5, Some(&b"A B C"[..])));
    assert_eq!(edit.set, [("x-body".to_owned(), "5".to_owned())]);
    let (exchange, _) = thread
        .ask(&bound[0], "/", &[("content-length", "8")])
        .expect("a head");
    let said = thread
        .0
        .exchange_body(&exchange, Way::Request, b"a secret", true);
    assert!(matches!(said, Ok(BodyVerdict::Reply(reply)) if reply.status == 422));
    // Nothing ever continues this one.
    let failure = thread.failure(&bound[1], "/");
    assert!(
        failure
            .to_string()
            .contains("nothing that could continue it"),
        "{failure}"
    );
    let holds = module(
        r#"(func (export "proxy_on_request_body") (param i32 i32 i32) (result i32) i32.const 1)"#,
    );
    let holds = bench.text("holds", &holds).expect("admitted");
    let (_catalog, bound, _) = bind(&holds, &["\"\""]);
    let (exchange, _) = thread
        .ask(&bound[0], "/", &[("content-length", "5")])
        .expect("a head");
    let held = thread
        .0
        .exchange_body(&exchange, Way::Request, b"12345", true);
    let held = held.expect_err("the end was held on to");
    assert!(
        held.to_string().contains("nothing that could continue it"),
        "{held}"
    );
}

#[test]
fn time_passes_and_queues_are_worked_off_for_one_binding_alone() {
    let bench = Bench::new();
    let sample = bench
        .admit("sample", &artifact("sample.wasm"))
        .expect("admitted");
    // Told apart by the rules they are for.
    let (_catalog, bound, _) = bind(&sample, &["\"shared\"", "\"shared\""]);
    let thread = &mut Thread::default();
    let ask = |thread: &mut Thread, binding: &Arc<Binding>, path: &str| {
        let (exchange, _) = thread.ask(binding, path, &[]).expect(path);
        thread.answer(&exchange)
    };
    assert_eq!(ask(thread, &bound[0], "/work")["x-seen"], "1");
    let begun = Instant::now();
    loop {
        let wait = thread.0.tick().expect("it wants ticks");
        assert!(wait <= Duration::from_millis(20), "{wait:?}");
        let now = ask(thread, &bound[0], "/");
        if now["x-ticks"] != "0" && now["x-worked"] == "1" {
            assert_eq!(now["x-others-queue"], "None");
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{now:?}");
        // When the guest wants to be called again: the clock is what is tested.
        thread::sleep(wait);
    }
    // The other binding has seen nothing of all that: an instance and values of its own.
    let other = ask(thread, &bound[1], "/");
    assert_eq!((&other["x-seen"][..], &other["x-worked"][..]), ("1", "0"));
    // Another thread of the first has another instance, and the same values.
    let again = ask(&mut Thread::default(), &bound[0], "/");
    assert!(
        again["x-seen"].parse::<u64>().expect("a number") > 2,
        "{again:?}"
    );
}

#[test]
fn tokens_and_patterns_are_checked_as_elsewhere() {
    let bench = Bench::new();
    let token = bench
        .admit("token", &artifact("token.wasm"))
        .expect("admitted");
    let (_catalog, bound, refused) = bind(&token, &["\"a shared key\"", "\"\""]);
    assert_eq!(refused.len(), 1, "a key is needed: {refused:?}");
    let thread = &mut Thread::default();
    // {"alg":"HS256"} . {"sub":"ann"}, signed with `a shared key` by Python's hmac.
    let signed = include_str!("data/token.txt").trim();
    let bearer = format!("Bearer {signed}");
    let (_, verdict) = thread
        .ask(
            &bound[0],
            "/",
            &[("authorization", &bearer), ("x-subject", "root")],
        )
        .expect("a token");
    let changed = edit(verdict);
    assert_eq!(changed.set, [("x-subject".to_owned(), "ann".to_owned())]);
    assert_eq!(changed.remove, ["authorization"]);
    for wrong in [
        format!("{bearer}x"),
        bearer.replace('.', ".e"),
        "Bearer x".to_owned(),
        String::new(),
    ] {
        let (_, verdict) = thread
            .ask(&bound[0], "/", &[("authorization", &wrong)])
            .expect("an answer");
        assert_eq!(reply(verdict).status, 401, "{wrong}");
    }
    let firewall = bench
        .admit("firewall", &artifact("firewall.wasm"))
        .expect("admitted");
    let rules =
        serde_json::json!("path (?i)/etc/passwd\nheader \\$\\{jndi:\nbody (?i-u)union\\s+select")
            .to_string();
    let (_catalog, bound, refused) = bind(&firewall, &[&rules, "\"body (\""]);
    assert_eq!(refused.len(), 1, "{refused:?}");
    for (path, field, expected) in [
        ("/../etc/PASSWD", "x", "path"),
        ("/", "${jndi:ldap://x}", "header"),
    ] {
        let (_, verdict) = thread
            .ask(&bound[0], path, &[("x-field", field)])
            .expect(path);
        let said = reply(verdict);
        assert_eq!(said.status, 403);
        assert_eq!(said.headers[0].1, expected);
    }
    let (exchange, _) = thread
        .ask(
            &bound[0],
            "/",
            &[("x-field", "fine"), ("content-length", "21")],
        )
        .expect("a head");
    let said = thread
        .0
        .exchange_body(&exchange, Way::Request, b"id=1 UNION  select 2", true);
    assert!(matches!(said, Ok(BodyVerdict::Reply(reply)) if reply.status == 403));
}

/// A module with what the contract asks of any, and this.
fn module(rest: &str) -> String {
    let imports: String = rest
        .lines()
        .filter(|line| line.trim().starts_with("(import"))
        .collect();
    let rest: String = rest
        .lines()
        .filter(|line| !line.trim().starts_with("(import"))
        .collect();
    format!(
        r#"(module {imports}
            (memory (export "memory") 2)
            (func (export "proxy_abi_version_0_2_1"))
            {} {rest})"#,
        match rest.contains("proxy_on_memory_allocate") {
            true => "",
            false =>
                r#"(func (export "proxy_on_memory_allocate") (param i32) (result i32) i32.const 4096)"#,
        }
    )
}

#[test]
fn what_cannot_be_served_is_refused_by_name() {
    let bench = Bench::new();
    for (name, text, why) in [
        (
            "unknown",
            module(r#"(import "env" "proxy_unheard_of" (func))"#),
            "`env.proxy_unheard_of`",
        ),
        (
            "files",
            module(r#"(import "wasi_snapshot_preview1" "path_open" (func))"#),
            "`wasi_snapshot_preview1.path_open`",
        ),
        (
            "types",
            module(r#"(import "env" "proxy_log" (func (param i64)))"#),
            "proxy_log",
        ),
        (
            "old",
            r#"(module (memory (export "memory") 1) (func (export "proxy_abi_version_0_1_0")))"#
                .to_owned(),
            "version 0.1.0",
        ),
        (
            "nobody's",
            r#"(module (func (export "run")))"#.to_owned(),
            "core module",
        ),
        (
            "streams",
            module(
                r#"(func (export "proxy_on_new_connection") (param i32) (result i32) i32.const 0)"#,
            ),
            "callbacks for TCP streams and none for HTTP",
        ),
        (
            "no-memory",
            r#"(module (func (export "proxy_abi_version_0_2_0")))"#.to_owned(),
            "no `memory`",
        ),
        (
            "no-room",
            r#"(module (memory (export "memory") 1) (func (export "proxy_abi_version_0_2_0")))"#
                .to_owned(),
            "`malloc`",
        ),
        (
            "large",
            module("").replace(r#""memory") 2"#, r#""memory") 65536"#),
            "",
        ),
    ] {
        let refused = bench.text("filter", &text);
        if name == "large" {
            let large = refused.expect("it is a filter");
            let (_catalog, _, refused) = bind(&large, &["\"\""]);
            assert!(refused[0].contains("memory"), "{refused:?}");
            continue;
        }
        let refused = refused.map(|admitted| admitted.name).expect_err(name);
        assert!(refused.contains(why), "{name}: {refused}");
    }
    let filter = bench.admit("sample", &artifact("sample.wasm"));
    assert!(filter.is_ok());
    fs::write(
        bench.dir.path().join("sample.yaml"),
        "capabilities: [clock, log, metrics]\n",
    )
    .expect("a file");
    let refused = bench
        .admit("sample", &artifact("sample.wasm"))
        .map(|admitted| admitted.name);
    assert!(
        refused
            .as_ref()
            .is_err_and(|why| why.contains("`connection`")),
        "{refused:?}"
    );
}

#[test]
fn misbehaving_costs_its_own_binding() {
    let bench = Bench::new();
    let thread = &mut Thread::default();
    let head = |body: &str| {
        format!(
            r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) {body})"#
        )
    };
    let get = r#"(import "env" "proxy_get_header_map_pairs" (func $pairs (param i32 i32 i32) (result i32)))"#;
    let exit = r#"(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))"#;
    let set = r#"(import "env" "proxy_set_shared_data" (func $set (param i32 i32 i32 i32 i32) (result i32)))"#;
    let is = |failure: &Failure, part: &str| failure.to_string().contains(part);
    for (name, text, why) in [
        ("never answers", module(&head("(loop br 0) i32.const 0")), "deadline"),
        ("traps", module(&head("unreachable")), "trapped"),
        ("grows", module(&head("(loop (br_if 0 (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable")), "memory"),
        ("an action that is none", module(&head("i32.const 7")), "action"),
        ("ends itself", module(&format!("{exit}\n{}", head("(call $exit (i32.const 3)) i32.const 0"))), "proc_exit"),
        (
            // What the host wants to hand over goes to where the guest says, or nowhere.
            "memory beyond its own",
            module(&format!(
                "{get}\n{}{}",
                r#"(func (export "proxy_on_memory_allocate") (param i32) (result i32) i32.const -8)"#,
                head("(if (i32.ne (call $pairs (i32.const 0) (i32.const 0) (i32.const 4)) (i32.const 6)) (then unreachable)) i32.const 7")
            )),
            "action",
        ),
        (
            "asks while it is asked for memory",
            module(&format!(
                "{get}\n{}{}",
                r#"(func (export "proxy_on_memory_allocate") (param i32) (result i32)
                    (if (i32.ne (call $pairs (i32.const 0) (i32.const 0) (i32.const 4)) (i32.const 10)) (then unreachable))
                    i32.const 4096)"#,
                head("(if (call $pairs (i32.const 0) (i32.const 0) (i32.const 4)) (then unreachable)) i32.const 7")
            )),
            "action",
        ),
        (
            // More than there may be is refused, however often it tries.
            "fills what is shared",
            module(&format!(
                "{set}\n{}",
                head(
                    "(local $n i32) (local $status i32)
                    (loop
                        (i32.store (i32.const 0) (local.get $n))
                        (local.set $status (call $set (i32.const 0) (i32.const 4) (i32.const 0) (i32.const 65536) (i32.const 0)))
                        (local.set $n (i32.add (local.get $n) (i32.const 1)))
                        (br_if 0 (i32.lt_u (local.get $n) (i32.const 40))))
                    (if (i32.ne (local.get $status) (i32.const 10)) (then unreachable))
                    i32.const 7"
                )
            )),
            "action",
        ),
    ] {
        let filter = bench.text("filter", &text).unwrap_or_else(|why| panic!("{name}: {why}"));
        let (_catalog, bound, refused) = bind(&filter, &["\"\""]);
        assert_eq!(refused, [] as [String; 0], "{name}");
        let failure = thread.failure(&bound[0], "/");
        assert!(is(&failure, why), "{name}: {failure}");
        // The next exchange has a fresh instance.
        let failure = thread.failure(&bound[0], "/");
        assert!(is(&failure, why), "{name}: {failure}");
    }
    let spins = module(
        r#"(func (export "proxy_on_configure") (param i32 i32) (result i32) (loop br 0) i32.const 1)"#,
    );
    let spins = bench.text("filter", &spins).expect("admitted");
    let (_catalog, _, refused) = bind(&spins, &["\"\""]);
    assert!(refused[0].contains("deadline"), "{refused:?}");
    let wrong = module(
        r#"(func (export "proxy_on_request_headers") (param i32) (result i32) i32.const 0)"#,
    );
    let wrong = bench.text("filter", &wrong).expect("admitted");
    let (_catalog, _, refused) = bind(&wrong, &["\"\""]);
    assert!(
        refused[0].contains("`proxy_on_request_headers`"),
        "{refused:?}"
    );
}
