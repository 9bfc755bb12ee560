//! What happened in a run, as one number.

use std::fmt::{self, Write};
use std::hash::Hasher;

use siphasher::sip::SipHasher13;

/// Sums up what happened, in order: two runs in which the same was noted have the same hash.
///
/// ```
/// # use peerage::simulation::Trace;
/// let mut trace = Trace::new();
/// trace.note(format_args!("node {} is asked for {}", 1, "user:42"));
/// println!("{:016x}", trace.hash());
/// ```
#[derive(Clone, Default)]
pub struct Trace {
    hasher: SipHasher13,
    notes: u64,
    kept: Option<Vec<String>>,
}

impl Trace {
    /// A trace that keeps nothing but the hash.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A trace that keeps the notes too, to be read.
    #[must_use]
    pub fn keeping() -> Self {
        Self { kept: Some(Vec::new()), ..Self::default() }
    }

    /// Something happened. The time is for whoever notes it to add.
    pub fn note(&mut self, what: fmt::Arguments<'_>) {
        self.notes += 1;
        // Writing to a hasher does not fail; a value that cannot be shown is cut short in every run alike.
        let _ = Hashed(&mut self.hasher).write_fmt(what);
        self.hasher.write_u8(0xff);
        if let Some(kept) = &mut self.kept {
            kept.push(what.to_string());
        }
    }

    /// The sum of all that was noted.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hasher.finish()
    }

    /// How much was noted.
    #[must_use]
    pub fn notes(&self) -> u64 {
        self.notes
    }

    /// The notes themselves, if they are kept.
    #[must_use]
    pub fn kept(&self) -> &[String] {
        self.kept.as_deref().unwrap_or_default()
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trace({} notes, {:016x})", self.notes, self.hash())
    }
}

struct Hashed<'a>(&'a mut SipHasher13);

impl Write for Hashed<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}
