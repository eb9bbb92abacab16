//! Control driven by made-up events, with sinks that only write down what they get.

mod built_in;
mod identities;
mod in_force;
mod newcomers;
mod sources;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use tidegate_contract::{Limits, PluginInfo, Reject, Snapshot, World};
use tidegate_policy::{
    Mode, NumbersInUse, Origin, Source,
    compiled::{Compiled, Generation},
};
use tidegate_signatures::Trust;
use tidegate_sources::{
    News,
    folder::{FormerFolder, Scan, VENDOR, testing},
};

use crate::{
    identities::{Allocator, Local},
    standing::PolicyState,
};

use super::{
    event::Event,
    plugins::{Candidate, Examination, Request},
    problems::NamedAt,
    sinks::{Kernel, KernelStatus, Sinks},
    state::{Control, Settings},
    store::Store,
    view::{ProblemView, View},
};

/// What reached the sinks, and how they answer.
#[derive(Default)]
struct Record {
    /// `proxy N` and `kernel N`, in order.
    calls: Vec<String>,
    generation: Generation,
    compiled: Compiled,
    snapshot: Snapshot,
    refuse_kernel: bool,
    other_sources: bool,
    /// Most endpoints the kernel holds; 0: any number.
    room: usize,
    numbers: NumbersInUse,
    refuse_plugin: Option<String>,
}

#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Record>>);

impl Recorder {
    fn with<T>(&self, f: impl FnOnce(&mut Record) -> T) -> T {
        f(&mut self.0.lock().expect("not poisoned"))
    }
}

impl Sinks for Recorder {
    async fn publish_proxy(
        &mut self,
        snapshot: Snapshot,
        _: BTreeMap<String, PathBuf>,
    ) -> anyhow::Result<Vec<(String, String)>> {
        self.with(|record| {
            record.calls.push(format!("proxy {}", snapshot.generation));
            record.snapshot = snapshot;
            Ok(record
                .refuse_plugin
                .iter()
                .map(|name| (name.clone(), "self-test failed".to_owned()))
                .collect())
        })
    }

    async fn publish_kernel(
        &mut self,
        generation: Generation,
        compiled: Arc<Compiled>,
        other_sources: bool,
    ) -> anyhow::Result<KernelStatus> {
        self.with(|record| {
            record.calls.push(format!("kernel {generation}"));
            if record.refuse_kernel {
                anyhow::bail!("table POLICY is full");
            }
            record.generation = generation;
            record.other_sources = other_sources;
            record.compiled = Compiled::clone(&compiled);
            Ok(KernelStatus::default())
        })
    }
}

impl Kernel for Recorder {
    fn too_much(&self, compiled: &Compiled) -> Option<String> {
        let room = self.with(|record| record.room);
        (room != 0 && compiled.endpoints.len() > room).then(|| format!("room for {room} endpoints"))
    }

    fn generation(&self) -> Generation {
        self.with(|record| record.generation)
    }

    fn has_other_sources(&self) -> bool {
        self.with(|record| record.other_sources)
    }

    fn numbers_in_use(&self) -> anyhow::Result<NumbersInUse> {
        Ok(self.with(|record| record.numbers))
    }
}

/// Control with its folders, and what a test says about them.
struct Bench {
    control: Control<Recorder>,
    sinks: Recorder,
    scan: Scan,
    state: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let mut bench = Self::of_silent_vendor();
        bench.no_vendor();
        bench
    }

    /// Nobody names a vendor's folder.
    fn no_vendor(&mut self) {
        let news = News::Unnamed("name it".into());
        self.control.apply(Event::Told(Source::named(VENDOR), news));
    }

    /// It is not known yet whether there is a vendor's folder.
    fn of_silent_vendor() -> Self {
        let state = tempfile::tempdir().expect("a folder");
        let sinks = Recorder::default();
        Self {
            control: Self::control(&state, &sinks),
            sinks,
            scan: Scan::default(),
            state,
        }
    }

    fn control(state: &tempfile::TempDir, sinks: &Recorder) -> Control<Recorder> {
        Self::control_with(state, sinks, Trust::default(), Local)
    }

    /// The same, believing whom it is told, and with somebody to give numbers to label sets.
    fn control_with(
        state: &tempfile::TempDir,
        sinks: &Recorder,
        trust: Trust,
        identities: impl Allocator + 'static,
    ) -> Control<Recorder> {
        let policies = NamedAt {
            file: "tidegate.yaml".into(),
            line: 7,
            column: 13,
            key: "folders.policies",
        };
        let settings = Settings {
            node: "n1".into(),
            mode: Mode::Default,
            audit: false,
            fqdn_min_ttl: 0,
            reject: Reject::default(),
            folders: [(Origin::from("policies"), policies)].into(),
            trust,
        };
        let store = Store::open(state.path()).expect("opens");
        Control::new(settings, sinks.clone(), store, Vec::new(), identities).expect("starts")
    }

    /// A new agent on the same state folder and kernel.
    fn restart(&mut self) {
        self.control = Self::control(&self.state, &self.sinks);
        self.no_vendor();
        self.sinks.with(|record| record.calls.clear());
    }

    /// The same, on a node that takes plugins of nobody.
    fn restart_and_believe_nobody(&mut self) {
        let nobody = Trust {
            required: true,
            ..Trust::default()
        };
        self.control = Self::control_with(&self.state, &self.sinks, nobody, Local);
        self.no_vendor();
        self.sinks.with(|record| record.calls.clear());
    }

    fn write(&mut self, name: &str, text: &str) -> &mut Self {
        self.scan.documents.insert(name.into(), Ok(text.into()));
        self
    }

    fn remove(&mut self, name: &str) -> &mut Self {
        self.scan.documents.remove(name);
        self
    }

    async fn settle(&mut self) -> Vec<Request> {
        let requests = self
            .control
            .apply(Event::Scanned(Source::folders(), self.scan.clone()));
        self.publish().await;
        requests
    }

    async fn publish(&mut self) {
        self.control.publish_all(self.sinks.clone()).await;
    }

    /// Publishes what the folders hold and returns the calls that made.
    async fn calls(&mut self) -> Vec<String> {
        self.sinks.with(|record| record.calls.clear());
        self.settle().await;
        self.sinks.with(|record| record.calls.clone())
    }

    fn view(&self) -> Arc<View> {
        self.control.view().borrow().clone()
    }

    /// Names of the rules in force.
    fn rules(&self) -> Vec<String> {
        self.sinks.with(|record| {
            let names: std::collections::BTreeSet<_> = record
                .compiled
                .rules
                .values()
                .map(|rule| rule.policy.clone())
                .collect();
            names.into_iter().collect()
        })
    }
}

impl Bench {
    /// Everything lost but the kernel's tables: a new state folder.
    fn restart_without_state(&mut self) {
        self.lose_state();
        self.no_vendor();
    }

    /// The same, and nothing is known of a vendor's folder yet.
    fn lose_state(&mut self) {
        self.state = tempfile::tempdir().expect("a folder");
        self.control = Self::control(&self.state, &self.sinks);
        self.sinks.with(|record| record.calls.clear());
    }

    /// A node after a reboot: the state folder is there, the kernel's tables are not.
    fn reboot(&mut self) {
        self.sinks.with(|record| {
            record.generation = Generation(0);
            record.compiled = Compiled::default();
        });
        self.restart();
    }

    fn folder(&mut self, label: &str, inode: u64) -> &mut Self {
        self.scan
            .folders
            .insert(label.into(), testing::folder(label, inode));
        self.scan.unreadable.remove(label);
        self
    }

    /// Another file system is mounted there, whose top folder has the same numbers.
    fn remount(&mut self, label: &str, inode: u64) -> &mut Self {
        let id = testing::made_later(testing::folder(label, inode));
        self.scan.folders.insert(label.into(), id);
        self
    }

    /// tidegate.yaml names another folder, with these files; the former one is as it was.
    fn move_to(&mut self, label: &str, path: &str, inode: u64, files: &[(&str, &str)]) {
        let former = self
            .scan
            .folders
            .insert(label.into(), testing::folder(path, inode));
        let of_folder = |name: &String| name.starts_with(&format!("{label}/"));
        let names = self.scan.documents.keys().filter(|name| of_folder(name));
        let names = names.filter_map(|name| Some(name.split_once('/')?.1.to_owned()));
        if let Some(id) = former {
            let files = names.collect();
            let former = FormerFolder {
                id,
                files,
                unread: BTreeMap::new(),
            };
            let path = former.id.path().to_owned();
            self.scan.former.insert(path, Ok(former));
        }
        self.scan.documents.retain(|name, _| !of_folder(name));
        for (file, text) in files {
            self.write(&format!("{label}/{file}"), text);
        }
    }

    /// The folder is moved away.
    fn vanish(&mut self, label: &str) -> &mut Self {
        self.scan.folders.remove(label);
        self.scan
            .unreadable
            .insert(label.into(), format!("there is no folder /etc/{label}"));
        self.scan
            .documents
            .retain(|name, _| !name.starts_with(label));
        self
    }

    fn fail(&mut self, name: &str, why: &str) -> &mut Self {
        self.scan.documents.insert(name.into(), Err(why.into()));
        self
    }

    /// Is `web` in default deny for what comes in?
    fn is_closed(&self) -> bool {
        self.sinks.with(|record| {
            let mut endpoints = record.compiled.endpoints.values();
            endpoints.any(|endpoint| endpoint.default_deny.ingress)
        })
    }

    /// What the node is not ready for has this in it.
    fn expect_not_ready(&self, text: &str) {
        let view = self.view();
        assert!(
            view.not_ready.iter().any(|why| why.contains(text)),
            "no {text:?} in {:#?}",
            view.not_ready
        );
    }

    /// Only what these sinks lack, a proxy, is missing.
    fn expect_ready(&self) {
        let view = self.view();
        let others = view.not_ready.iter().filter(|why| !why.contains("proxy"));
        assert_eq!(others.count(), 0, "{:#?}", view.not_ready);
    }
}

#[tokio::test]
async fn the_proxy_is_told_which_names_only_shadow_asks_for() {
    let mut bench = Bench::new();
    let names = |mode: &str| {
        format!(
            "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: p, namespace: \
             shop, annotations: {{tidegate.io/enforcement: {mode}}}}}\nspec: {{endpointSelector: {{}}, \
             egress: [{{toFQDNs: [{{matchName: a.example}}]}}]}}\n"
        )
    };
    for (mode, in_shadow) in [("shadow", 1), ("enforce", 0)] {
        bench.write("p.yaml", &names(mode)).settle().await;
        let told = bench.sinks.with(|record| {
            let snapshot = &record.snapshot;
            (snapshot.fqdn.len(), snapshot.fqdn_in_shadow.len())
        });
        assert_eq!(told, (1, in_shadow), "{mode}");
    }
}

const WEB: &str = "
apiVersion: tidegate.io/v1alpha1
kind: Endpoint
metadata: {name: web, labels: {app: web}}
spec: {interface: tg-web, addresses: [10.0.0.1]}
";

fn allow(name: &str, port: u16) -> String {
    format!(
        "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: {name}, namespace: default}}
spec:
  endpointSelector: {{matchLabels: {{app: web}}}}
  ingress:
  - fromEntities: [world]
    toPorts: [{{ports: [{{port: \"{port}\", protocol: TCP}}]}}]
"
    )
}

#[tokio::test]
async fn changes_that_arrive_together_are_one_generation_proxy_first() {
    let mut bench = Bench::new();
    bench
        .write("endpoints/web.yaml", WEB)
        .write("policies/a.yaml", &allow("a", 80));
    assert_eq!(bench.calls().await, ["proxy 1", "kernel 1"]);
    assert_eq!(bench.rules(), ["a"]);
    assert_eq!(bench.view().generation, Generation(1));
    assert_eq!(bench.view().endpoints.len(), 1);
    assert_eq!(bench.view().policies[0].selects, ["default/web"]);

    assert_eq!(bench.calls().await, [""; 0], "nothing changed");
    bench
        .write("policies/b.yaml", &allow("b", 81))
        .write("policies/a.yaml", &allow("a", 82));
    assert_eq!(bench.calls().await, ["proxy 2", "kernel 2"]);
}

#[tokio::test]
async fn what_changes_while_a_generation_is_on_its_way_belongs_to_the_next() {
    let mut bench = Bench::new();
    bench
        .write("endpoints/web.yaml", WEB)
        .write("policies/a.yaml", &allow("first", 80));
    let scan = |bench: &Bench| Event::Scanned(Source::folders(), bench.scan.clone());
    bench.control.apply(scan(&bench));
    let first = bench.control.settle().expect("something to publish");
    bench.write("policies/a.yaml", "kind: [");
    bench.control.apply(scan(&bench));
    bench.write("policies/b.yaml", &allow("later", 81));
    bench.control.apply(scan(&bench));
    assert!(bench.control.settle().is_none(), "one at a time");

    let outcome = first.run(bench.sinks.clone()).await;
    assert_eq!(bench.rules(), ["first"]);
    bench.control.apply(Event::Published(outcome));
    bench.publish().await;
    assert_eq!(
        bench.rules(),
        ["first", "later"],
        "the broken file goes on with what was published"
    );
    let kept = Store::at(bench.state.path()).past().expect("reads").texts;
    assert!(
        kept[&"policies/a.yaml".into()].contains("first"),
        "{kept:?}"
    );
}

#[tokio::test]
async fn a_broken_file_keeps_its_last_good_version_and_stops_no_other() {
    let mut bench = Bench::new();
    bench
        .write("endpoints/web.yaml", WEB)
        .write("policies/a.yaml", &allow("a", 80));
    bench.settle().await;
    for broken in [
        "kind: [",
        "apiVersion: cilium.io/v2\nkind: NoSuchKind\n",
        "",
        "  \n",
    ] {
        bench
            .write("policies/a.yaml", broken)
            .write("policies/b.yaml", &allow("b", 81));
        bench.settle().await;
        assert_eq!(bench.rules(), ["a", "b"], "after {broken:?}");
        let view = bench.view();
        let problem = &view.problems[0];
        assert_eq!(
            (problem.file.as_str(), problem.last_good),
            ("policies/a.yaml", true),
            "{problem:?}"
        );
        let state = |file: &str| {
            view.policies
                .iter()
                .find(|p| p.file == file)
                .map(|p| p.state)
        };
        assert_eq!(state("policies/a.yaml"), Some(PolicyState::LastGood));
        assert_eq!(state("policies/b.yaml"), Some(PolicyState::Active));
    }
    bench.write("policies/a.yaml", &allow("mended", 80));
    bench.settle().await;
    assert_eq!(bench.rules(), ["b", "mended"]);
    assert!(
        bench.view().problems.is_empty(),
        "{:?}",
        bench.view().problems
    );
    bench.remove("policies/a.yaml");
    bench.settle().await;
    assert_eq!(bench.rules(), ["b"]);
}

#[tokio::test]
async fn last_good_versions_and_numbers_survive_a_restart() {
    let mut bench = Bench::new();
    bench
        .write("endpoints/web.yaml", WEB)
        .write("policies/a.yaml", &allow("a", 80));
    bench.settle().await;
    let before = bench.sinks.with(|record| record.compiled.clone());
    bench.write("policies/a.yaml", "kind: [");
    bench.restart();
    // A file that sorts first must not take the others' numbers.
    bench.write(
        "endpoints/aaa.yaml",
        &WEB.replace("web", "aaa").replace("10.0.0.1", "10.0.0.2"),
    );
    assert_eq!(bench.calls().await, ["proxy 2", "kernel 2"]);
    let after = bench.sinks.with(|record| record.compiled.clone());
    assert_eq!(bench.rules(), ["a"]);
    for (id, endpoint) in &before.endpoints {
        assert_eq!(after.endpoints[id].name, endpoint.name);
        assert_eq!(after.endpoints[id].identity, endpoint.identity);
    }
    for (id, rule) in &before.rules {
        assert_eq!(after.rules[id].policy, rule.policy);
    }
}

#[tokio::test]
async fn a_generation_the_kernel_refuses_is_given_up_everywhere_and_tried_again() {
    let mut bench = Bench::new();
    bench.write("endpoints/web.yaml", WEB);
    bench.settle().await;
    bench.sinks.with(|record| record.refuse_kernel = true);
    bench.write("policies/a.yaml", &allow("a", 80));
    assert_eq!(bench.calls().await, ["proxy 2", "kernel 2", "proxy 1"]);
    assert_eq!(bench.view().generation, Generation(1));
    let problem = bench.view().problems[0].message.clone();
    assert!(problem.contains("table POLICY is full"), "{problem}");

    bench.sinks.with(|record| record.refuse_kernel = false);
    bench.control.apply(Event::Tick);
    bench.publish().await;
    assert_eq!(bench.view().generation, Generation(2));
    assert_eq!(bench.rules(), ["a"]);
    assert!(bench.view().problems.is_empty());
}

fn candidate(version: &str) -> Candidate {
    Candidate {
        name: "bot".into(),
        info: PluginInfo {
            version: version.into(),
            digest: format!("sha256:{version}"),
            artifact: format!("artifact-{version}"),
            world: World::HttpFilter,
            capabilities: Vec::new(),
            limits: Limits::default(),
        },
        artifact: "/dev/null".into(),
        signer: None,
    }
}

impl Bench {
    /// Puts a version of the plugin file into the folder and answers its examination.
    async fn drop_plugin(&mut self, inode: u64, outcome: Result<Candidate, String>) {
        self.drop_file("/plugins/bot.wasm", inode, outcome).await;
    }

    /// The same with a file of any name.
    async fn drop_file(&mut self, path: &str, inode: u64, outcome: Result<Candidate, String>) {
        let path = PathBuf::from(path);
        let stamp = testing::plugin(inode);
        self.scan.plugins.insert(path.clone(), stamp);
        let requests = self.settle().await;
        assert_eq!(requests, [Request::Examine(path.clone(), stamp)]);
        self.control.apply(Event::Examined(Examination {
            path,
            stamp,
            outcome,
        }));
        self.publish().await;
    }

    /// Version in the proxy's snapshot, and what readers see: version, state, reason.
    /// Plugins that are there together and examined in this order: path, inode, version.
    async fn newcomers(&mut self, files: &[(&str, u64, &str)]) {
        for (path, inode, _) in files {
            let stamp = testing::plugin(*inode);
            self.scan.plugins.insert((*path).into(), stamp);
        }
        self.settle().await;
        for (path, inode, version) in files {
            self.control.apply(Event::Examined(Examination {
                path: (*path).into(),
                stamp: testing::plugin(*inode),
                outcome: Ok(candidate(version)),
            }));
        }
        self.publish().await;
    }

    fn plugin(&self) -> (Option<String>, String, String, Option<String>) {
        let published = self.sinks.with(|record| {
            record
                .snapshot
                .plugins
                .get("bot")
                .map(|info| info.version.clone())
        });
        let view = self.view();
        let row = view
            .plugins
            .iter()
            .find(|row| row.name == "bot")
            .expect("listed");
        (
            published,
            row.version.clone(),
            row.state.to_string(),
            row.reason.clone(),
        )
    }
}

#[tokio::test]
async fn plugins_are_swapped_refused_and_removed() {
    let mut bench = Bench::new();
    let seen = |published: Option<&str>, version: &str, state: &str, reason: Option<&str>| {
        (
            published.map(str::to_owned),
            version.to_owned(),
            state.to_owned(),
            reason.map(str::to_owned),
        )
    };
    bench.drop_plugin(1, Ok(candidate("1"))).await;
    assert_eq!(bench.plugin(), seen(Some("1"), "1", "idle", None));

    bench.drop_plugin(2, Err("not a component".into())).await;
    assert_eq!(
        bench.plugin(),
        seen(Some("1"), "1", "idle", Some("not a component"))
    );

    bench
        .sinks
        .with(|record| record.refuse_plugin = Some("bot".into()));
    bench.drop_plugin(3, Ok(candidate("3"))).await;
    let (_, version, _, reason) = bench.plugin();
    assert_eq!(
        (version.as_str(), reason.as_deref()),
        ("1", Some("self-test failed"))
    );

    bench.sinks.with(|record| record.refuse_plugin = None);
    bench.drop_plugin(4, Ok(candidate("4"))).await;
    assert_eq!(bench.plugin(), seen(Some("4"), "4", "idle", None));

    bench.scan.plugins.clear();
    bench.settle().await;
    assert!(bench.view().plugins.is_empty());
    assert!(
        bench
            .sinks
            .with(|record| record.snapshot.plugins.is_empty())
    );
}

#[tokio::test]
async fn a_name_given_up_goes_to_the_next_file_that_has_it() {
    let mut bench = Bench::new();
    let (first, second) = ("/plugins/first.wasm", "/plugins/second.wasm");
    bench.drop_file(first, 1, Ok(candidate("1"))).await;
    bench.drop_file(second, 2, Ok(candidate("2"))).await;
    assert_eq!(
        bench.plugin().0.as_deref(),
        Some("1"),
        "who has it keeps it"
    );
    let reason = |bench: &Bench| {
        let view = bench.view();
        let row = view.plugins.iter().find(|row| row.source == second);
        row.expect("listed").reason.clone()
    };
    let why = reason(&bench).expect("it waits");
    assert!(why.contains("`bot`") && why.contains(first), "{why}");

    bench.scan.plugins.remove(Path::new(first));
    bench.settle().await;
    assert_eq!(bench.plugin().0.as_deref(), Some("2"), "without a new copy");
    assert_eq!(reason(&bench), None);
    assert!(bench.view().plugins.iter().all(|row| row.source != first));
}

#[tokio::test]
async fn of_newcomers_with_one_name_the_first_by_path_has_it() {
    let (first, second) = ("/plugins/first.wasm", "/plugins/second.wasm");
    let versions = [(first, 1, "1"), (second, 2, "2")];
    for order in [[0, 1], [1, 0]] {
        let mut bench = Bench::new();
        bench.newcomers(&order.map(|index| versions[index])).await;
        assert_eq!(bench.plugin().0.as_deref(), Some("1"), "{order:?}");
    }
    // Who is in force keeps it, also after a restart.
    let mut bench = Bench::new();
    bench.drop_file(second, 2, Ok(candidate("2"))).await;
    bench.restart();
    bench.newcomers(&versions).await;
    assert_eq!(bench.plugin().0.as_deref(), Some("2"));
}

/// What rules name is most often there soon; what is not holds nobody up for longer.
#[tokio::test]
async fn the_first_generation_waits_for_files_never_seen_and_not_for_long() {
    let mut bench = Bench::new();
    bench
        .write("endpoints/web.yaml", WEB)
        .write("policies/a.yaml", &allow("a", 80));
    let stamp = testing::plugin(1);
    bench.scan.plugins = [("/plugins/bot.wasm".into(), stamp)].into();
    let began = std::time::Instant::now();
    bench.settle().await;
    assert_eq!(bench.rules(), [""; 0], "it may be examined by then");
    while bench.rules().is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        bench.control.apply(Event::Tick);
        bench.publish().await;
        assert!(began.elapsed().as_secs() < 10, "it waits on");
    }
    assert!(began.elapsed().as_secs_f32() > 2.9, "not for long enough");
    assert_eq!(bench.rules(), ["a"]);
    // Later nothing waits for a file.
    bench.write("policies/b.yaml", &allow("b", 81));
    bench.settle().await;
    assert_eq!(bench.rules(), ["a", "b"]);
}

#[tokio::test]
async fn a_plugin_that_is_gone_and_named_is_told() {
    let mut bench = Bench::new();
    let binding = "apiVersion: tidegate.io/v1alpha1\nkind: PluginBinding\n\
                   metadata: {name: bound, namespace: default}\nspec:\n  endpointSelector: {}\n  \
                   direction: ingress\n  toPorts: [80]\n  plugin: bot\n";
    bench
        .write("endpoints/web.yaml", WEB)
        .write("policies/a.yaml", &allow("a", 80));
    bench.drop_plugin(1, Ok(candidate("1"))).await;
    bench.write("policies/bound.yaml", binding);
    bench.settle().await;
    let told = |bench: &Bench| {
        let problems = &bench.view().problems;
        let mut gone = problems
            .iter()
            .filter(|p| p.message.contains("is not there any more"));
        gone.next().map(|p| (p.file.clone(), p.severity.clone()))
    };
    assert_eq!(told(&bench), None);
    bench.scan.plugins.clear();
    bench.settle().await;
    let at = ("policies/bound.yaml".to_owned(), "error".to_owned());
    assert_eq!(told(&bench), Some(at), "{:?}", bench.view().problems);
    bench.drop_plugin(2, Ok(candidate("1"))).await;
    assert_eq!(told(&bench), None);
}

#[tokio::test]
async fn a_policy_that_says_what_another_says_selects_whom_it_selects() {
    let mut bench = Bench::new();
    bench
        .write("endpoints/web.yaml", WEB)
        .write("policies/a.yaml", &allow("a", 80))
        .write("policies/b.yaml", &allow("b", 80));
    bench.settle().await;
    for policy in bench.view().policies.iter() {
        assert_eq!(policy.selects, ["default/web"], "{}", policy.name);
    }
}

#[tokio::test]
async fn a_plugin_file_with_another_name_is_in_use_as_before() {
    let mut bench = Bench::new();
    bench.drop_plugin(1, Ok(candidate("1"))).await;
    let stamp = testing::plugin(1);
    bench.scan.plugins = [("/plugins/renamed.wasm".into(), stamp)].into();
    let requests = bench.settle().await;
    assert!(requests.is_empty(), "it is the same: {requests:?}");
    let (published, _, state, _) = bench.plugin();
    assert_eq!((published.as_deref(), &*state), (Some("1"), "idle"));

    // Renamed again before a new version was examined.
    let (path, stamp) = ("/plugins/renamed.wasm", testing::plugin(2));
    bench.scan.plugins = [(path.into(), stamp)].into();
    assert_eq!(bench.settle().await.len(), 1);
    bench.scan.plugins = [("/plugins/bot.wasm".into(), stamp)].into();
    let requests = bench.settle().await;
    assert_eq!(
        requests,
        [Request::Examine("/plugins/bot.wasm".into(), stamp)]
    );
    assert_eq!(bench.plugin().0.as_deref(), Some("1"), "meanwhile");
}

/// What an earlier run published stands in for a file that cannot be used, but not against the
/// plain word that signatures are required.
#[tokio::test]
async fn what_nobody_signed_does_not_outlive_the_word_that_somebody_must() {
    let mut bench = Bench::new();
    bench.drop_plugin(1, Ok(candidate("1"))).await;
    let broken = Err("it is not signed".to_owned());
    bench.restart();
    bench.drop_plugin(2, broken.clone()).await;
    let (published, _, state, _) = bench.plugin();
    assert_eq!((published.as_deref(), &*state), (Some("1"), "idle"));
    bench.restart_and_believe_nobody();
    bench.drop_plugin(2, broken).await;
    let (published, _, state, reason) = bench.plugin();
    assert_eq!((published, &*state), (None, "refused"), "{reason:?}");
}

#[tokio::test]
async fn plugins_of_a_folder_that_is_watched_no_more_stay_in_use() {
    let (former, now) = ("/former/bot.wasm", "/plugins/bot.wasm");
    for taken_over in [true, false] {
        let mut bench = Bench::new();
        bench.drop_file(former, 1, Ok(candidate("1"))).await;
        bench.restart();
        bench.scan.plugins.clear();
        bench.scan.plugins_elsewhere.insert(former.into());
        bench.settle().await;
        let (published, version, _, reason) = bench.plugin();
        assert_eq!((published.as_deref(), &*version), (Some("1"), "1"));
        assert!(reason.is_some_and(|why| why.contains("names another folder now")));
        if taken_over {
            bench.drop_file(now, 2, Ok(candidate("2"))).await;
            assert_eq!(bench.plugin().0.as_deref(), Some("2"), "it is meant");
            bench.restart();
            bench.settle().await;
            assert_eq!(bench.view().plugins.len(), 1);
        } else {
            // Deleted there.
            bench.scan.plugins_elsewhere.clear();
            bench.settle().await;
            assert!(bench.view().plugins.is_empty());
        }
    }
}

#[tokio::test]
async fn a_restart_keeps_the_plugins_of_the_last_run_until_examined() {
    let mut bench = Bench::new();
    bench.drop_plugin(1, Ok(candidate("1"))).await;
    bench.restart();
    let requests = bench.settle().await;
    assert_eq!(requests.len(), 1, "examined again");
    assert_eq!(
        bench.sinks.with(|record| record.calls.clone()),
        [""; 0],
        "nothing before the answer"
    );
    let Request::Examine(path, stamp) = requests[0].clone() else {
        panic!("{requests:?}");
    };
    let outcome = Err("broken meanwhile".into());
    bench.control.apply(Event::Examined(Examination {
        path,
        stamp,
        outcome,
    }));
    bench.publish().await;
    assert_eq!(bench.plugin().0.as_deref(), Some("1"));
}
