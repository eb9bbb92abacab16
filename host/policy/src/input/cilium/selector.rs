//! Label selectors, and what their surroundings add to them.

use std::collections::BTreeSet;

use super::super::reader::Cursor;
use crate::labels::{Key, NAMESPACE, Requirement, Selector};

/// What a selector is for; it decides what is added.
#[derive(Clone, Copy)]
pub(crate) enum Selecting<'a> {
    /// Endpoints the document applies to: those of its namespace, if it has one.
    Subject(Option<&'a str>),
    /// Peers, from a document with this namespace: those of the same namespace,
    /// unless the selector says something about namespaces or reserved labels.
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
    let mut selector = Selector::default();
    if let Some(labels) = fields.get("matchLabels") {
        for (key, value) in super::super::read_string_map(labels)? {
            let requirement = Requirement::equals(Key::parse(&key), &value);
            selector.requirements.push(requirement);
        }
    }
    for item in fields.items("matchExpressions").unwrap_or_default() {
        selector.requirements.push(read_expression(&item)?);
    }
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
        Selecting::Peers { .. } if selector.mentions_namespace() => {}
        Selecting::Peers { .. } if selector.mentions_reserved() => {}
        Selecting::Peers {
            namespace,
            subject_is_init,
        } => match namespace {
            Some(namespace) => selector.require_namespace(namespace),
            None if subject_is_init => {}
            None => selector
                .requirements
                .push(Requirement::Exists(Key::of("k8s", NAMESPACE))),
        },
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
    let key = Key::parse(fields.required("key")?.word()?);
    let operator = fields.required("operator")?.one_of(&[
        ("In", Operator::In),
        ("NotIn", Operator::NotIn),
        ("Exists", Operator::Exists),
        ("DoesNotExist", Operator::DoesNotExist),
    ])?;
    let items = fields.items("values").unwrap_or_default();
    let values: Option<BTreeSet<String>> =
        items.iter().map(|v| Some(v.text()?.to_owned())).collect();
    let values = values?;
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
