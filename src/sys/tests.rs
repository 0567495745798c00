//! The real disk and host, on a real directory under the build directory.
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests"
)]

use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::error::Code;

/// A fresh directory, removed with the value.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/test-stores");
        std::fs::create_dir_all(&root).unwrap();
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = root.join(format!("sys-{}-{next}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }

    fn disk(&self) -> RealDisk {
        RealDisk::create_dir(&self.0, 0o600).unwrap()
    }

    fn dir(&self) -> Dir {
        Dir::new(Arc::new(self.disk()))
    }

    fn host(&self) -> RealHost {
        let host = RealHost::new(&self.disk()).unwrap();
        host.open_lock(true).unwrap();
        host
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn refusal<T>(result: io::Result<T>) -> String {
    let error = result.err().expect("refused");
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    error.to_string()
}

#[test]
fn only_regular_files_with_one_link_are_opened_with_and_without_openat2() {
    let place = Place::new();
    let disk = place.disk();
    disk.make_dir("log").unwrap();
    std::fs::write(place.0.join("log/real"), "x").unwrap();
    std::fs::write(place.0.join("twice"), "x").unwrap();
    std::fs::hard_link(place.0.join("twice"), place.0.join("log/twice")).unwrap();
    symlink("real", place.0.join("log/link")).unwrap();
    symlink("log", place.0.join("log2")).unwrap();
    let fifo = std::ffi::CString::new(place.0.join("fifo").to_str().unwrap()).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RWXU).unwrap();
    for without_openat2 in [false, true] {
        if without_openat2 {
            disk.at.forget_openat2();
        }
        for how in [Open::Read, Open::Write] {
            assert!(disk.open("log/real", how).is_ok());
            assert!(refusal(disk.open("log/link", how)).contains("symbolic link"));
            assert!(refusal(disk.open("log/twice", how)).contains("hard link"));
            assert!(refusal(disk.open("fifo", how)).contains("not a regular file"));
            assert!(refusal(disk.open("log", how)).contains("not a regular file"));
            assert!(
                disk.open("log2/real", how).is_err(),
                "through a link to a directory"
            );
            for trick in [
                "../x",
                "log/../log/real",
                "/etc/passwd",
                "log//real",
                "./log/real",
            ] {
                let error = disk.open(trick, how).err().expect("refused");
                assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{trick}");
            }
        }
        assert!(disk.unlink("log2/real").is_err());
        assert!(disk.rename("log/real", "log2/real").is_err());
        assert!(disk.make_dir("log2").is_err());
        assert_eq!(disk.list("log").unwrap(), ["link", "real", "twice"]);
    }
}

#[test]
fn new_files_have_the_mode_asked_for_whatever_the_umask() {
    let place = Place::new();
    let disk = RealDisk::create_dir(&place.0, 0o660).unwrap();
    disk.make_dir("log").unwrap();
    disk.open("log/a", Open::Create).unwrap();
    let mode = |path: &str| {
        std::fs::metadata(place.0.join(path))
            .unwrap()
            .permissions()
            .mode()
            & 0o7777
    };
    assert_eq!(
        (mode(""), mode("log"), mode("log/a")),
        (0o2770, 0o2770, 0o660)
    );
    // Opening it again changes nothing.
    RealDisk::create_dir(&place.0, 0o600)
        .unwrap()
        .make_dir("log")
        .unwrap();
    assert_eq!((mode(""), mode("log")), (0o2770, 0o2770));
}

#[test]
fn files_are_written_read_renamed_listed_and_removed() {
    let place = Place::new();
    let dir = place.dir();
    dir.make_dir("log").unwrap();
    let file = dir.open("log/a.pre", Open::Create).unwrap();
    file.allocate(10_000).unwrap();
    file.write_all_at(b"hello", 9_998).unwrap();
    file.sync().unwrap();
    let stat = file.stat().unwrap();
    assert_eq!((stat.len, stat.links, stat.is_dir), (10_003, 1, false));
    assert!(stat.allocated >= 10_000);
    let mut bytes = [1; 10];
    assert_eq!(file.read_at(&mut bytes, 9_995).unwrap(), 8);
    assert_eq!(&bytes, b"\0\0\0hello\x01\x01");
    dir.rename("log/a.pre", "log/a").unwrap();
    dir.sync_dir("log").unwrap();
    assert_eq!(dir.list("log").unwrap(), ["a"]);
    let named = dir.stat("log/a").unwrap();
    assert_eq!((named.dev, named.ino), (stat.dev, stat.ino));
    assert!(dir.stat("log").unwrap().is_dir);
    let again = dir.open("log/a", Open::Create).err().unwrap();
    assert_eq!(again.errno(), Some(libc::EEXIST));
    assert!(dir.unlink_if_there("log/a").unwrap());
    assert!(!dir.unlink_if_there("log/a").unwrap());
    assert_eq!(file.stat().unwrap().links, 0);
    assert_eq!(dir.try_stat("log/a").unwrap(), None);
    let gone = dir.open("log/a", Open::Read).err().unwrap();
    assert_eq!(
        (gone.code(), gone.errno()),
        (Code::Storage, Some(libc::ENOENT))
    );
    assert!(gone.path().unwrap().ends_with("log/a"));
}

#[test]
fn a_durable_write_replaces_the_file_and_leaves_no_other() {
    let place = Place::new();
    let dir = place.dir();
    std::fs::write(place.0.join("SUPER.tmp"), "left by a crash").unwrap();
    for text in ["one", "two, longer"] {
        dir.write_durably("SUPER", text.as_bytes()).unwrap();
        assert_eq!(dir.read_small("SUPER", 11).unwrap(), text.as_bytes());
    }
    assert_eq!(dir.list("").unwrap(), ["SUPER"]);
    let error = dir.read_small("SUPER", 10).unwrap_err();
    assert_eq!(error.code(), Code::Corrupt);
}

/// Runs one test of `module` (its `module_path!()`) alone in a process of its own, with a variable
/// set, for what concerns a whole process.
pub(crate) fn run_alone(module: &str, test: &str, variable: &str, value: &str) {
    let (_, module) = module.split_once("::").unwrap();
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("{module}::{test}")])
        .env(variable, value)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{variable}={value}: {:?} {said}",
        output.status
    );
}

#[test]
fn the_file_size_limit_is_an_error_not_a_signal() {
    const INSIDE: &str = "KEEPQ_TEST_FILE_SIZE_LIMIT";
    if std::env::var_os(INSIDE).is_none() {
        // The limit is one of the whole process, so the other tests must not see it.
        run_alone(
            module_path!(),
            "the_file_size_limit_is_an_error_not_a_signal",
            INSIDE,
            "1",
        );
        return;
    }
    let place = Place::new();
    let dir = place.dir();
    let file = dir.open("a", Open::Create).unwrap();
    let limit = rustix::process::Rlimit {
        current: Some(8192),
        maximum: None,
    };
    rustix::process::setrlimit(rustix::process::Resource::Fsize, limit).unwrap();
    assert_eq!(file_size_limit(), Some(8192));
    file.write_all_at(&[7; 8192], 0).unwrap();
    for error in [
        file.write_all_at(b"x", 8192).unwrap_err(),
        file.write_all_at(b"xy", 8191).unwrap_err(),
        file.write_all_at(b"x", u64::MAX).unwrap_err(),
        file.allocate(8193).unwrap_err(),
        file.allocate(u64::MAX).unwrap_err(),
    ] {
        assert_eq!(
            (error.code(), error.errno()),
            (Code::Full, Some(libc::EFBIG))
        );
    }
    assert_eq!(file.stat().unwrap().len, 8192);
    let host = RealHost::new(&place.disk()).unwrap();
    let error = host.create_map("ctl", 16_384).err().unwrap();
    assert_eq!(error.raw_os_error(), Some(libc::EFBIG));
    assert_eq!(dir.list("").unwrap(), ["a"], "no half-made map is left");
}

#[test]
fn a_byte_of_lock_is_held_against_other_hosts_until_its_host_goes() {
    let place = Place::new();
    let first = place.host();
    let second = place.host();
    assert_eq!(
        first.lock_stat().unwrap().ino,
        second.lock_stat().unwrap().ino
    );
    assert!(first.try_lock_byte(16).unwrap());
    assert!(
        first.try_lock_byte(16).unwrap(),
        "one's own byte can be taken again"
    );
    assert!(!second.try_lock_byte(16).unwrap());
    assert!(second.try_lock_byte(17).unwrap());
    assert_eq!(
        first.probe_byte(16).unwrap(),
        Probe::Free,
        "one's own hold reads free"
    );
    assert_eq!(second.probe_byte(16).unwrap(), Probe::Held);
    assert_eq!(first.probe_byte(17).unwrap(), Probe::Held);
    assert_eq!(first.probe_bytes(16, 2).unwrap(), Probe::Held);
    assert_eq!(first.probe_bytes(16, 1).unwrap(), Probe::Free);
    assert_eq!(first.probe_bytes(18, 1024).unwrap(), Probe::Free);
    assert_eq!(first.probe_bytes(0, 0).unwrap(), Probe::Free);
    second.unlock_byte(17);
    assert_eq!(first.probe_byte(17).unwrap(), Probe::Free);
    assert_eq!(first.probe_bytes(16, 1024).unwrap(), Probe::Free);
    drop(first);
    assert_eq!(second.probe_byte(16).unwrap(), Probe::Free);
    assert!(second.try_lock_byte(16).unwrap());
}

#[test]
fn lock_is_made_only_when_asked_and_has_its_length() {
    let place = Place::new();
    let host = RealHost::new(&place.disk()).unwrap();
    let missing = host.open_lock(false).unwrap_err();
    assert_eq!(missing.raw_os_error(), Some(libc::ENOENT));
    assert!(host.lock_stat().is_err());
    host.open_lock(true).unwrap();
    assert_eq!(host.lock_stat().unwrap().len, LOCK_LEN);
    assert_eq!(
        std::fs::metadata(place.0.join("LOCK")).unwrap().len(),
        LOCK_LEN
    );
}

#[test]
fn closing_every_descriptor_of_the_process_frees_no_byte() {
    let place = Place::new();
    let first = place.host();
    let second = place.host();
    assert!(first.try_lock_byte(16).unwrap());
    // SAFETY: the host checks its descriptor before each use, which is what is tested here.
    assert_eq!(unsafe { libc::close(first.lock_fd()) }, 0);
    assert_eq!(second.probe_byte(16).unwrap(), Probe::Held);
    let error = first.try_lock_byte(17).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EBADF));
    drop(first);
    assert_eq!(second.probe_byte(16).unwrap(), Probe::Free);
}

#[test]
fn a_forked_child_knows_it_and_keeps_no_byte_of_its_parent() {
    let place = Place::new();
    let first = place.host();
    let second = place.host();
    let arena = first.create_map("ctl", 4096).unwrap();
    assert!(first.try_lock_byte(16).unwrap());
    assert!(!first.forked());
    let (mut parents, childs) = std::os::unix::net::UnixStream::pair().unwrap();
    let (parents_fd, childs_fd) = (parents.as_raw_fd(), childs.as_raw_fd());
    // SAFETY: the child makes only calls that are allowed after a fork of a threaded process
    // (atomic loads, close, read, write, _exit) and never returns.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        let well = first.forked() && second.forked();
        let mut byte = [u8::from(well)];
        // SAFETY: open descriptors and a buffer of one byte; see above.
        unsafe {
            libc::close(parents_fd);
            libc::write(childs_fd, byte.as_ptr().cast(), 1);
            libc::read(childs_fd, byte.as_mut_ptr().cast(), 1);
            libc::_exit(0);
        }
    }
    drop(childs);
    let mut said = [0];
    io::Read::read_exact(&mut parents, &mut said).unwrap();
    assert_eq!(said[0], 1, "the child knows that it is one");
    assert!(!first.forked());
    assert_eq!(second.probe_byte(16).unwrap(), Probe::Held);
    drop((first, arena));
    assert_eq!(
        second.probe_byte(16).unwrap(),
        Probe::Free,
        "while the child still lives"
    );
    drop(parents);
    let mut status = 0;
    // SAFETY: waits for the one child made above.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert_eq!(status, 0);
}

#[test]
fn a_map_is_shared_whole_and_on_the_disk() {
    let place = Place::new();
    let host = place.host();
    let made = host.create_map("ctl.new", 64 * 1024).unwrap();
    place.disk().rename("ctl.new", "ctl").unwrap();
    assert!(std::fs::metadata(place.0.join("ctl")).unwrap().blocks() * 512 >= 64 * 1024);
    let (seen, stat) = place.host().open_map("ctl").unwrap();
    assert_eq!((seen.len(), stat.len), (64 * 1024, 64 * 1024));
    assert_eq!(seen.load(65_528), 0);
    made.store(65_528, 7);
    assert_eq!(seen.load(65_528), 7);
    assert_eq!(seen.load(65_536), 0, "out of bounds");
    assert!(host.create_map("ctl", 4096).is_err(), "it exists");
    assert!(host.create_map("odd", 4095).is_err());
    std::fs::write(place.0.join("short"), [0; 4095]).unwrap();
    assert!(refusal(host.open_map("short")).contains("shorter"));
    std::fs::write(place.0.join("empty"), "").unwrap();
    assert!(refusal(host.open_map("empty")).contains("shorter"));
    symlink("ctl", place.0.join("link")).unwrap();
    assert!(refusal(host.open_map("link")).contains("symbolic link"));
}

#[test]
fn a_sleeper_is_woken_through_another_map_of_the_file() {
    let place = Place::new();
    let (sleeper, waker) = (place.host(), place.host());
    let here = sleeper.create_map("ctl", 4096).unwrap();
    let (there, _) = waker.open_map("ctl").unwrap();
    sleeper.wait(&here, 8, 1, Duration::from_secs(60));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Returns at once while nothing has changed only if woken, so the word ends it.
            while here.load(8) == 0 {
                sleeper.wait(&here, 8, 0, Duration::from_secs(60));
            }
        });
        let until = Instant::now() + Duration::from_secs(120);
        while waker.wake(&there, 8, 1) == 0 {
            assert!(Instant::now() < until, "nobody ever slept on the word");
            std::thread::yield_now();
        }
        there.store(8, 1);
        waker.wake(&there, 8, u32::MAX);
    });
    let before = Instant::now();
    sleeper.wait(&here, 16, 0, Duration::from_millis(20));
    assert!(before.elapsed() >= Duration::from_millis(10));
    sleeper.wait(&here, 4096, 0, Duration::from_secs(60));
}

#[test]
fn clocks_and_random_numbers_move_and_the_boot_id_does_not() {
    let place = Place::new();
    let host = place.host();
    let (boot, real) = (host.boottime_ms(), host.realtime_ms());
    assert!(boot > 0 && host.boottime_ms() >= boot);
    assert!(real > 1_600_000_000_000);
    assert_eq!(host.boot_id(), place.host().boot_id());
    assert_ne!(host.random(), host.random());
    assert_eq!(host.pid(), std::process::id());
}

#[test]
fn the_file_system_of_the_tests_is_named() {
    let place = Place::new();
    let disk = place.disk();
    let fs = describe_filesystem(&disk).unwrap();
    assert!(!fs.name.is_empty() && !fs.detail.is_empty());
    assert_eq!(check_filesystem(&disk, true).is_err(), fs.refused);
    assert_eq!(check_filesystem(&disk, false).is_err(), fs.refused_unsynced);
}
