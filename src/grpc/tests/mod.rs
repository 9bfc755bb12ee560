//! One suite for both transports: what crosses, what is refused, and how a connection ends.
//!
//! Over gRPC there is a proxy in between, which can go silent or reset the connection; the in-process network has links
//! for that, and a paused clock.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::{GrpcTransport, PeerService, call_error_of, serve, status_of};
use crate::clock::sleep;
use crate::config::NodeConfig;
use crate::error::{CodecError, Error, LoadError};
use crate::key::Key;
use crate::memory::{ListenGuard, MemoryNetwork};
use crate::message::{
    Answer, Ask, Copy, Get, GetMany, GetTerms, Hello, Incarnation, Insert, Outcome, Refusal, RefusalKind, RemovalId,
    Remove, Reply, Request, Scope, Sender, Versions,
};
use crate::transport::{CallError, Connection, Handler, Opened, Transport};

macro_rules! on_both_transports {
    ($($test:ident),* $(,)?) => {
        mod over_grpc {
            $(#[tokio::test] async fn $test() { super::$test(super::Net::grpc()).await; })*
        }
        mod in_memory {
            $(#[tokio::test(start_paused = true)] async fn $test() { super::$test(super::Net::memory()).await; })*
        }
    };
}

on_both_transports! {
    every_request_arrives_as_it_was_sent,
    every_reply_comes_back_as_it_was_given,
    every_error_keeps_its_kind,
    the_largest_value_crosses_both_ways,
    many_answers_come_back_in_the_order_of_their_keys,
    a_request_may_carry_very_many_keys,
    a_refusal_keeps_its_kind_and_its_words,
    too_large_a_request_is_refused_and_the_connection_lives_on,
    too_large_a_reply_is_refused_and_the_connection_lives_on,
    a_key_beyond_the_limit_is_refused,
    a_slow_handler_is_waited_for_while_pings_are_answered,
    dropping_a_call_gives_the_request_up,
    a_node_that_goes_away_closes_its_connections,
    a_reset_fails_the_calls_that_wait,
    silence_closes_the_connection_and_fails_the_calls_that_wait,
    nobody_at_the_address_is_unreachable_at_once,
    a_peer_that_never_speaks_is_unreachable_within_the_limit,
}

// What crosses.

async fn every_request_arrives_as_it_was_sent(net: Net) {
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    let node = net.serve(replying(move |request| {
        let reply = fitting_reply(&request.ask);
        arrived.send(request).expect("the test waits for it");
        Ok(reply)
    }));
    let node = node.await;
    let connection = node.connect().await;
    for request in odd_requests() {
        connection.call(request.clone()).await.expect("served");
        assert_same(&arrivals.recv().await.expect("it arrived"), &request);
    }
}

async fn every_reply_comes_back_as_it_was_given(net: Net) {
    let replies = [
        (hello(), Reply::Hello(hello_of(&sender("b"), true))),
        (get("k"), Reply::Get(Answer { outcome: Outcome::NotFound, held: Duration::from_micros(17) })),
        (get("k"), Reply::Get(value_answer(Bytes::new(), Some(Duration::ZERO)))),
        (get("k"), Reply::Get(value_answer(Bytes::from_static(b"\0\xff"), None))),
        (get_many(0), Reply::GetMany(Vec::new())),
        (remove(Scope::Group), Reply::Remove),
        (insert(Bytes::new()), Reply::Insert { stored: true }),
        (insert(Bytes::new()), Reply::Insert { stored: false }),
    ];
    for (request, reply) in replies {
        let given = reply.clone();
        let node = net.serve(replying(move |_| Ok(given.clone()))).await;
        let got = node.connect().await.call(request).await.expect("served");
        assert_same(&got, &reply);
    }
}

async fn every_error_keeps_its_kind(net: Net) {
    let errors = [
        Error::Load(LoadError::new("no such table: ü").with_code(7)),
        Error::LoadTimeout { limit: Duration::from_millis(1500) },
        Error::Timeout { limit: Duration::MAX },
        Error::Busy,
        Error::Closed,
        Error::Recursive,
        Error::KeyTooLong { len: 70_000, limit: Key::MAX_LEN },
        Error::ValueTooLarge { len: usize::MAX, limit: 16 << 20 },
        Error::Codec(CodecError::new("a cycle")),
        Error::NoRuntime,
    ];
    for error in errors {
        let reply = Reply::Get(failed_answer(error));
        let given = reply.clone();
        let node = net.serve(replying(move |_| Ok(given.clone()))).await;
        let got = node.connect().await.call(get("k")).await.expect("an error of the loader's is an answer");
        assert_same(&got, &reply);
    }
}

async fn the_largest_value_crosses_both_ways(net: Net) {
    let node = net.serve(replying(|request| match request.ask {
        Ask::Get(get) => Ok(Reply::Get(value_answer(pattern(usize_of(&get.key)), None))),
        Ask::Insert(insert) => Ok(Reply::Insert { stored: insert.value == pattern(insert.value.len()) }),
        other => panic!("not asked for: {other:?}"),
    }));
    let node = node.await;
    let connection = node.connect().await;
    for len in [0, 1, 70_000, 16 << 20] {
        let reply = connection.call(get(&len.to_string())).await.expect("served");
        let Reply::Get(Answer { outcome: Outcome::Value(copy), .. }) = reply else { panic!("not a value: {reply:?}") };
        assert!(copy.value == pattern(len), "a value of {len} bytes came back changed");
        let reply = connection.call(insert(pattern(len))).await.expect("served");
        assert!(matches!(reply, Reply::Insert { stored: true }), "a value of {len} bytes arrived changed");
    }
}

async fn many_answers_come_back_in_the_order_of_their_keys(net: Net) {
    let answer = |index: usize| match index % 3 {
        0 => value_answer(pattern(10_000 + index), Some(Duration::from_secs(index as u64))),
        1 => Answer { outcome: Outcome::NotFound, held: Duration::from_micros(index as u64) },
        _ => failed_answer(Error::Load(LoadError::new(format!("key {index}")))),
    };
    let node = net.serve(replying(move |request| {
        let Ask::GetMany(get) = request.ask else { panic!("not asked for") };
        Ok(Reply::GetMany(get.keys.iter().map(|key| answer(usize_of(key))).collect()))
    }));
    let reply = node.await.connect().await.call(get_many(1000)).await.expect("served");
    let Reply::GetMany(answers) = reply else { panic!("another kind of reply") };
    assert_eq!(answers.len(), 1000);
    for (index, got) in answers.iter().enumerate() {
        assert_same(got, &answer(index));
    }
}

async fn a_request_may_carry_very_many_keys(net: Net) {
    let net = net.with_max_value_bytes(1); // which must not matter
    let node = net.serve(replying(|request| match request.ask {
        Ask::Remove(Remove { scope: Scope::Keys(keys), .. }) if keys.len() == 1 << 16 => Ok(Reply::Remove),
        _ => Err(Refusal::new(RefusalKind::Invalid, "some are missing")),
    }));
    let keys = (0..1 << 16).map(|index| Key::new(&format!("{index:064}"))).collect();
    let reply = node.await.connect().await.call(remove(Scope::Keys(keys))).await.expect("4 MiB of keys fit");
    assert!(matches!(reply, Reply::Remove));
}

// What is refused.

async fn a_refusal_keeps_its_kind_and_its_words(net: Net) {
    for refusal in refusals() {
        let given = refusal.clone();
        let node = net.serve(replying(move |_| Err(given.clone()))).await;
        for request in [hello(), get("k"), get_many(3), remove(Scope::Group), insert(Bytes::new())] {
            assert_eq!(refused(node.connect().await.call(request).await), refusal);
        }
    }
}

async fn too_large_a_request_is_refused_and_the_connection_lives_on(net: Net) {
    let node = net.serve(replying(|request| Ok(fitting_reply(&request.ask)))).await;
    let connection = node.connect().await;
    let refusal = refused(connection.call(insert(pattern(17 << 20))).await);
    assert_eq!(refusal.kind, RefusalKind::TooLarge);
    assert!(refusal.message.contains("max_value_bytes"), "{refusal} says not what to do");
    connection.call(get("k")).await.expect("the connection lives on");
}

async fn too_large_a_reply_is_refused_and_the_connection_lives_on(net: Net) {
    let answer = || value_answer(pattern(17 << 20), None);
    let node = net.serve(replying(move |request| match request.ask {
        Ask::Get(get) if &*get.key == b"large" => Ok(Reply::Get(answer())),
        Ask::GetMany(_) => Ok(Reply::GetMany(vec![answer()])),
        ask => Ok(fitting_reply(&ask)),
    }));
    let node = node.await;
    let connection = node.connect().await;
    for request in [get("large"), get_many(1)] {
        let refusal = refused(connection.call(request).await);
        assert_eq!(refusal.kind, RefusalKind::TooLarge);
        assert!(refusal.message.contains("max_value_bytes"), "{refusal} says not what to do");
        connection.call(get("small")).await.expect("the connection lives on");
    }
}

async fn a_key_beyond_the_limit_is_refused(net: Net) {
    let node = net.serve(replying(|request| Ok(fitting_reply(&request.ask)))).await;
    let connection = node.connect().await;
    let refusal = refused(connection.call(get(&"k".repeat(Key::MAX_LEN + 1))).await);
    assert_eq!(refusal.kind, RefusalKind::Invalid);
    assert_eq!(refusal.message, "the key of 65537 bytes is longer than the limit of 65536 bytes");
    connection.call(get(&"k".repeat(Key::MAX_LEN))).await.expect("the longest key is fine");
}

// How a call and a connection end.

async fn a_slow_handler_is_waited_for_while_pings_are_answered(net: Net) {
    let net = net.with_short_limits();
    let long = net.longer_than_silence();
    let node = net.serve(handling(move |request| {
        async move {
            sleep(long).await;
            Ok(fitting_reply(&request.ask))
        }
        .boxed()
    }));
    node.await.connect().await.call(get("k")).await.expect("slow is not dead");
}

async fn dropping_a_call_gives_the_request_up(net: Net) {
    let (node, mut events) = never_answering(&net).await;
    let connection = node.connect().await;
    let mut call = connection.call(get("k"));
    tokio::select! {
        _ = &mut call => panic!("nobody answers"),
        event = events.recv() => assert_eq!(event, Some("begun")),
    }
    drop(call);
    assert_eq!(soon(events.recv()).await, Some("given up"));
}

async fn a_node_that_goes_away_closes_its_connections(net: Net) {
    let node = net.serve(replying(|request| Ok(fitting_reply(&request.ask)))).await;
    let connection = node.connect().await;
    connection.call(get("k")).await.expect("served");
    node.stop().await;
    soon(connection.closed()).await;
    assert_unreachable(soon(connection.call(get("k"))).await);
}

async fn a_reset_fails_the_calls_that_wait(net: Net) {
    let (node, mut events) = never_answering(&net).await;
    let connection = node.connect().await;
    let call = tokio::spawn(connection.call(get("k")));
    assert_eq!(soon(events.recv()).await, Some("begun"));
    node.reset();
    assert_unreachable(soon(call).await.expect("no panic"));
    soon(connection.closed()).await;
}

async fn silence_closes_the_connection_and_fails_the_calls_that_wait(net: Net) {
    let net = net.with_short_limits();
    let (node, mut events) = never_answering(&net).await;
    let (busy, idle) = (node.connect().await, node.connect().await);
    let call = tokio::spawn(busy.call(get("k")));
    assert_eq!(soon(events.recv()).await, Some("begun"));
    node.silence();
    assert_unreachable(soon(call).await.expect("no panic"));
    soon(busy.closed()).await;
    soon(idle.closed()).await;
}

async fn nobody_at_the_address_is_unreachable_at_once(net: Net) {
    let node = net.serve(replying(|_| Ok(Reply::Remove))).await;
    let (transport, address) = (net.transport(), node.own_address());
    node.stop().await;
    let error = soon(transport.connect(Arc::clone(&address))).await.err().expect("nobody is there");
    assert!(error.to_string().contains(&*address), "{error} says not where");
}

async fn a_peer_that_never_speaks_is_unreachable_within_the_limit(net: Net) {
    let node = net.serve(replying(|_| Ok(Reply::Remove))).await;
    node.silence();
    let error = soon(net.transport().connect(node.address())).await.err().expect("nobody answers");
    assert!(error.to_string().contains("within"), "{error} says not that it took too long");
}

// What only gRPC has.

#[tokio::test]
async fn a_server_with_a_lower_limit_refuses_what_its_client_may_send() {
    let low = Net::grpc().with_max_value_bytes(1);
    let node = low.serve(replying(|request| Ok(fitting_reply(&request.ask)))).await;
    let connection = Net::grpc().transport().connect(node.address()).await.map(driven).expect("it listens");
    let refusal = refused(connection.call(insert(pattern(16 << 20))).await);
    assert_eq!(refusal.kind, RefusalKind::TooLarge);
    connection.call(get("k")).await.expect("the connection lives on");
}

#[tokio::test]
async fn a_client_with_a_lower_limit_refuses_what_its_server_may_send() {
    let node = Net::grpc().serve(replying(|_| Ok(Reply::Get(value_answer(pattern(16 << 20), None))))).await;
    let connection =
        Net::grpc().with_max_value_bytes(1).transport().connect(node.address()).await.map(driven).expect("it listens");
    assert_eq!(refused(connection.call(get("k")).await).kind, RefusalKind::TooLarge);
}

#[tokio::test]
async fn a_server_that_shuts_down_lets_what_is_in_flight_end() {
    let (begun, mut begins) = mpsc::unbounded_channel();
    let release = CancellationToken::new();
    let released = release.clone();
    let net = Net::grpc();
    let mut node = net
        .serve(handling(move |request| {
            let (begun, released) = (begun.clone(), released.clone());
            async move {
                begun.send(()).expect("the test waits for it");
                released.cancelled().await;
                Ok(fitting_reply(&request.ask))
            }
            .boxed()
        }))
        .await;
    let connection = node.connect().await;
    let call = tokio::spawn(connection.call(remove(Scope::Group)));
    soon(begins.recv()).await;
    let Running::Grpc { shutdown, task, .. } = &mut node.running else { panic!("this is gRPC") };
    shutdown.cancel();
    assert!(task.now_or_never().is_none(), "it waits for the call");
    release.cancel();
    soon(call).await.expect("no panic").expect("the reply comes");
    soon(task).await.expect("no panic");
    soon(connection.closed()).await;
}

#[tokio::test]
async fn somebody_who_speaks_no_grpc_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address: Arc<str> = listener.local_addr().expect("bound").to_string().into();
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.expect("the test connects");
        tokio::io::AsyncWriteExt::write_all(&mut tcp, b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .await
            .expect("the test reads");
    });
    match soon(Net::grpc().transport().connect(address)).await.map(driven) {
        Ok(connection) => assert_unreachable(soon(connection.call(get("k"))).await),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

#[test]
fn the_service_can_be_mounted_into_any_tonic_server() {
    fn mountable<S>()
    where
        S: tower_service::Service<tonic::codegen::http::Request<tonic::body::Body>, Error = std::convert::Infallible>
            + tonic::server::NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
    }
    mountable::<PeerService>();
    assert_eq!(<PeerService as tonic::server::NamedService>::NAME, "peerage.v1.Peerage");
}

#[test]
fn a_status_is_a_refusal_only_if_the_peer_meant_it() {
    for refusal in refusals() {
        assert_eq!(refused(Err(call_error_of(&status_of(&refusal)))), refusal);
    }
    for code in [Code::Unavailable, Code::Cancelled, Code::Unknown] {
        assert_unreachable(Err(call_error_of(&Status::new(code, "transport error"))));
    }
    let mut broken = Status::internal("h2 protocol error");
    broken.set_source(Arc::new(std::io::Error::other("reset")));
    assert_unreachable(Err(call_error_of(&broken)));

    let unknown = refused(Err(call_error_of(&Status::unimplemented("no such method"))));
    assert_eq!(unknown, Refusal::new(RefusalKind::Invalid, "Unimplemented: no such method"));
    let large = refused(Err(call_error_of(&Status::out_of_range("too large: 9 bytes"))));
    assert_eq!(large.kind, RefusalKind::TooLarge);
}

// The two networks.

enum Net {
    Grpc(NodeConfig),
    Memory(MemoryNetwork),
}

/// A node that answers, and what is between it and us.
struct Node {
    running: Running,
    transport: Arc<dyn Transport>,
}

enum Running {
    Grpc { own: SocketAddr, proxy: Proxy, shutdown: CancellationToken, task: JoinHandle<()> },
    Memory { network: MemoryNetwork, guard: ListenGuard },
}

const CALLER: &str = "caller:1";

impl Net {
    fn grpc() -> Self {
        Self::Grpc(NodeConfig::default())
    }

    fn memory() -> Self {
        Self::Memory(MemoryNetwork::new())
    }

    fn with_max_value_bytes(self, max_value_bytes: usize) -> Self {
        match self {
            Self::Grpc(options) => Self::Grpc(NodeConfig { max_value_bytes, ..options }),
            Self::Memory(_) => Self::Memory(MemoryNetwork::with_max_value_bytes(max_value_bytes)),
        }
    }

    /// Over gRPC the test pays for the limits in real time.
    fn with_short_limits(self) -> Self {
        let (keep_alive_interval, keep_alive_timeout) = (Duration::from_millis(100), Duration::from_millis(300));
        match self {
            Self::Grpc(options) => Self::Grpc(NodeConfig { keep_alive_interval, keep_alive_timeout, ..options }),
            memory @ Self::Memory(_) => memory,
        }
    }

    fn longer_than_silence(&self) -> Duration {
        match self {
            Self::Grpc(options) => 2 * (options.keep_alive_interval + options.keep_alive_timeout),
            Self::Memory(_) => Duration::from_secs(3600),
        }
    }

    fn transport(&self) -> Arc<dyn Transport> {
        match self {
            Self::Grpc(options) => Arc::new(GrpcTransport::new(options.clone())),
            Self::Memory(network) => network.transport(CALLER),
        }
    }

    async fn serve(&self, handler: Arc<dyn Handler>) -> Node {
        let running = match self {
            Self::Grpc(options) => serve_grpc(handler, options).await,
            Self::Memory(network) => {
                let guard = network.listen("node:0", handler).expect("a free address");
                Running::Memory { network: network.clone(), guard }
            }
        };
        Node { running, transport: self.transport() }
    }
}

async fn serve_grpc(handler: Arc<dyn Handler>, options: &NodeConfig) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let own = listener.local_addr().expect("bound");
    let (shutdown, options) = (CancellationToken::new(), options.clone());
    let until = shutdown.clone();
    let task = tokio::spawn(async move {
        let service = PeerService::new(handler, &options, until.clone());
        serve(listener, service, options, until).await.expect("it serves");
    });
    Running::Grpc { own, proxy: Proxy::to(own).await, shutdown, task }
}

/// The connection, its driver on its way.
fn driven(opened: Opened) -> Arc<dyn Connection> {
    tokio::spawn(opened.driver);
    opened.connection
}

impl Node {
    async fn connect(&self) -> Arc<dyn Connection> {
        driven(soon(self.transport.connect(self.address())).await.expect("it listens"))
    }

    /// Where to reach it.
    fn address(&self) -> Arc<str> {
        match &self.running {
            Running::Grpc { proxy, .. } => proxy.address.to_string().into(),
            Running::Memory { guard, .. } => Arc::clone(guard.address()),
        }
    }

    /// The same without a proxy between.
    fn own_address(&self) -> Arc<str> {
        match &self.running {
            Running::Grpc { own, .. } => own.to_string().into(),
            Running::Memory { guard, .. } => Arc::clone(guard.address()),
        }
    }

    fn silence(&self) {
        match &self.running {
            Running::Grpc { proxy, .. } => drop(proxy.mood.send_replace(Mood::Silent)),
            Running::Memory { network, guard } => network.black_hole(CALLER, guard.address()),
        }
    }

    fn reset(&self) {
        match &self.running {
            Running::Grpc { proxy, .. } => drop(proxy.mood.send_replace(Mood::Resetting)),
            Running::Memory { network, guard } => network.cut(CALLER, guard.address()),
        }
    }

    async fn stop(self) {
        match self.running {
            Running::Grpc { shutdown, task, .. } => {
                shutdown.cancel();
                soon(task).await.expect("no panic");
            }
            Running::Memory { guard, .. } => drop(guard),
        }
    }
}

/// Carries bytes between a caller and a server, as long as it is in the mood.
struct Proxy {
    address: SocketAddr,
    mood: Arc<watch::Sender<Mood>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Carrying,
    Silent,
    Resetting,
}

impl Proxy {
    async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let mood = Arc::new(watch::Sender::new(Mood::Carrying));
        let moods = Arc::clone(&mood);
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tokio::spawn(carry(tcp, server, moods.subscribe()));
            }
        });
        Self { address, mood }
    }
}

async fn carry(mut caller: TcpStream, server: SocketAddr, mut mood: watch::Receiver<Mood>) {
    let mut server = TcpStream::connect(server).await.expect("the server listens");
    tokio::select! {
        biased;
        _ = mood.wait_for(|mood| *mood != Mood::Carrying) => {}
        _ = tokio::io::copy_bidirectional(&mut caller, &mut server) => return,
    }
    // Both streams stay open until then, and nothing moves.
    let _ = mood.wait_for(|mood| *mood == Mood::Resetting).await;
}

/// Waits for what has to happen. A test that fails does so within seconds.
async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it should have happened by now")
}

// Handlers.

struct Handling<F>(F);

impl<F> Handler for Handling<F>
where
    F: Fn(Request) -> BoxFuture<'static, Result<Reply, Refusal>> + Send + Sync + 'static,
{
    fn handle(&self, request: Request) -> BoxFuture<'_, Result<Reply, Refusal>> {
        self.0(request)
    }
}

fn handling<F>(handle: F) -> Arc<dyn Handler>
where
    F: Fn(Request) -> BoxFuture<'static, Result<Reply, Refusal>> + Send + Sync + 'static,
{
    Arc::new(Handling(handle))
}

fn replying(reply: impl Fn(Request) -> Result<Reply, Refusal> + Send + Sync + 'static) -> Arc<dyn Handler> {
    handling(move |request| std::future::ready(reply(request)).boxed())
}

/// A node that never answers, and what it tells of its requests: `begun`, `given up`.
async fn never_answering(net: &Net) -> (Node, mpsc::UnboundedReceiver<&'static str>) {
    let (tell, events) = mpsc::unbounded_channel();
    let node = net.serve(handling(move |_| {
        let tell = tell.clone();
        async move {
            let _ = tell.send("begun");
            let _guard = GivenUp(tell);
            std::future::pending().await
        }
        .boxed()
    }));
    (node.await, events)
}

struct GivenUp(mpsc::UnboundedSender<&'static str>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        let _ = self.0.send("given up");
    }
}

fn fitting_reply(ask: &Ask) -> Reply {
    let nothing = || Answer { outcome: Outcome::NotFound, held: Duration::ZERO };
    match ask {
        Ask::Hello(_) => Reply::Hello(hello_of(&sender("b"), false)),
        Ask::Get(_) => Reply::Get(nothing()),
        Ask::GetMany(get) => Reply::GetMany(get.keys.iter().map(|_| nothing()).collect()),
        Ask::Remove(_) => Reply::Remove,
        Ask::Insert(_) => Reply::Insert { stored: true },
    }
}

// Messages.

fn sender(name: &str) -> Arc<Sender> {
    Arc::new(Sender {
        cluster: Arc::from("test"),
        name: name.into(),
        incarnation: Incarnation(u64::MAX),
        versions: Versions::SPOKEN,
    })
}

fn from_a(ask: Ask) -> Request {
    Request { sender: Some(sender("a")), ask }
}

fn hello_of(sender: &Arc<Sender>, draining: bool) -> Hello {
    let members = vec![("a".into(), 1), ("b".into(), 1 << 16), ("ü".into(), u32::MAX)];
    Hello { sender: Arc::clone(sender), fingerprint: u64::MAX - 1, members, draining }
}

fn hello() -> Request {
    from_a(Ask::Hello(hello_of(&sender("a"), false)))
}

fn terms() -> GetTerms {
    GetTerms { group: Arc::from("users"), schema: 3, time_limit: Duration::from_millis(1234), nested: true }
}

fn get(key: &str) -> Request {
    from_a(Ask::Get(Get { terms: terms(), key: Key::new(key) }))
}

/// Keys that are numbers, from 0.
fn get_many(count: usize) -> Request {
    let keys = (0..count).map(|index| Key::new(&index.to_string())).collect();
    from_a(Ask::GetMany(GetMany { terms: terms(), keys }))
}

fn removal_id() -> RemovalId {
    RemovalId { origin: "a".into(), incarnation: Incarnation(0), number: u64::MAX }
}

fn remove(scope: Scope) -> Request {
    from_a(Ask::Remove(Remove { id: removal_id(), group: Arc::from("users"), scope }))
}

fn insert(value: Bytes) -> Request {
    let time_to_live = value.len().is_multiple_of(2).then_some(Duration::from_secs(60));
    let insert =
        Insert { id: removal_id(), group: Arc::from("users"), schema: 0, key: Key::new("k"), value, time_to_live };
    from_a(Ask::Insert(insert))
}

fn odd_requests() -> Vec<Request> {
    let keys = || [Key::new(""), Key::new(&[0xff, 0xfe, 0]), Key::new(&vec![b'x'; Key::MAX_LEN])];
    let mut requests = vec![hello(), get_many(0), remove(Scope::Group), remove(Scope::Keys(Vec::new()))];
    requests.extend(keys().map(|key| from_a(Ask::Get(Get { terms: terms(), key }))));
    requests.push(from_a(Ask::GetMany(GetMany { terms: terms(), keys: keys().into() })));
    requests.push(remove(Scope::Keys(keys().into())));
    requests.extend([Bytes::new(), Bytes::from_static(b"\xff")].map(insert));
    requests.push(Request { sender: None, ..get("k") });
    let boundless = GetTerms { group: Arc::from(""), schema: u32::MAX, time_limit: Duration::MAX, nested: false };
    requests.push(Request { sender: None, ask: Ask::Get(Get { terms: boundless, key: Key::new("k") }) });
    requests
}

fn refusals() -> Vec<Refusal> {
    use RefusalKind::{Draining, Invalid, Schema, TooLarge, UnknownGroup, Version, WrongCluster};

    let kinds = [Invalid, WrongCluster, Version, UnknownGroup, Schema, TooLarge, Draining];
    kinds.map(|kind| Refusal::new(kind, format!("because it is {kind:?}: 100 %, ü\n"))).into()
}

fn value_answer(value: Bytes, left: Option<Duration>) -> Answer {
    let copy = Copy { value, age: Duration::from_micros(5), left, loaded: left.is_none() };
    Answer { outcome: Outcome::Value(copy), held: Duration::from_millis(3) }
}

fn failed_answer(error: Error) -> Answer {
    Answer { outcome: Outcome::Failed(error), held: Duration::ZERO }
}

/// A value that shows where a piece of it went missing.
fn pattern(len: usize) -> Bytes {
    let block: Vec<u8> = (0..=250).collect();
    block.iter().copied().cycle().take(len).collect::<Vec<_>>().into()
}

fn usize_of(key: &Key) -> usize {
    key.as_str().and_then(|text| text.parse().ok()).expect("the key is a number")
}

/// Errors have no equality, so messages have none; what they print is all that they say.
fn assert_same(got: &impl std::fmt::Debug, want: &impl std::fmt::Debug) {
    assert_eq!(format!("{got:?}"), format!("{want:?}"));
}

fn assert_unreachable(result: Result<Reply, CallError>) {
    match result {
        Err(CallError::Unreachable(why)) => assert!(!why.to_string().is_empty(), "it should say why"),
        other => panic!("expected the peer to be unreachable: {other:?}"),
    }
}

fn refused(result: Result<Reply, CallError>) -> Refusal {
    match result {
        Err(CallError::Refused(refusal)) => refusal,
        other => panic!("expected a refusal: {other:?}"),
    }
}
