//! Events that belong together: chance alone seldom puts them in the order that a mistake needs to show.
//!
//! Each story begins with the same keys on all nodes, has something go wrong, removes the keys, and asks for them while
//! it is wrong and afterwards. Who takes which part is left to chance, and so is the time between the events.

use std::time::Duration;

use peerage::simulation::{Dice, Fault};

use super::plan::{Event, How, Mood, SPELLS, Setup, Timed};

/// How many stories a run has, and how long one may take, in milliseconds.
const STORIES: usize = 3;
const LONGEST: u64 = 4_000;

/// The events of some stories.
pub(super) fn tell(setup: &Setup, dice: &mut Dice) -> Vec<Timed> {
    let mut events = Vec::new();
    for _ in 0..STORIES {
        let (from, to) = SPELLS[dice.below(SPELLS.len())];
        let begin = dice.between(from, to - LONGEST);
        let mut nodes: Vec<usize> = (0..setup.nodes).collect();
        let mut keys: Vec<usize> = (0..setup.keys).collect();
        shuffle(&mut nodes, dice);
        shuffle(&mut keys, dice);
        keys.truncate(1 + dice.below(4));
        let mut story = Story { setup, dice, events: &mut events, begin, nodes, keys };
        match story.dice.below(7) {
            0 => story.heard_late(),
            1 => story.cut_off(),
            2 => story.left_out(),
            3 => story.started_anew(),
            4 => story.late_insert(),
            5 => story.lost_insert(),
            _ => story.failing(),
        }
    }
    events
}

/// A story of its own, in calm weather and by dice of its own: a process stands still for long enough to notice, and is
/// asked before anything else in it runs.
pub(super) fn tell_of_a_pause(setup: &Setup, seed: u64) -> Vec<Timed> {
    let (mut events, mut dice) = (Vec::new(), Dice::new(!seed));
    let mut nodes: Vec<usize> = (0..setup.nodes).collect();
    shuffle(&mut nodes, &mut dice);
    let keys = (0..setup.keys).collect();
    let begin = SPELLS[0].1 + dice.between(1_050, 1_300);
    Story { setup, dice: &mut dice, events: &mut events, begin, nodes, keys }.stood_still();
    events
}

fn shuffle<T>(all: &mut [T], dice: &mut Dice) {
    for at in (1..all.len()).rev() {
        all.swap(at, dice.below(at + 1));
    }
}

struct Story<'a> {
    setup: &'a Setup,
    dice: &'a mut Dice,
    events: &'a mut Vec<Timed>,
    begin: u64,
    /// The parts: who removes, who asks, who is in trouble; and the others.
    nodes: Vec<usize>,
    keys: Vec<usize>,
}

impl Story<'_> {
    fn remover(&self) -> usize {
        self.nodes[0]
    }

    fn asker(&self) -> usize {
        self.nodes[1]
    }

    fn troubled(&self) -> usize {
        self.nodes[2]
    }

    fn at(&mut self, after: u64, event: Event) {
        self.events.push(Timed { at: Duration::from_millis(self.begin + after), event });
    }

    fn fault(&mut self, from: u64, to: u64, fault: Fault) {
        self.at(from, Event::Fault(fault, Duration::from_millis(to - from)));
    }

    /// One stands still while the keys are removed, and is asked meanwhile, and when it goes on.
    fn stood_still(&mut self) {
        let (remover, troubled) = (self.remover(), self.troubled());
        let over = 100 + self.dice.between(2_000, 2_600);
        self.asked(0, &[troubled]);
        self.fault(100, over, Fault::Pause { node: troubled });
        self.asked(150, &[troubled]);
        self.removed(200 + over / 3, remover);
        for after in [0, 30, 200] {
            self.asked(over + after, &[troubled]);
        }
    }

    /// All of these nodes ask for the keys, at about that time.
    fn asked(&mut self, after: u64, nodes: &[usize]) {
        for node in nodes.iter().copied() {
            for key in self.keys.clone() {
                let how = match self.dice.below(8) {
                    0..5 => How::Get,
                    5 => How::Opt,
                    6 => How::Token,
                    _ => How::Peek,
                };
                let at = after + self.dice.between(0, 20);
                self.at(at, Event::Get { node, key, how });
            }
        }
    }

    /// Everybody asks, and again, so that there are copies everywhere.
    fn asked_by_all(&mut self, after: u64, times: u64) {
        let all = self.nodes.clone();
        (0..times).for_each(|time| self.asked(after + time * 40, &all));
    }

    fn removed(&mut self, after: u64, node: usize) {
        let keys = self.keys.clone();
        self.at(after, Event::Remove { node, keys });
    }

    fn inserted(&mut self, after: u64, node: usize) {
        for key in self.keys.clone() {
            self.at(after, Event::Insert { node, key });
        }
    }

    /// A removal takes its time to one node; others are quicker to ask that one.
    fn heard_late(&mut self) {
        let (a, b, late) = (self.remover(), self.troubled(), self.dice.between(60, 450));
        self.asked_by_all(0, 3);
        self.fault(200, 1_600, Fault::Delay { a, b, delay: Duration::from_millis(late) });
        self.removed(600, a);
        let mut askers = self.nodes.clone();
        askers.retain(|node| *node != a && *node != b);
        (0..16).for_each(|time| self.asked(600 + late * time / 14, &askers));
        self.asked_by_all(2_000, 1);
    }

    /// A node misses a removal, while others reach it.
    fn cut_off(&mut self) {
        let (from, to) = (self.remover(), self.troubled());
        self.asked_by_all(0, 3);
        let healed = self.dice.between(500, 2_500);
        self.fault(200, healed, Fault::Cut { from, to, both_ways: true });
        self.removed(300, from);
        let asker = [self.asker()];
        (0..6).for_each(|time| self.asked(300 + time * 30, &asker));
        self.asked_by_all(healed + 20, 4);
        self.asked_by_all(healed + 800, 1);
    }

    /// A node is on nobody's list, and has nobody on its own, while something is removed; then it is back.
    fn left_out(&mut self) {
        let out = self.troubled();
        self.asked_by_all(0, 3);
        let back = self.dice.between(800, 3_000);
        for node in 0..self.setup.nodes {
            let without = if node == out { (0..self.setup.nodes).collect() } else { vec![out] };
            self.fault(200, back, Fault::List { node, without });
        }
        let gone = self.dice.between(300, back - 300);
        self.removed(gone, self.remover());
        self.asked_by_all(back, 8);
    }

    /// A node applies a removal, starts anew, and meets one that has missed it.
    fn started_anew(&mut self) {
        let (remover, troubled, node) = (self.remover(), self.troubled(), self.asker());
        self.asked_by_all(0, 3);
        let healed = self.dice.between(1_200, 3_000);
        self.fault(200, healed, Fault::Cut { from: remover, to: troubled, both_ways: true });
        // Nor does it hear of it in another way.
        let others = self.nodes.split_off(3);
        for other in &others {
            let other = *other;
            self.fault(200, healed, Fault::Cut { from: other, to: troubled, both_ways: true });
            self.fault(302, healed, Fault::Cut { from: other, to: node, both_ways: true });
        }
        self.nodes.extend(others);
        if self.dice.chance(0.2) {
            self.fault(290, 420, Fault::Cut { from: node, to: troubled, both_ways: true });
        }
        self.removed(300, remover);
        let down = self.dice.between(310, 400);
        self.fault(down, down + 20, Fault::Crash { node });
        (0..20).for_each(|time| self.asked(down + 30 + time * 35, &[node]));
        self.asked_by_all(healed + 300, 2);
        self.asked_by_all(healed + 900, 1);
    }

    /// An insert is under way for longer than its caller waits, and something is removed meanwhile.
    fn late_insert(&mut self) {
        let (a, b, late) = (self.remover(), self.troubled(), self.dice.between(320, 900));
        self.asked_by_all(0, 1);
        self.fault(100, 2_500, Fault::Delay { a, b, delay: Duration::from_millis(late) });
        self.inserted(200, a);
        let after = self.dice.between(510, 560);
        self.removed(after, self.asker());
        self.asked_by_all(1_300, 2);
        self.asked_by_all(2_500, 1);
    }

    /// An insert does not reach the owner, and something is removed when that is back.
    fn lost_insert(&mut self) {
        let (from, to) = (self.remover(), self.troubled());
        self.asked_by_all(0, 1);
        let healed = self.dice.between(250, 500);
        self.fault(100, healed, Fault::Cut { from, to, both_ways: true });
        self.inserted(200, from);
        let (gone, by) = (healed + self.dice.between(10, 400), self.asker());
        self.removed(gone, by);
        for after in [700, 1_100, 1_600, 2_500] {
            self.asked_by_all(healed + after, 1);
        }
    }

    /// The source is slow, and then it fails: what was there is served, unless it was removed.
    fn failing(&mut self) {
        self.asked_by_all(0, 2);
        let life = u64::try_from(self.setup.time_to_live.as_millis()).unwrap_or(u64::MAX).min(1_500);
        let over = life + self.dice.between(50, 200);
        self.at(over, Event::Mood(Mood::Slow, Duration::from_millis(600)));
        self.at(over + 100, Event::Mood(Mood::Failing, Duration::from_millis(1_500)));
        self.asked_by_all(over + 10, 1);
        for key in 0..self.setup.keys {
            let node = self.asker();
            self.at(over + 5, Event::Get { node, key, how: How::Get });
        }
        let gone = over + self.dice.between(60, 200);
        self.removed(gone, self.remover());
        for after in [100, 250, 400, 700] {
            self.asked_by_all(gone + after, 1);
        }
    }
}
