/* Many at once: batches of sends with topics and producers mixed, acks over several groups,
 * detached leases. */
#include "check.h"

enum { MANY = 40 };

static void a_batch_has_a_result_for_each(void **state) {
    keepq *q = open_at("results", NULL);
    static const char *const topics[] = {"a", "a", "b", "no/topic", "a", "b"};
    keepq_msg_in in[6];
    keepq_sent sent[6];
    keepq_send_opts later = KEEPQ_SEND_OPTS_INIT;
    size_t i;

    (void)state;
    for (i = 0; i < 6; i++) {
        keepq_msg_in one = KEEPQ_MSG_IN_INIT;
        one.topic = topics[i];
        one.body = "x";
        one.len = 1;
        in[i] = one;
    }
    later.delay_ms = 1;
    in[5].opts = &later;
    sent[0].size = sizeof sent[0];
    GIVES(KEEPQ_E_INVALID_NAME, keepq_send_batch(q, in, 6, sent));
    assert_true(sent[0].seq == 0 && sent[1].seq == 1 && sent[2].seq == 0 && sent[4].seq == 2);
    assert_true(sent[3].rc == KEEPQ_E_INVALID_NAME && sent[3].status == KEEPQ_SEND_FAILED);
    assert_true(sent[5].rc == KEEPQ_E_NOT_SUPPORTED && sent[5].seq == KEEPQ_NO_SEQ);
    for (i = 0; i < 3; i++) {
        assert_true(sent[i].rc == KEEPQ_OK && sent[i].durable == 1 && strlen(sent[i].id) == 16);
        assert_true(sent[i].size == sizeof sent[i] && sent[i].outcome == KEEPQ_OUTCOME_STORED);
    }
    in[3].topic = "c";
    in[5].opts = NULL;
    OK(keepq_send_batch(q, in, 6, NULL));
    OK(keepq_close(q));
}

static void a_batch_is_one_flush(void **state) {
    keepq *q = open_at("flushes", NULL);
    keepq_store_stats before = KEEPQ_STORE_STATS_INIT, after = KEEPQ_STORE_STATS_INIT;
    keepq_msg_in in[MANY];
    keepq_send_opts opts = KEEPQ_SEND_OPTS_INIT;
    size_t i;

    (void)state;
    opts.producer = "p";
    for (i = 0; i < MANY; i++) {
        keepq_msg_in one = KEEPQ_MSG_IN_INIT;
        one.topic = "t";
        in[i] = one;
    }
    send_text(q, "t", "the topic is made");
    OK(keepq_producer_open(q, "p", NULL));
    OK(keepq_flush(q, -1));
    OK(keepq_stats(q, &before));
    OK(keepq_send_batch(q, in, MANY, NULL));
    for (i = 0; i < MANY; i++) {
        in[i].opts = &opts;
    }
    OK(keepq_send_batch(q, in, MANY, NULL));
    OK(keepq_stats(q, &after));
    /* Others may flush beside it, but not for each message. */
    assert_in_range(after.flushes - before.flushes, 2, MANY / 2);
    OK(keepq_close(q));
}

static void a_producer_sends_a_batch_twice_and_it_is_stored_once(void **state) {
    keepq *q = open_at("twice", NULL);
    keepq_topic_stats topic = KEEPQ_TOPIC_STATS_INIT;
    keepq_send_opts opts[MANY];
    keepq_msg_in in[MANY];
    keepq_sent sent[MANY];
    uint64_t next = 0;
    size_t i, n, round;

    (void)state;
    for (i = 0; i < MANY; i++) {
        keepq_send_opts o = KEEPQ_SEND_OPTS_INIT;
        keepq_msg_in one = KEEPQ_MSG_IN_INIT;
        keepq_sent s = KEEPQ_SENT_INIT;
        o.producer = "loader";
        o.has_producer_seq = 1;
        o.producer_seq = i;
        opts[i] = o;
        one.topic = "t";
        one.opts = &opts[i];
        in[i] = one;
        sent[i] = s;
    }
    for (round = 0; round < 2; round++) {
        OK(keepq_send_batch(q, in, MANY, sent));
        for (i = 0; i < MANY; i++) {
            assert_true(sent[i].duplicate == (int32_t)round && sent[i].durable == 1);
        }
        assert_true(sent[MANY - 1].seq == MANY - 1);
    }
    OK(keepq_producer_open(q, "loader", &next));
    assert_int_equal(next, MANY);
    OK(keepq_topics(q, &topic, 1, &n));
    assert_true(n == 1 && topic.next_seq == MANY);
    /* A number beyond the end ends the run, and only that message fails. */
    opts[0].producer_seq = MANY;
    opts[1].producer_seq = UINT64_MAX;
    GIVES(KEEPQ_E_PRODUCER_GAP, keepq_send_batch(q, in, 2, sent));
    assert_true(sent[0].rc == KEEPQ_OK && sent[1].rc == KEEPQ_E_PRODUCER_GAP);
    OK(keepq_close(q));
}

static void ack_many_acks_messages_of_several_groups_and_stores(void **state) {
    keepq *q = open_quick("many 1"), *q2 = open_quick("many 2");
    keepq_group *a = group_of(q, "t", "a"), *b = group_of(q, "t", "b");
    keepq_group *c = group_of(q2, "t", "c");
    keepq_msg *msgs[11];
    keepq_rc each[11];
    size_t i, n = 0;

    (void)state;
    for (i = 0; i < 3; i++) {
        send_text(q, "t", "x");
        send_text(q2, "t", "x");
    }
    for (i = 0; i < 3; i++) {
        msgs[3 * i] = receive_one(a);
        msgs[3 * i + 1] = receive_one(c);
        msgs[3 * i + 2] = receive_one(b);
    }
    msgs[9] = msgs[4]; /* twice */
    msgs[10] = NULL;
    OK(keepq_ack(msgs[3]));
    GIVES(KEEPQ_E_LEASE_LOST, keepq_ack_many(msgs, 11, each));
    for (i = 0; i < 9; i++) {
        assert_int_equal(each[i], i == 3 ? KEEPQ_E_LEASE_LOST : KEEPQ_OK);
    }
    assert_true(each[9] == KEEPQ_E_LEASE_LOST && each[10] == KEEPQ_E_BAD_HANDLE);
    OK(keepq_group_close(a));
    for (i = 0; i < 9; i++) {
        OK(keepq_msg_free(msgs[i]));
    }
    a = group_of(q, "t", "a");
    GIVES(KEEPQ_EMPTY, keepq_receive_batch(a, 0, msgs, 9, &n));
    GIVES(KEEPQ_EMPTY, keepq_receive_batch(b, 0, msgs, 9, &n));
    GIVES(KEEPQ_EMPTY, keepq_receive_batch(c, 0, msgs, 9, &n));
    OK(keepq_group_close(a));
    OK(keepq_group_close(b));
    OK(keepq_group_close(c));
    OK(keepq_close(q));
    OK(keepq_close(q2));
}

static void a_detached_lease_outlives_its_store(void **state) {
    keepq *q = open_quick("detached");
    keepq_group *g = group_of(q, "t", "g");
    keepq_msg *msgs[2];
    char receipt[256];
    size_t n = 0;

    (void)state;
    send_text(q, "t", "x");
    OK(keepq_receive_detached(g, 1000, msgs, 2, &n));
    assert_int_equal(n, 1);
    strcpy(receipt, keepq_msg_receipt(msgs[0]));
    OK(keepq_msg_free(msgs[0]));
    OK(keepq_group_close(g));
    OK(keepq_close(q));
    q = open_quick("detached");
    g = group_of(q, "t", "g");
    GIVES(KEEPQ_EMPTY, keepq_receive(g, 0, &msgs[0]));
    OK(keepq_nack_receipt(q, receipt, 0));
    OK(keepq_receive(g, 1000, &msgs[0]));
    OK(keepq_ack(msgs[0]));
    OK(keepq_msg_free(msgs[0]));
    OK(keepq_group_close(g));
    OK(keepq_close(q));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_batch_has_a_result_for_each),
        cmocka_unit_test(a_batch_is_one_flush),
        cmocka_unit_test(a_producer_sends_a_batch_twice_and_it_is_stored_once),
        cmocka_unit_test(ack_many_acks_messages_of_several_groups_and_stores),
        cmocka_unit_test(a_detached_lease_outlives_its_store),
    };
    return cmocka_run_group_tests_name("batch", tests, NULL, NULL);
}
