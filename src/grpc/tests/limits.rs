//! What is bounded, and who waits for whom.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::future::{FutureExt as _, join_all};

use super::askers::{ask, ask_after, numbered, value_of};
use super::handlers::{answering_now, fitting_reply, never_answering, replying};
use super::messages::{
    ack, failed_answer, insert, pattern, refused, remove, report, sender, terms, usize_of, value_answer,
};
use super::net::{Net, driven, soon};
use super::raw::{RawClient, RawServer, question, questions, value_response};
use crate::error::{Error, LoadError};
use crate::key::Key;
use crate::message::{After, Answer, Incarnation, Refusal, RefusalKind, Reply, Scope};
use crate::removals::{Origin, Span};
use crate::transport::{CallError, Connection, Handler};
use crate::wire::proto::{self, AnswerFrame, AskFrame};

/// So little that whoever does not read is soon felt.
const SMALL_WINDOW: u32 = 64 << 10;

/// A handler that answers with values of so many bytes, and counts what it is asked.
fn counting(len: usize) -> (Arc<dyn Handler>, Arc<AtomicUsize>) {
    let (asked, value) = (Arc::new(AtomicUsize::new(0)), pattern(len));
    let count = Arc::clone(&asked);
    let handler = answering_now(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        Ok(value_answer(value.clone(), None))
    });
    (handler, asked)
}

fn is_busy(response: &proto::Response) -> bool {
    matches!(&response.response, Some(proto::response::Response::Answer(answer))
        if matches!(&answer.outcome, Some(proto::answer::Outcome::Failure(failure))
            if failure.kind() == proto::FailureKind::Busy))
}

async fn connected(server: &RawServer) -> Arc<dyn Connection> {
    driven(soon(Net::grpc().transport().connect(Arc::clone(&server.address))).await.expect("it listens"))
}

// Frames.

#[tokio::test]
async fn removals_that_gather_do_not_make_a_frame_that_is_too_large() {
    let node = Net::grpc().serve(replying(|request| Ok(fitting_reply(&request.ask)))).await;
    let connection = node.connect().await;
    // Each is small enough to pass the rest; together they are larger than a message may be.
    let keys = Scope::Keys((0..60).map(|key| Key::new(&format!("{key:01000}"))).collect());
    let removals = (0..400).map(|_| connection.call(remove(keys.clone())));
    for reply in soon(join_all(removals)).await {
        assert!(matches!(reply, Ok(Reply::Remove(_))), "{reply:?}");
    }
    ask(&connection, numbered([1])).answers().await;
}

#[tokio::test]
async fn acknowledgements_with_reports_do_not_make_a_frame_that_is_too_large() {
    let net = Net::grpc().with_max_value_bytes(1);
    let node = net.serve(replying(|_| Ok(Reply::Remove(Some(ack(report(400, 60)))))));
    let connection = node.await.connect().await;
    for reply in soon(join_all((0..300).map(|_| connection.call(remove(Scope::Group))))).await {
        assert!(matches!(reply, Ok(Reply::Remove(Some(_)))), "{reply:?}");
    }
}

#[tokio::test]
async fn questions_that_carry_many_removals_do_not_make_a_frame_that_is_too_large() {
    let net = Net::grpc().with_max_value_bytes(1);
    let node = net.serve(answering_now(|_| Ok(value_answer(pattern(1), None)))).await;
    let origin = Origin::new(format!("{:0200}", 1).as_str().into(), Incarnation(u64::MAX));
    let removed = (1..=100).map(|number| Span::one(origin.clone(), number)).collect();
    let after = After { removed, offered: 0 };
    // Each is about 20 KB, and small enough to pass for a question; a frame's worth of them is too much.
    ask_after(&node.connect().await, &sender("a"), terms(), &after, numbered(0..400)).answers().await;
}

#[tokio::test]
async fn failures_with_many_words_do_not_make_a_frame_that_is_too_large() {
    let words = "x".repeat(4000);
    let failed = move |key: &Key| failed_answer(Error::Load(LoadError::new(format!("{}{words}", usize_of(key)))));
    let node = Net::grpc().serve(answering_now(move |key| Ok(failed(key)))).await;
    let answers = ask(&node.connect().await, numbered(0..9000)).answers().await;
    for (number, answer) in answers.into_iter().enumerate() {
        match answer.outcome {
            crate::message::Outcome::Failed(Error::Load(error)) => {
                assert!(error.message().starts_with(&format!("{number}x")) && error.message().len() > 4000);
            }
            other => panic!("{number}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn refusals_with_many_words_do_not_make_a_frame_that_is_too_large() {
    let refusal = Refusal::new(RefusalKind::UnknownGroup, "x".repeat(1000));
    let given = refusal.clone();
    let node = Net::grpc().serve(answering_now(move |_| Err(given.clone()))).await;
    for error in ask(&node.connect().await, numbered(0..30_000)).errors().await {
        assert_eq!(refused(Err(error)), refusal);
    }
}

// Back-pressure.

/// Asks on a connection of its own until the number does not change any more, and gives it.
async fn settled(node: &super::net::Node, number: &AtomicUsize) -> usize {
    let connection = node.connect().await;
    let mut before = usize::MAX;
    loop {
        let rounds = 50;
        for _ in 0..rounds {
            ask(&connection, numbered([1])).answers().await;
        }
        // These have been counted too.
        let now = number.fetch_sub(rounds, Ordering::SeqCst) - rounds;
        if now == before {
            return now;
        }
        before = now;
    }
}

#[tokio::test]
async fn a_peer_that_does_not_read_is_not_read_from_and_others_do_not_feel_it() {
    const ASKED: usize = 100_000;
    const LEN: usize = 10_000;
    let (handler, asked) = counting(LEN);
    let node = Net::grpc().serve(handler).await;
    let mut client = RawClient::connect(&node.own_address(), SMALL_WINDOW).await;
    for ids in 0..ASKED as u64 / 1000 {
        client.send(questions((0..1000).map(|id| question(ids * 1000 + id, b"1")).collect()));
    }
    let looked_at = settled(&node, &asked).await;
    // What its window holds, the buffers of HTTP/2, and the frames that wait for these.
    assert!(looked_at * LEN < 2 << 20, "{looked_at} answers for a peer that reads none");
    let mut ids: Vec<u64> = client.responses(ASKED).await.into_iter().map(|response| response.id).collect();
    ids.sort_unstable();
    assert!(ids.into_iter().eq(0..ASKED as u64), "each is answered once it reads");
}

#[tokio::test]
async fn refusals_for_a_peer_that_does_not_read_are_bounded_too() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let net = Net::grpc();
    let node = net.serve(answering_now(move |key| {
        count.fetch_add(1, Ordering::SeqCst);
        if key.len() > 1 {
            Err(Refusal::new(RefusalKind::Schema, "x".repeat(1000)))
        } else {
            Ok(value_answer(pattern(1), None))
        }
    }));
    let node = node.await;
    let mut client = RawClient::connect(&node.own_address(), SMALL_WINDOW).await;
    for ids in 0..100 {
        client.send(questions((0..1000).map(|id| question(ids * 1000 + id, b"refused")).collect()));
    }
    let looked_at = settled(&node, &asked).await;
    assert!(looked_at * 1000 < 2 << 20, "{looked_at} refusals for a peer that reads none");
    assert_eq!(client.responses(100_000).await.len(), 100_000);
}

#[tokio::test]
async fn large_values_for_a_peer_that_does_not_read_are_bounded_in_number() {
    let (handler, asked) = counting(1 << 20);
    let node = Net::grpc().serve(handler).await;
    let client = RawClient::connect(&node.own_address(), SMALL_WINDOW).await;
    client.send(questions((0..1000).map(|id| question(id, b"1")).collect()));
    let looked_at = settled(&node, &asked).await;
    assert!(looked_at <= 128, "{looked_at} large values for a peer that reads none");
}

#[tokio::test]
async fn questions_that_wait_behind_large_values_are_bounded_in_bytes() {
    const LARGE: u64 = 200;
    const BEHIND: u64 = 640;
    /// In 16 MiB there is room for 255 keys of 64 KiB.
    const BUSY: usize = 640 - 255;
    let value = |key: &Key| pattern(if key.len() == 1 { 100_000 } else { 1 });
    let node = Net::grpc().serve(answering_now(move |key| Ok(value_answer(value(key), None)))).await;
    let mut client = RawClient::connect(&node.own_address(), 8 << 20).await;
    // There is no credit for these, and they are more than are looked for at a time.
    client.send(questions((0..LARGE).map(|id| question(id, b"l")).collect()));
    let key = vec![b'k'; Key::MAX_LEN];
    for first in (LARGE..LARGE + BEHIND).step_by(64) {
        client.send(questions((first..first + 64).map(|id| question(id, &key)).collect()));
    }
    let (mut answered, mut busy, mut slices) = (0, 0, 0);
    while answered < LARGE + BEHIND {
        let frame = client.next().await.expect("the stream goes on").expect("the stream goes on");
        answered += frame.responses.len() as u64;
        busy += frame.responses.iter().filter(|response| is_busy(response)).count();
        slices += frame.slices.iter().map(|slice| slice.bytes.len() as u64).sum::<u64>();
        // All that there is no room for is known by then.
        if busy >= BUSY {
            client.send(AskFrame { credit: std::mem::take(&mut slices), ..AskFrame::default() });
        }
    }
    assert_eq!(busy, BUSY);
}

#[tokio::test]
async fn a_stream_is_not_kept_for_large_values_that_no_credit_can_come_for() {
    for (count, what) in [(1, "the rest of one"), (200, "more than are looked for at a time")] {
        let node = Net::grpc().serve(answering_now(|key| Ok(value_answer(pattern(usize_of(key)), None)))).await;
        let mut client = RawClient::connect(&node.own_address(), 64 << 20).await;
        client.send(questions((0..count).map(|id| question(id, b"2000000")).collect()));
        client.send(questions(vec![question(count, b"7")]));
        client.half_close();
        let status = client.end().await.expect_err("it cannot be sent to its end");
        assert!(status.message().contains("credit"), "{what}: {status:?}");
    }
}

#[tokio::test]
async fn what_needs_no_credit_is_answered_to_a_peer_that_asks_nothing_more() {
    let node = Net::grpc().serve(answering_now(|key| Ok(value_answer(pattern(usize_of(key)), None)))).await;
    let mut client = RawClient::connect(&node.own_address(), 64 << 20).await;
    client.send(questions((0..1000).map(|id| question(id, if id < 10 { b"100000" } else { b"7" })).collect()));
    client.half_close();
    assert_eq!(client.responses(1000).await.len(), 1000);
    client.end().await.expect("all was sent");
}

#[tokio::test]
async fn beyond_so_many_questions_a_peer_is_busy_at_once_until_it_answers() {
    const MOST: usize = 1 << 16;
    let mut server = RawServer::start(8 << 20).await;
    let connection = connected(&server).await;
    let mut exchange = server.exchange().await;
    let mut asked = ask(&connection, numbered(0..MOST));
    let mut beyond = ask(&connection, numbered(0..3));
    for at in 0..3 {
        assert!(matches!(beyond.now(), Some((told, Some(Err(CallError::Busy)))) if told == at));
    }
    assert!(matches!(connection.call(remove(Scope::Group)).now_or_never(), Some(Err(CallError::Busy))));
    assert!(asked.now().is_none());
    let ids: Vec<u64> = exchange.questions(MOST).await.into_iter().map(|question| question.id).collect();
    let responses = ids[..3].iter().map(|id| value_response(*id, pattern(1), 0)).collect();
    exchange.send(AnswerFrame { responses, ..AnswerFrame::default() });
    for _ in 0..3 {
        assert!(matches!(asked.next().await, (_, Some(Ok(_)))));
    }
    let mut more = ask(&connection, numbered(0..4));
    assert!(matches!(more.now(), Some((3, Some(Err(CallError::Busy))))));
    assert_eq!(exchange.questions(3).await.len(), 3);
}

#[tokio::test]
async fn beyond_so_many_bytes_a_peer_is_busy_at_once_until_it_reads() {
    let mut server = RawServer::start(SMALL_WINDOW).await;
    let connection = connected(&server).await;
    let mut exchange = server.exchange().await;
    let value = pattern(16 << 20);
    let mut calls: Vec<_> = (0..10).map(|_| connection.call(insert(value.clone()))).collect();
    let busy = calls.iter_mut().filter_map(futures::FutureExt::now_or_never).collect::<Vec<_>>();
    assert!(busy.iter().all(|outcome| matches!(outcome, Err(CallError::Busy))), "{busy:?}");
    assert!((4..=6).contains(&busy.len()), "{} of 10 inserts of 16 MiB find no room in 64 MiB", busy.len());
    // Questions find none either, and calls: everything is bounded by the same.
    assert!(matches!(ask(&connection, numbered([1])).errors().await[..], [CallError::Busy]));
    let mut slices = 0;
    while slices < 1 << 20 {
        let frame = exchange.next().await.expect("the stream goes on");
        slices += frame.slices.iter().map(|slice| slice.bytes.len()).sum::<usize>();
    }
    exchange.send(AnswerFrame { credit: slices as u64, ..AnswerFrame::default() });
    while slices < 17 << 20 {
        let frame = exchange.next().await.expect("credit is given");
        let more = frame.slices.iter().map(|slice| slice.bytes.len()).sum::<usize>();
        slices += more;
        exchange.send(AnswerFrame { credit: more as u64, ..AnswerFrame::default() });
    }
    let mut asked = ask(&connection, numbered([1]));
    assert!(asked.now().is_none(), "there is room again");
}

#[tokio::test]
async fn beyond_so_many_questions_a_peer_that_knows_only_unary_calls_is_busy_too() {
    const MOST: usize = 1 << 16;
    let (node, _events) = never_answering(&Net::unary()).await;
    let connection = node.connect().await;
    let asked: Vec<_> = (0..2).map(|_| ask(&connection, numbered(0..MOST / 2))).collect();
    // Keys are counted too, so a few less than that many find room.
    let mut more = ask(&connection, numbered(0..1));
    assert!(matches!(more.now(), Some((0, Some(Err(CallError::Busy))))));
    assert!(matches!(connection.call(remove(Scope::Group)).now_or_never(), Some(Err(CallError::Busy))));
    for asked in asked {
        asked.give_up();
        for error in asked.errors().await {
            assert!(matches!(error, CallError::GivenUp | CallError::Busy), "{error:?}");
        }
    }
    // There is room again, once all of them are gone.
    while connection.call(remove(Scope::Group)).now_or_never().is_some() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn beyond_so_many_bytes_a_peer_that_knows_only_unary_calls_is_busy_too() {
    let (node, _events) = never_answering(&Net::unary()).await;
    let connection = node.connect().await;
    let value = pattern(16 << 20);
    let mut calls: Vec<_> = (0..10).map(|_| connection.call(insert(value.clone()))).collect();
    let busy = calls.iter_mut().filter_map(futures::FutureExt::now_or_never).collect::<Vec<_>>();
    assert!(busy.iter().all(|outcome| matches!(outcome, Err(CallError::Busy))), "{busy:?}");
    assert_eq!(busy.len(), 7, "three inserts of 16 MiB and what is around them find room in 64 MiB");
    drop(calls);
    let mut again = connection.call(insert(value));
    assert!(futures::FutureExt::now_or_never(&mut again).is_none(), "there is room again");
}

// Who waits for whom.

#[tokio::test]
async fn removals_pass_values() {
    let node = Net::grpc().serve(answering_now(|_| Ok(value_answer(pattern(1 << 20), None)))).await;
    let connection = node.connect().await;
    let mut asked = ask(&connection, numbered(0..100));
    asked.next().await;
    soon(connection.call(remove(Scope::Group))).await.expect("acknowledged");
    let through = 1 + std::iter::from_fn(|| asked.now()).count();
    assert!(through < 100, "the removal waited for all the values");
    for _ in through..100 {
        assert!(matches!(asked.next().await, (_, Some(Ok(_)))));
    }
}

#[tokio::test]
async fn small_answers_pass_large_ones() {
    let node = Net::grpc().serve(answering_now(|key| Ok(value_answer(pattern(usize_of(key)), None)))).await;
    let connection = node.connect().await;
    let mut large = ask(&connection, numbered([16 << 20; 10]));
    for round in 0..20 {
        ask(&connection, numbered(0..100)).answers().await;
        assert!(large.now().is_none(), "a large one was through in round {round}, before the small ones");
    }
    for _ in 0..10 {
        let (_, answer) = large.next().await;
        assert_eq!(value_of(answer.expect("told").expect("answered")).len(), 16 << 20);
    }
}

#[tokio::test]
async fn more_large_values_than_are_sent_at_a_time_come_in_their_turn() {
    let node = Net::grpc().serve(answering_now(|key| Ok(value_answer(pattern(usize_of(key)), None)))).await;
    let connection = node.connect().await;
    let sizes: Vec<usize> = (0..300).map(|at| 65_000 + at * 331).collect();
    let (large, small) = (ask(&connection, numbered(sizes.clone())), ask(&connection, numbered(0..100)));
    for (answer, len) in large.answers().await.into_iter().zip(sizes) {
        assert!(value_of(answer) == pattern(len), "{len}");
    }
    small.answers().await;
}

#[tokio::test]
async fn two_peers_that_are_full_of_each_others_large_values_do_not_block_each_other() {
    let net = Net::grpc();
    let handler =
        || answering_now(|key: &Key| -> Result<Answer, Refusal> { Ok(value_answer(pattern(usize_of(key)), None)) });
    let (one, other) = (net.serve(handler()).await, net.serve(handler()).await);
    let (there, back) = (one.connect().await, other.connect().await);
    let sizes = || numbered((0..40).map(|at| (1 << 20) + at));
    let asks = [&there, &back, &there, &back].map(|connection| ask(connection, sizes()));
    let inserts =
        [&there, &back].into_iter().flat_map(|connection| (0..3).map(|_| connection.call(insert(pattern(4 << 20)))));
    let inserts = tokio::spawn(join_all(inserts.collect::<Vec<_>>()));
    for asked in asks {
        for (at, answer) in asked.answers().await.into_iter().enumerate() {
            assert_eq!(value_of(answer).len(), (1 << 20) + at);
        }
    }
    for reply in soon(inserts).await.expect("no panic") {
        assert!(matches!(reply, Ok(Reply::Insert { stored: true, .. })), "{reply:?}");
    }
}

#[tokio::test]
async fn what_is_given_up_keeps_its_id_until_the_peer_has_responded() {
    let mut server = RawServer::start(8 << 20).await;
    let connection = connected(&server).await;
    let mut exchange = server.exchange().await;
    let asked = ask(&connection, numbered([1]));
    let id = exchange.questions(1).await[0].id;
    asked.give_up();
    assert!(matches!(asked.errors().await[..], [CallError::GivenUp]));
    assert_eq!(exchange.next().await.expect("the stream goes on").cancelled, [id]);
    let next = ask(&connection, numbered([2]));
    let other = exchange.questions(1).await[0].id;
    assert_ne!(other, id, "the peer may still answer to it");
    let late = vec![value_response(id, Bytes::from_static(b"late"), 0), value_response(other, pattern(2), 0)];
    exchange.send(AnswerFrame { responses: late, ..AnswerFrame::default() });
    assert_eq!(value_of(next.answers().await.remove(0)), pattern(2));
    let _third = ask(&connection, numbered([3, 4]));
    let mut ids: Vec<u64> = exchange.questions(2).await.into_iter().map(|question| question.id).collect();
    ids.sort_unstable();
    assert_eq!(ids, [id.min(other), id.max(other)], "both may be used again");
}
