//! What is written by hand reads the same by the generated code, and the other way round; and bytes that nobody meant.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;

use super::asks::Question;
use super::*;
use crate::batch::{Part, Slice};
use crate::error::{Error, LoadError};
use crate::key::Key;
use crate::member::NodeName;
use crate::message::{
    After, Answer, Copy, GetTerms, Incarnation, Outcome, Refusal, RefusalKind, Reply, Sender, Versions,
};
use crate::wire::news::spans_in;
use crate::wire::parts::micros;
use crate::wire::proto;
use crate::wire::request::terms_in;
use crate::wire::strategies::{acks, afters, tags};

fn sender() -> Arc<Sender> {
    let versions = Versions { min: 1, max: 3 };
    Arc::new(Sender {
        cluster: Arc::from("c"),
        name: NodeName::from("n"),
        incarnation: Incarnation(u64::MAX),
        versions,
    })
}

fn bytes() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from)
}

fn wholes() -> impl Strategy<Value = Duration> {
    prop_oneof![any::<u64>().prop_map(crate::wire::parts::duration), (0..1000_u64).prop_map(Duration::from_micros)]
}

fn asks() -> impl Strategy<Value = Part<AskItem>> {
    let groups = prop_oneof![Just("g"), Just("other"), Just("")];
    let terms = (groups, 0..2_u32, any::<bool>(), wholes(), prop::option::of(wholes()));
    let get = (any::<u64>(), terms, bytes(), afters()).prop_map(
        |(id, (group, schema, nested, time_limit, max_age), key, after)| {
            let terms = GetTerms { group: Arc::from(group), schema, time_limit, nested, max_age };
            AskItem::Get { id, terms, key: Key::new(&key), after }
        },
    );
    let call = any::<u64>().prop_map(|id| {
        let call = proto::call::Call::Remove(proto::RemoveRequest { group: "g".into(), ..Default::default() });
        AskItem::Call(Box::new(proto::Call { id, call: Some(call), sliced: id / 2 }))
    });
    prop_oneof![
        6 => get.prop_map(Part::Message),
        1 => call.prop_map(Part::Message),
        1 => Just(Part::Message(AskItem::Sender(sender()))),
        1 => any::<u64>().prop_map(|id| Part::Message(AskItem::Cancel(id))),
        1 => (1..1_u64 << 40).prop_map(|bytes| Part::Message(AskItem::Credit(bytes))),
        1 => any::<u64>().prop_map(|count| Part::Message(AskItem::UnderWay(count))),
        1 => (any::<u64>(), bytes()).prop_map(|(id, bytes)| Part::Slice(Slice { id, bytes })),
    ]
}

fn answers() -> impl Strategy<Value = Part<AnswerItem>> {
    let limits = (wholes(), prop::option::of(wholes()), prop::option::of(wholes()), wholes());
    let value = (bytes(), limits, any::<bool>(), tags());
    let value = value.prop_map(|(value, (age, left, until_refresh, grace), loaded, tags)| {
        Outcome::Value(Copy { value, age, left, until_refresh, grace, loaded, tags })
    });
    let outcome = prop_oneof![
        4 => value,
        1 => Just(Outcome::NotFound),
        1 => Just(Outcome::Failed(Error::Load(LoadError::new("no").with_code(3)))),
    ];
    let answer = (outcome, wholes()).prop_map(|(outcome, held)| Ok(Reply::Get(Answer { outcome, held })));
    let reply = prop_oneof![
        6 => answer,
        1 => acks().prop_map(|ack| Ok(Reply::Remove(ack))),
        1 => (any::<bool>(), acks()).prop_map(|(stored, ack)| Ok(Reply::Insert { stored, ack })),
        1 => Just(Err(Refusal::new(RefusalKind::Schema, "another"))),
    ];
    let response = (any::<u64>(), reply, any::<u32>()).prop_map(|(id, reply, sliced)| {
        let is_value = matches!(reply, Ok(Reply::Get(Answer { outcome: Outcome::Value(_), .. })));
        Response { id, reply, sliced: if is_value { sliced.into() } else { 0 } }
    });
    prop_oneof![
        6 => response.prop_map(|response| Part::Message(AnswerItem::Response(response))),
        1 => (1..1_u64 << 40).prop_map(|bytes| Part::Message(AnswerItem::Credit(bytes))),
        1 => (any::<u64>(), bytes()).prop_map(|(id, bytes)| Part::Slice(Slice { id, bytes })),
    ]
}

fn written(frame: &[Part<AskItem>]) -> Bytes {
    let mut written = Vec::new();
    encode_asks(frame, &mut written);
    assert!(written.len() <= encoded_asks_len(frame), "{} bytes, said to be fewer", written.len());
    written.into()
}

type Asked = (u64, Bytes, u64, Option<u64>, GetTerms, After);

fn questions(gets: &[Gets]) -> Vec<Asked> {
    let of = |gets: &Gets| {
        let terms = gets.terms.clone().unwrap();
        let question = move |Question { id, key, time_limit, max_age, after }: &Question| {
            (*id, key.clone(), micros(*time_limit), max_age.map(micros), terms.clone(), after.clone())
        };
        gets.questions.iter().map(question).collect::<Vec<_>>()
    };
    gets.iter().flat_map(of).collect()
}

proptest! {
    #[test]
    fn what_is_asked_reads_the_same_by_hand_and_by_the_generated_code(frame in prop::collection::vec(asks(), 0..30)) {
        let bytes = written(&frame);
        let by_hand = decode_asks(&bytes).unwrap();
        let generated = proto::AskFrame::decode(bytes).unwrap();
        // What the generated code writes is read as well.
        let again = decode_asks(&generated.encode_to_vec().into()).unwrap();
        for read in [&by_hand, &again] {
            prop_assert_eq!(&read.cancelled, &generated.cancelled);
            prop_assert_eq!(read.under_way, generated.under_way);
            prop_assert_eq!(read.sender.is_some(), generated.sender.is_some());
            prop_assert_eq!(&read.calls, &generated.calls);
            let slices = generated.slices.iter().map(|slice| Slice { id: slice.id, bytes: slice.bytes.clone() });
            prop_assert_eq!(&read.slices, &slices.collect::<Vec<_>>());
            let theirs = generated.gets.iter().flat_map(|gets| {
                let group: Arc<str> = Arc::from(gets.group.as_str());
                let terms = terms_in(group, gets.schema, 0, gets.nested);
                let question = move |asked: &proto::Question| {
                    let after = After { removed: spans_in(&asked.removed).unwrap(), offered: asked.offered };
                    (asked.id, asked.key.clone(), asked.time_limit_us, asked.max_age_us, terms.clone(), after)
                };
                gets.questions.iter().map(question).collect::<Vec<_>>()
            });
            prop_assert_eq!(questions(&read.gets), theirs.collect::<Vec<_>>());
        }
        // And everything that was put in is there, in its order.
        let asked = frame.iter().filter_map(|part| match part {
            Part::Message(AskItem::Get { id, terms, key, after }) => {
                let (limit, age) = (micros(terms.time_limit), terms.max_age.map(micros));
                let terms = GetTerms { time_limit: Duration::ZERO, max_age: None, ..terms.clone() };
                Some((*id, Bytes::copy_from_slice(key), limit, age, terms, after.clone()))
            }
            _ => None,
        });
        prop_assert_eq!(questions(&by_hand.gets), asked.collect::<Vec<_>>());
    }

    #[test]
    fn what_is_answered_reads_the_same_by_hand_and_by_the_generated_code(
        frame in prop::collection::vec(answers(), 0..30),
    ) {
        let mut written = Vec::new();
        encode_answers(&frame, &mut written);
        let said = encoded_answers_len(&frame) + 64 * frame.len();
        prop_assert!(written.len() <= said, "{} bytes, said to be about {said}", written.len());
        let bytes = Bytes::from(written);
        let by_hand = decode_answers(&bytes).unwrap();
        let generated = proto::AnswerFrame::decode(bytes).unwrap();
        let again = decode_answers(&generated.encode_to_vec().into()).unwrap();
        prop_assert_eq!(format!("{:?}", by_hand.responses), format!("{:?}", again.responses));
        prop_assert_eq!(&by_hand.slices, &again.slices);
        let put_in = frame.iter().filter_map(|part| match part {
            Part::Message(AnswerItem::Response(response)) => Some(response.clone()),
            _ => None,
        });
        prop_assert_eq!(format!("{:?}", by_hand.responses), format!("{:?}", put_in.collect::<Vec<_>>()));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let bytes = Bytes::from(bytes);
        let _ = decode_asks(&bytes);
        let _ = decode_answers(&bytes);
    }

    #[test]
    fn a_frame_that_ends_early_or_has_a_changed_byte_is_read_or_refused(
        frame in prop::collection::vec(asks(), 1..10), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let whole = written(&frame);
        if !whole.is_empty() {
            let at = at.index(whole.len());
            let _ = decode_asks(&whole.slice(..at));
            let mut changed = whole.to_vec();
            changed[at] = byte;
            let _ = decode_asks(&changed.into());
        }
    }
}

#[test]
fn what_a_newer_peer_adds_is_passed_over() {
    // Field 15, in each of the ways that a field can be written, around a question.
    let added: &[u8] =
        &[15 << 3, 1, 15 << 3 | 1, 0, 0, 0, 0, 0, 0, 0, 0, 15 << 3 | 2, 2, 7, 7, 15 << 3 | 5, 0, 0, 0, 0];
    let (terms, key, after) = (terms_in(Arc::from("g"), 1, 0, false), Key::new("k"), After::default());
    let question = written(&[Part::Message(AskItem::Get { id: 1, terms, key, after })]);
    let read = decode_asks(&[added, &question, added].concat().into()).unwrap();
    assert_eq!(read.gets[0].questions[0].key, "k");
}

#[test]
fn of_answers_that_are_said_more_than_once_the_last_counts() {
    let answer = |outcome| {
        let response = Response { id: 7, reply: Ok(Reply::Get(Answer { outcome, held: Duration::ZERO })), sliced: 0 };
        let mut written = Vec::new();
        encode_answers(&[Part::Message(AnswerItem::Response(response))], &mut written);
        proto::AnswerFrame::decode(written.as_slice()).unwrap().responses[0].encode_to_vec()
    };
    let value = |value: &'static str, age| {
        let (value, tags) = (Bytes::from(value), Vec::new());
        let (left, until_refresh, grace) = (None, None, Duration::ZERO);
        Outcome::Value(Copy { value, age, left, until_refresh, grace, loaded: false, tags })
    };
    let (old, new) = (value("old", Duration::from_secs(9)), value("new", Duration::ZERO));
    for (first, last) in [(old.clone(), new.clone()), (old, Outcome::NotFound), (Outcome::NotFound, new)] {
        // Field 2, with the bytes of both one after the other.
        let both = [answer(first), answer(last.clone())].concat();
        let frame = [&[2 << 3 | 2, u8::try_from(both.len()).unwrap()], both.as_slice()].concat();
        let read = decode_answers(&frame.into()).unwrap();
        let Ok(Reply::Get(read)) = &read.responses[0].reply else { panic!("{:?}", read.responses[0]) };
        assert_eq!(format!("{:?}", read.outcome), format!("{last:?}"));
    }
}

#[test]
fn a_section_of_a_name_that_is_too_long_is_refused_by_itself() {
    let long =
        proto::Gets { group: "g".repeat(2000), questions: vec![proto::Question::default()], ..Default::default() };
    let fine = proto::Gets { group: "g".into(), questions: vec![proto::Question::default()], ..Default::default() };
    let frame = proto::AskFrame { gets: vec![long, fine], ..Default::default() };
    let read = decode_asks(&frame.encode_to_vec().into()).unwrap();
    assert!(read.gets[0].terms.is_err() && read.gets[1].terms.is_ok());
}

#[test]
fn questions_with_more_removals_than_are_read_are_refused_by_themselves() {
    let of = |removals| {
        let question = proto::Question { removed: vec![removal(); removals], ..Default::default() };
        proto::Gets { group: "g".into(), questions: vec![question], ..Default::default() }
    };
    let frame = proto::AskFrame { gets: vec![of((1 << 14) + 1), of(1 << 14)], ..Default::default() };
    let read = decode_asks(&frame.encode_to_vec().into()).unwrap();
    assert!(read.gets[0].terms.is_err() && read.gets[1].terms.is_ok());
}

fn removal() -> proto::Span {
    proto::Span { origin: Some(proto::Origin { name: "n".into(), incarnation: 1 }), first: 1, last: 0 }
}

#[test]
fn rare_messages_that_would_become_many_times_as_large_are_refused_together() {
    let links = vec![proto::Link::default(); 1 << 20];
    let report = proto::Report { links, ..Default::default() };
    let ack =
        proto::response::Response::Remove(proto::RemoveReply { report: Some(report.clone()), ..Default::default() });
    let response = proto::Response { response: Some(ack), ..Default::default() };
    let answers = proto::AnswerFrame { responses: vec![response], ..Default::default() };
    assert!(decode_answers(&answers.encode_to_vec().into()).unwrap_err().message.contains("many times"));
    // Each by itself would do.
    let hello = proto::Hello { members: vec![proto::Member::default(); 300_000], ..Default::default() };
    let call = proto::Call { call: Some(proto::call::Call::Hello(hello)), ..Default::default() };
    let asks = |count| proto::AskFrame { calls: vec![call.clone(); count], ..Default::default() };
    assert!(decode_asks(&asks(1).encode_to_vec().into()).is_ok());
    assert!(decode_asks(&asks(3).encode_to_vec().into()).unwrap_err().message.contains("many times"));
}

#[test]
fn a_frame_of_very_many_parts_is_refused_before_it_becomes_large() {
    let too_many = crate::wire::MAX_COUNT + 1;
    let calls = proto::AskFrame { calls: vec![proto::Call::default(); too_many], ..Default::default() };
    let questions = vec![proto::Question::default(); too_many / 2 + 1];
    let gets = proto::Gets { questions, ..Default::default() };
    let gets = proto::AskFrame { gets: vec![gets; 2], ..Default::default() };
    let carrying = proto::Question { removed: vec![removal(); too_many / 8], ..Default::default() };
    let carrying = proto::Gets { questions: vec![carrying; 8], ..Default::default() };
    let carrying = proto::AskFrame { gets: vec![carrying], ..Default::default() };
    for frame in [calls, gets, carrying] {
        assert!(decode_asks(&frame.encode_to_vec().into()).unwrap_err().message.contains("parts"));
    }
    let slices = proto::AnswerFrame { slices: vec![proto::Slice::default(); too_many], ..Default::default() };
    assert!(decode_answers(&slices.encode_to_vec().into()).unwrap_err().message.contains("parts"));
}
