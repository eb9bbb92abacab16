//! Data that the kernel programs and the agent both read: map keys, map values,
//! events, marks and limits. Data only, no decisions (`tidegate-decide` has those).
//!
//! Rules of the room: fixed size, no hidden padding (a compile-time assertion per
//! type says so), every bit pattern valid, and the byte order is part of the type:
//! addresses and ports are big-endian byte arrays, everything else is native.
//! A new layout is a new map name ([`LAYOUT_VERSION`] is part of every pin path),
//! never an old pinned map read differently.
#![no_std]

pub mod addr;
pub mod bridge;
pub mod config;
pub mod endpoint;
pub mod event;
pub mod flow;
pub mod fragment;
pub mod identity;
pub mod limits;
pub mod maps;
pub mod mark;
pub mod policy;
pub mod reason;
pub mod service;
pub mod steer;

/// Part of every pin path: maps of another layout are never opened by mistake.
pub const LAYOUT_VERSION: u32 = 5;

/// Asserts that a type has exactly the stated size (the sum of its fields, so no
/// padding) and makes it plain old data for the loader.
#[macro_export]
macro_rules! layout {
    ($type:ty, $size:literal) => {
        const _: () = assert!(core::mem::size_of::<$type>() == $size);
        #[cfg(feature = "host")]
        // SAFETY: `repr(C)`, `Copy`, every field is an integer or an array of
        // integers, and the assertion above rules out padding.
        unsafe impl aya::Pod for $type {}
    };
}
