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
        let mut story = Story::cast(setup, dice, &mut events, begin);
        // Most lives are too long for the last of these.
        if setup.has_short_lives() && story.dice.chance(0.5) {
            story.failing();
            continue;
        }
        match story.dice.below(9) {
            0 => story.heard_late(),
            1 => story.cut_off(),
            2 => story.left_out(),
            3 | 7 => story.started_anew(),
            4 => story.late_insert(),
            5 => story.lost_insert(),
            6 => story.removed_twice(),
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

/// The story of who is started anew, and nothing else.
pub(super) fn tell_of_a_start(setup: &Setup, dice: &mut Dice) -> Vec<Timed> {
    let mut events = Vec::new();
    Story::cast(setup, dice, &mut events, SPELLS[0].0).started_anew();
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

impl<'a> Story<'a> {
    /// Gives out the parts.
    fn cast(setup: &'a Setup, dice: &'a mut Dice, events: &'a mut Vec<Timed>, begin: u64) -> Self {
        let mut nodes: Vec<usize> = (0..setup.nodes).collect();
        let mut keys: Vec<usize> = (0..setup.keys).collect();
        shuffle(&mut nodes, dice);
        shuffle(&mut keys, dice);
        keys.truncate(1 + dice.below(4));
        Self { setup, dice, events, begin, nodes, keys }
    }
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

    /// One node asks, in a way that brings nobody any news: a token would.
    fn asked_plainly(&mut self, after: u64, node: usize) {
        for key in self.keys.clone() {
            self.at(after, Event::Get { node, key, how: How::Opt });
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
        // Some are owned by the one that misses it.
        self.keys = (0..self.setup.keys).collect();
        self.asked_by_all(0, 1);
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
        // Mostly after it has said so.
        let down = self.dice.between(310, 460);
        self.fault(down, down + 20, Fault::Crash { node });
        (0..12).for_each(|time| self.asked_plainly(down + 30 + time * 35, node));
        // It is the last to hear of the removal, if at all.
        (0..16).for_each(|time| self.asked_plainly(healed + time * 90, node));
    }

    /// The same keys are removed again, while the first removal waits for a node that is slow to answer.
    fn removed_twice(&mut self) {
        let (a, b, late) = (self.remover(), self.troubled(), self.dice.between(40, 140));
        self.asked_by_all(0, 2);
        self.fault(100, 1_500, Fault::Delay { a, b, delay: Duration::from_millis(late) });
        self.removed(600, a);
        self.asked_by_all(610, 1);
        self.removed(600 + late + late / 2, a);
        self.asked_by_all(620 + 3 * late, 2);
        self.asked_by_all(1_700, 1);
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
        // The more loads there are, the longer some wait for their turn.
        self.keys = (0..self.setup.keys).collect();
        self.asked_by_all(0, 2);
        let life = u64::try_from(self.setup.time_to_live.as_millis()).unwrap_or(u64::MAX).min(1_500);
        let over = life + self.dice.between(50, 200);
        self.at(over, Event::Mood(Mood::Slow, Duration::from_millis(600)));
        self.at(over + 100, Event::Mood(Mood::Failing, Duration::from_millis(1_500)));
        self.asked_by_all(over + 10, 1);
        let gone = over + self.dice.between(60, 200);
        self.removed(gone, self.remover());
        for after in [100, 250, 400, 700] {
            self.asked_by_all(gone + after, 1);
        }
    }
}
