//! What is decided, as tables: plugins answer what their name says.

mod dns;
mod http;
mod rehearsal;
mod stream;
mod walk;

use std::sync::Arc;

use tidegate_wire::http::{HeaderEdit, HttpHead, ResponseHead, Version};

use super::{
    dns::{DnsAnswer, DnsFilter},
    http::{Decision, Denial, HttpAnswer, HttpFilter, Verdict, request},
    *,
};

/// A plugin that answers by its name: `allow`, `allow:2` (rule index), `deny`,
/// `edit:NAME` (sets that header to the plugin's first rule), `fail`.
pub(crate) struct ByName {
    name: String,
    label: String,
    fail_mode: FailMode,
    rules: Vec<RuleId>,
    responses: bool,
    bound: bool,
}

impl ByName {
    fn answer(&self) -> Result<HttpAnswer, Failure> {
        let (verb, detail) = self.name.split_once(':').unwrap_or((&self.name, ""));
        let verdict = match verb {
            "allow" => Verdict::Allow,
            "deny" => Verdict::Deny(Denial::default()),
            "edit" => Verdict::Edit(HeaderEdit {
                set: vec![(detail.to_owned(), self.rules[0].to_string())],
                remove: vec![],
            }),
            // Of the kind that no fail mode lets pass.
            "load" => return Err(Failure::OverShare),
            _ => return Err(Failure::Deadline),
        };
        Ok(HttpAnswer {
            verdict,
            rule: detail.parse().ok(),
        })
    }
}

impl Filter for ByName {
    fn label(&self) -> &str {
        &self.label
    }

    fn content(&self) -> String {
        self.label.clone()
    }

    fn fail_mode(&self) -> FailMode {
        self.fail_mode
    }

    fn rules(&self) -> &[RuleId] {
        &self.rules
    }

    fn is_bound(&self) -> bool {
        self.bound
    }

    fn http(&self) -> Option<&dyn HttpFilter> {
        Some(self)
    }

    fn dns(&self) -> Option<&dyn DnsFilter> {
        Some(self)
    }
}

impl HttpFilter for ByName {
    fn sees_responses(&self) -> bool {
        self.responses
    }

    fn request(&self, _: &HttpHead<'_>, _: &Arc<Facts>) -> Result<HttpAnswer, Failure> {
        self.answer()
    }

    fn response(&self, _: &ResponseHead<'_>, _: &Arc<Facts>) -> Result<HttpAnswer, Failure> {
        self.answer()
    }
}

impl DnsFilter for ByName {
    fn query(&self, _: &str, _: u16, _: &Arc<Facts>) -> Result<DnsAnswer, Failure> {
        self.answer().map(|answer| DnsAnswer {
            refuse: matches!(answer.verdict, Verdict::Deny(_)).then_some(5),
            rule: answer.rule,
        })
    }
}

fn by_name(n: u32, name: &str, fail_mode: FailMode) -> ByName {
    ByName {
        name: name.to_owned(),
        label: format!("{name}@1"),
        fail_mode,
        rules: vec![RuleId(n * 10), RuleId(n * 10 + 1)],
        responses: false,
        bound: false,
    }
}

/// Rule set `first`, a chain of plugins by name; the rules of plugin n are n*10 and
/// n*10+1. The first has the rules of policies, the others are bound.
pub(crate) fn chain(first: u32, plugins: &[(&str, FailMode)]) -> Chain {
    let filter = |((name, fail_mode), n): (&(&str, FailMode), u32)| ByName {
        bound: n != first,
        ..by_name(n, name, *fail_mode)
    };
    Chain {
        id: L7Id(first),
        protocol: L7Protocol::Http,
        filters: plugins
            .iter()
            .zip(first..)
            .map(|plugin| Box::new(filter(plugin)) as Box<dyn Filter>)
            .collect(),
    }
}

/// A plugin that sees responses too.
fn sees_responses(name: &str) -> Chain {
    Chain {
        id: L7Id(1),
        protocol: L7Protocol::Http,
        filters: vec![Box::new(ByName {
            name: name.to_owned(),
            label: format!("{name}@1"),
            fail_mode: FailMode::Closed,
            rules: vec![RuleId(10), RuleId(11)],
            responses: true,
            bound: true,
        })],
    }
}

pub(crate) const HEAD: HttpHead<'_> = HttpHead {
    version: Version::Http11,
    method: "GET",
    path: "/",
    authority: "a",
    headers: &[],
};

pub(crate) fn facts() -> Arc<Facts> {
    Arc::new(Facts {
        source: "192.0.2.1:1".parse().unwrap(),
        destination: "192.0.2.2:80".parse().unwrap(),
        source_identity: 1,
        source_labels: Arc::default(),
        imagined: false,
    })
}

pub(crate) fn egress(chain: &Chain) -> Side<'_> {
    Side {
        chain: Some(chain),
        or: Vec::new(),
        open: false,
        rule: RuleId(1),
        ingress: false,
        audit: false,
        tunnels: false,
    }
}

/// Sides with nothing in shadow.
fn plain<'s, 'a>(sides: &'s [Side<'a>]) -> (&'s [Side<'a>], &'s [InShadow<'a>]) {
    (sides, &[])
}

fn alternatives<'a>(chains: &[&'a Chain]) -> Vec<Alternative<'a>> {
    let alternative = |chain: &&'a Chain| Alternative {
        chain,
        tunnels: false,
    };
    chains.iter().map(alternative).collect()
}

pub(crate) fn ingress(chain: &Chain) -> Side<'_> {
    Side {
        chain: Some(chain),
        or: Vec::new(),
        open: false,
        rule: RuleId(2),
        ingress: true,
        audit: false,
        tunnels: false,
    }
}

/// Decides with an egress chain (asked for by rule 1) and an ingress chain (rule 2).
fn decide(one: &Chain, other: &Chain) -> Decision {
    request(
        plain(&[egress(one), ingress(other)]),
        Generation(3),
        &HEAD,
        &facts(),
    )
}
