/* A disk that fails or is slow, by a filter that the kernel applies to this process's fdatasync:
 * what the calls say, and that nothing confirmed is lost. Each test runs in a process of its own,
 * as a filter stays for ever. */
#include "check.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* From now on fdatasync of every thread gives this action. What seccomp returns. */
static int filter_fdatasync(unsigned int action, unsigned int flags) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fdatasync, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {4, code};

    code[2].k = action;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
        return -1;
    }
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}

static void on_err(void *user, const keepq_error_info *error) {
    keepq_error_info *kept = user;
    *kept = *error;
}

/* No flush works any more: the store is FAILED, and says so of everything that writes. */
static void a_disk_that_fails(void) {
    keepq *q = open_at("fails", NULL);
    keepq_group *g = group_of(q, "t", "g");
    keepq_error_info told = KEEPQ_ERROR_INFO_INIT;
    keepq_sent sent = KEEPQ_SENT_INIT;
    keepq_msg *m;
    keepq_rc rc;

    send_text(q, "t", "confirmed");
    m = receive_one(g);
    assert_int_equal(
        filter_fdatasync(SECCOMP_RET_ERRNO | EIO, SECCOMP_FILTER_FLAG_TSYNC), 0);
    OK(keepq_send_async(q, "t", "in doubt", 8, NULL, NULL, on_err, &told));
    rc = keepq_send(q, "t", "x", 1, NULL, &sent);
    assert_true(rc == KEEPQ_E_FAILED || rc == KEEPQ_E_STORAGE);
    assert_true(sent.rc == rc && sent.status == KEEPQ_SEND_FAILED);
    assert_true(sent.outcome == KEEPQ_OUTCOME_MAYBE_STORED);
    REFUSES(keepq_flush, KEEPQ_E_FAILED, (q, 60000));
    GIVES(KEEPQ_E_FAILED, keepq_send(q, "t", "x", 1, NULL, &sent));
    assert_int_equal(sent.outcome, KEEPQ_OUTCOME_NOT_STORED);
    assert_true(keepq_close(q) < 0);
    assert_true(told.rc < 0 && told.outcome == KEEPQ_OUTCOME_MAYBE_STORED);
    OK(keepq_group_close(g));
    OK(keepq_msg_free(m));
}

/* A thread whose fdatasync the kernel asks about, and what it has come to. */
static struct {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    int listener; /* -2 = not there yet */
    int asked;
    keepq *q;
    keepq_rc rc;
} leader = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, -2, 0, NULL, 1};

static void *lead_a_flush(void *unused) {
    pthread_mutex_lock(&leader.mutex);
    leader.listener = filter_fdatasync(SECCOMP_RET_USER_NOTIF, SECCOMP_FILTER_FLAG_NEW_LISTENER);
    pthread_cond_broadcast(&leader.changed);
    pthread_mutex_unlock(&leader.mutex);
    if (leader.listener >= 0) {
        leader.rc = keepq_send(leader.q, "t", "leads", 5, NULL, NULL);
    }
    return unused;
}

/* Lets its fdatasync go on, which is held since it was asked about. */
static void go_on(struct seccomp_notif *asked) {
    struct seccomp_notif_resp reply;

    memset(&reply, 0, sizeof reply);
    reply.id = asked->id;
    reply.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
    assert_int_equal(ioctl(leader.listener, SECCOMP_IOCTL_NOTIF_SEND, &reply), 0);
}

/* Should that thread sync again. It ends with the process. */
static void *answer_all(void *unused) {
    for (;;) {
        struct seccomp_notif asked;
        memset(&asked, 0, sizeof asked);
        if (ioctl(leader.listener, SECCOMP_IOCTL_NOTIF_RECV, &asked) != 0) {
            return unused;
        }
        go_on(&asked);
    }
}

/* The flush does not come in time: stored, in doubt until it does. */
static void a_disk_that_is_slow(void) {
    keepq_group_opts opts = KEEPQ_GROUP_OPTS_INIT;
    keepq_send_opts send = KEEPQ_SEND_OPTS_INIT;
    keepq_error_info told = KEEPQ_ERROR_INFO_INIT;
    keepq_sent sent = KEEPQ_SENT_INIT;
    struct seccomp_notif asked;
    pthread_t thread, answering;
    keepq_group *g;
    keepq_msg *m;
    keepq *q;

    q = leader.q = open_at("slow", NULL);
    g = group_of(q, "t", "g");
    opts.ack_flush = KEEPQ_FLUSH_SYNC;
    OK(keepq_group_configure(g, &opts));
    send_text(q, "t", "confirmed");
    m = receive_one(g);
    assert_int_equal(pthread_create(&thread, NULL, lead_a_flush, NULL), 0);
    pthread_mutex_lock(&leader.mutex);
    while (leader.listener == -2) {
        pthread_cond_wait(&leader.changed, &leader.mutex);
    }
    pthread_mutex_unlock(&leader.mutex);
    assert_true(leader.listener >= 0);
    memset(&asked, 0, sizeof asked);
    assert_int_equal(ioctl(leader.listener, SECCOMP_IOCTL_NOTIF_RECV, &asked), 0);
    /* It leads the flush and is held in it. */
    send.timeout_ms = 100;
    REFUSES(keepq_send, KEEPQ_E_FLUSH_TIMEOUT, (q, "t", "late", 4, &send, &sent));
    assert_true(sent.status == KEEPQ_SEND_FLUSH_DISK_TIMEOUT && sent.rc == KEEPQ_E_FLUSH_TIMEOUT);
    assert_true(sent.outcome == KEEPQ_OUTCOME_MAYBE_STORED && sent.durable == 0);
    OK(keepq_last_error(&told));
    assert_int_equal(told.retriable, 1);
    GIVES(KEEPQ_TIMEOUT, keepq_flush(q, 50));
    /* Done, but not known to be on disk within the time of a send, three seconds. */
    REFUSES(keepq_ack, KEEPQ_E_FLUSH_TIMEOUT, (m));
    go_on(&asked);
    assert_int_equal(pthread_create(&answering, NULL, answer_all, NULL), 0);
    OK(keepq_flush(q, -1));
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_true(leader.rc == KEEPQ_OK || leader.rc == KEEPQ_E_FLUSH_TIMEOUT);
    OK(keepq_msg_free(m));
    m = receive_one(g);
    assert_true(body_is(m, "leads"));
    OK(keepq_ack(m));
    OK(keepq_msg_free(m));
    m = receive_one(g);
    assert_true(body_is(m, "late"));
    OK(keepq_ack(m));
    OK(keepq_msg_free(m));
    OK(keepq_group_close(g));
    OK(keepq_close(q));
}

/* A failed check ends the child otherwise than with 42. */
static void in_a_process_of_its_own(void (*work)(void)) {
    int status = -1;
    pid_t child;

    place("made before the fork");
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        alarm(200);
        work();
        _exit(42);
    }
    assert_true(waitpid(child, &status, 0) == child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 42);
}

static void a_failing_disk_fails_the_store_and_loses_nothing_confirmed(void **state) {
    keepq *q;
    keepq_group *g;
    keepq_msg *m;

    (void)state;
    in_a_process_of_its_own(a_disk_that_fails);
    /* Opened again when nobody has it: what was confirmed is there. */
    q = open_at("fails", NULL);
    g = group_of(q, "t", "g");
    m = receive_one(g);
    assert_true(body_is(m, "confirmed"));
    OK(keepq_ack(m));
    OK(keepq_msg_free(m));
    OK(keepq_group_close(g));
    OK(keepq_close(q));
}

static void a_slow_disk_leaves_a_send_in_doubt_until_it_is_flushed(void **state) {
    (void)state;
    in_a_process_of_its_own(a_disk_that_is_slow);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_failing_disk_fails_the_store_and_loses_nothing_confirmed),
        cmocka_unit_test(a_slow_disk_leaves_a_send_in_doubt_until_it_is_flushed),
    };
    return cmocka_run_group_tests_name("faults", tests, NULL, NULL);
}
