//! What `explain` tells of names: those an address has been resolved to, and what is known
//! of one that is asked for.

use std::time::Instant;

use tidegate_datapath::Party;
use tidegate_observe::{directory::LearnedNames, explain::LearnedSelector};
use tidegate_policy::{
    compiled::{Compiled, EndpointId, FqdnSelector, IdentityId},
    fqdn::{Matcher, normalise},
};

/// The selectors whose rules an address has, and the names that gave them to it.
pub(super) fn selectors(
    party: &Party,
    compiled: &Compiled,
    learned: &LearnedNames,
) -> Vec<LearnedSelector> {
    let names = learned.names(party.address);
    let told = party.learned.iter().map(|one| {
        let selector = compiled.fqdn.get(&one.identity);
        let matcher = selector.map(Matcher::new);
        let is_selected = |name: &&String| {
            let matcher = matcher.as_ref();
            matcher.is_some_and(|matcher| matcher.matches(&normalise(name)))
        };
        LearnedSelector {
            selector: match selector {
                Some(FqdnSelector::MatchName(text) | FqdnSelector::MatchPattern(text)) => {
                    text.trim_end_matches('.').to_owned()
                }
                None => format!("identity {}, of no policy in force", one.identity),
            },
            left_s: one.left_s,
            names: names.iter().filter(is_selected).cloned().collect(),
        }
    });
    told.collect()
}

/// What is known of a name that this endpoint (0: none) asks for.
pub(super) fn of_query(
    name: &str,
    endpoint: EndpointId,
    compiled: &Compiled,
    learned: &LearnedNames,
    now: Instant,
) -> Vec<String> {
    let plain = name.trim_end_matches('.');
    let known = learned.list(now).into_iter();
    let known: Vec<String> = known
        .filter(|(_, known, _)| known.eq_ignore_ascii_case(plain))
        .map(|(address, _, left)| match left {
            0 => format!("{address} (expired)"),
            left => format!("{address} ({left} s left)"),
        })
        .collect();
    let mut notes = vec![if known.is_empty() {
        format!("nothing is learned for {plain}: no answer for it has passed the proxy")
    } else {
        format!("learned for {plain}: {}", known.join(", "))
    }];
    let of_rules = |identity: &IdentityId| {
        let endpoint = compiled.endpoints.get(&endpoint);
        endpoint.is_none_or(|endpoint| endpoint.table.iter().any(|row| row.identity == *identity))
    };
    let normal = normalise(name);
    let mut selectors = compiled.fqdn.iter();
    if !selectors.any(|(id, selector)| of_rules(id) && Matcher::new(selector).matches(&normal)) {
        notes.push(format!(
            "no toFQDNs rule selects {plain}: an answer opens no address"
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use tidegate_datapath::Learned;

    use tidegate_policy::shared::Map;

    use super::*;

    #[test]
    fn names_and_what_is_left_of_them_are_told() {
        let now = Instant::now();
        let address = [192, 0, 2, 1].into();
        let mut learned = LearnedNames::new(8);
        for name in ["api.a.example.", "other.example."] {
            learned.learn(now, name, &[(address, 57)]);
        }
        let pattern = FqdnSelector::MatchPattern("*.a.example.".to_owned());
        let compiled = Compiled {
            fqdn: Map::unit(IdentityId(7), pattern),
            ..Compiled::default()
        };
        let party = Party {
            address,
            identity: IdentityId(2),
            endpoint: EndpointId(0),
            outside: true,
            learned: [(7, 67), (8, 0)]
                .map(|(identity, left_s)| Learned {
                    identity: IdentityId(identity),
                    left_s,
                })
                .to_vec(),
        };
        let told = selectors(&party, &compiled, &learned);
        assert_eq!(told[0].selector, "*.a.example");
        assert_eq!(
            (told[0].left_s, &*told[0].names),
            (67, &["api.a.example".to_owned()][..])
        );
        assert_eq!(told[1].selector, "identity 8, of no policy in force");

        let ask = |name| of_query(name, EndpointId(0), &compiled, &learned, now).join("; ");
        assert_eq!(
            ask("API.a.example."),
            "learned for API.a.example: 192.0.2.1 (57 s left)"
        );
        let other = ask("other.example");
        assert!(other.contains("192.0.2.1 (57 s left)"), "{other}");
        assert!(
            other.contains("no toFQDNs rule selects other.example"),
            "{other}"
        );
        assert!(ask("x.a.example").contains("nothing is learned"));
    }
}
