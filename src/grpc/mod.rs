//! The gRPC transport: what its two ends have in common, and the service that an application can mount.
//!
//! `client.rs` opens connections, `server.rs` is the service. Between nodes everything travels on one stream per
//! connection, the exchange: `asking.rs` and `answering.rs` are its two ends, `codec.rs` its messages. `unary.rs` is
//! for peers that know no exchange. Here is what all go by, and how a refusal becomes a gRPC status and a status a
//! `CallError`. tonic's types stay in this room.
//!
//! What must hold: a status that the peer meant to send is a refusal with its kind, and everything that tells of a lost
//! connection is `Unreachable`. Mistaking the one for the other would send requests to a stand-in that only their owner
//! should answer, or keep asking a node that is gone.

mod answering;
mod asking;
mod client;
mod codec;
mod lingering;
mod server;
mod stream;
#[cfg(test)]
mod tests;
mod unary;

use std::error::Error as _;

use prost::Message;
use tonic::{Code, Status};

use crate::message::{Refusal, RefusalKind};
use crate::transport::{CallError, Unreachable};
use crate::wire::{self, proto};

pub(crate) use client::GrpcTransport;
pub(crate) use codec::UnaryCodec;
pub use server::PeerService;
pub(crate) use server::serve;
#[cfg(test)]
pub(crate) use {client::open_on, server::serve_on};

/// Where the exchange is found.
const EXCHANGE_PATH: &str = "/peerage.v1.Peerage/Exchange";

/// How many bytes of one stream may be on their way unacknowledged, and of all streams of a connection together. The
/// exchange is one stream: with less, its frames wait for the other side to say that it has read.
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// How large an HTTP/2 frame may be: one of ours then crosses in one piece.
const HTTP2_FRAME: u32 = 512 << 10;

/// How many requests of one connection a server works on at a time. More wait at the client, behind whatever is slow:
/// so it is more than a group lets wait for its loads, and a peer that asks for too much is told that the group is
/// busy.
const CONCURRENT_STREAMS: u32 = 16_384;

/// The status that tells a client of a refusal. Its code and message are for any client; ours read the details.
fn status_of(refusal: &Refusal) -> Status {
    let code = match refusal.kind {
        RefusalKind::Invalid => Code::InvalidArgument,
        RefusalKind::WrongCluster | RefusalKind::Version | RefusalKind::Schema => Code::FailedPrecondition,
        RefusalKind::UnknownGroup => Code::NotFound,
        RefusalKind::TooLarge => Code::OutOfRange,
        RefusalKind::Draining => Code::Unavailable,
    };
    let details = proto::Refusal::from(refusal);
    Status::with_details(code, details.message.clone(), details.encode_to_vec().into())
}

/// What a failed call means.
///
/// A status with our details was sent by the peer on purpose. One with a source was made up on this side out of a
/// failure of the connection, whatever its code says. What remains was sent by gRPC itself, on the other side or on
/// this one: it had a message that it could not take, or it is not a peer that we know how to talk to.
fn call_error_of(status: &Status) -> CallError {
    if let Some(refusal) = wire::refusal_in(status.details()) {
        return refusal.into();
    }
    if status.source().is_some() {
        return Unreachable::new(in_words(status)).into();
    }
    match status.code() {
        Code::OutOfRange | Code::ResourceExhausted => {
            let advice = format!("{}; raise `max_value_bytes` on every node", status.message());
            Refusal::new(RefusalKind::TooLarge, advice).into()
        }
        Code::Unavailable | Code::Cancelled | Code::Unknown | Code::Aborted | Code::DeadlineExceeded => {
            Unreachable::new(in_words(status)).into()
        }
        code => Refusal::new(RefusalKind::Invalid, format!("{code:?}: {}", status.message())).into(),
    }
}

/// The message of a status and of what lies beneath it, which is often where the reason is.
fn in_words(status: &Status) -> String {
    let mut words = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !words.contains(&more) {
            words = format!("{words}: {more}");
        }
        cause = error.source();
    }
    words
}
