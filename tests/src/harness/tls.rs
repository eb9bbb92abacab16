//! Servers behind TLS, with certificates made on the spot.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, ensure};

use super::{place::Place, process::Running, server::start_nginx};

/// A certificate and its key, as files.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// PEM.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

/// Makes a certificate that signs itself, for these names, in a folder.
///
/// # Errors
///
/// If openssl does not.
pub fn certificate(dir: &Path, names: &[&str]) -> anyhow::Result<Certificate> {
    make(dir, names, |_| {})
}

fn make(
    dir: &Path,
    names: &[&str],
    more: impl FnOnce(&mut Command),
) -> anyhow::Result<Certificate> {
    fs::create_dir_all(dir)?;
    let made = Certificate {
        certificate: dir.join("tls.crt"),
        key: dir.join("tls.key"),
    };
    let names: Vec<String> = names.iter().map(|name| format!("DNS:{name}")).collect();
    let mut openssl = Command::new("openssl");
    openssl
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ])
        .args(["-nodes", "-days", "2", "-subj", "/CN=test", "-addext"])
        .arg(format!("subjectAltName={}", names.join(",")))
        .arg("-out")
        .arg(&made.certificate)
        .arg("-keyout")
        .arg(&made.key);
    more(&mut openssl);
    let output = openssl.output().context("cannot run openssl")?;
    ensure!(
        output.status.success(),
        "openssl: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(made)
}

/// Makes an authority, in a folder.
///
/// # Errors
///
/// If openssl does not.
pub fn authority(dir: &Path) -> anyhow::Result<Certificate> {
    certificate(dir, &["authority.example"])
}

/// Makes a certificate for these names that the authority has signed, in a folder.
///
/// # Errors
///
/// If openssl does not.
pub fn signed(by: &Certificate, dir: &Path, names: &[&str]) -> anyhow::Result<Certificate> {
    make(dir, names, |openssl| {
        openssl.arg("-CA").arg(&by.certificate);
        openssl.arg("-CAkey").arg(&by.key);
        openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    })
}

/// nginx on `port` of both families, with TLS 1.0 to 1.3 and HTTP/2. It answers with the
/// name and version it was asked with. It knows one curve only, which no client guesses: each
/// is asked for a second hello (RFC 8446 §4.1.4).
///
/// # Errors
///
/// If it does not listen in time.
pub fn nginx(place: &Place, port: u16, dir: &Path) -> anyhow::Result<Running> {
    let made = certificate(&home(place, port, dir), &["api.example", "*.shop.example"])?;
    let old = "ssl_protocols TLSv1 TLSv1.1 TLSv1.2 TLSv1.3;
        ssl_ciphers ALL:@SECLEVEL=0;
        ssl_ecdh_curve secp521r1;";
    nginx_with(place, port, dir, (&made, old))
}

/// As [`nginx`], with this certificate, and these lines of its configuration.
///
/// # Errors
///
/// If it does not listen in time.
pub fn nginx_with(
    place: &Place,
    port: u16,
    dir: &Path,
    (made, lines): (&Certificate, &str),
) -> anyhow::Result<Running> {
    let home = home(place, port, dir);
    fs::create_dir_all(&home)?;
    let (home_text, certificate, key) = (
        home.display(),
        made.certificate.display(),
        made.key.display(),
    );
    let config = format!(
        r#"
daemon off;
user root;
worker_processes 1;
pid {home_text}/pid;
error_log stderr warn;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {home_text}/body;
    proxy_temp_path {home_text}/proxy;
    fastcgi_temp_path {home_text}/fastcgi;
    uwsgi_temp_path {home_text}/uwsgi;
    scgi_temp_path {home_text}/scgi;
    default_type text/plain;
    server {{
        listen {port} ssl http2;
        listen [::]:{port} ssl http2;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        {lines}
        location / {{ return 200 "$ssl_server_name $ssl_protocol $server_protocol\n"; }}
    }}
}}
"#
    );
    start_nginx(place, &format!("nginx-tls-{port}"), (&home, &config), port)
}

fn home(place: &Place, port: u16, dir: &Path) -> PathBuf {
    dir.join(format!("nginx-tls-{}-{port}", place.name()))
}
