/* What topics and the store may keep: giving limits, meeting them, changing them; and what is kept
 * for groups that are made later. */
#include "check.h"

#include <pthread.h>

/* Refuses at once what has no room: by default it tries again, for a while. */
static keepq *open_impatient(const char *name) {
    keepq_open_opts opts = KEEPQ_OPEN_OPTS_INIT;

    opts.flush = KEEPQ_FLUSH_ASYNC;
    opts.send_retries = -1;
    return open_at(name, &opts);
}

static void ack_one(keepq_group *g) {
    keepq_msg *m = receive_one(g);

    OK(keepq_ack(m));
    OK(keepq_msg_free(m));
}

static void a_topic_keeps_no_more_messages_than_it_may(void **state) {
    keepq *q = open_impatient("messages");
    keepq_topic_opts opts = KEEPQ_TOPIC_OPTS_INIT;
    keepq_store_stats stats = KEEPQ_STORE_STATS_INIT;
    keepq_sent sent[2] = {KEEPQ_SENT_INIT, KEEPQ_SENT_INIT};
    keepq_msg_in in[2] = {KEEPQ_MSG_IN_INIT, KEEPQ_MSG_IN_INIT};
    keepq_group *g;

    (void)state;
    opts.max_messages = 2;
    OK(keepq_topic_create(q, "t", &opts));
    g = group_of(q, "t", "g");
    send_text(q, "t", "1");
    send_text(q, "t", "2");
    REFUSES(keepq_send, KEEPQ_E_FULL, (q, "t", "3", 1, NULL, &sent[0]));
    SAYS("max_messages");
    assert_true(sent[0].rc == KEEPQ_E_FULL && sent[0].outcome == KEEPQ_OUTCOME_NOT_STORED);
    REFUSES(keepq_send_async, KEEPQ_E_FULL, (q, "t", "3", 1, NULL, NULL, NULL, NULL));
    OK(keepq_send_oneway(q, "t", "3", 1, NULL));
    OK(keepq_stats(q, &stats));
    assert_int_equal(stats.oneway_failed, 1);
    ack_one(g);
    in[0].topic = in[1].topic = "t";
    REFUSES(keepq_send_batch, KEEPQ_E_FULL, (q, in, 2, sent));
    assert_true(sent[0].rc == KEEPQ_OK && sent[0].seq == 2 && sent[1].rc == KEEPQ_E_FULL);
    /* Others have no limit. */
    send_text(q, "other", "1");
    OK(keepq_group_close(g));
    OK(keepq_close(q));
}

static void a_topic_keeps_no_more_bytes_than_it_may(void **state) {
    keepq *q = open_impatient("bytes");
    keepq_topic_opts opts = KEEPQ_TOPIC_OPTS_INIT;

    (void)state;
    opts.max_bytes = 10;
    OK(keepq_topic_create(q, "t", &opts));
    GIVES(KEEPQ_E_LIMIT_EXCEEDED, keepq_send(q, "t", "eleven byte", 11, NULL, NULL));
    OK(keepq_send(q, "t", "1234567", 7, NULL, NULL));
    GIVES(KEEPQ_E_FULL, keepq_send(q, "t", "1234", 4, NULL, NULL));
    SAYS("max_bytes");
    OK(keepq_send(q, "t", "123", 3, NULL, NULL));
    opts.max_bytes = 14;
    OK(keepq_topic_configure(q, "t", &opts));
    OK(keepq_send(q, "t", "1234", 4, NULL, NULL));
    opts.max_bytes = -1;
    OK(keepq_topic_configure(q, "t", &opts));
    OK(keepq_send(q, "t", "eleven byte", 11, NULL, NULL));
    OK(keepq_close(q));
}

static void *ack_in_a_thread(void *g) {
    ack_one(g);
    return NULL;
}

static void a_send_may_wait_for_room(void **state) {
    keepq *q = open_impatient("waits");
    keepq_topic_opts opts = KEEPQ_TOPIC_OPTS_INIT;
    keepq_send_opts send = KEEPQ_SEND_OPTS_INIT;
    keepq_sent sent = KEEPQ_SENT_INIT;
    pthread_t thread;
    keepq_group *g;

    (void)state;
    opts.max_messages = 1;
    opts.when_full = KEEPQ_WHEN_FULL_WAIT;
    OK(keepq_topic_create(q, "t", &opts));
    g = group_of(q, "t", "g");
    send_text(q, "t", "1");
    send.timeout_ms = 20;
    REFUSES(keepq_send, KEEPQ_E_TIMEOUT, (q, "t", "2", 1, &send, &sent));
    assert_int_equal(sent.outcome, KEEPQ_OUTCOME_NOT_STORED);
    /* Before or after the acknowledgement: it succeeds. */
    send.timeout_ms = 120000;
    assert_int_equal(pthread_create(&thread, NULL, ack_in_a_thread, g), 0);
    OK(keepq_send(q, "t", "2", 1, &send, &sent));
    assert_int_equal(sent.seq, 1);
    assert_int_equal(pthread_join(thread, NULL), 0);
    OK(keepq_group_close(g));
    OK(keepq_close(q));
}

static void options_of_a_topic_are_kept_and_changed(void **state) {
    keepq *q = open_quick("kept");
    keepq_topic_opts opts = KEEPQ_TOPIC_OPTS_INIT, now = KEEPQ_TOPIC_OPTS_INIT;
    keepq_topic_opts change = KEEPQ_TOPIC_OPTS_INIT;

    (void)state;
    send_text(q, "plain", "x");
    OK(keepq_topic_config(q, "plain", &now));
    assert_true(now.max_bytes == -1 && now.max_messages == -1 && now.retain_ms == -1);
    assert_true(now.retain_bytes == -1 && now.when_full == KEEPQ_WHEN_FULL_REFUSE);
    opts.max_bytes = 1 << 30;
    opts.max_messages = 1000;
    opts.retain_ms = 60000;
    opts.retain_bytes = 1 << 20;
    opts.when_full = KEEPQ_WHEN_FULL_WAIT;
    OK(keepq_topic_create(q, "t", &opts));
    OK(keepq_topic_create(q, "t", &opts));
    OK(keepq_topic_create(q, "t", NULL));
    OK(keepq_topic_config(q, "t", &now));
    assert_memory_equal(&now, &opts, sizeof now);
    REFUSES(keepq_topic_create, KEEPQ_E_CONFIG_MISMATCH, (q, "plain", &opts));
    opts.max_messages = 999;
    GIVES(KEEPQ_E_CONFIG_MISMATCH, keepq_topic_create(q, "t", &opts));
    SAYS("max_messages");
    change.max_messages = 999;
    change.retain_ms = -1;
    OK(keepq_topic_configure(q, "t", &change));
    OK(keepq_close(q));
    /* It was durable. */
    q = open_quick("kept");
    OK(keepq_topic_config(q, "t", &now));
    assert_true(now.max_messages == 999 && now.retain_ms == -1 && now.max_bytes == 1 << 30);
    assert_true(now.retain_bytes == 1 << 20 && now.when_full == KEEPQ_WHEN_FULL_WAIT);
    /* What was read may be passed on. */
    OK(keepq_topic_create(q, "t", &now));
    OK(keepq_topic_configure(q, "plain", &now));
    OK(keepq_topic_config(q, "plain", &opts));
    assert_memory_equal(&now, &opts, sizeof now);
    OK(keepq_close(q));
}

static void a_stream_of_dead_letters_has_no_options(void **state) {
    keepq *q = open_quick("dead letters");
    keepq_group *g = group_of(q, "t", "g");
    keepq_topic_opts opts = KEEPQ_TOPIC_OPTS_INIT;
    keepq_msg *m;

    (void)state;
    send_text(q, "t", "x");
    m = receive_one(g);
    OK(keepq_reject(m, "why"));
    OK(keepq_msg_free(m));
    opts.max_messages = 1;
    REFUSES(keepq_topic_create, KEEPQ_E_INVALID_ARGUMENT, (q, "%DLQ%t%g", &opts));
    SAYS("has no options");
    REFUSES(keepq_topic_configure, KEEPQ_E_INVALID_ARGUMENT, (q, "%DLQ%t%g", &opts));
    OK(keepq_group_close(g));
    OK(keepq_close(q));
}

static void what_everybody_has_settled_may_be_retained(void **state) {
    keepq *q = open_quick("retained");
    keepq_topic_opts opts = KEEPQ_TOPIC_OPTS_INIT;
    keepq_group *g, *later;
    keepq_msg *m;

    (void)state;
    opts.retain_ms = 3600 * 1000;
    OK(keepq_topic_create(q, "t", &opts));
    g = group_of(q, "t", "g");
    send_text(q, "t", "1");
    send_text(q, "t", "2");
    ack_one(g);
    ack_one(g);
    later = group_of(q, "t", "later");
    m = receive_one(later);
    assert_true(body_is(m, "1"));
    OK(keepq_msg_free(m));
    OK(keepq_group_close(g));
    OK(keepq_group_close(later));
    OK(keepq_close(q));
}

static void a_store_keeps_no_more_than_it_may(void **state) {
    keepq_open_opts open = KEEPQ_OPEN_OPTS_INIT;
    keepq_store_opts opts = KEEPQ_STORE_OPTS_INIT, now = KEEPQ_STORE_OPTS_INIT;
    keepq *q, *none = NULL;

    (void)state;
    open.flush = KEEPQ_FLUSH_ASYNC;
    open.send_retries = -1;
    open.max_bytes = 10;
    open.when_full = KEEPQ_WHEN_FULL_REFUSE;
    q = open_at("store", &open);
    OK(keepq_config(q, &now));
    assert_true(now.size == sizeof now && now.max_bytes == 10);
    assert_int_equal(now.when_full, KEEPQ_WHEN_FULL_REFUSE);
    OK(keepq_send(q, "a", "12345", 5, NULL, NULL));
    OK(keepq_send(q, "b", "12345", 5, NULL, NULL));
    GIVES(KEEPQ_E_FULL, keepq_send(q, "c", "1", 1, NULL, NULL));
    SAYS("max_bytes");
    open.max_bytes = 11;
    GIVES(KEEPQ_E_CONFIG_MISMATCH, keepq_open(place("store"), &open, &none));
    open.max_bytes = 10;
    open.when_full = KEEPQ_WHEN_FULL_WAIT;
    GIVES(KEEPQ_E_CONFIG_MISMATCH, keepq_open(place("store"), &open, &none));
    assert_null(none);
    opts.max_bytes = 11;
    opts.when_full = KEEPQ_WHEN_FULL_WAIT;
    OK(keepq_configure(q, &opts));
    OK(keepq_config(q, &now));
    assert_memory_equal(&now, &opts, sizeof now);
    OK(keepq_send(q, "c", "1", 1, NULL, NULL));
    opts.max_bytes = -1;
    opts.when_full = 0;
    OK(keepq_configure(q, &opts));
    OK(keepq_send(q, "c", "more", 4, NULL, NULL));
    OK(keepq_config(q, &now));
    assert_true(now.max_bytes == -1 && now.when_full == KEEPQ_WHEN_FULL_WAIT);
    OK(keepq_configure(q, &now));
    OK(keepq_close(q));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_topic_keeps_no_more_messages_than_it_may),
        cmocka_unit_test(a_topic_keeps_no_more_bytes_than_it_may),
        cmocka_unit_test(a_send_may_wait_for_room),
        cmocka_unit_test(options_of_a_topic_are_kept_and_changed),
        cmocka_unit_test(a_stream_of_dead_letters_has_no_options),
        cmocka_unit_test(what_everybody_has_settled_may_be_retained),
        cmocka_unit_test(a_store_keeps_no_more_than_it_may),
    };
    return cmocka_run_group_tests_name("limits", tests, NULL, NULL);
}
