//! The regular expressions of HTTP rules: RE2's dialect, as Envoy compiles it, over
//! whole values.
//!
//! Policies are checked with this where they are read and enforced with it where
//! requests are, so what a file was accepted with is what decides. The engine is that
//! of the `regex` crate; its dialect is not, and so never sees the text: `[a&&b]`,
//! `[a--b]` and `[a[b]]` are set operations there and plain characters in RE2.
//!
//! Not available, and refused by name: Unicode classes (`\p{…}`), ignoring the case of
//! characters beyond ASCII, and expressions larger than [`pattern::SIZE_LIMIT`].

mod class;
mod parse;
pub mod pattern;

pub use self::{parse::Refusal, pattern::Pattern};
