//! Processor time of processes, and on which core they may run.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_setaffinity};

/// The processor time that these processes have used so far.
///
/// From the scheduler's own account of each thread, in nanoseconds: what `stat` tells is in hundredths of a second,
/// which is coarse for a window of less than one. Threads that have ended are not in it; none of those measured here
/// ends while it is.
pub fn used(processes: &[u32]) -> Result<Duration> {
    processes.iter().map(|process| of(*process)).sum()
}

fn of(process: u32) -> Result<Duration> {
    let threads = format!("/proc/{process}/task");
    let mut total = 0;
    for thread in fs::read_dir(&threads).context(threads)? {
        // A thread may end between the listing and the look.
        let Ok(account) = fs::read_to_string(thread?.path().join("schedstat")) else { continue };
        let nanos = account.split_whitespace().next().context("an empty schedstat")?;
        total += nanos.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(total))
}

/// What a process holds in memory, in bytes, as the kernel sees it.
pub fn resident(process: u32) -> Result<u64> {
    let status = format!("/proc/{process}/status");
    let text = fs::read_to_string(&status).context(status)?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse()?;
    Ok(kib << 10)
}

/// Keeps this thread, and the threads that it will start, on one core.
pub fn pin(core: usize) -> Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    Ok(sched_setaffinity(None, &cores)?)
}
