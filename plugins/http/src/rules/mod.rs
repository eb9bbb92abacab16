//! The rules of one binding: parsed once, then asked for every request.

use serde::Deserialize;
use tidegate_re2::Pattern;
use tidegate_sdk::Request;

/// Rules, any of which allows.
#[derive(Debug)]
pub struct Rules(Vec<Rule>);

/// One rule; absent parts match anything, the others must all match.
#[derive(Debug)]
struct Rule {
    method: Option<Pattern>,
    path: Option<Pattern>,
    host: Option<Pattern>,
    headers: Vec<HeaderRule>,
    /// It means CONNECT, which no rule does by the way: nobody looks into the tunnel.
    connect: bool,
}

/// A header that must be there, and perhaps have exactly this value.
#[derive(Debug)]
struct HeaderRule {
    name: String,
    value: Option<String>,
}

/// The configuration as the policy compiler writes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRules {
    rules: Vec<RawRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    method: Option<String>,
    path: Option<String>,
    host: Option<String>,
    #[serde(default)]
    headers: Vec<(String, Option<String>)>,
}

impl Rules {
    /// Reads `{"rules": [{"method", "path", "host", "headers"}]}`.
    ///
    /// # Errors
    ///
    /// A sentence that names the rule and what is wrong with it.
    pub fn parse(config: &str) -> Result<Self, String> {
        let raw: RawRules = serde_json::from_str(config)
            .map_err(|error| format!("the configuration is not a list of HTTP rules: {error}"))?;
        let compile =
            |(index, rule)| Rule::compile(rule).map_err(|error| format!("rules[{index}].{error}"));
        let rules = raw.rules.into_iter().enumerate().map(compile);
        rules.collect::<Result<_, _>>().map(Self)
    }

    /// Headers the rules look at, lower case.
    pub fn header_names(&self) -> impl Iterator<Item = &str> {
        let headers = self.0.iter().flat_map(|rule| &rule.headers);
        headers.map(|header| header.name.as_str())
    }

    /// Index of the first rule that allows the request.
    pub fn first_match(&self, request: &Request) -> Option<u32> {
        let index = self.0.iter().position(|rule| rule.matches(request))?;
        u32::try_from(index).ok()
    }
}

impl Rule {
    fn compile(raw: RawRule) -> Result<Self, String> {
        let pattern = |field: &str, expression: Option<String>| {
            let Some(expression) = expression else {
                return Ok(None);
            };
            Pattern::new(&expression).map(Some).map_err(|refusal| {
                format!("{field}: `{expression}` is not a usable expression: {refusal}")
            })
        };
        let header = |(name, value): (String, Option<String>)| HeaderRule {
            name: name.to_ascii_lowercase(),
            value,
        };
        Ok(Self {
            connect: raw.method.as_deref() == Some("CONNECT") && raw.host.is_some(),
            method: pattern("method", raw.method)?,
            path: pattern("path", raw.path)?,
            host: pattern("host", raw.host)?,
            headers: raw.headers.into_iter().map(header).collect(),
        })
    }

    fn matches(&self, request: &Request) -> bool {
        let fits = |pattern: &Option<Pattern>, value: &str| {
            pattern
                .as_ref()
                .is_none_or(|pattern| pattern.matches(value.as_bytes()))
        };
        (self.connect || &*request.method != "CONNECT")
            && fits(&self.method, &request.method)
            && fits(&self.path, &request.path)
            && fits(&self.host, &request.authority)
            && self.headers.iter().all(|header| header.matches(request))
    }
}

impl HeaderRule {
    /// A header sent several times counts as its values joined by commas, as RFC 9110
    /// §5.2 reads it and Envoy compares it.
    fn matches(&self, request: &Request) -> bool {
        let mut values = request.headers.get_all(&self.name);
        let Some(first) = values.next() else {
            return false;
        };
        let Some(wanted) = &self.value else {
            return true;
        };
        let mut rest = Some(wanted.as_bytes()).and_then(|wanted| wanted.strip_prefix(first));
        for value in values {
            rest = rest
                .and_then(|rest| rest.strip_prefix(b","))
                .and_then(|rest| rest.strip_prefix(value));
        }
        rest.is_some_and(<[u8]>::is_empty)
    }
}

#[cfg(test)]
mod tests;
