//! Which filters a connection has, where several rule sets speak of its destination.

use super::{
    super::stream::{
        Session, StreamDirection, StreamFilter, StreamOperation, Unknown, contents, parts,
    },
    *,
};

/// A filter with this configuration.
struct Configured {
    label: &'static str,
    rules: Vec<RuleId>,
    config: Option<String>,
    bound: bool,
    ready: bool,
}

impl Filter for Configured {
    fn label(&self) -> &str {
        self.label
    }

    fn fail_mode(&self) -> FailMode {
        FailMode::Closed
    }

    fn rules(&self) -> &[RuleId] {
        &self.rules
    }

    fn is_bound(&self) -> bool {
        self.bound
    }

    fn content(&self) -> String {
        format!("{:?}", self.config)
    }

    fn stream(&self) -> Option<&dyn StreamFilter> {
        Some(self)
    }
}

impl StreamFilter for Configured {
    fn open(&self, _: &Arc<Facts>, _: bool) -> Result<Box<dyn Session>, Failure> {
        Ok(Box::new(Nothing))
    }

    fn config(&self) -> Option<&str> {
        self.config.as_deref()
    }

    fn with_rules(
        &self,
        rules: Vec<RuleId>,
        config: &str,
        _: bool,
    ) -> Result<Box<dyn Filter>, Failure> {
        if !self.ready {
            return Err(Failure::Preparing);
        }
        Ok(Box::new(Self {
            rules,
            config: Some(config.to_owned()),
            ..*self
        }))
    }
}

struct Nothing;

impl Session for Nothing {
    fn buffer_bytes(&self) -> usize {
        0
    }

    fn data(&self, _: StreamDirection, _: &[u8], _: bool) -> Result<Vec<StreamOperation>, Failure> {
        Ok(Vec::new())
    }
}

fn set(id: u32, label: &'static str, config: Option<&str>, ready: bool) -> Chain {
    let filter = |rules, config, bound| Configured {
        label,
        rules,
        config,
        bound,
        ready,
    };
    Chain {
        id: L7Id(id),
        protocol: L7Protocol::Stream,
        filters: vec![
            Box::new(filter(vec![RuleId(id)], config.map(str::to_owned), false)),
            Box::new(Configured {
                label: "watch@1",
                ..filter(vec![RuleId(90)], Some("watch".to_owned()), true)
            }),
        ],
    }
}

/// What the filters of one egress side are opened with, in order: what their indices mean
/// and whether they could be begun with.
fn check(side: &Side<'_>, expected: &[&[RuleId]]) {
    let mut opened = Vec::new();
    let parts = parts(std::slice::from_ref(side), Generation(1), |filter, _| {
        opened.push(filter.config().unwrap_or_default().to_owned());
        filter.open(&facts(), true)
    });
    let parts = parts.expect("filters");
    let rules: Vec<_> = (parts.iter())
        .map(|part| part.by.decided(true, Some(0)).rules)
        .collect();
    assert_eq!(rules, expected, "{opened:?}");
    let all = contents(std::slice::from_ref(side)).expect("contents");
    assert!(all.iter().eq(parts.iter().map(|part| &part.content)));
}

#[test]
fn what_any_rule_set_allows_passes_and_who_is_bound_looks_at_it_once() {
    let one = set(1, "kafka@1", Some(r#"{"rules":[{"topic":"a"}]}"#), true);
    let two = set(2, "kafka@1", Some(r#"{"rules":[{"topic":"b"}]}"#), true);
    let side = Side {
        or: alternatives(&[&two]),
        ..egress(&one)
    };
    check(&side, &[&[RuleId(1)], &[RuleId(90)]]);
    let opened = parts(
        std::slice::from_ref(&side),
        Generation(1),
        |filter, enforced| {
            assert!(enforced);
            let config = filter.config().unwrap_or_default();
            let both = r#"{"rules":[{"topic":"a"},{"topic":"b"}]}"#;
            assert!(config == both || config == "watch", "{config}");
            filter.open(&facts(), enforced)
        },
    );
    let opened = opened.expect("filters");
    assert_eq!(opened[0].by.decided(true, Some(1)).rules, [RuleId(2)]);
    // A rule set that is not ready allows nothing, and takes nothing from the other.
    let broken = set(3, "kafka@1", None, true);
    let side = Side {
        or: alternatives(&[&two]),
        ..egress(&broken)
    };
    check(&side, &[&[RuleId(2)], &[RuleId(90)]]);
    // The same rules once more, and a plain allow.
    let again = set(1, "kafka@1", Some("[]"), true);
    let side = Side {
        or: alternatives(&[&again]),
        ..egress(&one)
    };
    check(&side, &[&[RuleId(1)], &[RuleId(90)]]);
    let side = Side { open: true, ..side };
    check(&side, &[&[RuleId(90)]]);
}

#[test]
fn rules_that_cannot_be_put_together_are_said_so() {
    let one = set(1, "kafka@1", Some(r#"{"rules":[{}]}"#), false);
    for (other, reason) in [
        (
            set(2, "redis@1", Some("[{}]"), true),
            "kafka, another for redis",
        ),
        (set(2, "kafka@1", Some("7"), true), "cannot be put together"),
        (
            set(2, "kafka@1", Some(r#"{"rules":[{}]}"#), true),
            "are being put together",
        ),
    ] {
        let side = Side {
            or: alternatives(&[&other]),
            ..egress(&one)
        };
        let never = parts(&[side], Generation(1), |filter, _| {
            filter.open(&facts(), true)
        });
        let Err(error) = never else {
            panic!("{reason}: begun")
        };
        assert!(error.to_string().contains(reason), "{error}");
        assert_eq!(error == Unknown::Preparing, reason.contains("being"));
    }
}
