//! Never returns from a request whose path starts with `/spin`, nor from `configure`
//! if the configuration is `spin`.

use tidegate_sdk::{Decision, HttpFilter, Needs, Request};

struct Spin;

impl HttpFilter for Spin {
    fn configure(config: &str) -> Result<(Self, Needs), String> {
        if config == "spin" {
            spin();
        }
        Ok((Self, Needs::nothing()))
    }

    fn on_request(&mut self, request: &Request) -> Decision {
        if request.path.starts_with("/spin") {
            spin();
        }
        Decision::allow()
    }
}

fn spin() {
    loop {
        std::hint::spin_loop();
    }
}

tidegate_sdk::http_filter!(Spin, { "name": "spin", "version": "0.1.0", "capabilities": [] });
