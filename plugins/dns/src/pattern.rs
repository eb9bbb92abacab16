//! Name patterns of `rules.dns` and `toFQDNs`. No regex engine: a pattern is compared
//! label by label.

/// A compiled name or pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// `*` alone: every name of valid labels, and the root.
    Any,
    /// Labels to match one by one; with `subdomains`, one or more labels before them.
    Labels {
        subdomains: bool,
        labels: Vec<String>,
    },
}

impl Pattern {
    /// Exactly this name.
    ///
    /// # Errors
    ///
    /// If it is empty or has a character no name may have.
    pub fn name(name: &str) -> Result<Self, String> {
        let labels = labels_of(name, is_name_byte)?;
        Ok(Self(Kind::Labels {
            subdomains: false,
            labels,
        }))
    }

    /// Names of this pattern: `*` alone is any name; a leading `**.` is one or more
    /// labels; any other run of `*` is zero or more characters of one label.
    ///
    /// # Errors
    ///
    /// As [`Pattern::name`].
    pub fn compile(pattern: &str) -> Result<Self, String> {
        let mut labels = labels_of(pattern, |byte| byte == b'*' || is_name_byte(byte))?;
        let stars = |label: &String| label.bytes().all(|byte| byte == b'*');
        let all_names = labels.len() == 1 && !labels[0].is_empty() && stars(&labels[0]);
        if all_names {
            return Ok(Self(Kind::Any));
        }
        let subdomains = labels.len() > 1 && labels[0].len() > 1 && stars(&labels[0]);
        if subdomains {
            labels.remove(0);
        }
        Ok(Self(Kind::Labels { subdomains, labels }))
    }

    /// Does a name match? Lower case, with a final dot.
    pub fn matches(&self, name: &str) -> bool {
        let Some(name) = name.strip_suffix('.') else {
            return false;
        };
        match &self.0 {
            Kind::Any => name.is_empty() || name.split('.').all(is_label),
            Kind::Labels { subdomains, labels } => {
                let mut given = name.rsplit('.');
                let tail = labels
                    .iter()
                    .rev()
                    .all(|label| given.next().is_some_and(|given| glob(label, given)));
                let mut before = given.peekable();
                tail && before.peek().is_some() == *subdomains && before.all(is_label)
            }
        }
    }
}

/// The labels of an absolute or relative name, lower case. The root is one empty label.
fn labels_of(text: &str, allowed: fn(u8) -> bool) -> Result<Vec<String>, String> {
    if text.is_empty() {
        return Err(format!("`{text}` is empty"));
    }
    if !text.bytes().all(|byte| byte == b'.' || allowed(byte)) {
        return Err(format!(
            "`{text}` has a character that no DNS name may have"
        ));
    }
    let text = text.strip_suffix('.').unwrap_or(text);
    Ok(text.split('.').map(str::to_ascii_lowercase).collect())
}

fn is_label(label: &str) -> bool {
    !label.is_empty() && label.bytes().all(is_name_byte)
}

const fn is_name_byte(byte: u8) -> bool {
    matches!(byte, b'-' | b'_' | b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9')
}

/// Does a label match, `*` standing for zero or more name characters? Greedy with one
/// place to fall back to, hence at worst quadratic in a label's 63 bytes.
fn glob(pattern: &str, label: &str) -> bool {
    let (pattern, label) = (pattern.as_bytes(), label.as_bytes());
    let (mut at, mut read) = (0, 0);
    let mut fall_back = None;
    while read < label.len() {
        if !is_name_byte(label[read]) {
            return false;
        }
        match pattern.get(at) {
            Some(b'*') => {
                at += 1;
                fall_back = Some((at, read));
            }
            Some(byte) if *byte == label[read] => {
                at += 1;
                read += 1;
            }
            _ => {
                let Some((after_star, from)) = fall_back else {
                    return false;
                };
                at = after_star;
                read = from + 1;
                fall_back = Some((at, read));
            }
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(pattern: &str, yes: &[&str], no: &[&str]) {
        let compiled = Pattern::compile(pattern).expect(pattern);
        for name in yes {
            assert!(compiled.matches(name), "{pattern} ~ {name}");
        }
        for name in no {
            assert!(!compiled.matches(name), "{pattern} !~ {name}");
        }
    }

    #[test]
    fn patterns_mean_what_cilium_says() {
        for all in ["*", "*.", "**", "***."] {
            check(
                all,
                &[".", "com.", "a.b-c.d_e."],
                &["", "a", "a..b.", "a b.", ".."],
            );
        }
        check(
            "*.cilium.io.",
            &["www.cilium.io.", ".cilium.io."],
            &["cilium.io.", "a.b.cilium.io.", "xcilium.io."],
        );
        check(
            "*cilium.io",
            &["cilium.io.", "subcilium.io."],
            &["www.cilium.io.", "cilium.iox."],
        );
        check(
            "**.cilium.io.",
            &["a.cilium.io.", "a.b.cilium.io."],
            &["cilium.io.", "a..cilium.io.", ".cilium.io."],
        );
        check("a**b.io.", &["ab.io.", "axb.io."], &["a.b.io.", "a.io."]);
        check("a.**.io.", &["a.x.io.", "a..io."], &["a.x.y.io."]);
        check(
            "sub.*.Example.com",
            &["sub.x.example.com."],
            &["sub.example.com."],
        );
        check(
            "a*b*c.",
            &["abc.", "aXbYc.".to_lowercase().as_str(), "abbc."],
            &["ab.", "acb."],
        );
    }

    #[test]
    fn a_name_matches_itself_alone() {
        let name = Pattern::name("Api.example.com").unwrap();
        assert!(name.matches("api.example.com."));
        assert!(!name.matches("api.example.com"));
        assert!(!name.matches("xapi.example.com."));
        assert!(!name.matches("a.api.example.com."));
        assert!(Pattern::name("*.example.com").is_err());
    }

    /// The documented regex, matched by plain backtracking over characters.
    fn slow(pattern: &[u8], name: &[u8]) -> bool {
        match pattern.split_first() {
            None => name.is_empty(),
            Some((b'*', rest)) => {
                slow(rest, name)
                    || name
                        .split_first()
                        .is_some_and(|(byte, name)| is_name_byte(*byte) && slow(pattern, name))
            }
            Some((wanted, rest)) => name
                .split_first()
                .is_some_and(|(byte, name)| byte == wanted && slow(rest, name)),
        }
    }

    proptest! {
        #[test]
        fn globs_agree_with_a_slow_simple_matcher(
            pattern in "[ab*]{1,4}\\.[ab*]{1,4}\\.",
            name in "[ab]{0,4}\\.[ab!]{0,5}\\.",
        ) {
            prop_assume!(!pattern.starts_with("**") || !pattern[..pattern.find('.').unwrap()].bytes().all(|b| b == b'*'));
            let compiled = Pattern::compile(&pattern).unwrap();
            prop_assert_eq!(compiled.matches(&name), slow(pattern.as_bytes(), name.as_bytes()));
        }

        #[test]
        fn a_leading_double_star_is_one_or_more_labels(
            before in prop::collection::vec("[a-c]{1,3}", 0..4),
        ) {
            let pattern = Pattern::compile("**.example.com.").unwrap();
            let mut labels = before.clone();
            labels.extend(["example".into(), "com".into()]);
            prop_assert_eq!(pattern.matches(&format!("{}.", labels.join("."))), !before.is_empty());
        }

        #[test]
        fn no_text_panics(pattern in ".*", name in ".*") {
            if let Ok(pattern) = Pattern::compile(&pattern) {
                let _ = pattern.matches(&name);
            }
        }
    }
}
