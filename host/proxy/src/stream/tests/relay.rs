//! Two ends that do not keep up with each other.

use std::{rc::Rc, time::Duration};

use tidegate_contract::Generation;
use tidegate_ebpf_shared::addr::proto;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::super::{End, Ended, Pipe, READ, Relay, UNWRITTEN};
use crate::{
    budget::{Budget, Memory, NO_MEMORY},
    decide::stream::Shadow,
    flow::FlowContext,
    http::{Activity, Client},
    state::View,
    testing::view,
};

/// Much more than the sockets of a connection hold.
const FLOOD: usize = 256 << 20;

async fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap());
    let (client, accepted) = tokio::join!(client, listener.accept());
    (client.unwrap(), accepted.unwrap().0)
}

/// How a connection ended whose server says as much as it can to a client that reads nothing
/// (`None`: it goes on), and the bytes that wait for the client then.
async fn flooded(view: &Rc<View>, budget: Budget) -> (Option<Ended>, usize) {
    let ends = ("192.0.2.1:40000", "192.0.2.2:6379");
    let ends = (ends.0.parse().unwrap(), ends.1.parse().unwrap());
    view.admit((proto::TCP, 1), ends, (0, 0));
    let flow = FlowContext::of_workload(view.clone(), proto::TCP, ends.0, ends.1);
    let flow = flow.unwrap().expect("admitted");
    let activity = Activity::of(&Client::new(budget, 65_536));
    let (_client, accepted) = connection().await;
    let (upstream, mut server) = connection().await;
    let mut relay = Relay {
        pipe: Pipe::of(Vec::new(), Shadow::default()),
        flow: &flow,
        activity: &activity,
        state: flow.state(),
        ends: [End::of(&accepted), End::of(&upstream)],
        memory: Vec::new(),
        changed: None,
        opening: None,
    };
    let flood = async {
        let bytes = vec![0; READ];
        for _ in 0..FLOOD / READ {
            let written = timeout(Duration::from_millis(300), server.write_all(&bytes));
            match written.await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return std::future::pending().await,
                Err(_) => return,
            }
        }
        panic!("a client that reads nothing is sent {FLOOD} bytes");
    };
    let ended = tokio::select! {
        ended = relay.run() => Some(ended),
        () = flood => None,
    };
    (ended, relay.ends[0].unwritten.len())
}

#[tokio::test]
async fn who_does_not_read_is_not_read_for() {
    let view = view(Generation(1), vec![]);
    let (ended, waiting) = flooded(&view, Budget::default()).await;
    assert_eq!(ended, None);
    assert!(
        (UNWRITTEN..UNWRITTEN + READ).contains(&waiting),
        "{waiting}"
    );
}

#[tokio::test]
async fn what_waits_is_its_clients_memory() {
    let view = view(Generation(1), vec![]);
    let (ended, _) = flooded(&view, Memory::new(32 << 10).budget()).await;
    assert_eq!(ended, Some(Ended::Cut));
    let records = view.shared.records.take().records;
    let errors = records.iter().filter_map(|r| r.error.as_ref());
    let errors: Vec<_> = errors.map(|error| error.what()).collect();
    assert_eq!(errors, [NO_MEMORY], "{records:?}");
}
