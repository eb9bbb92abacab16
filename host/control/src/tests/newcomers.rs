//! Who comes last steps back, and costs nobody else anything.

use super::{Bench, Event, ProblemView, WEB, allow};

/// One document per kind that can be at odds with another, in force and as a newcomer.
fn at_odds() -> Vec<(&'static str, String, String)> {
    let service = |name: &str| {
        format!(
            "
apiVersion: tidegate.io/v1alpha1
kind: Service
metadata: {{name: {name}}}
spec: {{addresses: [10.96.0.1], ports: [{{port: 80, protocol: TCP}}], backends: []}}
"
        )
    };
    let binding = "
apiVersion: tidegate.io/v1alpha1
kind: PluginBinding
metadata: {name: bots}
spec:
  endpointSelector: {}
  direction: ingress
  toPorts: [8080]
  plugin: http
  failMode: closed
";
    let deny = |net: &str| {
        format!(
            "apiVersion: tidegate.io/v1alpha1\nkind: DenyList\nmetadata: {{name: d}}\nspec: {{cidrs: [{net}]}}\n"
        )
    };
    let other_device = WEB
        .replace("tg-web", "tg-other")
        .replace("name: web", "name: other");
    vec![
        ("policies", allow("a", 80), allow("a", 81)),
        ("services", service("s"), service("t")),
        ("endpoints", WEB.into(), other_device),
        (
            "endpoints",
            WEB.into(),
            WEB.replace("name: web", "name: other")
                .replace("10.0.0.1", "10.0.0.2"),
        ),
        (
            "endpoints",
            WEB.into(),
            WEB.replace("tg-web", "tg-x")
                .replace("10.0.0.1", "10.0.0.2"),
        ),
        ("policies", binding.into(), binding.replace("8080", "8081")),
        ("policies", deny("192.0.2.0/24"), deny("198.51.100.0/24")),
    ]
}

#[tokio::test]
async fn a_newcomer_that_conflicts_steps_back_whatever_its_name() {
    for (folder, old, new) in at_odds() {
        for name in ["a-first", "z-last"] {
            let mut bench = Bench::new();
            bench.write(&format!("{folder}/m.yaml"), &old);
            bench.settle().await;
            let before = bench.sinks.with(|record| record.compiled.clone());
            let newcomer = format!("{folder}/{name}.yaml");
            bench.write(&newcomer, &new);
            for restart in ["", "restart", "reboot"] {
                match restart {
                    "restart" => bench.restart(),
                    "reboot" => bench.reboot(),
                    _ => {}
                }
                bench.settle().await;
                let now = bench.sinks.with(|record| record.compiled.clone());
                assert_eq!(now, before, "{newcomer} {restart}\n{new}");
                let problems = &bench.view().problems;
                let errors: Vec<_> = problems.iter().filter(is_conflict).collect();
                assert!(
                    errors.len() == 1 && errors[0].file == newcomer,
                    "{newcomer} {restart}: {problems:#?}"
                );
                bench.expect_ready();
            }
            // Nobody else is held up, ...
            let other = WEB.replace("web", "third").replace("10.0.0.1", "10.0.0.9");
            bench.write("endpoints/third.yaml", &other);
            bench.settle().await;
            let endpoints = bench.sinks.with(|record| record.compiled.endpoints.len());
            assert_eq!(endpoints, before.endpoints.len() + 1);
            // ... and it has its turn when what stood in its way is gone.
            bench.remove(&format!("{folder}/m.yaml"));
            bench.settle().await;
            assert!(
                !bench.view().problems.iter().any(|p| is_conflict(&p)),
                "{:#?}",
                bench.view().problems
            );
        }
    }
}

/// An error; that there are no plugins here is not of interest.
fn is_conflict(problem: &&ProblemView) -> bool {
    problem.severity == "error" && !problem.message.starts_with("spec.plugin: no plugin")
}

#[tokio::test]
async fn who_does_not_fit_steps_back_and_is_not_tried_again_and_again() {
    let mut bench = Bench::new();
    let endpoint = |n: usize| {
        WEB.replace("web", &format!("w{n}"))
            .replace("10.0.0.1", &format!("10.0.0.{n}"))
    };
    bench.sinks.with(|record| record.room = 3);
    for n in [5, 6] {
        bench.write(&format!("endpoints/w{n}.yaml"), &endpoint(n));
    }
    bench.settle().await;
    // Five newcomers where one has room; a policy comes along.
    for n in 1..=4 {
        bench.write(&format!("endpoints/w{n}.yaml"), &endpoint(n));
    }
    bench.write("policies/p.yaml", &allow("p", 80).replace("web", "w5"));
    assert_eq!(bench.calls().await, ["proxy 2", "kernel 2"]);
    let names: Vec<String> = bench.sinks.with(|record| {
        let endpoints = record.compiled.endpoints.values();
        endpoints.map(|endpoint| endpoint.name.clone()).collect()
    });
    assert_eq!(names.len(), 3, "{names:?}");
    assert!(names.contains(&"default/w5".into()) && names.contains(&"default/w6".into()));
    assert_eq!(bench.rules(), ["p"]);
    let view = bench.view();
    let refused: Vec<_> = view
        .problems
        .iter()
        .filter(|p| p.severity == "error")
        .collect();
    assert_eq!(refused.len(), 3, "{refused:#?}");
    assert!(
        refused[0].message.contains("room for 3 endpoints"),
        "{refused:#?}"
    );
    // Time alone changes nothing.
    bench.sinks.with(|record| record.calls.clear());
    for _ in 0..5 {
        bench.control.apply(Event::Tick);
        bench.publish().await;
    }
    assert_eq!(bench.sinks.with(|record| record.calls.clone()), [""; 0]);
}

/// A kernel that refuses is asked again at once and then ever more rarely.
#[tokio::test]
async fn a_kernel_that_refuses_for_good_is_left_alone() {
    let mut bench = Bench::new();
    bench.sinks.with(|record| record.refuse_kernel = true);
    bench.write("endpoints/web.yaml", WEB);
    bench.settle().await;
    for _ in 0..100 {
        bench.control.apply(Event::Tick);
        bench.publish().await;
    }
    let calls = bench.sinks.with(|record| record.calls.clone());
    let tries = calls
        .iter()
        .filter(|call| call.starts_with("kernel"))
        .count();
    assert_eq!(tries, 2, "{calls:?}");
    bench.expect_not_ready("table POLICY is full");
}

/// A rehearsal never keeps an enforced document out, whichever of the two came first: it is
/// left out itself, and told.
#[tokio::test]
async fn what_is_in_shadow_makes_room_for_what_is_enforced() {
    let rules = |name: &str, annotations: &str, l7: &str| {
        format!(
            "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: {name}, namespace: default{annotations}}}
spec:
  endpointSelector: {{matchLabels: {{app: web}}}}
  egress:
  - toCIDR: [192.0.2.100/32]
    toPorts: [{{ports: [{{port: \"53\", protocol: TCP}}], rules: {{{l7}}}}}]
"
        )
    };
    const SHADOW: &str = ", annotations: {tidegate.io/enforcement: shadow}";
    let rehearsed = rules("rehearsed", SHADOW, "http: [{path: /x}]");
    let enforced = rules("enforced", "", "dns: [{matchPattern: '*'}]");
    for shadow_first in [true, false] {
        for together in ["", "---"] {
            let mut bench = Bench::new();
            bench.write("endpoints/web.yaml", WEB);
            // Alone in its file, or beside a document that is enforced.
            let beside = match together {
                "" => rehearsed.clone(),
                line => format!("{rehearsed}{line}{}", allow("other", 80)),
            };
            let files = [
                ("policies/r.yaml", beside),
                ("policies/e.yaml", enforced.clone()),
            ];
            let order = if shadow_first { [0, 1] } else { [1, 0] };
            for (name, text) in order.map(|n| files[n].clone()) {
                bench.write(name, &text);
                bench.settle().await;
            }
            let denied = bench.sinks.with(|record| {
                let mut endpoints = record.compiled.endpoints.values();
                endpoints
                    .next()
                    .map(|endpoint| endpoint.default_deny.egress)
            });
            assert_eq!(
                denied,
                Some(true),
                "shadow first: {shadow_first}, {together}"
            );
            let view = bench.view();
            let told = view.problems.iter().filter(is_conflict);
            let told: Vec<_> = told.map(|problem| problem.file.as_str()).collect();
            assert_eq!(told, ["policies/r.yaml"], "{:#?}", view.problems);
        }
    }
}

/// What is valid and does nothing is told whatever else is wrong: in the same file, in the same
/// document's neighbours, or in a file that steps back.
#[tokio::test]
async fn one_mistake_hides_nothing_else() {
    let idle = |name: &str| allow(name, 80).replace("app: web", "app: nobody");
    let mut bench = Bench::new();
    bench
        .write("endpoints/web.yaml", WEB)
        .write("policies/a.yaml", &allow("a", 80));
    bench.settle().await;
    bench
        // A sound document beside one with a mistake.
        .write(
            "policies/b.yaml",
            &format!("{}---{}", idle("b"), allow("x", 80).replace("80", "80000")),
        )
        // It steps back, and would do nothing.
        .write("policies/c.yaml", &idle("a"))
        // It is in force no more than the last good version is on disk.
        .write(
            "policies/a.yaml",
            &format!("{}---{}", allow("a", 80), idle("d")),
        )
        .write("policies/e.yaml", &idle("e"));
    bench.settle().await;
    let view = bench.view();
    let told = |severity: &str, part: &str| -> Vec<String> {
        let problems = view.problems.iter();
        let told = problems.filter(|p| p.severity == severity && p.message.contains(part));
        told.map(|p| format!("{}:{}", p.file, p.line)).collect()
    };
    assert_eq!(
        told("warning", "selects no endpoint"),
        [
            "policies/a.yaml:15",
            "policies/b.yaml:6",
            "policies/c.yaml:6",
            "policies/e.yaml:6"
        ],
        "{:#?}",
        view.problems
    );
    assert_eq!(told("error", "not a port number"), ["policies/b.yaml:18"]);
    assert_eq!(told("error", "exists already"), ["policies/c.yaml:4"]);
    assert_eq!(bench.rules(), ["a", "d", "e"]);

    // Where the newest version is broken, what is said is said of it.
    bench.write(
        "policies/e.yaml",
        &format!("\n\n{}---\nkind: [\n", idle("e")),
    );
    bench.settle().await;
    bench.write(
        "policies/e.yaml",
        &format!("\n\n{}---\nkind: No\n", idle("e")),
    );
    bench.settle().await;
    let view = bench.view();
    let of_e = view.problems.iter().filter(|p| p.file == "policies/e.yaml");
    let of_e: Vec<_> = of_e.map(|p| (&*p.severity, p.line)).collect();
    assert_eq!(of_e, [("error", 13), ("warning", 8)]);
}

/// What is wrong with a folder is told where the configuration names it.
#[tokio::test]
async fn a_folder_is_named_by_its_key() {
    let mut bench = Bench::new();
    bench
        .folder("policies", 1)
        .write("policies/a.yaml", &allow("a", 80));
    bench.settle().await;
    bench.vanish("policies").settle().await;
    let view = bench.view();
    let problem = view
        .problems
        .iter()
        .find(|p| p.message.contains("there is no folder"));
    let problem = problem.expect("told");
    assert_eq!(
        (&*problem.file, problem.line, problem.column),
        ("tidegate.yaml", 7, 13)
    );
    assert!(
        problem
            .message
            .starts_with("folders.policies: there is no folder /etc/policies"),
        "{}",
        problem.message
    );
    assert!(problem.unready && problem.last_good);
}
