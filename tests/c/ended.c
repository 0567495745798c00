/* What is left of a store that was closed, in a forked child, and when it is open to look only. */
#include "check.h"

#include <sys/wait.h>
#include <unistd.h>

static void ok_callback(void *user, const keepq_sent *sent) {
    (void)user, (void)sent;
}

static void groups_and_messages_outlive_their_store(void **state) {
    keepq *q = open_quick("closed");
    keepq_group *g = group_of(q, "t", "g");
    keepq_group_opts opts = KEEPQ_GROUP_OPTS_INIT;
    keepq_group_stats stats = KEEPQ_GROUP_STATS_INIT;
    keepq_msg *m, *out = NULL;
    keepq_rc each = 0;
    size_t n;

    (void)state;
    send_text(q, "t", "still here");
    m = receive_one(g);
    OK(keepq_close(q));
    REFUSES(keepq_ack, KEEPQ_E_CLOSED, (m));
    REFUSES(keepq_nack, KEEPQ_E_CLOSED, (m, 0));
    REFUSES(keepq_reject, KEEPQ_E_CLOSED, (m, "why"));
    REFUSES(keepq_extend, KEEPQ_E_CLOSED, (m, 1000));
    REFUSES(keepq_ack_many, KEEPQ_E_CLOSED, (&m, 1, &each));
    assert_int_equal(each, KEEPQ_E_CLOSED);
    REFUSES(keepq_receive, KEEPQ_E_CLOSED, (g, 0, &out));
    REFUSES(keepq_receive_batch, KEEPQ_E_CLOSED, (g, 0, &out, 1, &n));
    REFUSES(keepq_receive_detached, KEEPQ_E_CLOSED, (g, 0, &out, 1, &n));
    opts.lease_ms = 1000;
    REFUSES(keepq_group_configure, KEEPQ_E_CLOSED, (g, &opts));
    REFUSES(keepq_group_config, KEEPQ_E_CLOSED, (g, &opts));
    REFUSES(keepq_group_fd, KEEPQ_E_CLOSED, (g));
    REFUSES(keepq_group_delete, KEEPQ_E_CLOSED, (g));
    REFUSES(keepq_dlq_browse, KEEPQ_E_CLOSED, (g, 0, &out, 1, &n));
    REFUSES(keepq_dlq_purge, KEEPQ_E_CLOSED, (g, NULL));
    REFUSES(keepq_dlq_purge_one, KEEPQ_E_CLOSED, (g, 0));
    REFUSES(keepq_group_counters, KEEPQ_E_CLOSED, (g, &stats));
    /* What was read stays, and all can be given back. */
    assert_true(body_is(m, "still here"));
    OK(keepq_group_close(g));
    OK(keepq_msg_free(m));
    /* The message was given back by the close. */
    q = open_quick("closed");
    g = group_of(q, "t", "g");
    m = receive_one(g);
    assert_int_equal(keepq_msg_attempt(m), 2);
    OK(keepq_msg_free(m));
    OK(keepq_group_close(g));
    OK(keepq_close(q));
}

/* In the child: each call on the parent's handles. */
static void calls_in_the_child(keepq *q, keepq_group *g, keepq_msg *m) {
    keepq_msg_in in = KEEPQ_MSG_IN_INIT;
    keepq_group_opts opts = KEEPQ_GROUP_OPTS_INIT;
    keepq_group_stats group_stats = KEEPQ_GROUP_STATS_INIT;
    keepq_store_stats stats = KEEPQ_STORE_STATS_INIT;
    keepq_topic_opts topic_opts = KEEPQ_TOPIC_OPTS_INIT;
    keepq_store_opts store_opts = KEEPQ_STORE_OPTS_INIT;
    keepq_group *g2 = NULL;
    keepq_msg *out = NULL;
    size_t n;

    REFUSES(keepq_flush, KEEPQ_E_FORKED_HANDLE, (q, 0));
    SAYS("open it again here");
    REFUSES(keepq_interrupt, KEEPQ_E_FORKED_HANDLE, (q));
    REFUSES(keepq_send, KEEPQ_E_FORKED_HANDLE, (q, "t", "x", 1, NULL, NULL));
    REFUSES(keepq_send_async, KEEPQ_E_FORKED_HANDLE,
            (q, "t", "x", 1, NULL, ok_callback, NULL, NULL));
    REFUSES(keepq_send_oneway, KEEPQ_E_FORKED_HANDLE, (q, "t", "x", 1, NULL));
    in.topic = "t";
    REFUSES(keepq_send_batch, KEEPQ_E_FORKED_HANDLE, (q, &in, 1, NULL));
    REFUSES(keepq_producer_open, KEEPQ_E_FORKED_HANDLE, (q, "p", NULL));
    REFUSES(keepq_fd, KEEPQ_E_FORKED_HANDLE, (q));
    REFUSES(keepq_dispatch, KEEPQ_E_FORKED_HANDLE, (q, 0));
    REFUSES(keepq_group_open, KEEPQ_E_FORKED_HANDLE, (q, "t", "g", NULL, &g2));
    REFUSES(keepq_ack_receipt, KEEPQ_E_FORKED_HANDLE, (q, "r"));
    REFUSES(keepq_nack_receipt, KEEPQ_E_FORKED_HANDLE, (q, "r", 0));
    REFUSES(keepq_reject_receipt, KEEPQ_E_FORKED_HANDLE, (q, "r", "why"));
    REFUSES(keepq_extend_receipt, KEEPQ_E_FORKED_HANDLE, (q, "r", 1));
    REFUSES(keepq_topic_create, KEEPQ_E_FORKED_HANDLE, (q, "t", NULL));
    REFUSES(keepq_topic_configure, KEEPQ_E_FORKED_HANDLE, (q, "t", &topic_opts));
    REFUSES(keepq_topic_config, KEEPQ_E_FORKED_HANDLE, (q, "t", &topic_opts));
    REFUSES(keepq_configure, KEEPQ_E_FORKED_HANDLE, (q, &store_opts));
    REFUSES(keepq_config, KEEPQ_E_FORKED_HANDLE, (q, &store_opts));
    REFUSES(keepq_topic_purge, KEEPQ_E_FORKED_HANDLE, (q, "t", NULL));
    REFUSES(keepq_topic_delete, KEEPQ_E_FORKED_HANDLE, (q, "t"));
    REFUSES(keepq_browse, KEEPQ_E_FORKED_HANDLE, (q, "t", 0, &out, 1, &n));
    REFUSES(keepq_stats, KEEPQ_E_FORKED_HANDLE, (q, &stats));
    REFUSES(keepq_topics, KEEPQ_E_FORKED_HANDLE, (q, NULL, 0, &n));
    REFUSES(keepq_groups, KEEPQ_E_FORKED_HANDLE, (q, NULL, 0, &n));
    REFUSES(keepq_verify, KEEPQ_E_FORKED_HANDLE, (q, NULL, NULL, 0));

    opts.lease_ms = 1000;
    REFUSES(keepq_group_configure, KEEPQ_E_FORKED_HANDLE, (g, &opts));
    REFUSES(keepq_group_config, KEEPQ_E_FORKED_HANDLE, (g, &opts));
    REFUSES(keepq_group_fd, KEEPQ_E_FORKED_HANDLE, (g));
    REFUSES(keepq_group_delete, KEEPQ_E_FORKED_HANDLE, (g));
    REFUSES(keepq_receive, KEEPQ_E_FORKED_HANDLE, (g, 0, &out));
    REFUSES(keepq_receive_batch, KEEPQ_E_FORKED_HANDLE, (g, 0, &out, 1, &n));
    REFUSES(keepq_receive_detached, KEEPQ_E_FORKED_HANDLE, (g, 0, &out, 1, &n));
    REFUSES(keepq_dlq_browse, KEEPQ_E_FORKED_HANDLE, (g, 0, &out, 1, &n));
    REFUSES(keepq_dlq_purge, KEEPQ_E_FORKED_HANDLE, (g, NULL));
    REFUSES(keepq_dlq_purge_one, KEEPQ_E_FORKED_HANDLE, (g, 0));
    REFUSES(keepq_group_counters, KEEPQ_E_FORKED_HANDLE, (g, &group_stats));

    REFUSES(keepq_ack, KEEPQ_E_FORKED_HANDLE, (m));
    REFUSES(keepq_nack, KEEPQ_E_FORKED_HANDLE, (m, 0));
    REFUSES(keepq_reject, KEEPQ_E_FORKED_HANDLE, (m, "why"));
    REFUSES(keepq_extend, KEEPQ_E_FORKED_HANDLE, (m, 1));
    REFUSES(keepq_ack_many, KEEPQ_E_FORKED_HANDLE, (&m, 1, NULL));
    assert_true(body_is(m, "of the parent"));

    /* It can use the store through handles of its own, and forget the others. */
    OK(keepq_msg_free(m));
    OK(keepq_group_close(g));
    OK(keepq_close(q));
    REFUSES(keepq_close, KEEPQ_E_BAD_HANDLE, (q));
}

static void child_of_fork(keepq *q, keepq_group *g, keepq_msg *m) {
    keepq *own = NULL;
    keepq_group *other = NULL;
    keepq_msg *mine = NULL;

    calls_in_the_child(q, g, m);
    own = open_quick("forked");
    other = group_of(own, "child", "g");
    send_text(own, "child", "sent by the child");
    mine = receive_one(other);
    OK(keepq_ack(mine));
    OK(keepq_msg_free(mine));
    OK(keepq_group_close(other));
    OK(keepq_close(own));
}

/* A failed check in the child must not run the parent's tests again: it ends with its result. */
static int run_in_child(void (*work)(keepq *, keepq_group *, keepq_msg *), keepq *q,
                        keepq_group *g, keepq_msg *m) {
    int status = -1;
    pid_t child = fork();

    assert_true(child >= 0);
    if (child == 0) {
        /* A check that fails jumps out of the test: to be told from success by this. */
        alarm(200);
        work(q, g, m);
        /* Another program: in this one valgrind takes what the parent's threads have for leaks. */
        execl("/bin/sh", "sh", "-c", "exit 42", (char *)NULL);
        _exit(1);
    }
    assert_true(waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void a_forked_child_has_no_part_in_the_handles_of_its_parent(void **state) {
    keepq *q = open_quick("forked");
    keepq_group *g = group_of(q, "t", "g");
    keepq_msg *m;

    (void)state;
    send_text(q, "t", "of the parent");
    m = receive_one(g);
    assert_true(keepq_group_fd(g) >= 0 && keepq_fd(q) >= 0);
    assert_int_equal(run_in_child(child_of_fork, q, g, m), 42);
    /* The parent's are what they were. */
    OK(keepq_ack(m));
    OK(keepq_msg_free(m));
    send_text(q, "t", "again");
    m = receive_one(g);
    OK(keepq_ack(m));
    OK(keepq_msg_free(m));
    OK(keepq_group_close(g));
    OK(keepq_close(q));
}

static void a_store_open_for_reading_changes_nothing(void **state) {
    keepq *writer = open_quick("read"), *q;
    keepq_group *g = group_of(writer, "t", "g");
    keepq_open_opts open = KEEPQ_OPEN_OPTS_INIT;
    keepq_group_opts opts = KEEPQ_GROUP_OPTS_INIT;
    keepq_topic_opts topic_opts = KEEPQ_TOPIC_OPTS_INIT;
    keepq_store_opts store_opts = KEEPQ_STORE_OPTS_INIT;
    keepq_msg_in in = KEEPQ_MSG_IN_INIT;
    keepq_msg *m, *out = NULL;
    const char *receipt;
    size_t n;

    (void)state;
    send_text(writer, "t", "x");
    send_text(writer, "t", "y");
    m = receive_one(g);
    receipt = keepq_msg_receipt(m);
    open.read_only = 1;
    q = open_at("read", &open);
    OK(keepq_group_close(g));
    g = group_of(q, "t", "g");
    in.topic = "t";
    REFUSES(keepq_flush, KEEPQ_E_READ_ONLY, (q, 0));
    REFUSES(keepq_send, KEEPQ_E_READ_ONLY, (q, "t", "x", 1, NULL, NULL));
    REFUSES(keepq_send_async, KEEPQ_E_READ_ONLY, (q, "t", "x", 1, NULL, NULL, NULL, NULL));
    REFUSES(keepq_send_batch, KEEPQ_E_READ_ONLY, (q, &in, 1, NULL));
    REFUSES(keepq_producer_open, KEEPQ_E_READ_ONLY, (q, "p", NULL));
    REFUSES(keepq_receive, KEEPQ_E_READ_ONLY, (g, 0, &out));
    REFUSES(keepq_receive_batch, KEEPQ_E_READ_ONLY, (g, 0, &out, 1, &n));
    REFUSES(keepq_receive_detached, KEEPQ_E_READ_ONLY, (g, 0, &out, 1, &n));
    opts.lease_ms = 1000;
    REFUSES(keepq_group_configure, KEEPQ_E_READ_ONLY, (g, &opts));
    REFUSES(keepq_ack_receipt, KEEPQ_E_READ_ONLY, (q, receipt));
    REFUSES(keepq_nack_receipt, KEEPQ_E_READ_ONLY, (q, receipt, 0));
    REFUSES(keepq_reject_receipt, KEEPQ_E_READ_ONLY, (q, receipt, "why"));
    REFUSES(keepq_extend_receipt, KEEPQ_E_READ_ONLY, (q, receipt, 1));
    topic_opts.max_messages = store_opts.max_bytes = 1000;
    REFUSES(keepq_topic_configure, KEEPQ_E_READ_ONLY, (q, "t", &topic_opts));
    REFUSES(keepq_configure, KEEPQ_E_READ_ONLY, (q, &store_opts));
    OK(keepq_topic_create(q, "t", NULL));
    GIVES(KEEPQ_E_CONFIG_MISMATCH, keepq_topic_create(q, "t", &topic_opts));
    REFUSES(keepq_topic_create, KEEPQ_E_NOT_FOUND, (q, "not-there", NULL));
    OK(keepq_topic_config(q, "t", &topic_opts));
    OK(keepq_config(q, &store_opts));
    assert_true(topic_opts.max_messages == -1 && store_opts.max_bytes == -1);
    REFUSES(keepq_topic_purge, KEEPQ_E_READ_ONLY, (q, "t", NULL));
    REFUSES(keepq_topic_delete, KEEPQ_E_READ_ONLY, (q, "t"));
    REFUSES(keepq_group_delete, KEEPQ_E_READ_ONLY, (g));
    OK(keepq_reject(m, "no good"));
    REFUSES(keepq_dlq_purge, KEEPQ_E_READ_ONLY, (g, NULL));
    REFUSES(keepq_dlq_purge_one, KEEPQ_E_READ_ONLY, (g, 0));
    OK(keepq_browse(q, "t", 1, &out, 1, &n));
    assert_true(n == 1 && body_is(out, "y"));
    OK(keepq_msg_free(out));
    OK(keepq_msg_free(m));
    OK(keepq_group_close(g));
    OK(keepq_close(q));
    OK(keepq_close(writer));
}

/* exec: the new program has none of the descriptors, and the parent's lock shows it as alive. */
static void exec_closes_everything(void **state) {
    keepq *q = open_quick("exec");
    keepq_group *g = group_of(q, "t", "g");
    char text[64];
    int fds[2], status = -1;
    pid_t child;

    (void)state;
    fds[0] = keepq_fd(q);
    fds[1] = keepq_group_fd(g);
    assert_true(fds[0] >= 0 && fds[1] >= 0);
    snprintf(text, sizeof text, "test ! -e /proc/self/fd/%d -a ! -e /proc/self/fd/%d", fds[0],
             fds[1]);
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        execl("/bin/sh", "sh", "-c", text, (char *)NULL);
        _exit(1);
    }
    assert_true(waitpid(child, &status, 0) == child && WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    send_text(q, "t", "x");
    OK(keepq_group_close(g));
    OK(keepq_close(q));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(groups_and_messages_outlive_their_store),
        cmocka_unit_test(a_forked_child_has_no_part_in_the_handles_of_its_parent),
        cmocka_unit_test(a_store_open_for_reading_changes_nothing),
        cmocka_unit_test(exec_closes_everything),
    };
    return cmocka_run_group_tests_name("ended", tests, NULL, NULL);
}
