//! What `l7` says: `[{"command": "GET", "key": "orders:*"}]`.

use serde::Deserialize;

use crate::keys;

/// Rules, any of which allows.
#[derive(Debug)]
pub(crate) struct Rules(Vec<Rule>);

/// One rule; absent parts match anything.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    /// A command, `GET`, or one with its subcommand, `CONFIG GET`; in any case.
    command: Option<String>,
    /// A key, or with a `*` at its end all that begin so. Every key of a command must match.
    key: Option<String>,
}

/// What every client needs before it can do anything, and what does nothing by itself.
const ALWAYS: [&str; 13] = [
    "AUTH",
    "CLIENT GETNAME",
    "CLIENT ID",
    "CLIENT SETINFO",
    "CLIENT SETNAME",
    "DISCARD",
    "ECHO",
    "EXEC",
    "HELLO",
    "MULTI",
    "PING",
    "QUIT",
    "UNWATCH",
];
/// What no rule allows: no answer could be told from another behind it.
const NEVER: [&str; 5] = ["CLIENT REPLY", "MONITOR", "PSYNC", "RESET", "SYNC"];

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// By the rule of this index, if one was needed.
    Allowed(Option<u32>),
    Refused,
}

impl Rules {
    /// Reads the list of rules.
    ///
    /// # Errors
    ///
    /// A sentence that says what is wrong, and where.
    pub(crate) fn parse(config: &str) -> Result<Self, String> {
        let mut rules: Vec<Rule> = serde_json::from_str(config).map_err(|error| {
            format!("the configuration is not a list of `command` and `key`: {error}")
        })?;
        for (index, rule) in rules.iter_mut().enumerate() {
            let Some(command) = &mut rule.command else {
                continue;
            };
            command.make_ascii_uppercase();
            let words = command.split(' ').count();
            if command.is_empty() || words > 2 || command.contains("  ") {
                return Err(format!(
                    "rules[{index}]: command: {command:?} is neither a command nor one with its \
                     subcommand"
                ));
            }
            if rule.key.is_some() && !keys::are_known(command) {
                return Err(format!(
                    "rules[{index}]: key: which arguments of {command} are keys is not known \
                     here, so it would never match"
                ));
            }
        }
        Ok(Self(rules))
    }

    /// Decides about a command by its arguments, the first of which is its name.
    pub(crate) fn decide(&self, arguments: &[&[u8]]) -> Verdict {
        let name = word(arguments.first());
        let with_sub = format!("{name} {}", word(arguments.get(1)));
        let is = |of: &str| of == name || of == with_sub;
        if NEVER.into_iter().any(is) {
            return Verdict::Refused;
        }
        if ALWAYS.into_iter().any(is) {
            return Verdict::Allowed(None);
        }
        let keys = keys::of(&name, arguments);
        for (rule, index) in self.0.iter().zip(0..) {
            let named = rule.command.as_deref().is_none_or(is);
            let covered = match (&rule.key, &keys) {
                (None, _) => true,
                (Some(wanted), Some(keys)) => keys.iter().all(|key| covers(wanted, key)),
                (Some(_), None) => false,
            };
            if named && covered {
                return Verdict::Allowed(Some(index));
            }
        }
        Verdict::Refused
    }
}

fn covers(wanted: &str, key: &[u8]) -> bool {
    match wanted.strip_suffix('*') {
        Some(begin) => key.starts_with(begin.as_bytes()),
        None => key == wanted.as_bytes(),
    }
}

/// A command's name as rules write it.
pub(crate) fn word(argument: Option<&&[u8]>) -> String {
    let text = String::from_utf8_lossy(argument.copied().unwrap_or_default());
    text.to_ascii_uppercase()
}
