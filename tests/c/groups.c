/* What a group can ask for: tags, order, a copy for each consumer, a cap; and how topics and groups
 * end. */
#include "check.h"

static void send_with(keepq *q, const char *text, const char *tag, const char *order_key) {
    keepq_send_opts opts = KEEPQ_SEND_OPTS_INIT;

    opts.tag = tag;
    opts.order_key = order_key;
    OK(keepq_send(q, "t", text, strlen(text), &opts, NULL));
}

static keepq_group *group_with(keepq *q, const char *name, const keepq_group_opts *opts) {
    keepq_group *g = NULL;

    OK(keepq_group_open(q, "t", name, opts, &g));
    return g;
}

/* Receives a message that must be this one. */
static keepq_msg *receive_text(keepq_group *g, const char *text) {
    keepq_msg *m = receive_one(g);

    assert_true(body_is(m, text));
    return m;
}

static void ack_text(keepq_group *g, const char *text) {
    keepq_msg *m = receive_text(g, text);

    OK(keepq_ack(m));
    OK(keepq_msg_free(m));
}

static void nothing_comes(keepq_group *g) {
    keepq_msg *m = NULL;

    GIVES(KEEPQ_EMPTY, keepq_receive(g, 0, &m));
}

static void a_group_gets_the_tags_it_wants(void **state) {
    static const char *const two[] = {"red", "blue"}, *const one[] = {"green"};
    keepq *q = open_quick("tags");
    keepq_group_opts opts = KEEPQ_GROUP_OPTS_INIT, now = KEEPQ_GROUP_OPTS_INIT;
    keepq_group_opts later = KEEPQ_GROUP_OPTS_INIT, change = KEEPQ_GROUP_OPTS_INIT;
    keepq_group *g, *none = NULL;

    (void)state;
    opts.tags = two;
    opts.n_tags = 2;
    g = group_with(q, "g", &opts);
    send_with(q, "1", "red", NULL);
    send_with(q, "2", "green", NULL);
    send_with(q, "3", NULL, NULL);
    send_with(q, "4", "blue", NULL);
    ack_text(g, "1");
    ack_text(g, "4");
    nothing_comes(g);
    OK(keepq_group_config(g, &now));
    assert_int_equal(now.n_tags, 2);
    assert_string_equal(now.tags[0], "blue");
    assert_string_equal(now.tags[1], "red");
    change.tags = one;
    change.n_tags = 1;
    OK(keepq_group_configure(g, &change));
    OK(keepq_group_config(g, &later));
    assert_int_equal(later.n_tags, 1);
    assert_string_equal(later.tags[0], "green");
    /* What was told before is still there. */
    assert_string_equal(now.tags[0], "blue");
    send_with(q, "5", "red", NULL);
    send_with(q, "6", "green", NULL);
    ack_text(g, "6");
    /* No tags, said outright: every message. */
    change.n_tags = 0;
    OK(keepq_group_configure(g, &change));
    OK(keepq_group_config(g, &later));
    assert_true(later.n_tags == 0 && later.tags == NULL);
    send_with(q, "7", NULL, NULL);
    ack_text(g, "7");
    GIVES(KEEPQ_E_CONFIG_MISMATCH, keepq_group_open(q, "t", "g", &opts, &none));
    assert_null(none);
    OK(keepq_group_close(g));
    OK(keepq_close(q));
}

static void messages_of_a_key_come_one_after_the_other(void **state) {
    keepq *q = open_quick("ordered");
    keepq_group_opts opts = KEEPQ_GROUP_OPTS_INIT, now = KEEPQ_GROUP_OPTS_INIT;
    keepq_group *g, *plain = group_of(q, "t", "plain");
    keepq_msg *first, *other;

    (void)state;
    opts.ordered = 1;
    g = group_with(q, "g", &opts);
    OK(keepq_group_config(g, &now));
    assert_int_equal(now.ordered, 1);
    send_with(q, "a1", NULL, "a");
    send_with(q, "a2", NULL, "a");
    send_with(q, "b1", NULL, "b");
    first = receive_text(g, "a1");
    other = receive_text(g, "b1");
    nothing_comes(g);
    OK(keepq_nack(first, 0));
    OK(keepq_msg_free(first));
    ack_text(g, "a1");
    ack_text(g, "a2");
    OK(keepq_ack(other));
    OK(keepq_msg_free(other));
    nothing_comes(g);
    /* What was read may be passed on; it is not to be changed. */
    now.lease_ms = 7000;
    OK(keepq_group_configure(g, &now));
    GIVES(KEEPQ_E_INVALID_ARGUMENT, keepq_group_configure(plain, &opts));
    SAYS("ordered");
    OK(keepq_group_close(plain));
    GIVES(KEEPQ_E_CONFIG_MISMATCH, keepq_group_open(q, "t", "plain", &opts, &plain));
    OK(keepq_group_close(g));
    OK(keepq_close(q));
}

static void each_consumer_of_a_broadcast_gets_every_message(void **state) {
    keepq *q = open_quick("broadcast");
    keepq_group_opts opts = KEEPQ_GROUP_OPTS_INIT;
    keepq_group_stats stats = KEEPQ_GROUP_STATS_INIT;
    keepq_group *a, *b;

    (void)state;
    opts.broadcast = 1;
    opts.consumer = "a";
    a = group_with(q, "g", &opts);
    opts.consumer = "b";
    b = group_with(q, "g", &opts);
    send_text(q, "t", "1");
    send_text(q, "t", "2");
    ack_text(a, "1");
    ack_text(b, "1");
    ack_text(b, "2");
    OK(keepq_group_counters(b, &stats));
    assert_string_equal(stats.name, "g%b");
    GIVES(KEEPQ_E_INVALID_ARGUMENT, keepq_group_configure(b, &opts));
    SAYS("broadcast");
    /* It goes on where it was. */
    OK(keepq_group_close(a));
    opts.consumer = "a";
    a = group_with(q, "g", &opts);
    ack_text(a, "2");
    nothing_comes(a);
    nothing_comes(b);
    OK(keepq_group_close(a));
    OK(keepq_group_close(b));
    OK(keepq_close(q));
}

/* How many consumers without a name there are. */
static size_t unnamed(keepq *q) {
    keepq_group_stats all[8] = {KEEPQ_GROUP_STATS_INIT};
    size_t i, n, count = 0;

    OK(keepq_groups(q, all, 8, &n));
    assert_true(n <= 8);
    for (i = 0; i < n; i++) {
        count += strncmp(all[i].name, "g%%", 3) == 0;
    }
    return count;
}

static void a_consumer_without_a_name_ends_with_its_handle(void **state) {
    keepq *q = open_quick("unnamed"), *other;
    keepq_group_opts opts = KEEPQ_GROUP_OPTS_INIT;
    keepq_group *a, *b, *g = group_of(q, "t", "g"), *none = NULL;
    keepq_msg *m;

    (void)state;
    opts.broadcast = 1;
    send_text(q, "t", "1");
    a = group_with(q, "g", &opts);
    b = group_with(q, "g", &opts);
    assert_int_equal(unnamed(q), 2);
    send_text(q, "t", "2");
    ack_text(a, "1");
    ack_text(b, "1");
    ack_text(b, "2");
    ack_text(g, "1");
    m = receive_text(a, "2");
    OK(keepq_group_close(b));
    assert_int_equal(unnamed(q), 1);
    /* What was received by it holds it. */
    OK(keepq_group_close(a));
    assert_int_equal(unnamed(q), 1);
    OK(keepq_ack(m));
    OK(keepq_msg_free(m));
    assert_int_equal(unnamed(q), 0);
    opts.create = 0;
    GIVES(KEEPQ_E_NOT_FOUND, keepq_group_open(q, "t", "g", &opts, &none));
    opts.create = 1;
    /* And with its store. */
    other = open_at("unnamed", NULL);
    a = group_with(other, "g", &opts);
    assert_int_equal(unnamed(q), 1);
    OK(keepq_close(other));
    assert_int_equal(unnamed(q), 0);
    GIVES(KEEPQ_E_CLOSED, keepq_receive(a, 0, &m));
    OK(keepq_group_close(a));
    OK(keepq_group_close(g));
    OK(keepq_close(q));
}

static void no_more_are_in_flight_than_the_group_allows(void **state) {
    keepq *q = open_quick("cap");
    keepq_group_opts opts = KEEPQ_GROUP_OPTS_INIT, now = KEEPQ_GROUP_OPTS_INIT;
    keepq_msg *m, *other;
    keepq_group *g;

    (void)state;
    opts.max_outstanding = 1;
    g = group_with(q, "g", &opts);
    send_text(q, "t", "1");
    send_text(q, "t", "2");
    send_text(q, "t", "3");
    m = receive_text(g, "1");
    nothing_comes(g);
    opts.max_outstanding = 2;
    OK(keepq_group_configure(g, &opts));
    OK(keepq_group_config(g, &now));
    assert_true(now.max_outstanding == 2);
    other = receive_text(g, "2");
    nothing_comes(g);
    OK(keepq_ack(m));
    OK(keepq_msg_free(m));
    ack_text(g, "3");
    OK(keepq_msg_free(other));
    OK(keepq_group_close(g));
    OK(keepq_close(q));
}

static void a_purge_takes_what_is_there_and_nothing_later(void **state) {
    keepq *q = open_quick("purge");
    keepq_group *g = group_of(q, "t", "g");
    uint64_t purged = 99;
    keepq_msg *m;

    (void)state;
    send_text(q, "t", "1");
    send_text(q, "t", "2");
    send_text(q, "t", "3");
    m = receive_text(g, "1");
    OK(keepq_reject(m, "kept as a dead letter"));
    OK(keepq_msg_free(m));
    m = receive_text(g, "2");
    OK(keepq_topic_purge(q, "t", &purged));
    assert_int_equal(purged, 2);
    GIVES(KEEPQ_E_LEASE_LOST, keepq_ack(m));
    OK(keepq_msg_free(m));
    nothing_comes(g);
    OK(keepq_topic_purge(q, "t", NULL));
    GIVES(KEEPQ_E_INVALID_ARGUMENT, keepq_topic_purge(q, "%DLQ%t%g", &purged));
    SAYS("dead letters");
    GIVES(KEEPQ_E_INVALID_ARGUMENT, keepq_topic_delete(q, "%DLQ%t%g"));
    send_text(q, "t", "4");
    ack_text(g, "4");
    OK(keepq_dlq_purge(g, &purged));
    assert_int_equal(purged, 1);
    OK(keepq_group_close(g));
    OK(keepq_close(q));
}

/* As its handles see it, whoever deleted it. */
static void is_gone(keepq_group *g) {
    keepq_group_opts opts = KEEPQ_GROUP_OPTS_INIT;
    keepq_group_stats stats = KEEPQ_GROUP_STATS_INIT;
    keepq_msg *m = NULL;
    size_t n;

    GIVES(KEEPQ_E_NOT_FOUND, keepq_receive(g, 0, &m));
    GIVES(KEEPQ_E_NOT_FOUND, keepq_receive_batch(g, -1, &m, 1, &n));
    GIVES(KEEPQ_E_NOT_FOUND, keepq_group_config(g, &opts));
    GIVES(KEEPQ_E_NOT_FOUND, keepq_group_configure(g, &opts));
    GIVES(KEEPQ_E_NOT_FOUND, keepq_group_counters(g, &stats));
    REFUSES(keepq_group_delete, KEEPQ_E_NOT_FOUND, (g));
}

static void a_deleted_group_is_gone_and_its_name_is_free(void **state) {
    keepq *q = open_quick("delete group"), *other = open_quick("delete group");
    keepq_group *g = group_of(q, "t", "g"), *theirs = group_of(other, "t", "g"), *again;
    keepq_msg *m;

    (void)state;
    send_text(q, "t", "1");
    m = receive_text(g, "1");
    OK(keepq_group_delete(theirs));
    GIVES(KEEPQ_E_NOT_FOUND, keepq_ack(m));
    assert_true(body_is(m, "1"));
    OK(keepq_msg_free(m));
    is_gone(g);
    is_gone(theirs);
    again = group_of(q, "t", "g");
    send_text(q, "t", "2");
    is_gone(g);
    m = receive_one(again);
    OK(keepq_msg_free(m));
    OK(keepq_group_close(g));
    OK(keepq_group_close(theirs));
    OK(keepq_group_close(again));
    OK(keepq_close(other));
    OK(keepq_close(q));
}

/* Each way of sending makes the topic anew, also through a handle that used the old one. */
static void a_deleted_topic_is_made_anew_by_the_next_send(void **state) {
    keepq *q = open_quick("delete topic"), *other = open_quick("delete topic");
    keepq_sent sent = KEEPQ_SENT_INIT;
    keepq_msg_in in = KEEPQ_MSG_IN_INIT;
    keepq_store_stats stats = KEEPQ_STORE_STATS_INIT;
    keepq_msg *found[2];
    keepq_group *g;
    size_t n, way;

    (void)state;
    in.topic = "t";
    for (way = 0; way < 4; way++) {
        g = group_of(q, "t", "g");
        send_text(q, "t", "1");
        send_text(q, "t", "2");
        OK(keepq_topic_delete(other, "t"));
        is_gone(g);
        OK(keepq_group_close(g));
        GIVES(KEEPQ_E_NOT_FOUND, keepq_browse(q, "t", 0, found, 2, &n));
        switch (way) {
        case 0: OK(keepq_send(q, "t", "x", 1, NULL, &sent)); break;
        case 1: OK(keepq_send_async(q, "t", "x", 1, NULL, NULL, NULL, NULL)); break;
        case 2: OK(keepq_send_oneway(q, "t", "x", 1, NULL)); break;
        default: OK(keepq_send_batch(q, &in, 1, NULL)); break;
        }
        OK(keepq_browse(q, "t", 0, found, 2, &n));
        assert_true(n == 1 && keepq_msg_seq(found[0]) == 0);
        OK(keepq_msg_free(found[0]));
        OK(keepq_topic_delete(q, "t"));
    }
    OK(keepq_stats(q, &stats));
    assert_true(stats.oneway_failed == 0 && stats.topics == 0 && stats.groups == 0);
    OK(keepq_close(other));
    OK(keepq_close(q));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_group_gets_the_tags_it_wants),
        cmocka_unit_test(messages_of_a_key_come_one_after_the_other),
        cmocka_unit_test(each_consumer_of_a_broadcast_gets_every_message),
        cmocka_unit_test(a_consumer_without_a_name_ends_with_its_handle),
        cmocka_unit_test(no_more_are_in_flight_than_the_group_allows),
        cmocka_unit_test(a_purge_takes_what_is_there_and_nothing_later),
        cmocka_unit_test(a_deleted_group_is_gone_and_its_name_is_free),
        cmocka_unit_test(a_deleted_topic_is_made_anew_by_the_next_send),
    };
    return cmocka_run_group_tests_name("groups", tests, NULL, NULL);
}
