//! Tidegate's kernel programs: entry points only. Each hook's work is in the file
//! of its name; decisions shared with the agent are in `tidegate-decide`.
#![no_std]
#![no_main]
// Atomic addition to map values; `core::sync::atomic` has none for this target.
#![feature(core_intrinsics)]
#![allow(internal_features)]

mod addr;
mod admit;
mod clock;
mod counters;
mod events;
mod from_endpoint;
mod from_outside;
mod maps;
mod packet;
mod pick_listener;
mod scratch;
mod tables;
mod to_endpoint;
mod verdict;

use aya_ebpf::{
    macros::{classifier, sk_lookup},
    programs::{SkLookupContext, TcContext},
};

/// tcx ingress on the host side of a workload's veth.
#[classifier]
pub fn from_endpoint(ctx: TcContext) -> i32 {
    verdict::tcx(&ctx, from_endpoint::run(&ctx))
}

/// tcx egress on the host side of a workload's veth.
#[classifier]
pub fn to_endpoint(ctx: TcContext) -> i32 {
    verdict::tcx(&ctx, to_endpoint::run(&ctx))
}

/// tcx ingress on an outside device.
#[classifier]
pub fn from_outside(ctx: TcContext) -> i32 {
    verdict::tcx(&ctx, from_outside::run(&ctx))
}

/// sk_lookup in the node's network namespace.
#[sk_lookup]
pub fn pick_listener(ctx: SkLookupContext) -> u32 {
    verdict::sk_lookup(pick_listener::run(&ctx))
}

/// The verifier refuses a program that could get here; the linker wants it all the same.
#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// GPL-2.0 is one of the two licences; several helpers are reserved for it.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
