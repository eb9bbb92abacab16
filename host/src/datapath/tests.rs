//! The datapath against the real kernel, each test in a network namespace, a bpffs
//! and a cgroup of its own. They need root.
