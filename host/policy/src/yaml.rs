//! YAML text to a tree that remembers where everything was written.
//!
//! The readers walk this tree instead of deriving `Deserialize`: so one pass finds
//! every problem of a file, each with its line, and "absent", "null" and "empty"
//! stay three different things.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{Options, Spanned};

use crate::{
    origin::Origin,
    problem::{Problem, Severity},
};

/// A value and the place it was written at.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    /// What was written.
    pub(crate) value: Value,
    /// Line, from 1.
    pub(crate) line: u32,
    /// Column, from 1.
    pub(crate) column: u32,
}

/// A YAML value. Mappings keep the order of the file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
}

impl Node {
    /// The scalar as text, as it would be shown to a person; `None` for lists and mappings.
    pub(crate) fn scalar(&self) -> Option<String> {
        match &self.value {
            Value::Null => Some("null".to_owned()),
            Value::Bool(value) => Some(value.to_string()),
            Value::Int(value) => Some(value.to_string()),
            Value::Float(value) => Some(value.to_string()),
            Value::Text(value) => Some(value.clone()),
            Value::List(_) | Value::Map(_) => None,
        }
    }

    /// The kind of value, for "expected X, found Y".
    pub(crate) fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Int(_) | Value::Float(_) => "a number",
            Value::Text(_) => "a string",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// The same value as JSON. Keys become strings; numbers JSON cannot hold become null.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Int(value) => (*value).into(),
            Value::Float(value) => (*value).into(),
            Value::Text(value) => value.clone().into(),
            Value::List(items) => items.iter().map(Node::to_json).collect(),
            Value::Map(entries) => entries
                .iter()
                .map(|(key, value)| (key.scalar().unwrap_or_default(), value.to_json()))
                .collect(),
        }
    }
}

/// Reads all documents of a file; empty ones are skipped. Aliases are bounded, and a
/// duplicate key is an error.
pub(crate) fn parse(origin: &Origin, text: &str) -> Result<Vec<Node>, Box<Problem>> {
    serde_saphyr::from_multiple_with_options(text, options()).map_err(|error| {
        let at = error.location();
        Box::new(Problem {
            origin: Some(origin.clone()),
            document: None,
            line: at.map_or(1, |at| clamp(at.line())),
            column: at.map_or(1, |at| clamp(at.column())),
            field: String::new(),
            value: None,
            message: format!("not readable as YAML: {}", one_line(&error)),
            hint: None,
            severity: Severity::Error,
        })
    })
}

fn options() -> Options {
    serde_saphyr::options! {
        // `on`, `yes` and the like are words people use as label values.
        strict_booleans: true,
        with_snippet: false,
    }
}

/// The parser's message without its position, which the problem already carries.
fn one_line(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let text = text.lines().next().unwrap_or_default();
    // What follows these words speaks to programmers or repeats the position.
    let end = [" at line ", ", set "]
        .iter()
        .filter_map(|words| text.find(words))
        .min()
        .unwrap_or(text.len());
    text[..end].trim_end_matches(':').to_owned()
}

fn clamp(position: u64) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX).max(1)
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Node {
            value: spanned.value,
            line: clamp(spanned.referenced.line()),
            column: clamp(spanned.referenced.column()),
        })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or(Value::Float(value as f64), Value::Int))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Value::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_those_of_the_file() {
        let nodes = parse(&"f".into(), "a: 1\nb:\n  - x\n  - c: \"80\"\n---\nd: on\n").unwrap();
        assert_eq!(nodes.len(), 2);
        let Value::Map(entries) = &nodes[0].value else {
            panic!("{nodes:?}")
        };
        let (key, value) = &entries[1];
        assert_eq!((key.line, key.column), (2, 1));
        let Value::List(items) = &value.value else {
            panic!("{value:?}")
        };
        assert_eq!((items[0].line, items[0].column), (3, 5));
        let Value::Map(inner) = &items[1].value else {
            panic!("{items:?}")
        };
        assert_eq!(inner[0].1.value, Value::Text("80".to_owned()));
        assert_eq!((inner[0].1.line, inner[0].1.column), (4, 8));
        assert_eq!(nodes[1].to_json(), serde_json::json!({"d": "on"}));
    }

    #[test]
    fn syntax_errors_say_where() {
        let problem = parse(&"f.yaml".into(), "a: 1\na: 2\n").unwrap_err();
        assert_eq!(problem.line, 2, "{problem}");
        let problem = parse(&"f.yaml".into(), "a: 1\nb: [1, }\n").unwrap_err();
        assert_eq!(
            problem.to_string(),
            "f.yaml:2:4: not readable as YAML: mismatched bracket '[' closed by '}'"
        );
    }
}
