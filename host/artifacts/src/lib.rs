//! What the binary carries inside that is built for other targets: the kernel programs and
//! the built-in plugins.

/// The object of the kernel programs, built from `ebpf/programs`, aligned as its ELF
/// structures need.
pub static KERNEL: &[u8] = &Aligned(*include_bytes!(env!("TIDEGATE_BPF_OBJECT"))).0;
/// The component of the built-in DNS plugin.
pub static DNS_PLUGIN: &[u8] = include_bytes!(env!("TIDEGATE_DNS_PLUGIN"));
/// The component of the built-in HTTP plugin.
pub static HTTP_PLUGIN: &[u8] = include_bytes!(env!("TIDEGATE_HTTP_PLUGIN"));
/// The component of the built-in Kafka plugin.
pub static KAFKA_PLUGIN: &[u8] = include_bytes!(env!("TIDEGATE_KAFKA_PLUGIN"));

/// Aligned for the widest field of an ELF structure.
#[repr(C, align(8))]
struct Aligned<const N: usize>([u8; N]);
