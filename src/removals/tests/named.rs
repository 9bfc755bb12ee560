//! Counter-examples to earlier rules, each as the shortest list of events.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::{Lacking, Limits, Noted, Origin, Record, Removals, Span, Standing, Why};
use crate::key::Key;
use crate::member::NodeName;
use crate::removal::{Incarnation, Scope};

fn origin(name: &str, incarnation: u64) -> Origin {
    Origin::new(NodeName::from(name), Incarnation(incarnation))
}

fn node(me: &Origin, lists: &[&str]) -> Removals {
    let mut removals = Removals::new(me.clone(), Limits::default());
    removals.list(lists.iter().map(|name| NodeName::from(*name)));
    removals
}

fn issue(by: &mut Removals) -> Arc<Record> {
    let record = by.issue(Arc::from("users"), Scope::Keys(vec![Key::new("k")]));
    apply(by, &record);
    record
}

fn apply(to: &mut Removals, record: &Arc<Record>) {
    assert_eq!(to.begin(record), Noted::New);
    to.settle(record);
}

/// `from` answers what `to` asks now.
fn ask(to: &mut Removals, from: &Removals) {
    let asked = to.tick();
    to.heard(&from.report(), Some(asked));
}

/// A killed node has told its second removal, and not its first: nobody can ever give the first to anybody. The marks
/// stayed below it, and tombstones and logs never drained.
#[test]
fn the_hole_of_a_dead_origin_is_filled() {
    let (dead, a, b) = (origin("dead", 1), origin("a", 1), origin("b", 1));
    let (mut killed, mut here, there) = (node(&dead, &[]), node(&a, &["b"]), node(&b, &["a"]));
    let (_lost, told) = (issue(&mut killed), issue(&mut killed));
    apply(&mut here, &told);
    ask(&mut here, &there);
    let fillers = here.fillers();
    assert_eq!(fillers.iter().map(|filler| filler.span.clone()).collect::<Vec<_>>(), [Span::one(dead.clone(), 1)]);
    fillers.iter().for_each(|filler| apply(&mut here, filler));
    assert!(here.has_seen(&Span { origin: dead, first: 1, last: 2 }) && here.fillers().is_empty());
}

/// `b` has acknowledged and is then started anew, gets an old copy from `c`, which has not applied the removal, and
/// loses the stream. `c`, which does not list `b`, applies and acknowledges. Had it named only whom it lists and has
/// streams with, the removal would have been complete, with an old copy at `b`.
#[test]
fn who_was_met_in_a_new_incarnation_is_named_although_the_stream_is_gone() {
    let (a, b, c) = (origin("a", 1), origin("b", 1), origin("c", 1));
    let (mut caller, mut before, mut third) = (node(&a, &["b", "c"]), node(&b, &["c"]), node(&c, &["a"]));
    ask(&mut caller, &before);
    ask(&mut caller, &third);
    let record = issue(&mut caller);
    apply(&mut before, &record);
    caller.acknowledged(&b, before.version(), &record.span);
    let anew = origin("b", 2);
    third.open(&anew);
    third.close(&anew);
    apply(&mut third, &record);
    caller.acknowledged(&c, third.version(), &record.span);
    assert!(!caller.is_complete(&record.span), "the links have changed, so the acknowledgement says nothing yet");
    ask(&mut caller, &third);
    let told = [("b", true), ("c", true), ("gone", true), ("lost", false)];
    let told: BTreeMap<NodeName, bool> = told.map(|(name, is_listed)| (NodeName::from(name), is_listed)).into();
    let standing = caller.standing(&record.span, &told);
    let expected = [
        ("a", Standing::Done),
        ("b", Standing::Pending(Why::Restarted)),
        ("c", Standing::Done),
        ("gone", Standing::Departed),
        ("lost", Standing::Pending(Why::Lost)),
    ];
    assert_eq!(standing, BTreeMap::from(expected.map(|(name, standing)| (NodeName::from(name), standing))));
    let mut after = node(&anew, &["c"]);
    ask(&mut caller, &after);
    assert_eq!(caller.standing(&record.span, &told)["b" as &str], Standing::Pending(Why::NotApplied));
    apply(&mut after, &record);
    ask(&mut caller, &after);
    assert!(caller.is_complete(&record.span), "the first incarnation is known to be dead");
}

/// A hello that was long on its way comes from an incarnation that died since: it must not bury the living one.
#[test]
fn a_late_hello_does_not_make_the_living_incarnation_a_dead_one() {
    let (a, old, new) = (origin("a", 1), origin("b", 1), origin("b", 2));
    let (mut caller, died, lives) = (node(&a, &["b"]), node(&old, &["a"]), node(&new, &["a"]));
    let asked = caller.tick();
    caller.heard(&lives.report(), None);
    caller.heard(&died.report(), Some(asked));
    let record = issue(&mut caller);
    caller.acknowledged(&old, died.version(), &record.span);
    assert!(!caller.is_complete(&record.span));
    ask(&mut caller, &lives);
    caller.acknowledged(&new, lives.version(), &record.span);
    assert!(caller.is_complete(&record.span));
}

/// Who adopts another's vector has no tombstones for what it adopts: a peer that does not know as much could give it
/// old copies, over a stream that has been up all the time.
#[test]
fn who_has_adopted_a_vector_asks_only_those_who_know_as_much() {
    let (a, b) = (origin("a", 1), origin("b", 1));
    let (mut here, mut behind) = (node(&a, &["b"]), node(&b, &["a"]));
    ask(&mut here, &behind);
    let reaches = [(origin("c", 1), 7)];
    assert!(here.is_level(&b));
    here.begin_adopting(&reaches);
    assert!(!here.is_level(&b), "even before anything is dropped");
    here.adopt(&reaches);
    behind.begin_adopting(&reaches);
    behind.adopt(&reaches);
    ask(&mut here, &behind);
    assert!(here.is_level(&b));
}

/// A dead origin's line goes once a removal of nothing is complete that was issued when the line was over. Meanwhile the
/// origin turns out to have said more, which all but one apply, who has that removal of nothing. Had the line gone as it
/// was by then, nobody could have told that one what it lacks. It goes with the next one.
#[test]
fn a_line_that_has_grown_since_the_removal_of_nothing_goes_with_the_next() {
    let (a, b, c, dead) = (origin("a", 1), origin("b", 1), origin("c", 1), origin("dead", 1));
    let mut here = Removals::new(a, Limits { origins: 0, ..Limits::default() });
    here.list([NodeName::from("b")]);
    let (mut there, mut away, mut died) = (node(&b, &["a"]), node(&c, &["a"]), node(&dead, &[]));
    let drain = |here: &mut Removals, there: &Removals| {
        ask(here, there);
        here.drain();
    };
    let marker = |here: &Removals| match here.lacking(&b, usize::MAX) {
        Lacking::Records(records) => Arc::clone(&records[0]),
        other => panic!("no removal of nothing was issued: {other:?}"),
    };
    let first = issue(&mut died);
    [&mut here, &mut there, &mut away].into_iter().for_each(|node| apply(node, &first));
    drain(&mut here, &there);
    let nothing = marker(&here);
    [&mut there, &mut away].into_iter().for_each(|node| apply(node, &nothing));
    let second = issue(&mut died);
    [&mut here, &mut there].into_iter().for_each(|node| apply(node, &second));
    drain(&mut here, &there);
    assert!(here.is_complete(&nothing.span) && here.is_complete(&second.span));
    here.heard(&away.report(), None);
    assert_ne!(here.lacking(&c, usize::MAX), Lacking::Nothing);
    // Something else becomes complete.
    let news = issue(&mut here);
    apply(&mut there, &news);
    drain(&mut here, &there);
    apply(&mut there, &marker(&here));
    drain(&mut here, &there);
    assert_eq!(here.report().seen.mark(&dead), 0, "the line has gone");
    assert!(matches!(here.lacking(&c, usize::MAX), Lacking::BehindReach(_)));
}
