//! One machine of a simulated cluster: the process on it, and what the faults of the moment want of it.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::node::Node;

use super::Fault;

/// A place for a process: it stays when the process goes.
pub(super) struct Machine<S> {
    pub(super) address: String,
    pub(super) process: Option<Process<S>>,
    /// Whether a process is about to end or to start.
    pub(super) is_changing: bool,
}

/// One run of a node.
pub(super) struct Process<S> {
    pub(super) node: Node,
    pub(super) service: S,
    /// Fires when it is gone: what runs in it ends then, wherever it stands.
    pub(super) gone: CancellationToken,
    /// Whom it was told to list last.
    listed: Vec<usize>,
    stands_still: bool,
}

/// How a process ends.
#[derive(Clone, Copy)]
pub(super) enum End {
    Crash,
    ShutDown(Duration),
}

/// What the faults of the moment want of one machine.
pub(super) struct Wanted {
    /// No process.
    pub(super) down: Option<End>,
    pub(super) still: bool,
    /// Whom its node lists, itself included.
    pub(super) list: Vec<usize>,
}

impl Wanted {
    pub(super) fn of<'a>(faults: &(impl Iterator<Item = &'a Fault> + Clone), machine: usize, machines: usize) -> Self {
        let ends = faults.clone().filter(|fault| fault.downs() == Some(machine)).map(|fault| match fault {
            Fault::Restart { limit, .. } => End::ShutDown(*limit),
            _ => End::Crash,
        });
        let is_missing = |other: &usize| {
            faults.clone().any(|fault| match fault {
                Fault::List { node, without } => *node == machine && other != node && without.contains(other),
                _ => false,
            })
        };
        Self {
            down: ends.last(),
            still: faults.clone().any(|fault| *fault == Fault::Pause { node: machine }),
            list: (0..machines).filter(|other| !is_missing(other)).collect(),
        }
    }
}

impl<S> Process<S> {
    pub(super) fn new(node: Node, service: S, listed: Vec<usize>) -> Self {
        Self { node, service, gone: CancellationToken::new(), listed, stands_still: false }
    }

    /// Stops it, or lets it go on.
    pub(super) fn be_still(&mut self, still: bool) {
        if std::mem::replace(&mut self.stands_still, still) != still {
            let turns = self.node.turns();
            if still { turns.withhold() } else { turns.give() }
        }
    }

    /// The members that it has to be told of, if its list is another one.
    pub(super) fn is_to_list(&mut self, list: &[usize]) -> bool {
        let is_news = self.listed != list;
        if is_news {
            self.listed = list.to_vec();
        }
        is_news
    }

    pub(super) fn listed(&self) -> &[usize] {
        &self.listed
    }

    /// Ends it; what it still runs is dropped.
    pub(super) async fn end(mut self, how: End) {
        self.be_still(false);
        let limit = match how {
            End::Crash => {
                self.gone.cancel();
                Duration::ZERO
            }
            End::ShutDown(limit) => limit,
        };
        let _ = self.node.shutdown(limit).await;
        self.gone.cancel();
    }
}
