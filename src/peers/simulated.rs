//! Placements in a simulation: worked out once for all of its nodes.
//!
//! A simulation starts thousands of nodes that list the same few members, and to place them is most of what a start
//! takes. A placement says the same whoever has it, so that sharing one changes nothing but the time.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::member::NodeName;
use crate::placement::Placement;

/// So many are remembered by each thread: more than the lists of a few nodes can differ in.
const MOST: usize = 256;

type Members = Vec<(NodeName, u32)>;
type Known<K, T> = RefCell<BTreeMap<K, Arc<T>>>;

thread_local! {
    static PLACED: Known<Members, Placement> = const { RefCell::new(BTreeMap::new()) };
    static OWNED: Known<(Members, usize), [u64]> = const { RefCell::new(BTreeMap::new()) };
}

pub(super) fn placement(
    members: &[(NodeName, u32)],
    place: impl FnOnce(&[(NodeName, u32)]) -> Arc<Placement>,
) -> Arc<Placement> {
    let placed = PLACED.with_borrow(|known| known.get(members).cloned());
    placed.unwrap_or_else(|| {
        let placement = place(members);
        PLACED.with_borrow_mut(|known| remember(known, members.to_vec(), &placement));
        placement
    })
}

/// The slots that one of the members owns.
pub(super) fn own_bits(members: Members, member: usize, bits: impl FnOnce() -> Arc<[u64]>) -> Arc<[u64]> {
    let key = (members, member);
    let owned = OWNED.with_borrow(|known| known.get(&key).cloned());
    owned.unwrap_or_else(|| {
        let bits = bits();
        OWNED.with_borrow_mut(|known| remember(known, key, &bits));
        bits
    })
}

fn remember<K: Ord, T: ?Sized>(known: &mut BTreeMap<K, Arc<T>>, key: K, value: &Arc<T>) {
    if known.len() == MOST {
        known.clear();
    }
    known.insert(key, Arc::clone(value));
}
