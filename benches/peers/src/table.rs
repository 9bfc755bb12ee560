//! Tables on the terminal, with aligned columns.

use std::fmt;

/// Rows of cells; the first column is flush left, the others are flush right.
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
        (0..columns).map(|column| self.rows.iter().map(|row| width(row, column)).max().unwrap_or(0)).collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        writeln!(f, "\n{}", self.title)?;
        for row in &self.rows {
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                if column == 0 { write!(f, "  {cell:<width$}")? } else { write!(f, "  {cell:>width$}")? }
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

/// Nanoseconds as microseconds.
pub fn micros(nanos: f64) -> String {
    let micros = nanos / 1_000.0;
    if micros < 100.0 { format!("{micros:.1} us") } else { format!("{micros:.0} us") }
}
