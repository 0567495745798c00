/* keepq: a durable message queue in a library. A directory is the queue, any number of processes
 * share it, there is no server.
 *
 * Made from bindings/c/src by `cargo xtask header`: change it there.
 *
 *     keepq *q;
 *     keepq_group *billing;
 *     keepq_msg *msg;
 *
 *     keepq_open("shop.kq", NULL, &q);
 *     keepq_send(q, "orders", "hello", 5, NULL, NULL);         // on disk when it returns 0
 *     keepq_group_open(q, "orders", "billing", NULL, &billing);
 *     while (keepq_receive(billing, 1000, &msg) == KEEPQ_OK) {
 *         keepq_bytes body = keepq_msg_body(msg);
 *         if (work(body.ptr, body.len)) keepq_ack(msg);        // never again for this group
 *         else keepq_nack(msg, -1);                            // again, after a while
 *         keepq_msg_free(msg);
 *     }
 *     keepq_group_close(billing);
 *     keepq_close(q);
 *
 * THE WORDS
 *
 * store         An opened directory (keepq). It holds topics, and is the unit of flushing.
 * topic         A named stream of messages in a store. Names: A-Z a-z 0-9 . _ - (1 to 120 bytes).
 * message       A body (any bytes, at most 16 MiB) with, if wanted, key, tag and headers. It has a
 *               sequence in its topic, from 0, and an id.
 * group         A consumer group of a topic (keepq_group). Every group gets every message; the
 *               consumers of one group, in any number of processes, share them.
 * lease         A received message (keepq_msg) stays with its receiver for lease_ms, or until the
 *               process dies: then it is delivered again, at once.
 * settle        ack: done. nack: again, at once or later. reject: never again.
 * dead letter   A message that was rejected, or failed max_attempts times: kept for you to look at.
 * durable       On disk (fdatasync), so that it survives power loss. What is only asynchronous is
 *               in shared memory: it survives the death of every process, and is durable within
 *               flush_interval_ms.
 *
 * Delivery is at least once: a consumer that dies after its work and before its ack gets the
 * message again, with keepq_msg_attempt above 1. A named producer (keepq_producer_open) makes
 * sending again safe.
 *
 * CAVEATS
 *
 * - fork: in the child, handles of the parent give KEEPQ_E_FORKED_HANDLE; open the store again
 *   there. Closing and freeing them is harmless and changes nothing. exec closes everything.
 * - Network file systems, FUSE and memory file systems are refused
 *   (KEEPQ_E_UNSUPPORTED_FILESYSTEM): they do not share memory or do not keep it.
 * - A killed process holds nothing up: its leases end and its locks are taken over within 0.1 s.
 *   A stopped one (SIGSTOP) inside a lock holds the others up: their calls end in KEEPQ_E_BUSY or
 *   KEEPQ_E_FLUSH_TIMEOUT, which name it.
 * - A full disk refuses sends (KEEPQ_E_FULL, not stored); receiving, acks and dead letters go on
 *   from a reserve. RLIMIT_FSIZE counts as a full disk; ignore SIGXFSZ.
 * - When a flush fails and repairing it too, the store is KEEPQ_E_FAILED for everybody: what was
 *   confirmed is kept, nothing more is accepted before all processes have closed it.
 * - The store's directory may not be renamed or removed while it is open, nor its files touched.
 *   Deleted or truncated files give KEEPQ_E_STORE_GONE; mapped ones may raise SIGBUS on a file
 *   system that is shut down (see runtime_dir).
 * - The library starts threads (none before the first send or receive) with all signals blocked.
 *   No function but keepq_version and keepq_strerror may be called from a signal handler.
 *
 * CONVENTIONS
 *
 * Return codes. A keepq_rc is KEEPQ_OK (0); positive when nothing went wrong but there is nothing
 * to give (KEEPQ_EMPTY, KEEPQ_TIMEOUT); negative for an error: its number is that of all languages
 * (KQ-401 is -401). keepq_last_message and keepq_last_error tell more: what, where and what to do.
 * They are per thread.
 *
 * Errors. Each function names its own. Any may return KEEPQ_E_INTERNAL; KEEPQ_E_LIMIT_EXCEEDED
 * when there are too many handles or a table of the store is full (topics, groups, producers); and
 * KEEPQ_E_CLOSED when another thread closes the store meanwhile; KEEPQ_E_NOT_FOUND when the topic
 * or group was deleted, here or in another process. "The disk's" are those that the
 * store's files may give: KEEPQ_E_STORAGE (with errno), KEEPQ_E_FULL, KEEPQ_E_FAILED,
 * KEEPQ_E_CORRUPT, KEEPQ_E_STORE_GONE, KEEPQ_E_BUSY, KEEPQ_E_TIMEOUT, KEEPQ_E_FLUSH_TIMEOUT (done,
 * not known to be on disk). An error loses nothing, and what it refused is not half done.
 *
 * Handles (keepq, keepq_group, keepq_msg) are numbers, never addresses: any value may be passed to
 * any function. NULL, a closed or freed handle, one of another kind or a made-up one is
 * KEEPQ_E_BAD_HANDLE, which is told before anything else that is wrong. Who gets a handle closes or
 * frees it, in any order; closing a store does not free its groups and messages.
 *
 * Other pointers must be valid for what the call says of them: strings end with a NUL and are UTF-8
 * (paths: any bytes), arrays have the length given. NULL is KEEPQ_E_INVALID_ARGUMENT unless it is
 * said to be allowed. Nothing passed in is kept after the call, but a callback's user pointer.
 * Nothing given out is freed but by keepq_msg_free: there is no memory to release.
 *
 * Structs whose first field is size start with their *_INIT macro. A program and a library of
 * different versions agree by it: fields that the library does not know must be zero
 * (KEEPQ_E_INCOMPATIBLE), and those that the program does not know have their defaults. A wrong
 * size is KEEPQ_E_INVALID_ARGUMENT. New fields are only added at the end.
 *
 * Threads. Every function may be called from any thread at any time; a store and a group handle
 * may be used by many threads at once. A keepq_msg belongs to one thread at a time. Callbacks run
 * only inside keepq_dispatch and keepq_close.
 *
 * Times are in milliseconds. As a wait: -1 = for ever, 0 = do not wait.
 *
 * Versions. Call KEEPQ_CHECK_ABI() once at the start: 0 if the library that is loaded fits this
 * header. While the major version is 0 each minor version is an ABI of its own, which is the
 * library's soname, libkeepq.so.0.<minor>.
 */

#ifndef KEEPQ_H
#define KEEPQ_H

#include <stddef.h>
#include <stdint.h>

/* The version of this header as one number, like keepq_version(). */
#define KEEPQ_VERSION \
    (((uint32_t)KEEPQ_VERSION_MAJOR << 16) | ((uint32_t)KEEPQ_VERSION_MINOR << 8) | \
     (uint32_t)KEEPQ_VERSION_PATCH)

/* 0 if the library that is loaded works with this header, else KEEPQ_E_INCOMPATIBLE. */
#define KEEPQ_CHECK_ABI() keepq_check_abi(KEEPQ_VERSION)

/* How each struct starts: keepq_open_opts opts = KEEPQ_OPEN_OPTS_INIT; */
#define KEEPQ_OPEN_OPTS_INIT \
    { sizeof(keepq_open_opts), 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL, 0 }
#define KEEPQ_SEND_OPTS_INIT \
    { sizeof(keepq_send_opts), 0, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, 0, 0, 0, 0, 0, 0 }
#define KEEPQ_MSG_IN_INIT { sizeof(keepq_msg_in), NULL, NULL, 0, NULL }
#define KEEPQ_GROUP_OPTS_INIT \
    { sizeof(keepq_group_opts), 0, 0, 0, 1, 0, 0, 0, 0, 0, 0.0, 0.0, NULL, 0, NULL, 0, 0, 0, 0, 0 }
#define KEEPQ_SENT_INIT { sizeof(keepq_sent), 0, { 0 }, 0, 0, 0, 0, 0 }
#define KEEPQ_DEAD_INFO_INIT { sizeof(keepq_dead_info), 0, 0, 0, 0, NULL, NULL }
#define KEEPQ_STORE_STATS_INIT { sizeof(keepq_store_stats), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }
#define KEEPQ_TOPIC_STATS_INIT { sizeof(keepq_topic_stats), 0, 0, 0, { 0 } }
#define KEEPQ_GROUP_STATS_INIT \
    { sizeof(keepq_group_stats), 0, 0, 0, 0, 0, 0, { 0 }, { 0 }, 0, 0, 0 }
#define KEEPQ_VERIFY_REPORT_INIT { sizeof(keepq_verify_report), 0, 0, 0, 0, 0, 0 }
#define KEEPQ_FINDING_INIT { sizeof(keepq_finding), 0, 0, 0, 0, { 0 }, { 0 } }
#define KEEPQ_TOPIC_OPTS_INIT { sizeof(keepq_topic_opts), 0, 0, 0, 0, 0, 0 }
#define KEEPQ_STORE_OPTS_INIT { sizeof(keepq_store_opts), 0, 0, 0 }
#define KEEPQ_REPAIR_OPTS_INIT { sizeof(keepq_repair_opts), 0, 0 }
#define KEEPQ_REPAIR_REPORT_INIT { sizeof(keepq_repair_report), 0, 0, 0, 0, 0, 0, 0 }
#define KEEPQ_REPAIR_NOTE_INIT { sizeof(keepq_repair_note), 0, 0, 0, 0, { 0 }, { 0 } }
#define KEEPQ_ERROR_INFO_INIT { sizeof(keepq_error_info), 0, 0, 0, 0, 0, NULL, NULL, NULL }


// Major version of this header.
#define KEEPQ_VERSION_MAJOR 0

// Minor version of this header.
#define KEEPQ_VERSION_MINOR 1

// Patch version of this header.
#define KEEPQ_VERSION_PATCH 0

// As the group, the topic or the store says.
#define KEEPQ_FLUSH_DEFAULT 0

// On disk when the call returns.
#define KEEPQ_FLUSH_SYNC 1

// In shared memory when the call returns: survives the death of every process.
#define KEEPQ_FLUSH_ASYNC 2

// A send for which there is no room: while too many asynchronous and one-way sends are in flight
// it waits; for a limit of its topic or the store, it does what those were made with.
#define KEEPQ_WHEN_FULL_DEFAULT 0

// It waits for room, at most the send's time.
#define KEEPQ_WHEN_FULL_WAIT 1

// It returns KEEPQ_E_FULL at once. Nothing is stored.
#define KEEPQ_WHEN_FULL_REFUSE 2

// keepq_sent.status: stored as durably as asked.
#define KEEPQ_SEND_OK 0

// Appended, not confirmed on disk in time: wait with keepq_flush, do not send again.
#define KEEPQ_SEND_FLUSH_DISK_TIMEOUT 1

// Not sent, or not known: see rc and outcome.
#define KEEPQ_SEND_FAILED 2

// keepq_sent.seq when there is none.
#define KEEPQ_NO_SEQ UINT64_MAX

// Most results that may wait for keepq_dispatch before further asynchronous sends are refused.
#define KEEPQ_MAX_UNDISPATCHED 65536

// A new group begins at the earliest kept message.
#define KEEPQ_START_EARLIEST 0

// A new group begins with messages sent after it was made.
#define KEEPQ_START_LATEST 1

// A new group begins at start_seq.
#define KEEPQ_START_SEQUENCE 2

// A new group begins with the first message sent at start_ms or later.
#define KEEPQ_START_TIME 3

// The waits after failures are RocketMQ's: 10 s, 30 s, 1 to 10 min, 20 min, 30 min, 1 h, 2 h, the
// last again and again, without a random part.
#define KEEPQ_BACKOFF_ROCKETMQ 1

// keepq_repair_note.kind: something that was done, or would be; in order.
#define KEEPQ_REPAIR_ACTION 1

// Messages of a topic that are gone: first_seq and count. Each group that had not settled them is
// told once, by a keepq_receive that returns KEEPQ_E_CORRUPT.
#define KEEPQ_REPAIR_LOST_MESSAGES 2

// What else is not known any more: names of topics, where groups stood.
#define KEEPQ_REPAIR_LOST_STATE 3

// A copy of a damaged file as it was, or a file that is no part of the log any more; text is its
// path, relative to the store.
#define KEEPQ_REPAIR_QUARANTINED 4

// Does not apply: not an error of a send.
#define KEEPQ_OUTCOME_NONE 0

// Refused before the append: the message is not in the log. Safe to send again.
#define KEEPQ_OUTCOME_NOT_STORED 1

// Appended, but not confirmed durable: it may or may not survive. Sending again may store it
// twice.
#define KEEPQ_OUTCOME_MAYBE_STORED 2

// Stored as durably as asked.
#define KEEPQ_OUTCOME_STORED 3

// An open store. Any number of threads may use one handle at the same time.
typedef struct keepq keepq;

// A consumer group of a topic. Any number of threads may use one handle at the same time.
typedef struct keepq_group keepq_group;

// A message that was received, or looked at by keepq_browse or keepq_dlq_browse. It belongs to one
// thread at a time.
typedef struct keepq_msg keepq_msg;

// What a call returns: 0 = done; positive = nothing went wrong but there is nothing to report;
// negative = the number of an error, see keepq_last_error.
typedef int32_t keepq_rc;

// How a store is opened. Start it with KEEPQ_OPEN_OPTS_INIT.
typedef struct keepq_open_opts {
    // sizeof(keepq_open_opts).
    size_t size;
    // KEEPQ_FLUSH_*; the default is sync.
    int32_t flush;
    // 1 = make a store where there is none (INIT), 0 = that is KEEPQ_E_NOT_FOUND.
    int32_t create;
    // 1 = an existing store is fine (INIT), 0 = it is KEEPQ_E_ALREADY_EXISTS.
    int32_t exist_ok;
    // Permission bits of the files of a new store; 0 = 0600.
    uint32_t mode;
    // The time a send may take; 0 = 3000, -1 = for ever.
    int64_t send_timeout_ms;
    // How long an asynchronous send may stay unflushed; 0 = 10.
    int64_t flush_interval_ms;
    // Size of a full-grown log segment of a new store, bytes; 0 = 64 MiB.
    uint64_t segment_size;
    // Size of the shared tail ring of a new store, bytes, a power of two; 0 = 8 MiB.
    uint64_t ring_size;
    // How many messages can be outstanding in a new store; 0 = 65536.
    uint32_t slots;
    // 1 = open on a network, FUSE or memory file system all the same, without its guarantees.
    int32_t allow_unsafe_filesystem;
    // 1 = to look only: statistics, browsing, dead letters, keepq_verify. No lock is taken,
    // nothing is written or made: what is not there is KEEPQ_E_NOT_FOUND, and whatever would
    // change something KEEPQ_E_READ_ONLY.
    int32_t read_only;
    // How often a send is tried again within its time after a retriable error; 0 = 2, -1 = never,
    // at most 100.
    int32_t send_retries;
    // How many asynchronous and one-way sends of this handle may wait for the disk; 0 = 1024, at
    // most 1 Mi.
    uint32_t max_in_flight;
    // What a send to a new store does while max_bytes has no room for it: KEEPQ_WHEN_FULL_*; the
    // default is to refuse.
    int32_t when_full;
    // How many bytes of bodies they may have; 0 = 64 MiB.
    uint64_t max_in_flight_bytes;
    // Where a new store keeps its shared memory, if not in its own directory: an absolute path,
    // best on tmpfs, the same in every process. NULL = in its own directory.
    const char *runtime_dir;
    // The most bytes of bodies that all topics of a new store keep together; 0 = no limit. See
    // keepq_topic_opts, and keepq_configure to change it.
    uint64_t max_bytes;
} keepq_open_opts;

// What all topics of a store keep together. Start it with KEEPQ_STORE_OPTS_INIT; 0 = not set: it
// stays; -1 = none.
typedef struct keepq_store_opts {
    // sizeof(keepq_store_opts).
    size_t size;
    // The most bytes of bodies that all topics keep together; see keepq_topic_opts.
    int64_t max_bytes;
    // What a send does while that has no room for it, as for a topic.
    int32_t when_full;
    // Must be 0.
    int32_t reserved;
} keepq_store_opts;

// A named value that goes with a message.
typedef struct keepq_header {
    // Its name, UTF-8.
    const char *name;
    // Its value: any bytes.
    const void *value;
    // Length of the value.
    size_t len;
} keepq_header;

// How a message is sent. Start it with KEEPQ_SEND_OPTS_INIT; zero means not set. Fields marked
// "later" are not part of this version and give KEEPQ_E_NOT_SUPPORTED when set.
typedef struct keepq_send_opts {
    // sizeof(keepq_send_opts).
    size_t size;
    // KEEPQ_FLUSH_*; the default is the store's.
    int32_t flush;
    // Later: 0 to 9.
    int32_t priority;
    // KEEPQ_WHEN_FULL_*: what an asynchronous or one-way send does while too many are in flight.
    int32_t when_full;
    // 1 = producer_seq is the message's number, 0 = the next one is.
    int32_t has_producer_seq;
    // What to find the message by: at most 255 bytes of UTF-8.
    const char *key;
    // What kind of message it is: at most 255 bytes of UTF-8.
    const char *tag;
    // Messages with the same one are delivered one after the other, as they were sent, in groups
    // that are ordered: at most 255 bytes of UTF-8.
    const char *order_key;
    // Later: a message with the same one is not stored again.
    const char *dedup_id;
    // The named producer that sends it; see keepq_producer_open.
    const char *producer;
    // n_headers headers; all names and values together have at most 48 KiB.
    const struct keepq_header *headers;
    // How many there are: at most 1024.
    size_t n_headers;
    // Later: deliver after so much time.
    int64_t delay_ms;
    // Later: deliver at this time.
    int64_t at_ms;
    // Later: how long the message is worth delivering.
    int64_t ttl_ms;
    // The time the send may take; 0 = as the store was opened with, -1 = for ever.
    int64_t timeout_ms;
    // The message's number from its producer, from 0; with has_producer_seq.
    uint64_t producer_seq;
} keepq_send_opts;

// What became of a message. Start it with KEEPQ_SENT_INIT.
typedef struct keepq_sent {
    // sizeof(keepq_sent).
    size_t size;
    // Its sequence in the topic, from 0; KEEPQ_NO_SEQ if it has none.
    uint64_t seq;
    // Its identity: 16 hexadecimal digits and a NUL; "" if it was not stored.
    char id[24];
    // What became of it: KEEPQ_OK or the error.
    int32_t rc;
    // One of KEEPQ_SEND_*.
    int32_t status;
    // One of KEEPQ_OUTCOME_*.
    int32_t outcome;
    // 1 if it was on disk by then.
    int32_t durable;
    // 1 if its producer had sent this sequence before: nothing was appended.
    int32_t duplicate;
} keepq_sent;

// A message of keepq_send_batch. Start it with KEEPQ_MSG_IN_INIT. In an array the first one's size
// is that of all.
typedef struct keepq_msg_in {
    // sizeof(keepq_msg_in).
    size_t size;
    // The topic; made if it is new.
    const char *topic;
    // The content: any bytes.
    const void *body;
    // How many: at most 16 MiB.
    size_t len;
    // NULL = the defaults.
    const struct keepq_send_opts *opts;
} keepq_msg_in;

// Told of a send that succeeded. sent lasts until it returns.
typedef void (*keepq_send_cb)(void *user, const struct keepq_sent *sent);

// What is known about an error. Start it with KEEPQ_ERROR_INFO_INIT. The strings belong to the
// library and last until the next keepq call of this thread that fails.
typedef struct keepq_error_info {
    // sizeof(keepq_error_info).
    size_t size;
    // The error, negative; 0 if no call of this thread has failed yet.
    keepq_rc rc;
    // The operating system's errno; 0 if none.
    int32_t os_errno;
    // One of KEEPQ_OUTCOME_*.
    int32_t outcome;
    // 1 if the same call, made again later, may succeed without anything being repaired.
    int32_t retriable;
    // The byte offset in path, or the log position; -1 if none.
    int64_t position;
    // The stable name, like "LeaseLost"; never NULL.
    const char *name;
    // One sentence that says what, where and what to do; never NULL.
    const char *message;
    // The file the error is about; NULL if none.
    const char *path;
} keepq_error_info;

// Told of a send that failed. error and its strings last until it returns.
typedef void (*keepq_err_cb)(void *user, const struct keepq_error_info *error);

// How a group is opened. Start it with KEEPQ_GROUP_OPTS_INIT; zero means not set: then what the
// group was made with applies, and for a new group the default that is named.
typedef struct keepq_group_opts {
    // sizeof(keepq_group_opts).
    size_t size;
    // How long a message stays with its receiver; 30000. At most 30 days.
    int64_t lease_ms;
    // Deliveries before a message becomes a dead letter, 1 to 1000; 16.
    uint32_t max_attempts;
    // KEEPQ_FLUSH_* for acks; async.
    int32_t ack_flush;
    // 1 = make topic and group where they are missing (INIT), 0 = that is KEEPQ_E_NOT_FOUND.
    int32_t create;
    // Where a new group begins: KEEPQ_START_*.
    int32_t start;
    // With KEEPQ_START_SEQUENCE: the sequence.
    uint64_t start_seq;
    // With KEEPQ_START_TIME: the time, ms since 1970 UTC.
    int64_t start_ms;
    // How long a message waits after its first failure; 1000. -1 = not at all. When one of the
    // four is set, those that are not have their defaults.
    int64_t backoff_first_ms;
    // The longest wait; 600000.
    int64_t backoff_max_ms;
    // How much longer each next wait is, 1 to 1000; 2.
    double backoff_factor;
    // The random part of a wait, up to 1; 0.1. -1 = none.
    double backoff_jitter;
    // Receive only messages with one of these tags; every message. At most 16 of at most 255
    // bytes each. A message without one of them is skipped: for this group it is settled. NULL =
    // not set; with n_tags 0 any other pointer says that every message is wanted.
    const char *const *tags;
    // How many there are.
    size_t n_tags;
    // With broadcast, this consumer's name, as the name of a group; NULL = it has none.
    const char *consumer;
    // 1 = messages with the same order_key one at a time, in order. For good: it is decided when
    // the group is made.
    int32_t ordered;
    // 1 = each consumer gets every message: it is a group of its own, which is named
    // "group%consumer" and goes on where it was when it is opened again. One without a name is
    // another one each time and ends, with its dead letters, when the group and all messages
    // received by it are closed and freed, when the store is closed or the process dies.
    int32_t broadcast;
    // How many messages may be in flight at a time (leased, delayed or behind one with the same
    // order_key), up to 1 Mi; half of the store's slots.
    uint64_t max_outstanding;
    // KEEPQ_BACKOFF_ROCKETMQ, instead of the four backoff_ numbers; 0 = they say it.
    int32_t backoff;
    // Always 0.
    int32_t reserved;
} keepq_group_opts;

// How much a topic keeps, and what is kept in it. Start it with KEEPQ_TOPIC_OPTS_INIT; 0 = not
// set: in a new topic that is none, in one that is there it stays; -1 = none.
//
// A topic keeps its messages from the first one on that some group has not settled, or that is
// retained; a topic without groups keeps all. One that was settled out of order counts until all
// before it are. Dead letters do not count. Nothing that is kept is ever dropped for a limit, and
// no ack, nack or dead letter waits for one.
typedef struct keepq_topic_opts {
    // sizeof(keepq_topic_opts).
    size_t size;
    // The most bytes of bodies that are kept. A body larger than that is KEEPQ_E_LIMIT_EXCEEDED.
    int64_t max_bytes;
    // The most messages that are kept.
    int64_t max_messages;
    // How long after its sending a message is kept although every group has settled it, for groups
    // that are made later.
    int64_t retain_ms;
    // How many bytes of the last messages are kept although every group has settled them. With
    // retain_ms too, a message is kept as long as either asks for it.
    int64_t retain_bytes;
    // What a send does while a limit has no room for it: KEEPQ_WHEN_FULL_REFUSE (that of a new
    // topic) = KEEPQ_E_FULL, KEEPQ_WHEN_FULL_WAIT = it waits within its time, then
    // KEEPQ_E_TIMEOUT. Either way the message is not stored.
    int32_t when_full;
    // Must be 0.
    int32_t reserved;
} keepq_topic_opts;

// Bytes that belong to somebody else: here to the message, until it is freed.
typedef struct keepq_bytes {
    // The first byte; NULL if there is no such thing.
    const void *ptr;
    // How many there are.
    size_t len;
} keepq_bytes;

// How a message became a dead letter. Start it with KEEPQ_DEAD_INFO_INIT. The strings belong to
// the message.
typedef struct keepq_dead_info {
    // sizeof(keepq_dead_info).
    size_t size;
    // Its sequence in the topic it was sent to.
    uint64_t topic_seq;
    // When it was given up, ms since 1970 UTC.
    int64_t dead_at_ms;
    // How often it had been delivered.
    uint32_t attempts;
    // 1 = a consumer rejected it, 0 = its attempts were used up.
    int32_t rejected;
    // The topic it was sent to.
    const char *topic;
    // Why: the reason of the reject, or that no attempt was left.
    const char *reason;
} keepq_dead_info;

// Counters of a store. Start it with KEEPQ_STORE_STATS_INIT.
typedef struct keepq_store_stats {
    // sizeof(keepq_store_stats).
    size_t size;
    // Log position after the last record.
    uint64_t tail;
    // Log position below which everything is on disk.
    uint64_t durable;
    // Bytes of the log files.
    uint64_t disk_bytes;
    // Segments of the log.
    uint64_t segments;
    // Open handles of the store, in all processes.
    uint64_t members;
    // Messages with receivers or waiting for another attempt, in all groups.
    uint64_t outstanding;
    // Flushes by any process since the store's shared memory was made.
    uint64_t flushes;
    // One-way sends of this handle that failed.
    uint64_t oneway_failed;
    // How many topics there are, dead-letter streams included.
    uint64_t topics;
    // How many groups there are.
    uint64_t groups;
} keepq_store_stats;

// Counters of a topic. Start it with KEEPQ_TOPIC_STATS_INIT. In an array the first one's size is
// that of all.
typedef struct keepq_topic_stats {
    // sizeof(keepq_topic_stats).
    size_t size;
    // Sequence of the earliest kept message.
    uint64_t first_seq;
    // Sequence that the next message gets.
    uint64_t next_seq;
    // How many groups it has.
    uint64_t groups;
    // Its name; "%DLQ%topic%group" is a dead-letter stream.
    char name[256];
} keepq_topic_stats;

// Counters of a group. Start it with KEEPQ_GROUP_STATS_INIT. In an array the first one's size is
// that of all.
typedef struct keepq_group_stats {
    // sizeof(keepq_group_stats).
    size_t size;
    // Messages that can be received now, those never looked at included.
    uint64_t ready;
    // Messages with a receiver.
    uint64_t in_flight;
    // Messages that wait for another attempt.
    uint64_t delayed;
    // Sequences up to the end of the topic: at most so many messages were never looked at.
    uint64_t lag;
    // Dead letters.
    uint64_t dead;
    // Sequence of the next message never looked at.
    uint64_t cursor;
    // Its topic.
    char topic[256];
    // Its name.
    char name[128];
    // Messages that wait behind another one with the same order_key.
    uint64_t parked;
    // How long ago the oldest message was sent that the group has not settled: the one with the
    // lowest sequence. -1 = there is none, or it cannot be read.
    int64_t oldest_age_ms;
    // Open handles of the store, in all processes, that have the group open.
    uint64_t consumers;
} keepq_group_stats;

// What keepq_verify found in all. Start it with KEEPQ_VERIFY_REPORT_INIT.
typedef struct keepq_verify_report {
    // sizeof(keepq_verify_report).
    size_t size;
    // Files read.
    uint64_t files;
    // Records checked.
    uint64_t records;
    // Messages among them.
    uint64_t messages;
    // Bytes read.
    uint64_t bytes;
    // How many findings there are.
    uint64_t findings;
    // How many of them are damage of what had been durable.
    uint64_t damages;
} keepq_verify_report;

// One thing that keepq_verify found. In an array the first one's size is that of all; start that
// with KEEPQ_FINDING_INIT.
typedef struct keepq_finding {
    // sizeof(keepq_finding).
    size_t size;
    // Byte offset in the file.
    uint64_t position;
    // How many bytes are concerned; 0 if that is not known.
    uint64_t length;
    // 1 = damage of what had been durable, 0 = only worth knowing.
    int32_t damage;
    // 1 = it was damage that keepq_repair has dealt with: what it took is lost, its groups are
    // told of it. Then damage is 0.
    int32_t known;
    // The file, relative to the store.
    char file[256];
    // What is wrong, one sentence.
    char reason[512];
} keepq_finding;

// How a store is repaired. Start it with KEEPQ_REPAIR_OPTS_INIT.
typedef struct keepq_repair_opts {
    // sizeof(keepq_repair_opts).
    size_t size;
    // 1 = only find out what a repair would do: nothing on the disk is changed.
    int32_t dry_run;
    // Must be 0.
    int32_t reserved;
} keepq_repair_opts;

// What keepq_repair came to. Start it with KEEPQ_REPAIR_REPORT_INIT.
typedef struct keepq_repair_report {
    // sizeof(keepq_repair_report).
    size_t size;
    // How many notes there are: of actions, of lost messages, of lost state, of quarantined files,
    // in this order. 0 = nothing needed repair.
    uint64_t notes;
    // How many of them are actions.
    uint64_t actions;
    // How many messages are gone.
    uint64_t lost_messages;
    // How many damages there were of what had been durable.
    uint64_t damages_before;
    // How many are left, or would be; 0 = the store is in order.
    uint64_t damages_after;
    // Messages in the log afterwards.
    uint64_t messages;
    // Bytes read, afterwards.
    uint64_t bytes;
} keepq_repair_report;

// One thing that keepq_repair tells. In an array the first one's size is that of all; start that
// with KEEPQ_REPAIR_NOTE_INIT.
typedef struct keepq_repair_note {
    // sizeof(keepq_repair_note).
    size_t size;
    // Of lost messages: the first of their sequences.
    uint64_t first_seq;
    // Of lost messages: how many sequences.
    uint64_t count;
    // One of KEEPQ_REPAIR_*.
    int32_t kind;
    // Always 0.
    int32_t reserved;
    // Of lost messages: their topic.
    char topic[256];
    // It in words, one sentence.
    char text[512];
} keepq_repair_note;

// Done.
#define KEEPQ_OK 0

// No message came within the time.
#define KEEPQ_EMPTY 1

// The time was over before the work was.
#define KEEPQ_TIMEOUT 2

// The directory exists but is not a keepq store.
#define KEEPQ_E_NOT_A_STORE -101

// There is no such store, topic, group or message.
#define KEEPQ_E_NOT_FOUND -102

// Made by a version this library cannot work with, or a header that does not fit the library.
#define KEEPQ_E_INCOMPATIBLE -103

// A network or memory file system that cannot give the guarantees asked for.
#define KEEPQ_E_UNSUPPORTED_FILESYSTEM -104

// The store is opened read-only, or the file system is mounted so.
#define KEEPQ_E_READ_ONLY -105

// Another live process holds what this call needs. Retriable.
#define KEEPQ_E_BUSY -106

// exist_ok = 0 was asked and the store is there already.
#define KEEPQ_E_ALREADY_EXISTS -107

// An operating-system call on the store's files failed.
#define KEEPQ_E_STORAGE -201

// The disk, a quota, the file-size limit or a table of the store is full. Retriable.
#define KEEPQ_E_FULL -202

// A flush failed and could not be repaired: no sends and acks until all processes have closed the
// store.
#define KEEPQ_E_FAILED -203

// Stored bytes are damaged.
#define KEEPQ_E_CORRUPT -205

// A file of the store was deleted, replaced or truncated while it was open.
#define KEEPQ_E_STORE_GONE -206

// Appended, not yet confirmed on disk when the time was over: wait with keepq_flush. Retriable.
#define KEEPQ_E_FLUSH_TIMEOUT -301

// The time was over before the call could begin its work. Retriable.
#define KEEPQ_E_TIMEOUT -302

// A named producer skipped a sequence number.
#define KEEPQ_E_PRODUCER_GAP -303

// The producer's name was opened again elsewhere.
#define KEEPQ_E_PRODUCER_FENCED -304

// The lease had ended: the message was or will be delivered again, or is settled already.
#define KEEPQ_E_LEASE_LOST -401

// The text is not a receipt of this store.
#define KEEPQ_E_BAD_RECEIPT -402

// A name is empty, too long, or has a character that is not allowed.
#define KEEPQ_E_INVALID_NAME -501

// A body, header, batch or table is over its documented limit.
#define KEEPQ_E_LIMIT_EXCEEDED -502

// An argument makes no sense: NULL where it may not be, a size not set, an unknown value.
#define KEEPQ_E_INVALID_ARGUMENT -503

// An explicit option differs from what the store, topic or group was made with.
#define KEEPQ_E_CONFIG_MISMATCH -504

// The body does not decode as its content type says.
#define KEEPQ_E_DECODE -505

// A transaction was used after its end, or aborted.
#define KEEPQ_E_TRANSACTION -506

// The store was closed.
#define KEEPQ_E_CLOSED -601

// The handle came from the parent process, before a fork: open the store again in the child.
#define KEEPQ_E_FORKED_HANDLE -602

// The handle is NULL, closed, freed or of another kind.
#define KEEPQ_E_BAD_HANDLE -603

// A defect in keepq: please report it.
#define KEEPQ_E_INTERNAL -604

// The feature is named by the interface but not part of this version.
#define KEEPQ_E_NOT_SUPPORTED -605

// The wait was asked to stop. Retriable.
#define KEEPQ_E_INTERRUPTED -606

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// ======== Stores ========
//
// Opens a store: the directory `path`, which any number of processes share. Makes it, but not its
// parent, if need be. opts may be NULL. On success *out is a handle for keepq_close, else NULL. A
// process may open a store more than once; each handle then takes part on its own.
//
// What it may have to do: nothing if others have the store open; take over what the last process
// left in memory (a warm open, 1 ms); or read the log (after a reboot or a crash: some 100 MB a
// second).
//
// Errors: KEEPQ_E_NOT_FOUND (create = 0, or no parent directory), KEEPQ_E_ALREADY_EXISTS,
// KEEPQ_E_NOT_A_STORE, KEEPQ_E_INCOMPATIBLE, KEEPQ_E_UNSUPPORTED_FILESYSTEM,
// KEEPQ_E_CONFIG_MISMATCH, KEEPQ_E_CORRUPT, KEEPQ_E_INVALID_ARGUMENT, KEEPQ_E_STORAGE; the
// disk's.
keepq_rc keepq_open(const char *path, const struct keepq_open_opts *opts, struct keepq **out);

// Flushes what this process sent, gives back what it received and did not settle, runs the
// callbacks that are left on this thread, and closes. Afterwards no callback runs any more and the
// handle is invalid, even when an error is returned: then something sent asynchronously may not be
// on disk (its callback says so). Calls that other threads are making on the store end with
// KEEPQ_E_CLOSED. Groups and messages of the store can still be closed and freed, and what was
// read from a message stays valid until then.
//
// From within a callback it works too; callbacks that are left run then before it returns. In a
// forked child it forgets the handle and changes nothing.
//
// Errors: KEEPQ_E_BAD_HANDLE; the disk's.
keepq_rc keepq_close(struct keepq *q);

// Waits until everything sent and settled before this call, by anybody, is on disk. timeout_ms:
// -1 = for ever, 0 = as far as it is. Returns KEEPQ_TIMEOUT when the time was over first. The
// asynchronous sends of this handle have their results then; keepq_dispatch calls back.
//
// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT, KEEPQ_E_READ_ONLY,
// KEEPQ_E_FAILED; the disk's.
keepq_rc keepq_flush(struct keepq *q, int64_t timeout_ms);

// Changes the store's own options, for every process, durably; what is 0 stays as it is. The first
// limit counts what all topics keep already, which takes time in proportion to that. opts may not
// be NULL.
//
// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT,
// KEEPQ_E_INCOMPATIBLE, KEEPQ_E_READ_ONLY; the disk's.
keepq_rc keepq_configure(struct keepq *q, const struct keepq_store_opts *opts);

// Fills out with the options that the store has now; -1 = none. They may be passed on to
// keepq_configure.
//
// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT.
keepq_rc keepq_config(struct keepq *q, struct keepq_store_opts *out);

// Makes every keepq_receive and keepq_receive_batch that waits now, in any thread of this process
// on this store, return KEEPQ_E_INTERRUPTED. From a thread, not from a signal handler.
//
// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE.
keepq_rc keepq_interrupt(struct keepq *q);

// The library's version: major << 16 | minor << 8 | patch.
uint32_t keepq_version(void);

// Behind KEEPQ_CHECK_ABI(): whether a program compiled with the header of this version can use the
// library: same major version, and the same minor version while the major one is 0.
//
// Errors: KEEPQ_E_INCOMPATIBLE.
keepq_rc keepq_check_abi(uint32_t header_version);

// ======== Sending ========
//
// Sends one message; makes the topic if it is new. opts and out may be NULL. 0 means that the
// durability asked for was reached: by default, on disk. Tries again within its time after a
// retriable error, and never appends twice. Once the arguments are found good, out tells what
// became of the message, also after an error: KEEPQ_OUTCOME_NOT_STORED (safe to send again) or
// KEEPQ_OUTCOME_MAYBE_STORED. A topic that keeps as much as it may refuses it or lets it wait, as
// keepq_topic_opts.when_full says.
//
// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT,
// KEEPQ_E_INVALID_NAME (topic or producer), KEEPQ_E_LIMIT_EXCEEDED, KEEPQ_E_INCOMPATIBLE (a newer
// header's field is set), KEEPQ_E_NOT_SUPPORTED, KEEPQ_E_READ_ONLY, KEEPQ_E_FLUSH_TIMEOUT
// (stored, not confirmed: wait with keepq_flush), KEEPQ_E_FULL and KEEPQ_E_TIMEOUT (also of a
// limit of the topic or the store), KEEPQ_E_PRODUCER_GAP, KEEPQ_E_PRODUCER_FENCED; the disk's.
keepq_rc keepq_send(struct keepq *q,
                    const char *topic,
                    const void *body,
                    size_t len,
                    const struct keepq_send_opts *opts,
                    struct keepq_sent *out);

// Sends n messages in order, with one flush for each run of messages to the same topic by the same
// producer. Not atomic: each has its own result, out[i] for msgs[i], and one that fails does not
// keep the others from being sent, but for one that finds no room in its time
// (KEEPQ_E_TIMEOUT), which ends its run. out may be NULL; the size of its first struct is that
// of all. Returns 0 if all succeeded, else the error of the first that failed. The time is that
// of the first message of a run.
//
// Errors: those of the call itself, when nothing is sent and out is untouched:
// KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT, KEEPQ_E_LIMIT_EXCEEDED
// (n); else one of keepq_send's: KEEPQ_E_INVALID_NAME, KEEPQ_E_INCOMPATIBLE,
// KEEPQ_E_NOT_SUPPORTED, KEEPQ_E_READ_ONLY, KEEPQ_E_FULL, KEEPQ_E_PRODUCER_GAP,
// KEEPQ_E_PRODUCER_FENCED; the disk's.
keepq_rc keepq_send_batch(struct keepq *q,
                          const struct keepq_msg_in *msgs,
                          size_t n,
                          struct keepq_sent *out);

// Opens a named producer: its messages are numbered from 0 over all topics, without gaps, and one
// sent again with its number (keepq_send_opts.producer, has_producer_seq, producer_seq) is not
// stored again but answered as a success marked duplicate. So a program that was killed can start
// over. Every older handle's use of the name, in any process, is refused from now on with
// KEEPQ_E_PRODUCER_FENCED. next_seq, which may be NULL, gets the number of the next new message.
//
// A send with a producer that this handle has not opened opens it the same way.
//
// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT,
// KEEPQ_E_INVALID_NAME, KEEPQ_E_READ_ONLY; the disk's.
keepq_rc keepq_producer_open(struct keepq *q, const char *name, uint64_t *next_seq);

// Sends one message without waiting for the disk; makes the topic if it is new. When it returns 0
// the message is in the log, in its order, and exactly one of ok and err is called later, once,
// with user: ok when it is as durable as asked, err when that could not be confirmed (outcome
// KEEPQ_OUTCOME_MAYBE_STORED: do not simply send it again). When it returns an error nothing is
// stored and nothing is called. ok and err may be NULL; so may opts.
//
// Callbacks run only inside keepq_dispatch and keepq_close, on the thread that makes that call,
// one at a time, in the order of the results. They may use the store, send again and close it.
// They must not throw, longjmp or end their thread. What they are given lasts until they return.
//
// While max_in_flight messages (or max_in_flight_bytes) wait for the disk it waits for room, at
// most the send's time (KEEPQ_E_TIMEOUT), or returns KEEPQ_E_FULL at once with
// KEEPQ_WHEN_FULL_REFUSE. It never waits for callbacks; KEEPQ_E_FULL, too, when
// KEEPQ_MAX_UNDISPATCHED results wait for keepq_dispatch.
//
// Errors: as keepq_send, of a message that was not stored: KEEPQ_E_BAD_HANDLE,
// KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT, KEEPQ_E_INVALID_NAME, KEEPQ_E_LIMIT_EXCEEDED,
// KEEPQ_E_INCOMPATIBLE, KEEPQ_E_NOT_SUPPORTED, KEEPQ_E_READ_ONLY, KEEPQ_E_FULL (also of a limit of
// the topic or the store), KEEPQ_E_PRODUCER_GAP, KEEPQ_E_PRODUCER_FENCED; the disk's.
keepq_rc keepq_send_async(struct keepq *q,
                          const char *topic,
                          const void *body,
                          size_t len,
                          const struct keepq_send_opts *opts,
                          keepq_send_cb ok,
                          keepq_err_cb err,
                          void *user);

// Sends one message and forgets it. It is in the log when this returns 0 and becomes as durable as
// asked; keepq_close waits for that. A failure is told to nobody but counted
// (keepq_store_stats.oneway_failed); only what is wrong with the call itself is an error. Waits
// for room as keepq_send_async does. opts may be NULL.
//
// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT,
// KEEPQ_E_INVALID_NAME, KEEPQ_E_INCOMPATIBLE, KEEPQ_E_NOT_SUPPORTED; those of making a topic.
keepq_rc keepq_send_oneway(struct keepq *q,
                           const char *topic,
                           const void *body,
                           size_t len,
                           const struct keepq_send_opts *opts);

// A descriptor for poll, select and epoll: readable while callbacks wait for keepq_dispatch. The
// same at every call, valid until keepq_close. Wait for it, never read from it and do not close
// it. When it cannot be had: a negative number, the error's.
//
// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_STORAGE (no descriptor left).
int keepq_fd(struct keepq *q);

// Runs the callbacks of asynchronous sends that have their results, on this thread. Waits up to
// timeout_ms (-1 = for ever, 0 = not at all) for the first; does not wait for more. Returns
// KEEPQ_TIMEOUT when there was none. While one thread runs callbacks, another that dispatches
// waits for its turn.
//
// To run every callback of what was sent: keepq_flush, then keepq_dispatch until all were called;
// or keepq_close.
//
// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_CLOSED (while it waited), KEEPQ_E_FORKED_HANDLE,
// KEEPQ_E_INVALID_ARGUMENT (also from within a callback).
keepq_rc keepq_dispatch(struct keepq *q, int64_t timeout_ms);

// ======== Groups and receiving ========
//
// Opens a consumer group; makes topic and group if need be. opts may be NULL. Options are stored
// when the group is made; a different explicit value later is KEEPQ_E_CONFIG_MISMATCH. On success
// *out is a handle for keepq_group_close, else NULL.
//
// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT (also an option out
// of range), KEEPQ_E_INVALID_NAME (topic, group or consumer), KEEPQ_E_LIMIT_EXCEEDED (tags),
// KEEPQ_E_INCOMPATIBLE, KEEPQ_E_NOT_FOUND, KEEPQ_E_CONFIG_MISMATCH; the disk's.
keepq_rc keepq_group_open(struct keepq *q,
                          const char *topic,
                          const char *group,
                          const struct keepq_group_opts *opts,
                          struct keepq_group **out);

// Closes a group. A receive that waits in another thread returns KEEPQ_E_CLOSED within 0.1 s. The
// messages received stay valid until they are freed. The group itself stays in the store;
// keepq_group_delete is what removes it.
//
// Errors: KEEPQ_E_BAD_HANDLE.
keepq_rc keepq_group_close(struct keepq_group *g);

// Deletes the group from the store with its dead letters, durably. Messages that only it was still
// owed are released. Every handle of it, in any process, gets KEEPQ_E_NOT_FOUND from then on, also
// a receive that waits and messages that are settled. This handle is still to be closed. The name
// is free: opened again, it is a new group.
//
// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_CLOSED, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_NOT_FOUND (it was
// deleted before), KEEPQ_E_READ_ONLY; the disk's.
keepq_rc keepq_group_delete(struct keepq_group *g);

// Changes options of the group for all its consumers in every process, durably: lease_ms,
// max_attempts, ack_flush, the back-off, tags and max_outstanding; what is 0 stays as it is.
// Leases and waits that run keep the end they have, and what was skipped for its tag stays
// skipped. opts may not be NULL.
//
// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_CLOSED, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT,
// KEEPQ_E_INCOMPATIBLE, KEEPQ_E_LIMIT_EXCEEDED (tags), KEEPQ_E_READ_ONLY; the disk's.
keepq_rc keepq_group_configure(struct keepq_group *g, const struct keepq_group_opts *opts);

// Fills out with the options the group has now; consumer, broadcast and where it began are not
// told. tags are valid until keepq_group_close, also after they were changed.
//
// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_CLOSED, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT.
keepq_rc keepq_group_config(struct keepq_group *g, struct keepq_group_opts *out);

// A descriptor for poll, select and epoll: readable when keepq_receive may find a message. Then
// receive with timeout 0 until KEEPQ_EMPTY, which makes it unreadable again; another consumer may
// have been faster. The same at every call, valid until keepq_group_close. Wait for it, never read
// from it and do not close it. It is readable, too, once the store is closed. When it cannot be
// had: a negative number, the error's.
//
// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_CLOSED, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_STORAGE (no
// descriptor or thread left).
int keepq_group_fd(struct keepq_group *g);

// Receives one message under a lease. timeout_ms: -1 = for ever, 0 = try once. Returns
// KEEPQ_EMPTY, and *out = NULL, when none came. The message is to be settled (keepq_ack,
// keepq_nack, keepq_reject) and freed (keepq_msg_free). When the lease ends before, it is
// delivered again; keepq_extend prolongs it.
//
// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_CLOSED, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT,
// KEEPQ_E_READ_ONLY, KEEPQ_E_INTERRUPTED; KEEPQ_E_CORRUPT once when messages were lost through
// damage, receiving goes on afterwards; the disk's.
keepq_rc keepq_receive(struct keepq_group *g, int64_t timeout_ms, struct keepq_msg **out);

// Receives up to cap messages: waits for the first, takes what else is there. out has room for cap
// handles, of which *n are set. timeout_ms and the result as for keepq_receive. cap is 1 to 1024.
//
// Errors: as keepq_receive: KEEPQ_E_BAD_HANDLE, KEEPQ_E_CLOSED, KEEPQ_E_FORKED_HANDLE,
// KEEPQ_E_INVALID_ARGUMENT, KEEPQ_E_LIMIT_EXCEEDED (cap), KEEPQ_E_READ_ONLY, KEEPQ_E_INTERRUPTED;
// the disk's.
keepq_rc keepq_receive_batch(struct keepq_group *g,
                             int64_t timeout_ms,
                             struct keepq_msg **out,
                             size_t cap,
                             size_t *n);

// As keepq_receive_batch, with leases that do not end with this process, but only by their time or
// by being settled, here or elsewhere by receipt. keepq_msg_free does not give such a message
// back.
//
// Errors: as keepq_receive_batch: KEEPQ_E_BAD_HANDLE, KEEPQ_E_CLOSED, KEEPQ_E_FORKED_HANDLE,
// KEEPQ_E_INVALID_ARGUMENT, KEEPQ_E_LIMIT_EXCEEDED, KEEPQ_E_READ_ONLY, KEEPQ_E_INTERRUPTED; the
// disk's.
keepq_rc keepq_receive_detached(struct keepq_group *g,
                                int64_t timeout_ms,
                                struct keepq_msg **out,
                                size_t cap,
                                size_t *n);

// ======== Topics ========
//
// Makes a topic with these options, durably. A send makes a topic, too, but without limits. Of a
// topic that is there, an option that is set and differs is KEEPQ_E_CONFIG_MISMATCH;
// keepq_topic_configure changes it. opts may be NULL. There is no handle: topics are known by
// their names.
//
// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT (also options for a
// stream of dead letters, which has none), KEEPQ_E_INVALID_NAME, KEEPQ_E_INCOMPATIBLE,
// KEEPQ_E_CONFIG_MISMATCH, KEEPQ_E_NOT_FOUND (the store is open to look only, and it is not
// there); the disk's.
keepq_rc keepq_topic_create(struct keepq *q,
                            const char *topic,
                            const struct keepq_topic_opts *opts);

// Changes options of a topic, for every process, durably; what is 0 stays as it is. A limit below
// what is kept takes nothing away: sends are refused or wait until there is room. The first limit
// or retention of a topic counts what it keeps already, which takes time in proportion to that.
// opts may not be NULL.
//
// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT (also for a stream
// of dead letters), KEEPQ_E_INVALID_NAME, KEEPQ_E_INCOMPATIBLE, KEEPQ_E_NOT_FOUND,
// KEEPQ_E_READ_ONLY; the disk's.
keepq_rc keepq_topic_configure(struct keepq *q,
                               const char *topic,
                               const struct keepq_topic_opts *opts);

// Fills out with the options that the topic has now; -1 = none. They may be passed on to
// keepq_topic_create and keepq_topic_configure.
//
// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT,
// KEEPQ_E_INVALID_NAME, KEEPQ_E_NOT_FOUND.
keepq_rc keepq_topic_config(struct keepq *q, const char *topic, struct keepq_topic_opts *out);

// Takes away all messages that the topic has now, for every group, durably: those still to come
// and those that consumers hold, whose leases are lost. What is sent afterwards stays, and so do
// dead letters. purged, which may be NULL, gets how many messages some group had not settled; in a
// topic without groups, how many there were.
//
// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT (also for a stream
// of dead letters: keepq_dlq_purge does that), KEEPQ_E_INVALID_NAME, KEEPQ_E_NOT_FOUND,
// KEEPQ_E_READ_ONLY; the disk's.
keepq_rc keepq_topic_purge(struct keepq *q, const char *topic, uint64_t *purged);

// Deletes a topic with its messages, its groups and their dead letters, durably. Handles of its
// groups, in any process, get KEEPQ_E_NOT_FOUND from then on, also a receive that waits, and are
// still to be closed; so do messages that are settled. The name is free: the next send makes a new
// topic.
//
// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT (also for a stream
// of dead letters), KEEPQ_E_INVALID_NAME, KEEPQ_E_NOT_FOUND, KEEPQ_E_READ_ONLY; the disk's.
keepq_rc keepq_topic_delete(struct keepq *q, const char *topic);

// ======== Settling ========
//
// Done with the message: it is not delivered to this group again. Free it afterwards. When it
// returns, that survives the death of every process, and with ack_flush sync power loss too.
//
// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_CLOSED, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT (m
// was not received), KEEPQ_E_LEASE_LOST (it was or will be delivered again, or is settled
// already), with ack_flush sync KEEPQ_E_FLUSH_TIMEOUT (done, not known to be on disk); the
// disk's.
keepq_rc keepq_ack(struct keepq_msg *m);

// Not done: deliver it again after delay_ms; -1 = after the group's back-off, 0 = at once. With no
// attempt left it becomes a dead letter.
//
// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_CLOSED, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT,
// KEEPQ_E_LEASE_LOST, KEEPQ_E_LIMIT_EXCEEDED (over 30 days); the disk's.
keepq_rc keepq_nack(struct keepq_msg *m, int64_t delay_ms);

// Never deliver it to this group again: it becomes a dead letter, with this reason (UTF-8, at most
// 1024 bytes).
//
// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_CLOSED, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT,
// KEEPQ_E_LEASE_LOST, KEEPQ_E_LIMIT_EXCEEDED (the reason); the disk's.
keepq_rc keepq_reject(struct keepq_msg *m, const char *reason);

// Makes the lease end ms from now on, at most 30 days.
//
// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_CLOSED, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT,
// KEEPQ_E_LEASE_LOST, KEEPQ_E_LIMIT_EXCEEDED; the disk's.
keepq_rc keepq_extend(struct keepq_msg *m, int64_t ms);

// keepq_ack for n messages, of one group or several, with one flush for each group. Each has its
// own result: each[i] for msgs[i]; each may be NULL. Returns 0 if all are acked, else the error of
// the first that is not. The messages are still to be freed.
//
// Errors: KEEPQ_E_INVALID_ARGUMENT when msgs is NULL (nothing is acked); else one of keepq_ack's:
// KEEPQ_E_BAD_HANDLE, KEEPQ_E_CLOSED, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_LEASE_LOST; the disk's.
keepq_rc keepq_ack_many(struct keepq_msg **msgs, size_t n, keepq_rc *each);

// keepq_ack by receipt: also for a message that another process received.
//
// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT,
// KEEPQ_E_BAD_RECEIPT, KEEPQ_E_LEASE_LOST, KEEPQ_E_READ_ONLY; the disk's.
keepq_rc keepq_ack_receipt(struct keepq *q, const char *receipt);

// keepq_nack by receipt.
//
// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT,
// KEEPQ_E_BAD_RECEIPT, KEEPQ_E_LEASE_LOST, KEEPQ_E_LIMIT_EXCEEDED, KEEPQ_E_READ_ONLY; the disk's.
keepq_rc keepq_nack_receipt(struct keepq *q, const char *receipt, int64_t delay_ms);

// keepq_reject by receipt.
//
// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT,
// KEEPQ_E_BAD_RECEIPT, KEEPQ_E_LEASE_LOST, KEEPQ_E_LIMIT_EXCEEDED, KEEPQ_E_READ_ONLY; the disk's.
keepq_rc keepq_reject_receipt(struct keepq *q, const char *receipt, const char *reason);

// keepq_extend by receipt.
//
// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT,
// KEEPQ_E_BAD_RECEIPT, KEEPQ_E_LEASE_LOST, KEEPQ_E_LIMIT_EXCEEDED, KEEPQ_E_READ_ONLY; the disk's.
keepq_rc keepq_extend_receipt(struct keepq *q, const char *receipt, int64_t ms);

// ======== Messages ========
//
// What these give belongs to the message and is valid until keepq_msg_free, also after it was
// settled and after its group and store were closed. Of a handle that is not a message they give
// NULL (or what is said), and keepq_last_error tells why.
//
// The body. ptr is NULL when m is not a message, or damage has taken it (see keepq_msg_check).
struct keepq_bytes keepq_msg_body(const struct keepq_msg *m);

// The identity: 16 hexadecimal digits, the same through all attempts and as a dead letter. NULL if
// damage has taken it.
const char *keepq_msg_id(const struct keepq_msg *m);

// The sequence in the topic, from 0; of a dead letter that among the dead letters of its group.
// KEEPQ_NO_SEQ when m is not a message.
uint64_t keepq_msg_seq(const struct keepq_msg *m);

// The topic's name; of a dead letter that of the topic it was sent to.
const char *keepq_msg_topic(const struct keepq_msg *m);

// The key; NULL if it has none. A key with a NUL byte in it, as other languages can send it, ends
// there.
const char *keepq_msg_key(const struct keepq_msg *m);

// The tag; NULL if it has none.
const char *keepq_msg_tag(const struct keepq_msg *m);

// The order key; NULL if it has none.
const char *keepq_msg_order_key(const struct keepq_msg *m);

// The value of the header with this name; ptr is NULL if there is none.
struct keepq_bytes keepq_msg_header(const struct keepq_msg *m, const char *name);

// The header with this index, in the order they were sent. KEEPQ_EMPTY beyond the last.
//
// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_INVALID_ARGUMENT.
keepq_rc keepq_msg_header_at(const struct keepq_msg *m, size_t index, struct keepq_header *out);

// Which delivery of the message this is, from 1; of a dead letter how often it was delivered; 0
// when m is not a message or was browsed.
uint32_t keepq_msg_attempt(const struct keepq_msg *m);

// When it was sent, ms since 1970 UTC by the sender's clock; -1 when m is not a message.
int64_t keepq_msg_sent_at_ms(const struct keepq_msg *m);

// The named producer that sent it; NULL if none did.
const char *keepq_msg_producer(const struct keepq_msg *m);

// The message's number from its named producer; KEEPQ_NO_SEQ if none sent it.
uint64_t keepq_msg_producer_seq(const struct keepq_msg *m);

// The receipt: text without spaces, at most 200 bytes, with which any process can settle this
// delivery. NULL for a message that was looked at.
const char *keepq_msg_receipt(const struct keepq_msg *m);

// Whether everything of a message can be read: KEEPQ_E_CORRUPT when damage has taken its content
// or, of a dead letter, the note of what became of it. What is received is always whole.
//
// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_CORRUPT.
keepq_rc keepq_msg_check(const struct keepq_msg *m);

// Frees a message and everything read from it. One that was received and is not settled is given
// back at once, as by keepq_nack(m, 0).
//
// Errors: KEEPQ_E_BAD_HANDLE.
keepq_rc keepq_msg_free(struct keepq_msg *m);

// ======== Looking without receiving ========
//
// Reads up to cap messages of a topic, in order, from sequence from_seq on, without receiving
// them: nothing is claimed and nothing changes. out has room for cap handles (1 to 1024), of which
// *n are set; each is to be freed. KEEPQ_EMPTY when there are none from there on. Go on with the
// sequence of the last one plus 1. A message that damage has taken is among them; keepq_msg_check
// tells.
//
// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT,
// KEEPQ_E_INVALID_NAME, KEEPQ_E_NOT_FOUND, KEEPQ_E_LIMIT_EXCEEDED (cap); the disk's.
keepq_rc keepq_browse(struct keepq *q,
                      const char *topic,
                      uint64_t from_seq,
                      struct keepq_msg **out,
                      size_t cap,
                      size_t *n);

// As keepq_browse, for the dead letters of a group: messages that were rejected, or failed
// max_attempts times. from_seq counts among the dead letters. keepq_msg_dead_info tells why and
// when.
//
// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_CLOSED, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT,
// KEEPQ_E_LIMIT_EXCEEDED (cap); the disk's.
keepq_rc keepq_dlq_browse(struct keepq_group *g,
                          uint64_t from_seq,
                          struct keepq_msg **out,
                          size_t cap,
                          size_t *n);

// Fills out with how a message from keepq_dlq_browse became a dead letter.
//
// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_INVALID_ARGUMENT (also of another message), KEEPQ_E_CORRUPT
// (damage has taken the note of it).
keepq_rc keepq_msg_dead_info(const struct keepq_msg *m, struct keepq_dead_info *out);

// Removes all dead letters of a group that there are now, durably. removed, which may be NULL,
// gets their number.
//
// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_CLOSED, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_READ_ONLY; the
// disk's.
keepq_rc keepq_dlq_purge(struct keepq_group *g, uint64_t *removed);

// Removes one dead letter, by its sequence (keepq_msg_seq), durably.
//
// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_CLOSED, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_NOT_FOUND,
// KEEPQ_E_READ_ONLY; the disk's.
keepq_rc keepq_dlq_purge_one(struct keepq_group *g, uint64_t seq);

// ======== Counters and checks ========
//
// Fills out with counters of the store.
//
// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT; the disk's.
keepq_rc keepq_stats(struct keepq *q, struct keepq_store_stats *out);

// Fills out with the first cap topics, by name, and *n with how many there are, which may be more.
// out may be NULL with cap 0.
//
// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT,
// KEEPQ_E_LIMIT_EXCEEDED (cap); the disk's.
keepq_rc keepq_topics(struct keepq *q, struct keepq_topic_stats *out, size_t cap, size_t *n);

// Fills out with the first cap groups, by topic and name, and *n with how many there are, which
// may be more. out may be NULL with cap 0.
//
// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT,
// KEEPQ_E_LIMIT_EXCEEDED (cap); the disk's.
keepq_rc keepq_groups(struct keepq *q, struct keepq_group_stats *out, size_t cap, size_t *n);

// Fills out with counters of one group.
//
// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_CLOSED, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT.
keepq_rc keepq_group_counters(struct keepq_group *g, struct keepq_group_stats *out);

// Reads and checks every byte of the store that has a checksum, and changes nothing. report may be
// NULL. The first cap findings go to findings, which may be NULL with cap 0. Returns
// KEEPQ_E_CORRUPT, with all this filled, when something that had been durable is damaged:
// keepq_last_error names the first file and position.
//
// Errors: KEEPQ_E_BAD_HANDLE, KEEPQ_E_FORKED_HANDLE, KEEPQ_E_INVALID_ARGUMENT,
// KEEPQ_E_LIMIT_EXCEEDED (cap), KEEPQ_E_CORRUPT; the disk's.
keepq_rc keepq_verify(struct keepq *q,
                      struct keepq_verify_report *report,
                      struct keepq_finding *findings,
                      size_t cap);

// keepq_verify of a store that nobody need have open, and that perhaps cannot be opened: the
// directory `path`. Of a store that is in use, what others write meanwhile may show as an
// unfinished end, not as damage.
//
// Errors: KEEPQ_E_INVALID_ARGUMENT, KEEPQ_E_LIMIT_EXCEEDED (cap), KEEPQ_E_NOT_FOUND,
// KEEPQ_E_NOT_A_STORE, KEEPQ_E_INCOMPATIBLE, KEEPQ_E_CORRUPT (as keepq_verify; with nothing filled
// when SUPER itself is damaged); the disk's.
keepq_rc keepq_verify_path(const char *path,
                           struct keepq_verify_report *report,
                           struct keepq_finding *findings,
                           size_t cap);

// Repairs the store in the directory `path`, which nobody may have open: afterwards it opens,
// everything that is not damaged is delivered, and what damage took is told to each group once.
// opts, report may be NULL. The first cap notes go to notes, which may be NULL with cap 0.
//
// Good data is never touched: damaged files are copied to `quarantine/` in the store before
// anything changes, and no file is changed in place. A repair that dies can be started again. A
// store that needs none is left as it is. With dry_run nothing is changed, and all this tells what
// would be; a repair afterwards does the same.
//
// When even the snapshots are damaged that stand for what was reclaimed, groups start again at the
// earliest kept message: they get some messages a second time and miss none. A note says so.
//
// Reads the whole log twice. From any thread; without a handle.
//
// Errors: KEEPQ_E_INVALID_ARGUMENT, KEEPQ_E_LIMIT_EXCEEDED (cap), KEEPQ_E_INCOMPATIBLE,
// KEEPQ_E_NOT_FOUND, KEEPQ_E_NOT_A_STORE, KEEPQ_E_BUSY (somebody has it open), KEEPQ_E_CORRUPT
// (nothing can be made of what is left: no SUPER, or no readable segment; or, with all this
// filled, damage that it could not put right); the disk's.
keepq_rc keepq_repair(const char *path,
                      const struct keepq_repair_opts *opts,
                      struct keepq_repair_report *report,
                      struct keepq_repair_note *notes,
                      size_t cap);

// ======== Errors ========
//
// Fills out with the last error of this thread. A call that succeeds leaves it as it was.
//
// Errors: KEEPQ_E_INVALID_ARGUMENT, which is not noted.
keepq_rc keepq_last_error(struct keepq_error_info *out);

// The message of this thread's last error; "" if there was none. It lasts until the next keepq
// call of this thread that fails.
const char *keepq_last_message(void);

// What a return code means, in a few words. Never NULL; the string lasts for ever.
const char *keepq_strerror(keepq_rc rc);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* KEEPQ_H */
