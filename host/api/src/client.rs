//! Asks the agent over its Unix socket.

use std::{
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, Response, StatusCode, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use tidegate_observe::filter::FlowFilter;
use tokio::net::UnixStream;

/// The agent's local API.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the socket.
    #[error(
        "no agent answers on {}; is `tidegate run` running, and is this its socket (--socket)?",
        .socket.display()
    )]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// What connecting said.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the agent's answer broke off: {0}")]
    Transport(String),
    /// The agent refused the question.
    #[error("{message}")]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// What the agent said.
        message: String,
    },
    /// The answer is not what this version understands.
    #[error("the agent's answer {0}")]
    Answer(String),
    /// Standard output is gone.
    #[error("cannot print: {0}")]
    Output(io::Error),
}

impl Client {
    /// A client of the agent with this socket.
    pub fn new(socket: impl AsRef<Path>) -> Self {
        Self {
            socket: socket.as_ref().to_owned(),
        }
    }

    /// A JSON answer.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let body = self.text(path).await?;
        serde_json::from_str(&body)
            .map_err(|e| ClientError::Answer(format!("is of another version: {e}")))
    }

    /// A text answer.
    pub async fn text(&self, path: &str) -> Result<String, ClientError> {
        let body = whole(self.send(path).await?).await?;
        String::from_utf8(body.into()).map_err(|_| ClientError::Answer("is not text".into()))
    }

    /// Flow records as lines of JSON: the last ones, then, if asked, what follows.
    pub async fn flows(
        &self,
        filter: &FlowFilter,
        last: Option<usize>,
        follow: bool,
    ) -> Result<Lines, ClientError> {
        let filter = serde_json::to_string(filter)
            .map_err(|e| ClientError::Answer(format!("cannot be asked for: {e}")))?;
        let last = last.map(|n| format!("&last={n}")).unwrap_or_default();
        let path = format!("/v1/flows?follow={follow}{last}&filter={}", encode(&filter));
        Ok(Lines {
            body: self.send(&path).await?.into_body(),
            buffer: Vec::new(),
        })
    }

    async fn send(&self, path: &str) -> Result<Response<Incoming>, ClientError> {
        let stream =
            UnixStream::connect(&self.socket)
                .await
                .map_err(|source| ClientError::Connect {
                    socket: self.socket.clone(),
                    source,
                })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(transport)?;
        // Ends with the response body; an error shows up there.
        tokio::spawn(connection);
        let request = Request::get(path)
            .header(hyper::header::HOST, "agent")
            .body(Empty::<Bytes>::new())
            .map_err(transport)?;
        let response = sender.send_request(request).await.map_err(transport)?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = whole(response).await?;
        let text = String::from_utf8_lossy(&body).trim().to_owned();
        let message = serde_json::from_str::<serde_json::Value>(&text)
            .ok()
            .and_then(|v| v.get("error")?.as_str().map(str::to_owned))
            .unwrap_or(text);
        Err(ClientError::Refused { status, message })
    }
}

/// The body of an answer that ends.
async fn whole(response: Response<Incoming>) -> Result<Bytes, ClientError> {
    let body = response.into_body().collect().await;
    Ok(body.map_err(transport)?.to_bytes())
}

fn transport(e: impl std::fmt::Display) -> ClientError {
    ClientError::Transport(e.to_string())
}

/// What a query value may carry as it is: RFC 3986's unreserved characters (§2.3).
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Percent-encodes the rest.
pub fn encode(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

/// Lines of a streamed answer.
#[derive(Debug)]
pub struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Lines {
    /// The next line without its end; `None` at the end of the answer.
    pub async fn next_line(&mut self) -> Result<Option<String>, ClientError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line = self.buffer.drain(..=end).collect::<Vec<_>>();
                let text = String::from_utf8(line[..end].to_vec());
                return text
                    .map(Some)
                    .map_err(|_| ClientError::Answer("is not text".into()));
            }
            let mut frames = (&mut self.body).into_data_stream();
            match frames.try_next().await.map_err(transport)? {
                Some(data) => self.buffer.extend_from_slice(&data),
                None => return Ok(None),
            }
        }
    }
}
