//! Medians, spreads and percentiles.

/// The median, and how far the rounds were apart.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    /// The middle of the rounds.
    pub median: f64,
    /// The lowest of the rounds.
    pub low: f64,
    /// The highest of the rounds.
    pub high: f64,
}

impl Summary {
    /// Of one number a round; none if there was no round.
    pub fn of(rounds: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut rounds: Vec<f64> = rounds.into_iter().collect();
        rounds.sort_by(f64::total_cmp);
        let (low, high) = (*rounds.first()?, *rounds.last()?);
        let half = rounds.len() / 2;
        let median = if rounds.len() % 2 == 1 { rounds[half] } else { f64::midpoint(rounds[half - 1], rounds[half]) };
        Some(Self { median, low, high })
    }

    /// From the lowest to the highest, in hundredths of the median.
    pub fn spread(&self) -> f64 {
        100.0 * (self.high - self.low) / self.median
    }
}

/// What this part of the sorted numbers does not exceed.
pub fn percentile(sorted: &[u32], part: f64) -> f64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index within the slice")]
    let index = (sorted.len() as f64 * part) as usize;
    sorted.get(index.min(sorted.len().saturating_sub(1))).map_or(f64::NAN, |number| f64::from(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_lies_between() {
        let summary = Summary::of([4.0, 1.0, 2.0, 3.0]).unwrap();
        assert_eq!(format!("{:.1} {:.1} {:.1}", summary.low, summary.median, summary.high), "1.0 2.5 4.0");
        assert!(Summary::of([]).is_none());
    }

    #[test]
    fn percentiles_stay_within() {
        let numbers: Vec<u32> = (0..100).collect();
        let whole = |part| format!("{:.0}", percentile(&numbers, part));
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(whole), ["0", "50", "99", "99"]);
        assert!(percentile(&[], 0.5).is_nan());
    }
}
