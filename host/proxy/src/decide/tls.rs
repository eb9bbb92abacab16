//! Server names: what a client asks for before it encrypts, and which rule lists it. No
//! plugin is asked: a name is compared with names.

use tidegate_contract::Rehearsed;
use tidegate_policy::{
    compiled::{FqdnSelector, Generation, L7Id, RuleId, TlsNames},
    fqdn::Matcher,
};
use tidegate_wire::tls::Asked;

use super::{Attribution, Chain, InShadow, Side};

/// The names one rule set lists.
pub struct ServerNames {
    names: Vec<(Matcher, RuleId)>,
    /// Addresses that are written like names, which no pattern means.
    addresses: Vec<(String, RuleId)>,
    rules: Vec<RuleId>,
    /// Who speaks HTTP in the clear may ask for them, too.
    pub in_clear: bool,
}

impl ServerNames {
    /// No name at all, of a rule set that has these for others.
    pub fn nobodys(&self) -> Self {
        Self {
            names: Vec::new(),
            addresses: Vec::new(),
            rules: self.rules.clone(),
            in_clear: false,
        }
    }

    /// Prepares names for being asked.
    pub fn new(listed: &TlsNames) -> Self {
        let pairs = || listed.names.iter().zip(&listed.rules);
        let address = |(name, rule): (&FqdnSelector, &RuleId)| match name {
            FqdnSelector::MatchName(name) => Some((name.trim_end_matches('.').to_owned(), *rule)),
            FqdnSelector::MatchPattern(_) => None,
        };
        Self {
            names: pairs()
                .map(|(name, rule)| (Matcher::new(name), *rule))
                .collect(),
            addresses: pairs().filter_map(address).collect(),
            rules: listed.rules.clone(),
            in_clear: listed.in_clear,
        }
    }

    /// The first rule that lists what was asked for.
    fn rule_for(&self, asked: &Asked) -> Option<RuleId> {
        match asked {
            Asked::Name(name) => {
                let mut names = self.names.iter();
                names.find_map(|(matcher, rule)| matcher.matches(name).then_some(*rule))
            }
            Asked::Address(address) => {
                let mut addresses = self.addresses.iter();
                addresses.find_map(|(listed, rule)| (listed == address).then_some(*rule))
            }
            Asked::Nothing | Asked::Unclear { .. } => None,
        }
    }
}

/// The names that a rule set asks for, if it does.
pub trait Listed {
    /// Of this rule set.
    fn names_of(&self, set: L7Id) -> Option<&ServerNames>;
}

/// What one side says.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    /// It does not look at names.
    Nothing,
    /// It lets pass, by this rule if one lists the name.
    Passes(Option<RuleId>),
    /// None of its rules, of which these are some, lists the name.
    Refuses(Vec<RuleId>),
}

/// Does any side look at names?
pub fn is_asked(sides: &[Side<'_>], listed: &impl Listed) -> bool {
    let asks = |chain: &Chain| listed.names_of(chain.id).is_some();
    sides
        .iter()
        .any(|side| !side.open && side.sets().any(|set| asks(set.chain)))
}

/// Decides about what a client asks for; `None` if it could not say it. Whether it passes,
/// and who said so.
pub fn hello(
    (sides, shadows): (&[Side<'_>], &[InShadow<'_>]),
    listed: &impl Listed,
    generation: Generation,
    asked: Option<&Asked>,
) -> (bool, Attribution) {
    let mut attribution = Attribution {
        generation,
        ..Attribution::default()
    };
    let mut allowed = true;
    let mut refused = false;
    for side in sides {
        match say(side, listed, asked) {
            Said::Nothing => {}
            Said::Passes(rule) if !refused => attribution.rules.extend(rule),
            Said::Passes(_) => {}
            Said::Refuses(rules) if !refused => {
                refused = true;
                attribution.rules = rules;
                attribution.unmatched = true;
                attribution.ingress = side.ingress;
                attribution.audited = side.audit;
                allowed &= side.audit;
            }
            Said::Refuses(_) => allowed &= side.audit,
        }
    }
    if attribution.rules.is_empty() {
        let asking = sides.iter().map(|side| side.rule);
        attribution.rules = asking.filter(|rule| rule.is_some()).collect();
    }
    attribution.rehearsed = rehearse(sides, shadows, listed, asked, refused).map(Box::new);
    (allowed, attribution)
}

fn say(side: &Side<'_>, listed: &impl Listed, asked: Option<&Asked>) -> Said {
    if side.open {
        return Said::Passes(None);
    }
    let mut rules = Vec::new();
    let mut passes_unread = false;
    for set in side.sets() {
        match listed.names_of(set.chain.id) {
            // Another name or prefix of the destination lets everything pass.
            None => passes_unread |= set.chain.rules().is_none(),
            Some(names) => match asked.and_then(|asked| names.rule_for(asked)) {
                Some(rule) => return Said::Passes(Some(rule)),
                None => rules.extend(names.rules.first().copied()),
            },
        }
    }
    match (rules.is_empty(), passes_unread) {
        (true, _) => Said::Nothing,
        (false, true) => Said::Passes(None),
        (false, false) => Said::Refuses(rules),
    }
}

/// What would become of it with what is in shadow, if that is something else.
fn rehearse(
    sides: &[Side<'_>],
    shadows: &[InShadow<'_>],
    listed: &impl Listed,
    asked: Option<&Asked>,
    refused: bool,
) -> Option<Rehearsed> {
    if shadows
        .iter()
        .all(|shadow| matches!(shadow, InShadow::Same))
    {
        return None;
    }
    let mut rules = Vec::new();
    for (side, shadow) in sides.iter().zip(shadows) {
        let judged = match shadow {
            InShadow::Same => side,
            InShadow::Asks(judged) => judged,
            InShadow::Refuses(rule) => {
                return (!refused).then(|| Rehearsed {
                    allowed: false,
                    rules: vec![*rule],
                    unmatched: false,
                    error: None,
                });
            }
        };
        match say(judged, listed, asked) {
            Said::Nothing | Said::Passes(None) => {}
            Said::Passes(Some(rule)) => rules.push(rule),
            Said::Refuses(rules) => {
                return (!refused).then_some(Rehearsed {
                    allowed: false,
                    rules,
                    unmatched: true,
                    error: None,
                });
            }
        }
    }
    refused.then_some(Rehearsed {
        allowed: true,
        rules,
        unmatched: false,
        error: None,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tidegate_policy::compiled::L7Protocol;

    use super::{super::Alternative, *};

    impl Listed for BTreeMap<L7Id, ServerNames> {
        fn names_of(&self, set: L7Id) -> Option<&ServerNames> {
            self.get(&set)
        }
    }

    fn chain(id: L7Id) -> Chain {
        Chain {
            id,
            protocol: L7Protocol::Stream,
            filters: Vec::new(),
        }
    }

    fn side(chain: Option<&Chain>, ingress: bool) -> Side<'_> {
        Side {
            chain,
            or: Vec::new(),
            open: false,
            rule: RuleId(u32::from(chain.is_some()) * 90),
            ingress,
            audit: false,
            tunnels: false,
        }
    }

    fn listed() -> BTreeMap<L7Id, ServerNames> {
        let name = |text: &str| match text.contains('*') {
            true => FqdnSelector::MatchPattern(text.to_owned()),
            false => FqdnSelector::MatchName(text.to_owned()),
        };
        let set = |names: &[&str], first: u32| {
            ServerNames::new(&TlsNames {
                names: names.iter().map(|text| name(text)).collect(),
                rules: (first..).map(RuleId).take(names.len()).collect(),
                in_clear: false,
            })
        };
        BTreeMap::from([
            (
                L7Id(1),
                set(&["api.example.", "*.shop.example.", "192.0.2.1."], 11),
            ),
            (L7Id(2), set(&["**."], 21)),
            (L7Id(3), set(&["www.example."], 31)),
        ])
    }

    fn asks(name: &str) -> Asked {
        Asked::Name(name.to_owned())
    }

    #[test]
    fn a_name_is_listed_or_refused() {
        let listed = listed();
        let rule = |set: L7Id, asked: &Asked| listed[&set].rule_for(asked);
        assert_eq!(rule(L7Id(1), &asks("api.example")), Some(RuleId(11)));
        assert_eq!(rule(L7Id(1), &asks("a.shop.example")), Some(RuleId(12)));
        assert_eq!(rule(L7Id(1), &asks("a.b.shop.example")), None, "one label");
        assert_eq!(rule(L7Id(1), &asks("shop.example")), None);
        assert_eq!(rule(L7Id(2), &asks("a.b.example")), Some(RuleId(21)));
        // An address is no name, and no pattern means it.
        let address = Asked::Address("192.0.2.1".to_owned());
        assert_eq!(
            (rule(L7Id(1), &address), rule(L7Id(2), &address)),
            (Some(RuleId(13)), None)
        );
        assert_eq!(
            (
                rule(L7Id(1), &Asked::Nothing),
                rule(L7Id(2), &Asked::Nothing)
            ),
            (None, None)
        );
        let unclear = Asked::Unclear {
            text: "api.example".to_owned(),
            why: "",
        };
        assert_eq!(
            (rule(L7Id(1), &unclear), rule(L7Id(2), &unclear)),
            (None, None)
        );
    }

    #[test]
    fn both_sides_have_to_list_it() {
        let (listed, one, other) = (listed(), chain(L7Id(1)), chain(L7Id(3)));
        let decide = |sides: &[Side<'_>], asked: Option<&Asked>| {
            let shadows = [InShadow::Same, InShadow::Same];
            let (allowed, by) = hello((sides, &shadows), &listed, Generation(7), asked);
            (allowed, by.rules, by.ingress, by.unmatched)
        };
        let (api, www) = (asks("api.example"), asks("www.example"));
        let both = [side(Some(&one), false), side(Some(&other), true)];
        assert!(is_asked(&both, &listed));
        assert_eq!(
            decide(&both, Some(&api)),
            (false, vec![RuleId(31)], true, true)
        );
        assert_eq!(
            decide(&both, Some(&www)),
            (false, vec![RuleId(11)], false, true)
        );
        let alone = [side(Some(&one), false), side(None, true)];
        assert_eq!(
            decide(&alone, Some(&api)),
            (true, vec![RuleId(11)], false, false)
        );
        assert_eq!(decide(&alone, None), (false, vec![RuleId(11)], false, true));
        // What is only told of passes.
        let mut audited = alone.clone();
        audited[0].audit = true;
        let (allowed, by) = hello((&audited, &[]), &listed, Generation(7), None);
        assert!(allowed && by.audited);
        // Several names of one address: any of their rules will do.
        let mut several = alone.clone();
        several[0].or.push(Alternative {
            chain: &other,
            tunnels: false,
        });
        assert_eq!(
            decide(&several, Some(&www)),
            (true, vec![RuleId(31)], false, false)
        );
        assert_eq!(
            decide(&several, Some(&asks("b.example"))).1,
            [11, 31].map(RuleId)
        );
        let mut open = alone.clone();
        open[0].open = true;
        assert!(!is_asked(&open, &listed) && decide(&open, None).0);
        let unread = chain(L7Id(9));
        several[0].or[0].chain = &unread;
        assert_eq!(
            decide(&several, None),
            (true, vec![RuleId(90)], false, false)
        );
        assert!(!is_asked(&[side(Some(&unread), true)], &listed));
    }

    #[test]
    fn what_is_in_shadow_is_told_beside_it() {
        let (listed, one, other) = (listed(), chain(L7Id(1)), chain(L7Id(3)));
        let sides = [side(Some(&one), false)];
        let told = |shadow: InShadow<'_>, asked: &Asked| {
            let (_, by) = hello((&sides, &[shadow]), &listed, Generation(7), Some(asked));
            by.rehearsed.map(|told| (told.allowed, told.rules))
        };
        let (api, www) = (asks("api.example"), asks("www.example"));
        let beside = || InShadow::Asks(side(Some(&other), false));
        assert_eq!(told(beside(), &api), Some((false, vec![RuleId(31)])));
        assert_eq!(told(beside(), &www), Some((true, vec![RuleId(31)])));
        assert_eq!(told(beside(), &asks("b.example")), None);
        assert_eq!(
            told(InShadow::Refuses(RuleId(5)), &api),
            Some((false, vec![RuleId(5)]))
        );
        assert_eq!(
            told(InShadow::Asks(side(None, false)), &www),
            Some((true, vec![]))
        );
        assert_eq!(told(InShadow::Same, &www), None);
    }
}
