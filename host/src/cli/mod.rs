//! Noun and verb commands; everything they do, a script can do through the local API.
