//! Questions: each is answered by itself.

use std::sync::Arc;
use std::time::Duration;

use futures::future::FutureExt as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::askers::{ask, ask_on, numbered, value_of};
use super::handlers::{answering, answering_now, never_answering};
use super::messages::{
    SIZES, assert_same, errors, failed_answer, pattern, refusals, sender, terms, usize_of, value_answer,
};
use super::net::{Net, soon};
use crate::error::{Error, LoadError};
use crate::key::Key;
use crate::message::{After, Answer, Get, GetTerms, Outcome, Refusal, RefusalKind};
use crate::transport::CallError;

on_all_transports! {
    each_of_many_questions_is_answered,
    an_error_in_an_answer_keeps_its_kind,
    values_of_all_sizes_come_back_whole,
    a_refusal_keeps_its_kind_and_its_words_for_each_question,
    questions_of_two_asks_do_not_mix,
    the_terms_of_a_question_arrive,
    a_question_that_nobody_waits_for_is_given_up,
    a_reset_leaves_each_question_unreachable_once,
    a_closed_connection_is_unreachable_at_once,
    a_node_that_goes_away_leaves_no_question_open,
    nobody_waits_for_an_ask_of_no_questions,
}

fn odd_answer(number: usize) -> Answer {
    match number % 3 {
        0 => value_answer(pattern(number), Some(Duration::from_secs(number as u64))),
        1 => Answer { outcome: Outcome::NotFound, held: Duration::from_micros(number as u64) },
        _ => failed_answer(Error::Load(
            LoadError::new(format!("key {number}")).with_code(u32::try_from(number).unwrap()),
        )),
    }
}

async fn each_of_many_questions_is_answered(net: Net) {
    let node = net.serve(answering_now(|key| Ok(odd_answer(usize_of(key))))).await;
    let answers = ask(&node.connect().await, numbered(0..3000)).answers().await;
    for (number, answer) in answers.iter().enumerate() {
        assert_same(answer, &odd_answer(number));
    }
}

async fn an_error_in_an_answer_keeps_its_kind(net: Net) {
    let node = net.serve(answering_now(|key| Ok(failed_answer(errors()[usize_of(key)].clone())))).await;
    let answers = ask(&node.connect().await, numbered(0..errors().len())).answers().await;
    for (answer, error) in answers.iter().zip(errors()) {
        assert_same(answer, &failed_answer(error));
    }
}

async fn values_of_all_sizes_come_back_whole(net: Net) {
    let node = net.serve(answering_now(|key| Ok(value_answer(pattern(usize_of(key)), None)))).await;
    let connection = node.connect().await;
    // Twice: what the first leaves behind must not show in the second.
    for _ in 0..2 {
        let answers = ask(&connection, numbered(SIZES)).answers().await;
        for (answer, len) in answers.into_iter().zip(SIZES) {
            assert!(value_of(answer) == pattern(len), "a value of {len} bytes came back changed");
        }
    }
}

async fn a_refusal_keeps_its_kind_and_its_words_for_each_question(net: Net) {
    for refusal in refusals() {
        let given = refusal.clone();
        let node = net.serve(answering_now(move |_| Err(given.clone()))).await;
        for error in ask(&node.connect().await, numbered(0..3)).errors().await {
            assert!(matches!(&error, CallError::Refused(got) if *got == refusal), "{error:?} is not {refusal:?}");
        }
    }
}

async fn questions_of_two_asks_do_not_mix(net: Net) {
    let node = net.serve(answering_now(|key| Ok(odd_answer(usize_of(key))))).await;
    let connection = node.connect().await;
    let asks: Vec<_> = (0..20).map(|ask_of| (ask_of, ask(&connection, numbered(ask_of..ask_of + 50)))).collect();
    for (first, outcomes) in asks {
        for (number, answer) in (first..).zip(outcomes.answers().await) {
            assert_same(&answer, &odd_answer(number));
        }
    }
}

async fn the_terms_of_a_question_arrive(net: Net) {
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    let node = net.serve(answering(move |get| {
        arrived.send(get).expect("the test waits for it");
        std::future::ready(Ok(odd_answer(1))).boxed()
    }));
    let node = node.await;
    let connection = node.connect().await;
    let boundless = GetTerms {
        group: Arc::from(""),
        schema: u32::MAX,
        time_limit: Duration::MAX,
        nested: false,
        max_age: Some(Duration::ZERO),
    };
    for terms in [terms(), boundless, GetTerms { group: Arc::from("ü"), ..terms() }] {
        for key in [Key::new(""), Key::new(&[0xff, 0, 0xfe]), Key::new(&vec![b'x'; Key::MAX_LEN])] {
            ask_on(&connection, &sender("a"), terms.clone(), [key.clone()]).answers().await;
            assert_eq!(soon(arrivals.recv()).await, Some(Get { terms: terms.clone(), key, after: After::default() }));
        }
    }
}

async fn a_question_that_nobody_waits_for_is_given_up(net: Net) {
    let (node, mut events) = never_answering(&net).await;
    let connection = node.connect().await;
    let mut wanted = ask(&connection, numbered([1]));
    assert_eq!(soon(events.recv()).await, Some("begun"));
    let unwanted = ask(&connection, numbered([2]));
    assert_eq!(soon(events.recv()).await, Some("begun"));
    unwanted.give_up();
    assert!(matches!(unwanted.errors().await[..], [CallError::GivenUp]));
    assert_eq!(soon(events.recv()).await, Some("given up"));
    assert!(events.try_recv().is_err() && wanted.now().is_none(), "the other one is still waited for");
}

async fn a_reset_leaves_each_question_unreachable_once(net: Net) {
    let (node, mut events) = never_answering(&net).await;
    let connection = node.connect().await;
    let asked = ask(&connection, numbered(0..100));
    assert_eq!(soon(events.recv()).await, Some("begun"));
    node.reset();
    assert!(asked.errors().await.iter().all(|error| matches!(error, CallError::Unreachable(_))));
    soon(connection.closed()).await;
}

async fn a_closed_connection_is_unreachable_at_once(net: Net) {
    let node = net.serve(answering_now(|_| Ok(odd_answer(1)))).await;
    let connection = node.connect().await;
    node.stop().await;
    soon(connection.closed()).await;
    // The driver may not have come round to it: the outcome may take a moment, but it comes.
    let errors = ask(&connection, numbered(0..3)).errors().await;
    assert!(errors.iter().all(|error| matches!(error, CallError::Unreachable(why) if !why.0.is_empty())), "{errors:?}");
}

async fn a_node_that_goes_away_leaves_no_question_open(net: Net) {
    let (begun, mut begins) = mpsc::unbounded_channel();
    let released = CancellationToken::new();
    let until = released.clone();
    let node = net.serve(answering(move |get| {
        let (begun, until) = (begun.clone(), until.clone());
        async move {
            begun.send(()).expect("the test waits for it");
            until.cancelled().await;
            Ok(odd_answer(usize_of(&get.key)))
        }
        .boxed()
    }));
    let node = node.await;
    let connection = node.connect().await;
    let asked = ask(&connection, numbered(0..9));
    soon(begins.recv()).await;
    let stopped = tokio::spawn(node.stop());
    released.cancel();
    soon(stopped).await.expect("no panic");
    // Over gRPC what has begun is answered; in memory the connection is cut. What counts is that all are told.
    assert!(asked.all().await.iter().all(Option::is_some));
}

async fn nobody_waits_for_an_ask_of_no_questions(net: Net) {
    let node = net.serve(answering_now(|_| Ok(odd_answer(1)))).await;
    assert!(ask(&node.connect().await, []).answers().await.is_empty());
}

// What only an exchange has: requests in the other ways are answered as a whole.

#[tokio::test]
async fn a_slow_key_does_not_hold_up_the_quick_ones_of_its_ask() {
    let released = CancellationToken::new();
    let until = released.clone();
    let net = Net::grpc();
    let node = net.serve(answering(move |get| {
        let until = until.clone();
        async move {
            let number = usize_of(&get.key);
            if number.is_multiple_of(10) {
                until.cancelled().await;
            }
            Ok(odd_answer(number))
        }
        .boxed()
    }));
    let node = node.await;
    let connection = node.connect().await;
    let mut asked = ask(&connection, numbered(0..100));
    for _ in 0..90 {
        let (number, answer) = asked.next().await;
        assert!(number % 10 != 0, "{number} is slow");
        assert_same(&answer.expect("told").expect("answered"), &odd_answer(number));
    }
    assert!(asked.now().is_none());
    ask(&connection, numbered([1])).answers().await;
    released.cancel();
    for _ in 0..10 {
        let (number, answer) = asked.next().await;
        assert_same(&answer.expect("told").expect("answered"), &odd_answer(number));
    }
}

#[tokio::test]
async fn one_question_is_refused_and_the_others_of_its_ask_are_not() {
    let net = Net::grpc();
    let node = net.serve(answering_now(|key| match usize_of(key) {
        number @ (3 | 7) => Err(Refusal::new(RefusalKind::Schema, format!("not {number}"))),
        number => Ok(odd_answer(number)),
    }));
    let outcomes = ask(&node.await.connect().await, numbered(0..10)).all().await;
    for (number, outcome) in outcomes.into_iter().enumerate() {
        match outcome.expect("told") {
            Ok(answer) => assert_same(&answer, &odd_answer(number)),
            Err(CallError::Refused(refusal)) => {
                assert_eq!(refusal, Refusal::new(RefusalKind::Schema, format!("not {number}")));
                assert!([3, 7].contains(&number));
            }
            Err(error) => panic!("{number}: {error:?}"),
        }
    }
}

#[tokio::test]
async fn a_key_beyond_the_limit_and_a_value_beyond_it_are_refused_by_themselves() {
    let net = Net::grpc();
    let node = net.serve(answering_now(|key| match key.len() {
        1 => Ok(value_answer(pattern(17 << 20), None)),
        _ => Ok(odd_answer(1)),
    }));
    let node = node.await;
    let connection = node.connect().await;
    let keys = ["fine", "1", &"k".repeat(Key::MAX_LEN + 1), "fine too"].map(Key::new);
    let outcomes = ask(&connection, keys).all().await;
    let kinds: Vec<_> = outcomes
        .into_iter()
        .map(|outcome| match outcome.expect("told") {
            Ok(_) => None,
            Err(CallError::Refused(refusal)) => Some(refusal.kind),
            Err(error) => panic!("{error:?}"),
        })
        .collect();
    assert_eq!(kinds, [None, Some(RefusalKind::TooLarge), Some(RefusalKind::Invalid), None]);
    ask(&connection, numbered([1])).errors().await;
    ask(&connection, [Key::new("the connection lives on")]).answers().await;
}

#[tokio::test]
async fn questions_of_different_groups_and_limits_may_share_a_frame() {
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    let net = Net::grpc();
    let node = net.serve(answering(move |get| {
        arrived.send(get).expect("the test waits for it");
        std::future::ready(Ok(odd_answer(1))).boxed()
    }));
    let node = node.await;
    let connection = node.connect().await;
    let of = |number: u32| {
        let group = Arc::from(if number.is_multiple_of(2) { "even" } else { "odd" });
        let time_limit = Duration::from_micros(u64::from(number) << 33);
        let max_age = number.is_multiple_of(7).then_some(Duration::from_millis(number.into()));
        GetTerms { group, schema: number / 3, time_limit, nested: number.is_multiple_of(5), max_age }
    };
    // Asked without a pause in between: they gather.
    let asks: Vec<_> =
        (0..100).map(|number| ask_on(&connection, &sender("a"), of(number), numbered([number as usize]))).collect();
    for asked in asks {
        asked.answers().await;
    }
    let mut got: Vec<Get> = std::iter::from_fn(|| arrivals.try_recv().ok()).collect();
    got.sort_by_key(|get| usize_of(&get.key));
    let want =
        (0..100).map(|number| Get { terms: of(number), key: Key::new(&number.to_string()), after: After::default() });
    assert_eq!(got, want.collect::<Vec<_>>());
}
