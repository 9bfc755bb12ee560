//! What happened, and whether it may have.

use std::collections::BTreeSet;

use super::super::Span;

/// A removal, as whoever called it sees it.
#[derive(Clone, Debug)]
pub(super) struct Called {
    pub(super) span: Span,
    pub(super) by: usize,
    /// `None`: the whole group.
    pub(super) key: Option<usize>,
    pub(super) at: u64,
    pub(super) complete: Option<u64>,
    /// The caller was killed before it knew.
    pub(super) lost: bool,
    /// Who was no part of everybody at some time before it was complete.
    pub(super) outside: BTreeSet<usize>,
}

impl Called {
    pub(super) fn is_open(&self) -> bool {
        self.complete.is_none() && !self.lost
    }

    pub(super) fn covers(&self, key: usize) -> bool {
        self.key.is_none_or(|of| of == key)
    }
}

/// A get, when it started.
#[derive(Clone, Debug)]
pub(super) struct Started {
    pub(super) at: u64,
    /// The removals that its node was outside of.
    pub(super) outside: BTreeSet<usize>,
    /// Those that its node had not seen.
    pub(super) unseen: BTreeSet<usize>,
}

/// A value: all that counts is when its load began, and which removals it is excused from.
#[derive(Clone, Debug)]
pub(super) struct Value {
    pub(super) began: u64,
    pub(super) excused: BTreeSet<usize>,
}

/// What was seen in runs.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    pub(super) answers: u64,
    /// Pairs of an answer and a removal that was complete before its get.
    pub(super) judged: u64,
    pub(super) excused: u64,
    pub(super) called: u64,
    pub(super) completed: u64,
    pub(super) restarts: u64,
    pub(super) lists: u64,
    pub(super) breaks: u64,
    pub(super) adoptions: u64,
    pub(super) carried: u64,
    pub(super) filled: u64,
}

impl Counts {
    pub(super) fn add(&mut self, other: &Self) {
        let Self { answers, judged, excused, called, completed, restarts, lists, breaks, adoptions, carried, filled } =
            other;
        self.answers += answers;
        self.judged += judged;
        self.excused += excused;
        self.called += called;
        self.completed += completed;
        self.restarts += restarts;
        self.lists += lists;
        self.breaks += breaks;
        self.adoptions += adoptions;
        self.carried += carried;
        self.filled += filled;
    }
}
