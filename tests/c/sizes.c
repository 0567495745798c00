/* Structs of programs that are older or newer than the library, and of those that forgot the size:
 * in every function that takes one. */
#include "check.h"

static keepq *q;
static keepq_group *g;
static keepq_msg *dead;

/* Room for any struct and a field behind it. */
typedef union {
    size_t size;
    char bytes[4104];
} any_struct;

static const size_t wrong_sizes[] = {0, 1, sizeof(size_t) - 1, sizeof(size_t) + 1, 4104, SIZE_MAX};

/* Calls with the struct, whose size was set to something wrong, and gives the code. */
typedef keepq_rc call_with(void *structure);

static keepq_rc with_open_opts(void *s) {
    keepq *out = NULL;
    return keepq_open(place("never"), s, &out);
}
static keepq_rc with_send_opts(void *s) {
    return keepq_send(q, "t", "x", 1, s, NULL);
}
static keepq_rc with_send_opts_async(void *s) {
    return keepq_send_async(q, "t", "x", 1, s, NULL, NULL, NULL);
}
static keepq_rc with_send_opts_oneway(void *s) {
    return keepq_send_oneway(q, "t", "x", 1, s);
}
static keepq_rc with_sent(void *s) {
    return keepq_send(q, "t", "x", 1, NULL, s);
}
static keepq_rc with_msg_in(void *s) {
    return keepq_send_batch(q, s, 1, NULL);
}
static keepq_rc with_batch_out(void *s) {
    keepq_msg_in in = KEEPQ_MSG_IN_INIT;
    in.topic = "t";
    return keepq_send_batch(q, &in, 1, s);
}
static keepq_rc with_group_opts(void *s) {
    keepq_group *out = NULL;
    return keepq_group_open(q, "t", "g2", s, &out);
}
static keepq_rc with_configure(void *s) {
    return keepq_group_configure(g, s);
}
static keepq_rc with_config(void *s) {
    return keepq_group_config(g, s);
}
static keepq_rc with_stats(void *s) {
    return keepq_stats(q, s);
}
static keepq_rc with_topics(void *s) {
    size_t n;
    return keepq_topics(q, s, 1, &n);
}
static keepq_rc with_groups(void *s) {
    size_t n;
    return keepq_groups(q, s, 1, &n);
}
static keepq_rc with_group_counters(void *s) {
    return keepq_group_counters(g, s);
}
static keepq_rc with_report(void *s) {
    return keepq_verify(q, s, NULL, 0);
}
static keepq_rc with_findings(void *s) {
    return keepq_verify(q, NULL, s, 1);
}
static keepq_rc with_topic_create(void *s) {
    return keepq_topic_create(q, "t2", s);
}
static keepq_rc with_topic_configure(void *s) {
    return keepq_topic_configure(q, "t", s);
}
static keepq_rc with_topic_config(void *s) {
    return keepq_topic_config(q, "t", s);
}
static keepq_rc with_store_configure(void *s) {
    return keepq_configure(q, s);
}
static keepq_rc with_store_config(void *s) {
    return keepq_config(q, s);
}
static keepq_rc with_path_report(void *s) {
    return keepq_verify_path(place("store"), s, NULL, 0);
}
static keepq_rc with_path_findings(void *s) {
    return keepq_verify_path(place("store"), NULL, s, 1);
}
static keepq_rc with_repair_opts(void *s) {
    return keepq_repair(place("store"), s, NULL, NULL, 0);
}
static keepq_rc with_repair_report(void *s) {
    return keepq_repair(place("store"), NULL, s, NULL, 0);
}
static keepq_rc with_repair_notes(void *s) {
    return keepq_repair(place("store"), NULL, NULL, s, 1);
}
static keepq_rc with_dead_info(void *s) {
    return keepq_msg_dead_info(dead, s);
}
static keepq_rc with_error_info(void *s) {
    return keepq_last_error(s);
}

static void a_size_that_was_not_set_is_refused(void **state) {
    static call_with *const calls[] = {
        with_open_opts,      with_send_opts, with_send_opts_async, with_send_opts_oneway,
        with_sent,           with_msg_in,    with_batch_out,       with_group_opts,
        with_configure,      with_config,    with_stats,           with_topics,
        with_groups,         with_report,    with_findings,        with_error_info,
        with_group_counters, with_topic_create,    with_topic_configure, with_topic_config,
        with_store_configure, with_store_config,   with_path_report,     with_path_findings,
        with_repair_opts,    with_repair_report,   with_repair_notes,    with_dead_info,
    };
    keepq_store_stats before = KEEPQ_STORE_STATS_INIT, after = KEEPQ_STORE_STATS_INIT;
    size_t i, k;

    (void)state;
    OK(keepq_stats(q, &before));
    for (i = 0; i < sizeof calls / sizeof *calls; i++) {
        for (k = 0; k < sizeof wrong_sizes / sizeof *wrong_sizes; k++) {
            any_struct any;
            memset(&any, 0, sizeof any);
            any.size = wrong_sizes[k];
            GIVES(KEEPQ_E_INVALID_ARGUMENT, calls[i](&any));
            if (calls[i] != with_error_info) {
                SAYS("_INIT or set size to sizeof(");
            }
        }
    }
    /* Nothing was done before the size was looked at. */
    OK(keepq_stats(q, &after));
    assert_true(before.tail == after.tail);
}

static void a_field_of_a_newer_header_is_refused_unless_it_is_zero(void **state) {
    struct {
        keepq_open_opts known;
        int64_t unknown;
    } open = {KEEPQ_OPEN_OPTS_INIT, 0};
    struct {
        keepq_send_opts known;
        int64_t unknown;
    } send = {KEEPQ_SEND_OPTS_INIT, 0};
    struct {
        keepq_group_opts known;
        int64_t unknown;
    } group = {KEEPQ_GROUP_OPTS_INIT, 0};
    struct {
        keepq_topic_opts known;
        int64_t unknown;
    } topic = {KEEPQ_TOPIC_OPTS_INIT, 0};
    struct {
        keepq_store_opts known;
        int64_t unknown;
    } store = {KEEPQ_STORE_OPTS_INIT, 0};
    struct {
        keepq_repair_opts known;
        int64_t unknown;
    } repair = {KEEPQ_REPAIR_OPTS_INIT, 0};
    struct {
        keepq_msg_in known;
        int64_t unknown;
    } in[2] = {{KEEPQ_MSG_IN_INIT, 0}, {KEEPQ_MSG_IN_INIT, 0}};
    keepq_sent sent[2] = {KEEPQ_SENT_INIT, KEEPQ_SENT_INIT};
    keepq_group *out = NULL;
    keepq *other = NULL;

    (void)state;
    open.known.size = sizeof open;
    send.known.size = sizeof send;
    group.known.size = sizeof group;
    topic.known.size = sizeof topic;
    store.known.size = sizeof store;
    repair.known.size = sizeof repair;
    in[0].known.size = in[1].known.size = sizeof in[0];
    in[0].known.topic = in[1].known.topic = "t";
    OK(keepq_open(place("newer"), &open.known, &other));
    OK(keepq_close(other));
    OK(keepq_send(q, "t", "x", 1, &send.known, NULL));
    OK(keepq_send_batch(q, &in[0].known, 2, sent));
    assert_true(sent[1].rc == KEEPQ_OK && sent[1].seq == sent[0].seq + 1);
    OK(keepq_topic_create(q, "t", &topic.known));
    OK(keepq_configure(q, &store.known));
    OK(keepq_repair(place("newer"), &repair.known, NULL, NULL, 0));
    open.unknown = send.unknown = group.unknown = in[1].unknown = 1;
    topic.unknown = store.unknown = repair.unknown = 1;
    REFUSES(keepq_open, KEEPQ_E_INCOMPATIBLE, (place("newer"), &open.known, &other));
    SAYS("newer keepq.h");
    REFUSES(keepq_send, KEEPQ_E_INCOMPATIBLE, (q, "t", "x", 1, &send.known, NULL));
    REFUSES(keepq_send_async, KEEPQ_E_INCOMPATIBLE,
            (q, "t", "x", 1, &send.known, NULL, NULL, NULL));
    REFUSES(keepq_send_oneway, KEEPQ_E_INCOMPATIBLE, (q, "t", "x", 1, &send.known));
    REFUSES(keepq_send_batch, KEEPQ_E_INCOMPATIBLE, (q, &in[0].known, 2, sent));
    /* Only the one that asks for more than is known fails. */
    assert_true(sent[0].rc == KEEPQ_OK && sent[1].rc == KEEPQ_E_INCOMPATIBLE);
    REFUSES(keepq_group_open, KEEPQ_E_INCOMPATIBLE, (q, "t", "g2", &group.known, &out));
    REFUSES(keepq_group_configure, KEEPQ_E_INCOMPATIBLE, (g, &group.known));
    REFUSES(keepq_topic_create, KEEPQ_E_INCOMPATIBLE, (q, "t", &topic.known));
    REFUSES(keepq_topic_configure, KEEPQ_E_INCOMPATIBLE, (q, "t", &topic.known));
    REFUSES(keepq_configure, KEEPQ_E_INCOMPATIBLE, (q, &store.known));
    REFUSES(keepq_repair, KEEPQ_E_INCOMPATIBLE, (place("newer"), &repair.known, NULL, NULL, 0));
}

static void an_older_struct_is_read_and_written_as_far_as_it_goes(void **state) {
    keepq_send_opts opts = KEEPQ_SEND_OPTS_INIT;
    keepq_sent sent = KEEPQ_SENT_INIT;
    keepq_store_stats stats = KEEPQ_STORE_STATS_INIT;

    (void)state;
    opts.size = sizeof(size_t);
    opts.flush = 99;
    OK(keepq_send(q, "older", "x", 1, &opts, NULL));
    sent.size = 2 * sizeof(size_t);
    sent.durable = 77;
    OK(keepq_send(q, "older", "x", 1, NULL, &sent));
    assert_true(sent.seq == 1 && sent.durable == 77 && sent.size == 2 * sizeof(size_t));
    stats.size = sizeof(size_t) + sizeof(uint64_t);
    stats.durable = 77;
    OK(keepq_stats(q, &stats));
    assert_true(stats.tail > 0 && stats.durable == 77);
}

/* The first one's size is the distance between all. */
static void an_array_of_another_age_is_walked_by_its_own_size(void **state) {
    struct {
        keepq_sent known;
        char behind[16];
    } newer[2];
    struct {
        size_t size;
        uint64_t seq;
    } older[2] = {{sizeof older[0], 99}, {0, 99}};
    keepq_msg_in in[2] = {KEEPQ_MSG_IN_INIT, KEEPQ_MSG_IN_INIT};
    size_t i;

    (void)state;
    in[0].topic = in[1].topic = "ages";
    memset(newer, 7, sizeof newer);
    newer[0].known.size = sizeof newer[0];
    OK(keepq_send_batch(q, in, 2, &newer[0].known));
    for (i = 0; i < 2; i++) {
        assert_true(newer[i].known.seq == i && newer[i].known.size == sizeof newer[i]);
        assert_true(newer[i].behind[0] == 7);
    }
    OK(keepq_send_batch(q, in, 2, (keepq_sent *)(void *)older));
    assert_true(older[0].seq == 2 && older[1].seq == 3 && older[1].size == sizeof older[1]);
}

static int open_all(void **state) {
    keepq_msg *m;
    size_t n;

    (void)state;
    q = open_quick("store");
    send_text(q, "t", "x");
    send_text(q, "t", "x");
    g = group_of(q, "t", "g");
    m = receive_one(g);
    OK(keepq_reject(m, "why"));
    OK(keepq_msg_free(m));
    OK(keepq_dlq_browse(g, 0, &dead, 1, &n));
    return 0;
}

static int close_all(void **state) {
    (void)state;
    OK(keepq_msg_free(dead));
    OK(keepq_group_close(g));
    OK(keepq_close(q));
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_size_that_was_not_set_is_refused),
        cmocka_unit_test(a_field_of_a_newer_header_is_refused_unless_it_is_zero),
        cmocka_unit_test(an_older_struct_is_read_and_written_as_far_as_it_goes),
        cmocka_unit_test(an_array_of_another_age_is_walked_by_its_own_size),
    };
    return cmocka_run_group_tests_name("sizes", tests, open_all, close_all);
}
