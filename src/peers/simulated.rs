//! Placements in a simulation: worked out once for all of its nodes.
//!
//! A simulation starts thousands of nodes that list the same few members, and to place them is most of what a start
//! takes. A placement says the same whoever has it, so that sharing one changes nothing but the time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::member::NodeName;
use crate::placement::Placement;

/// So many are remembered: more than the lists of a few nodes can differ in.
const MOST: usize = 256;

type Members = Vec<(NodeName, u32)>;
type Known<K, T> = Mutex<BTreeMap<K, Arc<T>>>;

/// For all threads: what is in them follows from the keys alone.
static PLACED: Known<Members, Placement> = Mutex::new(BTreeMap::new());
static OWNED: Known<(Members, usize), [u64]> = Mutex::new(BTreeMap::new());

pub(super) fn placement(
    members: &[(NodeName, u32)],
    place: impl FnOnce(&[(NodeName, u32)]) -> Arc<Placement>,
) -> Arc<Placement> {
    remembered(&PLACED, members.to_vec(), || place(members))
}

/// The slots that one of the members owns.
pub(super) fn own_bits(members: Members, member: usize, bits: impl FnOnce() -> Arc<[u64]>) -> Arc<[u64]> {
    remembered(&OWNED, (members, member), bits)
}

fn remembered<K: Ord, T: ?Sized>(known: &Known<K, T>, key: K, value: impl FnOnce() -> Arc<T>) -> Arc<T> {
    let known = || known.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(value) = known().get(&key) {
        return Arc::clone(value);
    }
    let value = value();
    let mut known = known();
    if known.len() == MOST {
        known.clear();
    }
    known.insert(key, Arc::clone(&value));
    value
}
