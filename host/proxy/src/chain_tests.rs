//! What a chain decides, as a table: plugins answer what their name says.

use tidegate_wire::http::Version;

use super::*;

/// A plugin that answers by its name: `allow`, `allow:2` (rule index), `deny`,
/// `edit:NAME` (sets that header to the plugin's first rule), `fail`.
pub(crate) struct ByName {
    name: String,
    label: String,
    fail_mode: FailMode,
    rules: Vec<RuleId>,
    responses: bool,
    bound: bool,
}

impl ByName {
    fn answer(&self) -> Result<HttpAnswer, Fault> {
        let (verb, detail) = self.name.split_once(':').unwrap_or((&self.name, ""));
        let verdict = match verb {
            "allow" => Verdict::Allow,
            "deny" => Verdict::Deny(Denial::default()),
            "edit" => Verdict::Edit(HeaderEdit {
                set: vec![(detail.to_owned(), self.rules[0].to_string())],
                remove: vec![],
            }),
            // "load": of the kind that no fail mode lets pass.
            _ => {
                return Err(Fault {
                    why: "plugin trapped".to_owned(),
                    of_load: verb == "load",
                });
            }
        };
        Ok(HttpAnswer {
            verdict,
            rule: detail.parse().ok(),
        })
    }
}

impl Filter for ByName {
    fn label(&self) -> &str {
        &self.label
    }

    fn fail_mode(&self) -> FailMode {
        self.fail_mode
    }

    fn rules(&self) -> &[RuleId] {
        &self.rules
    }

    fn is_bound(&self) -> bool {
        self.bound
    }

    fn sees_responses(&self) -> bool {
        self.responses
    }

    fn request(&self, _: &HttpHead<'_>, _: &Arc<Facts>) -> Result<HttpAnswer, Fault> {
        self.answer()
    }

    fn response(&self, _: &ResponseHead<'_>, _: &Arc<Facts>) -> Result<HttpAnswer, Fault> {
        self.answer()
    }

    fn query(&self, _: &str, _: u16, _: &Arc<Facts>) -> Result<DnsAnswer, Fault> {
        self.answer().map(|answer| DnsAnswer {
            refuse: matches!(answer.verdict, Verdict::Deny(_)).then_some(5),
            rule: answer.rule,
        })
    }
}

fn by_name(n: u32, name: &str, fail_mode: FailMode) -> ByName {
    ByName {
        name: name.to_owned(),
        label: format!("{name}@1"),
        fail_mode,
        rules: vec![n * 10, n * 10 + 1],
        responses: false,
        bound: false,
    }
}

/// A chain of plugins by name; the rules of plugin n are n*10 and n*10+1. The first has
/// the rules of policies, the others are bound.
pub(crate) fn chain(first: u32, plugins: &[(&str, FailMode)]) -> Chain {
    let filter = |((name, fail_mode), n): (&(&str, FailMode), u32)| ByName {
        bound: n != first,
        ..by_name(n, name, *fail_mode)
    };
    Chain {
        protocol: L7Protocol::Http,
        filters: plugins
            .iter()
            .zip(first..)
            .map(|plugin| Box::new(filter(plugin)) as Box<dyn Filter>)
            .collect(),
    }
}

/// A plugin that sees responses too.
fn sees_responses(name: &str) -> Chain {
    Chain {
        protocol: L7Protocol::Http,
        filters: vec![Box::new(ByName {
            name: name.to_owned(),
            label: format!("{name}@1"),
            fail_mode: FailMode::Closed,
            rules: vec![10, 11],
            responses: true,
            bound: true,
        })],
    }
}

pub(crate) const HEAD: HttpHead<'_> = HttpHead {
    version: Version::Http11,
    method: "GET",
    path: "/",
    authority: "a",
    headers: &[],
};

pub(crate) fn facts() -> Arc<Facts> {
    Arc::new(Facts {
        source: "192.0.2.1:1".parse().unwrap(),
        destination: "192.0.2.2:80".parse().unwrap(),
        source_identity: 1,
        source_labels: Arc::default(),
    })
}

pub(crate) fn egress(chain: &Chain) -> Side<'_> {
    Side {
        chain: Some(chain),
        or: Vec::new(),
        open: false,
        rule: 1,
        ingress: false,
        audit: false,
        tunnels: false,
    }
}

/// Sides with nothing in shadow.
fn plain<'s, 'a>(sides: &'s [Side<'a>]) -> (&'s [Side<'a>], &'s [InShadow<'a>]) {
    (sides, &[])
}

fn alternatives<'a>(chains: &[&'a Chain]) -> Vec<Alternative<'a>> {
    let alternative = |chain: &&'a Chain| Alternative {
        chain,
        tunnels: false,
    };
    chains.iter().map(alternative).collect()
}

pub(crate) fn ingress(chain: &Chain) -> Side<'_> {
    Side {
        chain: Some(chain),
        or: Vec::new(),
        open: false,
        rule: 2,
        ingress: true,
        audit: false,
        tunnels: false,
    }
}

/// Decides with an egress chain (asked for by rule 1) and an ingress chain (rule 2).
fn decide(one: &Chain, other: &Chain) -> Decision {
    request(plain(&[egress(one), ingress(other)]), 3, &HEAD, &facts())
}

/// A destination with several names: what the rules of one set allow, passes; what none
/// allow is refused by the first. Bound plugins are asked whichever rules allow, once.
#[test]
fn any_rule_set_of_a_side_may_allow() {
    use FailMode::Closed;
    let [allows, denies, fails, guarded, watched] = [
        chain(10, &[("allow:0", Closed)]),
        chain(20, &[("deny", Closed)]),
        chain(30, &[("fail", Closed)]),
        chain(40, &[("deny", Closed), ("deny", Closed)]),
        chain(60, &[("allow:0", Closed), ("allow:0", Closed)]),
    ];
    let other = chain(50, &[("allow:1", Closed)]);
    /// First rule set, the others, open: allowed, rules, failed.
    type Row<'a> = (&'a Chain, Vec<&'a Chain>, bool, bool, &'a [u32], bool);
    let rows: [Row<'_>; 10] = [
        (&denies, vec![&allows], false, true, &[100, 501], false),
        (&allows, vec![&denies], false, true, &[100, 501], false),
        (&denies, vec![&fails], false, false, &[200], false),
        (&fails, vec![&denies], false, false, &[300], true),
        (&fails, vec![&allows], false, true, &[100, 501], false),
        (&denies, vec![], true, true, &[501], false),
        (&allows, vec![&guarded], false, false, &[410], false),
        (&guarded, vec![&allows], false, false, &[410], false),
        (&guarded, vec![], true, false, &[410], false),
        (
            &watched,
            vec![&watched],
            false,
            true,
            &[600, 610, 501],
            false,
        ),
    ];
    for (n, (first, or, open, allowed, rules, failed)) in rows.into_iter().enumerate() {
        let side = Side {
            or: alternatives(&or),
            open,
            ..egress(first)
        };
        let decision = request(plain(&[side, ingress(&other)]), 3, &HEAD, &facts());
        let a = decision.attribution;
        let got = (decision.verdict == Verdict::Allow, a.rules, a.error);
        assert_eq!(got.0, allowed, "row {n}: {got:?}");
        assert_eq!(got.1, rules, "row {n}");
        assert_eq!(got.2.is_some(), failed, "row {n}: {got:?}");
    }
}

/// Two plugins of one binding have its rule, and both are asked; what load brought about
/// passes by no fail mode, but is no refusal by other rule sets either.
#[test]
fn a_union_leaves_no_plugin_out() {
    use FailMode::{Closed, Open};
    let decide = |first: &Chain, or: &[&Chain], open: bool| {
        let side = Side {
            or: alternatives(or),
            open,
            ..egress(first)
        };
        request(plain(&[side]), 3, &HEAD, &facts()).verdict == Verdict::Allow
    };
    let allows = chain(10, &[("allow:0", Closed)]);
    let bound = |name| Chain {
        protocol: L7Protocol::Http,
        filters: vec![Box::new(ByName {
            bound: true,
            ..by_name(7, name, Closed)
        })],
    };
    let (one, other) = (bound("allow:0"), bound("deny"));
    assert!(decide(&one, &[&allows], false));
    assert!(!decide(&one, &[&other], false), "same rule, other plugin");
    assert!(!decide(&other, &[&one], true), "same rule, other plugin");
    let guarded = |name| chain(20, &[("allow:0", Closed), (name, Open)]);
    assert!(decide(&guarded("fail"), &[&allows], true));
    assert!(!decide(&guarded("load"), &[&allows], true));
    assert!(!decide(&allows, &[&guarded("load")], false));
    assert!(decide(&chain(30, &[("load", Closed)]), &[&allows], false));
    assert!(!decide(&chain(30, &[("load", Open)]), &[], false));
    // Rules of a plugin that is not bound are asked too, however many a chain has.
    let mut two = chain(40, &[("allow:0", Closed)]);
    two.filters.push(Box::new(by_name(41, "deny", Closed)));
    assert!(!decide(&two, &[], false));
}

/// In audit mode what a plugin refuses passes, and the record says who would have
/// refused it; a failure to decide is no refusal.
#[test]
fn audit_mode_reports_instead_of_refusing() {
    use FailMode::Closed;
    let audited = |egress_plugins: &[(&str, FailMode)], ingress_plugins: &[(&str, FailMode)]| {
        let (one, other) = (chain(1, egress_plugins), chain(5, ingress_plugins));
        let sides = [
            Side {
                audit: true,
                ..egress(&one)
            },
            Side {
                audit: true,
                ..ingress(&other)
            },
        ];
        let decision = request(plain(&sides), 3, &HEAD, &facts());
        let a = decision.attribution;
        (
            decision.verdict == Verdict::Allow,
            a.audited,
            a.rules,
            a.plugin,
            a.ingress,
        )
    };
    let name = |text: &str| Some(text.to_owned());
    assert_eq!(
        audited(&[("deny", Closed)], &[("allow:0", Closed)]),
        (true, true, vec![10], name("deny@1"), false)
    );
    assert_eq!(
        audited(&[("allow:0", Closed)], &[("deny", Closed)]),
        (true, true, vec![50], name("deny@1"), true)
    );
    assert_eq!(
        audited(&[("deny", Closed)], &[("deny", Closed)]),
        (true, true, vec![10], name("deny@1"), false),
        "the first who would refuse"
    );
    assert_eq!(
        audited(&[("deny", Closed)], &[("fail", Closed)]),
        (false, false, vec![50], name("fail@1"), true)
    );
}

#[test]
fn who_decides() {
    use FailMode::{Closed, Open};
    /// Egress chain, ingress chain, allowed, rules, plugin, error, ingress refused.
    type Row<'a> = (
        &'a [(&'a str, FailMode)],
        &'a [(&'a str, FailMode)],
        bool,
        &'a [u32],
        Option<&'a str>,
        Option<&'a str>,
        bool,
    );
    let rows: &[Row<'_>] = &[
        (&[], &[], true, &[1, 2], None, None, false),
        (
            &[("allow", Closed)],
            &[],
            true,
            &[1, 2],
            Some("allow@1"),
            None,
            false,
        ),
        (
            &[("allow:1", Closed)],
            &[],
            true,
            &[11],
            Some("allow:1@1"),
            None,
            false,
        ),
        (
            &[("allow:1", Closed)],
            &[("allow:0", Closed)],
            true,
            &[11, 50],
            Some("allow:0@1"),
            None,
            false,
        ),
        // An index out of range is no rule; it does not make the answer invalid.
        (
            &[("allow:9", Closed)],
            &[],
            true,
            &[1, 2],
            Some("allow:9@1"),
            None,
            false,
        ),
        (
            &[("deny", Closed), ("fail", Closed)],
            &[],
            false,
            &[10],
            Some("deny@1"),
            None,
            false,
        ),
        (
            &[("allow:1", Closed)],
            &[("deny:1", Closed)],
            false,
            &[51],
            Some("deny:1@1"),
            None,
            true,
        ),
        (
            &[("fail", Closed)],
            &[],
            false,
            &[10],
            Some("fail@1"),
            Some("plugin trapped"),
            false,
        ),
        (
            &[("fail", Open)],
            &[],
            true,
            &[1, 2],
            None,
            Some("plugin trapped"),
            false,
        ),
        (
            &[("fail", Open)],
            &[("deny", Closed)],
            false,
            &[50],
            Some("deny@1"),
            Some("plugin trapped"),
            true,
        ),
    ];
    for (egress, ingress, allowed, rules, plugin, error, side) in rows {
        let decision = decide(&chain(1, egress), &chain(5, ingress));
        let case = format!("{egress:?} {ingress:?}");
        assert_eq!(
            !matches!(decision.verdict, Verdict::Deny(_)),
            *allowed,
            "{case}"
        );
        let expected = Attribution {
            rules: rules.to_vec(),
            // Of the plugins that are here, the one that gives no index asks rules.
            unmatched: !allowed && *plugin == Some("deny@1"),
            plugin: plugin.map(str::to_owned),
            error: error.map(str::to_owned),
            audited: false,
            rehearsed: None,
            ingress: *side,
            generation: 3,
            set: 0,
        };
        assert_eq!(decision.attribution, expected, "{case}");
    }
}

/// A peer can use up a budget at will: that must not be a way around the plugin.
#[test]
fn what_load_brings_about_is_refused_whatever_the_fail_mode() {
    for mode in [FailMode::Open, FailMode::Closed] {
        let decision = decide(&chain(1, &[("load", mode)]), &chain(5, &[]));
        let Verdict::Deny(denial) = decision.verdict else {
            panic!("{mode:?}: {decision:?}");
        };
        assert_eq!(denial.status, 503);
        let (answer, _) = query(
            plain(&[egress(&chain(1, &[("load", mode)]))]),
            (3, Reject::Refused),
            ("a.example.", 1),
            &facts(),
        );
        assert_eq!(answer, Some(2), "{mode:?}");
    }
}

#[test]
fn a_failure_is_not_the_clients_fault() {
    let decision = decide(&chain(1, &[("fail", FailMode::Closed)]), &chain(5, &[]));
    let Verdict::Deny(denial) = decision.verdict else {
        panic!("{decision:?}");
    };
    assert_eq!(denial.status, 503);
}

#[test]
fn edits_add_up_and_the_later_wins() {
    let mode = FailMode::Closed;
    let one = chain(1, &[("edit:x-a", mode), ("edit:x-b", mode)]);
    let other = chain(5, &[("edit:X-A", mode)]);
    let Verdict::Edit(edit) = decide(&one, &other).verdict else {
        panic!("no edit");
    };
    let set: Vec<_> = edit
        .set
        .iter()
        .map(|(n, v)| (n.as_str(), v.as_str()))
        .collect();
    assert_eq!(set, [("x-b", "20"), ("X-A", "50")]);
}

#[test]
fn a_response_keeps_the_requests_rules() {
    let asked = decide(&sees_responses("allow:1"), &chain(5, &[]));
    assert!(asked.sees_response);
    let head = ResponseHead {
        status: 200,
        headers: &[],
    };
    let respond =
        |chain: &Chain| response(&[egress(chain)], asked.attribution.clone(), &head, &facts());
    let answer = respond(&sees_responses("allow:0"));
    assert_eq!(answer.verdict, Verdict::Allow);
    assert_eq!(answer.attribution, asked.attribution);
    // One that did not ask for responses is not asked about them.
    assert_eq!(
        respond(&chain(1, &[("deny", FailMode::Closed)])).verdict,
        Verdict::Allow
    );

    let answer = respond(&sees_responses("deny"));
    assert!(matches!(answer.verdict, Verdict::Deny(_)));
    assert_eq!(answer.attribution.plugin.as_deref(), Some("deny@1"));
}

/// The rules that allowed a request judge its response, and no others.
#[test]
fn the_rule_set_that_allowed_is_asked_about_the_response() {
    let reader = |first: u32, name: &str| {
        let mut filter = by_name(first, name, FailMode::Closed);
        filter.responses = true;
        Chain {
            protocol: L7Protocol::Http,
            filters: vec![Box::new(filter)],
        }
    };
    let (refuses, allows) = (reader(10, "deny"), reader(20, "allow:0"));
    let or = |first, other| {
        [Side {
            or: alternatives(&[other]),
            ..egress(first)
        }]
    };
    let sides = or(&refuses, &allows);
    let asked = request(plain(&sides), 3, &HEAD, &facts());
    assert_eq!((asked.verdict, asked.attribution.set), (Verdict::Allow, 1));
    let head = ResponseHead {
        status: 200,
        headers: &[],
    };
    let answer = |sides: &[Side<'_>]| response(sides, asked.attribution.clone(), &head, &facts());
    assert_eq!(answer(&sides).verdict, Verdict::Allow);
    let late = answer(&or(&allows, &refuses));
    assert!(matches!(late.verdict, Verdict::Deny(_)), "{late:?}");
}

#[test]
fn queries() {
    use FailMode::{Closed, Open};
    let ask = |chain: &Chain, reject| {
        let (answer, _) = query(
            plain(&[egress(chain)]),
            (3, reject),
            ("a.example.", 1),
            &facts(),
        );
        answer
    };
    for (plugin, mode, refused, name_error) in [
        ("allow", Closed, None, None),
        ("deny", Closed, Some(5), Some(3)),
        // Not refused by a rule.
        ("fail", Closed, Some(2), Some(2)),
        ("fail", Open, None, None),
    ] {
        let chain = chain(1, &[(plugin, mode)]);
        assert_eq!(ask(&chain, Reject::Refused), refused, "{plugin} {mode:?}");
        assert_eq!(ask(&chain, Reject::NameError), name_error, "{plugin}");
    }
    // A bound plugin has its own way.
    let bound = chain(1, &[("allow", Closed), ("deny", Closed)]);
    assert_eq!(ask(&bound, Reject::NameError), Some(5));
}

#[test]
fn connect_needs_a_rule_of_each_side_that_plainly_allows_it() {
    const CONNECT: HttpHead<'_> = HttpHead {
        method: "CONNECT",
        path: "",
        ..HEAD
    };
    let (one, other) = (
        chain(1, &[("allow", FailMode::Closed)]),
        chain(2, &[("allow", FailMode::Open)]),
    );
    let decide = |egress_tunnels, ingress_tunnels| {
        let sides = [
            Side {
                tunnels: egress_tunnels,
                ..egress(&one)
            },
            Side {
                tunnels: ingress_tunnels,
                ..ingress(&other)
            },
        ];
        let decision = request(plain(&sides), 3, &CONNECT, &facts());
        let allowed = decision.verdict == Verdict::Allow;
        (
            allowed,
            decision.attribution.rules,
            decision.attribution.ingress,
        )
    };
    assert_eq!(decide(false, false), (false, vec![1], false));
    assert_eq!(decide(true, false), (false, vec![2], true));
    assert_eq!(decide(false, true), (false, vec![1], false));
    assert!(decide(true, true).0);
    // In audit mode it passes and is told.
    let audited = Side {
        audit: true,
        ..egress(&one)
    };
    let decision = request(plain(&[audited]), 3, &CONNECT, &facts());
    assert_eq!(decision.verdict, Verdict::Allow);
    assert!(decision.attribution.audited);
    assert_eq!(decision.attribution.rules, [1]);
    // A side that does not ask for L7 has nothing to say about it.
    let alone = Side {
        tunnels: true,
        ..egress(&one)
    };
    let silent = Side {
        chain: None,
        ..ingress(&other)
    };
    let decision = request(plain(&[alone, silent]), 3, &CONNECT, &facts());
    assert_eq!(decision.verdict, Verdict::Allow);
    // Of several rule sets only those that allow tunnels are asked, whoever else allows.
    let refuses = chain(3, &[("deny", FailMode::Closed)]);
    for (tunnels, chain, allowed) in [
        (false, &one, false),
        (true, &one, true),
        (true, &refuses, false),
    ] {
        let side = Side {
            or: vec![Alternative { chain, tunnels }],
            open: true,
            ..egress(&one)
        };
        let decision = request(plain(&[side]), 3, &CONNECT, &facts());
        assert_eq!(decision.verdict == Verdict::Allow, allowed, "{tunnels}");
    }
}
