//! The frames of an exchange, as bytes: `asks.rs` for what one side asks, `answers.rs` for what the other answers.
//!
//! They are the messages `AskFrame` and `AnswerFrame` of the protocol, and any protobuf library can read and write
//! them. Here questions and answers, of which a busy frame has hundreds, are written and read by hand (`fields.rs`),
//! without a structure in between; all that is rare is left to the generated code. What must hold:
//!
//! - what is written here reads the same there, and the other way round (`tests.rs` holds both against the generated
//!   code);
//! - a frame of any bytes is read or refused in words; a part of it that makes no sense is refused by itself, if it
//!   says what it belongs to;
//! - a value is copied once on the way out, into the frame, and not at all on the way in: it is a slice of its frame.
//!
//! It knows neither streams nor who waits for what.

mod answers;
mod asks;
mod common;
pub(super) mod fields;
#[cfg(test)]
mod tests;

pub(crate) use answers::{AnswerFrame, AnswerItem, Response, decode_answers, encode_answers, encoded_answers_len};
pub(crate) use asks::{
    AskFrame, AskItem, Gets, Question, after_len, call_in, decode_asks, encode_asks, encoded_asks_len,
};

/// What a question or an answer takes in a frame beside its key and its value, about.
pub(crate) const ITEM_BYTES: usize = 32;
