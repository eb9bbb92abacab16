//! `connect` and addressed datagrams: service translation first, then the egress
//! policy of a host service.

use aya_ebpf::programs::SockAddrContext;
use tidegate_decide::Evaluation;
use tidegate_ebpf_shared::{policy::verdict, reason};

use crate::{
    attempt::{Attempt, Call},
    host_service::{decide, is_audited, report_denied, report_opened},
    socket_addr::{cookie, is_ours, read, write},
    steer::steer,
    translate::{Translation, remember, report, translate},
    verdict::Answer,
};

/// Decides where a socket's attempt really goes, or that it goes nowhere.
#[inline(always)]
pub fn run<const FAMILY: bool>(ctx: &SockAddrContext, call: Call) -> Answer {
    let mut attempt = Attempt::default();
    read::<FAMILY>(ctx, &mut attempt.tuple);
    if !is_ours(&attempt.tuple) {
        return Answer::Proceed;
    }
    attempt.cookie = cookie(ctx);
    let mut evaluation = Evaluation::default();
    let translation = translate(&mut attempt, call);
    if translation == Translation::NoBackend {
        evaluation.reason = reason::NO_BACKEND;
        report_denied(&attempt, &evaluation);
        return Answer::Unreachable;
    }
    decide(&attempt.tuple, &mut evaluation);
    if !evaluation.is_allowed() {
        report_denied(&attempt, &evaluation);
        if !is_audited(&evaluation) {
            return Answer::Refuse;
        }
    } else if evaluation.verdict == verdict::REDIRECT {
        if steer::<FAMILY>(ctx, &mut attempt, &evaluation, call) {
            report_opened(&attempt, &evaluation, call);
            return Answer::Proceed;
        }
        evaluation.reason = reason::PROXY_UNAVAILABLE;
        report_denied(&attempt, &evaluation);
        return Answer::Refuse;
    }
    if translation == Translation::Done {
        let port = attempt.tuple.dst_port;
        if !write::<FAMILY>(ctx, &attempt.tuple.dst, port) {
            evaluation.reason = reason::NO_BACKEND;
            report_denied(&attempt, &evaluation);
            return Answer::Unreachable;
        }
        let news = remember(
            &attempt,
            &attempt.tuple.dst,
            u32::from(u16::from_ne_bytes(port)),
        );
        report(&attempt, news);
    }
    if evaluation.src_endpoint != 0 && evaluation.is_allowed() {
        report_opened(&attempt, &evaluation, call);
    }
    Answer::Proceed
}
