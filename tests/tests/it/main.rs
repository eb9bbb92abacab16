//! Promises of Tidegate, one file each, on real traffic: everything below knows only
//! what a user has, the binary, its files and its command line.

mod lab;
