//! What happened, held against what is promised.
//!
//! The judge errs on one side: it says no only where nothing that could have happened unseen would excuse it.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use peerage::Error;
use peerage::simulation::Fault;

use super::books::{Books, Load, Removal, Stamp};
use super::world::{NOT_FOUND_LIFE, TIMEOUT};

/// What is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Promise {
    /// After a removal that reached everybody, no get that starts later returns a value whose load began before it.
    Removed,
    /// No value is served beyond its life, nor said to be younger than it is.
    Life,
    /// Every call ends within its limit.
    Limit,
    /// One load of a key at a time.
    OneLoad,
    /// Never more bytes than given.
    Bytes,
    /// When all faults are over, the nodes find each other, become idle, and all agree.
    Healing,
    /// And nothing is kept for removals any more.
    Drained,
    /// The value is one that was loaded for this key.
    Value,
    /// Errors are those that the docs name.
    Errors,
}

/// A promise that was broken, and how.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) promise: Promise,
    pub(crate) what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.promise, self.what)
    }
}

/// A question, as the judge knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) node: usize,
    pub(crate) key: usize,
    pub(crate) started: Stamp,
    /// The removal whose token the question carries: nothing older than that is an answer.
    pub(crate) after: Option<usize>,
    /// Nor is anything older than so long.
    pub(crate) max_age: Option<Duration>,
}

/// As exact as timers are.
const TICK: Duration = Duration::from_millis(2);
/// So long after the last fault nothing is under way any more that began in it: a get at its limit, a peer tried anew.
const CALM_AFTER: Duration = Duration::from_secs(4);

/// A pause of so long is noticed by who has made it.
const STILL: Duration = Duration::from_secs(2);
/// So long after a fault, nodes that it parted have found each other again.
const RECOVERS: Duration = Duration::from_secs(1);

impl Books {
    pub(crate) fn violated(&mut self, promise: Promise, what: String) {
        self.note(format_args!("{promise:?} is broken: {what}"));
        self.violations.push(Violation { promise, what });
    }

    /// A get was answered with a value.
    pub(crate) fn judge_value(&mut self, asked: Asked, value: &str) {
        self.coverage.values_checked += 1;
        let Some((key, number)) = parse(value).filter(|(_, number)| *number < self.loads.len()) else {
            return self.violated(Promise::Value, format!("{asked:?}: {value:?} was never loaded"));
        };
        let load = self.loads[number].clone();
        if key != asked.key || load.key != asked.key || !load.is_found || (load.ended.is_none() && !load.is_insert) {
            return self.violated(Promise::Value, format!("{asked:?} was answered {value:?} of {load:?}"));
        }
        if let Some(removal) = self.forbids(asked, &load).cloned() {
            let what = format!("{asked:?} was answered by #{number}, {load:?}, after {removal:?}");
            self.violated(Promise::Removed, what);
        }
        if let Some(removal) = self.missed(asked, &load).cloned() {
            let what =
                format!("{asked:?}, after a pause, was answered by #{number}, {load:?}, in spite of {removal:?}");
            self.violated(Promise::Removed, what);
        }
        if let (Some(most), Some(began), false) = (asked.max_age, load.began, load.is_insert)
            && began.at + most + TICK < asked.started.at
        {
            self.violated(Promise::Life, format!("{asked:?} was answered by #{number}, {load:?}, which is too old"));
        }
        let now = self.now();
        if self.is_over(&load, asked) {
            self.violated(Promise::Life, format!("{asked:?} was answered at {now:?} by #{number}, {load:?}"));
        }
    }

    /// A get was answered with "there is none": there has to be a load that found none, and may still be told.
    pub(crate) fn judge_none(&mut self, asked: Asked) {
        let none = |load: &&Load| load.key == asked.key && !load.is_found && load.ended.is_some();
        let in_time: Vec<&Load> = self.loads.iter().filter(none).filter(|load| !self.is_over(load, asked)).collect();
        if in_time.iter().any(|load| self.forbids(asked, load).is_none()) {
            return;
        }
        let promise = if in_time.is_empty() { Promise::Life } else { Promise::Removed };
        self.violated(promise, format!("{asked:?} was told that there is none"));
    }

    /// The age and what is left, as a get was told.
    pub(crate) fn judge_entry(&mut self, asked: Asked, value: &str, age: Duration, left: Option<Duration>) {
        let Some(load) = parse(value).and_then(|(_, number)| self.loads.get(number)) else { return };
        let (Some(began), Some(ended), false) = (load.began, load.ended, load.is_insert) else { return };
        let (now, load) = (self.now(), load.clone());
        if began.at + age + TICK < now {
            self.violated(Promise::Life, format!("{asked:?} was told that {load:?} is {age:?} old at {now:?}"));
        }
        // A value can be over when it arrives: then it says so.
        let is_too_much = |left: Duration| !left.is_zero() && now + left > ended.at + load.life + TICK;
        if left.is_none_or(is_too_much) {
            self.violated(Promise::Life, format!("{asked:?} was told that {load:?} has {left:?} left at {now:?}"));
        }
    }

    /// A call has ended that had a limit. It may be late by a tick; and if its process stands still by then, it ends as
    /// soon as the process goes on. Nothing else excuses it.
    pub(crate) fn judge_limit(&mut self, node: usize, started: Stamp, limit: Duration, call: &str) {
        let now = self.now();
        if now > self.could(node, started.at + limit) + TICK {
            let took = now.saturating_sub(started.at);
            self.violated(Promise::Limit, format!("{call} on {node} at {:?} took {took:?}, not {limit:?}", started.at));
        }
    }

    /// When a process could do what was due at `due`: then, or if it stood still, as soon as it went on.
    fn could(&self, node: usize, mut due: Duration) -> Duration {
        let pauses = self.weather.iter().filter(|(fault, ..)| *fault == Fault::Pause { node });
        // They may overlap.
        while let Some((.., until)) = pauses.clone().find(|(_, since, until)| *since <= due + TICK && *until > due) {
            due = *until;
        }
        due
    }

    pub(crate) fn judge_error(&mut self, asked: Asked, error: &Error) {
        let is_expected = matches!(
            error,
            Error::Load(_) | Error::LoadTimeout { .. } | Error::Timeout { .. } | Error::Busy | Error::Closed
        );
        if !is_expected {
            self.violated(Promise::Errors, format!("{asked:?} failed: {error:?}"));
        }
    }

    /// A load begins: is there another one that makes it needless?
    pub(crate) fn judge_load(&mut self, number: usize) {
        let (load, calm) = (&self.loads[number], self.calm_since() + CALM_AFTER);
        let twin = self.running.iter().map(|other| (other, &self.loads[*other])).find(|(_, other)| {
            let is_same_run = (other.node, other.run) == (load.node, load.run);
            let since = |it: &Load| it.began.is_some_and(|began| began.at > calm);
            let agree = is_same_run || (since(other) && since(load)) || self.are_in_one_part(other, load);
            other.key == load.key && agree && !self.may_be_voided(other)
        });
        if let Some((other, twin)) = twin {
            let what = format!("#{number}, {load:?}, begins beside #{other}, {twin:?}");
            self.violated(Promise::OneLoad, what);
        }
    }

    /// The part of the cluster that a node is in, and since when, where nothing else is wrong than that links have been
    /// cut, and that has stood from so long before `at` as it takes to notice: all in it reach each other, and nobody
    /// else.
    fn part_of(&self, node: usize, at: Duration) -> Option<(Duration, BTreeSet<usize>)> {
        let stands = |from: Duration, until: Duration| from + CALM_AFTER <= at && until > self.now();
        let (mut cuts, mut since) = (BTreeSet::new(), Duration::ZERO);
        for (fault, from, until) in self.weather.iter().filter(|(.., until)| *until + CALM_AFTER > at) {
            match fault {
                Fault::Cut { from: a, to: b, both_ways: true } if stands(*from, *until) => {
                    cuts.extend([(*a, *b), (*b, *a)]);
                    since = since.max(*from);
                }
                _ => return None,
            }
        }
        let nodes: BTreeSet<usize> = self.starts.keys().map(|(node, _)| *node).collect();
        let reached = |node: usize| -> BTreeSet<usize> {
            nodes.iter().copied().filter(|other| !cuts.contains(&(node, *other))).collect()
        };
        let part = reached(node);
        (part.len() < nodes.len() && part.iter().all(|other| reached(*other) == part)).then_some((since, part))
    }

    /// Whether two loads are of nodes that agree and reach each other although others cannot be reached.
    fn are_in_one_part(&self, one: &Load, other: &Load) -> bool {
        let (Some(one_began), Some(other_began)) = (one.began, other.began) else { return false };
        let part = self.part_of(one.node, one_began.at.min(other_began.at));
        part.is_some_and(|(_, part)| part.contains(&other.node))
    }

    /// Whether something was removed since a load began, by a message that may have been late.
    fn may_be_voided(&self, load: &Load) -> bool {
        let Some(began) = load.began else { return true };
        // A question that carries a token voids what has begun, on the node that is asked and on those that it asks; and
        // each remembers it for a second or two.
        let mut asks = self.token_gets.iter().filter(|(key, _)| *key == load.key);
        if asks.any(|(_, asked)| asked.at + CALM_AFTER >= began.at) {
            return true;
        }
        // While the removal of a tag is on its way, a question for any key may carry it.
        let may_cover = |removal: &&Removal| removal.is_of_tag || removal.covers(load.key);
        // What another part removes is not heard of in this one.
        let part = self.part_of(load.node, began.at);
        let may_be_heard = |removal: &&Removal| {
            let is_apart = |(since, part): &(Duration, BTreeSet<usize>)| {
                *since <= removal.began.at && !part.contains(&removal.node)
            };
            !part.as_ref().is_some_and(is_apart)
        };
        self.removals.iter().filter(may_cover).filter(may_be_heard).any(|removal| {
            let Some(ended) = removal.ended else { return true };
            // What a node has missed while it was not there, it hears of when it is.
            let start = self.starts.get(&(load.node, load.run)).copied().unwrap_or_default();
            let is_heard_late = removal.began.order < start.order && began.at < start.at + CALM_AFTER;
            // And what who was not part of everybody has missed, when it is.
            let is_heard_back = removal.beyond.contains(&load.node)
                && self.weather.iter().any(|(_, since, until)| *since <= began.at && began.at < *until + CALM_AFTER);
            // Who has said that it has applied it does not void anything for it any more.
            let is_done =
                removal.done.contains(&load.node) && removal.returned.is_some_and(|it| it.order < began.order);
            let is_on_its_way = !is_done && (ended.order > began.order || !removal.is_everywhere);
            is_on_its_way || is_heard_late || is_heard_back
        })
    }

    /// The removal after which a get must not be answered by a load.
    fn forbids(&self, asked: Asked, load: &Load) -> Option<&Removal> {
        let began = load.began?;
        let mut removals = self.removals.iter().enumerate();
        let broken = removals.find(|(number, removal)| {
            asked.after == Some(*number) && began.order < removal.began.order
                || removal.covers(asked.key)
                    && began.order < removal.began.order
                    && (self.has_reached(removal, load, asked) || self.has_said_so(removal, asked))
        });
        broken.map(|(_, removal)| removal)
    }

    /// Whether a removal was everywhere before a get began, and who asks was a part of that.
    fn has_reached(&self, removal: &Removal, load: &Load, asked: Asked) -> bool {
        removal.is_everywhere
            && removal.ended.is_some_and(|ended| ended.order < asked.started.order)
            && !removal.beyond.contains(&asked.node)
            && !self.is_unheard(removal, load, asked)
    }

    /// Whether a receipt had said before a get began that the node is done: then it has nothing old, and nothing from
    /// others, who may be pending still. It was not started anew since.
    fn has_said_so(&self, removal: &Removal, asked: Asked) -> bool {
        let runs = self.starts.range((asked.node, 0)..=(asked.node, u64::MAX));
        removal.done.contains(&asked.node)
            && removal.returned.is_some_and(|returned| returned.order < asked.started.order)
            && runs.last().is_some_and(|(_, start)| start.order < removal.began.order)
    }

    /// Whether who asks cannot know of a removal: it has been started anew since, and was answered by one who was not part
    /// of everybody then, and has come back; and either so have all who were, or they may not have met again.
    fn is_unheard(&self, removal: &Removal, load: &Load, asked: Asked) -> bool {
        let (Some(ended), now) = (removal.ended, asked.started.at) else { return false };
        // What was inserted lies with the owner, and who that was is not written down.
        let was_beyond = |node: &usize| load.is_insert || *node == load.node;
        let is_new = |node: usize| {
            self.weather.iter().any(|(fault, since, until)| {
                let is_down =
                    matches!(fault, Fault::Crash { node: it } | Fault::Restart { node: it, .. } if *it == node);
                is_down && *since <= now && *until >= ended.at
            })
        };
        let have_met = self.weather.iter().all(|(_, since, until)| *since > now || *until + CALM_AFTER <= now);
        let nodes = self.starts.keys().map(|(node, _)| *node);
        let mut others = nodes.filter(|node| !removal.beyond.contains(node));
        removal.beyond.iter().any(was_beyond) && is_new(asked.node) && (!have_met || others.all(is_new))
    }

    /// The removal that a process missed while it stood still, after which a get of the time since must not be answered
    /// by a load, though the receipt names the node: if the pause was one that is noticed, and nothing else was wrong.
    fn missed(&self, asked: Asked, load: &Load) -> Option<&Removal> {
        let (began, now) = (load.began?, asked.started);
        let is_pause = |(fault, since, until): &&(Fault, Duration, Duration)| {
            *fault == Fault::Pause { node: asked.node } && *until <= now.at && *until >= *since + STILL
        };
        let (_, paused, woke) = self.weather.iter().rfind(is_pause)?;
        let others = self.weather.iter().filter(|(_, since, until)| *since <= now.at && *until + RECOVERS >= *paused);
        if others.count() > 1 {
            return None;
        }
        self.removals.iter().find(|removal| {
            removal.covers(asked.key)
                && began.order < removal.began.order
                && removal.ended.is_some_and(|ended| ended.at <= *woke && ended.order < now.order)
        })
    }

    /// Whether a value's life was over when it was asked for, and its grace. What is left of a "there is none" is not
    /// told to peers: who joins a fetch may be told of one that was over on the way, which takes no longer than a get
    /// may.
    fn is_over(&self, load: &Load, asked: Asked) -> bool {
        let life = if load.is_found { load.life + self.grace } else { NOT_FOUND_LIFE + TIMEOUT };
        load.ended.is_some_and(|ended| asked.started.at > ended.at + life + TICK)
    }
}

/// The value of a load: its key, and the load's number.
pub(crate) fn write(key: usize, number: usize, padding: usize) -> String {
    format!("k{key}#{number}:{}", ".".repeat(padding))
}

/// The number of the load that a value is of.
pub(crate) fn number(value: &str) -> Option<usize> {
    parse(value).map(|(_, number)| number)
}

fn parse(value: &str) -> Option<(usize, usize)> {
    let (key, rest) = value.strip_prefix('k')?.split_once('#')?;
    Some((key.parse().ok()?, rest.split(':').next()?.parse().ok()?))
}
