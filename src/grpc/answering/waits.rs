//! Answers of an exchange that are not there yet.
//!
//! Each can be given up. **What is given up is dropped at once**, not when somebody next looks whether an answer is
//! there: while large values wait to be sent nobody does, and a load that nobody wants would stay in line.

use std::collections::HashMap;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};

use crate::message::{Answer, Refusal, Reply};
use crate::wire::frames::Response;

/// What is waited for.
type Coming = BoxFuture<'static, Result<Answer, Refusal>>;

/// The waits of one exchange.
#[derive(Default)]
pub(super) struct Waits {
    waiting: FuturesUnordered<Wait>,
    by_id: HashMap<u64, Arc<Place>>,
}

/// Where an answer that is waited for comes to be.
#[derive(Default)]
struct Place(Mutex<State>);

#[derive(Default)]
struct State {
    /// `None` once it has come, or was given up.
    coming: Option<Coming>,
    waker: Option<Waker>,
}

/// Ends with a response, or with none if it was given up.
struct Wait {
    id: u64,
    place: Arc<Place>,
}

impl Waits {
    /// How many there are; those that have been given up count until they are seen to have ended.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Waits for the answer to the question with this id.
    pub(super) fn add(&mut self, id: u64, coming: Coming) {
        let place = Arc::new(Place(Mutex::new(State { coming: Some(coming), waker: None })));
        self.by_id.insert(id, Arc::clone(&place));
        self.waiting.push(Wait { id, place });
    }

    /// Drops what the question with this id waits for; says whether there is such a question.
    pub(super) fn give_up(&mut self, id: u64) -> bool {
        let Some(place) = self.by_id.remove(&id) else { return false };
        let State { coming, waker } = mem::take(&mut *place.state());
        drop(coming);
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// The next response, if there is one now.
    pub(super) fn next(&mut self, cx: &mut Context<'_>) -> Option<Response> {
        while let Poll::Ready(Some(ended)) = self.waiting.poll_next_unpin(cx) {
            if let Some(response) = ended {
                self.by_id.remove(&response.id);
                return Some(response);
            }
        }
        None
    }
}

impl Place {
    fn state(&self) -> MutexGuard<'_, State> {
        // An exchange is one task's: the lock is always free, and what a panic leaves behind is dropped.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Future for Wait {
    type Output = Option<Response>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.place.state();
        let Some(coming) = &mut state.coming else { return Poll::Ready(None) };
        match coming.as_mut().poll(cx) {
            Poll::Ready(answer) => {
                state.coming = None;
                Poll::Ready(Some(Response { id: self.id, reply: answer.map(Reply::Get), sliced: 0 }))
            }
            Poll::Pending => {
                // Nearly always the same as before.
                match &mut state.waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    none => *none = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
        }
    }
}
