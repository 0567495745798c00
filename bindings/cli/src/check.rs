//! `keepq verify` and `keepq doctor`.

use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::args::{ListArgs, ListOutput};
use crate::exit::{DAMAGE, FAILED, Failure, OK};
use crate::output;

pub(crate) fn verify(path: &Path, args: &ListArgs) -> Result<i32, Failure> {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}") {
        bar.set_style(style);
    }
    let report = keepq::verify(path, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let report = report?;
    let findings: Vec<Value> = report
        .findings
        .iter()
        .map(|f| {
            json!({
                "file": f.file,
                "position": f.position,
                "length": f.length,
                "damage": f.damage,
                "reason": f.reason,
            })
        })
        .collect();
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
