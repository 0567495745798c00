/* A worker in an event loop: epoll tells it of messages and of SIGTERM. Work that fails is tried
 * again, and in the end given up as a dead letter.
 *
 *     cc worker.c $(pkg-config --cflags --libs keepq) -o worker && ./worker shop.kq
 *
 * To have something to do it sends itself eleven jobs, and stops by SIGTERM when none is left.
 */
#define _GNU_SOURCE
#include <keepq.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

static void check(keepq_rc rc, const char *what) {
    if (rc < 0) {
        fprintf(stderr, "%s: %s\n", what, keepq_last_message());
        exit(1);
    }
}

/* Job 7 never works. */
static int work(keepq_bytes job) {
    return !(job.len == 5 && memcmp(job.ptr, "job 7", 5) == 0);
}

static int done, given_up;

/* Takes what there is. Only when there is nothing left does the descriptor become unreadable. */
static void take_all(keepq_group *jobs) {
    keepq_msg *msg;
    keepq_rc rc;

    while ((rc = keepq_receive(jobs, 0, &msg)) == KEEPQ_OK) {
        if (work(keepq_msg_body(msg))) {
            check(keepq_ack(msg), "cannot ack");
            done++;
        } else if (keepq_msg_attempt(msg) < 3) {
            check(keepq_nack(msg, 0), "cannot give back");
        } else {
            check(keepq_reject(msg, "it never works"), "cannot give up");
            given_up++;
        }
        keepq_msg_free(msg);
    }
    check(rc, "cannot receive");
}

static void send_jobs(keepq *q) {
    char body[16];
    int i;

    for (i = 0; i < 11; i++) {
        int length = snprintf(body, sizeof body, "job %d", i);
        check(keepq_send(q, "jobs", body, (size_t)length, NULL, NULL), "cannot send");
    }
}

static void watch(int loop, int fd) {
    struct epoll_event event = {0};
    event.events = EPOLLIN;
    event.data.fd = fd;
    if (fd < 0 || epoll_ctl(loop, EPOLL_CTL_ADD, fd, &event) != 0) {
        fprintf(stderr, "cannot watch a descriptor: %s\n", keepq_last_message());
        exit(1);
    }
}

int main(int argc, char **argv) {
    keepq *q;
    keepq_group *jobs;
    sigset_t stop;
    int loop, signals, messages, running = 1;

    /* Before the library starts threads, though its threads take no signal anyway. */
    sigemptyset(&stop);
    sigaddset(&stop, SIGTERM);
    sigaddset(&stop, SIGINT);
    sigprocmask(SIG_BLOCK, &stop, NULL);

    check(keepq_open(argc > 1 ? argv[1] : "shop.kq", NULL, &q), "cannot open the store");
    check(keepq_group_open(q, "jobs", "workers", NULL, &jobs), "cannot open the group");
    loop = epoll_create1(EPOLL_CLOEXEC);
    signals = signalfd(-1, &stop, SFD_CLOEXEC);
    messages = keepq_group_fd(jobs);
    watch(loop, signals);
    watch(loop, messages);
    send_jobs(q);
    while (running) {
        struct epoll_event ready[2];
        int i, n = epoll_wait(loop, ready, 2, -1);
        for (i = 0; i < n; i++) {
            if (ready[i].data.fd == messages) {
                take_all(jobs);
                if (done + given_up == 11) {
                    kill(getpid(), SIGTERM);
                }
            } else {
                running = 0;
            }
        }
    }
    printf("%d done, %d given up\n", done, given_up);
    /* The messages that it holds, none here, are given back to others at once. */
    check(keepq_group_close(jobs), "cannot close the group");
    check(keepq_close(q), "cannot close the store");
    close(signals);
    close(loop);
    return 0;
}
