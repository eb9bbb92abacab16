//! `serverNames`: what a client may ask for before it encrypts; `terminatingTLS` and
//! `originatingTLS`: with which secrets its TLS ends here, and the server's begins.

use super::super::reader::{Cursor, Fields, all, optional};
use crate::{
    fqdn,
    l7::FqdnSelector,
    origin::At,
    protocol,
    rule::{L7Rules, PortTls, Ports},
    tls::{TlsContext, TlsContexts},
};

/// Server names, each with its place.
type Names = Vec<(At, FqdnSelector)>;

/// Reads `serverNames`. An empty list asks for nothing, as in Cilium.
#[expect(clippy::option_option, reason = "absent and unreadable are different")]
pub(super) fn read_server_names(cursor: &Cursor<'_>, deny: bool) -> Option<Option<Names>> {
    let items = cursor.items()?;
    if items.is_empty() {
        cursor.warn(
            "no server names are no restriction: whatever is asked for is allowed, unread",
            "list what is allowed, or leave `serverNames` out",
        );
        return Some(None);
    }
    if deny {
        cursor.error(
            "deny rules cannot have server names",
            "deny the port as a whole",
        );
        return None;
    }
    let names = all(items.iter().map(|item| Some((item.at(), read_name(item)?))));
    Some(Some(names?))
}

/// A name, or a pattern in the grammar of `matchPattern`.
fn read_name(item: &Cursor<'_>) -> Option<FqdnSelector> {
    let text = item.word()?;
    if let Err(reason) = fqdn::check_pattern(text) {
        item.error(
            reason,
            "a name like api.example.com, or a pattern like *.example.com",
        );
        return None;
    }
    if text.parse::<std::net::Ipv4Addr>().is_ok() {
        item.warn(
            "is an address, which is no server name (RFC 6066 §3): few clients send one",
            "write the name that clients ask for, or select the address with toCIDR",
        );
    }
    let name = fqdn::normalise(text);
    Some(match name.contains('*') {
        true => FqdnSelector::MatchPattern(name),
        false => FqdnSelector::MatchName(name),
    })
}

/// Reads `terminatingTLS` and `originatingTLS`. A secret without a namespace is the
/// policy's.
pub(super) fn read_contexts(
    fields: &Fields<'_>,
    deny: bool,
    namespace: Option<&str>,
) -> Option<TlsContexts> {
    let read = |key| {
        optional(fields.get(key), None, |context| {
            if deny {
                context.error("deny rules read nothing", "deny the port as a whole");
                return None;
            }
            read_context(context, namespace).map(Some)
        })
    };
    let (terminating, originating) = (read("terminatingTLS"), read("originatingTLS"));
    Some(TlsContexts {
        terminating: terminating?,
        originating: originating?,
    })
}

fn read_context(cursor: &Cursor<'_>, namespace: Option<&str>) -> Option<TlsContext> {
    let fields = cursor.fields(&["secret", "trustedCA", "certificate", "privateKey"])?;
    let secret = fields.required("secret")?;
    let of_secret = secret.fields(&["namespace", "name"])?;
    let name = of_secret.required("name").and_then(read_part);
    let written = optional(of_secret.get("namespace"), None, |at| {
        read_part(at).map(Some)
    });
    let namespace = written?.or_else(|| namespace.map(str::to_owned));
    if namespace.is_none() {
        secret.error(
            "this policy has no namespace that the secret could be in",
            "write `namespace` beside its name",
        );
    }
    let item = |key: &str| optional(fields.get(key), None, |at| read_part(at).map(Some));
    let (trusted_ca, certificate) = (item("trustedCA"), item("certificate"));
    let private_key = item("privateKey");
    Some(TlsContext {
        namespace: namespace?,
        name: name?,
        trusted_ca: trusted_ca?,
        certificate: certificate?,
        private_key: private_key?,
    })
}

/// A part of a secret's path: what Kubernetes allows in names of secrets and their items
/// (`[-._a-zA-Z0-9]+`), which leads out of no folder.
fn read_part(cursor: &Cursor<'_>) -> Option<String> {
    let text = cursor.word()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if text.len() > 253 || !text.bytes().all(plain) || text.starts_with("..") || text == "." {
        cursor.error(
            "no name of a secret, or of something in one",
            "letters, digits, `-`, `_` and `.`, at most 253",
        );
        return None;
    }
    Some(text.to_owned())
}

/// What both ends of TLS come to, with the names that are asked for.
#[expect(clippy::option_option, reason = "absent and unreadable are different")]
pub(super) fn both_ends(
    cursor: &Cursor<'_>,
    fields: &Fields<'_>,
    contexts: TlsContexts,
    names: Option<Names>,
) -> Option<Option<PortTls>> {
    if let (Some(at), None, Some(_)) = (fields.get("serverNames"), &contexts.terminating, &names) {
        at.error(
            "clients have to speak TLS to ask for a name, and `originatingTLS` alone begins it for those that do not",
            "write `terminatingTLS` too, or take one of them out",
        );
        return None;
    }
    if fields.get("ports").is_none() {
        cursor.error(
            "TLS needs `ports` beside it",
            "list the ports that speak it",
        );
        return None;
    }
    Some(Some(PortTls {
        contexts,
        names: names.unwrap_or_default(),
    }))
}

/// Only HTTP is read inside of TLS, and only over TCP.
pub(super) fn check_inside(
    cursor: &Cursor<'_>,
    fields: &Fields<'_>,
    l7: Option<&L7Rules>,
    ports: &[Ports],
) -> Option<()> {
    if !matches!(l7, None | Some(L7Rules::Http(_))) {
        let at = fields.get("rules").unwrap_or(cursor);
        at.error(
            "of what is inside of TLS only HTTP is read",
            "write http rules, or leave `rules` out",
        );
        return None;
    }
    let items = fields.items("ports").unwrap_or_default();
    for (port, item) in ports.iter().zip(&items) {
        if port.protocols != [protocol::TCP] {
            item.error("TLS is spoken over TCP only", "write protocol: TCP");
            return None;
        }
    }
    Some(())
}
