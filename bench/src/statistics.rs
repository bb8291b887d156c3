//! Medians, ratios between measurements of the same round, and which measurements count.

/// One figure of one gateway.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figure {
    pub round: u32,
    pub value: f64,
    /// Somebody else worked on the machine while it was made.
    pub disturbed: bool,
}

/// The figures that count: the undisturbed ones, or all of them when fewer than half of `wanted` are undisturbed. Those stay
/// marked as disturbed.
pub fn kept(figures: &[Figure], wanted: usize) -> Vec<Figure> {
    let quiet: Vec<Figure> = figures.iter().copied().filter(|figure| !figure.disturbed).collect();
    if quiet.len() * 2 >= wanted.max(1) { quiet } else { figures.to_vec() }
}

/// The median of own ÷ theirs within each round that both have; between minutes machines drift by more than the differences.
pub fn ratio(own: &[Figure], theirs: &[Figure]) -> Option<f64> {
    let ratios = own.iter().filter_map(|figure| {
        let other = theirs.iter().find(|other| other.round == figure.round)?;
        (other.value > 0.0).then(|| figure.value / other.value)
    });
    let ratios: Vec<f64> = ratios.collect();
    (!ratios.is_empty()).then(|| median(ratios))
}

/// The middle value, or the mean of the two in the middle; of nothing, 0.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        count if count % 2 == 1 => values[count / 2],
        count => f64::midpoint(values[count / 2 - 1], values[count / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(round: u32, value: f64) -> Figure {
        Figure { round, value, disturbed: false }
    }

    #[test]
    fn the_median_stands_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(vec![]), 0.0);
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        // The machine was twice as slow in round 2; one of the two has no round 3.
        let own = [figure(1, 6.0), figure(2, 12.0)];
        let theirs = [figure(2, 16.0), figure(1, 8.0), figure(3, 1.0)];
        assert_eq!(ratio(&own, &theirs), Some(0.75));
        assert_eq!(ratio(&own, &[figure(9, 1.0)]), None);
        assert_eq!(ratio(&own, &[figure(1, 0.0)]), None);
    }

    #[test]
    fn disturbed_figures_are_dropped_while_enough_are_left() {
        let disturbed = Figure { disturbed: true, ..figure(3, 99.0) };
        let figures = [figure(1, 1.0), figure(2, 2.0), disturbed];
        assert_eq!(kept(&figures, 3), figures[..2]);
        assert_eq!(kept(&figures, 4), figures[..2]);
        // Two of five are too few: all of them count, and say so.
        assert_eq!(kept(&figures, 5), figures);
        assert_eq!(kept(&[disturbed], 0), [disturbed]);
    }
}
