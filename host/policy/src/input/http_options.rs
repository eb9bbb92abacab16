//! `http` of a binding: how HTTP is carried.

use super::reader::{Cursor, optional};
use crate::http_options::{EscapedSlashes, HttpOptions};

/// Longest time that can be asked for: a week, seconds.
const LONGEST: u32 = 7 * 24 * 3600;

pub(super) fn read(cursor: &Cursor<'_>) -> Option<HttpOptions> {
    let fields = cursor.fields(&[
        "responseTimeoutSeconds",
        "streamIdleSeconds",
        "idleSeconds",
        "maxConnectionAgeSeconds",
        "normalizePath",
        "mergeSlashes",
        "escapedSlashes",
    ])?;
    let seconds = |key: &str| {
        optional(fields.get(key), None, |written| {
            written.number(1, LONGEST).map(Some)
        })
    };
    let truth = |key: &str| optional(fields.get(key), None, |written| written.boolean().map(Some));
    let escaped = optional(fields.get("escapedSlashes"), None, |written| {
        written
            .one_of(&[
                ("keep", EscapedSlashes::Keep),
                ("reject", EscapedSlashes::Reject),
                ("unescapeAndRedirect", EscapedSlashes::UnescapeAndRedirect),
                ("unescapeAndForward", EscapedSlashes::UnescapeAndForward),
            ])
            .map(Some)
    });
    let times = [
        seconds("responseTimeoutSeconds"),
        seconds("streamIdleSeconds"),
        seconds("idleSeconds"),
        seconds("maxConnectionAgeSeconds"),
    ];
    let (normalize, merge) = (truth("normalizePath"), truth("mergeSlashes"));
    let [response, stream_idle, idle, age] = times;
    let options = HttpOptions {
        response_timeout_seconds: response?,
        stream_idle_seconds: stream_idle?,
        idle_seconds: idle?,
        max_connection_age_seconds: age?,
        normalize_path: normalize?,
        merge_slashes: merge?,
        escaped_slashes: escaped?,
    };
    if options.is_nothing() {
        cursor.warn(
            "says nothing",
            "name what is to be different, or leave it out",
        );
    }
    Some(options)
}
