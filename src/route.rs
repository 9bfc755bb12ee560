//! Where a request goes: the whole decision, as functions of what is known.
//!
//! - The owner is asked; if it is known to be unreachable it is passed over at once.
//! - In its place one stand-in is asked: the next rank that is not known to be unreachable. All nodes rank alike, so
//!   they all send the key to the same stand-in, and one load per key holds through a failure too.
//! - If that fails as well, the key is loaded here.
//!
//! A request that came from a peer is not routed at all: whoever receives it serves it. That, and asking at most two
//! nodes, is why nodes that disagree on the membership can load twice but never loop.
//!
//! Nodes are named by their index in the placement. Nothing here knows connections or time.

use crate::message::RefusalKind;

/// In which role a node is asked. Whoever is asked serves all the same; it decides what follows when it cannot be
/// reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    Owner,
    StandIn,
}

/// Where to turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// Load on this node.
    Load,
    /// Ask that node.
    Fetch(usize, Role),
}

/// Where a caller's request goes first. `ranks` is worked out only if the owner is passed over.
pub(crate) fn first(
    me: usize,
    owner: usize,
    ranks: impl FnOnce() -> Vec<usize>,
    usable: impl Fn(usize) -> bool,
) -> Route {
    if owner == me {
        Route::Load
    } else if usable(owner) {
        Route::Fetch(owner, Role::Owner)
    } else {
        stand_in(me, &ranks(), usable)
    }
}

/// Where a request goes when the owner, the first of `ranks`, cannot be reached.
pub(crate) fn stand_in(me: usize, ranks: &[usize], usable: impl Fn(usize) -> bool) -> Route {
    match ranks.iter().skip(1).find(|&&rank| rank == me || usable(rank)) {
        Some(&rank) if rank != me => Route::Fetch(rank, Role::StandIn),
        _ => Route::Load,
    }
}

/// What follows when a node that was asked did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The node is of no use now: turn to its stand-in.
    StandIn,
    /// The node is well, but cannot serve this group or this value: load here. A stand-in could do no better.
    LoadHere,
}

/// What follows a refusal. (A node that cannot be reached is always stood in for.)
pub(crate) fn after_refusal(kind: RefusalKind) -> Next {
    match kind {
        RefusalKind::Draining | RefusalKind::WrongCluster | RefusalKind::Version => Next::StandIn,
        RefusalKind::UnknownGroup | RefusalKind::Schema | RefusalKind::TooLarge | RefusalKind::Invalid => {
            Next::LoadHere
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: usize = 0;
    const ANN: usize = 1;
    const BOB: usize = 2;

    #[test]
    fn a_request_goes_to_one_place() {
        for (case, ranks, down, want) in [
            ("we own it", [ME, ANN, BOB], &[][..], Route::Load),
            ("we own it, and nobody else is there", [ME, ANN, BOB], &[ANN, BOB], Route::Load),
            ("a peer owns it", [ANN, ME, BOB], &[], Route::Fetch(ANN, Role::Owner)),
            ("the owner is away, a peer is next", [ANN, BOB, ME], &[ANN], Route::Fetch(BOB, Role::StandIn)),
            ("the owner is away, we are next", [ANN, ME, BOB], &[ANN], Route::Load),
            ("the owner and the next are away, we follow", [ANN, BOB, ME], &[ANN, BOB], Route::Load),
        ] {
            let usable = |node| !down.contains(&node);
            assert_eq!(first(ME, ranks[0], || ranks.to_vec(), usable), want, "{case}");
        }
    }

    #[test]
    fn a_stand_in_is_never_the_owner_itself() {
        assert_eq!(stand_in(ME, &[ANN, BOB, ME], |_| true), Route::Fetch(BOB, Role::StandIn));
        assert_eq!(stand_in(ME, &[ANN], |_| true), Route::Load);
    }

    #[test]
    fn trouble_of_the_node_is_stood_in_for_and_trouble_of_the_group_is_not() {
        assert_eq!(after_refusal(RefusalKind::Draining), Next::StandIn);
        assert_eq!(after_refusal(RefusalKind::Version), Next::StandIn);
        assert_eq!(after_refusal(RefusalKind::UnknownGroup), Next::LoadHere);
        assert_eq!(after_refusal(RefusalKind::Schema), Next::LoadHere);
    }
}
