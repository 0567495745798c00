/* Browsing, dead letters, counters and options: what they show is what was done. */
#include "check.h"

static void reject_one(keepq_group *g, const char *reason) {
    keepq_msg *m = receive_one(g);
    OK(keepq_reject(m, reason));
    OK(keepq_msg_free(m));
}

static void browsing_shows_all_and_claims_nothing(void **state) {
    keepq *q = open_quick("browse");
    keepq_send_opts opts = KEEPQ_SEND_OPTS_INIT;
    keepq_header header = {"source", "web", 3}, read;
    keepq_msg *found[3], *m;
    keepq_group *g;
    size_t n = 0, i;

    (void)state;
    opts.key = "k";
    opts.tag = "t";
    opts.order_key = "o";
    opts.headers = &header;
    opts.n_headers = 1;
    opts.producer = "p";
    OK(keepq_send(q, "t", "one", 3, &opts, NULL));
    send_text(q, "t", "two");
    send_text(q, "t", "three");
    send_text(q, "t", "four");
    OK(keepq_browse(q, "t", 0, found, 3, &n));
    assert_int_equal(n, 3);
    m = found[0];
    assert_true(body_is(m, "one") && keepq_msg_seq(m) == 0 && keepq_msg_attempt(m) == 0);
    assert_true(strcmp(keepq_msg_key(m), "k") == 0 && strcmp(keepq_msg_tag(m), "t") == 0);
    assert_string_equal(keepq_msg_topic(m), "t");
    assert_string_equal(keepq_msg_order_key(m), "o");
    assert_true(strlen(keepq_msg_id(m)) == 16 && keepq_msg_sent_at_ms(m) > 1577836800000);
    assert_string_equal(keepq_msg_producer(m), "p");
    assert_int_equal(keepq_msg_producer_seq(m), 0);
    assert_int_equal(keepq_msg_header(m, "source").len, 3);
    OK(keepq_msg_header_at(m, 0, &read));
    assert_true(strcmp(read.name, "source") == 0 && read.len == 3);
    assert_memory_equal(read.value, "web", 3);
    GIVES(KEEPQ_EMPTY, keepq_msg_header_at(m, 1, &read));
    GIVES(KEEPQ_EMPTY, keepq_msg_header_at(found[1], 0, &read));
    assert_true(keepq_msg_producer(found[1]) == NULL && keepq_msg_key(found[1]) == NULL);
    assert_null(keepq_msg_order_key(found[1]));
    for (i = 0; i < n; i++) {
        OK(keepq_msg_free(found[i]));
    }
    OK(keepq_browse(q, "t", 3, found, 3, &n));
    assert_true(n == 1 && body_is(found[0], "four"));
    OK(keepq_msg_free(found[0]));
    GIVES(KEEPQ_EMPTY, keepq_browse(q, "t", 4, found, 3, &n));
    g = group_of(q, "t", "g");
    m = receive_one(g);
    assert_true(body_is(m, "one") && keepq_msg_attempt(m) == 1);
    assert_string_equal(keepq_msg_order_key(m), "o");
    OK(keepq_msg_free(m));
    OK(keepq_group_close(g));
    OK(keepq_close(q));
}

static void dead_letters_are_shown_and_removed(void **state) {
    keepq *q = open_quick("dead");
    keepq_group_opts opts = KEEPQ_GROUP_OPTS_INIT;
    keepq_dead_info info = KEEPQ_DEAD_INFO_INIT;
    keepq_group *g = NULL;
    keepq_msg *found[5], *m;
    uint64_t removed = 99;
    size_t n = 0, i;

    (void)state;
    opts.max_attempts = 1;
    OK(keepq_group_open(q, "t", "g", &opts, &g));
    GIVES(KEEPQ_EMPTY, keepq_dlq_browse(g, 0, found, 5, &n));
    send_text(q, "t", "rejected");
    send_text(q, "t", "used up");
    send_text(q, "t", "third");
    reject_one(g, "no such customer");
    m = receive_one(g);
    OK(keepq_nack(m, 0));
    OK(keepq_msg_free(m));
    reject_one(g, "");
    OK(keepq_dlq_browse(g, 0, found, 5, &n));
    assert_int_equal(n, 3);
    OK(keepq_msg_dead_info(found[0], &info));
    assert_true(info.rejected == 1 && info.attempts == 1 && info.topic_seq == 0);
    assert_true(strcmp(info.topic, "t") == 0 && strcmp(info.reason, "no such customer") == 0);
    assert_true(info.dead_at_ms > 1577836800000);
    assert_true(body_is(found[0], "rejected") && keepq_msg_attempt(found[0]) == 1);
    assert_true(keepq_msg_seq(found[0]) == 0 && strcmp(keepq_msg_topic(found[0]), "t") == 0);
    OK(keepq_msg_check(found[0]));
    OK(keepq_msg_dead_info(found[1], &info));
    assert_true(info.rejected == 0 && info.topic_seq == 1 && info.reason[0] != 0);
    OK(keepq_dlq_purge_one(g, keepq_msg_seq(found[1])));
    GIVES(KEEPQ_E_NOT_FOUND, keepq_dlq_purge_one(g, keepq_msg_seq(found[1])));
    /* What was read of it stays. */
    assert_true(body_is(found[1], "used up"));
    for (i = 0; i < n; i++) {
        OK(keepq_msg_free(found[i]));
    }
    OK(keepq_dlq_browse(g, 1, found, 5, &n));
    assert_true(n == 1 && body_is(found[0], "third"));
    OK(keepq_msg_free(found[0]));
    OK(keepq_dlq_purge(g, &removed));
    assert_int_equal(removed, 2);
    OK(keepq_dlq_purge(g, NULL));
    GIVES(KEEPQ_EMPTY, keepq_dlq_browse(g, 0, found, 5, &n));
    OK(keepq_group_close(g));
    OK(keepq_close(q));
}

static void counters_count(void **state) {
    keepq *q = open_quick("counters");
    keepq_store_stats stats = KEEPQ_STORE_STATS_INIT;
    keepq_group_stats one = KEEPQ_GROUP_STATS_INIT;
    keepq_topic_stats topics[4] = {KEEPQ_TOPIC_STATS_INIT};
    keepq_group_stats groups[1] = {KEEPQ_GROUP_STATS_INIT};
    keepq_group *a = group_of(q, "t", "a"), *b = group_of(q, "t", "b");
    keepq_msg *m;
    size_t n = 0;

    (void)state;
    send_text(q, "t", "1");
    send_text(q, "t", "2");
    send_text(q, "t", "3");
    send_text(q, "u", "1");
    reject_one(a, "why");
    m = receive_one(a);
    OK(keepq_flush(q, -1));
    OK(keepq_stats(q, &stats));
    assert_true(stats.tail > 0 && stats.durable == stats.tail && stats.disk_bytes > 0);
    assert_true(stats.segments == 1 && stats.members == 1 && stats.flushes > 0);
    assert_true(stats.outstanding >= 1 && stats.topics >= 2 && stats.groups == 2);
    OK(keepq_topics(q, topics, 4, &n));
    assert_true(n == stats.topics);
    assert_string_equal(topics[0].name, "%DLQ%t%a");
    assert_true(topics[0].next_seq == 1);
    assert_true(strcmp(topics[n - 2].name, "t") == 0 && topics[n - 2].next_seq == 3);
    assert_true(topics[n - 2].groups == 2 && topics[n - 2].first_seq == 0);
    assert_true(strcmp(topics[n - 1].name, "u") == 0 && topics[n - 1].groups == 0);
    OK(keepq_groups(q, groups, 1, &n));
    assert_int_equal(n, 2);
    assert_true(strcmp(groups[0].topic, "t") == 0 && strcmp(groups[0].name, "a") == 0);
    OK(keepq_group_counters(a, &one));
    assert_true(one.oldest_age_ms >= groups[0].oldest_age_ms && groups[0].oldest_age_ms >= 0);
    assert_true(one.oldest_age_ms < 600000);
    groups[0].oldest_age_ms = one.oldest_age_ms;
    assert_memory_equal(&one, &groups[0], sizeof one);
    assert_true(one.ready == 1 && one.in_flight == 1 && one.dead == 1 && one.cursor == 2);
    assert_true(one.consumers == 1 && one.parked == 0);
    OK(keepq_group_counters(b, &one));
    assert_true(one.ready == 3 && one.in_flight == 0 && one.lag == 3 && one.delayed == 0);
    assert_true(one.oldest_age_ms >= 0);
    OK(keepq_nack(m, 60000));
    OK(keepq_msg_free(m));
    OK(keepq_group_counters(a, &one));
    assert_true(one.delayed == 1 && one.in_flight == 0);
    OK(keepq_group_close(a));
    OK(keepq_groups(q, groups, 1, &n));
    assert_true(groups[0].consumers == 0 && groups[0].oldest_age_ms >= 0);
    a = group_of(q, "v", "a");
    OK(keepq_group_counters(a, &one));
    assert_true(one.oldest_age_ms == -1 && one.consumers == 1);
    OK(keepq_group_close(a));
    OK(keepq_group_close(b));
    OK(keepq_close(q));
}

static void options_of_a_group_are_kept_and_changed(void **state) {
    keepq *q = open_quick("options");
    keepq_group_opts opts = KEEPQ_GROUP_OPTS_INIT, now = KEEPQ_GROUP_OPTS_INIT;
    keepq_group_opts change = KEEPQ_GROUP_OPTS_INIT;
    keepq_group *g = NULL;

    (void)state;
    opts.lease_ms = 5000;
    opts.max_attempts = 3;
    opts.ack_flush = KEEPQ_FLUSH_SYNC;
    opts.backoff_first_ms = -1;
    opts.backoff_jitter = -1;
    OK(keepq_group_open(q, "t", "g", &opts, &g));
    OK(keepq_group_config(g, &now));
    assert_true(now.size == sizeof now && now.lease_ms == 5000 && now.max_attempts == 3);
    assert_true(now.ack_flush == KEEPQ_FLUSH_SYNC && now.backoff_first_ms == -1);
    assert_true(now.backoff_max_ms == 600000 && now.backoff_factor == 2.0);
    assert_true(now.backoff_jitter == -1.0);
    change.lease_ms = 7000;
    change.backoff_first_ms = 10;
    OK(keepq_group_configure(g, &change));
    OK(keepq_group_config(g, &now));
    assert_true(now.lease_ms == 7000 && now.max_attempts == 3 && now.backoff_first_ms == 10);
    assert_true(now.backoff_jitter > 0.09 && now.backoff_jitter < 0.11);
    /* What was read opens the group again. */
    OK(keepq_group_close(g));
    OK(keepq_group_open(q, "t", "g", &now, &g));
    OK(keepq_group_close(g));
    OK(keepq_close(q));
}

static void rocketmqs_waits_are_an_option_of_a_group(void **state) {
    keepq *q = open_quick("rocketmq");
    keepq_group_opts opts = KEEPQ_GROUP_OPTS_INIT, now = KEEPQ_GROUP_OPTS_INIT;
    keepq_group_opts change = KEEPQ_GROUP_OPTS_INIT;
    keepq_group_stats stats = KEEPQ_GROUP_STATS_INIT;
    keepq_group *g = NULL, *none = NULL;
    keepq_msg *m;

    (void)state;
    opts.backoff = KEEPQ_BACKOFF_ROCKETMQ;
    OK(keepq_group_open(q, "t", "g", &opts, &g));
    OK(keepq_group_config(g, &now));
    assert_true(now.backoff == KEEPQ_BACKOFF_ROCKETMQ && now.backoff_first_ms == 0);
    assert_true(now.backoff_max_ms == 0 && now.backoff_factor == 0 && now.backoff_jitter == 0);
    /* What was read opens the group again; other waits do not. */
    OK(keepq_group_close(g));
    OK(keepq_group_open(q, "t", "g", &now, &g));
    change.backoff_first_ms = 10;
    GIVES(KEEPQ_E_CONFIG_MISMATCH, keepq_group_open(q, "t", "g", &change, &none));
    SAYS("rocketmq");
    OK(keepq_group_configure(g, &change));
    OK(keepq_group_config(g, &now));
    assert_true(now.backoff == 0 && now.backoff_first_ms == 10 && now.backoff_max_ms == 600000);
    OK(keepq_group_configure(g, &opts));
    OK(keepq_group_config(g, &now));
    assert_true(now.backoff == KEEPQ_BACKOFF_ROCKETMQ);
    send_text(q, "t", "1");
    m = receive_one(g);
    OK(keepq_nack(m, -1));
    OK(keepq_msg_free(m));
    OK(keepq_group_counters(g, &stats));
    assert_true(stats.delayed == 1);
    /* The first wait is ten seconds. */
    m = NULL;
    GIVES(KEEPQ_EMPTY, keepq_receive(g, 2000, &m));
    OK(keepq_group_close(g));
    OK(keepq_close(q));
}

static void a_new_group_begins_where_it_is_told_to(void **state) {
    static const struct {
        int32_t start;
        uint64_t seq;
        const char *first;
    } starts[] = {{KEEPQ_START_EARLIEST, 0, "1"},
                  {KEEPQ_START_SEQUENCE, 1, "2"},
                  {KEEPQ_START_TIME, 0, "1"},
                  {KEEPQ_START_LATEST, 0, "3"}};
    keepq *q = open_quick("starts");
    char name[8];
    size_t i;

    (void)state;
    send_text(q, "t", "1");
    send_text(q, "t", "2");
    for (i = 0; i < 4; i++) {
        keepq_group_opts opts = KEEPQ_GROUP_OPTS_INIT;
        keepq_group *g = NULL;
        keepq_msg *m;
        snprintf(name, sizeof name, "g%d", (int)i);
        opts.start = starts[i].start;
        opts.start_seq = starts[i].seq;
        opts.start_ms = 1577836800000; /* 2020 */
        OK(keepq_group_open(q, "t", name, &opts, &g));
        if (starts[i].start == KEEPQ_START_LATEST) {
            GIVES(KEEPQ_EMPTY, keepq_receive(g, 0, &m));
            send_text(q, "t", "3");
        }
        m = receive_one(g);
        assert_true(body_is(m, starts[i].first));
        OK(keepq_msg_free(m));
        OK(keepq_group_close(g));
    }
    OK(keepq_close(q));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(browsing_shows_all_and_claims_nothing),
        cmocka_unit_test(dead_letters_are_shown_and_removed),
        cmocka_unit_test(counters_count),
        cmocka_unit_test(options_of_a_group_are_kept_and_changed),
        cmocka_unit_test(rocketmqs_waits_are_an_option_of_a_group),
        cmocka_unit_test(a_new_group_begins_where_it_is_told_to),
    };
    return cmocka_run_group_tests_name("look", tests, NULL, NULL);
}
