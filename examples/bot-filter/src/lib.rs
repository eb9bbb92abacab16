//! Refuses requests by their `User-Agent`, and requests that lack required headers.

use serde::Deserialize;
use tidegate_sdk::{Decision, HttpFilter, Level, Needs, Request, Response, count, log};

/// The filter, as configured: `{"deny": ["badbot"], "require": ["x-request-id"]}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BotFilter {
    /// Parts of a user agent that are not welcome, in any case.
    #[serde(default)]
    deny: Vec<String>,
    /// Headers a request must have.
    #[serde(default)]
    require: Vec<String>,
}

impl HttpFilter for BotFilter {
    fn configure(config: &str) -> Result<(Self, Needs), String> {
        let mut filter: Self = match config {
            "" => Self {
                deny: vec!["badbot".to_owned()],
                require: Vec::new(),
            },
            text => serde_json::from_str(text).map_err(|error| error.to_string())?,
        };
        let words = filter.deny.iter_mut().chain(&mut filter.require);
        words.for_each(|word| word.make_ascii_lowercase());
        let names = filter.require.iter().map(String::as_str);
        let needs = Needs::headers(names.chain(["user-agent"]));
        let needs = if cfg!(feature = "v2") {
            needs.and_responses()
        } else {
            needs
        };
        Ok((filter, needs))
    }

    fn on_request(&mut self, request: &Request) -> Decision {
        let agent = request.headers.get_str("user-agent").unwrap_or_default();
        let agent = agent.to_ascii_lowercase();
        if let Some(word) = self.deny.iter().find(|word| agent.contains(*word)) {
            log(Level::Info, &format!("refused a user agent with `{word}`"));
            count("refused_agents", 1);
            return Decision::deny(403, "bots are not welcome\n");
        }
        let missing = |name: &&String| request.headers.get(name).is_none();
        if let Some(name) = self.require.iter().find(missing) {
            count("refused_incomplete", 1);
            return Decision::deny(400, format!("header {name} is required\n"));
        }
        Decision::allow()
    }

    fn on_response(&mut self, _: &Response) -> Decision {
        Decision::set_header("x-bot-filter", "v2")
    }
}

#[cfg(not(feature = "v2"))]
tidegate_sdk::http_filter!(BotFilter, {
    "name": "bot-filter",
    "version": "1.0.0",
    "capabilities": ["log", "metrics"]
});

#[cfg(feature = "v2")]
tidegate_sdk::http_filter!(BotFilter, {
    "name": "bot-filter",
    "version": "2.0.0",
    "capabilities": ["log", "metrics"]
});

#[cfg(test)]
mod tests {
    use super::*;

    fn check(config: &str, headers: &[(&str, &str)], allowed: bool) {
        let (mut filter, _) = BotFilter::configure(config).expect(config);
        let request = Request {
            method: "GET".into(),
            path: "/".to_owned(),
            authority: "shop".to_owned(),
            headers: headers.iter().copied().collect(),
        };
        assert_eq!(
            filter.on_request(&request).is_allowed(),
            allowed,
            "{headers:?}"
        );
    }

    #[test]
    fn bots_and_incomplete_requests_are_refused() {
        let config = r#"{"deny":["BadBot"],"require":["X-Request-Id"]}"#;
        check(
            config,
            &[("x-request-id", "1"), ("user-agent", "curl")],
            true,
        );
        check(config, &[("x-request-id", "1")], true);
        check(config, &[("user-agent", "curl")], false);
        check(
            config,
            &[("x-request-id", "1"), ("user-agent", "a BADBOT/1")],
            false,
        );
        check("", &[("user-agent", "badbot")], false);
    }

    #[test]
    fn an_unknown_key_is_refused() {
        assert!(BotFilter::configure(r#"{"deni":[]}"#).is_err());
    }
}
