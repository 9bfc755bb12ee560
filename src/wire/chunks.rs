//! Many answers: cut into messages of a bearable size, and put together again.
//!
//! What must hold: every key that was asked for is answered exactly once, or the reply as a whole is refused. Chunks
//! and the answers in them may come in any order; each answer says which key it is for.
//!
//! It does not know what an answer says.

use prost::Message;

use crate::message::{Answer, Refusal};

use super::parts::invalid;
use super::{CHUNK_BYTES, proto};

/// Cuts the answers to a [`GetMany`](crate::message::GetMany) into messages of about [`CHUNK_BYTES`], made as they are
/// asked for.
pub(crate) fn chunks(answers: Vec<Answer>) -> impl Iterator<Item = proto::GetManyReply> + Send + 'static {
    let indexed = |(index, answer): (u32, Answer)| proto::IndexedAnswer { index, answer: Some(answer.into()) };
    let mut rest = (0..).zip(answers).map(indexed).peekable();
    std::iter::from_fn(move || {
        let mut answers = vec![rest.next()?];
        let mut len = answers[0].encoded_len();
        while let Some(answer) = rest.next_if(|next| len + next.encoded_len() <= CHUNK_BYTES) {
            len += answer.encoded_len();
            answers.push(answer);
        }
        Some(proto::GetManyReply { answers })
    })
}

/// Puts the chunks of a reply to a [`GetMany`](crate::message::GetMany) together, in the order of the keys.
#[derive(Debug)]
pub(crate) struct Gathering {
    answers: Vec<Option<Answer>>,
}

impl Gathering {
    /// Expects an answer for each of so many keys.
    pub(crate) fn of(keys: usize) -> Self {
        Self { answers: std::iter::repeat_with(|| None).take(keys).collect() }
    }

    pub(crate) fn add(&mut self, chunk: proto::GetManyReply) -> Result<(), Refusal> {
        for proto::IndexedAnswer { index, answer } in chunk.answers {
            let place = usize::try_from(index).ok().and_then(|index| self.answers.get_mut(index));
            let place =
                place.ok_or_else(|| invalid(format!("there is an answer for key {index}, which was not asked for")))?;
            let answer = answer.ok_or_else(|| invalid(format!("the answer for key {index} is empty")))?;
            if place.replace(answer.try_into()?).is_some() {
                return Err(invalid(format!("key {index} was answered twice")));
            }
        }
        Ok(())
    }

    /// All the answers, if none is missing.
    pub(crate) fn finish(self) -> Result<Vec<Answer>, Refusal> {
        let answers = self.answers.into_iter().enumerate();
        answers.map(|(index, answer)| answer.ok_or_else(|| invalid(format!("key {index} was not answered")))).collect()
    }
}
