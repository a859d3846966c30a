//! Columns that line up.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

/// Lines up `rows` in columns two spaces apart, each line behind `indent`. The last column of a line is not padded,
/// so that nothing ends in spaces.
pub fn lines<const N: usize>(indent: &str, alignment: [Align; N], rows: &[[String; N]]) -> String {
    let width_of = |text: &str| text.chars().count();
    let widths: [usize; N] =
        std::array::from_fn(|i| rows.iter().map(|row| width_of(&row[i])).max().unwrap_or(0));
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = (0..N)
            .map(|i| {
                let padding = " ".repeat(widths[i] - width_of(&row[i]));
                match alignment[i] {
                    Align::Left => format!("{}{padding}", row[i]),
                    Align::Right => format!("{padding}{}", row[i]),
                }
            })
            .collect();
        text.push_str(format!("{indent}{}", cells.join("  ")).trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_no_line_ends_in_spaces() {
        let rows = [["é", "1", "x"], ["long", "100", ""]].map(|row| row.map(str::to_owned));
        let text = lines("> ", [Align::Left, Align::Right, Align::Left], &rows);
        assert_eq!(text, "> é       1  x\n> long  100\n");
    }
}
