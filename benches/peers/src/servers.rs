//! The other process of each contender: this binary again, as a server.
//!
//! A server prints where it listens and which process does the work, takes orders on its standard input, and ends when
//! that is closed. So none is left behind, however its parent ends.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::contenders::{Kind, exchange, groupcache, memcached, peerage, redis, tcp, unary};
use crate::cpu;

/// A server process, as its parent holds it. It ends when this is dropped.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub address: String,
    /// The process whose time and memory count.
    pub process: u32,
    child: Child,
    orders: Option<ChildStdin>,
    replies: BufReader<ChildStdout>,
}

impl Server {
    /// Starts a server; none if what it needs is not installed.
    pub fn start(kind: Kind, core: Option<usize>) -> Result<Option<Self>> {
        let core = core.map(|core| core.to_string());
        let args = ["serve", kind.name()].into_iter().chain(core.as_deref());
        Self::run(&args.collect::<Vec<_>>(), &[])
    }

    /// Runs this binary as a process that takes orders, with some environment of its own.
    pub fn run(args: &[&str], environment: &[(&str, &str)]) -> Result<Option<Self>> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(args).envs(environment.iter().copied());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let orders = child.stdin.take();
        let replies = BufReader::new(child.stdout.take().context("no standard output")?);
        let mut server = Self { address: String::new(), process: 0, child, orders, replies };
        let reply = server.reply()?;
        let mut words = reply.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some("absent"), ..) => Ok(None),
            (Some("ready"), Some(address), Some(process)) => {
                (server.address, server.process) = (address.to_string(), process.parse()?);
                Ok(Some(server))
            }
            _ => bail!("{args:?} said {reply:?}"),
        }
    }

    /// Gives an order and waits until it is done.
    pub fn order(&mut self, order: &str) -> Result<String> {
        writeln!(self.orders.as_mut().context("the server is ending")?, "{order}")?;
        self.reply()
    }

    fn reply(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.replies.read_line(&mut line)? > 0, "the server has ended");
        Ok(line.trim_end().to_string())
    }
}

/// A process that does nothing until this is dropped: neither reads nor answers, and keeps its connections.
#[derive(Debug)]
pub struct Stalled(Pid);

impl Stalled {
    /// Stops a process.
    pub fn stop(process: u32) -> Result<Self> {
        let process = i32::try_from(process).ok().and_then(Pid::from_raw).context("no such process")?;
        kill_process(process, Signal::STOP)?;
        Ok(Self(process))
    }
}

impl Drop for Stalled {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.orders = None;
        let _ = self.child.wait();
    }
}

/// A runtime with two workers, as both sides have by default; on one core, one thread.
pub fn runtime(core: Option<usize>) -> Result<Runtime> {
    let Some(core) = core else {
        return Ok(Builder::new_multi_thread().worker_threads(2).enable_all().build()?);
    };
    cpu::pin(core)?;
    Ok(Builder::new_current_thread().enable_all().build()?)
}

/// What a server does, from its first line to its last.
pub fn serve(kind: Kind, core: Option<usize>) -> Result<()> {
    let runtime = runtime(core)?;
    let orders = Orders::read();
    runtime.block_on(async {
        match kind {
            Kind::Peerage => peerage::serve(orders).await,
            Kind::Exchange => exchange::serve(orders).await,
            Kind::Unary => unary::serve(orders).await,
            Kind::Groupcache => groupcache::serve(orders).await,
            Kind::Redis => redis::serve(orders).await,
            Kind::Memcached => memcached::serve(orders).await,
            Kind::Tcp => tcp::serve(orders).await,
        }
    })?;
    // Not by the runtime's own way out: it would wait for connections that are still open.
    std::process::exit(0)
}

/// The orders that a server is given, and its replies.
#[derive(Debug)]
pub struct Orders(UnboundedReceiver<String>);

impl Orders {
    /// Reads them from now on.
    pub fn read() -> Self {
        let (sender, orders) = unbounded_channel();
        std::thread::spawn(move || {
            for line in std::io::stdin().lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self(orders)
    }

    /// The next order; none when the parent is gone.
    pub async fn next(&mut self) -> Option<String> {
        self.0.recv().await
    }

    /// Says that this process serves at this address, and stays until the parent goes.
    pub async fn ready(self, address: impl std::fmt::Display) {
        say(&format!("ready {address} {}", std::process::id()));
        self.closed().await;
    }

    async fn closed(mut self) {
        while self.next().await.is_some() {}
    }

    /// Runs a program that listens on this port, until the parent goes.
    pub async fn keep(self, program: &str, args: impl Fn(u16) -> Vec<String>) -> Result<()> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let command = Command::new(program).args(args(port)).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let Ok(mut child) = command else {
            say("absent");
            return Ok(());
        };
        let address = format!("127.0.0.1:{port}");
        let listens = tokio::time::timeout(Duration::from_secs(10), async {
            while tokio::net::TcpStream::connect(&address).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        if listens.await.is_ok() {
            say(&format!("ready {address} {}", child.id()));
            self.closed().await;
        }
        child.kill()?;
        child.wait()?;
        Ok(())
    }
}

/// A line for the parent.
pub fn say(line: &str) {
    println!("{line}");
}
