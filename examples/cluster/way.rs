//! How a service came by an answer, as it tells in a header and the driver counts.

use peerage::Source;

/// Where an answer came from, seen from the service that was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Its own cache: it owns the key.
    Main,
    /// Its own cache: a copy of a popular key that another node owns.
    Hot,
    /// The node that owns the key.
    Peer,
    /// Its own loader, and so the database.
    Loader,
    /// There is no such airport. peerage remembers that too; who knew it is not told.
    Absent,
}

impl Way {
    pub(crate) const HEADER: &str = "x-cache";
    pub(crate) const ALL: [Self; 5] = [Self::Main, Self::Hot, Self::Peer, Self::Loader, Self::Absent];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Hot => "hot",
            Self::Peer => "peer",
            Self::Loader => "loader",
            Self::Absent => "absent",
        }
    }

    pub(crate) fn from_header(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|way| way.as_str() == text)
    }

    pub(crate) fn of(source: &Source) -> Self {
        match source {
            Source::Main => Self::Main,
            Source::Hot => Self::Hot,
            Source::Peer(_) => Self::Peer,
            _ => Self::Loader,
        }
    }
}
