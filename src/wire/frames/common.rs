//! What both kinds of frame are made of: slices, rare messages, and no more of either than a frame may have.

use std::ops::Range;

use bytes::{BufMut, Bytes};
use prost::Message;

use super::super::parts::invalid;
use super::super::{MAX_COUNT, Room, Shaped, read};
use super::fields::{Fields, Head, bytes, nested_len, number, number_len};
use crate::batch::Slice;
use crate::message::Refusal;

/// Counts the parts of a frame, and refuses more than it may have: a part may be as little as two bytes, and is a good
/// deal more once it is read.
pub(super) struct Parts {
    count: usize,
    /// What its rare messages may become.
    room: Room,
}

impl Parts {
    pub(super) fn of(frame: &Bytes) -> Self {
        Self { count: 0, room: Room::for_bytes(frame.len()) }
    }

    pub(super) fn one(&mut self) -> Result<(), Refusal> {
        self.count += 1;
        if self.count > MAX_COUNT {
            return Err(invalid(format!("more than the {MAX_COUNT} parts that one frame may have")));
        }
        Ok(())
    }
}

/// A rare message, read by the generated code.
pub(super) fn message_in<M: Shaped>(frame: &Bytes, range: Range<usize>, parts: &mut Parts) -> Result<M, Refusal> {
    read(frame.slice(range), &mut parts.room)
}

/// A rare message, written by the generated code.
pub(super) fn put_message<M: Message>(field: u8, message: &M, buf: &mut impl BufMut) {
    Head::new().nested(field, message.encoded_len()).put(buf);
    message.encode_raw(buf);
}

pub(super) fn slice_len(slice: &Slice) -> usize {
    nested_len(number_len(slice.id) + nested_len(slice.bytes.len()))
}

pub(super) fn put_slice(field: u8, slice: &Slice, buf: &mut impl BufMut) {
    let len = slice.bytes.len();
    let mut head = Head::new();
    head.nested(field, number_len(slice.id) + nested_len(len)).number(1, slice.id).nested(2, len);
    head.put(buf);
    buf.put_slice(&slice.bytes);
}

pub(super) fn slice_in(frame: &Bytes, range: Range<usize>) -> Result<Slice, Refusal> {
    const ID: u64 = number(1);
    const BYTES: u64 = bytes(2);

    let mut slice = Slice { id: 0, bytes: Bytes::new() };
    let mut fields = Fields::new(frame, range);
    while let Some(tag) = fields.tag()? {
        match tag {
            ID => slice.id = fields.number()?,
            BYTES => slice.bytes = frame.slice(fields.bytes()?),
            other => fields.skip(other, 2)?,
        }
    }
    Ok(slice)
}
