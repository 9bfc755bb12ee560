//! The turns that a node's tasks get to run, and how a simulation withholds them.
//!
//! A process that is stopped (by a debugger, a full machine, a snapshot) runs nothing, while time goes on. Nodes of a
//! simulation share one thread, so that one of them is stopped by passing over its tasks: a task that is woken
//! meanwhile notes that it was, and gets its turn when the node goes on.
//!
//! With the feature `test-util` alone: a node of a service never passes over anything.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures::future::poll_fn;

/// Whether a node's tasks get their turns.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    withheld: bool,
    /// Those that would have had a turn, in order.
    passed_over: Vec<Waker>,
}

impl Turns {
    /// From now on no task of the node runs.
    pub(crate) fn withhold(&self) {
        self.state().withheld = true;
    }

    /// The node goes on; who was passed over has its turn first.
    pub(crate) fn give(&self) {
        let passed_over = {
            let mut state = self.state();
            state.withheld = false;
            std::mem::take(&mut state.passed_over)
        };
        passed_over.into_iter().for_each(Waker::wake);
    }

    /// The same future, which runs when the node does.
    ///
    /// It is boxed: what wraps a future moves it, and those of a simulation are moved more often than they are polled.
    pub(crate) fn gate<F: Future>(self: &Arc<Self>, future: F) -> impl Future<Output = F::Output> + use<F> {
        let (turns, mut future) = (Arc::clone(self), Box::pin(future));
        poll_fn(move |context| if turns.passes_over(context) { Poll::Pending } else { future.as_mut().poll(context) })
    }

    /// Whether a task that is about to run is to wait.
    fn passes_over(&self, context: &Context<'_>) -> bool {
        let mut state = self.state();
        if state.withheld {
            state.passed_over.push(context.waker().clone());
        }
        state.withheld
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_withheld_waits_and_loses_nothing() {
        let turns = Arc::new(Turns::default());
        let (told, hears) = tokio::sync::oneshot::channel();
        let mut task = pin!(turns.gate(hears));
        assert!(timeout(Duration::from_secs(1), task.as_mut()).await.is_err());
        turns.withhold();
        told.send(7).unwrap();
        assert!(timeout(Duration::from_secs(1), task.as_mut()).await.is_err(), "it ran while the node stood still");
        turns.give();
        assert_eq!(task.await, Ok(7));
    }
}
