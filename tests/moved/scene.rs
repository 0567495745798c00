//! Stores in which segments come and go.
#![allow(dead_code, reason = "each suite uses a part")]

use std::time::Duration;

use keepq::sim::SimWorld;
use keepq::{Delivery, Flush, Result, Store};

use crate::members::{Member, id_of, open_with, options};

/// The segment files, in order.
pub(crate) fn segments(world: &SimWorld) -> Vec<String> {
    let files = world.files().into_iter().map(|(name, _)| name);
    let mut names: Vec<String> = files.filter(|name| name.ends_with(".seg")).collect();
    names.sort();
    names
}

/// The number of the oldest segment.
pub(crate) fn first_segment(world: &SimWorld) -> u64 {
    let name = segments(world).into_iter().next().unwrap();
    let number = name.rsplit('/').next().unwrap().split('.').next().unwrap();
    u64::from_str_radix(number, 16).unwrap()
}

/// Sends messages of another topic and acks them at once, so that segments fill with what is done.
pub(crate) fn flow(m: &Member, ids: std::ops::Range<u64>) {
    let group = m.group("others", "h");
    for id in ids {
        m.send_async("others", id, 2000);
        let got = group.receive_batch(8, Duration::ZERO).unwrap();
        assert!(group.ack_many(got).into_iter().all(|r| r.is_ok()));
        m.store.look();
    }
}

/// Until there is nothing left to do.
pub(crate) fn settle_down(m: &Member) {
    for _ in 0..4 {
        m.store.flush(None).unwrap();
        m.store.rest().unwrap();
    }
}

/// Topics and groups of [`Old`].
pub(crate) const TOPIC: &str = "t";

/// A store whose oldest segments hold little that is live, and ballast that is about to be acked:
/// then they can be made free.
pub(crate) struct Old {
    pub(crate) member: Member,
    /// Leased all along.
    pub(crate) stuck: Delivery,
    ballast: Vec<Delivery>,
}

/// The live messages of an old store, the first of them stuck, the second a dead letter, the third
/// one in chunks that nobody has received.
pub(crate) const STUCK: u64 = 1;
pub(crate) const DEAD: u64 = 2;
pub(crate) const LARGE: u64 = 3;
pub(crate) const LARGE_LEN: usize = 6000;

/// Makes an old store, all of it durable.
pub(crate) fn old(world: &SimWorld) -> Old {
    let m = open_with(world, options().flush(Flush::Async));
    let group = m.group(TOPIC, "g");
    m.send_async(TOPIC, STUCK, 100);
    m.send_async(TOPIC, DEAD, 100);
    let mut got = group.receive_detached(2, Duration::ZERO).unwrap();
    let dead = got.pop().unwrap();
    dead.reject("no good").unwrap();
    m.send_async(TOPIC, LARGE, LARGE_LEN);
    let ballast = m.group("ballast", "b");
    let mut kept = Vec::new();
    let mut next = 1000;
    for _ in 0..10 {
        m.send_async("ballast", next, 2000);
        kept.extend(ballast.receive(Duration::ZERO).unwrap());
        flow(&m, next + 1..next + 7);
        next += 7;
    }
    m.store.flush(None).unwrap();
    Old {
        member: m,
        stuck: got.pop().unwrap(),
        ballast: kept,
    }
}

impl Old {
    /// Acks the ballast, durably.
    pub(crate) fn drop_ballast(&mut self) {
        for delivery in self.ballast.drain(..) {
            delivery.ack().unwrap();
        }
        self.member.store.flush(None).unwrap();
    }

    /// Makes the oldest segments free, all of them.
    pub(crate) fn make_free(&mut self) {
        self.drop_ballast();
        settle_down(&self.member);
    }
}

/// What a reader finds of the live messages: numbers of the topic's messages and of the dead
/// letters. Takes no lock.
pub(crate) fn look_through(store: &Store) -> Result<(Vec<u64>, Vec<u64>)> {
    let topic = store.existing_topic(TOPIC)?;
    let mut live = Vec::new();
    for message in topic.browse() {
        let message = message?;
        let number = id_of(message.content?.body());
        if number != DEAD {
            live.push(number);
        }
    }
    let letters = store.group(TOPIC, "g").create(false).open()?.dead_letters();
    let mut dead = Vec::new();
    for letter in letters.browse() {
        let letter = letter?;
        letter.burial?;
        dead.push(id_of(letter.content?.body()));
    }
    Ok((live, dead))
}
