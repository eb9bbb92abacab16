//! Requests and responses.

use super::*;
use crate::decide::http::response;

/// A peer can use up a budget at will: that must not be a way around the plugin.
#[test]
fn what_load_brings_about_is_refused_whatever_the_fail_mode() {
    for mode in [FailMode::Open, FailMode::Closed] {
        let decision = decide(&chain(1, &[("load", mode)]), &chain(5, &[]));
        let Verdict::Deny(denial) = decision.verdict else {
            panic!("{mode:?}: {decision:?}");
        };
        assert_eq!(denial.status, 503);
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
            id: L7Id(first),
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
    let asked = request(plain(&sides), Generation(3), &HEAD, &facts());
    assert_eq!(
        (asked.verdict, asked.attribution.set),
        (Verdict::Allow, Some(L7Id(20)))
    );
    let head = ResponseHead {
        status: 200,
        headers: &[],
    };
    let answer = |sides: &[Side<'_>]| response(sides, asked.attribution.clone(), &head, &facts());
    assert_eq!(answer(&sides).verdict, Verdict::Allow);
    // A change of policy meanwhile may give it another place among them, ...
    assert_eq!(answer(&or(&allows, &refuses)).verdict, Verdict::Allow);
    let (denies, elsewhere) = (reader(30, "deny"), reader(40, "allow:0"));
    let third = [Side {
        or: alternatives(&[&refuses, &allows]),
        ..egress(&denies)
    }];
    assert_eq!(answer(&third).verdict, Verdict::Allow);
    // ... and there is no other that allows what it refuses, ...
    let changed = reader(20, "deny");
    let late = answer(&or(&elsewhere, &changed));
    assert!(matches!(late.verdict, Verdict::Deny(_)), "{late:?}");
    // ... but where it is gone, all that are left have a say.
    let gone = answer(&or(&refuses, &denies));
    assert!(matches!(gone.verdict, Verdict::Deny(_)), "{gone:?}");
    let gone = answer(&or(&refuses, &elsewhere));
    assert_eq!(gone.verdict, Verdict::Allow);
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
        let decision = request(plain(&sides), Generation(3), &CONNECT, &facts());
        let allowed = decision.verdict == Verdict::Allow;
        (
            allowed,
            decision.attribution.rules,
            decision.attribution.ingress,
        )
    };
    assert_eq!(decide(false, false), (false, vec![RuleId(1)], false));
    assert_eq!(decide(true, false), (false, vec![RuleId(2)], true));
    assert_eq!(decide(false, true), (false, vec![RuleId(1)], false));
    assert!(decide(true, true).0);
    // In audit mode it passes and is told.
    let audited = Side {
        audit: true,
        ..egress(&one)
    };
    let decision = request(plain(&[audited]), Generation(3), &CONNECT, &facts());
    assert_eq!(decision.verdict, Verdict::Allow);
    assert!(decision.attribution.audited);
    assert_eq!(decision.attribution.rules, [RuleId(1)]);
    // A side that does not ask for L7 has nothing to say about it.
    let alone = Side {
        tunnels: true,
        ..egress(&one)
    };
    let silent = Side {
        chain: None,
        ..ingress(&other)
    };
    let decision = request(plain(&[alone, silent]), Generation(3), &CONNECT, &facts());
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
        let decision = request(plain(&[side]), Generation(3), &CONNECT, &facts());
        assert_eq!(decision.verdict == Verdict::Allow, allowed, "{tunnels}");
    }
}
