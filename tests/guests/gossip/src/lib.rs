//! Refuses every request, and tells which one it was asked about before.

use tidegate_sdk::{Decision, HttpFilter, Needs, Request};

#[derive(Default)]
struct Gossip {
    last: String,
}

impl HttpFilter for Gossip {
    fn configure(_: &str) -> Result<(Self, Needs), String> {
        Ok((Self::default(), Needs::nothing()))
    }

    fn on_request(&mut self, request: &Request) -> Decision {
        let before = std::mem::replace(&mut self.last, request.path.clone());
        Decision::deny(403, format!("before: {before}"))
    }
}

tidegate_sdk::http_filter!(Gossip, { "name": "gossip", "version": "0.1.0", "capabilities": [] });
