//! Numbers as flags take them: `0,2-4`.

/// Ascending numbers, those that follow each other as ranges.
pub fn ranges(numbers: impl IntoIterator<Item = usize>) -> String {
    let mut all: Vec<(usize, usize)> = Vec::new();
    for number in numbers {
        match all.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(number) => *last = number,
            _ => all.push((number, number)),
        }
    }
    let one = |(first, last): (usize, usize)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    all.into_iter().map(one).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_ranges() {
        for (numbers, expected) in
            [(&[][..], ""), (&[0], "0"), (&[0, 1], "0-1"), (&[0, 2, 3, 4, 9], "0,2-4,9"), (&[5, 4], "5,4")]
        {
            assert_eq!(ranges(numbers.iter().copied()), expected);
        }
    }
}
