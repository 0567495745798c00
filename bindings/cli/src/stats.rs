//! `keepq stats`, `topics ls`, `groups ls`.

use std::path::Path;

use keepq::{GroupStats, Store, StoreStats, TopicStats};
use serde_json::{Value, json};

use crate::args::{GroupsArgs, GroupsCommand, ListArgs, ListOutput, TopicsArgs, TopicsCommand};
use crate::exit::{Failure, NOT_FOUND, OK};
use crate::output;

fn counters(path: &Path) -> Result<StoreStats, Failure> {
    let store = Store::options().create(false).open(path)?;
    let stats = store.stats()?;
    store.close()?;
    Ok(stats)
}

pub(crate) fn stats(path: &Path, args: &ListArgs) -> Result<i32, Failure> {
    let stats = counters(path)?;
    let store = store_row(&stats);
    let topics: Vec<_> = stats.topics.iter().map(topic_row).collect();
    let groups: Vec<_> = stats.groups.iter().map(group_row).collect();
    let text = match output::chosen(args.output) {
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
    };
    output::print(&text)?;
    Ok(OK)
}

/// The row with a field `type` in front, so that lines of different kinds can be told apart.
fn with_type(kind: &str, row: Value) -> Value {
    let mut typed = json!({ "type": kind });
    if let (Value::Object(typed), Value::Object(row)) = (&mut typed, row) {
        typed.extend(row);
    }
    typed
}

pub(crate) fn topics(path: &Path, args: &TopicsArgs) -> Result<i32, Failure> {
    let TopicsCommand::Ls(list) = &args.command;
    let rows: Vec<_> = counters(path)?.topics.iter().map(topic_row).collect();
    output::print_rows(list.output, &rows)?;
    Ok(OK)
}

pub(crate) fn groups(path: &Path, args: &GroupsArgs) -> Result<i32, Failure> {
    let GroupsCommand::Ls { topic, list } = &args.command;
    let stats = counters(path)?;
    if let Some(name) = topic
        && !stats.topics.iter().any(|t| &t.name == name)
    {
        return Err(Failure::new(
            NOT_FOUND,
            format!("there is no topic {name:?}"),
        ));
    }
    let wanted = |g: &&GroupStats| topic.as_ref().is_none_or(|name| &g.topic == name);
    let rows: Vec<_> = stats.groups.iter().filter(wanted).map(group_row).collect();
    output::print_rows(list.output, &rows)?;
    Ok(OK)
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
    })
}

fn topic_row(t: &TopicStats) -> Value {
    json!({
        "name": t.name,
        "first_seq": t.first_seq,
        "next_seq": t.next_seq,
        "groups": t.groups,
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
    })
}
