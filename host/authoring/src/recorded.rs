//! Cases from recorded traffic: what `tidegate observe -o json` printed.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::Context as _;
use tidegate_contract::L7Summary;
use tidegate_observe::record::{FlowRecord, FlowVerdict, Line};
use tidegate_plugin_host::Admitted;
use tidegate_policy::compiled::L7Protocol;
use tidegate_wire::dns;

use crate::cases::{Case, Cases, Connection, Expected, Request, Said, Verdict};

/// Reads records of messages that this plugin reads, each once: records have neither headers
/// nor bodies. What must become of them is what became of them. What policy or another
/// plugin refused is left out: a filter may never have seen it.
///
/// # Errors
///
/// If the file cannot be read, a line is none of that output, or no line is of such a message.
pub fn read(path: &Path, config: &str, plugin: &Admitted) -> anyhow::Result<Cases> {
    let file = path.display().to_string();
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {file}"))?;
    let mut cases: BTreeMap<String, Case> = BTreeMap::new();
    for (line, text) in (1..).zip(text.lines()).filter(|(_, text)| !text.is_empty()) {
        let read: Line = serde_json::from_str(text)
            .with_context(|| format!("{file}:{line}: not a line of `tidegate observe -o json`"))?;
        if let Line::Record(record) = read
            && let Some(case) = case(&record, line, config, plugin)
        {
            cases.entry(case.name.clone()).or_insert(case);
        }
    }
    anyhow::ensure!(
        !cases.is_empty(),
        "{file}: no record of a message that {} could have seen; `tidegate observe -o json \
         --protocol {}` prints some",
        plugin.name,
        plugin.info.world.protocol().name()
    );
    Ok(Cases {
        file,
        cases: cases.into_values().collect(),
    })
}

fn case(record: &FlowRecord, line: u64, config: &str, plugin: &Admitted) -> Option<Case> {
    let by = record.plugin.as_deref().and_then(|by| by.split_once('@'));
    let by_this = by.is_some_and(|(name, _)| name == plugin.name);
    let verdict = match record.verdict {
        FlowVerdict::Forwarded => Verdict::Allowed,
        FlowVerdict::Dropped | FlowVerdict::Audit if by_this => Verdict::Denied,
        _ => return None,
    };
    let reads = plugin.info.world.protocol();
    let expect = Some(Expected::of(verdict));
    let (name, said) = match record.l7.as_ref()? {
        L7Summary::Http { method, url, .. } if reads == L7Protocol::Http => (
            format!("{method} {url}"),
            Said::Http {
                request: Box::new(Request {
                    method: method.clone(),
                    url: url.clone(),
                    headers: BTreeMap::new(),
                    body: String::new(),
                }),
                expect,
                response: None,
            },
        ),
        L7Summary::Dns { query, qtype, .. } if reads == L7Protocol::Dns => (
            format!("{query} {qtype}"),
            Said::Dns {
                name: format!("{}.", query.trim_end_matches('.').to_ascii_lowercase()),
                qtype: dns::type_number(qtype)?,
                expect,
            },
        ),
        _ => return None,
    };
    let (source, destination) = (&record.source, &record.destination);
    Some(Case {
        name,
        line,
        config: config.to_owned(),
        connection: Connection {
            from: Some((source.address, source.port).into()),
            to: Some((destination.address, destination.port).into()),
            identity: source.identity.get(),
            labels: source.labels.clone(),
        },
        said,
    })
}
