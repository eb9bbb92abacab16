//! Never returns from a request whose path starts with `/spin`, nor from `configure`
//! if the configuration is `spin`. Counts to N times 10,000 for `/busy/N`.

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
        if let Some(rounds) = request.path.strip_prefix("/busy/") {
            let rounds = rounds.parse().unwrap_or(0_u64) * 10_000;
            (0..rounds).for_each(|n| _ = std::hint::black_box(n));
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
