//! Which file systems can keep the promises, told by their type.

use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, StatFs, StatxFlags};

use super::RealDisk;
use super::real_host::read_proc;
use crate::error::{Code, Error, Result};

/// Why a kind of file system is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// Shared between hosts or served by another: locks, maps and futexes do not reach across.
    Remote,
    /// Served by a program, which decides what a sync or a lock means.
    Program,
    /// In memory: nothing survives a power cut.
    Memory,
}

/// The types that are refused, by the `f_type` of `statfs`.
const REFUSED: &[(u64, &str, Refusal)] = &[
    (0x6969, "NFS", Refusal::Remote),
    (0x517b, "SMB", Refusal::Remote),
    (0xff53_4d42, "CIFS", Refusal::Remote),
    (0xfe53_4d42, "SMB2", Refusal::Remote),
    (0x0102_1997, "9p", Refusal::Remote),
    (0x5346_414f, "AFS", Refusal::Remote),
    (0x6b41_4653, "AFS", Refusal::Remote),
    (0x00c3_6400, "Ceph", Refusal::Remote),
    (0x0bd0_0bd0, "Lustre", Refusal::Remote),
    (0x0116_1970, "GFS2", Refusal::Remote),
    (0x7461_636f, "OCFS2", Refusal::Remote),
    (0x4750_4653, "GPFS", Refusal::Remote),
    (0x1983_0326, "BeeGFS", Refusal::Remote),
    (0x2003_0528, "OrangeFS", Refusal::Remote),
    (0x7375_7245, "Coda", Refusal::Remote),
    (0x564c, "NCP", Refusal::Remote),
    (0x786f_4256, "VirtualBox shared folder", Refusal::Remote),
    (0xbacb_acbc, "VMware shared folder", Refusal::Remote),
    (FUSE_MAGIC, "FUSE", Refusal::Program),
    (0x0102_1994, "tmpfs", Refusal::Memory),
    (0x8584_58f6, "ramfs", Refusal::Memory),
    (0x9584_58f6, "hugetlbfs", Refusal::Memory),
];

/// The types that are known to do, for the doctor's text only.
const KNOWN: &[(u64, &str)] = &[
    (0xef53, "ext4"),
    (0x5846_5342, "XFS"),
    (0x9123_683e, "btrfs"),
    (0x2fc1_2fc1, "ZFS"),
    (0xf2f5_2010, "F2FS"),
    (0xca45_1a4e, "bcachefs"),
    (OVERLAY_MAGIC, "overlayfs"),
];

const FUSE_MAGIC: u64 = 0x6573_5546;
const OVERLAY_MAGIC: u64 = 0x794c_7630;
/// More of the mount table than this is not read.
const MOUNTINFO_MAX: usize = 4 << 20;

/// What a file system is, and whether it will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileSystem {
    /// Its usual name, or its number if it has none here.
    pub(crate) name: String,
    /// One sentence: that it will do, or why not.
    pub(crate) detail: String,
    /// Whether a store that syncs is refused on it.
    pub(crate) refused: bool,
    /// Whether a store that never syncs is refused on it too.
    pub(crate) refused_unsynced: bool,
}

/// The type number of `statfs`, as 32 bits without a sign.
pub(super) fn magic(fs: &StatFs) -> u64 {
    // The field's width and sign differ between machines; the numbers all have 32 bits.
    #[allow(clippy::cast_sign_loss, clippy::unnecessary_cast, reason = "see above")]
    let wide = fs.f_type as u64;
    wide & 0xffff_ffff
}

/// Refuses a file system that cannot keep what the store promises. Memory file systems and
/// volatile overlays are refused only to a store that syncs, as that would promise too much.
pub(crate) fn check_filesystem(disk: &RealDisk, sync: bool) -> Result<()> {
    let fs = describe_filesystem(disk)?;
    if !(if sync {
        fs.refused
    } else {
        fs.refused_unsynced
    }) {
        return Ok(());
    }
    let path = disk.at.display("");
    let text = format!(
        "{} lies on {}: {}; use a local disk, or set allow_unsafe_filesystem if you accept that",
        path.display(),
        fs.name,
        fs.detail
    );
    Err(Error::new(Code::UnsupportedFilesystem, text).at_path(path))
}

/// Names the file system under a store and says whether it will do, for `doctor`.
pub(crate) fn describe_filesystem(disk: &RealDisk) -> Result<FileSystem> {
    let dir = disk.at.dir();
    let fs = rustix::fs::fstatfs(dir)
        .map_err(|e| Error::io("look up the file system of", disk.at.display(""), &e.into()))?;
    let magic = magic(&fs);
    let mount = if matches!(magic, FUSE_MAGIC | OVERLAY_MAGIC) {
        mount_of(dir)
    } else {
        None
    };
    Ok(judge(magic, mount.as_ref()))
}

fn judge(magic: u64, mount: Option<&Mount>) -> FileSystem {
    if let Some(&(_, name, why)) = REFUSED.iter().find(|(number, ..)| *number == magic) {
        let name = match mount {
            Some(mount) if magic == FUSE_MAGIC => mount.kind.clone(),
            _ => name.to_owned(),
        };
        let detail = match why {
            Refusal::Remote => {
                "its files may be used from several machines, where locks, shared memory and \
                 wake-ups do not reach"
            }
            Refusal::Program => {
                "a program behind it decides what a sync, a lock and a shared map mean"
            }
            Refusal::Memory => "it lives in memory and loses everything when the power goes",
        };
        let refused_unsynced = why != Refusal::Memory;
        return FileSystem {
            name,
            detail: detail.to_owned(),
            refused: true,
            refused_unsynced,
        };
    }
    if magic == OVERLAY_MAGIC && mount.is_some_and(|mount| mount.volatile) {
        return FileSystem {
            name: "overlayfs mounted volatile".to_owned(),
            detail: "it leaves out every sync".to_owned(),
            refused: true,
            refused_unsynced: false,
        };
    }
    let known = KNOWN.iter().find(|(number, _)| *number == magic);
    let (name, detail) = match known {
        Some((_, name)) => ((*name).to_owned(), "a local file system that will do"),
        None => (
            format!("type {magic:#x}"),
            "not known to keepq; taken for a local file system",
        ),
    };
    FileSystem {
        name,
        detail: detail.to_owned(),
        refused: false,
        refused_unsynced: false,
    }
}

/// The line of the mount table that a directory lies on.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    kind: String,
    volatile: bool,
}

/// Best effort: `None` where the kernel (before 5.8) does not tell the mount.
fn mount_of(dir: BorrowedFd<'_>) -> Option<Mount> {
    let found = rustix::fs::statx(dir, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
    if found.stx_mask & StatxFlags::MNT_ID.bits() == 0 {
        return None;
    }
    let table = read_proc("/proc/self/mountinfo", MOUNTINFO_MAX).ok()?;
    find_mount(&table, found.stx_mnt_id)
}

/// `36 35 98:0 /root /mount/point rw,noatime shared:1 - overlay source rw,volatile`
fn find_mount(table: &str, id: u64) -> Option<Mount> {
    let of_id = |line: &&str| line.split(' ').next().and_then(|f| f.parse().ok()) == Some(id);
    let line = table.lines().find(of_id)?;
    let mut fields = line.split_once(" - ")?.1.split(' ');
    let kind = fields.next()?.to_owned();
    let options = fields.nth(1).unwrap_or("");
    let volatile = options
        .split(',')
        .any(|o| o == "volatile" || o == "fsync=volatile");
    Some(Mount { kind, volatile })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remote_file_systems_are_refused_with_their_name_and_memory_only_to_stores_that_sync() {
        for &(number, name, why) in REFUSED {
            let fs = judge(number, None);
            assert_eq!(fs.name, name);
            assert!(fs.refused, "{name}");
            assert_eq!(fs.refused_unsynced, why != Refusal::Memory, "{name}");
        }
        for &(number, name) in KNOWN {
            let fs = judge(number, None);
            assert_eq!((fs.name.as_str(), fs.refused), (name, false));
        }
        assert!(!judge(0x1234_5678, None).refused);
    }

    #[test]
    fn a_volatile_overlay_is_told_from_the_mount_table() {
        let table = "36 35 98:0 / / rw,noatime shared:1 - ext4 /dev/vda rw\n\
                     41 36 0:40 / /data rw - overlay overlay rw,lowerdir=/a,volatile\n\
                     42 36 0:41 / /more rw shared:2 - virtiofs host rw\n";
        let overlay = find_mount(table, 41);
        assert!(judge(OVERLAY_MAGIC, overlay.as_ref()).refused);
        let plain = Mount {
            kind: "overlay".to_owned(),
            volatile: false,
        };
        assert!(!judge(OVERLAY_MAGIC, Some(&plain)).refused);
        assert_eq!(
            judge(FUSE_MAGIC, find_mount(table, 42).as_ref()).name,
            "virtiofs"
        );
        assert_eq!(find_mount(table, 7), None);
        assert_eq!(find_mount("garbage", 7), None);
    }
}
