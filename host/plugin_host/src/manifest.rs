//! What a plugin says of itself, and what the operator says of it.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tidegate_contract::Limits;
use wasmparser::{Parser, Payload};

use super::{
    dropped::{self, Unreadable},
    host_calls::CAPABILITIES,
};

/// Custom section that holds a manifest.
const SECTION: &str = "tidegate:manifest";
/// Longest manifest, and longest file beside a plugin, bytes.
const SIZE: usize = 64 << 10;

/// A plugin's own statement, written by the SDK's macros.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Manifest {
    /// Name rules use; the file's stem if absent.
    #[serde(default)]
    pub(super) name: Option<String>,
    /// The plugin's own version.
    #[serde(default)]
    pub(super) version: Option<String>,
    /// Host interfaces it asks for.
    #[serde(default)]
    pub(super) capabilities: Vec<String>,
    /// Limits it asks for.
    #[serde(default)]
    pub(super) limits: AskedLimits,
    /// JSON Schema of its configuration, for people and tools.
    #[serde(default)]
    pub(super) config_schema: Option<serde_json::Value>,
}

/// The operator's word, in `NAME.yaml` beside `NAME.wasm`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Sidecar {
    /// Host interfaces granted; absent means all the plugin asks for.
    #[serde(default)]
    pub(super) capabilities: Option<Vec<String>>,
    /// Limits that replace the plugin's.
    #[serde(default)]
    pub(super) limits: AskedLimits,
}

/// Limits to replace; absent ones stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct AskedLimits {
    memory_bytes: Option<u64>,
    call_ms: Option<u64>,
    configure_ms: Option<u64>,
    total_memory_bytes: Option<u64>,
    share_percent: Option<u8>,
    calls_per_instance: Option<u32>,
    stream_buffer_bytes: Option<u64>,
}

impl AskedLimits {
    /// These limits where they say something, `base` elsewhere.
    fn over(self, base: Limits) -> Limits {
        Limits {
            memory_bytes: self.memory_bytes.unwrap_or(base.memory_bytes),
            call_ms: self.call_ms.unwrap_or(base.call_ms),
            configure_ms: self.configure_ms.unwrap_or(base.configure_ms),
            total_memory_bytes: self.total_memory_bytes.unwrap_or(base.total_memory_bytes),
            share_percent: self.share_percent.unwrap_or(base.share_percent),
            calls_per_instance: self.calls_per_instance.unwrap_or(base.calls_per_instance),
            stream_buffer_bytes: self.stream_buffer_bytes.unwrap_or(base.stream_buffer_bytes),
        }
    }
}

/// The limits in force: defaults, then the plugin's wish, then the operator's word. A
/// plugin may ask for less than the defaults; more is the operator's to give.
///
/// # Errors
///
/// If the plugin wants what nobody gave it, or the result is beyond what anyone may have;
/// nothing is unlimited.
pub(super) fn limits(asked: AskedLimits, sidecar: AskedLimits) -> Result<Limits, String> {
    let usual = Limits::default();
    let wish = asked.over(usual);
    let limits = sidecar.over(wish);
    let check = |name: &str, value: u64, (least, most): (u64, u64), granted: (u64, u64)| {
        let (wish, usual) = granted;
        if !(least..=most).contains(&value) {
            Err(format!(
                "limits.{name} is {value}; it must be between {least} and {most}"
            ))
        } else if wish > usual && value == wish {
            Ok(Some(format!("{name} {wish} (usual: {usual})")))
        } else {
            Ok(None)
        }
    };
    let rows = [
        check(
            "memoryBytes",
            limits.memory_bytes,
            (64 << 10, 1 << 30),
            (wish.memory_bytes, usual.memory_bytes),
        )?
        .filter(|_| sidecar.memory_bytes.is_none()),
        check(
            "totalMemoryBytes",
            limits.total_memory_bytes,
            (64 << 10, 1 << 32),
            (wish.total_memory_bytes, usual.total_memory_bytes),
        )?
        .filter(|_| sidecar.total_memory_bytes.is_none()),
        check(
            "callMs",
            limits.call_ms,
            (1, 1_000),
            (wish.call_ms, usual.call_ms),
        )?
        .filter(|_| sidecar.call_ms.is_none()),
        check(
            "configureMs",
            limits.configure_ms,
            (1, 30_000),
            (wish.configure_ms, usual.configure_ms),
        )?
        .filter(|_| sidecar.configure_ms.is_none()),
        check(
            "sharePercent",
            limits.share_percent.into(),
            (1, 100),
            (wish.share_percent.into(), usual.share_percent.into()),
        )?
        .filter(|_| sidecar.share_percent.is_none()),
        check(
            "callsPerInstance",
            limits.calls_per_instance.into(),
            (1, usual.calls_per_instance.into()),
            (
                wish.calls_per_instance.into(),
                usual.calls_per_instance.into(),
            ),
        )?
        .filter(|_| sidecar.calls_per_instance.is_none()),
        check(
            "streamBufferBytes",
            limits.stream_buffer_bytes,
            (4 << 10, 16 << 20),
            (wish.stream_buffer_bytes, usual.stream_buffer_bytes),
        )?
        .filter(|_| sidecar.stream_buffer_bytes.is_none()),
    ];
    let wanted: Vec<String> = rows.into_iter().flatten().collect();
    if wanted.is_empty() {
        return Ok(limits);
    }
    Err(format!(
        "its manifest asks for more than a plugin gets by itself: {}; if you agree, say so under `limits:` in the .yaml file beside it",
        wanted.join(", ")
    ))
}

impl Manifest {
    /// Finds the manifest in a component, or in a module inside it. A component
    /// without one has the default manifest.
    ///
    /// # Errors
    ///
    /// A sentence: the file is damaged, or the manifest cannot be read.
    pub(super) fn find(component: &[u8]) -> Result<Self, String> {
        for payload in Parser::new(0).parse_all(component) {
            let payload = payload.map_err(|error| format!("the file is damaged: {error}"))?;
            if let Payload::CustomSection(section) = payload
                && section.name() == SECTION
            {
                return Self::parse(section.data());
            }
        }
        Ok(Self::default())
    }

    fn parse(json: &[u8]) -> Result<Self, String> {
        if json.len() > SIZE {
            return Err(format!(
                "its manifest has {} bytes; at most {SIZE}",
                json.len()
            ));
        }
        let manifest: Self = serde_json::from_slice(json)
            .map_err(|error| format!("its manifest cannot be read: {error}"))?;
        for (what, value) in [("name", &manifest.name), ("version", &manifest.version)] {
            if let Some(value) = value
                && !is_plain(value)
            {
                return Err(format!(
                    "its manifest's {what} is {value:?}: use letters, digits and `-._+`, at most 63"
                ));
            }
        }
        check_capabilities(&manifest.capabilities)?;
        Ok(manifest)
    }
}

impl Sidecar {
    /// Reads the file beside a plugin, if there is one.
    ///
    /// # Errors
    ///
    /// A sentence with the file's name and the place in it.
    pub(super) fn read(plugin: &Path) -> Result<Self, String> {
        let path = plugin.with_extension("yaml");
        let text = match dropped::read(&path, SIZE) {
            Ok(bytes) => String::from_utf8(bytes)
                .map_err(|_| format!("{} is not UTF-8 text", path.display()))?,
            Err(Unreadable::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
        };
        let sidecar: Self = serde_saphyr::from_str(&text)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        check_capabilities(sidecar.capabilities.as_deref().unwrap_or_default())
            .map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(sidecar)
    }
}

/// Names and versions go into logs, labels and rules.
pub(super) fn is_plain(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._+".contains(&byte);
    (1..=63).contains(&text.len()) && text.bytes().all(plain)
}

fn check_capabilities(capabilities: &[String]) -> Result<(), String> {
    let unknown = |name: &&String| !CAPABILITIES.contains(&name.as_str());
    match capabilities.iter().find(unknown) {
        Some(name) => Err(format!(
            "there is no capability {name:?}; there are {}",
            CAPABILITIES.join(", ")
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An empty component with one custom section.
    fn component(section: &str, data: &str) -> Vec<u8> {
        let mut bytes = b"\0asm\x0d\0\x01\0\0".to_vec();
        let length = 1 + section.len() + data.len();
        // LEB128, two bytes.
        bytes.push((length & 0x7f | 0x80) as u8);
        bytes.push((length >> 7) as u8);
        bytes.push(section.len() as u8);
        bytes.extend(section.bytes().chain(data.bytes()));
        bytes
    }

    fn check(data: &str, expected: Result<Manifest, &str>) {
        match (Manifest::find(&component(SECTION, data)), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(error), Err(reason)) => assert!(error.contains(reason), "{error}"),
            (found, expected) => panic!("{data}: {found:?}, not {expected:?}"),
        }
    }

    #[test]
    fn a_manifest_is_read_strictly() {
        check(
            r#"{"name":"bot","version":"1.2.3","capabilities":["log"],"limits":{"callMs":5}}"#,
            Ok(Manifest {
                name: Some("bot".to_owned()),
                version: Some("1.2.3".to_owned()),
                capabilities: vec!["log".to_owned()],
                limits: AskedLimits {
                    call_ms: Some(5),
                    ..AskedLimits::default()
                },
                config_schema: None,
            }),
        );
        check("{}", Ok(Manifest::default()));
        check("", Err("cannot be read"));
        check(r#"{"nam":"x"}"#, Err("unknown field `nam`"));
        check(r#"{"name":"../x y"}"#, Err("manifest's name"));
        check(
            r#"{"capabilities":["files"]}"#,
            Err("no capability \"files\""),
        );
        let other = component("other", "{");
        assert_eq!(Manifest::find(&other), Ok(Manifest::default()));
    }

    #[test]
    fn a_cut_file_is_damaged() {
        let whole = component(SECTION, "{}");
        assert_eq!(Manifest::find(&whole), Ok(Manifest::default()));
        // Of a whole header alone there is nothing to miss.
        let header = &whole[..8];
        assert_eq!(Manifest::find(header), Ok(Manifest::default()));
        for end in (0..8).chain(9..whole.len()) {
            let found = Manifest::find(&whole[..end]);
            assert!(found.is_err(), "{end}: {found:?}");
        }
    }

    #[test]
    fn the_operator_has_the_last_word_and_nothing_is_unlimited() {
        let asked = AskedLimits {
            call_ms: Some(50),
            memory_bytes: Some(1 << 20),
            ..AskedLimits::default()
        };
        let word = AskedLimits {
            call_ms: Some(5),
            ..AskedLimits::default()
        };
        let expected = Limits {
            memory_bytes: 1 << 20,
            call_ms: 5,
            ..Limits::default()
        };
        assert_eq!(limits(asked, word), Ok(expected));
        // Without the operator's word it must not have what it asks for.
        let refused = limits(asked, AskedLimits::default()).unwrap_err();
        assert!(refused.contains("callMs 50 (usual: 10)"), "{refused}");
        assert!(!refused.contains("memoryBytes"), "{refused}");
        let granted = limits(asked, asked).unwrap();
        assert_eq!(granted.call_ms, 50);
        for call_ms in [0, 1_001, u64::MAX] {
            let greedy = AskedLimits {
                call_ms: Some(call_ms),
                ..AskedLimits::default()
            };
            assert!(
                limits(greedy, AskedLimits::default())
                    .unwrap_err()
                    .contains("callMs")
            );
        }
    }
}
