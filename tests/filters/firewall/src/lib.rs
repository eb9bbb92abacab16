//! Refuses requests that match patterns, as Coraza does: its plugin configuration has one a
//! line, `PLACE PATTERN`, where the place is `path`, `header` or `body`. A request with a body
//! waits until all of it was looked at.

#![allow(missing_docs, reason = "the SDK's macro exports a function without")]

use std::rc::Rc;

use proxy_wasm::{traits::*, types::*};
use regex::bytes::{Regex, RegexBuilder};

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|_| Box::<Root>::default());
}}

#[derive(Default)]
struct Rules {
    path: Vec<Regex>,
    header: Vec<Regex>,
    body: Vec<Regex>,
}

#[derive(Default)]
struct Root(Rc<Rules>);

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        let text = self.get_plugin_configuration().unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let mut rules = Rules::default();
        for line in text.lines().filter(|line| !line.is_empty()) {
            let Some((place, pattern)) = line.split_once(' ') else {
                return false;
            };
            let Ok(pattern) = RegexBuilder::new(pattern).unicode(false).build() else {
                return false;
            };
            match place {
                "path" => rules.path.push(pattern),
                "header" => rules.header.push(pattern),
                "body" => rules.body.push(pattern),
                _ => return false,
            }
        }
        self.0 = Rc::new(rules);
        true
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Exchange(self.0.clone())))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

struct Exchange(Rc<Rules>);

impl Context for Exchange {}

fn hit(rules: &[Regex], bytes: &[u8]) -> bool {
    rules.iter().any(|rule| rule.is_match(bytes))
}

impl Exchange {
    fn refuse(&self, place: &str) -> Action {
        let body = format!("refused by a pattern of the {place}\n");
        self.send_http_response(403, vec![("x-refused-by", place)], Some(body.as_bytes()));
        Action::Pause
    }
}

impl HttpContext for Exchange {
    fn on_http_request_headers(&mut self, _count: usize, end: bool) -> Action {
        for (name, value) in self.get_http_request_headers_bytes() {
            if name == ":path" && hit(&self.0.path, &value) {
                return self.refuse("path");
            }
            if !name.starts_with(':') && hit(&self.0.header, &value) {
                return self.refuse("header");
            }
        }
        match end || self.0.body.is_empty() {
            true => Action::Continue,
            false => Action::Pause,
        }
    }

    fn on_http_request_body(&mut self, size: usize, end: bool) -> Action {
        if self.0.body.is_empty() {
            return Action::Continue;
        }
        if !end {
            return Action::Pause;
        }
        let body = self.get_http_request_body(0, size).unwrap_or_default();
        match hit(&self.0.body, &body) {
            true => self.refuse("body"),
            false => Action::Continue,
        }
    }
}
