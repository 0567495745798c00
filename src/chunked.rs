//! Sending a body that does not fit one record.

use std::time::Duration;

use crate::commitlog::append::{Need, Purpose};
use crate::deadline::Deadline;
use crate::delivery::kept::{self, Over};
use crate::error::{Code, Error, Result};
use crate::format::message::{ChunkExt, Chunks};
use crate::format::record::{self, Draft, HEADER, Kind};
use crate::inner::Inner;
use crate::message::{OutMessage, over_limit};
use crate::shm::control::PINS;
use crate::topic::{Numbered, Stored, Topic, encode_meta};
use crate::topic_options::RoomWait;

/// What became of a chunk that was to be appended.
enum Piece {
    At(u64),
    /// Nothing needs to be appended: the message is stored already.
    Known,
    Over(Box<Over>),
}

impl Topic {
    /// Sends a large body as chunks and a record that lists them. Invisible until that is there.
    pub(crate) fn append_chunked(
        &self,
        message: &OutMessage<'_>,
        numbered: &impl Numbered,
        deadline: Deadline<'_>,
        stored: &mut Stored,
    ) -> Result<Option<Box<Over>>> {
        let log = &self.inner.log;
        let bytes = message.body.len() as u64;
        let pin = Pin::take(&self.inner, deadline)?;
        let piece = (log.max_record(Kind::Chunk) - HEADER - 64) & !15;
        let total = message.body.len().div_ceil(piece);
        let count = u32::try_from(total).unwrap_or(u32::MAX);
        let mut lsns: Vec<u64> = Vec::with_capacity(total);
        let mut record = Vec::new();
        for (number, part) in message.body.chunks(piece).enumerate() {
            let first_lsn = lsns.first().copied().unwrap_or(0);
            let ext = ChunkExt {
                number: u32::try_from(number).unwrap_or(u32::MAX),
                total: count,
                first_lsn,
            }
            .encode();
            Draft::build_into(&mut record, Kind::Chunk, 0, self.id, &ext, &[part]);
            let need = Need::new(record.len(), 0, Purpose::Send);
            let appended = log.transact(need, deadline.at(), |tx| {
                self.check_live()?;
                if numbered.check_part(tx, stored)? {
                    return Ok(Piece::Known);
                }
                if let Some(over) = kept::over(tx, self.id, bytes).filter(|_| first_lsn == 0) {
                    return Ok(Piece::Over(Box::new(over)));
                }
                let lsn = log.append(tx, &mut record, 0);
                if first_lsn == 0 {
                    pin.set(lsn);
                }
                Ok(Piece::At(lsn))
            })?;
            match appended {
                Piece::At(lsn) => lsns.push(lsn),
                Piece::Known => return Ok(None),
                Piece::Over(over) => return Ok(Some(over)),
            }
            self.inner.appended();
        }
        self.append_list(message, (&lsns, count), numbered, deadline, stored)
    }

    /// Appends the record that lists the chunks of a message.
    fn append_list(
        &self,
        message: &OutMessage<'_>,
        (lsns, count): (&[u64], u32),
        numbered: &impl Numbered,
        deadline: Deadline<'_>,
        stored: &mut Stored,
    ) -> Result<Option<Box<Over>>> {
        let log = &self.inner.log;
        let first_lsn = lsns.first().copied().unwrap_or(0);
        let body_len = message.body.len() as u64;
        let chunks = Some(Chunks {
            first_lsn,
            count,
            body_len,
        });
        let list: Vec<u8> = lsns.iter().flat_map(|lsn| lsn.to_le_bytes()).collect();
        let place = (Some(first_lsn), body_len);
        let sent_at_ms = log.ctl.host.realtime_ms();
        let (mut ext, mut record) = (Vec::new(), Vec::new());
        loop {
            ext.clear();
            encode_meta(message, numbered, sent_at_ms, chunks, &mut ext)?;
            let len = record::padded(record::record_len(ext.len(), list.len()));
            if len > log.max_record(Kind::Msg) {
                return Err(over_ring(body_len, log.ctl.layout.geometry.ring));
            }
            Draft::build_into(&mut record, Kind::Msg, 0, self.id, &ext, &[&list]);
            // The chunks stay: what fills the room meanwhile, or has the number, holds up their end
            // only. For room it is waited as long as for the disk: made again, they would fill it.
            match self.append_record(&mut record, place, numbered, deadline, stored) {
                Ok(Some(over)) => {
                    self.await_room(&over, body_len, deadline.at(), &mut RoomWait::whole())?;
                }
                Err(_) if numbered.again() => {}
                done => return done,
            }
        }
    }
}

/// Keeps the first chunk of a send in progress from being reclaimed.
struct Pin<'a> {
    inner: &'a Inner,
    index: usize,
}

impl<'a> Pin<'a> {
    /// Takes one of this member's pins, waiting for another chunked send if all are in use.
    fn take(inner: &'a Inner, deadline: Deadline<'_>) -> Result<Self> {
        let mut used = inner.pins.lock();
        loop {
            if let Some(index) = (0..PINS).find(|i| *used & (1 << i) == 0) {
                *used |= 1 << index;
                return Ok(Self { inner, index });
            }
            let left = deadline.at().saturating_sub(inner.now());
            if left == 0 {
                return Err(Error::new(
                    Code::Timeout,
                    format!("{PINS} large messages are being sent by this process; send fewer"),
                ));
            }
            inner
                .pin_freed
                .wait_for(&mut used, Duration::from_millis(left.min(50)));
        }
    }

    fn set(&self, lsn: u64) {
        let ctl = &self.inner.log.ctl;
        ctl.publish(ctl.layout.pin(ctl.me(), self.index), lsn);
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        if killed!() {
            return;
        }
        self.set(0);
        *self.inner.pins.lock() &= !(1 << self.index);
        self.inner.pin_freed.notify_one();
    }
}

fn over_ring(bytes: u64, ring: u64) -> Error {
    over_limit(format!(
        "a body of {bytes} bytes with these headers is too large for this store's ring of {ring} \
         bytes"
    ))
}
