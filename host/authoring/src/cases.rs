//! What a filter must decide, as people write it: `tests.yaml`.

use std::{collections::BTreeMap, fs, net::SocketAddr, path::Path};

use anyhow::Context as _;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use serde_saphyr::Spanned;
use tidegate_wire::dns;

/// A file of cases.
#[derive(Clone, Debug)]
pub struct Cases {
    /// The file, as it was named.
    pub file: String,
    /// Its cases, in its order.
    pub cases: Vec<Case>,
}

/// One conversation, and what must become of it.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it is called.
    pub name: String,
    /// Line it begins at.
    pub line: u64,
    /// Configuration, JSON text.
    pub config: String,
    /// Who speaks, to whom.
    pub connection: Connection,
    /// What is said.
    pub said: Said,
}

/// What is said, and what must become of it.
#[derive(Clone, Debug)]
pub enum Said {
    /// A request of HTTP and what comes back.
    Http {
        /// The request.
        request: Box<Request>,
        /// What must become of it.
        expect: Option<Expected>,
        /// What the server answers, and what must become of that.
        response: Option<(Response, Option<Expected>)>,
    },
    /// A query.
    Dns {
        /// Name, lower case with final dot.
        name: String,
        /// QTYPE.
        qtype: u16,
        /// What must become of it.
        expect: Option<Expected>,
    },
    /// A connection.
    Stream(Vec<Step>),
}

/// Who speaks to whom; labels as `source:key=value`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Connection {
    /// Address and port of the client.
    pub from: Option<SocketAddr>,
    /// Address and port it asked for.
    pub to: Option<SocketAddr>,
    /// Security identity of the client.
    pub identity: u32,
    /// Labels of the client.
    pub labels: Vec<String>,
}

/// A request.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Method.
    #[serde(default = "get")]
    pub method: String,
    /// `http://host/path`, or the path alone.
    pub url: String,
    /// Fields.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Body, for filters that see bodies.
    #[serde(default)]
    pub body: String,
}

fn get() -> String {
    "GET".to_owned()
}

impl Request {
    fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            is_token(&self.method),
            "request.method: `{}` is no method; e.g. GET",
            self.method
        );
        let plain = |byte: u8| byte.is_ascii_graphic();
        let placed = self.url.starts_with('/') || self.url.contains("://");
        anyhow::ensure!(
            placed && self.url.bytes().all(plain),
            "request.url: `{}` is none; e.g. http://shop.example/cart, or /cart",
            self.url
        );
        for name in self.headers.keys() {
            anyhow::ensure!(
                is_token(name),
                "request.headers: `{name}` is no name of a field"
            );
        }
        Ok(())
    }

    /// Authority and path.
    pub fn parts(&self) -> (&str, &str) {
        let Some((_, rest)) = self.url.split_once("://") else {
            return ("localhost", &self.url);
        };
        match rest.find(['/', '?']) {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        }
    }
}

/// A response.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Response {
    /// Status.
    #[serde(default = "ok")]
    pub status: u16,
    /// Fields.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Body, for filters that see bodies.
    #[serde(default)]
    pub body: String,
}

/// A token of RFC 9110 §5.6.2.
fn is_token(text: &str) -> bool {
    let of_tokens = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(of_tokens)
}

fn ok() -> u16 {
    200
}

/// Something that is said on a connection, and what has come out behind it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Step {
    /// What the client says.
    #[serde(default)]
    pub client: Option<String>,
    /// What the server says.
    #[serde(default)]
    pub server: Option<String>,
    /// What must have come to the server since the step before.
    #[serde(default)]
    pub to_server: Option<String>,
    /// What must have come to the client likewise.
    #[serde(default)]
    pub to_client: Option<String>,
    /// Must it be closed?
    #[serde(default)]
    pub closed: bool,
}

/// What must become of a message; what is not written may be anything.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Expected {
    /// Does it pass?
    pub verdict: Verdict,
    /// Status of a denial.
    #[serde(default)]
    pub status: Option<u16>,
    /// Body of a denial, or what passes of the message's, where the filter sees bodies.
    #[serde(default)]
    pub body: Option<String>,
    /// RCODE of a denial, by IANA's name.
    #[serde(default)]
    pub rcode: Option<String>,
    /// Index of the rule that decided.
    #[serde(default)]
    pub rule: Option<u32>,
    /// All fields that are set.
    #[serde(default)]
    pub set: Option<BTreeMap<String, String>>,
    /// All fields that are removed.
    #[serde(default)]
    pub remove: Option<Vec<String>>,
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It passes.
    Allowed,
    /// It is refused.
    Denied,
    /// The filter gives no answer: a trap, a limit, nonsense.
    Failed,
}

/// A file as it is written.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RawCases {
    /// Configuration of the cases that have none of their own.
    #[serde(default)]
    config: Value,
    #[schemars(with = "Vec<RawCase>")]
    cases: Vec<Spanned<RawCase>>,
}

/// One case: exactly one of `request`, `query` and `stream`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawCase {
    /// What it is called.
    #[serde(default)]
    name: Option<String>,
    /// Configuration, instead of the file's.
    #[serde(default)]
    config: Option<Value>,
    /// Who speaks to whom.
    #[serde(default)]
    connection: Connection,
    /// A request of HTTP.
    #[serde(default)]
    request: Option<Request>,
    /// What the server answers, if the request passes.
    #[serde(default)]
    response: Option<Response>,
    /// A query of DNS.
    #[serde(default)]
    query: Option<RawQuery>,
    /// A connection, step by step.
    #[serde(default)]
    stream: Option<Vec<Step>>,
    /// What must become of the request or query.
    #[serde(default)]
    expect: Option<Expected>,
    /// What must become of the response.
    #[serde(default)]
    expect_response: Option<Expected>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RawQuery {
    /// Name asked for.
    name: String,
    /// Type asked for, e.g. `AAAA`.
    #[serde(default = "address", rename = "type")]
    ty: String,
}

fn address() -> String {
    "A".to_owned()
}

/// JSON Schema of a file of cases.
pub fn schema() -> schemars::Schema {
    schemars::schema_for!(RawCases)
}

/// Reads a file of cases.
///
/// # Errors
///
/// Where it is wrong, and what would be right.
pub fn read(path: &Path) -> anyhow::Result<Cases> {
    let file = path.display().to_string();
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {file}"))?;
    parse(&file, &text)
}

/// The same of a text.
///
/// # Errors
///
/// As [`read`].
pub fn parse(file: &str, text: &str) -> anyhow::Result<Cases> {
    let mut field = String::new();
    let options = serde_saphyr::options! { with_snippet: false };
    let raw: RawCases =
        serde_saphyr::with_deserializer_from_str_with_options(text, options, |deserializer| {
            serde_path_to_error::deserialize(deserializer).map_err(|error| {
                // A case is read together with its place.
                field = error.path().to_string().replace("].value", "]");
                error.into_inner()
            })
        })
        .map_err(|error| {
            let error = error.without_snippet();
            let at = error.location().unwrap_or(serde_saphyr::Location::UNKNOWN);
            let said = error.to_string();
            // The place stands in front.
            let said = said.split(" at line ").next().unwrap_or_default();
            anyhow::anyhow!("{file}:{}:{}: {field}: {said}", at.line(), at.column())
        })?;
    anyhow::ensure!(!raw.cases.is_empty(), "{file}: cases: there is none");
    let mut cases = Vec::new();
    for (index, case) in raw.cases.into_iter().enumerate() {
        let line = case.referenced.line();
        let case = case
            .value
            .read(index, line, &raw.config)
            .with_context(|| format!("{file}:{line}: cases[{index}]"))?;
        cases.push(case);
    }
    Ok(Cases {
        file: file.to_owned(),
        cases,
    })
}

impl RawCase {
    fn read(self, index: usize, line: u64, config: &Value) -> anyhow::Result<Case> {
        let config = self.config.as_ref().unwrap_or(config);
        let config = match config {
            // As a binding without `config`.
            Value::Null => "{}".to_owned(),
            config => config.to_string(),
        };
        for label in &self.connection.labels {
            anyhow::ensure!(
                label
                    .split_once(':')
                    .is_some_and(|(source, _)| !source.is_empty()),
                "connection.labels: `{label}` has no source; e.g. k8s:app=frontend"
            );
        }
        let name = self.name.clone();
        Ok(Case {
            name: name.unwrap_or_else(|| format!("case {}", index + 1)),
            line,
            config,
            connection: self.connection.clone(),
            said: self.said()?,
        })
    }

    fn said(self) -> anyhow::Result<Said> {
        let of_http = self.response.is_some() || self.expect_response.is_some();
        match (self.request, self.query, self.stream) {
            (Some(request), None, None) => {
                anyhow::ensure!(
                    self.response.is_some() || self.expect_response.is_none(),
                    "expectResponse: there is no `response` to expect something of"
                );
                anyhow::ensure!(
                    self.expect.is_some() || self.expect_response.is_some(),
                    "nothing is expected; write `expect: {{verdict: allowed}}`"
                );
                request.check()?;
                for expected in self.expect.iter().chain(&self.expect_response) {
                    expected.is_of_http()?;
                }
                Ok(Said::Http {
                    request: request.into(),
                    expect: self.expect,
                    response: self.response.map(|head| (head, self.expect_response)),
                })
            }
            (None, Some(query), None) => {
                anyhow::ensure!(!of_http, "`response` is for `request` alone");
                let expect = self.expect.context(
                    "nothing is expected; write `expect: {verdict: denied, rcode: REFUSED}`",
                )?;
                expect.is_of_dns()?;
                query.read(expect)
            }
            (None, None, Some(steps)) => {
                anyhow::ensure!(
                    !of_http && self.expect.is_none(),
                    "`expect` is for `request` and `query`; of a stream each step says what must \
                     have come: `toServer`, `toClient`, `closed`"
                );
                for (index, step) in steps.iter().enumerate() {
                    step.check().with_context(|| format!("stream[{index}]"))?;
                }
                Ok(Said::Stream(steps))
            }
            _ => anyhow::bail!("needs exactly one of `request`, `query` and `stream`"),
        }
    }
}

impl RawQuery {
    fn read(&self, expect: Expected) -> anyhow::Result<Said> {
        let qtype = dns::type_number(&self.ty).with_context(|| {
            format!(
                "query.type: `{}` is no type of DNS record; use e.g. A, AAAA, SRV or TYPE65",
                self.ty
            )
        })?;
        let name = self.name.trim_end_matches('.').to_ascii_lowercase();
        anyhow::ensure!(
            name.len() <= 253 && name.split('.').all(|label| (1..=63).contains(&label.len())),
            "query.name: `{}` is no DNS name",
            self.name
        );
        Ok(Said::Dns {
            name: format!("{name}."),
            qtype,
            expect: Some(expect),
        })
    }
}

impl Step {
    fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.client.is_some() != self.server.is_some(),
            "needs exactly one of `client` and `server`: who speaks"
        );
        anyhow::ensure!(
            self.to_server.is_some() || self.to_client.is_some() || self.closed,
            "nothing is expected; write `toServer`, `toClient` or `closed: true`"
        );
        Ok(())
    }
}

impl Expected {
    /// This, whatever else is said.
    pub fn of(verdict: Verdict) -> Self {
        Self {
            verdict,
            status: None,
            body: None,
            rcode: None,
            rule: None,
            set: None,
            remove: None,
        }
    }

    fn is_of_http(&self) -> anyhow::Result<()> {
        anyhow::ensure!(self.rcode.is_none(), "rcode: is for `query` alone");
        anyhow::ensure!(
            self.verdict == Verdict::Denied || self.status.is_none(),
            "`status` and `rcode` are for `verdict: denied`"
        );
        anyhow::ensure!(
            self.verdict != Verdict::Failed || self.body.is_none(),
            "`body` is for `verdict: denied` and `allowed`"
        );
        let of_passing = self.set.is_some() || self.remove.is_some();
        anyhow::ensure!(
            self.verdict == Verdict::Allowed || !of_passing,
            "`set` and `remove` are for `verdict: allowed`"
        );
        Ok(())
    }

    fn is_of_dns(&self) -> anyhow::Result<()> {
        let of_http = self.status.is_some()
            || self.body.is_some()
            || self.set.is_some()
            || self.remove.is_some();
        anyhow::ensure!(
            !of_http,
            "`status`, `body`, `set` and `remove` are for `request` alone"
        );
        anyhow::ensure!(
            self.verdict == Verdict::Denied || self.rcode.is_none(),
            "`rcode` is for `verdict: denied`"
        );
        let known = (0..16).map(dns::rcode::name);
        if let Some(rcode) = &self.rcode {
            let known: Vec<_> = known.filter(|name| !name.contains(' ')).collect();
            anyhow::ensure!(
                known.iter().any(|name| name == rcode),
                "rcode: `{rcode}` is none; one of {}",
                known.join(", ")
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_name_their_place_and_the_way_out() {
        for (text, said) in [
            ("cases: []", "cases: there is none"),
            ("cases:\n- {}", "t.yaml:2: cases[0]: needs exactly one of"),
            ("cases:\n- {request: {url: /}}", "nothing is expected"),
            (
                "cases:\n- {request: {uri: /}}",
                "t.yaml:2:14: cases[0].request",
            ),
            (
                "cases:\n- request: {url: /}\n  expect: {verdict: refused}",
                "t.yaml:3:21: cases[0].expect.verdict",
            ),
            (
                "cases:\n- {query: {name: a, type: B}, expect: {verdict: allowed}}",
                "`B` is no type of DNS record",
            ),
            (
                "cases:\n- {query: {name: a}, expect: {verdict: denied, rcode: NO}}",
                "one of NOERROR, ",
            ),
            (
                "cases:\n- {query: {name: a..b}, expect: {verdict: allowed}}",
                "is no DNS name",
            ),
            (
                "cases:\n- {request: {url: /}, expect: {verdict: allowed, status: 403}}",
                "are for `verdict: denied`",
            ),
            (
                "cases:\n- {stream: [{client: a}]}",
                "stream[0]: nothing is expected",
            ),
            (
                "cases:\n- {request: {url: a b}, expect: {verdict: allowed}}",
                "request.url: `a b` is none",
            ),
            (
                "cases:\n- {request: {url: /, method: G T}, expect: {verdict: allowed}}",
                "is no method",
            ),
            (
                "cases:\n- connection: {labels: [app=a]}\n  request: {url: /}\n  expect: {verdict: allowed}",
                "has no source",
            ),
            ("cases:\n- {stream: [{toServer: a}]}", "who speaks"),
        ] {
            let error = parse("t.yaml", text).expect_err(text);
            let error = format!("{error:#}");
            assert!(error.contains(said), "{text}\n{error}");
        }
    }

    #[test]
    fn a_url_has_parts() {
        for (url, parts) in [
            ("http://a/b?c", ("a", "/b?c")),
            ("http://a", ("a", "/")),
            ("https://a:1?b", ("a:1", "?b")),
            ("/b", ("localhost", "/b")),
        ] {
            let request = Request {
                method: get(),
                url: url.to_owned(),
                headers: BTreeMap::new(),
                body: String::new(),
            };
            assert_eq!(request.parts(), parts);
        }
    }
}
