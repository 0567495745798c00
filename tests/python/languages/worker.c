/* A worker in C for test_languages.py: worker STORE LEDGER. Notes each message in the ledger when
 * it has it and again when its ack has returned, with the time, until SIGTERM. */
#define _POSIX_C_SOURCE 200809L

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "keepq.h"

static volatile sig_atomic_t stop;

static void on_term(int number) {
    (void)number;
    stop = 1;
}

static void check(const char *what, keepq_rc rc) {
    if (rc < 0) {
        fprintf(stderr, "%s: %s: %s\n", what, keepq_strerror(rc), keepq_last_message());
        exit(1);
    }
}

/* One line in one write: a kill leaves it whole or leaves it out. */
static void note(int ledger, const char *what, const char *body) {
    char line[256];
    struct timespec now;
    int length;

    clock_gettime(CLOCK_MONOTONIC, &now);
    length = snprintf(line, sizeof line, "%s %lld %s\n", what,
                      (long long)now.tv_sec * 1000000000 + now.tv_nsec, body);
    if (write(ledger, line, (size_t)length) != length) {
        perror("ledger");
        exit(1);
    }
}

int main(int argc, char **argv) {
    struct sigaction action;
    keepq *q = NULL;
    keepq_group *group = NULL;
    int ledger;

    memset(&action, 0, sizeof action);
    action.sa_handler = on_term;
    sigaction(SIGTERM, &action, NULL);
    if (argc != 3 || (ledger = open(argv[2], O_WRONLY | O_CREAT | O_APPEND, 0600)) < 0) {
        return 2;
    }
    check("open", keepq_open(argv[1], NULL, &q));
    check("group", keepq_group_open(q, "work", "workers", NULL, &group));
    while (!stop) {
        keepq_msg *msg = NULL;
        keepq_bytes got;
        char body[64] = "";
        keepq_rc rc = keepq_receive(group, 100, &msg);

        check("receive", rc);
        if (rc != KEEPQ_OK) {
            continue;
        }
        got = keepq_msg_body(msg);
        memcpy(body, got.ptr, got.len < sizeof body ? got.len : sizeof body - 1);
        note(ledger, "got", body);
        rc = keepq_ack(msg);
        if (rc == KEEPQ_OK) {
            note(ledger, "acked", body);
        } else if (rc != KEEPQ_E_LEASE_LOST) {
            check("ack", rc);
        }
        check("free", keepq_msg_free(msg));
    }
    check("close", keepq_close(q));
    return 0;
}
