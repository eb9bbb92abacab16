use proptest::prelude::*;
use tidegate_sdk::Headers;

use super::*;

fn request(line: &str, headers: &[(&str, &str)]) -> Request {
    let mut words = line.split(' ');
    let mut word = || words.next().unwrap_or_default().to_owned();
    Request {
        method: word().into(),
        path: word(),
        authority: word(),
        headers: headers.iter().copied().collect(),
    }
}

/// Index of the rule that allows `METHOD PATH HOST` with these headers.
fn check(config: &str, line: &str, headers: &[(&str, &str)], expected: Option<u32>) {
    let rules = Rules::parse(config).expect(config);
    let decision = rules.decide(&request(line, headers));
    assert_eq!(
        decision.is_allowed(),
        expected.is_some(),
        "{config}\n{line}"
    );
    assert_eq!(decision.rule(), expected, "{config}\n{line} {headers:?}");
}

#[test]
fn any_rule_allows_and_all_its_parts_must_match() {
    let config = r#"{"rules":[
        {"method":"GET","path":"/public/.*"},
        {"method":"POST|PUT","path":"/items/[0-9]+","host":"shop\\.example(:80)?"},
        {"path":"/admin","headers":[["x-role","admin"],["x-token",null]]}
    ]}"#;
    check(config, "GET /public/a shop", &[], Some(0));
    check(config, "GET /public shop", &[], None);
    check(config, "HEAD /public/a shop", &[], None);
    check(config, "PUT /items/7 shop.example", &[], Some(1));
    check(config, "PUT /items/7 shop.example:80", &[], Some(1));
    check(config, "PUT /items/7?x=1 shop.example", &[], None);
    check(config, "PUT /items/7 shopxexample", &[], None);
    let both = [("X-Role", "admin"), ("X-Token", "")];
    check(config, "DELETE /admin h", &both, Some(2));
    check(config, "DELETE /admin h", &both[..1], None);
    check(
        config,
        "GET /admin h",
        &[("x-role", "Admin"), ("x-token", "t")],
        None,
    );
}

#[test]
fn no_rules_allow_nothing_and_an_empty_rule_allows_all() {
    check(r#"{"rules":[]}"#, "GET / h", &[], None);
    check(r#"{"rules":[{}]}"#, "GET / h", &[], Some(0));
}

#[test]
fn connect_is_allowed_only_by_a_rule_that_says_so() {
    let config = r#"{"rules":[
        {},
        {"host":"web:443"},
        {"method":"GET|CONNECT","host":"web:443"},
        {"method":"CONNECT"},
        {"method":"CONNECT","host":"proxied:443"}
    ]}"#;
    check(config, "CONNECT  web:443", &[], None);
    check(config, "CONNECT  proxied:443", &[], Some(4));
    check(config, "GET / web:443", &[], Some(0));
}

#[test]
fn a_repeated_header_counts_as_joined() {
    let config = r#"{"rules":[{"headers":[["x","a,b"]]}]}"#;
    check(config, "GET / h", &[("x", "a,b")], Some(0));
    check(config, "GET / h", &[("x", "a"), ("x", "b")], Some(0));
    check(config, "GET / h", &[("x", "a")], None);
    check(config, "GET / h", &[("x", "a,b"), ("x", "")], None);
    check(config, "GET / h", &[("x", "b"), ("x", "a")], None);
    let hidden = r#"{"rules":[{"headers":[["x","a"]]}]}"#;
    check(hidden, "GET / h", &[("x", "evil"), ("x", "a")], None);
}

/// What becomes of a request's headers: Cilium's `HeaderMatch` (`cilium/network_policy.cc`).
#[test]
fn a_header_that_is_not_as_it_should_be_is_made_so() {
    let acting = |mismatch: &str| {
        let config = format!(
            r#"{{"rules":[{{"path":"/a","actions":[
                {{"name":"X-Key","value":"right","mismatch":"{mismatch}"}}]}}]}}"#
        );
        Rules::parse(&config).expect("valid")
    };
    let unchanged = Decision::allow();
    let set = |value: &str| Decision::set_header("x-key", value);
    for (mismatch, headers, decided) in [
        ("LOG", &[][..], unchanged.clone()),
        ("LOG", &[("x-key", "wrong")], unchanged.clone()),
        ("ADD", &[], set("right")),
        ("ADD", &[("x-key", "wrong")], set("wrong, right")),
        ("ADD", &[("x-key", "a"), ("x-key", "b")], set("a, b, right")),
        ("DELETE", &[], unchanged.clone()),
        (
            "DELETE",
            &[("x-key", "wrong")],
            Decision::remove_header("x-key"),
        ),
        ("REPLACE", &[], set("right")),
        ("REPLACE", &[("x-key", "wrong")], set("right")),
        (
            "REPLACE",
            &[("x-key", "right"), ("x-key", "right")],
            set("right"),
        ),
    ] {
        let decision = acting(mismatch).decide(&request("GET /a h", headers));
        assert_eq!(decision, decided.by_rule(0), "{mismatch} {headers:?}");
    }
    for mismatch in ["LOG", "ADD", "DELETE", "REPLACE"] {
        let right = request("GET /a h", &[("x-key", "right")]);
        assert_eq!(
            acting(mismatch).decide(&right),
            unchanged.clone().by_rule(0),
            "{mismatch}"
        );
        assert!(
            !acting(mismatch)
                .decide(&request("GET /b h", &[]))
                .is_allowed()
        );
    }
}

#[test]
fn every_rule_that_matches_acts_and_sees_what_was_done_before() {
    let config = r#"{"rules":[
        {"path":"/a","actions":[{"name":"x","value":"1","mismatch":"REPLACE"}]},
        {"headers":[["x","1"]],"actions":[{"name":"y","mismatch":"ADD"},
                                          {"name":"z","value":"3","mismatch":"DELETE"}]},
        {"headers":[["z",null]],"actions":[{"name":"never","value":"1","mismatch":"ADD"}]},
        {"path":"/b"},
        {"actions":[{"name":"cookie","value":"c=1","mismatch":"ADD"}]}
    ]}"#;
    let rules = Rules::parse(config).expect("valid");
    let names: Vec<_> = rules.header_names().collect();
    assert_eq!(names, ["x", "z", "x", "y", "z", "never", "cookie"]);
    let asked = request("GET /a h", &[("z", "wrong"), ("cookie", "a=1")]);
    assert_eq!(
        rules.decide(&asked),
        Decision::set_header("x", "1")
            .and_set_header("y", "")
            .and_remove_header("z")
            .and_set_header("cookie", "a=1; c=1")
            .by_rule(0)
    );
    // By the first that matches, whoever acts.
    assert_eq!(
        rules
            .decide(&request("GET /b h", &[("cookie", "c=1")]))
            .rule(),
        Some(3)
    );
    // Bytes that are no text cannot be a part of a text: the rule does not match.
    let config = r#"{"rules":[{"actions":[{"name":"x","value":"1","mismatch":"ADD"}]}]}"#;
    let mut asked = request("GET /a h", &[]);
    asked.headers = [("x", &b"\xff"[..])].into_iter().collect();
    assert!(
        !Rules::parse(config)
            .expect("valid")
            .decide(&asked)
            .is_allowed()
    );
}

#[test]
fn a_wrong_configuration_is_named() {
    for (config, reason) in [
        ("", "not a list of HTTP rules"),
        (r#"{"rules":[{"verb":"GET"}]}"#, "unknown field `verb`"),
        (r#"{"rules":[{},{"path":"("}]}"#, "rules[1].path: `(`"),
    ] {
        let error = Rules::parse(config).expect_err(config);
        assert!(error.contains(reason), "{error}");
    }
}

/// The semantics once more, slow and simple: one anchored regex per part.
fn slow(
    rule: &(
        Option<String>,
        Option<String>,
        Vec<(String, Option<String>)>,
    ),
    ask: &Request,
) -> bool {
    let whole = |pattern: &Option<String>, value: &str| {
        pattern.as_ref().is_none_or(|pattern| {
            regex::bytes::RegexBuilder::new(&format!(r"\A(?:{pattern})\z"))
                .unicode(false)
                .build()
                .expect("the generator makes valid expressions")
                .is_match(value.as_bytes())
        })
    };
    let header = |(name, wanted): &(String, Option<String>)| {
        let values: Vec<_> = ask.headers.get_all(name).collect();
        match wanted {
            None => !values.is_empty(),
            Some(wanted) => !values.is_empty() && values.join(&b","[..]) == wanted.as_bytes(),
        }
    };
    whole(&rule.0, &ask.method) && whole(&rule.1, &ask.path) && rule.2.iter().all(header)
}

proptest! {
    #[test]
    fn the_matcher_agrees_with_a_slow_simple_one(
        rules in prop::collection::vec((
            prop::option::of("GET|HEAD|GET\\|HEAD|G\\.T|\\[A-H\\]\\+"),
            prop::option::of("/a|/a/\\.\\*|/a\\.b|/a/\\[0-9]\\+|\\.\\*|/\\(a\\|b\\)/\\.\\*"),
            prop::collection::vec(("[xy]", prop::option::of("[ab,]{0,3}")), 0..3),
        ), 0..4),
        method in "GET|HEAD|PUT",
        path in "/[ab]?(/[0-9a.]{0,2})?",
        headers in prop::collection::vec(("[xy]", "[ab,]{0,2}"), 0..4),
    ) {
        let config = serde_json::json!({
            "rules": rules.iter().map(|(method, path, headers)| serde_json::json!({
                "method": method, "path": path, "headers": headers,
            })).collect::<Vec<_>>(),
        });
        let ask = Request {
            method: method.into(),
            path,
            authority: String::new(),
            headers: headers.iter().map(|(n, v)| (n, v)).collect::<Headers>(),
        };
        let expected = rules.iter().position(|rule| slow(rule, &ask));
        let found = Rules::parse(&config.to_string()).unwrap().decide(&ask);
        prop_assert_eq!(found.rule().map(|index| index as usize), expected);
    }
}
