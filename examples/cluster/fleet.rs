//! The three service processes: started, killed, started again, ended.
//!
//! Whatever happens to the driver, nothing is left running: dropping the [`Fleet`] kills its processes by their
//! handles, and a process whose driver is gone without a word sees its standard input end (see `service.rs`).

use std::collections::HashSet;
use std::env;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use tokio::time::{Instant, sleep};

use crate::service::Config;
use crate::web::Web;

pub(crate) const NODES: usize = 3;

/// How long a service may take until it is ready, and until it has ended.
const START_LIMIT: Duration = Duration::from_secs(10);
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// How often a process is looked at while it starts or ends.
const LOOK: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(crate) struct Fleet {
    web: Web,
    services: Vec<Service>,
}

#[derive(Debug)]
struct Service {
    config: Config,
    process: Option<Process>,
}

impl Fleet {
    /// Starts all services. Their journals go into `directory`.
    pub(crate) async fn start(web: Web, directory: &Path, database: &Path, query_ms: u64) -> Result<Self> {
        let configs = configs(directory, database, query_ms)?;
        let mut fleet = Self { web, services: configs.into_iter().map(Service::new).collect() };
        for service in &mut fleet.services {
            service.start()?;
        }
        for service in &mut fleet.services {
            service.serves(&fleet.web).await?;
        }
        Ok(fleet)
    }

    /// Where the services serve HTTP.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.services.iter().map(|service| service.config.http).collect()
    }

    pub(crate) fn journals(&self) -> Vec<PathBuf> {
        self.services.iter().map(|service| service.config.journal.clone()).collect()
    }

    /// Kills one service as `kill -9` does, and returns once it is dead.
    pub(crate) fn kill(&mut self, node: usize) {
        self.services[node].process = None;
    }

    /// Starts a killed service with the addresses that it had, and returns once it serves.
    pub(crate) async fn start_again(&mut self, node: usize) -> Result<()> {
        let service = &mut self.services[node];
        service.start()?;
        service.serves(&self.web).await
    }

    /// Waits until a service ends, which none should do by itself.
    pub(crate) async fn watch(&mut self) -> Result<()> {
        loop {
            for service in &mut self.services {
                service.is_alive()?;
            }
            sleep(10 * LOOK).await;
        }
    }

    /// Tells all services to end, and waits until they have.
    pub(crate) async fn stop(mut self) -> Result<()> {
        let processes: Vec<_> = self.services.iter_mut().filter_map(|service| service.process.take()).collect();
        let mut asked: Vec<_> = processes.into_iter().map(Process::ask_to_end).collect();
        let deadline = Instant::now() + STOP_LIMIT;
        for process in &mut asked {
            let status = process.ended(deadline).await?;
            ensure!(status.success(), "a service ended with {status}");
        }
        Ok(())
    }
}

impl Service {
    fn new(config: Config) -> Self {
        Self { config, process: None }
    }

    fn start(&mut self) -> Result<()> {
        self.process = Some(Process::start(&self.config)?);
        Ok(())
    }

    /// Waits until the service serves, as one node of the cluster.
    async fn serves(&mut self, web: &Web) -> Result<()> {
        let (address, deadline) = (self.config.http, Instant::now() + START_LIMIT);
        while !web.get(address, "/ready").await.is_ok_and(|answer| answer.status.is_success()) {
            self.is_alive()?;
            ensure!(Instant::now() < deadline, "the service at {address} is not ready after {START_LIMIT:?}");
            sleep(LOOK).await;
        }
        Ok(())
    }

    fn is_alive(&mut self) -> Result<()> {
        let process = self.process.as_mut().context("a service was not started")?;
        match process.0.try_wait()? {
            Some(status) => bail!("the service at {} ended by itself with {status}", self.config.http),
            None => Ok(()),
        }
    }
}

/// A service's process, which does not outlive this handle.
#[derive(Debug)]
struct Process(Child);

impl Process {
    fn start(config: &Config) -> Result<Self> {
        Command::new(env::current_exe()?)
            .arg("service")
            .arg(serde_json::to_string(config)?)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .map(Self)
            .context("cannot start a service")
    }

    /// The end of its standard input is what tells a service to end.
    fn ask_to_end(mut self) -> Self {
        drop(self.0.stdin.take());
        self
    }

    async fn ended(&mut self, deadline: Instant) -> Result<ExitStatus> {
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "a service did not end within {STOP_LIMIT:?} of being told to");
            sleep(LOOK).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if the process has ended, which is what they are for.
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

fn configs(directory: &Path, database: &Path, query_ms: u64) -> Result<Vec<Config>> {
    let ports = free_ports(2 * NODES)?;
    let (http, nodes) = ports.split_at(NODES);
    let peers: Vec<_> = nodes.iter().map(SocketAddr::to_string).collect();
    let config = |node: usize| Config {
        http: http[node],
        address: peers[node].clone(),
        peers: peers.clone(),
        database: database.to_path_buf(),
        journal: directory.join(format!("queries-{node}.log")),
        query_ms,
    };
    Ok((0..NODES).map(config).collect())
}

/// Addresses on which nobody listens, below the ports that systems give to outgoing connections: while a killed service
/// is down, nothing else gets its port by chance.
fn free_ports(count: usize) -> Result<Vec<SocketAddr>> {
    const ATTEMPTS: usize = 1_000;
    let random = (0..ATTEMPTS).map(|_| SocketAddr::from((Ipv4Addr::LOCALHOST, fastrand::u16(20_000..32_000))));
    let mut taken = HashSet::new();
    let free = random.filter(|address| TcpListener::bind(address).is_ok() && taken.insert(*address));
    let free: Vec<_> = free.take(count).collect();
    if free.len() == count { Ok(free) } else { Err(anyhow!("found no {count} free ports on 127.0.0.1")) }
}
