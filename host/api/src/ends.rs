//! The ends of a flow by the names people have for them.

use std::{collections::BTreeSet, net::IpAddr};

use tidegate_control::view::{EndpointView, PortView, ServiceView, View};
use tidegate_ebpf_shared::{addr::proto, identity::reserved, limits::FQDN_GRACE};
use tidegate_observe::{directory::LearnedNames, similar::similar};
use tidegate_policy::compiled::{AddrIdentity, EndpointId, FqdnSelector, IdentityId, Location};
/// What people may call an end.
pub(super) struct Names<'a> {
    pub(super) view: &'a View,
    pub(super) learned: &'a LearnedNames,
}

/// One end of the question.
#[derive(Clone, Debug, Default)]
pub(super) struct End {
    /// Addresses it has, or that stand for it.
    pub(super) addresses: Vec<IpAddr>,
    /// Endpoint id of a host service that was named, else 0.
    pub(super) host_service: EndpointId,
    /// How the name was understood, where that is not plain.
    pub(super) notes: Vec<String>,
    /// Ports it has names for.
    ports: Vec<PortView>,
    /// Ports with names of the service that is called the same, if this is an endpoint.
    namesake: Vec<PortView>,
    /// Ports it has, if it is a service.
    frontends: BTreeSet<(u8, u16)>,
    /// As it was asked for.
    asked: String,
}

/// Entities one can be, and the identities behind each. The others of Cilium's are
/// nobody on a node that runs alone.
const ENTITIES: [(&str, &[IdentityId]); 4] = [
    ("host", &[IdentityId(reserved::HOST)]),
    (
        "world",
        &[
            IdentityId(reserved::WORLD),
            IdentityId(reserved::WORLD_IPV4),
            IdentityId(reserved::WORLD_IPV6),
        ],
    ),
    ("world-ipv4", &[IdentityId(reserved::WORLD_IPV4)]),
    ("world-ipv6", &[IdentityId(reserved::WORLD_IPV6)]),
];

/// Entities that are several at once, or nobody here.
const NOT_ONE: [(&str, &str); 9] = [
    ("all", "is everybody"),
    ("cluster", "is every endpoint and the node"),
    ("remote-node", "is nobody on a node that runs alone"),
    ("health", "is nobody on a node that runs alone"),
    ("init", "is nobody on a node that runs alone"),
    ("unmanaged", "is nobody on a node that runs alone"),
    ("kube-apiserver", "is nobody on a node that runs alone"),
    ("ingress", "is nobody on a node that runs alone"),
    ("none", "is nobody"),
];

/// Addresses that may stand for the world outside: of documentation (RFC 5737, RFC
/// 3849) first, then of well-known resolvers, in case rules name the former.
const OUTSIDE: [IpAddr; 8] = [
    IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 1)),
    IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 1)),
    IpAddr::V4(std::net::Ipv4Addr::new(9, 9, 9, 9)),
    IpAddr::V4(std::net::Ipv4Addr::new(8, 8, 4, 4)),
    IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    IpAddr::V6(std::net::Ipv6Addr::new(0x2620, 0xfe, 0, 0, 0, 0, 0, 0xfe)),
    IpAddr::V6(std::net::Ipv6Addr::new(
        0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8844,
    )),
];

impl Names<'_> {
    /// An address, an endpoint, a service, an entity or a DNS name, tried in this order. What
    /// it is may be said: `endpoint:web`, `service:web` or `svc/web`.
    ///
    /// # Errors
    ///
    /// A line that names the field, what was written, and what may have been meant.
    pub(super) fn end(&self, field: &'static str, text: &str) -> Result<End, String> {
        let (kind, name) = kind(text);
        if let Some(kind) = kind.filter(|_| !self.is_declared(text)) {
            let found = self.of_kind(field, kind, name)?;
            return found
                .map(|end| End {
                    asked: text.to_owned(),
                    ..end
                })
                .ok_or_else(|| {
                    let (noun, names) = match kind {
                        Kind::Endpoint => ("endpoint", self.endpoint_names()),
                        Kind::Service => ("service", self.service_names()),
                    };
                    let meant = match similar(name, names) {
                        Some(other) => format!("; did you mean {other:?}?"),
                        None => format!("; see `tidegate {noun} list`"),
                    };
                    format!("{field}: no {noun} is called {name:?}{meant}")
                });
        }
        let end = match text.parse::<IpAddr>() {
            Ok(address) => Some(self.address(address)),
            Err(_) => None,
        };
        let end = match end {
            Some(end) => end,
            None => match self.declared(field, text)? {
                Some(end) => end,
                None => match self.entity(field, text)? {
                    Some(end) => end,
                    None => self.dns_name(field, text)?,
                },
            },
        };
        Ok(End {
            asked: text.to_owned(),
            ..end
        })
    }

    fn address(&self, address: IpAddr) -> End {
        let owner = self.view.endpoints.iter();
        let mut owner = owner.filter(|e| e.addresses.contains(&address));
        End {
            addresses: vec![address],
            ports: owner.next().map(|e| e.ports.clone()).unwrap_or_default(),
            frontends: frontends(self.view.services().filter(|s| s.addr == address)),
            ..End::default()
        }
    }

    fn endpoint_names(&self) -> BTreeSet<&str> {
        self.view
            .endpoints
            .iter()
            .map(|e| e.name.as_str())
            .collect()
    }

    fn service_names(&self) -> BTreeSet<&str> {
        let services = self.view.services();
        services.map(|s| service_name(&s.name)).collect()
    }

    /// Is an endpoint or a service called this, letter by letter?
    fn is_declared(&self, text: &str) -> bool {
        self.endpoint_names().contains(text) || self.service_names().contains(text)
    }

    /// An endpoint, else a service, with or without its namespace. That there is also a
    /// service of the name is said where it could have been meant.
    fn declared(&self, field: &str, text: &str) -> Result<Option<End>, String> {
        let Some(mut end) = self.of_kind(field, Kind::Endpoint, text)? else {
            return self.of_kind(field, Kind::Service, text);
        };
        let mut services = self.service_names().into_iter();
        let service = services.find(|name| field == "to" && is_called(name, text));
        if let Some(service) = service {
            end.namesake = self.of_service(service).ports;
            end.notes.push(format!(
                "{text} is an endpoint and a service: this is about the endpoint; for the \
                 service ask `service:{text}`"
            ));
        }
        Ok(Some(end))
    }

    /// An endpoint or a service, as asked.
    fn of_kind(&self, field: &str, kind: Kind, text: &str) -> Result<Option<End>, String> {
        let found: Vec<(&str, End)> = match kind {
            Kind::Endpoint => {
                let endpoints = self.view.endpoints.iter();
                let named = endpoints.filter(|e| is_called(&e.name, text));
                named
                    .map(|e| (e.name.as_str(), self.of_endpoint(e)))
                    .collect()
            }
            Kind::Service => {
                let named = self.service_names().into_iter();
                let named = named.filter(|name| is_called(name, text));
                named.map(|name| (name, self.of_service(name))).collect()
            }
        };
        match found.as_slice() {
            [(name, _), ..] if kind == Kind::Service && field == "from" => Err(format!(
                "{field}: {name} is a service, which opens no connections; name the endpoint \
                 that does"
            )),
            [(_, end)] if !end.addresses.is_empty() => Ok(Some(end.clone())),
            [(name, _)] => Err(format!("{field}: {name} has no address")),
            [] => Ok(None),
            several => Err(format!(
                "{field}: {text:?} is ambiguous; use one of: {}",
                list(several.iter().map(|(name, _)| *name))
            )),
        }
    }

    /// A host service without addresses of its own has the node's.
    fn of_endpoint(&self, endpoint: &EndpointView) -> End {
        let shared = matches!(endpoint.location, Location::Cgroup(_));
        End {
            addresses: if shared && endpoint.addresses.is_empty() {
                self.having(&[IdentityId(reserved::HOST)])
            } else {
                endpoint.addresses.clone()
            },
            host_service: if shared { endpoint.id } else { EndpointId(0) },
            ports: endpoint.ports.clone(),
            ..End::default()
        }
    }

    fn of_service(&self, name: &str) -> End {
        let of_name = || {
            let all = self.view.services();
            all.filter(move |s| service_name(&s.name) == name)
        };
        let mut addresses = Vec::new();
        for service in of_name() {
            if !addresses.contains(&service.addr) {
                addresses.push(service.addr);
            }
        }
        let port = |service: &ServiceView| {
            Some(PortView {
                name: service.port_name.clone()?,
                port: service.port,
                protocol: service.protocol,
            })
        };
        End {
            addresses,
            ports: of_name().filter_map(port).collect(),
            frontends: frontends(of_name()),
            ..End::default()
        }
    }

    fn entity(&self, field: &str, text: &str) -> Result<Option<End>, String> {
        let name = text.strip_prefix("reserved:").unwrap_or(text);
        let known = || list(ENTITIES.iter().map(|(name, _)| *name));
        if let Some((_, why)) = NOT_ONE.iter().find(|(other, _)| *other == name) {
            return Err(format!(
                "{field}: entity {name:?} {why}; ask about an endpoint, or one of: {}",
                known()
            ));
        }
        let Some((_, identities)) = ENTITIES.iter().find(|(entity, _)| *entity == name) else {
            return Ok(None);
        };
        if name == "host" {
            return Ok(Some(End {
                addresses: self.having(identities),
                ..End::default()
            }));
        }
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in OUTSIDE {
            let first = addresses.iter().all(|a| a.is_ipv4() != address.is_ipv4());
            let plain = self
                .identity(address)
                .is_some_and(|i| identities.contains(&i));
            let denied = self.view.compiled.deny_list.keys();
            let is_denied = { denied }.any(|net| net.contains(&address));
            if first && plain && !is_denied && self.learned.names(address).is_empty() {
                addresses.push(address);
            }
        }
        if addresses.is_empty() {
            return Err(format!(
                "{field}: rules or deny lists name every address that could stand for {name:?}; ask about an address"
            ));
        }
        let standing = list(addresses.iter().map(ToString::to_string));
        let note = format!(
            "`{name}` stands for any address no CIDR or name rule and no deny list covers, here {standing}"
        );
        Ok(Some(End {
            addresses,
            notes: vec![note],
            ..End::default()
        }))
    }

    /// A name that was learned through the DNS proxy.
    fn dns_name(&self, field: &str, text: &str) -> Result<End, String> {
        let addresses = self.learned.addresses(text);
        if !addresses.is_empty() {
            let now = std::time::Instant::now();
            let known =
                list(addresses.iter().map(
                    |address| match self.learned.left(now, text, *address) {
                        Some(left) => format!("{address} ({left} s left)"),
                        None => format!(
                            "{address} (expired; {FQDN_GRACE} s later it opens nothing new)"
                        ),
                    },
                ));
            return Ok(End {
                addresses,
                notes: vec![format!("{text} was learned as {known}")],
                ..End::default()
            });
        }
        let written = format!("{}.", text.trim_end_matches('.').to_ascii_lowercase());
        let in_a_rule =
            self.view.compiled.fqdn.values().any(
                |selector| matches!(selector, FqdnSelector::MatchName(name) if *name == written),
            );
        if in_a_rule {
            return Err(format!(
                "{field}: {text} stands in a toFQDNs rule, but no allowed answer for it has passed \
                 the proxy yet, so it opens no address; look it up from the workload, or ask \
                 `tidegate explain WHO DNS-SERVER dns {text}`"
            ));
        }
        Err(format!(
            "{field}: no endpoint, service, entity or learned DNS name is called {text:?}{}",
            self.suggestion(text)
        ))
    }

    fn suggestion(&self, text: &str) -> String {
        let endpoints = self.view.endpoints.iter().map(|e| e.name.as_str());
        let services = self.view.services().map(|s| service_name(&s.name));
        let entities = ENTITIES.iter().map(|(name, _)| *name);
        let learned = self.learned.all_names();
        let all: Vec<&str> = endpoints
            .chain(services)
            .chain(entities)
            .chain(learned)
            .collect();
        match similar(text, all) {
            Some(name) => format!("; did you mean {name:?}?"),
            None => "; see `tidegate endpoint list`, `service list` and `fqdn list`".to_owned(),
        }
    }

    /// Addresses with one of these identities, loopback excepted, which no other end has.
    fn having(&self, identities: &[IdentityId]) -> Vec<IpAddr> {
        let entries = self.view.compiled.ipcache.iter();
        entries
            .filter(|(_, entry)| identities.contains(&entry.identity))
            .map(|(net, _)| net.addr())
            .filter(|address| !address.is_loopback())
            .collect()
    }

    /// Identity of an address, by the longest prefix.
    fn identity(&self, address: IpAddr) -> Option<IdentityId> {
        let entries = self.view.compiled.ipcache.iter();
        entries
            .filter(|(net, _)| net.contains(&address))
            .max_by_key(|(net, _)| net.prefix_len())
            .map(|(_, AddrIdentity { identity, .. })| *identity)
    }
}

impl End {
    /// A port by number or name: its protocol, if its name says it, and its number.
    ///
    /// # Errors
    ///
    /// A line that names the port and the names there are.
    pub(super) fn port(
        &self,
        text: &str,
        protocol: Option<u8>,
    ) -> Result<(Option<u8>, u16), String> {
        if text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
            return number(text, protocol).map(|number| (None, number));
        }
        let named = self.ports.iter().filter(|port| {
            port.name.eq_ignore_ascii_case(text) && protocol.is_none_or(|p| p == port.protocol)
        });
        if let Some(port) = named.min_by_key(|port| port.protocol) {
            return Ok((Some(port.protocol), port.port));
        }
        let known: BTreeSet<&str> = self.ports.iter().map(|port| port.name.as_str()).collect();
        let known = match known.is_empty() {
            true => "it has no ports with names; use a number".to_owned(),
            false => format!("use a number or one of: {}", list(known)),
        };
        let end = &self.asked;
        let mut namesake = self.namesake.iter();
        let of_service = match namesake.any(|port| port.name.eq_ignore_ascii_case(text)) {
            true => format!("; the service of that name has it: ask `svc/{end}:{text}`"),
            false => String::new(),
        };
        Err(format!(
            "port: {text:?} is no port of {end:?}; {known}{of_service}"
        ))
    }

    /// The port of a service that has only one.
    pub(super) fn only_port(&self, protocol: Option<u8>) -> Option<(u8, u16)> {
        let mut ports = self.frontends.iter();
        let mut ports = ports
            .by_ref()
            .filter(|(of, _)| protocol.is_none_or(|p| p == *of));
        match (ports.next(), ports.next()) {
            (Some(only), None) => Some(*only),
            _ => None,
        }
    }
}

/// What somebody says that a name is of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Endpoint,
    Service,
}

/// `endpoint:web`, `service:web`, `svc/web`: what it is said to be, and the name.
fn kind(text: &str) -> (Option<Kind>, &str) {
    for (prefix, kind) in [
        ("endpoint:", Kind::Endpoint),
        ("service:", Kind::Service),
        ("svc/", Kind::Service),
    ] {
        if let Some(name) = text.strip_prefix(prefix) {
            return (Some(kind), name);
        }
    }
    (None, text)
}

/// Is this `namespace/name` meant by `text`, which may leave the namespace out?
fn is_called(name: &str, text: &str) -> bool {
    name == text || name.split('/').next_back() == Some(text)
}

/// A port by its number; for ICMP the type, which is a byte.
fn number(text: &str, protocol: Option<u8>) -> Result<u16, String> {
    let (what, least, most) = match protocol {
        Some(proto::ICMP | proto::ICMPV6) => ("ICMP type", 0, u16::from(u8::MAX)),
        _ => ("port", 1, u16::MAX),
    };
    let number = text.parse::<u16>().ok();
    number
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| format!("port: {text} is no {what}; use a number from {least} to {most}"))
}

fn frontends<'a>(services: impl Iterator<Item = &'a ServiceView>) -> BTreeSet<(u8, u16)> {
    services.map(|s| (s.protocol, s.port)).collect()
}

/// A compiled service carries its port's name behind a colon if it has several ports.
fn service_name(name: &str) -> &str {
    name.split_once(':').map_or(name, |(name, _)| name)
}

fn list<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> String {
    let names: Vec<T> = names.into_iter().collect();
    names
        .iter()
        .map(AsRef::as_ref)
        .collect::<Vec<_>>()
        .join(", ")
}
