//! Messages for tests, and what is said of them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::batch::SLICE_BYTES;
use crate::error::{CodecError, Error, LoadError};
use crate::key::Key;
use crate::member::NodeName;
use crate::message::{
    Ack, After, Answer, Ask, Copy, Get, GetMany, GetTerms, Hello, Incarnation, Insert, News, Outcome, Refusal,
    RefusalKind, RemovalId, Remove, Reply, Request, Scope, Sender, Versions,
};
use crate::removals::{Link, Origin, Report, Seen};
use crate::tags::TagHash;
use crate::transport::CallError;

pub(super) fn sender(name: &str) -> Arc<Sender> {
    Arc::new(Sender {
        cluster: Arc::from("test"),
        name: name.into(),
        incarnation: Incarnation(u64::MAX),
        versions: Versions::SPOKEN,
    })
}

pub(super) fn from_a(ask: Ask) -> Request {
    Request { sender: Some(sender("a")), ask }
}

pub(super) fn hello_of(sender: &Arc<Sender>, draining: bool) -> Hello {
    let members = vec![("a".into(), 1), ("b".into(), 1 << 16), ("ü".into(), u32::MAX)];
    Hello { sender: Arc::clone(sender), fingerprint: u64::MAX - 1, members, draining, news: News::default() }
}

pub(super) fn hello() -> Request {
    from_a(Ask::Hello(hello_of(&sender("a"), false)))
}

pub(super) fn terms() -> GetTerms {
    GetTerms {
        group: Arc::from("users"),
        schema: 3,
        time_limit: Duration::from_millis(1234),
        nested: true,
        max_age: None,
    }
}

pub(super) fn get(key: &str) -> Request {
    from_a(Ask::Get(Get { terms: terms(), key: Key::new(key), after: After::default() }))
}

/// What a node says of itself in a cluster of so many, each with a name of so many bytes.
pub(super) fn report(nodes: usize, name_len: usize) -> Report {
    let name = |number: usize| NodeName::from(format!("{number:0name_len$}").as_str());
    let link = |number| Link { name: name(number), incarnation: Some(Incarnation(1)), is_listed: true, is_open: true };
    Report {
        of: Origin::new(name(0), Incarnation(1)),
        version: 1,
        links: (0..nodes).map(link).collect(),
        seen: Seen::default(),
        dead: Vec::new(),
    }
}

pub(super) fn ack(report: Report) -> Ack {
    Ack { by: report.of.clone(), version: report.version, report: Some(report) }
}

/// Keys that are numbers, from 0.
pub(super) fn get_many(count: usize) -> Request {
    let keys = (0..count).map(|index| Key::new(&index.to_string())).collect();
    from_a(Ask::GetMany(GetMany { terms: terms(), keys }))
}

pub(super) fn removal_id() -> RemovalId {
    RemovalId { origin: "a".into(), incarnation: Incarnation(0), number: u64::MAX - 1 }
}

pub(super) fn remove(scope: Scope) -> Request {
    from_a(Ask::Remove(Remove { id: removal_id(), group: Arc::from("users"), scope, version: 0 }))
}

pub(super) fn insert(value: Bytes) -> Request {
    let time_to_live = value.len().is_multiple_of(2).then_some(Duration::from_secs(60));
    let insert = Insert {
        id: removal_id(),
        group: Arc::from("users"),
        schema: 0,
        key: Key::new("k"),
        value: Some(value),
        time_to_live,
        refresh_after: time_to_live.map(|life| life / 2),
        tags: vec![TagHash(7)],
        version: 0,
    };
    from_a(Ask::Insert(insert))
}

pub(super) fn odd_requests() -> Vec<Request> {
    let keys = || [Key::new(""), Key::new(&[0xff, 0xfe, 0]), Key::new(&vec![b'x'; Key::MAX_LEN])];
    let mut requests = vec![hello(), get_many(0), remove(Scope::Group), remove(Scope::Tag(Key::new("team:7")))];
    requests.extend(keys().map(|key| from_a(Ask::Get(Get { terms: terms(), key, after: After::default() }))));
    requests.push(from_a(Ask::GetMany(GetMany { terms: terms(), keys: keys().into() })));
    requests.push(remove(Scope::Keys(Vec::new())));
    requests.push(remove(Scope::Keys(keys().into())));
    requests.extend([Bytes::new(), Bytes::from_static(b"\xff")].map(insert));
    requests.push(Request { sender: None, ..get("k") });
    let boundless = GetTerms {
        group: Arc::from(""),
        schema: u32::MAX,
        time_limit: Duration::MAX,
        nested: false,
        max_age: Some(Duration::ZERO),
    };
    let get = Get { terms: boundless, key: Key::new("k"), after: After::default() };
    requests.push(Request { sender: None, ask: Ask::Get(get) });
    requests
}

pub(super) fn refusals() -> Vec<Refusal> {
    use RefusalKind::{Draining, Invalid, Schema, TooLarge, UnknownGroup, Version, WrongCluster};

    let kinds = [Invalid, WrongCluster, Version, UnknownGroup, Schema, TooLarge, Draining];
    kinds.map(|kind| Refusal::new(kind, format!("because it is {kind:?}: 100 %, ü\n"))).into()
}

pub(super) fn value_answer(value: Bytes, left: Option<Duration>) -> Answer {
    let copy = Copy {
        value,
        age: Duration::from_micros(5),
        left,
        until_refresh: left.map(|left| left / 2),
        grace: Duration::from_secs(1),
        loaded: left.is_none(),
        tags: (0..8).map(TagHash).collect(),
    };
    Answer { outcome: Outcome::Value(copy), held: Duration::from_millis(3) }
}

pub(super) fn failed_answer(error: Error) -> Answer {
    Answer { outcome: Outcome::Failed(error), held: Duration::ZERO }
}

/// A value that shows where a piece of it went missing.
pub(super) fn pattern(len: usize) -> Bytes {
    let block: Vec<u8> = (0..=250).collect();
    let mut pattern = block.repeat(len / block.len() + 1);
    pattern.truncate(len);
    pattern.into()
}

pub(super) fn is_pattern(value: Option<&Bytes>) -> bool {
    value.is_some_and(|value| *value == pattern(value.len()))
}

pub(super) fn usize_of(key: &Key) -> usize {
    key.as_str().and_then(|text| text.parse().ok()).expect("the key is a number")
}

/// Errors have no equality, so messages have none; what they print is all that they say.
pub(super) fn assert_same(got: &impl std::fmt::Debug, want: &impl std::fmt::Debug) {
    assert_eq!(format!("{got:?}"), format!("{want:?}"));
}

pub(super) fn assert_unreachable(result: Result<Reply, CallError>) {
    match result {
        Err(CallError::Unreachable(why)) => assert!(!why.to_string().is_empty(), "it should say why"),
        other => panic!("expected the peer to be unreachable: {other:?}"),
    }
}

pub(super) fn refused(result: Result<Reply, CallError>) -> Refusal {
    match result {
        Err(CallError::Refused(refusal)) => refusal,
        other => panic!("expected a refusal: {other:?}"),
    }
}

pub(super) fn errors() -> [Error; 10] {
    [
        Error::Load(LoadError::new("no such table: ü").with_code(7)),
        Error::LoadTimeout { limit: Duration::from_millis(1500) },
        Error::Timeout { limit: Duration::MAX },
        Error::Busy,
        Error::Closed,
        Error::Recursive,
        Error::KeyTooLong { len: 70_000, limit: Key::MAX_LEN },
        Error::ValueTooLarge { len: usize::MAX, limit: 16 << 20 },
        Error::Codec(CodecError::new("a cycle")),
        Error::NoRuntime,
    ]
}

/// Around where values begin to travel in slices, and up to the largest.
pub(super) const SIZES: [usize; 8] =
    [0, 1, SLICE_BYTES - 1, SLICE_BYTES, SLICE_BYTES + 1, 2 * SLICE_BYTES, 1 << 20, 16 << 20];
