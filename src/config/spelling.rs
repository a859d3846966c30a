//! The word that was probably meant.

/// The candidate that takes the fewest edits to become from `word`, unless it takes so many that it is another word.
pub fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let with_distance = candidates.iter().map(|&candidate| (distance(word, candidate), candidate));
    let (edits, candidate) = with_distance.min_by_key(|&(edits, _)| edits)?;
    (edits <= 1 + candidate.len() / 4).then_some(candidate)
}

/// How many characters must be inserted, deleted or replaced (Levenshtein's distance, one row at a time).
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_edits() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
        assert_eq!(distance("same", "same"), 0);
    }

    #[test]
    fn a_slip_is_recognised_and_another_word_is_not() {
        let keys = ["keep_last", "keep_daily", "pitr_window"];
        assert_eq!(nearest("keep_lsat", &keys), Some("keep_last"));
        assert_eq!(nearest("pitr-window", &keys), Some("pitr_window"));
        assert_eq!(nearest("compression", &keys), None);
        assert_eq!(nearest("x", &[]), None);
    }
}
