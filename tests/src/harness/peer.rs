//! Servers and clients that speak more than curl and nginx do: programs under
//! `tests/peers`, on the machine's own Python and its usual libraries.

use std::path::PathBuf;

use anyhow::{Context, ensure};
use serde_json::Value;

use super::{place::Place, process::Running, server::wait_for_tcp, tag::repository};

/// Debian's interpreter, which has the libraries that `cargo xtask setup` installs.
const PYTHON: &str = "/usr/bin/python3";

/// One of the programs, each a client and a server unless it says otherwise.
#[derive(Clone, Copy, Debug)]
pub enum Peer {
    /// gRPC: `call ADDRESS:PORT`.
    Grpc,
    /// WebSocket: `talk ws://…`.
    WebSocket,
    /// Kafka: `run ADDRESS:PORT`.
    Kafka,
    /// HTTP, leaving and coming back from one port: `LEAVING ADDRESS,PORT,SOURCE,TIMES`.
    /// A client only.
    Returning,
}

impl Peer {
    fn script(self) -> PathBuf {
        let name = match self {
            Self::Grpc => "grpc_peer.py",
            Self::WebSocket => "websocket_peer.py",
            Self::Kafka => "kafka_peer.py",
            Self::Returning => "returning_client.py",
        };
        repository().join("tests/peers").join(name)
    }

    /// Starts the server on a port of both families.
    ///
    /// # Errors
    ///
    /// If it does not listen in time.
    pub fn serve(self, place: &Place, port: u16) -> anyhow::Result<Running> {
        let script = self.script();
        let arguments = [
            script.display().to_string(),
            "serve".to_owned(),
            port.to_string(),
        ];
        let mut server = place.spawn(&format!("peer-{port}"), PYTHON, &arguments)?;
        wait_for_tcp(place, port, &mut server)?;
        Ok(server)
    }

    /// Runs the client and returns the JSON it prints.
    ///
    /// # Errors
    ///
    /// If it fails, with what it wrote about it.
    pub fn client(self, place: &Place, verb: &str, target: &str) -> anyhow::Result<Value> {
        let script = self.script();
        let arguments = [script.as_os_str(), verb.as_ref(), target.as_ref()];
        let output = place.run(PYTHON, &arguments)?;
        ensure!(
            output.status.success(),
            "{verb} {target} from {}: {}",
            place.name(),
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).context("the client printed no JSON")
    }
}
