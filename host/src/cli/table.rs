//! Plain tables: columns as wide as their widest cell, two blanks between them.

/// Rows under a header. Cells of a missing value are `-`.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(header: &[&str]) -> Self {
        Self {
            rows: vec![header.iter().map(|h| (*h).to_owned()).collect()],
        }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells = cells
            .into_iter()
            .map(|c| if c.is_empty() { "-".into() } else { c });
        self.rows.push(cells.collect());
    }

    /// The table as text, or a sentence if it has no rows.
    pub(super) fn or_if_empty(self, sentence: &str) -> String {
        if self.rows.len() == 1 {
            format!("{sentence}\n")
        } else {
            self.text()
        }
    }

    pub(super) fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|r| r.get(column))
                .map(|c| c.chars().count())
                .max()
        };
        let widths: Vec<usize> = (0..columns).map(|c| width(c).unwrap_or(0)).collect();
        let mut out = String::new();
        for row in &self.rows {
            let cells = row
                .iter()
                .zip(&widths)
                .map(|(cell, w)| format!("{cell:<w$}"));
            out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn columns_line_up_and_missing_values_show() {
        let mut table = Table::new(&["NAME", "N"]);
        table.row(["long name".into(), "1".into()]);
        table.row([String::new(), "20".into()]);
        assert_eq!(table.text(), "NAME       N\nlong name  1\n-          20\n");
    }

    #[test]
    fn an_empty_table_is_a_sentence() {
        assert_eq!(Table::new(&["NAME"]).or_if_empty("None."), "None.\n");
    }
}
