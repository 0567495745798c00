//! Counters, and checking a store.

use crate::error::{KEEPQ_OK, guard, keepq_rc};
use crate::group::{self, keepq_group};
use crate::sized::{self, Array, SizedStruct, zeroed_struct};
use crate::store::{keepq, store};
use crate::text;
use engine::{Code, Error, Finding, GroupStats, Result, TopicStats, VerifyReport};
use std::ffi::c_char;
use std::mem::size_of;
use std::path::Path;

/// Counters of a store. Start it with KEEPQ_STORE_STATS_INIT.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct keepq_store_stats {
    /// sizeof(keepq_store_stats).
    pub size: usize,
    /// Log position after the last record.
    pub tail: u64,
    /// Log position below which everything is on disk.
    pub durable: u64,
    /// Bytes of the log files.
    pub disk_bytes: u64,
    /// Segments of the log.
    pub segments: u64,
    /// Open handles of the store, in all processes.
    pub members: u64,
    /// Messages with receivers or waiting for another attempt, in all groups.
    pub outstanding: u64,
    /// Flushes by any process since the store's shared memory was made.
    pub flushes: u64,
    /// One-way sends of this handle that failed.
    pub oneway_failed: u64,
    /// How many topics there are, dead-letter streams included.
    pub topics: u64,
    /// How many groups there are.
    pub groups: u64,
}

/// Counters of a topic. Start it with KEEPQ_TOPIC_STATS_INIT. In an array the first one's size is
/// that of all.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct keepq_topic_stats {
    /// sizeof(keepq_topic_stats).
    pub size: usize,
    /// Sequence of the earliest kept message.
    pub first_seq: u64,
    /// Sequence that the next message gets.
    pub next_seq: u64,
    /// How many groups it has.
    pub groups: u64,
    /// Its name; "%DLQ%topic%group" is a dead-letter stream.
    pub name: [c_char; 256],
}

/// Counters of a group. Start it with KEEPQ_GROUP_STATS_INIT. In an array the first one's size is
/// that of all.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct keepq_group_stats {
    /// sizeof(keepq_group_stats).
    pub size: usize,
    /// Messages that can be received now, those never looked at included.
    pub ready: u64,
    /// Messages with a receiver.
    pub in_flight: u64,
    /// Messages that wait for another attempt.
    pub delayed: u64,
    /// Sequences up to the end of the topic: at most so many messages were never looked at.
    pub lag: u64,
    /// Dead letters.
    pub dead: u64,
    /// Sequence of the next message never looked at.
    pub cursor: u64,
    /// Its topic.
    pub topic: [c_char; 256],
    /// Its name.
    pub name: [c_char; 128],
    /// Messages that wait behind another one with the same order_key.
    pub parked: u64,
    /// How long ago the oldest message was sent that the group has not settled: the one with the
    /// lowest sequence. -1 = there is none, or it cannot be read.
    pub oldest_age_ms: i64,
    /// Open handles of the store, in all processes, that have the group open.
    pub consumers: u64,
}

/// What keepq_verify found in all. Start it with KEEPQ_VERIFY_REPORT_INIT.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct keepq_verify_report {
    /// sizeof(keepq_verify_report).
    pub size: usize,
    /// Files read.
    pub files: u64,
    /// Records checked.
    pub records: u64,
    /// Messages among them.
    pub messages: u64,
    /// Bytes read.
    pub bytes: u64,
    /// How many findings there are.
    pub findings: u64,
    /// How many of them are damage of what had been durable.
    pub damages: u64,
}

/// One thing that keepq_verify found. In an array the first one's size is that of all; start that
/// with KEEPQ_FINDING_INIT.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct keepq_finding {
    /// sizeof(keepq_finding).
    pub size: usize,
    /// Byte offset in the file.
    pub position: u64,
    /// How many bytes are concerned; 0 if that is not known.
    pub length: u64,
    /// 1 = damage of what had been durable, 0 = only worth knowing.
    pub damage: i32,
    /// 1 = it was damage that keepq_repair has dealt with: what it took is lost, its groups are
    /// told of it. Then damage is 0.
    pub known: i32,
    /// The file, relative to the store.
    pub file: [c_char; 256],
    /// What is wrong, one sentence.
    pub reason: [c_char; 512],
}

zeroed_struct!(keepq_store_stats);
zeroed_struct!(keepq_topic_stats);
zeroed_struct!(keepq_group_stats);
zeroed_struct!(keepq_verify_report);
zeroed_struct!(keepq_finding);

/// The text with a NUL behind it; cut, between characters, to what fits.
pub(crate) fn fixed<const N: usize>(text: &str) -> [c_char; N] {
    let mut end = text.find('\0').unwrap_or(text.len()).min(N - 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut out = [0; N];
    for (to, from) in out.iter_mut().zip(text[..end].bytes()) {
        *to = c_char::from_ne_bytes([from]);
    }
    out
}

impl keepq_topic_stats {
    fn of(stats: &TopicStats) -> Self {
        Self {
            first_seq: stats.first_seq,
            next_seq: stats.next_seq,
            groups: stats.groups,
            name: fixed(&stats.name),
            ..Self::INIT
        }
    }
}

impl keepq_group_stats {
    fn of(stats: &GroupStats) -> Self {
        Self {
            ready: stats.ready,
            in_flight: stats.in_flight,
            delayed: stats.delayed,
            lag: stats.lag,
            dead: stats.dead,
            cursor: stats.cursor,
            topic: fixed(&stats.topic),
            name: fixed(&stats.name),
            parked: stats.parked,
            oldest_age_ms: stats
                .oldest_age
                .map_or(-1, |age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX)),
            consumers: stats.consumers,
            ..Self::INIT
        }
    }
}

impl keepq_finding {
    fn of(finding: &Finding) -> Self {
        Self {
            position: finding.position,
            length: finding.length,
            damage: i32::from(finding.damage),
            known: i32::from(finding.known),
            file: fixed(&finding.file),
            reason: fixed(&finding.reason),
            ..Self::INIT
        }
    }
}

/// Writes as many as fit into the caller's array, and how many there are.
///
/// # Safety
/// `out` is NULL with `cap` 0, or an array of `cap` structs; `n` is a place for a number or NULL.
pub(crate) unsafe fn list<T: SizedStruct>(
    out: *mut T,
    cap: usize,
    n: *mut usize,
    get: impl FnOnce() -> Result<Vec<T>>,
) -> Result<()> {
    // SAFETY: the caller's promise.
    let (out, n) = unsafe { (Array::new(out, cap)?, n.as_mut()) };
    let n = n.ok_or_else(|| text::null("n"))?;
    *n = 0;
    if out.is_none() && cap > 0 {
        return Err(text::null("out"));
    }
    let all = get()?;
    *n = all.len();
    for (index, one) in all.iter().take(cap).enumerate() {
        if let Some(out) = &out {
            out.write(index, one);
        }
    }
    Ok(())
}

/// ======== Counters and checks ========
///
/// Fills out with counters of the store.
///
/// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT; the disk's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_stats(q: *mut keepq, out: *mut keepq_store_stats) -> keepq_rc {
    guard(|| {
        let entry = store(q)?;
        if out.is_null() {
            return Err(text::null("out"));
        }
        let stats = entry.store.stats()?;
        let counters = keepq_store_stats {
            tail: stats.tail,
            durable: stats.durable,
            disk_bytes: stats.disk_bytes,
            segments: stats.segments,
            members: stats.members,
            outstanding: stats.outstanding,
            flushes: stats.flushes,
            oneway_failed: stats.oneway_failed,
            topics: stats.topics.len() as u64,
            groups: stats.groups.len() as u64,
            ..keepq_store_stats::INIT
        };
        // SAFETY: the caller promises the struct.
        unsafe { sized::write(out, &counters) }?;
        Ok(KEEPQ_OK)
    })
}

/// Fills out with the first cap topics, by name, and *n with how many there are, which may be more.
/// out may be NULL with cap 0.
///
/// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT,
/// KEEPQ_E_LIMIT_EXCEEDED (cap); the disk's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_topics(
    q: *mut keepq,
    out: *mut keepq_topic_stats,
    cap: usize,
    n: *mut usize,
) -> keepq_rc {
    guard(|| {
        let entry = store(q)?;
        let get = || {
            Ok(entry
                .store
                .stats()?
                .topics
                .iter()
                .map(keepq_topic_stats::of)
                .collect())
        };
        // SAFETY: the caller promises the array and a place for the number.
        unsafe { list(out, cap, n, get) }?;
        Ok(KEEPQ_OK)
    })
}

/// Fills out with the first cap groups, by topic and name, and *n with how many there are, which
/// may be more. out may be NULL with cap 0.
///
/// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT,
/// KEEPQ_E_LIMIT_EXCEEDED (cap); the disk's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_groups(
    q: *mut keepq,
    out: *mut keepq_group_stats,
    cap: usize,
    n: *mut usize,
) -> keepq_rc {
    guard(|| {
        let entry = store(q)?;
        let get = || {
            Ok(entry
                .store
                .stats()?
                .groups
                .iter()
                .map(keepq_group_stats::of)
                .collect())
        };
        // SAFETY: the caller promises the array and a place for the number.
        unsafe { list(out, cap, n, get) }?;
        Ok(KEEPQ_OK)
    })
}

/// Fills out with counters of one group.
///
/// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_CLOSED, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_group_counters(
    g: *mut keepq_group,
    out: *mut keepq_group_stats,
) -> keepq_rc {
    guard(|| {
        let entry = group::entry(g)?;
        if out.is_null() {
            return Err(text::null("out"));
        }
        let stats = keepq_group_stats::of(&entry.group.stats()?);
        // SAFETY: the caller promises the struct.
        unsafe { sized::write(out, &stats) }?;
        Ok(KEEPQ_OK)
    })
}

/// Reads and checks every byte of the store that has a checksum, and changes nothing. report may be
/// NULL. The first cap findings go to findings, which may be NULL with cap 0. Returns
/// KEEPQ_E_CORRUPT, with all this filled, when something that had been durable is damaged:
/// keepq_last_error names the first file and position.
///
/// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT,
/// KEEPQ_E_LIMIT_EXCEEDED (cap), KEEPQ_E_CORRUPT; the disk's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_verify(
    q: *mut keepq,
    report: *mut keepq_verify_report,
    findings: *mut keepq_finding,
    cap: usize,
) -> keepq_rc {
    guard(|| {
        let entry = store(q)?;
        // SAFETY: the caller promises the struct and the array.
        unsafe {
            verified(entry.store.path(), (report, findings, cap), || {
                entry.store.verify()
            })
        }
    })
}

/// keepq_verify of a store that nobody need have open, and that perhaps cannot be opened: the
/// directory `path`. Of a store that is in use, what others write meanwhile may show as an
/// unfinished end, not as damage.
///
/// Errors: KEEPQ_E_INVALID_ARGUMENT, KEEPQ_E_LIMIT_EXCEEDED (cap), KEEPQ_E_NOT_FOUND,
/// KEEPQ_E_NOT_A_STORE, KEEPQ_E_INCOMPATIBLE, KEEPQ_E_CORRUPT (as keepq_verify; with nothing filled
/// when SUPER itself is damaged); the disk's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_verify_path(
    path: *const c_char,
    report: *mut keepq_verify_report,
    findings: *mut keepq_finding,
    cap: usize,
) -> keepq_rc {
    guard(|| {
        // SAFETY: the caller promises a string.
        let path = unsafe { text::path(path) }?;
        let verify = || engine::verify(path, &mut |_, _| {});
        // SAFETY: the caller promises the struct and the array.
        unsafe { verified(path, (report, findings, cap), verify) }
    })
}

/// The caller's places for what a check finds.
type Found = (*mut keepq_verify_report, *mut keepq_finding, usize);

/// # Safety
/// The places are a struct or NULL, and an array of so many or NULL with 0.
unsafe fn verified(
    path: &Path,
    (report, findings, cap): Found,
    verify: impl FnOnce() -> Result<VerifyReport>,
) -> Result<keepq_rc> {
    // SAFETY: the caller's promise.
    unsafe { sized::check_out(report.cast_const()) }?;
    let mut n = 0;
    let mut found = None;
    let verify = || {
        let verified = found.insert(verify()?);
        Ok(verified.findings.iter().map(keepq_finding::of).collect())
    };
    // SAFETY: the caller's promise.
    unsafe { list(findings, cap, &raw mut n, verify) }?;
    let found = found.unwrap_or_default();
    let totals = keepq_verify_report {
        files: found.files,
        records: found.records,
        messages: found.messages,
        bytes: found.bytes,
        findings: found.findings.len() as u64,
        damages: damages(&found).count() as u64,
        ..keepq_verify_report::INIT
    };
    // SAFETY: checked above; the caller's promise.
    unsafe { sized::write(report, &totals) }?;
    no_damage(path, &found)
}

/// What had been durable and is damaged.
pub(crate) fn damages(found: &VerifyReport) -> impl Iterator<Item = &Finding> {
    found.findings.iter().filter(|f| f.damage)
}

/// The first damage as an error.
pub(crate) fn no_damage(path: &Path, found: &VerifyReport) -> Result<keepq_rc> {
    match damages(found).next() {
        None => Ok(KEEPQ_OK),
        Some(first) => Err(Error::new(
            Code::Corrupt,
            format!("{} at {}: {}", first.file, first.position, first.reason),
        )
        .at_path(path.join(&first.file))
        .at_position(first.position)),
    }
}
