//! `keepq stats`, `topics` and `groups`.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::Path;
use std::time::{Duration, Instant};

use keepq::{Backoff, BackoffKind, Flush, GroupStats, Pin, StoreStats, TopicStats};
use serde_json::{Value, json};

use crate::args::{
    GroupsArgs, GroupsCommand, ListArgs, ListOutput, StatsArgs, StatsOutput, TopicsArgs,
    TopicsCommand,
};
use crate::exit::{Failure, INTERRUPTED, NOT_FOUND, OK};
use crate::look::open;
use crate::output;
use crate::stop::{SLICE, Stop};

fn counters(path: &Path) -> Result<StoreStats, Failure> {
    let store = open(path)?;
    let stats = store.stats()?;
    store.close()?;
    Ok(stats)
}

pub(crate) fn stats(path: &Path, args: &StatsArgs) -> Result<i32, Failure> {
    let Some(every) = args.watch else {
        output::print(&stats_text(&counters(path)?, args.output))?;
        return Ok(OK);
    };
    let stop = Stop::install()?;
    let store = open(path)?;
    while !stop.asked() {
        let text = stats_text(&store.stats()?, args.output);
        let on_terminal = std::io::stdout().is_terminal();
        let clear = if on_terminal { "\x1b[H\x1b[2J" } else { "" };
        output::print(&format!("{clear}{text}"))?;
        wait(every, &stop);
    }
    store.close()?;
    Ok(if stop.interrupted() { INTERRUPTED } else { OK })
}

fn wait(time: Duration, stop: &Stop) {
    let begin = Instant::now();
    while !stop.asked() {
        let left = time.saturating_sub(begin.elapsed());
        if left.is_zero() {
            break;
        }
        std::thread::sleep(left.min(SLICE));
    }
}

fn stats_text(stats: &StoreStats, asked: Option<StatsOutput>) -> String {
    let store = store_row(stats);
    let topics: Vec<_> = stats.topics.iter().map(topic_row).collect();
    let groups: Vec<_> = stats.groups.iter().map(group_row).collect();
    let form = match asked {
        Some(StatsOutput::Prom) => return prometheus(stats),
        Some(StatsOutput::Table) => ListOutput::Table,
        Some(StatsOutput::Json) => ListOutput::Json,
        Some(StatsOutput::Jsonl) => ListOutput::Jsonl,
        None => output::chosen(None),
    };
    match form {
        ListOutput::Json => {
            let mut all = store;
            all["topics"] = topics.into();
            all["groups"] = groups.into();
            format!("{all:#}\n")
        }
        ListOutput::Jsonl => {
            let kinds = [("store", vec![store]), ("topic", topics), ("group", groups)];
            let rows = kinds.into_iter().flat_map(|(kind, rows)| {
                rows.into_iter()
                    .map(move |row| format!("{}\n", with_type(kind, row)))
            });
            rows.collect()
        }
        ListOutput::Table => {
            let mut text = output::table(&[store]);
            for (name, rows) in [("topics", topics), ("groups", groups)] {
                text += &format!("\n{name}: {}", output::table(&rows));
            }
            text
        }
    }
}

/// The text exposition format of Prometheus: every number of the other forms as a metric.
fn prometheus(stats: &StoreStats) -> String {
    /// Numbers that only rise while the store lives.
    const COUNTERS: [&str; 3] = ["tail", "durable", "flushes"];
    let mut text = String::new();
    let families = [
        ("store", vec![(String::new(), store_row(stats))]),
        ("topic", {
            let topics = stats.topics.iter();
            let labels = |t: &TopicStats| format!("{{topic=\"{}\"}}", t.name);
            topics.map(|t| (labels(t), topic_row(t))).collect()
        }),
        ("group", {
            let groups = stats.groups.iter();
            let labels = |g: &GroupStats| format!("{{topic=\"{}\",group=\"{}\"}}", g.topic, g.name);
            groups.map(|g| (labels(g), group_row(g))).collect()
        }),
    ];
    for (family, rows) in families {
        let Some((_, Value::Object(first))) = rows.first() else {
            continue;
        };
        for name in first.keys() {
            // Where there is no number, there is none to tell.
            let numbers = || rows.iter().filter(|(_, row)| row[name].is_number());
            if numbers().next().is_none() {
                continue;
            }
            let (kind, end) = match name.as_str() {
                "oldest_age" => ("gauge", "_seconds"),
                counter if COUNTERS.contains(&counter) => ("counter", "_total"),
                _ => ("gauge", ""),
            };
            // Writing to a string cannot fail.
            let _ = writeln!(text, "# TYPE keepq_{family}_{name}{end} {kind}");
            for (labels, row) in numbers() {
                let _ = writeln!(text, "keepq_{family}_{name}{end}{labels} {}", row[name]);
            }
        }
    }
    text
}

/// The row with a field `type` in front, so that lines of different kinds can be told apart.
fn with_type(kind: &str, row: Value) -> Value {
    let mut typed = json!({ "type": kind });
    if let (Value::Object(typed), Value::Object(row)) = (&mut typed, row) {
        typed.extend(row);
    }
    typed
}

fn no_topic(name: &str) -> Failure {
    Failure::new(NOT_FOUND, format!("there is no topic {name:?}"))
}

pub(crate) fn topics(path: &Path, args: &TopicsArgs) -> Result<i32, Failure> {
    match &args.command {
        TopicsCommand::Ls(list) => {
            let rows: Vec<_> = counters(path)?.topics.iter().map(topic_row).collect();
            output::print_rows(list.output, &rows)?;
        }
        TopicsCommand::Info { topic, list } => {
            let stats = counters(path)?;
            let found = stats.topics.iter().find(|t| &t.name == topic);
            let found = found.ok_or_else(|| no_topic(topic))?;
            let mut row = topic_row(found);
            row["kept"] = found.kept.map(|(messages, _)| messages).into();
            row["kept_bytes"] = found.kept.map(|(_, bytes)| bytes).into();
            let groups = stats.groups.iter().filter(|g| &g.topic == topic);
            row["groups"] = groups.map(|g| g.name.clone()).collect();
            let store = open(path)?;
            let config = store.existing_topic(topic)?.config()?;
            store.close()?;
            if let (Value::Object(row), Value::Object(options)) =
                (&mut row, crate::topics::options_row(&config))
            {
                row.extend(options);
            }
            output::print_object(list.output, &row)?;
        }
        TopicsCommand::Create(args) => return crate::topics::create(path, args),
        TopicsCommand::Configure(args) => return crate::topics::configure(path, args),
        TopicsCommand::Purge { topic, list } => {
            let store = open(path)?;
            let purged = store.existing_topic(topic)?.purge()?;
            store.close()?;
            output::print_rows(list.output, &[json!({ "purged": purged })])?;
        }
        TopicsCommand::Rm { topic } => {
            let store = open(path)?;
            store.existing_topic(topic)?.delete()?;
            store.close()?;
        }
    }
    Ok(OK)
}

pub(crate) fn groups(path: &Path, args: &GroupsArgs) -> Result<i32, Failure> {
    match &args.command {
        GroupsCommand::Ls { topic, list } => groups_ls(path, topic.as_deref(), list)?,
        GroupsCommand::Rm { topic, group } => {
            let store = open(path)?;
            let group = store.group(topic, group).create(false).open()?;
            group.delete()?;
            store.close()?;
        }
        GroupsCommand::Info { topic, group, list } => {
            let store = open(path)?;
            // Before this command counts as one of the consumers.
            let all = store.stats()?.groups;
            let opened = store.group(topic, group).create(false).open()?;
            let found = all
                .into_iter()
                .find(|g| &g.topic == topic && &g.name == group);
            let stats = found.map_or_else(|| opened.stats(), Ok)?;
            let config = opened.config()?;
            store.close()?;
            let mut row = group_row(&stats);
            row["lease"] = seconds(config.lease);
            row["max_attempts"] = config.max_attempts.into();
            row["ack_flush"] = match config.ack_flush {
                Flush::Async => "async",
                _ => "sync",
            }
            .into();
            row["backoff"] = backoff_row(&config.backoff);
            output::print_object(list.output, &row)?;
        }
    }
    Ok(OK)
}

fn backoff_row(backoff: &Backoff) -> Value {
    if backoff.kind == BackoffKind::Rocketmq {
        return "rocketmq".into();
    }
    json!({
        "first": seconds(backoff.first),
        "factor": backoff.factor,
        "max": seconds(backoff.max),
        "jitter": backoff.jitter,
    })
}

fn seconds(time: Duration) -> Value {
    json!(time.as_secs_f64())
}

fn groups_ls(path: &Path, topic: Option<&str>, list: &ListArgs) -> Result<(), Failure> {
    let stats = counters(path)?;
    if let Some(name) = topic
        && !stats.topics.iter().any(|t| t.name == name)
    {
        return Err(no_topic(name));
    }
    let wanted = |g: &&GroupStats| topic.is_none_or(|name| g.topic == name);
    let rows: Vec<_> = stats.groups.iter().filter(wanted).map(group_row).collect();
    output::print_rows(list.output, &rows)
}

fn store_row(s: &StoreStats) -> Value {
    json!({
        "tail": s.tail,
        "durable": s.durable,
        "disk_bytes": s.disk_bytes,
        "segments": s.segments,
        "members": s.members,
        "outstanding": s.outstanding,
        "flushes": s.flushes,
        "pinned_bytes": pinned_bytes(s.pin.as_ref()),
        "pinned_by": pinned_by(s.pin.as_ref(), true),
    })
}

/// Bytes of the log that would go if the message were not needed.
fn pinned_bytes(pin: Option<&Pin>) -> u64 {
    pin.map_or(0, |pin| pin.bytes)
}

/// Which message it is: `orders/billing outstanding 17 (00000000000012a0)`.
fn pinned_by(pin: Option<&Pin>, whole: bool) -> String {
    let Some(pin) = pin else { return String::new() };
    let message = format!("{} {} ({})", pin.kind, pin.seq, pin.id);
    match (&pin.group, whole) {
        (_, false) => message,
        (Some(group), true) => format!("{}/{group} {message}", pin.topic),
        (None, true) => format!("{} {message}", pin.topic),
    }
}

fn topic_row(t: &TopicStats) -> Value {
    json!({
        "name": t.name,
        "first_seq": t.first_seq,
        "next_seq": t.next_seq,
        "groups": t.groups,
        "pinned_bytes": pinned_bytes(t.pin.as_ref()),
        "pinned_by": pinned_by(t.pin.as_ref(), true),
    })
}

fn group_row(g: &GroupStats) -> Value {
    json!({
        "topic": g.topic,
        "name": g.name,
        "ready": g.ready,
        "in_flight": g.in_flight,
        "delayed": g.delayed,
        "lag": g.lag,
        "dead": g.dead,
        "cursor": g.cursor,
        "oldest_age": g.oldest_age.map(seconds),
        "consumers": g.consumers,
        "pinned_bytes": pinned_bytes(g.pin.as_ref()),
        "pinned_by": pinned_by(g.pin.as_ref(), false),
    })
}
