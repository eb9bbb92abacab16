//! Real servers, each ready when its constructor returns.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;

use super::{eventually::eventually, place::Place, process::Running};

/// nginx on `port` (HTTP/1.1) of both families, and on `port + 1` HTTP/2 without TLS.
/// `/` and below answer with one line that says who answers and what was seen;
/// `/static/` serves the files there, and says of them in `x-see` and `x-how` what the query does;
/// `/files/` stores what is put there.
pub fn nginx(place: &Place, port: u16, dir: &Path) -> anyhow::Result<Running> {
    let name = place.name();
    let home = dir.join(format!("nginx-{name}-{port}"));
    fs::create_dir_all(home.join("static"))?;
    let home_text = home.display();
    let h2_port = port + 1;
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
    keepalive_requests 1000000;
    client_max_body_size 1g;
    client_body_temp_path {home_text}/body;
    proxy_temp_path {home_text}/proxy;
    fastcgi_temp_path {home_text}/fastcgi;
    uwsgi_temp_path {home_text}/uwsgi;
    scgi_temp_path {home_text}/scgi;
    default_type text/plain;
    server {{
        listen {port} backlog=4096;
        listen [::]:{port} backlog=4096;
        listen {h2_port} http2;
        listen [::]:{h2_port} http2;
        location / {{
            return 200 "{name} $remote_addr $remote_port $request_method $request_uri $http_x_bot_filter\n";
        }}
        location /static/ {{
            root {home_text};
            add_header x-see $arg_see;
            add_header x-how $arg_how;
        }}
        location /files/ {{
            root {home_text};
            dav_methods PUT;
            create_full_put_path on;
        }}
    }}
}}
"#
    );
    start_nginx(place, &format!("nginx-{port}"), (&home, &config), port)
}

/// Starts nginx with a configuration in a folder of its own, and waits until it listens on
/// `port`.
pub(crate) fn start_nginx(
    place: &Place,
    label: &str,
    (home, config): (&Path, &str),
    port: u16,
) -> anyhow::Result<Running> {
    let file = home.join("nginx.conf");
    fs::write(&file, config)?;
    let program = ["/usr/sbin/nginx", "nginx"]
        .into_iter()
        .find(|p| Path::new(p).exists());
    let arguments = [
        "-p".as_ref(),
        home.as_os_str(),
        "-c".as_ref(),
        file.as_os_str(),
    ];
    let mut server = place.spawn(label, program.unwrap_or("nginx"), &arguments)?;
    wait_for_tcp(place, port, &mut server)?;
    Ok(server)
}

/// lighttpd on `port` of IPv4, which changes to HTTP/2 when it is asked to. It serves
/// the files of the folder returned.
pub fn lighttpd(place: &Place, port: u16, dir: &Path) -> anyhow::Result<(Running, PathBuf)> {
    let home = dir.join(format!("lighttpd-{}-{port}", place.name()));
    fs::create_dir_all(&home)?;
    let files = home.join("files");
    fs::create_dir_all(&files)?;
    let config = format!(
        "server.document-root = \"{}\"\nserver.port = {port}\nserver.bind = \"0.0.0.0\"\n",
        files.display()
    );
    let file = home.join("lighttpd.conf");
    fs::write(&file, config)?;
    let arguments = ["-D".as_ref(), "-f".as_ref(), file.as_os_str()];
    let program = "/usr/sbin/lighttpd";
    let mut server = place.spawn(&format!("lighttpd-{port}"), program, &arguments)?;
    wait_for_tcp(place, port, &mut server)?;
    Ok((server, files))
}

/// dnsmasq on port 53 that knows these names (and all below each) and nothing else.
pub fn dns(place: &Place, names: &[(&str, &str)]) -> anyhow::Result<Running> {
    let mut arguments: Vec<String> = [
        "--keep-in-foreground",
        "--no-resolv",
        "--no-hosts",
        "--no-daemon",
        "--log-queries",
        "--user=root",
        "--pid-file=",
        "--local-ttl=60",
        "--conf-file=/dev/null",
    ]
    .map(str::to_owned)
    .to_vec();
    arguments.extend(
        names
            .iter()
            .map(|(name, address)| format!("--address=/{name}/{address}")),
    );
    let mut server = place.spawn("dns", "dnsmasq", &arguments)?;
    wait_for_tcp(place, 53, &mut server)?;
    Ok(server)
}

/// Waits until somebody listens on a port of the place itself.
pub fn wait_for_tcp(place: &Place, port: u16, server: &mut Running) -> anyhow::Result<()> {
    eventually(
        &format!("a server on port {port} of {}", place.name()),
        || {
            server.check_alive()?;
            place.within(|| TcpStream::connect(("127.0.0.1", port)))??;
            Ok(())
        },
    )
}

/// A TCP server on a thread: hands every connection to `serve` on a thread of its own.
pub fn tcp(
    place: &Place,
    port: u16,
    serve: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + Clone + 'static,
) -> anyhow::Result<()> {
    let listener = place
        .within(|| TcpListener::bind(("::", port)))?
        .with_context(|| format!("cannot listen on port {port} of {}", place.name()))?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            // How a connection ends is the client's to judge.
            std::thread::spawn(move || drop(serve(stream)));
        }
    });
    Ok(())
}

/// A TCP server that sends back what it gets.
pub fn tcp_echo(place: &Place, port: u16) -> anyhow::Result<()> {
    tcp(place, port, |mut stream| echo(&mut stream))
}

fn echo(stream: &mut TcpStream) -> io::Result<()> {
    let mut bytes = [0; 16384];
    loop {
        match stream.read(&mut bytes)? {
            0 => return Ok(()),
            n => stream.write_all(&bytes[..n])?,
        }
    }
}

/// An HTTP/1.1 server that answers every request with what follows the request's head:
/// a chunked body comes back chunk by chunk, with its trailers; after an upgrade
/// (`101`) every byte comes back.
pub fn http_echo(place: &Place, port: u16) -> anyhow::Result<()> {
    tcp(place, port, |mut stream| {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let answer = if head.contains("\r\nupgrade:") {
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
        } else {
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n"
        };
        stream.write_all(answer.as_bytes())?;
        echo(&mut stream)
    })
}

/// A UDP server that sends back what it gets, after its own name and a space.
pub fn udp_echo(place: &Place, port: u16) -> anyhow::Result<()> {
    let name = place.name().to_owned();
    let socket = place.within(|| UdpSocket::bind(("::", port)))??;
    std::thread::spawn(move || -> io::Result<()> {
        let mut bytes = vec![0; 65_535];
        loop {
            let (n, peer) = socket.recv_from(&mut bytes)?;
            let answer = [name.as_bytes(), b" ", &bytes[..n]].concat();
            socket.send_to(&answer, peer)?;
        }
    });
    Ok(())
}

/// A TCP client's connection, made inside a place.
pub fn connect(place: &Place, to: impl Into<SocketAddr>) -> anyhow::Result<TcpStream> {
    let to = to.into();
    let limit = Duration::from_secs(2);
    let stream = place
        .within(|| TcpStream::connect_timeout(&to, limit))?
        .with_context(|| format!("{} cannot connect to {to}", place.name()))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    Ok(stream)
}

/// Sends a datagram from a place and waits up to a second for the answer.
pub fn ask_udp(place: &Place, to: impl Into<SocketAddr>, text: &str) -> anyhow::Result<String> {
    let to = to.into();
    let socket = datagram_socket(place, to)?;
    socket.send_to(text.as_bytes(), to)?;
    let mut bytes = vec![0; 65_535];
    let (n, from) = socket.recv_from(&mut bytes)?;
    anyhow::ensure!(from == to, "asked {to}, answered by {from}");
    Ok(String::from_utf8_lossy(&bytes[..n]).into_owned())
}

/// As [`ask_udp`], where the datagram must get lost: silence for a second. A refusal by
/// the sender's or the target's stack is another thing, and an error.
pub fn expect_udp_dropped(
    place: &Place,
    to: impl Into<SocketAddr>,
    text: &str,
) -> anyhow::Result<()> {
    let to = to.into();
    let socket = datagram_socket(place, to)?;
    // A connected socket is told of ICMP errors.
    place.within(|| socket.connect(to))??;
    socket.send(text.as_bytes())?;
    let mut bytes = [0; 2048];
    match socket.recv(&mut bytes) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error).with_context(|| format!("not silent: {to}")),
        Ok(n) => {
            let answer = String::from_utf8_lossy(&bytes[..n]);
            anyhow::bail!("{to} answered {} with {answer:?}", place.name())
        }
    }
}

/// A socket that waits a second for an answer from an address of this family.
fn datagram_socket(place: &Place, to: SocketAddr) -> anyhow::Result<UdpSocket> {
    let any: SocketAddr = if to.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        ([0; 8], 0).into()
    };
    let socket = place.within(|| UdpSocket::bind(any))??;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    Ok(socket)
}
