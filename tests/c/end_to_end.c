/* Open, send, receive, settle, close: what a program does on a good day. */
#include "check.h"

static void sends_and_receives_everything_a_message_has(void **state) {
    keepq *q = *state;
    keepq_header headers[2] = {{"source", "web", 3}, {"empty", NULL, 0}};
    keepq_send_opts opts = KEEPQ_SEND_OPTS_INIT;
    keepq_sent sent = KEEPQ_SENT_INIT;
    keepq_group *g = NULL;
    keepq_msg *m = NULL;
    keepq_bytes body, value;

    opts.key = "user-42";
    opts.tag = "new";
    opts.headers = headers;
    opts.n_headers = 2;
    OK(keepq_send(q, "orders", "he\0lo", 5, &opts, &sent));
    assert_true(sent.size == sizeof sent && sent.rc == KEEPQ_OK && sent.status == KEEPQ_SEND_OK);
    assert_true(sent.outcome == KEEPQ_OUTCOME_STORED && sent.durable == 1 && sent.duplicate == 0);
    assert_true(sent.seq == 0 && strlen(sent.id) == 16);

    OK(keepq_group_open(q, "orders", "billing", NULL, &g));
    OK(keepq_receive(g, 5000, &m));
    body = keepq_msg_body(m);
    assert_true(body.len == 5 && memcmp(body.ptr, "he\0lo", 5) == 0);
    assert_true(strcmp(keepq_msg_id(m), sent.id) == 0);
    assert_true(keepq_msg_seq(m) == sent.seq);
    assert_true(strcmp(keepq_msg_topic(m), "orders") == 0);
    assert_true(strcmp(keepq_msg_key(m), "user-42") == 0);
    assert_true(strcmp(keepq_msg_tag(m), "new") == 0);
    value = keepq_msg_header(m, "source");
    assert_true(value.len == 3 && memcmp(value.ptr, "web", 3) == 0);
    value = keepq_msg_header(m, "empty");
    assert_true(value.len == 0 && value.ptr != NULL);
    assert_true(keepq_msg_header(m, "absent").ptr == NULL);
    assert_true(keepq_msg_attempt(m) == 1);
    assert_true(keepq_msg_sent_at_ms(m) > 1577836800000); /* 2020 */
    assert_true(strlen(keepq_msg_receipt(m)) > 0 && strchr(keepq_msg_receipt(m), ' ') == NULL);

    OK(keepq_extend(m, 60000));
    OK(keepq_ack(m));
    /* It can be read until it is freed, and settled only once. */
    assert_true(keepq_msg_body(m).len == 5 && strcmp(keepq_msg_key(m), "user-42") == 0);
    GIVES(KEEPQ_E_LEASE_LOST, keepq_ack(m));
    GIVES(KEEPQ_E_LEASE_LOST, keepq_nack(m, 0));
    GIVES(KEEPQ_E_LEASE_LOST, keepq_extend(m, 1000));
    OK(keepq_msg_free(m));
    GIVES(KEEPQ_EMPTY, keepq_receive(g, 0, &m));
    assert_true(m == NULL);
    GIVES(KEEPQ_EMPTY, keepq_receive(g, 150, &m));
    OK(keepq_group_close(g));
}

static void a_message_that_is_not_acked_comes_again(void **state) {
    keepq *q = *state;
    keepq_group *g = NULL;
    keepq_msg *m = NULL;

    OK(keepq_send(q, "again", "x", 1, NULL, NULL));
    OK(keepq_group_open(q, "again", "g", NULL, &g));
    OK(keepq_receive(g, 5000, &m));
    OK(keepq_nack(m, 0));
    OK(keepq_msg_free(m));
    OK(keepq_receive(g, 5000, &m));
    assert_true(keepq_msg_attempt(m) == 2);
    OK(keepq_msg_free(m)); /* unsettled: given back at once */
    OK(keepq_receive(g, 5000, &m));
    assert_true(keepq_msg_attempt(m) == 3);
    OK(keepq_reject(m, "no good"));
    OK(keepq_msg_free(m));
    GIVES(KEEPQ_EMPTY, keepq_receive(g, 0, &m));
    OK(keepq_group_close(g));
}

static void a_delayed_nack_waits(void **state) {
    keepq *q = *state;
    keepq_group *g = NULL;
    keepq_msg *m = NULL;

    OK(keepq_send(q, "later", "x", 1, NULL, NULL));
    OK(keepq_group_open(q, "later", "g", NULL, &g));
    OK(keepq_receive(g, 5000, &m));
    OK(keepq_nack(m, 60000));
    OK(keepq_msg_free(m));
    GIVES(KEEPQ_EMPTY, keepq_receive(g, 0, &m));
    OK(keepq_group_close(g));
}

static void a_batch_is_received_in_order(void **state) {
    keepq *q = *state;
    enum { COUNT = 10 };
    keepq_send_opts async = KEEPQ_SEND_OPTS_INIT;
    keepq_msg *msgs[COUNT + 1];
    keepq_group *g = NULL;
    size_t n = 99, got = 0, i;
    char body[2];

    async.flush = KEEPQ_FLUSH_ASYNC;
    for (i = 0; i < COUNT; i++) {
        body[0] = (char)('a' + (int)i);
        OK(keepq_send(q, "batch", body, 1, &async, NULL));
    }
    OK(keepq_flush(q, 10000));
    OK(keepq_group_open(q, "batch", "g", NULL, &g));
    while (got < COUNT) {
        OK(keepq_receive_batch(g, 5000, msgs, COUNT + 1, &n));
        assert_true(n > 0 && got + n <= COUNT);
        for (i = 0; i < n; i++, got++) {
            keepq_bytes b = keepq_msg_body(msgs[i]);
            assert_true(b.len == 1 && *(const char *)b.ptr == (char)('a' + (int)got));
            OK(keepq_ack(msgs[i]));
            OK(keepq_msg_free(msgs[i]));
        }
    }
    GIVES(KEEPQ_EMPTY, keepq_receive_batch(g, 0, msgs, COUNT, &n));
    assert_true(n == 0);
    OK(keepq_group_close(g));
}

static void receipts_settle(void **state) {
    keepq *q = *state;
    keepq_group *g = NULL;
    keepq_msg *m = NULL;
    char receipt[256];
    int round;

    OK(keepq_group_open(q, "receipts", "g", NULL, &g));
    for (round = 0; round < 2; round++) {
        OK(keepq_send(q, "receipts", "x", 1, NULL, NULL));
        OK(keepq_receive(g, 5000, &m));
        assert_true(strlen(keepq_msg_receipt(m)) < sizeof receipt);
        strcpy(receipt, keepq_msg_receipt(m));
        OK(keepq_extend_receipt(q, receipt, 10000));
        if (round == 0) {
            OK(keepq_ack_receipt(q, receipt));
        } else {
            OK(keepq_reject_receipt(q, receipt, "no good"));
        }
        GIVES(KEEPQ_E_LEASE_LOST, keepq_ack_receipt(q, receipt));
        GIVES(KEEPQ_E_LEASE_LOST, keepq_nack_receipt(q, receipt, 0));
        GIVES(KEEPQ_E_LEASE_LOST, keepq_ack(m));
        OK(keepq_msg_free(m));
        GIVES(KEEPQ_EMPTY, keepq_receive(g, 0, &m));
    }
    GIVES(KEEPQ_E_BAD_RECEIPT, keepq_ack_receipt(q, "not a receipt"));
    OK(keepq_group_close(g));
}

static void what_was_sent_is_there_after_opening_again(void **state) {
    keepq *q = open_at("again", NULL);
    keepq_group *g = NULL;
    keepq_msg *m = NULL;

    (void)state;
    OK(keepq_send(q, "kept", "still here", 10, NULL, NULL));
    OK(keepq_close(q));
    q = open_at("again", NULL);
    OK(keepq_group_open(q, "kept", "g", NULL, &g));
    OK(keepq_receive(g, 5000, &m));
    assert_true(keepq_msg_body(m).len == 10);
    OK(keepq_ack(m));
    OK(keepq_msg_free(m));
    OK(keepq_group_close(g));
    OK(keepq_close(q));
}

static int open_store(void **state) {
    OK(KEEPQ_CHECK_ABI());
    assert_true(keepq_version() == KEEPQ_VERSION);
    *state = open_at("store", NULL);
    return 0;
}

static int close_store(void **state) {
    OK(keepq_close(*state));
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sends_and_receives_everything_a_message_has),
        cmocka_unit_test(a_message_that_is_not_acked_comes_again),
        cmocka_unit_test(a_delayed_nack_waits),
        cmocka_unit_test(a_batch_is_received_in_order),
        cmocka_unit_test(receipts_settle),
        cmocka_unit_test(what_was_sent_is_there_after_opening_again),
    };
    return cmocka_run_group_tests_name("end_to_end", tests, open_store, close_store);
}
