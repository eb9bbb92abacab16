//! Sockets of host services: those kinds are refused whose traffic no other hook sees.

use aya_ebpf::programs::SockContext;
use tidegate_decide::Evaluation;
use tidegate_ebpf_shared::reason;

use crate::{
    attempt::Attempt,
    host_service::{current, report_denied},
    verdict::Answer,
};

/// Largest protocol number that a packet can carry.
const ON_THE_WIRE: u32 = 255;

/// Decides about a new socket. Protocols without a number on the wire (MPTCP, SMC) speak
/// through sockets that the kernel makes and connects by itself: no connect of theirs is
/// ever asked about. Programs that prefer them fall back to TCP, as on a kernel that does
/// not know them.
#[inline(always)]
pub fn run(ctx: &SockContext) -> Answer {
    // SAFETY: the kernel hands the program a valid socket.
    let protocol = unsafe { (&raw const (*ctx.sock).protocol).read_volatile() };
    if protocol <= ON_THE_WIRE {
        return Answer::Proceed;
    }
    let endpoint = current();
    if endpoint == 0 {
        return Answer::Proceed;
    }
    let evaluation = Evaluation {
        src_endpoint: endpoint,
        reason: reason::UNKNOWN_L4,
        ..Evaluation::default()
    };
    report_denied(&Attempt::default(), &evaluation);
    Answer::Unsupported
}
