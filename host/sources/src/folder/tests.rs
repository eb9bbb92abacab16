//! Real folders in a temporary one.

use super::{listing::MAX_DOCUMENT_BYTES, *};
use tidegate_config::{Folders, Vendor};

use crate::watch::Nudge;

fn folders(root: &Path) -> Folders {
    let folder = |name| {
        let path = root.join(name);
        fs::create_dir_all(&path).expect("made");
        path
    };
    Folders {
        policies: folder("policies"),
        services: folder("services"),
        endpoints: folder("endpoints"),
        plugins: folder("plugins"),
        secrets: root.join("secrets"),
        vendor: Vendor::Unsaid,
    }
}

#[test]
fn what_is_not_there_is_told_from_what_was_removed() {
    let root = tempfile::tempdir().expect("a folder");
    let at = |name: &str| root.path().join(name);
    let mut scanner = Scanner::new(Watched::of(&folders(root.path())), &Origins::default());
    fs::write(at("policies/a.yaml"), "a").expect("written");
    std::os::unix::fs::symlink("nowhere", at("policies/link.yaml")).expect("linked");
    let scan = scanner.scan(later(1)).clone();
    assert_eq!(scan.documents["policies/a.yaml"].as_deref(), Ok("a"));
    let dangling = scan.documents["policies/link.yaml"].clone();
    assert!(dangling.expect_err("refused").contains("nowhere"));

    // A folder that is gone says nothing about its files, and is named.
    fs::rename(at("policies"), at("policies.x")).expect("moved");
    let scan = scanner.scan(later(2)).clone();
    assert!(scan.documents.is_empty() && !scan.folders.contains_key("policies"));
    let why = &scan.unreadable["policies"];
    assert!(
        why.contains("no folder") && why.contains("folders.policies"),
        "{why}"
    );

    // One that is back is the same, another one is not.
    fs::rename(at("policies.x"), at("policies")).expect("moved");
    let back = scanner.scan(later(3)).folders["policies"].clone();
    fs::rename(at("policies"), at("policies.x")).expect("moved");
    fs::create_dir(at("policies")).expect("made");
    assert!(!scanner.scan(later(4)).folders["policies"].is(&back));
}

/// As the node agent of Kubernetes does it: files are links through `..data`, which is
/// replaced by a rename.
#[test]
fn a_mounted_config_map_may_be_swapped() {
    let root = tempfile::tempdir().expect("a folder");
    let at = |name: &str| root.path().join("policies").join(name);
    let mut scanner = Scanner::new(Watched::of(&folders(root.path())), &Origins::default());
    for (version, text) in [("..1", "one"), ("..2", "two")] {
        fs::create_dir(at(version)).expect("made");
        fs::write(at(version).join("a.yaml"), text).expect("written");
    }
    std::os::unix::fs::symlink("..1", at("..data")).expect("linked");
    std::os::unix::fs::symlink("..data/a.yaml", at("a.yaml")).expect("linked");
    for text in ["one", "two"] {
        let scan = scanner.scan(later(1));
        assert_eq!(scan.documents["policies/a.yaml"].as_deref(), Ok(text));
        assert!(scan.ignored.is_empty(), "{scan:?}");
        std::os::unix::fs::symlink("..2", at("..new")).expect("linked");
        fs::rename(at("..new"), at("..data")).expect("swapped");
    }
}

#[test]
fn what_looks_like_a_document_and_is_not_read_is_named() {
    let root = tempfile::tempdir().expect("a folder");
    let mut scanner = Scanner::new(Watched::of(&folders(root.path())), &Origins::default());
    fs::write(root.path().join("policies/B.YAML"), "a").expect("written");
    fs::create_dir(root.path().join("policies/team")).expect("made");
    fs::create_dir(root.path().join("policies/lost+found")).expect("made");
    fs::write(root.path().join("policies/team/a.yaml"), "a").expect("written");
    fs::write(root.path().join("policies/notes.txt"), "a").expect("written");
    let scan = scanner.scan(later(1));
    assert!(scan.ignored["policies/B.YAML"].contains("rename it"));
    assert!(scan.ignored["policies/team"].contains("move its files up"));
    assert_eq!(scan.ignored.len(), 2, "{scan:?}");
    assert_eq!(scan.astray["policies/a"], "policies/team/a.yaml");
    assert_eq!(scan.astray["policies/b"], "policies/B.YAML");
}

#[test]
fn what_is_not_read_for_its_name_is_known_by_what_it_says() {
    let root = tempfile::tempdir().expect("a folder");
    let mut scanner = Scanner::new(Watched::of(&folders(root.path())), &Origins::default());
    let list = |name: &str| {
        format!(
            "apiVersion: tidegate.io/v1alpha1\nkind: DenyList\nmetadata: {{name: {name}}}\nspec: {{cidrs: []}}\n"
        )
    };
    let broken = list("broken").replace("cidrs", "cidr");
    for (name, text) in [
        ("p.ymal", list("p")),
        ("broken.txt", broken.clone()),
        ("off.yaml.disabled", list("off")),
        (".hidden.yaml", list("hidden")),
        (
            "README.md",
            format!("# A list\n\n```yaml\n{}```\n", list("example")),
        ),
        ("empty.txt", "\n".to_owned()),
    ] {
        fs::write(root.path().join("policies").join(name), text).expect("written");
    }
    let scan = scanner.scan(later(1)).clone();
    let ignored: Vec<&str> = scan.ignored.keys().map(String::as_str).collect();
    assert_eq!(
        ignored,
        ["policies/broken.txt", "policies/p.ymal"],
        "{scan:?}"
    );
    assert!(scan.ignored["policies/p.ymal"].contains("rename it, or move it out"));
    assert_eq!(scan.astray["policies/p"], "policies/p.ymal");
    for (text, place) in [
        (list("p"), "policies/p.ymal"),
        (broken, "policies/broken.txt"),
        (list("off"), "policies/off.yaml.disabled"),
        (list("hidden"), "policies/.hidden.yaml"),
    ] {
        assert_eq!(scan.unread[&TextId::of(&text)], place);
    }
    // Looked into again when it changes.
    fs::write(root.path().join("policies/p.ymal"), list("q")).expect("written");
    let scan = scanner.scan(later(2));
    assert!(!scan.unread.contains_key(&TextId::of(&list("p"))));
    assert_eq!(scan.unread[&TextId::of(&list("q"))], "policies/p.ymal");
}

#[test]
fn folders_that_are_not_watched_any_more_are_looked_at_for_what_is_gone() {
    let root = tempfile::tempdir().expect("a folder");
    let at = |name: &str| root.path().join(name);
    let before = folders(&at("before"));
    let mut scanner = Scanner::new(Watched::of(&before), &Origins::default());
    fs::write(before.policies.join("a.yaml"), "a").expect("written");
    fs::write(before.plugins.join("p.wasm"), "p").expect("written");
    let scanned = scanner.scan(later(1)).folders.clone().into_iter();
    let origins = Origins {
        documents: scanned
            .map(|(label, id)| (Origin::from(&*label), id))
            .collect(),
        plugins: vec![before.plugins.join("p.wasm")],
    };
    let mut scanner = Scanner::new(Watched::of(&folders(&at("after"))), &origins);
    let scan = scanner.scan(later(1)).clone();
    let former = scan.former[&before.policies].clone().expect("listed");
    assert!(
        former.files.contains("a.yaml")
            && former.id.is(&origins.documents[&Origin::from("policies")])
    );
    assert_eq!(scan.plugins_elsewhere.len(), 1);
    fs::remove_dir_all(&before.policies).expect("removed");
    fs::remove_file(before.plugins.join("p.wasm")).expect("removed");
    let scan = scanner.scan(later(2));
    assert!(scan.former[&before.policies].is_err());
    assert!(scan.plugins_elsewhere.is_empty(), "its folder is there");
    fs::remove_dir_all(&before.plugins).expect("removed");
    assert_eq!(scanner.scan(later(3)).plugins_elsewhere.len(), 1);
}

fn later(seconds: u64) -> SystemTime {
    SystemTime::now() + Duration::from_secs(seconds)
}

#[test]
fn a_scan_sees_documents_and_plugins_and_nothing_else() {
    let root = tempfile::tempdir().expect("a folder");
    for (name, text) in [
        ("policies/a.yaml", "a"),
        ("policies/b.yml", "b"),
        ("policies/.a.yaml.swp", "editor"),
        ("policies/.hidden.yaml", "editor"),
        ("policies/a.yaml~", "editor"),
        ("plugins/bot.wasm", "wasm"),
        ("plugins/bot.yaml", "manifest"),
    ] {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, text).expect("written");
    }
    let mut scanner = Scanner::new(Watched::of(&folders(root.path())), &Origins::default());
    let scan = scanner.scan(later(1));
    let names: Vec<_> = scan.documents.keys().map(String::as_str).collect();
    assert_eq!(names, ["policies/a.yaml", "policies/b.yml"]);
    assert_eq!(scan.plugins.len(), 1);
    assert!(scan.unreadable.is_empty(), "{scan:?}");
}

#[test]
fn what_is_beside_a_plugin_makes_it_another_version() {
    let root = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| fs::write(root.path().join(name), text).expect("written");
    fs::create_dir(root.path().join("plugins")).expect("made");
    write("plugins/bot.wasm", "wasm");
    let mut scanner = Scanner::new(Watched::of(&folders(root.path())), &Origins::default());
    let mut stamps = vec![scanner.scan(later(1)).plugins.clone()];
    for (beside, text) in [
        ("bot.yaml", "a"),
        ("bot.wasm.minisig", "b"),
        ("bot.wasm.minisig", "longer"),
    ] {
        write(&format!("plugins/{beside}"), text);
        let stamp = scanner.scan(later(1)).plugins.clone();
        assert!(!stamps.contains(&stamp), "{beside}");
        stamps.push(stamp);
    }
    write("plugins/other.minisig", "");
    assert_eq!(scanner.scan(later(1)).plugins, stamps[3], "of no file");
}

/// A folder with a policy of this content, and a scanner that has read it.
fn with_a_policy(text: &str) -> (tempfile::TempDir, PathBuf, Scanner) {
    let root = tempfile::tempdir().expect("a folder");
    let file = root.path().join("policies/a.yaml");
    let mut scanner = Scanner::new(Watched::of(&folders(root.path())), &Origins::default());
    fs::write(&file, text).expect("written");
    assert_eq!(content(scanner.scan(later(1))).as_deref(), Ok(text));
    (root, file, scanner)
}

fn content(scan: &Scan) -> Result<Arc<str>, String> {
    scan.documents["policies/a.yaml"].clone()
}

#[test]
fn a_file_being_written_keeps_its_previous_content() {
    let (_root, file, mut scanner) = with_a_policy("old");

    fs::write(&file, "new").expect("written");
    let modified = fs::metadata(&file)
        .and_then(|m| m.modified())
        .expect("a time");
    let scan = scanner.scan(modified + QUIET / 2);
    assert!(scan.unsettled);
    assert_eq!(content(scan).as_deref(), Ok("old"));
    let scan = scanner.scan(modified + QUIET);
    assert!(!scan.unsettled);
    assert_eq!(content(scan).as_deref(), Ok("new"));
}

#[test]
fn a_file_that_somebody_has_open_is_not_read_however_quiet_it_is() {
    let (root, file, mut scanner) = with_a_policy("old");
    fs::write(&file, "half").expect("written");
    let aside = root.path().join("aside.yaml");
    scanner.hear(&Nudge::Written(aside.clone()));
    for (nudge, read) in [
        (Nudge::Renamed(aside, file.clone()), false),
        (Nudge::Complete(file.clone()), false),
        (Nudge::Changed, false),
        (Nudge::Closed(file.clone()), true),
    ] {
        scanner.hear(&nudge);
        let scan = scanner.scan(later(10));
        let expected = if read { "half" } else { "old" };
        assert_eq!(content(scan).as_deref(), Ok(expected), "{nudge:?}");
        assert!(!scan.unsettled);
    }
    // What is heard may be lost.
    fs::write(&file, "more").expect("written");
    scanner.hear(&Nudge::Written(file.clone()));
    assert_eq!(content(scanner.scan(later(10))).as_deref(), Ok("half"));
    assert_eq!(content(scanner.scan(later(100))).as_deref(), Ok("more"));
}

#[test]
fn a_complete_document_is_seen_at_once_and_only_as_it_was() {
    let root = tempfile::tempdir().expect("a folder");
    let file = root.path().join("policies/a.yaml");
    let mut scanner = Scanner::new(Watched::of(&folders(root.path())), &Origins::default());
    fs::write(&file, "one").expect("written");
    let modified = || {
        let meta = fs::metadata(&file).expect("a file");
        meta.modified().expect("a time")
    };
    assert!(scanner.scan(modified()).documents.is_empty());
    scanner.complete(file.clone());
    let scan = scanner.scan(modified());
    assert!(!scan.unsettled);
    assert_eq!(scan.documents["policies/a.yaml"].as_deref(), Ok("one"));
    // Somebody goes on writing before it is looked at.
    scanner.complete(file.clone());
    fs::write(&file, "another").expect("written");
    let scan = scanner.scan(modified());
    assert!(scan.unsettled);
    assert_eq!(scan.documents["policies/a.yaml"].as_deref(), Ok("one"));
}

#[test]
fn a_complete_plugin_is_seen_at_once_and_only_as_it_was() {
    let root = tempfile::tempdir().expect("a folder");
    let file = root.path().join("plugins/a.wasm");
    fs::create_dir_all(file.parent().expect("a parent")).expect("made");
    fs::write(&file, "one").expect("written");
    let mut scanner = Scanner::new(Watched::of(&folders(root.path())), &Origins::default());
    let modified = || {
        let meta = fs::metadata(&file).expect("a file");
        meta.modified().expect("a time")
    };
    assert!(scanner.scan(modified()).unsettled);
    scanner.complete(file.clone());
    let scan = scanner.scan(modified());
    assert!(!scan.unsettled);
    assert!(scan.plugins.contains_key(&file));
    // Somebody goes on writing before it is looked at.
    scanner.complete(file.clone());
    fs::write(&file, "another").expect("written");
    assert!(scanner.scan(modified()).unsettled);
}

#[test]
fn a_folder_in_the_place_of_a_file_is_refused() {
    let root = tempfile::tempdir().expect("a folder");
    fs::create_dir_all(root.path().join("policies/a.yaml")).expect("made");
    let mut scanner = Scanner::new(Watched::of(&folders(root.path())), &Origins::default());
    let content = scanner.scan(later(1)).documents["policies/a.yaml"].clone();
    assert!(content.expect_err("refused").contains("regular file"));
}

#[test]
fn an_oversized_file_is_refused_unread() {
    let root = tempfile::tempdir().expect("a folder");
    fs::create_dir_all(root.path().join("policies")).expect("made");
    let file = fs::File::create(root.path().join("policies/big.yaml")).expect("made");
    file.set_len(MAX_DOCUMENT_BYTES + 1).expect("grown");
    let mut scanner = Scanner::new(Watched::of(&folders(root.path())), &Origins::default());
    let content = scanner.scan(later(1)).documents["policies/big.yaml"].clone();
    assert!(content.expect_err("refused").contains("split it"));
}

#[test]
fn a_vendors_folder_need_not_have_all_folders() {
    let root = tempfile::tempdir().expect("a folder");
    let vendor = root.path().join("vendor");
    let mut scanner = Scanner::new(Watched::vendor(&vendor), &Origins::default());
    let scan = scanner.scan(later(1)).clone();
    let all: Vec<&String> = scan.unreadable.keys().collect();
    assert_eq!(all, [""], "said once");
    let why = &scan.unreadable[""];
    assert!(why.contains("`folders.vendor`"), "{why}");

    fs::create_dir_all(vendor.join("policies")).expect("made");
    fs::write(vendor.join("policies/a.yaml"), "a").expect("written");
    let scan = scanner.scan(later(2)).clone();
    assert_eq!(scan.documents["policies/a.yaml"].as_deref(), Ok("a"));
    assert!(scan.unreadable.is_empty(), "{:?}", scan.unreadable);
    assert_eq!(scan.missing.len(), LABELS.len() - 1);

    // One that had files and is gone says nothing about them.
    let mut source = FolderSource::new(Source::named(VENDOR), BTreeMap::new());
    let known = || ["policies/a.yaml"].into_iter();
    let nothing = |_: &str| Vec::new();
    assert!(
        source
            .delta(&scan, known(), |_| true, nothing)
            .held
            .is_empty()
    );
    fs::remove_dir_all(vendor.join("policies")).expect("removed");
    let scan = scanner.scan(later(3));
    let delta = source.delta(scan, known(), |_| true, nothing);
    assert!(delta.removed.is_empty());
    assert_eq!(delta.held.keys().collect::<Vec<_>>(), ["policies"]);
    fs::remove_dir_all(&vendor).expect("removed");
    let delta = source.delta(scanner.scan(later(4)), known(), |_| true, nothing);
    assert!(delta.removed.is_empty());
    assert_eq!(delta.held.keys().collect::<Vec<_>>(), [""]);
}

#[test]
fn a_source_of_files_tells_what_changed_alone() {
    let root = tempfile::tempdir().expect("a folder");
    let at = |name: &str| root.path().join("policies").join(name);
    let mut scanner = Scanner::new(Watched::of(&folders(root.path())), &Origins::default());
    let mut source = FolderSource::new(Source::folders(), BTreeMap::new());
    let mut delta = |known: &[&str], when| {
        let scan = scanner.scan(later(when)).clone();
        let delta = source.delta(&scan, known.iter().copied(), |_| true, |_| Vec::new());
        let changed: Vec<String> = delta.changed.into_keys().collect();
        let removed: Vec<String> = delta.removed.into_iter().collect();
        (changed.join(" "), removed.join(" "))
    };
    fs::write(at("a.yaml"), "a").expect("written");
    fs::write(at("b.yaml"), "b").expect("written");
    let (a, b) = ("policies/a.yaml", "policies/b.yaml");
    assert_eq!(delta(&[], 1), (format!("{a} {b}"), String::new()));
    assert_eq!(delta(&[a, b], 2), Default::default());
    fs::write(at("b.yaml"), "other").expect("written");
    fs::remove_file(at("a.yaml")).expect("removed");
    assert_eq!(delta(&[a, b], 3), (b.to_owned(), a.to_owned()));
    // The same text again is news of a file that was removed.
    fs::write(at("a.yaml"), "a").expect("written");
    assert_eq!(delta(&[b], 4), (a.to_owned(), String::new()));
}
