//! What the host offers a filter: log lines, counters, the time. Each is a capability
//! the filter's manifest asks for; a component that calls one without asking is
//! refused when it is dropped in. On the host's own target they have harmless
//! stand-ins, so that filters can be tested natively.

/// Severity of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// For the filter's author.
    Debug,
    /// Worth knowing.
    Info,
    /// Somebody should look.
    Warn,
    /// Something is broken.
    Error,
}

/// Writes a log line, cut at 4 KiB; the host drops and counts lines that come too
/// fast. Capability `log`.
pub fn log(level: Level, message: &str) {
    #[cfg(target_arch = "wasm32")]
    {
        use crate::bindings::http_world::tidegate::filter::log as host;
        let level = match level {
            Level::Debug => host::Level::Debug,
            Level::Info => host::Level::Info,
            Level::Warn => host::Level::Warn,
            Level::Error => host::Level::Error,
        };
        host::write(level, message);
    }
    #[cfg(not(target_arch = "wasm32"))]
    eprintln!("{level:?}: {message}");
}

/// Adds to a counter, shown as `tidegate_plugin_counter_total{plugin,name}`. At most
/// 64 names per plugin. Capability `metrics`.
pub fn count(name: &str, value: u64) {
    #[cfg(target_arch = "wasm32")]
    crate::bindings::http_world::tidegate::filter::metrics::add(name, value);
    #[cfg(not(target_arch = "wasm32"))]
    let _ = (name, value);
}

/// Milliseconds since 1970-01-01T00:00:00Z. Capability `clock`.
pub fn now_ms() -> u64 {
    #[cfg(target_arch = "wasm32")]
    {
        crate::bindings::http_world::tidegate::filter::clock::now_ms()
    }
    #[cfg(not(target_arch = "wasm32"))]
    {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| {
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            })
    }
}
