/* The C half of `cargo xtask bench --c`: as bindings/c/examples/door.rs, through keepq.h.
 *
 *     door STORE send|receive COUNT
 *
 * Prints the nanoseconds for each message. */
#define _GNU_SOURCE
#include <keepq.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BODY = 200, BETWEEN_DISPATCHES = 64 };

static void check(keepq_rc rc) {
    if (rc < 0) {
        fprintf(stderr, "%s\n", keepq_last_message());
        exit(1);
    }
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void on_ok(void *user, const keepq_sent *sent) {
    *(long *)user += sent->durable;
}

static void send_all(keepq *q, long count) {
    static char body[BODY];
    long durable = 0, i;

    for (i = 0; i < count; i++) {
        check(keepq_send_async(q, "t", body, sizeof body, NULL, on_ok, NULL, &durable));
        if (i % BETWEEN_DISPATCHES == 0) {
            check(keepq_dispatch(q, 0));
        }
    }
    while (durable < count) {
        check(keepq_dispatch(q, -1));
    }
}

/* Not inlined, so that callgrind can tell what it does. */
__attribute__((noinline)) static void receive_all(keepq_group *g, long count) {
    keepq_msg *m;
    long i;

    for (i = 0; i < count; i++) {
        check(keepq_receive(g, -1, &m));
        if (keepq_msg_body(m).len != BODY) {
            exit(1);
        }
        check(keepq_ack(m));
        check(keepq_msg_free(m));
    }
}

int main(int argc, char **argv) {
    keepq *q;
    keepq_group *g;
    double begun;
    long count;

    if (argc != 4) {
        fprintf(stderr, "usage: %s STORE send|receive COUNT\n", argv[0]);
        return 2;
    }
    count = atol(argv[3]);
    check(keepq_open(argv[1], NULL, &q));
    check(keepq_group_open(q, "t", "g", NULL, &g));
    if (strcmp(argv[2], "receive") == 0) {
        send_all(q, count);
    }
    begun = now();
    if (strcmp(argv[2], "send") == 0) {
        send_all(q, count);
    } else {
        receive_all(g, count);
    }
    printf("%.1f\n", (now() - begun) / (double)count);
    check(keepq_group_close(g));
    check(keepq_close(q));
    return 0;
}
