/* A producer that resumes: each line of its input has a number, and a line that was sent before is
 * not stored again. Kill it whenever you like and start it again.
 *
 *     cc resume.c $(pkg-config --cflags --libs keepq) -o resume && ./resume shop.kq
 */
#include <keepq.h>
#include <stdio.h>
#include <stdlib.h>

enum { LINES = 1000, AT_ONCE = 100 };

static void check(keepq_rc rc, const char *what) {
    if (rc < 0) {
        fprintf(stderr, "%s: %s\n", what, keepq_last_message());
        exit(1);
    }
}

int main(int argc, char **argv) {
    keepq_send_opts opts[AT_ONCE];
    keepq_msg_in msgs[AT_ONCE];
    keepq_sent sent[AT_ONCE];
    char bodies[AT_ONCE][32];
    int line, i, fresh = 0;
    uint64_t next;
    keepq *q;

    check(keepq_open(argc > 1 ? argv[1] : "shop.kq", NULL, &q), "cannot open the store");
    /* From now on no other process can send as this producer. */
    check(keepq_producer_open(q, "loader", &next), "cannot open the producer");
    printf("%llu lines were there\n", (unsigned long long)next);
    /* It could begin with line `next`; that it need not is the point. */
    for (line = 0; line < LINES; line += AT_ONCE) {
        for (i = 0; i < AT_ONCE; i++) {
            keepq_send_opts one = KEEPQ_SEND_OPTS_INIT;
            keepq_msg_in msg = KEEPQ_MSG_IN_INIT;
            keepq_sent result = KEEPQ_SENT_INIT;
            one.producer = "loader";
            one.has_producer_seq = 1;
            one.producer_seq = (uint64_t)(line + i);
            msg.topic = "lines";
            msg.body = bodies[i];
            msg.len = (size_t)snprintf(bodies[i], sizeof bodies[i], "line %d", line + i);
            msg.opts = &opts[i];
            opts[i] = one;
            msgs[i] = msg;
            sent[i] = result;
        }
        /* All of them with one flush. */
        check(keepq_send_batch(q, msgs, AT_ONCE, sent), "cannot send");
        for (i = 0; i < AT_ONCE; i++) {
            fresh += !sent[i].duplicate;
        }
    }
    printf("%d lines, %d of them new\n", LINES, fresh);
    check(keepq_close(q), "cannot close the store");
    return 0;
}
