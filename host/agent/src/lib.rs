//! Builds every part of the agent and connects them; the only place that does.
//!
//! [`run`] reads top to bottom: claim the node, take over or load the kernel side,
//! find or start the proxy, start control, let people look, then let events in.
//!
//! The end is short on purpose. Programs, tables, links and the proxy outlive the
//! agent: traffic goes on as decided. The drain order is: no more events in, the
//! generation being published is finished, readers' sockets close, the lock goes last.

mod check;
mod explain;
mod flows;
mod judge;
mod learned;
mod names;
mod plugins;
mod sinks;
mod sources;
mod status;
mod tending;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Context as _;
use tidegate_api::Readers;
use tidegate_config::{Config, Place, PolicyMode, RejectResponseCode, Written};
use tidegate_contract::{ProxyStats, Reject, ToAgent};
use tidegate_control::{
    event::Event,
    identities::Local,
    problems::NamedAt,
    publication::Outcome,
    state::{Control, Settings},
    store::Store,
};
use tidegate_datapath::{Datapath, DatapathError, Options, Owner, TableLimits, watch_devices};
use tidegate_lifecycle::{OnlyAgent, Signal, Signals};
use tidegate_observe::{directory::LearnedNames, store::FlowStore};
use tidegate_plugin_host::{PluginStore, StoreOptions};
use tidegate_policy::{Mode, Origin, Source};
use tidegate_proxy::Exits;
use tidegate_sources::folder::{VENDOR, Watched};
use tidegate_supervisor::{ProxyOptions, ProxyStatus, ProxySupervisor};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

pub use self::check::check;
use self::{
    explain::Explainer,
    flows::Recorder,
    names::NameKeeper,
    plugins::{Examiner, candidate},
    sinks::{Node, SharedDatapath},
    status::Counted,
    tending::{Ask, Tending},
};

pub use tidegate_datapath::kernel_features;

/// File name of the local API's socket in the run folder.
const SOCKET: &str = "agent.sock";
/// Events that may wait for control. More only slows their sources down: each of them
/// sends its newest state again.
const EVENTS: usize = 256;
/// How often failed work is tried again.
const TICK: Duration = Duration::from_secs(1);
/// How long a generation may go on when the agent is told to end.
const FINISH: Duration = Duration::from_secs(1);
/// Names kept for display.
const LEARNED_NAMES: usize = 65_536;
/// How long open connections may take to end when everything is removed.
const DRAIN: Duration = Duration::from_secs(2);

/// What stays when the agent ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Everything: traffic goes on as decided.
    Keep,
    /// Nothing: as if Tidegate had never been there.
    Remove,
}

/// Runs the agent until it is told to stop.
pub fn run(config: Config, after: After) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(serve(config, after))
}

/// Removes everything an agent with this configuration left behind.
pub fn cleanup(config: &Config) -> anyhow::Result<()> {
    let _only = OnlyAgent::claim(&config.node.run_dir, &config.node.state_dir)?;
    let _owner = match config.node.bpffs.exists() {
        true => Some(Owner::claim(&config.node.bpffs)?),
        false => None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(remove(config))
}

async fn serve(config: Config, after: After) -> anyhow::Result<()> {
    let only = OnlyAgent::claim(&config.node.run_dir, &config.node.state_dir)?;
    let mut signals = Signals::listen().context("listen to signals")?;
    tracing::info!(
        node = config.node.name,
        version = env!("CARGO_PKG_VERSION"),
        "agent starts"
    );
    let store = Store::open(&config.node.state_dir)?;
    let audit = config.policy.mode == PolicyMode::Audit;

    // The kernel side: what runs already goes on while its programs are replaced.
    let options = Options {
        homes: store.homes(),
        ..datapath_options(&config)
    };
    let datapath = Datapath::open(options).map_err(|error| placed(error, &config.written));
    let mut datapath = datapath.context("take over the kernel side")?;
    if let Some(lost) = datapath.lost_tables() {
        tracing::error!("{lost}");
    }
    let kernel_events = datapath.take_events()?;
    let tables = datapath.reader();

    // The proxy: a living one is taken over with its listeners.
    let maps = datapath.proxy_maps()?;
    let exits = exits(&datapath)?;
    let (proxy, from_proxy) = ProxySupervisor::start(proxy_options(&config)?, maps)
        .await
        .context("start the proxy")?;
    let proxy = Arc::new(proxy);
    datapath
        .set_listeners(&proxy.listeners())
        .context("hand the listeners to the kernel")?;
    let datapath = SharedDatapath::new(datapath);

    // Control, which owns what should be.
    let mut options = StoreOptions::new(config.node.state_dir.join("plugins"));
    options.trust = config.plugins.trust.clone();
    let plugins = Arc::new(PluginStore::new(options).context("open the plugin store")?);
    let built_in = plugins
        .builtin()
        .await?
        .into_iter()
        .map(candidate)
        .collect();
    let (stats_in, mut stats) = watch::channel(ProxyStats::default());
    let node = Node {
        datapath: datapath.clone(),
        proxy: proxy.clone(),
    };
    let origins = store.origins()?;
    let learned = Arc::new(Mutex::new(LearnedNames::new(LEARNED_NAMES)));
    let names = NameKeeper::restore(store.clone(), learned.clone());
    let mut control = Control::new(settings(&config), datapath.clone(), store, built_in, Local)?;
    plugins.keep(control.artifacts());
    let addresses = sources::node_addresses(&config.node.addresses);
    let devices = sources::node_devices(&config, datapath.bridge_names());
    control.apply(Event::NodeAddresses(addresses.clone()));
    control.apply(Event::NodeDevices(devices.clone()));
    let secrets = sources::secrets(&config.folders.secrets);
    control.apply(Event::Secrets(secrets.clone()));

    // People's windows.
    let recorder = Recorder {
        view: control.view(),
        learned,
        store: Arc::new(FlowStore::new(config.limits.flow_records as usize)),
        audit,
    };
    let readers = Readers {
        view: control.view(),
        flows: recorder.store.clone(),
        learned: recorder.learned.clone(),
        explain: Arc::new(Explainer {
            exits,
            tables: tables.clone(),
            learned: recorder.learned.clone(),
            proxy: proxy.clone(),
            audit,
        }),
        numbers: Arc::new(Counted {
            tables,
            stats: stats.clone(),
        }),
    };

    // Everything that lives as long as the agent. One that ends takes the agent along,
    // with its reason: a half-working agent is worse than a restarted one.
    let (events_in, mut events) = mpsc::channel(EVENTS);
    let (rescan, rescans) = mpsc::channel(1);
    let mut rescan_all = vec![rescan];
    let (link_changed, link_changes) = mpsc::channel(1);
    let (ask, asked) = mpsc::channel(1);
    let mut tasks: JoinSet<anyhow::Result<()>> = JoinSet::new();
    let socket = config.node.run_dir.join(SOCKET);
    let api = readers.clone();
    tasks.spawn(async move {
        tidegate_api::serve_api(&socket, api)
            .await
            .context("serve the local API")
    });
    if let Some(listen) = config.metrics.listen {
        tasks.spawn(async move {
            let served = tidegate_api::serve_metrics(listen, readers).await;
            served.with_context(|| format!("serve metrics on {listen}"))
        });
    }
    let kernel = recorder.clone();
    tasks.spawn(async move {
        kernel
            .follow(kernel_events)
            .await
            .context("read kernel events")
    });
    tasks.spawn(follow_proxy(from_proxy, recorder, stats_in));
    let keeper = names.clone();
    tasks.spawn(async move {
        keeper.run().await;
        Ok(())
    });
    tasks.spawn(async move {
        watch_devices(link_changed)
            .await
            .context("watch network devices")
    });
    match sources::vendor(&config.folders.vendor) {
        Ok(watched) => {
            let (rescan, rescans) = mpsc::channel(1);
            rescan_all.push(rescan);
            let (origins, scans) = (origins.clone(), events_in.clone());
            tasks.spawn(async move {
                sources::folders(watched, origins, rescans, scans).await;
                Ok(())
            });
        }
        Err(news) => {
            control.apply(sources::no_vendor(news));
        }
    }
    let scans = events_in.clone();
    let (folder, seen) = (config.folders.secrets.clone(), events_in.clone());
    tasks.spawn(async move {
        sources::watch_secrets(folder, secrets, seen).await;
        Ok(())
    });
    let folders = Watched::of(&config.folders);
    tasks.spawn(async move {
        sources::folders(folders, origins, rescans, scans).await;
        Ok(())
    });
    let tending = Tending::new(
        datapath,
        Arc::new(config.clone()),
        events_in.clone(),
        (addresses, devices),
    );
    let mut tended = tokio::spawn(tending.run(asked, link_changes));
    let examiner = Examiner::new(plugins.clone(), events_in);

    // Events in, one generation at a time out. Nothing here waits for kernel or proxy.
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut publishing = JoinSet::new();
    let mut proxy_status = proxy.status();
    let latest = stats.clone();
    let mut standing = status::standing(&latest.borrow());
    let proxy_now =
        |status: &ProxyStatus, stats: &ProxyStats| Event::Proxy(status::proxy(status, stats));
    control.apply(proxy_now(
        &proxy_status.borrow_and_update(),
        &stats.borrow(),
    ));
    let ended = loop {
        let event = tokio::select! {
            // In this order: stopping is never held up by what keeps coming.
            biased;
            signal = signals.next() => match signal {
                Signal::Stop => break Ok(()),
                Signal::Rescan => {
                    tracing::info!("looking at folders and tables, as asked by SIGHUP");
                    // Full channels already hold the wish.
                    let _ = ask.try_send(Ask::ReadBack);
                    for rescan in &rescan_all {
                        let _ = rescan.try_send(());
                    }
                    continue;
                }
            },
            Some(ended) = tasks.join_next() => break part_ended(ended),
            ended = &mut tended => break part_ended(ended),
            Some(outcome) = publishing.join_next() => {
                Event::Published(outcome.unwrap_or_else(|e| Outcome::given_up(e.into())))
            }
            Some(event) = events.recv() => event,
            Ok(()) = proxy_status.changed() => {
                proxy_now(&proxy_status.borrow_and_update(), &latest.borrow())
            }
            Ok(stats) = stats.wait_for(|stats| status::standing(stats) != standing) => {
                standing = status::standing(&stats);
                proxy_now(&proxy_status.borrow(), &stats)
            }
            _ = tick.tick() => Event::Tick,
        };
        // Whatever else is waiting belongs to the same generation.
        let mut next = Some(event);
        while let Some(event) = next {
            for request in control.apply(event) {
                examiner.start(request);
            }
            next = events.try_recv().ok();
        }
        if let Some(publication) = control.settle() {
            publishing.spawn(publication.run(node.clone()));
        }
        control.tell();
        plugins.keep(control.artifacts());
    };

    // What is nearly in force is finished, and known to the next agent; one that the proxy
    // keeps waiting is given up, which is harmless at every step.
    let last = timeout(FINISH, publishing.join_next()).await;
    if let Ok(Some(Ok(outcome))) = last {
        control.apply(Event::Published(outcome));
    }
    publishing.shutdown().await;
    tasks.shutdown().await;
    names.save();
    // Stale sockets are replaced at the next start; this one tells clients at once.
    let _ = std::fs::remove_file(config.node.run_dir.join(SOCKET));
    match after {
        After::Keep => tracing::info!("agent ends; what is in force stays in force"),
        After::Remove => {
            // What is attached now would stay.
            drop(ask);
            if !tended.is_finished() {
                let _ = tended.await;
            }
            // Its supervisor would start it again.
            drop(node);
            drop(proxy);
            remove(&config).await?;
        }
    }
    drop(only);
    ended
}

/// A part that should have lived as long as the agent did not.
fn part_ended(ended: Result<anyhow::Result<()>, tokio::task::JoinError>) -> anyhow::Result<()> {
    match ended {
        Ok(Ok(())) => anyhow::bail!("a part of the agent ended by itself"),
        Ok(Err(error)) => Err(error),
        Err(error) => Err(error).context("a part of the agent failed"),
    }
}

/// Kernel first: from there on nothing is steered to a proxy that is about to go.
async fn remove(config: &Config) -> anyhow::Result<()> {
    Datapath::remove(&config.node.bpffs).context("remove the kernel side")?;
    ProxySupervisor::stop(&config.node.run_dir, DRAIN)
        .await
        .context("stop the proxy")?;
    // Left by an agent that was killed.
    let _ = std::fs::remove_file(config.node.run_dir.join(SOCKET));
    tracing::info!("removed: programs, tables, routes, proxy");
    Ok(())
}

async fn follow_proxy(
    mut from_proxy: mpsc::Receiver<ToAgent>,
    recorder: Recorder,
    stats: watch::Sender<ProxyStats>,
) -> anyhow::Result<()> {
    while let Some(message) = from_proxy.recv().await {
        match message {
            ToAgent::Stats(new) => {
                stats.send_replace(new);
            }
            message => recorder.proxy(message),
        }
    }
    anyhow::bail!("the proxy's supervisor ended")
}

fn settings(config: &Config) -> Settings {
    Settings {
        node: config.node.name.clone(),
        mode: match config.policy.mode {
            // Audit decides like default; the kernel lets pass what it denies.
            PolicyMode::Default | PolicyMode::Audit => Mode::Default,
            PolicyMode::Always => Mode::Always,
            PolicyMode::Never => Mode::Never,
        },
        audit: config.policy.mode == PolicyMode::Audit,
        fqdn_min_ttl: config.fqdn.min_ttl,
        reject: match config.fqdn.reject_response_code {
            RejectResponseCode::Refused => Reject::Refused,
            RejectResponseCode::NameError => Reject::NameError,
        },
        folders: folders(&config.written),
        trust: config.plugins.trust.clone(),
    }
}

/// Where it is written which folders there are, by what the folders are called in problems.
fn folders(written: &Written) -> BTreeMap<Origin, NamedAt> {
    let named = |origin: Origin, key: &'static str| {
        let Place { file, line, column } = written.place(key);
        let at = NamedAt {
            file,
            line,
            column,
            key,
        };
        (origin, at)
    };
    let own = [
        ("endpoints", "folders.endpoints"),
        ("services", "folders.services"),
        ("policies", "folders.policies"),
        ("plugins", "folders.plugins"),
    ];
    let own = own.map(|(label, key)| named(Origin::new(Source::folders(), label), key));
    let vendor = ["", "endpoints", "services", "policies"];
    let vendor =
        vendor.map(|label| named(Origin::new(Source::named(VENDOR), label), "folders.vendor"));
    own.into_iter().chain(vendor).collect()
}

/// An error of the datapath with the place of the key that is to blame for it.
fn placed(error: DatapathError, written: &Written) -> anyhow::Error {
    let place = match &error {
        DatapathError::Capacity { key, .. } => Some(written.place(key)),
        _ => None,
    };
    let error = anyhow::Error::from(error);
    match place {
        Some(place) => error.context(place),
        None => error,
    }
}

fn datapath_options(config: &Config) -> Options {
    Options {
        bpffs: config.node.bpffs.clone(),
        cgroup: config.node.cgroup.clone(),
        outside: config.node.outside_devices.clone(),
        limits: table_limits(config),
        audit: config.policy.mode == PolicyMode::Audit,
        allow_localhost: config.policy.allow_localhost,
        deny_events_per_second: config.limits.deny_events_per_second,
        homes: BTreeMap::new(),
    }
}

fn table_limits(config: &Config) -> TableLimits {
    let limits = &config.limits;
    TableLimits {
        flows: limits.flows,
        fragments: limits.fragments,
        policy_entries: limits.policy_entries,
        ipcache_entries: limits.ipcache_entries,
        endpoints: limits.endpoints,
        services: limits.services,
        backends: limits.backends,
        service_slots: limits.service_slots,
        fqdn_addresses: limits.fqdn_addresses,
        deny_prefixes: limits.deny_prefixes,
    }
}

/// What tells as whom the proxy would speak.
fn exits(datapath: &Datapath) -> anyhow::Result<Exits> {
    Exits::open(datapath.proxy_maps()?).context("open the tables that tell how packets leave")
}

fn proxy_options(config: &Config) -> anyhow::Result<ProxyOptions> {
    let user = &config.proxy.user;
    Ok(ProxyOptions {
        run_dir: config.node.run_dir.clone(),
        exe: std::env::current_exe().context("find this program's file")?,
        user: (user.uid, user.gid),
        workers: None,
        connections_per_cpu: config.proxy.connections_per_cpu,
        memory_per_cpu_mib: config.proxy.memory_per_cpu_mib,
        http2_header_list_bytes: config.proxy.http2_header_list_bytes,
        hung_after: Duration::from_secs(config.proxy.hung_after_seconds.into()),
        plugin_memory_bytes: Some(config.proxy.plugin_memory_bytes.into()),
        log: (
            config.log.format == tidegate_config::LogFormat::Json,
            config.log.level.clone(),
        ),
    })
}
