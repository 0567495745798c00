//! What a workload does away with: all messages of a topic, dead letters.

use std::time::Duration;

use super::super::examine::dead_letters;
use super::super::oracle::{GROUPS, TOPICS, Way, number_of};
use super::Workload;

impl Workload {
    /// Takes all messages out of a topic: as if every group had settled every one of them.
    pub(super) fn purge(&mut self, at: usize) {
        let topic = self.rng.index(TOPICS.len());
        let begun = self.ledger.borrow_mut().begin_purge(topic);
        let result = self.seat(at).topics[topic].purge();
        let end = self.published(at);
        match result {
            Ok(count) => {
                self.note(count);
                self.ledger.borrow_mut().purged(&begun, end);
            }
            Err(e) => {
                if self.is_full(&e) {
                    // From the last, so that removing one moves none that is still to come.
                    let mut ledger = self.ledger.borrow_mut();
                    begun.iter().rev().for_each(|&one| ledger.not_settled(one));
                }
                self.note_error(&e);
            }
        }
    }

    /// Reads dead letters of one group and acks them.
    pub(super) fn dead_letter(&mut self, at: usize) {
        let number = self.rng.index(GROUPS.len());
        let stream = dead_letters(number);
        let store = self.seat(at).store.clone();
        if store.existing_topic(&stream).is_err() {
            return;
        }
        let group = match store.group(&stream, "reader").open() {
            Ok(group) => group,
            Err(e) => return self.note_error(&e),
        };
        let got = match group.receive_batch(4, Duration::ZERO) {
            Ok(got) => got,
            Err(e) => return self.note_error(&e),
        };
        for delivery in got {
            let Some(message) = number_of(delivery.body()) else {
                let text = format!("a dead letter that nobody sent, at {}", delivery.seq());
                self.ledger.borrow_mut().problems.push(text);
                continue;
            };
            self.note(message as u64);
            let settle = self.begin(number, message, Way::Ack);
            let result = delivery.ack();
            self.settled(at, settle, false, result);
        }
    }
}
