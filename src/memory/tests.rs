//! What only this network can do. What all transports must do is tested with the gRPC one.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::mpsc;

use super::connection::{CONNECT_LIMIT, SILENCE_LIMIT};
use super::*;
use crate::clock::{Clock, MADE, sleep};
use crate::key::Key;
use crate::message::{After, Answer, Ask, Get, GetTerms, Outcome, Refusal, Reply, Request};
use crate::transport::{Connection, Unreachable};

/// Tells of the keys that it is asked for, and has none.
struct Telling(mpsc::UnboundedSender<Key>);

impl Handler for Telling {
    fn handle(&self, request: Request) -> BoxFuture<'_, Result<Reply, Refusal>> {
        let Ask::Get(get) = request.ask else { panic!("not asked for") };
        let _ = self.0.send(get.key);
        async { Ok(Reply::Get(Answer { outcome: Outcome::NotFound, held: Duration::ZERO })) }.boxed()
    }
}

struct Pair {
    network: MemoryNetwork,
    _guards: [ListenGuard; 2],
    asked: mpsc::UnboundedReceiver<Key>,
}

/// Nodes at `a:1` and `b:1`.
fn pair() -> Pair {
    let network = MemoryNetwork::new();
    let (tell, asked) = mpsc::unbounded_channel();
    let guards = ["a:1", "b:1"].map(|address| {
        let handler = Arc::new(Telling(tell.clone()));
        network.listen(address, handler).expect("nobody else is there")
    });
    Pair { network, _guards: guards, asked }
}

impl Pair {
    async fn connect(&self, from: &str, to: &str) -> Result<Arc<dyn Connection>, Unreachable> {
        let opened = self.network.transport(from).connect(Arc::from(to)).await?;
        tokio::spawn(opened.driver);
        Ok(opened.connection)
    }
}

fn get(key: &str) -> Request {
    let terms = GetTerms { group: Arc::from("g"), schema: 0, time_limit: Duration::MAX, nested: false, max_age: None };
    Request { sender: None, ask: Ask::Get(Get { terms, key: Key::new(key), after: After::default() }) }
}

fn elapsed(clock: Clock) -> Duration {
    clock.now().since(MADE)
}

async fn works(connection: &Arc<dyn Connection>) -> bool {
    connection.call(get("k")).await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn a_cut_resets_what_is_open_until_it_heals() {
    let pair = pair();
    let (there, back) = (pair.connect("a:1", "b:1").await.unwrap(), pair.connect("b:1", "a:1").await.unwrap());
    pair.network.cut("b:1", "a:1");
    assert!(!works(&there).await && !works(&back).await);
    assert!(pair.connect("a:1", "b:1").await.is_err());
    pair.network.heal("a:1", "b:1");
    assert!(!works(&there).await, "a closed connection stays closed");
    assert!(works(&pair.connect("a:1", "b:1").await.unwrap()).await);
}

#[tokio::test(start_paused = true)]
async fn a_reset_ends_what_is_open_both_ways_and_nothing_else() {
    let pair = pair();
    let (there, back) = (pair.connect("a:1", "b:1").await.unwrap(), pair.connect("b:1", "a:1").await.unwrap());
    pair.network.reset("a:1", "c:1");
    assert!(works(&there).await && works(&back).await);
    pair.network.reset("b:1", "a:1");
    assert!(!works(&there).await && !works(&back).await);
    assert!(works(&pair.connect("a:1", "b:1").await.unwrap()).await);
}

#[tokio::test(start_paused = true)]
async fn a_one_way_cut_leaves_the_other_way_alone() {
    let pair = pair();
    let (there, back) = (pair.connect("a:1", "b:1").await.unwrap(), pair.connect("b:1", "a:1").await.unwrap());
    pair.network.cut_one_way("a:1", "b:1");
    assert!(!works(&there).await && works(&back).await);
    assert_eq!(pair.network.connections(), [("b:1".to_owned(), "a:1".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn silence_is_noticed_after_two_seconds_and_not_before() {
    let mut pair = pair();
    let connection = pair.connect("a:1", "b:1").await.unwrap();
    pair.network.black_hole_one_way("b:1", "a:1");
    let clock = Clock::start();
    assert!(!works(&connection).await);
    assert_eq!(elapsed(clock), SILENCE_LIMIT);
    assert!(pair.asked.try_recv().is_ok(), "the request went through; the reply did not");
    assert!(pair.connect("a:1", "b:1").await.is_err());
    assert_eq!(elapsed(clock), SILENCE_LIMIT + CONNECT_LIMIT);
}

#[tokio::test(start_paused = true)]
async fn a_short_silence_only_delays() {
    let pair = pair();
    let connection = pair.connect("a:1", "b:1").await.unwrap();
    pair.network.black_hole("a:1", "b:1");
    let call = tokio::spawn(connection.call(get("k")));
    sleep(SILENCE_LIMIT / 2).await;
    pair.network.heal_all();
    assert!(call.await.unwrap().is_ok());
    sleep(SILENCE_LIMIT).await;
    assert!(works(&connection).await);
}

#[tokio::test(start_paused = true)]
async fn messages_arrive_in_order_though_the_delay_changes() {
    let mut pair = pair();
    let connection = pair.connect("a:1", "b:1").await.unwrap();
    let mut calls = Vec::new();
    for (key, delay) in [("1", 100), ("2", 10), ("3", 0)] {
        pair.network.delay("a:1", "b:1", Duration::from_millis(delay));
        let mut call = connection.call(get(key));
        assert!((&mut call).now_or_never().is_none(), "the first is still on its way");
        calls.push(call);
    }
    let clock = Clock::start();
    futures::future::join_all(calls).await;
    assert_eq!(elapsed(clock), Duration::from_millis(100), "each message's time counts from when it was sent");
    let asked = [pair.asked.recv().await, pair.asked.recv().await, pair.asked.recv().await];
    assert_eq!(asked, ["1", "2", "3"].map(|key| Some(Key::new(key))));
}

/// How many calls go well until a message is lost.
async fn calls_until_lost(seed: u64) -> usize {
    let pair = pair();
    let connection = pair.connect("a:1", "b:1").await.unwrap();
    pair.network.drop_messages("a:1", "b:1", 0.05, seed);
    let mut calls = 0;
    while works(&connection).await {
        calls += 1;
    }
    connection.closed().await;
    calls
}

#[tokio::test(start_paused = true)]
async fn a_lost_message_resets_the_connection_and_the_seed_says_which() {
    let mut different = std::collections::BTreeSet::new();
    for seed in 0..20 {
        let calls = calls_until_lost(seed).await;
        assert_eq!(calls_until_lost(seed).await, calls);
        different.insert(calls);
    }
    assert!(different.len() > 1, "other seeds lose other messages");
}

#[tokio::test(start_paused = true)]
async fn messages_are_counted_by_kind_and_way() {
    let pair = pair();
    let connection = pair.connect("a:1", "b:1").await.unwrap();
    for _ in 0..3 {
        assert!(works(&connection).await);
    }
    let (sent, received) = (pair.network.messages("a:1", "b:1"), pair.network.messages("b:1", "a:1"));
    assert_eq!(sent, MessageCounts { get: 3, ..MessageCounts::default() });
    assert_eq!(received, MessageCounts { reply: 3, ..MessageCounts::default() });
    assert_eq!(sent.total() + received.total(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_connection_is_not_open_any_more() {
    let pair = pair();
    let connection = pair.connect("a:1", "b:1").await.unwrap();
    assert_eq!(pair.network.connections().len(), 1);
    let call = connection.call(get("k"));
    drop(connection);
    assert_eq!(pair.network.connections().len(), 1, "a call is still on it");
    assert!(call.await.is_ok());
    assert_eq!(pair.network.connections(), []);
}

#[tokio::test(start_paused = true)]
async fn an_address_is_taken_until_its_node_is_gone() {
    let network = MemoryNetwork::new();
    let listen = |address| network.listen(address, Arc::new(Telling(mpsc::unbounded_channel().0)));
    let first = listen("n:0").unwrap();
    let second = listen("n:0").unwrap();
    assert_eq!((&**first.address(), &**second.address()), ("n:1", "n:2"));
    assert_eq!(listen("n:2").err().map(|error| error.kind()), Some(io::ErrorKind::AddrInUse));
    drop(second);
    assert!(listen("n:2").is_ok());
}
