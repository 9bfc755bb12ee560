//! What the gRPC transport is tested with, one subject a file.
//!
//! `calls.rs` and `asks.rs` are suites that run over each transport: gRPC with an exchange, gRPC with a peer that knows
//! none, and the in-process network. `only.rs` is what gRPC alone has. `breaks.rs` (connections that end), `limits.rs`
//! (what is bounded, and who waits for whom), `protocol.rs` (peers that do not keep to it) and `seeded.rs` (anything at
//! all, by a seed) are about the exchange, `lingering.rs` is about the end of the stream under it. `net.rs`,
//! `handlers.rs`, `messages.rs` and `raw.rs` (ends of an exchange that a test plays by hand) help.
//!
//! Over gRPC there is a proxy in between, which can go silent or reset the connection; the in-process network has links
//! for that, and a paused clock.

macro_rules! on_all_transports {
    ($($test:ident),* $(,)?) => {
        mod over_grpc {
            $(#[tokio::test] async fn $test() { super::$test(super::Net::grpc()).await; })*
        }
        mod over_unary_calls {
            $(#[tokio::test] async fn $test() { super::$test(super::Net::unary()).await; })*
        }
        mod in_memory {
            $(#[tokio::test(start_paused = true)] async fn $test() { super::$test(super::Net::memory()).await; })*
        }
    };
}

mod askers;
mod asks;
mod breaks;
mod calls;
mod handlers;
mod limits;
mod lingering;
mod messages;
mod net;
mod only;
mod protocol;
mod raw;
mod seeded;
