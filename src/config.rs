//! Options, their defaults, and their checks.
//!
//! Everything is checked once, at the door: where a node starts and where a group is built. What is past the door can
//! rely on it.

use std::time::Duration;

use crate::error::ConfigError;

/// What a group can be told. The builder's methods document each.
#[derive(Clone, Debug)]
pub(crate) struct GroupConfig {
    pub(crate) capacity: usize,
    pub(crate) hot_share: f64,
    pub(crate) time_to_live: Option<Duration>,
    pub(crate) not_found_time_to_live: Duration,
    pub(crate) refresh_after: Option<Duration>,
    pub(crate) grace: Duration,
    pub(crate) jitter: f64,
    pub(crate) timeout: Duration,
    pub(crate) load_timeout: Duration,
    pub(crate) load_queue_timeout: Duration,
    pub(crate) max_concurrent_loads: usize,
    pub(crate) max_queued_loads: usize,
    pub(crate) removal_timeout: Duration,
    pub(crate) source_lag: Duration,
    pub(crate) schema: u32,
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self {
            capacity: 64 << 20,
            hot_share: 0.25,
            time_to_live: None,
            not_found_time_to_live: Duration::from_secs(5),
            refresh_after: None,
            grace: Duration::ZERO,
            jitter: 0.1,
            timeout: Duration::from_secs(15),
            load_timeout: Duration::from_secs(10),
            load_queue_timeout: Duration::from_secs(5),
            max_concurrent_loads: 64,
            max_queued_loads: 10_000,
            removal_timeout: Duration::from_secs(1),
            source_lag: Duration::ZERO,
            schema: 0,
        }
    }
}

impl GroupConfig {
    /// The smallest capacity: below it not even the bookkeeping of a few entries fits.
    const MIN_CAPACITY: usize = 4 << 10;

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        at_least("capacity", self.capacity, Self::MIN_CAPACITY, "give at least 4096 bytes")?;
        at_least("max_concurrent_loads", self.max_concurrent_loads, 1, "give at least 1")?;
        fraction("hot_share", self.hot_share)?;
        fraction("jitter", self.jitter)?;
        not_zero("timeout", self.timeout)?;
        not_zero("load_timeout", self.load_timeout)?;
        not_zero("load_queue_timeout", self.load_queue_timeout)?;
        not_zero("removal_timeout", self.removal_timeout)?;
        self.time_to_live.map_or(Ok(()), |life| not_zero("time_to_live", life))?;
        let Some(refresh) = self.refresh_after else { return Ok(()) };
        not_zero("refresh_after", refresh)?;
        if self.time_to_live.is_some_and(|life| refresh >= life) {
            let advice = "give less than `time_to_live`: what has expired is not refreshed, it is loaded again";
            return Err(ConfigError::InvalidOption { option: "refresh_after", value: format!("{refresh:?}"), advice });
        }
        Ok(())
    }

    /// How long a load can take, from when it lines up: its wait there, and a call of the loader, or two if a removal
    /// overtakes it.
    pub(crate) fn longest_load(&self) -> Duration {
        self.load_queue_timeout.saturating_add(self.load_timeout.saturating_mul(2))
    }

    /// A life shortened by up to the jitter, so that what was loaded together does not expire together. `dice` is in
    /// `[0, 1)`. Never lengthened: a limit is a limit.
    pub(crate) fn jittered(&self, life: Duration, dice: f64) -> Duration {
        // The longest lives do not survive the way through a float: unshortened, they are as they were.
        let shortened = life.as_secs_f64() * (1.0 - self.jitter * dice);
        Duration::try_from_secs_f64(shortened).map_or(life, |shortened| shortened.min(life))
    }
}

/// What a node can be told, besides who it is.
#[derive(Clone, Debug)]
pub(crate) struct NodeConfig {
    pub(crate) cluster: String,
    pub(crate) max_value_bytes: usize,
    pub(crate) connect_timeout: Duration,
    pub(crate) keep_alive_interval: Duration,
    pub(crate) keep_alive_timeout: Duration,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            cluster: String::from("default"),
            max_value_bytes: 16 << 20,
            connect_timeout: Duration::from_secs(1),
            keep_alive_interval: Duration::from_secs(1),
            keep_alive_timeout: Duration::from_secs(1),
        }
    }
}

impl NodeConfig {
    /// The largest `max_value_bytes`: a gRPC message carries its length in 32 bits, and a value shares it with its key.
    const MAX_VALUE_BYTES: usize = 1 << 30;

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        at_least("max_value_bytes", self.max_value_bytes, 1, "give at least 1 byte")?;
        if self.max_value_bytes > Self::MAX_VALUE_BYTES {
            return Err(invalid("max_value_bytes", &self.max_value_bytes, "give at most 1 GiB"));
        }
        if self.cluster.len() > 255 {
            return Err(invalid("cluster", &self.cluster, "give at most 255 bytes"));
        }
        not_zero("connect_timeout", self.connect_timeout)?;
        not_zero("keep_alive_interval", self.keep_alive_interval)?;
        not_zero("keep_alive_timeout", self.keep_alive_timeout)
    }
}

fn invalid(option: &'static str, value: &dyn ToString, advice: &'static str) -> ConfigError {
    ConfigError::InvalidOption { option, value: value.to_string(), advice }
}

pub(crate) fn at_least(
    option: &'static str,
    value: usize,
    least: usize,
    advice: &'static str,
) -> Result<(), ConfigError> {
    if value < least { Err(invalid(option, &value, advice)) } else { Ok(()) }
}

fn not_zero(option: &'static str, value: Duration) -> Result<(), ConfigError> {
    if value.is_zero() { Err(invalid(option, &"zero", "give a duration above zero")) } else { Ok(()) }
}

fn fraction(option: &'static str, value: f64) -> Result<(), ConfigError> {
    if (0.0..=1.0).contains(&value) { Ok(()) } else { Err(invalid(option, &value, "give a fraction from 0.0 to 1.0")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_pass_their_own_checks() {
        GroupConfig::default().check().unwrap();
        NodeConfig::default().check().unwrap();
    }

    /// Seconds to live, and up to the refresh.
    fn lives(hard: u64, soft: u64) -> GroupConfig {
        let [time_to_live, refresh_after] = [hard, soft].map(|seconds| Some(Duration::from_secs(seconds)));
        GroupConfig { time_to_live, refresh_after, ..GroupConfig::default() }
    }

    #[test]
    fn a_refresh_before_the_end_passes_and_one_of_what_has_no_end() {
        lives(60, 59).check().unwrap();
        GroupConfig { time_to_live: None, ..lives(60, 600) }.check().unwrap();
    }

    #[test]
    fn what_cannot_be_is_refused_with_advice() {
        for (case, config) in [
            ("no capacity", GroupConfig { capacity: 0, ..GroupConfig::default() }),
            ("no loads", GroupConfig { max_concurrent_loads: 0, ..GroupConfig::default() }),
            ("more than everything hot", GroupConfig { hot_share: 1.5, ..GroupConfig::default() }),
            ("not a number", GroupConfig { jitter: f64::NAN, ..GroupConfig::default() }),
            ("no time", GroupConfig { timeout: Duration::ZERO, ..GroupConfig::default() }),
            ("a refresh at once", GroupConfig { refresh_after: Some(Duration::ZERO), ..GroupConfig::default() }),
            ("a refresh when it is too late", lives(60, 60)),
            ("a refresh later than that", lives(60, 61)),
            ("no life", GroupConfig { time_to_live: Some(Duration::ZERO), ..GroupConfig::default() }),
        ] {
            let error = config.check().expect_err(case);
            assert!(error.to_string().contains("give"), "{case}: {error}");
        }
    }

    #[test]
    fn jitter_only_shortens() {
        let config = GroupConfig { jitter: 0.2, ..GroupConfig::default() };
        let life = Duration::from_secs(100);
        assert_eq!(config.jittered(life, 0.0), life);
        assert_eq!(config.jittered(life, 0.5), Duration::from_secs(90));
    }

    #[test]
    fn a_life_without_end_has_none_with_and_without_jitter() {
        for jitter in [0.0, 0.5] {
            let config = GroupConfig { jitter, ..GroupConfig::default() };
            assert_eq!(config.jittered(Duration::MAX, 0.0), Duration::MAX);
            assert!(config.jittered(Duration::MAX, 0.9) >= Duration::MAX / 2);
        }
    }
}
