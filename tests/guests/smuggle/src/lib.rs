//! Reads the clock, though its manifest asks for `log` alone.

use tidegate_sdk::{Decision, HttpFilter, Level, Needs, Request, log, now_ms};

struct Smuggle;

impl HttpFilter for Smuggle {
    fn configure(_: &str) -> Result<(Self, Needs), String> {
        Ok((Self, Needs::nothing()))
    }

    fn on_request(&mut self, _: &Request) -> Decision {
        log(Level::Info, &format!("it is {}", now_ms()));
        Decision::allow()
    }
}

tidegate_sdk::http_filter!(Smuggle, { "name": "smuggle", "version": "0.1.0", "capabilities": ["log"] });
