//! Peers that begin a handshake and do not go on with it, and clients that have no memory left
//! for one.

use std::{net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use rcgen::{CertificateParams, KeyPair};
use tidegate_contract::{Context, Credentials, Generation, Secret, TlsEnd, context_key};
use tidegate_ebpf_shared::addr::proto;
use tidegate_policy::{
    compiled::{L7Id, L7Protocol, L7RuleSet},
    shared::Map,
    tls::{TlsContext, TlsContexts},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::within::serve_within;
use crate::{
    budget::{Budget, Memory, NO_MEMORY},
    flow::FlowContext,
    http::{Activity, Client},
    state::View,
    testing::{snapshot, view_of},
};

const HTTP: L7Protocol = L7Protocol::Http;
/// Of a handshake.
const LIMIT: Duration = Duration::from_millis(100);

/// A worker whose rule set 5 ends, or begins, TLS with a secret of the name `api.example`.
fn worker(end: TlsEnd) -> Rc<View> {
    let context = TlsContext {
        namespace: "shop".into(),
        name: "web".into(),
        trusted_ca: None,
        certificate: None,
        private_key: None,
    };
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(["api.example".to_owned()]).expect("params");
    let certificate = params.self_signed(&key).expect("signed");
    let secret = |pem: String| Some(Secret::new(pem.into_bytes()));
    let (contexts, credentials) = match end {
        TlsEnd::Terminating => (
            TlsContexts {
                terminating: Some(context.clone()),
                originating: None,
            },
            Credentials {
                authorities: None,
                chain: secret(certificate.pem()),
                key: secret(key.serialize_pem()),
            },
        ),
        TlsEnd::Originating => (
            TlsContexts {
                terminating: None,
                originating: Some(context.clone()),
            },
            Credentials {
                authorities: secret(certificate.pem()),
                chain: None,
                key: None,
            },
        ),
    };
    let set = L7RuleSet {
        protocol: HTTP,
        http: Default::default(),
        chain: Vec::new(),
        tls: None,
        contexts,
        shadow: None,
    };
    let mut snapshot = snapshot(Generation(1));
    snapshot.l7.insert(L7Id(5), Arc::new(set));
    let usable = Context::Usable(credentials);
    snapshot.contexts = Map::unit(context_key(end, &context), usable);
    view_of(snapshot, vec![(L7Id(5), HTTP, "allow")])
}

/// What a client hears that says this and no more, and the errors that are recorded.
async fn heard(end: TlsEnd, budget: Budget, says: &[u8]) -> (Vec<u8>, Vec<String>) {
    let view = worker(end);
    // A server that accepts and is silent, on this node.
    let server = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let source: SocketAddr = {
        let free = std::net::TcpListener::bind("127.9.9.8:0").expect("bind");
        free.local_addr().expect("address")
    };
    let ends = (source, server.local_addr().expect("address"));
    view.admit((proto::TCP, 1), ends, (5, 0));
    let flow = FlowContext::of_workload(view.clone(), proto::TCP, ends.0, ends.1);
    let flow = flow.expect("read").expect("admitted");
    let front = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let client = TcpStream::connect(front.local_addr().expect("address"));
    let mut client = client.await.expect("connect");
    let accepted = front.accept().await.expect("accept").0;
    client.write_all(says).await.expect("sent");
    let activity = Activity::of(&Client::new(budget, 65_536));
    let mut all = Vec::new();
    let both = async {
        let ends = flow.ends().expect("TLS");
        tokio::join!(
            serve_within(LIMIT, accepted, &flow, &activity, ends, HTTP),
            async {
                // Reset or closed.
                let _ = client.read_to_end(&mut all).await;
            }
        )
    };
    let ended = tokio::time::timeout(Duration::from_secs(10), both);
    ended.await.expect("nobody waits for ever");
    let records = view.shared.records.take().records;
    let errors = records.into_iter().filter_map(|record| record.error);
    (all, errors.map(|error| error.to_string()).collect())
}

fn hello() -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = "api.example".try_into().expect("a name");
    let client = rustls::ClientConnection::new(Arc::new(config), name);
    let mut bytes = Vec::new();
    client
        .expect("a client")
        .write_tls(&mut bytes)
        .expect("hello");
    bytes
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: api.example\r\n\r\n";

#[tokio::test]
async fn a_handshake_that_does_not_end_is_ended() {
    let (bytes, errors) = heard(TlsEnd::Terminating, Budget::default(), &hello()).await;
    assert_eq!(bytes.first(), Some(&22), "the server's part of a handshake");
    let told = "the TLS handshake of the client failed: not over within";
    assert!(
        matches!(&errors[..], [one] if one.starts_with(told)),
        "{errors:?}"
    );

    let (bytes, errors) = heard(TlsEnd::Originating, Budget::default(), GET).await;
    let answer = String::from_utf8_lossy(&bytes);
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    assert_eq!(errors, ["upstream timed out"]);
}

#[tokio::test]
async fn a_session_is_its_clients_memory() {
    // Enough for what is read, and not for a session.
    let little = || Memory::new(36 << 10).budget();
    let (bytes, errors) = heard(TlsEnd::Terminating, little(), &hello()).await;
    // RFC 8446 §6: a fatal alert, internal_error.
    assert_eq!((bytes.first(), &bytes[5..]), (Some(&21), &[2, 80][..]));
    assert_eq!(errors, [NO_MEMORY]);

    let (bytes, errors) = heard(TlsEnd::Originating, little(), GET).await;
    let answer = String::from_utf8_lossy(&bytes);
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert!(
        matches!(&errors[..], [one] if one.contains(NO_MEMORY)),
        "{errors:?}"
    );
}
