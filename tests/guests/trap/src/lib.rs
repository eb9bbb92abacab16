//! Panics on a path that starts with `/trap`, in `configure` if the configuration is
//! `trap`, and overflows its stack on `/deep`. With the configuration `slow` it computes
//! for long before it is configured.

use tidegate_sdk::{Decision, HttpFilter, Needs, Request};

struct Trap;

impl HttpFilter for Trap {
    fn configure(config: &str) -> Result<(Self, Needs), String> {
        match config {
            "trap" => panic!("as asked"),
            "refuse" => Err("this configuration is refused".to_owned()),
            "slow" => {
                let sum = (0..200_000_000_u64).fold(0, |sum, n| std::hint::black_box(sum ^ n));
                std::hint::black_box(sum);
                Ok((Self, Needs::nothing()))
            }
            _ => Ok((Self, Needs::nothing())),
        }
    }

    fn on_request(&mut self, request: &Request) -> Decision {
        match request.path.as_str() {
            "/deep" => Decision::allow().by_rule(deep(u32::MAX)),
            path if path.starts_with("/trap") => panic!("as asked"),
            _ => Decision::allow(),
        }
    }
}

/// Each level needs its own frame, because the caller's is still in use.
fn deep(level: u32) -> u32 {
    let here = std::hint::black_box([level; 16]);
    match level {
        0 => 0,
        _ => deep(level - 1).wrapping_add(here[0]),
    }
}

tidegate_sdk::http_filter!(Trap, { "name": "trap", "version": "0.1.0", "capabilities": [] });
