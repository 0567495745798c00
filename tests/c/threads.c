/* Handles used by several threads at once: closing under a waiting receive, an error per thread,
 * sends and receives side by side. */
#include "check.h"

#include <pthread.h>

static char path[4096];
static keepq *store;
static keepq_group *group;

static void *receive_for_ever(void *unused) {
    static keepq_rc rc;
    keepq_msg *m = NULL;
    (void)unused;
    rc = keepq_receive(group, -1, &m);
    return &rc;
}

static void a_waiting_receive_ends_when_its_group_is_closed(void **state) {
    pthread_t thread;
    void *result = NULL;

    (void)state;
    group = group_of(store, "none", "g");
    assert_int_equal(pthread_create(&thread, NULL, receive_for_ever, NULL), 0);
    OK(keepq_group_close(group));
    assert_int_equal(pthread_join(thread, &result), 0);
    /* Closed while it waited, or before it began. */
    assert_true(*(keepq_rc *)result == KEEPQ_E_CLOSED ||
                *(keepq_rc *)result == KEEPQ_E_BAD_HANDLE);
}

/* Interrupts until the receive ends: it may not have begun to wait yet. */
static void a_waiting_receive_ends_when_it_is_interrupted(void **state) {
    pthread_t thread;
    void *result = NULL;

    (void)state;
    group = group_of(store, "none", "g");
    assert_int_equal(pthread_create(&thread, NULL, receive_for_ever, NULL), 0);
    while (pthread_tryjoin_np(thread, &result) != 0) {
        OK(keepq_interrupt(store));
    }
    assert_int_equal(*(keepq_rc *)result, KEEPQ_E_INTERRUPTED);
    note_error("keepq_receive", "KEEPQ_E_INTERRUPTED");
    OK(keepq_group_close(group));
}

static void *receive_batch_for_ever(void *detached) {
    static keepq_rc rc;
    keepq_msg *m[2];
    size_t n;
    rc = detached != NULL ? keepq_receive_detached(group, -1, m, 2, &n)
                          : keepq_receive_batch(group, -1, m, 2, &n);
    return &rc;
}

static void a_waiting_batch_ends_when_it_is_interrupted(void **state) {
    pthread_t thread;
    void *result = NULL;
    int detached;

    (void)state;
    group = group_of(store, "none", "g");
    for (detached = 0; detached < 2; detached++) {
        assert_int_equal(
            pthread_create(&thread, NULL, receive_batch_for_ever, detached ? &group : NULL), 0);
        while (pthread_tryjoin_np(thread, &result) != 0) {
            OK(keepq_interrupt(store));
        }
        assert_int_equal(*(keepq_rc *)result, KEEPQ_E_INTERRUPTED);
    }
    note_error("keepq_receive_batch", "KEEPQ_E_INTERRUPTED");
    note_error("keepq_receive_detached", "KEEPQ_E_INTERRUPTED");
    OK(keepq_group_close(group));
}

static void *fail_in_this_thread(void *unused) {
    static keepq_rc rc;
    (void)unused;
    rc = keepq_last_message()[0] == 0 ? keepq_send(store, "a/b", "x", 1, NULL, NULL) : 0;
    return &rc;
}

static void each_thread_has_its_own_last_error(void **state) {
    pthread_t thread;
    void *result = NULL;

    (void)state;
    GIVES(KEEPQ_E_BAD_HANDLE, keepq_close(NULL));
    assert_int_equal(pthread_create(&thread, NULL, fail_in_this_thread, NULL), 0);
    assert_int_equal(pthread_join(thread, &result), 0);
    assert_int_equal(*(keepq_rc *)result, KEEPQ_E_INVALID_NAME);
    SAYS("KQ-603");
}

enum { THREADS = 4, EACH = 200 };

static void *send_many(void *name) {
    char body[32];
    keepq_send_opts opts = KEEPQ_SEND_OPTS_INIT;
    int i;

    opts.flush = KEEPQ_FLUSH_ASYNC;
    for (i = 0; i < EACH; i++) {
        int length = sprintf(body, "%s %d", (const char *)name, i);
        if (keepq_send(store, "many", body, (size_t)length, &opts, NULL) != KEEPQ_OK) {
            return (void *)name;
        }
    }
    return NULL;
}

static int taken[THREADS * EACH];
static int left = THREADS * EACH;

static void *receive_many(void *failed) {
    while (__atomic_load_n(&left, __ATOMIC_SEQ_CST) > 0) {
        keepq_msg *m = NULL;
        keepq_rc rc = keepq_receive(group, 50, &m);
        if (rc == KEEPQ_EMPTY) {
            continue;
        }
        if (rc != KEEPQ_OK || keepq_ack(m) != KEEPQ_OK) {
            return failed;
        }
        __atomic_fetch_add(&taken[keepq_msg_seq(m)], 1, __ATOMIC_SEQ_CST);
        __atomic_fetch_sub(&left, 1, __ATOMIC_SEQ_CST);
        if (keepq_msg_free(m) != KEEPQ_OK) {
            return failed;
        }
    }
    return NULL;
}

static void threads_share_one_store_and_one_group(void **state) {
    static char names[THREADS][8];
    pthread_t senders[THREADS], receivers[THREADS];
    void *result = NULL;
    int i;

    (void)state;
    group = group_of(store, "many", "g");
    for (i = 0; i < THREADS; i++) {
        sprintf(names[i], "%d", i);
        assert_int_equal(pthread_create(&receivers[i], NULL, receive_many, names[i]), 0);
        assert_int_equal(pthread_create(&senders[i], NULL, send_many, names[i]), 0);
    }
    for (i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_join(senders[i], &result), 0);
        assert_null(result);
        assert_int_equal(pthread_join(receivers[i], &result), 0);
        assert_null(result);
    }
    for (i = 0; i < THREADS * EACH; i++) {
        assert_int_equal(taken[i], 1);
    }
    OK(keepq_group_close(group));
}

/* Opening, using and closing while others do the same: handles of others are never touched. */
static void *open_and_close(void *failed) {
    int i;

    for (i = 0; i < 20; i++) {
        keepq *q = NULL;
        keepq_group *g = NULL;
        keepq_msg *m = NULL;
        keepq_open_opts opts = KEEPQ_OPEN_OPTS_INIT;
        opts.flush = KEEPQ_FLUSH_ASYNC;
        if (keepq_open(path, &opts, &q) != KEEPQ_OK ||
            keepq_send(q, "churn", "x", 1, NULL, NULL) != KEEPQ_OK ||
            keepq_group_open(q, "churn", "g", NULL, &g) != KEEPQ_OK ||
            keepq_receive(g, 60000, &m) != KEEPQ_OK || keepq_ack(m) != KEEPQ_OK ||
            keepq_close(q) != KEEPQ_OK || keepq_close(q) != KEEPQ_E_BAD_HANDLE ||
            keepq_group_close(g) != KEEPQ_OK || keepq_msg_free(m) != KEEPQ_OK) {
            fprintf(stderr, "round %d: %s\n", i, keepq_last_message());
            return failed;
        }
    }
    return NULL;
}

static void handles_are_made_and_closed_by_many_threads(void **state) {
    pthread_t threads[THREADS];
    void *result = NULL;
    int i;

    (void)state;
    for (i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, open_and_close, &left), 0);
    }
    for (i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_join(threads[i], &result), 0);
        assert_null(result);
    }
}

static int open_store(void **state) {
    (void)state;
    strcpy(path, place("store"));
    store = open_at("store", NULL);
    return 0;
}

static int close_store(void **state) {
    (void)state;
    OK(keepq_close(store));
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_waiting_receive_ends_when_its_group_is_closed),
        cmocka_unit_test(a_waiting_receive_ends_when_it_is_interrupted),
        cmocka_unit_test(a_waiting_batch_ends_when_it_is_interrupted),
        cmocka_unit_test(each_thread_has_its_own_last_error),
        cmocka_unit_test(threads_share_one_store_and_one_group),
        cmocka_unit_test(handles_are_made_and_closed_by_many_threads),
    };
    return cmocka_run_group_tests_name("threads", tests, open_store, close_store);
}
