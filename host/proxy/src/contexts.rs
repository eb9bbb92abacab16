//! What TLS is spoken with where it begins or ends here, ready for connections. One that
//! was made goes on being used while its files say the same, so that its tickets count.

use std::{collections::BTreeMap, sync::Arc};

use tidegate_contract::{Context, Credentials, Snapshot, TlsEnd, context_key, contexts};
use tidegate_policy::tls::TlsContext;
use tidegate_tls::{Authorities, Identity, Originator, Terminator, Unusable};

/// One context at one end.
#[derive(Clone)]
enum Ready {
    Terminator(Terminator),
    Originator(Originator),
}

/// What is known of a context.
enum Known {
    /// Made of these.
    Ready(Credentials, Ready),
    /// Why there is nothing to speak TLS with.
    Not(String),
}

/// All contexts of a generation, and those of the one before that rule sets still name.
#[derive(Clone, Default)]
pub(super) struct Contexts(BTreeMap<String, Arc<Known>>);

impl Contexts {
    /// Those of a snapshot that follows `before`.
    pub(super) fn new(snapshot: &Snapshot, before: Option<&Self>) -> Self {
        let mut all = BTreeMap::new();
        for (end, context) in contexts(&snapshot.l7) {
            let key = context_key(end, context);
            if all.contains_key(&key) {
                continue;
            }
            let known = before.and_then(|before| before.0.get(&key)).cloned();
            let now = match (snapshot.contexts.get(&key), known) {
                (Some(Context::Usable(credentials)), known) => match known {
                    Some(known) if matches!(&*known, Known::Ready(of, _) if of == credentials) => {
                        known
                    }
                    _ => Arc::new(match make(end, credentials) {
                        Ok(ready) => Known::Ready(credentials.clone(), ready),
                        Err(why) => Known::Not(format!("{}: {why}", context.secret())),
                    }),
                },
                // An agent that has not seen better files than these has not seen what we have;
                // and of a generation that is over nothing is said any more.
                (Some(Context::Broken(_)) | None, Some(known))
                    if matches!(&*known, Known::Ready(..)) =>
                {
                    known
                }
                (Some(Context::Broken(why) | Context::Missing(why)), _) => {
                    Arc::new(Known::Not(why.clone()))
                }
                (None, _) => Arc::new(Known::Not(format!(
                    "nothing is known of the secret {}",
                    context.secret()
                ))),
            };
            all.insert(key, now);
        }
        Self(all)
    }

    /// What ends TLS of clients.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub(super) fn terminator(&self, context: &TlsContext) -> Result<Terminator, String> {
        match self.ready(TlsEnd::Terminating, context)? {
            Ready::Terminator(terminator) => Ok(terminator),
            Ready::Originator(_) => Err(WRONG_END.to_owned()),
        }
    }

    /// What begins TLS towards servers, likewise.
    pub(super) fn originator(&self, context: &TlsContext) -> Result<Originator, String> {
        match self.ready(TlsEnd::Originating, context)? {
            Ready::Originator(originator) => Ok(originator),
            Ready::Terminator(_) => Err(WRONG_END.to_owned()),
        }
    }

    fn ready(&self, end: TlsEnd, context: &TlsContext) -> Result<Ready, String> {
        match self.0.get(&context_key(end, context)).map(AsRef::as_ref) {
            Some(Known::Ready(_, ready)) => Ok(ready.clone()),
            Some(Known::Not(why)) => Err(why.clone()),
            None => Err(format!(
                "nothing is known of the secret {}",
                context.secret()
            )),
        }
    }
}

const WRONG_END: &str = "a context of the other end";

fn make(end: TlsEnd, credentials: &Credentials) -> Result<Ready, Unusable> {
    let authorities = credentials.authorities.as_ref();
    let authorities = authorities.map(|pem| Authorities::read(pem.bytes()));
    let authorities = authorities.transpose()?;
    let pair = credentials.chain.as_ref().zip(credentials.key.as_ref());
    let identity = pair.map(|(chain, key)| Identity::read(chain.bytes(), key.bytes()));
    let identity = identity.transpose()?;
    match end {
        TlsEnd::Terminating => {
            let identity = identity.ok_or(Unusable::NoCertificate)?;
            Terminator::new(&identity, authorities.as_ref()).map(Ready::Terminator)
        }
        TlsEnd::Originating => {
            let authorities = authorities.ok_or(Unusable::NoCertificate)?;
            Originator::new(&authorities, identity.as_ref()).map(Ready::Originator)
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use tidegate_contract::Secret;
    use tidegate_policy::compiled::L7Id;
    use tidegate_policy::{
        compiled::{L7Protocol, L7RuleSet},
        tls::TlsContexts,
    };

    use super::*;

    #[test]
    fn an_agent_that_knows_less_takes_nothing_away() {
        let context = TlsContext {
            namespace: "shop".into(),
            name: "web".into(),
            trusted_ca: None,
            certificate: None,
            private_key: None,
        };
        let set = L7RuleSet {
            protocol: L7Protocol::Http,
            chain: Vec::new(),
            http: Default::default(),
            tls: None,
            contexts: TlsContexts {
                terminating: Some(context.clone()),
                originating: None,
            },
            shadow: None,
        };
        let snapshot = |says: Option<Context>| Snapshot {
            l7: tidegate_policy::shared::Map::unit(L7Id(1), Arc::new(set.clone())),
            contexts: says
                .map(|says| (context_key(TlsEnd::Terminating, &context), says))
                .into_iter()
                .collect(),
            ..Snapshot::default()
        };
        let usable = || {
            let key = KeyPair::generate().expect("a key");
            let params = CertificateParams::new(["api.example".to_owned()]).expect("params");
            let certificate = params.self_signed(&key).expect("signed");
            let secret = |pem: String| Some(Secret::new(pem.into_bytes()));
            Some(Context::Usable(Credentials {
                authorities: None,
                chain: secret(certificate.pem()),
                key: secret(key.serialize_pem()),
            }))
        };
        let broken = || Some(Context::Broken("not PEM".into()));
        let missing = || Some(Context::Missing("no secret".into()));
        let after = |says, before: &Contexts| Contexts::new(&snapshot(says), Some(before));
        let works = |contexts: &Contexts| contexts.terminator(&context).map(|_| ());

        let nothing = Contexts::default();
        assert!(works(&nothing).is_err());
        assert_eq!(works(&after(broken(), &nothing)), Err("not PEM".into()));
        let said = usable();
        let first = after(said.clone(), &nothing);
        assert_eq!(works(&first), Ok(()));
        let same = |one: &Contexts, other: &Contexts| {
            let of = |contexts: &Contexts| contexts.0.values().next().cloned().expect("one");
            Arc::ptr_eq(&of(one), &of(other))
        };
        assert!(same(&first, &after(said, &first)), "its tickets count");
        assert!(same(&first, &after(broken(), &first)));
        assert!(same(&first, &after(None, &first)));
        assert!(!same(&first, &after(usable(), &first)));
        let gone = after(missing(), &first);
        assert_eq!(works(&gone), Err("no secret".into()));
        assert_eq!(works(&after(broken(), &gone)), Err("not PEM".into()));
    }
}
