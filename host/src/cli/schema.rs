//! The JSON Schema of what each command prints with `-o json`, made from the types it
//! prints, and held against `docs/schemas/output`.

use std::collections::BTreeMap;
use tidegate_policy::compiled::IdentityId;

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::Value;
use tidegate_control::view::{
    BindingView, EndpointView, PluginView, PolicyView, ServiceView, View,
};
use tidegate_observe::{directory::LearnedName, explain::Explanation, record::Line};

use super::{
    author::{Cost, Inspected, Report},
    config::Checked,
    version::Facts,
};

/// Command, with dashes for blanks, and the schema of its output; for `observe` of a line.
fn outputs() -> Vec<(&'static str, Value)> {
    vec![
        ("status", of::<View>("tidegate status")),
        ("observe", of::<Line>("A line of tidegate observe")),
        ("explain", of::<Explanation>("tidegate explain")),
        (
            "endpoint-list",
            of::<Vec<EndpointView>>("tidegate endpoint list"),
        ),
        (
            "identity-list",
            of::<BTreeMap<IdentityId, Vec<String>>>("tidegate identity list"),
        ),
        (
            "service-list",
            of::<Vec<ServiceView>>("tidegate service list"),
        ),
        ("policy-list", of::<Vec<PolicyView>>("tidegate policy list")),
        ("plugin-list", of::<Vec<PluginView>>("tidegate plugin list")),
        (
            "plugin-list-bindings",
            of::<Vec<BindingView>>("tidegate plugin list --bindings"),
        ),
        ("plugin-bench", of::<Vec<Cost>>("tidegate plugin bench")),
        ("plugin-inspect", of::<Inspected>("tidegate plugin inspect")),
        ("plugin-test", of::<Report>("tidegate plugin test")),
        ("fqdn-list", of::<Vec<LearnedName>>("tidegate fqdn list")),
        ("version", of::<Facts>("tidegate version")),
        ("config-check", of::<Checked>("tidegate config check")),
    ]
}

fn of<T: JsonSchema>(title: &str) -> Value {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let schema = settings.into_generator().into_root_schema_for::<T>();
    let mut schema = schema.to_value();
    close(&mut schema);
    schema["title"] = title.into();
    schema
}

/// Says of every object that it has nothing else, so that nothing goes undescribed, and
/// leaves out values that are only where the code begins.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            let described = object.get("properties").is_some_and(Value::is_object);
            if described && !object.contains_key("additionalProperties") {
                object.insert("additionalProperties".into(), false.into());
            }
            if object.contains_key("type") || object.contains_key("$ref") {
                object.remove("default");
            }
            object.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

/// What is in the folder is what the types say. `TIDEGATE_BLESS=1` writes it.
#[test]
fn the_schemas_of_outputs_are_those_of_the_types() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schemas/output");
    let bless = std::env::var_os("TIDEGATE_BLESS").is_some();
    let mut files = std::collections::BTreeSet::new();
    for (name, schema) in outputs() {
        let file = format!("{name}.json");
        let text = format!("{schema:#}\n");
        if bless {
            std::fs::create_dir_all(&folder).expect("folder");
            std::fs::write(folder.join(&file), &text).expect("written");
        }
        let there = std::fs::read_to_string(folder.join(&file)).unwrap_or_default();
        assert!(
            there == text,
            "{file} is not what the types say: TIDEGATE_BLESS=1"
        );
        files.insert(file);
    }
    for entry in std::fs::read_dir(&folder).expect("folder") {
        let name = entry.expect("entry").file_name();
        let name = name.to_string_lossy();
        assert!(
            files.contains(&*name),
            "{name} describes no command's output"
        );
    }
}

/// One style: words in camelCase, as everywhere else in the files and the API.
#[test]
fn every_key_is_in_camel_case() {
    fn keys(schema: &Value, wrong: &mut Vec<String>) {
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            let camel = |key: &&String| {
                !key.starts_with(|c: char| c.is_ascii_lowercase())
                    || !key.bytes().all(|b| b.is_ascii_alphanumeric())
            };
            wrong.extend(properties.keys().filter(camel).cloned());
        }
        match schema {
            Value::Object(object) => object.values().for_each(|v| keys(v, wrong)),
            Value::Array(items) => items.iter().for_each(|v| keys(v, wrong)),
            _ => {}
        }
    }
    for (name, schema) in outputs() {
        let mut wrong = Vec::new();
        keys(&schema, &mut wrong);
        assert!(wrong.is_empty(), "{name}: {wrong:?}");
    }
}
