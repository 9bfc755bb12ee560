//! What nodes say of removals, made up for property tests.

use std::sync::Arc;

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use crate::key::Key;
use crate::member::NodeName;
use crate::message::{Ack, After, Incarnation, News, Scope};
use crate::removals::{Lacking, Link, Origin, Record, Report, Seen, Span, What};
use crate::tags::TagHash;

pub(super) fn names() -> impl Strategy<Value = NodeName> {
    "\\PC{1,60}".prop_map(|name| NodeName::from(&name))
}

pub(super) fn keys() -> impl Strategy<Value = Key> {
    vec(any::<u8>(), 0..40).prop_map(|bytes| Key::new(&bytes))
}

fn origins() -> impl Strategy<Value = Origin> {
    (names(), any::<u64>()).prop_map(|(name, incarnation)| Origin::new(name, Incarnation(incarnation)))
}

fn spans() -> impl Strategy<Value = Span> {
    (origins(), 1..u64::MAX - 1000, prop_oneof![2 => Just(0), 1 => 0..1000_u64])
        .prop_map(|(origin, first, more)| Span { origin, first, last: first + more })
}

pub(super) fn afters() -> impl Strategy<Value = After> {
    let carrying = (vec(spans(), 0..3), prop_oneof![Just(0), any::<u64>()]);
    prop_oneof![3 => Just(After::default()), 1 => carrying.prop_map(|(removed, offered)| After { removed, offered })]
}

pub(super) fn acks() -> impl Strategy<Value = Option<Ack>> {
    let ack = (origins(), any::<u64>(), prop::option::of(reports()));
    prop::option::of(ack.prop_map(|(by, version, report)| Ack { by, version, report }))
}

pub(super) fn scopes() -> impl Strategy<Value = Scope> {
    prop_oneof![vec(keys(), 0..4).prop_map(Scope::Keys), keys().prop_map(Scope::Tag), Just(Scope::Group)]
}

pub(super) fn tags() -> impl Strategy<Value = Vec<TagHash>> {
    let some = vec(any::<u64>().prop_map(TagHash), 1..5);
    prop_oneof![2 => Just(Vec::new()), 1 => some]
}

fn seen() -> impl Strategy<Value = Seen> {
    vec(spans(), 0..4).prop_map(|spans| {
        let mut seen = Seen::default();
        for span in spans {
            seen.note(&span);
        }
        seen
    })
}

fn reports() -> impl Strategy<Value = Report> {
    let link = (names(), prop::option::of(any::<u64>().prop_map(Incarnation)), any::<bool>(), any::<bool>());
    let link = link.prop_map(|(name, incarnation, is_listed, is_open)| Link { name, incarnation, is_listed, is_open });
    let dead = vec(any::<u64>().prop_map(Incarnation), 0..3);
    (origins(), any::<u64>(), vec(link, 0..4), seen(), dead).prop_map(|(of, version, links, seen, dead)| Report {
        of,
        version,
        links: links.into(),
        seen,
        dead,
    })
}

fn records() -> impl Strategy<Value = Arc<Record>> {
    let groups = || "\\PC{0,20}".prop_map(Arc::<str>::from);
    let what = prop_oneof![
        (groups(), scopes()).prop_map(|(group, scope)| What::One { group, scope }),
        btree_set(groups(), 0..4).prop_map(What::Groups),
        Just(What::Everything),
    ];
    (spans(), what).prop_map(|(span, what)| Arc::new(Record { span, what }))
}

pub(super) fn news() -> impl Strategy<Value = News> {
    let lacking = prop_oneof![
        Just(Lacking::Nothing),
        vec(records(), 1..4).prop_map(Lacking::Records),
        vec((origins(), any::<u64>()), 1..4).prop_map(Lacking::BehindReach),
    ];
    (vec(reports(), 0..3), lacking).prop_map(|(reports, lacking)| News { reports, lacking })
}
