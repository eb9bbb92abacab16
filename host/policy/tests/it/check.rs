//! One way to ask: documents and a table of questions with the expected answers.

use std::net::IpAddr;

use tidegate_policy::{
    Ids, Input, compile,
    compiled::{Compiled, Decision, Direction, IdentityId, L7Id, L7RuleSet, Verdict},
    fqdn::Matcher,
    lookup, lookup_any,
    model::{self, L7, Query},
    parse_file, protocol, rehearse_any,
};

/// Reads documents that must be readable.
pub(crate) fn read(input: &mut Input, file: &str, text: &str) {
    for document in parse_file(file, text).unwrap_or_else(|problems| panic!("{problems:#?}")) {
        input.add(document);
    }
}

pub(crate) fn compiled(input: &Input) -> Compiled {
    compile(input, &mut Ids::default()).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

/// A question: `subject < peer port` for ingress, `subject > peer port` for egress.
/// The peer is an endpoint or an address, with names it resolved from behind `=`; the
/// port is `tcp/80`, `icmp/8` and the like.
#[derive(Debug)]
pub(crate) struct Question {
    subject: String,
    direction: Direction,
    peer: IpAddr,
    names: Vec<String>,
    protocol: u8,
    port: u16,
}

impl Question {
    pub(crate) fn parse(input: &Input, text: &str) -> Self {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [subject, arrow, peer, port] = words[..] else {
            panic!("not a question: {text}")
        };
        let (peer, names) = peer.split_once('=').unwrap_or((peer, ""));
        let (protocol, port) = port.split_once('/').unwrap();
        let number: u16 = port.parse().unwrap();
        let (protocol, port) = match protocol {
            "tcp" => (protocol::TCP, number),
            "udp" => (protocol::UDP, number),
            "sctp" => (protocol::SCTP, number),
            "icmp" => (protocol::ICMP, number << 8),
            "icmpv6" => (protocol::ICMPV6, number << 8),
            other => (other.parse().unwrap(), number),
        };
        Question {
            subject: subject.to_owned(),
            direction: match arrow {
                "<" => Direction::Ingress,
                ">" => Direction::Egress,
                _ => panic!("not a question: {text}"),
            },
            peer: address(input, peer),
            names: names
                .split(',')
                .filter(|n| !n.is_empty())
                .map(str::to_owned)
                .collect(),
            protocol,
            port,
        }
    }

    pub(crate) fn new(
        subject: &str,
        direction: Direction,
        peer: IpAddr,
        names: &[&str],
        protocol: u8,
        port: u16,
    ) -> Self {
        Question {
            subject: subject.to_owned(),
            direction,
            peer,
            names: names.iter().map(|n| (*n).to_owned()).collect(),
            protocol,
            port,
        }
    }

    pub(crate) fn has_names(&self) -> bool {
        !self.names.is_empty()
    }

    /// The identities of the peer: the address's own, and those of its names.
    fn identities(&self, compiled: &Compiled) -> Vec<IdentityId> {
        let found = compiled
            .ipcache
            .iter()
            .filter(|(net, _)| net.contains(&self.peer));
        let (_, base) = found.max_by_key(|(net, _)| net.prefix_len()).unwrap();
        let mut identities = vec![base.identity];
        if base.endpoint.is_none() && base.identity != IdentityId(1) {
            for (id, selector) in &compiled.fqdn {
                let matcher = Matcher::new(selector);
                if self.names.iter().any(|name| matcher.matches(name)) {
                    identities.push(*id);
                }
            }
        }
        identities
    }

    /// Is the proxy told rows of the subject about the world outside?
    pub(crate) fn has_several_rows(&self, compiled: &Compiled) -> bool {
        let outward = &compiled.outward;
        let mut told = outward.keys().filter_map(|id| compiled.endpoints.get(id));
        self.direction == Direction::Egress && told.any(|endpoint| endpoint.name == self.subject)
    }

    /// What the proxy unites for the peer: the L7 rules, each as JSON and sorted; `None`
    /// if all requests are allowed.
    pub(crate) fn ask_proxy(&self, compiled: &Compiled) -> Option<Vec<String>> {
        let outward = &compiled.outward;
        let subject = compiled
            .endpoints
            .iter()
            .find(|(_, e)| e.name == self.subject);
        let (id, _) = subject.unwrap();
        let any = lookup_any(
            &outward[id],
            &self.identities(compiled),
            self.direction,
            self.protocol,
            self.port,
        );
        let mut all = Vec::new();
        for set in &any.sets {
            all.extend(l7_of(&compiled.l7[set]).rules?);
        }
        all.sort();
        all.dedup();
        (!any.plain).then_some(all)
    }

    /// What the tables and the proxy decide, in words that do not depend on numbers:
    /// verdict, rule sets and whether something allows without asking. `rehearsed`: as if
    /// what is in shadow were enforced.
    pub(crate) fn ask_everybody(&self, compiled: &Compiled, rehearsed: bool) -> String {
        let endpoint = compiled.endpoints.values().find(|e| e.name == self.subject);
        let rows = &endpoint.unwrap().table;
        let mut identities = self.identities(compiled);
        if self.direction == Direction::Ingress {
            // Names are of destinations.
            identities.truncate(1);
        }
        let of = (self.direction, self.protocol, self.port);
        let (verdict, any) = if rehearsed {
            let (strongest, any) = rehearse_any(rows, &identities, of.0, of.1, of.2);
            (strongest.verdict, any)
        } else {
            let any = lookup_any(rows, &identities, of.0, of.1, of.2);
            let verdict = identities
                .iter()
                .map(|id| lookup(rows, *id, of.0, of.1, of.2).verdict)
                .max();
            (verdict.unwrap(), any)
        };
        let set = |id: &L7Id| {
            let L7RuleSet {
                protocol,
                chain,
                tls,
                ..
            } = &*compiled.l7[id];
            let used = chain.iter().map(|used| {
                let rules: Vec<_> = used
                    .rules
                    .iter()
                    .map(|r| compiled.rules[r].short())
                    .collect();
                (&used.plugin, &used.config, rules, used.bound)
            });
            let tls = tls.as_ref().map(|tls| {
                let rules = tls.rules.iter().map(|r| compiled.rules[r].short());
                (&tls.names, rules.collect::<Vec<_>>())
            });
            format!("{protocol:?} {:?} {tls:?}", used.collect::<Vec<_>>())
        };
        let mut sets: Vec<String> = any.sets.iter().map(set).collect();
        sets.sort();
        // The same rules, of which other things are rehearsed.
        sets.dedup();
        // One without rules allows everything, whatever is asked besides.
        if sets.iter().any(|set| set.ends_with(" []")) {
            sets.retain(|set| set.ends_with(" []"));
        }
        format!("{verdict:?} plain {} {sets:#?}", any.plain)
    }

    /// The answer of the tables: the address's identity, and those of its names; the
    /// largest verdict wins.
    pub(crate) fn ask_tables(&self, compiled: &Compiled) -> Decision {
        let endpoint = compiled
            .endpoints
            .values()
            .find(|e| e.name == self.subject)
            .unwrap();
        let identities = self.identities(compiled);
        let ask = |id| {
            lookup(
                &endpoint.table,
                id,
                self.direction,
                self.protocol,
                self.port,
            )
        };
        let mut best = ask(identities[0]);
        for id in &identities[1..] {
            let other = ask(*id);
            if other.verdict > best.verdict {
                best = other;
            }
        }
        best
    }

    pub(crate) fn ask_model(&self, input: &Input) -> Option<model::Answer> {
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        model::verdict(
            input,
            &Query {
                endpoint: &self.subject,
                direction: self.direction,
                peer: self.peer,
                names: &names,
                protocol: self.protocol,
                port: self.port,
            },
        )
    }
}

fn address(input: &Input, peer: &str) -> IpAddr {
    peer.parse().unwrap_or_else(|_| {
        let endpoint = input
            .endpoints
            .values()
            .find(|e| e.meta.full_name() == peer);
        endpoint
            .unwrap_or_else(|| panic!("no endpoint {peer}"))
            .addresses[0]
    })
}

/// A rule set in the model's words.
fn l7_of(set: &L7RuleSet) -> L7 {
    let names = set.tls.as_ref().map(|tls| {
        assert_eq!(tls.names.len(), tls.rules.len(), "one id per name");
        let mut texts: Vec<String> = tls
            .names
            .iter()
            .map(|name| serde_json::to_string(name).unwrap())
            .collect();
        texts.sort();
        texts
    });
    let mut rules = names;
    let mut bound = Vec::new();
    for plugin in &set.chain {
        let config: serde_json::Value = serde_json::from_str(&plugin.config).unwrap();
        let list = match plugin.plugin.as_str() {
            "http" | "kafka" => config.get("rules"),
            "dns" => config.get("patterns"),
            _ => Some(&config).filter(|config| config.is_array()),
        };
        assert_eq!(plugin.bound, list.is_none(), "{plugin:?}");
        match list.and_then(|list| list.as_array()) {
            Some(list) => {
                assert_eq!(list.len(), plugin.rules.len(), "one id per rule");
                let mut texts: Vec<String> = list.iter().map(ToString::to_string).collect();
                texts.sort();
                texts.dedup();
                rules = Some(texts);
            }
            None => bound.push(plugin.plugin.clone()),
        }
    }
    L7 {
        protocol: set.protocol,
        rules,
        bound,
    }
}

/// The answer of the tables in the model's words.
pub(crate) fn in_words(compiled: &Compiled, decision: Decision) -> model::Answer {
    model::Answer {
        verdict: decision.verdict,
        rule: decision
            .rule
            .is_some()
            .then(|| compiled.rules[&decision.rule].short()),
        l7: decision
            .l7
            .is_some()
            .then(|| l7_of(&compiled.l7[&decision.l7])),
    }
}

/// Asks tables and model, which must agree, and compares with what is expected:
/// a verdict, the rule, and for a redirect what is allowed (`all` or the number of
/// rules) and the bound plugins.
pub(crate) fn ask(input: &Input, questions: &[(&str, &str)]) {
    let compiled = compiled(input);
    for (text, expected) in questions {
        let question = Question::parse(input, text);
        let answer = in_words(&compiled, question.ask_tables(&compiled));
        let by_model = question.ask_model(input).expect("the model has an answer");
        assert_eq!(
            normal(&answer),
            normal(&by_model),
            "tables and model disagree: {text}"
        );
        let said = say(&answer);
        assert!(
            said.starts_with(expected)
                && !said[expected.len()..].starts_with(char::is_alphanumeric),
            "{text}\nexpected {expected}\n     got {said}"
        );
    }
}

/// JSON texts, without the order of keys.
pub(crate) fn normal(answer: &model::Answer) -> model::Answer {
    let mut answer = answer.clone();
    if let Some(rules) = answer.l7.as_mut().and_then(|l7| l7.rules.as_mut()) {
        for rule in rules.iter_mut() {
            let value: serde_json::Value = serde_json::from_str(rule).unwrap();
            *rule = value.to_string();
        }
        rules.sort();
        rules.dedup();
    }
    answer
}

fn say(answer: &model::Answer) -> String {
    let verdict = match answer.verdict {
        Verdict::DefaultDeny => "default-deny",
        Verdict::Allow => "allow",
        Verdict::Redirect => "redirect",
        Verdict::Deny => "deny",
    };
    let mut said = verdict.to_owned();
    if let Some(l7) = &answer.l7 {
        match &l7.rules {
            None => said.push_str(" all"),
            Some(rules) => said.push_str(&format!(" {}", rules.len())),
        }
        for plugin in &l7.bound {
            said.push_str(&format!(" +{plugin}"));
        }
    }
    if let Some(rule) = &answer.rule {
        said.push_str(&format!(" by {rule}"));
    }
    said
}

/// Documents of one text, and questions.
pub(crate) fn check(documents: &str, questions: &[(&str, &str)]) {
    let mut input = Input::default();
    read(&mut input, "test.yaml", documents);
    input.node_addresses.push(IpAddr::from([10, 0, 0, 1]));
    ask(&input, questions);
}

/// An endpoint in one line of YAML.
pub(crate) fn endpoint(name: &str, address: &str, labels: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap();
    // Interfaces must differ, and addresses do.
    let interface = format!("v{}", address.replace(':', "-"));
    format!(
        "---\n{{apiVersion: tidegate.io/v1alpha1, kind: Endpoint, \
         metadata: {{name: {name}, namespace: {namespace}, labels: {{{labels}}}}}, \
         spec: {{interface: {interface}, addresses: [\"{address}\"]}}}}\n"
    )
}
