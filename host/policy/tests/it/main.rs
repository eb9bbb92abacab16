//! Policies as people write them, compiled and asked.

mod check;
mod edits;
mod messages;
mod property;
mod reference;
mod schemas;
mod semantics;
mod services;
mod shadow;
mod warnings;
mod words;
