//! What the other side of an exchange answers.

use std::mem;
use std::ops::Range;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use prost::Message;

use crate::batch::{Part, Slice};
use crate::error::{Error, LoadError};
use crate::message::{Ack, Answer, Copy, Outcome, Refusal, RefusalKind, Reply};
use crate::tags::TagHash;

use super::super::news::{insert_reply, remove_reply};
use super::super::parts::{duration, invalid, micros};
use super::super::proto;
use super::super::refusal::{MAX_REFUSAL_LEN, refusal_of};
use super::common::{Parts, message_in, put_message, put_slice, slice_in, slice_len};
use super::fields::{Fields, Head, bytes, fixed, nested_len, number, number_len, some_number_len};

/// What can be put into a frame.
#[derive(Clone, Debug)]
pub(crate) enum AnswerItem {
    Credit(u64),
    Response(Response),
}

/// What became of a question or a call.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) id: u64,
    pub(crate) reply: Result<Reply, Refusal>,
    /// The length of the answer's value that comes in slices, and is not in it; 0 if it is.
    pub(crate) sliced: u64,
}

impl Response {
    /// Takes it out of where it lies.
    pub(crate) fn take(&mut self) -> Self {
        let nothing = Err(Refusal::new(RefusalKind::Invalid, String::new()));
        Self { id: self.id, reply: mem::replace(&mut self.reply, nothing), sliced: self.sliced }
    }

    /// Takes the value out, if it is longer than that: to be sent in slices.
    pub(crate) fn take_large(&mut self, slice_from: usize) -> Option<Bytes> {
        let Ok(Reply::Get(Answer { outcome: Outcome::Value(copy), .. })) = &mut self.reply else { return None };
        if copy.value.len() <= slice_from {
            return None;
        }
        let value = mem::take(&mut copy.value);
        self.sliced = value.len() as u64;
        Some(value)
    }

    /// Puts the value back that came in slices.
    pub(crate) fn put_back(&mut self, value: Bytes) {
        if let Ok(Reply::Get(Answer { outcome: Outcome::Value(copy), .. })) = &mut self.reply {
            copy.value = value;
        }
    }

    /// About how many bytes it takes in a frame.
    pub(crate) fn len(&self) -> usize {
        let more = match &self.reply {
            Ok(Reply::Get(Answer { outcome: Outcome::Value(copy), .. })) => copy.value.len() + size_of_val(&*copy.tags),
            Ok(Reply::Get(Answer { outcome: Outcome::Failed(error), .. })) => len_of_words(error),
            Ok(Reply::Remove(ack) | Reply::Insert { ack, .. }) => ack.as_ref().map_or(0, len_of_ack),
            Ok(Reply::Hello(hello)) => proto::Hello::from(hello.clone()).encoded_len(),
            Ok(Reply::Get(_) | Reply::GetMany(_)) => 0,
            Err(refusal) => refusal.message.len().min(MAX_REFUSAL_LEN),
        };
        more + super::ITEM_BYTES
    }
}

/// About how many bytes of words an error has.
fn len_of_words(error: &Error) -> usize {
    match error {
        Error::Load(load) => load.message().len().min(LoadError::MAX_MESSAGE_LEN),
        Error::Codec(codec) => codec.to_string().len().min(LoadError::MAX_MESSAGE_LEN),
        _ => 0,
    }
}

/// About how many bytes an acknowledgement has; with a report, nearly all of them are that.
fn len_of_ack(ack: &Ack) -> usize {
    if ack.report.is_some() { remove_reply(Some(ack)).encoded_len() } else { ack.by.name.as_str().len() + 16 }
}

/// A frame as it is read.
#[derive(Debug, Default)]
pub(crate) struct AnswerFrame {
    pub(crate) credit: u64,
    pub(crate) responses: Vec<Response>,
    pub(crate) slices: Vec<Slice>,
}

/// Writes a frame.
pub(crate) fn encode_answers(frame: &[Part<AnswerItem>], buf: &mut impl BufMut) {
    for part in frame {
        match part {
            Part::Message(AnswerItem::Credit(bytes)) => Head::new().number(1, *bytes).put(buf),
            Part::Message(AnswerItem::Response(response)) => put_response(response, buf),
            Part::Slice(slice) => put_slice(3, slice, buf),
        }
    }
}

/// About how many bytes [`encode_answers`] writes.
pub(crate) fn encoded_answers_len(frame: &[Part<AnswerItem>]) -> usize {
    let len = |part: &Part<AnswerItem>| match part {
        Part::Message(AnswerItem::Credit(_)) => 16,
        Part::Message(AnswerItem::Response(response)) => response.len() + super::ITEM_BYTES,
        Part::Slice(slice) => slice_len(slice),
    };
    frame.iter().map(len).sum()
}

fn put_response(response: &Response, buf: &mut impl BufMut) {
    match &response.reply {
        Ok(Reply::Get(Answer { outcome: Outcome::Value(copy), held })) => put_value(response, copy, *held, buf),
        reply => put_message(2, &proto::Response { id: response.id, response: rare(reply), sliced: 0 }, buf),
    }
}

/// A response with a value, the value last: all that is before it is small, and is written at once.
fn put_value(response: &Response, copy: &Copy, time_held: Duration, buf: &mut impl BufMut) {
    let (age, held_us, left) = (micros(copy.age), micros(time_held), copy.left.map(micros));
    let (refresh, grace) = (copy.until_refresh.map(micros), micros(copy.grace));
    let (len, tags) = (copy.value.len(), size_of_val(&*copy.tags));
    let value = number_len(age)
        + some_number_len(left)
        + number_len(copy.loaded.into())
        + some_number_len(refresh)
        + number_len(grace)
        + nested_len(len)
        + if tags == 0 { 0 } else { nested_len(tags) };
    let answer = number_len(held_us) + nested_len(value);
    let whole = number_len(response.id) + number_len(response.sliced) + nested_len(answer);
    let mut small = Head::new();
    small.nested(2, whole).number(1, response.id).number(7, response.sliced);
    small.nested(2, answer).number(4, held_us);
    small.nested(1, value).number(2, age);
    if let Some(left) = left {
        small.some_number(3, left);
    }
    small.number(4, copy.loaded.into());
    if let Some(refresh) = refresh {
        small.some_number(5, refresh);
    }
    small.number(6, grace).nested(1, len);
    small.put(buf);
    buf.put_slice(&copy.value);
    if tags > 0 {
        let mut head = Head::new();
        head.nested(7, tags).put(buf);
        copy.tags.iter().for_each(|tag| buf.put_u64_le(tag.0));
    }
}

fn rare(reply: &Result<Reply, Refusal>) -> Option<proto::response::Response> {
    use proto::response::Response;

    Some(match reply {
        Ok(Reply::Get(answer)) => Response::Answer(answer.clone().into()),
        Ok(Reply::Hello(hello)) => Response::Hello(hello.clone().into()),
        Ok(Reply::Remove(ack)) => Response::Remove(remove_reply(ack.as_ref())),
        Ok(Reply::Insert { stored, ack }) => Response::Insert(insert_reply(*stored, ack.as_ref())),
        // Many answers are many responses.
        Ok(Reply::GetMany(_)) => return None,
        Err(refusal) => Response::Refusal(refusal.into()),
    })
}

/// Reads a frame.
pub(crate) fn decode_answers(frame: &Bytes) -> Result<AnswerFrame, Refusal> {
    const CREDIT: u64 = number(1);
    const RESPONSE: u64 = bytes(2);
    const SLICE: u64 = bytes(3);

    // Grown a few times, rather than once for each doubling: frames are small, or full of answers.
    let responses = Vec::with_capacity(frame.len() / 512 + 1);
    let mut read = AnswerFrame { responses, ..AnswerFrame::default() };
    let mut parts = Parts::of(frame);
    let mut fields = Fields::new(frame, 0..frame.len());
    while let Some(tag) = fields.tag()? {
        parts.one()?;
        match tag {
            CREDIT => read.credit = read.credit.saturating_add(fields.number()?),
            RESPONSE => {
                let range = fields.bytes()?;
                // Where it stays: there are hundreds, and each is as large as what it would take to move it.
                let at = read.responses.len();
                read.responses.push(value_response());
                response_in(frame, range, &mut read.responses[at], &mut parts)?;
            }
            SLICE => read.slices.push(slice_in(frame, fields.bytes()?)?),
            other => fields.skip(other, 3)?,
        }
    }
    Ok(read)
}

/// A response as most are, with nothing in its value yet.
fn value_response() -> Response {
    Response { id: 0, reply: Ok(Reply::Get(value_answer())), sliced: 0 }
}

fn value_answer() -> Answer {
    let (value, tags) = (Bytes::new(), Vec::new());
    let (age, left, until_refresh, grace) = (Duration::ZERO, None, None, Duration::ZERO);
    let copy = Copy { value, age, left, until_refresh, grace, loaded: false, tags };
    Answer { outcome: Outcome::Value(copy), held: Duration::ZERO }
}

/// Reads a response, over one that has nothing in it.
fn response_in(frame: &Bytes, range: Range<usize>, response: &mut Response, parts: &mut Parts) -> Result<(), Refusal> {
    const ID: u64 = number(1);
    const ANSWER: u64 = bytes(2);
    const REFUSAL: u64 = bytes(3);
    const HELLO: u64 = bytes(4);
    const REMOVE: u64 = bytes(5);
    const INSERT: u64 = bytes(6);
    const SLICED: u64 = number(7);

    let Response { id, reply, sliced } = response;
    let mut says = false;
    let mut fields = Fields::new(frame, range);
    while let Some(tag) = fields.tag()? {
        match tag {
            ID => *id = fields.number()?,
            SLICED => *sliced = fields.number()?,
            ANSWER => {
                let range = fields.bytes()?;
                let is_read = match reply {
                    Ok(Reply::Get(answer)) if !says => answer_in(frame, range.clone(), answer)?,
                    _ => false,
                };
                if !is_read {
                    // Whatever it is: the generated code knows it, and one that makes no sense is refused by itself.
                    *reply = message_in::<proto::Answer>(frame, range, parts)?.try_into().map(Reply::Get);
                }
            }
            REFUSAL => {
                let message: proto::Refusal = message_in(frame, fields.bytes()?, parts)?;
                *reply = Err(refusal_of(&message).unwrap_or_else(|| invalid(message.message)));
            }
            HELLO => *reply = message_in::<proto::Hello>(frame, fields.bytes()?, parts)?.try_into().map(Reply::Hello),
            REMOVE => *reply = message_in::<proto::RemoveReply>(frame, fields.bytes()?, parts)?.try_into(),
            INSERT => *reply = message_in::<proto::InsertReply>(frame, fields.bytes()?, parts)?.try_into(),
            other => {
                fields.skip(other, 7)?;
                continue;
            }
        }
        says |= !matches!(tag, ID | SLICED);
    }
    if !says {
        *reply = Err(invalid("the response says nothing, or nothing that this node knows"));
    }
    Ok(())
}

/// Reads an answer over one that has nothing in it, if it is a value, said once, and nothing else; if not, what was read
/// is of no use.
fn answer_in(frame: &Bytes, range: Range<usize>, answer: &mut Answer) -> Result<bool, Refusal> {
    const VALUE: u64 = bytes(1);
    const HELD: u64 = number(4);

    let Outcome::Value(copy) = &mut answer.outcome else { return Ok(false) };
    let mut is_there = false;
    let mut fields = Fields::new(frame, range);
    while let Some(tag) = fields.tag()? {
        match tag {
            VALUE if !is_there => {
                value_in(frame, fields.bytes()?, copy)?;
                is_there = true;
            }
            HELD => answer.held = duration(fields.number()?),
            _ => return Ok(false),
        }
    }
    Ok(is_there)
}

/// Reads a value over one that has nothing in it.
fn value_in(frame: &Bytes, range: Range<usize>, copy: &mut Copy) -> Result<(), Refusal> {
    const VALUE: u64 = bytes(1);
    const AGE: u64 = number(2);
    const LEFT: u64 = number(3);
    const LOADED: u64 = number(4);
    const UNTIL_REFRESH: u64 = number(5);
    const GRACE: u64 = number(6);
    const TAGS: u64 = bytes(7);
    const TAG: u64 = fixed(7);

    let mut fields = Fields::new(frame, range);
    while let Some(tag) = fields.tag()? {
        match tag {
            VALUE => copy.value = frame.slice(fields.bytes()?),
            AGE => copy.age = duration(fields.number()?),
            LEFT => copy.left = Some(duration(fields.number()?)),
            LOADED => copy.loaded = fields.number()? != 0,
            UNTIL_REFRESH => copy.until_refresh = Some(duration(fields.number()?)),
            GRACE => copy.grace = duration(fields.number()?),
            TAGS => copy.tags.extend(fields.all_fixed()?.map(TagHash)),
            // They may as well come one by one.
            TAG => copy.tags.push(TagHash(fields.fixed()?)),
            other => fields.skip(other, 7)?,
        }
    }
    Ok(())
}
