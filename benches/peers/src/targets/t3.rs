//! T3: synchronous sends by four processes of 16 threads, beside one process of 64.

use super::{MAIN, keepq_to, of};
use crate::Res;
use crate::children::{Role, path};
use crate::peer::Peer;
use crate::report::Verdict;
use crate::rounds::{Entrant, alternate, ratio};
use crate::run::Bench;

const ONE: &str = "keepq, 1 process x 64 threads";

pub(crate) fn run(bench: &mut Bench) -> Res<()> {
    let dir = bench.dir("t3")?;
    let millis = bench.slot().as_millis();
    let enter = |name: &str, peer: &dyn Peer, store: &str, processes: usize, threads: usize| {
        let (store, threads) = (path(&dir.join(store)), threads.to_string());
        let size = MAIN.to_string();
        let start = |_| {
            let mut role = Role::start(&["senders", peer.name(), &store, &threads, &size])?;
            role.hear().map(|_| role)
        };
        let mut roles = (0..processes).map(start).collect::<Res<Vec<_>>>()?;
        let mut turn = move || {
            for role in &mut roles {
                role.tell(&millis.to_string())?;
            }
            roles.iter_mut().map(Role::hear_number).sum()
        };
        turn()?;
        Ok(Entrant::new(name, "", turn))
    };
    let mut entrants = bench.entrants(
        |facts| facts.shared && facts.sync.is_some(),
        |peer| enter(peer.name(), peer, peer.name(), 4, 16),
    );
    if let Some(keepq) = bench.peers.first() {
        entrants.push(enter(ONE, *keepq, "one", 1, 64)?);
    }
    let outcomes = alternate(bench.rounds(), entrants, || Ok(()))?;
    let work = "sync send, 4 processes x 16, 128 B";
    bench.report.add("T3", work, "1/s", &outcomes);
    debug_assert!(of(&outcomes, ONE).is_some());
    let against_one = of(&outcomes, "keepq").zip(of(&outcomes, ONE));
    bench.report.verdict(Verdict {
        target: "T3",
        what: "sync send, 4 processes x 16 threads, of 1 x 64".into(),
        got: against_one.and_then(|(four, one)| ratio(four, one)),
        need: 0.9,
        at_least: true,
        note: keepq_to(&outcomes, "rusqlite").map_or_else(String::new, |times| {
            format!("{} x rusqlite", crate::report::number(times))
        }),
    });
    Ok(())
}
