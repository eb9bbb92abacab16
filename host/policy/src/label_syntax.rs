//! What Kubernetes lets a label be: `apimachinery/pkg/util/validation`,
//! `IsQualifiedName`, `IsValidLabelValue` and `IsDNS1123Label`.
//!
//! A label that no object can have selects nobody, and a deny rule that selects
//! nobody denies nothing; so what is not a label is refused where it is written.

/// Longest name part of a key, value, or namespace, in bytes.
const MAX_NAME: usize = 63;
/// Longest prefix of a key, in bytes.
const MAX_PREFIX: usize = 253;

/// Is it the key of a label, `prefix/name` or `name`, without a source? The error is
/// what is wrong with it.
pub(crate) fn check_key(key: &str) -> Result<(), String> {
    let name = match key.split_once('/') {
        None => key,
        Some((prefix, name)) => {
            check_prefix(prefix)?;
            name
        }
    };
    if name.is_empty() {
        return Err("has no name".to_owned());
    }
    check_word("the name", name)
}

/// Is it the value of a label? An empty one is.
pub(crate) fn check_value(value: &str) -> Result<(), String> {
    if value.is_empty() {
        return Ok(());
    }
    check_word("a value", value)
}

/// Is it the name of a namespace?
pub(crate) fn check_namespace(name: &str) -> Result<(), String> {
    if name.len() > MAX_NAME {
        return Err(format!("longer than {MAX_NAME} characters"));
    }
    if !is_dns_label(name) {
        return Err(
            "a namespace has lower-case letters, digits and `-`, with a letter or digit at both ends"
                .to_owned(),
        );
    }
    Ok(())
}

fn check_prefix(prefix: &str) -> Result<(), String> {
    if prefix.len() > MAX_PREFIX {
        return Err(format!(
            "the part before the `/` is longer than {MAX_PREFIX} characters"
        ));
    }
    if !prefix.split('.').all(is_dns_label) {
        return Err("the part before the `/` is no DNS name in lower case".to_owned());
    }
    Ok(())
}

fn check_word(what: &str, word: &str) -> Result<(), String> {
    if word.len() > MAX_NAME {
        return Err(format!("{what} is longer than {MAX_NAME} characters"));
    }
    if let Some(c) = word
        .chars()
        .find(|c| !c.is_ascii_alphanumeric() && !"-_.".contains(*c))
    {
        return Err(format!(
            "{what} cannot contain `{}`; letters, digits, `-`, `_` and `.` can be there",
            c.escape_debug()
        ));
    }
    let ends = [word.bytes().next(), word.bytes().last()];
    if !ends.iter().flatten().all(u8::is_ascii_alphanumeric) {
        return Err(format!("{what} must begin and end with a letter or digit"));
    }
    Ok(())
}

/// RFC 1123 label in lower case.
fn is_dns_label(label: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    !label.is_empty()
        && label.bytes().all(|b| inner(b) || b == b'-')
        && label.bytes().next().is_some_and(inner)
        && label.bytes().last().is_some_and(inner)
}
