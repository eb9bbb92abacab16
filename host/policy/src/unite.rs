//! Lists of L7 rules that several rule sets hand one plugin, as one list. What may pass is
//! what any rule allows, so the list of all says what the compiler would have written had
//! it known that the rule sets meet: a destination's names are known to the proxy alone.

use serde_json::Value;

use crate::terms::RuleId;

/// A plugin's configuration, and the rules its items are about: item `i` is `rules[i]`'s.
type Rules<'r> = (&'r [RuleId], &'r str);

/// All rules together, equal ones once; `None` if one of the configurations is no list of
/// rules: neither an array, nor an object with nothing but an array `rules`.
pub fn unite<'r>(all: impl IntoIterator<Item = Rules<'r>>) -> Option<(Vec<RuleId>, String)> {
    let mut united: Vec<(RuleId, Value)> = Vec::new();
    let mut wrapped = None;
    for (ids, config) in all {
        let (list, is_wrapped) = match serde_json::from_str(config).ok()? {
            Value::Array(list) => (list, false),
            Value::Object(mut object) => match (object.remove("rules")?, object.is_empty()) {
                (Value::Array(list), true) => (list, true),
                _ => return None,
            },
            _ => return None,
        };
        if list.len() != ids.len() || *wrapped.get_or_insert(is_wrapped) != is_wrapped {
            return None;
        }
        for (id, rule) in ids.iter().zip(list) {
            if !united.iter().any(|(_, known)| *known == rule) {
                united.push((*id, rule));
            }
        }
    }
    let (ids, list): (Vec<_>, Vec<_>) = united.into_iter().unzip();
    let list = Value::Array(list);
    let config = match wrapped? {
        true => serde_json::json!({ "rules": list }),
        false => list,
    };
    Some((ids, config.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_rules_are_one_list() {
        let kafka = (
            &[RuleId(1), RuleId(2)][..],
            r#"{"rules":[{"topic":"a"},{"topic":"b"}]}"#,
        );
        let more = (
            &[RuleId(7), RuleId(8)][..],
            r#"{"rules":[{"topic":"b"},{"topic":"c"}]}"#,
        );
        let (ids, config) = unite([kafka, more]).expect("lists");
        assert_eq!(ids, [1, 2, 8].map(RuleId));
        let expected = r#"{"rules":[{"topic":"a"},{"topic":"b"},{"topic":"c"}]}"#;
        assert_eq!(config, expected);
        let (plain, other) = (
            (&[RuleId(1)][..], r#"[{"c":"GET"}]"#),
            (&[RuleId(2)][..], "[{}]"),
        );
        let (ids, config) = unite([plain, other]).expect("lists");
        assert_eq!(
            (ids, &*config),
            (vec![RuleId(1), RuleId(2)], r#"[{"c":"GET"},{}]"#)
        );
    }

    #[test]
    fn what_is_no_list_of_rules_is_not_guessed_at() {
        let one = (&[RuleId(1)][..], "[{}]");
        for other in [
            (&[RuleId(2)][..], "{}"),
            (&[RuleId(2)][..], r#"{"rules":[{}]}"#),
            (&[RuleId(2)][..], r#"{"rules":[{}],"more":1}"#),
            (&[RuleId(2), RuleId(3)][..], "[{}]"),
            (&[RuleId(2)][..], "7"),
            (&[RuleId(2)][..], "no JSON"),
        ] {
            assert_eq!(unite([one, other]), None, "{other:?}");
        }
        assert_eq!(unite([]), None);
    }
}
