//! Peers that do not keep to the protocol: a clear refusal, or the end of the stream, and nothing else is hurt.

use bytes::Bytes;

use super::askers::{ask, numbered};
use super::handlers::{answering_now, handling};
use super::messages::{pattern, refused, value_answer};
use super::net::{Net, driven, soon};
use super::raw::{RawClient, RawServer, insert_call, question, questions, remove_call, slices, value_response};
use crate::key::Key;
use crate::message::{Reply, Request};
use crate::transport::{CallError, Handler};
use crate::wire::proto::{self, AnswerFrame, AskFrame};
use std::sync::Arc;
use tonic::Code;

const WINDOW: u32 = 8 << 20;

fn echo() -> Arc<dyn Handler> {
    answering_now(|key| Ok(value_answer(Bytes::copy_from_slice(key), None)))
}

fn is_value(response: &proto::Response, want: &[u8]) -> bool {
    matches!(&response.response, Some(proto::response::Response::Answer(answer))
        if matches!(&answer.outcome, Some(proto::answer::Outcome::Value(value)) if value.value == want))
}

fn is_refused(response: &proto::Response, kind: proto::RefusalKind) -> bool {
    matches!(&response.response, Some(proto::response::Response::Refusal(refusal)) if refusal.kind() == kind)
}

// What a server makes of it.

#[tokio::test]
async fn frames_that_end_the_stream_say_why_and_leave_the_connection_alone() {
    let node = Net::grpc().serve(echo()).await;
    let healthy = RawClient::connect(&node.own_address(), WINDOW).await;
    let slice = |id, len| proto::Slice { id, bytes: pattern(len) };
    let of_slices = |slices| AskFrame { slices, ..AskFrame::default() };
    let of_calls = |calls| AskFrame { calls, ..AskFrame::default() };
    let cases = [
        ("a slice of nothing", vec![of_slices(vec![slice(7, 10)])]),
        ("too long a slice", vec![of_calls(vec![insert_call(7, 10)]), of_slices(vec![slice(7, 11)])]),
        (
            "a slice after the last",
            vec![of_calls(vec![insert_call(7, 10)]), of_slices(vec![slice(7, 10), slice(7, 0)])],
        ),
        ("too many values", vec![of_calls((0..65).map(|id| insert_call(id, 100)).collect())]),
        ("a sender without a name", vec![AskFrame { sender: Some(proto::Sender::default()), ..AskFrame::default() }]),
    ];
    for (case, frames) in cases {
        let client = healthy.again().await;
        for frame in frames {
            client.send(frame);
        }
        let status = client.end().await.expect_err(case);
        assert_eq!(status.code(), Code::InvalidArgument, "{case}: {status:?}");
        assert!(!status.message().is_empty(), "{case} is not explained");
        let mut other = healthy.again().await;
        other.send(questions(vec![question(1, b"k")]));
        assert!(is_value(&other.responses(1).await[0], b"k"), "after {case}");
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_by_itself() {
    let node = Net::grpc().serve(echo()).await;
    let mut client = RawClient::connect(&node.own_address(), WINDOW).await;
    let long_group = proto::Gets { group: "g".repeat(2000), questions: vec![question(1, b"k")], ..Default::default() };
    let mut frame = questions(vec![question(2, &vec![b'k'; Key::MAX_LEN + 1]), question(3, b"fine")]);
    frame.gets.push(long_group);
    frame.calls = vec![proto::Call { id: 4, call: None, sliced: 0 }, remove_call(5)];
    frame.calls.push(proto::Call {
        id: 6,
        call: Some(proto::call::Call::Remove(proto::RemoveRequest::default())),
        sliced: 0,
    });
    frame.cancelled = vec![99, u64::MAX];
    frame.credit = u64::MAX;
    client.send(frame);
    let mut responses = client.responses(6).await;
    responses.sort_by_key(|response| response.id);
    for (at, id) in [(0, 1), (1, 2), (3, 4), (5, 6)] {
        assert!(
            responses[at].id == id && is_refused(&responses[at], proto::RefusalKind::Invalid),
            "{:?}",
            responses[at]
        );
    }
    assert!(is_value(&responses[2], b"fine"));
    assert!(matches!(responses[4].response, Some(proto::response::Response::Remove(_))));
}

#[tokio::test]
async fn an_id_that_is_asked_twice_is_answered_twice() {
    let node = Net::grpc().serve(echo()).await;
    let mut client = RawClient::connect(&node.own_address(), WINDOW).await;
    client.send(questions(vec![question(1, b"one"), question(1, b"other"), question(u64::MAX, b"last")]));
    let mut responses = client.responses(3).await;
    responses.sort_by_key(|response| response.id);
    assert!(responses[..2].iter().all(|response| response.id == 1));
    assert!(is_value(&responses[2], b"last"));
}

#[tokio::test]
async fn an_insert_that_is_too_large_is_refused_once_all_of_it_has_come() {
    let net = Net::grpc().with_max_value_bytes(1);
    let node = net
        .serve(handling(|request: Request| {
            let fits =
                matches!(&request.ask, crate::message::Ask::Insert(insert) if insert.value == Some(pattern(100_000)));
            Box::pin(std::future::ready(Ok(Reply::Insert { stored: fits, ack: None })))
        }))
        .await;
    let mut client = RawClient::connect(&node.own_address(), WINDOW).await;
    // The id may be used again as soon as there is a response: no slice of the first may be taken for the second's.
    let (large, fitting) = (Bytes::from(vec![0; 6 << 20]), pattern(100_000));
    let mut all: Vec<_> = slices(1, &large).collect();
    let end = all.split_off(all.len() - 1);
    client.send(AskFrame { calls: vec![insert_call(1, large.len())], ..Default::default() });
    for slice in all {
        client.send(AskFrame { slices: vec![slice], ..Default::default() });
    }
    client.send(AskFrame { calls: vec![remove_call(2)], ..Default::default() });
    assert_eq!(client.responses(1).await[0].id, 2, "the first has not come to its end");
    client.send(AskFrame { slices: end, ..Default::default() });
    let refused = client.responses(1).await;
    assert!(refused[0].id == 1 && is_refused(&refused[0], proto::RefusalKind::TooLarge), "{refused:?}");
    client.send(AskFrame {
        calls: vec![insert_call(1, fitting.len())],
        slices: slices(1, &fitting).collect(),
        ..Default::default()
    });
    let stored = client.responses(1).await;
    assert!(matches!(
        stored[0].response,
        Some(proto::response::Response::Insert(proto::InsertReply { stored: true, .. }))
    ));
}

#[tokio::test]
async fn garbage_ends_the_stream_and_not_the_connection() {
    let node = Net::grpc().serve(echo()).await;
    let healthy = RawClient::connect(&node.own_address(), WINDOW).await;
    // As a field of kind 7 would be, which there is not: the generated code cannot be made to write it.
    let status = super::raw::send_bytes(&healthy, Bytes::from_static(&[0xff; 20])).await.expect_err("it is garbage");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let mut other = healthy.again().await;
    other.send(questions(vec![question(1, b"k")]));
    assert!(is_value(&other.responses(1).await[0], b"k"));
}

// What a client makes of it.

async fn connected(server: &RawServer) -> Arc<dyn crate::transport::Connection> {
    driven(soon(Net::grpc().transport().connect(Arc::clone(&server.address))).await.expect("it listens"))
}

#[tokio::test]
async fn answers_that_do_not_fit_end_the_connection_and_leave_each_question_with_one_outcome() {
    let slice = |id, len| proto::Slice { id, bytes: pattern(len) };
    let answered = |id| value_response(id, pattern(3), 0);
    let begun = |id, len| value_response(id, Bytes::new(), len);
    let frame = |responses, slices| AnswerFrame { responses, slices, ..AnswerFrame::default() };
    let cases = [
        ("an answer to nothing", 1, frame(vec![answered(0), answered(1 << 40), answered(1)], vec![])),
        ("a slice of nothing", 1, frame(vec![answered(0), answered(1)], vec![slice(5, 10)])),
        ("too long a slice", 2, frame(vec![answered(0), answered(1), begun(2, 100)], vec![slice(2, 101)])),
        ("two answers", 1, frame(vec![answered(0), answered(0), answered(1)], vec![])),
        (
            "a number instead of an answer",
            0,
            frame(vec![proto::Response { id: 1 << 60, response: None, sliced: 0 }], vec![]),
        ),
    ];
    for (case, answers, frame) in cases {
        let mut server = RawServer::start(WINDOW).await;
        let connection = connected(&server).await;
        let mut exchange = server.exchange().await;
        let asked = ask(&connection, numbered(0..5));
        let ids: Vec<u64> = exchange.questions(5).await.into_iter().map(|question| question.id).collect();
        assert_eq!(ids, [0, 1, 2, 3, 4], "as the frames here go by");
        exchange.send(frame);
        soon(connection.closed()).await;
        let outcomes = asked.all().await;
        let count = |is: fn(&Result<crate::message::Answer, CallError>) -> bool| {
            outcomes.iter().flatten().filter(|outcome| is(outcome)).count()
        };
        let (got, lost) = (count(Result::is_ok), count(|outcome| matches!(outcome, Err(CallError::Unreachable(_)))));
        assert_eq!(got + lost, 5, "{case}: {outcomes:?}");
        assert!(got >= answers, "{case}: what was answered in the same frame is answered: {outcomes:?}");
        let why = outcomes.iter().flatten().find_map(|outcome| outcome.as_ref().err());
        assert!(why.is_some_and(|why| why.to_string().contains("protocol")), "{case} is not explained: {why:?}");
    }
}

#[tokio::test]
async fn an_answer_of_an_unknown_kind_is_refused_by_itself() {
    let mut server = RawServer::start(WINDOW).await;
    let connection = connected(&server).await;
    let mut exchange = server.exchange().await;
    let mut asked = ask(&connection, numbered(0..3));
    exchange.questions(3).await;
    let empty = proto::Response { id: 0, response: None, sliced: 0 };
    let removed = proto::response::Response::Remove(proto::RemoveReply::default());
    let of_another = proto::Response { id: 1, response: Some(removed), sliced: 0 };
    let responses = vec![empty, of_another, value_response(2, pattern(5), 0)];
    exchange.send(AnswerFrame { responses, ..AnswerFrame::default() });
    for (at, is_refused) in [(0, true), (1, true), (2, false)] {
        let (number, outcome) = asked.next().await;
        assert_eq!(number, at);
        assert_eq!(matches!(outcome, Some(Err(CallError::Refused(_)))), is_refused, "{at}");
    }
    assert!(futures::FutureExt::now_or_never(connection.closed()).is_none(), "the connection lives on");
}

#[tokio::test]
async fn a_value_that_is_too_large_is_refused_and_its_slices_are_taken_for_no_other() {
    let mut server = RawServer::start(WINDOW).await;
    let net = Net::grpc().with_max_value_bytes(1);
    let connection = driven(soon(net.transport().connect(Arc::clone(&server.address))).await.expect("it listens"));
    let mut exchange = server.exchange().await;
    let asked = ask(&connection, numbered([0]));
    let id = exchange.questions(1).await[0].id;
    let large = Bytes::from(vec![0xee; 6 << 20]);
    let mut rest: Vec<_> = slices(id, &large).collect();
    let first = rest.drain(..3).collect();
    let rest = rest.into_iter().map(|slice| AnswerFrame { slices: vec![slice], ..Default::default() });
    exchange.send(AnswerFrame {
        responses: vec![value_response(id, Bytes::new(), large.len())],
        slices: first,
        ..Default::default()
    });
    // Whenever that question ends, the next one is not confused with it.
    let second = tokio::spawn({
        let connection = Arc::clone(&connection);
        async move { ask(&connection, numbered([1])).answers().await }
    });
    let other = exchange.questions(1).await[0].id;
    let fitting = pattern(200_000);
    if other == id {
        // It was used again: to the peer, the first has not ended, and nothing keeps it from sending both in turn.
        exchange.send(AnswerFrame {
            responses: vec![value_response(other, Bytes::new(), fitting.len())],
            slices: slices(other, &fitting).collect(),
            ..Default::default()
        });
        rest.for_each(|frame| exchange.send(frame));
    } else {
        rest.for_each(|frame| exchange.send(frame));
        exchange.send(AnswerFrame {
            responses: vec![value_response(other, Bytes::new(), fitting.len())],
            slices: slices(other, &fitting).collect(),
            ..Default::default()
        });
    }
    assert!(super::askers::value_of(soon(second).await.expect("no panic").remove(0)) == fitting);
    let error = asked.errors().await.remove(0);
    assert_eq!(refused(Err(error)).kind, crate::message::RefusalKind::TooLarge);
}

#[tokio::test]
async fn what_is_given_up_before_it_was_looked_at_has_its_response_and_is_not_looked_at() {
    let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let net = Net::grpc();
    let node = net.serve(answering_now(move |key| {
        seen.lock().expect("no panic").push(key.clone());
        Ok(value_answer(pattern(100_000), None))
    }));
    let mut client = RawClient::connect(&node.await.own_address(), WINDOW).await;
    // So many large values, and no credit for them, that those who come after are not looked at.
    client.send(questions((0..100).map(|id| question(id, b"large")).collect()));
    client.send(questions((100..110).map(|id| question(id, b"unwanted")).collect()));
    client.send(AskFrame { cancelled: (100..110).collect(), calls: vec![remove_call(200)], ..AskFrame::default() });
    let mut responses: Vec<u64> = Vec::new();
    while !responses.contains(&200) || responses.iter().filter(|id| (100..110).contains(*id)).count() < 10 {
        let frame = client.next().await.expect("the stream goes on").expect("the stream goes on");
        responses.extend(frame.responses.iter().map(|response| response.id));
    }
    assert!(!asked.lock().expect("no panic").contains(&Key::new("unwanted")));
    // An id may be given up, and be used again for another question, in one frame: if the response was on its way.
    client.send(AskFrame { cancelled: vec![100], ..questions(vec![question(100, b"wanted")]) });
    client.send(AskFrame { credit: 1 << 20, ..AskFrame::default() });
    let mut response = None;
    while response.is_none() {
        let frame = client.next().await.expect("the stream goes on").expect("the stream goes on");
        let credit = frame.slices.iter().map(|slice| slice.bytes.len() as u64).sum();
        client.send(AskFrame { credit, ..AskFrame::default() });
        response = frame.responses.into_iter().find(|response| response.id == 100);
    }
    assert_eq!(response.expect("found").sliced, 100_000);
}
