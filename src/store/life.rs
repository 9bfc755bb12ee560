//! Lives as they are kept: in eight bytes, and nine for those that have a soft limit or a grace.
//!
//! All limits are rounded down, so that an entry is never younger than it says, and never lives longer than it may.
//!
//! Of a plain life the word has the millisecond in which it was born (39 bits: 17 years), and how long it is (24 bits).
//! A **tailed** life, which the top bit tells, shares those 24 bits and a byte more between two lengths: up to its hard
//! limit (16 bits), and up to when it is **due** (15 bits); the bit that is left says whether it has a grace.
//!
//! An entry is due when more is to be done than to serve it: at its soft limit, at first. A refresh that begins moves
//! that to the hard limit, and one that fails to the end of a pause, be that before the hard limit or, within the
//! grace, after it. So what is not yet due is served as any hit is, and there is no state beside this and the number of
//! tries.

use std::time::Duration;

use crate::lifespan::Lifespan;
use crate::time::Moment;

/// The first pause after a load that failed; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// How many tries are told apart: the last pause is 64 times the first, 16 seconds.
pub(super) const MOST_TRIES: u8 = 7;

/// How long the next load of a key waits after so many that failed, shortened by up to a tenth by the dice (in
/// `[0, 1)`), so that keys that failed together do not come back together.
pub(super) fn pause(tries: u8, dice: f64) -> Duration {
    let pause = FIRST_PAUSE * (1 << u32::from(tries.clamp(1, MOST_TRIES) - 1));
    pause.mul_f64(1.0 - dice / 10.0)
}

/// A length of time as a number of so many bits and how often that is doubled (five bits), in tenths of milliseconds.
struct Length<const NUMBER_BITS: u32>;

/// A tenth of a millisecond, in microseconds.
const TENTH: u64 = 100;

impl<const NUMBER_BITS: u32> Length<NUMBER_BITS> {
    const BITS: u32 = NUMBER_BITS + 5;
    /// The length that never ends: the largest code.
    const ENDLESS: u64 = (1 << Self::BITS) - 1;

    /// The code of the longest length that is no longer than this.
    fn down(length: Duration) -> u64 {
        Self::of_tenths(u64::try_from(length.as_micros() / u128::from(TENTH)).unwrap_or(u64::MAX))
    }

    /// The code of the shortest length that is no shorter than this.
    fn up(length: Duration) -> u64 {
        let tenths = u64::try_from(length.as_nanos().div_ceil(u128::from(TENTH) * 1000)).unwrap_or(u64::MAX);
        let code = Self::of_tenths(tenths);
        // The codes are in the order of their lengths, but for those that say the same of a number doubled once less.
        if Self::tenths(code) < tenths {
            Self::of_tenths(Self::tenths(code) + (1 << (code >> NUMBER_BITS)))
        } else {
            code
        }
    }

    fn of_tenths(tenths: u64) -> u64 {
        let doubled = (u64::BITS - tenths.leading_zeros()).saturating_sub(NUMBER_BITS);
        ((u64::from(doubled) << NUMBER_BITS) | (tenths >> doubled)).min(Self::ENDLESS - 1)
    }

    fn tenths(code: u64) -> u64 {
        (code & ((1 << NUMBER_BITS) - 1)) << (code >> NUMBER_BITS)
    }

    /// When a length has passed since the birth in a word. Every hit asks, and most lives are endless or plain: no more
    /// is worked out than is needed, and nothing by way of a [`Duration`].
    #[inline]
    fn after(word: u64, code: u64) -> Moment {
        if code == Self::ENDLESS {
            return Moment::NEVER;
        }
        born(word).later_by_micros(Self::tenths(code).saturating_mul(TENTH))
    }
}

/// It loses no more than a tenth of a millisecond and a part of its length in 250,000, beside the rounding of its
/// birth.
type Plain = Length<19>;
/// It loses no more than a part in a thousand.
type Hard = Length<11>;
/// It loses no more than a part in five hundred. The largest code stands for the hard limit here.
type Due = Length<10>;

const TAILED: u64 = 1 << 63;
const LENGTH_BITS: u32 = Plain::BITS;
const LONGEST_BORN: u64 = (1 << (63 - LENGTH_BITS)) - 1;
const GRACE: u64 = 1 << Due::BITS;

/// The word of a life, and the byte that a tailed one needs beside it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packed {
    pub(super) word: u64,
    pub(super) tail: u8,
}

impl Packed {
    pub(super) fn new(life: &Lifespan) -> Self {
        let since_start = u64::try_from(life.born.since(Moment::START).as_millis()).unwrap_or(u64::MAX);
        let word = since_start.min(LONGEST_BORN) << LENGTH_BITS;
        let born = born(word);
        if life.is_plain() {
            return Self { word: word | life.hard.left(born).map_or(Plain::ENDLESS, Plain::down), tail: 0 };
        }
        let hard = life.hard.left(born).map_or(Hard::ENDLESS, Hard::down);
        let soft = if life.soft < life.hard { Due::down(life.soft.since(born)) } else { Due::ENDLESS };
        Self { word: TAILED | word | hard << 8, tail: 0 }.with_due(soft | if life.grace { GRACE } else { 0 })
    }

    #[expect(clippy::cast_possible_truncation, reason = "the low byte")]
    fn with_due(self, due: u64) -> Self {
        Self { word: self.word & !0xff | due >> 8, tail: due as u8 }
    }

    fn due_code(self) -> u64 {
        (self.word & 0xff) << 8 | u64::from(self.tail)
    }

    #[inline]
    pub(super) fn is_tailed(self) -> bool {
        self.word & TAILED != 0
    }

    #[inline]
    pub(super) fn born(self) -> Moment {
        born(self.word)
    }

    #[inline]
    pub(super) fn hard(self) -> Moment {
        if self.is_tailed() {
            return Hard::after(self.word, self.word >> 8 & Hard::ENDLESS);
        }
        Plain::after(self.word, self.word & Plain::ENDLESS)
    }

    /// When more is to be done than to serve it. Within the grace that may be beyond the hard limit.
    pub(super) fn due(self) -> Moment {
        let code = self.due_code() & Due::ENDLESS;
        if !self.is_tailed() || code == Due::ENDLESS { self.hard() } else { Due::after(self.word, code) }
    }

    pub(super) fn has_grace(self) -> bool {
        self.is_tailed() && self.due_code() & GRACE != 0
    }

    /// The hard limit, or as much later as the grace is long.
    pub(super) fn end(self, grace: Duration) -> Moment {
        if self.has_grace() { self.hard() + grace } else { self.hard() }
    }

    /// It is due at its hard limit.
    pub(super) fn put_off_to_hard(&mut self) {
        if self.is_tailed() {
            *self = self.with_due(self.due_code() | Due::ENDLESS);
        }
    }

    /// It is due at this moment, or a little later: a part of its age in five hundred. Of a plain life nothing can be
    /// put off.
    pub(super) fn put_off(&mut self, due: Moment) {
        if self.is_tailed() {
            *self = self.with_due(self.due_code() & GRACE | Due::up(due.since(self.born())));
        }
    }
}

#[inline]
fn born(word: u64) -> Moment {
    Moment::from_millis((word & !TAILED) >> LENGTH_BITS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn plain(born: Duration, length: Duration) -> (Moment, Moment, Packed) {
        let born = Moment::after_start(born);
        (born, born + length, Packed::new(&Lifespan::new(born, born + length)))
    }

    #[test]
    fn lives_of_whole_seconds_are_kept_to_the_nanosecond() {
        for seconds in [0, 1, 5, 10, 60, 300, 3600, 86_400] {
            let (born, hard, life) = plain(HOUR, Duration::from_secs(seconds));
            assert_eq!((life.born(), life.hard(), life.due()), (born, hard, hard), "{seconds} s");
        }
    }

    #[test]
    fn a_life_without_end_has_none_and_a_very_long_one_has() {
        let (born, _, endless) = plain(HOUR, Duration::MAX);
        assert_eq!((endless.born(), endless.hard()), (born, Moment::NEVER));
        let century = HOUR * 24 * 365 * 100;
        let (_, hard, long) = plain(HOUR, century);
        assert!(long.hard() <= hard && long.hard() > Moment::after_start(century));
    }

    #[test]
    fn a_soft_limit_needs_no_hard_one_and_a_grace_no_soft_one() {
        let born = Moment::after_start(HOUR);
        let soft = Packed::new(&Lifespan { soft: born + HOUR, ..Lifespan::new(born, Moment::NEVER) });
        assert_eq!((soft.hard(), soft.has_grace()), (Moment::NEVER, false));
        assert!(soft.due() <= born + HOUR && soft.due() > born + HOUR * 99 / 100);
        let grace = Packed::new(&Lifespan { grace: true, ..Lifespan::new(born, born + HOUR) });
        assert_eq!(grace.due(), grace.hard());
        assert_eq!(grace.end(HOUR), grace.hard() + HOUR);
    }

    #[test]
    fn pauses_double_up_to_a_bound() {
        let seconds: Vec<f64> = (0..10).map(|tries| pause(tries, 0.0).as_secs_f64()).collect();
        assert_eq!(seconds, [0.25, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 16.0, 16.0]);
        assert!(pause(7, 0.99) > Duration::from_secs(14));
    }

    fn lengths() -> impl Strategy<Value = Duration> {
        prop_oneof![0_u64..1 << 20, 0_u64..1 << 40, 0_u64..1 << 57].prop_map(Duration::from_nanos)
    }

    /// Whether `kept` is `limit` or a little earlier: by a millisecond for the rounding of the birth, a tenth for the
    /// unit, and one part of the length in so many.
    fn is_little_less(kept: Moment, limit: Moment, length: Duration, part: u32) -> bool {
        kept <= limit && limit.since(kept) <= Duration::from_micros(1100) + length / part
    }

    proptest! {
        #[test]
        fn an_entry_is_never_younger_nor_lives_longer_than_it_may(born in 0_u64..1 << 58, length in lengths()) {
            let (born, hard, life) = plain(Duration::from_nanos(born), length);
            prop_assert!(life.born() <= born && born.since(life.born()) < Duration::from_millis(1));
            prop_assert!(is_little_less(life.hard(), hard, length, 250_000), "{:?} of {:?}", life.hard(), hard);
        }

        #[test]
        fn so_it_is_with_a_soft_limit_and_a_grace(
            born in 0_u64..1 << 58, lengths in (lengths(), lengths()), grace in any::<bool>(),
        ) {
            let born = Moment::after_start(Duration::from_nanos(born));
            let (soft, hard) = (lengths.0.min(lengths.1), lengths.0.max(lengths.1));
            let life = Lifespan { born, soft: born + soft, hard: born + hard, grace };
            let kept = Packed::new(&life);
            prop_assert!(kept.born() <= born && born.since(kept.born()) < Duration::from_millis(1));
            prop_assert!(is_little_less(kept.hard(), life.hard, hard, 1000));
            prop_assert_eq!(kept.has_grace(), grace);
            if kept.is_tailed() {
                prop_assert!(is_little_less(kept.due(), life.soft.min(life.hard), hard, 500));
            }
        }

        #[test]
        fn what_is_put_off_is_not_due_before_and_changes_nothing_else(born in 0_u64..1 << 58, by in lengths()) {
            let born = Moment::after_start(Duration::from_nanos(born));
            let life = Lifespan { born, soft: born + HOUR, hard: born + HOUR * 2, grace: true };
            let mut kept = Packed::new(&life);
            let before = (kept.born(), kept.hard());
            kept.put_off(born + by);
            prop_assert!(kept.due() >= born + by);
            prop_assert!(kept.due().since(born + by) <= Duration::from_micros(1200) + by / 500, "{:?}", kept.due());
            prop_assert_eq!((kept.born(), kept.hard(), kept.has_grace()), (before.0, before.1, true));
            kept.put_off_to_hard();
            prop_assert_eq!((kept.born(), kept.due(), kept.has_grace()), (before.0, before.1, true));
        }
    }
}
