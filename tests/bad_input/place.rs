//! Directories that are no store, or one that this process must not use.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use keepq::{Code, Flush, Store};

use crate::children::{self, Child, Place, Start, not_run};
use crate::{check, filled, picture};

#[test]
fn a_directory_that_is_something_else_is_refused_and_stays_untouched() {
    let place = Place::new("foreign");
    let contents: [&[&str]; 5] = [
        &["notes.txt"],
        &["log/app.log"],
        &["log/00000001.0.seg.old"],
        &["ctl", "LOCK", "my-data"],
        &["src/main.rs", "log/x"],
    ];
    for (i, files) in contents.iter().enumerate() {
        let dir = place.file(&format!("foreign{i}"));
        for file in *files {
            let path = dir.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "somebody's").unwrap();
        }
        let before = picture(&dir);
        for create in [true, false] {
            let e = Store::options().create(create).open(&dir).unwrap_err();
            check(&e, Code::NotAStore, &dir);
            assert_eq!(picture(&dir), before);
        }
        let e = keepq::verify(&dir, &mut |_, _| {}).unwrap_err();
        check(&e, Code::NotAStore, &dir);
        assert_eq!(picture(&dir), before);
    }
}

#[test]
fn a_super_that_is_not_keepqs_is_refused_and_stays_untouched() {
    let place = Place::new("super");
    let dir = place.store();
    for kind in ["text", "empty", "directory", "symlink", "fifo", "huge"] {
        std::fs::create_dir(&dir).unwrap();
        let path = dir.join("SUPER");
        match kind {
            "text" => std::fs::write(&path, "# super\n".repeat(512)).unwrap(),
            "empty" => std::fs::write(&path, "").unwrap(),
            "directory" => std::fs::create_dir(&path).unwrap(),
            "symlink" => symlink("/etc/passwd", &path).unwrap(),
            "fifo" => {
                let made = std::process::Command::new("mkfifo").arg(&path).status();
                assert!(made.unwrap().success());
            }
            _ => std::fs::File::create(&path)
                .unwrap()
                .set_len(1 << 40)
                .unwrap(),
        }
        let names = || std::fs::read_dir(&dir).unwrap().count();
        for create in [true, false] {
            let e = Store::options().create(create).open(&dir).unwrap_err();
            let fits = [Code::NotAStore, Code::Corrupt, Code::Storage].contains(&e.code());
            assert!(fits && e.to_string().contains("SUPER"), "{kind}: {e}");
            assert_eq!(names(), 1, "{kind}");
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

#[test]
fn a_mistyped_path_is_an_error_and_nothing_is_made() {
    let place = Place::new("typo");
    let store = place.store();
    let strict = || Store::options().create(false);
    let e = strict().open(&store).unwrap_err();
    check(&e, Code::NotFound, &store);
    assert!(!store.exists());
    let nested = store.join("a/b");
    let e = Store::open(&nested).unwrap_err();
    check(&e, Code::NotFound, &nested);
    assert!(e.message().contains("parent"), "{e}");
    assert!(!store.exists());
    std::fs::create_dir(&store).unwrap();
    let e = strict().open(&store).unwrap_err();
    check(&e, Code::NotFound, &store);
    assert_eq!(std::fs::read_dir(&store).unwrap().count(), 0);
    let file = place.file("file");
    std::fs::write(&file, "text").unwrap();
    for path in [&file, &file.join("below")] {
        for create in [true, false] {
            let e = Store::options().create(create).open(path).unwrap_err();
            assert!(
                matches!(e.code(), Code::NotAStore | Code::Storage | Code::NotFound),
                "{e}"
            );
        }
    }
    assert_eq!(std::fs::read(&file).unwrap(), b"text");
    let link = place.file("link");
    symlink(place.file("nowhere"), &link).unwrap();
    Store::open(&link).unwrap_err();
    assert!(!place.file("nowhere").exists());
}

#[test]
fn a_mistyped_topic_or_group_is_an_error_and_nothing_is_made() {
    let place = Place::new("typo-topic");
    filled(&place.store(), 1);
    let store = Store::options().create(false).open(place.store()).unwrap();
    let names = || {
        let stats = store.stats().unwrap();
        let topics = stats.topics.into_iter().map(|t| t.name);
        let groups = stats.groups.into_iter().map(|g| g.name);
        (topics.collect::<Vec<_>>(), groups.collect::<Vec<_>>())
    };
    let before = names();
    let strict = |topic, group| store.group(topic, group).create(false).open();
    for (topic, group) in [("typo", "g"), ("t", "typo"), ("typo", "typo")] {
        assert_eq!(strict(topic, group).unwrap_err().code(), Code::NotFound);
    }
    assert_eq!(
        store.existing_topic("typo").unwrap_err().code(),
        Code::NotFound
    );
    let made = store.group("typo", "g").create_topic(false).open();
    assert_eq!(made.unwrap_err().code(), Code::NotFound);
    assert_eq!(names(), before);
    strict("t", "g").unwrap();
}

#[test]
fn an_existing_store_is_refused_where_a_new_one_was_wanted() {
    let place = Place::new("exists");
    filled(&place.store(), 3);
    let e = Store::options()
        .exist_ok(false)
        .open(place.store())
        .unwrap_err();
    check(&e, Code::AlreadyExists, &place.store());
    let store = Store::open(place.store()).unwrap();
    let group = store.group("t", "g").open().unwrap();
    assert_eq!(crate::drain(&group).0, [0, 1, 2]);
}

/// Changes bytes of SUPER and makes its checksum hold again (docs/FORMAT.md).
fn patched(whole: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut block = whole.to_vec();
    block[at..at + bytes.len()].copy_from_slice(bytes);
    let sum = crc32fast::hash(&block[..4092]);
    block[4092..].copy_from_slice(&sum.to_le_bytes());
    block
}

#[test]
fn a_store_of_a_newer_format_is_refused_and_a_damaged_super_is_told_from_it() {
    let place = Place::new("newer");
    filled(&place.store(), 5);
    let path = place.store().join("SUPER");
    let whole = std::fs::read(&path).unwrap();
    let newer = (keepq::FORMAT_VERSION + 1).to_le_bytes();
    let mut flipped = whole.clone();
    flipped[100] ^= 1;
    let cases = [
        (patched(&whole, 8, &newer), Code::Incompatible, "version"),
        (patched(&whole, 16, &[4]), Code::Incompatible, "features"),
        (patched(&whole, 24, &[8]), Code::Incompatible, "features"),
        (flipped, Code::Corrupt, "damaged"),
        (whole[..4000].to_vec(), Code::Corrupt, "damaged"),
        // A size that no store has, under a checksum that holds.
        (
            patched(&whole, 56, &u64::MAX.to_le_bytes()),
            Code::Corrupt,
            "damaged",
        ),
    ];
    for (bytes, code, word) in cases {
        std::fs::write(&path, bytes).unwrap();
        let before = picture(&place.store());
        let e = Store::open(place.store()).unwrap_err();
        check(&e, code, &place.store());
        assert!(e.message().contains(word), "{e}");
        assert_eq!(picture(&place.store()), before);
    }
    // A feature that may be ignored is.
    std::fs::write(&path, patched(&whole, 32, &[1])).unwrap();
    let store = Store::open(place.store()).unwrap();
    let group = store.group("t", "g").open().unwrap();
    assert_eq!(crate::drain(&group).0, [0, 1, 2, 3, 4]);
}

#[test]
fn a_memory_file_system_is_refused_unless_it_is_asked_for() {
    let dir = Path::new("/dev/shm").join(format!("keepq-test-{}", std::process::id()));
    let on_memory = std::process::Command::new("stat")
        .args(["-f", "-c", "%T", "/dev/shm"])
        .output()
        .is_ok_and(|out| out.stdout == b"tmpfs\n");
    if !on_memory {
        return not_run("a memory file system", "/dev/shm is not a tmpfs here");
    }
    let e = Store::open(&dir).unwrap_err();
    check(&e, Code::UnsupportedFilesystem, &dir);
    assert!(e.message().contains("tmpfs"), "{e}");
    assert!(!dir.exists(), "what was refused is not half made");
    let allowed = Store::options().allow_unsafe_filesystem(true).open(&dir);
    // A store that never syncs promises nothing that memory cannot keep.
    let unsynced = Store::options()
        .flush(Flush::Async)
        .exist_ok(true)
        .open(&dir);
    let sent = allowed.and_then(|store| store.topic("t")?.send(b"x"));
    let found = unsynced.and_then(|store| store.existing_topic("t")?.len());
    let refused = Store::open(&dir).map(|_| ());
    std::fs::remove_dir_all(&dir).unwrap();
    assert!(sent.unwrap().durable);
    assert_eq!(found.unwrap(), 1);
    check(&refused.unwrap_err(), Code::UnsupportedFilesystem, &dir);
}

#[test]
fn a_store_of_somebody_else_is_refused_with_advice() {
    let test = "place::a_store_of_somebody_else_is_refused_with_advice";
    if children::role().is_some() {
        return as_nobody();
    }
    if !rustix::process::geteuid().is_root() {
        return not_run("another user's store", "only root can become somebody else");
    }
    let place = Place::new("rights");
    filled(&place.store(), 3);
    let store = place.store();
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let vars = [("STORE", store.display().to_string())];
    Child::start(test, "locked out", &vars).finish();
    // May look at everything and change nothing.
    for dir in [&store, &store.join("log")] {
        mode(dir, 0o755);
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            mode(&path, if path.is_dir() { 0o755 } else { 0o644 });
        }
    }
    let before = picture(&store);
    Child::start(test, "reader", &vars).finish();
    assert_eq!(picture(&store), before);
    let again = Store::open(&store).unwrap();
    let group = again.group("t", "g").open().unwrap();
    assert_eq!(crate::drain(&group).0, [0, 1, 2]);
}

fn as_nobody() {
    let nobody = rustix::process::Uid::from_raw(65534);
    rustix::thread::set_thread_uid(nobody).unwrap();
    let path = children::arg("STORE");
    for options in [Store::options(), Store::options().create(false)] {
        let e = options.open(&path).unwrap_err();
        check(&e, Code::Storage, Path::new(&path));
        assert_eq!(e.errno(), Some(libc::EACCES), "{e}");
        assert!(e.message().contains("permissions"), "{e}");
    }
}

#[test]
fn a_store_on_a_read_only_mount_is_refused_and_stays_untouched() {
    let test = "place::a_store_on_a_read_only_mount_is_refused_and_stays_untouched";
    if children::role().is_some() {
        let path = children::arg("STORE");
        let e = Store::open(&path).unwrap_err();
        check(&e, Code::ReadOnly, Path::new(&path));
        assert_eq!(e.errno(), Some(libc::EROFS));
        let e = Store::open(Path::new(&path).join("new")).unwrap_err();
        assert_eq!(e.code(), Code::ReadOnly, "{e}");
        let report = keepq::verify(&path, &mut |_, _| {}).unwrap();
        assert!(report.is_ok() && report.messages == 3, "{report:?}");
        return;
    }
    let place = Place::new("read-only");
    filled(&place.store(), 3);
    let path = place.store().display().to_string();
    let mount = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\"";
    if let Err(why) = can_mount(mount, &path) {
        return not_run("a read-only mount", &why);
    }
    let before = picture(&place.store());
    let script = format!("{mount} && exec \"$@\"");
    let start = Start {
        test,
        role: "read only",
        vars: &[("STORE", path.clone())],
        through: &["unshare", "-m", "sh", "-c", &script, &path],
    };
    Child::start_with(&start, |_| {}).finish();
    assert_eq!(picture(&place.store()), before);
}

/// Whether this machine lets us mount something for ourselves, else what it says.
pub fn can_mount(script: &str, path: &str) -> Result<(), String> {
    let mut command = std::process::Command::new("unshare");
    let tried = command.args(["-m", "sh", "-c", script, path]).output();
    match tried {
        Ok(out) if out.status.success() => Ok(()),
        Ok(out) => Err(String::from_utf8_lossy(&out.stderr).trim().to_owned()),
        Err(e) => Err(format!("unshare: {e}")),
    }
}
