//! Many files, one check: text in, error or effective configuration out.

use std::path::Path;

use super::{Addresses, LogFormat, PolicyMode, Vendor, parse, schema};

fn check_error(text: &str, expected: &str) {
    let error = parse("tidegate.yaml", text, Path::new("/etc/tidegate")).expect_err(text);
    assert_eq!(error.to_string(), expected, "for:\n{text}");
}

#[test]
fn errors_name_place_key_value_and_what_would_be_right() {
    let cases = [
        (
            "node:\n  nmae: a\n",
            "tidegate.yaml:2:3: node.nmae: unknown key `nmae`; did you mean `name`?",
        ),
        (
            "polices: {}\n",
            "tidegate.yaml:1:1: polices: unknown key `polices`; did you mean `policy`?",
        ),
        (
            "limits:\n  flows: many # too few\n",
            "tidegate.yaml:2:10: limits.flows: `many` does not fit; expected a whole number",
        ),
        (
            "limits:\n  flows: 0\n",
            "tidegate.yaml:2:10: limits.flows: out of range: `0`; expected 1 to 16777216",
        ),
        (
            "policy:\n  mode: alwais\n",
            "tidegate.yaml:2:9: policy.mode: unknown value `alwais`; did you mean `always`?",
        ),
        (
            "policy:\n  mode: strict\n",
            "tidegate.yaml:2:9: policy.mode: unknown value `strict`; expected one of `default`, `always`, `never`, `audit`",
        ),
        (
            "metrics:\n  listen: localhost\n",
            "tidegate.yaml:2:11: metrics.listen: not an address and port: `localhost`; expected address:port such as 127.0.0.1:9965 or [::1]:9965, or `off`",
        ),
        (
            "log:\n  level: chatty\n",
            "tidegate.yaml:2:10: log.level: not a log level: `chatty`; expected error, warn, info, debug or trace, or a list such as `info,tidegate_control=debug`",
        ),
        (
            "proxy:\n  user: root\n",
            "tidegate.yaml:2:9: proxy.user: the proxy must not run as `root`; it needs none of root's powers; leave the key out for `nobody`",
        ),
        (
            "proxy:\n  hungAfterSeconds: 1\n",
            "tidegate.yaml:2:21: proxy.hungAfterSeconds: out of range: `1`; expected 2 to 600",
        ),
        (
            "proxy:\n  connectionsPerCpu: 4\n",
            "tidegate.yaml:2:22: proxy.connectionsPerCpu: out of range: `4`; expected 16 to 65536",
        ),
        (
            "node:\n  outsideDevices: [eth0, much-too-long-a-name]\n",
            "tidegate.yaml:2:26: node.outsideDevices[1]: not a device name: `much-too-long-a-name`; expected 1 to 15 characters such as `eth0`",
        ),
        (
            "node:\n  addresses: automatic\n",
            "tidegate.yaml:2:14: node.addresses: unknown value `automatic`; expected `auto` or a list of IP addresses",
        ),
        (
            "node:\n  name: a\n  name: b\n",
            "tidegate.yaml:3:3: node.name: the key `name` is written twice; keep one of them",
        ),
        (
            "limits: {flows: many, endpoints: 5}\n",
            "tidegate.yaml:1:17: limits.flows: `many` does not fit; expected a whole number",
        ),
        (
            "node: hello\n",
            "tidegate.yaml:1:7: node: `hello` does not fit; expected keys and values below it",
        ),
    ];
    for (text, expected) in cases {
        check_error(text, expected);
    }
}

#[test]
fn all_that_is_wrong_is_told_together() {
    check_error(
        "node: {name: '', outsideDevices: [a/b], addresses: all}\nfqdn: {minTTL: 9999999}\n\
         limits: {flows: 0, services: 0}\nmetrics: {listen: x}\nlog: {level: y}\nproxy: {user: root}\n",
        "tidegate.yaml:1:14: node.name: empty value ``; expected a name\n\
         tidegate.yaml:1:35: node.outsideDevices[0]: not a device name: `a/b`; expected 1 to 15 characters such as `eth0`\n\
         tidegate.yaml:1:52: node.addresses: unknown value `all`; expected `auto` or a list of IP addresses\n\
         tidegate.yaml:2:16: fqdn.minTTL: out of range: `9999999`; expected 0 to 604800\n\
         tidegate.yaml:3:17: limits.flows: out of range: `0`; expected 1 to 16777216\n\
         tidegate.yaml:3:30: limits.services: out of range: `0`; expected 1 to 16777216\n\
         tidegate.yaml:4:19: metrics.listen: not an address and port: `x`; expected address:port such as 127.0.0.1:9965 or [::1]:9965, or `off`\n\
         tidegate.yaml:5:14: log.level: not a log level: `y`; expected error, warn, info, debug or trace, or a list such as `info,tidegate_control=debug`\n\
         tidegate.yaml:6:15: proxy.user: the proxy must not run as `root`; it needs none of root's powers; leave the key out for `nobody`",
    );
}

#[test]
fn every_unknown_key_is_told_at_once() {
    check_error(
        "node:\n  nmae: a\n  outsideDevices: [eth0]\npolices: {mode: x}\n\
         folders: {polcies: a, services: b}\nlimits: {flows: many, flow: 1}\n",
        "tidegate.yaml:2:3: node.nmae: unknown key `nmae`; did you mean `name`?\n\
         tidegate.yaml:4:1: polices: unknown key `polices`; did you mean `policy`?\n\
         tidegate.yaml:5:11: folders.polcies: unknown key `polcies`; did you mean `policies`?\n\
         tidegate.yaml:6:23: limits.flow: unknown key `flow`; did you mean `flows`?",
    );
}

#[test]
fn no_field_is_called_by_a_sign_of_the_parser() {
    for (text, field) in [
        ("- a\n", ""),
        ("word\n", ""),
        ("node: {}\nnode: {}\n", "node: "),
        ("node: [\n", ""),
        ("? [a]\n: b\n", ""),
        (
            "node:\n  outsideDevices: [a, [b]]\n",
            "node.outsideDevices[1]: ",
        ),
        ("limits: {flows: {a: 1}}\n", "limits.flows: "),
    ] {
        let error = parse("t", text, Path::new("/"))
            .expect_err(text)
            .to_string();
        let place: String = error.split_inclusive(':').take(3).collect();
        let rest = error[place.len()..].trim_start();
        assert!(
            !rest.starts_with('?') && !rest.contains("?:"),
            "{text}{error}"
        );
        assert!(rest.starts_with(field), "{text}{error}");
    }
}

#[test]
fn an_empty_file_means_the_defaults() {
    for text in ["", "# nothing here\n\n", "{}\n"] {
        let config = parse("t", text, Path::new("/etc/tidegate")).expect(text);
        assert_eq!(config.folders.policies, Path::new("/etc/tidegate/policies"));
        assert_eq!(config.node.state_dir, Path::new("/var/lib/tidegate"));
        assert_eq!(config.node.addresses, Addresses::Auto);
        assert_eq!(config.policy.mode, PolicyMode::Default);
        assert_eq!(config.log.format, LogFormat::Text);
        assert_ne!(config.proxy.user.uid, 0);
    }
}

#[test]
fn paths_are_relative_to_the_file() {
    let text =
        "node: {stateDir: state, runDir: /run/x}\nfolders: {policies: ../shared, vendor: base}\n";
    let config = parse("t", text, Path::new("/etc/tidegate")).expect("valid");
    assert_eq!(config.node.state_dir, Path::new("/etc/tidegate/state"));
    assert_eq!(config.node.run_dir, Path::new("/run/x"));
    assert_eq!(
        config.folders.policies,
        Path::new("/etc/tidegate/../shared")
    );
    let vendor = |text: &str| {
        let config = parse("t", text, Path::new("/etc/tidegate")).expect("valid");
        config.folders.vendor
    };
    assert_eq!(vendor(text), Vendor::At("/etc/tidegate/base".into()));
    assert_eq!(vendor("folders: {vendor: none}"), Vendor::None);
    assert_eq!(vendor(""), Vendor::Unsaid);
}

#[test]
fn the_effective_configuration_is_a_configuration() {
    let text = "
node: {name: n1, cgroup: none, outsideDevices: [eth0], addresses: [192.0.2.1, '2001:db8::1']}
policy: {mode: audit, allowLocalhost: true}
fqdn: {minTTL: 30, rejectResponseCode: nameError}
limits: {flows: 1000}
metrics: {listen: off}
log: {format: json, level: 'info,tidegate_proxy=debug'}
proxy: {user: 65534, connectionsPerCpu: 100, hungAfterSeconds: 20, memoryPerCpuMiB: 5,
  http2HeaderListBytes: 5000}
plugins: {requireSignature: false}
";
    let config = parse("t", text, Path::new("/etc/tidegate")).expect("valid");
    let effective = serde_saphyr::to_string(&config).expect("serialises");
    let again = parse("t", &effective, Path::new("/elsewhere")).expect(&effective);
    assert_eq!(again, config, "{effective}");
}

#[test]
fn the_schema_knows_every_section_and_refuses_others() {
    let schema = schema();
    let properties = schema["properties"].as_object().expect("an object");
    let sections = [
        "folders", "fqdn", "limits", "log", "metrics", "node", "plugins", "policy", "proxy",
    ];
    let mut known: Vec<_> = properties.keys().map(String::as_str).collect();
    known.sort_unstable();
    assert_eq!(known, sections);
    assert_eq!(schema["additionalProperties"], false);
}

#[test]
fn keys_of_those_who_are_believed_are_read() {
    let root = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        std::fs::write(root.path().join(name), text).expect("written");
    };
    let key = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
    write(
        "acme.pub",
        &format!("untrusted comment: minisign public key\n{key}\n"),
    );
    write("line.pub", key);
    write("other.pub", "ssh-ed25519 AAAA");
    let text = "plugins:\n  trustedKeys: [acme.pub, line.pub]\n  requireSignature: true\n";
    let plugins = parse("t", text, root.path()).expect("valid").plugins;
    assert!(plugins.require_signature && plugins.trust.required);
    assert_eq!(plugins.trust.keys.len(), 2);
    assert_eq!(plugins.trusted_keys[0], root.path().join("acme.pub"));
    for (text, start, end) in [
        (
            "plugins: {requireSignature: true}",
            "t:1:29: plugins.requireSignature: nobody is believed, so no plugin could be used: `true`",
            "; name a public key: `plugins.trustedKeys: [keys/acme.pub]`",
        ),
        (
            "plugins:\n  trustedKeys: [acme.pub, gone.pub]\n",
            "t:2:27: plugins.trustedKeys[1]: cannot be read (No such file",
            "; put it there",
        ),
        (
            "plugins: {trustedKeys: [.]}",
            "t:1:25: plugins.trustedKeys[0]: not a regular file: `",
            "; expected a file with a public key",
        ),
        (
            "plugins: {trustedKeys: [other.pub]}",
            "t:1:25: plugins.trustedKeys[0]: no public key of minisign is in it: `",
            "; expected the NAME.pub that `tidegate plugin keygen NAME` or `minisign -G` made",
        ),
    ] {
        let error = parse("t", text, root.path()).expect_err(text).to_string();
        assert!(error.starts_with(start), "{error}");
        assert!(error.ends_with(end), "{error}");
    }
    assert_eq!(
        parse("t", "", root.path()).expect("valid").plugins.trust,
        Default::default()
    );
}

#[test]
fn a_folder_belongs_to_one_key() {
    let root = tempfile::tempdir().expect("a folder");
    let shared = root.path().join("shared");
    std::fs::create_dir_all(shared.join("policies")).expect("made");
    std::os::unix::fs::symlink("shared", root.path().join("link")).expect("made");
    for (text, place) in [
        (
            "folders:\n  policies: shared\n  services: ./shared\n",
            "t:3:13: folders.services: the same folder as that of `folders.policies`: `",
        ),
        // Through a link; and by its default.
        (
            "folders:\n  policies: shared\n  endpoints: link\n",
            "t:3:14: folders.endpoints: the same folder as that of `folders.policies`: `",
        ),
        (
            "folders:\n  services: policies\n",
            "t:2:13: folders.services: the same folder as that of `folders.policies`: `",
        ),
        (
            "folders:\n  policies: shared/policies\n  vendor: shared\n",
            "t:3:11: folders.vendor: the same folder as that of `folders.policies`: `",
        ),
    ] {
        let error = parse("t", text, root.path()).expect_err(text).to_string();
        assert!(error.starts_with(place), "{error}");
        assert!(
            error.ends_with("; give each a folder of its own"),
            "{error}"
        );
    }
    let apart = "folders: {policies: shared/policies, services: shared, vendor: link/base}";
    parse("t", apart, root.path()).expect("valid");
}

/// Who finds a value wrong later can say where it stands.
#[test]
fn keys_have_a_place_and_a_mistake_leaves_the_rest_readable() {
    let text = "limits:\n  flows: 7\n  endpoints: 0\nfolders: {policies: p}\n";
    let raw = crate::raw::parse("t", text).expect("readable");
    let looked = crate::check::check("t", raw, Path::new("/etc/tidegate"));
    let config = looked.config.expect("what can be known");
    assert_eq!(config.folders.policies, Path::new("/etc/tidegate/p"));
    let place = |key: &str| config.written.place(key).to_string();
    assert_eq!(place("limits.flows"), "t:2:10");
    assert_eq!(place("folders.policies"), "t:4:21");
    assert_eq!(place("folders.services"), "t");
    let error = looked.error.expect("endpoints");
    assert!(
        error.to_string().starts_with("t:3:14: limits.endpoints: "),
        "{error}"
    );
    assert!(error.spares_folders());
}
