//! Names, places and frontends that may exist only once.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    compiled::Location,
    input::{Input, Meta},
    problem::Problem,
};

/// Finds what exists twice. The document that comes later in the input is the one at
/// fault: whoever was there first stays.
pub(super) fn check(input: &Input) -> Vec<Problem> {
    let mut problems = Vec::new();
    check_documents(input, &mut problems);
    check_locations(input, &mut problems);
    problems
}

/// What else is wrong with a document that exists already, as a copied file does, follows
/// from that: it is said once.
pub(super) fn say_once(problems: &mut Vec<Problem>) {
    type Place = (String, Option<String>);
    let place = |problem: &Problem| (problem.file.clone(), problem.document.clone());
    let again = |problem: &&Problem| problem.field == NAME && problem.message.contains(EXISTS);
    let doubled: BTreeSet<Place> = problems.iter().filter(again).map(place).collect();
    problems.retain(|problem| again(&problem) || !doubled.contains(&place(problem)));
}

const NAME: &str = "metadata.name";
const EXISTS: &str = "exists already in";

fn check_documents(input: &Input, problems: &mut Vec<Problem>) {
    let mut metas: Vec<&Meta> = Vec::new();
    metas.extend(input.endpoints.iter().map(|d| &d.meta));
    metas.extend(input.policies.iter().map(|d| &d.meta));
    metas.extend(input.services.iter().map(|d| &d.meta));
    metas.extend(input.deny_lists.iter().map(|d| &d.meta));
    metas.extend(input.bindings.iter().map(|d| &d.meta));
    let mut seen: BTreeMap<String, &Meta> = BTreeMap::new();
    for meta in metas {
        if let Some(first) = seen.get(&meta.key()) {
            problems.push(meta.problem(
                &meta.name_at,
                format!("{} {EXISTS} {}:{}", meta.key(), first.file, first.at.line),
                "give one of them another name",
            ));
        } else {
            seen.insert(meta.key(), meta);
        }
    }
}

fn check_locations(input: &Input, problems: &mut Vec<Problem>) {
    let mut seen: BTreeMap<(bool, &str), &Meta> = BTreeMap::new();
    for endpoint in &input.endpoints {
        let place = match &endpoint.location {
            Location::Interface(name) => (true, name.as_str()),
            Location::Cgroup(path) => (false, path.as_str()),
        };
        let at = &endpoint.location_at;
        if let Some(first) = seen.get(&place) {
            problems.push(endpoint.meta.problem(
                at,
                format!("{} already belongs to {}", place.1, first.full_name()),
                "one endpoint per place",
            ));
        } else {
            seen.insert(place, &endpoint.meta);
        }
    }
}
