//! How messages, results and tables are written.
//!
//! JSON is written field by field: the order of the fields is part of the format.

use std::fs::File;
use std::io::{self, IsTerminal as _, Write};
use std::os::fd::AsFd as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use keepq::{Browsed, Content, DeadLetter, Delivery, MessageId, Sent};
use serde_json::Value;

use crate::args::ListOutput;
use crate::exit::Failure;

/// Standard output without a buffer in this process: what `write_all` returned for is with the
/// descriptor, so that a message may be acknowledged then.
pub(crate) fn raw_stdout() -> Result<File, Failure> {
    let descriptor = io::stdout().as_fd().try_clone_to_owned();
    descriptor.map(File::from).map_err(|e| Failure::stdout(&e))
}

/// Writes and flushes text to standard output.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = raw_stdout()?;
    out.write_all(text.as_bytes())
        .map_err(|e| Failure::stdout(&e))
}

/// A line for people on standard error.
pub(crate) fn note(text: &str) {
    // Nobody can be told when standard error is gone.
    let _ = writeln!(anstream::stderr(), "keepq: {text}");
}

/// Appends `,"name":` (without the comma after an opening brace).
fn field(out: &mut Vec<u8>, name: &str) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    string(out, name);
    out.push(b':');
}

/// Appends a JSON string.
fn string(out: &mut Vec<u8>, text: &str) {
    // Writing a string to memory cannot fail.
    let _ = serde_json::to_writer(out, text);
}

fn number(out: &mut Vec<u8>, number: u64) {
    let _ = write!(out, "{number}");
}

fn optional_string(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => string(out, text),
        None => out.extend_from_slice(b"null"),
    }
}

/// Milliseconds since 1970 as RFC 3339 in UTC; null where no calendar reaches.
pub(crate) fn time(out: &mut Vec<u8>, ms: u64) {
    let stamp = i64::try_from(ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    match stamp {
        Some(stamp) => {
            let _ = write!(out, "\"{stamp:.3}\"");
        }
        None => out.extend_from_slice(b"null"),
    }
}

/// What every message has, however it came here.
pub(crate) trait Parts {
    fn id(&self) -> MessageId;
    fn body(&self) -> &[u8];
    fn key(&self) -> Option<&str>;
    fn tag(&self) -> Option<&str>;
    fn header_list(&self) -> Vec<(&str, &[u8])>;
    fn producer(&self) -> Option<(&str, u64)>;
}

macro_rules! parts {
    ($($of:ty),*) => { $(
        impl Parts for $of {
            fn id(&self) -> MessageId {
                <$of>::id(self)
            }
            fn body(&self) -> &[u8] {
                <$of>::body(self)
            }
            fn key(&self) -> Option<&str> {
                <$of>::key(self)
            }
            fn tag(&self) -> Option<&str> {
                <$of>::tag(self)
            }
            fn header_list(&self) -> Vec<(&str, &[u8])> {
                self.headers().collect()
            }
            fn producer(&self) -> Option<(&str, u64)> {
                <$of>::producer(self)
            }
        }
    )* };
}

parts!(Delivery, Content);

/// Appends a delivery as one JSON object, without a newline.
pub(crate) fn message_json(out: &mut Vec<u8>, m: &Delivery) {
    out.push(b'{');
    head_fields(out, (m.topic(), m.seq()), m);
    field(out, "attempt");
    number(out, u64::from(m.attempt()));
    field(out, "sent_at");
    time(out, m.sent_at_ms());
    field(out, "receipt");
    string(out, &m.receipt().to_string());
    body_field(out, m.body());
    out.push(b'}');
}

/// Appends a message that was only looked at, as one JSON object without a newline.
pub(crate) fn browsed_json(out: &mut Vec<u8>, m: &Browsed) {
    out.push(b'{');
    match &m.content {
        Ok(content) => {
            head_fields(out, (&m.topic, m.seq), content);
            field(out, "sent_at");
            time(out, content.sent_at_ms());
            body_field(out, content.body());
        }
        Err(damage) => {
            field(out, "topic");
            string(out, &m.topic);
            field(out, "seq");
            number(out, m.seq);
            field(out, "damage");
            string(out, &damage.to_string());
        }
    }
    out.push(b'}');
}

/// Appends a dead letter as one JSON object, without a newline. What is damaged is left out, and
/// said.
pub(crate) fn dead_json(out: &mut Vec<u8>, letter: &DeadLetter) {
    out.push(b'{');
    if let (Ok(burial), Ok(content)) = (&letter.burial, &letter.content) {
        head_fields(out, (&burial.topic, burial.topic_seq), content);
        field(out, "sent_at");
        time(out, content.sent_at_ms());
    } else if let Ok(burial) = &letter.burial {
        field(out, "topic");
        string(out, &burial.topic);
        field(out, "seq");
        number(out, burial.topic_seq);
    }
    field(out, "dead_seq");
    number(out, letter.seq);
    if let Ok(burial) = &letter.burial {
        field(out, "attempts");
        number(out, u64::from(burial.attempts));
        field(out, "rejected");
        let _ = write!(out, "{}", burial.rejected);
        field(out, "reason");
        string(out, &burial.reason);
        field(out, "dead_at");
        time(out, burial.dead_at_ms);
    }
    match &letter.content {
        Ok(content) => body_field(out, content.body()),
        Err(damage) => {
            field(out, "damage");
            string(out, &damage.to_string());
        }
    }
    out.push(b'}');
}

/// Identity, place and labels: the first fields of every message.
fn head_fields(out: &mut Vec<u8>, (topic, seq): (&str, u64), m: &impl Parts) {
    field(out, "id");
    string(out, &m.id().to_string());
    field(out, "topic");
    string(out, topic);
    field(out, "seq");
    number(out, seq);
    let producer = m.producer();
    field(out, "producer");
    optional_string(out, producer.map(|p| p.0));
    field(out, "producer_seq");
    match producer {
        Some((_, seq)) => number(out, seq),
        None => out.extend_from_slice(b"null"),
    }
    field(out, "key");
    optional_string(out, m.key());
    field(out, "tag");
    optional_string(out, m.tag());
    field(out, "headers");
    headers(out, m);
}

fn body_field(out: &mut Vec<u8>, body: &[u8]) {
    match std::str::from_utf8(body) {
        Ok(text) => {
            field(out, "body");
            string(out, text);
        }
        Err(_) => {
            field(out, "body_base64");
            string(out, &BASE64.encode(body));
        }
    }
}

/// Headers as an object; a value that is not UTF-8 is `{"base64": ..}`.
pub(crate) fn headers(out: &mut Vec<u8>, m: &impl Parts) {
    out.push(b'{');
    for (name, value) in m.header_list() {
        field(out, name);
        match std::str::from_utf8(value) {
            Ok(text) => string(out, text),
            Err(_) => {
                out.extend_from_slice(b"{\"base64\":");
                string(out, &BASE64.encode(value));
                out.push(b'}');
            }
        }
    }
    out.push(b'}');
}

/// One row for people: a number, how often it was delivered, key, tag and the beginning of the
/// body.
pub(crate) fn message_row(out: &mut Vec<u8>, seq: u64, attempt: Option<u32>, m: &impl Parts) {
    let body = String::from_utf8_lossy(&m.body()[..m.body().len().min(256)]);
    let body: String = body.chars().take(60).map(printable).collect();
    let text = |text: Option<&str>| -> String {
        let text = text.unwrap_or("-");
        text.chars().map(printable).collect()
    };
    let (key, tag) = (text(m.key()), text(m.tag()));
    let attempt = attempt.map_or_else(|| "-".to_string(), |n| n.to_string());
    let _ = writeln!(out, "{seq:>10} {attempt:>3} {key:<16} {tag:<12} {body}");
}

/// A row for what damage has taken.
pub(crate) fn damage_row(out: &mut Vec<u8>, seq: u64, damage: &keepq::Error) {
    let text: String = damage.to_string().chars().map(printable).collect();
    let _ = writeln!(out, "{seq:>10}   - damaged: {text}");
}

pub(crate) const MESSAGE_HEAD: &str = "       seq try key              tag          body\n";

/// Nothing in a message may steer the terminal it is shown on.
fn printable(c: char) -> char {
    if c.is_control() { '.' } else { c }
}

/// The result of one send.
pub(crate) fn sent_json(out: &mut Vec<u8>, topic: &str, sent: &Sent) {
    out.push(b'{');
    let _ = write!(out, "\"id\":\"{}\"", sent.id);
    field(out, "topic");
    string(out, topic);
    field(out, "seq");
    match sent.seq {
        Some(seq) => number(out, seq),
        None => out.extend_from_slice(b"null"),
    }
    field(out, "status");
    string(out, sent.status.name());
    for (name, value) in [("durable", sent.durable), ("duplicate", sent.duplicate)] {
        field(out, name);
        let _ = write!(out, "{value}");
    }
    out.extend_from_slice(b"}\n");
}

/// Prints rows of equal objects in the form asked for: a table only on a terminal by default.
pub(crate) fn print_rows(asked: Option<ListOutput>, rows: &[Value]) -> Result<(), Failure> {
    print(&format_rows(chosen(asked), rows))
}

/// The form to print in: what was asked, else a table on a terminal and jsonl elsewhere.
pub(crate) fn chosen(asked: Option<ListOutput>) -> ListOutput {
    asked.unwrap_or(if io::stdout().is_terminal() {
        ListOutput::Table
    } else {
        ListOutput::Jsonl
    })
}

/// Equal objects as text.
pub(crate) fn format_rows(form: ListOutput, rows: &[Value]) -> String {
    match form {
        ListOutput::Json => format!("{:#}\n", Value::from(rows.to_vec())),
        ListOutput::Jsonl => rows.iter().map(|row| format!("{row}\n")).collect(),
        ListOutput::Table => table(rows),
    }
}

/// One object for people: a line for each of its fields.
pub(crate) fn fields(object: &Value) -> String {
    let Value::Object(object) = object else {
        return String::new();
    };
    let widest = object.keys().map(String::len).max().unwrap_or(0);
    let line = |(name, value): (&String, &Value)| {
        let text = match value {
            Value::String(text) => text.chars().map(printable).collect(),
            Value::Null => "-".to_string(),
            other => other.to_string(),
        };
        format!("{name:widest$}  {text}\n")
    };
    object.iter().map(line).collect()
}

/// Prints one object in the form asked for.
pub(crate) fn print_object(asked: Option<ListOutput>, object: &Value) -> Result<(), Failure> {
    print(&match chosen(asked) {
        ListOutput::Table => fields(object),
        ListOutput::Json => format!("{object:#}\n"),
        ListOutput::Jsonl => format!("{object}\n"),
    })
}

/// A table whose columns are the fields of the first row.
pub(crate) fn table(rows: &[Value]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    let Some(Value::Object(first)) = rows.first() else {
        return "nothing\n".to_string();
    };
    table.set_header(first.keys());
    for row in rows {
        if let Value::Object(row) = row {
            table.add_row(row.values().map(|value| match value {
                Value::String(text) => text.chars().map(printable).collect(),
                Value::Null => "-".to_string(),
                other => other.to_string(),
            }));
        }
    }
    let numeric: Vec<bool> = first.values().map(Value::is_number).collect();
    for (column, numeric) in table.column_iter_mut().zip(numeric) {
        if numeric {
            column.set_cell_alignment(comfy_table::CellAlignment::Right);
        }
    }
    format!("{table}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn times_are_rfc_3339_with_milliseconds() {
        let text = |ms| {
            let mut out = Vec::new();
            time(&mut out, ms);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(text(0), "\"1970-01-01T00:00:00.000Z\"");
        assert_eq!(text(1_700_000_000_120), "\"2023-11-14T22:13:20.120Z\"");
        assert_eq!(text(u64::MAX), "null");
    }

    #[test]
    fn fields_are_separated_and_strings_escaped() {
        let mut out = b"{".to_vec();
        field(&mut out, "a");
        string(&mut out, "x\"\n");
        field(&mut out, "b");
        optional_string(&mut out, None);
        out.push(b'}');
        assert_eq!(out, br#"{"a":"x\"\n","b":null}"#);
    }

    #[test]
    fn rows_print_in_every_form() {
        let rows = [
            json!({"name": "a\u{1b}[2J", "n": 1}),
            json!({"name": "b", "n": 22}),
        ];
        assert_eq!(format_rows(ListOutput::Jsonl, &rows).lines().count(), 2);
        let array: Value = serde_json::from_str(&format_rows(ListOutput::Json, &rows)).unwrap();
        assert_eq!(array, json!(rows));
        let table = format_rows(ListOutput::Table, &rows);
        assert!(table.contains("name") && table.contains("22"), "{table}");
        assert!(
            !table.contains('\u{1b}'),
            "a name steers the terminal: {table:?}"
        );
    }
}
