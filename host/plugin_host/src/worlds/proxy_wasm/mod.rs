//! Filters made for Envoy and Istio: core modules of the contract proxy-wasm. What they may
//! ask and are answered is in the room `proxy_wasm`; here it is tied to instances.
//!
//! One instance serves all exchanges of a binding on a thread, as that contract has it.

mod exchange;
mod host;
mod inspect;
mod timer;

use std::sync::Arc;

use tidegate_proxy_wasm::{Configuration, ROOT, Vm};
use wasmtime::{
    AsContextMut, InstancePre, Linker, Memory, Module, Store, TypedFunc, WasmParams, WasmResults,
};

pub(crate) use self::exchange::{body, leave, open, request, response, trailers};
pub(crate) use self::{
    host::Guest,
    inspect::inspect,
    timer::{Wants, run},
};
use super::Configured;
use crate::instance::State;

/// A module, ready to be instantiated.
pub(super) type Pre = InstancePre<State>;

/// What a plugin needs to see.
#[derive(Clone, Debug)]
pub(crate) struct Needs {
    pub(super) responses: bool,
}

/// Callbacks about a message: of head, body and trailers.
#[derive(Clone)]
struct Callbacks {
    head: Option<TypedFunc<(u32, u32, u32), u32>>,
    body: Option<TypedFunc<(u32, u32, u32), u32>>,
    trailers: Option<TypedFunc<(u32, u32), u32>>,
}

/// A configured instance.
pub(crate) struct Exports {
    create: Option<TypedFunc<(u32, u32), ()>>,
    request: Callbacks,
    response: Callbacks,
    tick: Option<TypedFunc<u32, ()>>,
    queue_ready: Option<TypedFunc<(u32, u32), ()>>,
    done: Option<TypedFunc<u32, u32>>,
    log: Option<TypedFunc<u32, ()>>,
    delete: Option<TypedFunc<u32, ()>>,
}

/// Links a module to every function of the contract.
pub(super) fn link(module: &Module) -> wasmtime::Result<Pre> {
    let mut linker = Linker::new(module.engine());
    host::link(&mut linker)?;
    linker.instantiate_pre(module)
}

/// Instantiates, starts and configures.
pub(super) fn configure(pre: &Pre, store: &mut Store<State>, config: &str) -> Configured {
    let shared = store.data().shared.clone();
    let (configuration, bodies) = match configuration(&shared.label, config) {
        Ok(configuration) => configuration,
        Err(reason) => return Ok(Err(reason)),
    };
    let vm = Vm::new(configuration, shared.common.clone());
    let (vm_length, plugin_length) = vm.configuration_lengths();
    store.data_mut().guest = Some(Box::new(Guest::new(vm)));
    let instance = pre.instantiate(&mut *store)?;
    let mut find = Finder {
        instance,
        store: &mut *store,
    };
    let [initialise, main, start] = [
        find.function::<(), ()>("_initialize")?.map(Start::Plain),
        find.function::<(u32, u32), u32>("main")?.map(Start::Main),
        find.function::<(), ()>("_start")?.map(Start::Plain),
    ];
    let [vm_start, on_configure] = [
        find.function::<(u32, u32), u32>("proxy_on_vm_start")?,
        find.function::<(u32, u32), u32>("proxy_on_configure")?,
    ];
    let mut exports = Exports {
        create: find.function("proxy_on_context_create")?,
        request: Callbacks {
            head: find.function("proxy_on_request_headers")?,
            body: find.function("proxy_on_request_body")?,
            trailers: find.function("proxy_on_request_trailers")?,
        },
        response: Callbacks {
            head: find.function("proxy_on_response_headers")?,
            body: find.function("proxy_on_response_body")?,
            trailers: find.function("proxy_on_response_trailers")?,
        },
        tick: find.function("proxy_on_tick")?,
        queue_ready: find.function("proxy_on_queue_ready")?,
        done: find.function("proxy_on_done")?,
        log: find.function("proxy_on_log")?,
        delete: find.function("proxy_on_delete")?,
    };
    if !bodies {
        for callbacks in [&mut exports.request, &mut exports.response] {
            (callbacks.body, callbacks.trailers) = (None, None);
        }
    }
    // `main` is for modules that are initialised; one that is not has started by `_start`.
    match initialise {
        Some(initialise) => {
            initialise.run(store)?;
            main.map_or(Ok(()), |main| main.run(store))?;
        }
        None => start.map_or(Ok(()), |start| start.run(store))?,
    }
    host::enter(store, ROOT);
    call(&exports.create, store, (ROOT, 0))?;
    for (callback, length, what) in [
        (
            vm_start,
            vm_length,
            "the configuration of its instance (`vmConfig`)",
        ),
        (on_configure, plugin_length, "its configuration"),
    ] {
        host::enter(store, ROOT);
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        if call(&callback, store, (ROOT, length))? == Some(0) {
            return Ok(Err(format!("it refused {what}; its log lines may say why")));
        }
    }
    host::vm(store, Vm::configured);
    let needs = Needs {
        responses: exports.response.head.is_some() || exports.response.body.is_some(),
    };
    Ok(Ok((
        super::Exports::ProxyWasm(Box::new(exports)),
        super::Needs::ProxyWasm(needs),
    )))
}

/// How a module is started.
enum Start {
    Plain(TypedFunc<(), ()>),
    Main(TypedFunc<(u32, u32), u32>),
}

impl Start {
    fn run(self, store: &mut Store<State>) -> wasmtime::Result<()> {
        match self {
            Self::Plain(start) => start.call(store, ()),
            Self::Main(main) => main.call(store, (0, 0)).map(drop),
        }
    }
}

/// Calls what a module may export; `None` if it does not.
fn call<P: WasmParams, R: WasmResults>(
    function: &Option<TypedFunc<P, R>>,
    store: &mut Store<State>,
    with: P,
) -> wasmtime::Result<Option<R>> {
    let function = function.as_ref();
    function
        .map(|function| function.call(store, with))
        .transpose()
}

/// Looks exports up.
struct Finder<'s> {
    instance: wasmtime::Instance,
    store: &'s mut Store<State>,
}

impl Finder<'_> {
    /// A function, if there is one of this name.
    ///
    /// # Errors
    ///
    /// If it takes or answers something else than the contract says.
    fn function<P: WasmParams, R: WasmResults>(
        &mut self,
        name: &str,
    ) -> wasmtime::Result<Option<TypedFunc<P, R>>> {
        let found = self.instance.get_func(self.store.as_context_mut(), name);
        let typed = found.map(|function| function.typed(&*self.store));
        typed.transpose().map_err(|error| {
            wasmtime::Error::msg(format!(
                "its export `{name}` is not of this contract: {error}"
            ))
        })
    }
}

/// What a binding says to the filter. Text is handed over as it is, anything else as JSON. An
/// object of `pluginConfig`, `vmConfig`, `rootId` and `bodies` alone says each of them by itself.
/// The second says whether it is shown bodies.
fn configuration(label: &str, config: &str) -> Result<(Configuration, bool), String> {
    use serde_json::Value;

    const KEYS: [&str; 4] = ["pluginConfig", "vmConfig", "rootId", "bodies"];
    let text = |value: Value| match value {
        Value::Null => Vec::new(),
        Value::String(text) => text.into_bytes(),
        other => other.to_string().into_bytes(),
    };
    let name = label.split_once('@').map_or(label, |(name, _)| name);
    let mut configuration = Configuration {
        name: name.to_owned(),
        ..Configuration::default()
    };
    let mut bodies = true;
    let value: Value = match config {
        "" => Value::Null,
        config => serde_json::from_str(config)
            .map_err(|error| format!("its configuration is not JSON: {error}"))?,
    };
    match value {
        // What a binding without a configuration says.
        Value::Object(object) if object.is_empty() => {}
        Value::Object(mut object) if object.keys().all(|key| KEYS.contains(&&**key)) => {
            let mut part = |key| object.remove(key).unwrap_or_default();
            configuration.plugin = text(part("pluginConfig"));
            configuration.vm = text(part("vmConfig"));
            configuration.root_id = match part("rootId") {
                Value::Null => String::new(),
                Value::String(id) => id,
                other => return Err(format!("`rootId` is {other}; it must be text")),
            };
            bodies = match part("bodies") {
                Value::Null => true,
                Value::Bool(bodies) => bodies,
                other => return Err(format!("`bodies` is {other}; it must be true or false")),
            };
        }
        other => configuration.plugin = text(other),
    }
    Ok((configuration, bodies))
}

/// The memory of a module: the contract has one, under this name.
const MEMORY: &str = "memory";

/// Where the host may ask for memory, the newer name first.
const ALLOCATE: [&str; 2] = ["proxy_on_memory_allocate", "malloc"];

/// What is known of a guest's memory once it has called.
type Place = (Memory, Option<TypedFunc<u32, u32>>);

/// Instances of one configuration share this.
pub(crate) type Common = Arc<tidegate_proxy_wasm::Common>;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(config: &str, plugin: &str, vm: &str, root_id: &str) {
        let (found, _) = configuration("sample@1.0.0", config).expect(config);
        let expected = Configuration {
            name: "sample".to_owned(),
            root_id: root_id.to_owned(),
            plugin: plugin.as_bytes().to_vec(),
            vm: vm.as_bytes().to_vec(),
        };
        assert_eq!(found, expected, "{config}");
    }

    #[test]
    fn a_configuration_is_text_or_json_or_both_of_them() {
        check("", "", "", "");
        check("{}", "", "", "");
        check("null", "", "", "");
        check(r#""as it \" is""#, "as it \" is", "", "");
        check(r#"{"a":[1]}"#, r#"{"a":[1]}"#, "", "");
        check("[1,2]", "[1,2]", "", "");
        let both = r#"{"pluginConfig":{"a":1},"vmConfig":"v","rootId":"r"}"#;
        check(both, r#"{"a":1}"#, "v", "r");
        // Another key: it is all the plugin's.
        let other = r#"{"pluginConfig":1,"x":2}"#;
        check(other, other, "", "");
        let wrong = configuration("x", r#"{"rootId":1}"#).expect_err("no text");
        assert!(wrong.contains("`rootId` is 1"), "{wrong}");
        let shown = |config| configuration("x", config).map(|(_, bodies)| bodies);
        assert_eq!(shown(r#"{"bodies":false,"pluginConfig":1}"#), Ok(false));
        assert_eq!(shown(r#"{"bodies":true}"#), Ok(true));
        assert_eq!(
            shown(r#"{"bodies":false,"x":1}"#),
            Ok(true),
            "all of it is the plugin's"
        );
        assert!(shown(r#"{"bodies":"no"}"#).is_err());
    }
}
