//! What is decided where several clauses and bindings meet.

use std::{collections::BTreeMap, sync::Arc};

use sha2::{Digest, Sha256};

use super::{
    clause::{Clause, FlatBinding, L7Clause, TlsClause},
    rows::Speaker,
    server_names,
};
use crate::{
    compiled::{Decision, L7RuleSet, PluginUse, Rehearsed, TlsNames, Verdict},
    http_options::HttpOptions,
    ids::{Exhausted, Interner, Number},
    l7::{
        DnsRules, FailMode, FqdnSelector, HttpRule, HttpRules, KafkaRule, KafkaRules, L7Protocol,
    },
    origin::At,
    problem::Problem,
    terms::{L7Id, RuleId},
    tls::{TlsContext, TlsContexts},
};

/// Name of the built-in HTTP matcher.
const HTTP: &str = "http";
/// Name of the built-in DNS matcher.
const DNS: &str = "dns";
const KAFKA: &str = "kafka";
/// What stands for `serverNames`, which the proxy itself compares.
const TLS: &str = "tls";

/// L7 rule sets of one table by number, which is held.
#[derive(Debug)]
pub(super) struct RuleSets<'i> {
    numbers: &'i mut Interner,
    pub(super) sets: BTreeMap<L7Id, (Number, Arc<L7RuleSet>)>,
}

impl<'i> RuleSets<'i> {
    pub(super) fn new(numbers: &'i mut Interner) -> Self {
        RuleSets {
            numbers,
            sets: BTreeMap::new(),
        }
    }

    /// The number of a rule set, 0 for none: same content, same number.
    fn number(&mut self, set: Option<L7RuleSet>) -> Result<L7Id, Exhausted> {
        let Some(set) = set else {
            return Ok(0);
        };
        let digest = Sha256::digest(to_json(&set));
        let key: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let number = self.numbers.get(&key)?;
        let id = number.get();
        self.sets.insert(id, (number, Arc::new(set)));
        Ok(id)
    }
}

/// JSON of a value that always has one.
fn to_json<T: serde::Serialize>(value: &T) -> String {
    // Our types have string keys and finite numbers only, so this cannot fail.
    serde_json::to_string(value).unwrap_or_default()
}

/// What a table is decided by.
#[derive(Debug)]
pub(super) struct Context<'c> {
    pub(super) clauses: &'c [&'c Clause],
    pub(super) bindings: &'c [&'c FlatBinding],
    pub(super) otherwise: Otherwise,
    pub(super) plugins: &'c BTreeMap<String, L7Protocol>,
}

/// What happens to traffic no clause allows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Otherwise {
    /// By the documents that are enforced.
    pub(super) enforced: Decision,
    /// By those and the ones in shadow.
    pub(super) rehearsed: Decision,
}

/// Why a decision could not be made.
pub(super) enum Refusal {
    /// Two documents contradict each other; the problem names the later one, or the one
    /// in shadow.
    Conflict(Box<Problem>),
    /// No number is left for a rule set.
    Exhausted(Exhausted),
}

impl From<Exhausted> for Refusal {
    fn from(error: Exhausted) -> Self {
        Refusal::Exhausted(error)
    }
}

/// A decision whose rule set has no number yet.
#[derive(PartialEq)]
struct Settled {
    verdict: Verdict,
    rule: RuleId,
    set: Option<L7RuleSet>,
}

impl Settled {
    fn plain(verdict: Verdict, rule: RuleId) -> Self {
        Self {
            verdict,
            rule,
            set: None,
        }
    }

    /// Marks the uses of plugins that `enforced` does not have.
    fn mark_beside(&mut self, enforced: &Self) {
        let known = enforced.set.as_ref().map_or(&[][..], |set| &set.chain);
        for used in self.set.iter_mut().flat_map(|set| &mut set.chain) {
            used.in_shadow = !known.contains(used);
        }
    }

    /// Does the same become of traffic? By which rule is not the question.
    fn is_as(&self, other: &Self) -> bool {
        (self.verdict, &self.set) == (other.verdict, &other.set)
    }
}

impl Context<'_> {
    /// Decides for packets about which exactly these speak: by those that are enforced,
    /// as if there were no others, and beside it what all of them would decide.
    pub(super) fn decide(
        &self,
        speakers: &[Speaker],
        sets: &mut RuleSets<'_>,
    ) -> Result<Decision, Refusal> {
        let enforced: Vec<Speaker> = speakers
            .iter()
            .copied()
            .filter(|speaker| !self.is_shadow(*speaker))
            .collect();
        let mut settled = self
            .settle(&enforced, self.otherwise.enforced)
            .map_err(Refusal::Conflict)?;
        let nothing_else =
            enforced.len() == speakers.len() && self.otherwise.enforced == self.otherwise.rehearsed;
        let shadow = if nothing_else {
            None
        } else {
            let mut rehearsed = self
                .settle(speakers, self.otherwise.rehearsed)
                .map_err(|contradiction| self.blame(&enforced, speakers, contradiction))?;
            if rehearsed.is_as(&settled) {
                None
            } else {
                rehearsed.mark_beside(&settled);
                Some(Rehearsed {
                    verdict: rehearsed.verdict,
                    rule: rehearsed.rule,
                    l7: sets.number(rehearsed.set)?,
                })
            }
        };
        if let Some(set) = &mut settled.set {
            set.shadow = shadow;
        }
        Ok(Decision {
            verdict: settled.verdict,
            rule: settled.rule,
            l7: sets.number(settled.set)?,
            shadow,
        })
    }

    fn is_shadow(&self, speaker: Speaker) -> bool {
        match speaker {
            Speaker::Clause { index, .. } => self.clauses[index].is_shadow(),
            Speaker::Binding(index) => self.bindings[index].binding.meta.is_shadow(),
        }
    }

    /// What is enforced agrees, so a contradiction is the fault of the first document in
    /// shadow that brings one about: no other may be refused for it.
    fn blame(
        &self,
        enforced: &[Speaker],
        speakers: &[Speaker],
        contradiction: Box<Problem>,
    ) -> Refusal {
        let mut some = enforced.to_vec();
        for speaker in speakers.iter().filter(|s| self.is_shadow(**s)) {
            some.push(*speaker);
            // In the order of their documents.
            some.sort_unstable();
            if let Err(problem) = self.settle(&some, self.otherwise.rehearsed) {
                let (meta, at) = match *speaker {
                    Speaker::Clause { index, .. } => {
                        let clause = self.clauses[index];
                        (clause.meta(), clause.at.clone())
                    }
                    Speaker::Binding(index) => {
                        let meta = &self.bindings[index].binding.meta;
                        (meta, self.bindings[index].binding.protocol_at.clone())
                    }
                };
                if problem.document.as_ref() == Some(&meta.key()) {
                    return Refusal::Conflict(problem);
                }
                let hint = problem.hint.unwrap_or_default();
                return Refusal::Conflict(Box::new(meta.problem(
                    &at,
                    format!("enforced, it would contradict others: {}", problem.message),
                    &hint,
                )));
            }
        }
        Refusal::Conflict(contradiction)
    }

    /// Deny wins; then, among what allows, L7 rules; a bound plugin looks at whatever is
    /// allowed.
    fn settle(&self, speakers: &[Speaker], otherwise: Decision) -> Result<Settled, Box<Problem>> {
        let spoken: Vec<(&Clause, bool)> = speakers
            .iter()
            .filter_map(|speaker| match speaker {
                Speaker::Clause { index, exact } => Some((self.clauses[*index], *exact)),
                Speaker::Binding(_) => None,
            })
            .collect();
        if let Some((deny, _)) = spoken.iter().find(|(clause, _)| clause.deny) {
            return Ok(Settled::plain(Verdict::Deny, deny.id));
        }
        let allowed = match spoken.first() {
            Some((clause, _)) => clause.id,
            None if otherwise.verdict == Verdict::Allow => otherwise.rule,
            None => return Ok(Settled::plain(otherwise.verdict, otherwise.rule)),
        };
        let bound: Vec<&FlatBinding> = speakers
            .iter()
            .filter_map(|speaker| match speaker {
                Speaker::Binding(index) => Some(self.bindings[*index]),
                Speaker::Clause { .. } => None,
            })
            .collect();

        // Where the endpoint is in default deny, only what a rule lists passes. Where no
        // policy switched that on, L7 rules may look at traffic, not refuse it.
        let mut found = Gathered {
            unrestricted: otherwise.verdict == Verdict::Allow,
            ..Gathered::default()
        };
        for (clause, exact) in &spoken {
            if !server_names::silence(&spoken, clause) {
                found.add(clause, *exact, self.plugins)?;
            }
        }
        found.agree()?;
        let tls = found.server_names();
        let of_bindings = bound.first().map(|b| b.binding.protocol);
        let Some(protocol) = found.protocol().or(of_bindings).or(found.opaque()) else {
            return Ok(Settled::plain(Verdict::Allow, allowed));
        };
        let mut chain: Vec<PluginUse> = found.plugin().into_iter().collect();
        let mut http = HttpOptions::default();
        for bound in &bound {
            if bound.binding.protocol != protocol {
                return Err(Box::new(binding_conflict(bound, protocol)));
            }
            if found.ends.is_some() && protocol != L7Protocol::Http {
                return Err(Box::new(not_inside(bound)));
            }
            http = http.and(bound.binding.http);
            let Some(plugin) = &bound.binding.plugin else {
                continue;
            };
            chain.push(PluginUse {
                plugin: plugin.clone(),
                config: bound.binding.config.clone(),
                fail_mode: bound.binding.fail_mode,
                rules: vec![bound.rule],
                bound: true,
                in_shadow: false,
            });
        }
        let rule = match (found.rule, allowed, bound.first()) {
            (Some(rule), ..) => rule,
            (None, 0, Some(bound)) => bound.rule,
            (None, ..) => allowed,
        };
        Ok(Settled {
            verdict: Verdict::Redirect,
            rule,
            set: Some(L7RuleSet {
                protocol,
                chain,
                http,
                tls,
                contexts: found.contexts,
                shadow: None,
            }),
        })
    }
}

/// The L7 rules of all clauses that allow the same packets.
#[derive(Default)]
struct Gathered<'p> {
    /// First clause with L7 rules: the one that steers.
    rule: Option<RuleId>,
    protocol: Option<L7Protocol>,
    /// Name of the plugin that reads the rules, once one has rules.
    reader: Option<&'p str>,
    /// TLS that ends and begins at the proxy, and the first clause that says so.
    contexts: TlsContexts,
    ends: Option<&'p Clause>,
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
    fn add(
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
    fn agree(&mut self) -> Result<(), Box<Problem>> {
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
    fn protocol(&self) -> Option<L7Protocol> {
        let asks = !self.names.is_empty() && self.contexts.terminating.is_none();
        self.protocol.or(asks.then_some(L7Protocol::Stream))
    }

    /// Nothing reads the bytes, but they do not pass as they are.
    fn opaque(&self) -> Option<L7Protocol> {
        self.ends.map(|_| L7Protocol::Stream)
    }

    /// Does some rule change headers?
    fn acts(&self) -> bool {
        self.http.iter().any(|(_, rule)| !rule.actions.is_empty())
    }

    /// The names a client may ask for; `None` if it may ask for any, or for nothing.
    fn server_names(&self) -> Option<TlsNames> {
        let asks = !self.names.is_empty() && !self.open_unended && !self.unrestricted;
        asks.then(|| TlsNames {
            names: self.names.iter().map(|(_, name)| (*name).clone()).collect(),
            rules: numbers(&self.names),
            in_clear: self.held,
        })
    }

    /// The plugin that applies the rules; `None` if everything is allowed anyway, or none
    /// is needed.
    fn plugin(&self) -> Option<PluginUse> {
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

fn not_inside(bound: &FlatBinding) -> Problem {
    bound.binding.meta.problem(
        &bound.binding.protocol_at,
        "TLS ends at the proxy on this port, and of what is inside only HTTP is read".to_owned(),
        "bind with protocol http, or to another port",
    )
}

fn binding_conflict(bound: &FlatBinding, protocol: L7Protocol) -> Problem {
    let protocol = protocol.name();
    bound.binding.meta.problem(
        &bound.binding.protocol_at,
        format!("the port carries {protocol} by another rule"),
        "bind to another port, or with the same protocol",
    )
}
