//! What is told of a message beside its decision: plugins answer what their name says.

use std::{cell::Cell, rc::Rc};

use tidegate_contract::{Rehearsed, Reject};
use tidegate_policy::compiled::FailMode::{Closed, Open};

use super::*;
use crate::decide::dns::query;

type Plugins<'a> = &'a [(&'a str, FailMode)];

fn told(allowed: bool, rules: &[u32]) -> Option<Rehearsed> {
    Some(Rehearsed {
        allowed,
        rules: rules.iter().copied().map(RuleId).collect(),
        unmatched: false,
        error: None,
    })
}

/// Refused because none of these rules matches.
fn unmatched(rules: &[u32]) -> Option<Rehearsed> {
    told(false, rules).map(|told| Rehearsed {
        unmatched: true,
        ..told
    })
}

/// Plugins in force at the source (rules 10 and 11, 20 and 21 for the next) and the
/// destination (50), and those in shadow at the source (30, 40).
fn check(one: Plugins<'_>, other: Plugins<'_>, shadow: Plugins<'_>, expected: Option<Rehearsed>) {
    let (one_chain, other_chain, beside) = (chain(1, one), chain(5, other), chain(3, shadow));
    let sides = [egress(&one_chain), ingress(&other_chain)];
    let shadows = [InShadow::Asks(egress(&beside)), InShadow::Same];
    let decision = request((&sides, &shadows), Generation(3), &HEAD, &facts());
    let without = request((&sides, &[]), Generation(3), &HEAD, &facts());
    let case = format!("{one:?} {other:?}, in shadow {shadow:?}");
    assert_eq!(decision.verdict, without.verdict, "{case}");
    let rehearsed = decision.attribution.rehearsed.clone();
    assert_eq!(rehearsed.map(|told| *told), expected, "{case}");
    assert_eq!(without.attribution.rehearsed, None, "{case}");
    let attribution = Attribution {
        rehearsed: None,
        ..decision.attribution
    };
    assert_eq!(attribution, without.attribution, "{case}");
    // A query likewise.
    let reject = Reject::default();
    let asked = ("a.example.", 1);
    let (_, attribution) = query((&sides, &shadows), (Generation(3), reject), asked, &facts());
    let rehearsed = attribution.rehearsed.map(|told| *told);
    assert_eq!(rehearsed, expected, "{case}, DNS");
}

#[test]
fn what_would_be_decided_is_told_where_it_is_something_else() {
    let (allows, denies) = (("allow:0", Closed), ("deny", Closed));
    check(&[allows], &[allows], &[allows], None);
    check(&[allows], &[allows], &[denies], unmatched(&[30]));
    check(&[denies], &[allows], &[allows], told(true, &[30, 50]));
    check(&[denies], &[allows], &[denies], None);
    // The other side has the last word in both, and is asked where it was not.
    check(&[allows], &[denies], &[allows], None);
    check(&[allows], &[denies], &[denies], None);
    check(&[denies], &[denies], &[allows], None);
    // A plugin that is bound in shadow only.
    check(&[allows], &[allows], &[allows, denies], told(false, &[40]));
    check(&[allows], &[allows], &[allows, ("edit:x", Closed)], None);
    check(&[allows], &[allows], &[allows, ("fail", Open)], None);
    let failed = Some(Rehearsed {
        allowed: false,
        rules: vec![RuleId(40)],
        unmatched: false,
        error: Some(Failure::Deadline.told()),
    });
    check(&[allows], &[allows], &[allows, ("fail", Closed)], failed);
    // What is bound and in force has the last word whatever rules would let pass.
    check(&[allows, denies], &[allows], &[allows], None);
    check(&[allows, denies], &[allows], &[denies], None);
}

#[test]
fn a_rule_alone_may_refuse_or_let_pass() {
    let (allows, denies) = (
        chain(1, &[("allow:0", Closed)]),
        chain(1, &[("deny", Closed)]),
    );
    let nobody = chain(5, &[("allow:0", Closed)]);
    let none = Side {
        chain: None,
        ..egress(&nobody)
    };
    for (in_force, shadow, expected) in [
        (&allows, InShadow::Refuses(RuleId(70)), told(false, &[70])),
        (&denies, InShadow::Refuses(RuleId(70)), None),
        (&allows, InShadow::Asks(none.clone()), None),
        (&denies, InShadow::Asks(none), told(true, &[50])),
    ] {
        let sides = [egress(in_force), ingress(&nobody)];
        let shadows = [shadow, InShadow::Same];
        let decision = request((&sides, &shadows), Generation(3), &HEAD, &facts());
        let rehearsed = decision.attribution.rehearsed.map(|told| *told);
        assert_eq!(rehearsed, expected);
    }
}

#[test]
fn in_audit_mode_what_passes_for_that_is_a_refusal() {
    let denies = chain(1, &[("deny", Closed)]);
    let allows = chain(3, &[("allow:0", Closed)]);
    let audited = [Side {
        audit: true,
        ..egress(&denies)
    }];
    for (shadow, expected) in [
        (InShadow::Refuses(RuleId(70)), None),
        (InShadow::Asks(egress(&allows)), told(true, &[30])),
    ] {
        let decision = request((&audited, &[shadow]), Generation(3), &HEAD, &facts());
        assert_eq!(decision.verdict, Verdict::Allow);
        let rehearsed = decision.attribution.rehearsed.map(|told| *told);
        assert_eq!(rehearsed, expected);
    }
}

#[test]
fn a_tunnel_is_opened_by_rules_that_say_so_in_shadow_too() {
    let allows = chain(1, &[("allow:0", Closed)]);
    let connect = HttpHead {
        method: "CONNECT",
        ..HEAD
    };
    let tunnels = Side {
        tunnels: true,
        ..egress(&allows)
    };
    for (in_force, beside, expected) in [
        (tunnels.clone(), egress(&allows), unmatched(&[1])),
        (egress(&allows), tunnels.clone(), told(true, &[10])),
        (tunnels.clone(), tunnels, None),
    ] {
        let shadows = [InShadow::Asks(beside)];
        let decision = request((&[in_force], &shadows), Generation(3), &connect, &facts());
        let rehearsed = decision.attribution.rehearsed.map(|told| *told);
        assert_eq!(rehearsed, expected);
    }
    // In audit mode it passes, and is a refusal all the same.
    let to = |tunnels| Side {
        tunnels,
        ..ingress(&allows)
    };
    let audited = Side {
        audit: true,
        ..egress(&allows)
    };
    let shadows = [InShadow::Same, InShadow::Asks(to(true))];
    let decision = request(
        (&[audited, to(true)], &shadows),
        Generation(3),
        &connect,
        &facts(),
    );
    assert_eq!(decision.verdict, Verdict::Allow);
    assert_eq!(decision.attribution.rehearsed, None);
}

/// A plugin that counts what it is asked.
struct Counted(Box<dyn Filter>, Rc<Cell<u32>>);

impl Filter for Counted {
    fn label(&self) -> &str {
        self.0.label()
    }
    fn content(&self) -> String {
        self.0.content()
    }
    fn fail_mode(&self) -> FailMode {
        self.0.fail_mode()
    }
    fn rules(&self) -> &[RuleId] {
        self.0.rules()
    }
    fn is_bound(&self) -> bool {
        self.0.is_bound()
    }
    fn http(&self) -> Option<&dyn HttpFilter> {
        Some(self)
    }
}

impl HttpFilter for Counted {
    fn sees_responses(&self) -> bool {
        self.0.http().is_some_and(HttpFilter::sees_responses)
    }
    fn request(&self, head: &HttpHead<'_>, facts: &Arc<Facts>) -> Result<HttpAnswer, Failure> {
        self.1.set(self.1.get() + 1);
        let counted = self.0.http().ok_or(Failure::WrongWorld)?;
        counted.request(head, facts)
    }
    fn response(&self, head: &ResponseHead<'_>, facts: &Arc<Facts>) -> Result<HttpAnswer, Failure> {
        let counted = self.0.http().ok_or(Failure::WrongWorld)?;
        counted.response(head, facts)
    }
}

/// A plugin keeps state, and a peer has a budget with it: what is rehearsed asks once more
/// only who has not been asked.
#[test]
fn nobody_is_asked_twice() {
    let calls = Rc::new(Cell::new(0));
    let counted = |plugins: Plugins<'_>| Chain {
        id: L7Id(1),
        protocol: L7Protocol::Http,
        filters: chain(1, plugins)
            .filters
            .into_iter()
            .map(|filter| Box::new(Counted(filter, calls.clone())) as Box<dyn Filter>)
            .collect(),
    };
    let in_force = counted(&[("allow:0", Closed), ("allow:1", Closed)]);
    let (denies, allows) = (
        counted(&[("deny", Closed)]),
        chain(7, &[("allow:0", Closed)]),
    );
    let asked = |sides: &[Side<'_>], shadows: &[InShadow<'_>]| {
        calls.set(0);
        let decision = request((sides, shadows), Generation(3), &HEAD, &facts());
        let rehearsed = decision.attribution.rehearsed.map(|told| *told);
        (calls.get(), rehearsed)
    };
    // The same rules and plugin with one more: that one is asked.
    let more = counted(&[("allow:0", Closed), ("allow:1", Closed), ("deny", Closed)]);
    let beside = InShadow::Asks(egress(&more));
    let told = told(false, &[30]);
    assert_eq!(asked(&[egress(&in_force)], &[beside]), (3, told));
    // The other side has let it pass, or refused it, and nothing is in shadow there.
    let beside = InShadow::Asks(egress(&allows));
    let shadows = [beside, InShadow::Same];
    let sides = [egress(&allows), ingress(&in_force)];
    assert_eq!(asked(&sides, &shadows), (2, None));
    let sides = [egress(&allows), ingress(&denies)];
    assert_eq!(asked(&sides, &shadows), (1, None));
}
