//! Queries.

use tidegate_contract::Reject;

use super::*;
use crate::decide::dns::query;

#[test]
fn queries() {
    use FailMode::{Closed, Open};
    let ask = |chain: &Chain, reject| {
        let (answer, _) = query(
            plain(&[egress(chain)]),
            (Generation(3), reject),
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

/// As for requests: a peer can use up a budget at will.
#[test]
fn what_load_brings_about_is_refused_whatever_the_fail_mode() {
    for mode in [FailMode::Open, FailMode::Closed] {
        let (answer, _) = query(
            plain(&[egress(&chain(1, &[("load", mode)]))]),
            (Generation(3), Reject::Refused),
            ("a.example.", 1),
            &facts(),
        );
        assert_eq!(answer, Some(2), "{mode:?}");
    }
}
