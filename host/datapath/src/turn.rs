//! Whose turn it is, where one round cannot look at all. Pure.

/// The next `most` of these names after `last`, from the first on after the last one: each
/// has its turn, whatever comes and goes between rounds. The names are sorted.
pub(super) fn next<'n>(
    names: impl Iterator<Item = &'n String> + Clone,
    last: &str,
    most: usize,
) -> Vec<String> {
    let later = names.clone().filter(|name| name.as_str() > last);
    let earlier = names.filter(|name| name.as_str() <= last);
    later.chain(earlier).take(most).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_turn() {
        let mut names: Vec<String> = ["a", "c", "e"].map(str::to_owned).to_vec();
        assert_eq!(next(names.iter(), "", 2), ["a", "c"]);
        names.insert(1, "b".to_owned());
        assert_eq!(next(names.iter(), "c", 2), ["e", "a"]);
        assert_eq!(
            next(names.iter(), "gone", 9),
            ["a", "b", "c", "e"],
            "each once"
        );
        assert!(next([].iter(), "a", 2).is_empty());
    }
}
