//! What is printed.

/// One line of the table.
pub struct Row {
    what: String,
    target: String,
    figure: String,
    met: Option<bool>,
    how: String,
}

impl Row {
    /// A figure that has a target.
    pub fn new(what: &str, target: &str, figure: &str, met: bool, how: &str) -> Self {
        Self { met: Some(met), ..Self::plain(what, figure, how).with_target(target) }
    }

    /// A figure to compare others with.
    pub fn plain(what: &str, figure: &str, how: &str) -> Self {
        Self {
            what: what.to_owned(),
            target: String::new(),
            figure: figure.to_owned(),
            met: None,
            how: how.to_owned(),
        }
    }

    /// What could not be measured, and why.
    pub fn missing(what: &str, why: &str) -> Self {
        Self::plain(what, "cannot run", why)
    }

    fn with_target(self, target: &str) -> Self {
        Self { target: target.to_owned(), ..self }
    }

    fn cells(&self) -> [&str; 5] {
        let met = self.met.map_or("", |met| if met { "yes" } else { "NO" });
        [&self.what, &self.target, &self.figure, met, &self.how]
    }
}

/// As Markdown, its columns as wide as they must be.
pub fn print(rows: &[Row]) {
    let head = ["what", "target", "figure", "met", "how"];
    let cells: Vec<[&str; 5]> = rows.iter().map(Row::cells).collect();
    let width = |column: usize| {
        let all = cells.iter().chain(std::iter::once(&head));
        all.map(|row| row[column].chars().count()).max().unwrap_or(0)
    };
    let widths = [width(0), width(1), width(2), width(3), 0];
    let line = |row: &[&str; 5]| {
        let padded: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        println!("| {} |", padded.join(" | "));
    };
    println!();
    line(&head);
    println!("|{}|", widths.map(|width| "-".repeat(width.max(1) + 2)).join("|"));
    for row in &cells {
        line(row);
    }
    println!();
}
