/* Asynchronous and one-way sends: who is called back, when, where and how often. */
#include "check.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <time.h>

typedef struct {
    keepq *q;
    int ok, err;
    uint64_t last_seq;
    pthread_t thread;
    keepq_rc rc;
} told;

static void on_ok(void *user, const keepq_sent *sent) {
    told *t = user;
    assert_true(sent->size == sizeof *sent && sent->rc == KEEPQ_OK && strlen(sent->id) == 16);
    __atomic_fetch_add(&t->ok, 1, __ATOMIC_SEQ_CST);
    t->last_seq = sent->seq;
    t->thread = pthread_self();
}

static void on_err(void *user, const keepq_error_info *error) {
    told *t = user;
    assert_true(error->rc < 0 && error->message[0] != 0);
    t->err++;
    t->rc = error->rc;
}

static void send_one(told *t, const char *topic) {
    OK(keepq_send_async(t->q, topic, "x", 1, NULL, on_ok, on_err, t));
}

static int readable(int fd, int timeout) {
    struct pollfd one = {0, POLLIN, 0};
    one.fd = fd;
    return poll(&one, 1, timeout);
}

static void callbacks_run_in_dispatch_and_nowhere_else(void **state) {
    told t = {0};
    int i;

    t.q = open_at("dispatch", NULL);
    (void)state;
    for (i = 0; i < 100; i++) {
        send_one(&t, "t");
    }
    OK(keepq_flush(t.q, -1));
    assert_int_equal(t.ok, 0);
    while (t.ok < 100) {
        OK(keepq_dispatch(t.q, 60000));
    }
    assert_true(t.ok == 100 && t.err == 0 && t.last_seq == 99);
    assert_true(pthread_equal(t.thread, pthread_self()));
    GIVES(KEEPQ_TIMEOUT, keepq_dispatch(t.q, 0));
    GIVES(KEEPQ_TIMEOUT, keepq_dispatch(t.q, 20));
    OK(keepq_close(t.q));
    assert_int_equal(t.ok, 100);
}

static void close_runs_the_callbacks_that_are_left(void **state) {
    told t = {0};
    int i;

    (void)state;
    t.q = open_at("close", NULL);
    for (i = 0; i < 50; i++) {
        send_one(&t, "t");
    }
    OK(keepq_close(t.q));
    assert_true(t.ok == 50 && t.err == 0);
    assert_true(pthread_equal(t.thread, pthread_self()));
}

static void the_descriptor_is_readable_while_callbacks_wait(void **state) {
    told t = {0};
    int fd;

    (void)state;
    t.q = open_at("fd", NULL);
    fd = keepq_fd(t.q);
    assert_true(fd >= 0 && keepq_fd(t.q) == fd);
    assert_int_equal(readable(fd, 0), 0);
    send_one(&t, "t");
    assert_int_equal(readable(fd, 60000), 1);
    assert_int_equal(t.ok, 0);
    OK(keepq_dispatch(t.q, 0));
    assert_int_equal(t.ok, 1);
    assert_int_equal(readable(fd, 0), 0);
    OK(keepq_close(t.q));
    /* Made only when something waits already, it is readable at once. */
    t.q = open_at("fd", NULL);
    send_one(&t, "t");
    OK(keepq_flush(t.q, -1));
    fd = keepq_fd(t.q);
    assert_int_equal(readable(fd, 60000), 1);
    OK(keepq_close(t.q));
    assert_int_equal(t.ok, 2);
}

static void a_group_has_a_descriptor_too(void **state) {
    keepq *q = open_at("group fd", NULL);
    keepq_group *g = group_of(q, "t", "g");
    keepq_msg *m;
    int fd = keepq_group_fd(g);

    (void)state;
    assert_true(fd >= 0 && keepq_group_fd(g) == fd);
    GIVES(KEEPQ_EMPTY, keepq_receive(g, 0, &m));
    assert_int_equal(readable(fd, 0), 0);
    send_text(q, "t", "x");
    assert_int_equal(readable(fd, 60000), 1);
    OK(keepq_receive(g, 0, &m));
    OK(keepq_ack(m));
    OK(keepq_msg_free(m));
    GIVES(KEEPQ_EMPTY, keepq_receive(g, 0, &m));
    assert_int_equal(readable(fd, 0), 0);
    OK(keepq_close(q));
    assert_int_equal(readable(fd, 60000), 1);
    OK(keepq_group_close(g));
}

/* Sends on until it has sent three. */
static void send_again(void *user, const keepq_sent *sent) {
    told *t = user;
    (void)sent;
    t->ok++;
    REFUSES(keepq_dispatch, KEEPQ_E_INVALID_ARGUMENT, (t->q, 0));
    if (t->ok < 3) {
        OK(keepq_send_async(t->q, "t", "x", 1, NULL, send_again, on_err, t));
    }
}

static void close_it(void *user, const keepq_sent *sent) {
    told *t = user;
    (void)sent;
    t->ok++;
    if (t->q != NULL) {
        keepq *q = t->q;
        t->q = NULL;
        OK(keepq_close(q));
        /* The other one was called back within. */
        assert_int_equal(t->ok, 2);
    }
}

static void a_callback_may_send_and_close(void **state) {
    told t = {0};
    keepq *q;

    (void)state;
    t.q = open_at("within", NULL);
    OK(keepq_send_async(t.q, "t", "x", 1, NULL, send_again, on_err, &t));
    while (t.ok < 3) {
        OK(keepq_dispatch(t.q, 60000));
    }
    t.ok = 0;
    q = t.q;
    OK(keepq_send_async(q, "t", "x", 1, NULL, close_it, on_err, &t));
    OK(keepq_send_async(q, "t", "x", 1, NULL, close_it, on_err, &t));
    OK(keepq_flush(q, -1));
    OK(keepq_dispatch(q, 60000));
    assert_int_equal(t.ok, 2);
    GIVES(KEEPQ_E_BAD_HANDLE, keepq_dispatch(q, 0));
}

static void *dispatch_for_ever(void *q) {
    static keepq_rc rc;
    do {
        rc = keepq_dispatch(q, -1);
    } while (rc == KEEPQ_OK);
    return &rc;
}

static void close_ends_a_dispatch_that_waits(void **state) {
    pthread_t thread;
    void *result;
    time_t end = time(NULL) + 120;
    int waited = 0;

    (void)state;
    /* Nobody can tell when it waits; so it is closed until it was closed while it did. */
    while (!waited && time(NULL) < end) {
        told t = {0};
        t.q = open_quick("waits");
        assert_int_equal(pthread_create(&thread, NULL, dispatch_for_ever, t.q), 0);
        send_one(&t, "t");
        while (__atomic_load_n(&t.ok, __ATOMIC_SEQ_CST) == 0) {
            sched_yield();
        }
        OK(keepq_close(t.q));
        assert_int_equal(pthread_join(thread, &result), 0);
        assert_int_equal(t.ok, 1);
        waited = *(keepq_rc *)result == KEEPQ_E_CLOSED;
        assert_true(waited || *(keepq_rc *)result == KEEPQ_E_BAD_HANDLE);
    }
    assert_true(waited);
    note_error("keepq_dispatch", "KEEPQ_E_CLOSED");
}

typedef struct {
    told t;
    int inside, go_on;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
} slow;

static void be_slow(void *user, const keepq_sent *sent) {
    slow *s = user;
    (void)sent;
    pthread_mutex_lock(&s->mutex);
    s->inside = 1;
    pthread_cond_broadcast(&s->changed);
    while (!s->go_on) {
        pthread_cond_wait(&s->changed, &s->mutex);
    }
    s->t.ok++;
    pthread_mutex_unlock(&s->mutex);
}

static void *dispatch_once(void *q) {
    static keepq_rc rc;
    rc = keepq_dispatch(q, -1);
    return &rc;
}

static void *close_store(void *q) {
    static keepq_rc rc;
    rc = keepq_close(q);
    return &rc;
}

/* What belongs to a callback may be freed after the close: it must have returned. */
static void close_waits_for_a_callback_that_runs_in_another_thread(void **state) {
    slow s = {{0}, 0, 0, PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER};
    pthread_t dispatcher, closer;
    void *result;

    (void)state;
    s.t.q = open_at("slow", NULL);
    OK(keepq_send_async(s.t.q, "t", "x", 1, NULL, be_slow, on_err, &s));
    assert_int_equal(pthread_create(&dispatcher, NULL, dispatch_once, s.t.q), 0);
    pthread_mutex_lock(&s.mutex);
    while (!s.inside) {
        pthread_cond_wait(&s.changed, &s.mutex);
    }
    pthread_mutex_unlock(&s.mutex);
    /* While one thread calls back, another has nothing to do. */
    GIVES(KEEPQ_TIMEOUT, keepq_dispatch(s.t.q, 20));
    send_one(&s.t, "t");
    OK(keepq_flush(s.t.q, -1));
    assert_int_equal(pthread_create(&closer, NULL, close_store, s.t.q), 0);
    while (keepq_flush(s.t.q, 0) != KEEPQ_E_BAD_HANDLE) {
    }
    pthread_mutex_lock(&s.mutex);
    assert_int_equal(s.t.ok, 0);
    s.go_on = 1;
    pthread_cond_broadcast(&s.changed);
    pthread_mutex_unlock(&s.mutex);
    assert_int_equal(pthread_join(closer, &result), 0);
    assert_int_equal(*(keepq_rc *)result, KEEPQ_OK);
    assert_int_equal(s.t.ok, 2);
    assert_int_equal(pthread_join(dispatcher, &result), 0);
    assert_int_equal(*(keepq_rc *)result, KEEPQ_OK);
}

static void a_callback_is_optional_and_a_refused_send_has_none(void **state) {
    told t = {0};

    (void)state;
    t.q = open_at("optional", NULL);
    OK(keepq_send_async(t.q, "t", "x", 1, NULL, NULL, NULL, &t));
    OK(keepq_send_async(t.q, "t", "x", 1, NULL, NULL, on_err, &t));
    OK(keepq_send_async(t.q, "t", "x", 1, NULL, on_ok, NULL, &t));
    GIVES(KEEPQ_E_INVALID_NAME, keepq_send_async(t.q, "", "x", 1, NULL, on_ok, on_err, &t));
    OK(keepq_close(t.q));
    assert_true(t.ok == 1 && t.err == 0);
}

static void one_way_sends_arrive_and_their_failures_are_counted(void **state) {
    static char large[(16 << 20) + 1];
    keepq *q = open_at("oneway", NULL);
    keepq_store_stats stats = KEEPQ_STORE_STATS_INIT;
    keepq_topic_stats topic = KEEPQ_TOPIC_STATS_INIT;
    size_t n = 0;
    int i;

    (void)state;
    for (i = 0; i < 20; i++) {
        OK(keepq_send_oneway(q, "t", "x", 1, NULL));
    }
    OK(keepq_send_oneway(q, "t", large, sizeof large, NULL));
    OK(keepq_flush(q, -1));
    OK(keepq_stats(q, &stats));
    assert_int_equal(stats.oneway_failed, 1);
    OK(keepq_topics(q, &topic, 1, &n));
    assert_true(n == 1 && topic.next_seq == 20 && strcmp(topic.name, "t") == 0);
    OK(keepq_close(q));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(callbacks_run_in_dispatch_and_nowhere_else),
        cmocka_unit_test(close_runs_the_callbacks_that_are_left),
        cmocka_unit_test(the_descriptor_is_readable_while_callbacks_wait),
        cmocka_unit_test(a_group_has_a_descriptor_too),
        cmocka_unit_test(a_callback_may_send_and_close),
        cmocka_unit_test(close_ends_a_dispatch_that_waits),
        cmocka_unit_test(close_waits_for_a_callback_that_runs_in_another_thread),
        cmocka_unit_test(a_callback_is_optional_and_a_refused_send_has_none),
        cmocka_unit_test(one_way_sends_arrive_and_their_failures_are_counted),
    };
    return cmocka_run_group_tests_name("callbacks", tests, NULL, NULL);
}
