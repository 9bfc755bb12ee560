//! Bugs to be caught: who judges has to be able to say no.

use peerage::simulation::Bug;

/// What a run is made to do wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Planted {
    /// A node remembers each value that it was given, and hands it out in spite of removals.
    IgnoresRemovals,
    /// Values live twice as long as they should.
    OutlivesItsLife,
    /// Now and then a get takes longer than its limit.
    AnswersLate,
    /// Each load is two.
    LoadsTwice,
    /// Each load is one on all other nodes, too.
    LoadsElsewhere,
    /// The cache takes four times its capacity.
    TakesMoreBytes,
    /// Now and then a caller is never answered.
    NeverAnswers,
    /// A loader hands out another key's value.
    MixesKeysUp,
    /// The library makes a mistake.
    Library(Bug),
}

impl Planted {
    /// Those that are none of the library's.
    pub(crate) const ALL: [Self; 8] = [
        Self::IgnoresRemovals,
        Self::OutlivesItsLife,
        Self::AnswersLate,
        Self::LoadsTwice,
        Self::LoadsElsewhere,
        Self::TakesMoreBytes,
        Self::NeverAnswers,
        Self::MixesKeysUp,
    ];
}
