//! What a group needs of its node, and what keeps the node alive.

use std::sync::Arc;

use crate::clock::Clock;
use crate::coherence::Coherence;
use crate::error::Error;
use crate::peers::Peers;
use crate::pulse::Pulse;
use crate::tasks::Tasks;
use crate::time::Moment;

/// What all groups of a node share.
pub(crate) struct Context {
    pub(crate) peers: Arc<Peers>,
    pub(crate) tasks: Arc<Tasks>,
    pub(crate) clock: Clock,
    pub(crate) coherence: Arc<Coherence>,
    pub(crate) pulse: Pulse,
    pub(crate) max_value_bytes: usize,
}

impl Context {
    /// Passes while the node takes calls.
    #[inline]
    pub(crate) fn check_open(&self) -> Result<(), Error> {
        if self.tasks.is_closed() { Err(Error::Closed) } else { Ok(()) }
    }

    /// Whether what is held may be served that is due at a moment: if that is still to come, and this process has not
    /// stood still. The time is read only if that depends on it: not for what is never due, nor, where nobody can turn
    /// the time by hand, if both moments are a second or more away.
    #[inline]
    pub(crate) fn may_be_served(&self, due: Moment) -> bool {
        let trusted = self.pulse.trusted_until();
        if due == Moment::NEVER {
            // To hold that against the time would double what it costs to look at it: the next beat tells.
            return trusted != Moment::START;
        }
        let until = due.min(trusted);
        (self.tasks.is_real_time() && self.clock.latest() < until) || self.clock.now() < until
    }

    /// Resolves when what is held may be served, as far as this process's having stood still goes.
    pub(crate) async fn until_trusted(&self) {
        self.pulse.until_trusted(|| self.clock.now()).await;
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
