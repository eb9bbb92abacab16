//! A filter made with the SDK of proxy-wasm, for this host and for Envoy alike. Its plugin
//! configuration says what it does: one thing of the contract at a time. What it finds out it
//! says in header fields, so that both hosts can be compared by what a client sees.

#![allow(missing_docs, reason = "the SDK's macro exports a function without")]

use std::{rc::Rc, time::Duration};

use proxy_wasm::{hostcalls, traits::*, types::*};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Trace);
    proxy_wasm::set_root_context(|_| Box::<Root>::default());
}}

#[derive(Default)]
struct Root {
    does: Rc<str>,
    metrics: [u32; 3],
    queue: u32,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_vm_start(&mut self, _size: usize) -> bool {
        self.get_vm_configuration().as_deref() != Some(b"refused")
    }

    fn on_configure(&mut self, _size: usize) -> bool {
        let bytes = self.get_plugin_configuration().unwrap_or_default();
        self.does = String::from_utf8_lossy(&bytes).into();
        match &*self.does {
            "refused" => return false,
            "trapped" => panic!("as asked"),
            "metrics" => {
                let kinds = [
                    MetricType::Counter,
                    MetricType::Gauge,
                    MetricType::Histogram,
                ];
                for ((kind, name), id) in kinds
                    .into_iter()
                    .zip(["sample_requests", "sample_level", "sample_sizes"])
                    .zip(&mut self.metrics)
                {
                    *id = hostcalls::define_metric(kind, name).expect("a metric");
                }
            }
            "shared" => {
                self.queue = self.register_shared_queue("work");
                self.set_tick_period(Duration::from_millis(20));
            }
            _ => {}
        }
        hostcalls::log(LogLevel::Info, &format!("configured to do {}", self.does)).is_ok()
    }

    /// Counts ticks in a value that all instances see.
    fn on_tick(&mut self) {
        add(self, "ticks", 1);
    }

    /// Counts what came through the queue.
    fn on_queue_ready(&mut self, queue: u32) {
        while let Ok(Some(_)) = self.dequeue_shared_queue(queue) {
            add(self, "worked", 1);
        }
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Exchange {
            does: self.does.clone(),
            metrics: self.metrics,
            queue: self.queue,
            path: String::new(),
            found: Vec::new(),
            seen: 0,
        }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

/// Adds to a shared number, until nobody else changed it meanwhile; what it is then.
fn add(context: &dyn Context, name: &str, by: u64) -> u64 {
    loop {
        let (bytes, cas) = context.get_shared_data(name);
        let now = bytes.and_then(|bytes| Some(u64::from_le_bytes(bytes.try_into().ok()?)));
        let next = now.unwrap_or(0) + by;
        if context
            .set_shared_data(name, Some(&next.to_le_bytes()), cas)
            .is_ok()
        {
            return next;
        }
    }
}

struct Exchange {
    does: Rc<str>,
    metrics: [u32; 3],
    queue: u32,
    path: String,
    /// Said in the response.
    found: Vec<(&'static str, String)>,
    /// Bytes of the body.
    seen: usize,
}

impl Exchange {
    fn property(&self, path: &[&str]) -> String {
        match self.get_property(path.to_vec()) {
            None => "absent".to_owned(),
            Some(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        }
    }

    fn find_properties(&mut self) {
        for (name, path) in [
            ("x-path", &["request", "path"][..]),
            ("x-url-path", &["request", "url_path"]),
            ("x-query", &["request", "query"]),
            ("x-method", &["request", "method"]),
            ("x-host", &["request", "host"]),
            ("x-scheme", &["request", "scheme"]),
            ("x-protocol", &["request", "protocol"]),
            ("x-agent", &["request", "useragent"]),
            ("x-one", &["request", "headers", "x-probe"]),
            ("x-plugin", &["plugin_name"]),
            ("x-root", &["plugin_root_id"]),
            ("x-vm", &["plugin_vm_id"]),
            ("x-unknown", &["no_such_thing"]),
            ("x-deep", &["request", "no_such_thing"]),
        ] {
            let found = self.property(path);
            self.found.push((name, found));
        }
        self.set_property(vec!["sample_state"], Some(b"kept"));
        let kept = self.property(&["sample_state"]);
        self.found.push(("x-state", kept));
        let address = self.property(&["source", "address"]);
        let plausible = address.parse::<std::net::SocketAddr>().is_ok();
        self.found.push(("x-source", plausible.to_string()));
        let mtls = self.get_property(vec!["connection", "mtls"]);
        self.found.push(("x-mtls", format!("{mtls:?}")));
        let time = self
            .get_property(vec!["request", "time"])
            .unwrap_or_default();
        self.found.push(("x-time", time.len().to_string()));
    }
}

impl Context for Exchange {
    fn on_done(&mut self) -> bool {
        if &*self.does == "ends" {
            add(self, "done", 1);
        }
        true
    }
}

impl HttpContext for Exchange {
    fn on_http_request_headers(&mut self, count: usize, end: bool) -> Action {
        self.path = self.get_http_request_header(":path").unwrap_or_default();
        match &*self.does {
            "headers" => {
                self.found.push((
                    "x-count",
                    (count == self.get_http_request_headers().len()).to_string(),
                ));
                self.found.push(("x-end", end.to_string()));
                let two = self.get_http_request_header("x-two").unwrap_or_default();
                self.found.push(("x-first-of-two", two));
                let none = self.get_http_request_header("x-not-there");
                self.found.push(("x-none", format!("{none:?}")));
                let empty = self.get_http_request_header("x-empty");
                self.found.push(("x-was-empty", format!("{empty:?}")));
                self.set_http_request_header("x-replaced", Some("by the filter"));
                self.set_http_request_header("x-removed", None);
                self.add_http_request_header("x-added", "one");
                self.add_http_request_header("x-added", "two");
            }
            "reply" if self.path.starts_with("/reply") => {
                let status = self.path["/reply".len()..].trim_start_matches('/').parse();
                self.send_http_response(
                    status.unwrap_or(418),
                    vec![
                        ("x-why", "so"),
                        ("x-why", "and so"),
                        ("content-type", "application/json"),
                    ],
                    Some(b"{\"said\": \"by the filter\"}"),
                );
                return Action::Pause;
            }
            "reply" if self.path == "/bare" => {
                self.send_http_response(403, vec![], None);
                return Action::Pause;
            }
            "reply" if self.path == "/continues" => {
                self.send_http_response(429, vec![], Some(b"slow down"));
                return Action::Continue;
            }
            "properties" => self.find_properties(),
            "metrics" => {
                let [requests, level, sizes] = self.metrics;
                let _ = hostcalls::increment_metric(requests, 1);
                let _ = hostcalls::record_metric(level, 7);
                let _ = hostcalls::increment_metric(level, -2);
                let _ = hostcalls::record_metric(sizes, 100);
                let read = |id| format!("{:?}", hostcalls::get_metric(id));
                self.found.push(("x-requests", read(requests)));
                self.found.push(("x-level", read(level)));
            }
            "shared" => {
                if self.path == "/work" {
                    let _ = self.enqueue_shared_queue(self.queue, Some(b"item"));
                }
                for (field, name) in [
                    ("x-ticks", "ticks"),
                    ("x-worked", "worked"),
                    ("x-seen", "seen"),
                ] {
                    let by = u64::from(name == "seen");
                    let now = add(self, name, by).to_string();
                    self.found.push((field, now));
                }
                let other = self.resolve_shared_queue("another", "work");
                self.found.push(("x-others-queue", format!("{other:?}")));
            }
            "callout" => {
                let headers = vec![(":method", "GET"), (":path", "/"), (":authority", "nobody")];
                let sent = self.dispatch_http_call(
                    "nobody",
                    headers,
                    None,
                    vec![],
                    Duration::from_secs(1),
                );
                self.found
                    .push(("x-callout", format!("{:?}", sent.map(drop))));
            }
            "reserved" => match self.path.as_str() {
                "/length" => self.set_http_request_header("content-length", Some("5")),
                "/host" => self.set_http_request_header(":authority", Some("other")),
                "/no-length" => self.set_http_request_header("content-length", None),
                _ => {}
            },
            "pause" => return Action::Pause,
            "trap" if self.path == "/trap" => panic!("as asked"),
            "ends" => self
                .found
                .push(("x-done", add(self, "done", 0).to_string())),
            "body" | "bodies" if !end => {
                // The length will be another.
                self.set_http_request_header("content-length", None);
                return Action::Pause;
            }
            _ => {}
        }
        Action::Continue
    }

    fn on_http_request_body(&mut self, size: usize, end: bool) -> Action {
        match &*self.does {
            "body" if !end => Action::Pause,
            "body" => {
                let body = self.get_http_request_body(0, size).unwrap_or_default();
                if body.windows(6).any(|window| window == b"secret") {
                    self.send_http_response(422, vec![], Some(b"not that word"));
                    return Action::Pause;
                }
                self.set_http_request_body(0, size, &body.to_ascii_uppercase());
                self.set_http_request_header("x-body", Some(&size.to_string()));
                Action::Continue
            }
            "stream" => {
                self.seen += size;
                if end {
                    add(self, "bytes", self.seen as u64);
                }
                Action::Continue
            }
            _ => Action::Continue,
        }
    }

    fn on_http_response_headers(&mut self, _count: usize, end: bool) -> Action {
        for (name, value) in std::mem::take(&mut self.found) {
            self.add_http_response_header(name, &value);
        }
        match &*self.does {
            "headers" => {
                self.set_http_response_header("x-filter", Some(&self.path));
                self.set_http_response_header("server", None);
                let status = self.get_http_response_header(":status");
                self.set_http_response_header("x-status", status.as_deref());
            }
            "reply" if self.path == "/late" => {
                self.send_http_response(502, vec![("x-why", "late")], Some(b"instead"));
                return Action::Pause;
            }
            "body" if !end => self.set_http_response_header("content-length", None),
            _ => {}
        }
        Action::Continue
    }

    fn on_http_response_body(&mut self, size: usize, end: bool) -> Action {
        match &*self.does {
            "body" if !end => Action::Pause,
            "body" => {
                let body = self.get_http_response_body(0, size).unwrap_or_default();
                let text = String::from_utf8_lossy(&body).replace("secret", "[taken out]");
                self.set_http_response_body(0, size, text.as_bytes());
                Action::Continue
            }
            _ => Action::Continue,
        }
    }

    fn on_log(&mut self) {
        if &*self.does == "ends" {
            let status = self.property(&["request", "path"]);
            let _ = hostcalls::log(LogLevel::Info, &format!("it is over: {status}"));
        }
    }
}
