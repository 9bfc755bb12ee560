//! Real nodes on real sockets: nodes that can be killed, and a proxy that can fall silent.

#![allow(dead_code, reason = "each suite uses its part of it")]

use std::sync::mpsc;
use std::time::Duration;

use peerage::NodeBuilder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use super::cluster::{Member, Source};

/// A node in a runtime of its own, as a process would be: killing it closes its sockets without a word.
pub(crate) struct Process {
    /// `None` once it is dead.
    runtime: Option<Runtime>,
    /// Its handles, which the test may use from its own runtime.
    pub(crate) member: Option<Member>,
}

impl Process {
    /// Starts a node from within its own runtime.
    pub(crate) fn start(builder: NodeBuilder, source: &Source) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (started, node) = mpsc::channel();
        let source_of_node = source.clone();
        runtime.spawn(async move {
            let node = builder.start().await.unwrap();
            started.send(Member::new(node, &source_of_node)).unwrap();
        });
        let member = node.recv_timeout(Duration::from_secs(60)).unwrap();
        Self { runtime: Some(runtime), member: Some(member) }
    }

    pub(crate) fn member(&self) -> &Member {
        self.member.as_ref().unwrap()
    }

    /// Kills it: all its tasks stop where they stand, its sockets are closed by the kernel.
    pub(crate) fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        self.member = None;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A TCP proxy: connections stay open, also while it forwards nothing.
pub(crate) struct Proxy {
    address: String,
    forwarding: watch::Sender<bool>,
    target: watch::Sender<Option<String>>,
}

impl Proxy {
    /// Listens at a free port. Connections wait until there is a target.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (forwarding, target) = (watch::Sender::new(true), watch::Sender::new(None));
        tokio::spawn(accept(listener, forwarding.subscribe(), target.subscribe()));
        Self { address, forwarding, target }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Where to forward to.
    pub(crate) fn lead_to(&self, target: &str) {
        self.target.send_replace(Some(target.to_string()));
    }

    /// From now on nothing comes through, in either direction; connections stay open.
    pub(crate) fn fall_silent(&self) {
        self.forwarding.send_replace(false);
    }

    /// Goes on, with what was held back first.
    pub(crate) fn speak(&self) {
        self.forwarding.send_replace(true);
    }
}

async fn accept(listener: TcpListener, forwarding: watch::Receiver<bool>, target: watch::Receiver<Option<String>>) {
    while let Ok((inner, _)) = listener.accept().await {
        let (mut forwarding, mut target) = (forwarding.clone(), target.clone());
        tokio::spawn(async move {
            let Ok(address) = target.wait_for(Option::is_some).await.map(|target| target.clone()) else { return };
            let silent = forwarding.wait_for(|forwarding| *forwarding).await.is_err();
            let Ok(outer) = TcpStream::connect(address.unwrap_or_default()).await else { return };
            if silent || inner.set_nodelay(true).is_err() || outer.set_nodelay(true).is_err() {
                return;
            }
            let ((inner_read, inner_write), (outer_read, outer_write)) = (inner.into_split(), outer.into_split());
            // Either end closes both.
            tokio::select! {
                () = forward(inner_read, outer_write, forwarding.clone()) => {}
                () = forward(outer_read, inner_write, forwarding) => {}
            }
        });
    }
}

async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut forwarding: watch::Receiver<bool>) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
        if forwarding.wait_for(|forwarding| *forwarding).await.is_err() {
            return;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
