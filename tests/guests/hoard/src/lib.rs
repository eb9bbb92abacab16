//! On a path that starts with `/hoard`, takes memory until there is none. On
//! `/keep`, keeps 64 KiB more with every request.

use tidegate_sdk::{Decision, HttpFilter, Needs, Request};

#[derive(Default)]
struct Hoard {
    kept: Vec<Vec<u8>>,
}

impl HttpFilter for Hoard {
    fn configure(_: &str) -> Result<(Self, Needs), String> {
        Ok((Self::default(), Needs::nothing()))
    }

    fn on_request(&mut self, request: &Request) -> Decision {
        while request.path.starts_with("/hoard") {
            self.kept.push(vec![1; 64 << 10]);
        }
        if request.path.starts_with("/keep") {
            self.kept.push(vec![1; 64 << 10]);
        }
        Decision::allow()
    }
}

tidegate_sdk::http_filter!(Hoard, { "name": "hoard", "version": "0.1.0", "capabilities": [] });
