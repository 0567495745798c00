/* Open, send, receive, settle, close: what a program does on a good day. */
#include "check.h"

static keepq *open_store(const char *path) {
    keepq *q = NULL;
    CHECK_RC(KEEPQ_OK, keepq_open(path, NULL, &q));
    CHECK(q != NULL);
    return q;
}

static void sends_and_receives_everything_a_message_has(keepq *q) {
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
    CHECK_RC(KEEPQ_OK, keepq_send(q, "orders", "he\0lo", 5, &opts, &sent));
    CHECK(sent.size == sizeof sent && sent.rc == KEEPQ_OK && sent.status == KEEPQ_SEND_OK);
    CHECK(sent.outcome == KEEPQ_OUTCOME_STORED && sent.durable == 1 && sent.duplicate == 0);
    CHECK(sent.seq == 0 && strlen(sent.id) == 16);

    CHECK_RC(KEEPQ_OK, keepq_group_open(q, "orders", "billing", NULL, &g));
    CHECK_RC(KEEPQ_OK, keepq_receive(g, 5000, &m));
    body = keepq_msg_body(m);
    CHECK(body.len == 5 && memcmp(body.ptr, "he\0lo", 5) == 0);
    CHECK(strcmp(keepq_msg_id(m), sent.id) == 0);
    CHECK(keepq_msg_seq(m) == sent.seq);
    CHECK(strcmp(keepq_msg_topic(m), "orders") == 0);
    CHECK(strcmp(keepq_msg_key(m), "user-42") == 0);
    CHECK(strcmp(keepq_msg_tag(m), "new") == 0);
    value = keepq_msg_header(m, "source");
    CHECK(value.len == 3 && memcmp(value.ptr, "web", 3) == 0);
    value = keepq_msg_header(m, "empty");
    CHECK(value.len == 0 && value.ptr != NULL);
    CHECK(keepq_msg_header(m, "absent").ptr == NULL);
    CHECK(keepq_msg_attempt(m) == 1);
    CHECK(keepq_msg_sent_at_ms(m) > 1577836800000); /* 2020 */
    CHECK(strlen(keepq_msg_receipt(m)) > 0 && strchr(keepq_msg_receipt(m), ' ') == NULL);

    CHECK_RC(KEEPQ_OK, keepq_extend(m, 60000));
    CHECK_RC(KEEPQ_OK, keepq_ack(m));
    /* It can be read until it is freed, and settled only once. */
    CHECK(keepq_msg_body(m).len == 5 && strcmp(keepq_msg_key(m), "user-42") == 0);
    CHECK_RC(KEEPQ_E_LEASE_LOST, keepq_ack(m));
    CHECK_RC(KEEPQ_E_LEASE_LOST, keepq_nack(m, 0));
    CHECK_RC(KEEPQ_E_LEASE_LOST, keepq_extend(m, 1000));
    CHECK_RC(KEEPQ_OK, keepq_msg_free(m));
    CHECK_RC(KEEPQ_EMPTY, keepq_receive(g, 0, &m));
    CHECK(m == NULL);
    CHECK_RC(KEEPQ_EMPTY, keepq_receive(g, 150, &m));
    CHECK_RC(KEEPQ_OK, keepq_group_close(g));
}

static void a_message_that_is_not_acked_comes_again(keepq *q) {
    keepq_group *g = NULL;
    keepq_msg *m = NULL;

    CHECK_RC(KEEPQ_OK, keepq_send(q, "again", "x", 1, NULL, NULL));
    CHECK_RC(KEEPQ_OK, keepq_group_open(q, "again", "g", NULL, &g));
    CHECK_RC(KEEPQ_OK, keepq_receive(g, 5000, &m));
    CHECK_RC(KEEPQ_OK, keepq_nack(m, 0));
    CHECK_RC(KEEPQ_OK, keepq_msg_free(m));
    CHECK_RC(KEEPQ_OK, keepq_receive(g, 5000, &m));
    CHECK(keepq_msg_attempt(m) == 2);
    CHECK_RC(KEEPQ_OK, keepq_msg_free(m)); /* unsettled: given back at once */
    CHECK_RC(KEEPQ_OK, keepq_receive(g, 5000, &m));
    CHECK(keepq_msg_attempt(m) == 3);
    CHECK_RC(KEEPQ_OK, keepq_reject(m, "no good"));
    CHECK_RC(KEEPQ_OK, keepq_msg_free(m));
    CHECK_RC(KEEPQ_EMPTY, keepq_receive(g, 0, &m));
    CHECK_RC(KEEPQ_OK, keepq_group_close(g));
}

static void a_delayed_nack_waits(keepq *q) {
    keepq_group *g = NULL;
    keepq_msg *m = NULL;

    CHECK_RC(KEEPQ_OK, keepq_send(q, "later", "x", 1, NULL, NULL));
    CHECK_RC(KEEPQ_OK, keepq_group_open(q, "later", "g", NULL, &g));
    CHECK_RC(KEEPQ_OK, keepq_receive(g, 5000, &m));
    CHECK_RC(KEEPQ_OK, keepq_nack(m, 60000));
    CHECK_RC(KEEPQ_OK, keepq_msg_free(m));
    CHECK_RC(KEEPQ_EMPTY, keepq_receive(g, 0, &m));
    CHECK_RC(KEEPQ_OK, keepq_group_close(g));
}

static void a_batch_is_received_in_order(keepq *q) {
    enum { COUNT = 10 };
    keepq_send_opts async = KEEPQ_SEND_OPTS_INIT;
    keepq_msg *msgs[COUNT + 1];
    keepq_group *g = NULL;
    size_t n = 99, got = 0, i;
    char body[2];

    async.flush = KEEPQ_FLUSH_ASYNC;
    for (i = 0; i < COUNT; i++) {
        body[0] = (char)('a' + (int)i);
        CHECK_RC(KEEPQ_OK, keepq_send(q, "batch", body, 1, &async, NULL));
    }
    CHECK_RC(KEEPQ_OK, keepq_flush(q, 10000));
    CHECK_RC(KEEPQ_OK, keepq_group_open(q, "batch", "g", NULL, &g));
    while (got < COUNT) {
        CHECK_RC(KEEPQ_OK, keepq_receive_batch(g, 5000, msgs, COUNT + 1, &n));
        CHECK(n > 0 && got + n <= COUNT);
        for (i = 0; i < n; i++, got++) {
            keepq_bytes b = keepq_msg_body(msgs[i]);
            CHECK(b.len == 1 && *(const char *)b.ptr == (char)('a' + (int)got));
            CHECK_RC(KEEPQ_OK, keepq_ack(msgs[i]));
            CHECK_RC(KEEPQ_OK, keepq_msg_free(msgs[i]));
        }
    }
    CHECK_RC(KEEPQ_EMPTY, keepq_receive_batch(g, 0, msgs, COUNT, &n));
    CHECK(n == 0);
    CHECK_RC(KEEPQ_OK, keepq_group_close(g));
}

static void receipts_settle(keepq *q) {
    keepq_group *g = NULL;
    keepq_msg *m = NULL;
    char receipt[256];
    int round;

    CHECK_RC(KEEPQ_OK, keepq_group_open(q, "receipts", "g", NULL, &g));
    for (round = 0; round < 2; round++) {
        CHECK_RC(KEEPQ_OK, keepq_send(q, "receipts", "x", 1, NULL, NULL));
        CHECK_RC(KEEPQ_OK, keepq_receive(g, 5000, &m));
        CHECK(strlen(keepq_msg_receipt(m)) < sizeof receipt);
        strcpy(receipt, keepq_msg_receipt(m));
        CHECK_RC(KEEPQ_OK, keepq_extend_receipt(q, receipt, 10000));
        if (round == 0) {
            CHECK_RC(KEEPQ_OK, keepq_ack_receipt(q, receipt));
        } else {
            CHECK_RC(KEEPQ_OK, keepq_reject_receipt(q, receipt, "no good"));
        }
        CHECK_RC(KEEPQ_E_LEASE_LOST, keepq_ack_receipt(q, receipt));
        CHECK_RC(KEEPQ_E_LEASE_LOST, keepq_nack_receipt(q, receipt, 0));
        CHECK_RC(KEEPQ_E_LEASE_LOST, keepq_ack(m));
        CHECK_RC(KEEPQ_OK, keepq_msg_free(m));
        CHECK_RC(KEEPQ_EMPTY, keepq_receive(g, 0, &m));
    }
    CHECK_RC(KEEPQ_E_BAD_RECEIPT, keepq_ack_receipt(q, "not a receipt"));
    CHECK_RC(KEEPQ_OK, keepq_group_close(g));
}

static void what_was_sent_is_there_after_opening_again(const char *path) {
    keepq *q = open_store(path);
    keepq_group *g = NULL;
    keepq_msg *m = NULL;

    CHECK_RC(KEEPQ_OK, keepq_send(q, "kept", "still here", 10, NULL, NULL));
    CHECK_RC(KEEPQ_OK, keepq_close(q));
    q = open_store(path);
    CHECK_RC(KEEPQ_OK, keepq_group_open(q, "kept", "g", NULL, &g));
    CHECK_RC(KEEPQ_OK, keepq_receive(g, 5000, &m));
    CHECK(keepq_msg_body(m).len == 10);
    CHECK_RC(KEEPQ_OK, keepq_ack(m));
    CHECK_RC(KEEPQ_OK, keepq_msg_free(m));
    CHECK_RC(KEEPQ_OK, keepq_group_close(g));
    CHECK_RC(KEEPQ_OK, keepq_close(q));
}

int main(int argc, char **argv) {
    const char *path = store_in(argc, argv, "store");
    keepq *q;

    CHECK_RC(KEEPQ_OK, KEEPQ_CHECK_ABI());
    CHECK(keepq_version() == KEEPQ_VERSION);
    q = open_store(path);
    sends_and_receives_everything_a_message_has(q);
    a_message_that_is_not_acked_comes_again(q);
    a_delayed_nack_waits(q);
    a_batch_is_received_in_order(q);
    receipts_settle(q);
    CHECK_RC(KEEPQ_OK, keepq_close(q));
    what_was_sent_is_there_after_opening_again(path);
    return report();
}
