//! Which loads may begin, and in which order: the limits on a group's loads, as plain state.
//!
//! Loads wait in the order in which they came. A **turn** is the permit of one call of the loader; so many can be out
//! at a time. A turn takes what waits: one load, or for a batch loader as many as fit in a call. A batch loader's turn
//! is **gathering** from when it is given until it takes: what arrives meanwhile rides along instead of asking for a
//! turn of its own. When all turns are out, what arrives waits, and so gathers without a timer.
//!
//! A load that a loader waits for does not stand in line: it goes **ahead**, on a turn of its own that does not count
//! among the others. So many of these can be out as loads may wait.
//!
//! Time is handed in. Nothing here knows what a load is.

use std::collections::VecDeque;
use std::time::Duration;

use crate::time::Moment;

/// The limits of a queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// How many turns can be out at a time.
    pub(crate) turns: usize,
    /// How many loads one turn takes at most.
    pub(crate) per_turn: usize,
    /// How many loads can wait once all turns are out.
    pub(crate) waiting: usize,
    /// How long a load waits at most.
    pub(crate) wait: Duration,
}

/// Loads that wait for their turn.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    limits: Limits,
    /// With the moment at which each has waited too long; in order of arrival, and so in order of that moment too.
    waiting: VecDeque<(T, Moment)>,
    turns_out: usize,
    ahead_out: usize,
    gathering: bool,
}

impl<T> Queue<T> {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, waiting: VecDeque::new(), turns_out: 0, ahead_out: 0, gathering: false }
    }

    /// Lines a load up, or gives it back if too many wait.
    pub(crate) fn push(&mut self, load: T, now: Moment) -> Result<(), T> {
        // What the free turns are about to take does not count as waiting, nor what the gathering turn will.
        let free = self.limits.turns - self.turns_out + usize::from(self.gathering);
        let room = self.limits.waiting.saturating_add(free.saturating_mul(self.limits.per_turn));
        if self.waiting.len() >= room {
            return Err(load);
        }
        self.waiting.push_back((load, now + self.limits.wait));
        Ok(())
    }

    /// Gives out a turn, if something waits that no other turn is about to take. Who gets it must [`take`](Self::take),
    /// and in the end [give it back](Self::give_back).
    pub(crate) fn give_turn(&mut self) -> bool {
        let given = !self.waiting.is_empty() && !self.gathering && self.turns_out < self.limits.turns;
        if given {
            self.turns_out += 1;
            self.gathering = true;
        }
        given
    }

    /// What a turn takes; nothing if what it was given for has gone.
    pub(crate) fn take(&mut self) -> Vec<T> {
        self.gathering = false;
        let count = self.waiting.len().min(self.limits.per_turn);
        self.waiting.drain(..count).map(|(load, _)| load).collect()
    }

    /// A turn is over.
    pub(crate) fn give_back(&mut self) {
        self.turns_out -= 1;
    }

    /// Gives out a turn ahead of the line, unless too many are out.
    pub(crate) fn give_turn_ahead(&mut self) -> bool {
        let given = self.ahead_out < self.limits.waiting.max(self.limits.turns);
        self.ahead_out += usize::from(given);
        given
    }

    /// A turn ahead of the line is over.
    pub(crate) fn give_back_ahead(&mut self) {
        self.ahead_out -= 1;
    }

    /// Empties the line for good: nobody will take from it any more.
    pub(crate) fn abandon(&mut self) -> Vec<T> {
        self.gathering = false;
        self.waiting.drain(..).map(|(load, _)| load).collect()
    }

    /// Takes a load out of the line, wherever it stands in it.
    pub(crate) fn pull(&mut self, is_wanted: impl Fn(&T) -> bool) -> Option<T> {
        let index = self.waiting.iter().position(|(load, _)| is_wanted(load))?;
        self.waiting.remove(index).map(|(load, _)| load)
    }

    /// Takes out what has waited too long.
    pub(crate) fn expire(&mut self, now: Moment) -> Vec<T> {
        let count = self.waiting.iter().take_while(|(_, until)| *until <= now).count();
        self.waiting.drain(..count).map(|(load, _)| load).collect()
    }

    /// When the first of those that wait will have waited too long.
    pub(crate) fn next_expiry(&self) -> Option<Moment> {
        self.waiting.front().map(|(_, until)| *until)
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// How many turns are out, those ahead of the line included.
    pub(crate) fn turns_out(&self) -> usize {
        self.turns_out + self.ahead_out
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn queue(turns: usize, per_turn: usize, waiting: usize) -> Queue<u32> {
        Queue::new(Limits { turns, per_turn, waiting, wait: Duration::from_secs(1) })
    }

    fn now(seconds: u64) -> Moment {
        Moment::after_start(Duration::from_secs(seconds))
    }

    #[test]
    fn loads_begin_in_the_order_in_which_they_came() {
        let mut queue = queue(1, 1, 10);
        for load in [1, 2, 3] {
            queue.push(load, now(0)).unwrap();
        }
        let mut order = Vec::new();
        while queue.give_turn() {
            order.extend(queue.take());
            assert!(!queue.give_turn(), "one turn at a time");
            queue.give_back();
        }
        assert_eq!(order, [1, 2, 3]);
    }

    #[test]
    fn beyond_the_turns_so_many_wait_and_no_more() {
        let mut queue = queue(1, 1, 1);
        queue.push(1, now(0)).unwrap();
        assert!(queue.give_turn());
        assert_eq!(queue.take(), [1]);
        queue.push(2, now(0)).unwrap();
        assert_eq!(queue.push(3, now(0)), Err(3));
    }

    #[test]
    fn without_a_line_there_is_room_for_who_has_a_turn_waiting() {
        let mut queue = queue(2, 1, 0);
        queue.push(1, now(0)).unwrap();
        queue.push(2, now(0)).unwrap();
        assert_eq!(queue.push(3, now(0)), Err(3));
    }

    #[test]
    fn what_arrives_while_a_turn_gathers_rides_along() {
        let mut queue = queue(4, 100, 1000);
        queue.push(1, now(0)).unwrap();
        assert!(queue.give_turn());
        queue.push(2, now(0)).unwrap();
        assert!(!queue.give_turn(), "the turn that is out takes both");
        assert_eq!(queue.take(), [1, 2]);
        queue.push(3, now(0)).unwrap();
        assert!(queue.give_turn(), "it has left: the next one gets a turn of its own");
    }

    #[test]
    fn a_batch_takes_no_more_than_fits_in_a_call() {
        let mut queue = queue(2, 2, 10);
        for load in 1..=3 {
            queue.push(load, now(0)).unwrap();
        }
        assert!(queue.give_turn());
        assert_eq!(queue.take(), [1, 2]);
        assert!(queue.give_turn());
        assert_eq!(queue.take(), [3]);
    }

    #[test]
    fn who_has_waited_too_long_is_taken_out() {
        let mut queue = queue(1, 1, 10);
        queue.push(1, now(0)).unwrap();
        assert!(queue.give_turn());
        queue.take();
        queue.push(2, now(5)).unwrap();
        queue.push(3, now(6)).unwrap();
        assert_eq!(queue.next_expiry(), Some(now(6)));
        assert_eq!(queue.expire(now(6)), [2]);
        assert_eq!(queue.len(), 1);
    }

    #[test]
    fn turns_ahead_of_the_line_are_bounded_too() {
        let mut queue = queue(1, 1, 2);
        assert!(queue.give_turn_ahead() && queue.give_turn_ahead());
        assert!(!queue.give_turn_ahead());
        queue.push(1, now(0)).unwrap();
        assert!(queue.give_turn(), "they take nothing from the line");
        assert_eq!(queue.turns_out(), 3);
        queue.give_back_ahead();
        assert!(queue.give_turn_ahead());
    }

    #[test]
    fn an_abandoned_line_is_empty_and_gathers_no_more() {
        let mut queue = queue(1, 10, 10);
        queue.push(1, now(0)).unwrap();
        assert!(queue.give_turn());
        queue.push(2, now(0)).unwrap();
        queue.give_back();
        assert_eq!(queue.abandon(), [1, 2]);
        queue.push(3, now(0)).unwrap();
        assert!(queue.give_turn(), "no turn that is gone is waited for");
    }

    #[test]
    fn who_may_not_wait_is_pulled_out_of_the_line() {
        let mut queue = queue(1, 1, 10);
        for load in [1, 2, 3] {
            queue.push(load, now(0)).unwrap();
        }
        assert_eq!(queue.pull(|load| *load == 2), Some(2));
        assert_eq!(queue.pull(|load| *load == 2), None);
        assert_eq!(queue.len(), 2);
    }

    /// What may be done to a queue.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Push,
        GiveTurn,
        Take,
        GiveBack,
        GiveTurnAhead,
        GiveBackAhead,
        Pull(u32),
        Wait(u64),
        Abandon,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => Just(Step::Push),
            5 => Just(Step::GiveTurn),
            5 => Just(Step::Take),
            3 => Just(Step::GiveBack),
            2 => Just(Step::GiveTurnAhead),
            1 => Just(Step::GiveBackAhead),
            1 => (1..5_u32).prop_map(Step::Pull),
            1 => (0..700_u64).prop_map(Step::Wait),
            1 => Just(Step::Abandon),
        ]
    }

    /// A queue, and what must be in it and out of it.
    struct Pair {
        queue: Queue<u32>,
        limits: Limits,
        /// In order, with when each came.
        waiting: Vec<(u32, Moment)>,
        now: Duration,
        pushed: u32,
        /// Turns that have been given and have not taken yet, and all that are out.
        untaken: usize,
        turns: usize,
        ahead: usize,
    }

    impl Pair {
        fn new(limits: Limits) -> Self {
            let (queue, waiting) = (Queue::new(limits), Vec::new());
            Self { queue, limits, waiting, now: Duration::ZERO, pushed: 0, untaken: 0, turns: 0, ahead: 0 }
        }

        /// The first so many of the model's line.
        fn first(&mut self, count: usize) -> Vec<u32> {
            self.waiting.drain(..count).map(|(load, _)| load).collect()
        }

        fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
            let now = Moment::after_start(self.now);
            match step {
                Step::Push => {
                    self.pushed += 1;
                    let refused = self.queue.push(self.pushed, now).err();
                    prop_assert!(refused.is_none_or(|load| load == self.pushed));
                    if refused.is_none() {
                        self.waiting.push((self.pushed, now));
                    } else {
                        prop_assert!(self.waiting.len() >= self.limits.waiting, "there is room");
                    }
                }
                Step::GiveTurn => {
                    let free = self.turns < self.limits.turns;
                    let given = self.queue.give_turn();
                    prop_assert_eq!(given, free && !self.waiting.is_empty() && self.untaken == 0);
                    self.turns += usize::from(given);
                    self.untaken += usize::from(given);
                }
                Step::Take if self.untaken > 0 => {
                    let taken = self.queue.take();
                    prop_assert_eq!(taken, self.first(self.waiting.len().min(self.limits.per_turn)));
                    self.untaken -= 1;
                }
                // A turn that is given back has taken, unless the line was abandoned with it.
                Step::GiveBack if self.turns > self.untaken => {
                    self.queue.give_back();
                    self.turns -= 1;
                }
                Step::GiveTurnAhead => {
                    let given = self.queue.give_turn_ahead();
                    prop_assert_eq!(given, self.ahead < self.limits.waiting.max(self.limits.turns));
                    self.ahead += usize::from(given);
                }
                Step::GiveBackAhead if self.ahead > 0 => {
                    self.queue.give_back_ahead();
                    self.ahead -= 1;
                }
                Step::Pull(of) => {
                    let place = self.waiting.iter().position(|(load, _)| load % of == 0);
                    let pulled = self.queue.pull(|load| load % of == 0);
                    prop_assert_eq!(pulled, place.map(|place| self.waiting.remove(place).0));
                }
                Step::Wait(millis) => {
                    self.now += Duration::from_millis(millis);
                    let now = Moment::after_start(self.now);
                    let late = self.waiting.iter().filter(|(_, came)| now.since(*came) >= self.limits.wait).count();
                    prop_assert_eq!(self.queue.expire(now), self.first(late));
                }
                Step::Abandon => {
                    prop_assert_eq!(self.queue.abandon(), self.first(self.waiting.len()));
                    // The turn that gathers goes with the line.
                    self.untaken = 0;
                }
                Step::Take | Step::GiveBack | Step::GiveBackAhead => {}
            }
            Ok(())
        }

        fn check(&self) -> Result<(), TestCaseError> {
            prop_assert_eq!(self.queue.len(), self.waiting.len());
            prop_assert_eq!(self.queue.turns_out(), self.turns + self.ahead);
            prop_assert!(self.turns <= self.limits.turns);
            prop_assert!(self.untaken <= 1, "one turn gathers at a time");
            let most = self.limits.waiting + self.limits.turns * self.limits.per_turn;
            prop_assert!(self.waiting.len() <= most, "{} wait", self.waiting.len());
            let first = self.waiting.first().map(|(_, came)| *came + self.limits.wait);
            prop_assert_eq!(self.queue.next_expiry(), first);
            Ok(())
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

        #[test]
        fn turns_keep_to_their_limits_and_every_load_leaves_the_line_once_and_in_order(
            turns in 1_usize..4, per_turn in 1_usize..5, waiting in 0_usize..8, steps in vec(step(), 0..120)
        ) {
            let mut pair = Pair::new(Limits { turns, per_turn, waiting, wait: Duration::from_secs(1) });
            for step in steps {
                pair.step(step)?;
                pair.check()?;
            }
            // What is left leaves by the turns that are left.
            pair.turns -= pair.untaken;
            for _ in 0..pair.untaken {
                let (taken, count) = (pair.queue.take(), pair.waiting.len().min(per_turn));
                prop_assert_eq!(taken, pair.first(count));
                pair.queue.give_back();
            }
            for _ in 0..pair.turns {
                pair.queue.give_back();
            }
            while pair.queue.give_turn() {
                let (taken, count) = (pair.queue.take(), pair.waiting.len().min(per_turn));
                prop_assert_eq!(taken, pair.first(count));
                pair.queue.give_back();
            }
            prop_assert_eq!((pair.waiting.len(), pair.queue.len(), pair.queue.turns_out()), (0, 0, pair.ahead));
        }
    }
}
