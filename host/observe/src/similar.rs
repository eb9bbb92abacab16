//! What somebody may have meant by a name that nothing has.

/// The known name most like `written`, if one is like it: by its end alone (without its
/// namespace or source) too, as people write names.
pub fn similar<'k>(written: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let score = |name: &str| {
        let bare = name.rsplit(['/', ':']).next().unwrap_or(name);
        likeness(written, bare).max(likeness(written, name))
    };
    known
        .into_iter()
        .map(|name| (score(name), name))
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

/// From 0 to 1. Of short words Jaro-Winkler sees no swapped letters (its window is empty
/// below four letters), so one slip of the hand is enough by itself.
fn likeness(a: &str, b: &str) -> f64 {
    let slip = a.chars().count() > 2 && strsim::damerau_levenshtein(a, b) == 1;
    let floor = if slip { 0.85 } else { 0.0 };
    strsim::jaro_winkler(a, b).max(floor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_hand_is_seen_in_short_and_long_names() {
        let known = ["shop/web", "shop/frontend", "k8s:app=web", "world", "db"];
        for (written, meant) in [
            ("wbe", Some("shop/web")),
            ("wep", Some("shop/web")),
            ("frontned", Some("shop/frontend")),
            ("shop/frontnd", Some("shop/frontend")),
            ("wrold", Some("world")),
            ("app=wep", Some("k8s:app=web")),
            ("dc", None),
            ("zzz", None),
        ] {
            assert_eq!(similar(written, known), meant, "{written}");
        }
    }
}
