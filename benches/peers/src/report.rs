//! The last line: one JSON object with the ratios.

use std::fmt::Write as _;

use crate::numbers::Summary;

/// Fields in the order in which they were found out.
#[derive(Debug, Default)]
pub struct Report {
    fields: Vec<(String, Option<f64>)>,
    spreads: Vec<(String, f64, f64)>,
}

impl Report {
    /// A number; none if what it compares with is not there.
    pub fn number(&mut self, name: impl Into<String>, value: Option<f64>) {
        self.fields.push((name.into(), value));
    }

    /// A ratio of medians, and what it was in the single rounds.
    pub fn ratio(&mut self, name: impl Into<String>, ratio: Option<Ratio>) {
        let name = name.into();
        if let Some(ratio) = &ratio {
            self.spreads.push((name.clone(), ratio.low, ratio.high));
        }
        self.number(name, ratio.map(|ratio| ratio.of_medians));
    }

    /// The numbers so far, in order.
    pub fn numbers(&self) -> impl Iterator<Item = (&str, Option<f64>)> {
        self.fields.iter().map(|(name, value)| (name.as_str(), *value))
    }

    /// The object, on one line. `spread` has the lowest and the highest of each ratio's rounds.
    pub fn json(&self) -> String {
        let mut json = String::from("{");
        for (name, value) in &self.fields {
            let value = value.filter(|value| value.is_finite()).map_or("null".into(), |value| format!("{value:.3}"));
            let _ = write!(json, "\"{name}\":{value},");
        }
        let spreads = self.spreads.iter().map(|(name, low, high)| format!("\"{name}\":[{low:.3},{high:.3}]"));
        let _ = write!(json, "\"spread\":{{{}}}}}", spreads.collect::<Vec<_>>().join(","));
        json
    }
}

/// One contender over another.
#[derive(Clone, Copy, Debug)]
pub struct Ratio {
    /// Median over median.
    pub of_medians: f64,
    /// The lowest of the rounds, each over the other's same round.
    pub low: f64,
    /// The highest.
    pub high: f64,
}

impl Ratio {
    /// Of two contenders' rounds; none if either has none.
    pub fn of(ours: &[f64], theirs: &[f64]) -> Option<Self> {
        let rounds = Summary::of(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs))?;
        let of_medians = Summary::of(ours.iter().copied())?.median / Summary::of(theirs.iter().copied())?.median;
        Some(Self { of_medians, low: rounds.low, high: rounds.high })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_absent_is_null() {
        let mut report = Report::default();
        report.ratio("a", Ratio::of(&[2.0, 4.0, 3.0], &[1.0, 1.0, 2.0]));
        report.ratio("b", Ratio::of(&[2.0], &[]));
        report.number("c", Some(1.5));
        assert_eq!(report.json(), r#"{"a":3.000,"b":null,"c":1.500,"spread":{"a":[1.500,4.000]}}"#);
    }
}
