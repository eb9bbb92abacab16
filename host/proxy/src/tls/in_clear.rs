//! A connection whose rules hold what is asked for to names, whether in TLS or in the host
//! of requests: the first byte says which it is.

use std::{io, net::IpAddr, time::Duration};

use tidegate_contract::L7Summary;
use tidegate_policy::http_options::HttpOptions;
use tidegate_wire::{
    http::{HttpHead, ResponseHead},
    tls::Asked,
};
use tokio::net::TcpStream;

use super::within::host_of;
use crate::{
    decide::{
        Attribution,
        http::{Decision, Denial, Verdict},
    },
    flow::FlowContext,
    http::{self, Activity, Inspector, Phase, cut_off},
    leg::Leg,
};

/// How long a client may take to say anything.
const PATIENCE: Duration = Duration::from_secs(15);
/// First byte of a record with a hello (RFC 8446 §5.1).
const HANDSHAKE: u8 = 22;

/// Serves one connection. `audit`: what its rules refuse is only reported.
pub(crate) async fn serve(client: TcpStream, flow: &FlowContext, activity: &Activity, audit: bool) {
    activity.enter(Phase::Head);
    let mut first = [0];
    let begun = tokio::select! {
        begun = tokio::time::timeout(PATIENCE, client.peek(&mut first)) => begun,
        () = activity.evicted() => return cut_off(&client),
    };
    match begun {
        // A method begins with a letter (RFC 9110 §5.6.2).
        Ok(Ok(1)) if first[0] != HANDSHAKE && first[0].is_ascii_graphic() => {
            http::serve(client, &InClear(flow), activity).await;
        }
        Ok(Err(_)) => cut_off(&client),
        // What is nothing of both is refused there, and told.
        _ => super::serve(client, flow, activity, audit).await,
    }
}

/// The flow, as requests in the clear ask it.
struct InClear<'f>(&'f FlowContext);

impl Inspector for InClear<'_> {
    async fn connect_upstream(&self) -> io::Result<Leg> {
        self.0.connect_upstream().await.map(Leg::from)
    }

    fn options(&self) -> HttpOptions {
        self.0.options()
    }

    fn is_over(&self) -> bool {
        self.0.is_over()
    }

    fn decide_request(&self, head: &HttpHead<'_>) -> Decision {
        let asked = asked_of(head.authority);
        let Some((allowed, attribution)) = self.0.decide_in_clear(&asked) else {
            // The rules are others by now.
            return self.0.decide_request(head);
        };
        // A tunnel leads wherever its end wants.
        let tunnel = head.method == "CONNECT";
        Decision {
            verdict: match allowed && !tunnel {
                true => Verdict::Allow,
                false => Verdict::Deny(Denial::default()),
            },
            attribution,
            sees_response: false,
            filters: Default::default(),
        }
    }

    fn decide_response(&self, request: Attribution, head: &ResponseHead<'_>) -> Decision {
        self.0.decide_response(request, head)
    }

    fn record(&self, attribution: Attribution, allowed: bool, summary: L7Summary) {
        self.0.record(attribution, allowed, summary);
    }
}

/// Whom an authority is about.
pub(crate) fn asked_of(authority: &str) -> Asked {
    let host = host_of(authority).trim_end_matches('.');
    match host {
        "" => Asked::Nothing,
        host if host.parse::<IpAddr>().is_ok() => Asked::Address(host.to_owned()),
        host => Asked::Name(host.to_ascii_lowercase()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_about_a_host() {
        let name = |text: &str| Asked::Name(text.to_owned());
        for (authority, asked) in [
            ("API.example.:80", name("api.example")),
            ("api.example", name("api.example")),
            ("192.0.2.1:80", Asked::Address("192.0.2.1".into())),
            ("[2001:db8::1]:80", Asked::Address("2001:db8::1".into())),
            ("", Asked::Nothing),
            (":80", Asked::Nothing),
        ] {
            assert_eq!(asked_of(authority), asked, "{authority}");
        }
    }
}
