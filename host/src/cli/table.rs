//! Plain tables: columns as wide as their widest cell, two blanks between them. On a
//! terminal they fit it: the widest columns give way, and their cells go on below.

use std::io::IsTerminal as _;

/// Blanks between two columns.
const GAP: usize = 2;
/// No column gives way further than this.
const NARROWEST: usize = 12;

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
        self.fitted(columns_of_terminal())
    }

    /// A row a line if there is no bound.
    fn fitted(&self, bound: Option<usize>) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|r| r.get(column));
            cells.map(|c| c.chars().count()).max()
        };
        let mut widths: Vec<usize> = (0..columns).map(|c| width(c).unwrap_or(0)).collect();
        if let Some(bound) = bound {
            shrink(
                &mut widths,
                bound.saturating_sub(GAP * columns.saturating_sub(1)),
            );
        }
        let mut out = String::new();
        for row in &self.rows {
            let cells: Vec<Vec<String>> = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| pieces(cell, *width))
                .collect();
            for line in 0..cells.iter().map(Vec::len).max().unwrap_or(0) {
                let parts = cells.iter().zip(&widths).map(|(pieces, width)| {
                    let piece = pieces.get(line).map_or("", String::as_str);
                    format!("{piece:<width$}")
                });
                let text = parts.collect::<Vec<_>>().join(&" ".repeat(GAP));
                out.push_str(text.trim_end());
                out.push('\n');
            }
        }
        out
    }
}

/// Takes from the widest columns until all fit, or nothing more can be taken.
fn shrink(widths: &mut [usize], room: usize) {
    while widths.iter().sum::<usize>() > room {
        let Some(widest) = widths.iter_mut().max().filter(|w| **w > NARROWEST) else {
            return;
        };
        *widest -= 1;
    }
}

/// A cell in lines of this width, broken behind blanks and commas where there are any.
fn pieces(cell: &str, width: usize) -> Vec<String> {
    let mut pieces = Vec::new();
    let mut rest: Vec<char> = cell.chars().collect();
    while rest.len() > width && width > 0 {
        let fits = |at: &usize| matches!(rest[*at - 1], ' ' | ',' | '/');
        let at = (width / 2..=width).rev().filter(|at| *at > 0).find(fits);
        let after = rest.split_off(at.unwrap_or(width));
        pieces.push(rest.iter().collect::<String>().trim_end().to_owned());
        rest = after;
    }
    pieces.push(rest.iter().collect());
    pieces
}

/// Columns of the terminal on standard output; `None` if it is none: what reads a pipe
/// wants a row a line.
fn columns_of_terminal() -> Option<usize> {
    if !std::io::stdout().is_terminal() {
        return None;
    }
    // SAFETY: all bytes 0 are a valid value of this structure of numbers.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: the call fills in the structure, which lives through it.
    let result = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    (result == 0 && size.ws_col > 0).then_some(size.ws_col.into())
}

#[cfg(test)]
mod tests {
    use super::{GAP, Table};

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

    #[test]
    fn a_terminal_is_not_overrun_and_a_pipe_gets_a_row_a_line() {
        let mut table = Table::new(&["NAME", "LABELS"]);
        let labels: Vec<String> = (0..20).map(|n| format!("k8s:key{n}=value")).collect();
        table.row(["shop/web".into(), labels.join(",")]);
        table.row(["x".repeat(70), "a".into()]);
        let piped = table.fitted(None);
        assert_eq!(piped.lines().count(), 3);
        assert!(piped.contains(&labels.join(",")), "{piped}");
        for bound in [80, 60, 40] {
            let fitted = table.fitted(Some(bound));
            for line in fitted.lines() {
                assert!(line.chars().count() <= bound, "{bound}: {line}");
            }
            // Nothing is lost.
            let letters = |text: &str| text.chars().filter(|c| *c == 'k' || *c == 'x').count();
            assert_eq!(letters(&fitted), letters(&piped), "{fitted}");
        }
        assert_eq!(
            table.fitted(Some(piped.lines().map(str::len).max().unwrap_or(0) + GAP)),
            piped
        );
    }
}
