//! The word that was probably meant.

/// The candidate that takes the fewest edits to become from `word`, unless it takes so many that it is another word.
pub fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let with_distance = candidates.iter().map(|&candidate| (strsim::levenshtein(word, candidate), candidate));
    let (edits, candidate) = with_distance.min_by_key(|&(edits, _)| edits)?;
    (edits <= 1 + candidate.len() / 4).then_some(candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_another_word_is_not() {
        let keys = ["keep_last", "keep_daily", "pitr_window"];
        assert_eq!(nearest("keep_lsat", &keys), Some("keep_last"));
        assert_eq!(nearest("pitr-window", &keys), Some("pitr_window"));
        assert_eq!(nearest("compression", &keys), None);
        assert_eq!(nearest("x", &[]), None);
    }
}
