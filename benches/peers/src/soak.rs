//! Memory under load: many gets of values of 1 B to 16 MiB between two processes, each of which is stalled for a while.
//!
//! 256 gets are under way all the time, most of small values and some of large ones, and lives run out, so that loads go
//! on too. In the middle the serving process is stopped for a while (it neither reads nor answers, and its connections
//! stay open), later the asking one.
//!
//! Both start with empty caches and are cleared at the end; what is left then must be what there was at the start, times
//! [`FACTOR`] and [`SLACK`], within [`PATIENCE`]: what is resident, as the kernel sees it, and what was allocated and not
//! freed, as they count it themselves. While the server is stopped the asking node loads for itself, and keeps that: it
//! is cache, not a leak, and clearing tells the two apart.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ::peerage::{Error, Group, Key, Node};
use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use tokio::task::JoinSet;

use crate::contenders::peerage::{Asking, alone};
use crate::counting;
use crate::cpu;
use crate::data;
use crate::hits::zipf::Dice;
use crate::load::Remote;
use crate::options::Options;
use crate::report::Report;
use crate::servers::{self, Orders, Server, Stalled, say};
use crate::table::Table;

/// How much more than at the start a process may hold afterwards.
const FACTOR: f64 = 1.5;
/// What small processes may hold beyond that: an allocator keeps some of what it once had.
const SLACK: u64 = 64 << 20;
/// How long giving memory back may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Large blocks go back to the system when they are freed. Left to itself, glibc's allocator keeps ever larger ones, and
/// what is resident says more about it than about the library.
const MALLOC: [(&str, &str); 2] = [("MALLOC_MMAP_THRESHOLD_", "65536"), ("MALLOC_TRIM_THRESHOLD_", "65536")];
const IN_FLIGHT: u64 = 256;
const KEYS: u32 = 2_000;
const CAPACITY: usize = 256 << 20;
const LIFE: Duration = Duration::from_secs(30);

/// Small values are many, large ones few: `2^(24 u^3)` bytes, with `u` from 0 to 1.
fn size(number: u32) -> usize {
    let part = f64::from(number) / f64::from(KEYS - 1);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 1 B to 16 MiB")]
    let size = (24.0 * part.powi(3)).exp2() as usize;
    size
}

fn group(node: &Node) -> Result<Group<Bytes>> {
    let load = |key: Key| async move { Ok::<_, Infallible>(key.as_str().and_then(data::value)) };
    Ok(node.group("soak").capacity(CAPACITY).hot_share(0.0).time_to_live(LIFE).loader(load).build()?)
}

/// The two processes and what they held.
struct Sample {
    at: &'static str,
    seconds: f64,
    serving: u64,
    asking: u64,
}

/// Runs it for as long as the options say. Fails if memory does not come back.
pub async fn measure(options: &Options, report: &mut Report) -> Result<()> {
    let mut serving = Server::run(&["soak-process", "serve"], &MALLOC)?.context("this binary is there")?;
    let mut asking = Server::run(&["soak-process", "ask"], &MALLOC)?.context("this binary is there")?;
    serving.order(&asking.address)?;
    asking.order(&serving.address.clone())?;
    let began = Instant::now();
    let processes = (serving.process, asking.process);
    let look = |at| -> Result<Sample> {
        let (serving, asking) = (cpu::resident(processes.0)?, cpu::resident(processes.1)?);
        Ok(Sample { at, seconds: began.elapsed().as_secs_f64(), serving, asking })
    };
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut samples = vec![look("start")?];
    let before = Counted::ask(&mut serving, &mut asking)?;
    asking.order("fill")?;
    samples.push(look("filled")?);
    asking.order("begin")?;
    let part = options.soak() / 10;
    let stall = part.clamp(Duration::from_secs(1), Duration::from_secs(15));
    watch(part * 4, "load", &look, &mut samples).await?;
    let stalled = Stalled::stop(serving.process)?;
    watch(stall, "server stalled", &look, &mut samples).await?;
    drop(stalled);
    watch(part * 3, "load", &look, &mut samples).await?;
    let stalled = Stalled::stop(asking.process)?;
    watch(stall, "client stalled", &look, &mut samples).await?;
    drop(stalled);
    watch((part * 3).saturating_sub(stall * 2), "load", &look, &mut samples).await?;
    let outcome = asking.order("end")?;
    samples.push(look("end")?);
    asking.order("clear")?;
    let cleared = settle(&samples[0], &look).await?;
    samples.push(cleared);
    tell(&samples, &outcome);
    let after = Counted::ask(&mut serving, &mut asking)?;
    after.tell(&before, report);
    judge(&samples, report)?;
    after.judge(&before)
}

/// What both have allocated and not freed.
struct Counted {
    serving: u64,
    asking: u64,
}

impl Counted {
    fn ask(serving: &mut Server, asking: &mut Server) -> Result<Self> {
        Ok(Self { serving: serving.order("held")?.parse()?, asking: asking.order("held")?.parse()? })
    }

    fn sides(&self, before: &Self) -> [(&'static str, u64, u64); 2] {
        [("serving", before.serving, self.serving), ("asking", before.asking, self.asking)]
    }

    fn tell(&self, before: &Self, report: &mut Report) {
        for (side, before, after) in self.sides(before) {
            println!("  {side} side, allocated and not freed: {} at the start, {} at the end", mib(before), mib(after));
            report.number(format!("soak_{side}_allocated_start_mib"), Some(in_mib(before)));
            report.number(format!("soak_{side}_allocated_end_mib"), Some(in_mib(after)));
        }
    }

    fn judge(&self, before: &Self) -> Result<()> {
        for (side, before, after) in self.sides(before) {
            ensure!(after <= allowed(before), "the {side} side has not freed {}", mib(after));
        }
        Ok(())
    }
}

fn say_held() {
    say(&counting::live().asked.to_string());
}

/// Looks at both once a second.
async fn watch(
    time: Duration,
    at: &'static str,
    look: &impl Fn(&'static str) -> Result<Sample>,
    samples: &mut Vec<Sample>,
) -> Result<()> {
    let until = Instant::now() + time;
    while Instant::now() < until {
        tokio::time::sleep((until - Instant::now()).min(Duration::from_secs(1))).await;
        samples.push(look(at)?);
    }
    Ok(())
}

fn allowed(start: u64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bytes of memory")]
    let times = (start as f64 * FACTOR) as u64;
    times + SLACK
}

/// Waits until both are back, or patience ends.
async fn settle(start: &Sample, look: &impl Fn(&'static str) -> Result<Sample>) -> Result<Sample> {
    let until = Instant::now() + PATIENCE;
    loop {
        let now = look("cleared")?;
        let back = now.serving <= allowed(start.serving) && now.asking <= allowed(start.asking);
        if back || Instant::now() > until {
            return Ok(now);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn in_mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn mib(bytes: u64) -> String {
    format!("{:.0} MiB", in_mib(bytes))
}

/// A line for each stretch, with what both held at most.
fn tell(samples: &[Sample], outcome: &str) {
    let mut table = Table::new(format!("soak: {outcome}"), ["at most", "until", "serving", "asking"]);
    for stretch in samples.chunk_by(|one, next| one.at == next.at) {
        let most = |of: fn(&Sample) -> u64| mib(stretch.iter().map(of).max().unwrap_or(0));
        let until = stretch.last().map_or(0.0, |sample| sample.seconds);
        let cells = [most(|sample| sample.serving), most(|sample| sample.asking)];
        table.row([stretch[0].at.to_string(), format!("{until:.0} s")].into_iter().chain(cells));
    }
    print!("{table}");
}

fn judge(samples: &[Sample], report: &mut Report) -> Result<()> {
    type Side = (&'static str, fn(&Sample) -> u64);
    let sides: [Side; 2] = [("serving", |of| of.serving), ("asking", |of| of.asking)];
    let [start, .., end] = samples else { bail!("nothing was seen") };
    for (side, of) in sides {
        let peak = samples.iter().map(of).max().unwrap_or(0);
        report.number(format!("soak_{side}_start_mib"), Some(in_mib(of(start))));
        report.number(format!("soak_{side}_peak_mib"), Some(in_mib(peak)));
        report.number(format!("soak_{side}_end_mib"), Some(in_mib(of(end))));
    }
    for (side, of) in sides {
        let (held, may) = (of(end), allowed(of(start)));
        ensure!(held <= may, "the {side} side still holds {}, more than {}", mib(held), mib(may));
    }
    Ok(())
}

/// Either process: `soak-process serve` or `soak-process ask`.
pub fn process(args: &[String]) -> Result<()> {
    let [role] = args else { bail!("soak-process needs a role") };
    counting::begin();
    let runtime = servers::runtime(None)?;
    let orders = Orders::read();
    runtime.block_on(async {
        let node = alone().await?;
        let group = group(&node)?;
        say(&format!("ready {} {}", node.address(), std::process::id()));
        if role == "serve" { serve(orders, &node).await } else { ask(orders, node, group).await }
    })?;
    std::process::exit(0)
}

async fn serve(mut orders: Orders, node: &Node) -> Result<()> {
    while let Some(order) = orders.next().await {
        if order == "held" {
            say_held();
        } else {
            node.set_peers([node.address(), &order]).await?;
            say("met");
        }
    }
    Ok(())
}

/// A key of the size that has this number, owned by the other process: the same number plus so many times [`KEYS`].
fn remote_key(asking: &Asking, number: u32) -> String {
    let mut keys = (number..).step_by(KEYS as usize).map(|tried| data::key(size(number), tried));
    keys.find(|key| asking.is_remote(key)).unwrap_or_default()
}

/// What became of the gets.
#[derive(Debug, Default)]
struct Counts {
    gets: AtomicU64,
    bytes: AtomicU64,
    busy: AtomicU64,
    timeouts: AtomicU64,
    others: AtomicU64,
}

impl Counts {
    fn count(&self, size: usize, got: Result<Bytes>) -> Result<()> {
        let counter = match got {
            Ok(value) => {
                ensure!(value.len() == size, "{} bytes came instead of {size}", value.len());
                self.bytes.fetch_add(size as u64, Ordering::Relaxed);
                &self.gets
            }
            Err(error) => match error.downcast_ref() {
                Some(Error::Busy) => &self.busy,
                Some(Error::Timeout { .. }) => &self.timeouts,
                _ => &self.others,
            },
        };
        counter.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn text(&self) -> String {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        format!(
            "{} gets, {:.1} GiB, and {} busy, {} timeouts, {} other failures",
            of(&self.gets),
            of(&self.bytes) as f64 / f64::from(1 << 30),
            of(&self.busy),
            of(&self.timeouts),
            of(&self.others)
        )
    }
}

/// Orders: the other's address; then `held`, `fill`, `begin`, `end`, `clear`.
async fn ask(mut orders: Orders, node: Node, group: Group<Bytes>) -> Result<()> {
    let owner = orders.next().await.context("nobody to ask")?;
    let cleared = group.clone();
    let asking = Asking::beside(node, &owner, group).await?;
    let keys: Arc<[(usize, String)]> = (0..KEYS).map(|number| (size(number), remote_key(&asking, number))).collect();
    say("met");
    let (counts, stop) = (Arc::new(Counts::default()), Arc::new(AtomicBool::new(false)));
    let mut tasks = JoinSet::new();
    while let Some(order) = orders.next().await {
        match order.as_str() {
            "held" => say_held(),
            "fill" => {
                for (size, key) in keys.iter() {
                    counts.count(*size, asking.get(key).await)?;
                }
                say("filled");
            }
            "begin" => {
                for task in 0..IN_FLIGHT {
                    let (asking, keys) = (asking.clone(), Arc::clone(&keys));
                    tasks.spawn(get_some(asking, keys, Dice(task), Arc::clone(&counts), Arc::clone(&stop)));
                }
                say("begun");
            }
            "end" => {
                stop.store(true, Ordering::Relaxed);
                while let Some(task) = tasks.join_next().await {
                    task??;
                }
                say(&counts.text());
            }
            "clear" => {
                cleared.clear().await?.everywhere()?;
                say("cleared");
            }
            other => bail!("what is {other:?}?"),
        }
    }
    Ok(())
}

/// Gets keys at random until told to stop.
async fn get_some(
    asking: Asking,
    keys: Arc<[(usize, String)]>,
    mut dice: Dice,
    counts: Arc<Counts>,
    stop: Arc<AtomicBool>,
) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        let at = usize::try_from(dice.throw() % u64::from(KEYS))?;
        let (size, key) = &keys[at];
        counts.count(*size, asking.get(key).await)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_reach_from_one_byte_to_sixteen_mebibytes() {
        assert_eq!((size(0), size(KEYS - 1)), (1, 16 << 20));
        let large = (0..KEYS).filter(|number| size(*number) > 1 << 20).count();
        assert!((50..200).contains(&large), "{large} large values");
    }
}
