//! The only room that names wasmtime: compiles, instantiates and bounds plugins.
