//! What only gRPC has: limits that differ, graceful ends, strangers, statuses.

use std::sync::Arc;

use futures::future::FutureExt as _;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::super::{PeerService, call_error_of, status_of};
use super::handlers::{fitting_reply, handling, replying};
use super::messages::{assert_unreachable, get, insert, pattern, refusals, refused, remove, value_answer};
use super::net::{Net, Running, driven, soon};
use crate::message::{Refusal, RefusalKind, Reply, Scope};

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
