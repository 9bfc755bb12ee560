//! The line: loads that wait for their turn, and what is known of each.

use std::sync::Arc;

use crate::entry::Value;
use crate::loader::Inside;
use crate::queue::{Limits, Queue};
use crate::shards::Lead;

/// A load that waits for its turn, and the load from inside of which it was asked for.
pub(super) struct Queued<V: Value> {
    pub(super) lead: Lead<V>,
    pub(super) outer: Option<Arc<Inside>>,
}

/// The loads of a group that wait, and whether somebody watches that none waits too long.
pub(super) struct Line<V: Value> {
    pub(super) queue: Queue<Queued<V>>,
    pub(super) watched: bool,
}

impl<V: Value> Line<V> {
    pub(super) fn new(limits: Limits) -> Self {
        Self { queue: Queue::new(limits), watched: false }
    }
}
