//! The built-in DNS matcher: allows a query if any of its patterns matches the name,
//! answers REFUSED otherwise. A plugin like any other.

pub mod pattern;

use pattern::Pattern;
use serde::Deserialize;
use tidegate_sdk::{DnsDecision, DnsFilter, Query};

/// The patterns of one binding.
pub struct DnsMatcher {
    patterns: Vec<Pattern>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    patterns: Vec<Selector>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum Selector {
    MatchName(String),
    MatchPattern(String),
}

impl DnsFilter for DnsMatcher {
    fn configure(config: &str) -> Result<Self, String> {
        let config: Config = serde_json::from_str(config)
            .map_err(|error| format!("the configuration is not a list of patterns: {error}"))?;
        let parse = |(index, selector)| {
            let pattern = match selector {
                Selector::MatchName(name) => Pattern::name(&name),
                Selector::MatchPattern(pattern) => Pattern::compile(&pattern),
            };
            pattern.map_err(|error| format!("patterns[{index}]: {error}"))
        };
        let patterns = config.patterns.into_iter().enumerate().map(parse);
        Ok(Self {
            patterns: patterns.collect::<Result<_, _>>()?,
        })
    }

    fn on_query(&mut self, query: &Query) -> DnsDecision {
        let mut patterns = self.patterns.iter();
        match patterns.position(|pattern| pattern.matches(&query.name)) {
            Some(index) => DnsDecision::Allow(u32::try_from(index).ok()),
            None => DnsDecision::REFUSED,
        }
    }
}

tidegate_sdk::dns_filter!(DnsMatcher, {
    "name": "dns",
    "version": "0.1.0",
    "capabilities": []
});

#[cfg(test)]
mod tests {
    use super::*;

    fn check(config: &str, name: &str, expected: DnsDecision) {
        let mut matcher = DnsMatcher::configure(config).expect(config);
        let query = Query {
            name: name.to_owned(),
            qtype: 1,
        };
        assert_eq!(matcher.on_query(&query), expected, "{config} {name}");
    }

    #[test]
    fn the_first_pattern_that_matches_allows() {
        let config = r#"{"patterns":[
            {"matchName":"api.example.com."},
            {"matchPattern":"*.example.com."}
        ]}"#;
        check(config, "api.example.com.", DnsDecision::Allow(Some(0)));
        check(config, "www.example.com.", DnsDecision::Allow(Some(1)));
        check(config, "example.com.", DnsDecision::REFUSED);
        check(r#"{"patterns":[]}"#, "example.com.", DnsDecision::REFUSED);
    }

    #[test]
    fn a_wrong_configuration_is_named() {
        for (config, reason) in [
            ("[]", "not a list of patterns"),
            (
                r#"{"patterns":[{"matchName":"a b."}]}"#,
                "patterns[0]: `a b.`",
            ),
            (
                r#"{"patterns":[{"matchPattern":""}]}"#,
                "patterns[0]: `` is empty",
            ),
        ] {
            let error = DnsMatcher::configure(config).err().expect(config);
            assert!(error.contains(reason), "{error}");
        }
    }
}
