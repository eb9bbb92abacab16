//! Who is who: names for the numbers that kernel and proxy report.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidegate_policy::{
    compiled::{
        Compiled, CompiledEndpoint, CompiledService, EndpointId, Frontend, IdentityId, RuleId,
        RuleInfo,
    },
    shared::{Map, changes},
};

/// Names of one generation, immutable once built.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    identities: Map<IdentityId, Arc<[String]>>,
    endpoints: Map<EndpointId, Arc<CompiledEndpoint>>,
    /// Of this generation and of those before it.
    rules: Map<RuleId, Arc<RuleInfo>>,
    services: Map<(IpAddr, u16, u8), Arc<CompiledService>>,
    deny_list: Map<IpNet, RuleId>,
    /// What the names were taken from.
    frontends: Map<Frontend, Arc<CompiledService>>,
    now: Map<RuleId, Arc<RuleInfo>>,
}

impl Directory {
    /// Names of a compiled generation. Rules of `before` are kept, so that a record
    /// of a flow admitted under an earlier generation still finds its rule.
    pub fn new(compiled: &Compiled, before: Option<&Directory>) -> Self {
        let mut directory = before.cloned().unwrap_or_default();
        for change in changes(&directory.now, &compiled.rules) {
            let rule = change.now.cloned();
            directory.rules.extend(rule.map(|rule| (*change.key, rule)));
        }
        let frontends = std::mem::take(&mut directory.frontends);
        let different = || changes(&frontends, &compiled.services);
        for service in different().filter_map(|change| change.before) {
            directory.services.remove(&frontend(service));
        }
        for service in different().filter_map(|change| change.now) {
            let name = frontend(service);
            directory.services.insert(name, service.clone());
        }
        Self {
            identities: compiled.identities.clone(),
            endpoints: compiled.endpoints.clone(),
            deny_list: compiled.deny_list.clone(),
            frontends: compiled.services.clone(),
            now: compiled.rules.clone(),
            ..directory
        }
    }

    /// Labels of an identity; empty if unknown.
    pub fn labels(&self, identity: IdentityId) -> &[String] {
        self.identities
            .get(&identity)
            .map(|labels| &**labels)
            .unwrap_or_default()
    }

    /// `namespace/name` of a local endpoint.
    pub fn endpoint(&self, id: EndpointId) -> Option<&str> {
        self.endpoints.get(&id).map(|endpoint| &*endpoint.name)
    }

    /// Short texts of all rules, each once.
    pub fn rules(&self) -> std::collections::BTreeSet<String> {
        self.rules.values().map(|rule| rule.short()).collect()
    }

    /// Short text of a rule; a bare `rule N` if it is older than this agent remembers.
    pub fn rule(&self, id: RuleId) -> Option<String> {
        (id.is_some()).then(|| {
            self.rules
                .get(&id)
                .map_or_else(|| format!("rule {id}"), |rule| rule.short())
        })
    }

    /// The entry of the deny list that refuses what comes from this address: the longest
    /// prefix, as the kernel finds it. The rule is 0 if there is none any more.
    pub fn denying(&self, source: IpAddr) -> RuleId {
        let covering = self
            .deny_list
            .iter()
            .filter(|(net, _)| net.contains(&source));
        covering
            .max_by_key(|(net, _)| net.prefix_len())
            .map_or(RuleId(0), |(_, rule)| *rule)
    }

    /// Name of the service with this frontend.
    pub fn service(&self, addr: IpAddr, port: u16, protocol: u8) -> Option<&str> {
        self.services
            .get(&(addr, port, protocol))
            .map(|service| &*service.name)
    }
}

/// What a client asks for.
fn frontend(service: &CompiledService) -> (IpAddr, u16, u8) {
    (service.addr, service.port, service.protocol)
}

/// A name learned for an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LearnedName {
    /// The name, without its final dot.
    pub name: String,
    /// The address.
    pub address: IpAddr,
    /// How long the answer is good for, from now; 0 if it has expired.
    pub ttl_seconds: u64,
}

/// DNS names learned for addresses, for display; the kernel's `FQDN` table is what
/// decides. Bounded: the name that expires first makes room.
#[derive(Debug)]
pub struct LearnedNames {
    names: BTreeMap<(IpAddr, String), Instant>,
    capacity: usize,
    revision: u64,
}

impl LearnedNames {
    /// Room for `capacity` (address, name) pairs.
    pub fn new(capacity: usize) -> Self {
        Self {
            names: BTreeMap::new(),
            capacity,
            revision: 0,
        }
    }

    /// Remembers that `name` resolved to `addresses` (each with a TTL in seconds).
    pub fn learn(&mut self, now: Instant, name: &str, addresses: &[(IpAddr, u32)]) {
        self.revision += 1;
        for (addr, ttl) in addresses {
            let key = (*addr, name.trim_end_matches('.').to_owned());
            if self.names.len() >= self.capacity && !self.names.contains_key(&key) {
                self.make_room(now);
            }
            self.names
                .insert(key, now + Duration::from_secs(u64::from(*ttl)));
        }
    }

    /// Another number after every change.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    fn make_room(&mut self, now: Instant) {
        self.names.retain(|_, expiry| *expiry > now);
        if self.names.len() >= self.capacity
            && let Some(first) = self
                .names
                .iter()
                .min_by_key(|(_, at)| **at)
                .map(|(k, _)| k.clone())
        {
            self.names.remove(&first);
        }
    }

    /// Names learned for an address. A name stays visible past its TTL until room
    /// is needed: flows outlive answers.
    pub fn names(&self, addr: IpAddr) -> Vec<String> {
        self.names
            .range((addr, String::new())..)
            .take_while(|((a, _), _)| *a == addr)
            .map(|((_, name), _)| name.clone())
            .collect()
    }

    /// Addresses learned for a name, with or without its final dot, in any case.
    pub fn addresses(&self, name: &str) -> Vec<IpAddr> {
        let name = name.trim_end_matches('.');
        let known = self.names.keys();
        known
            .filter(|(_, known)| known.eq_ignore_ascii_case(name))
            .map(|(address, _)| *address)
            .collect()
    }

    /// Seconds until the last answer that gave this name to the address expires; `None` if
    /// it has.
    pub fn left(&self, now: Instant, name: &str, address: IpAddr) -> Option<u64> {
        let name = name.trim_end_matches('.');
        let of = self
            .names
            .iter()
            .filter(|((a, known), _)| *a == address && known.eq_ignore_ascii_case(name));
        let last = of.map(|(_, at)| *at).max()?;
        let left = last.checked_duration_since(now)?.as_secs();
        (left > 0).then_some(left)
    }

    /// Every name remembered, once.
    pub fn all_names(&self) -> std::collections::BTreeSet<&str> {
        self.names.keys().map(|(_, name)| name.as_str()).collect()
    }

    /// Everything remembered: address, name, seconds left (0 if expired).
    pub fn list(&self, now: Instant) -> Vec<(IpAddr, String, u64)> {
        self.names
            .iter()
            .map(|((addr, name), at)| {
                (
                    *addr,
                    name.clone(),
                    at.saturating_duration_since(now).as_secs(),
                )
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_that_expires_first_makes_room() {
        let now = Instant::now();
        let mut names = LearnedNames::new(2);
        let (a, b, c) = ("192.0.2.1", "192.0.2.2", "192.0.2.3");
        let ip = |s: &str| s.parse::<IpAddr>().expect("literal address");
        names.learn(now, "short.example.", &[(ip(a), 5)]);
        names.learn(now, "long.example.", &[(ip(b), 500)]);
        names.learn(now, "new.example.", &[(ip(c), 50)]);
        assert_eq!(names.names(ip(a)), Vec::<String>::new());
        assert_eq!(names.names(ip(b)), ["long.example"]);
        assert_eq!(names.names(ip(c)), ["new.example"]);
    }

    #[test]
    fn an_address_lists_every_name_it_was_learned_for() {
        let now = Instant::now();
        let mut names = LearnedNames::new(8);
        let ip: IpAddr = "192.0.2.1".parse().expect("literal address");
        names.learn(now, "b.example.", &[(ip, 5)]);
        names.learn(now, "a.example.", &[(ip, 5)]);
        assert_eq!(names.names(ip), ["a.example", "b.example"]);
        assert_eq!(names.list(now).len(), 2);
        assert_eq!(names.addresses("A.example."), [ip]);
        assert_eq!(names.left(now, "A.example.", ip), Some(5));
        let later = now + Duration::from_secs(5);
        assert_eq!(names.left(later, "a.example", ip), None, "expired");
        assert_eq!(names.addresses("c.example"), Vec::<IpAddr>::new());
    }
}
