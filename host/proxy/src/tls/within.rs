//! A connection whose TLS ends, or begins, here: what is inside is decided as it would be
//! without. Nothing passes that was not read, and a server hears no request before it has
//! shown who it is.

use std::{
    cell::{Cell, RefCell},
    io,
    net::IpAddr,
    time::Duration,
};

use rustls::pki_types::ServerName;
use tidegate_contract::{
    Failure,
    FailureKind::{ClientProtocol, ClientTls, Overload, RulesUnknown, UpstreamTls},
    L7Summary,
};
use tidegate_policy::{compiled::L7Protocol, http_options::HttpOptions};
use tidegate_tls::{Originator, Protocol};
use tidegate_wire::{
    http::{HttpHead, ResponseHead, Version},
    tls::{Asked, alert},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::{Greeted, greet, with_alert};
use crate::{
    budget::{NO_MEMORY, Taken, no_memory},
    decide::{
        Attribution,
        http::{self as decide, Decision, Verdict},
    },
    flow::{Ends, FlowContext, Standing},
    http::{self, Activity, Inspector, cut_off},
    leg::{Leg, Replayed, Unasked},
};

/// How long either end may take for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Memory of one session, bytes: a record each way, and what is kept of the handshake.
const SESSION: usize = 40 << 10;

/// Serves one connection.
pub(crate) async fn serve(
    client: TcpStream,
    flow: &FlowContext,
    activity: &Activity,
    ends: Ends,
    inside: L7Protocol,
) {
    serve_within(HANDSHAKE, client, flow, activity, ends, inside).await;
}

/// The same with another limit of a handshake, for tests.
pub(super) async fn serve_within(
    handshake: Duration,
    client: TcpStream,
    flow: &FlowContext,
    activity: &Activity,
    ends: Ends,
    inside: L7Protocol,
) {
    let within = Within {
        handshake,
        flow,
        activity,
        originator: ends.originator,
        asked: RefCell::default(),
        host: RefCell::default(),
        speaks: Cell::new(Protocol::Http1),
        upstream: RefCell::default(),
        ends_here: ends.terminator.is_some(),
    };
    if inside != L7Protocol::Http {
        flow.stream_failed(RulesUnknown.because("of what is inside of TLS only HTTP is read"));
        return cut_off(&client);
    }
    let client = match ends.terminator {
        None => Leg::from(client),
        Some(terminator) => {
            let Some((client, greeted)) = greet(client, flow, activity, ends.audit).await else {
                return;
            };
            let ended = tokio::select! {
                ended = within.end(client, greeted, terminator) => ended,
                () = activity.evicted() => return,
            };
            match ended {
                Some(leg) => leg,
                None => return,
            }
        }
    };
    http::serve(client, &within, activity).await;
}

/// The flow, as what is within its TLS asks it.
struct Within<'f> {
    /// How long either end may take for its handshake.
    handshake: Duration,
    flow: &'f FlowContext,
    activity: &'f Activity,
    /// What begins TLS towards the server, or why it cannot.
    originator: Option<Result<Originator, String>>,
    /// What the client asked for before it encrypted, if its TLS ends here.
    asked: RefCell<Option<Asked>>,
    /// Whom the request that opens the upstream leg is for.
    host: RefCell<String>,
    speaks: Cell<Protocol>,
    /// The upstream leg, where it was opened before a request came.
    upstream: RefCell<Option<io::Result<(Leg, Protocol)>>>,
    ends_here: bool,
}

impl Within<'_> {
    /// Ends the client's TLS; `None` if that fails, which is recorded.
    async fn end(
        &self,
        client: TcpStream,
        greeted: Greeted,
        terminator: Result<tidegate_tls::Terminator, String>,
    ) -> Option<Leg> {
        let Greeted {
            hello,
            held,
            summary,
            memory,
        } = greeted;
        let (version, offered) = (hello.legacy_version, protocols(&hello.alpn));
        *self.asked.borrow_mut() = Some(hello.asked);
        let refuse = async |mut client: TcpStream, why: Failure, description| {
            let summary = with_alert(summary.clone(), Some(description));
            self.flow.hello_failed(why, summary);
            let alert = alert::fatal(version, description);
            http::last_words(&mut client, &alert).await;
            None
        };
        let terminator = match terminator {
            Ok(terminator) => terminator,
            Err(why) => return refuse(client, ClientTls.because(why), alert::INTERNAL_ERROR).await,
        };
        let Some(session) = self.activity.budget().take(SESSION) else {
            return refuse(client, Overload.because(NO_MEMORY), alert::INTERNAL_ERROR).await;
        };
        let chosen = match offered.is_empty() {
            true => None,
            false => Some(self.choose(&offered).await),
        };
        let config = terminator.config(chosen);
        let accept = TlsAcceptor::from(config).accept(Replayed::new(held, client));
        let accepted = match timeout(self.handshake, accept).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("not over within {} s", self.handshake.as_secs())),
        };
        drop(memory);
        match accepted {
            Ok(stream) => Some(Leg::within(TlsStream::Server(stream), session)),
            Err(why) => {
                let why = format!("the TLS handshake of the client failed: {why}");
                let why = ClientTls.because(why);
                self.flow.hello_failed(why, summary);
                None
            }
        }
    }

    /// What is spoken inside, of what the client offers: what the server chooses, where its
    /// TLS begins here; it is asked before the client is answered. Of one without TLS
    /// nobody knows whether it speaks HTTP/2, so that is spoken only to clients that speak
    /// nothing else.
    async fn choose(&self, offered: &[Protocol]) -> Protocol {
        let first = offered.first().copied().unwrap_or(Protocol::Http1);
        if self.originator.is_none() {
            return match offered.contains(&Protocol::Http1) {
                true => Protocol::Http1,
                false => first,
            };
        }
        let opened = self.open(offered).await;
        let chosen = match &opened {
            Ok((_, chosen)) => *chosen,
            // Whoever asks is told why.
            Err(_) => first,
        };
        *self.upstream.borrow_mut() = Some(opened);
        chosen
    }

    /// Opens the upstream leg; what is spoken there is one of `offered`.
    async fn open(&self, offered: &[Protocol]) -> io::Result<(Leg, Protocol)> {
        let originator = self.originator.as_ref().map(Result::as_ref).transpose();
        let originator =
            originator.map_err(|why| io::Error::other(UpstreamTls.because(why.clone())))?;
        let socket = self.flow.connect_upstream().await?;
        let first = offered.first().copied().unwrap_or(Protocol::Http1);
        let Some(originator) = originator else {
            return Ok((socket.into(), first));
        };
        let session: Taken = self.activity.budget().take(SESSION).ok_or_else(no_memory)?;
        let name = self.server_name();
        let shown = name.to_str().into_owned();
        let connector = TlsConnector::from(originator.config(offered));
        let connect = connector.connect(name, Replayed::new(Vec::new(), socket));
        let stream = match timeout(self.handshake, connect).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                let why = format!("TLS with {shown} failed: {error}");
                let why = UpstreamTls.because(why);
                return Err(io::Error::new(io::ErrorKind::ConnectionRefused, why));
            }
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        };
        let chosen = stream.get_ref().1.alpn_protocol().and_then(Protocol::named);
        let chosen = chosen.unwrap_or(Protocol::Http1);
        if !offered.is_empty() && !offered.contains(&chosen) {
            let what = format!("{shown} does not speak {} within TLS", first.name());
            return Err(io::Error::other(UpstreamTls.because(what)));
        }
        Ok((Leg::within(TlsStream::Client(stream), session), chosen))
    }

    /// Who the server has to be: whom the client asked for before it encrypted, else in its
    /// request, else whoever has the address.
    fn server_name(&self) -> ServerName<'static> {
        let asked = self.asked.borrow();
        let asked = asked.as_ref().map(Asked::text).unwrap_or_default();
        let host = self.host.borrow();
        let names = [asked, host_of(&host)].into_iter();
        let mut names = names.filter(|name| !name.is_empty());
        let name = names.find_map(|name| ServerName::try_from(name.to_owned()).ok());
        name.unwrap_or_else(|| {
            let address: IpAddr = self.flow.destination.ip();
            ServerName::IpAddress(address.into())
        })
    }

    /// What is wrong with a request on this connection, before any rule is asked about it.
    fn misdirected(&self, head: &HttpHead<'_>) -> Option<Decision> {
        if !self.ends_here || self.flow.asks_for_server_name().is_none() {
            return None;
        }
        let asked = self.asked.borrow();
        let (allowed, attribution) = self.flow.decide_hello(asked.as_ref());
        let refuse = |status, body: &'static str, attribution| Decision {
            verdict: Verdict::Deny(decide::Denial::text(status, body)),
            attribution,
            sees_response: false,
            filters: Default::default(),
        };
        if !allowed {
            return Some(refuse(403, "Access denied\r\n", attribution));
        }
        // Where names are listed, what was asked for is whom requests are for (RFC 9110
        // §15.5.20): behind one address there are others.
        let name = asked.as_ref().map(Asked::text).unwrap_or_default();
        let host = host_of(head.authority);
        let same = host
            .trim_end_matches('.')
            .eq_ignore_ascii_case(name.trim_end_matches('.'));
        (!same && !attribution.audited && !name.is_empty()).then(|| {
            let attribution = Attribution {
                error: Some(
                    ClientProtocol.because(format!("a request for another host than {name}")),
                ),
                ..attribution
            };
            refuse(421, "Another host than this TLS is for\r\n", attribution)
        })
    }
}

/// The host of an authority, without its port.
pub(super) fn host_of(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    authority.split(':').next().unwrap_or(authority)
}

/// What a client offers of what can be read here, in its order.
fn protocols(alpn: &[String]) -> Vec<Protocol> {
    let known = alpn
        .iter()
        .filter_map(|name| Protocol::named(name.as_bytes()));
    known.collect()
}

impl Inspector for Within<'_> {
    async fn connect_upstream(&self) -> io::Result<Leg> {
        let opened = self.upstream.borrow_mut().take();
        match opened {
            Some(Ok((leg, speaks))) => match (leg.unasked(), speaks) {
                // A server of HTTP/2 has said its settings by now.
                (None, _) | (Some(Unasked::Spoke), Protocol::Http2) => return Ok(leg),
                // What it said cannot be the answer to what it was not asked.
                (Some(Unasked::Spoke), Protocol::Http1) => {
                    cut_off(&leg);
                    return Err(io::Error::other("it spoke before it was asked"));
                }
                // The next one comes from the same port.
                (Some(Unasked::Ended), _) => cut_off(&leg),
            },
            Some(Err(error)) => return Err(error),
            None => {}
        }
        self.open(&[self.speaks.get()]).await.map(|(leg, _)| leg)
    }

    fn scheme(&self) -> &'static str {
        match self.ends_here {
            true => "https",
            false => "http",
        }
    }

    fn options(&self) -> HttpOptions {
        self.flow.options()
    }

    fn is_over(&self) -> bool {
        self.flow.is_over()
    }

    fn standing(&self) -> Standing {
        self.flow.standing()
    }

    fn stands(&self, standing: &Standing) -> bool {
        self.flow.stands(standing)
    }

    fn decide_request(&self, head: &HttpHead<'_>) -> Decision {
        if self.upstream.borrow().is_none() {
            self.speaks.set(match head.version {
                Version::Http2 => Protocol::Http2,
                _ => Protocol::Http1,
            });
        }
        if let Some(refused) = self.misdirected(head) {
            return refused;
        }
        let decision = self.flow.decide_request(head);
        if !matches!(decision.verdict, Verdict::Deny(_)) && self.host.borrow().is_empty() {
            head.authority.clone_into(&mut self.host.borrow_mut());
        }
        decision
    }

    fn decide_response(&self, request: Attribution, head: &ResponseHead<'_>) -> Decision {
        self.flow.decide_response(request, head)
    }

    fn record(&self, attribution: Attribution, allowed: bool, summary: L7Summary) {
        self.flow.record(attribution, allowed, summary);
    }
}
