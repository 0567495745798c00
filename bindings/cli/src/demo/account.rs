//! The accounts: what all ledgers together prove.

use std::collections::HashMap;

use super::ledger::Line;

/// What became of the demonstration.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) sent: u64,
    pub(super) confirmed: u64,
    pub(super) delivered: u64,
    pub(super) duplicates: u64,
    pub(super) kills: u64,
    pub(super) lost: u64,
    /// Sentences about whatever else was not as promised.
    pub(super) problems: Vec<String>,
}

impl Account {
    pub(super) fn line(&self) -> String {
        format!(
            "sent={} confirmed={} delivered={} duplicates={} kills={} lost={}",
            self.sent, self.confirmed, self.delivered, self.duplicates, self.kills, self.lost
        )
    }
}

/// One process that ran.
pub(super) struct Life {
    pub(super) lines: Vec<Line>,
    pub(super) killed: bool,
}

/// Whether a ledger ends inside a call of the engine: an opening, a send, a receive or a settlement
/// that had begun and not returned.
pub(super) fn inside_a_call(lines: &[Line]) -> bool {
    matches!(
        lines.last(),
        Some(Line::Opening(_) | Line::Sending(..) | Line::Receiving(_) | Line::Delivered(..))
    )
}

#[derive(Default)]
struct Fate {
    sent: bool,
    confirmed: bool,
    deliveries: u64,
    last_delivery: u64,
    nacks: u64,
    first_ack: Option<u64>,
    acks: u64,
    in_doubt: bool,
}

/// Adds all lives up.
pub(super) fn add_up(lives: &[Life]) -> Account {
    let mut account = Account::default();
    let mut fates: HashMap<u64, Fate> = HashMap::new();
    for life in lives {
        let mut open: HashMap<u64, ()> = HashMap::new();
        for line in &life.lines {
            follow(&mut fates, &mut open, &mut account, line);
        }
        if life.killed {
            for n in open.into_keys() {
                fates.entry(n).or_default().in_doubt = true;
            }
        }
    }
    for (n, fate) in &fates {
        judge(&mut account, *n, fate);
    }
    account.kills = lives.iter().filter(|life| life.killed).count() as u64;
    account
}

fn follow(
    fates: &mut HashMap<u64, Fate>,
    open: &mut HashMap<u64, ()>,
    account: &mut Account,
    line: &Line,
) {
    match line {
        Line::Sending(n, _) => fates.entry(*n).or_default().sent = true,
        Line::Confirmed(n, ..) => fates.entry(*n).or_default().confirmed = true,
        Line::Delivered(n, time) => {
            let fate = fates.entry(*n).or_default();
            fate.deliveries += 1;
            fate.last_delivery = fate.last_delivery.max(*time);
            open.insert(*n, ());
        }
        Line::Acked(n, time) => {
            let fate = fates.entry(*n).or_default();
            fate.acks += 1;
            fate.first_ack = Some(fate.first_ack.map_or(*time, |first| first.min(*time)));
            open.remove(n);
        }
        Line::Nacked(n, _) => {
            fates.entry(*n).or_default().nacks += 1;
            open.remove(n);
        }
        Line::LeaseLost(n, _) => {
            open.remove(n);
        }
        Line::Opening(_) | Line::Receiving(_) => {}
        Line::Error(text) => account.problems.push(format!("a process failed: {text}")),
    }
}

fn judge(account: &mut Account, n: u64, fate: &Fate) {
    account.sent += u64::from(fate.sent);
    account.confirmed += u64::from(fate.confirmed);
    account.delivered += u64::from(fate.deliveries > 0);
    // A message given back on purpose is meant to come again.
    account.duplicates += fate.deliveries.saturating_sub(1 + fate.nacks);
    if fate.confirmed && fate.acks == 0 && !fate.in_doubt {
        account.lost += 1;
    }
    if fate.deliveries > 0 && !fate.sent {
        account
            .problems
            .push(format!("message {n} was delivered and never sent"));
    }
    if fate.acks > 1 {
        account
            .problems
            .push(format!("message {n} was acknowledged {} times", fate.acks));
    }
    if fate.first_ack.is_some_and(|ack| ack < fate.last_delivery) {
        account.problems.push(format!(
            "message {n} was delivered again after its ack returned"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(killed: bool, lines: &[Line]) -> Life {
        Life {
            lines: lines.to_vec(),
            killed,
        }
    }

    fn sent(numbers: &[u64]) -> Life {
        let both = |&n: &u64| [Line::Sending(n, n), Line::Confirmed(n, n, "0".into())];
        life(false, &numbers.iter().flat_map(both).collect::<Vec<_>>())
    }

    #[test]
    fn acknowledged_messages_are_not_lost() {
        let consumer = life(
            false,
            &[
                Line::Delivered(1, 10),
                Line::Acked(1, 11),
                Line::Receiving(12),
            ],
        );
        let account = add_up(&[sent(&[1]), consumer]);
        assert_eq!(
            account.line(),
            "sent=1 confirmed=1 delivered=1 duplicates=0 kills=0 lost=0"
        );
        assert!(account.problems.is_empty());
    }

    #[test]
    fn a_confirmed_message_that_no_ledger_shows_acknowledged_is_lost() {
        let consumer = life(false, &[Line::Delivered(1, 10), Line::LeaseLost(1, 11)]);
        assert_eq!(add_up(&[sent(&[1, 2]), consumer]).lost, 2);
    }

    #[test]
    fn only_a_kill_leaves_an_ack_in_doubt() {
        let lines = [Line::Delivered(1, 10)];
        assert_eq!(add_up(&[sent(&[1]), life(true, &lines)]).lost, 0);
        assert_eq!(add_up(&[sent(&[1]), life(false, &lines)]).lost, 1);
        let given_back = [Line::Delivered(1, 10), Line::Nacked(1, 11)];
        assert_eq!(add_up(&[sent(&[1]), life(true, &given_back)]).lost, 1);
    }

    #[test]
    fn an_unconfirmed_send_may_go_either_way() {
        let sender = life(true, &[Line::Sending(1, 1)]);
        assert!(inside_a_call(&sender.lines));
        let account = add_up(&[sender]);
        assert_eq!((account.sent, account.confirmed, account.lost), (1, 0, 0));
    }

    #[test]
    fn broken_promises_are_named() {
        let first = life(false, &[Line::Delivered(1, 10), Line::Acked(1, 11)]);
        let again = life(false, &[Line::Delivered(1, 12), Line::Acked(1, 13)]);
        let account = add_up(&[sent(&[1]), first, again]);
        assert_eq!(account.duplicates, 1);
        assert_eq!(account.problems.len(), 2, "{:?}", account.problems);
        let invented = life(false, &[Line::Delivered(9, 1), Line::Acked(9, 2)]);
        assert!(add_up(&[invented]).problems[0].contains("never sent"));
    }
}
