//! The tags of a group are stored with it, compared and changed.

use keepq::sim::{SimOptions, SimWorld};
use keepq::{Code, Flush, limits};

use super::{GROUP, TOPIC, group, numbers, receive, send, send_all};
use crate::members::{Member, assert_whole, kill_at, open, open_with, options};

fn tags(m: &Member) -> Vec<String> {
    m.group(TOPIC, GROUP).config().unwrap().tags
}

#[test]
fn other_tags_later_are_refused_with_both_lists() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    group(&m);
    assert!(m.group(TOPIC, "all").config().unwrap().tags.is_empty());
    m.leaves();
    for world in [world.power_cut_with(|_| 1), world] {
        let m = open(&world);
        assert_eq!(tags(&m), ["blue", "red"]);
        let with = |tags: &[&str]| m.store.group(TOPIC, GROUP).tags(tags.to_vec()).open();
        // Order and doubles do not matter.
        with(&["red", "blue", "red"]).unwrap();
        for other in [&["red"][..], &[], &["red", "green"]] {
            let refused = with(other).unwrap_err();
            assert_eq!(refused.code(), Code::ConfigMismatch);
            let text = refused.to_string();
            assert!(text.contains(r#"["blue", "red"]"#), "{text}");
            assert!(other.iter().all(|tag| text.contains(tag)), "{text}");
        }
    }
}

#[test]
fn a_change_goes_for_what_was_not_looked_at() {
    let world = SimWorld::new(SimOptions::default());
    let (m, other) = (open(&world), open(&world));
    let (mine, theirs) = (group(&m), group(&other));
    send_all(
        &m,
        &["red", "green", "red", "green", "red", "green", "blue"],
    );
    // Both handles have looked the rest up already.
    assert_eq!(numbers(&receive(&mine, 1)).len(), 1);
    assert_eq!(numbers(&receive(&theirs, 1)), [1]);
    let one = receive(&mine, 1);
    mine.configure().tags(["green"]).apply().unwrap();
    assert_eq!(tags(&other), ["green"]);
    assert_eq!(numbers(&receive(&theirs, 1)), [2]);
    assert_eq!(numbers(&receive(&mine, 10)), [2, 4, 6]);
    // What was in flight stays: it comes again.
    drop(one);
    let again = numbers(&receive(&mine, 10));
    assert!(again.contains(&1), "{again:?}");
    // None is every message.
    let none: [&str; 0] = [];
    theirs.configure().tags(none).apply().unwrap();
    send(&m, 8, None, 40);
    assert!(numbers(&receive(&mine, 10)).contains(&8));
    mine.configure().tags(["x"]).apply().unwrap();
    send(&m, 9, None, 40);
    send(&m, 10, Some("x"), 40);
    assert!(numbers(&receive(&mine, 10)).ends_with(&[10]));
    assert_whole(&m.store, "at the end");
}

#[test]
fn a_change_is_on_disk_and_in_snapshots() {
    let world = SimWorld::new(SimOptions::default());
    let m = open_with(&world, options().flush(Flush::Async));
    let group = group(&m);
    for (round, tags) in [["a", "b"], ["c", "d"], ["e", "f"]].into_iter().enumerate() {
        let config = group.configure().tags(tags).apply().unwrap();
        assert_eq!(config.tags, tags);
        let cut = open(&world.power_cut_with(|_| 1));
        assert_eq!(super::stored::tags(&cut), tags, "round {round}");
        cut.leaves();
        // Until the record of the change is reclaimed, and a snapshot alone knows.
        for id in 0..30 {
            send(&m, id, Some("z"), 3000);
            assert!(receive(&group, 9).is_empty());
            m.store.look();
        }
        for _ in 0..3 {
            m.store.flush(None).unwrap();
            m.store.maintain().unwrap();
        }
        let cut = open(&world.power_cut_with(|_| 1));
        assert_eq!(super::stored::tags(&cut), tags, "round {round}");
        assert_whole(&cut.store, "after a cut");
    }
}

#[test]
fn a_change_that_is_killed_is_made_wholly_or_not_at_all() {
    let base = SimWorld::new(SimOptions::default());
    let m = open(&base);
    group(&m);
    m.leaves();
    for k in 1.. {
        let world = base.fork();
        let living = open(&world);
        let done = kill_at(open(&world), k, &|m| {
            let change = m.group(TOPIC, GROUP).configure().max_outstanding(9);
            change
                .tags(["a tag", "another one", "third"])
                .apply()
                .unwrap();
        });
        living.store.flush(None).unwrap();
        assert_whole(&living.store, &format!("killed at {k}"));
        let judge = |m: &Member| {
            let config = m.group(TOPIC, GROUP).config().unwrap();
            let changed = config.max_outstanding == 9;
            let expected: &[&str] = match changed {
                true => &["a tag", "another one", "third"],
                false => &["blue", "red"],
            };
            assert_eq!(config.tags, expected, "killed at {k}");
            assert!(changed || !done, "killed at {k}");
            changed
        };
        let changed = judge(&living);
        assert_eq!(judge(&open(&world.power_cut_with(|_| 1))), changed);
        if done {
            break;
        }
    }
}

#[test]
fn tags_up_to_their_limits_pass_and_more_are_refused() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let many: Vec<String> = (0..=limits::TAGS).map(|i| format!("tag {i}")).collect();
    let long = "ü".repeat(limits::KEY / 2) + "xy";
    let with = |name: &str, tags: &[String]| {
        let group = m.store.group(TOPIC, name).tags(tags.to_vec());
        group.open().map(|group| group.config().unwrap().tags.len())
    };
    assert_eq!(with("most", &many[1..]).unwrap(), limits::TAGS);
    assert_eq!(
        with("longest", &[long[..limits::KEY].to_owned(), String::new()]).unwrap(),
        2
    );
    let past = limits::TAGS + 1;
    for (tags, number) in [(many.clone(), past), (vec![long.clone()], limits::KEY + 1)] {
        let refused = with("past", &tags).unwrap_err();
        assert_eq!(refused.code(), Code::LimitExceeded, "{refused}");
        assert!(refused.message().contains(&number.to_string()), "{refused}");
        let change = m.group(TOPIC, "most").configure().tags(tags);
        assert_eq!(change.apply().unwrap_err().code(), Code::LimitExceeded);
    }
    assert_eq!(
        m.group(TOPIC, "most").config().unwrap().tags.len(),
        limits::TAGS
    );
    // A tag of the greatest length is compared as a whole; an empty one is a tag, too.
    send(&m, 1, Some(&long[..limits::KEY - 1]), 40);
    send(&m, 2, Some(&long[..limits::KEY]), 40);
    send(&m, 3, None, 40);
    send(&m, 4, Some(""), 40);
    assert_eq!(numbers(&receive(&m.group(TOPIC, "longest"), 9)), [2, 4]);
}

#[test]
fn tags_of_all_groups_together_have_a_limit_and_are_given_back() {
    let world = SimWorld::new(SimOptions::default());
    let m = open(&world);
    let list = |name: &str| -> Vec<String> {
        let tags = (0..12).map(|i| format!("{name}{i:02}{}", "t".repeat(230)));
        tags.collect()
    };
    let mut made: Vec<String> = Vec::new();
    let refused = loop {
        let name = format!("g{}", made.len());
        match m.store.group(TOPIC, &name).tags(list(&name)).open() {
            Ok(_) => made.push(name),
            Err(e) => break e,
        }
    };
    assert_eq!(refused.code(), Code::LimitExceeded, "{refused}");
    assert!(made.len() >= 3, "{made:?}");
    assert!(m.store.group(TOPIC, "plain").open().is_ok());
    // What one gives back another can have; also over and over.
    for _ in 0..5 {
        let none: [&str; 0] = [];
        let (first, last) = (&made[0], "last");
        m.group(TOPIC, first)
            .configure()
            .tags(none)
            .apply()
            .unwrap();
        let change = m.group(TOPIC, last).configure().tags(list(last));
        assert_eq!(change.apply().unwrap().tags, list(last));
        m.group(TOPIC, last).configure().tags(none).apply().unwrap();
        let change = m.group(TOPIC, first).configure().tags(list(first));
        assert_eq!(change.apply().unwrap().tags, list(first));
    }
    m.store.maintain().unwrap();
    m.leaves();
    for world in [world.power_cut_with(|_| 1), world] {
        let m = open(&world);
        for name in &made {
            assert_eq!(m.group(TOPIC, name).config().unwrap().tags, list(name));
        }
    }
}
