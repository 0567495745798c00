//! Looking at many crash states at once: the workload goes on while threads examine what a cut
//! would have left.
#![allow(dead_code, unreachable_pub)]

use std::collections::HashSet;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use keepq::sim::SimWorld;

use super::examine::{Look, examine};
use super::oracle::Ledger;

/// A machine after a crash, and what was known before.
pub struct Case {
    pub world: SimWorld,
    pub ledger: Arc<Ledger>,
    /// Whether only processes died, so that nothing that returned may be lost.
    pub killed: bool,
    pub look: Look,
    /// Says how to come here again.
    pub label: String,
}

#[derive(Default)]
struct Tally {
    states: u64,
    examined: u64,
    images: HashSet<u64>,
    failure: Option<String>,
}

/// Threads that examine cases.
pub struct Judges {
    cases: Option<SyncSender<Case>>,
    threads: Vec<JoinHandle<()>>,
    tally: Arc<Mutex<Tally>>,
}

impl Judges {
    pub fn new() -> Self {
        let (cases, queue) = sync_channel::<Case>(32);
        let queue = Arc::new(Mutex::new(queue));
        let tally = Arc::new(Mutex::new(Tally::default()));
        let threads = (0..2)
            .map(|_| {
                let (queue, tally) = (Arc::clone(&queue), Arc::clone(&tally));
                std::thread::spawn(move || work(&queue, &tally))
            })
            .collect();
        Self {
            cases: Some(cases),
            threads,
            tally,
        }
    }

    /// Counts a crash state that was met, looked at before or not; returns its image.
    pub fn count(&self, world: &SimWorld) -> u64 {
        let image = world.image_hash();
        let mut tally = self.tally.lock().expect("no judge panics with it");
        tally.states += 1;
        tally.images.insert(image);
        image
    }

    /// Has a case examined. After a failure nothing more is.
    pub fn submit(&self, case: Case) {
        if let Some(cases) = &self.cases {
            let _ = cases.send(case);
        }
    }

    pub fn failed(&self) -> bool {
        self.tally
            .lock()
            .expect("no judge panics with it")
            .failure
            .is_some()
    }

    /// Waits for all cases; panics with the first that failed, else prints the counts and returns
    /// how many states were met.
    pub fn finish(mut self, what: &str) -> u64 {
        self.cases = None;
        for thread in self.threads.drain(..) {
            thread
                .join()
                .expect("a judge reports its panics as failures");
        }
        let tally = self.tally.lock().expect("no judge is left");
        if let Some(failure) = &tally.failure {
            panic!("{what}: {failure}");
        }
        println!(
            "{what}: {} crash states, {} distinct images, {} recoveries judged",
            tally.states,
            tally.images.len(),
            tally.examined
        );
        tally.states
    }
}

fn work(queue: &Mutex<Receiver<Case>>, tally: &Mutex<Tally>) {
    loop {
        let next = queue.lock().expect("no judge panics with it").recv();
        let Ok(case) = next else { return };
        if tally
            .lock()
            .expect("no judge panics with it")
            .failure
            .is_some()
        {
            continue;
        }
        let label = case.label.clone();
        let judged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| judge(&case)));
        let wrong = judged.unwrap_or_else(|panic| vec![panic_text(&*panic)]);
        let mut tally = tally.lock().expect("no judge panics with it");
        tally.examined += 1;
        if !wrong.is_empty() && tally.failure.is_none() {
            let shown: Vec<&str> = wrong.iter().take(6).map(String::as_str).collect();
            tally.failure = Some(format!("{label}:\n  {}", shown.join("\n  ")));
        }
    }
}

fn judge(case: &Case) -> Vec<String> {
    let outcome = examine(&case.world, &case.ledger, case.look);
    if case.killed {
        return (*case.ledger).clone().all_safe().judge(&outcome);
    }
    case.ledger.judge(&outcome)
}

/// What a panic said.
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("a panic: {}", text.unwrap_or("without words"))
}
