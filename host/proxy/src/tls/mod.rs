//! The byte path of a connection whose rules ask which server the client wants: its hello is
//! read and decided, and then the bytes pass unread, or to the filters of byte streams that
//! are bound behind.

pub(crate) mod in_clear;
#[cfg(test)]
mod tests;
pub(crate) mod within;

use std::{borrow::Cow, io, time::Duration};

use tidegate_contract::{
    FailureKind::{ClientTls, Overload},
    L7Summary,
};
use tidegate_wire::tls::{Asked, ClientHello, HelloReader, NoHello, Watch, alert, version_name};
use tokio::net::TcpStream;

use crate::{
    budget::{NO_MEMORY, Taken},
    flow::FlowContext,
    http::{self, Activity, Phase, cut_off},
    records::shorten,
    stream,
};

/// How long a client may take to say which server it wants.
const PATIENCE: Duration = Duration::from_secs(15);
/// The same where its refusal is only reported: one that waits for the server to speak first
/// must not wait for long.
const AUDIT_PATIENCE: Duration = Duration::from_secs(1);
/// Bytes read at once, and about as many as every connection may hold: hellos in use are
/// shorter. More is taken from its client's part of the memory, in steps of as many.
const READ: usize = 4 << 10;
/// Bytes held without being taken: the buffers of one read.
const FREE: usize = 2 * READ;

/// How a connection begins that may go on.
pub(crate) struct Opening {
    /// What has come from the client, to be passed on first.
    pub(crate) held: Vec<u8>,
    /// Looks after the rest; `None` where there was no hello, and it passes all the same.
    pub(crate) watch: Option<Watch>,
    /// What the client asks for, to be decided again when the rules change.
    pub(crate) asked: Option<Asked>,
    /// As it stands in records.
    pub(crate) summary: L7Summary,
    /// Version of an alert the client understands.
    pub(crate) legacy_version: u16,
    /// For what is held, until it is passed on.
    pub(crate) memory: Vec<Taken>,
}

/// Serves one connection. `audit`: what its rules refuse is only reported.
pub(crate) async fn serve(client: TcpStream, flow: &FlowContext, activity: &Activity, audit: bool) {
    let Some((client, said)) = hear(client, flow, activity, audit).await else {
        return;
    };
    let Said {
        reader,
        read,
        asked,
        summary,
        memory,
    } = said;
    let opening = match read {
        Ok(hello) => {
            let (held, watch) = reader.finish(&hello);
            Opening {
                held,
                watch: Some(watch),
                asked,
                summary,
                legacy_version: hello.legacy_version,
                memory,
            }
        }
        Err(_) => Opening {
            held: reader.into_held(),
            watch: None,
            asked,
            summary,
            legacy_version: 0,
            memory,
        },
    };
    stream::serve(client, flow, activity, Some(opening)).await;
}

/// A client's hello that may be answered here.
pub(crate) struct Greeted {
    pub(crate) hello: ClientHello,
    /// What has come from the client, the hello included.
    pub(crate) held: Vec<u8>,
    /// As it stands in records.
    pub(crate) summary: L7Summary,
    /// For what is held.
    pub(crate) memory: Vec<Taken>,
}

/// Reads and decides the hello of a client whose TLS ends here; `None` if it does not come to
/// that, and the client was told.
pub(crate) async fn greet(
    client: TcpStream,
    flow: &FlowContext,
    activity: &Activity,
    audit: bool,
) -> Option<(TcpStream, Greeted)> {
    let (mut client, said) = hear(client, flow, activity, audit).await?;
    match said.read {
        Ok(hello) => {
            let (held, _) = said.reader.finish(&hello);
            let greeted = Greeted {
                hello,
                held,
                summary: said.summary,
                memory: said.memory,
            };
            Some((client, greeted))
        }
        // That nothing is refused does not help who cannot be read.
        Err(is_tls) => {
            let why = ClientTls.because("TLS ends here, and this is none");
            let description = is_tls.then_some(alert::DECODE_ERROR);
            flow.hello_failed(why, with_alert(said.summary, description));
            match description {
                Some(description) => {
                    let alert = alert::fatal(0x0301, description);
                    http::last_words(&mut client, &alert).await;
                }
                None => cut_off(&client),
            }
            None
        }
    }
}

/// What a client has said first, and that its rules let it pass.
struct Said {
    reader: HelloReader,
    /// The hello; false if it is not even TLS.
    read: Result<ClientHello, bool>,
    asked: Option<Asked>,
    summary: L7Summary,
    memory: Vec<Taken>,
}

/// Hears what a client says first, and decides; `None` if it is refused, and was told.
async fn hear(
    mut client: TcpStream,
    flow: &FlowContext,
    activity: &Activity,
    audit: bool,
) -> Option<(TcpStream, Said)> {
    activity.enter(Phase::Head);
    let mut reader = HelloReader::default();
    let mut memory = Vec::new();
    let patience = if audit { AUDIT_PATIENCE } else { PATIENCE };
    let read = tokio::select! {
        read = tokio::time::timeout(patience, read(&client, &mut reader, activity, &mut memory)) => read,
        () = activity.evicted() => {
            cut_off(&client);
            return None;
        }
    };
    let (asked, summary, read) = match read {
        Ok(Ok(Some(hello))) => (Some(hello.asked.clone()), of_hello(&hello), Ok(hello)),
        // Who has said nothing has asked for nothing.
        Ok(Ok(None)) if !reader.has_begun() => return None,
        Ok(Ok(None)) => (None, of_none("it ended within its ClientHello"), Err(true)),
        Ok(Err(Broken::Io)) => {
            cut_off(&client);
            return None;
        }
        Ok(Err(Broken::NoMemory)) => {
            flow.hello_failed(Overload.because(NO_MEMORY), of_none(""));
            cut_off(&client);
            return None;
        }
        Ok(Err(Broken::Hello(error))) => (None, of_none(error), Err(error.is_tls())),
        Err(_) => {
            let seconds = patience.as_secs();
            let what = match reader.has_begun() {
                true => format!("no whole ClientHello within {seconds} s"),
                false => format!(
                    "no ClientHello within {seconds} s: it may wait for the server to speak first"
                ),
            };
            (None, of_none(what), Err(reader.has_begun()))
        }
    };
    let (allowed, attribution) = flow.decide_hello(asked.as_ref());
    if !allowed {
        let known = asked
            .as_ref()
            .is_some_and(|asked| matches!(asked, Asked::Name(_)));
        let (version, description) = match &read {
            Ok(hello) if known => (hello.legacy_version, Some(alert::UNRECOGNIZED_NAME)),
            Ok(hello) => (hello.legacy_version, Some(alert::ACCESS_DENIED)),
            Err(true) => (0x0301, Some(alert::DECODE_ERROR)),
            Err(false) => (0, None),
        };
        flow.record(attribution, false, with_alert(summary, description));
        match description {
            Some(description) => {
                let alert = alert::fatal(version, description);
                http::last_words(&mut client, &alert).await;
            }
            None => cut_off(&client),
        }
        return None;
    }
    if read.is_ok() || flow.ends().is_none() {
        flow.record(attribution, true, summary.clone());
    }
    let said = Said {
        reader,
        read,
        asked,
        summary,
        memory,
    };
    Some((client, said))
}

/// Why no hello could be read.
enum Broken {
    Io,
    NoMemory,
    Hello(NoHello),
}

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Self {
        Self::Io
    }
}

/// The hello; `None` if the client ends before.
async fn read(
    client: &TcpStream,
    reader: &mut HelloReader,
    activity: &Activity,
    memory: &mut Vec<Taken>,
) -> Result<Option<ClientHello>, Broken> {
    let mut buffer = [0; READ];
    loop {
        client.readable().await?;
        let count = match client.try_read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            read => read?,
        };
        if count == 0 {
            return Ok(None);
        }
        match reader.add(&buffer[..count]) {
            Ok(None) => {
                let wanted = reader.memory().saturating_sub(FREE).div_ceil(READ);
                while memory.len() < wanted {
                    let taken = activity.budget().take(READ);
                    memory.push(taken.ok_or(Broken::NoMemory)?);
                }
            }
            Ok(hello) => return Ok(hello),
            Err(error) => return Err(Broken::Hello(error)),
        }
    }
}

/// A hello, for the record.
fn of_hello(hello: &ClientHello) -> L7Summary {
    let mut server_name = hello.asked.text().to_owned();
    shorten(&mut server_name);
    let status = match hello.asked {
        Asked::Nothing => "it asks for no server name",
        Asked::Address(_) => "it asks for an address",
        Asked::Unclear { why, .. } => why,
        Asked::Name(_) => "",
    };
    let mut alpn = hello.alpn.clone();
    alpn.truncate(MAX_ALPN);
    L7Summary::Tls {
        server_name,
        version: version_name(hello.version),
        alpn,
        ech: hello.ech,
        status: status.into(),
        alert: None,
    }
}

/// Most protocols kept in a record; each is 255 bytes at most.
const MAX_ALPN: usize = 8;

/// No hello, for the record.
fn of_none(why: impl ToString) -> L7Summary {
    L7Summary::Tls {
        server_name: String::new(),
        version: Cow::Borrowed(""),
        alpn: Vec::new(),
        ech: false,
        status: why.to_string().into(),
        alert: None,
    }
}

/// The same, ended with an alert.
pub(crate) fn with_alert(mut summary: L7Summary, description: Option<u8>) -> L7Summary {
    if let L7Summary::Tls { alert, .. } = &mut summary {
        *alert = description;
    }
    summary
}

/// The same, for this reason.
pub(crate) fn with_status(mut summary: L7Summary, why: String) -> L7Summary {
    if let L7Summary::Tls { status, .. } = &mut summary {
        *status = why.into();
    }
    summary
}
