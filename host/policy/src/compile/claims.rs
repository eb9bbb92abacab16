//! Names, places, addresses and frontends: what may exist only once.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{News, services};
use crate::{
    follow::Delta,
    objects::{Endpoint, Input, Meta, Service},
    origin::{ObjectKey, Origin},
    problem::Problem,
    protocol,
    terms::Location,
};

/// How often each thing is claimed that belongs to one document.
#[derive(Debug, Default)]
pub(super) struct Claims {
    times: HashMap<Claim, usize>,
    /// Things that are claimed more than once.
    contested: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Claim {
    Name(ObjectKey),
    Place(Location),
    Address(IpAddr),
    Frontend(SocketAddr, u8),
}

impl Claims {
    /// Takes in what came and went. Is everything claimed once?
    pub(super) fn follow(&mut self, news: &News) -> bool {
        let (come, gone) = Self::of(news);
        self.exchange(come, gone);
        self.contested == 0
    }

    /// Undoes [`Claims::follow`].
    pub(super) fn forget(&mut self, news: &News) {
        let (come, gone) = Self::of(news);
        self.exchange(gone, come);
    }

    fn exchange(&mut self, come: Vec<Claim>, gone: Vec<Claim>) {
        for claim in gone {
            if let Some(times) = self.times.get_mut(&claim) {
                *times -= 1;
                match *times {
                    0 => _ = self.times.remove(&claim),
                    1 => self.contested -= 1,
                    _ => {}
                }
            }
        }
        for claim in come {
            let times = self.times.entry(claim).or_default();
            *times += 1;
            if *times == 2 {
                self.contested += 1;
            }
        }
    }

    /// What came and what went of claims.
    fn of(news: &News) -> (Vec<Claim>, Vec<Claim>) {
        let (mut come, mut gone) = (Vec::new(), Vec::new());
        let mut add = |list: fn(&News, bool) -> Vec<Claim>| {
            come.extend(list(news, true));
            gone.extend(list(news, false));
        };
        add(|news, came| each(&news.endpoints, came).flat_map(of_endpoint).collect());
        add(|news, came| each(&news.services, came).flat_map(of_service).collect());
        add(|news, came| each(&news.policies, came).map(|p| name(&p.meta)).collect());
        add(|news, came| each(&news.lists, came).map(|l| name(&l.meta)).collect());
        add(|news, came| each(&news.bindings, came).map(|b| name(&b.meta)).collect());
        (come, gone)
    }
}

fn each<T>(delta: &Delta<T>, came: bool) -> std::slice::Iter<'_, Arc<T>> {
    match came {
        true => delta.come.iter(),
        false => delta.gone.iter(),
    }
}

fn name(meta: &Meta) -> Claim {
    Claim::Name(meta.key().claim())
}

fn of_endpoint(endpoint: &Arc<Endpoint>) -> Vec<Claim> {
    let own = [
        name(&endpoint.meta),
        Claim::Place(endpoint.location.clone()),
    ];
    // One that is listed twice by the same endpoint is contested, too.
    let addresses = endpoint.addresses.iter().copied().map(Claim::Address);
    own.into_iter().chain(addresses).collect()
}

fn of_service(service: &Arc<Service>) -> Vec<Claim> {
    let frontends = frontends(service).map(|(frontend, protocol, _)| (frontend, protocol));
    let frontends = frontends.map(|(frontend, protocol)| Claim::Frontend(frontend, protocol));
    std::iter::once(name(&service.meta))
        .chain(frontends)
        .collect()
}

/// Finds what exists twice. The document that comes later in the input is the one at
/// fault: whoever was there first stays.
pub(super) fn problems(input: &Input) -> Vec<Problem> {
    let mut problems = Vec::new();
    check_documents(input, &mut problems);
    check_locations(input, &mut problems);
    check_addresses(input, &mut problems);
    check_frontends(input, &mut problems);
    say_once(&mut problems);
    problems
}

/// What else is wrong with a document that exists already, as a copied file does, follows
/// from that: it is said once.
fn say_once(problems: &mut Vec<Problem>) {
    type Place = (Option<Origin>, Option<ObjectKey>);
    let place = |problem: &Problem| (problem.origin.clone(), problem.document.clone());
    let again = |problem: &&Problem| problem.field == NAME && problem.message.contains(EXISTS);
    let doubled: BTreeSet<Place> = problems.iter().filter(again).map(place).collect();
    problems.retain(|problem| again(&problem) || !doubled.contains(&place(problem)));
}

const NAME: &str = "metadata.name";
const EXISTS: &str = "exists already in";

fn check_documents(input: &Input, problems: &mut Vec<Problem>) {
    let mut metas: Vec<&Meta> = Vec::new();
    metas.extend(input.endpoints.values().map(|d| &d.meta));
    metas.extend(input.policies.values().map(|d| &d.meta));
    metas.extend(input.services.values().map(|d| &d.meta));
    metas.extend(input.deny_lists.values().map(|d| &d.meta));
    metas.extend(input.bindings.values().map(|d| &d.meta));
    let mut seen: BTreeMap<ObjectKey, &Meta> = BTreeMap::new();
    for meta in metas {
        if let Some(first) = seen.get(&meta.key().claim()) {
            problems.push(meta.problem(
                &meta.name_at,
                format!(
                    "{} {} {EXISTS} {}:{}",
                    meta.kind,
                    meta.full_name(),
                    first.origin,
                    first.at.line
                ),
                "give one of them another name",
            ));
        } else {
            seen.insert(meta.key().claim(), meta);
        }
    }
}

fn check_locations(input: &Input, problems: &mut Vec<Problem>) {
    let mut seen: HashMap<&Location, &Meta> = HashMap::new();
    for endpoint in input.endpoints.values() {
        let at = &endpoint.location_at;
        if let Some(first) = seen.get(&endpoint.location) {
            let (Location::Interface(place) | Location::Cgroup(place)) = &endpoint.location;
            problems.push(endpoint.meta.problem(
                at,
                format!("{place} already belongs to {}", first.full_name()),
                "one endpoint per place",
            ));
        } else {
            seen.insert(&endpoint.location, &endpoint.meta);
        }
    }
}

fn check_addresses(input: &Input, problems: &mut Vec<Problem>) {
    let mut owners: HashMap<IpAddr, &Endpoint> = HashMap::new();
    for endpoint in input.endpoints.values() {
        for (address, at) in endpoint.addresses() {
            if let Some(owner) = owners.get(&address) {
                problems.push(endpoint.meta.problem(
                    at,
                    format!("{address} already belongs to {}", owner.meta.full_name()),
                    "an address belongs to one endpoint",
                ));
            } else {
                owners.insert(address, endpoint);
            }
        }
    }
}

fn check_frontends(input: &Input, problems: &mut Vec<Problem>) {
    let mut owners: HashMap<(SocketAddr, u8), String> = HashMap::new();
    for service in input.services.values() {
        for (frontend, transport, port) in frontends(service) {
            if let Some(owner) = owners.get(&(frontend, transport)) {
                problems.push(service.meta.problem(
                    &port.port_at,
                    format!(
                        "{frontend}/{} already belongs to {owner}",
                        protocol::name(transport)
                    ),
                    "a frontend belongs to one service",
                ));
            } else {
                owners.insert((frontend, transport), services::full_name(service, port));
            }
        }
    }
}

/// Addresses and ports of a service, each with the port that says so.
fn frontends(
    service: &Service,
) -> impl Iterator<Item = (SocketAddr, u8, &crate::objects::ServicePort)> {
    service.ports.iter().flat_map(|port| {
        let addresses = service.addresses.iter();
        addresses
            .map(move |(_, address)| (SocketAddr::new(*address, port.port), port.protocol, port))
    })
}
