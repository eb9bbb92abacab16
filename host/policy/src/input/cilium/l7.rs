//! `rules`: the L7 part of a rule.

use tidegate_re2::Pattern;

use super::{
    super::reader::{Cursor, all, optional},
    headers::{self, HeaderMatch},
    kafka, peers,
};
use crate::{l7::HttpRule, origin::At, rule::L7Rules, terms::Direction};

/// Reads `rules`. Nothing but empty lists means no L7 rules at all.
pub(super) fn read(cursor: &Cursor<'_>, direction: Direction) -> Option<Option<L7Rules>> {
    let fields = cursor.fields(&["http", "dns", "kafka", "l7proto", "l7"])?;
    let http = fields.items("http").unwrap_or_default();
    let dns = fields.items("dns").unwrap_or_default();
    let kafka = fields.items("kafka").unwrap_or_default();
    let plugin = fields.get("l7proto");
    let entries = fields.items("l7").unwrap_or_default();
    let kinds = [
        !http.is_empty(),
        !dns.is_empty(),
        !kafka.is_empty(),
        plugin.is_some(),
    ];
    if kinds.iter().filter(|used| **used).count() > 1 {
        cursor.error(
            "one kind of L7 rules only",
            "use an item of toPorts for each kind",
        );
        return None;
    }
    if plugin.is_none() && !entries.is_empty() {
        cursor.error("`l7` needs `l7proto` to say what reads it", "");
        return None;
    }
    if !dns.is_empty() && direction == Direction::Ingress {
        cursor.error("DNS rules apply to egress only", "");
        return None;
    }
    if let Some(plugin) = plugin {
        let name = plugin.word();
        if name == Some("kafka") {
            plugin.error("is read by rules of its own", "write `kafka: [...]`");
            return None;
        }
        let rules = read_all(&entries, read_plugin_rule);
        return Some(Some(L7Rules::Plugin {
            at: plugin.at(),
            name: name?.to_owned(),
            rules: rules?,
        }));
    }
    let empty = ["http", "dns", "kafka"]
        .into_iter()
        .filter_map(|kind| Some((kind, fields.get(kind)?)));
    if !kinds.contains(&true) {
        for (kind, list) in empty {
            list.warn(
                format!("no {kind} rules are no restriction: whatever is sent is allowed, unread"),
                "list what is allowed, or leave `rules` out",
            );
        }
    }
    Some(if !http.is_empty() {
        Some(L7Rules::Http(read_all(&http, read_http)?))
    } else if !dns.is_empty() {
        Some(L7Rules::Dns(read_all(&dns, peers::read_fqdn)?))
    } else if !kafka.is_empty() {
        Some(L7Rules::Kafka(read_all(&kafka, kafka::read)?))
    } else {
        None
    })
}

fn read_all<T>(
    items: &[Cursor<'_>],
    read: impl Fn(&Cursor<'_>) -> Option<T>,
) -> Option<Vec<(At, T)>> {
    all(items.iter().map(|item| Some((item.at(), read(item)?))))
}

fn read_plugin_rule(cursor: &Cursor<'_>) -> Option<serde_json::Value> {
    // What the fields mean is the plugin's business; that they are text is Cilium's.
    super::super::read_string_map(cursor)?;
    Some(cursor.node().to_json())
}

fn read_http(cursor: &Cursor<'_>) -> Option<HttpRule> {
    let fields = cursor.fields(&["method", "path", "host", "headers", "headerMatches"])?;
    let pattern = |key: &str| optional(fields.get(key), None, read_regex);
    let (method, path, host) = (pattern("method"), pattern("path"), pattern("host"));
    let plain = fields.items("headers").unwrap_or_default();
    let matches = fields.items("headerMatches").unwrap_or_default();
    let headers = all(plain.iter().map(headers::read));
    let matches = all(matches.iter().map(headers::read_match));
    let mut rule = HttpRule {
        method: method?,
        path: path?,
        host: host?,
        headers: headers?,
        actions: Vec::new(),
    };
    for one in matches? {
        match one {
            HeaderMatch::Must(name, value) => rule.headers.push((name, value)),
            HeaderMatch::Made(action) => rule.actions.push(action),
        }
    }
    if let (Some(at), Some(method)) = (fields.get("method"), &rule.method) {
        warn_of_method(at, method);
    }
    if let (Some(at), Some(path)) = (fields.get("path"), &rule.path)
        && path.contains("/*")
    {
        at.warn(
            "`/*` means any number of slashes, not anything below",
            "write `/.*` for whatever follows",
        );
    }
    Some(rule)
}

/// Methods that requests have (RFC 9110 §9, RFC 5789).
const METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
];

/// Warns of a method that only its lower case keeps from matching.
fn warn_of_method(at: &Cursor<'_>, method: &str) {
    let Ok(pattern) = Pattern::new(method) else {
        return;
    };
    let matched = |name: &str| pattern.matches(name.as_bytes());
    let meant = METHODS
        .iter()
        .find(|name| matched(&name.to_ascii_lowercase()));
    if let Some(meant) = meant
        && !METHODS.iter().any(|name| matched(name))
    {
        at.warn(
            "no request has this method: they are compared with their case",
            &format!("write {meant}"),
        );
    }
}

/// A regular expression, as written; empty means "anything".
fn read_regex(cursor: &Cursor<'_>) -> Option<Option<String>> {
    let text = cursor.text()?;
    // The same code decides about requests: what it takes here, it takes there.
    if let Err(refusal) = Pattern::new(text) {
        cursor.error(format!("not a regular expression: {refusal}"), "RE2 syntax");
        return None;
    }
    Some((!text.is_empty()).then(|| text.to_owned()))
}
