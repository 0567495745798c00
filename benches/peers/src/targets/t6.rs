//! T6: the hop from a send in one process to the return of a receive that was blocked in another,
//! beside a bare futex wake-up between two processes. One way is half a round trip.

use std::time::{Duration, Instant};

use super::of;
use crate::children::{Role, path};
use crate::peer::{Mode, Peer};
use crate::report::Verdict;
use crate::rounds::{Entrant, alternate, median, ratio};
use crate::run::Bench;
use crate::shared_words::SharedWords;
use crate::{Res, cannot};

/// The words of the bare hop.
pub(crate) const PING: usize = 0;
pub(crate) const PONG: usize = 1;

const TRIPS: usize = 400;
/// Between trips, so that the other side has gone to sleep.
const REST: Duration = Duration::from_micros(200);
const RAW: &str = "raw futex hop";

pub(crate) fn run(bench: &mut Bench) -> Res<()> {
    let dir = bench.dir("t6")?;
    let words = dir.join("words");
    let shared = SharedWords::open(&words).map_err(cannot("map"))?;
    let mut partner = Role::start(&["words", &path(&words)])?;
    partner.hear()?;
    let mut turn = 0;
    let raw = Entrant::new(RAW, "", move || {
        let _keep = &partner;
        half_trips(|done| {
            turn += 1;
            shared.post(PING, turn).map_err(cannot("wake"))?;
            shared.wait_for(PONG, turn).map_err(cannot("wait"))?;
            done();
            Ok(())
        })
    });
    let mut entrants = vec![raw];
    let enter = |peer: &'static dyn Peer| {
        let place = dir.join(peer.name());
        std::fs::create_dir_all(&place).map_err(cannot("make a directory"))?;
        let ping = peer.open(&place.join("ping"), Mode::Async)?;
        let pong = peer.open(&place.join("pong"), Mode::Async)?;
        let mut partner = Role::start(&["echo", peer.name(), &path(&place)])?;
        partner.hear()?;
        Ok(Entrant::new(peer.name(), "", move || {
            let _keep = &partner;
            half_trips(|done| {
                ping.send(0, b"ping")?;
                pong.wait(&mut || {
                    done();
                    Ok(())
                })
            })
        }))
    };
    entrants.extend(bench.entrants(|facts| facts.waits, enter));
    let outcomes = alternate(bench.rounds(), entrants, || Ok(()))?;
    bench
        .report
        .add("T6", "hop to a blocked consumer, p50", "us", &outcomes);
    let both = of(&outcomes, "keepq").zip(of(&outcomes, RAW));
    bench.report.verdict(Verdict {
        target: "T6",
        what: "hop between two processes, of a bare futex hop".into(),
        got: both.and_then(|(keepq, raw)| ratio(keepq, raw)),
        need: 1.3,
        at_least: false,
        note: String::new(),
    });
    Ok(())
}

/// Median of half a round trip in microseconds. A trip calls `done` when the answer is there; what
/// it does afterwards is not timed.
fn half_trips(mut trip: impl FnMut(&mut dyn FnMut()) -> Res<()>) -> Res<f64> {
    let mut times = Vec::with_capacity(TRIPS);
    for _ in 0..TRIPS {
        std::thread::sleep(REST);
        let started = Instant::now();
        let mut took = None;
        trip(&mut || took = Some(started.elapsed()))?;
        let took = took.ok_or("a trip had no end")?;
        times.push(took.as_secs_f64() * 1e6 / 2.0);
    }
    Ok(median(&times))
}
