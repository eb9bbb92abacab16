//! The manifest travels inside the plugin, as a custom section that tools and the
//! host find without running anything.

/// Puts JSON into the custom section `tidegate:manifest`. [`http_filter!`] and
/// [`dns_filter!`] call this; `stringify!` of JSON tokens is JSON again.
///
/// [`http_filter!`]: crate::http_filter
/// [`dns_filter!`]: crate::dns_filter
#[doc(hidden)]
#[macro_export]
macro_rules! embed_manifest {
    ({ $($manifest:tt)* }) => {
        const TEXT: &str = ::std::concat!("{", ::std::stringify!($($manifest)*), "}");

        #[used]
        #[unsafe(link_section = "tidegate:manifest")]
        static MANIFEST: [u8; TEXT.len()] = {
            let mut bytes = [0; TEXT.len()];
            bytes.copy_from_slice(TEXT.as_bytes());
            bytes
        };
    };
}
