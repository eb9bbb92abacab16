//! The L7 rules of all clauses that allow the same packets, put together.

use std::collections::BTreeMap;

use super::{
    clause::{Clause, L7Clause, TlsClause},
    decide::to_json,
};
use crate::{
    compiled::{PluginUse, TlsNames},
    l7::{
        DnsRules, FailMode, FqdnSelector, HttpRule, HttpRules, KafkaRule, KafkaRules, L7Protocol,
    },
    origin::At,
    problem::Problem,
    terms::RuleId,
    tls::{TlsContext, TlsContexts},
};

/// Name of the built-in HTTP matcher.
const HTTP: &str = "http";
/// Name of the built-in DNS matcher.
const DNS: &str = "dns";
const KAFKA: &str = "kafka";
/// What stands for `serverNames`, which the proxy itself compares.
const TLS: &str = "tls";

/// The L7 rules of all clauses that allow the same packets.
#[derive(Default)]
pub(super) struct Gathered<'p> {
    /// First clause with L7 rules: the one that steers.
    pub(super) rule: Option<RuleId>,
    protocol: Option<L7Protocol>,
    /// Name of the plugin that reads the rules, once one has rules.
    reader: Option<&'p str>,
    /// TLS that ends and begins at the proxy, and the first clause that says so.
    pub(super) contexts: TlsContexts,
    pub(super) ends: Option<&'p Clause>,
    /// Rules of requests meet names of servers: only where TLS ends can both be asked.
    unless_ended: Option<Box<Problem>>,
    /// Names may be asked for in the clear, too.
    held: bool,
    http: Vec<(RuleId, &'p HttpRule)>,
    dns: Vec<(RuleId, &'p FqdnSelector)>,
    kafka: Vec<(RuleId, &'p KafkaRule)>,
    names: Vec<(RuleId, &'p FqdnSelector)>,
    custom: Vec<(RuleId, &'p serde_json::Value)>,
    /// The endpoint is not in default deny in this direction.
    unrestricted: bool,
    /// A clause allows everything on this port, and names the port.
    open_port: bool,
    /// A clause allows everything, perhaps on all ports.
    open: bool,
    /// The same, and does not end its TLS: then no name is asked for either.
    open_unended: bool,
}

impl<'p> Gathered<'p> {
    /// Nothing yet. `unrestricted`: the endpoint is not in default deny in this direction.
    pub(super) fn of(unrestricted: bool) -> Self {
        Self {
            unrestricted,
            ..Self::default()
        }
    }

    pub(super) fn add(
        &mut self,
        clause: &'p Clause,
        exact: bool,
        plugins: &BTreeMap<String, L7Protocol>,
    ) -> Result<(), Box<Problem>> {
        if let Some(tls) = &clause.tls {
            self.end(clause, tls)?;
        }
        let (reader, protocol) = match &clause.l7 {
            None => {
                self.open = true;
                self.open_unended |= clause.tls.is_none();
                self.open_port |= exact;
                return Ok(());
            }
            Some(L7Clause::ServerNames(names) | L7Clause::Held(names)) => {
                self.held |= matches!(clause.l7, Some(L7Clause::Held(_)));
                self.rule.get_or_insert(clause.id);
                extend(&mut self.names, names);
                if let Some(reader) = self.reader {
                    self.unless_ended
                        .get_or_insert_with(|| rule_conflict(clause, reader, TLS));
                }
                return Ok(());
            }
            Some(L7Clause::Http(_)) => (HTTP, L7Protocol::Http),
            Some(L7Clause::Dns(_)) => (DNS, L7Protocol::Dns),
            Some(L7Clause::Kafka(_)) => (KAFKA, L7Protocol::Stream),
            Some(L7Clause::Plugin { at, name, .. }) => match plugins.get(name) {
                Some(protocol) => (name.as_str(), *protocol),
                None => return Err(unknown_plugin(clause, at, name)),
            },
        };
        if let Some(other) = self.reader
            && other != reader
        {
            return Err(rule_conflict(clause, other, reader));
        }
        if !self.names.is_empty() {
            self.unless_ended
                .get_or_insert_with(|| rule_conflict(clause, TLS, reader));
        }
        self.reader = Some(reader);
        self.protocol = Some(protocol);
        self.rule.get_or_insert(clause.id);
        match &clause.l7 {
            Some(L7Clause::Http(rules)) => extend(&mut self.http, rules),
            Some(L7Clause::Dns(rules)) => extend(&mut self.dns, rules),
            Some(L7Clause::Kafka(rules)) => extend(&mut self.kafka, rules),
            Some(L7Clause::Plugin { rules, .. }) => extend(&mut self.custom, rules),
            Some(L7Clause::ServerNames(_) | L7Clause::Held(_)) | None => {}
        }
        Ok(())
    }

    /// The clause ends TLS: with what the others do, as far as they say something of it.
    fn end(&mut self, clause: &'p Clause, tls: &'p TlsClause) -> Result<(), Box<Problem>> {
        self.rule.get_or_insert(clause.id);
        self.ends.get_or_insert(clause);
        extend(&mut self.names, &tls.names);
        let TlsContexts {
            terminating,
            originating,
        } = &tls.contexts;
        for (key, known, own) in [
            (
                "terminatingTLS",
                &mut self.contexts.terminating,
                terminating,
            ),
            (
                "originatingTLS",
                &mut self.contexts.originating,
                originating,
            ),
        ] {
            match (&*known, own) {
                (None, Some(own)) => *known = Some(own.clone()),
                (Some(known), Some(own)) if known != own => {
                    return Err(context_conflict(clause, key, known, own));
                }
                (_, None) | (Some(_), Some(_)) => {}
            }
        }
        Ok(())
    }

    /// What cannot be asked of one connection at once contradicts itself.
    pub(super) fn agree(&mut self) -> Result<(), Box<Problem>> {
        if self.contexts.terminating.is_none()
            && let Some(problem) = self.unless_ended.take()
        {
            return Err(problem);
        }
        let Some(ends) = self.ends else {
            return Ok(());
        };
        if let (Some(reader), Some(L7Protocol::Dns | L7Protocol::Stream)) =
            (self.reader, self.protocol)
        {
            return Err(rule_conflict(ends, reader, "TLS"));
        }
        if self.contexts.terminating.is_none() && !self.names.is_empty() {
            return Err(rule_conflict(ends, TLS, "originatingTLS"));
        }
        Ok(())
    }

    /// How the rules want the bytes read.
    pub(super) fn protocol(&self) -> Option<L7Protocol> {
        let asks = !self.names.is_empty() && self.contexts.terminating.is_none();
        self.protocol.or(asks.then_some(L7Protocol::Stream))
    }

    /// What is read where TLS ends or begins here and no rule says what: who both ends are,
    /// and whom requests are for, is HTTP's to say.
    pub(super) fn inside(&self) -> Option<L7Protocol> {
        self.ends.map(|_| L7Protocol::Http)
    }

    /// Does some rule change headers?
    fn acts(&self) -> bool {
        self.http.iter().any(|(_, rule)| !rule.actions.is_empty())
    }

    /// The names a client may ask for; `None` if it may ask for any, or for nothing.
    pub(super) fn server_names(&self) -> Option<TlsNames> {
        let asks = !self.names.is_empty() && !self.open_unended && !self.unrestricted;
        asks.then(|| TlsNames {
            names: self.names.iter().map(|(_, name)| (*name).clone()).collect(),
            rules: numbers(&self.names),
            in_clear: self.held,
        })
    }

    /// The plugin that applies the rules; `None` if everything is allowed anyway, or none
    /// is needed.
    pub(super) fn plugin(&self) -> Option<PluginUse> {
        let reader = self.reader?;
        let (open, config, rules) = match self.protocol? {
            // A plain allow opens HTTP whatever ports it covers, but DNS only where it
            // names the same port: Cilium's proxy looks at the filters of that port alone.
            L7Protocol::Http if reader == HTTP => {
                let any = self.http.iter().any(|(_, rule)| **rule == ANY_REQUEST);
                // Who may ask anything may still not open tunnels, but by a rule about
                // them, which somebody has to read.
                let tunnels = self.http.iter().any(|(_, rule)| rule.allows_connect());
                // Headers are changed of whatever passes, by whichever rule.
                let acts = self.acts();
                let mut http = self.http.clone();
                if (self.open || (acts && self.unrestricted)) && !any {
                    http.push((self.rule?, &ANY_REQUEST));
                }
                let rules = http.iter().map(|(_, rule)| (*rule).clone()).collect();
                (
                    (any || self.open) && !tunnels && !acts,
                    to_json(&HttpRules { rules }),
                    numbers(&http),
                )
            }
            L7Protocol::Dns if reader == DNS => {
                let patterns = self.dns.iter().map(|(_, rule)| (*rule).clone()).collect();
                (
                    self.open_port,
                    to_json(&DnsRules { patterns }),
                    numbers(&self.dns),
                )
            }
            // A rule that allows any request leaves them to be read, and told of.
            L7Protocol::Stream if reader == KAFKA => {
                let rules = self.kafka.iter().map(|(_, rule)| (*rule).clone()).collect();
                (
                    self.open,
                    to_json(&KafkaRules { rules }),
                    numbers(&self.kafka),
                )
            }
            _ => {
                let nothing =
                    |rule: &serde_json::Value| rule.as_object().is_some_and(|o| o.is_empty());
                let any = self.custom.iter().any(|(_, rule)| nothing(rule));
                let list: Vec<_> = self.custom.iter().map(|(_, rule)| *rule).collect();
                (any || self.open, to_json(&list), numbers(&self.custom))
            }
        };
        (!open && (!self.unrestricted || self.acts())).then(|| PluginUse {
            plugin: reader.to_owned(),
            config,
            fail_mode: FailMode::Closed,
            rules,
            bound: false,
            in_shadow: false,
        })
    }
}

/// A rule that any request but CONNECT fulfils.
static ANY_REQUEST: HttpRule = HttpRule {
    method: None,
    path: None,
    host: None,
    headers: Vec::new(),
    actions: Vec::new(),
};

/// Adds rules, the first of equal ones only.
fn extend<'p, T: PartialEq>(all: &mut Vec<(RuleId, &'p T)>, more: &'p [(RuleId, T)]) {
    for (id, rule) in more {
        if !all.iter().any(|(_, known)| *known == rule) {
            all.push((*id, rule));
        }
    }
}

fn numbers<T>(rules: &[(RuleId, T)]) -> Vec<RuleId> {
    rules.iter().map(|(id, _)| *id).collect()
}

fn unknown_plugin(clause: &Clause, at: &At, name: &str) -> Box<Problem> {
    let problem = clause.meta().problem(
        at,
        "no plugin of this name is installed".to_owned(),
        "put it into the plugins folder first",
    );
    Box::new(Problem {
        value: Some(name.to_owned()),
        ..problem
    })
}

fn rule_conflict(clause: &Clause, other: &str, own: &str) -> Box<Problem> {
    Box::new(clause.meta().problem(
        &clause.at,
        format!("{own} rules meet {other} rules on the same port for the same peer"),
        "a connection is read as one of them: give each a port of its own, or let them be about \
         different peers",
    ))
}

fn context_conflict(
    clause: &Clause,
    key: &str,
    other: &TlsContext,
    own: &TlsContext,
) -> Box<Problem> {
    let say = |context: &TlsContext| {
        let [ca, chain, key] = context.items().map(|(item, _)| item);
        format!("{} ({ca}, {chain}, {key})", context.secret())
    };
    Box::new(clause.meta().problem(
        &clause.at,
        format!(
            "`{key}` with {} meets one with {} on the same port for the same peer",
            say(own),
            say(other)
        ),
        "a connection has one: use the same secret, or let the rules be about different peers",
    ))
}
