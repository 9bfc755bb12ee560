//! The sweep: entries that nobody asks for, and that have expired or were removed by a tag, give their bytes back.
//!
//! A queue is swept from its oldest end, a few entries at a time, so that the store is held only for a moment. What has
//! not expired goes to the other end: after as many steps as there are entries, all have been looked at, and lie in the
//! order in which they lay. In between the order begins elsewhere, as if the hand that picks who goes had been moved
//! on. That does no harm while nobody has to go; where entries are put out to make room, the expired ones are among
//! them, and the sweep leaves it at those that are at the old end.

use super::{Dropped, Queue, Store};
use crate::key::KeyRef;
use crate::tags::Tagged;
use crate::time::Moment;

/// What a few steps of a sweep came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Swept {
    /// How many entries were looked at: fewer than asked for if there are no more, or the rest is left as it is.
    pub(crate) seen: usize,
    /// When the first of those that stay has its end; [`Moment::NEVER`] if none has.
    pub(crate) next_end: Moment,
}

impl<V> Store<V> {
    /// How many entries a queue has, if any of them may have come to one: so many are to be swept.
    pub(crate) fn to_sweep(&self, Queue(place, rank): Queue) -> usize {
        let queue = self.side(place).queue(rank);
        if queue.mortal() == 0 { 0 } else { queue.len() }
    }

    /// A round of sweeping begins: from here on an eviction tells that room is in demand.
    pub(crate) fn begin_sweep(&mut self) {
        self.swept_after = self.evictions;
    }

    /// Looks at the `most` oldest entries of a queue, and takes out those whose end has come, and those whose tags say so
    /// by `is_out`; `gone` is told of each.
    /// Those that stay keep their order, behind the rest; unless room is in demand: then the first one that stays is
    /// the last one that is looked at.
    pub(crate) fn sweep(
        &mut self,
        Queue(place, rank): Queue,
        most: usize,
        (now, is_out): (Moment, impl Fn(&Tagged) -> bool),
        dropped: &mut Dropped<V>,
        mut gone: impl FnMut(KeyRef<'_>),
    ) -> Swept {
        let mut swept = Swept { seen: 0, next_end: Moment::NEVER };
        let is_quiet = self.swept_after == self.evictions;
        while swept.seen < most {
            let Some(oldest) = self.side(place).queue(rank).oldest() else { break };
            let end = oldest.life().end(self.grace);
            let is_over = now >= end;
            let stays = !is_over && !oldest.tagged().is_some_and(|tagged| is_out(tagged));
            if stays {
                swept.next_end = swept.next_end.min(end);
            }
            if stays && !is_quiet {
                break;
            }
            let queue = self.side_mut(place).queue_mut(rank);
            let Some((key, kept)) = queue.take_oldest() else { break };
            swept.seen += 1;
            if stays {
                queue.put(key, kept);
            } else {
                gone(KeyRef::new(key.bytes()));
                self.expiries += u64::from(is_over);
                dropped.values.extend(kept.held.into_value());
            }
        }
        self.count_tables();
        swept
    }
}
