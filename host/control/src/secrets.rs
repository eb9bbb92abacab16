//! Which version of certificates and keys is used: what was good last goes on until
//! something better is there. They are kept in memory alone.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tidegate_contract::{Context, Credentials, Secret, TlsEnd, context_key, contexts};
use tidegate_policy::{
    compiled::{L7Id, L7RuleSet},
    shared::Map,
    tls::TlsContext,
};
use tidegate_sources::secrets::{Item, Secrets as Scan};
use tidegate_tls::{Authorities, Identity, Originator, Terminator};

/// Certificates and keys, and what is wrong with them.
#[derive(Debug, Default)]
pub(crate) struct Secrets {
    scan: Scan,
    /// What could be used last, by context.
    good: BTreeMap<String, Credentials>,
    /// What is wrong with those in use.
    pub(crate) troubles: Vec<Trouble>,
}

/// Something wrong with a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// The file, or the secret's folder, below the configuration's.
    pub(crate) place: String,
    /// What, and what would be right.
    pub(crate) message: String,
    pub(crate) kind: Kind,
}

/// What comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It works; for now, or not for everybody.
    Concern,
    /// What it said before goes on.
    LastGood,
    /// What needs it is refused.
    Refused,
}

/// Why a context is not what it should be.
enum Unusable {
    Broken(String, String),
    Missing(String),
}

impl Secrets {
    /// Takes in what is there now.
    pub(crate) fn look(&mut self, scan: Scan) {
        self.scan = scan;
    }

    /// The contexts of these rule sets. `now` since 1970.
    pub(crate) fn contexts(
        &mut self,
        sets: &Map<L7Id, Arc<L7RuleSet>>,
        now: Duration,
    ) -> Map<String, Context> {
        let mut all = Map::new();
        self.troubles.clear();
        let mut good = BTreeMap::new();
        for (end, context) in contexts(sets) {
            let key = context_key(end, context);
            if all.contains_key(&key) {
                continue;
            }
            let before = self.good.get(&key);
            let now_is = match self.read(end, context, now, before) {
                Ok((credentials, concerns)) => {
                    self.troubles.extend(concerns);
                    Context::Usable(credentials)
                }
                Err(Unusable::Missing(why)) => {
                    self.trouble(place(context, None), why.clone(), Kind::Refused);
                    Context::Missing(why)
                }
                Err(Unusable::Broken(place, why)) => match before {
                    Some(before) => {
                        let before = before.clone();
                        self.trouble(place, why, Kind::LastGood);
                        Context::Usable(before)
                    }
                    None => {
                        let told = format!("{place}: {why}");
                        self.trouble(place, why, Kind::Refused);
                        Context::Broken(told)
                    }
                },
            };
            if let Context::Usable(credentials) = &now_is {
                good.insert(key.clone(), credentials.clone());
            }
            all.insert(key, now_is);
        }
        self.good = good;
        self.troubles.sort_by(|a, b| a.place.cmp(&b.place));
        self.troubles.dedup();
        all
    }

    fn trouble(&mut self, place: String, message: String, kind: Kind) {
        self.troubles.push(Trouble {
            place,
            message,
            kind,
        });
    }

    /// What a context uses, once TLS can be spoken with it.
    fn read(
        &self,
        end: TlsEnd,
        context: &TlsContext,
        now: Duration,
        before: Option<&Credentials>,
    ) -> Result<(Credentials, Vec<Trouble>), Unusable> {
        let secret = context.secret();
        let Some(items) = self.scan.secrets.get(&secret) else {
            return Err(match &self.scan.unreadable {
                // It may be there.
                Some(why) => Unusable::Broken(place(context, None), why.clone()),
                None => Unusable::Missing(format!(
                    "there is no secret {secret}, which `{}` names: make this folder, with \
                     tls.crt, tls.key and ca.crt as far as they are needed",
                    end.word()
                )),
            });
        };
        let [ca, chain, key] = context.items();
        let get = |(name, asked): (&str, bool), needed: bool| match items.get(name) {
            Some(Ok(item)) => Ok(Some(item)),
            Some(Err(why)) => Err(Unusable::Broken(place(context, Some(name)), why.clone())),
            None if asked || needed => Err(Unusable::Broken(
                place(context, Some(name)),
                format!("is not in the secret, and `{}` needs it", end.word()),
            )),
            None => Ok(None),
        };
        let terminates = end == TlsEnd::Terminating;
        let authorities = get(ca, !terminates)?;
        if authorities.is_none() && before.is_some_and(|before| before.authorities.is_some()) {
            // Nobody opens a door by taking away a file.
            return Err(Unusable::Broken(
                place(context, Some(ca.0)),
                "was there and is gone, so that clients would have to show no certificate any \
                 more; put it back, or make the secret's folder anew without it"
                    .to_owned(),
            ));
        }
        let certificate = get(chain, terminates)?;
        // One without the other is of no use.
        let private = get(key, certificate.is_some())?;
        if let (None, Some(_)) = (certificate, private) {
            get(chain, true)?;
        }
        let bytes = |item: Option<&Item>| item.map(|item| item.content.clone());
        let credentials = Credentials {
            authorities: bytes(authorities),
            chain: bytes(certificate),
            key: bytes(private),
        };
        let broken = |name: &str, why: &dyn std::fmt::Display| {
            Unusable::Broken(place(context, Some(name)), why.to_string())
        };
        let read = |secret: &Secret| Authorities::read(secret.bytes());
        let believed = credentials.authorities.as_ref().map(read).transpose();
        let believed = believed.map_err(|why| broken(ca.0, &why))?;
        let identity = credentials.chain.as_ref().zip(credentials.key.as_ref());
        let identity = identity.map(|(chain, key)| Identity::read(chain.bytes(), key.bytes()));
        let identity = identity.transpose().map_err(|why| {
            let of_key = matches!(
                why,
                tidegate_tls::Unusable::NoKey
                    | tidegate_tls::Unusable::Apart
                    | tidegate_tls::Unusable::NotPem(_, "PRIVATE KEY")
            );
            broken(if of_key { key.0 } else { chain.0 }, &why)
        })?;
        let made = match (end, &identity, &believed) {
            (TlsEnd::Terminating, Some(identity), believed) => {
                Terminator::new(identity, believed.as_ref()).err()
            }
            (TlsEnd::Originating, identity, Some(believed)) => {
                Originator::new(believed, identity.as_ref()).err()
            }
            // They were asked for above.
            (TlsEnd::Terminating, None, _) | (TlsEnd::Originating, _, None) => None,
        };
        if let Some(why) = made {
            return Err(Unusable::Broken(place(context, None), why.to_string()));
        }
        let mut concerns = Vec::new();
        let mut concern = |name: &str, message: String| {
            concerns.push(Trouble {
                place: place(context, Some(name)),
                message,
                kind: Kind::Concern,
            });
        };
        if let Some(why) = identity.and_then(|identity| identity.concern(now)) {
            concern(
                chain.0,
                format!("the certificate {why}: who is shown it will not believe it"),
            );
        }
        if private.is_some_and(|item| item.exposed) {
            concern(
                key.0,
                "everybody on this machine may read this key: chmod 600 it".to_owned(),
            );
        }
        Ok((credentials, concerns))
    }
}

/// Where a secret, or an item of it, is.
fn place(context: &TlsContext, item: Option<&str>) -> String {
    let secret = context.secret();
    match item {
        Some(item) => format!("secrets/{secret}/{item}"),
        None => format!("secrets/{secret}"),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};
    use tidegate_policy::{compiled::L7Protocol, tls::TlsContexts};

    use super::*;

    /// 2026-03-01.
    const NOW: Duration = Duration::from_secs(1_772_323_200);

    fn sets(contexts: TlsContexts) -> Map<L7Id, Arc<L7RuleSet>> {
        let set = L7RuleSet {
            protocol: L7Protocol::Http,
            chain: Vec::new(),
            http: Default::default(),
            tls: None,
            contexts,
            shadow: None,
        };
        Map::unit(L7Id(1), Arc::new(set))
    }

    fn context() -> TlsContext {
        TlsContext {
            namespace: "shop".into(),
            name: "web".into(),
            trusted_ca: None,
            certificate: None,
            private_key: None,
        }
    }

    fn pair(until: i32) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(["api.example".to_owned()]).expect("params");
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        let certificate = params.self_signed(&key).expect("signed");
        (certificate.pem(), key.serialize_pem())
    }

    fn scan(items: &[(&str, &str)]) -> Scan {
        let item = |text: &str| Item {
            content: Secret::new(text.into()),
            exposed: false,
        };
        let items = items
            .iter()
            .map(|(name, text)| ((*name).to_owned(), Ok(item(text))));
        Scan {
            secrets: BTreeMap::from([("shop/web".to_owned(), items.collect())]),
            unreadable: None,
        }
    }

    #[test]
    fn what_was_good_last_goes_on_until_it_is_taken_away() {
        let ending = sets(TlsContexts {
            terminating: Some(context()),
            originating: None,
        });
        let (chain, key) = pair(2090);
        let (renewed, renewed_key) = pair(2090);
        let mut secrets = Secrets::default();
        let mut look = |scan: Scan| {
            secrets.look(scan);
            let context = secrets.contexts(&ending, NOW).values().next().cloned();
            let told = secrets.troubles.first().cloned();
            (
                context.expect("a context"),
                told.map(|told| (told.place, told.message, told.kind)),
            )
        };
        let chain_of = |context: &Context| match context {
            Context::Usable(credentials) => {
                let chain = credentials.chain.as_ref().expect("a chain");
                String::from_utf8(chain.bytes().to_vec()).expect("text")
            }
            other => panic!("{other:?}"),
        };
        // Nothing good was seen yet.
        let (now, told) = look(scan(&[("tls.crt", &chain), ("tls.key", &renewed_key)]));
        assert!(
            matches!(now, Context::Broken(why) if why.starts_with("secrets/shop/web/tls.key: "))
        );
        assert_eq!(told.expect("told").2, Kind::Refused);

        let good = scan(&[("tls.crt", &chain), ("tls.key", &key)]);
        let (now, told) = look(good.clone());
        assert_eq!((chain_of(&now), told), (chain.clone(), None));
        for (broken, file) in [
            (scan(&[("tls.crt", &renewed), ("tls.key", &key)]), "tls.key"),
            (scan(&[("tls.crt", "what"), ("tls.key", &key)]), "tls.crt"),
            (scan(&[("tls.crt", &chain)]), "tls.key"),
            (scan(&[("tls.key", &key)]), "tls.crt"),
            (
                scan(&[("tls.crt", &chain), ("tls.key", &key), ("ca.crt", "")]),
                "ca.crt",
            ),
        ] {
            let (now, told) = look(broken);
            let (place, message, kind) = told.expect("told");
            assert_eq!(
                (chain_of(&now), kind),
                (chain.clone(), Kind::LastGood),
                "{message}"
            );
            assert_eq!(place, format!("secrets/shop/web/{file}"), "{message}");
        }
        let unmounted = Scan {
            unreadable: Some("/etc/secrets: not found".into()),
            ..Scan::default()
        };
        assert_eq!(chain_of(&look(unmounted).0), chain);
        let (now, told) = look(scan(&[("tls.crt", &renewed), ("tls.key", &renewed_key)]));
        assert_eq!((chain_of(&now), told), (renewed, None));
        // It was removed.
        let (now, told) = look(Scan::default());
        assert!(matches!(now, Context::Missing(_)), "{now:?}");
        assert_eq!(told.expect("told").2, Kind::Refused);
        let (now, _) = look(scan(&[("tls.crt", &chain), ("tls.key", &renewed_key)]));
        assert!(matches!(now, Context::Broken(_)), "{now:?}");
        // Clients had to show a certificate.
        let (authority, _) = pair(2090);
        let own = [("tls.crt", &*chain), ("tls.key", &*key)];
        let (now, told) = look(scan(&[own[0], own[1], ("ca.crt", &authority)]));
        assert!(
            matches!(now, Context::Usable(_)) && told.is_none(),
            "{told:?}"
        );
        let (now, told) = look(scan(&own));
        assert!(matches!(&now, Context::Usable(all) if all.authorities.is_some()));
        let (place, _, kind) = told.expect("told");
        assert_eq!((&*place, kind), ("secrets/shop/web/ca.crt", Kind::LastGood));
        look(Scan::default());
        let (now, told) = look(scan(&own));
        assert!(matches!(&now, Context::Usable(all) if all.authorities.is_none()));
        assert_eq!(told, None);
        let (late, late_key) = pair(2025);
        let (now, told) = look(scan(&[("tls.crt", &late), ("tls.key", &late_key)]));
        let (place, message, kind) = told.expect("told");
        assert_eq!((chain_of(&now), kind), (late, Kind::Concern));
        assert!(
            place.ends_with("/tls.crt") && message.contains("has expired"),
            "{message}"
        );
    }

    #[test]
    fn a_server_is_believed_by_authorities_only() {
        let beginning = sets(TlsContexts {
            terminating: None,
            originating: Some(context()),
        });
        let (ca, key) = pair(2090);
        let look = |items: &[(&str, &str)]| {
            let mut secrets = Secrets::default();
            secrets.look(scan(items));
            secrets
                .contexts(&beginning, NOW)
                .values()
                .next()
                .cloned()
                .expect("a context")
        };
        assert!(matches!(look(&[("ca.crt", &ca)]), Context::Usable(_)));
        let both = look(&[("ca.crt", &ca), ("tls.crt", &ca), ("tls.key", &key)]);
        assert!(matches!(both, Context::Usable(it) if it.key.is_some()));
        for items in [
            &[("tls.crt", &*ca), ("tls.key", &*key)][..],
            &[("ca.crt", &ca), ("tls.crt", &ca)],
        ] {
            assert!(matches!(look(items), Context::Broken(_)), "{items:?}");
        }
    }
}
