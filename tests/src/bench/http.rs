//! HTTP/1.1 requests through the proxy and its HTTP plugin, beside a direct connection
//! and beside nginx and HAProxy as reverse proxies with the same rules. Closed-loop load
//! (wrk, one thread, eight connections); the honest figure is processor time a request.
//! Nobody writes an access log, but Tidegate does write its flow records.

use std::fs;

use anyhow::{Context, Result, ensure};

use super::{cpu, pair::Pair, row::Row};
use crate::harness::{Running, Workload, World, server, world::NODE_V4};

const ROUNDS: usize = 7;
const SECONDS: &str = "2";
const DIRECT: u16 = 9000;
const TIDEGATE: u16 = 8080;
const NGINX: u16 = 8180;
const HAPROXY: u16 = 8190;

const POLICY: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: backend, namespace: bench}
spec:
  endpointSelector: {matchLabels: {app: backend}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: frontend}}]
    toPorts:
    - ports: [{port: "8080", protocol: TCP}]
      rules:
        http: [{method: GET, path: "/api/.*"}]
    - ports: [{port: "9000", protocol: TCP}]
  # The proxies compared with run on the node.
  - fromEntities: [host]
    toPorts:
    - ports: [{port: "9000", protocol: TCP}]
"#;

/// A way to the backend, and the processes that make it.
struct Way {
    name: &'static str,
    url: String,
    pids: Vec<u32>,
}

/// What one slice of load cost.
struct Slice {
    /// Microseconds of processor time a request, of the processes in between.
    proxy_us: f64,
    /// The same, client and server included.
    all_us: f64,
    /// Requests a second.
    rate: f64,
}

/// Measures all rows. Needs root, nginx, haproxy and wrk.
pub fn run() -> Result<Vec<Row>> {
    let Pair {
        mut world,
        frontend,
        backend,
    } = Pair::new()?;
    world.node.write("policies/backend.yaml", POLICY)?;
    let filtered = server::nginx(&backend, TIDEGATE, &world.dir())?;
    let plain = server::nginx(&backend, DIRECT, &world.dir())?;
    world.node.start()?;
    let nginx = nginx_proxy(&world, &backend)?;
    let haproxy = haproxy_proxy(&world, &backend)?;
    let mut servers = cpu::family(filtered.pid())?;
    servers.extend(cpu::family(plain.pid())?);

    let tidegate = Way {
        name: "tidegate",
        url: format!("http://{}:{TIDEGATE}", backend.v4),
        pids: vec![world.node.proxy_pid()?],
    };
    let ways = [
        Way {
            name: "direct",
            url: format!("http://{}:{DIRECT}", backend.v4),
            pids: Vec::new(),
        },
        Way {
            name: "nginx",
            url: format!("http://{NODE_V4}:{NGINX}"),
            pids: nginx.1,
        },
        Way {
            name: "haproxy",
            url: format!("http://{NODE_V4}:{HAPROXY}"),
            pids: haproxy.1,
        },
        tidegate,
    ];
    let mut rows = allowed(&frontend, &ways, &servers)?;
    rows.extend(refused(&frontend, &ways[1..], &servers)?);
    drop((nginx.0, haproxy.0));
    Ok(rows)
}

fn allowed(frontend: &Workload, ways: &[Way], servers: &[u32]) -> Result<Vec<Row>> {
    let slices = interleaved(frontend, ways, servers, "/api/users", 200)?;
    let of = |name: &str, value: fn(&Slice) -> f64| values(&slices, ways, name, value);
    let proxy = |s: &Slice| s.proxy_us;
    let all = |s: &Slice| s.all_us;
    let rate = |s: &Slice| s.rate;
    let row = |name: &str, other: &str, unit, value: fn(&Slice) -> f64| {
        Row::new(name, other, unit, &of("tidegate", value), &of(other, value))
    };
    Ok(vec![
        row(
            "HTTP/1.1 allowed, CPU of the proxy a request",
            "nginx",
            "us",
            proxy,
        ),
        row(
            "HTTP/1.1 allowed, CPU of the proxy a request",
            "haproxy",
            "us",
            proxy,
        ),
        row(
            "HTTP/1.1 allowed, CPU of client, proxy and server a request",
            "direct",
            "us",
            all,
        ),
        row(
            "HTTP/1.1 allowed, CPU of client, proxy and server a request",
            "nginx",
            "us",
            all,
        ),
        row("HTTP/1.1 allowed, requests a second", "direct", "1/s", rate),
        row("HTTP/1.1 allowed, requests a second", "nginx", "1/s", rate),
    ])
}

fn refused(frontend: &Workload, ways: &[Way], servers: &[u32]) -> Result<Vec<Row>> {
    let slices = interleaved(frontend, ways, servers, "/admin", 403)?;
    let of = |name: &str| values(&slices, ways, name, |s| s.proxy_us);
    let row = |other: &str| {
        let name = "HTTP/1.1 refused (403), CPU of the proxy a request";
        Row::new(name, other, "us", &of("tidegate"), &of(other))
    };
    Ok(vec![row("nginx"), row("haproxy")])
}

fn values(slices: &[Vec<Slice>], ways: &[Way], name: &str, value: fn(&Slice) -> f64) -> Vec<f64> {
    let at = ways.iter().position(|w| w.name == name).unwrap_or_default();
    slices.iter().map(|round| value(&round[at])).collect()
}

/// Every way once a round; the answer's status is checked before and its count after.
fn interleaved(
    frontend: &Workload,
    ways: &[Way],
    servers: &[u32],
    path: &str,
    status: u16,
) -> Result<Vec<Vec<Slice>>> {
    for way in ways {
        let answer = crate::harness::Curl::get(format!("{}{path}", way.url)).from(frontend)?;
        ensure!(
            answer.status == u64::from(status),
            "{}: {answer:?}, expected {status}",
            way.name
        );
    }
    (0..ROUNDS)
        .map(|_| {
            ways.iter()
                .map(|way| load(frontend, way, servers, path, status))
                .collect()
        })
        .collect()
}

fn load(frontend: &Workload, way: &Way, servers: &[u32], path: &str, status: u16) -> Result<Slice> {
    let url = format!("{}{path}", way.url);
    let (proxy, server) = (cpu::time(&way.pids)?, cpu::time(servers)?);
    let client = children_cpu_ns()?;
    let output = frontend.run("wrk", &["-t1", "-c8", "-d", SECONDS, url.as_str()])?;
    let text = String::from_utf8_lossy(&output.stdout);
    let requests = requests(&text).with_context(|| format!("{}: {text}", way.name))?;
    let refused = number_before(&text, "Non-2xx or 3xx responses: ").unwrap_or(0.0);
    let expected = if status == 200 { 0.0 } else { requests };
    ensure!(
        (refused - expected).abs() < 1.0,
        "{}: other answers than {status}:\n{text}",
        way.name
    );
    ensure!(!text.contains("Socket errors"), "{}: {text}", way.name);
    let proxy = (cpu::time(&way.pids)? - proxy) as f64;
    let server = (cpu::time(servers)? - server) as f64;
    let client = (children_cpu_ns()? - client) as f64;
    Ok(Slice {
        proxy_us: proxy / requests / 1e3,
        all_us: (proxy + server + client) / requests / 1e3,
        rate: requests / SECONDS.parse::<f64>()?,
    })
}

/// `123 requests in 2.00s, …`
fn requests(text: &str) -> Option<f64> {
    let (before, _) = text.split_once(" requests in ")?;
    before.rsplit_once(char::is_whitespace)?.1.parse().ok()
}

fn number_before(text: &str, label: &str) -> Option<f64> {
    text.split_once(label)?
        .1
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

/// Processor time of ended children of this process: wrk.
fn children_cpu_ns() -> Result<u64> {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN)?;
    let ns =
        |t: nix::sys::time::TimeVal| t.tv_sec() as u64 * 1_000_000_000 + t.tv_usec() as u64 * 1_000;
    Ok(ns(usage.user_time()) + ns(usage.system_time()))
}

/// nginx on the node: `GET /api/…` goes on, the rest is 403. One worker per CPU, keep-alive
/// both sides.
fn nginx_proxy(world: &World, backend: &Workload) -> Result<(Running, Vec<u32>)> {
    let home = world.dir().join("nginx-proxy");
    fs::create_dir_all(&home)?;
    let text = home.display();
    let config = format!(
        "daemon off; user root; worker_processes auto; pid {text}/pid; error_log stderr warn;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n\
           access_log off; keepalive_requests 100000000;\n\
           client_body_temp_path {text}/b; proxy_temp_path {text}/p; fastcgi_temp_path {text}/f;\n\
           uwsgi_temp_path {text}/u; scgi_temp_path {text}/s;\n\
           upstream backend {{ server {}:{DIRECT}; keepalive 64; keepalive_requests 100000000; }}\n\
           server {{\n\
             listen {NGINX} backlog=4096;\n\
             location ~ ^/api/ {{\n\
               limit_except GET {{ deny all; }}\n\
               proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
             }}\n\
             location / {{ return 403 \"Access denied\\r\\n\"; }}\n\
           }}\n\
         }}\n",
        backend.v4
    );
    let place = world.node.place();
    with_family(server::start_nginx(
        place,
        "nginx-proxy",
        (&home, &config),
        NGINX,
    )?)
}

/// HAProxy on the node with the same rules.
fn haproxy_proxy(world: &World, backend: &Workload) -> Result<(Running, Vec<u32>)> {
    let file = world.dir().join("haproxy.cfg");
    let config = format!(
        "global\n  maxconn 1000\n  nbthread 2\n\
         defaults\n  mode http\n  timeout connect 2s\n  timeout client 60s\n  timeout server 60s\n  \
         option http-keep-alive\n  http-reuse always\n\
         frontend in\n  bind :{HAPROXY}\n  acl get method GET\n  acl api path_reg ^/api/.*$\n  \
         http-request deny deny_status 403 unless get api\n  default_backend out\n\
         backend out\n  server b {}:{DIRECT}\n",
        backend.v4
    );
    fs::write(&file, config)?;
    let arguments = ["-db".as_ref(), "-f".as_ref(), file.as_os_str()];
    let place = world.node.place();
    let mut running = place.spawn("haproxy", "/usr/sbin/haproxy", &arguments)?;
    server::wait_for_tcp(place, HAPROXY, &mut running)?;
    with_family(running)
}

/// A server and all its processes.
fn with_family(running: Running) -> Result<(Running, Vec<u32>)> {
    let pids = cpu::family(running.pid())?;
    Ok((running, pids))
}
