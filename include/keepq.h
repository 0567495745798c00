/* keepq: a durable message queue in a library. A directory is the queue, any number of processes
 * share it, there is no server.
 *
 * Made from bindings/c/src by `cargo xtask header`: change it there.
 *
 * Every function may be called with any handle at any time: a handle that is NULL, closed or of
 * another kind gives KEEPQ_E_BAD_HANDLE. Other pointers must be valid for what the call says of
 * them: strings end with a NUL and are UTF-8 (paths: any bytes), arrays have the length given,
 * structs start with their size (use the *_INIT macros). NULL gives KEEPQ_E_INVALID_ARGUMENT
 * unless it is said to be allowed. Nothing passed in is kept after the call. Times are in
 * milliseconds. All functions are safe to call from any thread; a keepq_msg belongs to one thread
 * at a time. After a fork the child must open its own handles.
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
#define KEEPQ_OPEN_OPTS_INIT { sizeof(keepq_open_opts), 0, 1, 1, 0, 0, 0, 0, 0, 0, 0 }
#define KEEPQ_SEND_OPTS_INIT \
    { sizeof(keepq_send_opts), 0, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, 0, 0, 0, 0, 0, 0 }
#define KEEPQ_GROUP_OPTS_INIT { sizeof(keepq_group_opts), 0, 0, 0, 1, 0, 0 }
#define KEEPQ_SENT_INIT { sizeof(keepq_sent), 0, { 0 }, 0, 0, 0, 0, 0 }
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

// A new group begins at the earliest kept message.
#define KEEPQ_START_EARLIEST 0

// A new group begins with messages sent after it was made.
#define KEEPQ_START_LATEST 1

// A new group begins at start_seq.
#define KEEPQ_START_SEQUENCE 2

// Stored as durably as asked.
#define KEEPQ_SEND_OK 0

// Appended, not confirmed on disk in time: wait with keepq_flush, do not send again.
#define KEEPQ_SEND_FLUSH_DISK_TIMEOUT 1

// Not sent, or not known: see rc and outcome.
#define KEEPQ_SEND_FAILED 2

// keepq_sent.seq when there is none.
#define KEEPQ_NO_SEQ UINT64_MAX

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

// A received message. It belongs to one thread at a time.
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
} keepq_open_opts;

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
    // Later: what to do when the topic is full.
    int32_t when_full;
    // Later: 1 = producer_seq is set.
    int32_t has_producer_seq;
    // What to find the message by: at most 255 bytes of UTF-8.
    const char *key;
    // What kind of message it is: at most 255 bytes of UTF-8.
    const char *tag;
    // Later: messages with the same one are delivered in order.
    const char *order_key;
    // Later: a message with the same one is not stored again.
    const char *dedup_id;
    // Later: the name of a producer.
    const char *producer;
    // n_headers headers.
    const struct keepq_header *headers;
    // How many there are.
    size_t n_headers;
    // Later: deliver after so much time.
    int64_t delay_ms;
    // Later: deliver at this time.
    int64_t at_ms;
    // Later: how long the message is worth delivering.
    int64_t ttl_ms;
    // The time the send may take; 0 = as the store was opened with, -1 = for ever.
    int64_t timeout_ms;
    // Later: the message's number from its producer.
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
    // What the send returned.
    int32_t rc;
    // One of KEEPQ_SEND_*.
    int32_t status;
    // One of KEEPQ_OUTCOME_*.
    int32_t outcome;
    // 1 if it was on disk when the call returned.
    int32_t durable;
    // 1 if its producer had sent this sequence before: nothing was appended.
    int32_t duplicate;
} keepq_sent;

// How a group is opened. Start it with KEEPQ_GROUP_OPTS_INIT; zero means not set.
typedef struct keepq_group_opts {
    // sizeof(keepq_group_opts).
    size_t size;
    // How long a message stays with its receiver; 0 = 30000.
    int64_t lease_ms;
    // Deliveries before a message becomes a dead letter; 0 = 16.
    uint32_t max_attempts;
    // KEEPQ_FLUSH_* for acks; the default is async.
    int32_t ack_flush;
    // 1 = make topic and group where they are missing (INIT), 0 = that is KEEPQ_E_NOT_FOUND.
    int32_t create;
    // Where a new group begins: KEEPQ_START_*.
    int32_t start;
    // With KEEPQ_START_SEQUENCE: the sequence.
    uint64_t start_seq;
} keepq_group_opts;

// Bytes that belong to somebody else: here to the message, until it is freed.
typedef struct keepq_bytes {
    // The first byte; NULL if there is no such thing.
    const void *ptr;
    // How many there are.
    size_t len;
} keepq_bytes;

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

// Opens a store: a directory that any number of processes share. Makes it if need be. opts may be
// NULL. On success *out is a handle for keepq_close, else NULL.
keepq_rc keepq_open(const char *path, const struct keepq_open_opts *opts, struct keepq **out);

// Flushes what this process sent, and closes. The handle is invalid afterwards even when an error
// is returned. Groups and messages of the store can still be closed and freed, nothing else.
keepq_rc keepq_close(struct keepq *q);

// Waits until everything sent before this call is on disk. timeout_ms: -1 = for ever. Returns
// KEEPQ_TIMEOUT when the time was over first.
keepq_rc keepq_flush(struct keepq *q, int64_t timeout_ms);

// The library's version: major << 16 | minor << 8 | patch.
uint32_t keepq_version(void);

// Behind KEEPQ_CHECK_ABI(): whether a program compiled with the header of this version can use the
// library: same major version, and the same minor version while the major one is 0.
keepq_rc keepq_check_abi(uint32_t header_version);

// Sends one message; makes the topic if it is new. opts and out may be NULL. 0 means that the
// durability asked for was reached. Once the arguments are found good, out tells what became of
// the message, also after an error.
keepq_rc keepq_send(struct keepq *q,
                    const char *topic,
                    const void *body,
                    size_t len,
                    const struct keepq_send_opts *opts,
                    struct keepq_sent *out);

// Opens a consumer group; makes topic and group if need be. opts may be NULL. Options are stored
// when the group is made; a different explicit value later is KEEPQ_E_CONFIG_MISMATCH. On success
// *out is a handle for keepq_group_close, else NULL.
keepq_rc keepq_group_open(struct keepq *q,
                          const char *topic,
                          const char *group,
                          const struct keepq_group_opts *opts,
                          struct keepq_group **out);

// Closes a group. A receive that waits in another thread returns KEEPQ_E_CLOSED within 0.1 s. The
// messages received stay valid until they are freed.
keepq_rc keepq_group_close(struct keepq_group *g);

// Receives one message under a lease. timeout_ms: -1 = for ever, 0 = try once. Returns
// KEEPQ_EMPTY, and *out = NULL, when none came. The message is to be settled (keepq_ack,
// keepq_nack, keepq_reject) and freed.
keepq_rc keepq_receive(struct keepq_group *g, int64_t timeout_ms, struct keepq_msg **out);

// Receives up to cap messages: waits for the first, takes what else is there. out has room for cap
// handles, of which *n are set. timeout_ms and the result as for keepq_receive. cap is at most
// 1024.
keepq_rc keepq_receive_batch(struct keepq_group *g,
                             int64_t timeout_ms,
                             struct keepq_msg **out,
                             size_t cap,
                             size_t *n);

// The body. ptr is NULL only when m is not a message.
struct keepq_bytes keepq_msg_body(const struct keepq_msg *m);

// The identity: 16 hexadecimal digits, the same through all attempts.
const char *keepq_msg_id(const struct keepq_msg *m);

// The sequence in the topic, from 0; KEEPQ_NO_SEQ when m is not a message.
uint64_t keepq_msg_seq(const struct keepq_msg *m);

// The topic's name.
const char *keepq_msg_topic(const struct keepq_msg *m);

// The key; NULL if it has none. A key with a NUL byte in it, as other languages can send it, ends
// there.
const char *keepq_msg_key(const struct keepq_msg *m);

// The tag; NULL if it has none.
const char *keepq_msg_tag(const struct keepq_msg *m);

// The value of the header with this name; ptr is NULL if there is none.
struct keepq_bytes keepq_msg_header(const struct keepq_msg *m, const char *name);

// Which delivery of the message this is, from 1; 0 when m is not a message.
uint32_t keepq_msg_attempt(const struct keepq_msg *m);

// When it was sent, ms since 1970 UTC; -1 when m is not a message.
int64_t keepq_msg_sent_at_ms(const struct keepq_msg *m);

// The receipt: text with which any process can settle this delivery.
const char *keepq_msg_receipt(const struct keepq_msg *m);

// Frees a message and everything read from it. One that is not settled is given back at once, as
// by keepq_nack(m, 0).
keepq_rc keepq_msg_free(struct keepq_msg *m);

// Done with the message: it is not delivered to this group again. Free it afterwards.
keepq_rc keepq_ack(struct keepq_msg *m);

// Not done: deliver it again after delay_ms; -1 = after the group's back-off, 0 = at once.
keepq_rc keepq_nack(struct keepq_msg *m, int64_t delay_ms);

// Never deliver it to this group again: it becomes a dead letter, with this reason (UTF-8, at most
// 1024 bytes).
keepq_rc keepq_reject(struct keepq_msg *m, const char *reason);

// Keeps the message for ms more, from now on.
keepq_rc keepq_extend(struct keepq_msg *m, int64_t ms);

// keepq_ack by receipt, also for a message another process received.
keepq_rc keepq_ack_receipt(struct keepq *q, const char *receipt);

// keepq_nack by receipt.
keepq_rc keepq_nack_receipt(struct keepq *q, const char *receipt, int64_t delay_ms);

// keepq_reject by receipt.
keepq_rc keepq_reject_receipt(struct keepq *q, const char *receipt, const char *reason);

// keepq_extend by receipt.
keepq_rc keepq_extend_receipt(struct keepq *q, const char *receipt, int64_t ms);

// Fills `out` with the last error of this thread. A call that succeeds leaves it as it was.
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
