//! The floors hold: a file imports from its own floor or from those below, never upwards, and the core is pure.
//!
//! `ARCHITECTURE.md` has the picture. The test reads the imports of the sources as text.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms of each floor, from the ground up. A room is a file of `src/`, or a folder.
const FLOORS: [&[&str]; 6] = [
    &["codec", "config", "entry", "error", "key", "lifespan", "member", "removal", "scatter", "stats", "time"],
    &["batch", "encoded", "membership", "message", "placement", "queue", "removals", "route", "store", "tags", "token"],
    &[
        "clock",
        "coherence",
        "flight",
        "hits",
        "loader",
        "planted",
        "pulse",
        "receipt",
        "shards",
        "spin",
        "sync",
        "tasks",
        "threads",
        "transport",
        "turns",
        "wakes",
    ],
    &["calls", "grpc", "memory", "peers", "wire"],
    &["group"],
    &["node", "simulation"],
];

/// What floor 1 must not mention: tasks, locks, clocks, dice.
const IMPURE: [&str; 7] = ["tokio", "Mutex", "RwLock", "Instant::", "SystemTime", "fastrand", "crate::clock"];

fn floor(room: &str) -> usize {
    FLOORS
        .iter()
        .position(|rooms| rooms.contains(&room))
        .unwrap_or_else(|| panic!("{room} stands on no floor: give it one here and in ARCHITECTURE.md"))
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

/// Every source file but the crate's front page and the files of tests: its room, and its text up to its tests, without
/// comments.
fn rooms() -> Vec<(String, PathBuf, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let is_of_tests =
        |path: &Path| path.ends_with("tests.rs") || path.parent().is_some_and(|room| room.ends_with("tests"));
    let files = sources(&src).into_iter().filter(|path| !path.ends_with("lib.rs") && !is_of_tests(path));
    files
        .map(|path| {
            let inside = path.strip_prefix(&src).unwrap().to_path_buf();
            let first = inside.components().next().unwrap().as_os_str().to_str().unwrap().to_string();
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
            let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
            (first.trim_end_matches(".rs").to_string(), inside, lines.collect::<Vec<_>>().join("\n"))
        })
        .collect()
}

/// The rooms that a text names as `crate::room`.
fn imports(text: &str) -> BTreeSet<&str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split("crate::").skip(1).map(|rest| rest.split(|c| !is_name(c)).next().unwrap()).collect()
}

#[test]
fn no_import_goes_upwards() {
    let rooms = rooms();
    assert!(rooms.len() > 30, "only {} files were found", rooms.len());
    let mut looked_at = 0;
    for (room, path, text) in &rooms {
        for import in imports(text) {
            assert!(floor(import) <= floor(room), "{} imports {import}, which stands above it", path.display());
            looked_at += 1;
        }
    }
    assert!(looked_at > 100, "only {looked_at} imports were found");
}

#[test]
fn the_core_knows_no_tasks_no_locks_no_clock_and_no_dice() {
    for (room, path, text) in rooms().iter().filter(|(room, ..)| FLOORS[1].contains(&room.as_str())) {
        for word in IMPURE {
            assert!(!text.contains(word), "{} of the pure room {room} mentions {word}", path.display());
        }
    }
}

#[test]
fn every_room_is_on_the_map() {
    let map = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md")).unwrap();
    for (_, path, _) in rooms() {
        let line = format!("\nsrc/{} ", path.display());
        assert!(map.contains(&line), "{} has no line of its own in ARCHITECTURE.md", path.display());
    }
}
