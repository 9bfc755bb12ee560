//! Tables with aligned columns: to be read on the terminal, and Markdown to be pasted as they are.

use std::fmt;

/// Rows of cells, the first one the head; the first column is flush left, the others are flush right.
#[derive(Debug)]
pub struct Table {
    title: String,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    pub fn new<C: Into<String>>(title: impl Into<String>, columns: impl IntoIterator<Item = C>) -> Self {
        Self { title: title.into(), rows: vec![columns.into_iter().map(Into::into).collect()] }
    }

    /// One more row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    fn widths(&self) -> Vec<usize> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |row: &Vec<String>, column: usize| row.get(column).map_or(0, |cell| cell.chars().count());
        // Markdown wants three dashes under a head.
        (0..columns).map(|column| self.rows.iter().map(|row| width(row, column)).fold(3, usize::max)).collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        // A colon at the end says flush right.
        let rule = widths.iter().enumerate().map(|(column, width)| match column {
            0 => "-".repeat(*width),
            _ => format!("{}:", "-".repeat(width - 1)),
        });
        let (rule, (head, rows)) = (rule.collect(), self.rows.split_at(1));
        writeln!(f, "\n{}\n", self.title)?;
        for row in head.iter().chain([&rule]).chain(rows) {
            for (column, width) in widths.iter().enumerate() {
                let cell = row.get(column).map_or("", String::as_str);
                if column == 0 { write!(f, "| {cell:<width$} |")? } else { write!(f, " {cell:>width$} |")? }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// A count in thousands, or as it is if that would be less than ten.
pub fn thousands(number: f64) -> String {
    if number < 10_000.0 { format!("{number:.0}") } else { format!("{:.0} k", number / 1_000.0) }
}

/// A size in KiB if it is a number of them.
pub fn bytes(count: usize) -> String {
    if count.is_multiple_of(1024) { format!("{} KiB", count / 1024) } else { format!("{count} B") }
}

/// Nanoseconds as microseconds.
pub fn micros(nanos: f64) -> String {
    let micros = nanos / 1_000.0;
    if micros < 100.0 { format!("{micros:.1} µs") } else { format!("{micros:.0} µs") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_markdown_and_aligned() {
        let mut table = Table::new("gets", ["", "p50", "CPU"]);
        table.row(["peerage", "45.0 µs", "2.7"].map(String::from));
        table.row(["tcp", "9.0 µs"].map(String::from));
        let lines = [
            "",
            "gets",
            "",
            "|         |     p50 | CPU |",
            "| ------- | ------: | --: |",
            "| peerage | 45.0 µs | 2.7 |",
            "| tcp     |  9.0 µs |     |",
        ];
        assert_eq!(table.to_string().lines().collect::<Vec<_>>(), lines);
    }
}
