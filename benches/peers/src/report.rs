//! What is printed and written: a row per entrant, a verdict per target.

use std::fmt::Write as _;
use std::path::Path;

use crate::rounds::{Outcome, ratio};
use crate::{Res, cannot};

/// One entrant in one measurement.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) target: &'static str,
    pub(crate) work: String,
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) figure: Option<f64>,
    /// keepq's figure divided by this one, as the median of the rounds.
    pub(crate) keepq_is: Option<f64>,
    pub(crate) note: String,
}

/// A target, and what came of it.
#[derive(Debug, Clone)]
pub(crate) struct Verdict {
    pub(crate) target: &'static str,
    pub(crate) what: String,
    pub(crate) got: Option<f64>,
    pub(crate) need: f64,
    /// At least `need`; otherwise at most.
    pub(crate) at_least: bool,
    pub(crate) note: String,
}

impl Verdict {
    pub(crate) fn word(&self) -> &'static str {
        match self.got {
            None => "NOT RUN",
            Some(got) if self.at_least && got >= self.need => "met",
            Some(got) if !self.at_least && got <= self.need => "met",
            Some(_) => "missed",
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) rows: Vec<Row>,
    pub(crate) verdicts: Vec<Verdict>,
    /// What was not measured, and why.
    pub(crate) not_run: Vec<String>,
    /// How everybody was set up.
    pub(crate) settings: Vec<String>,
}

/// Few digits after the point, and groups of three before it.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        a if a >= 1000.0 => {
            let digits = format!("{value:.0}");
            let mut out = String::new();
            for (n, c) in digits.chars().enumerate() {
                if n > 0 && (digits.len() - n).is_multiple_of(3) && c.is_ascii_digit() {
                    out.push(',');
                }
                out.push(c);
            }
            out
        }
        a if a >= 100.0 => format!("{value:.0}"),
        a if a >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn shown(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), number)
}

impl Report {
    /// Enters the outcomes of one measurement, keepq's ratio to each beside it.
    pub(crate) fn add(
        &mut self,
        target: &'static str,
        work: &str,
        unit: &'static str,
        outcomes: &[Outcome],
    ) {
        let keepq = outcomes.iter().find(|outcome| outcome.name == "keepq");
        for outcome in outcomes {
            let note = match &outcome.figures {
                Ok(_) => outcome.note.clone(),
                Err(error) => format!("NOT RUN: {error}"),
            };
            let other = keepq.filter(|keepq| keepq.name != outcome.name);
            let row = Row {
                target,
                work: work.to_string(),
                name: outcome.name.clone(),
                unit,
                figure: outcome.figure(),
                keepq_is: other.and_then(|keepq| ratio(keepq, outcome)),
                note,
            };
            self.push(row);
        }
    }

    pub(crate) fn push(&mut self, row: Row) {
        println!("  {}", line(&row));
        self.rows.push(row);
    }

    pub(crate) fn verdict(&mut self, verdict: Verdict) {
        println!("  {}", verdict_line(&verdict));
        self.verdicts.push(verdict);
    }

    /// Writes `report.md`, `results.json` and `chart.svg`.
    pub(crate) fn write(&self, dir: &Path, header: &str) -> Res<()> {
        let files = [
            ("report.md", self.markdown(header)),
            ("results.json", self.json(header)),
            ("chart.svg", crate::chart::draw(&self.rows)),
        ];
        for (name, text) in files {
            std::fs::write(dir.join(name), text).map_err(cannot("write a report"))?;
        }
        Ok(())
    }

    fn markdown(&self, header: &str) -> String {
        let mut out = format!("# keepq beside its peers\n\n{header}\n\n## Targets\n\n");
        out += "| target | what | measured | needed | |\n|---|---|---|---|---|\n";
        for v in &self.verdicts {
            let sign = if v.at_least { ">=" } else { "<=" };
            let (got, need) = (shown(v.got), number(v.need));
            let (target, what, word, note) = (v.target, &v.what, v.word(), &v.note);
            let note = if note.is_empty() {
                String::new()
            } else {
                format!(" ({note})")
            };
            let _ = writeln!(
                out,
                "| {target} | {what} | {got} | {sign} {need} | {word}{note} |"
            );
        }
        out += "\n## Figures\n\nMedians; the ratio is keepq's figure to the other's.\n\n";
        out += "| target | work | who | figure | unit | keepq is | note |\n";
        out += "|---|---|---|---|---|---|---|\n";
        for r in &self.rows {
            let (figure, times) = (shown(r.figure), shown(r.keepq_is));
            let (target, work, name, unit, note) = (r.target, &r.work, &r.name, r.unit, &r.note);
            let _ = writeln!(
                out,
                "| {target} | {work} | {name} | {figure} | {unit} | {times} | {note} |"
            );
        }
        out += "\n## Settings\n\n";
        for settings in &self.settings {
            let _ = writeln!(out, "- {settings}");
        }
        if !self.not_run.is_empty() {
            out += "\n## Not run\n\n";
            for reason in &self.not_run {
                let _ = writeln!(out, "- {reason}");
            }
        }
        out
    }

    fn json(&self, header: &str) -> String {
        let rows = self.rows.iter().map(|r| {
            object(&[
                ("target", text(r.target)),
                ("work", text(&r.work)),
                ("name", text(&r.name)),
                ("figure", figure(r.figure)),
                ("unit", text(r.unit)),
                ("keepq_is", figure(r.keepq_is)),
                ("note", text(&r.note)),
            ])
        });
        let verdicts = self.verdicts.iter().map(|v| {
            object(&[
                ("target", text(v.target)),
                ("what", text(&v.what)),
                ("measured", figure(v.got)),
                ("needed", figure(Some(v.need))),
                ("at_least", v.at_least.to_string()),
                ("verdict", text(v.word())),
                ("note", text(&v.note)),
            ])
        });
        let texts = |list: &[String]| array(list.iter().map(|one| text(one)));
        let whole = object(&[
            ("run", text(header)),
            ("verdicts", array(verdicts)),
            ("rows", array(rows)),
            ("settings", texts(&self.settings)),
            ("not_run", texts(&self.not_run)),
        ]);
        whole + "\n"
    }
}

fn line(r: &Row) -> String {
    let times = r
        .keepq_is
        .map_or_else(String::new, |times| format!("keepq is {}", number(times)));
    let Row {
        work, name, unit, ..
    } = r;
    let figure = shown(r.figure);
    format!(
        "{work:<34} {name:<24} {figure:>12} {unit:<6} {times:<16} {}",
        r.note
    )
}

fn verdict_line(v: &Verdict) -> String {
    let sign = if v.at_least { ">=" } else { "<=" };
    let (target, what, word, note) = (v.target, &v.what, v.word(), &v.note);
    let (got, need) = (shown(v.got), number(v.need));
    format!("{target} {what}: {got} (needed {sign} {need}): {word} {note}")
}

/// A JSON string.
pub(crate) fn text(value: &str) -> String {
    let mut out = String::from("\"");
    for c in value.chars() {
        match c {
            '"' => out += "\\\"",
            '\\' => out += "\\\\",
            '\n' => out += "\\n",
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn figure(value: Option<f64>) -> String {
    match value {
        Some(value) if value.is_finite() => format!("{value}"),
        _ => "null".into(),
    }
}

fn object(fields: &[(&str, String)]) -> String {
    let fields: Vec<_> = fields
        .iter()
        .map(|(name, value)| format!("{}: {value}", text(name)))
        .collect();
    format!("{{{}}}", fields.join(", "))
}

fn array(values: impl Iterator<Item = String>) -> String {
    let values: Vec<_> = values.collect();
    format!("[\n{}\n]", values.join(",\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(name: &str, figures: Result<Vec<f64>, String>) -> Outcome {
        Outcome {
            name: name.into(),
            note: String::new(),
            figures,
        }
    }

    #[test]
    fn ratios_stand_beside_the_others() {
        let mut report = Report::default();
        let outcomes = [
            outcome("raw", Ok(vec![2.0, 4.0])),
            outcome("keepq", Ok(vec![1.0, 3.0])),
            outcome("x", Err("it \"broke\"".into())),
        ];
        report.add("T1", "w", "1/s", &outcomes);
        assert_eq!(report.rows[0].keepq_is, Some(0.625));
        assert_eq!(report.rows[1].keepq_is, None);
        assert_eq!(report.rows[2].note, "NOT RUN: it \"broke\"");
        let json = report.json("h");
        assert!(
            json.contains(r#""note": "NOT RUN: it \"broke\"""#),
            "{json}"
        );
        assert!(json.contains(r#""keepq_is": 0.625"#), "{json}");
        assert!(report.markdown("h").contains("| T1 | w | raw | 3.00 |"));
    }

    #[test]
    fn verdicts_know_their_direction() {
        let verdict = |got, at_least| Verdict {
            target: "T1",
            what: String::new(),
            got,
            need: 1.0,
            at_least,
            note: String::new(),
        };
        assert_eq!(verdict(Some(1.5), true).word(), "met");
        assert_eq!(verdict(Some(1.5), false).word(), "missed");
        assert_eq!(verdict(None, true).word(), "NOT RUN");
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(number(1_234_567.8), "1,234,568");
        assert_eq!(number(0.954), "0.95");
        assert_eq!(number(123.4), "123");
    }
}
