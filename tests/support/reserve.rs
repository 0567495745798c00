//! Faults while the reserve is the next segment: on a full disk that gets room again.
#![allow(dead_code, unreachable_pub)]

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use keepq::sim::{CallKind, Fault, FaultPlan, MetadataModel, SimOptions, SimProcess, SimWorld};
use keepq::sim::{announced_site, calls_announced, set_point_hook};
use keepq::{Code, Delivery, Flush, OutMessage, Outcome, Store};

use super::examine::{open_group, options};
use super::oracle::{Fate, GROUPS, Ledger, TOPICS, Way, body, number_of};

const CAPACITY: usize = 32 << 20;
const FILLER: &str = "filler";
const LEN: usize = 1_000;

/// Where the fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strike {
    /// Where the reserve gets its own name back.
    Back,
    /// Where a segment is put away, because somebody rolled into the reserve meanwhile.
    Overtaken,
}

/// A store on a full disk, whose next segment is the reserve.
struct Short {
    world: SimWorld,
    process: SimProcess,
    store: Store,
    ledger: Rc<RefCell<Ledger>>,
}

fn send(store: &Store, ledger: &RefCell<Ledger>) -> keepq::Result<()> {
    let number = ledger.borrow_mut().begin_send(0, LEN, None);
    let message = body(number, LEN);
    let message = OutMessage {
        body: &message,
        flush: Some(Flush::Async),
        ..OutMessage::default()
    };
    let result = store.topic(TOPICS[0])?.send_message(&message);
    let mut ledger = ledger.borrow_mut();
    match result {
        Ok(sent) => {
            let seq = sent.seq.expect("it is not deferred");
            ledger.sent(number, seq, sent.id.lsn(), sent.durable, store.published());
            Ok(())
        }
        Err(e) => {
            if e.outcome() == Some(Outcome::NotStored) {
                ledger.messages[number].fate = Fate::Refused;
            }
            Err(e)
        }
    }
}

fn ack(
    store: &Store,
    ledger: &RefCell<Ledger>,
    group: usize,
    delivery: Delivery,
) -> keepq::Result<()> {
    let message = number_of(delivery.body()).expect("it was sent here");
    let settle = ledger.borrow_mut().begin_settle(group, message, Way::Ack);
    delivery.ack_with(Flush::Async)?;
    let end = store.published();
    ledger.borrow_mut().settled(settle, false, end);
    Ok(())
}

/// Bytes that new files can take.
fn free(world: &SimWorld) -> usize {
    let files = world.files();
    let used = files
        .iter()
        .map(|(_, bytes)| bytes.len().next_multiple_of(4096));
    CAPACITY - used.sum::<usize>()
}

impl Short {
    fn new(seed: u64) -> keepq::Result<Self> {
        let world = SimWorld::new(SimOptions {
            seed,
            capacity: Some(CAPACITY as u64),
            metadata: MetadataModel::Unordered,
            ..SimOptions::default()
        });
        let process = world.process();
        let store = Store::open_simulated(&process, options(Flush::Async))?;
        for topic in TOPICS {
            store.topic(topic)?;
        }
        for number in 0..GROUPS.len() {
            open_group(&store, number)?;
        }
        let ledger = Rc::new(RefCell::new(Ledger::default()));
        for _ in 0..12 {
            send(&store, &ledger)?;
            store.maintain()?;
        }
        world.write_file(FILLER, &vec![1; CAPACITY]);
        for _ in 0..200 {
            match send(&store, &ledger) {
                Ok(()) => {}
                Err(e) if e.code() == Code::Full => {
                    // Room for the index of a segment, which a roll needs, but for no segment.
                    world.remove(FILLER);
                    world.write_file(FILLER, &vec![1; free(&world) - (12 << 10)]);
                    let told = store.maintain().map_err(|e| e.code());
                    assert_eq!(told, Err(Code::Full));
                    world.remove(FILLER);
                    return Ok(Self {
                        world,
                        process,
                        store,
                        ledger,
                    });
                }
                Err(e) => return Err(e),
            }
        }
        panic!("the disk does not get full");
    }

    /// Another process acks everything: so much that it rolls into the reserve.
    fn roll(store: &Store, ledger: &RefCell<Ledger>) -> keepq::Result<()> {
        for number in (0..GROUPS.len()).filter(|&number| GROUPS[number].0 == 0) {
            let group = open_group(store, number)?;
            for delivery in group.receive_batch(200, Duration::ZERO)? {
                ack(store, ledger, number, delivery)?;
            }
        }
        Ok(())
    }

    fn hook(&self, strike: Strike, error: Fault) {
        let world = self.world.clone();
        let (process, ledger) = (world.process(), Rc::clone(&self.ledger));
        let other = Store::open_simulated(&process, options(Flush::Async));
        let mut other = other.ok().filter(|_| strike == Strike::Overtaken);
        let (mut last, mut rolled, mut done) = (calls_announced(), false, false);
        set_point_hook(Some(Box::new(move || {
            let new = calls_announced() != last;
            last = calls_announced();
            let site = announced_site()
                .filter(|site| new && !done && site.file.ends_with("commitlog/prepare.rs"));
            let Some(site) = site else { return };
            let (to_roll, kind) = match strike {
                Strike::Back => (None, CallKind::Rename),
                Strike::Overtaken => (Some(CallKind::Allocate), CallKind::Unlink),
            };
            if !rolled && to_roll == Some(site.kind) {
                rolled = true;
                let store = other.take().expect("it rolls once");
                Self::roll(&store, &ledger).expect("acks have the reserve");
                store.close().expect("no fault is planned yet");
                process.kill();
                last = calls_announced();
            } else if site.kind == kind && (rolled || to_roll.is_none()) {
                done = true;
                world.plan_fault(FaultPlan {
                    nth_call: 1,
                    error,
                    sticky: false,
                });
            }
        })));
    }
}

/// Has the fault; returns the machine after the worst cut and after a kill, the ledger, and
/// whether it struck.
pub fn play(
    seed: u64,
    strike: Strike,
    error: Fault,
) -> keepq::Result<([SimWorld; 2], Ledger, bool)> {
    let short = Short::new(seed)?;
    short.hook(strike, error);
    let maintained = short.store.maintain();
    set_point_hook(None);
    short.world.clear_fault();
    let struck = short.world.faults_hit() > 0;
    assert!(
        !struck || maintained.is_err(),
        "a fault that nobody is told of"
    );
    // There is room and no fault any more: sends go on.
    for _ in 0..40 {
        send(&short.store, &short.ledger)?;
        short.store.maintain()?;
    }
    short.ledger.borrow_mut().reach(short.world.watermark());
    let ledger = short.ledger.borrow().clone();
    let cut = short.world.power_cut_with(|_| 1);
    short.process.kill();
    Ok(([cut, short.world.fork()], ledger, struck))
}
