//! What an author does from an empty folder, with the real `tidegate` and the real compilers.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// A folder of an author's.
struct Desk {
    dir: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs `tidegate` in a folder of the desk.
    fn run(&self, folder: &str, line: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .current_dir(self.path(folder))
            .args(line.split(' '))
            .output()
            .expect("tidegate starts")
    }

    /// What a command prints that succeeds.
    fn prints(&self, folder: &str, line: &str) -> String {
        let output = self.run(folder, line);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {text}{errors}");
        text
    }

    /// What a command says that fails, on both outputs.
    fn complains(&self, folder: &str, line: &str) -> String {
        let output = self.run(folder, line);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert_eq!(output.status.code(), Some(1), "{line}: {said}");
        said
    }

    /// A new project, with the libraries that are compiled here already.
    fn project(&self, name: &str, kind: &str) {
        self.prints(".", &format!("plugin new {name} --kind {kind}"));
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        fs::copy(root.join("Cargo.lock"), self.path(name).join("Cargo.lock")).expect("a lock file");
        let target = fs::canonicalize(root.join("target/wasm")).expect("run `cargo xtask build`");
        symlink(target, self.path(name).join("target")).expect("a link");
    }

    fn change(&self, file: &str, from: &str, to: &str) {
        let path = self.path(file);
        let text = fs::read_to_string(&path).expect(file);
        assert!(text.contains(from), "{file} has no {from:?}");
        fs::write(path, text.replace(from, to)).expect(file);
    }
}

#[test]
fn a_filter_of_each_kind_is_made_built_and_tried() {
    let desk = Desk::new();
    for (kind, world, cases) in [
        ("http", "http-filter", 3),
        ("exchange", "http-exchange-filter", 3),
        ("dns", "dns-filter", 2),
        ("stream", "stream-filter", 1),
    ] {
        let name = format!("own-{kind}");
        desk.project(&name, kind);
        desk.prints(&name, "plugin build");
        let said = desk.prints(&name, "plugin test");
        assert!(
            said.ends_with(&format!("{name}@0.1.0: {cases} passed, 0 failed\n")),
            "{said}"
        );
        let said = desk.prints(&name, &format!("plugin inspect {name}.wasm"));
        for part in [
            world,
            &name,
            "none: it can call nothing",
            "an agent would take it",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
    let said = desk.prints("own-http", "plugin bench -o json");
    let costs: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(costs.as_array().map(Vec::len), Some(3), "{said}");
    for cost in costs.as_array().into_iter().flatten() {
        for key in ["p50Seconds", "p99Seconds", "baselineP50Seconds"] {
            assert!(cost[key].as_f64() > Some(0.0), "{key}: {said}");
        }
    }
    let said = desk.complains("own-stream", "plugin bench");
    assert!(said.contains("measure it with traffic"), "{said}");
    // What is not as the cases say, and what another version decides otherwise.
    desk.change("own-http/tests.yaml", "status: 405", "status: 403");
    let said = desk.complains("own-http", "plugin test");
    assert!(
        said.contains(
            "FAILED  what is refused gets a reason (./tests.yaml:4)\n        \
             expect: status: expected 403, came 405\n"
        ) && said.ends_with("2 passed, 1 failed\n"),
        "{said}"
    );
    fs::copy(
        desk.path("own-http/own-http.wasm"),
        desk.path("own-http/before.wasm"),
    )
    .expect("a copy");
    desk.change("own-http/src/lib.rs", "deny(405", "deny(403");
    desk.change(
        "own-http/src/lib.rs",
        "\"version\": \"0.1.0\"",
        "\"version\": \"0.2.0\"",
    );
    desk.prints("own-http", "plugin build");
    let said = desk.complains("own-http", "plugin test --against before.wasm");
    assert!(
        said.contains(
            "expect: was denied with 405: no PUT here; is denied with 403: no PUT here\n"
        ) && said.ends_with("own-http@0.2.0 decides 1 of 3 cases otherwise than own-http@0.1.0\n"),
        "{said}"
    );
    // Recorded traffic: a request passed that this filter would refuse.
    let record = |method: &str| {
        format!(
            r#"{{"time":"2026-01-01T00:00:00Z","event":"l7","verdict":"FORWARDED","protocol":"tcp","source":{{"address":"10.0.0.1","port":1,"identity":9}},"destination":{{"address":"10.0.0.2","port":80,"identity":8}},"l7":{{"protocol":"http","version":"HTTP/1.1","method":"{method}","url":"http://shop.example/cart","status":200,"latencySeconds":0.001}},"generation":1}}"#
        )
    };
    // What policy refused is no case: a filter never saw it; nor is what others read.
    let refused = record("POST").replace("FORWARDED", "DROPPED");
    let query = record("x").replace(
        r#""protocol":"http","version":"HTTP/1.1","method":"x","url":"http://shop.example/cart","status":200"#,
        r#""protocol":"dns","query":"a.example.","qtype":"A""#,
    );
    let lines = [record("PUT"), record("GET"), record("PUT"), refused, query].join("\n");
    fs::write(desk.path("own-http/flows"), lines).expect("records");
    let said = desk.complains(
        "own-http",
        r#"plugin test --recorded flows --config {"refuse":["PUT"]}"#,
    );
    assert!(
        said.contains("ok      GET http://shop.example/cart\n")
            && said.contains("expected allowed, but it is denied with 403")
            && said.ends_with("1 passed, 1 failed\n"),
        "{said}"
    );
}

#[test]
fn mistakes_are_told_with_the_way_out() {
    let desk = Desk::new();
    fs::write(desk.path("junk.wasm"), "no component").expect("a file");
    for (line, said) in [
        ("plugin new Bad", "use lower-case letters"),
        ("plugin new http", "the name of a built-in plugin"),
        ("plugin build", "`tidegate plugin new NAME` makes one"),
        ("plugin test", "go to the folder of a filter's project"),
        ("plugin inspect junk.wasm", "an agent would refuse it"),
        ("plugin inspect gone.wasm", "gone.wasm"),
    ] {
        let text = desk.complains(".", line);
        assert!(text.contains(said), "{line}: {text}");
    }
    desk.prints(".", "plugin new twice");
    let text = desk.complains(".", "plugin new twice");
    assert!(text.contains("twice is there already"), "{text}");
    let text = desk.complains("twice", "plugin test");
    assert!(text.contains("`tidegate plugin build` makes it"), "{text}");
    // A filter that is asked about what it does not read, and one that refuses its
    // configuration.
    let built_in =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/artifacts/examples/bot-filter.wasm");
    fs::copy(built_in, desk.path("bot-filter.wasm")).expect("an artifact");
    let cases = |text: &str| fs::write(desk.path("tests.yaml"), text).expect("cases");
    cases("cases:\n- {query: {name: a}, expect: {verdict: allowed}}\n");
    let text = desk.complains(".", "plugin test bot-filter.wasm");
    assert!(
        text.contains("tests.yaml:2") && text.contains("is asked by `request`"),
        "{text}"
    );
    cases("config: {deny: 1}\ncases:\n- {request: {url: /}, expect: {verdict: allowed}}\n");
    let text = desk.complains(".", "plugin test bot-filter.wasm");
    assert!(
        text.contains("failed: it refuses the configuration"),
        "{text}"
    );
}

#[test]
fn the_contract_is_written_as_it_is_here() {
    let desk = Desk::new();
    let said = desk.prints(".", "plugin wit");
    assert!(said.contains("wit/filter@0.2.0/stream.wit\n"), "{said}");
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit/filter@0.1.0/http.wit");
    let theirs = desk.path("wit/filter@0.1.0/http.wit");
    assert_eq!(
        fs::read(ours).expect("ours"),
        fs::read(theirs).expect("theirs")
    );
}
