//! Numbers of label sets that somebody else gives.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
};
use tidegate_policy::compiled::IdentityId;

use tidegate_policy::Ids;

use super::*;

/// Several nodes' numbers.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Given>>);

#[derive(Default)]
struct Given {
    numbers: BTreeMap<String, IdentityId>,
    asked: usize,
    is_away: bool,
}

impl Allocator for Shared {
    fn number(&mut self, sets: &BTreeSet<String>, ids: &mut Ids) -> anyhow::Result<()> {
        let mut given = self.0.lock().expect("not poisoned");
        anyhow::ensure!(!given.is_away, "the store of identities is away");
        given.asked += 1;
        for set in sets {
            let next = 5_000 + given.numbers.len() as u32;
            ids.assign(
                set,
                *given.numbers.entry(set.clone()).or_insert(IdentityId(next)),
            )?;
        }
        Ok(())
    }
}

fn endpoint(name: &str, last: u8, app: &str) -> String {
    format!(
        "apiVersion: tidegate.io/v1alpha1\nkind: Endpoint\nmetadata: {{name: {name}, namespace: \
         shop, labels: {{app: {app}}}}}\nspec: {{interface: {name}, addresses: [10.0.0.{last}]}}\n"
    )
}

fn node(shared: &Shared) -> Bench {
    let mut bench = Bench::of_silent_vendor();
    bench.control =
        Bench::control_with(&bench.state, &bench.sinks, Trust::default(), shared.clone());
    bench.no_vendor();
    bench
}

/// Numbers by the name of the endpoint.
fn numbers(bench: &Bench) -> BTreeMap<String, IdentityId> {
    bench.sinks.with(|record| {
        let endpoints = record.compiled.endpoints.values();
        endpoints
            .map(|endpoint| (endpoint.name.clone(), endpoint.identity))
            .collect()
    })
}

#[tokio::test]
async fn nodes_may_share_numbers_and_nothing_is_published_without_them() {
    let shared = Shared::default();
    let (mut one, mut other) = (node(&shared), node(&shared));
    one.write("endpoints/web.yaml", &endpoint("web", 1, "web"));
    one.settle().await;
    other.write("endpoints/db.yaml", &endpoint("db", 2, "db"));
    other.write("endpoints/web.yaml", &endpoint("web", 3, "web"));
    other.settle().await;
    assert_eq!(
        numbers(&one),
        [("shop/web".to_owned(), IdentityId(5_000))].into()
    );
    let both = [
        ("shop/db".to_owned(), IdentityId(5_001)),
        ("shop/web".to_owned(), IdentityId(5_000)),
    ];
    assert_eq!(numbers(&other), both.clone().into());

    // Who has a number is not asked about again: another replica, and another run.
    let asked = |shared: &Shared| shared.0.lock().expect("not poisoned").asked;
    let before = asked(&shared);
    other.write("endpoints/replica.yaml", &endpoint("replica", 4, "web"));
    other.settle().await;
    assert_eq!(numbers(&other)["shop/replica"], IdentityId(5_000));
    other.control =
        Bench::control_with(&other.state, &other.sinks, Trust::default(), shared.clone());
    other.no_vendor();
    other.settle().await;
    assert_eq!(numbers(&other).len(), 3);
    assert_eq!(asked(&shared), before);

    // Without a number nothing changes, and that is told, and tried again.
    shared.0.lock().expect("not poisoned").is_away = true;
    let in_force = numbers(&other);
    other.write("endpoints/new.yaml", &endpoint("new", 5, "new"));
    other.settle().await;
    assert_eq!(numbers(&other), in_force);
    let told = other.view().problems.clone();
    let away = |problem: &crate::view::ProblemView| problem.message.contains("is away");
    assert!(told.iter().any(away), "{told:?}");
    // That is no fault of the document's.
    assert!(
        told.iter().all(|problem| problem.file.is_empty()),
        "{told:?}"
    );
    shared.0.lock().expect("not poisoned").is_away = false;
    other.control.apply(Event::Tick);
    other.publish().await;
    assert_eq!(numbers(&other)["shop/new"], IdentityId(5_002));
    assert!(!other.view().problems.iter().any(away));
}
