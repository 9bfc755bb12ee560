//! Where a yardstick's requests gather, and where those who asked wait.
//!
//! Requests are written into the next batch as they come, under one lock with the table of who waits. The writer takes
//! the whole batch when it is free to write: while one is on its way the next one grows, and there is no timer. After
//! the first request has woken it, the writer lets the runtime turn once, so that whoever is about to ask gets aboard.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use tokio::sync::oneshot;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Desk(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    batch: BytesMut,
    writer: Option<Waker>,
    has_turned: bool,
    waiting: Vec<Option<oneshot::Sender<Bytes>>>,
    free: Vec<u32>,
}

impl Desk {
    /// Adds a request to the batch. It is written with the number under which its answer will come.
    pub(super) fn ask(&self, write: impl FnOnce(&mut BytesMut, u32)) -> oneshot::Receiver<Bytes> {
        let (sender, receiver) = oneshot::channel();
        let mut guard = self.state();
        let state = &mut *guard;
        let id = state.free.pop().unwrap_or_else(|| {
            state.waiting.push(None);
            u32::try_from(state.waiting.len() - 1).unwrap_or(u32::MAX)
        });
        state.waiting[id as usize] = Some(sender);
        write(&mut state.batch, id);
        let writer = state.writer.take();
        drop(guard);
        if let Some(writer) = writer {
            writer.wake();
        }
        receiver
    }

    /// The next batch, when there is one.
    pub(super) fn poll_batch(&self, cx: &mut Context<'_>) -> Poll<BytesMut> {
        let mut state = self.state();
        if state.batch.is_empty() {
            state.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if !std::mem::replace(&mut state.has_turned, true) {
            drop(state);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        state.has_turned = false;
        Poll::Ready(state.batch.split())
    }

    /// Hands out answers.
    pub(super) fn answer(&self, answers: impl IntoIterator<Item = (u32, Bytes)>, hands: &mut Hands) {
        let mut state = self.state();
        for (id, value) in answers {
            if let Some(sender) = state.waiting.get_mut(id as usize).and_then(Option::take) {
                state.free.push(id);
                hands.0.push((sender, value));
            }
        }
        drop(state);
        for (sender, value) in hands.0.drain(..) {
            // Whoever asked may have left.
            let _ = sender.send(value);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room for answers between the lock and those who wait; kept from batch to batch.
#[derive(Debug, Default)]
pub(super) struct Hands(Vec<(oneshot::Sender<Bytes>, Bytes)>);
