//! One measured figure beside its baseline, and how rounds become one.

use serde::Serialize;

/// A figure and its baseline, measured interleaved in one run.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// What it is compared with.
    pub baseline: String,
    /// Unit of `value` and `baseline_value`.
    pub unit: &'static str,
    /// Median over the rounds.
    pub value: f64,
    /// Median of the baseline over the same rounds.
    pub baseline_value: f64,
    /// Median of the rounds' ratios.
    pub ratio: f64,
    /// Smallest and largest ratio of a round.
    pub spread: (f64, f64),
}

impl Row {
    /// From the rounds of both, in the same order. Rounds are paired, so that a
    /// neighbour who steals the processor for one of them moves both sides of a ratio.
    ///
    /// # Panics
    ///
    /// If there is no round: a bench that measured nothing is broken.
    pub fn new(
        name: impl Into<String>,
        baseline: impl Into<String>,
        unit: &'static str,
        values: &[f64],
        baselines: &[f64],
    ) -> Self {
        let ratios: Vec<f64> = values.iter().zip(baselines).map(|(v, b)| v / b).collect();
        let smallest = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let largest = ratios.iter().copied().fold(0.0, f64::max);
        Self {
            name: name.into(),
            baseline: baseline.into(),
            unit,
            value: median(values),
            baseline_value: median(baselines),
            ratio: median(&ratios),
            spread: (smallest, largest),
        }
    }
}

/// The middle value, or the mean of the two in the middle.
pub fn median(values: &[f64]) -> f64 {
    assert!(!values.is_empty(), "nothing was measured");
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_round_by_round() {
        let row = Row::new("a", "b", "us", &[2.0, 30.0, 4.0], &[1.0, 10.0, 4.0]);
        assert_eq!((row.value, row.baseline_value), (4.0, 4.0));
        assert_eq!(row.ratio, 2.0);
        assert_eq!(row.spread, (1.0, 3.0));
    }
}
