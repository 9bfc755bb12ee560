//! The in-process network: a second transport, with links that can be made to fail.
//!
//! Nodes on a [`MemoryNetwork`] talk as they do over gRPC: requests and replies are encoded and decoded by the same code,
//! under the same limit on size. What must hold:
//!
//! - messages of one connection cross in the order in which they were sent, and none is lost while the connection lives;
//! - two seconds of silence close a connection, and nothing else that is slow does;
//! - the handler runs inside of the caller's future, so that dropping a call gives the request up on both sides;
//! - time is tokio's, and dice have seeds: a test on a paused clock is quick, and what fails once fails again.
//!
//! It knows nothing of nodes but their addresses, and nothing of groups.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use futures::future::BoxFuture;
use prost::Message;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, sleep};
use crate::message::{Ask, Refusal, RefusalKind, Reply, Request};
use crate::transport::{CallError, Connection, Handler, Transport, Unreachable};
use crate::wire::{self, Gathering, WireRequest, check_size, proto};

/// How long a connection whose pings get no answer stays open: what keep-alive comes to over gRPC.
const SILENCE_LIMIT: Duration = Duration::from_secs(2);

/// How long a connect may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// A network inside of this process, for tests.
///
/// Clones are the same network. A link is named by the addresses of its two nodes; one that was never mentioned is perfect
/// and takes no time. Faults can be set and healed at any moment, whether the nodes exist yet or not.
///
/// | fault | on open connections | on new ones |
/// | --- | --- | --- |
/// | [`cut`](Self::cut) | they are reset: calls fail at once | refused at once |
/// | [`black_hole`](Self::black_hole) | calls wait, and fail when the connection closes after two seconds of silence | fail after one second |
/// | [`drop_messages`](Self::drop_messages) | a lost message resets its connection | none |
/// | [`delay`](Self::delay) | every message takes longer | they take a round trip |
#[derive(Clone)]
pub struct MemoryNetwork {
    shared: Arc<Shared>,
}

struct Shared {
    message_limit: usize,
    /// Held for a few lines at a time, never across an await.
    state: Mutex<State>,
    /// Wakes the messages that wait for a link to change.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    links: BTreeMap<Way, Link>,
    listeners: BTreeMap<Arc<str>, Listener>,
    connections: BTreeMap<u64, Arc<Wire>>,
    last_id: u64,
}

/// From one address to another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Way {
    from: Arc<str>,
    to: Arc<str>,
}

/// How things stand between two addresses, in one direction.
#[derive(Default)]
struct Link {
    refusing: bool,
    silent: bool,
    delay: Duration,
    loss: Option<Loss>,
    sent: MessageCounts,
}

struct Loss {
    probability: f64,
    dice: Rng,
}

struct Listener {
    id: u64,
    handler: Arc<dyn Handler>,
}

/// How many messages one node has sent to another, by kind. Lost ones count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MessageCounts {
    /// Greetings.
    pub hello: u64,
    /// Requests for one key.
    pub get: u64,
    /// Requests for many keys.
    pub get_many: u64,
    /// Removals.
    pub remove: u64,
    /// Inserts.
    pub insert: u64,
    /// Replies to the other's requests; a refusal is one.
    pub reply: u64,
}

impl MessageCounts {
    /// All of them together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.hello + self.get + self.get_many + self.remove + self.insert + self.reply
    }

    fn of(&mut self, kind: Kind) -> &mut u64 {
        match kind {
            Kind::Hello => &mut self.hello,
            Kind::Get => &mut self.get,
            Kind::GetMany => &mut self.get_many,
            Kind::Remove => &mut self.remove,
            Kind::Insert => &mut self.insert,
            Kind::Reply => &mut self.reply,
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Hello,
    Get,
    GetMany,
    Remove,
    Insert,
    Reply,
}

impl From<&Ask> for Kind {
    fn from(ask: &Ask) -> Self {
        match ask {
            Ask::Hello(_) => Self::Hello,
            Ask::Get(_) => Self::Get,
            Ask::GetMany(_) => Self::GetMany,
            Ask::Remove(_) => Self::Remove,
            Ask::Insert(_) => Self::Insert,
        }
    }
}

impl Default for MemoryNetwork {
    fn default() -> Self {
        Self::new()
    }
}

/// What tests do to it.
impl MemoryNetwork {
    /// A network without faults, for values of up to 16 MiB.
    #[must_use]
    pub fn new() -> Self {
        Self::with_max_value_bytes(16 << 20)
    }

    /// The same for values of up to so many bytes. As over gRPC, a larger message is refused.
    #[must_use]
    pub fn with_max_value_bytes(max_value_bytes: usize) -> Self {
        let message_limit = wire::message_limit(max_value_bytes);
        Self { shared: Arc::new(Shared { message_limit, state: Mutex::default(), changed: watch::Sender::new(()) }) }
    }

    /// Cuts the link: connections between the two are reset, and new ones refused, until it is [healed](Self::heal).
    pub fn cut(&self, a: &str, b: &str) {
        self.cut_one_way(a, b);
        self.cut_one_way(b, a);
    }

    /// Resets the connections that `from` opened to `to`, and refuses new ones. Those that `to` opened to `from` are not
    /// touched: it is as if a firewall stood in front of `to`.
    pub fn cut_one_way(&self, from: &str, to: &str) {
        let way = Way::new(from, to);
        self.change(&way, |link| link.refusing = true);
        self.reset("the link was cut", |wire| wire.there == way);
    }

    /// Swallows all that the two send to each other, without a word, until it is [healed](Self::heal). What was on its way
    /// is delivered late if that happens before the connection notices the silence.
    pub fn black_hole(&self, a: &str, b: &str) {
        self.black_hole_one_way(a, b);
        self.black_hole_one_way(b, a);
    }

    /// Swallows what `from` sends to `to`: its requests, and its replies to the other's requests. Since pings are swallowed
    /// too, connections of either side notice the silence.
    pub fn black_hole_one_way(&self, from: &str, to: &str) {
        self.change(&Way::new(from, to), |link| link.silent = true);
    }

    /// Makes every message between the two take so long. A connect takes one there and one back, and fails after a second.
    pub fn delay(&self, a: &str, b: &str, delay: Duration) {
        for way in Way::both(a, b) {
            self.change(&way, |link| link.delay = delay);
        }
    }

    /// Loses messages between the two with this probability, between 0 and 1. A stream cannot go on without a message, so a
    /// lost one resets its connection; whether a request was served before its reply was lost, the caller cannot know. The
    /// same seed and the same messages lose the same ones.
    pub fn drop_messages(&self, a: &str, b: &str, probability: f64, seed: u64) {
        for (way, seed) in Way::both(a, b).into_iter().zip([seed, !seed]) {
            self.change(&way, |link| link.loss = Some(Loss { probability, dice: Rng::with_seed(seed) }));
        }
    }

    /// Makes the link between the two perfect again.
    pub fn heal(&self, a: &str, b: &str) {
        for way in Way::both(a, b) {
            self.change(&way, Link::heal);
        }
    }

    /// Makes all links perfect again.
    pub fn heal_all(&self) {
        self.shared.state().links.values_mut().for_each(Link::heal);
        self.shared.changed.send_replace(());
    }

    /// The open connections: who opened each, and to whom.
    #[must_use]
    pub fn connections(&self) -> Vec<(String, String)> {
        let state = self.shared.state();
        state.connections.values().map(|wire| (wire.there.from.to_string(), wire.there.to.to_string())).collect()
    }

    /// What `from` has sent to `to` since the network was made.
    #[must_use]
    pub fn messages(&self, from: &str, to: &str) -> MessageCounts {
        self.shared.state().links.get(&Way::new(from, to)).map(|link| link.sent).unwrap_or_default()
    }

    fn change(&self, way: &Way, change: impl FnOnce(&mut Link)) {
        change(self.shared.state().link(way));
        self.shared.changed.send_replace(());
    }

    fn reset(&self, why: &'static str, which: impl Fn(&Wire) -> bool) {
        let wires: Vec<_> = self.shared.state().connections.values().filter(|wire| which(wire)).cloned().collect();
        for wire in wires {
            wire.close(why);
        }
    }
}

/// What nodes do with it.
impl MemoryNetwork {
    /// The transport of the node at this address.
    pub(crate) fn transport(&self, own_address: impl Into<Arc<str>>) -> Arc<dyn Transport> {
        Arc::new(MemoryTransport { network: self.clone(), address: own_address.into() })
    }

    /// Lets `handler` answer what is sent to `address`. A port of 0 stands for a free one. Fails if somebody listens there.
    pub(crate) fn listen(&self, address: &str, handler: Arc<dyn Handler>) -> io::Result<ListenGuard> {
        let mut state = self.shared.state();
        let address = match address.strip_suffix(":0") {
            Some(host) => state.free_address(host),
            None => Arc::from(address),
        };
        if state.listeners.contains_key(&address) {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, format!("another node listens at {address}")));
        }
        let id = state.new_id();
        state.listeners.insert(Arc::clone(&address), Listener { id, handler });
        drop(state);
        Ok(ListenGuard { network: self.clone(), address, id })
    }
}

impl fmt::Debug for MemoryNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryNetwork").field("connections", &self.connections()).finish_non_exhaustive()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves as soon as the links are as `condition` wants them.
    async fn until(&self, condition: impl Fn(&mut State) -> bool) {
        let mut changed = self.changed.subscribe();
        while !condition(&mut self.state()) {
            // The sender is in `self`: this never fails.
            let _ = changed.changed().await;
        }
    }

    async fn until_audible(&self, way: &Way) {
        self.until(|state| !state.link(way).silent).await;
    }
}

impl State {
    fn link(&mut self, way: &Way) -> &mut Link {
        self.links.entry(way.clone()).or_default()
    }

    fn new_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn free_address(&self, host: &str) -> Arc<str> {
        let taken = |address: &String| self.listeners.contains_key(address.as_str());
        let addresses = (1u64..).map(|port| format!("{host}:{port}"));
        addresses.skip_while(taken).map(Arc::from).next().unwrap_or_default()
    }
}

impl Way {
    fn new(from: &str, to: &str) -> Self {
        Self { from: Arc::from(from), to: Arc::from(to) }
    }

    fn both(a: &str, b: &str) -> [Self; 2] {
        [Self::new(a, b), Self::new(b, a)]
    }

    fn back(&self) -> Self {
        Self { from: Arc::clone(&self.to), to: Arc::clone(&self.from) }
    }
}

impl Link {
    fn heal(&mut self) {
        *self = Self { sent: self.sent, ..Self::default() };
    }

    /// Counts a message, and says how long it takes; `None` if it is lost.
    fn send(&mut self, kind: Kind) -> Option<Duration> {
        *self.sent.of(kind) += 1;
        let lost = self.loss.as_mut().is_some_and(|loss| loss.dice.f64() < loss.probability);
        (!lost).then_some(self.delay)
    }
}

/// Listens for a node. Dropping it is the end of the node: connections to it are reset, and new ones refused.
pub(crate) struct ListenGuard {
    network: MemoryNetwork,
    address: Arc<str>,
    id: u64,
}

impl ListenGuard {
    /// Where it listens.
    pub(crate) fn address(&self) -> &Arc<str> {
        &self.address
    }
}

impl Drop for ListenGuard {
    fn drop(&mut self) {
        let gone = self.network.shared.state().listeners.remove(&self.address);
        self.network.reset("the node is gone", |wire| wire.listener == self.id);
        drop(gone); // the handler, last and outside of the lock: it may own anything
    }
}

/// One node's view of the network.
struct MemoryTransport {
    network: MemoryNetwork,
    address: Arc<str>,
}

impl Transport for MemoryTransport {
    fn connect(&self, address: Arc<str>) -> BoxFuture<'static, Result<Arc<dyn Connection>, Unreachable>> {
        let way = Way { from: Arc::clone(&self.address), to: address };
        let shared = Arc::clone(&self.network.shared);
        Box::pin(async move {
            let wire = tokio::select! {
                biased;
                wire = Wire::open(shared, way.clone()) => wire?,
                () = sleep(CONNECT_LIMIT) => {
                    return Err(Unreachable::new(format!("no connection to {} within {CONNECT_LIMIT:?}", way.to)));
                }
            };
            Ok(Arc::new(MemoryConnection { wire }) as Arc<dyn Connection>)
        })
    }
}

/// The end of a connection that its opener holds. Dropping it closes the connection.
struct MemoryConnection {
    wire: Arc<Wire>,
}

impl Drop for MemoryConnection {
    fn drop(&mut self) {
        self.wire.close("the connection was dropped");
    }
}

impl Connection for MemoryConnection {
    fn call(&self, request: Request) -> BoxFuture<'static, Result<Reply, CallError>> {
        let wire = Arc::clone(&self.wire);
        Box::pin(async move {
            tokio::select! {
                biased; // a closed connection carries nothing any more
                () = wire.closed.cancelled() => Err(wire.unreachable().into()),
                reply = wire.exchange(request) => reply,
            }
        })
    }

    fn closed(&self) -> BoxFuture<'static, ()> {
        Box::pin(self.wire.closed.clone().cancelled_owned())
    }
}

/// A connection: two lanes on which messages cross in turn.
struct Wire {
    shared: Arc<Shared>,
    id: u64,
    listener: u64,
    there: Way,
    back: Way,
    lane_there: Lane,
    lane_back: Lane,
    clock: Clock,
    closed: CancellationToken,
    why_closed: OnceLock<&'static str>,
}

/// Whoever crosses holds it. Tokio's mutex is fair: who comes first crosses first.
type Lane = tokio::sync::Mutex<()>;

impl Wire {
    async fn open(shared: Arc<Shared>, there: Way) -> Result<Arc<Self>, Unreachable> {
        let back = there.back();
        for way in [&there, &back] {
            let delay = shared.state().link(way).delay;
            pass(delay).await;
            shared.until_audible(way).await;
        }
        let wire = Self::register(&shared, there, back)?;
        tokio::spawn(Arc::clone(&wire).close_on_silence());
        Ok(wire)
    }

    fn register(shared: &Arc<Shared>, there: Way, back: Way) -> Result<Arc<Self>, Unreachable> {
        let mut state = shared.state();
        if state.link(&there).refusing {
            return Err(Unreachable::new(format!("{} refuses connections: the link is cut", there.to)));
        }
        let Some(listener) = state.listeners.get(&there.to).map(|listener| listener.id) else {
            return Err(Unreachable::new(format!("{} refuses connections: no node is there", there.to)));
        };
        let id = state.new_id();
        let wire = Arc::new(Self {
            shared: Arc::clone(shared),
            id,
            listener,
            there,
            back,
            lane_there: Lane::default(),
            lane_back: Lane::default(),
            clock: Clock::start(),
            closed: CancellationToken::new(),
            why_closed: OnceLock::new(),
        });
        state.connections.insert(id, Arc::clone(&wire));
        Ok(wire)
    }

    fn close(&self, why: &'static str) {
        self.why_closed.get_or_init(|| why);
        self.shared.state().connections.remove(&self.id);
        self.closed.cancel();
    }

    fn unreachable(&self) -> Unreachable {
        let why = self.why_closed.get().unwrap_or(&"the connection was closed");
        Unreachable::new(format!("{}: {why}", self.there.to))
    }

    /// What pings are for.
    async fn close_on_silence(self: Arc<Self>) {
        let silent = |state: &mut State| [&self.there, &self.back].into_iter().any(|way| state.link(way).silent);
        let silence = async {
            loop {
                self.shared.until(silent).await;
                tokio::select! {
                    () = self.shared.until(|state| !silent(state)) => {}
                    () = sleep(SILENCE_LIMIT) => break,
                }
            }
        };
        tokio::select! {
            () = silence => self.close("pings were not answered"),
            () = self.closed.cancelled() => {}
        }
    }

    /// A request there, and the reply back.
    async fn exchange(&self, request: Request) -> Result<Reply, CallError> {
        let limit = self.shared.message_limit;
        let kind = Kind::from(&request.ask);
        let message = WireRequest::from(request);
        check_size("request", message.encoded_len(), limit)?;
        self.cross(&self.there, &self.lane_there, kind).await?;
        let reply = match read(message) {
            Ok((request, keys)) => self.handler()?.handle(request).await.map(|reply| (reply, keys)),
            Err(refusal) => Err(refusal),
        };
        let reply = reply.and_then(|(reply, keys)| send_back(reply, keys, limit));
        self.cross(&self.back, &self.lane_back, Kind::Reply).await?;
        reply.map_err(|refusal| recoded_refusal(&refusal).into())
    }

    /// Looked up for each request, so that a connection does not keep alive a node that is gone.
    fn handler(&self) -> Result<Arc<dyn Handler>, Unreachable> {
        let state = self.shared.state();
        let listener = state.listeners.get(&self.there.to).filter(|listener| listener.id == self.listener);
        listener.map(|listener| Arc::clone(&listener.handler)).ok_or_else(|| self.unreachable())
    }

    /// Waits until a message has crossed. Its time counts from now, but it leaves the lane after those before it.
    async fn cross(&self, way: &Way, lane: &Lane, kind: Kind) -> Result<(), Unreachable> {
        let sent = self.shared.state().link(way).send(kind);
        let Some(delay) = sent else {
            self.close("a message was lost");
            return Err(self.unreachable());
        };
        let arrival = self.clock.now() + delay;
        let _turn = lane.lock().await;
        pass(arrival.since(self.clock.now())).await;
        self.shared.until_audible(way).await;
        Ok(())
    }
}

/// Sleeps, unless there is nothing to wait for: a link without a delay costs no tick of the timer.
async fn pass(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}

/// Reads a request from its bytes; with it, how many keys a reply with many answers has to answer.
fn read(message: WireRequest) -> Result<(Request, usize), Refusal> {
    match message {
        WireRequest::Hello(message) => Ok((recoded(&message)?.try_into()?, 0)),
        WireRequest::Get(message) => Ok((recoded(&message)?.try_into()?, 0)),
        WireRequest::GetMany(message) => Ok((recoded(&message)?.try_into()?, message.keys.len())),
        WireRequest::Remove(message) => Ok((recoded(&message)?.try_into()?, 0)),
        WireRequest::Insert(message) => Ok((recoded(&message)?.try_into()?, 0)),
    }
}

/// Encodes a reply and decodes it again.
fn send_back(reply: Reply, keys: usize, limit: usize) -> Result<Reply, Refusal> {
    match reply {
        Reply::Hello(hello) => Ok(Reply::Hello(fitting(&proto::Hello::from(hello), limit)?.try_into()?)),
        Reply::Get(answer) => Ok(Reply::Get(fitting(&proto::Answer::from(answer), limit)?.try_into()?)),
        Reply::GetMany(answers) => {
            let mut gathering = Gathering::of(keys);
            for chunk in wire::chunks(answers) {
                gathering.add(fitting(&chunk, limit)?)?;
            }
            Ok(Reply::GetMany(gathering.finish()?))
        }
        Reply::Remove => Ok(Reply::Remove),
        Reply::Insert { stored } => Ok(Reply::Insert { stored: recoded(&proto::InsertReply { stored })?.stored }),
    }
}

fn fitting<M: Message + Default>(message: &M, limit: usize) -> Result<M, Refusal> {
    check_size("reply", message.encoded_len(), limit)?;
    recoded(message)
}

fn recoded<M: Message + Default>(message: &M) -> Result<M, Refusal> {
    let bytes = Bytes::from(message.encode_to_vec());
    M::decode(bytes).map_err(|error| Refusal::new(RefusalKind::Invalid, error.to_string()))
}

fn recoded_refusal(refusal: &Refusal) -> Refusal {
    let details = proto::Refusal::from(refusal).encode_to_vec();
    wire::refusal_in(&details).unwrap_or_else(|| refusal.clone())
}

#[cfg(test)]
mod tests {
    //! What only this network can do. What all transports must do is tested with the gRPC one.

    use futures::FutureExt as _;
    use tokio::sync::mpsc;

    use super::*;
    use crate::key::Key;
    use crate::message::{Answer, Get, GetTerms, Outcome};
    use crate::time::Moment;

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
            self.network.transport(from).connect(Arc::from(to)).await
        }
    }

    fn get(key: &str) -> Request {
        let terms = GetTerms { group: Arc::from("g"), schema: 0, time_limit: Duration::MAX, nested: false };
        Request { sender: None, ask: Ask::Get(Get { terms, key: Key::new(key) }) }
    }

    fn elapsed(clock: Clock) -> Duration {
        clock.now().since(Moment::default())
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
        assert!(call.await.is_err());
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
}
