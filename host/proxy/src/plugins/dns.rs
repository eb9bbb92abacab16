//! Plugins of DNS.

use std::sync::Arc;

use tidegate_plugin_host::{DnsDecision, Failure};

use super::{Bound, WORKER};
use crate::decide::{
    Facts,
    dns::{DnsAnswer, DnsFilter},
};

impl DnsFilter for Bound {
    fn query(&self, name: &str, qtype: u16, facts: &Arc<Facts>) -> Result<DnsAnswer, Failure> {
        let decision =
            WORKER.with_borrow_mut(|worker| worker.dns_query(&self.0, name, qtype, facts))?;
        Ok(match decision {
            DnsDecision::Allow { rule } => DnsAnswer { refuse: None, rule },
            DnsDecision::Refuse { rcode } => DnsAnswer {
                refuse: Some(rcode),
                rule: None,
            },
        })
    }
}
