//! T7: opening and the first receive with a deep backlog, after SIGKILL of every process.

use super::of;
use crate::Res;
use crate::children::{Role, path};
use crate::dir::forget_pages;
use crate::peer::{Facts, Peer};
use crate::report::{Verdict, number};
use crate::rounds::{Entrant, Outcome, alternate};
use crate::run::Bench;

/// How the store is found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    /// As the killed processes left it.
    Warm,
    /// As after a reboot: no shared memory, no page in memory.
    Cold,
    /// Open in another process.
    Live,
}

pub(crate) fn run(bench: &mut Bench) -> Res<()> {
    let dir = bench.dir("t7")?;
    let handing = |facts: &Facts| facts.take.is_some();
    let mut filled = Vec::new();
    for peer in bench.able(handing) {
        let depth = depth(bench, peer);
        let store = path(&dir.join(peer.name()));
        let fill = || {
            let mut role = Role::start(&["fill", peer.name(), &store, &depth.to_string(), "128"])?;
            role.hear()?;
            role.kill()
        };
        filled.push((peer, depth, store.clone(), fill()));
    }
    for found in [Found::Warm, Found::Cold, Found::Live] {
        let mut entrants = Vec::new();
        for (peer, depth, store, fill) in &filled {
            let (peer, store) = (*peer, store.clone());
            if found == Found::Live && !peer.facts().shared {
                continue;
            }
            let note = format!("{} waiting", number(*depth as f64));
            entrants.push(match fill {
                Ok(()) => Entrant::new(peer.name(), note, move || open_once(peer, &store, found)),
                Err(error) => Entrant::broken(peer.name(), error.clone()),
            });
        }
        let outcomes = alternate(3, entrants, || Ok(()))?;
        let (work, need) = match found {
            Found::Warm => ("open + first receive after SIGKILL", 10.0),
            Found::Cold => ("open + first receive, cold", 200.0),
            Found::Live => ("open + first receive, others alive", 1.0),
        };
        bench.report.add("T7", work, "ms", &outcomes);
        bench.report.verdict(Verdict {
            target: "T7",
            what: format!("{work}, ms"),
            got: of(&outcomes, "keepq").and_then(Outcome::figure),
            need,
            at_least: false,
            note: String::new(),
        });
    }
    Ok(())
}

/// keepq has ten million waiting; the others as many only in a full run.
fn depth(bench: &Bench, peer: &dyn Peer) -> u64 {
    let most = peer.facts().depth;
    if bench.full || peer.name() == "keepq" {
        most
    } else {
        most.min(200_000)
    }
}

fn open_once(peer: &dyn Peer, store: &str, found: Found) -> Res<f64> {
    let mut holder = None;
    match found {
        Found::Warm => {}
        Found::Cold => {
            // keepq's shared memory does not survive a reboot: its boot id does not fit.
            let ctl = std::path::Path::new(store).join("ctl");
            if peer.name() == "keepq" && ctl.exists() {
                std::fs::remove_file(ctl).map_err(crate::cannot("remove ctl"))?;
            }
            forget_pages(std::path::Path::new(store))?;
        }
        Found::Live => {
            let mut role = Role::start(&["first", peer.name(), store])?;
            role.hear()?;
            holder = Some(role);
        }
    }
    let mut role = Role::start(&["first", peer.name(), store])?;
    let took = role.hear_number()?;
    role.kill()?;
    drop(holder);
    Ok(took)
}
