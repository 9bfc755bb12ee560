//! The log: the records that others may lack, bounded.
//!
//! A line for each origin, in three parts that follow each other without a hole up to the origin's mark here:
//!
//! - up to the line's **reach**, records were forgotten: who lacks any of those is behind the reach, and can only drop
//!   everything that it holds;
//! - then, perhaps, one **coarse** record that stands for all numbers from there up to its last;
//! - then the records as they were issued, those out of turn among them.
//!
//! What must hold: a record that is not complete is never forgotten. At the bounds it becomes part of its origin's
//! coarse record, which takes out whole groups: that costs hits, never the promise.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::record::{Origin, Record, Span};
use super::seen::Seen;

/// The bounds of a log. What is a part of a coarse record counts no more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogLimits {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
    /// So many records are kept although they are complete, for a peer that comes back.
    pub(crate) recent: usize,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { records: 16 << 10, bytes: 4 << 20, recent: 1 << 10 }
    }
}

/// What a peer lacks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Lacking {
    /// Nothing.
    #[default]
    Nothing,
    /// These records, to be applied in this order; more may follow once it has said that it has applied them.
    Records(Vec<Arc<Record>>),
    /// Some were forgotten: it has to drop everything that it holds, and may then claim each origin up to its mark.
    BehindReach(Vec<(Origin, u64)>),
}

/// The records that others may lack.
#[derive(Debug)]
pub(crate) struct Log {
    limits: LogLimits,
    lines: BTreeMap<Origin, Line>,
    /// The records that are there as they were issued, and their bytes.
    records: usize,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Line {
    reach: u64,
    coarse: Option<Arc<Record>>,
    exact: BTreeMap<u64, Arc<Record>>,
}

impl Line {
    /// Up to where nothing is there as it was issued.
    fn coarse_to(&self) -> u64 {
        self.coarse.as_ref().map_or(self.reach, |coarse| coarse.span.last)
    }

    /// The first record after the coarse one, if it follows without a hole.
    fn foldable(&self) -> Option<u64> {
        self.exact.first_key_value().map(|(&number, _)| number).filter(|&number| number == self.coarse_to() + 1)
    }

    /// Makes `record` a part of the coarse one, which begins at the reach.
    fn fold(&mut self, record: &Record) {
        let coarse = self.coarse.get_or_insert_with(|| Arc::new(record.clone()));
        let coarse = Arc::make_mut(coarse);
        coarse.absorb(record);
        coarse.span.first = self.reach + 1;
    }
}

impl Log {
    pub(crate) fn new(limits: LogLimits) -> Self {
        Self { limits, lines: BTreeMap::new(), records: 0, bytes: 0 }
    }

    /// Takes in a record that has just been applied here (and noted in the vector).
    pub(crate) fn push(&mut self, record: &Arc<Record>) {
        let line = self.lines.entry(record.span.origin.clone()).or_default();
        if record.span.last <= line.coarse_to() {
            // Only numbers that are complete, or stood for already: the coarse record may stand for too few groups.
            if record.span.last > line.reach {
                line.fold(record);
            }
            return;
        }
        if record.span.is_one() {
            if line.exact.insert(record.span.last, Arc::clone(record)).is_none() {
                self.records += 1;
                self.bytes += record.bytes();
            }
        } else {
            line.fold(record);
            self.fold_up_to(&record.span);
        }
        self.keep_to_limits();
    }

    /// The records that a coarse one stands for are parts of it.
    fn fold_up_to(&mut self, span: &Span) {
        let line = self.lines.get_mut(&span.origin).expect("the record's line was made");
        let later = line.exact.split_off(&(span.last + 1));
        for record in std::mem::replace(&mut line.exact, later).into_values() {
            self.records -= 1;
            self.bytes -= record.bytes();
            line.fold(&record);
        }
    }

    /// Coarsens the longest lines, a good part at a time, so that it is rarely done.
    fn keep_to_limits(&mut self) {
        let LogLimits { records, bytes, .. } = self.limits;
        if self.records <= records && self.bytes <= bytes {
            return;
        }
        while self.records > records / 4 * 3 || self.bytes > bytes / 4 * 3 {
            let foldable = self.lines.values_mut().filter(|line| line.foldable().is_some());
            let Some(line) = foldable.max_by_key(|line| line.exact.len()) else { return };
            // Half of the line, and at least one.
            for _ in 0..line.exact.len().div_ceil(2) {
                let Some(number) = line.foldable() else { break };
                let record = line.exact.remove(&number).expect("it was just seen");
                self.records -= 1;
                self.bytes -= record.bytes();
                line.fold(&record);
            }
        }
    }

    /// What somebody lacks who has applied `seen`: about `bytes` of it, and at least one record.
    pub(crate) fn lacking<'a>(&'a self, seen: &Seen, bytes: usize) -> Lacking {
        if !self.is_within_reach(seen) {
            return Lacking::BehindReach(self.reaches());
        }
        let (mut records, mut room) = (Vec::new(), bytes);
        let beyond_mark = |(origin, line): (&Origin, &'a Line)| {
            let mark = seen.mark(origin);
            line.coarse.iter().chain(line.exact.range(mark + 1..).map(|(_, record)| record))
        };
        for record in self.lines.iter().flat_map(beyond_mark) {
            if seen.has_all(&record.span) {
                continue;
            }
            if !records.is_empty() && record.bytes() > room {
                break;
            }
            room = room.saturating_sub(record.bytes());
            records.push(Arc::clone(record));
        }
        if records.is_empty() { Lacking::Nothing } else { Lacking::Records(records) }
    }

    fn is_within_reach(&self, seen: &Seen) -> bool {
        self.lines.iter().all(|(origin, line)| seen.reaches(origin, line.reach))
    }

    /// Up to where each origin's records were forgotten.
    pub(crate) fn reaches(&self) -> Vec<(Origin, u64)> {
        self.lines.iter().map(|(origin, line)| (origin.clone(), line.reach)).filter(|(_, reach)| *reach > 0).collect()
    }

    /// The records that are there as they were issued.
    pub(super) fn records(&self) -> impl Iterator<Item = &Record> {
        self.lines.values().flat_map(|line| line.exact.values()).map(Arc::as_ref)
    }

    /// Up to `reach`, nothing can be had here: what is adopted from another log's reach comes without records.
    pub(crate) fn adopt(&mut self, origin: &Origin, reach: u64) {
        let line = self.lines.entry(origin.clone()).or_default();
        if line.reach >= reach {
            return;
        }
        line.reach = reach;
        if let Some(coarse) = &mut line.coarse {
            if coarse.span.last <= reach {
                line.coarse = None;
            } else {
                Arc::make_mut(coarse).span.first = reach + 1;
            }
        }
        let later = line.exact.split_off(&(reach + 1));
        for record in std::mem::replace(&mut line.exact, later).into_values() {
            self.records -= 1;
            self.bytes -= record.bytes();
        }
    }

    /// Forgets what is complete, up to the `stable` mark of each origin, beyond some recent records.
    pub(crate) fn forget(&mut self, stable: &BTreeMap<Origin, u64>) {
        for (origin, &stable) in stable {
            let Some(line) = self.lines.get_mut(origin) else { continue };
            if let Some(coarse) = line.coarse.take_if(|coarse| coarse.span.last <= stable) {
                line.reach = coarse.span.last;
            }
            while self.records > self.limits.recent {
                let Some(number) = line.foldable().filter(|&number| number <= stable && line.coarse.is_none()) else {
                    break;
                };
                let record = line.exact.remove(&number).expect("it was just seen");
                line.reach = number;
                self.records -= 1;
                self.bytes -= record.bytes();
            }
        }
    }

    /// Forgets an origin, all of whose records are complete.
    pub(crate) fn forget_origin(&mut self, origin: &Origin) {
        if let Some(line) = self.lines.remove(origin) {
            self.records -= line.exact.len();
            self.bytes -= line.exact.values().map(|record| record.bytes()).sum::<usize>();
        }
    }

    /// The records that are there as they were issued.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.records
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::record::What;
    use super::super::seen::Noted;
    use super::*;
    use crate::key::Key;
    use crate::member::NodeName;
    use crate::removal::{Incarnation, Scope};

    const SMALL: LogLimits = LogLimits { records: 8, bytes: 4000, recent: 3 };

    fn origin(name: u64) -> Origin {
        Origin::new(NodeName::from(&name.to_string()), Incarnation(name))
    }

    fn group(number: u64) -> Arc<str> {
        Arc::from(["users", "prices"][usize::from(number.is_multiple_of(3))])
    }

    fn record(name: u64, number: u64) -> Arc<Record> {
        let scope = Scope::Keys(vec![Key::new(&number.to_string())]);
        Arc::new(Record::one(Span::one(origin(name), number), group(number), scope))
    }

    fn stands_for(records: &[Arc<Record>], name: u64, number: u64) -> bool {
        let is_in = |what: &What| match what {
            What::One { scope: Scope::Keys(keys), .. } => keys.contains(&Key::new(&number.to_string())),
            What::One { .. } => false,
            What::Groups(groups) => groups.contains(&group(number)),
            What::Everything => true,
        };
        let span = Span::one(origin(name), number);
        records.iter().any(|record| {
            let Span { origin, first, last } = &record.span;
            *origin == span.origin && (*first..=*last).contains(&number) && is_in(&record.what)
        })
    }

    #[test]
    fn who_lacks_what_was_forgotten_is_behind_the_reach() {
        let mut log = Log::new(SMALL);
        (1..=6).for_each(|number| log.push(&record(1, number)));
        log.forget(&BTreeMap::from([(origin(1), 5)]));
        assert_eq!((log.len(), log.reaches()), (3, vec![(origin(1), 3)]));
        let mut seen = Seen::default();
        assert_eq!(log.lacking(&seen, 1000), Lacking::BehindReach(vec![(origin(1), 3)]));
        seen.adopt(&origin(1), 3);
        assert_eq!(log.lacking(&seen, 1000), Lacking::Records((4..=6).map(|number| record(1, number)).collect()));
        assert_eq!(log.lacking(&seen, 1), Lacking::Records(vec![record(1, 4)]), "in parts");
    }

    #[test]
    fn what_cannot_be_kept_becomes_coarse_and_is_not_forgotten() {
        let mut log = Log::new(SMALL);
        (1..=1000).for_each(|number| log.push(&record(1, number)));
        assert!(log.len() <= 8, "{} records", log.len());
        let Lacking::Records(records) = log.lacking(&Seen::default(), usize::MAX) else { panic!("within reach") };
        assert!((1..=1000).all(|number| stands_for(&records, 1, number)));
        assert_eq!((records[0].span.first, records[0].what.clone()), (1, What::Groups([group(1), group(3)].into())));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

        /// One log takes records in any order, coarsens, forgets what is complete; a second one takes what it lacks in
        /// parts. Both have all that is not complete, and whoever starts from nothing gets all of it, or is told so.
        #[test]
        fn what_is_not_complete_is_always_there_for_who_lacks_it(
            steps in vec((1_u64..3, 1_u64..30, 0_u64..4, any::<bool>()), 0..120)
        ) {
            let (mut log, mut seen, mut second, mut reached) = (Log::new(SMALL), Seen::default(), Log::new(SMALL), Seen::default());
            let mut stable = BTreeMap::new();
            for (name, number, moved, syncs) in steps {
                let record = record(name, number);
                if seen.note(&record.span) == Noted::New {
                    log.push(&record);
                }
                let mark = stable.entry(origin(name)).or_insert(0);
                *mark = (*mark + moved).min(reached.mark(&origin(name)));
                log.forget(&stable);
                if syncs {
                    match log.lacking(&reached, 600) {
                        Lacking::Nothing => prop_assert_eq!(&reached, &seen),
                        Lacking::Records(records) => for record in records {
                            reached.note(&record.span);
                            second.push(&record);
                        },
                        Lacking::BehindReach(_) => prop_assert!(false, "it was told of everything"),
                    }
                }
                for (log, seen) in [(&log, &seen), (&second, &reached)] {
                    let mut adopted = Seen::default();
                    log.reaches().into_iter().for_each(|(origin, reach)| adopted.adopt(&origin, reach));
                    let records = match log.lacking(&adopted, usize::MAX) {
                        Lacking::Records(records) => records,
                        Lacking::Nothing => Vec::new(),
                        Lacking::BehindReach(_) => panic!("the reach was adopted"),
                    };
                    for name in 1..3 {
                        prop_assert!(log.reaches().iter().all(|(of, reach)| reach <= &stable.get(of).copied().unwrap_or(0)));
                        for number in (1..30).filter(|&number| seen.has_all(&Span::one(origin(name), number))) {
                            let forgotten = adopted.has_all(&Span::one(origin(name), number));
                            prop_assert!(forgotten || stands_for(&records, name, number), "{} of {}", number, name);
                        }
                    }
                    prop_assert!(log.len() <= 8 || log.lines.values().all(|line| line.foldable().is_none()));
                    let exact = log.lines.values().flat_map(|line| line.exact.values());
                    let (count, bytes) = exact.fold((0, 0), |(count, sum), record| (count + 1, sum + record.bytes()));
                    prop_assert_eq!((count, bytes), (log.records, log.bytes));
                }
            }
        }
    }
}
