//! `tidegate.io/hold-names`: an egress rule by name opens its addresses to who asks for that
//! name. Others live behind the same address.

use crate::{
    fqdn,
    l7::{FqdnSelector, HttpRule},
    origin::At,
    protocol,
    rule::{L7Rules, PeerSelector, Peers, PortRule, PortTls, Traffic},
};

/// The names of `toFQDNs`, each with its place; `None` if the peers are others.
fn names_of(peers: &Peers) -> Option<Vec<(At, FqdnSelector)>> {
    let Peers::Of(all) = peers else {
        return None;
    };
    let names = all.iter().map(|(at, selector)| match selector {
        PeerSelector::Fqdn(name) => Some((at.clone(), name.clone())),
        _ => None,
    });
    names
        .collect::<Option<Vec<_>>>()
        .filter(|names| !names.is_empty())
}

/// What is not held to the names of the rule.
pub(super) enum Unheld {
    /// It may be asked for over something that nobody can read a name of, and passes.
    Open(At),
    /// Nobody looks for names in this protocol, that of the item of `toPorts` with this
    /// index: the rule cannot be what its document says.
    Unreadable(usize, String),
}

/// Holds what is allowed of the peers to their names: in TLS the server name, in HTTP the
/// host. What is about names by its own words stays as it is written.
pub(super) fn hold(peers: &Peers, traffic: Traffic, rule: &At) -> (Traffic, Vec<Unheld>) {
    let Some(names) = names_of(peers) else {
        return (traffic, Vec::new());
    };
    let Traffic::Of(items) = traffic else {
        return (traffic, vec![Unheld::Open(rule.clone())]);
    };
    let mut unheld = Vec::new();
    let mut held = Vec::new();
    for (index, item) in items.into_iter().enumerate() {
        match protocol_without_names(&item) {
            Some(protocol) => unheld.push(Unheld::Unreadable(index, protocol.to_owned())),
            None => hold_item(&names, item, &mut held, &mut unheld),
        }
    }
    (Traffic::Of(held), unheld)
}

/// The protocol that the item has read, if that is one whose names nobody compares.
fn protocol_without_names(item: &PortRule) -> Option<&str> {
    match item.l7.as_ref()? {
        L7Rules::Http(_) | L7Rules::ServerNames(_) | L7Rules::Held(_) => None,
        L7Rules::Dns(_) => Some("dns"),
        L7Rules::Kafka(_) => Some("kafka"),
        L7Rules::Plugin { name, .. } => Some(name),
    }
}

fn hold_item(
    names: &[(At, FqdnSelector)],
    mut item: PortRule,
    held: &mut Vec<PortRule>,
    unheld: &mut Vec<Unheld>,
) {
    if let Some(tls) = &mut item.tls
        && tls.contexts.terminating.is_some()
        && tls.names.is_empty()
    {
        tls.names = names.to_vec();
    }
    match &mut item.l7 {
        Some(L7Rules::Http(rules)) => {
            for (_, rule) in rules {
                // A rule about CONNECT opens a tunnel for the host it names (see
                // `HttpRule::allows_connect`): it is not for us to name one.
                let tunnels = rule.method.as_deref() == Some("CONNECT");
                if rule.host.is_none() && !tunnels {
                    rule.host = Some(host_of(names));
                }
            }
        }
        Some(_) => {}
        // What is inside is read as HTTP. Where the client's TLS ends, its name was compared,
        // and requests are held to that.
        None if item.tls.is_some() => {
            let ends = |tls: &PortTls| tls.contexts.terminating.is_some();
            if !item.tls.as_ref().is_some_and(ends) {
                item.l7 = Some(L7Rules::Http(requests_to(names)));
            }
        }
        None => {
            // Of what is no TCP nobody can read a name.
            let mut rest = item.clone();
            for ports in &mut rest.ports {
                ports.protocols.retain(|p| *p != protocol::TCP);
            }
            rest.ports.retain(|ports| !ports.protocols.is_empty());
            for ports in &mut item.ports {
                ports.protocols.retain(|p| *p == protocol::TCP);
            }
            item.ports.retain(|ports| !ports.protocols.is_empty());
            if !rest.ports.is_empty() {
                unheld.push(Unheld::Open(rest.at.clone()));
                held.push(rest);
            }
            item.l7 = Some(L7Rules::Held(names.to_vec()));
        }
    }
    if !item.ports.is_empty() {
        held.push(item);
    }
}

/// Any request to one of these, by the name it is for.
fn requests_to(names: &[(At, FqdnSelector)]) -> Vec<(At, HttpRule)> {
    let one = |name: &(At, FqdnSelector)| HttpRule {
        host: Some(host_of(std::slice::from_ref(name))),
        ..HttpRule::default()
    };
    names
        .iter()
        .map(|name| (name.0.clone(), one(name)))
        .collect()
}

/// Some name.
const ANY_HOST: &str = "(?:[-a-zA-Z0-9_]+[.])*[-a-zA-Z0-9_]+";

/// An expression for the host of requests, with or without a port and a final dot.
fn host_of(names: &[(At, FqdnSelector)]) -> String {
    let one = |(_, name): &(At, FqdnSelector)| {
        let (FqdnSelector::MatchName(text) | FqdnSelector::MatchPattern(text)) = name;
        if text.trim_end_matches('.').bytes().all(|b| b == b'*') {
            return ANY_HOST.to_owned();
        }
        let regex = fqdn::pattern_to_regex(text);
        let body = regex.trim_start_matches('^').trim_end_matches('$');
        // The final dot of names is no host's.
        body.strip_suffix("[.]").unwrap_or(body).to_owned()
    };
    let all: Vec<String> = names.iter().map(one).collect();
    format!("(?i)(?:{})[.]?(?::[0-9]+)?", all.join("|"))
}

#[cfg(test)]
mod tests {
    use tidegate_re2::Pattern;

    use super::*;
    use crate::l7::HttpRule;

    fn allows(rule: &HttpRule, host: &str) -> bool {
        let pattern = Pattern::new(rule.host.as_deref().unwrap_or_default());
        pattern.is_ok_and(|pattern| pattern.matches(host.as_bytes()))
    }

    #[test]
    fn holding_to_names_opens_no_tunnel() {
        let at = || At {
            path: String::new(),
            line: 1,
            column: 1,
        };
        let rule = |method: Option<&str>| {
            let rule = HttpRule {
                method: method.map(str::to_owned),
                ..HttpRule::default()
            };
            (at(), rule)
        };
        let item = PortRule {
            at: at(),
            ports: vec![crate::rule::Ports {
                at: at(),
                protocols: vec![protocol::TCP],
                range: crate::rule::PortRange::Numbers(80, 80),
            }],
            tls: None,
            l7: Some(L7Rules::Http(vec![rule(Some("CONNECT")), rule(None)])),
        };
        let names = [(at(), FqdnSelector::MatchName("api.example.".into()))];
        let mut held = Vec::new();
        hold_item(&names, item, &mut held, &mut Vec::new());
        let Some(L7Rules::Http(rules)) = &held[0].l7 else {
            panic!("{held:?}");
        };
        let of: Vec<_> = rules
            .iter()
            .map(|(_, rule)| (rule.host.is_some(), rule.allows_connect()))
            .collect();
        assert_eq!(of, [(false, false), (true, false)]);
    }

    #[test]
    fn hosts_are_those_of_the_names() {
        let at = || At {
            path: String::new(),
            line: 1,
            column: 1,
        };
        let names = [
            (at(), FqdnSelector::MatchName("api.example.".into())),
            (at(), FqdnSelector::MatchPattern("*.shop.example.".into())),
            (at(), FqdnSelector::MatchPattern("**.deep.example.".into())),
        ];
        let rule = HttpRule {
            host: Some(host_of(&names)),
            ..HttpRule::default()
        };
        for host in [
            "api.example",
            "API.example:8080",
            "api.example.",
            "a.shop.example",
            "a.b.deep.example",
        ] {
            assert!(allows(&rule, host), "{host}");
        }
        for host in [
            "",
            "example",
            "xapi.example",
            "api.example.org",
            "a.b.shop.example",
            "deep.example",
            "apixexample",
            "api.example:",
            "api.example@evil",
        ] {
            assert!(!allows(&rule, host), "{host}");
        }
        let any = HttpRule {
            host: Some(host_of(&[(at(), FqdnSelector::MatchPattern("*.".into()))])),
            ..HttpRule::default()
        };
        assert!(allows(&any, "a.b.c:80"));
    }
}
