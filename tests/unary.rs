//! From outside: a plain tonic client, generated from the proto and with no peerage in it, asks the unary `Get`; and
//! whatever else comes in at the port fails alone.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use futures::future::join_all;
use peerage::{BoxError, Group, Key, LoadError, Node};
use prost::Message;
use prost::encoding::{DecodeContext, WireType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

/// What `tonic-prost-build` makes of `peerage.proto`.
#[allow(dead_code, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/peerage.v1.rs"));
}

/// Where that looks for its codec.
mod grpc {
    pub(crate) use tonic_prost::ProstCodec as UnaryCodec;
}

use proto::answer::Outcome;
use proto::peerage_client::PeerageClient;
use proto::{FailureKind, GetRequest, Refusal, RefusalKind};

struct Server {
    node: Node,
    group: Group<String>,
    channel: Channel,
}

impl Server {
    async fn start() -> Self {
        let node = Node::builder("127.0.0.1:0").alone().max_value_bytes(1 << 20).start().await.unwrap();
        let loader = |key: Key| async move {
            match key.as_str() {
                Some("none") => Ok(None),
                Some("broken") => Err(BoxError::from(LoadError::new("the disk is on fire").with_code(7))),
                Some("slow") => {
                    tokio::time::sleep(Duration::from_secs(600)).await;
                    Ok(None)
                }
                Some("large") => Ok(Some("x".repeat(2 << 20))),
                _ => Ok(Some(format!("value of {key}"))),
            }
        };
        let group = node.group("users").schema(3).jitter(0.0).loader(loader).build().unwrap();
        let channel = Endpoint::from_shared(format!("http://{}", node.address())).unwrap().connect().await.unwrap();
        Self { node, group, channel }
    }

    fn client(&self) -> PeerageClient<Channel> {
        PeerageClient::new(self.channel.clone())
    }

    async fn get(&self, request: GetRequest) -> Result<Outcome, Status> {
        let answer = self.client().get(request).await?.into_inner();
        Ok(answer.outcome.expect("an answer has an outcome"))
    }

    /// A healthy get on the same connection.
    async fn assert_serves(&self) {
        let Ok(Outcome::Value(value)) = self.get(ask("alice")).await else { panic!("it does not serve") };
        assert_eq!(value.value, "value of alice");
    }

    /// Sends any bytes as the message of a call.
    async fn send(&self, method: &'static str, message: Bytes) -> Result<(), Status> {
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        client.ready().await.unwrap();
        let path = tonic::codegen::http::uri::PathAndQuery::from_static(method);
        let codec: ProstCodec<Raw, Raw> = ProstCodec::default();
        client.unary(tonic::Request::new(Raw(message)), path, codec).await.map(drop)
    }
}

/// A request of a client: only what a client has to say.
fn ask(key: &str) -> GetRequest {
    GetRequest {
        group: "users".into(),
        schema: 3,
        time_limit_us: 60_000_000,
        key: Bytes::copy_from_slice(key.as_bytes()),
        ..GetRequest::default()
    }
}

/// The details that a refusal travels with.
fn refusal(status: &Status) -> Refusal {
    let refusal = Refusal::decode(status.details()).expect("a refusal has details");
    assert_eq!(refusal.message, status.message());
    refusal
}

fn sender(cluster: &str, versions: (u32, u32)) -> proto::Sender {
    proto::Sender {
        cluster: cluster.into(),
        name: "outside".into(),
        incarnation: 1,
        min_version: versions.0,
        max_version: versions.1,
    }
}

/// A message of bytes that are sent as they are.
#[derive(Clone, Debug, Default)]
struct Raw(Bytes);

impl Message for Raw {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        buf.put_slice(&self.0);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        prost::encoding::skip_field(wire_type, tag, buf, ctx)
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {}
}

/// Waits until something holds.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(120), waiting).await.is_ok(), "never came: {what}");
}

const GET: &str = "/peerage.v1.Peerage/Get";
const METHODS: [&str; 5] = [
    GET,
    "/peerage.v1.Peerage/GetMany",
    "/peerage.v1.Peerage/Hello",
    "/peerage.v1.Peerage/Remove",
    "/peerage.v1.Peerage/Insert",
];

#[tokio::test]
async fn a_plain_client_gets_values_and_answers() {
    let server = Server::start().await;
    for loaded in [true, false] {
        let Outcome::Value(value) = server.get(ask("alice")).await.unwrap() else { panic!("no value") };
        assert_eq!((&value.value[..], value.loaded, value.left_us), (&b"value of alice"[..], loaded, None));
    }
    assert_eq!(server.group.peek("alice").as_deref(), Some("value of alice"), "it reads through the node's cache");
    assert!(matches!(server.get(ask("none")).await.unwrap(), Outcome::NotFound(_)));
    let Outcome::Failure(failure) = server.get(ask("broken")).await.unwrap() else { panic!("no failure") };
    assert_eq!((failure.kind(), &failure.message[..], failure.code), (FailureKind::Load, "the disk is on fire", 7));
    let hasty = GetRequest { time_limit_us: 1000, ..ask("slow") };
    let Outcome::Failure(failure) = server.get(hasty).await.unwrap() else { panic!("no failure") };
    assert_eq!((failure.kind(), failure.limit_us), (FailureKind::Timeout, 1000));
    let Outcome::Failure(failure) = server.get(ask("large")).await.unwrap() else { panic!("no failure") };
    assert_eq!(failure.kind(), FailureKind::ValueTooLarge);
    assert_eq!((failure.len_bytes, failure.limit_bytes), (2 << 20, 1 << 20));
    assert_eq!(server.group.stats().served.total(), 6);
    assert_eq!(server.group.stats().gets.total(), 0, "what peers and clients ask is counted apart");
}

#[tokio::test]
async fn a_request_that_the_node_does_not_serve_is_refused_with_the_documented_code() {
    let server = Server::start().await;
    let with = |sender| GetRequest { sender: Some(sender), ..ask("alice") };
    let long_key = GetRequest { key: vec![0; Key::MAX_LEN + 1].into(), ..ask("") };
    for (case, request, code, kind, words) in [
        (
            "group",
            GetRequest { group: "nobody's".into(), ..ask("a") },
            Code::NotFound,
            RefusalKind::UnknownGroup,
            "nobody's",
        ),
        ("schema", GetRequest { schema: 4, ..ask("a") }, Code::FailedPrecondition, RefusalKind::Schema, "schema 3"),
        ("cluster", with(sender("other", (1, 1))), Code::FailedPrecondition, RefusalKind::WrongCluster, "other"),
        ("version", with(sender("default", (2, 9))), Code::FailedPrecondition, RefusalKind::Version, "2 to 9"),
        ("versions", with(sender("default", (9, 2))), Code::InvalidArgument, RefusalKind::Invalid, "above"),
        ("key", long_key, Code::InvalidArgument, RefusalKind::Invalid, "65537 bytes"),
        (
            "name",
            GetRequest { group: "x".repeat(2000), ..ask("a") },
            Code::InvalidArgument,
            RefusalKind::Invalid,
            "2000 bytes",
        ),
        ("nobody", with(proto::Sender::default()), Code::InvalidArgument, RefusalKind::Invalid, "name"),
    ] {
        let status = server.get(request).await.expect_err(case);
        let refusal = refusal(&status);
        assert_eq!((status.code(), refusal.kind()), (code, kind), "{case}: {status}");
        assert!(refusal.message.contains(words), "{case}: {status}");
        server.assert_serves().await;
    }
}

#[tokio::test]
async fn a_hello_of_another_version_or_cluster_is_refused_and_the_connection_lives_on() {
    let server = Server::start().await;
    for (sender, kind) in [
        (Some(sender("default", (2, 3))), RefusalKind::Version),
        (Some(sender("other", (1, 1))), RefusalKind::WrongCluster),
        (None, RefusalKind::Invalid),
        (Some(proto::Sender { name: "x".repeat(256), ..sender("default", (1, 1)) }), RefusalKind::Invalid),
    ] {
        let hello = proto::Hello { sender, ..proto::Hello::default() };
        let status = server.client().hello(hello).await.unwrap_err();
        assert_eq!(refusal(&status).kind(), kind, "{status}");
        server.assert_serves().await;
    }
    // Newer ones that still speak version 1 are welcome, and told which the node speaks.
    let hello = proto::Hello { sender: Some(sender("default", (1, 7))), ..proto::Hello::default() };
    let reply = server.client().hello(hello).await.unwrap().into_inner();
    let theirs = reply.sender.unwrap();
    assert_eq!((&theirs.name[..], theirs.min_version, theirs.max_version), (server.node.name().as_str(), 1, 1));
    assert_eq!((reply.members.len(), reply.fingerprint), (1, server.node.stats().fingerprint));
}

#[tokio::test]
async fn a_value_that_a_node_sends_unasked_is_refused_and_that_of_a_program_that_is_none_is_stored() {
    let server = Server::start().await;
    let insert = |key: &'static str, sender| proto::InsertRequest {
        sender,
        id: Some(proto::RemovalId { origin: "outside".into(), incarnation: 1, number: 1 }),
        group: "users".into(),
        schema: 3,
        key: key.into(),
        value: "v".into(),
        ..proto::InsertRequest::default()
    };
    let status = server.client().insert(insert("node's", Some(sender("default", (1, 1))))).await.unwrap_err();
    assert_eq!((status.code(), refusal(&status).kind()), (Code::InvalidArgument, RefusalKind::Invalid), "{status}");
    assert_eq!(server.group.peek("node's"), None);
    assert!(server.client().insert(insert("program's", None)).await.unwrap().into_inner().stored);
    assert_eq!(server.group.peek("program's").as_deref(), Some("v"));
    server.assert_serves().await;
}

#[tokio::test]
async fn garbage_fails_alone() {
    let server = Server::start().await;
    let whole = ask("alice").encode_to_vec();
    let mut random = fastrand::Rng::with_seed(1);
    for method in METHODS {
        for length in 1..200 {
            let bytes: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
            if let Err(status) = server.send(method, bytes.into()).await {
                let expected = [Code::Internal, Code::InvalidArgument, Code::NotFound, Code::FailedPrecondition];
                assert!(expected.contains(&status.code()), "{method}: {status:?}");
            }
        }
        server.assert_serves().await;
    }
    for end in 1..whole.len() {
        // Cut anywhere, a message is either garbage or another message.
        if let Err(status) = server.send(GET, Bytes::copy_from_slice(&whole[..end])).await {
            let expected = [Code::Internal, Code::InvalidArgument, Code::NotFound, Code::FailedPrecondition];
            assert!(expected.contains(&status.code()), "{status:?}");
        }
    }
    let status = server.send("/peerage.v1.Peerage/Nothing", Bytes::new()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    let status = server.send("/other.Service/Get", Bytes::new()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    server.assert_serves().await;
}

#[tokio::test]
async fn an_oversized_message_is_refused_and_holds_up_nobody() {
    let server = Server::start().await;
    let oversized = join_all((0..8).map(|_| async {
        let request = GetRequest { key: vec![7; 8 << 20].into(), ..ask("") };
        server.get(request).await.unwrap_err()
    }));
    let (oversized, ()) = futures::join!(oversized, server.assert_serves());
    for status in oversized {
        assert_eq!(status.code(), Code::OutOfRange, "{status}");
    }
    // One that fits into a message, and is larger than a value may be.
    let insert = proto::InsertRequest {
        id: Some(proto::RemovalId { origin: "outside".into(), incarnation: 1, number: 1 }),
        group: "users".into(),
        schema: 3,
        key: "k".into(),
        value: vec![b'x'; 2 << 20].into(),
        ..proto::InsertRequest::default()
    };
    let status = server.client().insert(insert).await.unwrap_err();
    assert_eq!((status.code(), refusal(&status).kind()), (Code::OutOfRange, RefusalKind::TooLarge));
    assert_eq!(server.group.peek("k"), None);
    let many = proto::GetManyRequest {
        group: "users".into(),
        schema: 3,
        keys: vec![Bytes::new(); 70_000],
        ..Default::default()
    };
    let status = server.client().get_many(many).await.unwrap_err();
    assert_eq!(refusal(&status).kind(), RefusalKind::Invalid, "{status}");
    server.assert_serves().await;
}

#[tokio::test]
async fn a_message_that_would_become_many_times_as_large_is_refused_before_it_does() {
    let server = Server::start().await;
    let hello = proto::Hello { members: vec![proto::Member::default(); 2 << 20], ..proto::Hello::default() };
    let status = server.client().hello(hello).await.unwrap_err();
    assert_eq!((status.code(), refusal(&status).kind()), (Code::InvalidArgument, RefusalKind::Invalid));
    assert!(status.message().contains("many times"), "{status}");
    server.assert_serves().await;
}

#[tokio::test]
async fn absurd_numbers_are_taken_for_what_they_are() {
    let server = Server::start().await;
    for time_limit_us in [0, 1, u64::MAX - 1, u64::MAX] {
        let key = format!("key-{time_limit_us}");
        let outcome = server.get(GetRequest { time_limit_us, nested: true, ..ask(&key) }).await.unwrap();
        match outcome {
            Outcome::Value(_) => {}
            Outcome::Failure(failure) => assert!(time_limit_us <= 1 && failure.kind() == FailureKind::Timeout),
            Outcome::NotFound(_) => panic!("there is a value"),
        }
    }
    for (number, life) in [(1, 0), (2, 1), (3, u64::MAX - 1), (u64::MAX - 1, u64::MAX)] {
        let insert = proto::InsertRequest {
            id: Some(proto::RemovalId { origin: "outside".into(), incarnation: u64::MAX, number }),
            group: "users".into(),
            schema: 3,
            key: format!("inserted-{life}").into(),
            value: "v".into(),
            time_to_live_us: Some(life),
            ..proto::InsertRequest::default()
        };
        let stored = server.client().insert(insert).await.unwrap().into_inner().stored;
        assert_eq!(stored, life > 0, "{life}");
    }
    assert_eq!(server.group.peek(&format!("inserted-{}", u64::MAX)).as_deref(), Some("v"));
    for removal in [
        proto::RemoveRequest { group: "users".into(), ..Default::default() },
        proto::RemoveRequest {
            id: Some(proto::RemovalId { origin: "outside".into(), incarnation: 1, number: 0 }),
            scope: Some(proto::remove_request::Scope::WholeGroup(proto::WholeGroup {})),
            ..Default::default()
        },
        proto::RemoveRequest {
            id: Some(proto::RemovalId { origin: "outside".into(), incarnation: 1, number: u64::MAX }),
            scope: Some(proto::remove_request::Scope::WholeGroup(proto::WholeGroup {})),
            ..Default::default()
        },
    ] {
        assert_eq!(refusal(&server.client().remove(removal).await.unwrap_err()).kind(), RefusalKind::Invalid);
    }
    let members = vec![proto::Member { name: "m".into(), weight: u32::MAX }; 3];
    let hello = proto::Hello {
        sender: Some(sender("default", (0, u32::MAX))),
        fingerprint: u64::MAX,
        members,
        draining: true,
        ..proto::Hello::default()
    };
    server.client().hello(hello).await.unwrap();
    server.assert_serves().await;
    let _ = server.node.stats();
}

#[tokio::test]
async fn who_names_no_limit_waits_as_long_as_the_group_does() {
    let server = Server::start().await;
    let loader = |key: Key| async move {
        if key.as_str() == Some("never") {
            std::future::pending::<()>().await;
        }
        // Longer than no time at all.
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok::<_, BoxError>(format!("value of {key}"))
    };
    let limit = Duration::from_millis(200);
    let _hasty: Group<String> = server.node.group("hasty").timeout(limit).loader(loader).build().unwrap();
    let _patient: Group<String> =
        server.node.group("patient").timeout(Duration::from_secs(600)).loader(loader).build().unwrap();
    let unset =
        |group: &str, key: &'static str| GetRequest { group: group.into(), key: key.into(), ..GetRequest::default() };
    let Outcome::Failure(failure) = server.get(unset("hasty", "never")).await.unwrap() else { panic!("no failure") };
    assert_eq!((failure.kind(), failure.limit_us), (FailureKind::Timeout, 200_000));
    let Outcome::Value(value) = server.get(unset("patient", "slow")).await.unwrap() else { panic!("no value") };
    assert_eq!(value.value, "value of slow");
    let keys = vec!["never".into(), "never again".into()];
    let many = proto::GetManyRequest { group: "hasty".into(), keys, ..Default::default() };
    let mut replies = server.client().get_many(many).await.unwrap().into_inner();
    let first = replies.message().await.unwrap().unwrap().answers.remove(0).answer.unwrap().outcome.unwrap();
    let Outcome::Failure(failure) = first else { panic!("no failure") };
    assert_eq!((failure.kind(), failure.limit_us), (FailureKind::Timeout, 200_000));
}

#[tokio::test]
async fn a_request_that_lists_a_key_twice_is_refused() {
    let server = Server::start().await;
    let many = |keys: &[&'static str]| proto::GetManyRequest {
        group: "users".into(),
        schema: 3,
        keys: keys.iter().map(|key| Bytes::from(*key)).collect(),
        ..Default::default()
    };
    for keys in [&["a", "a"][..], &["a", "b", "", "c", ""]] {
        let status = server.client().get_many(many(keys)).await.unwrap_err();
        assert_eq!((status.code(), refusal(&status).kind()), (Code::InvalidArgument, RefusalKind::Invalid), "{status}");
    }
    assert_eq!((server.group.stats().loads.started, server.group.stats().served.total()), (0, 0));
    let mut replies = server.client().get_many(many(&["a", "b", ""])).await.unwrap().into_inner();
    let mut answered = Vec::new();
    while let Some(reply) = replies.message().await.unwrap() {
        answered.extend(reply.answers.into_iter().map(|answer| answer.index));
    }
    answered.sort_unstable();
    assert_eq!(answered, [0, 1, 2]);
}

#[tokio::test]
async fn a_client_that_calls_itself_nested_stands_in_line_like_others() {
    let server = Server::start().await;
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let loader = move |key: Key| {
        let opened = Arc::clone(&opened);
        async move { opened.acquire().await.map(|_| key.to_string()) }
    };
    let builder = server.node.group("narrow").max_concurrent_loads(1).load_queue_timeout(Duration::from_secs(600));
    let narrow: Group<String> = builder.loader(loader).build().unwrap();
    let loads = || (narrow.stats().loads_running, narrow.stats().loads_queued);
    let get = |key: &'static str, sender| {
        let request = GetRequest { group: "narrow".into(), schema: 0, nested: true, sender, ..ask(key) };
        let mut client = server.client();
        tokio::spawn(async move { client.get(request).await.unwrap().into_inner().outcome.unwrap() })
    };
    let mut gets = vec![get("first", None)];
    until("it has the only permit", || loads() == (1, 0)).await;
    gets.push(get("second", None));
    until("the next one is there too", || loads().0 + loads().1 == 2).await;
    assert_eq!(loads(), (1, 1), "it waits");
    // A node's loader would be let in.
    gets.push(get("third", Some(sender("default", (1, 1)))));
    until("so is the last", || loads().0 + loads().1 == 3).await;
    assert_eq!(loads(), (2, 1));
    gate.add_permits(3);
    for got in join_all(gets).await {
        assert!(matches!(got.unwrap(), Outcome::Value(_)));
    }
}

#[tokio::test]
async fn what_is_no_grpc_at_all_is_hung_up_on() {
    let server = Server::start().await;
    for garbage in [
        &b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..],
        b"POST /peerage.v1.Peerage/Get HTTP/1.1\r\nContent-Length: 99999999999999\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        &[0xff; 4096],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        let mut tcp = TcpStream::connect(server.node.address()).await.unwrap();
        // The node may hang up while we still write.
        let _ = tcp.write_all(garbage).await;
        let _ = tcp.shutdown().await;
        let mut reply = Vec::new();
        let hung_up = tokio::time::timeout(Duration::from_secs(60), tcp.read_to_end(&mut reply)).await;
        assert!(hung_up.is_ok(), "{garbage:?} is left waiting");
        server.assert_serves().await;
    }
}
