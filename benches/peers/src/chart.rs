//! A chart of all measurements: bars on a logarithmic scale, one panel each.

use std::fmt::Write as _;

use crate::report::{Row, number};

const WIDTH: f64 = 900.0;
const BAR: f64 = 18.0;
const LEFT: f64 = 210.0;
const LONGEST: f64 = 520.0;

/// An SVG picture of these rows.
pub(crate) fn draw(rows: &[Row]) -> String {
    let mut panels: Vec<(String, Vec<&Row>)> = Vec::new();
    for row in rows
        .iter()
        .filter(|row| row.figure.is_some_and(|f| f > 0.0))
    {
        let title = format!("{} {} ({})", row.target, row.work, row.unit);
        match panels.last_mut() {
            Some((last, rows)) if *last == title => rows.push(row),
            _ => panels.push((title, vec![row])),
        }
    }
    let mut body = String::new();
    let mut y = 20.0;
    for (title, rows) in &panels {
        y = panel(&mut body, title, rows, y);
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{y}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    )
}

/// Draws one measurement; where the next begins.
fn panel(out: &mut String, title: &str, rows: &[&Row], top: f64) -> f64 {
    let figures = || rows.iter().filter_map(|row| row.figure);
    let largest = figures().fold(f64::MIN, f64::max);
    let smallest = figures().fold(f64::MAX, f64::min);
    // Half a decade to the left of the smallest, so that it is seen too.
    let decades = (largest / smallest).log10() + 0.5;
    let title = escaped(title);
    let _ = writeln!(
        out,
        "<text x=\"10\" y=\"{top}\" font-weight=\"bold\">{title}</text>"
    );
    let mut y = top + 8.0;
    for row in rows {
        let figure = row.figure.unwrap_or(smallest);
        let length = LONGEST * ((figure / smallest).log10() + 0.5) / decades;
        let colour = if row.name.starts_with("keepq") {
            "#1f6f8b"
        } else {
            "#b8b8b8"
        };
        let (text, bar_end) = (y + BAR - 6.0, LEFT + length + 6.0);
        let (name, value, height) = (escaped(&row.name), number(figure), BAR - 4.0);
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{text}\" text-anchor=\"end\">{name}</text>\
             <rect x=\"{LEFT}\" y=\"{y}\" width=\"{length:.1}\" height=\"{height}\" \
             fill=\"{colour}\"/><text x=\"{bar_end:.1}\" y=\"{text}\">{value}</text>",
            LEFT - 8.0
        );
        y += BAR;
    }
    y + 26.0
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_has_a_bar() {
        let row = |work: &str, name: &str, figure| Row {
            target: "T1",
            work: work.into(),
            name: name.into(),
            unit: "1/s",
            figure,
            keepq_is: None,
            note: String::new(),
        };
        let rows = [
            row("a<b", "keepq", Some(1000.0)),
            row("a<b", "x", Some(10.0)),
            row("a<b", "gone", None),
            row("c", "keepq", Some(1.0)),
        ];
        let svg = draw(&rows);
        assert_eq!(svg.matches("<rect").count(), 1 + 3, "{svg}");
        assert_eq!(svg.matches("font-weight").count(), 2);
        assert!(svg.contains("a&lt;b") && !svg.contains("gone"));
    }
}
