/* NULL, closed, freed, foreign and made-up handles: each is KEEPQ_E_BAD_HANDLE, in every function,
 * and none is ever followed. */
#include "check.h"

static void ok_callback(void *user, const keepq_sent *sent) {
    (void)user, (void)sent;
}

/* Every function that takes a store, with this one, which is not open. */
static void no_function_takes_this_store(keepq *bad) {
    keepq_msg *m = NULL;
    keepq_group *g = NULL;
    keepq_msg_in in = KEEPQ_MSG_IN_INIT;
    keepq_store_stats stats = KEEPQ_STORE_STATS_INIT;
    keepq_topic_opts topic_opts = KEEPQ_TOPIC_OPTS_INIT;
    keepq_store_opts store_opts = KEEPQ_STORE_OPTS_INIT;
    size_t n = 0;

    REFUSES(keepq_close, KEEPQ_E_BAD_HANDLE, (bad));
    REFUSES(keepq_flush, KEEPQ_E_BAD_HANDLE, (bad, 0));
    REFUSES(keepq_interrupt, KEEPQ_E_BAD_HANDLE, (bad));
    REFUSES(keepq_send, KEEPQ_E_BAD_HANDLE, (bad, "t", "x", 1, NULL, NULL));
    REFUSES(keepq_send_async, KEEPQ_E_BAD_HANDLE,
            (bad, "t", "x", 1, NULL, ok_callback, NULL, NULL));
    REFUSES(keepq_send_oneway, KEEPQ_E_BAD_HANDLE, (bad, "t", "x", 1, NULL));
    REFUSES(keepq_send_batch, KEEPQ_E_BAD_HANDLE, (bad, &in, 1, NULL));
    REFUSES(keepq_producer_open, KEEPQ_E_BAD_HANDLE, (bad, "p", NULL));
    REFUSES(keepq_fd, KEEPQ_E_BAD_HANDLE, (bad));
    REFUSES(keepq_dispatch, KEEPQ_E_BAD_HANDLE, (bad, 0));
    REFUSES(keepq_group_open, KEEPQ_E_BAD_HANDLE, (bad, "t", "g", NULL, &g));
    assert_null(g);
    REFUSES(keepq_ack_receipt, KEEPQ_E_BAD_HANDLE, (bad, "r"));
    REFUSES(keepq_nack_receipt, KEEPQ_E_BAD_HANDLE, (bad, "r", 0));
    REFUSES(keepq_reject_receipt, KEEPQ_E_BAD_HANDLE, (bad, "r", "why"));
    REFUSES(keepq_extend_receipt, KEEPQ_E_BAD_HANDLE, (bad, "r", 1));
    REFUSES(keepq_topic_create, KEEPQ_E_BAD_HANDLE, (bad, "t", NULL));
    REFUSES(keepq_topic_configure, KEEPQ_E_BAD_HANDLE, (bad, "t", &topic_opts));
    REFUSES(keepq_topic_config, KEEPQ_E_BAD_HANDLE, (bad, "t", &topic_opts));
    REFUSES(keepq_configure, KEEPQ_E_BAD_HANDLE, (bad, &store_opts));
    REFUSES(keepq_config, KEEPQ_E_BAD_HANDLE, (bad, &store_opts));
    REFUSES(keepq_topic_purge, KEEPQ_E_BAD_HANDLE, (bad, "t", NULL));
    REFUSES(keepq_topic_delete, KEEPQ_E_BAD_HANDLE, (bad, "t"));
    REFUSES(keepq_browse, KEEPQ_E_BAD_HANDLE, (bad, "t", 0, &m, 1, &n));
    REFUSES(keepq_stats, KEEPQ_E_BAD_HANDLE, (bad, &stats));
    REFUSES(keepq_topics, KEEPQ_E_BAD_HANDLE, (bad, NULL, 0, &n));
    REFUSES(keepq_groups, KEEPQ_E_BAD_HANDLE, (bad, NULL, 0, &n));
    REFUSES(keepq_verify, KEEPQ_E_BAD_HANDLE, (bad, NULL, NULL, 0));
}

static void no_function_takes_this_group(keepq_group *bad) {
    keepq_msg *m = NULL;
    keepq_group_opts opts = KEEPQ_GROUP_OPTS_INIT;
    keepq_group_stats stats = KEEPQ_GROUP_STATS_INIT;
    size_t n = 0;

    REFUSES(keepq_group_close, KEEPQ_E_BAD_HANDLE, (bad));
    REFUSES(keepq_group_delete, KEEPQ_E_BAD_HANDLE, (bad));
    REFUSES(keepq_group_configure, KEEPQ_E_BAD_HANDLE, (bad, &opts));
    REFUSES(keepq_group_config, KEEPQ_E_BAD_HANDLE, (bad, &opts));
    REFUSES(keepq_group_fd, KEEPQ_E_BAD_HANDLE, (bad));
    REFUSES(keepq_receive, KEEPQ_E_BAD_HANDLE, (bad, 0, &m));
    REFUSES(keepq_receive_batch, KEEPQ_E_BAD_HANDLE, (bad, 0, &m, 1, &n));
    REFUSES(keepq_receive_detached, KEEPQ_E_BAD_HANDLE, (bad, 0, &m, 1, &n));
    REFUSES(keepq_dlq_browse, KEEPQ_E_BAD_HANDLE, (bad, 0, &m, 1, &n));
    REFUSES(keepq_dlq_purge, KEEPQ_E_BAD_HANDLE, (bad, NULL));
    REFUSES(keepq_dlq_purge_one, KEEPQ_E_BAD_HANDLE, (bad, 0));
    REFUSES(keepq_group_counters, KEEPQ_E_BAD_HANDLE, (bad, &stats));
}

static void no_function_takes_this_message(keepq_msg *bad) {
    keepq_header header;
    keepq_dead_info info = KEEPQ_DEAD_INFO_INIT;
    keepq_rc each = 0;

    REFUSES(keepq_msg_free, KEEPQ_E_BAD_HANDLE, (bad));
    REFUSES(keepq_ack, KEEPQ_E_BAD_HANDLE, (bad));
    REFUSES(keepq_nack, KEEPQ_E_BAD_HANDLE, (bad, 0));
    REFUSES(keepq_reject, KEEPQ_E_BAD_HANDLE, (bad, "why"));
    REFUSES(keepq_extend, KEEPQ_E_BAD_HANDLE, (bad, 1));
    REFUSES(keepq_ack_many, KEEPQ_E_BAD_HANDLE, (&bad, 1, &each));
    assert_int_equal(each, KEEPQ_E_BAD_HANDLE);
    REFUSES(keepq_msg_header_at, KEEPQ_E_BAD_HANDLE, (bad, 0, &header));
    REFUSES(keepq_msg_check, KEEPQ_E_BAD_HANDLE, (bad));
    REFUSES(keepq_msg_dead_info, KEEPQ_E_BAD_HANDLE, (bad, &info));
    assert_true(keepq_msg_body(bad).ptr == NULL && keepq_msg_body(bad).len == 0);
    assert_true(keepq_msg_id(bad) == NULL && keepq_msg_topic(bad) == NULL);
    assert_true(keepq_msg_key(bad) == NULL && keepq_msg_tag(bad) == NULL);
    assert_null(keepq_msg_order_key(bad));
    assert_true(keepq_msg_header(bad, "h").ptr == NULL);
    assert_true(keepq_msg_receipt(bad) == NULL && keepq_msg_seq(bad) == KEEPQ_NO_SEQ);
    assert_true(keepq_msg_attempt(bad) == 0 && keepq_msg_sent_at_ms(bad) == -1);
    assert_true(keepq_msg_producer(bad) == NULL);
    assert_true(keepq_msg_producer_seq(bad) == KEEPQ_NO_SEQ);
}

static void null_handles_are_refused(void **state) {
    keepq_error_info info = KEEPQ_ERROR_INFO_INIT;

    (void)state;
    OK(keepq_last_error(&info));
    assert_true(info.rc == KEEPQ_OK && keepq_last_message()[0] == 0);
    no_function_takes_this_store(NULL);
    SAYS("the store handle is NULL");
    no_function_takes_this_group(NULL);
    SAYS("the group handle is NULL");
    no_function_takes_this_message(NULL);
    SAYS("the message handle is NULL");
}

static void made_up_handles_are_refused(void **state) {
    static const uintptr_t values[] = {1,      2,          3,           4,
                                       0x1001, 0x10000003, UINTPTR_MAX, UINTPTR_MAX - 1,
                                       UINTPTR_MAX - 2};
    size_t i;

    (void)state;
    for (i = 0; i < sizeof values / sizeof *values; i++) {
        no_function_takes_this_store((keepq *)values[i]);
        no_function_takes_this_group((keepq_group *)values[i]);
        no_function_takes_this_message((keepq_msg *)values[i]);
    }
}

static void handles_of_another_kind_are_refused(void **state) {
    keepq *q = open_quick("kinds");
    keepq_group *g = group_of(q, "t", "g");
    keepq_msg *m;

    (void)state;
    send_text(q, "t", "x");
    m = receive_one(g);
    no_function_takes_this_store((keepq *)(void *)g);
    no_function_takes_this_store((keepq *)(void *)m);
    no_function_takes_this_group((keepq_group *)(void *)q);
    no_function_takes_this_group((keepq_group *)(void *)m);
    no_function_takes_this_message((keepq_msg *)(void *)q);
    no_function_takes_this_message((keepq_msg *)(void *)g);
    /* They are what they were. */
    OK(keepq_ack(m));
    OK(keepq_msg_free(m));
    OK(keepq_group_close(g));
    OK(keepq_close(q));
}

static void closed_and_freed_handles_are_refused_for_ever(void **state) {
    keepq *q = open_quick("closed"), *q2;
    keepq_group *g = group_of(q, "t", "g"), *g2;
    keepq_msg *m, *m2;

    (void)state;
    send_text(q, "t", "x");
    m = receive_one(g);
    OK(keepq_msg_free(m)); /* unsettled: given back */
    no_function_takes_this_message(m);
    SAYS("keepq_msg_free");
    /* Their places are used again; the old handles stay bad. */
    m2 = receive_one(g);
    assert_true(m2 != m);
    no_function_takes_this_message(m);
    OK(keepq_group_close(g));
    g2 = group_of(q, "t", "g");
    assert_true(g2 != g);
    no_function_takes_this_group(g);
    OK(keepq_close(q));
    q2 = open_quick("closed");
    assert_true(q2 != q);
    no_function_takes_this_store(q);
    OK(keepq_close(q2));
    OK(keepq_group_close(g2));
    OK(keepq_msg_free(m2));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(null_handles_are_refused),
        cmocka_unit_test(made_up_handles_are_refused),
        cmocka_unit_test(handles_of_another_kind_are_refused),
        cmocka_unit_test(closed_and_freed_handles_are_refused_for_ever),
    };
    return cmocka_run_group_tests_name("handles", tests, NULL, NULL);
}
