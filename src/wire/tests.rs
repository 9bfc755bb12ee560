//! Both ways and back, what is refused and in which words, and bytes that nobody meant to send.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;

use super::answer::{error_in, failure};
use super::parts::{cut, duration};
use super::proto::remove_request::Scope as WireScope;
use super::refusal::MAX_REFUSAL_LEN;
use super::strategies::{afters, keys, names, news, scopes, tags};
use super::*;
use crate::error::{CodecError, Error, LoadError};
use crate::message::{
    Answer, Ask, Copy, Get, GetMany, GetTerms, Hello, Incarnation, Insert, Outcome, RemovalId, Remove, Request, Sender,
    Versions,
};

fn values() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

/// What the wire can tell apart: whole microseconds, and for ever.
fn durations() -> impl Strategy<Value = Duration> {
    prop_oneof![any::<u64>().prop_map(duration), Just(Duration::ZERO), Just(Duration::MAX)]
}

fn senders() -> impl Strategy<Value = Arc<Sender>> {
    ("\\PC{0,60}", names(), any::<u64>(), any::<(u32, u32)>()).prop_map(|(cluster, name, incarnation, (a, b))| {
        let versions = Versions { min: a.min(b), max: a.max(b) };
        Arc::new(Sender { cluster: Arc::from(cluster), name, incarnation: Incarnation(incarnation), versions })
    })
}

fn hellos() -> impl Strategy<Value = Hello> {
    let members = prop::collection::vec((names(), any::<u32>()), 0..4);
    let said = (senders(), any::<u64>(), members, any::<bool>(), news());
    said.prop_map(|(sender, fingerprint, members, draining, news)| Hello {
        sender,
        fingerprint,
        members,
        draining,
        news,
    })
}

fn terms() -> impl Strategy<Value = GetTerms> {
    ("\\PC{0,60}", any::<u32>(), durations(), any::<bool>(), prop::option::of(durations())).prop_map(
        |(group, schema, time_limit, nested, max_age)| GetTerms {
            group: Arc::from(group),
            schema,
            time_limit,
            nested,
            max_age,
        },
    )
}

fn removal_ids() -> impl Strategy<Value = RemovalId> {
    (names(), any::<u64>(), 1..u64::MAX).prop_map(|(origin, incarnation, number)| RemovalId {
        origin,
        incarnation: Incarnation(incarnation),
        number,
    })
}

fn asks() -> impl Strategy<Value = Ask> {
    let many = || prop::collection::vec(keys(), 0..4);
    prop_oneof![
        (terms(), keys(), afters()).prop_map(|(terms, key, after)| Ask::Get(Get { terms, key, after })),
        (terms(), many()).prop_map(|(terms, keys)| Ask::GetMany(GetMany { terms, keys })),
        (removal_ids(), terms(), scopes(), any::<u64>()).prop_map(|(id, GetTerms { group, .. }, scope, version)| {
            Ask::Remove(Remove { id, group, scope, version })
        }),
        (
            (removal_ids(), terms()),
            keys(),
            (prop::option::of(values()), tags()),
            [prop::option::of(durations()), prop::option::of(durations())],
            any::<u64>(),
        )
            .prop_map(
                |((id, GetTerms { group, schema, .. }), key, (value, tags), [time_to_live, refresh_after], version)| {
                    Ask::Insert(Insert { id, group, schema, key, value, time_to_live, refresh_after, tags, version })
                }
            ),
    ]
}

/// A hello's sender is the request's; all other requests may come without.
fn requests() -> impl Strategy<Value = Request> {
    prop_oneof![
        hellos().prop_map(|hello| Request { sender: Some(Arc::clone(&hello.sender)), ask: Ask::Hello(hello) }),
        (prop::option::of(senders()), asks()).prop_map(|(sender, ask)| Request { sender, ask }),
    ]
}

fn errors() -> impl Strategy<Value = Error> {
    prop_oneof![
        ("\\PC{0,60}", any::<u32>()).prop_map(|(words, code)| Error::Load(LoadError::new(words).with_code(code))),
        durations().prop_map(|limit| Error::LoadTimeout { limit }),
        durations().prop_map(|limit| Error::Timeout { limit }),
        any::<(usize, usize)>().prop_map(|(len, limit)| Error::ValueTooLarge { len, limit }),
        any::<(usize, usize)>().prop_map(|(len, limit)| Error::KeyTooLong { len, limit }),
        "\\PC{0,60}".prop_map(|words| Error::Codec(CodecError::new(words))),
        prop::sample::select(vec![Error::Busy, Error::Closed, Error::Recursive, Error::NoRuntime]),
    ]
}

fn answers() -> impl Strategy<Value = Answer> {
    let limits = (durations(), prop::option::of(durations()), prop::option::of(durations()), durations());
    let copies = (values(), limits, any::<bool>(), tags());
    let copies = copies.prop_map(|(value, (age, left, until_refresh, grace), loaded, tags)| Copy {
        value,
        age,
        left,
        until_refresh,
        grace,
        loaded,
        tags,
    });
    let outcomes =
        prop_oneof![copies.prop_map(Outcome::Value), Just(Outcome::NotFound), errors().prop_map(Outcome::Failed)];
    (outcomes, durations()).prop_map(|(outcome, held)| Answer { outcome, held })
}

/// Encodes a message and decodes it again, as bytes on a wire.
fn recoded<M: Message + Default>(message: &M) -> M {
    M::decode(Bytes::from(message.encode_to_vec())).expect("our own bytes decode")
}

fn received(message: &WireRequest) -> Result<Request, Refusal> {
    match message {
        WireRequest::Hello(message) => recoded(message).try_into(),
        WireRequest::Get(message) => recoded(message).try_into(),
        WireRequest::GetMany(message) => recoded(message).try_into(),
        WireRequest::Remove(message) => recoded(message).try_into(),
        WireRequest::Insert(message) => recoded(message).try_into(),
    }
}

/// Reads bytes as a message of every kind, as far as they are one.
fn read_as_everything(bytes: &Bytes) {
    fn read<M: Message + Default, T: TryFrom<M>>(bytes: &Bytes) -> Option<T> {
        M::decode(bytes.clone()).ok().and_then(|message| message.try_into().ok())
    }
    let _: Option<Request> = read::<proto::Hello, _>(bytes);
    let _: Option<Request> = read::<proto::GetRequest, _>(bytes);
    let _: Option<Request> = read::<proto::GetManyRequest, _>(bytes);
    let _: Option<Request> = read::<proto::RemoveRequest, _>(bytes);
    let _: Option<Request> = read::<proto::InsertRequest, _>(bytes);
    let _: Option<Answer> = read::<proto::Answer, _>(bytes);
    let _ = refusal_in(bytes);
    if let Ok(chunk) = proto::GetManyReply::decode(bytes.clone()) {
        let _ = Gathering::of(3).add(chunk);
    }
}

proptest! {
    #[test]
    fn a_request_means_the_same_on_the_other_side(request in requests()) {
        let got = received(&WireRequest::from(request.clone())).expect("our own requests are fine");
        prop_assert_eq!(format!("{got:?}"), format!("{request:?}"));
    }

    #[test]
    fn an_answer_means_the_same_on_the_other_side(answer in answers()) {
        let message = recoded(&proto::Answer::from(answer.clone()));
        let got = Answer::try_from(message).expect("our own answers are fine");
        prop_assert_eq!(format!("{got:?}"), format!("{answer:?}"));
    }

    #[test]
    fn arbitrary_bytes_are_no_reason_to_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        read_as_everything(&bytes.into());
    }

    #[test]
    fn nor_are_bytes_that_are_almost_right(
        request in requests(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut bytes = match WireRequest::from(request) {
            WireRequest::Hello(message) => message.encode_to_vec(),
            WireRequest::Get(message) => message.encode_to_vec(),
            WireRequest::GetMany(message) => message.encode_to_vec(),
            WireRequest::Remove(message) => message.encode_to_vec(),
            WireRequest::Insert(message) => message.encode_to_vec(),
        };
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        read_as_everything(&bytes.into());
    }

    #[test]
    fn a_cut_text_is_the_longest_that_fits(text in "\\PC{0,40}", max in 0usize..60) {
        let cut = cut(&text, max);
        prop_assert!(text.starts_with(cut) && cut.len() <= max);
        let next = text[cut.len()..].chars().next().map_or(0, char::len_utf8);
        prop_assert!(next == 0 || cut.len() + next > max, "{cut:?} could be longer");
    }
}

fn sender_message() -> proto::Sender {
    proto::Sender { cluster: "c".into(), name: "a".into(), incarnation: 1, min_version: 1, max_version: 1 }
}

fn get_message() -> proto::GetRequest {
    proto::GetRequest { sender: Some(sender_message()), ..Default::default() }
}

fn remove_message() -> proto::RemoveRequest {
    let id = proto::RemovalId { origin: "a".into(), incarnation: 1, number: 1 };
    proto::RemoveRequest {
        id: Some(id),
        scope: Some(WireScope::WholeGroup(proto::WholeGroup {})),
        ..Default::default()
    }
}

fn why_invalid(result: Result<Request, Refusal>) -> String {
    let refusal = result.expect_err("it should be refused");
    assert_eq!(refusal.kind, RefusalKind::Invalid);
    refusal.message
}

#[test]
fn what_makes_no_sense_is_refused_in_words() {
    let sender = |sender| get_message_with(Some(sender));
    let long = "x".repeat(2000);
    for (request, part_of_the_words) in [
        (sender(proto::Sender { name: String::new(), ..sender_message() }), "name is missing"),
        (sender(proto::Sender { name: long.clone(), ..sender_message() }), "name of a node of 2000 bytes"),
        (sender(proto::Sender { cluster: long.clone(), ..sender_message() }), "name of the cluster of 2000 bytes"),
        (sender(proto::Sender { min_version: 2, ..sender_message() }), "lowest version is above its highest"),
        (proto::GetRequest { group: long, ..get_message() }.try_into(), "name of the group of 2000 bytes"),
        (proto::GetRequest { key: vec![0; 65_537].into(), ..get_message() }.try_into(), "key of 65537 bytes"),
        (many_keys(MAX_COUNT + 1).try_into(), "65537 keys are more than the 65536"),
        (proto::Hello::default().try_into(), "not who sends it"),
        (proto::RemoveRequest { id: None, ..remove_message() }.try_into(), "no identity"),
        (proto::RemoveRequest { id: Some(unnumbered()), ..remove_message() }.try_into(), "no number"),
        (proto::RemoveRequest { scope: None, ..remove_message() }.try_into(), "not what to remove"),
    ] {
        let words = why_invalid(request);
        assert!(words.contains(part_of_the_words), "{words:?} does not say {part_of_the_words:?}");
    }
}

fn get_message_with(sender: Option<proto::Sender>) -> Result<Request, Refusal> {
    proto::GetRequest { sender, ..get_message() }.try_into()
}

fn many_keys(count: usize) -> proto::GetManyRequest {
    proto::GetManyRequest { keys: vec![Bytes::new(); count], ..Default::default() }
}

fn unnumbered() -> proto::RemovalId {
    proto::RemovalId { origin: "a".into(), incarnation: 1, number: 0 }
}

#[test]
fn the_most_keys_fit_however_small_the_limit_on_values() {
    let key = Bytes::from(vec![0; KEYS_BYTES / MAX_COUNT]);
    let message = proto::GetManyRequest { keys: vec![key; MAX_COUNT], ..Default::default() };
    assert!(message.encoded_len() <= message_limit(0));
}

#[test]
fn a_failure_of_a_newer_kind_is_a_failed_load() {
    let failure = proto::Failure { kind: 999, message: "moon in the way".into(), code: 3, ..Default::default() };
    let Error::Load(load) = error_in(&failure) else { panic!("another kind of error") };
    assert_eq!((load.message(), load.code()), ("moon in the way", 3));
}

#[test]
fn a_refusal_of_a_newer_kind_is_none_of_ours() {
    let newer = proto::Refusal { kind: 999, message: "?".into() };
    assert_eq!(refusal_in(&newer.encode_to_vec()), None);
    assert_eq!(refusal_in(b""), None);
}

#[test]
fn long_messages_are_cut_between_characters() {
    let long = "ü".repeat(LoadError::MAX_MESSAGE_LEN);
    let told = failure(&Error::Load(LoadError::new(format!("x{long}"))));
    assert_eq!(told.message.len(), LoadError::MAX_MESSAGE_LEN - 1, "the last character did not fit");
    let refusal = Refusal::new(RefusalKind::Invalid, long);
    assert_eq!(proto::Refusal::from(&refusal).message.len(), MAX_REFUSAL_LEN);
}

fn copy_of(value: Bytes) -> Copy {
    let (age, left, until_refresh, grace) = (Duration::ZERO, None, None, Duration::ZERO);
    Copy { value, age, left, until_refresh, grace, loaded: false, tags: Vec::new() }
}

fn answer_of(len: usize) -> Answer {
    let value = Bytes::from(vec![0; len]);
    Answer { outcome: Outcome::Value(copy_of(value)), held: Duration::ZERO }
}

#[test]
fn no_chunk_is_larger_than_it_must_be() {
    let lens = [CHUNK_BYTES * 3, 1, CHUNK_BYTES / 2, CHUNK_BYTES / 2 - 100, CHUNK_BYTES / 2, 0];
    let chunks: Vec<_> = chunks(lens.map(answer_of).into()).map(|chunk| chunk.answers.len()).collect();
    assert_eq!(chunks, [1, 3, 2]);
}

#[test]
fn answers_are_put_together_whatever_the_order() {
    let mut all: Vec<_> = chunks((0..5).map(answer_of).collect()).flat_map(|chunk| chunk.answers).collect();
    all.reverse();
    let mut gathering = Gathering::of(5);
    for answer in all {
        gathering.add(proto::GetManyReply { answers: vec![answer] }).expect("it was asked for");
    }
    let got = gathering.finish().expect("none is missing");
    assert_eq!(format!("{got:?}"), format!("{:?}", (0..5).map(answer_of).collect::<Vec<_>>()));
}

#[test]
fn every_key_is_answered_exactly_once() {
    let answer = |index| proto::IndexedAnswer { index, answer: Some(answer_of(0).into()) };
    let gather = |answers| {
        let mut gathering = Gathering::of(2);
        gathering.add(proto::GetManyReply { answers })?;
        gathering.finish()
    };
    for (answers, words) in [
        (vec![answer(0)], "key 1 was not answered"),
        (vec![answer(0), answer(0)], "key 0 was answered twice"),
        (vec![answer(2)], "there is an answer for key 2, which was not asked for"),
        (vec![proto::IndexedAnswer { index: 1, answer: None }], "the answer for key 1 is empty"),
    ] {
        let refusal = gather(answers).expect_err(words);
        assert_eq!((refusal.kind, refusal.message.as_str()), (RefusalKind::Invalid, words));
    }
}

#[test]
fn a_value_is_not_copied() {
    let value = Bytes::from(vec![1; 1000]);
    let message = proto::Value::from(copy_of(value.clone()));
    assert_eq!(message.value.as_ptr(), value.as_ptr());
    assert_eq!(Copy::from(message).value.as_ptr(), value.as_ptr());
}
