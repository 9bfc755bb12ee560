//! How large messages become once the generated code has read them.
//!
//! An empty part of a list has two bytes in a message, and takes a hundred in memory, or several hundred while the list
//! grows. So a message with lists in it is walked before it is read, and refused if it would become a good deal larger
//! than its bytes are. What must hold: whatever a node of ours sends is read, and nothing is allocated for what is not.
//!
//! It knows which fields are lists, and not what they say.

use std::ops::Range;

use bytes::Bytes;
use prost::Message;

use super::frames::fields::{Fields, bytes};
use super::parts::invalid;
use super::{MAX_COUNT, proto};
use crate::message::Refusal;

/// What is read may take so many times the bytes that it is read from. Names of one letter come to five times, and
/// numbers, which are not looked at, to no more than this.
const TIMES: usize = 8;

/// And so much in any case: the longest list of small parts that a node of ours sends is one of that many answers.
const AT_LEAST: usize = MAX_COUNT * size_of::<proto::IndexedAnswer>();

/// What may still be made of the bytes of a message, or of a frame of many.
pub(crate) struct Room(usize);

impl Room {
    pub(crate) fn for_bytes(len: usize) -> Self {
        Self(AT_LEAST.saturating_add(len.saturating_mul(TIMES)))
    }

    fn take(&mut self, size: usize) -> Result<(), Refusal> {
        let left = self.0.checked_sub(size);
        self.0 = left.ok_or_else(|| invalid("the message would be many times as large as it is, once it is read"))?;
        Ok(())
    }
}

/// A list in a message, or a message in it that has lists.
pub(crate) struct Part {
    field: u8,
    /// What one takes in memory; nothing if it is no list.
    size: usize,
    shape: Shape,
}

/// Those of a message.
type Shape = &'static [Part];

/// A list of `T`.
const fn each<T>(field: u8, shape: Shape) -> Part {
    Part { field, size: size_of::<T>(), shape }
}

/// A single message.
const fn one(field: u8, shape: Shape) -> Part {
    Part { field, size: 0, shape }
}

/// A message that can be read.
pub(crate) trait Shaped: Message + Default {
    const SHAPE: Shape = &[];
}

const KEYS: Shape = &[each::<Bytes>(1, &[])];
const GROUPS: Shape = &[each::<String>(1, &[])];
const ONE: Shape = &[one(2, KEYS)];
const RECORD: Shape = &[one(2, ONE), one(3, GROUPS)];
const REPORT: Shape = &[each::<proto::Link>(3, &[]), each::<proto::Mark>(4, &[])];

impl Shaped for proto::Hello {
    const SHAPE: Shape = &[
        each::<proto::Member>(3, &[]),
        each::<proto::Report>(5, REPORT),
        each::<proto::Record>(6, RECORD),
        each::<proto::Mark>(7, &[]),
    ];
}

impl Shaped for proto::GetRequest {
    const SHAPE: Shape = &[each::<proto::Span>(7, &[])];
}

impl Shaped for proto::GetManyRequest {
    const SHAPE: Shape = &[each::<Bytes>(6, &[])];
}

impl Shaped for proto::GetManyReply {
    const SHAPE: Shape = &[each::<proto::IndexedAnswer>(1, &[])];
}

impl Shaped for proto::RemoveRequest {
    const SHAPE: Shape = &[one(4, KEYS)];
}

impl Shaped for proto::RemoveReply {
    const SHAPE: Shape = &[one(3, REPORT)];
}

impl Shaped for proto::InsertReply {
    const SHAPE: Shape = &[one(4, REPORT)];
}

impl Shaped for proto::Call {
    const SHAPE: Shape = &[one(2, proto::Hello::SHAPE), one(3, proto::RemoveRequest::SHAPE)];
}

// Without lists, or with such as take no more than their bytes.
impl Shaped for proto::Sender {}
impl Shaped for proto::Span {}
impl Shaped for proto::Answer {}
impl Shaped for proto::Refusal {}
impl Shaped for proto::InsertRequest {}

/// Reads a message, if there is room for what it becomes.
pub(crate) fn read<M: Shaped>(message: Bytes, room: &mut Room) -> Result<M, Refusal> {
    walk(&message, 0..message.len(), M::SHAPE, room)?;
    M::decode(message).map_err(|error| invalid(format!("the message does not decode: {error}")))
}

fn walk(message: &[u8], range: Range<usize>, shape: Shape, room: &mut Room) -> Result<(), Refusal> {
    // Without lists there is nothing to be walked; and it may be no message, but a name or a key.
    if shape.is_empty() {
        return Ok(());
    }
    let mut fields = Fields::new(message, range);
    while let Some(tag) = fields.tag()? {
        match shape.iter().find(|part| tag == bytes(part.field)) {
            Some(part) => {
                room.take(part.size)?;
                walk(message, fields.bytes()?, part.shape, room)?;
            }
            // It is judged by who reads it.
            None => fields.skip(tag, 0)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(hello: proto::Hello) -> proto::Call {
        proto::Call { id: 1, call: Some(proto::call::Call::Hello(hello)), sliced: 0 }
    }

    fn remove(scope: proto::remove_request::Scope) -> proto::RemoveRequest {
        proto::RemoveRequest { scope: Some(scope), ..Default::default() }
    }

    /// Whether it is read if it may take so much in any case, and how many times its bytes that takes at a time.
    fn read_back<M: Shaped>(message: &M, at_least: usize) -> (Result<(), Refusal>, u64) {
        let bytes = Bytes::from(message.encode_to_vec());
        let (len, mut room) = (bytes.len(), Room(at_least + TIMES * bytes.len()));
        let mut read_back = Ok(());
        let allocated = allocation_counter::measure(|| read_back = read::<M>(bytes, &mut room).map(drop));
        (read_back, allocated.bytes_max / len as u64)
    }

    #[test]
    fn nothing_is_allocated_for_what_would_become_many_times_as_large() {
        const MANY: usize = 10_000;
        let (report, mark) = (proto::Report::default(), proto::Mark::default());
        let of_report = |report| hello(proto::Hello { reports: vec![report], ..Default::default() });
        let record = |what| {
            hello(proto::Hello { records: vec![proto::Record { span: None, what: Some(what) }], ..Default::default() })
        };
        let keys = proto::Keys { keys: vec![Bytes::new(); MANY] };
        let one = proto::One { group: String::new(), scope: Some(proto::one::Scope::Keys(keys.clone())) };
        let calls = [
            ("members", hello(proto::Hello { members: vec![proto::Member::default(); MANY], ..Default::default() })),
            ("reports", hello(proto::Hello { reports: vec![report.clone(); MANY], ..Default::default() })),
            ("records", hello(proto::Hello { records: vec![proto::Record::default(); MANY], ..Default::default() })),
            ("marks", hello(proto::Hello { behind: vec![mark.clone(); MANY], ..Default::default() })),
            ("links", of_report(proto::Report { links: vec![proto::Link::default(); MANY], ..report.clone() })),
            ("lines", of_report(proto::Report { seen: vec![mark; MANY], ..report })),
            ("keys of a record", record(proto::record::What::One(one))),
            ("groups", record(proto::record::What::Groups(proto::Groups { names: vec![String::new(); MANY] }))),
        ];
        for (what, call) in calls {
            let (read, times) = read_back(&call, 0);
            let refusal = read.expect_err(what);
            assert!(refusal.message.contains("many times") && times == 0, "{what}: {times} times, {refusal}");
        }
        let (read, times) = read_back(&remove(proto::remove_request::Scope::Keys(keys)), 0);
        assert!(read.is_err() && times == 0, "keys: {times} times");
        let removed = vec![proto::Span::default(); MANY];
        assert!(read_back(&proto::GetRequest { removed, ..Default::default() }, 0).0.is_err());
        let answers = vec![proto::IndexedAnswer::default(); MANY];
        assert!(read_back(&proto::GetManyReply { answers }, 0).0.is_err());
    }

    #[test]
    fn what_nodes_send_is_read_however_short_their_names_are() {
        let origin = |number: usize| proto::Origin { name: number.to_string(), incarnation: u64::MAX };
        let mark = |number| proto::Mark { origin: Some(origin(number)), number: 1, above: (3..300).collect() };
        let link = |number: usize| proto::Link {
            name: number.to_string(),
            incarnation: Some(u64::MAX),
            listed: true,
            open: true,
        };
        let report = proto::Report {
            of: Some(origin(1)),
            version: 1,
            links: (0..400).map(link).collect(),
            seen: (0..400).map(mark).collect(),
            dead: vec![1; 100],
        };
        let member = |number: usize| proto::Member { name: number.to_string(), weight: 1 };
        let said = proto::Hello {
            members: (0..10_000).map(member).collect(),
            reports: vec![report; 40],
            ..Default::default()
        };
        assert_eq!(read_back(&hello(said), AT_LEAST).0, Ok(()));
        let keys = proto::Keys { keys: vec![Bytes::new(); MAX_COUNT] };
        assert_eq!(read_back(&remove(proto::remove_request::Scope::Keys(keys)), AT_LEAST).0, Ok(()));
        let answers = vec![proto::IndexedAnswer::default(); MAX_COUNT];
        assert_eq!(read_back(&proto::GetManyReply { answers }, AT_LEAST).0, Ok(()));
    }
}
