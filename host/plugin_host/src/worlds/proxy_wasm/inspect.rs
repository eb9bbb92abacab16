//! What a module of this contract is, before it runs: which version, what it imports.

use tidegate_proxy_wasm::abi::{Function, VERSION_MARK, VERSIONS};
use wasmparser::{Parser, Payload, TypeRef};

use super::{ALLOCATE, MEMORY};

/// Looks at a core module. `None`: it is not of this contract. Else the interfaces it uses, by
/// the names by which components ask for the same.
///
/// # Errors
///
/// A sentence for the operator: what it wants is not there.
pub(crate) fn inspect(module: &[u8]) -> Option<Result<Vec<String>, String>> {
    let (mut marks, mut others, mut imports) = (Vec::new(), Vec::new(), Vec::new());
    for payload in Parser::new(0).parse_all(module).map_while(Result::ok) {
        match payload {
            Payload::ExportSection(exports) => {
                for export in exports.into_iter().map_while(Result::ok) {
                    match export.name.strip_prefix(VERSION_MARK) {
                        Some(version) => marks.push(version.replace('_', ".")),
                        None => others.push(export.name.to_owned()),
                    }
                }
            }
            Payload::ImportSection(section) => {
                for import in section.into_imports().map_while(Result::ok) {
                    let function = matches!(import.ty, TypeRef::Func(_));
                    imports.push((import.module.to_owned(), import.name.to_owned(), function));
                }
            }
            _ => {}
        }
    }
    let foreign = others.iter().any(|name| name.starts_with("proxy_on_"));
    (foreign || !marks.is_empty()).then(|| check(&marks, &others, &imports))
}

/// How callbacks about messages of HTTP begin.
const OF_HTTP: [&str; 2] = ["proxy_on_request_", "proxy_on_response_"];
/// The same of TCP streams.
const OF_STREAMS: [&str; 3] = [
    "proxy_on_new_connection",
    "proxy_on_downstream_",
    "proxy_on_upstream_",
];

fn check(
    marks: &[String],
    exports: &[String],
    imports: &[(String, String, bool)],
) -> Result<Vec<String>, String> {
    let served = VERSIONS.map(|mark| mark[VERSION_MARK.len()..].replace('_', "."));
    if !marks.iter().any(|mark| served.contains(mark)) {
        let found = match marks {
            [] => "of proxy-wasm without a version".to_owned(),
            marks => format!("made for version {} of proxy-wasm", marks.join(" and ")),
        };
        return Err(format!(
            "it is {found}; this host serves {}: build it with a newer SDK",
            served.join(" and ")
        ));
    }
    if !exports.iter().any(|name| name == MEMORY) {
        return Err(format!("it exports no `{MEMORY}`"));
    }
    if !exports.iter().any(|name| ALLOCATE.contains(&&**name)) {
        return Err(format!(
            "it exports neither `{}`, so that nothing can be handed to it",
            ALLOCATE.join("` nor `")
        ));
    }
    let mut used = Vec::new();
    let mut unknown = Vec::new();
    for (module, name, function) in imports {
        match Function::find(module, name).filter(|_| *function) {
            Some(function) => used.extend(interface(function)),
            None => unknown.push(format!("`{module}.{name}`")),
        }
    }
    if !unknown.is_empty() {
        return Err(format!(
            "it imports {}, which this host does not offer to filters of proxy-wasm",
            unknown.join(", ")
        ));
    }
    let calls = |starts: &[&str]| {
        let mut named = exports.iter();
        named.any(|name| starts.iter().any(|start| name.starts_with(start)))
    };
    if calls(&OF_STREAMS) && !calls(&OF_HTTP) {
        return Err(
            "it has callbacks for TCP streams and none for HTTP: such filters are not served"
                .to_owned(),
        );
    }
    used.sort_unstable();
    used.dedup();
    Ok(used.into_iter().map(str::to_owned).collect())
}

/// What a component would ask for to do the same.
fn interface(function: Function) -> Option<&'static str> {
    match function {
        Function::Log | Function::FdWrite => Some("log"),
        Function::DefineMetric
        | Function::RecordMetric
        | Function::IncrementMetric
        | Function::GetMetric => Some("metrics"),
        Function::GetCurrentTime | Function::ClockTime => Some("clock"),
        Function::GetProperty => Some("connection"),
        _ => None,
    }
}
