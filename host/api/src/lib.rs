//! The local API over a Unix socket, and the metrics endpoint. It reads snapshots
//! only: nothing here changes what the node does.
//!
//! | path | answer |
//! | --- | --- |
//! | `/v1/status` | the whole [`View`], JSON |
//! | `/v1/flows?last=N&follow=BOOL&filter=JSON` | flow records, one JSON object a line |
//! | `/v1/explain?from=A&to=B&port=P&protocol=tcp&message=JSON` | an [`Explanation`], JSON |
//! | `/v1/fqdn` | names learned, JSON |
//! | `/metrics` | OpenMetrics text |
//! | `/healthz` | 200 while the agent lives |
//! | `/readyz` | 200 while what was written is in force; else 503, with a reason a line |
//!
//! Errors are `{"error": "…"}` with a 4xx or 5xx status.

pub mod client;
mod ends;
mod explain;
mod flows;
pub mod metrics;

use std::{
    net::SocketAddr,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tidegate_control::view::View;
use tidegate_observe::{
    directory::{LearnedName, LearnedNames},
    explain::{ExplainQuery, Explanation},
    store::FlowStore,
};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::watch,
};

/// Answers explain questions; implemented where the kernel tables are at hand.
pub trait Explain: Send + Sync {
    /// The answer for one flow, or why there is none.
    fn explain<'a>(&'a self, query: &'a ExplainQuery, view: &'a View) -> Explaining<'a>;
}

/// An explanation under way: the proxy may have to be asked.
pub type Explaining<'a> = Pin<Box<dyn Future<Output = anyhow::Result<Explanation>> + Send + 'a>>;

/// What is counted: read when somebody asks, not before.
pub trait Numbers: Send + Sync {
    /// Puts the numbers of this moment into a view.
    fn fill(&self, view: &mut View);
}

/// What the API reads.
#[derive(Clone)]
pub struct Readers {
    /// The agent's latest view.
    pub view: watch::Receiver<Arc<View>>,
    /// Flow records.
    pub flows: Arc<FlowStore>,
    /// Names learned for addresses.
    pub learned: Arc<Mutex<LearnedNames>>,
    /// The kernel tables.
    pub explain: Arc<dyn Explain>,
    /// Counters of kernel and proxy.
    pub numbers: Arc<dyn Numbers>,
}

impl Readers {
    /// The latest view, with the numbers of this moment. Reading them walks the tables that
    /// the kernel fills, milliseconds where they are full: off the threads that serve others.
    async fn counted(&self) -> Arc<View> {
        let mut view = View::clone(&self.view.borrow());
        let numbers = self.numbers.clone();
        let counted = tokio::task::spawn_blocking(move || {
            numbers.fill(&mut view);
            Arc::new(view)
        });
        // A view without numbers is better than none.
        let latest = |_| Arc::clone(&self.view.borrow());
        counted.await.unwrap_or_else(latest)
    }
}

/// Serves the API on a Unix socket that only root may open. Replaces a socket file
/// left by an agent that was killed.
pub async fn serve_api(path: &Path, readers: Readers) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    axum::serve(listener, api(readers)).await?;
    Ok(())
}

/// Serves `/metrics`, `/healthz` and `/readyz` on TCP.
pub async fn serve_metrics(addr: SocketAddr, readers: Readers) -> anyhow::Result<()> {
    let listener = TcpListener::bind(addr).await?;
    axum::serve(listener, health(readers)).await?;
    Ok(())
}

fn api(readers: Readers) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/flows", get(flows::stream))
        .route("/v1/explain", get(explain::answer))
        .route("/v1/fqdn", get(fqdn))
        .with_state(readers.clone())
        .merge(health(readers))
}

fn health(readers: Readers) -> Router {
    Router::new()
        .route("/metrics", get(scrape))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(readers)
}

async fn status(State(readers): State<Readers>) -> Response {
    Json(&*readers.counted().await).into_response()
}

async fn fqdn(State(readers): State<Readers>) -> Response {
    let learned = readers
        .learned
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let list = learned.list(Instant::now()).into_iter();
    let list = list.map(|(address, name, ttl_seconds)| LearnedName {
        name,
        address,
        ttl_seconds,
    });
    Json(list.collect::<Vec<_>>()).into_response()
}

async fn scrape(State(readers): State<Readers>) -> Response {
    let view = readers.counted().await;
    match metrics::render(&view, &readers.flows) {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(e) => error(StatusCode::INTERNAL_SERVER_ERROR, &format!("metrics: {e}")),
    }
}

async fn ready(State(readers): State<Readers>) -> Response {
    let obstacles = readers.view.borrow().obstacles();
    if obstacles.is_empty() {
        return "ready\n".into_response();
    }
    let mut text = obstacles.join("\n");
    text.push('\n');
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

fn error(status: StatusCode, message: &str) -> Response {
    (status, Json(serde_json::json!({ "error": message }))).into_response()
}

#[cfg(test)]
mod tests;
