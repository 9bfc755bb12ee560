//! How the words of `message.rs` look on the wire.
//!
//! The messages of `peerage.proto` and the conversions between them and our own words, both ways: `request.rs` and
//! `sender.rs` for what is asked, `answer.rs` and `chunks.rs` for what comes back, `refusal.rs` for what is not served,
//! `news.rs` for what nodes tell each other of removals, and `parts.rs` for what all of these are made of; `shapes.rs`
//! bounds what becomes of their bytes, and `frames/` has many of them travel together. Here are the limits that they and
//! the transports share. What must hold:
//!
//! - every conversion is total: whatever bytes a peer sends, the worst that comes of them is a [`Refusal`] of kind
//!   `Invalid` with a sentence that says what is wrong;
//! - what a newer peer adds is ignored where that is safe (kinds of failure), and refused where it is not (scopes of
//!   removals);
//! - values are not copied.
//!
//! It knows no sockets and no gRPC: both transports convert with it, so that they agree on every limit. Whether a
//! group, a cluster or a version is the right one is the handler's matter.

mod answer;
mod chunks;
pub(crate) mod frames;
mod news;
mod parts;
mod refusal;
mod request;
mod sender;
mod shapes;
#[cfg(test)]
mod strategies;
#[cfg(test)]
mod tests;

use crate::key::Key;
use crate::message::{Refusal, RefusalKind};

pub(crate) use chunks::{Gathering, chunks};
pub(crate) use news::{insert_reply, remove_reply};
pub(crate) use refusal::refusal_in;
pub(crate) use request::WireRequest;
pub(crate) use shapes::{Room, Shaped, read};

/// The generated code: messages, client and server.
pub(crate) mod proto {
    #![allow(missing_docs, unreachable_pub, dead_code, clippy::all, clippy::pedantic, reason = "generated")]

    tonic::include_proto!("peerage.v1");
}

/// The most keys that a request may carry, and the most members a membership.
pub(crate) const MAX_COUNT: usize = 1 << 16;

/// Keys of this many bytes together fit in a request, however small the limit on values is.
pub(crate) const KEYS_BYTES: usize = 4 << 20;

/// How large one message of answers to a [`GetMany`](crate::message::GetMany) grows, unless a single answer is larger.
pub(crate) const CHUNK_BYTES: usize = 1 << 20;

/// What a message needs beside its value: a key, names, numbers.
const SLACK: usize = Key::MAX_LEN + (64 << 10);

/// Splits what has keys into parts that each fit in one request.
pub(crate) fn split_keys<T>(all: Vec<T>, key: impl Fn(&T) -> &Key) -> Vec<Vec<T>> {
    let mut parts: Vec<Vec<T>> = Vec::new();
    let mut bytes = 0;
    for item in all {
        let len = key(&item).len();
        match parts.last_mut() {
            Some(part) if part.len() < MAX_COUNT && bytes + len <= KEYS_BYTES => {
                part.push(item);
                bytes += len;
            }
            _ => {
                parts.push(vec![item]);
                bytes = len;
            }
        }
    }
    parts
}

/// The size of the largest message of a node with this limit on values. The most keys that fit, [`KEYS_BYTES`] and up
/// to four bytes around each, need 4.25 MiB; 5 leave room.
pub(crate) fn message_limit(max_value_bytes: usize) -> usize {
    max_value_bytes.max(5 << 20).saturating_add(SLACK)
}

/// Refuses a message of `len` bytes if it is larger than `limit`.
pub(crate) fn check_size(what: &str, len: usize, limit: usize) -> Result<(), Refusal> {
    if len <= limit {
        return Ok(());
    }
    let message = format!(
        "the {what} of {len} bytes is larger than the limit of {limit} bytes; raise `max_value_bytes` on every node"
    );
    Err(Refusal::new(RefusalKind::TooLarge, message))
}
