//! Streams that end with something under way, requests that are given up, and nodes that go away.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{FutureExt as _, join_all};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::askers::{ask, numbered, value_of};
use super::handlers::{answering, answering_now};
use super::messages::{assert_unreachable, get, insert, pattern, remove, usize_of, value_answer};
use super::net::{Net, Running, driven, soon};
use super::raw::{RawClient, RawServer, question, questions, slices, value_response};
use crate::key::Key;
use crate::message::Scope;
use crate::transport::CallError;
use crate::wire::proto::{self, AnswerFrame, AskFrame};

#[tokio::test]
async fn a_stream_that_breaks_leaves_everything_on_it_with_one_outcome() {
    let mut server = RawServer::start(8 << 20).await;
    let net = Net::grpc();
    let connection = driven(soon(net.transport().connect(Arc::clone(&server.address))).await.expect("it listens"));
    let mut exchange = server.exchange().await;
    let asked = ask(&connection, numbered(0..100));
    let questions = exchange.questions(100).await;
    let calls =
        [remove(Scope::Group), insert(pattern(4 << 20)), insert(Bytes::new())].map(|request| connection.call(request));
    let calls = tokio::spawn(join_all(calls));
    // One is answered, half of another one's value has come, and a third was given up.
    let value = pattern(1 << 20);
    let responses = vec![
        value_response(questions[0].id, pattern(1), 0),
        value_response(questions[1].id, Bytes::new(), value.len()),
    ];
    let half: Vec<_> = slices(questions[1].id, &value).take(8).collect();
    exchange.send(AnswerFrame { responses, slices: half, ..AnswerFrame::default() });
    while exchange.next().await.expect("the stream goes on").slices.is_empty() {}
    drop(exchange);
    for outcome in soon(calls).await.expect("no panic") {
        assert_unreachable(outcome);
    }
    let mut outcomes = asked.all().await.into_iter();
    assert!(matches!(outcomes.next(), Some(Some(Ok(_)))), "the one that was answered");
    assert!(outcomes.all(|outcome| matches!(outcome, Some(Err(CallError::Unreachable(_))))));
    soon(connection.closed()).await;
    assert!(matches!(ask(&connection, numbered([1])).errors().await[..], [CallError::Unreachable(_)]));
    // A new connection works.
    let connection = driven(soon(net.transport().connect(Arc::clone(&server.address))).await.expect("it listens"));
    let mut exchange = server.exchange().await;
    let asked = ask(&connection, numbered([1]));
    let id = exchange.questions(1).await[0].id;
    exchange.send(AnswerFrame { responses: vec![value_response(id, pattern(1), 0)], ..AnswerFrame::default() });
    asked.answers().await;
}

#[tokio::test]
async fn a_connection_that_is_reset_in_the_midst_of_large_values_leaves_no_question_open() {
    let node = Net::grpc().serve(answering_now(|_| Ok(value_answer(pattern(4 << 20), None)))).await;
    let connection = node.connect().await;
    let mut asked = ask(&connection, numbered(0..50));
    asked.next().await;
    let calls = tokio::spawn(join_all((0..5).map(|_| connection.call(insert(pattern(4 << 20)))).collect::<Vec<_>>()));
    node.reset();
    soon(connection.closed()).await;
    for _ in 1..50 {
        let (_, outcome) = asked.next().await;
        assert!(matches!(outcome, Some(Ok(_) | Err(CallError::Unreachable(_)))), "{outcome:?}");
    }
    soon(calls).await.expect("no panic");
}

#[tokio::test]
async fn a_driver_that_is_dropped_drops_what_is_under_way() {
    let mut server = RawServer::start(8 << 20).await;
    let opened = soon(Net::grpc().transport().connect(Arc::clone(&server.address))).await.expect("it listens");
    let (connection, driver) = (opened.connection, tokio::spawn(opened.driver));
    let mut exchange = server.exchange().await;
    let asked = ask(&connection, numbered(0..3));
    exchange.questions(3).await;
    driver.abort();
    assert!(asked.all().await.iter().all(Option::is_none), "without an outcome, and not left to wait");
    soon(connection.closed()).await;
    assert!(exchange.next().await.is_none(), "and the other side is told");
}

#[tokio::test]
async fn a_driver_that_is_dropped_before_it_has_run_closes_the_connection_all_the_same() {
    let mut server = RawServer::start(8 << 20).await;
    let opened = soon(Net::grpc().transport().connect(Arc::clone(&server.address))).await.expect("it listens");
    let (connection, driver) = (opened.connection, opened.driver);
    let mut exchange = server.exchange().await;
    let asked = ask(&connection, numbered(0..3));
    drop(driver);
    assert!(asked.all().await.iter().all(Option::is_none), "without an outcome, and not left to wait");
    soon(connection.closed()).await;
    assert!(matches!(ask(&connection, numbered([1])).errors().await[..], [CallError::Unreachable(_)]));
    while exchange.next().await.is_some() {}
}

#[tokio::test]
async fn a_connection_that_is_let_go_ends_with_what_is_under_way_on_it() {
    let mut server = RawServer::start(8 << 20).await;
    let opened = soon(Net::grpc().transport().connect(Arc::clone(&server.address))).await.expect("it listens");
    let (connection, driver) = (opened.connection, tokio::spawn(opened.driver));
    let mut exchange = server.exchange().await;
    let asked = ask(&connection, numbered(0..2));
    let ids: Vec<u64> = exchange.questions(2).await.into_iter().map(|question| question.id).collect();
    drop(connection);
    exchange.send(AnswerFrame { responses: vec![value_response(ids[0], pattern(0), 0)], ..AnswerFrame::default() });
    exchange.send(AnswerFrame { responses: vec![value_response(ids[1], pattern(1), 0)], ..AnswerFrame::default() });
    assert_eq!(asked.answers().await.len(), 2);
    soon(driver).await.expect("it ends");
    assert!(exchange.next().await.is_none());
}

#[tokio::test]
async fn a_connection_that_is_let_go_does_not_wait_for_answers_to_what_was_given_up() {
    let mut server = RawServer::start(8 << 20).await;
    for is_let_go_first in [true, false] {
        let opened = soon(Net::grpc().transport().connect(Arc::clone(&server.address))).await.expect("it listens");
        let (connection, driver) = (opened.connection, tokio::spawn(opened.driver));
        let mut exchange = server.exchange().await;
        let (asked, call) = (ask(&connection, numbered(0..2)), connection.call(remove(Scope::Group)));
        exchange.questions(2).await;
        if is_let_go_first {
            drop(connection);
            drop(call);
            assert!(!driver.is_finished(), "there are those who wait");
            asked.give_up();
            assert_eq!(asked.errors().await.len(), 2);
        } else {
            asked.give_up();
            assert_eq!(asked.errors().await.len(), 2);
            drop(connection);
            drop(call);
        }
        soon(driver).await.expect("it ends");
        while exchange.next().await.is_some() {}
    }
}

#[tokio::test]
async fn a_node_that_goes_away_sends_large_values_to_their_end() {
    let (begun, mut begins) = mpsc::unbounded_channel();
    let released = CancellationToken::new();
    let until = released.clone();
    let net = Net::grpc();
    let node = net.serve(answering(move |get| {
        let (begun, until) = (begun.clone(), until.clone());
        async move {
            begun.send(()).expect("the test waits for it");
            until.cancelled().await;
            Ok(value_answer(pattern(usize_of(&get.key)), None))
        }
        .boxed()
    }));
    let node = node.await;
    let connection = node.connect().await;
    let sizes = [8 << 20, 1 << 20, 100_000, 1];
    let asked = ask(&connection, numbered(sizes));
    for _ in sizes {
        soon(begins.recv()).await;
    }
    let Running::Grpc { shutdown, task, .. } = node.running else { panic!("this is gRPC") };
    shutdown.cancel();
    // So that it is known to the stream before the values are.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    released.cancel();
    for (answer, len) in asked.answers().await.into_iter().zip(sizes) {
        assert!(value_of(answer) == pattern(len), "{len}");
    }
    soon(task).await.expect("no panic");
    soon(connection.closed()).await;
}

/// An exchange whose peer does not read, and on which so much waits that nothing more is sent.
async fn stalled(server: &mut RawServer) -> (Arc<dyn crate::transport::Connection>, super::raw::RawExchange) {
    let connection =
        driven(soon(Net::grpc().transport().connect(Arc::clone(&server.address))).await.expect("it listens"));
    let exchange = server.exchange().await;
    let filler = (0..64).map(|at| Key::new(&format!("{at:060000}")));
    tokio::spawn(ask(&connection, filler).all());
    (connection, exchange)
}

#[tokio::test]
async fn an_insert_that_was_given_up_is_not_stored_after_the_removal_that_follows() {
    for len in [10, 1 << 20] {
        let mut server = RawServer::start(64 << 10).await;
        let (connection, mut exchange) = stalled(&mut server).await;
        let mut call = connection.call(insert(pattern(len)));
        assert!((&mut call).now_or_never().is_none());
        drop(call);
        let removal = connection.call(remove(Scope::Group));
        assert!(removal.now_or_never().is_none());
        let _last = ask(&connection, [Key::new("the last")]);
        let (mut inserts, mut come) = (0, 0);
        loop {
            let frame = exchange.next().await.expect("the stream goes on");
            let is_insert = |call: &&proto::Call| matches!(call.call, Some(proto::call::Call::Insert(_)));
            inserts += frame.calls.iter().filter(is_insert).count();
            come += frame.slices.iter().map(|slice| slice.bytes.len()).sum::<usize>();
            if frame.gets.iter().flat_map(|gets| &gets.questions).any(|question| question.key == "the last") {
                break;
            }
        }
        assert!(inserts == 0 && come == 0, "an insert of {len} bytes came, behind a removal");
    }
}

#[tokio::test]
async fn an_insert_that_is_given_up_half_way_is_forgotten_by_both_ends() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let net = Net::grpc();
    let node = net.serve(super::handlers::replying(move |request| {
        tell.send(std::mem::discriminant(&request.ask)).expect("the test waits for it");
        Ok(super::handlers::fitting_reply(&request.ask))
    }));
    let node = node.await;
    let connection = node.connect().await;
    // Many, so that their slices have no end before the test gets to give them up; and more than may be under way.
    for round in 0..10 {
        let mut calls: Vec<_> = (0..16).map(|_| connection.call(insert(pattern(2 << 20)))).collect();
        assert!(join_all(&mut calls).now_or_never().is_none());
        ask(&connection, [Key::new("k")]).answers().await;
        drop(calls);
        soon(connection.call(remove(Scope::Group))).await.unwrap_or_else(|error| panic!("round {round}: {error}"));
        // Nothing that comes behind the removal is an insert.
        let last = std::iter::from_fn(|| told.try_recv().ok()).last();
        assert_eq!(last, Some(std::mem::discriminant(&remove(Scope::Group).ask)), "round {round}");
    }
    soon(connection.call(insert(pattern(2 << 20)))).await.expect("the connection is well");
}

#[tokio::test]
async fn a_question_that_was_given_up_before_it_was_sent_is_not_asked() {
    let mut server = RawServer::start(64 << 10).await;
    let (connection, mut exchange) = stalled(&mut server).await;
    let given_up = ask(&connection, [Key::new("given up")]);
    given_up.give_up();
    assert!(matches!(given_up.errors().await[..], [CallError::GivenUp]));
    let _last = ask(&connection, [Key::new("the last")]);
    let mut keys = Vec::new();
    while keys.last().is_none_or(|key| *key != "the last") {
        let frame = exchange.next().await.expect("the stream goes on");
        keys.extend(frame.gets.into_iter().flat_map(|gets| gets.questions).map(|question| question.key));
    }
    assert!(!keys.iter().any(|key| *key == "given up"), "nobody wants an answer to it");
}

#[tokio::test]
async fn a_load_is_let_go_when_it_is_given_up_though_large_values_wait_to_be_sent() {
    let (tell, mut asked) = mpsc::unbounded_channel();
    let let_go = CancellationToken::new();
    let held = let_go.clone();
    let net = Net::grpc();
    let node = net.serve(answering(move |get| {
        tell.send(get.key.clone()).expect("the test waits for it");
        let guard = (get.key == Key::new("slow")).then(|| held.clone().drop_guard());
        async move {
            if guard.is_some() {
                std::future::pending::<()>().await;
            }
            Ok(value_answer(pattern(1 << 20), None))
        }
        .boxed()
    }));
    let mut client = RawClient::connect(&node.await.own_address(), 8 << 20).await;
    client
        .send(questions((0..200).map(|id| question(id, if id == 0 { b"slow" as &[u8] } else { b"large" })).collect()));
    // There is no credit for the large ones: once so many wait to be sent, no more answers are looked for.
    for _ in 0..65 {
        soon(asked.recv()).await.expect("it is asked");
    }
    client.send(AskFrame { cancelled: vec![0], ..AskFrame::default() });
    soon(let_go.cancelled()).await;
    let mut responses = Vec::new();
    while !responses.contains(&0) {
        let frame = client.next().await.expect("the stream goes on").expect("the stream goes on");
        responses.extend(frame.responses.iter().map(|response| response.id));
    }
    assert!(asked.try_recv().is_err(), "nothing more was looked for");
}

#[tokio::test]
async fn silence_is_noticed_while_values_are_on_the_way() {
    let net = Net::grpc().with_short_limits();
    let node = net.serve(answering_now(|_| Ok(value_answer(pattern(1 << 20), None)))).await;
    let connection = node.connect().await;
    let asked = ask(&connection, numbered(0..200));
    node.silence();
    let outcomes = asked.all().await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Some(Ok(_) | Err(CallError::Unreachable(_))))));
    soon(connection.closed()).await;
    assert_unreachable(
        tokio::time::timeout(Duration::from_secs(20), connection.call(get("k"))).await.expect("at once"),
    );
}
