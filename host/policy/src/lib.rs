//! Policies, services and endpoints as people write them, and the pure compiler
//! that turns them into the tables kernel, proxy and `explain` read.
//!
//! No IO, no clock, no task, no lock: same inputs, same answer. In reading order:
//! [`parse_file`] reads documents, [`objects`] are what they say, [`compile()`] makes one
//! generation of them ([`compiled`]), [`lookup()`] reads its rows the way the kernel does,
//! and [`model::verdict`] says the same from the rules alone, for tests. Below all of them
//! lie the words they share: what rules are ([`rule`]), and where things were written
//! ([`origin`]).

mod compile;
pub mod compiled;
mod follow;
pub mod fqdn;
mod fuzz;
pub mod http_options;
mod ids;
mod input;
mod l7;
mod label_syntax;
pub mod labels;
mod lint;
mod lookup;
pub mod model;
pub mod objects;
pub mod origin;
mod peer;
mod problem;
pub mod protocol;
pub mod rule;
mod schema;
pub mod shared;
mod terms;
pub mod tls;
mod unite;
mod yaml;

pub use self::{
    compile::{Compiler, compile},
    fuzz::fuzz_parse,
    ids::{Ids, NoNumber, NumbersInUse, Step, Unsaved},
    input::{parse_file, read_file},
    lint::{Linter, lint},
    lookup::{AnyOf, lookup, lookup_any, rehearse_any},
    objects::{Document, Enforcement, Input, Mode},
    origin::{ObjectKey, Origin, Source},
    problem::{Problem, Severity},
    schema::{KINDS, schema},
    unite::unite,
};
