//! One worker thread: pinned to its CPU, with its own listener of every class, its own
//! runtime and its own plugin instances. Nothing of a flow ever crosses to another.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    thread,
    time::Duration,
};

use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use tidegate_channel::listener::is_stream;
use tidegate_contract::{FailureKind, L7Record, L7Summary, ListenerInfo};
use tidegate_ebpf_shared::addr::proto;
use tidegate_policy::compiled::{EndpointId, IdentityId, L7Protocol};
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    runtime::{Builder, LocalOptions},
    sync::watch,
};

use super::{
    decide::Attribution,
    dns,
    flow::{FlowContext, Reading, Settled, now_ns},
    heap,
    http::{self, Activity, Phase, cut_off},
    places::{Capacity, Places},
    plugins,
    records::Counters,
    state::{Shared, View},
    stream, tls,
    turns::{Counter, INTERVAL},
    upstream::keep_alive,
};

/// Pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// How long a connection may take to end in order once its place is needed.
const EVICTION: Duration = Duration::from_secs(1);
/// Turns between two looks whether the thread holds something for nobody: 2 s.
const TURNS_A_TIDY: u32 = 4;

/// Starts the worker of a CPU with its listeners. It accepts until `stop` says true and
/// serves what it accepted until the process ends. A state must have been published.
///
/// # Errors
///
/// If the thread cannot be started.
pub(super) fn spawn(
    cpu: u32,
    listeners: Vec<(ListenerInfo, OwnedFd)>,
    shared: Arc<Shared>,
    capacity: Capacity,
    stop: watch::Receiver<bool>,
) -> io::Result<()> {
    thread::Builder::new()
        .name(format!("worker-{cpu}"))
        .spawn(move || {
            pin(cpu);
            if let Err(error) = run(cpu, listeners, shared, capacity, stop) {
                // Without this CPU's worker its flows are refused, not let through.
                tracing::error!(cpu, %error, "a worker could not start");
            }
        })?;
    Ok(())
}

/// Keeps the thread where its packets are. Failing (a CPU that is not ours to use)
/// costs speed, nothing else.
fn pin(cpu: u32) {
    let mut set = CpuSet::new();
    let pinned = set
        .set(cpu as usize)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
    if let Err(error) = pinned {
        tracing::warn!(cpu, %error, "a worker runs on any CPU");
    }
}

fn run(
    cpu: u32,
    listeners: Vec<(ListenerInfo, OwnedFd)>,
    shared: Arc<Shared>,
    capacity: Capacity,
    stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())?;
    let view =
        Rc::new(View::new(shared).ok_or_else(|| io::Error::other("no snapshot was published"))?);
    let places = Rc::new(Places::new(capacity));
    let _inside = runtime.enter();
    for (info, socket) in listeners {
        if is_stream(info.class) {
            let listener = TcpListener::from_std(socket.into())?;
            let address = listener.local_addr()?;
            runtime.spawn_local(accept(
                listener,
                address,
                view.clone(),
                places.clone(),
                stop.clone(),
            ));
        } else {
            let socket = UdpSocket::from_std(socket.into())?;
            let address = socket.local_addr()?;
            runtime.spawn_local(dns::listen(socket, address, view.clone(), stop.clone()));
        }
    }
    runtime.spawn_local(tick());
    let turns = view.shared.turns.enrol(cpu);
    runtime.block_on(tidy(&view, &turns, &places))
}

/// Shows that the thread is alive, takes up what was published also when no message
/// comes, and gives back what plugins and the allocator hold for nobody.
async fn tidy(view: &View, turns: &Counter, places: &Places) -> io::Result<()> {
    loop {
        for _ in 0..TURNS_A_TIDY {
            turns.turn();
            tokio::time::sleep(INTERVAL).await;
        }
        view.current();
        plugins::sweep();
        if places.has_emptied() {
            heap::trim();
        }
    }
}

/// Lets time pass for filters that have a use for it.
async fn tick() {
    loop {
        tokio::time::sleep(plugins::tick().unwrap_or(INTERVAL)).await;
    }
}

/// Accepts connections until it is told to stop.
async fn accept(
    listener: TcpListener,
    address: SocketAddr,
    view: Rc<View>,
    places: Rc<Places>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let (client, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // A connection that died in the backlog, or no descriptor is left.
                tracing::debug!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (view, places) = (view.clone(), places.clone());
        tokio::task::spawn_local(async move {
            let counters = &view.shared.records.counters;
            Counters::add(&counters.accepted);
            counters.connections.fetch_add(1, Relaxed);
            let _leave = Leave(&view);
            serve(client, peer, address, &view, &places).await;
        });
    }
}

/// Takes a connection out of the gauge, also when serving it panicked.
struct Leave<'v>(&'v View);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0
            .shared
            .records
            .counters
            .connections
            .fetch_sub(1, Relaxed);
    }
}

/// Serves one accepted connection until it ends, or somebody else needs its place.
async fn serve(
    client: TcpStream,
    peer: SocketAddr,
    listener: SocketAddr,
    view: &Rc<View>,
    places: &Rc<Places>,
) {
    let counters = &view.shared.records.counters;
    let flow = client.local_addr().and_then(|local| {
        FlowContext::of_connection(view.clone(), client.as_fd(), (peer, local), listener)
    });
    let flow = match flow {
        Ok(Some(flow)) => flow,
        unknown => {
            // Nobody admitted it, so nobody may be reached through it.
            let error = unknown.err();
            tracing::debug!(%peer, ?error, "a connection of no known flow was closed");
            Counters::add(&counters.failed);
            if client.local_addr().is_ok_and(|local| local == listener) {
                unknown_at_own_listener(view, peer, listener);
            }
            return cut_off(&client);
        }
    };
    if places.is_crowded() {
        // A burst of newcomers ran before those whose places they got.
        tokio::task::yield_now().await;
    }
    let Some(place) = places.take(flow.client(), counters) else {
        return cut_off(&client);
    };
    let activity = place.activity();
    tokio::select! {
        () = relay(client, &flow, activity) => {}
        () = overdue(activity) => {}
    }
}

/// Returns when a connection had time enough to leave its place.
async fn overdue(activity: &Activity) {
    activity.evicted().await;
    tokio::time::sleep(EVICTION).await;
}

/// Relays a connection as its policies want it read.
async fn relay(client: TcpStream, flow: &FlowContext, activity: &Activity) {
    let _ = client.set_nodelay(true);
    keep_alive(&client);
    let reading = flow.reading();
    if let Reading::As(inside) = reading
        && let Some(ends) = flow.ends()
    {
        return tls::within::serve(client, flow, activity, ends, inside).await;
    }
    match reading {
        Reading::As(L7Protocol::Http) => http::serve(client, flow, activity).await,
        Reading::As(L7Protocol::Dns) => dns::serve(client, flow, activity.budget()).await,
        Reading::As(L7Protocol::Stream) => match flow.asks_for_server_name() {
            Some(audit) if flow.asks_in_clear() => {
                tls::in_clear::serve(client, flow, activity, audit).await;
            }
            Some(audit) => tls::serve(client, flow, activity, audit).await,
            None => stream::serve(client, flow, activity, None).await,
        },
        Reading::Opaque => {
            activity.enter(Phase::Tunnel);
            tokio::select! {
                () = carry(client, flow, activity) => {}
                () = activity.evicted() => {}
            }
        }
        refused => {
            refuse(flow, refused);
            cut_off(&client);
        }
    }
}

/// Copies both ways, half-closes and failures included, until both ends have closed.
async fn carry(client: TcpStream, flow: &FlowContext, activity: &Activity) {
    match flow.connect_upstream().await {
        Ok(upstream) => {
            let settled = Settled::default();
            let passes = || stays_unread(flow, &settled);
            http::carry(client, upstream, activity.budget(), passes).await;
        }
        Err(error) => {
            tracing::debug!(destination = %flow.destination, %error, "upstream unreachable");
            cut_off(&client);
        }
    }
}

/// Do the rules still not ask for what a connection says? What was not read from its beginning
/// cannot be read, so else it ends, and has a record.
fn stays_unread(flow: &FlowContext, settled: &Settled) -> bool {
    let seen = flow.state();
    if settled.is(&seen) {
        return true;
    }
    let reading = flow.reading();
    settled.settle(flow, seen);
    if reading != Reading::Opaque {
        refuse(flow, reading);
    }
    reading == Reading::Opaque
}

/// Leaves a record of a connection to the listener for host services that none of them made:
/// some other process did, or no hook of the kernel saw it.
fn unknown_at_own_listener(view: &View, peer: SocketAddr, listener: SocketAddr) {
    view.keep(L7Record {
        time_ns: now_ns(),
        transport: proto::TCP,
        source: peer,
        destination: listener,
        identities: (IdentityId(0), IdentityId(0)),
        endpoints: (EndpointId(0), EndpointId(0)),
        allowed: false,
        audited: false,
        rehearsed: None,
        rules: Vec::new(),
        unmatched: false,
        plugin: None,
        error: Some(FailureKind::RulesUnknown.because(
            "the proxy's own listener: no socket hook has told where this connection wants to go",
        )),
        ingress: false,
        generation: view.current().state.generation,
        l7: nothing_asked(),
    });
}

/// The summary of a connection on which nothing was read.
fn nothing_asked() -> L7Summary {
    L7Summary::Http {
        version: "".into(),
        method: String::new(),
        url: String::new(),
        status: 0,
        grpc: None,
        latency_us: 0,
    }
}

/// Leaves a record of a connection that cannot be read.
fn refuse(flow: &FlowContext, reading: Reading) {
    let error = match reading {
        Reading::Contradiction => FailureKind::RulesUnknown
            .because("egress and ingress policy ask for different protocols"),
        Reading::Unknown => FailureKind::RulesUnknown.because("the flow's rule set is not known"),
        Reading::As(_) => FailureKind::RulesChanged
            .because("its rules ask by now for what it says, and its beginning was not read"),
        Reading::Opaque => return,
    };
    let attribution = Attribution {
        rules: flow.asking_rules(),
        error: Some(error),
        ..Attribution::default()
    };
    flow.record(attribution, false, nothing_asked());
}

#[cfg(test)]
mod tests {
    use tidegate_policy::compiled::{Generation, L7Id};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::testing::view;

    const HTTP: L7Protocol = L7Protocol::Http;

    /// Two ends of a connection.
    async fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(client, listener.accept());
        (client.unwrap(), accepted.unwrap().0)
    }

    /// Neither by the rules of the moment it began, nor by a moment's delay: what the kernel
    /// let in by rules that ask for it is not passed on, whichever end says it.
    #[tokio::test]
    async fn what_nobody_read_is_cut_off_with_the_first_byte_that_is_to_be_read() {
        for from_server in [false, true] {
            let view = view(Generation(1), vec![(L7Id(5), HTTP, "allow")]);
            let ends = ("192.0.2.1:40000", "192.0.2.2:80");
            let ends = (ends.0.parse().unwrap(), ends.1.parse().unwrap());
            view.admit((proto::TCP, 1), ends, (0, 0));
            let flow = FlowContext::of_workload(view.clone(), proto::TCP, ends.0, ends.1);
            let flow = flow.unwrap().expect("admitted");
            assert_eq!(flow.reading(), Reading::Opaque);
            let (mut client, accepted) = connection().await;
            let (upstream, mut server) = connection().await;
            let said = async {
                let mut byte = [0];
                let settled = |generation, sets| view.admit((proto::TCP, generation), ends, sets);
                client.write_all(b"1").await.unwrap();
                server.read_exact(&mut byte).await.unwrap();
                // The proxy is ahead of the kernel: what it let in may pass.
                view.advance(vec![(L7Id(5), HTTP, "allow")]);
                client.write_all(b"2").await.unwrap();
                server.read_exact(&mut byte).await.unwrap();
                // The kernel follows, and nothing has changed for this flow.
                settled(2, (0, 0));
                server.write_all(b"3").await.unwrap();
                client.read_exact(&mut byte).await.unwrap();
                assert_eq!(byte, *b"3");
                // A rule covers it now.
                view.advance(vec![(L7Id(5), HTTP, "allow")]);
                settled(3, (5, 0));
                let (speaker, listener) = match from_server {
                    false => (&mut client, &mut server),
                    true => (&mut server, &mut client),
                };
                speaker.write_all(b"GET /forbidden").await.unwrap();
                let heard = listener.read(&mut byte).await;
                assert!(heard.is_err(), "{heard:?}: not reset, or given something");
            };
            let settled = Settled::default();
            let budget = crate::budget::Budget::default();
            let passes = || stays_unread(&flow, &settled);
            let carried = async {
                http::carry(accepted, upstream, &budget, passes).await;
            };
            let both = async { tokio::join!(carried, said) };
            let ended = tokio::time::timeout(Duration::from_secs(10), both).await;
            assert!(ended.is_ok(), "it is not cut off");
            let records = view.shared.records.take().records;
            let errors: Vec<_> = records.iter().filter_map(|r| r.error.clone()).collect();
            assert_eq!(errors.len(), 1, "{records:?}");
            assert_eq!(errors[0].kind, FailureKind::RulesChanged);
            assert!(errors[0].what().contains("was not read"), "{errors:?}");
        }
    }
}
