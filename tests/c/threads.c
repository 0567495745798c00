/* Handles used by several threads at once: closing under a waiting receive, an error per thread. */
#include <pthread.h>

#include "check.h"

static keepq *store;
static keepq_group *group;

static void *receive_for_ever(void *unused) {
    static keepq_rc rc;
    keepq_msg *m = NULL;
    (void)unused;
    rc = keepq_receive(group, -1, &m);
    return &rc;
}

static void *fail_in_this_thread(void *unused) {
    static keepq_rc rc;
    (void)unused;
    rc = keepq_last_message()[0] == 0 ? keepq_send(store, "a/b", "x", 1, NULL, NULL) : 0;
    return &rc;
}

static void *send_many(void *unused) {
    static const int failed = 1;
    int i;
    (void)unused;
    for (i = 0; i < 100; i++) {
        keepq_send_opts opts = KEEPQ_SEND_OPTS_INIT;
        opts.flush = KEEPQ_FLUSH_ASYNC;
        if (keepq_send(store, "many", "x", 1, &opts, NULL) != KEEPQ_OK) {
            return (void *)&failed;
        }
    }
    return NULL;
}

int main(int argc, char **argv) {
    enum { THREADS = 4 };
    pthread_t threads[THREADS];
    void *result = NULL;
    keepq_sent sent = KEEPQ_SENT_INIT;
    int i;

    CHECK_RC(KEEPQ_OK, keepq_open(store_in(argc, argv, "store"), NULL, &store));
    CHECK_RC(KEEPQ_OK, keepq_group_open(store, "none", "g", NULL, &group));
    CHECK(pthread_create(&threads[0], NULL, receive_for_ever, NULL) == 0);
    CHECK_RC(KEEPQ_OK, keepq_group_close(group));
    CHECK(pthread_join(threads[0], &result) == 0);
    /* Closed while it waited, or before it began. */
    CHECK(*(keepq_rc *)result == KEEPQ_E_CLOSED || *(keepq_rc *)result == KEEPQ_E_BAD_HANDLE);

    CHECK_RC(KEEPQ_E_BAD_HANDLE, keepq_close(NULL));
    CHECK(pthread_create(&threads[0], NULL, fail_in_this_thread, NULL) == 0);
    CHECK(pthread_join(threads[0], &result) == 0);
    CHECK(*(keepq_rc *)result == KEEPQ_E_INVALID_NAME);
    CHECK(strstr(keepq_last_message(), "KQ-603") != NULL);

    for (i = 0; i < THREADS; i++) {
        CHECK(pthread_create(&threads[i], NULL, send_many, NULL) == 0);
    }
    for (i = 0; i < THREADS; i++) {
        CHECK(pthread_join(threads[i], &result) == 0);
        CHECK(result == NULL);
    }
    CHECK_RC(KEEPQ_OK, keepq_send(store, "many", "x", 1, NULL, &sent));
    CHECK(sent.seq == 100 * THREADS);
    CHECK_RC(KEEPQ_OK, keepq_close(store));
    return report();
}
