//! DNS through a real listener, real upstream legs and real tables on loopback. Nothing
//! is steered here: the client speaks to the listener as a host service would after
//! its socket hook, except where the flow's own addresses are given.

use std::{net::SocketAddr, rc::Rc};

use hickory_proto::{
    op::{Message, OpCode, Query},
    rr::{Name, RData, Record, RecordType, rdata::A},
};
use tidegate_contract::{Failure, L7Summary};
use tidegate_ebpf_shared::addr::proto;
use tidegate_policy::compiled::{Generation, L7Id, L7Protocol};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    task::LocalSet,
};

use super::exchange::{Decided, Exchange};
use crate::{flow::FlowContext, state::View, testing::view};

const NAME: &str = "www.example.";

fn query(id: u16, name: &str) -> Vec<u8> {
    let mut message = Message::new(id, hickory_proto::op::MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message.to_vec().unwrap()
}

fn response(id: u16, name: &str, last: u8) -> Vec<u8> {
    let mut message = Message::response(id, OpCode::Query);
    let name = Name::from_ascii(name).unwrap();
    message.add_query(Query::query(name.clone(), RecordType::A));
    message.add_answer(Record::from_rdata(
        name,
        30,
        RData::A(A::new(192, 0, 2, last)),
    ));
    message.to_vec().unwrap()
}

/// A flow of rule set 5, which is the plugin of this name.
fn flow(plugin: &'static str, ends: (SocketAddr, SocketAddr)) -> (FlowContext, Rc<View>) {
    let view = view(Generation(1), vec![(L7Id(5), L7Protocol::Dns, plugin)]);
    view.admit((proto::UDP, 1), ends, (5, 0));
    let nobody = "127.0.0.1:1".parse().unwrap();
    let flow = FlowContext::of_datagram(view.clone(), ends, nobody)
        .unwrap()
        .unwrap();
    (flow, view)
}

fn ends() -> (SocketAddr, SocketAddr) {
    (
        "192.0.2.1:40000".parse().unwrap(),
        "192.0.2.53:53".parse().unwrap(),
    )
}

fn rcodes(view: &View) -> Vec<(bool, Option<u8>)> {
    let records = view.shared.records.take().records.into_iter();
    records
        .map(|record| match record.l7 {
            L7Summary::Dns { rcode, .. } => (record.allowed, rcode),
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn an_answer_is_learned_before_it_is_relayed() {
    let (flow, view) = flow("allow", ends());
    let mut exchange = Exchange::new(&flow);
    assert_eq!(exchange.query(&query(9, NAME)), Decided::Forward);
    let address = "192.0.2.7".parse().unwrap();
    let tables = view.current().state.tables.clone();
    assert_eq!(tables.fqdn(address), None);
    // Neither another id nor another question's answer is believed.
    assert!(!exchange.answer(&response(8, NAME, 7)));
    assert!(!exchange.answer(&response(9, "evil.example.", 7)));
    assert_eq!(tables.fqdn(address), None);
    assert!(exchange.answer(&response(9, NAME, 7)));
    let learned = tables.fqdn(address).unwrap().identities;
    assert_eq!(learned[..2], [77, 0]);
    // Each question has one answer.
    assert!(!exchange.answer(&response(9, NAME, 8)));
    let waiting = view.shared.records.take();
    assert_eq!(waiting.learned[0].addresses, [(address, 30)]);
    assert_eq!(waiting.records.len(), 1);
}

#[test]
fn an_answer_that_cannot_be_read_passes_and_teaches_nothing() {
    let (flow, view) = flow("allow", ends());
    let mut exchange = Exchange::new(&flow);
    assert_eq!(exchange.query(&query(9, NAME)), Decided::Forward);
    // An address of three bytes.
    let unreadable = |name: &str| {
        let mut wire = response(9, name, 7);
        let length = wire.len();
        wire.truncate(length - 1);
        wire[length - 5] = 3;
        wire
    };
    assert!(!exchange.answer(&unreadable("evil.example.")));
    assert!(exchange.answer(&unreadable(NAME)));
    let waiting = view.shared.records.take();
    assert!(waiting.learned.is_empty());
    let [record] = &waiting.records[..] else {
        panic!("{:?}", waiting.records);
    };
    assert!(record.allowed);
    let error = record.error.as_ref().map_or("", Failure::what);
    assert!(error.contains("could not be read"), "{error}");
}

#[test]
fn a_zone_transfer_passes_to_its_end_and_is_one_record() {
    use hickory_proto::rr::rdata::SOA;
    let zone = Name::from_ascii("example.").unwrap();
    let message = |soas: usize| {
        let mut message = Message::response(9, OpCode::Query);
        message.add_query(Query::query(zone.clone(), RecordType::AXFR));
        for _ in 0..soas {
            let soa = SOA::new(zone.clone(), zone.clone(), 1, 2, 3, 4, 5);
            message.add_answer(Record::from_rdata(zone.clone(), 1, RData::SOA(soa)));
        }
        message.to_vec().unwrap()
    };
    let mut ask = query(9, "example.");
    let at = ask.len() - 3;
    ask[at] = 252;
    let (flow, view) = flow("allow", ends());
    let mut exchange = Exchange::new(&flow);
    assert_eq!(exchange.query(&ask), Decided::Forward);
    assert!(exchange.answer(&message(1)));
    assert!(exchange.answer(&message(0)), "records of other kinds");
    assert!(exchange.answer(&message(1)));
    assert_eq!(rcodes(&view), [(true, Some(0))], "one record");
    assert!(!exchange.waits(), "the second SOA is the end");
    assert!(!exchange.answer(&message(1)));

    // One that breaks off is not "unanswered".
    assert_eq!(exchange.query(&ask), Decided::Forward);
    assert!(exchange.answer(&message(1)));
    assert!(
        exchange
            .fail(&std::io::ErrorKind::UnexpectedEof.into())
            .is_empty()
    );
    assert_eq!(rcodes(&view), [(true, Some(0))]);
}

#[test]
fn a_full_table_is_counted_and_the_answer_passes() {
    let (flow, view) = flow("allow", ends());
    let mut exchange = Exchange::new(&flow);
    // The table has room for two addresses, a workload's share is one.
    for last in 1..=3 {
        assert_eq!(exchange.query(&query(9, NAME)), Decided::Forward);
        assert!(exchange.answer(&response(9, NAME, last)));
    }
    assert_eq!(view.shared.records.counters.stats().fqdn_overflow, 2);
}

#[test]
fn refusals_failures_and_nonsense() {
    let (denied, view) = flow("deny", ends());
    let mut exchange = Exchange::new(&denied);
    let Decided::Reply(answer) = exchange.query(&query(9, NAME)) else {
        panic!("forwarded");
    };
    let answer = Message::from_vec(&answer).unwrap();
    assert_eq!(
        (answer.metadata.id, u16::from(answer.metadata.response_code)),
        (9, 5)
    );
    assert_eq!(answer.queries[0].name().to_string(), NAME);
    assert_eq!(exchange.query(b"nonsense"), Decided::Drop);
    let mut two = query(9, NAME);
    two[5] = 2;
    assert!(matches!(exchange.query(&two), Decided::Reply(_)));
    assert_eq!(rcodes(&view), [(false, Some(5)), (false, Some(1))]);

    let (allowed, view) = flow("allow", ends());
    let mut exchange = Exchange::new(&allowed);
    assert_eq!(exchange.query(&query(9, NAME)), Decided::Forward);
    let answers = exchange.fail(&std::io::ErrorKind::ConnectionRefused.into());
    assert_eq!(answers.len(), 1);
    assert_eq!(exchange.query(&query(10, NAME)), Decided::Forward);
    drop(exchange);
    // The failed one, then the one nobody answered.
    assert_eq!(rcodes(&view), [(false, Some(2)), (true, None)]);
}

/// A client of a host service's listener cannot be told from anybody else here, so the
/// flow is given as the kernel would: by the client's and the server's addresses.
#[tokio::test]
async fn tcp_end_to_end() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    // The upstream leg's address must be free: not that of the client's live socket.
    let source = {
        let free = std::net::TcpListener::bind("127.9.9.8:0").unwrap();
        free.local_addr().unwrap()
    };
    let (flow, view) = flow("allow", (source, server.local_addr().unwrap()));
    let budget = crate::budget::Budget::default();
    let serve = super::serve(accepted, &flow, &budget);

    let talk = async {
        let question = query(3, NAME);
        let framed = [
            &u16::try_from(question.len()).unwrap().to_be_bytes()[..],
            &question,
        ]
        .concat();
        // In pieces, as a stream may come.
        client.write_all(&framed[..5]).await.unwrap();
        client.flush().await.unwrap();
        client.write_all(&framed[5..]).await.unwrap();
        let (mut upstream, peer) = server.accept().await.unwrap();
        assert_eq!(peer, source);
        let mut received = vec![0; framed.len()];
        upstream.read_exact(&mut received).await.unwrap();
        assert_eq!(received, framed, "the original bytes");
        let answer = response(3, NAME, 4);
        let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
        upstream
            .write_all(&[&length[..], &answer].concat())
            .await
            .unwrap();
        let mut relayed = vec![0; answer.len() + 2];
        client.read_exact(&mut relayed).await.unwrap();
        assert_eq!(relayed[2..], answer);
        drop(client);
    };
    tokio::join!(serve, talk);
    assert_eq!(rcodes(&view), [(true, Some(0))]);
}

#[test]
fn udp_end_to_end() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let view = view(Generation(1), vec![(L7Id(5), L7Protocol::Dns, "allow")]);
        let info = tidegate_contract::ListenerInfo {
            class: tidegate_ebpf_shared::steer::class::UDP4,
            cpu: 0,
        };
        let socket = tidegate_channel::listener::create(info).unwrap();
        let socket = UdpSocket::from_std(socket.into()).unwrap();
        let address = socket.local_addr().unwrap();
        view.steer(
            proto::UDP,
            client.local_addr().unwrap(),
            server.local_addr().unwrap(),
            5,
        );
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let serving =
            tokio::task::spawn_local(super::listen(socket, address, view.clone(), stopped));

        client.send_to(&query(3, NAME), address).await.unwrap();
        let mut buffer = [0; 512];
        let (length, leg) = server.recv_from(&mut buffer).await.unwrap();
        assert_eq!(buffer[..length], query(3, NAME), "the original bytes");
        server.send_to(&response(3, NAME, 4), leg).await.unwrap();
        let (length, from) = client.recv_from(&mut buffer).await.unwrap();
        assert_eq!(from, address);
        assert_eq!(buffer[..length], response(3, NAME, 4));
        // The record is kept before the answer is sent.
        assert_eq!(rcodes(&view), [(true, Some(0))]);

        // Nobody admitted this one.
        let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        stranger.send_to(&query(4, NAME), address).await.unwrap();
        while view.shared.records.counters.stats().failed == 0 {
            tokio::task::yield_now().await;
        }
        stop.send_replace(true);
        serving.await.unwrap();
    });
}
