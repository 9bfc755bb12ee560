//! Messages to bytes and back, as if they had crossed a wire.
//!
//! What must hold: everything is encoded and decoded by the code that gRPC uses, and a reply
//! that is larger than the limit is refused, so that a test in one process finds what a network would.
//!
//! It knows no links and no connections.

use bytes::Bytes;
use prost::Message;

use crate::message::{Refusal, RefusalKind, Reply, Request};
use crate::wire::{self, Gathering, WireRequest, check_size, insert_reply, proto, remove_reply};

/// Reads a request from its bytes; with it, how many keys a reply with many answers has to answer.
pub(super) fn read(message: WireRequest) -> Result<(Request, usize), Refusal> {
    match message {
        WireRequest::Hello(message) => Ok((recoded(&message)?.try_into()?, 0)),
        WireRequest::Get(message) => Ok((recoded(&message)?.try_into()?, 0)),
        WireRequest::GetMany(message) => Ok((recoded(&message)?.try_into()?, message.keys.len())),
        WireRequest::Remove(message) => Ok((recoded(&message)?.try_into()?, 0)),
        WireRequest::Insert(message) => Ok((recoded(&message)?.try_into()?, 0)),
    }
}

/// Encodes a reply and decodes it again, with an answer to each of so many `keys`.
pub(super) fn send_back(reply: Reply, keys: usize, limit: usize) -> Result<Reply, Refusal> {
    match reply {
        Reply::Hello(hello) => Ok(Reply::Hello(fitting(&proto::Hello::from(hello), limit)?.try_into()?)),
        Reply::Get(answer) => Ok(Reply::Get(fitting(&proto::Answer::from(answer), limit)?.try_into()?)),
        Reply::GetMany(answers) => {
            let mut gathering = Gathering::of(keys);
            for chunk in wire::chunks(answers) {
                gathering.add(fitting(&chunk, limit)?)?;
            }
            Ok(Reply::GetMany(gathering.finish()?))
        }
        Reply::Remove(ack) => recoded(&remove_reply(ack.as_ref()))?.try_into(),
        Reply::Insert { stored, ack } => recoded(&insert_reply(stored, ack.as_ref()))?.try_into(),
    }
}

fn fitting<M: Message + Default>(message: &M, limit: usize) -> Result<M, Refusal> {
    check_size("reply", message.encoded_len(), limit)?;
    recoded(message)
}

fn recoded<M: Message + Default>(message: &M) -> Result<M, Refusal> {
    let bytes = Bytes::from(message.encode_to_vec());
    M::decode(bytes).map_err(|error| Refusal::new(RefusalKind::Invalid, error.to_string()))
}

/// Encodes a refusal and decodes it again.
pub(super) fn recoded_refusal(refusal: &Refusal) -> Refusal {
    let details = proto::Refusal::from(refusal).encode_to_vec();
    wire::refusal_in(&details).unwrap_or_else(|| refusal.clone())
}
