//! The built-in HTTP matcher: allows a request if any of its rules matches, refuses
//! the rest with 403. A plugin like any other; the host knows nothing of its rules.
//!
//! Rules are those of `CiliumNetworkPolicy`'s `rules.http`: regular expressions over
//! method, path with query, and host, each matching the whole value, and exact or
//! merely present headers; and headers that are made as they should be.

pub mod rules;

use rules::Rules;
use tidegate_sdk::{Decision, HttpFilter, Needs, Request};

/// The rules of one binding, compiled.
pub struct HttpMatcher {
    rules: Rules,
}

impl HttpFilter for HttpMatcher {
    fn configure(config: &str) -> Result<(Self, Needs), String> {
        let rules = Rules::parse(config)?;
        let needs = Needs::headers(rules.header_names());
        Ok((Self { rules }, needs))
    }

    fn on_request(&mut self, request: &Request) -> Decision {
        self.rules.decide(request)
    }
}

tidegate_sdk::http_filter!(HttpMatcher, {
    "name": "http",
    "version": "0.1.0",
    "capabilities": ["log", "metrics"]
});
