//! A short story of a long one.

/// The fewest of `events`, in their order, with which it still fails: no single one of them can be left out. (Zeller and
/// Hildebrandt's delta debugging, by complements: larger parts are left out first.)
///
/// `fails` says whether a run of these events fails; it is not asked about the whole list, which is taken to fail. Make
/// it ask for the failure that is being looked for, not for any.
///
/// ```
/// # use peerage::simulation::shrink;
/// let events: Vec<u32> = (0..1000).collect();
/// let fails = |events: &[u32]| events.contains(&17) && events.contains(&400);
/// assert_eq!(shrink(&events, fails), [17, 400]);
/// ```
#[must_use]
pub fn shrink<T: Clone>(events: &[T], mut fails: impl FnMut(&[T]) -> bool) -> Vec<T> {
    let mut left = events.to_vec();
    let mut part = left.len().div_ceil(2);
    while part > 0 {
        let mut at = 0;
        let before = left.len();
        while at < left.len() {
            let end = (at + part).min(left.len());
            let without: Vec<T> = left[..at].iter().chain(&left[end..]).cloned().collect();
            if fails(&without) {
                left = without;
            } else {
                at = end;
            }
        }
        // What could not be left out may be able to be now that others are gone.
        if part == 1 && left.len() < before {
            continue;
        }
        part /= 2;
    }
    left
}
