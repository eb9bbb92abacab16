//! Pure datapath decisions, compiled for the kernel and for the host alike.
#![no_std]
