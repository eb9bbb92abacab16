use std::{sync::Arc, time::Duration};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};
use rustls::{ClientConnection, ServerConnection, pki_types::ServerName};

use super::{Authorities, Identity, Originator, Protocol, Terminator, Unusable};

/// 2026-03-01.
const NOW: Duration = Duration::from_secs(1_772_323_200);

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new([]).expect("params");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signed")
}

/// PEM of a certificate for a name, valid for all years but those before and after these,
/// and of its key.
fn signed(
    by: &CertifiedIssuer<'static, KeyPair>,
    name: &str,
    years: (i32, i32),
) -> (String, String) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new([name.to_owned()]).expect("params");
    params.not_before = date_time_ymd(years.0, 1, 1);
    params.not_after = date_time_ymd(years.1, 3, 4);
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let certificate = params.signed_by(&key, by).expect("signed");
    (certificate.pem(), key.serialize_pem())
}

fn identity((chain, key): &(String, String)) -> Identity {
    Identity::read(chain.as_bytes(), key.as_bytes()).expect("an identity")
}

#[test]
fn files_that_are_not_what_they_should_be_are_told_apart() {
    let ca = authority("ca");
    let (chain, key) = signed(&ca, "api.example", (2000, 2090));
    let (_, other) = signed(&ca, "api.example", (2000, 2090));
    let read = |chain: &str, key: &str| {
        let read = Identity::read(chain.as_bytes(), key.as_bytes());
        read.err().map(|error| error.to_string())
    };
    assert_eq!(read(&chain, &key), None);
    assert_eq!(read(&format!("{chain}{}", ca.pem()), &key), None, "a chain");
    assert_eq!(
        read(&format!("{key}{chain}"), &format!("{chain}{key}")),
        None,
        "one file"
    );
    let says = |chain: &str, key: &str, what: &str| {
        let said = read(chain, key).expect("refused");
        assert!(said.contains(what), "{said}");
        // Nothing of the key is told.
        assert!(
            !key.lines()
                .skip(1)
                .any(|line| line.len() > 8 && said.contains(line)),
            "{said}"
        );
    };
    says("", &key, "no certificate");
    says(&key, &key, "no certificate");
    says(&chain, &chain, "no key");
    says(&chain, &other, "does not belong");
    says(
        &chain,
        &key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"),
        "no key",
    );
    says(&chain[..chain.len() - 40], &key, "not PEM");
    says(&chain, &key[..key.len() - 40], "not PEM");
    let (_, body) = key.split_once('\n').expect("lines");
    says(
        &chain,
        &format!("-----BEGIN PRIVATE KEY-----\nAAAA{body}"),
        "",
    );
    assert_eq!(
        Authorities::read(b"what").err(),
        Some(Unusable::NoCertificate)
    );
    assert!(Authorities::read(ca.pem().as_bytes()).is_ok());
}

#[test]
fn a_certificate_out_of_its_time_is_told_of() {
    let ca = authority("ca");
    let concern = |years| identity(&signed(&ca, "api.example", years)).concern(NOW);
    assert_eq!(concern((2000, 2090)), None);
    assert_eq!(concern((2000, 2025)), Some("has expired"));
    assert_eq!(concern((2000, 2026)), Some("expires within a week"));
    assert_eq!(concern((2030, 2090)), Some("is not valid yet"));
}

/// A handshake in memory: the protocol inside and whether it resumed an earlier one, or why
/// it failed.
fn shake(
    ends: (&Terminator, Option<Protocol>),
    to: (&Originator, &[Protocol], &str),
) -> Result<(Option<Protocol>, bool), String> {
    let name = ServerName::try_from(to.2.to_owned()).expect("a name");
    let mut client = ClientConnection::new(to.0.config(to.1), name).expect("a client");
    let mut server = ServerConnection::new(ends.0.config(ends.1)).expect("a server");
    for _ in 0..8 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).expect("written");
        }
        let mut rest = &wire[..];
        while !rest.is_empty() {
            server.read_tls(&mut rest).expect("read");
            server
                .process_new_packets()
                .map_err(|error| error.to_string())?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).expect("written");
        }
        let mut rest = &wire[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest).expect("read");
            client
                .process_new_packets()
                .map_err(|error| error.to_string())?;
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    let inside = client.alpn_protocol().and_then(Protocol::named);
    let resumed = client.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
    Ok((inside, resumed))
}

#[test]
fn what_both_can_speak_is_spoken_with_whom_both_believe() {
    use Protocol::{Http1, Http2};
    let (ca, stranger) = (authority("ca"), authority("stranger"));
    let believed = |by: &CertifiedIssuer<'static, KeyPair>| {
        Authorities::read(by.pem().as_bytes()).expect("authorities")
    };
    let own = identity(&signed(&ca, "api.example", (2000, 2090)));
    let server = Terminator::new(&own, None).expect("a server");
    let client = Originator::new(&believed(&ca), None).expect("a client");
    let asks = |inside, offered: &[Protocol], name: &str| {
        shake((&server, inside), (&client, offered, name))
    };
    let first = asks(Some(Http2), &[Http1, Http2], "api.example");
    assert_eq!(first, Ok((Some(Http2), false)));
    let again = asks(Some(Http1), &[Http1, Http2], "api.example");
    assert_eq!(again, Ok((Some(Http1), true)), "a ticket");
    assert_eq!(asks(None, &[Http1], "api.example"), Ok((None, true)));
    let refused = asks(Some(Http2), &[Http1], "api.example").expect_err("nothing in common");
    assert!(
        refused.contains("ALPN") || refused.contains("protocol"),
        "{refused}"
    );
    let refused = asks(None, &[], "www.example").expect_err("another name");
    assert!(refused.contains("www.example"), "{refused}");
    let other = Originator::new(&believed(&stranger), None).expect("a client");
    let refused = shake((&server, None), (&other, &[], "api.example")).expect_err("a stranger");
    assert!(refused.contains("UnknownIssuer"), "{refused}");
    let late = identity(&signed(&ca, "api.example", (2000, 2025)));
    let late = Terminator::new(&late, None).expect("it is the client who minds");
    assert!(shake((&late, None), (&client, &[], "api.example")).is_err());

    // Who has to show a certificate, and a ticket of one context in another.
    let strict = Terminator::new(&own, Some(&believed(&ca))).expect("a server");
    let refused = shake((&strict, None), (&client, &[], "api.example"));
    assert!(refused.is_err(), "{refused:?}");
    let member = identity(&signed(&ca, "member.example", (2000, 2090)));
    let member = Originator::new(&believed(&ca), Some(&member)).expect("a client");
    assert_eq!(
        shake((&strict, None), (&member, &[], "api.example")),
        Ok((None, false))
    );
    assert_eq!(
        shake((&strict, None), (&member, &[], "api.example")),
        Ok((None, true))
    );
    let renewed = Terminator::new(&own, Some(&believed(&ca))).expect("a server");
    assert_eq!(
        shake((&renewed, None), (&member, &[], "api.example")),
        Ok((None, false))
    );
    let server = Arc::new(server);
    assert_eq!(
        shake((&server, None), (&member, &[], "api.example")),
        Ok((None, false))
    );
}
