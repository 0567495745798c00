//! `keepq verify`, `keepq repair` and `keepq doctor`.

use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::args::{ListArgs, ListOutput, RepairArgs};
use crate::exit::{DAMAGE, FAILED, Failure, OK};
use crate::output;

/// A bar on a terminal, moved by the bytes done of all.
fn with_bar<T>(work: impl FnOnce(&mut dyn FnMut(u64, u64)) -> T) -> T {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}") {
        bar.set_style(style);
    }
    let done = work(&mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    done
}

fn rows_of(findings: &[keepq::Finding]) -> Vec<Value> {
    findings
        .iter()
        .map(|f| {
            json!({
                "file": f.file,
                "position": f.position,
                "length": f.length,
                "damage": f.damage,
                "known": f.known,
                "reason": f.reason,
            })
        })
        .collect()
}

pub(crate) fn verify(path: &Path, args: &ListArgs) -> Result<i32, Failure> {
    let report = with_bar(|progress| keepq::verify(path, progress))?;
    let findings = rows_of(&report.findings);
    let summary = json!({
        "ok": report.is_ok(),
        "files": report.files,
        "records": report.records,
        "messages": report.messages,
        "bytes": report.bytes,
    });
    let text = match output::chosen(args.output) {
        ListOutput::Json => {
            let mut all = summary;
            all["findings"] = findings.into();
            format!("{all:#}\n")
        }
        form @ ListOutput::Jsonl => {
            output::format_rows(form, &findings) + &output::format_rows(form, &[summary])
        }
        ListOutput::Table => {
            let findings = if findings.is_empty() {
                String::new()
            } else {
                output::table(&findings)
            };
            findings + &output::table(&[summary])
        }
    };
    output::print(&text)?;
    Ok(if report.is_ok() { OK } else { DAMAGE })
}

/// Exit code 0: the store is in order now, or was; 5: damage is left, or would be.
pub(crate) fn repair(path: &Path, args: &RepairArgs) -> Result<i32, Failure> {
    let options = keepq::RepairOptions {
        dry_run: args.dry_run,
    };
    let report = with_bar(|progress| keepq::repair(path, &options, progress))?;
    let lost: Vec<Value> = report
        .lost
        .iter()
        .map(|l| json!({ "topic": l.topic, "first_seq": l.first_seq, "count": l.count }))
        .collect();
    let text = match output::chosen(args.list.output) {
        ListOutput::Table => repair_text(&report, args.dry_run),
        form => {
            let all = json!({
                "ok": report.is_ok(),
                "dry_run": args.dry_run,
                "actions": report.actions,
                "lost": lost,
                "lost_state": report.lost_state,
                "quarantined": report.quarantined,
                "before": rows_of(&report.before.findings),
                "after": rows_of(&report.after.findings),
            });
            if form == ListOutput::Json {
                format!("{all:#}\n")
            } else {
                format!("{all}\n")
            }
        }
    };
    output::print(&text)?;
    let ok = report.is_ok() && (!args.dry_run || report.before.is_ok());
    Ok(if ok { OK } else { DAMAGE })
}

fn repair_text(report: &keepq::RepairReport, dry_run: bool) -> String {
    let mut lines = Vec::new();
    if report.actions.is_empty() && report.is_ok() {
        return "nothing needs repair\n".to_owned();
    }
    if dry_run {
        lines.push("this would be done; nothing is changed:".to_owned());
    }
    lines.extend(report.actions.iter().cloned());
    for lost in &report.lost {
        let last = lost.first_seq + lost.count.saturating_sub(1);
        lines.push(format!(
            "lost: sequences {} to {last} of topic {}",
            lost.first_seq, lost.topic
        ));
    }
    lines.extend(report.lost_state.iter().map(|text| format!("lost: {text}")));
    lines.extend(
        report
            .quarantined
            .iter()
            .map(|file| format!("kept: {file}")),
    );
    for left in report.after.findings.iter().filter(|f| f.damage) {
        lines.push(format!(
            "still damaged: {} at {}: {}",
            left.file, left.position, left.reason
        ));
    }
    lines.join("\n") + "\n"
}

pub(crate) fn doctor(path: &Path, args: &ListArgs) -> Result<i32, Failure> {
    let checks = keepq::doctor(path)?;
    let rows: Vec<Value> = checks
        .iter()
        .map(|c| json!({ "check": c.name, "ok": c.ok, "detail": c.detail }))
        .collect();
    output::print_rows(args.output, &rows)?;
    Ok(if checks.iter().all(|c| c.ok) {
        OK
    } else {
        FAILED
    })
}
