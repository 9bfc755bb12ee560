//! What a group needs of its node, and what keeps the node alive.

use std::sync::Arc;

use crate::clock::Clock;
use crate::coherence::Coherence;
use crate::error::Error;
use crate::peers::Peers;
use crate::tasks::Tasks;
use crate::time::Moment;

/// What all groups of a node share.
pub(crate) struct Context {
    pub(crate) peers: Arc<Peers>,
    pub(crate) tasks: Arc<Tasks>,
    pub(crate) clock: Clock,
    pub(crate) coherence: Arc<Coherence>,
    pub(crate) max_value_bytes: usize,
}

impl Context {
    /// Passes while the node takes calls.
    #[inline]
    pub(crate) fn check_open(&self) -> Result<(), Error> {
        if self.tasks.is_closed() { Err(Error::Closed) } else { Ok(()) }
    }

    /// Whether a moment is still to come. The time is read only if that depends on it: not for what never comes, nor,
    /// where nobody can turn the time by hand, for what is a second or more away.
    #[inline]
    pub(crate) fn is_to_come(&self, moment: Moment) -> bool {
        moment == Moment::NEVER
            || (self.tasks.is_real_time() && self.clock.latest() < moment)
            || self.clock.now() < moment
    }

    /// Passes where there are timers to wait with, and tasks to spawn.
    pub(crate) fn check_runtime(&self) -> Result<(), Error> {
        self.tasks.runtime()?;
        // Who is in a task is in a runtime, which needs no handle to it, which all threads would write to, to be known.
        if tokio::task::try_id().is_some() {
            return Ok(());
        }
        tokio::runtime::Handle::try_current().map(drop).map_err(|_| Error::NoRuntime)
    }
}

/// Held by every handle that a user has, of the node and of its groups; when the last is dropped, the node shuts down.
/// What the node itself holds (its groups, their loaders) does not keep it alive.
pub(crate) struct Life {
    end: Box<dyn Fn() + Send + Sync>,
}

impl Life {
    /// `end` starts the shutdown, without waiting for it.
    pub(crate) fn new(end: impl Fn() + Send + Sync + 'static) -> Self {
        Self { end: Box::new(end) }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        (self.end)();
    }
}
