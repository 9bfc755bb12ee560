//! Tasks that are to be woken, gathered so that they can be woken as one.
//!
//! Where answers come many at a time, so do the tasks that wait for them. Woken one by one from within a task, each is
//! a reason for the runtime to rouse an idle thread: it takes the one task that is there, has nothing more to do, and
//! sleeps again, six or seven times a frame of answers. What is woken **between** tasks, where the runtime wakes those
//! that sockets and timers are ready for, rouses one thread for all.
//!
//! What that costs: they are woken once the thread has nothing else to run, or has run as many tasks as tokio lets pass
//! between two looks at sockets and timers (61 unless the runtime is told otherwise); and not later if one of those
//! blocks in place. All of this is how fast it is, and not whether they are woken: without tokio, or should a yield mean
//! something else one day, they are woken when they are dropped.
//!
//! What they wait for came together, so it came at one moment, which is kept here for all who hand it out.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::{future, mem};

use crate::clock::Clock;
use crate::time::Moment;

/// Tasks that are to be woken: at the latest when this is dropped, so that nobody is forgotten on any path.
#[derive(Debug, Default)]
pub(crate) struct Wakes {
    tasks: Vec<Waker>,
    /// When what they wait for came, once somebody has asked.
    came: Option<Moment>,
}

impl Wakes {
    /// With room for so many.
    pub(crate) fn for_up_to(count: usize) -> Self {
        Self { tasks: Vec::with_capacity(count), came: None }
    }

    pub(crate) fn add(&mut self, waker: Waker) {
        self.tasks.push(waker);
    }

    /// When what they wait for came. All of it came together: the clock is read for the first who asks.
    pub(crate) fn came(&mut self, clock: &Clock) -> Moment {
        *self.came.get_or_insert_with(|| clock.now())
    }

    /// Wakes them between tasks, if they are several, and goes on when that is done, or when it is polled again for
    /// another reason. If this is dropped before, they are woken all the same.
    pub(crate) async fn together(mut self) {
        if self.tasks.len() < 2 {
            return;
        }
        future::poll_fn(|context| {
            if self.tasks.is_empty() {
                return Poll::Ready(());
            }
            // First, so that the next frame is looked for while there is work for others.
            self.tasks.insert(0, context.waker().clone());
            let bundle = Waker::from(Arc::new(Bundle(Mutex::new(mem::take(&mut self)))));
            // A task that yields is woken between tasks: here that is the bundle.
            let turn = pin!(tokio::task::yield_now());
            turn.poll(&mut Context::from_waker(&bundle))
        })
        .await;
    }
}

impl Drop for Wakes {
    fn drop(&mut self) {
        self.tasks.drain(..).for_each(Waker::wake);
    }
}

/// Wakers as one.
struct Bundle(Mutex<Wakes>);

impl Wake for Bundle {
    fn wake(self: Arc<Self>) {
        let wakes = mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        drop(wakes);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    /// Who was woken, in their order, and how often the test's task was polled.
    #[derive(Default)]
    struct Noting {
        woken: Mutex<Vec<usize>>,
        polls: AtomicUsize,
    }

    struct Noted(Arc<Noting>, usize);

    impl Wake for Noted {
        fn wake(self: Arc<Self>) {
            self.0.woken.lock().unwrap().push(self.1);
        }
    }

    impl Noting {
        fn wakes(self: &Arc<Self>, count: usize) -> Wakes {
            let mut wakes = Wakes::default();
            for who in 0..count {
                wakes.add(Waker::from(Arc::new(Noted(Arc::clone(self), who))));
            }
            wakes
        }

        fn woken(&self) -> Vec<usize> {
            self.woken.lock().unwrap().clone()
        }
    }

    #[test]
    fn nobody_is_forgotten_when_they_are_dropped() {
        let noting = Arc::<Noting>::default();
        drop(noting.wakes(3));
        assert_eq!(noting.woken(), [0, 1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_came_together_came_at_one_moment() {
        let (clock, mut wakes) = (Clock::start(), Wakes::default());
        let came = wakes.came(&clock);
        assert_eq!(came, clock.now());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(wakes.came(&clock), came, "however long it takes to hand it out");
        assert_eq!(Wakes::default().came(&clock), came + Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn several_are_woken_between_tasks_and_one_at_once() {
        let noting = Arc::<Noting>::default();
        let one = noting.wakes(1).together();
        assert!(pin!(one).poll(&mut Context::from_waker(Waker::noop())).is_ready(), "there is nothing to wait for");
        assert_eq!(noting.woken(), [0]);

        let mut together = Box::pin(noting.wakes(3).together());
        let clock = Clock::start();
        let began = clock.now();
        let turns = future::poll_fn(|context| {
            if noting.polls.fetch_add(1, Ordering::SeqCst) == 0 {
                assert!(together.as_mut().poll(context).is_pending());
                assert_eq!(noting.woken(), [0], "not while a task runs");
                return Poll::Pending;
            }
            assert_eq!(noting.woken(), [0, 0, 1, 2], "all, with the task itself");
            together.as_mut().poll(context)
        });
        tokio::time::timeout(Duration::from_secs(1), turns).await.expect("it goes on");
        assert_eq!(clock.now(), began, "not for the limit's sake");
        assert_eq!(noting.polls.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn they_are_woken_though_who_would_have_waited_for_that_is_gone() {
        let noting = Arc::<Noting>::default();
        drop(noting.wakes(2).together());
        assert_eq!(noting.woken(), [0, 1], "it had not begun");

        let mut together = Box::pin(noting.wakes(2).together());
        future::poll_fn(|context| {
            assert!(together.as_mut().poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
        drop(together);
        tokio::task::yield_now().await;
        assert_eq!(noting.woken(), [0, 1, 0, 1]);
    }

    #[test]
    fn without_a_runtime_they_are_woken_at_once() {
        let noting = Arc::<Noting>::default();
        let mut together = pin!(noting.wakes(2).together());
        let mut context = Context::from_waker(Waker::noop());
        assert!(together.as_mut().poll(&mut context).is_pending());
        assert_eq!(noting.woken(), [0, 1]);
        assert!(together.poll(&mut context).is_ready());
    }
}
