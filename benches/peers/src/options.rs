//! The command line, and how much each wish for speed measures.

use std::time::Duration;

use anyhow::{Result, bail};
use lexopt::prelude::{Long, Value, ValueExt};

use crate::contenders::Kind;
use crate::hits::caches;

/// What to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Everything that ends in the report's last line.
    Report,
    /// Remote gets alone.
    Remote,
    /// One in flight, both sides on one core.
    Pinned,
    /// In-process hits alone.
    Hits,
    /// Bytes per entry alone.
    Bytes,
    /// A taste of the hit ratios alone.
    Ratios,
    /// Hits beside slow loads.
    Slow,
    /// Small gets beside large values.
    Large,
    /// Memory under load, for a long time.
    Soak,
}

impl Part {
    const NAMES: [(&str, Self); 8] = [
        ("remote", Self::Remote),
        ("pinned", Self::Pinned),
        ("hits", Self::Hits),
        ("bytes", Self::Bytes),
        ("ratios", Self::Ratios),
        ("slow", Self::Slow),
        ("large", Self::Large),
        ("soak", Self::Soak),
    ];

    fn of(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(of, _)| *of == name).map(|(_, part)| *part)
    }
}

/// How thorough to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// One tiny round of everything: does it still run?
    Moment,
    /// What the ratios need, within three minutes.
    Quick,
    /// All tables.
    Full,
}

/// The command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// How thorough to be.
    pub effort: Effort,
    /// What to run.
    pub part: Part,
    /// Who takes part.
    pub kinds: Vec<Kind>,
    /// Sizes and numbers in flight, if not those of the effort.
    pub cells: Option<Vec<(usize, usize)>>,
    /// How long the soak takes.
    pub soak: Option<Duration>,
    /// How long who gets from another process rests after each get.
    pub gap: Duration,
}

/// What `--help` says.
pub const HELP: &str = "\
peers [--quick | --moment] [PART] [options]

Without a part: everything, and as the last line one JSON object with the ratios.
PART: remote, pinned, hits, bytes, ratios; slow and large, not with --quick; soak, only when asked for or for a moment.

  --quick            within three minutes
  --moment           one tiny round of everything
  --only A,B         of peerage, exchange, tcp, redis, memcached, unary, groupcache
  --sizes 100,1024   bytes of remote values (100, 1024, 16384)
  --in-flight 1,64   remote gets under way, up to 1024
  --gap N            milliseconds of rest after each remote get
  --seconds N        how long the soak takes; 600 unless told";

impl Options {
    /// Reads the arguments; none if help was asked for.
    pub fn parse(mut args: lexopt::Parser) -> Result<Option<Self>> {
        let (kinds, gap) = (Kind::ALL.to_vec(), Duration::ZERO);
        let mut options = Self { effort: Effort::Full, part: Part::Report, kinds, cells: None, soak: None, gap };
        let (mut sizes, mut in_flight) = (None, None);
        while let Some(arg) = args.next()? {
            match arg {
                Long("help") => return Ok(None),
                Long("quick") => options.effort = Effort::Quick,
                Long("moment") => options.effort = Effort::Moment,
                Long("only") => options.kinds = list(&mut args, Kind::of)?,
                Long("sizes") => sizes = Some(list(&mut args, |word| word.parse().ok())?),
                Long("in-flight") => in_flight = Some(list(&mut args, |word| word.parse().ok())?),
                Long("gap") => options.gap = Duration::from_millis(args.value()?.parse()?),
                Long("seconds") => options.soak = Some(Duration::from_secs(args.value()?.parse()?)),
                Value(name) => match name.to_str().and_then(Part::of) {
                    Some(part) => options.part = part,
                    None => bail!("there is no part {}; see --help", name.display()),
                },
                other => return Err(other.unexpected().into()),
            }
        }
        if sizes.is_some() || in_flight.is_some() {
            let in_flight = in_flight.unwrap_or_else(|| vec![16, 64, 256]);
            let sizes = sizes.unwrap_or_else(|| vec![1 << 10]);
            let cells = sizes.iter().flat_map(|size| in_flight.iter().map(|in_flight| (*size, *in_flight)));
            options.cells = Some(cells.collect());
        }
        Ok(Some(options))
    }

    /// Sizes and numbers in flight to measure.
    pub fn cells(&self) -> Vec<(usize, usize)> {
        let all = |sizes: &[usize], in_flight: &[usize]| {
            sizes.iter().flat_map(|size| in_flight.iter().map(|in_flight| (*size, *in_flight))).collect()
        };
        match (&self.cells, self.effort) {
            (Some(cells), _) => cells.clone(),
            (None, Effort::Moment) => vec![(1 << 10, 16)],
            (None, Effort::Quick) => vec![(1 << 10, 16), (1 << 10, 64), (1 << 10, 256), (16 << 10, 64)],
            (None, Effort::Full) => all(&[100, 1 << 10, 16 << 10], &[1, 16, 64, 256, 1024]),
        }
    }

    /// How many rounds.
    pub fn rounds(&self) -> usize {
        if self.effort == Effort::Moment { 1 } else { 5 }
    }

    /// How long a measurement of remote gets counts.
    pub fn window(&self) -> Duration {
        Duration::from_millis(match self.effort {
            Effort::Moment => 20,
            Effort::Quick => 300,
            Effort::Full => 600,
        })
    }

    /// How long a measurement of hits counts.
    pub fn hits_window(&self) -> Duration {
        Duration::from_millis(match self.effort {
            Effort::Moment => 5,
            Effort::Quick => 80,
            Effort::Full => 300,
        })
    }

    /// Whether a contender is also measured on one core; quickly, those that the ratios name.
    pub fn pins(&self, kind: Kind) -> bool {
        self.effort != Effort::Quick || !matches!(kind, Kind::Memcached | Kind::Groupcache)
    }

    /// The caches in the own process; quickly, without the second of moka's, which is also inside groupcache.
    pub fn caches(&self) -> &'static [&'static str] {
        let all = &caches::NAMES;
        if self.effort == Effort::Quick { &all[..all.len() - 1] } else { all }
    }

    /// The caches that are weighed.
    pub fn weighed(&self) -> &'static [&'static str] {
        if self.effort == Effort::Quick { &caches::NAMES[..4] } else { &caches::NAMES }
    }

    /// How long the soak takes.
    pub fn soak(&self) -> Duration {
        let seconds = if self.effort == Effort::Moment { 2 } else { 600 };
        self.soak.unwrap_or(Duration::from_secs(seconds))
    }

    /// How many entries a cache holds, for its hits and for what they weigh.
    pub fn entries(&self) -> u32 {
        if self.effort == Effort::Moment { 5_000 } else { 1_000_000 }
    }
}

fn list<T>(args: &mut lexopt::Parser, of: impl Fn(&str) -> Option<T>) -> Result<Vec<T>> {
    let words = args.value()?.string()?;
    words.split(',').map(|word| of(word).ok_or_else(|| anyhow::anyhow!("what is {word:?}? see --help"))).collect()
}
