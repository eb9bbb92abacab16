//! Counts of gRPC calls by what was called.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use tidegate_contract::GrpcCall;
use tidegate_wire::grpc::code;

/// Most pairs of service and method that are counted by name.
const NAMED: usize = 512;

/// Calls by what was called, the name of the status and the verdict. A client chooses what
/// it asks for, so only what some server has answered has a name here: all else is `other`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    named: BTreeSet<(String, String)>,
    counts: BTreeMap<Key, u64>,
}

/// Service, method, name of the status, verdict.
type Key = (String, String, Cow<'static, str>, &'static str);

impl Calls {
    /// Counts one.
    pub(super) fn count(&mut self, call: &GrpcCall, verdict: &'static str) {
        let name = (call.service.clone(), call.method.clone());
        let answered = verdict == "FORWARDED"
            && call
                .status
                .is_some_and(|status| status != code::UNIMPLEMENTED);
        if answered && self.named.len() < NAMED {
            self.named.insert(name.clone());
        }
        let (service, method) = match self.named.contains(&name) {
            true => name,
            false => ("other".to_owned(), "other".to_owned()),
        };
        // A server chooses it, but what has no name is one thing.
        let status = match call.status {
            Some(0..=16) | None => call.status_name(),
            Some(_) => "other".into(),
        };
        *self
            .counts
            .entry((service, method, status, verdict))
            .or_default() += 1;
    }

    /// The counts.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &u64)> {
        self.counts.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_server_answers_makes_no_series() {
        let mut calls = Calls::default();
        let call = |method: &str, status| GrpcCall {
            service: "shop.Orders".into(),
            method: method.into(),
            status,
        };
        calls.count(&call("Invented", Some(7)), "DROPPED");
        calls.count(&call("Missing", Some(code::UNIMPLEMENTED)), "FORWARDED");
        calls.count(&call("Get", Some(0)), "FORWARDED");
        calls.count(&call("Get", Some(7)), "DROPPED");
        calls.count(&call("Get", Some(4711)), "FORWARDED");
        calls.count(&call("Get", None), "ERROR");
        let counts: Vec<String> = calls
            .iter()
            .map(|((_, method, status, verdict), n)| format!("{method} {status} {verdict} {n}"))
            .collect();
        assert_eq!(
            counts,
            [
                "other PERMISSION_DENIED DROPPED 1",
                "other UNIMPLEMENTED FORWARDED 1",
                "Get OK FORWARDED 1",
                "Get PERMISSION_DENIED DROPPED 1",
                "Get no status ERROR 1",
                "Get other FORWARDED 1",
            ]
        );
        for n in 0..2 * NAMED {
            calls.count(&call(&n.to_string(), Some(0)), "FORWARDED");
        }
        assert!(calls.iter().count() <= NAMED + 6);
    }
}
