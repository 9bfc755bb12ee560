//! What peers ask of the shards: values, and the bytes that are kept of them.
//!
//! The bytes of small values lie beside their shard's store, under its lock. A shard's part would hold few large ones, or
//! none, so these have a table for all shards, under a lock of its own, which is taken after a shard's. Where no large
//! value is kept nobody takes it.

use std::sync::{Arc, PoisonError};

use bytes::Bytes;

use crate::encoded::Encoded;
use crate::entry::Value;
use crate::key::{KeyRef, Slot};
use crate::store::Place;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Mutex, MutexGuard};
use crate::tags::Tagged;
use crate::time::Moment;

use super::{Hit, Shard, Shards};

/// Small values have this part of a shard's bytes: they are many, but it takes little to encode one again.
const SMALL_SHARE: usize = 4;
/// A small value takes no more than this part of its shard's table.
const SMALL_IN_TABLE: usize = 4;

/// How the bytes for encoded values are divided.
pub(super) struct Parts {
    /// What is taken from each shard.
    pub(super) of_a_shard: usize,
    /// What is left to it, for small values.
    pub(super) small: usize,
    /// What all shards together give for large ones.
    pub(super) large: usize,
}

impl Parts {
    pub(super) fn of(of_a_shard: usize, shards: usize) -> Self {
        let small = of_a_shard / SMALL_SHARE;
        Self { of_a_shard, small, large: (of_a_shard - small) * shards }
    }
}

/// What is kept of one shard.
#[derive(Debug)]
pub(super) struct Kept {
    /// Small values, and which were encoded once.
    small: Encoded,
    large: Arc<Large>,
}

impl Kept {
    pub(super) fn new(budget: usize, large: &Arc<Large>, seed: u64) -> Self {
        Self { small: Encoded::new(budget, budget / SMALL_IN_TABLE, seed), large: Arc::clone(large) }
    }

    fn get(&self, key: KeyRef<'_>) -> Option<Bytes> {
        self.small.get(key).or_else(|| self.large.get(key))
    }

    pub(super) fn forget(&mut self, key: KeyRef<'_>) {
        self.small.forget(key);
        self.large.change(|table| table.forget(key));
    }

    /// Forgets everything, large values of other shards too: this is for when all are cleared.
    pub(super) fn clear(&mut self) {
        self.small.clear();
        self.large.change(Encoded::clear);
    }

    pub(super) fn bytes_of_small(&self) -> usize {
        self.small.bytes()
    }
}

/// What is kept of large values, of all shards.
#[derive(Debug)]
pub(super) struct Large {
    table: Mutex<Encoded>,
    /// How many bytes are taken. It is set under the table's lock, and what of it concerns a key under its shard's too.
    bytes: AtomicUsize,
}

impl Large {
    pub(super) fn new(budget: usize, seed: u64) -> Self {
        Self { table: Mutex::new(Encoded::new(budget, budget, seed)), bytes: AtomicUsize::new(0) }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::SeqCst)
    }

    fn get(&self, key: KeyRef<'_>) -> Option<Bytes> {
        if self.bytes() == 0 { None } else { self.table().get(key) }
    }

    /// Changes the table, if it holds anything.
    fn change(&self, change: impl FnOnce(&mut Encoded)) {
        if self.bytes() > 0 {
            self.alter(change);
        }
    }

    fn alter(&self, alter: impl FnOnce(&mut Encoded)) {
        let mut table = self.table();
        alter(&mut table);
        self.bytes.store(table.bytes(), Ordering::SeqCst);
    }

    fn table(&self) -> MutexGuard<'_, Encoded> {
        // Nothing that can panic runs under this lock.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V> Shard<V> {
    /// Peers wait for the value that has just been put there, and it is encoded for them.
    pub(super) fn will_be_encoded(&mut self, key: KeyRef<'_>) {
        if let Some(kept) = &mut self.encoded {
            kept.small.note(key);
        }
    }
}

/// What a look for a peer found: the value, its bytes if they are kept, and the state of the shard that both belong to.
pub(crate) struct Asked<V> {
    pub(crate) hit: Hit<V>,
    pub(crate) encoded: Option<Bytes>,
    pub(crate) tagged: Option<Arc<Tagged>>,
    changes: u64,
}

impl<V: Value> Shards<V> {
    /// The entry of a key, as [`look`](Self::look) does, for a peer, which wants the value's bytes.
    pub(crate) fn look_encoded(&self, key: &[u8], place: impl FnOnce(Slot) -> Place, now: Moment) -> Option<Asked<V>> {
        let sought = self.sought(key);
        let shard = self.shared(&sought);
        let (found, place) = shard.find(&sought, place, |due| now < due)?;
        let (hit, tagged) = (Hit::new(&found, place), found.tagged().cloned());
        let encoded = shard.encoded.as_ref().and_then(|kept| kept.get(KeyRef::new(key)));
        Some(Asked { hit, encoded, tagged, changes: shard.changes })
    }

    /// The value of this look was encoded. Kept only if nothing has changed since: the bytes are those of the value
    /// that is there.
    pub(crate) fn note_encoded(&self, key: &[u8], asked: &Asked<V>, bytes: &Bytes) {
        let (sought, key) = (self.sought(key), KeyRef::new(key));
        let is_large = {
            let mut shard = self.exclusive(&sought);
            let is_same = shard.changes == asked.changes;
            let Some(kept) = shard.encoded.as_mut().filter(|_| is_same) else { return };
            if !kept.small.note(key) {
                return;
            }
            let is_small = kept.small.fits(key, bytes.len());
            if is_small {
                kept.small.keep(key, Bytes::copy_from_slice(bytes));
            }
            !is_small
        };
        if is_large {
            self.keep_large(key, asked, bytes);
        }
    }

    fn keep_large(&self, key: KeyRef<'_>, asked: &Asked<V>, bytes: &Bytes) {
        let Some(large) = self.large.as_ref().filter(|large| large.table().fits(key, bytes.len())) else { return };
        // Outside of any lock: it may take its time.
        let bytes = Bytes::copy_from_slice(bytes);
        let shard = self.shared(&self.sought(key.bytes));
        if shard.changes == asked.changes {
            large.alter(|table| table.keep(key, bytes));
        }
    }
}
