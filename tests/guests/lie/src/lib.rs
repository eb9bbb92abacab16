//! Answers that no honest filter gives; the path says which.

use tidegate_sdk::{Decision, HttpFilter, Needs, Request};

struct Lie;

impl HttpFilter for Lie {
    fn configure(config: &str) -> Result<(Self, Needs), String> {
        match config {
            "greedy" => Ok((Self, Needs::headers((0..1000).map(|n| format!("x-{n}"))))),
            _ => Ok((Self, Needs::all_headers())),
        }
    }

    fn on_request(&mut self, request: &Request) -> Decision {
        match request.path.as_str() {
            "/status" => Decision::deny(999, "out of range"),
            "/body" => Decision::deny(403, "x".repeat(200 << 10)),
            "/flood" => Decision::deny(403, "x".repeat(4 << 20)),
            "/split" => Decision::set_header("x-a", "1\r\nx-evil: 1"),
            "/name" => Decision::set_header("x a", "1"),
            "/frame" => Decision::set_header("content-length", "0"),
            "/route" => Decision::remove_header("host"),
            "/many" => (0..1000).fold(Decision::allow(), |decision, n| {
                decision.and_set_header(format!("x-{n}"), "1")
            }),
            "/rule" => Decision::allow().by_rule(u32::MAX),
            _ => Decision::allow(),
        }
    }
}

tidegate_sdk::http_filter!(Lie, { "name": "lie", "version": "0.1.0", "capabilities": [] });
