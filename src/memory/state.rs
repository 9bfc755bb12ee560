//! The state of a network: its links, who listens, and which connections are open, all under one lock.
//!
//! What must hold:
//!
//! - a connection is let in or refused in one critical section, so that none slips past a cut or a node that goes;
//! - a closed connection is in nobody's list, and the first reason to close it is the one that is told;
//! - the lock is held for a few lines at a time, never across an await, and no handler is dropped under it.
//!
//! It does not know what crosses a connection, nor how long that takes.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::transport::{Handler, Unreachable};

use super::links::{Link, Way};

/// What the handles of a network, its transports and its connections have in common.
pub(super) struct Shared {
    pub(super) message_limit: usize,
    state: Mutex<State>,
    /// Wakes the messages that wait for a link to change.
    changed: Notify,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) links: BTreeMap<Way, Link>,
    pub(super) connections: BTreeMap<u64, Arc<Line>>,
    listeners: BTreeMap<Arc<str>, Listener>,
    /// Addresses whose machine is off.
    unplugged: BTreeSet<Arc<str>>,
    last_id: u64,
}

struct Listener {
    id: u64,
    handler: Arc<dyn Handler>,
}

/// A connection, as far as the network knows it: who opened it to whom, and whether it is closed.
pub(super) struct Line {
    id: u64,
    /// Whose it is: a node that comes to the same address later is another one.
    listener: u64,
    pub(super) way: Way,
    pub(super) closed: CancellationToken,
    why_closed: OnceLock<&'static str>,
}

impl Shared {
    pub(super) fn new(message_limit: usize) -> Self {
        Self { message_limit, state: Mutex::default(), changed: Notify::new() }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes links, and wakes who waits for that.
    pub(super) fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_waiters();
    }

    /// Resolves as soon as the links are as `condition` wants them.
    pub(super) async fn until(&self, condition: impl Fn(&mut State) -> bool) {
        loop {
            // It is listened for changes before the look, so that none is missed in between.
            let changed = self.changed.notified();
            if condition(&mut self.state()) {
                return;
            }
            changed.await;
        }
    }

    pub(super) async fn until_audible(&self, way: &Way) {
        self.until(|state| !state.link(way).silent).await;
    }

    pub(super) fn close(&self, line: &Line, why: &'static str) {
        line.why_closed.get_or_init(|| why);
        self.state().connections.remove(&line.id);
        line.closed.cancel();
    }

    /// From now on nothing gets to an address nor away from it: its connections are reset, and there are no new ones.
    #[cfg(feature = "test-util")]
    pub(super) fn unplug(&self, address: &str) {
        self.state().unplugged.insert(Arc::from(address));
        self.reset("the machine is off", |line| *line.way.from == *address || *line.way.to == *address);
    }

    #[cfg(feature = "test-util")]
    pub(super) fn plug_in(&self, address: &str) {
        self.state().unplugged.remove(address);
    }

    /// Closes the connections that `which` picks.
    pub(super) fn reset(&self, why: &'static str, which: impl Fn(&Line) -> bool) {
        let lines: Vec<_> = self.state().connections.values().filter(|line| which(line)).cloned().collect();
        for line in lines {
            self.close(&line, why);
        }
    }
}

impl State {
    pub(super) fn link(&mut self, way: &Way) -> &mut Link {
        self.links.entry(way.clone()).or_default()
    }

    /// Opens a connection, if the link and a node at its end take it.
    pub(super) fn open(&mut self, way: Way) -> Result<Arc<Line>, Unreachable> {
        if self.link(&way).refusing {
            return Err(Unreachable::new(format!("{} refuses connections: the link is cut", way.to)));
        }
        if [&way.from, &way.to].into_iter().any(|end| self.unplugged.contains(end)) {
            return Err(Unreachable::new(format!("{} refuses connections: no machine is there", way.to)));
        }
        let Some(listener) = self.listeners.get(&way.to).map(|listener| listener.id) else {
            return Err(Unreachable::new(format!("{} refuses connections: no node is there", way.to)));
        };
        let (id, closed) = (self.new_id(), CancellationToken::new());
        let line = Arc::new(Line { id, listener, way, closed, why_closed: OnceLock::new() });
        self.connections.insert(id, Arc::clone(&line));
        Ok(line)
    }

    /// Looked up for each request, so that a connection does not keep alive a node that is gone.
    pub(super) fn handler(&self, line: &Line) -> Result<Arc<dyn Handler>, Unreachable> {
        let listener = self.listeners.get(&line.way.to).filter(|listener| listener.id == line.listener);
        listener.map(|listener| Arc::clone(&listener.handler)).ok_or_else(|| line.unreachable())
    }

    /// Where a node that wants `address` is to listen.
    fn address_for(&self, address: &str) -> io::Result<Arc<str>> {
        let address = match address.strip_suffix(":0") {
            Some(host) => self.free_address(host),
            None => Arc::from(address),
        };
        if self.listeners.contains_key(&address) {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, format!("another node listens at {address}")));
        }
        Ok(address)
    }

    fn new_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn free_address(&self, host: &str) -> Arc<str> {
        let taken = |address: &String| self.listeners.contains_key(address.as_str());
        let addresses = (1u64..).map(|port| format!("{host}:{port}"));
        addresses.skip_while(taken).map(Arc::from).next().unwrap_or_default()
    }
}

impl Line {
    /// Why nothing crosses it any more.
    pub(super) fn unreachable(&self) -> Unreachable {
        let why = self.why_closed.get().unwrap_or(&"the connection was closed");
        Unreachable::new(format!("{}: {why}", self.way.to))
    }
}

/// Listens for a node. Dropping it is the end of the node: connections to it are reset, and new ones refused.
pub(crate) struct ListenGuard {
    shared: Arc<Shared>,
    address: Arc<str>,
    id: u64,
}

impl ListenGuard {
    pub(super) fn new(shared: Arc<Shared>, address: &str, handler: Arc<dyn Handler>) -> io::Result<Self> {
        let mut state = shared.state();
        let (address, id) = (state.address_for(address)?, state.new_id());
        state.listeners.insert(Arc::clone(&address), Listener { id, handler });
        drop(state);
        Ok(Self { shared, address, id })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> &Arc<str> {
        &self.address
    }
}

impl Drop for ListenGuard {
    fn drop(&mut self) {
        let gone = self.shared.state().listeners.remove(&self.address);
        self.shared.reset("the node is gone", |line| line.listener == self.id);
        drop(gone); // the handler, last and outside of the lock: it may own anything
    }
}
