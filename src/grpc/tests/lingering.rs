//! Streams that end without a reset.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::super::lingering::Lingering;
use super::net::soon;

async fn pair(silence: Duration) -> (Lingering, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let (peer, own) = futures::join!(TcpStream::connect(address), listener.accept());
    (Lingering::new(own.expect("it connects").0, silence), peer.expect("it listens"))
}

#[tokio::test]
async fn what_was_written_arrives_although_the_peer_goes_on_sending() {
    let (mut own, mut peer) = pair(Duration::from_secs(3600)).await;
    let written = vec![7; 4 << 20];
    let ending = tokio::spawn({
        let written = written.clone();
        async move {
            own.write_all(&written).await.expect("the peer reads");
            own.shutdown().await
        }
    });
    let mut read = Vec::new();
    while soon(peer.read_buf(&mut read)).await.expect("no reset") > 0 {
        // Nobody reads this any more.
        peer.write_all(b"credit").await.expect("no reset");
    }
    assert!(read == written);
    drop(peer);
    soon(ending).await.expect("no panic").expect("it is told");
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_not_waited_for() {
    let (mut own, _peer) = pair(Duration::from_millis(50)).await;
    soon(own.shutdown()).await.expect("it is told");
    soon(own.shutdown()).await.expect("whoever asks again is told again");
}

#[tokio::test]
async fn nor_is_one_that_never_ends() {
    let (mut own, mut peer) = pair(Duration::from_millis(20)).await;
    let sending = tokio::spawn(async move { while peer.write_all(b"more").await.is_ok() {} });
    soon(own.shutdown()).await.expect("it is told");
    drop(own);
    soon(sending).await.expect("no panic");
}
