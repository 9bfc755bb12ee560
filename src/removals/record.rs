//! The words of removals: whose they are, what they stand for, what they take out.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::member::NodeName;
use crate::removal::{Incarnation, RemovalId, Scope};

/// What is booked for a record besides the keys and names in it.
const RECORD_BYTES: usize = 128;

/// So many groups are named in one record that stands for many; with more, it stands for all groups.
const MAX_GROUPS: usize = 64;

/// Who numbered a removal: one incarnation of a node.
///
/// The incarnation comes first, as a random number that nearly always tells two apart: names are seldom compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Origin {
    pub(crate) incarnation: Incarnation,
    pub(crate) name: NodeName,
}

impl Origin {
    pub(crate) fn new(name: NodeName, incarnation: Incarnation) -> Self {
        Self { incarnation, name }
    }
}

/// Removals of one origin, both ends included: one, or a range that was coarsened into one record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    pub(crate) origin: Origin,
    pub(crate) first: u64,
    pub(crate) last: u64,
}

impl Span {
    pub(crate) fn one(origin: Origin, number: u64) -> Self {
        Self { origin, first: number, last: number }
    }

    pub(crate) fn is_one(&self) -> bool {
        self.first == self.last
    }
}

impl From<&RemovalId> for Span {
    fn from(id: &RemovalId) -> Self {
        Self::one(Origin::new(id.origin.clone(), id.incarnation), id.number)
    }
}

/// What a record takes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// One removal, as it was asked for.
    One { group: Arc<str>, scope: Scope },
    /// Whole groups: what many removals have become.
    Groups(BTreeSet<Arc<str>>),
    /// Every group: what removals in many groups have become.
    Everything,
}

impl What {
    /// The groups that it touches; `None` for all.
    fn groups(&self) -> Option<BTreeSet<Arc<str>>> {
        match self {
            Self::One { group, .. } => Some(BTreeSet::from([Arc::clone(group)])),
            Self::Groups(groups) => Some(groups.clone()),
            Self::Everything => None,
        }
    }

    /// Takes in `other`: whatever either takes out, this takes out afterwards.
    fn widen(&mut self, other: &Self) {
        let Some(mut all) = self.groups() else { return };
        let others = other.groups();
        let is_all = others.is_none();
        all.extend(others.into_iter().flatten());
        *self = if is_all || all.len() > MAX_GROUPS { Self::Everything } else { Self::Groups(all) };
    }

    fn bytes(&self) -> usize {
        match self {
            Self::One { scope: Scope::Keys(keys), .. } => keys.iter().map(|key| key.len() + 32).sum(),
            Self::One { scope: Scope::Tag(tag), .. } => tag.len() + 32,
            Self::One { scope: Scope::Group, .. } | Self::Everything => 0,
            Self::Groups(groups) => groups.iter().map(|group| group.len() + 32).sum(),
        }
    }
}

/// One removal, or what many have been coarsened into.
///
/// A record takes out at least what each removal of its span takes out: to apply it is to apply them all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) span: Span,
    pub(crate) what: What,
}

impl Record {
    pub(crate) fn one(span: Span, group: Arc<str>, scope: Scope) -> Self {
        Self { span, what: What::One { group, scope } }
    }

    /// About how much memory it takes, and room in a message.
    pub(crate) fn bytes(&self) -> usize {
        RECORD_BYTES + self.what.bytes()
    }

    /// Stands for `other`, too, and for all numbers between. Who calls this vouches for those between.
    pub(crate) fn absorb(&mut self, other: &Self) {
        debug_assert_eq!(self.span.origin, other.span.origin, "records of two origins cannot become one");
        if self.span.is_one() && self.span == other.span {
            return;
        }
        self.span.first = self.span.first.min(other.span.first);
        self.span.last = self.span.last.max(other.span.last);
        self.what.widen(&other.what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Key;

    fn record(number: u64, group: &str) -> Record {
        let origin = Origin::new(NodeName::from("a"), Incarnation(1));
        Record::one(Span::one(origin, number), Arc::from(group), Scope::Keys(vec![Key::new("k")]))
    }

    #[test]
    fn what_absorbs_another_takes_out_what_both_do() {
        let mut all = record(3, "users");
        all.absorb(&record(3, "users"));
        assert_eq!(all, record(3, "users"), "itself changes nothing");
        all.absorb(&record(5, "users"));
        assert_eq!((all.span.first, all.span.last), (3, 5));
        assert_eq!(all.what, What::Groups(BTreeSet::from([Arc::from("users")])));
        all.absorb(&record(4, "prices"));
        assert_eq!(all.what, What::Groups(BTreeSet::from([Arc::from("prices"), Arc::from("users")])));
    }

    #[test]
    fn a_tag_is_coarsened_into_its_group() {
        let tag = |number, tag| {
            let scope = Scope::Tag(Key::new(tag));
            Record::one(record(number, "users").span, Arc::from("users"), scope)
        };
        let mut all = tag(1, "team:7");
        assert!(all.bytes() > RECORD_BYTES + "team:7".len());
        all.absorb(&tag(2, "team:8"));
        assert_eq!(all.what, What::Groups(BTreeSet::from([Arc::from("users")])));
    }

    #[test]
    fn many_groups_become_all_groups_and_stay_so() {
        let mut all = record(1, "users");
        for number in 2..100 {
            all.absorb(&record(number, &format!("group {number}")));
        }
        assert_eq!((all.what.clone(), all.bytes()), (What::Everything, RECORD_BYTES));
        all.absorb(&record(100, "users"));
        assert_eq!((all.what, all.span.last), (What::Everything, 100));
    }
}
