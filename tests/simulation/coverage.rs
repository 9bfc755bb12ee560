//! What was met on the way: a hunt that meets nothing finds nothing.

use std::ops::AddAssign;

use serde_json::{Value, json};

/// Counts of one run, or of many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Coverage {
    pub(crate) seeds: u64,
    pub(crate) events: u64,
    /// The fewest events and judged removals of a seed.
    pub(crate) fewest_events: u64,
    pub(crate) fewest_removals: u64,
    pub(crate) gets_checked: u64,
    pub(crate) values_checked: u64,
    pub(crate) loads: u64,
    pub(crate) removals: u64,
    /// Of those, the removals of tags.
    pub(crate) removals_of_tags: u64,
    /// Removals that reached everybody: what they promise was held against every get after them.
    pub(crate) removals_checked: u64,
    /// Of those, the ones that did so only after they had returned.
    pub(crate) removals_settled: u64,
    /// Gets that carried the token of a removal.
    pub(crate) gets_with_token: u64,
    pub(crate) met: Met,
    /// In how many seeds there was a judged removal that met each.
    pub(crate) seeds_met: Met,
}

/// What judged removals met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Met {
    /// A load of one of its keys was under way.
    pub(crate) flight: u64,
    /// A link was cut, silent, or losing messages.
    pub(crate) cut: u64,
    /// Nodes listed different members.
    pub(crate) lists: u64,
    /// A node was down, or had come back less than a second ago.
    pub(crate) restart: u64,
    /// A process stood still.
    pub(crate) pause: u64,
}

impl Met {
    fn each(&mut self) -> [&mut u64; 5] {
        [&mut self.flight, &mut self.cut, &mut self.lists, &mut self.restart, &mut self.pause]
    }

    /// Once, if at all.
    fn any(mut self) -> Self {
        self.each().into_iter().for_each(|count| *count = 1.min(*count));
        self
    }

    fn json(&self) -> Value {
        let Self { flight, cut, lists, restart, pause } = self;
        json!({ "flight": flight, "cut": cut, "lists": lists, "restart": restart, "pause": pause })
    }
}

impl AddAssign for Met {
    fn add_assign(&mut self, mut other: Self) {
        self.each().into_iter().zip(other.each()).for_each(|(sum, part)| *sum += *part);
    }
}

impl Coverage {
    /// Of one run that is over.
    pub(crate) fn finish(&mut self) {
        self.seeds = 1;
        (self.fewest_events, self.fewest_removals) = (self.events, self.removals_checked);
        self.seeds_met = self.met.any();
    }

    /// What every seed, and enough of the seeds, have to meet.
    pub(crate) fn check(&self) -> Result<(), String> {
        let Met { flight, cut, lists, restart, .. } = self.seeds_met;
        let rare = [("flight", flight), ("cut", cut), ("lists", lists), ("restart", restart)];
        if let Some((what, seeds)) = rare.into_iter().find(|(_, seeds)| seeds * 5 < self.seeds) {
            return Err(format!("removals met a {what} in {seeds} of {} seeds only", self.seeds));
        }
        if self.fewest_events < 300 || self.fewest_removals < 20 {
            return Err(format!("{} events, {} removals in a seed", self.fewest_events, self.fewest_removals));
        }
        Ok(())
    }

    pub(crate) fn json(&self, violations: &Value) -> Value {
        json!({
            "seeds": self.seeds,
            "events": self.events,
            "removals_checked": self.removals_checked,
            "violations": violations,
            "fewest_events": self.fewest_events,
            "fewest_removals_checked": self.fewest_removals,
            "removals": self.removals,
            "removals_of_tags": self.removals_of_tags,
            "gets_checked": self.gets_checked,
            "values_checked": self.values_checked,
            "loads": self.loads,
            "removals_settled": self.removals_settled,
            "gets_with_token": self.gets_with_token,
            "removals_that_met": self.met.json(),
            "seeds_that_met": self.seeds_met.json(),
        })
    }
}

impl AddAssign<&Self> for Coverage {
    fn add_assign(&mut self, other: &Self) {
        if self.seeds == 0 {
            *self = other.clone();
            return;
        }
        self.seeds += other.seeds;
        self.events += other.events;
        self.fewest_events = self.fewest_events.min(other.fewest_events);
        self.fewest_removals = self.fewest_removals.min(other.fewest_removals);
        self.gets_checked += other.gets_checked;
        self.values_checked += other.values_checked;
        self.loads += other.loads;
        self.removals += other.removals;
        self.removals_of_tags += other.removals_of_tags;
        self.removals_checked += other.removals_checked;
        self.removals_settled += other.removals_settled;
        self.gets_with_token += other.gets_with_token;
        self.met += other.met;
        self.seeds_met += other.seeds_met;
    }
}
