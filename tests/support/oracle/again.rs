//! What a second recovery may find otherwise than the first.

use super::{Found, GROUPS, Ledger, Outcome, Settle};

impl Outcome {
    /// How the other differs in what a user can see, if it does. A message that had its last
    /// attempt may be buried or not: the record that counts attempts may be left out.
    pub fn differs(&self, other: &Self, ledger: &Ledger) -> Option<String> {
        for group in 0..GROUPS.len() {
            let same = |number: &usize| {
                let (a, b) = (&self.live[group], &other.live[group]);
                let (c, d) = (&self.dead[group], &other.dead[group]);
                let mortal = ledger.is_mortal(group, *number);
                // A cut undoes an ack that the log had no room for.
                let back = b.get(number).or(d.get(number).filter(|_| mortal));
                let undone = !a.contains_key(number)
                    && !c.contains_key(number)
                    && back.is_some_and(|found| ledger.is_unnoted(group, *number, found.id));
                if mortal && !undone && a.contains_key(number) != b.contains_key(number) {
                    let id = |found: Option<&Found>| found.map(|f| f.id);
                    return id(a.get(number).or(c.get(number)))
                        == id(b.get(number).or(d.get(number)));
                }
                undone || a.get(number) == b.get(number) && c.get(number) == d.get(number)
            };
            let all = [&self.live, &other.live, &self.dead, &other.dead];
            let mut numbers = all.iter().flat_map(|found| found[group].keys());
            if let Some(number) = numbers.find(|number| !same(number)) {
                let shown = all.map(|found| found[group].get(number));
                return Some(format!(
                    "message {number} in group {group}: live, live then, dead, dead then: \
                     {shown:?}"
                ));
            }
        }
        other.problems.first().cloned()
    }
}

impl Ledger {
    /// Whether the log had no room for the ack of this message.
    fn is_unnoted(&self, group: usize, number: usize, id: u64) -> bool {
        let unnoted = |s: &Settle| s.unnoted && !s.durable;
        self.messages[number].place.is_some_and(|at| at.1 == id)
            && self.settles_of(group, number).any(unnoted)
    }
}
