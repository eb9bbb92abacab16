//! The `tidegate` program: commands in, one agent, proxy or helper process out.
//! `ARCHITECTURE.md` has the map and the room rules.

pub mod cli;
