//! Switches that take one protection away, so that the tests can show that they would notice.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The environment variable that names a switch for a whole process.
const VARIABLE: &str = "KEEPQ_BREAK";

macro_rules! breaks {
    ($( $(#[$doc:meta])* $variant:ident = $name:literal, )*) => {
        /// One protection of the engine that a test can take away.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Break { $( $(#[$doc])* $variant, )* }

        impl Break {
            /// Every switch.
            pub const ALL: &'static [Break] = &[$( Break::$variant, )*];

            /// Its name in `KEEPQ_BREAK`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $( Break::$variant => $name, )* }
            }
        }
    };
}

breaks! {
    /// No file is ever synced.
    NoFdatasync = "no_fdatasync",
    /// Every third sync of a file is left out.
    EveryThirdFdatasync = "every_third_fdatasync",
    /// A file is renamed into place before its content is synced.
    NoFileSyncBeforeRename = "no_file_sync_before_rename",
    /// No directory is ever synced.
    NoDirSync = "no_dir_sync",
    /// The durable watermark moves before the sync.
    WatermarkBeforeFsync = "watermark_before_fsync",
    /// A message of a sync topic is delivered before it is durable.
    VisibleBeforeWatermark = "visible_before_watermark",
    /// A failed sync is tried again on the same pages.
    FsyncRetriedAfterEio = "fsync_retried_after_eio",
    /// What a dead process wrote is trusted without being written again.
    NoRewriteOnReopen = "no_rewrite_on_reopen",
    /// A record's checksum does not cover its position.
    SaltWithoutPosition = "salt_without_position",
    /// An unclean recovery keeps the epoch.
    EpochNotBumped = "epoch_not_bumped",
    /// A record's checksum does not cover its length.
    CrcWithoutLength = "crc_without_length",
    /// Recovery cuts the log at the first bad record, whatever proves that it was durable.
    TruncateAtFirstBadCrc = "truncate_at_first_bad_crc",
    /// Topic sequences are used again after a recovery.
    SequenceReuse = "sequence_reuse",
    /// A dead owner's half-done changes stay.
    UndoMissing = "undo_missing",
    /// The old value is noted after the change.
    UndoAfterStore = "undo_after_store",
    /// The tail is published before the change is whole.
    PublishedBeforeCommit = "published_before_commit",
    /// A lock is taken from a living owner when the wait was long.
    LockStolenOnTimeout = "lock_stolen_on_timeout",
    /// A dead member's slot is freed before its locks are repaired.
    SlotFreedBeforeRepair = "slot_freed_before_repair",
    /// A reused slot keeps its generation.
    GenerationNotBumped = "generation_not_bumped",
    /// A member probes its own byte and finds itself dead.
    OwnSlotProbed = "own_slot_probed",
    /// A recovery goes on with the next sequence and position.
    SequencesNotJumped = "sequences_not_jumped",
    /// A segment is removed below the first chunk of a send in progress.
    ReclaimBelowChunk = "reclaim_below_chunk",
    /// Nobody is woken by a message or a flush.
    WakeLost = "wake_lost",
    /// What decides on reclaim is read from half a transaction that is rolled back.
    ReclaimOnHalfRead = "reclaim_on_half_read",
    /// Shared memory in a runtime directory is taken whichever it is.
    RuntimeNonceNotChecked = "runtime_nonce_not_checked",
    /// A change of a group's options returns before it is durable.
    ConfigureNotFlushed = "configure_not_flushed",
    /// Purged dead letters are not noted in the log.
    PurgeNotNoted = "purge_not_noted",
    /// A purge notes only what it was asked to remove, not the whole run it belongs to.
    PurgeNotedInPart = "purge_noted_in_part",
    /// A purge of dead letters returns before it is durable.
    PurgeNotFlushed = "purge_not_flushed",
    /// A purge of a topic's messages is not noted in the log.
    PurgeOfTopicNotNoted = "purge_of_topic_not_noted",
    /// A deletion is not noted in the log.
    DeletionNotNoted = "deletion_not_noted",
    /// A purge or a deletion returns before it is durable.
    DeletionNotFlushed = "deletion_not_flushed",
    /// A snapshot takes a deleted group whose slots are not freed yet for one that is in use.
    SnapshotForgetsDeletion = "snapshot_forgets_deletion",
    /// A new topic or group gets the id of the one that had its place.
    IdReused = "id_reused",
    /// A message is refused for a limit after it was appended.
    LimitCheckedAfterwards = "limit_checked_afterwards",
    /// A snapshot forgets the limits of topics.
    SnapshotForgetsLimits = "snapshot_forgets_limits",
    /// A segment is removed before the records that released it are durable.
    UnlinkBeforeReleaseDurable = "unlink_before_release_durable",
    /// A segment is removed before the copies of what is live in it are durable.
    UnlinkBeforeMovedDurable = "unlink_before_moved_durable",
    /// Indexes know nothing of what was moved into their segments.
    MovedNotIndexed = "moved_not_indexed",
    /// What a dead letter refers to does not count as live.
    OriginNotMoved = "origin_not_moved",
    /// A record that is not where it was looked for is damage at once.
    DamageAtFirstSight = "damage_at_first_sight",
    /// Recovery replays from the last piece of a snapshot.
    SnapReplayedFromLastPiece = "snap_replayed_from_last_piece",
    /// A descriptor of the old file is used after a reseal.
    OldDescriptorAfterReseal = "old_descriptor_after_reseal",
    /// A copy from the ring is checked against what was written, not what is durable.
    RingCopyCheckedAgainstWritten = "ring_copy_checked_against_written",
    /// A warm attach believes the state without its sum.
    StateSumNotChecked = "state_sum_not_checked",
    /// Sends may use the space kept for acks.
    NoReserveForAcks = "no_reserve_for_acks",
    /// A leader's death around its sync is not made good.
    IntentIgnored = "intent_ignored",
    /// A damaged record is passed over without a word.
    SilentSkipOverBadCrc = "silent_skip_over_bad_crc",
    /// A failed store takes sends again.
    FailedNotSticky = "failed_not_sticky",
    /// An asynchronous send is confirmed before its flush.
    PendingBeforeFlush = "pending_before_flush",
    /// A send that came back is confirmed although its flush is not over.
    ConfirmedBeforeFlush = "confirmed_before_flush",
    /// A member that ends stays among the consumers of its groups.
    ConsumersOutliveMembers = "consumers_outlive_members",
    /// A broadcast consumer without a name ends although its member has it open.
    LivingConsumerEnded = "living_consumer_ended",
    /// Who opens the store leaves broadcast consumers without a name whose members are gone.
    OrphansKeptByOpen = "orphans_kept_by_open",
    /// Only the result of a producer's last send is recalled.
    OnlyLastSendRecalled = "only_last_send_recalled",
    /// Snapshots leave the results of producers' sends out.
    ResultsNotInSnap = "results_not_in_snap",
    /// A producer's name is dropped for another however recently it was used.
    ProducerDroppedEarly = "producer_dropped_early",
    /// A producer's name is dropped for another while somebody has it open.
    OpenProducerDropped = "open_producer_dropped",
    /// That a producer's name was dropped is not noted in the log.
    ProducerDropNotNoted = "producer_drop_not_noted",
    /// A group takes the slots that are kept for the shares of others.
    ShareNotKept = "share_not_kept",
    /// What waits for a message with the same order key is forgotten when that one is settled.
    ParkedNotReleased = "parked_not_released",
    /// A recovery takes messages with the same order key as if they had none.
    OrderLostInRecovery = "order_lost_in_recovery",
    /// What a filter skips is not noted in the log.
    SkipNotLogged = "skip_not_logged",
    /// The note of what a filter skips names one message more.
    SkipLoggedTooFar = "skip_logged_too_far",
    /// A repair changes damaged files without keeping copies.
    NoCopyBeforeRepair = "no_copy_before_repair",
    /// A repair does not note in the log what damage it has dealt with.
    RepairNotNoted = "repair_not_noted",
    /// A repair leaves the store without a new snapshot.
    NoSnapshotAfterRepair = "no_snapshot_after_repair",
    /// What an ack needs that a full disk has no room for is not kept.
    CoalescedNotKept = "coalesced_not_kept",
    /// Such an ack counts as written down by snapshots that began before it.
    CoalescedNotedTooEarly = "coalesced_noted_too_early",
    /// A snapshot counts as whole though a piece of it is missing.
    MissingPieceIgnored = "missing_piece_ignored",
    /// A flush says nothing of acks that the log has no room for.
    FlushLeavesAcksOut = "flush_leaves_acks_out",
    /// Room for a segment is not reserved before it is used: that the disk is full shows when what
    /// was sent is written.
    SpaceNotAllocated = "space_not_allocated",
    /// Sends go on before there is a reserve again.
    ReserveNotReplaced = "reserve_not_replaced",
    /// A send with the next number takes one that another thread was faster to take.
    NumberGivenTwice = "number_given_twice",
    /// Recovery stays with the snapshot it began with.
    LaterSnapshotIgnored = "later_snapshot_ignored",
    /// Reclaim takes what was sealed since it looked for one that nobody needs.
    UnseenReclaimed = "unseen_reclaimed",
    /// A length is used before its checksum was compared.
    LengthTrustedBeforeCrc = "length_trusted_before_crc",
}

impl Break {
    /// The switch with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Break> {
        Break::ALL.iter().copied().find(|b| b.name() == name)
    }
}

/// The switch in force: 0 for none, else its place in the list plus one.
fn current() -> &'static AtomicUsize {
    static CURRENT: OnceLock<AtomicUsize> = OnceLock::new();
    CURRENT.get_or_init(|| {
        let named = std::env::var(VARIABLE).ok().filter(|name| !name.is_empty());
        let switch = named.map(|name| match Break::from_name(&name) {
            Some(switch) => switch,
            None => panic!("{VARIABLE} names no switch: {name}"),
        });
        AtomicUsize::new(number(switch))
    })
}

fn number(switch: Option<Break>) -> usize {
    switch.map_or(0, |switch| switch as usize + 1)
}

/// Takes a protection away in this process, or gives all back.
pub fn set_broken(switch: Option<Break>) {
    current().store(number(switch), Ordering::SeqCst);
}

/// Whether this protection is taken away.
#[inline]
pub(crate) fn broken(switch: Break) -> bool {
    current().load(Ordering::Relaxed) == number(Some(switch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_follow_the_variants() {
        for &switch in Break::ALL {
            assert_eq!(Break::from_name(switch.name()), Some(switch));
            let mut snake = String::new();
            for c in format!("{switch:?}").chars() {
                if c.is_ascii_uppercase() && !snake.is_empty() {
                    snake.push('_');
                }
                snake.push(c.to_ascii_lowercase());
            }
            assert_eq!(snake, switch.name());
        }
        assert_eq!(Break::from_name("no_such_switch"), None);
    }
}
