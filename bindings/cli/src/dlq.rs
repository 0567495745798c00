//! `keepq dlq`: the dead letters of a group. Looking at them claims nothing.

use std::io::Write as _;
use std::path::Path;

use keepq::{DeadLetter, DeadLetters};
use serde_json::{Value, json};

use crate::args::{DlqArgs, DlqCommand, DlqLs, DlqOne, ListOutput};
use crate::exit::{DAMAGE, EMPTY, Failure, NOT_FOUND, OK};
use crate::look::open;
use crate::output;

pub(crate) fn run(path: &Path, args: &DlqArgs) -> Result<i32, Failure> {
    let (topic, group) = args.command.group();
    let store = open(path)?;
    let group = store.group(topic, group).create(false).open()?;
    let letters = group.dead_letters();
    let code = match &args.command {
        DlqCommand::Ls(args) => ls(&letters, args)?,
        DlqCommand::Show(args) => show(&letters, args)?,
        DlqCommand::Purge(args) => purge(&letters, args)?,
    };
    store.close()?;
    Ok(code)
}

fn ls(letters: &DeadLetters, args: &DlqLs) -> Result<i32, Failure> {
    let form = output::chosen(args.list.output);
    let most = usize::try_from(args.number.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    let mut out = output::raw_stdout()?;
    let (mut rows, mut damaged, mut found) = (Vec::new(), false, false);
    for letter in letters.browse().from(args.from).take(most) {
        let letter = letter?;
        found = true;
        damaged |= letter.content.is_err();
        if form == ListOutput::Jsonl {
            // As it is read: there may be many.
            let mut line = Vec::new();
            output::dead_json(&mut line, &letter);
            line.push(b'\n');
            out.write_all(&line).map_err(|e| Failure::stdout(&e))?;
        } else {
            rows.push(row(&letter, form)?);
        }
    }
    if form != ListOutput::Jsonl {
        output::print(&output::format_rows(form, &rows))?;
    }
    Ok(if damaged {
        DAMAGE
    } else if found {
        OK
    } else {
        EMPTY
    })
}

fn row(letter: &DeadLetter, form: ListOutput) -> Result<Value, Failure> {
    let mut text = Vec::new();
    output::dead_json(&mut text, letter);
    let whole: Value =
        serde_json::from_slice(&text).map_err(|e| Failure::failed(format!("a row: {e}")))?;
    if form == ListOutput::Json {
        return Ok(whole);
    }
    let content = letter.content.as_ref().ok();
    let body = content.map_or_else(
        || "(damaged)".into(),
        |c| String::from_utf8_lossy(&c.body()[..c.body().len().min(160)]).into_owned(),
    );
    Ok(json!({
        "dead_seq": letter.seq,
        "id": whole["id"],
        "attempts": whole["attempts"],
        "dead_at": whole["dead_at"],
        "reason": whole["reason"],
        "body": body.chars().take(40).collect::<String>(),
    }))
}

/// The letter that is meant: by the message's id, or by its number among the dead letters.
fn find(letters: &DeadLetters, which: &DlqOne) -> Result<Option<DeadLetter>, Failure> {
    match (&which.id, which.seq) {
        (Some(id), _) => Ok(letters.get(id.parse()?)?),
        (None, Some(seq)) => {
            let first = letters.browse().from(seq).next().transpose()?;
            Ok(first.filter(|letter| letter.seq == seq))
        }
        (None, None) => Ok(None),
    }
}

fn not_there(which: &DlqOne) -> Failure {
    let (topic, group) = (&which.place.topic, &which.place.group);
    Failure::new(
        NOT_FOUND,
        format!("group {group} of topic {topic} has no such dead letter"),
    )
}

fn show(letters: &DeadLetters, args: &DlqOne) -> Result<i32, Failure> {
    if args.id.is_none() && args.seq.is_none() {
        return Err(Failure::usage("name the dead letter: its id, or --seq"));
    }
    let letter = find(letters, args)?.ok_or_else(|| not_there(args))?;
    let text = match output::chosen(args.list.output) {
        ListOutput::Jsonl => {
            let mut line = Vec::new();
            output::dead_json(&mut line, &letter);
            format!("{}\n", String::from_utf8_lossy(&line))
        }
        ListOutput::Json => format!("{:#}\n", row(&letter, ListOutput::Json)?),
        ListOutput::Table => output::fields(&row(&letter, ListOutput::Json)?),
    };
    output::print(&text)?;
    Ok(if letter.content.is_err() { DAMAGE } else { OK })
}

fn purge(letters: &DeadLetters, args: &DlqOne) -> Result<i32, Failure> {
    let purged = if args.id.is_none() && args.seq.is_none() {
        letters.purge()?
    } else {
        let seq = find(letters, args)?.ok_or_else(|| not_there(args))?.seq;
        u64::from(letters.purge_one(seq)?)
    };
    output::print_rows(args.list.output, &[json!({ "purged": purged })])?;
    Ok(OK)
}
