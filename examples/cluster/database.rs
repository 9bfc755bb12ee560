//! The source of truth: one SQLite file of airports, which all services read and nobody writes while they run.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params_from_iter};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::journal::Journal;

const CSV: &str = include_str!("../data/airports.csv");

const SCHEMA: &str = "
    CREATE TABLE airports (
        iata TEXT PRIMARY KEY, icao TEXT, name TEXT, city TEXT, subd TEXT, country TEXT,
        elevation REAL, lat REAL, lon REAL, tz TEXT
    ) STRICT";

/// How many queries one service runs at once.
const CONNECTIONS: usize = 4;

/// One airport. `examples/data/README.md` says what the fields mean.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Airport {
    pub(crate) iata: String,
    pub(crate) icao: String,
    pub(crate) name: String,
    pub(crate) city: String,
    pub(crate) subd: String,
    pub(crate) country: String,
    pub(crate) elevation: f64,
    pub(crate) lat: f64,
    pub(crate) lon: f64,
    pub(crate) tz: String,
}

impl Airport {
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            iata: row.get("iata")?,
            icao: row.get("icao")?,
            name: row.get("name")?,
            city: row.get("city")?,
            subd: row.get("subd")?,
            country: row.get("country")?,
            elevation: row.get("elevation")?,
            lat: row.get("lat")?,
            lon: row.get("lon")?,
            tz: row.get("tz")?,
        })
    }
}

/// Makes the database file. The driver does so once, before any service runs.
pub(crate) fn create(path: &Path) -> Result<()> {
    let mut connection = Connection::open(path).with_context(|| format!("cannot make {}", path.display()))?;
    connection.execute_batch(SCHEMA)?;
    let insertion = connection.transaction()?;
    {
        let mut insert = insertion.prepare("INSERT INTO airports VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")?;
        for record in csv::Reader::from_reader(CSV.as_bytes()).records() {
            insert.execute(params_from_iter(&record?))?;
        }
    }
    Ok(insertion.commit()?)
}

/// Reads all of the database at once: what the driver checks the answers by.
pub(crate) fn read_all(path: &Path) -> Result<HashMap<String, Airport>> {
    let connection = open_for_reading(path)?;
    let mut all = connection.prepare("SELECT * FROM airports")?;
    let airports = all.query_map([], Airport::from_row)?;
    airports.map(|airport| airport.map(|airport| (airport.iata.clone(), airport)).map_err(Into::into)).collect()
}

fn open_for_reading(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(path, flags).with_context(|| format!("cannot open {}", path.display()))
}

/// A service's way to the database: a few connections, and a journal of what they were used for.
#[derive(Debug)]
pub(crate) struct Database {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    permits: Semaphore,
    journal: Journal,
    pause: Duration,
}

impl Database {
    /// Each query takes `pause` longer than SQLite needs.
    pub(crate) fn open(path: &Path, journal: &Path, pause: Duration) -> Result<Arc<Self>> {
        Ok(Arc::new(Self {
            path: path.to_path_buf(),
            idle: Mutex::default(),
            permits: Semaphore::new(CONNECTIONS),
            journal: Journal::open(journal).with_context(|| format!("cannot open {}", journal.display()))?,
            pause,
        }))
    }

    /// The airport of this code as JSON, or `None` if there is none.
    pub(crate) async fn find(self: Arc<Self>, code: String) -> Result<Option<String>> {
        let _permit = self.permits.acquire().await?;
        if !self.pause.is_zero() {
            tokio::time::sleep(self.pause).await;
        }
        let database = Arc::clone(&self);
        tokio::task::spawn_blocking(move || database.query(&code)).await?
    }

    /// SQLite reads files, which blocks: never call this from async code.
    fn query(&self, code: &str) -> Result<Option<String>> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = idle.map_or_else(|| open_for_reading(&self.path), Ok)?;
        self.journal.note(code)?;
        let airport = connection
            .prepare_cached("SELECT * FROM airports WHERE iata = ?")?
            .query_row([code], Airport::from_row)
            .optional()?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        Ok(airport.map(|airport| serde_json::to_string(&airport)).transpose()?)
    }
}
