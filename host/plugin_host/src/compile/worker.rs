//! The worker's side: parse, compile, check, answer.

use std::io::{Read, Write};

use anyhow::Context;
use tidegate_contract::World;
use wasmtime::{Engine, Module, component::Component};

use super::{COMPONENT, Inspection, Report, confine::confine};
use crate::{
    engine::engine,
    host_calls::CAPABILITIES,
    manifest::Manifest,
    worlds::{Code, Linked, PACKAGE, VERSIONS, of_exports, proxy_wasm},
};

/// The process `tidegate compile-plugin`.
///
/// # Errors
///
/// If the process cannot be confined, or its pipes break. A component that cannot be
/// compiled is no error: the report says so.
pub fn run() -> anyhow::Result<()> {
    confine()?;
    let mut component = Vec::new();
    let limit = u64::try_from(COMPONENT)?.saturating_add(1);
    std::io::stdin()
        .lock()
        .take(limit)
        .read_to_end(&mut component)
        .context("cannot read the component")?;
    let (report, artifact) = match compile(&component) {
        Ok((inspection, artifact)) => (Ok(inspection), artifact),
        Err(reason) => (Err(reason), Vec::new()),
    };
    write(&report, &artifact).context("cannot answer")
}

fn write(report: &Report, artifact: &[u8]) -> anyhow::Result<()> {
    let report = serde_json::to_vec(report)?;
    let mut out = std::io::stdout().lock();
    out.write_all(&u32::try_from(report.len())?.to_le_bytes())?;
    out.write_all(&report)?;
    out.write_all(artifact)?;
    out.flush()?;
    Ok(())
}

fn compile(bytes: &[u8]) -> Result<(Inspection, Vec<u8>), String> {
    let kind = check_preamble(bytes)?;
    let manifest = Manifest::find(bytes)?;
    let engine = engine().map_err(|error| format!("{error:#}"))?;
    if kind == Kind::Module {
        return compile_module(&engine, bytes, manifest);
    }
    let component = Component::new(&engine, bytes)
        .map_err(|error| format!("it is not a valid component: {error:#}"))?;
    let imports = imports(&engine, &component)?;
    let world = world(&engine, &component)?;
    // With every interface it names: whether it may have them is the agent's decision.
    Linked::new(&Code::Component(component.clone()), world, &imports)
        .map_err(|error| format!("it does not fit the contract: {error:#}"))?;
    let artifact = component
        .serialize()
        .map_err(|error| format!("it cannot be compiled: {error:#}"))?;
    let inspection = Inspection {
        world,
        imports,
        manifest,
    };
    Ok((inspection, artifact))
}

/// A module made for Envoy. Without a manifest of ours it asks for what it imports.
fn compile_module(
    engine: &Engine,
    bytes: &[u8],
    mut manifest: Manifest,
) -> Result<(Inspection, Vec<u8>), String> {
    let imports = proxy_wasm::inspect(bytes).unwrap_or_else(|| Err(no_component()))?;
    let module = Module::new(engine, bytes)
        .map_err(|error| format!("it is not a valid module: {error:#}"))?;
    Linked::new(&Code::Module(module.clone()), World::ProxyWasm, &imports)
        .map_err(|error| format!("it does not fit the contract: {error:#}"))?;
    let artifact = module
        .serialize()
        .map_err(|error| format!("it cannot be compiled: {error:#}"))?;
    if manifest == Manifest::default() {
        manifest.capabilities.clone_from(&imports);
    }
    let inspection = Inspection {
        world: World::ProxyWasm,
        imports,
        manifest,
    };
    Ok((inspection, artifact))
}

/// What a file of WebAssembly is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Component,
    Module,
}

fn check_preamble(bytes: &[u8]) -> Result<Kind, String> {
    if bytes.len() > COMPONENT {
        return Err(format!("it is larger than {} MiB", COMPONENT >> 20));
    }
    match bytes.first_chunk::<8>() {
        Some(b"\0asm\x0d\0\x01\0") => Ok(Kind::Component),
        Some(b"\0asm\x01\0\0\0") => Ok(Kind::Module),
        Some([b'\0', b'a', b's', b'm', ..]) => {
            Err("it is WebAssembly of a version this host does not know".into())
        }
        Some(_) => Err("it is not a WebAssembly file".into()),
        None if bytes.is_empty() => Err("it is empty".into()),
        None if b"\0asm".starts_with(&bytes[..bytes.len().min(4)]) => Err(format!(
            "it ends after {} bytes: write it anew",
            bytes.len()
        )),
        None => Err("it is not a WebAssembly file".into()),
    }
}

/// What to do about a core module that is made for nobody we know.
fn no_component() -> String {
    "it is a core module, not a component: `tidegate plugin build` makes one of a crate, \
     `wasm-tools component new` one of a module; and no filter of proxy-wasm either"
        .to_owned()
}

/// Interfaces of ours that a component imports; anything else is refused by name.
fn imports(engine: &Engine, component: &Component) -> Result<Vec<String>, String> {
    let component = component.component_type();
    let imports = component.imports(engine);
    imports
        .map(|(name, _)| match name.strip_prefix(PACKAGE) {
            Some(interface) => {
                let (interface, version) = interface.split_once('@').unwrap_or((interface, ""));
                if !CAPABILITIES.contains(&interface) {
                    Err(format!(
                        "it imports `{name}`, which this host does not offer"
                    ))
                } else if !VERSIONS.contains(&version) {
                    Err(format!(
                        "it imports `{name}`; this host offers versions {}",
                        VERSIONS.join(" and ")
                    ))
                } else {
                    Ok(interface.to_owned())
                }
            }
            None if name.starts_with("wasi:") => Err(format!(
                "it imports `{name}`: plugins run without WASI; build for wasm32-unknown-unknown"
            )),
            None => Err(format!(
                "it imports `{name}`, which this host does not offer"
            )),
        })
        .collect()
}

fn world(engine: &Engine, component: &Component) -> Result<World, String> {
    let component = component.component_type();
    let exports: Vec<_> = component.exports(engine).map(|(name, _)| name).collect();
    of_exports(&exports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_component_is_told_for_what_it_is() {
        for (bytes, why) in [
            (&b""[..], "empty"),
            (b"\0as", "ends after 3 bytes"),
            (b"\0asm\x0d", "ends after 5 bytes"),
            (b"junk", "not a WebAssembly file"),
            (b"more junk", "not a WebAssembly file"),
            (b"\0asm\x02\0\0\0", "of a version"),
        ] {
            let said = check_preamble(bytes).expect_err("refused");
            assert!(said.contains(why), "{bytes:?}: {said}");
        }
    }
}
