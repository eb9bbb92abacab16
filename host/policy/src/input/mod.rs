//! Files as people write them: documents, and everything they mean together.

mod binding;
pub(crate) mod cilium;
mod deny_list;
mod endpoint;
mod http_options;
mod meta;
mod reader;
mod service;
mod values;

use std::sync::Arc;

pub(crate) use self::{
    meta::{ENFORCEMENT, ENFORCEMENTS, FOREIGN_METADATA, HOLD_NAMES, HOLDS},
    values::parse_net,
};
use self::{
    meta::{Heading, Scope, read_meta},
    reader::{Cursor, Findings, or_one_of},
    values::{
        KEY_HINT, read_addr, read_label_map, read_label_value, read_net, read_protocol,
        read_string_map,
    },
};
use crate::{
    objects::{Body, Document},
    origin::Origin,
    problem::Problem,
    yaml,
};

/// Reads all documents of one origin. Any error refuses it as a whole; all
/// errors that can be found are reported together.
pub fn parse_file(origin: impl Into<Origin>, text: &str) -> Result<Vec<Document>, Vec<Problem>> {
    match read_file(origin, text) {
        (documents, errors) if errors.is_empty() => Ok(documents),
        (_, errors) => Err(errors),
    }
}

/// As [`parse_file`], and beside the errors those documents that have none: they do not count,
/// but what else is wrong with them need not wait to be told.
pub fn read_file(origin: impl Into<Origin>, text: &str) -> (Vec<Document>, Vec<Problem>) {
    let origin = &origin.into();
    let nodes = match yaml::parse(origin, text) {
        Ok(nodes) => nodes,
        Err(problem) => return (Vec::new(), vec![*problem]),
    };
    let mut documents = Vec::new();
    let mut errors = Vec::new();
    for node in &nodes {
        let findings = Findings::new(origin);
        let body = read_document(origin, &Cursor::root(node, &findings));
        let (found, warnings) = findings.take();
        // What was read around an error may say something else than was meant.
        let body = body.filter(|_| found.is_empty());
        errors.extend(found);
        documents.extend(body.map(|body| Document { body, warnings }));
    }
    (documents, errors)
}

pub(crate) const CILIUM: &str = "cilium.io/v2";
pub(crate) const TIDEGATE: &str = "tidegate.io/v1alpha1";

fn read_document(origin: &Origin, root: &Cursor<'_>) -> Option<Body> {
    let entries = root.entries()?;
    let field = |name: &str| entries.iter().find(|(key, _)| key == name).map(|(_, c)| c);
    let (Some(version), Some(kind)) = (field("apiVersion"), field("kind")) else {
        root.error(
            "`apiVersion` and `kind` must say what this document is",
            &format!("e.g. apiVersion: {CILIUM}, kind: CiliumNetworkPolicy"),
        );
        return None;
    };
    let heading = |kind_name, scope| Heading {
        origin,
        kind: kind_name,
        kind_at: kind.at(),
        scope,
    };
    let (version_name, kind_name) = (version.text(), kind.text());
    match (version_name?, kind_name?) {
        (CILIUM, "CiliumNetworkPolicy") => {
            let heading = heading("CiliumNetworkPolicy", Scope::OptionalNamespace);
            cilium::read(root, &heading).map(|read| Body::Policy(Arc::new(read)))
        }
        (CILIUM, "CiliumClusterwideNetworkPolicy") => {
            let heading = heading("CiliumClusterwideNetworkPolicy", Scope::Cluster);
            cilium::read(root, &heading).map(|read| Body::Policy(Arc::new(read)))
        }
        (TIDEGATE, "Endpoint") => {
            endpoint::read(root, &heading("Endpoint", Scope::DefaultNamespace))
                .map(|read| Body::Endpoint(Arc::new(read)))
        }
        (TIDEGATE, "Service") => service::read(root, &heading("Service", Scope::DefaultNamespace))
            .map(|read| Body::Service(Arc::new(read))),
        (TIDEGATE, "DenyList") => deny_list::read(root, &heading("DenyList", Scope::Cluster))
            .map(|read| Body::DenyList(Arc::new(read))),
        (TIDEGATE, "PluginBinding") => {
            binding::read(root, &heading("PluginBinding", Scope::DefaultNamespace))
                .map(|read| Body::PluginBinding(Arc::new(read)))
        }
        (_, name) => {
            match KINDS.iter().find(|(_, known)| *known == name) {
                Some((right, _)) => version.error(
                    format!("not the version of {name}"),
                    &format!("write apiVersion: {right}"),
                ),
                None => {
                    let known: Vec<&str> = KINDS.iter().map(|(_, known)| *known).collect();
                    kind.error("no such kind", &or_one_of(name, &known));
                }
            }
            None
        }
    }
}

/// Every kind, with its version.
const KINDS: [(&str, &str); 6] = [
    (CILIUM, "CiliumNetworkPolicy"),
    (CILIUM, "CiliumClusterwideNetworkPolicy"),
    (TIDEGATE, "Endpoint"),
    (TIDEGATE, "Service"),
    (TIDEGATE, "DenyList"),
    (TIDEGATE, "PluginBinding"),
];
