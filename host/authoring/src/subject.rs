//! A component on trial: admitted, loaded and asked as the proxy would.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt, fs,
    path::Path,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tempfile::TempDir;
use tidegate_contract::Snapshot;
use tidegate_plugin_host::{
    Admitted, Binding, Catalog, DnsDecision, Facts, Failure, HttpDecision, PluginStore, Runtime,
    StoreOptions, StreamDirection, StreamOperation, StreamSession, Worker,
};
use tidegate_policy::compiled::{
    FailMode, Generation, L7Id, L7Protocol, L7RuleSet, PluginUse, RuleId,
};
use tidegate_sdk::{Answer, Asked, Data, Direction, Operations, Reply, Trial};
use tidegate_wire::{
    dns::rcode,
    http::{Header, HttpHead, ResponseHead, Version},
};

use crate::cases::{Case, Connection, Expected, Request, Response, Said, Step, Verdict};
use crate::exchange;

/// How long a component is waited for: more than its `configure` may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Rules a filter may name in a trial.
const RULES: u32 = 256;

/// A component on trial.
pub struct Subject {
    /// What it was found to be.
    pub admitted: Admitted,
    /// How long it took to examine and compile it.
    pub compiled_in: Duration,
    code: Vec<u8>,
    runtime: Arc<Runtime>,
    /// By configuration. A catalog keeps the bindings of it alive.
    bindings: BTreeMap<String, Result<(Catalog, Arc<Binding>), String>>,
    /// Shared with the sessions of streams.
    worker: Rc<RefCell<Worker>>,
    _cache: TempDir,
}

/// Which message of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The request, or the query.
    Asked,
    /// The response.
    Answered,
    /// A step of a stream, from 0.
    Step(usize),
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked => f.write_str("expect"),
            Self::Answered => f.write_str("expectResponse"),
            Self::Step(index) => write!(f, "stream[{index}]"),
        }
    }
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It passes, perhaps changed.
    Allowed {
        /// Index of the rule that decided.
        rule: Option<u32>,
        /// Fields that are set.
        set: BTreeMap<String, String>,
        /// Fields that are removed.
        remove: Vec<String>,
        /// What passes of its body, where that is known.
        body: Option<String>,
    },
    /// A request that is refused.
    Denied {
        /// Status.
        status: u16,
        /// Body; empty for the usual one.
        body: String,
        /// Index of the rule that decided.
        rule: Option<u32>,
    },
    /// A query that is refused.
    Refused(u8),
    /// What came out of a connection, to the server and to the client, and why it was
    /// closed.
    Came {
        /// To the server.
        to_server: String,
        /// To the client.
        to_client: String,
        /// Why it was closed.
        closed: Option<String>,
    },
    /// There is no answer, and why.
    Failed(String),
}

impl Subject {
    /// Examines and compiles a file, as an agent would into whose folder it is put.
    ///
    /// # Errors
    ///
    /// Why an agent would refuse it.
    pub fn admit(file: &Path) -> anyhow::Result<Self> {
        Self::of(async |store| {
            let admitted = store.admit(file).await;
            admitted.map_err(|refusal| match refusal.is_final() {
                true => anyhow::anyhow!("{}: an agent would refuse it: {refusal}", file.display()),
                false => anyhow::anyhow!("{refusal}"),
            })
        })
    }

    /// The built-in matcher of this protocol, to compare with.
    ///
    /// # Errors
    ///
    /// If it cannot be compiled here.
    pub fn built_in(name: &str) -> anyhow::Result<Self> {
        Self::of(async |store| Ok(store.on_demand(name).await?))
    }

    fn of(
        admit: impl AsyncFnOnce(&PluginStore) -> anyhow::Result<Admitted>,
    ) -> anyhow::Result<Self> {
        let cache = tempfile::tempdir().context("cannot make a folder for compiled code")?;
        let store = PluginStore::new(StoreOptions::new(cache.path().join("cache")))?;
        let began = Instant::now();
        let admitted = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(admit(&store))?;
        let compiled_in = began.elapsed();
        let code = fs::read(&admitted.artifact).context("cannot read the compiled code")?;
        Ok(Self {
            admitted,
            compiled_in,
            code,
            runtime: Runtime::start()?,
            bindings: BTreeMap::new(),
            worker: Rc::default(),
            _cache: cache,
        })
    }

    /// Bytes of compiled code.
    pub fn compiled_size(&self) -> usize {
        self.code.len()
    }

    /// What becomes of the messages of a case, in their order.
    ///
    /// # Errors
    ///
    /// If the component reads something else than what the case says.
    pub fn run(&mut self, case: &Case) -> anyhow::Result<Vec<(Stage, Outcome)>> {
        let reads = self.admitted.info.world.protocol();
        let said = match &case.said {
            Said::Http { .. } => L7Protocol::Http,
            Said::Dns { .. } => L7Protocol::Dns,
            Said::Stream(_) => L7Protocol::Stream,
        };
        anyhow::ensure!(
            reads == said,
            "`{}` is of the world {} and is asked by `{}`",
            self.admitted.name,
            self.admitted.info.world.name(),
            match reads {
                L7Protocol::Http => "request",
                L7Protocol::Dns => "query",
                L7Protocol::Stream => "stream",
            }
        );
        let binding = match self.binding(&case.config) {
            Ok(binding) => binding,
            Err(reason) => {
                let reason = format!("it refuses the configuration: {reason}");
                return Ok(vec![(case.said.first(), Outcome::Failed(reason))]);
            }
        };
        let facts = Arc::new(facts(&case.connection));
        Ok(match &case.said {
            Said::Http {
                request, response, ..
            } => self.http(&binding, &facts, request, response.as_ref().map(|(r, _)| r)),
            Said::Dns { name, qtype, .. } => {
                let decided = patient(|| {
                    self.worker
                        .borrow_mut()
                        .dns_query(&binding, name, *qtype, &facts)
                });
                vec![(Stage::Asked, of_dns(decided))]
            }
            Said::Stream(steps) => self.stream(&binding, &facts, steps),
        })
    }

    /// How long it takes to answer the first message of a case, so many times over; of
    /// streams nothing, since each message is another.
    ///
    /// # Errors
    ///
    /// As [`Self::run`], and if it refuses the configuration.
    pub fn time(&mut self, case: &Case, calls: usize) -> anyhow::Result<Vec<Duration>> {
        let binding = self
            .binding(&case.config)
            .map_err(|reason| anyhow::anyhow!("it refuses the configuration: {reason}"))?;
        let facts = Arc::new(facts(&case.connection));
        let mut worker = self.worker.borrow_mut();
        let mut timed = |ask: &mut dyn FnMut(&mut Worker)| {
            (0..calls)
                .map(|_| {
                    let began = Instant::now();
                    ask(&mut worker);
                    began.elapsed()
                })
                .collect()
        };
        Ok(match &case.said {
            Said::Http { request, .. } => {
                let headers = fields(&request.headers);
                let head = head(request, &headers);
                match binding.has_exchanges() {
                    true => timed(&mut |worker| {
                        let exchange = worker.exchange_open(&binding, &facts);
                        drop(exchange.and_then(|open| worker.exchange_request(&open, &head)));
                    }),
                    false => {
                        timed(&mut |worker| drop(worker.http_request(&binding, &head, &facts)))
                    }
                }
            }
            Said::Dns { name, qtype, .. } => {
                timed(&mut |worker| drop(worker.dns_query(&binding, name, *qtype, &facts)))
            }
            Said::Stream(_) => Vec::new(),
        })
    }

    fn http(
        &mut self,
        binding: &Arc<Binding>,
        facts: &Arc<Facts>,
        request: &Request,
        response: Option<&Response>,
    ) -> Vec<(Stage, Outcome)> {
        let headers = fields(&request.headers);
        let head = head(request, &headers);
        if binding.has_exchanges() {
            let fields = response.map(|response| fields(&response.headers));
            let answer = response.zip(fields.as_ref()).map(|(response, headers)| {
                let head = ResponseHead {
                    status: response.status,
                    headers,
                };
                (head, &*response.body)
            });
            let answer = answer.as_ref().map(|(head, body)| (head, *body));
            let worker = &mut self.worker.borrow_mut();
            return exchange::run(worker, (binding, facts), (&head, &request.body), answer);
        }
        let decided = patient(|| self.worker.borrow_mut().http_request(binding, &head, facts));
        let mut outcomes = vec![(Stage::Asked, of_http(decided))];
        let passed = matches!(outcomes[0].1, Outcome::Allowed { .. });
        if let Some(response) = response.filter(|_| passed) {
            let headers = fields(&response.headers);
            let head = ResponseHead {
                status: response.status,
                headers: &headers,
            };
            let outcome = match binding.sees_responses() {
                true => of_http(patient(|| {
                    self.worker
                        .borrow_mut()
                        .http_response(binding, &head, facts)
                })),
                false => Outcome::allowed(),
            };
            outcomes.push((Stage::Answered, outcome));
        }
        outcomes
    }

    fn stream(
        &mut self,
        binding: &Arc<Binding>,
        facts: &Arc<Facts>,
        steps: &[Step],
    ) -> Vec<(Stage, Outcome)> {
        let opened = patient(|| self.worker.borrow_mut().stream_open(binding, facts, true));
        let session = match opened {
            Ok(session) => session,
            Err(failure) => return vec![(Stage::Step(0), Outcome::failed(&failure))],
        };
        let mut trial = Trial::of(Session {
            worker: self.worker.clone(),
            session,
        });
        let mut outcomes = Vec::new();
        for (index, step) in steps.iter().enumerate() {
            let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
            if let Some(bytes) = &step.client {
                to_server = trial.client(bytes.as_bytes());
                to_client = trial.take(Direction::ToClient);
            }
            if let Some(bytes) = &step.server {
                to_client = trial.server(bytes.as_bytes());
                to_server = trial.take(Direction::ToServer);
            }
            let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
            let outcome = Outcome::Came {
                to_server: text(to_server),
                to_client: text(to_client),
                closed: trial.closed.clone(),
            };
            outcomes.push((Stage::Step(index), outcome));
        }
        outcomes
    }

    /// Its binding with this configuration, or why it refuses that.
    fn binding(&mut self, config: &str) -> Result<Arc<Binding>, String> {
        if !self.bindings.contains_key(config) {
            let made = self.bind(config);
            self.bindings.insert(config.to_owned(), made);
        }
        match &self.bindings[config] {
            Ok((_, binding)) => Ok(binding.clone()),
            Err(reason) => Err(reason.clone()),
        }
    }

    fn bind(&self, config: &str) -> Result<(Catalog, Arc<Binding>), String> {
        let Admitted { name, info, .. } = &self.admitted;
        let set = L7RuleSet {
            protocol: info.world.protocol(),
            http: Default::default(),
            chain: vec![PluginUse {
                plugin: name.clone(),
                config: config.to_owned(),
                fail_mode: FailMode::Closed,
                rules: (1..=RULES).map(RuleId).collect(),
                bound: false,
                in_shadow: false,
            }],
            tls: None,
            contexts: Default::default(),
            shadow: None,
        };
        let snapshot = Snapshot {
            generation: Generation(1),
            l7: tidegate_policy::shared::Map::unit(L7Id(1), set.into()),
            plugins: tidegate_policy::shared::Map::unit(name.clone(), info.clone()),
            ..Snapshot::default()
        };
        let artifacts = [(info.artifact.clone(), self.code.clone())].into();
        let next = Catalog::empty(self.runtime.clone()).next(&snapshot, &artifacts);
        next.wait(PATIENCE, PATIENCE);
        let catalog = next.refreshed();
        if let Some((_, reason)) = catalog.refused().into_iter().next() {
            return Err(reason);
        }
        let set = catalog.rule_set(L7Id(1)).ok_or("it could not be loaded")?;
        let binding = set.chain[0].clone();
        Ok((catalog, binding))
    }
}

/// While an instance is being made, asks again: the machine may be busy.
pub(crate) fn patient<T>(mut ask: impl FnMut() -> Result<T, Failure>) -> Result<T, Failure> {
    let began = Instant::now();
    loop {
        match ask() {
            Err(Failure::Restarting) if began.elapsed() < PATIENCE => {}
            outcome => return outcome,
        }
    }
}

fn facts(connection: &Connection) -> Facts {
    let default = Facts::default();
    Facts {
        source: connection.from.unwrap_or(default.source),
        destination: connection.to.unwrap_or(default.destination),
        source_identity: connection.identity,
        source_labels: connection.labels.clone().into(),
        imagined: false,
    }
}

fn head<'a>(request: &'a Request, headers: &'a [Header<'a>]) -> HttpHead<'a> {
    let (authority, path) = request.parts();
    HttpHead {
        version: Version::Http11,
        method: &request.method,
        path,
        authority,
        headers,
    }
}

fn fields(headers: &BTreeMap<String, String>) -> Vec<Header<'_>> {
    headers
        .iter()
        .map(|(name, value)| Header {
            name,
            value: value.as_bytes(),
        })
        .collect()
}

fn of_http(decided: Result<HttpDecision, Failure>) -> Outcome {
    match decided {
        Ok(HttpDecision::Allow { rule }) => Outcome::Allowed {
            rule,
            set: BTreeMap::new(),
            remove: Vec::new(),
            body: None,
        },
        Ok(HttpDecision::Edit { rule, edit }) => Outcome::Allowed {
            rule,
            set: edit.set.into_iter().collect(),
            remove: edit.remove,
            body: None,
        },
        Ok(HttpDecision::Deny(denial)) => Outcome::Denied {
            status: denial.status,
            body: denial.body,
            rule: denial.rule,
        },
        Err(failure) => Outcome::failed(&failure),
    }
}

fn of_dns(decided: Result<DnsDecision, Failure>) -> Outcome {
    match decided {
        Ok(DnsDecision::Allow { rule }) => Outcome::Allowed {
            rule,
            set: BTreeMap::new(),
            remove: Vec::new(),
            body: None,
        },
        Ok(DnsDecision::Refuse { rcode }) => Outcome::Refused(rcode),
        Err(failure) => Outcome::failed(&failure),
    }
}

impl Said {
    fn first(&self) -> Stage {
        match self {
            Self::Http { .. } | Self::Dns { .. } => Stage::Asked,
            Self::Stream(_) => Stage::Step(0),
        }
    }

    /// What differs from what must become of it: nothing if all is well.
    pub fn judge(&self, outcomes: &[(Stage, Outcome)]) -> Vec<(Stage, String)> {
        let mut wrong = Vec::new();
        let mut differs = |stage: Stage, outcome: &Outcome| {
            let expected = match (self, stage) {
                (Self::Http { expect, .. } | Self::Dns { expect, .. }, Stage::Asked) => expect,
                (
                    Self::Http {
                        response: Some((_, expect)),
                        ..
                    },
                    Stage::Answered,
                ) => expect,
                (Self::Stream(steps), Stage::Step(index)) => {
                    let difference = steps.get(index).and_then(|step| step.differs(outcome));
                    wrong.extend(difference.map(|text| (stage, text)));
                    return;
                }
                _ => return,
            };
            let difference = expected.as_ref().and_then(|e| e.differs(outcome));
            wrong.extend(difference.map(|text| (stage, text)));
        };
        for (stage, outcome) in outcomes {
            differs(*stage, outcome);
        }
        // What was expected of a message that never came about.
        if let Self::Http {
            response: Some((_, Some(_))),
            expect,
            ..
        } = self
            && outcomes.len() == 1
            && wrong.is_empty()
        {
            let text = match expect {
                Some(_) => "the request does not pass, so there is no response".to_owned(),
                None => format!("the request does not pass: {}", outcomes[0].1),
            };
            wrong.push((Stage::Answered, text));
        }
        wrong
    }
}

impl Step {
    fn differs(&self, outcome: &Outcome) -> Option<String> {
        let Outcome::Came {
            to_server,
            to_client,
            closed,
        } = outcome
        else {
            return Some(outcome.to_string());
        };
        let ways = [
            ("toServer", &self.to_server, to_server),
            ("toClient", &self.to_client, to_client),
        ];
        for (way, expected, came) in ways {
            if let Some(expected) = expected
                && expected != came
            {
                return Some(format!("{way}: expected {expected:?}, came {came:?}"));
            }
        }
        match (self.closed, closed) {
            (true, None) => Some("closed: it goes on".to_owned()),
            (false, Some(reason)) => Some(format!("closed: {reason}")),
            _ => None,
        }
    }
}

impl Expected {
    fn differs(&self, outcome: &Outcome) -> Option<String> {
        let verdict = outcome.verdict();
        if verdict != self.verdict {
            let expected = format!("{:?}", self.verdict).to_lowercase();
            return Some(format!("expected {expected}, but it is {outcome}"));
        }
        fn unequal<T: PartialEq + fmt::Debug>(
            what: &str,
            expected: Option<&T>,
            came: &T,
        ) -> Option<String> {
            let expected = expected.filter(|expected| *expected != came)?;
            Some(format!("{what}: expected {expected:?}, came {came:?}"))
        }
        let by_rule = |came: &Option<u32>| match (self.rule, came) {
            (Some(expected), came) if *came != Some(expected) => Some(match came {
                Some(came) => format!("rule: expected {expected}, came {came}"),
                None => format!("rule: expected {expected}, it names none"),
            }),
            _ => None,
        };
        match outcome {
            Outcome::Allowed {
                rule,
                set,
                remove,
                body,
            } => by_rule(rule)
                .or_else(|| unequal("set", self.set.as_ref(), set))
                .or_else(|| unequal("remove", self.remove.as_ref(), remove))
                .or_else(|| match (&self.body, body) {
                    (Some(_), None) => {
                        Some("body: this filter sees no bodies; expect none".to_owned())
                    }
                    (expected, Some(came)) => unequal("body", expected.as_ref(), came),
                    (None, None) => None,
                }),
            Outcome::Denied { status, body, rule } => by_rule(rule)
                .or_else(|| unequal("status", self.status.as_ref(), status))
                .or_else(|| unequal("body", self.body.as_ref(), body)),
            Outcome::Refused(code) => unequal(
                "rcode",
                self.rcode.as_ref(),
                &rcode::name(*code).into_owned(),
            ),
            Outcome::Came { .. } | Outcome::Failed(_) => None,
        }
    }
}

impl Outcome {
    pub(crate) fn allowed() -> Self {
        Self::Allowed {
            rule: None,
            set: BTreeMap::new(),
            remove: Vec::new(),
            body: None,
        }
    }

    pub(crate) fn failed(failure: &Failure) -> Self {
        Self::Failed(failure.to_string())
    }

    fn verdict(&self) -> Verdict {
        match self {
            Self::Allowed { .. } | Self::Came { .. } => Verdict::Allowed,
            Self::Denied { .. } | Self::Refused(_) => Verdict::Denied,
            Self::Failed(_) => Verdict::Failed,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = |rule: &Option<u32>| match rule {
            Some(rule) => format!(" by rule {rule}"),
            None => String::new(),
        };
        match self {
            Self::Allowed {
                rule, set, remove, ..
            } => {
                write!(f, "allowed{}", by(rule))?;
                for (name, value) in set {
                    write!(f, ", sets {name}: {value}")?;
                }
                for name in remove {
                    write!(f, ", removes {name}")?;
                }
                Ok(())
            }
            Self::Denied { status, body, rule } => {
                write!(f, "denied{} with {status}", by(rule))?;
                match body.trim_end() {
                    "" => Ok(()),
                    body => write!(f, ": {body}"),
                }
            }
            Self::Refused(code) => write!(f, "denied with {}", rcode::name(*code)),
            Self::Came {
                to_server,
                to_client,
                closed,
            } => {
                write!(
                    f,
                    "to the server {to_server:?}, to the client {to_client:?}"
                )?;
                match closed {
                    Some(reason) => write!(f, ", closed: {reason}"),
                    None => Ok(()),
                }
            }
            Self::Failed(reason) => write!(f, "failed: {reason}"),
        }
    }
}

/// A session of the component, for the SDK's stand-in of a connection.
struct Session {
    worker: Rc<RefCell<Worker>>,
    session: StreamSession,
}

impl tidegate_sdk::StreamSession for Session {
    fn on_data(&mut self, data: Data<'_>) -> Operations {
        let direction = match data.direction {
            Direction::ToServer => StreamDirection::ToServer,
            Direction::ToClient => StreamDirection::ToClient,
        };
        let mut operations = Operations::none();
        let mut worker = self.worker.borrow_mut();
        match worker.stream_data(&self.session, direction, data.bytes, data.end) {
            Ok(said) => said.into_iter().for_each(|one| say(one, &mut operations)),
            Err(failure) => drop(operations.close(format!("the filter failed: {failure}"))),
        }
        operations
    }
}

fn say(operation: StreamOperation, operations: &mut Operations) {
    let answer = |answer: tidegate_plugin_host::StreamAnswer| Answer {
        code: answer.code,
        text: answer.text,
    };
    match operation {
        StreamOperation::Pass(count) => operations.pass(count),
        StreamOperation::Drop(count) => operations.discard(count),
        StreamOperation::Undecided(count, reason) => operations.undecided(count, reason),
        StreamOperation::Hold(count) => operations.hold(count),
        StreamOperation::Inject(StreamDirection::ToServer, bytes) => {
            operations.inject(Direction::ToServer, bytes)
        }
        StreamOperation::Inject(StreamDirection::ToClient, bytes) => {
            operations.inject(Direction::ToClient, bytes)
        }
        StreamOperation::Request(asked) => operations.request(Asked {
            id: asked.id,
            command: asked.command,
            targets: asked.targets,
            allowed: asked.allowed,
            rule: asked.rule,
            reply: match asked.reply {
                None => Reply::Awaited,
                Some(None) => Reply::None,
                Some(Some(given)) => Reply::Given(answer(given)),
            },
        }),
        StreamOperation::Answered(id, given) => operations.answered(id, answer(given)),
        StreamOperation::Close(reason) => operations.close(reason),
    };
}
