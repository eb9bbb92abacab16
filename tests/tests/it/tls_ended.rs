//! `terminatingTLS` and `originatingTLS`: TLS ends and begins at the proxy, with secrets from
//! files, and what is inside is decided as it would be without.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tidegate_tests::harness::{
    Curl, Place, Running, eventually, server,
    tls::{self, Certificate},
};

use crate::shop::{Shop, policy, together};

/// TLS of clients ends; the server is told in the clear.
const ENDED: u16 = 8443;
/// TLS ends, and begins anew.
const BOTH: u16 = 9443;
/// TLS begins, for clients that speak none.
const BEGUN: u16 = 9444;
/// TLS of clients would end with a secret that is not there.
const MISSING: u16 = 9445;
/// A server that nobody believes.
const STRANGE: u16 = 9446;
/// Both, and no rule about what is inside.
const RULELESS: u16 = 9447;
/// Clients have to show a certificate, and so does the proxy.
const MUTUAL: u16 = 9448;
/// The server has never heard of ALPN.
const OLD: u16 = 9449;
/// TLS begins, and no rule is about what the client says.
const BEGUN_RULELESS: u16 = 9450;

const INGRESS: &str = r#"
  ingress:
  - fromEndpoints: [{matchLabels: {app: frontend}}]
    toPorts:
    - ports: [{port: "8443", protocol: TCP}]
      terminatingTLS: {secret: {name: web}}
      rules: {http: [{path: "/api/.*"}]}
    - ports: [{port: "9443", protocol: TCP}]
      serverNames: [api.example, www.example]
      terminatingTLS: {secret: {name: web}}
      originatingTLS: {secret: {name: servers}}
      rules: {http: [{method: GET}]}
    - ports: [{port: "9444", protocol: TCP}]
      originatingTLS: {secret: {name: servers}}
      rules: {http: [{method: GET}]}
    - ports: [{port: "9445", protocol: TCP}]
      terminatingTLS: {secret: {name: nowhere}}
      rules: {http: [{}]}
    - ports: [{port: "9446", protocol: TCP}]
      terminatingTLS: {secret: {name: web}}
      originatingTLS: {secret: {name: servers}}
      rules: {http: [{}]}
    - ports: [{port: "9450", protocol: TCP}]
      originatingTLS: {secret: {name: servers}}
    - ports: [{port: "9447", protocol: TCP}]
      serverNames: [api.example, www.example]
      terminatingTLS: {secret: {name: web}}
      originatingTLS: {secret: {name: servers}}
    - ports: [{port: "9448", protocol: TCP}]
      terminatingTLS: {secret: {name: web}, trustedCA: clients.crt}
      originatingTLS: {secret: {name: servers}, certificate: own.crt, privateKey: own.key}
      rules: {http: [{}]}
    - ports: [{port: "9449", protocol: TCP}]
      terminatingTLS: {secret: {name: web}}
      originatingTLS: {secret: {name: servers}}
      rules: {http: [{}]}
  - fromEndpoints: [{matchLabels: {app: stranger}}]
  - fromEntities: [host]
"#;

/// Strangers meet the policy of their own end.
const EGRESS: &str = r#"
  egress:
  - toPorts:
    - ports: [{port: "9443", protocol: TCP}]
      terminatingTLS: {secret: {namespace: shop, name: web}}
      originatingTLS: {secret: {namespace: shop, name: servers}}
      rules: {http: [{path: "/open"}]}
"#;

/// So does a service of the node.
const REPORTER: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: reporter, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: reporter}}
  egress:
  - toPorts:
    - ports: [{port: "9443", protocol: TCP}]
      terminatingTLS: {secret: {namespace: shop, name: web}}
      originatingTLS: {secret: {namespace: shop, name: servers}}
      rules: {http: [{path: "/open"}]}
"#;

/// What clients are told of a server that is not spoken to, and no more.
const UNREACHABLE: &str = "upstream unreachable\r\n";

/// What servers speak.
const NEW: &str = "ssl_protocols TLSv1.2 TLSv1.3;";

/// The world, and who is believed in it.
struct Ended {
    shop: Shop,
    authority: Certificate,
    /// A service of the node.
    reporter: Place,
    _servers: Vec<Running>,
}

#[test]
fn what_is_inside_tls_is_decided() -> Result<()> {
    let mut shop = Shop::open()?;
    let dir = shop.world.dir();
    let authority = tls::authority(&dir.join("authority"))?;
    let stranger = tls::authority(&dir.join("stranger"))?;
    let own = tls::signed(
        &authority,
        &dir.join("own"),
        &["api.example", "www.example"],
    )?;
    let strange = tls::signed(&stranger, &dir.join("strange"), &["api.example"])?;
    let believes = format!(
        "{NEW} ssl_client_certificate {}; ssl_verify_client on;",
        authority.certificate.display()
    );
    let backend = &shop.backend;
    let [certificate, key] = [&own.certificate, &own.key].map(|file| file.display().to_string());
    let accept = OLD.to_string();
    let old = [
        "s_server",
        "-4",
        "-quiet",
        "-www",
        "-accept",
        &accept,
        "-cert",
        &certificate,
        "-key",
        &key,
    ];
    let servers = vec![
        backend.spawn("s_server", "openssl", &old)?,
        server::nginx(backend, ENDED, &dir)?,
        tls::nginx_with(backend, BOTH, &dir, (&own, NEW))?,
        tls::nginx_with(&shop.other, BOTH, &dir, (&own, NEW))?,
        tls::nginx_with(backend, BEGUN, &dir, (&own, NEW))?,
        tls::nginx_with(backend, STRANGE, &dir, (&strange, NEW))?,
        tls::nginx_with(backend, RULELESS, &dir, (&own, NEW))?,
        tls::nginx_with(backend, BEGUN_RULELESS, &dir, (&own, NEW))?,
        tls::nginx_with(backend, MUTUAL, &dir, (&own, &believes))?,
    ];
    let node = &shop.world.node;
    let secret = |name: &str, items: &[(&str, &Path)]| {
        fs::create_dir_all(node.config_dir().join("secrets/shop").join(name))?;
        for (item, from) in items {
            node.write(&format!("secrets/shop/{name}/{item}"), fs::read(from)?)?;
        }
        Ok::<_, anyhow::Error>(())
    };
    let web = tls::signed(
        &authority,
        &dir.join("web"),
        &["api.example", "www.example"],
    )?;
    secret(
        "web",
        &[
            ("tls.crt", &web.certificate),
            ("tls.key", &web.key),
            ("clients.crt", &authority.certificate),
        ],
    )?;
    secret(
        "servers",
        &[
            ("ca.crt", &authority.certificate),
            ("own.crt", &own.certificate),
            ("own.key", &own.key),
        ],
    )?;
    node.write("policies/in.yaml", policy("ended", "backend", INGRESS))?;
    node.write("policies/out.yaml", policy("out", "stranger", EGRESS))?;
    let reporter = node.place().group("reporter")?;
    node.host_service("reporter", &reporter, &[("app", "reporter")])?;
    node.write("policies/reporter.yaml", REPORTER)?;
    shop.world.node.start()?;
    let ended = Ended {
        shop,
        authority,
        reporter,
        _servers: servers,
    };
    while_everything_runs(&ended)?;
    agents_and_proxies_come_and_go(ended)
}

fn while_everything_runs(ended: &Ended) -> Result<()> {
    together!(ended;
        requests_of_real_clients_are_read_and_refused,
        both_ends_speak_what_both_can,
        what_was_agreed_on_is_spoken,
        a_name_leads_to_no_neighbour,
        tls_begins_for_clients_that_speak_none,
        the_clients_own_policy_reads_it_too,
        who_is_not_believed_is_not_spoken_to,
        what_has_no_secret_is_refused,
        what_has_no_rules_is_read_all_the_same,
        explain_and_metrics_tell_of_it,
        keys_are_nowhere_else,
        files_are_taken_up_and_connections_live_on,
    )
}

impl Ended {
    /// A request for `name` to the backend, by who believes the authority.
    fn ask(&self, name: &str, port: u16, path: &str, arguments: &[&str]) -> Curl {
        let Shop { backend, other, .. } = &self.shop;
        let resolve = match arguments.contains(&"other") {
            true => format!("{name}:{port}:{},[{}]", other.v4, other.v6),
            false => format!("{name}:{port}:{},[{}]", backend.v4, backend.v6),
        };
        let arguments: Vec<&str> = arguments
            .iter()
            .copied()
            .filter(|a| *a != "other")
            .collect();
        let believed = self.authority.certificate.display().to_string();
        Curl::get(format!("https://{name}:{port}{path}"))
            .with(&["--cacert", &believed, "--resolve", &resolve])
            .with(&arguments)
    }

    /// The record of which this is true.
    fn record(&self, verdict: &str, of: impl Fn(&Value) -> bool) -> Result<Value> {
        self.shop.world.node.record(&["--verdict", verdict], of)
    }
}

fn requests_of_real_clients_are_read_and_refused(ended: &Ended) -> Result<()> {
    let frontend = &ended.shop.frontend;
    for arguments in [&["-4"][..], &["-6"], &["--tls-max", "1.2"], &["--http1.1"]] {
        let answer = ended.ask("api.example", ENDED, "/api/x", arguments);
        let answer = answer.expect(frontend, 200)?;
        let seen = format!(
            "backend-1 {}",
            if arguments == ["-6"] {
                frontend.v6.to_string()
            } else {
                frontend.v4.to_string()
            }
        );
        ensure!(answer.body.starts_with(&seen), "{arguments:?}: {answer:?}");
        let refused = ended.ask("api.example", ENDED, "/other", arguments);
        let refused = refused.expect(frontend, 403)?;
        ensure!(refused.body.contains("Access denied"), "{refused:?}");
    }
    // Several requests, refused and allowed, on one connection.
    let url = |path: &str| format!("https://api.example:{ENDED}{path}");
    let several = ended.ask(
        "api.example",
        ENDED,
        "/api/1",
        &[
            &url("/no"),
            &url("/api/2"),
            "--write-out",
            "%{num_connects}\n",
        ],
    );
    several.from(frontend)?;
    let told = ended.record("forwarded", |record| record["l7"]["url"] == url("/api/x"))?;
    let rule = "shop/ended ingress[0].toPorts[0].rules.http[0]";
    ensure!(told["rules"] == json!([rule]), "{told}");
    let told = ended.record("dropped", |record| record["l7"]["url"] == url("/other"))?;
    ensure!(told["noneMatched"] == true, "{told}");
    let told = ended.record("forwarded", |record| record["l7"]["protocol"] == "tls")?;
    ensure!(told["l7"]["serverName"] == "api.example", "{told}");
    // A large body, both ways through records of TLS.
    let large = frontend.dir().join("large");
    fs::write(&large, vec![b'x'; 3 << 20])?;
    let data = format!("@{}", large.display());
    let sent = ended.ask(
        "api.example",
        ENDED,
        "/api/x",
        &["--http1.1", "--data-binary", &data],
    );
    sent.expect(frontend, 200)?;
    // What is no TLS is refused unread.
    let plain = Curl::get(format!("http://{}:{ENDED}/api/x", ended.shop.backend.v4));
    let answer = plain.from(frontend)?;
    ensure!(answer.status == 0, "{answer:?}");
    ended.record("error", |record| {
        record["error"] == "TLS ends here, and this is none" && record["errorKind"] == "clientTls"
    })?;
    Ok(())
}

fn both_ends_speak_what_both_can(ended: &Ended) -> Result<()> {
    let frontend = &ended.shop.frontend;
    for (arguments, seen) in [
        (&["--http2"][..], "api.example TLSv1.3 HTTP/2.0"),
        (&["--http1.1", "-6"], "api.example TLSv1.3 HTTP/1.1"),
        (&["--no-alpn"], "api.example TLSv1.3 HTTP/1.1"),
    ] {
        let answer = ended.ask("api.example", BOTH, "/", arguments);
        let answer = answer.expect(frontend, 200)?;
        ensure!(answer.body.trim() == seen, "{arguments:?}: {answer:?}");
        let refused = ended.ask("api.example", BOTH, "/", arguments);
        refused.method("DELETE").expect(frontend, 403)?;
    }
    let old = ended.ask("api.example", OLD, "/", &["--http2", "-4"]);
    let old = old.expect(frontend, 200)?;
    ensure!(old.headers.starts_with("HTTP/1.0 200"), "{old:?}");
    // A client that shows who it is, to a server that asks us.
    let own = ended.shop.world.dir().join("own");
    let [certificate, key] =
        ["tls.crt", "tls.key"].map(|file| own.join(file).display().to_string());
    let shown = ended.ask(
        "api.example",
        MUTUAL,
        "/",
        &["--cert", &certificate, "--key", &key],
    );
    shown.expect(frontend, 200)?;
    let hidden = ended.ask("api.example", MUTUAL, "/", &[]).from(frontend)?;
    ensure!(hidden.status == 0, "{hidden:?}");
    let told = |record: &Value| {
        record["error"]
            .as_str()
            .is_some_and(|why| why.contains("the TLS handshake of the client failed"))
    };
    ended.record("error", told)?;
    Ok(())
}

/// Two servers that read one connection differently are two opinions of what a request is.
fn what_was_agreed_on_is_spoken(ended: &Ended) -> Result<()> {
    let target = format!("{}:{ENDED}", ended.shop.backend.v4);
    let get = "GET /api/agreed HTTP/1.1\\r\\nHost: api.example\\r\\nConnection: close\\r\\n\\r\\n";
    let preface = "PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n";
    let answered = |said: &str| said.contains("/api/agreed");
    let refused = |said: &str| said.starts_with("HTTP/1.1 4") || said.starts_with("HTTP/1.1 5");
    type Expected<'e> = &'e dyn Fn(&str) -> bool;
    for (agreed, says, is_right) in [
        ("http/1.1", get, &answered as Expected),
        ("http/1.1", preface, &refused),
        ("h2", get, &|said| !answered(said)),
    ] {
        let script = format!(
            "(printf '{says}'; sleep 0.5) | timeout 5 openssl s_client -quiet -alpn {agreed} \
             -connect {target} -servername api.example 2>/dev/null; true"
        );
        let output = ended.shop.frontend.run("sh", &["-c", &script])?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(is_right(&said), "{agreed}, {says}: {said}");
    }
    Ok(())
}

fn a_name_leads_to_no_neighbour(ended: &Ended) -> Result<()> {
    let frontend = &ended.shop.frontend;
    let other = ended
        .ask("other.example", BOTH, "/", &["--insecure"])
        .from(frontend)?;
    ensure!(other.error.contains("unrecognized name"), "{other:?}");
    // The name is listed, the request inside is for another host.
    for version in ["--http1.1", "--http2"] {
        let fronted = ended.ask("api.example", BOTH, "/", &[version]);
        let fronted = fronted.header("Host: www.example").expect(frontend, 421)?;
        ensure!(fronted.body.contains("Another host"), "{fronted:?}");
    }
    Ok(())
}

fn tls_begins_for_clients_that_speak_none(ended: &Ended) -> Result<()> {
    let (frontend, backend) = (&ended.shop.frontend, &ended.shop.backend);
    let to = |host: &str| {
        let resolve = format!("{host}:{BEGUN}:{},[{}]", backend.v4, backend.v6);
        Curl::get(format!("http://{host}:{BEGUN}/")).with(&["--resolve", &resolve])
    };
    for (arguments, seen) in [
        (&["-4"][..], "api.example TLSv1.3 HTTP/1.1"),
        (
            &["-6", "--http2-prior-knowledge"],
            "api.example TLSv1.3 HTTP/2.0",
        ),
    ] {
        let answer = to("api.example").with(arguments).expect(frontend, 200)?;
        ensure!(answer.body.trim() == seen, "{arguments:?}: {answer:?}");
        to("api.example")
            .with(arguments)
            .method("PUT")
            .expect(frontend, 403)?;
    }
    // It is not who the client asks for.
    let refused = to("elsewhere.example").expect(frontend, 502)?;
    ensure!(refused.body == UNREACHABLE, "{refused:?}");
    Ok(())
}

fn the_clients_own_policy_reads_it_too(ended: &Ended) -> Result<()> {
    let stranger = &ended.shop.stranger;
    let to = |path: &str| ended.ask("www.example", BOTH, path, &["other"]);
    let answer = to("/open").expect(stranger, 200)?;
    ensure!(answer.body.starts_with("www.example"), "{answer:?}");
    to("/closed").expect(stranger, 403)?;
    let of_node = |path: &str| ended.ask("api.example", BOTH, path, &[]);
    of_node("/open").expect(&ended.reporter, 200)?;
    of_node("/closed").expect(&ended.reporter, 403)?;
    let told = ended.record("dropped", |record| {
        record["l7"]["url"] == format!("https://www.example:{BOTH}/closed")
    })?;
    ensure!(
        told["rules"] == json!(["shop/out egress[0].toPorts[0].rules.http[0]"]),
        "{told}"
    );
    Ok(())
}

fn who_is_not_believed_is_not_spoken_to(ended: &Ended) -> Result<()> {
    for version in ["--http1.1", "--http2"] {
        let answer = ended.ask("api.example", STRANGE, "/", &[version]);
        let answer = answer.expect(&ended.shop.frontend, 502)?;
        // Whose certificate it was is for who reads records.
        ensure!(answer.body == UNREACHABLE, "{answer:?}");
    }
    ended.record("error", |record| {
        let why = record["error"].as_str().unwrap_or_default();
        let certificate = why.contains("invalid peer certificate");
        record["l7"]["status"] == 502 && why.contains("TLS with api.example") && certificate
    })?;
    Ok(())
}

fn what_has_no_secret_is_refused(ended: &Ended) -> Result<()> {
    let answer = ended
        .ask("api.example", MISSING, "/", &[])
        .from(&ended.shop.frontend)?;
    ensure!(answer.error.contains("internal error"), "{answer:?}");
    let told = ended.record("error", |record| {
        record["error"]
            .as_str()
            .is_some_and(|why| why.contains("there is no secret shop/nowhere"))
    })?;
    ensure!(told["l7"]["alert"] == 80, "{told}");
    let problem = ended
        .shop
        .world
        .node
        .problem("there is no secret shop/nowhere")?;
    ensure!(problem["file"] == "secrets/shop/nowhere", "{problem}");
    Ok(())
}

fn what_has_no_rules_is_read_all_the_same(ended: &Ended) -> Result<()> {
    let (frontend, backend) = (&ended.shop.frontend, &ended.shop.backend);
    for (version, seen) in [("--http1.1", "HTTP/1.1"), ("--http2", "HTTP/2.0")] {
        let to = || ended.ask("www.example", RULELESS, "/ruleless", &[version]);
        let answer = to().method("PUT").from(frontend)?;
        ensure!(answer.status != 403 && answer.status != 0, "{answer:?}");
        let answer = ended.ask("www.example", RULELESS, "/", &[version]);
        let answer = answer.expect(frontend, 200)?;
        let seen = format!("www.example TLSv1.3 {seen}");
        ensure!(answer.body.trim() == seen, "{version}: {answer:?}");
        // The name leads to no neighbour here either.
        to().header("Host: api.example").expect(frontend, 421)?;
    }
    ended.record("forwarded", |record| {
        record["l7"]["url"] == format!("https://www.example:{RULELESS}/ruleless")
    })?;
    let to = |host: &str| {
        let resolve = format!("{host}:{BEGUN_RULELESS}:{},[{}]", backend.v4, backend.v6);
        Curl::get(format!("http://{host}:{BEGUN_RULELESS}/")).with(&["--resolve", &resolve])
    };
    to("api.example").expect(frontend, 200)?;
    let refused = to("elsewhere.example").expect(frontend, 502)?;
    ensure!(refused.body == UNREACHABLE, "{refused:?}");
    Ok(())
}

fn explain_and_metrics_tell_of_it(ended: &Ended) -> Result<()> {
    let node = &ended.shop.world.node;
    let to = format!("{}:{BOTH}", ended.shop.backend.v4);
    let text = node.text(&["explain", "frontend", &to, "http", "GET", "/"])?;
    for line in [
        "tls: ends here, with the secret shop/web",
        "tls: begins here, with the secret shop/servers",
        "tls: asks for api.example",
        "GET /: ALLOWED",
    ] {
        ensure!(text.contains(line), "{line}: {text}");
    }
    Ok(())
}

/// Files that hold a line of a key.
fn holding(folder: &Path, line: &[u8], found: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_symlink() || !(path.is_dir() || path.is_file()) {
            continue;
        }
        if path.is_dir() {
            holding(&path, line, found)?;
        } else if fs::read(&path)?
            .windows(line.len())
            .any(|part| part == line)
        {
            found.push(path.display().to_string());
        }
    }
    Ok(())
}

fn keys_are_nowhere_else(ended: &Ended) -> Result<()> {
    let node = &ended.shop.world.node;
    let key = fs::read_to_string(node.config_dir().join("secrets/shop/web/tls.key"))?;
    let line = key.lines().nth(1).context("a key of several lines")?;
    let mut found = Vec::new();
    let run = node.run_dir();
    let kept = run.parent().context("a folder of the node")?.join("state");
    // Whatever agent and proxy keep, and what they log.
    for folder in [run, kept, ended.shop.world.dir().join("logs")] {
        holding(&folder, line.as_bytes(), &mut found)?;
    }
    ensure!(found.is_empty(), "{found:?}");
    for arguments in [
        ["status", "-o", "json"],
        ["policy", "list", "--output=json"],
    ] {
        let text = node.tidegate(&arguments)?;
        let text = [text.stdout, text.stderr].concat();
        ensure!(
            !String::from_utf8_lossy(&text).contains(line),
            "{arguments:?}"
        );
    }
    ensure!(!node.agent_log().contains(line));
    Ok(())
}

/// The number of the certificate that clients are shown.
fn serial(ended: &Ended) -> Result<String> {
    let target = format!("{}:{ENDED}", ended.shop.backend.v4);
    let script = format!(
        "openssl s_client -connect {target} -servername api.example </dev/null 2>/dev/null \
         | openssl x509 -noout -serial"
    );
    let output = ended.shop.frontend.run("sh", &["-c", &script])?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn files_are_taken_up_and_connections_live_on(ended: &Ended) -> Result<()> {
    let node = &ended.shop.world.node;
    let before = serial(ended)?;
    ensure!(before.starts_with("serial="), "{before}");
    let target = format!("{}:{ENDED}", ended.shop.backend.v4);
    let request = "GET /api/live HTTP/1.1\\r\\nHost: api.example\\r\\n\\r\\n";
    let script = format!(
        "while sleep 0.1; do printf '{request}'; done \
         | openssl s_client -quiet -connect {target} -servername api.example"
    );
    let mut lives = ended.shop.frontend.spawn("lives", "sh", &["-c", &script])?;
    eventually("it is answered", || {
        ensure!(lives.output().contains("/api/live"), "{}", lives.output());
        Ok(())
    })?;

    // A key that does not belong to the chain changes nothing.
    let dir = ended.shop.world.dir();
    let names = ["api.example", "www.example"];
    let renewed = tls::signed(&ended.authority, &dir.join("renewed"), &names)?;
    node.write("secrets/shop/web/tls.crt", fs::read(&renewed.certificate)?)?;
    let problem = node.problem("does not belong")?;
    ensure!(problem["file"] == "secrets/shop/web/tls.key", "{problem}");
    ensure!(problem["lastGood"] == true, "{problem}");
    ensure!(serial(ended)? == before);
    node.write("secrets/shop/web/tls.key", fs::read(&renewed.key)?)?;
    eventually("the renewed one is shown", || {
        let now = serial(ended)?;
        ensure!(now != before && now.starts_with("serial="), "{now}");
        Ok(())
    })?;
    lives.check_alive()?;
    let answered = lives.output().matches("/api/live").count();
    eventually("it is still answered", || {
        let now = lives.output().matches("/api/live").count();
        ensure!(now > answered + 1, "{now} of {answered}");
        Ok(())
    })?;
    // One that is over is told of, and used.
    let problems = node.status()?["problems"].clone();
    ensure!(
        !problems.to_string().contains("does not belong"),
        "{problems}"
    );
    // One that is taken away takes its connections along.
    let web = node.config_dir().join("secrets/shop/web");
    let away = dir.join("away");
    fs::rename(&web, &away)?;
    node.problem("there is no secret shop/web")?;
    eventually("it is refused", || {
        let answer = ended
            .ask("api.example", ENDED, "/api/x", &[])
            .from(&ended.shop.frontend)?;
        ensure!(answer.error.contains("internal error"), "{answer:?}");
        Ok(())
    })?;
    fs::rename(&away, &web)?;
    eventually("it is served again", || {
        ended
            .ask("api.example", ENDED, "/api/x", &[])
            .expect(&ended.shop.frontend, 200)?;
        Ok(())
    })
}

fn agents_and_proxies_come_and_go(mut ended: Ended) -> Result<()> {
    ended.shop.world.node.kill_agent()?;
    let works = |ended: &Ended| {
        let answer = ended.ask("api.example", BOTH, "/", &["--http2"]);
        answer.expect(&ended.shop.frontend, 200).map(|_| ())
    };
    works(&ended).context("without an agent")?;
    // The next agent finds a file that cannot be used; the proxy knows better ones.
    let node = &ended.shop.world.node;
    node.write("secrets/shop/web/tls.key", "what")?;
    ended.shop.world.node.start_agent()?;
    ended.shop.world.node.problem("no key in it")?;
    works(&ended).context("with a broken file and another agent")?;
    let node = &ended.shop.world.node;
    let renewed = ended.shop.world.dir().join("renewed/tls.key");
    node.write("secrets/shop/web/tls.key", fs::read(renewed)?)?;
    eventually("the file counts again", || {
        let problems = node.status()?["problems"].to_string();
        ensure!(!problems.contains("no key in it"), "{problems}");
        Ok(())
    })?;
    who_has_an_old_secret_asks_again(&ended)?;
    ended.shop.world.node.kill_proxy()?;
    eventually("another proxy serves", || works(&ended)).context("with another proxy")
}

/// Rules that name another secret, or want clients to show a certificate, are not kept by a
/// connection that was made before them.
fn who_has_an_old_secret_asks_again(ended: &Ended) -> Result<()> {
    let Ended { shop, .. } = ended;
    let node = &shop.world.node;
    let target = format!("{}:{ENDED}", shop.backend.v4);
    let request = "GET /api/old HTTP/1.1\\r\\nHost: api.example\\r\\n\\r\\n";
    let script = format!(
        "while sleep 0.1; do printf '{request}'; done \
         | openssl s_client -quiet -connect {target} -servername api.example"
    );
    let old = shop.frontend.spawn("old-secret", "sh", &["-c", &script])?;
    eventually("it is answered", || {
        ensure!(old.output().contains("/api/old"), "{}", old.output());
        Ok(())
    })?;
    let strict = INGRESS.replacen(
        "terminatingTLS: {secret: {name: web}}",
        "terminatingTLS: {secret: {name: web}, trustedCA: clients.crt}",
        1,
    );
    node.write("policies/in.yaml", policy("ended", "backend", &strict))?;
    eventually("its next request is refused", || {
        ensure!(old.output().contains("HTTP/1.1 503"), "{}", old.output());
        Ok(())
    })?;
    let answered = old.output().matches("/api/old").count();
    let newer = ended
        .ask("api.example", ENDED, "/api/new", &[])
        .from(&shop.frontend)?;
    ensure!(
        newer.status == 0,
        "who shows nothing is not served: {newer:?}"
    );
    let now = old.output().matches("/api/old").count();
    ensure!(now == answered, "{now} of {answered}");
    node.write("policies/in.yaml", policy("ended", "backend", INGRESS))?;
    eventually("new ones are served as before", || {
        ended
            .ask("api.example", ENDED, "/api/x", &[])
            .expect(&shop.frontend, 200)
            .map(|_| ())
    })
}
