//! From PEM to what can be used: an identity is a chain and the key that belongs to it.

use std::{sync::Arc, time::Duration};

use rustls::{
    CertificateError, Error, RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{
        CertificateDer, PrivateKeyDer, ServerName, UnixTime,
        pem::{Error as PemError, PemObject},
    },
    sign::CertifiedKey,
};

/// How long before its end a certificate is told of: a week.
const SOON: Duration = Duration::from_secs(7 * 24 * 3600);

/// Why files cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It is not PEM.
    #[error("not PEM ({0}); expected `-----BEGIN {1}-----`")]
    NotPem(String, &'static str),
    /// There is no certificate in it.
    #[error("no certificate in it; expected `-----BEGIN CERTIFICATE-----`")]
    NoCertificate,
    /// There is no key in it, or it is encrypted.
    #[error("no key in it that can be read; expected `-----BEGIN PRIVATE KEY-----`, not encrypted")]
    NoKey,
    /// The key is for another certificate.
    #[error("the key does not belong to the first certificate of the chain")]
    Apart,
    /// A certificate, a chain or a key that TLS cannot be spoken with.
    #[error("{0}")]
    Unfit(String),
}

impl From<Error> for Unusable {
    fn from(error: Error) -> Self {
        match error {
            Error::InconsistentKeys(_) => Self::Apart,
            error => Self::Unfit(error.to_string()),
        }
    }
}

/// The algorithms everything here is made with.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// A chain of certificates, the end entity's first, with its key.
#[derive(Clone)]
pub struct Identity(pub(crate) Arc<CertifiedKey>);

impl Identity {
    /// Of a file with the chain and one with the key.
    ///
    /// # Errors
    ///
    /// If one of them is not what it should be, or they do not belong together.
    pub fn read(chain: &[u8], key: &[u8]) -> Result<Self, Unusable> {
        let chain = certificates(chain)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| match error {
            PemError::NoItemsFound => Unusable::NoKey,
            error => Unusable::NotPem(error.to_string(), "PRIVATE KEY"),
        })?;
        let key = CertifiedKey::from_der(chain, key, &provider())?;
        Ok(Self(Arc::new(key)))
    }

    /// What will keep others from believing it, if anything.
    pub fn concern(&self, now: Duration) -> Option<&'static str> {
        let at = |time| concern_at(&self.0.cert, UnixTime::since_unix_epoch(time));
        match at(now) {
            None if at(now + SOON) == Some(EXPIRED) => Some("expires within a week"),
            concern => concern,
        }
    }
}

const EXPIRED: &str = "has expired";

/// What keeps a certificate from being valid at a moment. Asked of the code that clients
/// ask: it looks at the time first, whoever the issuer is.
fn concern_at(chain: &[CertificateDer<'static>], time: UnixTime) -> Option<&'static str> {
    let leaf = chain.first()?;
    let mut roots = RootCertStore::empty();
    // One that cannot even be read as an issuer has other concerns, and clients.
    roots.add(leaf.clone()).ok()?;
    let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider());
    let name = ServerName::try_from("name.invalid").ok()?;
    let outcome = verifier
        .build()
        .ok()?
        .verify_server_cert(leaf, &[], &name, &[], time);
    match outcome {
        Err(Error::InvalidCertificate(error)) => match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Some(EXPIRED),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Some("is not valid yet")
            }
            _ => None,
        },
        _ => None,
    }
}

/// Whose certificates are believed.
#[derive(Clone)]
pub struct Authorities(pub(crate) Arc<RootCertStore>);

impl Authorities {
    /// Of a file with their certificates.
    ///
    /// # Errors
    ///
    /// If there is none in it that can be used.
    pub fn read(pem: &[u8]) -> Result<Self, Unusable> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(pem)? {
            roots.add(certificate)?;
        }
        Ok(Self(roots.into()))
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(none) if none.is_empty() => Err(Unusable::NoCertificate),
        Ok(some) => Ok(some),
        Err(error) => Err(Unusable::NotPem(error.to_string(), "CERTIFICATE")),
    }
}
