//! How the parts of a node stand, as readers see it: words where a word is enough, and why
//! where there is more to say. Inside they are told apart by what they are, never by their text.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a policy stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PolicyState {
    /// As it is on disk.
    #[default]
    #[serde(rename = "active")]
    Active,
    /// The file on disk is broken; what it said before stays in use.
    #[serde(rename = "last good")]
    LastGood,
}

/// How a plugin stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PluginState {
    /// Rules use it.
    Active,
    /// No rule uses it.
    #[default]
    Idle,
    /// It is not there yet, but will be.
    Compiling,
    /// It cannot be used, and none of its name was in use before.
    Refused,
    /// Its file is gone; rules that name it still have it.
    Removed,
}

/// How a binding stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BindingState {
    /// What is wanted is in use.
    #[serde(rename = "active")]
    Active,
    /// Being tried; what was in use before goes on.
    #[default]
    #[serde(rename = "preparing")]
    Preparing,
    /// What is wanted was refused; what was accepted last goes on.
    #[serde(rename = "last good")]
    LastGood,
    /// Refused, and nothing was ever accepted: the fail mode decides.
    #[serde(rename = "refused")]
    Refused,
}

impl From<tidegate_contract::BindingState> for BindingState {
    fn from(state: tidegate_contract::BindingState) -> Self {
        use tidegate_contract::BindingState as Told;
        match state {
            Told::Active => Self::Active,
            Told::Preparing => Self::Preparing,
            Told::LastGood => Self::LastGood,
            Told::Refused => Self::Refused,
        }
    }
}

/// How an endpoint stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "String", into = "String")]
#[schemars(with = "String")]
pub enum EndpointState {
    /// In force.
    #[default]
    Ready,
    /// Not, and why.
    NotReady(String),
}

impl From<String> for EndpointState {
    fn from(text: String) -> Self {
        match &*text {
            "ready" => Self::Ready,
            _ => Self::NotReady(text),
        }
    }
}

/// How a program is attached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "String", into = "String")]
#[schemars(with = "String")]
pub enum AttachmentState {
    /// As it should be.
    #[default]
    Attached,
    /// It runs, but slower than it could, and why.
    NotNative(String),
}

/// Of an XDP program that is not attached in native mode: begins the reason.
const NOT_NATIVE: &str = "attached; not native: ";

impl From<String> for AttachmentState {
    fn from(text: String) -> Self {
        match text.strip_prefix(NOT_NATIVE) {
            Some(why) => Self::NotNative(why.to_owned()),
            None => Self::Attached,
        }
    }
}

/// How the proxy stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "String", into = "String")]
#[schemars(with = "String")]
pub enum ProxyState {
    /// It is not there, and why as far as known.
    Gone(Option<String>),
    /// It does not serve yet.
    #[default]
    Starting,
    /// It serves.
    Serving,
    /// It is there and does not move: what is silent.
    Hanging(String),
}

impl From<String> for ProxyState {
    fn from(text: String) -> Self {
        let (word, why) = match text.split_once(": ") {
            Some((word, why)) => (word, Some(why.to_owned())),
            None => (&*text, None),
        };
        match (word, why) {
            ("serving", _) => Self::Serving,
            ("hanging", why) => Self::Hanging(why.unwrap_or_default()),
            ("gone", why) => Self::Gone(why),
            _ => Self::Starting,
        }
    }
}

impl fmt::Display for PolicyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Active => "active",
            Self::LastGood => "last good",
        })
    }
}

impl fmt::Display for PluginState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Active => "active",
            Self::Idle => "idle",
            Self::Compiling => "compiling",
            Self::Refused => "refused",
            Self::Removed => "removed",
        })
    }
}

impl fmt::Display for BindingState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Active => "active",
            Self::Preparing => "preparing",
            Self::LastGood => "last good",
            Self::Refused => "refused",
        })
    }
}

impl fmt::Display for EndpointState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ready => "ready",
            Self::NotReady(why) => why,
        })
    }
}

impl fmt::Display for AttachmentState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attached => f.pad("attached"),
            Self::NotNative(why) => write!(f, "{NOT_NATIVE}{why}"),
        }
    }
}

impl fmt::Display for ProxyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone(None) => f.pad("gone"),
            Self::Gone(Some(why)) => write!(f, "gone: {why}"),
            Self::Starting => f.pad("starting"),
            Self::Serving => f.pad("serving"),
            Self::Hanging(what) => write!(f, "hanging: {what}"),
        }
    }
}

/// Written as people read it.
macro_rules! as_text {
    ($($state:ty),+) => {
        $(impl From<$state> for String {
            fn from(state: $state) -> Self {
                state.to_string()
            }
        })+
    };
}

as_text!(EndpointState, AttachmentState, ProxyState);

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;

    use super::*;

    fn check<S: Serialize + DeserializeOwned + PartialEq + fmt::Debug + fmt::Display>(
        states: impl IntoIterator<Item = (S, &'static str)>,
    ) {
        for (state, text) in states {
            let json = serde_json::to_value(&state).expect("written");
            assert_eq!(json, text);
            assert_eq!(state.to_string(), text, "tables say the same");
            assert_eq!(serde_json::from_value::<S>(json).ok(), Some(state));
        }
    }

    #[test]
    fn what_is_written_is_what_is_shown_and_read() {
        check([
            (PolicyState::Active, "active"),
            (PolicyState::LastGood, "last good"),
        ]);
        check([
            (PluginState::Active, "active"),
            (PluginState::Idle, "idle"),
            (PluginState::Compiling, "compiling"),
            (PluginState::Refused, "refused"),
            (PluginState::Removed, "removed"),
        ]);
        check([
            (BindingState::Active, "active"),
            (BindingState::Preparing, "preparing"),
            (BindingState::LastGood, "last good"),
            (BindingState::Refused, "refused"),
        ]);
        let why = || "no device tg-web".to_owned();
        check([
            (EndpointState::Ready, "ready"),
            (EndpointState::NotReady(why()), "no device tg-web"),
        ]);
        check([
            (AttachmentState::Attached, "attached"),
            (
                AttachmentState::NotNative("refused".to_owned()),
                "attached; not native: refused",
            ),
        ]);
        check([
            (ProxyState::Gone(None), "gone"),
            (ProxyState::Gone(Some("exit 1".to_owned())), "gone: exit 1"),
            (ProxyState::Starting, "starting"),
            (ProxyState::Serving, "serving"),
            (
                ProxyState::Hanging("worker 0".to_owned()),
                "hanging: worker 0",
            ),
        ]);
    }
}
