//! Who spawns keeps the handle: what a node does of its own accord runs in tasks that are spawned here, counted, ended
//! and joined.
//!
//! What runs elsewhere ends with what it is for: tonic's tasks, and one of the in-process network's, with the connection
//! that they carry; the shutdown of a node whose last handle is gone, with its last step; the making of a placement,
//! which whoever has set the list waits for.
//!
//! There are two kinds. **Work** is what somebody may wait for: loads, fetches, removals. It is given time to end when
//! the node shuts down, and cut short after that. **Services** are what the work needs: connections, the listener. They
//! are stopped when the work is done. Some work is no task (a question on its way to a peer): it is counted from its
//! [`begin`](Tasks::begin) to its [`end`](Tasks::end), and hangs on a service that is dropped when the work is cut
//! short.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::error::Error;
use crate::stats::Counter;
#[cfg(feature = "test-util")]
use crate::turns::Turns;

/// The kinds of work that a shutdown can cut short.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Work {
    Load,
    Fetch,
    Removal,
}

/// What a shutdown had to cut short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Calls of loaders that had not ended; their futures were dropped.
    pub loads_cut: u64,
    /// Requests to peers that had not been answered.
    pub fetches_cut: u64,
    /// Removals that had not been acknowledged by everybody.
    pub removals_cut: u64,
}

impl ShutdownReport {
    /// Whether everything that was in flight came to its end.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }
}

/// How long services get to end by themselves (connections to say goodbye, answers to leave) once the work is done.
const SERVICES_END: Duration = Duration::from_secs(3);

/// The tasks of one node.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    runtime: OnceLock<Handle>,
    /// Whether that one's time cannot be turned by hand.
    real_time: AtomicBool,
    work: TaskTracker,
    services: TaskTracker,
    closed: AtomicBool,
    /// Cuts the work short.
    cut: CancellationToken,
    is_cut: AtomicBool,
    /// Work that no task of its own is: how much has begun, and how much has ended.
    begun: Counter,
    ended: Counter,
    others_ended: Notify,
    /// Whether somebody waits for that. (Sequentially consistent, like the counts: whoever ends sees it, or is seen.)
    joining: AtomicBool,
    /// Asks the services to end.
    stop: CancellationToken,
    /// Ends the services.
    end: CancellationToken,
    cut_short: Arc<[AtomicU64; 3]>,
    /// What a simulation stops the node with.
    #[cfg(feature = "test-util")]
    pub(crate) turns: Arc<Turns>,
}

impl Tasks {
    /// The runtime that the node's tasks run on: the one it was made in, or else the one it was first used in.
    pub(crate) fn runtime(&self) -> Result<&Handle, Error> {
        if let Some(runtime) = self.runtime.get() {
            return Ok(runtime);
        }
        let current = Handle::try_current().map_err(|_| Error::NoRuntime)?;
        Ok(self.runtime.get_or_init(|| {
            // Tokio lets a runtime of one thread be paused, and no other.
            self.real_time.store(current.runtime_flavor() != RuntimeFlavor::CurrentThread, Ordering::Relaxed);
            current
        }))
    }

    /// Whether the time of the node's runtime is that of the machine, and cannot be anything else. Not if it is not
    /// known yet on which it runs.
    #[inline]
    pub(crate) fn is_real_time(&self) -> bool {
        self.real_time.load(Ordering::Relaxed)
    }

    /// Spawns work. If the node is cut short it is dropped where it stands; what it leads lands with [`Error::Closed`]
    /// then, as it does when there is no runtime.
    pub(crate) fn work(&self, kind: Work, work: impl Future<Output = ()> + Send + 'static) {
        let Ok(runtime) = self.runtime() else { return };
        let (cut, cut_short) = (self.cut.clone(), Arc::clone(&self.cut_short));
        #[cfg(feature = "test-util")]
        let work = self.turns.gate(work);
        let task = async move {
            if cut.run_until_cancelled_owned(work).await.is_none() {
                cut_short[kind as usize].fetch_add(1, Ordering::Relaxed);
            }
        };
        self.work.spawn_on(task, runtime);
    }

    /// Spawns a service. It is to end when [`stopping`](Self::stopping) says so, and is dropped if it does not.
    pub(crate) fn service(&self, service: impl Future<Output = ()> + Send + 'static) {
        let Ok(runtime) = self.runtime() else { return };
        let end = self.end.clone();
        #[cfg(feature = "test-util")]
        let service = self.turns.gate(service);
        let task = async move {
            end.run_until_cancelled_owned(service).await;
        };
        self.services.spawn_on(task, runtime);
    }

    /// Spawns a service that what is under way hangs on: it is dropped when the work is cut short.
    pub(crate) fn service_until_cut(&self, service: impl Future<Output = ()> + Send + 'static) {
        let cut = self.cut.clone();
        self.service(async move {
            cut.run_until_cancelled_owned(service).await;
        });
    }

    /// Something begins that is work, though no task of its own is: the node waits for its [`end`](Self::end) as it
    /// does for tasks.
    pub(crate) fn begin(&self) {
        self.begun.one();
    }

    /// It ends. If it was dropped because the work is cut short, it counts as cut short.
    pub(crate) fn end(&self, kind: Work) {
        if self.is_cut.load(Ordering::SeqCst) {
            self.cut_short[kind as usize].fetch_add(1, Ordering::Relaxed);
        }
        self.ended.one();
        if self.joining.load(Ordering::SeqCst) {
            self.others_ended.notify_waiters();
        }
    }

    /// Waits until all that has begun has ended, tasks or not.
    async fn all_ended(&self) {
        loop {
            self.work.wait().await;
            let another = self.others_ended.notified();
            // What has ended is read first: if it is as much as has begun by the time that is read, then in between
            // nothing was under way.
            let ended = self.ended.get();
            if ended < self.begun.get() {
                another.await;
            } else if self.work.is_empty() {
                return;
            }
        }
    }

    /// Fires when the services are to end.
    pub(crate) fn stopping(&self) -> &CancellationToken {
        &self.stop
    }

    /// Whether the node takes no more calls.
    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// From here on the node takes no more calls. Says whether it did until now.
    pub(crate) fn close(&self) -> bool {
        !self.closed.swap(true, Ordering::AcqRel)
    }

    /// Waits up to `limit` for the work, cuts short what is left of it, then ends the services, and joins every task.
    pub(crate) async fn join(&self, limit: Duration) -> ShutdownReport {
        self.work.close();
        self.joining.store(true, Ordering::SeqCst);
        // A time-out is no failure here: it is what the limit is for.
        let _ = tokio::time::timeout(limit, self.all_ended()).await;
        self.is_cut.store(true, Ordering::SeqCst);
        self.cut.cancel();
        self.all_ended().await;
        self.services.close();
        self.stop.cancel();
        let _ = tokio::time::timeout(SERVICES_END, self.services.wait()).await;
        self.end.cancel();
        self.services.wait().await;
        let count = |kind: Work| self.cut_short[kind as usize].load(Ordering::Relaxed);
        ShutdownReport {
            loads_cut: count(Work::Load),
            fetches_cut: count(Work::Fetch),
            removals_cut: count(Work::Removal),
        }
    }

    /// How many tasks there are now: work, and services.
    #[cfg(test)]
    pub(crate) fn len(&self) -> (usize, usize) {
        (self.work.len(), self.services.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_is_given_time_to_end() {
        let tasks = Tasks::default();
        tasks.work(Work::Load, tokio::time::sleep(Duration::from_secs(1)));
        assert!(tasks.join(Duration::from_secs(2)).await.is_clean());
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_end_is_cut_short_and_told() {
        let tasks = Tasks::default();
        tasks.work(Work::Load, std::future::pending());
        tasks.work(Work::Fetch, std::future::pending());
        tasks.service(std::future::pending());
        let report = tasks.join(Duration::from_secs(2)).await;
        assert_eq!((report.loads_cut, report.fetches_cut, report.removals_cut), (1, 1, 0));
        assert_eq!(tasks.len(), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_task_is_waited_for_too_and_told_if_it_is_cut_short() {
        for (takes, cut) in [(1, 0), (3, 1)] {
            let tasks = Arc::new(Tasks::default());
            tasks.begin();
            let under_way = Arc::clone(&tasks);
            tasks.service_until_cut(async move {
                let _ended = Ended(under_way);
                tokio::time::sleep(Duration::from_secs(takes)).await;
            });
            assert_eq!(tasks.join(Duration::from_secs(2)).await.fetches_cut, cut, "{takes} s");
        }
    }

    struct Ended(Arc<Tasks>);

    impl Drop for Ended {
        fn drop(&mut self) {
            self.0.end(Work::Fetch);
        }
    }

    #[tokio::test]
    async fn services_are_stopped_after_the_work() {
        let tasks = Tasks::default();
        let stop = tasks.stopping().clone();
        tasks.service(async move { stop.cancelled().await });
        tasks.work(Work::Removal, std::future::ready(()));
        assert!(tasks.join(Duration::from_secs(60)).await.is_clean());
    }

    #[test]
    fn without_a_runtime_work_is_dropped_rather_than_panicking() {
        let tasks = Tasks::default();
        assert!(matches!(tasks.runtime(), Err(Error::NoRuntime)));
        tasks.work(Work::Load, std::future::pending());
    }
}
