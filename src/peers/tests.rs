//! Peers that behave as none should, and connections that are lost at the wrong moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, pending};

use crate::clock::Clock;
use crate::member::{Member, NodeName};
use crate::message::{
    Answer, Ask, Copy, GetTerms, Hello, Incarnation, News, Outcome, Refusal, RefusalKind, Reply, Request, Sender,
    Versions,
};
use crate::removals::{Lacking, Origin, Record, Report, Seen, Span, What};
use crate::transport::{CallError, Connection, Handler, Question};
use crate::{BoxError, GetOptions, Key, MemoryNetwork, Node, PeerState};

use super::Peer;

const A_WHILE: Duration = Duration::from_secs(4);

/// A node that lists `b:1`, which answers as it does, after a while; and how many hellos it has said.
async fn beside(peer: impl Handler) -> (Node, PeerState, u64) {
    let network = MemoryNetwork::new();
    let _guard = network.listen("b:1", Arc::new(peer)).unwrap();
    let node = network.node("a:1").peers(["a:1", "b:1"]).start().await.unwrap();
    tokio::time::sleep(A_WHILE).await;
    let state = node.stats().peers.remove(0).state;
    (node, state, network.messages("a:1", "b:1").hello)
}

/// Refuses whatever it is asked.
struct Refusing(RefusalKind);

impl Handler for Refusing {
    fn handle(&self, _: Request) -> BoxFuture<'_, Result<Reply, Refusal>> {
        async { Err(Refusal::new(self.0, "no")) }.boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn a_hello_that_is_refused_by_who_is_busy_is_said_again_soon() {
    use RefusalKind::{Invalid, TooLarge, Version, WrongCluster};
    for (kind, is_of_ours) in [(TooLarge, true), (Invalid, false), (WrongCluster, false), (Version, false)] {
        let (_node, state, said) = beside(Refusing(kind)).await;
        assert_eq!(matches!(state, PeerState::Down { .. }), is_of_ours, "{kind:?}: {state:?}");
        assert_eq!(said > 3, is_of_ours, "{kind:?}: {said} hellos in four seconds");
    }
}

/// Answers hellos with reports by its own name and incarnation, and with the same removal again and again.
struct Telling(fn(Origin) -> Vec<Report>);

impl Handler for Telling {
    fn handle(&self, request: Request) -> BoxFuture<'_, Result<Reply, Refusal>> {
        let Ask::Hello(theirs) = request.ask else {
            return async { Err(Refusal::new(RefusalKind::Invalid, "no")) }.boxed();
        };
        let (name, incarnation) = (NodeName::from("b:1"), Incarnation(7));
        let reports = self.0(Origin::new(name.clone(), incarnation));
        let sender = Arc::new(Sender { name, incarnation, ..Sender::clone(&theirs.sender) });
        let always_the_same = Arc::new(Record { span: span("y:1", 1), what: What::Everything });
        let news = News { reports, lacking: Lacking::Records(vec![always_the_same]) };
        async move { Ok(Reply::Hello(Hello { sender, news, draining: false, ..theirs })) }.boxed()
    }
}

/// The first removals of a node.
fn span(name: &str, last: u64) -> Span {
    Span { origin: Origin::new(name.into(), Incarnation(1)), first: 1, last }
}

/// What a node says of itself: that it has applied five removals of an origin that nobody knows.
fn report(of: Origin) -> Report {
    let mut seen = Seen::default();
    seen.claim(&span("x:1", 5));
    Report { of, version: 1, links: Arc::from([]), seen, dead: Vec::new() }
}

#[tokio::test(start_paused = true)]
async fn who_never_tells_what_it_claims_to_have_is_not_up_and_costs_few_hellos() {
    let of_itself = |of| vec![report(of)];
    let of_another = |_| vec![report(Origin::new("c:1".into(), Incarnation(1)))];
    for told in [of_itself as fn(Origin) -> Vec<Report>, of_another] {
        let (_node, state, said) = beside(Telling(told)).await;
        assert_ne!(state, PeerState::Up);
        // Some at once, for each connection that is given up after a second, and ten a second after that.
        assert!((4..=4 * 32 + 10 * 4).contains(&said), "{said} hellos in four seconds");
    }
}

/// Is up, and answers what it is asked with a value that it has held for ever.
struct HoldingForEver;

impl Handler for HoldingForEver {
    fn handle(&self, request: Request) -> BoxFuture<'_, Result<Reply, Refusal>> {
        let reply = match request.ask {
            Ask::Hello(theirs) => {
                let (name, incarnation) = (NodeName::from("b:1"), Incarnation(7));
                let sender = Arc::new(Sender { name, incarnation, ..Sender::clone(&theirs.sender) });
                Reply::Hello(Hello { sender, news: News::default(), ..theirs })
            }
            _ => Reply::Get(Answer { outcome: Outcome::Value(value()), held: Duration::MAX }),
        };
        async { Ok(reply) }.boxed()
    }
}

fn value() -> Copy {
    let (value, tags) = (Bytes::from_static(b"of b"), Vec::new());
    let (age, left, until_refresh, grace) = (Duration::ZERO, None, None, Duration::ZERO);
    Copy { value, age, left, until_refresh, grace, loaded: false, tags }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_has_held_a_question_for_ever_answers_it_all_the_same() {
    let network = MemoryNetwork::new();
    let _guard = network.listen("b:1", Arc::new(HoldingForEver)).unwrap();
    let node = network.node("a:1").peers(["a:1", "b:1"]).start().await.unwrap();
    let loader = |_: Key| async { Ok::<_, BoxError>(String::from("of a")) };
    let group = node.group("g").loader(loader).build().unwrap();
    tokio::time::sleep(A_WHILE).await;
    let owned = |key: &String| node.placement().owner_of(key.as_bytes()) == "b:1";
    let key = (0..1000).map(|number| format!("key-{number}")).find(owned).unwrap();
    assert_eq!(group.get(&key).await.unwrap(), "of b");
    let within = GetOptions::new().max_age(A_WHILE);
    assert_eq!(group.get_with(&key, within).await.unwrap().value(), "of b");
}

/// Counts how often it is asked, and answers nothing.
#[derive(Default)]
struct Mute(AtomicU64);

impl Connection for Mute {
    fn call(&self, _: Request) -> BoxFuture<'static, Result<Reply, CallError>> {
        pending().boxed()
    }

    fn ask(&self, _: &Arc<Sender>, _: GetTerms, _: &mut dyn Iterator<Item = Question>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn closed(&self) -> BoxFuture<'static, ()> {
        pending().boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_is_asked_on_a_connection_before_its_own_hello_was_answered() {
    let clock = Clock::start();
    let peer = Peer::new(Member::new("b:1"), clock);
    let versions = Versions { min: 1, max: 1 };
    let sender =
        Arc::new(Sender { cluster: Arc::from(""), name: NodeName::from("a:1"), incarnation: Incarnation(1), versions });
    let asked = |connection: &Mute| {
        let terms = GetTerms { group: Arc::from("g"), schema: 0, time_limit: A_WHILE, nested: false, max_age: None };
        let before = connection.0.load(Ordering::SeqCst);
        peer.ask(&sender, terms, &mut Vec::new().into_iter());
        connection.0.load(Ordering::SeqCst) > before
    };
    let connect = || {
        let mute = Arc::new(Mute::default());
        let connection: Arc<dyn Connection> = Arc::clone(&mute) as _;
        let given_up = peer.connected(Arc::clone(&connection));
        (mute, connection, given_up)
    };
    let run = Incarnation(2);
    let (first, connection, _given_up) = connect();
    assert!(!asked(&first), "it was never greeted");
    peer.up(&connection, run, clock.now());
    assert!(asked(&first));
    // The keeper may have another connection before whoever lost this one has said that the peer is down.
    let (second, newer, given_up) = connect();
    assert!(!asked(&second), "the hello was on the one before");
    assert!(!asked(&first));
    peer.up(&connection, run, clock.now());
    assert!(!asked(&second), "an answer on the one before counts for nothing");
    peer.up(&newer, run, clock.now());
    assert!(asked(&second));
    peer.lost(&newer, "it broke");
    peer.up(&newer, run, clock.now());
    assert!(given_up.is_cancelled() && !peer.is_up() && !asked(&second), "lost is lost");
}
