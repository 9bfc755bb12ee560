//! The hunt for the run that breaks a promise: clusters in a simulation, played by a plan from a seed, and judged.
//!
//! `plan.rs` makes the events of a seed, `stories.rs` those that belong together, `world.rs` plays them, `source.rs` is
//! the truth that loaders read, `books.rs` notes what happened and when, `judge.rs` holds that against the promises,
//! `coverage.rs` counts what was met, `planted.rs` are bugs that the judge has to catch. Used by the test of the same
//! name and by `examples/simulate.rs`.

#![allow(dead_code, reason = "the test and the example each use their part of it")]

mod books;
mod coverage;
mod judge;
mod plan;
mod planted;
mod source;
mod stories;
mod world;

use std::cell::Cell;

use peerage::simulation;

pub(crate) use coverage::Coverage;
pub(crate) use judge::{Promise, Violation};
pub(crate) use plan::Plan;
pub(crate) use planted::Planted;

/// What came of one seed.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The same for the same plan, always.
    pub(crate) hash: u64,
    pub(crate) violations: Vec<Violation>,
    pub(crate) coverage: Coverage,
    /// What happened, line by line, if it was asked for.
    pub(crate) story: Vec<String>,
}

impl Outcome {
    pub(crate) fn breaks(&self, promise: Promise) -> bool {
        self.violations.iter().any(|violation| violation.promise == promise)
    }
}

/// Plays a plan.
pub(crate) fn play(plan: &Plan, planted: Option<Planted>) -> Outcome {
    play_as(plan, planted, false)
}

/// Plays a plan, and tells the story.
pub(crate) fn play_aloud(plan: &Plan, planted: Option<Planted>) -> Outcome {
    play_as(plan, planted, true)
}

fn play_as(plan: &Plan, planted: Option<Planted>, aloud: bool) -> Outcome {
    let _bug = match planted {
        Some(Planted::Library(bug)) => Some(simulation::plant(bug)),
        _ => None,
    };
    simulation::run(plan.chance, async || world::play(plan, planted, aloud).await)
}

/// The plan with as few events as still break the promise in the same way.
///
/// With other events chance falls otherwise (which copy is kept is one throw in ten): so each shorter list is given
/// some more throws.
pub(crate) fn shrink(plan: &Plan, planted: Option<Planted>, breaks: impl Fn(&Outcome) -> bool) -> Plan {
    const THROWS: u64 = 6;
    let with = |events: &[plan::Timed], chance| Plan { events: events.to_vec(), chance, ..plan.clone() };
    let chance = Cell::new(plan.chance);
    let events = simulation::shrink(&plan.events, |events| {
        let mut throws = (0..THROWS).map(|more| chance.get() + more);
        let broken = throws.find(|chance| breaks(&play(&with(events, *chance), planted)));
        broken.inspect(|broken| chance.set(*broken)).is_some()
    });
    with(&events, chance.get())
}
