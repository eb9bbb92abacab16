//! Policies, services and endpoints as people write them, and the pure compiler
//! that turns them into the tables kernel, proxy and `explain` read.
//!
//! No IO, no clock, no task, no lock: same inputs, same answer. In reading order:
//! [`input::parse_file`] reads documents, [`compile()`] makes one generation of them,
//! [`lookup()`] reads its rows the way the kernel does, and [`model::verdict`] says the
//! same from the rules alone, for tests.

mod compile;
pub mod compiled;
mod follow;
pub mod fqdn;
pub mod http_options;
mod ids;
pub mod input;
mod label_syntax;
pub mod labels;
mod lint;
mod lookup;
pub mod model;
mod origin;
mod peer;
mod problem;
pub mod protocol;
pub mod rule;
mod schema;
mod unite;
mod yaml;

pub use self::{
    compile::{Compiler, compile},
    ids::{Ids, NumbersInUse},
    input::{Document, Enforcement, Input, Mode, fuzz_parse, parse_file},
    lint::{Linter, lint},
    lookup::{AnyOf, lookup, lookup_any, rehearse_any},
    origin::{ObjectKey, Origin, Source},
    problem::{Problem, Severity},
    schema::{KINDS, schema},
    unite::unite,
};
