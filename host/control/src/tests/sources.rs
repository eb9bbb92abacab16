//! Whoever says what is wanted, the same holds: last good versions, newcomers that step
//! back, nothing removed but by those who say it.

use std::sync::Arc;

use tidegate_policy::Origin;
use tidegate_sources::{Content, Delta};

use super::*;
use crate::documents::Documents;

/// A source that has objects instead of files.
const STORE: &str = "store";

impl Bench {
    /// A source says something, and what comes of it is published.
    async fn tell(&mut self, source: &str, news: News) -> &mut Self {
        self.control.apply(Event::Told(Source::named(source), news));
        self.publish().await;
        self
    }

    /// Messages of all problems, each behind where it is.
    fn problems(&self) -> String {
        let view = self.view();
        let problems = view.problems.iter();
        let lines = problems.map(|problem| format!("{}: {}\n", problem.file, problem.message));
        lines.collect()
    }
}

fn objects(all: &[(&str, &str)]) -> BTreeMap<String, Content> {
    let all = all.iter();
    all.map(|(name, text)| ((*name).to_owned(), Ok(Arc::from(*text))))
        .collect()
}

fn all(all: &[(&str, &str)]) -> News {
    News::All(objects(all))
}

/// What an API server calls them, and gives them as: names that no file has, and JSON.
const POLICY: &str = "CiliumNetworkPolicy/shop/a";
const JSON: &str = r#"{"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
    "metadata": {"name": "of-store", "namespace": "default"},
    "spec": {"endpointSelector": {}, "ingress": [{}]}}"#;

#[tokio::test]
async fn objects_of_a_store_are_in_force_until_the_store_says_that_they_are_gone() {
    let mut bench = Bench::new();
    bench.write("endpoints/web.yaml", WEB).settle().await;
    bench.tell(STORE, all(&[(POLICY, JSON)])).await;
    assert_eq!(bench.rules(), ["of-store"]);
    assert_eq!(bench.problems(), "");

    // One that is broken has its last good version, and says where it is.
    bench.tell(STORE, all(&[(POLICY, "{}")])).await;
    assert_eq!(bench.rules(), ["of-store"]);
    assert!(
        bench
            .problems()
            .starts_with("store:CiliumNetworkPolicy/shop/a: ")
    );
    bench.tell(STORE, all(&[(POLICY, JSON)])).await;

    // One that says nothing any more, also to a new agent, removes nothing.
    for restart in [false, true] {
        if restart {
            bench.restart();
            bench.settle().await;
        }
        bench.tell(STORE, News::Unnamed("no answer".into())).await;
        assert_eq!(bench.rules(), ["of-store"], "restart: {restart}");
        assert_eq!(bench.problems(), "store: no answer\n");
        bench.expect_not_ready("no answer");
    }

    // It speaks again, and has not what it had: that was removed meanwhile.
    bench.tell(STORE, News::All(objects(&[]))).await;
    assert_eq!(bench.rules(), [] as [&str; 0]);
    let kept = Store::at(bench.state.path()).past().expect("reads").texts;
    assert!(
        kept.keys().all(|kept| kept.source().name().is_empty()),
        "{kept:?}"
    );
}

#[tokio::test]
async fn files_and_objects_do_not_know_of_each_other() {
    let mut bench = Bench::new();
    bench
        .write("endpoints/web.yaml", WEB)
        .write("policies/a.yaml", &allow("a", 80));
    bench.settle().await;
    // A policy of one name in two sources is two policies.
    bench.tell(STORE, all(&[("x", &allow("a", 81))])).await;
    assert_eq!(bench.view().policies.len(), 2);
    assert_eq!(bench.problems(), "");
    bench.remove("policies/a.yaml").settle().await;
    let files: Vec<String> = bench
        .view()
        .policies
        .iter()
        .map(|p| p.file.clone())
        .collect();
    assert_eq!(files, ["store:x"]);

    // An endpoint is one endpoint, whoever says so: the newcomer steps back.
    bench.tell(STORE, all(&[("web", WEB)])).await;
    let problems = bench.problems();
    assert!(
        problems.starts_with("store:web: ")
            && problems.contains("exists already in endpoints/web.yaml:2"),
        "{problems}"
    );
    assert_eq!(bench.view().endpoints.len(), 1);
}

#[tokio::test]
async fn a_vendor_that_is_not_named_any_more_has_said_what_it_said() {
    let mut bench = Bench::new();
    bench.write("endpoints/web.yaml", WEB).settle().await;
    let mut vendor = Scan::default();
    let text = Ok(Arc::from(allow("base", 80)));
    vendor.documents.insert("policies/base.yaml".into(), text);
    vendor
        .folders
        .insert("policies".into(), testing::folder("/vendor/policies", 9));
    let source = || Source::named(VENDOR);
    bench.control.apply(Event::Scanned(source(), vendor));
    bench.publish().await;
    assert_eq!(bench.rules(), ["base"]);

    bench.restart();
    let unnamed = News::Unnamed("write `folders.vendor: none`".into());
    bench.control.apply(Event::Told(source(), unnamed));
    bench.settle().await;
    assert_eq!(bench.rules(), ["base"]);
    assert_eq!(bench.problems(), "vendor: write `folders.vendor: none`\n");
    bench.restart();
    bench
        .control
        .apply(Event::Told(source(), News::All([].into())));
    bench.settle().await;
    assert_eq!(bench.rules(), [] as [&str; 0]);
    assert_eq!(bench.problems(), "");
}

#[tokio::test]
async fn nothing_is_published_before_every_source_has_spoken() {
    let mut bench = Bench::of_silent_vendor();
    bench
        .write("endpoints/web.yaml", WEB)
        .write("policies/a.yaml", &allow("a", 80));
    assert_eq!(bench.calls().await, [] as [&str; 0]);
    bench.tell(VENDOR, News::All([].into())).await;
    assert_eq!(bench.rules(), ["a"]);
}

#[test]
fn what_gets_another_name_was_not_removed() {
    let mut documents = Documents::default();
    let origin = |name: &str| Origin::new(Source::named(STORE), name);
    let delta = |changed: &[(&str, &str)], removed: &[&str]| Delta {
        changed: objects(changed),
        removed: removed.iter().map(|name| (*name).to_owned()).collect(),
        ..Delta::none(Source::named(STORE))
    };
    let all = delta(&[("a", JSON), ("b", WEB), ("c", "{}")], &[]);
    assert_eq!(documents.update(&all), []);
    let gone = documents.update(&delta(&[("d", JSON), ("e", JSON)], &["a", "b", "c"]));
    let told = [
        (origin("a"), Some(origin("d"))),
        (origin("b"), None),
        (origin("c"), None),
    ];
    assert_eq!(gone, told);
}
