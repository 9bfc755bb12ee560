//! Questions as calls: for connections that carry requests one by one.
//!
//! The in-process network does, and so does a gRPC connection to a peer that knows no exchange. Here the questions of
//! one [`ask`](crate::transport::Connection::ask) become a call for one key or for many, and its reply their answers.
//! The calls run in the connection's driver, so that they end with it. What is under way is bounded, where the connection
//! says so; what is beyond is `Busy` at once.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::clock;
use crate::key::Key;
use crate::message::{After, Answer, Ask, Get, GetMany, GetTerms, Refusal, RefusalKind, Reply, Request, Sender};
use crate::transport::{Asker, CallError, Question};
use crate::wakes::Wakes;
use crate::wire;

/// How often it is asked whether anybody still wants the answers of a call: patience may end before its time.
const LOOK_AGAIN_EVERY: Duration = Duration::from_millis(100);

/// So many bytes of questions and calls may be under way to another process; a single one may be larger.
pub(crate) const MOST_BYTES: usize = 64 << 20;

/// What each counts for beside its own bytes: so they are 65,536 at most.
const CALL_BYTES: usize = 1 << 10;

/// Where a connection puts the calls that its driver is to run.
pub(crate) struct Calls {
    running: mpsc::UnboundedSender<BoxFuture<'static, ()>>,
    /// A permit for each byte.
    room: Arc<Semaphore>,
}

/// A part of what may be under way, until it is dropped.
pub(crate) type Taken = OwnedSemaphorePermit;

/// Who waits for an answer, and the room that the question takes.
struct Waiting {
    asker: Box<dyn Asker>,
    _room: Taken,
}

/// What the driver takes them from.
pub(crate) struct Running(mpsc::UnboundedReceiver<BoxFuture<'static, ()>>);

impl Calls {
    /// Calls of which so many bytes may be under way.
    pub(crate) fn new(most: usize) -> (Self, Running) {
        let (calls, running) = mpsc::unbounded_channel();
        (Self { running: calls, room: Arc::new(Semaphore::new(most)) }, Running(running))
    }

    /// Room for a question or a call of so many bytes.
    pub(crate) fn take_room(&self, bytes: usize) -> Result<Taken, CallError> {
        let bytes = bytes.saturating_add(CALL_BYTES).min(MOST_BYTES);
        let taken = Arc::clone(&self.room).try_acquire_many_owned(u32::try_from(bytes).unwrap_or(u32::MAX));
        taken.map_err(|_| CallError::Busy)
    }

    /// Asks by `call`, with as few messages as there may be.
    pub(crate) fn ask<F>(&self, call: F, sender: &Arc<Sender>, terms: &GetTerms, questions: Vec<Question>)
    where
        F: Fn(Request) -> BoxFuture<'static, Result<Reply, CallError>>,
    {
        let send = |ask: Ask, askers: Vec<Waiting>| {
            let reply = call(Request { sender: Some(Arc::clone(sender)), ask });
            // It fails only if the driver is gone, which leaves the askers without an answer, as it should.
            let _ = self.running.send(Box::pin(answer_all(reply, askers)));
        };
        let (mut plain, mut wakes) = (Vec::new(), Wakes::default());
        for Question { key, after, asker } in questions {
            let waiting = match self.take_room(key.len() + size_of_val(&*after.removed)) {
                Ok(room) => Waiting { asker, _room: room },
                Err(error) => {
                    asker.take(Err(error), &mut wakes);
                    continue;
                }
            };
            // A question that says more than others goes by itself.
            if after == After::default() {
                plain.push((key, waiting));
            } else {
                send(Ask::Get(Get { terms: terms.clone(), key, after }), vec![waiting]);
            }
        }
        for questions in wire::split_keys(plain, |(key, _)| key) {
            let (keys, askers): (Vec<Key>, Vec<_>) = questions.into_iter().unzip();
            let terms = terms.clone();
            let ask = match <[Key; 1]>::try_from(keys) {
                Ok([key]) => Ask::Get(Get { terms, key, after: After::default() }),
                Err(keys) => Ask::GetMany(GetMany { terms, keys }),
            };
            send(ask, askers);
        }
    }
}

impl Running {
    /// Runs the calls, until nobody can put any more and all have ended.
    pub(crate) async fn run(mut self) {
        let mut calls = FuturesUnordered::new();
        let mut is_open = true;
        while is_open || !calls.is_empty() {
            tokio::select! {
                biased; // what ends makes room before there is more of it; and a simulation runs the same way twice
                Some(()) = calls.next() => {}
                call = self.0.recv(), if is_open => match call {
                    Some(call) => calls.push(call),
                    None => is_open = false,
                },
            }
        }
    }
}

async fn answer_all(reply: BoxFuture<'static, Result<Reply, CallError>>, askers: Vec<Waiting>) {
    let outcome = tokio::select! {
        biased;
        reply = reply => reply.and_then(|reply| answers_in(reply, askers.len())),
        () = impatience(&askers) => Err(CallError::GivenUp),
    };
    let mut wakes = Wakes::default();
    match outcome {
        Ok(mut answers) => {
            askers
                .into_iter()
                .zip(&mut answers)
                .for_each(|(waiting, answer)| waiting.asker.take(Ok(answer), &mut wakes));
        }
        Err(error) => askers.into_iter().for_each(|waiting| waiting.asker.take(Err(error.clone()), &mut wakes)),
    }
}

fn answers_in(reply: Reply, count: usize) -> Result<Vec<Answer>, CallError> {
    match reply {
        Reply::Get(answer) if count == 1 => Ok(vec![answer]),
        Reply::GetMany(answers) if answers.len() == count => Ok(answers),
        _ => Err(Refusal::new(RefusalKind::Invalid, "the reply does not fit the request").into()),
    }
}

/// Resolves when none of them has any use for an answer any more.
async fn impatience(askers: &[Waiting]) {
    while let Some(patience) = askers.iter().filter_map(|waiting| waiting.asker.patience()).max() {
        clock::sleep(patience.min(LOOK_AGAIN_EVERY)).await;
    }
}
