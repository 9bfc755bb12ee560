//! Unary calls to a peer: for one that knows no exchange, and for requests that belong on none.

use std::sync::Arc;

use futures::future::BoxFuture;
use tonic::Status;
use tonic::transport::Channel;

use super::call_error_of;
use super::stream::Signs;
use crate::calls::Calls;
use crate::message::{GetTerms, Reply, Request, Sender};
use crate::transport::{CallError, Connection, Question, Unreachable};
use crate::wire::proto::GetManyRequest;
use crate::wire::proto::peerage_client::PeerageClient;
use crate::wire::{Gathering, WireRequest, check_size};

/// Calls on a channel.
#[derive(Clone)]
pub(super) struct Unary {
    client: PeerageClient<Channel>,
    message_limit: usize,
    signs: Signs,
}

impl Unary {
    pub(super) fn new(channel: Channel, message_limit: usize, signs: Signs) -> Self {
        let client = PeerageClient::new(channel).max_decoding_message_size(message_limit);
        Self { client, message_limit, signs }
    }

    pub(super) fn call(&self, request: Request) -> BoxFuture<'static, Result<Reply, CallError>> {
        self.send(request.into())
    }

    fn send(&self, request: WireRequest) -> BoxFuture<'static, Result<Reply, CallError>> {
        let (client, limit, closed) = (self.client.clone(), self.message_limit, self.signs.closed.clone());
        Box::pin(async move {
            check_size("request", request.encoded_len(), limit)?;
            tokio::select! {
                biased; // a reply that has come before the end counts
                reply = ask(client, request) => reply,
                () = closed.cancelled() => Err(Unreachable::new("the connection was closed").into()),
            }
        })
    }
}

/// A connection to a peer that knows no exchange. Dropping it closes it, once the calls on it have ended.
pub(super) struct UnaryConnection {
    pub(super) unary: Unary,
    pub(super) calls: Calls,
}

impl Connection for UnaryConnection {
    fn call(&self, request: Request) -> BoxFuture<'static, Result<Reply, CallError>> {
        let request = WireRequest::from(request);
        let room = self.calls.take_room(request.encoded_len());
        let reply = self.unary.send(request);
        Box::pin(async move {
            let _room = room?;
            reply.await
        })
    }

    fn ask(&self, sender: &Arc<Sender>, terms: GetTerms, questions: &mut dyn Iterator<Item = Question>) {
        self.calls.ask(|request| self.unary.call(request), sender, &terms, questions.collect());
    }

    fn closed(&self) -> BoxFuture<'static, ()> {
        Box::pin(self.unary.signs.closed.clone().cancelled_owned())
    }
}

async fn ask(mut client: PeerageClient<Channel>, request: WireRequest) -> Result<Reply, CallError> {
    match request {
        WireRequest::Hello(message) => {
            let hello = client.hello(message).await.map_err(failed)?;
            Ok(Reply::Hello(hello.into_inner().try_into()?))
        }
        WireRequest::Get(message) => {
            let answer = client.get(message).await.map_err(failed)?;
            Ok(Reply::Get(answer.into_inner().try_into()?))
        }
        WireRequest::GetMany(message) => ask_many(client, message).await,
        WireRequest::Remove(message) => {
            let reply = client.remove(message).await.map_err(failed)?;
            Ok(reply.into_inner().try_into()?)
        }
        WireRequest::Insert(message) => {
            let reply = client.insert(message).await.map_err(failed)?;
            Ok(reply.into_inner().try_into()?)
        }
    }
}

async fn ask_many(mut client: PeerageClient<Channel>, message: GetManyRequest) -> Result<Reply, CallError> {
    let mut answers = Gathering::of(message.keys.len());
    let mut chunks = client.get_many(message).await.map_err(failed)?.into_inner();
    while let Some(chunk) = chunks.message().await.map_err(failed)? {
        answers.add(chunk)?;
    }
    Ok(Reply::GetMany(answers.finish()?))
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that `map_err` takes")]
fn failed(status: Status) -> CallError {
    call_error_of(&status)
}
