//! What one side of an exchange asks.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use prost::Message;

use crate::batch::{Part, Slice};
use crate::key::Key;
use crate::message::{After, Ask, GetTerms, Refusal, Sender};

use super::super::news::{check_spans, span_in, span_out};
use super::super::parts::{duration, group_in, invalid, micros};
use super::super::proto;
use super::super::request::{WireRequest, terms_in};
use super::super::sender::sender_in;
use super::common::{Parts, message_in, put_message, put_slice, slice_in, slice_len};
use super::fields::{Broken, Fields, Head, bytes, nested_len, number, number_len, some_number_len};

/// What can be put into a frame.
#[derive(Clone, Debug)]
pub(crate) enum AskItem {
    Sender(Arc<Sender>),
    Cancel(u64),
    Credit(u64),
    UnderWay(u64),
    Call(Box<proto::Call>),
    Get { id: u64, terms: GetTerms, key: Key, after: After },
}

impl AskItem {
    /// A call: any request that asks for no key. An insert's value that is to come in slices is taken out of it.
    pub(crate) fn call(id: u64, request: WireRequest, slice_from: usize) -> Option<(Self, Option<Bytes>)> {
        use proto::call::Call;

        let (call, value) = match request {
            WireRequest::Hello(hello) => (Call::Hello(hello), None),
            WireRequest::Remove(remove) => (Call::Remove(proto::RemoveRequest { sender: None, ..remove }), None),
            WireRequest::Insert(mut insert) => {
                insert.sender = None;
                let value = (insert.value.len() > slice_from).then(|| std::mem::take(&mut insert.value));
                (Call::Insert(insert), value)
            }
            WireRequest::Get(_) | WireRequest::GetMany(_) => return None,
        };
        let sliced = value.as_ref().map_or(0, |value| value.len() as u64);
        Some((Self::Call(Box::new(proto::Call { id, call: Some(call), sliced })), value))
    }
}

impl AskItem {
    /// The id of a question.
    pub(crate) fn question_id(&self) -> Option<u64> {
        match self {
            Self::Get { id, .. } => Some(*id),
            _ => None,
        }
    }

    /// The id of a call.
    pub(crate) fn call_id(&self) -> Option<u64> {
        match self {
            Self::Call(call) => Some(call.id),
            _ => None,
        }
    }
}

/// A frame as it is read.
#[derive(Debug, Default)]
pub(crate) struct AskFrame {
    pub(crate) sender: Option<Arc<Sender>>,
    pub(crate) cancelled: Vec<u64>,
    pub(crate) credit: u64,
    pub(crate) calls: Vec<proto::Call>,
    pub(crate) gets: Vec<Gets>,
    pub(crate) slices: Vec<Slice>,
    /// About how many questions and calls wait for their responses at a time; 0 if that is not said.
    pub(crate) under_way: u64,
}

/// Questions for keys of one group.
#[derive(Debug)]
pub(crate) struct Gets {
    /// Without what each question has of its own: how long it waits, and how old the value may be.
    pub(crate) terms: Result<GetTerms, Refusal>,
    pub(crate) questions: Vec<Question>,
}

/// One question. How long its key is has not been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) id: u64,
    pub(crate) key: Bytes,
    pub(crate) time_limit: Duration,
    pub(crate) max_age: Option<Duration>,
    pub(crate) after: After,
}

/// What is asked by a call, and under which id.
pub(crate) fn call_in(call: proto::Call) -> Result<Ask, Refusal> {
    use proto::call::Call;

    let request = match call.call {
        Some(Call::Hello(hello)) => crate::message::Request::try_from(hello)?,
        Some(Call::Remove(remove)) => remove.try_into()?,
        Some(Call::Insert(insert)) => insert.try_into()?,
        None => return Err(invalid("the call says not what it is, or is of a kind that this node does not know")),
    };
    Ok(request.ask)
}

/// Writes a frame.
pub(crate) fn encode_asks(frame: &[Part<AskItem>], buf: &mut impl BufMut) {
    let mut rest = frame;
    while let Some((first, others)) = rest.split_first() {
        rest = others;
        match first {
            Part::Message(AskItem::Sender(sender)) => put_message(1, &proto::Sender::from(&**sender), buf),
            Part::Message(AskItem::Cancel(id)) => Head::new().some_number(2, *id).put(buf),
            Part::Message(AskItem::Credit(bytes)) => Head::new().number(3, *bytes).put(buf),
            Part::Message(AskItem::UnderWay(count)) => Head::new().number(7, *count).put(buf),
            Part::Message(AskItem::Call(call)) => put_message(4, &**call, buf),
            Part::Message(AskItem::Get { terms, .. }) => {
                let others = rest.iter().take_while(|part| is_get_on(terms, part)).count();
                let (gets, after) = frame[frame.len() - rest.len() - 1..].split_at(others + 1);
                put_gets(terms, gets, buf);
                rest = after;
            }
            Part::Slice(slice) => put_slice(6, slice, buf),
        }
    }
}

/// About how many bytes [`encode_asks`] writes: never less.
pub(crate) fn encoded_asks_len(frame: &[Part<AskItem>]) -> usize {
    let len = |part: &Part<AskItem>| match part {
        Part::Message(AskItem::Sender(sender)) => nested_len(proto::Sender::from(&**sender).encoded_len()),
        Part::Message(AskItem::Cancel(_) | AskItem::Credit(_) | AskItem::UnderWay(_)) => 16,
        Part::Message(AskItem::Call(call)) => nested_len(call.encoded_len()),
        Part::Message(AskItem::Get { terms, key, after, .. }) => terms.group.len() + key.len() + 64 + after_len(after),
        Part::Slice(slice) => slice_len(slice),
    };
    frame.iter().map(len).sum()
}

fn is_get_on(terms: &GetTerms, part: &Part<AskItem>) -> bool {
    matches!(part, Part::Message(AskItem::Get { terms: other, .. })
        if (Arc::ptr_eq(&other.group, &terms.group) || other.group == terms.group)
            && other.schema == terms.schema
            && other.nested == terms.nested)
}

/// One section of questions that have all in common but how long they wait and how old a value may be.
fn put_gets(terms: &GetTerms, gets: &[Part<AskItem>], buf: &mut impl BufMut) {
    let questions = || {
        gets.iter().filter_map(|part| match part {
            Part::Message(AskItem::Get { id, terms, key, after }) => {
                Some((*id, key, micros(terms.time_limit), terms.max_age.map(micros), after))
            }
            _ => None,
        })
    };
    let len_of = |(id, key, limit, age, after): (u64, &Key, u64, Option<u64>, &After)| {
        number_len(id) + nested_len(key.len()) + number_len(limit) + some_number_len(age) + after_len(after)
    };
    let group = nested_len(terms.group.len());
    let all: usize = questions().map(|question| nested_len(len_of(question))).sum();
    let len = group + number_len(terms.schema.into()) + number_len(terms.nested.into()) + all;
    Head::new().nested(5, len).nested(1, terms.group.len()).put(buf);
    buf.put_slice(terms.group.as_bytes());
    Head::new().number(2, terms.schema.into()).number(3, terms.nested.into()).put(buf);
    for (id, key, limit, age, after) in questions() {
        let mut head = Head::new();
        head.nested(4, len_of((id, key, limit, age, after))).number(1, id).number(3, limit);
        if let Some(age) = age {
            head.some_number(6, age);
        }
        head.nested(2, key.len());
        head.put(buf);
        buf.put_slice(key);
        for span in &after.removed {
            put_message(4, &span_out(span), buf);
        }
        if after.offered > 0 {
            Head::new().number(5, after.offered).put(buf);
        }
    }
}

/// How many bytes it takes what a question says beyond its key: nearly always none.
#[inline]
pub(crate) fn after_len(after: &After) -> usize {
    if after.removed.is_empty() && after.offered == 0 { 0 } else { long_after_len(after) }
}

#[cold]
fn long_after_len(after: &After) -> usize {
    let removed = after.removed.iter().map(|span| nested_len(span_out(span).encoded_len()));
    removed.sum::<usize>() + number_len(after.offered)
}

/// Reads a frame.
pub(crate) fn decode_asks(frame: &Bytes) -> Result<AskFrame, Refusal> {
    const SENDER: u64 = bytes(1);
    const CANCELLED: u64 = number(2);
    const ALL_CANCELLED: u64 = bytes(2);
    const CREDIT: u64 = number(3);
    const CALL: u64 = bytes(4);
    const GETS: u64 = bytes(5);
    const SLICE: u64 = bytes(6);
    const UNDER_WAY: u64 = number(7);

    let (mut read, mut parts) = (AskFrame::default(), Parts::of(frame));
    let mut fields = Fields::new(frame, 0..frame.len());
    while let Some(tag) = fields.tag()? {
        parts.one()?;
        match tag {
            SENDER => read.sender = sender_in(Some(message_in(frame, fields.bytes()?, &mut parts)?))?,
            CANCELLED => read.cancelled.push(fields.number()?),
            ALL_CANCELLED => packed_in(frame, fields.bytes()?, &mut read.cancelled, &mut parts)?,
            CREDIT => read.credit = read.credit.saturating_add(fields.number()?),
            CALL => read.calls.push(message_in(frame, fields.bytes()?, &mut parts)?),
            GETS => read.gets.push(gets_in(frame, fields.bytes()?, &mut parts)?),
            SLICE => read.slices.push(slice_in(frame, fields.bytes()?)?),
            UNDER_WAY => read.under_way = fields.number()?,
            other => fields.skip(other, 7)?,
        }
    }
    Ok(read)
}

fn packed_in(frame: &Bytes, range: Range<usize>, numbers: &mut Vec<u64>, parts: &mut Parts) -> Result<(), Refusal> {
    // Numbers without fields around them.
    let mut packed = &frame[range];
    while !packed.is_empty() {
        parts.one()?;
        numbers.push(prost::encoding::decode_varint(&mut packed).map_err(|_| Broken)?);
    }
    Ok(())
}

fn gets_in(frame: &Bytes, range: Range<usize>, parts: &mut Parts) -> Result<Gets, Refusal> {
    const GROUP: u64 = bytes(1);
    const SCHEMA: u64 = number(2);
    const NESTED: u64 = number(3);
    const QUESTION: u64 = bytes(4);

    let (mut group, mut schema, mut nested, mut removed) = (0..0, 0, false, 0);
    let mut questions = Vec::with_capacity(range.len() / 32 + 1);
    let mut fields = Fields::new(frame, range);
    while let Some(tag) = fields.tag()? {
        match tag {
            GROUP => group = fields.bytes()?,
            SCHEMA => schema = u32::try_from(fields.number()?).map_err(|_| Broken)?,
            NESTED => nested = fields.number()? != 0,
            QUESTION => {
                let question = question_in(frame, fields.bytes()?, parts)?;
                removed = removed.max(question.after.removed.len());
                questions.push(question);
            }
            other => fields.skip(other, 4)?,
        }
        parts.one()?;
    }
    let group = std::str::from_utf8(&frame[group]).map_err(|_| Broken)?;
    let group = check_spans(removed).and_then(|()| group_in(group));
    let terms = group.map(|group| terms_in(group, schema, 0, nested));
    Ok(Gets { terms, questions })
}

fn question_in(frame: &Bytes, range: Range<usize>, parts: &mut Parts) -> Result<Question, Refusal> {
    const ID: u64 = number(1);
    const KEY: u64 = bytes(2);
    const TIME_LIMIT: u64 = number(3);
    const REMOVED: u64 = bytes(4);
    const OFFERED: u64 = number(5);
    const MAX_AGE: u64 = number(6);

    let (key, time_limit) = (Bytes::new(), Duration::ZERO);
    let mut question = Question { id: 0, key, time_limit, max_age: None, after: After::default() };
    let mut fields = Fields::new(frame, range);
    while let Some(tag) = fields.tag()? {
        match tag {
            ID => question.id = fields.number()?,
            KEY => question.key = frame.slice(fields.bytes()?),
            TIME_LIMIT => question.time_limit = duration(fields.number()?),
            REMOVED => {
                parts.one()?;
                question.after.removed.push(span_in(Some(&message_in(frame, fields.bytes()?, parts)?))?);
            }
            OFFERED => question.after.offered = fields.number()?,
            MAX_AGE => question.max_age = Some(duration(fields.number()?)),
            other => fields.skip(other, 6)?,
        }
    }
    Ok(question)
}
