//! The real Envoy with one filter of WebAssembly a listener, as a judge: what a filter made for
//! it says there, it has to say here.

use std::{fs, path::Path};

use anyhow::Context as _;
use serde_json::json;

use super::{
    place::Place,
    process::Running,
    server::{start_nginx, wait_for_tcp},
    tag::repository,
};

/// Where `cargo xtask setup` puts it.
const PROGRAM: &str = "target/tools/python/envoy/_bin/envoy";

/// A filter with a configuration, on a port of Envoy's before a port of a server's.
#[derive(Clone, Debug)]
pub struct Judged<'a> {
    /// The module.
    pub module: &'a Path,
    /// Name of the plugin.
    pub name: &'a str,
    /// What it is told.
    pub config: &'a str,
    /// Envoy's port on 127.0.0.1.
    pub port: u16,
    /// The server's.
    pub upstream: u16,
}

/// Starts Envoy with these, on loopback of `place`.
///
/// # Errors
///
/// If it does not listen in time.
pub fn start(place: &Place, dir: &Path, all: &[Judged<'_>]) -> anyhow::Result<Running> {
    let listeners: Vec<_> = all.iter().map(listener).collect();
    let clusters: Vec<_> = all.iter().map(cluster).collect();
    let config = json!({"static_resources": {"listeners": listeners, "clusters": clusters}});
    let file = dir.join("envoy.json");
    fs::write(&file, config.to_string())?;
    let program = repository().join(PROGRAM);
    // pip keeps no permissions.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&program, mode)
        .with_context(|| format!("no {}: run `cargo xtask setup`", program.display()))?;
    let file = file.display().to_string();
    let arguments = [
        "-c",
        &file,
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "-l",
        "error",
    ];
    let program = program.display().to_string();
    let mut envoy = place.spawn("envoy", &program, &arguments)?;
    for judged in all {
        wait_for_tcp(place, judged.port, &mut envoy)?;
    }
    Ok(envoy)
}

fn address(port: u16) -> serde_json::Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": port}})
}

fn listener(judged: &Judged<'_>) -> serde_json::Value {
    const API: &str = "type.googleapis.com/envoy.extensions.filters";
    let typed = |name: &str, kind: &str, mut config: serde_json::Value| {
        config["@type"] = format!("{API}.{kind}").into();
        json!({"name": name, "typed_config": config})
    };
    let text = json!({
        "@type": "type.googleapis.com/google.protobuf.StringValue",
        "value": judged.config,
    });
    let code = json!({"local": {"filename": judged.module}});
    let wasm = json!({"config": {
        "name": judged.name,
        "configuration": text,
        // What waits at its head is shown its body, as here.
        "allow_on_headers_stop_iteration": true,
        "vm_config": {"runtime": "envoy.wasm.runtime.v8", "code": code},
    }});
    let filters = [
        typed("wasm", "http.wasm.v3.Wasm", wasm),
        typed("router", "http.router.v3.Router", json!({})),
    ];
    let route = json!({"match": {"prefix": "/"}, "route": {"cluster": judged.port.to_string()}});
    let manager = json!({
        "stat_prefix": judged.name,
        "server_header_transformation": "PASS_THROUGH",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": filters,
    });
    let manager = typed(
        "http",
        "network.http_connection_manager.v3.HttpConnectionManager",
        manager,
    );
    json!({
        "name": judged.port.to_string(),
        "address": address(judged.port),
        "filter_chains": [{"filters": [manager]}],
    })
}

fn cluster(judged: &Judged<'_>) -> serde_json::Value {
    let end = json!({"endpoint": {"address": address(judged.upstream)}});
    json!({
        "name": judged.port.to_string(),
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": judged.port.to_string(),
            "endpoints": [{"lb_endpoints": [end]}],
        },
    })
}

/// nginx that says what of a request came to it, on these ports of HTTP/1.1 and these of HTTP/2:
/// its head in the answer's first line, its body in `x-saw-body`.
///
/// # Errors
///
/// If it does not listen in time.
pub fn mirror(place: &Place, dir: &Path, h1: &[u16], h2: &[u16]) -> anyhow::Result<Running> {
    let home = dir.join(format!("mirror-{}", place.name()));
    fs::create_dir_all(&home)?;
    let home_text = home.display();
    let listen = |ports: &[u16], how: &str| -> String {
        let line = |port: &u16| format!("listen {port}{how}; listen [::]:{port}{how};\n");
        ports.iter().map(line).collect()
    };
    let (h1_lines, h2_lines) = (listen(h1, ""), listen(h2, " http2"));
    let says = "$request_method $request_uri added=$http_x_added replaced=$http_x_replaced \
                removed=$http_x_removed body=$http_x_body subject=$http_x_subject \
                authorization=$http_authorization a secret\\n";
    let config = format!(
        r#"
daemon off;
user root;
worker_processes 1;
pid {home_text}/pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {home_text}/body;
    proxy_temp_path {home_text}/proxy;
    fastcgi_temp_path {home_text}/fastcgi;
    uwsgi_temp_path {home_text}/uwsgi;
    scgi_temp_path {home_text}/scgi;
    client_body_buffer_size 128k;
    default_type text/plain;
    server {{
        {h1_lines}{h2_lines}
        location / {{
            proxy_pass http://unix:{home_text}/inner;
            add_header x-saw-body $request_body always;
        }}
    }}
    server {{
        listen unix:{home_text}/inner;
        location / {{ return 200 "{says}"; }}
    }}
}}
"#
    );
    let first = h1.first().or(h2.first()).copied();
    let first = first.context("a mirror without a port")?;
    start_nginx(place, "mirror", (&home, &config), first)
}
