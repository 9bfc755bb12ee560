//! Calls: what crosses, what is refused, and how a call and a connection end.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::FutureExt as _;
use tokio::sync::mpsc;

use super::handlers::{fitting_reply, handling, never_answering, replying};
use super::messages::{
    SIZES, ack, assert_same, assert_unreachable, errors, failed_answer, get, get_many, hello, hello_of, insert,
    is_pattern, odd_requests, pattern, refusals, refused, remove, report, sender, usize_of, value_answer,
};
use super::net::{Net, soon};
use crate::clock::sleep;
use crate::error::{Error, LoadError};
use crate::key::Key;
use crate::message::{Answer, Ask, Hello, News, Outcome, Refusal, RefusalKind, Remove, Reply, Scope};

on_all_transports! {
    every_request_arrives_as_it_was_sent,
    every_reply_comes_back_as_it_was_given,
    every_error_keeps_its_kind,
    the_largest_value_crosses_both_ways,
    many_answers_come_back_in_the_order_of_their_keys,
    a_request_may_carry_very_many_keys,
    a_refusal_keeps_its_kind_and_its_words,
    too_large_a_request_is_refused_and_the_connection_lives_on,
    too_large_a_reply_is_refused_and_the_connection_lives_on,
    a_key_beyond_the_limit_is_refused,
    a_slow_handler_is_waited_for_while_pings_are_answered,
    dropping_a_call_gives_the_request_up,
    a_node_that_goes_away_closes_its_connections,
    a_reset_fails_the_calls_that_wait,
    silence_closes_the_connection_and_fails_the_calls_that_wait,
    nobody_at_the_address_is_unreachable_at_once,
    a_peer_that_never_speaks_is_unreachable_within_the_limit,
}

// What crosses.

async fn every_request_arrives_as_it_was_sent(net: Net) {
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    let node = net.serve(replying(move |request| {
        let reply = fitting_reply(&request.ask);
        arrived.send(request).expect("the test waits for it");
        Ok(reply)
    }));
    let node = node.await;
    let connection = node.connect().await;
    for request in odd_requests() {
        connection.call(request.clone()).await.expect("served");
        assert_same(&arrivals.recv().await.expect("it arrived"), &request);
    }
}

async fn every_reply_comes_back_as_it_was_given(net: Net) {
    let replies = [
        (hello(), Reply::Hello(hello_of(&sender("b"), true))),
        (get("k"), Reply::Get(Answer { outcome: Outcome::NotFound, held: Duration::from_micros(17) })),
        (get("k"), Reply::Get(value_answer(Bytes::new(), Some(Duration::ZERO)))),
        (get("k"), Reply::Get(value_answer(Bytes::from_static(b"\0\xff"), None))),
        (get_many(0), Reply::GetMany(Vec::new())),
        (remove(Scope::Group), Reply::Remove(None)),
        (insert(Bytes::new()), Reply::Insert { stored: true, ack: None }),
        (insert(Bytes::new()), Reply::Insert { stored: false, ack: None }),
    ];
    for (request, reply) in replies {
        let given = reply.clone();
        let node = net.serve(replying(move |_| Ok(given.clone()))).await;
        let got = node.connect().await.call(request).await.expect("served");
        assert_same(&got, &reply);
    }
}

async fn every_error_keeps_its_kind(net: Net) {
    for error in errors() {
        let reply = Reply::Get(failed_answer(error));
        let given = reply.clone();
        let node = net.serve(replying(move |_| Ok(given.clone()))).await;
        let got = node.connect().await.call(get("k")).await.expect("an error of the loader's is an answer");
        assert_same(&got, &reply);
    }
}

async fn the_largest_value_crosses_both_ways(net: Net) {
    let node = net.serve(replying(|request| match request.ask {
        Ask::Get(get) => Ok(Reply::Get(value_answer(pattern(usize_of(&get.key)), None))),
        Ask::Insert(insert) => Ok(Reply::Insert { stored: is_pattern(insert.value.as_ref()), ack: None }),
        other => panic!("not asked for: {other:?}"),
    }));
    let node = node.await;
    let connection = node.connect().await;
    for len in SIZES {
        let reply = connection.call(get(&len.to_string())).await.expect("served");
        let Reply::Get(Answer { outcome: Outcome::Value(copy), .. }) = reply else { panic!("not a value: {reply:?}") };
        assert!(copy.value == pattern(len), "a value of {len} bytes came back changed");
        let reply = connection.call(insert(pattern(len))).await.expect("served");
        assert!(matches!(reply, Reply::Insert { stored: true, .. }), "a value of {len} bytes arrived changed");
    }
}

async fn many_answers_come_back_in_the_order_of_their_keys(net: Net) {
    let answer = |index: usize| match index % 3 {
        0 => value_answer(pattern(10_000 + index), Some(Duration::from_secs(index as u64))),
        1 => Answer { outcome: Outcome::NotFound, held: Duration::from_micros(index as u64) },
        _ => failed_answer(Error::Load(LoadError::new(format!("key {index}")))),
    };
    let node = net.serve(replying(move |request| {
        let Ask::GetMany(get) = request.ask else { panic!("not asked for") };
        Ok(Reply::GetMany(get.keys.iter().map(|key| answer(usize_of(key))).collect()))
    }));
    let reply = node.await.connect().await.call(get_many(1000)).await.expect("served");
    let Reply::GetMany(answers) = reply else { panic!("another kind of reply") };
    assert_eq!(answers.len(), 1000);
    for (index, got) in answers.iter().enumerate() {
        assert_same(got, &answer(index));
    }
}

async fn a_request_may_carry_very_many_keys(net: Net) {
    let net = net.with_max_value_bytes(1); // which must not matter
    let node = net.serve(replying(|request| match request.ask {
        Ask::Remove(Remove { scope: Scope::Keys(keys), .. }) if keys.len() == 1 << 16 => Ok(Reply::Remove(None)),
        _ => Err(Refusal::new(RefusalKind::Invalid, "some are missing")),
    }));
    let keys = (0..1 << 16).map(|index| Key::new(&format!("{index:064}"))).collect();
    let reply = node.await.connect().await.call(remove(Scope::Keys(keys))).await.expect("4 MiB of keys fit");
    assert!(matches!(reply, Reply::Remove(_)));
}

// What is refused.

async fn a_refusal_keeps_its_kind_and_its_words(net: Net) {
    for refusal in refusals() {
        let given = refusal.clone();
        let node = net.serve(replying(move |_| Err(given.clone()))).await;
        for request in [hello(), get("k"), get_many(3), remove(Scope::Group), insert(Bytes::new())] {
            assert_eq!(refused(node.connect().await.call(request).await), refusal);
        }
    }
}

async fn too_large_a_request_is_refused_and_the_connection_lives_on(net: Net) {
    let node = net.serve(replying(|request| Ok(fitting_reply(&request.ask)))).await;
    let connection = node.connect().await;
    let refusal = refused(connection.call(insert(pattern(17 << 20))).await);
    assert_eq!(refusal.kind, RefusalKind::TooLarge);
    assert!(refusal.message.contains("max_value_bytes"), "{refusal} says not what to do");
    connection.call(get("k")).await.expect("the connection lives on");
}

async fn too_large_a_reply_is_refused_and_the_connection_lives_on(net: Net) {
    let net = net.with_max_value_bytes(1);
    let answer = || value_answer(pattern(6 << 20), None);
    let large_report = || report(21_000, 250);
    let told = move || News { reports: vec![large_report(); 2], ..News::default() };
    let node = net.serve(replying(move |request| match request.ask {
        Ask::Get(get) if &*get.key == b"large" => Ok(Reply::Get(answer())),
        Ask::GetMany(_) => Ok(Reply::GetMany(vec![answer()])),
        Ask::Hello(_) => Ok(Reply::Hello(Hello { news: told(), ..hello_of(&sender("b"), false) })),
        Ask::Remove(_) => Ok(Reply::Remove(Some(ack(large_report())))),
        Ask::Insert(_) => Ok(Reply::Insert { stored: true, ack: Some(ack(large_report())) }),
        ask @ Ask::Get(_) => Ok(fitting_reply(&ask)),
    }));
    let node = node.await;
    let connection = node.connect().await;
    for request in [get("large"), get_many(1), hello(), remove(Scope::Group), insert(Bytes::new())] {
        let refusal = refused(connection.call(request).await);
        assert_eq!(refusal.kind, RefusalKind::TooLarge);
        assert!(refusal.message.contains("max_value_bytes"), "{refusal} says not what to do");
        connection.call(get("small")).await.expect("the connection lives on");
    }
}

async fn a_key_beyond_the_limit_is_refused(net: Net) {
    let node = net.serve(replying(|request| Ok(fitting_reply(&request.ask)))).await;
    let connection = node.connect().await;
    let refusal = refused(connection.call(get(&"k".repeat(Key::MAX_LEN + 1))).await);
    assert_eq!(refusal.kind, RefusalKind::Invalid);
    assert_eq!(refusal.message, "the key of 65537 bytes is longer than the limit of 65536 bytes");
    connection.call(get(&"k".repeat(Key::MAX_LEN))).await.expect("the longest key is fine");
}

// How a call and a connection end.

async fn a_slow_handler_is_waited_for_while_pings_are_answered(net: Net) {
    let net = net.with_short_limits();
    let long = net.longer_than_silence();
    let node = net.serve(handling(move |request| {
        async move {
            sleep(long).await;
            Ok(fitting_reply(&request.ask))
        }
        .boxed()
    }));
    node.await.connect().await.call(get("k")).await.expect("slow is not dead");
}

async fn dropping_a_call_gives_the_request_up(net: Net) {
    let (node, mut events) = never_answering(&net).await;
    let connection = node.connect().await;
    let mut call = connection.call(get("k"));
    tokio::select! {
        _ = &mut call => panic!("nobody answers"),
        event = events.recv() => assert_eq!(event, Some("begun")),
    }
    drop(call);
    assert_eq!(soon(events.recv()).await, Some("given up"));
}

async fn a_node_that_goes_away_closes_its_connections(net: Net) {
    let node = net.serve(replying(|request| Ok(fitting_reply(&request.ask)))).await;
    let connection = node.connect().await;
    connection.call(get("k")).await.expect("served");
    node.stop().await;
    soon(connection.closed()).await;
    assert_unreachable(soon(connection.call(get("k"))).await);
}

async fn a_reset_fails_the_calls_that_wait(net: Net) {
    let (node, mut events) = never_answering(&net).await;
    let connection = node.connect().await;
    let call = tokio::spawn(connection.call(get("k")));
    assert_eq!(soon(events.recv()).await, Some("begun"));
    node.reset();
    assert_unreachable(soon(call).await.expect("no panic"));
    soon(connection.closed()).await;
}

async fn silence_closes_the_connection_and_fails_the_calls_that_wait(net: Net) {
    let net = net.with_short_limits();
    let (node, mut events) = never_answering(&net).await;
    let (busy, idle) = (node.connect().await, node.connect().await);
    let call = tokio::spawn(busy.call(get("k")));
    assert_eq!(soon(events.recv()).await, Some("begun"));
    node.silence();
    assert_unreachable(soon(call).await.expect("no panic"));
    soon(busy.closed()).await;
    soon(idle.closed()).await;
}

async fn nobody_at_the_address_is_unreachable_at_once(net: Net) {
    let node = net.serve(replying(|_| Ok(Reply::Remove(None)))).await;
    let (transport, address) = (net.transport(), node.own_address());
    node.stop().await;
    let error = soon(transport.connect(Arc::clone(&address))).await.err().expect("nobody is there");
    assert!(error.to_string().contains(&*address), "{error} says not where");
}

async fn a_peer_that_never_speaks_is_unreachable_within_the_limit(net: Net) {
    let node = net.serve(replying(|_| Ok(Reply::Remove(None)))).await;
    node.silence();
    let error = soon(net.transport().connect(node.address())).await.err().expect("nobody answers");
    assert!(error.to_string().contains("within"), "{error} says not that it took too long");
}
