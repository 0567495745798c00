/* NULL, wrong values and overlong things: each is an error that says what is wrong, and none a
 * crash. */
#include "check.h"

static keepq *q;
static keepq_group *g;
static keepq_msg *m;

#define INVALID KEEPQ_E_INVALID_ARGUMENT

static void null_arguments_are_refused(void **state) {
    keepq_topic_opts topic_opts = KEEPQ_TOPIC_OPTS_INIT;
    keepq_group *group = NULL;
    keepq_msg *msg = NULL;
    keepq *none = NULL;
    size_t n;

    (void)state;
    REFUSES(keepq_open, KEEPQ_E_INVALID_ARGUMENT, (NULL, NULL, &none));
    REFUSES(keepq_open, KEEPQ_E_INVALID_ARGUMENT, ("x", NULL, NULL));
    REFUSES(keepq_send, KEEPQ_E_INVALID_ARGUMENT, (q, NULL, "x", 1, NULL, NULL));
    REFUSES(keepq_send, KEEPQ_E_INVALID_ARGUMENT, (q, "t", NULL, 1, NULL, NULL));
    REFUSES(keepq_send_async, KEEPQ_E_INVALID_ARGUMENT, (q, NULL, "x", 1, NULL, NULL, NULL, NULL));
    REFUSES(keepq_send_async, KEEPQ_E_INVALID_ARGUMENT, (q, "t", NULL, 1, NULL, NULL, NULL, NULL));
    REFUSES(keepq_send_oneway, KEEPQ_E_INVALID_ARGUMENT, (q, NULL, "x", 1, NULL));
    REFUSES(keepq_send_oneway, KEEPQ_E_INVALID_ARGUMENT, (q, "t", NULL, 1, NULL));
    REFUSES(keepq_send_batch, KEEPQ_E_INVALID_ARGUMENT, (q, NULL, 1, NULL));
    REFUSES(keepq_producer_open, KEEPQ_E_INVALID_ARGUMENT, (q, NULL, NULL));
    REFUSES(keepq_group_open, KEEPQ_E_INVALID_ARGUMENT, (q, NULL, "g", NULL, &group));
    REFUSES(keepq_group_open, KEEPQ_E_INVALID_ARGUMENT, (q, "t", NULL, NULL, &group));
    REFUSES(keepq_group_open, KEEPQ_E_INVALID_ARGUMENT, (q, "t", "g", NULL, NULL));
    REFUSES(keepq_group_configure, KEEPQ_E_INVALID_ARGUMENT, (g, NULL));
    REFUSES(keepq_group_config, KEEPQ_E_INVALID_ARGUMENT, (g, NULL));
    REFUSES(keepq_receive, KEEPQ_E_INVALID_ARGUMENT, (g, 0, NULL));
    REFUSES(keepq_receive_batch, KEEPQ_E_INVALID_ARGUMENT, (g, 0, NULL, 1, &n));
    REFUSES(keepq_receive_batch, KEEPQ_E_INVALID_ARGUMENT, (g, 0, &msg, 1, NULL));
    REFUSES(keepq_receive_detached, KEEPQ_E_INVALID_ARGUMENT, (g, 0, NULL, 1, &n));
    REFUSES(keepq_receive_detached, KEEPQ_E_INVALID_ARGUMENT, (g, 0, &msg, 1, NULL));
    REFUSES(keepq_topic_create, KEEPQ_E_INVALID_ARGUMENT, (q, NULL, NULL));
    REFUSES(keepq_topic_configure, KEEPQ_E_INVALID_ARGUMENT, (q, "t", NULL));
    REFUSES(keepq_topic_configure, KEEPQ_E_INVALID_ARGUMENT, (q, NULL, &topic_opts));
    REFUSES(keepq_topic_config, KEEPQ_E_INVALID_ARGUMENT, (q, "t", NULL));
    REFUSES(keepq_topic_config, KEEPQ_E_INVALID_ARGUMENT, (q, NULL, &topic_opts));
    REFUSES(keepq_configure, KEEPQ_E_INVALID_ARGUMENT, (q, NULL));
    REFUSES(keepq_config, KEEPQ_E_INVALID_ARGUMENT, (q, NULL));
    REFUSES(keepq_topic_purge, KEEPQ_E_INVALID_ARGUMENT, (q, NULL, NULL));
    REFUSES(keepq_topic_delete, KEEPQ_E_INVALID_ARGUMENT, (q, NULL));
    REFUSES(keepq_browse, KEEPQ_E_INVALID_ARGUMENT, (q, NULL, 0, &msg, 1, &n));
    REFUSES(keepq_browse, KEEPQ_E_INVALID_ARGUMENT, (q, "t", 0, NULL, 1, &n));
    REFUSES(keepq_browse, KEEPQ_E_INVALID_ARGUMENT, (q, "t", 0, &msg, 1, NULL));
    REFUSES(keepq_dlq_browse, KEEPQ_E_INVALID_ARGUMENT, (g, 0, NULL, 1, &n));
    REFUSES(keepq_dlq_browse, KEEPQ_E_INVALID_ARGUMENT, (g, 0, &msg, 1, NULL));
    REFUSES(keepq_ack_many, KEEPQ_E_INVALID_ARGUMENT, (NULL, 1, NULL));
    REFUSES(keepq_reject, KEEPQ_E_INVALID_ARGUMENT, (m, NULL));
    REFUSES(keepq_ack_receipt, KEEPQ_E_INVALID_ARGUMENT, (q, NULL));
    REFUSES(keepq_nack_receipt, KEEPQ_E_INVALID_ARGUMENT, (q, NULL, 0));
    REFUSES(keepq_reject_receipt, KEEPQ_E_INVALID_ARGUMENT, (q, NULL, "why"));
    REFUSES(keepq_extend_receipt, KEEPQ_E_INVALID_ARGUMENT, (q, NULL, 1));
    REFUSES(keepq_msg_header_at, KEEPQ_E_INVALID_ARGUMENT, (m, 0, NULL));
    REFUSES(keepq_msg_dead_info, KEEPQ_E_INVALID_ARGUMENT, (m, NULL));
    REFUSES(keepq_stats, KEEPQ_E_INVALID_ARGUMENT, (q, NULL));
    REFUSES(keepq_topics, KEEPQ_E_INVALID_ARGUMENT, (q, NULL, 1, &n));
    REFUSES(keepq_topics, KEEPQ_E_INVALID_ARGUMENT, (q, NULL, 0, NULL));
    REFUSES(keepq_groups, KEEPQ_E_INVALID_ARGUMENT, (q, NULL, 1, &n));
    REFUSES(keepq_groups, KEEPQ_E_INVALID_ARGUMENT, (q, NULL, 0, NULL));
    REFUSES(keepq_group_counters, KEEPQ_E_INVALID_ARGUMENT, (g, NULL));
    REFUSES(keepq_verify, KEEPQ_E_INVALID_ARGUMENT, (q, NULL, NULL, 1));
    REFUSES(keepq_verify_path, KEEPQ_E_INVALID_ARGUMENT, (NULL, NULL, NULL, 0));
    REFUSES(keepq_verify_path, KEEPQ_E_INVALID_ARGUMENT, (place("store"), NULL, NULL, 1));
    REFUSES(keepq_repair, KEEPQ_E_INVALID_ARGUMENT, (NULL, NULL, NULL, NULL, 0));
    REFUSES(keepq_repair, KEEPQ_E_INVALID_ARGUMENT, (place("store"), NULL, NULL, NULL, 1));
    REFUSES(keepq_last_error, KEEPQ_E_INVALID_ARGUMENT, (NULL));
    assert_null(keepq_msg_header(m, NULL).ptr);
    assert_true(group == NULL && msg == NULL && none == NULL);
    GIVES(INVALID, keepq_reject_receipt(q, keepq_msg_receipt(m), NULL));
    OK(keepq_send_batch(q, NULL, 0, NULL));
    OK(keepq_ack_many(NULL, 0, NULL));
}

static void wrong_values_of_arguments_are_refused(void **state) {
    keepq_msg *none = NULL;
    const char *receipt = keepq_msg_receipt(m);
    size_t n;

    (void)state;
    REFUSES(keepq_flush, KEEPQ_E_INVALID_ARGUMENT, (q, -2));
    REFUSES(keepq_dispatch, KEEPQ_E_INVALID_ARGUMENT, (q, -2));
    GIVES(INVALID, keepq_receive(g, -2, &none));
    GIVES(INVALID, keepq_receive_batch(g, INT64_MIN, &none, 1, &n));
    GIVES(INVALID, keepq_receive_batch(g, 0, &none, 0, &n));
    GIVES(INVALID, keepq_receive_detached(g, 0, &none, 0, &n));
    GIVES(INVALID, keepq_browse(q, "t", 0, &none, 0, &n));
    GIVES(INVALID, keepq_dlq_browse(g, 0, &none, 0, &n));
    REFUSES(keepq_nack, KEEPQ_E_INVALID_ARGUMENT, (m, -2));
    REFUSES(keepq_extend, KEEPQ_E_INVALID_ARGUMENT, (m, -1));
    GIVES(INVALID, keepq_nack_receipt(q, receipt, -2));
    GIVES(INVALID, keepq_extend_receipt(q, receipt, -1));
    GIVES(INVALID, keepq_send(q, "\xff", "x", 1, NULL, NULL));
    GIVES(INVALID, keepq_reject(m, "\xff"));
    GIVES(KEEPQ_E_INCOMPATIBLE, keepq_check_abi(KEEPQ_VERSION + 0x10000));
    REFUSES(keepq_check_abi, KEEPQ_E_INCOMPATIBLE, (KEEPQ_VERSION + 0x100));
    OK(keepq_check_abi(KEEPQ_VERSION + 1));
    assert_string_equal(keepq_strerror(12345), "not a keepq return code");
}

static void wrong_names_are_refused(void **state) {
    keepq_send_opts opts = KEEPQ_SEND_OPTS_INIT;
    keepq_msg_in in = KEEPQ_MSG_IN_INIT;
    keepq_group_opts group_opts = KEEPQ_GROUP_OPTS_INIT;
    keepq_topic_opts topic_opts = KEEPQ_TOPIC_OPTS_INIT;
    keepq_group *group = NULL;
    keepq_msg *none = NULL;
    char overlong[122];
    size_t n;

    (void)state;
    memset(overlong, 'x', 121);
    overlong[121] = 0;
    in.topic = "a/b";
    opts.producer = "a/b";
    REFUSES(keepq_send, KEEPQ_E_INVALID_NAME, (q, "", "x", 1, NULL, NULL));
    GIVES(KEEPQ_E_INVALID_NAME, keepq_send(q, overlong, "x", 1, NULL, NULL));
    GIVES(KEEPQ_E_INVALID_NAME, keepq_send(q, "t", "x", 1, &opts, NULL));
    REFUSES(keepq_send_async, KEEPQ_E_INVALID_NAME, (q, "a/b", "x", 1, NULL, NULL, NULL, NULL));
    REFUSES(keepq_send_oneway, KEEPQ_E_INVALID_NAME, (q, "..", "x", 1, NULL));
    REFUSES(keepq_send_batch, KEEPQ_E_INVALID_NAME, (q, &in, 1, NULL));
    REFUSES(keepq_producer_open, KEEPQ_E_INVALID_NAME, (q, "%p", NULL));
    REFUSES(keepq_group_open, KEEPQ_E_INVALID_NAME, (q, "t", "%x", NULL, &group));
    group_opts.broadcast = 1;
    group_opts.consumer = "a%b";
    GIVES(KEEPQ_E_INVALID_NAME, keepq_group_open(q, "t", "g", &group_opts, &group));
    REFUSES(keepq_topic_create, KEEPQ_E_INVALID_NAME, (q, "a/b", NULL));
    REFUSES(keepq_topic_configure, KEEPQ_E_INVALID_NAME, (q, "a/b", &topic_opts));
    REFUSES(keepq_topic_config, KEEPQ_E_INVALID_NAME, (q, "", &topic_opts));
    REFUSES(keepq_topic_purge, KEEPQ_E_INVALID_NAME, (q, "a/b", NULL));
    REFUSES(keepq_topic_delete, KEEPQ_E_INVALID_NAME, (q, ""));
    REFUSES(keepq_browse, KEEPQ_E_INVALID_NAME, (q, "a b", 0, &none, 1, &n));
    overlong[120] = 0;
    OK(keepq_send(q, overlong, "x", 1, NULL, NULL));
}

static void wrong_options_of_a_store_are_refused(void **state) {
    static const char *const names[] = {"create", "flush", "retries", "in flight", "when full",
                                        "slots",  "mode",  "timeout", "interval",  "read only"};
    size_t i;

    (void)state;
    for (i = 0; i < sizeof names / sizeof *names; i++) {
        keepq_open_opts opts = KEEPQ_OPEN_OPTS_INIT;
        keepq *none = NULL;
        switch (i) {
        case 0: opts.create = 2; break;
        case 1: opts.flush = 9; break;
        case 2: opts.send_retries = -2; break;
        case 3: opts.max_in_flight = UINT32_MAX; break;
        case 4: opts.when_full = 3; break;
        case 5: opts.slots = 1; break;
        case 6: opts.mode = 0777; break;
        case 7: opts.send_timeout_ms = -2; break;
        case 8: opts.flush_interval_ms = INT64_MAX; break;
        default: opts.read_only = -1; break;
        }
        check_rc(INVALID, keepq_open(place("never"), &opts, &none), names[i], __FILE__, __LINE__);
        assert_null(none);
    }
}

/* Of topics, of the store that is open, and of a repair. */
static void other_wrong_options_are_refused(void **state) {
    static const char *const names[] = {"bytes",     "messages", "age",
                                        "retention", "full",     "reserved"};
    keepq_store_opts store = KEEPQ_STORE_OPTS_INIT;
    keepq_repair_opts repair = KEEPQ_REPAIR_OPTS_INIT;
    size_t i;

    (void)state;
    for (i = 0; i < sizeof names / sizeof *names; i++) {
        keepq_topic_opts opts = KEEPQ_TOPIC_OPTS_INIT;
        switch (i) {
        case 0: opts.max_bytes = -2; break;
        case 1: opts.max_messages = INT64_MIN; break;
        case 2: opts.retain_ms = -2; break;
        case 3: opts.retain_bytes = -2; break;
        case 4: opts.when_full = 3; break;
        default: opts.reserved = 1; break;
        }
        check_rc(INVALID, keepq_topic_create(q, "never", &opts), names[i], __FILE__, __LINE__);
        check_rc(INVALID, keepq_topic_configure(q, "t", &opts), names[i], __FILE__, __LINE__);
    }
    store.max_bytes = -2;
    GIVES(INVALID, keepq_configure(q, &store));
    SAYS("max_bytes");
    store.max_bytes = 0;
    store.when_full = -1;
    GIVES(INVALID, keepq_configure(q, &store));
    store.when_full = 0;
    store.reserved = 1;
    GIVES(INVALID, keepq_configure(q, &store));
    SAYS("KEEPQ_STORE_OPTS_INIT");
    repair.dry_run = 2;
    GIVES(INVALID, keepq_repair(place("store"), &repair, NULL, NULL, 0));
    repair.dry_run = 1;
    repair.reserved = 1;
    GIVES(INVALID, keepq_repair(place("store"), &repair, NULL, NULL, 0));
    SAYS("KEEPQ_REPAIR_OPTS_INIT");
}

static void wrong_options_of_a_group_are_refused(void **state) {
    static const char *const names[] = {"start",  "lease", "flush", "create", "attempts", "first",
                                        "factor", "max",   "jitter", "time",   "ordered",
                                        "broadcast", "consumer", "tags", "tag", "outstanding",
                                        "back-off", "two back-offs", "reserved",
                                        "much outstanding"};
    static const char *const no_tag[] = {NULL};
    size_t i;

    (void)state;
    for (i = 0; i < sizeof names / sizeof *names; i++) {
        keepq_group_opts opts = KEEPQ_GROUP_OPTS_INIT;
        keepq_group *none = NULL;
        switch (i) {
        case 0: opts.start = 7; break;
        case 1: opts.lease_ms = -5; break;
        case 2: opts.ack_flush = 3; break;
        case 3: opts.create = -1; break;
        case 4: opts.max_attempts = 1001; break;
        case 5: opts.backoff_first_ms = -2; break;
        case 6: opts.backoff_factor = 0.5; break;
        case 7: opts.backoff_max_ms = INT64_MAX; break;
        case 8: opts.backoff_jitter = 1.5; break;
        case 9: opts.start = KEEPQ_START_TIME; opts.start_ms = -1; break;
        case 10: opts.ordered = 2; break;
        case 11: opts.broadcast = 2; break;
        case 12: opts.consumer = "c"; break;
        case 13: opts.n_tags = 1; break;
        case 14: opts.tags = no_tag; opts.n_tags = 1; break;
        case 15: opts.max_outstanding = (1 << 20) + 1; break;
        case 16: opts.backoff = 2; break;
        case 17: opts.backoff = KEEPQ_BACKOFF_ROCKETMQ; opts.backoff_max_ms = 1; break;
        case 18: opts.reserved = 1; break;
        default: opts.max_outstanding = UINT64_C(1) << 32; break;
        }
        check_rc(INVALID, keepq_group_open(q, "t", "g2", &opts, &none), names[i], __FILE__,
                 __LINE__);
        assert_null(none);
        if (i != 3) {
            check_rc(INVALID, keepq_group_configure(g, &opts), names[i], __FILE__, __LINE__);
        }
    }
    note_error("keepq_group_configure", "KEEPQ_E_INVALID_ARGUMENT");
}

static void wrong_options_of_a_send_are_refused(void **state) {
    keepq_send_opts opts = KEEPQ_SEND_OPTS_INIT;
    keepq_header header = {NULL, "v", 1};

    (void)state;
    opts.flush = -1;
    GIVES(INVALID, keepq_send(q, "t", "x", 1, &opts, NULL));
    opts.flush = 0;
    opts.when_full = 3;
    GIVES(INVALID, keepq_send_async(q, "t", "x", 1, &opts, NULL, NULL, NULL));
    opts.when_full = 0;
    opts.timeout_ms = -2;
    GIVES(INVALID, keepq_send_oneway(q, "t", "x", 1, &opts));
    opts.timeout_ms = 0;
    opts.n_headers = 1;
    GIVES(INVALID, keepq_send(q, "t", "x", 1, &opts, NULL));
    opts.headers = &header;
    GIVES(INVALID, keepq_send(q, "t", "x", 1, &opts, NULL));
    header.name = "h";
    header.value = NULL;
    GIVES(INVALID, keepq_send(q, "t", "x", 1, &opts, NULL));
    opts.n_headers = 0;
    opts.has_producer_seq = 1;
    GIVES(INVALID, keepq_send(q, "t", "x", 1, &opts, NULL));
    SAYS("producer");
    opts.has_producer_seq = 0;
    opts.producer_seq = 1;
    GIVES(INVALID, keepq_send(q, "t", "x", 1, &opts, NULL));
    opts.producer = "p";
    GIVES(INVALID, keepq_send(q, "t", "x", 1, &opts, NULL));
    opts.has_producer_seq = 2;
    GIVES(INVALID, keepq_send(q, "t", "x", 1, &opts, NULL));
}

static void what_is_over_its_limit_is_refused(void **state) {
    static char large[(16 << 20) + 1], reason[1026];
    keepq_send_opts opts = KEEPQ_SEND_OPTS_INIT;
    keepq_msg_in in = KEEPQ_MSG_IN_INIT;
    keepq_msg *out[2];
    keepq_topic_stats topics = KEEPQ_TOPIC_STATS_INIT;
    keepq_group_stats groups = KEEPQ_GROUP_STATS_INIT;
    keepq_finding finding = KEEPQ_FINDING_INIT;
    keepq_repair_note note = KEEPQ_REPAIR_NOTE_INIT;
    keepq_group_opts group_opts = KEEPQ_GROUP_OPTS_INIT;
    const char *tag = reason;
    keepq_group *none = NULL;
    const char *receipt = keepq_msg_receipt(m);
    const int64_t days31 = INT64_C(31) * 24 * 3600 * 1000;
    size_t n;

    (void)state;
    memset(reason, 'r', 1025);
    REFUSES(keepq_send, KEEPQ_E_LIMIT_EXCEEDED, (q, "t", large, sizeof large, NULL, NULL));
    GIVES(KEEPQ_E_LIMIT_EXCEEDED, keepq_send(q, "t", "x", (size_t)-1, NULL, NULL));
    REFUSES(keepq_send_async, KEEPQ_E_LIMIT_EXCEEDED,
            (q, "t", large, sizeof large, NULL, NULL, NULL, NULL));
    opts.n_headers = (size_t)-1;
    GIVES(KEEPQ_E_LIMIT_EXCEEDED, keepq_send(q, "t", "x", 1, &opts, NULL));
    opts.n_headers = 0;
    opts.key = reason;
    GIVES(KEEPQ_E_LIMIT_EXCEEDED, keepq_send(q, "t", "x", 1, &opts, NULL));
    opts.key = NULL;
    opts.order_key = reason;
    GIVES(KEEPQ_E_LIMIT_EXCEEDED, keepq_send(q, "t", "x", 1, &opts, NULL));
    opts.order_key = "\xff";
    GIVES(INVALID, keepq_send(q, "t", "x", 1, &opts, NULL));
    group_opts.tags = &tag;
    group_opts.n_tags = 17;
    REFUSES(keepq_group_open, KEEPQ_E_LIMIT_EXCEEDED, (q, "t", "g2", &group_opts, &none));
    group_opts.n_tags = 1;
    REFUSES(keepq_group_configure, KEEPQ_E_LIMIT_EXCEEDED, (g, &group_opts));
    REFUSES(keepq_send_batch, KEEPQ_E_LIMIT_EXCEEDED, (q, &in, SIZE_MAX / 2, NULL));
    REFUSES(keepq_receive_batch, KEEPQ_E_LIMIT_EXCEEDED, (g, 0, out, 1025, &n));
    REFUSES(keepq_receive_detached, KEEPQ_E_LIMIT_EXCEEDED, (g, 0, out, 1025, &n));
    REFUSES(keepq_browse, KEEPQ_E_LIMIT_EXCEEDED, (q, "t", 0, out, 1025, &n));
    REFUSES(keepq_dlq_browse, KEEPQ_E_LIMIT_EXCEEDED, (g, 0, out, 1025, &n));
    REFUSES(keepq_nack, KEEPQ_E_LIMIT_EXCEEDED, (m, days31));
    REFUSES(keepq_extend, KEEPQ_E_LIMIT_EXCEEDED, (m, days31));
    REFUSES(keepq_reject, KEEPQ_E_LIMIT_EXCEEDED, (m, reason));
    REFUSES(keepq_nack_receipt, KEEPQ_E_LIMIT_EXCEEDED, (q, receipt, days31));
    REFUSES(keepq_extend_receipt, KEEPQ_E_LIMIT_EXCEEDED, (q, receipt, days31));
    REFUSES(keepq_reject_receipt, KEEPQ_E_LIMIT_EXCEEDED, (q, receipt, reason));
    REFUSES(keepq_topics, KEEPQ_E_LIMIT_EXCEEDED, (q, &topics, SIZE_MAX / 2, &n));
    REFUSES(keepq_groups, KEEPQ_E_LIMIT_EXCEEDED, (q, &groups, SIZE_MAX / 2, &n));
    REFUSES(keepq_verify, KEEPQ_E_LIMIT_EXCEEDED, (q, NULL, &finding, SIZE_MAX / 2));
    REFUSES(keepq_verify_path, KEEPQ_E_LIMIT_EXCEEDED,
            (place("store"), NULL, &finding, SIZE_MAX / 2));
    REFUSES(keepq_repair, KEEPQ_E_LIMIT_EXCEEDED,
            (place("store"), NULL, NULL, &note, SIZE_MAX / 2));
}

static void what_this_version_lacks_is_refused_by_name(void **state) {
    keepq_send_opts opts = KEEPQ_SEND_OPTS_INIT;
    keepq_sent sent = KEEPQ_SENT_INIT;
    keepq_msg_in in = KEEPQ_MSG_IN_INIT;

    (void)state;
    opts.delay_ms = 1;
    in.topic = "t";
    in.opts = &opts;
    REFUSES(keepq_send, KEEPQ_E_NOT_SUPPORTED, (q, "t", "x", 1, &opts, &sent));
    SAYS("delay_ms");
    assert_true(sent.rc == KEEPQ_E_NOT_SUPPORTED && sent.outcome == KEEPQ_OUTCOME_NOT_STORED);
    assert_true(sent.status == KEEPQ_SEND_FAILED && sent.id[0] == 0 && sent.seq == KEEPQ_NO_SEQ);
    REFUSES(keepq_send_async, KEEPQ_E_NOT_SUPPORTED, (q, "t", "x", 1, &opts, NULL, NULL, NULL));
    REFUSES(keepq_send_oneway, KEEPQ_E_NOT_SUPPORTED, (q, "t", "x", 1, &opts));
    REFUSES(keepq_send_batch, KEEPQ_E_NOT_SUPPORTED, (q, &in, 1, NULL));
}

static int open_all(void **state) {
    (void)state;
    q = open_at("store", NULL);
    send_text(q, "t", "x");
    g = group_of(q, "t", "g");
    m = receive_one(g);
    return 0;
}

/* After all that, everything still works. */
static int close_all(void **state) {
    (void)state;
    OK(keepq_ack(m));
    OK(keepq_msg_free(m));
    OK(keepq_group_close(g));
    OK(keepq_close(q));
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(null_arguments_are_refused),
        cmocka_unit_test(wrong_values_of_arguments_are_refused),
        cmocka_unit_test(wrong_names_are_refused),
        cmocka_unit_test(wrong_options_of_a_store_are_refused),
        cmocka_unit_test(other_wrong_options_are_refused),
        cmocka_unit_test(wrong_options_of_a_group_are_refused),
        cmocka_unit_test(wrong_options_of_a_send_are_refused),
        cmocka_unit_test(what_is_over_its_limit_is_refused),
        cmocka_unit_test(what_this_version_lacks_is_refused_by_name),
    };
    return cmocka_run_group_tests_name("misuse", tests, open_all, close_all);
}
