//! The bytes that protobuf messages are made of: numbers of seven bits a byte, and fields that say their number and
//! kind.
//!
//! Only what is needed where the generated code's structures would cost more than the work itself. (Encoding:
//! <https://protobuf.dev/programming-guides/encoding/>.)

use std::ops::Range;

use bytes::BufMut;

use crate::message::Refusal;

use super::super::parts::invalid;

/// The most bytes of a varint.
const MAX_VARINT: usize = 10;

/// How many bytes a number takes.
fn varint_len(value: u64) -> usize {
    prost::encoding::encoded_len_varint(value)
}

/// How many bytes a field with a number takes; none if it is zero, which is how zero is told.
pub(super) fn number_len(value: u64) -> usize {
    if value == 0 { 0 } else { 1 + varint_len(value) }
}

/// How many bytes a field with a number takes, if it is there, also if it is zero.
pub(super) fn some_number_len(value: Option<u64>) -> usize {
    value.map_or(0, |value| 1 + varint_len(value))
}

/// How many bytes a field takes that has so many bytes in it.
pub(super) fn nested_len(len: usize) -> usize {
    1 + varint_len(len as u64) + len
}

/// A few small fields, gathered before they are put into a buffer together: one check of the buffer's room for all.
pub(super) struct Head {
    bytes: [u8; Self::ROOM],
    len: usize,
}

impl Head {
    /// Twelve fields of the largest numbers.
    const ROOM: usize = 12 * (1 + MAX_VARINT);

    pub(super) fn new() -> Self {
        Self { bytes: [0; Self::ROOM], len: 0 }
    }

    fn byte(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.byte(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.byte(value.to_le_bytes()[0]);
    }

    /// A field with a number, unless it is zero.
    pub(super) fn number(&mut self, field: u8, value: u64) -> &mut Self {
        if value != 0 { self.some_number(field, value) } else { self }
    }

    /// A field with a number, also if it is zero.
    pub(super) fn some_number(&mut self, field: u8, value: u64) -> &mut Self {
        self.byte(field << 3);
        self.varint(value);
        self
    }

    /// The beginning of a field with so many bytes in it, which follow.
    pub(super) fn nested(&mut self, field: u8, len: usize) -> &mut Self {
        self.byte(field << 3 | 2);
        self.varint(len as u64);
        self
    }

    pub(super) fn put(&self, buf: &mut impl BufMut) {
        buf.put_slice(&self.bytes[..self.len]);
    }
}

/// A frame's bytes are no message of the protocol.
#[derive(Clone, Copy, Debug)]
pub(in crate::wire) struct Broken;

impl From<Broken> for Refusal {
    fn from(_: Broken) -> Self {
        invalid("the frame's bytes are no message of the protocol")
    }
}

/// The tag of a field with a number in it.
pub(super) const fn number(field: u8) -> u64 {
    (field as u64) << 3
}

/// The tag of a field with bytes in it.
pub(in crate::wire) const fn bytes(field: u8) -> u64 {
    (field as u64) << 3 | 2
}

/// The tag of a field with eight bytes in it.
pub(super) const fn fixed(field: u8) -> u64 {
    (field as u64) << 3 | 1
}

/// Reads fields, one after the other: a tag, and then what it says. A busy frame has thousands: all of this becomes
/// part of who reads, so that a field never leaves the processor's registers (measured for a question and its answer:
/// 1,560 instructions with a structure for whatever a field can be, 980 without).
pub(in crate::wire) struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Fields<'a> {
    pub(in crate::wire) fn new(bytes: &'a [u8], range: Range<usize>) -> Self {
        let end = range.end.min(bytes.len());
        Self { bytes, at: range.start.min(end), end }
    }

    /// The tag of the next field; `None` at the end.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "measured: see above")]
    pub(in crate::wire) fn tag(&mut self) -> Result<Option<u64>, Broken> {
        if self.at < self.end { self.number().map(Some) } else { Ok(None) }
    }

    /// The number in the field.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "measured: see above")]
    pub(super) fn number(&mut self) -> Result<u64, Broken> {
        match &self.bytes[self.at..self.end] {
            // Most are below 128.
            [byte, ..] if *byte < 0x80 => {
                self.at += 1;
                Ok(u64::from(*byte))
            }
            // And a length is often a little more, as a time is.
            [low, high, ..] if *high < 0x80 => {
                self.at += 2;
                Ok(u64::from(*low & 0x7f) | u64::from(*high) << 7)
            }
            [low, middle, high, ..] if *high < 0x80 => {
                self.at += 3;
                Ok(u64::from(*low & 0x7f) | u64::from(*middle & 0x7f) << 7 | u64::from(*high) << 14)
            }
            _ => self.long_number(),
        }
    }

    /// Where in the frame the field's bytes are.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "measured: see above")]
    pub(in crate::wire) fn bytes(&mut self) -> Result<Range<usize>, Broken> {
        let len = self.number()?;
        self.pass(len)
    }

    /// The eight bytes in the field, as a number.
    pub(super) fn fixed(&mut self) -> Result<u64, Broken> {
        let range = self.pass(8)?;
        self.bytes[range].first_chunk().copied().map(u64::from_le_bytes).ok_or(Broken)
    }

    /// The field's bytes, as numbers of eight bytes each.
    pub(super) fn all_fixed(&mut self) -> Result<impl Iterator<Item = u64> + use<'a>, Broken> {
        let range = self.bytes()?;
        let (numbers, rest) = self.bytes[range].as_chunks();
        if rest.is_empty() { Ok(numbers.iter().copied().map(u64::from_le_bytes)) } else { Err(Broken) }
    }

    /// Passes over a field that the message does not have, which is for a later version of it to say. That is one of a
    /// higher number: `known` is the highest that the message has, and one of those must be of its kind.
    #[cold]
    pub(in crate::wire) fn skip(&mut self, tag: u64, known: u8) -> Result<(), Broken> {
        if tag >> 3 <= known.into() {
            return Err(Broken);
        }
        match tag & 7 {
            0 => self.number().map(drop),
            1 => self.pass(8).map(drop),
            2 => self.bytes().map(drop),
            5 => self.pass(4).map(drop),
            _ => Err(Broken),
        }
    }

    #[inline]
    fn pass(&mut self, len: u64) -> Result<Range<usize>, Broken> {
        let (start, len) = (self.at, usize::try_from(len).map_err(|_| Broken)?);
        if len > self.end - start {
            return Err(Broken);
        }
        self.at += len;
        Ok(start..self.at)
    }

    #[inline(never)]
    fn long_number(&mut self) -> Result<u64, Broken> {
        let mut value = 0;
        for (shift, byte) in (0..).step_by(7).zip(self.bytes[self.at..self.end].iter().take(MAX_VARINT)) {
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if *byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Broken)
    }
}
