//! Whoever is asked, in what order, and who is said to have decided.

use tidegate_contract::FailureKind;

use super::*;

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
        let decision = request(
            plain(&[side, ingress(&other)]),
            Generation(3),
            &HEAD,
            &facts(),
        );
        let a = decision.attribution;
        let got = (decision.verdict == Verdict::Allow, a.rules, a.error);
        assert_eq!(got.0, allowed, "row {n}: {got:?}");
        let rules: Vec<RuleId> = rules.iter().copied().map(RuleId).collect();
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
        request(plain(&[side]), Generation(3), &HEAD, &facts()).verdict == Verdict::Allow
    };
    let allows = chain(10, &[("allow:0", Closed)]);
    let bound = |name| Chain {
        id: L7Id(7),
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
        let decision = request(plain(&sides), Generation(3), &HEAD, &facts());
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
        (true, true, vec![RuleId(10)], name("deny@1"), false)
    );
    assert_eq!(
        audited(&[("allow:0", Closed)], &[("deny", Closed)]),
        (true, true, vec![RuleId(50)], name("deny@1"), true)
    );
    assert_eq!(
        audited(&[("deny", Closed)], &[("deny", Closed)]),
        (true, true, vec![RuleId(10)], name("deny@1"), false),
        "the first who would refuse"
    );
    assert_eq!(
        audited(&[("deny", Closed)], &[("fail", Closed)]),
        (false, false, vec![RuleId(50)], name("fail@1"), true)
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
            Some("plugin exceeded its deadline"),
            false,
        ),
        (
            &[("fail", Open)],
            &[],
            true,
            &[1, 2],
            None,
            Some("plugin exceeded its deadline"),
            false,
        ),
        (
            &[("fail", Open)],
            &[("deny", Closed)],
            false,
            &[50],
            Some("deny@1"),
            Some("plugin exceeded its deadline"),
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
            rules: rules.iter().copied().map(RuleId).collect(),
            // Of the plugins that are here, the one that gives no index asks rules.
            unmatched: !allowed && *plugin == Some("deny@1"),
            plugin: plugin.map(str::to_owned),
            error: error.map(|what| FailureKind::PluginFailed.because(what)),
            audited: false,
            rehearsed: None,
            ingress: *side,
            generation: Generation(3),
            set: None,
        };
        assert_eq!(decision.attribution, expected, "{case}");
    }
}
