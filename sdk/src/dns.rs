//! DNS filters: the trait, the query, and the glue behind [`dns_filter!`](crate::dns_filter).

use crate::bindings::dns_world::exports::tidegate::filter::dns as wit;

/// A filter over DNS queries. One value is made per binding and worker thread.
pub trait DnsFilter: Sized + 'static {
    /// Makes a filter from the binding's configuration (JSON text).
    ///
    /// # Errors
    ///
    /// A sentence for the operator; the version before stays in use.
    fn configure(config: &str) -> Result<Self, String>;

    /// Decides a query by its first question.
    fn on_query(&mut self, query: &Query) -> DnsDecision;
}

/// The first question of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Name, lower case with a final dot.
    pub name: String,
    /// QTYPE number.
    pub qtype: u16,
}

/// What a filter decides about a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsDecision {
    /// Forward it; index of the rule that allowed, if one did.
    Allow(Option<u32>),
    /// Answer it with this RCODE (RFC 1035 §4.1.1).
    Refuse(u8),
}

impl DnsDecision {
    /// The usual refusal: RCODE 5, REFUSED.
    pub const REFUSED: Self = Self::Refuse(5);
}

impl From<DnsDecision> for wit::Decision {
    fn from(decision: DnsDecision) -> Self {
        match decision {
            DnsDecision::Allow(rule) => Self::Allow(rule),
            DnsDecision::Refuse(rcode) => Self::Refuse(rcode),
        }
    }
}

/// Makes a plugin of a type that implements [`DnsFilter`]; the
/// second argument is its manifest, as for [`http_filter!`](crate::http_filter).
#[macro_export]
macro_rules! dns_filter {
    ($filter:ty, $manifest:tt) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            use $crate::dns_glue as glue;

            $crate::embed_manifest!($manifest);

            struct Export;

            ::std::thread_local! {
                static FILTER: glue::Slot<$filter> = const { glue::Slot::new(None) };
            }

            impl glue::Guest for Export {
                fn configure(config: String) -> Result<(), String> {
                    FILTER.with(|slot| glue::configure(slot, &config))
                }

                fn on_query(name: String, qtype: u16) -> glue::Decision {
                    FILTER.with(|slot| glue::on_query(slot, name, qtype))
                }
            }

            $crate::bindings::dns_world::export!(
                Export with_types_in $crate::bindings::dns_world
            );
        };
    };
}

/// What [`dns_filter!`](crate::dns_filter) expands to calls of.
pub mod glue {
    use std::cell::RefCell;

    pub use super::wit::{Decision, Guest};
    use super::{DnsFilter, Query};

    /// Where the one filter of an instance lives once it is configured.
    pub type Slot<F> = RefCell<Option<F>>;

    /// `configure` of the contract.
    ///
    /// # Errors
    ///
    /// The filter's own.
    pub fn configure<F: DnsFilter>(slot: &Slot<F>, config: &str) -> Result<(), String> {
        slot.replace(Some(F::configure(config)?));
        Ok(())
    }

    /// `on-query` of the contract.
    pub fn on_query<F: DnsFilter>(slot: &Slot<F>, name: String, qtype: u16) -> Decision {
        match slot.borrow_mut().as_mut() {
            Some(filter) => filter.on_query(&Query { name, qtype }).into(),
            // The host configures before it asks; a host that does not gets a trap.
            None => panic!("asked before configured"),
        }
    }
}
