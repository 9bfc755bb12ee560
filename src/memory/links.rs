//! How things stand between two addresses, in one direction: what is wrong with the link, and what has crossed it.
//!
//! What must hold: a link that was never mentioned is perfect; every message that is sent is counted, also one that is
//! lost; healing takes away the faults and leaves the counts; the same seed loses the same messages.
//!
//! It knows no connections, and neither waits nor locks.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use crate::message::Ask;

/// From one address to another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Way {
    pub(super) from: Arc<str>,
    pub(super) to: Arc<str>,
}

/// How things stand between two addresses, in one direction.
#[derive(Default)]
pub(super) struct Link {
    pub(super) refusing: bool,
    pub(super) silent: bool,
    pub(super) delay: Duration,
    pub(super) loss: Option<Loss>,
    pub(super) sent: MessageCounts,
}

/// Which messages are lost: such a part of them, as seeded dice fall.
pub(super) struct Loss {
    probability: f64,
    dice: Rng,
}

impl Way {
    pub(super) fn new(from: &str, to: &str) -> Self {
        Self { from: Arc::from(from), to: Arc::from(to) }
    }

    pub(super) fn both(a: &str, b: &str) -> [Self; 2] {
        [Self::new(a, b), Self::new(b, a)]
    }

    pub(super) fn back(&self) -> Self {
        Self { from: Arc::clone(&self.to), to: Arc::clone(&self.from) }
    }
}

/// What is wrong with a link, all of it. By default: nothing.
#[cfg(feature = "test-util")]
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Condition {
    pub(crate) refusing: bool,
    pub(crate) silent: bool,
    pub(crate) delay: Duration,
    /// The probability of a loss, and the seed of the dice.
    pub(crate) loss: Option<(f64, u64)>,
}

impl Link {
    #[cfg(feature = "test-util")]
    pub(super) fn become_so(&mut self, condition: &Condition) {
        let Condition { refusing, silent, delay, loss } = *condition;
        let loss = loss.map(|(probability, seed)| Loss::new(probability, seed));
        *self = Self { refusing, silent, delay, loss, sent: self.sent };
    }

    pub(super) fn heal(&mut self) {
        *self = Self { sent: self.sent, ..Self::default() };
    }

    /// Counts a message, and says how long it takes; `None` if it is lost.
    pub(super) fn send(&mut self, kind: Kind) -> Option<Duration> {
        *self.sent.of(kind) += 1;
        let lost = self.loss.as_mut().is_some_and(|loss| loss.dice.f64() < loss.probability);
        (!lost).then_some(self.delay)
    }
}

impl Loss {
    pub(super) fn new(probability: f64, seed: u64) -> Self {
        Self { probability, dice: Rng::with_seed(seed) }
    }
}

/// How many messages one node has sent to another, by kind. Lost ones count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MessageCounts {
    /// Greetings.
    pub hello: u64,
    /// Requests for one key.
    pub get: u64,
    /// Requests for many keys.
    pub get_many: u64,
    /// Removals.
    pub remove: u64,
    /// Inserts.
    pub insert: u64,
    /// Replies to the other's requests; a refusal is one.
    pub reply: u64,
}

impl MessageCounts {
    /// All of them together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.hello + self.get + self.get_many + self.remove + self.insert + self.reply
    }

    fn of(&mut self, kind: Kind) -> &mut u64 {
        match kind {
            Kind::Hello => &mut self.hello,
            Kind::Get => &mut self.get,
            Kind::GetMany => &mut self.get_many,
            Kind::Remove => &mut self.remove,
            Kind::Insert => &mut self.insert,
            Kind::Reply => &mut self.reply,
        }
    }
}

/// What a message is, for the counts.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Hello,
    Get,
    GetMany,
    Remove,
    Insert,
    Reply,
}

impl From<&Ask> for Kind {
    fn from(ask: &Ask) -> Self {
        match ask {
            Ask::Hello(_) => Self::Hello,
            Ask::Get(_) => Self::Get,
            Ask::GetMany(_) => Self::GetMany,
            Ask::Remove(_) => Self::Remove,
            Ask::Insert(_) => Self::Insert,
        }
    }
}
