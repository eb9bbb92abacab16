//! Label selectors, and what their surroundings add to them.

use std::collections::BTreeSet;

use super::super::{
    KEY_HINT, read_label_value,
    reader::{Cursor, all, optional},
};
use crate::labels::{Key, NAMESPACE, Requirement, Selector};

/// What a selector is for; it decides what is added.
#[derive(Clone, Copy)]
pub(crate) enum Selecting<'a> {
    /// Endpoints the document applies to: those of its namespace, if it has one.
    Subject(Option<&'a str>),
    /// Peers, from a document with this namespace: endpoints of the same namespace and
    /// of this cluster, as far as the selector does not itself say which, or names a
    /// reserved label.
    Peers {
        /// Namespace of the document.
        namespace: Option<&'a str>,
        /// Nothing is added where the subject is an endpoint without labels.
        subject_is_init: bool,
    },
}

/// Reads a selector.
pub(crate) fn read(cursor: &Cursor<'_>, selecting: Selecting<'_>) -> Option<Selector> {
    let fields = cursor.fields(&["matchLabels", "matchExpressions"])?;
    let labels = optional(
        fields.get("matchLabels"),
        Vec::new(),
        super::super::read_label_map,
    );
    let expressions = fields.items("matchExpressions").unwrap_or_default();
    let expressions = all(expressions.iter().map(read_expression));
    let labels = labels?.into_iter();
    let labels = labels.map(|(key, value)| Requirement::equals(key, &value));
    let mut selector = Selector {
        requirements: labels.chain(expressions?).collect(),
    };
    add_scope(&mut selector, cursor, selecting);
    Some(selector)
}

fn add_scope(selector: &mut Selector, cursor: &Cursor<'_>, selecting: Selecting<'_>) {
    match selecting {
        Selecting::Subject(None) => {}
        Selecting::Subject(Some(namespace)) => {
            let of_namespace = |r: &Requirement| r.key().key == NAMESPACE;
            let own = Requirement::equals(Key::of("k8s", NAMESPACE), namespace);
            if selector
                .requirements
                .iter()
                .any(|r| of_namespace(r) && *r != own)
            {
                cursor.warn(
                    format!("selects another namespace than the policy's; {namespace} is taken"),
                    "a policy applies to endpoints of its own namespace only",
                );
            }
            selector.requirements.retain(|r| !of_namespace(r));
            selector.require_namespace(namespace);
        }
        Selecting::Peers {
            namespace,
            subject_is_init,
        } => add_peer_scope(selector, cursor, namespace, subject_is_init),
    }
}

/// What Cilium adds to every peer selector (`getEndpointSelector`): the namespace if
/// none is named, and the cluster if none is named. So whatever a selector says of
/// labels that are *absent*, it speaks of endpoints, never of the world or the node;
/// only one that names a reserved label is taken as it stands.
fn add_peer_scope(
    selector: &mut Selector,
    cursor: &Cursor<'_>,
    namespace: Option<&str>,
    subject_is_init: bool,
) {
    if selector.mentions(Key::is_reserved) {
        if !selector.requirements.iter().any(Requirement::demands_key) {
            cursor.warn(
                "selects the world outside too: nothing it asks for has to be there",
                "add the label the peers have, or name them by fromEntities or toEntities",
            );
        }
        return;
    }
    if !selector.mentions(Key::is_namespace) {
        match namespace {
            Some(_) if selector.mentions(Key::is_namespace_label) => {}
            Some(namespace) => selector.require_namespace(namespace),
            None if subject_is_init => {}
            None => selector
                .requirements
                .push(Requirement::Exists(Key::of("k8s", NAMESPACE))),
        }
    }
    if !selector.mentions(Key::is_cluster) {
        selector.require_local_cluster();
    }
}

fn read_expression(cursor: &Cursor<'_>) -> Option<Requirement> {
    #[derive(Clone, Copy)]
    enum Operator {
        In,
        NotIn,
        Exists,
        DoesNotExist,
    }
    let fields = cursor.fields(&["key", "operator", "values"])?;
    let key = fields.required("key").and_then(|at| {
        let parsed = Key::parse(at.word()?);
        let complain = |reason: &String| {
            at.error(format!("not the key of a label: {reason}"), KEY_HINT);
        };
        parsed.inspect_err(complain).ok()
    });
    let operator = fields.required("operator").and_then(|operator| {
        operator.one_of(&[
            ("In", Operator::In),
            ("NotIn", Operator::NotIn),
            ("Exists", Operator::Exists),
            ("DoesNotExist", Operator::DoesNotExist),
        ])
    });
    let items = fields.items("values").unwrap_or_default();
    let values = all(items.iter().map(read_label_value));
    let (key, operator) = (key?, operator?);
    let values: BTreeSet<String> = values?.into_iter().collect();
    let wants_values = matches!(operator, Operator::In | Operator::NotIn);
    if wants_values && values.is_empty() {
        cursor.error("In and NotIn need `values`", "");
        return None;
    }
    if !wants_values && !values.is_empty() {
        cursor.error("Exists and DoesNotExist take no `values`", "");
        return None;
    }
    Some(match operator {
        Operator::In => Requirement::In(key, values),
        Operator::NotIn => Requirement::NotIn(key, values),
        Operator::Exists => Requirement::Exists(key),
        Operator::DoesNotExist => Requirement::DoesNotExist(key),
    })
}
