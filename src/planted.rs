//! Bugs that a test build can switch on: who hunts for broken promises has to show that the hunt finds them.
//!
//! Each is one that somebody could make who writes a cache of this kind, and that a rule of this one is there against.
//! A bug is planted in a thread, for a simulation that runs on it. Without the feature `test-util` the question whether
//! one is planted is answered while compiling; and no hit asks it.

/// A mistake that the library can be made to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
#[cfg_attr(not(feature = "test-util"), allow(dead_code, reason = "some are asked for with the feature alone"))]
pub enum Bug {
    /// What is removed is dropped, and nothing keeps out the late copies of it.
    NoTombstone,
    /// The same, but for a moment.
    TombstonesExpire,
    /// A removal that is called while the same is under way on its node becomes that one.
    RemovalsMerged,
    /// A clear is told by a number, and who has heard of a larger one has had it.
    ClearByNumber,
    /// Copies do not bear the tags of what they are copies of.
    TagsStayHome,
    /// Who asks for a key does not tell which removals of it the answer has to heed.
    RemovalStaysHome,
    /// Who comes after a removal joins a flight that had begun before.
    VoidedIsJoined,
    /// A copy lives as long as if it had been loaded where it lies.
    FreshLife,
    /// A peer is asked for keys before the two have told each other which removals they have applied.
    TrafficBeforeVectors,
    /// Loads and fetches are in one table of flights.
    OneTable,
    /// A removal is everywhere when those have applied it whom its caller lists.
    OwnListOnly,
    /// What a node had applied counts for its next incarnation, too.
    AcknowledgedForEver,
    /// An insert brings its value along, and the owner stores it without asking for it.
    PushedUnasked,
    /// An insert that did not reach the owner is sent again, later.
    InsertsQueued,
    /// In the stead of a load that failed comes the value that was there when its flight was started.
    GraceOfTheFlight,
    /// Who says hello is neither heard nor told of removals: what a node was told in vain, it is not told again.
    HellosOfNoRemovals,
    /// Whether a flight was voided is looked at under the lock, and its value is kept under the lock, once more taken.
    TwoLocks,
}

#[cfg(feature = "test-util")]
impl Bug {
    /// Each of them.
    pub const ALL: [Self; 17] = [
        Self::NoTombstone,
        Self::TombstonesExpire,
        Self::RemovalsMerged,
        Self::ClearByNumber,
        Self::TagsStayHome,
        Self::RemovalStaysHome,
        Self::VoidedIsJoined,
        Self::FreshLife,
        Self::TrafficBeforeVectors,
        Self::OneTable,
        Self::OwnListOnly,
        Self::AcknowledgedForEver,
        Self::PushedUnasked,
        Self::InsertsQueued,
        Self::GraceOfTheFlight,
        Self::HellosOfNoRemovals,
        Self::TwoLocks,
    ];
}

/// Whether a bug is planted in this thread.
#[cfg(not(feature = "test-util"))]
#[inline(always)]
#[expect(clippy::inline_always, reason = "nothing of it is to be left")]
pub(crate) const fn is_planted(_bug: Bug) -> bool {
    false
}

#[cfg(feature = "test-util")]
pub(crate) use switch::is_planted;
#[cfg(feature = "test-util")]
pub use switch::{Planted, plant};

/// The switch.
#[cfg(feature = "test-util")]
mod switch {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Whether a bug is planted in this thread.
    pub(crate) fn is_planted(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }

    /// Makes the library make a mistake, in this thread, for as long as what is returned is there. For the tests of a
    /// judge; not for anything else.
    pub fn plant(bug: Bug) -> Planted {
        Planted { before: PLANTED.replace(Some(bug)) }
    }

    /// A bug is planted while this lives.
    #[derive(Debug)]
    #[must_use = "the bug is gone when this is dropped"]
    pub struct Planted {
        before: Option<Bug>,
    }

    impl Drop for Planted {
        fn drop(&mut self) {
            PLANTED.set(self.before);
        }
    }
}
