//! The keeper of one peer: the task that connects to it, says hello, and tries again when it is lost.
//!
//! Gets never connect: they use the connection that is here, or turn elsewhere at once. So a dead peer costs the node
//! one try at a time, with growing pauses, and no get waits for it.
//!
//! A hello carries what each side knows of removals. A peer is up once each has what the other had when the hello
//! crossed; while there are removals that are not known to be complete, hellos are said once a second.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::coherence::Presence;
use crate::message::{Ask, Hello, News, Refusal, RefusalKind, Reply, Sender};
use crate::planted::{Bug, is_planted};
use crate::removals::{Lacking, Origin, Report, Seen, Tick};
use crate::transport::{CallError, Connection, Opened, Unreachable};

use super::{Peer, Peers};

/// How often a peer is told our membership when nothing has changed: a repair for what nobody has thought of.
const HELLO_EVERY: Duration = Duration::from_secs(30);
/// The same while memberships differ, so that the end of a difference is seen soon, and a lasting one is told; and while
/// there are removals that are not known to be complete.
const HELLO_WHILE_DIFFERENT: Duration = Duration::from_secs(1);

/// So many hellos follow one another at once until both sides are even: enough for a whole log, part by part. What takes
/// more (a peer that never tells what it claims to have, say) is said with a pause in between.
const UNEVEN_AT_ONCE: u32 = 32;
const UNEVEN_PAUSE: Duration = Duration::from_millis(100);

/// Keeps a peer connected until it leaves the membership or the node stops.
pub(super) async fn keep(peers: Arc<Peers>, peer: Arc<Peer>) {
    let life = async {
        loop {
            if let Some(met) = connect(&peers, &peer).await {
                attend(&peers, &peer, met).await;
            }
            pause(&peers, &peer).await;
        }
    };
    tokio::select! {
        biased;
        () = peer.left().cancelled() => {}
        () = peers.tasks.stopping().cancelled() => {}
        () = life => {}
    }
    // Also when the node stops: so that the connection closes with its last user.
    peer.leave();
}

/// A connection, and the node at its other end once that has said who it is.
struct Acquaintance {
    connection: Arc<dyn Connection>,
    /// Fires when the connection is not in use any more: it may be open for longer.
    given_up: CancellationToken,
    presence: Option<Presence>,
}

/// Makes a connection and says hello on it, all within the connect limit.
async fn connect(peers: &Peers, peer: &Arc<Peer>) -> Option<Acquaintance> {
    let transport = peers.transport.as_ref()?;
    let address = Arc::clone(&peer.member().address);
    let attempt = async {
        let Opened { connection, driver } = transport.connect(address).await?;
        // What waits for an answer hangs on the driver: it outlives this keeper, and ends with what is under way.
        peers.tasks.service_until_cut(driver);
        let given_up = peer.connected(Arc::clone(&connection));
        let mut met = Acquaintance { connection, given_up, presence: None };
        say_hello(peers, peer, &mut met).await?;
        Ok::<_, Unreachable>(met)
    };
    let limit = peers.connect_timeout;
    let outcome = tokio::time::timeout(limit, attempt)
        .await
        .unwrap_or_else(|_| Err(Unreachable::new(format_args!("no answer within {limit:?}"))));
    match outcome {
        Ok(met) => Some(met),
        Err(why) => {
            peer.disconnect();
            peer.unreachable(&why.0);
            None
        }
    }
}

/// Stays with a connection until it is lost; says hello when there is news, and now and then.
async fn attend(peers: &Peers, peer: &Arc<Peer>, mut met: Acquaintance) {
    let connection = Arc::clone(&met.connection);
    // The first hello, in `connect`, may have told an older membership than this: telling it again costs one message.
    let mut told = is_planted(Bug::TrafficBeforeVectors).then(|| Some(peers.view().members().fingerprint())).flatten();
    while peer.uses(&connection) {
        let now = peers.clock.now();
        let view = peers.view_owned();
        let is_loud = peers.coherence.is_loud();
        let is_usual = !is_loud && !peer.differs(view.members());
        let usual = if is_usual { HELLO_EVERY } else { HELLO_WHILE_DIFFERENT };
        let until_retry = peer.retry_at().and_then(|at| at.left(now));
        let due = tokio::select! {
            biased;
            () = connection.closed() => {
                peer.lost(&connection, "the connection was closed");
                return;
            }
            () = clock::sleep(until_retry.unwrap_or(usual)) => true,
            () = peer.news() => peer.is_to_be_greeted() || peer.retry_at().is_some_and(|at| at <= peers.clock.now()),
            () = peers.coherence.until_loud(), if !is_loud => false,
        };
        let fingerprint = Some(peers.view().members().fingerprint());
        if due || fingerprint != told {
            told = fingerprint;
            tokio::select! {
                biased;
                () = connection.closed() => {}
                outcome = say_hello(peers, peer, &mut met) => {
                    if let Err(why) = outcome {
                        peer.lost(&connection, &why.0);
                        return;
                    }
                }
            }
        }
    }
}

/// Tells the peer who we are and whom we list, and takes in the same from it, until a hello has left each with the
/// removals that the other had: before that, neither asks the other for keys. What it answers settles its health; only
/// a connection that is lost, or of no use, is an error.
///
/// Who was told something says one more, whatever that brings: receipts wait for the word that a removal has arrived.
async fn say_hello(peers: &Peers, peer: &Peer, met: &mut Acquaintance) -> Result<(), Unreachable> {
    let (mut has_thanked, mut uneven) = (false, 0);
    loop {
        let (sent, asked) = (peers.clock.now(), peers.coherence.tick());
        // At first, who is there has yet to say what it has.
        let of = met.presence.as_ref().map(Presence::peer);
        let news = peers.coherence.news_for(of);
        let told = Told { seen: seen_by(&peers.sender, &news).cloned().unwrap_or_default(), asked };
        let outcome = tokio::select! {
            biased;
            // Who gave it up has said why. To wait for an answer on it would be in the way of a new one.
            () = met.given_up.cancelled() => return Ok(()),
            outcome = met.connection.call(peers.request(Ask::Hello(peers.hello(news)))) => outcome,
        };
        if let Ok(reply) = &outcome {
            peer.answered(reply, peers.clock.now().since(sent));
        }
        match outcome {
            Ok(Reply::Hello(theirs)) => match misfit(peers, peer, &theirs.sender) {
                Some(why) => peer.refused(&why),
                None => {
                    let taken = take_in(peers, met, &theirs, &told);
                    if !taken.is_even {
                        uneven += 1;
                        if uneven >= UNEVEN_AT_ONCE {
                            clock::sleep(UNEVEN_PAUSE).await;
                        }
                        continue;
                    }
                    peer.heard(&theirs, peers.view().members());
                    if theirs.draining {
                        peer.found_draining();
                    } else {
                        peer.up(&met.connection, theirs.sender.incarnation, sent);
                    }
                    if taken.was_behind && !std::mem::replace(&mut has_thanked, true) {
                        continue;
                    }
                }
            },
            Ok(_) => peer.refused("it answered a hello with something else"),
            Err(CallError::Refused(refusal)) => take_refusal(peer, &refusal)?,
            Err(CallError::Unreachable(why)) => return Err(why),
            // It is there, and has a lot to do: the next hello will tell.
            Err(CallError::Busy | CallError::GivenUp) => {}
        }
        return Ok(());
    }
}

/// Settles the health of a peer that refuses a hello, or says that the connection is of no use.
fn take_refusal(peer: &Peer, refusal: &Refusal) -> Result<(), Unreachable> {
    match refusal.kind {
        RefusalKind::Draining => peer.found_draining(),
        RefusalKind::WrongCluster | RefusalKind::Version | RefusalKind::Invalid => peer.refused(&refusal.message),
        // That says nothing of whose it is: too many requests wait there, say. A new connection has none.
        RefusalKind::TooLarge | RefusalKind::UnknownGroup | RefusalKind::Schema => {
            return Err(Unreachable::new(&refusal.message));
        }
    }
    Ok(())
}

/// What a hello told, and when it left.
struct Told {
    seen: Seen,
    asked: Tick,
}

/// What a node says that it has seen itself.
fn seen_by<'a>(sender: &Sender, news: &'a News) -> Option<&'a Seen> {
    let is_its_own = |report: &&Report| report.of.name == sender.name && report.of.incarnation == sender.incarnation;
    news.reports.iter().find(is_its_own).map(|report| &report.seen)
}

/// What a hello's answer was to this node.
struct Taken {
    /// Whether each has now what the other had: if not, one more hello brings more. Removals that are newer are not
    /// waited for, or a peer would never be up where there is always one under way.
    is_even: bool,
    /// Whether it brought removals that this node lacked.
    was_behind: bool,
}

/// Takes in what a peer tells of removals in answer to what it was told.
fn take_in(peers: &Peers, met: &mut Acquaintance, theirs: &Hello, told: &Told) -> Taken {
    let origin = Origin::new(theirs.sender.name.clone(), theirs.sender.incarnation);
    if met.presence.as_ref().is_none_or(|presence| *presence.peer() != origin) {
        met.presence = Some(peers.coherence.meet(origin.clone()));
        if is_planted(Bug::TrafficBeforeVectors) {
            return Taken { is_even: true, was_behind: false };
        }
    }
    let news = &theirs.news;
    peers.take_news(&origin, news, Some(told.asked));
    let is_even = match seen_by(&theirs.sender, news) {
        Some(has) => peers.coherence.is_even(&origin, &told.seen, has, &news.lacking),
        // One that tells nothing of removals is told nothing.
        None => news.reports.is_empty(),
    };
    Taken { is_even, was_behind: news.lacking != Lacking::Nothing }
}

/// Why the node that answered is not the peer that was meant, in words for an operator.
fn misfit(peers: &Peers, peer: &Peer, theirs: &Sender) -> Option<String> {
    let ours = &peers.sender;
    if theirs.cluster != ours.cluster {
        Some(format!("it belongs to the cluster {:?}, this node to {:?}", theirs.cluster, ours.cluster))
    } else if !theirs.versions.overlaps(ours.versions) {
        Some(format!(
            "it speaks the protocol versions {} to {}, this node {} to {}",
            theirs.versions.min, theirs.versions.max, ours.versions.min, ours.versions.max
        ))
    } else if theirs.name != *peer.name() {
        let address = peer.member().address();
        Some(format!("the node at {address} calls itself {}: list it by that name", theirs.name))
    } else {
        None
    }
}

/// Waits until the peer is to be tried again.
async fn pause(peers: &Peers, peer: &Peer) {
    while let Some(left) = peer.retry_at().and_then(|at| at.left(peers.clock.now())) {
        if left.is_zero() {
            return;
        }
        tokio::select! {
            biased;
            () = clock::sleep(left) => {}
            () = peer.news() => {}
        }
    }
}
