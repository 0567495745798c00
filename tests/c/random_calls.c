/* Random calls with random handles (open, closed, freed, NULL, of another kind) and random
 * arguments. A bad handle gives exactly KEEPQ_E_BAD_HANDLE; everything else a code that a call may
 * give; nothing crashes, hangs or leaks. KEEPQ_SEED and KEEPQ_CALLS choose others. */
#include "check.h"

enum { STORES = 3, GROUPS = 6, MESSAGES = 24, KINDS = 3, FUNCTIONS = 39 };

static uint64_t state_of_random;

static uint32_t draw(uint32_t below) {
    state_of_random ^= state_of_random << 13;
    state_of_random ^= state_of_random >> 7;
    state_of_random ^= state_of_random << 17;
    return (uint32_t)(state_of_random >> 33) % below;
}

/* Handles that are or were open. */
static struct {
    void *handle;
    int open;
} stores[STORES], groups[GROUPS], messages[MESSAGES];

static struct {
    uint64_t calls, succeeded, empty, failed;
    /* By kind of handle: calls on a good one and on a bad one. */
    uint64_t good[KINDS], bad[KINDS];
    /* Calls by function, and those that succeeded. */
    uint64_t of[FUNCTIONS], succeeded_of[FUNCTIONS];
    uint64_t callbacks;
} count;

/* A handle of a kind; mostly a good one. Says whether it is. */
static void *any(uint32_t kind, int *good, uint32_t *slot) {
    void *handle = NULL;
    uint32_t s = draw(kind == 0 ? STORES : kind == 1 ? GROUPS : MESSAGES);

    *good = 0;
    *slot = s;
    if (draw(40) == 0) {
        uint32_t other = (kind + 1 + draw(2)) % KINDS;
        handle = draw(3) == 0 ? NULL
                              : other == 0 ? stores[draw(STORES)].handle
                                           : other == 1 ? groups[draw(GROUPS)].handle
                                                        : messages[draw(MESSAGES)].handle;
    } else if (kind == 0) {
        handle = stores[s].handle;
        *good = stores[s].open;
    } else if (kind == 1) {
        handle = groups[s].handle;
        *good = groups[s].open;
    } else {
        handle = messages[s].handle;
        *good = messages[s].open;
    }
    (*good ? count.good : count.bad)[kind]++;
    return handle;
}

static const char *any_name(void) {
    static const char *const names[] = {"a", "b", "c", "", "a/b", "%DLQ%a%a", NULL, "\xff"};
    uint32_t n = draw(64);
    return names[n < 8 ? n : n % 3];
}

static int64_t any_time(void) {
    static const int64_t times[] = {0, 0, 0, 1, -1, -2, INT64_MIN, INT64_MAX, 5000};
    return times[draw(9)];
}

static void on_ok(void *user, const keepq_sent *sent) {
    (void)user, (void)sent;
    count.callbacks++;
}

static void on_err(void *user, const keepq_error_info *error) {
    (void)user, (void)error;
    count.callbacks++;
}

static const keepq_send_opts *any_send_opts(void) {
    static keepq_send_opts opts;
    static const keepq_header header = {"h", "v", 1};
    const keepq_send_opts init = KEEPQ_SEND_OPTS_INIT;

    opts = init;
    switch (draw(16)) {
    case 0: opts.key = "key"; break;
    case 1: opts.tag = "tag"; break;
    case 2: opts.headers = &header; opts.n_headers = 1; break;
    case 3: opts.producer = "p"; break;
    case 4: opts.producer = "p"; opts.has_producer_seq = 1; opts.producer_seq = draw(1000); break;
    case 5: opts.when_full = (int32_t)draw(4); break;
    case 6: opts.size = draw(300); break;
    case 7: opts.delay_ms = 1; break;
    default: return NULL;
    }
    return &opts;
}

static keepq_rc open_store(uint32_t slot) {
    keepq_open_opts opts = KEEPQ_OPEN_OPTS_INIT;
    keepq *q = NULL;
    keepq_rc rc;

    opts.flush = KEEPQ_FLUSH_ASYNC;
    /* No disk is so slow that a send gives up. */
    opts.send_timeout_ms = 120000;
    opts.max_in_flight = draw(2) ? 0 : 64;
    rc = keepq_open(place("store"), &opts, &q);
    assert_true((rc == KEEPQ_OK) == (q != NULL));
    if (rc == KEEPQ_OK) {
        stores[slot].handle = q;
        stores[slot].open = 1;
    }
    return rc;
}

/* What a closed store leaves of its groups and messages can still be read and given back. */
static keepq_rc close_store(uint32_t slot) {
    keepq_rc rc = keepq_close(stores[slot].handle);
    stores[slot].open = 0;
    return rc;
}

static void keep_message(keepq_msg *m) {
    uint32_t slot = draw(MESSAGES);
    if (messages[slot].open) {
        OK(keepq_msg_free(messages[slot].handle));
    }
    messages[slot].handle = m;
    messages[slot].open = 1;
}

static keepq_rc keep_messages(keepq_rc rc, keepq_msg **found, size_t n) {
    size_t i;
    assert_true(rc == KEEPQ_OK ? n > 0 : n == 0);
    for (i = 0; i < n; i++) {
        keep_message(found[i]);
    }
    return rc;
}

/* Limits that are never met: no limit, none, a high one, a wrong one. */
static int64_t any_limit(void) {
    static const int64_t limits[] = {0, 0, -1, INT64_C(1) << 40, INT64_C(1) << 41, -2};
    return limits[draw(6)];
}

static keepq_rc with_options(uint32_t function, keepq *q) {
    keepq_topic_opts topic = KEEPQ_TOPIC_OPTS_INIT;
    keepq_store_opts store = KEEPQ_STORE_OPTS_INIT;

    if (draw(2)) {
        topic.max_messages = any_limit();
        topic.max_bytes = store.max_bytes = any_limit();
        topic.when_full = store.when_full = (int32_t)draw(4);
    }
    if (draw(16) == 0) {
        topic.size = store.size = draw(64);
    }
    switch (function) {
    case 34: return keepq_topic_create(q, any_name(), draw(4) ? &topic : NULL);
    case 35: return keepq_topic_configure(q, any_name(), draw(16) ? &topic : NULL);
    case 36: return keepq_topic_config(q, any_name(), draw(16) ? &topic : NULL);
    case 37: return keepq_configure(q, draw(16) ? &store : NULL);
    default: return keepq_config(q, draw(16) ? &store : NULL);
    }
}

static keepq_rc with_store(uint32_t function, keepq *q) {
    keepq_sent sent[2] = {KEEPQ_SENT_INIT, KEEPQ_SENT_INIT};
    keepq_msg_in in[2] = {KEEPQ_MSG_IN_INIT, KEEPQ_MSG_IN_INIT};
    keepq_store_stats stats = KEEPQ_STORE_STATS_INIT;
    keepq_topic_stats topics[3] = {KEEPQ_TOPIC_STATS_INIT};
    keepq_group_stats list[3] = {KEEPQ_GROUP_STATS_INIT};
    static char body[256];
    keepq_msg *found[4], *m;
    keepq_group *g = NULL;
    const char *receipt;
    uint32_t slot;
    size_t n = 0;
    keepq_rc rc;

    switch (function) {
    case 0: return keepq_send(q, any_name(), body, draw(sizeof body), any_send_opts(), sent);
    case 1: {
        keepq_send_cb ok = draw(2) ? on_ok : NULL;
        keepq_err_cb err = draw(2) ? on_err : NULL;
        return keepq_send_async(q, any_name(), body, draw(64), any_send_opts(), ok, err, &count);
    }
    case 2: return keepq_send_oneway(q, any_name(), body, draw(64), any_send_opts());
    case 3:
        in[0].topic = any_name();
        in[1].topic = any_name();
        in[1].opts = any_send_opts();
        return keepq_send_batch(q, in, draw(3), draw(2) ? sent : NULL);
    case 4: return keepq_flush(q, draw(50) ? 0 : 10);
    case 5: return keepq_dispatch(q, draw(50) ? 0 : any_time() == 1);
    case 6: return keepq_fd(q) < 0 ? keepq_fd(q) : KEEPQ_OK;
    case 7: return keepq_interrupt(q);
    case 8:
        switch (draw(3)) {
        case 0: return keepq_topic_purge(q, any_name(), NULL);
        case 1: return keepq_topic_delete(q, any_name());
        default: return keepq_producer_open(q, any_name(), NULL);
        }
    case 9:
        slot = draw(GROUPS);
        rc = keepq_group_open(q, any_name(), any_name(), NULL, &g);
        assert_true((rc == KEEPQ_OK) == (g != NULL));
        if (g != NULL) {
            if (groups[slot].open) {
                OK(keepq_group_close(groups[slot].handle));
            }
            groups[slot].handle = g;
            groups[slot].open = 1;
        }
        return rc;
    case 10:
        rc = keepq_browse(q, any_name(), draw(1000), found, 1 + draw(4), &n);
        return keep_messages(rc, found, n);
    case 11: return keepq_stats(q, &stats);
    case 12: return keepq_topics(q, topics, draw(4), &n);
    case 13: return keepq_groups(q, list, draw(4), &n);
    default:
        m = messages[draw(MESSAGES)].handle;
        receipt = keepq_msg_receipt(m);
        switch (function) {
        case 14: return keepq_ack_receipt(q, receipt);
        case 15: return keepq_nack_receipt(q, receipt, any_time());
        case 16: return keepq_reject_receipt(q, receipt, draw(9) ? "why" : NULL);
        default: return keepq_extend_receipt(q, receipt, any_time());
        }
    }
}

static keepq_rc with_group(uint32_t function, keepq_group *g) {
    keepq_group_opts opts = KEEPQ_GROUP_OPTS_INIT;
    keepq_group_stats stats = KEEPQ_GROUP_STATS_INIT;
    keepq_msg *found[4], *m = NULL;
    size_t n = 0;
    keepq_rc rc;
    int fd;

    switch (function) {
    case 18:
        rc = keepq_receive(g, draw(200) ? 0 : 1, &m);
        assert_true((rc == KEEPQ_OK) == (m != NULL));
        if (m != NULL) {
            keep_message(m);
        }
        return rc;
    case 19:
        rc = keepq_receive_batch(g, 0, found, 1 + draw(4), &n);
        return keep_messages(rc, found, n);
    case 20: return keepq_group_config(g, &opts);
    case 21:
        opts.max_attempts = draw(3);
        opts.lease_ms = draw(2) ? 0 : 60000;
        return keepq_group_configure(g, draw(9) ? &opts : NULL);
    case 22:
        fd = keepq_group_fd(g);
        return fd < 0 ? fd : KEEPQ_OK;
    case 23: return keepq_group_counters(g, &stats);
    case 24:
        rc = keepq_dlq_browse(g, draw(10), found, 1 + draw(4), &n);
        return keep_messages(rc, found, n);
    default:
        switch (draw(3)) {
        case 0: return keepq_group_delete(g);
        case 1: return keepq_dlq_purge(g, NULL);
        default: return keepq_dlq_purge_one(g, draw(10));
        }
    }
}

static keepq_rc with_message(uint32_t function, keepq_msg *m) {
    keepq_dead_info info = KEEPQ_DEAD_INFO_INIT;
    keepq_header header;
    keepq_msg *many[2];
    keepq_rc each[2];

    switch (function) {
    case 26: return keepq_ack(m);
    case 27: return keepq_nack(m, draw(8) ? 0 : any_time());
    case 28: return keepq_reject(m, "why");
    case 29: return keepq_extend(m, 60000);
    case 30:
        many[0] = many[1] = m;
        return keepq_ack_many(many, 1 + draw(2), draw(2) ? each : NULL);
    case 31: return keepq_msg_header_at(m, draw(2), &header);
    case 32: return keepq_msg_dead_info(m, &info);
    default:
        /* The readers: whatever they are asked, they say yes or no. */
        (void)keepq_msg_id(m);
        (void)keepq_msg_seq(m);
        (void)keepq_msg_topic(m);
        (void)keepq_msg_key(m);
        (void)keepq_msg_tag(m);
        (void)keepq_msg_order_key(m);
        (void)keepq_msg_header(m, "h");
        (void)keepq_msg_attempt(m);
        (void)keepq_msg_sent_at_ms(m);
        (void)keepq_msg_producer(m);
        (void)keepq_msg_producer_seq(m);
        (void)keepq_msg_body(m);
        return keepq_msg_check(m);
    }
}

/* Functions that cost a transaction or more are called less often than those that read. */
static uint32_t any_function(void) {
    static const uint8_t often[] = {0,  0,  1,  1,  2,  5,  18, 18, 18, 19, 19, 23,
                                    26, 26, 27, 29, 30, 31, 33, 33, 6,  14, 17, 20};
    uint32_t n = draw(100), any = draw(FUNCTIONS);
    /* What waits for the disk, a flush, a change of options, a purge: now and then. */
    int slow = any == 4 || any == 8 || any == 21 || any == 25 || any == 34 || any == 35 ||
               any == 37;
    return n < 85 || (slow && draw(20) != 0) ? often[n % sizeof often] : any;
}

/* Only these may come of a call whose handle is good. */
static int is_possible(keepq_rc rc) {
    switch (rc) {
    case KEEPQ_OK:
    case KEEPQ_EMPTY:
    case KEEPQ_TIMEOUT:
    case KEEPQ_E_INVALID_ARGUMENT:
    case KEEPQ_E_INVALID_NAME:
    case KEEPQ_E_NOT_SUPPORTED:
    case KEEPQ_E_INCOMPATIBLE:
    case KEEPQ_E_LIMIT_EXCEEDED:
    case KEEPQ_E_NOT_FOUND:
    case KEEPQ_E_LEASE_LOST:
    case KEEPQ_E_PRODUCER_GAP:
    case KEEPQ_E_PRODUCER_FENCED:
    case KEEPQ_E_CONFIG_MISMATCH:
    case KEEPQ_E_CLOSED:
    case KEEPQ_E_FULL:
        return 1;
    default:
        return 0;
    }
}

static void one_call(void) {
    uint32_t function = any_function(), slot;
    uint32_t kind = function < 18 || function >= 34 ? 0 : function < 26 ? 1 : 2;
    int good;
    void *handle = any(kind, &good, &slot);
    keepq_rc rc = function >= 34 ? with_options(function, handle)
                  : kind == 0    ? with_store(function, handle)
                  : kind == 1    ? with_group(function, handle)
                                 : with_message(function, handle);

    if (!good && function == 30 && rc == KEEPQ_E_BAD_HANDLE) {
        SAYS("message handle");
    }
    if (good ? !is_possible(rc) : rc != KEEPQ_E_BAD_HANDLE) {
        fail_msg("function %u on a %s handle gave %d: %s", function, good ? "good" : "bad", (int)rc,
                 keepq_last_message());
    }
    if (good && kind == 2 && function < 31 && draw(4) != 0) {
        /* Settled or not: mostly not looked at again. */
        OK(keepq_msg_free(handle));
        messages[slot].open = 0;
    }
    count.calls++;
    count.of[function]++;
    if (rc == KEEPQ_OK) {
        count.succeeded++;
        count.succeeded_of[function]++;
    } else {
        *(rc > 0 ? &count.empty : &count.failed) += 1;
    }
}

/* Repairs and checks, of the store that is in use and of one that is not. */
static void repair_something(void) {
    keepq_repair_opts opts = KEEPQ_REPAIR_OPTS_INIT;
    keepq_repair_report report = KEEPQ_REPAIR_REPORT_INIT;
    keepq_repair_note note = KEEPQ_REPAIR_NOTE_INIT;
    int in_use = stores[0].open || stores[1].open || stores[2].open;

    opts.dry_run = (int32_t)draw(2);
    GIVES(in_use ? KEEPQ_E_BUSY : KEEPQ_OK,
          keepq_repair(place("store"), &opts, &report, &note, draw(2)));
    OK(keepq_repair(place("unused"), draw(2) ? &opts : NULL, &report, &note, draw(2)));
    assert_true(report.notes == 0 && report.damages_after == 0);
    OK(keepq_verify_path(place("unused"), NULL, NULL, 0));
}

/* Now and then something is opened or closed. */
static void open_or_close(uint64_t n) {
    uint32_t slot;

    if (n % 5000 == 0) {
        slot = draw(STORES);
        OK(stores[slot].open && draw(2) ? close_store(slot)
           : stores[slot].open          ? KEEPQ_OK
                                        : open_store(slot));
    }
    for (slot = 0; slot < STORES && !stores[slot].open; slot++) {
    }
    if (slot == STORES) {
        OK(open_store(0));
    }
    if (n % 100 == 0) {
        static const char *const names[] = {"a", "b", "c"};
        keepq_group *g = NULL;
        uint32_t of = draw(STORES);
        slot = draw(GROUPS);
        if (groups[slot].open && draw(4) == 0) {
            OK(keepq_group_close(groups[slot].handle));
            groups[slot].open = 0;
        } else if (!groups[slot].open && stores[of].open) {
            OK(keepq_group_open(stores[of].handle, names[draw(3)], names[draw(3)], NULL, &g));
            groups[slot].handle = g;
            groups[slot].open = 1;
        }
        slot = draw(MESSAGES);
        if (messages[slot].open) {
            OK(keepq_msg_free(messages[slot].handle));
            messages[slot].open = 0;
        }
    }
}

static void random_calls_give_what_they_should(void **state) {
    const char *calls = getenv("KEEPQ_CALLS"), *seed = getenv("KEEPQ_SEED");
    uint64_t wanted = calls ? strtoull(calls, NULL, 10) : 1000000, n;
    int i;

    (void)state;
    state_of_random = seed ? strtoull(seed, NULL, 10) : 20261128;
    print_message("KEEPQ_SEED=%llu\n", (unsigned long long)state_of_random);
    OK(keepq_close(open_quick("unused")));
    for (n = 0; n < wanted; n++) {
        open_or_close(n);
        if (n % 20000 == 0) {
            repair_something();
        }
        one_call();
    }
    for (i = 0; i < MESSAGES; i++) {
        GIVES(messages[i].open ? KEEPQ_OK : KEEPQ_E_BAD_HANDLE, keepq_msg_free(messages[i].handle));
    }
    for (i = 0; i < STORES; i++) {
        GIVES(stores[i].open ? KEEPQ_OK : KEEPQ_E_BAD_HANDLE, keepq_close(stores[i].handle));
    }
    for (i = 0; i < GROUPS; i++) {
        GIVES(groups[i].open ? KEEPQ_OK : KEEPQ_E_BAD_HANDLE, keepq_group_close(groups[i].handle));
    }
    print_message("%llu calls: %llu succeeded, %llu found nothing, %llu failed; %llu callbacks\n",
                  (unsigned long long)count.calls, (unsigned long long)count.succeeded,
                  (unsigned long long)count.empty, (unsigned long long)count.failed,
                  (unsigned long long)count.callbacks);
    /* Of few calls the share is a matter of luck. */
    assert_true(count.calls == wanted);
    assert_true(count.succeeded * 10 >= count.calls * (wanted >= 100000 ? 3 : 2));
    assert_true(count.callbacks > wanted / 1000);
    for (i = 0; i < KINDS; i++) {
        assert_true(count.good[i] > wanted / 20 && count.bad[i] > wanted / 200);
    }
    for (i = 0; i < FUNCTIONS; i++) {
        /* Few calls do not come to each. */
        if (wanted >= 100000 && (count.of[i] == 0 || count.succeeded_of[i] == 0)) {
            fail_msg("function %d: %llu calls, %llu succeeded", i, (unsigned long long)count.of[i],
                     (unsigned long long)count.succeeded_of[i]);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_calls_give_what_they_should),
    };
    return cmocka_run_group_tests_name("random_calls", tests, NULL, NULL);
}
