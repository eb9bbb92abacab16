//! How HTTP is carried on a flow, where a document says so.

use serde::{Deserialize, Serialize};

/// What a document says of it; what is absent is the proxy's own choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpOptions {
    /// Longest time from a request's head to its response's, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_timeout_seconds: Option<u32>,
    /// Longest silence inside a message, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_idle_seconds: Option<u32>,
    /// Longest wait for the next request of a connection, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_seconds: Option<u32>,
    /// Age at which a connection takes no further request, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connection_age_seconds: Option<u32>,
    /// Dot segments, and characters that need no escape, are resolved before rules see them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub normalize_path: Option<bool>,
    /// Slashes that follow each other are one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub merge_slashes: Option<bool>,
    /// What is done with a slash or backslash that is escaped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub escaped_slashes: Option<EscapedSlashes>,
}

/// What is done with a path in which a slash or backslash is escaped (Envoy's
/// `path_with_escaped_slashes_action`); the later, the more careful.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EscapedSlashes {
    /// It stays as it is.
    Keep,
    /// It becomes a slash, for rules and server.
    UnescapeAndForward,
    /// The client is sent to the path with slashes.
    UnescapeAndRedirect,
    /// It is answered `400`.
    Reject,
}

impl HttpOptions {
    /// What both say together: the shorter time, and the more careful treatment of paths.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        fn less<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
            one.into_iter().chain(other).min()
        }
        fn more<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
            one.into_iter().chain(other).max()
        }
        Self {
            response_timeout_seconds: less(
                self.response_timeout_seconds,
                other.response_timeout_seconds,
            ),
            stream_idle_seconds: less(self.stream_idle_seconds, other.stream_idle_seconds),
            idle_seconds: less(self.idle_seconds, other.idle_seconds),
            max_connection_age_seconds: less(
                self.max_connection_age_seconds,
                other.max_connection_age_seconds,
            ),
            normalize_path: more(self.normalize_path, other.normalize_path),
            merge_slashes: more(self.merge_slashes, other.merge_slashes),
            escaped_slashes: more(self.escaped_slashes, other.escaped_slashes),
        }
    }

    /// Does it say nothing?
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn together_the_more_careful_counts() {
        let one = HttpOptions {
            idle_seconds: Some(5),
            stream_idle_seconds: Some(60),
            normalize_path: Some(false),
            escaped_slashes: Some(EscapedSlashes::Keep),
            ..HttpOptions::default()
        };
        let other = HttpOptions {
            idle_seconds: Some(7),
            max_connection_age_seconds: Some(9),
            normalize_path: Some(true),
            escaped_slashes: Some(EscapedSlashes::Reject),
            ..HttpOptions::default()
        };
        let both = HttpOptions {
            idle_seconds: Some(5),
            stream_idle_seconds: Some(60),
            max_connection_age_seconds: Some(9),
            normalize_path: Some(true),
            escaped_slashes: Some(EscapedSlashes::Reject),
            ..HttpOptions::default()
        };
        assert_eq!((one.and(other), other.and(one)), (both, both));
        assert_eq!(one.and(HttpOptions::default()), one);
    }
}
