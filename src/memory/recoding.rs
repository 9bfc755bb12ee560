//! Messages to bytes and back, as if they had crossed a wire.
//!
//! What must hold: everything is encoded and decoded by the code that gRPC uses, and a reply
//! that is larger than the limit is refused, so that a test in one process finds what a network would.
//!
//! It knows no links and no connections.

use bytes::Bytes;
use prost::Message;

use crate::message::{Refusal, Reply, Request};
use crate::wire::{self, Gathering, Room, Shaped, WireRequest, check_size, insert_reply, proto, remove_reply};

/// A request as bytes.
pub(super) fn write(message: &WireRequest) -> Bytes {
    Bytes::from(match message {
        WireRequest::Hello(message) => message.encode_to_vec(),
        WireRequest::Get(message) => message.encode_to_vec(),
        WireRequest::GetMany(message) => message.encode_to_vec(),
        WireRequest::Remove(message) => message.encode_to_vec(),
        WireRequest::Insert(message) => message.encode_to_vec(),
    })
}

/// Reads a request from its bytes; with it, how many keys a reply with many answers has to answer. Of the message
/// itself it takes the kind, and that count.
pub(super) fn read(message: &WireRequest, bytes: Bytes) -> Result<(Request, usize), Refusal> {
    match message {
        WireRequest::Hello(_) => Ok((decoded::<proto::Hello>(bytes)?.try_into()?, 0)),
        WireRequest::Get(_) => Ok((decoded::<proto::GetRequest>(bytes)?.try_into()?, 0)),
        WireRequest::GetMany(message) => Ok((decoded::<proto::GetManyRequest>(bytes)?.try_into()?, message.keys.len())),
        WireRequest::Remove(_) => Ok((decoded::<proto::RemoveRequest>(bytes)?.try_into()?, 0)),
        WireRequest::Insert(_) => Ok((decoded::<proto::InsertRequest>(bytes)?.try_into()?, 0)),
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
        Reply::Remove(ack) => fitting(&remove_reply(ack.as_ref()), limit)?.try_into(),
        Reply::Insert { stored, ack } => fitting(&insert_reply(stored, ack.as_ref()), limit)?.try_into(),
    }
}

fn fitting<M: Shaped>(message: &M, limit: usize) -> Result<M, Refusal> {
    let bytes = message.encode_to_vec();
    check_size("reply", bytes.len(), limit)?;
    decoded(Bytes::from(bytes))
}

fn decoded<M: Shaped>(bytes: Bytes) -> Result<M, Refusal> {
    let mut room = Room::for_bytes(bytes.len());
    wire::read(bytes, &mut room)
}

/// Encodes a refusal and decodes it again.
pub(super) fn recoded_refusal(refusal: &Refusal) -> Refusal {
    let details = proto::Refusal::from(refusal).encode_to_vec();
    wire::refusal_in(&details).unwrap_or_else(|| refusal.clone())
}
