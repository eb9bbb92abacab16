//! What is in force stays until it is plainly removed.

use std::sync::Arc;

use tidegate_policy::compiled::{IdentityId, L7Id};
use tidegate_sources::folder::{FormerFolder, TextId, testing};

use super::{Bench, Event, News, Scan, Source, VENDOR, WEB, allow};

#[tokio::test]
async fn what_is_in_force_stays_until_it_is_plainly_removed() {
    let mut bench = Bench::new();
    bench
        .folder("policies", 1)
        .write("endpoints/web.yaml", WEB)
        .write("policies/a.yaml", &allow("a", 80));
    bench.settle().await;
    bench.expect_ready();
    for restart in [false, true] {
        // The folder is moved away, or its name is misspelt.
        bench.vanish("policies");
        if restart {
            bench.restart();
        }
        bench.settle().await;
        assert_eq!(bench.rules(), ["a"], "folder gone, restart: {restart}");
        bench.expect_not_ready("policies: there is no folder");

        // It is made anew, or what was mounted there is not.
        bench.folder("policies", 2);
        bench.settle().await;
        assert_eq!(bench.rules(), ["a"], "folder emptied, restart: {restart}");
        bench.expect_not_ready("policies: the folder is another one");
        bench.remount("policies", 1);
        bench.settle().await;
        assert_eq!(bench.rules(), ["a"], "volume exchanged, restart: {restart}");
        bench.expect_not_ready("policies: the folder is another one");

        // The file is emptied, commented out, unreadable, or a link to nowhere.
        bench.folder("policies", 1);
        for text in ["", "# todo\n", "---\n# todo\n", "---\n---\n"] {
            bench.write("policies/a.yaml", text);
            if restart {
                bench.restart();
            }
            bench.settle().await;
            assert_eq!(bench.rules(), ["a"], "{text:?}, restart: {restart}");
            bench.expect_not_ready("delete it to remove what it said");
        }
        bench.fail("policies/a.yaml", "the link leads to nowhere");
        if restart {
            bench.restart();
        }
        bench.settle().await;
        assert_eq!(bench.rules(), ["a"], "unreadable, restart: {restart}");
        bench.expect_not_ready("policies/a.yaml");

        bench.write("policies/a.yaml", &allow("a", 80));
        bench.settle().await;
        bench.expect_ready();
    }

    // Another folder with files in it is as good as the one before, if one of comments.
    bench
        .folder("policies", 3)
        .remove("policies/a.yaml")
        .write("policies/none.yaml", "# nothing is meant to be here\n");
    bench.settle().await;
    assert_eq!(bench.rules(), [""; 0]);
    bench.expect_ready();
    bench.write("policies/a.yaml", &allow("a", 80));
    bench.settle().await;
    // A file deleted from a folder that is there is removed.
    bench.remove("policies/a.yaml").remove("policies/none.yaml");
    bench.settle().await;
    assert_eq!(bench.rules(), [""; 0]);
    bench.expect_ready();
}

/// Another folder in tidegate.yaml, which takes a restart.
#[tokio::test]
async fn a_change_of_folder_removes_nothing_by_itself() {
    let new = allow("new", 81);
    for files in [&[][..], &[("new.yaml", &*new)][..]] {
        let mut bench = Bench::new();
        bench
            .folder("policies", 1)
            .write("endpoints/web.yaml", WEB)
            .write("policies/a.yaml", &allow("a", 80))
            .write("policies/b.yaml", &allow("b", 82));
        bench.settle().await;
        bench.move_to("policies", "other", 2, files);
        let new: &[&str] = if files.is_empty() { &[] } else { &["new"] };
        for _ in 0..2 {
            bench.restart();
            bench.settle().await;
            assert_eq!(bench.rules(), [&["a", "b"][..], new].concat());
            bench.expect_not_ready("policies/a.yaml: it came from policies");
            bench.expect_not_ready("delete policies/b.yaml");
        }

        // Nothing is known of a folder that is gone, or emptied by another in its place.
        let former = bench.scan.former.clone();
        let path = std::path::PathBuf::from("policies");
        let empty = FormerFolder {
            id: testing::folder("policies", 3),
            files: Default::default(),
            unread: std::collections::BTreeMap::new(),
        };
        for what in [Err("it is not there".to_owned()), Ok(empty.clone())] {
            bench.scan.former.insert(path.clone(), what);
            bench.settle().await;
            assert_eq!(bench.rules(), [&["a", "b"][..], new].concat());
            bench.expect_not_ready("policies/a.yaml");
        }

        // Each goes when it is plainly removed: brought along and then deleted, or deleted
        // where it was.
        bench.scan.former = former;
        bench.write("policies/a.yaml", &allow("a", 80));
        bench.settle().await;
        bench.remove("policies/a.yaml");
        bench.settle().await;
        assert_eq!(bench.rules(), [&["b"][..], new].concat());
        let Some(Ok(former)) = bench.scan.former.get_mut(&path) else {
            panic!("no former folder")
        };
        former.files.clear();
        bench.settle().await;
        assert_eq!(bench.rules(), new);
        bench.expect_ready();
    }
}

#[tokio::test]
async fn a_document_in_the_wrong_folder_is_told() {
    let mut bench = Bench::new();
    bench
        .write("endpoints/web.yaml", &format!("{WEB}---{}", allow("a", 80)))
        .write("policies/none.yaml", "# nothing yet\n");
    bench.settle().await;
    assert_eq!(bench.rules(), ["a"], "it counts");
    let view = bench.view();
    let problem = view
        .problems
        .iter()
        .find(|p| p.file == "endpoints/web.yaml");
    let problem = problem.expect("a warning");
    assert_eq!(
        (&*problem.severity, problem.line, &*problem.message),
        (
            "warning",
            8,
            "kind: this kind belongs into another folder (CiliumNetworkPolicy); move it to policies/"
        )
    );
}

#[tokio::test]
async fn the_same_folder_under_another_name_is_the_same() {
    let mut bench = Bench::new();
    bench
        .folder("policies", 1)
        .write("endpoints/web.yaml", WEB)
        .write("policies/a.yaml", &allow("a", 80))
        .write("policies/b.yaml", &allow("b", 82));
    bench.settle().await;
    bench.move_to("policies", "renamed", 1, &[("a.yaml", &allow("a", 80))]);
    bench.restart();
    bench.settle().await;
    assert_eq!(bench.rules(), ["a"], "b was deleted");
    bench.expect_ready();
}

#[tokio::test]
async fn a_file_that_went_where_it_is_not_read_stays_in_force() {
    for place in ["policies/a.YAML", "policies/team/a.yaml"] {
        let mut bench = Bench::new();
        bench
            .folder("policies", 1)
            .write("endpoints/web.yaml", WEB)
            .write("policies/a.yaml", &allow("a", 80));
        bench.settle().await;
        bench.remove("policies/a.yaml");
        bench.scan.astray.insert("policies/a".into(), place.into());
        for restart in [false, true] {
            if restart {
                bench.restart();
            }
            bench.settle().await;
            assert_eq!(bench.rules(), ["a"], "{place}, restart: {restart}");
            bench.expect_not_ready(&format!("delete {place} too"));
        }
        bench.scan.astray.clear();
        bench.settle().await;
        assert_eq!(bench.rules(), [""; 0], "{place}");
        bench.expect_ready();
    }
}

/// Whatever the name: what it says is still there.
#[tokio::test]
async fn a_file_that_was_renamed_stays_in_force() {
    let text = allow("a", 80);
    for former in [false, true] {
        let mut bench = Bench::new();
        bench
            .folder("policies", 1)
            .write("endpoints/web.yaml", WEB)
            .write("policies/a.yaml", &text);
        bench.settle().await;
        let place = match former {
            false => {
                bench.remove("policies/a.yaml");
                let place = ("policies/.a.yaml.off".to_owned(), TextId::of(&text));
                bench.scan.unread.insert(place.1, place.0);
                "policies/.a.yaml.off"
            }
            // In a folder that is not watched any more.
            true => {
                bench.move_to("policies", "elsewhere", 2, &[]);
                let former = bench.scan.former.values_mut().next();
                let former = former.and_then(|former| former.as_mut().ok());
                let former = former.expect("the one before");
                former.files.clear();
                former.files.insert("other.yaml".into());
                former.unread.insert(TextId::of(&text), "a.ymal".into());
                "policies/a.ymal"
            }
        };
        for restart in [false, true] {
            if restart {
                bench.restart();
            }
            bench.settle().await;
            assert_eq!(bench.rules(), ["a"], "{place}, restart: {restart}");
            bench.expect_not_ready(place);
        }
        bench.scan.unread.clear();
        for former in bench.scan.former.values_mut().flatten() {
            former.unread.clear();
        }
        bench.settle().await;
        assert_eq!(bench.rules(), [""; 0], "{place}: deleted there too");
        bench.expect_ready();
    }
}

#[tokio::test]
async fn lost_state_and_a_file_or_folder_that_says_nothing_do_not_open_a_node() {
    for silent in ["policies/a.yaml", "policies", "endpoints"] {
        let mut bench = Bench::new();
        bench
            .folder("policies", 1)
            .folder("endpoints", 2)
            .write("endpoints/web.yaml", WEB)
            .write("policies/a.yaml", &allow("a", 80));
        bench.settle().await;
        match silent {
            "policies" => bench.remove("policies/a.yaml"),
            "endpoints" => bench.remove("endpoints/web.yaml"),
            file => bench.write(file, "# todo"),
        };
        bench.restart_without_state();
        assert_eq!(bench.calls().await, [""; 0], "{silent}");
        assert_eq!(bench.rules(), ["a"], "{silent}");
        bench.expect_not_ready("the kernel keeps generation 1");
        // What was meant is there again.
        bench
            .write("endpoints/web.yaml", WEB)
            .write("policies/a.yaml", &allow("a", 80));
        bench.settle().await;
        bench.expect_ready();
    }
}

/// What is mounted there is not there yet, and an image may have only some of the folders.
#[tokio::test]
async fn lost_state_and_a_vendors_folder_without_a_file_do_not_open_a_node() {
    let mut bench = Bench::new();
    let vendor = |bench: &mut Bench, text: Option<&str>| {
        let mut scan = Scan::default();
        if let Some(text) = text {
            let id = testing::folder("/vendor/policies", 9);
            scan.folders.insert("policies".into(), id);
            let name = "policies/base.yaml".to_owned();
            scan.documents.insert(name, Ok(text.into()));
        }
        let vendor = Source::named(VENDOR);
        bench.control.apply(Event::Scanned(vendor, scan));
    };
    bench.folder("policies", 1).folder("endpoints", 2);
    bench
        .write("endpoints/web.yaml", WEB)
        .write("policies/a.yaml", &allow("a", 80));
    vendor(&mut bench, Some(&allow("base", 81)));
    bench.settle().await;
    assert_eq!(bench.rules(), ["a", "base"]);
    bench.lose_state();
    vendor(&mut bench, None);
    bench.settle().await;
    assert_eq!(bench.rules(), ["a", "base"]);
    bench.expect_not_ready("the kernel keeps generation 1");
    vendor(&mut bench, Some(&allow("base", 81)));
    bench.publish().await;
    bench.expect_ready();
}

/// Of a vendor's folder that is not named any more nothing is left but what the kernel has; a
/// node that never had one misses nothing.
#[tokio::test]
async fn lost_state_and_a_vendors_folder_that_is_not_named_do_not_open_a_node() {
    let vendor = |bench: &mut Bench, text: Option<&str>| {
        let content = |text: &str| ("policies/base.yaml".to_owned(), Ok(Arc::from(text)));
        let news = News::All(text.into_iter().map(content).collect());
        bench
            .control
            .apply(Event::Told(Source::named(VENDOR), news));
    };
    let mut bench = Bench::new();
    bench.folder("policies", 1).folder("endpoints", 2);
    bench
        .write("endpoints/web.yaml", WEB)
        .write("policies/a.yaml", &allow("a", 80));
    bench.settle().await;
    bench.restart_without_state();
    bench.settle().await;
    bench.expect_ready();

    vendor(&mut bench, Some(&allow("base", 81)));
    bench.publish().await;
    assert_eq!(bench.rules(), ["a", "base"]);
    for _ in 0..2 {
        bench.restart_without_state();
        bench.settle().await;
        bench.write("policies/a.yaml", &allow("a", 82));
        bench.settle().await;
        assert_eq!(bench.rules(), ["a", "base"]);
        bench.expect_not_ready("name it, so the kernel keeps generation");
        // Another run on the state that this one began.
        bench.restart();
        bench.settle().await;
        assert_eq!(bench.rules(), ["a", "base"]);
        bench.expect_not_ready("name it, so the kernel keeps generation");
    }
    vendor(&mut bench, None);
    bench.publish().await;
    assert_eq!(bench.rules(), ["a"]);
    bench.expect_ready();
    bench.restart_without_state();
    bench.settle().await;
    bench.expect_ready();
}

/// Flows, learned addresses and half-written tables go by numbers of before.
#[tokio::test]
async fn lost_state_gives_old_numbers_no_new_meaning() {
    const NAME: &str = "  egress: [{toFQDNs: [{matchName: NAME}], toPorts: [{ports: [{port: '80', \
                        protocol: TCP}], rules: {http: [{path: /NAME}]}}]}]\n";
    let named = |name: &str| allow("a", 80) + &NAME.replace("NAME", name);
    let numbers = |bench: &Bench| {
        bench.sinks.with(|record| {
            let (names, sets) = (&record.compiled.fqdn, &record.compiled.l7);
            assert_eq!((names.len(), sets.len()), (1, 1));
            (names.keys().max().copied(), sets.keys().max().copied())
        })
    };
    let mut bench = Bench::new();
    bench
        .write("endpoints/web.yaml", WEB)
        .write("policies/a.yaml", &named("api.example"));
    bench.settle().await;
    let before = numbers(&bench);
    bench.write("policies/a.yaml", &named("other.example"));
    bench.sinks.with(|record| {
        let (name, set) = before;
        record
            .numbers
            .identity(IdentityId(name.expect("has one").get()))
            .rule_set(L7Id(set.expect("has one").get()));
    });
    bench.restart_without_state();
    bench.settle().await;
    let after = numbers(&bench);
    assert!(after.0 > before.0, "{before:?} {after:?}");
    assert!(after.1 > before.1, "{before:?} {after:?}");
}

#[tokio::test]
async fn lost_state_and_a_broken_policy_do_not_open_a_node() {
    let mut bench = Bench::new();
    bench
        .write("endpoints/web.yaml", WEB)
        .write("policies/a.yaml", &allow("a", 80));
    bench.settle().await;
    // The kernel still has its tables: they stay.
    bench.write("policies/a.yaml", "kind: [");
    bench.restart_without_state();
    assert_eq!(bench.calls().await, [""; 0]);
    assert_eq!(bench.rules(), ["a"]);
    bench.expect_not_ready("the kernel keeps generation 1");
    assert!(
        bench.view().problems.iter().any(|p| p.line == 1),
        "the mistake itself"
    );

    // It has not: who may have been closed is closed.
    bench.reboot();
    bench.settle().await;
    assert!(bench.is_closed());
    bench.expect_not_ready("every endpoint is in default deny");
    bench.write("policies/b.yaml", &allow("b", 81));
    bench.settle().await;
    assert!(bench.is_closed() && bench.rules() == ["b"], "others go on");
    // A restart is no reason to forget what is not known.
    for restart in ["restart", "reboot"] {
        match restart {
            "restart" => bench.restart(),
            _ => bench.reboot(),
        }
        for port in [82, 83] {
            bench.write("policies/b.yaml", &allow("b", port));
            bench.settle().await;
            assert!(bench.is_closed(), "{restart}");
            assert_eq!(bench.rules(), ["b"], "{restart}: others go on");
            bench.expect_not_ready("policies/a.yaml: nothing usable is left");
        }
    }

    // Until the file is mended, or plainly removed.
    bench.remove("policies/a.yaml").remove("policies/b.yaml");
    bench.settle().await;
    assert!(!bench.is_closed());
    bench.expect_ready();

    // A newcomer that is broken was never in force and closes nobody.
    bench.write("policies/c.yaml", "kind: [");
    for reboot in [false, true] {
        if reboot {
            bench.reboot();
        }
        bench.settle().await;
        assert!(!bench.is_closed());
        bench.expect_ready();
    }
}

/// Of two that contradict each other nothing tells which was in force: neither is, whatever
/// their names, and what they may have closed is closed.
#[tokio::test]
async fn lost_state_and_lines_that_contradict_each_other_open_nothing() {
    let rules = |name: &str, l7: &str| {
        format!(
            "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: {name}, namespace: default}}
spec:
  endpointSelector: {{matchLabels: {{app: web}}}}
  egress:
  - toCIDR: [192.0.2.100/32]
    toPorts: [{{ports: [{{port: \"53\", protocol: TCP}}], rules: {{{l7}}}}}]
"
        )
    };
    let http = rules("http", "http: [{path: /x}]");
    let dns = rules("dns", "dns: [{matchPattern: '*'}]");
    for names in [["a", "b"], ["b", "a"]] {
        let [first, second] = names.map(|name| format!("policies/{name}.yaml"));
        let mut bench = Bench::new();
        bench
            .write("endpoints/web.yaml", WEB)
            .write(&first, &http)
            .write(&second, &dns)
            .write("policies/other.yaml", &allow("other", 80));
        for start in ["first start", "restart", "reboot"] {
            match start {
                "restart" => bench.restart(),
                "reboot" => bench.reboot(),
                _ => {}
            }
            bench.settle().await;
            assert_eq!(bench.rules(), ["other"], "{names:?} {start}");
            let denied = bench.sinks.with(|record| {
                let mut endpoints = record.compiled.endpoints.values();
                endpoints.next().map(|endpoint| endpoint.default_deny)
            });
            let denied = denied.map(|deny| (deny.ingress, deny.egress));
            assert_eq!(denied, Some((true, true)), "{names:?} {start}");
            bench.expect_not_ready("nothing tells which of it was in force");
            let view = bench.view();
            let errors = view.problems.iter().filter(|p| p.severity == "error");
            let files: Vec<&str> = errors.map(|p| &*p.file).filter(|f| !f.is_empty()).collect();
            assert_eq!(files, ["policies/a.yaml", "policies/b.yaml"], "{start}");
        }
        // When one of them goes, the other is what was meant.
        bench.remove(&second);
        bench.settle().await;
        assert_eq!(bench.rules(), ["http", "other"], "{names:?}");
        bench.expect_ready();

        // Where the kernel enforces one of them, that is so until it is known again.
        bench.write(&second, &dns);
        bench.restart_without_state();
        assert_eq!(bench.calls().await, [""; 0], "{names:?}");
        assert_eq!(bench.rules(), ["http", "other"], "{names:?}");
        bench.expect_not_ready("the kernel keeps generation");
    }
}

/// Who has an address says whose rules count for it: one of two stays, in default deny. What
/// refuses something is not left out to be even-handed.
#[tokio::test]
async fn lost_state_and_an_address_of_two_endpoints_close_both() {
    let other = WEB
        .replace("tg-web", "tg-other")
        .replace("name: web", "name: other");
    let mut bench = Bench::new();
    bench
        .write("endpoints/a.yaml", WEB)
        .write("endpoints/b.yaml", &other);
    for restart in [false, true] {
        if restart {
            bench.restart();
        }
        bench.settle().await;
        assert!(bench.is_closed(), "restart: {restart}");
        bench.expect_not_ready("endpoints/b.yaml: what they say is at odds");
    }
    bench.remove("endpoints/b.yaml");
    bench.settle().await;
    assert!(!bench.is_closed());
    bench.expect_ready();

    let deny = allow("p", 80).replace("ingress:", "ingressDeny:");
    let mut bench = Bench::new();
    bench
        .write("endpoints/web.yaml", WEB)
        .write("policies/a.yaml", &deny)
        .write("policies/b.yaml", &allow("p", 81));
    bench.settle().await;
    assert!(bench.is_closed() && bench.rules() == ["p"]);
    bench.sinks.with(|record| {
        let mut rules = record.compiled.rules.values();
        assert!(rules.all(|rule| rule.origin.name() == "policies/a.yaml"));
    });
}

/// A last good text that this version refuses is not forgotten: the file on disk says the
/// same, so nothing would be left of it.
#[tokio::test]
async fn an_upgrade_that_refuses_what_is_in_force_does_not_open_it() {
    let mut bench = Bench::new();
    bench
        .write("endpoints/web.yaml", WEB)
        .write("policies/a.yaml", &allow("a", 80));
    bench.settle().await;
    let refused = "apiVersion: cilium.io/v2\nkind: Old\n";
    let kept = bench.state.path().join("last-good/policies/a.yaml");
    std::fs::write(&kept, refused).expect("written");
    bench.write("policies/a.yaml", refused);
    bench.restart();
    assert_eq!(bench.calls().await, [""; 0]);
    bench.expect_not_ready("policies/a.yaml: nothing usable is left");
    bench.reboot();
    bench.settle().await;
    assert!(bench.is_closed());
}
