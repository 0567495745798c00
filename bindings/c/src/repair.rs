//! Making a damaged store usable again.

use crate::error::{guard, keepq_rc};
use crate::opts::flag;
use crate::report::{damages, fixed, list, no_damage};
use crate::sized::{self, SizedStruct, zeroed_struct};
use crate::text;
use engine::{Code, Error, LostMessages, RepairOptions, RepairReport, Result};
use std::ffi::c_char;
use std::mem::size_of;

/// keepq_repair_note.kind: something that was done, or would be; in order.
pub const KEEPQ_REPAIR_ACTION: i32 = 1;
/// Messages of a topic that are gone: first_seq and count. Each group that had not settled them is
/// told once, by a keepq_receive that returns KEEPQ_E_CORRUPT.
pub const KEEPQ_REPAIR_LOST_MESSAGES: i32 = 2;
/// What else is not known any more: names of topics, where groups stood.
pub const KEEPQ_REPAIR_LOST_STATE: i32 = 3;
/// A copy of a damaged file as it was, or a file that is no part of the log any more; text is its
/// path, relative to the store.
pub const KEEPQ_REPAIR_QUARANTINED: i32 = 4;

/// How a store is repaired. Start it with KEEPQ_REPAIR_OPTS_INIT.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct keepq_repair_opts {
    /// sizeof(keepq_repair_opts).
    pub size: usize,
    /// 1 = only find out what a repair would do: nothing on the disk is changed.
    pub dry_run: i32,
    /// Must be 0.
    pub reserved: i32,
}

/// What keepq_repair came to. Start it with KEEPQ_REPAIR_REPORT_INIT.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct keepq_repair_report {
    /// sizeof(keepq_repair_report).
    pub size: usize,
    /// How many notes there are: of actions, of lost messages, of lost state, of quarantined files,
    /// in this order. 0 = nothing needed repair.
    pub notes: u64,
    /// How many of them are actions.
    pub actions: u64,
    /// How many messages are gone.
    pub lost_messages: u64,
    /// How many damages there were of what had been durable.
    pub damages_before: u64,
    /// How many are left, or would be; 0 = the store is in order.
    pub damages_after: u64,
    /// Messages in the log afterwards.
    pub messages: u64,
    /// Bytes read, afterwards.
    pub bytes: u64,
}

/// One thing that keepq_repair tells. In an array the first one's size is that of all; start that
/// with KEEPQ_REPAIR_NOTE_INIT.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct keepq_repair_note {
    /// sizeof(keepq_repair_note).
    pub size: usize,
    /// Of lost messages: the first of their sequences.
    pub first_seq: u64,
    /// Of lost messages: how many sequences.
    pub count: u64,
    /// One of KEEPQ_REPAIR_*.
    pub kind: i32,
    /// Always 0.
    pub reserved: i32,
    /// Of lost messages: their topic.
    pub topic: [c_char; 256],
    /// It in words, one sentence.
    pub text: [c_char; 512],
}

zeroed_struct!(keepq_repair_opts);
zeroed_struct!(keepq_repair_report);
zeroed_struct!(keepq_repair_note);

impl keepq_repair_note {
    fn of(kind: i32, text: &str) -> Self {
        Self {
            kind,
            text: fixed(text),
            ..Self::INIT
        }
    }

    fn lost(lost: &LostMessages) -> Self {
        let last = lost.first_seq.saturating_add(lost.count.saturating_sub(1));
        let text = format!(
            "sequences {} to {last} of topic {} are lost",
            lost.first_seq, lost.topic
        );
        Self {
            first_seq: lost.first_seq,
            count: lost.count,
            topic: fixed(&lost.topic),
            ..Self::of(KEEPQ_REPAIR_LOST_MESSAGES, &text)
        }
    }

    fn all(report: &RepairReport) -> Vec<Self> {
        let texts = |kind, texts: &[String]| -> Vec<Self> {
            texts.iter().map(|text| Self::of(kind, text)).collect()
        };
        let mut notes = texts(KEEPQ_REPAIR_ACTION, &report.actions);
        notes.extend(report.lost.iter().map(Self::lost));
        notes.extend(texts(KEEPQ_REPAIR_LOST_STATE, &report.lost_state));
        notes.extend(texts(KEEPQ_REPAIR_QUARANTINED, &report.quarantined));
        notes
    }
}

/// Repairs the store in the directory `path`, which nobody may have open: afterwards it opens,
/// everything that is not damaged is delivered, and what damage took is told to each group once.
/// opts, report may be NULL. The first cap notes go to notes, which may be NULL with cap 0.
///
/// Good data is never touched: damaged files are copied to `quarantine/` in the store before
/// anything changes, and no file is changed in place. A repair that dies can be started again. A
/// store that needs none is left as it is. With dry_run nothing is changed, and all this tells what
/// would be; a repair afterwards does the same.
///
/// When even the snapshots are damaged that stand for what was reclaimed, groups start again at the
/// earliest kept message: they get some messages a second time and miss none. A note says so.
///
/// Reads the whole log twice. From any thread; without a handle.
///
/// Errors: KEEPQ_E_INVALID_ARGUMENT, KEEPQ_E_LIMIT_EXCEEDED (cap), KEEPQ_E_INCOMPATIBLE,
/// KEEPQ_E_NOT_FOUND, KEEPQ_E_NOT_A_STORE, KEEPQ_E_BUSY (somebody has it open), KEEPQ_E_CORRUPT
/// (nothing can be made of what is left: no SUPER, or no readable segment; or, with all this
/// filled, damage that it could not put right); the disk's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn keepq_repair(
    path: *const c_char,
    opts: *const keepq_repair_opts,
    report: *mut keepq_repair_report,
    notes: *mut keepq_repair_note,
    cap: usize,
) -> keepq_rc {
    guard(|| {
        // SAFETY: the caller promises a string and the structs.
        let (path, opts) = unsafe {
            sized::check_out(report.cast_const())?;
            (text::path(path)?, sized::read(opts)?)
        };
        let options = opts.to_engine()?;
        let mut n = 0;
        let mut repaired = None;
        let repair = || {
            let report = engine::repair(path, &options, &mut |_, _| {})?;
            Ok(keepq_repair_note::all(repaired.insert(report)))
        };
        // SAFETY: the caller promises the array.
        unsafe { list(notes, cap, &raw mut n, repair) }?;
        let repaired = repaired.unwrap_or_default();
        let totals = keepq_repair_report {
            notes: n as u64,
            actions: repaired.actions.len() as u64,
            lost_messages: repaired
                .lost
                .iter()
                .map(|lost| lost.count)
                .fold(0, u64::saturating_add),
            damages_before: damages(&repaired.before).count() as u64,
            damages_after: damages(&repaired.after).count() as u64,
            messages: repaired.after.messages,
            bytes: repaired.after.bytes,
            ..keepq_repair_report::INIT
        };
        // SAFETY: checked above; the caller promises the struct.
        unsafe { sized::write(report, &totals) }?;
        no_damage(path, &repaired.after)
    })
}

impl keepq_repair_opts {
    fn to_engine(self) -> Result<RepairOptions> {
        if self.reserved != 0 {
            let text = "keepq_repair_opts.reserved is not 0; start it with KEEPQ_REPAIR_OPTS_INIT";
            return Err(Error::new(Code::InvalidArgument, text));
        }
        Ok(RepairOptions {
            dry_run: flag("dry_run", self.dry_run)?,
        })
    }
}
