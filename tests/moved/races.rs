//! Reads while records move, segments roll and segments go: what is whole is never called damaged.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use keepq::sim::{Fate, SimOptions, SimWorld, run_member, set_point_hook};
use keepq::{Code, Flush};

use crate::members::{Member, id_of, kill_at, open_with, options};
use crate::scene::{
    DEAD, LARGE, LARGE_LEN, Old, STUCK, first_segment, flow, look_through, old, settle_down,
};

fn reader(world: &SimWorld) -> Member {
    open_with(world, options().flush(Flush::Async))
}

/// Everything that a reader can read, and what he must find.
fn read_all(m: &Member, when: &str) {
    let (live, dead) = look_through(&m.store).unwrap_or_else(|e| panic!("{when}: {e}"));
    assert_eq!(
        (&live[..], &dead[..]),
        (&[STUCK, LARGE][..], &[DEAD][..]),
        "{when}"
    );
    let group = m.group("t", "g");
    let got = group.receive(Duration::ZERO);
    let got = got.unwrap_or_else(|e| panic!("{when}: {e}")).unwrap();
    assert_eq!(
        (id_of(got.body()), got.body().len()),
        (LARGE, LARGE_LEN),
        "{when}"
    );
    let found = m
        .store
        .find(got.id())
        .unwrap_or_else(|e| panic!("{when}: {e}"));
    assert_eq!(
        id_of(found.unwrap().content.unwrap().body()),
        LARGE,
        "{when}"
    );
}

/// Runs `meanwhile` when the member that reads has come to its `k`-th point. Whether it came there.
fn at_point(k: u64, meanwhile: impl FnOnce() + 'static, read: impl FnOnce()) -> bool {
    let count = Cell::new(0);
    let reached = Rc::new(Cell::new(false));
    let said = Rc::clone(&reached);
    let mut meanwhile = Some(meanwhile);
    set_point_hook(Some(Box::new(move || {
        count.set(count.get() + 1);
        if count.get() == k {
            said.set(true);
            let act = meanwhile.take().expect("once");
            run_member(Fate::lives(), act).expect("it lives");
        }
    })));
    read();
    set_point_hook(None);
    reached.get()
}

#[test]
fn what_goes_while_it_is_read_is_found_in_its_new_place() {
    let mut moved = 0;
    for k in 1.. {
        let world = SimWorld::new(SimOptions::default());
        let mut old = old(&world);
        let before = first_segment(&world);
        let m = reader(&world);
        // Some look-ups of before are still at hand.
        look_through(&m.store).unwrap();
        let (free, said) = (Rc::new(Cell::new(false)), world.clone());
        let done = Rc::clone(&free);
        let reached = at_point(
            k,
            move || {
                // Who holds the lock is waited for in vain: nothing happens then.
                let free = old.member.store.check_state().is_ok();
                if !free || old.member.store.flush(None).is_err() {
                    return;
                }
                old.make_free();
                done.set(first_segment(&said) > before);
                std::mem::forget(old);
            },
            || {
                let (live, dead) = look_through(&m.store).unwrap_or_else(|e| panic!("{k}: {e}"));
                assert_eq!((live, dead), (vec![STUCK, LARGE], vec![DEAD]), "point {k}");
            },
        );
        moved += u64::from(free.get());
        if !reached {
            break;
        }
        read_all(&m, &format!("after point {k}"));
    }
    assert!(moved > 20, "moved at {moved} points only");
}

#[test]
fn what_is_moved_again_while_it_is_read_is_found_again() {
    let mut again = 0;
    for k in 1.. {
        let world = SimWorld::new(SimOptions::default());
        let mut old = old(&world);
        old.make_free();
        // What has been moved lies in a sealed segment, the oldest by and by.
        flow(&old.member, 5000..5012);
        settle_down(&old.member);
        let before = first_segment(&world);
        // Nothing is at hand: files are opened and indexes read while they go.
        let m = reader(&world);
        let (done, said) = (Rc::new(Cell::new(false)), world.clone());
        let moved = Rc::clone(&done);
        let reached = at_point(
            k,
            move || {
                let free = old.member.store.check_state().is_ok();
                if free && old.member.store.flush(None).is_ok() {
                    flow(&old.member, 6000..6040);
                    settle_down(&old.member);
                    moved.set(first_segment(&said) > before + 4);
                }
                std::mem::forget(old);
            },
            || {
                let (live, dead) = look_through(&m.store).unwrap_or_else(|e| panic!("{k}: {e}"));
                assert_eq!((live, dead), (vec![STUCK, LARGE], vec![DEAD]), "point {k}");
            },
        );
        again += u64::from(done.get());
        if !reached {
            break;
        }
    }
    assert!(again > 10, "moved again at {again} points only");
}

#[test]
fn readers_are_right_at_every_point_of_a_move() {
    let world = SimWorld::new(SimOptions::default());
    let mut old = old(&world);
    let before = first_segment(&world);
    let m = Rc::new(reader(&world));
    look_through(&m.store).unwrap();
    old.drop_ballast();
    let [right, waited] = [(); 2].map(|()| Rc::new(Cell::new(0)));
    let (reads, waits, who) = (Rc::clone(&right), Rc::clone(&waited), Rc::clone(&m));
    set_point_hook(Some(Box::new(move || {
        let found = run_member(Fate::lives(), || look_through(&who.store)).expect("it lives");
        match found {
            Ok(found) => {
                assert_eq!(found, (vec![STUCK, LARGE], vec![DEAD]));
                reads.set(reads.get() + 1);
            }
            // Whoever moves stands still with the lock.
            Err(e) if e.code() != Code::Corrupt => waits.set(waits.get() + 1),
            Err(e) => panic!("{e}"),
        }
    })));
    settle_down(&old.member);
    set_point_hook(None);
    assert!(first_segment(&world) > before + 3);
    let (right, waited) = (right.get(), waited.get());
    assert!(right > 100, "{right} reads, {waited} waits");
    read_all(&m, "afterwards");
}

/// A roll of which only half is there, and nobody has taken it back.
#[test]
fn a_roll_that_never_was_misleads_no_reader() {
    for k in 1.. {
        let world = SimWorld::new(SimOptions::default());
        let Old { member, stuck, .. } = old(&world);
        let m = reader(&world);
        look_through(&m.store).unwrap();
        let dying = reader(&world);
        let survived = kill_at(dying, k, &|m| {
            (0..8).for_each(|id| m.send_async("x", id, 3000))
        });
        let found = look_through(&m.store).unwrap_or_else(|e| panic!("killed at {k}: {e}"));
        assert_eq!(found, (vec![STUCK, LARGE], vec![DEAD]), "killed at {k}");
        drop((stuck, member));
        if survived {
            break;
        }
    }
}
