//! The parent: starts, kills and restarts the processes of the demonstration, then adds up.

use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use keepq::Store;

use super::account::{self, Account, Life, inside_a_call};
use super::stage::{CAST, Stage};
use super::{ledger, roles};
use crate::args::DemoArgs;
use crate::exit::Failure;
use crate::output;
use crate::stop::Stop;

/// The whole demonstration gets this long beyond the time of the kills, on a slow machine too.
const WATCHDOG: Duration = Duration::from_secs(240);
/// And so much of it the kills.
const KILLING: Duration = Duration::from_secs(120);

pub(super) fn run(args: &DemoArgs, dir: &Path) -> Result<Account, Failure> {
    let stop = Stop::install()?;
    let limit = Duration::from_secs(args.seconds) + WATCHDOG;
    let watchdog = start_watchdog(limit);
    let cannot = |e| Failure::failed(format!("cannot make {}: {e}", dir.display()));
    std::fs::create_dir_all(dir.parent().unwrap_or(dir)).map_err(cannot)?;
    std::fs::create_dir(dir).map_err(cannot)?;
    let store = Store::open(dir.join("store"))?;
    roles::make_group(&store)?;
    // The parent holds nothing open: at times every process that uses the store is dead.
    store.close()?;

    let seed = args
        .seed
        .unwrap_or_else(|| ledger::now() ^ u64::from(std::process::id()));
    let mut stage = Stage::new(dir);
    storm(&mut stage, args, &stop, Random(seed))?;
    stage.end(args.sabotage)?;
    let lives = stage.lives()?;
    let mut account = account::add_up(&lives);
    check_kills(args, &lives, &mut account);
    if !account.problems.is_empty() || account.lost > 0 {
        output::note(&format!("the seed was {seed}"));
    }
    drop(watchdog);
    Ok(account)
}

/// The demonstration demonstrates little if it killed too seldom or only between calls.
fn check_kills(args: &DemoArgs, lives: &[Life], account: &mut Account) {
    let killed = lives.iter().filter(|life| life.killed);
    let inside = killed.filter(|life| inside_a_call(&life.lines)).count() as u64;
    if account.kills < args.kills {
        account
            .problems
            .push(format!("only {} of {} kills", account.kills, args.kills));
    }
    if inside * 2 < account.kills {
        account.problems.push(format!(
            "only {inside} kills fell inside a call of the engine"
        ));
    }
}

/// Ends this process if it does not end by itself; its children end when it does.
fn start_watchdog(limit: Duration) -> Sender<()> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        if receiver.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            output::note(&format!(
                "the demonstration hangs: not done after {limit:?}"
            ));
            std::process::exit(crate::exit::FAILED);
        }
    });
    sender
}

/// Kills and restarts until both the time and the number of kills are reached, and half of the
/// kills fell inside a call.
fn storm(
    stage: &mut Stage<'_>,
    args: &DemoArgs,
    stop: &Stop,
    mut random: Random,
) -> Result<(), Failure> {
    let started = Instant::now();
    let length = Duration::from_secs(args.seconds);
    stage.start_all()?;
    let pause = u64::try_from(length.as_micros()).unwrap_or(u64::MAX) / (args.kills + 20);
    let enough = |stage: &Stage<'_>| {
        let late = started.elapsed() >= length + KILLING;
        stage.kills() >= args.kills && (stage.kills_inside() * 2 >= stage.kills() || late)
    };
    while started.elapsed() < length || !enough(stage) {
        // Now and then all at once: the next one finds nobody alive.
        let everybody = random.below(20) == 0;
        let one = usize::try_from(random.below(CAST.len() as u64)).unwrap_or(0);
        let victims = if everybody {
            0..CAST.len()
        } else {
            one..one + 1
        };
        // A process that the machine has not come to yet is no victim.
        for role in victims.clone() {
            while !stage.has_begun(role) {
                go_on(stop)?;
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        go_on(stop)?;
        // A random moment, of which no event can tell: this is what the kills are about.
        let pause = pause / 2 + random.below(pause.max(1));
        std::thread::sleep(Duration::from_micros(pause));
        for role in victims.clone() {
            stage.kill(role)?;
        }
        for role in victims {
            stage.start(role)?;
        }
    }
    Ok(())
}

fn go_on(stop: &Stop) -> Result<(), Failure> {
    if stop.asked() {
        return Err(Failure::new(crate::exit::INTERRUPTED, "interrupted"));
    }
    Ok(())
}

/// Numbers that follow from a seed (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}
