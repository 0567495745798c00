//! What the engine tells about itself, as the dataclasses of `keepq._types`.

use crate::args::{FlushMode, WhenFullArg};
use crate::group::BackoffArg;
use engine::{
    GroupConfig, GroupStats, LostMessages, Pin, RecoveryReport, RepairReport, StoreConfig,
    StoreStats, TopicConfig, TopicStats, VerifyReport,
};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

type Object<'py> = PyResult<Bound<'py, PyAny>>;

/// Calls a class of `keepq._types` with fields by name.
macro_rules! dataclass {
    ($py:expr, $class:literal, { $($field:ident: $value:expr),* $(,)? }) => {{
        let fields = PyDict::new($py);
        $( fields.set_item(stringify!($field), $value)?; )*
        $py.import("keepq._types")?.getattr($class)?.call((), Some(&fields))
    }};
}

fn tuple<'py, T>(
    py: Python<'py>,
    items: &[T],
    make: impl Fn(Python<'py>, &T) -> Object<'py>,
) -> Object<'py> {
    let items = items
        .iter()
        .map(|i| make(py, i))
        .collect::<PyResult<Vec<_>>>()?;
    Ok(PyTuple::new(py, items)?.into_any())
}

fn pin<'py>(py: Python<'py>, pin: Option<&Pin>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let Some(p) = pin else { return Ok(None) };
    let made = dataclass!(py, "Pin", {
        topic: &p.topic,
        group: p.group.as_deref(),
        kind: p.kind.to_string(),
        seq: p.seq,
        id: p.id.to_string(),
        bytes: p.bytes,
    });
    made.map(Some)
}

pub(crate) fn topic<'py>(py: Python<'py>, s: &TopicStats) -> Object<'py> {
    dataclass!(py, "TopicStats", {
        name: &s.name,
        first_seq: s.first_seq,
        next_seq: s.next_seq,
        groups: s.groups,
        kept: s.kept,
        pin: pin(py, s.pin.as_ref())?,
    })
}

pub(crate) fn group<'py>(py: Python<'py>, s: &GroupStats) -> Object<'py> {
    dataclass!(py, "GroupStats", {
        topic: &s.topic,
        name: &s.name,
        ready: s.ready,
        in_flight: s.in_flight,
        delayed: s.delayed,
        parked: s.parked,
        lag: s.lag,
        dead: s.dead,
        cursor: s.cursor,
        oldest_age: s.oldest_age.map(|age| age.as_secs_f64()),
        consumers: s.consumers,
        pin: pin(py, s.pin.as_ref())?,
    })
}

pub(crate) fn group_config<'py>(py: Python<'py>, c: &GroupConfig) -> Object<'py> {
    dataclass!(py, "GroupConfig", {
        lease: c.lease.as_secs_f64(),
        max_attempts: c.max_attempts,
        backoff: BackoffArg(c.backoff),
        ack_flush: FlushMode(c.ack_flush),
        max_outstanding: c.max_outstanding,
        tags: PyTuple::new(py, &c.tags)?,
        ordered: c.ordered,
    })
}

pub(crate) fn topic_config<'py>(py: Python<'py>, c: &TopicConfig) -> Object<'py> {
    dataclass!(py, "TopicConfig", {
        max_bytes: c.max_bytes,
        max_messages: c.max_messages,
        when_full: WhenFullArg(c.when_full),
        retain_age: c.retain_age.map(|age| age.as_secs_f64()),
        retain_bytes: c.retain_bytes,
    })
}

pub(crate) fn store_config<'py>(py: Python<'py>, c: &StoreConfig) -> Object<'py> {
    dataclass!(py, "StoreConfig", {
        max_bytes: c.max_bytes,
        when_full: WhenFullArg(c.when_full),
    })
}

pub(crate) fn store<'py>(py: Python<'py>, s: &StoreStats) -> Object<'py> {
    dataclass!(py, "StoreStats", {
        tail: s.tail,
        durable: s.durable,
        disk_bytes: s.disk_bytes,
        segments: s.segments,
        members: s.members,
        outstanding: s.outstanding,
        flushes: s.flushes,
        oneway_failed: s.oneway_failed,
        topics: tuple(py, &s.topics, topic)?,
        groups: tuple(py, &s.groups, group)?,
        pin: pin(py, s.pin.as_ref())?,
    })
}

pub(crate) fn verify<'py>(py: Python<'py>, r: &VerifyReport) -> Object<'py> {
    let finding = |py: Python<'py>, f: &engine::Finding| {
        dataclass!(py, "Finding", {
            file: &f.file,
            position: f.position,
            length: f.length,
            reason: &f.reason,
            damage: f.damage,
            known: f.known,
        })
    };
    dataclass!(py, "VerifyReport", {
        files: r.files,
        records: r.records,
        messages: r.messages,
        bytes: r.bytes,
        findings: tuple(py, &r.findings, finding)?,
    })
}

pub(crate) fn recovery<'py>(py: Python<'py>, r: &RecoveryReport) -> Object<'py> {
    dataclass!(py, "RecoveryReport", {
        created: r.created,
        joined: r.joined,
        warm: r.warm,
        records: r.records,
        cut_bytes: r.cut_bytes,
        damaged_bytes: r.damaged_bytes,
        end: r.end,
        notes: PyTuple::new(py, &r.notes)?,
    })
}

pub(crate) fn repair<'py>(py: Python<'py>, r: &RepairReport) -> Object<'py> {
    let lost = |py: Python<'py>, l: &LostMessages| {
        dataclass!(py, "LostMessages", {
            topic: &l.topic,
            first_seq: l.first_seq,
            count: l.count,
        })
    };
    dataclass!(py, "RepairReport", {
        before: verify(py, &r.before)?,
        actions: PyTuple::new(py, &r.actions)?,
        lost: tuple(py, &r.lost, lost)?,
        lost_state: PyTuple::new(py, &r.lost_state)?,
        quarantined: PyTuple::new(py, &r.quarantined)?,
        after: verify(py, &r.after)?,
    })
}
