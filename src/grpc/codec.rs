//! What tonic needs to know to send and read what travels: frames as the messages of a stream, and those of unary calls.

use std::marker::PhantomData;

use bytes::{Buf, Bytes};
use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic_prost::ProstEncoder;

use crate::batch::{FRAME_BYTES, Part};
use crate::wire::frames::{
    AnswerFrame, AnswerItem, AskFrame, AskItem, decode_answers, decode_asks, encode_answers, encode_asks,
    encoded_answers_len, encoded_asks_len,
};
use crate::wire::{Room, Shaped, read};

use super::status_of;

/// The buffers begin small, and a frame is passed on by itself, whatever its size: that it is worth its way is the
/// batch's business.
const BUFFERS: (usize, usize) = (8 << 10, FRAME_BYTES / 4);

/// The codec of the side that asks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asking;

/// The codec of the side that answers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Answering;

macro_rules! codec {
    ($codec:ident: $out:ty, $encode:ident, $encoded_len:ident; $in:ty, $decode:ident) => {
        impl Codec for $codec {
            type Encode = Vec<Part<$out>>;
            type Decode = $in;
            type Encoder = Self;
            type Decoder = Self;

            fn encoder(&mut self) -> Self {
                *self
            }

            fn decoder(&mut self) -> Self {
                *self
            }
        }

        impl Encoder for $codec {
            type Item = Vec<Part<$out>>;
            type Error = Status;

            fn encode(&mut self, frame: Self::Item, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
                buf.reserve($encoded_len(&frame));
                $encode(&frame, buf);
                Ok(())
            }

            fn buffer_settings(&self) -> BufferSettings {
                BufferSettings::new(BUFFERS.0, BUFFERS.1)
            }
        }

        impl Decoder for $codec {
            type Item = $in;
            type Error = Status;

            fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<$in>, Status> {
                $decode(&all_of(buf)).map(Some).map_err(|refusal| status_of(&refusal))
            }

            fn buffer_settings(&self) -> BufferSettings {
                BufferSettings::new(BUFFERS.0, BUFFERS.1)
            }
        }
    };
}

codec!(Asking: AskItem, encode_asks, encoded_asks_len; AnswerFrame, decode_answers);
codec!(Answering: AnswerItem, encode_answers, encoded_answers_len; AskFrame, decode_asks);

/// Not a copy: the buffer gives away what it holds.
fn all_of(buf: &mut DecodeBuf<'_>) -> Bytes {
    buf.copy_to_bytes(buf.remaining())
}

/// The codec of unary calls, for the generated code. (`build.rs` has its name.)
#[derive(Debug)]
pub(crate) struct UnaryCodec<T, U>(PhantomData<fn(T) -> U>);

/// Reads a message, unless it would become many times as large as it is.
#[derive(Debug)]
pub(crate) struct Reading<U>(PhantomData<fn() -> U>);

impl<T, U> Default for UnaryCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: Message + 'static, U: Shaped + 'static> Codec for UnaryCodec<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = Reading<U>;

    fn encoder(&mut self) -> ProstEncoder<T> {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> Reading<U> {
        Reading(PhantomData)
    }
}

impl<U: Shaped> Decoder for Reading<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let message = all_of(buf);
        let mut room = Room::for_bytes(message.len());
        read(message, &mut room).map(Some).map_err(|refusal| status_of(&refusal))
    }
}
