//! The report as people read it.

use std::fmt;

use comfy_table::{CellAlignment, LineStyle, Table, TableStyle};

use crate::driver::VICTIM;
use crate::options::Options;
use crate::report::{Latency, ROWS, Report};
use crate::tally::PhaseCounts;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\nHow {} requests were answered, and how long it took in ms\n{}",
            grouped(self.requests),
            self.ways_table()
        )?;
        writeln!(f, "\nWhat each node did\n{}", self.nodes_table())?;
        writeln!(f, "\nAround the kill of node {}\n{}", VICTIM + 1, self.phases_table())?;
        writeln!(f, "\n{}", self.summary())?;
        self.complaints.iter().try_for_each(|complaint| writeln!(f, "! {complaint}"))
    }
}

impl Report {
    fn ways_table(&self) -> Table {
        let mut table = table(&["answered by", "requests", "share", "p50", "p90", "p99", "max"]);
        for ((_, label, _), row) in ROWS.iter().zip(&self.ways) {
            let Latency { p50, p90, p99, max } = row.latency_us;
            let [p50, p90, p99, max] = [p50, p90, p99, max].map(milliseconds);
            table.add_row([(*label).into(), grouped(row.requests), percent(row.share), p50, p90, p99, max]);
        }
        table
    }

    fn nodes_table(&self) -> Table {
        let columns =
            ["node", "requests", "own cache", "a peer", "the database", "no such", "queries", "share of the keys"];
        let mut table = table(&columns);
        for row in &self.nodes {
            let counts = [row.requests, row.from_own_cache, row.from_peer, row.from_database, row.not_found];
            let counts = counts.into_iter().chain([row.database_queries as u64]).map(grouped);
            let name = format!("{} ({})", row.node, row.address);
            table.add_row([name].into_iter().chain(counts).chain([percent(row.share_of_keys)]));
        }
        table
    }

    fn phases_table(&self) -> Table {
        let columns =
            ["", "seconds", "requests", "failed", "wrong", "sent elsewhere", "queries", "of new keys", "extra"];
        let mut table = table(&columns);
        for row in &self.phases {
            let PhaseCounts { requests, failed, wrong, resent } = row.counts;
            let counts = [requests, failed, wrong, resent, row.database_queries, row.first_queries, row.extra_queries];
            table.add_row([row.phase.clone(), format!("{:.1}", row.seconds)].into_iter().chain(counts.map(grouped)));
        }
        table
    }

    fn summary(&self) -> String {
        let Options { seed, skew, workers, query_ms, .. } = self.options;
        let [requests, rate, failed, wrong] =
            [self.requests, self.requests_per_second as u64, self.failed, self.wrong].map(grouped);
        let [keys, queries, extra] =
            [self.distinct_keys as u64, self.database_queries, self.queries_around_kill].map(grouped);
        let per_key = self.queries_per_distinct_key;
        let seconds = self.seconds;
        format!(
            "{requests} requests in {seconds:.1} s, {rate} a second: {failed} failed, {wrong} answered wrongly.\n\
             {keys} distinct keys, {queries} database queries, {per_key:.2} per key: {extra} of them extra, from the kill on.\n\
             The same again: --requests {} --workers {workers} --seed {seed} --skew {skew} --query-ms {query_ms}",
            self.options.requests,
        )
    }
}

/// One line below the header, and no others.
const STYLE: TableStyle = TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// A table whose first column is text, and the others numbers.
fn table(columns: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(STYLE).set_header(columns);
    table.column_iter_mut().skip(1).for_each(|column| {
        column.set_cell_alignment(CellAlignment::Right);
    });
    table
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn milliseconds(microseconds: u64) -> String {
    format!("{:.2}", microseconds as f64 / 1_000.0)
}

/// 1234567 as 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(|group| String::from_utf8_lossy(group)).collect();
    groups.join(",")
}
