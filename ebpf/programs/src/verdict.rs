//! The one table from outcome to kernel return code.

use aya_ebpf::{
    bindings::{sk_action, tcx_action_base, xdp_action},
    helpers::bpf_set_retval,
    programs::TcContext,
};
use tidegate_ebpf_shared::mark::{self, tag};

use crate::bridge;

/// What happens to a packet at a tcx hook.
#[derive(Clone, Copy)]
pub enum Outcome {
    /// Not ours: on its way as it came.
    Pass,
    /// Policy allows it; with the fingerprint of its flow.
    Checked(u16),
    /// Deliver it to the proxy.
    ToProxy,
    /// Drop it. Whoever says so has counted and reported it.
    Drop,
}

/// Where a packet enters: sets mark and tag, and returns the code for tcx. The tag is
/// always set: what comes from elsewhere may carry one that is not ours. Passing is
/// "next", not "pass": programs and filters that others attached behind ours still see the
/// packet. Except one that needs the proxy: theirs would write another tag on what they let
/// pass (`tcx_action_code` and `tc_run` of the kernel write their class there).
#[inline(always)]
pub fn entry(ctx: &TcContext, outcome: Outcome) -> i32 {
    match outcome {
        Outcome::Pass => {
            set_tag(ctx, tag::SEEN);
            tcx_action_base::TCX_NEXT
        }
        Outcome::Checked(fingerprint) => {
            set_tag(ctx, tag::CHECKED | fingerprint & !tag::KIND);
            marked(ctx, mark::CHECKED)
        }
        Outcome::ToProxy => {
            bridge::take(ctx);
            set_class(ctx, tag::TO_PROXY);
            marked(ctx, mark::TO_PROXY);
            tcx_action_base::TCX_PASS
        }
        Outcome::Drop => tcx_action_base::TCX_DROP,
    }
}

/// Where a bridge, or whatever else stands above workloads' devices, hands a packet up to the
/// node: what was decided at the device stays. Somebody's filter there would write over the tag,
/// as behind our program at the device itself, and the bridge's own firewall may have cleared
/// the mark; so what needs the proxy gets both once more, and ends the chain.
#[inline(always)]
pub fn handed_up(ctx: &TcContext) -> i32 {
    if tag_of(ctx) & tag::KIND != tag::TO_PROXY {
        return tcx_action_base::TCX_NEXT;
    }
    set_class(ctx, tag::TO_PROXY);
    marked(ctx, mark::TO_PROXY);
    tcx_action_base::TCX_PASS
}

/// Where a packet leaves, as above; a tag has no meaning beyond.
#[inline(always)]
pub fn exit(ctx: &TcContext, outcome: Outcome) -> i32 {
    match outcome {
        Outcome::Pass => tcx_action_base::TCX_NEXT,
        Outcome::Checked(_) => marked(ctx, mark::CHECKED),
        // Nothing is steered that leaves.
        Outcome::ToProxy | Outcome::Drop => tcx_action_base::TCX_DROP,
    }
}

/// The tag a packet carries, see [`tag`].
#[inline(always)]
pub fn tag_of(ctx: &TcContext) -> u16 {
    // SAFETY: the kernel hands the program a valid context.
    unsafe { (&raw const (*ctx.skb.skb).tc_index).read_volatile() as u16 }
}

#[inline(always)]
fn set_tag(ctx: &TcContext, tag: u16) {
    // SAFETY: the kernel hands the program a valid context; `tc_index` is writable here.
    // Volatile, or the compiler joins it with another store, which the verifier refuses.
    unsafe { (&raw mut (*ctx.skb.skb).tc_index).write_volatile(u32::from(tag)) };
}

/// Sets what "pass" makes the tag.
#[inline(always)]
fn set_class(ctx: &TcContext, tag: u16) {
    // SAFETY: as above; `tc_classid` is writable here.
    unsafe { (&raw mut (*ctx.skb.skb).tc_classid).write_volatile(u32::from(tag)) };
}

/// Our bits of the packet's mark.
#[inline(always)]
pub fn mark_of(ctx: &TcContext) -> u32 {
    // SAFETY: the kernel hands the program a valid context.
    unsafe { (*ctx.skb.skb).mark & mark::MASK }
}

#[inline(always)]
fn marked(ctx: &TcContext, bits: u32) -> i32 {
    // SAFETY: the kernel hands the program a valid context; `mark` is writable here.
    let others = unsafe { (*ctx.skb.skb).mark } & !mark::MASK;
    ctx.set_mark(others | bits);
    tcx_action_base::TCX_NEXT
}

/// What happens to a socket lookup.
#[derive(Clone, Copy)]
pub enum Lookup {
    /// Look on: either we chose a listener, or it is not ours to choose.
    Go,
    /// Nobody may receive it.
    Drop,
}

/// The code for sk_lookup.
#[inline(always)]
pub fn sk_lookup(outcome: Lookup) -> u32 {
    match outcome {
        Lookup::Go => sk_action::SK_PASS,
        Lookup::Drop => sk_action::SK_DROP,
    }
}

/// What happens to a frame at the XDP hook.
#[derive(Clone, Copy)]
pub enum Early {
    /// On to the stack.
    Pass,
    /// Drop it.
    Drop,
}

/// The code for XDP.
#[inline(always)]
pub fn xdp(outcome: Early) -> u32 {
    match outcome {
        Early::Pass => xdp_action::XDP_PASS,
        Early::Drop => xdp_action::XDP_DROP,
    }
}

/// What a socket call gets.
#[derive(Clone, Copy)]
pub enum Answer {
    /// It goes ahead, to the address now in the context.
    Proceed,
    /// `EPERM`: policy, or nobody to ask.
    Refuse,
    /// `EHOSTUNREACH`: a service without a backend.
    Unreachable,
    /// `EPROTONOSUPPORT`: as on a kernel that does not know the protocol.
    Unsupported,
}

const EHOSTUNREACH: i32 = 113;
const EPROTONOSUPPORT: i32 = 93;

/// The code for a socket hook that may refuse.
#[inline(always)]
pub fn socket(answer: Answer) -> i32 {
    match answer {
        Answer::Proceed => 1,
        Answer::Refuse => 0,
        Answer::Unreachable => refused_with(EHOSTUNREACH),
        Answer::Unsupported => refused_with(EPROTONOSUPPORT),
    }
}

#[inline(always)]
fn refused_with(errno: i32) -> i32 {
    // SAFETY: the helper takes a number; a refusing program's call fails with it.
    unsafe { bpf_set_retval(-errno) };
    0
}

/// The code for a cgroup's packets; refused on the way out, the sender gets `EPERM`.
#[inline(always)]
pub fn cgroup_packet(may_go: bool) -> i32 {
    i32::from(may_go)
}
